"""Metrics of held-out rows against scikit-learn."""

import math

import numpy as np
import pytest
from sklearn.metrics import d2_tweedie_score, mean_absolute_error, mean_tweedie_deviance

from vfl.learn.losses import GammaLoss, PoissonLoss, SquaredLoss, TweedieLoss
from vfl.learn.metrics import binary_metrics, regression_metrics


@pytest.mark.parametrize("loss", [PoissonLoss(), GammaLoss(), TweedieLoss(1.3), SquaredLoss()], ids=str)
def test_metrics_are_scikit_learns(loss):
    rng = np.random.default_rng(0)
    mean = rng.gamma(3, 0.5, 300)
    label = rng.poisson(mean) + (0.5 if loss.power == 2 else 0.0)
    weight = rng.uniform(0.5, 2, 300)
    score = mean if loss.link == "identity" else np.log(mean)
    found = regression_metrics(loss, label, score, weight)
    kinds = {"sample_weight": weight, "power": loss.power}
    assert found == {
        "deviance": pytest.approx(mean_tweedie_deviance(label, mean, **kinds), rel=1e-12),
        "d2": pytest.approx(d2_tweedie_score(label, mean, **kinds), rel=1e-12),
        "mae": pytest.approx(mean_absolute_error(label, mean, sample_weight=weight), rel=1e-12),
    }


def test_what_is_explained_is_told_from_what_exposure_explains():
    rng = np.random.default_rng(0)
    exposure = rng.uniform(0.01, 2, 500)
    label, weight, offset = rng.poisson(0.3 * exposure).astype(float), np.ones(500), np.log(exposure)
    start = PoissonLoss().start(label, weight, offset)
    assert regression_metrics(PoissonLoss(), label, start + offset, weight, offset)["d2"] == 0
    assert regression_metrics(PoissonLoss(), label, start + offset, weight)["d2"] > 0.05


def test_a_label_that_does_not_vary_has_no_share_explained():
    ones = np.ones(5)
    assert math.isnan(regression_metrics(SquaredLoss(), ones, 2 * ones, ones)["d2"])
    assert math.isnan(binary_metrics(ones, ones / 2)["auc"])
