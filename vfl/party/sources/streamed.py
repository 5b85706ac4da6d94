"""Files with types for DuckDB: columns that a query asks for, a piece at a time, as often as it asks.

For DuckDB they are a dataset of Arrow. Arrow's own reads whole groups of rows, several ahead, and no
files whose types differ.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import pyarrow as pa

from vfl.party.sources.parquet import Columnar, Ipc, Parquet
from vfl.party.sources.parts import TypedParts
from vfl.party.sources.source import Source, TableError


def streamable(source: Source) -> list[Parquet | Ipc]:
    """The files of a source that can be read by pieces; none where some cannot."""
    parts = source.parts if isinstance(source, TypedParts) else [source]
    found = [part for part in parts if isinstance(part, Parquet | Ipc)]
    return found if len(found) == len(parts) else []


def streamed(source: Columnar, names: Sequence[str], faults: list[TableError]) -> object:
    """Columns of files that are `streamable` as a dataset. Raises TableError.

    Those of types that DuckDB does not know are left out, and are in `lacking` of the source. What goes
    wrong while it is read, which DuckDB has as an error of its own, is added to `faults`.
    """
    from pyarrow import dataset, fs  # with pandas: not before a query

    kinds = {name: source.plain_type(name) for name in names}
    strange = {
        name: source.error(f"column '{name}' is of a type that a query cannot read ({kind})")
        for name, kind in kinds.items()
        if _kind_for_query(kind) is None
    }
    source.lacking = {**source.lacking, **strange}
    schema = pa.schema([(n, _kind_for_query(kind)) for n, kind in kinds.items() if n not in strange])
    files = streamable(source)

    def scanner(_: object, columns: Sequence[str] | None = None, **options: object) -> object:
        asked = list(schema.names if columns is None else columns)
        condition = options.get("filter")
        read = [one for one in schema if one.name in asked or _may_ask(condition, one.name)]
        chosen = pa.schema(read or [schema.field(0)])  # without any it counts the rows
        return dataset.Scanner.from_batches(
            _noted(_batches(files, chosen, condition), faults),
            schema=chosen,
            columns=asked,
            filter=condition,
            batch_readahead=1,
            use_threads=False,
        )

    made = type("_Streamed", (dataset.FileSystemDataset,), {"scanner": scanner})
    return cast(object, made([], schema, dataset.ParquetFileFormat(), fs.LocalFileSystem()))


def _kind_for_query(kind: pa.DataType) -> pa.DataType | None:
    """The type by which DuckDB takes a column, its values the same; None where it takes none."""
    if pa.types.is_float16(kind):
        return pa.float32()
    if pa.types.is_decimal256(kind):
        return pa.string()  # which is read as a number again
    inner = [kind.field(number).type for number in range(kind.num_fields)]
    return kind if all(_kind_for_query(one) == one for one in inner) else None


def _may_ask(condition: object, name: str) -> bool:
    """Whether a condition may be about a column; those asked for need not have such a one."""
    return condition is not None and (name in str(condition) or not re.fullmatch(r"\w+", name))


def _noted(batches: Iterator[pa.RecordBatch], faults: list[TableError]) -> Iterator[pa.RecordBatch]:
    try:
        yield from batches
    except TableError as error:
        faults.append(error)
        raise


def _batches(
    files: Sequence[Parquet | Ipc], schema: pa.Schema, condition: object
) -> Iterator[pa.RecordBatch]:
    for file in files:
        groups = _groups(file, schema, condition) if isinstance(file, Parquet) else None
        if groups is None or groups:
            yield from file.batches(schema, groups)


def _groups(file: Parquet, schema: pa.Schema, condition: object) -> list[int] | None:
    """The groups of rows of a file of which some may fulfil a condition; None: all."""
    from pyarrow import dataset, fs

    own = [one for one in schema if one.name not in file.folders]
    alike = all(file.schema.field(one.name).type == one.type for one in own)
    if condition is None or not alike or not isinstance(file.for_arrow, Path):
        return None
    place = fs.LocalFileSystem()
    kind = dataset.ParquetFileFormat()
    fragment = kind.make_fragment(str(file.path), place, _in_folders(file.folders))
    whole = dataset.FileSystemDataset([fragment], schema, kind, place)
    return [
        group.id
        for one in whole.get_fragments(condition)
        for some in one.split_by_row_group(condition, schema)
        for group in some.row_groups
    ]


def _in_folders(folders: Mapping[str, str | None]) -> object:
    """What the names of its folders say of all rows of a file, as an expression of Arrow."""
    from pyarrow import dataset

    said = dataset.scalar(True)
    for name, cell in folders.items():
        column = dataset.field(name)
        said &= column.is_null() if cell is None else column == cell
    return cast(object, said)
