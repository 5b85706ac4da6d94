"""Integers modulo 2^128 as two words each, the low one first: arrays (..., 2).

For what is few: hints, products with secrets, sums of outputs. Vectors have limbs of their own.
"""

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Integers, Words

WORD = 64
_SIZE = 2 * WORD // 8  # bytes


def of(numbers: Words | Integers) -> Words:
    """Words, or integers with a sign, shape (...)."""
    out = np.empty((*numbers.shape, 2), np.uint64)
    out[..., 0] = numbers
    out[..., 1] = 0 if numbers.dtype == np.uint64 else numbers >> 63
    return out


def plus(x: Words, y: Words) -> Words:
    """x + y."""
    out = x + y
    out[..., 1] += out[..., 0] < y[..., 0]
    return out


def minus(x: Words, y: Words) -> Words:
    """x - y."""
    out = x - y
    out[..., 1] -= x[..., 0] < y[..., 0]
    return out


def left(x: Words, bits: int) -> Words:
    """x 2^bits, bits below 64."""
    if not bits:
        return x
    out = x << np.uint64(bits)
    out[..., 1] |= x[..., 0] >> np.uint64(WORD - bits)
    return out


def right(x: Words, bits: int) -> Words:
    """x without its lowest bits, fewer than 64."""
    if not bits:
        return x
    out = x >> np.uint64(bits)
    out[..., 0] |= x[..., 1] << np.uint64(WORD - bits)
    return out


def reduced(x: Words, bits: int) -> Words:
    """x modulo 2^bits."""
    low, high = (np.uint64((1 << min(max(own, 0), WORD)) - 1) for own in (bits, bits - WORD))
    return np.asarray(x & np.array([low, high]))


def signed(x: Words, bits: int, dropped: int) -> Integers:
    """x, with a sign, modulo 2^bits, without its lowest `dropped` bits; what is left has 64 at most."""
    # Up to the top, so that the sign is that of a word, and down again.
    up = 2 * WORD - bits
    x = x if up < WORD else np.stack([np.zeros_like(x[..., 0]), x[..., 0]], axis=-1)
    x = left(x, up % WORD)
    down = up + dropped
    high = x[..., 1].view(np.int64)
    if down >= WORD:
        return np.asarray(high >> (down - WORD))
    return np.asarray(right(x, down)[..., 0].view(np.int64))


def to_bytes(x: Words, size: int) -> bytes:
    """The lowest `size` bytes of each, little-endian."""
    return np.ascontiguousarray(x, "<u8").view(np.uint8).reshape(-1, _SIZE)[:, :size].tobytes()


def from_bytes(data: bytes | memoryview, size: int, shape: tuple[int, ...]) -> Words:
    """Numbers (*shape, 2) from to_bytes' bytes."""
    padded: NDArray[np.uint8] = np.zeros((len(data) // size, _SIZE), np.uint8)
    padded[:, :size] = np.frombuffer(data, np.uint8).reshape(-1, size)
    return padded.view("<u8").astype(np.uint64, copy=False).reshape(*shape, 2)
