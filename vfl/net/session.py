"""Sessions that outlive their connections: every message arrives once and in order, or the job ends.

A session is opened by a greeting (hello.py) on a connection, and goes on over others when that one
breaks. In it a binary frame is a frame of `Peer`, and a text frame is a decimal number, the flow report,
sent every few seconds. What is sent, delivered, kept and refused is decided in window.py; here are the
connections. Both ends read theirs at all times: two parties that send at once do not block each other,
and a broken connection is noticed by a party that is busy with other things.

An end that hears nothing at all for 25 to 30 s takes the connection for broken. Part of a large frame
counts, so a slow link is no reason to part, nor is a party that computes for hours: it reports. (Ping
and pong would not do: a pong waits behind the data that the answering end is sending.)

A connection that ends with a WebSocket close frame ends the session. One that ends in any other way is
broken, and both ends hold the session for as long as their party files say:

    1. The end that dialled dials again, through the same TLS, and sends Resume: the session's secret
       key, which attempt this is, how many frames have arrived.
    2. The other end drops the connection it had, if it still had one, and answers Resumed: how many
       frames have arrived there. Or that there is no such session: then the job has ended.
    3. Both send again what the other has not got, from the frame after those.

Where connection after connection breaks before a frame that is due has come through, the session waits
no longer than for one that does not come: something in between lets a beginning pass and no more.

Frames that come twice or leave a gap would be refused by `Peer` all the same, who numbers them itself.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from vfl.errors import PeerError, PeerLost, VflError, fault
from vfl.net import window, wire
from vfl.net.connection import BoundedConnection
from vfl.net.hello import Hello, Resume, Resumed, resume_key
from vfl.net.peer import Peer
from vfl.net.tls import reason_of
from vfl.net.window import GREETING, Breach, OldAttempt, Opening, Windows
from vfl.net.wire import KIB, Octets
from vfl.news import News

PIECE = 256 * KIB  # of a long frame: each that the line takes is progress, however slow it is

CLOSE = 30.0  # seconds without any progress after which closing gives up
SILENT_BEATS = 5
IN_VAIN = 5  # connections in a row over which nothing came through
BACKOFF = (0.1, 1.0)  # first and longest pause between two attempts to connect

_random = secrets.SystemRandom()


class NotYet(Exception):
    """An attempt to connect failed in a way that waiting may cure.

    nobody: whether it seems that nothing listens at the address, or nothing behind what does. unlisted:
    whether a relay refuses the place where two would meet. refused: whether the machine that was dialled
    (a relay's or a proxy's, where there is one) says that nothing listens on its port.
    """

    def __init__(
        self, why: str, *, nobody: bool = False, unlisted: bool = False, refused: bool = False
    ) -> None:
        super().__init__(why)
        self.nobody, self.unlisted, self.refused = nobody, unlisted, refused


@dataclass(frozen=True)
class Patience:
    """What a session does when its connection breaks."""

    seconds: float = 0.0  # that it waits for another; 0: it ends at once
    say: Callable[[str], None] = lambda line: None  # tells the person at this end


NO_PATIENCE = Patience()


# Opens another connection, over which frames of so many bytes may come, and resumes. Raises NotYet,
# VflError.
Redial = Callable[[Resume, int], Awaitable[tuple[BoundedConnection, Resumed]]]


@dataclass(eq=False)
class _Link:
    """A connection of the session."""

    connection: BoundedConnection
    answer: bytes = b""  # to a Resume; goes out before any frame
    broke: str = ""  # why this end gave it up
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)  # of who sends


class WebSocketPeer(Peer):
    """The other end of a session over the network; made by `dial` and `Listener.accept`."""

    def __init__(
        self,
        name: str,
        connection: BoundedConnection,
        patience: Patience,
        opening: Opening | None = None,
        first: Opening | None = GREETING,
    ) -> None:
        super().__init__(name)
        self.hello: Hello  # set once the session is greeted
        self.key: bytes | None = None  # too; until then the session ends with its connection
        self._patience = patience
        self._redial: Redial | None = None  # where this end dialled
        self._unreached = ""  # why it came to nothing, the last time
        self._in_vain = 0  # connections before this one over which nothing came through that was due
        self._broke = 0.0  # when the first of these did
        self._through = (-1, -1)  # frames that had come through, there and here, when it went on
        self._opening = opening
        self._windows = windows = Windows(first)
        self._sending, self._receiving = windows.sending, windows.receiving
        self._link: _Link | None = _Link(connection)  # None while the session has no connection
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

    @property
    def has_job(self) -> bool:
        """Whether both ends are bound to a job."""
        return self._receiving.allowed is None

    def call_when_over(self, call: Callable[[], object]) -> None:
        """Call when nothing will be sent or received any more."""
        self._living.add_done_callback(lambda _: call())

    def outlive_connection(self, hello: Hello, redial: Redial | None = None) -> None:
        """Once greeted, go on over other connections from here on, for which `redial` dials."""
        self.hello, self._redial = hello, redial
        self.key = resume_key(self._session)
        self._allow(self._opening)

    def bind(self, *context: bytes) -> None:
        super().bind(*context)
        if self.key is not None:
            self._allow(None)

    def _allow(self, opening: Opening | None) -> None:
        """Let the other end send so much from its next frame on."""
        self._receiving.allowed = opening
        if self._link is not None:
            self._link.connection.allow(self._receiving.largest)

    # --- Frames ---

    async def _put(self, frame: Octets) -> None:
        if not self._delivering and self._end is None and self._sending.has_room(frame):
            self._queue(frame)
            return
        # A sender that is cancelled must not leave a gap in the sequence, or the peer would take
        # the Stop that follows for a breach: the frame keeps its place and goes out all the same.
        delivery = asyncio.create_task(self._deliver(frame))
        self._delivering += 1
        delivery.add_done_callback(self._count_delivery)
        await asyncio.shield(delivery)

    def _count_delivery(self, delivery: asyncio.Task[None]) -> None:
        self._delivering -= 1
        if not delivery.cancelled():
            delivery.exception()  # which nobody may be left to hear of

    async def _deliver(self, frame: Octets) -> None:
        async with self._turn:
            while self._end is None and not self._sending.has_room(frame):
                self._room.clear()
                await self._room.wait()
            if self._end is not None:
                raise self._reason()
            self._queue(frame)

    def _queue(self, frame: Octets) -> None:
        self._sending.put(frame)
        self._more.set()

    async def _get(self) -> Octets:
        while self._receiving.is_empty:
            if self._end is not None:
                raise self._reason()
            self._news.clear()
            await self._news.wait()
        frame = self._receiving.take()
        if self._receiving.report_is_due:
            self._due.set()
        return frame

    def _unread(self) -> Iterable[Octets]:
        return self._receiving.frames

    # --- One connection after the other ---

    async def _live(self) -> None:
        """Move frames over one connection after the other until the session ends."""
        link = self._link
        try:
            while link is not None:
                reason = await self._carry(link)
                link.connection.abort()
                link = await self._next_link(link, reason)
        except Exception as error:
            self._finish(self._failed(error))  # a bug here must not leave those who wait without a word
        finally:
            if self._link is not None:
                self._link.connection.abort()
            self._link = None
            self._sending.clear()
            self._over.set()

    async def _next_link(self, link: _Link, reason: str | None) -> _Link | None:
        """The connection after `link`; None when the session has ended."""
        if self._link is not link:
            return self._link  # the other end was the first to know
        self._link = None
        if reason is None or (self._closing and self._sending.is_empty):
            return None
        seconds, say = self._patience.seconds, self._patience.say
        if self.key is None or not seconds:
            self._finish(self._broken(reason))
            return None
        if self._in_vain >= IN_VAIN and asyncio.get_running_loop().time() > self._broke + seconds:
            before = f"as {self._in_vain} before it, over which nothing came through"
            text = f"{self._broken(reason)}, {before}: does a firewall or a relay cut it?"
            self._finish(PeerLost(text, passing=False))
            return None
        if self._redial is not None:
            line = f"{self._broken(reason)}: dialling again for {seconds:.0f} s"
            say(News(line, "connection", self.name))
            following = self._dial_again(self._redial, self.key)
        else:
            line = f"{self._broken(reason)}: waiting {seconds:.0f} s for it to dial again"
            say(News(line, "connection", self.name))
            following = self._wait_for_resume()
        loop = asyncio.get_running_loop()
        broke = loop.time()
        if not self._in_vain:
            self._broke = broke
        try:
            async with asyncio.timeout(seconds):
                await following
        except TimeoutError:
            if self._link is None:
                text = f"{self._broken(reason)} and did not come back within {seconds:.0f} s"
                if self._unreached:
                    text += f": {self._unreached}"
                self._finish(PeerLost(text, passing=False))  # the job has waited long enough
        if self._link is not None:
            self._progress += 1
            line = f"the connection to {self.name} is back after {loop.time() - broke:.0f} s"
            say(News(line, "connection", self.name))
        return self._link

    async def _dial_again(self, redial: Redial, key: bytes) -> None:
        """Dial until the other end answers, which may not know the session any more."""
        pause, longest = BACKOFF
        pause = min(longest, pause * 2**self._in_vain)
        self._unreached = ""
        while True:
            await asyncio.sleep(pause * _random.uniform(0.5, 1.5))
            pause = min(2 * pause, longest)
            try:
                attempt, arrived = self._windows.ask()
                connection, answer = await redial(Resume(key, attempt, arrived), self._receiving.largest)
                if answer.received is None:
                    connection.abort()
                    self._finish(PeerLost(f"{self.name} was restarted, or has given up the session"))
                    return
                try:
                    self._windows.take_answer(answer.received)
                except Breach as breach:
                    connection.abort()
                    raise self.breach(str(breach)) from None
            except PeerError as breach:
                self._finish(breach)
                return
            except (NotYet, VflError) as failure:
                self._unreached = str(failure)
                continue  # a wrong certificate too: who knows what is in between while a line is down
            connection.allow(self._receiving.largest)
            self._note_passage(answer.received)
            self._link = _Link(connection)
            return

    async def _wait_for_resume(self) -> None:
        while self._link is None:
            self._back.clear()
            await self._back.wait()

    def resume(self, connection: BoundedConnection, request: Resume) -> None:
        """Go on over another connection, which the other end has dialled.

        Raises PeerError when the Resume was answered before, or counts frames that were never sent: the
        latter ends the session.
        """
        try:
            arrived = self._windows.answer(request.attempt, request.received)
        except OldAttempt as old:
            raise self.breach(str(old)) from None
        except Breach as breach:
            error = self.breach(str(breach))
            self._finish(error)
            connection.abort()
            self.drop()
            raise error from None
        connection.allow(self._receiving.largest)
        self._note_passage(request.received)
        # From here on nothing arrives over the old one: the count just made stands.
        before, self._link = self._link, _Link(connection, wire.encode(Resumed(arrived)))
        if before is not None:
            line = f"{self.name} dialled again: the connection before it had broken"
            self._patience.say(News(line, "connection", self.name))
            before.connection.abort()
        self._back.set()

    def _note_passage(self, there: int) -> None:
        """Note at a new connection whether anything came through over the one before that was due."""
        before, self._through = self._through, (there, self._receiving.arrived)
        in_vain = self._through == before and self._sending.has_next
        self._in_vain = self._in_vain + 1 if in_vain else 0

    # --- One connection ---

    async def _carry(self, link: _Link) -> str | None:
        """Move frames over a connection until it ends; why it broke, None when the session ended."""
        works: list[asyncio.Task[None]] = []
        try:
            if link.answer:
                await link.connection.send(link.answer)
            self._due.set()  # a report may have been lost with the last connection
            for work in (self._write, self._report, self._watch):
                works.append(asyncio.create_task(work(link)))
                works[-1].add_done_callback(self._hear_of_fault)
            await self._read(link)
        except ConnectionClosed as closed:
            if self._link is link:
                return self._why(link, closed)
        except Breach as breach:
            self._finish(self.breach(str(breach)))
        finally:
            for task in works:
                task.cancel()
        return None

    def _hear_of_fault(self, work: asyncio.Task[None]) -> None:
        """As in `_live`: a bug must not leave those who wait without a word."""
        if not work.cancelled() and (error := work.exception()) is not None:
            self._finish(self._failed(error))
            self._living.cancel()

    async def _read(self, link: _Link) -> None:
        loop = asyncio.get_running_loop()
        while True:
            data = await link.connection.receive()
            if self._link is not link:
                return
            if isinstance(data, str):
                if self._sending.hear_report(data, loop.time()):
                    self._progress += 1
                self._room.set()
            else:
                self._receiving.put(data)
                self._news.set()

    async def _write(self, link: _Link) -> None:
        with contextlib.suppress(ConnectionClosed):  # the reading side knows the reason
            while True:
                while self._sending.has_next:
                    if self._link is not link or link.connection.is_closing:
                        return  # broken: the reading side is about to learn it
                    frame, again = self._sending.take_next()
                    if again:
                        self.traffic.resent += len(frame)
                    async with link.turn:
                        if len(frame) > PIECE:
                            await link.connection.send_long(frame, PIECE, self._note_progress)
                        else:
                            await link.connection.send(frame)
                    self._progress += 1
                if self._closing:
                    await link.connection.close()
                    return
                self._more.clear()
                await self._more.wait()

    def _note_progress(self) -> None:
        self._progress += 1

    async def _report(self, link: _Link) -> None:
        """Tell the peer what was consumed: when it is much, and every few seconds in any case."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(window.BEAT):
                    await self._due.wait()
            self._due.clear()
            consumed = self._receiving.consumed
            # Behind a large message on a slow link this is late, but its pieces count as life too.
            with contextlib.suppress(TimeoutError, ConnectionClosed):
                async with asyncio.timeout(window.BEAT), link.turn:
                    await link.connection.send(str(consumed))
                    self._receiving.reported = consumed

    async def _watch(self, link: _Link) -> None:
        """Break the connection when nothing was heard for SILENT_BEATS.

        Counts its own turns instead of reading a clock, so that a process that was suspended itself
        does not blame the peer.
        """
        silent = 0
        while silent < SILENT_BEATS:
            link.connection.heard = False
            await asyncio.sleep(window.BEAT)
            silent = 0 if link.connection.heard else silent + 1
        link.broke = f"nothing heard for {window.BEAT * SILENT_BEATS:.0f} s"
        link.connection.abort()

    def _why(self, link: _Link, closed: ConnectionClosed) -> str | None:
        """Why a connection broke; None, and the session ends, when an end closed it."""
        if closed.sent is not None and not closed.rcvd_then_sent:
            # This end closed it for what it received: too large, or no WebSocket frame.
            if closed.sent.code == CloseCode.MESSAGE_TOO_BIG:
                than = "any message" if self.has_job else "any message that was due"
                self._finish(self.breach(f"a frame larger than {than}"))
                return None
            if closed.sent.code in (CloseCode.PROTOCOL_ERROR, CloseCode.INVALID_DATA):
                self._finish(self.breach("bytes that are no frame"))
                return None
        if closed.rcvd is not None:
            self._finish(PeerLost(f"{self.name} closed the connection"))
            return None
        if isinstance(closed.__cause__, OSError) and not link.broke:
            return reason_of(closed.__cause__)
        return link.broke or "it ended without a word"

    # --- The end ---

    async def close(self) -> None:
        self._finish(self._closed_here())
        self._closing = True
        self._more.set()
        try:
            # However long it takes on a slow line; but a dead machine takes nothing.
            progress = -1
            while self._link or not self._sending.is_empty:
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
            self._link.connection.abort()
        self._living.cancel()
        self._over.set()

    def give_up_if_away(self, why: str) -> None:
        """Wait no longer for the other end to dial again."""
        if self.away:
            self._finish(PeerLost(why))
            self.drop()

    def end_with_connection(self) -> None:
        """Let no other connection follow on the present one, nor on one that has broken."""
        self._patience = NO_PATIENCE
        self.give_up_if_away(f"the connection to {self.name} broke, and nobody listens here any more")

    def _finish(self, error: VflError) -> None:
        """End the session; the first reason stands."""
        if self._end is None:
            self._end = error
        for event in (self._news, self._room):
            event.set()

    def _reason(self) -> VflError:
        """Why the session ended, as an exception of its own for each caller."""
        assert self._end is not None  # noqa: S101 - for the type checker
        end = self._end
        return type(end)(str(end), for_peer=end.for_peer, passing=end.passing)

    def _closed_here(self) -> PeerLost:
        return PeerLost(f"this party closed the connection to {self.name}")

    def _broken(self, reason: str) -> PeerLost:
        return PeerLost(f"the connection to {self.name} broke ({reason})")

    def _failed(self, error: BaseException) -> VflError:
        return VflError(f"the session with {self.name} failed here: {fault(error)}")
