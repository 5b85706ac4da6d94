"""How precise gradients are: as precise as the sums of the job's encryption can hold."""

from dataclasses import dataclass, replace

from vfl.crypto.lattice.parameters import MODULUS_BITS, PAIR_WORD, WORDS
from vfl.crypto.packing import SumPacking
from vfl.learn.params import BoostParams
from vfl.learn.told_sums import most_summed
from vfl.protocols.common.lattice_sums import Shape

_LEAST_BITS = 5  # of a gradient: enough for boosting (Shi et al., NeurIPS 2022)
_MOST_BITS = 12  # rounding is then far below what a tree's rows differ by
_OUTPUTS = (2048, 512)  # sums of a vector that short words are for; a host of more may need longer ones


@dataclass(frozen=True)
class Quantisation:
    """How gradients and hessians become integers."""

    bits: int  # sign not counted
    dithered: bool = False  # rounded up or down at random, as few bits need it


def quantisation_of(rows: int, params: BoostParams) -> Quantisation:
    """How a job quantises. Raises ValueError, with the numbers, for too many rows."""
    if params.encryption == "lattice":
        return Quantisation(lattice_shape(rows, params).value_bits - 1, dithered=True)
    return Quantisation(packing_of(rows, params).row_bits)


def packing_of(rows: int, params: BoostParams) -> SumPacking:
    """How sums lie in a plaintext. Raises ValueError, with the numbers, for too many rows."""
    return SumPacking.for_rows(rows, params.key_bits)


def most_packed_sums(rows: int, candidates: int, params: BoostParams) -> int:
    """How many ciphertexts a host of so many candidates sends for a tree at most: sums of the root and
    of one child of each pair."""
    return packing_of(rows, params).ciphertexts(candidates) * most_summed(params)


def lattice_shape(rows: int, params: BoostParams) -> Shape:
    """The vectors of a job over the lattice engine: those that trees of its depth need, of the most
    precise gradients that go into the shortest words; and, where the guest reads the sums, that go with
    their hessians into one word of a pair, if that holds enough. Beyond some 32 million rows only hosts
    of few sums are served: one of more refuses the job when it makes its own parameters. Raises
    ValueError, with the numbers, for too many rows."""
    vectors = 2 * params.most_trees * most_summed(params)
    is_open = params.sums == "open"
    shape = Shape(rows, _LEAST_BITS + 1, vectors, errors_known=is_open, direct=is_open)
    bits = min(_MOST_BITS + 1, Shape.most_bits(rows, vectors))
    if bits <= _LEAST_BITS:
        bits = max(shape.widest(outputs, MODULUS_BITS) for outputs in _OUTPUTS)
    if bits <= _LEAST_BITS:
        raise ValueError(
            f"sums over {rows:,} rows and {vectors:,} vectors leave {bits - 1} bits a row, fewer than "
            f"{_LEAST_BITS}"
        )
    return _in_pairs(replace(shape, value_bits=min(bits, _in_shortest(shape, bits))), params)


def _in_shortest(shape: Shape, most: int) -> int:
    """Bits, with a sign, of gradients that go into the shortest words."""
    for word_bits in WORDS:
        for outputs in _OUTPUTS:
            if (fitting := shape.widest(outputs, word_bits)) > _LEAST_BITS:
                return fitting
    return most


def _in_pairs(shape: Shape, params: BoostParams) -> Shape:
    """The same in pairs, with no more bits than these hold, where they hold enough. A host of more sums
    than they are for gets single words of as many bits."""
    if params.sums != "open":
        return shape
    paired = replace(shape, pairs=True)
    for outputs in _OUTPUTS:
        if (fitting := paired.widest(outputs, PAIR_WORD)) > _LEAST_BITS:
            return replace(paired, value_bits=min(shape.value_bits, fitting))
    return shape
