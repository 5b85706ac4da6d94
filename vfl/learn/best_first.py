"""Best-first growth of a tree (Shi, Best-first decision tree learning, 2007), as LightGBM grows it.

Of all open nodes the one whose best candidate gains most is split next, until there are as many leaves
as there may be. Of equal gains the lowest party's comes first, in LightGBM the first column's; then the
leaf of the lowest number, where a left child takes over its parent's and a right one gets the next.

One node after the other would be a round with every party for each split. Several may be split at once
where the order cannot matter: a node is split in any case if the nodes before it and all that can come
below them leave it a split.
"""

import heapq
from collections.abc import Mapping
from typing import NamedTuple


class Head(NamedTuple):
    """The best candidate of a node: what it gains, and whose it is."""

    gain: float
    party: int


def level_of(node: int) -> int:
    """How many splits are above a node."""
    return (node + 1).bit_length() - 1


class BestFirst:
    """Which nodes of a tree are split next."""

    def __init__(self, leaves: int, depth: int) -> None:
        """`leaves`: of the tree at most. `depth`: levels of splits at most."""
        self.left = leaves - 1  # splits
        self._depth = depth
        self._room: dict[int, int] = {}  # of a node: splits at it and below it, at most
        self._taken: dict[int, Head] = {}  # how nodes were split

    def open(self, node: int, most: int | None = None) -> None:
        """Be told of a node that may be split. `most`: splits at it and below it at most, by its
        rows."""
        room = (1 << self._depth - level_of(node)) - 1
        self._room[node] = room if most is None else max(1, min(room, most))

    def take(self, node: int, head: Head) -> None:
        """Be told that a node is split, and by what."""
        self._taken[node] = head
        self.left -= 1

    def next(self, heads: Mapping[int, Head], exact: bool = True) -> tuple[list[int], Head | None]:
        """The nodes that are split next, and the best candidate of the node that would come after them.

        `heads`: of every open node with a candidate that is left, the best. `exact`: whether it may be
        taken for sure; else it bounds what the node gains, and one may be taken that comes before the
        best of the node after.
        """
        order, before, least = self._in_order(heads), 0, 1 << self._depth
        batch: list[int] = []
        for node in order:
            room = self._room[node]
            least = min(least, room)
            # Splits that can come before it: in any order among these nodes, where it is not known.
            if (before if exact else before + room - least) >= self.left:
                break
            batch.append(node)
            before += room
        return batch, heads[order[len(batch)]] if len(batch) < len(order) else None

    def _in_order(self, heads: Mapping[int, Head]) -> list[int]:
        """The open nodes as they would come, were there nothing below them.

        Nodes that were split together go through it again, one by one, for the numbers of leaves.
        """
        found: list[int] = []
        leaves, queue = 1, list[tuple[float, int, int, int]]()

        def add(node: int, number: int) -> None:
            head = self._taken.get(node) or heads.get(node)
            if head is not None:
                heapq.heappush(queue, (-head.gain, head.party, number, node))

        add(0, 0)
        while queue:
            _, _, number, node = heapq.heappop(queue)
            if node not in self._taken:
                found.append(node)
                continue
            add(2 * node + 1, number)
            add(2 * node + 2, leaves)
            leaves += 1
        return found
