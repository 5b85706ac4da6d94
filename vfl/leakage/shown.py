"""What a training shows the guest of one host's candidates, gathered for the attacks.

Rows are the aligned ones. A candidate has a place in what is shown: under a key in an order that is
drawn anew for each tree, or for each node; over the lattice engine in an order that stays.
"""

from collections.abc import Sequence
from dataclasses import dataclass
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
    order: dict[tuple[int, int], Integers]

    @property
    def majority(self) -> Floats:
        """For each candidate the share of rows on its larger side."""
        share = self.sides.mean(axis=1)
        return np.asarray(np.maximum(share, 1 - share))
