"""Random words, secrets and errors from AES-256 in counter mode.

A stream is a key and a label. Public polynomials come from public keys, so that both parties have the
same; secrets and errors from the random numbers of the run. Draws are the same on any platform: those of
Gaussians too, whose logarithms and cosines are made of operations that IEEE 754 rounds in one way.
"""

import hashlib
import math

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from vfl.arrays import Bytes, Words
from vfl.crypto.lattice.parameters import ERROR_BITS
from vfl.kernels import inlined, kernel

KEY = 32

_BLOCK = 16
_PIECE = 1 << 20
_ZEROS = bytes(_PIECE)
_ERROR_MASK = np.uint64((1 << ERROR_BITS) - 1)
_THIRTY_TWO = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)


def derive(key: bytes, label: str) -> bytes:
    """A key of its own for a label: SHA-256 over both. Raises ValueError for a key of another size."""
    if len(key) != KEY:
        raise ValueError(f"a stream's key has {KEY} bytes, not {len(key)}")
    return hashlib.sha256(b"vfl lattice " + key + label.encode()).digest()


class WordStream:
    """A stream's uniform words from word `start` (even) on: AES-256-CTR, little-endian."""

    def __init__(self, key: bytes, label: str, start: int = 0) -> None:
        if start % 2:
            raise ValueError(f"a stream is read from an even word on, not from {start}")
        counter = (start * 8 // _BLOCK).to_bytes(_BLOCK, "big")
        self._stream = Cipher(algorithms.AES(derive(key, label)), modes.CTR(counter)).encryptor()

    def read(self, count: int, room: Bytes | None = None) -> Words:
        """The next words. In `room_for` so many, they are good until it is used again."""
        size = 8 * count
        out = room_for(count) if room is None else room
        view = out.data
        for at in range(0, size, _PIECE):
            part = min(_PIECE, size - at)
            self._stream.update_into(memoryview(_ZEROS)[:part], view[at : at + part + _BLOCK - 1])
        return out[:size].view("<u8").astype(np.uint64, copy=False)


def room_for(count: int) -> Bytes:
    """Room for so many words of a stream."""
    return np.empty(8 * count + _BLOCK, np.uint8)


def words(key: bytes, label: str, count: int, start: int = 0) -> Words:
    """`count` uniform words of a stream from word `start` (even) on."""
    return WordStream(key, label, start).read(count)


def ternary(key: bytes, label: str, count: int) -> NDArray[np.int8]:
    """`count` secret coefficients, uniform in -1, 0, 1 (up to 2^-62)."""
    return _ternary(words(key, label, count))


def errors(key: bytes, label: str, count: int) -> NDArray[np.int64]:
    """`count` errors: centred binomial, the difference of two sums of 21 bits.

    Its deviation, 3.24, is the standard's; exact, bounded by 21 and drawn without tables or branches
    (as in Microsoft SEAL, or Kyber with smaller sums).
    """
    return _errors(words(key, label, count))


def gaussian(key: bytes, label: str, count: int, deviation: float) -> NDArray[np.int64]:
    """`count` rounded Gaussians of a deviation up to 2^44, for flooding.

    Box-Muller on 53-bit uniforms: no draw lies beyond 8.6 deviations, where 2^-55 of the mass is.
    """
    pairs = words(key, label, count + count % 2)
    return _gaussian(pairs, deviation)[:count]


@inlined
def error(word: np.uint64) -> np.int64:
    """One centred binomial error from a uniform word."""
    first, second = word & _ERROR_MASK, (word >> np.uint64(ERROR_BITS)) & _ERROR_MASK
    return np.int64(_ones(first)) - np.int64(_ones(second))


@inlined
def _ones(x: np.uint64) -> np.uint64:
    # Hacker's Delight, figure 5-2; compilers turn it into vector code.
    x = x - ((x >> np.uint64(1)) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    x = x + (x >> np.uint64(8))
    x = x + (x >> np.uint64(16))
    x = x + (x >> np.uint64(32))
    return x & np.uint64(0x7F)


def _errors(drawn: Words) -> NDArray[np.int64]:
    out = np.empty(len(drawn), np.int64)
    _to_errors(drawn, out)
    return out


@kernel
def _to_errors(drawn: Words, out: NDArray[np.int64]) -> None:
    for i in range(drawn.shape[0]):
        out[i] = error(drawn[i])


def _ternary(drawn: Words) -> NDArray[np.int8]:
    out = np.empty(len(drawn), np.int8)
    _to_ternary(drawn, out)
    return out


@kernel
def _to_ternary(drawn: Words, out: NDArray[np.int8]) -> None:
    three = np.uint64(3)
    for i in range(drawn.shape[0]):
        # The high word of 3 x: 0, 1 or 2.
        low = ((drawn[i] & _LOW) * three) >> _THIRTY_TWO
        out[i] = np.int8(((drawn[i] >> _THIRTY_TWO) * three + low) >> _THIRTY_TWO) - np.int8(1)


def _gaussian(drawn: Words, deviation: float) -> NDArray[np.int64]:
    out = np.empty(len(drawn), np.int64)
    _to_gaussian(drawn, deviation, out)
    return out


@kernel
def _to_gaussian(drawn: Words, deviation: float, out: NDArray[np.int64]) -> None:
    eleven = np.uint64(11)
    for i in range(0, drawn.shape[0], 2):
        uniform = (np.float64(drawn[i] >> eleven) + 1.0) * 2.0**-53
        radius = deviation * math.sqrt(-2.0 * _log(uniform))
        # A turn is cut into quarters: the angle from the middle of the nearest is exact before the pi.
        turn = np.float64(drawn[i + 1] >> eleven) * 2.0**-51
        quarter = np.rint(turn)
        cosine, sine = _cosine_and_sine((turn - quarter) * (math.pi / 2))
        if np.int64(quarter) & 1:
            cosine, sine = -sine, cosine
        if np.int64(quarter) & 2:
            cosine, sine = -cosine, -sine
        out[i] = np.int64(np.rint(radius * cosine))
        out[i + 1] = np.int64(np.rint(radius * sine))


@inlined
def _log(x: float) -> float:
    """The natural logarithm, to a few units in the last place: 2 artanh((m - 1) / (m + 1)) of m between
    the roots of 1/2 and 2, by its series."""
    mantissa, exponent = math.frexp(x)
    if mantissa < 0.7071067811865476:
        mantissa, exponent = 2.0 * mantissa, exponent - 1
    ratio = (mantissa - 1.0) / (mantissa + 1.0)
    square, total = ratio * ratio, 0.0
    for odd in range(21, 1, -2):
        total = (total + 1.0 / odd) * square
    return exponent * 0.6931471805599453 + 2.0 * (ratio + ratio * total)


@inlined
def _cosine_and_sine(angle: float) -> tuple[float, float]:
    """Both, to a few units in the last place, of an angle of at most pi / 4, by their series."""
    square, cosine, sine = angle * angle, 1.0, 1.0
    for even in range(16, 0, -2):  # below 2^-60 after these
        cosine = 1.0 - cosine * (square * (1.0 / (even * (even - 1))))
        sine = 1.0 - sine * (square * (1.0 / (even * (even + 1))))
    return cosine, angle * sine
