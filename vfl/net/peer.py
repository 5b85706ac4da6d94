"""A peer, as a protocol sees it: typed messages in order, over memory or over the network.

`Peer` frames each message with a tag of the session (which binds both certificates and the job) and
a sequence number, so that a message replayed, reordered or of another session is refused in one
place. A transport only moves frames.
"""

import asyncio
import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar, overload

from vfl.errors import DataError, PeerError, PeerLost, PeerStopped, VflError
from vfl.net import wire
from vfl.net.wire import Message, Octets

A = TypeVar("A", bound=Message)
B = TypeVar("B", bound=Message)
C = TypeVar("C", bound=Message)
T = TypeVar("T")

TAG = 16
HEADER = TAG + 8


class Stop(Message, frozen=True):
    """Either -> either: the job ends here, and why.

    Reveals: the kind of failure, in words that hold no value, id or path; whether the job may go on
    later, or on the next day.
    """

    reason: str
    passing: bool = False
    until_tomorrow: bool = False


@dataclass
class Traffic:
    """Bytes on the wire and messages, by message type, in each direction."""

    sent: Counter[str] = field(default_factory=Counter)
    received: Counter[str] = field(default_factory=Counter)
    sent_messages: Counter[str] = field(default_factory=Counter)
    received_messages: Counter[str] = field(default_factory=Counter)
    resent: int = 0  # bytes sent once more because a connection broke; counted in `sent` once

    @property
    def bytes_sent(self) -> int:
        return self.sent.total()

    @property
    def bytes_received(self) -> int:
        return self.received.total()


# What happens on the wire: "sent" (before the message leaves, which it does not if this raises) or
# "received", the message's type, its payload.
Observer = Callable[[str, str, Octets], None]


class Peer(ABC):
    """The other end of a session."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.traffic = Traffic()
        self.observers: list[Observer] = []
        self._session = bytes(TAG)
        self._unbound = self._session  # before the last `bind`
        self._sent = 0
        self._received = 0
        self._stop_recorded = False  # among frames that nobody has received
        self.unsent = False
        """Whether the connection was lost by the last message to it."""

    @abstractmethod
    async def _put(self, frame: Octets) -> None:
        """Send one frame; waits while the peer is slower. Raises PeerLost."""

    @abstractmethod
    async def _get(self) -> Octets:
        """The next frame. Raises PeerLost."""

    def _unread(self) -> Iterable[Octets]:
        """Frames that have arrived and were not received yet."""
        return ()

    @abstractmethod
    async def close(self) -> None:
        """End the session; frames already sent are delivered first."""

    def bind(self, *context: bytes) -> None:
        """Bind all later frames to `context` too (both ends call it at the same point)."""
        digest = hashlib.sha256(b"vfl session" + self._session)
        for part in context:
            digest.update(len(part).to_bytes(8, "big") + part)
        self._unbound, self._session = self._session, digest.digest()[:TAG]

    async def send(self, message: Message) -> None:
        """Send a message. Raises PeerLost, or PeerStopped when the peer said why it left."""
        frame = wire.encode_behind(self._session + self._sent.to_bytes(8, "big"), message)
        self._record("sent", type(message).__name__, frame[HEADER:], len(frame))
        self._sent += 1
        try:
            await self._put(frame)
        except PeerLost as lost:
            self.unsent = True
            raise self.last_words(lost) from None

    @overload
    async def recv(self, kind: type[A], /) -> A: ...
    @overload
    async def recv(self, kind: type[A], other: type[B], /) -> A | B: ...
    @overload
    async def recv(self, kind: type[A], other: type[B], third: type[C], /) -> A | B | C: ...
    @overload
    async def recv(self, *kinds: type[Message]) -> Message: ...
    async def recv(self, *kinds: type[Message]) -> Message:
        """The next message, which must be one of `kinds`.

        Raises PeerError when it is not, or is out of order, replayed, malformed or too large;
        PeerStopped when the peer ended the job; PeerLost when the connection broke.
        """
        frame = await self._get()
        expected = " or ".join(kind.__name__ for kind in kinds)
        # A peer that ends the job may not have come to the binding yet.
        stops = frame[:TAG] == self._unbound and self._stop_in(frame) is not None
        if len(frame) < HEADER or (frame[:TAG] != self._session and not stops):
            raise self.breach(f"a frame of another session where {expected} was due")
        if int.from_bytes(frame[TAG:HEADER], "big") != self._received:
            raise self.breach(f"a frame out of order where {expected} was due")
        self._received += 1
        payload = frame[HEADER:]
        try:
            message = wire.decode(payload, (*kinds, Stop))
        except wire.WireError as error:
            raise self.breach(str(error)) from None
        if not (isinstance(message, Stop) and self._stop_recorded):
            self._record("received", type(message).__name__, payload, len(frame))
        if isinstance(message, Stop) and Stop not in kinds:
            raise self._stop_error(message)
        return message

    def last_words(self, lost: PeerLost) -> PeerLost | PeerStopped:
        """`lost`, unless the peer sent a Stop before it left that nobody has read yet."""
        for frame in self._unread():
            if (stop := self._stop_in(frame)) is not None:
                if not self._stop_recorded:
                    self._stop_recorded = True
                    self._record("received", Stop.__name__, frame[HEADER:], len(frame))
                return self._stop_error(stop)
        return lost

    @staticmethod
    def _stop_in(frame: Octets) -> Stop | None:
        try:
            message = wire.decode(frame[HEADER:], (Stop,))
        except wire.WireError:
            return None
        return message if isinstance(message, Stop) else None

    def _stop_error(self, stop: Stop) -> PeerStopped:
        stopped = PeerStopped(
            f"{self.name} stopped the job: {one_line(stop.reason)}",
            for_peer=f"{self.name} stopped it",
            passing=stop.passing,
        )
        stopped.until_tomorrow = stop.until_tomorrow
        return stopped

    def breach(self, what: str) -> PeerError:
        """The error for a peer that broke the protocol; `what` names the message, never a value."""
        return PeerError(
            f"{self.name} broke the protocol: it sent {what}",
            for_peer=f"a peer broke the protocol with {what}",
        )

    def _record(self, direction: str, kind: str, payload: Octets, size: int) -> None:
        traffic = self.traffic
        if direction == "sent":
            traffic.sent[kind] += size
            traffic.sent_messages[kind] += 1
        else:
            traffic.received[kind] += size
            traffic.received_messages[kind] += 1
        for observer in self.observers:
            observer(direction, kind, payload)


def one_line(text: str, most: int = 500) -> str:
    """A peer's text, fit for a terminal."""
    return "".join(c if c.isprintable() else " " for c in text[:most])


class MemoryPeer(Peer):
    """One end of a pair in the same process; same framing, same checks as on the network."""

    def __init__(self, name: str, inbox: asyncio.Queue[Octets | None]) -> None:
        super().__init__(name)
        self._inbox = inbox
        self._outbox: asyncio.Queue[Octets | None] = inbox

    @staticmethod
    def pair(left: str, right: str) -> tuple["MemoryPeer", "MemoryPeer"]:
        """(what `left` holds to speak to `right`, what `right` holds to speak to `left`)."""
        a = MemoryPeer(right, asyncio.Queue(64))
        b = MemoryPeer(left, asyncio.Queue(64))
        a._outbox, b._outbox = b._inbox, a._inbox
        return a, b

    async def _put(self, frame: Octets) -> None:
        await self._outbox.put(frame)

    async def _get(self) -> Octets:
        frame = await self._inbox.get()
        if frame is None:
            self._inbox.put_nowait(None)
            raise PeerLost(f"the connection to {self.name} broke")
        return frame

    async def close(self) -> None:
        await self._outbox.put(None)


async def together(work: Iterable[Awaitable[T]]) -> list[T]:
    """Await all; the first failure cancels the others and is raised as it is."""

    async def run(job: Awaitable[T]) -> T:
        return await job

    try:
        async with asyncio.TaskGroup() as group:
            # A coroutine in another would be left without a word if it were cancelled before it begins.
            tasks = [group.create_task(job if asyncio.iscoroutine(job) else run(job)) for job in work]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


def either(one: Peer, other: Peer, what: str) -> PeerError:
    """The error where one of two peers broke the protocol, and nobody but they can know which."""
    return PeerError(
        f"{one.name} or {other.name} broke the protocol: {what}",
        for_peer=f"one of two peers broke the protocol: {what}",
    )


async def stop_all(peers: Iterable[Peer], error: VflError, seconds: float = 2.0) -> None:
    """Tell every peer that the job ended and why; a peer that cannot be told is let go."""

    async def tell(peer: Peer) -> None:
        try:
            async with asyncio.timeout(seconds):
                await peer.send(Stop(error.for_peer, error.passing, error.until_tomorrow))
                await peer.close()
        except DataError:
            await peer.close()  # what cannot be written into the ledger is not sent
        except (VflError, TimeoutError):
            return  # its session has ended already, for whatever reason

    await together([tell(peer) for peer in peers])
