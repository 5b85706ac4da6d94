"""Linear models under an elastic net: glum's optimum and glum's zeros, whoever holds the columns."""

import asyncio
import dataclasses
from pathlib import Path

import glum
import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from scipy.optimize import nnls
from test_glm import (
    GLUM,
    Job,
    against,
    assert_close,
    correlated,
    make_job,
    replaced,
)
from test_glm_plain import federated, plain
from test_glm_plain import job as plain_job
from test_penalty_path import ROWS, tables

import vfl
from vfl.errors import ConfigError, PeerError
from vfl.leakage.disclosure import Circumstances
from vfl.leakage.of_linear import of_linear
from vfl.learn.glm import Block, Scores
from vfl.learn.losses import loss_of
from vfl.learn.params import GlmParams
from vfl.learn.sparse import SparseBlock, another_scale, sparse_combination
from vfl.party.config import Job as JobFile
from vfl.party.config import load_job
from vfl.protocols.linear import directions
from vfl.protocols.linear.fitting import guest_fit
from vfl.protocols.linear.fitting_messages import Combine, Step
from vfl.protocols.linear.penalty_path import folds_of

# glum's own, next to rounding.
pytestmark = pytest.mark.filterwarnings("ignore:Line search failed")

FAMILIES = ("gaussian", "poisson", "logistic", "gamma", "tweedie", "negative_binomial")


def by_glum(job: Job, family: str) -> tuple[np.ndarray, float]:
    """glum's coefficients of all columns, and its intercept."""
    rows, train, params = job.rows, job.rows.train, job.params
    model = glum.GeneralizedLinearRegressor(
        family=GLUM[family],
        link="log" if rows.loss.link == "log" else "auto",
        alpha=params.alpha,
        l1_ratio=params.l1_ratio,
        fit_intercept=params.fit_intercept,
        gradient_tol=1e-9,
        max_iter=300,
    )
    model.fit(job.dense[train], rows.label[train], rows.weight[train], offset=job.offset[train])
    return model.coef_, float(model.intercept_)


def slack(job: Job, beta: np.ndarray, intercept: float) -> float:
    """How far 0 is from what the objective has in place of a gradient, in any coefficient."""
    rows, train, params = job.rows, job.rows.train, job.params
    score = job.dense[train] @ beta + intercept + job.offset[train]
    residual, _ = rows.loss.gradients(score, rows.label[train], rows.weight[train])
    residual = residual / rows.weight[train].sum()
    lasso = params.alpha * params.l1_ratio
    smooth = job.dense[train].T @ residual + (params.alpha - lasso) * beta
    left = np.where(beta != 0, smooth + lasso * np.sign(beta), np.maximum(np.abs(smooth) - lasso, 0))
    constant = [residual.sum()] if params.fit_intercept else []
    return float(np.abs([*left, *constant]).max())


@pytest.mark.parametrize(("l1_ratio", "parties"), [(0.3, 3), (1.0, 2)])
@pytest.mark.parametrize("alpha", [0.1, 0.01])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_optimum_and_its_zeros_are_glums(family, alpha, l1_ratio, parties):
    params = {"alpha": alpha, "l1_ratio": l1_ratio, "tolerance": 1e-10}
    job = make_job(family, parties, rows=800, seed=parties, **params)
    fit, beta = job.pooled()
    assert fit.converged and fit.iterations < 40
    assert slack(job, beta, fit.intercept) < 2e-10
    expected, intercept = by_glum(job, family)
    assert ((beta == 0) == (expected == 0)).all()
    # glum ends at a gradient of 1e-9.
    assert_close(beta, expected, 1e-6, 1e-6)
    assert fit.intercept == pytest.approx(intercept, abs=1e-6)


def test_without_an_intercept() -> None:
    job = make_job(
        "poisson", 2, rows=800, seed=5, fit_intercept=False, alpha=0.05, l1_ratio=0.8, tolerance=1e-10
    )
    fit, beta = job.pooled()
    expected, _ = by_glum(job, "poisson")
    assert fit.converged and fit.intercept == 0.0 and 0 < (beta == 0).sum() < len(beta)
    assert ((beta == 0) == (expected == 0)).all()
    assert_close(beta, expected, 1e-6, 1e-6)


@pytest.mark.parametrize("across", [True, False])
def test_columns_that_all_but_depend(across: bool) -> None:
    """A lasso of columns that tell nearly the same: no penalty on squares helps."""
    job = make_job(
        "gaussian", correlated(across, 1e-2), rows=2000, seed=2, alpha=0.01, l1_ratio=1.0, tolerance=1e-9
    )
    fit, beta = job.pooled()
    assert fit.converged
    assert slack(job, beta, fit.intercept) < 1e-8


@pytest.mark.parametrize("across", [True, False])
def test_equal_columns_have_an_optimum_too(across: bool) -> None:
    job = make_job(
        "gaussian", correlated(across, 0.0), rows=2000, seed=2, alpha=0.01, l1_ratio=1.0, tolerance=1e-7
    )
    fit, beta = job.pooled()
    assert fit.converged
    assert slack(job, beta, fit.intercept) < 1e-6


def test_many_columns_of_which_few_count() -> None:
    rng = np.random.default_rng(4)
    names = {"guest": "x", "a": "y", "b": "z"}
    own = {n: {f"{c}{k}": rng.normal(size=600) for k in range(60)} for n, c in names.items()}
    job = make_job("poisson", own, rows=600, seed=1, spread=0.03, alpha=0.03, l1_ratio=0.9)
    job = job.with_params(tolerance=1e-9)
    fit, beta = job.pooled()
    expected, _ = by_glum(job, "poisson")
    assert fit.converged and (beta == 0).sum() > 60
    assert ((beta == 0) == (expected == 0)).all()
    assert_close(beta, expected, 1e-6, 1e-6)


def test_a_penalty_that_leaves_nothing() -> None:
    job = make_job("logistic", 2, alpha=10.0, l1_ratio=1.0)
    fit, beta = job.pooled()
    assert fit.converged and (beta == 0).all()


# Over parties.


@pytest.mark.usefixtures("quick_key")
@pytest.mark.parametrize(
    ("family", "hosts", "params"),
    [
        ("poisson", 2, {"max_iterations": 4, "alpha": 0.05, "l1_ratio": 0.5}),
        ("logistic", 1, {"encryption": "lattice", "alpha": 0.02, "l1_ratio": 1.0}),
        ("gaussian", 2, {"encryption": "lattice", "alpha": 0.1, "l1_ratio": 0.9}),
        (
            "poisson",
            2,
            {"encryption": "lattice", "alphas": (0.1, 0.02), "folds": 2, "l1_ratio": 0.9},
        ),
    ],
)
def test_every_bit_is_that_of_the_protocol(family, hosts, params) -> None:
    apart, there = federated(plain_job(family, hosts, **params))
    fit, here = plain(plain_job(family, hosts, **params))
    assert (fit.intercept, fit.iterations) == (apart.intercept, apart.iterations)
    assert fit.choice == apart.choice
    assert np.array_equal(fit.coefficients["guest"], apart.coefficients["guest"])
    assert np.array_equal(fit.score, apart.score)
    for name, coefficients in there.items():
        assert np.array_equal(here[name], coefficients)
    assert any((coefficients == 0).any() for coefficients in there.values())


@pytest.mark.parametrize("encryption", ["paillier", "lattice"])
def test_rounded_residuals_have_glums_zeros_too(encryption: str) -> None:
    settings = {"alpha": 0.03, "l1_ratio": 0.7, "tolerance": 1e-9, "encryption": encryption}
    job = make_job("poisson", 3, rows=800, seed=9, **settings)
    fit, theirs = plain(job)
    beta = np.concatenate([fit.coefficients["guest"], *theirs.values()])
    expected, _ = by_glum(job, "poisson")
    assert fit.converged and ((beta == 0) == (expected == 0)).all()
    assert_close(beta, expected, 1e-6, 1e-6)


# A path of penalties.

ALPHAS = (0.2, 0.05, 0.01)


def test_a_path_is_that_of_fits_of_each_fold() -> None:
    guest, host, label = tables()
    model = vfl.FederatedGLM(
        family="poisson", hosts={"host": host}, alphas=ALPHAS, folds=3, l1_ratio=0.8, tolerance=1e-9
    ).fit(guest, label)
    dense = np.hstack([guest, host])
    dense = (dense - dense.mean(axis=0)) / dense.std(axis=0)
    folds = folds_of(label, np.ones(ROWS), 3, 0)
    loss = loss_of("poisson")
    for alpha, deviance, _ in model.alphas_.itertuples(index=False):
        found = []
        for fold in range(3):
            rest = folds != fold
            one = glum.GeneralizedLinearRegressor(
                family="poisson", alpha=alpha, l1_ratio=0.8, gradient_tol=1e-9, max_iter=300
            ).fit(dense[rest], label[rest])
            score = dense[~rest] @ one.coef_ + one.intercept_
            found.append(loss.deviance(score, label[~rest], np.ones((~rest).sum())))
        assert deviance == pytest.approx(np.average(found, weights=np.bincount(folds)), rel=1e-6)
    alone = vfl.FederatedGLM(
        family="poisson", hosts={"host": host}, alpha=model.alpha_, l1_ratio=0.8, tolerance=1e-9
    ).fit(guest, label)
    for name in model.coef_:
        pd.testing.assert_series_equal(model.coef_[name], alone.coef_[name], check_exact=True)
    assert (model.coef_["host"] == 0).any()
    zeros = model.relativities_["host"].set_index("column")["coefficient"] == 0
    assert (zeros == (model.coef_["host"].droplevel("level") == 0)).all()


def test_probabilities_under_a_lasso() -> None:
    guest, host, label = tables()
    model = vfl.FederatedLogisticRegression(hosts={"host": host}, alpha=0.05, l1_ratio=1.0)
    model.fit(guest, label > 0)
    beta = np.concatenate([model.coef_["guest"], model.coef_["host"]])
    assert 0 < (beta == 0).sum() < len(beta)
    assert model.predict_proba(guest).shape == (ROWS, 2)


def test_rows_of_several_parties() -> None:
    guest, host, label = tables()
    frame = pd.concat([guest, host], axis=1)
    frame["who"] = np.arange(ROWS) % 3
    model = vfl.PooledGLM(family="poisson", parties="who", alpha=0.05, l1_ratio=1.0)
    model.fit(frame, label)
    whole = vfl.FederatedGLM(family="poisson", hosts={}, alpha=0.05, l1_ratio=1.0, tolerance=1e-9)
    whole.fit(frame.drop(columns="who"), label)
    expected = whole.coef_["guest"]
    assert ((model.coef_ == 0) == (expected == 0)).all() and (expected == 0).any()
    pd.testing.assert_series_equal(model.coef_, expected, atol=1e-7)
    assert model.standard_errors_.isna().all() and model.summary()["standard_error"].isna().all()


# The parts.


def test_a_direction_is_the_least_of_the_blocks_own_model() -> None:
    """Without a history: as SciPy finds it within the signs. With the exact zeros of a bound."""
    job = make_job("gaussian", 1, rows=200, seed=3, alpha=0.4, l1_ratio=0.75)
    (matrix,) = job.matrices.values()
    dense = matrix.dense() - matrix.dense().mean(axis=0)
    block = SparseBlock(matrix, 0.4, True, 1.0, 0.75)
    rng = np.random.default_rng(0)
    beta = rng.normal(size=matrix.columns) * 0.2
    beta[1] = 0.0
    block.beta = beta
    product = 0.8 * rng.normal(size=matrix.columns)
    block.report(product)
    move = block.direction(np.array([-1.0]))
    block.step(1.0)
    hessian = dense.T @ dense / 200 + 0.1 * np.eye(matrix.columns)
    slope = product + 0.1 * beta
    signs = np.where(beta != 0, np.sign(beta), -np.sign(slope) * (np.abs(slope) > 0.3))
    slope = slope + 0.3 * signs
    # In terms of the magnitudes, which are at least 0.
    root = np.linalg.cholesky(hessian).T
    target = np.linalg.solve(root.T, hessian @ beta - slope)
    magnitudes, _ = nnls(root * signs, target)
    assert (magnitudes == 0).any() and (magnitudes > 0).any()
    assert ((block.beta == 0) == (magnitudes == 0)).all()
    assert block.beta == pytest.approx(signs * magnitudes, abs=1e-6)
    assert move.scores == pytest.approx(matrix.dense() @ (block.beta - beta))
    half = np.abs(block.beta).sum() - np.abs(beta).sum()
    assert move.linear == pytest.approx(0.75 * half + 0.25 * beta @ (block.beta - beta))


def test_a_step_is_whole_where_it_gains_half_as_much() -> None:
    rng = np.random.default_rng(1)
    label = rng.normal(size=200)
    way = rng.normal(size=200)
    way -= way.mean()
    best = float(way @ (label - label.mean())) / float(way @ way)

    def gone(size: float) -> float:
        scores = Scores.start(loss_of("gaussian"), label, np.ones(200), np.zeros(200), True)
        move = dataclasses.replace(zero, scores=way * best / size)
        return scores.go(move, 0.0, True, bounded=True)

    zero = Block(make_job("gaussian", 1).matrix("guest", np.ones(400, bool)), 0.0, True)
    zero.report(np.zeros(zero.matrix.columns))
    zero = zero.direction(np.array([-1.0]))
    assert gone(1.0) == 1.0
    assert gone(1.5) == 1.0  # as far as it goes
    assert gone(0.6) == 1.0  # 1 gains more than half
    assert gone(0.5) == pytest.approx(0.5)
    assert gone(-1.0) == 0.0  # leads up


def test_after_a_step_of_nothing_the_way_is_down_the_gradient() -> None:
    vectors = np.random.default_rng(0).normal(size=(5, 3))
    vectors[1] = vectors[3] = 0.0
    weights = sparse_combination(vectors @ vectors.T)
    assert weights.tolist() == [0.0, 0.0, 0.0, 0.0, -1.0]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "set alpha, or alphas, above 0"),
        ({"alpha": 0.1, "shrink_to": "mean"}, 'l1_ratio is for shrink_to = "base"'),
        ({"alpha": 0.1, "inference": True}, "inference is for l1_ratio = 0"),
        ({"alpha": 0.1, "scores": "hidden", "coordinator": "c"}, 'l1_ratio is for scores = "guest"'),
        ({"alpha": 0.1, "l1_ratio": 1.1}, "less than or equal to 1"),
    ],
)
def test_settings_that_do_not_go_together(settings, said) -> None:
    with pytest.raises(ValidationError, match=said):
        GlmParams(**{"l1_ratio": 0.5, **settings})


def test_another_direction_by_the_same_gradient() -> None:
    assert another_scale([1.0], 0.9) is None
    assert another_scale([1.0], -3.0) == pytest.approx(0.2)
    assert another_scale([1.0, 0.2], 0.1) == pytest.approx(0.04)
    assert another_scale([1.0, 0.2, 0.04, 0.008], 0.1) is None  # no more
    assert another_scale([1.0], 5.0) == 5.0
    assert another_scale([1.0], 500.0) == 10.0
    assert another_scale([1.0, 5.0], 0.01) == 1.0  # back
    assert another_scale([1.0, 5.0, 1.0], 5.0) is None
    assert another_scale([1.0, 0.2], 5.0) is None


SMALL = make_job("poisson", 2, rows=100, alpha=0.05, l1_ratio=0.5, tolerance=1e-3)


@pytest.mark.usefixtures("quick_key")
@pytest.mark.parametrize("size", [1.5, -0.5, np.nan])
def test_steps_that_no_guest_takes_are_refused(size: float) -> None:
    with pytest.raises(PeerError, match=r"a Step (beyond the direction|that is no number)"):
        against("guest", Step, replaced(size=size), job=SMALL)


@pytest.mark.usefixtures("quick_key")
def test_more_directions_than_an_iteration_has_are_refused(monkeypatch) -> None:
    def again(scales, best):
        return 1.0 if len(scales) < 9 else None

    monkeypatch.setattr(directions, "another_scale", again)
    with pytest.raises(PeerError, match="it sent Combine where Step"):
        against("guest", job=SMALL)


@pytest.mark.usefixtures("quick_key")
def test_without_kinks_an_iteration_has_one_direction() -> None:
    smooth = SMALL.with_params(l1_ratio=0.0)
    with pytest.raises(PeerError, match="it sent Combine where Step"):
        against("guest", Step, lambda _: Combine([-1.0], 1.0), job=smooth)


def test_a_fit_of_many_rows_of_one_party_equals_that_of_blocks() -> None:
    """However columns lie with parties, the optimum is the same."""
    job = make_job("gamma", 3, rows=500, seed=2, alpha=0.05, l1_ratio=0.6, tolerance=1e-10)
    apart, beta = job.pooled()
    merged = {"guest": {k: v for own in job.tables.values() for k, v in own.items()}}
    one = dataclasses.replace(job, tables=merged)
    fit = asyncio.run(guest_fit([], one.matrices, one.rows, one.params))
    assert fit.intercept == pytest.approx(apart.intercept, abs=1e-8)
    assert fit.score == pytest.approx(apart.score, abs=1e-8)
    assert sorted(fit.coefficients["guest"] == 0) == sorted(beta == 0)


# Jobs.

JOB = """
[job]
name = "frequency"
purpose = "motor pricing 2027"
model = "glm"
family = "poisson"
[glm]
alpha = 0.01
"""


def test_a_job_without_it_is_what_it_was(tmp_path: Path) -> None:
    def job_of(text: str) -> JobFile:
        (tmp_path / "job.toml").write_text(text)
        return load_job(tmp_path / "job.toml")

    without = job_of(JOB)
    assert b"l1_ratio" not in without.canonical
    assert job_of(f"{JOB}l1_ratio = 0.0\n").digest == without.digest
    lasso = job_of(f"{JOB}l1_ratio = 1.0\n")
    assert lasso.digest != without.digest and b'"l1_ratio":1.0' in lasso.canonical
    with pytest.raises(ConfigError, match="l1_ratio is a share of alpha: set alpha, or alphas, above 0"):
        job_of(JOB.replace("alpha = 0.01", "l1_ratio = 0.5"))


def test_what_an_iteration_may_tell_is_counted() -> None:
    def most(l1_ratio: float) -> float:
        params = GlmParams(alpha=0.1, l1_ratio=l1_ratio, max_iterations=20)
        of = Circumstances("guest", ["a", "b"], 1000, {"a": 5, "b": 5}, {})
        found = of_linear(of, params, False)
        (one,) = (one for one in found if one.name == "columns_from_steps")
        return one.amount

    assert (most(0.0), most(0.5)) == (20.0, 80.0)
