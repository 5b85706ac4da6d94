"""Numbers that are text: one grammar for all files, read bit for bit as Python's float() reads them."""

import contextlib
import re
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vfl.arrays import Floats, Mask
from vfl.party.reading import Reading
from vfl.party.sources.arrow import ArrowColumn, float64, mask_of

# A blank between groups of digits is often one that does not break, narrow or of a digit's width.
_GROUPS = {".": r"\.", ",": ",", "'": "['’]", " ": "[ \u00a0\u202f\u2009\u2007]"}
_FEW = 2_000
_INFINITE = r"^[+-]?inf(inity)?$"


def parse(text: ArrowColumn, reading: Reading) -> tuple[Floats, Mask]:
    """The numbers of an Arrow column of text, NaN where it is null, and which cells are no numbers.

    A number has one sign at most, digits with one decimal sign, groups of three digits where `reading`
    has a sign for them, and an exponent; true and false are 1 and 0, blanks around it do not matter.
    Infinite ones are returned as such.
    """
    if reading.thousands is None:
        with contextlib.suppress(pa.ArrowInvalid):  # if all cells are plain numbers, it is quick
            return _known(pc.cast(_pointed(text, reading.decimal), pa.float64()), text)
    text = pc.utf8_trim_whitespace(text)
    lower = pc.utf8_lower(text)
    text = pc.if_else(pc.equal(lower, "true"), "1", text)
    text = pc.if_else(pc.equal(lower, "false"), "0", text)
    good = pc.or_(
        pc.match_substring_regex(text, grammar(reading.decimal, reading.thousands)),
        pc.match_substring_regex(lower, _INFINITE),
    )
    text = pc.if_else(good, text, pa.scalar(None, text.type))
    if reading.thousands is not None:
        text = pc.replace_substring_regex(text, _GROUPS[reading.thousands], "")
    text = _pointed(text, reading.decimal)
    text = pc.replace_substring_regex(text, r"^\+", "")
    values, strange = _known(_floats(text), text)
    return values, strange | ~mask_of(good, True)


def _floats(text: ArrowColumn) -> ArrowColumn:
    """Numbers of the grammar as floats, infinite where they are too large for one."""
    try:
        return pc.cast(text, pa.float64())
    except pa.ArrowInvalid:  # some versions of Arrow refuse those
        found = [None if cell is None else float(cell) for cell in text.to_pylist()]
        return pa.array(found, pa.float64())


class GroupSigns:
    """Whether points may stand between thousands in a column, which is looked at piece by piece: all
    cells are below 1000 or end in a point and three digits, and there are both kinds."""

    def __init__(self, reading: Reading) -> None:
        self._all = reading.decimal == "." and reading.thousands is None
        self._grouped = self._small = False

    def add(self, others: "GroupSigns") -> None:
        """Take what was seen of further pieces."""
        self._all = self._all and others._all
        self._grouped = self._grouped or others._grouped
        self._small = self._small or others._small

    @property
    def may_be_groups(self) -> bool:
        """Whether they may, by all pieces."""
        return self._all and self._grouped and self._small

    def look(self, text: ArrowColumn) -> None:
        """Look at the next piece."""
        for part in (text[:_FEW], text):  # mostly the first cells tell
            if not self._all:
                return
            grouped = pc.match_substring_regex(part, r"^[+-]?[1-9][0-9]{0,2}\.[0-9]{3}$")
            small = pc.match_substring_regex(part, r"^[+-]?[0-9]{1,3}$")
            self._all = bool(pc.all(pc.or_(grouped, small), min_count=0).as_py())
        self._grouped = self._grouped or bool(pc.any(grouped).as_py())
        self._small = self._small or bool(pc.any(small).as_py())


def _pointed(text: ArrowColumn, decimal: str) -> ArrowColumn:
    """Text with a point for the decimal sign. Raises ArrowInvalid where a point is there already."""
    if decimal == ".":
        return text
    if pc.any(pc.match_substring(text, ".")).as_py():
        raise pa.ArrowInvalid
    return pc.replace_substring(text, decimal, ".", max_replacements=1)


@cache
def grammar(decimal: str, thousands: str | None) -> str:
    """A number as a regular expression, both for Arrow and for Python."""
    point = re.escape(decimal)
    whole = "[0-9]+"
    if thousands is not None:
        whole = rf"(?:[0-9]+|[1-9][0-9]{{0,2}}(?:{_GROUPS[thousands]}[0-9]{{3}})+)"
    return rf"^[+-]?(?:{whole}(?:{point}[0-9]*)?|{point}[0-9]+)(?:[eE][+-]?[0-9]+)?$"


def _known(values: ArrowColumn, text: ArrowColumn) -> tuple[Floats, Mask]:
    """Arrow's numbers as NumPy's; a NaN that is no null was text such as nan(7), which is no number."""
    numbers = float64(values)
    return numbers, np.isnan(numbers) & mask_of(pc.is_valid(text), True)
