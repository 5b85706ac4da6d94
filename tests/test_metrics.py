"""Metrics of held-out rows against scikit-learn, and against what can be counted by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import GammaRegressor, LinearRegression, LogisticRegression, TweedieRegressor
from sklearn.metrics import (
    auc,
    brier_score_loss,
    d2_tweedie_score,
    log_loss,
    mean_absolute_error,
    mean_tweedie_deviance,
    roc_auc_score,
    roc_curve,
)

from vfl.learn.losses import GammaLoss, LogisticLoss, PoissonLoss, SquaredLoss, TweedieLoss
from vfl.learn.metrics import (
    Level,
    Lift,
    actual_against_expected,
    binary_metrics,
    double_lift,
    gini,
    lift_table,
    lorenz,
    psi,
    regression_metrics,
    roc,
    totals,
)

SOLVER = {"tol": 1e-10, "max_iter": 10_000}


def policies(rows=600, seed=0):
    """Counts, expected counts with many ties, and years, of weighted policies; for Totals."""
    rng = np.random.default_rng(seed)
    rate = np.round(rng.gamma(2, 0.2, rows) + 0.05, 1 + seed % 2)
    years = rng.uniform(0.05, 2, rows)
    return totals(
        rng.poisson(rate * years).astype(float), rate * years, rng.uniform(0.5, 2, rows), years
    )


def probabilities(rows=500):
    rng = np.random.default_rng(1)
    score = rng.normal(-1, 1.5, rows)
    label = (rng.random(rows) < LogisticLoss().predict(0.4 + 0.7 * score)).astype(float)
    return label, np.round(LogisticLoss().predict(score), 3), rng.uniform(0.5, 2, rows)


def test_metrics_of_probabilities_are_scikit_learns():
    label, probability, weight = probabilities()
    found = binary_metrics(label, probability, weight)
    fpr, tpr, _ = roc_curve(label, probability, sample_weight=weight)
    logit = np.log(probability / (1 - probability))
    refit = LogisticRegression(C=np.inf, **SOLVER).fit(logit[:, None], label, weight)
    area = roc_auc_score(label, probability, sample_weight=weight)
    assert found == {
        "auc": pytest.approx(area, rel=1e-12),
        "log_loss": pytest.approx(log_loss(label, probability, sample_weight=weight), rel=1e-12),
        "ks": pytest.approx((tpr - fpr).max(), rel=1e-12),
        "brier": pytest.approx(brier_score_loss(label, probability, sample_weight=weight), rel=1e-12),
        "gini": pytest.approx(2 * area - 1, rel=1e-12),
        # Solvers stop at a gradient of 1e-10.
        "calibration_slope": pytest.approx(refit.coef_[0, 0], rel=1e-6),
        "calibration_intercept": found["calibration_intercept"],
    }
    moved = LogisticLoss().predict(logit + found["calibration_intercept"])
    assert weight @ moved == pytest.approx(weight @ label, rel=1e-9)
    assert list(found)[:2] == ["auc", "log_loss"]

    for ours, theirs in zip(roc(label, probability, weight), (fpr, tpr), strict=True):
        assert np.isin(theirs.round(9), ours.round(9)).all()
    certain = np.array([0.0, 1.0, 1.0, 0.0])
    assert binary_metrics(certain, certain[::-1])["log_loss"] == log_loss(certain, certain[::-1])


@pytest.mark.parametrize("loss", [PoissonLoss(), GammaLoss(), TweedieLoss(1.3), SquaredLoss()], ids=str)
def test_metrics_are_scikit_learns(loss):
    rng = np.random.default_rng(0)
    mean = rng.gamma(3, 0.5, 300)
    label = rng.poisson(mean) + (0.5 if loss.power == 2 else 0.0)
    weight = rng.uniform(0.5, 2, 300)
    score = mean if loss.link == "identity" else np.log(mean)
    found = regression_metrics(loss, label, score, weight)
    kinds = {"sample_weight": weight, "power": loss.power}
    model = {
        0.0: LinearRegression(),
        2.0: GammaRegressor(alpha=0, solver="newton-cholesky", **SOLVER),
    }.get(loss.power, TweedieRegressor(power=loss.power, alpha=0, solver="newton-cholesky", **SOLVER))
    assert found == {
        "deviance": pytest.approx(mean_tweedie_deviance(label, mean, **kinds), rel=1e-12),
        "d2": pytest.approx(d2_tweedie_score(label, mean, **kinds), rel=1e-12),
        "mae": pytest.approx(mean_absolute_error(label, mean, sample_weight=weight), rel=1e-12),
        "gini": gini(*totals(label, mean, weight)),
        "actual_expected": pytest.approx(weight @ label / (weight @ mean)),
        "calibration_slope": pytest.approx(model.fit(score[:, None], label, weight).coef_[0], rel=1e-6),
        "calibration_intercept": loss.start(label, weight, score),
    }


def test_what_exposure_explains_is_no_merit_of_the_model():
    rng = np.random.default_rng(0)
    exposure = rng.uniform(0.01, 2, 500)
    label, weight, offset = rng.poisson(0.3 * exposure).astype(float), np.ones(500), np.log(exposure)
    start = PoissonLoss().start(label, weight, offset)
    found = regression_metrics(PoissonLoss(), label, start + offset, weight, offset, exposure)
    assert found["d2"] == 0 and found["gini"] == pytest.approx(0, abs=1e-9)
    assert found["calibration_intercept"] == pytest.approx(0, abs=1e-12)
    # One rate for all, up to rounding: its slope would be noise.
    assert math.isnan(found["calibration_slope"])
    assert regression_metrics(PoissonLoss(), label, start + offset, weight)["d2"] > 0.05

    # Slope and intercept of counts with exposure are those of rates with exposure as weight.
    score = 1 + rng.normal(0, 1, 500) + offset
    found = regression_metrics(PoissonLoss(), label, score, weight, offset, exposure)
    rates = regression_metrics(PoissonLoss(), label / exposure, score - offset, exposure)
    for name in ("gini", "actual_expected", "calibration_slope", "calibration_intercept"):
        assert found[name] == pytest.approx(rates[name], rel=1e-9)


def test_what_does_not_exist_is_nan():
    ones = np.ones(5)
    found = regression_metrics(SquaredLoss(), ones, 2 * ones, ones)
    assert {name for name, value in found.items() if math.isnan(value)} == {
        "d2",
        "gini",
        "calibration_slope",
    }
    found = regression_metrics(PoissonLoss(), 0 * ones, np.arange(5.0), ones)
    assert {name for name, value in found.items() if math.isfinite(value)} == {
        "deviance",
        "mae",
        "actual_expected",
    }
    found = binary_metrics(ones, ones / 2)
    assert {name for name, value in found.items() if math.isfinite(value)} == {"log_loss", "brier"}


def test_a_slope_without_bound_is_no_slope():
    def slope(loss, label, score):
        score, label = np.array(score, float), np.array(label, float)
        if loss.link == "logit":
            return binary_metrics(label, loss.predict(score))["calibration_slope"]
        return regression_metrics(loss, label, score, np.ones(len(score)))["calibration_slope"]

    # Nothing parts the classes but one value, which both have.
    assert math.isnan(slope(LogisticLoss(), [0, 0, 1, 1], [0, 1, 1, 2]))
    assert slope(LogisticLoss(), [0, 1, 0, 1], [0, 1, 2, 3]) > 0
    # Counts have no upper end: two scores with a claim are enough, or one amid scores without.
    assert math.isnan(slope(PoissonLoss(), [0, 0, 3], [0, 1, 2]))
    assert math.isnan(slope(PoissonLoss(), [1, 0, 0], [0, 1, 2]))
    assert slope(PoissonLoss(), [0, 1, 3], [0, 1, 2]) > 0
    assert math.isfinite(slope(PoissonLoss(), [0, 3, 0], [0, 1, 2]))
    assert slope(GammaLoss(), [1, 2, 8], [0, 1, 2]) == pytest.approx(math.log(8) / 2, rel=0.1)


def test_the_lorenz_curve_is_that_of_scikit_learns_example():
    """https://scikit-learn.org/stable/auto_examples/linear_model/plot_tweedie_regression_insurance_claims.html"""
    rng = np.random.default_rng(0)
    exposure, rate = rng.uniform(0.1, 1, 400), rng.permutation(np.arange(400.0)) + 1
    pure_premium = rng.poisson(rate / 400) * rng.gamma(2, 100, 400)

    ranking = np.argsort(rate)
    claims = np.cumsum(pure_premium[ranking] * exposure[ranking])
    claims /= claims[-1]
    shares = np.cumsum(exposure[ranking]) / exposure.sum()
    x, y = lorenz(pure_premium * exposure, rate * exposure, exposure)
    assert x[1:] == pytest.approx(shares, rel=1e-12) and y[1:] == pytest.approx(claims, rel=1e-12)
    found = gini(pure_premium * exposure, rate * exposure, exposure)
    perfect = lorenz(pure_premium * exposure, pure_premium * exposure, exposure)
    assert found == pytest.approx((1 - 2 * auc(x, y)) / (1 - 2 * auc(*perfect)), rel=1e-9)


def test_the_gini_of_a_label_is_that_of_the_roc():
    label, probability, weight = probabilities()
    found = gini(*totals(label, probability, weight))
    assert found == pytest.approx(binary_metrics(label, probability, weight)["gini"], rel=1e-9)


@given(st.integers(0, 30))
def test_rows_have_no_order_and_a_weight_of_two_is_two_rows(seed):
    """Predictions tie often, and weights and exposure part the rates of ties by rounding."""
    rows = policies(60, seed)
    order = np.random.default_rng(seed).permutation(60)
    twice = np.concatenate([np.arange(60), order])
    column = np.random.default_rng(seed).integers(0, 15, 60).astype(float)
    column[::7] = np.nan
    x, y = lorenz(*rows)
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert (np.diff(x) > 0).all() and (np.diff(y) >= 0).all()
    groups = {part.expected for part in lift_table(*rows)}
    assert len(groups) == len(lift_table(*rows)) <= 10
    for other, factor in ((order, 1), (twice, 2)):
        part = rows._make(array[other] for array in rows)
        heavy = rows._make(array * factor for array in rows)
        assert np.allclose(lorenz(*part), (x, y))
        assert gini(*part) == pytest.approx(gini(*heavy))
        assert_same(lift_table(*part), lift_table(*heavy), factor)
        theirs = rows.expected * (1 + column[order] / 10).round(1)
        theirs[np.isnan(theirs)] = 0
        assert_same(
            double_lift(part.actual, part.expected, theirs[other], part.exposure),
            double_lift(heavy.actual, heavy.expected, theirs * factor, heavy.exposure),
            factor,
        )
        assert_same(
            actual_against_expected(column[other], *part),
            actual_against_expected(column, *heavy),
            factor,
        )
    assert gini(rows.actual, rows.actual, rows.exposure) == pytest.approx(1)
    assert gini(rows.actual, -rows.actual, rows.exposure) == pytest.approx(-1)
    assert gini(rows.actual, rows.exposure, rows.exposure) == pytest.approx(0, abs=1e-12)


def assert_same(found, wanted, factor):
    """The same tables; `found` has `factor` times the rows."""
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        for name, value in vars(one).items():
            of_other = getattr(other, name) * (factor if name == "rows" else 1)
            assert value == (of_other if name == "label" else pytest.approx(of_other, nan_ok=True))


def test_curves_to_draw_have_few_points():
    rng = np.random.default_rng(0)
    score, exposure = rng.normal(0, 1, 20_000), rng.uniform(0.5, 1, 20_000)
    label = (rng.random(20_000) < LogisticLoss().predict(score - 2)).astype(float)
    for curve, whole in (
        (roc(label, score), roc_auc_score(label, score)),
        (lorenz(label, np.exp(score), exposure), None),
    ):
        x, y = curve
        assert 450 <= len(x) == len(y) <= 500
        assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
        assert np.hypot(np.diff(x), np.diff(y)).max() < 0.01
        assert whole is None or auc(x, y) == pytest.approx(whole, abs=1e-3)
    assert np.isnan(roc(np.zeros(5), np.arange(5.0))[1]).all()


def test_lift_by_hand():
    """Exposure 8 in 4 groups of 2; the rows at rate 3 have exposure 3, whose middle is 4.5 of 8."""
    expected = np.array([1, 2, 3, 3, 3, 8, 0.5])
    exposure = np.array([1.0, 1, 1, 1, 1, 2, 1])
    actual = np.array([0.0, 1, 2, 0, 1, 8, 0])
    rows = actual, np.where(expected == 8, 16, expected), exposure
    assert lift_table(*rows, bins=4) == [
        Lift(2, 2, 0.0, 0.75, 0.0),
        Lift(1, 1, 1.0, 2.0, 1 / 1.5),
        Lift(3, 3, 1.0, 3.0, 1 / 1.5),
        Lift(1, 2, 4.0, 8.0, 4 / 1.5),
    ]
    assert [(part.rows, part.exposure) for part in lift_table(*policies(1000), bins=1)] == [
        (1000, pytest.approx(policies(1000).exposure.sum()))
    ]
    even = lift_table(np.ones(1000), np.arange(1000.0))
    assert [part.rows for part in even] == [100] * 10
    # Groups do not depend on the unit of exposure, whose sums round.
    for rows in range(3, 60):
        ones, rate = np.ones(rows), np.arange(rows) + 1.0
        for unit in (0.1, 0.7, 1 / 3):
            parts = lift_table(ones, unit * rate, unit * ones)
            assert [p.rows for p in parts] == [p.rows for p in lift_table(ones, rate)]


def test_double_lift_by_hand():
    ours, theirs = np.array([1.0, 2, 0, 1, 3, 0]), np.array([2.0, 1, 0, 1, 0, 1])
    found = double_lift(np.arange(6.0), ours, theirs, bins=6)
    # Ratios 1/2, 2, 1, 1, infinite, 0; the two of ratio 1 are together.
    assert [(part.rows, part.actual, part.ours, part.theirs) for part in found] == [
        (1, 5.0, 0.0, 1.0),
        (1, 0.0, 1.0, 2.0),
        (2, 2.5, 0.5, 0.5),
        (1, 1.0, 2.0, 1.0),
        (1, 4.0, 3.0, 0.0),
    ]


def test_levels_of_a_factor():
    ages = np.array([30, np.nan, 18, 30.5, 18, np.nan])
    actual, expected = np.array([1.0, 0, 2, 1, 0, 0]), np.array([1.0, 0, 1, 0.5, 1, 0])
    years = np.array([1.0, 2, 1, 1, 0.5, 1])
    assert actual_against_expected(ages, actual, expected, years)[:3] == [
        Level("18", 2, 1.5, 2 / 1.5, 2 / 1.5, 1.0),
        Level("30", 1, 1.0, 1.0, 1.0, 1.0),
        Level("30.5", 1, 1.0, 1.0, 0.5, 2.0),
    ]
    last = actual_against_expected(ages, actual, expected, years, bins=2)[-1]
    assert (last.label, last.rows, last.exposure, last.actual) == ("(missing)", 2, 3.0, 0.0)
    assert math.isnan(last.ratio)
    labels = [level.label for level in actual_against_expected(ages, actual, expected, years, bins=2)]
    assert labels == ["<= 20", "> 20", "(missing)"]
    nothing = actual_against_expected(np.full(6, np.nan), actual, expected, years)
    assert [(level.label, level.rows) for level in nothing] == [("(missing)", 6)]

    # Twenty categories by exposure, not by rows; ties by name; the rest together.
    names = np.array([*(f"b{i:02}" for i in range(25)), "a", "a", None], object)
    size = np.array([*np.full(24, 1.0), 9.0, 0.25, 0.25, 5.0])
    found = actual_against_expected(names, size, size, size)
    assert [level.label for level in found] == [
        "b24",
        *(f"b{i:02}" for i in range(19)),
        "(other)",
        "(missing)",
    ]
    assert (found[-2].rows, found[-2].exposure) == (7, 5.5)
    assert sum(level.rows for level in found) == 28


def test_the_population_stability_index():
    then, now = np.array([0.25, 0.25, 0.5]), np.array([0.5, 0.25, 0.25])
    assert psi(then, now) == psi(now, then) == pytest.approx(0.5 * math.log(2))
    assert psi(then, then) == 0
    vanished = psi(np.array([0.5, 0.5, 0]), np.array([1.0, 0, 0]))
    assert vanished == pytest.approx(0.5 * math.log(2) + (0.5 - 1e-4) * math.log(5000))
