"""What is wrong with the values of an id column: kinds of findings, each with what to do about it.

All checks run over the distinct values of a column, in Arrow, and say rows, never values.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vfl.arrays import Mask
from vfl.party.id_cells import IdReading, ReadIds, names_of, read_cells
from vfl.party.id_merges import are_spellings, marks
from vfl.party.ids import clean, without_version
from vfl.party.rows import SHOWN
from vfl.party.sources.arrow import ArrowColumn, mask_of

COMMON = 10  # rows that share what is shown of them

Codes = NDArray[np.int64]


@dataclass(frozen=True)
class IdFinding:
    """Rows of an id column that other parties may not write alike."""

    kind: str
    rows: int
    share: float  # of the rows that are not empty
    first: list[int]  # of the rows, from 0 until `numbered`; five at most
    what: str  # after "12 rows "
    advice: str
    mended: bool  # whether the column's rule takes care of it


@dataclass(frozen=True)
class Values:
    """The distinct values of a column, and which row has which (rows that have one that is not blank,
    in `rows`)."""

    text: ArrowColumn  # large_string array, without white space at the ends
    raw: ArrowColumn
    every: Codes  # of all rows
    rows: Codes
    steps: Sequence[str]
    reading: IdReading
    as_text: bool

    @classmethod
    def of(
        cls, cells: Sequence[str | None], steps: Sequence[str], reading: IdReading, place: int
    ) -> "Values":
        """Of the column at this place in an id."""
        coded = pc.fill_null(pa.array(cells, pa.large_string()), "").dictionary_encode()
        raw, code = coded.dictionary, coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        text = pc.utf8_trim_whitespace(raw)
        blank = mask_of(pc.equal(text, ""))[code] if len(raw) else np.zeros(0, np.bool_)
        return cls(
            text=text,
            raw=raw,
            every=code,
            rows=np.flatnonzero(~blank),
            steps=steps,
            reading=reading,
            as_text=place in reading.as_text,
        )

    @cached_property
    def code(self) -> Codes:
        """Of the rows that have a value."""
        return self.every[self.rows]

    @cached_property
    def cells(self) -> ReadIds:
        """The values as they are read."""
        return read_cells(self.raw.to_pylist(), self.steps, self.reading.decimal, self.as_text)

    @cached_property
    def cleaned(self) -> ArrowColumn:
        """The values as they are compared."""
        cleaned = clean(self.raw.to_pylist(), self.steps, self.reading.decimal, self.as_text)
        return pa.array(cleaned, pa.large_string())

    @cached_property
    def beyond(self) -> Mask:
        """The values that are not all ASCII: mostly few."""
        return ~mask_of(pc.string_is_ascii(self.text))

    def matching_beyond(self, pattern: str) -> Mask:
        """Those of them that match."""
        found = self.beyond.copy()
        found[found] = _match(self.text.filter(pa.array(found)), pattern)
        return found

    def count(self, mask: Mask) -> int:
        """The rows of a mask of values."""
        return int(np.count_nonzero(mask[self.code]))

    def at(self, places: Sequence[int]) -> Mask:
        """A mask of the values at these places."""
        found = np.zeros(len(self.text), np.bool_)
        found[list(places)] = True
        return found


_PLAIN = frozenset({"alnum", "digits", "vin", "plate", "phone"})  # leave letters and digits alone
_UPPER = frozenset({"upper", "vin", "plate", "digits", "phone", "date"})
_COMPATIBLE = frozenset({"nfkc", "vin", "plate", "phone"})
_FEW_DATES = 0.1  # of the rows: where more have one, ids are of that form
_AT_SOURCE = "the values are lost here: export the column anew as text"

_WORDS = (
    r"na|n/a|n\.a\.|n\.v\.|k\.a\.|nan|nil|null|none|unknown|unbekannt|inconnu|desconocido|sconosciuto|"
    r"onbekend|missing|empty|blank|dummy|test|testtest|tba|tbd|tbc|todo|default|other|not available|"
    r"not known|no id|x{2,}|[-?._*/]+"
)
_NUMBERS = (
    "0+|" + "|".join(f"{digit}{{3,}}" for digit in range(1, 10)) + "|1234567?8?9?0?|0123456?7?8?9?"
)
_MONTHS = (  # as spreadsheets of several languages shorten them
    "jan|feb|mar|apr|may|jun|jul|aug|sep|sept|oct|nov|dec|mär|mrz|mai|okt|dez|janv|févr|mars|avr|juin|juil|"
    "août|déc|ene|abr|ago|dic|gen|mag|giu|lug|set|ott|mrt|mei"
)
_ERRORS = r"^#(N/A|REF!|VALUE!|NAME\?|DIV/0!|NUM!|NULL!|NV|WERT!|BEZUG!|ZAHL!|VALEUR!|NOMBRE!|#+)$"


Add = Callable[[str, Mask, str, str, bool], None]


@dataclass(frozen=True)
class _Check:
    """One kind of finding: what is looked for in values without white space at their ends."""

    kind: str
    what: str
    advice: str
    mended_by: frozenset[str]
    find: Callable[[Values], Mask]
    in_dates: bool = True  # whether it means anything in a column of dates
    in_several: bool = True  # and in one of several columns of the id


def _matching(pattern: str) -> Callable[[Values], Mask]:
    return lambda values: _match(values.text, pattern)


def _padded(values: Values) -> Mask:
    return mask_of(pc.not_equal(values.raw, values.text))


def _lower_case(values: Values) -> Mask:
    lower = mask_of(pc.not_equal(pc.utf8_upper(values.text), values.text))
    upper = mask_of(pc.not_equal(pc.utf8_lower(values.text), values.text))
    return lower if values.count(upper) else np.zeros_like(lower)


def _separated(values: Values) -> Mask:
    found = _match(values.text, r"[-./_:+\\]")
    return found if values.count(~found) else np.zeros_like(found)


def _compatible(values: Values) -> Mask:
    found = values.beyond.copy()
    text = values.text.filter(pa.array(found))
    found[found] = mask_of(pc.not_equal(pc.utf8_normalize(text, form="NFKC"), text))
    return found


def _look_alike(values: Values) -> Mask:
    """Greek or Cyrillic letters, where more values have Latin ones."""
    found = values.matching_beyond(r"[\p{Cyrillic}\p{Greek}]")
    if found.any():
        latin = _match(values.text, "[A-Za-z]")
        if values.count(latin) <= values.count(found & ~latin):
            return np.zeros_like(found)
    return found


def _lost_zeros(values: Values) -> Mask:
    """Numbers that are shorter than most, unless they are running numbers.

    Most values are numbers of one length, and the largest is far above what counting the values would
    reach: then a shorter one has likely lost its leading zeros.
    """
    digits = _match(values.text, "^[0-9]+$")
    short = np.zeros_like(digits)
    length = pc.utf8_length(values.text).to_numpy(zero_copy_only=False)
    by_length = np.bincount(length[values.code][digits[values.code]])
    number, all_rows = int(by_length.sum()), len(values.rows)
    if number < 0.8 * all_rows or not number:
        return short
    usual = int(by_length.argmax())
    running = 10.0 ** (usual - 1) < 10 * len(values.text)
    if usual < 4 or by_length[usual] < 0.5 * number or by_length[usual + 1 :].any() or running:
        return short
    return cast(Mask, digits & (length < usual))


def _placeholder(values: Values) -> Mask:
    """Words for no id, and numbers that a person types for want of one, if they come twice."""
    several = np.bincount(values.code, minlength=len(values.text)) > 1
    typed = _match(values.text, f"^({_NUMBERS})$") & several
    return typed | _match(values.text, f"^(?i:{_WORDS})$")


def _frequent(values: Values) -> Mask:
    """The most frequent value, where a hundredth of the rows have it."""
    rows = np.bincount(values.code, minlength=len(values.text))
    found = np.zeros(len(rows), np.bool_)
    found[rows.argmax()] = rows.max() >= max(COMMON, 0.01 * len(values.rows))
    return found


def _days_and_months(values: Values) -> Mask:
    """4-Mar and Mar-04, where such words are months and no letters of codes; dates among few others."""
    alike = _match(values.text, r"^([0-9]{1,2}[-. ]{1,2}\p{L}{3,4}\.?|\p{L}{3,4}[-. ]{1,2}[0-9]{2,4})$")
    found = alike & _match(values.text, rf"^([0-9. -]+)?(?i:{_MONTHS})([0-9. -]+)?$")
    if 2 * values.count(found) <= values.count(alike):
        found = np.zeros_like(found)
    written = [pattern for name, pattern in _DATES.items() if name != "20241231"]
    dates = _match(values.text, "|".join(written))
    if values.count(dates) <= _FEW_DATES * len(values.rows):
        found |= dates
    return found


_CHECKS = (
    _Check(
        "spreadsheet error",
        "with an error value of a spreadsheet",
        _AT_SOURCE,
        frozenset(),
        _matching(_ERRORS),
    ),
    _Check(
        "scientific notation",
        "with a number of which digits are lost (4.5E+12)",
        _AT_SOURCE,
        frozenset(),
        lambda values: values.at(values.cells.lost),
    ),
    _Check(
        "decimals",
        "with a number that has decimals (17.5, P17.0)",
        "export the column as text or whole numbers, or name it under as_text in [data]",
        frozenset(),
        lambda values: values.at(values.cells.fractions),
    ),
    _Check(
        "spreadsheet dates",
        "with what a spreadsheet makes of ids such as 3-4 or MAR1: a date",
        _AT_SOURCE,
        frozenset(),
        _days_and_months,
        in_dates=False,
    ),
    _Check(
        "leading zeros",
        "shorter than most numbers, as without their leading zeros",
        "export the column as text, with the zeros, or add nozeros to normalise",
        frozenset({"nozeros"}),
        _lost_zeros,
        in_dates=False,
    ),
    _Check(
        "placeholder",
        "with a placeholder in place of an id",
        "leave these cells empty or fill in the ids",
        frozenset(),
        _placeholder,
    ),
    _Check(
        "frequent value",
        "with one and the same value",
        "one id stands for many rows: a placeholder, or a column that does not name a row",
        frozenset(),
        _frequent,
        in_several=False,
    ),
    _Check(
        "broken text",
        "with characters that were lost in a wrong encoding",
        "export the file anew as UTF-8",
        frozenset(),
        lambda values: values.matching_beyond("\ufffd|Ã[\u0080-\u00bf]|â€"),
    ),
    _Check(
        "look-alikes",
        "with Cyrillic or Greek letters among Latin ones",
        "retype them: no step makes letters of different alphabets equal",
        frozenset(),
        _look_alike,
    ),
    _Check(
        "width",
        "with full-width letters, ligatures or the like",
        "add nfkc to normalise",
        _COMPATIBLE,
        _compatible,
    ),
    _Check(
        "invisible",
        "with invisible characters",
        "add alnum to normalise",
        _PLAIN,
        _matching(r"[\p{Cc}\p{Cf}]"),
    ),
    _Check(
        "beyond ASCII",
        "with letters beyond ASCII",
        "add nfkc to normalise, and ask the others how they write them",
        _COMPATIBLE,
        lambda values: values.beyond,
    ),
    _Check(
        "blanks at an end",
        "with blanks at an end",
        "add trim to normalise",
        _PLAIN | {"trim", "date"},
        _padded,
    ),
    _Check(
        "blanks inside",
        "with blanks inside",
        "add alnum to normalise",
        _PLAIN,
        _matching(r"[\s\p{Z}]"),
        in_dates=False,
    ),
    _Check(
        "separators",
        "with separators such as - or /, which others lack",
        "add alnum to normalise",
        _PLAIN,
        _separated,
        in_dates=False,
    ),
    _Check(
        "quotes",
        "in quotes or after an apostrophe",
        "add alnum to normalise",
        _PLAIN,
        _matching("^='?\"|^['\"`´]|['\"`´]$"),
    ),
    _Check(
        "mixed case",
        "with lower-case letters, where there are upper-case ones",
        "add upper to normalise",
        _UPPER,
        _lower_case,
        in_dates=False,
    ),
)


def findings_of(values: Values, alone: bool, *, again: bool = True) -> list[IdFinding]:
    """All findings, those that the rule does not mend first.

    Without `again` those are left out that an alignment counts itself, for which values are cleaned.
    """
    found: list[IdFinding] = []
    names = names_of(values.steps)

    def add(kind: str, mask: Mask, what: str, advice: str, mended: bool) -> None:
        rows = values.rows[mask[values.code]]
        if len(rows):
            share = len(rows) / len(values.rows)
            first = rows[:SHOWN].tolist()
            found.append(
                IdFinding(
                    kind=kind,
                    rows=len(rows),
                    share=share,
                    first=first,
                    what=what,
                    advice=advice,
                    mended=mended,
                )
            )

    if not len(values.rows):
        return []
    some_date = _match(values.text, "|".join(_DATES.values()))
    of_dates = "date" in names or 2 * values.count(some_date) >= len(values.rows)
    for check in _CHECKS:
        if (check.in_dates or not of_dates) and (check.in_several or alone):
            mended = bool(names & check.mended_by)
            if again or not mended:
                add(check.kind, check.find(values), check.what, check.advice, mended)
    if of_dates:
        _add_dates(add, values, mask_of(pc.equal(values.cleaned, "")))
    if again:
        _add_read(add, values, alone)
    if "vin" in names:
        _add_vins(add, values, values.cleaned)
    return sorted(found, key=lambda finding: finding.mended)


def _add_read(add: Add, values: Values, alone: bool) -> None:
    """What reading the cells and the rule make of them."""
    raw, read = values.raw.to_pylist(), values.cells.values
    written = [i for i, (cell, one) in enumerate(zip(raw, read, strict=True)) if one and one != cell]
    as_floats = values.at([i for i in written if i not in set(values.cells.negative)])
    what = "with whole numbers that are written as floats (17.0)"
    add("decimal", as_floats, what, "read as whole numbers", True)
    if alone:
        what, advice = (
            "with an id that normalise makes equal to a different one",
            ('take out steps (alnum and digits take out the most), or say merging = "allow" in [data]'),
        )
        add("merged", _merged(values), what, advice, values.reading.merging == "allow")
    what = "with no id once normalised"
    nothing = mask_of(pc.equal(values.cleaned, ""))
    add("empty once normalised", nothing, what, "mend or remove these rows", False)


def _merged(values: Values) -> Mask:
    """The values that the rule makes equal to others that are no other spelling of them."""
    coded = values.cleaned.dictionary_encode()
    code = coded.indices.to_numpy(zero_copy_only=False)
    nothing = mask_of(pc.equal(values.cleaned, ""))
    shared = np.flatnonzero((np.bincount(code)[code] > 1) & ~nothing)
    groups: dict[int, list[int]] = {}
    for place in shared.tolist():
        groups.setdefault(int(code[place]), []).append(place)
    negative = set(values.cells.negative)
    read = {i: ("-" if i in negative else "") + values.cells.values[i] for i in shared.tolist()}
    found = [
        place
        for places in groups.values()
        if not are_spellings([marks(read[i], values.steps) for i in places])
        for place in places
    ]
    return values.at(found)


_DATES = {
    "2024-12-31": r"^[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(\D|$)",
    "2024/12/31": r"^[0-9]{4}/[0-9]{1,2}/[0-9]{1,2}(\D|$)",
    "2024.12.31": r"^[0-9]{4}\.[0-9]{1,2}\.[0-9]{1,2}(\D|$)",
    "20241231": r"^(19|20)[0-9]{2}(0[1-9]|1[0-2])(0[1-9]|[12][0-9]|3[01])$",
    "31.12.2024": r"^[0-9]{1,2}\.[0-9]{1,2}\.[0-9]{4}(\D|$)",
    "slashes": r"^[0-9]{1,2}/[0-9]{1,2}/[0-9]{4}(\D|$)",
    "hyphens": r"^[0-9]{1,2}-[0-9]{1,2}-[0-9]{4}(\D|$)",
    "months": r"^([0-9]{1,2}[- ]\p{L}+\.?[- ]|\p{L}+\.? [0-9]{1,2},? )[0-9]{4}$",
    "two digits": r"^[0-9]{1,2}[-./][0-9]{1,2}[-./][0-9]{2}$",
}


def _add_dates(add: Add, values: Values, nothing: Mask) -> None:
    steps = [without_version(step) for step in values.steps]
    dates = {name: _match(values.text, pattern) for name, pattern in _DATES.items()}
    rows = {name: values.count(mask) for name, mask in dates.items()}
    usual = max(rows, key=lambda name: rows[name])
    other = np.any([mask for name, mask in dates.items() if name != usual], axis=0)
    reads = any(step.startswith("date") for step in steps) and not (other & nothing).any()
    what = "with a date in another format than most"
    add("date formats", other, what, "add date to normalise", reads)
    short = "write years with four digits"
    add("two-digit years", dates["two digits"], "with a year of two digits", short, False)
    doubtful = dates["slashes"] | dates["hyphens"]
    day_first = values.count(doubtful & _match(values.text, r"^(1[3-9]|[23][0-9])[-/]"))
    month_first = values.count(doubtful & _match(values.text, r"^[0-9]+[-/](1[3-9]|[23][0-9])[-/]"))
    if day_first and month_first:
        advice = "some can only be day first and some month first: write dates as 2024-12-31"
    elif day_first or month_first:
        advice = f"use {'date:dmy' if day_first else 'date:mdy'} in normalise: the rows tell the order"
    else:
        advice = "use date:dmy or date:mdy in normalise, whichever the source means"
    wanted = {"date:dmy"} if day_first else {"date:mdy"} if month_first else {"date:dmy", "date:mdy"}
    mended = bool(wanted & set(steps)) and not (day_first and month_first)
    add(
        "date order",
        doubtful,
        "with day and month in an order that the date leaves open",
        advice,
        mended,
    )


# 49 CFR 565.15: the ninth character is the weighted sum of the others' values, modulo 11, X for 10.
_VIN_VALUES = np.zeros(256, np.int64)
_VIN_VALUES[list(b"0123456789")] = np.arange(10)
_VIN_VALUES[list(b"ABCDEFGH")] = np.arange(1, 9)
_VIN_VALUES[list(b"JKLMN")] = np.arange(1, 6)
_VIN_VALUES[list(b"PR")] = 7, 9
_VIN_VALUES[list(b"STUVWXYZ")] = np.arange(2, 10)
_VIN_WEIGHTS = np.array([8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2])


def _add_vins(add: Add, values: Values, cleaned: ArrowColumn) -> None:
    whole = _match(cleaned, "^[A-HJ-NPR-Z0-9]{17}$")
    filled = ~mask_of(pc.equal(cleaned, ""))
    advice = "vehicles from before 1981 have shorter numbers; look at the others"
    add("vin length", filled & ~whole, "that are no VIN of 17 characters", advice, False)
    letters = _match(values.text, "[IOQioq]")
    add("vin letters", letters, "with I, O or Q, which no VIN has", "vin reads them as 1 and 0", True)
    vins = cleaned.filter(pa.array(whole))
    signs = np.frombuffer("".join(vins.to_pylist()).encode(), np.uint8).reshape(-1, 17)
    check = (_VIN_VALUES[signs] @ _VIN_WEIGHTS) % 11
    right = np.frombuffer(b"0123456789X", np.uint8)[check] == signs[:, 8]
    wrong = np.zeros_like(whole)
    wrong[whole] = ~right
    # One in eleven is right by chance: only where most are does a wrong one say anything.
    if 2 * values.count(wrong) < values.count(whole):
        advice = "vehicles made for North America have one: there, these are mistyped"
        add("vin check digit", wrong, "whose check digit is wrong, where most are right", advice, False)


def _match(text: ArrowColumn, pattern: str) -> Mask:
    return mask_of(pc.match_substring_regex(text, pattern))
