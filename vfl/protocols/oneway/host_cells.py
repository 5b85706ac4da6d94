"""What a host has of the rows of a table: its levels, the cells that are told and those withheld."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vfl.arrays import Integers
from vfl.errors import Refused
from vfl.learn.cells import Factor, counts_of, withhold
from vfl.text import counted


@dataclass(frozen=True)
class CodedCells:
    """The cells of some columns of a host: of each its rows' codes, -1 for none, and how many there
    are."""

    columns: Sequence[tuple[Integers, int]]

    @property
    def count(self) -> int:
        """Cells of all columns."""
        return sum(size for _, size in self.columns)

    @property
    def told(self) -> Integers:
        """Where they are, when each column has one more behind its own, of the rows in none."""
        first = np.cumsum([0, *(size + 1 for _, size in self.columns)])
        own = [np.arange(size) + at for (_, size), at in zip(self.columns, first, strict=False)]
        return np.concatenate([np.zeros(0, np.int64), *own])


@dataclass(frozen=True)
class HostCells:
    """What a host has of the rows of a table.

    levels: of one factor or of two. codes: of each row its place among the cells that are told, -1 for
    none. rows: of each cell, -1 where it is withheld. least: rows that a cell with the guest's levels
    must have.
    """

    levels: list[list[str]]
    codes: Integers
    rows: Integers
    least: int

    @property
    def count(self) -> int:
        """Cells that are told."""
        return int((self.rows >= 0).sum())

    @property
    def coded(self) -> CodedCells:
        """Those that are told, for sums."""
        return CodedCells([(self.codes, self.count)])

    @property
    def turned(self) -> "HostCells":
        """Of two factors, the second first."""
        shape = len(self.levels[0]), len(self.levels[1])
        told = self.rows.reshape(shape) >= 0
        order = np.arange(told.size).reshape(shape).T.ravel()  # of each cell where it was
        place = np.full(self.count + 1, -1)
        before = np.cumsum(told.ravel()) - 1
        place[before[order[told.T.ravel()]]] = np.arange(self.count)
        return HostCells(self.levels[::-1], place[self.codes], self.rows[order], self.least)


def cells_of_factors(factors: Sequence[Factor], own: Integers, minimum: int, least: int) -> HostCells:
    """What a host has of some rows by one factor of its own or by two.

    own: of each row which of the host's it is, -1 for none, of which each counts once. Raises Refused
    where no cell of two factors could be told.
    """
    levels = [list(factor.levels) for factor in factors]
    if len(factors) == 1:
        codes = factors[0].codes
        return HostCells(levels, codes, counts_of(codes, len(levels[0])), least)
    one, two = factors
    shape = len(levels[0]), len(levels[1])
    known = (one.codes >= 0) & (two.codes >= 0)
    codes = np.where(known, one.codes * shape[1] + two.codes, -1)
    withheld = withhold(counts_of(codes, shape[0] * shape[1], own).reshape(shape), minimum)
    if withheld is None:
        raise too_few_rows(minimum)
    hidden = withheld.ravel()
    place = np.append(np.where(hidden, -1, np.cumsum(~hidden) - 1), -1)
    rows = np.where(hidden, -1, counts_of(codes, len(hidden)))
    return HostCells(levels, place[codes], rows, least)


def too_few_rows(minimum: int) -> Refused:
    """No cell of a table by two factors can be told."""
    return Refused(
        f"too many cells of the table have fewer than {counted(minimum, 'row')}: ask for one factor, "
        "for two of fewer levels, or about more rows"
    )
