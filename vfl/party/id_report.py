"""What the ids of a table look like, before any protocol: a report that shows none of them.

Ids that two parties write differently are not found, and nobody is told: each party looks at its own
columns first. Counts, lengths, shapes (`AA-999-AA`), and findings with what to do about each. A shape
is shown where `COMMON` rows have it, for a rare one could be an id's.

All checks run over the distinct values of a column, in Arrow.
"""

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vfl.party.config import DataSection, Duplicates
from vfl.party.ids import HEADER, SHOWN, by_column, clean, digest, in_words, unversioned
from vfl.party.keys import all_keys
from vfl.party.table import read_table

COMMON = 10  # rows that share what is shown of them
TOP_LENGTHS, TOP_SHAPES = 3, 5
_LONGEST_SHAPE = 40

Mask = NDArray[np.bool_]
Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Finding:
    """Rows of an id column that other parties may not write alike."""

    kind: str
    rows: int
    share: float  # of the rows that are not empty
    first: list[int]  # rows as a spreadsheet counts them, five at most
    what: str  # after "12 rows "
    advice: str
    mended: bool  # whether the column's rule takes care of it


@dataclass(frozen=True)
class Counts:
    """Of a column or of a whole id: rows without it, different ids, rows whose id another row has."""

    empty: int
    distinct: int
    repeated: int


@dataclass(frozen=True)
class IdColumn:
    """One column of the id."""

    name: str
    rule: str
    written: Counts
    normalised: Counts
    shortest: int  # characters without blanks at the ends; 0 without any value
    longest: int
    lengths: list[tuple[int, int]]  # the most common ones: characters, rows
    shapes: list[tuple[str, int]]  # the most common ones: shape, rows
    other_shapes: int  # rows of all others
    findings: list[Finding]


@dataclass(frozen=True)
class IdReport:
    """The ids of a table; `ids` counts whole ids as the parties compare them."""

    file: str
    rows: int
    rule: str
    digest: str  # the same at all parties, or they refuse each other
    columns: list[IdColumn]
    ids: Counts
    plan: list[str] = field(
        default_factory=list
    )  # what becomes of rows without an id and of repeated ids
    further: list["IdReport"] = field(default_factory=list)  # on further keys


def profile_ids(data: DataSection) -> IdReport:
    """The report on the id columns of a party's table; no other column is read.

    Raises DataError for a table that cannot be read.
    """
    alone = data.model_copy(update=dict.fromkeys(("label", "weight", "exposure", "offset")))
    table = read_table(alone, role="guest", need_label=False, expect=())
    reports = [
        profile(dict(zip(key.id, columns, strict=True)), key.normalise, table.path.name)
        for key, columns in zip(data.keys, table.by_key(data), strict=True)
    ]
    ids = all_keys(
        table.by_key(data), [key.normalise for key in data.keys], "keep", "drop", table.path.name
    )
    plan = _plan(data, len(ids.without_id), reports[0].ids.repeated)
    return replace(reports[0], plan=plan, further=reports[1:])


def _plan(data: DataSection, empty: int, repeated: int) -> list[str]:
    """What becomes of rows without any id, and of rows that share the first key with others."""
    plan = []
    if empty:
        ends = "an alignment stops at them" if data.empty == "refuse" else "they match nothing"
        plan.append(
            f'empty = "{data.empty}": {empty:,} row{"" if empty == 1 else "s"} without an id, {ends}'
        )
    if repeated:
        plan.append(
            f'duplicates = "{data.duplicates}": {repeated:,} rows share their id, '
            f"{_ENDS[data.duplicates]}"
        )
        if data.aggregate:
            own = ", ".join(f"{rule} of '{column}'" for column, rule in data.aggregate.items())
            plan.append(f"aggregate: but {own}")
    return plan


_ENDS: dict[Duplicates, str] = {
    "refuse": "an alignment stops at them",
    "keep": "each is joined to the row that the host has of it",
    "first": "the first row of each id is used",
    "last": "the last row of each id is used",
    "sum": "they become one with the sum of their numbers",
    "mean": "they become one with the mean of their numbers",
    "max": "they become one with the largest of their numbers",
    "min": "they become one with the smallest of their numbers",
}


def profile(columns: dict[str, list[str | None]], rule: Sequence[str], file: str) -> IdReport:
    """The report on the columns of an id, one value a row, under a rule as `ids.compose` makes it.

    Raises ConfigError for a rule that does not fit them.
    """
    rules = by_column(rule, len(columns))
    made = [
        _column(name, values, steps, len(columns) == 1)
        for (name, values), steps in zip(columns.items(), rules, strict=True)
    ]
    whole, missing = made[0][1], made[0][2]
    for _, codes, empty in made[1:]:
        missing = missing | empty
        whole = np.unique(whole * (codes.max(initial=0) + 1) + codes, return_inverse=True)[1]
    counts = _counts(whole, missing)
    return IdReport(
        file, len(whole), in_words(rule), digest(rule), [column for column, _, _ in made], counts
    )


@dataclass(frozen=True)
class _Values:
    """The distinct values of a column that are not blank, and which row has which (rows that have
    one, in `rows`)."""

    text: Any  # large_string array, without white space at the ends
    raw: Any
    code: Codes
    rows: Codes

    @cached_property
    def beyond(self) -> Mask:
        """The values that are not all ASCII: mostly few."""
        return ~_mask(pc.string_is_ascii(self.text))

    def matching_beyond(self, pattern: str) -> Mask:
        """Those of them that match."""
        found = self.beyond.copy()
        found[found] = _match(self.text.filter(pa.array(found)), pattern)
        return found

    def count(self, mask: Mask) -> int:
        """The rows of a mask of values."""
        return int(np.count_nonzero(mask[self.code]))


def _column(
    name: str, cells: Sequence[str | None], steps: Sequence[str], alone: bool
) -> tuple[IdColumn, Codes, Mask]:
    """The report on a column, the code of each row's normalised value, and where that is empty."""
    coded = pc.fill_null(pa.array(cells, pa.large_string()), "").dictionary_encode()
    raw, code = coded.dictionary, coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    text = pc.utf8_trim_whitespace(raw)
    blank = _mask(pc.equal(text, ""))[code] if len(raw) else np.zeros(0, np.bool_)
    cleaned = pa.array(clean(raw.to_pylist(), steps), pa.large_string())
    again = cleaned.dictionary_encode()
    normalised = again.indices.to_numpy(zero_copy_only=False).astype(np.int64)[code]
    missing = _mask(pc.equal(cleaned, ""))[code] if len(raw) else blank
    values = _Values(text, raw, code[~blank], np.flatnonzero(~blank))
    lengths = pc.utf8_length(text).to_numpy(zero_copy_only=False)[values.code]
    sizes, rows_of_size = np.unique(lengths, return_counts=True)
    common = np.argsort(-rows_of_size, kind="stable")[:TOP_LENGTHS]
    shapes = _shapes(values)
    shown = [(shape, rows) for shape, rows in shapes[:TOP_SHAPES] if rows >= COMMON]
    column = IdColumn(
        name,
        in_words(steps),
        _counts(code, blank),
        _counts(normalised, missing),
        int(sizes.min(initial=sizes[0])) if len(sizes) else 0,
        int(sizes.max(initial=0)),
        [(int(sizes[i]), int(rows_of_size[i])) for i in common],
        shown,
        len(values.rows) - sum(rows for _, rows in shown),
        _findings(values, cleaned, [unversioned(step) for step in steps], alone),
    )
    return column, normalised, missing


def _counts(code: Codes, empty: Mask) -> Counts:
    _, rows = np.unique(code[~empty], return_counts=True)
    return Counts(int(np.count_nonzero(empty)), len(rows), int(rows[rows > 1].sum()))


_LETTER = np.full(256, ord("?"), np.uint8)
_LETTER[ord("!") : ord("~") + 1] = np.arange(ord("!"), ord("~") + 1)
_LETTER[ord("A") : ord("Z") + 1] = ord("A")
_LETTER[ord("a") : ord("z") + 1] = ord("a")
_LETTER[ord("0") : ord("9") + 1] = ord("9")
_LETTER[list(b"\t\n\r\f\v ")] = ord("_")


def _shapes(values: _Values) -> list[tuple[str, int]]:
    """Each shape with its rows, the most common first."""
    text = pc.utf8_slice_codeunits(values.text, 0, _LONGEST_SHAPE)
    if values.beyond.any():
        plain = [_ascii_shape(value) for value in text.filter(pa.array(values.beyond)).to_pylist()]
        text = pc.replace_with_mask(text, pa.array(values.beyond), pa.array(plain, text.type))
    _, offsets, letters = text.buffers()  # a byte is a character
    signs = _LETTER[np.frombuffer(letters or b"", np.uint8)].tobytes()
    shapes = pa.Array.from_buffers(text.type, len(text), [None, offsets, pa.py_buffer(signs)])
    coded = shapes.dictionary_encode()
    of_value = coded.indices.to_numpy(zero_copy_only=False)
    rows = np.bincount(of_value[values.code], minlength=len(coded.dictionary))
    order = np.argsort(-rows, kind="stable")
    names = coded.dictionary.to_pylist()
    return [(names[i], int(rows[i])) for i in order.tolist() if rows[i]]


def _ascii_shape(value: str) -> str:
    """A value with letters, digits and blanks beyond ASCII in place of which stand those of ASCII."""
    kinds = {"Ll": "a", "N": "9", "L": "A", "Z": " "}
    categories = map(unicodedata.category, value)
    return "".join(
        c if c.isascii() else kinds.get(kind) or kinds.get(kind[0], "\x7f")
        for c, kind in zip(value, categories, strict=True)
    )


# Findings.

_PLAIN = frozenset({"alnum", "digits", "vin", "plate", "phone"})  # leave letters and digits alone
_UPPER = frozenset({"upper", "vin", "plate", "digits", "phone", "date"})
_COMPATIBLE = frozenset({"nfkc", "vin", "plate", "phone"})
_AT_SOURCE = "the values are lost here: export the column anew as text"

_WORDS = (
    r"na|n/a|n\.a\.|n\.v\.|k\.a\.|nan|nil|null|none|unknown|unbekannt|inconnu|desconocido|sconosciuto|"
    r"onbekend|missing|empty|blank|dummy|test|testtest|tba|tbd|tbc|todo|default|other|not available|"
    r"not known|no id|x{2,}|[-?._*/]+"
)
_NUMBERS = (
    "0+|" + "|".join(f"{digit}{{3,}}" for digit in range(1, 10)) + "|1234567?8?9?0?|0123456?7?8?9?"
)
_ERRORS = r"^#(N/A|REF!|VALUE!|NAME\?|DIV/0!|NUM!|NULL!|NV|WERT!|BEZUG!|ZAHL!|VALEUR!|NOMBRE!|#+)$"


@dataclass(frozen=True)
class _Check:
    """One kind of finding: what is looked for in values without white space at their ends."""

    kind: str
    what: str
    advice: str
    mended_by: frozenset[str]
    find: Callable[[_Values], Mask]
    in_dates: bool = True  # whether it means anything in a column of dates
    in_several: bool = True  # and in one of several columns of the id


def _matching(pattern: str) -> Callable[[_Values], Mask]:
    return lambda values: _match(values.text, pattern)


def _padded(values: _Values) -> Mask:
    return _mask(pc.not_equal(values.raw, values.text))


def _lower_case(values: _Values) -> Mask:
    lower = _mask(pc.not_equal(pc.utf8_upper(values.text), values.text))
    upper = _mask(pc.not_equal(pc.utf8_lower(values.text), values.text))
    return lower if values.count(upper) else np.zeros_like(lower)


def _separated(values: _Values) -> Mask:
    found = _match(values.text, r"[-./_:+\\]")
    return found if values.count(~found) else np.zeros_like(found)


def _compatible(values: _Values) -> Mask:
    found = values.beyond.copy()
    text = values.text.filter(pa.array(found))
    found[found] = _mask(pc.not_equal(pc.utf8_normalize(text, form="NFKC"), text))
    return found


def _look_alike(values: _Values) -> Mask:
    """Greek or Cyrillic letters, where more values have Latin ones."""
    found = values.matching_beyond(r"[\p{Cyrillic}\p{Greek}]")
    if found.any():
        latin = _match(values.text, "[A-Za-z]")
        if values.count(latin) <= values.count(found & ~latin):
            return np.zeros_like(found)
    return found


def _lost_zeros(values: _Values) -> Mask:
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


def _placeholder(values: _Values) -> Mask:
    """Words for no id, and numbers that a person types for want of one, if they come twice."""
    several = np.bincount(values.code, minlength=len(values.text)) > 1
    typed = _match(values.text, f"^({_NUMBERS})$") & several
    return typed | _match(values.text, f"^(?i:{_WORDS})$")


def _frequent(values: _Values) -> Mask:
    """The most frequent value, where a hundredth of the rows have it."""
    rows = np.bincount(values.code, minlength=len(values.text))
    found = np.zeros(len(rows), np.bool_)
    found[rows.argmax()] = rows.max() >= max(COMMON, 0.01 * len(values.rows))
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
        "in scientific notation",
        _AT_SOURCE,
        frozenset(),
        _matching(r"^[+-]?[0-9]+([.,][0-9]+[eE][+-]?|[eE]\+)[0-9]{1,3}$"),
    ),
    _Check(
        "decimal",
        "that end in .0",
        "export the column as text or whole numbers: alnum and digits would add a 0 to the number",
        frozenset(),
        _matching(r"^[0-9]+[.,]0+$"),
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


def _findings(values: _Values, cleaned: Any, steps: Sequence[str], alone: bool) -> list[Finding]:
    """All findings, those that the rule does not mend first."""
    found: list[Finding] = []
    names = {step.partition(":")[0] for step in steps}

    def add(kind: str, mask: Mask, what: str, advice: str, mended: bool) -> None:
        rows = values.rows[mask[values.code]]
        if len(rows):
            first = (rows[:SHOWN] + HEADER + 1).tolist()
            share = len(rows) / len(values.rows)
            found.append(Finding(kind, len(rows), share, first, what, advice, mended))

    if not len(values.rows):
        return []
    nothing = _mask(pc.equal(cleaned, ""))
    some_date = _match(values.text, "|".join(_DATES.values()))
    of_dates = "date" in names or 2 * values.count(some_date) >= len(values.rows)
    for check in _CHECKS:
        if (check.in_dates or not of_dates) and (check.in_several or alone):
            mended = bool(names & check.mended_by)
            add(check.kind, check.find(values), check.what, check.advice, mended)
    if of_dates:
        _add_dates(add, values, nothing, steps)
    what = "with no id once normalised"
    add("empty once normalised", nothing, what, "mend or remove these rows", mended=False)
    if "vin" in names:
        _add_vins(add, values, cleaned)
    return sorted(found, key=lambda finding: finding.mended)


Add = Callable[[str, Mask, str, str, bool], None]

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


def _add_dates(add: Add, values: _Values, nothing: Mask, steps: Sequence[str]) -> None:
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


def _add_vins(add: Add, values: _Values, cleaned: Any) -> None:
    whole = _match(cleaned, "^[A-HJ-NPR-Z0-9]{17}$")
    filled = ~_mask(pc.equal(cleaned, ""))
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


def _match(text: Any, pattern: str) -> Mask:
    return _mask(pc.match_substring_regex(text, pattern))


def _mask(booleans: Any) -> Mask:
    return cast(Mask, booleans.to_numpy(zero_copy_only=False).astype(np.bool_))
