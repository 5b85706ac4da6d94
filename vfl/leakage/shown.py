"""What a training shows the guest of one host's candidates, gathered for the attacks.

Rows are the aligned ones. A candidate has a place in what is shown: under a key in an order that is
drawn anew for each tree, or for each node; over the lattice engine in an order that stays.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats, Integers

Mask = NDArray[np.bool_]

Order = Literal["tree", "node", "fixed"]
"""How long candidates keep their places: for a tree, for a node, for the life of a hint."""


@dataclass(frozen=True, eq=False)
class ShownNode:
    """The left sums of a node: an entry a place."""

    number: int
    rows: Mask  # drawn rows of the node, an entry an aligned row
    gradient: Integers
    hessian: Integers
    known: Mask  # which places were shown
    derived: bool = False  # parent less sibling: nothing that these do not tell


@dataclass(frozen=True, eq=False)
class ShownSplit:
    """A split that the host won: who went left."""

    node: int
    place: int
    rows: Mask  # rows of the node, drawn or not
    left: Mask


@dataclass(frozen=True, eq=False)
class ShownTree:
    """A tree: the guest's own integers, 0 for rows not drawn, and what it was shown."""

    g: Integers
    h: Integers
    nodes: tuple[ShownNode, ...]  # a parent before its children
    splits: tuple[ShownSplit, ...]


@dataclass(frozen=True, eq=False)
class Shown:
    """All that the guest was shown of one host."""

    rows: int
    order: Order
    trees: tuple[ShownTree, ...]

    @property
    def equations_a_row(self) -> float:
        """Equations about a row: two for each node whose sums were shown and follow from no others."""
        return sum(equations(tree.nodes) for tree in self.trees) / self.rows


def equations(nodes: Sequence[ShownNode]) -> int:
    """Equations about each candidate that these nodes give away."""
    return 2 * sum(not node.derived and bool(node.known.any()) for node in nodes)


@dataclass(frozen=True, eq=False)
class Truth:
    """What the guest does not know: which candidate is at which place, and what the host holds.

    `sides`: shape (candidates, rows), who goes left. `order`: by (tree, node) the candidate at each
    place.
    """

    sides: Mask
    column: Integers  # of each candidate
    level: Mask  # whether each is a level of a factor, not a threshold
    order: dict[tuple[int, int], Integers]

    @property
    def majority(self) -> Floats:
        """For each candidate the share of rows on its larger side."""
        share = self.sides.mean(axis=1)
        return np.asarray(np.maximum(share, 1 - share))


def of_large_nodes(shown: Shown, least: int) -> Shown:
    """What was shown but for the sums of pairs of children of which one has fewer rows, and of nodes
    below these."""
    trees = []
    for tree in shown.trees:
        rows = {node.number: int(node.rows.sum()) for node in tree.nodes}
        kept: list[ShownNode] = []
        told = set[int]()
        for node in tree.nodes:
            parent = (node.number - 1) // 2
            pair = (0,) if node.number == 0 else (2 * parent + 1, 2 * parent + 2)
            if (not node.number or parent in told) and min(rows[n] for n in pair) >= least:
                kept.append(node)
                told.add(node.number)
        trees.append(replace(tree, nodes=tuple(kept)))
    return replace(shown, trees=tuple(trees))


def of_trees(shown: Shown, truth: Truth, numbers: Sequence[int]) -> tuple[Shown, Truth]:
    """What was shown of these trees alone, in this order."""
    place = {number: at for at, number in enumerate(numbers)}
    order = {(place[t], node): own for (t, node), own in truth.order.items() if t in place}
    trees = tuple(shown.trees[number] for number in numbers)
    return replace(shown, trees=trees), replace(truth, order=order)


def restricted(shown: Shown, truth: Truth, candidates: Integers) -> tuple[Shown, Truth]:
    """What was shown of these candidates alone, as if the guest knew which these are."""
    number = np.full(len(truth.sides), -1, np.int64)
    number[candidates] = np.arange(len(candidates))
    trees, order = [], {}
    for at, tree in enumerate(shown.trees):
        nodes, kept = [], {}
        for node in tree.nodes:
            own = number[truth.order[at, node.number]]
            kept[node.number] = places = np.flatnonzero(own >= 0)
            order[at, node.number] = own[places]
            sums = node.gradient[places], node.hessian[places]
            nodes.append(ShownNode(node.number, node.rows, *sums, node.known[places], node.derived))
        splits = [
            replace(split, place=int(np.flatnonzero(kept[split.node] == split.place)[0]))
            for split in tree.splits
            if split.place in kept[split.node]
        ]
        trees.append(replace(tree, nodes=tuple(nodes), splits=tuple(splits)))
    of_those = Truth(truth.sides[candidates], truth.column[candidates], truth.level[candidates], order)
    return replace(shown, trees=tuple(trees)), of_those
