"""Bins against their definition, value by value."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfl.learn.binning import Column, bin_columns

NUMBERS = st.one_of(
    st.floats(allow_infinity=False, allow_nan=True),
    st.integers(-5, 5).map(float),
    st.sampled_from([0.0, -0.0, 1.0, math.nextafter(1.0, 2.0), 5e-324, math.nan]),
)
TEXTS = st.one_of(st.none(), st.sampled_from(["", "a", "b", "c", "A", "ä", "None", "nan"]))


def objects(values: list) -> np.ndarray:
    column = np.empty(len(values), object)
    column[:] = values
    return column


def binned(values, max_bins: int, min_rows: int) -> tuple[Column, np.ndarray]:
    """One column's bins and codes."""
    block = bin_columns({"x": values}, max_bins, min_rows)
    assert block.rows == len(values)
    assert block.codes.dtype == np.uint8
    return block.columns[0], block.codes[0]


def naive_code(column: Column, value: object) -> int:
    """The definition in words."""
    if column.edges is None:
        if value is None:
            return column.bins
        names = list(column.categories)
        return names.index(value) if value in names else len(names)
    if math.isnan(value):
        return column.bins
    return sum(value > edge for edge in column.edges)


@given(values=st.lists(NUMBERS, max_size=60), max_bins=st.integers(2, 255), min_rows=st.integers(1, 8))
def test_numbers(values, max_bins, min_rows):
    column, codes = binned(np.array(values, float), max_bins, min_rows)
    assert codes.tolist() == [naive_code(column, v) for v in values]
    assert column.bins <= max_bins
    assert column.has_missing == any(math.isnan(v) for v in values)
    edges = column.edges.tolist()
    assert edges == sorted(set(edges)) and all(map(math.isfinite, edges))
    rows = np.bincount(codes[codes < column.bins], minlength=column.bins)
    assert column.bins == 1 or rows.min() >= min_rows


@given(values=st.lists(TEXTS, max_size=60), max_bins=st.integers(2, 6), min_rows=st.integers(1, 8))
def test_categories(values, max_bins, min_rows):
    column, codes = binned(objects(values), max_bins, min_rows)
    assert codes.tolist() == [naive_code(column, v) for v in values]
    assert column.has_missing == (None in values)
    # Kept: the most frequent ones with enough rows; by name among equals.
    counts = {v: values.count(v) for v in values if v is not None}
    frequent = sorted((v for v in counts if counts[v] >= min_rows), key=lambda v: (-counts[v], v))
    assert list(column.categories) == frequent[: max_bins - 1]
    assert column.bins == len(column.categories) + 1 <= max_bins


def test_every_distinct_value_gets_a_bin_where_there_are_few():
    column, codes = binned(np.array([3.0, 1.0, 2.0, 1.0]), 4, 1)
    assert column.edges.tolist() == [1.5, 2.5]
    assert codes.tolist() == [2, 0, 1, 0]


def test_an_edge_never_takes_the_next_value_in():
    low = 1.0
    high = math.nextafter(low, 2)
    column, codes = binned(np.array([low, high]), 2, 1)
    assert column.edges.tolist() == [low]
    assert codes.tolist() == [0, 1]


def test_a_frequent_value_shares_its_bin_with_few():
    rng = np.random.default_rng(0)
    values = np.concatenate([np.full(500, 50.0), rng.uniform(40, 60, 500)])
    column, codes = binned(values, 8, 1)
    assert column.bins == 8
    own = codes == codes[0]
    assert values[own].max() == 50.0
    assert 500 <= own.sum() <= 500 + 500 / 7 / 2  # half a share of the seven other bins at most


def test_bins_of_evenly_spread_values_hold_about_as_many_rows():
    values = np.random.default_rng(1).permutation(3200).astype(float)
    column, codes = binned(values, 32, 1)
    assert column.bins == 32
    assert np.bincount(codes).min() >= 90 and np.bincount(codes).max() <= 110


@pytest.mark.parametrize("max_bins", [2, 16, 255])
def test_more_values_than_the_search_looks_at(max_bins):
    # Uneven on purpose: thinning keeps each tenth row, and bins must still hold enough rows.
    values = np.random.default_rng(2).lognormal(0, 3, 100_000)
    column, codes = binned(values, max_bins, min_rows=380)
    rows = np.bincount(codes, minlength=column.bins)
    assert column.bins <= max_bins
    assert rows.min() >= 380
    assert rows.max() <= 2 * max(380, 100_000 / max_bins)


def test_edges_beside_thinned_values_keep_the_rows_counted():
    # The kept values are 10, 20, ..., and the rows between them belong to the one above.
    values = np.arange(1.0, 100_001.0)
    column, codes = binned(values, 100, min_rows=1)
    kept = np.unique(values[np.linspace(0, 99_999, 10_000).astype(int)])
    assert set((column.edges - 0.5).tolist()) <= set(kept.tolist())
    assert np.bincount(codes).sum() == 100_000


@pytest.mark.parametrize("values", [np.full(5, np.nan), np.array([], float), objects([None] * 5)])
def test_a_column_without_values(values):
    column, codes = binned(values, 8, 1)
    assert column.bins == 1
    assert codes.tolist() == [1] * len(values)


def test_one_value_and_missing_ones():
    column, codes = binned(np.array([7.0, np.nan, 7.0]), 8, 1)
    assert (column.bins, codes.tolist()) == (1, [0, 1, 0])


def test_too_few_rows_for_two_bins():
    column, codes = binned(np.arange(5.0), 8, 3)
    assert column.bins == 1 and codes.tolist() == [0] * 5


def test_bools_and_integers_are_numbers():
    block = bin_columns({"b": np.array([True, False]), "i": np.array([2, 1])}, 8, 1)
    assert block.codes.tolist() == [[1, 0], [1, 0]]


def test_values_unseen_in_training():
    column, _ = binned(objects(["a", "a", "b"]), 8, 1)
    assert column.codes(objects(["c", None, "b", math.nan])).tolist() == [2, 3, 1, 2]
    column, _ = binned(np.array([1.0, 2.0]), 8, 1)
    assert column.codes(np.array([-1e300, 1e300, np.nan])).tolist() == [0, 1, 2]


def test_most_bins_and_missing_fit_a_byte():
    values = np.append(np.arange(1000.0), np.nan)
    column, codes = binned(values, 255, 1)
    assert column.bins == 255 and codes[-1] == 255 and codes[-2] == 254


def test_no_columns_at_all():
    block = bin_columns({}, 8, 1)
    assert (block.columns, block.codes.shape) == ((), (0, 0))


@pytest.mark.filterwarnings("error")
def test_numbers_whose_difference_is_beyond_floats():
    most = np.finfo(np.float64).max
    values = np.repeat([-most, -1.0, 1.0, most], 5)
    binned = bin_columns({"x": values}, 4, 1)
    assert binned.codes[0].tolist() == np.repeat([0, 1, 2, 3], 5).tolist()
    two = bin_columns({"x": np.repeat([-most, most], 5)}, 4, 1)
    assert two.columns[0].edges.tolist() == [0.0]
