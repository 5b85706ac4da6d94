"""Passes over rows for all nodes of a level at once, whatever the number of these.

A bit a row of a node, in the order of the rows, is what hosts say of a split. Tables are by the number
of a node: its place among the nodes that are meant, -1 for others.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Bytes, Integers, Mask
from vfl.kernels import is_compiled, kernel
from vfl.learn.tree import Nodes
from vfl.protocols.common.bits import bits_between

UNCOMPILED = 1 << 16
"""Rows of a block for which to import numba does not pay."""

Packed = bytes
"""A bit a row of a node in a block."""


def follow(table: Integers, node: Nodes, told: Sequence[Packed], left: Mask) -> None:
    """Have `left` say of the rows of the nodes, in `table`, what is told of each."""
    if len(node) <= UNCOMPILED and not is_compiled(_follow):
        for split, bits in enumerate(told):
            inside = np.flatnonzero(table[node] == split)
            left[inside] = bits_between(bits, 0, len(inside))
        return
    at = 8 * np.cumsum([0, *map(len, told)])[:-1]
    _follow(table, node, np.frombuffer(b"".join(told), np.uint8), at.astype(np.int64), left)


def sides_of(
    table: Integers, nodes: int, node: Nodes, active: Mask, g: Integers, h: Integers, left: Mask
) -> Integers:
    """Of each node, shape (nodes, 4), how many active rows go left and right, and the sums of gradients
    and hessians of those that go left."""
    out = np.zeros((nodes, 4), np.int64)
    if len(node) > UNCOMPILED or is_compiled(_sum_sides):
        _sum_sides(table, node, active, g, h, left, out)
        return out
    for split in range(nodes):
        inside = active & (table[node] == split)
        went = inside & left
        out[split, :2] = went.sum(), (inside & ~left).sum()
        out[split, 2:] = g[went].sum(), h[went].sum()
    return out


def pairs_of(
    table: Integers, nodes: int, base: int, node: Nodes, active: Mask, g: Integers, h: Integers
) -> Integers:
    """By node, shape (nodes, rows): of its active rows g times `base`, plus h, 0 of all others.

    Raises ValueError for an h below 0, which a word of a pair has no room for.
    """
    out = np.zeros((nodes, len(node)), np.int64)
    if len(node) > UNCOMPILED or is_compiled(_place_pairs):
        least = _place_pairs(table, base, node, active, g, h, out)
    else:
        at = np.flatnonzero(active & (table[node] >= 0))
        out[table[node[at]], at] = g[at].astype(np.int64) * base + h[at]
        least = h[at].min(initial=0)
    if least < 0:
        raise ValueError("a hessian below 0 has no room in a word of a pair")
    return out


def sums_of_nodes(nodes: int, node: Nodes, active: Mask, g: Integers, h: Integers) -> Integers:
    """How many active rows each node has, and the sums of gradients and hessians of all its rows, shape
    (3, nodes)."""
    sums = np.zeros((nodes, 3), np.int64)
    if len(node) > UNCOMPILED or is_compiled(_sum_nodes):
        _sum_nodes(node, active, g, h, sums)
        return np.ascontiguousarray(sums.T)
    index = node.astype(np.intp)
    sums[:, 0] = np.bincount(index[active], minlength=nodes)
    np.add.at(sums[:, 1], index, g)
    np.add.at(sums[:, 2], index, h)
    return np.ascontiguousarray(sums.T)


@kernel
def _follow(table: Integers, node: Nodes, told: Bytes, at: Integers, left: Mask) -> None:
    """`at`: by place the first bit of what is told of a node, which moves on with its rows."""
    for i in range(len(node)):
        place = table[node[i]]
        if place >= 0:
            bit = at[place]
            left[i] = (told[bit >> 3] >> (7 - (bit & 7))) & 1
            at[place] = bit + 1


@kernel
def _sum_sides(
    table: Integers, node: Nodes, active: Mask, g: Integers, h: Integers, left: Mask, out: Integers
) -> None:
    for i in range(len(node)):
        place = table[node[i]]
        if place >= 0 and active[i]:
            if left[i]:
                out[place, 0] += 1
                out[place, 2] += g[i]
                out[place, 3] += h[i]
            else:
                out[place, 1] += 1


@kernel
def _place_pairs(
    table: Integers, base: int, node: Nodes, active: Mask, g: Integers, h: Integers, out: Integers
) -> int:
    """Returns the least h, 0 if none is below that."""
    least = 0
    for i in range(len(node)):
        place = table[node[i]]
        if place >= 0 and active[i]:
            out[place, i] = g[i] * base + h[i]
            least = min(least, h[i])
    return least


@kernel
def _sum_nodes(node: Nodes, active: Mask, g: Integers, h: Integers, sums: Integers) -> None:
    for i in range(len(node)):
        sums[node[i], 0] += active[i]
        sums[node[i], 1] += g[i]
        sums[node[i], 2] += h[i]


# ---------------------------------------------------- of a host, whose tables begin with node -1


@kernel
def learn(
    nodes: Integers,
    planes: NDArray[np.uint8],
    drawn_bits: Bytes,
    levels: Integers,
    asked: Mask,
    node: Nodes,
    drawn: Mask,
    counts: Integers,
) -> int:
    """Learn in which of `nodes` each row is (`planes` of bits: the place among them, from 1) and
    whether it is drawn; counts drawn rows by place. `levels`, `asked`: by node, from -1 on.

    Returns what is wrong with it: 1 for rows of no node, 2 for rows in another node than they are in, 4
    for other rows of a node than it has. It must be a tree: rows stay below the nodes where they were
    known to be.
    """
    wrong, bit = 0, 0
    for i in range(len(node)):
        place = 0
        for plane in range(len(planes)):
            place |= ((planes[plane, i >> 3] >> (7 - (i & 7))) & 1) << plane
        before = np.int64(node[i])
        if place == 0:
            if asked[before + 1]:
                wrong |= 4
            continue
        is_drawn = (drawn_bits[bit >> 3] >> (7 - (bit & 7))) & 1
        bit += 1
        if place > len(nodes):
            wrong |= 1
            continue
        below = nodes[place - 1]
        if before >= 0:
            above = levels[below + 1] - levels[before + 1]
            above = above if above > 0 else 0
            if before + 1 != (below + 1) >> above:
                wrong |= 2
            if is_drawn != drawn[i]:
                wrong |= 4
        node[i] = below
        drawn[i] = is_drawn != 0
        counts[place - 1] += is_drawn
    return wrong


@kernel
def count_codes(
    table: Integers,
    columns: Integers,
    codes: NDArray[np.uint8],
    node: Nodes,
    drawn: Mask,
    counts: Integers,
) -> None:
    """Count drawn rows by place, by the columns that are meant there, (places, columns), -1 for none,
    and by code."""
    for i in range(len(node)):
        place = table[node[i] + 1]
        if place >= 0 and drawn[i]:
            for j in range(columns.shape[1]):
                column = columns[place, j]
                if column < 0:
                    break
                counts[place, j, codes[column, i]] += 1


@kernel
def go_left(
    table: Integers,
    columns: Integers,
    goes: NDArray[np.bool_],
    codes: NDArray[np.uint8],
    node: Nodes,
    left: Mask,
    counts: Integers,
) -> None:
    """Which rows go left, by the column of each place and what `goes`, (places, codes), says; how many
    rows each place has."""
    for i in range(len(node)):
        place = table[node[i] + 1]
        if place >= 0:
            left[i] = goes[place, codes[columns[place], i]]
            counts[place] += 1


@kernel
def move(table: Integers, nodes: Integers, left: Mask, node: Nodes, at: Integers, told: Mask) -> None:
    """Move rows into the children of their nodes, and have `told` say which go left, by place from `at`
    on, which moves on."""
    for i in range(len(node)):
        place = table[node[i] + 1]
        if place >= 0:
            told[at[place]] = left[i]
            at[place] += 1
            node[i] = 2 * nodes[place] + 2 - left[i]
