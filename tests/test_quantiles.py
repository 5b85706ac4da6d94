"""Trees that predict a quantile: its loss, the weights of leaves, measures and words of it."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reports import made_up
from sklearn.metrics import d2_pinball_score, mean_pinball_loss
from test_boost import MONOTONE, by_value, labels, make_job

import vfl
from vfl.errors import ConfigError
from vfl.learn.bootstrap import Resamples
from vfl.learn.intervals import Predicted, draw_measures
from vfl.learn.losses import QuantileLoss, loss_of
from vfl.learn.metrics import quantile_metrics
from vfl.learn.params import BoostParams
from vfl.learn.quantiles import LeafRows, renewed_leaves, weighted_quantile
from vfl.models.findings import judge_quality
from vfl.party.config import Job
from vfl.protocols.common.rows import Training
from vfl.report.page import PAGE, SHEETS, render

pytestmark = pytest.mark.usefixtures("few_draws")

NUMBERS = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30)
SHARES = st.floats(0.01, 0.99)


@given(values=NUMBERS, quantile=SHARES, weight=st.floats(1e-3, 1e3))
def test_a_quantile_of_equal_weights_is_numpys(values, quantile, weight):
    numbers = np.array(values)
    found = weighted_quantile(numbers, np.full(len(values), weight), quantile)
    size = max(1.0, np.abs(numbers).max())
    assert found == pytest.approx(np.quantile(numbers, quantile), abs=1e-9 * size)


@given(values=NUMBERS, quantile=SHARES, seed=st.integers(0, 2**32))
def test_a_quantile_has_the_least_pinball_loss(values, quantile, seed):
    label, weight = np.array(values), np.random.default_rng(seed).integers(0, 4, len(values)) * 1.0
    if not weight.any():
        assert weighted_quantile(label, weight, quantile) == 0.0
        return
    loss = QuantileLoss(quantile)
    found = weighted_quantile(label, weight, quantile)
    if (weight == weight[0]).all():
        return  # between two numbers, as NumPy has it
    least = min(loss.mean(np.full(len(label), one), label, weight) for one in label)
    assert loss.mean(np.full(len(label), found), label, weight) <= least * (1 + 1e-9) + 1e-9


def test_the_loss_is_scikit_learns():
    rng = np.random.default_rng(1)
    label, score, weight = rng.normal(size=300), rng.normal(size=300), rng.uniform(0.5, 2, 300)
    loss = loss_of("quantile", quantile=0.8)
    assert loss == QuantileLoss(0.8) and loss_of("quantile") == QuantileLoss(0.5)
    pinball = mean_pinball_loss(label, score, sample_weight=weight, alpha=0.8)
    assert loss.mean(score, label, weight) == pytest.approx(pinball, rel=1e-12)
    step = 1e-7
    slope = (loss.losses(score + step, label, weight) - loss.losses(score, label, weight)) / step
    gradient, hessian = loss.gradients(score, label, weight)
    assert gradient == pytest.approx(slope, abs=1e-6) and np.array_equal(hessian, weight)
    found = quantile_metrics(loss, label, score, weight)
    assert found["pinball_loss"] == pytest.approx(pinball, rel=1e-12)
    assert found["coverage"] == pytest.approx(np.average(label <= score, weights=weight))
    even = quantile_metrics(loss, label, score, np.ones(300))["d2"]
    assert even == pytest.approx(d2_pinball_score(label, score, alpha=0.8), rel=1e-9)
    with pytest.raises(ValueError, match="above 0 and below 1"):
        QuantileLoss(1.0)


def test_leaves_weigh_the_quantile_of_their_rows():
    rng = np.random.default_rng(2)
    leaf, residual = rng.choice([3, 4, 2], 200).astype(np.int32), rng.normal(size=200)
    weight = rng.integers(1, 3, 200) * 1.0
    rows = LeafRows(leaf, residual, weight)
    free = renewed_leaves([3, 4, 2], [], rows, 0.7, 0.1)
    for one, found in free.items():
        inside = leaf == one
        assert found == 0.1 * weighted_quantile(residual[inside], weight[inside], 0.7)
    assert set(renewed_leaves([0], [], replace(rows, leaf=leaf * 0), 0.7, 1.0)) == {0}
    # 3 is to weigh no more than 4, and both no more than 2.
    falling = replace(rows, residual=residual - leaf % 4)
    tied = renewed_leaves([3, 4, 2], [0, 1], falling, 0.7, 0.1)
    assert tied[3] <= tied[4] <= tied[2]


@pytest.mark.parametrize("draw", [{}, {"goss_top": 0.2, "goss_other": 0.2}])
def test_scores_are_in_the_order_of_monotone_columns(draw):
    params = BoostParams(trees=6, depth=4, max_bins=16, min_child_rows=3, learning_rate=0.3, **draw)
    job = make_job(300, 2, 9, params, objective="quantile")
    job = replace(job, rows=replace(job.rows, loss=QuantileLoss(0.8)))
    for monotone in ({}, MONOTONE):
        model, _ = replace(job, monotone=monotone).oracle()
        steps = [
            np.diff(by_value(job, column, model), axis=0) * (1 if way == "increasing" else -1)
            for column, way in MONOTONE.items()
        ]
        assert monotone == {} or all((step >= 0).all() for step in steps)
        assert monotone != {} or any((step < 0).any() for step in steps)


def test_coverage_is_the_quantile():
    rng = np.random.default_rng(3)
    index = [f"id{i}" for i in range(2000)]
    own = vfl_frame(index, age=rng.normal(size=2000))
    cars = vfl_frame(index, power=rng.normal(size=2000))
    label = own["age"] * 2 + cars["power"] + rng.gamma(2, 3, 2000)
    for quantile in (0.1, 0.9):
        model = vfl.SecureBoostRegressor(
            objective="quantile", quantile=quantile, hosts={"registry": cars}, trees=20
        ).fit(own, label)
        assert np.mean(label <= model.predict(own)) == pytest.approx(quantile, abs=0.03)
        assert 0.05 < model.score(own, label) < 1
    table = model.oneway(own, label, by="guest:age", bins=2)
    assert "expected" not in table.columns or table["expected"].isna().all()


def vfl_frame(index, **columns):
    return pd.DataFrame(columns, index)


def test_what_estimators_refuse():
    own, label = vfl_frame(["a", "b", "c"], x=[1.0, 2.0, 3.0]), [1.0, 2.0, 3.0]
    for parameters, said in (
        ({"objective": "quantile"}, "needs quantile="),
        ({"objective": "squared", "quantile": 0.5}, "quantile= is for objective='quantile'"),
        ({"objective": "quantile", "quantile": 1.0}, "must be a number above 0 and below 1"),
    ):
        with pytest.raises(ConfigError, match=said):
            vfl.SecureBoostRegressor(hosts={}, **parameters).fit(own, label)
    with pytest.raises(ConfigError, match="there are"):
        vfl.PooledBoostRegressor(objective="quantile").fit(own, label)


def job_of(trees=(), **section):
    job = {"name": "a", "purpose": "p", "model": "secureboost", "objective": "quantile", **section}
    return {"job": job, "secureboost": dict(trees)}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (job_of(), 'objective = "quantile" needs a quantile'),
        (job_of({"quantile": 0.5}, objective="squared"), "quantile is for objective"),
        (job_of({"quantile": 0.5}, exposure=True), "exposure is for counts"),
        (job_of(model="glm"), "objective is not for model"),
    ],
)
def test_jobs_that_cannot_be(settings, said):
    if settings["job"]["model"] == "glm":
        del settings["secureboost"]
    with pytest.raises(ValueError, match=said):
        Job.model_validate(settings)


def test_a_job_that_says_nothing_of_a_quantile_is_as_it_was():
    job = Job.model_validate(job_of({"quantile": 0.9}))
    assert job.loss == QuantileLoss(0.9) and Job.from_canonical(job.canonical) == job
    assert b"quantile" not in Job.model_validate(job_of(objective="squared")).canonical


def test_a_page_of_a_quantile_does_not_call_it_a_mean():
    evidence, loss = made_up(rows=300, columns=1), QuantileLoss(0.9)
    held = evidence.held_out
    assert held is not None
    label = np.random.default_rng(1).gamma(2, 50, len(held.label))
    amounts = {name: label.mean() * (1 + p) for name, p in held.predictions.items()}
    metrics = {n: quantile_metrics(loss, label, p, held.weight) for n, p in amounts.items()}
    job = {
        "job": {**evidence.job["job"], "objective": "quantile"},
        "secureboost": {**evidence.job["secureboost"], "quantile": 0.9},
    }
    files = render(
        replace(
            evidence,
            job=job,
            measure=loss.measure,
            held_out=type(held)(label, held.weight, None, amounts),
            metrics=metrics,
        )
    )
    page = files[PAGE].decode()
    assert "The 0.9 quantile of claim, modelled by insurer" in page
    assert "below which number 90.0" in page and "coverage" in page
    for none in ("calibration.csv", "double_lift.csv", "residuals.csv"):
        assert none not in files
    assert "coverage.csv" in files
    assert {f"{name}.csv" for name in SHEETS} >= files.keys() - {PAGE}
    assert "as much happened as the federation expected" not in page


def test_measures_have_intervals_and_weak_models_words():
    rng = np.random.default_rng(5)
    label, weight, loss = rng.gamma(2, 50, 400), np.ones(400), QuantileLoss(0.9)
    prediction = np.full(400, 300.0)
    noted = quantile_metrics(loss, label, prediction, weight)
    drawn = draw_measures(loss, Predicted(label, prediction, weight, None), noted, Resamples(400, None))
    for name in ("pinball_loss", "d2", "coverage"):
        found = drawn.of(name, noted[name])
        assert found.low <= found.value <= found.high
    every = np.ones(400, bool)
    rows = Training(label, weight, ~every, ~every, loss)
    said = judge_quality({"federation": noted}, rows, every, "insurer alone", "advice")
    assert "does worse than the same quantile for all" in said[0]


def test_labels_of_a_quantile_are_any_numbers():
    assert np.isfinite(labels("quantile", np.zeros(3), np.random.default_rng(0))).all()
