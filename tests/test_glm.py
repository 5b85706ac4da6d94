"""Linear models: the optimum against glum, federated against pooled, what is on the wire, bad peers."""

import asyncio
import contextlib
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from unittest import mock

import arguments
import glum
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory import over_memory
from paillier_key import KEY
from scipy.optimize import minimize
from scipy.special import xlogy
from scipy.stats import binomtest, chisquare, kstest
from sklearn.metrics import log_loss, mean_tweedie_deviance

from vfl.crypto import powers
from vfl.crypto.workers import ONE_PROCESS, Machine
from vfl.errors import ConfigError, DataError, PeerError, PeerLost, PeerStopped, Refused, VflError
from vfl.learn.design import Design, Matrix, Rules
from vfl.learn.glm import PAIRS, Move, Scores, combination
from vfl.learn.losses import FAMILIES, Loss, NegativeBinomialLoss, loss_of
from vfl.learn.params import GlmParams
from vfl.net.peer import MemoryPeer, Peer, stop_all, together
from vfl.net.wire import Message, decode
from vfl.protocols.common import fellows, key
from vfl.protocols.common.course import GuestCourse
from vfl.protocols.common.participant import Participant, Resources
from vfl.protocols.common.rows import Training
from vfl.protocols.common.transcript import Transcript
from vfl.protocols.linear import fitting as glm
from vfl.protocols.linear import fitting_messages, masked_scores, products, start
from vfl.protocols.linear.fit import Fit
from vfl.protocols.linear.fitting import guest_fit
from vfl.protocols.linear.host_fitting import host_fit
from vfl.protocols.linear.masked_numbers import hidden, in_fixed_point, sums_of
from vfl.protocols.linear.plain import plain_fit

pytestmark = pytest.mark.usefixtures("quick_key")

N = int(KEY.public.n)
Features = dict[str, np.ndarray]


@pytest.fixture(autouse=True, scope="module")
def _short_tables():
    """Every host makes a table of powers under the key, which for so few sums is not worth its time."""
    with mock.patch.object(powers, "_TABLE_BYTES", 4_000_000):
        yield


# A job and its parties.


@dataclass
class Job:
    """The tables of all parties, the guest's first, and the guest's rows."""

    tables: dict[str, Features]
    rows: Training
    params: GlmParams
    rules: Rules = field(default_factory=lambda: Rules(min_level_rows=1))

    @property
    def count(self) -> int:
        return len(self.rows.label)

    @cached_property
    def matrices(self) -> dict[str, Matrix]:
        """Each party's matrix of all rows, prepared by those that train."""
        return {name: self.matrix(name, self.rows.train) for name in self.tables}

    def matrix(self, name: str, train: np.ndarray) -> Matrix:
        table = self.tables[name]
        design = Design.fit({k: v[train] for k, v in table.items()}, self.rules)
        return design.matrix(table, self.count)

    @property
    def dense(self) -> np.ndarray:
        return np.hstack([matrix.dense() for matrix in self.matrices.values()])

    @property
    def offset(self) -> np.ndarray:
        return np.zeros(self.count) if self.rows.offset is None else self.rows.offset

    def with_params(self, **changes: Any) -> "Job":
        return dataclasses.replace(self, params=self.params.model_copy(update=changes))

    def pooled(self) -> tuple[Fit, np.ndarray]:
        """The guest alone with everybody's columns; the coefficients of all."""
        fit = asyncio.run(guest_fit([], self.matrices, self.rows, self.params))
        return fit, np.concatenate(list(fit.coefficients.values()))

    def guest(self, peers: Sequence[Peer], machine: Machine = ONE_PROCESS) -> Any:
        name = next(iter(self.tables))
        own = {name: self.matrices[name]}
        return guest_fit(peers, own, self.rows, self.params, key=KEY, resources=Resources(machine))

    def host(self, peer: Peer, name: str, **options: Any) -> Any:
        options = {"params": self.params, "context": b"job 7"} | options
        return host_fit(
            peer,
            self.count,
            lambda train: self.matrix(name, train),
            options.pop("params"),
            arguments.participant(name, list(self.tables)[1:], options),
            arguments.host_course(options),
        )

    def federated(
        self,
        machine: Machine = ONE_PROCESS,
        watch: Any = None,
        **options: Any,
    ) -> tuple[Fit, np.ndarray]:
        """All parties over memory. `watch` is told of all messages: (host, direction, kind, payload)."""

        guest, *hosts = self.tables

        def watched(to_host: MemoryPeer, _: MemoryPeer) -> None:
            if watch is not None:
                to_host.observers.append(lambda *seen: watch(to_host.name, *seen))

        fit, *coefficients = over_memory(
            hosts,
            lambda peers: self.guest(peers, machine),
            lambda host, peer: self.host(peer, host, machine=machine, **options),
            guest=guest,
            opened=watched,
        )
        return fit, np.concatenate([*fit.coefficients.values(), *coefficients])


def mixed(rng: np.random.Generator, rows: int, party: int, levels: int = 4) -> Features:
    """A number, a skewed one and a category."""
    area = rng.choice(np.array([f"area {k}" for k in range(levels)], object), rows)
    return {f"x{party}": rng.normal(size=rows), f"z{party}": rng.gamma(2, 5, rows), f"area{party}": area}


def labels(family: str, mean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws of the family with these means."""
    draws: dict[str, Callable[[], np.ndarray]] = {
        "logistic": lambda: rng.random(len(mean)) < mean,
        "poisson": lambda: rng.poisson(mean),
        "negative_binomial": lambda: rng.negative_binomial(1, 1 / (1 + mean)),
        "gamma": lambda: rng.gamma(2, mean / 2),
        "tweedie": lambda: rng.poisson(mean) * rng.gamma(2, 0.5, len(mean)),
        "gaussian": lambda: mean + rng.normal(size=len(mean)),
    }
    return draws[family]().astype(float)


def make_job(
    family: str,
    tables: Mapping[str, Features] | int = 2,
    rows: int = 400,
    seed: int = 0,
    held_out: float = 0.2,
    spread: float = 0.3,
    **params: Any,
) -> Job:
    """Rows with weights and an offset whose label depends on all columns of the tables.

    `tables` may be the number of parties, with columns of every kind.
    """
    rng = np.random.default_rng([seed, rows])
    if isinstance(tables, int):
        tables = {
            "guest" if party == 0 else f"host{party}": mixed(rng, rows, party) for party in range(tables)
        }
    loss = loss_of(family)  # type: ignore[arg-type]
    offset = np.log(rng.uniform(0.1, 1, rows)) if family == "poisson" else 0.2 * rng.normal(size=rows)
    train = rng.random(rows) >= held_out
    nobody = np.zeros(rows, bool)
    start = Training(nobody.astype(float), rng.uniform(0.5, 2, rows), train, nobody, loss, offset)
    job = Job(dict(tables), start, GlmParams(**params))
    score = job.dense @ (spread * rng.normal(size=job.dense.shape[1])) - 0.3 + offset
    label = labels(family, loss.predict(np.clip(score, -5, 5)), rng)
    return dataclasses.replace(job, rows=dataclasses.replace(start, label=label))


# The maths, against glum.

GLUM = {
    "logistic": "binomial",
    "poisson": "poisson",
    "negative_binomial": glum.NegativeBinomialDistribution(1.0),
    "gamma": glum.GammaDistribution(),
    "tweedie": glum.TweedieDistribution(1.5),
    "gaussian": "normal",
}


@dataclass
class Reference:
    """What glum finds on the same matrix."""

    coefficients: np.ndarray
    intercept: float
    deviance: float


def by_glum(job: Job, family: str) -> Reference:
    rows, train = job.rows, job.rows.train
    log = rows.loss.link == "log"
    model = glum.GeneralizedLinearRegressor(
        family=GLUM[family],
        link="log" if log else "auto",
        alpha=job.params.alpha,
        l1_ratio=0,
        fit_intercept=job.params.fit_intercept,
        gradient_tol=1e-12,
        max_iter=1000,
    )
    model.fit(job.dense[train], rows.label[train], rows.weight[train], offset=job.offset[train])
    mean = model.predict(job.dense[train], offset=job.offset[train])
    return Reference(model.coef_, float(model.intercept_), deviance(rows, mean))


def deviance(rows: Training, mean: np.ndarray) -> float:
    """scikit-learn's."""
    label, weight = rows.label[rows.train], rows.weight[rows.train]
    if isinstance(rows.loss, NegativeBinomialLoss):
        each = xlogy(label, label / mean) - (label + 1) * np.log((1 + label) / (1 + mean))
        return 2 * float(np.average(each, weights=weight))
    if rows.loss.power is None:
        return 2 * log_loss(label, mean, sample_weight=weight)
    return mean_tweedie_deviance(label, mean, sample_weight=weight, power=rows.loss.power)


def gradient(job: Job, beta: np.ndarray, intercept: float) -> np.ndarray:
    """Of the objective, the intercept's component first: the definition of the optimum is 0."""
    rows, train = job.rows, job.rows.train
    score = job.dense[train] @ beta + intercept + job.offset[train]
    residual, _ = rows.loss.gradients(score, rows.label[train], rows.weight[train])
    residual = residual / rows.weight[train].sum()
    return np.append(residual.sum(), job.dense[train].T @ residual + job.params.alpha * beta)


def assert_close(found: np.ndarray, expected: np.ndarray, relative: float, least: float) -> None:
    """Each number to `relative` of itself, or to `least` of the greatest where it is next to 0."""
    bound = np.maximum(relative * np.abs(expected), least * np.abs(expected).max(initial=0.0))
    assert (np.abs(found - expected) <= bound).all(), np.abs(found / expected - 1).max()


@pytest.mark.parametrize(("parties", "alpha"), [(1, 0.01), (2, 0.0), (4, 0.01)])
@pytest.mark.parametrize("family", list(FAMILIES))
def test_the_optimum_is_glums(family, alpha, parties):
    """Both stop at a gradient next to rounding, so that what is left of the distance to the optimum, the
    gradient over the least curvature, is far below 1e-5 of a coefficient, unless it is next to 0."""
    job = make_job(family, parties, rows=1500, seed=parties, alpha=alpha, tolerance=1e-11)
    reference = by_glum(job, family)
    fit, beta = job.pooled()
    assert fit.converged and fit.gradient <= 1e-11 and fit.iterations < 30
    assert_close(beta, reference.coefficients, 1e-5, 1e-7)
    assert fit.intercept == pytest.approx(reference.intercept, rel=1e-6, abs=1e-7)
    assert fit.deviance == pytest.approx(reference.deviance, rel=1e-8)
    assert np.abs(gradient(job, beta, fit.intercept)).max() < 2e-11
    # The scores of all rows, of those held out also.
    assert fit.score == pytest.approx(job.dense @ beta + fit.intercept + job.offset, abs=1e-9)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_without_an_intercept(family):
    job = make_job(family, 2, rows=1500, seed=8, fit_intercept=False, alpha=0.001, tolerance=1e-11)
    reference = by_glum(job, family)
    fit, beta = job.pooled()
    assert fit.converged and fit.intercept == 0.0 and fit.iterations < 30
    assert_close(beta, reference.coefficients, 1e-5, 1e-7)
    assert fit.deviance == pytest.approx(reference.deviance, rel=1e-8)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_the_share_explained_is_of_the_best_constant(family):
    job = make_job(family, 2, tolerance=1e-9)
    null = dataclasses.replace(job, tables={"guest": {}})
    constant, nothing = null.pooled()
    assert constant.converged and nothing.shape == (0,)
    assert constant.explained == pytest.approx(0.0, abs=1e-12)
    assert abs(gradient(null, nothing, constant.intercept)[0]) < 1e-12
    fit, _ = job.pooled()
    assert 0 < fit.explained == pytest.approx(1 - fit.deviance / constant.deviance)
    # Nobody has any column at all, not even an empty matrix.
    alone = asyncio.run(guest_fit([], {}, job.rows, job.params))
    assert alone.converged and alone.intercept == constant.intercept


def correlated(across: bool, distance: float, rows: int = 2000) -> dict[str, Features]:
    """Three parties of which two columns, of one party or of two, differ by little."""
    rng = np.random.default_rng(5)
    tables = {f"party{k}": mixed(rng, rows, k) for k in range(3)}
    near = tables["party0"]["x0"] + distance * rng.normal(size=rows)
    tables["party2" if across else "party0"]["near"] = near
    # A rare level, and one that says nearly the same as a level of another party.
    tables["party1"]["area1"][:20] = "rare"
    tables["party2"]["kind"] = np.where(tables["party1"]["area1"] == "area 1", "a", "b").astype(object)
    tables["party2"]["kind"][-15:] = "c"
    return tables


@pytest.mark.parametrize("across", [False, True], ids=["within a block", "across blocks"])
@pytest.mark.parametrize("family", ["logistic", "poisson", "gaussian"])
def test_columns_that_all_but_depend(family, across):
    """The condition number of X^T X is 1e6 and more. The gradient tells the optimum, and glum's has no
    lower deviance; coefficients of such columns nobody can tell to many digits. What depends across
    blocks no block can see, and costs some iterations."""
    job = make_job(family, correlated(across, 1e-3), 2000, held_out=0.0, tolerance=1e-9)
    fit, beta = job.pooled()
    assert fit.converged and fit.iterations < (40 if across else 30)
    assert np.abs(gradient(job, beta, fit.intercept)).max() < 2e-9
    assert fit.deviance <= by_glum(job, family).deviance + 1e-9


def test_columns_that_depend_within_a_block_cost_no_iterations():
    tables = correlated(False, 1e-4)
    job = make_job("poisson", tables, 2000, held_out=0.0, tolerance=1e-8)
    fit, _ = job.pooled()
    assert fit.converged and fit.iterations < 30
    del tables["party0"]["near"]
    without, _ = dataclasses.replace(job, tables=tables).pooled()
    assert fit.iterations <= without.iterations + 4
    assert fit.deviance <= without.deviance


@pytest.mark.parametrize("across", [False, True])
def test_equal_columns_have_an_optimum_too(across):
    """With a penalty it is the one where both have the same coefficient; without, any of many."""
    tables = correlated(across, 0.0)
    for alpha in (0.0, 0.01):
        job = make_job("poisson", tables, 2000, held_out=0.0, alpha=alpha, tolerance=1e-9)
        fit, beta = job.pooled()
        assert fit.converged and fit.iterations < 30
        assert np.abs(gradient(job, beta, fit.intercept)).max() < 2e-9


def test_blocks_of_other_columns_have_the_same_optimum():
    rng = np.random.default_rng(4)
    columns = {k: v for party in range(3) for k, v in mixed(rng, 800, party).items()}
    names = list(columns)
    ways = [[names], [[name] for name in names], [names[:2], names[2:]], [names[5:], names[:5]]]
    found = []
    for blocks in ways:
        tables = {f"party{k}": {name: columns[name] for name in own} for k, own in enumerate(blocks)}
        job = make_job("poisson", tables, 800, seed=3, tolerance=1e-10)
        job = job if not found else dataclasses.replace(job, rows=found[0][0].rows)
        fit, _ = job.pooled()
        assert fit.converged and fit.iterations < 30
        found.append((job, fit))
    for _, fit in found[1:]:
        # 1e-10 over the least curvature, some 1e-2.
        assert fit.score == pytest.approx(found[0][1].score, abs=1e-7)
        assert fit.intercept == pytest.approx(found[0][1].intercept, abs=1e-7)


@pytest.mark.parametrize("scale", [1e-9, 1e-4, 1e6, 1e12, 1e45])
@pytest.mark.parametrize("family", ["gaussian", "poisson", "gamma", "tweedie"])
def test_labels_of_any_size(family, scale):
    """Amounts in any unit: the model is the same in that unit, after as many iterations."""
    job = make_job(family, 2, rows=150)
    rows, log = job.rows, job.rows.loss.link == "log"
    offset = rows.offset if log else scale * rows.offset
    scaled = dataclasses.replace(rows, label=scale * rows.label, offset=offset)
    other = dataclasses.replace(job, rows=scaled)
    fit, beta = job.pooled()
    unit, shift = (1.0, np.log(scale)) if log else (scale, 0.0)
    for found, coefficients in (other.pooled(), other.federated()):
        assert found.converged and found.iterations <= fit.iterations + 1
        assert_close(coefficients / unit, beta, 1e-4, 1e-5)
        assert (found.score - shift) / unit == pytest.approx(fit.score, abs=1e-5)


# L-BFGS and the line search.


def two_loops(steps, changes, gradient):
    """Nocedal and Wright, algorithm 7.4, with formula 7.20; pairs of no positive curvature left out."""
    pairs = [(s, y) for s, y in zip(steps, changes, strict=True) if s @ y > 0]
    q, alphas = gradient.copy(), []
    for s, y in reversed(pairs):
        alphas.append(s @ q / (s @ y))
        q -= alphas[-1] * y
    if pairs:
        s, y = pairs[-1]
        q *= s @ y / (y @ y)
    for (s, y), alpha in zip(pairs, reversed(alphas), strict=True):
        q += s * (alpha - y @ q / (s @ y))
    return -q


@given(seed=st.integers(0, 2**32), k=st.integers(0, PAIRS), negative=st.sets(st.integers(0, PAIRS - 1)))
def test_combination_is_the_two_loops(seed, k, negative):
    rng = np.random.default_rng(seed)
    size = 15
    root = rng.normal(size=(size, size))
    steps = rng.normal(size=(k, size))
    changes = steps @ (root @ root.T / size + 0.1 * np.eye(size))
    for j in negative & set(range(k)):
        changes[j] *= -1
    g = rng.normal(size=size)
    vectors = np.array([*steps, *changes, g])
    found = combination(vectors @ vectors.T) @ vectors
    assert found == pytest.approx(two_loops(steps, changes, g), rel=1e-7, abs=1e-7)
    assert found @ g < 0


@settings(max_examples=15)
@given(
    seed=st.integers(0, 2**32),
    alpha=st.sampled_from([0.0, 0.1]),
    fit_intercept=st.booleans(),
    length=st.sampled_from([1e-3, 1.0, 30.0]),
)
@pytest.mark.parametrize("family", list(FAMILIES))
def test_the_line_search_finds_what_scipy_finds(family, seed, alpha, fit_intercept, length):
    rng = np.random.default_rng(seed)
    loss: Loss = loss_of(family)
    rows = 60
    label = labels(family, loss.predict(rng.normal(size=rows)), rng)
    label[:2] = 0.5 if family == "gamma" else [0, 1]
    weight, offset = rng.uniform(0.1, 2, rows), rng.normal(size=rows)
    direction = length * rng.normal(size=rows)
    move = Move(direction, length * float(rng.normal()), length**2 * float(rng.uniform(0.5, 2)))
    scores = Scores.start(loss, label, weight, offset, fit_intercept)
    before = scores.score

    def value(at):
        size, constant = at[0] / length, at[1] if fit_intercept else 0.0
        penalty = alpha * (size * move.linear + size**2 * move.square / 2)
        return loss.mean(before + size * direction + constant, label, weight) + penalty

    best = minimize(value, [0.0, 0.0], method="BFGS")
    for _ in range(2):  # from where it may have stopped short of the optimum
        options = {"xatol": 1e-9, "fatol": 1e-15, "maxiter": 2000}
        best = minimize(value, best.x, method="Nelder-Mead", options=options)
    start = scores.intercept
    size = scores.go(move, alpha, fit_intercept)
    moved = scores.intercept - start
    assert fit_intercept or moved == 0.0
    assert value([size * length, moved]) <= best.fun + 1e-13 * max(1.0, abs(best.fun))
    # Where values are flat to 1e-15, arguments are to the root of that.
    expected = best.x if fit_intercept else [best.x[0], 0.0]
    assert [size * length, moved] == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert scores.score == pytest.approx(before + size * direction + moved)
    assert scores.change == pytest.approx(np.abs(size * direction + moved).max())


def test_the_line_search_along_no_direction_stays():
    rng = np.random.default_rng(0)
    label = rng.poisson(1.0, 50).astype(float)
    scores = Scores.start(loss_of("poisson"), label, np.ones(50), np.zeros(50), True)
    before = scores.score
    assert scores.go(Move(np.zeros(50), 0.0, 0.0), 0.0, True) == 0.0
    assert scores.score == pytest.approx(before, abs=1e-12)


# Separable labels.


def without_claims(family: str, alpha: float = 0.0, **options: Any) -> Job:
    """A host's level has no claim, or under logistic no row of the other class."""
    job = make_job(family, 2, alpha=alpha, tolerance=1e-8, **options)
    level = job.tables["host1"]["area1"] == "area 2"
    label = np.where(level, 0.0, job.rows.label)
    return dataclasses.replace(job, rows=dataclasses.replace(job.rows, label=label))


def separated(alpha: float = 0.0) -> Job:
    """A host's number tells the label without error."""
    job = make_job("logistic", 2, alpha=alpha, tolerance=1e-8)
    label = (job.tables["host1"]["x1"] > 0.1).astype(float)
    return dataclasses.replace(job, rows=dataclasses.replace(job.rows, label=label))


SEPARABLE = r"^the label is separable: .*: set alpha above 0 in \[glm\]"


@pytest.mark.parametrize(
    "make",
    [
        separated,
        lambda alpha=0.0: without_claims("logistic", alpha),
        lambda alpha=0.0: without_claims("poisson", alpha),
        lambda alpha=0.0: without_claims("tweedie", alpha),
    ],
    ids=["a number", "logistic", "poisson", "tweedie"],
)
def test_a_separable_label_needs_a_penalty(make):
    with pytest.raises(DataError, match=SEPARABLE) as refused:
        make().pooled()
    assert "alpha above 0" in refused.value.for_peer
    job = make(0.01)
    fit, beta = job.pooled()
    assert fit.converged and fit.iterations < 40
    assert np.abs(gradient(job, beta, fit.intercept)).max() < 2e-8


def test_a_separable_label_is_found_with_hosts_too():
    with pytest.raises(DataError, match=SEPARABLE):
        without_claims("poisson", rows=200).federated()
    job = without_claims("poisson", 0.01, rows=200).with_params(tolerance=1e-4)
    assert_same(job, job.federated())


@pytest.mark.parametrize(
    ("family", "encryption"),
    [(family, "paillier") for family in ("logistic", "poisson", "tweedie")]
    # Forty bits of poisson's largest residual can be too few; then the fit does not converge.
    + [(family, "lattice") for family in ("logistic", "tweedie")],
)
def test_a_separable_label_is_found_with_rounded_residuals(family, encryption):
    """Where residuals of the level's rows become as small as the steps of rounding."""
    job = without_claims(family).with_params(encryption=encryption)
    theirs = {"host1": job.matrices["host1"]}
    with pytest.raises(DataError, match=SEPARABLE):
        asyncio.run(plain_fit({"guest": job.matrices["guest"]}, theirs, job.rows, job.params))


def test_strong_effects_are_not_taken_for_separation():
    """A level whose rows claim a thousand times as often as others."""
    job = make_job("poisson", 2, rows=1500, tolerance=1e-9)
    level = job.tables["host1"]["area1"] == "area 2"
    mean = np.exp(job.offset) * np.where(level, 1000.0, 1.0)
    label = np.random.default_rng(0).poisson(mean).astype(float)
    job = dataclasses.replace(job, rows=dataclasses.replace(job.rows, label=label))
    fit, beta = job.pooled()
    assert fit.converged and fit.iterations < 30
    assert_close(beta, by_glum(job, "poisson").coefficients, 1e-5, 1e-7)


# Federated and pooled.


def assert_same(job: Job, found: tuple[Fit, np.ndarray]) -> None:
    """The parties' model is the one in the clear, bit for bit; and if it converged it is at the pooled
    optimum, where the gradient without any rounding is as small as the job asks."""
    fit, beta = found
    guest, *hosts = job.tables
    plain, parts = asyncio.run(
        plain_fit(
            {guest: job.matrices[guest]},
            {host: job.matrices[host] for host in hosts},
            job.rows,
            job.params,
        )
    )
    assert fit.iterations == plain.iterations and fit.converged == plain.converged
    assert np.array_equal(beta, np.concatenate([*plain.coefficients.values(), *parts.values()]))
    assert fit.intercept == plain.intercept and np.array_equal(fit.score, plain.score)
    assert (fit.deviance, fit.gradient, fit.readable) == (
        plain.deviance,
        plain.gradient,
        plain.readable,
    )
    if fit.converged:
        left = gradient(job, beta, fit.intercept)[int(job.params.fit_intercept is False) :]
        assert np.linalg.norm(left) <= 1.01 * job.params.tolerance * label_unit(job)


def label_unit(job: Job) -> float:
    """What gradients are measured in: the root of the curvature times the null model's deviance."""
    rows, train = job.rows, job.rows.train
    null = Scores.start(
        rows.loss, rows.label[train], rows.weight[train], job.offset[train], job.params.fit_intercept
    )
    return math.sqrt(null.curvature() * null.deviance())


@pytest.mark.parametrize(
    ("family", "hosts", "alpha"),
    [
        ("logistic", 1, 0.01),
        ("poisson", 1, 0.0),
        ("poisson", 2, 0.01),
        ("gamma", 2, 0.0),
        ("tweedie", 3, 0.01),
        ("gaussian", 3, 0.0),
    ],
)
def test_federated_equals_pooled(family, hosts, alpha):
    job = make_job(family, hosts + 1, seed=hosts, alpha=alpha, tolerance=1e-6)
    assert 0 < job.rows.train.sum() < job.count
    assert_same(job, job.federated())


def test_federated_equals_pooled_without_intercept_and_rows_held_out():
    job = make_job("gamma", 2, rows=300, held_out=0.0, fit_intercept=False, alpha=0.001)
    assert_same(job, job.federated())


@pytest.mark.slow
def test_federated_equals_pooled_in_a_pool_of_processes():
    job = make_job("poisson", 2, rows=600, tolerance=1e-3)
    assert_same(job, job.federated(Machine(2)))


def odd_tables(rows: int = 400) -> dict[str, Features]:
    """A guest without a column, a host with one factor, one with odd numbers."""
    rng = np.random.default_rng(6)
    far = rng.normal(size=rows)
    far[7] = 1e4  # the most that one row can be away is the root of the rows that train, here 18
    return {
        "guest": {},
        "factor": {"area": rng.choice(np.array(["a", "b", "c"], object), rows)},
        "numbers": {
            "negative": -rng.gamma(2, 3, rows) - 50,
            "far": far,
            "few": rng.integers(-2, 1, rows).astype(float),
            "gaps": np.where(rng.random(rows) < 0.3, np.nan, rng.lognormal(size=rows)),
        },
    }


@pytest.mark.parametrize("family", ["poisson", "gaussian"])
def test_federated_equals_pooled_of_odd_tables(family):
    job = make_job(family, odd_tables(), spread=0.1)
    # Rows held out can be further away: a hundred deviations of those that train.
    job.tables["numbers"]["negative"][~job.rows.train] -= 400
    job = dataclasses.replace(job)
    assert np.abs(job.matrices["numbers"].numbers).max() > 90
    assert_same(job, job.federated())


@pytest.mark.parametrize("most", [1, 3])
def test_the_model_of_the_last_iteration_is_kept(most):
    job = make_job("poisson", 3, rows=300, tolerance=1e-12, max_iterations=most)
    kept, ends, told = [], [], []

    def watch(host, way, kind, payload):
        if kind == "FitEnd":
            ends.append(decode(payload, [glm.FitEnd]).converged)

    fit, beta = job.federated(
        watch=watch,
        keep=kept.append,
        progress=lambda done, of: told.append((done, of)),
    )
    assert not fit.converged and fit.iterations == most
    assert ends == [False, False]
    assert [own.converged for own in kept] == [False, False]
    assert sorted(told) == sorted([(k, most) for k in range(most + 1)] * 2)
    own = len(next(iter(fit.coefficients.values())))
    assert {tuple(own.coefficients) for own in kept} == {tuple(of) for of in np.split(beta[own:], 2)}
    assert_same(job, (fit, beta))


@pytest.mark.parametrize("encryption", ["paillier", "lattice"])
def test_a_fit_ends_before_hosts_could_read_too_many_labels(encryption):
    """With the model as it is by then. Where not even one iteration is admitted none begins."""
    job = make_job("poisson", 2, rows=300, tolerance=1e-9, encryption=encryption)
    rows = int(job.rows.train.sum())
    whole, _ = job.federated()
    share = 0.6 * whole.readable / rows
    limited = job.with_params(max_labels=share)
    found = limited.federated()
    assert_same(limited, found)
    assert not found[0].converged and 0 < found[0].iterations < whole.iterations
    assert 0 < found[0].readable <= share * rows < whole.readable
    assert found[0].deviance < 1.01 * whole.deviance
    kinds: list[str] = []
    with pytest.raises(
        ConfigError,
        match=rf"^host1 could read [\d,]+ of {rows} labels in the first iteration .* max_labels = 0.1 ",
    ):
        job.with_params(max_labels=0.1).federated(watch=lambda *seen: kinds.append(seen[2]))
    assert "FitReady" in kinds and "FitNext" not in kinds


def test_progress_is_told_each_iteration():
    job = make_job("poisson", 1, rows=300, tolerance=1e-7)
    seen: list[glm.IterationDone] = []
    fit = asyncio.run(guest_fit([], job.matrices, job.rows, job.params, course=GuestCourse(seen.append)))
    assert [done.iteration for done in seen] == list(range(fit.iterations + 1))
    deviances = [done.deviance for done in seen]
    assert deviances == sorted(deviances, reverse=True)
    assert seen[0].explained == 0.0 and seen[-1].explained == fit.explained
    assert seen[-1].gradient == fit.gradient <= 1e-7


# What is on the wire.

KINDS = [
    kind
    for module in (fitting_messages, start, masked_scores, products, key, fellows)
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, Message) and kind.__module__ == module.__name__
    if kind not in (products.LevelResiduals, products.OpenedByLevel)  # test_across.py
]


@dataclass
class Recorded:
    """A fit of several hosts and everything that was sent."""

    job: Job
    fit: Fit
    coefficients: np.ndarray
    messages: list[tuple[str, Message]]  # with the host's name

    def of(self, kind: type[Any], host: str | None = None) -> list[Any]:
        return [m for name, m in self.messages if isinstance(m, kind) and host in (None, name)]

    def shares(self, kind: type[Any], host: str) -> list[np.ndarray]:
        return [np.frombuffer(message.scores, "<u8") for message in self.of(kind, host)]

    def partial(self, train: bool) -> np.ndarray:
        """What all hosts' columns add to the scores of the rows that train, or of those held out."""
        matrices = list(self.job.matrices.values())
        own, mask = matrices[0].columns, self.job.rows.train == train
        return self.job.dense[mask][:, own:] @ self.coefficients[own:]

    @property
    def plaintexts(self) -> list[int]:
        """What the guest sees of the hosts' products, from 0 to below n."""
        data = b"".join(message.ciphertexts for message in self.of(products.MaskedProducts))
        return [value % N for value in KEY.decrypt(KEY.public.parse(data))]

    @property
    def residuals(self) -> list[np.ndarray]:
        """The ciphertexts that the first host got."""
        return [KEY.public.parse(m.ciphertexts) for m in self.of(products.Residuals, "host1")]


def record(job: Job) -> Recorded:
    messages: list[tuple[str, Message]] = []
    fit, coefficients = job.federated(
        watch=lambda host, way, kind, payload: messages.append((host, decode(payload, KINDS)))
    )
    return Recorded(job, fit, coefficients, messages)


@pytest.fixture(scope="module")
def runs():
    """The same job of two hosts twice."""
    # Of many columns, so that there are many plaintexts to look at.
    rng = np.random.default_rng(2)
    tables = {"guest": mixed(rng, 500, 0)} | {f"host{k}": mixed(rng, 500, k, levels=30) for k in (1, 2)}
    job = make_job("poisson", tables, 500, alpha=0.01, tolerance=1e-5)
    return record(job), record(job)


def uniform_bytes(data: bytes) -> float:
    """The chance of bytes as uneven as these, if all are equally likely."""
    return float(chisquare(np.bincount(np.frombuffer(data, np.uint8), minlength=256)).pvalue)


def test_what_the_guest_opens_is_uniform(runs):
    """Every plaintext is a sum under a mask uniform below n: as likely at the top as at the bottom."""
    values = [value for run in runs for value in run.plaintexts]
    assert len(values) >= 30 and len(set(values)) == len(values)
    assert kstest([value / N for value in values], "uniform").pvalue > 1e-9
    # Sums alone would lie near 0 or n: two masks in 2^40 do, of hundreds one with less than 1e-9.
    assert all(N >> 40 < value < N - (N >> 40) for value in values)
    # And their lowest bits, which a mask of multiples would leave alone, are a fair coin's: as far from
    # the half as these come by chance with less than 1e-9.
    assert binomtest(sum(value % 2 for value in values), len(values)).pvalue > 1e-9


@pytest.mark.parametrize("kind", [masked_scores.ScoreChange, masked_scores.HeldOutScores])
def test_scores_of_a_host_are_hidden_and_their_sum_is_not(runs, kind):
    run = runs[0]
    shares = {host: run.shares(kind, host) for host in ("host1", "host2")}
    for own in shares.values():
        assert uniform_bytes(b"".join(share.tobytes() for share in own)) > 1e-9
        every = np.concatenate(own)
        assert len(np.unique(every)) == len(every)
    totals = [(a + b).view(np.int64) for a, b in zip(*shares.values(), strict=True)]
    if kind is masked_scores.ScoreChange:
        combines, steps = run.of(glm.Combine, "host1"), run.of(glm.Step, "host1")
        assert len(totals) == len(steps) == run.fit.iterations
        found = sum(
            step.size * total / combine.precision
            for total, combine, step in zip(totals, combines, steps, strict=True)
        )
        expected = run.partial(train=True)
    else:
        found, expected = totals[0].astype(float), run.partial(train=False)
        precision = 2.0 ** round(math.log2(np.linalg.norm(found) / np.linalg.norm(expected)))
        found = found / precision
        assert precision > 2.0**35  # that many steps within a score of 1
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("kind", [glm.InnerProducts, glm.PenaltyProducts])
def test_numbers_of_a_host_are_hidden_and_their_sum_is_not(runs, kind):
    """Each host's are uniform; what they come to is what both hosts' directions and steps come to."""
    run = runs[0]
    shares = {
        host: [
            [int.from_bytes(m.products[i : i + 32], "little") for i in range(0, len(m.products), 32)]
            for m in run.of(kind, host)
        ]
        for host in ("host1", "host2")
    }
    for own in shares.values():
        every = [number for numbers in own for number in numbers]
        assert uniform_bytes(b"".join(number.to_bytes(32, "little") for number in every)) > 1e-9
        assert len(set(every)) == len(every)
    sums = [sums_of(parts, 1.0, "numbers") for parts in zip(*shares.values(), strict=True)]
    assert len(sums) == run.fit.iterations + (kind is glm.InnerProducts)
    assert all(numbers[-1] > 0 for numbers in sums)  # squares
    if kind is glm.InnerProducts:
        assert sums[-1][-1] < 1e-9 * sums[0][-1]


def test_scores_of_a_single_host_are_not_hidden():
    """The control of the test above: what the guest learns of one host, it shows."""
    run = record(make_job("poisson", 2, rows=300, tolerance=1e-3))
    for kind in (masked_scores.ScoreChange, masked_scores.HeldOutScores):
        assert uniform_bytes(b"".join(share.tobytes() for share in run.shares(kind, "host1"))) < 1e-12


def test_the_same_residuals_are_never_the_same_ciphertexts(runs):
    one, other = (run.residuals[0] for run in runs)
    plain = KEY.decrypt(one[:40])
    assert plain == KEY.decrypt(other[:40])
    assert any(plain)
    rows = [row.tobytes() for run in runs for chunk in run.residuals for row in chunk]
    assert len(rows) == sum(run.job.rows.train.sum() * (run.fit.iterations + 1) for run in runs)
    assert len(set(rows)) == len(rows)
    for run in runs:
        assert run.of(products.Residuals, "host1") == run.of(products.Residuals, "host2")


def test_two_runs_share_nothing_that_is_hidden(runs):
    for kind, content in (
        (fellows.FellowKey, "public_key"),
        (products.Residuals, "ciphertexts"),
        (products.MaskedProducts, "ciphertexts"),
        (products.OpenedProducts, "plaintexts"),
        (masked_scores.ScoreChange, "scores"),
        (masked_scores.HeldOutScores, "scores"),
    ):
        parts = [
            {
                data[i : i + 32]
                for m in run.of(kind)
                for data in [getattr(m, content)]
                for i in range(0, len(data) - 15, 32)  # what is shorter may be the same by chance
            }
            for run in runs
        ]
        assert parts[0] and not parts[0] & parts[1], kind
    assert runs[0].fit.score == pytest.approx(runs[1].fit.score, abs=1e-9)


def test_no_other_kinds_of_messages_are_sent(runs):
    for kind in KINDS:
        assert "Reveals:" in kind.__doc__ and "->" in kind.__doc__.splitlines()[0]
        # Of several penalties alone (test_penalty_path.py).
        assert bool(runs[0].of(kind)) == (kind is not fitting_messages.NextPenalty), kind


# Hostile and faulty peers.

SMALL = make_job("poisson", 2, rows=100, alpha=0.01, tolerance=1e-3)
SMALL_OF_THREE = make_job("poisson", 3, rows=120, alpha=0.01, tolerance=1e-3, max_iterations=1)


def against(
    liar: str,
    kind: type[Message] | None = None,
    change: Callable[[Any], Message] = lambda message: message,
    job: Job = SMALL,
    guest_job: Job | None = None,
    **options: Any,
) -> Any:
    """What the other side returns or raises when the liar sends `change` of its messages of a kind.

    The liar does as it should otherwise. `guest_job` is the guest's where it is another than the host's.
    """

    async def run() -> Any:
        to_host, to_guest = MemoryPeer.pair("guest", "host1")
        peer = to_host if liar == "guest" else to_guest
        send = peer.send

        async def lie(message: Message) -> None:
            await send(change(message) if kind is not None and isinstance(message, kind) else message)

        peer.send = lie  # type: ignore[method-assign]
        roles = {
            "guest": (guest_job or job).guest([to_host]),
            "host1": job.host(to_guest, "host1", **options),
        }
        lying = asyncio.create_task(telling(roles.pop(liar), [peer]))
        try:
            return await roles.popitem()[1]
        finally:
            lying.cancel()
            with contextlib.suppress(asyncio.CancelledError, VflError):
                await lying

    return asyncio.run(run())


async def telling(role: Any, peers: Sequence[Peer]) -> None:
    """A role in a job: a party whose part has failed tells the others why."""
    try:
        await role
    except VflError as error:
        await stop_all(peers, error)
        raise


def replaced(**changes: Any) -> Callable[[Any], Message]:
    """The message with other fields; a field's change may be a function of it."""

    def change(message: Any) -> Message:
        fields = {k: v(getattr(message, k)) if callable(v) else v for k, v in changes.items()}
        made: Message = msgspec.structs.replace(message, **fields)
        return made

    return change


NAN, INF = math.nan, math.inf
WIDTH = KEY.public.width
BEYOND = int(KEY.public.n_squared).to_bytes(WIDTH, "little")
MULTIPLE = N.to_bytes(WIDTH, "little")
BAD_CIPHERTEXTS = {
    "zero": bytes(WIDTH),
    "beyond": BEYOND,
    "a multiple of n": MULTIPLE,
}

LIES = [
    (
        "guest",
        start.FitStart,
        {"training": lambda t: t + b"\0"},
        "a FitStart with a wrong number of bits",
    ),
    ("guest", start.FitStart, {"training": lambda t: t[:-1]}, "a FitStart with a wrong number of bits"),
    ("guest", start.FitStart, {"curvature": lambda c: 0.0}, "a FitStart without a curvature"),
    ("guest", start.FitStart, {"curvature": lambda c: math.nan}, "a FitStart without a curvature"),
    *(
        ("guest", start.FitStart, {"deviance": bad}, "a FitStart whose deviance is no power of two")
        for bad in (0.0, -1.0, 3.0, INF, NAN)
    ),
    (
        "guest",
        products.Residuals,
        {"ciphertexts": lambda c: c[:-1]},
        "Residuals of another number of rows",
    ),
    ("guest", products.Residuals, {"ciphertexts": b""}, "Residuals of another number of rows"),
    (
        "guest",
        products.Residuals,
        {"ciphertexts": lambda c: c + c[:WIDTH]},
        "Residuals of another number of rows",
    ),
    *(
        (
            "guest",
            products.Residuals,
            {"ciphertexts": lambda c, bad=bad: bad + c[WIDTH:]},
            "Residuals with a ciph",
        )
        for bad in BAD_CIPHERTEXTS.values()
    ),
    (
        "guest",
        products.OpenedProducts,
        {"plaintexts": lambda p: p[:-1]},
        "OpenedProducts of another number",
    ),
    (
        "guest",
        products.OpenedProducts,
        {"plaintexts": lambda p: p + p},
        "OpenedProducts of another number",
    ),
    ("guest", products.OpenedProducts, {"plaintexts": b""}, "OpenedProducts of another number"),
    *(
        ("guest", products.OpenedProducts, {"scale": scale}, "OpenedProducts of another number")
        for scale in (0.0, -1.0, INF, NAN)
    ),
    ("guest", glm.FitNext, {"bits": lambda b: b - 3}, "OpenedProducts of another number"),
    (
        "guest",
        products.OpenedProducts,
        {"plaintexts": lambda p: bytes(len(p))},
        "OpenedProducts with a plaintext that is no masked product",
    ),
    ("guest", glm.Combine, {"weights": []}, "Combine of another number of vectors"),
    ("guest", glm.Combine, {"weights": lambda w: [*w, 0.0]}, "Combine of another number of vectors"),
    ("guest", glm.Combine, {"weights": [NAN]}, "Combine of another number of vectors, or none"),
    ("guest", glm.Combine, {"weights": [-INF]}, "Combine of another number of vectors, or none"),
    *(
        ("guest", glm.Combine, {"precision": bad}, "Combine without a precision")
        for bad in (0.0, -1.0, INF, NAN)
    ),
    ("guest", glm.Step, {"size": NAN}, "a Step that is no number"),
    ("guest", glm.Step, {"size": -INF}, "a Step that is no number"),
    ("host1", start.FitReady, {"columns": -1}, "FitReady with a negative number of columns"),
    (
        "host1",
        products.MaskedProducts,
        {"ciphertexts": lambda c: c[:-1]},
        "MaskedProducts of another number of products than it has columns",
    ),
    (
        "host1",
        products.MaskedProducts,
        {"ciphertexts": lambda c: c[:WIDTH] * 2},
        "MaskedProducts of another number of products than it has columns",
    ),
    *(
        ("host1", products.MaskedProducts, {"ciphertexts": bad}, "MaskedProducts with a ciphertext")
        for bad in BAD_CIPHERTEXTS.values()
    ),
    *(
        ("host1", kind, {"products": change}, f"{kind.__name__} with another number of bytes")
        for kind in (glm.InnerProducts, glm.PenaltyProducts)
        for change in (b"", lambda p: p[:-1], lambda p: p + bytes(32))
    ),
    (
        "host1",
        masked_scores.ScoreChange,
        {"scores": lambda s: s[:-8]},
        "ScoreChange of another number of rows",
    ),
    (
        "host1",
        masked_scores.ScoreChange,
        {"scores": lambda s: s + bytes(8)},
        "ScoreChange of another number of rows",
    ),
    ("host1", masked_scores.ScoreChange, {"scores": b""}, "ScoreChange of another number of rows"),
    (
        "host1",
        masked_scores.HeldOutScores,
        {"scores": lambda s: s[:-1]},
        "HeldOutScores of another number of rows",
    ),
]


@pytest.mark.parametrize(
    ("liar", "kind", "fields", "what"),
    LIES,
    ids=[f"{kind.__name__}-{k}" for k, (_, kind, *_) in enumerate(LIES)],
)
def test_a_lie_is_refused_by_name(liar, kind, fields, what):
    with pytest.raises(PeerError, match=f"^{liar} broke the protocol: it sent {what}"):
        against(liar, kind, replaced(**fields))


@pytest.mark.parametrize(
    ("liar", "kind", "other", "due"),
    [
        ("guest", key.Key, glm.FitNext(), "Key"),
        ("guest", start.FitStart, glm.FitNext(), "FitStart"),
        ("guest", glm.FitNext, glm.Step(1.0), "FitNext or FitEnd"),
        ("guest", products.Residuals, glm.FitEnd(True), "Residuals"),
        ("guest", products.OpenedProducts, glm.FitEnd(True), "OpenedProducts"),
        ("guest", glm.Combine, glm.FitNext(), "Combine or FitEnd"),
        ("guest", glm.Step, glm.FitEnd(True), "Step"),
        ("host1", start.FitReady, glm.FitKept(), "FitReady"),
        ("host1", products.MaskedProducts, glm.FitKept(), "MaskedProducts"),
        ("host1", glm.InnerProducts, glm.FitKept(), "InnerProducts"),
        ("host1", masked_scores.ScoreChange, masked_scores.HeldOutScores(b""), "ScoreChange"),
        ("host1", glm.PenaltyProducts, glm.FitKept(), "PenaltyProducts"),
        ("host1", masked_scores.HeldOutScores, masked_scores.ScoreChange(b""), "HeldOutScores"),
        ("host1", glm.FitKept, start.FitReady(1), "FitKept"),
    ],
)
def test_a_message_out_of_turn_is_refused(liar, kind, other, due):
    text = f"^{liar} broke the protocol: it sent {type(other).__name__} where {due} or Stop was due$"
    with pytest.raises(PeerError, match=text):
        against(liar, kind, lambda message: other)


def test_a_key_of_another_size_is_refused():
    asked = SMALL.params.model_copy(update={"key_bits": 3072})
    with pytest.raises(PeerError, match=r"^guest .* a Key of 2048 bits where the job says 3072$"):
        against("guest", params=asked)
    with pytest.raises(PeerError, match=r"^guest .* a Key with a modulus of 2040 bits"):
        against("guest", key.Key, replaced(modulus=lambda n: n[:-1]))
    with pytest.raises(PeerError, match=r"^guest .* a Key of another scheme than paillier$"):
        against("guest", key.Key, replaced(encryption="ou"))


def test_more_iterations_than_the_job_says_are_refused():
    few, many = (SMALL.with_params(max_iterations=most, tolerance=1e-12) for most in (1, 6))
    with pytest.raises(PeerError, match=r"^guest .* a FitNext beyond the last iteration$"):
        against("guest", job=few, guest_job=many)


@pytest.mark.parametrize(
    ("liar", "kind", "fields"),
    [
        ("guest", glm.Combine, {"weights": [1e300]}),
        ("guest", glm.Combine, {"precision": 1e300}),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_numbers_beyond_all_bounds_end_the_fit(liar, kind, fields):
    """Nobody can tell who is wrong when a number is finite but makes the sums infinite."""
    with pytest.raises(ConfigError, match=r"the fit diverges, with .* beyond all bounds: raise alpha"):
        against(liar, kind, replaced(**fields))


def told(numbers: Sequence[float]) -> bytes:
    """Numbers as a host alone tells them."""
    return hidden(in_fixed_point(numbers, 1.0, "numbers"), fellows.Masks("host1", {}, Transcript()))


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (masked_scores.ScoreChange, {"scores": lambda s: b"\x7f" * len(s)}),
        (masked_scores.ScoreChange, {"scores": lambda s: np.random.default_rng(0).bytes(len(s))}),
        (glm.PenaltyProducts, {"products": lambda p: told([2.0**80, -(2.0**80)])}),
        (glm.PenaltyProducts, {"products": lambda p: b"\x7f" * len(p)}),
        (glm.InnerProducts, {"products": lambda p: told([-1.0] * (len(p) // 32))}),
        (glm.InnerProducts, {"products": lambda p: told([2.0**88] * (len(p) // 32))}),
        (glm.InnerProducts, {"products": lambda p: b"\x80" * len(p)}),
        (products.MaskedProducts, {"ciphertexts": b""}),
    ],
)
def test_made_up_numbers_harm_the_model_alone(kind, fields):
    """A host that makes numbers up can spoil the model or end the job, and neither hold the guest up
    nor make it fail in another way."""
    with contextlib.suppress(VflError):
        fit = against("host1", kind, replaced(**fields), SMALL.with_params(max_iterations=3))
        assert np.isfinite(fit.score).all() and fit.iterations <= 3


def test_a_host_with_too_many_columns_is_refused():
    with pytest.raises(
        DataError, match=r"^host1 has 31 columns to fit \d+ rows with, .* needs 5 rows a column"
    ) as refused:
        against("host1", start.FitReady, replaced(columns=31))
    assert "host1 has too many columns for" in refused.value.for_peer
    rng = np.random.default_rng(0)
    wide = {"guest": mixed(rng, 100, 0), "host1": mixed(rng, 100, 1, levels=40)}
    with pytest.raises(DataError, match=r"^host1 has \d\d columns to fit"):
        make_job("poisson", wide, 100).federated()


def test_a_host_refuses_fewer_rows_than_its_policy():
    train = int(SMALL.rows.train.sum())
    text = rf"^{train} rows to train on are below rule min_intersection = {train + 1} of \[policy\]: "
    with pytest.raises(Refused, match=text) as refused:
        against("guest", minimum=train + 1)
    assert refused.value.for_peer == str(refused.value)
    against("guest", minimum=train)


def test_a_number_too_large_for_the_key_is_an_error_of_the_hosts_own_data():
    matrix = SMALL.matrices["host1"]
    far = dataclasses.replace(matrix, numbers=matrix.numbers * 2.0**50)

    async def run():
        to_host, to_guest = MemoryPeer.pair("guest", "host1")
        host = host_fit(
            to_guest,
            SMALL.count,
            lambda train: far,
            SMALL.params,
            Participant("host1", ["host1"]),
        )
        await together([SMALL.guest([to_host]), host])

    with pytest.raises(
        DataError, match=r"a numeric column cannot be used under this key: a number of 7\d"
    ):
        asyncio.run(run())


def test_errors_hold_no_values():
    for liar, kind, fields, _ in LIES[::6]:
        with pytest.raises(PeerError) as refused:
            against(liar, kind, replaced(**fields))
        assert not set("0123456789") & set(str(refused.value).replace("host1", ""))
        assert refused.value.for_peer.startswith("a peer broke the protocol with")


# Peers that leave.


class Left(Exception):
    """Raised in a party that is to leave."""


LEAVES = [
    *(("guest", kind) for kind in KINDS if kind.__doc__.startswith("guest")),
    *(("host1", kind) for kind in KINDS if kind.__doc__.startswith("host")),
]


@pytest.mark.parametrize(
    ("who", "kind"), LEAVES, ids=[f"{who} before {kind.__name__}" for who, kind in LEAVES]
)
def test_who_is_left_alone_ends(who, kind):
    """One party's connection breaks just before it sends its first message of a kind. As in a job, a
    party that ends tells the others why."""
    job = SMALL_OF_THREE
    if kind is glm.NextPenalty:
        job = job.with_params(alphas=(0.1, 0.01), folds=2)
    ends: dict[str, VflError | None] = {}

    async def party(name: str, role: Any, peers: list[MemoryPeer]) -> None:
        def leave(way: str, message: str, payload: bytes) -> None:
            if name == who and way == "sent" and message == kind.__name__:
                raise Left

        for peer in peers:
            peer.observers.append(leave)
        ends[name] = None
        try:
            await telling(role, peers)
        except Left:
            for peer in peers:
                await peer.close()
        except VflError as error:
            ends[name] = error

    async def run() -> None:
        pairs = {host: MemoryPeer.pair("guest", host) for host in ("host1", "host2")}
        await together(
            [
                party(
                    "guest",
                    job.guest([p for p, _ in pairs.values()]),
                    [p for p, _ in pairs.values()],
                ),
                *(party(host, job.host(p, host), [p]) for host, (_, p) in pairs.items()),
            ]
        )

    asyncio.run(run())
    assert isinstance(ends["host1" if who == "guest" else "guest"], PeerLost)
    # A host that has nothing to wait for any more has kept its half.
    assert isinstance(ends["host2"], PeerLost | PeerStopped) or kind in (
        masked_scores.HeldOutScores,
        glm.FitKept,
    )
