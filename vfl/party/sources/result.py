"""What a query or a database gives: columns with types, in an order made of the rows' ids.

Neither promises an order, nor the same one twice. So rows are put in the order of their ids as text,
column by column, those without one last; rows of the same id stay as they came.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vfl.blocks.spool import Spooled
from vfl.errors import DataError
from vfl.party.reading import Reading
from vfl.party.rows import RowNumbers
from vfl.party.sources.arrow import is_text
from vfl.party.sources.parquet import Columnar
from vfl.party.sources.text import numbers_of_text

_PIECE = 1 << 16  # rows whose ids are digested at a time


class Result(Columnar):
    """Rows that a query or a database gives. Text in a column of numbers is read as in a CSV file."""

    def __init__(self, path: Path, reading: Reading, order: Sequence[str]) -> None:
        super().__init__(path, reading)
        self._order = order

    def check_result_names(self, fold: Callable[[str], str] = str) -> None:
        """Raises TableError for a column that comes twice, as far as `fold` tells names apart."""
        known: dict[str, str] = {}
        for name in self.names:
            if (other := known.setdefault(fold(name), name)) != name:
                raise self.error(
                    f"columns '{other}' and '{name}' differ in case alone, which a query does not tell "
                    "apart: name one otherwise, as in age as age_then"
                )
        if twice := next((name for name in self.names if self.names.count(name) > 1), None):
            raise self.error(
                f"column '{twice}' comes twice: leave one out, or name it otherwise, as in "
                "age as age_then"
            )

    def fetch(self, names: Sequence[str]) -> pa.Table | Spooled:
        """Some columns of all rows, as `gather` has them. Raises DataError."""
        raise NotImplementedError

    def _read(self, names: list[str]) -> None:
        by = [name for name in self._order if name in self.names]
        table = self.fetch(list(dict.fromkeys([*names, *by])))
        self.rows = table.num_rows
        if not self.rows:
            raise self.error("there are no rows")
        self.table = _Ordered(table, None)
        if by:
            self.table = _Ordered(table, self._places(by))

    def _places(self, by: Sequence[str]) -> pa.Array | None:
        """Where the rows in order are among those that came; None where they came so."""
        keys = {}
        for number, name in enumerate(by):
            try:
                keys[str(number)] = pc.cast(self.plain(name), pa.large_string())
            except (DataError, pa.ArrowException):
                continue  # of a type that cannot be an id, as will be said
        if not keys:
            return None
        places = pc.sort_indices(pa.table(keys), sort_keys=[(name, "ascending") for name in keys])
        digest = hashlib.sha256()
        for column in keys.values():
            _add(digest, column.take(places))
        self.order = digest.digest()
        in_order = pc.all(pc.equal(places, pa.array(np.arange(self.rows, dtype=np.uint64)))).as_py()
        return None if in_order else places

    @property
    def row_numbers(self) -> RowNumbers:
        return _by_id

    def _numbers(self, name: str, what: str, advice: str, feature: bool) -> NDArray[np.float64]:
        column = self.plain(name)
        if is_text(column.type) and column.null_count < self.rows:
            return numbers_of_text(self, self.plain(name), name, what, advice, feature)
        return super()._numbers(name, what, advice, feature)


def _add(digest: "hashlib._Hash", column: pa.ChunkedArray) -> None:
    """Digest a column of text, however it is cut into chunks."""
    lengths = pc.cast(pc.fill_null(pc.binary_length(column), -1), pa.int64())
    digest.update(np.ascontiguousarray(lengths.to_numpy()).tobytes())
    for start in range(0, len(column), _PIECE):
        texts = column.slice(start, _PIECE).to_pylist()
        digest.update("".join(text for text in texts if text is not None).encode())


@dataclass(frozen=True)
class _Ordered:
    """A table whose columns are put in order when they are asked for."""

    table: pa.Table | Spooled
    places: pa.Array | None

    @property
    def schema(self) -> pa.Schema:
        return self.table.schema

    def __getitem__(self, name: str) -> pa.ChunkedArray:
        column = self.table[name]
        if pa.types.is_string(column.type):  # with offsets of 64 bits: there may be over 2 GB
            column = column.cast(pa.large_string())
        return column if self.places is None else column.take(self.places)


def _by_id(places: Sequence[int]) -> list[int]:
    """The numbers of rows in the order of ids: there is no header."""
    return [place + 1 for place in places]
