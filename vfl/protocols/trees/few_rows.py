"""Candidates that a host keeps to itself in a node, as sums about few of its rows follow from them.

The guest knows the sum of all rows of a node and those left of the candidates that it is told. Two of
them at one threshold, that send missing values either way, differ by the rows without a value. And what
is left of a node beside the categories of a column that are told are the rows of all others: those too
rare to be kept apart, or to be told in this node. Sums of many bits name such rows if they are few
(docs/leakage.md), and which candidates go together the sums say themselves.

So where fewer than `least` rows of a node lack a value, no candidate sends them left; and of a column of
categories the smallest are left out, until none or as many are left over. The other child of a pair is
told by subtraction, so that both are looked at; and what is left out is so below, too.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from vfl.arrays import Integers, Mask
from vfl.learn.splits import Candidates


class FewRows:
    """Those of a tree under growth."""

    def __init__(self, candidates: Candidates, least: int) -> None:
        """`least`: 0 or 1 to leave nothing out."""
        self._own, self._least = candidates, least
        self._categories = candidates.categories()
        self._told: dict[int, Mask] = {}

    def told(self, node: int) -> Mask:
        """Which candidates are told of a node and its sibling, of those that leave enough rows."""
        return self._told[node]

    def leave_out(
        self,
        pairs: Sequence[tuple[int, int | None]],
        counts: Mapping[int, Integers],
        valid: dict[int, Mask],
    ) -> None:
        """Leave candidates out in pairs of nodes. `counts`: by node, the drawn rows of each cell;
        `valid`: by node, which candidates have enough rows."""
        for pair in pairs:
            nodes = [node for node in pair if node is not None]
            told = np.logical_or.reduce([valid[node] for node in nodes])
            if nodes[0]:
                told &= self._told[(nodes[0] - 1) // 2]
            if self._least > 1:
                self._leave_out(np.array([counts[node] for node in nodes]), told)
            for node in nodes:
                self._told[node] = told
                valid[node] = valid[node] & told

    def _leave_out(self, cells: Integers, told: Mask) -> None:
        """Of nodes whose sums follow from each other, `cells` of shape (nodes, cells)."""
        own = self._own
        if not len(own):
            return
        told &= ~(own.missing_left & self._are_few(cells[:, own.missing_cell]).any(axis=0))
        rows, whole = cells[:, own.cell], cells[:, : own.columns[0].bins + 1].sum(axis=1)
        for group in self._categories:
            members = group[told[group]]
            rest = whole - rows[:, members].sum(axis=1)
            for member in members[np.argsort(rows[:, members].sum(axis=0), kind="stable")].tolist():
                if not self._are_few(rest).any():
                    break
                told[member] = False
                rest = rest + rows[:, member]

    def _are_few(self, rows: Integers) -> Mask:
        return np.asarray((rows > 0) & (rows < self._least))
