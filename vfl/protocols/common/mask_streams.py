"""Masks that a host expands from a seed, and whoever knows the seed takes off again.

The two draw the same masks in the same order; each is uniform among the numbers that it is added to, so
that who sees the sum of both learns nothing.
"""

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from vfl.arrays import Words
from vfl.protocols.common.fellows import keyed_hash

SEED = 32  # bytes
_BEYOND = 16  # bytes by which a number is longer than its bound: nearer to uniform than anyone can tell


class MaskStream:
    """Masks in the order in which they are drawn."""

    def __init__(self, seed: bytes) -> None:
        self._seed, self._drawn = seed, 0

    def words(self, shape: tuple[int, ...]) -> Words:
        """Numbers below 2^64."""
        count = int(np.prod(shape))
        return np.frombuffer(self._bytes(8 * count), "<u8").astype(np.uint64).reshape(shape)

    def below(self, bound: int, count: int) -> list[int]:
        """Numbers below a bound."""
        size = (bound.bit_length() + 7) // 8 + _BEYOND
        stream = self._bytes(size * count)
        return [
            int.from_bytes(stream[start : start + size], "little") % bound
            for start in range(0, len(stream), size)
        ]

    def _bytes(self, count: int) -> bytes:
        # A key of its own for every draw: no keystream is ever used twice.
        key = keyed_hash(b"vfl sum masks", self._seed, self._drawn.to_bytes(16, "big")).digest()
        self._drawn += 1
        stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()
        return stream.update(bytes(count))
