"""A party's columns as small integers: bins of numbers, categories, missing values.

Numeric columns are cut at quantiles (frequent values keep a bin of their own, as in LightGBM's greedy
search); a bin holds at least `min_rows` rows. Missing values have a bin after the last. Edges and
categories never leave their owner.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vfl.blocks.engine import ENGINE, Array
from vfl.blocks.scratch import release_pages

Features = Mapping[str, NDArray[np.generic]]
"""Columns by name: float64 with NaN, or objects (str, None) for categories; all of one length."""

Monotone = Literal["increasing", "decreasing"]
"""How the score may change with a column's known values, all other columns being equal."""

_FREE: Mapping[str, Monotone] = MappingProxyType({})
_AT_ONCE = 1 << 17  # values whose bins are found together
_DISTINCT = 10_000  # distinct values that the greedy search looks at; more are thinned to quantiles


@dataclass(frozen=True)
class Column:
    """How one column is binned: by `edges` (x <= edge) or by `categories` (those kept apart).

    Bins are numbered upwards, those of a decreasing column downwards: under either constraint lower bins
    are the ones that must not score higher.
    """

    name: str
    edges: NDArray[np.float64] | None
    categories: tuple[str, ...]
    has_missing: bool
    monotone: Monotone | None = None

    @property
    def bins(self) -> int:
        """Bins of present values; their number is also the code of a missing one.

        The last bin of a categorical column holds the categories that are not kept apart.
        """
        return len(self.categories) + 1 if self.edges is None else len(self.edges) + 1

    def codes(
        self, values: NDArray[np.generic], out: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        """The bin of each value; written into `out` if it is given."""
        if out is None:
            out = np.empty(len(values), np.uint8)
        for start in range(0, len(values), _AT_ONCE):
            out[start : start + _AT_ONCE] = self._codes(values[start : start + _AT_ONCE])
        return out

    def _codes(self, values: NDArray[np.generic]) -> NDArray[np.uint8]:
        if self.edges is not None:
            numbers = values.astype(np.float64)
            codes = np.searchsorted(self.edges, numbers, side="left")
            if self.monotone == "decreasing":
                codes = len(self.edges) - codes
            return np.where(np.isnan(numbers), self.bins, codes).astype(np.uint8)
        code_of: dict[object, int] = {name: i for i, name in enumerate(self.categories)}
        code_of[None] = self.bins
        other = len(self.categories)
        return np.fromiter((code_of.get(v, other) for v in values), np.uint8, len(values))


@dataclass(frozen=True)
class Binned:
    """A block of binned columns: codes of shape (columns, rows)."""

    columns: tuple[Column, ...]
    codes: NDArray[np.uint8]

    @property
    def rows(self) -> int:
        return int(self.codes.shape[1])

    @property
    def sizes(self) -> list[int]:
        """How many codes each column has, one of them for missing values."""
        return [column.bins + 1 for column in self.columns]


def _room(columns: int, rows: int) -> NDArray[np.uint8]:
    return np.empty((columns, rows), np.uint8)


def bin_columns(
    features: Features,
    max_bins: int,
    min_rows: int,
    monotone: Mapping[str, Monotone] = _FREE,
    room: Callable[[int, int], NDArray[np.uint8]] = _room,
) -> Binned:
    """Choose bins for every column and apply them; `monotone` has the constrained columns by name,
    `room` makes the array of codes, (columns, rows). One column at a time is asked for.

    Raises ValueError for a constraint on a categorical column, which has no order.
    """
    columns: list[Column] = []
    codes = room(0, 0)
    for column, own in ENGINE.columns(partial(_binned, max_bins, min_rows, {**monotone}), features):
        if not columns:
            codes = room(len(features), len(own))
        codes[len(columns)] = own
        release_pages(codes)
        columns.append(column)
    return Binned(tuple(columns), codes)


def _binned(
    max_bins: int, min_rows: int, monotone: Mapping[str, Monotone], name: str, parts: Sequence[Array]
) -> tuple[Column, NDArray[np.uint8]]:
    """Bins of a column and its codes."""
    column = choose_bins(name, parts, max_bins, min_rows, monotone.get(name))
    codes = np.empty(sum(map(len, parts)), np.uint8)
    start = 0
    for part in parts:
        column.codes(part, codes[start : start + len(part)])
        start += len(part)
    return column, codes


def choose_bins(
    name: str, parts: Sequence[Array], max_bins: int, min_rows: int, monotone: Monotone | None = None
) -> Column:
    """The bins of a column whose rows lie in several arrays, one after the other. Raises as
    `bin_columns`."""
    if any(part.dtype == object for part in parts):
        if monotone is not None:
            raise ValueError(f"column '{name}' is categorical: it cannot be {monotone}")
        return _categorical(name, parts, max_bins, min_rows)
    return replace(_numeric(name, parts, max_bins, min_rows), monotone=monotone)


def _categorical(name: str, parts: Sequence[Array], max_bins: int, min_rows: int) -> Column:
    rows_of = Counter[object]()
    for part in parts:
        for start in range(0, len(part), _AT_ONCE):
            rows_of.update(part[start : start + _AT_ONCE].tolist())
    missing = rows_of.pop(None, 0)
    names, of = np.unique(np.array([*rows_of], dtype=str), return_inverse=True)
    counts = np.zeros(len(names), np.int64)
    np.add.at(counts, of, [*rows_of.values()])
    kept = most_frequent(names, counts, max_bins, min_rows)
    return Column(name, None, kept, missing > 0)


def most_frequent(
    names: NDArray[np.str_], counts: NDArray[np.int64], max_bins: int, min_rows: int
) -> tuple[str, ...]:
    """The categories that are kept apart, of so many rows each, the most frequent first."""
    order = np.lexsort((names, -counts))
    return tuple(str(names[i]) for i in order[: max_bins - 1] if counts[i] >= min_rows)


def _numeric(name: str, parts: Sequence[Array], max_bins: int, min_rows: int) -> Column:
    present, end = np.empty(sum(map(len, parts))), 0
    for part in parts:
        for start in range(0, len(part), _AT_ONCE):
            numbers = part[start : start + _AT_ONCE].astype(np.float64, copy=False)
            known = numbers[~np.isnan(numbers)]
            present[end : end + len(known)] = known
            end += len(known)
    present = present[:end]
    present.sort()
    begins = np.ones(len(present), np.bool_)  # a value that is not the one before it
    np.not_equal(present[1:], present[:-1], out=begins[1:])
    if int(begins.sum()) <= _DISTINCT:
        places = np.flatnonzero(begins)
        distinct, counts = present[places], np.diff(places, append=len(present))
    else:
        at = np.linspace(0, len(present) - 1, _DISTINCT).astype(np.int64)
        distinct = np.unique(present[at])
        # Each kept value stands for the values above the one before it; the last is the maximum.
        counts = np.diff(np.searchsorted(present, distinct, side="right"), prepend=0)
    groups = group_values(counts, max_bins, min_rows)
    low = distinct[groups[:-1] - 1]
    # The next value present, not the next one kept: the rows in between belong above the edge.
    high = present[np.searchsorted(present, low, side="right")]
    return Column(name, edges_between(low, high), (), len(present) < sum(map(len, parts)))


def group_values(
    counts: NDArray[np.int64], max_bins: int, min_rows: int, ranges: NDArray[np.bool_] | None = None
) -> NDArray[np.int64]:
    """Ends (exclusive) of the groups that values in order become bins of, of so many rows each.

    `ranges`: which of them stand for many values. A group ends before one if that is nearer to its share
    of the rows than to end after it, so that the first groups are not larger than the last.
    """
    halves = None if ranges is None else np.where(ranges, counts / 2, 0.0)
    return _merge_small(_greedy(counts, max_bins, halves), counts, min_rows)


def edges_between(low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.float64]:
    """Edges at or above `low` and below `high`, in the middle where they can be."""
    with np.errstate(over="ignore", invalid="ignore"):
        middle = low + (high - low) / 2
    middle = np.where(np.isfinite(middle), middle, low / 2 + high / 2)
    # Between neighbouring floats the middle may round up to `high`, which must stay above the edge.
    return np.where(middle < high, middle, low)


def _greedy(
    counts: NDArray[np.int64], max_bins: int, halves: NDArray[np.float64] | None = None
) -> NDArray[np.int64]:
    """Ends (exclusive) of at most `max_bins` groups of neighbouring distinct values.

    A value with more than its share of the rows ends its group, in which smaller values fill half a
    share at most; the others share the rest evenly (LightGBM, GreedyFindBin). `halves`: by so much may a
    group end below its share, by the value after it.
    """
    if len(counts) <= max_bins:
        return np.arange(1, len(counts) + 1)
    big = counts >= counts.sum() / max_bins
    rest, free = int(counts[~big].sum()), max_bins - int(big.sum())
    share = rest / max(free, 1)
    ends, size = [], 0
    for i in range(len(counts) - 1):
        size += int(counts[i])
        if not big[i]:
            rest -= int(counts[i])
        reached = size if halves is None else size + halves[i + 1]
        if big[i] or reached >= share or (big[i + 1] and size >= max(1.0, share / 2)):
            ends.append(i + 1)
            size = 0
            if len(ends) == max_bins - 1:
                break
            if not big[i]:
                free -= 1
                share = rest / max(free, 1)
    return np.array([*ends, len(counts)], np.int64)


def _merge_small(ends: NDArray[np.int64], counts: NDArray[np.int64], min_rows: int) -> NDArray[np.int64]:
    """The same groups, neighbours joined until each holds `min_rows` rows."""
    sums = np.concatenate([[0], np.cumsum(counts)])
    kept: list[int] = []
    start = 0
    for end in ends.tolist():
        if sums[end] - sums[start] >= min_rows:
            kept.append(end)
            start = end
    if not kept:
        return ends[-1:]
    kept[-1] = int(ends[-1])
    return np.array(kept, np.int64)
