"""Columns of Arrow, and what several sources do with them."""

from typing import TypeAlias, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vfl.arrays import Floats, Integers, Mask

ArrowColumn: TypeAlias = pa.Array | pa.ChunkedArray


def is_text(kind: pa.DataType) -> bool:
    """Whether a column is of text, of either size."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def is_exact(kind: pa.DataType) -> bool:
    """Whether values can be written as text and nothing is lost: text, whole numbers, decimals, days."""
    of_such = (is_text, pa.types.is_integer, pa.types.is_decimal, pa.types.is_date, pa.types.is_null)
    return any(test(kind) for test in of_such)


def mask_of(booleans: ArrowColumn, missing: bool = False) -> Mask:
    """Arrow's booleans as a mask of NumPy, `missing` where they are null."""
    return cast(Mask, pc.fill_null(booleans, missing).to_numpy(zero_copy_only=False).astype(bool))


def float64(column: ArrowColumn) -> Floats:
    """A column as float64, NaN where null; integers over 2^53 are rounded."""
    if column.type != pa.float64():
        column = pc.cast(column, pa.float64(), safe=False)
    array = np.array(pc.fill_null(column, float("nan")).to_numpy(zero_copy_only=False))
    return cast(Floats, array.astype(np.float64, copy=False))


def without(text: ArrowColumn, missing: pa.Array) -> ArrowColumn:
    """A column of text, null where a cell, blanks around it aside, is one of these spellings."""
    none = pc.is_in(pc.utf8_trim_whitespace(text), missing)
    return pc.if_else(none, pa.scalar(None, text.type), text)


def coded(text: ArrowColumn) -> tuple[list[str], Integers]:
    """A column of text as different ones, in the order in which they come, and the place of each row's
    among them, -1 where it is null; int64 (rows,)."""
    found = text.dictionary_encode()
    if isinstance(found, pa.ChunkedArray):  # joined as codes: texts of over 2 GB cannot be
        found = found.unify_dictionaries().combine_chunks()
    if isinstance(found, pa.ChunkedArray):
        found = found.chunk(0)
    codes = pc.fill_null(found.indices.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
    return found.dictionary.to_pylist(), codes
