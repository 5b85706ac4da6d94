"""The levels of a categorical column, known again when the same table is written by another program.

A flag is true in Parquet, True in pandas' CSV, TRUE in a spreadsheet's and 1 in a database's; a zone
is 1, 1.0 once the column has a gap, or 01; text comes with blanks at its end, or with é as one
character or two. A level that a model does not know is scored as one without any effect, so it has to
be known again.

In training two cells are one level if they are the same text, but for blanks (at the ends none, inside
one) and for how Unicode composes its characters (NFC). Nothing else is joined there: a and A, 1 and 01
may be two codes. Later a cell is the level of training that is the same text; if there is none, the
one that is the same value (a truth value, a number, a day); if there is none, the one that differs in
case alone. A level is found in these ways only if it is the one that can be meant. All other cells are
of levels that the model does not know. Where levels are agreed beforehand, cells are found among them in
training, too, as they will be later.

How many such cells are to be expected follows from training: of a new row, the chance that its level
was in no row of training is about the share of rows whose level is in one row alone (Good, Biometrika
40, 1953).
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from vfl.blocks.columns import MadeColumns, categorical_columns, change_categories, change_named
from vfl.learn.binning import Features

Objects = NDArray[np.generic]  # of text, None where it is missing

_Z = 3.1  # of the normal distribution: chance is above it once in a thousand
_NOTHING = frozenset({"None", "<NA>", "NaT", "#N/A"})  # besides what no table has for a value
_TRUE = frozenset({"true", "t", "wahr", "vrai", "verdadero", "vero", "verdadeiro", "waar"})
_FALSE = frozenset({"false", "f", "falsch", "faux", "falso", "onwaar"})
_INVISIBLE = "\ufeff\u200b\u200c\u200d\u200e\u200f\u2060\u00ad"
_NUMBER = re.compile(r"[+-]?([0-9]+([.,][0-9]*)?|[.,][0-9]+)([eE][+-]?[0-9]{1,3})?")
_MIDNIGHT = r"([T ]00:00(:00([.,]0*)?)?(Z|[+-]00:?00)?)?"
_DAY = re.compile(rf"([0-9]{{4}})([-/.])([0-9]{{1,2}})\2([0-9]{{1,2}}){_MIDNIGHT}")
_DAY_FIRST = re.compile(rf"([0-9]{{1,2}})\.([0-9]{{1,2}})\.([0-9]{{4}}){_MIDNIGHT}")


@dataclass(frozen=True)
class Levels:
    """The levels that a column had in the rows of training, without missing values.

    once: how many of them one row has. rows: that have any.
    """

    names: tuple[str, ...]
    once: int
    rows: int

    @classmethod
    def of(cls, values: Objects) -> "Levels":
        """The levels of a column that `tidy_levels` has made."""
        rows = Counter(values.tolist())
        rows.pop(None, None)
        return cls(tuple(sorted(rows)), sum(n == 1 for n in rows.values()), sum(rows.values()))

    def match(self, values: Objects) -> tuple[Objects, NDArray[np.bool_]]:
        """The values as training had them, and which of them are of a level that it did not have."""
        cells = values.tolist()
        meant: dict[object, object] = {None: None}
        unknown = set()
        for value in set(cells) - {None}:
            level = self._level(value)
            meant[value] = value if level is None else level or None
            if level is None:
                unknown.add(value)
        strange = np.fromiter((cell in unknown for cell in cells), np.bool_, len(cells))
        return np.array([meant[cell] for cell in cells], dtype=object), strange

    def are_more(self, unknown: int, rows: int) -> bool:
        """Whether so many of `rows` are of unknown levels: more than chance makes of as many rows."""
        expected = rows * (self.once + 1) / (self.rows + 1)
        return unknown > expected + _Z * math.sqrt(expected) + _Z

    def _level(self, value: str) -> str | None:
        """The level that a value is, "" for one that says that there is none, None if it is unknown."""
        text = tidy(value)
        for spelling in (value, text):
            if spelling in self._places:
                return spelling
        if not text or text in _NOTHING:
            return ""
        key = _value(text, self._of_truth)
        if key is not None and key in self._by_value:
            return self._by_value[key]
        return self._by_case.get(text.casefold())

    @cached_property
    def _places(self) -> frozenset[str]:
        return frozenset(self.names)

    @cached_property
    def _of_truth(self) -> bool:
        """Whether all levels are truth values: else T is a letter, and 1 a number like 2."""
        truths = {_value(name, of_truth=True) for name in self.names}
        return bool(truths) and truths <= {Decimal(0), Decimal(1)}

    @cached_property
    def _by_value(self) -> dict[object, str | None]:
        return _by(self.names, lambda name: _value(name, self._of_truth))

    @cached_property
    def _by_case(self) -> dict[object, str | None]:
        return _by(self.names, str.casefold)


def tidy(text: str) -> str:
    """A text in NFC, without blanks and invisible signs at its ends, with single blanks inside."""
    while not text.isascii():
        once = unicodedata.normalize("NFC", " ".join(text.strip(_INVISIBLE).split()))
        if once == text:
            return text
        text = once
    return " ".join(text.split())


def tidy_levels(features: Features) -> Features:
    """Columns with their categories written as training compares them."""

    def written_so(values: Objects) -> Objects:
        return _each(values, lambda text: tidy(text) or None)

    return change_categories(features, written_so)


def levels_of(features: Features) -> dict[str, Levels]:
    """The levels of each categorical column of what `tidy_levels` has made."""
    return {name: Levels.of(features[name]) for name in categorical_columns(features)}


def match_levels(
    features: Features, levels: Mapping[str, Levels]
) -> tuple[Features, dict[str, NDArray[np.bool_]]]:
    """Columns with the categories that training had, and by column the rows of levels that it had not.

    Columns of which there are no levels, as of models of earlier versions, stay as they are.
    """
    unknown: dict[str, NDArray[np.bool_]] = {}

    def match(name: str, values: Objects) -> Objects:
        if name not in levels or values.dtype != object:
            return values
        matched, rows = levels[name].match(values)
        if rows.any():
            unknown[name] = rows
        return matched

    spelled = change_named(features, match)
    if isinstance(spelled, MadeColumns):
        for name in categorical_columns(spelled):
            _ = spelled[name]  # so that its unknown levels are known
    return spelled, unknown


def spell_as_agreed(
    features: Features, agreed: Mapping[str, Sequence[str]]
) -> tuple[Features, dict[str, int]]:
    """Columns of what `tidy_levels` has made with the levels that were agreed before training, each
    found as a batch to score would find it, and by column how many rows spell one in another way."""
    of = {name: Levels(tuple(names), 0, 0) for name, names in agreed.items()}
    spelled, _ = match_levels(features, of)
    counts = {}
    for name in agreed:
        pairs = zip(features[name].tolist(), spelled[name].tolist(), strict=True)
        counts[name] = sum(now is not None and now != before for before, now in pairs)
    return spelled, {name: count for name, count in counts.items() if count}


def count_respellings(values: Objects) -> int:
    """How many levels differ from others of the column in their spelling alone, as 1 and 1.0 do."""
    distinct = np.array([*dict.fromkeys(values.tolist())], dtype=object)
    levels = Levels.of(tidy_levels({"": distinct})[""])
    alike = {name for name in levels.names if levels._by_case[name.casefold()] is None}
    for name in levels.names:
        key = _value(name, levels._of_truth)
        if key is not None and levels._by_value[key] is None:
            alike.add(name)
    return len(alike)


def _value(text: str, of_truth: bool) -> Decimal | tuple[int, int, int] | None:
    """What a text says: a number, a day, in a column of truth values 1 or 0; None if it is a word."""
    if of_truth and (word := text.casefold()) in _TRUE | _FALSE:
        return Decimal(word in _TRUE)
    if _NUMBER.fullmatch(text):
        return Decimal(text.replace(",", "."))
    if day := _DAY.fullmatch(text):
        return int(day[1]), int(day[3]), int(day[4])
    if day := _DAY_FIRST.fullmatch(text):
        return int(day[3]), int(day[2]), int(day[1])
    return None


def _by(names: Iterable[str], form: Callable[[str], object]) -> dict[object, str | None]:
    """The name of each form, None where several have it."""
    name_of: dict[object, str | None] = {}
    for name in names:
        if (key := form(name)) is not None:
            name_of[key] = None if key in name_of else name
    return name_of


def _each(values: Objects, form: Callable[[str], str | None]) -> Objects:
    """What a function makes of each text."""
    cells = values.tolist()
    made = {cell: None if cell is None else form(cell) for cell in set(cells)}
    return np.array([made[cell] for cell in cells], dtype=object)
