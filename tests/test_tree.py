"""Gains, leaf weights, the frontier and the walk, against plain loops."""

import numpy as np
import pytest
import walk
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from vfl.learn import tree
from vfl.learn.params import BoostParams
from vfl.learn.quantiser import Scales
from vfl.learn.tree import (
    FREE,
    Bounds,
    Branch,
    Frontier,
    Sums,
    Tree,
    best_split,
    furthest,
    gains,
    leaf_weight,
    level_gains,
    obstacle,
)

SCALES = Scales(2.0**20, 2.0**22)


def sums(gradient, hessian) -> Sums:
    """Quantised sums of real ones."""
    return Sums(
        np.asarray(np.rint(np.asarray(gradient) * SCALES.gradient), np.int64),
        np.asarray(np.rint(np.asarray(hessian) * SCALES.hessian), np.int64),
    )


def least_loss(g: float, h: float, reg_lambda: float, reg_alpha: float = 0.0) -> float:
    """min over w of g w + (h + lambda) w^2 / 2 + alpha |w| (Chen and Guestrin 2016, equation 4)."""
    return min(
        minimize_scalar(
            lambda w: g * w + 0.5 * (h + reg_lambda) * w * w + reg_alpha * abs(w),
            bounds=side,
            method="bounded",
            options={"xatol": 1e-9},
        ).fun
        for side in ((-1e4, 0.0), (0.0, 1e4))
    )


@given(
    left=st.tuples(st.floats(-50, 50), st.floats(0.01, 20)),
    right=st.tuples(st.floats(-50, 50), st.floats(0.01, 20)),
    reg_lambda=st.sampled_from([0.0, 1.0, 10.0]),
    reg_alpha=st.sampled_from([0.0, 0.5, 20.0]),
)
def test_gain_is_the_loss_that_a_split_saves(left, right, reg_lambda, reg_alpha):
    params = BoostParams(reg_lambda=reg_lambda, reg_alpha=reg_alpha, min_child_weight=0.0)
    node, penalties = (left[0] + right[0], left[1] + right[1]), (reg_lambda, reg_alpha)
    saved = least_loss(*node, *penalties) - sum(least_loss(*side, *penalties) for side in (left, right))
    found = gains(sums([left[0]], [left[1]]), sums(*node), np.array([True]), SCALES, params)[0]
    # Quantising moves each sum by up to 2^-20, which hessians of 0.01 magnify.
    if found == -np.inf:
        assert saved < 0.02
    else:
        assert found == pytest.approx(saved, rel=1e-3, abs=0.02)


@pytest.mark.parametrize("at_once", [1, 40, 1000])
def test_gains_of_a_level_are_those_of_its_nodes_bit_for_bit(at_once, monkeypatch):
    monkeypatch.setattr(tree, "_AT_ONCE", at_once)
    rng = np.random.default_rng(at_once)
    params = BoostParams(reg_lambda=0.3, min_child_weight=1.0, gamma=0.1)
    nodes = [sums(rng.normal(0, 20), rng.uniform(5, 40)) for _ in range(5)]
    left = [sums(rng.normal(0, 10, 20), rng.uniform(0, 20, 20)) for _ in nodes]
    valid, ordered = [rng.random(20) < 0.9 for _ in nodes], rng.random(20) < 0.5
    bounds = [Bounds(*low_high) for low_high in np.sort(rng.normal(0, 0.3, (4, 2))).tolist()]
    bounds.append(FREE)
    each = [
        gains(*given[:3], SCALES, params, given[3], ordered)
        for given in zip(left, nodes, valid, bounds, strict=True)
    ]
    found = level_gains(left, nodes, valid, SCALES, params, bounds, ordered)
    assert np.array_equal(found, np.stack(each)) and (found > 0).any() and (found == -np.inf).any()
    assert level_gains([], [], [], SCALES, params, [], ordered).shape == (0, 20)


@pytest.mark.parametrize(
    ("settings", "candidates", "found"),
    [
        ({"gamma": 1e6}, [(-30.0, 10.0)], "gamma"),
        ({"min_child_weight": 50.0}, [(-30.0, 10.0)], "min_child_weight"),
        ({"min_child_weight": 50.0, "gamma": 1e6}, [(-30.0, 10.0)], "min_child_weight"),
        ({"reg_lambda": 1e300}, [(-30.0, 10.0)], "reg_lambda"),
        ({"reg_alpha": 30.0}, [(-30.0, 10.0)], "reg_alpha"),
        ({"reg_alpha": 30.0, "reg_lambda": 1e300}, [(-30.0, 10.0)], "reg_lambda"),
        ({}, [(0.0, 10.0), (0.0, 5.0)], "label"),
        ({"gamma": 1e6}, [], "columns"),
    ],
)
def test_what_stops_all_splits_of_a_node_is_told(settings, candidates, found):
    params = BoostParams(**settings)
    left = sums([g for g, _ in candidates], [h for _, h in candidates])
    node, valid = sums(0.0, 20.0), np.ones(len(candidates), np.bool_)
    assert (gains(left, node, valid, SCALES, params) == -np.inf).all()
    assert obstacle(left, node, valid, SCALES, params) == found
    if candidates:
        assert obstacle(left, node, ~valid, SCALES, params) == "min_child_rows"


def test_a_split_that_only_a_constraint_stops():
    left, node, valid = sums([30.0], [10.0]), sums(0.0, 20.0), np.array([True])
    params, ordered = BoostParams(), np.array([True])
    assert (gains(left, node, valid, SCALES, params) > 0).all()
    # The left would score lower, as it should; turned round it would not.
    assert (gains(left, node, valid, SCALES, params, ordered=ordered) > 0).all()
    turned = sums([-30.0], [10.0])
    assert obstacle(turned, node, valid, SCALES, params, ordered) == "monotone"
    assert furthest(["columns", "monotone", "label"]) == "monotone"
    assert furthest(["label", "min_child_rows"]) == "min_child_rows"
    assert furthest([]) == "columns"


def test_leaf_weight_has_the_least_loss():
    params = BoostParams(reg_lambda=2.0, learning_rate=0.3)
    best = minimize_scalar(lambda w: 5 * w + 0.5 * (7 + 2.0) * w * w).x
    assert leaf_weight(sums(5.0, 7.0), SCALES, params) == pytest.approx(0.3 * best, rel=1e-6)


@given(
    left=st.tuples(st.floats(-50, 50), st.floats(0.5, 20)),
    right=st.tuples(st.floats(-50, 50), st.floats(0.5, 20)),
    reg_lambda=st.sampled_from([0.0, 1.0, 10.0]),
    reg_alpha=st.sampled_from([0.0, 3.0]),
    ends=st.tuples(st.floats(-5, 5), st.floats(-5, 5)),
)
def test_within_bounds_a_gain_is_what_the_best_weights_there_save(
    left, right, reg_lambda, reg_alpha, ends
):
    params = BoostParams(
        reg_lambda=reg_lambda, reg_alpha=reg_alpha, min_child_weight=0.0, learning_rate=0.3
    )
    low, high = sorted(ends)
    bounds = Bounds(0.3 * low, 0.3 * high)  # of shrunk weights
    node = (left[0] + right[0], left[1] + right[1])

    def saved(w: float, g: float, h: float) -> float:
        return -(g * w + 0.5 * (h + reg_lambda) * w * w + reg_alpha * abs(w))

    shrunk = [(np.sign(g) * max(abs(g) - reg_alpha, 0.0), h) for g, h in (left, right)]
    best = [min(max(-g / (h + reg_lambda), low), high) for g, h in shrunk]
    expected = sum(saved(w, *side) for w, side in zip(best, (left, right), strict=True))
    expected -= -least_loss(*node, reg_lambda, reg_alpha)
    for g, h in (left, right):
        weight = leaf_weight(sums(g, h), SCALES, params, bounds)
        assert weight == pytest.approx(0.3 * best[(g, h) != left], abs=1e-5)
        assert bounds.low <= weight <= bounds.high
    arguments = sums([left[0]], [left[1]]), sums(*node), np.array([True]), SCALES, params, bounds
    free, ordered = gains(*arguments)[0], gains(*arguments, np.array([True]))[0]
    assert (
        free == -np.inf
        if expected < -0.001
        else free == pytest.approx(expected, rel=1e-3, abs=0.01)
        or (free == -np.inf and expected < 0.001)
    )
    if best[0] < best[1] - 1e-4:
        assert ordered == free
    if best[0] > best[1] + 1e-4:
        assert ordered == -np.inf


def test_what_is_below_a_split_in_order_stays_on_its_side_of_the_middle():
    left, right = Bounds(-1.0, 4.0).below(0.0, 2.0)
    assert (left, right) == (Bounds(-1.0, 1.0), Bounds(1.0, 4.0))
    assert Bounds().below(-1.0, 3.0) == (Bounds(high=1.0), Bounds(low=1.0))
    # Rounding puts the middle of neighbouring weights on neither's wrong side.
    a, b = 0.1, np.nextafter(0.1, 1)
    assert a <= Bounds().below(a, b)[0].high <= b


def test_leaf_without_hessian_and_penalty_weighs_nothing():
    assert leaf_weight(sums(5.0, 0.0), SCALES, BoostParams(reg_lambda=0.0)) == 0.0


@pytest.mark.parametrize(
    ("params", "allowed"),
    [
        ({}, True),
        ({"gamma": 23.9}, True),
        ({"gamma": 24.0}, False),
        ({"min_child_weight": 2.0}, True),
        ({"min_child_weight": 2.1}, False),
    ],
)
def test_what_rules_a_split_out(params, allowed):
    settings = BoostParams(**{"reg_lambda": 0.0, "min_child_weight": 0.0, **params})
    left, node = sums([8.0], [2.0]), sums(0.0, 6.0)  # 0.5 (8^2 / 2 + 8^2 / 4 - 0) = 24
    expected = 24.0 if allowed else -np.inf
    assert gains(left, node, np.array([True]), SCALES, settings).tolist() == [expected]
    assert gains(left, node, np.array([False]), SCALES, settings).tolist() == [-np.inf]


def test_a_split_that_gains_nothing_is_no_split():
    params = BoostParams(reg_lambda=0.0, min_child_weight=0.0)
    assert gains(sums([1.0], [1.0]), sums(2.0, 2.0), np.array([True]), SCALES, params)[0] == -np.inf


def test_of_equal_gains_the_first_partys_wins_with_all_that_tie():
    none = np.array([], float)
    forbidden = np.array([-np.inf, -np.inf])
    assert best_split([none, forbidden]) is None
    assert best_split([]) is None
    choice = best_split([none, forbidden, np.array([1.0, 3.0, 3.0]), np.array([3.0])])
    assert (choice.party, choice.candidates, choice.gain) == (2, (1, 2), 3.0)
    assert best_split([np.array([1.0]), np.array([2.0])]).party == 1


def test_sums_are_compared_entry_by_entry():
    a = Sums(np.array([3, 4]), np.array([1, 2]))
    assert a.equals(Sums(np.array([3, 4]), np.array([1, 2])))
    assert not a.equals(Sums(np.array([3, 4]), np.array([1, 3])))
    assert not a.equals(Sums(np.array([2, 4]), np.array([1, 2])))
    assert (a - a.at(np.array([1, 1]))).gradient.tolist() == [-1, 0]


@given(data=st.data(), rows=st.integers(1, 40), levels=st.integers(1, 4))
def test_frontier_is_a_walk_row_by_row(data, rows, levels):
    bits = st.lists(st.booleans(), min_size=rows, max_size=rows)
    active = np.array(data.draw(bits))
    frontier, where = Frontier(np.zeros(rows, np.int64), active), [0] * rows
    for _ in range(levels):
        split = sorted(data.draw(st.sets(st.sampled_from(frontier.nodes), min_size=1)))
        left = np.array(data.draw(bits))
        frontier.advance(split, left)
        for i, node in enumerate(where):
            if node in split:
                where[i] = 2 * node + (1 if left[i] else 2)
        assert frontier.node_of_row.tolist() == where
        assert sorted(frontier.nodes) == sorted(2 * n + side for n in split for side in (1, 2))
        counts = {n: int((active & frontier.inside(n)).sum()) for n in frontier.nodes}
        assert frontier.covers() == counts
        for summed, sibling in frontier.pairs:
            assert counts[summed] < counts[sibling] or (
                counts[summed] == counts[sibling] and summed < sibling
            )
        nodes = frontier.nodes
        slots = frontier.slots(nodes)
        assert slots.tolist() == [
            nodes.index(n) if a and n in nodes else -1 for n, a in zip(where, active, strict=True)
        ]


def test_scores_walk_to_the_leaves():
    branches = {0: Branch(0, 0, "a", 1.0), 2: Branch(1, 0, "b", 1.0)}
    tree = Tree(branches, {1: 0.5, 5: -1.0, 6: 2.0})
    left = {0: np.array([True, False, False]), 1: np.array([True, True, False])}
    assert walk.scores(tree, 3, lambda branch: left[branch.party]).tolist() == [0.5, -1.0, 2.0]
    assert tree.weights().tolist() == [0.0, 0.5, 0.0, 0.0, 0.0, -1.0, 2.0]


def test_a_tree_of_one_leaf():
    leaf = Tree({}, {0: 0.25})
    assert walk.scores(leaf, 2, lambda branch: np.zeros(2, bool)).tolist() == [0.25, 0.25]
