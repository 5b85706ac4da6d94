"""How strongly two columns go together, of whatever kinds, from products of what they are turned to.

A column is a number, or has levels. Each becomes columns Z of no mean, unit length and at right angles
(rotated.py): one of a number, one fewer than it has of levels. With M = Za'Zb / n of two columns, of p
and q such columns, the singular values of M are their canonical correlations, and

    the root of their mean square, |M| / sqrt(min(p, q)),

is Pearson's |r| of two numbers, the correlation ratio eta of a number and levels (the root of the share
of the number's variance that lies between levels), and Cramér's V of two columns of levels (Cramér,
Mathematical Methods of Statistics, 1946, 21.9). So one formula has the three that are usual, between 0
and 1, and none depends on the basis that Z is turned to. The largest canonical correlation would be 1 as
soon as one level of each had the same rows, however few. Of two numbers r has its sign.

What is told has noise that hides a row: one row changes a figure by at most m / sqrt(n min(p, q)), m the
longest row of the column that is hidden; noise is normal, with that for a standard deviation. Rows that
are joined to one of the column's owner change it together, k of them as much as one of sqrt(k) m.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats, Integers
from vfl.learn.binning import Features
from vfl.learn.design import Design
from vfl.learn.factors import Rules
from vfl.learn.rotated import Entropy, Rotated

HUNDREDTHS = 100
"""Figures are told in these."""


@dataclass(frozen=True)
class AssociatedColumn:
    """A column, of the rows that count. size: how many columns Z it has; 0 stands for a number."""

    name: str
    rotated: Rotated
    size: int

    @property
    def width(self) -> int:
        return max(self.size, 1)


@dataclass(frozen=True)
class Associated:
    """A party's columns, each by itself; and why others cannot be among them."""

    columns: list[AssociatedColumn]
    left_out: dict[str, str]

    @classmethod
    def of(cls, features: Features, least: int, entropy: Entropy) -> "Associated":
        """Numbers as they are, missing ones as their mean; categories by levels of `least` rows, turned
        by `entropy` one after the other."""
        rules, columns, left_out = Rules(missing="mean", min_level_rows=least), [], {}
        for name, values in features.items():
            try:
                design = Design.fit({name: values}, rules)
                if any(min(factor.rows) < least for factor in design.factors):
                    raise ValueError(f"column '{name}' has one level of enough rows")
            except ValueError as error:
                left_out[name] = str(error)
                continue
            whole = design.matrix({name: values}, len(values))
            matrix = whole.take(np.ones(len(values), bool))
            is_number = not design.factors
            rotated = Rotated.of(matrix, None if is_number else entropy)
            columns.append(AssociatedColumn(name, rotated, 0 if is_number else matrix.columns))
        return cls(columns, left_out)

    @property
    def sizes(self) -> list[int]:
        return [one.size for one in self.columns]

    def numbers(self, bits: int) -> NDArray[np.int32]:
        """All columns' Z', one below the other, in whole multiples of 2^-bits."""
        return np.concatenate([one.rotated.numbers(bits) for one in self.columns])


def longest_rows(
    numbers: NDArray[np.int32], sizes: Sequence[int], bits: int, joined: Integers | None = None
) -> list[float]:
    """Of each column the length of its longest row, of `Associated.numbers`. joined: shape (rows,), how
    many are joined to the owner's row that each is of, together as long as one; None: one each."""
    found, first = [], 0
    for size in sizes:
        own = numbers[first : first + max(size, 1)].astype(np.float64)
        first += max(size, 1)
        squares = np.square(own).sum(axis=0) * (1 if joined is None else joined)
        found.append(math.sqrt(float(squares.max(initial=0.0))) / 2.0**bits)
    return found


def associations(
    products: Floats, sizes: Sequence[int], others: Sequence[int], noise: Sequence[float] | None = None
) -> Floats:
    """The figure of each two columns, shape (columns, others), from all their M, one below and beside
    the other. noise: the standard deviation of what lies on each entry of a column's M, which is taken
    off what it comes to on average."""
    found = np.empty((len(sizes), len(others)))
    ends, other_ends = _ends(sizes), _ends(others)
    for i, size in enumerate(sizes):
        for j, other in enumerate(others):
            block = products[ends[i] : ends[i + 1], other_ends[j] : other_ends[j + 1]]
            if not size and not other:
                found[i, j] = block[0, 0]
                continue
            square = float(np.square(block).sum())
            square -= block.size * noise[i] ** 2 if noise is not None else 0.0
            found[i, j] = math.sqrt(max(square, 0.0) / min(block.shape))
    return found


def hundredths(figures: Floats, sizes: Sequence[int], others: Sequence[int]) -> list[list[int]]:
    """Figures in hundredths, within what they can be."""
    signed = np.outer(np.array(sizes) == 0, np.array(others) == 0)
    low = np.where(signed, -1.0, 0.0)
    rounded = np.rint(HUNDREDTHS * np.clip(figures, low, 1.0)).astype(int)
    return [[int(one) for one in row] for row in rounded]


def _ends(sizes: Sequence[int]) -> list[int]:
    return [int(one) for one in np.cumsum([0, *(max(size, 1) for size in sizes)])]
