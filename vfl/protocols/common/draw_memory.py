"""What a host remembers of the rows that trees of earlier jobs were drawn from."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class EarlierDraw:
    """The rows of a tree of another job."""

    rows: bytes  # a bit an aligned row of this job
    others: int = 0  # rows of this party that were drawn besides, which are not aligned in this job


class DrawMemory(Protocol):
    """Where a host keeps draws for later jobs that have rows in common with this one."""

    def in_turn(self) -> AbstractContextManager[object]:
        """While nobody else looks or keeps."""

    def news(self) -> Iterable[EarlierDraw]:
        """What was kept so far and not told yet."""

    def keep(self, active: bytes) -> None:
        """Keep a draw of this job, before anything is told of its rows."""


class _NoMemory:
    def in_turn(self) -> AbstractContextManager[object]:
        return nullcontext()

    def news(self) -> Iterable[EarlierDraw]:
        return ()

    def keep(self, active: bytes) -> None:
        return


NO_MEMORY = _NoMemory()
