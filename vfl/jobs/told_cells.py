"""The cells that tables by a column have told a guest, as a host keeps them: over all alignments.

Two tables about nearly the same rows tell sums about the few rows by which they differ. So a host keeps
how it has cut a column, and of each table in which cell each of its rows was, and tells no further one
from which, with any of those before, a sum about fewer rows would follow than a cell must have
(learn/cells.py). Rows are known again as in the count of sums (sums_given.py).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Integers
from vfl.errors import ModelError, Refused
from vfl.learn.binning import Column
from vfl.learn.cells import tells_of_fewer
from vfl.party.locks import in_turn
from vfl.party.store import Store
from vfl.text import counted

_MOST = 32  # different tables by a column that are remembered
_KIND: Literal["cells"] = "cells"


@dataclass(frozen=True)
class Cut:
    """How a column was cut when it was first told."""

    edges: list[float] | None
    categories: list[str]
    has_missing: bool

    def column(self, name: str) -> Column:
        """The same of a column of this name."""
        edges = None if self.edges is None else np.array(self.edges, np.float64)
        return Column(name, edges, tuple(self.categories), self.has_missing)


class ToldCells:
    """What was told to a guest of tables by one column, or by two together."""

    def __init__(self, store: Store, guest: str, columns: Sequence[str]) -> None:
        self._store, self._columns = store, tuple(columns)
        self._name = hashlib.sha256("\n".join([guest, *columns]).encode()).hexdigest()[:32]

    def cut(self) -> Cut | None:
        """How the column was cut before. Raises ModelError when what is kept is damaged."""
        return self._read()[0]

    def column(self) -> Column | None:
        """The same, as it is used. Raises as `cut`."""
        cut = self.cut()
        return None if cut is None else cut.column(self._columns[0])

    def tell(
        self, numbers: NDArray[np.uint64], cells: Integers, minimum: int, column: Column | None = None
    ) -> None:
        """Keep the cell of each of the host's rows, -1 for none, before a table is told.

        numbers: ascending, by which rows are known. Raises Refused where a sum about fewer rows than
        `minimum` would follow, and then keeps nothing; ModelError and DataError.
        """
        self._store.make(_KIND)
        with in_turn(self._store.folder(_KIND) / f"{self._name}.lock"):
            cut, rows, told = self._read()
            every = numbers
            if len(rows) and not np.array_equal(rows, numbers):
                every = np.union1d(rows, numbers)
            before = np.full((len(told), len(every)), -1, np.int16)
            before[:, np.searchsorted(every, rows)] = told
            now = np.full(len(every), -1, np.int16)
            now[np.searchsorted(every, numbers)] = cells
            if any(np.array_equal(now, one) for one in before):
                return
            for one in before:
                self._check(one.astype(np.int64), now.astype(np.int64), minimum)
            if len(before) >= _MOST:
                raise Refused(
                    f"{counted(_MOST, 'different table')} by {self._said} were told, as many as are "
                    "remembered: ask about the rows of one of them"
                )
            if cut is None and column is not None:
                cut = Cut(
                    None if column.edges is None else column.edges.tolist(),
                    list(column.categories),
                    column.has_missing,
                )
            self._write(cut, every, np.vstack([before, now]))

    @property
    def _said(self) -> str:
        return "this factor" if len(self._columns) == 1 else "these two factors"

    def _check(self, before: Integers, now: Integers, minimum: int) -> None:
        if tells_of_fewer(before, now, minimum):
            raise Refused(
                f"with a table by {self._said} that was told before it would give away sums about fewer "
                f"than {counted(minimum, 'row')} of the host (min_cell_rows of [policy]), by which both "
                "differ: ask about the same rows as before, or about others by more"
            )

    def _read(self) -> tuple[Cut | None, NDArray[np.uint64], NDArray[np.int16]]:
        """How the column was cut, the rows that are known, and the cell of each in each table."""
        none = np.zeros(0, np.uint64), np.zeros((0, 0), np.int16)
        if self._name not in self._store.names(_KIND):
            return None, *none
        body = self._store.read(_KIND, self._name)
        try:
            cut = msgspec.convert(body["cut"], Cut | None)
            arrays = msgspec.convert(body["arrays"], dict[str, dict[str, str]])
            rows, told = (self._store.read_array(_KIND, arrays[name]) for name in ("rows", "told"))
        except (msgspec.ValidationError, KeyError) as error:
            raise self._damaged(str(error)) from None
        if rows.dtype != np.uint64 or told.dtype != np.int16 or told.shape[1:] != rows.shape:
            raise self._damaged("its arrays do not fit together")
        return cut, rows, told

    def _damaged(self, why: str) -> ModelError:
        path = self._store.path(_KIND, self._name)
        return ModelError(
            f"{path} is damaged ({why}): restore it from a copy; without it nobody knows which tables "
            "were told",
            for_peer="it cannot tell which tables it has told (its log has the details)",
        )

    def _write(self, cut: Cut | None, rows: NDArray[np.uint64], told: NDArray[np.int16]) -> None:
        arrays = {
            name: dict(self._store.write_array(_KIND, self._name, values))
            for name, values in (("rows", rows), ("told", told))
        }
        self._store.write(_KIND, self._name, {"cut": msgspec.to_builtins(cut), "arrays": arrays})
