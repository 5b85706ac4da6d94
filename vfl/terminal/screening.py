"""What came of a screening, as the command line shows it."""

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

from vfl.jobs.screening_advice import CORRELATED, EVIDENCE, correlation_rows, evidence_rows
from vfl.report.screen_page import CorrelatedTable, ScreenPage
from vfl.report.words import listed
from vfl.terminal.results import cost
from vfl.terminal.sheets import Sheet, SheetCell, put_sheet
from vfl.terminal.streams import stdout
from vfl.text import counted
from vfl.version import __version__

if TYPE_CHECKING:
    from vfl.jobs.screening import Screening
    from vfl.learn.screening import Strength
    from vfl.protocols.linear.correlations import Told

HEADS = ("party", "column", "levels", "IV", "deviance", "VIF", "advice")
_VIF = ("vif", "vif_least", "vif_most")
_NUMBERS = frozenset(HEADS[2:6])
_WIDEST = 12  # columns of a table on a terminal


def put_screening(party: str, done: "Screening") -> None:
    """A line a column, the strongest first, and lines for the party file."""
    title = f"columns by themselves: {counted(done.rows, 'row')} that train for {done.job}"
    put_sheet(Sheet([*HEADS], [cells for _, cells in sorted(_lines(party, done))], title, _NUMBERS))
    for table in done.correlations:
        _put_correlations(table)
    for note in _notes(done):
        stdout.put(f"note: {note}")
    if done.lines:
        stdout.put(f"to leave out what is advised, in [data] of {party}'s party file:")
        for line in done.lines:
            stdout.put(line)
    stdout.put(cost(done.account))


def screening_document(party: str, done: "Screening") -> dict[str, object]:
    """The same for programs. What has no bound is "infinite"."""
    own = [
        {
            **_figures(party, one.name, one.strength),
            **{
                name: "infinite" if figure == math.inf else figure
                for name, figure in zip(_VIF, one.vif, strict=True)
            },
            "advice": one.advice,
            "note": one.note or None,
        }
        for one in done.own.columns
    ]
    theirs = [
        _figures(name, column.name, column.strength) | {"levels": column.cells}
        for name, host in done.hosts.items()
        for column in host.columns
    ]
    return {
        "job": done.job,
        "rows": done.rows,
        "own": own,
        "hosts": theirs,
        "correlations": [
            dict(zip(CORRELATED, row, strict=True)) for row in correlation_rows(done.correlations)
        ],
        "party_file": done.lines,
        "encryption": {name: host.encryption for name, host in done.hosts.items()},
        "min_cell_rows": {name: host.least for name, host in done.hosts.items()},
        "alignment": done.alignment,
    }


def evidence_of(party: str, done: "Screening") -> list[tuple[str | float | None, ...]]:
    """A row a level of each column whose table is known here, the heads first."""
    found: list[tuple[str | float | None, ...]] = [("party", *EVIDENCE)]
    tables = {party: done.own_tables} | {name: host.columns for name, host in done.hosts.items()}
    for name, of_party in tables.items():
        found += [(name, *row) for row in evidence_rows(of_party)[1:]]
    return found


def _put_correlations(table: "Told") -> None:
    """A line a column of the first party's; of many columns the page and `--json` have them."""
    if len(table.columns) > _WIDEST:
        stdout.put(
            f"note: correlations of {table.of} and {table.other} are in what --page or --json gives"
        )
        return
    most = max((error for row in table.errors for error in row), default=0)
    lines: list[list[SheetCell]] = [
        [name, *(f"{figure / 100:.2f}" for figure in figures)]
        for name, figures in zip(table.rows, table.figures, strict=True)
    ]
    title = f"correlations of {table.of} (rows) and {table.other}, within {most / 100:.2f}"
    stdout.put("")
    put_sheet(Sheet([table.of, *table.columns], lines, title, frozenset(table.columns)))


def page_of(party: str, purpose: str, done: "Screening") -> ScreenPage:
    """What the page of a screening says."""
    lines = [[str(cell) for cell in cells] for _, cells in sorted(_lines(party, done))]
    document = screening_document(party, done)
    columns = [*_columns_of(document["own"]), *_columns_of(document["hosts"])]
    heads = ("party", "column", "information_value", "deviance_explained", *_VIF, "advice")
    return ScreenPage(
        party,
        [*done.hosts],
        done.job,
        purpose,
        datetime.now(UTC).isoformat(timespec="seconds"),
        __version__,
        done.rows,
        HEADS,
        lines,
        _notes(done),
        [
            CorrelatedTable(one.of, one.other, one.rows, one.columns, one.figures, one.errors)
            for one in done.correlations
        ],
        [heads, *(tuple(one.get(name) for name in heads) for one in columns)],
        [CORRELATED, *correlation_rows(done.correlations)],
    )


def _columns_of(lines: object) -> list[dict[str, str | float | None]]:
    return cast(list[dict[str, str | float | None]], lines)


def _figures(party: str, column: str, strength: "Strength") -> dict[str, object]:
    return {
        "party": party,
        "column": column,
        "information_value": strength.information,
        "deviance_explained": strength.share,
    }


def _lines(party: str, done: "Screening") -> list[tuple[tuple[float, str, str], list[SheetCell]]]:
    cells = {one.name: one.cells for one in done.own_tables}
    found: list[tuple[tuple[float, str, str], list[SheetCell]]] = []
    for one in done.own.columns:
        vif = "" if one.inflation is None else one.inflation.said
        line: list[SheetCell] = [
            party,
            one.name,
            cells.get(one.name, ""),
            *_shown(one.strength),
            vif,
            one.advice or "",
        ]
        found.append((_order(party, one.name, one.strength), line))
    for name, host in done.hosts.items():
        for column in host.columns:
            own = "theirs" if done.inflation else ""
            line = [name, column.name, column.cells, *_shown(column.strength), own, ""]
            found.append((_order(name, column.name, column.strength), line))
    return found


def _order(party: str, column: str, strength: "Strength") -> tuple[float, str, str]:
    return -(strength.share or 0.0), party, column


def _shown(strength: "Strength") -> tuple[str, str]:
    iv, share = strength.information, strength.share
    return "" if iv is None else f"{iv:.4f}", "" if share is None else f"{share:.2%}"


def _notes(done: "Screening") -> list[str]:
    notes = [f"{one.name} has no VIF: {one.note}" for one in done.own.columns if one.note]
    found = [one for one in (column.inflation for column in done.own.columns) if one is not None]
    if any(one.value == math.inf for one in found):
        notes.append("a VIF without bound is of a column that others here make up: leave it out")
    if any(one.value < one.most == math.inf for one in found):
        notes.append(
            f"a VIF of at least a number: columns of {listed(done.alike or ['other parties'])} may make "
            "the column up, as far as noise lets that be seen: leave it out here, or there"
        )
    if any(one.doubt for one in found):
        notes.append("hosts add noise to what VIFs come from: 95 of 100 are within what is after ±")
    if done.inflation:
        notes.append("what a host's columns are inflated by only the host knows")
    return notes
