"""Cells of ids: numbers are the numbers they are, what is no number is text, and some are no ids."""

from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vfl
from vfl.errors import DataError
from vfl.party.id_cells import NOTHING, IdReading, float_texts, read_cells, whole_text
from vfl.party.id_merges import are_spellings, marks
from vfl.party.ids import clean, normalise

DEFAULT = ("nfkc", "trim", "upper", "alnum")
LOOSE = [DEFAULT, ("digits",), ("alnum", "nozeros"), ("upper", "digits")]
ALL = [*LOOSE, ("trim",), (), ("plate",), ("vin",), ("nozeros",)]


@pytest.mark.parametrize("rule", ALL)
@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("17.0", "17"),
        ("17.00", "17"),
        ("17.", "17"),
        ("1.7e1", "17"),
        ("1.70E+01", "17"),
        ("1.2345678E7", "12345678"),
        ("0.0", "0"),
        ("-0.0", "0"),
        ("0e+00", "0"),
        ("17,0", "17"),
        ("17,00", "17"),
        ("1,234.0", "1234"),
        ("1.234,0", "1234"),
        ("1 234.0", "1234"),
        ("1\u202f234,0", "1234"),
        ("1'234.0", "1234"),
        ("9007199254740991.0", "9007199254740991"),
        ("１７．０", "17"),
        ("17.0\u00a0", "17"),
        ("\ufeff17.0", "17"),
        ("\u200b17.0\u200b", "17"),
        ('"17.0"', "17"),
        ('="17.0"', "17"),
        ("'17.0", "17"),
        ("20240131.0", "20240131"),
    ],
)
def test_whole_numbers_that_are_written_as_floats(rule, written, number):
    assert clean([written], rule) == clean([number], rule) == [number]


def test_zeros_at_the_beginning_stay():
    assert clean(["007.0", "007"], DEFAULT) == ["007", "007"]


@pytest.mark.parametrize("rule", ALL)
@pytest.mark.parametrize(
    "written",
    ["1.23457E+12", "1.23E+05", "1E+15", "1e+05", "1.0E7", "9007199254740993.0", "1,2e9",
     "9" * 5000 + ".0", "1e15", "2E7"],
)  # fmt: skip
def test_numbers_whose_digits_are_lost_are_no_ids(rule, written):
    """1e15 in a column of numbers is one, too."""
    with pytest.raises(
        DataError, match=r"f.csv: 1 row has a number as id of which digits are lost.*3\)"
    ):
        normalise([["17", written]], rule, where="f.csv")
    found = normalise([["17", written]], rule, empties="drop")
    assert (len(found.ids), found.empties, found.unread) == (1, 1, 1)


@pytest.mark.parametrize("written", ["17.5", "0.5", ".5", "17,5", "1.7e-1", "P17.0", "17.0-4", "A/17.0"])
def test_numbers_that_are_not_whole_are_no_ids_where_the_sign_would_be_taken_out(written):
    for rule in LOOSE:
        with pytest.raises(
            DataError, match=r"1 row has an id that is a number with decimals.*\(row 3\)"
        ):
            normalise([["17", written]], rule)
    for rule in ([], ["trim"], ["plate"], ["vin"]):
        assert clean(["17", written], rule)[1]
    text = IdReading(as_text=frozenset({0}))
    assert normalise([["17", written]], DEFAULT, reading=text).empties == 0


@pytest.mark.parametrize(
    "written",
    ["AB-123", "12E4", "170e-1", "10.0.0.1", "31.12.2024", "v1.0.2", "1-23", "1,234", "12,345",
     "1.234.567", "Nan", "NATO", "NULLE", "+49 17", "12:00:00.0", "e5", "1.5.0", "A.B", "--", "12E-4"],
)  # fmt: skip
def test_what_is_no_number_is_text(written):
    cells = read_cells(["x1", written], DEFAULT)
    assert cells.values == ["x1", written] and not cells.fractions and not cells.lost


def test_a_code_among_codes_is_no_number():
    """1E5 is one of the codes 2A7, 1E5, ..., and a number whose digits are lost among numbers."""
    assert clean(["2A7", "1E5"], DEFAULT) == ["2A7", "1E5"]
    assert clean(["27", "1E5", "NULL", None], DEFAULT) == ["27", "", "", ""]
    assert clean(["1.0E5", "2A7"], DEFAULT) == ["", "2A7"]


def test_a_number_below_0_stays_below():
    for rule in LOOSE:
        assert clean(["-5", "5", "\u22125", "-5.0", "(5.0)", "5.0-", "-0", "+5"], rule) == (
            ["-5", "5", "-5", "-5", "-5", "-5", "0", "5"]
        )
    assert normalise([["-5", "5"]], DEFAULT).ids == [b"\0\0\0\2-5", b"\0\0\0\x015"]
    assert clean(["-005"], ["digits", "nozeros"]) == ["-5"]
    assert clean(["-5"], ["plate"]) == clean(["-5"], ["phone"]) == ["5"]  # there it is no number


def test_a_telephone_number_has_signs_of_all_kinds():
    assert clean(["0171.1234567", "33171.0", "17.5"], ["phone"]) == ["01711234567", "33171", "175"]


def test_a_date_that_was_made_a_float():
    assert clean(["20240131.0", "2.02401E+07"], ["date"]) == ["2024-01-31", ""]


def test_cells_that_say_that_there_is_nothing_match_nothing():
    words = [*sorted(NOTHING), " nan ", "NULL\u00a0", '"None"']
    for rule in ALL:
        assert clean(words, rule) == [""] * len(words)
    with pytest.raises(
        DataError, match=r"2 rows have no id once normalised \(rows 2, 3\), where NULL, nan"
    ):
        normalise([["nan", "nan", "a"]], DEFAULT)
    # In a column of countries NA is Namibia.
    kept = IdReading(as_text=frozenset({0}))
    found = normalise([["NA", "NA", "DE"], ["1", "NULL", "1"]], DEFAULT, empties="drop", reading=kept)
    assert found.rows.tolist() == [0, 2]


def test_a_decimal_comma():
    assert read_cells(["17,000", "17.000", "1.234,0"], DEFAULT, ",").values == ["17", "17.000", "1234"]
    assert read_cells(["17,000", "17.000", "1,234.0"], DEFAULT, ".").values == ["17,000", "17", "1234"]
    assert read_cells(["17,125"], DEFAULT, ",").fractions == [0]


@given(st.integers(-(2**53) + 1, 2**53 - 1))
def test_what_programs_write_of_a_whole_number_is_read_as_it(number):
    forms = [f"{number}", f"{float(number)}", f"{number:.2f}", f"{number:,.1f}", f"{float(number):.17e}"]
    forms += [pd.Series([float(number), np.nan]).to_csv(index=False, header=False).splitlines()[0]]
    assert set(clean(forms, DEFAULT)) == {f"{number}"}
    assert float_texts(np.array([float(number)]))[0] == [f"{number}"]


@given(st.floats(allow_nan=False), st.sampled_from(["{!r}", "{:.6g}", "{:.2e}", "{:g}", "{:.3f}"]))
def test_no_float_becomes_another_number(number, form):
    """Whatever way it is written in: it is read as that number, or it is no id."""
    written = form.format(number)
    (cleaned,) = clean([written], DEFAULT)
    assert cleaned == "" or Decimal(cleaned) == Decimal(written)


def test_floats():
    texts, fractions, lost = float_texts(np.array([1.0, np.nan, -0.0, 1.5, np.inf, 2.0**53]))
    assert texts == ["1", None, "0", None, None, None]
    assert fractions.tolist() == [False, False, False, True, False, False]
    assert lost.tolist() == [False, False, False, False, True, True]
    assert whole_text(np.float32(2**24 - 1)) == "16777215" and whole_text(np.float32(2**24)) is None
    assert whole_text(Decimal("12.00")) == "12" and whole_text(Decimal("12.5")) is None


# Merging: what is one id in several spellings, and what are several ids.


@pytest.mark.parametrize(
    ("rule", "spellings"),
    [
        (DEFAULT, ["AB-123", "ab 123", "AB123", "Ab.123", " ab/123 "]),
        (DEFAULT, ["AB-12-34", "AB1234", "ab 12 34"]),
        (DEFAULT, ["17", "17.0", "+17", "1.7e1"]),
        (DEFAULT, ["abc", "ABC", "Abc"]),
        (DEFAULT, ["aBcD", "ABCD", "abcd"]),
        (DEFAULT, ["É1", "e\u03011", "é-1"]),
        (DEFAULT, ["#17", "17"]),
        (("digits",), ["K12", "12", "k-1-2", "k 1/2"]),
        (("alnum", "nozeros"), ["007", "7", "0-07"]),
        (("plate",), ["b-ma 123", "B MA123", "BMA123"]),
        (("phone",), ["0171 123", "01 71/123", "0171.123"]),
        (("date:dmy",), ["1.2.2024", "2024-02-01 10:00", "01/02/2024"]),
        (("vin",), ["WVW-1O", "wvw10", "WV W10"]),
    ],
)
def test_spellings_of_one_id_are_repeats(rule, spellings):
    for reading in (IdReading(), IdReading(merging="allow")):
        found = normalise([spellings], rule, "first", reading=reading)
        assert (len(found.ids), found.duplicates, found.merged) == (1, len(spellings) - 1, 0)
    with pytest.raises(DataError, match=f"{len(spellings) - 1} rows? repeats? the id of an earlier row"):
        normalise([spellings], rule)


@pytest.mark.parametrize(
    ("rule", "ids"),
    [
        (DEFAULT, ["1-23", "12-3"]),
        (DEFAULT, ["1-23", "123", "12/3"]),
        (DEFAULT, ["A-BC", "AB-C"]),
        (DEFAULT, ["++1", "1"]),
        (DEFAULT, ["A+", "A"]),
        (DEFAULT, ["aBcD1", "AbCd1"]),
        (DEFAULT, ["12²", "122"]),
        (DEFAULT, ["कि", "की"]),
        (("digits",), ["K12", "M12"]),
        (("digits",), ["1A23", "12A3"]),
        (("plate",), ["B-MA 123", "BM-A 123"]),
    ],
)
def test_different_ids_are_not_made_equal(rule, ids):
    for duplicates in ("refuse", "first"):
        with pytest.raises(
            DataError, match=rf"f.csv: normalise makes different ids equal, .* in {len(ids)}"
        ):
            normalise([["77", *ids]], rule, duplicates, "f.csv")
    allowed = normalise([["77", *ids]], rule, "first", reading=IdReading(merging="allow"))
    assert (len(allowed.ids), allowed.merged) == (2, len(ids))


def test_parts_of_an_id_may_be_alike():
    """Two ids are the same where all of their columns are."""
    columns = [["1-23", "12-3", "1-23"], ["a", "b", "c"]]
    assert len(normalise(columns, DEFAULT).ids) == 3
    with pytest.raises(DataError, match=r"in 2 rows \(rows 2, 3\)"):
        normalise([["1-23", "12-3", "1-23"], ["a", "A", "c"]], DEFAULT)


TEXT = st.text("aAbB1209-. +²é\u0301", max_size=6)


@given(TEXT, TEXT, st.sampled_from(ALL))
def test_whether_two_are_spellings_does_not_depend_on_their_order(one, other, rule):
    first, second = marks(one, rule), marks(other, rule)
    assert are_spellings([first, second]) == are_spellings([second, first])
    assert are_spellings([first, first])


# The same in data frames.


def fitted(ids_of_guest, ids_of_host, **named):
    rng = np.random.default_rng(0)
    guest = pd.DataFrame({"id": ids_of_guest, "x": rng.normal(size=len(ids_of_guest))})
    host = pd.DataFrame({"id": ids_of_host, "z": rng.normal(size=len(ids_of_host))})
    model = vfl.SecureBoost(id="id", trees=1, depth=1, **named)
    return model.fit(guest, np.arange(len(guest)) % 2, hosts={"host": host})


@pytest.mark.parametrize(
    "ids",
    [
        pd.Series(np.arange(1.0, 61.0)),
        pd.Series(np.arange(1, 61), dtype="float32"),
        pd.Series(np.arange(1, 61), dtype="Float64"),
        pd.Series([f"{i}.0" for i in range(1, 61)]),
        pd.Series([float(i) for i in range(1, 61)], dtype=object),
        pd.Series([Decimal(i) for i in range(1, 61)], dtype=object),
    ],
    ids=["float64", "float32", "Float64", "text", "object", "Decimal"],
)
def test_floats_in_data_frames(ids):
    """Of the guest's 10, 20, ..., 600 and the host's 1.0, 2.0, ..., 60.0 six are common."""
    model = fitted([10 * i for i in range(1, 61)], ids, min_child_rows=1, min_bin_rows=1)
    assert sorted(model.aligned_) == list(range(6))


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        ([1.0, 2.5, 3.0], "host: id column 'id' holds a number that is not whole, or of which"),
        ([1.0, 2.0**60, 3.0], "host: id column 'id' holds a number that is not whole, or of which"),
        ([1.0, np.inf, 3.0], "host: id column 'id' holds a number that is not whole, or of which"),
        (["1", "2", "3.5E+12"], r"host: 1 row has no id \(a number of which digits are lost"),
        (["1", "1.5", "2"], r"host: 1 row has no id \(a number of which digits are lost"),
        (["1", "nan", "2"], r"host: 1 row has no id once normalised \(among positions 1\)"),
        (pd.Series([1, 2**24, 3], dtype="float32"), "host: id column 'id' holds a number that is not"),
    ],
)
def test_floats_in_data_frames_that_are_no_ids(ids, said):
    with pytest.raises(DataError, match=said):
        fitted([1, 2, 3], ids)


@pytest.mark.parametrize("rule", ALL)
def test_cells_of_thousands_of_digits(rule: tuple[str, ...]) -> None:
    """Of more than Python reads as a number, or a float holds."""
    zeros, nines = "0" * 5_000, "9" * 5_000
    assert clean([f"{zeros}1.50e1", f"{zeros}1.0", f"{zeros}.0"], rule)[0].lstrip("0") == "15"
    assert clean([nines], rule) == clean([f" {nines} "], (*rule, "trim")) != [""]
    for lost in (f"{nines}.0", f"{nines}.5e1", f"1.{zeros}e5001"):
        assert clean([lost], rule) == [""]
