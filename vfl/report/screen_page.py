"""The page of a screening: how strong columns are, how inflated, and which go together."""

from collections.abc import Sequence
from dataclasses import dataclass

from vfl.report.blocks import DataTable, Facts, Heat, HeatCell, Note, PageBlock, PageSection, TableCell
from vfl.report.page import PageHead, csv_of, write_page
from vfl.report.words import day, listed
from vfl.text import counted

SCREEN_PAGE, SCREEN_SHEET, CORRELATION_SHEET = "screen.html", "screen.csv", "correlations.csv"
SCREEN_FILES = (SCREEN_PAGE, SCREEN_SHEET, CORRELATION_SHEET)

Cell = str | float | None
_WRITTEN = 16  # columns of a table whose figures are written in its cells; of more, colours alone


@dataclass(frozen=True)
class CorrelatedTable:
    """Correlations of the columns of two parties, in hundredths; within: two standard deviations of the
    noise that each has."""

    of: str
    other: str
    rows: Sequence[str]
    columns: Sequence[str]
    figures: Sequence[Sequence[int]]
    within: Sequence[Sequence[int]]


@dataclass(frozen=True)
class ScreenPage:
    """What the page says. `ended`: ISO 8601, UTC. head, lines: the table of columns, as text; sheet,
    correlated: the files' rows, heads first."""

    party: str
    hosts: Sequence[str]
    job: str
    purpose: str
    ended: str
    version: str  # of vfl
    rows: int
    head: Sequence[str]
    lines: Sequence[Sequence[str]]
    notes: Sequence[str]
    tables: Sequence[CorrelatedTable]
    sheet: Sequence[Sequence[Cell]]
    correlated: Sequence[Sequence[Cell]]


def screen_files(of: ScreenPage) -> dict[str, bytes]:
    """The page and its tables, by name."""
    head = PageHead(
        title=f"Columns for {of.job}",
        over=f"Page of {of.party}",
        purpose=of.purpose,
        ended=of.ended,
        party=of.party,
        version=of.version,
        about="no model was trained",
    )
    files = {SCREEN_PAGE: write_page(head, _sections(of)).encode(), SCREEN_SHEET: csv_of(of.sheet)}
    if of.tables:
        files[CORRELATION_SHEET] = csv_of(of.correlated)
    return files


def _sections(of: ScreenPage) -> list[PageSection]:
    lead = (
        f"How strong the columns of {listed([of.party, *of.hosts])} are by themselves, on the "
        f"{counted(of.rows, 'row')} that train."
    )
    facts = Facts([("hosts", listed(of.hosts)), ("purpose", of.purpose), ("ended", day(of.ended))])
    cells: list[list[TableCell]] = [[*line] for line in of.lines]
    table = DataTable("Columns, the strongest first", [*of.head], cells, text=2, sheet=SCREEN_SHEET)
    notes: list[PageBlock] = [Note(text) for text in of.notes]
    found = [PageSection("columns", "Columns by themselves", [lead], [facts, table, *notes])]
    if of.tables:
        about = (
            "Two numbers: Pearson's r. A number and levels: the correlation ratio, the root of the "
            "share of the number's variance that lies between levels. Two columns of levels: Cramér's "
            "V. Noise hides single rows: 95 times in a hundred it is within what each table says."
        )
        found.append(PageSection("correlations", "What goes together", [about], _heats(of)))
    return found


def _heats(of: ScreenPage) -> list[PageBlock]:
    blocks: list[PageBlock] = []
    for one in of.tables:
        most = max((error for row in one.within for error in row), default=0)
        rows = [
            (name, [_cell(value, len(one.columns)) for value in values])
            for name, values in zip(one.rows, one.figures, strict=True)
        ]
        caption = f"{one.of} (rows) and {one.other} (columns), each within {most / 100:.2f} at most"
        blocks.append(Heat(caption, [*one.columns], rows, CORRELATION_SHEET))
    return blocks


def _cell(hundredths: int, columns: int) -> HeatCell:
    text = f"{hundredths / 100:.2f}".replace("-", "−")
    step = round(abs(hundredths) / 10)
    sign = "less" if hundredths < 0 else "more"
    return HeatCell(text, f"{sign}{step}" if step else "", columns <= _WRITTEN)
