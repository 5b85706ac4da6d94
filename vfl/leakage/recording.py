"""What a training would show, recorded from the plaintext oracle: no encryption is needed to know it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from vfl.arrays import Floats, Integers
from vfl.blocks.engine import Rows
from vfl.leakage.shown import Mask, Order, Shown, ShownNode, ShownSplit, ShownTree, Truth
from vfl.learn.binning import Binned
from vfl.learn.params import BoostParams
from vfl.learn.splits import Candidates, histograms
from vfl.learn.tree import Frontier, Tree
from vfl.net.peer import Peer
from vfl.protocols.common.checkpoints import Checkpoints
from vfl.protocols.common.course import UNCOUNTED, SumsCount
from vfl.protocols.common.rows import Training
from vfl.protocols.trees.columns import Growth, HostColumns, OwnColumns, Taken
from vfl.protocols.trees.draws import draw_columns
from vfl.protocols.trees.few_rows import FewRows
from vfl.protocols.trees.grower import Pooled
from vfl.protocols.trees.model import GuestModel
from vfl.protocols.trees.withheld import Withheld


@dataclass(frozen=True, eq=False)
class Recording:
    """A training as its parties saw it, by host, and what the guest was not told.

    `leaves`: shape (trees, rows), the leaf of every row.
    """

    shown: Mapping[str, Shown]
    truth: Mapping[str, Truth]
    leaves: Integers
    model: GuestModel
    score: Floats


async def record(
    blocks: Mapping[str, Binned],
    rows: Training,
    params: BoostParams,
    order: Order | None = None,
    counts: Mapping[str, SumsCount] | None = None,
) -> Recording:
    """Train on all blocks, the guest's first, and note what the guest would be shown of the others.

    `order`: how long candidates keep their places; by default as the job's encryption has it. `counts`:
    by host, what it tells sums by; one that is not there tells all.

    Raises Refused as the counts do.
    """
    recorder = _Recorder(blocks, rows, params, order, counts or {})
    model, score = await recorder.train(lambda step: None, Checkpoints())
    return Recording(
        {host.name: Shown(len(rows.label), host.kept, tuple(host.trees)) for host in recorder.seen},
        {host.name: host.truth() for host in recorder.seen},
        np.array(recorder.leaves),
        model,
        score,
    )


@dataclass
class _Host:
    """One host of a recorded training: what it shows, tree by tree."""

    name: str
    block: Binned
    kept: Order
    all: Candidates
    offered: Integers  # the candidates that have places, in the order that stays
    draw: np.random.Generator
    count: SumsCount
    trees: list[ShownTree] = field(default_factory=list)
    order: dict[tuple[int, int], Integers] = field(default_factory=dict)
    withheld: Withheld = field(init=False)  # nodes of the tree that grows
    few: FewRows = field(init=False)  # candidates of it
    of_tree: Binned = field(init=False)  # its columns

    def __post_init__(self) -> None:
        self._begin(self.block)

    @classmethod
    def of(cls, name: str, block: Binned, kept: Order, params: BoostParams, count: SumsCount) -> "_Host":
        draw = np.random.default_rng([params.seed, *name.encode()])
        every = Candidates.of(block.columns)
        offered = np.arange(len(every))
        if kept == "fixed":
            counts = histograms(block, every, np.zeros(block.rows, np.int64), 1)
            offered = np.flatnonzero(every.valid(counts, params.min_child_rows)[0])
        return cls(name, block, kept, every, draw.permutation(offered), draw, count)

    def begin_tree(self, drawn: Mask, of_tree: Binned) -> None:
        """As a host that sees rows under a key, and none over the lattice engine."""
        self._begin(of_tree)
        self.count.begin_tree(None if self.kept == "fixed" else drawn)

    def _begin(self, of_tree: Binned) -> None:
        self.withheld, self.of_tree = Withheld(self), of_tree
        least = 0 if self.kept == "fixed" else self.count.least
        self.few = FewRows(Candidates.of(of_tree.columns), least)

    async def may_tell(self, pairs: Sequence[tuple[Mask, Mask]]) -> list[bool]:
        """Of each pair of children whether their sums may be told."""
        return self.count.tell(pairs)

    def places(self, tree: int, node: int, drawn: Integers) -> Integers:
        """The candidate at each place of a node, of those `drawn` for the tree."""
        if self.kept == "fixed":
            return self.offered
        if self.kept == "node" or node == 0:
            return self.draw.permutation(drawn)
        return self.order[tree, 0]

    def truth(self) -> Truth:
        """What the host knows."""
        every, codes = self.all, self.block.codes
        sides = np.zeros((len(every), self.block.rows), np.bool_)
        for i, (column, at) in enumerate(zip(every.column, every.bin, strict=True)):
            own, kind = codes[column], every.columns[int(column)]
            if kind.edges is None:
                sides[i] = own == at
            else:
                sides[i] = (own <= at) & (own < kind.bins)
                sides[i] |= (own == kind.bins) & every.missing_left[i]
        factor = np.array([column.edges is None for column in every.columns], np.bool_)
        return Truth(sides, every.column, factor[every.column], self.order)


class _Recorder(Pooled):
    """The oracle, noting what a protocol would show of each block but the first."""

    def __init__(
        self,
        blocks: Mapping[str, Binned],
        rows: Training,
        params: BoostParams,
        order: Order | None,
        counts: Mapping[str, SumsCount],
    ) -> None:
        if params.ordered_categories == "all":  # attacks know of no sets of candidates
            params = params.model_copy(update={"ordered_categories": "guest"})
        super().__init__(blocks, rows, params)
        kept = order or ("fixed" if params.encryption == "lattice" else "tree")
        hosts = list(blocks.items())[1:]
        self.seen = [
            _Host.of(name, block, kept, params, counts.get(name, UNCOUNTED)) for name, block in hosts
        ]
        self.leaves: list[Integers] = []
        self._tree = -1
        self._g = self._h = np.zeros(0, np.int64)
        self._nodes: list[list[ShownNode]] = []
        self._splits: list[list[ShownSplit]] = []

    async def begin(
        self, hosts: list[Peer], number: int, growth: Growth, first: int
    ) -> Sequence[HostColumns]:
        self._tree = number
        self._g, self._h = np.asarray(growth.g, np.int64), np.asarray(growth.h, np.int64)
        self._nodes = [[] for _ in self.seen]
        self._splits = [[] for _ in self.seen]
        if number >= self.params.first_joint:
            for host in self.seen:
                of_tree = draw_columns(host.block, host.name, self.params, number)
                host.begin_tree(growth.frontier.drawn, of_tree)
        return []

    async def sums(self, parties: Sequence[OwnColumns | HostColumns], growth: Growth) -> None:
        await super().sums(parties, growth)
        if len(parties) == 1:  # a tree of the guest alone
            return
        for host, party, nodes in zip(self.seen, parties[1:], self._nodes, strict=True):
            if host.kept != "fixed":
                valid = {node: may for node, (_, may) in party.candidates.items()}
                self._leave_out(host, growth.frontier, valid)
                await host.withheld.leave_out(growth.frontier, valid)
                sums = {node: left for node, (left, _) in party.candidates.items()}
                party.candidates = {node: (sums[node], may) for node, may in valid.items()}
            nodes += self._shown(host, growth.frontier)

    @staticmethod
    def _leave_out(host: _Host, frontier: Frontier, valid: dict[int, Mask]) -> None:
        """What few rows would follow from, by candidates of the tree."""
        open_, own = frontier.nodes, Candidates.of(host.of_tree.columns)
        counts = histograms(host.of_tree, own, frontier.slots(open_), len(open_))
        host.few.leave_out(frontier.pairs, dict(zip(open_, counts, strict=True)), valid)

    def _shown(self, host: _Host, frontier: Frontier) -> list[ShownNode]:
        """The sums of the open nodes as a host's protocol shows them."""
        open_ = frontier.nodes
        slots = frontier.slots(open_)
        gradient, hessian = (
            host.all.left_sums(histograms(host.block, host.all, slots, len(open_), values))
            for values in (self._g, self._h)
        )
        rows, drawn = [frontier.inside(node) & frontier.drawn for node in open_], self._drawn(host)
        cells = histograms(host.block, host.all, slots, len(open_))
        valid = dict(zip(open_, host.all.valid(cells, self.params.min_child_rows), strict=True))
        at = {node: i for i, node in enumerate(open_)}
        nodes = []
        for pair in frontier.pairs:
            both = [node for node in pair if node is not None]
            if both[0] in host.withheld:
                valid.update({node: np.zeros_like(valid[node]) for node in both})
            sent = np.logical_or.reduce([valid[node] for node in both]) | (host.kept == "fixed")
            if host.kept != "fixed":
                sent[drawn] &= host.few.told(both[0])
            for node in both:
                places = host.places(self._tree, node, drawn)
                host.order[self._tree, node] = places
                i = at[node]
                left = gradient[i][places], hessian[i][places]
                nodes.append(ShownNode(node, rows[i], *left, sent[places], node != pair[0]))
        return nodes

    def _drawn(self, host: _Host) -> Integers:
        """The candidates that are in the tree."""
        names = {column.name for column in host.of_tree.columns}
        of_tree = np.array([column.name in names for column in host.all.columns], np.bool_)
        return np.flatnonzero(of_tree[host.all.column])

    async def split(
        self, growth: Growth, parties: Sequence[OwnColumns | HostColumns]
    ) -> dict[int, Taken]:
        taken = await super().split(growth, parties)
        for node, split in taken.items():
            if split.branch.party == 0:
                continue
            host, splits = self.seen[split.branch.party - 1], self._splits[split.branch.party - 1]
            inside = growth.frontier.inside(node)
            left = np.asarray(growth.left({node: split}), np.bool_)
            candidate = self._drawn(host)[split.candidate]
            place = int(np.flatnonzero(host.order[self._tree, node] == candidate)[0])
            splits.append(ShownSplit(node, place, inside, left))
        return taken

    async def grow(self, number: int, score: Rows) -> tuple[Tree, Rows]:
        tree, leaf = await super().grow(number, score)
        self.leaves.append(np.array(leaf, np.int64))
        for host, nodes, splits in zip(self.seen, self._nodes, self._splits, strict=True):
            host.trees.append(ShownTree(self._g, self._h, tuple(nodes), tuple(splits)))
        return tree, leaf
