"""What partners' data is worth, as the command line shows it."""

from typing import TYPE_CHECKING

from vfl.learn.worth import WORTH_HEADS, Measure
from vfl.protocols.worth import in_order
from vfl.report.worth import NAMES, figure_words, match_rate, match_words
from vfl.terminal.results import account_document, cost
from vfl.terminal.sheets import Sheet, put_sheet
from vfl.terminal.streams import stdout
from vfl.text import counted

if TYPE_CHECKING:
    from vfl.jobs.worth import Worth


def put_worth(done: "Worth") -> None:
    """A line a model and a line a difference, and what they let one say."""
    of, told = done.of, done.of.told
    beside = {
        "model": "",
        "added": f", added to {of.guest} alone",
        "left_out": ", added to all the others",
    }
    lines: dict[str, dict[Measure, str]] = {}
    for one in in_order(told.figures):
        value, interval = figure_words(one)
        line = lines.setdefault(f"{of.name(one)}{beside[one.sense]}", {})
        line[one.measure] = f"{value} ({interval})" if one.low is not None else value
    heads = ["columns of", *(NAMES[measure][0] for measure in of.measures)]
    rows = [[name, *(line.get(one, "") for one in of.measures)] for name, line in lines.items()]
    title = f"trained on {counted(told.train, 'row')}, compared on {told.held_out:,}; 95 % in brackets"
    stdout.put(f"matched: {match_words(told)}".replace("\u00a0", " "))
    put_sheet(Sheet(heads, rows, title, frozenset(heads[1:])))
    for text in of.verdicts:
        stdout.put(text)
    stdout.put(f"page in {done.page}{', in place of an earlier one' if done.replaced else ''}")
    stdout.put(cost(done.account))


def worth_document(done: "Worth") -> dict[str, object]:
    """The same for the JSON."""
    told = done.of.told
    rows = {name: getattr(told, name) for name in ("table", "aligned", "train", "held_out")}
    return {
        "job": done.of.job,
        "alignment": done.alignment,
        "guest": done.of.guest,
        "hosts": list(done.of.hosts),
        "rows": rows,
        "match_rate": match_rate(told),
        "policies": told.policies,
        "figures": [dict(zip(WORTH_HEADS, line, strict=True)) for line in done.of.lines],
        "says": done.of.verdicts,
        "page": str(done.page),
        **account_document(done.account),
    }
