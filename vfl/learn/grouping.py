"""Columns summed together: rows whose bins agree in a group of columns need one addition.

Encrypted sums cost one ciphertext product a row and column. But the histogram of a column is a marginal
of the joint histogram of a group of columns, and that one costs a product a row for the whole group,
plus one for each distinct cell and column to get the marginals. Groups are formed greedily while this
is much cheaper than one more product a row. The marginals are taken by halves: two products a cell
give the joint histograms of the first and of the second half of the columns, and so on.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Integers

_SAMPLE = 20_000
_DENSE = 4  # count distinct keys by a table as long as there are at most so many keys a row


@dataclass(frozen=True)
class Group:
    """A group of columns: the cell of each row, and what the rows of a cell have in common."""

    columns: tuple[int, ...]
    cell_of_row: Integers  # shape (rows,)
    slot: Integers  # shape (cells,)
    codes: NDArray[np.int64]  # shape (columns of the group, cells)

    @property
    def cells(self) -> int:
        return len(self.slot)

    def halves(self) -> "tuple[Group, Group]":
        """The first and the second half of the columns; a row of a half is a cell of this group."""
        middle = (len(self.columns) + 1) // 2
        return self._part(slice(middle)), self._part(slice(middle, None))

    def _part(self, part: slice) -> "Group":
        key, keys = self.slot, int(self.slot.max(initial=0)) + 1
        for own in self.codes[part]:
            size = int(own.max(initial=0)) + 1
            key, keys = _number(key * size + own, keys * size)
        return _group(self.columns[part], key, keys, self.codes[part], self.slot)


def group_columns(
    codes: NDArray[np.unsignedinteger], sizes: list[int], slot: Integers, slots: int
) -> list[Group]:
    """Groups that together hold every column once.

    codes: shape (columns, rows), each below its column's entry of `sizes`. slot: the node of each row,
    below `slots`; a cell never joins two nodes.
    """
    # A group of its own costs a column one product a row, but later columns may share it.
    worth = len(slot) // 3
    groups: list[tuple[list[int], Integers, int]] = []  # columns, cell of each row, cells
    for column in sorted(range(len(sizes)), key=lambda c: sizes[c]):
        size, own = sizes[column], codes[column].astype(np.int64)
        best: tuple[int, int] | None = None  # extra products, place
        for place, (columns, key, cells) in enumerate(groups):
            before = _marginals([sizes[c] for c in columns], cells, slots)
            distinct = _distinct(key * size + own, cells * size, (worth + before) // 2)
            if distinct is not None:
                extra = _marginals([*(sizes[c] for c in columns), size], distinct, slots) - before
                best = min(best, (extra, place)) if best else (extra, place)
        if best is None or best[0] >= worth:
            groups.append(([column], *_number(slot * size + own, slots * size)))
        else:
            columns, key, cells = groups[best[1]]
            groups[best[1]] = ([*columns, column], *_number(key * size + own, cells * size))
    return [_group(columns, key, cells, codes[columns], slot) for columns, key, cells in groups]


def _marginals(sizes: list[int], cells: int, slots: int) -> int:
    """Products, at most, that the marginals of a group cost whose columns have so many codes."""
    if len(sizes) == 1:
        return 0
    middle = (len(sizes) + 1) // 2
    halves = sizes[:middle], sizes[middle:]
    rest = sum(_marginals(half, min(cells, slots * math.prod(half)), slots) for half in halves)
    return 2 * cells + rest


def _distinct(key: Integers, keys: int, most: int) -> int | None:
    """How many distinct keys there are; None when they are more than `most`."""
    # A part has no more distinct keys than the whole, and is counted faster.
    part = key[:: max(1, len(key) // _SAMPLE)]
    if keys > len(part) and len(part) < len(key) and len(np.unique(part)) > most:
        return None
    count = _number(key, keys)[1]
    return count if count <= most else None


def _number(key: Integers, keys: int) -> tuple[Integers, int]:
    """The same keys numbered without gaps, and how many there are."""
    if keys > _DENSE * len(key) + 1024:
        distinct, number_of_row = np.unique(key, return_inverse=True)
        return number_of_row.astype(np.int64), len(distinct)
    present = np.zeros(keys, np.bool_)
    present[key] = True
    return (np.cumsum(present) - 1)[key], int(present.sum())


def _group(
    columns: Sequence[int],
    cell_of_row: Integers,
    cells: int,
    codes: NDArray[np.integer],
    slot: Integers,
) -> Group:
    row_of_cell = np.zeros(cells, np.int64)
    row_of_cell[cell_of_row] = np.arange(len(cell_of_row))
    in_group = codes[:, row_of_cell].astype(np.int64)
    return Group(tuple(columns), cell_of_row, slot[row_of_cell], in_group)
