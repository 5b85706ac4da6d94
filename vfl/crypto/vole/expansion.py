"""The expander of `code`: sums of places that lie anywhere, each a vector register or two.

What costs is to wait for memory: with a place of all vectors loaded by one instruction, many more of
them are on their way at a time than when each word is added by itself. Vector code of LLVM. numba looks
only at this file to see whether a cached kernel is still good: all that makes it is in this file.
"""

# mypy: disallow-untyped-calls=False

from collections.abc import Callable
from typing import cast

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.base import BaseContext
from numba.core.typing.templates import Signature
from numba.extending import intrinsic
from numpy import uint32
from numpy.typing import NDArray

from vfl.arrays import Words
from vfl.kernels import kernel

_WORD, _HALF = ir.IntType(64), 32
_Expanded = Callable[[Words, NDArray[uint32], int, Words], None]


def _typed_expand(words: int) -> Callable[..., tuple[Signature, Callable[..., ir.Value]]]:
    """The code for places of so many words."""
    vector = ir.VectorType(_WORD, words)

    def typed(
        typing: object,
        state: types.Array,
        picked: types.Array,
        regular: types.Integer,
        sums: types.Array,
    ) -> tuple[Signature, Callable[..., ir.Value]]:
        def generate(
            context: BaseContext, builder: ir.IRBuilder, signature: Signature, arguments: list[ir.Value]
        ) -> ir.Value:
            kinds = signature.args
            read, numbers, written = (
                context.make_array(kinds[k])(context, builder, arguments[k]) for k in (0, 1, 3)
            )
            parts = context.cast(builder, arguments[2], kinds[2], types.int64)
            whole, weight = builder.extract_value(read.shape, 0), builder.extract_value(numbers.shape, 1)
            part = builder.udiv(whole, parts)
            total = cgutils.alloca_once(builder, vector)

            def add(number: ir.Value, size: ir.Value, before: ir.Value) -> None:
                """Add the place of a row's number, 32 bits, scaled to `size` places after others."""
                picked = builder.zext(builder.load(builder.gep(numbers.data, [number])), _WORD)
                scaled = builder.lshr(builder.mul(picked, size), ir.Constant(_WORD, _HALF))
                at = builder.mul(builder.add(scaled, before), ir.Constant(_WORD, words))
                place = builder.bitcast(builder.gep(read.data, [at]), vector.as_pointer())
                held = builder.load(place, align=8)
                builder.store(builder.xor(builder.load(total), held), total)

            with cgutils.for_range(builder, builder.extract_value(numbers.shape, 0)) as row:
                builder.store(ir.Constant(vector, [0] * words), total)
                first = builder.mul(row.index, weight)
                with cgutils.for_range(builder, parts) as turn:
                    add(builder.add(first, turn.index), part, builder.mul(part, turn.index))
                free = builder.add(first, parts)
                with cgutils.for_range(builder, builder.sub(weight, parts)) as turn:
                    add(builder.add(free, turn.index), whole, ir.Constant(_WORD, 0))
                at = builder.gep(written.data, [builder.mul(row.index, ir.Constant(_WORD, words))])
                to = builder.bitcast(at, vector.as_pointer())
                builder.store(builder.load(total), to, align=8)
            return context.get_dummy_value()

        return types.void(state, picked, regular, sums), generate

    return typed


_one, _two, _four = (cast(_Expanded, intrinsic(_typed_expand(words))) for words in (2, 4, 8))


@kernel
def expand(state: Words, picked: NDArray[uint32], regular: int, sums: Words) -> None:
    """The sum (m, 2) of the places (n, 2) that each row of `picked` names, 32 bits a place: the first
    `regular` of a row each in a part of its own, as many parts as there are, the others anywhere."""
    _one(state, picked, regular, sums)


@kernel
def expand_two(state: Words, picked: NDArray[uint32], regular: int, sums: Words) -> None:
    """The same of two vectors side by side (n, 4), (m, 4)."""
    _two(state, picked, regular, sums)


@kernel
def expand_four(state: Words, picked: NDArray[uint32], regular: int, sums: Words) -> None:
    """The same of four vectors side by side (n, 8), (m, 8)."""
    _four(state, picked, regular, sums)
