"""Tables by factors: exposure, what happened and what a model expected, with intervals, by level.

Sums are of whole numbers (fixed_point.py), so that a table whose sums were added up under encryption is
the same as one of all columns in one place, to the last digit.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vfl.arrays import Floats, Integers, Mask
from vfl.learn.actual_expected import count_interval, total_interval
from vfl.learn.cells import Factor
from vfl.learn.fixed_point import FixedPoint

_HALF = 20  # bits of a number
_MOST_COUNT = 1000  # of a row: whole numbers above are amounts


@dataclass(frozen=True)
class RowTotals:
    """What is added up, a number of each row: exposure, what happened, what was expected, if anything.

    Weights are factors of all three.
    """

    exposure: Floats
    actual: Floats
    expected: Floats | None = None

    def take(self, rows: Integers) -> "RowTotals":
        """Of some rows."""
        expected = None if self.expected is None else self.expected[rows]
        return RowTotals(self.exposure[rows], self.actual[rows], expected)

    @property
    def are_counts(self) -> bool:
        """Whether what happened is counted: whole numbers, none of them large."""
        values = self.actual
        return bool(
            (values >= 0).all() and (values <= _MOST_COUNT).all() and (values == np.rint(values)).all()
        )

    @property
    def is_exposed(self) -> bool:
        """Whether exposure is another thing than rows."""
        return bool((self.exposure != 1).any())

    @property
    def measures(self) -> "dict[str, FixedPoint]":
        """What is added up, by name. Raises ValueError for what is no finite number."""
        found = {"actual": FixedPoint.of(self.actual)}
        if self.is_exposed:
            found["exposure"] = FixedPoint.of(self.exposure)
        if self.expected is not None:
            found["expected"] = FixedPoint.of(self.expected)
        if not self.are_counts:
            found["squares"] = FixedPoint.of(self.actual**2)
        return found


@dataclass(frozen=True)
class TableLine:
    """A cell: its levels, rows, and sums; None of a cell that is withheld. Intervals are of 95 %."""

    levels: tuple[str, ...]
    rows: int | None
    exposure: float | None = None
    actual: float | None = None
    rate: float | None = None  # actual by exposure
    rate_low: float | None = None
    rate_high: float | None = None
    expected: float | None = None
    ratio: float | None = None  # actual by expected
    ratio_low: float | None = None
    ratio_high: float | None = None


SUMS = ("rows", "exposure", "actual", "rate", "rate_low", "rate_high")
AGAINST = ("expected", "actual_expected", "actual_expected_low", "actual_expected_high")
"""Columns of a table behind its factors; the latter where something was expected."""


@dataclass(frozen=True)
class FactorTable:
    """A table by one factor or two, the levels of the first one after the other."""

    by: tuple[str, ...]
    lines: list[TableLine]
    total: TableLine
    counts: bool  # what happened is counted; else amounts

    @property
    def heads(self) -> list[str]:
        """The names of its columns."""
        return [*self.by, *SUMS, *(AGAINST if self.total.expected is not None else ())]

    @property
    def rows(self) -> list[list[str | int | float | None]]:
        """Its lines as rows of these columns, the total last."""
        count = len(self.heads) - len(self.by)
        return [
            [
                *line.levels,
                *(line.rows, line.exposure, line.actual, line.rate, line.rate_low, line.rate_high),
                *(line.expected, line.ratio, line.ratio_low, line.ratio_high)[: count - len(SUMS)],
            ]
            for line in (*self.lines, self.total)
        ]

    @property
    def numbers(self) -> list[list[float | None]]:
        """Its rows without the levels."""
        found: list[list[float | None]] = []
        for line in (*self.lines, self.total):
            rows = None if line.rows is None else float(line.rows)
            own = [rows, line.exposure, line.actual, line.rate, line.rate_low, line.rate_high]
            against = [line.expected, line.ratio, line.ratio_low, line.ratio_high]
            found.append(own if self.total.expected is None else own + against)
        return found

    @property
    def withheld(self) -> int:
        """Cells that are not told."""
        return sum(line.rows is None for line in self.lines)


def line_of(levels: tuple[str, ...], rows: int, sums: dict[str, float]) -> TableLine:
    """A cell by its sums."""
    actual, exposure = sums["actual"], sums.get("exposure", float(rows))
    squares = sums.get("squares")
    low, high = count_interval(actual) if squares is None else total_interval(actual, squares)
    expected = sums.get("expected")
    rate, rate_low, rate_high = (_quotient(one, exposure) for one in (actual, low, high))
    line = TableLine(levels, rows, exposure, actual, rate, rate_low, rate_high)
    if expected is None:
        return line
    ratio, ratio_low, ratio_high = (_quotient(one, expected) for one in (actual, low, high))
    return replace(line, expected=expected, ratio=ratio, ratio_low=ratio_low, ratio_high=ratio_high)


def _quotient(one: float, by: float) -> float | None:
    return None if by == 0 or not math.isfinite(one) else one / by


@dataclass(frozen=True)
class CellSums:
    """Rows and sums of whole numbers by the cells of two factors, of which the second may have one level
    that is not told; None where a cell is withheld."""

    levels: tuple[tuple[str, ...], ...]
    rows: list[int | None]  # of each cell, the levels of the last factor fastest
    sums: list[list[int | None]]  # of each measure

    def turned(self) -> "CellSums":
        """The same with its two factors the other way round."""
        one, two = (len(levels) for levels in self.levels)
        order = [i * two + j for j in range(two) for i in range(one)]
        return CellSums(
            self.levels[::-1],
            [self.rows[place] for place in order],
            [[of[place] for place in order] for of in self.sums],
        )

    def without(self, withheld: Mask) -> "CellSums":
        """The same but for cells that are withheld, shape (cells,)."""

        def left(values: list[int | None]) -> list[int | None]:
            return [None if gone else one for one, gone in zip(values, withheld.tolist(), strict=True)]

        return CellSums(self.levels, left(self.rows), [left(of) for of in self.sums])

    def cells(self) -> Iterator[tuple[tuple[str, ...], int]]:
        """The levels of each cell, and its place."""
        places: list[tuple[str, ...]] = [()]
        for levels in self.levels:
            places = [(*before, level) for before in places for level in levels]
        return ((levels, place) for place, levels in enumerate(places))


def table_of(
    by: Sequence[str],
    totals: RowTotals,
    measures: Mapping[str, FixedPoint],
    told: CellSums,
    rest: str | None,
) -> FactorTable:
    """The table. `rest`: what to call the rows that are in no cell, None where they are not shown."""
    lines = []
    for levels, place in told.cells():
        rows, sums = told.rows[place], [of[place] for of in told.sums]
        known = [one for one in sums if one is not None]
        if rows is None or len(known) < len(sums):
            lines.append(TableLine(levels, None))
        else:
            lines.append(line_of(levels, rows, _real(measures, known)))
    all_rows = len(totals.actual)
    nowhere = np.zeros(all_rows, np.int64)
    every = [total for one in measures.values() for total in _sums(nowhere, 1, one.numbers)]
    if rest is not None and not any(rows is None for rows in told.rows):
        left_rows = all_rows - sum(rows for rows in told.rows if rows is not None)
        left = [
            whole - sum(one for one in of if one is not None)
            for whole, of in zip(every, told.sums, strict=True)
        ]
        if left_rows:
            nothing = ("",) * (len(told.levels) - 1)
            lines.append(line_of((rest, *nothing), left_rows, _real(measures, left)))
    total = line_of(("(total)",) + ("",) * (len(told.levels) - 1), all_rows, _real(measures, every))
    return FactorTable(tuple(by), lines, total, totals.are_counts)


def _real(measures: Mapping[str, FixedPoint], sums: Sequence[int]) -> dict[str, float]:
    return {name: one.real(total) for (name, one), total in zip(measures.items(), sums, strict=True)}


def add_up(factors: Sequence[Factor], measures: Sequence[FixedPoint]) -> CellSums:
    """Rows and sums by cell of factors that are in one place."""
    place, cells = np.zeros(len(factors[0].codes), np.int64), 1
    for factor in factors:
        place = place * len(factor.levels) + factor.codes
        cells *= len(factor.levels)
    rows: list[int | None] = [*np.bincount(place, minlength=cells).tolist()]
    return CellSums(
        tuple(factor.levels for factor in factors),
        rows,
        [[*_sums(place, cells, measure.numbers)] for measure in measures],
    )


def _sums(place: Integers, cells: int, numbers: Integers) -> list[int]:
    """Of each cell, exactly: halves of numbers cannot add up to more than 64 bits."""
    halves = []
    for part in (numbers >> _HALF, numbers & ((1 << _HALF) - 1)):
        total = np.zeros(cells, np.int64)
        np.add.at(total, place, part)
        halves.append(total.tolist())
    return [(high << _HALF) + low for high, low in zip(*halves, strict=True)]
