"""Ids as the parties compare them: cleaned by a rule that the job names, the same on all sides.

A rule is a list of steps, applied in order to each column of the id:

    nfkc    Unicode NFKC: full-width letters, ligatures and the like become the plain ones
    trim    no white space at either end
    upper   upper case
    digits  only the digits stay, as 0-9
    alnum   only letters and digits stay
    date    a date in one of the formats below becomes 2024-12-31

Dates: 2024-12-31, 2024/12/31, 2024.12.31, 20241231 (each with a time of day after it, or not),
31.12.2024, 31 Dec 2024, 31-Dec-2024, Dec 31, 2024 (or the month in full). 01/02/2024 and 01-02-2024
are refused, whatever their numbers: they mean one day here and another there.
"""

import datetime
import difflib
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vfl.errors import ConfigError, DataError

SHOWN = 5  # row numbers named in an error
HEADER = 1  # rows above the data: the first data row is row 2, as a spreadsheet shows it


@dataclass(frozen=True)
class NormalisedIds:
    """Ids fit for alignment: distinct, none empty.

    ids: one a kept row. rows: int64 (len(ids),), the numbers of the kept rows counted from 0, in
    their order. id_of_row: int64 (rows of the table,), the place in `ids` of each row's id, -1 for an
    empty one. empties, duplicates: the numbers of rows left out for either reason.
    """

    ids: list[bytes]
    rows: NDArray[np.int64]
    id_of_row: NDArray[np.int64]
    empties: int
    duplicates: int

    def __repr__(self) -> str:
        return (
            f"NormalisedIds({len(self.ids):,} ids, "
            f"{self.empties:,} empty and {self.duplicates:,} repeated left out)"
        )


def normalise(
    columns: Sequence[Sequence[str | None]],
    rule: Sequence[str] | Sequence[Sequence[str]],
    duplicates: Literal["refuse", "first"] = "refuse",
    where: str = "the table",
    *,
    empties: Literal["refuse", "drop"] = "refuse",
) -> NormalisedIds:
    """The ids that the rows of `columns` have under `rule`.

    columns: one or more, all of the same length. rule: the names of steps, for all columns, or one
    such list for each column. duplicates: what to do with rows whose id an earlier row has.
    empties: what to do with rows where any column is empty, for part of an id fits many.
    where: the file's name, for errors.

    Raises ConfigError for an unknown step, DataError for dates that cannot be read, empty ids and
    duplicates, with their number and first rows (as a spreadsheet counts them), never a value.
    """
    rules = _rules(rule, len(columns))
    if len({len(column) for column in columns}) != 1:
        raise ValueError("the columns of an id must have the same length, and there must be one")
    cleaned = [
        _clean(column, steps, f"{where}: " + (f"column {i} of the id: " if len(rules) > 1 else ""))
        for i, (column, steps) in enumerate(zip(columns, rules, strict=True), 1)
    ]
    rows = range(len(cleaned[0]))
    empty = [i for i in rows if not all(column[i] for column in cleaned)]
    if empty and empties == "refuse":
        raise DataError(
            f"{where}: {_count(empty, 'row has', 'rows have')} no id once normalised "
            f"({_row_numbers(empty)}); fill in the id or remove the {_plural(empty, 'row')}"
        )
    encoded = [[_with_length(value) for value in column] for column in cleaned]
    joined = [b"".join(parts) for parts in zip(*encoded, strict=True)]
    skipped = set(empty)
    first: dict[bytes, int] = {}
    repeats = []
    for i in rows:
        if i not in skipped and first.setdefault(joined[i], i) != i:
            repeats.append(i)
    if repeats and duplicates == "refuse":
        raise DataError(
            f"{where}: {_count(repeats, 'row repeats', 'rows repeat')} the id of an earlier row "
            f'({_row_numbers(repeats)}); say duplicates = "first" in [data] to keep the first row '
            f"of each id, or clean the file"
        )
    kept = np.fromiter(first.values(), np.int64, len(first))
    place = {one: i for i, one in enumerate(first)}
    id_of_row = np.fromiter(
        (-1 if i in skipped else place[joined[i]] for i in rows), np.int64, len(rows)
    )
    return NormalisedIds(list(first), kept, id_of_row, len(empty), len(repeats))


def check_rule(rule: Sequence[str]) -> None:
    """Raises ConfigError, with the nearest name, for a step that does not exist."""
    for step in rule:
        if step not in _STEPS and step != "date":
            names = [*_STEPS, "date"]
            near = difflib.get_close_matches(str(step).lower(), names, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"
            raise ConfigError(f"unknown step {step!r} in the rule for ids; {hint}")


def _rules(rule: Sequence[str] | Sequence[Sequence[str]], columns: int) -> list[list[str]]:
    if isinstance(rule, str):
        raise ConfigError("the rule for ids must be a list of steps")
    nested = [step for step in rule if not isinstance(step, str)]
    if not nested:
        rules = [[str(step) for step in rule]] * columns
    elif len(nested) == len(rule) == columns:
        rules = [list(steps) for steps in nested]
    else:
        raise ConfigError(
            f"the rule for ids must be a list of steps, or one such list for each of the "
            f"{columns} columns"
        )
    for steps in rules:
        check_rule(steps)
    return rules


def _clean(column: Sequence[str | None], steps: Sequence[str], where: str) -> list[str]:
    values = ["" if value is None else value for value in column]
    for step in steps:
        values = _dates(values, where) if step == "date" else list(map(_STEPS[step], values))
    return values


def _with_length(value: str) -> bytes:
    # surrogatepass: text that is broken in the file is compared as it is.
    encoded = value.encode("utf-8", "surrogatepass")
    return len(encoded).to_bytes(4, "big") + encoded


def _nfkc(value: str) -> str:
    return value if value.isascii() else unicodedata.normalize("NFKC", value)


_NOT_DIGITS = re.compile(r"[^0-9]+")
_NOT_ALNUM = re.compile(r"[\W_]+")


def _digits(value: str) -> str:
    if not value.isascii():
        # Digits of other scripts count as what they are.
        value = "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in value)
    return _NOT_DIGITS.sub("", value)


def _alnum(value: str) -> str:
    return value if value.isalnum() else _NOT_ALNUM.sub("", value)


_STEPS: dict[str, Callable[[str], str]] = {
    "nfkc": _nfkc,
    "trim": str.strip,
    "upper": str.upper,
    "digits": _digits,
    "alnum": _alnum,
}


# Dates.

_TIME = r"(?:[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?:Z|[+-]\d{2}:?\d{2})?)?"
_NUMBERS = (
    re.compile(r"(?P<y>\d{4})([-/.])(?P<m>\d{1,2})\2(?P<d>\d{1,2})" + _TIME, re.ASCII),
    re.compile(r"(?P<y>\d{4})(?P<m>\d{2})(?P<d>\d{2})" + _TIME, re.ASCII),
    re.compile(r"(?P<d>\d{1,2})\.(?P<m>\d{1,2})\.(?P<y>\d{4})", re.ASCII),
    re.compile(r"(?P<d>\d{1,2})[- ](?P<m>[a-z]+)\.?[- ](?P<y>\d{4})", re.ASCII | re.IGNORECASE),
    re.compile(r"(?P<m>[a-z]+)\.? (?P<d>\d{1,2}),? (?P<y>\d{4})", re.ASCII | re.IGNORECASE),
)
# fmt: off
_MONTHS = [
    "january", "february", "march", "april", "may", "june",
    "july", "august", "september", "october", "november", "december",
]
# fmt: on


def _dates(values: list[str], where: str) -> list[str]:
    known: dict[str, str | None] = {"": ""}  # an empty one is an empty id, which has its own error
    dates, unread = [], []
    for i, value in enumerate(values):
        if value in known:
            date = known[value]
        else:
            date = known[value] = _date(value.strip())
        if date is None:
            unread.append(i)
        else:
            dates.append(date)
    if unread:
        raise DataError(
            f"{where}{_count(unread, 'row has', 'rows have')} no date that can be read without "
            f"doubt ({_row_numbers(unread)}); write dates as 2024-12-31"
        )
    return dates


def _date(value: str) -> str | None:
    if not value:
        return ""
    for form in _NUMBERS:
        found = form.fullmatch(value)
        if found:
            month = _month(found["m"])
            try:
                return datetime.date(int(found["y"]), month, int(found["d"])).isoformat()
            except ValueError:  # no such day
                return None
    return None


def _month(text: str) -> int:
    """1 to 12 from digits, a month's name or its first three letters (sept too); else 0."""
    if text.isdigit():
        return int(text)
    text = text.lower()
    for number, name in enumerate(_MONTHS, 1):
        if text in (name, name[:3]) or (text == "sept" and number == 9):
            return number
    return 0


# Errors: rows, never values.


def _row_numbers(rows: Sequence[int]) -> str:
    shown = ", ".join(str(i + HEADER + 1) for i in rows[:SHOWN])
    more = f" and {len(rows) - SHOWN:,} more" if len(rows) > SHOWN else ""
    return f"{_plural(rows, 'row')} {shown}{more}"


def _count(rows: Sequence[int], one: str, many: str) -> str:
    return f"{len(rows):,} {one if len(rows) == 1 else many}"


def _plural(rows: Sequence[int], noun: str) -> str:
    return noun if len(rows) == 1 else noun + "s"
