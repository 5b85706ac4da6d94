"""Generalised linear models over the rows of all clients, by Newton's method from totals.

The model and its loss are those of learn/glm.py: half the mean deviance, weighted, and alpha / 2 times
the sum of squares of all coefficients but the intercept, on columns that all clients have prepared alike
(columns.py). Every client has all coefficients, the same to the last bit: all compute them from the same
totals, by arithmetic that is the same on every machine (learn/newton.py).

 1. All make sure that they have the same columns and settings, and prepare columns. Totals of labels and
    weights give the constant that fits best alone (start.py), where the fit begins.
Each step:
 2. The totals of the gradients X'g and of the second derivatives X'HX at the present coefficients, of
    the loss, and of how many rows' scores have run away.
 3. Newton's direction. Where it is shorter than 1e-5 standard errors, it is the last.
 4. The totals of the loss's slope and curvature at several sizes of the step, and the best size between
    them; more sizes where it is not among them. For squared errors, and where the direction is shorter
    than a hundredth of a standard error, the whole step is the best.
At the end:
 5. The totals of 2 at the optimum, with the expected second derivatives X'WX and Pearson's statistic,
    give the standard errors, as in R's summary.glm.

Under an l1_ratio the objective has a kink wherever a coefficient is zero: the direction of 3 is to the
least of the quadratic function with these kinks, which all clients find alike, along it the penalty is
bounded by the straight line to its end, and there are no standard errors.

After the last step the distance to the optimum is about the square of its length, far below 1e-8
standard errors; what remains is the rounding of each client's own sums in float64. Numbers are added
in fixed point (real_totals.py): X'g to 2^-84 of what the sum of |g| was one step before, X'HX likewise,
all else to its last bit.

What was added by a client that is gone stays in the columns' means, levels and bins; the steps go on
over the rows of the others. No total is asked for twice at the same coefficients.

Learned by all clients: the totals, which are sums over all rows that train, at each step's coefficients.
X'HX has, for each pair of levels, a sum over the rows that are in both, which may be few, and may tell
how many. Who is not to learn of small cells joins levels (min_level_rows) or leaves columns out.
"""

import asyncio
import hashlib
import math
import time
from dataclasses import dataclass, replace

import numpy as np

from vfl.arrays import Floats
from vfl.errors import DataError
from vfl.learn.binning import Features
from vfl.learn.design import Design, Rules, listed
from vfl.learn.losses import BadLabel
from vfl.learn.matrix import Matrix
from vfl.learn.newton import SIZES, Along, Curvature, lasso_direction, product, times
from vfl.learn.params import GlmParams
from vfl.learn.shrinkage import stored_sizes, towards_means
from vfl.protocols.common.course import GuestCourse
from vfl.protocols.common.rows import Training
from vfl.protocols.linear.fit import IterationDone
from vfl.protocols.linear.masked_numbers import divergence
from vfl.protocols.linear.scoring import GuestGlm, LinearPart
from vfl.protocols.linear.start import separable
from vfl.protocols.pooled.adding import Adder
from vfl.protocols.pooled.bins import Schema
from vfl.protocols.pooled.columns import pooled_design
from vfl.protocols.pooled.real_totals import ANY, around, real_totals
from vfl.protocols.pooled.start import check_own_label, common_start
from vfl.protocols.pooled.totals import Totals, check_same, digest_of, unfit

_LAST = 1e-5  # standard errors: a direction that is the last
_WHOLE = 1e-2  # standard errors: a direction along which the whole step is the best
_NEAR = 1.0  # standard errors: a direction after which second derivatives are those of the rows
_PERFECT = 2.0**-80  # share of the null model's loss that is not worth a step
_FAR_STEPS = 3  # which go by expected second derivatives at most
_TOLD = 2.0**-20  # share of the null model's loss that is left where columns tell the label
_SEPARATED = 30.0  # as in protocols/linear/fitting.py
_SEARCHES = 16  # totals of step 4 at most


@dataclass(frozen=True)
class PooledGlmState:
    """What a client keeps of a fit; the same at all clients."""

    done: int  # steps, and one for the beginning
    design: Design
    coefficients: Floats  # the intercept first, if there is one
    start: float  # the constant alone
    null: float  # mean loss under it
    unit: float  # of the gradient's length, mean
    sizes: tuple[float, float]  # sums of |g| and of h, which numbers are added in units of
    errors: float = math.inf  # the length of the last direction, in standard errors


async def fit_client(
    adder: Adder,
    features: Features,
    rows: Training,
    schema: Schema,
    rules: Rules,
    params: GlmParams,
    *,
    course: GuestCourse[IterationDone, PooledGlmState] = GuestCourse(),
) -> tuple[GuestGlm, Floats]:
    """The whole model, the same at all clients, and the scores of this client's rows, shape (rows,).

    `features` and `rows` are this client's own. The model's `parties` are the clients whose rows are in
    it to the end. All clients go on from as many steps. Raises DataError
    for labels and columns that cannot be fitted, which all clients see alike but for those of this
    client's own rows, ConfigError for a fit that diverges and for columns or settings that differ among
    clients, what the adder raises.
    """
    schema.check(features)
    last, train = course.checkpoints.last, rows.train
    own = {name: features[name][train] for name in schema.columns}
    try:
        check_own_label(rows.loss, rows.label[train])
        if last is None:
            said = (schema.canonical, repr(rules), params.model_dump_json(), repr(rows.loss))
            settings = [part if isinstance(part, bytes) else part.encode() for part in said]
            await check_same(Totals(adder), digest_of(*settings))
            design = await pooled_design(adder, own, schema, rules)
        else:
            design = last.design
        matrix = await asyncio.to_thread(design.matrix, features, len(train))
    except BadLabel as bad:
        raise DataError(
            f"the label {bad}", for_peer="a label cannot be used (its log has the details)"
        ) from None
    except ValueError as error:
        raise DataError(
            f"a linear model cannot use the columns: {error}",
            for_peer="a column cannot enter a linear model (its log has the details)",
        ) from None
    model = await _Fit(adder, design, matrix.take(train), rows, params).fit(course)
    offset = np.zeros(len(train)) if rows.offset is None else rows.offset
    beta = np.array(model.part.coefficients, np.float64)
    return model, offset + (model.intercept + matrix.times(beta))


@dataclass(frozen=True)
class _Sums:
    """Totals over all clients at some coefficients; not divided by anything."""

    loss: float
    weight: float
    rows: int  # with a weight above 0
    far: int  # rows whose scores have run away
    sizes: tuple[float, float]  # sums of |g| and h
    gradient: Floats
    hessian: Floats
    pearson: float


class _Fit:
    """The loop, which is the same at all clients, and the sums over this client's rows."""

    def __init__(
        self, adder: Adder, design: Design, matrix: Matrix, rows: Training, params: GlmParams
    ) -> None:
        train = rows.train
        self._adder, self._design, self._params = adder, design, params
        self._matrix = matrix.with_intercept() if params.fit_intercept else matrix
        self._rows, self._loss = rows, rows.loss
        self._label, self._weight = rows.label[train], rows.weight[train]
        self._offset = np.zeros(matrix.rows) if rows.offset is None else rows.offset[train]
        free = np.arange(self._matrix.columns) < int(params.fit_intercept)
        self._penalty = np.where(free, 0.0, params.alpha * (1 - params.l1_ratio))
        self._kinks = np.where(free, 0.0, params.alpha * params.l1_ratio)
        self._form: Floats | None = None
        if params.alpha and params.shrink_to == "mean":
            form = towards_means(design, stored_sizes(design))
            self._form = params.alpha * np.pad(form, ((int(free.sum()), 0), (int(free.sum()), 0)))

    async def fit(self, course: GuestCourse[IterationDone, PooledGlmState]) -> GuestGlm:
        """All steps to the end, from where a checkpoint was kept."""
        params, last = self._params, course.checkpoints.last
        if last is not None and last.coefficients.shape != self._penalty.shape:
            raise ValueError("the state of a fit of other columns")
        state = last or await self._begin()
        if last is None:
            await course.checkpoints.keep(state)
        started = time.perf_counter()
        for iteration in range(state.done - 1, params.max_iterations + 1):
            sums = await self._totals(state, "step")
            if iteration == 0:
                self._check_rank(sums)
            gradient, hessian = self._penalised(sums, state.coefficients)
            given = gradient, hessian, state.coefficients, sums.weight
            direction, decrement = await asyncio.to_thread(self._direction, *given)
            errors = self._in_errors(decrement, sums)
            seconds = {"whole iteration": time.perf_counter() - started}
            started = time.perf_counter()
            gradient = self._pseudo_gradient(gradient, state.coefficients, sums.weight)
            course.progress(self._done(iteration, sums, state, gradient, seconds))
            converged = errors <= _LAST or decrement <= _PERFECT * state.null * sums.weight
            if iteration == params.max_iterations and not converged:
                break
            size = 1.0
            if not (converged or errors <= _WHOLE or self._loss.link == "identity"):
                size = await self._search(state, direction)
            coefficients = state.coefficients + size * direction
            done = state.done + 1
            state = replace(state, done=done, coefficients=coefficients, sizes=sums.sizes, errors=errors)
            if converged:
                break  # and who goes on from the state before does this step once more
            await course.checkpoints.keep(state)
        return await self._end(state, converged)

    # ------------------------------------------------------------------------- where it begins

    async def _begin(self) -> PooledGlmState:
        """1. The constant alone."""
        start = (await common_start(Totals(self._adder), self._rows)).constant
        free = int(self._params.fit_intercept)
        start = start if free else 0.0
        coefficients = np.zeros(len(self._penalty))
        coefficients[:free] = start
        own = await asyncio.to_thread(self._own_start, start)
        (sums,) = await real_totals(self._adder, [(own, ANY)], "the constant alone")
        if not np.isfinite(sums).all():
            raise divergence("scores")
        loss, total, size, curvature = sums.tolist()
        if not (total > 0 and (sums >= 0).all()):
            raise unfit("the constant alone", "it is negative")
        unit = math.sqrt(curvature / total * 2 * loss / total) or 1.0
        sizes = (size, curvature)
        return PooledGlmState(1, self._design, coefficients, start, loss / total, unit, sizes)

    def _own_start(self, start: float) -> Floats:
        g, h = self._loss.gradients(self._offset + start, self._label, self._weight)
        loss = self._own_loss(self._offset + start)
        return np.array([loss, float(self._weight.sum()), float(np.abs(g).sum()), float(h.sum())])

    def _own_loss(self, score: Floats) -> float:
        """The sum over this client's rows, without those of no weight."""
        weight = float(self._weight.sum())
        return self._loss.mean(score, self._label, self._weight) * weight if weight > 0 else 0.0

    # ---------------------------------------------------------------------------------- a step

    async def _totals(self, state: PooledGlmState, what: str) -> _Sums:
        """2. and 5. Sums at the state's coefficients."""
        own = await asyncio.to_thread(self._own_sums, state, _is_expected(state, what))
        gradient, hessian = (around(size) for size in state.sizes)
        pieces = list(zip(own, (ANY, gradient, hessian), strict=True))
        described = f"{what} {state.done} of the fit from {_digest(state)}"
        numbers, g, h = await real_totals(self._adder, pieces, described)
        if not all(np.isfinite(sums).all() for sums in (numbers, g, h)):
            raise divergence("gradients")
        loss, weight, rows, far, size, curvature, pearson = numbers.tolist()
        upper = np.zeros((len(g), len(g)))
        upper[np.triu_indices(len(g))] = h
        if not (weight > 0 and (numbers >= 0).all() and (np.diag(upper) >= 0).all()):
            raise unfit(f"{what} {state.done}", "it is negative")
        sums = _Sums(
            loss,
            weight,
            round(rows),
            round(far),
            (size, curvature),
            g,
            upper + np.triu(upper, 1).T,
            pearson,
        )
        # A step may lead too far once, and back.
        near = state.errors <= _NEAR or loss <= _TOLD * state.null * weight
        if sums.far and near and self._params.alpha == 0 and self._loss.link != "identity":
            raise separable()
        return sums

    def _own_sums(self, state: PooledGlmState, expected: bool) -> tuple[Floats, Floats, Floats]:
        """Sums over this client's rows: scalars, X'g, and the upper triangle of X'HX, or of X'WX with
        the expected second derivatives."""
        score = self._score(state.coefficients)
        g, h = self._loss.gradients(score, self._label, self._weight)
        moved = np.abs(score - (self._offset + state.start)) > _SEPARATED
        sizes = [float(np.abs(g).sum()), float(h.sum())]
        pearson = 0.0
        if expected:
            h = self._loss.information(score, self._weight)
            some = h > 0
            pearson = float((np.square(g[some]) / h[some]).sum())
        counts = [int((self._weight > 0).sum()), int((moved & (self._weight > 0)).sum())]
        scalars = [self._own_loss(score), float(self._weight.sum()), *counts, *sizes, pearson]
        gram = self._matrix.gram(h)
        upper = gram[np.triu_indices(len(gram))]
        return np.array(scalars), self._matrix.transposed_times(g), upper

    def _score(self, coefficients: Floats) -> Floats:
        return self._offset + self._matrix.times(coefficients)

    def _check_rank(self, sums: _Sums) -> None:
        """Raises DataError for columns that are linear combinations of others, where alpha is 0."""
        if self._params.alpha > 0:
            return
        dependent = self._design.dependent_by(sums.hessian, self._params.fit_intercept)
        if dependent:
            raise DataError(
                f"over the rows of all clients {listed(dependent)} of other columns: leave out columns "
                "(ignore), or set the job's alpha above 0",
                for_peer="some columns are linear combinations of others: they must be left out, or the "
                "job needs alpha above 0",
            )

    def _penalised(self, sums: _Sums, coefficients: Floats) -> tuple[Floats, Floats]:
        """Gradient and second derivatives of the loss with its penalty, times the sum of weights."""
        form = np.diag(self._penalty) if self._form is None else self._form
        gradient = sums.gradient + self._drawn(coefficients, sums.weight)
        return gradient, sums.hessian + form * sums.weight

    def _direction(
        self, gradient: Floats, hessian: Floats, coefficients: Floats, weight: float
    ) -> tuple[Floats, float]:
        """3. Newton's direction, and twice what it gains by these derivatives."""
        if not self._params.l1_ratio:
            direction = -Curvature.of(hessian).solve(gradient)
            return direction, -product(gradient, direction)
        direction = lasso_direction(hessian, gradient, coefficients, self._kinks * weight)
        return direction, product(direction, times(hessian, direction[:, np.newaxis])[:, 0])

    def _pseudo_gradient(self, gradient: Floats, coefficients: Floats, weight: float) -> Floats:
        """The gradient of the whole objective, or where it has a kink the shortest in its place."""
        if not self._params.l1_ratio:
            return gradient
        kinks = self._kinks * weight
        beyond = np.sign(gradient) * np.maximum(np.abs(gradient) - kinks, 0.0)
        along = gradient + kinks * np.sign(coefficients)
        return np.where(coefficients == 0, beyond, along)

    def _drawn(self, coefficients: Floats, weight: float) -> Floats:
        """The penalty's part of the gradient, times the sum of weights."""
        if self._form is None:
            return np.asarray(self._penalty * weight * coefficients)
        return times(self._form * weight, coefficients[:, np.newaxis])[:, 0]

    def _in_errors(self, decrement: float, sums: _Sums) -> float:
        """About the greatest length of the direction in standard errors, for any coefficient."""
        freedom = sums.rows - len(self._penalty)
        dispersion = 2 * sums.loss / freedom if freedom > 0 else 0.0
        if self._loss.power is None or self._loss.power == 1:
            dispersion = min(dispersion, 1.0) or 1.0
        if decrement <= 0:
            return 0.0
        return math.sqrt(decrement / dispersion) if dispersion > 0 else math.inf

    async def _search(self, state: PooledGlmState, direction: Floats) -> float:
        """4. The best size of the step."""
        move = await asyncio.to_thread(self._matrix.times, direction)
        score = await asyncio.to_thread(self._score, state.coefficients)
        sizes = [*SIZES]
        for number in range(_SEARCHES):
            own = await asyncio.to_thread(self._own_along, score, move, sizes)
            what = f"sizes of step {state.done}, round {number + 1}"
            (sums,) = await real_totals(self._adder, [(own, ANY)], what)
            if not (0 < sums[-1] < math.inf and math.isfinite(sums[0])):
                raise unfit(what, "it is beyond what honest clients add")
            penalty = self._along_penalty(state.coefficients, direction, sizes, float(sums[-1]))
            slopes, curvatures = sums[:-1].reshape(2, -1) + penalty
            along = Along(sizes, slopes.tolist(), curvatures.tolist())
            further = along.further()
            if further is None:
                break
            sizes = further
        # With kinks the penalty is bounded to the end of the direction.
        return min(along.best(), 1.0) if self._params.l1_ratio else along.best()

    def _own_along(self, score: Floats, move: Floats, sizes: list[float]) -> Floats:
        """Slopes and curvatures at all sizes, and the weight."""
        slopes, curvatures = [], []
        with np.errstate(over="ignore", invalid="ignore"):
            for size in sizes:
                g, h = self._loss.gradients(score + size * move, self._label, self._weight)
                slopes.append(float((g * move).sum()))
                curvatures.append(float((h * move * move).sum()))
        return np.array([*slopes, *curvatures, float(self._weight.sum())])

    def _along_penalty(
        self, coefficients: Floats, direction: Floats, sizes: list[float], weight: float
    ) -> Floats:
        """What the penalty adds to slopes and curvatures, shape (2, sizes)."""
        linear = product(self._drawn(coefficients, weight), direction)
        square = product(self._drawn(direction, weight), direction)
        ends = np.abs(coefficients + direction) - np.abs(coefficients)
        linear += product(self._kinks * weight, ends)
        return np.array([[linear + size * square for size in sizes], [square for _ in sizes]])

    # --------------------------------------------------------------------------------- the end

    def _done(
        self,
        iteration: int,
        sums: _Sums,
        state: PooledGlmState,
        gradient: Floats,
        seconds: dict[str, float],
    ) -> IterationDone:
        deviance, explained = _deviances(sums, state)
        length = _length(gradient, sums, state)
        most = self._params.max_iterations
        return IterationDone(iteration, most, deviance, explained, length, seconds)

    async def _end(self, state: PooledGlmState, converged: bool) -> GuestGlm:
        """5. What the fit came to."""
        sums = await self._totals(state, "end")
        gradient, curvature = self._penalised(sums, state.coefficients)
        deviance, explained = _deviances(sums, state)
        gradient = self._pseudo_gradient(gradient, state.coefficients, sums.weight)
        length = _length(gradient, sums, state)
        freedom = sums.rows - len(self._penalty)
        dispersion: float | None = 1.0
        if self._loss.power not in (None, 1.0):
            dispersion = sums.pearson / freedom if freedom > 0 else None
        errors = None
        if dispersion is not None and not self._params.l1_ratio:
            made = await asyncio.to_thread(Curvature.of, curvature)
            variance = await asyncio.to_thread(made.inverse)
            if self._params.alpha > 0:
                # Of an estimate that the penalty draws to 0: A^-1 I A^-1, where A is I and the penalty.
                variance = times(times(variance, sums.hessian), variance)
            errors = np.sqrt(np.maximum(dispersion * np.diag(variance), 0.0))
        free = int(self._params.fit_intercept)
        return GuestGlm(
            tuple(self._adder.clients),
            float(state.coefficients[:free].sum()),
            LinearPart(self._design, tuple(state.coefficients[free:].tolist())),
            state.done - 1,
            converged and length <= self._params.tolerance,
            deviance,
            explained,
            length,
            intercept_error=None if errors is None or not free else float(errors[0]),
            errors=None if errors is None else tuple(errors[free:].tolist()),
            dispersion=dispersion,
        )


def _deviances(sums: _Sums, state: PooledGlmState) -> tuple[float, float]:
    """The mean deviance, and the share of the null model's that is gone."""
    mean = sums.loss / sums.weight
    return 2 * mean, 1 - mean / state.null if state.null > 0 else 0.0


def _length(gradient: Floats, sums: _Sums, state: PooledGlmState) -> float:
    """The mean gradient's length, in the label's unit."""
    return math.sqrt(product(gradient, gradient)) / sums.weight / state.unit


def _is_expected(state: PooledGlmState, what: str) -> bool:
    """Whether second derivatives are the expected ones: far from the optimum for the first steps (later
    they may zigzag), and for standard errors."""
    return what == "end" or (state.done <= _FAR_STEPS and state.errors > _NEAR)


def _digest(state: PooledGlmState) -> str:
    """Of what has to be the same at all clients."""
    numbers = [state.start, state.null, state.unit, *state.sizes, state.errors]
    numbers += state.coefficients.tolist()
    text = repr((numbers, state.design)).encode()
    return hashlib.blake2b(text, digest_size=16).hexdigest()
