"""A binary linear code of length 468 and dimension 76 with words at least 128 bits apart.

The BCH code [511, 76, 171] (Hocquenghem 1959; Bose, Ray-Chaudhuri 1960), narrow-sense: its words are
the multiples of the polynomial whose zeros are a^1, ..., a^170 and their conjugates, for a generator a
of the field of 512 elements. 170 consecutive zeros make each word other than 0 weigh 171 at least (the
BCH bound). 43 of the 511 places are left out: two words still differ in 128.

Messages are rows of 16 bytes, of which the first 76 bits count (bit 0 is the lowest of the first byte);
words are rows of 64 bytes, whose bits from 468 on are zero.
"""

import functools

import numpy as np

from vfl.arrays import Bytes, Words
from vfl.blocks.cores import spread
from vfl.kernels import kernel

LENGTH = 468
DIMENSION = 76
DISTANCE = 128
MESSAGE = 16  # bytes of a message
WORD = 64  # bytes of a word


_FULL = 511  # places before some are left out
_ZEROS = 170
_FIELD = 0b1000010001  # x^9 + x^4 + 1, primitive
_LOOKED_UP = -(-DIMENSION // 8)  # bytes of a message that count


def encode(messages: Bytes) -> Bytes:
    """The words (n, 64) of messages (n, 16)."""
    if messages.dtype != np.uint8 or messages.ndim != 2 or messages.shape[1] != MESSAGE:
        raise ValueError(f"messages must be a uint8 array of shape (n, {MESSAGE})")
    rows, table = np.require(messages, requirements=["C", "W"]), _table()
    words = np.empty((len(rows), WORD // 8), np.uint64)
    spread(lambda start, stop: _encode(rows[start:stop], table, words[start:stop]), len(rows))
    return words.view(np.uint8)


@kernel
def _encode(messages: Bytes, table: Words, words: Words) -> None:
    for row in range(len(words)):
        for w in range(words.shape[1]):
            words[row, w] = 0
        for byte in range(table.shape[0]):
            of = messages[row, byte]
            for w in range(words.shape[1]):
                words[row, w] ^= table[byte, of, w]


@functools.cache
def _table() -> Words:
    """The words of all messages that have one byte other than 0: (bytes, 256, 8)."""
    generator = generator_polynomial()
    table = np.zeros((_LOOKED_UP, 256, WORD // 8), np.uint64)
    for bit in range(DIMENSION):
        word = (generator << bit) & ((1 << LENGTH) - 1)
        row = np.frombuffer(word.to_bytes(WORD, "little"), np.uint64)
        half = 1 << bit % 8
        table[bit // 8, half : 2 * half] = table[bit // 8, :half] ^ row
    for byte in table[-1:]:  # bits beyond the dimension say nothing
        known = 1 << (DIMENSION - 1) % 8 + 1
        byte[known:] = np.tile(byte[:known], (256 // known - 1, 1))
    return table


def generator_polynomial() -> int:
    """The code's generator polynomial over GF(2), a bit a coefficient."""
    power = [1]  # of a
    while len(power) < _FULL:
        double = power[-1] << 1
        power.append(double ^ _FIELD if double >> 9 else double)
    logarithm = {value: exponent for exponent, value in enumerate(power)}

    def times(one: int, other: int) -> int:
        return power[(logarithm[one] + logarithm[other]) % _FULL] if one and other else 0

    product, done = 1, set[int]()
    for exponent in range(1, _ZEROS + 1):
        if exponent in done:
            continue
        conjugates = {exponent * 2**k % _FULL for k in range(9)}
        done |= conjugates
        minimal = [1]  # of all conjugates, the lowest coefficient first, in the field
        for zero in conjugates:
            shifted = [0, *minimal]
            minimal = [
                high ^ times(power[zero], low) for high, low in zip(shifted, [*minimal, 0], strict=True)
            ]
        # Its coefficients are 0 or 1: multiply over GF(2).
        product = functools.reduce(
            int.__xor__, (product << k for k, coefficient in enumerate(minimal) if coefficient)
        )
    return product
