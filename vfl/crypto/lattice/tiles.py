"""Sums by cell of the words of encrypted vectors, a tile of rows at a time.

A tile is some rows of all vectors, unpacked, few enough for a core's second cache. Each row is added to
a cell of every column: these are the plain sums that the encryption asks for. A sum that was just
written has to be waited for, and of a few dozen bins one always was. So two columns are summed by their
joint cells, a thousand of them with one addition for both, and told apart at the end.

As in lanes.py instructions for vectors are written here.
"""

# mypy: disallow-untyped-calls=False

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from llvmlite.ir import Value
from numba.core import cgutils
from numpy.typing import NDArray

from vfl.arrays import Bytes, Integers, Words
from vfl.crypto.instructions import Written, instruction
from vfl.crypto.lattice.lanes import LANES, aligned
from vfl.crypto.lattice.parameters import HALF_WORD, MODULUS_BITS
from vfl.kernels import inlined, kernel

_TILE = 1 << 15  # words of a tile
_MOST_JOINT = 1 << 16  # words of a pair's joint cells
_MOST_CACHED = (
    1 << 20
)  # words of all pairs' cells, which every tile goes through: what the last cache holds
_I64 = ir.IntType(64)


def width_of(count: int) -> int:
    """Words of a tile's row for so many vectors, a power of two."""
    return max(2, 1 << (count - 1).bit_length())


def rows_of(count: int) -> int:
    """Rows of a tile for so many vectors."""
    return max(1, _TILE // width_of(count))


def zeros(rows: int, width: int) -> Words:
    """Zeros, rows of which begin with lines of the cache."""
    return aligned(rows * width).view(np.uint64).reshape(rows, width)


def _adding(lanes: int, vectors: int = 1) -> Written:
    """Add rows of a tile, so many vectors of so many words, to the words that begin at these places."""
    kind = ir.VectorType(_I64, lanes)

    @instruction
    def add(b: ir.IRBuilder, tile: Value, places: Value, rows: Value, words: Value) -> None:
        with cgutils.for_range(b, rows) as loop:
            row = b.gep(tile, [b.mul(loop.index, ir.Constant(_I64, lanes * vectors))])
            to = b.gep(words, [b.load(b.gep(places, [loop.index]))])
            for k in range(vectors):
                from_, into = (
                    b.bitcast(b.gep(base, [ir.Constant(_I64, lanes * k)]), kind.as_pointer())
                    for base in (row, to)
                )
                b.store(b.add(b.load(into, align=8), b.load(from_, align=8)), into, align=8)

    return add


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
    several = zip(columns[::2], columns[1::2], strict=False)
    cached = sum(bins * others for (_, bins, _), (_, others, _) in several) * width <= _MOST_CACHED
    while at < len(columns):
        (a, bins, cell), (b, others, other) = columns[at], (*columns, (0, 0, 0))[at + 1]
        joint = bins * others
        if joint and cached and joint * width <= _MOST_JOINT and 4 * joint <= rows:
            found.append((a, b, others, begin, bins, others, cell, other))
            at, begin = at + 2, begin + joint
        else:
            found.append((a, a, 1, begin, bins, 0, cell, 0))
            at, begin = at + 1, begin + bins
    table = np.array(found, np.int64)
    first, second, times, before = np.ascontiguousarray(table[:, :4].T)
    bins, cells = np.ascontiguousarray(table.reshape(-1, 4, 2)[:, 2:].transpose(1, 0, 2))
    return Pairs(first, second, times, before, bins, cells)


def add(codes: NDArray[np.integer], pairs: Pairs, start: int, tile: Words, joint: Words) -> None:
    """Add the rows of a tile, (rows, width), from `start` on of the codes, (columns, rows), to the joint
    cells, (cells, width)."""
    rows, width = tile.shape
    places = np.empty(rows, np.int64)
    _add(codes, pairs, start, tile.reshape(-1), width, places, joint.reshape(-1))


@kernel
def _add(
    codes: NDArray[np.integer],
    pairs: Pairs,
    start: int,
    tile: Words,
    width: int,
    places: Integers,
    joint: Words,
) -> None:
    rows = places.shape[0]
    for p in range(pairs.first.shape[0]):
        begin, times = pairs.begin[p] * width, pairs.times[p] * width
        # Cut, so that no place can be below 0: numba would look, and LLVM make no vectors of it.
        one = codes[pairs.first[p], start : start + rows]
        two = codes[pairs.second[p], start : start + rows]
        other = width if pairs.bins[p, 1] else 0
        for i in range(rows):
            places[i] = begin + np.int64(one[i]) * times + np.int64(two[i]) * other
        _add_rows(tile, places, rows, width, joint)


@inlined
def _add_rows(tile: Words, places: Integers, rows: int, width: int, words: Words) -> None:
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


def tell_apart(pairs: Pairs, joint: Words, sums: Words) -> None:
    """Add the joint cells, (cells, width), to those of each column, (cells, width)."""
    places = np.empty(len(joint), np.int64)
    _tell_apart(pairs, joint.reshape(-1), sums.shape[1], places, sums.reshape(-1))


@kernel
def _tell_apart(pairs: Pairs, joint: Words, width: int, places: Integers, sums: Words) -> None:
    for p in range(pairs.first.shape[0]):
        others = pairs.bins[p, 1] if pairs.bins[p, 1] else 1
        cells = pairs.bins[p, 0] * others
        own = joint[pairs.begin[p] * width :]
        for which in range(2 if pairs.bins[p, 1] else 1):
            for cell in range(cells):
                code = cell % others if which else cell // others
                places[cell] = (pairs.cells[p, which] + code) * width
            _add_rows(own, places, cells, width, sums)


def unpack(piece: Bytes, bits: int, count: int, first: int, tile: Words) -> None:
    """Rows from `first` on of a polynomial in words.pack's bytes, as a tile (rows, width); or, of
    HALF_WORD bits, in those of words.pack_halves, where a pair counts as two."""
    own = slice(first * count, (first + len(tile)) * count)
    if bits == MODULUS_BITS:
        tile[:, :count] = piece.view("<u8")[own].reshape(-1, count)
        return
    words = len(piece) * 8 // bits
    tops = piece[: 4 * words].view("<u4")[own]
    filled = tile.shape[1] == count
    together = tile.reshape(-1) if filled else np.empty(len(tops), np.uint64)
    if bits == HALF_WORD:
        _unpack_halves(tops, piece[4 * words :][own], together)
    else:
        middles, lows = piece[4 * words : 6 * words].view("<u2")[own], piece[6 * words :][own]
        _unpack(tops, middles, lows, together)
    if not filled:
        tile[:, :count] = together.reshape(-1, count)


@kernel
def _unpack(tops: NDArray[np.uint32], middles: NDArray[np.uint16], lows: Bytes, out: Words) -> None:
    """Words of 48 bits, or 56 if there are lows, of their planes."""
    up, half = np.uint64(32), np.uint64(16)
    if len(lows):
        for i in range(len(tops)):
            high = np.uint64(tops[i]) << up | np.uint64(middles[i]) << half
            out[i] = high | np.uint64(lows[i]) << np.uint64(8)
    else:
        for i in range(len(tops)):
            out[i] = np.uint64(tops[i]) << up | np.uint64(middles[i]) << half


@kernel
def _unpack_halves(tops: NDArray[np.uint32], lows: Bytes, out: Words) -> None:
    for i in range(tops.shape[0]):
        out[i] = np.uint64(tops[i]) << np.uint64(8) | np.uint64(lows[i])
