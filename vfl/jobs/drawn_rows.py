"""The rows that trees were drawn from, as a host keeps them: by alignment, over all jobs on it.

A guest that could begin anew with no draw known would get the sums over two sets of rows that differ by
one from two jobs.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager

import numpy as np
from numpy.typing import NDArray

from vfl.errors import ModelError, Refused
from vfl.party import locks
from vfl.party.store import Store

_ROOM = 1 << 26  # bytes of the draws of an alignment: 53,000 draws of 10,000 rows
_LEAST = 64  # draws for which there is room however many rows they have


class StoredDraws:
    """The draws from the rows of an alignment: `DrawMemory` of protocols/common/draw_memory.py.

    All are kept: where there is no room for more, there are no more.
    """

    def __init__(self, store: Store, alignment: str) -> None:
        self._store, self._alignment = store, alignment
        self._told: object = None  # the array that was told or kept last

    def in_turn(self) -> AbstractContextManager[object]:
        """Raises DataError when the store cannot be locked."""
        self._store.make("draw")
        return locks.in_turn(self._store.folder("draw") / f"{self._alignment}.lock")

    def news(self) -> Iterator[bytes]:
        """Raises ModelError for draws that are damaged."""
        array, drawn = self._kept(self._told)
        self._told = array
        for draw in drawn:
            yield draw.tobytes()

    def keep(self, active: bytes) -> None:
        """Raises DataError when the store cannot be written, ModelError for damaged draws, Refused where
        there are as many as can be kept."""
        name, new = self._alignment, np.frombuffer(active, np.uint8)[np.newaxis]
        _, before = self._kept()
        if len(before) >= (most := max(_LEAST, _ROOM // len(active))):
            raise Refused(
                f"{most:,} different draws of rows were taken of alignment {name}, as many as are "
                "remembered: set subsample = 1 without goss_top, or align anew"
            )
        drawn = np.concatenate([before, new]) if len(before) else new
        self._told = dict(self._store.write_array("draw", name, drawn))
        self._store.write("draw", name, {"drawn": self._told})

    def _kept(self, but: object = None) -> tuple[object, NDArray[np.uint8]]:
        """The reference of what is kept, and the draws, shape (draws, bytes), a bit a row: none if
        nothing is, or if they are those of the reference `but`."""
        none = np.zeros((0, 0), np.uint8)
        if self._alignment not in self._store.names("draw"):
            return None, none
        ref = self._store.read("draw", self._alignment).get("drawn")
        if ref == but:
            return ref, none
        drawn = self._store.read_array("draw", ref if isinstance(ref, dict) else {})
        if drawn.dtype != np.uint8 or drawn.ndim != 2:
            raise ModelError(f"draws of {self._alignment} are damaged: they are not a bit a row")
        return ref, drawn
