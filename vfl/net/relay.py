"""A relay: joins connections of parties that both dial out, and passes on bytes it cannot read.

What parties say to it first, and how it knows who belongs together, is in rendezvous.py. It sees
addresses, sizes and times, and places, which are random to it; it keeps nothing and knows no names.

Whoever reaches its port is a stranger to it, so everything is bounded:

    1. A connection says its request, of a fixed size, within a few seconds. Until then it takes nothing
       from those that have, and gives way to newer ones, the oldest of the address that has most first.
    2. A place takes who can sign for it, a number of connections, and one process that waits: another
       one is let in when the first does not answer any more. Where an operator lists places there are
       no others.
    3. Two that are joined have a buffer of fixed size in each direction. An end that reads slowly holds
       the other back; one that closes is followed by the other within seconds. Where nothing moves for
       long both are closed. Bytes may be bounded by the second and by the day.
"""

import asyncio
import contextlib
import functools
import os
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime

from vfl.errors import fault
from vfl.net.admission import FILES, network_of, raise_file_limit
from vfl.net.pace import Pace
from vfl.net.rendezvous import (
    ANSWER,
    ASK,
    ASKS,
    CHALLENGE,
    DIALS,
    FALSE,
    FULL,
    GREETING,
    HERE,
    HOLD,
    JOIN,
    NOBODY,
    OFTEN,
    READY,
    REQUEST,
    SPENT,
    TAKEN,
    UNKNOWN,
    WAITING,
    Request,
    receive,
)
from vfl.text import counted

BUFFER = 128 * 1024  # bytes on the way in each direction of two that are joined
LINGER = 5.0  # seconds for one direction once the other has ended
WAITERS = 2  # connections that wait at a place
DIALLERS = 16  # connections that dial a place and are not joined yet
STRANGERS = 512  # connections that have proven nothing
AN_ADDRESS = 256  # of these, of one address
AT_ONCE, A_SECOND = 256, 20.0  # requests of an address, where places are not listed
_PACES = 4096  # addresses of which that is known
_SPARE = 64  # file descriptors for all else

_REASONS = {
    FULL: "no place left",
    OFTEN: "asked too often",
    NOBODY: "nobody waited",
    TAKEN: "another process waited",
    SPENT: "the day's bytes are spent",
    UNKNOWN: "a place that is not listed",
    FALSE: "no proof",
}
_SILENT = "no request in time"
_GONE = "gone before the request"
_GAVE_WAY = "gave way to newer ones"


@dataclass(frozen=True)
class Limits:
    """What a relay lets strangers have."""

    connections: int = 1024
    an_address: int = 64
    a_place: int = 64
    handshake: float = 5.0  # seconds
    idle: float = 120.0  # seconds
    bytes_a_second: int | None = None  # of two that are joined
    bytes_a_day: int | None = None  # of all
    places: frozenset[bytes] | None = None  # the only ones


@dataclass(eq=False)
class _Caller:
    """A connection, and the task that has it."""

    socket: socket.socket
    network: str
    task: "asyncio.Task[None] | None" = None
    admitted: bool = False  # it belongs to its place

    def say(self, word: bytes) -> None:
        """Send a byte. Raises OSError where there is no room for it: nobody reads there."""
        self.socket.send(word)


class _Waiter:
    """A connection that waits to be joined."""

    def __init__(self, caller: _Caller, process_heard: asyncio.Event) -> None:
        self.caller = caller
        self.called = False
        self._asked = 0
        self._heard, self._process_heard = asyncio.Event(), process_heard
        self.ready = asyncio.Event()
        self.over = asyncio.Event()  # nobody needs its connection any more

    def ask(self) -> None:
        """Ask whether it is there; not after a call, when what it hears is the other party's."""
        if not self.called:
            self._asked += 1
            self.caller.say(ASK)

    async def is_here(self) -> bool:
        """Whether it answers within seconds."""
        self._heard.clear()
        try:
            self.ask()
            async with asyncio.timeout(ANSWER):
                await self._heard.wait()
        except OSError:  # TimeoutError too
            return False
        return not self.over.is_set()

    async def call(self) -> bool:
        """Call it to a party that dials; whether it says that it is ready."""
        self.called = True
        try:
            self.caller.say(JOIN)
            async with asyncio.timeout(ANSWER):
                await self.ready.wait()
        except OSError:  # TimeoutError too
            return False
        return not self.over.is_set()

    async def hear(self) -> None:
        """Hear what it says until it is ready. Raises EOFError and OSError."""
        while True:
            word = await receive(self.caller.socket, 1)
            if word == HERE and self._asked:
                self._asked -= 1
                self._heard.set()
                self._process_heard.set()
            elif word == READY and self.called:
                self._process_heard.set()
                self.ready.set()
                return
            else:
                raise EOFError

    def end(self) -> None:
        """Nobody needs it any more."""
        for event in (self.over, self.ready, self._heard):
            event.set()


@dataclass(eq=False)
class _Place:
    """Who is at a place now."""

    process: bytes = b""  # whose connections wait, or waited and are joined
    waiters: list[_Waiter] = field(default_factory=list)
    seated: int = 0  # of its connections
    diallers: int = 0
    open: int = 0
    parked: asyncio.Event = field(default_factory=asyncio.Event)  # one more waits
    heard: asyncio.Event = field(default_factory=asyncio.Event)  # something from that process

    async def is_taken_from(self, process: bytes) -> bool:
        """Whether another process that waits here answers on any of its connections, of which some may
        be dead, or comes back at once with a new one."""
        if not self.seated or self.process == process:
            return False
        former = self.process
        self.heard.clear()
        for waiter in self.waiters:
            with contextlib.suppress(OSError):
                waiter.ask()
        try:
            async with asyncio.timeout(ANSWER):
                await self.heard.wait()
        except TimeoutError:
            return self.process not in (former, process)  # one was let in at the same moment
        return self.process != process


@dataclass
class _Moved:
    """What has gone through two connections that are joined."""

    at: float  # when something last did
    rate: int | None = None  # bytes a second
    free: float = 0.0  # when more may

    def note(self, size: int, now: float) -> float:
        """Note that so many bytes have gone through; seconds for which no more may."""
        self.at = now
        if self.rate is None:
            return 0.0
        self.free = max(self.free, now) + size / self.rate
        return self.free - now


@dataclass
class Counts:
    """What a relay has done, in numbers."""

    open: int = 0
    pairs: int = 0  # that are joined now
    connections: int = 0  # ever
    joined: int = 0  # ever
    bytes: int = 0
    refused: Counter[str] = field(default_factory=Counter)

    @property
    def line(self) -> str:
        refused = ", ".join(f"{why}: {many:,}" for why, many in self.refused.most_common())
        return (
            f"open: {counted(self.open, 'connection')}, {counted(self.pairs, 'pair')}; since the start: "
            f"{counted(self.connections, 'connection')}, {counted(self.joined, 'pair')}, "
            f"{counted(self.bytes, 'byte')}; refused: {self.refused.total():,}"
            + (f" ({refused})" if refused else "")
        )


class Relay:
    """Joins connections that come to a socket, until it is closed."""

    def __init__(
        self,
        bound: socket.socket,
        limits: Limits,
        today: Callable[[], date] = lambda: datetime.now(UTC).date(),
    ) -> None:
        files = raise_file_limit(max(FILES, limits.connections + STRANGERS + _SPARE))
        room = max(4, files - min(_SPARE, files // 4))
        self.strangers = min(STRANGERS, room // 4)
        self.limits, self.most = limits, min(limits.connections, room - self.strangers)
        self.counts = Counts()
        self._socket, self._today = bound, today
        self._strangers: dict[_Caller, None] = {}  # which have proven nothing, the oldest first
        self._crowd: Counter[str] = Counter()  # of these, by network
        self._admitted: Counter[str] = Counter()  # of the others
        self._tasks: set[asyncio.Task[None]] = set()
        self._paces: dict[str, Pace] = {}
        self._places: dict[bytes, _Place] = {}
        self._day, self._spent = today(), 0
        self._accepting = asyncio.create_task(self._accept())

    @property
    def port(self) -> int:
        return int(self._socket.getsockname()[1])

    async def serve(self) -> None:
        """Serve until closed."""
        await asyncio.shield(self._accepting)

    async def close(self) -> None:
        """Let all go."""
        tasks = [self._accepting, *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._socket.close()

    # --- Taking connections ---

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, remote = await loop.sock_accept(self._socket)
                self._take(accepted, network_of(remote[0]))
            except OSError:  # out of file descriptors, or a caller that is gone already
                self._make_room()
                await asyncio.sleep(0.05)
            except Exception as error:  # a bug here must not end the service
                self.counts.refused[fault(error)] += 1
            await asyncio.sleep(0)  # a flood must not keep the others waiting

    def _take(self, accepted: socket.socket, network: str) -> None:
        """Attend to a connection."""
        self.counts.connections += 1
        self.counts.open += 1
        self._make_room(network)
        caller = _Caller(accepted, network)
        self._strangers[caller] = None
        self._crowd[network] += 1
        caller.task = task = asyncio.create_task(self._attend(caller))
        self._tasks.add(task)
        task.add_done_callback(functools.partial(self._end, caller))

    def _make_room(self, network: str | None = None) -> None:
        """Let the oldest stranger go of an address that has too many, or of the one that has most where
        all are too many."""
        if network is not None and self._crowd[network] < AN_ADDRESS:
            if len(self._strangers) < self.strangers:
                return
            network = None
        if network is None and self._strangers:
            network = self._crowd.most_common(1)[0][0]
        oldest = next((one for one in self._strangers if one.network == network), None)
        if oldest is not None and oldest.task is not None:
            self.counts.refused[_GAVE_WAY] += 1
            oldest.task.cancel()
            self._forget(oldest)

    def _admit(self, caller: _Caller) -> bool:
        """Let a connection stay that belongs to its place, if there is room."""
        most = self.limits.an_address
        if self._admitted.total() >= self.most or self._admitted[caller.network] >= most:
            return False
        self._forget(caller)
        caller.admitted = True
        self._admitted[caller.network] += 1
        self.counts.open += 1
        return True

    def _is_paced(self, network: str) -> bool:
        """Whether an address may ask once more, by how often it has."""
        now = asyncio.get_running_loop().time()
        if network not in self._paces and len(self._paces) >= _PACES:
            self._paces.pop(next(iter(self._paces)))
        return self._paces.setdefault(network, Pace(AT_ONCE, A_SECOND, now)).take(now)

    def _end(self, caller: _Caller, task: "asyncio.Task[None]") -> None:
        """Its task is over, which may never have begun."""
        self._tasks.discard(task)
        self._forget(caller)
        caller.socket.close()

    def _forget(self, caller: _Caller) -> None:
        """It counts no longer."""
        if caller in self._strangers:
            del self._strangers[caller]
            _count_down(self._crowd, caller.network)
        elif caller.admitted:
            caller.admitted = False
            _count_down(self._admitted, caller.network)
        else:
            return
        self.counts.open -= 1

    def _refuse(self, caller: _Caller, answer: bytes) -> None:
        self.counts.refused[_REASONS[answer]] += 1
        with contextlib.suppress(OSError):
            caller.say(answer)

    # --- One connection ---

    async def _attend(self, caller: _Caller) -> None:
        try:
            request = await self._hear_request(caller)
            if request is not None:
                await self._seat(caller, request)
        except (OSError, EOFError):
            pass  # it is gone
        except Exception as error:
            self.counts.refused[fault(error)] += 1  # a bug

    async def _hear_request(self, caller: _Caller) -> Request | None:
        """What the connection asks for; None where that is refused."""
        challenge = os.urandom(CHALLENGE)
        try:
            async with asyncio.timeout(self.limits.handshake):
                caller.socket.send(GREETING + challenge)
                request = Request.made_of(await receive(caller.socket, REQUEST))
        except TimeoutError:
            self.counts.refused[_SILENT] += 1
            return None
        except (OSError, EOFError):
            self.counts.refused[_GONE] += 1
            return None
        except ValueError:
            self._refuse(caller, FALSE)
            return None
        if (answer := self._refusal(caller, request, challenge)) is not None:
            self._refuse(caller, answer)
            return None
        return request

    def _refusal(self, caller: _Caller, request: Request, challenge: bytes) -> bytes | None:
        """Why a request is refused; None, and the connection stays, where it is not."""
        if self.limits.places is not None and request.place not in self.limits.places:
            return UNKNOWN
        if not request.is_proven(challenge):
            return FALSE  # which costs its address nothing: those behind it may be others
        if self.limits.places is None and not self._is_paced(caller.network):
            return OFTEN
        if self._left <= 0:
            return SPENT
        return None if self._admit(caller) else FULL

    async def _seat(self, caller: _Caller, request: Request) -> None:
        place = self._places.setdefault(request.place, _Place())
        if place.open >= self.limits.a_place:
            self._refuse(caller, FULL)
            return
        place.open += 1
        try:
            if request.seat == DIALS:
                await self._dial(caller, place)
            else:
                await self._wait(caller, place, request.process)
        finally:
            place.open -= 1
            if not place.open:
                self._places.pop(request.place, None)

    async def _wait(self, caller: _Caller, place: _Place, process: bytes) -> None:
        """Keep a connection until one that dials needs it no longer."""
        if await place.is_taken_from(process):
            self._refuse(caller, TAKEN)
            return
        waiter = _Waiter(caller, place.heard)
        if place.process != process:
            place.process = process
            for former in place.waiters:
                former.end()
            place.waiters.clear()
        caller.say(WAITING)
        place.waiters.append(waiter)
        if len(place.waiters) > WAITERS:
            place.waiters.pop(0).end()
        place.parked.set()
        place.heard.set()
        place.seated += 1
        hearing = asyncio.create_task(waiter.hear())
        works = [hearing, *map(asyncio.create_task, (self._ask(waiter), waiter.over.wait()))]
        try:
            await asyncio.wait(works, return_when=asyncio.FIRST_COMPLETED)
            if hearing.done() and hearing.exception() is None:
                await waiter.over.wait()
        finally:
            place.seated -= 1
            if waiter in place.waiters:
                place.waiters.remove(waiter)
            waiter.end()
            for work in works:
                work.cancel()
            await asyncio.gather(*works, return_exceptions=True)

    async def _ask(self, waiter: _Waiter) -> None:
        """Ask now and then whether it is there; ends when it is not."""
        while not waiter.called:
            await asyncio.sleep(ASKS)
            if not waiter.called and self._left <= 0:
                self._refuse(waiter.caller, SPENT)  # else it would not learn why nobody comes
                return
            if not waiter.called and not await waiter.is_here():
                return
        await waiter.over.wait()

    async def _dial(self, caller: _Caller, place: _Place) -> None:
        """Join a connection with one that waits."""
        if place.diallers >= DIALLERS:
            self._refuse(caller, FULL)
            return
        place.diallers += 1
        try:
            waiter = await self._find(place)
        finally:
            place.diallers -= 1
        if waiter is None:
            self._refuse(caller, NOBODY)
            return
        try:
            caller.say(JOIN)
            self.counts.pairs += 1
            self.counts.joined += 1
            try:
                await self._carry(caller.socket, waiter.caller.socket)
            finally:
                self.counts.pairs -= 1
        finally:
            waiter.end()

    async def _find(self, place: _Place) -> _Waiter | None:
        """One that waits at the place and is ready; the newest, as older ones may be dead."""
        until = asyncio.get_running_loop().time() + HOLD
        try:
            async with asyncio.timeout_at(until) as hold:
                while True:
                    if not place.waiters:
                        place.parked.clear()
                        await place.parked.wait()
                        continue
                    waiter = place.waiters.pop()
                    hold.reschedule(None)
                    try:
                        if await waiter.call():
                            return waiter
                    except BaseException:
                        waiter.end()
                        raise
                    waiter.end()
                    hold.reschedule(until)
        except TimeoutError:
            return None

    # --- Two that are joined ---

    async def _carry(self, one: socket.socket, other: socket.socket) -> None:
        """Pass on bytes in both directions until an end closes, or a limit is reached."""
        loop = asyncio.get_running_loop()
        moved = _Moved(loop.time(), self.limits.bytes_a_second)
        ways = {
            asyncio.create_task(self._pass_on(source, sink, moved))
            for source, sink in ((one, other), (other, one))
        }
        try:
            done: set[asyncio.Task[bool]] = set()
            while not done:
                left = moved.at + self.limits.idle - loop.time()
                if left <= 0:
                    return
                done, _ = await asyncio.wait(ways, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if all(way.exception() is None and way.result() for way in done):
                await asyncio.wait(ways, timeout=LINGER)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _pass_on(self, source: socket.socket, sink: socket.socket, moved: _Moved) -> bool:
        """Pass on bytes in one direction until its end; False where a limit ends it."""
        loop = asyncio.get_running_loop()
        most = BUFFER if moved.rate is None else max(1, min(BUFFER, moved.rate // 10))
        buffer = memoryview(bytearray(most))
        while size := await loop.sock_recv_into(source, buffer):
            if self._left <= 0:
                return False
            await loop.sock_sendall(sink, buffer[:size])
            self._spent += size
            self.counts.bytes += size
            # At least a turn of the others: where both ends are fast nothing above waits.
            await asyncio.sleep(moved.note(size, loop.time()))
        sink.shutdown(socket.SHUT_WR)
        return True

    @property
    def _left(self) -> float:
        """Bytes that may pass today."""
        if (today := self._today()) != self._day:
            self._day, self._spent = today, 0
        most = self.limits.bytes_a_day
        return float("inf") if most is None else most - self._spent


def _count_down(counts: Counter[str], key: str) -> None:
    """One less, and no trace of none."""
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
