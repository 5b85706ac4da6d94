"""Tables as CSV."""

import codecs
import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray

from vfl.errors import DataError
from vfl.party.sources.source import MISSING, Source, filled, float64
from vfl.text import counted

_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_DECIMAL_COMMA = r"^[+-]?[0-9]*,[0-9]+$"


class Csv(Source):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            with path.open("rb") as file:
                start = file.read(4)
            if not start:
                raise self.error("the file is empty")
            if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
                raise self.error("the file is UTF-16, not UTF-8: save it as CSV UTF-8")
            self.delimiter = self._delimiter()
            records = self._records()
            header, self._blank_lines = next(records)
            self.names = [name.strip() for name in header]
            if next(records, None) is None:
                raise self.error("the file has a header but no rows")
        except UnicodeDecodeError:
            raise self._not_utf8() from None
        except csv.Error:
            raise self.error("the first rows are no CSV") from None
        except StopIteration:
            raise self.error("the file is empty") from None

    def read(self, names: list[str]) -> None:
        # Everything is read as text, so that what is no number is found and named here.
        try:
            if self._stray_quote():
                raise self._broken()
            self.table = pa.csv.read_csv(
                self.for_arrow,
                read_options=pa.csv.ReadOptions(
                    column_names=self.names,
                    skip_rows=self._blank_lines,
                    skip_rows_after_names=1,
                    block_size=4 << 20,
                ),
                parse_options=pa.csv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True),
                convert_options=pa.csv.ConvertOptions(
                    column_types=dict.fromkeys(self.names, pa.string()),
                    include_columns=names,
                    strings_can_be_null=False,
                ),
            )
        except UnicodeDecodeError:
            raise self._not_utf8() from None
        except pa.ArrowInvalid:
            raise self._broken() from None
        self.rows = self.table.num_rows

    def ids(self, name: str) -> list[str | None]:
        values = self.table[name].to_numpy(zero_copy_only=False)
        return [value or None for value in values.tolist()]

    def text(self, name: str) -> Any:
        column = self.table[name]
        missing = pc.is_in(pc.utf8_trim_whitespace(column), MISSING)
        return pc.if_else(missing, pa.scalar(None, pa.string()), column)

    def numbers(self, name: str, what: str, advice: str) -> NDArray[np.float64]:
        text = self.text(name)
        try:
            values = pc.cast(text, pa.float64())
        except pa.ArrowInvalid:
            text = pc.utf8_trim_whitespace(text)
            lower = pc.utf8_lower(text)
            text = pc.if_else(pc.equal(lower, "true"), "1", text)
            text = pc.if_else(pc.equal(lower, "false"), "0", text)
            text = pc.replace_substring_regex(text, r"^\+", "")
            infinite = pc.match_substring_regex(lower, r"^[+-]?inf(inity)?$")
            good = pc.or_(pc.match_substring_regex(text, _NUMBER), infinite)
            bad = ~filled(good, True)
            if bad.any():
                commas = filled(pc.match_substring_regex(text, _DECIMAL_COMMA), False)
                hint = " (numbers are written with a point, as in 1.5)" if commas.any() else ""
                raise self._no_number(what, advice, bad, hint) from None
            values = pc.cast(text, pa.float64())
        numbers = float64(values)
        strange = np.isnan(numbers) & filled(pc.is_valid(text), True)
        if strange.any():  # NaN in a spelling that is not one of the missing values
            raise self._no_number(what, advice, strange, "")
        return numbers

    def row_numbers(self, places: Sequence[int]) -> list[int]:
        # Read again, since blank lines count for a person and quoted line breaks do not.
        found: list[int] = []
        try:
            for place, (_, number) in enumerate(self._records(), start=-1):
                if len(found) == len(places):
                    break
                if place == places[len(found)]:
                    found.append(number + 1)
        except csv.Error:  # a cell too long for this reader: from here on, count data rows
            pass
        return found + [place + 2 for place in places[len(found) :]]

    def _no_number(self, what: str, advice: str, bad: NDArray[np.bool_], hint: str) -> DataError:
        return self.error(f"{what} has text that is no number {self.in_rows(bad)}{hint}: {advice}")

    def _delimiter(self) -> str:
        """The one of comma, semicolon and tab that makes most columns of the header."""
        with self.path.open(encoding="utf-8-sig", newline="") as file:
            line = next((line for line in file if line.strip()), "")
        return max(",;\t", key=lambda d: len(next(csv.reader([line], delimiter=d), [])))

    def _records(self, strict: bool = False) -> Iterator[tuple[list[str], int]]:
        """The records that are not blank, each with the number of records before it."""
        with self.path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=self.delimiter, strict=strict)
            for number, record in enumerate(reader):
                if record:
                    yield record, number

    def _stray_quote(self) -> bool:
        """Whether a quote has no partner: it could swallow all rows after it unseen.

        Raises UnicodeDecodeError, also for columns that are not read.
        """
        decoder = codecs.getincrementaldecoder("utf-8")()
        quotes = 0
        with self.path.open("rb") as file:
            while chunk := file.read(1 << 20):
                quotes += chunk.count(b'"')
                decoder.decode(chunk)
        decoder.decode(b"", final=True)
        if quotes % 2 == 0:
            return False
        try:
            for _ in self._records(strict=True):
                pass
        except csv.Error:
            return True
        return False

    def _broken(self) -> DataError:
        """Why Arrow could not read the file; its own words would quote a row."""
        number = 0
        try:
            for record, number in self._records(strict=True):
                if len(record) != len(self.names):
                    return self.error(
                        f"row {number + 1} has {counted(len(record), 'cell')}, the header "
                        f"{len(self.names)}"
                    )
        except UnicodeDecodeError:
            return self._not_utf8()
        except csv.Error:
            return self.error(f"a quote is not closed, or not doubled, in or after row {number + 2}")
        return self.error("the file is no CSV that can be read")

    def _not_utf8(self) -> DataError:
        content = self.path.read_bytes()
        try:
            content.decode()
            number = 1  # it has been changed meanwhile
        except UnicodeDecodeError as error:
            number = content.count(b"\n", 0, error.start) + 1
        return self.error(f"line {number} is not UTF-8: save the file as CSV UTF-8")
