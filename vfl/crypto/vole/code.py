"""Expand-convolute codes: short vectors that look random, from long ones that are nearly all zero.

Raghuraman, Rindal, Tanguy, "Expand-Convolute Codes for Pseudorandom Correlation Generators from LPN"
(CRYPTO 2023), after Boyle et al., "Correlated Pseudorandomness from Expand-Accumulate Codes" (CRYPTO
2022). The code's generator, for words of 2 n places, is

    G = [ 1 | E C ]        n x 2 n over GF(2), for vectors over any field of characteristic 2.

C, the convolution, adds to each place the one before it and those of the 24 before that which random
bits pick. It is done twice, forwards and then backwards with other bits, so that whatever E picks is
spread over all of the word, also where it picks places near an end. E, the expander, adds 21 of n
places: 4 of them from a quarter of its own each, 17 from anywhere. Bits and places are AES in counter
mode under a public seed.

G e looks random for a vector e with random elements in t places, one in each of t parts, if the dual
form of learning parity with noise is hard for G. What is known of it is in docs/protocols.md. A test
that is linear in the output goes by a word of the code, and sees that the noise is elsewhere than
where the word is not zero: with (1 - d)^t for a word of relative weight d. (Over GF(2) it would be
(1 - 2 d)^t; in a large field noise does not cancel.) Words of weight 1/4 are found by elimination: for
t = 548 that is 2^-227. Lighter ones are sums of outputs none of which picks a place in some stretches of
the word. Where nothing comes in, a convolution is silent once its last 25 places are zero, and 101
outputs have a sum for which they are. Of n outputs (1 - s)^21 n pick none of a share s of the places: of
the million of a chunk, that leads to words of weight 0.16, and 2^-136. (With 7 places an output it would
be 0.064, and a told from random by 2^53 such words: `tests/test_vole.py`.)
"""

from collections.abc import Iterator, Sequence

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from numpy.typing import NDArray

from vfl.arrays import Bytes, Words
from vfl.blocks.cores import spread
from vfl.crypto.vole.field import ELEMENT

WEIGHT = 21
REGULAR = 4  # of them, from a part of its own each
AT_ONCE = 4  # vectors, at most, that are compressed side by side: a place of all is a line of a cache
_STEP = 1 << 12  # places whose randomness is made at a time


def compress(vectors: Sequence[Bytes], seed: bytes, room: Bytes) -> list[Bytes]:
    """G e (n, 16) of vectors e (2 n, 16), in their first halves; the rest is overwritten.

    seed: 16 bytes that both sides know. room: of as many bytes as what is returned of AT_ONCE of them.
    """
    words = [vector.view(np.uint64) for vector in vectors]
    while words:
        together = AT_ONCE if len(words) >= AT_ONCE else min(2, len(words))
        _compress(words[:together], seed, room)
        words = words[together:]
    return [vector[: len(vector) // 2] for vector in vectors]


def _compress(words: Sequence[Words], seed: bytes, room: Bytes) -> None:
    """The same of one, two or four vectors."""
    # numba takes a second to import.
    from vfl.crypto.vole.convolution import convolve
    from vfl.crypto.vole.expansion import expand, expand_four, expand_two

    n = len(words[0]) // 2
    # Side by side, so that a place of all is read at once.
    state = room[: ELEMENT * n * len(words)].view(np.uint64).reshape(n, 2 * len(words))
    for turn in (0, 1):
        bits = _stream(seed, turn, 4 * n).view(np.uint32)
        for number, one in enumerate(words):
            if turn:
                convolve(one[n:], state, 2 * number, bits, True)
            else:
                convolve(one[n:], one[n:], 0, bits, False)

    expand_all = {1: expand, 2: expand_two, 4: expand_four}[len(words)]

    def part(start: int, stop: int) -> None:
        sums = np.empty((_STEP, 2 * len(words)), np.uint64)
        for first, picked in _picked(seed, start, stop):
            some = sums[: len(picked)]
            expand_all(state, picked, REGULAR, some)
            for number, one in enumerate(words):
                one[first : first + len(some)] ^= some[:, 2 * number : 2 * number + 2]

    spread(part, n, _STEP)


def _picked(seed: bytes, start: int, stop: int) -> Iterator[tuple[int, NDArray[np.uint32]]]:
    """What E picks for the outputs from `start` on, some at a time (m, WEIGHT), and the first of them;
    good until the next ones. In memory that is at hand: new memory costs more than what is done."""
    each = 4 * WEIGHT
    block, skipped = divmod(each * start, 16)
    cipher = _cipher(seed, 2, block)
    cipher.update(bytes(skipped))
    zeros = memoryview(bytes(each * _STEP))
    room = np.empty(each * _STEP + 16, np.uint8)  # the cipher asks for room for a block more
    for first in range(start, stop, _STEP):
        count = min(_STEP, stop - first)
        cipher.update_into(zeros[: each * count], room.data)
        yield first, room[: each * count].view(np.uint32).reshape(count, WEIGHT)


def _stream(seed: bytes, number: int, size: int) -> Bytes:
    """The first bytes of one of the streams of a seed."""
    return np.frombuffer(bytearray(_cipher(seed, number, 0).update(bytes(size))), np.uint8)


def _cipher(seed: bytes, number: int, block: int) -> CipherContext:
    """One of the streams of a seed, from a block on."""
    nonce = number.to_bytes(8, "big") + block.to_bytes(8, "big")
    return Cipher(algorithms.AES128(seed), modes.CTR(nonce)).encryptor()
