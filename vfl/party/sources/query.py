"""Tables that a query over files makes, by DuckDB.

The query is the owner's own, yet it can do no more than select from the tables that the party file
names: they are handed to DuckDB as Arrow's, and it may open no file, no connection and no extension.
"""

import contextlib
import importlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Protocol, cast

import pyarrow as pa

from vfl.blocks.disk import NO_ROOM
from vfl.blocks.scratch import Scratch
from vfl.blocks.spill import room_of, spill_folder
from vfl.blocks.spool import Spooled, gather
from vfl.errors import DataError
from vfl.party.rows_from import OWN_VIEW, RowsFrom
from vfl.party.sources.arrow import without
from vfl.party.sources.opening import open_source
from vfl.party.sources.parquet import Columnar
from vfl.party.sources.parts import TextParts
from vfl.party.sources.query_words import (
    changing_parts,
    kind_of_error,
    missing_column,
    what_is_wrong,
)
from vfl.party.sources.result import Result
from vfl.party.sources.source import Source, TableError
from vfl.party.sources.streamed import streamable, streamed

_VIEW = '"the result"'
_BATCH = 1 << 16  # rows that DuckDB hands over at a time


class _Relation(Protocol):
    columns: list[str]

    def to_arrow_reader(self, batch_size: int) -> pa.RecordBatchReader: ...


class _Executed(Protocol):
    def fetchone(self) -> tuple[object, ...] | None: ...


class _Connection(Protocol):
    def execute(self, sql: str, values: Sequence[object] = ()) -> _Executed: ...
    def sql(self, sql: str) -> _Relation: ...
    def register(self, name: str, table: object) -> object: ...
    def close(self) -> None: ...


class Query(Result):
    """The result of a query over files. `batch` takes the place of the table's own rows, if given."""

    def __init__(
        self,
        data: RowsFrom,
        order: Sequence[str],
        text: str,
        batch: Source | None = None,
        scratch: Scratch = Scratch(),
    ) -> None:
        super().__init__(Path("[data] query"), data, order)
        self._data, self._text, self._bound = data, text, False
        self.scratch, self._batch = scratch, batch
        own = batch if batch is not None else open_source(data.named, data)
        sources = {OWN_VIEW: own}
        sources |= {name: open_source(files, data) for name, files in data.tables.items()}
        self._sources, self._faults = [*sources.values()], list[TableError]()
        self._tables = {name: self._arrow(source) for name, source in sources.items()}
        self.notes += [note for source in sources.values() for note in source.notes]
        self.unnamed = any(source.unnamed for source in sources.values())
        with self._result() as connection:
            # Those of the query itself: a view would rename one that comes twice.
            self.names = list(connection.sql(self._text).columns)
            self.check_result_names(str.casefold)
            parsed = connection.execute("select json_serialize_sql(?)", [self._text]).fetchone()
            if parsed is not None:
                said = changing_parts(str(parsed[0]))
                self.notes += [f"{self.path.name}: {one}" for one in said]

    def _read(self, names: list[str]) -> None:
        super()._read(names)
        if self._batch is not None:
            self.left_out = max(0, self._batch.rows - self.rows)

    def fetch(self, names: Sequence[str]) -> pa.Table | Spooled:
        columns = ", ".join('"' + name.replace('"', '""') + '"' for name in names)
        with self._result() as connection:
            reader = connection.sql(f"select {columns} from {_VIEW}").to_arrow_reader(_BATCH)  # noqa: S608
            return gather(self.scratch, reader)

    def _arrow(self, source: Source) -> object:
        """A table for DuckDB: Parquet and Arrow are read as the query asks, text by batches."""
        cases: dict[str, str] = {}
        names = [name for name in source.names if name not in source.lacking]
        for name in names:
            if (other := cases.setdefault(name.casefold(), name)) != name:
                if source.unnamed:
                    raise source.no_names()
                raise source.error(
                    f"columns '{other}' and '{name}' differ in case alone, which a query does not tell "
                    "apart: rename one"
                )
        source.scratch = self.scratch
        if isinstance(source, Columnar) and streamable(source):
            return streamed(source, names, self._faults)
        source.read(names)
        if isinstance(source, Columnar):
            return pa.table({name: source.plain(name) for name in names})
        schema = pa.schema([(name, pa.string()) for name in names])
        batches = self._with_nulls(source, schema)
        made = gather(self.scratch, pa.RecordBatchReader.from_batches(schema, batches))
        return made.whole if isinstance(made, Spooled) else made

    def _with_nulls(self, source: Source, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """Text in which what says that a value is missing is null; of ids the empty cell alone does."""
        empty = pa.array([""])
        for part in source.parts if isinstance(source, TextParts) else [source]:
            table = pa.Table.from_arrays([part.table[name] for name in schema.names], schema.names)
            for batch in table.to_batches(_BATCH):
                columns = [
                    without(column, empty if name in self._order else source.missing)
                    for name, column in zip(schema.names, batch.columns, strict=True)
                ]
                yield pa.record_batch(columns, schema=schema)

    @contextlib.contextmanager
    def _result(self) -> Iterator[_Connection]:
        """A connection that has the query as a view, and nothing else to look at. Raises TableError."""
        duckdb = _duckdb()
        with spill_folder(self.scratch.folder) as folder:
            connection = cast(_Connection, duckdb.connect(":memory:", config=dict(_CLOSED)))
            try:
                connection.execute(f"set memory_limit = '{self._data.query_memory}MiB'")
                connection.execute(f"set temp_directory = '{str(folder).replace(chr(39), chr(39) * 2)}'")
                connection.execute(f"set max_temp_directory_size = '{self._disk_of(folder)}KiB'")
                connection.execute("set timezone = 'UTC'")
                for name, table in self._tables.items():
                    connection.register(name, table)
                connection.execute("set enable_external_access = false")
                connection.execute("set lock_configuration = true")
                self._check_statement(duckdb)
                self._bound = False
                connection.execute(f"create temporary view {_VIEW} as {self._text}")
                self._bound = True
                yield connection
            except (duckdb.Error, pa.ArrowException, OSError) as error:
                if self._faults:
                    raise self._faults[0] from None
                for source in self._sources:
                    for file in streamable(source):
                        file.check_intact()
                raise self._error(error, folder) from None
            finally:
                connection.close()

    def _disk_of(self, folder: Path) -> int:
        """KiB of the disk that it may take: never all, as a job writes its own files there as well."""
        most = room_of(folder) * 9 // 10
        if self._data.query_disk is not None:
            most = min(most, self._data.query_disk << 20)
        return max(1, most >> 10)

    def _check_statement(self, duckdb: ModuleType) -> None:
        statements = duckdb.extract_statements(self._text)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise self.error("it must be one select")

    def _error(self, error: Exception, folder: Path) -> TableError:
        """What is wrong, without DuckDB's own words, which quote cells."""
        kind = kind_of_error(error)  # among the rows it comes as an OSError
        if kind is None:
            return self.error("the files cannot be read, or have changed meanwhile")
        if kind == "Out of Memory" and "max_temp_directory_size" in str(error):
            fault = self.error(
                f"it takes more than {self._disk_of(folder) >> 10:,} MB of the disk of {folder.parent} "
                f"({room_of(folder) >> 20:,} MB are free there): make room, or raise query_disk or "
                "query_memory in [data]"
            )
            fault.for_peer = NO_ROOM
            return fault
        if kind == "IO":
            return self.error(
                f"it has no room for its files in {folder.parent}, or they cannot be written: make room "
                "there, or raise query_memory in [data]"
            )
        if kind == "Out of Memory":
            return self.error(
                f"it takes more than {self._data.query_memory:,} MB: raise query_memory in [data]"
            )
        # Of a view that is there DuckDB counts the lines of a text of its own.
        lines = not self._bound
        words = what_is_wrong(error, self._text, [*self._tables], lines=lines)
        for source in self._sources:
            for name, told in source.lacking.items():
                if words == f"there is no column '{name}'":
                    return self.error(f"{words}: {told}")
        column, batch = missing_column(error), self._batch
        if column is not None and batch is not None and not _has(batch, column):
            words += (
                f"; {batch.path.name}, whose rows are scored, needs all columns that the query reads, "
                "also one for training alone such as the label (empty where it is not known)"
            )
        return self.error(words)


def _has(source: Source, name: str) -> bool:
    """Whether a table has a column, as DuckDB compares names."""
    return name.casefold() in map(str.casefold, source.names)


# What holds before any table is there, so that nothing but tables can come in.
_CLOSED: Mapping[str, str] = {
    "allow_community_extensions": "false",
    "allow_unsigned_extensions": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",
    "preserve_insertion_order": "true",
}


def _duckdb() -> ModuleType:
    try:
        return importlib.import_module("duckdb")
    except ModuleNotFoundError:
        raise DataError(
            "[data] query over files needs DuckDB, which is not installed: pip install 'vfl[duckdb]'"
        ) from None
