"""Columns of dates, and the numbers that they become."""

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfl.party.reading import DateColumn
from vfl.party.sources.dates import become, days_of, order_of


def rule(**keys: object) -> DateColumn:
    return DateColumn.model_validate({"as": "days", **keys})


def day(text: str, **keys: object) -> dt.date | None:
    (days,) = days_of(pa.array([text]), rule(**keys))
    return None if np.isinf(days) else dt.date(1970, 1, 1) + dt.timedelta(int(days))


@settings(max_examples=200)
@given(st.dates(dt.date(1000, 1, 1), dt.date(9999, 12, 31)), st.dates(dt.date(1900, 1, 1)))
def test_every_day_comes_back_by_every_order(when: dt.date, at: dt.date) -> None:
    y, m, d = f"{when.year:04}", f"{when.month:02}", f"{when.day:02}"
    for sep in ("-", "/", "."):
        assert day(f"{y}{sep}{m}{sep}{d}") == when
        assert day(f"{d}{sep}{m}{sep}{y}", order="dmy") == when
        assert day(f"{m}{sep}{d}{sep}{y}", order="mdy") == when
        assert day(f"{y}{sep}{m}{sep}{d}", order="dmy") == when  # the year says so
    assert day(y + m + d) == when
    assert day(d + m + y, order="dmy") == when
    days = np.array([float((when - dt.date(1970, 1, 1)).days), np.nan])
    for becomes, number in (("days", days[0]), ("year", when.year), ("month", when.month)):
        np.testing.assert_array_equal(become(days, rule(**{"as": becomes})), [number, np.nan])
    # A year of age is complete on the day of the birth's month and day, of 29 February on 1 March.
    age = at.year - when.year - ((at.month, at.day) < (when.month, when.day))
    np.testing.assert_array_equal(become(days, rule(**{"as": "age", "at": at})), [age, np.nan])


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("2024-12-31T23:59:59.123456Z", {}),
        ("2024-12-31 00:00:00+01:00", {}),
        ("2024-12-31 10:00:00.000000 UTC", {}),  # BigQuery
        ("2024-12-31-23.59.59.000000", {}),  # DB2
        ("31DEC2024", {}),  # SAS
        ("31DEC2024:23:59:59", {}),
        ("31-DEC-2024", {"order": "dmy"}),  # Oracle
        ("31-DEC-24", {"order": "dmy", "years_from": 1930}),
        ("31-Dez-2024", {"order": "dmy"}),
        ("31. Dezember 2024", {"order": "dmy"}),
        ("31 déc. 2024", {"order": "dmy"}),
        ("31 décembre 2024", {"order": "dmy"}),
        ("Dec 31, 2024", {"order": "mdy"}),
        ("31.12.2024 08:15", {"order": "dmy"}),
        ("12/31/2024 11:59:59 PM", {"order": "mdy"}),
        ("31.12.24", {"order": "dmy", "years_from": 1930}),
        ("24-12-31", {"years_from": 2000}),
        (" 2024-12-31 ", {}),
    ],
)
def test_how_programs_and_people_write_a_day(text: str, keys: dict[str, object]) -> None:
    assert day(text, **keys) == dt.date(2024, 12, 31)


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("31.12.2024", {}),
        ("31/12/2024", {"order": "mdy"}),
        ("12/31/2024", {"order": "dmy"}),
        ("31.12.24", {"order": "dmy"}),
        ("30.02.2024", {"order": "dmy"}),
        ("2023-02-29", {}),
        ("2024-12/31", {}),
        ("0000-00-00", {}),
        ("31 Foo 2024", {"order": "dmy"}),
        ("45657", {}),
        ("20241331", {}),
        ("2024-12-31 soon", {}),
        ("٣1.12.2024", {"order": "dmy"}),
        ("", {}),
    ],
)
def test_what_is_no_day(text: str, keys: dict[str, object]) -> None:
    assert day(text, **keys) is None


def test_years_of_two_digits_are_of_the_hundred_years_named() -> None:
    years = {
        text: day(f"01.01.{text}", order="dmy", years_from=1930) for text in ("29", "30", "99", "00")
    }
    assert {text: found.year for text, found in years.items() if found} == {
        "29": 2029,
        "30": 1930,
        "99": 1999,
        "00": 2000,
    }


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        (["2024-12-31", "2024-01-02"], ("ymd", False, False)),
        (["31.12.2024", "01.02.2024"], ("dmy", False, False)),
        (["12/31/2024", "01/02/2024"], ("mdy", False, False)),
        (["01/02/2024", "03/04/2024"], ("dmy", True, False)),  # or month first
        (["31.12.24", "01.02.24"], ("dmy", False, True)),
        (["12/31/24"], ("mdy", False, True)),
        (["31.12.2024", "x", "y"], None),
        ([], None),
    ],
)
def test_the_order_that_a_column_seems_to_have(texts: list[str], found: tuple | None) -> None:
    assert order_of(texts) == found
