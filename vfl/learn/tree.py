"""Trees: which split is best, what a leaf weighs, where each row goes.

Gain, leaf weight and regularisation as in XGBoost (Chen and Guestrin, KDD 2016, equations 5 to 7; its
`reg_alpha`, LightGBM's `lambda_l1`, takes its number off the size of every sum of gradients).
Monotone constraints as LightGBM's `monotone_constraints_method = "basic"`: where a split orders its
children, the middle of their weights bounds all leaves below them; a side gains what its weight within
bounds gains. Nodes are numbered as in a heap: the children of i are 2 i + 1 (left) and 2 i + 2 (right).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats, Integers
from vfl.blocks.engine import ENGINE, Rows
from vfl.kernels import is_compiled, kernel
from vfl.learn.best_first import level_of
from vfl.learn.params import BoostParams
from vfl.learn.quantiser import Scales

# A gain below this is rounding.
_LEAST_GAIN = 1e-10
_AT_ONCE = 1 << 18  # gains that are computed together

MANY = 1 << 16
"""Rows of a block for which it pays to compile a kernel."""

Nodes = NDArray[np.signedinteger]
"""Numbers of nodes."""

Obstacle = Literal[
    "columns",
    "label",
    "min_child_rows",
    "min_child_weight",
    "reg_lambda",
    "reg_alpha",
    "monotone",
    "gamma",
]
"""Why a node has no split. "columns": there is no candidate, as of columns with one bin; "label": none
tells anything about it; else the setting, or the constraints, that stopped those that came furthest."""
_OBSTACLES: tuple[Obstacle, ...] = get_args(Obstacle)


@dataclass(frozen=True, eq=False)
class Sums:
    """Quantised gradient and hessian sums; scalars of a node or arrays of candidates."""

    gradient: Integers
    hessian: Integers

    def __sub__(self, other: "Sums") -> "Sums":
        return Sums(self.gradient - other.gradient, self.hessian - other.hessian)

    def equals(self, other: "Sums") -> bool:
        """Whether both are the same, entry by entry."""
        return np.array_equal(self.gradient, other.gradient) and np.array_equal(
            self.hessian, other.hessian
        )

    def at(self, index: NDArray[np.bool_] | Integers | int) -> "Sums":
        """The sums at an index, indices or a mask."""
        return Sums(np.asarray(self.gradient[index]), np.asarray(self.hessian[index]))


def _shrunk(gradient: Floats, params: BoostParams) -> Floats:
    """The gradient sums, nearer to 0 by the L1 penalty."""
    if not params.reg_alpha:
        return gradient
    return np.sign(gradient) * np.maximum(np.abs(gradient) - params.reg_alpha, 0.0)


def _score(gradient: Floats, hessian: Floats, params: BoostParams) -> Floats:
    denominator, shrunk = hessian + params.reg_lambda, _shrunk(gradient, params)
    safe = np.where(denominator > 0, denominator, 1.0)
    return np.where(denominator > 0, shrunk * shrunk / safe, 0.0)


@dataclass(frozen=True)
class Bounds:
    """Where the weights of all leaves below a node must be."""

    low: float = -math.inf
    high: float = math.inf

    def below(self, left: float, right: float) -> tuple["Bounds", "Bounds"]:
        """The bounds of the two children when no leaf on the left may weigh more than one on the right.

        `left` and `right` are the children's own weights, within these bounds and in order.
        """
        middle = (left + right) / 2
        return Bounds(self.low, middle), Bounds(middle, self.high)


FREE = Bounds()


def _weight(gradient: Floats, hessian: Floats, params: BoostParams) -> Floats:
    """The best weight, whatever its bounds."""
    denominator = hessian + params.reg_lambda
    safe = np.where(denominator > 0, denominator, 1.0)
    return np.where(denominator > 0, -params.learning_rate * _shrunk(gradient, params) / safe, 0.0)


def _score_of(weight: Floats, gradient: Floats, hessian: Floats, params: BoostParams) -> Floats:
    """Twice the loss that a side saves by a weight that need not be its best."""
    output = weight / params.learning_rate
    saved = -(2 * gradient + (hessian + params.reg_lambda) * output) * output
    return saved - 2 * params.reg_alpha * np.abs(output) if params.reg_alpha else saved


def gains(
    left: Sums,
    node: Sums,
    valid: NDArray[np.bool_],
    scales: Scales,
    params: BoostParams,
    bounds: Bounds = FREE,
    ordered: NDArray[np.bool_] | None = None,
    sides: BoostParams | None = None,
) -> Floats:
    """The gain of each candidate; -inf where it may not be taken. `sides`: other settings for the
    weights of both sides.

    Children weigh what `bounds`, the node's, allow; the left of an `ordered` candidate not more than its
    right. The node itself counts with its best weight, be it within bounds or not, as in LightGBM.
    """
    low, high = np.asarray(bounds.low), np.asarray(bounds.high)
    return _gains(left, node, valid, scales, params, (low, high), ordered, sides)


def level_gains(
    left: Sequence[Sums],
    nodes: Sequence[Sums],
    valid: Sequence[NDArray[np.bool_]],
    scales: Scales,
    params: BoostParams,
    bounds: Sequence[Bounds],
    ordered: NDArray[np.bool_],
) -> Floats:
    """`gains` of the same candidates in each of several nodes, shape (nodes, candidates)."""
    out = np.empty((len(nodes), len(ordered)))
    step = max(1, _AT_ONCE // max(1, len(ordered)))
    for first in range(0, len(nodes), step):
        part = slice(first, first + step)
        low = np.array([[own.low] for own in bounds[part]])
        high = np.array([[own.high] for own in bounds[part]])
        out[part] = _gains(
            _stacked(left[part]),
            _stacked(
                [Sums(total.gradient.reshape(1), total.hessian.reshape(1)) for total in nodes[part]]
            ),
            np.stack(valid[part]),
            scales,
            params,
            (low, high),
            ordered,
        )
    return out


def _stacked(sums: Sequence[Sums]) -> Sums:
    return Sums(np.stack([one.gradient for one in sums]), np.stack([one.hessian for one in sums]))


def _gains(
    left: Sums,
    node: Sums,
    valid: NDArray[np.bool_],
    scales: Scales,
    params: BoostParams,
    bounds: tuple[Floats, Floats],
    ordered: NDArray[np.bool_] | None,
    sides: BoostParams | None = None,
) -> Floats:
    g, h = node.gradient / scales.gradient, node.hessian / scales.hessian
    g_left, h_left = left.gradient / scales.gradient, left.hessian / scales.hessian
    g_right, h_right = g - g_left, h - h_left
    weights, scores = [], []
    by = params if sides is None else sides
    for gradient, hessian in ((g_left, h_left), (g_right, h_right)):
        best = _weight(gradient, hessian, by)
        weight = np.clip(best, *bounds)
        score = _score(gradient, hessian, by)
        weights.append(weight)
        scores.append(np.where(weight == best, score, _score_of(weight, gradient, hessian, by)))
    whole = _score(np.asarray(g), np.asarray(h), params)
    gain = 0.5 * (scores[0] + scores[1] - whole)
    in_order = weights[0] <= weights[1]
    allowed = (
        valid
        & (True if ordered is None else ~ordered | in_order)
        & (h_left >= params.min_child_weight)
        & (h_right >= params.min_child_weight)
        & (gain > max(params.gamma, _LEAST_GAIN))
    )
    return np.where(allowed, gain, -np.inf)


def obstacle(
    left: Sums,
    node: Sums,
    valid: NDArray[np.bool_],
    scales: Scales,
    params: BoostParams,
    ordered: NDArray[np.bool_] | None = None,
) -> Obstacle:
    """Why `gains` allows none of these candidates, without bounds."""
    if not len(valid):
        return "columns"
    if not valid.any():
        return "min_child_rows"
    free = {"gamma": 0.0, "min_child_weight": 0.0}
    looser: list[tuple[Obstacle, dict[str, float], bool]] = [
        ("gamma", {"gamma": 0.0}, True),
        ("monotone", {"gamma": 0.0}, False),
        ("min_child_weight", free, False),
        ("reg_alpha", {**free, "reg_alpha": 0.0}, False),
        ("reg_lambda", {**free, "reg_alpha": 0.0, "reg_lambda": 0.0}, False),
    ]
    for stopped_by, without, in_order in looser:
        held = gains(
            left,
            node,
            valid,
            scales,
            params.model_copy(update=without),
            ordered=ordered if in_order else None,
        )
        if (held > -np.inf).any():
            return stopped_by
    return "label"


def leaf_weight(node: Sums, scales: Scales, params: BoostParams, bounds: Bounds = FREE) -> float:
    """The score that a leaf adds to its rows."""
    g, h = node.gradient / scales.gradient, node.hessian / scales.hessian
    return float(np.clip(_weight(np.asarray(g), np.asarray(h), params), bounds.low, bounds.high))


def child_bounds(
    ordered: bool, left: Sums, total: Sums, bounds: Bounds, scales: Scales, params: BoostParams
) -> tuple[Bounds, Bounds]:
    """Where the weights below the two children of a node must be, by the sums of the left one.

    `ordered`: whether the left must not score higher. `bounds`: of the node.
    """
    if not ordered:
        return bounds, bounds
    weights = [leaf_weight(sums, scales, params, bounds) for sums in (left, total - left)]
    return bounds.below(*weights)


def furthest(obstacles: Iterable[Obstacle]) -> Obstacle:
    """What stopped the candidates that came furthest, of all parties'."""
    return max(obstacles, key=_OBSTACLES.index, default="columns")


@dataclass(frozen=True)
class Choice:
    """The best split of a node: whose it is, and that party's candidates of equal gain."""

    party: int
    candidates: tuple[int, ...]
    gain: float


def best_split(gains_by_party: list[Floats]) -> Choice | None:
    """The highest gain; of equal ones the lowest party's. None when no candidate is allowed."""
    best: Choice | None = None
    for party, values in enumerate(gains_by_party):
        if not len(values):
            continue
        top = float(values.max())
        if top > -np.inf and (best is None or top > best.gain):
            ties = tuple(np.flatnonzero(values == top).tolist())
            best = Choice(party, ties, top)
    return best


def pair_of(node: int, left: int, right: int) -> tuple[int, int]:
    """The children of a node that has so many active rows on each side: the one that is summed, which
    is the one with fewer of them, else the left, and its sibling."""
    children = 2 * node + 1, 2 * node + 2
    return children if left <= right else children[::-1]


@dataclass
class Frontier:
    """Where every row of a growing tree is, and the pairs of nodes that the last splits made.

    Those of a level, or where a tree grows best-first of any levels. Guest and hosts each keep one; both
    follow the same rule for which child is summed.
    """

    node_of_row: Rows  # every aligned row
    active: Rows  # rows whose gradients count in this tree
    pairs: list[tuple[int, int | None]] = field(default_factory=lambda: [(0, None)])
    depth: int | None = None
    """Levels of splits of a tree that grows best-first; None of one that grows level by level."""
    waiting: set[int] = field(default_factory=set)
    """Best-first: nodes of earlier splits that may be split still."""
    leaves: list[int] = field(default_factory=list)
    """Best-first: nodes that the last splits made too deep to be split."""
    _most: int = 0  # no row is in a node of a greater number
    _by_block: list[Integers] | None = None  # how many rows each node has in each block
    _counts: Integers | None = None  # how many active rows each node has

    def advance(
        self, split: list[int], left: Rows, count: Callable[[int], Integers] | None = None
    ) -> None:
        """Split these open nodes; `left` says for each row of them where it goes.

        The pairs become (summed child, its sibling). `count`: as of `count_by`, once rows are in the
        new nodes.
        """
        splits = np.zeros(max(self._most, *split, 0) + 1, np.bool_)
        splits[split] = True
        self.node_of_row = ENGINE.make(partial(moved, splits), self.node_of_row, left)
        self._most = max(self._most, 2 * max(split, default=-1) + 2)
        self._by_block = self._counts = None
        if count is not None:
            self.count_by(count)
        counts, depth = self._active_rows(), self.depth
        if depth is not None:
            self.waiting = (self.waiting | {*self.nodes}) - {*split}
            deep = [node for node in split if level_of(node) + 1 >= depth]
            self.leaves = [2 * node + side for node in deep for side in (1, 2)]
            split = [node for node in split if level_of(node) + 1 < depth]
        self.pairs = [pair_of(n, int(counts[2 * n + 1]), int(counts[2 * n + 2])) for n in split]

    @property
    def nodes(self) -> list[int]:
        """The nodes that the last splits made and that may be split, in pairs, the summed child of each
        first."""
        return [node for pair in self.pairs for node in pair if node is not None]

    def covers(self) -> dict[int, int]:
        """How many active rows each node has that the last splits made."""
        counts = self._active_rows()
        return {node: int(counts[node]) for node in (*self.nodes, *self.leaves)}

    def count_by(self, count: Callable[[int], Integers]) -> None:
        """Have something else count the active rows of so many nodes."""
        self._counts = count(self._most + 1)

    def _active_rows(self) -> Integers:
        """How many active rows each node has."""
        if self._counts is None:
            kernel = partial(_count_active, self._most + 1)
            self._counts = ENGINE.total(kernel, self.node_of_row, self.active)
        return self._counts

    def by_block(self, node: int) -> list[int]:
        """How many rows each block has in a node, active or not."""
        if self._by_block is None:
            self._by_block = [*ENGINE.results(partial(_count, self._most + 1), self.node_of_row)]
        return [int(counts[node]) for counts in self._by_block]

    @property
    def drawn(self) -> NDArray[np.bool_]:
        """The active rows, here, as the following."""
        return np.asarray(ENGINE.gather(self.active), np.bool_)

    def inside(self, node: int) -> NDArray[np.bool_]:
        """Which rows are in the node, active or not."""
        return np.asarray(ENGINE.gather(self.node_of_row) == node)

    def slots(self, nodes: list[int]) -> Integers:
        """For each row the position of its node in `nodes`, -1 outside or inactive."""
        node_of_row = cast(Nodes, ENGINE.gather(self.node_of_row))
        return slots_of(self.slot_of_node(nodes), node_of_row, self.drawn)

    def slot_of_node(self, nodes: list[int]) -> Integers:
        """For the number of each node its position in `nodes`, -1 outside."""
        table = np.full(max([self._most, *nodes]) + 1, -1, np.int64)
        table[nodes] = np.arange(len(nodes))
        return table


def slots_of(table: Integers, node_of_row: Nodes, active: NDArray[np.bool_]) -> Integers:
    """For each row what `slot_of_node` has for its node, -1 where it is inactive."""
    return np.where(active, table[node_of_row], -1)


def moved(is_split: NDArray[np.bool_], node: Nodes, goes_left: NDArray[np.bool_]) -> Nodes:
    """The node of each row after some are split. `is_split`: by node."""
    if len(node) >= MANY or is_compiled(_move):
        out = np.empty_like(node)
        _move(is_split, node, goes_left, out)
        return out
    below = 2 * node + 2 - goes_left
    return np.where(is_split[node], below, node).astype(node.dtype)


@kernel
def _move(is_split: NDArray[np.bool_], node: Nodes, goes_left: NDArray[np.bool_], out: Nodes) -> None:
    for row in range(len(node)):
        own = node[row]
        out[row] = 2 * own + 2 - goes_left[row] if is_split[own] else own


def _count(size: int, node: Nodes) -> Integers:
    return np.bincount(node, minlength=size)


def _count_active(size: int, node: Nodes, active: NDArray[np.bool_]) -> Integers:
    return np.bincount(node[active], minlength=size)


@dataclass(frozen=True)
class Branch:
    """An inner node: whose split it is (0 is the guest) and its record in that party's half."""

    party: int
    record: int
    column: str  # as its owner permits it to be shown
    gain: float


@dataclass(frozen=True)
class Tree:
    """The shape of a tree and its leaf weights, which stay with the guest.

    `covers` counts, for every node, inner or leaf, the rows drawn for the tree that are in it; with GOSS
    each counts once. It is empty in models of versions that did not keep it.
    """

    branches: dict[int, Branch]
    leaves: dict[int, float]
    covers: dict[int, int] = field(default_factory=dict)

    def weights(self) -> Floats:
        """The weight of each node by number; 0 where it is no leaf."""
        weights = np.zeros(max(self.leaves) + 1)
        weights[list(self.leaves)] = list(self.leaves.values())
        return weights
