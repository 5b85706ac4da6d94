"""Columns that nobody meant: what numbers rows, what tells the label; no alarm at ordinary columns."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn import datasets
from sklearn.metrics import roc_auc_score

from vfl.blocks import scratch
from vfl.learn import suspects
from vfl.learn.suspects import TOLD, LabelOrder, levels_of_rows, numbers_rows, share_of_order

SAMPLES = Path(__file__).parent.parent / "data_samples"
RNG = np.random.default_rng(0)
ROWS = 1000
COUNT = np.arange(float(ROWS))
GAPS = np.where(RNG.random(ROWS) < 0.1, np.nan, COUNT)


def told(column: np.ndarray, label: np.ndarray) -> float:
    return share_of_order(column, LabelOrder.of(label))


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (COUNT, "counts the rows"),
        (COUNT + 1e6, "counts the rows"),
        (-5 * COUNT, "counts the rows"),
        (np.tile(COUNT[:500], 2), "counts the rows"),  # two tables, one after the other
        (
            np.sort(RNG.choice(10**6, ROWS, replace=False)).astype(float),
            "rises or falls from row to row",
        ),
        (np.where(RNG.random(ROWS) < 0.01, np.nan, COUNT**2), "rises or falls from row to row"),
        (RNG.permutation(COUNT), "has another value in almost every row"),
        (RNG.permutation(GAPS), "has another value in almost every row"),
        (RNG.permutation(10 * ROWS)[:ROWS].astype(float), "has another value in almost every row"),
        (np.append(RNG.permutation(COUNT), [3.0, 7.0]), "has another value in almost every row"),
        (
            RNG.choice(10**8, ROWS, replace=False) + 1e8,
            "another value in every row, all of as many digits",
        ),
    ],
)
@pytest.mark.parametrize("rows_at_a_time", [7, scratch._AT_ONCE])
def test_columns_that_number_or_name_rows(column, said, rows_at_a_time, monkeypatch):
    monkeypatch.setattr(scratch, "_AT_ONCE", rows_at_a_time)
    assert said in numbers_rows(column)


@pytest.mark.parametrize(
    "column",
    [
        RNG.normal(size=ROWS),  # other in every row, but no whole numbers
        np.sort(RNG.normal(size=ROWS)),
        RNG.integers(18, 90, ROWS).astype(float),
        np.sort(RNG.integers(0, 5000, ROWS)).astype(float),  # a table ordered by a column of its own
        RNG.integers(0, 10**6, ROWS).astype(float),  # mostly other, by chance
        np.round(np.exp(RNG.normal(10, 1, ROWS))),
        np.tile(np.arange(1.0, 13), 100),  # months
        np.zeros(ROWS),
        np.full(ROWS, np.nan),
        COUNT[:40],
    ],
)
def test_ordinary_columns_of_numbers(column):
    assert numbers_rows(column) is None


def test_a_row_number_in_a_large_table():
    many = np.arange(300_000.0)
    assert numbers_rows(many) == "counts the rows"
    assert numbers_rows(RNG.permutation(many)).startswith("has another value in almost every row")
    assert numbers_rows(np.tile(np.arange(1.0, 101), 3000)) is None


def test_levels():
    names = np.array([f"n{i}" for i in range(100)] + [None] * 20, dtype=object)
    assert levels_of_rows(names) == (100, 100)
    assert levels_of_rows(np.repeat(names[:100], 2)) is None
    assert levels_of_rows(names[:40]) is None


def test_a_label_is_told_by_its_own_order():
    """For a 0/1 label and a column of few values it is 2 AUC - 1, here on half of the rows."""
    column = RNG.integers(0, 8, 20_000).astype(float)
    label = (RNG.random(20_000) < column / 10).astype(float)
    assert told(column, label) == pytest.approx(2 * roc_auc_score(label, column) - 1, abs=0.02)
    assert told(-column, label) == pytest.approx(told(column, label), abs=1e-12)


LABEL = (RNG.random(4000) < 0.1).astype(float)
AMOUNT = np.where(LABEL == 1, RNG.gamma(2, 1000, 4000), 0.0)


@pytest.mark.parametrize(
    ("column", "label"),
    [
        (LABEL, LABEL),
        (AMOUNT, LABEL),
        (np.where(LABEL == 1, AMOUNT, np.nan), LABEL),  # known of claims alone
        (np.where(LABEL == 1, "paid", None).astype(object), LABEL),
        (np.arange(4000.0), (np.abs(np.arange(4000) - 2000) < 200) * 1.0),  # in no monotone order
        (np.arange(4000.0), np.sort(LABEL)),  # the number of the row in a table ordered by the label
        (AMOUNT * 1.1, AMOUNT),
        (np.minimum(AMOUNT, 9000.0), AMOUNT),
        (AMOUNT - 500, AMOUNT - 500),
    ],
)
def test_columns_that_tell_the_label(column, label):
    assert told(column, label) >= TOLD


def test_a_column_of_text_that_was_corrected_here_and_there_nearly_is_the_label():
    rng = np.random.default_rng(4)
    ones = rng.random(3000) < 0.1
    for wrong, said in ((0.02, "nearly is the label"), (0.2, "")):
        status = np.where(rng.random(3000) < wrong, ~ones, ones)
        text = np.where(status, "open", "none").astype(object)
        found = suspects.tells_label(text, LabelOrder.of(ones.astype(float)))
        assert said in "".join(found) and bool(found) == bool(said)
        # Numbers are judged by the order of rows alone.
        assert suspects.tells_label(status.astype(float), LabelOrder.of(ones.astype(float))) == []
    classes = rng.integers(0, 3, 3000)
    text = np.array(["a", "b", "c"], object)[np.where(rng.random(3000) < 0.06, 2 - classes, classes)]
    assert "nearly is the label" in suspects.tells_label(text, LabelOrder.of(classes.astype(float)))[0]
    area = np.array(["a", "b", "c"], object)[np.where(rng.random(3000) < 0.5, 2, classes)]
    assert suspects.tells_label(area, LabelOrder.of((classes > 1).astype(float))) == []


@pytest.mark.parametrize("rows", [60, 300])
def test_a_copy_of_the_label_in_few_rows(rows):
    """With as few rows of a claim one half says nothing of the other."""
    label = np.zeros(rows)
    label[:: rows // 8] = 1
    order = LabelOrder.of(label)
    assert order.best == 0
    said = np.where(label == 1, "yes", "no").astype(object)
    reasons = np.where(label == 1, np.resize(["hail", "fire", "theft"], rows), None).astype(object)
    paid = np.where(label == 1, np.arange(rows) * 1.5, np.nan)  # known of claims alone
    for copy in (said, reasons, label.copy(), 2 - label, paid):
        (found,) = suspects.tells_label(copy, order)
        assert found.startswith(f"nearly is the label (its levels name it in all of the {rows} rows)")
    wrong = said.copy()
    wrong[1] = "yes"
    (found,) = suspects.tells_label(wrong, order)
    assert f"in {(rows - 1) / rows:.1%} of the {rows} rows" in found
    assert suspects.tells_label(np.where(wrong == "yes", 1.0, 0.0), order) == []


def test_few_rows_raise_no_alarm_by_chance():
    rng = np.random.default_rng(3)
    for rows, ones in ((20, 3), (40, 2), (60, 8), (300, 20)):
        label = np.zeros(rows)
        label[rng.choice(rows, ones, replace=False)] = 1
        order = LabelOrder.of(label)
        for levels in (2, 3, 6):
            for _ in range(50):
                names = np.array([*"abcdef"], object)[rng.integers(0, levels, rows)]
                assert suspects.tells_label(names, order) == []
        assert suspects.tells_label(np.array([f"n{n}" for n in range(rows)], object), order) == []
    four = np.array([0.0, 1, 0, 1])
    assert suspects.tells_label(np.array([*"nyny"], object), LabelOrder.of(four)) == []
    assert suspects.tells_label(np.array([*"nyny"], object), LabelOrder.of(np.zeros(4))) == []


def test_no_column_of_many_levels_seems_to_tell_anything():
    names = np.array([f"n{i}" for i in range(4000)], dtype=object)
    assert abs(told(names, LABEL)) < 0.1
    assert abs(told(RNG.normal(size=4000), AMOUNT)) < 0.2
    assert told(LABEL[:60], LABEL[:60]) == 0


@pytest.mark.parametrize("name", ["breast_cancer", "wine", "digits", "diabetes"])
def test_no_alarm_at_data_sets_of_measurements(name):
    bunch = getattr(datasets, f"load_{name}")()
    for column in bunch.data.T:
        assert numbers_rows(column) is None
        for label in [bunch.target, *(bunch.target == kind for kind in range(3))]:
            assert told(column, label.astype(float)) < TOLD


@pytest.mark.parametrize("file", sorted(SAMPLES.glob("*/*.csv")), ids=lambda path: path.stem)
def test_no_alarm_at_the_samples(file):
    table = pd.read_csv(file).iloc[:, 1:]  # without the plate
    for name, values in table.items():
        if values.dtype.kind in "if":
            assert numbers_rows(values.to_numpy(np.float64)) is None
            if name != "claim" and "claim" in table:
                assert told(values.to_numpy(np.float64), table["claim"].to_numpy(np.float64)) < 0.5
        else:
            assert levels_of_rows(values.to_numpy(object)) is None


def test_samples_of_many_rows(monkeypatch):
    """Those of all numbers that are not missing, whatever stretches they come in."""
    monkeypatch.setattr(suspects, "SAMPLE", 100)
    monkeypatch.setattr(scratch, "_AT_ONCE", 13)
    known = GAPS[~np.isnan(GAPS)]
    expected = known[suspects.sampled_places(len(known))]
    assert np.array_equal(suspects._sample_known(GAPS, len(known)), expected)
