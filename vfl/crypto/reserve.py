"""Obfuscators that are made in spare time, so that what waits for them costs next to nothing.

Each has a number, and is handed out once, in the order of numbers. What it is drawn from is decided by
its number alone, whoever makes it and when: in spare time, or when it is asked for.
"""

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from typing import Generic, TypeVar

import numpy as np

from vfl.crypto.montgomery import LANES
from vfl.crypto.paillier import Ciphertexts, PrivateKey, PublicKey
from vfl.crypto.randomness import Randomness, Stream
from vfl.crypto.workers import Workers

_OWN = 32  # obfuscators of a task by the key's owner: few, so that what is urgent waits for milliseconds
_POWERS = LANES  # n-th powers of a task
_PRODUCTS = 16  # products of n-th powers of a task

K = TypeVar("K", PublicKey, PrivateKey)


class _Spare(ABC, Generic[K]):
    """Obfuscators of whoever computes under a key, for one ciphertext after the other."""

    def __init__(self, workers: Workers[K], most: int, width: int, secret: bytes | None) -> None:
        """`most` obfuscators are kept, and no more than the machine's memory holds. `secret`: what they
        are drawn from by their numbers, for this object alone (`Randomness.key_at`)."""
        self.workers: Workers[K] = workers
        self._secret = secret
        self._most = min(most, workers.machine.memory // width)
        self._next = 0  # number of the first that was not handed out
        self._ready: deque[Ciphertexts] = deque()  # from that one on
        self._nothing = np.empty((0, width), np.uint8)
        self._filling: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return sum(map(len, self._ready))

    @abstractmethod
    async def _make(self, first: int, most: int) -> list[Ciphertexts]:
        """Some obfuscators from number `first` on, by all processes at once: as many as take a moment,
        or about `most`."""

    async def fill(self) -> None:
        """Make obfuscators until there are enough.

        Nothing is made without other processes: a thread would hold up the party's own work.
        """
        while self.workers.beside and (missing := self._most - len(self)) > 0:
            await self._make_further(missing)

    async def _make_further(self, most: int) -> None:
        first = self._next + len(self)
        for made in await self._make(first, most):
            # Others may have made the same meanwhile.
            known = max(0, self._next + len(self) - first)
            if known < len(made):
                self._ready.append(made[known:])
            first += len(made)

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

    def _hand_out(self, count: int) -> Ciphertexts:
        """The next ones of those that are ready, up to so many."""
        taken = [self._nothing]
        while count and self._ready:
            block = self._ready.popleft()
            if len(block) > count:
                self._ready.appendleft(block[count:])
            taken.append(block[:count])
            self._next += len(taken[-1])
            count -= len(taken[-1])
        return np.concatenate(taken)


class OwnReserve(_Spare[PrivateKey]):
    """Those of the key's owner: bytes i times `PrivateKey.drawn` on of one stream are number i's."""

    def __init__(self, workers: Workers[PrivateKey], most: int, secret: bytes | None) -> None:
        # Where others encrypt they make these as well: to send them there and back takes longer.
        most = most if workers.elsewhere is None else 0
        super().__init__(workers, most, workers.key.public.width, secret)

    def take(self, count: int) -> "OwnObfuscators":
        """The next ones, for `count` plaintexts: those that are ready, and what makes the others."""
        ready = self._hand_out(count)
        first, missing = self._next, count - len(ready)
        self._next += missing
        return OwnObfuscators(ready, self._secret, first, missing)

    async def _make(self, first: int, most: int) -> list[Ciphertexts]:
        starts = range(first, first + _OWN * self.workers.width, _OWN)
        return await self.workers.map(_own_obfuscators, [(self._secret, at, _OWN) for at in starts])


class OwnObfuscators:
    """Obfuscators of neighbouring numbers, the first of which are ready."""

    def __init__(self, ready: Ciphertexts, secret: bytes | None, first: int, missing: int) -> None:
        """`first`: the number of the first of those that are missing."""
        self.ready, self.missing = ready, missing
        self._secret, self._first = secret, first

    def all(self, key: PrivateKey) -> Ciphertexts:
        """All of them, in whichever process."""
        if not self.missing:
            return self.ready
        return np.concatenate(
            [self.ready, _own_obfuscators(key, self._secret, self._first, self.missing)]
        )


class Reserve(_Spare[PublicKey]):
    """Those of a party that lacks the key, which not even the key's owner sees through.

    The first ones are n-th powers of uniform units, as many as it takes for random products of them to
    hide as well; the later ones are such products (`PublicKey.obfuscators`).
    """

    def __init__(self, workers: Workers[PublicKey], most: int, secret: bytes | None) -> None:
        super().__init__(workers, most, workers.key.width, secret)
        self._size = workers.key.pool_size
        self._powers = self._nothing

    async def draw(self, count: int) -> Ciphertexts:
        """So many obfuscators: those that are ready, and the others made now."""
        while (missing := count - len(self)) > 0:
            await self._make_further(missing)
        return self._hand_out(count)

    async def pass_over(self, count: int) -> None:
        """Give so many to nobody: none is made, but for n-th powers that later ones are products of."""
        powers = min(count, max(0, self._size - self._next))
        await self.draw(powers)
        missing = count - powers - len(self._hand_out(count - powers))
        self._next += missing

    async def _make(self, first: int, most: int) -> list[Ciphertexts]:
        left = self._size - first  # n-th powers
        pool = self._powers if left <= 0 else None
        workers = self.workers.width
        size = min(_POWERS if pool is None else _PRODUCTS, -(-most // workers))
        count = min(workers, -(-most // size)) * size
        stop = first + (count if pool is not None else min(count, left))
        tasks = [(self._secret, at, min(size, stop - at), pool) for at in range(first, stop, size)]
        made = await self.workers.map(_obfuscators, tasks)
        if pool is None:
            known = len(self._powers) - first  # others may have made the same meanwhile
            self._powers = np.concatenate([self._powers, np.concatenate(made)[known:]])
        return made


def _own_obfuscators(key: PrivateKey, secret: bytes | None, first: int, count: int) -> Ciphertexts:
    return key.obfuscators(count, Stream(secret, first * key.drawn))


def _obfuscators(
    key: PublicKey, secret: bytes | None, first: int, count: int, pool: Ciphertexts | None
) -> Ciphertexts:
    """Each has a stream of its own, as a unit may take several numbers."""
    drawn = Randomness(secret)
    numbers = range(first, first + count)
    return key.obfuscators_from([drawn.at("obfuscator", number).bits for number in numbers], pool)
