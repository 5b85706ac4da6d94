"""What every source of rows offers: its columns' names, then the columns asked for."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vfl.errors import DataError

# As pandas and R write an index without a name, and as pandas reads that again.
_ROW_LABELS = r"|Unnamed: [0-9]+(\.[0-9]+)*(_level_[0-9]+)?|__index_level_[0-9]+__"

MISSING = pa.array(["", "NA", "N/A", "NaN", "nan", "NULL", "Null", "null"])


class Source:
    """An open file: the names of its columns at first, then the columns asked for."""

    names: list[str]
    rows: int

    def __init__(self, path: Path) -> None:
        self.path = path
        self.table: Any = None

    @property
    def row_labels(self) -> frozenset[str]:
        """The columns that hold the labels of a data frame's rows (its index), by their names."""
        return frozenset(name for name in self.names if re.fullmatch(_ROW_LABELS, name))

    def read(self, names: list[str]) -> None:
        raise NotImplementedError

    def ids(self, name: str) -> list[str | None]:
        """A column of ids as text, exactly as written."""
        raise NotImplementedError

    def text(self, name: str) -> Any:
        """A categorical column as an Arrow array of text, null where missing."""
        raise NotImplementedError

    def numbers(self, name: str, what: str, advice: str) -> NDArray[np.float64]:
        """A numeric column, NaN where missing. `what` and `advice` word the errors."""
        raise NotImplementedError

    def row_numbers(self, places: Sequence[int]) -> list[int]:
        """The numbers that a person finds these data rows (from 0, ascending) by."""
        raise NotImplementedError

    def error(self, text: str) -> DataError:
        return DataError(f"{self.path.name}: {text}")

    def in_rows(self, bad: NDArray[np.bool_]) -> str:
        """'in row 17 (and 3 more rows)'."""
        places = np.flatnonzero(bad)
        more = len(places) - 1
        text = f"in row {self.row_numbers([int(places[0])])[0]}"
        return text + (f" (and {more:,} more row{'s' if more > 1 else ''})" if more else "")


def is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def filled(mask: Any, missing: bool) -> NDArray[np.bool_]:
    """An Arrow mask as NumPy's, `missing` where it is null."""
    return cast(
        NDArray[np.bool_], pc.fill_null(mask, missing).to_numpy(zero_copy_only=False).astype(bool)
    )


def float64(column: Any) -> NDArray[np.float64]:
    """A column as float64, NaN where null; integers over 2^53 are rounded."""
    values = pc.cast(column, pa.float64(), safe=False)
    array = np.array(pc.fill_null(values, float("nan")).to_numpy(zero_copy_only=False))
    return cast(NDArray[np.float64], array.astype(np.float64, copy=False))
