"""Who is let in to a handshake, among connections of which nothing is known yet.

A connection costs its file descriptor until its first message is there, some 400 KB and two
milliseconds of arithmetic from then on. So that nobody who can reach the port takes either from the
pinned peers:

    1. A connection waits, and holds nothing, until its whole ClientHello is there: FIRST seconds for the
       first byte, WHOLE for all. What is no ClientHello is closed.
    2. At most AN_ADDRESS wait of one address (of IPv6, one network of 64 bits) and WAITING of all. There
       is always room for a new one: the oldest of the fullest address gives way.
    3. A ClientHello with the mark of a peer (mark.py) goes into the peer's own lane, all others into the
       lane of strangers. A lane runs some handshakes at a time and begins one every few milliseconds.
       When it is full one that has not come to its end within seconds gives way. Whose address has
       fewest connections in the lane comes first.

What a relay hands on is for one peer each time, and its ClientHello is sealed by that peer: without a
seal it is closed, with one it is in the peer's lane.

So a peer does not depend on how many connections strangers hold, nor on whether they share its address,
nor on what others make of its mark from elsewhere.
"""

import asyncio
import contextlib
import functools
import ipaddress
import socket
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field

from vfl.errors import fault
from vfl.net.mark import MOST, SEAL, NoHello, read_hello, read_sealed

FIRST = 2.0  # seconds for the first byte
WHOLE = 5.0  # seconds for the whole ClientHello
TURN = 5.0  # seconds that a whole ClientHello waits for its turn

WAITING = 512  # connections whose ClientHello is not whole, or waits for its turn
AN_ADDRESS = 256  # of these, of one address: a flood of 5,000 a second leaves 50 ms to say something
FILES = 4096  # file descriptors that a process which listens would like to have
OF_A_PEER = 16  # that wait with the mark of one peer
MARKS = 4096  # the latest marks of a peer, of which each serves once

_AT_ONCE = 16  # accepted before others have their turn
_TICK = 0.002  # seconds between two looks at those who wait


@dataclass(frozen=True)
class Lane:
    """How many handshakes run at once, and how long they take."""

    at_once: int
    pace: float  # seconds from one's beginning to the next
    stall: float  # seconds after which one gives way to others


STRANGERS = Lane(16, 0.01, 1.0)
PEER = Lane(16, 0.01, 4.0)  # as many as a peer may have sessions, which may all go on at once


@dataclass(frozen=True)
class Seal:
    """Whose first message is awaited, and the key of its seal."""

    peer: str
    key: bytes = field(repr=False)


@dataclass(eq=False)
class Caller:
    """An accepted connection of which nothing is proven."""

    socket: socket.socket
    address: str
    network: str  # what counts as one address
    since: float
    look: float  # when to look next for what has come
    said: bool = False  # anything at all
    whole: bool = False  # its first message is there
    mark: bytes = b""  # or its seal
    seal: Seal | None = None  # that it must have
    peer: str | None = None  # whose mark it is

    @property
    def state(self) -> str:
        """What it has done so far, in words."""
        if self.whole:
            return "it waited for its turn"
        return "it sent no whole first message" if self.said else "it said nothing"


@dataclass(eq=False)
class _Running:
    """A lane and who is in it."""

    lane: Lane
    queue: dict[Caller, None] = field(default_factory=dict)
    tasks: dict[asyncio.Task[None], tuple[Caller, float]] = field(default_factory=dict)
    next: float = 0.0  # when the next handshake may begin

    def crowd(self) -> Counter[str]:
        """How many of each address are in it."""
        return Counter(one.network for one in (*self.queue, *(one for one, _ in self.tasks.values())))

    @property
    def first(self) -> Caller:
        """Whose turn it is: the oldest of those whose address has fewest in the lane."""
        crowd = self.crowd()
        return min(self.queue, key=lambda one: crowd[one.network])

    @property
    def surplus(self) -> Caller:
        """Who gives way in the queue: the oldest of the address that has most in the lane."""
        crowd = self.crowd()
        return max(self.queue, key=lambda one: crowd[one.network])


class Marks:
    """Marks that have served."""

    def __init__(self) -> None:
        self._order: deque[bytes] = deque()
        self._seen: set[bytes] = set()

    def take(self, mark: bytes) -> bool:
        """Let a mark serve, once; False when it is among the latest that have."""
        if mark in self._seen:
            return False
        self._seen.add(mark)
        self._order.append(mark)
        if len(self._order) > MARKS:
            self._seen.discard(self._order.popleft())
        return True


class Admission:
    """Takes connections from a socket that listens and lets them in to `welcome`, which closes them.

    `peer_of_mark(mark)` tells whose mark it is. `refuse(address, why)` hears of each connection that was
    let go. Without a socket there are those that `take` is given.
    """

    def __init__(
        self,
        listening: socket.socket | None,
        peer_of_mark: Callable[[bytes], str | None],
        welcome: Callable[[Caller], Coroutine[object, None, None]],
        refuse: Callable[[str, str], None],
    ) -> None:
        room = raise_file_limit() // 2
        self.waiting, self.an_address = min(WAITING, room), min(AN_ADDRESS, room // 2)
        self._peer_of_mark, self._welcome, self._refuse = peer_of_mark, welcome, refuse
        self._waiting: dict[Caller, None] = {}  # without a mark, the oldest first
        self._crowd: Counter[str] = Counter()  # of these, by network
        self._strangers = _Running(STRANGERS)
        self._peers: dict[str, _Running] = {}
        self._marks: dict[str, Marks] = {}
        self.handshakes: set[asyncio.Task[None]] = set()  # that run
        self._came = asyncio.Event()
        works: list[Callable[[], Coroutine[object, None, None]]] = [self._attend]
        if listening is not None:
            works.append(functools.partial(self._accept, listening))
        self._working = [asyncio.create_task(self._repeat(work)) for work in works]

    @property
    def open(self) -> bool:
        """Whether connections are taken."""
        return not any(work.done() for work in self._working)

    async def close(self) -> None:
        """Let all go."""
        working = [*self._working, *self.handshakes]
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)
        for lane in self._lanes():
            for caller in lane.queue:
                caller.socket.close()
        for caller in self._waiting:
            caller.socket.close()
        self._waiting.clear()

    def _lanes(self) -> list[_Running]:
        return [self._strangers, *self._peers.values()]

    async def _repeat(self, work: Callable[[], Coroutine[object, None, None]]) -> None:
        """A bug here must not end the service."""
        while True:
            try:
                await work()
            except Exception as error:
                self._refuse("anywhere", fault(error))
                await asyncio.sleep(0.2)

    # --- Taking connections ---

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        taken = 0
        while True:
            try:
                accepted, remote = await loop.sock_accept(listening)
            except OSError:
                # Out of file descriptors, or a client that is gone already.
                self._make_room(None, loop.time())
                await asyncio.sleep(0.05)
                continue
            self.take(accepted, remote[0])
            taken += 1
            if taken % _AT_ONCE == 0:
                await asyncio.sleep(0)  # as long as there are more, accepting waits for nothing

    def take(self, accepted: socket.socket, address: str, seal: Seal | None = None) -> None:
        """Let a connection wait that has come from an address, or over a relay, where it is sealed."""
        now = asyncio.get_running_loop().time()
        network = network_of(address)
        self._make_room(network, now)
        caller = Caller(accepted, address, network, now, now, seal=seal)
        self._waiting[caller] = None
        self._crowd[network] += 1
        self._look(caller, now)
        self._came.set()

    def _make_room(self, network: str | None, now: float) -> None:
        """Let the oldest of an address go that has too many, or that has most where all are too many."""
        if network is not None and self._crowd[network] < self.an_address:
            if len(self._waiting) < self.waiting:
                return
            network = None
        if network is None and self._waiting:
            network = self._crowd.most_common(1)[0][0]
        oldest = next((one for one in self._waiting if one.network == network), None)
        if oldest is not None and not oldest.whole:
            self._look(oldest, now)  # something may have come since
        if oldest in self._waiting:
            self._let_go(oldest, f"{oldest.state} and gave way to newer connections")

    def _forget(self, caller: Caller) -> None:
        """It waits no longer."""
        if caller in self._waiting:
            del self._waiting[caller]
            self._crowd[caller.network] -= 1
            if not self._crowd[caller.network]:
                del self._crowd[caller.network]
        for lane in self._lanes():
            lane.queue.pop(caller, None)

    def _let_go(self, caller: Caller, why: str) -> None:
        self._forget(caller)
        caller.socket.close()
        self._refuse(caller.address, why)

    # --- First messages ---

    def _look(self, caller: Caller, now: float) -> None:
        """Look at what has come, without taking it: TLS will read it."""
        try:
            data = caller.socket.recv(SEAL + MOST, socket.MSG_PEEK)
            if not data:
                raise ConnectionResetError
            mark = read_hello(data) if caller.seal is None else read_sealed(data, caller.seal.key)
            if caller.seal is not None and mark is not None:
                caller.socket.recv(SEAL)  # TLS reads what is behind it
        except (BlockingIOError, InterruptedError):
            mark = None
        except NoHello as error:
            self._let_go(caller, str(error))
            return
        except OSError:
            self._let_go(caller, "it closed the connection during the handshake")
            return
        else:
            caller.said = True
        if mark is None:
            # After 2 ms, 4 ms, 8 ms, ... of its life.
            caller.look = now + min(0.1, max(_TICK, now - caller.since))
            return
        caller.whole, caller.mark = True, mark
        peer = self._peer_of_mark(mark) if mark else None
        if caller.seal is not None:
            peer = caller.seal.peer
        if peer is not None and self._marks.setdefault(peer, Marks()).take(mark):
            self._forget(caller)
            caller.peer = peer
            lane = self._peers.setdefault(peer, _Running(PEER))
        else:
            lane = self._strangers
        lane.queue[caller] = None
        caller.since = now
        if lane is not self._strangers and len(lane.queue) > OF_A_PEER:
            self._let_go(lane.surplus, f"{peer} began too many handshakes at once")
        self._advance(lane, now)

    # --- Handshakes ---

    def _advance(self, lane: _Running, now: float) -> None:
        """Begin as many handshakes as it is time for."""
        while lane.queue and now >= lane.next:
            if len(lane.tasks) >= lane.lane.at_once:
                slow = next(
                    (t for t, (_, began) in lane.tasks.items() if now - began >= lane.lane.stall), None
                )
                if slow is None:
                    return
                stalled, _ = lane.tasks.pop(slow)
                slow.cancel()
                self._refuse(stalled.address, "its handshake stood still and gave way to others")
            caller = lane.first
            self._forget(caller)
            lane.next = now + lane.lane.pace
            task = asyncio.create_task(self._welcome(caller))
            lane.tasks[task] = (caller, now)
            self.handshakes.add(task)
            task.add_done_callback(functools.partial(self._take_off, lane, caller))

    def _take_off(self, lane: _Running, caller: Caller, task: asyncio.Task[None]) -> None:
        lane.tasks.pop(task, None)
        self.handshakes.discard(task)
        if task.cancelled():
            caller.socket.close()  # it may not have begun

    async def _attend(self) -> None:
        """Look after those who wait, as long as there are any."""
        loop = asyncio.get_running_loop()
        while True:
            if not (self._waiting or any(lane.queue for lane in self._lanes())):
                self._came.clear()
                await self._came.wait()
            now = loop.time()
            for caller in [one for one in self._waiting if not one.whole]:
                most = WHOLE if caller.said else FIRST
                if now - caller.since >= most:
                    self._let_go(caller, f"{caller.state} within {most:.0f} s")
                elif now >= caller.look:
                    self._look(caller, now)
            for lane in self._lanes():
                for caller in [one for one in lane.queue if now - one.since >= TURN]:
                    self._let_go(caller, "too many handshakes at once")
                self._advance(lane, now)
            await asyncio.sleep(_TICK)


def raise_file_limit(wanted: int = FILES) -> int:
    """Let this process have so many file descriptors, or as many as the system allows; how many."""
    try:
        import resource
    except ImportError:  # Windows, where there is no such limit
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return wanted
        return soft
    return wanted


def network_of(address: str) -> str:
    """What counts as one address: in IPv6 all addresses of one site."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, 64), strict=False))
