"""Split candidates of a block of binned columns, and their sums.

A histogram of a block is one flat vector: for each column a cell for each bin and one for missing
values. `Candidates` says which cells lie left of each candidate; sums over rows become left sums of
candidates by running sums within numeric columns. Hosts do the same on ciphertexts.

Order of candidates (it decides between equal gains): by column, by bin, missing right before missing
left. A numeric candidate b sends x <= edges[b] left; the one after the last edge parts present from
missing. A categorical candidate sends one category (or missing) left and the rest right: this reveals
less than an order by gradients, which would need the guest to know which sums belong to one column.

Under a monotone constraint the left side is the one that must not score higher: bins of a decreasing
column are numbered downwards (learn/binning.py). Who sees sums does not learn which way a column goes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Integers
from vfl.kernels import is_compiled, kernel
from vfl.learn.binning import Binned, Column, Features

_UNCOMPILED = 1 << 20
"""Additions for which to import numba, which takes as long as a hundred million, does not pay."""


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
        first = self.columns[0].bins + 1 if self.columns else 0
        total = counts[:, :first].sum(axis=1, keepdims=True)
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

    def goes_left(self, index: int, codes: NDArray[np.uint8], missing_left: bool) -> NDArray[np.bool_]:
        """Which rows with these codes in the candidate's column go left."""
        column, b = self.columns[int(self.column[index])], int(self.bin[index])
        if column.edges is None:
            return np.asarray(codes == b)
        return np.where(codes == column.bins, missing_left, codes <= b)


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
) -> Integers:
    """Sums of `weights` (or row counts) by slot and cell, shape (slots, cells); slot -1 is left out."""
    sums = np.zeros((slots, candidates.cells), np.int64)
    rows = np.flatnonzero(slot_of_row >= 0)
    values = np.ones(1, np.int64) if weights is None else weights
    if len(rows) * len(binned.codes) > _UNCOMPILED:
        _add(binned.codes, candidates.offsets, rows, slot_of_row, values, sums)
        return sums
    cells = sums.reshape(-1)
    of_rows, start = (values if weights is None else values[rows]), slot_of_row[rows] * candidates.cells
    for codes, offset in zip(binned.codes, candidates.offsets, strict=True):
        np.add.at(cells, start + (offset + codes[rows]), of_rows)
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
    if is_compiled(_add_gradients) or len(rows) * len(binned.codes) > _UNCOMPILED:
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
    category: str | None  # categorical: this one goes left; None is the missing category
    categorical: bool
    missing_left: bool  # numeric only
    above: bool = False  # numeric, of a decreasing column: x > threshold goes left instead

    def goes_left(self, features: Features) -> NDArray[np.bool_]:
        """Which rows go left."""
        values = features[self.column]
        if self.categorical:
            return np.fromiter((v == self.category for v in values), np.bool_, len(values))
        numbers = values.astype(np.float64)
        missing = np.isnan(numbers)
        if self.threshold is None:
            return np.where(missing, self.missing_left, True)
        left = numbers > self.threshold if self.above else numbers <= self.threshold
        return np.where(missing, self.missing_left, left)
