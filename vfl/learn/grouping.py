"""Columns summed together: rows whose bins agree in a group of columns need one addition.

Encrypted sums cost one ciphertext product a row and column. But the histogram of a column is a marginal
of the joint histogram of a group of columns, and that one costs a product a row for the whole group,
plus one for each distinct cell and column to get the marginals. Groups are formed greedily while this
is much cheaper than one more product a row.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vfl.learn.losses import Integers

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


def group_columns(codes: NDArray[np.uint8], sizes: list[int], slot: Integers, slots: int) -> list[Group]:
    """Groups that together hold every column once.

    codes: shape (columns, rows), each below its column's entry of `sizes`. slot: the node of each row,
    below `slots`; a cell never joins two nodes.
    """
    # A group of its own costs a column one product a row, but later columns may share it.
    worth = len(slot) // 3
    groups: list[tuple[list[int], Integers, int]] = []  # columns, cell of each row, cells
    for column in sorted(range(len(sizes)), key=lambda c: sizes[c]):
        size, own = sizes[column], codes[column]
        best: tuple[int, int] | None = None  # extra products, place
        for place, (columns, key, cells) in enumerate(groups):
            most = (worth + _marginals(len(columns), cells)) // (len(columns) + 1)
            found = _distinct(key * size + own, cells * size, most)
            if found is not None:
                extra = _marginals(len(columns) + 1, found) - _marginals(len(columns), cells)
                best = min(best, (extra, place)) if best else (extra, place)
        if best is None or best[0] >= worth:
            groups.append(([column], *_numbered(slot * size + own, slots * size)))
        else:
            columns, key, cells = groups[best[1]]
            groups[best[1]] = ([*columns, column], *_numbered(key * size + own, cells * size))
    return [_group(columns, key, cells, codes, slot) for columns, key, cells in groups]


def _marginals(columns: int, cells: int) -> int:
    """Products that the marginals of a group cost."""
    return columns * cells if columns > 1 else 0


def _distinct(key: Integers, keys: int, most: int) -> int | None:
    """How many distinct keys there are; None when they are more than `most`."""
    # A part has no more distinct keys than the whole, and is counted faster.
    part = key[:: max(1, len(key) // _SAMPLE)]
    if keys > len(part) and len(part) < len(key) and len(np.unique(part)) > most:
        return None
    count = _numbered(key, keys)[1]
    return count if count <= most else None


def _numbered(key: Integers, keys: int) -> tuple[Integers, int]:
    """The same keys numbered without gaps, and how many there are."""
    if keys > _DENSE * len(key) + 1024:
        distinct, number_of_row = np.unique(key, return_inverse=True)
        return number_of_row.astype(np.int64), len(distinct)
    present = np.zeros(keys, np.bool_)
    present[key] = True
    return (np.cumsum(present) - 1)[key], int(present.sum())


def _group(
    columns: list[int], cell_of_row: Integers, cells: int, codes: NDArray[np.uint8], slot: Integers
) -> Group:
    row_of_cell = np.zeros(cells, np.int64)
    row_of_cell[cell_of_row] = np.arange(len(cell_of_row))
    in_group = codes[columns][:, row_of_cell].astype(np.int64)
    return Group(tuple(columns), cell_of_row, slot[row_of_cell], in_group)
