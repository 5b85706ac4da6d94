"""Columns of a linear model whose rows lie at several clients, prepared alike from totals.

Levels of categorical columns and edges of those that are cut into bins are agreed on before. A category
that is none of the levels agreed on is of the level "(other)"; how many such cells a client has stays
with it. From totals over all rows that train come

 1. the rows of each level, the numbers and the missing ones of each other column, and their sums: so
    means, base levels, and which levels are joined for having too few rows;
 2. the sums of squares about the mean: so deviations;
 3. where medians stand for missing numbers, how many numbers are in each of 4,096 parts of the range of
    one deviation on either side of the mean, in which the median lies; then of its part, in as many.

The design is the one of the pooled rows (learn/design.py), but for the rounding of sums, and for
medians, which are right to 2^-24 of a deviation (of an even number of values the lower middle one is
taken). Of a client that is gone meanwhile, numbers count up to the total that it was in last.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from vfl.arrays import Floats, Integers
from vfl.learn.binning import Features
from vfl.learn.design import (
    MISSING,
    OTHER,
    Covariate,
    Design,
    Factor,
    Rules,
    check_size,
    covariate_of,
    factor_of,
    named_levels,
    no_value,
    one_value,
)
from vfl.protocols.pooled.adding import Adder
from vfl.protocols.pooled.real_totals import ANY, real_totals

_ONE_VALUE = (
    2.0**-40
)  # deviation, relative to the mean, of numbers that are all the same but for rounding
_PARTS = 4096


@dataclass(frozen=True)
class CommonColumns:
    """What was agreed on about the clients' columns, beside their names."""

    levels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Of categorical columns: all others hold numbers."""
    edges: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Upper edges of all bins but the last, of numeric columns that are cut into bins."""

    def known(self, features: Features) -> Features:
        """The columns with OTHER for levels that were not agreed on. Raises ValueError, naming the
        column, for one of another kind than agreed on."""
        known = {}
        for name, values in features.items():
            if (values.dtype == object) != (name in self.levels):
                kinds = ("numbers", "categories")
                there = kinds[values.dtype == object]
                raise ValueError(f"column '{name}' holds {there}, {kinds[name in self.levels]} are due")
            known[name] = values
            if name in self.levels:
                agreed = {*self.levels[name], MISSING, OTHER}
                cells = values.tolist()
                level = {
                    cell: cell if _is_missing(cell) or cell in agreed else OTHER for cell in set(cells)
                }
                known[name] = np.array([level[cell] for cell in cells], dtype=object)
        return known

    def unknown(self, features: Features) -> dict[str, int]:
        """Rows of a level that was not agreed on, by column."""
        counts = {
            name: sum(cell == OTHER for cell in values.tolist())
            for name, values in self.known(features).items()
            if name in self.levels
        }
        return {name: count for name, count in counts.items() if count}


def _is_missing(cell: object) -> bool:
    return cell is None or cell != cell


async def pooled_design(adder: Adder, features: Features, common: CommonColumns, rules: Rules) -> Design:
    """The design of the rows that train at all clients; `features` are this one's, with levels as
    `common.known` makes them.

    Raises ValueError as `Design.fit`, at all clients for what is wrong with the pooled rows.
    """
    for name in (*rules.binned, *rules.base, *common.edges):
        if name not in features:
            raise ValueError(f"there is no column '{name}', for which binned, base or edges has a rule")
    for name in rules.binned:
        if name not in common.edges:
            raise ValueError(f"column '{name}' is to be cut into bins, but no edges were agreed on")
    made = _Columns(features, common, rules)
    counts = await adder.total(await asyncio.to_thread(made.counts), "rows of levels and numbers")
    made.take_counts(counts.tolist())
    for square in (False, True):
        what = "sums of squares of numbers" if square else "sums of numbers"
        own = await asyncio.to_thread(made.squares if square else made.sums)
        if len(own):
            (sums,) = await real_totals(adder, [(own, ANY)], what)
            made.take_sums(sums, square)
    if rules.missing == "median" and made.numeric:
        for number in range(2):
            own_counts = await asyncio.to_thread(made.parts)
            made.take_parts(
                await adder.total(own_counts, f"numbers about the median, round {number + 1}")
            )
    return made.design()


class _Columns:
    """What is known of the columns, of all clients' rows and of this one's."""

    def __init__(self, features: Features, common: CommonColumns, rules: Rules) -> None:
        self._features, self._rules = features, rules
        self._levels: dict[str, list[str]] = {}
        self._edges: dict[str, tuple[float, ...] | None] = {}
        self.numeric: dict[str, Floats] = {}  # present values
        for name, values in features.items():
            if name in common.levels:
                # In the order in which a pooled table's levels would decide ties.
                self._levels[name] = sorted({*common.levels[name], OTHER, MISSING})
                self._edges[name] = None
            elif name in common.edges:
                numbers = values.astype(np.float64)
                if np.isinf(numbers).any():
                    raise ValueError(f"column '{name}' holds an infinite number")
                self._edges[name] = tuple(map(float, common.edges[name]))
                self._levels[name] = named_levels(name, numbers, self._edges[name])[1]
            elif name in rules.base:
                raise ValueError(f"column '{name}' is numeric and not binned: it has no base level")
            else:
                numbers = values.astype(np.float64)
                present = numbers[~np.isnan(numbers)]
                check_size(name, present)
                self.numeric[name] = present
        count = len(self.numeric)
        self._mean, self._deviation = np.zeros(count), np.zeros(count)
        self._low, self._width = np.zeros(count), np.zeros(count)  # where medians lie
        self._counts: dict[str, dict[str, int]] = {}
        self._rows = np.zeros((count, 2), np.int64)  # with a number, without

    def counts(self) -> Integers:
        """This client's rows of each level, and with and without each number."""
        counts = []
        for name, levels in self._levels.items():
            places, names = named_levels(name, self._features[name], self._edges[name])
            own = dict(zip(names, np.bincount(places, minlength=len(names)).tolist(), strict=True))
            counts += [own.get(level, 0) for level in levels]
        for name, present in self.numeric.items():
            counts += [len(present), len(self._features[name]) - len(present)]
        return np.array(counts, np.int64)

    def take_counts(self, counts: list[int]) -> None:
        for name, levels in self._levels.items():
            self._counts[name] = dict(zip(levels, counts, strict=False))
            counts = counts[len(levels) :]
        self._rows = np.array(counts, np.int64).reshape(-1, 2)
        for name, (present, _) in zip(self.numeric, self._rows.tolist(), strict=True):
            if present == 0:
                raise no_value(name)

    def sums(self) -> Floats:
        """This client's of each column, then how many numbers are in them."""
        present = self.numeric.values()
        return np.array([*(float(own.sum()) for own in present), *map(len, present)], np.float64)

    def squares(self) -> Floats:
        """The same of squares about the means."""
        present = self.numeric.values()
        about = [
            float(np.square(own - mean).sum()) for own, mean in zip(present, self._mean, strict=True)
        ]
        return np.array([*about, *map(len, present)], np.float64)

    def take_sums(self, sums: Floats, square: bool) -> None:
        count = len(self.numeric)
        means = sums[:count] / np.maximum(sums[count:], 1.0)
        if not square:
            self._mean = means
            return
        self._deviation = np.sqrt(means)
        for name, mean, deviation, missing in zip(
            self.numeric, self._mean, self._deviation, self._rows[:, 1].tolist(), strict=True
        ):
            if deviation <= _ONE_VALUE * abs(mean):
                raise one_value(name, missing)
        self._low, self._width = self._mean - self._deviation, 2 * self._deviation

    def parts(self) -> Integers:
        """This client's numbers below the range of the median, and in each of its parts."""
        counts = []
        for present, low, width in zip(self.numeric.values(), self._low, self._width, strict=True):
            ends = low + width * (np.arange(_PARTS + 1) / _PARTS)
            counts.append(np.diff(np.searchsorted(np.sort(present), ends, "right"), prepend=0))
        return np.array(counts, np.int64)

    def take_parts(self, counts: Integers) -> None:
        """Go on with the part in which the median is, the lower one of an even number."""
        wanted = (self._rows[:, 0, None] + 1) // 2
        part = np.clip((np.cumsum(counts, axis=1) < wanted).sum(axis=1), 1, _PARTS) - 1
        self._low = self._low + self._width * (part / _PARTS)
        self._width = self._width / _PARTS

    def design(self) -> Design:
        factors: list[Factor] = []
        covariates: list[Covariate] = []
        numbers = dict(zip(self.numeric, range(len(self.numeric)), strict=True))
        for name in self._features:
            if name in self._levels:
                factors.append(factor_of(name, self._counts[name], self._edges[name], self._rules))
                continue
            k = numbers[name]
            mean, deviation = float(self._mean[k]), float(self._deviation[k])
            fill = mean
            if self._rules.missing == "median":
                fill = float(self._low[k] + self._width[k] / 2)
            present, missing = self._rows[k].tolist()
            made = covariate_of(name, (mean, deviation, fill), (present, missing), self._rules)
            covariates.append(made)
        return Design(tuple(factors), tuple(covariates))
