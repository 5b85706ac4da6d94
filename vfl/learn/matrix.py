"""The design matrix X of some rows of one party, and the sums over rows that a fit takes of it.

Numbers are multiples of 2^-FRACTION_BITS of a deviation, so that scores in the clear and gradients under
encryption, which take integers, use the very same ones.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats, Integers, Mask
from vfl.blocks.engine import ENGINE, Array, Rows
from vfl.learn.exact import Fixed, sums_by_code, sums_of_products
from vfl.learn.steps import NO_STEPS, Steps

FRACTION_BITS = 24
SCALE = 2.0**FRACTION_BITS


class Whole(Protocol):
    """The matrix of all aligned rows, with which a fit begins."""

    @property
    def columns(self) -> int: ...
    def take(self, rows: Mask) -> "Matrix":
        """The matrix of some of the rows."""

    def with_intercept(self) -> "Whole":
        """The matrix with a column of ones before all others."""

    def shrunk_by(self, penalty: "Penalty") -> "Whole":
        """The matrix whose coefficients are penalised together."""


@dataclass(frozen=True)
class Penalty:
    """How a party's own columns are penalised, if not each for itself."""

    shrinkage: Floats | None = None
    """The matrix P, shape (columns, columns), of which beta' P beta is penalised; where there is none,
    the squares of coefficients, or of steps, are."""
    credible: Floats | None = None
    """A matrix as P of which beta' C beta is penalised as well, whatever alpha is."""
    steps: Steps = NO_STEPS
    """The columns that are fitted by their steps."""

    @property
    def is_plain(self) -> bool:
        """Whether each coefficient is penalised for itself."""
        return self.shrinkage is None and self.credible is None and not self.steps.chains

    def after(self, free: int) -> "Penalty":
        """The same behind so many columns without a penalty."""
        shrinkage, credible = (
            None if form is None else np.pad(form, ((free, 0), (free, 0)))
            for form in (self.shrinkage, self.credible)
        )
        return Penalty(shrinkage, credible, self.steps.after(free))


@dataclass(frozen=True)
class Parted:
    """The matrix of all aligned rows in two parts, of those that train and of the others: many rows are
    not in memory twice."""

    training: Mask
    parts: tuple["Matrix", "Matrix"]

    @property
    def columns(self) -> int:
        return self.parts[0].columns

    def take(self, rows: Mask) -> "Matrix":
        """The matrix of one of the parts. Raises ValueError for other rows."""
        for part, of in zip(self.parts, (self.training, ~self.training), strict=True):
            if np.array_equal(rows, of):
                return part
        raise ValueError("rows that are no part of the matrix")

    def with_intercept(self) -> "Parted":
        first, second = (part.with_intercept() for part in self.parts)
        return Parted(self.training, (first, second))

    def shrunk_by(self, penalty: Penalty) -> "Parted":
        first, second = (part.shrunk_by(penalty) for part in self.parts)
        return Parted(self.training, (first, second))


@dataclass(frozen=True)
class Matrix:
    """The design matrix X of some rows, without storing its zeros.

    Its columns: each factor's levels, by their codes 1, 2, ... (code 0 is in none), then the numbers.
    Sums over rows are the same, bit for bit, however rows are cut and wherever they lie.
    """

    codes: Rows  # uint16, shape (factors, rows), indicators of missing values after the factors
    levels: tuple[int, ...]  # columns of each factor: the largest code it can have
    numbers: Rows
    """Shape (covariates, rows), multiples of 2^-FRACTION_BITS; or int32, these multiples."""
    penalty: Penalty = Penalty()

    @property
    def rows(self) -> int:
        return int(self.codes.shape[1])

    @property
    def columns(self) -> int:
        return sum(self.levels) + self.numbers.shape[0]

    @property
    def unit(self) -> float:
        """What `numbers` are multiples of."""
        return 1.0 if self.numbers.dtype == np.float64 else 1 / SCALE

    def held(self) -> "Matrix":
        """The same where the engine of blocks has rows."""
        codes, numbers = (ENGINE.hold(ENGINE.gather(rows)) for rows in (self.codes, self.numbers))
        return Matrix(codes, self.levels, numbers, self.penalty)

    @property
    def integers(self) -> Rows:
        """`numbers` times 2^FRACTION_BITS, exactly.

        Raises ValueError for numbers of 2^39 deviations or more; those of the rows of the fit are at
        most the square root of their count.
        """
        if max(self.bits, default=0) > 63:
            raise ValueError("a standardised number is too large for 64 bits")
        return self.numbers if self.unit < 1 else ENGINE.make(_integers, self.numbers)

    @property
    def bits(self) -> tuple[int, ...]:
        """Bits of the largest magnitude among each covariate's integers."""
        return tuple(int(number).bit_length() for number in (self._largest * SCALE).tolist())

    @cached_property
    def _largest(self) -> Floats:
        """The largest magnitude of each covariate's numbers."""
        found = ENGINE.results(_largest_numbers, self.numbers)
        return np.asarray(np.max([*found], axis=0) * self.unit)

    @property
    def squares(self) -> Floats:
        """The squared length of each covariate's column."""
        bound = max([0.0, *self._largest.tolist()])
        if not math.isfinite(bound**2):
            return np.full(self.numbers.shape[0], np.inf)
        fixed = [Fixed.of(most**2, self.rows) for most in self._largest.tolist()]
        return _values(ENGINE.total(partial(_squares, self.unit, fixed), self.numbers), fixed)

    def times(self, beta: Floats) -> Floats:
        """X beta, shape (rows,), of coefficients of shape (columns,).

        A row's is the same, bit for bit, whatever rows are beside it: BLAS does not promise that.
        """
        return np.concatenate(
            [*ENGINE.results(partial(_times, beta, self.levels, self.unit), self.codes, self.numbers)]
        )

    def transposed_times(self, r: Rows) -> Floats:
        """X^T r, shape (columns,), of one number a row; not a number if one of those is none."""
        bound = _bound(r)
        if not math.isfinite(bound * max([1.0, *self._largest])):
            return np.full(self.columns, np.nan)
        fixed = self._fixed(bound)
        kernel = partial(_transposed_times, self.levels, self.unit, fixed)
        return _values(ENGINE.total(kernel, self.codes, self.numbers, r), self._places(fixed))

    def gram(self, weight: Rows | None = None) -> Floats:
        """X^T W X, shape (columns, columns) and symmetric, of a weight a row (1 without)."""
        given = [] if weight is None else [weight]
        bound = 1.0 if weight is None else _bound(weight)
        if not math.isfinite(bound * max([1.0, *self._largest]) ** 2):
            return np.full((self.columns, self.columns), np.nan)
        # Of each covariate's numbers times the weight, and of the weight.
        fixed = [self._fixed(most) for most in [*(self._largest * bound).tolist(), bound]]
        kernel = partial(_gram, self.levels, self.unit, fixed)
        sums = ENGINE.total(kernel, self.codes, self.numbers, *given)
        gram, parts, first = np.zeros((self.columns, self.columns)), _parts(self.levels), 0

        def values(size: int, of: Sequence[Fixed]) -> Floats:
            nonlocal first
            first += size
            return _values(sums[:, first - size : first], of)

        for place, own in enumerate(fixed[:-1]):
            at = sum(self.levels) + place
            row = values(at + 1, self._places(own)[: at + 1])
            gram[at, : at + 1] = gram[: at + 1, at] = row
        for i, part in enumerate(parts):
            for j, other in enumerate(parts[: i + 1]):
                shape = self.levels[i] + 1, self.levels[j] + 1
                both = values(shape[0] * shape[1], [fixed[-1][0]] * (shape[0] * shape[1])).reshape(shape)
                gram[part, other], gram[other, part] = both[1:, 1:], both[1:, 1:].T
        return gram

    def with_intercept(self) -> "Matrix":
        """The matrix with a column of ones before all others."""
        ones = np.ones((1, self.rows), np.uint16)
        codes = np.vstack([ones, ENGINE.gather(self.codes)])
        return Matrix(codes, (1, *self.levels), self.numbers, self.penalty.after(1))

    def shrunk_by(self, penalty: Penalty) -> "Matrix":
        return replace(self, penalty=penalty)

    def penalised(self, free: int = 0) -> Floats:
        """The matrix P of which beta' P beta is penalised, where the first `free` columns are not."""
        own = self.penalty.shrinkage
        form = np.eye(self.columns) if own is None else own.copy()
        form[:free] = form[:, :free] = 0.0
        return form

    def under(self, alpha: float) -> "Matrix":
        """The matrix whose penalty is, times 1, the whole one under this alpha."""
        return self.shrunk_by(Penalty(self.penalised_by(alpha)))

    def penalised_by(self, alpha: float, free: int = 0) -> Floats:
        """The matrix A, under this alpha, of which beta' A beta / 2 is the whole penalty."""
        form = alpha * self.penalised(free)
        return form if self.penalty.credible is None else form + self.penalty.credible

    def take(self, rows: Mask) -> "Matrix":
        """The matrix of some of the rows."""
        codes, numbers = (ENGINE.gather(of)[:, rows] for of in (self.codes, self.numbers))
        return Matrix(codes, self.levels, numbers, self.penalty)

    @property
    def floats(self) -> Floats:
        """The numbers, here."""
        return np.asarray(ENGINE.gather(self.numbers).astype(np.float64) * self.unit)

    def dense(self) -> Floats:
        """X itself, shape (rows, columns): for tests."""
        levels = [
            codes[:, None] == np.arange(1, levels + 1)
            for codes, levels in zip(ENGINE.gather(self.codes), self.levels, strict=True)
        ]
        return np.hstack([*levels, self.floats.T]).astype(np.float64)

    def _fixed(self, bound: float) -> list[Fixed]:
        """How numbers of a row up to a bound, and their products with each covariate's, are added."""
        return [Fixed.of(most, self.rows) for most in [bound, *(self._largest * bound).tolist()]]

    def _places(self, fixed: Sequence[Fixed]) -> list[Fixed]:
        """How each column's sums were added."""
        return [fixed[0]] * sum(self.levels) + [*fixed[1:]]


def _parts(levels: Sequence[int]) -> list[slice]:
    ends = np.cumsum(levels, dtype=np.int64).tolist()
    return [slice(end - size, end) for end, size in zip(ends, levels, strict=True)]


def _integers(numbers: Floats) -> Integers:
    return (numbers * SCALE).astype(np.int64)


def _largest_numbers(numbers: Array) -> Floats:
    return np.asarray(np.abs(numbers.astype(np.float64)).max(axis=1, initial=0.0))


def _bound(values: Rows) -> float:
    """The largest magnitude of them; not a number if one is none."""
    return float(np.max([*ENGINE.results(_largest_size, values)]))


def _largest_size(values: Floats) -> float:
    return float(np.abs(values).max(initial=0.0))


def _values(sums: Integers, fixed: Sequence[Fixed]) -> Floats:
    """What sums in two integers stand for."""
    return np.array([one.value(*pair) for one, pair in zip(fixed, sums.T.tolist(), strict=True)])


def _times(
    beta: Floats, levels: Sequence[int], unit: float, codes: NDArray[np.uint16], numbers: Array
) -> Floats:
    """A block of X beta."""
    total = np.zeros(codes.shape[1])
    for coefficient, own in zip(beta[sum(levels) :], numbers, strict=True):
        total += coefficient * (own * unit)
    for code, part in zip(codes, _parts(levels), strict=True):
        total += np.concatenate([[0.0], beta[part]])[code]
    return total


def _squares(unit: float, fixed: list[Fixed], numbers: Array) -> Integers:
    sums = [
        sums_of_products(own[np.newaxis], unit, own * unit, [of])
        for own, of in zip(numbers, fixed, strict=True)
    ]
    return np.concatenate([np.zeros((2, 0), np.int64), *sums], axis=1)


def _transposed_times(
    levels: Sequence[int],
    unit: float,
    fixed: list[Fixed],
    codes: NDArray[np.uint16],
    numbers: Array,
    r: Floats,
) -> Integers:
    """A block's part of X^T r, in two integers each."""
    sums = [
        sums_by_code(own, r, fixed[0], size + 1)[:, 1:] for own, size in zip(codes, levels, strict=True)
    ]
    return np.concatenate([*sums, sums_of_products(numbers, unit, r, fixed[1:])], axis=1)


def _gram(
    levels: Sequence[int],
    unit: float,
    fixed: list[list[Fixed]],
    codes: NDArray[np.uint16],
    numbers: Array,
    *weight: Floats,
) -> Integers:
    """A block's part of X^T W X: each covariate with all columns up to it, then factors by cell."""
    ones, sums = np.ones(codes.shape[1]), [np.zeros((2, 0), np.int64)]
    for at, own in enumerate(numbers):
        weighted = own * unit * (weight[0] if weight else ones)
        some = fixed[at][: at + 2]
        sums.append(_transposed_times(levels, unit, some, codes, numbers[: at + 1], weighted))
    for i, own in enumerate(codes):
        for j, other in enumerate(codes[: i + 1]):
            cell = own.astype(np.int64) * (levels[j] + 1) + other
            size = (levels[i] + 1) * (levels[j] + 1)
            sums.append(sums_by_code(cell, weight[0] if weight else ones, fixed[-1][0], size))
    return np.concatenate(sums, axis=1)
