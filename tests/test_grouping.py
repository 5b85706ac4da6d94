"""Joint cells against plain marginals."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vfl.learn.grouping import group_columns


@st.composite
def blocks(draw):
    """Codes of some columns, their sizes, the node of each row."""
    rows = draw(st.integers(0, 300))
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    slots = draw(st.integers(1, 4))
    codes = np.array([rng.integers(0, size, rows) for size in sizes], np.uint8).reshape(len(sizes), rows)
    return codes, sizes, rng.integers(0, slots, rows), slots


@given(blocks())
def test_marginals_of_the_groups_are_the_columns_histograms(block):
    codes, sizes, slot, slots = block
    weights = np.arange(1, codes.shape[1] + 1)
    groups = group_columns(codes, sizes, slot, slots)
    assert sorted(c for group in groups for c in group.columns) == list(range(len(sizes)))
    for group in groups:
        cells = np.bincount(group.cell_of_row, weights, group.cells)
        for column, code in zip(group.columns, group.codes, strict=True):
            expected = np.zeros((slots, sizes[column]))
            np.add.at(expected, (slot, codes[column]), weights)
            found = np.zeros((slots, sizes[column]))
            np.add.at(found, (group.slot, code), cells)
            assert np.array_equal(found, expected)


def products(groups, rows):
    """What the groups cost: a product a row, and two a cell for the marginals, by halves."""
    return sum(rows + marginals(g) for g in groups)


def marginals(group):
    if len(group.columns) == 1:
        return 0
    return 2 * group.cells + sum(marginals(half) for half in group.halves())


@given(blocks())
def test_halves_are_joint_histograms_of_half_the_columns(block):
    codes, sizes, slot, slots = block
    weights = np.arange(1, codes.shape[1] + 1)
    for group in group_columns(codes, sizes, slot, slots):
        if len(group.columns) == 1:
            continue
        cells = np.bincount(group.cell_of_row, weights, group.cells)
        halves = group.halves()
        assert halves[0].columns + halves[1].columns == group.columns
        for half in halves:
            sums = np.bincount(half.cell_of_row, cells, half.cells)
            keys = np.vstack([slot, codes[list(half.columns)]])
            distinct, place = np.unique(keys, axis=1, return_inverse=True)
            expected = np.bincount(place.ravel(), weights)
            found = {
                tuple(k): s
                for k, s in zip(np.vstack([half.slot, half.codes]).T.tolist(), sums, strict=True)
            }
            assert found == {tuple(k): s for k, s in zip(distinct.T.tolist(), expected, strict=True)}


def test_few_distinct_rows_make_one_group():
    rng = np.random.default_rng(0)
    pattern = rng.integers(0, 32, (4, 500)).astype(np.uint8)
    codes = pattern[:, rng.integers(0, 500, 100_000)]
    groups = group_columns(codes, [32] * 4, np.zeros(100_000, np.int64), 1)
    assert len(groups) == 1
    assert groups[0].cells == len(np.unique(codes, axis=1).T)


def test_uniform_columns_cost_at_most_six_tenths():
    codes = np.random.default_rng(0).integers(0, 32, (10, 100_000)).astype(np.uint8)
    groups = group_columns(codes, [32] * 10, np.zeros(100_000, np.int64), 1)
    assert products(groups, 100_000) <= 0.6 * 10 * 100_000


def test_never_more_products_than_a_loop():
    rng = np.random.default_rng(1)
    for rows in (1, 50, 3_000, 50_000):
        codes = rng.integers(0, 32, (6, rows)).astype(np.uint8)
        slot = rng.integers(0, 8, rows)
        assert products(group_columns(codes, [32] * 6, slot, 8), rows) <= 6 * rows
