"""Draws without replacement are NumPy's, bit for bit, whatever memory they take."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfl.learn import drawing
from vfl.learn.drawing import draw_places, in_order
from vfl.learn.params import BoostParams
from vfl.protocols.trees.draws import draw_rows, sizes_of


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**32),
    total=st.one_of(st.integers(1, 40), st.integers(9_990, 30_000)),
    share=st.floats(0.001, 1),
    words=st.sampled_from([1, 7, 1 << 16]),
)
def test_places_are_those_that_numpy_draws(seed: int, total: int, share: float, words: int):
    count = max(1, round(share * total))
    drawn = np.zeros(total, np.bool_)
    drawn[np.random.default_rng([seed, 7]).choice(total, count, replace=False)] = True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "_AT_ONCE", max(words, count // 500))
        assert np.array_equal(draw_places([seed, 7], total, count), drawn)


def test_no_place_at_all():
    assert draw_places([0, 1], 0, 0).shape == (0,)
    assert draw_places([0, 1], 10_001, 10_001).all()


@pytest.mark.parametrize("count", [0, 1, 100, 9_000])
@pytest.mark.parametrize("seed", range(3))
def test_order_piece_by_piece(count: int, seed: int):
    rng = np.random.default_rng(seed)
    normal = rng.normal(size=count)
    for keys in (
        normal,
        rng.integers(0, 3, count).astype(np.float64),
        np.where(rng.random(count) < 0.3, np.nan, normal),
        np.where(rng.random(count) < 0.5, -np.inf, np.inf),
        np.full(count, np.nan),
        -np.abs(normal * rng.integers(0, 2, count)),  # zeros of either sign
    ):
        pieces = [np.empty(0, np.int64), *in_order(keys)]
        assert np.array_equal(np.concatenate(pieces), np.argsort(keys, kind="stable"))


def draw_all_at_once(
    train: np.ndarray, params: BoostParams, tree: int, gradient: np.ndarray, hessian: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """As `draw_rows`, of a GOSS tree."""
    rows, mask, counts_for = np.flatnonzero(train), train.copy(), np.ones(len(train))
    size = np.abs(gradient[rows] * hessian[rows])
    others = rows[np.argsort(-size, kind="stable")[max(1, round(params.goss_top * len(rows))) :]]
    count = min(len(others), max(1, round(params.goss_other * len(rows))))
    drawn = np.random.default_rng([params.seed, tree]).choice(others, count, replace=False)
    mask[others], mask[drawn] = False, True
    counts_for[drawn] = len(others) / max(1, count)
    return mask, counts_for


@pytest.mark.parametrize("rows", [2, 50, 30_000])
@pytest.mark.parametrize("ties", [False, True])
def test_rows_by_their_gradients(rows: int, ties: bool):
    rng = np.random.default_rng(rows)
    params = BoostParams(goss_top=0.3, goss_other=0.25, learning_rate=1.0, seed=3)
    train = rng.random(rows) < 0.9
    train[0] = True
    gradient = rng.integers(-3, 4, rows) / 2 if ties else rng.normal(size=rows)
    hessian = rng.random(rows)
    gradient[rows // 2] = np.nan
    found = draw_rows(train, params, 4, lambda: sizes_of(gradient, hessian))
    for own, expected in zip(found, draw_all_at_once(train, params, 4, gradient, hessian), strict=True):
        assert np.array_equal(own, expected)
