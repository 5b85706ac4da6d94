"""Two columns with levels together: a coefficient for each pair of levels with enough rows.

It comes on top of those of the two levels, so that a pair without one, for its few rows, is rated as
these two say. Pairs with a base level have none: they are what the others are compared with.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats
from vfl.learn.small_levels import Least, Size

MOST_CELLS = 1000
_DEPENDENT = 1e-9  # share of a column's rows that no earlier column explains


@dataclass(frozen=True)
class Crossing:
    """An interaction of two factors of one party."""

    columns: tuple[str, str]
    cells: tuple[tuple[str, str], ...]  # levels of both, neither of them a base level
    rows: tuple[int, ...]  # of each cell at fit

    @property
    def name(self) -> str:
        return crossing_name(self.columns)

    @property
    def levels(self) -> list[str]:
        """What the cells are called."""
        return [f"{first} × {second}" for first, second in self.cells]

    def table(self, first: Sequence[str], second: Sequence[str]) -> NDArray[np.uint16]:
        """The code of each pair of codes of two factors, given the levels that have one, counted from 1:
        k is the k-th cell, 0 none."""
        table = np.zeros((len(first) + 1, len(second) + 1), np.uint16)
        rows, columns = (
            {level: code for code, level in enumerate(levels, start=1)} for levels in (first, second)
        )
        for code, (one, other) in enumerate(self.cells, start=1):
            table[rows[one], columns[other]] = code
        return table


def crossing_name(columns: tuple[str, str]) -> str:
    return f"{columns[0]} × {columns[1]}"


def fit_crossing(
    columns: tuple[str, str],
    levels: Mapping[str, Sequence[str]],
    codes: Mapping[str, NDArray[np.uint16]],
    exposure: Floats,
    least: Least,
) -> Crossing:
    """The crossing of two factors, given the levels that have a coefficient and the code of each row of
    both. Raises ValueError naming both columns."""
    first, second = (levels[name] for name in columns)
    shape = len(first) + 1, len(second) + 1
    cell = codes[columns[0]].astype(np.int64) * shape[1] + codes[columns[1]]
    rows = np.bincount(cell, minlength=shape[0] * shape[1]).reshape(shape)
    sizes = np.bincount(cell, exposure, minlength=shape[0] * shape[1]).reshape(shape)
    found = [
        (i, j)
        for i in range(1, shape[0])
        for j in range(1, shape[1])
        if least.holds(Size(int(rows[i, j]), float(sizes[i, j])))
    ]
    what = f"interaction of '{columns[0]}' and '{columns[1]}'"
    if len(found) > MOST_CELLS:
        raise ValueError(f"the {what} has more than {MOST_CELLS:,} pairs of levels: group some of them")
    found = independent(rows, found)
    if not found:
        raise ValueError(
            f"the {what} has no pair of levels with enough rows (min_level_rows) that tells more than "
            "the two levels: leave it out"
        )
    cells = tuple((first[i - 1], second[j - 1]) for i, j in found)
    return Crossing(columns, cells, tuple(int(rows[i, j]) for i, j in found))


def independent(rows: NDArray[np.int64], cells: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The cells whose 0/1 columns are no linear combination of those before, of the levels and of the
    constant: a pair is one, for example, where a level has no row elsewhere."""
    taken = np.flatnonzero(rows.ravel())
    i, j = np.divmod(taken, rows.shape[1])
    mains = [np.ones(len(taken))]
    mains += [(i == level).astype(float) for level in range(1, rows.shape[0])]
    mains += [(j == level).astype(float) for level in range(1, rows.shape[1])]
    own = [((i == first) & (j == second)).astype(float) for first, second in cells]
    # Of the pairs that have rows at all, whatever their number: rank does not depend on weights.
    left, kept = np.zeros((len(mains) + len(own), len(taken))), []
    rank = 0
    for place, column in enumerate([*mains, *own]):
        rest = column.copy()
        for _ in range(2):  # once more against rounding
            rest -= left[:rank].T @ (left[:rank] @ rest)
        length = float(rest @ rest)
        if length > _DEPENDENT * max(float(column @ column), 1.0):
            left[rank] = rest / np.sqrt(length)
            rank += 1
            if place >= len(mains):
                kept.append(cells[place - len(mains)])
    return kept
