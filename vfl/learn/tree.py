"""Trees: which split is best, what a leaf weighs, where each row goes.

Gain, leaf weight and regularisation as in XGBoost (Chen and Guestrin, KDD 2016, equations 5 to 7).
Monotone constraints as LightGBM's `monotone_constraints_method = "basic"`: where a split orders its
children, the middle of their weights bounds all leaves below them; a side gains what its weight within
bounds gains. Nodes are numbered as in a heap: the children of i are 2 i + 1 (left) and 2 i + 2 (right).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats, Integers
from vfl.learn.losses import Scales
from vfl.learn.params import BoostParams

# A gain below this is rounding.
_LEAST_GAIN = 1e-10
_AT_ONCE = 1 << 18  # gains that are computed together

Obstacle = Literal[
    "columns", "label", "min_child_rows", "min_child_weight", "reg_lambda", "monotone", "gamma"
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


def _score(gradient: Floats, hessian: Floats, reg_lambda: float) -> Floats:
    denominator = hessian + reg_lambda
    safe = np.where(denominator > 0, denominator, 1.0)
    return np.where(denominator > 0, gradient * gradient / safe, 0.0)


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
    return np.where(denominator > 0, -params.learning_rate * gradient / safe, 0.0)


def _score_of(weight: Floats, gradient: Floats, hessian: Floats, params: BoostParams) -> Floats:
    """Twice the loss that a side saves by a weight that need not be its best."""
    output = weight / params.learning_rate
    return -(2 * gradient + (hessian + params.reg_lambda) * output) * output


def gains(
    left: Sums,
    node: Sums,
    valid: NDArray[np.bool_],
    scales: Scales,
    params: BoostParams,
    bounds: Bounds = FREE,
    ordered: NDArray[np.bool_] | None = None,
) -> Floats:
    """The gain of each candidate; -inf where it may not be taken.

    Children weigh what `bounds`, the node's, allow; the left of an `ordered` candidate not more than its
    right. The node itself counts with its best weight, be it within bounds or not, as in LightGBM.
    """
    low, high = np.asarray(bounds.low), np.asarray(bounds.high)
    return _gains(left, node, valid, scales, params, (low, high), ordered)


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
) -> Floats:
    g, h = node.gradient / scales.gradient, node.hessian / scales.hessian
    g_left, h_left = left.gradient / scales.gradient, left.hessian / scales.hessian
    g_right, h_right = g - g_left, h - h_left
    weights, scores = [], []
    for gradient, hessian in ((g_left, h_left), (g_right, h_right)):
        best = _weight(gradient, hessian, params)
        weight = np.clip(best, *bounds)
        score = _score(gradient, hessian, params.reg_lambda)
        weights.append(weight)
        scores.append(np.where(weight == best, score, _score_of(weight, gradient, hessian, params)))
    whole = _score(np.asarray(g), np.asarray(h), params.reg_lambda)
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
        ("reg_lambda", {**free, "reg_lambda": 0.0}, False),
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
    """Where every row of a growing tree is, and the pairs of nodes of the current level.

    Guest and hosts each keep one; both follow the same rule for which child is summed.
    """

    node_of_row: Integers  # every aligned row
    active: NDArray[np.bool_]  # rows whose gradients count in this tree
    pairs: list[tuple[int, int | None]] = field(default_factory=lambda: [(0, None)])

    def advance(self, split: list[int], left: NDArray[np.bool_]) -> None:
        """Split these nodes of the level; `left` says for each row of them where it goes.

        The pairs become (summed child, its sibling).
        """
        inside = np.isin(self.node_of_row, split)
        step = np.where(left[inside], 1, 2)
        self.node_of_row[inside] = 2 * self.node_of_row[inside] + step
        counts = np.bincount(self.node_of_row[self.active], minlength=2 * max(split, default=0) + 3)
        self.pairs = [pair_of(n, int(counts[2 * n + 1]), int(counts[2 * n + 2])) for n in split]

    @property
    def nodes(self) -> list[int]:
        """The open nodes, in pairs, the summed child of each first."""
        return [node for pair in self.pairs for node in pair if node is not None]

    def covers(self) -> dict[int, int]:
        """How many active rows each open node has."""
        counts = np.bincount(self.node_of_row[self.active], minlength=max(self.nodes, default=0) + 1)
        return {node: int(counts[node]) for node in self.nodes}

    def inside(self, node: int) -> NDArray[np.bool_]:
        """Which rows are in the node, active or not."""
        return np.asarray(self.node_of_row == node)

    def slots(self, nodes: list[int]) -> Integers:
        """For each row the position of its node in `nodes`, -1 outside or inactive."""
        table = np.full(max(int(self.node_of_row.max(initial=0)), *nodes) + 1, -1, np.int64)
        table[nodes] = np.arange(len(nodes))
        return np.where(self.active, table[self.node_of_row], -1)


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
