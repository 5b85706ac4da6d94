"""A host's own block of the information, where it is of levels: the weights by pairs of them.

Step 2 of inference.py. What two levels have in common is a cell of their factors' cross table, and the
weights by cells are the product of one vector, the weights, with a matrix whose factors are the pairs of
factors. So all pairs of levels take a few vectors, where as vectors each would be one or more.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, combinations_with_replacement
from typing import Annotated, ClassVar

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from vfl.blocks.engine import ENGINE
from vfl.learn.matrix import Matrix
from vfl.net.wire import KIB, Message

MOST_CELLS = 1 << 10  # of a matrix: the guest keeps some 200 KB for each


class OwnProductsFollow(Message, frozen=True):
    """host -> guest. Reveals: in how many matrices the pairs of its levels follow, of 1,024 pairs each,
    and whether it has numbers: with how many levels and vectors it then says of each, about how its
    columns are divided among factors and numbers."""

    matrices: Annotated[int, Meta(ge=0, le=1 << 8)]
    numbers: bool
    limit: ClassVar[int] = KIB


def most_matrices(columns: int) -> int:
    """In how many matrices the pairs of so many columns are at most."""
    return -(-most_pairs(columns) // MOST_CELLS)


def most_pairs(columns: int) -> int:
    """How many pairs so many columns make, each with itself too."""
    return columns * (columns + 1) // 2


@dataclass(frozen=True)
class _Cells:
    """Some cells of two factors, or of one some of its levels."""

    factors: tuple[int, int]
    columns: tuple[int, int]  # the first of each factor
    across: int  # levels of the second factor; 1 where it is the first
    first: int
    stop: int

    @property
    def pairs(self) -> Iterator[tuple[int, int]]:
        """Of each cell the two columns."""
        for cell in range(self.first, self.stop):
            one, other = divmod(cell, self.across)
            same = self.factors[0] == self.factors[1]
            yield self.columns[0] + one, self.columns[1] + (one if same else other)

    def codes(self, codes: NDArray[np.uint16]) -> NDArray[np.uint16]:
        """Each row's cell, from 1; 0 where it is in none of these."""
        one, other = (codes[factor].astype(np.int64) for factor in self.factors)
        cells = one if self.factors[0] == self.factors[1] else (one - 1) * self.across + other
        inside = (one > 0) & (other > 0) & (cells > self.first) & (cells <= self.stop)
        return np.where(inside, cells - self.first, 0).astype(np.uint16)


@dataclass(frozen=True)
class LevelPairs:
    """Some pairs of a matrix's levels."""

    cells: tuple[_Cells, ...]

    @property
    def columns(self) -> list[tuple[int, int]]:
        """Of each pair the two columns."""
        return [pair for own in self.cells for pair in own.pairs]

    def matrix(self, of: Matrix) -> Matrix:
        """The rows of `of`, with a level for each pair."""
        given = np.asarray(ENGINE.gather(of.codes), np.uint16)
        codes = np.array([own.codes(given) for own in self.cells])
        levels = tuple(own.stop - own.first for own in self.cells)
        return Matrix(codes, levels, np.zeros((0, of.rows), np.int32))


def level_pairs(matrix: Matrix) -> list[LevelPairs]:
    """All pairs of levels that a row may have, by matrices of so many as the guest can keep."""
    firsts = [0, *accumulate(matrix.levels)]
    found: list[LevelPairs] = []
    some: list[_Cells] = []
    room = MOST_CELLS
    for one, other in combinations_with_replacement(range(len(matrix.levels)), 2):
        across = 1 if one == other else matrix.levels[other]
        first, size = 0, matrix.levels[one] * across
        while first < size:
            stop = min(size, first + room)
            some.append(_Cells((one, other), (firsts[one], firsts[other]), across, first, stop))
            room -= stop - first
            first = stop
            if not room:
                found.append(LevelPairs(tuple(some)))
                some, room = [], MOST_CELLS
    return [*found, LevelPairs(tuple(some))] if some else found


def number_pairs(matrix: Matrix) -> list[tuple[int, int]]:
    """The pairs of columns with a number in them."""
    levels = sum(matrix.levels)
    return [(i, j) for j in range(levels, matrix.columns) for i in range(j + 1)]
