"""Totals over all clients in the clear, where all of them are in one process."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from vfl.arrays import Integers
from vfl.crypto.randomness import OF_SYSTEM, Entropy


def plain_adders(clients: Sequence[str]) -> list["PlainAdder"]:
    """An adder for each client, in one event loop; each total waits for all of them."""
    shared = _Shared(len(clients))
    return [PlainAdder(name, tuple(clients), shared) for name in clients]


@dataclass
class _Shared:
    """The parts of the step that is under way."""

    clients: int
    parts: list[tuple[str, Integers]] = field(default_factory=list)
    given: "asyncio.Future[Integers] | None" = None


class PlainAdder:
    """An Adder (adding.py) of which nothing is hidden."""

    def __init__(self, name: str, clients: Sequence[str], shared: _Shared) -> None:
        self.name, self.clients, self._shared = name, clients, shared
        self.entropy: Entropy = OF_SYSTEM.at("parts of totals")

    async def total(self, values: Integers, what: str) -> Integers:
        """See Adder. Raises ValueError at all clients where they are out of step."""
        if values.dtype != np.int64:
            raise ValueError("numbers to be added are int64")
        shared = self._shared
        if shared.given is None:
            shared.given = asyncio.get_running_loop().create_future()
        given = shared.given
        shared.parts.append((what, values))
        if len(shared.parts) == shared.clients:
            parts, shared.parts, shared.given = shared.parts, [], None
            kinds = {(kind, part.shape) for kind, part in parts}
            if len(kinds) > 1:
                given.set_exception(ValueError("the clients add to different totals"))
            else:
                with np.errstate(over="ignore"):
                    given.set_result(np.sum([part for _, part in parts], axis=0, dtype=np.int64))
        return (await given).copy()
