"""Split candidates of a block of binned columns, and their sums.

A histogram of a block is one flat vector: for each column a cell for each bin and one for missing
values. `Candidates` says which cells lie left of each candidate; sums over rows become left sums of
candidates by running sums within numeric columns. Hosts do the same on ciphertexts.

Order of candidates (it decides between equal gains): by column, by bin, missing right before missing
left. A numeric candidate b sends x <= edges[b] left; the one after the last edge parts present from
missing. A categorical candidate sends one category (or missing) left and the rest right. Sets of these,
in the order of their gradients, are taken where the job says so: ordered_categories.py.

Under a monotone constraint the left side is the one that must not score higher: bins of a decreasing
column are numbered downwards (learn/binning.py). Who sees sums does not learn which way a column goes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Integers
from vfl.blocks.engine import ENGINE, Rows
from vfl.kernels import is_compiled, kernel
from vfl.learn.binning import Binned, Column, Features

UNCOMPILED = 1 << 20
"""Additions for which to import numba, which takes as long as a hundred million, does not pay."""


class Cells(NamedTuple):
    """The flat histogram of a block."""

    offsets: Integers  # first cell of each column
    cells: int


@dataclass(frozen=True)
class Candidates:
    """The candidates of a block; arrays have one entry a candidate, `offsets` one a column."""

    columns: tuple[Column, ...]
    offsets: Integers  # first cell of each column
    cells: int  # cells of the flat histogram
    column: Integers
    bin: Integers
    missing_left: NDArray[np.bool_]

    @classmethod
    def of(cls, columns: tuple[Column, ...]) -> "Candidates":
        """All candidates of these columns in canonical order."""
        widths = np.array([c.bins + 1 for c in columns], np.int64)
        offsets = np.concatenate([[0], np.cumsum(widths)]).astype(np.int64)
        entries = [(i, b, left) for i, column in enumerate(columns) for b, left in _of_column(column)]
        table = np.array(entries, np.int64).reshape(len(entries), 3)
        return cls(
            columns,
            offsets[:-1],
            int(offsets[-1]),
            column=table[:, 0],
            bin=table[:, 1],
            missing_left=table[:, 2].astype(np.bool_),
        )

    def __len__(self) -> int:
        return len(self.column)

    @property
    def flat(self) -> Cells:
        """The histogram that they are of."""
        return Cells(self.offsets, self.cells)

    @property
    def ordered(self) -> NDArray[np.bool_]:
        """Which candidates part known values of a monotone column: the left must not score higher.

        Present against missing is free, since a constraint is about known values.
        """
        constrained = np.array([c.monotone is not None for c in self.columns], np.bool_)
        last = np.array([c.bins - 1 for c in self.columns], np.int64)
        return constrained[self.column] & (self.bin < last[self.column])

    @property
    def cell(self) -> Integers:
        """The cell at which each candidate's (running) sum stands."""
        return self.offsets[self.column] + self.bin

    @property
    def missing_cell(self) -> Integers:
        """The cell of missing values of each candidate's column."""
        return self.missing_cells[self.column]

    @property
    def missing_cells(self) -> Integers:
        """The cell of missing values of each column."""
        return self.offsets + np.array([c.bins for c in self.columns], np.int64)

    def left_sums(self, histograms: Integers) -> Integers:
        """Left sums, shape (nodes, candidates), of histograms of shape (nodes, cells)."""
        running = histograms.copy()
        for column, start in zip(self.columns, self.offsets.tolist(), strict=True):
            if column.edges is not None:
                part = slice(start, start + column.bins)
                running[:, part] = np.cumsum(histograms[:, part], axis=1)
        left = running[:, self.cell]
        left[:, self.missing_left] += histograms[:, self.missing_cell[self.missing_left]]
        return left

    def valid(self, counts: Integers, min_rows: int) -> NDArray[np.bool_]:
        """Which candidates may be taken, shape (nodes, candidates), from histograms of row counts.

        Both sides hold at least `min_rows` rows, and a node without missing values in the column does
        not offer to send them left.
        """
        left = self.left_sums(counts)
        # A column's own cells: not all columns of a node may be counted.
        total = np.add.reduceat(counts, self.offsets, axis=1)[:, self.column] if self.columns else left
        offered = ~self.missing_left | (counts[:, self.missing_cell] > 0)
        return np.asarray((left >= min_rows) & (total - left >= min_rows) & offered)

    def take(
        self, index: int, codes: NDArray[np.uint8], inside: NDArray[np.bool_], active: NDArray[np.bool_]
    ) -> tuple["Split", NDArray[np.bool_]]:
        """Take candidate `index` in the node of the rows `inside`: the split, and who goes left.

        `codes` is the block's, shape (columns, rows); the answer has an entry for each row inside.
        """
        place = int(self.column[index])
        own = codes[place][inside]
        counts = np.bincount(own[active[inside]], minlength=self.columns[place].bins + 1)
        missing_left = self.sends_missing_left(index, counts)
        return self.split(index, missing_left), self.goes_left(index, own, missing_left)

    def sends_missing_left(self, index: int, counts: Integers) -> bool:
        """Whether missing values of a numeric column go left, where so many active rows of the node are
        in each of the column's cells. Where none of them lacks the value, missing ones will follow the
        majority."""
        if counts[-1]:
            return bool(self.missing_left[index])
        return 2 * int(counts[: int(self.bin[index]) + 1].sum()) >= int(counts.sum())

    def split(self, index: int, missing_left: bool) -> "Split":
        """A candidate as its owner keeps it."""
        column, b = self.columns[int(self.column[index])], int(self.bin[index])
        if column.edges is None:
            category = None if b == column.bins else column.categories[b]
            return Split(column.name, None, category, True, False)
        edges = column.edges if column.monotone != "decreasing" else column.edges[::-1]
        threshold = float(edges[b]) if b < len(edges) else None
        above = column.monotone == "decreasing" and threshold is not None
        return Split(column.name, threshold, None, False, missing_left, above)

    def categories(self) -> list[Integers]:
        """Of each categorical column, its candidates."""
        places = [i for i, column in enumerate(self.columns) if column.edges is None]
        return [np.flatnonzero(self.column == place) for place in places]

    def take_set(self, members: Sequence[int]) -> tuple["Split", "Side"]:
        """Take candidates of one categorical column together: the split, and what it says of codes."""
        if len(members) == 1:
            return self.split(members[0], False), self.side(members[0], False)
        place = int(self.column[members[0]])
        column, bins = self.columns[place], tuple(self.bin[[*members]].tolist())
        named = tuple(None if b == column.bins else column.categories[b] for b in bins)
        split = Split(column.name, None, named, True, False)
        return split, Side(place, bins[0], column.bins, True, False, bins)

    def goes_left(self, index: int, codes: NDArray[np.uint8], missing_left: bool) -> NDArray[np.bool_]:
        """Which rows with these codes in the candidate's column go left."""
        return self.side(index, missing_left).goes_left(codes)

    def side(self, index: int, missing_left: bool) -> "Side":
        """What a candidate says of codes."""
        place = int(self.column[index])
        column = self.columns[place]
        return Side(place, int(self.bin[index]), column.bins, column.edges is None, missing_left)


@dataclass(frozen=True)
class Side:
    """Which codes of a column of a block go left."""

    column: int  # its place in the block
    bin: int
    missing: int  # the code of a missing value
    categorical: bool
    missing_left: bool
    bins: tuple[int, ...] = ()  # of a categorical column, where a set of them goes left

    def goes_left(self, codes: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Which of these do."""
        if self.bins:
            table = np.zeros(self.missing + 1, np.bool_)
            table[[*self.bins]] = True
            return np.asarray(table[codes])
        if self.categorical:
            return np.asarray(codes == self.bin)
        return np.where(codes == self.missing, self.missing_left, codes <= self.bin)


def _of_column(column: Column) -> list[tuple[int, bool]]:
    if column.edges is None:
        kept = list(range(len(column.categories)))
        return [(b, False) for b in kept + [column.bins] * column.has_missing]
    entries = []
    for b in range(column.bins - 1):
        entries += [(b, False), (b, True)] if column.has_missing else [(b, False)]
    return entries + [(column.bins - 1, False)] * column.has_missing


def histograms(
    binned: Binned,
    candidates: Candidates,
    slot_of_row: Integers,
    slots: int,
    weights: Integers | None = None,
    held: Rows | None = None,
) -> Integers:
    """Sums of `weights` (or row counts) by slot and cell, shape (slots, cells); slot -1 is left out.

    `held`: the codes, where the engine has them.
    """
    cells, work = candidates.flat, len(binned.codes) * len(slot_of_row)
    given = [] if weights is None else [weights]
    own = binned.codes.reshape(len(binned.columns), len(slot_of_row))  # of no column, too
    codes = own if held is None else held
    return ENGINE.total(partial(_histogram, cells, slots, work), codes, slot_of_row, *given)


def _histogram(
    cells: Cells, slots: int, work: int, codes: NDArray[np.uint8], slot: Integers, *weight: Integers
) -> Integers:
    return block_histograms(codes, cells, slot, slots, weight[0] if weight else None, work)


def block_histograms(
    codes: NDArray[np.uint8],
    flat: Cells,
    slot_of_row: Integers,
    slots: int,
    weights: Integers | None,
    work: int,
) -> Integers:
    """`histograms` of a block with codes of shape (columns, rows); `work`: additions in all blocks."""
    sums = np.zeros((slots, flat.cells), np.int64)
    rows = np.flatnonzero(slot_of_row >= 0)
    values = np.ones(1, np.int64) if weights is None else weights
    if work > UNCOMPILED:
        _add(codes, flat.offsets, rows, slot_of_row, values, sums)
        return sums
    cells = sums.reshape(-1)
    of_rows, start = (values if weights is None else values[rows]), slot_of_row[rows] * flat.cells
    for column, offset in zip(codes, flat.offsets, strict=True):
        np.add.at(cells, start + (offset + column[rows]), of_rows)
    return sums


@kernel
def _add(
    codes: NDArray[np.uint8],
    offsets: Integers,
    rows: Integers,
    slot_of_row: Integers,
    weights: Integers,
    sums: Integers,
) -> None:
    """Add the weights (one entry: the weight of all) of these rows to their cells."""
    one = len(weights) == 1
    for c in range(len(codes)):
        for row in rows:
            weight = weights[0] if one else weights[row]
            sums[slot_of_row[row], offsets[c] + codes[c, row]] += weight


def gradient_histograms(
    binned: Binned, candidates: Candidates, rows: Integers, gradient: Integers, hessian: Integers
) -> Integers:
    """How many of these rows are in each cell, and the sums of their gradients and hessians, shape
    (3, cells). `gradient` and `hessian`: of all rows."""
    sums = np.zeros((candidates.cells, 3), np.int64)
    g, h = gradient[rows], hessian[rows]
    if is_compiled(_add_gradients) or len(rows) * len(binned.codes) > UNCOMPILED:
        _add_gradients(binned.codes, candidates.offsets, rows, g, h, sums)
        return np.ascontiguousarray(sums.T)
    of_rows = np.column_stack([np.ones(len(rows), np.int64), g, h])
    for codes, offset in zip(binned.codes, candidates.offsets, strict=True):
        np.add.at(sums, offset + codes[rows], of_rows)
    return np.ascontiguousarray(sums.T)


@kernel
def _add_gradients(
    codes: NDArray[np.uint8],
    offsets: Integers,
    rows: Integers,
    gradient: Integers,
    hessian: Integers,
    sums: Integers,
) -> None:
    """Add one, the gradient and the hessian of each of these rows to its cells."""
    for c in range(len(codes)):
        for i in range(len(rows)):
            cell = offsets[c] + codes[c, rows[i]]
            sums[cell, 0] += 1
            sums[cell, 1] += gradient[i]
            sums[cell, 2] += hessian[i]


@dataclass(frozen=True)
class Split:
    """A taken candidate as its owner keeps it: enough to send any future row left or right."""

    column: str
    threshold: float | None  # numeric: x <= threshold goes left; None parts present from missing
    category: str | tuple[str | None, ...] | None
    """Categorical: this one goes left, or these do; None is the missing category."""
    categorical: bool
    missing_left: bool  # numeric only
    above: bool = False  # numeric, of a decreasing column: x > threshold goes left instead

    @property
    def named(self) -> tuple[str | None, ...]:
        """The categories that go left, of a categorical column."""
        return self.category if isinstance(self.category, tuple) else (self.category,)

    def goes_left(self, features: Features) -> NDArray[np.bool_]:
        """Which rows go left."""
        values = features[self.column]
        if self.categorical:
            named = frozenset(self.named)
            return np.fromiter((v in named for v in values), np.bool_, len(values))
        numbers = values.astype(np.float64)
        missing = np.isnan(numbers)
        if self.threshold is None:
            return np.where(missing, self.missing_left, True)
        left = numbers > self.threshold if self.above else numbers <= self.threshold
        return np.where(missing, self.missing_left, left)
