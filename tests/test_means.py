"""Means of many numbers that are never in memory together."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfl.blocks import means
from vfl.learn.glm import Move, Scores
from vfl.learn.losses import LogisticLoss, PoissonLoss, SquaredLoss, TweedieLoss, loss_of
from vfl.protocols.linear.masked_scores import fixed_point, total_of
from vfl.protocols.linear.rounding import bits_of_sums


@given(
    count=st.one_of(st.integers(1, 300), st.integers(1, 20_000)),
    block=st.integers(1, 5000),
    at_once=st.sampled_from([128, 1000, 1 << 17]),
    seed=st.integers(0, 2**32),
)
def test_the_mean_is_the_one_of_all_at_once(count: int, block: int, at_once: int, seed: int):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=count) * 10.0 ** rng.integers(-8, 8, count)
    weights = rng.uniform(0.1, 3, count)
    parts = ((values[i : i + block], weights[i : i + block]) for i in range(0, count, block))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(means, "_AT_ONCE", at_once)
        assert means.weighted_mean(parts, count) == np.average(values, weights=weights)


def test_values_beyond_all_bounds():
    parts = [(np.array([1e308, 1e308]), np.array([1.0, 1.0])), (np.array([np.inf]), np.array([2.0]))]
    assert means.weighted_mean(iter(parts), 3) == np.inf
    with pytest.raises(ZeroDivisionError):
        means.weighted_mean(iter([(np.ones(2), np.zeros(2))]), 2)


@given(count=st.integers(1, 400), at_once=st.sampled_from([128, 1 << 17]), seed=st.integers(0, 2**32))
def test_constants_of_losses_are_those_of_all_rows_at_once(count: int, at_once: int, seed: int):
    """The sums that they are made of are, whatever the blocks."""
    rng = np.random.default_rng(seed)
    label = np.append([0.0, 1.0], rng.integers(0, 2, count).astype(float))
    weight, offset = rng.uniform(0.1, 2, count + 2), rng.normal(size=count + 2)
    losses = [LogisticLoss(), PoissonLoss(), TweedieLoss(1.4), SquaredLoss()]
    known = [loss.start(label, weight, offset) for loss in losses]
    assert known[3] == np.average(label - offset, weights=weight)
    terms = [weight * label * np.exp(0 * offset - 0.0), weight * np.exp(offset - offset.max())]
    paid, due = (of[of > 0].sum() for of in terms)
    assert known[1] == math.log(paid) - (math.log(due) + offset.max())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(means, "_AT_ONCE", at_once)
        assert [loss.start(label, weight, offset) for loss in losses] == known


@pytest.mark.parametrize("at_once", [128, 1000])
@pytest.mark.parametrize("family", ["poisson", "logistic"])
def test_a_line_search_over_pieces_of_rows(at_once: int, family: str):
    """Scores, residuals and steps are those of all rows at once, to the last bit."""
    rng, rows = np.random.default_rng(at_once), 1001
    loss = loss_of(family)
    label = rng.integers(0, 2, rows).astype(np.float64)
    weight, d = rng.uniform(0.5, 2, rows), rng.normal(size=rows)

    def found() -> list[object]:
        every: list[object] = []
        for offset in (np.broadcast_to(0.25, rows), rng_offset):
            scores = Scores.start(loss, label, weight, offset, True)
            first = scores.score
            assert first.tolist() == (offset + scores.intercept).tolist()
            every += [scores.curvature(), scores.deviance(), scores.go(Move(d, 0.5, 2.0), 0.1, True)]
            every += [scores.intercept, scores.change, scores.distance(first)]
            every += [scores.score.tolist(), scores.residuals().tolist()]
            gradient, _ = loss.gradients(scores.score, label, weight)
            assert every[-1] == (gradient / weight.sum()).tolist()
            assert scores.distance(first) == np.abs(scores.score - first).max()
            integers = np.rint(scores.score * 2.0**30).astype(np.int64)
            length = np.linalg.norm(integers[np.newaxis].astype(np.float64), axis=-1)[0]
            most = float(length) * math.sqrt(rows) * (1 + 1e-6)
            assert bits_of_sums(integers) == math.ceil(most).bit_length() + 2
            shares = [fixed_point(scores.score, 2.0**40), fixed_point(d, 2.0**40)]
            every += [total_of(shares, rows, 2.0**40).tolist()]
        return every

    rng_offset = rng.normal(size=rows)
    whole = found()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(means, "_AT_ONCE", at_once)
        assert found() == whole
