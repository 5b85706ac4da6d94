"""Sessions that outlive their connections: every message arrives once and in order, or the job ends.

A session is opened by a greeting (hello.py) on a connection, and goes on over others when that one
breaks. In it a binary frame is a frame of `Peer`, numbered from 0 in each direction. A text frame is a
decimal number: how many bytes of frames the receiver has consumed so far. It is sent every few seconds
and serves three ends:

- Flow control. A sender keeps at most WINDOW bytes unconsumed, so memory is bounded, while both
  ends read the socket at all times: two parties that send at once do not block each other, and a
  broken connection is noticed by a party that is busy with other things.
- Delivery. A sender keeps what was not consumed, to send it again.
- Life. An end that hears nothing at all for 25 to 30 s takes the connection for broken. Part of a
  large frame counts, so a slow link is no reason to part, nor is a party that computes for hours.
  (Ping and pong would not do: a pong waits behind the data that the answering end is sending.)

A connection that ends with a WebSocket close frame ends the session. One that ends in any other way is
broken, and both ends hold the session for as long as their party files say:

    1. The end that dialled dials again, through the same TLS, and sends Resume: the session's secret
       key, which attempt this is, how many frames have arrived.
    2. The other end drops the connection it had, if it still had one, and answers Resumed: how many
       frames have arrived there. Or that there is no such session: then the job has ended.
    3. Both send again what the other has not got, from the frame after those.

Frames that come twice or leave a gap would be refused by `Peer` all the same, who numbers them itself.

What a session may hold grows with what is known of the other end: a greeting before it has greeted,
then what `Opening` says until both ends are bound to a job, then WINDOW. A frame that is too large is
refused when it says its size, before any of it is kept.
"""

import asyncio
import contextlib
import re
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import cast

from websockets.asyncio.connection import Connection
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from vfl.errors import PeerError, PeerLost, VflError
from vfl.net import wire
from vfl.net.connection import HeardConnection
from vfl.net.hello import Hello, Resume, Resumed, resume_key
from vfl.net.pace import Pace
from vfl.net.peer import Peer
from vfl.net.tls import reason_of
from vfl.net.wire import KIB, MAX_MESSAGE

MAX_FRAME = MAX_MESSAGE + KIB
WINDOW = 2 * MAX_FRAME
PIECE = 256 * KIB  # asyncio's TLS takes a single write whole, however slow the line is
OVERHEAD = 256  # what a frame costs in memory beside its bytes

REPORTS = 64  # flow reports at once; then five a beat, where one is due

CLOSE = 30.0  # seconds without any progress after which closing gives up
BEAT = 5.0
SILENT_BEATS = 5
BACKOFF = (0.1, 1.0)  # first and longest pause between two attempts to connect

_random = secrets.SystemRandom()


class NotYet(Exception):
    """An attempt to connect failed in a way that waiting may cure."""


@dataclass(frozen=True)
class Patience:
    """What a session does when its connection breaks."""

    seconds: float = 0.0  # that it waits for another; 0: it ends at once
    say: Callable[[str], None] = lambda line: None  # tells the person at this end


NO_PATIENCE = Patience()


@dataclass(frozen=True)
class Opening:
    """What the other end may send before both are bound to a job."""

    frame: int  # bytes
    window: int  # of frames that nobody has received yet


GREETING = Opening(2 * KIB, 16 * KIB)

# Opens another connection, over which frames of so many bytes may come, and resumes. Raises NotYet,
# VflError.
Redial = Callable[[Resume, int], Awaitable[tuple[Connection, Resumed]]]


@dataclass(frozen=True)
class _Kept:
    """A frame that the other end has not consumed yet."""

    frame: bytes
    start: int  # cost of all frames before it

    @property
    def end(self) -> int:
        return self.start + _cost(self.frame)


@dataclass(eq=False)
class _Link:
    """A connection of the session."""

    connection: Connection
    next: int = 0  # number of the frame that goes out next
    opening: bytes = b""  # goes out before any frame
    broke: str = ""  # why this end gave it up
    reports: Pace | None = None  # of the other end's


class WebSocketPeer(Peer):
    """The other end of a session over the network; made by `dial` and `Listener.accept`."""

    def __init__(
        self,
        name: str,
        connection: Connection,
        patience: Patience,
        opening: Opening | None = None,
        first: Opening | None = GREETING,
    ) -> None:
        super().__init__(name)
        self.hello: Hello  # set once the session is greeted
        self.key: bytes | None = None  # too; until then the session ends with its connection
        self._patience = patience
        self._redial: Redial | None = None  # where this end dialled
        self._attempts = 0  # to resume
        self._opening = opening
        self._allowed = first  # None: as much as fits into the window
        self._link: _Link | None = _Link(connection)  # None while the session has no connection
        self._inbox: deque[bytes] = deque()
        self._arrived = 0  # frames
        self._held = 0  # cost of the frames in the inbox
        self._consumed = 0  # cost of those taken out of it
        self._outbox: dict[int, _Kept] = {}  # by number
        self._first = 0  # number of the first in the outbox
        self._queued = 0  # frames ever put into it
        self._begun = 0  # of these, sent at least in part
        self._queued_cost = 0
        self._consumed_there = 0
        self._reported = 0  # of what was consumed here, known there
        self._progress = 0  # whatever shows that the other end takes what is sent
        self._closing = False
        self._end: VflError | None = None
        self._news = asyncio.Event()  # something arrived, or the end
        self._room = asyncio.Event()
        self._due = asyncio.Event()  # a report
        self._more = asyncio.Event()  # to send
        self._back = asyncio.Event()  # another connection
        self._over = asyncio.Event()  # no connection will follow
        self._turn = asyncio.Lock()
        self._delivering = 0  # frames that wait for room, in their order
        self._living = asyncio.create_task(self._live())

    @property
    def lost(self) -> bool:
        """Whether the session has ended; frames that arrived before can still be received."""
        return self._end is not None

    @property
    def away(self) -> bool:
        """Whether its connection is broken and it waits for another."""
        return self._end is None and self._link is None

    @property
    def resumable(self) -> bool:
        """Whether it goes on when its connection breaks."""
        going = self._end is None or self._closing
        return going and not self._over.is_set() and self.key is not None

    def when_over(self, call: Callable[[], object]) -> None:
        """Call when nothing will be sent or received any more."""
        self._living.add_done_callback(lambda _: call())

    @property
    def has_job(self) -> bool:
        """Whether both ends are bound to a job."""
        return self._allowed is None

    def greeted(self, theirs: Hello, redial: Redial | None = None) -> None:
        """From here on the session outlives its connection; the end that dialled can dial again."""
        self.hello, self._redial = theirs, redial
        self.key = resume_key(self._session)
        self._allow(self._opening)

    def bind(self, *context: bytes) -> None:
        super().bind(*context)
        if self.key is not None:
            self._allow(None)

    def _allow(self, what: Opening | None) -> None:
        """What the other end may send from its next frame on."""
        self._allowed = what
        if self._link is not None:
            self._limit(self._link.connection)

    @property
    def _frame(self) -> int:
        """The largest frame that the other end may send."""
        return MAX_FRAME if self._allowed is None else self._allowed.frame

    def _limit(self, connection: Connection) -> None:
        cast(HeardConnection, connection).allow(self._frame)

    # --- Frames ---

    async def _put(self, frame: bytes) -> None:
        if not self._delivering and self._end is None and self._has_room(frame):
            self._queue(frame)
            return
        # A sender that is cancelled must not leave a gap in the sequence, or the peer would take
        # the Stop that follows for a breach: the frame keeps its place and goes out all the same.
        delivery = asyncio.create_task(self._deliver(frame))
        self._delivering += 1
        delivery.add_done_callback(self._delivered)
        await asyncio.shield(delivery)

    def _delivered(self, delivery: asyncio.Task[None]) -> None:
        self._delivering -= 1
        if not delivery.cancelled():
            delivery.exception()  # which nobody may be left to hear of

    async def _deliver(self, frame: bytes) -> None:
        async with self._turn:
            while self._end is None and not self._has_room(frame):
                self._room.clear()
                await self._room.wait()
            if self._end is not None:
                raise self._ended()
            self._queue(frame)

    def _has_room(self, frame: bytes) -> bool:
        return self._queued_cost + _cost(frame) <= self._consumed_there + WINDOW

    def _queue(self, frame: bytes) -> None:
        self._outbox[self._queued] = _Kept(frame, self._queued_cost)
        self._queued += 1
        self._queued_cost += _cost(frame)
        self._more.set()

    async def _get(self) -> bytes:
        while not self._inbox:
            if self._end is not None:
                raise self._ended()
            self._news.clear()
            await self._news.wait()
        frame = self._inbox.popleft()
        self._held -= _cost(frame)
        self._consumed += _cost(frame)
        if self._consumed - self._reported >= WINDOW // 4:
            self._due.set()
        return frame

    def _unread(self) -> Iterable[bytes]:
        return tuple(self._inbox)

    # --- The end ---

    async def close(self) -> None:
        self._finish(self._closed_here())
        self._closing = True
        self._more.set()
        try:
            # However long it takes on a slow line; but a dead machine takes nothing.
            progress = -1
            while self._link or self._outbox:
                if self._over.is_set() or progress == self._progress:
                    break
                progress = self._progress
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(CLOSE):
                        await self._over.wait()
        finally:
            # Also when the caller's patience ends first: nothing of the session stays behind.
            self.drop()

    def drop(self) -> None:
        """End the session at once, without a word."""
        self._finish(self._closed_here())
        if self._link is not None:
            self._link.connection.transport.abort()
        self._living.cancel()
        self._over.set()

    def give_up_if_away(self, why: str) -> None:
        """Wait no longer for the other end to dial again."""
        if self.away:
            self._finish(PeerLost(why))
            self.drop()

    def last_connection(self) -> None:
        """When its connection breaks, or if it is broken, no other will follow."""
        self._patience = NO_PATIENCE
        self.give_up_if_away(f"the connection to {self.name} broke, and nobody listens here any more")

    def _finish(self, error: VflError) -> None:
        """End the session; the first reason stands."""
        if self._end is None:
            self._end = error
        for event in (self._news, self._room):
            event.set()

    def _ended(self) -> VflError:
        """The reason as an exception of its own, for each caller."""
        assert self._end is not None  # noqa: S101 - for the type checker
        end = self._end
        return type(end)(str(end), for_peer=end.for_peer, passing=end.passing)

    def _closed_here(self) -> PeerLost:
        return PeerLost(f"this party closed the connection to {self.name}")

    def _broke(self, reason: str) -> PeerLost:
        return PeerLost(f"the connection to {self.name} broke ({reason})")

    # --- One connection after the other ---

    async def _live(self) -> None:
        """Move frames over one connection after the other until the session ends."""
        link = self._link
        try:
            while link is not None:
                reason = await self._carry(link)
                link.connection.transport.abort()
                link = await self._following(link, reason)
        finally:
            self._link = None
            self._outbox.clear()
            self._over.set()

    async def _carry(self, link: _Link) -> str | None:
        """Move frames over a connection until it ends; why it broke, None when the session ended."""
        works: list[asyncio.Task[None]] = []
        try:
            if link.opening:
                await link.connection.send(link.opening)
            self._due.set()  # a report may have been lost with the last connection
            works = [asyncio.create_task(w(link)) for w in (self._write, self._report, self._watch)]
            await self._read(link)
        except ConnectionClosed as closed:
            if self._link is link:
                return self._why(link, closed)
        except PeerError as breach:
            self._finish(breach)
        finally:
            for work in works:
                work.cancel()
        return None

    async def _following(self, link: _Link, reason: str | None) -> _Link | None:
        """The connection after `link`; None when the session has ended."""
        if self._link is not link:
            return self._link  # the other end was the first to know
        self._link = None
        if reason is None or (self._closing and not self._outbox):
            return None
        seconds, say = self._patience.seconds, self._patience.say
        if self.key is None or not seconds:
            self._finish(self._broke(reason))
            return None
        if self._redial is not None:
            say(f"{self._broke(reason)}: dialling again for {seconds:.0f} s")
            following = self._dial_again(self._redial, self.key)
        else:
            say(f"{self._broke(reason)}: waiting {seconds:.0f} s for it to dial again")
            following = self._dialled_again()
        loop = asyncio.get_running_loop()
        broke = loop.time()
        try:
            async with asyncio.timeout(seconds):
                found = await following
        except TimeoutError:
            text = f"{self._broke(reason)} and did not come back within {seconds:.0f} s"
            self._finish(PeerLost(text, passing=False))  # the job has waited long enough
            return None
        if found is not None:
            self._progress += 1
            say(f"the connection to {self.name} is back after {loop.time() - broke:.0f} s")
        return found

    async def _dial_again(self, redial: Redial, key: bytes) -> _Link | None:
        """Dial until the other end answers; None when it does not know the session any more."""
        pause, longest = BACKOFF
        while True:
            await asyncio.sleep(pause * _random.uniform(0.5, 1.5))
            pause = min(2 * pause, longest)
            self._attempts += 1
            try:
                asked = Resume(key, self._attempts, self._arrived)
                connection, answer = await redial(asked, self._frame)
                if answer.received is None:
                    connection.transport.abort()
                    self._finish(PeerLost(f"{self.name} was restarted, or has given up the session"))
                    return None
                self._link = self._linked(connection, answer.received, "Resumed")
                return self._link
            except PeerError as breach:
                self._finish(breach)
                return None
            except (NotYet, VflError):
                continue  # a wrong certificate too: who knows what is in between while a line is down

    async def _dialled_again(self) -> _Link | None:
        """Wait for `resume`."""
        while self._link is None:
            self._back.clear()
            await self._back.wait()
        return self._link

    def resume(self, connection: Connection, asked: Resume) -> None:
        """Go on over another connection, which the other end has dialled.

        Raises PeerError when the Resume was answered before, or counts frames that were never sent: the
        latter ends the session.
        """
        if asked.attempt <= self._attempts:
            raise self.breach("a Resume that is not its latest")
        self._attempts = asked.attempt
        try:
            link = self._linked(connection, asked.received, "Resume")
        except PeerError:
            self.drop()
            raise
        link.opening = wire.encode(Resumed(self._arrived))
        # From here on nothing arrives over the old one: the count just made stands.
        old, self._link = self._link, link
        if old is not None:
            self._patience.say(f"{self.name} dialled again: the connection before it had broken")
            old.connection.transport.abort()
        self._back.set()

    def _linked(self, connection: Connection, received: int, message: str) -> _Link:
        if not self._first <= received <= self._begun:
            breach = self.breach(f"a {message} that counts frames which it cannot have")
            self._finish(breach)
            connection.transport.abort()
            raise breach
        self._limit(connection)
        return _Link(connection, received)

    # --- One connection ---

    async def _read(self, link: _Link) -> None:
        while True:
            data = await link.connection.recv()
            if self._link is not link:
                return
            if isinstance(data, str):
                self._hear(link, data)
                continue
            self._held += _cost(data)
            if self._held > (WINDOW if self._allowed is None else self._allowed.window):
                raise self.breach("more than it was allowed to send")
            self._inbox.append(data)
            self._arrived += 1
            self._news.set()

    def _hear(self, link: _Link, report: str) -> None:
        now = asyncio.get_running_loop().time()
        link.reports = link.reports or Pace(REPORTS, 5 / BEAT, now)
        if not link.reports.take(now):
            raise self.breach("flow reports without end")
        consumed = int(report) if re.fullmatch(r"[0-9]{1,18}", report, re.ASCII) else -1
        begun = self._outbox[link.next].start if link.next in self._outbox else self._queued_cost
        if not self._consumed_there <= consumed <= begun:
            raise self.breach("a flow report that cannot be")
        if consumed > self._consumed_there:
            self._progress += 1
        if consumed >= self._consumed_there + WINDOW // 4:
            link.reports = None  # it is due, however soon
        self._consumed_there = consumed
        while self._first in self._outbox and self._outbox[self._first].end <= consumed:
            del self._outbox[self._first]
            self._first += 1
        self._room.set()

    async def _write(self, link: _Link) -> None:
        with contextlib.suppress(ConnectionClosed):  # the reading side knows the reason
            while True:
                while link.next < self._queued:
                    if link.connection.transport.is_closing():
                        return  # broken: the reading side is about to learn it
                    frame = self._outbox[link.next].frame
                    if link.next < self._begun:
                        self.traffic.resent += len(frame)
                    link.next += 1
                    self._begun = max(self._begun, link.next)
                    await link.connection.send(frame if len(frame) <= PIECE else self._pieces(frame))
                    self._progress += 1
                if self._closing:
                    await link.connection.close()
                    return
                self._more.clear()
                await self._more.wait()

    def _pieces(self, frame: bytes) -> Iterator[memoryview]:
        view = memoryview(frame)
        for start in range(0, len(view), PIECE):
            yield view[start : start + PIECE]
            self._progress += 1

    async def _report(self, link: _Link) -> None:
        """Tell the peer what was consumed: when it is much, and every few seconds in any case."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BEAT):
                    await self._due.wait()
            self._due.clear()
            consumed = self._consumed
            # Behind a large message on a slow link this is late, but its pieces count as life too.
            with contextlib.suppress(TimeoutError, ConnectionClosed):
                async with asyncio.timeout(BEAT):
                    await link.connection.send(str(consumed))
                    self._reported = consumed

    async def _watch(self, link: _Link) -> None:
        """Break the connection when nothing was heard for SILENT_BEATS.

        Counts its own turns instead of reading a clock, so that a process that was suspended itself
        does not blame the peer.
        """
        connection = cast(HeardConnection, link.connection)
        silent = 0
        while silent < SILENT_BEATS:
            connection.heard = False
            await asyncio.sleep(BEAT)
            silent = 0 if connection.heard else silent + 1
        link.broke = f"nothing heard for {BEAT * SILENT_BEATS:.0f} s"
        connection.transport.abort()

    def _why(self, link: _Link, closed: ConnectionClosed) -> str | None:
        """Why a connection broke; None, and the session ends, when an end closed it."""
        if closed.sent is not None and not closed.rcvd_then_sent:
            # This end closed it for what it received: too large, or no WebSocket frame.
            if closed.sent.code == CloseCode.MESSAGE_TOO_BIG:
                than = "any message" if self._allowed is None else "any message that was due"
                self._finish(self.breach(f"a frame larger than {than}"))
                return None
            if closed.sent.code in (1002, 1007):
                self._finish(self.breach("bytes that are no frame"))
                return None
        if closed.rcvd is not None:
            self._finish(PeerLost(f"{self.name} closed the connection"))
            return None
        if isinstance(closed.__cause__, OSError) and not link.broke:
            return reason_of(closed.__cause__)
        return link.broke or "it ended without a word"


def _cost(frame: bytes) -> int:
    return len(frame) + OVERHEAD
