"""A tree under growth, as the guest sees it, and each party's candidates for its splits."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, pairwise
from typing import ClassVar

import numpy as np

from vfl.arrays import Floats, Integers, Mask
from vfl.blocks.engine import ENGINE, Pieces, Rows
from vfl.learn.best_first import BestFirst, Head, level_of
from vfl.learn.binning import Column
from vfl.learn.ordered_categories import CategoryOrder
from vfl.learn.packed_codes import PackedCodes, follow_codes, level_histograms
from vfl.learn.params import BoostParams
from vfl.learn.quantiser import Scales
from vfl.learn.splits import Candidates, Cells, Side, Split
from vfl.learn.tree import FREE, Bounds, Branch, Choice, Frontier, Nodes, Sums, slots_of
from vfl.net.peer import Peer, either, one_line
from vfl.net.wire import MIB, Message, RecordNumber
from vfl.protocols.common.bits import bits_between, check_bits, pack_bits
from vfl.protocols.common.clock import Clock
from vfl.protocols.trees.node_rows import Packed, follow, sides_of, sums_of_nodes
from vfl.protocols.trees.paths import Paths


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

    g: Rows  # quantised gradient and hessian of every row, 0 where it is not drawn
    h: Rows
    frontier: Frontier
    totals: dict[int, Sums] = field(default_factory=dict)  # of the open nodes
    bounds: dict[int, Bounds] = field(default_factory=lambda: {0: FREE})
    paths: Paths = field(default_factory=Paths)
    order: BestFirst | None = None  # which nodes are split next; None where trees grow level by level
    _waiting: dict[int, Choice] = field(default_factory=dict)  # best-first, of nodes that are not split
    _sums: Integers | None = None  # of gradients and hessians, by the number of a node

    @property
    def rows(self) -> int:
        """How many there are, drawn or not."""
        return self.g.shape[-1]

    def find_totals(self) -> None:
        """The sums of the open nodes, and of those that the last splits made."""
        if self._sums is None:
            self.frontier.count_by(self._count)
        assert self._sums is not None  # noqa: S101 - for the type checker
        g, h = self._sums
        nodes = *sorted(self.frontier.waiting), *self.frontier.nodes, *self.frontier.leaves
        self.totals = {node: Sums(np.asarray(g[node]), np.asarray(h[node])) for node in nodes}

    def begin(self, params: BoostParams) -> None:
        """Grow as the job says."""
        if params.max_leaves is not None:
            self.frontier.depth = params.depth
            self.order = BestFirst(params.max_leaves, params.depth)

    def open(self, minimum: int) -> None:
        """Best-first: open the nodes that the last splits made. `minimum`: rows on each side of a
        split."""
        if self.order is not None:
            covers = self.frontier.covers()
            for node in self.frontier.nodes:
                self.order.open(node, covers[node] // minimum - 1)

    def next(self, found: dict[int, Choice]) -> dict[int, Choice]:
        """The nodes that are split now, where these are the best candidates of nodes that are new."""
        if self.order is None:
            return found
        self._waiting.update(found)
        nodes, _ = self.order.next({n: Head(c.gain, c.party) for n, c in self._waiting.items()})
        return {node: self._waiting.pop(node) for node in nodes}

    def is_whole(self, level: int, params: BoostParams) -> bool:
        """Whether the tree may have no split more, after those of so many levels, or rounds, from 0."""
        return level + 1 == params.depth if self.order is None else not self.order.left

    def is_leaf(self, node: int) -> bool:
        """Whether an open node that is not split now will never be."""
        return self.order is None or node in self.frontier.leaves

    def told(self, taken: "Mapping[int, Taken]", left: Rows) -> tuple[list[int], Rows]:
        """The nodes of which hosts hear that they are split, before they are, and which rows of these
        go left; `left`: of all. Where children are too deep to be split it is the guest's alone."""
        depth = self.frontier.depth
        told = {n: split for n, split in taken.items() if depth is None or level_of(n) + 1 < depth}
        return sorted(told), left if len(told) == len(taken) else self.left(told)

    def advance(self, split: list[int], left: Rows) -> None:
        """As of a frontier; the sums of the new nodes are found with their rows."""
        self.frontier.advance(split, left, self._count)

    def _count(self, nodes: int) -> Integers:
        """How many drawn rows so many nodes have; their sums are kept."""
        given = self.frontier.node_of_row, self.frontier.active, self.g, self.h
        sums = ENGINE.total(partial(sums_of_nodes, nodes), *given)
        self._sums = sums[1:]
        return np.asarray(sums[0])

    def left(self, taken: "Mapping[int, Taken]") -> Rows:
        """Which rows go left where these nodes are split so, none outside them."""
        if not taken:
            return ENGINE.make(_nowhere, self.frontier.node_of_row)
        left: Rows | None = None
        own: dict[int, tuple[Rows, dict[int, Side]]] = {}
        told: dict[int, Pieces[Packed]] = {}
        for node, split in taken.items():
            if isinstance(split.left, Told):
                told[node] = split.left.rows
            else:
                own.setdefault(split.branch.party, (split.left.codes, {}))[1][node] = split.left.side
        for codes, sides in own.values():
            given = [] if left is None else [left]
            own_left = partial(_own_left, self.frontier.slot_of_node([*sides]), sides)
            left = ENGINE.make(own_left, self.frontier.node_of_row, codes, *given)
        if told or left is None:
            of_nodes = (rows.of_blocks for rows in told.values())
            pieces = Pieces([[*of_block] for of_block in zip(*of_nodes, strict=True)])
            given = [] if left is None else [left]
            kernel = partial(_told_left, self.frontier.slot_of_node([*told]))
            left = ENGINE.make(kernel, self.frontier.node_of_row, pieces, *given)
        return left

    def left_sums(self, nodes: Sequence[int], left: Rows) -> dict[int, Sums]:
        """The sums of the drawn rows of these nodes that go left."""
        if not nodes:
            return {}
        frontier = self.frontier
        kernel = partial(_left_sums, frontier.slot_of_node([*nodes]), len(nodes))
        g, h = ENGINE.total(kernel, frontier.node_of_row, frontier.active, self.g, self.h, left)
        return {node: Sums(np.asarray(g[slot]), np.asarray(h[slot])) for slot, node in enumerate(nodes)}


def _nowhere(node: Nodes) -> Mask:
    return np.zeros(len(node), np.bool_)


def _left_sums(
    table: Integers, nodes: int, node: Nodes, active: Mask, g: Integers, h: Integers, left: Mask
) -> Integers:
    slot = slots_of(table, node, active & left)
    sums = np.zeros((2, nodes + 1), np.int64)
    for of, values in zip(sums, (g, h), strict=True):
        np.add.at(of, slot, values)  # -1 is the last one
    return sums


def _own_left(
    table: Integers, sides: Mapping[int, Side], node: Nodes, codes: PackedCodes, *before: Mask
) -> Mask:
    """Which rows go left by codes, beside those that others' splits send there."""
    left = before[0].copy() if before else np.zeros(len(node), np.bool_)
    follow_codes(table, sides, node, codes, left)
    return left


def _told_left(table: Integers, node: Nodes, told: Sequence[Packed], *before: Mask) -> Mask:
    """Which rows go left as hosts say, of each node's rows in their order."""
    left = before[0].copy() if before else np.zeros(len(node), np.bool_)
    follow(table, node, told, left)
    return left


@dataclass(frozen=True)
class Own:
    """Rows go left by codes that the guest holds."""

    codes: Rows  # packed
    side: Side


@dataclass(frozen=True)
class Told:
    """Rows go left as a host says."""

    rows: Pieces[Packed]  # of each block a bit a row of the node


@dataclass(frozen=True)
class Gradients:
    """Of all rows, those and hessians: whole numbers of a size of at most 2^bits."""

    g: Rows
    h: Rows
    bits: int


@dataclass(frozen=True)
class Taken:
    """A split of a node."""

    branch: Branch
    ordered: bool  # whether the left must not score higher than the right
    left: Own | Told
    candidate: int = -1  # its number, where it is known: not of a host's where sums are hidden


GainOf = Callable[[int, Sums, bool], float | None]
"""The gain of a split by its node, left sums and whether it is ordered; None if it cannot win."""


class HostColumns:
    """One tree's candidates of a host, as far as the guest learns them."""

    def __init__(self, party: int, host: Peer) -> None:
        self.party, self.host = party, host
        self.ordered = np.zeros(0, np.bool_)  # by candidate: the left must not score higher
        self.categories: CategoryOrder | None = None  # columns that are split by sets of candidates
        self.sets: dict[int, list[tuple[int, ...]]] = {}  # by open node, numbered after candidates
        self.candidates: dict[int, tuple[Sums, Mask]] = {}
        """By open node: left sums, and which may be taken, as far as the guest knows."""

    def check_asked(self, choice: Choice, node: int, answer: Direction) -> None:
        """Raises PeerError for a split of another node or candidate than those that were asked for."""
        if answer.node != node or answer.candidate not in choice.candidates:
            raise self.host.breach("a Direction that was not asked for")

    def check_direction(
        self, growth: Growth, choice: Choice, node: int, answer: Direction, minimum: int
    ) -> Taken:
        """The split of a node as the host says it. Raises PeerError for one that cannot be."""
        self.check_asked(choice, node, answer)
        return self.check_directions(growth, [(choice, answer)], minimum)[node]

    def check_directions(
        self, growth: Growth, told: Sequence[tuple[Choice, Direction]], minimum: int
    ) -> dict[int, Taken]:
        """The splits of nodes, as the host says them, which were asked for (`check_asked`). Raises
        PeerError for those that cannot be."""
        taken, count = {}, len(self.ordered)
        rows = self._rows(growth, [answer for _, answer in told], minimum)
        for (choice, answer), (left, sums) in zip(told, rows, strict=True):
            members = [answer.candidate]
            if answer.candidate >= count:
                members = [*self.sets[answer.node][answer.candidate - count]]
            chosen = self.candidates[answer.node][0].at(np.array(members))
            if not sums.equals(Sums(chosen.gradient.sum(), chosen.hessian.sum())):
                raise self.host.breach("a Direction whose rows do not add up to its sums")
            ordered = answer.candidate < count and bool(self.ordered[answer.candidate])
            branch = self._branch(answer, choice.gain)
            taken[answer.node] = Taken(branch, ordered, left, answer.candidate)
        return taken

    def check_rows(
        self,
        growth: Growth,
        told: Sequence[SplitRows],
        minimum: int,
        gain_of: GainOf,
        coordinator: Peer,
    ) -> dict[int, Taken]:
        """The splits of nodes that were asked for, as the host says them, where sums are hidden. Raises
        PeerError for those that cannot be."""
        taken = {}
        for answer, (left, sums) in zip(told, self._rows(growth, told, minimum), strict=True):
            gain = gain_of(answer.node, sums, answer.ordered)
            if gain is None:
                what = "SplitRows of what was named best gain too little for it"
                raise either(self.host, coordinator, what)
            taken[answer.node] = Taken(self._branch(answer, gain), answer.ordered, left)
        return taken

    def _rows(
        self, growth: Growth, told: Sequence[Direction | SplitRows], minimum: int
    ) -> list[tuple[Told, Sums]]:
        """By answer which rows of its node go left, and their sums."""
        if not told:
            return []
        frontier, what, nodes = growth.frontier, type(told[0]).__name__, [a.node for a in told]
        bits: list[Pieces[Packed]] = []
        for answer in told:
            counts = frontier.by_block(answer.node)
            try:
                check_bits(answer.left, sum(counts))
            except ValueError as error:
                raise self.host.breach(f"a {what} with {error}") from None
            ends = pairwise(accumulate(counts, initial=0))
            bits.append(Pieces([pack_bits(bits_between(answer.left, *of)) for of in ends]))
        of_blocks = zip(*(rows.of_blocks for rows in bits), strict=True)
        kernel = partial(_sides_of, frontier.slot_of_node(nodes), len(nodes))
        given = frontier.node_of_row, frontier.active, growth.g, growth.h
        sides = ENGINE.total(kernel, *given, Pieces([[*of_block] for of_block in of_blocks]))
        if sides[:, :2].min() < minimum:
            raise self.host.breach(f"a {what} that leaves too few rows on a side")
        sums = [Sums(np.asarray(g), np.asarray(h)) for g, h in sides[:, 2:]]
        return [*zip(map(Told, bits), sums, strict=True)]

    def _branch(self, answer: Direction | SplitRows, gain: float) -> Branch:
        return Branch(self.party, answer.record, one_line(answer.column, 100), gain)


def _sides_of(
    table: Integers,
    nodes: int,
    node: Nodes,
    active: Mask,
    g: Integers,
    h: Integers,
    told: Sequence[Packed],
) -> Integers:
    """Of each node how many drawn rows go left and right, as the host tells, and the sums of those that
    go left."""
    left = np.zeros(len(node), np.bool_)
    follow(table, node, told, left)
    return sides_of(table, nodes, node, active, g, h, left)


class OwnColumns:
    """One tree's candidates of columns that the guest holds."""

    def __init__(
        self,
        party: int,
        columns: tuple[Column, ...],
        codes: Rows,
        gradients: Gradients,
        minimum: int,
        splits: list[Split],
        clock: Clock,
        by_sets: BoostParams | None = None,
    ) -> None:
        """`codes`: of the columns, packed. `minimum`: rows on each side of a split. `splits`: the
        guest's records, to which those are added that are taken. `by_sets`: settings of a job that
        splits these columns by sets of categories."""
        self.party, self._codes = party, codes
        self._gradients, self._minimum, self._splits, self._clock = gradients, minimum, splits, clock
        self._all = Candidates.of(columns)
        self._cells: dict[int, Integers] = {}
        """Of every open node, sums of gradients, of hessians and drawn rows by cell."""
        self.ordered = self._all.ordered
        self.categories = None if by_sets is None else CategoryOrder(self._all.categories(), by_sets)
        self.sets: dict[int, list[tuple[int, ...]]] = {}  # by open node, numbered after candidates
        self.candidates: dict[int, tuple[Sums, Mask]] = {}

    async def sums(self, frontier: Frontier) -> None:
        """Left sums of the candidates of every node whose sums are new, and which may be taken."""
        with self._clock.timed("own columns"):
            self.candidates = await asyncio.to_thread(self._sums, frontier)

    def _sums(self, frontier: Frontier) -> dict[int, tuple[Sums, Mask]]:
        nodes, own, of = frontier.nodes, self._all, self._gradients
        # Rows of the smaller child of each pair are added up; its sibling's sums are what is left.
        summed, before = [node for node, _ in frontier.pairs], self._cells
        cells = {node: before[node] for node in frontier.waiting if node in before}
        if summed:
            work = 3 * len(own.columns) * frontier.node_of_row.shape[-1]
            kernel = partial(_histograms, own.flat, frontier.slot_of_node(summed), of.bits, work)
            given = self._codes, frontier.node_of_row, frontier.active, of.g, of.h
            found = ENGINE.total(kernel, *given)
            for slot, (node, sibling) in enumerate(frontier.pairs):
                cells[node] = found[:, slot]
                if sibling is not None:
                    cells[sibling] = before[(node - 1) // 2] - cells[node]
        self._cells = cells
        of_nodes = np.array([cells[node] for node in nodes], np.int64)
        *sums, counts = of_nodes.reshape(len(nodes), 3, own.cells).swapaxes(0, 1)
        left = Sums(*map(own.left_sums, sums))
        valid = own.valid(counts, self._minimum)
        return {node: (left.at(i), valid[i]) for i, node in enumerate(nodes)}

    def can_split(self) -> bool:
        """Whether any candidate parts the drawn rows of the root, the open node, be they ever so few."""
        return bool(self._all.valid(self._cells[0][2][np.newaxis], 1).any())

    def take(self, node: int, choice: Choice) -> Taken:
        """How a node that it won is split."""
        candidate, own = choice.candidates[0], self._all
        if candidate >= len(own):
            split, side = own.take_set(self.sets[node][candidate - len(own)])
            branch = Branch(self.party, len(self._splits), split.column, choice.gain)
            self._splits.append(split)
            return Taken(branch, False, Own(self._codes, side), candidate)
        place = int(own.column[candidate])
        first = int(own.offsets[place])
        counts = self._cells[node][2][first : first + own.columns[place].bins + 1]
        missing_left = own.sends_missing_left(candidate, counts)
        split = own.split(candidate, missing_left)
        branch = Branch(self.party, len(self._splits), split.column, choice.gain)
        self._splits.append(split)
        side = own.side(candidate, missing_left)
        return Taken(branch, bool(self.ordered[candidate]), Own(self._codes, side), candidate)


def _histograms(
    flat: Cells,
    slot_of_node: Integers,
    bits: int,
    work: int,
    codes: PackedCodes,
    node: Nodes,
    active: Mask,
    *gradients: Integers,
) -> Integers:
    """Sums of gradients, of hessians and drawn rows by node and cell."""
    gradient, hessian = gradients
    return level_histograms(codes, flat, slot_of_node, (node, active), (gradient, hessian), bits, work)


def with_sets(
    growth: Growth,
    party: OwnColumns | HostColumns,
    categories: CategoryOrder,
    node: int,
    scales: Scales,
    found: Floats,
) -> Floats:
    """The gains of a party's candidates in a node with those of sets of categories after them, which
    are taken in place of single ones."""
    left, valid = party.candidates[node]
    total, bounds = growth.totals[node], growth.bounds[node]
    party.sets[node], of_sets = categories.sets(left, total, valid, scales, bounds)
    return np.append(np.where(categories.single(len(found)), -np.inf, found), of_sets)
