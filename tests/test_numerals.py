"""Numbers that are text: the same everywhere, and as Python reads them."""

import locale
import math
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfl.party.reading import Reading
from vfl.party.sources.numerals import GroupSigns, parse

PLAIN = Reading()
GERMAN = Reading(decimal=",", thousands=".")
FRENCH = Reading(decimal=",", thousands=" ")
SWISS = Reading(thousands="'")


def one(cell: str, reading: Reading = PLAIN) -> float | None:
    """The number of a cell, None for none."""
    # Beside one that needs the slower way, and alone: both must say the same.
    (alone,), (bad,) = parse(pa.array([cell]), reading)
    (among, _), (worse, _) = parse(pa.array([cell, " true"]), reading)
    assert bad == worse
    assert bad or alone == among or (math.isnan(alone) and math.isnan(among))
    return None if bad else float(alone)


SPELLINGS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False).flatmap(
        lambda x: st.sampled_from([repr(x), f"{x:.17e}", f"{x:.25e}", f"{x:.3g}", f"{x:+.20f}"])
    ),
    st.from_regex(
        r"[+-]?([0-9]{1,30}\.?[0-9]{0,40}|\.[0-9]{1,40})([eE][+-]?[0-9]{1,4})?", fullmatch=True
    ),
)


@settings(max_examples=300)
@given(st.lists(SPELLINGS, min_size=1, max_size=20))
def test_numbers_are_those_of_python_bit_for_bit(cells: list[str]) -> None:
    due = np.array([float(cell) for cell in cells])
    for written, reading in (
        (cells, PLAIN),
        ([cell.replace(".", ",") for cell in cells], Reading(decimal=",")),
        ([f" {cell}\t" for cell in cells], PLAIN),
        ([*cells, "True"], PLAIN),
    ):
        values, bad = parse(pa.array(written), reading)
        assert not bad.any()
        assert values[: len(due)].tobytes() == due.tobytes()


@settings(max_examples=500)
@given(st.text("0123456789+-.,eE_ '’\u00a0\u202fxdnaif()%٣１−", max_size=8))
def test_what_is_no_number_is_none(cell: str) -> None:
    plain = re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", cell.strip())
    found = one(cell)
    if plain:
        assert found == float(cell)
    else:
        assert found is None or (math.isinf(found) and "inf" in cell)


@pytest.mark.parametrize(
    "cell", ["++1", "+-1", "-+1", "--1", "+ 1", "1_000", "0x10", "１２", "٣", "−1", "1d5"]
)
@pytest.mark.parametrize("reading", [PLAIN, GERMAN, FRENCH, SWISS])
def test_signs_and_digits_of_other_notations(cell: str, reading: Reading) -> None:
    assert one(cell, reading) is None


@pytest.mark.parametrize(
    ("reading", "cell", "number"),
    [
        (GERMAN, "1.234,56", 1234.56),
        (GERMAN, "-1.234.567", -1234567.0),
        (GERMAN, "+1,5", 1.5),
        (GERMAN, ",5", 0.5),
        (GERMAN, "1234,5", 1234.5),
        (GERMAN, "1.5", None),  # not 15
        (GERMAN, "0.500", None),  # not 500
        (GERMAN, "12.34,5", None),
        (GERMAN, "1.2345", None),
        (GERMAN, "1,234.5", None),
        (GERMAN, "1,2,3", None),
        (FRENCH, "1 234,56", 1234.56),
        (FRENCH, "1\u202f234\u202f567,8", 1234567.8),
        (FRENCH, "1\u00a0234", 1234.0),
        (FRENCH, "12 34", None),
        (FRENCH, "1  234", None),
        (SWISS, "1'234.56", 1234.56),
        (SWISS, "1’234", 1234.0),
        (Reading(thousands=","), "1,234.56", 1234.56),
        (Reading(thousands=","), "1,", None),
        (Reading(thousands=","), "1 ,", None),
        (Reading(decimal=","), "1.5", None),
        (Reading(decimal=","), "1.234,5", None),
        (PLAIN, "1,5", None),
        (PLAIN, "1 000", None),
        (PLAIN, "1'000", None),
    ],
)
def test_decimal_signs_and_groups_of_digits(reading: Reading, cell: str, number: float | None) -> None:
    assert one(cell, reading) == number


def test_the_locale_does_not_matter() -> None:
    before = locale.setlocale(locale.LC_NUMERIC)
    try:
        for name in ("de_DE.UTF-8", "fr_FR.UTF-8", "de_DE", "C.UTF-8"):
            try:
                locale.setlocale(locale.LC_NUMERIC, name)
            except locale.Error:
                continue
            assert (one("1.5"), one("1,5"), one("1,5", GERMAN)) == (1.5, None, 1.5)
    finally:
        locale.setlocale(locale.LC_NUMERIC, before)


@pytest.mark.parametrize(
    ("cells", "doubt"),
    [
        (["950", "1.234", "37"], True),
        (["950", "1.234", None], True),
        (["1.234", "2.500"], False),  # three decimals throughout
        (["0.250", "1"], False),
        (["1.5", "1.234", "950"], False),
        (["1234", "1.234"], False),
        (["950", "37"], False),
    ],
)
def test_points_that_may_stand_between_thousands(cells: list[str | None], doubt: bool) -> None:
    for size in (1, len(cells)):  # of pieces
        plain, german = GroupSigns(PLAIN), GroupSigns(GERMAN)
        for start in range(0, len(cells), size):
            plain.look(pa.array(cells[start : start + size], pa.string()))
            german.look(pa.array(cells[start : start + size], pa.string()))
        assert plain.may_be_groups == doubt
        assert not german.may_be_groups


def test_a_number_too_large_for_a_float_where_arrow_refuses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Arrow 23 does; with it are other cells of the column that are read as before."""
    cast = pc.cast

    def refusing(text: Any, kind: Any) -> Any:
        found = cast(text, kind)
        if np.isinf(found.to_numpy(zero_copy_only=False)).any():
            raise pa.ArrowInvalid("Failed to parse string")
        return found

    monkeypatch.setattr(pc, "cast", refusing)
    values, strange = parse(pa.array(["7e777", "-1e999", " 0.1", None, "x", "+1e22"]), Reading())
    np.testing.assert_array_equal(values, [np.inf, -np.inf, 0.1, np.nan, np.nan, 1e22])
    assert strange.tolist() == [False, False, False, False, True, False]
