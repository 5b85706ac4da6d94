"""Puncturable pseudorandom functions as trees of seeds: all leaves but one can be told.

Goldreich, Goldwasser, Micali (J. ACM 1986); punctured: Boneh, Waters (ASIACRYPT 2013), Kiayias et al.
(CCS 2013), Boyle, Goldwasser, Ivan (PKC 2014). The children of seed s are AES_k(s) + s under two keys k
of its level, which are public and belong to the run (Matyas, Meyer, Oseas: pseudorandom for ciphers that
are random permutations). A receiver that leaves out leaf a is told, level by level, the sum of all
children on the side where a does not lie: with the nodes that it knows already, that gives the one that
it lacks, the sibling of the node above a.

Many trees of the same size grow side by side: node i of tree k is row i of column k, its children are
rows i and i + m of the next level, m being the nodes of this one. So bit l of a leaf's number is its
side at level l, and the lowest bit that of the root's child.
"""

from collections.abc import Sequence

import numpy as np

from vfl.arrays import Bytes, Integers, Words
from vfl.crypto.vole.field import block_cipher
from vfl.kernels import kernel

SEED = 16
_SLICE = 1 << 13  # seeds encrypted at a time


def levels(leaves: int) -> int:
    """The levels below the root of a tree with so many leaves."""
    return (leaves - 1).bit_length()


def grow(seeds: Bytes, keys: Sequence[tuple[bytes, bytes]], nodes: Bytes) -> Bytes:
    """Trees of `seeds` (t, 16): fill `nodes` (leaves, t, 16) with their leaves.

    Returns, by level and side, the sums of all children of that side (levels, 2, t, 16). keys: a pair a
    level, of as many levels as there are for so many leaves.
    """
    nodes[0] = seeds
    sums = np.empty((len(keys), 2, len(seeds), SEED), np.uint8)
    for level, of_level in enumerate(keys):
        _grow_level(nodes, 1 << level, of_level, sums[level])
    return sums


def grow_punctured(
    missing: Integers, told: Bytes, keys: Sequence[tuple[bytes, bytes]], nodes: Bytes
) -> None:
    """Fill `nodes` (leaves, t, 16) with the leaves of trees without missing[k] of each, which is zero.

    told: by level the sum of all children of the side where the missing leaf does not lie (levels, t,
    16), as `grow` gives them. Wrong sums give wrong leaves.
    """
    leaves, count = nodes.shape[:2]
    trees = np.arange(count)
    nodes[0] = 0
    sums = np.empty((2, count, SEED), np.uint8)
    for level, of_level in enumerate(keys):
        half = 1 << level
        _grow_level(nodes, half, of_level, sums)
        # What the unknown parent gave counts for nothing.
        side = missing >> level & 1
        parent = missing & (half - 1)
        for at in (parent, parent + half):
            there = at < leaves
            sums[(at >= half).astype(np.int64)[there], trees[there]] ^= nodes[at[there], trees[there]]
            nodes[at[there], trees[there]] = 0
        sibling = parent + (1 - side) * half
        there = sibling < leaves
        found = told[level] ^ sums[1 - side, trees]
        nodes[sibling[there], trees[there]] = found[there]


def _grow_level(nodes: Bytes, half: int, keys: tuple[bytes, bytes], sums: Bytes) -> None:
    """Put the children of the first `half` nodes in place of them and behind, as many as there is room
    for; `sums` (2, t, 16) is filled."""
    ciphers = [block_cipher(key) for key in keys]
    sums[:] = 0
    step = max(1, _SLICE // nodes.shape[1])
    # The cipher asks for room beyond the end, which it does not write to.
    rooms = np.empty((2, min(step, half) * nodes[0].size + SEED), np.uint8)
    rights = len(nodes[half : 2 * half])
    for start in range(0, half, step):
        some = nodes[start : min(start + step, half)]
        for cipher, room in zip(ciphers, rooms, strict=True):
            cipher.update_into(some.data, room.data)
        left, right = (room[: some.size].view(np.uint64).reshape(*some.shape[:2], 2) for room in rooms)
        behind = nodes[half + start : half + min(start + len(some), rights)]
        _feed_forward(some.view(np.uint64), behind.view(np.uint64), left, right, sums.view(np.uint64))


@kernel
def _feed_forward(nodes: Words, behind: Words, left: Words, right: Words, sums: Words) -> None:
    """Add the nodes to what the ciphers made of them: these are their children, at the left in their
    place, at the right behind. And add the children to the sums of each tree."""
    for row in range(len(nodes)):
        for tree in range(nodes.shape[1]):
            for w in range(2):
                node = nodes[row, tree, w]
                child = node ^ left[row, tree, w]
                nodes[row, tree, w] = child
                sums[0, tree, w] ^= child
                if row < len(behind):
                    child = node ^ right[row, tree, w]
                    behind[row, tree, w] = child
                    sums[1, tree, w] ^= child
