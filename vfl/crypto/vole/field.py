"""The field GF(2^128), on many elements at a time.

Elements are 16 bytes, written as GCM writes them (NIST SP 800-38D, section 6.3): bit 7 of the first byte
is the coefficient of x^0, bit 0 of the last that of x^127, modulo x^128 + x^7 + x^2 + x + 1. So a sum of
elements times powers of one is a GHASH, which OpenSSL computes at the speed of memory.
"""

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from vfl.arrays import Bytes, Words
from vfl.blocks.cores import spread
from vfl.kernels import kernel

ELEMENT = 16  # bytes
_MODULUS = 0xE1 << 120


def times(one: bytes, other: bytes) -> bytes:
    """The product of two elements."""
    factor, multiple, product = int.from_bytes(one, "big"), int.from_bytes(other, "big"), 0
    for bit in range(127, -1, -1):
        if factor >> bit & 1:
            product ^= multiple
        multiple = _times_x(multiple)
    return product.to_bytes(ELEMENT, "big")


class Multiples:
    """The multiples of one element, looked up byte by byte."""

    def __init__(self, element: bytes) -> None:
        table = np.zeros((ELEMENT, 256, 2), np.uint64)
        multiple = int.from_bytes(element, "big")
        for byte in table:
            for bit in range(7, -1, -1):
                byte[1 << bit] = np.frombuffer(multiple.to_bytes(ELEMENT, "big"), np.uint64)
                multiple = _times_x(multiple)
            for bit in range(1, 8):
                half = 1 << bit
                byte[half + 1 : 2 * half] = byte[1:half] ^ byte[half]
        self._table = table

    def add_to(self, sums: Bytes, factors: Bytes) -> None:
        """Add the element times each of `factors` (n, 16) to `sums` (n, 16), in place."""
        totals, table = sums.view(np.uint64), self._table
        rows = np.require(factors, requirements=["C", "W"])
        spread(lambda start, stop: _add(rows[start:stop], table, totals[start:stop]), len(rows))

    def of(self, factor: bytes) -> bytes:
        """The element times `factor`."""
        product = np.zeros((1, ELEMENT), np.uint8)
        self.add_to(product, np.frombuffer(factor, np.uint8).reshape(1, ELEMENT))
        return product.tobytes()


@kernel
def _add(factors: Bytes, table: Words, totals: Words) -> None:
    for row in range(len(factors)):
        low, high = totals[row, 0], totals[row, 1]
        for byte in range(16):
            of = factors[row, byte]
            low ^= table[byte, of, 0]
            high ^= table[byte, of, 1]
        totals[row, 0], totals[row, 1] = low, high


def polynomial(coefficients: Bytes, key: bytes) -> bytes:
    """The sum of coefficients (n, 16) times h^(n + 1), ..., h^2, where h is AES-128 of zero under `key`.

    GCM's tag of a text that is only authenticated is this, plus h times the text's length and a constant
    of the key, which are taken off. The cipher hides nothing here: the key is known to both sides.
    """
    nonce = bytes(12)
    tag = AESGCM(key).encrypt(nonce, b"", np.ascontiguousarray(coefficients).data)
    cipher = block_cipher(key)
    h, constant = cipher.update(bytes(16)), cipher.update(nonce + b"\0\0\0\1")
    length = (8 * coefficients.size).to_bytes(8, "big") + bytes(8)
    return added(tag, added(constant, times(length, h)))


def block_cipher(key: bytes) -> CipherContext:
    """AES-128, a block at a time: as a random permutation under a key that all may know, not to hide."""
    return Cipher(algorithms.AES128(key), modes.ECB()).encryptor()  # noqa: S305


def added(one: bytes, other: bytes) -> bytes:
    """The sum of two elements, which is their difference too."""
    return (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).to_bytes(ELEMENT, "big")


def combined(bits: Bytes) -> Bytes:
    """Each element (n, 16) whose coefficients of x^0, x^1, ... are scaled by elements (n, 128, 16)."""
    total = np.zeros((len(bits), 2), np.uint64)
    _horner(np.require(bits, requirements=["C", "W"]).view(np.uint64), total)
    return total.view(np.uint8)


@kernel
def _horner(scaled: Words, total: Words) -> None:
    """The sum of scaled[i, k] x^k, highest first; words are swapped to be shifted."""
    for row in range(len(scaled)):
        first, second = np.uint64(0), np.uint64(0)  # the coefficients of x^0 to x^63, and from x^64 on
        for k in range(scaled.shape[1] - 1, -1, -1):
            over = np.uint64(0) - (second & np.uint64(1))
            second = (second >> np.uint64(1)) | (first << np.uint64(63))
            first = (first >> np.uint64(1)) ^ (over & np.uint64(0xE100000000000000))
            first ^= _swapped(scaled[row, k, 0])
            second ^= _swapped(scaled[row, k, 1])
        total[row, 0], total[row, 1] = _swapped(first), _swapped(second)


@kernel
def _swapped(word: np.uint64) -> np.uint64:
    """The word's bytes the other way round."""
    low = np.uint64(0x00FF00FF00FF00FF)
    word = ((word >> np.uint64(8)) & low) | ((word & low) << np.uint64(8))
    low = np.uint64(0x0000FFFF0000FFFF)
    word = ((word >> np.uint64(16)) & low) | ((word & low) << np.uint64(16))
    return (word >> np.uint64(32)) | (word << np.uint64(32))


def _times_x(element: int) -> int:
    return (element >> 1) ^ (_MODULUS if element & 1 else 0)
