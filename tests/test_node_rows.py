"""Passes over rows for all nodes at once come to what a look at one node after the other does."""

import numpy as np
import pytest
from test_boost import make_job
from test_lattice_boost import planes, settings_of

from vfl.blocks.engine import ENGINE, Embedded
from vfl.learn.splits import Candidates, Side
from vfl.protocols.common.bits import pack_bits
from vfl.protocols.trees import node_rows
from vfl.protocols.trees.known_rows import KnownRows

ROWS = 5000


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(params=["numpy", "compiled"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rows of a process that has compiled nothing, and many."""
    monkeypatch.setattr(node_rows, "UNCOMPILED", -1 if request.param == "compiled" else ROWS)
    monkeypatch.setattr(node_rows, "is_compiled", lambda _: False)


@pytest.mark.usefixtures("path")
def test_rows_follow_what_is_told_of_several_nodes(rng):
    node = rng.integers(3, 9, ROWS).astype(np.int32)
    goes, before = rng.random(ROWS) < 0.4, rng.random(ROWS) < 0.5
    nodes = [7, 3, 5]
    table = np.full(9, -1, np.int64)
    table[nodes] = range(3)
    left = before.copy()
    node_rows.follow(table, node, [pack_bits(goes[node == one]) for one in nodes], left)
    assert np.array_equal(left, np.where(np.isin(node, nodes), goes, before))

    active, (g, h) = rng.random(ROWS) < 0.7, rng.integers(-(2**40), 2**40, (2, ROWS))
    sides = node_rows.sides_of(table, 3, node, active, g, h, left)
    for one, found in zip(nodes, sides.tolist(), strict=True):
        inside = (node == one) & active
        went = inside & left
        assert found == [went.sum(), (inside & ~left).sum(), g[went].sum(), h[went].sum()]

    counts, of_g, of_h = node_rows.sums_of_nodes(9, node, active, g, h)
    assert counts.tolist() == [int((active & (node == one)).sum()) for one in range(9)]
    assert of_g.tolist() == [int(g[node == one].sum()) for one in range(9)]
    assert of_h.tolist() == [int(h[node == one].sum()) for one in range(9)]


@pytest.mark.usefixtures("path")
def test_rows_of_nodes_have_both_numbers_in_one(rng):
    node = rng.integers(0, 6, ROWS).astype(np.uint8)
    active = rng.random(ROWS) < 0.7
    g, h = rng.integers(-31, 32, ROWS), rng.integers(0, 32, ROWS)
    table = np.array([-1, 1, -1, 0, -1, -1])
    found = node_rows.pairs_of(table, 2, 160_001, node, active, g, h)
    for place, one in enumerate((3, 1)):
        inside = active & (node == one)
        assert found[place].tolist() == np.where(inside, g * 160_001 + h, 0).tolist()
    with pytest.raises(ValueError, match="a hessian below 0"):
        node_rows.pairs_of(table, 2, 160_001, node, active, g, -h)


@pytest.mark.parametrize("depth", [2, 7])  # nodes of one byte, of two
def test_a_host_knows_rows_counts_them_and_splits_its_nodes(rng, depth):
    """Over several blocks of rows."""
    params = settings_of(min_child_rows=5, max_bins=8)
    binned = make_job(ROWS, 1, 3, params).blocks["party1"]
    own = Candidates.of(binned.columns)
    with ENGINE.instead(Embedded(1 << 10)):
        codes = ENGINE.hold(binned.codes)
        known = KnownRows(ROWS, depth)
        node = rng.integers(1, 4, ROWS)  # rows of 3 are in no node that is asked about
        drawn = rng.random(ROWS) < 0.8
        bits, _ = planes(node, [2, 1])
        asked = np.isin(node, [1, 2])
        counts = known.learn([2, 1], bits, pack_bits(drawn[asked]))
        assert counts.tolist() == [int((drawn & (node == one)).sum()) for one in (2, 1)]

        columns = {1: np.array([2]), 2: np.array([0, 2])}
        cells = known.histograms(own, codes, columns)
        for place, (one, of_node) in enumerate(columns.items()):
            expected = np.zeros(own.cells, np.int64)
            for column in of_node.tolist():
                of = binned.codes[column][drawn & (node == one)]
                np.add.at(expected, own.offsets[column] + of, 1)
            assert np.array_equal(cells[place], expected)

        sides = {2: Side(1, 3, binned.columns[1].bins, False, True), 1: own.side(0, False)}
        left = known.split(codes, sides)
        for one, side in sides.items():
            expected = side.goes_left(binned.codes[side.column][node == one])
            assert np.array_equal(left[one], expected)
            node[node == one] = 2 * one + 2 - expected
        assert known.split(codes, {}) == {}
        now = known._node.astype(int)
        assert np.array_equal(now[asked], node[asked]) and (now[~asked] == -1).all()
        # Those that went left of node 1 are asked about; others could not have come there.
        at = np.where(node == 3, 3, 0)
        bits, _ = planes(np.where(asked, at, 0), [3])
        known.learn([3], bits, pack_bits(drawn[asked & (node == 3)]))
        with pytest.raises(ValueError, match="in another node"):
            known.learn([3], planes(np.where(asked, 3, 0), [3])[0], pack_bits(drawn[asked]))


def test_candidates_are_valid_by_their_own_columns(rng):
    """Whichever of the other columns are counted."""
    params = settings_of(min_child_rows=5, max_bins=8)
    binned = make_job(500, 1, 3, params).blocks["party1"]
    own = Candidates.of(binned.columns)
    all_cells = np.zeros((1, own.cells), np.int64)
    for column, codes in enumerate(binned.codes):
        np.add.at(all_cells[0], own.offsets[column] + codes, 1)
    expected = own.valid(all_cells, 5)[0]
    assert expected.any()
    for column in range(3):
        cells, first = np.zeros_like(all_cells), own.offsets[column]
        part = slice(first, first + own.columns[column].bins + 1)
        cells[:, part] = all_cells[:, part]
        found = own.valid(cells, 5)[0]
        assert np.array_equal(found[own.column == column], expected[own.column == column])
        assert not found[own.column != column].any()
