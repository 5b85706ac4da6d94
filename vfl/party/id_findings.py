"""What is wrong with the values of an id column: kinds of findings, each with what to do about it.

All checks run over the distinct values of a column, in Arrow, part by part (id_values.py), and say rows,
never values. What depends on all of the column is decided when all parts were looked at.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vfl.arrays import Mask
from vfl.party.id_cells import IdReading, names_of
from vfl.party.id_merges import are_spellings, marks
from vfl.party.id_values import Values
from vfl.party.ids import without_version
from vfl.party.rows import SHOWN
from vfl.party.sources.arrow import ArrowColumn, mask_of

COMMON = 10  # rows that share what is shown of them


@dataclass(frozen=True)
class IdFinding:
    """Rows of an id column that other parties may not write alike."""

    kind: str
    rows: int
    share: float  # of the rows that are not empty
    first: Sequence[int | str]  # of the rows, from 0 until `numbered`; five at most
    what: str  # after "12 rows "
    advice: str
    mended: bool  # whether the column's rule takes care of it


@dataclass(frozen=True)
class Evidence:
    """Rows of which something is so: how many, and the first of them."""

    rows: int = 0
    first: tuple[int, ...] = ()

    @classmethod
    def of(cls, values: Values, mask: Mask) -> "Evidence":
        """Those whose value is in a mask of values."""
        rows = values.rows[mask[values.code]]
        return cls(len(rows), tuple(rows[:SHOWN].tolist()))

    def __add__(self, other: "Evidence") -> "Evidence":
        """Of two parts that have no row in common."""
        return Evidence(self.rows + other.rows, tuple(sorted((*self.first, *other.first))[:SHOWN]))


@dataclass
class Seen:
    """What the parts of a column that were looked at have shown: evidence by what it is of, and numbers
    of rows and of values."""

    evidence: defaultdict[str, Evidence] = field(default_factory=lambda: defaultdict(Evidence))
    totals: Counter[str] = field(default_factory=Counter)
    digits: Counter[int] = field(default_factory=Counter)
    """Rows with a number, by its length."""
    frequent: Evidence = Evidence()
    """The rows of the most frequent value, of several the one that comes first."""

    def add(self, what: str, values: Values, mask: Mask) -> None:
        """Rows whose value is in a mask of values."""
        self.evidence[what] += Evidence.of(values, mask)


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
_ENDS = (  # of reports
    r"(grand |sub[- ]?)?totals?\b.*|sum|(gesamt|zwischen|end)?summe\b.*|(ins)?gesamt|"
    r"(page|seite|pagina|página)\s*\d+.*|\(?\d+ (rows?|records?|zeilen|datensätze)\b.*|"
    r"end of (report|file|list).*|ende (der liste|der datei|des berichts).*"
)
_NUMBERS = (
    "0+|" + "|".join(f"{digit}{{3,}}" for digit in range(1, 10)) + "|1234567?8?9?0?|0123456?7?8?9?"
)
_MONTHS = (  # as spreadsheets of several languages shorten them
    "jan|feb|mar|apr|may|jun|jul|aug|sep|sept|oct|nov|dec|mär|mrz|mai|okt|dez|janv|févr|mars|avr|juin|juil|"
    "août|déc|ene|abr|ago|dic|gen|mag|giu|lug|set|ott|mrt|mei"
)
_ERRORS = r"^#(N/A|REF!|VALUE!|NAME\?|DIV/0!|NUM!|NULL!|NV|WERT!|BEZUG!|ZAHL!|VALEUR!|NOMBRE!|#+)$"


Add = Callable[[str, Evidence, str, str, bool], None]
Look = Callable[[Seen, str, Values], None]


def _seen(seen: Seen, kind: str) -> Evidence:
    return seen.evidence[kind]


@dataclass(frozen=True)
class _Check:
    """One kind of finding: what is looked for in values without white space at their ends, and what of
    it counts once all are seen."""

    kind: str
    what: str
    advice: str
    mended_by: frozenset[str]
    look: Look
    in_dates: bool = True  # whether it means anything in a column of dates
    in_several: bool = True  # and in one of several columns of the id
    decide: Callable[[Seen, str], Evidence] = _seen


def _having(find: Callable[[Values], Mask]) -> Look:
    return lambda seen, kind, values: seen.add(kind, values, find(values))


def _matching(pattern: str) -> Look:
    return _having(lambda values: _match(values.text, pattern))


def _if_others(seen: Seen, kind: str) -> Evidence:
    """The evidence, where some rows speak for its being one."""
    return seen.evidence[kind] if seen.totals[kind] else Evidence()


def _padded(values: Values) -> Mask:
    return mask_of(pc.not_equal(values.raw, values.text))


def _look_lower_case(seen: Seen, kind: str, values: Values) -> None:
    seen.add(kind, values, mask_of(pc.not_equal(pc.utf8_upper(values.text), values.text)))
    seen.totals[kind] += values.count(mask_of(pc.not_equal(pc.utf8_lower(values.text), values.text)))


def _look_separated(seen: Seen, kind: str, values: Values) -> None:
    found = _match(values.text, r"[-./_:+\\]")
    seen.add(kind, values, found)
    seen.totals[kind] += values.count(~found)


def _compatible(values: Values) -> Mask:
    found = values.beyond.copy()
    text = values.text.filter(pa.array(found))
    found[found] = mask_of(pc.not_equal(pc.utf8_normalize(text, form="NFKC"), text))
    return found


def _look_alike(seen: Seen, kind: str, values: Values) -> None:
    found = values.matching_beyond(r"[\p{Cyrillic}\p{Greek}]")
    seen.add(kind, values, found)
    latin = _match(values.text, "[A-Za-z]")
    seen.totals["Latin letters"] += values.count(latin)
    seen.totals[kind] += values.count(found & ~latin)


def _decide_alike(seen: Seen, kind: str) -> Evidence:
    """Greek or Cyrillic letters, where more values have Latin ones."""
    more = seen.totals["Latin letters"] > seen.totals[kind]
    return seen.evidence[kind] if more else Evidence()


def _look_lost_zeros(seen: Seen, kind: str, values: Values) -> None:
    digits = _match(values.text, "^[0-9]+$")
    length = pc.utf8_length(values.text).to_numpy(zero_copy_only=False)
    rows = np.bincount(length[values.code][digits[values.code]])
    for one in np.flatnonzero(rows).tolist():
        seen.digits[one] += int(rows[one])
        seen.add(f"{kind} {one}", values, digits & (length == one))


def _decide_lost_zeros(seen: Seen, kind: str) -> Evidence:
    """Numbers that are shorter than most, unless they are running numbers.

    Most values are numbers of one length, and the largest is far above what counting the values would
    reach: then a shorter one has likely lost its leading zeros.
    """
    found, number = Evidence(), seen.digits.total()
    if number < 0.8 * seen.totals["rows"] or not number:
        return found
    usual = min(seen.digits, key=lambda length: (-seen.digits[length], length))
    running = usual < 30 and 10 ** (usual - 1) < 10 * seen.totals["values"]
    if usual < 4 or seen.digits[usual] < 0.5 * number or max(seen.digits) > usual or running:
        return found
    for length in sorted(seen.digits):
        if length < usual:
            found += seen.evidence[f"{kind} {length}"]
    return found


def _placeholder(values: Values) -> Mask:
    """Words for no id, and numbers that a person types for want of one, if they come twice."""
    several = np.bincount(values.code, minlength=len(values.text)) > 1
    typed = _match(values.text, f"^({_NUMBERS})$") & several
    return typed | _match(values.text, f"^(?i:{_WORDS})$")


def _look_frequent(seen: Seen, kind: str, values: Values) -> None:
    rows = np.bincount(values.code, minlength=len(values.text))
    one = Evidence.of(values, values.at([int(rows.argmax())]))
    if (-one.rows, one.first) < (-seen.frequent.rows, seen.frequent.first):
        seen.frequent = one


def _decide_frequent(seen: Seen, kind: str) -> Evidence:
    """The most frequent value, where a hundredth of the rows have it."""
    enough = seen.frequent.rows >= max(COMMON, 0.01 * seen.totals["rows"])
    return seen.frequent if enough else Evidence()


def _look_days_and_months(seen: Seen, kind: str, values: Values) -> None:
    alike = _match(values.text, r"^([0-9]{1,2}[-. ]{1,2}\p{L}{3,4}\.?|\p{L}{3,4}[-. ]{1,2}[0-9]{2,4})$")
    days = alike & _match(values.text, rf"^([0-9. -]+)?(?i:{_MONTHS})([0-9. -]+)?$")
    written = [pattern for name, pattern in _DATES.items() if name != "20241231"]
    dates = _match(values.text, "|".join(written))
    seen.totals[kind] += values.count(alike)
    seen.add("days and months", values, days)
    seen.add("dates among others", values, dates)
    seen.add("either", values, days | dates)


def _decide_days_and_months(seen: Seen, kind: str) -> Evidence:
    """4-Mar and Mar-04, where such words are months and no letters of codes; dates among few others."""
    days, dates = seen.evidence["days and months"], seen.evidence["dates among others"]
    of_days = 2 * days.rows > seen.totals[kind]
    of_dates = dates.rows <= _FEW_DATES * seen.totals["rows"]
    if of_days and of_dates:
        return seen.evidence["either"]
    return days if of_days else dates if of_dates else Evidence()


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
        _having(lambda values: values.at(values.unread.lost)),
    ),
    _Check(
        "decimals",
        "with a number that has decimals (17.5, P17.0)",
        "export the column as text or whole numbers, or name it under as_text in [data]",
        frozenset(),
        _having(lambda values: values.at(values.unread.fractions)),
    ),
    _Check(
        "spreadsheet dates",
        "with what a spreadsheet makes of ids such as 3-4 or MAR1: a date",
        _AT_SOURCE,
        frozenset(),
        _look_days_and_months,
        in_dates=False,
        decide=_decide_days_and_months,
    ),
    _Check(
        "leading zeros",
        "shorter than most numbers, as without their leading zeros",
        "export the column as text, with the zeros, or add nozeros to normalise",
        frozenset({"nozeros"}),
        _look_lost_zeros,
        in_dates=False,
        decide=_decide_lost_zeros,
    ),
    _Check(
        "placeholder",
        "with a placeholder in place of an id",
        "leave these cells empty or fill in the ids",
        frozenset(),
        _having(_placeholder),
    ),
    _Check(
        "end of a report",
        "with a sum or the end of a report in place of an id",
        "remove these rows, which stand for nobody",
        frozenset(),
        _matching(f"^\\s*(?i:{_ENDS})\\s*$"),
    ),
    _Check(
        "frequent value",
        "with one and the same value",
        "one id stands for many rows: a placeholder, or a column that does not name a row",
        frozenset(),
        _look_frequent,
        in_several=False,
        decide=_decide_frequent,
    ),
    _Check(
        "broken text",
        "with characters that were lost in a wrong encoding",
        "export the file anew as UTF-8",
        frozenset(),
        _having(lambda values: values.matching_beyond("\ufffd|Ã[\u0080-\u00bf]|â€")),
    ),
    _Check(
        "look-alikes",
        "with Cyrillic or Greek letters among Latin ones",
        "retype them: no step makes letters of different alphabets equal",
        frozenset(),
        _look_alike,
        decide=_decide_alike,
    ),
    _Check(
        "width",
        "with full-width letters, ligatures or the like",
        "add nfkc to normalise",
        _COMPATIBLE,
        _having(_compatible),
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
        _having(lambda values: values.beyond),
    ),
    _Check(
        "blanks at an end",
        "with blanks at an end",
        "add trim to normalise",
        _PLAIN | {"trim", "date"},
        _having(_padded),
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
        _look_separated,
        in_dates=False,
        decide=_if_others,
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
        _look_lower_case,
        in_dates=False,
        decide=_if_others,
    ),
)


class ColumnFindings:
    """The findings on a column, once `look` was given all of its parts."""

    def __init__(self, steps: Sequence[str], reading: IdReading, alone: bool, again: bool) -> None:
        """alone: whether it is the only column of the id. Without `again` those findings are left out
        that an alignment counts itself, for which values are cleaned."""
        self._steps, self._reading, self._alone, self._again = steps, reading, alone, again
        self._names, self._seen = names_of(steps), Seen()

    def look(self, values: Values) -> None:
        """Look at a part; all rows of a value are in one, and if `again` those that the rule makes equal
        to them."""
        seen = self._seen
        seen.totals["values"] += len(values.text)
        if not len(values.rows):
            return
        seen.totals["rows"] += len(values.rows)
        some_date = _match(values.text, "|".join(_DATES.values()))
        seen.totals["some date"] += values.count(some_date)
        for check, mended in self._checks():
            if self._again or not mended:
                check.look(seen, check.kind, values)
        if some_date.any():
            _look_at_dates(seen, values, "date" in self._names)
        if self._again:
            _look_at_read(seen, values, self._alone)
        if "vin" in self._names:
            _look_at_vins(seen, values, values.cleaned)

    def found(self) -> list[IdFinding]:
        """All findings, those that the rule does not mend first."""
        seen, found = self._seen, list[IdFinding]()
        rows = seen.totals["rows"]

        def add(kind: str, of: Evidence, what: str, advice: str, mended: bool) -> None:
            if of.rows:
                found.append(IdFinding(kind, of.rows, of.rows / rows, of.first, what, advice, mended))

        of_dates = "date" in self._names or 2 * seen.totals["some date"] >= rows
        for check, mended in self._checks():
            if (check.in_dates or not of_dates) and (self._again or not mended):
                add(check.kind, check.decide(seen, check.kind), check.what, check.advice, mended)
        if of_dates:
            _add_dates(add, seen, self._steps)
        if self._again:
            _add_read(add, seen, self._alone, self._reading)
        if "vin" in self._names:
            _add_vins(add, seen)
        return sorted(found, key=lambda finding: finding.mended)

    def _checks(self) -> list[tuple[_Check, bool]]:
        """The checks of such a column, and whether its rule mends what each finds."""
        return [
            (check, bool(self._names & check.mended_by))
            for check in _CHECKS
            if check.in_several or self._alone
        ]


_MERGED, _EMPTY, _FLOATS = "merged", "empty once normalised", "decimal"


def _look_at_read(seen: Seen, values: Values, alone: bool) -> None:
    """What reading the cells and the rule make of them."""
    raw, read = values.raw.to_pylist(), values.cells.values
    negative = set(values.cells.negative)
    pairs = enumerate(zip(raw, read, strict=True))
    written = [i for i, (cell, one) in pairs if one and one != cell and i not in negative]
    seen.add(_FLOATS, values, values.at(written))
    if alone:
        seen.add(_MERGED, values, _merged(values))
    seen.add(_EMPTY, values, mask_of(pc.equal(values.cleaned, "")))


def _add_read(add: Add, seen: Seen, alone: bool, reading: IdReading) -> None:
    what = "with whole numbers that are written as floats (17.0)"
    add(_FLOATS, seen.evidence[_FLOATS], what, "read as whole numbers", True)
    if alone:
        what, advice = (
            "with an id that normalise makes equal to a different one",
            ('take out steps (alnum and digits take out the most), or say merging = "allow" in [data]'),
        )
        add(_MERGED, seen.evidence[_MERGED], what, advice, reading.merging == "allow")
    add(_EMPTY, seen.evidence[_EMPTY], "with no id once normalised", "mend or remove these rows", False)


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


_OTHER = "not "  # before a format: evidence of all others
_DAY_FIRST, _MONTH_FIRST = r"^(1[3-9]|[23][0-9])[-/]", r"^[0-9]+[-/](1[3-9]|[23][0-9])[-/]"


def _look_at_dates(seen: Seen, values: Values, cleans: bool) -> None:
    """cleans: whether the rule has a step for dates."""
    dates = {name: _match(values.text, pattern) for name, pattern in _DATES.items()}
    nothing = mask_of(pc.equal(values.cleaned, "")) if cleans else np.zeros(len(values.text), np.bool_)
    for name in dates:
        seen.add(name, values, dates[name])
        other = np.any([mask for one, mask in dates.items() if one != name], axis=0)
        seen.add(_OTHER + name, values, other)
        seen.totals[_OTHER + name] += int((other & nothing).any())
    doubtful = dates["slashes"] | dates["hyphens"]
    seen.add("date order", values, doubtful)
    seen.totals["day first"] += values.count(doubtful & _match(values.text, _DAY_FIRST))
    seen.totals["month first"] += values.count(doubtful & _match(values.text, _MONTH_FIRST))


def _add_dates(add: Add, seen: Seen, of: Sequence[str]) -> None:
    steps = [without_version(step) for step in of]
    usual = max(_DATES, key=lambda name: seen.evidence[name].rows)
    unread = seen.totals[_OTHER + usual]
    reads = any(step.startswith("date") for step in steps) and not unread
    what = "with a date in another format than most"
    add("date formats", seen.evidence[_OTHER + usual], what, "add date to normalise", reads)
    short = "write years with four digits"
    add("two-digit years", seen.evidence["two digits"], "with a year of two digits", short, False)
    day_first, month_first = seen.totals["day first"], seen.totals["month first"]
    if day_first and month_first:
        advice = "some can only be day first and some month first: write dates as 2024-12-31"
    elif day_first or month_first:
        advice = f"use {'date:dmy' if day_first else 'date:mdy'} in normalise: the rows tell the order"
    else:
        advice = "use date:dmy or date:mdy in normalise, whichever the source means"
    wanted = {"date:dmy"} if day_first else {"date:mdy"} if month_first else {"date:dmy", "date:mdy"}
    mended = bool(wanted & set(steps)) and not (day_first and month_first)
    what = "with day and month in an order that the date leaves open"
    add("date order", seen.evidence["date order"], what, advice, mended)


# 49 CFR 565.15: the ninth character is the weighted sum of the others' values, modulo 11, X for 10.
_VIN_VALUES = np.zeros(256, np.int64)
_VIN_VALUES[list(b"0123456789")] = np.arange(10)
_VIN_VALUES[list(b"ABCDEFGH")] = np.arange(1, 9)
_VIN_VALUES[list(b"JKLMN")] = np.arange(1, 6)
_VIN_VALUES[list(b"PR")] = 7, 9
_VIN_VALUES[list(b"STUVWXYZ")] = np.arange(2, 10)
_VIN_WEIGHTS = np.array([8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2])


def _look_at_vins(seen: Seen, values: Values, cleaned: ArrowColumn) -> None:
    whole = _match(cleaned, "^[A-HJ-NPR-Z0-9]{17}$")
    filled = ~mask_of(pc.equal(cleaned, ""))
    seen.add("vin length", values, filled & ~whole)
    seen.add("vin letters", values, _match(values.text, "[IOQioq]"))
    vins = cleaned.filter(pa.array(whole))
    signs = np.frombuffer("".join(vins.to_pylist()).encode(), np.uint8).reshape(-1, 17)
    check = (_VIN_VALUES[signs] @ _VIN_WEIGHTS) % 11
    right = np.frombuffer(b"0123456789X", np.uint8)[check] == signs[:, 8]
    wrong = np.zeros_like(whole)
    wrong[whole] = ~right
    seen.add("vin check digit", values, wrong)
    seen.totals["whole vins"] += values.count(whole)


def _add_vins(add: Add, seen: Seen) -> None:
    of = seen.evidence
    advice = "vehicles from before 1981 have shorter numbers; look at the others"
    add("vin length", of["vin length"], "that are no VIN of 17 characters", advice, False)
    what = "with I, O or Q, which no VIN has"
    add("vin letters", of["vin letters"], what, "vin reads them as 1 and 0", True)
    # One in eleven is right by chance: only where most are does a wrong one say anything.
    if 2 * of["vin check digit"].rows < seen.totals["whole vins"]:
        what = "whose check digit is wrong, where most are right"
        advice = "vehicles made for North America have one: there, these are mistyped"
        add("vin check digit", of["vin check digit"], what, advice, False)


def _match(text: ArrowColumn, pattern: str) -> Mask:
    return mask_of(pc.match_substring_regex(text, pattern))
