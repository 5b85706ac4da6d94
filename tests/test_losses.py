"""Losses and quantisation against scipy, scikit-learn and differences."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import expit
from sklearn.metrics import log_loss

from vfl.learn.losses import LogisticLoss, Quantiser


@pytest.fixture
def rows():
    """(score, label, weight)"""
    rng = np.random.default_rng(0)
    return rng.normal(0, 3, 500), rng.integers(0, 2, 500).astype(float), rng.uniform(0.1, 5, 500)


def test_predict_is_expit(rows):
    assert LogisticLoss.predict(rows[0]) == pytest.approx(expit(rows[0]), rel=1e-14)


def test_predict_of_huge_scores_neither_overflows_nor_warns():
    with np.errstate(all="raise", under="ignore"):
        assert LogisticLoss.predict(np.array([-1e308, -745.0, 0.0, 745.0, 1e308])).tolist() == [
            0.0,
            pytest.approx(5e-324, abs=1e-323),
            0.5,
            1.0,
            1.0,
        ]


def test_mean_is_scikit_learns_log_loss(rows):
    score, label, weight = rows
    expected = log_loss(label, expit(score), sample_weight=weight)
    assert LogisticLoss.mean(score, label, weight) == pytest.approx(expected, rel=1e-12)


def test_gradients_are_differences_of_the_loss(rows):
    score, label, weight = rows
    step = 1e-4

    def loss(at):
        return weight * (np.logaddexp(0, at) - label * at)

    gradient, hessian = LogisticLoss.gradients(score, label, weight)
    first = (loss(score + step) - loss(score - step)) / (2 * step)
    second = (loss(score + step) - 2 * loss(score) + loss(score - step)) / step**2
    # A central difference is off by some step^2; rounding adds 1e-16 / step and 1e-16 / step^2.
    assert gradient == pytest.approx(first, abs=1e-7)
    assert hessian == pytest.approx(second, abs=1e-5)


def test_start_has_the_least_loss(rows):
    _, label, weight = rows
    best = minimize_scalar(lambda s: LogisticLoss.mean(np.full(500, s), label, weight), bounds=(-9, 9))
    assert LogisticLoss.start(label, weight) == pytest.approx(best.x, abs=1e-5)


@given(
    bound=st.floats(1e-6, 1e9),
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


def test_a_row_of_weight_one_has_gradients_within_the_bound():
    score = np.linspace(-50, 50, 1001)
    for label in (0.0, 1.0):
        gradient, hessian = LogisticLoss.gradients(score, np.full(1001, label), np.ones(1001))
        assert np.abs(gradient).max() <= LogisticLoss.bound
        assert hessian.min() >= 0 and hessian.max() <= LogisticLoss.bound
