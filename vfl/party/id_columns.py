"""Columns of ids, read and cleaned a piece at a time, and the ids that they make, packed."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vfl.arrays import Integers, Mask
from vfl.blocks.scratch import Scratch, release_pages
from vfl.blocks.texts import PIECE, Packed
from vfl.crypto.digests import digests
from vfl.errors import DataError
from vfl.party.id_cells import Mark, ReadIds, are_codes, read_piece
from vfl.party.rows import RowNumbers, rows_in_words
from vfl.text import counted

Unread = tuple[list[int], list[int], list[int], list[int]]
"""Rows of a column that cannot be read: no dates, no whole numbers, with lost digits, and those that may
have such."""


class IdColumn:
    """A column of ids that is cleaned a piece at a time, and its rows that cannot be read, by reason."""

    def __init__(
        self,
        cells: Sequence[str | None],
        steps: Sequence[tuple[str, Callable[[str], str]]],
        decimal: Mark,
        as_text: bool,
        *,
        of_codes: Callable[[], bool] | None = None,
    ) -> None:
        """steps: the name of each, and what it makes of a text. of_codes: whether it is a column of
        codes, where the cells are not all of it."""
        self.cells, self._steps, self._decimal, self._as_text = cells, steps, decimal, as_text
        self._of_codes = of_codes or self._are_codes
        self._names = [name for name, _ in steps]
        self.undated: list[int] = []
        self.fractions: list[int] = []
        self.lost: list[int] = []
        self.emptied: list[int] = []
        """Of the lost ones those that `clean` left as they were."""
        self._doubtful: list[int] = []

    @property
    def found(self) -> Unread:
        """The rows that were found so far, before `end`."""
        return self.undated, self.fractions, self.lost, self._doubtful

    def add(self, start: int, found: Unread) -> None:
        """Take rows that others have found in a part that begins with this row."""
        for own, more in zip(self.found, found, strict=True):
            own += [start + row for row in more]

    @property
    def unread(self) -> set[int]:
        return {*self.undated, *self.fractions, *self.lost}

    def clean(self, start: int, stop: int) -> list[str]:
        """What is compared of these rows, "" for none."""
        cells = self._look(start, stop)
        cells.empty_unread()
        values, undated = self._apply(cells)
        self.undated += [start + i for i in undated]
        return values

    def look(self) -> None:
        """Find the rows of all cells that cannot be read, without cleaning any."""
        for start in range(0, len(self.cells), PIECE):
            self._look(start, start + PIECE)
        self.end()

    def end(self) -> None:
        """All rows are seen: what is doubtful is a code or a number."""
        if not self._doubtful:
            return
        if self._of_codes():
            self._doubtful = []
        self.emptied = self._doubtful
        self.lost = sorted([*self.lost, *self.emptied])

    def _are_codes(self) -> bool:
        starts = range(0, len(self.cells), PIECE)
        return are_codes((self._piece(start, start + PIECE) for start in starts), self._decimal)

    def read(self, row: int) -> str:
        """The cell of a row as what it is; all rows are cleaned."""
        cells = self._piece(row, row + 1)
        cells.empty_unread()
        if row in self.emptied:
            return ""
        return f"-{cells.values[0]}" if cells.negative else cells.values[0]

    def _look(self, start: int, stop: int) -> ReadIds:
        cells = self._piece(start, stop)
        self.fractions += [start + i for i in cells.fractions]
        self.lost += [start + i for i in cells.lost]
        self._doubtful += [start + i for i in cells.doubtful]
        return cells

    def _piece(self, start: int, stop: int) -> ReadIds:
        return read_piece(self.cells[start:stop], self._names, self._decimal, self._as_text)

    def _apply(self, cells: ReadIds) -> tuple[list[str], list[int]]:
        """What the steps make of cells, and which of them are no dates."""
        values, undated = cells.values, []
        for step, function in self._steps:
            before, values = values, list(map(function, values))
            if step.startswith("date"):
                pairs = enumerate(zip(before, values, strict=True))
                undated += [i for i, (old, new) in pairs if not new and old.strip()]
        for i in cells.negative:
            values[i] = values[i] and f"-{values[i]}"
        return values, undated

    def check(self, where: str, row_numbers: RowNumbers) -> None:
        """Raises DataError for rows that cannot be read."""
        for rows, what, todo in (
            (
                self.lost,
                "a number as id of which digits are lost, as spreadsheets and floats have it (4.5E+12)",
                "export the column anew as text or whole numbers",
            ),
            (
                self.fractions,
                "an id that is a number with decimals, or has one in it (17.5, P17.0)",
                "export the column as text or whole numbers; where the sign is no decimal one, name the "
                "column under as_text in [data]",
            ),
            (
                self.undated,
                "no date that can be read without doubt",
                "write dates as 2024-12-31, or name their order in normalise: date:dmy or date:mdy",
            ),
        ):
            if rows:
                count = counted(len(rows), "row has", "rows have")
                raise DataError(f"{where}: {count} {what} ({rows_in_words(rows, row_numbers)}); {todo}")


@dataclass(frozen=True)
class CleanedPart:
    """Ids of some rows that follow each other.

    ids: of the rows that have one. hashes: int64, of each of these. has_id: which rows these are. found:
    by column, rows that cannot be read, as `IdColumn` has them.
    """

    ids: Sequence[bytes]
    hashes: Integers
    has_id: Mask
    found: Sequence[Unread] = ()


def clean_part(columns: Sequence[IdColumn], secret: bytes) -> CleanedPart:
    """All rows of some columns that are part of larger ones, as a worker cleans them. secret: hashes are
    made under it, the same in all parts."""
    pieces = [_clean(columns, start) for start in range(0, len(columns[0].cells), PIECE)]
    packed = Packed.of(ids for ids, _ in pieces)
    has_id = np.concatenate([np.empty(0, np.bool_), *(there for _, there in pieces)])
    hashes = digests(packed, domain=b"vfl ids", key=secret, size=8)
    found = [one.found for one in columns]
    return CleanedPart(packed, np.ascontiguousarray(hashes).view(np.int64)[:, 0], has_id, found)


def _clean(columns: Sequence[IdColumn], start: int) -> tuple[list[bytes], Mask]:
    """The ids of a piece, and which of its rows have one."""
    values = [one.clean(start, start + PIECE) for one in columns]
    there = values[0] if len(values) == 1 else list(map(all, zip(*values, strict=True)))
    return _joined(values), np.fromiter(map(bool, there), np.bool_, len(there))


def _parts_here(columns: Sequence[IdColumn]) -> Iterator[CleanedPart]:
    for start in range(0, len(columns[0].cells), PIECE):
        ids, has_id = _clean(columns, start)
        yield CleanedPart(ids, np.fromiter(map(hash, ids), np.int64, len(ids)), has_id)


def pack_ids(
    columns: Sequence[IdColumn], scratch: Scratch, parts: Iterable[CleanedPart] | None = None
) -> tuple[Packed, Integers, Mask]:
    """The ids of rows that have one, each column's value after its length, hashes of them, and which
    rows these are. parts: the same rows as others have cleaned them, in their order."""
    rows = len(columns[0].cells)
    hashes = scratch.of_rows(rows, np.int64, "hashes of ids")
    has_id, known, start = np.zeros(rows, np.bool_), 0, 0

    def pieces() -> Iterator[Sequence[bytes]]:
        nonlocal known, start
        for part in _parts_here(columns) if parts is None else parts:
            for one, found in zip(columns, part.found, strict=bool(part.found)):
                one.add(start, found)
            has_id[start : start + len(part.has_id)] = part.has_id
            start += len(part.has_id)
            hashes[known : known + len(part.ids)] = part.hashes
            known += len(part.ids)
            release_pages(hashes)
            yield part.ids

    packed = Packed.of(pieces(), scratch)
    hashed = hashes[:known]
    for one in columns:
        one.end()
    if late := sorted({row for one in columns for row in one.emptied if has_id[row]}):
        # What seemed to be codes is numbers of which digits are lost.
        kept = np.ones(len(packed), np.bool_)
        kept[np.cumsum(has_id)[late] - 1] = False
        packed, hashed, has_id[late] = packed.keep(kept, scratch), hashed[kept], False
    return packed, hashed, has_id


def _joined(values: Sequence[Sequence[str]]) -> list[bytes]:
    if len(values) == 1:
        return [_with_length(value) for value in values[0] if value]
    rows = zip(*values, strict=True)
    return [b"".join(map(_with_length, cells)) for cells in rows if all(cells)]


def _with_length(value: str) -> bytes:
    # surrogatepass: text that is broken in the file is compared as it is.
    encoded = value.encode("utf-8", "surrogatepass")
    return len(encoded).to_bytes(4, "big") + encoded
