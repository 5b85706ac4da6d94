"""Correlated bits: products of many bits of one side and one secret of the other, as shares.

The receiver has bits c_i and both keys of 128 base transfers; the sender has a secret D of 128 bits and
of each base transfer the key of its bit. For each bit both get a row of 128 bits, t_i and q_i, with

    q_i = t_i + c_i D                                            (+ is XOR)

which is a transfer of two keys too: those of q_i and q_i + D, of which the receiver has the one of c_i.

Ishai, Kilian, Nissim, Petrank (CRYPTO 2003): AES stretches each key to a column, the receiver sends the
sum of both columns and of its bits, which the sender adds where its bit of D is 1. The sender sees the
bits behind the columns of the keys that it lacks. A receiver that deviates could send other bits in some
columns and so ask for bits of D: against it the check of `vfl.crypto.ot_extension`, whose code here is
the repetition of the bit. As there, each wrong column is a guess of a bit of D, and a wrong guess ends
the run: to guess some of D and then the rest is no easier than to guess the whole. 256 random bits in
each part make the sums that are sent uniform.
"""

import numpy as np

from vfl.arrays import Bytes
from vfl.crypto.columns import SUM, challenge, linear_hashes, stream, stretched, transposed
from vfl.crypto.randomness import Entropy

SECRET = 128  # bits of D, and of a row
ROW = SECRET // 8
SUMS = (SECRET + 1) * SUM  # bytes of a part's sums
_MASKING = 256
_STEP = 128  # bits come in multiples of a block of GHASH


class InconsistentBits(ValueError):
    """Columns that are not of the same bits: the receiver deviates."""


def column_bytes(count: int) -> int:
    """Bytes of a column of a part of so many bits."""
    return -(-(count + _MASKING) // _STEP) * _STEP // 8


class BitReceiver:
    """The side with the bits. `keys`: both keys of each base transfer (128, 2, 16)."""

    def __init__(self, keys: Bytes, transcript: bytes, entropy: Entropy) -> None:
        """`transcript`: what both sides have seen before, hashed."""
        self._streams = [[stream(key) for key in pair] for pair in keys]
        self.transcript, self._entropy = transcript, entropy

    def extend(self, bits: Bytes) -> tuple[Bytes, bytes, bytes]:
        """(rows, columns, sums) of the next bits (n,), 0 or 1: rows (n, 16) are kept."""
        size = column_bytes(len(bits))
        masking = 8 * size - len(bits)
        drawn = np.unpackbits(np.frombuffer(self._entropy(masking // 8 + 1), np.uint8))[:masking]
        packed = np.packbits(np.concatenate([drawn, bits]), bitorder="little")
        first = stretched([pair[0] for pair in self._streams], size)
        sent = stretched([pair[1] for pair in self._streams], size)
        sent ^= first
        sent ^= packed
        self.transcript, keys = challenge(self.transcript, sent)
        sums = linear_hashes(first, keys).tobytes() + linear_hashes(packed[np.newaxis], keys).tobytes()
        return transposed(first)[masking:], sent.tobytes(), sums


class BitSender:
    """The side with the secret: `chosen`, its bits (128,), 0 or 1, and the key of each (128, 16)."""

    def __init__(self, chosen: Bytes, keys: Bytes, transcript: bytes) -> None:
        self._streams = [stream(key) for key in keys]
        self._chosen = np.where(chosen, np.uint8(255), np.uint8(0)).reshape(SECRET, 1)
        self.transcript = transcript
        self.secret = np.packbits(chosen, bitorder="little").tobytes()

    def extend(self, count: int, columns: bytes, sums: bytes) -> Bytes:
        """The rows (n, 16) of the next so many bits, from what was sent. Raises InconsistentBits."""
        size = column_bytes(count)
        sent = np.frombuffer(columns, np.uint8).reshape(SECRET, size)
        self.transcript, keys = challenge(self.transcript, sent)
        own = stretched(self._streams, size)
        own ^= sent & self._chosen
        claimed = np.frombuffer(sums, np.uint8).reshape(SECRET + 1, SUM)
        if not np.array_equal(
            linear_hashes(own, keys), claimed[:SECRET] ^ (claimed[SECRET] & self._chosen)
        ):
            raise InconsistentBits("the columns are not of the same bits")
        return transposed(own)[8 * size - count :]
