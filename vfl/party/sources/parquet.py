"""Tables whose columns have types: Parquet, and the files of Arrow (Feather)."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vfl.errors import DataError
from vfl.party.id_cells import float_texts, whole_text
from vfl.party.reading import DateColumn, Reading
from vfl.party.sources.arrow import ArrowColumn, float64, is_exact, is_text, without
from vfl.party.sources.content import Content
from vfl.party.sources.misfits import misfits, set_it
from vfl.party.sources.numerals import parse
from vfl.party.sources.source import Source


class Columnar(Source):
    """A table in memory whose columns have types of Arrow."""

    indexed: frozenset[str] = frozenset()
    """The columns that pandas' own note in the file says are an index."""

    @property
    def row_labels(self) -> frozenset[str]:
        return super().row_labels | self.indexed

    def ids(self, name: str) -> list[str | None]:
        column = self._plain(name)
        kind = column.type
        if pa.types.is_floating(kind):
            return self._whole_ids(name, column)
        if pa.types.is_decimal(kind) and kind.scale > 0:
            numbers = column.to_pylist()
            texts = [None if number is None else whole_text(number) for number in numbers]
            given = np.array([number is not None for number in numbers])
            self._check_whole(name, given & np.array([text is None for text in texts]))
            return texts
        if pa.types.is_timestamp(kind):
            column = _moments(column)
            kind = column.type
        if not is_exact(kind):
            raise self.error(f"id column '{name}' is of type {_words(kind)}: write it as text")
        values = pc.cast(column, pa.string()).to_numpy(zero_copy_only=False)
        return [value or None for value in values.tolist()]

    def _whole_ids(self, name: str, column: ArrowColumn) -> list[str | None]:
        """Whole numbers that are kept as floats, as pandas keeps those with gaps."""
        texts, fractions, lost = float_texts(column.to_numpy())
        self._check_whole(name, fractions)
        if lost.any():
            raise self.error(
                f"id column '{name}' has a float of which digits are lost {self.in_rows(lost)}: write "
                "the column anew as text or whole numbers"
            )
        return texts

    def _check_whole(self, name: str, fractions: NDArray[np.bool_]) -> None:
        if fractions.any():
            raise self.error(
                f"id column '{name}' has a number that is not whole {self.in_rows(fractions)}: write "
                "the column anew as text or whole numbers"
            )

    def text(self, name: str, what: str = "") -> ArrowColumn:
        what = what or f"categorical column '{name}'"
        column = self._plain(name)
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
        column = self._plain(name)
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

    def _of_text(
        self, column: ArrowColumn, name: str, what: str, advice: str, feature: bool
    ) -> DataError:
        text = without(column, self.missing)
        bad = parse(text, self.reading)[1]
        settings: Mapping[str, object] = {}
        if feature and not bad.any():
            advice = "write it as numbers, or list the column under categorical if they are codes"
        elif feature:
            most = misfits(text, bad, name, self.reading, advice, feature=True)[0]
            advice = "write it as numbers"
            if most.settings.keys() & {"categorical", "dates", "ignore"}:
                advice, settings = most.advice, most.settings
        return self.error(f"{what} holds text, not numbers: {advice}", settings)

    def _days(self, name: str, what: str, rule: DateColumn) -> NDArray[np.float64]:
        column = self._plain(name)
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

    def _plain(self, name: str) -> pa.ChunkedArray:
        """A column without views, dictionaries, runs and extensions; bytes that are text as text."""
        column = self.table[name]
        extension = (self.table.schema.field(name).metadata or {}).get(b"ARROW:extension:name")
        if extension is not None and extension.decode("utf-8", "replace") not in _EXTENSIONS:
            raise self.error(f"column '{name}' is of a type of its own: write it as text or numbers")
        try:
            for chunk in column.chunks:
                chunk.validate(full=True)  # Parquet's text may be of another encoding
        except (pa.ArrowException, ValueError):
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


class Parquet(Columnar):
    def __init__(self, content: Content, reading: Reading) -> None:
        super().__init__(content.path, reading)
        self._file = self._whole(lambda: pq.ParquetFile(self.for_arrow, **_PARQUET))
        self.names = list(self._file.schema_arrow.names)
        self.indexed = _index_of(self._file.schema_arrow)
        self.rows = self._file.metadata.num_rows
        if self.rows == 0:
            raise self.error("the file has columns but no rows")

    def read(self, names: list[str]) -> None:
        # Arrow also takes a name for the prefix of nested ones; select keeps what was asked for.
        self.table = self._whole(lambda: self._file.read(columns=names).select(names))

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
    """Arrow's own format for files, which Feather is, and its streams."""

    def __init__(self, content: Content, reading: Reading, *, stream: bool) -> None:
        super().__init__(content.path, reading)
        self._opened = pa.ipc.open_stream if stream else pa.ipc.open_file
        schema = self._whole(lambda reader: reader.schema)
        self.names, self.indexed = list(schema.names), _index_of(schema)

    def read(self, names: list[str]) -> None:
        fields = [self.names.index(name) for name in names]
        self.table = self._whole(lambda reader: reader.read_all(), fields).select(names)
        try:
            self.table.validate(full=True)  # nothing in the format says whether its bytes are whole
        except (pa.ArrowException, ValueError):
            raise self.error("the file is damaged: write it anew") from None
        self.rows = self.table.num_rows
        if self.rows == 0:
            raise self.error("the file has columns but no rows")

    def _whole(self, read: Callable[[pa.RecordBatchReader], T], fields: Sequence[int] = ()) -> T:
        options = pa.ipc.IpcReadOptions(included_fields=list(fields))
        try:
            with self.path.open("rb") as file, self._opened(file, options=options) as reader:
                return read(reader)
        except (pa.ArrowException, OSError, ValueError):
            raise self.error("the file is damaged or is no Arrow file: write it anew") from None


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
