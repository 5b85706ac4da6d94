"""The convolution of `code`, with what is to come in vector registers.

Each place is added to the next one, and to those of the 24 after it that its bits pick. What the next 25
places have coming lies in seven vectors of four places; at each step it moves down by one, and the
place that is done is added under a mask. Vector code of LLVM, which makes of it what the processor at
hand has.
"""

# mypy: disallow-untyped-calls=False

from llvmlite import ir
from numba.core import cgutils
from numpy import uint32
from numpy.typing import NDArray

from vfl.arrays import Words
from vfl.crypto.instructions import instruction
from vfl.kernels import kernel

STATE = 24
_PLACES = 4  # of a vector
_VECTORS = -(-(STATE + 1) // _PLACES)
_WORD, _INDEX = ir.IntType(64), ir.IntType(32)
_VECTOR = ir.VectorType(_WORD, 2 * _PLACES)
_PLACE = ir.VectorType(_WORD, 2)


def _numbers(*numbers: int) -> ir.Value:
    return ir.Constant(ir.VectorType(_INDEX, len(numbers)), list(numbers))


def _doubled(builder: ir.IRBuilder, bits: ir.Value) -> ir.Value:
    """Each of the lower 32 bits of a word twice, one beside the other."""
    for shift, mask in (
        (16, 0x0000FFFF0000FFFF),
        (8, 0x00FF00FF00FF00FF),
        (4, 0x0F0F0F0F0F0F0F0F),
        (2, 0x3333333333333333),
        (1, 0x5555555555555555),
    ):
        spread = builder.or_(bits, builder.shl(bits, ir.Constant(_WORD, shift)))
        bits = builder.and_(spread, ir.Constant(_WORD, mask))
    return builder.or_(bits, builder.shl(bits, ir.Constant(_WORD, 1)))


def _emit_step(
    builder: ir.IRBuilder, coming: list[ir.Value], source: ir.Value, target: ir.Value, bits: ir.Value
) -> None:
    """One place, from `source` to `target`; `bits` picks among those after the next."""
    held = [builder.load(one) for one in coming]
    arrived = builder.shuffle_vector(held[0], held[0], _numbers(0, 1))
    place = builder.xor(builder.load(source, align=8), arrived)
    builder.store(place, target, align=8)
    everywhere = builder.shuffle_vector(place, place, _numbers(*[0, 1] * _PLACES))
    nothing = ir.Constant(_VECTOR, [0] * 2 * _PLACES)
    picked = builder.or_(
        builder.shl(builder.and_(bits, ir.Constant(_WORD, (1 << STATE) - 1)), ir.Constant(_WORD, 1)),
        ir.Constant(_WORD, 1),
    )
    masks = _doubled(builder, picked)
    for k, one in enumerate(coming):
        after = held[k + 1] if k + 1 < _VECTORS else nothing
        moved = builder.shuffle_vector(held[k], after, _numbers(*range(2, 2 * _PLACES + 2)))
        byte = builder.trunc(
            builder.lshr(masks, ir.Constant(_WORD, 2 * _PLACES * k)), ir.IntType(2 * _PLACES)
        )
        mask = builder.bitcast(byte, ir.VectorType(ir.IntType(1), 2 * _PLACES))
        builder.store(builder.xor(moved, builder.select(mask, everywhere, nothing)), one)


@instruction
def _convolved(
    b: ir.IRBuilder,
    source: ir.Value,
    count: ir.Value,
    target: ir.Value,
    width: ir.Value,
    column: ir.Value,
    bits: ir.Value,
    backwards: ir.Value,
) -> None:
    coming = [cgutils.alloca_once(b, _VECTOR) for _ in range(_VECTORS)]
    for one in coming:
        b.store(ir.Constant(_VECTOR, [0] * 2 * _PLACES), one)
    last = b.sub(count, ir.Constant(_WORD, 1))
    with cgutils.for_range(b, count) as loop:
        at = b.select(cgutils.as_bool_bit(b, backwards), b.sub(last, loop.index), loop.index)
        from_ = b.gep(source, [b.shl(at, ir.Constant(_WORD, 1))])
        to = b.gep(target, [b.add(b.mul(at, width), column)])
        picks = b.zext(b.load(b.gep(bits, [at])), _WORD)
        start, end = (b.bitcast(address, _PLACE.as_pointer()) for address in (from_, to))
        _emit_step(b, coming, start, end, picks)


@kernel
def convolve(source: Words, target: Words, column: int, bits: NDArray[uint32], backwards: bool) -> None:
    """Places (n, 2), convolved, into two columns of `target` (n, any); may be the source itself."""
    _convolved(source, source.shape[0], target, target.shape[1], column, bits, backwards)
