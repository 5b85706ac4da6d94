"""Cells of a column that workers hold, which come here where somebody asks for some."""

import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, cast

from vfl.blocks.held_parts import HeldParts
from vfl.blocks.scratch import OF_A_ROW_EACH, Scratch
from vfl.blocks.texts import Cells

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Origin:
    """Where cells lie: a column of parts, by its key."""

    parts: HeldParts
    key: tuple[str, str]


class HeldCells(Cells):
    """A column of ids with workers, which comes here where some of its cells are asked for."""

    def __init__(self, origin: Origin, rows: int, scratch: Scratch) -> None:
        self.origin, self._rows, self._scratch = origin, rows, scratch
        self._looked_at = 0
        self._lock = threading.Lock()
        weakref.finalize(self, origin.parts.forget, origin.key)

    @cached_property
    def column(self) -> "pa.ChunkedArray":
        """All of it, in a file where it is large."""
        import pyarrow as pa  # which commands that read no table do without

        with self._lock:
            found = cast(Iterator[pa.ChunkedArray], self.origin.parts.each(self.origin.key))
            folder = self._scratch.folder
            if folder is None or self._rows * 8 < OF_A_ROW_EACH:
                parts = [*found]
                chunks = [chunk for part in parts for chunk in part.chunks]
                return pa.chunked_array(chunks, parts[0].type)
            text = pa.large_string()
            self._spooled = Cells.spooled((part.cast(text) for part in found), folder)
            return self._spooled.column

    @property
    def _release(self) -> Callable[[], None]:  # type: ignore[override]
        return self._let_go

    def _let_go(self) -> None:
        if (spooled := self.__dict__.get("_spooled")) is not None and spooled._release is not None:
            spooled._release()

    def __len__(self) -> int:
        return self._rows
