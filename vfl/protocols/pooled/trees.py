"""Boosted trees over rows: all clients have the same columns and the label, each for rows of its own.

 1. Common bins (bins.py), and the constant with which all scores start (start.py).
For each tree:
 2. Each client draws its share of its own rows and computes their gradients and hessians. All learn the
    powers of two of the largest ones, and round theirs to integers alike.
 3. Level by level, all add up how many drawn rows are in each cell (a bin, or the missing values, of a
    column drawn for the tree) and the sums of their gradients and hessians: of the child with fewer rows
    of each pair; its sibling's are the rest of their parent's. A pair is left out where neither child
    has the rows of two children.
 4. From the same sums each client finds the same splits, as where all columns are in one place
    (learn/splits.py, learn/tree.py), and the same leaves. It knows by itself where its rows go.
 5. All add up their losses, and make sure that they hold the same tree. Each keeps its state.
At the end each client holds the whole model.

Sums are of integers, and losses exact: on the same bins the model is, bit for bit, the one that a guest
alone (trees/grower.py) makes of all rows in one place, however they lie at clients.

A client that is gone takes its rows with it. Where others go on without it, the levels of a tree that
came before were over its rows as well: the tree ends there, with the leaves that it has. The roots of
two trees, one with its rows and one without, tell how many it has in each bin (docs/protocols.md).

Learned by all clients: the model; for each tree the powers of two, the counts and sums of 3., which are
over the rows of all clients together, and the mean losses. A sum over a cell with few rows tells of
these: with a single one, its gradient, and so its label. Of two clients, each learns the other's sums.
"""

import asyncio
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from vfl.arrays import Floats, Integers, Mask
from vfl.errors import ConfigError, DataError, PeerError
from vfl.learn.binning import Binned, Column, Features
from vfl.learn.drawing import draw_places
from vfl.learn.losses import BadLabel
from vfl.learn.params import BoostParams
from vfl.learn.quantiser import Quantiser, Scales, exponent_of
from vfl.learn.splits import Candidates, Split, gradient_histograms
from vfl.learn.tree import (
    FREE,
    Bounds,
    Branch,
    Obstacle,
    Sums,
    Tree,
    best_split,
    child_bounds,
    leaf_weight,
    level_gains,
    obstacle,
    pair_of,
)
from vfl.protocols.common.clock import Clock
from vfl.protocols.common.course import GuestCourse
from vfl.protocols.common.rows import Training
from vfl.protocols.pooled.adding import Adder
from vfl.protocols.pooled.bins import Schema, bin_rows, common_bins
from vfl.protocols.pooled.real_totals import sum_of_words
from vfl.protocols.pooled.start import (
    check_own_label,
    common_start,
    exponent_in,
    largest_exponents,
    mean_losses,
)
from vfl.protocols.pooled.totals import Totals, unfit
from vfl.protocols.trees.draws import draw_columns
from vfl.protocols.trees.grower import DIVERGED, WHOLE, TreeDone, diverges, is_enough
from vfl.protocols.trees.model import GuestModel
from vfl.protocols.trees.quantisation import packing_of

_AT_ONCE = 1 << 22  # sums of a total
POOLED = "pooled"
"""What the model's columns belong to: all clients."""
_MOST_EXPONENT = exponent_of(DIVERGED)
_NOT_SAME = "the server or another client broke the protocol: the clients do not hold the same trees"


@dataclass(frozen=True)
class PooledTrees:
    """What a client keeps of training after a tree; scores have shape (rows,), of its own rows."""

    done: int  # trees
    constant: float
    row_bits: int
    watched: bool  # whether rows decide when to stop
    columns: list[Column]
    trees: list[Tree]
    splits: list[Split]
    score: Floats
    best: tuple[float, int, Floats] | None  # validation loss, its number of trees, their score


async def grow_client(
    adder: Adder,
    features: Features,
    rows: Training,
    schema: Schema,
    params: BoostParams,
    *,
    course: GuestCourse[TreeDone, PooledTrees] = GuestCourse(),
) -> tuple[GuestModel, Floats]:
    """The whole model, the same at all clients, and the scores of this client's rows, shape (rows,).

    `features` and `rows` are this client's own. All clients go on from as many trees. Raises ConfigError
    for settings that cannot be, or that differ among clients, DataError for rows that can teach nothing
    and for labels that cannot be, PeerError for totals that cannot be.
    """
    check_params(params)
    try:
        check_own_label(rows.loss, rows.label[rows.train])
    except BadLabel as bad:
        raise DataError(
            f"the label {bad}", for_peer="a label cannot be used (its log has the details)"
        ) from None
    totals = Totals(adder)
    last = course.checkpoints.last
    if last is None:
        bins = await common_bins(totals, features, schema, params, repr(rows.loss).encode())
        start = await common_start(totals, rows)
        columns, bits = bins.columns, _row_bits(bins.rows, params)
        constant, watched = start.constant, start.watched
    else:
        schema.check(features)
        columns, bits = tuple(last.columns), last.row_bits
        constant, watched = last.constant, last.watched
    block = await asyncio.to_thread(bin_rows, columns, features)
    client = _Client(totals, adder.name, block, rows, params, bits)
    return await client.train(constant, watched, course)


def check_params(params: BoostParams) -> None:
    """Raises ConfigError for settings that have no meaning where clients have rows of their own."""
    if params.goss_top:
        raise ConfigError(
            "goss_top and goss_other are not for rows of several clients, of which nobody knows the "
            "largest gradients: use subsample"
        )
    if params.guest_trees or params.sums == "hidden" or params.encryption != "paillier":
        raise ConfigError(
            "guest_trees, sums and encryption are for columns of several parties, not for rows of "
            "several clients: leave them out"
        )


def _row_bits(rows: int, params: BoostParams) -> int:
    """How precise gradients are of which so many rows are summed. Raises ConfigError for too many."""
    try:
        return packing_of(max(1, rows), params).row_bits
    except ValueError as error:
        raise ConfigError(f"the clients have too many rows to be summed exactly: {error}") from None


def draw_own_rows(train: Mask, params: BoostParams, tree: int, name: str) -> Mask:
    """A client's rows drawn for a tree: a share of those that train, at least one if there is any."""
    rows = int(train.sum())
    if params.subsample == 1 or not rows:
        return train
    drawn, seed = np.zeros(len(train), np.bool_), [params.seed, tree, zlib.crc32(name.encode())]
    drawn[train] = draw_places(seed, rows, max(1, round(params.subsample * rows)))
    return drawn


# ------------------------------------------------------------------------------------ a tree grows


_NOTHING = np.zeros((3, 0), np.int64)  # the cells of a node that are not known, or not needed any more


@dataclass(eq=False)
class _Node:
    """A node: where this client's rows are, and what is known of those of all clients."""

    number: int
    rows: Integers  # this client's, drawn or not
    count: int  # drawn ones of all clients, and their sums
    sums: Sums
    bounds: Bounds
    cells: Integers  # the same by cell, shape (3, cells): counts, gradients, hessians


@dataclass(frozen=True, eq=False)
class _Pair:
    """A node that is summed, its sibling and their parent."""

    summed: _Node
    sibling: _Node | None = None
    parent: _Node | None = None

    @property
    def nodes(self) -> list[_Node]:
        return [self.summed] if self.sibling is None else [self.summed, self.sibling]

    def may_split(self, minimum: int) -> bool:
        """Whether one of them has the rows of two children."""
        return any(node.count >= 2 * minimum for node in self.nodes)


@dataclass(eq=False)
class _Growth:
    """A tree under growth."""

    block: Binned  # of the columns drawn
    candidates: Candidates
    drawn: Mask  # of this client's rows
    gradient: Integers  # quantised, of every row, 0 where it is not drawn
    hessian: Integers
    scales: Scales
    clients: tuple[str, ...] = ()  # those over whose rows the sums are
    branches: dict[int, Branch] = field(default_factory=dict)
    leaves: list[_Node] = field(default_factory=list)
    covers: dict[int, int] = field(default_factory=dict)

    def cells_of(self, rows: Integers) -> Integers:
        """Counts and sums by cell of some of this client's rows, shape (3, cells)."""
        drawn = rows if self.drawn.all() else rows[self.drawn[rows]]
        return gradient_histograms(self.block, self.candidates, drawn, self.gradient, self.hessian)

    def whole(self) -> _Node:
        """The root, of which nothing is known yet."""
        rows = np.arange(len(self.drawn))
        return _Node(0, rows, 0, _sums(0, 0), FREE, _NOTHING)


def _sums(gradient: int, hessian: int) -> Sums:
    return Sums(np.array(gradient, np.int64), np.array(hessian, np.int64))


def _integers(quantiser: Quantiser, values: Floats, drawn: Mask) -> Integers:
    """Values of drawn rows as integers, 0 for the others."""
    whole = np.zeros(len(values), np.int64)
    whole[drawn] = quantiser.integers(values[drawn])
    return whole


class _Client:
    """What a client keeps from tree to tree."""

    def __init__(
        self,
        totals: Totals,
        name: str,
        block: Binned,
        rows: Training,
        params: BoostParams,
        row_bits: int,
    ) -> None:
        self.totals, self.name, self.block = totals, name, block
        self.rows, self.params, self.row_bits = rows, params, row_bits
        self.splits: list[Split] = []
        self.clock = Clock()
        self.obstacle: Obstacle | None = None  # of the last tree

    async def train(
        self, constant: float, watched: bool, course: GuestCourse[TreeDone, PooledTrees]
    ) -> tuple[GuestModel, Floats]:
        """Grow all trees; returns the model and the scores of this client's rows."""
        params, rows, checkpoints = self.params, self.rows, course.checkpoints
        score = constant + (np.zeros(len(rows.label)) if rows.offset is None else rows.offset)
        stops = watched and params.early_stopping_rounds > 0
        trees: list[Tree] = []
        best = (np.inf, 0, score)  # validation loss, trees, score
        if (last := checkpoints.last) is not None:
            if last.score.shape != score.shape:
                raise ValueError("the state of training on other rows")
            trees, self.splits, score = [*last.trees], [*last.splits], last.score
            best = last.best or best
            await self._measure(score, (trees, self.splits))

        for number in range(checkpoints.done, params.trees):
            if stops and is_enough(params, number, best[1]):
                break
            self.clock.seconds.clear()
            clients, before = self.totals.clients, len(self.splits)
            with self.clock.timed(WHOLE):
                tree, score = await self.grow(number, score)
                trees.append(tree)
                loss, validation = await self._measure(score, (tree, self.splits[before:]))
            seconds = dict(self.clock.seconds)
            course.progress(
                TreeDone(number + 1, params.trees, loss or 0.0, validation, seconds, self.obstacle)
            )
            # Losses from before a client was gone are over other rows.
            least = best[0] if self.totals.clients == clients else np.inf
            if stops and validation is not None and validation < least:
                best = (validation, number + 1, score)
            known = best if best[1] else None
            columns, grown, splits = [*self.block.columns], [*trees], [*self.splits]
            state = PooledTrees(
                number + 1, constant, self.row_bits, watched, columns, grown, splits, score, known
            )
            await checkpoints.keep(state)
        if best[1]:
            _, kept, score = best
            trees = trees[:kept]
        return GuestModel((POOLED,), constant, tuple(trees), tuple(self.splits)), score

    async def grow(self, number: int, score: Floats) -> tuple[Tree, Floats]:
        """Grow a tree; returns it and the scores with it."""
        self.obstacle = None
        growth, params = await self._draw(number, score), self.params
        pairs = [_Pair(growth.whole())]
        for level in range(params.depth):
            nodes = [node for pair in pairs for node in pair.nodes]
            if not await self._sum(growth, pairs, f"level {level} of tree {number + 1}"):
                break
            with self.clock.timed("own rows"):
                found = await asyncio.to_thread(self._split, growth, nodes)
            pairs = []
            for pair in found:
                if level + 1 < params.depth and pair.may_split(params.min_child_rows):
                    pairs.append(pair)
                else:
                    growth.leaves += pair.nodes
            if not pairs:
                break
        growth.leaves += [node for pair in pairs for node in pair.nodes]
        return self._tree(growth, score)

    def _tree(self, growth: _Growth, score: Floats) -> tuple[Tree, Floats]:
        """The tree that has grown, and the scores with it."""
        after, weights = score.copy(), dict[int, float]()
        for node in growth.leaves:
            weight = leaf_weight(node.sums, growth.scales, self.params, node.bounds)
            weights[node.number] = weight
            after[node.rows] += weight
        return Tree(growth.branches, weights, growth.covers), after

    async def _draw(self, number: int, score: Floats) -> _Growth:
        """2. The rows of a tree, and their gradients as integers. Raises ConfigError where training
        diverges at any client."""
        rows, params = self.rows, self.params
        with self.clock.timed("own rows"):
            drawn = draw_own_rows(rows.train, params, number, self.name)
            both = await asyncio.to_thread(rows.loss.damped_gradients, score, rows.label, rows.weight)
            bounds = [float(np.abs(values[drawn]).max(initial=0.0)) for values in both]
        diverged = np.array([not bound < DIVERGED for bound in bounds])
        parts = [self.totals.flags(diverged)]
        parts += largest_exponents(self.totals, bounds, _MOST_EXPONENT)
        any_diverged, *largest = await self._total(parts, f"scales of tree {number + 1}")
        if any_diverged.any():
            raise diverges()
        quantisers = [Quantiser.for_exponent(exponent_in(of), self.row_bits) for of in largest]
        with self.clock.timed("own rows"):
            g, h = [
                await asyncio.to_thread(_integers, quantiser, values, drawn)
                for quantiser, values in zip(quantisers, both, strict=True)
            ]
        block = draw_columns(self.block, POOLED, params, number)
        candidates = Candidates.of(block.columns)
        scales = Scales(*(quantiser.scale for quantiser in quantisers))
        return _Growth(block, candidates, drawn, g, h, scales)

    async def _sum(self, growth: _Growth, pairs: Sequence[_Pair], what: str) -> bool:
        """3. The sums of these nodes by cell; False where a client is gone since the level before."""
        step = max(1, _AT_ONCE // (3 * growth.candidates.cells))
        for first in range(0, len(pairs), step):
            part = pairs[first : first + step]
            with self.clock.timed("own rows"):
                own = [await asyncio.to_thread(growth.cells_of, pair.summed.rows) for pair in part]
            (total,) = await self._total([np.concatenate(own).reshape(-1)], what)
            if growth.clients and growth.clients != self.totals.clients:
                return False
            growth.clients = self.totals.clients
            for pair, cells in zip(part, total.reshape(len(part), 3, -1), strict=True):
                self._learn(growth, pair, cells, what)
        return True

    def _learn(self, growth: _Growth, pair: _Pair, cells: Integers, what: str) -> None:
        """The sums of a node and of its sibling. Raises PeerError for those that no rows can have."""
        pair.summed.cells = cells
        if pair.sibling is not None and pair.parent is not None:
            pair.sibling.cells = pair.parent.cells - cells
        else:
            width = growth.candidates.columns[0].bins + 1
            pair.summed.count, *sums = cells[:, :width].sum(axis=1).tolist()
            pair.summed.sums = _sums(*sums)
            growth.covers[pair.summed.number] = pair.summed.count
        for node in pair.nodes:
            self._check(growth, node, what)

    def _check(self, growth: _Growth, node: _Node, what: str) -> None:
        """Raises PeerError for sums that no rows can have."""
        counts, gradient, hessian = node.cells
        most = counts << self.row_bits
        due = [[node.count], [int(node.sums.gradient)], [int(node.sums.hessian)]]
        of_columns = np.add.reduceat(node.cells, growth.candidates.offsets, axis=1)
        if (
            (counts < 0).any()
            or (np.abs(gradient) > most).any()
            or (hessian < 0).any()
            or (hessian > most).any()
            or (of_columns != due).any()
        ):
            raise unfit(what, "its cells do not add up")

    def _split(self, growth: _Growth, nodes: Sequence[_Node]) -> list[_Pair]:
        """4. Split these nodes where that gains; returns the children."""
        candidates = growth.candidates
        cells = np.stack([node.cells for node in nodes], axis=1)
        counts, gradient, hessian = (candidates.left_sums(of_all) for of_all in cells)
        left = [Sums(*of_node) for of_node in zip(gradient, hessian, strict=True)]
        gains = level_gains(
            left,
            [node.sums for node in nodes],
            list(candidates.valid(cells[0], self.params.min_child_rows)),
            growth.scales,
            self.params,
            [node.bounds for node in nodes],
            candidates.ordered,
        )
        pairs = {}
        for place, node in enumerate(nodes):
            choice = best_split([gains[place]])
            if choice is None:
                if node.number == 0:
                    self.obstacle = self._obstacle(growth, node)
                node.cells = _NOTHING
                growth.leaves.append(node)
                continue
            index = choice.candidates[0]
            taken = int(counts[place, index]), left[place].at(index)
            pairs[node.number] = self._take(growth, node, index, choice.gain, taken)
        return [pairs[number] for number in sorted(pairs)]

    def _take(
        self, growth: _Growth, node: _Node, index: int, gain: float, left: tuple[int, Sums]
    ) -> _Pair:
        """Split a node by a candidate; `left`: how many drawn rows of all clients go left, their
        sums."""
        candidates, (count, sums) = growth.candidates, left
        column = int(candidates.column[index])
        first = int(candidates.offsets[column])
        of_column = node.cells[0, first : first + candidates.columns[column].bins + 1]
        missing_left = candidates.sends_missing_left(index, of_column)
        split = candidates.split(index, missing_left)
        growth.branches[node.number] = Branch(0, len(self.splits), split.column, gain)
        self.splits.append(split)

        goes_left = candidates.goes_left(index, growth.block.codes[column, node.rows], missing_left)
        ordered = bool(candidates.ordered[index])
        bounds = child_bounds(ordered, sums, node.sums, node.bounds, growth.scales, self.params)
        number = 2 * node.number
        children = {
            number + 1: _Node(number + 1, node.rows[goes_left], count, sums, bounds[0], _NOTHING),
            number + 2: _Node(
                number + 2,
                node.rows[~goes_left],
                node.count - count,
                node.sums - sums,
                bounds[1],
                _NOTHING,
            ),
        }
        growth.covers |= {child.number: child.count for child in children.values()}
        summed, sibling = pair_of(node.number, count, node.count - count)
        return _Pair(children[summed], children[sibling], node)

    def _obstacle(self, growth: _Growth, root: _Node) -> Obstacle:
        """Why nothing was split at the root."""
        candidates, minimum = growth.candidates, self.params.min_child_rows
        if root.count < 2 * minimum:
            return "min_child_rows"
        gradient, hessian = (candidates.left_sums(of_all[None])[0] for of_all in root.cells[1:])
        if not candidates.valid(root.cells[:1], 1).any():
            return "columns"
        valid = candidates.valid(root.cells[:1], minimum)[0]
        left = Sums(gradient, hessian)
        return obstacle(left, root.sums, valid, growth.scales, self.params, candidates.ordered)

    async def _measure(
        self, score: Floats, held: tuple[object, object]
    ) -> tuple[float | None, float | None]:
        """5. Mean losses of the rows that train and of those that decide when to stop; None without
        any. Raises PeerError where another client holds other trees, or splits, than `held`."""
        own = await asyncio.to_thread(mean_losses, self.rows, score)
        digest = msgspec.msgpack.encode(held)
        parts = [self.totals.same(digest), *map(self.totals.number, own)]
        same, *sums = await self._total(parts, "losses")
        if not self.totals.is_same(same, digest):
            raise PeerError(_NOT_SAME, for_peer="the clients do not hold the same trees")
        train, of_train, validation, of_validation = map(sum_of_words, sums)
        return (
            train / of_train if of_train else None,
            validation / of_validation if of_validation else None,
        )

    async def _total(self, parts: Sequence[Integers], what: str) -> list[Integers]:
        with self.clock.timed("totals"):
            return await self.totals.of(parts, what)
