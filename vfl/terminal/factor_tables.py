"""Tables by factors, as the command line shows them."""

from typing import TYPE_CHECKING

from vfl.terminal.results import cost
from vfl.terminal.sheets import Sheet, SheetCell, put_sheet
from vfl.terminal.streams import stdout
from vfl.text import counted

if TYPE_CHECKING:
    from vfl.jobs.oneway import OnewayTable
    from vfl.learn.factor_tables import FactorTable, TableLine

WITHHELD = "withheld"


def put_factor_table(done: "OnewayTable") -> None:
    """A line a cell, the total last, and what there is to say of it."""
    table = done.table
    against = table.total.expected is not None
    heads = [*table.by, "rows", "exposure", "actual", *(("expected", "A/E") if against else ("rate",))]
    heads.append("95 %")
    rows = [_cells(line, against) for line in (*table.lines, table.total)]
    numbers = frozenset(heads) - set(table.by)
    put_sheet(Sheet(heads, rows, f"by {' and '.join(table.by)}: {done.rows_are}", numbers))
    for note in notes_of(table, done.least):
        stdout.put(f"note: {note}")
    stdout.put(cost(done.account))


def notes_of(table: "FactorTable", least: int | None) -> list[str]:
    """What there is to say of a table."""
    notes = []
    if table.withheld:
        few = counted(least or 0, "row")
        notes.append(
            f"{counted(table.withheld, 'cell')} withheld: of fewer than {few}, or what such a cell "
            "would follow from"
        )
    what = "counts" if table.counts else "amounts, by their squares"
    return [*notes, f"intervals are those of {what}, by chance alone"]


def _cells(line: "TableLine", against: bool) -> list[SheetCell]:
    if line.rows is None:
        return [*line.levels, WITHHELD, *[""] * (5 if against else 4)]
    rate, digits = (line.ratio, line.ratio_low, line.ratio_high), 3
    if not against:
        rate, digits = (line.rate, line.rate_low, line.rate_high), 4
    low, high = (_number(one, digits) for one in rate[1:])
    return [
        *line.levels,
        line.rows,
        _number(line.exposure),
        _number(line.actual),
        *([_number(line.expected)] if against else []),
        _number(rate[0], digits),
        f"{low} to {high}" if low and high else "",
    ]


def _number(value: float | None, digits: int = 1) -> str:
    """A number in as many digits as one reads."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value.is_integer() and digits == 1 else f"{value:,.{digits}f}"
