"""Numbers of parties of which others may know the sums alone: in fixed point, behind masks that cancel.

A number is a multiple of 2^-160 of a unit that all parties know, modulo 2^256 units of that: a float
within 2^88 units is so precise that what is smaller than 2^-107 units alone loses digits. Masks are
uniform modulo 2^256 and cancel in the sum over all who add one (common/fellows.py), so that nothing but
the sum can be told of what is sent. Where there is one party, there are no masks, and it is told.

The sum is exact, whatever the order, and rounded once.
"""

import math
from collections.abc import Sequence

import numpy as np

from vfl.arrays import Floats
from vfl.errors import ConfigError
from vfl.protocols.common.fellows import Masks

WIDTH = 32  # bytes of a number
_FRACTION_BITS = 160
_LARGEST = 2.0**88  # of a party's number in units: sums over 64 parties are below 2^95
_MODULUS = 1 << 8 * WIDTH


def divergence(what: str) -> ConfigError:
    return ConfigError(
        f"the fit diverges, with {what} beyond all bounds: raise alpha in [glm]",
        for_peer="its part of the fit diverges, the job needs other settings",
    )


def in_fixed_point(numbers: Sequence[float], unit: float, what: str) -> list[int]:
    """Numbers as integers; `unit` is a power of two. Raises ConfigError, which says `what` they are, for
    those that are beyond all bounds, or none."""
    scaled = [number / unit for number in numbers]
    if not all(abs(number) <= _LARGEST for number in scaled):
        raise divergence(what)
    return [round(math.ldexp(number, _FRACTION_BITS)) for number in scaled]


def hidden(integers: Sequence[int], masks: Masks) -> bytes:
    """What a party sends of its integers."""
    own = masks.integers(len(integers), WIDTH)
    return b"".join(
        ((integer + mask) % _MODULUS).to_bytes(WIDTH, "little")
        for integer, mask in zip(integers, own, strict=True)
    )


def received(data: bytes, count: int) -> list[int]:
    """What a party has sent of so many numbers. Raises ValueError for another size."""
    if len(data) != count * WIDTH:
        raise ValueError("another number of bytes")
    return [int.from_bytes(data[i : i + WIDTH], "little") for i in range(0, len(data), WIDTH)]


def sums_of(parts: Sequence[Sequence[int]], unit: float, what: str) -> Floats:
    """The sums over all parties, a party's integers with or without masks a part.

    Raises ConfigError for sums that no honest parties' numbers have.
    """
    most = round(math.ldexp(_LARGEST, _FRACTION_BITS)) * len(parts)
    sums = []
    for own in zip(*parts, strict=True):
        total = sum(own) % _MODULUS
        total -= _MODULUS if 2 * total >= _MODULUS else 0
        if abs(total) > most:
            raise divergence(what)
        sums.append(math.ldexp(float(total), -_FRACTION_BITS) * unit)
    return np.array(sums)
