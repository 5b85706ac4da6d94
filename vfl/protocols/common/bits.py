"""Masks of rows on the wire: a bit an entry."""

import numpy as np

from vfl.arrays import Bytes, Mask


def pack_bits(mask: Mask) -> bytes:
    """A bit an entry, the last byte filled with zeros."""
    return np.packbits(mask).tobytes()


def unpack_bits(data: bytes, count: int) -> Mask:
    """`count` entries. Raises ValueError when there are more or fewer."""
    check_bits(data, count)
    return bits_between(data, 0, count)


def check_bits(data: bytes, count: int) -> None:
    """Raises ValueError where these are not `count` entries."""
    if len(data) != -(-count // 8):
        raise ValueError("a wrong number of bits")


def bits_between(data: bytes | Bytes, start: int, stop: int) -> Mask:
    """The entries from `start` to before `stop` of what has that many."""
    first, skipped = divmod(start, 8)
    whole = np.frombuffer(data, np.uint8)[first : -(-stop // 8)]
    return np.unpackbits(whole, count=skipped + stop - start).view(np.bool_)[skipped:]


class BitPacker:
    """A mask that is packed piece by piece."""

    def __init__(self) -> None:
        self._whole = bytearray()
        self._rest = np.zeros(0, np.bool_)  # of the last byte

    def add(self, mask: Mask) -> None:
        """Further entries."""
        mask = np.concatenate([self._rest, mask])
        whole = len(mask) // 8 * 8
        self._whole += pack_bits(mask[:whole])
        self._rest = mask[whole:]

    def packed(self) -> bytes:
        """All entries, as `pack_bits` has them."""
        return bytes(self._whole) + pack_bits(self._rest)
