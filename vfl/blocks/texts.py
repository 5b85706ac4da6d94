"""Texts of millions of rows one after another in one buffer, where an object each takes four times as
much."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Bytes, Integers, Mask
from vfl.blocks.disk import NO_ROOM, no_room
from vfl.blocks.scratch import OF_A_ROW_EACH, Scratch, in_pieces, map_whole, nameless, release_pages
from vfl.errors import DataError
from vfl.kernels import kernel

if TYPE_CHECKING:
    import pyarrow as pa

PIECE = 65_536
"""Rows whose texts are objects at the same time."""

_FEW = 4096  # texts that are not worth a compiled loop
_AT_ONCE = 1 << 20  # texts looked at before pages are released
_COMPARED = 1 << 20  # texts whose hashes are compared at the same time
_BUCKETS_BY = 40  # bits of a hash that come before those by which texts are parted

_LOOKED_AT = 1 << 26  # bytes of a file that are held in memory for having been read
_WHAT = "ids"  # what files are of

T = TypeVar("T")


class Packed(Sequence[bytes]):
    """Byte strings that are not changed any more; a slice of them shares their buffer."""

    def __init__(self, data: Bytes, ends: Integers) -> None:
        """ends: int64 (n + 1,), where each one begins in `data` and, last, where all end."""
        self.data, self.ends = data, ends
        self._looked_at = 0

    @classmethod
    def of(cls, pieces: Iterable[Sequence[bytes]], scratch: Scratch = Scratch()) -> "Packed":
        """Those of all pieces, in memory or, if there are many, in files. Raises DataError."""
        buffer, ends, end = _Buffer(scratch.folder), _Buffer(scratch.folder), 0
        ends.add(bytes(8))
        for piece in pieces:
            buffer.add(join(piece))
            own = end + np.cumsum(text_sizes(piece))
            ends.add(own.tobytes())
            end = int(own[-1]) if len(own) else end
        return cls(buffer.whole(), ends.whole().view(np.int64))

    def keep(self, which: Mask, scratch: Scratch = Scratch()) -> "Packed":
        """Some of them, in their order. Raises as `of`."""
        starts = range(0, len(which), PIECE)
        pieces = (start + np.flatnonzero(which[start : start + PIECE]) for start in starts)
        return Packed.of(map(self.at, pieces), scratch)

    def take(self, places: Integers, scratch: Scratch = Scratch()) -> "Packed":
        """Those at these places, in this order. Raises as `of`."""
        starts = range(0, len(places), PIECE)
        return Packed.of((self.at(places[start : start + PIECE]) for start in starts), scratch)

    def at(self, places: NDArray[np.integer]) -> "Packed":
        """The same of so few places that they are in memory."""
        first, sizes = self.ends[places], self.ends[places + 1] - self.ends[places]
        ends = np.append(0, np.cumsum(sizes))
        within = np.arange(ends[-1]) - np.repeat(ends[:-1], sizes)
        self._look_at(len(within))
        return Packed(self.data[np.repeat(first, sizes) + within], ends)

    @property
    def whole(self) -> bytes:
        """All of them, one after the other."""
        return self.data[int(self.ends[0]) : int(self.ends[-1])].tobytes()

    def _look_at(self, size: int) -> None:
        """So many bytes are read: pages of a file are not kept in memory."""
        self._looked_at += size
        if self._looked_at > _LOOKED_AT:
            self._looked_at = 0
            release_pages(self.data)
            release_pages(self.ends)

    def __len__(self) -> int:
        return len(self.ends) - 1

    @overload
    def __getitem__(self, place: int) -> bytes: ...

    @overload
    def __getitem__(self, place: slice) -> "Packed": ...

    def __getitem__(self, place: int | slice) -> "bytes | Packed":
        if not isinstance(place, slice):
            at = range(len(self))[place]
            return self.data[self.ends[at] : self.ends[at + 1]].tobytes()
        start, stop, step = place.indices(len(self))
        if step != 1:
            return self.at(np.arange(start, stop, step))
        ends = self.ends[start : max(start, stop) + 1]
        self._look_at(int(ends[-1] - ends[0]) + ends.nbytes)
        return Packed(self.data, ends)

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, len(self), PIECE):
            piece = self[start : start + PIECE]
            joined, ends = piece.whole, piece.ends
            yield from (joined[a:b] for a, b in pairwise((ends - ends[0]).tolist()))

    def __eq__(self, other: object) -> bool:
        return _is_same(self, other)

    def __repr__(self) -> str:
        return f"Packed({len(self):,})"


class _Buffer:
    """Bytes that come piece by piece: in memory or, if they are many, in a file of a folder."""

    def __init__(self, folder: Path | None) -> None:
        self._folder, self._size = folder, 0
        self._held = bytearray()
        self._file: BinaryIO | None = None

    def add(self, data: bytes) -> None:
        """Raises DataError where the disk has no room."""
        self._size += len(data)
        if self._folder is None or self._size < OF_A_ROW_EACH:
            self._held += data
            return
        try:
            if self._file is None:
                self._file = nameless(self._folder)
                self._file.write(self._held)
                self._held = bytearray()
            self._file.write(data)
        except OSError as error:
            text = no_room(self._folder, self._size, _WHAT, error)
            raise DataError(text, for_peer=NO_ROOM) from None

    def whole(self) -> Bytes:
        """All of them; raises as `add`."""
        if self._file is None or self._folder is None:
            return np.frombuffer(self._held, np.uint8)
        try:
            with self._file as file:
                file.flush()
                return map_whole(file)
        except OSError as error:
            text = no_room(self._folder, self._size, _WHAT, error)
            raise DataError(text, for_peer=NO_ROOM) from None


class Cells(Sequence[str | None]):
    """A column of text as Arrow has it, None where a cell is empty."""

    def __init__(self, column: "pa.ChunkedArray", release: Callable[[], None] | None = None) -> None:
        """release: lets what was looked at leave the memory, where the column lies in a file."""
        self.column, self._release = column, release
        self._looked_at = 0

    @classmethod
    def of(cls, cells: Sequence[str | None]) -> "Cells":
        """Texts that may be objects."""
        import pyarrow as pa  # which commands that read no table do without

        if isinstance(cells, cls):
            return cells
        text = pa.large_string()
        if isinstance(cells, pa.Array):
            return cls(pa.chunked_array([cells]))
        starts = range(0, len(cells), _AT_ONCE)
        return cls(
            pa.chunked_array([pa.array(cells[start : start + _AT_ONCE], text) for start in starts], text)
        )

    @classmethod
    def stored(cls, cells: Sequence[str | None], scratch: Scratch) -> "Sequence[str | None]":
        """Cells that are many in a file, others as they are. Raises DataError where the disk has no
        room."""
        if not isinstance(cells, cls) or scratch.folder is None or cells._release is not None:
            return cells
        if cells.column.nbytes < OF_A_ROW_EACH:
            return cells
        starts = range(0, len(cells), _AT_ONCE)
        return cls.spooled((cells.column.slice(start, _AT_ONCE) for start in starts), scratch.folder)

    @classmethod
    def spooled(cls, pieces: Iterable["pa.ChunkedArray"], folder: Path) -> "Cells":
        """Cells that come piece by piece, large_string, in a file of a folder. Raises DataError where
        the disk has no room."""
        import pyarrow as pa

        from vfl.blocks.spool import Spooled

        schema = pa.schema([("cells", pa.large_string())])
        batches = (pa.record_batch([chunk], schema=schema) for piece in pieces for chunk in piece.chunks)
        spooled = Spooled(folder, pa.RecordBatchReader.from_batches(schema, batches))
        return cls(spooled["cells"], spooled.release)

    def differ(self, rows: Integers, others: Integers) -> Mask:
        """Whether the cells of each two rows are not the same."""
        import pyarrow.compute as pc

        found = np.empty(len(rows), np.bool_)
        for start in range(0, len(rows), PIECE):
            some = slice(start, start + PIECE)
            two = [pc.fill_null(_taken(self.column, which[some]), "") for which in (rows, others)]
            found[some] = pc.not_equal(*two).to_numpy(zero_copy_only=False)
        return found

    def part(self, start: int, stop: int) -> "pa.ChunkedArray":
        """Some of the column."""
        if self._release is not None:
            self._looked_at += stop - start
            if self._looked_at > _AT_ONCE:
                self._looked_at = 0
                self._release()
        return self.column.slice(start, max(0, stop - start))

    def __len__(self) -> int:
        return len(self.column)

    @overload
    def __getitem__(self, place: int) -> str | None: ...

    @overload
    def __getitem__(self, place: slice) -> "list[str | None]": ...

    def __getitem__(self, place: int | slice) -> "str | list[str | None] | None":
        if not isinstance(place, slice):
            cell: str | None = self.column[range(len(self))[place]].as_py()
            return cell or None
        start, stop, step = place.indices(len(self))
        if step != 1:
            return [self[i] for i in range(start, stop, step)]
        cells = self.part(start, stop).to_numpy(zero_copy_only=False)
        return [cell or None for cell in cells.tolist()]

    def __iter__(self) -> Iterator[str | None]:
        return _in_pieces(self)

    def __eq__(self, other: object) -> bool:
        return _is_same(self, other)

    def __repr__(self) -> str:
        return f"Cells({len(self):,})"


class CellsWithout(Sequence[str | None]):
    """Cells, of which some spellings mean that there is none."""

    def __init__(self, cells: Sequence[str | None], none: Collection[str]) -> None:
        self.cells, self.none = cells, none

    def __len__(self) -> int:
        return len(self.cells)

    @overload
    def __getitem__(self, place: int) -> str | None: ...

    @overload
    def __getitem__(self, place: slice) -> "list[str | None]": ...

    def __getitem__(self, place: int | slice) -> "str | list[str | None] | None":
        found = self.cells[place]
        if found is None or isinstance(found, str):
            return None if found is not None and found.strip() in self.none else found
        return [None if cell is not None and cell.strip() in self.none else cell for cell in found]

    def __iter__(self) -> Iterator[str | None]:
        return _in_pieces(self)

    def __eq__(self, other: object) -> bool:
        return _is_same(self, other)

    def __repr__(self) -> str:
        return f"CellsWithout({len(self):,})"


def _taken(column: "pa.ChunkedArray", rows: Integers) -> "pa.Array":
    """Cells of some rows: chunk by chunk, for Arrow would join all of them first."""
    import pyarrow as pa

    edges = np.cumsum([0, *map(len, column.chunks)])
    chunk = np.searchsorted(edges, rows, side="right") - 1
    order = np.argsort(chunk, kind="stable")
    parts = [
        column.chunk(k).take(pa.array(rows[order][chunk[order] == k] - edges[k]))
        for k in np.unique(chunk).tolist()
    ]
    back = np.empty(len(rows), np.int64)
    back[order] = np.arange(len(rows))
    return pa.concat_arrays(parts).take(pa.array(back)) if parts else pa.array([], column.type)


def differ(cells: Sequence[str | None], rows: Integers, others: Integers) -> Mask:
    """Whether the cells of each two rows, which are none of those that say nothing, are not the same."""
    if isinstance(cells, CellsWithout):
        return differ(cells.cells, rows, others)
    if isinstance(cells, Cells):
        return cells.differ(rows, others)
    pairs = zip(rows.tolist(), others.tolist(), strict=True)
    return np.fromiter((cells[one] != cells[two] for one, two in pairs), np.bool_, len(rows))


def some_cells(cells: Sequence[str | None], start: int, chosen: Mask) -> Cells:
    """Those of the cells from `start` on that a mask chooses, few enough for memory."""
    import pyarrow as pa

    if isinstance(cells, CellsWithout):
        return Cells.of(list(CellsWithout(some_cells(cells.cells, start, chosen), cells.none)))
    if isinstance(cells, Cells):
        some = cells.part(start, start + len(chosen)).filter(pa.array(chosen))
        return Cells(some.cast(pa.large_string()))
    return Cells.of([cells[start + i] for i in np.flatnonzero(chosen).tolist()])


def stretches_of(cells: Sequence[str | None], most: int) -> Sequence[str | None]:
    """The cells, or of more than `most` as many, in stretches that are evenly far apart."""
    import pyarrow as pa

    if len(cells) <= most:
        return cells
    size = min(PIECE, most)
    count = most // size
    starts = (number * (len(cells) - size) // max(1, count - 1) for number in range(count))
    every = np.ones(size, np.bool_)
    chunks = [chunk for start in starts for chunk in some_cells(cells, start, every).column.chunks]
    return Cells(pa.chunked_array(chunks, pa.large_string()))


def _in_pieces(texts: Sequence[T]) -> Iterator[T]:
    for start in range(0, len(texts), PIECE):
        yield from texts[start : start + PIECE]


def _is_same(texts: Sequence[object], other: object) -> bool:
    """Whether another sequence holds the same, one by one."""
    if not isinstance(other, Sequence) or isinstance(other, str | bytes) or len(texts) != len(other):
        return False
    return all(one == two for one, two in zip(texts, other, strict=True))


def join(texts: Sequence[bytes]) -> bytes:
    """All of them, one after the other."""
    return texts.whole if isinstance(texts, Packed) else b"".join(texts)


def texts_at(texts: Sequence[bytes], places: NDArray[np.integer]) -> list[bytes]:
    """Those at these places."""
    return [*texts.at(places)] if isinstance(texts, Packed) else [texts[at] for at in places.tolist()]


def text_sizes(texts: Sequence[bytes]) -> Integers:
    """The bytes of each of them, int64 (n,)."""
    if isinstance(texts, Packed):
        return np.diff(texts.ends)
    return np.fromiter(map(len, texts), np.int64, len(texts))


def beside(parts: Sequence[Packed]) -> Packed:
    """Texts that are each made of one of every part, one after the other; few enough for memory."""
    sizes = [np.diff(part.ends) for part in parts]
    ends = np.append(0, np.cumsum(np.sum(sizes, axis=0)))
    data, first = np.empty(int(ends[-1]), np.uint8), ends[:-1].copy()
    for part, size in zip(parts, sizes, strict=True):
        begin, end = int(part.ends[0]), int(part.ends[-1])
        at = np.repeat(first - (part.ends[:-1] - begin), size) + np.arange(end - begin)
        data[at] = part.data[begin:end]
        first += size
    return Packed(data, ends)


def with_lengths(texts: Packed) -> Packed:
    """Each with its length before it, in four bytes, the highest first."""
    count = len(texts)
    lengths = np.diff(texts.ends).astype(">u4").view(np.uint8)
    return beside([Packed(lengths, 4 * np.arange(count + 1)), texts])


def pack_rows(rows: Bytes) -> Packed:
    """Rows of the same number of bytes (n, width) as texts."""
    data = np.require(rows, requirements=["C", "W"]).reshape(-1)
    return Packed(data, rows.shape[1] * np.arange(len(rows) + 1))


class TextPlaces:
    """Where texts stand: found by their hashes, and compared.

    first: int64 (n,), the place where each of them stands first.
    """

    def __init__(self, texts: Packed, hashes: Integers) -> None:
        """hashes: int64 (n,), of all of them, equal for equal ones."""
        self._texts, self._hashes = texts, hashes
        self._known = np.zeros(1 << (2 * len(hashes)).bit_length(), np.uint32)
        self.first = np.empty(len(hashes), np.int64)
        self._run(texts, hashes, self.first, enter=True)

    def find(self, texts: Packed, hashes: Integers) -> Integers:
        """Where each of other texts stands first among these, -1 where it does not."""
        places = np.empty(len(hashes), np.int64)
        self._run(texts, hashes, places, enter=False)
        return places

    def _run(self, texts: Packed, hashes: Integers, places: Integers, *, enter: bool) -> None:
        own = self._texts
        for start in range(0, len(places), _AT_ONCE):
            some = slice(start, min(start + _AT_ONCE, len(places)))
            piece = texts[some]
            _look_up(
                (own.data, own.ends, self._hashes, self._known),
                (piece.data, piece.ends, hashes[some], places[some]),
                start if enter else -1,
            )
            for array in (own.data, own.ends, piece.data, piece.ends):
                release_pages(array)


def repeated(texts: Packed, hashes: Integers) -> tuple[Integers, Integers]:
    """The places, in their order, of texts that stand before, and where each of these stands first.

    hashes: int64 (n,), of all of them, equal for equal ones. Texts are compared some at a time, those
    whose hashes end alike, so that little memory is needed where few are repeated.
    """
    again, firsts = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    buckets = 1 << (len(hashes) // _COMPARED).bit_length()
    for bucket in range(buckets):
        parts = [np.empty(0, np.int64)]
        for some in in_pieces(len(hashes), hashes):
            own = hashes[some] >> _BUCKETS_BY & (buckets - 1)
            parts.append(some.start + np.flatnonzero(own == bucket))
        places = np.concatenate(parts)
        places = places[_alike(hashes[places])]
        release_pages(hashes)
        if len(places):
            first = _first_places(texts.take(places), hashes[places])
            is_again = first != np.arange(len(first))
            again.append(places[is_again])
            firsts.append(places[first[is_again]])
    found, first_of = np.concatenate(again), np.concatenate(firsts)
    order = np.argsort(found)
    return found[order], first_of[order]


def _first_places(texts: Packed, hashes: Integers) -> Integers:
    """The place where each text stands first, int64 (n,)."""
    if len(hashes) > _FEW:
        return TextPlaces(texts, hashes).first
    first: dict[bytes, int] = {}
    return np.fromiter((first.setdefault(text, i) for i, text in enumerate(texts)), np.int64)


def _alike(numbers: Integers) -> Mask:
    """Which of some numbers are there more than once."""
    order = np.argsort(numbers)
    ordered, found = numbers[order], np.zeros(len(numbers), np.bool_)
    same = ordered[1:] == ordered[:-1]
    found[order[1:][same]] = found[order[:-1][same]] = True
    return found


@kernel
def _look_up(
    own: tuple[Bytes, Integers, Integers, NDArray[np.uint32]],
    asked: tuple[Bytes, Integers, Integers, Integers],
    first: int,
) -> None:
    """Find the place of each text that is asked for, -1 where there is none. Or, with the place `first`
    of the first of them, enter those that are not known: the number of each, from 1 on, at the place
    that its hash names or the next one that is free."""
    data, ends, hashes, known = own
    texts, bounds, of_texts, places = asked
    mask = len(known) - 1
    for i in range(len(places)):
        at, size = of_texts[i] & mask, bounds[i + 1] - bounds[i]
        places[i] = -1
        while known[at] and places[i] < 0:
            other = np.int64(known[at]) - 1
            if hashes[other] == of_texts[i] and ends[other + 1] - ends[other] == size:
                alike = True
                for k in range(size):
                    if data[ends[other] + k] != texts[bounds[i] + k]:
                        alike = False
                        break
                if alike:
                    places[i] = other
            at = (at + 1) & mask
        if places[i] < 0 and first >= 0:
            known[at] = np.uint32(first + i + 1)
            places[i] = first + i
