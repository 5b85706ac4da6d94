"""Totals over several clients in one process, without a server."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np

from vfl.net.peer import together


class Sums:
    """Adds up what clients bring: each waits until all have."""

    def __init__(self, clients: Sequence[str]) -> None:
        self.clients = list(clients)
        self.totals: list[tuple[str, np.ndarray]] = []
        self.change: Callable[[str, np.ndarray], np.ndarray] = lambda what, total: total
        """What becomes of a total, as of a server that does not follow the protocol."""
        self._parts: dict[str, np.ndarray] = {}
        self._round: asyncio.Future[np.ndarray] | None = None

    async def add(self, name: str, values: np.ndarray, what: str) -> np.ndarray:
        if self._round is None:
            self._round = asyncio.get_running_loop().create_future()
        self._parts[name] = values
        waiting = self._round
        if set(self._parts) >= set(self.clients):
            with np.errstate(over="ignore"):
                total = self.change(what, np.sum([self._parts[c] for c in self.clients], axis=0))
            self.totals.append((what, total))
            self._parts, self._round = {}, None
            waiting.set_result(total)
        return (await waiting).copy()


class SumsOf:
    """A client's end."""

    def __init__(self, name: str, sums: Sums) -> None:
        self.name, self._sums = name, sums

    @property
    def clients(self) -> Sequence[str]:
        return tuple(self._sums.clients)

    async def total(self, values: np.ndarray, what: str) -> np.ndarray:
        return await self._sums.add(self.name, values, what)


def with_totals(
    clients: Sequence[str], role: Callable[[SumsOf], Awaitable[Any]], sums: Sums | None = None
) -> list[Any]:
    """What each client comes to, all in one event loop."""
    sums = sums or Sums(clients)

    async def run() -> list[Any]:
        return await together([role(SumsOf(name, sums)) for name in clients])

    return asyncio.run(run())
