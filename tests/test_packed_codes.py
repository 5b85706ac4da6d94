"""Sums of a level over packed columns against those of one column after the other."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfl.learn import packed_codes, tree
from vfl.learn.packed_codes import (
    Packing,
    chosen_columns,
    column_of,
    follow_codes,
    level_histograms,
    pack_codes,
)
from vfl.learn.splits import Cells, Side, block_histograms


@pytest.mark.parametrize("columns", [0, 1, 7, 8, 9, 25])
def test_columns_are_what_was_packed(columns):
    rng = np.random.default_rng(columns)
    codes = rng.integers(0, 256, (columns, 100)).astype(np.uint8)
    packed = pack_codes(codes)
    assert all(np.array_equal(column_of(packed, i), of) for i, of in enumerate(codes))
    # As in a block of many.
    assert all(np.array_equal(column_of(packed[:, 7:50], i), of[7:50]) for i, of in enumerate(codes))
    some = np.arange(columns)[::3]
    assert np.array_equal(chosen_columns(some, packed), pack_codes(codes[some]))


@given(
    sizes=st.lists(st.integers(1, 40), max_size=20),
    rows=st.sampled_from([0, 1, 2047, 2048, 2049, 5000]),
    bits=st.integers(0, 24),
    slots=st.integers(1, 9),
    extreme=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_sums_of_a_level_are_those_of_each_column(sizes, rows, bits, slots, extreme, seed):
    rng = np.random.default_rng(seed)
    codes = np.array([rng.integers(0, size, rows) for size in sizes], np.uint8).reshape(len(sizes), rows)
    flat = Cells(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)[:-1], sum(sizes))
    most = 2**bits
    gradient, hessian = rng.integers(-most, most, (2, rows), endpoint=True)
    if extreme:  # all the largest there is, of either sign
        gradient, hessian = np.full((2, rows), rng.choice([-most, most], (2, 1)))
    node = rng.integers(0, 2 * slots, rows).astype(np.int32)
    table = np.full(2 * slots, -1)
    table[rng.permutation(2 * slots)[:slots]] = np.arange(slots)
    active = rng.random(rows) < 0.8
    slot = np.where(active, table[node], -1)
    wanted = [block_histograms(codes, flat, slot, slots, of, 0) for of in (gradient, hessian, None)]
    for least in (0, 1 << 40):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(packed_codes, "UNCOMPILED", least)
            patch.setattr(packed_codes, "is_compiled", lambda _: False)
            given_rows = (node, active), (gradient, hessian)
            found = level_histograms(pack_codes(codes), flat, table, *given_rows, bits, 1)
        assert np.array_equal(found, wanted)


@pytest.mark.parametrize("bits", range(25))
def test_words_hold_what_they_are_for(bits):
    for packing in Packing.of(bits):
        assert packing.rows >= 1 << 11
        ones = packing.rows * packing.one
        most = packing.rows << bits
        assert ones < 1 << packing.hessian_bit
        if packing.hessian:
            assert packing.hessian == 1 << packing.hessian_bit
            assert most < 1 << packing.gradient_bit - packing.hessian_bit - 1
        if packing.gradient:
            assert packing.gradient == 1 << packing.gradient_bit
            assert most < 1 << 63 - packing.gradient_bit


def test_more_bits_than_words_hold_are_refused():
    with pytest.raises(ValueError, match="gradients of 45 bits"):
        Packing.of(45)


NODES = 7


@pytest.fixture(params=[0, 1 << 40], ids=["kernels", "few rows"])
def least(request, monkeypatch):
    """The kernels are used, or never."""
    for module in (packed_codes, tree):
        monkeypatch.setattr(module, "MANY", request.param)
        monkeypatch.setattr(module, "is_compiled", lambda _: False)


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


SIDES = {
    1: Side(0, 2, 5, categorical=False, missing_left=True),
    3: Side(9, 1, 3, categorical=True, missing_left=False),
    4: Side(9, 1, 3, categorical=True, missing_left=False, bins=(1, 3)),
    6: Side(8, 0, 255, categorical=False, missing_left=False),
}


@pytest.mark.usefixtures("least")
@given(rows=st.integers(0, 200), seed=st.integers(0, 2**32))
def test_rows_go_left_by_codes(rows, seed):
    rng = np.random.default_rng(seed)
    sizes = [6, 2, 2, 2, 2, 2, 2, 2, 256, 4]
    codes = np.array([rng.integers(0, size, rows) for size in sizes], np.uint8)
    node = rng.integers(0, NODES, rows).astype(np.int32)
    slots, left = np.full(NODES, -1), rng.random(rows) < 0.5
    slots[[*SIDES]] = np.arange(len(SIDES))
    wanted = left.copy()  # what others' splits say of rows of other nodes stays
    for split, side in SIDES.items():
        inside = node == split
        wanted[inside] = side.goes_left(codes[side.column][inside])
    follow_codes(slots, SIDES, node, pack_codes(codes), left)
    assert np.array_equal(left, wanted)
