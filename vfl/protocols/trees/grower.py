"""How the guest grows trees, whatever its hosts' sums are encrypted with.

Gradients, quantised to integers; level by level the sums of all candidates, the best split of each node,
who goes left; leaf weights. What is said to hosts is the protocol's own: paillier.py, lattice.py.
Without hosts this is the plaintext oracle that both equal, bit for bit.
"""

import asyncio
import time
import zlib
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from vfl.errors import ConfigError
from vfl.learn.binning import Binned
from vfl.learn.losses import Floats, Integers, Quantiser, Scales
from vfl.learn.params import BoostParams
from vfl.learn.splits import Candidates, Split, histograms
from vfl.learn.tree import (
    FREE,
    Bounds,
    Branch,
    Choice,
    Frontier,
    Obstacle,
    Sums,
    Tree,
    best_split,
    furthest,
    gains,
    leaf_weight,
    obstacle,
)
from vfl.net.peer import Peer, one_line, together
from vfl.net.wire import MIB, Message, Record
from vfl.protocols.common.bits import Mask, unpack_bits
from vfl.protocols.common.checkpoints import Checkpoints
from vfl.protocols.common.rows import Training
from vfl.protocols.trees.quantisation import Quantisation, quantisation_of

WHOLE = "whole tree"  # the phase that holds all others
_DIVERGED = 1e100  # a gradient of this size comes of scores that grow from tree to tree
_MOST_NODES = 2 << 10  # of a tree, for no job has deeper ones


class Direction(Message, frozen=True):
    """host -> guest. Reveals: which rows of the node go left at this host's split, which of the tied
    candidates it is, and the name (or number) of the column it permits to show."""

    node: int
    candidate: int
    record: Record
    column: str
    left: bytes  # a bit a row of the node
    limit: ClassVar[int] = 16 * MIB
    per_row = ("left", 1)


class TreeEnd(Message, frozen=True):
    """guest -> host. Reveals: that the tree has no further level."""


class TreeKept(Message, frozen=True):
    """host -> guest. Reveals: that the host has kept its splits so far."""


class Finish(Message, frozen=True):
    """guest -> host. Reveals: how many trees the model keeps."""

    trees: int


class Finished(Message, frozen=True):
    """host -> guest. Reveals: that the host has kept its half of the model."""


@dataclass(frozen=True)
class GuestModel:
    """The guest's half: shapes, leaf weights, its own splits."""

    parties: tuple[str, ...]  # guest first
    start: float
    trees: tuple[Tree, ...]
    splits: tuple[Split, ...]

    def importance(self) -> list[tuple[str, str, int, float]]:
        """(party, column as its owner shows it, number of splits, sum of gains), most gain first."""
        gains_of: dict[tuple[str, str], list[float]] = {}
        for tree in self.trees:
            for branch in tree.branches.values():
                gains_of.setdefault((self.parties[branch.party], branch.column), []).append(branch.gain)
        table = [(*column, len(parts), sum(parts)) for column, parts in gains_of.items()]
        return sorted(table, key=lambda row: -row[3])

    def check(self, records: Sequence[int] | None = None) -> None:
        """Raises ValueError for a tree that no training could have made.

        `records`: how many splits each host has, where that is known.
        """
        kept = [
            len(self.splits),
            *(records or [_MOST_NODES * len(self.trees)] * (len(self.parties) - 1)),
        ]
        for tree in self.trees:
            children = {2 * n + side for n in tree.branches for side in (1, 2)} | {0}
            whole = children == set(tree.branches) | set(tree.leaves)
            known = all(
                0 <= b.party < len(self.parties) and 0 <= b.record < kept[b.party]
                for b in tree.branches.values()
            )
            deep = max(children) >= _MOST_NODES
            if not whole or not known or deep or set(tree.branches) & set(tree.leaves):
                raise ValueError("a tree is not whole")


@dataclass(frozen=True)
class HostModel:
    """A host's half: its splits by record number."""

    splits: tuple[Split, ...]

    @classmethod
    def of(cls, splits: Sequence[Split], first_record: Mapping[int, int], trees: int) -> "HostModel":
        """The half of so many trees, by each tree's first record."""
        kept = min((r for t, r in first_record.items() if t >= trees), default=len(splits))
        return cls(tuple(splits[:kept]))


@dataclass(frozen=True)
class TreeDone:
    """What the guest can tell after each tree; losses are means, seconds are by phase."""

    tree: int
    of: int
    train_loss: float
    validation_loss: float | None
    seconds: dict[str, float]
    obstacle: Obstacle | None = None  # why the tree has no split; None where it has


@dataclass(frozen=True)
class GuestTrees:
    """What the guest keeps of training after a tree; scores have shape (rows,)."""

    done: int  # trees
    trees: list[Tree]
    splits: list[Split]
    score: Floats
    best: tuple[float, int, Floats] | None  # validation loss, its number of trees, their score


@dataclass(frozen=True)
class HostTrees:
    """What a host keeps of training after a tree."""

    done: int  # trees
    splits: list[Split]
    first_record: dict[int, int]  # of each tree
    drawn: list[bytes]  # what rows trees were drawn from, the last few different ones


class Grower(ABC):
    """What the guest keeps from tree to tree; a subclass knows how to speak with hosts."""

    def __init__(
        self,
        hosts: list[Peer],
        blocks: Mapping[str, Binned],
        rows: Training,
        params: BoostParams,
        quantisation: Quantisation,
    ) -> None:
        """`blocks`: the binned columns that the guest holds, by party name, its own first."""
        self.hosts, self.blocks, self.rows, self.params = hosts, blocks, rows, params
        self.quantisation = quantisation
        self.scales = Scales(1.0, 1.0)  # of the tree that grows
        self.names = (*blocks, *(host.name for host in hosts))
        self.splits: list[Split] = []
        self.seconds: dict[str, float] = defaultdict(float)
        self.obstacle: Obstacle | None = None  # of the last tree

    @abstractmethod
    async def meet(self) -> None:
        """What hosts need once a job."""

    @abstractmethod
    async def begin(
        self, hosts: list[Peer], number: int, g: Integers, h: Integers, active: Mask, first: int
    ) -> "Sequence[HostColumns]":
        """What hosts need once a tree; their candidates in it, numbered as parties from `first` on."""

    @abstractmethod
    async def sums(self, parties: "Sequence[OwnColumns | HostColumns]", growth: "Growth") -> None:
        """Learn the left sums of all parties' candidates in every open node."""

    @abstractmethod
    async def split(
        self, growth: "Growth", parties: "Sequence[OwnColumns | HostColumns]"
    ) -> dict[int, "Taken"]:
        """The best splits of all open nodes that have any, whose sums are known."""

    @abstractmethod
    async def advance(self, hosts: list[Peer], split: list[int], left: Mask) -> None:
        """Tell hosts what they need to know of the next level."""

    async def train(
        self, progress: Callable[[TreeDone], None], checkpoints: Checkpoints[GuestTrees]
    ) -> tuple[GuestModel, Floats]:
        """All trees."""
        rows, params = self.rows, self.params
        start, score = rows.start()
        trees: list[Tree] = []
        best = (np.inf, 0, score)  # validation loss, trees, score
        if (last := checkpoints.last) is not None:
            if last.score.shape != score.shape:
                raise ValueError("the state of training on other rows")
            trees, self.splits, score = [*last.trees], [*last.splits], last.score
            best = last.best or best

        if self.hosts:
            await self.meet()
        for number in range(checkpoints.done, params.trees):
            if self._enough(number, best[1]):
                break
            self.seconds.clear()
            gradient, hessian = rows.loss.damped_gradients(score, rows.label, rows.weight)
            with self.timed(WHOLE):
                tree, node_of_row = await self.grow(number, gradient, hessian, rows.train)
            trees.append(tree)
            score = score + tree.weights()[node_of_row]
            losses = [rows.mean_loss(score, mask) for mask in (rows.train, rows.validation)]
            seconds, loss = dict(self.seconds), losses[0] or 0.0
            progress(TreeDone(number + 1, params.trees, loss, losses[1], seconds, self.obstacle))
            if params.early_stopping_rounds and losses[1] is not None and losses[1] < best[0]:
                best = (losses[1], number + 1, score)
            if number or self._hosts_of(number):  # else hosts know nothing of the tree
                known = best if best[1] else None
                await checkpoints.keep(GuestTrees(number + 1, [*trees], [*self.splits], score, known))
        if best[1]:
            _, kept, score = best
            trees = trees[:kept]

        await together([host.send(Finish(len(trees))) for host in self.hosts])
        await together([host.recv(Finished) for host in self.hosts])
        return GuestModel(self.names, start, tuple(trees), tuple(self.splits)), score

    def _enough(self, trees: int, best: int) -> bool:
        """Whether so many trees are all, where the best loss was with `best` of them."""
        rounds = self.params.early_stopping_rounds
        return bool(rounds) and bool(self.rows.validation.any()) and trees - best >= rounds

    def _hosts_of(self, number: int) -> list[Peer]:
        """The hosts that grow a tree."""
        return [] if number == 0 and self.params.first_tree == "guest" else self.hosts

    async def grow(
        self, number: int, gradient: Floats, hessian: Floats, train: Mask
    ) -> tuple[Tree, Integers]:
        """One tree, and the leaf of every row."""
        params = self.params
        hosts = self._hosts_of(number)
        alone = number == 0 and params.first_tree == "guest"
        active, counts_for = draw_rows(train, params, number, gradient, hessian)
        dithered = self.quantisation.dithered
        dither = np.random.default_rng([params.seed, number, 0, 0]) if dithered else None
        g, h = self.quantise(gradient, hessian, active, counts_for, dither)

        held = list(self.blocks.items())[: 1 if alone else None]
        blocks = [draw_columns(block, name, params, number) for name, block in held]
        own = [OwnColumns(self, i, block, g, h) for i, block in enumerate(blocks)]
        parties: list[OwnColumns | HostColumns] = [*own]
        parties += await self.begin(hosts, number, g, h, active, len(own))
        growth = Growth(g, h, Frontier(np.zeros(len(g), np.int64), active))
        frontier, bounds = growth.frontier, growth.bounds
        branches: dict[int, Branch] = {}
        leaves: dict[int, float] = {}
        covers: dict[int, int] = {}

        for level in range(params.depth):
            covers.update(frontier.covers())
            growth.totals = {node: growth.total(frontier.inside(node)) for node in frontier.nodes}

            # Candidate sums of all parties, and the best split of each node.
            await self.sums(parties, growth)
            taken = await self.split(growth, parties)
            if level == 0:
                self.obstacle = None if taken else self._obstacle(parties, growth)
            left = np.zeros(len(g), np.bool_)
            for node, total in growth.totals.items():
                if node not in taken:
                    leaves[node] = leaf_weight(total, self.scales, params, bounds[node])
                    continue
                split = taken[node]
                branches[node] = split.branch
                left[frontier.inside(node)] = split.left
                party = parties[split.branch.party]
                bounds[2 * node + 1], bounds[2 * node + 2] = self._bounds(
                    party, node, split.candidate, total, bounds[node]
                )
            frontier.advance(sorted(taken), left)
            if not taken or level + 1 == params.depth:
                break
            await self.advance(hosts, sorted(taken), left)
        await together([host.send(TreeEnd()) for host in hosts])

        # Leaf weights; the hosts' splits are kept.
        covers.update(frontier.covers())
        for node in frontier.nodes:
            if node not in leaves:
                total = growth.total(frontier.inside(node))
                leaves[node] = leaf_weight(total, self.scales, params, bounds[node])
        await together([host.recv(TreeKept) for host in hosts])
        return Tree(branches, leaves, covers), frontier.node_of_row

    def quantise(
        self,
        gradient: Floats,
        hessian: Floats,
        active: Mask,
        counts_for: Floats,
        dither: np.random.Generator | None = None,
    ) -> tuple[Integers, Integers]:
        """Gradients and hessians of the drawn rows as integers, 0 for the others; sets the scales.

        With `dither` values are rounded up or down at random. Each has the scale that its own largest
        value allows. Hosts need none of it: what they add up stays within the bits.
        """
        integers = []
        scales = []
        for values in (gradient, hessian):
            drawn = values[active] * counts_for[active]
            bound = float(np.abs(drawn).max())
            if not bound < _DIVERGED:  # nor is NaN
                raise ConfigError(
                    "training diverges, with gradients beyond all bounds: lower the learning_rate or "
                    "raise reg_lambda in [secureboost]",
                    for_peer="its training diverges, the job needs other settings",
                )
            whole = np.zeros(len(values), np.int64)
            if dither is None:
                quantiser = Quantiser.for_bound(bound, self.quantisation.bits)
                whole[active] = quantiser.integers(drawn)
            else:
                quantiser = Quantiser.filling(bound, self.quantisation.bits)
                whole[active] = quantiser.dithered(drawn, dither.random(len(drawn)))
            integers.append(whole)
            scales.append(quantiser.scale)
        self.scales = Scales(*scales)
        return integers[0], integers[1]

    def gains(self, party: "OwnColumns | HostColumns", node: int, total: Sums, bounds: Bounds) -> Floats:
        """The gain of each of a party's candidates in a node; -inf where it may not be taken."""
        left, valid = party.candidates[node]
        return gains(left, total, valid, self.scales, self.params, bounds, party.ordered)

    def best(self, growth: "Growth", parties: "Sequence[OwnColumns | HostColumns]") -> dict[int, Choice]:
        """The best candidate of each open node that has any: the first party's among equal gains."""
        found = {}
        for node, total in growth.totals.items():
            bounds = growth.bounds[node]
            choice = best_split([self.gains(party, node, total, bounds) for party in parties])
            if choice is not None:
                found[node] = choice
        return found

    def _obstacle(self, parties: "Sequence[OwnColumns | HostColumns]", growth: "Growth") -> Obstacle:
        """Why nothing was split at the root, as far as the guest can tell."""
        total, params = growth.totals[0], self.params
        if int(growth.frontier.active.sum()) < 2 * params.min_child_rows:
            return "min_child_rows"
        found: list[Obstacle] = []
        for party in parties:
            left, valid = party.candidates[0]
            if isinstance(party, OwnColumns) and not party.can_split(growth.frontier):
                found.append("columns")
            elif (self.gains(party, 0, total, FREE) > -np.inf).any():
                found.append("min_child_rows")  # as a host says whom the guest asked
            else:
                found.append(obstacle(left, total, valid, self.scales, params, party.ordered))
        return furthest(found)

    def _bounds(
        self,
        party: "OwnColumns | HostColumns",
        node: int,
        candidate: int,
        total: Sums,
        bounds: Bounds,
    ) -> tuple[Bounds, Bounds]:
        """Of the children of a node by the candidate taken."""
        if not party.ordered[candidate]:
            return bounds, bounds
        left = party.candidates[node][0].at(candidate)
        weights = [leaf_weight(s, self.scales, self.params, bounds) for s in (left, total - left)]
        return bounds.below(*weights)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the seconds spent inside to a phase."""
        started = time.perf_counter()
        yield
        self.seconds[phase] += time.perf_counter() - started


class Pooled(Grower):
    """All columns in one place: the plaintext oracle, and the guest's trees by its own columns."""

    def __init__(self, blocks: Mapping[str, Binned], rows: Training, params: BoostParams) -> None:
        """Raises ValueError for more rows than the sums of the job's encryption could hold."""
        super().__init__([], blocks, rows, params, quantisation_of(len(rows.label), params))

    async def meet(self) -> None:
        return

    async def begin(
        self, hosts: list[Peer], number: int, g: Integers, h: Integers, active: Mask, first: int
    ) -> "Sequence[HostColumns]":
        return []

    async def sums(self, parties: "Sequence[OwnColumns | HostColumns]", growth: "Growth") -> None:
        own = (party for party in parties if isinstance(party, OwnColumns))
        await together([party.sums(growth.frontier) for party in own])

    async def split(
        self, growth: "Growth", parties: "Sequence[OwnColumns | HostColumns]"
    ) -> dict[int, "Taken"]:
        own = [party for party in parties if isinstance(party, OwnColumns)]
        chosen = self.best(growth, own)
        # By party, as a protocol takes them: the order of the guest's records.
        ordered = sorted(chosen.items(), key=lambda item: item[1].party)
        return {n: own[c.party].take(growth.frontier, n, c) for n, c in ordered}

    async def advance(self, hosts: list[Peer], split: list[int], left: Mask) -> None:
        return


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
        return total(self.g, self.h, self.frontier.active & rows)


@dataclass(frozen=True)
class Taken:
    """A split of a node."""

    branch: Branch
    candidate: int
    left: Mask  # an entry a row of the node


class HostColumns:
    """One tree's candidates of a host, as far as the guest learns them."""

    def __init__(self, party: int, host: Peer) -> None:
        self.party, self.host = party, host
        self.ordered = np.zeros(0, np.bool_)  # by candidate: the left must not score higher
        self.candidates: dict[int, tuple[Sums, Mask]] = {}
        """By open node: left sums, and which may be taken, as far as the guest knows."""

    def taken(self, growth: Growth, choice: Choice, node: int, answer: Direction, minimum: int) -> Taken:
        """A split as the host says it, checked."""
        inside = growth.frontier.inside(node)
        if answer.node != node or answer.candidate not in choice.candidates:
            raise self.host.breach("a Direction that was not asked for")
        try:
            left = unpack_bits(answer.left, int(inside.sum()))
        except ValueError as error:
            raise self.host.breach(f"a Direction with {error}") from None
        went = np.zeros_like(inside)
        went[inside] = left
        if not growth.total(went).equals(self.candidates[node][0].at(answer.candidate)):
            raise self.host.breach("a Direction whose rows do not add up to its sums")
        active = growth.frontier.active
        sides = [int((active & rows).sum()) for rows in (went, inside & ~went)]
        if min(sides) < minimum:
            raise self.host.breach("a Direction that leaves too few rows on a side")
        branch = Branch(self.party, answer.record, one_line(answer.column, 100), choice.gain)
        return Taken(branch, answer.candidate, left)


class OwnColumns:
    """One tree's candidates of columns that the guest holds."""

    def __init__(self, guest: Grower, party: int, block: Binned, g: Integers, h: Integers) -> None:
        self._guest, self.party, self._block = guest, party, block
        self._g, self._h = g, h
        self._all = Candidates.of(block.columns)
        self.ordered = self._all.ordered
        self.candidates: dict[int, tuple[Sums, Mask]] = {}

    async def sums(self, frontier: Frontier) -> None:
        """Left sums of the candidates of every open node, and which may be taken."""
        with self._guest.timed("own columns"):
            self.candidates = await asyncio.to_thread(self._sums, frontier)

    def _sums(self, frontier: Frontier) -> dict[int, tuple[Sums, Mask]]:
        nodes, block, own = frontier.nodes, self._block, self._all
        slots = frontier.slots(nodes)
        left = Sums(
            *(
                own.left_sums(histograms(block, own, slots, len(nodes), values))
                for values in (self._g, self._h)
            )
        )
        counts = histograms(block, own, slots, len(nodes))
        valid = own.valid(counts, self._guest.params.min_child_rows)
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
        branch = Branch(self.party, len(self._guest.splits), split.column, choice.gain)
        self._guest.splits.append(split)
        return Taken(branch, candidate, left)


def draw_rows(
    train: Mask, params: BoostParams, tree: int, gradient: Floats, hessian: Floats
) -> tuple[Mask, Floats]:
    """The rows drawn for a tree, and for how many training rows each of them counts.

    Either a share without replacement, each counting for itself, or by gradient-based one-side sampling
    (Ke et al., NeurIPS 2017, algorithm 2): the rows with the largest |gradient hessian|, the first among
    equal ones, and a draw from the others, which counts for all of them. As in LightGBM not in the first
    1 / learning_rate trees, whose gradients say little yet.
    """
    mask, counts_for = train.copy(), np.ones(len(train))
    rows = np.flatnonzero(train)
    generator = np.random.default_rng([params.seed, tree])
    if params.goss_top and tree + 1 > 1 / params.learning_rate:
        with np.errstate(over="ignore"):
            size = np.abs(gradient[rows] * hessian[rows])
        top = max(1, round(params.goss_top * len(rows)))
        others = rows[np.argsort(-size, kind="stable")[top:]]
        count = min(len(others), max(1, round(params.goss_other * len(rows))))
        drawn = generator.choice(others, count, replace=False)
        mask[others] = False
        mask[drawn] = True
        counts_for[drawn] = len(others) / max(1, count)
    elif params.subsample < 1:
        drawn = generator.choice(rows, max(1, round(params.subsample * len(rows))), replace=False)
        mask[:] = False
        mask[drawn] = True
    return mask, counts_for


def draw_columns(binned: Binned, name: str, params: BoostParams, tree: int) -> Binned:
    """The columns of a party drawn for a tree: each party draws a share of its own, at least one."""
    total = len(binned.columns)
    if params.colsample == 1 or not total:
        return binned
    size = max(1, round(params.colsample * total))
    generator = np.random.default_rng([params.seed, tree, zlib.crc32(name.encode())])
    drawn = np.sort(generator.choice(total, size, replace=False))
    return Binned(tuple(binned.columns[i] for i in drawn), binned.codes[drawn])


def total(g: Integers, h: Integers, rows: Mask) -> Sums:
    """The sums over some rows."""
    return Sums(np.asarray(g[rows].sum()), np.asarray(h[rows].sum()))
