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

import hashlib

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from vfl.arrays import Bytes, Words
from vfl.crypto import linear_code
from vfl.crypto.entropy import Entropy
from vfl.crypto.linear_code import LENGTH, MESSAGE
from vfl.crypto.linear_code import WORD as ROW
from vfl.kernels import kernel

MASKING = 256  # rows of random messages in each part, and bits of a sum
SUM = MASKING // 8
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
        self._streams = [[_stream(key) for key in pair] for pair in keys]
        self._transcript, self._entropy = transcript, entropy

    def extend(self, messages: Bytes) -> tuple[Bytes, bytes, bytes]:
        """(R, U, sums) of the next messages (n, 16): R (n, 64) is kept, the others are sent."""
        size = column_bytes(len(messages))
        masking = 8 * size - len(messages)
        drawn = np.frombuffer(bytearray(self._entropy(MESSAGE * masking)), np.uint8)
        rows = np.concatenate([drawn.reshape(masking, MESSAGE), messages])
        first = _columns([pair[0] for pair in self._streams], size)
        sent = _columns([pair[1] for pair in self._streams], size)
        sent ^= first
        sent ^= _transpose(linear_code.encode(rows))[:LENGTH]
        self._transcript, keys = _challenge(self._transcript, sent)
        of_messages = _transpose(rows)[: linear_code.DIMENSION]
        sums = _sums(first, keys).tobytes() + _sums(of_messages, keys).tobytes()
        return _rows(first)[masking:], sent.tobytes(), sums


class Keeper:
    """The side with the secret `chosen` (l bits of 0 or 1) and the key of each bit (l, 16)."""

    def __init__(self, chosen: Bytes, keys: Bytes, transcript: bytes) -> None:
        self._streams = [_stream(key) for key in keys]
        self._chosen = np.where(chosen, np.uint8(255), np.uint8(0)).reshape(LENGTH, 1)
        self._transcript = transcript
        self.secret: Bytes = np.packbits(chosen, bitorder="little")
        self.secret = np.concatenate([self.secret, np.zeros(ROW - len(self.secret), np.uint8)])

    def extend(self, rows: int, sent: bytes, sums: bytes) -> Bytes:
        """Q (rows, 64) of the next so many messages, from U and the sums. Raises Inconsistent."""
        size = column_bytes(rows)
        columns = np.frombuffer(sent, np.uint8).reshape(LENGTH, size)
        self._transcript, keys = _challenge(self._transcript, columns)
        own = _columns(self._streams, size)
        own ^= columns & self._chosen
        claimed = np.frombuffer(sums, np.uint8).reshape(-1, SUM)
        of_messages = np.zeros((8 * MESSAGE, SUM), np.uint8)
        of_messages[: linear_code.DIMENSION] = claimed[LENGTH:]
        words = _transpose(linear_code.encode(_transpose(of_messages)))[:LENGTH]
        if not np.array_equal(_sums(own, keys), claimed[:LENGTH] ^ (words & self._chosen)):
            raise Inconsistent("the columns are of no words of the code")
        return _rows(own)[8 * size - rows :]

    def mask(self, messages: Bytes) -> Bytes:
        """s & C(m) of messages (n, 16): (n, 64)."""
        return linear_code.encode(messages) & self.secret


def _stream(key: Bytes) -> CipherContext:
    # A fresh key each, so that every stream may begin at 0.
    return Cipher(algorithms.AES128(key.tobytes()), modes.CTR(bytes(16))).encryptor()


def _columns(streams: list[CipherContext], size: int) -> Bytes:
    """The next `size` bytes of each stream: (l, size)."""
    zeros = bytes(size)
    joined = bytearray().join([stream.update(zeros) for stream in streams])
    return np.frombuffer(joined, np.uint8).reshape(len(streams), size)


def _challenge(transcript: bytes, sent: Bytes) -> tuple[bytes, tuple[bytes, bytes]]:
    """The transcript with `sent`, and the two keys of the check."""
    digest = hashlib.sha256(transcript)
    digest.update(len(sent[0]).to_bytes(8, "big"))
    digest.update(np.ascontiguousarray(sent).data)
    transcript = digest.digest()
    keys = hashlib.sha256(b"vfl check of an extension" + transcript).digest()
    return transcript, (keys[:16], keys[16:])


def _sums(columns: Bytes, keys: tuple[bytes, bytes]) -> Bytes:
    """L of each column, (n, 32): linear in the column, two GHASHs.

    The tag of GCM over a text that is only authenticated is its GHASH and a constant, which the tag of
    as many zeros shows. The cipher hides nothing here: the key is known to both.
    """
    halves = []
    for key in keys:
        cipher, nonce = AESGCM(key), bytes(12)
        constant = np.frombuffer(cipher.encrypt(nonce, b"", bytes(columns.shape[1])), np.uint8)
        tags = b"".join([cipher.encrypt(nonce, b"", column.data) for column in columns])
        halves.append(np.frombuffer(tags, np.uint8).reshape(-1, SUM // 2) ^ constant)
    return np.concatenate(halves, axis=1)


def _rows(columns: Bytes) -> Bytes:
    """Columns (l, m / 8) as rows (m, 64), whose last bits are zero."""
    full = np.zeros((8 * ROW, columns.shape[1]), np.uint8)
    full[: len(columns)] = columns
    return _transpose(full)


def _transpose(bits: Bytes) -> Bytes:
    """A matrix of bits, the lowest of a byte first, the other way round; both sides in 64s."""
    rows, width = bits.shape
    turned = np.empty((8 * width, rows // 64), np.uint64)
    _transpose_squares(np.require(bits, requirements=["C", "W"]).view(np.uint64), turned)
    return turned.view(np.uint8)


@kernel
def _transpose_squares(source: Words, target: Words) -> None:
    """Squares of 64 by 64 bits; within one, halves are swapped at each power of two (Warren,
    "Hacker's Delight", section 7-3).
    """
    square = np.empty(64, np.uint64)
    for across in range(source.shape[1]):
        for down in range(target.shape[1]):
            for i in range(64):
                square[i] = source[64 * down + i, across]
            width, mask = 32, np.uint64(0x00000000FFFFFFFF)
            while width:
                shift = np.uint64(width)
                for start in range(0, 64, 2 * width):
                    for i in range(start, start + width):
                        swap = ((square[i] >> shift) ^ square[i + width]) & mask
                        square[i] ^= swap << shift
                        square[i + width] ^= swap
                width >>= 1
                mask ^= mask << np.uint64(width)
            for i in range(64):
                target[64 * across + i, down] = square[i]
