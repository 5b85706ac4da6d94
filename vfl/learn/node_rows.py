"""Rows in the nodes of a growing tree: who goes left, and what each node adds up to.

Of blocks of many rows each is one look at the rows, however many nodes there are; of few rows it is
done without what must be compiled first.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from vfl.arrays import Bytes, Integers, Mask
from vfl.kernels import is_compiled, kernel
from vfl.learn.packed_codes import PackedCodes, column_of
from vfl.learn.splits import Side
from vfl.learn.tree import MANY, Nodes


def sums_by_node(nodes: int, node: Nodes, active: Mask, g: Integers, h: Integers) -> Integers:
    """How many drawn rows each of so many nodes has, and the sums of gradients and hessians, which are
    0 where a row is not drawn; shape (3, nodes)."""
    sums = np.zeros((3, nodes), np.int64)
    if len(node) >= MANY or is_compiled(_add):
        _add(node, active, g, h, sums)
        return sums
    index = node.astype(np.intp)
    sums[0] = np.bincount(index[active], minlength=nodes)
    for of, values in zip(sums[1:], (g, h), strict=True):
        np.add.at(of, index, values)
    return sums


@kernel
def _add(node: Nodes, active: Mask, g: Integers, h: Integers, sums: Integers) -> None:
    # Neighbours add to different words, as one that has just been written is slow to read.
    own = np.zeros((4, sums.shape[1], 3), np.int64)
    for row in range(len(node)):
        of = own[row & 3, node[row]]
        of[0] += active[row]
        of[1] += g[row]
        of[2] += h[row]
    for part in range(4):
        sums += own[part].T


def left_by_codes(
    slot_of_node: Integers, sides: Mapping[int, Side], node: Nodes, codes: PackedCodes, *before: Mask
) -> Mask:
    """Which rows go left by codes, beside those that others' splits send there. `slot_of_node`: the
    place of each node among those of `sides`, -1 for others."""
    left = before[0].copy() if before else np.zeros(len(node), np.bool_)
    if len(node) >= MANY or is_compiled(_look_up):
        places = np.array([[*divmod(side.column, codes.itemsize)] for side in sides.values()])
        goes_left = np.zeros((len(sides), 256), np.bool_)
        for of, side in zip(goes_left, sides.values(), strict=True):
            of[: side.missing + 1] = side.goes_left(np.arange(side.missing + 1, dtype=np.uint8))
        _look_up(slot_of_node, places, goes_left, node, codes, left)
        return left
    for split, side in sides.items():
        inside = np.flatnonzero(node == split)
        left[inside] = side.goes_left(column_of(codes, side.column)[inside])
    return left


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


def left_as_told(slot_of_node: Integers, node: Nodes, told: Sequence[bytes], *before: Mask) -> Mask:
    """Which rows go left by a bit of each row of a node, in their order, beside those that other
    splits send there. `slot_of_node`: the place of each node among those of `told`, -1 for others."""
    left = before[0].copy() if before else np.zeros(len(node), np.bool_)
    if len(node) >= MANY or is_compiled(_take_bits):
        starts = 8 * np.cumsum([0, *map(len, told)])
        _take_bits(slot_of_node, node, np.frombuffer(b"".join(told), np.uint8), starts, left)
        return left
    slot = slot_of_node[node]
    for place, rows in enumerate(told):
        inside = np.flatnonzero(slot == place)
        left[inside] = np.unpackbits(np.frombuffer(rows, np.uint8), count=len(inside)).view(np.bool_)
    return left


@kernel
def _take_bits(slot_of_node: Integers, node: Nodes, bits: Bytes, starts: Integers, left: Mask) -> None:
    """`starts`: the first bit of each node."""
    at = starts.copy()
    for row in range(len(node)):
        slot = slot_of_node[node[row]]
        if slot >= 0:
            bit = at[slot]
            left[row] = (bits[bit >> 3] >> (7 - (bit & 7))) & 1
            at[slot] = bit + 1


def sums_as_told(
    split: int, node: Nodes, active: Mask, g: Integers, h: Integers, left: bytes
) -> Integers:
    """How many drawn rows of a node go left and right by a bit of each of its rows, in their order, and
    the sums of gradients and hessians of those that go left."""
    bits, sums = np.frombuffer(left, np.uint8), np.zeros(4, np.int64)
    if len(node) >= MANY or is_compiled(_add_left):
        _add_left(split, node, active, g, h, bits, sums)
        return sums
    inside = np.flatnonzero(node == split)
    drawn = active[inside]
    went = inside[np.unpackbits(bits, count=len(inside)).view(np.bool_) & drawn]
    return np.array([len(went), int(drawn.sum()) - len(went), g[went].sum(), h[went].sum()])


@kernel
def _add_left(
    split: int, node: Nodes, active: Mask, g: Integers, h: Integers, bits: Bytes, sums: Integers
) -> None:
    bit = 0
    for row in range(len(node)):
        if node[row] == split:
            goes_left = (bits[bit >> 3] >> (7 - (bit & 7))) & 1
            bit += 1
            if active[row]:
                sums[1 - goes_left] += 1
                if goes_left:
                    sums[2] += g[row]
                    sums[3] += h[row]
