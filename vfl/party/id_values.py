"""The distinct values of a column of ids, a part of them at a time.

All of them, each an object of Arrow's and in tables by which they are found, take three times what the
column takes. So many are looked at in parts by a hash, of which each has all rows of its values.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vfl.arrays import Bytes, Integers, Mask
from vfl.blocks.texts import PIECE, Cells, some_cells
from vfl.party.id_cells import IdReading, Mark, ReadIds, are_codes, read_cells, read_piece
from vfl.party.id_columns import IdColumn
from vfl.party.ids import clean
from vfl.party.sources.arrow import ArrowColumn, mask_of

AT_ONCE = 1 << 20  # rows of a part, about
_MOST = 255  # parts

Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Values:
    """Distinct values of a column, and which row has which.

    every: int64, by row of the part. rows: the numbers of those that have a value that is not blank.
    code: of these.
    """

    text: ArrowColumn  # large_string array, without white space at the ends
    raw: ArrowColumn
    every: Codes
    rows: Codes
    code: Codes
    column: "WrittenIds"

    @classmethod
    def of(cls, cells: Cells, column: "WrittenIds", numbers: Integers | None = None) -> "Values":
        """Those of these cells, whose rows have these numbers: from 0, without any."""
        whole = cells.column.cast(pa.large_string())
        # Chunk by chunk: one array of all of them would be a copy of the column.
        coded = pc.fill_null(whole, "").dictionary_encode().unify_dictionaries().chunks
        raw = coded[0].dictionary if coded else pa.array([], pa.large_string())
        every = np.concatenate([np.empty(0, np.int64), *(one.indices.to_numpy() for one in coded)])
        del coded
        text = pc.utf8_trim_whitespace(raw)
        blank = mask_of(pc.equal(text, ""))[every] if len(raw) else np.zeros(0, np.bool_)
        rows = np.flatnonzero(~blank)
        return cls(text, raw, every, rows if numbers is None else numbers[rows], every[rows], column)

    @cached_property
    def cells(self) -> ReadIds:
        """The values as they are read, each an object."""
        return read_cells(self.raw.to_pylist(), *self.column.reading_of_cells)

    @cached_property
    def unread(self) -> IdColumn:
        """Which of them cannot be read."""
        steps, decimal, as_text, of_codes = self.column.reading_of_cells
        found = IdColumn(
            Cells.of(self.raw), [(step, str) for step in steps], decimal, as_text, of_codes=of_codes
        )
        found.look()
        return found

    @cached_property
    def cleaned(self) -> ArrowColumn:
        """The values as they are compared."""
        return pa.array(clean(self.raw.to_pylist(), *self.column.reading_of_cells), pa.large_string())

    @property
    def steps(self) -> Sequence[str]:
        """The rule of the column."""
        return self.column.steps

    @cached_property
    def beyond(self) -> Mask:
        """The values that are not all ASCII: mostly few."""
        return ~mask_of(pc.string_is_ascii(self.text))

    def matching_beyond(self, pattern: str) -> Mask:
        """Those of them that match."""
        found = self.beyond.copy()
        text = self.text.filter(pa.array(found))
        found[found] = mask_of(pc.match_substring_regex(text, pattern))
        return found

    def count(self, mask: Mask) -> int:
        """The rows of a mask of values."""
        return int(np.count_nonzero(mask[self.code]))

    def at(self, places: Sequence[int]) -> Mask:
        """A mask of the values at these places."""
        found = np.zeros(len(self.text), np.bool_)
        found[list(places)] = True
        return found


@dataclass(frozen=True)
class WrittenIds:
    """A column of ids as it is written, and the rule by which it is cleaned; `place` is its own in the
    id."""

    cells: Sequence[str | None]
    steps: Sequence[str]
    reading: IdReading
    place: int = 0

    @property
    def reading_of_cells(self) -> tuple[Sequence[str], Mark, bool, Callable[[], bool]]:
        """How cells are read, as `read_cells` and `clean` take it."""
        return self.steps, self.reading.decimal, self.place in self.reading.as_text, self._of_codes

    def parts(self, *, alike: bool) -> Iterator[Values]:
        """The values, part by part: all rows of a value are in one part; if `alike`, those of values
        that the rule makes equal, too."""
        rows = len(self.cells)
        count = min(_MOST, -(-rows // AT_ONCE))
        if count < 2:
            yield Values.of(Cells.of(self.cells), self)
            return
        part = self._part_of_rows(count, alike)
        for number in range(count):
            columns = []
            for start in range(0, rows, AT_ONCE):
                chosen = part[start : start + AT_ONCE] == number
                columns += some_cells(self.cells, start, chosen).column.chunks
            cells = Cells(pa.chunked_array(columns, pa.large_string()))
            yield Values.of(cells, self, np.flatnonzero(part == number))

    def _part_of_rows(self, count: int, alike: bool) -> Bytes:
        part = np.empty(len(self.cells), np.uint8)
        for start in range(0, len(part), PIECE):
            cells: Sequence[str | None] = self.cells[start : start + PIECE]
            if alike:
                cells = clean(cells, *self.reading_of_cells)
            hashes = np.fromiter((hash(cell or "") for cell in cells), np.int64, len(cells))
            part[start : start + PIECE] = hashes % count
        return part

    @cached_property
    def _is_of_codes(self) -> bool:
        steps, decimal, as_text, _ = self.reading_of_cells
        pieces = (
            read_piece(self.cells[start : start + PIECE], steps, decimal, as_text)
            for start in range(0, len(self.cells), PIECE)
        )
        return are_codes(pieces, decimal)

    def _of_codes(self) -> bool:
        """Whether the column is one of codes: what is doubtful in a part is told by all."""
        return self._is_of_codes
