"""Tables as Parquet."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vfl.party.id_cells import float_texts, whole_text
from vfl.party.sources.source import MISSING, Source, float64, is_text


class Parquet(Source):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._file = self._whole(lambda: pq.ParquetFile(path))
        self.names = list(self._file.schema_arrow.names)
        self.rows = self._file.metadata.num_rows
        if self.rows == 0:
            raise self.error("the file has columns but no rows")

    @property
    def row_labels(self) -> frozenset[str]:
        """By pandas' own note in the file, too, where an index has a name."""
        try:
            noted = (self._file.schema_arrow.pandas_metadata or {}).get("index_columns", [])
        except (ValueError, AttributeError):  # it is no note of pandas
            noted = []
        # An index that only counts is no column: there is a dictionary in place of a name.
        return super().row_labels | {
            name for name in noted if isinstance(name, str) and name in self.names
        }

    def read(self, names: list[str]) -> None:
        # Arrow also takes a name for the prefix of nested ones; select keeps what was asked for.
        self.table = self._whole(lambda: self._file.read(columns=names).select(names))

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
        if not (
            is_text(kind)
            or pa.types.is_integer(kind)
            or pa.types.is_decimal(kind)
            or pa.types.is_date(kind)
            or pa.types.is_null(kind)
        ):
            raise self.error(f"id column '{name}' is of type {kind}: write it as text")
        values = pc.cast(column, pa.string()).to_numpy(zero_copy_only=False)
        return [value or None for value in values.tolist()]

    def _whole_ids(self, name: str, column: Any) -> list[str | None]:
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

    def text(self, name: str) -> Any:
        column = self._plain(name)
        kind = column.type
        if pa.types.is_floating(kind):
            # Whole numbers with gaps are often stored as floats: 3.0 is the category 3.
            numbers = float64(column)
            seen = numbers[~np.isnan(numbers)]
            if (np.abs(seen) >= 2**53).any():
                raise self.error(f"categorical column '{name}' holds huge numbers: write it as text")
            column = pa.array(numbers, from_pandas=True)
            if (seen == np.round(seen)).all():
                column = pc.cast(column, pa.int64())
        elif pa.types.is_timestamp(kind):
            column = _moments(column)
        elif not (
            is_text(kind)
            or pa.types.is_integer(kind)
            or pa.types.is_boolean(kind)
            or pa.types.is_decimal(kind)
            or pa.types.is_date(kind)
            or pa.types.is_null(kind)
        ):
            raise self.error(f"categorical column '{name}' is of type {kind}: write it as text")
        text = pc.cast(column, pa.string())
        missing = pc.is_in(pc.utf8_trim_whitespace(text), MISSING)
        return pc.if_else(missing, pa.scalar(None, pa.string()), text)

    def numbers(self, name: str, what: str, advice: str) -> NDArray[np.float64]:
        column = self._plain(name)
        kind = column.type
        if column.null_count == self.rows:
            return np.full(self.rows, np.nan)
        if pa.types.is_temporal(kind):
            raise self.error(
                f"{what} holds dates or times: turn it into a number, such as an age in years, "
                "or ignore it in [data]"
            )
        if is_text(kind):
            raise self.error(f"{what} holds text, not numbers: {advice}")
        if not (
            pa.types.is_integer(kind)
            or pa.types.is_floating(kind)
            or pa.types.is_boolean(kind)
            or pa.types.is_decimal(kind)
        ):
            raise self.error(f"{what} is of type {kind}: {advice}")
        return float64(column)

    def row_numbers(self, places: Sequence[int]) -> list[int]:
        return [place + 2 for place in places]

    def _plain(self, name: str) -> Any:
        column = self.table[name]
        if pa.types.is_dictionary(column.type):
            column = pc.cast(column, column.type.value_type)
        return column

    def _whole(self, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except (pa.ArrowException, OSError, ValueError):
            raise self.error("the file is damaged or is no Parquet file") from None


def _moments(column: Any) -> Any:
    """Timestamps as text, midnights as dates: that is how programs write dates."""
    text = pc.cast(pc.local_timestamp(column) if column.type.tz else column, pa.string())
    return pc.replace_substring_regex(text, r"( 00:00:00)?(\.0*)?$", "")
