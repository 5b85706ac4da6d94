"""CSV files that people open: one writer for all tables, one rule for text.

A spreadsheet computes a cell that begins with =, +, - or @, whoever wrote it: also after blanks, in
full width, or behind the separator of its own country (a semicolon or a tab inside a cell). Names and
levels come from tables and from peers. So an apostrophe is put where a cell, or what some program takes
for one, would begin with such a sign. Numbers stay as they are.
(OWASP, CSV Injection: https://owasp.org/www-community/attacks/CSV_Injection)

The rule loses nothing: `unescaped` takes off exactly what `escaped` has put there.
"""

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, BinaryIO, cast

import numpy as np

from vfl.text import escape

if TYPE_CHECKING:
    import pyarrow as pa

# Character classes, for Python's expressions and Arrow's alike.
_SIGNS = "=+\\-@\uff1d\uff0b\uff0d\uff20\u2212\ufe62\ufe63\ufe66\ufe6b"  # with their other widths
_BREAKS = "\t\n\x0b\x0c\r\x1c\x1d\x1e\x85\u2028\u2029"  # where a line or a cell may begin anew
_BLANKS = (
    '" \x00\x1f\xa0\u1680\u2000-\u200f\u202f\u205f\u2060\u3000\ufeff'  # that are taken off, or unseen
)

_CELL = rf"(?:\A|(?<=[;|,{_BREAKS}]))"  # where some program may see a cell begin
_FORMULA = rf"(?='*[{_BLANKS}]*[{_SIGNS}])"
_PUT = re.compile(rf"{_CELL}{_FORMULA}|\A(?='*[{_BREAKS}])")
_TAKE = re.compile(rf"{_CELL}'{_FORMULA}|\A'(?='*[{_BREAKS}])")
_SUSPECT = rf"(\A|[;|,{_BREAKS}])['{_BLANKS}]*[{_SIGNS}{_BREAKS}]"

_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_CALLED = re.compile(r"[-+][0-9][0-9 ./()-]*")  # a number with a sign, a telephone number

_TURNS = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def write_rows(file: BinaryIO, rows: Iterable[Sequence[object]]) -> int:
    """Write rows as CSV in UTF-8, one a line; how many.

    What no file should do to a terminal or a line of text is escaped in text: control characters and
    marks of direction, as \\x1b.
    """
    text = io.TextIOWrapper(cast(io.BufferedWriter, file), encoding="utf-8", newline="")
    writer = csv.writer(text, lineterminator="\n")
    count = 0
    for row in rows:
        writer.writerow([named(value) if isinstance(value, str) else value for value in row])
        count += 1
    text.flush()
    text.detach()
    return count


def named(text: str) -> str:
    """A name, a level or a sentence as the cell of a table."""
    if _NUMBER.fullmatch(text):
        return text
    return escaped("".join(map(_visible, text)))


def _visible(character: str) -> str:
    control = unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
    return escape(character) if control or character in _TURNS else character


def escaped(text: str) -> str:
    """The text with an apostrophe wherever a spreadsheet would see a formula begin."""
    return _PUT.sub("'", text)


def unescaped(text: str) -> str:
    """What `escaped` was given."""
    return _TAKE.sub("", text)


def escaped_column(texts: "pa.Array") -> tuple["pa.Array", int]:
    """The texts of a file of scores, ids above all, and how many of them got an apostrophe.

    Numbers and telephone numbers keep their sign in front: all that a spreadsheet can compute from them
    is another number, and a program finds them as they were.
    """
    import pyarrow as pa  # which commands that write no scores do without
    import pyarrow.compute as pc

    suspect = pc.fill_null(pc.match_substring_regex(texts, _SUSPECT), False)
    places = np.flatnonzero(suspect.to_numpy(zero_copy_only=False)).tolist()
    if not places:
        return texts, 0
    found = texts.to_pylist()
    before = [found[place] for place in places]
    for place in places:
        if not _CALLED.fullmatch(found[place]):
            found[place] = escaped(found[place])
    changed = sum(found[place] != text for place, text in zip(places, before, strict=True))
    return pa.array(found, texts.type), changed
