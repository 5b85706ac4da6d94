"""Pairs of levels of two parties' columns: cells of a guest's column and a factor of a host.

The host owns the coefficients, as those of its own columns. It knows its levels and how many rows each
cell has, but not which rows: these depend on the guest's levels. As within a party (crossings.py) a pair
with a base level has no coefficient, nor has one of few rows or one that the others make up: it is rated
as its two levels say.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats, Integers
from vfl.blocks.engine import ENGINE, Rows
from vfl.learn.crossings import MOST_CELLS, crossing_name, independent
from vfl.learn.matrix import Matrix, Penalty
from vfl.text import counted


@dataclass(frozen=True)
class GuestLevels:
    """A column of the guest's that hosts have pairs with."""

    name: str
    levels: tuple[str, ...]  # the base level first
    codes: NDArray[np.uint16]  # of all aligned rows, by place in `levels`


@dataclass(frozen=True)
class OwnFactor:
    """A factor of a host's matrix."""

    row: int  # of the matrix's codes
    first: int  # its first column
    levels: int  # its columns: levels without the base level


@dataclass(frozen=True)
class PairOfParties:
    """A pair of columns: a guest's, by its place among those of the job's pairs, and a host's."""

    column: int
    factor: OwnFactor
    least: int  # rows of a cell


@dataclass(frozen=True)
class Cells:
    """The cells of a pair that have a coefficient."""

    pair: PairOfParties
    cells: tuple[tuple[int, int], ...]  # codes of the guest's level and of the host's, from 1 on
    counts: Integers  # rows that train, by the guest's code and the host's, base levels first
    few: int = 0  # of the others, those with some rows but too few, or beside which few would be left
    dependent: int = 0  # pairs with enough rows that tell no more than the others

    @property
    def rows(self) -> tuple[int, ...]:
        """Of each cell."""
        return tuple(int(self.counts[cell]) for cell in self.cells)

    @property
    def columns(self) -> list[int]:
        """Of each cell, the column of the host's level in its matrix."""
        return [self.pair.factor.first + level - 1 for _, level in self.cells]

    def table(self, coefficients: Floats) -> Floats:
        """The coefficients of the cells by the guest's code and the host's, 0 where there is none."""
        found = np.zeros(self.counts.shape)
        for cell, coefficient in zip(self.cells, coefficients.tolist(), strict=True):
            found[cell] = coefficient
        return found


@dataclass(frozen=True)
class FittedCells:
    """The cells of a pair that has been fitted."""

    cells: Cells
    names: tuple[str, ...]  # of the guest's levels, the base level's first; none if they were not told


def choose_cells(pair: PairOfParties, counts: Integers) -> Cells:
    """The cells of a pair that have a coefficient, by how many rows that train each has, base levels
    first. Raises ValueError for too many of them, or none."""
    own = [(i, j) for i in range(1, counts.shape[0]) for j in range(1, counts.shape[1])]
    enough = [cell for cell in own if counts[cell] >= pair.least]
    few = sum(1 for cell in own if 0 < counts[cell] < pair.least)
    if len(enough) > MOST_CELLS:
        raise ValueError(f"has more than {MOST_CELLS:,} pairs of levels: group some of them")
    independent_cells = independent(counts, enough)
    kept = _without_small_rests(counts, independent_cells, pair.least)
    few += len(independent_cells) - len(kept)
    if not kept:
        raise ValueError(
            f"has no two levels with {counted(pair.least, 'row')} together that tell more than each "
            "by itself: leave it out"
        )
    return Cells(pair, tuple(kept), counts, few, len(enough) - len(independent_cells))


def _without_small_rests(
    counts: Integers, cells: Sequence[tuple[int, int]], least: int
) -> list[tuple[int, int]]:
    """The cells without the smallest of those levels of the host's of whose rows few would be left.

    The host is told sums by its levels, too: what it is not told of a cell it is told of the rest.
    """
    kept = set(cells)
    for level in range(1, counts.shape[1]):
        own = sorted((int(counts[cell]), cell) for cell in kept if cell[1] == level)
        rest = int(counts[:, level].sum()) - sum(rows for rows, _ in own)
        while own and 0 < rest < least:
            rows, cell = own.pop(0)
            kept.remove(cell)
            rest += rows
    return [cell for cell in cells if cell in kept]


@dataclass(frozen=True)
class CrossedMatrix(Matrix):
    """A host's matrix of the rows that train, behind whose columns there are cells of pairs.

    Which rows are in a cell it does not know. What depends on it, the second derivative, which decides
    how soon a fit ends and not where, is what is to be expected if the guest's level depended on the
    host's alone: with X_b the column of the host's level b, that of cell (a, b) is n_ab / n_b X_b, and
    beside the products of these there is what a row in one cell of b lacks in the others.
    """

    pairs: tuple[Cells, ...] = ()

    @classmethod
    def of(cls, own: Matrix, pairs: Sequence[Cells]) -> "CrossedMatrix":
        cells = sum(len(pair.cells) for pair in pairs)
        penalty = _extended(own.penalty, own.columns, cells)
        return cls(own.codes, own.levels, own.numbers, penalty, tuple(pairs))

    @cached_property
    def own(self) -> Matrix:
        """The host's own columns."""
        return Matrix(self.codes, self.levels, self.numbers)

    @property
    def columns(self) -> int:
        return self.own.columns + sum(len(pair.cells) for pair in self.pairs)

    def held(self) -> "CrossedMatrix":
        own = self.own.held()
        return CrossedMatrix(own.codes, own.levels, own.numbers, self.penalty, self.pairs)

    def times(self, beta: Floats) -> Floats:
        """What the host's own columns add to scores, shape (rows,): cells' part is not known here."""
        return self.own.times(beta[: self.own.columns])

    def transposed_times(self, r: Rows) -> Floats:
        """X^T r as expected, shape (columns,)."""
        own = self.own.transposed_times(r)
        return np.concatenate([own, self._shares @ own])

    def gram(self, weight: Rows | None = None) -> Floats:
        """X^T W X as expected, shape (columns, columns) and symmetric."""
        own = self.own.gram(weight)
        shares = self._shares
        mixed = shares @ own
        both = mixed @ shares.T
        first = 0
        for pair in self.pairs:
            for i, (a, b) in enumerate(pair.cells):
                at = own[pair.columns[i], pair.columns[i]]
                rows = pair.counts[:, b] / max(int(pair.counts[:, b].sum()), 1)
                for j, (other, level) in enumerate(pair.cells):
                    if level == b:
                        apart = (i == j) * rows[a] - rows[a] * rows[other]
                        both[first + i, first + j] += at * apart
            first += len(pair.cells)
        return np.block([[own, mixed.T], [mixed, both]])

    @property
    def _shares(self) -> Floats:
        """Of each cell, its share of its host's level, shape (cells, own columns)."""
        shares = np.zeros((self.columns - self.own.columns, self.own.columns))
        cells = [
            (column, pair.counts[a, b] / max(int(pair.counts[:, b].sum()), 1))
            for pair in self.pairs
            for column, (a, b) in zip(pair.columns, pair.cells, strict=True)
        ]
        for place, (column, share) in enumerate(cells):
            shares[place, column] = share
        return shares


def _extended(penalty: Penalty, own: int, cells: int) -> Penalty:
    """The penalty with cells behind the own columns, each for itself."""
    room = ((0, cells), (0, cells))
    shrinkage, credible = penalty.shrinkage, penalty.credible
    if shrinkage is not None:
        shrinkage = np.pad(shrinkage, room)
        shrinkage[range(own, own + cells), range(own, own + cells)] = 1.0
    return Penalty(shrinkage, None if credible is None else np.pad(credible, room), penalty.steps)


def cell_codes(cells: Cells, theirs: NDArray[np.uint16], own: Matrix) -> NDArray[np.uint16]:
    """The code of each row's cell, 0 for none, by who has both: the guest's codes, and the matrix."""
    table = cells.table(np.arange(1, len(cells.cells) + 1, dtype=np.float64)).astype(np.uint16)
    return np.asarray(table[theirs, ENGINE.gather(own.codes)[cells.pair.factor.row]])


def counts_of(theirs: NDArray[np.uint16], codes: NDArray[np.uint16], levels: int, own: int) -> Integers:
    """Rows by the guest's code, of so many `levels`, and the host's, of `own` beside the base level."""
    cell = theirs.astype(np.int64) * (own + 1) + codes
    return np.bincount(cell, minlength=levels * (own + 1)).reshape(levels, own + 1)


@dataclass(frozen=True)
class CrossedLevels:
    """Cells of a pair as a host keeps them, with their coefficients."""

    place: int  # of the guest's column among those of the job's pairs
    column: str  # its name, with the guest's
    own: str
    levels: tuple[str, ...]  # of the guest's column, the base level first
    cells: tuple[tuple[int, str], ...]  # the guest's level by place, and the own level
    rows: tuple[int, ...]  # of each cell at fit
    coefficients: tuple[float, ...]
    few: int = 0  # pairs of levels with some rows, but too few
    dependent: int = 0  # with enough rows that tell no more than the others

    @property
    def name(self) -> str:
        return crossing_name((self.column, self.own))

    @property
    def lines(self) -> list[tuple[str, float, int]]:
        """What each cell is called, its coefficient and its rows."""
        names = [f"{self.levels[level]} × {own}" for level, own in self.cells]
        return [*zip(names, self.coefficients, self.rows, strict=True)]

    def table(self, others: Sequence[str]) -> Floats:
        """The coefficients by the guest's level and the own one, of which `others` have a code from 1
        on; 0 where there is none."""
        found = np.zeros((len(self.levels), len(others) + 1))
        code_of = {level: code for code, level in enumerate(others, start=1)}
        for (level, own), coefficient in zip(self.cells, self.coefficients, strict=True):
            found[level, code_of[own]] = coefficient
        return found
