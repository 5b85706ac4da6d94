"""Tables as Parquet."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vfl.party.sources.source import MISSING, Source, float64, is_text


class Parquet(Source):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._file = self._whole(lambda: pq.ParquetFile(self.for_arrow))
        self.names = list(self._file.schema_arrow.names)
        self.rows = self._file.metadata.num_rows
        if self.rows == 0:
            raise self.error("the file has columns but no rows")

    def read(self, names: list[str]) -> None:
        # Arrow also takes a name for the prefix of nested ones; select keeps what was asked for.
        self.table = self._whole(lambda: self._file.read(columns=names).select(names))

    def ids(self, name: str) -> list[str | None]:
        column = self._plain(name)
        kind = column.type
        if pa.types.is_floating(kind) or (pa.types.is_decimal(kind) and kind.scale != 0):
            raise self.error(
                f"id column '{name}' holds decimal numbers: leading zeros and exact digits are "
                "lost and cannot be brought back, so write it anew as text or whole numbers"
            )
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
