"""How the guest grows trees, whatever its hosts' sums are encrypted with.

Gradients, quantised to integers; level by level the sums of all candidates, the best split of each node,
who goes left; leaf weights. What is said to hosts is the protocol's own: paillier.py, lattice.py.
Without hosts this is the plaintext oracle that both equal, bit for bit.

Of several classes trees grow in rounds, as in LightGBM: one of each class in turn, all of them from the
gradients of the scores that the round begins with, and from the same rows. To hosts each is a tree.
Scores, gradients and hessians then have shape (classes, rows).
"""

import asyncio
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate

import numpy as np

from vfl.arrays import Floats, Integers, Mask
from vfl.blocks.engine import ENGINE, Pieces, Rows
from vfl.blocks.scratch import release_pages
from vfl.errors import ConfigError
from vfl.learn.best_first import Head
from vfl.learn.binning import Binned
from vfl.learn.losses import Loss
from vfl.learn.packed_codes import chosen_columns, pack_codes
from vfl.learn.params import BoostParams
from vfl.learn.quantiles import LeafRows, renewed_leaves
from vfl.learn.quantiser import Quantiser, Scales
from vfl.learn.splits import Split
from vfl.learn.told_sums import most_splits
from vfl.learn.tree import (
    Branch,
    Choice,
    Frontier,
    Nodes,
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
from vfl.protocols.common.course import StopTraining
from vfl.protocols.common.rows import Training
from vfl.protocols.trees.columns import Gradients, Growth, HostColumns, OwnColumns, Taken, with_sets
from vfl.protocols.trees.draws import draw_rows, drawn_columns, sizes_of
from vfl.protocols.trees.model import GuestModel
from vfl.protocols.trees.paths import Paths
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
    Rounds count from the trees on in which hosts' columns come in, and only whole ones do."""
    rounds, of_round = params.early_stopping_rounds, params.round
    if not rounds or trees % of_round:
        return False
    return trees // of_round - max(best // of_round, params.guest_trees) >= rounds


class TreeEnd(Message, frozen=True):
    """guest -> host. Reveals: that the tree has no further level."""


class TreeKept(Message, frozen=True):
    """host -> guest. Reveals: that the host has kept its splits so far."""


class Finish(Message, frozen=True):
    """guest -> host. Reveals: how many trees of the training the model keeps."""

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
    """By host, nodes of all trees so far whose sums it kept to itself, as it had told so much about
    their rows."""


@dataclass(frozen=True)
class GuestTrees:
    """What the guest keeps of training after a tree; scores have shape (rows,) or (classes, rows)."""

    done: int  # trees, without those of the model that the training began with
    trees: list[Tree]
    splits: list[Split]
    score: Floats
    best: tuple[float, int, Floats] | None  # validation loss, its number of trees, their score
    round_score: Floats | None = None  # what the round that is not whole yet began with
    withheld: Mapping[str, int] = field(default_factory=dict)
    """As TreeDone has it."""


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
        self.begun = 0  # trees of the model that the training began with
        self.withheld = Counter[str]()  # by host: nodes of all trees whose sums it kept to itself
        self.obstacle: Obstacle | None = None  # of the last tree
        self.told_obstacle: Obstacle | None = None  # of hosts' candidates, by who opens their sums
        self._of_round: tuple[Rows, Mask, Floats] | None = None
        """Of the round that grows: gradients and hessians, the rows drawn, for how many each counts."""
        codes = [ENGINE.hold(block.codes.reshape(-1, len(rows.label))) for block in blocks.values()]
        self._held = [ENGINE.make(pack_codes, of_block) for of_block in codes]
        self._label, self._weight = ENGINE.hold(rows.label), ENGINE.hold(rows.weight)
        self._counts_for: Rows  # for how many rows each counts in the tree that grows
        self._train, self._ones = map(ENGINE.hold, (rows.train, np.broadcast_to(1.0, len(rows.train))))

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
        """The best splits of the open nodes that are split now, whose sums are known: of all that have
        any, or best-first of those that come next."""

    @abstractmethod
    async def advance(self, hosts: list[Peer], split: list[int], left: Rows) -> None:
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
        """Grow all trees; returns the guest's half and every row's score, shape (rows,), or of several
        classes (rows, classes)."""
        rows, params = self.rows, self.params
        start, score = self.start()
        starts, score = rows.class_starts(), score.T  # the rows last
        trees: list[Tree] = []
        best, stopped = (np.inf, 0, np.empty(0)), False  # validation loss, trees, score
        if (last := checkpoints.last) is not None:
            if last.score.shape != score.shape:
                raise ValueError("the state of training on other rows")
            trees, self.splits, score = [*last.trees], [*last.splits], last.score
            best = last.best or best
            self.withheld.update(last.withheld)
        begun = self.begun = len(trees) - checkpoints.done
        held = ENGINE.hold(score)
        of_round = score if last is None or last.round_score is None else last.round_score
        before = ENGINE.hold(of_round)

        if self.hosts:
            await self.meet()
        for number in range(checkpoints.done, params.most_trees):
            own = number % params.round  # which class it is of
            if rows.validation.any() and is_enough(params, number, best[1]):
                break
            self.clock.seconds.clear()
            with self.clock.timed(WHOLE):
                tree, node_of_row = await self.grow(number, before)
            trees.append(tree)
            add = partial(_add_leaves, tree.weights(), own if starts else None)
            held = await asyncio.to_thread(ENGINE.make, add, held, node_of_row)
            del node_of_row  # rows are many
            score = np.asarray(await asyncio.to_thread(ENGINE.keep, held), np.float64)
            if whole := own + 1 == params.round:
                before, of_round = held, score
            losses = [rows.mean_loss(score, mask) for mask in (rows.train, rows.validation)]
            release_pages(score)
            seconds, loss = dict(self.clock.seconds), losses[0] or 0.0
            done = TreeDone(
                number + 1,
                params.most_trees,
                loss,
                losses[1],
                seconds,
                self.obstacle,
                dict(self.withheld),
            )
            try:
                progress(done)
            except StopTraining:
                stopped = True
            stops = params.early_stopping_rounds and whole
            if stops and losses[1] is not None and losses[1] < best[0]:
                best = (losses[1], number + 1, score)
            if number >= params.first_joint:  # else hosts know nothing of the tree
                known, began = best if best[1] else None, None if whole else of_round
                splits, withheld = [*self.splits], done.withheld
                now = GuestTrees(number + 1, [*trees], splits, score, known, began, withheld)
                await checkpoints.keep(now)
            if stopped and whole:
                break
        if best[1]:
            _, kept, score = best
            trees = trees[: begun + kept]

        await self.finish(len(trees) - begun)
        await together([host.send(Finish(len(trees) - begun)) for host in self.hosts])
        await together([host.recv(Finished) for host in self.hosts])
        return GuestModel(self.names, start, tuple(trees), tuple(self.splits), starts), score.T

    def _hosts_of(self, number: int) -> list[Peer]:
        """The hosts that grow a tree."""
        return [] if number < self.params.first_joint else self.hosts

    async def grow(self, number: int, score: Rows) -> tuple[Tree, Rows]:
        """Grow a tree from every row's score so far, of several classes those that its round began with;
        returns it and the leaf of every row."""
        params = self.params
        hosts = self._hosts_of(number)
        # In threads: of millions of rows each takes seconds, in which hosts must hear something.
        active, g, h = await asyncio.to_thread(self._gradients, number, score)
        own = await asyncio.to_thread(self._own_columns, number, Gradients(g, h, self.quantisation.bits))
        parties: list[OwnColumns | HostColumns] = [*own]
        growth = Growth(g, h, Frontier(await asyncio.to_thread(ENGINE.make, _at_root, active), active))
        growth.paths = Paths.of(params.interaction_constraints, self.names)
        growth.begin(params)
        parties += await self.begin(hosts, number, growth, len(own))
        frontier, bounds = growth.frontier, growth.bounds
        branches: dict[int, Branch] = {}
        in_order: list[int] = []  # nodes whose left must not weigh more than their right
        leaves: dict[int, float] = {}
        covers: dict[int, int] = {}

        for level in range(most_splits(params)):
            await asyncio.to_thread(growth.find_totals)
            covers.update(frontier.covers())
            growth.open(params.min_child_rows)

            # Candidate sums of all parties, and the best split of each node.
            await self.sums(parties, growth)
            taken = await self.split(growth, parties)
            if level == 0:
                self.obstacle = None if taken else self._obstacle(parties, growth, covers[0])
            left = await asyncio.to_thread(growth.left, taken)
            ordered = [node for node, split in taken.items() if split.ordered]
            in_order += ordered
            left_sums = await asyncio.to_thread(growth.left_sums, ordered, left)
            for node, total in growth.totals.items():
                if node not in taken:
                    if growth.is_leaf(node):
                        leaves[node] = leaf_weight(total, self.scales, params, bounds[node])
                    continue
                branch = branches[node] = taken[node].branch
                if growth.order is not None:
                    growth.order.take(node, Head(branch.gain, branch.party))
                growth.paths.split(node, branch.party)
                bounds[2 * node + 1], bounds[2 * node + 2] = child_bounds(
                    node in left_sums,
                    left_sums.get(node, total),
                    total,
                    bounds[node],
                    self.scales,
                    params,
                )
            told = await asyncio.to_thread(growth.told, taken, left)
            await asyncio.to_thread(growth.advance, sorted(taken), left)
            if not taken or growth.is_whole(level, params):
                break
            if told[0]:
                await self.advance(hosts, *told)
        await together([host.send(TreeEnd()) for host in hosts])
        await self.end_tree(growth)

        # Leaf weights; the hosts' splits are kept.
        await asyncio.to_thread(growth.find_totals)
        covers.update(frontier.covers())
        for node, total in growth.totals.items():
            if node not in leaves:
                leaves[node] = leaf_weight(total, self.scales, params, bounds[node])
        if self.rows.loss.quantile is not None:
            leaves = await asyncio.to_thread(self._renewed, leaves, in_order, frontier, score)
        await together([host.recv(TreeKept) for host in hosts])
        return Tree(branches, leaves, covers), frontier.node_of_row

    def _own_columns(self, number: int, gradients: Gradients) -> list[OwnColumns]:
        """The columns that the guest holds and that are drawn for a tree."""
        params, found = self.params, list[OwnColumns]()
        for (name, block), codes in zip(self.blocks.items(), self._held, strict=True):
            columns = block.columns
            if (drawn := drawn_columns(len(columns), name, params, number)) is not None:
                columns = tuple(columns[i] for i in drawn)
                codes = ENGINE.make(partial(chosen_columns, drawn), codes)
            given = columns, codes, gradients, params.min_child_rows
            whose = params.ordered_categories
            by_sets = params if whose == "all" or (whose == "guest" and not found) else None
            found.append(OwnColumns(len(found), *given, self.splits, self.clock, by_sets))
            if number < params.first_joint:
                break  # a tree of the guest alone
        return found

    def _gradients(self, number: int, score: Rows) -> tuple[Rows, Rows, Rows]:
        """The rows drawn for a tree, and every row's gradient and hessian as integers."""
        rows, tree, own = self.rows, self.begun + number, number % self.params.round
        found = self._of_round if own else None
        if found is None:
            both = ENGINE.make(partial(_both, rows.loss), score, self._label, self._weight)
            # Of many rows they stay where they are, unless it is by them that rows are drawn.
            found = both, *self.draw(rows.train, tree, partial(_sizes_here, both))
        both, drawn, counts_for = found
        if rows.loss.classes > 1:
            self._of_round, both = found, ENGINE.make(partial(_of_class, own), both)
        active, count = self._train, self._ones
        if drawn is not rows.train:
            active, count = ENGINE.hold(drawn), ENGINE.hold(counts_for)
        seed = [self.params.seed, tree, 0, 0] if self.quantisation.dithered else None
        self._counts_for = count
        return active, *self.quantise(both, active, count, seed)

    def _renewed(
        self, leaves: Iterable[int], in_order: Sequence[int], frontier: Frontier, score: Rows
    ) -> dict[int, float]:
        """The weights of the leaves of a tree that predicts a quantile."""
        own, drawn, quantile = self.rows, frontier.drawn, self.rows.loss.quantile
        if quantile is None:
            raise ValueError("leaves of a mean")
        residual = (own.label - np.asarray(ENGINE.gather(score), np.float64))[drawn]
        counts_for = np.asarray(ENGINE.gather(self._counts_for), np.float64)
        weight = (own.weight * counts_for)[drawn]
        node = np.asarray(ENGINE.gather(frontier.node_of_row), np.int32)[drawn]
        rows = LeafRows(node, residual, weight)
        return renewed_leaves(leaves, in_order, rows, quantile, self.params.learning_rate)

    def start(self) -> tuple[float, Floats]:
        """The constant with which scores start, and every row's score with it."""
        return self.rows.start()

    def draw(self, train: Mask, number: int, size: Callable[[], Floats]) -> tuple[Mask, Floats]:
        """The rows drawn for a tree, and for how many rows each counts, as `draw_rows` has them."""
        return draw_rows(train, self.params, number, size)

    def quantise(
        self, both: Rows, active: Rows, counts_for: Rows, seed: Sequence[int] | None = None
    ) -> tuple[Rows, Rows]:
        """Round gradients and hessians, shape (2, rows), of the drawn rows to integers, 0 for the
        others; sets the scales.

        With a `seed` values are rounded up or down at random. Each has the scale that its own largest
        value allows. Hosts need none of it: what they add up stays within the bits.
        """
        largest = np.max([*ENGINE.results(_largest, both, active, counts_for)], axis=0)
        if not (largest < DIVERGED).all():  # nor is NaN
            raise diverges()
        # Gradients' draws come first, in the order of the rows, then hessians'.
        counts = [] if seed is None else [*ENGINE.results(_count_drawn, active)]
        before = [0, *accumulate(counts)]
        integers, scales = list[Rows](), list[float]()
        for which, bound in enumerate(largest.tolist()):
            bits = self.quantisation.bits
            if seed is None:
                quantiser = Quantiser.for_bound(bound, bits)
                whole = ENGINE.make(partial(_whole, quantiser, which), both, active, counts_for)
            else:
                quantiser = Quantiser.filling(bound, bits)
                skipped = Pieces([which * before[-1] + earlier for earlier in before[:-1]])
                kernel = partial(_dithered, quantiser, which, [*seed])
                whole = ENGINE.make(kernel, both, active, counts_for, skipped)
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
        by_node = dict(zip(nodes, found, strict=True))
        if party.categories:
            for node in nodes:
                by_node[node] = with_sets(
                    growth, party, party.categories, node, self.scales, by_node[node]
                )
        for node, of_node in by_node.items():
            if not growth.paths.may_split(node, party.party):
                of_node[:] = -np.inf
        return by_node

    def best(self, growth: Growth, parties: Sequence[OwnColumns | HostColumns]) -> dict[int, Choice]:
        """The best candidate of each node whose sums are new and that has any: the first party's among
        equal gains."""
        nodes, choices = growth.frontier.nodes, {}
        found = [self.gains(growth, party, nodes) for party in parties]
        for node in nodes:
            choice = best_split([of_party[node] for of_party in found])
            if choice is not None:
                choices[node] = choice
        return choices

    def _obstacle(
        self, parties: Sequence[OwnColumns | HostColumns], growth: Growth, drawn: int
    ) -> Obstacle:
        """Why nothing was split at the root, as far as the guest can tell."""
        total, params = growth.totals[0], self.params
        if drawn < 2 * params.min_child_rows:
            return "min_child_rows"
        obstacles: list[Obstacle] = [] if self.told_obstacle is None else [self.told_obstacle]
        for party in parties:
            if self.told_obstacle is not None and isinstance(party, HostColumns):
                continue
            left, valid = party.candidates[0]
            if isinstance(party, OwnColumns) and not party.can_split():
                obstacles.append("columns")
            elif (self.gains(growth, party, [0])[0] > -np.inf).any():
                obstacles.append("min_child_rows")  # as a host says whom the guest asked
            else:
                obstacles.append(obstacle(left, total, valid, self.scales, params, party.ordered))
        return furthest(obstacles)


def _add_leaves(weights: Floats, of_class: int | None, score: Floats, node_of_row: Nodes) -> Floats:
    """Scores with the weight of each row's leaf: those of a class, or the only ones."""
    if of_class is None:
        return np.asarray(score + weights[node_of_row])
    scores = score.copy()
    scores[of_class] += weights[node_of_row]
    return scores


def _at_root(active: Mask) -> Nodes:
    return np.zeros(len(active), np.int32)


def _both(loss: Loss, score: Floats, label: Floats, weight: Floats) -> Floats:
    """Gradients and hessians, shape (2, rows); of several classes (2, classes, rows)."""
    return np.stack([each.T for each in loss.damped_gradients(score.T, label, weight)])


def _of_class(number: int, both: Floats) -> Floats:
    """Those of a class, shape (2, rows)."""
    return both[:, number]


def _sizes_here(both: Rows) -> Floats:
    """The sizes of all rows' gradients, in this process."""
    return np.asarray(ENGINE.keep(ENGINE.make(_sizes, both)), np.float64)


def _sizes(both: Floats) -> Floats:
    return sizes_of(*both)


def _largest(both: Floats, active: Mask, counts_for: Floats) -> Floats:
    """The largest of each that are drawn, whatever their sign."""
    drawn = counts_for[active]
    return np.array([np.abs(values[active] * drawn).max(initial=0.0) for values in both])


def _count_drawn(active: Mask) -> int:
    return int(active.sum())


def _whole(quantiser: Quantiser, which: int, both: Floats, active: Mask, counts_for: Floats) -> Integers:
    """A block of gradients or hessians as integers, 0 for rows that are not drawn."""
    whole = np.zeros(len(active), np.int64)
    whole[active] = quantiser.integers(both[which][active] * counts_for[active])
    return whole


def _dithered(
    quantiser: Quantiser,
    which: int,
    seed: Sequence[int],
    both: Floats,
    active: Mask,
    counts_for: Floats,
    skipped: int,
) -> Integers:
    """The same, up or down at random: `skipped` draws of the seed are of values before these."""
    draws = np.random.PCG64(np.random.SeedSequence([*seed]))
    draws.advance(skipped)
    drawn = both[which][active] * counts_for[active]
    whole = np.zeros(len(active), np.int64)
    whole[active] = quantiser.dithered(drawn, np.random.Generator(draws).random(len(drawn)))
    return whole


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
        chosen = growth.next(self.best(growth, own))
        # By party, as a protocol takes them: the order of the guest's records.
        ordered = sorted(chosen.items(), key=lambda item: item[1].party)
        return {n: own[c.party].take(n, c) for n, c in ordered}

    async def advance(self, hosts: list[Peer], split: list[int], left: Rows) -> None:
        return

    async def end_tree(self, growth: Growth) -> None:
        return

    async def finish(self, trees: int) -> None:
        return
