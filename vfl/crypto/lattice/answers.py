"""The host's answers: its sums less the opened products, flooded and cut short; and their opening.

    sums M c = hint s + M e + 2^scale M v, opened products w = hint s + u: the answer is
    M c - w + flooding, whose low bits the flooding fills are not sent. The guest adds u and rounds.

The fraction of w is rounded at random: so the little noise in it, which the host's key makes, moves an
answer by a fraction of one under flooding of many millions.
"""

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Words
from vfl.crypto.lattice import wide
from vfl.crypto.lattice.hint import Opened, modulus_words
from vfl.crypto.lattice.parameters import MODULUS_BITS, Parameters
from vfl.crypto.lattice.randomness import KEY, gaussian, words
from vfl.crypto.randomness import Entropy


def seal(
    parameters: Parameters,
    sums: NDArray[np.uint64],
    opened: Opened,
    entropy: Entropy,
) -> bytes:
    """The answer to (count, outputs) sums, of pairs wide words: parameters.answer_bytes(count)."""
    p, modulus = parameters, parameters.modulus
    if sums.shape != opened.whole.shape:
        raise ValueError(f"sums of shape {sums.shape} and products of shape {opened.whole.shape}")
    key = entropy(KEY)
    size = opened.fraction.size
    shape = opened.fraction.shape
    flood = gaussian(key, "flood", size, p.flood).reshape(shape)
    drawn = words(key, "dither", size).reshape(shape)
    dither = drawn >> np.uint64(wide.WORD - modulus.fraction_bits)
    # Of the sums less the products; rounding up takes one more off.
    added = flood - (opened.fraction > dither)
    if p.drop_bits:
        added += 1 << (p.drop_bits - 1)
    difference = wide.minus(_wide(p, sums), _wide(p, opened.whole))
    answer = wide.reduced(wide.plus(difference, wide.of(added)), modulus.bits)
    return wide.to_bytes(wide.right(answer, p.drop_bits), p.answer_size)


def _wide(parameters: Parameters, numbers: Words) -> Words:
    return numbers if parameters.pairs else wide.of(numbers)


def unseal(
    parameters: Parameters, answer: bytes | memoryview, masks: NDArray[np.uint64], hidden: bool = False
) -> NDArray[np.int64]:
    """The exact sums, int64 (count, outputs), of an answer and the masks of EncryptedHint.multiply; of
    pairs (2 count, outputs), for each the sums of its first numbers and those of its second.

    `hidden`: the host added masks of its own to the sums, whatever then comes of them is possible, and
    of pairs they are not taken apart.

    Raises ValueError on a wrong size, and for words that are not nearer than `Parameters.reach` to a
    sum, or too large: no honest host sends them.
    """
    sums = rounded(parameters, unsealed_words(parameters, answer, masks))
    if not hidden and (np.abs(sums) > parameters.bound).any():
        raise ValueError("an answer is not what sums of these vectors can be")
    return _apart(parameters, sums) if parameters.pairs and not hidden else sums


def _apart(parameters: Parameters, sums: NDArray[np.int64]) -> NDArray[np.int64]:
    """The sums of both numbers of pairs. Raises ValueError where the first's are too large: those of the
    second are below the base whatever they are."""
    first, second = np.divmod(sums, parameters.base)
    if (np.abs(first) >= parameters.base).any():
        raise ValueError("an answer is not what sums of these vectors can be")
    return np.stack([first, second], axis=1).reshape(2 * len(sums), *sums.shape[1:])


def unsealed_words(
    parameters: Parameters, answer: bytes | memoryview, masks: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    """The words of an answer that `rounded` makes sums of, of pairs wide ones. Raises ValueError on a
    wrong size."""
    p = parameters
    count, shape = len(masks), masks.shape[:2]
    if len(answer) != p.answer_bytes(count):
        raise ValueError(f"{len(answer):,} bytes of answers where {p.answer_bytes(count):,} are due")
    read = wide.left(wide.from_bytes(answer, p.answer_size, shape), p.drop_bits)
    return modulus_words(p.modulus, wide.plus(read, _wide(p, masks)))


def masked(
    parameters: Parameters, sums: NDArray[np.uint64], masks: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    """Words of sums with masks, (count, outputs), added to what is read of them."""
    if parameters.pairs:
        return wide.plus(sums, wide.left(wide.of(masks), parameters.scale_bits))
    return sums + (masks << np.uint64(parameters.scale_bits))


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
    if p.pairs:
        moved = wide.plus(values, wide.of(np.full(values.shape[:2], half)))
        low, sums = moved[..., 0], wide.signed(moved, p.modulus.bits, p.scale_bits)
    else:
        low = values + np.uint64(half)
        sums = low.view(np.int64) >> p.scale_bits
    distance = np.abs((low & np.uint64((1 << p.scale_bits) - 1)).view(np.int64) - half)
    if (distance >= p.reach).any():
        raise ValueError("an answer is not what sums of these vectors can be")
    return sums
