"""How the guest grows trees, whatever its hosts' sums are encrypted with.

Gradients, quantised to integers; level by level the sums of all candidates, the best split of each node,
who goes left; leaf weights. What is said to hosts is the protocol's own: paillier.py, lattice.py.
Without hosts this is the plaintext oracle that both equal, bit for bit.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from vfl.arrays import Floats, Integers, Mask
from vfl.errors import ConfigError
from vfl.learn.binning import Binned
from vfl.learn.losses import Quantiser, Scales
from vfl.learn.params import BoostParams
from vfl.learn.splits import Split
from vfl.learn.tree import (
    Branch,
    Choice,
    Frontier,
    Obstacle,
    Tree,
    best_split,
    child_bounds,
    furthest,
    leaf_weight,
    level_gains,
    obstacle,
)
from vfl.net.peer import Peer, together
from vfl.net.wire import Message
from vfl.protocols.common.checkpoints import Checkpoints
from vfl.protocols.common.clock import Clock
from vfl.protocols.common.rows import Training
from vfl.protocols.trees.columns import Growth, HostColumns, OwnColumns, Taken
from vfl.protocols.trees.draws import draw_columns, draw_rows
from vfl.protocols.trees.model import GuestModel
from vfl.protocols.trees.quantisation import Quantisation, quantisation_of

WHOLE = "whole tree"  # the phase that holds all others
DIVERGED = 1e100
"""A gradient of this size comes of scores that grow from tree to tree."""


def diverges() -> ConfigError:
    """The error of a training whose gradients are beyond all bounds."""
    return ConfigError(
        "training diverges, with gradients beyond all bounds: lower the learning_rate or raise "
        "reg_lambda in [secureboost]",
        for_peer="its training diverges, the job needs other settings",
    )


def is_enough(params: BoostParams, trees: int, best: int) -> bool:
    """Whether so many trees are all, where rows decide and the best loss was with `best` of them.
    Rounds count from the trees on in which hosts' columns come in."""
    rounds = params.early_stopping_rounds
    return bool(rounds) and trees - max(best, params.guest_trees) >= rounds


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
class TreeDone:
    """What the guest can tell after each tree; losses are means, seconds are by phase."""

    tree: int
    of: int
    train_loss: float
    validation_loss: float | None
    seconds: dict[str, float]
    obstacle: Obstacle | None = None  # why the tree has no split; None where it has
    withheld: dict[str, int] = field(default_factory=dict)
    """By host, nodes whose sums it kept to itself, as it had told so much about their rows."""


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
        self.clock = Clock()
        self.withheld = Counter[str]()  # in the last tree, by host: nodes whose sums it kept to itself
        self.obstacle: Obstacle | None = None  # of the last tree
        self.told_obstacle: Obstacle | None = None  # of hosts' candidates, by who opens their sums

    @abstractmethod
    async def meet(self) -> None:
        """Send hosts what they need once a job."""

    @abstractmethod
    async def begin(
        self, hosts: list[Peer], number: int, growth: Growth, first: int
    ) -> Sequence[HostColumns]:
        """Send hosts what they need once a tree; returns their candidates in it, numbered as parties
        from `first` on."""

    @abstractmethod
    async def sums(self, parties: Sequence[OwnColumns | HostColumns], growth: Growth) -> None:
        """Learn the left sums of all parties' candidates in every open node."""

    @abstractmethod
    async def split(
        self, growth: Growth, parties: Sequence[OwnColumns | HostColumns]
    ) -> dict[int, Taken]:
        """The best splits of all open nodes that have any, whose sums are known."""

    @abstractmethod
    async def advance(self, hosts: list[Peer], split: list[int], left: Mask) -> None:
        """Tell hosts what they need to know of the next level."""

    @abstractmethod
    async def end_tree(self, growth: Growth) -> None:
        """Tell who opens sums that the tree has no further level."""

    @abstractmethod
    async def finish(self, trees: int) -> None:
        """Tell who opens sums how many trees the model keeps."""

    async def train(
        self, progress: Callable[[TreeDone], None], checkpoints: Checkpoints[GuestTrees]
    ) -> tuple[GuestModel, Floats]:
        """Grow all trees; returns the guest's half and every row's score."""
        rows, params = self.rows, self.params
        start, score = self.start()
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
            if rows.validation.any() and is_enough(params, number, best[1]):
                break
            self.clock.seconds.clear()
            self.withheld.clear()
            gradient, hessian = rows.loss.damped_gradients(score, rows.label, rows.weight)
            with self.clock.timed(WHOLE):
                tree, node_of_row = await self.grow(number, gradient, hessian, rows.train)
            trees.append(tree)
            score = score + tree.weights()[node_of_row]
            losses = [rows.mean_loss(score, mask) for mask in (rows.train, rows.validation)]
            seconds, loss = dict(self.clock.seconds), losses[0] or 0.0
            progress(
                TreeDone(
                    number + 1,
                    params.trees,
                    loss,
                    losses[1],
                    seconds,
                    self.obstacle,
                    dict(self.withheld),
                )
            )
            if params.early_stopping_rounds and losses[1] is not None and losses[1] < best[0]:
                best = (losses[1], number + 1, score)
            if number >= params.guest_trees:  # else hosts know nothing of the tree
                known = best if best[1] else None
                await checkpoints.keep(GuestTrees(number + 1, [*trees], [*self.splits], score, known))
        if best[1]:
            _, kept, score = best
            trees = trees[:kept]

        await self.finish(len(trees))
        await together([host.send(Finish(len(trees))) for host in self.hosts])
        await together([host.recv(Finished) for host in self.hosts])
        return GuestModel(self.names, start, tuple(trees), tuple(self.splits)), score

    def _hosts_of(self, number: int) -> list[Peer]:
        """The hosts that grow a tree."""
        return [] if number < self.params.guest_trees else self.hosts

    async def grow(
        self, number: int, gradient: Floats, hessian: Floats, train: Mask
    ) -> tuple[Tree, Integers]:
        """Grow a tree; returns it and the leaf of every row."""
        params = self.params
        hosts = self._hosts_of(number)
        alone = number < params.guest_trees
        active, counts_for = self.draw(train, number, gradient, hessian)
        dithered = self.quantisation.dithered
        dither = np.random.default_rng([params.seed, number, 0, 0]) if dithered else None
        g, h = self.quantise(gradient, hessian, active, counts_for, dither)

        held = list(self.blocks.items())[: 1 if alone else None]
        blocks = [draw_columns(block, name, params, number) for name, block in held]
        own = [
            OwnColumns(i, block, (g, h), params.min_child_rows, self.splits, self.clock)
            for i, block in enumerate(blocks)
        ]
        parties: list[OwnColumns | HostColumns] = [*own]
        growth = Growth(g, h, Frontier(np.zeros(len(g), np.int64), active))
        parties += await self.begin(hosts, number, growth, len(own))
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
                split, inside = taken[node], frontier.inside(node)
                branches[node] = split.branch
                left[inside] = split.left
                bounds[2 * node + 1], bounds[2 * node + 2] = child_bounds(
                    split.ordered,
                    growth.total(inside & left),
                    total,
                    bounds[node],
                    self.scales,
                    params,
                )
            frontier.advance(sorted(taken), left)
            if not taken or level + 1 == params.depth:
                break
            await self.advance(hosts, sorted(taken), left)
        await together([host.send(TreeEnd()) for host in hosts])
        await self.end_tree(growth)

        # Leaf weights; the hosts' splits are kept.
        covers.update(frontier.covers())
        for node in frontier.nodes:
            if node not in leaves:
                total = growth.total(frontier.inside(node))
                leaves[node] = leaf_weight(total, self.scales, params, bounds[node])
        await together([host.recv(TreeKept) for host in hosts])
        return Tree(branches, leaves, covers), frontier.node_of_row

    def start(self) -> tuple[float, Floats]:
        """The constant with which scores start, and every row's score with it."""
        return self.rows.start()

    def draw(self, train: Mask, number: int, gradient: Floats, hessian: Floats) -> tuple[Mask, Floats]:
        """The rows drawn for a tree, and for how many rows each counts, as `draw_rows` has them."""
        return draw_rows(train, self.params, number, gradient, hessian)

    def quantise(
        self,
        gradient: Floats,
        hessian: Floats,
        active: Mask,
        counts_for: Floats,
        dither: np.random.Generator | None = None,
    ) -> tuple[Integers, Integers]:
        """Round gradients and hessians of the drawn rows to integers, 0 for the others; sets the scales.

        With `dither` values are rounded up or down at random. Each has the scale that its own largest
        value allows. Hosts need none of it: what they add up stays within the bits.
        """
        integers = []
        scales = []
        for values in (gradient, hessian):
            drawn = values[active] * counts_for[active]
            bound = float(np.abs(drawn).max())
            if not bound < DIVERGED:  # nor is NaN
                raise diverges()
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

    def gains(
        self, growth: Growth, party: OwnColumns | HostColumns, nodes: Sequence[int]
    ) -> dict[int, Floats]:
        """The gain of each of a party's candidates in each of these nodes; -inf where it may not be
        taken."""
        left = [party.candidates[node][0] for node in nodes]
        valid = [party.candidates[node][1] for node in nodes]
        totals, bounds = [growth.totals[node] for node in nodes], [growth.bounds[node] for node in nodes]
        found = level_gains(left, totals, valid, self.scales, self.params, bounds, party.ordered)
        return dict(zip(nodes, found, strict=True))

    def best(self, growth: Growth, parties: Sequence[OwnColumns | HostColumns]) -> dict[int, Choice]:
        """The best candidate of each open node that has any: the first party's among equal gains."""
        nodes, choices = list(growth.totals), {}
        found = [self.gains(growth, party, nodes) for party in parties]
        for node in nodes:
            choice = best_split([of_party[node] for of_party in found])
            if choice is not None:
                choices[node] = choice
        return choices

    def _obstacle(self, parties: Sequence[OwnColumns | HostColumns], growth: Growth) -> Obstacle:
        """Why nothing was split at the root, as far as the guest can tell."""
        total, params = growth.totals[0], self.params
        if int(growth.frontier.active.sum()) < 2 * params.min_child_rows:
            return "min_child_rows"
        obstacles: list[Obstacle] = [] if self.told_obstacle is None else [self.told_obstacle]
        for party in parties:
            if self.told_obstacle is not None and isinstance(party, HostColumns):
                continue
            left, valid = party.candidates[0]
            if isinstance(party, OwnColumns) and not party.can_split(growth.frontier):
                obstacles.append("columns")
            elif (self.gains(growth, party, [0])[0] > -np.inf).any():
                obstacles.append("min_child_rows")  # as a host says whom the guest asked
            else:
                obstacles.append(obstacle(left, total, valid, self.scales, params, party.ordered))
        return furthest(obstacles)


@dataclass(frozen=True, eq=False)
class BinnedTables:
    """All that a training of trees is of: every party's columns in bins, the guest's first."""

    params: BoostParams
    blocks: Mapping[str, Binned]
    rows: Training


class Pooled(Grower):
    """All columns in one place: the plaintext oracle, and the guest's trees by its own columns."""

    def __init__(self, blocks: Mapping[str, Binned], rows: Training, params: BoostParams) -> None:
        """Raises ValueError for more rows than the sums of the job's encryption could hold."""
        super().__init__([], blocks, rows, params, quantisation_of(len(rows.label), params))

    async def meet(self) -> None:
        return

    async def begin(
        self, hosts: list[Peer], number: int, growth: Growth, first: int
    ) -> Sequence[HostColumns]:
        return []

    async def sums(self, parties: Sequence[OwnColumns | HostColumns], growth: Growth) -> None:
        own = (party for party in parties if isinstance(party, OwnColumns))
        await together([party.sums(growth.frontier) for party in own])

    async def split(
        self, growth: Growth, parties: Sequence[OwnColumns | HostColumns]
    ) -> dict[int, Taken]:
        own = [party for party in parties if isinstance(party, OwnColumns)]
        chosen = self.best(growth, own)
        # By party, as a protocol takes them: the order of the guest's records.
        ordered = sorted(chosen.items(), key=lambda item: item[1].party)
        return {n: own[c.party].take(growth.frontier, n, c) for n, c in ordered}

    async def advance(self, hosts: list[Peer], split: list[int], left: Mask) -> None:
        return

    async def end_tree(self, growth: Growth) -> None:
        return

    async def finish(self, trees: int) -> None:
        return
