"""Totals of real numbers: in fixed point over several words, so that every client has the same.

A number is a multiple of 2^lowest, cut into limbs of 48 bits with its sign, each a word of a total: sums
over 64 clients of any such limbs do not wrap. What a client adds is right to the last bit of a double
that is not below 2^lowest; the sum over clients is exact and rounded once, whatever their order.

A number that is none, infinite or beyond the window makes its total infinite.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vfl.arrays import Floats, Integers
from vfl.protocols.pooled.adding import Adder

_BITS = 48
_MASK = (1 << _BITS) - 1
_DIGITS = 53  # of a double
_BEYOND = 1 << 55  # in the last limb; sums of 64 limbs are below 2^54, of 64 of these below 2^62


@dataclass(frozen=True)
class Window:
    """Which numbers can be added: multiples of 2^lowest, below 2^(lowest + 48 limbs - 2)."""

    lowest: int
    limbs: int


ANY = Window(-1104, 47)
"""All doubles from 2^-1050 on, to their last bit; for few numbers."""

_BELOW, _LIMBS = 120, 5  # bits below a unit; 238 bits in all


def around(unit: float) -> Window:
    """For numbers from 2^-67 to 2^117 units, to their last bit; smaller ones to 2^-121 units."""
    return Window(math.frexp(unit)[1] - _BELOW, _LIMBS) if 0 < unit < math.inf else Window(0, _LIMBS)


Piece = tuple[Floats, Window]


async def real_totals(adder: Adder, pieces: Sequence[Piece], what: str) -> list[Floats]:
    """The sums over all clients of several arrays, each of shape (numbers,)."""
    encoded = [in_limbs(numbers, window) for numbers, window in pieces]
    total = await adder.total(np.concatenate([part.reshape(-1) for part in encoded]), what)
    sums, first = [], 0
    for part, (_, window) in zip(encoded, pieces, strict=True):
        sums.append(of_limbs(total[first : first + part.size].reshape(part.shape), window))
        first += part.size
    return sums


def in_limbs(numbers: Floats, window: Window) -> Integers:
    """The limbs of each number, lowest first; shape (numbers, limbs)."""
    fraction, exponent = np.frexp(numbers)
    exponent = exponent.astype(np.int64) - window.lowest
    beyond = ~np.isfinite(numbers) | ((numbers != 0) & (exponent > _BITS * window.limbs - 2))
    fraction = np.where(beyond, 0.0, fraction)
    # What lies below the window is rounded; the rest is an integer of 53 bits, further up.
    digits = np.clip(exponent, -1, _DIGITS)
    integers = np.rint(np.ldexp(fraction, digits.astype(np.int32))).astype(np.int64)
    place, shift = np.divmod(np.where(integers == 0, 0, np.maximum(exponent - _DIGITS, 0)), _BITS)
    size, sign = np.abs(integers), np.sign(integers)
    limbs = np.zeros((len(numbers), window.limbs + 2), np.int64)
    low = (size & ((np.int64(1) << (_BITS - shift)) - 1)) << shift
    rest = size >> (_BITS - shift)
    each = np.arange(len(numbers))
    for k, part in enumerate((low, rest & _MASK, rest >> _BITS)):
        limbs[each, place + k] += sign * part
    limbs[:, window.limbs - 1] += np.where(beyond, _BEYOND, 0)
    return limbs[:, : window.limbs]


def of_limbs(total: Integers, window: Window) -> Floats:
    """The numbers again, each rounded once; infinite where one client's was beyond the window."""
    return np.array([_number(limbs, window) for limbs in total.tolist()], np.float64)


def _number(limbs: list[int], window: Window) -> float:
    if limbs[-1] >= _BEYOND >> 1:
        return math.inf
    whole = sum(limb << (_BITS * k) for k, limb in enumerate(limbs))
    try:
        if window.lowest < 0:
            return whole / (1 << -window.lowest)
        return float(whole << window.lowest)
    except OverflowError:
        return math.inf
