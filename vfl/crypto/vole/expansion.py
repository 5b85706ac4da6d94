"""The expander of `code`: sums of places that lie anywhere, each a vector register or two.

What costs is to wait for memory: with a place of all vectors loaded by one instruction, many more of
them are on their way at a time than when each word is added by itself. Vector code of LLVM.
"""

# mypy: disallow-untyped-calls=False

from llvmlite import ir
from llvmlite.ir import Value
from numba.core import cgutils
from numpy import uint32
from numpy.typing import NDArray

from vfl.arrays import Words
from vfl.crypto.instructions import Written, instruction
from vfl.kernels import kernel

_WORD, _HALF = ir.IntType(64), 32


def _expanding(words: int) -> Written:
    """Sums of places of so many words."""
    vector = ir.VectorType(_WORD, words)

    @instruction
    def expand(
        b: ir.IRBuilder,
        state: Value,
        whole: Value,
        picked: Value,
        rows: Value,
        weight: Value,
        parts: Value,
        sums: Value,
    ) -> None:
        part, total = b.udiv(whole, parts), cgutils.alloca_once(b, vector)

        def add(number: Value, size: Value, before: Value) -> None:
            """Add the place of a row's number, 32 bits, scaled to `size` places after others."""
            named = b.zext(b.load(b.gep(picked, [number])), _WORD)
            scaled = b.lshr(b.mul(named, size), ir.Constant(_WORD, _HALF))
            at = b.mul(b.add(scaled, before), ir.Constant(_WORD, words))
            held = b.load(b.bitcast(b.gep(state, [at]), vector.as_pointer()), align=8)
            b.store(b.xor(b.load(total), held), total)

        with cgutils.for_range(b, rows) as row:
            b.store(ir.Constant(vector, [0] * words), total)
            first = b.mul(row.index, weight)
            with cgutils.for_range(b, parts) as turn:
                add(b.add(first, turn.index), part, b.mul(part, turn.index))
            free = b.add(first, parts)
            with cgutils.for_range(b, b.sub(weight, parts)) as turn:
                add(b.add(free, turn.index), whole, ir.Constant(_WORD, 0))
            at = b.gep(sums, [b.mul(row.index, ir.Constant(_WORD, words))])
            b.store(b.load(total), b.bitcast(at, vector.as_pointer()), align=8)

    return expand


_one, _two, _four = (_expanding(words) for words in (2, 4, 8))


@kernel
def expand(state: Words, picked: NDArray[uint32], regular: int, sums: Words) -> None:
    """The sum (m, 2) of the places (n, 2) that each row of `picked` names, 32 bits a place: the first
    `regular` of a row each in a part of its own, as many parts as there are, the others anywhere."""
    rows, weight = picked.shape
    _one(state, state.shape[0], picked, rows, weight, regular, sums)


@kernel
def expand_two(state: Words, picked: NDArray[uint32], regular: int, sums: Words) -> None:
    """The same of two vectors side by side (n, 4), (m, 4)."""
    rows, weight = picked.shape
    _two(state, state.shape[0], picked, rows, weight, regular, sums)


@kernel
def expand_four(state: Words, picked: NDArray[uint32], regular: int, sums: Words) -> None:
    """The same of four vectors side by side (n, 8), (m, 8)."""
    rows, weight = picked.shape
    _four(state, state.shape[0], picked, rows, weight, regular, sums)
