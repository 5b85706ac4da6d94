"""Rows of nodes: kernels against what few rows get, and both against the rows one by one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfl.learn import node_rows, tree
from vfl.learn.node_rows import left_as_told, left_by_codes, sums_as_told, sums_by_node
from vfl.learn.packed_codes import pack_codes
from vfl.learn.splits import Side
from vfl.protocols.common.bits import pack_bits

NODES = 7


@pytest.fixture(params=[0, 1 << 40], ids=["kernels", "few rows"])
def least(request, monkeypatch):
    """The kernels are used, or never."""
    for module in (node_rows, tree):
        monkeypatch.setattr(module, "MANY", request.param)
        monkeypatch.setattr(module, "is_compiled", lambda _: False)


def table(nodes: list[int]) -> np.ndarray:
    found = np.full(NODES, -1)
    found[nodes] = np.arange(len(nodes))
    return found


@pytest.mark.usefixtures("least")
@given(rows=st.integers(0, 200), seed=st.integers(0, 2**32))
def test_rows_move_below_the_nodes_that_are_split(rows, seed):
    rng = np.random.default_rng(seed)
    node, left = rng.integers(0, NODES, rows).astype(np.int32), rng.random(rows) < 0.5
    is_split = rng.random(NODES) < 0.5
    below = 2 * node + 2 - left
    wanted = [b if is_split[n] else n for n, b in zip(node, below, strict=True)]
    found = tree.moved(is_split, node, left)
    assert found.dtype == np.int32
    assert found.tolist() == wanted


@pytest.mark.usefixtures("least")
@given(rows=st.integers(0, 200), seed=st.integers(0, 2**32))
def test_nodes_add_up_their_rows(rows, seed):
    rng = np.random.default_rng(seed)
    node, active = rng.integers(0, NODES, rows).astype(np.int32), rng.random(rows) < 0.8
    g, h = rng.integers(-(2**40), 2**40, (2, rows)) * active
    wanted = [[sum(of[node == n].tolist()) for n in range(NODES)] for of in (active.astype(int), g, h)]
    assert sums_by_node(NODES, node, active, g, h).tolist() == wanted


SIDES = {
    1: Side(0, 2, 5, categorical=False, missing_left=True),
    3: Side(9, 1, 3, categorical=True, missing_left=False),
    4: Side(9, 1, 3, categorical=True, missing_left=False, bins=(1, 3)),
    6: Side(8, 0, 255, categorical=False, missing_left=False),
}


@pytest.mark.usefixtures("least")
@given(rows=st.integers(0, 200), seed=st.integers(0, 2**32), beside=st.booleans())
def test_rows_go_left_by_codes(rows, seed, beside):
    rng = np.random.default_rng(seed)
    sizes = [6, 2, 2, 2, 2, 2, 2, 2, 256, 4]
    codes = np.array([rng.integers(0, size, rows) for size in sizes], np.uint8)
    node = rng.integers(0, NODES, rows).astype(np.int32)
    before = (rng.random(rows) < 0.5) & ~np.isin(node, [*SIDES])
    given_left = [before] if beside else []
    kept = before.copy()
    found = left_by_codes(table([*SIDES]), SIDES, node, pack_codes(codes), *given_left)
    for row, n in enumerate(node.tolist()):
        if n in SIDES:
            side = SIDES[n]
            assert found[row] == side.goes_left(codes[side.column, [row]])[0]
        else:
            assert found[row] == (beside and before[row])
    assert np.array_equal(before, kept)


@pytest.mark.usefixtures("least")
@given(rows=st.integers(0, 200), seed=st.integers(0, 2**32), beside=st.booleans())
def test_rows_go_left_as_told(rows, seed, beside):
    rng = np.random.default_rng(seed)
    node, goes = rng.integers(0, NODES, rows).astype(np.int32), rng.random(rows) < 0.5
    nodes = [5, 0, 2]
    told = [pack_bits(goes[node == n]) for n in nodes]
    before = (rng.random(rows) < 0.5) & ~np.isin(node, nodes)
    found = left_as_told(table(nodes), node, told, *([before] if beside else []))
    wanted = np.where(np.isin(node, nodes), goes, before & beside)
    assert np.array_equal(found, wanted)


@pytest.mark.usefixtures("least")
@given(rows=st.integers(0, 200), seed=st.integers(0, 2**32))
def test_a_node_adds_up_its_rows_as_told(rows, seed):
    rng = np.random.default_rng(seed)
    node, goes = rng.integers(0, 3, rows).astype(np.int32), rng.random(rows) < 0.5
    active = rng.random(rows) < 0.8
    g, h = rng.integers(-(2**40), 2**40, (2, rows))
    left, right = ((node == 1) & active & side for side in (goes, ~goes))
    wanted = [left.sum(), right.sum(), sum(g[left].tolist()), sum(h[left].tolist())]
    assert sums_as_told(1, node, active, g, h, pack_bits(goes[node == 1])).tolist() == wanted
