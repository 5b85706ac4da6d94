"""Sums by cell of the words of encrypted vectors, a tile of rows at a time.

A tile is some rows of all vectors, unpacked, few enough for a core's second cache. Each row is added to
a cell of every column: these are the plain sums that the encryption asks for. A sum that was just
written has to be waited for, and of a few dozen bins one always was. So two columns are summed by their
joint cells, a thousand of them with one addition for both, and told apart at the end.

As in lanes.py instructions for vectors are written here, and numba looks only at this file.
"""

# mypy: disallow-untyped-calls=False

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from llvmlite import ir
from llvmlite.ir import Value
from numba import types
from numba.core import cgutils
from numba.core.base import BaseContext
from numba.core.typing.templates import Signature
from numba.extending import intrinsic
from numpy.typing import NDArray

from vfl.arrays import Bytes, Integers, Words
from vfl.kernels import kernel

LANES = 8
_TILE = 1 << 15  # words of a tile
_MOST_JOINT = 1 << 16  # words of a pair's joint cells
_I64 = ir.IntType(64)


def width_of(count: int) -> int:
    """Words of a tile's row for so many vectors, a power of two."""
    return max(2, 1 << (count - 1).bit_length())


def rows_of(count: int) -> int:
    """Rows of a tile for so many vectors."""
    return max(1, _TILE // width_of(count))


def aligned(rows: int, width: int) -> Words:
    """Zeros, rows of which begin with lines of the cache."""
    room = np.zeros(rows * width + LANES, np.uint64)
    first = -(room.ctypes.data // 8) % LANES
    return room[first : first + rows * width].reshape(rows, width)


def _adding(lanes: int, vectors: int = 1) -> Callable[..., Any]:
    """Add rows of a tile, so many vectors of so many words, to the words that begin at these places."""
    kind = ir.VectorType(_I64, lanes)

    def typed(
        typing: object, tile: types.Type, places: types.Type, rows: types.Type, words: types.Type
    ) -> tuple[Signature, Callable[..., Value]]:
        def generate(
            context: BaseContext, builder: ir.IRBuilder, signature: object, values: Sequence[Value]
        ) -> Value:
            source, at, target = (
                context.make_array(kind)(context, builder, values[k]).data
                for k, kind in ((0, tile), (1, places), (3, words))
            )
            width = ir.Constant(_I64, lanes * vectors)
            with cgutils.for_range(builder, values[2]) as loop:
                row = builder.gep(source, [builder.mul(loop.index, width)])
                to = builder.gep(target, [builder.load(builder.gep(at, [loop.index]))])
                for k in range(vectors):
                    from_, into = (
                        builder.bitcast(
                            builder.gep(base, [ir.Constant(_I64, lanes * k)]), kind.as_pointer()
                        )
                        for base in (row, to)
                    )
                    total = builder.add(builder.load(into, align=8), builder.load(from_, align=8))
                    builder.store(total, into, align=8)
            return context.get_dummy_value()

        return types.void(tile, places, types.int64, words), generate

    return cast(Callable[..., Any], intrinsic(typed))


_add_2, _add_4, _add_8 = (_adding(lanes) for lanes in (2, 4, 8))
_add_16, _add_32 = _adding(LANES, 2), _adding(LANES, 4)


class Pairs(NamedTuple):
    """Columns of codes, in pairs: of each the numbers of both columns, by what the code of the first is
    multiplied, its first joint cell, and of both columns bins and first cell among all. A column
    without another has itself for one, of 0 bins."""

    first: Integers
    second: Integers
    times: Integers
    begin: Integers
    bins: Integers  # (pairs, 2)
    cells: Integers  # (pairs, 2)

    @property
    def joint(self) -> int:
        """Joint cells of all pairs."""
        last = len(self.begin) - 1
        return int(self.begin[last] + self.bins[last, 0] * max(self.bins[last, 1], 1))


def pairs_of(columns: Sequence[tuple[int, int, int]], width: int, rows: int) -> Pairs:
    """Pair up columns, (number, bins, first cell) of each, if joint cells are few for so many rows."""
    found, at, begin = [], 0, 0
    while at < len(columns):
        (a, bins, cell), (b, others, other) = columns[at], (*columns, (0, 0, 0))[at + 1]
        joint = bins * others
        if joint and joint * width <= _MOST_JOINT and 4 * joint <= rows:
            found.append((a, b, others, begin, bins, others, cell, other))
            at, begin = at + 2, begin + joint
        else:
            found.append((a, a, 1, begin, bins, 0, cell, 0))
            at, begin = at + 1, begin + bins
    table = np.array(found, np.int64)
    first, second, times, before = np.ascontiguousarray(table[:, :4].T)
    bins, cells = np.ascontiguousarray(table.reshape(-1, 4, 2)[:, 2:].transpose(1, 0, 2))
    return Pairs(first, second, times, before, bins, cells)


@kernel
def add(codes: NDArray[np.integer], pairs: Pairs, start: int, tile: Words, joint: Words) -> None:
    """Add the rows of a tile, (rows, width), from `start` on of the codes, (columns, rows), to the joint
    cells, (cells, width)."""
    rows, width = tile.shape
    places = np.empty(rows, np.int64)
    for p in range(len(pairs.first)):
        begin, times = pairs.begin[p] * width, pairs.times[p] * width
        one = codes[pairs.first[p], start : start + rows]
        if pairs.bins[p, 1]:
            other = codes[pairs.second[p], start : start + rows]
            for i in range(rows):
                places[i] = begin + np.int64(one[i]) * times + np.int64(other[i]) * width
        else:
            for i in range(rows):
                places[i] = begin + np.int64(one[i]) * times
        _add_rows(tile.reshape(-1), places, width, joint.reshape(-1))


@kernel
def _add_rows(tile: Words, places: Integers, width: int, words: Words) -> None:
    rows = len(places)
    if width == 2:
        _add_2(tile, places, rows, words)
    elif width == 4:
        _add_4(tile, places, rows, words)
    elif width == 8:
        _add_8(tile, places, rows, words)
    elif width == 16:
        _add_16(tile, places, rows, words)
    elif width == 32:
        _add_32(tile, places, rows, words)
    else:
        for i in range(rows):
            for v in range(width):
                words[places[i] + v] += tile[i * width + v]


@kernel
def tell_apart(pairs: Pairs, joint: Words, sums: Words) -> None:
    """Add the joint cells, (cells, width), to those of each column, (cells, width)."""
    width, to = sums.shape[1], sums.reshape(-1)
    for p in range(len(pairs.first)):
        ones, others, begin = pairs.bins[p, 0], pairs.bins[p, 1], pairs.begin[p]
        each = max(others, 1)
        own = joint[begin : begin + ones * each].reshape(-1)
        places = np.arange(ones * each)
        _add_rows(own, (pairs.cells[p, 0] + places // each) * width, width, to)
        if others:
            _add_rows(own, (pairs.cells[p, 1] + places % each) * width, width, to)


@kernel
def unpack(piece: Bytes, bits: int, count: int, first: int, tile: Words) -> None:
    """Rows from `first` on of a polynomial in words.pack's bytes, as a tile (rows, width)."""
    rows, width = tile.shape
    words, at, flat = len(piece) * 8 // bits, first * count, tile.reshape(-1)
    sixteen, eight, up = np.uint64(16), np.uint64(8), np.uint64(32)
    if bits == 64:
        whole = piece.view(np.uint64)
        for i in range(rows):
            for v in range(count):
                tile[i, v] = whole[at + i * count + v]
        return
    tops, middles = (
        piece[4 * at : 4 * words].view(np.uint32),
        piece[4 * words : 6 * words].view(np.uint16)[at:],
    )
    lows = piece[6 * words :]
    if width == count:
        if bits == 56:
            own = lows[at : at + rows * count]
            for j in range(len(own)):
                flat[j] = (
                    np.uint64(tops[j]) << up
                    | np.uint64(middles[j]) << sixteen
                    | np.uint64(own[j]) << eight
                )
        else:
            for j in range(rows * count):
                flat[j] = np.uint64(tops[j]) << up | np.uint64(middles[j]) << sixteen
        return
    for i in range(rows):
        for v in range(count):
            j = i * count + v
            tile[i, v] = np.uint64(tops[j]) << up | np.uint64(middles[j]) << sixteen
            if bits == 56:
                tile[i, v] |= np.uint64(lows[at + j]) << eight
