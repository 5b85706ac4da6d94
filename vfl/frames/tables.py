"""A table of any library as a pandas DataFrame with text for names.

pandas' own frames; whatever speaks Arrow's PyCapsule interface (polars, pyarrow, DuckDB, ...) or the
dataframe interchange protocol; arrays of two dimensions, lists of rows, and what NumPy can make one of.
"""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.interchange
from numpy.typing import NDArray
from scipy.sparse import issparse

from vfl.errors import DataError

SHOWN = 20  # names in an error at most


@dataclass(frozen=True)
class Frame:
    """A party's table.

    named: whether its columns have names of their own; those of an array are x0, x1, ... indexed:
    whether it has an index, in which ids may be; pandas' frames alone have one.
    """

    columns: pd.DataFrame
    named: bool
    indexed: bool


def frame_of(table: object, party: str) -> Frame:
    """A party's table, of whatever library. Raises DataError for what has no rows and columns."""
    if isinstance(table, pd.DataFrame):
        return Frame(_with_text_names(table, party), _has_names(table), indexed=True)
    _refuse_others(table, party)
    arrow = _arrow_of(table, party)
    if arrow is not None:
        return _from_arrow(arrow, party)
    return _from_array(_array_of(table, party), party)


def _refuse_others(table: object, party: str) -> None:
    if table is None:
        raise DataError(f"{party}: no table was given")
    if isinstance(table, str | bytes | os.PathLike):
        raise DataError(f"{party}: a table is due, not a path or text: read the file first")
    if issparse(table):  # some of which are dicts
        raise DataError(
            f"{party}: a sparse matrix was passed, but dense data is required: turn it into an array "
            "with .toarray()"
        )
    if isinstance(table, Mapping):
        raise DataError(f"{party}: a table is due, not a dict: pandas.DataFrame makes one of it")
    if isinstance(table, pa.RecordBatchReader):
        raise DataError(f"{party}: a stream can be read once only: give .read_all()")
    if hasattr(table, "to_frame") and not hasattr(table, "columns"):
        raise DataError(
            f"{party}: a table has rows and columns, a {type(table).__name__} is one column. Reshape "
            "your data: .to_frame() makes it a table"
        )
    for load in ("collect", "compute"):  # polars, narwhals and Spark; dask
        if hasattr(table, load):
            raise DataError(f"{party}: the table is not in memory yet: give .{load}()")


def _arrow_of(table: object, party: str) -> pa.Table | None:
    """None for what has nothing to do with Arrow."""
    try:
        if hasattr(table, "__arrow_c_stream__"):
            return pa.table(table)
        if hasattr(table, "__arrow_c_array__"):
            return pa.Table.from_batches([pa.record_batch(table)])
        if hasattr(table, "__dataframe__"):
            # Batches of one table may have other dictionaries.
            return pyarrow.interchange.from_dataframe(table).unify_dictionaries()
    except Exception as error:  # noqa: BLE001, RUF100 - another library's
        raise DataError(
            f"{party}: {type(table).__name__} could not be read as a table of columns "
            f"({type(error).__name__}): give a pandas DataFrame"
        ) from None
    return None


# Arrow.


def _from_arrow(table: pa.Table, party: str) -> Frame:
    _refuse_repeated(table.column_names, party)
    index, columns = _index_of(table), {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        columns[name] = series_of(column, f"{party}: column '{name}'")
    frame = pd.DataFrame(columns, index=pd.RangeIndex(table.num_rows))
    if index:
        frame = frame.set_index(index)
        frame.index.names = [None if name.startswith("__index_level_") else name for name in index]
    return Frame(frame, named=True, indexed=bool(index))


def _index_of(table: pa.Table) -> list[str]:
    """The columns that were the index of a pandas DataFrame, by what pandas wrote beside them."""
    names = (table.schema.pandas_metadata or {}).get("index_columns", [])
    return [name for name in names if isinstance(name, str) and name in table.column_names]


_NULLABLE: Mapping[pa.DataType, pd.api.extensions.ExtensionDtype] = {
    pa.bool_(): pd.BooleanDtype(),
    pa.int8(): pd.Int8Dtype(),
    pa.int16(): pd.Int16Dtype(),
    pa.int32(): pd.Int32Dtype(),
    pa.int64(): pd.Int64Dtype(),
    pa.uint8(): pd.UInt8Dtype(),
    pa.uint16(): pd.UInt16Dtype(),
    pa.uint32(): pd.UInt32Dtype(),
    pa.uint64(): pd.UInt64Dtype(),
}
"""So that a missing value makes neither objects of bools nor floats of whole numbers."""


def series_of(column: pa.ChunkedArray, what: str) -> pd.Series:
    """A column of Arrow's. Raises DataError for one that is neither numbers nor text, bools or dates."""
    if pa.types.is_dictionary(column.type):
        kind = _plain_kind(column.type.value_type, what)
        parts = [_cast(part.dictionary, kind).take(part.indices) for part in column.chunks]
        categories: pd.Series = _to_pandas(pa.chunked_array(parts, kind)).astype("category")
        return categories
    kind = _plain_kind(column.type, what)
    return _to_pandas(pa.chunked_array([_cast(part, kind) for part in column.chunks], kind))


def _cast(array: pa.Array, kind: pa.DataType) -> pa.Array:
    try:
        return array.cast(kind)
    except pa.ArrowNotImplementedError:  # of views, in older versions
        return pa.array(array.to_pylist(), kind)


def _to_pandas(column: pa.ChunkedArray) -> pd.Series:
    values: pd.Series = column.to_pandas(types_mapper=_NULLABLE.get)
    return values


def _plain_kind(kind: pa.DataType, what: str) -> pa.DataType:
    """The type that pandas takes such values in."""
    types = pa.types
    if types.is_decimal(kind):
        return pa.float64()
    if types.is_string(kind) or types.is_large_string(kind) or str(kind) == "string_view":
        return pa.large_string()
    if not (types.is_primitive(kind) or types.is_null(kind)):
        raise DataError(f"{what} holds values of type {kind}: numbers, text or bools are due")
    return kind


# Arrays.


def _array_of(table: object, party: str) -> NDArray[np.generic]:
    if isinstance(table, list | tuple) and any(getattr(one, "ndim", 0) == 2 for one in table):
        raise DataError(
            f"{party}: one table is due, not a {type(table).__name__} of {len(table)}: join them first, "
            "as by pandas.concat(tables)"
        )
    try:
        if isinstance(table, list | tuple):
            array = np.array(table, dtype=object)  # without, a text among numbers makes them all text
        else:
            array = np.ma.asanyarray(table) if np.ma.isMaskedArray(table) else np.asarray(table)
    except Exception:  # noqa: BLE001, RUF100 - lists of other lengths, objects with an __array__
        array = np.empty((), object)
    if not array.ndim:
        raise DataError(
            f"{party}: a table is due (a data frame, or an array of rows and columns), not "
            f"{type(table).__name__}"
        )
    if array.dtype.names is None and array.ndim != 2:
        raise DataError(
            f"{party}: a table has rows and columns, this one has {array.ndim} "
            f"dimension{'s' if array.ndim > 1 else ''}. Reshape your data: .reshape(-1, 1) makes it one "
            "column, .reshape(1, -1) one row"
        )
    return array


def _from_array(array: NDArray[np.generic], party: str) -> Frame:
    if array.dtype.names is not None:  # a structured one
        return Frame(pd.DataFrame(array.reshape(-1)), named=True, indexed=False)
    kind = array.dtype.kind
    if kind == "c":
        raise DataError(f"{party}: Complex data not supported: the array is of type {array.dtype}")
    if kind not in "biufOUTmM":
        raise DataError(f"{party}: an array of type {array.dtype} holds no numbers or text")
    if np.ma.isMaskedArray(array):
        dtype = np.float64 if kind in "biuf" else object
        array = np.ma.filled(array.astype(dtype), np.nan if kind in "biuf" else None)
    if kind in "UT":
        array = array.astype(object)
    frame = pd.DataFrame(array, columns=[f"x{i}" for i in range(array.shape[1])])
    return Frame(frame.infer_objects(), named=False, indexed=False)


# Names.


def _with_text_names(frame: pd.DataFrame, party: str) -> pd.DataFrame:
    if isinstance(frame.columns, pd.MultiIndex):
        raise DataError(
            f"{party}: column names must be plain and each must come once, not be of "
            f"{frame.columns.nlevels} levels"
        )
    names = [str(name) for name in frame.columns]
    _refuse_repeated(names, party)
    if names == list(frame.columns):
        return frame
    renamed = frame.copy(deep=False)
    renamed.columns = pd.Index(names, dtype=object)
    return renamed


def _has_names(frame: pd.DataFrame) -> bool:
    """Whether scikit-learn would take the labels of the columns for names."""
    return len(frame.columns) > 0 and all(isinstance(name, str) for name in frame.columns)


def _refuse_repeated(names: list[str], party: str) -> None:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        shown = ", ".join(f"'{name}'" for name in repeated[:5])
        raise DataError(
            f"{party}: column names must be plain and each must come once, but (as text) {shown}"
            f"{' and others' if len(repeated) > 5 else ''} {'come' if len(repeated) > 1 else 'comes'} "
            "more often"
        )
