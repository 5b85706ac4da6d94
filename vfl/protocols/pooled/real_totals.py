"""Totals of real numbers, in fixed point over several words, so that every client has the same.

A number is a multiple of 2^lowest, modulo 2^(36 digits), in digits of 36 bits, each a word of a total.
What digits carry is blurred, so that the total tells the sum and hardly anything more: a carry shows
once in 2^20 / clients times. The sum over clients is exact and rounded once, whatever their order.

- *Many numbers* (`real_totals`): what a client adds is right to the last bit of a double that is not
  below 2^lowest of its window; its own sums over its rows are rounded before.
- *The sum over all rows* (`ExactSum`): every float64 is a whole multiple of 2^-1152, so that a client's
  own sum is exact, too, as a whole number of 2268 bits: the same however rows lie at clients.

A further word says whether a number is none, infinite or beyond the window: 0, or else random. The
total is infinite then, and tells nothing of how many such numbers there are.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vfl.arrays import Floats, Integers, Mask
from vfl.crypto.randomness import Entropy
from vfl.protocols.pooled.adding import Adder

_BITS = 36
_MASK = (1 << _BITS) - 1
_BLUR = 20  # bits: a carry shows once in 2^20 / clients times; 64 clients stay within a word
_HEADROOM = 8  # bits: the sign, and sums over 64 clients
_DOUBLE = 53  # bits of a double


@dataclass(frozen=True)
class Window:
    """Which numbers can be added: multiples of 2^lowest, below 2^(lowest + 36 digits - 8)."""

    lowest: int
    digits: int


ANY = Window(-1104, 62)
"""All doubles from 2^-1051 on, to their last bit; for few numbers."""

EXACT = Window(-1152, 63)
"""All doubles, to their last bit, and their sums over 2^31 rows of each of 64 clients."""
SUM_WORDS = EXACT.digits + 1

_BELOW, _DIGITS = 84, 4  # bits below a unit; 136 bits in all


def around(unit: float) -> Window:
    """For numbers from 2^-31 to 2^51 units, to their last bit; smaller ones to 2^-84 units."""
    return Window(math.frexp(unit)[1] - _BELOW, _DIGITS) if 0 < unit < math.inf else Window(0, _DIGITS)


Piece = tuple[Floats, Window]


async def real_totals(adder: Adder, pieces: Sequence[Piece], what: str) -> list[Floats]:
    """The sums over all clients of several arrays, each of shape (numbers,)."""
    words = [in_words(numbers, window, adder.entropy) for numbers, window in pieces]
    total = await adder.total(np.concatenate([part.reshape(-1) for part in words]), what)
    sums, first = [], 0
    for part, (_, window) in zip(words, pieces, strict=True):
        sums.append(of_words(total[first : first + part.size].reshape(part.shape), window))
        first += part.size
    return sums


def in_words(numbers: Floats, window: Window, entropy: Entropy) -> Integers:
    """The digits of each number, lowest first, and its further word; shape (numbers, digits + 1)."""
    fraction, exponent = np.frexp(numbers)
    exponent = exponent.astype(np.int64) - window.lowest
    most = _BITS * window.digits - _HEADROOM
    beyond = ~np.isfinite(numbers) | ((numbers != 0) & (exponent > most))
    # What lies below the window is rounded; the rest is an integer of 53 bits, further up.
    bits = np.clip(exponent, -1, _DOUBLE).astype(np.int32)
    integers = np.rint(np.ldexp(np.where(beyond, 0.0, fraction), bits)).astype(np.int64)
    place, shift = np.divmod(np.where(integers == 0, 0, np.maximum(exponent - _DOUBLE, 0)), _BITS)
    size, sign = np.abs(integers), np.sign(integers)
    rest = size >> (_BITS - shift)
    parts = (size & ((np.int64(1) << (_BITS - shift)) - 1)) << shift, rest & _MASK, rest >> _BITS
    digits = np.zeros((len(numbers), window.digits + 2), np.int64)
    for k, part in enumerate(parts):
        digits[np.arange(len(numbers)), place + k] += sign * part
    digits = digits[:, : window.digits]
    for k in range(window.digits - 1):
        digits[:, k + 1] += digits[:, k] >> _BITS
    return _blurred(digits & _MASK, beyond, entropy)


def _blurred(digits: Integers, beyond: Mask, entropy: Entropy) -> Integers:
    """Digits with what they carry hidden, and the further word of each number."""
    count, places = digits.shape
    blur = _random(entropy, (count, places - 1)) & ((1 << _BLUR) - 1)
    digits[:, :-1] += blur << _BITS
    digits[:, 1:] -= blur
    further = np.where(beyond, _random(entropy, (count,)), 0)
    return np.concatenate([digits, further[:, None]], axis=1)


def of_words(total: Integers, window: Window) -> Floats:
    """The numbers again, each rounded once; infinite where one client's was beyond the window."""
    return np.array([_number(words, window) for words in total.tolist()], np.float64)


def _number(words: list[int], window: Window) -> float:
    *digits, further = words
    if further:
        return math.inf
    modulus = 1 << _BITS * window.digits
    whole = sum(digit << (_BITS * k) for k, digit in enumerate(digits)) % modulus
    whole -= modulus if 2 * whole >= modulus else 0
    try:
        if window.lowest < 0:
            return whole / (1 << -window.lowest)
        return float(whole << window.lowest)
    except OverflowError:
        return math.inf


def _random(entropy: Entropy, shape: tuple[int, ...]) -> Integers:
    return np.frombuffer(entropy(8 * math.prod(shape)), "<i8").reshape(shape)


# ------------------------------------------------------------------------- sums over all rows, exact


class ExactSum:
    """The exact sum of real numbers, as a whole number of units of 2^-1152."""

    def __init__(self, values: Floats) -> None:
        self.finite = bool(np.isfinite(values).all())
        """Whether all of them are; the sum is 0 otherwise."""
        self.units = _units(values) if self.finite else 0

    def in_words(self, entropy: Entropy) -> Integers:
        """Its part of a total, SUM_WORDS words."""
        whole = self.units % (1 << _BITS * EXACT.digits)
        digits = [whole >> _BITS * k & _MASK for k in range(EXACT.digits)]
        words = _blurred(np.array([digits], np.int64), np.array([not self.finite]), entropy)
        return words.reshape(-1)


def _units(values: Floats) -> int:
    mantissa, exponent = np.frexp(values)
    whole = (mantissa * 2.0**_DOUBLE).astype(np.int64)
    places = exponent.astype(np.int64) - EXACT.lowest - _DOUBLE
    # By place, in two halves: each sum stays within 63 bits for 2^31 numbers.
    halves = np.zeros((2, int(places.max(initial=0)) + 1), np.int64)
    np.add.at(halves[0], places, whole & 0xFFFFFFFF)
    np.add.at(halves[1], places, whole >> 32)
    used = np.flatnonzero(halves.any(axis=0)).tolist()
    return sum((int(halves[0, at]) + (int(halves[1, at]) << 32)) << at for at in used)


def sum_of_words(total: Integers) -> float:
    """The float64 next to an exact sum; NaN where a number was not finite, or the sum is too large."""
    number = _number(total.tolist(), EXACT)
    return number if math.isfinite(number) else math.nan
