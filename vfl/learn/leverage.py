"""How far single rows stand out by a party's columns: their leverage.

With X the columns of some rows, the constant among them, v a weight a row and B = diag(v) X, the
leverage h_i of row i is the i-th entry on the diagonal of the projection P on the columns of B (Hoaglin
and Welsch, The American Statistician 32, 1978). It is between 0 and 1, and those of all rows add up to
the rank of B. A column that is 1 in one row alone gives this row 1, a level of m rows each of them 1 / m
at least, and two columns that differ in one row as much as a column of that row.

It says what sums tell of a row. Who knows B and is told B'y of another party's numbers y knows Py, and
nothing of (1 - P)y. If all y_i vary alike, by s^2, and one says nothing of another, the best linear
estimate of y_i is (Py)_i, whose mean square error is s^2 (1 - h_i): it explains the share h_i of the
variance of y_i, and correlates with it by the root of h_i. A secret basis of y makes it no easier.

Where several rows are joined to one of another party's table, y is the same in them, and what is told of
it are sums over such rows together: the bound is held by these as well, each a row with the sum of its
rows of B.

It is a bound on estimates, not on all that there is in exact sums. Of a column of two values a sum of
m rows, each times another number of many digits, is a different one for each of the 2^m ways that it
can come about. Who is told it to b bits finds the way where m is below b, and so where rows may have a
leverage above 1 / b (docs/security.md).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np

from vfl.arrays import Floats, Integers
from vfl.blocks.engine import ENGINE, Array
from vfl.learn.matrix import Matrix

FEW = 0.25
"""The share of all leverage that rows beyond the bound may have as a fit weighs them, which real fits do
unevenly, too. Of made-up columns no more than that tell of a row each."""
BROADER = "set bands for it, raise min_level_rows, bring more rows, or leave it out (ignore in [data])"
"""What the owner of a column by which rows stand out can do."""
_AT_ONCE = 1 << 13  # rows whose columns are written out
_NEAR = 2.0**-28  # of a direction's mean square: less may be the rounding of a combination of columns
_NOTHING = 2.0**-30  # of a standard unit, in one row: less than the last bit of a number


@dataclass(frozen=True)
class StandingOut:
    """The row that stands out most, and by which of the matrix' columns."""

    leverage: float
    place: int


@dataclass(frozen=True)
class _Linear:
    """Numbers of a row that its columns x make: (x - mean) change, times the row's weight; change has
    the shape (columns, numbers)."""

    levels: tuple[int, ...]
    unit: float
    mean: Floats
    change: Floats

    def blocks(self, codes: Array, numbers: Array, weight: Floats) -> Iterator[Floats]:
        """Some rows at a time, shape (numbers, rows)."""
        for first in range(0, codes.shape[1], _AT_ONCE):
            some = slice(first, first + _AT_ONCE)
            levels = [
                own[some] == np.arange(1, size + 1)[:, np.newaxis]
                for own, size in zip(codes, self.levels, strict=True)
            ]
            x = np.concatenate([*levels, numbers[:, some].astype(np.float64) * self.unit])
            yield self.change.T @ (x - self.mean[:, np.newaxis]) * weight[some]


def standing_out(
    matrix: Matrix,
    most: float,
    weight: Floats | None = None,
    *,
    constant: bool = True,
    share: float = 0.0,
    about: Sequence[Integers] = (),
) -> StandingOut | None:
    """The row that stands out most, if rows whose leverage is above `most` have more than a `share` of
    that of all rows, or than one row may have.

    weight: v, shape (rows,), none below 0; 1 without. constant: whether there is one beside the
    columns. about: shape (rows,) each, the same number for rows that are joined to one row of another
    party's, which are looked at together as well.
    """
    given = np.ones(matrix.rows) if weight is None else np.asarray(weight, np.float64)
    if most >= 1 or not matrix.columns or not given.max(initial=0.0) > 0:
        return None
    for numbers in (None, *about):
        rows, sums = (matrix, given) if numbers is None else _joined(matrix, given, numbers)
        found = leverages(rows, sums / sums.max(), constant=constant)
        beyond = float(found.rows[found.rows > most].sum())
        if beyond > (max(1.0, share * found.rows.sum()) if share else 0.0):
            row = int(found.rows.argmax())
            return StandingOut(float(found.rows[row]), found.place(row))
    return None


def _joined(matrix: Matrix, weight: Floats, about: Integers) -> tuple[Matrix, Floats]:
    """A row for all that have one number: the mean of theirs by weight, and what their weights add up
    to, so that times this it is the sum of theirs."""
    numbers, place = np.unique(about, return_inverse=True)
    count = len(numbers)
    codes, own = (np.asarray(ENGINE.gather(of)) for of in (matrix.codes, matrix.numbers))
    levels = (
        of == level
        for of, size in zip(codes, matrix.levels, strict=True)
        for level in range(1, size + 1)
    )
    sums = np.zeros(count) + np.bincount(place, weight, count)
    means = np.empty((matrix.columns, count))
    for at, column in enumerate(chain(levels, own)):
        means[at] = np.bincount(place, weight * column, count)
    means[matrix.columns - len(own) :] *= matrix.unit
    np.divide(means, sums, out=means, where=sums > 0)
    return Matrix(np.zeros((0, count), np.uint16), (), means), sums


@dataclass(frozen=True)
class Leverages:
    """rows: h, shape (rows,). parts: of a row the numbers whose squares add up to h, but for the
    constant's; change: by which columns make these, shape (columns, numbers)."""

    rows: Floats
    parts: Callable[[int], Floats]
    change: Floats

    def place(self, row: int) -> int:
        """The column without which the row would stand out least.

        With C the change and z the row's numbers, C C' is the inverse of B'B and C z that times the row:
        without column j its leverage is less by (C z)_j^2 / (C C')_jj.
        """
        size = np.sum(self.change**2, axis=1)
        less = (self.change @ self.parts(row)) ** 2
        return int(np.divide(less, size, out=np.zeros_like(less), where=size > 0).argmax())


def leverages(matrix: Matrix, weight: Floats, *, constant: bool = True) -> Leverages:
    """Those of all rows; weight: v, shape (rows,), at most 1.

    Directions of which almost nothing is left are taken by themselves, so that the small difference of
    two columns counts as much as any other column.
    """
    square = weight * weight
    total = float(square.sum())
    mean = np.zeros(matrix.columns)
    if constant:
        mean = matrix.transposed_times(square) / total
    # Not `matrix.gram`, which is exact to a share of the largest weight: rows of small ones count, too.
    centred = _linear(matrix, mean, np.eye(matrix.columns))
    each = ENGINE.results(partial(_gram, centred), matrix.codes, matrix.numbers, weight)
    gram = np.sum([*each], axis=0)
    length = np.sqrt(np.maximum(np.diag(gram), 0.0))
    length[length == 0] = 1.0
    values, vectors = np.linalg.eigh(gram / np.outer(length, length))
    vectors = vectors / length[:, np.newaxis]
    near = values <= _NEAR
    change = vectors[:, ~near] / np.sqrt(values[~near])
    if near.any():
        change = np.hstack([change, _small(matrix, mean, (change, vectors[:, near]), weight)])
    made = _linear(matrix, mean, change)
    squares = ENGINE.results(partial(_squares, made), matrix.codes, matrix.numbers, weight)
    rows = np.concatenate([*squares]) + (square / total if constant else 0.0)

    def parts(row: int) -> Floats:
        codes, numbers = (ENGINE.gather(of, row, row + 1) for of in (matrix.codes, matrix.numbers))
        (block,) = made.blocks(codes, numbers, weight[row : row + 1])
        return np.asarray(block[:, 0])

    return Leverages(rows, parts, change)


def _small(matrix: Matrix, mean: Floats, changes: tuple[Floats, Floats], weight: Floats) -> Floats:
    """The change of directions so short that sums over all columns cannot tell their lengths, at right
    angles to the others; without those that are rounding. changes: of the others, and of these."""
    others = changes[0].shape[1]
    made = _linear(matrix, mean, np.hstack(changes))
    grams = ENGINE.results(partial(_gram, made), matrix.codes, matrix.numbers, weight)
    total = np.sum([*grams], axis=0)
    along = np.linalg.solve(total[:others, :others], total[:others, others:])
    values, vectors = np.linalg.eigh(total[others:, others:] - total[others:, :others] @ along)
    kept = values * matrix.rows > _NOTHING**2
    own = changes[1] - changes[0] @ along
    return np.asarray(own @ (vectors[:, kept] / np.sqrt(values[kept])))


def _linear(matrix: Matrix, mean: Floats, change: Floats) -> _Linear:
    return _Linear(matrix.levels, matrix.unit, mean, change)


def _squares(made: _Linear, codes: Array, numbers: Array, weight: Floats) -> Floats:
    """A block of the rows' sums of squares."""
    return np.concatenate([(own * own).sum(axis=0) for own in made.blocks(codes, numbers, weight)])


def _gram(made: _Linear, codes: Array, numbers: Array, weight: Floats) -> Floats:
    """A block's sums of products of the rows' numbers."""
    size = made.change.shape[1]
    total = np.zeros((size, size))
    for own in made.blocks(codes, numbers, weight):
        total += own @ own.T
    return total
