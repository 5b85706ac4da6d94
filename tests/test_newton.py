"""Newton's steps from sums over rows."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.optimize import brentq

from vfl.learn.losses import loss_of
from vfl.learn.newton import SIZES, Along, Curvature, product, times


@pytest.mark.parametrize("columns", [0, 1, 2, 17])
def test_systems_are_solved_as_by_lapack(columns):
    rng = np.random.default_rng(columns)
    x = rng.normal(size=(60, columns)) * 10.0 ** rng.uniform(-3, 3, columns)
    matrix, right = x.T @ x, rng.normal(size=columns)
    made = Curvature.of(matrix)
    scale = np.sqrt(np.diag(matrix))  # each coefficient in its own unit
    assert np.allclose(made.solve(right) * scale, np.linalg.solve(matrix, right) * scale, rtol=1e-9)
    inverse = made.inverse()
    assert np.allclose(inverse * np.outer(scale, scale), np.linalg.inv(matrix) * np.outer(scale, scale))
    assert np.allclose(times(inverse, matrix), np.eye(columns), atol=1e-9)
    if columns:
        assert product(right, right) == pytest.approx(float(right @ right), rel=1e-15)


def test_a_flat_direction_ends_in_a_step_that_can_be_taken():
    """Two equal columns, one of zeros: nothing is infinite, and the rest is solved."""
    column = np.arange(5.0)
    x = np.stack([column, column, np.zeros(5), column**2], axis=1)
    right = x.T @ (3 * column + column**2)
    step = Curvature.of(x.T @ x).solve(right)
    assert np.isfinite(step).all()
    assert np.allclose(x @ step, 3 * column + column**2)


@given(
    st.sampled_from(["poisson", "logistic", "gamma", "tweedie", "gaussian"]),
    st.integers(0, 10**6),
    st.floats(0.3, 3.5),
)
def test_the_best_size_is_found_between_those_looked_at(family, seed, about):
    """Of a step whose best size is about so large."""
    rng, loss = np.random.default_rng(seed), loss_of(family)
    move = rng.normal(size=50)
    label = loss.predict(about * move + rng.normal(size=50) * 0.1)
    if family == "logistic":
        label = (rng.random(50) < label).astype(float)

    def slope(size):
        return float((loss.gradients(size * move, label, np.ones(50))[0] * move).sum())

    curvatures = [
        float((loss.gradients(size * move, label, np.ones(50))[1] * move * move).sum()) for size in SIZES
    ]
    best = Along(SIZES, [slope(size) for size in SIZES], curvatures).best()
    if slope(0.0) >= 0:
        assert best == SIZES[1] / 64
    elif slope(SIZES[-1]) < 0:
        assert best == SIZES[-1]
    else:
        right = brentq(slope, 0, SIZES[-1])
        assert best == pytest.approx(right, rel=0.02 if right < 1.5 else 0.1)


def test_sizes_that_are_too_far():
    sizes, inf = (0.0, 0.125, 0.5, 1.0, 4.0), np.inf
    assert Along(sizes, [-1, -0.5, -0.1, inf, inf], [1, 1, 1, inf, inf]).best() == 0.5
    assert Along(sizes, [-1, inf, inf, inf, inf], [1, inf, inf, inf, inf]).best() == sizes[1] / 64
    assert Along(sizes, [-1.0] * 5, [0.0] * 5).best() == sizes[-1]
    assert Along(sizes, [0.5] * 5, [0.0] * 5).best() == sizes[1] / 64
    assert Along(sizes, [-1, 0, 1, 2, 3], [8] * 5).best() == 0.125


@given(st.floats(-9, 9), st.floats(0.5, 300))
@example(-4.99898390277767, 1.2245731663554054)
@example(-6.625, 1.6)
def test_the_best_size_is_found_whatever_its_order_of_magnitude(order, steepness):
    """In a few rounds, where the slope grows as an exponential beyond it."""
    best = 10.0**order
    sizes, rounds = [*SIZES], 0
    while True:
        with np.errstate(over="ignore"):
            grown = np.exp(steepness * (np.array(sizes) / best - 1))
            along = Along(sizes, (grown - 1).tolist(), (grown * steepness / best).tolist())
        rounds += 1
        further = along.further()
        if further is None:
            break
        assert further[0] == 0 and len(further) == len(SIZES) and further == sorted(further)
        sizes = further
    # Of some 180,000 draws none was below 0.95 or above 1.66, nor took more than 16 rounds.
    assert 0.9 * best <= along.best() <= 1.8 * best
    assert rounds <= 18
