"""Words of 48 to 80 bits as bytes: little-endian planes, so that no word straddles another's bytes.

A plane holds the top bits of all words, the next one the bits below them. What is cut off rounds: of
vectors' words without a bias, halves to even. A bias would add up over the rows of a sum, to seven times
the noise of a million, the same for every vector.
"""

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.lattice.parameters import HINT_BITS, MODULUS_BITS, SENT_BITS

# Widths of a word's planes, top first, by its length.
_PLANES = {48: (32, 16), 56: (32, 16, 8), 64: (64,)}
_FRACTION = SENT_BITS - MODULUS_BITS
_CUT = HINT_BITS - SENT_BITS


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


def pack80(whole: NDArray[np.uint64], fraction: NDArray[np.uint32]) -> bytes:
    """Words whole * 2^32 + fraction of 96 bits, rounded to their top 80."""
    rounded = fraction.astype(np.uint64) + np.uint64(1 << (_CUT - 1))
    carried = whole + (rounded >> np.uint64(32))
    return (
        carried.astype("<u8").tobytes()
        + ((rounded >> np.uint64(_CUT)) & np.uint64((1 << _FRACTION) - 1)).astype("<u2").tobytes()
    )


def unpack80(data: memoryview, shape: tuple[int, ...]) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
    """Whole and fraction from pack80's bytes. Raises ValueError on a wrong size."""
    count = int(np.prod(shape))
    _check_size(data, count * SENT_BITS // 8)
    whole = np.frombuffer(data, "<u8", count).astype(np.uint64)
    fraction = np.frombuffer(data, "<u2", count, 8 * count).astype(np.uint32) << np.uint32(_CUT)
    return whole.reshape(shape), fraction.reshape(shape)


def _check_size(data: memoryview, size: int) -> None:
    if len(data) != size:
        raise ValueError(f"{len(data):,} bytes where {size:,} are due")
