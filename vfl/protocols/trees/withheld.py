"""Nodes whose sums a host keeps to itself, as they would be more than it gives about their rows."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from vfl.arrays import Mask
from vfl.learn.tree import Frontier


class Tells(Protocol):
    """Knows what may be told, as Records does."""

    async def may_tell(self, pairs: Sequence[tuple[Mask, Mask]]) -> list[bool]:
        """Of each pair of children, by their drawn rows, whether their sums may be told."""


class Withheld:
    """Those of a tree under growth."""

    def __init__(self, records: Tells) -> None:
        self._records, self._nodes = records, set[int]()

    def __contains__(self, node: int) -> bool:
        return node in self._nodes

    async def leave_out(self, frontier: Frontier, valid: dict[int, Mask]) -> None:
        """Leave no candidate in such pairs of children; nor below them, where sums follow from those of
        parents. valid: by open node, which candidates have enough rows. Raises as `Records.may_tell`."""
        asked = []
        for summed, sibling in frontier.pairs:
            if sibling is None:
                continue
            if (summed - 1) // 2 in self._nodes:
                self._add(valid, summed, sibling)
            elif valid[summed].any() or valid[sibling].any():
                asked.append((summed, sibling))
        inside = {node: frontier.inside(node) & frontier.drawn for pair in asked for node in pair}
        rows = [(inside[summed], inside[sibling]) for summed, sibling in asked]
        for pair, may in zip(asked, await self._records.may_tell(rows), strict=True):
            if not may:
                self._add(valid, *pair)

    def _add(self, valid: dict[int, Mask], *nodes: int) -> None:
        for node in nodes:
            self._nodes.add(node)
            valid[node] = np.zeros_like(valid[node])
