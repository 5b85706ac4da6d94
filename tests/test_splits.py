"""Candidates, histograms and splits against loops over rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfl.learn import splits
from vfl.learn.binning import Binned, bin_columns
from vfl.learn.splits import Candidates, Split, histograms


@st.composite
def blocks(draw):
    """(features, their bins): a number, monotone or not, and a category, either with missing values or
    not."""
    rows = draw(st.integers(1, 40))
    number = st.one_of(st.integers(0, 6).map(float), st.just(np.nan))
    if draw(st.booleans()):
        number = st.integers(0, 6).map(float)
    text = st.sampled_from(["a", "b", "c"])
    if draw(st.booleans()):
        text = st.one_of(text, st.none())
    category = np.empty(rows, object)
    category[:] = draw(st.lists(text, min_size=rows, max_size=rows))
    features = {
        "number": np.array(draw(st.lists(number, min_size=rows, max_size=rows)), float),
        "category": category,
    }
    way = draw(st.sampled_from(["increasing", "decreasing", None]))
    monotone = {} if way is None else {"number": way}
    return features, bin_columns(features, draw(st.integers(2, 6)), draw(st.integers(1, 4)), monotone)


def listed(block: Binned) -> list[tuple[int, int, bool]]:
    """The candidates as the module describes them: (column, bin, missing left)."""
    found = []
    for i, column in enumerate(block.columns):
        if column.edges is None:
            found += [(i, b, False) for b in range(len(column.categories))]
            found += [(i, column.bins, False)] * column.has_missing
        else:
            for b in range(column.bins):
                last = b == column.bins - 1
                if not last or column.has_missing:
                    found.append((i, b, False))
                if not last and column.has_missing:
                    found.append((i, b, True))
    return found


def is_left(block: Binned, candidate: tuple[int, int, bool], row: int) -> bool:
    i, b, missing_left = candidate
    column, code = block.columns[i], int(block.codes[i][row])
    if column.edges is None:
        return code == b
    return missing_left if code == column.bins else code <= b


@given(blocks())
def test_candidates_in_canonical_order(case):
    _, block = case
    own = Candidates.of(block.columns)
    table = zip(own.column.tolist(), own.bin.tolist(), own.missing_left.tolist(), strict=True)
    assert list(table) == listed(block)
    assert len(own) == len(listed(block))
    assert own.cells == sum(column.bins + 1 for column in block.columns)


@given(case=blocks())
def test_left_of_an_ordered_candidate_are_the_values_that_must_not_score_higher(case):
    features, block = case
    own = Candidates.of(block.columns)
    number = features["number"]
    everyone = np.ones(block.rows, bool)
    for c, (i, b, _) in enumerate(listed(block)):
        column = block.columns[i]
        assert own.ordered[c] == (column.monotone is not None and b < column.bins - 1)
        if own.ordered[c]:
            _, left = own.take(c, block.codes, everyone, everyone)
            lower, higher = (number[side & ~np.isnan(number)] for side in (left, ~left))
            if column.monotone == "decreasing":
                lower, higher = -lower, -higher
            assert lower.max() < higher.min()


@given(case=blocks(), seed=st.integers(0, 2**32), min_rows=st.integers(1, 5))
def test_left_sums_and_validity_are_those_of_the_rows(case, seed, min_rows):
    _, block = case
    rng = np.random.default_rng(seed)
    own, rows, slots = Candidates.of(block.columns), block.rows, 3
    slot = rng.integers(-1, slots, rows)
    weights = rng.integers(-(2**32), 2**32, rows)
    left = own.left_sums(histograms(block, own, slot, slots, weights))
    counts = histograms(block, own, slot, slots)
    valid = own.valid(counts, min_rows)
    assert left.shape == valid.shape == (slots, len(own))
    for node in range(slots):
        inside = np.flatnonzero(slot == node).tolist()
        for c, candidate in enumerate(listed(block)):
            goes = [row for row in inside if is_left(block, candidate, row)]
            assert left[node, c] == sum(int(weights[row]) for row in goes)
            column = block.columns[candidate[0]]
            missing = any(block.codes[candidate[0]][row] == column.bins for row in inside)
            assert valid[node, c] == (
                len(goes) >= min_rows
                and len(inside) - len(goes) >= min_rows
                and (missing or not candidate[2])
            )


@given(case=blocks(), seed=st.integers(0, 2**32))
def test_few_rows_are_added_as_many_are(case, seed):
    _, block = case
    rng = np.random.default_rng(seed)
    own, slot = Candidates.of(block.columns), rng.integers(-1, 3, block.rows)
    for weights in (None, rng.integers(-(2**62), 2**62, block.rows)):
        few = histograms(block, own, slot, 3, weights)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(splits, "UNCOMPILED", 0)
            assert np.array_equal(histograms(block, own, slot, 3, weights), few)


def one_goes_left(split: Split, value: object) -> bool:
    if split.categorical:
        return value == split.category
    if np.isnan(value):
        return split.missing_left
    return split.threshold is None or (value <= split.threshold) != split.above


@given(case=blocks(), seed=st.integers(0, 2**32))
def test_a_taken_split_sends_raw_values_where_the_candidate_sends_codes(case, seed):
    features, block = case
    rng = np.random.default_rng(seed)
    inside, active = rng.random(block.rows) < 0.7, rng.random(block.rows) < 0.7
    own = Candidates.of(block.columns)
    for c, candidate in enumerate(listed(block)):
        split, left = own.take(c, block.codes, inside, active)
        column = block.columns[candidate[0]]
        values = features[column.name]
        assert split.column == column.name
        assert split.goes_left(features).tolist() == [one_goes_left(split, v) for v in values]
        assert split.goes_left(features)[inside].tolist() == left.tolist()
        missing = block.codes[candidate[0]] == column.bins
        for row, goes in zip(np.flatnonzero(inside).tolist(), left.tolist(), strict=True):
            if column.edges is None or not missing[row]:
                assert goes == is_left(block, candidate, row)
        # Missing values follow the candidate where training saw any, else the majority.
        if column.edges is not None:
            seen = inside & active
            if (seen & missing).any():
                assert split.missing_left == candidate[2]
            else:
                at_left = sum(is_left(block, candidate, r) for r in np.flatnonzero(seen).tolist())
                assert split.missing_left == (2 * at_left >= seen.sum())


def test_categories_unseen_in_training_go_right():
    features = {"c": np.array(["a", "new", None], object)}
    assert Split("c", None, "a", True, False).goes_left(features).tolist() == [True, False, False]
    assert Split("c", None, None, True, False).goes_left(features).tolist() == [False, False, True]


def test_no_columns_have_no_candidates():
    own = Candidates.of(())
    assert len(own) == own.cells == 0
    nothing = np.zeros((2, 0), np.int64)
    assert own.left_sums(nothing).shape == own.valid(nothing, 1).shape == (2, 0)
