"""Totals of many real numbers, in fixed point over several words, so that every client has the same.

A number is a multiple of 2^lowest, modulo 2^(36 digits), in digits of 36 bits, each a word of a total.
What digits carry is blurred, as in totals.py, so that the total tells the sum and hardly anything more.
What a client adds is right to the last bit of a double that is not below 2^lowest; the sum over clients
is exact and rounded once, whatever their order.

A further word says whether the number is none, infinite or beyond the window: 0, or else random. The
total is infinite then, and tells nothing of how many such numbers there are.
"""

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vfl.arrays import Floats, Integers
from vfl.protocols.pooled.adding import Adder
from vfl.protocols.pooled.totals import Entropy

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

_BELOW, _DIGITS = 84, 4  # bits below a unit; 136 bits in all


def around(unit: float) -> Window:
    """For numbers from 2^-31 to 2^51 units, to their last bit; smaller ones to 2^-84 units."""
    return Window(math.frexp(unit)[1] - _BELOW, _DIGITS) if 0 < unit < math.inf else Window(0, _DIGITS)


Piece = tuple[Floats, Window]


async def real_totals(
    adder: Adder, pieces: Sequence[Piece], what: str, entropy: Entropy = secrets.token_bytes
) -> list[Floats]:
    """The sums over all clients of several arrays, each of shape (numbers,)."""
    words = [in_words(numbers, window, entropy) for numbers, window in pieces]
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
    digits &= _MASK
    blur = _random(entropy, (len(numbers), window.digits - 1)) & ((1 << _BLUR) - 1)
    digits[:, :-1] += blur << _BITS
    digits[:, 1:] -= blur
    further = np.where(beyond, _random(entropy, (len(numbers),)), 0)
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
