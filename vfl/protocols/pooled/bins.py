"""Common bins of columns whose rows lie at several clients, from totals of counts.

 1. All make sure that they have the same columns and settings. They add up how many rows they have, how
    many lack a value in each column, and how many are of each agreed level of a categorical column. Rows
    of no agreed level share the bin of those that are not kept apart; how many they are stays with their
    owner.
 2. Numbers are ordered as integers of 64 bits, whose order is that of float64. The first cell of a
    column is all of them. All add up how many rows are in each quarter of every cell that holds more
    than its share of the column's rows; empty ones are dropped. Again with these, in 32 rounds at most,
    until no cell holds more than its share, unless it is a single number.
 3. Cells become bins as distinct values do where all rows are in one place (learn/binning.py): numbers
    that many rows have are cells, and bins, of their own, and edges lie between cells.

A share is 0.5 % of the rows that have a value, or an eighth of a bin's where that is less, but no fewer
than LEAST_ROWS: bins are quantiles of the pooled rows to 1 %, where these are 2,000 or more.

Learned by all clients: how many rows of all clients together are in each cell, of numbers and of levels,
and without a value. Each cell of numbers is a quarter of one with more than a share. So of a number far
from all others one learns its power of two, or less; but one close to many may be alone in a narrow
cell.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats, Integers, Mask, Words
from vfl.errors import ConfigError
from vfl.learn.binning import (
    Binned,
    Column,
    Features,
    Monotone,
    edges_between,
    group_values,
    most_frequent,
)
from vfl.learn.params import BoostParams
from vfl.protocols.pooled.totals import Totals, check_same, digest_of, unfit

LEAST_ROWS = 10
"""Cells with so many rows, or fewer, are not cut."""
_FINEST = 0.005  # of the rows that have a value: what a cell may hold
_CELLS_A_BIN = 8
ROUNDS = 32  # from 64 bits, two by two, to none
_SIGN = np.uint64(1 << 63)
_SPAN = np.array([(1 << width) - 1 for width in range(65)], np.uint64)


@dataclass(frozen=True)
class Schema:
    """The columns that all clients have, in the job's order.

    levels: of each categorical column, those that are agreed. monotone: of numeric ones.
    """

    columns: tuple[str, ...]
    levels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    monotone: Mapping[str, Monotone] = field(default_factory=dict)

    def check(self, features: Features) -> None:
        """Raises ConfigError, naming the column, for a table that is not of this schema."""
        if not self.columns:
            raise ConfigError("the job names no column to train on")
        for name in {*self.levels, *self.monotone}.difference(self.columns):
            raise ConfigError(f"column '{name}' of the job has a rule but is none to train on")
        for name in self.columns:
            if name not in features:
                raise ConfigError(f"column '{name}' of the job is not in the table")
            is_text = features[name].dtype == object
            if is_text != (name in self.levels):
                kinds = ("categories", "numbers") if is_text else ("numbers", "categories")
                raise ConfigError(f"column '{name}' holds {kinds[0]}, the job has it as {kinds[1]}")
            if name in self.levels and name in self.monotone:
                raise ConfigError(f"column '{name}' is categorical: it cannot be {self.monotone[name]}")

    def unknown_levels(self, features: Features) -> dict[str, int]:
        """Of each categorical column how many of these rows are of a level that is not agreed."""
        counts = {}
        for name, levels in self.levels.items():
            known = {None, *levels}
            counts[name] = sum(value not in known for value in features[name].tolist())
        return counts

    @property
    def canonical(self) -> bytes:
        """The schema as bytes, the same for the same schema."""
        levels = {name: list(names) for name, names in self.levels.items()}
        body = {"columns": self.columns, "levels": levels, "monotone": dict(self.monotone)}
        return json.dumps(body, sort_keys=True).encode()


@dataclass(frozen=True)
class CommonBins:
    """The columns of all clients, binned alike, and how many rows all of them have."""

    columns: tuple[Column, ...]
    rows: int


def bin_rows(columns: Sequence[Column], features: Features) -> Binned:
    """A client's own rows in these bins."""
    codes = [column.codes(features[column.name]) for column in columns]
    return Binned(tuple(columns), np.array(codes, np.uint8))


async def common_bins(
    totals: Totals, features: Features, schema: Schema, params: BoostParams, agreed: bytes = b""
) -> CommonBins:
    """Bins of these columns over the rows of all clients.

    `agreed`: what else all have to have alike. Raises ConfigError for a table that is not of the schema,
    or where another client has another schema or other settings, PeerError for totals that cannot be.
    """
    schema.check(features)
    settings = digest_of(schema.canonical, params.model_dump_json().encode(), agreed)
    await check_same(totals, settings)
    rows, missing, levels = await _counts(totals, features, schema)
    numeric = [name for name in schema.columns if name not in schema.levels]
    keys = await asyncio.to_thread(lambda: {name: keys_of(features[name]) for name in numeric})
    present = {name: rows - missing[name] for name in numeric}
    cells = await _refined(totals, keys, present, params.max_bins)
    columns = []
    for name in schema.columns:
        edges: Floats | None = None
        kept: tuple[str, ...] = ()
        if name in schema.levels:
            names = np.array(schema.levels[name], dtype=str)
            kept = most_frequent(names, levels[name], params.max_bins, params.min_bin_rows)
        else:
            edges = cells[name].edges(params.max_bins, params.min_bin_rows)
        columns.append(Column(name, edges, kept, missing[name] > 0, schema.monotone.get(name)))
    return CommonBins(tuple(columns), rows)


async def _counts(
    totals: Totals, features: Features, schema: Schema
) -> tuple[int, dict[str, int], dict[str, Integers]]:
    """How many rows all clients have, lack a value by column, are of each level of a categorical one."""
    rows = len(features[schema.columns[0]])
    found = await asyncio.to_thread(lambda: {name: _values(features[name]) for name in schema.columns})
    own = [rows, *(found[name][None] for name in schema.columns)]
    own_levels = [
        np.array([found[name][level] for level in levels], np.int64)
        for name, levels in schema.levels.items()
    ]
    counts, *of_levels = await totals.of([np.array(own, np.int64), *own_levels], "rows and levels")
    rows, *lacking = counts.tolist()
    missing = dict(zip(schema.columns, lacking, strict=True))
    levels = dict(zip(schema.levels, of_levels, strict=True))
    known = {name: int(levels[name].sum()) for name in levels}
    at_most_all = all(0 <= missing[name] <= rows - known.get(name, 0) for name in schema.columns)
    if not at_most_all or any((of_column < 0).any() for of_column in of_levels):
        raise unfit("rows and levels", "counts do not add up")
    return rows, missing, levels


def _values(values: NDArray[np.generic]) -> "Counter[object]":
    """How many rows have each level, or, under None, no value."""
    if values.dtype == object:
        return Counter(values.tolist())
    return Counter({None: int(np.isnan(values.astype(np.float64)).sum())})


# -------------------------------------------------------------------------------- cells of numbers


def keys_of(values: NDArray[np.generic]) -> Words:
    """Present values as integers of the same order, sorted; -0.0 is 0.0."""
    numbers = values.astype(np.float64)
    bits = (numbers[~np.isnan(numbers)] + 0.0).view(np.uint64)
    return np.sort(np.where(bits & _SIGN, ~bits, bits | _SIGN))


def numbers_of(keys: Words) -> Floats:
    """The numbers of these integers."""
    return np.where(keys & _SIGN, keys ^ _SIGN, ~keys).view(np.float64)


@dataclass(frozen=True, eq=False)
class Cells:
    """The cells of a column that are not empty, in order; arrays have one entry a cell."""

    start: Words  # the first integer
    width: Integers  # bits: so many integers, as a power of two
    count: Integers  # of the rows of all clients

    @classmethod
    def whole(cls, count: int) -> "Cells":
        """All numbers in one cell, which may be empty."""
        at = slice(1 if count else 0)
        return cls(np.zeros(1, np.uint64)[at], np.full(1, 64)[at], np.full(1, count)[at])

    def of(self, mask: Mask) -> "Cells":
        """Some of them."""
        return Cells(self.start[mask], self.width[mask], self.count[mask])

    def joined(self, other: "Cells") -> "Cells":
        """These and others, in order."""
        both = [np.concatenate(pair) for pair in zip(self.arrays, other.arrays, strict=True)]
        order = np.argsort(both[0])
        return Cells(both[0][order], both[1][order], both[2][order])

    @property
    def arrays(self) -> tuple[Words, Integers, Integers]:
        return self.start, self.width, self.count

    @property
    def last(self) -> Words:
        """The last integer of each."""
        return self.start + _SPAN[self.width]

    def count_in(self, keys: Words) -> Integers:
        """How many of these keys, which are sorted, are in each cell."""
        first = np.searchsorted(keys, self.start, "left")
        return np.searchsorted(keys, self.last, "right") - first

    def parts(self) -> "Cells":
        """The quarters of the cells; counts are 0."""
        width = np.repeat(self.width - 2, 4)
        place = np.tile(np.arange(4, dtype=np.uint64), len(self.width))
        start = np.repeat(self.start, 4) + (place << width.astype(np.uint64))
        return Cells(start, width, np.zeros(len(width), np.int64))

    def edges(self, max_bins: int, min_rows: int) -> Floats:
        """Edges of bins between cells."""
        if not len(self.count):
            return np.empty(0)
        ends = group_values(self.count, max_bins, min_rows, self.width > 0)[:-1]
        # The integer of -0.0 is nobody's: 0.0 must not lie at an edge of that name.
        last = self.last[ends - 1]
        low = numbers_of(last - (last == _SIGN - np.uint64(1)).astype(np.uint64))
        return edges_between(low, numbers_of(self.start[ends]))


async def _refined(
    totals: Totals, keys: Mapping[str, Words], present: Mapping[str, int], max_bins: int
) -> dict[str, Cells]:
    """The cells of each numeric column, none of them with more than its share of the column's rows,
    unless it is a single number."""
    share = min(_FINEST, 1 / (_CELLS_A_BIN * max_bins))
    most = {name: max(LEAST_ROWS, int(share * count)) for name, count in present.items()}
    cells = {name: Cells.whole(count) for name, count in present.items()}
    clients = totals.clients
    for number in range(1, ROUNDS + 1):
        dense = {name: (own.count > most[name]) & (own.width > 0) for name, own in cells.items()}
        dense = {name: mask for name, mask in dense.items() if mask.any()}
        if not dense:
            break
        parts = {name: cells[name].of(mask).parts() for name, mask in dense.items()}
        own = [await asyncio.to_thread(part.count_in, keys[name]) for name, part in parts.items()]
        what = f"cells of bins, round {number}"
        for name, counts in zip(parts, await totals.of(own, what), strict=True):
            cut, whole = cells[name].of(dense[name]).count, counts.reshape(-1, 4).sum(axis=1)
            # A client that is gone since has left its rows in the cells of before.
            fits = whole == cut if totals.clients == clients else whole <= cut
            if (counts < 0).any() or not fits.all():
                raise unfit(what, "counts do not add up")
            filled = replace(parts[name], count=counts).of(counts > 0)
            cells[name] = cells[name].of(~dense[name]).joined(filled)
    return cells
