"""BLAKE2b (RFC 7693) of eight messages at a time, one in each lane of a vector.

For messages that end within one block of 128 bytes after what all begin with: nearly all that are hashed
by the million here. The rounds are emitted as vector code of LLVM, which makes of it what the processor
at hand has (with AVX-512 a third of the time of one message after the other, or less). The kernel is
compiled at its first use and cached by numba, which looks only at this file to see whether a cached one
is still good. So all that makes it is in this file.
"""

# mypy: disallow-untyped-calls=False

from collections.abc import Callable
from typing import cast

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.base import BaseContext
from numba.core.typing.templates import Signature
from numba.extending import intrinsic
from numpy.typing import NDArray

from vfl.arrays import Bytes, Words
from vfl.kernels import kernel

LANES = 8
BLOCK = 128
ROUNDS = 12

IV = (
    0x6A09E667F3BCC908,
    0xBB67AE8584CAA73B,
    0x3C6EF372FE94F82B,
    0xA54FF53A5F1D36F1,
    0x510E527FADE682D1,
    0x9B05688C2B3E6C1F,
    0x1F83D9ABFB41BD6B,
    0x5BE0CD19137E2179,
)
# The order of the message's words in each of ten rounds (RFC 7693, section 2.7); two more repeat.
SIGMA = (
    (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
    (14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3),
    (11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4),
    (7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8),
    (9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13),
    (2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9),
    (12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11),
    (13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10),
    (6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5),
    (10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0),
)
# The words that one of the eight mixings of a round works on: columns, then diagonals (section 3.2).
_MIXED = (
    (0, 4, 8, 12),
    (1, 5, 9, 13),
    (2, 6, 10, 14),
    (3, 7, 11, 15),
    (0, 5, 10, 15),
    (1, 6, 11, 12),
    (2, 7, 8, 13),
    (3, 4, 9, 14),
)

_WORD = ir.IntType(64)
_VECTOR = ir.VectorType(_WORD, LANES)


def _splat(number: int) -> ir.Value:
    return ir.Constant(_VECTOR, [number] * LANES)


def _emit_rounds(builder: ir.IRBuilder, state: ir.Value, words: ir.Value, ends: ir.Value) -> None:
    """F of RFC 7693 (section 3.2) for last blocks, in place: `words` holds the 16 of each message as
    vectors, and is given the 8 of each state; `state` holds 8 words that all begin with, `ends` the
    bytes up to the end of each message."""
    vectors = builder.bitcast(words, _VECTOR.as_pointer())

    def vector(pointer: ir.Value, number: int) -> ir.Value:
        place = builder.gep(pointer, [ir.Constant(ir.IntType(32), number)])
        return builder.load(place, align=8)

    def turned(a: ir.Value, right: int) -> ir.Value:
        return builder.or_(builder.lshr(a, _splat(right)), builder.shl(a, _splat(64 - right)))

    message = [vector(vectors, k) for k in range(16)]
    begun = []
    for k in range(8):
        word = builder.load(builder.gep(state, [ir.Constant(ir.IntType(32), k)]))
        one = builder.insert_element(_splat(0), word, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        begun.append(builder.shuffle_vector(one, one, zeros))
    v = begun + [_splat(word) for word in IV]
    v[12] = builder.xor(v[12], vector(builder.bitcast(ends, _VECTOR.as_pointer()), 0))
    v[14] = _splat(IV[6] ^ (1 << 64) - 1)
    for turn in range(ROUNDS):
        order = SIGMA[turn % 10]
        for k, (a, b, c, d) in enumerate(_MIXED):
            for word, first, second in ((order[2 * k], 32, 24), (order[2 * k + 1], 16, 63)):
                v[a] = builder.add(builder.add(v[a], v[b]), message[word])
                v[d] = turned(builder.xor(v[d], v[a]), first)
                v[c] = builder.add(v[c], v[d])
                v[b] = turned(builder.xor(v[b], v[c]), second)
    for k in range(8):
        place = builder.gep(vectors, [ir.Constant(ir.IntType(32), k)])
        builder.store(builder.xor(begun[k], builder.xor(v[k], v[k + 8])), place, align=8)


def _typed_rounds(
    typing: object, state: types.Array, words: types.Array, ends: types.Array
) -> tuple[Signature, Callable[..., ir.Value]]:
    def generate(
        context: BaseContext, builder: ir.IRBuilder, signature: Signature, arguments: list[ir.Value]
    ) -> ir.Value:
        pointers = [
            context.make_array(kind)(context, builder, value).data
            for kind, value in zip(signature.args, arguments, strict=True)
        ]
        _emit_rounds(builder, *pointers)
        return context.get_dummy_value()

    return types.void(state, words, ends), generate


_rounds = cast(Callable[[Words, Words, Words], None], intrinsic(_typed_rounds))


@kernel
def digest_last_blocks(
    state: Words,
    before: Bytes,
    wide: Words,
    rows: Bytes,
    joined: Bytes,
    ends: NDArray[np.int64],
    shared: int,
    out: Words,
) -> None:
    """Digests of before || wide[i] || rows[i] || joined[ends[i]:ends[i + 1]], as words.

    Each message fits a block and is not empty; with words in `wide`, `before` ends at one. state: after
    `shared` bytes that came before all of these.
    """
    blocks = np.zeros((LANES, BLOCK), np.uint8)
    as_words = blocks.view(np.uint64)
    words = np.zeros((BLOCK // 8, LANES), np.uint64)
    total, filled = np.zeros(LANES, np.uint64), np.zeros(LANES, np.int64)
    first, width, whole, count = len(before), rows.shape[1], wide.shape[1], len(out)
    for lane in range(LANES):
        blocks[lane, :first] = before
    for start in range(0, count, LANES):
        lanes = min(LANES, count - start)
        for lane in range(lanes):
            row, at = start + lane, first
            for k in range(whole):
                as_words[lane, at // 8 + k] = wide[row, k]
            at += 8 * whole
            for k in range(width):
                blocks[lane, at + k] = rows[row, k]
            at += width
            begin, length = ends[row], ends[row + 1] - ends[row]
            for k in range(length):
                blocks[lane, at + k] = joined[begin + k]
            at += length
            for k in range(at, filled[lane]):
                blocks[lane, k] = 0
            filled[lane] = at
            total[lane] = np.uint64(shared + at)
        used = (filled.max() + 7) // 8
        for k in range(BLOCK // 8):
            for lane in range(LANES):
                words[k, lane] = as_words[lane, k] if k < used else np.uint64(0)
        _rounds(state, words, total)
        for lane in range(lanes):
            for k in range(out.shape[1]):
                out[start + lane, k] = words[k, lane]
