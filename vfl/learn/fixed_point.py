"""Real numbers of rows as whole ones, so that sums are exact, cut into digits for short words."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vfl.arrays import Floats, Integers

BITS = 40
"""Of the greatest number of a row, at most."""
_MOST_DECIMALS = 15


@dataclass(frozen=True)
class FixedPoint:
    """The numbers of rows, shape (rows,), times a power of ten, as whole numbers below 2^BITS."""

    numbers: Integers
    decimals: int

    @classmethod
    def of(cls, values: Floats) -> "FixedPoint":
        """With as few decimals as have the values exactly, or as many as there is room for.

        So whole numbers and amounts of money stay what they are; other values are off by half of the
        last digit at most. Raises ValueError for what is no finite number.
        """
        if not np.isfinite(values).all():
            raise ValueError("not all values are finite numbers")
        largest = float(np.abs(values).max(initial=0.0))
        room = _room(largest)
        for decimals in range(max(0, room) + 1):
            if decimals <= room and (whole := _whole(values, decimals)) is not None:
                return cls(whole, decimals)
        return cls(_rounded(values, room), room)

    @property
    def bits(self) -> int:
        """Of the greatest number, 1 at least."""
        return max(1, int(np.abs(self.numbers).max(initial=0)).bit_length())

    def real(self, total: int) -> float:
        """A sum of the numbers as that of the values, rounded once."""
        return total / 10**self.decimals if self.decimals >= 0 else float(total * 10**-self.decimals)

    def digits(self, bits: int) -> list[Integers]:
        """The numbers in base 2^bits, the least digit first, each with the sign of its number."""
        sign, rest, mask = np.sign(self.numbers), np.abs(self.numbers), (1 << bits) - 1
        places = range(0, self.bits, bits)
        return [sign * ((rest >> place) & mask) for place in places]


def joined(sums: Sequence[int], bits: int) -> int:
    """The sum of numbers, by the sums of their digits."""
    return sum(one << (bits * place) for place, one in enumerate(sums))


def _room(largest: float) -> int:
    """The most decimals with which a number is below 2^BITS."""
    if not largest:
        return 0
    room = math.floor(BITS * math.log10(2) - math.log10(largest))
    room = min(room, _MOST_DECIMALS)
    while float(_scaled(np.array([largest]), room)[0]) >= 2.0**BITS - 1:
        room -= 1
    return room


def _scaled(values: Floats, decimals: int) -> Floats:
    power = 10.0 ** abs(decimals)
    return np.asarray(values * power if decimals >= 0 else values / power)


def _rounded(values: Floats, decimals: int) -> Integers:
    return np.rint(_scaled(values, decimals)).astype(np.int64)


def _whole(values: Floats, decimals: int) -> Integers | None:
    """The values with so many decimals, if that is what they are."""
    start = values[:1000]
    if not np.array_equal(_rounded(start, decimals) / 10.0**decimals, start):
        return None
    numbers = _rounded(values, decimals)
    return numbers if np.array_equal(numbers / 10.0**decimals, values) else None
