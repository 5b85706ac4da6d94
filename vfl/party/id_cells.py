"""What the cell of an id is, before any rule: text, a whole number that was written as a float, or none.

Programs turn ids into floats. pandas keeps whole numbers with gaps as floats and writes 17.0, R writes
1e+05, a spreadsheet 1.23457E+12. A rule that keeps letters and digits alone would make 170 of the first,
another id. So a number is read as the number it is:

- 17.0, 17.00, 1.7e1, -0.0 and 1,234.0 are the whole numbers 17, 17, 17, 0 and 1234. Zeros at the
  beginning stay as they are written. 17,0 is 17, too: no sign for thousands has one digit after it.
- 17.5 is no id, where the rule would take the sign out of it; else it stays as it is written. So is
  text in which a float stands, as P17.0 and 17.0-4.
- 1.23457E+12 is no id: the digits after those that are written are lost. So are those of whole numbers
  beyond 2^53 that are written as floats. 1e15 is either a number of this kind or a code: a code in a
  column with other words, else no id.
- -5 stays negative, whatever the rule takes out.

All else is text as it is written. Cells that say that there is nothing, as programs write it (nan, NULL,
#N/A), are empty: else every row without an id would match every other.

All of this looks at one cell alone, but for 1e15: two parties, and one party's table and a batch of it,
read the same cell in the same way.
"""

import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Mark = Literal[".", ","]

EXACT = 2**53  # float64 has each whole number below it, and not each above

# As programs write them: pandas' list, and those of databases and spreadsheets. Case counts: Nan is a
# name. fmt: off
NOTHING = frozenset(
    {
        "NA",
        "N/A",
        "n/a",
        "nan",
        "NaN",
        "-nan",
        "-NaN",
        "None",
        "NULL",
        "Null",
        "null",
        "<NA>",
        "<null>",
        "(null)",
        "NaT",
        "\\N",
        "1.#IND",
        "-1.#IND",
        "1.#QNAN",
        "-1.#QNAN",
        "inf",
        "-inf",
        "Inf",
        "-Inf",
        "Infinity",
        "-Infinity",
        "#N/A",
        "#N/A N/A",
        "#NA",
        "#NV",
        "#REF!",
        "#VALUE!",
        "#NAME?",
        "#DIV/0!",
        "#NUM!",
        "#NULL!",
        "#BEZUG!",
        "#WERT!",
        "#ZAHL!",
        "#VALEUR!",
        "#NOMBRE!",
    }
)
# fmt: on

_DOMAINS = frozenset({"phone", "vin", "plate", "date"})  # steps that know what their values are
_LOOSE = frozenset({"alnum", "digits"})  # take out signs, whatever they mean


@dataclass(frozen=True)
class IdReading:
    """What a party's file says of the cells of its ids.

    decimal: the sign before the decimals of a number. as_text: places of columns, from 0, whose cells
    are text alone, whatever they look like. merging: what becomes of rows whose different ids a rule
    makes equal.
    """

    decimal: Mark = "."
    as_text: frozenset[int] = frozenset()
    merging: Literal["refuse", "allow"] = "refuse"


@dataclass(frozen=True)
class ReadIds:
    """A column of ids as it is read, "" for none.

    negative: rows of whole numbers below 0, whose values are written without the sign. fractions,
    lost: rows with a number that is not whole, or with decimals in it, and with one whose digits are
    not all there; both are read as "".
    """

    values: list[str]
    negative: list[int]
    fractions: list[int]
    lost: list[int]
    doubtful: list[int] = field(default_factory=list)
    """Of a piece of a column, rows with what is lost unless the column is one of codes."""

    def empty_unread(self) -> None:
        """Take the values of rows that cannot be read for none."""
        for row in (*self.lost, *self.fractions):
            self.values[row] = ""


def names_of(steps: Collection[str]) -> frozenset[str]:
    """The names of steps, without parameters and versions."""
    return frozenset(re.split("[:@]", step)[0] for step in steps)


def read_cells(
    column: Sequence[str | None],
    steps: Collection[str],
    decimal: Mark = ".",
    as_text: bool = False,
    of_codes: Callable[[], bool] | None = None,
) -> ReadIds:
    """The cells of a column under the steps that will clean it.

    of_codes: whether it is a column of codes, where these are not all of its cells.
    """
    cells = read_piece(column, steps, decimal, as_text)
    if cells.doubtful and not (of_codes() if of_codes else _has_words(cells.values, decimal)):
        cells.lost.extend(cells.doubtful)
        cells.lost.sort()
    cells.doubtful.clear()
    cells.empty_unread()
    return cells


def are_codes(pieces: Iterable[ReadIds], decimal: Mark) -> bool:
    """Whether a column of these pieces, as `read_piece` reads them, is one of codes: then those of its
    cells that are doubtful are no numbers."""
    return any(_has_words(piece.values, decimal) for piece in pieces)


def read_piece(
    column: Sequence[str | None], steps: Collection[str], decimal: Mark = ".", as_text: bool = False
) -> ReadIds:
    """Some cells of a column, each by itself: `values` still has what is lost, or no whole number."""
    values = ["" if value is None else value for value in column]
    cells = ReadIds(values, [], [], [])
    if as_text:
        return cells
    names = names_of(steps)
    loose = bool(names & _LOOSE) and not names & _DOMAINS
    for row, value in enumerate(values):
        if value.isdecimal() or not value:
            continue
        if value[0] in _LETTERS and _is_text(value):
            if loose and _FLOAT_WITHIN.search(value):
                cells.fractions.append(row)
            continue
        if _FROM_A_FLOAT.fullmatch(value):
            values[row] = value[:-2]
            continue
        found = _number(value, decimal, "phone" in names)
        if found is None:
            if loose and _FLOAT_WITHIN.search(value):
                cells.fractions.append(row)
            continue
        if found.kind == "doubtful":
            if "date" not in names:
                cells.doubtful.append(row)
        elif found.kind == "whole":
            if found.negative and loose:
                cells.negative.append(row)
                values[row] = found.text
            elif found.written_as_float:
                values[row] = f"-{found.text}" if found.negative else found.text
        elif found.kind == "nothing":
            values[row] = ""
        elif "date" not in names:  # which has its own word for what it cannot read
            if found.kind == "lost":
                cells.lost.append(row)
            elif loose:
                cells.fractions.append(row)
    return cells


def float_texts(
    numbers: NDArray[np.floating],
) -> tuple[list[str | None], NDArray[np.bool_], NDArray[np.bool_]]:
    """Floats as texts of whole numbers, None where missing; which are not whole; which lost digits."""
    exact = 2.0 ** (np.finfo(numbers.dtype).nmant + 1)  # 2^53, of single precision 2^24
    missing = np.isnan(numbers)
    lost = ~missing & ~(np.abs(numbers) < exact)
    fractions = ~missing & ~lost & (numbers != np.rint(numbers))
    good = ~(missing | lost | fractions)
    whole = np.where(good, numbers, 0).astype(np.int64).tolist()
    texts = [str(n) if ok else None for n, ok in zip(whole, good.tolist(), strict=True)]
    return texts, fractions, lost


def whole_text(number: float | np.floating | Decimal) -> str | None:
    """The text of a whole number that is kept as a float or as a decimal number, None if it is none."""
    if isinstance(number, Decimal):
        return str(int(number)) if number.is_finite() and number == int(number) else None
    kind = number.dtype if isinstance(number, np.floating) else np.dtype(np.float64)
    return float_texts(np.array([number], kind))[0][0]


# Numbers.


@dataclass(frozen=True)
class _Number:
    kind: Literal["whole", "fraction", "lost", "doubtful", "nothing"]
    text: str = ""  # digits of a whole one
    negative: bool = False
    written_as_float: bool = False


_NOTHING = _Number("nothing")
_LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
_QUOTED = re.compile(r"=?\"(.*)\"|'(.*)'|['`´](.*)", re.DOTALL)
_BRACKETS = re.compile(r"\(([^()]*)\)")
_DOUBTFUL = re.compile(r"[1-9][eE]-?[0-9]{1,3}")
_CODE = re.compile(r"[0-9]+[eE]-?[0-9]+")  # no program writes numbers like this, but for those above
_FROM_A_FLOAT = re.compile(r"[0-9]{1,15}\.0")
_FLOAT_WITHIN = re.compile(r"(?<![0-9.:])[0-9]+\.0(?![0-9.])")
_PLAIN_SIGNS = str.maketrans(
    dict.fromkeys("\u2212\u2010\u2011\u2013\u2014\u02d7", "-") | {"\u2019": "'"}
)


def bare(value: str) -> str:
    """A value in plain characters, without white space, quotes and what is invisible around it."""
    if not value.isascii():
        value = unicodedata.normalize("NFKC", value).translate(_PLAIN_SIGNS)
        value = "".join(c for c in value if unicodedata.category(c) != "Cf")
    value = value.strip()
    while (quoted := _QUOTED.fullmatch(value)) and value:
        inner = next(group for group in quoted.groups() if group is not None).strip()
        if inner == value:
            break
        value = inner
    return value


def _is_text(value: str) -> bool:
    """Whether a value that begins with a letter of ASCII stands for something."""
    return value.isascii() and value.strip() not in NOTHING


@cache
def _form(mark: Mark) -> re.Pattern[str]:
    """Numbers with this sign before their decimals, and the other one, blanks or ' between thousands."""
    thousands = f"[ '{',' if mark == '.' else '.'}]"
    return re.compile(
        rf"(?P<sign>[+-]?)(?P<whole>[0-9]+|[0-9]{{1,3}}(?:{thousands}[0-9]{{3}})+)?"
        rf"(?:[{mark}](?P<part>[0-9]*))?(?:[eE](?P<power>[+-]?[0-9]{{1,4}}))?(?P<after>-?)"
    )


def _number(value: str, decimal: Mark, phone: bool) -> _Number | None:
    """What number a value is; None for text, and for digits alone, which need no reading."""
    value = bare(value)
    if value in NOTHING:
        return _NOTHING
    if phone:  # numbers that are written with all kinds of signs between their digits
        return _Number("whole", value[:-2], False, True) if _FROM_A_FLOAT.fullmatch(value) else None
    if _DOUBTFUL.fullmatch(value):
        return _Number("doubtful")
    if not value or _CODE.fullmatch(value):
        return None
    negative = False
    if inner := _BRACKETS.fullmatch(value):  # as accountants write what is below 0
        negative, value = True, inner[1].strip()
    found = _form(decimal).fullmatch(value) or _form("," if decimal == "." else ".").fullmatch(value)
    if found is None or not (found["whole"] or found["part"]):
        return None
    as_float = found["part"] is not None or found["power"] is not None
    if not as_float and (negative or found["after"] or found["sign"] != "-"):
        return None
    negative = negative or found["sign"] == "-" or bool(found["after"])
    return _worth(found, negative, as_float)


def _worth(found: re.Match[str], negative: bool, as_float: bool) -> _Number:
    whole = re.sub(r"[^0-9]", "", found["whole"] or "")
    part, power = found["part"] or "", int(found["power"] or 0)
    digits = whole + part
    if not digits.strip("0"):
        return _Number("whole", whole if power == 0 and whole else "0", False, True)
    if power > len(part):
        return _Number("lost")
    point = len(whole) + power  # of the digits, those before it are whole
    whole, part = (digits[:point], digits[point:]) if point > 0 else ("0", "1")
    if part.strip("0"):
        return _Number("fraction")
    worth = whole.lstrip("0") or "0"  # Python reads no number of more than 4,300 digits
    if as_float and (len(worth) > len(str(EXACT)) or int(worth) >= EXACT):
        return _Number("lost")
    return _Number("whole", whole if power == 0 else worth, negative, as_float)


def _has_words(values: Sequence[str], decimal: Mark) -> bool:
    """Whether a column has values with letters that are no numbers: then it is one of codes."""
    for value in values:
        if not any(map(str.isalpha, value)) or _DOUBTFUL.fullmatch(plain := bare(value)):
            continue
        found = _number(value, decimal, phone=False)
        if found is None and plain:
            return True
    return False
