"""From a few hundred oblivious transfers to millions, by a linear code: the extension and its check.

Orru, Orsini, Scholl, "Actively Secure 1-out-of-N OT Extension with Application to Private Set
Intersection" (CT-RSA 2017), in the line of Ishai et al. (CRYPTO 2003) and Kolesnikov, Kumaresan (CRYPTO
2013). C is the code of `vfl.crypto.linear_code`, l = 468 its length.

The chooser has messages d_i (rows of 16 bytes, of which 76 bits count) and both keys k_0, k_1 of l base
transfers; the keeper has a secret s of l bits and of each base transfer the key k_(s) of its bit. AES
in counter mode stretches each key to a column, a bit a row.

    Chooser: T_0, T_1 the columns of its keys; sends U = T_0 + T_1 + C(D); keeps the rows R of T_0.
    Keeper:  Q = T_s + s U, so that row i is q_i = r_i + s & C(d_i).       (+ is XOR, & is AND)

The keeper sees D behind the columns of the keys that it lacks. To the chooser, for a message m other
than d_i the row q_i + s & C(m) = r_i + s & C(d_i + m) has the 128 and more secret bits of s where C(d_i
+ m) is 1.

A chooser that deviates could send columns that are of no words and so ask for single bits of s. The
check: L is a universal linear hash of a column to 256 bits (two GHASHs, NIST SP 800-38D, under keys
that are a hash of U and of all that came before, so that U is fixed first). The chooser sends t = L(T_0)
and w = L(D); the keeper holds L(Q) against t + s & C(w), column by column. At least 256 rows of random
messages at the head of each part make w uniform; t follows from what the keeper has. To pass with
columns that are of no words one must guess a bit of s for each of them, and a wrong guess ends the run;
or else find a hash that hides them. Let r be the rank of the errors modulo the code: to pass takes r
right guesses (2^-r), or 2^(237 - r) trials of a hash to do with fewer, in parts of up to 2^16 rows.

Sources of the check and its analysis: the paper above; Keller, Orsini, Scholl (CRYPTO 2015); Roy,
"SoftSpokenOT" (CRYPTO 2022), for universal hashes in place of random sums.
"""

import numpy as np

from vfl.arrays import Bytes
from vfl.crypto import linear_code
from vfl.crypto.columns import SUM, challenge, linear_hashes, stream, stretched, transposed
from vfl.crypto.linear_code import LENGTH, MESSAGE
from vfl.crypto.linear_code import WORD as ROW
from vfl.crypto.randomness import Entropy

MASKING = 256  # rows of random messages in each part, and bits of a sum
_STEP = 128  # rows come in multiples of a block of GHASH

SUMS = (LENGTH + linear_code.DIMENSION) * SUM  # bytes of a part's sums


class Inconsistent(ValueError):
    """Columns that are of no words of the code: the chooser deviates."""


def column_bytes(rows: int) -> int:
    """Bytes of a column of a part with so many messages."""
    return -(-(rows + MASKING) // _STEP) * _STEP // 8


class Chooser:
    """The side with the messages. `keys`: both keys of each base transfer (l, 2, 16)."""

    def __init__(self, keys: Bytes, transcript: bytes, entropy: Entropy) -> None:
        """`transcript`: what both sides have seen before, hashed."""
        self._streams = [[stream(key) for key in pair] for pair in keys]
        self._transcript, self._entropy = transcript, entropy

    def extend(self, messages: Bytes) -> tuple[Bytes, bytes, bytes]:
        """(R, U, sums) of the next messages (n, 16): R (n, 64) is kept, the others are sent."""
        size = column_bytes(len(messages))
        masking = 8 * size - len(messages)
        drawn = np.frombuffer(bytearray(self._entropy(MESSAGE * masking)), np.uint8)
        rows = np.concatenate([drawn.reshape(masking, MESSAGE), messages])
        first = stretched([pair[0] for pair in self._streams], size)
        sent = stretched([pair[1] for pair in self._streams], size)
        sent ^= first
        sent ^= transposed(linear_code.encode(rows))[:LENGTH]
        self._transcript, keys = challenge(self._transcript, sent)
        of_messages = transposed(rows)[: linear_code.DIMENSION]
        sums = linear_hashes(first, keys).tobytes() + linear_hashes(of_messages, keys).tobytes()
        return _rows(first)[masking:], sent.tobytes(), sums


class Keeper:
    """The side with the secret `chosen` (l bits of 0 or 1) and the key of each bit (l, 16)."""

    def __init__(self, chosen: Bytes, keys: Bytes, transcript: bytes) -> None:
        self._streams = [stream(key) for key in keys]
        self._chosen = np.where(chosen, np.uint8(255), np.uint8(0)).reshape(LENGTH, 1)
        self._transcript = transcript
        self.secret: Bytes = np.packbits(chosen, bitorder="little")
        self.secret = np.concatenate([self.secret, np.zeros(ROW - len(self.secret), np.uint8)])

    def extend(self, rows: int, sent: bytes, sums: bytes) -> Bytes:
        """Q (rows, 64) of the next so many messages, from U and the sums. Raises Inconsistent."""
        size = column_bytes(rows)
        columns = np.frombuffer(sent, np.uint8).reshape(LENGTH, size)
        self._transcript, keys = challenge(self._transcript, columns)
        own = stretched(self._streams, size)
        own ^= columns & self._chosen
        claimed = np.frombuffer(sums, np.uint8).reshape(-1, SUM)
        of_messages = np.zeros((8 * MESSAGE, SUM), np.uint8)
        of_messages[: linear_code.DIMENSION] = claimed[LENGTH:]
        words = transposed(linear_code.encode(transposed(of_messages)))[:LENGTH]
        if not np.array_equal(linear_hashes(own, keys), claimed[:LENGTH] ^ (words & self._chosen)):
            raise Inconsistent("the columns are of no words of the code")
        return _rows(own)[8 * size - rows :]

    def mask(self, messages: Bytes) -> Bytes:
        """s & C(m) of messages (n, 16): (n, 64)."""
        return linear_code.encode(messages) & self.secret


def _rows(columns: Bytes) -> Bytes:
    """Columns (l, m / 8) as rows (m, 64), whose last bits are zero."""
    full = np.zeros((8 * ROW, columns.shape[1]), np.uint8)
    full[: len(columns)] = columns
    return transposed(full)
