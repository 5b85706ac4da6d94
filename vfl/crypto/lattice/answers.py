"""The host's answers: its sums less the opened products, flooded and cut short; and their opening.

    sums M c = hint s + M e + 2^scale M v, opened products w = hint s + u: the answer is
    M c - w + flooding, whose low bits the flooding fills are not sent. The guest adds u and rounds.

The fraction of w is rounded at random: so the little noise in it, which the host's key makes, moves an
answer by a fraction of one under flooding of many millions.
"""

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.lattice.hint import Opened
from vfl.crypto.lattice.parameters import MODULUS_BITS, Parameters
from vfl.crypto.lattice.randomness import KEY, gaussian, words
from vfl.crypto.randomness import Entropy


def seal(
    parameters: Parameters,
    sums: NDArray[np.uint64],
    opened: Opened,
    entropy: Entropy,
) -> bytes:
    """The answer to (count, outputs) sums: parameters.answer_bytes(count)."""
    p = parameters
    if sums.shape != opened.whole.shape:
        raise ValueError(f"sums of shape {sums.shape} and products of shape {opened.whole.shape}")
    key = entropy(KEY)
    flood = gaussian(key, "flood", sums.size, p.flood).reshape(sums.shape)
    dither = words(key, "dither", sums.size).reshape(sums.shape) >> np.uint64(32)
    up = (opened.fraction > dither).astype(np.uint64)
    answer = sums - opened.whole - up + flood.view(np.uint64)
    if p.drop_bits:
        answer = (answer + np.uint64(1 << (p.drop_bits - 1))) >> np.uint64(p.drop_bits)
    size = (MODULUS_BITS - p.drop_bits) // 8
    return answer.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :size].tobytes()


def unseal(
    parameters: Parameters, answer: bytes | memoryview, masks: NDArray[np.uint64], hidden: bool = False
) -> NDArray[np.int64]:
    """The exact sums, int64 (count, outputs), of an answer and the masks of EncryptedHint.multiply.

    `hidden`: the host added masks of its own to the sums, whatever then comes of them is possible.

    Raises ValueError on a wrong size, and for words that are not nearer than `Parameters.reach` to a
    sum, or too large: no honest host sends them.
    """
    sums = rounded(parameters, unsealed_words(parameters, answer, masks))
    if not hidden and (np.abs(sums) > parameters.bound).any():
        raise ValueError("an answer is not what sums of these vectors can be")
    return sums


def unsealed_words(
    parameters: Parameters, answer: bytes | memoryview, masks: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    """The words of an answer that `rounded` makes sums of. Raises ValueError on a wrong size."""
    p = parameters
    count = len(masks)
    if len(answer) != p.answer_bytes(count):
        raise ValueError(f"{len(answer):,} bytes of answers where {p.answer_bytes(count):,} are due")
    size = (MODULUS_BITS - p.drop_bits) // 8
    padded = np.zeros((masks.size, 8), np.uint8)
    padded[:, :size] = np.frombuffer(answer, np.uint8).reshape(-1, size)
    return (padded.view("<u8").astype(np.uint64).reshape(masks.shape) << np.uint64(p.drop_bits)) + masks


def blurred(parameters: Parameters, values: NDArray[np.uint64], entropy: Entropy) -> NDArray[np.uint64]:
    """Words as who has read them passes them on to who rounds them: each plus a number of its own.

    A host knows its flooding. If it works together with who rounds, they would have hint s to the last
    bit otherwise, and with it s once it has as many outputs as s has coefficients. The numbers are
    uniform and below 1/32 of `Parameters.reach`, whatever their sign, so that words can be rounded as
    before.
    """
    bits = max(1, parameters.scale_bits - 6)
    drawn = words(entropy(KEY), "blur", values.size).reshape(values.shape)
    return values + (drawn >> np.uint64(MODULUS_BITS - bits)) - np.uint64(1 << bits - 1)


def rounded(parameters: Parameters, values: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The sums that words stand for. Raises ValueError for words that are not nearer than
    `Parameters.reach` to one."""
    p = parameters
    half = 1 << (p.scale_bits - 1)
    scaled = (values + np.uint64(half)).view(np.int64)
    sums = scaled >> p.scale_bits
    distance = np.abs(scaled - (sums << p.scale_bits) - half)
    if (distance >= p.reach).any():
        raise ValueError("an answer is not what sums of these vectors can be")
    return sums
