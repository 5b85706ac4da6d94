"""The rule for ids: what becomes equal, what stays different, and errors that show no value."""

import datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfl.errors import ConfigError, DataError
from vfl.party.ids import check_rule, normalise


def texts(values, *steps):
    """What single-column values become; the four bytes of the length are taken off."""
    return [one[4:].decode() for one in normalise([values], steps, where="f").ids]


@pytest.mark.parametrize(
    ("step", "before", "after"),
    [
        ("nfkc", "ＡＢ１ﬁ", "AB1fi"),
        ("trim", " \tab c\n ", "ab c"),
        ("upper", "straße é", "STRASSE É"),
        ("digits", "DE-12 34/5", "12345"),
        ("digits", "١٢-3", "123"),
        ("alnum", " AB-12_3.é ", "AB123é"),
        ("date", "2024-12-31", "2024-12-31"),
        ("date", "2024/1/5", "2024-01-05"),
        ("date", "2024.01.05", "2024-01-05"),
        ("date", "20240105", "2024-01-05"),
        ("date", "2024-01-05 00:00:00", "2024-01-05"),
        ("date", "2024-01-05T10:20:30.123+02:00", "2024-01-05"),
        ("date", "5.1.2024", "2024-01-05"),
        ("date", "05 Jan 2024", "2024-01-05"),
        ("date", "5-SEP-2024", "2024-09-05"),
        ("date", "January 5, 2024", "2024-01-05"),
        ("date", "Sept. 5 2024", "2024-09-05"),
    ],
)
def test_steps(step, before, after):
    assert texts([before], step) == [after]


def test_steps_run_in_order():
    assert texts([" ａb-1 "], "nfkc", "trim", "upper") == ["AB-1"]
    assert texts(["5.1.2024"], "date", "digits") == ["20240105"]


@pytest.mark.parametrize(
    "value",
    ["01/02/2024", "31/12/2024", "01-02-2024", "2024-13-01", "30.02.2024", "1.1.24", "soon",
     "5 Foo 2024", "2024-1/5", "0000-01-01", "x2024-01-05"],
)  # fmt: skip
def test_doubtful_dates_are_refused_by_row_without_the_value(value):
    with pytest.raises(DataError, match=r"claims.csv: 1 row has no date .*\(row 3\)") as refused:
        normalise([["2024-01-05", value]], ["date"], where="claims.csv")
    assert value not in str(refused.value)


@given(st.dates(min_value=datetime.date(1000, 1, 1)))
def test_dates_in_all_forms_are_one(day):
    forms = ["%Y-%m-%d", "%Y/%m/%d", "%d.%m.%Y", "%Y%m%d", "%d %b %Y", "%B %d, %Y"]
    found = {normalise([[day.strftime(form)]], ["date"]).ids[0] for form in forms}
    assert len(found) == 1


COLUMN = st.lists(st.text(max_size=5), min_size=2, max_size=2)


@given(COLUMN, COLUMN)
def test_columns_joined_differ_when_any_part_differs(one, other):
    first = normalise([[v] for v in one], [], empties="drop").ids
    second = normalise([[v] for v in other], [], empties="drop").ids
    assert (first == second) == (one == other or not (all(one) or all(other)))


def test_lengths_keep_columns_apart():
    assert len(set(normalise([["ab", "a"], ["c", "bc"]], []).ids)) == 2


def test_a_rule_for_each_column():
    result = normalise([[" ab "], ["5.1.2024"]], [["trim", "upper"], ["date"]])
    assert result.ids == [b"\0\0\0\2AB" + b"\0\0\0\n2024-01-05"]
    with pytest.raises(DataError, match="f: column 2 of the id: 1 row has"):
        normalise([["a"], ["soon"]], [["trim"], ["date"]], where="f")
    with pytest.raises(ConfigError, match="2 columns"):
        normalise([["a"], ["b"]], [["trim"]])
    with pytest.raises(ConfigError, match="2 columns"):
        normalise([["a"], ["b"]], ["trim", ["upper"]])  # type: ignore[list-item]


def test_duplicates_are_refused_with_rows_as_a_spreadsheet_counts_them():
    values = ["secret", "b", "SECRET ", "c", "b", *["c"] * 7]
    with pytest.raises(DataError) as refused:
        normalise([values], ["trim", "upper"], where="policies.csv")
    text = str(refused.value)
    assert text.startswith("policies.csv: 9 rows repeat the id of an earlier row (rows 4, 6, 7, 8, 9")
    assert "and 4 more" in text
    assert 'duplicates = "first" in [data]' in text
    assert "secret" not in text.lower()


def test_duplicates_first():
    result = normalise([["a", "b", "A", "c", "b"]], ["upper"], "first")
    assert [one[4:] for one in result.ids] == [b"A", b"B", b"C"]
    assert np.array_equal(result.rows, [0, 1, 3])
    assert result.rows.dtype == np.int64
    assert (result.empties, result.duplicates) == (0, 2)


def test_empty_ids():
    columns = [["a", None, " ", "b", "c"], ["1", "2", "3", "4", ""]]
    for duplicates in ("refuse", "first"):
        with pytest.raises(DataError, match=r"f: 3 rows have no id .*\(rows 3, 4, 6\)"):
            normalise(columns, ["trim"], duplicates, where="f")
    kept = normalise(columns, ["trim"], empties="drop")
    assert np.array_equal(kept.rows, [0, 3])
    assert kept.empties == 3


def test_no_rows():
    result = normalise([[]], ["trim", "date"])
    assert result.ids == []
    assert result.rows.shape == (0,)


def test_unknown_steps():
    with pytest.raises(ConfigError, match=r"'uper'.*did you mean 'upper'"):
        normalise([["a"]], ["trim", "uper"])
    with pytest.raises(ConfigError, match="there are nfkc"):
        check_rule(["zzz"])
    with pytest.raises(ConfigError, match="a list of steps"):
        normalise([["a"]], "trim")


@given(st.lists(st.text(alphabet=" aAbB1-", max_size=4), max_size=30))
@settings(max_examples=50)
def test_rows_are_the_first_of_each_id(values):
    result = normalise([values], ["trim", "upper", "alnum"], "first", empties="drop")
    plain = ["".join(c for c in v.upper() if c.isalnum()) for v in values]
    expected = {v: plain.index(v) for v in plain if v}
    assert [one[4:].decode() for one in result.ids] == list(expected)
    assert result.rows.tolist() == list(expected.values())
    assert result.empties == plain.count("")
    assert len(result.ids) + result.empties + result.duplicates == len(values)


def test_broken_text_and_repr():
    result = normalise([["a\ud800"]], ["nfkc", "upper", "trim"])
    assert len(result.ids) == 1
    assert repr(result) == "NormalisedIds(1 ids, 0 empty and 0 repeated left out)"
