"""Generalised linear models by L-BFGS whose vectors lie in several blocks, one a party.

The model: g(E y) = o + b0 + X beta with link g, offset o, intercept b0 and the columns X of all
parties. It minimises, as glum and scikit-learn do,

    F(b0, beta) = sum_i w_i d_i / (2 sum_i w_i) + alpha / 2 |beta|^2,    d_i the unit deviance of row i.

The intercept is profiled out: f(beta) = min over b0 of F, whose gradient is X^T r + alpha beta with
r_i = w_i / (sum w) * derivative of d_i / 2 by the score, at the best b0 (where sum r = 0). So a block
need not centre its columns. A block may have another penalty, alpha / 2 beta^T P beta with a P of its
own (shrinkage.py), which is part of its own second derivative.

L-BFGS (Nocedal, Wright, Numerical Optimization, 2006, algorithm 7.4) in its vector-free form (Chen,
Wang, Zhou, NIPS 2014): steps, changes of the gradient and the gradient are only ever combined linearly,
with weights that depend on their inner products alone. Each block keeps its own part of these vectors;
the inner products are sums over blocks.

Each block works in coordinates in which its own part of the second derivative is about the identity
(C = c X^T X / n centred, plus alpha, where c is the order of magnitude of the loss's mean curvature;
beta = C^(-1/2) gamma), which only its owner needs to know of. So L-BFGS starts from the inverse
of the block diagonal of the pooled Gram matrix instead of a multiple of the identity, and correlation
within a block costs no iterations.

The line search is exact: along a direction the scores are linear in the step, so whoever knows the
scores and the labels finds the best step and intercept together without asking anybody.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from vfl.arrays import Floats
from vfl.blocks.means import blocks_of, ordered_sums
from vfl.learn.losses import Loss
from vfl.learn.matrix import Matrix

PAIRS = 10
"""Steps that L-BFGS remembers."""

# Of the line search: Newton steps and halvings of one at most, and the square of the relative precision.
_NEWTON_STEPS, _HALVINGS, _DECREMENT = 50, 40, 1e-20
_ROUNDING = 1e-14  # by which values of the loss differ without being different
_MOSTLY = 2 - math.sqrt(2)  # where the best size of a parabola is beyond it, 1 gains half as much

_APART = 15.0  # predictions or odds that differ from the usual ones by a factor of three million
APART = (
    "some predictions are millions of times others: a column may tell some rows' label without error (a "
    "level without any claim, say), so that its best coefficient is infinite: look at the largest "
    "coefficients, and set alpha above 0 in [glm], raise min_level_rows or join levels"
)
"""What to say of scores that `are_apart`."""

_FLAT = 1e-12  # least eigenvalue of a block's Gram matrix, relative to the greatest


@dataclass(frozen=True)
class BlockReport:
    """What a block tells of its gradient, or several of theirs together: the vectors' inner products in
    the blocks' coordinates, and the gradient's with itself in the coefficients'."""

    products: Floats  # shape (2 k + 1, 2 k + 1) after k steps remembered: steps, changes, gradient
    square: float

    @classmethod
    def total(cls, reports: "Sequence[BlockReport]") -> "BlockReport":
        """What the blocks tell together."""
        return cls(
            sum((report.products for report in reports), start=np.zeros((1, 1))),
            sum(report.square for report in reports),
        )


@dataclass(frozen=True)
class Move:
    """A direction as a block sees it: the change of each row's score, and what the penalty needs."""

    scores: Floats  # X p, shape (rows,)
    linear: float  # beta . P p, where P is the identity without another penalty
    square: float  # p . P p; both times alpha, of jobs with penalties beside alpha's


@dataclass(frozen=True)
class BlockState:
    """What a block knows after it took a gradient, beside its columns; vectors of shape (columns,)."""

    beta: Floats
    known: Floats  # the gradient
    steps: list[Floats]  # oldest first
    changes: list[Floats]


class Block:
    """One party's columns of the rows that train, its coefficients and its part of the history."""

    def __init__(
        self,
        matrix: Matrix,
        alpha: float,
        centred: bool,
        curvature: float = 1.0,
        free: int = 0,
        weighed: bool = False,
    ) -> None:
        """`centred`: whether the model has an intercept outside of the blocks.

        `curvature`: about the mean second derivative of the loss by the score, the same at all blocks.
        The first `free` columns bear no penalty: an intercept inside of this block. `weighed`: whether
        what a move tells for the penalty has alpha in it, as where there are penalties beside alpha's.
        """
        self.matrix = matrix = matrix.held()
        self._free, self._weighed = free, weighed
        self._form: Floats | None = None
        self._curved = curvature * _mean_gram(matrix, centred)
        self.beta = np.zeros(matrix.columns)
        self._penalise(alpha)
        self._steps: deque[Floats] = deque(maxlen=PAIRS)
        self._changes: deque[Floats] = deque(maxlen=PAIRS)
        self._gradient: Floats | None = None
        self.known = np.zeros(matrix.columns)  # the gradient at the present coefficients
        self._direction = self._step = np.zeros(matrix.columns)

    def report(self, product: Floats) -> BlockReport:
        """Take X^T r at the present coefficients, shape (columns,)."""
        return self.take(self.gradient(0.0, product))

    def gradient(self, size: float, product: Floats) -> Floats:
        """The gradient so far along the direction, where X^T r is `product`; shape (columns,)."""
        beta = self.beta + size * (self._to_beta @ self._direction)
        plain = self.matrix.penalty.is_plain
        drawn = self._alpha * beta if plain else self._alpha_form @ beta
        return np.asarray(product + drawn)

    def slope(self, gradient: Floats) -> float:
        """This block's part of the loss's derivative along the direction."""
        return float(gradient @ self._to_beta @ self._direction)

    def take(self, gradient: Floats) -> BlockReport:
        """Take the gradient at the present coefficients, shape (columns,)."""
        self.known = gradient
        whitened = self._to_beta @ gradient
        if self._gradient is not None:
            self._steps.append(self._step)
            self._changes.append(whitened - self._gradient)
        self._gradient = whitened
        vectors = self._vectors()
        with np.errstate(over="ignore", invalid="ignore"):  # who combines them sees that they diverge
            return BlockReport(vectors @ vectors.T, float(gradient @ gradient))

    def begin_anew(self) -> None:
        """Forget the history and keep the coefficients: other blocks join."""
        self._steps.clear()
        self._changes.clear()
        self._gradient = None

    def begin_under(self, alpha: float, *, anew: bool) -> None:
        """Begin a fit under another penalty: from nothing, or from the present coefficients."""
        self.begin_anew()
        self._penalise(alpha)
        if anew:
            self.beta = np.zeros(self.matrix.columns)

    def _penalise(self, alpha: float) -> None:
        columns = self.matrix.columns
        self._alpha = np.where(np.arange(columns) < self._free, 0.0, alpha)
        self._alpha_form = self.matrix.penalised_by(alpha, self._free)
        if self._weighed:
            self._form = self._alpha_form
        elif self.matrix.penalty.shrinkage is not None:
            self._form = self.matrix.penalised(self._free)
        self._to_beta = _inverse_root(self._curved + self._alpha_form)

    def direction(self, weights: Floats) -> Move:
        """The combination of the vectors with these weights, as the next direction."""
        self._direction = weights @ self._vectors()
        p = self._to_beta @ self._direction
        penalised = p if self._form is None else self._form @ p
        return Move(self.matrix.times(p), float(self.beta @ penalised), float(p @ penalised))

    def step(self, size: float) -> None:
        """Go so far along the direction."""
        self._step = size * self._direction
        self.beta = self.beta + self._to_beta @ self._step

    @property
    def coefficients(self) -> Floats:
        """Of the matrix's columns, shape (columns,)."""
        return self.beta

    @property
    def way(self) -> Floats:
        """How coefficients change along the direction, shape (columns,)."""
        return np.asarray(self._to_beta @ self._direction)

    @property
    def root(self) -> Floats:
        """A root of this block's own part of the second derivative, symmetric."""
        return np.asarray(np.linalg.inv(self._to_beta))

    @property
    def state(self) -> BlockState:
        """The block as it is now, after `take`."""
        return BlockState(self.beta, self.known, [*self._steps], [*self._changes])

    def restore(self, state: BlockState) -> BlockReport:
        """Go back to where `state` was taken, as a new block can; returns what it then told of its
        gradient.

        Raises ValueError for the state of a block of other columns.
        """
        vectors = [state.beta, state.known, *state.steps, *state.changes]
        if any(vector.shape != self.beta.shape for vector in vectors):
            raise ValueError("the state of another number of columns")
        if len(state.steps) != len(state.changes):
            raise ValueError("a state whose history is not whole")
        self.beta = state.beta
        self._steps.extend(state.steps)
        self._changes.extend(state.changes)
        return self.take(state.known)

    def _vectors(self) -> Floats:
        if self._gradient is None:
            raise ValueError("a block without a gradient")
        return np.array([*self._steps, *self._changes, self._gradient])


def _mean_gram(matrix: Matrix, centred: bool) -> Floats:
    """X^T X / n, shape (columns, columns), of centred columns if the constant is elsewhere."""
    gram = matrix.gram() / matrix.rows
    if centred:
        mean = matrix.transposed_times(np.ones(matrix.rows)) / matrix.rows
        gram -= np.outer(mean, mean)
    return gram


def _inverse_root(matrix: Floats) -> Floats:
    """C^(-1/2), shape (columns, columns)."""
    values, vectors = np.linalg.eigh(matrix)
    # Where columns are all but dependent, rounding decides the eigenvalue: the search does the rest.
    values = np.maximum(values, _FLAT * max(values.max(initial=0.0), 1e-300))
    root: Floats = (vectors / np.sqrt(values)) @ vectors.T
    return root


def combination(products: Floats) -> Floats:
    """The weights of the vectors in the direction of L-BFGS, shape (2 k + 1,).

    products: inner products of k steps, k changes (oldest first) and the gradient. A pair that tells of
    no positive curvature, which rounding can make, is left out.
    """
    k = len(products) // 2
    weights = np.zeros(len(products))
    weights[-1] = -1.0
    curvature = products[range(k), range(k, 2 * k)]
    size = products[range(k, 2 * k), range(k, 2 * k)]
    usable = [j for j in range(k) if curvature[j] > 1e-14 * np.sqrt(products[j, j] * size[j])]
    alphas = np.zeros(k)
    for j in reversed(usable):
        alphas[j] = weights @ products[j] / curvature[j]
        weights[k + j] -= alphas[j]
    if usable:
        newest = usable[-1]
        weights *= curvature[newest] / size[newest]
    for j in usable:
        weights[j] += alphas[j] - weights @ products[k + j] / curvature[j]
    return weights


@dataclass
class Scores:
    """The rows that train, as the guest knows them: label, weight, score. Arrays of shape (rows,)."""

    loss: Loss
    label: Floats
    weight: Floats
    score: Floats  # offset, intercept and the parts of all parties
    intercept: float
    change: float = np.inf  # of any row's score by the last step

    @classmethod
    def start(
        cls, loss: Loss, label: Floats, weight: Floats, offset: Floats, fit_intercept: bool
    ) -> "Scores":
        """The model without any column."""
        intercept = loss.start(label, weight, offset) if fit_intercept else 0.0
        same = offset.strides == (0,)  # for all rows, which takes no room
        score = np.broadcast_to(offset[:1] + intercept, offset.shape) if same else offset + intercept
        return cls(loss, label, weight, score, intercept)

    def residuals(self) -> Floats:
        """The residuals r, shape (rows,)."""
        residuals, total = np.empty(len(self.score)), self.weight.sum()
        for out, *own in blocks_of(residuals, self.score, self.label, self.weight):
            np.divide(self.loss.gradients(*own)[0], total, out=out)
        return residuals

    def curvature(self) -> float:
        """The mean second derivative of the loss by the score, rounded to a power of two."""
        own = blocks_of(self.score, self.label, self.weight)
        hessians = ((self.loss.gradients(*some)[1],) for some in own)
        mean = float(ordered_sums(hessians, len(self.score))[0] / self.weight.sum())
        return 2.0 ** round(math.log2(mean)) if 0 < mean < math.inf else 1.0

    def deviance(self) -> float:
        """Mean unit deviance, weighted."""
        return self.loss.deviance(self.score, self.label, self.weight)

    def go(self, move: Move, alpha: float, fit_intercept: bool, *, bounded: bool = False) -> float:
        """Take the best step along a direction, with the best intercept, and return its size.

        `move` is the sum over all parties. `bounded`: the size is from 0 to 1, and is 1 where that gains
        half as much as the best.
        """
        size, constant = self._best(move, alpha, fit_intercept)
        if bounded:
            size, constant = self._bounded(size, constant, move, alpha, fit_intercept)
        moved, changes = np.empty_like(move.scores), [0.0]  # rows are many
        for out, score, way in blocks_of(moved, self.score, move.scores):
            np.add(score + size * way, constant, out=out)
            changes.append(np.abs(size * way + constant).max(initial=0.0))
        self.score = moved
        self.intercept += constant
        self.change = float(np.max(changes))
        return size

    def best_size(self, move: Move, alpha: float, fit_intercept: bool) -> float:
        """The size of the best step along a direction, without taking it."""
        return self._best(move, alpha, fit_intercept)[0]

    def _best(self, move: Move, alpha: float, fit_intercept: bool) -> tuple[float, float]:
        """The best size of a step, and the best constant beside it.

        Newton's method in both, which are two numbers of a convex function, halved until it gets better.
        """
        size = constant = 0.0
        value = self._value(size, constant, move, alpha)
        total, d = float(self.weight.sum()), move.scores
        g, h = np.empty_like(d), np.empty_like(d)
        for _ in range(_NEWTON_STEPS):
            for to_g, to_h, score, way, *own in blocks_of(g, h, self.score, d, self.label, self.weight):
                to_g[:], to_h[:] = self.loss.gradients(score + size * way + constant, *own)
            slope = float(g @ d) / total + alpha * (move.linear + size * move.square)
            slope0, curvature0 = float(g.sum()) / total, float(h.sum()) / total
            # The two equations of a Newton step, the constant's solved for first.
            mixed = float(h @ d) / total if fit_intercept else 0.0
            h *= d
            curvature = float(h @ d) / total + alpha * move.square
            along = _ratio(
                mixed * _ratio(slope0, curvature0) - slope, curvature - mixed * _ratio(mixed, curvature0)
            )
            across = -_ratio(slope0 + mixed * along, curvature0) if fit_intercept else 0.0
            for scale in 0.5 ** np.arange(_HALVINGS):
                at = size + float(scale) * along, constant + float(scale) * across
                after = self._value(*at, move, alpha)
                # Near the best point values differ by rounding alone, and the gradient knows better.
                if after <= value + _ROUNDING * abs(value):
                    break
            else:
                break
            (size, constant), value = at, after
            if -slope * along - slope0 * across <= _DECREMENT * max(1.0, abs(value)):
                break
        return size, constant

    def _bounded(
        self, size: float, constant: float, move: Move, alpha: float, fit_intercept: bool
    ) -> tuple[float, float]:
        """The size from 0 to 1 that is gone where `size` is the best, and the best constant."""
        if not size > 0:
            return 0.0, 0.0
        start, best = (self._value(*at, move, alpha) for at in ((0.0, 0.0), (size, constant)))
        moved = replace(self, score=self.score + move.scores)
        _, beside = moved._best(Move(np.zeros_like(self.score), 0.0, 0.0), alpha, fit_intercept)
        whole, rounding = self._value(1.0, beside, move, alpha), _ROUNDING * abs(start)
        if whole <= start + rounding if size >= _MOSTLY else whole + rounding <= (start + best) / 2:
            return 1.0, beside
        return (size, constant) if size < 1 else (0.0, 0.0)

    def distance(self, score: Floats) -> float:
        """The most that any score is away from another one."""
        apart = (np.abs(own - other).max(initial=0.0) for own, other in blocks_of(self.score, score))
        return float(np.max([0.0, *apart]))

    def _value(self, size: float, constant: float, move: Move, alpha: float) -> float:
        given = blocks_of(self.score, move.scores, self.label, self.weight)
        moved = ((score + size * way + constant, *own) for score, way, *own in given)
        penalty = alpha * (size * move.linear + size * size * move.square / 2)
        return self.loss.mean_of(moved, len(self.score)) + penalty


def are_apart(scores: Floats, loss: Loss, alpha: float) -> bool:
    """Whether some scores, without offset, lie so far off that a coefficient may have no finite best.

    A level without any claim has none without a penalty: the search ends where its last claim in a
    million is rounding. Scores of an identity link have no measure of far.
    """
    if alpha > 0 or loss.link == "identity" or not len(scores):
        return False
    median = np.median(scores)
    return float(max(scores.max() - median, median - scores.min())) > _APART


def _ratio(a: float, b: float) -> float:
    """a / b, and no step at all where there is no curvature."""
    return a / b if b > 0 else 0.0
