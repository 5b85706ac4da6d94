"""Sums of real numbers that are the same in whatever order they are added, to the last bit.

A sum of floats depends on its order, and so on how rows are cut into blocks, on the number of threads
and on the library that adds. Here a number is rounded to a multiple of a small unit, as two integers of
which sums over so many rows fit in 64 bits: the higher one, and what that leaves. For 2^25 rows the unit
is 2^-73 of the largest number that is added, or 2^-1020, so that a sum is as right as one of floats can
be, and mostly more.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats, Integers
from vfl.kernels import is_compiled, kernel

_BITS = 62  # of a sum
_MOST_EXPONENT = 1000  # of a scale, so that the other one is no infinity
_UNCOMPILED = 1 << 20
"""Additions for which to import numba does not pay."""


@dataclass(frozen=True)
class Fixed:
    """How numbers become two integers each."""

    exponent: int  # of what the higher one is a multiple of, turned round
    bits: int  # by which the lower one is finer

    @classmethod
    def of(cls, bound: float, rows: int) -> "Fixed":
        """For numbers up to a finite bound in size, and sums of so many."""
        bits = _BITS - max(rows, 1).bit_length()
        above = math.frexp(bound)[1] if bound > 0 else 0  # the bound is below 2^above
        return cls(min(bits - above, _MOST_EXPONENT), bits)

    @property
    def scales(self) -> tuple[float, float]:
        """Of the higher integer and of the lower one."""
        return math.ldexp(1.0, self.exponent), math.ldexp(
            1.0, min(self.exponent + self.bits, _MOST_EXPONENT + 20)
        )

    def value(self, high: int, low: int) -> float:
        """What sums of both integers stand for."""
        finer = min(self.bits, _MOST_EXPONENT + 20 - self.exponent)
        return math.ldexp(float((high << finer) + low), -self.exponent - finer)


def sums_of_products(
    numbers: NDArray[np.generic], unit: float, by: Floats, fixed: list[Fixed]
) -> Integers:
    """Sums over the rows of each row of `numbers`, times `unit`, times `by`: shape (2, numbers)."""
    out = np.zeros((2, len(numbers)), np.int64)
    scales = np.array([one.scales for one in fixed]).reshape(-1, 2)
    if numbers.size > _UNCOMPILED or is_compiled(_add_products):
        _add_products(numbers, unit, by, scales, out)
        return out
    for own, (first, second), sums in zip(numbers, scales.tolist(), out.T, strict=True):
        high, low = _limbs(own * unit * by, first, second)
        sums[:] = high.sum(), low.sum()
    return out


def sums_by_code(codes: NDArray[np.integer], values: Floats, fixed: Fixed, count: int) -> Integers:
    """Sums of the values of the rows with each of `count` codes: shape (2, count)."""
    out = np.zeros((2, count), np.int64)
    if len(codes) > _UNCOMPILED or is_compiled(_add_by_code):
        _add_by_code(codes, values, *fixed.scales, out)
        return out
    for sums, integers in zip(out, _limbs(values, *fixed.scales), strict=True):
        np.add.at(sums, codes, integers)
    return out


def _limbs(values: Floats, first: float, second: float) -> tuple[Integers, Integers]:
    high = np.rint(values * first)
    low = np.rint((values - high / first) * second)
    return high.astype(np.int64), low.astype(np.int64)


@kernel
def _add_products(
    numbers: NDArray[np.generic], unit: float, by: Floats, scales: Floats, out: Integers
) -> None:
    for j in range(len(numbers)):
        first, second = scales[j, 0], scales[j, 1]
        back = 1.0 / first
        high_sum, low_sum = np.int64(0), np.int64(0)
        for i in range(len(by)):
            value = numbers[j, i] * unit * by[i]
            high = np.rint(value * first)
            low = np.rint((value - high * back) * second)
            high_sum += np.int64(high)
            low_sum += np.int64(low)
        out[0, j] += high_sum
        out[1, j] += low_sum


@kernel
def _add_by_code(
    codes: NDArray[np.integer], values: Floats, first: float, second: float, out: Integers
) -> None:
    back = 1.0 / first
    for i in range(len(codes)):
        high = np.rint(values[i] * first)
        low = np.rint((values[i] - high * back) * second)
        out[0, codes[i]] += np.int64(high)
        out[1, codes[i]] += np.int64(low)
