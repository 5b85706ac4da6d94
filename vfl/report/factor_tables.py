"""Tables by factors on a page: what happened and what was expected, with intervals, cell by cell."""

import math
from collections.abc import Iterable, Sequence

from vfl.learn.bootstrap import Estimate
from vfl.learn.factor_tables import AGAINST, SUMS
from vfl.report import figures, words
from vfl.report.blocks import Gallery, PageBlock, Pair, Picker, TableCell
from vfl.report.evidence import KeptTable
from vfl.report.sections import MOST_FACTORS, MOST_LEVELS, Page, SheetRow, cells, figure_of
from vfl.report.words import fixed

SHEET = "tables"
WITHHELD = "withheld"


def table_blocks(page: Page, tables: Sequence[KeptTable], rate: words.RateWords) -> list[PageBlock]:
    """A figure and a table of each, of which one is picked; a sheet of all."""
    head = ("table", "level", "second_level", *SUMS, *AGAINST)
    sheet = page.sheet(SHEET, head, _sheet_rows(tables))
    shown: list[tuple[str, PageBlock]] = [
        (_title(table), _pair(table, sheet, rate)) for table in tables[-MOST_FACTORS:]
    ]
    return [Picker("Table", shown)] if shown else []


def _title(table: KeptTable) -> str:
    return " × ".join(table.by)


def _sheet_rows(tables: Sequence[KeptTable]) -> Iterable[SheetRow]:
    for table in tables:
        for row in table.rows:
            levels = [*row[: len(table.by)], ""][:2]
            yield (_title(table), *levels, *row[len(table.by) :])


def _pair(table: KeptTable, sheet: str, rate: words.RateWords) -> Pair:
    title, own = _title(table), len(table.by)
    *lines, total = (_Line(row, own) for row in table.rows)
    told = [line for line in lines if line.is_told]
    message = f"Actual and expected {rate.name} by {title}."
    apart = [line for line in told if line.is_apart]
    if told:
        few = ", ".join(f"{line.label} ({fixed(line.ratio, 2)})" for line in apart[:3])
        message += (
            f" Intervals of actual / expected leave out 1 at {few}{' and more' * (len(apart) > 3)}."
            if apart
            else " No interval of actual / expected leaves out 1: chance alone could be all of it."
        )
    caption = f"{title}: actual / expected with an interval of 95 %, made on {words.day(table.made)}"
    one_each = rate.size in ("policies", "rows")  # no exposure and no weights
    rows = [line.cells(total, one_each) for line in (*lines, total)]
    sizes = [rate.size] if one_each else ["rows", rate.size]
    head = ["level", *sizes, "actual", "relativity", "expected", "ratio"]
    shown = [line for line in told if line.exposure > 0][:MOST_LEVELS]
    blocks: list[PageBlock] = [cells(caption, head, rows)]
    if shown:
        svg = figures.factor(
            levels=[line.label for line in shown],
            actual=[Estimate(line.rate, line.rate_low, line.rate_high) for line in shown],
            expected=[line.expected / line.exposure for line in shown],
            sizes=[line.exposure for line in shown],
            size=rate.size,
            rate=rate.name,
            percent=rate.percent,
            message=message,
        )
        blocks.insert(0, Gallery([figure_of(title, message, svg, sheet)]))
    return Pair(blocks)


class _Line:
    """A row of a table, by name."""

    def __init__(self, row: Sequence[str | int | float | None], own: int) -> None:
        self.label = " × ".join(str(level) for level in row[:own] if level != "")
        found = [None if one is None or isinstance(one, str) else float(one) for one in row[own:]]
        numbers = [math.nan if one is None else one for one in found]
        self.rows, self.exposure, self.actual = numbers[:3]
        self.rate, self.rate_low, self.rate_high = numbers[3:6]
        self.expected, self.ratio, self.low, self.high = numbers[6:10]

    @property
    def is_told(self) -> bool:
        """Whether it is no cell that is withheld."""
        return math.isfinite(self.rows) and math.isfinite(self.exposure)

    @property
    def is_apart(self) -> bool:
        """Whether chance alone hardly makes its actual / expected."""
        return self.low > 1 or self.high < 1

    def cells(self, total: "_Line", one_each: bool) -> list[TableCell]:
        """As a row of the page's table; `one_each`: without the exposure, which is that of rows."""
        if not self.is_told:
            return [self.label, WITHHELD, *[""] * (4 if one_each else 5)]
        relative = self.rate / total.rate if total.rate else math.nan
        interval = ""
        if math.isfinite(self.low) and math.isfinite(self.high):
            interval = f"{fixed(self.low, 2)} to {fixed(self.high, 2)}"
        exposure, actual, expected = words.alike([self.exposure, self.actual, self.expected])
        return [
            self.label,
            f"{self.rows:,.0f}",
            *([] if one_each else [exposure]),
            actual,
            fixed(relative, 2),
            expected,
            (fixed(self.ratio, 2), interval),
        ]
