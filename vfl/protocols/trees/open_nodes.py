"""The nodes that a host knows, under Paillier, and which of them the guest may name.

Of trees that grow level by level those of the level. Best-first (learn/best_first.py) also those of
earlier splits, and no more may be split than make the leaves of the job.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from vfl.arrays import Mask
from vfl.learn.params import BoostParams
from vfl.learn.told_sums import most_splits, most_summed
from vfl.learn.tree import Frontier
from vfl.net.peer import Peer
from vfl.protocols.common.bits import pack_bits
from vfl.protocols.trees.category_sets import SetWinners, by_sets
from vfl.protocols.trees.columns import Direction, SplitRows
from vfl.protocols.trees.grower import TreeEnd
from vfl.protocols.trees.paillier_messages import Advance, Winners

Said = TypeVar("Said", Direction, SplitRows)


class OpenNodes:
    """Those of a tree under growth."""

    def __init__(self, guest: Peer, params: BoostParams, frontier: Frontier) -> None:
        self._guest, self._params, self._frontier = guest, params, frontier
        self.best_first = params.max_leaves is not None
        self.winners: type[Winners] | type[SetWinners] = SetWinners if by_sets(params) else Winners
        if self.best_first:
            frontier.depth = params.depth
        self._valid: dict[int, Mask] = {}
        self._open: set[int] = set()  # may be split
        self._said: dict[int, bytes] = {}  # by node, which of its rows go left by this host's word
        self._summed = 1
        self._splits_won = 0

    def add(self, valid: dict[int, Mask]) -> None:
        """Open the nodes whose sums are told next: by node, which candidates have enough rows."""
        if not self.best_first:
            self._valid, self._open = valid, {*valid}
            return
        self._valid.update(valid)
        self._open.update(valid)

    def won(self, nodes: Sequence[int], what: str) -> Mapping[int, Mask]:
        """Which candidates have enough rows in nodes that this host wins. Raises PeerError, naming the
        message, for nodes that it cannot win."""
        named = set(nodes)
        if len(named) < len(nodes) or not named <= self._valid.keys():
            raise self._guest.breach(f"{what} of nodes that are not open")
        self._splits_won += len(named)
        if self._splits_won > most_splits(self._params):
            raise self._guest.breach(f"{what} of more nodes than a tree of the job has splits")
        return {node: self._valid.pop(node) for node in nodes}

    def said(self, answer: Said) -> Said:
        """Remember how this host splits a node that it has won, which it says so."""
        self._said[answer.node] = answer.left
        return answer

    async def after_winners(self) -> Winners | SetWinners | Advance | TreeEnd:
        """What the guest says once this host has said how it splits; best-first it may win further
        nodes before any is summed."""
        if self.best_first:
            return await self._guest.recv(self.winners, Advance, TreeEnd)
        return await self._guest.recv(Advance, TreeEnd)

    def check_split(self, nodes: Sequence[int], left: Mask) -> list[int]:
        """The nodes that are split, to be summed below; `left`: which of all rows go left. Raises
        PeerError for nodes that cannot be, or that this host has won and split otherwise."""
        if not nodes or not set(nodes) <= self._open:
            raise self._guest.breach("an Advance of nodes that are not open")
        if max(nodes) + 1 >= 1 << self._params.depth - 1:
            raise self._guest.breach("an Advance beyond the depth of the job")
        self._open -= set(nodes)
        for node in nodes:
            self._valid.pop(node, None)
        self._summed += len(set(nodes))
        if self._summed > most_summed(self._params):
            raise self._guest.breach("an Advance of more nodes than the leaves of the job")
        for node in self._said.keys() & set(nodes):
            if pack_bits(left[self._frontier.inside(node)]) != self._said.pop(node):
                raise self._guest.breach("an Advance that splits a node otherwise than its winner")
        return sorted(set(nodes))
