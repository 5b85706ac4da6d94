"""Columns of a linear model whose rows lie at several clients, prepared alike from totals.

Levels of categorical columns are agreed on before (Schema). A category that is none of them is of the
level "(any other)"; how many such rows a client has stays with it. From totals over all rows that train

 1. columns that are to be cut into bins get common edges (bins.py), shortened where no row lies between;
 2. come the rows of each level, and the numbers and the missing ones of each other column: so base
    levels, and which levels are joined for having too few rows;
 3. the sums of numbers, then of squares about the mean: so means and deviations;
 4. where medians stand for missing numbers, how many numbers are in each of 4,096 parts of the range of
    one deviation on either side of the mean, in which the median lies; then of its part, in as many.

The design is the one of the pooled rows (learn/design.py), but for the rounding of sums, for edges,
which are quantiles to 1 %, and for medians, which are right to 2^-24 of a deviation (of an even number
of values the lower middle one is taken). Of a client that is gone meanwhile, numbers count up to the
total that it was in last.
"""

import asyncio
import math
from collections.abc import Mapping
from decimal import ROUND_FLOOR, Context, Decimal
from itertools import pairwise

import numpy as np

from vfl.arrays import Floats, Integers, Mask
from vfl.learn.binning import Features
from vfl.learn.design import Covariate, Design, covariate_of
from vfl.learn.factors import (
    Factor,
    Rules,
    band_edges,
    check_size,
    factor_of,
    named_levels,
    no_base,
    no_bins,
    no_value,
    one_value,
)
from vfl.learn.params import BoostParams
from vfl.learn.small_levels import MISSING, OTHER, Size
from vfl.protocols.pooled.adding import Adder
from vfl.protocols.pooled.bins import Schema, common_bins
from vfl.protocols.pooled.real_totals import ANY, real_totals
from vfl.protocols.pooled.totals import Totals, unfit

_ONE_VALUE = (
    2.0**-40
)  # deviation, relative to the mean, of numbers that are all the same but for rounding
_PARTS = 4096
_SHORT = 17  # decimal digits tell any two doubles apart

Edges = Mapping[str, tuple[float, ...]]


async def pooled_design(adder: Adder, features: Features, schema: Schema, rules: Rules) -> Design:
    """The design of the rows that train at all clients; `features` are this client's.

    Raises ValueError as `Design.fit`, at all clients for what is wrong with the pooled rows, ConfigError
    for a table that is not of the schema, what the adder raises.
    """
    schema.check(features)
    _check_rules(schema, rules)
    cut = {*rules.binned, *rules.bands}
    numbers = {name: features[name].astype(np.float64) for name in schema.columns if name in cut}
    for name, values in numbers.items():
        if np.isinf(values).any():
            raise ValueError(f"column '{name}' holds an infinite number")
    binned = {name: values for name, values in numbers.items() if name in rules.binned}
    edges = {name: band_edges(starts) for name, starts in rules.bands.items()}
    edges |= await _edges(adder, binned, rules)
    made = _Columns(features, schema, edges, rules)
    counts = await adder.total(await asyncio.to_thread(made.counts), "rows of levels and numbers")
    made.take_counts(counts.tolist())
    if made.numeric:
        (sums,) = await real_totals(adder, [(made.sums(), ANY)], "sums of numbers")
        made.take_sums(sums)
        (squares,) = await real_totals(adder, [(made.squares(), ANY)], "sums of squares")
        made.take_squares(squares)
    if rules.missing == "median" and made.numeric:
        for number in range(2):
            own = await asyncio.to_thread(made.parts)
            made.take_parts(await adder.total(own, f"numbers about the median, round {number + 1}"))
    return made.design()


def _check_rules(schema: Schema, rules: Rules) -> None:
    """Raises ValueError for rules that do not fit the columns."""
    for kind, named in (
        ("a spline", rules.splines),
        ("a polynomial", rules.polynomials),
        ("an interaction", rules.interactions),
        ("fuse", rules.fuse),
        ("credible", rules.credible),
    ):
        if named:
            raise ValueError(f"{kind} is not for a model over rows: leave it out")
    if rules.min_level_exposure:
        raise ValueError("min_level_exposure is not for a model over rows: set min_level_rows")
    rules.check_columns({name: name in schema.levels for name in schema.columns})
    for name in rules.base:
        if name not in schema.levels and name not in (*rules.binned, *rules.bands):
            raise no_base(name)


async def _edges(adder: Adder, binned: Mapping[str, Floats], rules: Rules) -> Edges:
    """Common edges of bins: for each the shortest number that parts the rows of all clients alike."""
    if not binned:
        return {}
    totals = Totals(adder)
    params = BoostParams.model_validate({"max_bins": rules.bins, "min_bin_rows": rules.min_level_rows})
    bins = await common_bins(totals, binned, Schema(tuple(binned)), params)
    edges = {column.name: _numbers(column.edges) for column in bins.columns}
    short = {name: [_shorter(edge) for edge in own] for name, own in edges.items()}
    between = await asyncio.to_thread(
        lambda: np.concatenate([_between(binned[name], edges[name], short[name]) for name in edges])
    )
    (flags,) = await totals.of([totals.flags(between)], "edges of bins")
    empty = iter((flags == 0).tolist())
    chosen = {}
    for name, own in edges.items():
        free = [
            [other for other in others if next(empty)] or [edge]
            for edge, others in zip(own, short[name], strict=True)
        ]
        shortened = tuple(others[0] for others in free)
        # Two edges that nothing lies between, as once a client is gone, stay as they are.
        grow = all(low < high for low, high in pairwise(shortened))
        chosen[name] = shortened if grow else tuple(own)
    return chosen


def _numbers(edges: Floats | None) -> list[float]:
    return [] if edges is None else edges.tolist()


def _shorter(edge: float) -> list[float]:
    """Numbers of few digits next to an edge, the shortest first, whole ones before all."""
    down = [Context(prec=digits, rounding=ROUND_FLOOR) for digits in range(1, _SHORT)]
    floors = [float(context.plus(Decimal(edge))) for context in down]
    nearest = [float(f"{edge:.{digits}e}") for digits in range(_SHORT - 1)]
    tried = [x + 0.0 for pair in zip(floors, nearest, strict=True) for x in pair if math.isfinite(x)]
    return list(dict.fromkeys([*(x for x in tried if x.is_integer()), *tried]))


def _between(values: Floats, edges: list[float], short: list[list[float]]) -> Mask:
    """For each edge and each number next to it, whether any value is on one side of the one and on the
    other of the other."""
    ordered = np.sort(values[~np.isnan(values)])
    long = np.repeat(edges, [len(others) for others in short])
    others = np.array([other for own in short for other in own], np.float64)
    below = [np.searchsorted(ordered, ends, "right") for ends in (long, others)]
    return np.asarray(below[0] != below[1])


class _Columns:
    """What is known of the columns, of all clients' rows and of this one's."""

    def __init__(self, features: Features, schema: Schema, edges: Edges, rules: Rules) -> None:
        self._features, self._schema, self._edges, self._rules = features, schema, edges, rules
        self._levels: dict[str, list[str]] = {}
        self.numeric: dict[str, Floats] = {}  # present values
        for name in schema.columns:
            if name in schema.levels:
                # In the order in which the levels of a pooled table would decide ties.
                self._levels[name] = sorted({*schema.levels[name], OTHER, MISSING})
            elif name in edges:
                self._levels[name] = named_levels(name, features[name], edges[name])[1]
            else:
                numbers = features[name].astype(np.float64)
                self.numeric[name] = numbers[~np.isnan(numbers)]
                check_size(name, self.numeric[name])
        count = len(self.numeric)
        self._mean, self._deviation = np.zeros(count), np.zeros(count)
        self._low, self._width = np.zeros(count), np.zeros(count)  # where medians lie
        self._counts: dict[str, dict[str, int]] = {}
        self._rows = np.zeros((count, 2), np.int64)  # with a number, without

    def counts(self) -> Integers:
        """This client's rows of each level, and with and without each number."""
        counts: list[int] = []
        for name, levels in self._levels.items():
            places, names = named_levels(name, self._features[name], self._edges.get(name))
            own = dict.fromkeys(levels, 0)
            for level, rows in zip(
                names, np.bincount(places, minlength=len(names)).tolist(), strict=True
            ):
                own[level if level in own else OTHER] += rows
            counts += own.values()
        for name, present in self.numeric.items():
            counts += [len(present), len(self._features[name]) - len(present)]
        return np.array(counts, np.int64)

    def take_counts(self, counts: list[int]) -> None:
        if min(counts) < 0:
            raise unfit("rows of levels and numbers", "it is negative")
        for name, levels in self._levels.items():
            self._counts[name] = dict(zip(levels, counts, strict=False))
            counts = counts[len(levels) :]
        self._rows = np.array(counts, np.int64).reshape(-1, 2)
        for name, edges in self._edges.items():
            if not edges and any(rows for level, rows in self._counts[name].items() if level != MISSING):
                raise no_bins(name, self._rules)
        for name, (present, _) in zip(self.numeric, self._rows.tolist(), strict=True):
            if present == 0:
                raise no_value(name)

    def sums(self) -> Floats:
        """This client's of each column, then how many numbers are in them."""
        present = self.numeric.values()
        return np.array([*(float(own.sum()) for own in present), *map(len, present)], np.float64)

    def take_sums(self, sums: Floats) -> None:
        self._mean = self._means(sums)

    def squares(self) -> Floats:
        """As `sums`, of squares about the means."""
        present = self.numeric.values()
        pairs = zip(present, self._mean, strict=True)
        about = [float(np.square(own - mean).sum()) for own, mean in pairs]
        return np.array([*about, *map(len, present)], np.float64)

    def take_squares(self, sums: Floats) -> None:
        if (sums < 0).any():
            raise unfit("sums of squares", "it is negative")
        self._deviation = np.sqrt(self._means(sums))
        for k, name in enumerate(self.numeric):
            if self._deviation[k] <= _ONE_VALUE * abs(self._mean[k]):
                raise one_value(name, int(self._rows[k, 1]))
        self._low, self._width = self._mean - self._deviation, 2 * self._deviation

    def _means(self, sums: Floats) -> Floats:
        if not np.isfinite(sums).all():
            raise unfit("sums of numbers", "it is beyond what numbers can be")
        count = len(self.numeric)
        return np.asarray(sums[:count] / np.maximum(sums[count:], 1.0))

    def parts(self) -> Integers:
        """This client's numbers below the range of the median, and in each of its parts."""
        counts = []
        for present, low, width in zip(self.numeric.values(), self._low, self._width, strict=True):
            ends = low + width * (np.arange(_PARTS + 1) / _PARTS)
            counts.append(np.diff(np.searchsorted(np.sort(present), ends, "right"), prepend=0))
        return np.array(counts, np.int64)

    def take_parts(self, counts: Integers) -> None:
        """Go on with the part in which the median is."""
        wanted = (self._rows[:, 0, None] + 1) // 2
        part = np.clip((np.cumsum(counts, axis=1) < wanted).sum(axis=1), 1, _PARTS) - 1
        self._low = self._low + self._width * (part / _PARTS)
        self._width = self._width / _PARTS

    def design(self) -> Design:
        factors: list[Factor] = [
            factor_of(
                name,
                {level: Size(rows, rows) for level, rows in counts.items()},
                self._edges.get(name),
                self._rules,
            )
            for name, counts in self._counts.items()
        ]
        covariates: list[Covariate] = []
        for k, name in enumerate(self.numeric):
            mean, deviation = float(self._mean[k]), float(self._deviation[k])
            is_median = self._rules.missing == "median"
            fill = float(self._low[k] + self._width[k] / 2) if is_median else mean
            present, missing = self._rows[k].tolist()
            numbers = mean, deviation, fill
            covariates.append(covariate_of(name, numbers, (present, missing), self._rules))
        return Design(tuple(factors), tuple(covariates))
