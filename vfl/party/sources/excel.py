"""Tables as Excel workbooks."""

import datetime
import itertools
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vfl.errors import DataError
from vfl.party.reading import DateColumn, Reading
from vfl.party.rows import RowNumbers
from vfl.party.sources.arrow import ArrowColumn, without
from vfl.party.sources.content import Content
from vfl.party.sources.misfits import misfits, set_it
from vfl.party.sources.numerals import parse
from vfl.party.sources.parquet import Columnar
from vfl.party.sources.source import heading
from vfl.text import nearest_name

if TYPE_CHECKING:
    from openpyxl import Workbook
    from openpyxl.worksheet._read_only import ReadOnlyWorksheet

_PIECE = 50_000  # rows that are taken together
_FIRST = 20  # rows that are looked at before all are read

# What a cell can hold.
_NOTHING, _TEXT, _WHOLE, _NUMBER, _TRUTH, _DATE, _TIME = range(7)
_KINDS = {
    type(None): _NOTHING,
    str: _TEXT,
    int: _WHOLE,
    float: _NUMBER,
    bool: _TRUTH,
    datetime.datetime: _DATE,
    datetime.date: _DATE,
    datetime.time: _TIME,
    datetime.timedelta: _TIME,
}
_EPOCH = datetime.datetime(1970, 1, 1)
_DAY = 86_400_000_000  # microseconds


@dataclass(frozen=True)
class _ColumnCells:
    """The cells of a column: what each holds, and that as a number, a whole number or text.

    The number of a date is the microseconds since 1970."""

    kinds: NDArray[np.uint8]
    numbers: NDArray[np.float64]
    wholes: NDArray[np.int64]
    texts: NDArray[np.object_]

    @classmethod
    def of(cls, values: Sequence[object]) -> "_ColumnCells":
        kinds = np.array([_KINDS.get(kind, _TEXT) for kind in map(type, values)], np.uint8)
        numbers = np.full(len(values), np.nan)
        wholes = np.zeros(len(values), np.int64)
        texts = np.full(len(values), None, object)
        for kind, convert in _CONVERT.items():
            places = np.flatnonzero(kinds == kind)
            made = [convert(values[place]) for place in places.tolist()]
            if kind in (_TEXT, _TIME):
                texts[places] = made
            else:
                numbers[places] = made
        whole = kinds == _WHOLE
        kinds[whole & (np.abs(numbers) >= 2.0**63)] = _NUMBER
        places = np.flatnonzero(kinds == _WHOLE)
        wholes[places] = [cast(int, values[place]) for place in places.tolist()]
        return cls(kinds, numbers, wholes, texts)

    @classmethod
    def joined(cls, pieces: Sequence["_ColumnCells"]) -> "_ColumnCells":
        return cls(
            np.concatenate([piece.kinds for piece in pieces]),
            np.concatenate([piece.numbers for piece in pieces]),
            np.concatenate([piece.wholes for piece in pieces]),
            np.concatenate([piece.texts for piece in pieces]),
        )

    @cached_property
    def held(self) -> set[int]:
        """All kinds of cells."""
        return set(np.unique(self.kinds).tolist()) - {_NOTHING}

    @property
    def mixed(self) -> bool:
        """Whether there is text, or more than one kind of cells that are none."""
        return not any(self.held <= one for one in ({_WHOLE, _NUMBER}, {_TRUTH}, {_DATE}))

    def as_arrow(self) -> pa.Array:
        """The column with the type that all of its cells have, else as text."""
        nothing = self.kinds == _NOTHING
        if not self.held:
            return pa.nulls(len(self.kinds))
        if self.mixed:
            return pa.array(self.as_text(), pa.large_string())
        if self.held == {_WHOLE}:
            return pa.array(self.wholes, mask=nothing)
        if self.held == {_TRUTH}:
            return pa.array(self.numbers == 1, mask=nothing)
        if self.held == {_DATE}:
            stamps = np.where(nothing, 0, self.numbers).astype(np.int64)
            if (stamps % _DAY == 0).all():
                return pa.array((stamps // _DAY).astype("datetime64[D]"), mask=nothing)
            return pa.array(stamps.astype("datetime64[us]"), mask=nothing)
        return pa.array(self.numbers, mask=nothing)

    def as_text(self) -> list[str | None]:
        """All cells as text, dates as 2024-12-31."""
        made: list[str | None] = self.texts.tolist()
        for place in np.flatnonzero(~np.isnan(self.numbers)):
            number, kind = float(self.numbers[place]), self.kinds[place]
            if kind == _DATE:
                moment = _EPOCH + datetime.timedelta(microseconds=int(number))
                made[place] = str(moment if moment.time() != datetime.time() else moment.date())
            elif kind == _TRUTH:
                made[place] = "true" if number else "false"
            else:
                made[place] = str(self.wholes[place]) if kind == _WHOLE else repr(number)
        return made


def _hours(value: datetime.time | datetime.timedelta) -> str:
    if isinstance(value, datetime.time):
        return str(value)
    seconds = int(value.total_seconds())
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def _name(value: object) -> str:
    """A heading as text, which a year or a day is, too."""
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        value = value.date()
    return "" if value is None else str(value)


def _microseconds(value: datetime.date) -> float:
    moment = datetime.datetime.combine(value, datetime.time())
    if isinstance(value, datetime.datetime):
        moment = value
    return (moment.replace(tzinfo=None) - _EPOCH) / datetime.timedelta(microseconds=1)


_CONVERT: dict[int, Callable[[Any], object]] = {
    _TEXT: str,
    _TIME: _hours,
    _DATE: _microseconds,
    _WHOLE: float,
    _NUMBER: float,
    _TRUTH: float,
}


class Excel(Columnar):
    """One sheet of a workbook: its first row that is not blank has the names."""

    def __init__(self, content: Content, reading: Reading) -> None:
        super().__init__(content.path, reading)
        with self._workbook() as book:
            self._sheet = self._chosen(book)
            first = list(itertools.islice(_rows(book[self._sheet]), _FIRST))
        if not first:
            raise self.error("the sheet is empty")
        self._header, header = first[0]
        self._check_header([row for _, row in first])
        self.names = [heading(_name(name)) for name in header]
        self.unnamed = any(not isinstance(name, str) for name in header if name is not None)
        if len(first) == 1:
            raise self.error("the sheet has a header but no rows")
        self._cells: dict[str, _ColumnCells] = {}

    def _read(self, names: list[str]) -> None:
        places = {name: self.names.index(name) for name in names}
        numbers: list[int] = []
        pieces: dict[str, list[_ColumnCells]] = {name: [] for name in names}
        width = len(self.own_names)
        marks = self._marks()
        self._check_merged(marks, set(range(width)), self._header, self._header)
        with self._workbook() as book:
            rows = itertools.islice(_rows(book[self._sheet]), 1, None)
            while piece := list(itertools.islice(rows, _PIECE)):
                for number, row in piece:
                    if len(row) > width:
                        raise self.error(f"row {number} has cells to the right of the last name")
                numbers += [number for number, _ in piece]
                for name, place in places.items():
                    values = [row[place] if place < len(row) else None for _, row in piece]
                    pieces[name].append(_ColumnCells.of(values))
        self._numbers_of_rows = np.array(numbers, np.int32)
        self.rows = len(numbers)
        self._check_merged(marks, set(places.values()), self._header, numbers[-1])
        for column in set(places.values()) & marks.without_result:
            raise self.error(
                f"column '{self.names[column]}' has formulas whose results are not in the file: open it "
                "in Excel and save it, or replace the formulas by their values"
            )
        self._cells = {name: _ColumnCells.joined(own) for name, own in pieces.items()}
        self.table = pa.table({name: cells.as_arrow() for name, cells in self._cells.items()})

    @property
    def row_numbers(self) -> RowNumbers:
        numbers = self._numbers_of_rows
        return lambda places: numbers[list(places)].tolist()

    def _numbers(self, name: str, what: str, advice: str, feature: bool) -> NDArray[np.float64]:
        cells = self._cells[name]
        if not cells.mixed:
            return super()._numbers(name, what, advice, feature)
        plain = np.isin(cells.kinds, (_WHOLE, _NUMBER, _TRUTH))
        text = [None if own else cell for own, cell in zip(plain, cells.as_text(), strict=True)]
        known = self._without_missing(text)
        values, bad = parse(known, self.reading)
        if bad.any():
            others = int(np.count_nonzero(plain))
            found = misfits(known, bad, name, self.reading, advice, feature=feature, others=others)
            raise self.no_numbers(what, found)
        return np.where(plain, cells.numbers, values)

    def _days(self, name: str, what: str, rule: DateColumn) -> NDArray[np.float64]:
        cells = self._cells[name]
        if not cells.mixed:
            return super()._days(name, what, rule)
        dates = cells.kinds == _DATE
        text = [None if own else cell for own, cell in zip(dates, cells.as_text(), strict=True)]
        days = self.dates_of(name, what, self._without_missing(text), rule)
        return np.where(dates, cells.numbers // _DAY, days)

    def _without_missing(self, text: Sequence[str | None]) -> ArrowColumn:
        return without(pa.array(text, pa.large_string()), self.missing)

    @contextmanager
    def _workbook(self) -> Iterator["Workbook"]:
        try:
            import openpyxl
        except ImportError:
            raise self.error(
                "the file is an Excel workbook, which needs openpyxl: install it by `pip install "
                "'vfl[excel]'`, or save the table as CSV UTF-8"
            ) from None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what a sheet has beside its cells
                with self.path.open("rb") as file:  # whose name may be of another kind
                    book = openpyxl.load_workbook(file, read_only=True, data_only=True)
                    try:
                        yield book
                    finally:
                        book.close()
        except DataError:
            raise
        except Exception:  # damage shows itself in many ways
            raise self.error(
                "the workbook is damaged or of a kind that openpyxl cannot read: save it anew as "
                ".xlsx or CSV UTF-8"
            ) from None

    def _chosen(self, book: "Workbook") -> str:
        """The sheet that is named, or the only one that has any cells."""
        sheets = [sheet for sheet in book.worksheets if sheet.sheet_state == "visible"]
        if self.reading.sheet is not None:
            names = [sheet.title for sheet in book.worksheets]
            if self.reading.sheet not in names:
                raise self._no_sheet(self.reading.sheet, names)
            return self.reading.sheet
        filled = {}
        for sheet in sheets:
            if (row := next(_rows(sheet), None)) is not None:
                filled[sheet.title] = len(row[1])
        if not filled:
            raise self.error("the workbook has no sheet with any cells")
        if len(filled) > 1:
            widest = max(filled, key=lambda name: filled[name])
            raise self.error(
                f"the workbook has several sheets ({', '.join(filled)}): name the one that holds "
                f"the table, as in {set_it(sheet=widest)}",
                {"sheet": widest},
            )
        return str(next(iter(filled)))

    def _no_sheet(self, named: str, names: Sequence[str]) -> DataError:
        if near := nearest_name(named, names):
            there, settings = f"did you mean '{near}'?", {"sheet": near}
        else:
            there, settings = f"the sheets are {', '.join(names[:20])}", {}
        return self.error(f"no sheet '{named}' (named by sheet): {there}", settings)

    def _check_header(self, rows: Sequence[Sequence[object]]) -> None:
        """Raises TableError where a title stands in place of the names."""
        filled = [sum(cell is not None for cell in row) for row in rows]
        if len(filled) > 2 and filled[0] <= sorted(filled[1:])[len(filled) // 2] / 2:
            raise self.error(
                f"row {self._header} has {filled[0]} cell{'s' if filled[0] > 1 else ''}, rows below it "
                f"{max(filled)}: remove titles and comments, so that the names of the columns come first"
            )

    def _check_merged(self, marks: "_SheetMarks", columns: set[int], first: int, last: int) -> None:
        """Raises TableError for merged cells in some columns and rows: all but one look empty."""
        for top, bottom, left, right in marks.merged:
            if top <= last and bottom >= first and columns & set(range(left, right + 1)):
                where = f"in row {top}" if top == bottom else f"in rows {top} to {bottom}"
                raise self.error(f"cells are merged {where}: separate them and fill in each one")

    def _marks(self) -> "_SheetMarks":
        with self._workbook() as book, zipfile.ZipFile(self.path) as archive:
            with archive.open(book[self._sheet]._worksheet_path) as sheet:
                marks = _marks(sheet)
            # Who leaves it to Excel to calculate may have written any number as a formula's result.
            if any(
                re.search(rb'fullCalcOnLoad="(1|true)"', archive.read(name))
                for name in archive.namelist()
                if name.endswith("workbook.xml")
            ):
                marks.without_result |= marks.formulas
        return marks


@dataclass
class _SheetMarks:
    """What a sheet says beside the values of its cells; columns are counted from 0."""

    merged: list[tuple[int, int, int, int]] = field(default_factory=list)  # top, bottom, left, right
    formulas: set[int] = field(default_factory=set)
    without_result: set[int] = field(default_factory=set)


_FORMULA = re.compile(rb"<(?:\w+:)?c\s([^<>]*)>\s*<(?:\w+:)?f[\s/>](.*?)</(?:\w+:)?c>", re.S)
_MERGED = re.compile(rb'<(?:\w+:)?mergeCell\s[^<>]*?ref="([A-Z]+)(\d+):([A-Z]+)(\d+)"')


def _marks(sheet: IO[bytes]) -> _SheetMarks:
    found = _SheetMarks()
    left = b""
    while True:
        piece = sheet.read(1 << 22)
        text = left + piece
        end = text.rfind(b"row>") if piece else len(text)
        text, left = text[: max(end, 0)], text[max(end, 0) :]
        if b"<f" in text or b":f" in text:
            for attributes, rest in _FORMULA.findall(text):
                at = re.search(rb'\br="([A-Z]+)\d+"', attributes)
                if at is None:
                    continue
                column = _column(at[1])
                found.formulas.add(column)
                if b't="str"' not in attributes and not re.search(rb"<(?:\w+:)?v>[^<]", rest):
                    found.without_result.add(column)
        for one, top, other, bottom in _MERGED.findall(text):
            found.merged.append((int(top), int(bottom), _column(one), _column(other)))
        if not piece:
            return found


def _column(letters: bytes) -> int:
    number = 0
    for letter in letters:
        number = 26 * number + letter - 64
    return number - 1


def _rows(sheet: "ReadOnlyWorksheet") -> Iterator[tuple[int, tuple[object, ...]]]:
    """The rows that are not blank with their numbers, without blank cells at their ends."""
    sheet.reset_dimensions()  # some writers state others than there are
    for number, row in enumerate(sheet.iter_rows(values_only=True), start=1):
        width = len(row)
        while width and (row[width - 1] is None or row[width - 1] == ""):
            width -= 1
        if width:
            yield number, tuple(row[:width])
