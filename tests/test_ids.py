"""The rule for ids: what becomes equal, what stays different, and errors that show no value."""

import datetime
import hashlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfl.errors import ConfigError, DataError
from vfl.party import ids
from vfl.party.id_cells import IdReading, ReadIds, read_cells
from vfl.party.ids import (
    by_column,
    check_rule,
    clean,
    compose,
    digest,
    disagreement,
    in_words,
    normalise,
)


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
        ("nozeros", "00123400", "123400"),
        ("nozeros", "A0012", "A0012"),
        ("nozeros", "000", "0"),
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
        ("date", "31.12.2024 00:00:00", "2024-12-31"),
        ("date:dmy", "01/02/2024", "2024-02-01"),
        ("date:mdy", "01/02/2024", "2024-01-02"),
        ("date:dmy", "31-12-2024 00:00", "2024-12-31"),
        ("date:mdy", "12/31/2024", "2024-12-31"),
        ("date:mdy", "5.1.2024", "2024-01-05"),  # dots are day first everywhere
        ("vin", " wvwzzz1jz3w386752 ", "WVWZZZ1JZ3W386752"),
        ("vin", "WVW-ZZZ-IJZ-3W3-8675-Q", "WVWZZZ1JZ3W386750"),
        ("vin", "1M8GDM9AXKPO42788", "1M8GDM9AXKP042788"),
        ("vin", "ｗvw", "WVW"),  # as short as chassis numbers once were
        ("plate", " qj-692 jl\u00a0", "QJ692JL"),
        ("plate", "mü·ab 12", "MÜAB12"),
        ("plate", "mu\u0308_ab 12", "MÜAB12"),
        ("plate", "١٢ ABC", "12ABC"),
        ("plate", "ＡＢ１２", "AB12"),
        ("plate", "OI-01", "OI01"),
        ("phone", "+33 (0)1 23.45-67", "+331234567"),
        ("phone", "+44 (20) 7946", "+44207946"),  # (0) and nothing else is left out
        ("phone", "0033(0)1 23", "+33123"),
        ("phone", "01 23 45", "012345"),
        ("phone", "＋３３ 1", "+331"),
        ("phone:33", "01 23 45", "+3312345"),
        ("phone:33", "(0)1 23 45", "+3312345"),
        ("phone:33", "+33 01 23 45", "+3312345"),
        ("phone:33", "0044 20 123", "+4420123"),
        ("phone:49", "30 12 34", "+49301234"),
        ("phone:1", "1 (415) 555-0100", "+14155550100"),
        ("phone:1", "415.555.0100", "+14155550100"),
        ("phone:7", "8 (812) 555-01-00", "+78125550100"),
        ("phone:7", "812 555 01 00", "+78125550100"),
        ("phone:36", "06 1 234 5678", "+3612345678"),
        ("phone:39", "06 1234", "+39061234"),
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


def test_a_date_that_fits_no_format_is_an_empty_id_and_counted():
    dates = ["31/12/2024", "12/31/2024", "31.12.24", "5/1/2024", "", "soon"]
    assert clean(dates, ["date"]) == [""] * 6
    assert clean(dates, ["date:dmy"]) == ["2024-12-31", "", "", "2024-01-05", "", ""]
    found = normalise([dates], ["date:mdy"], empties="drop")
    assert found.rows.tolist() == [1, 3] and found.empties == 4


STEPS = [*ids._FORMS, "phone:39", "phone:1", "phone:7", "phone:36"]
# Marks, jamo and letters whose cases have several characters: what one pass may leave undone.
AWKWARD = "aZ19 -_.+()0/ıßŉΐﬁ①½Ａ１٣é\u0301\u0308\u1100\u1161\u11a8\u200d\u00a0\u0130ǆᾳ"
VALUES = st.one_of(
    st.text(max_size=12),
    st.text(AWKWARD, max_size=12),
    st.from_regex(r"[0+]{0,3}[0-9 ()/.-]{1,14}", fullmatch=True),
    st.dates().map(lambda day: day.strftime("%d/%m/%Y")),
)


@given(st.sampled_from(STEPS), VALUES)
@settings(max_examples=500)
def test_a_step_leaves_its_own_result_as_it_is(step, value):
    (once,) = clean([value], [step])
    assert clean([once], [step]) == [once]


@given(VALUES)
def test_plates_and_vins_are_made_of_the_plain_steps(value):
    (plate,) = clean([value], ["plate"])
    assert plate == "" or plate.isalnum()
    assert clean([plate], ["nfkc", "trim", "upper", "alnum"]) == [plate]
    assert clean([value], ["vin"]) == [plate.replace("I", "1").replace("O", "0").replace("Q", "0")]
    if value.isascii() and read_cells([value], ["alnum"]) == ReadIds([value], [], [], []):
        assert plate == clean([value], ["upper", "alnum"])[0]


def test_spellings_of_two_parties_become_one_id():
    rule = compose([["plate"], ["date:dmy"], ["phone:33"]])
    guest = [["QJ-692-JL", "mü 1"], ["31/12/1980", "1.2.1990"], ["01 23 45 67 89", "+33 6 1"]]
    host = [["qj692jl", "MU\u0308-1"], ["1980-12-31", "01-02-1990"], ["0033123456789", "06 1"]]
    assert normalise(guest, rule).ids == normalise(host, rule).ids


def test_rules_are_compared_by_column_parameter_and_version(monkeypatch):
    assert compose([["trim", "upper"]]) == compose([["trim", "upper"]] * 3) == ("trim", "upper")
    rule = compose([["vin"], [], ["date:dmy"]])
    assert rule == ("vin", "|", "|", "date:dmy")
    assert by_column(rule, 3) == [["vin"], [], ["date:dmy"]]
    assert by_column(("trim",), 2) == [["trim"], ["trim"]]
    with pytest.raises(ConfigError, match="each of the 2 columns"):
        by_column(rule, 2)
    assert in_words(rule) == "vin | | date:dmy"
    known = {digest(compose(one)) for one in ([["vin"]], [["date:dmy"]], [["date:mdy"]], [["date"]])}
    assert len(known) == 4
    assert disagreement("bureau", [rule], [list(rule)]) is None
    said = disagreement("bureau", [rule], [["vin", "trim", "|", "|", "date:mdy"]])
    assert said == (
        "bureau normalises ids by vin | | date:dmy, the guest by vin, trim | | date:mdy: "
        "set normalise in [data] alike on both sides"
    )
    before = digest(rule)
    monkeypatch.setitem(ids._VERSION, "date", 2)
    later = compose([["vin"], [], ["date:dmy"]])
    assert later == ("vin", "|", "|", "date:dmy@2")
    assert digest(later) != before
    said = disagreement("bureau", [rule], [later])
    assert said == (
        "bureau normalises ids by vin | | date:dmy, the guest by vin | | date:dmy@2: "
        "their versions of vfl differ in these steps, update the older one"
    )
    assert normalise([["5.1.2024"]], ["date@2"]).ids[0][4:] == b"2024-01-05"
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="has date@2, this version of vfl date: align again"):
        normalise([["5.1.2024"]], ["date@2"])


def test_a_peers_rule_is_shown_as_steps_only():
    shown = in_words(["trim", "secret\x1b[2J", "vin@2", *["upper"] * 40])
    assert shown.startswith("trim, ?, vin@2, upper,") and shown.endswith(", ...") and len(shown) < 260
    assert in_words([]) == "no step"


def test_what_a_step_does_changes_with_its_version_only():
    """When this fails, the step needs a new number in `_VERSION`: other parties run the old one."""
    probes = [
        *AWKWARD,
        AWKWARD,
        "0033 (0)1 23",
        "06 12",
        "31.12.2024 10:00",
        "31/12/2024",
        "Dec 31, 2024",
    ]
    done = {step: clean(probes, [step]) for step in STEPS}
    text = json.dumps([ids._VERSION, done], sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest()[:12] == "0941a264da56"


COLUMN = st.lists(st.text(max_size=5), min_size=2, max_size=2)


@given(COLUMN, COLUMN)
def test_columns_joined_differ_when_any_part_differs(one, other):
    as_text = IdReading(as_text=frozenset({0, 1}))
    first = normalise([[v] for v in one], [], empties="drop", reading=as_text).ids
    second = normalise([[v] for v in other], [], empties="drop", reading=as_text).ids
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


@given(st.lists(st.text(alphabet=" aAbB1_", max_size=4), max_size=30))
@settings(max_examples=50)
def test_rows_are_the_first_of_each_id(values):
    rule, allow = ["trim", "upper", "alnum"], IdReading(merging="allow")
    result = normalise([values], rule, "first", empties="drop", reading=allow)
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
