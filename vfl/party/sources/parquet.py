"""Tables whose columns have types: Parquet, and the files of Arrow (Feather)."""

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import TypeVar, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vfl.blocks.scratch import IN_MEMORY, OF_A_ROW_EACH, release_pages
from vfl.blocks.spool import Spooled, gather
from vfl.blocks.texts import PIECE, Cells
from vfl.errors import DataError
from vfl.party.id_cells import float_texts, whole_text
from vfl.party.reading import DateColumn, Reading
from vfl.party.sources.arrow import ArrowColumn, float64, is_exact, is_text, mask_of, without
from vfl.party.sources.content import Content
from vfl.party.sources.misfits import misfits, set_it
from vfl.party.sources.numerals import parse
from vfl.party.sources.source import Source
from vfl.party.sources.text import numbers_of_text


class Columnar(Source):
    """A table in memory whose columns have types of Arrow."""

    indexed: frozenset[str] = frozenset()
    """The columns that pandas' own note in the file says are an index."""
    by_column = False
    """Whether columns are read from the file whenever they are asked for."""

    @property
    def row_labels(self) -> frozenset[str]:
        return super().row_labels | self.indexed

    @property
    def schema(self) -> pa.Schema:
        """The columns with their types as the file has them."""
        return self.table.schema

    def is_of_folders(self, name: str) -> bool:
        """Whether the names of folders hold the cells of a column, read as those of a text file are."""
        return name in self.folders

    def in_pieces(self, name: str) -> Iterator[pa.ChunkedArray] | None:
        """A large column of numbers or text as `plain` has it, a piece at a time; None for others, and
        for what is in memory anyhow."""
        if not self.by_column or name in self.folders:
            return None
        kind = self.schema.field(name).type
        tests = is_text, pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean
        if not any(test(kind) for test in tests):
            return None
        batches = self._pieces([name], None)
        return (self.plain_of(name, pa.chunked_array([batch[name]])) for batch in batches)

    def _type_in_pieces(self, name: str) -> pa.DataType | None:
        """The type of a column that can be read a piece at a time, None of another one."""
        if self.scratch.folder is None or self.rows * _WIDTH < OF_A_ROW_EACH:
            return None
        return None if self.in_pieces(name) is None else self.plain_type(name)

    def ids(self, name: str) -> Sequence[str | None]:
        kind = self._type_in_pieces(name)
        pieces = None if kind is None or not is_exact(kind) else self.in_pieces(name)
        if pieces is not None and self.scratch.folder is not None:
            texts = (pc.cast(piece, pa.large_string()) for piece in pieces)
            return Cells.spooled(texts, self.scratch.folder)
        column = self.plain(name)
        kind = column.type
        if pa.types.is_floating(kind):
            return self._whole_ids(name, column)
        if pa.types.is_decimal(kind) and kind.scale > 0:
            return self.as_whole_numbers(name, column, lambda cell: whole_text(cast(Decimal, cell)))
        if pa.types.is_timestamp(kind):
            column = _moments(column)
            kind = column.type
        if not is_exact(kind):
            raise self.error(f"id column '{name}' is of type {_words(kind)}: write it as text")
        return Cells(pc.cast(column, pa.large_string()))

    def _whole_ids(self, name: str, column: pa.ChunkedArray) -> Cells:
        """Whole numbers that are kept as floats, as pandas keeps those with gaps."""
        texts, fractions, lost = [], np.zeros(len(column), np.bool_), np.zeros(len(column), np.bool_)
        for start in range(0, len(column), PIECE):
            some = slice(start, start + PIECE)
            piece, fractions[some], lost[some] = float_texts(column.slice(start, PIECE).to_numpy())
            texts.append(pa.array(piece, pa.large_string()))
        self._check_whole(name, fractions)
        if lost.any():
            raise self.error(
                f"id column '{name}' has a float of which digits are lost {self.in_rows(lost)}: write "
                "the column anew as text or whole numbers"
            )
        return Cells(pa.chunked_array(texts, pa.large_string()))

    def as_whole_numbers(
        self, name: str, column: pa.ChunkedArray, text_of: Callable[[object], str | None]
    ) -> Cells:
        """A column of ids whose cells are each a whole number once `text_of` has written them."""
        texts, bad = [], np.zeros(len(column), np.bool_)
        for start in range(0, len(column), PIECE):
            cells = column.slice(start, PIECE).to_pylist()
            piece = [None if cell is None else text_of(cell) for cell in cells]
            pairs = zip(cells, piece, strict=True)
            bad[start : start + PIECE] = [cell is not None and text is None for cell, text in pairs]
            texts.append(pa.array(piece, pa.large_string()))
        self._check_whole(name, bad)
        return Cells(pa.chunked_array(texts, pa.large_string()))

    def _check_whole(self, name: str, fractions: NDArray[np.bool_]) -> None:
        if fractions.any():
            raise self.error(
                f"id column '{name}' has a number that is not whole {self.in_rows(fractions)}: write "
                "the column anew as text or whole numbers"
            )

    def text(self, name: str, what: str = "") -> ArrowColumn:
        what = what or f"categorical column '{name}'"
        column = self.plain(name)
        kind = column.type
        if pa.types.is_floating(kind):
            # Whole numbers with gaps are often stored as floats: 3.0 is the category 3.
            numbers = float64(column)
            seen = numbers[~np.isnan(numbers)]
            if (np.abs(seen) >= 2**53).any():
                raise self.error(f"{what} holds huge numbers: write it as text")
            column = pa.array(numbers, from_pandas=True)
            if (seen == np.round(seen)).all():
                column = pc.cast(column, pa.int64())
        elif pa.types.is_timestamp(kind):
            column = _moments(column)
        elif not (is_exact(kind) or pa.types.is_boolean(kind)):
            raise self.error(f"{what} is of type {_words(kind)}: write it as text")
        return without(pc.cast(column, pa.string()), self.missing)

    def _numbers(self, name: str, what: str, advice: str, feature: bool) -> NDArray[np.float64]:
        if self.is_of_folders(name):
            return numbers_of_text(self, self.plain(name), name, what, advice, feature)
        kind = self._type_in_pieces(name)
        if kind is not None and not is_text(kind) and (pieces := self.in_pieces(name)) is not None:
            return self._numbers_in_pieces(pieces)
        column = self.plain(name)
        kind = column.type
        if column.null_count == self.rows:
            return np.full(self.rows, np.nan)
        if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
            settings = {"dates": {name: {"as": "days"}}} if feature else {}
            by = f" ({set_it(**settings)})" if feature else ""
            raise self.error(
                f"{what} holds dates or times: turn it into a number{by}, such as an age in years, or "
                "ignore it in [data]",
                settings,
            )
        if pa.types.is_temporal(kind):
            raise self.error(
                f"{what} holds times of day or durations: turn it into a number, such as minutes, or "
                "ignore it in [data]",
                {"ignore": [name]} if feature else {},
            )
        if is_text(kind):
            raise self._of_text(column, name, what, advice, feature)
        if not (
            pa.types.is_integer(kind)
            or pa.types.is_floating(kind)
            or pa.types.is_boolean(kind)
            or pa.types.is_decimal(kind)
        ):
            if not feature:
                raise self.error(f"{what} is of type {_words(kind)}: {advice}")
            raise self.error(
                f"{what} is of type {_words(kind)}: write it as numbers or text, or ignore it in [data]",
                {"ignore": [name]},
            )
        if pa.types.is_decimal(kind):
            # By way of text, since Arrow's own conversion of many digits is not the nearest number.
            column = pc.cast(column, pa.string())
        return float64(column)

    def _numbers_in_pieces(self, pieces: Iterator[pa.ChunkedArray]) -> NDArray[np.float64]:
        out, at = self.scratch.of_rows(self.rows, np.float64, "a column of the table"), 0
        for piece in pieces:
            out[at : at + len(piece)] = float64(piece)
            at += len(piece)
            release_pages(out)
        return out

    def _of_text(
        self, column: ArrowColumn, name: str, what: str, advice: str, feature: bool
    ) -> DataError:
        text = without(column, self.missing)
        bad = parse(text, self.reading)[1]
        settings: Mapping[str, object] = {}
        if feature and not bad.any():
            advice = "write it as numbers, or list the column under categorical if they are codes"
        elif feature:
            found = misfits(text, bad, name, self.reading, advice, feature=True)
            advice = "write it as numbers"
            for one in found:  # of most rows; what stands for no value is a level of the others then
                if one.settings.keys() & {"categorical", "dates", "ignore"}:
                    advice, settings = one.advice, one.settings
                    break
        return self.error(f"{what} holds text, not numbers: {advice}", settings)

    def _days(self, name: str, what: str, rule: DateColumn) -> NDArray[np.float64]:
        column = self.plain(name)
        kind = column.type
        if column.null_count == self.rows:
            return np.full(self.rows, np.nan)
        if pa.types.is_timestamp(kind) and kind.tz is not None:
            try:
                column = pc.local_timestamp(column)
            except pa.ArrowException:
                raise self.error(f"{what} has an unknown time zone: write it without one") from None
        if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
            days = column.to_numpy(zero_copy_only=False).astype("datetime64[D]")
            return np.where(np.isnat(days), np.nan, days.astype(np.int64))
        if pa.types.is_integer(kind):  # 20241231
            column = pc.cast(column, pa.string())
        elif not is_text(kind):
            raise self.error(
                f"{what} is of type {_words(kind)} and holds no dates: take it out of dates in [data]"
            )
        text = without(column, self.missing)
        return self.dates_of(name, what, text, rule)

    def plain_type(self, name: str) -> pa.DataType:
        """The type of a column as `plain` has it, of which bytes alone are looked at."""
        if name in self.folders:
            return pa.string()
        kind = self.schema.field(name).type
        if _depends_on_values(kind):
            self.read([name])
            return self.plain(name).type
        return self.plain_of(name, pa.chunked_array([], kind)).type

    def batches(
        self, schema: pa.Schema, groups: Sequence[int] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """The rows of columns as `plain` has them, a piece at a time, cast to the types of `schema`.

        groups: those of a Parquet file that are wanted.
        """
        names = [name for name in schema.names if name not in self.folders]
        for batch in self._pieces(names or self.own_names[:1], groups):
            columns = [
                pa.repeat(pa.scalar(self.folders[name], kind), batch.num_rows)
                if name in self.folders
                else self._cast(name, self.plain_of(name, pa.chunked_array([batch[name]])), kind)
                for name, kind in zip(schema.names, schema.types, strict=True)
            ]
            yield pa.record_batch(columns, schema=schema)

    def _cast(self, name: str, column: pa.ChunkedArray, kind: pa.DataType) -> pa.Array:
        try:
            return pc.cast(column.combine_chunks(), kind)
        except pa.ArrowException:
            raise self.error(
                f"column '{name}' is of a type, {column.type}, that has none in common with that of "
                "other files: write the parts anew with one type"
            ) from None

    def _pieces(self, names: list[str], groups: Sequence[int] | None) -> Iterator[pa.RecordBatch]:
        """The rows of columns as the file has them, a piece at a time."""
        raise NotImplementedError

    def plain(self, name: str) -> pa.ChunkedArray:
        """A column without views, dictionaries, runs and extensions; bytes that are text as text."""
        column = self.table[name]
        if name in self.folders:
            return column
        plain = self.plain_of(name, column)
        self._check_finite(name, plain)
        return plain

    def plain_of(self, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
        """Some rows of a column as `plain` has them. Raises TableError."""
        extension = (self.schema.field(name).metadata or {}).get(b"ARROW:extension:name")
        if extension is not None and extension.decode("utf-8", "replace") not in _EXTENSIONS:
            raise self.error(f"column '{name}' is of a type of its own: write it as text or numbers")
        try:
            for chunk in column.chunks:
                chunk.validate(full=True)  # Parquet's text may be of another encoding
        except (pa.ArrowException, ValueError):
            if pa.types.is_decimal(column.type):
                raise self.error(
                    f"column '{name}' has a number of more digits than its type, {column.type}, has: "
                    "make it a floating-point number or text"
                ) from None
            raise self.error(
                f"column '{name}' has text that is not UTF-8 or is damaged: write it anew"
            ) from None
        try:
            chunks = [_plain(chunk) for chunk in column.chunks] or [_plain(pa.array([], column.type))]
            return pa.chunked_array(chunks)
        except (pa.ArrowException, ValueError):
            raise self.error(
                f"column '{name}' is of type {_words(column.type)}, which cannot be read: write it as "
                "text or numbers"
            ) from None

    def _check_finite(self, name: str, column: pa.ChunkedArray) -> None:
        """Raises TableError for the infinite dates of databases, which Arrow takes for days."""
        kind = column.type
        dated = pa.types.is_date32(kind) or pa.types.is_timestamp(kind)
        if not dated or column.null_count == len(column):
            return
        whole = pa.int32() if pa.types.is_date32(kind) else pa.int64()
        ticks = column.cast(whole)
        most = 2 ** (whole.bit_width - 1) - 1
        span = pc.min_max(ticks).as_py()
        if span["min"] <= -most or span["max"] >= most:
            infinite = mask_of(pc.or_(pc.less_equal(ticks, -most), pc.greater_equal(ticks, most)))
            raise self.error(
                f"column '{name}' has an infinite date {self.in_rows(infinite)}: correct it"
            )


T = TypeVar("T")


_EXTENSIONS = ("arrow.bool8", "arrow.json", "arrow.uuid")
_CONTROL = r"[\x00-\x08\x0e-\x1f\x7f]"


def _plain(array: pa.Array) -> pa.Array:
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        storage = _plain(array.storage)
        if kind.extension_name == "arrow.bool8":
            return pc.not_equal(storage, 0)
        if kind.extension_name == "arrow.uuid":
            values = array.storage.to_pylist()
            return pa.array(
                [None if v is None else str(uuid.UUID(bytes=v)) for v in values], pa.string()
            )
        return storage if kind.extension_name in _EXTENSIONS else array
    if pa.types.is_dictionary(kind):
        return _plain(array.dictionary).take(array.indices)
    if pa.types.is_run_end_encoded(kind):
        ends = np.asarray(array.run_ends)
        places = np.searchsorted(ends, array.offset + np.arange(len(array)), side="right")
        return _plain(array.values).take(pa.array(places))
    if pa.types.is_string_view(kind):
        return pc.cast(array, pa.large_string())
    if (
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    ):
        return _as_text(array)
    return array


def _depends_on_values(kind: pa.DataType) -> bool:
    """Whether a column may be text or not by what is in it."""
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return _depends_on_values(kind.value_type)
    return not (
        is_text(kind)
        or pa.types.is_primitive(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_null(kind)
        or pa.types.is_string_view(kind)
    )


def _as_text(array: pa.Array) -> pa.Array:
    """Bytes as text if they all are, as older writers of Parquet leave it; else as they are."""
    try:
        text = pc.cast(pc.cast(array, pa.large_binary()), pa.large_string())
    except pa.ArrowException:
        return array
    return array if pc.any(pc.match_substring_regex(text, _CONTROL)).as_py() else text


def _words(kind: pa.DataType) -> str:
    text = str(kind)
    return text if len(text) <= 60 else text[:60] + "..."


_PARQUET = {
    "page_checksum_verification": True,
    "coerce_int96_timestamp_unit": "us",  # nanoseconds would wrap around beyond the years 1677 to 2262
}


_BUFFER = 1 << 16  # bytes of a column that is read in pieces
_WIDTH = 8  # bytes of a cell, more or less


@dataclass(frozen=True)
class _ColumnByColumn:
    """A table whose columns are read when they are asked for, and not kept."""

    schema: pa.Schema
    read: Callable[[list[str]], pa.Table]

    def __getitem__(self, name: str) -> pa.ChunkedArray:
        return self.read([name])[name]


class Parquet(Columnar):
    """A Parquet file; with `part` one of several, which may have no rows."""

    def __init__(self, content: Content, reading: Reading, *, part: bool = False) -> None:
        super().__init__(content.path, reading)
        self._file = self._whole(lambda: pq.ParquetFile(self.for_arrow, **_PARQUET))
        self._schema: pa.Schema = self._file.schema_arrow
        self.names = list(self.schema.names)
        self.indexed = _index_of(self.schema)
        self.content = content
        self.rows = self._file.metadata.num_rows
        if self.rows == 0 and not part:
            raise self.error("the file has columns but no rows")

    def _read(self, names: list[str]) -> None:
        self.by_column = (self.beside or self.rows) * len(names) * _WIDTH > IN_MEMORY
        if self.by_column:
            self.table = _ColumnByColumn(self._file.schema_arrow, self._columns)
        else:
            self.table = self._columns(names)

    def _read_part(self, names: list[str], part: slice) -> None:
        groups = [*range(part.start, part.stop)]
        read = self._whole(lambda: self._file.read_row_groups(groups, columns=names).select(names))
        self.table, self.rows = read, read.num_rows

    @property
    def groups(self) -> list[int]:
        """The rows of each row group."""
        about = self._file.metadata
        return [about.row_group(place).num_rows for place in range(about.num_row_groups)]

    def _columns(self, names: list[str]) -> pa.Table:
        # Arrow also takes a name for the prefix of nested ones; select keeps what was asked for.
        read = self._whole(lambda: self._file.read(columns=names).select(names))
        self.check_unchanged()
        return read

    @property
    def schema(self) -> pa.Schema:
        return self._schema

    def _pieces(self, names: list[str], groups: Sequence[int] | None) -> Iterator[pa.RecordBatch]:
        # Of its own, as a query may read it at several places.
        file = self._whole(lambda: pq.ParquetFile(self.for_arrow, buffer_size=_BUFFER, **_PARQUET))
        batches = self._whole(lambda: file.iter_batches(PIECE, row_groups=groups, columns=names))
        while (batch := self._whole(lambda: next(batches, None))) is not None:
            yield batch.select(names)
        self.check_unchanged()

    def check_intact(self) -> None:
        """Raise TableError where the file is damaged, or has changed."""
        self._whole(lambda: [None for _ in self._file.iter_batches()])
        self.check_unchanged()

    def _whole(self, read: Callable[[], T]) -> T:
        try:
            return read()
        except (pa.ArrowException, OSError, ValueError) as error:
            if "encrypt" in str(error).lower():
                raise self.error("the file is encrypted: write it without encryption") from None
            if isinstance(error, NotImplementedError) or "codec" in str(error).lower():
                raise self.error(
                    "the file has a compression or encoding that this pyarrow cannot read: write it "
                    "anew with snappy or zstd"
                ) from None
            raise self.error("the file is damaged or is no Parquet file: write it anew") from None


class Ipc(Columnar):
    """Arrow's own format for files, which Feather is, and its streams; `part` as of Parquet."""

    def __init__(self, content: Content, reading: Reading, *, stream: bool, part: bool = False) -> None:
        super().__init__(content.path, reading)
        self.content = content
        self._part, self._stream = part, stream
        self._opened = pa.ipc.open_stream if stream else pa.ipc.open_file
        self.names: list[str] = []
        self._schema: pa.Schema = self._whole(lambda reader: reader.schema)
        self.names, self.indexed = list(self._schema.names), _index_of(self._schema)

    def _read(self, names: list[str]) -> None:
        self.by_column = self._columnwise(names)
        if self.by_column:
            self.table = _ColumnByColumn(self._schema, self._columns)
            self.rows = len(self.table[names[0]])
        else:
            self.table = self._columns(names)
            self.rows = self.table.num_rows
        if self.rows == 0 and not self._part:
            raise self.error("the file has columns but no rows")

    def _columnwise(self, names: Sequence[str]) -> bool:
        """Whether the columns are too large for memory, and can be read one by one."""
        if self._stream or not names:
            return False
        rows = self._whole(_rows_about, [names[0]])
        return rows * len(names) * _WIDTH > IN_MEMORY

    def _columns(self, names: list[str]) -> pa.Table | Spooled:
        return self._whole(lambda reader: gather(self.scratch, self._checked(reader)), names)

    @property
    def schema(self) -> pa.Schema:
        return self._schema

    def _pieces(self, names: list[str], groups: Sequence[int] | None) -> Iterator[pa.RecordBatch]:
        with self._reading(names) as reader:
            for batch in self._checked(reader):
                yield batch.select(names)
        self.check_unchanged()

    def check_intact(self) -> None:
        """Raise TableError where the file is damaged, or has changed."""
        for _ in self._pieces(self.own_names, None):
            pass

    def _checked(self, reader: pa.RecordBatchReader) -> pa.RecordBatchReader:
        """The batches that are left; nothing in the format says whether their bytes are whole."""

        def check() -> Iterator[pa.RecordBatch]:
            for batch in _batches_of(reader):
                try:
                    batch.validate(full=True)
                except (pa.ArrowException, ValueError):
                    raise self.error("the file is damaged: write it anew") from None
                yield _of_its_own(batch)

        return pa.RecordBatchReader.from_batches(reader.schema, check())

    def _whole(self, read: Callable[[pa.RecordBatchReader], T], names: Sequence[str] = ()) -> T:
        with self._reading(names) as reader:
            return read(reader)

    @contextmanager
    def _reading(self, names: Sequence[str]) -> Iterator[pa.RecordBatchReader]:
        fields = [self.names.index(name) for name in names]
        options = pa.ipc.IpcReadOptions(included_fields=fields)
        try:
            with self.path.open("rb") as file, self._opened(file, options=options) as reader:
                yield reader
        except (pa.ArrowException, OSError, ValueError):
            raise self.error("the file is damaged or is no Arrow file: write it anew") from None


def _batches_of(reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    """The batches of a stream, or of a file, whose reader does not pass through them."""
    if isinstance(reader, pa.RecordBatchReader):
        yield from reader
    else:
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)


def _of_its_own(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A batch that does not keep in memory what was read with it."""
    columns = [
        pa.concat_arrays([column])
        if any(buffer is not None and buffer.parent is not None for buffer in column.buffers())
        else column
        for column in batch.columns
    ]
    return pa.record_batch(columns, batch.schema)


def _rows_about(reader: pa.RecordBatchReader) -> int:
    """How many rows a file has, more or less, by its first batch."""
    batches = int(reader.num_record_batches)
    return batches * int(reader.get_batch(0).num_rows) if batches else 0


def _index_of(schema: pa.Schema) -> frozenset[str]:
    """The columns that are an index by pandas' note."""
    try:
        noted = (schema.pandas_metadata or {}).get("index_columns", [])
    except (ValueError, AttributeError):  # it is no note of pandas
        noted = []
    # An index that only counts is no column: there is a dictionary in place of a name.
    return frozenset(name for name in noted if isinstance(name, str) and name in schema.names)


def _moments(column: ArrowColumn) -> ArrowColumn:
    """Timestamps as text, midnights as dates: that is how programs write dates."""
    text = pc.cast(pc.local_timestamp(column) if column.type.tz else column, pa.string())
    return pc.replace_substring_regex(text, r"( 00:00:00)?(\.0*)?$", "")
