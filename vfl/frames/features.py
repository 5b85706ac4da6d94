"""What columns of a DataFrame hold: features and ids.

Numbers and bools are numeric; text, objects and categories are categorical; dates are refused. None and
NaN are missing.
"""

import datetime
import hashlib
import math
import numbers
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import SupportsFloat, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pandas.api import types

from vfl.arrays import Floats
from vfl.errors import DataError
from vfl.frames.tables import SHOWN
from vfl.learn.binning import Features
from vfl.party.id_cells import whole_text
from vfl.party.reading import Reading
from vfl.party.sources.numerals import parse
from vfl.party.table import MAX_CATEGORIES
from vfl.text import nearest_name

_NUMBERS = ("boolean", "decimal")  # objects that are numeric all the same
_CONVERTED = (*_NUMBERS, "integer", "floating", "mixed-integer-float", "empty")

RowIndices = NDArray[np.int64]


@dataclass(frozen=True)
class FrameTable:
    """A party's rows: distinct ids, normalised, and features by column.

    id_of_row: the place of each row's id among `ids`, int64 (rows,); both are empty where nobody is
    aligned with. id_columns: of how many columns an id is made.
    """

    name: str
    ids: Sequence[bytes]
    id_of_row: RowIndices
    id_columns: int
    features: Features
    rows: int

    def take(self, rows: RowIndices) -> Features:
        """The features of some rows."""
        return {name: values[rows] for name, values in self.features.items()}


def features_of(
    party: str,
    frame: pd.DataFrame,
    expect: Mapping[str, bool] | None,
    categorical: Collection[str] = (),
) -> Features:
    """The columns as features; `expect` has those of the training, and which of them are categorical.

    categorical: columns of a training that are, whatever they hold. Raises DataError for a column that
    cannot be used, is missing, or has no value in any row of a training.
    """
    training = expect is None
    if expect is None:
        expect = {
            str(name): str(name) in categorical or is_categorical(frame[name]) for name in frame.columns
        }
        for name in expect:
            if len(frame) and frame[name].isna().all():
                raise DataError(f"{party}: column '{name}' has no value in any row: drop it")
    for name in expect:
        if name not in frame.columns:
            raise DataError(
                f"{party}: no column '{name}', which the model was trained on; "
                f"{suggest_name(name, frame.columns)}"
            )
    features: dict[str, NDArray[np.generic]] = {}
    for name, is_text in expect.items():
        values, what = frame[name], f"{party}: column '{name}'"
        if training:
            features[name] = _categories(values, what) if is_text else finite_numbers(values, what)
        else:
            features[name] = _categories(_days(values), what) if is_text else _numeric(values, what)
    return features


def is_categorical(values: pd.Series) -> bool:
    """Whether a column of a training is a categorical feature."""
    if values.dtype == object and types.infer_dtype(values, skipna=True) in _NUMBERS:
        return False
    return isinstance(values.dtype, pd.CategoricalDtype) or bool(types.is_string_dtype(values.dtype))


def _categories(values: pd.Series, what: str) -> NDArray[np.object_]:
    """Shared text objects, None where missing."""
    _no_dates(values, what)
    try:
        codes, distinct = pd.factorize(values)
    except TypeError:  # lists, dicts, ...
        raise DataError(f"{what} holds {_kinds(values)}: text or numbers are due") from None
    if len(distinct) > MAX_CATEGORIES:
        raise DataError(
            f"{what} has {len(distinct):,} categories, over {MAX_CATEGORIES:,}: it looks like an id: "
            "drop it, or name it with id= where tables are joined"
        )
    if values.dtype == object and not all(
        isinstance(v, str | numbers.Real | np.bool_) for v in distinct
    ):
        raise DataError(f"{what} holds {_kinds(values)}: text or numbers are due")
    # The last entry is None: a missing code of -1 finds it.
    texts: NDArray[np.object_] = np.array([*map(category_text, distinct), None], dtype=object)
    return texts[codes]


def category_text(value: object) -> str:
    """A category as text."""
    # Whole numbers with gaps become floats in pandas: 3.0 is the category 3.
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _kinds(values: pd.Series) -> str:
    """What an object column holds beside text and numbers."""
    kinds = {
        type(value).__name__ for value in values if not isinstance(value, str | numbers.Real | None)
    }
    return f"values of type {', '.join(sorted(kinds)[:3])}"


def finite_numbers(values: pd.Series, what: str) -> Floats:
    """The numbers of a column, as `numbers_of` has them. Raises DataError for infinite ones too."""
    array = numbers_of(values, what)
    if np.isinf(array).any():
        raise DataError(f"{what} has {int(np.isinf(array).sum()):,} infinite numbers: correct them")
    return array


def numbers_of(values: pd.Series, what: str) -> Floats:
    """float64, NaN where missing, bools as 0 and 1. Raises DataError for what is no number."""
    _no_dates(values, what)
    if values.isna().all():
        return np.full(len(values), np.nan)
    dtype = values.dtype
    if types.is_complex_dtype(dtype):
        raise DataError(f"{what} is of type {dtype}, not of numbers: Complex data not supported")
    if types.is_object_dtype(dtype) and types.infer_dtype(values, skipna=True) in _CONVERTED:
        return np.array([np.nan if missing else float(value) for value, missing in _known(values)])
    if not types.is_numeric_dtype(dtype) or isinstance(dtype, pd.CategoricalDtype):
        raise DataError(f"{what} is of type {dtype}, not of numbers")
    if isinstance(dtype, pd.SparseDtype):
        values = values.astype(dtype.subtype)
    return values.to_numpy(np.float64, na_value=np.nan)


def _days(values: pd.Series) -> pd.Series:
    """A column of a batch whose days were text in training."""
    return values.astype(str).where(values.notna(), None) if _has_dates(values) else values


def _numeric(values: pd.Series, what: str) -> Floats:
    """A numeric feature of a batch, in which numbers, true and false may be text.

    Raises DataError as `finite_numbers` does.
    """
    if types.infer_dtype(values.astype(object), skipna=True) == "string":
        text = pa.array(values.astype(object), pa.large_string(), from_pandas=True)
        parsed, strange = parse(pc.if_else(pc.equal(text, ""), None, text), Reading())
        if not strange.any():
            values = pd.Series(parsed)
    return finite_numbers(values, what)


def _known(values: pd.Series) -> Iterable[tuple[SupportsFloat, bool]]:
    return zip(values, values.isna(), strict=True)


def _no_dates(values: pd.Series, what: str) -> None:
    if _has_dates(values):
        raise DataError(
            f"{what} holds dates or times: turn it into a number, such as an age in years, or drop it"
        )


def _has_dates(values: pd.Series) -> bool:
    dtype = values.dtype
    distinct = dtype.categories if isinstance(dtype, pd.CategoricalDtype) else values
    return types.infer_dtype(distinct, skipna=True).startswith(("date", "time", "period"))


# Ids.


@dataclass(frozen=True)
class IdValues:
    """A column of ids, or a level of the index; `what` it is called in an error."""

    values: pd.Series | pd.Index
    what: str

    def texts(self) -> list[str | None]:
        """Its ids as text, None where there is none. Raises DataError for what is no id."""
        # Python's own float says no more of how few digits one of single precision had.
        single = str(self.values.dtype).lower() in ("float16", "float32")
        values = self.values.to_numpy() if single else self.values.tolist()
        return [_id_text(value, self.what) for value in values]


def id_columns(
    party: str, frame: pd.DataFrame, names: Sequence[str] | None, named: bool = True
) -> list[IdValues]:
    """The columns of the id: those named (or levels of the index), else the whole index.

    `named`: whether columns have names of their own. Raises DataError.
    """
    index = frame.index
    if names is None:
        levels_of = (index.get_level_values(level) for level in range(index.nlevels))
        return [IdValues(values, f"{party}: the index") for values in levels_of]
    levels = {str(name): cast(str, name) for name in index.names if name is not None}
    columns = []
    for name in names:
        if name not in frame.columns and name not in levels:
            near = suggest_name(name, [*frame.columns, *levels])
            if not named:
                near += " (an array has no names; transformers of scikit-learn keep them after "
                near += 'set_output(transform="pandas"))'
            raise DataError(f"{party}: no column '{name}' (named by id); {near}")
        values = frame[name] if name in frame.columns else index.get_level_values(levels[name])
        columns.append(IdValues(values, f"{party}: id column '{name}'"))
    return columns


def digest_of(columns: Sequence[IdValues], *more: object) -> bytes | None:
    """A digest of ids as they are, and of more that counts; None for ids without one, such as lists."""
    digest = hashlib.blake2b(repr(more).encode(), digest_size=32)
    for column in columns:
        try:
            hashes = pd.util.hash_array(np.asarray(column.values), categorize=False)
        except TypeError:
            return None
        digest.update(f"{column.what} {hashes.dtype} {len(hashes)} ".encode() + hashes.tobytes())
    return digest.digest()


def _id_text(value: object, what: str) -> str | None:
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, float | np.floating) and math.isnan(value):
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return str(int(value))
    if isinstance(value, datetime.date):  # datetime and pandas' Timestamp too
        return str(value)
    if isinstance(value, float | np.floating | Decimal):  # in pandas, whole numbers with gaps are floats
        if (text := whole_text(value)) is None:
            raise DataError(
                f"{what} holds a number that is not whole, or of which a float has lost digits: write "
                "ids as text or whole numbers"
            )
        return text
    raise DataError(f"{what} holds {type(value).__name__} values: write ids as text or whole numbers")


def only_counts(index: pd.Index) -> bool:
    """Whether nobody chose this index."""
    return isinstance(index, pd.RangeIndex) and index.name is None and index.start == 0


def suggest_name(name: str, known: Iterable[Hashable]) -> str:
    """What may have been meant."""
    names = [str(k) for k in known]
    # Transformers of scikit-learn put their own name in front.
    renamed = [k for k in names if k.endswith(f"__{name}")]
    near = renamed[0] if renamed else nearest_name(name, names)
    if near:
        return f"did you mean {near!r}?"
    return f"there {'is' if len(names) == 1 else 'are'} {', '.join(names[:SHOWN]) or 'none'}"
