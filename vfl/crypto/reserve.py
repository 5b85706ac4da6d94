"""Obfuscators that are made in spare time, so that what waits for them costs next to nothing.

Each is taken once.
"""

import asyncio
from abc import ABC, abstractmethod
from typing import Generic, TypeVar

import numpy as np

from vfl.crypto.paillier import Ciphertexts, PrivateKey, PublicKey
from vfl.crypto.workers import Workers

_OWN = 32  # obfuscators of a task by the key's owner: few, so that what is urgent waits for milliseconds
_POWERS = 4  # n-th powers of a task
_PRODUCTS = 16  # products of n-th powers of a task

K = TypeVar("K", PublicKey, PrivateKey)


class _Spare(ABC, Generic[K]):
    """Obfuscators of whoever computes under a key."""

    def __init__(self, workers: Workers[K], most: int, width: int) -> None:
        """`most` obfuscators are kept, and no more than the machine's memory holds."""
        self.workers: Workers[K] = workers
        self._most = min(most, workers.machine.memory // width)
        self._ready: list[Ciphertexts] = []
        self._filling: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return sum(map(len, self._ready))

    @abstractmethod
    async def _make(self, most: int) -> list[Ciphertexts]:
        """Some obfuscators, by all processes at once: as many as take a moment, or about `most`."""

    async def fill(self) -> None:
        """Make obfuscators until there are enough.

        Nothing is made without other processes: a thread would hold up the party's own work.
        """
        while self.workers.beside and (missing := self._most - len(self)) > 0:
            self._ready += await self._make(missing)

    def begin(self) -> None:
        """Fill up in spare time, beside whatever else is done."""
        if self._filling is None or self._filling.done():
            self.end()
            self._filling = self.workers.aside(self.fill())

    def end(self) -> None:
        """End the spare time. Raises what filling up has failed with."""
        filling, self._filling = self._filling, None
        if filling is not None and filling.done():
            filling.result()
        elif filling is not None:
            filling.cancel()

    def _taken(self, count: int) -> list[Ciphertexts]:
        """Up to so many of those that are ready."""
        taken: list[Ciphertexts] = []
        while count and self._ready:
            block = self._ready.pop()
            if len(block) > count:
                self._ready.append(block[count:])
            taken.append(block[:count])
            count -= len(taken[-1])
        return taken


class OwnReserve(_Spare[PrivateKey]):
    """Those of the key's owner."""

    def __init__(self, workers: Workers[PrivateKey], most: int) -> None:
        # Where others encrypt they make these as well: to send them there and back takes longer.
        most = most if workers.elsewhere is None else 0
        super().__init__(workers, most, workers.key.public.width)

    def take(self, count: int) -> Ciphertexts | None:
        """Obfuscators for `count` plaintexts; None when there are not as many."""
        return np.concatenate(self._taken(count)) if 0 < count <= len(self) else None

    async def _make(self, most: int) -> list[Ciphertexts]:
        tasks = [(_OWN,)] * self.workers.width
        return await self.workers.map(_own_obfuscators, tasks)


class Reserve(_Spare[PublicKey]):
    """Those of a party that lacks the key, which not even the key's owner sees through.

    The first ones are n-th powers of uniform units; when so many have been made that random products of
    them hide as well, the products take their place (`PublicKey.obfuscators`).
    """

    def __init__(self, workers: Workers[PublicKey], most: int) -> None:
        super().__init__(workers, most, workers.key.width)
        self._size = workers.key.pool_size
        self._powers = np.empty((0, workers.key.width), np.uint8)

    async def draw(self, count: int) -> Ciphertexts:
        """So many obfuscators: those that are ready, and the others made now."""
        taken = self._taken(count)
        while (missing := count - sum(map(len, taken))) > 0:
            self._ready += await self._make(missing)
            taken += self._taken(missing)
        return np.concatenate([self._powers[:0], *taken])

    async def _make(self, most: int) -> list[Ciphertexts]:
        pool = self._powers if len(self._powers) == self._size else None
        workers = self.workers.width
        size = min(_POWERS if pool is None else _PRODUCTS, -(-most // workers))
        tasks = [(size, pool)] * min(workers, -(-most // size))
        made = await self.workers.map(_obfuscators, tasks)
        if pool is None:
            self._powers = np.concatenate([self._powers, *made])[: self._size]
        return made


def _own_obfuscators(key: PrivateKey, count: int) -> Ciphertexts:
    return key.obfuscators(count)


def _obfuscators(key: PublicKey, count: int, pool: Ciphertexts | None) -> Ciphertexts:
    return key.obfuscators(count, pool)
