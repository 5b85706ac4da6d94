"""Words of 40 to 96 bits as bytes: little-endian planes, so that no word straddles another's bytes.

A plane holds the top bits of all words, the next one the bits below them. What is cut off rounds: of
vectors' words without a bias, halves to even. A bias would add up over the rows of a sum, to seven times
the noise of a million, the same for every vector.
"""

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Words
from vfl.crypto.lattice import wide
from vfl.crypto.lattice.parameters import HALF_WORD, MODULUS_BITS, PAIR, PAIR_WORD, Modulus

# Widths of a word's planes, top first, by its length.
_PLANES = {48: (32, 16), 56: (32, 16, 8), 64: (64,)}
_HALVES_CUT = PAIR.bits - PAIR_WORD


def pack(words: NDArray[np.uint64], bits: int) -> bytes:
    """The top `bits` bits (48, 56 or 64) of words of any shape, rounded modulo 2^64, halves to even."""
    if cut := MODULUS_BITS - bits:
        up = words >> np.uint64(cut)
        up &= np.uint64(1)
        up += np.uint64((1 << cut - 1) - 1)
        words = np.add(words, up, out=up)
    planes, left = [], MODULUS_BITS
    for width in _PLANES[bits]:
        left -= width
        plane = words >> np.uint64(left) if left else words
        planes.append(plane.astype(f"<u{width // 8}", copy=False).tobytes())
    return b"".join(planes)


def unpack(data: memoryview, bits: int, shape: tuple[int, ...]) -> NDArray[np.uint64]:
    """Words of `shape` from pack's bytes, zero below `bits`. Raises ValueError on a wrong size."""
    count = int(np.prod(shape))
    _check_size(data, count * bits // 8)
    out = np.zeros(0, np.uint64)
    left, at = MODULUS_BITS, 0
    for width in _PLANES[bits]:
        left -= width
        plane = np.frombuffer(data, f"<u{width // 8}", count, at).astype(np.uint64)
        if left:
            plane <<= np.uint64(left)
        out = np.bitwise_or(out, plane, out=out) if at else plane
        at += count * width // 8
    return out.reshape(shape)


def pack_halves(halves: Words) -> bytes:
    """Halves of pairs' words, below 2^40, of any shape."""
    return (halves >> np.uint64(8)).astype("<u4").tobytes() + halves.astype(np.uint8).tobytes()


def unpack_halves(data: memoryview, shape: tuple[int, ...]) -> Words:
    """Halves of `shape` from pack_halves' bytes. Raises ValueError on a wrong size."""
    count = int(np.prod(shape))
    _check_size(data, count * HALF_WORD // 8)
    tops = np.frombuffer(data, "<u4", count).astype(np.uint64) << np.uint64(8)
    return (tops | np.frombuffer(data, np.uint8, count, 4 * count)).reshape(shape)


def joined_halves(sums: NDArray[np.int64]) -> Words:
    """Wide words (..., count, 2) of sums of halves (..., 2 count): of each the lower and the upper."""
    lower, upper = wide.of(sums[..., 0::2]), wide.of(sums[..., 1::2])
    joined = wide.left(wide.plus(lower, wide.left(upper, HALF_WORD)), _HALVES_CUT)
    return wide.reduced(joined, PAIR.bits)


def pack_hint(numbers: Words, modulus: Modulus) -> bytes:
    """Wide words (..., 2) modulo Q, rounded to their top `sent_bits`: 64 of them, then the others."""
    cut, below = modulus.hints.bits - modulus.sent_bits, modulus.sent_bits - wide.WORD
    half = wide.of(np.full(1, 1 << (cut - 1), np.uint64))
    rounded = wide.right(wide.plus(numbers, np.broadcast_to(half, numbers.shape)), cut)
    top, rest = wide.right(rounded, below)[..., 0], rounded[..., 0] & np.uint64((1 << below) - 1)
    return top.astype("<u8").tobytes() + rest.astype(f"<u{below // 8}").tobytes()


def unpack_hint(data: memoryview, modulus: Modulus, shape: tuple[int, ...]) -> Words:
    """Wide words (*shape, 2) from pack_hint's bytes. Raises ValueError on a wrong size."""
    count, below = int(np.prod(shape)), modulus.sent_bits - wide.WORD
    _check_size(data, count * modulus.sent_bits // 8)
    out = wide.left(wide.of(np.frombuffer(data, "<u8", count).astype(np.uint64)), below)
    out[:, 0] |= np.frombuffer(data, f"<u{below // 8}", count, 8 * count)
    return wide.left(out, modulus.hints.bits - modulus.sent_bits).reshape(*shape, 2)


def _check_size(data: memoryview, size: int) -> None:
    if len(data) != size:
        raise ValueError(f"{len(data):,} bytes where {size:,} are due")
