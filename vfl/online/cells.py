"""Cells of JSON as a table's reading rules have them: numbers, dates, categories, ids.

A column's reader makes of its cells what a file with such cells would give: numbers as numbers, text in
a column of numbers by the signs that [data] names, dates by the column's rule, categories as the levels
of training. What a text comes to is remembered, as the same few come again and again. No word quotes a
cell.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vfl.arrays import Floats
from vfl.learn.levels import Levels
from vfl.party.id_cells import float_texts
from vfl.party.id_columns import IdColumn
from vfl.party.ids import by_column, column_of
from vfl.party.reading import DateColumn, Reading
from vfl.party.sections import DataSection
from vfl.party.sources.dates import become, days_of
from vfl.party.sources.numerals import grammar
from vfl.party.sources.source import MISSING
from vfl.text import counted

Cell = object
"""What JSON has for a cell: a number, text, a truth value, None."""

NO_NUMBER = "must be a number or null"
NO_ROW = "must be an object, a column a key"
LONGEST = 1_000
"""Characters of a cell."""

_TOO_LONG = f"is text of over {LONGEST:,} characters"
_NO_TEXT = "is no text: it has a NUL, or half a pair of surrogates"
_TRUTH = f"is a truth value: {NO_NUMBER}; a column of truth values takes 1 and 0"
_REMEMBERED = 10_000  # texts of a column
_EXACT = 2.0**53
_GROUPED = {".": ".", ",": ",", "'": "'\u2019", " ": " \u00a0\u202f\u2009\u2007"}
"""What stands between groups of three digits, by the sign that [data] names."""
_NOT_THERE = object()

T = TypeVar("T")


@dataclass(frozen=True)
class Problem:
    """What is wrong with a cell, without the cell."""

    row: int
    column: str
    text: str


@dataclass
class Problems:
    """What is wrong with rows, as far as it is told."""

    most: int = 1_000
    found: list[Problem] = field(default_factory=list)
    count: int = 0
    _cells: set[tuple[int, str]] = field(default_factory=set)
    _settled: set[int] = field(default_factory=set)

    def add(self, row: int, column: str, text: str) -> None:
        """Say what is wrong with a cell; only the first that is said of it counts."""
        if row in self._settled or (row, column) in self._cells:
            return
        self.count += 1
        self._cells.add((row, column))
        if len(self.found) < self.most:
            self.found.append(Problem(row, column, text))

    def has(self, row: int, column: str) -> bool:
        """Whether something is wrong with a cell."""
        return (row, column) in self._cells

    def settle(self, row: int, text: str) -> None:
        """Say of a row as a whole what is wrong; of its cells nothing is said then."""
        self.add(row, "", text)
        self._settled.add(row)

    @property
    def settled(self) -> int:
        """Rows that are wrong as a whole."""
        return len(self._settled)

    @property
    def by_row(self) -> list[Problem]:
        """What is told, row by row."""
        return sorted(self.found, key=lambda problem: problem.row)


class _Memory(dict[str, T]):
    """What texts of a column come to; begun anew where they are too many to be the same few."""

    def __init__(self, make: Callable[[str], T]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, text: str) -> T:
        made = self._make(text)
        if len(self) >= _REMEMBERED:
            self.clear()
        self[text] = made
        return made


class NumberCells:
    """Reads a column of numbers, or of dates that become numbers."""

    def __init__(self, name: str, reading: Reading) -> None:
        self.name, self._reading = name, reading
        self._rule = reading.dates.get(name)
        self._missing = frozenset((*MISSING, *reading.missing))
        self._grammar = re.compile(grammar(reading.decimal, reading.thousands))
        self._signs = str.maketrans(reading.decimal, ".", _GROUPED.get(reading.thousands or "", ""))
        self._of_text: _Memory[float | str] = _Memory(self._date if self._rule else self._number)

    @property
    def is_date(self) -> bool:
        """Whether its cells are dates."""
        return self._rule is not None

    def read(self, cells: Sequence[Cell], problems: Problems) -> Floats:
        """The numbers, NaN where missing; one of a cell that is none is a problem."""
        if self._rule is None:
            try:
                values = _plain(cells)
            except (TypeError, OverflowError):
                pass
            else:
                if not np.isinf(values).any():
                    return values
        made = np.full(len(cells), np.nan)
        for row, cell in enumerate(cells):
            found = self._one(cell)
            if isinstance(found, str):
                problems.add(row, self.name, found)
            else:
                made[row] = found
        return made

    def _one(self, cell: Cell) -> float | str:
        """The number of a cell, or what is wrong with it."""
        if cell is None:
            return math.nan
        if isinstance(cell, str):
            return self._of_text[cell] if len(cell) <= LONGEST else _TOO_LONG
        if self._rule is not None:
            if isinstance(cell, int) and not isinstance(cell, bool) and abs(cell) < _EXACT:
                return self._of_text[str(cell)]  # 20241231
            return "must be a date as text, or null"
        if isinstance(cell, bool):
            return _TRUTH
        if not isinstance(cell, int | float):
            return NO_NUMBER
        try:
            value = float(cell)
        except OverflowError:
            value = math.inf
        return "is a number too large to be used" if math.isinf(value) else value

    def _number(self, text: str) -> float | str:
        """A text as `numerals.parse` reads it."""
        text = text.strip()
        if text in self._missing:
            return math.nan
        if (word := text.lower()) in ("true", "false"):
            return float(word == "true")
        if not self._grammar.match(text):
            return f"is text that is no number: {NO_NUMBER}"
        value = float(text.translate(self._signs))
        return "is a number too large to be used" if math.isinf(value) else value

    def _date(self, text: str) -> float | str:
        rule = self._rule
        if rule is None or text.strip() in self._missing:
            return math.nan
        days = days_of(pa.array([text.encode("utf-8", "replace").decode()]), rule)
        if np.isinf(days).any():
            return f"is no date of order {rule.order}"
        return _became(days, rule)


def _plain(cells: Sequence[Cell]) -> Floats:
    """Numbers and None as floats. Raises TypeError for other cells, OverflowError for too large ones."""
    kinds = set(map(type, cells))
    if not kinds <= {int, float, type(None)}:
        raise TypeError
    return np.fromiter((math.nan if cell is None else cell for cell in cells), np.float64, len(cells))


def _became(days: Floats, rule: DateColumn) -> float | str:
    value = float(become(days, rule)[0])
    return f"is a date after {rule.at}" if rule.at is not None and value < 0 else value


class CategoryCells:
    """Reads a column of categories as the levels that training had."""

    def __init__(self, name: str, reading: Reading, levels: Levels | None) -> None:
        self.name, self._levels = name, levels
        self._missing = frozenset((*MISSING, *reading.missing))
        self._of_text: _Memory[tuple[str | None, bool, str | None]] = _Memory(self._level)

    def read(
        self, cells: Sequence[Cell], problems: Problems
    ) -> tuple[NDArray[np.object_], Sequence[int]]:
        """The categories, None where missing, and the rows of levels that no row of training had."""
        made: NDArray[np.object_] = np.full(len(cells), None, object)
        unknown = []
        for row, cell in enumerate(cells):
            if cell is None:
                continue
            text = cell if isinstance(cell, str) else _text_of(cell)
            if text is None or len(text) > LONGEST:
                problems.add(row, self.name, "must be text or null" if text is None else _TOO_LONG)
                continue
            made[row], strange, wrong = self._of_text[text]
            if wrong is not None:
                problems.add(row, self.name, wrong)
            elif strange:
                unknown.append(row)
        return made, unknown

    def _level(self, text: str) -> tuple[str | None, bool, str | None]:
        """The level of a text, whether no row of training had it, and what is wrong with the text."""
        if not _is_text(text):
            return None, False, _NO_TEXT
        if text.strip() in self._missing:
            return None, False, None
        if self._levels is None:
            return text, False, None
        level, unknown = self._levels.match(np.array([text], object))
        return level[0], bool(unknown[0]), None


def _is_text(text: str) -> bool:
    """Whether a file of UTF-8 could have it in a cell."""
    return "\0" not in text and (text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text))


def _text_of(cell: Cell) -> str | None:
    """A number or a truth value as a table of types has it as a category; None for what has no text."""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, int):
        return str(cell) if abs(cell) < _EXACT else None
    if not isinstance(cell, float) or not abs(cell) < _EXACT:
        return None
    return str(int(cell)) if cell.is_integer() else str(pc.cast(pa.scalar(cell), pa.string()))


class IdCells:
    """Reads the ids of rows by all keys, as an alignment has them."""

    def __init__(self, data: DataSection) -> None:
        self._keys = [
            (key.id, by_column(key.normalise, len(key.id)), reading)
            for key, reading in zip(data.keys, data.id_readings, strict=True)
        ]
        self._drop = data.empty == "drop"
        self._as_text = frozenset(data.as_text)
        number = re.compile(grammar(data.decimal, data.thousands))
        self._none = frozenset(text.strip() for text in data.missing if not number.match(text.strip()))
        self.columns = data.id_columns

    def read(
        self, cells_of: Mapping[str, Sequence[Cell]], rows: int, problems: Problems
    ) -> list[tuple[bytes, ...]]:
        """By row its ids, one for each key, empty where it has none by a key."""
        texts = {name: self._texts(name, cells_of[name], problems) for name in self.columns}
        several = len(self._keys) > 1
        by_key = []
        for names, steps, reading in self._keys:
            columns = [
                column_of(texts[name], own, reading.decimal, i in reading.as_text)
                for i, (name, own) in enumerate(zip(names, steps, strict=True))
            ]
            values = [column.clean(0, rows) for column in columns]
            for name, column, cleaned in zip(names, columns, values, strict=True):
                column.end()
                for row in column.emptied:
                    cleaned[row] = ""
                if not several and not self._drop:
                    _say_unread(name, column, problems)
            by_key.append([_joined(row) for row in zip(*values, strict=True)])
        found = list(zip(*by_key, strict=True))
        if not self._drop:
            for row, ids in enumerate(found):
                if not any(ids) and not any(problems.has(row, name) for name in self.columns):
                    problems.add(row, self.columns[0], "no id once normalised: fill in the id")
        return found

    def _texts(self, name: str, cells: Sequence[Cell], problems: Problems) -> list[str | None]:
        made: list[str | None] = []
        for row, cell in enumerate(cells):
            text, wrong = self._text_of(name, cell)
            if wrong is None and text is not None and len(text) > LONGEST:
                wrong = _TOO_LONG
            elif wrong is None and text is not None and not _is_text(text):
                wrong = _NO_TEXT
            if wrong is not None:
                problems.add(row, name, wrong)
                text = None
            if text is not None and name not in self._as_text and text.strip() in self._none:
                text = None
            made.append(text)
        return made

    def _text_of(self, name: str, cell: Cell) -> tuple[str | None, str | None]:
        """An id as text, or what is wrong with the cell."""
        if cell is None or isinstance(cell, str):
            return cell, None
        if name in self._as_text:
            return None, "must be text: as_text of [data] has the column, in which no number is read"
        if isinstance(cell, int) and not isinstance(cell, bool):
            return str(cell), None
        if isinstance(cell, float):
            (text,), fraction, lost = float_texts(np.array([cell]))
            if not fraction[0] and not lost[0]:
                return text, None
        return None, "must be text or a whole number"


def _joined(values: Iterable[str]) -> bytes:
    """An id of one or more columns; none where any of these is empty."""
    parts = []
    for value in values:
        if not value:
            return b""
        encoded = value.encode("utf-8", "surrogatepass")
        parts.append(len(encoded).to_bytes(4, "big") + encoded)
    return b"".join(parts)


def _say_unread(name: str, column: IdColumn, problems: Problems) -> None:
    for rows, text in (
        (column.lost, "a number as id of which digits are lost: write it as text"),
        (column.fractions, "an id that is a number with decimals, or has one in it: write it as text"),
        (column.undated, "no date that can be read without doubt: write it as 2024-12-31"),
    ):
        for row in rows:
            problems.add(row, name, text)


def cells_of(rows: Sequence[Mapping[str, Cell]], name: str, problems: Problems) -> list[Cell]:
    """A column of the rows; a row without it is a problem."""
    cells = [row.get(name, _NOT_THERE) for row in rows]
    if _NOT_THERE in cells:
        for row, cell in enumerate(cells):
            if cell is _NOT_THERE:
                problems.add(row, name, "is not there: write null where the value is missing")
                cells[row] = None
    return cells


def in_words(problems: Problems) -> str:
    """All of them, as a first line says them."""
    rows, cells = problems.settled, problems.count - problems.settled
    parts = [counted(many, what) for many, what in ((rows, "row"), (cells, "cell")) if many]
    listed = len(problems.found)
    cut = "" if listed == problems.count else f": the first {listed:,} are listed"
    return f"{' and '.join(parts)} cannot be used{cut}"
