"""The server's part of adding.py: it adds what it cannot read."""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from vfl.errors import PeerError, PeerLost, PeerStopped
from vfl.net.peer import Peer, either, together
from vfl.net.wire import KIB
from vfl.protocols.pooled.adding import (
    MOST_CLIENTS,
    MOST_WORDS,
    TAGS,
    WORDS,
    Absences,
    AddingBegin,
    AddingEnd,
    ClientKey,
    ClientKeys,
    GroupSecret,
    MaskedPart,
    MaskedTotal,
    SealedSecret,
)

T = TypeVar("T")


def _quiet(_: object) -> None:
    return


@dataclass(frozen=True)
class ServerCourse:
    """How the server follows an adding."""

    absences: Absences = Absences()
    progress: Callable[[int], None] = _quiet
    """Told of how many totals have been given."""
    left: Callable[[str], None] = _quiet
    """Told of a client that is gone, before the others go on without it."""


async def serve_totals(clients: Sequence[Peer], course: ServerCourse = ServerCourse()) -> list[str]:
    """Add until all clients say that they have ended; returns the names of those that did.

    Raises PeerError for a client that breaks the protocol, or is out of step with the others; PeerLost
    or PeerStopped for one that is gone without which the others do not go on.
    """
    if not 2 <= len(clients) <= MOST_CLIENTS:
        raise ValueError(f"2 to {MOST_CLIENTS} clients")
    serving = _Serving(list(clients), course)
    while True:
        try:
            await serving.meet()
            while not await serving.have_ended():
                await serving.add()
            return [client.name for client in serving.present]
        except _Left:
            continue


class _Left(Exception):
    """A client is gone, and the others begin again."""


class _Serving:
    """What the server knows: which clients are there, and at which step they are."""

    def __init__(self, present: list[Peer], course: ServerCourse) -> None:
        self.present, self._course = present, course
        self._fewer = False  # than those that met
        self._attempt, self._step = -1, 0
        self._heads: list[MaskedPart] = []  # the first pieces of a step, in the order of `present`

    async def meet(self) -> None:
        """Pass the clients' keys on, and the secret of the first."""
        self._fewer = False
        self._attempt += 1
        begin = AddingBegin(self._attempt, [client.name for client in self.present])
        await self._all(lambda client: client.send(begin))
        keys = await self._all(self._key)
        message = ClientKeys([key.public_key for key in keys], [key.signature for key in keys])
        await self._all(lambda client: client.send(message))
        first, *others = self.present
        (secret,) = await self._all(lambda client: client.recv(GroupSecret), [first])
        if len(secret.sealed) != len(others):
            raise first.breach("GroupSecret for another number of clients")
        sealed = dict(zip((client.name for client in others), secret.sealed, strict=True))
        await self._all(lambda client: client.send(SealedSecret(sealed[client.name])), others)

    async def _key(self, client: Peer) -> ClientKey:
        """A client's key; what it sent before it heard of a new beginning is passed over."""
        for _ in range(MOST_WORDS // WORDS + MOST_CLIENTS):
            if self._attempt == 0:
                message: ClientKey | MaskedPart | GroupSecret = await client.recv(ClientKey)
            else:
                message = await client.recv(ClientKey, MaskedPart, GroupSecret)
            if not isinstance(message, ClientKey) or message.attempt < self._attempt:
                continue
            if message.attempt > self._attempt:
                raise client.breach("a ClientKey of an attempt that has not begun")
            if len(message.public_key) != 32 or len(message.signature) > 8 * KIB:
                raise client.breach("a ClientKey with a key or signature of the wrong size")
            return message
        raise client.breach("more messages than there can be before a ClientKey")

    async def have_ended(self) -> bool:
        """Whether all say that they have; else the next step begins."""
        heads = await self._each(lambda client: client.recv(MaskedPart, AddingEnd), self.present)
        self._check_in_step(heads)
        self._heads = [head for head in heads if isinstance(head, MaskedPart)]
        if self._heads:
            self._begin_again_if_fewer()
        return not self._heads

    async def add(self) -> None:
        """One total."""
        heads, of = dict(zip(self.present, self._heads, strict=True)), self._heads[0]
        total = np.zeros(of.of, np.uint64)

        async def take(client: Peer) -> None:
            for first in range(0, len(total), WORDS):
                part = heads[client] if first == 0 else await client.recv(MaskedPart)
                if (part.step, part.about, part.of) != (of.step, of.about, of.of):
                    raise client.breach("a MaskedPart of another total than the one before")
                room = total[first : first + WORDS]
                if len(part.words) != 8 * len(room):
                    raise client.breach("a MaskedPart of the wrong size")
                room += np.frombuffer(part.words, "<u8")

        await self._all(take)

        async def give(client: Peer) -> None:
            for first in range(0, len(total), WORDS):
                piece = total[first : first + WORDS].astype("<u8").tobytes()
                await client.send(MaskedTotal(of.step, piece))

        # Some client may have the total from here on: the step is done, and is not done again.
        self._step += 1
        await self._each(give, self.present)
        self._course.progress(self._step)

    async def _all(
        self, work: Callable[[Peer], Awaitable[T]], clients: Sequence[Peer] | None = None
    ) -> list[T]:
        """What each client's work comes to. Raises _Left where one is gone."""
        done = await self._each(work, self.present if clients is None else clients)
        self._begin_again_if_fewer()
        return done

    def _begin_again_if_fewer(self) -> None:
        if self._fewer:
            raise _Left

    async def _each(self, work: Callable[[Peer], Awaitable[T]], clients: Sequence[Peer]) -> list[T]:
        """What the work of those comes to that are not gone, in their order."""

        async def one(client: Peer) -> tuple[T] | None:
            try:
                return (await work(client),)
            except (PeerLost, PeerStopped) as error:
                self._go_on_without(client, error)
                return None

        return [done[0] for done in await together([one(client) for client in clients]) if done]

    def _go_on_without(self, client: Peer, error: PeerLost | PeerStopped) -> None:
        """Raises the error where the others do not go on."""
        absences, left = self._course.absences, [other for other in self.present if other is not client]
        if not absences.without or len(left) < max(2, absences.least):
            if isinstance(error, PeerLost):
                raise PeerLost(
                    str(error),
                    for_peer=f"the connection to {client.name} broke",
                    passing=error.passing,
                ) from None
            raise error
        self.present, self._fewer = left, True
        self._course.left(client.name)

    def _check_in_step(self, heads: Sequence[MaskedPart | AddingEnd]) -> None:
        """Raises PeerError, naming clients that are out of step with most others."""
        for client, head in zip(self.present, heads, strict=True):
            if isinstance(head, MaskedPart):
                if head.step != self._step:
                    raise client.breach("a MaskedPart of another step")
                if not TAGS <= head.of <= MOST_WORDS:
                    raise client.breach("a MaskedPart of too few or too many numbers")
        kinds = [(h.about, h.of) if isinstance(h, MaskedPart) else None for h in heads]
        (kind, most), *_ = Counter(kinds).most_common()
        if most == len(kinds):
            return
        apart = [client for client, own in zip(self.present, kinds, strict=True) if own != kind]
        if len(kinds) == 2:
            raise either(self.present[0], self.present[1], "they add to different totals")
        if 2 * most > len(kinds):
            raise apart[0].breach("a part of another total than the other clients'")
        raise PeerError(
            f"the clients {', '.join(client.name for client in self.present)} add to different totals",
            for_peer="the clients add to different totals",
        )
