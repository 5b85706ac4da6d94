"""The page that shows what a party's columns add in a model of trees of depth 1 or 2."""

from dataclasses import dataclass

from vfl.arrays import Floats
from vfl.models.halves import Change
from vfl.models.shapes import MISSING, OwnShapes, Shape
from vfl.report import figures
from vfl.report.blocks import (
    DataTable,
    Facts,
    FigureBlock,
    Gallery,
    Note,
    PageBlock,
    PageSection,
    TableCell,
)
from vfl.report.page import PageHead, write_page
from vfl.report.sections import figure_of
from vfl.report.words import number

_MOST = 60  # columns that are drawn
_MARGIN = 0.08  # of the width of a figure, beyond the last edges


@dataclass(frozen=True)
class ShapesOf:
    """What the page is about. centre: the score of the mean row, None where it is not known."""

    party: str
    model: str
    job: str
    purpose: str
    ended: str  # ISO 8601, UTC
    version: str  # of vfl
    own: OwnShapes
    sheet: str  # the name of the table of shapes
    pairs_sheet: str
    centre: float | None = None
    elsewhere: int = 0
    changes: tuple[Change, ...] = ()


def shapes_page(of: ShapesOf) -> bytes:
    """The page."""
    head = PageHead(
        title=of.job,
        over=f"Shapes of the columns of {of.party}",
        purpose=of.purpose,
        ended=of.ended,
        party=of.party,
        version=of.version,
        about=f"model {of.model}",
    )
    return write_page(head, _sections(of)).encode()


def _sections(of: ShapesOf) -> list[PageSection]:
    lead = (
        "Each tree of the model has one level of splits or two, so that a row's score is a sum: of what "
        "each column adds at its value, of what pairs of columns add, and of a constant. The figures "
        f"show what the columns of {of.party} add, beside the mean of the rows that trained."
    )
    facts = [("model", of.model)]
    if of.centre is not None:
        facts.append(("score of the mean row", number(of.centre, 6)))
        facts.append(("splits of hosts' columns, or of pairs with them", f"{of.elsewhere:,}"))
    widest = max((abs(float(v)) for one in of.own.shapes for v in one.values), default=0.0)
    drawn = [_figure(one, (-widest, widest), of.sheet) for one in _by_size(of.own)[:_MOST]]
    blocks: list[PageBlock] = [Facts(facts)]
    blocks += [Gallery(drawn)] if drawn else [Note(f"No split is of a column of {of.party} alone.")]
    sections = [PageSection("shapes", "Shapes", [lead], blocks)]
    if of.own.pairs:
        rows: list[list[TableCell]] = [
            [
                pair.first.column,
                pair.second.column,
                *(number(end, 4) for end in _ends(pair.values)),
            ]
            for pair in of.own.pairs
        ]
        table = DataTable(
            "What pairs add, at least and at most",
            ["first", "second", "least", "most"],
            rows,
            text=2,
            sheet=of.pairs_sheet,
        )
        sections.append(PageSection("pairs", "Pairs of columns", [], [table]))
    if of.changes:
        log: list[list[TableCell]] = [
            [one.column, one.level, number(one.before, 6), number(one.after, 6), one.reason]
            for one in of.changes
        ]
        head = ["column", "place", "before", "after", "reason"]
        told = DataTable("What was changed by hand", head, log, text=2)
        sections.append(PageSection("changes", "Changes", [], [told]))
    return sections


def _ends(values: Floats) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _by_size(own: OwnShapes) -> list[Shape]:
    """Shapes, those that go farthest first."""
    return sorted(own.shapes, key=lambda one: float(one.values.min() - one.values.max()))


def _figure(one: Shape, limits: tuple[float, float], sheet: str) -> FigureBlock:
    values = one.values.tolist()
    low, high = number(min(values), 3), number(max(values), 3)
    message = f"{one.column} adds {low} to {high}."
    missing: float | None = None
    grid: list[str] | list[float]
    if one.edges is None:
        grid = [MISSING if level is None else level for level in one.levels]
    else:
        *values, missing = values
        edges = one.edges.tolist() or [0.0]
        width = (edges[-1] - edges[0]) * _MARGIN or 1.0
        grid = [edges[0] - width, *edges, edges[-1] + width]
        values = [values[0], *values[1:], values[-1]] if len(one.edges) else [values[0]] * 3
    svg = figures.dependence(
        grid=grid,
        values=values,
        missing=missing,
        limits=limits,
        rate="added to the score",
        percent=False,
        message=message,
    )
    return figure_of(one.column, message, svg, sheet)
