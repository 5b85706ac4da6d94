"""Intervals of measures, and residuals: against draws made by hand, and distributions that are known."""

import numpy as np
import pytest
from scipy import stats

from vfl.learn.bootstrap import Resamples
from vfl.learn.intervals import GRID, Predicted, draw_measures, enough
from vfl.learn.losses import (
    GammaLoss,
    LogisticLoss,
    Loss,
    PoissonLoss,
    SquaredLoss,
    TweedieLoss,
)
from vfl.learn.metrics import binary_metrics, lorenz, regression_metrics, totals
from vfl.learn.residuals import dispersion, quantile_residuals

ROWS = 1500


def rows_of(loss: Loss, rows: int = ROWS) -> Predicted:
    rng = np.random.default_rng(4)
    weight = rng.uniform(0.5, 2, rows)
    mean = np.exp(rng.normal(-0.5, 0.6, rows))
    if isinstance(loss, LogisticLoss):
        chance = mean / (1 + mean)
        return Predicted((rng.random(rows) < chance).astype(float), chance, np.ones(rows), None)
    if isinstance(loss, PoissonLoss):
        years = rng.uniform(0.2, 1, rows)
        return Predicted(rng.poisson(mean * years).astype(float), mean * years, np.ones(rows), years)
    if isinstance(loss, GammaLoss):
        return Predicted(mean * rng.gamma(2 * weight) / (2 * weight), mean, weight, None)
    if isinstance(loss, SquaredLoss):
        return Predicted(mean + rng.normal(size=rows) / np.sqrt(weight), mean, weight, None)
    p, scale = loss.power or 1.5, 2 / weight
    claims = rng.poisson(mean ** (2 - p) / (scale * (2 - p)))
    shape = np.maximum(claims, 1) * (2 - p) / (p - 1)
    amount = np.where(claims > 0, rng.gamma(shape) * scale * (p - 1) * mean ** (p - 1), 0.0)
    return Predicted(amount, mean, weight, None)


def measured(loss: Loss, one: Predicted, rows: np.ndarray) -> dict[str, float]:
    """The measures of some rows, as training has them."""
    label, prediction, weight = one.label[rows], one.prediction[rows], one.weight[rows]
    if isinstance(loss, LogisticLoss):
        return binary_metrics(label, prediction, weight)
    years = None if one.exposure is None else one.exposure[rows]
    score = prediction if loss.link == "identity" else np.log(prediction)
    offset = None if years is None else np.log(years)
    return regression_metrics(loss, label, score, weight, offset, years)


@pytest.mark.parametrize("loss", [LogisticLoss(), PoissonLoss(), TweedieLoss(1.6), SquaredLoss()])
def test_draws_of_measures_are_those_of_the_drawn_rows(loss: Loss) -> None:
    one = rows_of(loss)
    noted = measured(loss, one, np.arange(ROWS))
    resamples = Resamples(ROWS)
    resamples.draws = 40
    drawn = draw_measures(loss, one, noted, resamples)
    assert set(drawn.measures) == set(noted)
    by_hand = []
    for draw in range(12):
        rows = np.repeat(np.arange(ROWS), resamples.times(draw).astype(int))
        by_hand.append(measured(loss, one, rows))
    for name, draws in drawn.measures.items():
        exact = np.array([found[name] for found in by_hand])
        # Of second order are D², slope and intercept: next to nothing beside how far draws lie apart.
        near = 1e-9 if name not in ("d2", "calibration_slope", "calibration_intercept") else 0.35
        assert np.abs(draws[:12] - exact).max() <= near * max(exact.std(), 1e-9 if near == 0.35 else 1)
    assert drawn.lorenz is not None and (drawn.roc is not None) == isinstance(loss, LogisticLoss)
    rows = np.repeat(np.arange(ROWS), resamples.times(3).astype(int))
    of = totals(
        one.label[rows],
        one.prediction[rows],
        one.weight[rows],
        None if one.exposure is None else one.exposure[rows],
    )
    np.testing.assert_allclose(drawn.lorenz[3], np.interp(GRID, *lorenz(*of)), atol=5e-3)


def test_a_measure_that_rows_do_not_come_to_has_no_interval() -> None:
    loss, one = PoissonLoss(), rows_of(PoissonLoss())
    noted = measured(loss, one, np.arange(ROWS))
    resamples = Resamples(ROWS)
    resamples.draws = 20
    drawn = draw_measures(loss, one, {**noted, "d2": noted["d2"] + 0.01}, resamples)
    assert not drawn.of("d2", 0.5).known and drawn.of("gini", noted["gini"]).known


def test_of_one_class_or_few_claims_nothing_is_drawn() -> None:
    label = np.zeros(300)
    label[:9] = 1
    assert not enough(label, LogisticLoss(), Resamples(300))
    assert not enough(1 - label, LogisticLoss(), Resamples(300))
    assert enough(1 - label, PoissonLoss(), Resamples(300))
    label[:40] = 1
    assert enough(label, LogisticLoss(), Resamples(300))
    assert not enough(label, LogisticLoss(), Resamples(300, np.arange(300) // 40))  # of few policies


@pytest.mark.parametrize(
    "loss", [LogisticLoss(), PoissonLoss(), GammaLoss(), TweedieLoss(1.6), SquaredLoss()]
)
def test_residuals_are_normal_where_the_model_is_right(loss: Loss) -> None:
    one = rows_of(loss, 4000)
    found = quantile_residuals(loss, one.label, one.prediction, one.weight)
    assert stats.kstest(found, "norm").pvalue > 0.01
    wrong = quantile_residuals(loss, one.label, one.prediction * 0.6, one.weight)
    assert stats.kstest(wrong, "norm").pvalue < 1e-4
    assert np.isfinite(quantile_residuals(loss, one.label[:3] * 1e6, np.full(3, 1e-3), np.ones(3))).all()


def test_dispersion_is_pearsons() -> None:
    one = rows_of(GammaLoss(), 5000)
    expected = np.average(one.weight * (one.label / one.prediction - 1) ** 2)
    found = dispersion(GammaLoss(), one.label, one.prediction, one.weight)
    assert found == pytest.approx(expected) and found == pytest.approx(0.5, rel=0.1)
