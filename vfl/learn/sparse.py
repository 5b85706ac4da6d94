"""A block of columns under an elastic net, whose coefficients become exactly zero.

What is minimised is, with glum's names, the objective of glm.py with the penalty

    alpha (l1_ratio |beta|_1 + (1 - l1_ratio) / 2 |beta|^2),

which has a kink wherever a coefficient is zero. Let g be the gradient of all but the first part, and
v the pseudo-gradient: the shortest of what the whole objective has in place of a gradient (Andrew, Gao,
ICML 2007). Columns with a coefficient or a v other than zero are free in an iteration, the others stay
at zero. As long as no sign changes, the objective is smooth in the free ones: so L-BFGS of glm.py
combines the free parts of steps and changes of g, and v in the gradient's place. As there, inner
products are by the block's own part C of the second derivative, here of the free columns.

The direction p that comes of it would take some coefficients across their kinks. So each block ends
its part where its own model has the least value without doing so: with the signs s that v was by,

    least over w of (w - beta - p)' C (w - beta - p) / 2    where w is zero or has the signs s,

by coordinate descent, with exact zeros among w. It is beta + p where no sign changes. Without a history
this always leads down: it is the least of a model that has the objective's slope at beta.

From beta to w the penalty is a straight line and a parabola. So whoever knows the scores needs two
numbers of each block, as without kinks, and finds the best step from 0 to 1; coefficients become zero by
whole steps, which are taken where they gain half as much as the best (Scores.go). Blocks do not know of
each other's ends: where the best step is short, a shorter p by the same gradient fits together better,
and where it is long, a longer one goes on beyond 1. A direction that leads up is not gone, and the next
one is without a history.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vfl.arrays import Floats, Integers
from vfl.kernels import kernel
from vfl.learn.glm import Block, BlockReport, Move, combination
from vfl.learn.matrix import Matrix
from vfl.learn.params import GlmParams

DIRECTIONS = 4
"""Of an iteration at most."""

_SHORT, _LONG = 0.2, 2.0  # best sizes at which another direction is better than a step
_SHORTER, _LONGER = 0.2, 10.0  # by how much that is

_FLOOR = 1e-8  # of C's diagonal relative to its greatest: columns may depend on each other
_SWEEPS = 1000  # of coordinate descent at most
_SMALL = 1e-20  # square of a change, relative to the direction's, below which sweeps end


def block_of(matrix: Matrix, params: GlmParams, curvature: float) -> Block:
    """A block of columns beside which there is an intercept, if there is one, under the penalty."""
    given = matrix, params.alpha, params.fit_intercept, curvature
    if not params.l1_ratio:
        return Block(*given, weighed=params.credibility)
    steps_alone = params.l1_on == "steps"
    return SparseBlock(*given, params.l1_ratio, steps_alone=steps_alone, weighed=params.credibility)


@dataclass(frozen=True)
class _Open:
    """The columns whose coefficients may change in an iteration."""

    columns: Integers  # their places
    signs: Floats  # of their coefficients, or of what these will be; 0 where there is no kink
    gradient: Floats  # the pseudo-gradient
    metric: Floats  # C of them
    to_white: Floats  # the transpose of its lower root
    to_beta: Floats  # the inverse of that


class SparseBlock(Block):
    """One party's columns under a penalty on the sum of magnitudes as well.

    What is called beta and gradient here is by steps for columns that are fitted by them (steps.py).
    """

    def __init__(
        self,
        matrix: Matrix,
        alpha: float,
        centred: bool,
        curvature: float,
        l1_ratio: float,
        *,
        steps_alone: bool = False,
        weighed: bool = False,
    ) -> None:
        """`steps_alone`: whether magnitudes of steps alone are penalised; the rest as of `Block`."""
        self._l1_ratio = l1_ratio
        own, self._by = matrix.penalty, matrix.penalty.steps
        self._kinks = np.ones(matrix.columns)
        if steps_alone:
            self._kinks = self._by.of(matrix.columns).astype(np.float64)
        if own.credible is not None:
            self._kinks[np.diag(own.credible) > 0] = 0.0
        self._plain = own.shrinkage is None and own.credible is None
        super().__init__(matrix, alpha, centred, curvature, weighed=weighed)
        self.alone = set[int]()
        """Places of columns of which alone a direction was made: whose values its scores are, times a
        number."""
        self._found: _Open | None = None
        self._way = self._target = self.beta

    @property
    def coefficients(self) -> Floats:
        return self._by.coefficients(self.beta)

    def report(self, product: Floats) -> BlockReport:
        drawn = self._ridge * self.beta if self._plain else self._ridge_form @ self.beta
        return self.take(self._by.gradient(product) + drawn)

    def take(self, gradient: Floats) -> BlockReport:
        """Take the gradient of all but the kinks at the present coefficients, shape (columns,)."""
        self.known = gradient
        if self._gradient is not None:
            self._steps.append(self._step)
            self._changes.append(gradient - self._gradient)
        self._gradient = gradient
        self._found = free = self._find_open(gradient)
        vectors = self._vectors()
        with np.errstate(over="ignore", invalid="ignore"):
            return BlockReport(vectors @ vectors.T, float(free.gradient @ free.gradient))

    def direction(self, weights: Floats) -> Move:
        """Where the combination of the vectors with these weights leads as far as no coefficient changes
        its sign."""
        free = self._open
        p = free.to_beta @ (weights @ self._vectors())
        beta = self.beta[free.columns]
        # The way is not the difference of its ends, which has fewer digits.
        way, ends = p.copy(), beta + p
        if (ends * free.signs < 0).any():
            least = _SMALL * float(np.square(free.to_white @ p).sum())
            _descend(free.metric, free.metric @ p, beta, free.signs, way, least, _SWEEPS)
            ends = np.where(way == -beta, 0.0, beta + way)
        self._way, self._target = np.zeros(len(self.beta)), np.zeros(len(self.beta))
        self._way[free.columns], self._target[free.columns] = way, ends
        if len(moved := free.columns[way != 0]) == 1:
            self.alone.add(int(moved[0]))
        scores = self.matrix.times(self._by.coefficients(self._way))
        magnitudes = float(free.signs @ way)
        if not self._plain:
            drawn = self._ridge_form @ self._way
            unit = 1.0 if self._weighed else 1 / self._alpha_now
            linear = unit * (float(self.beta @ drawn) + self._lasso_now * magnitudes)
            return Move(scores, linear, unit * float(self._way @ drawn))
        ratio, unit = self._l1_ratio, self._alpha_now if self._weighed else 1.0
        linear = unit * ((1 - ratio) * float(beta @ way) + ratio * magnitudes)
        return Move(scores, linear, unit * ((1 - ratio) * float(way @ way)))

    def step(self, size: float) -> None:
        self._step = size * self._way
        self.beta = self._target if size == 1 else self.beta + self._step

    @property
    def root(self) -> Floats:
        raise ValueError("a penalty with kinks has no second derivative")

    def _penalise(self, alpha: float) -> None:
        self._alpha_now, self._lasso_now = alpha, alpha * self._l1_ratio
        self._lasso, self._ridge = self._lasso_now * self._kinks, alpha * (1 - self._l1_ratio)
        curved = self._by.form(self._curved)
        if not self._plain:
            self._ridge_form = self._by.form(self.matrix.penalised_by(self._ridge))
            curved, ridge = curved + self._ridge_form, 0.0
        else:
            ridge = self._ridge
        diagonal = np.diag(curved) + ridge
        floor = _FLOOR * max(float(diagonal.max(initial=0.0)), 1e-300)
        self._metric = curved + np.diag(np.full(len(diagonal), ridge + floor))

    @property
    def _open(self) -> _Open:
        if self._found is None:
            raise ValueError("a block without a gradient")
        return self._found

    def _find_open(self, gradient: Floats) -> _Open:
        signs = np.sign(self.beta)
        beyond = np.sign(gradient) * np.maximum(np.abs(gradient) - self._lasso, 0.0)
        pseudo = np.where(signs != 0, gradient + self._lasso * signs, beyond)
        signs = np.where(signs != 0, signs, -np.sign(pseudo)) * (self._kinks > 0)
        columns = np.flatnonzero((signs != 0) | (self._kinks == 0)).astype(np.int64)
        metric = self._metric[np.ix_(columns, columns)]
        to_white = np.asarray(np.linalg.cholesky(metric).T, np.float64)
        to_beta = np.asarray(np.linalg.inv(to_white), np.float64)
        return _Open(columns, signs[columns], pseudo[columns], metric, to_white, to_beta)

    def _vectors(self) -> Floats:
        free = self._open
        own = free.columns
        steps = [free.to_white @ step[own] for step in self._steps]
        changes = [free.to_beta.T @ change[own] for change in self._changes]
        return np.array([*steps, *changes, free.to_beta.T @ free.gradient])


def sparse_combination(products: Floats) -> Floats:
    """The weights of the vectors in the next direction, as of `combination`: down the gradient alone
    where the step before led nowhere."""
    k = len(products) // 2
    if k and products[k - 1, k - 1] <= 0:
        return np.append(np.zeros(2 * k), -1.0)
    return combination(products)


def another_scale(scales: Sequence[float], best: float) -> float | None:
    """By how much to scale the direction of `sparse_combination` anew, where the best step along that of
    the last of `scales` has this size; None to go along it."""
    scale = scales[-1]
    if len(scales) == DIRECTIONS:
        return None
    if best < _SHORT and scale == min(scales):
        return _SHORTER * scale
    if best < _SHORT and scale > 1:
        return 1.0
    if best > _LONG and scale == max(scales) and scale >= 1:
        return scale * min(best, _LONGER)
    return None


@kernel
def _descend(
    metric: Floats,
    pull: Floats,
    beta: Floats,
    signs: Floats,
    way: Floats,
    least: float,
    sweeps: int,
) -> None:
    """Move a way z to the least of z' metric z / 2 - pull' z where beta + z has these signs or is zero,
    one coordinate after another."""
    for j in range(len(way)):
        if (beta[j] + way[j]) * signs[j] < 0:
            way[j] = -beta[j]
    rest = pull - metric @ way
    for _ in range(sweeps):
        most = 0.0
        for j in range(len(way)):
            new = way[j] + rest[j] / metric[j, j]
            if signs[j] != 0.0 and (beta[j] + new) * signs[j] <= 0:
                new = -beta[j]
            change = new - way[j]
            if change != 0.0:
                for i in range(len(way)):
                    rest[i] -= metric[i, j] * change
                way[j] = new
                most = max(most, metric[j, j] * change * change)
        if most <= least:
            break
