"""The page that says what each partner's data is worth, the same for all parties."""

from vfl.learn.bootstrap import LEVEL
from vfl.learn.worth import WORTH_HEADS, Measure, Sense
from vfl.protocols.worth import in_order
from vfl.report import figures, words
from vfl.report.blocks import (
    DataTable,
    Facts,
    Gallery,
    Note,
    PageBlock,
    PageSection,
    TableCell,
    Tile,
    Tiles,
)
from vfl.report.page import PageHead, csv_of, write_page
from vfl.report.sections import figure_of
from vfl.report.words import listed, share
from vfl.report.worth import (
    NAMES,
    WORTH_PAGE,
    WorthOf,
    figure_words,
    match_rate,
    match_words,
)
from vfl.text import counted

_CAPTIONS: dict[Sense, str] = {
    "added": "Added to the guest alone",
    "left_out": "Added to all the others",
}


def worth_files(of: WorthOf) -> dict[str, bytes]:
    """The page and its table, by name."""
    head = PageHead(
        title=f"What data is worth to {of.job}",
        over=f"Page of {of.party}",
        purpose=of.purpose,
        ended=of.ended,
        party=of.party,
        version=of.version,
        about="no model was kept",
    )
    return {
        WORTH_PAGE: write_page(head, _sections(of)).encode(),
        of.sheet: csv_of([WORTH_HEADS, *of.lines]),
    }


def _sections(of: WorthOf) -> list[PageSection]:
    told = of.told
    policies = counted(told.policies, "policy", "policies")
    lead = (
        f"What the columns of {listed(of.hosts)} add to those of {of.guest}: models with and without "
        "them were trained on the same rows and compared on others that trained none. No party keeps a "
        "part of any of these models, and no column, coefficient or row's score is on this page."
    )
    facts = Facts(
        [
            ("guest", of.guest),
            ("hosts", listed(of.hosts)),
            ("purpose", of.purpose),
            ("kind of model", of.kind),
            ("ended", words.day(of.ended)),
        ]
    )
    tiles = Tiles(
        [
            Tile("Matched", share(match_rate(told)), match_words(told)),
            Tile("Trained on", f"{told.train:,}", "rows"),
            Tile("Compared on", f"{told.held_out:,}", f"rows of {policies}"),
        ]
    )
    sure = (
        f"Intervals are of {100 * LEVEL:.0f} %: the middle of what {told.draws} draws of the policies "
        "held out, with replacement, come to. They are of these models: how far training on other rows "
        "would move them is not in them. Rows match that all parties know, so that one rate is of all."
    )
    return [
        PageSection("asked", "What was asked", [lead], [facts]),
        PageSection("worth", "What each adds", of.verdicts, [tiles, *_gains(of), Note(sure)]),
        PageSection("models", "The models", [], _models(of)),
    ]


def _gains(of: WorthOf) -> list[PageBlock]:
    """What each host adds, beside the guest alone and beside all others."""
    senses = {one.sense for one in of.told.figures}
    return [_table(of, s, caption, "partner") for s, caption in _CAPTIONS.items() if s in senses]


def _models(of: WorthOf) -> list[PageBlock]:
    drawn = []
    for measure in of.measures:
        found = [
            one for one in in_order(of.told.figures) if (one.sense, one.measure) == ("model", measure)
        ]
        name, meaning = NAMES[measure]
        message = f"{name}: {meaning}."
        svg = figures.bars([(of.name(one), one.value) for one in found], name, message)
        drawn.append(figure_of(name, message, svg, of.sheet))
    return [Gallery(drawn), _table(of, "model", "Figures of all models", "columns of")]


def _table(of: WorthOf, sense: Sense, caption: str, first: str) -> DataTable:
    by_name: dict[str, dict[Measure, TableCell]] = {}
    for one in in_order(of.told.figures):
        if one.sense == sense:
            by_name.setdefault(of.name(one), {})[one.measure] = figure_words(one)
    rows: list[list[TableCell]] = [
        [name, *(cells.get(measure, words.DASH) for measure in of.measures)]
        for name, cells in by_name.items()
    ]
    head = [first, *(f"{NAMES[measure][0]}, 95 %" for measure in of.measures)]
    return DataTable(caption, head, rows, sheet=of.sheet)
