"""Matrices of bits by columns, as extensions of oblivious transfers use them: stretched, hashed, turned.

A column is a row of bytes, the lowest bit of a byte first.
"""

import hashlib

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from vfl.arrays import Bytes, Words
from vfl.kernels import kernel

SUM = 32  # bytes of a column's linear hash


def stream(key: Bytes) -> CipherContext:
    # A fresh key each, so that every stream may begin at 0.
    return Cipher(algorithms.AES128(key.tobytes()), modes.CTR(bytes(16))).encryptor()


def stretched(streams: list[CipherContext], size: int) -> Bytes:
    """The next `size` bytes of each stream: (l, size)."""
    zeros = bytes(size)
    joined = bytearray().join([stream.update(zeros) for stream in streams])
    return np.frombuffer(joined, np.uint8).reshape(len(streams), size)


def challenge(transcript: bytes, sent: Bytes) -> tuple[bytes, tuple[bytes, bytes]]:
    """The transcript with `sent`, and the two keys of the check."""
    digest = hashlib.sha256(transcript)
    digest.update(len(sent[0]).to_bytes(8, "big"))
    digest.update(np.ascontiguousarray(sent).data)
    transcript = digest.digest()
    keys = hashlib.sha256(b"vfl check of an extension" + transcript).digest()
    return transcript, (keys[:16], keys[16:])


def linear_hashes(columns: Bytes, keys: tuple[bytes, bytes]) -> Bytes:
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


def transposed(bits: Bytes) -> Bytes:
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
