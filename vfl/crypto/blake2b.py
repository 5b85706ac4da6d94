"""BLAKE2b (RFC 7693) of eight messages at a time, one in each lane of a vector.

For messages that end within one block of 128 bytes after what all begin with: nearly all that are hashed
by the million here. The rounds are emitted as vector code of LLVM, which makes of it what the processor
at hand has (with AVX-512 a third of the time of one message after the other, or less). The kernel is
compiled at its first use and cached.
"""

# mypy: disallow-untyped-calls=False

from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numpy.typing import NDArray

from vfl.arrays import Bytes, Words
from vfl.crypto.instructions import instruction
from vfl.kernels import kernel

LANES = 8
BLOCK = 128
_SIZE = BLOCK // 8  # words of a block
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


@instruction
def _rounds(
    builder: ir.IRBuilder, state: ir.Value, words: ir.Value, ends: ir.Value, last: ir.Value
) -> None:
    """F of RFC 7693 (section 3.2), in place: `words` holds the 16 of each message as vectors, and is
    given the 8 of each state; `state` holds 8 words that all begin with, `ends` the bytes up to the
    end of each block, `last` is 1 for last ones and 0 for others.

    The rounds are a loop: a twelfth of the code to compile, and as fast, as words of a message come from
    the first cache in any case.
    """
    vectors = builder.bitcast(words, _VECTOR.as_pointer())

    def place(pointer: ir.Value, number: ir.Value | int) -> ir.Value:
        return builder.gep(pointer, [ir.Constant(_WORD, number) if isinstance(number, int) else number])

    def spread(word: ir.Value) -> ir.Value:
        one = builder.insert_element(_splat(0), word, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        return builder.shuffle_vector(one, one, zeros)

    def turned(a: ir.Value, right: int) -> ir.Value:
        return builder.or_(builder.lshr(a, _splat(right)), builder.shl(a, _splat(64 - right)))

    begun = [spread(builder.load(place(state, k))) for k in range(8)]
    start = begun + [_splat(word) for word in IV]
    ends = builder.load(builder.bitcast(ends, _VECTOR.as_pointer()), align=8)
    start[12] = builder.xor(start[12], ends)
    start[14] = builder.xor(start[14], spread(builder.neg(last)))
    rooms = [cgutils.alloca_once_value(builder, value) for value in start]
    order = [SIGMA[turn % 10][k] for turn in range(ROUNDS) for k in range(16)]
    table = cgutils.global_constant(
        builder, "vfl_blake2b_sigma", ir.Constant(ir.ArrayType(_WORD, len(order)), order)
    )
    with cgutils.for_range(builder, ir.Constant(_WORD, ROUNDS)) as loop:
        first = builder.mul(loop.index, ir.Constant(_WORD, 16))
        v = [builder.load(room) for room in rooms]
        for k, (a, b, c, d) in enumerate(_MIXED):
            for half, turns in ((0, (32, 24)), (1, (16, 63))):
                number = builder.add(first, ir.Constant(_WORD, 2 * k + half))
                word = builder.load(builder.gep(table, [ir.Constant(_WORD, 0), number]))
                message = builder.load(place(vectors, word), align=8)
                v[a] = builder.add(builder.add(v[a], v[b]), message)
                v[d] = turned(builder.xor(v[d], v[a]), turns[0])
                v[c] = builder.add(v[c], v[d])
                v[b] = turned(builder.xor(v[b], v[c]), turns[1])
        for room, value in zip(rooms, v, strict=True):
            builder.store(value, room)
    v = [builder.load(room) for room in rooms]
    for k in range(8):
        builder.store(builder.xor(begun[k], builder.xor(v[k], v[k + 8])), place(vectors, k), align=8)


class _Room(NamedTuple):
    """What a kernel works in: to make arrays takes numba as long to compile as much of the rest."""

    begun: Words  # the state after all that messages begin with
    words: Words  # of the blocks, by word and lane
    blocks: Bytes  # of the messages, one after the other
    as_words: Words
    total: Words  # bytes up to the end of each block
    filled: NDArray[np.int64]  # up to where the blocks are


def digest_last_blocks(
    state: Words,
    begin: Words,
    before: Bytes,
    wide: Words,
    rows: Bytes,
    joined: Bytes,
    ends: NDArray[np.int64],
    out: Words,
) -> None:
    """Digests of begin || before || wide[i] || rows[i] || joined[ends[i]:ends[i + 1]], as words.

    state: before any message; begin: whole blocks. What comes after them fits a block and is not empty;
    with words in `wide`, `before` ends at one.
    """
    blocks = np.tile(np.pad(before, (0, BLOCK - len(before))), LANES)
    words, total, filled = (np.zeros(size * LANES, np.int64) for size in (_SIZE, 1, 1))
    room = _Room(
        state.copy(),
        words.view(np.uint64),
        blocks,
        blocks.view(np.uint64),
        total.view(np.uint64),
        filled,
    )
    digest_blocks(room, begin, len(before), wide, rows, joined, ends, out)


@kernel
def digest_blocks(
    room: _Room,
    begin: Words,
    first: int,
    wide: Words,
    rows: Bytes,
    joined: Bytes,
    ends: NDArray[np.int64],
    out: Words,
) -> None:
    """As digest_last_blocks; all blocks hold the `first` bytes that messages begin with.

    Its loops are written out: an assignment to a slice, or a maximum, takes numba as long to compile as
    all the rest.
    """
    begun, words, blocks, as_words, total, filled = room
    width, whole, count = rows.shape[1], wide.shape[1], out.shape[0]
    shared = begin.shape[0] // _SIZE
    # Blocks that all begin with are taken first, as they were numbers below 0, the same in all lanes.
    for start in range(-shared * LANES, count, LANES):
        lanes = LANES if count - start > LANES else count - start
        if start < 0:
            block = shared + start // LANES
            for at in range(_SIZE * LANES):
                words[at] = begin[block * _SIZE + at // LANES]
            for lane in range(LANES):
                total[lane] = (block + 1) * BLOCK
        else:
            used = 0
            for lane in range(lanes):
                row, at = start + lane, lane * BLOCK + first
                for k in range(whole):
                    as_words[at // 8 + k] = wide[row, k]
                at += 8 * whole
                for k in range(width):
                    blocks[at + k] = rows[row, k]
                at += width
                for k in range(ends[row], ends[row + 1]):
                    blocks[at] = joined[k]
                    at += 1
                for k in range(at, filled[lane]):
                    blocks[k] = 0
                filled[lane] = at
                total[lane] = shared * BLOCK + at - lane * BLOCK
            for lane in range(LANES):
                last = (filled[lane] - lane * BLOCK + 7) // 8
                used = last if last > used else used
            for k in range(_SIZE):
                for lane in range(LANES):
                    words[k * LANES + lane] = as_words[lane * _SIZE + k] if k < used else np.uint64(0)
        _rounds(begun, words, total, 1 if start >= 0 else 0)
        if start < 0:
            for k in range(8):
                begun[k] = words[k * LANES]
        else:
            for lane in range(lanes):
                for k in range(out.shape[1]):
                    out[start + lane, k] = words[k * LANES + lane]
