"""A tree under growth, as the guest sees it, and each party's candidates for its splits."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from vfl.arrays import Integers, Mask
from vfl.learn.binning import Binned
from vfl.learn.splits import Candidates, Split, histograms
from vfl.learn.tree import FREE, Bounds, Branch, Choice, Frontier, Sums
from vfl.net.peer import Peer, either, one_line
from vfl.net.wire import MIB, Message, RecordNumber
from vfl.protocols.common.bits import unpack_bits
from vfl.protocols.common.clock import Clock


class Direction(Message, frozen=True):
    """host -> guest. Reveals: which rows of the node go left at this host's split, which of the tied
    candidates it is, and the name (or number) of the column it permits to show."""

    node: int
    candidate: int
    record: RecordNumber
    column: str
    left: bytes  # a bit a row of the node
    limit: ClassVar[int] = 16 * MIB
    per_row = ("left", 1)


class SplitRows(Message, frozen=True):
    """host -> guest, where sums are hidden. Reveals: which rows of the node go left at this host's
    split, the name (or number) of the column it permits to show, and whether that column is monotone and
    its known values are split."""

    node: int
    record: RecordNumber
    column: str
    left: bytes  # a bit a row of the node
    ordered: bool
    limit: ClassVar[int] = 16 * MIB
    per_row = ("left", 1)


@dataclass
class Growth:
    """A tree under growth, as the guest sees it."""

    g: Integers  # quantised gradient and hessian of every row, 0 where it is not drawn
    h: Integers
    frontier: Frontier
    totals: dict[int, Sums] = field(default_factory=dict)  # of the open nodes
    bounds: dict[int, Bounds] = field(default_factory=lambda: {0: FREE})

    def total(self, rows: Mask) -> Sums:
        """The sums of those of the rows that are drawn."""
        drawn = self.frontier.active & rows
        return Sums(np.asarray(self.g[drawn].sum()), np.asarray(self.h[drawn].sum()))


@dataclass(frozen=True)
class Taken:
    """A split of a node."""

    branch: Branch
    ordered: bool  # whether the left must not score higher than the right
    left: Mask  # an entry a row of the node
    candidate: int = -1  # its number, where it is known: not of a host's where sums are hidden


GainOf = Callable[[int, Sums, bool], float | None]
"""The gain of a split by its node, left sums and whether it is ordered; None if it cannot win."""


class HostColumns:
    """One tree's candidates of a host, as far as the guest learns them."""

    def __init__(self, party: int, host: Peer) -> None:
        self.party, self.host = party, host
        self.ordered = np.zeros(0, np.bool_)  # by candidate: the left must not score higher
        self.candidates: dict[int, tuple[Sums, Mask]] = {}
        """By open node: left sums, and which may be taken, as far as the guest knows."""

    def check_direction(
        self, growth: Growth, choice: Choice, node: int, answer: Direction, minimum: int
    ) -> Taken:
        """The split of a node as the host says it. Raises PeerError for one that cannot be."""
        if answer.node != node or answer.candidate not in choice.candidates:
            raise self.host.breach("a Direction that was not asked for")
        left, went = self._rows(growth, answer, minimum)
        if not growth.total(went).equals(self.candidates[node][0].at(answer.candidate)):
            raise self.host.breach("a Direction whose rows do not add up to its sums")
        ordered = bool(self.ordered[answer.candidate])
        return Taken(self._branch(answer, choice.gain), ordered, left, answer.candidate)

    def check_rows(
        self,
        growth: Growth,
        node: int,
        answer: SplitRows,
        minimum: int,
        gain_of: GainOf,
        coordinator: Peer,
    ) -> Taken:
        """The split of a node as the host says it, where sums are hidden. Raises PeerError for one that
        cannot be."""
        if answer.node != node:
            raise self.host.breach("SplitRows that were not asked for")
        left, went = self._rows(growth, answer, minimum)
        gain = gain_of(node, growth.total(went), answer.ordered)
        if gain is None:
            what = "SplitRows of what was named best gain too little for it"
            raise either(self.host, coordinator, what)
        return Taken(self._branch(answer, gain), answer.ordered, left)

    def _rows(self, growth: Growth, answer: Direction | SplitRows, minimum: int) -> tuple[Mask, Mask]:
        """Which rows of the node go left, and which of all."""
        inside, what = growth.frontier.inside(answer.node), type(answer).__name__
        try:
            left = unpack_bits(answer.left, int(inside.sum()))
        except ValueError as error:
            raise self.host.breach(f"a {what} with {error}") from None
        went = np.zeros_like(inside)
        went[inside] = left
        active = growth.frontier.active
        sides = [int((active & rows).sum()) for rows in (went, inside & ~went)]
        if min(sides) < minimum:
            raise self.host.breach(f"a {what} that leaves too few rows on a side")
        return left, went

    def _branch(self, answer: Direction | SplitRows, gain: float) -> Branch:
        return Branch(self.party, answer.record, one_line(answer.column, 100), gain)


class OwnColumns:
    """One tree's candidates of columns that the guest holds."""

    def __init__(
        self,
        party: int,
        block: Binned,
        gradients: tuple[Integers, Integers],
        minimum: int,
        splits: list[Split],
        clock: Clock,
    ) -> None:
        """`gradients`: of all rows, with the hessians. `minimum`: rows on each side of a split.
        `splits`: the guest's records, to which those are added that are taken."""
        self.party, self._block = party, block
        self._gradients, self._minimum, self._splits, self._clock = gradients, minimum, splits, clock
        self._all = Candidates.of(block.columns)
        self.ordered = self._all.ordered
        self.candidates: dict[int, tuple[Sums, Mask]] = {}

    async def sums(self, frontier: Frontier) -> None:
        """Left sums of the candidates of every open node, and which may be taken."""
        with self._clock.timed("own columns"):
            self.candidates = await asyncio.to_thread(self._sums, frontier)

    def _sums(self, frontier: Frontier) -> dict[int, tuple[Sums, Mask]]:
        nodes, block, own = frontier.nodes, self._block, self._all
        slots = frontier.slots(nodes)
        left = Sums(
            *(
                own.left_sums(histograms(block, own, slots, len(nodes), values))
                for values in self._gradients
            )
        )
        counts = histograms(block, own, slots, len(nodes))
        valid = own.valid(counts, self._minimum)
        return {node: (left.at(i), valid[i]) for i, node in enumerate(nodes)}

    def can_split(self, frontier: Frontier) -> bool:
        """Whether any candidate parts the drawn rows of the root, be they ever so few."""
        counts = histograms(self._block, self._all, frontier.slots([0]), 1)
        return bool(self._all.valid(counts, 1).any())

    def take(self, frontier: Frontier, node: int, choice: Choice) -> Taken:
        """How a node that it won is split."""
        candidate = choice.candidates[0]
        split, left = self._all.take(
            candidate, self._block.codes, frontier.inside(node), frontier.active
        )
        branch = Branch(self.party, len(self._splits), split.column, choice.gain)
        self._splits.append(split)
        return Taken(branch, bool(self.ordered[candidate]), left, candidate)
