"""Losses and quantisation against scipy, scikit-learn and differences."""

import itertools
import math
from decimal import Decimal, localcontext
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import expit
from sklearn.metrics import (
    log_loss,
    mean_gamma_deviance,
    mean_poisson_deviance,
    mean_squared_error,
    mean_tweedie_deviance,
)

from vfl.learn.losses import (
    FAMILIES,
    OBJECTIVES,
    BadLabel,
    Family,
    GammaLoss,
    LogisticLoss,
    MulticlassLoss,
    Objective,
    PoissonLoss,
    QuantileLoss,
    SquaredLoss,
    TweedieLoss,
    loss_of,
)
from vfl.learn.quantiser import Quantiser

ROWS = 500
LOSSES = [
    LogisticLoss(),
    PoissonLoss(),
    GammaLoss(),
    TweedieLoss(1.1),
    TweedieLoss(1.5),
    TweedieLoss(1.9),
    SquaredLoss(),
]
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=str)


def labels(loss, rng: np.random.Generator, rows: int = ROWS) -> np.ndarray:
    """Labels that the loss takes, with ties and, where it may be, zeros."""
    if loss.link == "logit":
        return rng.integers(0, 2, rows).astype(float)
    if loss.power == 0:
        return rng.normal(3, 5, rows)
    counts = rng.poisson(0.7, rows).astype(float)
    return counts if loss.power == 1 else rng.gamma(2, 300, rows) * (1 if loss.power == 2 else counts)


def make_rows(loss):
    """(score, label, weight, offset)"""
    rng = np.random.default_rng(0)
    score, offset = rng.normal(0, 3, ROWS), rng.normal(0, 0.8, ROWS)
    return score, labels(loss, rng), rng.uniform(0.1, 5, ROWS), offset


def scikit_learns(loss, score, label, weight) -> float:
    """Mean unit deviance."""
    if loss.link == "logit":
        return 2 * log_loss(label, expit(score), sample_weight=weight)
    if loss.power == 0:
        return mean_squared_error(label, score, sample_weight=weight)
    mean = np.exp(score)
    if loss.power == 1:
        return mean_poisson_deviance(label, mean, sample_weight=weight)
    if loss.power == 2:
        return mean_gamma_deviance(label, mean, sample_weight=weight)
    return mean_tweedie_deviance(label, mean, sample_weight=weight, power=loss.power)


@every_loss
def test_deviance_is_scikit_learns(loss):
    score, label, weight, _ = make_rows(loss)
    expected = scikit_learns(loss, score, label, weight)
    assert loss.deviance(score, label, weight) == pytest.approx(expected, rel=1e-12)
    assert loss.mean(score, label, weight) == pytest.approx(expected / 2, rel=1e-12)


@every_loss
def test_gradients_are_differences_of_the_loss(loss):
    score, label, weight, _ = make_rows(loss)
    score, step, one = np.clip(score, -4, 4), 1e-4, np.ones(1)

    def each(at):
        return w * np.array([loss.mean(s[None], y[None], one) for s, y in zip(at, label, strict=True)])

    w = weight
    gradient, hessian = loss.gradients(score, label, weight)
    first = (each(score + step) - each(score - step)) / (2 * step)
    second = (each(score + step) - 2 * each(score) + each(score - step)) / step**2
    # A central difference is off by some step^2 of the loss, which grows to 1e6 here; rounding adds
    # 1e-16 / step and 1e-16 / step^2 of it.
    size = np.maximum(1.0, np.abs(each(score)) + np.abs(gradient) + np.abs(hessian))
    assert np.abs(gradient - first).max() <= (1e-7 * size).max()
    assert (np.abs(gradient - first) <= 1e-7 * size).all()
    assert (np.abs(hessian - second) <= 1e-5 * size).all()
    assert (hessian >= 0).all()


@every_loss
@pytest.mark.parametrize("with_offset", [False, True])
def test_start_has_the_least_loss(loss, with_offset):
    _, label, weight, offset = make_rows(loss)
    offset = offset * with_offset
    start = loss.start(label, weight, offset)
    best = minimize_scalar(lambda s: loss.mean(s + offset, label, weight), bounds=(-12, 12))
    # Around its minimum the loss is flat: scipy finds it to the root of the rounding.
    assert start == pytest.approx(best.x, abs=1e-4)
    assert loss.mean(start + offset, label, weight) <= best.fun * (1 + 1e-12)
    slope = loss.gradients(start + offset, label, weight)[0]
    assert abs(slope.sum()) <= 1e-9 * np.abs(slope).sum()


@every_loss
def test_start_without_offset_predicts_the_mean(loss):
    _, label, weight, offset = make_rows(loss)
    start = loss.start(label, weight, offset * 0)
    assert loss.predict(np.array([start])) == pytest.approx(np.average(label, weights=weight), rel=1e-12)


@pytest.mark.parametrize("ratio", [1e-100, 1e-20, 1e20, 1e100])
@pytest.mark.parametrize("offset", [0.0, 2.0])
def test_classes_of_very_different_weight(ratio, offset):
    label = np.array([0.0, 1.0, 0.0, 1.0, 1.0])
    start = LogisticLoss().start(label, np.where(label, ratio, 1.0), np.full(5, offset))
    assert start == pytest.approx(math.log(1.5 * ratio) - offset, rel=1e-12)


@given(
    seed=st.integers(0, 2**32),
    loss=st.sampled_from(LOSSES),
    spread=st.sampled_from([0.0, 1.0, 30.0, 300.0]),
    shift=st.floats(-300, 300),
    rows=st.integers(2, 30),
)
def test_start_under_any_offset_has_no_slope(seed, loss, spread, shift, rows):
    rng = np.random.default_rng(seed)
    label = labels(loss, rng, rows)
    label[:2] = (0.0, 1.0) if loss.power != 2 else (1.0, 2.0)
    weight, offset = rng.uniform(0.1, 5, rows), shift + spread * rng.normal(size=rows)
    with np.errstate(all="raise", under="ignore"):
        start = loss.start(label, weight, offset)
        g, h = loss.gradients(start + offset, label, weight)
    assert math.isfinite(start)
    # Newton's step from there would move it by rounding alone: of the score, of the sums, and of
    # probabilities next to 1.
    rounding = h.sum() * max(1.0, np.abs(offset).max()) + np.abs(g).sum()
    assert abs(g.sum()) <= 1e-9 * rounding + 1e-15 * weight.sum()


def test_predictions_are_inverse_links():
    score = np.random.default_rng(0).normal(0, 3, ROWS)
    assert LogisticLoss().predict(score) == pytest.approx(expit(score), rel=1e-14)
    assert np.array_equal(GammaLoss().predict(score), np.exp(score))
    assert np.array_equal(SquaredLoss().predict(score), score)


def test_predict_of_huge_scores_neither_overflows_nor_warns():
    with np.errstate(all="raise", under="ignore"):
        assert LogisticLoss().predict(np.array([-1e308, -745.0, 0.0, 745.0, 1e308])).tolist() == [
            0.0,
            pytest.approx(5e-324, abs=1e-323),
            0.5,
            1.0,
            1.0,
        ]


@every_loss
def test_scores_beyond_all_bounds_become_infinite_without_a_warning(loss):
    score = np.array([-1e308, -1e5, -800.0, 800.0, 1e5, 1e308])
    weight = np.full(6, 2.0)
    label = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0]) if loss.power != 2 else np.ones(6)
    with np.errstate(all="raise", under="ignore"):
        for values in (loss.predict(score), *loss.damped_gradients(score, label, weight)):
            assert not np.isnan(values).any()
        assert loss.mean(score, label, weight) > 300
        assert loss.deviance(score, label, weight) > 300


@every_loss
def test_trees_damp_poisson_alone(loss):
    score, label, weight, _ = make_rows(loss)
    (g, h), (damped_g, damped_h) = (
        f(score, label, weight) for f in (loss.gradients, loss.damped_gradients)
    )
    assert np.array_equal(g, damped_g)
    assert damped_h == pytest.approx(h * (np.exp(0.7) if loss.power == 1 else 1), rel=1e-15)


@pytest.mark.parametrize(
    ("loss", "label", "said"),
    [
        (LogisticLoss(), [0, 1, 7.7, 1, 8], "must be 0 or 1 but is something else in 2 rows: correct"),
        (LogisticLoss(), [0, np.inf], "must be 0 or 1 but is something else in 1 row:"),
        (LogisticLoss(), [1, 1], "has only one class: a model needs rows of both"),
        (LogisticLoss(), [], "has only one class"),
        (PoissonLoss(), [0, -7.7], "must not be negative but is in 1 row: correct it"),
        (PoissonLoss(), [0, 0], "is 0 in every row: a model needs rows above 0"),
        (PoissonLoss(), [0, np.nan, np.inf], "must be a finite number but is not in 2 rows"),
        (GammaLoss(), [0, 7.7], "must be above 0 but is not in 1 row: leave out the rows without"),
        (GammaLoss(), [np.inf, 7.7], "must be a finite number but is not in 1 row"),
        (TweedieLoss(), [-7.7, 1], "must not be negative but is in 1 row"),
        (TweedieLoss(), [0, 0], "is 0 in every row"),
        (SquaredLoss(), [np.nan, 7.7], "must be a finite number but is not in 1 row"),
        (
            SquaredLoss(),
            [-7.7e50, 7.7, 1e51],
            "must not be beyond 1e+50 but is in 2 rows: give it in",
        ),
        (SquaredLoss(), [7.7e-52, -1e-51], "is below 1e-50 in every row: give it in another unit"),
        (GammaLoss(), [7.7e50, 1], "must not be beyond 1e+50 but is in 1 row"),
        (PoissonLoss(), [0, 7.7e-52], "is below 1e-50 in every row"),
    ],
)
def test_a_label_that_a_loss_cannot_take(loss, label, said):
    with pytest.raises(BadLabel) as raised:
        loss.check(np.array(label, float))
    text = str(raised.value)
    assert text.startswith(said)
    assert "7.7" not in text and "\n" not in text
    counted = raised.value.rows
    assert counted is None or f" {counted.sum()} row" in text


@every_loss
def test_a_label_that_a_loss_takes(loss):
    loss.check(make_rows(loss)[1])


def test_counts_may_be_rates_and_amounts_constant():
    PoissonLoss().check(np.array([0.0, 0.5]))
    SquaredLoss().check(np.array([-1.0, -1.0]))


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0, 3.0, math.nan])
def test_tweedies_power_is_between_poisson_and_gamma(power):
    with pytest.raises(ValueError, match="must be above 1 and below 2"):
        TweedieLoss(power)


@pytest.mark.parametrize("power", [1.001, 1.999])
def test_tweedies_deviance_is_exact_at_the_bounds_of_the_settings(power):
    """In decimal arithmetic of 60 digits; at 1 + 1e-15 no digit of it would be right."""
    p = Decimal(power)
    with localcontext() as context:
        context.prec = 60
        for y, score in itertools.product((0.0, 0.5, 3.0, 1e4), (-0.3, 1.0, 9.0)):
            label, mean = Decimal(y), Decimal(score).exp()
            exact = label ** (2 - p) / ((1 - p) * (2 - p)) if y else Decimal(0)
            exact += mean ** (2 - p) / (2 - p) - label * mean ** (1 - p) / (1 - p)
            found = TweedieLoss(power).mean(np.array([score]), np.array([y]), np.ones(1))
            assert found == pytest.approx(float(exact), rel=1e-10)


def test_losses_by_name():
    assert tuple(OBJECTIVES) == get_args(Objective)
    assert tuple(FAMILIES) == get_args(Family)
    found = {name: loss_of(name, 1.2) for name in (*OBJECTIVES, *FAMILIES)}
    assert found["tweedie"] == TweedieLoss(1.2)
    assert found["binary"] == found["logistic"] == LogisticLoss()
    assert found["squared"] == found["gaussian"] == SquaredLoss()
    assert [found[name].power for name in FAMILIES] == [None, 1, 1, 2, 1.2, 0]
    assert [found[name].link for name in FAMILIES] == ["logit", *["log"] * 4, "identity"]
    assert found["quantile"] == QuantileLoss(0.5)
    assert found["multiclass"] == MulticlassLoss(3) and loss_of("multiclass", classes=7).classes == 7
    exposed = {name for name, loss in found.items() if loss.no_exposure is None}
    assert exposed == {"poisson", "negative_binomial"}


@given(
    bound=st.floats(1e-250, 1e100),
    bits=st.integers(8, 32),
    shares=st.lists(st.floats(-1, 1), min_size=1, max_size=20),
)
def test_quantised_values_stay_in_their_bits_and_close(bound, bits, shares):
    quantiser = Quantiser.for_bound(bound, bits)
    values = np.array([*shares, -1.0, 1.0]) * bound
    integers = quantiser.integers(values)
    assert np.abs(integers).max() <= 2**bits
    # A quarter of the range at the least is used, and rounding is to the nearest.
    assert np.abs(integers).max() >= 2 ** (bits - 1) - 1
    assert np.abs(integers / quantiser.scale - values).max() <= 0.5 / quantiser.scale
    assert math.frexp(quantiser.scale)[0] == 0.5  # a power of two, exact to undo


@pytest.mark.parametrize("bound", [0.0, 5e-324, 1e-300])
def test_what_is_next_to_nothing_becomes_zero(bound):
    quantiser = Quantiser.for_bound(bound, 32)
    assert quantiser.integers(np.array([-bound, bound])).tolist() == [0, 0]
    assert math.isfinite(quantiser.scale)


@every_loss
def test_information_is_the_expected_second_derivative(loss):
    """Which is linear in the label, so that it is the one at the prediction."""
    rng = np.random.default_rng(0)
    score, weight = rng.normal(0, 3, ROWS), rng.uniform(0, 2, ROWS)
    _, at_prediction = loss.gradients(score, loss.predict(score), weight)
    assert np.allclose(loss.information(score, weight), at_prediction, rtol=1e-12)
    assert not np.isnan(loss.information(np.array([-1e4, 1e4]), np.ones(2))).any()
