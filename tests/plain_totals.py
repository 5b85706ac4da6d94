"""Totals over several clients in one event loop, written down, and changed where a test says so."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np

from vfl.net.peer import together
from vfl.protocols.pooled.adding import Adder
from vfl.protocols.pooled.plain_adding import plain_adders

Change = Callable[[str, np.ndarray], np.ndarray]


class Written:
    """A client's adder that keeps all totals; `change` makes of a total what the client is told."""

    def __init__(self, adder: Adder, change: Change = lambda what, total: total) -> None:
        self._adder, self._change, self.name = adder, change, adder.name
        self.entropy = adder.entropy
        self.totals: list[tuple[str, np.ndarray]] = []

    @property
    def clients(self) -> Sequence[str]:
        return self._adder.clients

    async def total(self, values: np.ndarray, what: str) -> np.ndarray:
        total = self._change(what, await self._adder.total(values, what))
        self.totals.append((what, total))
        return total


def with_totals(
    clients: Sequence[str],
    role: Callable[[Written], Awaitable[Any]],
    change: Change = lambda what, total: total,
) -> tuple[list[Any], list[tuple[str, np.ndarray]]]:
    """What each client comes to, all in one event loop, and the totals."""

    async def run() -> tuple[list[Any], list[tuple[str, np.ndarray]]]:
        adders = [Written(adder, change) for adder in plain_adders(clients)]
        return await together([role(adder) for adder in adders]), adders[0].totals

    return asyncio.run(run())
