"""Masks of rows on the wire: a bit an entry."""

import numpy as np

from vfl.arrays import Mask


def pack_bits(mask: Mask) -> bytes:
    """A bit an entry, the last byte filled with zeros."""
    return np.packbits(mask).tobytes()


def unpack_bits(data: bytes, count: int) -> Mask:
    """`count` entries. Raises ValueError when there are more or fewer."""
    if len(data) != -(-count // 8):
        raise ValueError("a wrong number of bits")
    return np.unpackbits(np.frombuffer(data, np.uint8), count=count).astype(np.bool_)
