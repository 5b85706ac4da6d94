"""Large arrays of a job in files without a name, which are gone with the process, however it ends."""

import math
import mmap
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Bytes
from vfl.blocks.columns import MadeColumns, Values
from vfl.blocks.disk import NO_ROOM, no_room, take_room
from vfl.errors import DataError

K = TypeVar("K", bound=np.generic)

IN_MEMORY = 256 << 20
"""Bytes of columns, or of an array, from which on they are worth a file."""

OF_A_ROW_EACH = 1 << 22
"""The same of what a job has for each row beside its columns, of which there are many at a time."""

_AT_ONCE = 1 << 18  # rows that are worked on before pages are released


@dataclass(frozen=True)
class Scratch:
    """Where a job puts what is large: in files of `folder`, None: in memory whatever its size.

    in_memory: bytes up to which it is kept in memory all the same.
    """

    folder: Path | None = None
    in_memory: int = field(default_factory=lambda: IN_MEMORY)

    def takes(self, size: int) -> bool:
        """Whether so many bytes go into a file."""
        return self.folder is not None and size > self.in_memory

    def codes(self, columns: int, rows: int) -> NDArray[np.uint8]:
        """Room for binned columns, shape (columns, rows). Raises DataError where the disk has none."""
        return np.asarray(self.room((columns, rows), np.dtype(np.uint8), "binned columns"), np.uint8)

    def room(
        self, shape: tuple[int, ...], dtype: np.dtype[np.generic], what: str
    ) -> NDArray[np.generic]:
        """Room for an array. Raises DataError, which says what of, where the disk has none."""
        size = math.prod(shape) * dtype.itemsize
        if self.folder is None or not self.takes(size):
            return np.empty(shape, dtype)
        with new_file(self.folder, size, what) as file:
            return np.asarray(np.memmap(file, dtype, "r+", shape=shape))

    def of_rows(self, rows: int, kind: type[K], what: str) -> NDArray[K]:
        """Room for a number of each row that is no column: in a file where rows are many. Raises
        DataError, which says what of, where the disk has none."""
        dtype = np.dtype(kind)
        if self.folder is None or rows * dtype.itemsize < OF_A_ROW_EACH:
            return np.empty(rows, dtype)
        with new_file(self.folder, rows * dtype.itemsize, what) as file:
            return cast(NDArray[K], np.asarray(np.memmap(file, dtype, "r+", shape=rows)))

    def taken(self, values: NDArray[K], rows: NDArray[np.integer], what: str) -> NDArray[K]:
        """`values[rows]`, with room as of `of_rows`, which says what is raised."""
        out = self.of_rows(len(rows), values.dtype.type, what)
        for some in in_pieces(len(rows), values, rows, out):
            out[some] = values[rows[some]]
        return out

    def chosen(self, values: NDArray[K], mask: NDArray[np.bool_], what: str) -> NDArray[K]:
        """`values[mask]`, with room as of `of_rows`, which says what is raised."""
        out, known = self.of_rows(int(np.count_nonzero(mask)), values.dtype.type, what), 0
        for some in in_pieces(len(values), values, out):
            own = values[some][mask[some]]
            out[known : known + len(own)] = own
            known += len(own)
        return out

    def each(
        self,
        kernel: Callable[..., NDArray[K]],
        kind: type[K],
        what: str,
        *arrays: NDArray[np.generic],
    ) -> NDArray[K]:
        """`kernel(*arrays)`, which looks at rows by themselves and gets some at a time, with room as of
        `of_rows`, which says what is raised. It takes none where all rows are the same."""
        rows = len(arrays[0])
        if rows and all(array.strides == (0,) for array in arrays):
            return np.broadcast_to(kernel(*(array[:1] for array in arrays)), (rows,))
        out = self.of_rows(rows, kind, what)
        for some in in_pieces(rows, out, *arrays):
            out[some] = kernel(*(array[some] for array in arrays))
        return out

    def joined(self, first: NDArray[K], second: NDArray[K], what: str) -> NDArray[K]:
        """One array behind the other, with room as of `of_rows`, which says what is raised."""
        out, at = self.of_rows(len(first) + len(second), first.dtype.type, what), 0
        for values in (first, second):
            for some in in_pieces(len(values), values, out):
                out[at + some.start : at + some.stop] = values[some]
            at += len(values)
        return out

    def cast(self, values: NDArray[np.generic], kind: type[K], what: str) -> NDArray[K]:
        """Numbers of rows as those of another kind, with room as of `of_rows`, which says what is
        raised."""
        out = self.of_rows(len(values), kind, what)
        for some in in_pieces(len(values), values, out):
            out[some] = values[some]
        return out

    def stored(self, values: NDArray[K], what: str) -> NDArray[K]:
        """An array of many rows in a file, any other one as it is, as is one that is the same for all
        rows. Raises DataError, which says what it is, where the disk has no room."""
        if not self.takes(values.nbytes) or values.strides[-1] == 0 or _map_of(values) is not None:
            return values
        out = cast(NDArray[K], self.room(values.shape, values.dtype, what))
        for some in in_pieces(len(values), out):
            out[some] = values[some]
        return out


class ColumnFile:
    """Columns of a table of so many `rows`, in memory or all in one file without a name.

    Numbers are kept as they are, categories as 32-bit numbers of their names, which stay in memory. The
    room that all of them need is taken on the disk before the first is written.
    """

    def __init__(self, scratch: Scratch, columns: int, rows: int) -> None:
        """Raises DataError where the disk has no room."""
        self._rows = rows
        self._file: BinaryIO | None = None
        self.notes: list[str] = []
        """What the table's owner should know, after its name."""
        size = columns * rows * np.dtype(np.float64).itemsize
        self._scratch = scratch
        if scratch.folder is not None and scratch.takes(size):
            self._file = new_file(scratch.folder, size, "columns of the table")
            self.notes = [f"while a job runs its columns take {size / 1e6:,.0f} MB of {scratch.folder}"]
        self._held: dict[str, Values] = {}
        self._places: dict[str, tuple[int, NDArray[np.object_] | None]] = {}
        self._end = 0

    def add(self, name: str, values: Values) -> None:
        """Keep a column: float64, or objects (text or None)."""
        if self._file is None:
            self._held[name] = values
            return
        names: NDArray[np.object_] | None = None
        if values.dtype == object:
            cells = values.tolist()
            places = {cell: place for place, cell in enumerate(dict.fromkeys(cells))}
            names = np.array([*places, None], object)[:-1]
            values = np.fromiter(map(places.__getitem__, cells), np.int32, len(cells))
        self._file.seek(self._end)
        for some in in_pieces(len(values), values):
            np.ascontiguousarray(values[some]).tofile(self._file)
        self._places[name] = self._end, names
        self._end += values.nbytes

    @property
    def features(self) -> Mapping[str, Values]:
        """All columns, in the order in which they came."""
        if self._file is None:
            return self._held
        categorical = [name for name, (_, names) in self._places.items() if names is not None]
        return MadeColumns(tuple(self._places), self._read, categorical, self._scratch.of_rows)

    def _read(self, name: str) -> Values:
        """A column: pages of the file, private where somebody writes to them."""
        start, names = self._places[name]
        kind = np.dtype(np.float64 if names is None else np.int32)
        if self._file is None:
            raise ValueError("columns that are in memory are not read")
        mapped = np.memmap(self._file, kind, "c", start, (self._rows,))
        return np.asarray(mapped) if names is None else names[mapped]


class StoredRows:
    """Rows of so many bytes each, in memory or in a file without a name, that are written and read in
    stretches: of what lies in the file no more is in memory than somebody has asked for."""

    def __init__(self, rows: int, width: int, folder: Path | None, what: str) -> None:
        """folder: an existing one, None for memory, as for what is small. what: it is, for errors.

        Raises DataError where the disk has no room.
        """
        self.width = width
        size = rows * width
        self._file: BinaryIO | None = None
        if folder is None or size < OF_A_ROW_EACH:
            self._held = np.empty((rows, width), np.uint8)
        else:
            self._file = new_file(folder, size, what, make_folder=False)

    def write(self, first: int, rows: Bytes) -> None:
        """Put rows (n, width) where the row `first` is, and behind."""
        if self._file is None:
            self._held[first : first + len(rows)] = rows
            return
        left, at = np.ascontiguousarray(rows).reshape(-1), first * self.width
        while len(left):
            done = os.pwrite(self._file.fileno(), left.data, at)
            left, at = left[done:], at + done

    def read(self, first: int, stop: int) -> Bytes:
        """The rows from `first` up to `stop` (n, width), as they were written."""
        if self._file is None:
            return self._held[first:stop]
        rows = np.empty((stop - first, self.width), np.uint8)
        left, at = rows.reshape(-1), first * self.width
        while len(left):
            done = os.preadv(self._file.fileno(), [left.data], at)
            left, at = left[done:], at + done
        return rows


def empty_rows(rows: int, width: int, folder: Path | None, what: str) -> Bytes:
    """A uint8 array (rows, width) to be filled: in memory, or a large one in a file of `folder`, which
    must be there. Raises DataError where the disk has no room."""
    size = rows * width
    if folder is None or size < OF_A_ROW_EACH:
        return np.empty((rows, width), np.uint8)
    with new_file(folder, size, what, make_folder=False) as file:
        return np.asarray(np.memmap(file, np.uint8, "r+", shape=(rows, width)))


def map_whole(file: BinaryIO) -> Bytes:
    """All bytes of a file that is not empty, as pages of it, which may be written to."""
    return np.frombuffer(mmap.mmap(file.fileno(), 0), np.uint8)


def in_pieces(rows: int, *arrays: NDArray[np.generic]) -> Iterator[slice]:
    """So many rows, some at a time; after each of them pages of files in which arrays lie are
    released."""
    for start in range(0, rows, _AT_ONCE):
        yield slice(start, min(start + _AT_ONCE, rows))
        for array in arrays:
            release_pages(array)


def most_of(values: NDArray[np.floating], least: float = 0.0) -> float:
    """The greatest of many numbers and of `least`."""
    return max([least, *(float(values[some].max()) for some in in_pieces(len(values), values))])


def marked(test: Callable[[NDArray[K]], NDArray[np.bool_]], values: NDArray[K]) -> NDArray[np.bool_]:
    """What a test says of each row; it gets some rows at a time."""
    found = np.empty(len(values), np.bool_)
    for some in in_pieces(len(values), values):
        found[some] = test(values[some])
    return found


def release_pages(array: NDArray[np.generic]) -> None:
    """Let pages of a file that is mapped whole leave this process's memory; they are read again when
    needed. An array of another kind stays as it is."""
    mapped = _map_of(array)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def _map_of(array: NDArray[np.generic]) -> mmap.mmap | None:
    """The file that an array's pages are of, if it is one whose pages nobody has written to for
    himself."""
    base: object = array
    while isinstance(base, np.ndarray | memoryview):
        if isinstance(base, np.memmap) and base.mode == "c":
            return None  # what was written to its pages is in memory alone
        base = base.base if isinstance(base, np.ndarray) else base.obj
    return base if isinstance(base, mmap.mmap) else None


def nameless(folder: Path, *, make_folder: bool = True) -> BinaryIO:
    """A new file of this folder, which is made if need be. Raises OSError."""
    if make_folder:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Open for as long as the job reads it.
    return cast(BinaryIO, tempfile.TemporaryFile(dir=folder))


def new_file(folder: Path, size: int, what: str, *, make_folder: bool = True) -> BinaryIO:
    """A file without a name, of which all room on the disk is taken at once; it is gone with whoever has
    it open or mapped, also where the process is killed. Raises DataError."""
    try:
        file = nameless(folder, make_folder=make_folder)
        try:
            take_room(file.fileno(), size)
        except OSError:
            file.close()
            raise
    except OSError as error:
        raise DataError(no_room(folder, size, what, error), for_peer=NO_ROOM) from None
    return file
