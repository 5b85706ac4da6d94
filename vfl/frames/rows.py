"""What comes with a table, one value a row: labels, classes, weights, exposures, offsets."""

import numbers
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from pandas.api import types
from scipy.sparse import issparse
from sklearn.exceptions import DataConversionWarning
from sklearn.utils.multiclass import type_of_target

from vfl.arrays import Floats
from vfl.errors import DataError
from vfl.frames.features import finite_numbers
from vfl.frames.tables import Frame, series_of
from vfl.frames.warnings import warn
from vfl.learn.holdout import SplitColumn
from vfl.learn.losses import LARGEST, BadLabel, Loss, out_of_range
from vfl.party.reading import Reading
from vfl.party.sources.numerals import parse
from vfl.party.split_columns import moments_of
from vfl.text import counted

T = TypeVar("T")


def values_of(given: object, table: pd.DataFrame, what: str) -> pd.Series:
    """One value a row, by position; a Series whose index has the rows in another order is refused.

    Raises DataError for anything but one value a row.
    """
    values = _series(given, what)
    if isinstance(given, pd.Series):
        index = given.index
        if not index.equals(table.index) and _same_labels(index, table.index):
            raise DataError(f"{what} has the rows in another order than the table, by its index")
    if len(values) != len(table):
        raise DataError(f"{what} has {counted(len(values), 'value')} for {counted(len(table), 'row')}")
    return values


def drop_given(table: Frame, **given: object) -> Frame:
    """The table without the columns that are given apart: label, weight, exposure and offset are no
    features."""
    columns = table.columns
    for what, values in given.items():
        if not isinstance(values, pd.Series) or values.name not in columns:
            continue
        column = columns[values.name]
        if isinstance(column, pd.Series) and np.array_equal(column.to_numpy(), values.to_numpy()):
            warn(f"column {values.name!r} is given as {what}: it is no feature")
            columns = columns.drop(columns=[values.name])
    return replace(table, columns=columns)


def _same_labels(index: pd.Index, other: pd.Index) -> bool:
    if len(index) != len(other):
        return False
    try:
        return bool(index.sort_values().equals(other.sort_values()))
    except TypeError:  # labels that have no order
        return False


def _series(given: object, what: str) -> pd.Series:
    if given is None:
        raise DataError(f"requires {what} to be passed, but the target {what} is None")
    if isinstance(given, pd.Series):
        return given
    if isinstance(given, pd.DataFrame):
        only: pd.Series = _only_column([given[name] for name in given.columns], what)
        return only
    if isinstance(given, pd.Index | pd.api.extensions.ExtensionArray):
        return pd.Series(given)
    if issparse(given):
        raise DataError(f"{what} is sparse, but dense data is required: give an array (.toarray())")
    if isinstance(given, str | bytes) or not (hasattr(given, "__len__") or hasattr(given, "__array__")):
        raise DataError(f"{what} must have one value a row, not be {type(given).__name__}")
    if hasattr(given, "__arrow_c_stream__") or isinstance(given, pa.Array):
        return _of_arrow(given, what)
    array = given if isinstance(given, np.ndarray) else _array(given, what)
    if array.ndim == 2 and array.shape[1] == 1:
        _say_column(what)
        array = array[:, 0]
    if array.ndim != 1:
        raise DataError(
            f"{what} must have one value a row, not {array.ndim} dimensions: {what} should be a 1d "
            f"array, got an array of shape {array.shape} instead"
        )
    if np.ma.isMaskedArray(array):
        array = np.ma.filled(array.astype(object), None)
    return pd.Series(array)


def _array(given: object, what: str) -> NDArray[np.generic]:
    """A DataFrame, a list, or what NumPy can make an array of."""
    try:
        if isinstance(given, list | tuple):  # pandas keeps None apart from "None", bools from numbers
            one = pd.Series(given)
            if not any(isinstance(value, list | tuple | np.ndarray) for value in given):
                return np.asarray(one)
        return np.asarray(given)
    except Exception:  # noqa: BLE001, RUF100 - lists of other lengths, objects with an __array__
        raise DataError(f"{what} must have one value a row: give a list, an array or a Series") from None


def _of_arrow(given: object, what: str) -> pd.Series:
    """A column of Arrow's, or a table of one."""
    refused = (TypeError, ValueError, pa.ArrowException)
    if isinstance(given, pa.Array):
        return series_of(pa.chunked_array([given]), what)
    try:
        return series_of(_only_column(pa.table(given).columns, what), what)
    except refused:  # no table
        pass
    try:
        return series_of(pa.chunked_array(given), what)
    except refused:
        raise DataError(f"{what} must have one value a row, not be {type(given).__name__}") from None


def _only_column(columns: Sequence[T], what: str) -> T:
    if len(columns) != 1:
        raise DataError(f"{what} must have one value a row, not {counted(len(columns), 'column')}")
    _say_column(what)
    return columns[0]


def _say_column(what: str) -> None:
    warn(
        f"A column-vector {what} was passed when a 1d array was expected. Please change the shape of "
        f"{what} to (n_samples,), for example using ravel().",
        DataConversionWarning,
    )


# Numbers.


def label_of(given: object, table: pd.DataFrame, loss: Loss, *, whole: bool = True) -> Floats:
    """Numbers that the loss can take; without `whole` rows may all be of one kind, as in a batch.

    Raises DataError.
    """
    values = given_numbers(given, table, "y")
    try:
        loss.check(values)
    except BadLabel as error:
        if whole or error.rows is not None:
            raise DataError(f"y {error}") from None
    return values


def given_numbers(given: object, table: pd.DataFrame, what: str) -> Floats:
    """A finite number for every row. Raises DataError."""
    values = values_of(given, table, what)
    _no_gaps(values, what)
    return finite_numbers(values, what)


def positive_numbers(given: object, table: pd.DataFrame, what: str) -> Floats:
    """A positive number for every row, or one for all. Raises DataError."""
    values = _for_all(given, table, what)
    if (values <= 0).any():
        raise DataError(
            f"{what} must be positive but is not in {counted(int((values <= 0).sum()), 'row')}"
        )
    return values


def weights_of(given: object, table: pd.DataFrame) -> Floats:
    """A weight for every row, not negative; 1 without. Raises DataError."""
    weights = np.ones(len(table)) if given is None else _for_all(given, table, "sample_weight")
    if (weights < 0).any():
        rows = int((weights < 0).sum())
        raise DataError(f"sample_weight must not be negative but is in {counted(rows, 'row')}")
    if len(weights) and not weights.any():
        raise DataError("sample_weight is zero in every row: no row is left to train on")
    if (strange := out_of_range(weights)).any():
        raise DataError(
            f"sample_weight must be from {1 / LARGEST:g} to {LARGEST:g} but is not in "
            f"{counted(int(strange.sum()), 'row')}: give it in another unit"
        )
    return weights


def _for_all(given: object, table: pd.DataFrame, what: str) -> Floats:
    if isinstance(given, numbers.Real | np.generic) and not isinstance(given, str | bytes):
        given = [given] * len(table)
    return given_numbers(given, table, what)


def _no_gaps(values: pd.Series, what: str) -> None:
    gaps = int(values.isna().sum())
    if gaps:
        raise DataError(
            f"Input {what} contains NaN: {what} is missing in {gaps:,} row{'s' if gaps > 1 else ''}"
        )


# Groups and times, by which rows are kept back.


def groups_of(given: object, table: pd.DataFrame, what: str = "groups") -> SplitColumn:
    """A group for every row, of whatever kind: the same value is the same group. Raises DataError."""
    values = values_of(given, table, what)
    _no_gaps(values, what)
    try:
        place, distinct = pd.factorize(values)
    except TypeError:  # lists, dicts, ...
        raise DataError(f"{what} must be text, numbers or dates, one a row") from None
    return SplitColumn(what, place.astype(np.int64), [str(value) for value in distinct])


def times_of(given: object, table: pd.DataFrame) -> SplitColumn:
    """A time for every row: numbers, dates or moments, as text too, or categories that have an order.

    Raises DataError.
    """
    values = values_of(given, table, "time")
    _no_gaps(values, "time")
    place, distinct = pd.factorize(_times(values), sort=True)
    words, known = [str(value) for value in distinct], np.asarray(distinct)
    if known.dtype.kind in "MO":  # moments
        since = pd.DatetimeIndex(pd.to_datetime(known, utc=True)) - pd.Timestamp(0, tz="UTC")
        known = since.total_seconds().to_numpy()
    return SplitColumn("time", place.astype(np.int64), words, known.astype(np.float64))


def _times(values: pd.Series) -> NDArray[np.generic]:
    """Times as values that have an order."""
    dtype = values.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        if dtype.ordered:
            return np.asarray(values.cat.codes)
        values = values.astype(dtype.categories.dtype)
    kind = types.infer_dtype(values, skipna=False)
    if isinstance(values.dtype, pd.PeriodDtype):
        return np.asarray(values.dt.start_time.to_numpy())
    if kind in ("datetime64", "datetime", "date"):
        return np.asarray(pd.to_datetime(values, utc=True).to_numpy())
    if kind == "string":
        text = pa.array(values, pa.string(), from_pandas=True)
        parsed, bad = parse(text, Reading())
        moments = parsed if not bad.any() else moments_of(text)
        if np.isnan(moments).any():
            count = int(np.isnan(moments).sum())
            raise DataError(
                f"time has text that is no time in {counted(count, 'row')}: give numbers, or dates such "
                "as 2026-12-31"
            )
        return moments
    return finite_numbers(values, "time")


# Classes.


def classes_of(
    given: object, table: pd.DataFrame, estimator: str, most: int = 2
) -> tuple[NDArray[np.generic], Floats]:
    """The classes of a label, in order, and for each row the number of its class, from 0.

    Raises DataError for a label of one class, or of more than `most`.
    """
    values = labels_of(given, table)
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise DataError(f"Input y contains infinity or a value too large: a label has {_few(most)}")
        if type_of_target(values) == "continuous":
            raise DataError(
                f"Unknown label type: continuous. {estimator} is for {_few(most)}; numbers of any kind "
                "are for a regressor (SecureBoostRegressor, FederatedGLM; over rows "
                "PooledBoostRegressor, PooledGLM)"
            )
    classes = np.unique(values)
    if len(classes) > most > 2:
        raise DataError(f"y has {len(classes):,} classes: {estimator} takes {_few(most)}")
    if len(classes) > most:
        raise DataError(
            f"Only binary classification is supported. The type of the target is multiclass: y has "
            f"{len(classes):,} classes"
        )
    if len(classes) < 2:
        raise DataError("y has only one class: a model needs rows of both")
    return classes, np.searchsorted(classes, values).astype(np.float64)


def _few(most: int) -> str:
    """How many classes there may be, in words."""
    return "two classes" if most == 2 else f"2 to {most} classes"


def labels_of(given: object, table: pd.DataFrame) -> NDArray[np.generic]:
    """A class for every row, all of one kind: text, bools or numbers. Raises DataError."""
    values = values_of(given, table, "y")
    _no_gaps(values, "y")
    dtype = values.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        values = values.astype(dtype.categories.dtype)
        dtype = values.dtype
    if isinstance(dtype, pd.SparseDtype):
        values = values.astype(dtype.subtype)
        dtype = values.dtype
    kind = types.infer_dtype(values, skipna=False)
    if kind == "boolean":
        return values.to_numpy(np.bool_)
    if kind == "integer":
        own: NDArray[np.generic] = values.to_numpy()
        try:
            return own if own.dtype.kind in "iu" else own.astype(np.int64)
        except OverflowError:
            raise DataError("y holds whole numbers of more than 64 bits: give text") from None
    if kind in ("floating", "mixed-integer-float", "decimal"):
        return values.to_numpy(np.float64)
    if kind == "string":
        return values.to_numpy(object)
    if kind == "empty" or not len(values):
        return np.empty(0, object)
    if kind == "complex":
        raise DataError("Complex data not supported: y is of complex numbers")
    words = "text and numbers mixed" if kind.startswith("mixed") else f"values of kind {kind}"
    raise DataError(f"Unknown label type: y holds {words}: give text, bools or whole numbers")
