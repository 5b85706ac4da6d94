"""Columns of dates: how they are read from text, and the numbers that they become."""

import datetime
import re
from collections.abc import Sequence
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vfl.arrays import Floats
from vfl.party.reading import DateColumn, Order
from vfl.party.sources.arrow import ArrowColumn

_TIME = (
    r"(?:[T :-]+\d{1,2}[:.]\d{1,2}(?:[:.]\d{1,2}(?:[.,]\d{1,9})?)?(?: ?[AaPp]\.?[Mm]\.?)?"
    r"(?: ?(?:Z|UTC|GMT|[+-]\d{2}(?::?\d{2})?))?)?"
)
_YEAR_FIRST = re.compile(r"(\d{4})([-/. ])(\d{1,2})\2(\d{1,2})" + _TIME, re.ASCII)
_YEAR_LAST = re.compile(r"(\d{1,2})([-/. ])(\d{1,2})\2(\d{4}|\d{2})" + _TIME, re.ASCII)
_TWO_DIGITS_FIRST = re.compile(r"(\d{2})([-/. ])(\d{1,2})\2(\d{1,2})" + _TIME, re.ASCII)
_COMPACT = re.compile(r"\d{8}" + _TIME, re.ASCII)
_NAMED = (
    re.compile(r"(?P<d>\d{1,2})\.?[-/. ]?(?P<m>[^\W\d_]{3,10})\.?[-/., ]*(?P<y>\d{4}|\d{2})" + _TIME),
    re.compile(r"(?P<m>[^\W\d_]{3,10})\.?[- ](?P<d>\d{1,2}),?[- ](?P<y>\d{4})" + _TIME),
    re.compile(r"(?P<y>\d{4})[-/ ]?(?P<m>[^\W\d_]{3,10})\.?[-/ ]?(?P<d>\d{1,2})" + _TIME),
)

# Months as the languages of Western Europe write them, in full and cut.
_MONTHS = {
    name: number
    for number, names in enumerate(
        (
            "jan january januar jänner janvier janv enero ene gennaio gen januari",
            "feb february februar feber février fevrier févr fevr fév fev febrero febbraio februari",
            "mar march märz maerz mrz mär mars marzo maart mrt",
            "apr april avril avr abril abr aprile",
            "may mai mayo maggio mag mei",
            "jun june juni juin junio giugno giu",
            "jul july juli juillet juil julio luglio lug",
            "aug august août aout aoû agosto ago augustus",
            "sep sept september septembre septiembre settembre set",
            "oct okt october oktober octobre octubre ottobre ott",
            "nov november novembre noviembre",
            "dec dez december dezember décembre decembre déc diciembre dicembre dic",
        ),
        start=1,
    )
    for name in names.split()
}


def days_of(text: ArrowColumn, rule: DateColumn) -> Floats:
    """Text as days since 1970-01-01: NaN where it is null, infinite where it is no date by the rule."""
    if isinstance(text, pa.ChunkedArray):
        text = text.combine_chunks()
    coded = text.dictionary_encode()
    found = [_day(value, rule) for value in coded.dictionary.to_pylist()]
    days = np.array([np.inf if day is None else day for day in found] + [np.nan])
    codes = pc.fill_null(coded.indices.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
    return cast(Floats, days[codes])


def _day(text: str, rule: DateColumn) -> int | None:
    """The day since 1970-01-01 of a date with or without a time of day; None for what is none."""
    parts = _parts(text.strip(), rule.order)
    if parts is None:
        return None
    year, month, day = parts
    if len(year) == 2:
        if rule.years_from is None:
            return None
        year = str(rule.years_from + (int(year) - rule.years_from) % 100)
    try:
        return datetime.date(int(year), month, int(day)).toordinal() - _EPOCH
    except ValueError:  # no such day
        return None


_EPOCH = datetime.date(1970, 1, 1).toordinal()


def _parts(text: str, order: Order) -> tuple[str, int, str] | None:
    """Year, month and day."""
    if found := _YEAR_FIRST.fullmatch(text):
        return found[1], int(found[3]), found[4]
    if _COMPACT.fullmatch(text):
        a, b, year = text[:2], text[2:4], text[4:8]
        if order == "ymd":
            return text[:4], int(text[4:6]), text[6:8]
        return (year, int(b), a) if order == "dmy" else (year, int(a), b)
    if order == "ymd":
        found = _TWO_DIGITS_FIRST.fullmatch(text)
        if found:
            return found[1], int(found[3]), found[4]
    elif found := _YEAR_LAST.fullmatch(text):
        return (
            (found[4], int(found[3]), found[1])
            if order == "dmy"
            else (found[4], int(found[1]), found[3])
        )
    for form in _NAMED:
        if (found := form.fullmatch(text)) and found["m"].lower() in _MONTHS:
            return found["y"], _MONTHS[found["m"].lower()], found["d"]
    return None


def become(days: Floats, rule: DateColumn) -> Floats:
    """The numbers that days since 1970-01-01 become; NaN stays NaN."""
    if rule.becomes == "days":
        return days
    known = ~np.isnan(days)
    dates = np.where(known, days, 0).astype(np.int64).astype("datetime64[D]")
    months = dates.astype("datetime64[M]")
    number = months.astype(np.int64)
    year, month = 1970 + number // 12, 1 + number % 12
    if rule.becomes == "year":
        made = year
    elif rule.becomes == "month":
        made = month
    else:
        at = cast(datetime.date, rule.at)
        day = (dates - months.astype("datetime64[D]")).astype(np.int64) + 1
        before = (month > at.month) | ((month == at.month) & (day > at.day))
        made = at.year - year - before
    return np.where(known, made, np.nan)


def looks_like_date(text: str) -> bool:
    """Whether text would be a date by some order of day, month and year."""
    return (
        len(text) < 48
        and any(c.isdigit() for c in text)
        and not text.isdigit()
        and any(_day(text, rule) is not None for rule in _ANY)
    )


def order_of(texts: Sequence[str]) -> tuple[Order, bool, bool] | None:
    """How most of a column's texts would be read as dates: the order, whether the other order of day and
    month would do as well, and whether years have two digits; None where they are no dates."""
    read = [sum(_day(text, rule) is not None for text in texts) for rule in _ANY]
    best = int(np.argmax(read))
    if not texts or read[best] < 0.9 * len(texts):
        return None
    order, short = _ANY[best].order, _ANY[best].years_from is not None
    other = next(
        n
        for n, rule in enumerate(_ANY)
        if rule.order == "mdy" and rule.years_from == _ANY[best].years_from
    )
    return order, order == "dmy" and read[other] == read[best], short


# With years of four digits first, and with those that mostly come first in writing.
_ANY = [
    DateColumn.model_validate({"as": "days", "order": order, "years_from": years_from})
    for years_from, orders in ((None, ("ymd", "dmy", "mdy")), (1930, ("dmy", "mdy", "ymd")))
    for order in orders
]
