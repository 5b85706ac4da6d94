"""Tables that are read batch by batch into a file without a name, and from there column by column."""

import itertools
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from vfl.blocks.disk import NO_ROOM, no_room
from vfl.blocks.scratch import Scratch, nameless
from vfl.errors import DataError


class Spooled:
    """A table of Arrow whose rows lie in a file; in memory is the column that was asked for last.

    The file goes with the table, also where the process is killed.
    """

    def __init__(self, folder: Path, reader: pa.RecordBatchReader) -> None:
        """Read all batches. Raises DataError where the disk has no room, and what reading raises."""
        taken = 0
        with _new_file(folder) as file:
            writer = pa.ipc.new_file(file, reader.schema)
            for batch in reader:
                taken += batch.nbytes
                try:
                    writer.write_batch(batch)
                except OSError as error:
                    raise _no_room(folder, taken, error) from None
            try:
                writer.close()
                file.flush()
            except OSError as error:
                raise _no_room(folder, taken, error) from None
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        pa.default_memory_pool().release_unused()  # what the batches took
        self._table = pa.ipc.open_file(pa.py_buffer(self._map)).read_all()

    @property
    def whole(self) -> pa.Table:
        """All columns, as pages of the file."""
        return self._table

    @property
    def schema(self) -> pa.Schema:
        return self._table.schema

    @property
    def num_rows(self) -> int:
        return int(self._table.num_rows)

    def __getitem__(self, name: str) -> pa.ChunkedArray:
        self.release()
        return self._table[name]

    def release(self) -> None:
        """Let pages of columns leave this process's memory; they are read again when needed."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)


def gather(scratch: Scratch, reader: pa.RecordBatchReader) -> pa.Table | Spooled:
    """All batches, in a file of the job where they are many: columns of dictionaries as their values.

    Raises as `Spooled`.
    """
    first: list[pa.RecordBatch] = []
    size = 0
    for batch in reader:
        first.append(batch)
        size += batch.nbytes
        if scratch.folder is not None and scratch.takes(size):
            schema = pa.schema([one.with_type(_values_of(one.type)) for one in reader.schema])
            whole = (
                _without_dictionaries(batch, schema) for batch in itertools.chain(_taken(first), reader)
            )
            return Spooled(scratch.folder, pa.RecordBatchReader.from_batches(schema, whole))
    return pa.Table.from_batches(first, reader.schema)


def _taken(batches: list[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Batches that are not kept once they are taken."""
    while batches:
        yield batches.pop(0)


def _values_of(kind: pa.DataType) -> pa.DataType:
    if not pa.types.is_dictionary(kind):
        return kind
    if pa.types.is_string_view(kind.value_type):
        return pa.large_string()
    return pa.large_binary() if pa.types.is_binary_view(kind.value_type) else kind.value_type


def _without_dictionaries(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """A batch for a file, in which a column has one dictionary at most where batches have others."""
    if batch.schema.equals(schema):
        return batch
    columns = [
        column.dictionary.cast(kind).take(column.indices)
        if pa.types.is_dictionary(column.type)
        else column
        for column, kind in zip(batch.columns, schema.types, strict=True)
    ]
    return pa.record_batch(columns, schema=schema)


def _new_file(folder: Path) -> BinaryIO:
    try:
        return nameless(folder)
    except OSError as error:
        raise _no_room(folder, 0, error) from None


def _no_room(folder: Path, size: int, error: OSError) -> DataError:
    return DataError(no_room(folder, size, "a table", error), for_peer=NO_ROOM)
