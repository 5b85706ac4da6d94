"""Columns of a matrix times a whole number of each row, as digits: the vectors of shared_products.py.

A product is a column times a factor; a factor's numbers may be of more bits than a word has, in limbs.
Digits are signed, to a base of a power of two, and made of a block of rows when these are encrypted: a
level's are the factor's, where the level is; a number's come of its products with the factor's digits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Integers
from vfl.blocks.engine import ENGINE, Rows
from vfl.kernels import kernel
from vfl.learn.matrix import Matrix
from vfl.protocols.common.lattice_sums import Entries

LIMB_BITS = 25
MOST_BASE_BITS = 30
"""So that a number of 32 bits times a digit, and what is carried, are a word."""


@dataclass(frozen=True)
class Factor:
    """A whole number of each row: the sum of limbs[k] * 2^(LIMB_BITS k); the last has the sign."""

    limbs: Sequence[Integers]
    bits: int  # of a number, its sign not counted

    @classmethod
    def of(cls, numbers: Integers, bits: int) -> "Factor":
        """Of numbers of a word."""
        return cls([numbers], bits)


@dataclass(frozen=True)
class RowProducts:
    """Products of a matrix's columns with factors, both by their places."""

    matrix: Matrix  # of whole numbers
    factors: Sequence[Factor]
    terms: Sequence[tuple[int, int]]  # of each product the column and the factor

    @property
    def rows(self) -> int:
        return self.matrix.rows

    @property
    def bits(self) -> list[int]:
        """Of each product, its sign not counted."""
        levels = sum(self.matrix.levels)
        own = [0] * levels + [max(1, bits) for bits in self.matrix.bits]
        return [own[column] + self.factors[factor].bits for column, factor in self.terms]

    def counts(self, base_bits: int) -> list[int]:
        """How many digits each product takes."""
        return [_count(bits, base_bits) for bits in self.bits]

    def places(self, base_bits: int) -> list[tuple[int, int]]:
        """Of each digit of all products the product and the power of two."""
        return [
            (number, place * base_bits)
            for number, count in enumerate(self.counts(base_bits))
            for place in range(count)
        ]


def _count(bits: int, base_bits: int) -> int:
    # Signed digits to a base 2^b reach further than 2^(b count - 2).
    return max(1, -(-(bits + 2) // base_bits))


@dataclass(frozen=True)
class _Run:
    """Digits from `first` to before `stop` of one product."""

    row: int  # of the codes or the numbers
    code: int  # of the level, 0 for a number
    factor: slice  # its digits
    first: int
    stop: int


class Digits:
    """The digits of products, vector by vector."""

    def __init__(self, products: RowProducts, base_bits: int) -> None:
        self._base_bits = base_bits
        matrix = products.matrix
        own = [_digits_of(factor, base_bits) for factor in products.factors]
        ends = np.cumsum([0, *map(len, own)]).tolist()
        held = matrix.held()
        none = np.zeros((0, products.rows), np.int32)
        self._arrays: tuple[Rows, ...] = (
            held.codes,
            held.numbers,
            ENGINE.hold(np.concatenate([none, *own])),
        )
        columns = [
            (row, code) for row, size in enumerate(matrix.levels) for code in range(1, size + 1)
        ] + [(row, 0) for row in range(matrix.numbers.shape[0])]
        self._runs = [
            _Run(*columns[column], slice(ends[factor], ends[factor + 1]), 0, count)
            for (column, factor), count in zip(products.terms, products.counts(base_bits), strict=True)
        ]

    def entries(self, first: int, stop: int) -> Entries:
        """Those of the vectors from `first` to before `stop`."""
        runs, at = [], 0
        for run in self._runs:
            low, high = max(first - at, 0), min(stop - at, run.stop)
            if low < high:
                runs.append(_Run(run.row, run.code, run.factor, low, high))
            at += run.stop
        return Entries(stop - first, partial(_entries, tuple(runs), self._base_bits), self._arrays)


def _digits_of(factor: Factor, base_bits: int) -> NDArray[np.int32]:
    """A factor's own digits, shape (digits, rows)."""
    count = _count(factor.bits, base_bits)
    out = np.empty((count, len(factor.limbs[0])), np.int32)
    half, mask = 1 << (base_bits - 1), (1 << base_bits) - 1
    rest, known, limbs = np.zeros(out.shape[1], np.int64), 0, [*factor.limbs]
    for place in range(count):
        while limbs and known < base_bits:
            rest = rest + (limbs.pop(0) << known)
            known += LIMB_BITS
        digit = ((rest + half) & mask) - half
        out[place] = digit
        rest = (rest - digit) >> base_bits
        known -= base_bits
    if limbs or rest.any():
        raise ValueError("a factor of more bits than it said")
    return out


def _entries(
    runs: Sequence[_Run],
    base_bits: int,
    codes: NDArray[np.uint16],
    numbers: NDArray[np.int32],
    digits: NDArray[np.int32],
) -> Integers:
    """The digits of a block of rows, shape (vectors, rows)."""
    out = np.empty((sum(run.stop - run.first for run in runs), digits.shape[1]), np.int64)
    at = 0
    for run in runs:
        part = out[at : at + run.stop - run.first]
        if run.code:
            for digit, into in zip(digits[run.factor][run.first : run.stop], part, strict=True):
                _of_level(codes[run.row], run.code, digit, into)
        else:
            _of_number(numbers[run.row], digits[run.factor], base_bits, run.first, part)
        at += len(part)
    return out


@kernel
def _of_level(codes: NDArray[np.uint16], code: int, digits: NDArray[np.int32], out: Integers) -> None:
    for i in range(len(codes)):
        out[i] = digits[i] if codes[i] == code else 0


@kernel
def _of_number(
    numbers: NDArray[np.int32], digits: NDArray[np.int32], base_bits: int, first: int, out: Integers
) -> None:
    half, mask = np.int64(1) << (base_bits - 1), (np.int64(1) << base_bits) - 1
    stop = first + len(out)
    for i in range(len(numbers)):
        rest, number = np.int64(0), np.int64(numbers[i])
        for k in range(stop):
            if k < len(digits):
                rest += number * digits[k, i]
            digit = ((rest + half) & mask) - half
            rest = (rest - digit) >> base_bits
            if k >= first:
                out[k - first, i] = digit
