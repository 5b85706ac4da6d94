"""What a host remembers of the rows that trees of earlier jobs were drawn from."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class DrawMemory(Protocol):
    """Where a host keeps draws for later jobs on the same aligned rows, as a bit a row."""

    def in_turn(self) -> AbstractContextManager[object]:
        """While nobody else looks or keeps."""

    def news(self) -> Iterable[bytes]:
        """What was kept so far and not told yet."""

    def keep(self, active: bytes) -> None:
        """Keep a draw of this job, before anything is told of its rows."""


class _NoMemory:
    def in_turn(self) -> AbstractContextManager[object]:
        return nullcontext()

    def news(self) -> Iterable[bytes]:
        return ()

    def keep(self, active: bytes) -> None:
        return


NO_MEMORY = _NoMemory()
