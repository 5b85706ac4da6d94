"""Ids as the parties compare them: cleaned by a rule that the job names, the same on all sides.

A rule is a list of steps, applied in order to each column of the id:

    nfkc    Unicode NFKC: full-width letters, ligatures and the like become the plain ones
    trim    no white space at either end
    upper   upper case
    digits  only the digits stay, as 0-9
    alnum   only letters and digits stay
    nozeros no zeros at the beginning, which spreadsheets take off; 0 alone stays
    vin     a vehicle identification number: nfkc, upper case, only letters and digits; I is 1, O and Q
            are 0, for ISO 3779 has none of the three. Length and check digit are not enforced: vehicles
            from before 1981 have shorter numbers, and only North America's have a check digit
    plate   a number plate: nfkc, upper case, only letters and digits, these as 0-9. Letters of
            different alphabets that look alike stay different
    date    a date in one of the formats below becomes 2024-12-31, any other value an empty id
    phone   a telephone number: digits, as 0-9, and a + before them where the number begins with + or
            00; (0) after these is left out. phone:33 takes numbers without + for those of country 33:
            its trunk prefix (0 in most countries) gives way to +33

Dates: 2024-12-31, 2024/12/31, 2024.12.31, 20241231, 31.12.2024 (each with a time of day after it, or
not), 31 Dec 2024, 31-Dec-2024, Dec 31, 2024 (or the month in full). 01/02/2024 and 01-02-2024 mean one
day here and another there: `date` takes neither, date:dmy reads them day first, date:mdy month first.

Each step does the same to its own result: what one party has cleaned before stays as it is. Before any
step a cell is read as what it is, the number 17.0 as 17 (id_cells.py); ids of one table that differ in
more than their spelling and that a rule makes equal are found (id_merges.py).

Columns with rules of their own: all steps in one list, `|` between one column's and the next's. A step
whose effect has changed between versions of vfl says so as `vin@2` (version 1 goes without): rules that
compare equal are equal, parameters and versions included.
"""

import datetime
import hashlib
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from vfl.blocks.held_cells import HeldCells
from vfl.blocks.scratch import Scratch, in_pieces
from vfl.blocks.texts import Cells, CellsWithout, Packed, differ, repeated
from vfl.errors import ConfigError, DataError
from vfl.party.id_cells import IdReading, Mark
from vfl.party.id_columns import CleanedPart, IdColumn, clean_part, pack_ids
from vfl.party.id_merges import are_merged
from vfl.party.rows import RowNumbers, below_header, rows_in_words
from vfl.text import counted, nearest_name

if TYPE_CHECKING:
    import pyarrow as pa

NEXT = "|"  # between the steps of two columns
_AS_THEY_ARE = IdReading()


@dataclass(frozen=True)
class NormalisedIds:
    """Ids fit for alignment: distinct, none empty.

    ids: one a kept row, in their order. id_of_row: int64 (rows of the table,), the place in `ids` of
    each row's id, -1 for an empty one. empties, duplicates: the numbers of rows left out for either
    reason. unread: of the empties, those with a number that is no id. merged: rows that share an id with
    others although what is written there differs in more than spelling.
    """

    ids: Packed
    id_of_row: NDArray[np.int64]
    empties: int
    duplicates: int
    unread: int = 0
    merged: int = 0

    @property
    def rows(self) -> NDArray[np.int64]:
        """The numbers of the kept rows counted from 0, int64 (len(ids),), in their order."""
        found, most = [np.empty(0, np.int64)], -1
        for some in in_pieces(len(self.id_of_row), self.id_of_row):
            before = np.maximum.accumulate(np.append(most, self.id_of_row[some]))
            found.append(some.start + np.flatnonzero(before[1:] > before[:-1]))
            most = before[-1]
        return np.concatenate(found)

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
    reading: IdReading = _AS_THEY_ARE,
    row_numbers: RowNumbers = below_header,
    scratch: Scratch = Scratch(),
) -> NormalisedIds:
    """The ids that the rows of `columns` have under `rule`.

    columns: one or more, all of the same length. rule: the names of steps, for all columns, or one
    such list for each column, or as `compose` makes it. duplicates: what to do with rows whose id an
    earlier row has. empties: what to do with rows where any column is empty, for part of an id fits
    many; a date or a number that cannot be read is empty. where: the file's name, for errors. reading:
    what the party's file says of cells. row_numbers: by which a person finds the rows in the file.
    scratch: where ids lie that are too many for memory.

    Raises ConfigError for an unknown step, DataError for dates and numbers that cannot be read, empty
    ids, different ids that the rule makes equal and duplicates, with their number and first rows, never
    a value.
    """
    rules = by_column(rule, len(columns))
    if len({len(column) for column in columns}) != 1:
        raise ValueError("the columns of an id must have the same length, and there must be one")
    cleaned = [
        column_of(column, steps, reading.decimal, i in reading.as_text)
        for i, (column, steps) in enumerate(zip(columns, rules, strict=True))
    ]
    packed, hashes, has_id = pack_ids(cleaned, scratch, _cleaned_by_workers(columns, rules, reading))
    for i, one in enumerate(cleaned):
        if empties == "refuse":
            one.check(f"{where}: column {i + 1} of the id" if len(rules) > 1 else where, row_numbers)
    empty = np.flatnonzero(~has_id).tolist()
    if empty and empties == "refuse":
        raise DataError(
            f"{where}: {counted(len(empty), 'row has', 'rows have')} no id once normalised "
            f"({rows_in_words(empty, row_numbers)}), where NULL, nan and the like are none; fill in the "
            f"id or remove the {'row' if len(empty) == 1 else 'rows'}, or say "
            'empty = "drop" in [data]'
        )
    again, firsts = repeated(packed, hashes)
    places = _places(has_id, (again, firsts), scratch)
    if len(again):
        kept = np.ones(len(packed), np.bool_)
        kept[again] = False
        packed = packed.keep(kept, scratch)
        again, firsts = _rows_with(has_id, again), _rows_with(has_id, firsts)
    different = _merged_rows(columns, cleaned, rules, again, firsts)
    if different and reading.merging == "refuse":
        raise DataError(
            f"{where}: normalise makes different ids equal, as it would 1-23 and 12-3, in "
            f"{counted(len(different), 'row')} ({rows_in_words(different, row_numbers)}); take out "
            "steps (alnum and digits take out the most), mend the rows, or say merging = "
            '"allow" in [data] to take them for spellings of one id'
        )
    if len(again) and duplicates == "refuse":
        which = rows_in_words(again.tolist(), row_numbers)
        raise DataError(
            f"{where}: {counted(len(again), 'row repeats', 'rows repeat')} the id of an earlier row "
            f'({which}); say duplicates = "first" in [data] to keep the '
            'first row of each id (a guest may say "keep" for all, a host "sum" or another way to make '
            "them one), or clean the file"
        )
    unread = set().union(*(one.unread for one in cleaned))
    counts = {"empties": len(empty), "duplicates": len(again), "merged": len(different)}
    return NormalisedIds(packed, places, unread=len(unread), **counts)


def _cleaned_by_workers(
    columns: Sequence[Sequence[str | None]], rules: Sequence[Sequence[str]], reading: IdReading
) -> Iterator[CleanedPart] | None:
    """The ids as workers clean them that hold all of the columns; None where these are here."""
    held, abouts = [], []
    for i, (column, steps) in enumerate(zip(columns, rules, strict=True)):
        none = column.none if isinstance(column, CellsWithout) else ()
        cells = column.cells if isinstance(column, CellsWithout) else column
        if not isinstance(cells, HeldCells):
            return None
        held.append(cells.origin)
        abouts.append(_About(tuple(steps), reading.decimal, i in reading.as_text, frozenset(none)))
    if any(origin.parts is not held[0].parts for origin in held):
        return None
    kernel = partial(_clean_part, abouts, os.urandom(32))
    return held[0].parts.beside([origin.key for origin in held], kernel)


@dataclass(frozen=True)
class _About:
    """How a column is cleaned; `none`: cells that count as empty."""

    steps: Sequence[str]
    decimal: Mark
    as_text: bool
    none: frozenset[str]


def _clean_part(abouts: Sequence[_About], secret: bytes, *columns: "pa.ChunkedArray") -> CleanedPart:
    """What a worker does: clean the ids of rows that it holds."""
    cleaned = []
    for about, column in zip(abouts, columns, strict=True):
        own: Sequence[str | None] = Cells(column)
        if about.none:
            own = CellsWithout(own, about.none)
        cleaned.append(column_of(own, about.steps, about.decimal, about.as_text))
    return clean_part(cleaned, secret)


def _places(
    has_id: NDArray[np.bool_], repeats: tuple[NDArray[np.int64], NDArray[np.int64]], scratch: Scratch
) -> NDArray[np.int64]:
    """The place of each row's id among different ones, -1 for none; `repeats` are as of `repeated`."""
    again, firsts = repeats
    places, known = scratch.of_rows(len(has_id), np.int64, "ids of rows"), 0
    for some in in_pieces(len(has_id), places):
        own = known + np.arange(np.count_nonzero(has_id[some]))
        low, high = np.searchsorted(again, [known, known + len(own)])
        known += len(own)
        own[again[low:high] - (known - len(own))] = firsts[low:high]
        if len(again):
            own -= np.searchsorted(again, own)
        places[some] = -1
        places[some][has_id[some]] = own
    return places


def _rows_with(has_id: NDArray[np.bool_], ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows that have these of the ids of all rows, which follow each other as their rows do."""
    return ids if has_id.all() else np.flatnonzero(has_id)[ids]


def _merged_rows(
    columns: Sequence[Sequence[str | None]],
    cleaned: Sequence[IdColumn],
    rules: Sequence[Sequence[str]],
    repeats: NDArray[np.int64],
    firsts: NDArray[np.int64],
) -> list[int]:
    """The rows that share an id with others although they have different ones, all rows of each such id.

    repeats, firsts: rows with the id of an earlier one, and the first row of each of these ids.
    """
    written = np.zeros(len(repeats), np.bool_)
    for column in columns:
        written |= differ(column, repeats, firsts)
    spellings: dict[int, dict[int, tuple[str, ...]]] = {}  # by first row, of each row written otherwise
    for i, first in zip(repeats[written].tolist(), firsts[written].tolist(), strict=True):
        rows = spellings.setdefault(first, {first: tuple(one.read(first) for one in cleaned)})
        rows[i] = tuple(one.read(i) for one in cleaned)
    return sorted(
        row for rows in spellings.values() if are_merged(set(rows.values()), rules) for row in rows
    )


def clean(
    column: Sequence[str | None],
    steps: Sequence[str],
    decimal: Mark = ".",
    as_text: bool = False,
    of_codes: Callable[[], bool] | None = None,
) -> list[str]:
    """What the steps make of a column's values, "" for None and for what cannot be read.

    decimal, as_text: as `IdReading` has them. of_codes: whether it is a column of codes, where these
    are not all of its values. Raises ConfigError for an unknown step.
    """
    check_rule(steps)
    cleaned = column_of(column, steps, decimal, as_text, of_codes)
    values = cleaned.clean(0, len(column))
    cleaned.end()
    for row in cleaned.emptied:
        values[row] = ""
    return values


def column_of(
    cells: Sequence[str | None],
    steps: Sequence[str],
    decimal: Mark,
    as_text: bool,
    of_codes: Callable[[], bool] | None = None,
) -> IdColumn:
    """A column of ids under the steps that clean it."""
    functions = [(step, _function(without_version(step))) for step in steps]
    return IdColumn(cells, functions, decimal, as_text, of_codes=of_codes)


def compose(columns: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """The rule of several columns as one list of steps with their versions, for the parties to compare.

    columns: the steps of each column. Raises ConfigError for an unknown step.
    """
    for steps in columns:
        check_rule(steps)
    stated = [[_with_version(step) for step in steps] for steps in columns]
    if all(steps == stated[0] for steps in stated):
        return tuple(stated[0])
    rule = stated[0]
    for steps in stated[1:]:
        rule = [*rule, NEXT, *steps]
    return tuple(rule)


def by_column(rule: Sequence[str] | Sequence[Sequence[str]], columns: int) -> list[list[str]]:
    """The steps of each of `columns` columns under a rule as `normalise` takes it.

    Raises ConfigError for a rule of another number of columns, for an unknown step and for one of
    another version than this one.
    """
    if isinstance(rule, str):
        raise ConfigError("the rule for ids must be a list of steps")
    nested = [step for step in rule if not isinstance(step, str)]
    if not nested:
        parts: list[list[str]] = [[]]
        for step in map(str, rule):
            if step == NEXT:
                parts.append([])
            else:
                parts[-1].append(step)
        rules = parts * columns if len(parts) == 1 else parts
    else:
        rules = [list(steps) for steps in rule] if len(nested) == len(rule) else []
    if len(rules) != columns:
        raise ConfigError(
            "the rule for ids must be a list of steps, or one such list for each of the "
            f"{counted(columns, 'column')}"
        )
    for steps in rules:
        check_rule(steps)
    return rules


def check_rule(rule: Sequence[str]) -> None:
    """Raises ConfigError, with the nearest name, for a step that does not exist, and for one of another
    version than this one's."""
    for step in rule:
        if not re.fullmatch(STEP, without_version(step)):
            near = nearest_name(str(step), _FORMS)
            hint = f"did you mean {near!r}?" if near else f"there are {', '.join(_FORMS)}"
            raise ConfigError(f"unknown step {step!r} in the rule for ids; {hint}")
        if "@" in step and step != (known := _with_version(without_version(step))):
            raise ConfigError(
                f"the rule for ids has {step}, this version of vfl {known}: align again, with the same "
                "version of vfl at all parties"
            )


def digest(rule: Sequence[str]) -> str:
    """SHA-256 in hex of a rule as `compose` makes it: its steps, their parameters and versions.

    Two parties can compare it by phone before any job.
    """
    stated = [step if step == NEXT else f"{without_version(step)}@{_version(step)}" for step in rule]
    return hashlib.sha256("\n".join(stated).encode()).hexdigest()


def disagreement(
    name: str,
    own: Sequence[Sequence[str]],
    asked: Sequence[Sequence[str]],
    columns: tuple[Sequence[int], Sequence[int]] = ((), ()),
) -> str | None:
    """Why the party `name`, with its keys' rules `own`, refuses a guest's; None where they are the same.

    columns: how many columns each key has here and at the guest, where both say so. `asked` may hold any
    text: only steps are shown.
    """
    if len(own) != len(asked):
        return (
            f"{name} has {counted(len(own), 'key')}, the guest {len(asked)}: "
            "set id and fallback in [data] alike on both sides"
        )
    for number, (mine, other) in enumerate(zip(own, asked, strict=True), 1):
        key = f" of key {number}" if len(own) > 1 else ""
        if list(mine) == list(other):
            continue
        if [without_version(step) for step in mine] == [without_version(step) for step in other]:
            todo = "their versions of vfl differ in these steps, update the older one"
        else:
            todo = "set normalise in [data] alike on both sides"
        return f"{name} normalises ids{key} by {in_words(mine)}, the guest by {in_words(other)}: {todo}"
    for number, (here, there) in enumerate(zip(*columns, strict=False), 1):
        if here != there:
            key = f"key {number}" if len(own) > 1 else "the id"
            return (
                f"{key} has {here} column{'s' if here > 1 else ''} at {name}, {there} at the guest: "
                "set id in [data] alike on both sides"
            )
    return None


def in_words(rule: Sequence[str]) -> str:
    """A rule on one line, for people: `trim, upper | date:dmy`. What is no step is shown as ?."""
    known = [
        step if step == NEXT or re.fullmatch(STEP, without_version(step)) else "?"
        for step in rule[:_LONGEST]
    ]
    columns = " ".join(step if step == NEXT else f"{step}," for step in known)
    text = columns.replace(f", {NEXT}", f" {NEXT}").removesuffix(",") or "no step"
    return text + (", ..." if len(rule) > _LONGEST else "")


def without_version(step: str) -> str:
    """A step without its version: `vin` of `vin@2`."""
    return re.sub(r"@[1-9][0-9]{0,3}\Z", "", str(step))


def _version(step: str) -> int:
    return _VERSION.get(without_version(step).partition(":")[0], 1)


def _with_version(step: str) -> str:
    version = _version(step)
    return without_version(step) + (f"@{version}" if version > 1 else "")


def _nfkc(value: str) -> str:
    return value if value.isascii() else unicodedata.normalize("NFKC", value)


_NOT_DIGITS = re.compile(r"[^0-9]+")
_NOT_ALNUM = re.compile(r"[\W_]+")


def _decimals(value: str) -> str:
    """Digits of other scripts count as what they are."""
    if value.isascii():
        return value
    return "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in value)


def _digits(value: str) -> str:
    return _NOT_DIGITS.sub("", _decimals(value))


def _alnum(value: str) -> str:
    return value if value.isalnum() else _NOT_ALNUM.sub("", value)


def _nozeros(value: str) -> str:
    return value.lstrip("0") or value[:1]


_ASCII_PLATE = {i: chr(i).upper() if chr(i).isalnum() else None for i in range(128)}


def _plate(value: str) -> str:
    if value.isascii():
        return value.translate(_ASCII_PLATE)
    while True:  # what loses a sign may compose anew: a few letters of rare scripts need it twice
        cleaned = _alnum(_decimals(_nfkc(value).upper()))
        if cleaned == value:
            return value
        value = cleaned


_NOT_IN_VIN = str.maketrans("IOQ", "100")


def _vin(value: str) -> str:
    return _plate(value).translate(_NOT_IN_VIN)


# Telephone numbers. What is dialled before a number within its country and left out from abroad is 0 in
# most countries (ITU-T E.164, Annex A; national dialling plans), but:
_TRUNK = {
    "1": r"1(?=\d{10}$)",
    "7": r"8(?=\d{10}$)",
    "36": "06",
    **dict.fromkeys(("39", "225", "242", "378"), ""),  # numbers there keep their 0
}


def _phone(value: str, country: str) -> str:
    value = _nfkc(value).strip()
    number = _digits(value)
    abroad = value.startswith("+")
    if not abroad and number.startswith("00"):
        abroad, number = True, number[2:]
    if abroad and "(0)" in value:
        number = _digits(value.replace("(0)", "", 1))
        number = number if value.startswith("+") else number.removeprefix("00")
    if not number:
        return ""
    if not country:
        return f"+{number}" if abroad else number
    trunk = _TRUNK.get(country, "0")
    if not abroad:
        return f"+{country}{re.sub('^' + trunk, '', number)}"
    if trunk == "0" and number.startswith(country + "0"):
        number = country + number[len(country) :].lstrip("0")
    return f"+{number}"


# Dates.

_TIME = r"(?:[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?:Z|[+-]\d{2}:?\d{2})?)?"
_NUMBERS = (
    re.compile(r"(?P<y>\d{4})([-/.])(?P<m>\d{1,2})\2(?P<d>\d{1,2})" + _TIME, re.ASCII),
    re.compile(r"(?P<y>\d{4})(?P<m>\d{2})(?P<d>\d{2})" + _TIME, re.ASCII),
    re.compile(r"(?P<d>\d{1,2})\.(?P<m>\d{1,2})\.(?P<y>\d{4})" + _TIME, re.ASCII),
    re.compile(r"(?P<d>\d{1,2})[- ](?P<m>[a-z]+)\.?[- ](?P<y>\d{4})", re.ASCII | re.IGNORECASE),
    re.compile(r"(?P<m>[a-z]+)\.? (?P<d>\d{1,2}),? (?P<y>\d{4})", re.ASCII | re.IGNORECASE),
)
_ORDERED = {
    "dmy": re.compile(r"(?P<d>\d{1,2})([-/])(?P<m>\d{1,2})\2(?P<y>\d{4})" + _TIME, re.ASCII),
    "mdy": re.compile(r"(?P<m>\d{1,2})([-/])(?P<d>\d{1,2})\2(?P<y>\d{4})" + _TIME, re.ASCII),
}
# fmt: off
_MONTHS = [
    "january", "february", "march", "april", "may", "june",
    "july", "august", "september", "october", "november", "december",
]
# fmt: on


def _date(value: str, order: str) -> str:
    """2024-12-31, or "" where the value is no date that can be read without doubt."""
    value = value.strip()
    for form in (*_NUMBERS, _ORDERED[order]) if order else _NUMBERS:
        if found := form.fullmatch(value):
            month = _month(found["m"])
            try:
                return datetime.date(int(found["y"]), month, int(found["d"])).isoformat()
            except ValueError:  # no such day
                return ""
    return ""


def _month(text: str) -> int:
    """1 to 12 from digits, a month's name or its first three letters (sept too); else 0."""
    if text.isdigit():
        return int(text)
    text = text.lower()
    for number, name in enumerate(_MONTHS, 1):
        if text in (name, name[:3]) or (text == "sept" and number == 9):
            return number
    return 0


# The steps by name. A change of what one of them does needs a new version of it.

STEP = r"nfkc|trim|upper|digits|alnum|nozeros|vin|plate|date(:dmy|:mdy)?|phone(:[1-9][0-9]{0,2})?"
_PLAIN: dict[str, Callable[[str], str]] = {
    "nfkc": _nfkc,
    "trim": str.strip,
    "upper": str.upper,
    "digits": _digits,
    "alnum": _alnum,
    "nozeros": _nozeros,
    "vin": _vin,
    "plate": _plate,
}
_FORMS = [*_PLAIN, "date", "date:dmy", "date:mdy", "phone", "phone:33"]
_VERSION: dict[str, int] = {}  # of the steps that have changed: `date`, not `date:dmy`
_LONGEST = 32  # steps of a rule that are shown


def _function(step: str) -> Callable[[str], str]:
    name, _, parameter = step.partition(":")
    if name == "date":
        return cache(partial(_date, order=parameter))  # the same days come again and again
    if name == "phone":
        return partial(_phone, country=parameter)
    return _PLAIN[name]
