"""SumPacking at its bounds: what goes in comes out, what is out of bounds is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfl.crypto.packing import SumPacking

MOST_ROWS = 2**44 - 1  # leaves 8 bits a row
KEYS = st.sampled_from([2048, 3072, 4096])


def joined(layout: SumPacking, gradient: list[int], hessian: list[int]) -> list[int]:
    """The packed plaintexts as a host makes them, from sums."""
    sums = [(g << layout.sum_bits) + h for g, h in zip(gradient, hessian, strict=True)]
    groups = [sums[i : i + layout.slots] for i in range(0, len(sums), layout.slots)]
    return [sum(v << (layout.slot_bits * i) for i, v in enumerate(group)) for group in groups]


@st.composite
def sums_at_the_bounds(draw):
    """(layout, gradient sums, hessian sums), often at the bounds."""
    layout = SumPacking.for_rows(
        draw(st.one_of(st.integers(1, MOST_ROWS), st.just(MOST_ROWS))), draw(KEYS)
    )
    most = layout.rows << layout.row_bits
    gradients = st.one_of(st.sampled_from([-most, -1, 0, 1, most]), st.integers(-most, most))
    hessians = st.one_of(st.sampled_from([0, 1, most]), st.integers(0, most))
    count = draw(st.integers(0, 2 * layout.slots + 1))
    draws = draw(st.lists(st.tuples(gradients, hessians), min_size=count, max_size=count))
    return layout, [g for g, _ in draws], [h for _, h in draws]


@given(sums_at_the_bounds())
def test_sums_come_back(case):
    layout, gradient, hessian = case
    plaintexts = joined(layout, gradient, hessian)
    # They fit any modulus of the size, sign included.
    assert all(abs(p) < 2 ** (layout.slots * layout.slot_bits) for p in plaintexts)
    g, h = layout.unpack(plaintexts, len(gradient))
    assert g.tolist() == gradient
    assert h.tolist() == hessian


@given(rows=st.integers(1, MOST_ROWS), key_bits=KEYS)
def test_layouts_keep_what_they_promise(rows, key_bits):
    layout = SumPacking.for_rows(rows, key_bits)
    most = rows << layout.row_bits
    assert 8 <= layout.row_bits <= 24
    assert most < 2**53  # exact in float64
    assert most < 2**layout.sum_bits  # hessian sums never reach the gradients'
    assert (most << layout.sum_bits) + most < 2 ** (layout.slot_bits - 1)  # nor a slot the next one
    assert layout.slots >= 1 and layout.slots * layout.slot_bits <= key_bits - 2


def test_every_row_at_its_bound_adds_up():
    layout = SumPacking.for_rows(1000, 2048)
    most = 1 << layout.row_bits
    for sign in (-1, 1):
        plaintexts = layout.pair(np.full(1000, sign * most), np.full(1000, most))
        g, h = layout.unpack([sum(plaintexts)], 1)
        assert (g.tolist(), h.tolist()) == ([sign * 1000 * most], [1000 * most])


def test_most_rows():
    assert SumPacking.for_rows(MOST_ROWS, 2048).row_bits == 8
    with pytest.raises(ValueError, match=r"17,592,186,044,416 rows leave 7 bits a row, fewer than 8"):
        SumPacking.for_rows(MOST_ROWS + 1, 2048)


@pytest.mark.parametrize("rows", [0, -1])
def test_no_rows_are_refused(rows):
    with pytest.raises(ValueError, match=f"{rows} rows"):
        SumPacking.for_rows(rows, 2048)


@pytest.mark.parametrize(
    ("g", "h"),
    [(2**24 + 1, 0), (-(2**24) - 1, 0), (-(2**63), 0), (0, 2**24 + 1), (0, -1), (0, -(2**63))],
)
def test_a_row_out_of_bounds_is_refused(g, h):
    layout = SumPacking.for_rows(100, 2048)
    with pytest.raises(ValueError, match=r"beyond 2\^24"):
        layout.pair(np.array([0, g, 5]), np.array([1, h, 5]))


def test_a_row_at_the_bounds_is_not():
    layout = SumPacking.for_rows(100, 2048)
    plaintexts = layout.pair(np.array([2**24, -(2**24)]), np.array([0, 2**24]))
    assert plaintexts == [2**24 << layout.sum_bits, (-(2**24) << layout.sum_bits) + 2**24]
    empty = np.array([], np.int64)
    assert layout.pair(empty, empty) == []


@pytest.mark.parametrize("which", ["gradient", "-gradient", "hessian"])
def test_a_sum_out_of_bounds_is_refused(which):
    layout = SumPacking.for_rows(100, 2048)
    above = (100 << layout.row_bits) + 1
    sums = {"gradient": ([above], [0]), "-gradient": ([-above], [0]), "hessian": ([0], [above])}
    with pytest.raises(ValueError, match=r"a sum out of bounds: over 100 rows of 2\^24"):
        layout.unpack(joined(layout, *sums[which]), 1)


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_plaintext_out_of_bounds_is_refused(sign):
    layout = SumPacking.for_rows(100, 2048)
    for count in (1, layout.slots):
        with pytest.raises(ValueError, match=f"out of bounds: not {count} slots"):
            layout.unpack([sign << (layout.slot_bits * count)], count)


def test_another_number_of_plaintexts_is_refused():
    layout = SumPacking.for_rows(100, 2048)
    with pytest.raises(ValueError, match="1 packed plaintexts for 0 sums"):
        layout.unpack([0], 0)
    with pytest.raises(ValueError, match=f"1 packed plaintexts for {layout.slots + 1} sums"):
        layout.unpack([0], layout.slots + 1)


@given(plaintext=st.integers(-(2**2046), 2**2046), count=st.integers(1, 30))
def test_any_plaintext_is_read_within_bounds_or_refused(plaintext, count):
    layout = SumPacking.for_rows(5000, 2048)
    most = 5000 << layout.row_bits
    try:
        g, h = layout.unpack([plaintext], count)
    except ValueError:
        return
    assert count <= layout.slots
    assert np.abs(g).max() <= most and h.min() >= 0 and h.max() <= most
    assert joined(layout, g.tolist(), h.tolist()) == [plaintext]
