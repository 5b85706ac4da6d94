"""Levels of categorical columns: what is one level, what is known again, what is unknown."""

import math
import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfl.learn.levels import (
    Levels,
    count_respellings,
    levels_of,
    match_levels,
    spell_as_agreed,
    tidy,
    tidy_levels,
)
from vfl.party.sections import DataSection
from vfl.party.table import read_table


def texts(*cells):
    return np.array(cells, dtype=object)


def again(training, *cells):
    """The cells as training had them, "?" for unknown levels."""
    found, unknown = Levels.of(texts(*training)).match(texts(*cells))
    return ["?" if new else cell for cell, new in zip(found.tolist(), unknown.tolist(), strict=True)]


@pytest.mark.parametrize(
    ("training", "cells", "expected"),
    [
        (["true", "false"], ["True", "FALSE", "1", "0.0", "01", "T", "f", "VRAI"], list("tftfttft")),
        (["True", "False"], ["true", "0", "wahr", "2", "yes"], ["True", "False", "True", "?", "?"]),
        (["1", "0"], ["TRUE", "false", "1.0", "+1", "00"], ["1", "0", "1", "1", "0"]),
        (["1", "2", "3"], ["1.0", "02", "3.", "2,0", "3e0", "true", "4"], [*"123", "2", "3", "?", "?"]),
        (["01", "1"], ["1", "01", "1.0"], ["1", "01", "?"]),  # two codes: which one is meant?
        (["1.5", "0.25"], ["1.50", "1,5", ".25", "0.3"], ["1.5", "1.5", "0.25", "?"]),
        (["a", "A", "b"], ["a", "A", "B", "c"], ["a", "A", "b", "?"]),
        (["T", "F", "N"], ["t", "true", "Y"], ["T", "?", "?"]),
        (["2027-01-31"], ["2027-01-31 00:00:00", "31.1.2027", "2027/1/31"], ["2027-01-31"] * 3),
        (["2027-01-31"], ["2027-01-31 10:00", "2027-02-31"], ["?", "?"]),
        (
            ["Ärger", "x y"],
            ["A\u0308rger", "ärger ", "x\u00a0 y", "\ufeffx y"],
            ["Ärger"] * 2 + ["x y"] * 2,
        ),
        (["a"], ["None", "NaT", None, " ", "#N/A"], [None] * 5),
        (["None", "a"], ["None", "none"], ["None", "None"]),
        ([], ["a", None], ["?", None]),
    ],
)
def test_levels_are_known_again(training, cells, expected):
    names = {"t": "true", "f": "false"}
    assert again(training, *cells) == [
        names.get(one, one) if "true" in training else one for one in expected
    ]


CELLS = st.lists(st.text("aA1.0 tTrue\u00e9\u0301", max_size=5), min_size=1, max_size=12)


@given(CELLS, CELLS)
def test_a_level_of_training_is_itself(training, others):
    column = tidy_levels({"x": texts(*training)})["x"]
    levels = Levels.of(column)
    found, unknown = levels.match(column)
    assert found.tolist() == column.tolist() and not unknown.any()
    found, unknown = levels.match(texts(*others))
    assert set(found[~unknown].tolist()) <= {*levels.names, None}
    assert unknown.tolist() == [cell not in (*levels.names, None) for cell in found.tolist()]


@given(st.text(max_size=12))
def test_tidied_text_stays_and_is_one_in_all_compositions(text):
    once = tidy(text)
    assert tidy(once) == once == tidy(f" {text}\u00a0")
    assert tidy(unicodedata.normalize("NFD", once)) == tidy(unicodedata.normalize("NFC", once))


def test_what_training_joins_is_one_text_and_no_more():
    column = tidy_levels({"x": texts(" a", "a ", "b  c", "b\u00a0c", "A", "1", "1.0", None, "\u200b")})[
        "x"
    ]
    assert column.tolist() == ["a", "a", "b c", "b c", "A", "1", "1.0", None, None]
    assert count_respellings(column) == 4
    assert count_respellings(texts("a", "b", "1", "2", None)) == 0
    levels = levels_of({"x": column, "z": np.zeros(3)})
    assert levels == {"x": Levels(("1", "1.0", "A", "a", "b c"), once=3, rows=7)}


def test_columns_of_models_of_earlier_versions_stay_as_they_are():
    column = texts("True ", "x")
    features, unknown = match_levels({"x": column, "z": np.zeros(2)}, {})
    assert features["x"] is column and unknown == {}


def test_how_many_unknown_levels_chance_makes():
    """About the share of rows of training whose level is in one row alone (Good and Turing)."""
    rng = np.random.default_rng(0)
    names = texts(*(f"n{i}" for i in rng.zipf(1.6, 20_000) % 5000))
    training, batch = names[:10_000], names[10_000:]
    levels = Levels.of(training)
    unknown = int(levels.match(batch)[1].sum())
    expected = levels.once
    assert abs(unknown - expected) < 5 * math.sqrt(expected) > 0
    assert not levels.are_more(unknown, 10_000) and levels.are_more(2 * unknown + 20, 10_000)
    few = Levels(("a", "b"), once=0, rows=1000)
    assert not few.are_more(1, 10) and not few.are_more(3, 400) and few.are_more(8, 400)


@pytest.mark.parametrize(
    ("column", "written"),
    [
        (pa.array([True, False, None]), ["True", "False", ""]),
        (pa.array([1, 2, None]), ["1.0", "2.0", ""]),
        (pa.array([1.0, 2.0, None]), ["1", "2", ""]),
        (pa.array(["a", "é", None]), ["a  ", "e\u0301", ""]),
        (pa.array([0, 86_400_000, None], pa.timestamp("ms")), ["1970-01-01", "1970-01-02", ""]),
        (pa.array([0, 1, None], pa.date32()), ["1970-01-01 00:00:00", "2.1.1970", ""]),
        (pa.array([0, 90_000, None], pa.timestamp("s")), ["1970-01-01", "1970-01-02 01:00:00", ""]),
    ],
    ids=["truth", "whole", "float", "text", "timestamp", "date", "moment"],
)
def test_the_same_table_as_parquet_and_as_csv(tmp_path, column, written):
    ids = ["a", "b", "c"]
    pq.write_table(pa.table({"id": ids, "x": column, "z": [1, 2, 3]}), tmp_path / "t.parquet")
    rows = "".join(f'{one},"{cell}",1\n' for one, cell in zip(ids, written, strict=True))
    (tmp_path / "t.csv").write_text("id,x,z\n" + rows)
    found = {}
    for kind in ("parquet", "csv"):
        data = DataSection(path=tmp_path / f"t.{kind}", id=("id",), categorical=("x",))
        found[kind] = read_table(data, role="host", need_label=False).features
    levels = levels_of(tidy_levels(found["parquet"]))
    same, unknown = match_levels(found["csv"], levels)
    assert not unknown and same["x"].tolist() == tidy_levels(found["parquet"])["x"].tolist()


def test_agreed_levels_are_found_as_in_a_batch():
    given = {"zone": texts("North", "north", "south", "east", None), "flag": texts("1", "true", "0")}
    features = tidy_levels({**given, "other": texts("A", "a")})
    agreed = {"zone": ("north", "south"), "flag": ("True", "False")}
    spelled, counts = spell_as_agreed(features, agreed)
    assert spelled["zone"].tolist() == ["north", "north", "south", "east", None]
    assert spelled["flag"].tolist() == ["True", "True", "False"]
    assert spelled["other"].tolist() == ["A", "a"]  # not agreed: two codes
    assert counts == {"zone": 1, "flag": 3}
    codes = tidy_levels({"zone": texts("A", "a", "B")})
    assert spell_as_agreed(codes, {"zone": ("a", "A")})[0]["zone"].tolist() == ["A", "a", "B"]
