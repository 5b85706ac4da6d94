"""Binned columns eight by eight, and the sums of a level's nodes over them.

Codes of eight columns make a word, so that a row's gradients are read once for all of them. A row's
gradient, its hessian and a one are parts of one word of 64 bits, as in LightGBM's quantised
training (Shi et al., NeurIPS 2022, section 4.2), where few bits hold what a block of rows adds up
to: then one addition does for all three.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Integers, Mask, Words
from vfl.kernels import inlined, is_compiled, kernel
from vfl.learn.splits import UNCOMPILED, Cells, Side, block_histograms
from vfl.learn.tree import MANY, Nodes, slots_of

_AT_ONCE = 1 << 11  # rows that are looked up before they are added
_COLUMNS = 8  # of a word
_BYTE, _EIGHT = np.uint64(255), np.uint64(8)

PackedCodes = Words
"""Shape (words, rows): the codes of eight columns in each word, the first in the lowest byte."""


class Packing(NamedTuple):
    """How a row's gradient, hessian and one lie in a word: by what each is multiplied, from which bit on
    the sums of the first two begin, and how many rows of a node a word holds."""

    gradient: int
    hessian: int
    one: int
    gradient_bit: int
    hessian_bit: int
    rows: int

    @classmethod
    def of(cls, bits: int) -> "tuple[Packing, ...]":
        """The words for gradients and hessians of a size of at most 2^bits: one, or where that would
        hold too few rows one of gradients and one of the others."""
        rows = (59 - 2 * bits) // 3  # by their logarithm
        if 1 << max(rows, 0) >= _AT_ONCE:
            first, second = rows + 1, bits + 2 * rows + 3
            return (cls(1 << second, 1 << first, 1, second, first, 1 << rows),)
        rows = (60 - bits) // 2
        if 1 << max(rows, 0) < _AT_ONCE:
            raise ValueError(f"gradients of {bits} bits")
        return cls(2, 0, 0, 1, 1, 1 << 61 - bits), cls(0, 1 << rows + 1, 1, 63, rows + 1, 1 << rows)


def pack_codes(codes: NDArray[np.uint8]) -> PackedCodes:
    """Codes of shape (columns, rows)."""
    columns, rows = codes.shape
    out = np.zeros((-(-columns // _COLUMNS), rows), "<u8")
    for place, of_column in enumerate(codes):
        column_of(out, place)[:] = of_column
    return out


def column_of(packed: PackedCodes, column: int) -> NDArray[np.uint8]:
    """The codes of a column, a view."""
    word, place = divmod(column, _COLUMNS)
    codes: NDArray[np.uint8] = packed[word].view(np.uint8)
    return codes[place::_COLUMNS]


def chosen_columns(columns: Integers, packed: PackedCodes) -> PackedCodes:
    """Some of the columns."""
    codes = [column_of(packed, column) for column in columns.tolist()]
    return pack_codes(np.array(codes, np.uint8).reshape(len(columns), packed.shape[1]))


def follow_codes(
    slot_of_node: Integers, sides: Mapping[int, Side], node: Nodes, codes: PackedCodes, left: Mask
) -> None:
    """Have `left` say of the rows of some nodes which go left by codes. `slot_of_node`: the place of
    each node among those of `sides`, -1 for others."""
    if len(node) < MANY and not is_compiled(_look_up):
        for split, side in sides.items():
            inside = np.flatnonzero(node == split)
            left[inside] = side.goes_left(column_of(codes, side.column)[inside])
        return
    places = np.array([[*divmod(side.column, _COLUMNS)] for side in sides.values()])
    goes_left = np.zeros((len(sides), 256), np.bool_)
    for of, side in zip(goes_left, sides.values(), strict=True):
        of[: side.missing + 1] = side.goes_left(np.arange(side.missing + 1, dtype=np.uint8))
    _look_up(slot_of_node, places, goes_left, node, codes, left)


@kernel
def _look_up(
    slot_of_node: Integers,
    places: Integers,
    goes_left: Mask,
    node: Nodes,
    codes: PackedCodes,
    left: Mask,
) -> None:
    for row in range(len(node)):
        slot = slot_of_node[node[row]]
        if slot >= 0:
            code = codes[places[slot, 0], row] >> np.uint64(8 * places[slot, 1])
            left[row] = goes_left[slot, code & np.uint64(255)]


def level_histograms(
    codes: PackedCodes,
    flat: Cells,
    slot_of_node: Integers,
    nodes: tuple[Nodes, Mask],
    gradients: tuple[Integers, Integers],
    bits: int,
    work: int,
) -> Integers:
    """Of a block, the sums of gradients, sums of hessians and row counts of some nodes by cell, shape
    (3, slots, cells).

    `slot_of_node`: the place of each node, -1 for others. `nodes`: the node of each row, and which rows
    are drawn. `gradients`: whole numbers of a size of at most 2^bits. `work`: additions in all blocks.
    """
    slots = int(slot_of_node.max(initial=-1)) + 1
    if work <= UNCOMPILED and not is_compiled(_add):
        columns = np.array([column_of(codes, i) for i in range(len(flat.offsets))])
        slot = slots_of(slot_of_node, *nodes)
        return np.stack(
            [block_histograms(columns, flat, slot, slots, of, work) for of in (*gradients, None)]
        )
    sums = np.zeros((3, slots, flat.cells), np.int64)
    ends = np.append(flat.offsets, flat.cells)
    room = _Room.of(slots, ends)
    for packing in Packing.of(bits):
        _add(codes, room, slot_of_node, *nodes, gradients, np.array(packing, np.int64), sums)
    return sums


class _Room(NamedTuple):
    """What `_add` works in: an array that a kernel makes itself takes long to compile."""

    ends: Integers  # of the columns' cells
    size: int  # cells of the widest column
    own: Integers  # words, (2, slots, columns, size), flat; zeros
    counts: Integers  # of rows of each slot in `own`, and of others; zeros
    at: Words  # of the rows that are looked up: which they are,
    base: Words  # where their words begin,
    value: Integers  # what is added

    @classmethod
    def of(cls, slots: int, ends: Integers) -> "_Room":
        size = int(np.diff(ends).max(initial=0))
        own = np.zeros(2 * slots * (len(ends) - 1) * size, np.int64)
        at, base = np.empty((2, _AT_ONCE), np.uint64)
        counts = np.zeros(slots + 1, np.int64)
        return cls(ends, size, own, counts, at, base, np.empty(_AT_ONCE, np.int64))


@kernel
def _add(
    words: Words,
    room: _Room,
    slot_of_node: Integers,
    node: Nodes,
    active: Mask,
    gradients: tuple[Integers, Integers],
    packing: Integers,
    sums: Integers,
) -> None:
    """Add each drawn row to the cells of its node. Indices have no sign, which saves looking whether
    they count from the end."""
    ends, size, own, counts, at, base, value = room
    rows, columns, slots = node.shape[0], ends.shape[0] - 1, sums.shape[1]
    gradient, hessian = gradients
    half, wide = own.shape[0] // 2, np.uint64(size)
    for start in range(0, rows, _AT_ONCE):
        stop, count = start + _AT_ONCE, 0
        stop = rows if stop > rows else stop
        for row in range(start, stop):
            slot = slot_of_node[node[row]]
            inside = active[row] and slot >= 0
            at[count], base[count] = row, slot * columns * size + (half if count & 1 else 0)
            value[count] = gradient[row] * packing[0] + hessian[row] * packing[1] + packing[2]
            count += inside
            counts[slot if inside else slots] += 1
        for word in range(words.shape[0]):
            few, first = columns - _COLUMNS * word, np.uint64(_COLUMNS * word) * wide
            of_rows = words[word]
            for i in range(count):
                codes, cell, values = of_rows[at[i]], base[i] + first, value[i]
                if few >= _COLUMNS:
                    for _ in range(_COLUMNS):
                        own[cell + (codes & _BYTE)] += values
                        codes >>= _EIGHT
                        cell += wide
                else:
                    for _ in range(few):
                        own[cell + (codes & _BYTE)] += values
                        codes >>= _EIGHT
                        cell += wide
        most = 0
        for slot in range(slots):
            most = counts[slot] if counts[slot] > most else most
        if stop == rows or most + _AT_ONCE > packing[5]:
            _move(own, counts, ends, size, packing, sums)


@inlined
def _move(
    own: Integers, counts: Integers, ends: Integers, size: int, packing: Integers, sums: Integers
) -> None:
    """Add what lies in words to the sums, and clear them."""
    columns, above, below = ends.shape[0] - 1, 64 - packing[3], packing[4]
    half = own.shape[0] // 2
    for slot in range(sums.shape[1]):
        for c in range(columns if counts[slot] else 0):
            first = (slot * columns + c) * size
            for cell in range(ends[c], ends[c + 1]):
                at = first + cell - ends[c]
                word = own[at] + own[half + at]
                own[at] = own[half + at] = 0
                low = (word << above) >> above  # with its sign
                one = low & ((1 << below) - 1)
                sums[0, slot, cell] += (word - low) >> packing[3]
                sums[1, slot, cell] += (low - one) >> below
                sums[2, slot, cell] += one
    for slot in range(counts.shape[0]):
        counts[slot] = 0
