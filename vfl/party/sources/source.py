"""What every source of rows offers: its columns' names, then the columns asked for."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vfl.arrays import Mask
from vfl.blocks.scratch import Scratch
from vfl.blocks.spool import Spooled
from vfl.errors import DataError
from vfl.party.reading import DateColumn, Reading, Settings, merge
from vfl.party.rows import RowNumbers, below_header, in_rows
from vfl.party.sources.arrow import ArrowColumn
from vfl.party.sources.content import Content
from vfl.party.sources.dates import become, days_of
from vfl.party.sources.folders import file_name
from vfl.party.sources.misfits import Misfit, about_dates
from vfl.party.sources.numerals import GroupSigns

# As pandas and R write an index without a name, and as pandas reads that again.
_ROW_LABELS = r"|Unnamed: [0-9]+(\.[0-9]+)*(_level_[0-9]+)?|__index_level_[0-9]+__"

MISSING = ("", "NA", "N/A", "NaN", "nan", "NULL", "Null", "null")


class TableError(DataError):
    """A fault of a table. `settings` are keys of [data] that would mend it, as far as the file tells."""

    def __init__(self, text: str, settings: Mapping[str, object] | None = None) -> None:
        super().__init__(printable(text))
        self.settings = dict(settings or {})


def row_labels(names: Iterable[str]) -> frozenset[str]:
    """The names of columns by which a data frame's index without a name is written."""
    return frozenset(name for name in names if re.fullmatch(_ROW_LABELS, name))


def labels_in_words(name: str) -> str:
    """What is said of such a column."""
    what = f"column '{name}' holds" if name else "the first column, without a name, holds"
    return f"{what} the labels of a data frame's rows (its index): left out"


@dataclass(frozen=True)
class _WithFolders:
    """A table with the columns of its folders' names, which are made when they are asked for."""

    table: pa.Table
    folders: Mapping[str, str | None]
    rows: int

    @property
    def schema(self) -> pa.Schema:
        return self.table.schema

    def __getitem__(self, name: str) -> pa.ChunkedArray:
        if name not in self.folders:
            return self.table[name]
        return pa.chunked_array([pa.repeat(pa.scalar(self.folders[name], pa.string()), self.rows)])


def _inner(table: object) -> object:
    return table.table if isinstance(table, _WithFolders) else table


class Source:
    """An open file: the names of its columns at first, then the columns asked for."""

    names: list[str]
    rows: int
    shown = 1
    """How many of the rows with a fault an error names."""
    scratch = Scratch()
    """Where rows go that are too many for memory."""
    unnamed = False
    """Whether the first row seems to hold cells, which no error may show."""
    doubt: tuple[str, Settings] = ("", {})
    """What may be wrong with the file where a column is not found, and the keys that would mend it."""
    order = b""
    """A digest of the ids by which rows were put in order, where the source promises none."""
    folders: Mapping[str, str | None] = {}
    """Columns that the names of the folders above the file give (`year=2026`), with their cell."""
    lacking: Mapping[str, "TableError"] = {}
    """Columns that some file of several does not have, and what is said of them."""
    content: Content | None = None
    beside = 0
    """Rows of all files, of one of several that are one table; 0 where that is not known."""

    def __init__(self, path: Path, reading: Reading) -> None:
        self.path = path
        self.reading = reading
        self.table: pa.Table = None
        self.notes: list[str] = []
        """What looks odd about the columns read but is no error, with what to do."""
        self.left_out = 0
        """Rows of a batch of which a query made none, where it made fewer than there are."""
        self.missing = pa.array([*MISSING, *reading.missing])
        self.signs: dict[str, GroupSigns] = {}
        """Of columns of text that were read as numbers, whether their points may stand between
        thousands."""

    @property
    def row_labels(self) -> frozenset[str]:
        """The columns that hold the labels of a data frame's rows (its index), by their names."""
        return row_labels(self.names)

    def read(self, names: list[str], part: slice | None = None) -> None:
        """Read columns: of all rows, or of some that lie together, as `_read_part` has them. Raises
        DataError."""
        for name in names:
            if name in self.lacking:
                raise self.lacking[name]
        own = [name for name in names if name not in self.folders]
        try:
            if part is None:
                self._read(own)
            else:
                self._read_part(own, part)
        except TableError:
            self.check_unchanged()  # if it has, that is why
            raise
        if len(own) < len(names):
            self.table = _WithFolders(self.table, self.folders, self.rows)
        self.check_unchanged()

    def _read(self, names: list[str]) -> None:
        """Read columns that the file itself has."""
        raise NotImplementedError

    def _read_part(self, names: list[str], part: slice) -> None:
        """The same of some rows: those of row groups, or of lines that begin at bytes from the first one
        to before the last."""
        raise NotImplementedError

    @property
    def called(self) -> str:
        """What messages call it."""
        return file_name(self.path)

    @property
    def own_names(self) -> list[str]:
        """The columns that the file itself has."""
        return [name for name in self.names if name not in self.folders]

    def take_folders(self, folders: Mapping[str, str | None]) -> None:
        """Have the columns of these folders' names, unless the file has such a column itself."""
        self.folders = {name: cell for name, cell in folders.items() if name not in self.names}
        self.names = [*self.names, *self.folders]

    def check_unchanged(self) -> None:
        """Raise TableError where the file is another one than at its opening."""
        if self.content is not None and not self.content.is_unchanged:
            raise self.error("the file has changed while it was read: start again")

    @property
    def lies_in_file(self) -> bool:
        """Whether what was read lies in a file of the job, whose pages can be released."""
        return isinstance(_inner(self.table), Spooled)

    def release(self) -> None:
        """Let what was read leave this process's memory, where it lies in a file."""
        table = _inner(self.table)
        if isinstance(table, Spooled):
            table.release()

    def ids(self, name: str) -> Sequence[str | None]:
        """A column of ids as text, exactly as written."""
        raise NotImplementedError

    def text(self, name: str, what: str = "") -> ArrowColumn:
        """A categorical column as an Arrow array of text, null where missing. `what` words the errors of
        another one."""
        raise NotImplementedError

    def numbers(
        self, name: str, what: str, advice: str, *, feature: bool = False
    ) -> NDArray[np.float64]:
        """A numeric column, NaN where missing. `what` and `advice` word the errors; a feature may be
        advised to become one of names or dates."""
        rule = self.reading.dates.get(name)
        if rule is not None:
            return self._of_dates(name, what, rule)
        return self._numbers(name, what, advice, feature)

    def days(self, name: str, what: str, rule: DateColumn) -> NDArray[np.float64]:
        """A column of dates as days since 1970-01-01, NaN where missing."""
        return self._days(name, what, rule)

    @property
    def row_numbers(self) -> RowNumbers:
        """What numbers the rows that were read; it holds none of their columns, and can be kept."""
        return below_header

    @property
    def for_arrow(self) -> Path | BinaryIO:
        """The path, or the open file where Arrow cannot take it: its paths are UTF-8."""
        try:
            str(self.path).encode()
        except UnicodeEncodeError:
            return self.path.open("rb")
        return self.path

    def error(self, text: str, settings: Mapping[str, object] | None = None) -> TableError:
        return TableError(f"{self.called}: {text}", settings)

    def no_names(self) -> TableError:
        """The error for a file whose first row holds cells, which are not shown."""
        return self.error(
            "the first row seems to hold cells, so write the names of the columns above it"
        )

    def in_rows(self, bad: Mask) -> str:
        """'in row 17 (and 3 more rows)'."""
        return in_rows(np.flatnonzero(bad).tolist(), self.row_numbers, self.shown)

    def _numbers(self, name: str, what: str, advice: str, feature: bool) -> NDArray[np.float64]:
        raise NotImplementedError

    def _days(self, name: str, what: str, rule: DateColumn) -> NDArray[np.float64]:
        """A column of dates as days since 1970-01-01, NaN where missing."""
        raise NotImplementedError

    def no_numbers(self, what: str, found: Sequence[Misfit]) -> TableError:
        """The error for a column with cells that are no numbers."""
        parts = []
        for misfit in found:
            hint = f" ({misfit.hint})" if misfit.hint else ""
            parts.append(f"text that is no number {self.in_rows(misfit.rows)}{hint}: {misfit.advice}")
        settings = merge(misfit.settings for misfit in found)
        return self.error(f"{what} has {'; and '.join(parts)}", settings)

    def dates_of(self, name: str, what: str, text: ArrowColumn, rule: DateColumn) -> NDArray[np.float64]:
        """Text, null where missing, as days since 1970-01-01."""
        days = days_of(text, rule)
        bad = np.isinf(days)
        if bad.any():
            advice, settings = about_dates(text, bad, name, self.reading)
            raise self.error(
                f"{what} has text that is no date of order {rule.order} {self.in_rows(bad)}: {advice}",
                settings,
            )
        return days

    def _of_dates(self, name: str, what: str, rule: DateColumn) -> NDArray[np.float64]:
        days = self._days(name, what, rule)
        values = become(days, rule)
        if rule.at is not None and (values < 0).any():
            raise self.error(
                f"{what} has a date after {rule.at} {self.in_rows(values < 0)}: correct it, or set a "
                'later day or as = "days"'
            )
        return values


def printable(text: str) -> str:
    """Text on one line that a terminal can take, whatever a file's headings hold."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def heading(name: str) -> str:
    """A column's name on one line: line breaks and hard blanks within it count as a blank."""
    name = name.strip().strip("\ufeff")
    return " ".join(name.split()) if re.search(r"[^\S ]", name) else name
