"""Tables as CSV."""

import codecs
import csv
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray

from vfl.blocks.scratch import release_pages
from vfl.blocks.spool import Spooled
from vfl.blocks.texts import PIECE, Cells
from vfl.errors import DataError
from vfl.party.reading import DateColumn, Reading
from vfl.party.rows import RowNumbers
from vfl.party.sources.arrow import ArrowColumn, without
from vfl.party.sources.content import HEAD, Content
from vfl.party.sources.dialect import (
    Dialect,
    bare_zero,
    dialect_of,
    foreign_signs,
    named,
    nul_bytes,
    undecodable,
)
from vfl.party.sources.folders import file_name
from vfl.party.sources.misfits import misfits, set_it
from vfl.party.sources.numerals import GroupSigns, parse
from vfl.party.sources.source import Source, TableError, heading

csv.field_size_limit(2**31 - 1)  # of a cell, which Arrow reads whatever its length


def numbers_of_text(
    source: Source, text: pa.ChunkedArray, name: str, what: str, advice: str, feature: bool
) -> NDArray[np.float64]:
    """The numbers of a column of text, NaN where missing; words and errors as of `Source.numbers`."""
    values = source.scratch.of_rows(len(text), np.float64, "a column of the table")
    bad = np.zeros(len(text), np.bool_)
    signs = source.signs[name] = GroupSigns(source.reading)
    for start in range(0, len(text), PIECE):
        piece = without(text.slice(start, PIECE), source.missing)
        here = slice(start, start + len(piece))
        values[here], bad[here] = parse(piece, source.reading)
        signs.look(piece)
        release_pages(values)
        source.release()
    if bad.any():
        whole = without(text, source.missing)
        found = misfits(whole, bad, name, source.reading, advice, feature=feature)
        raise source.no_numbers(what, found)
    if signs.may_be_groups:
        source.notes.append(
            f"{source.called}: {what} has a point before three digits or none: if 1.234 is 1234, "
            f"{set_it(decimal=',', thousands='.')}"
        )
    return values


class TextColumns(Source):
    """Columns that are all text, in which numbers and dates are read as the party file says."""

    def ids(self, name: str) -> Sequence[str | None]:
        return Cells(self.table[name], self.release if self.lies_in_file else None)

    def text(self, name: str, what: str = "") -> ArrowColumn:
        return without(self.table[name], self.missing)

    def _numbers(self, name: str, what: str, advice: str, feature: bool) -> NDArray[np.float64]:
        return numbers_of_text(self, self.table[name], name, what, advice, feature)

    def _days(self, name: str, what: str, rule: DateColumn) -> NDArray[np.float64]:
        return self.dates_of(name, what, self.text(name), rule)


class Csv(TextColumns):
    """A text file; with `part` one of several, which may have a header alone."""

    def __init__(self, content: Content, reading: Reading, *, part: bool = False) -> None:
        super().__init__(content.path, reading)
        self.content: Content = content
        try:
            self._dialect = dialect_of(content, reading)
            self._records = _Records(content, self._dialect)
            records = self._records.read()
            header, self._blank_lines = next(records)
            self._has_rows = next(records, None) is not None
            if not self._has_rows and not part:
                raise self.error("the file has a header but no rows")
        except UnicodeDecodeError:
            raise undecodable(content, self._dialect.encoding) from None
        except csv.Error:
            raise self.error("the first rows are no CSV") from None
        except StopIteration:
            raise self.error("the file is empty") from None
        names = [heading(name) for name in header]
        while len(names) > 1 and not names[-1]:  # lines that end in a separator
            names.pop()
        self.names, self._unnamed = names, len(header) - len(names)
        if self._unnamed > 1 and self._unnamed >= len(names):
            self.names, self._unnamed = [heading(name) for name in header], 0
        self.doubt = self._dialect.doubt, self._dialect.settings
        self.unnamed = self._dialect.unnamed

    def _read(self, names: list[str]) -> None:
        # Everything is read as text, so that what is no number is found and named here.
        encoding = self._dialect.encoding
        if not self._has_rows:
            self.table, self.rows = pa.table({name: pa.array([], pa.string()) for name in names}), 0
            return
        try:
            with self.content.open() as file:
                text = _Utf8(file, encoding)
                self.table = self._read_all(text, **self._options(names, header=True))
        except UnicodeDecodeError:
            raise undecodable(self.content, encoding) from None
        except pa.ArrowInvalid:
            raise self._broken() from None
        self.rows = self.table.num_rows
        if text.zeros:
            raise nul_bytes(self.content)
        if text.is_utf8:
            raise self.error(
                "the file is UTF-8, but encoding in [data] says otherwise: take it out",
                {"encoding": "utf-8"},
            )
        if text.controls:
            raise foreign_signs(self.content, encoding)
        if text.lost:
            self.notes.append(
                f"{self.called}: letters were lost or changed by an earlier conversion: export it anew"
            )
        self._check_blank_columns()
        # A quote without a partner, or with text behind it, could have swallowed rows unseen.
        more_lines = text.lines > self._blank_lines + self._dialect.directive + 1 + self.rows
        if text.quotes % 2 or (text.quotes and more_lines and self._has_breaks_in_quotes()):
            self._check_quotes()

    def _read_part(self, names: list[str], part: slice) -> None:
        """As of `Source`. Raises PartOfMore where these lines alone do not tell all that there is to say
        of them: where cells are in quotes, something is wrong or looks odd."""
        header, encoding = not part.start, self._dialect.encoding
        try:
            with self.content.open() as file:
                start, stop = (_line_from(file, place) for place in (part.start, part.stop))
                text = _Utf8(_Stretch(file, start, stop), encoding)
                if start == stop:
                    none = [*names, *self._blank_names]
                    self.table = pa.table({name: pa.array([], pa.string()) for name in none})
                else:
                    self.table = pa.csv.read_csv(text, **self._options(names, header=header))
        except (UnicodeDecodeError, pa.ArrowInvalid):
            raise PartOfMore(quotes=False) from None
        self.rows = self.table.num_rows
        odd = text.zeros or text.controls or text.lost or text.is_utf8
        # What some programs leave at the end of a file is known as such by the line before it.
        if odd or text.quotes or (start < stop and not text.lines):
            raise PartOfMore(quotes=text.quotes > 0 and not odd)
        self._check_blank_columns()

    @property
    def _blank_names(self) -> list[str]:
        """What columns without a name, behind all others, are called while the file is read."""
        return [f"\0{number}" for number in range(self._unnamed)]

    def _options(self, names: Sequence[str], *, header: bool) -> dict[str, object]:
        """How Arrow reads columns of lines, of which the header is one or not."""
        all_names = [*self.own_names, *self._blank_names]
        return {
            "read_options": pa.csv.ReadOptions(
                column_names=all_names,
                skip_rows=self._blank_lines + self._dialect.directive if header else 0,
                skip_rows_after_names=int(header),
                block_size=4 << 20,
            ),
            "parse_options": pa.csv.ParseOptions(
                delimiter=self._dialect.separator, newlines_in_values=True
            ),
            "convert_options": pa.csv.ConvertOptions(
                column_types=dict.fromkeys(all_names, pa.string()),
                include_columns=[*names, *self._blank_names],
                strings_can_be_null=False,
            ),
        }

    def _check_blank_columns(self) -> None:
        """Raises TableError for a cell in a column without a name."""
        for name in self._blank_names:
            if not pc.all(pc.equal(pc.utf8_trim_whitespace(self.table[name]), "")).as_py():
                number = len(self.own_names) + 1
                raise self.error(f"column {number} has no name in the header: name it or remove it")

    def _read_all(self, text: "_Utf8", **options: object) -> pa.Table | Spooled:
        """All rows, in a file of the job where they are many."""
        folder, size = self.scratch.folder, self.content.size
        if folder is None or not self.scratch.takes(size):
            return pa.csv.read_csv(text, **options)
        return Spooled(folder, pa.csv.open_csv(text, **options))

    @property
    def can_be_cut(self) -> bool:
        """Whether lines can be told from any byte of the file on, as far as its beginning shows."""
        plain = self.content.packing is None and _CUT.fullmatch(self._dialect.encoding) is not None
        return plain and b'"' not in self.content.head

    @property
    def row_numbers(self) -> RowNumbers:
        return self._records.numbers

    def _has_breaks_in_quotes(self) -> bool:
        """Whether there are more lines than rows, blank ones not counted."""
        with (
            self.content.open() as file,
            io.TextIOWrapper(file, encoding=self._dialect.decoder, newline="") as text,
        ):
            lines = sum(bool(line.strip()) for line in text)
        return lines > self.rows + 1 + self._dialect.directive

    def _check_quotes(self) -> None:
        """Raises TableError where a quote has no partner or has text behind it; notes rows in quotes."""
        sign, joined = self._dialect.separator, 0
        try:
            for record, number in self._records.read(strict=True):
                if not joined and any("\n" in cell and sign in cell for cell in record):
                    joined = number + 1
        except csv.Error:
            raise self._broken() from None
        if joined:
            self.notes.append(
                f"{self.called}: row {joined} has a cell with line breaks and separators in quotes: "
                "if one of these quotes is none, rows are joined"
            )

    def _broken(self) -> DataError:
        """Why Arrow could not read the file; its own words would quote a row."""
        due = len(self.own_names) + self._unnamed
        wrong: list[tuple[int, int]] = []  # the rows with another number of cells, and that number
        number = -1
        try:
            for record, number in self._records.read(strict=True):
                if len(record) != due:
                    wrong.append((number + 1, len(record)))
        except UnicodeDecodeError:
            return undecodable(self.content, self._dialect.encoding)
        except csv.Error:
            if not wrong:
                return self.error(f"a quote is not closed, or not doubled, in or after row {number + 2}")
        if not wrong:
            return self.error("the file is no CSV that can be read")
        first = [row for row, _ in wrong[: self.shown]]
        if len(first) == 1:
            text = f"row {first[0]} has {_cells(wrong[0][1])}, the header {due}"
        else:
            rows = ", ".join(map(str, first))
            text = f"rows {rows} have other numbers of cells than the header, which has {due}"
        more = len(wrong) - len(first)
        if more > 0:
            text += f" (and {more:,} more row{'s' if more > 1 else ''})"
        return self.error(text + self._why_uneven(wrong, number + 1))

    def _why_uneven(self, wrong: Sequence[tuple[int, int]], last: int) -> str:
        due = len(self.own_names) + self._unnamed
        sizes = {cells for _, cells in wrong}
        if wrong[-1][0] == last and max(sizes) == 1 < due and last - wrong[0][0] < 5:
            return ": if it is a note at the end of the file, remove it"
        if min(sizes) > due:
            sign = self._dialect.separator
            return f": cells with {named(sign)} in them need quotes, and no line ends in it"
        return ""


@dataclass(frozen=True)
class _Records:
    """The records of a text file, which is read again whenever they are asked for."""

    content: Content
    dialect: Dialect

    def read(self, strict: bool = False) -> Iterator[tuple[list[str], int]]:
        """The records that are not blank, each with the number of records before it."""
        with (
            self.content.open() as file,
            io.TextIOWrapper(file, encoding=self.dialect.decoder, newline="") as text,
        ):
            if self.dialect.directive:
                text.readline()
            reader = csv.reader(text, delimiter=self.dialect.separator, strict=strict)
            last: tuple[list[str], int] | None = None
            for number, record in enumerate(reader):
                if last is not None:
                    yield last
                    last = None
                if len(record) == 1 and _LAST.fullmatch(record[0]):
                    last = record, number  # left out if nothing comes behind it
                elif record:
                    yield record, number

    def numbers(self, places: Sequence[int]) -> list[int]:
        """As `RowNumbers`: blank lines count for a person, and line breaks in quotes do not.

        Raises DataError where the file has changed since it was read.
        """
        found: list[int] = []
        with suppress(OSError, UnicodeError, csv.Error):
            for place, (_, number) in enumerate(self.read(), start=-1):
                if len(found) == len(places):
                    break
                if place == places[len(found)]:
                    found.append(number + 1)
        if len(found) < len(places):
            raise TableError(
                f"{file_name(self.content.path)}: the file has changed while it was read: start again"
            )
        return found


_TWICE = re.compile(b"\xc3[\x82\x83]\xc2[\x80-\xbf]")
_LAST = re.compile("[ \x1a]+")  # what some programs leave at the end of a file


class PartOfMore(Exception):
    """Lines of a file that have to be seen with all others; `quotes`: for their quotes alone."""

    def __init__(self, *, quotes: bool) -> None:
        super().__init__("a part of a file that has to be read as a whole")
        self.quotes = quotes


_CUT = re.compile("utf-8|ascii|iso8859-[0-9]+|cp125[0-8]|cp437|cp85[0-9]|mac-roman|koi8-[ru]")
"""Encodings in which a byte 10 is a line end, whatever was before."""
_LONGEST = 16 << 20  # bytes of a line


def _line_from(file: BinaryIO, place: int) -> int:
    """Where the first line begins that does so at this byte or behind it. Raises PartOfMore where none
    does for long: lines may end otherwise than in LF."""
    if place == 0:
        return 0
    at = place - 1
    file.seek(at)
    while piece := file.read(HEAD):
        if (end := piece.find(b"\n")) >= 0:
            return at + end + 1
        at += len(piece)
        if at - place > _LONGEST:
            raise PartOfMore(quotes=False)
    return at


class _Stretch:
    """Some bytes of a file, as a file."""

    def __init__(self, file: BinaryIO, start: int, stop: int) -> None:
        self._file, self._left = file, stop - start
        file.seek(start)

    def read(self, size: int) -> bytes:
        """The next of them, so many at most."""
        piece = self._file.read(min(size, self._left))
        self._left -= len(piece)
        return piece


class _Bytes(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Utf8:
    """A text file as UTF-8 for Arrow, and what was seen on the way.

    No piece of it ends between the two signs of a line end: Arrow would lose the second one within
    quotes (https://github.com/apache/arrow/issues/51368).
    """

    closed = False

    def __init__(self, file: _Bytes, encoding: str) -> None:
        self._file = file
        self._encoding = encoding
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._utf8: codecs.IncrementalDecoder | None = None
        if not encoding.startswith("utf"):
            self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._left = b""
        self._ended = False
        self.quotes = self.lines = 0
        self.zeros = False  # whether there are NUL bytes outside of quotes
        self.lost = False  # whether letters were replaced, or UTF-8 taken for Latin-1 and converted
        self.beyond = False  # whether there is anything but ASCII
        self.controls = False  # whether there are signs that no text of this encoding has

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self.closed = True

    def read(self, size: int = -1) -> bytes:
        while not self._ended and (size < 0 or len(self._left) <= size):
            more = self._more(size)
            self._left += more
        piece = self._left if size < 0 else self._left[:size]
        while piece.endswith(b"\r") and len(piece) < len(self._left) and piece.strip(b"\r"):
            piece = piece[:-1]
        self._left = self._left[len(piece) :]
        return piece

    @property
    def is_utf8(self) -> bool:
        """Whether a text that is said to be of another encoding is UTF-8, with letters beyond ASCII."""
        return self._utf8 is not None and self.beyond

    def _more(self, size: int) -> bytes:
        raw = self._file.read(max(size, 1 << 20))
        self._ended = not raw
        text = self._decoder.decode(raw, final=self._ended)
        data = raw if self._encoding == "utf-8" else text.encode("utf-8", "surrogatepass")
        if self._ended:
            self._left = re.sub(rb"(?<=[\r\n])[ \x1a]+\Z", b"", self._left)
        self.zeros = self.zeros or bare_zero(data, self.quotes) is not None
        self.quotes += data.count(b'"')
        self.lost = self.lost or b"\xef\xbf\xbd" in data or _TWICE.search(data) is not None
        self.lines += max(data.count(b"\n"), data.count(b"\r"))
        if self._encoding.startswith("iso8859"):
            self.controls = self.controls or re.search("[\x80-\x9f]", text) is not None
        if self._utf8 is not None:
            self.beyond = self.beyond or not raw.isascii()
            try:
                self._utf8.decode(raw, final=self._ended)
            except UnicodeDecodeError:
                self._utf8 = None
        return data


def _cells(number: int) -> str:
    return f"{number} cell{'' if number == 1 else 's'}"
