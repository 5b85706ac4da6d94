"""The sessions that a listener has open: how many a peer may have, and how often it may begin one.

A peer is trusted to be who it is, not to be sound: its program may be broken, or in other hands. So what
it opens is bounded by itself, and no peer has less because of another:

    1. Beyond A_PEER sessions the oldest without a job gives way. It is told so, but need not listen: of
       those that are being closed a peer has as many again, then the oldest ends without a word.
    2. Where all have MOST, the peer with most gives way to others.
    3. A peer connects AT_ONCE times as fast as it likes, then A_SECOND: each session is a greeting to
       compute and some lines in the ledger and the log.
"""

import asyncio
import functools
from collections import Counter
from collections.abc import Iterable, Iterator

from vfl.errors import PeerLost
from vfl.net.pace import Pace
from vfl.net.session import WebSocketPeer

MOST = 512
A_PEER = 16
AT_ONCE = 256  # connections of a peer after a long rest
A_SECOND = 2.0


class OpenSessions:
    """Greeted sessions until they are over, and which of them nobody has accepted yet."""

    def __init__(self) -> None:
        self._by_key: dict[bytes, WebSocketPeer] = {}  # the oldest first
        self._waiting: dict[WebSocketPeer, None] = {}
        self._came = asyncio.Event()
        self._paces: dict[str, Pace] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[WebSocketPeer]:
        return iter(tuple(self._by_key.values()))

    @property
    def waiting(self) -> list[WebSocketPeer]:
        """Those that nobody has accepted yet."""
        return list(self._waiting)

    def get(self, key: bytes) -> WebSocketPeer | None:
        """The session of this key."""
        return self._by_key.get(key)

    def take_turn(self, name: str) -> bool:
        """Count a connection of a peer; False when it connects too often."""
        now = asyncio.get_running_loop().time()
        return self._paces.setdefault(name, Pace(AT_ONCE, A_SECOND, now)).take(now)

    def add(self, peer: WebSocketPeer) -> WebSocketPeer | None:
        """Keep a greeted session; returns another one that has to be closed for it.

        Raises PeerLost when there is no room for it.
        """
        idle = self._make_room(peer.name)
        key = peer.key or b""
        self._by_key[key] = peer
        self._waiting[peer] = None
        peer.call_when_over(functools.partial(self._forget, key, peer))
        self._came.set()
        return idle

    async def next(self) -> WebSocketPeer:
        """The oldest that nobody has accepted; from here on it is accepted."""
        while not self._waiting:
            self._came.clear()
            await self._came.wait()
        peer = next(iter(self._waiting))
        del self._waiting[peer]
        return peer

    def _make_room(self, name: str) -> WebSocketPeer | None:
        if len(self) >= MOST:
            self._end_one_of_most(name)
        own = [one for one in self if one.name == name]
        leaving = [one for one in own if one.lost]
        self._end(leaving[: max(0, len(leaving) - A_PEER + 1)])
        here = [one for one in own if not one.lost]
        if len(here) < A_PEER:
            return None
        idle = next((one for one in here if not one.has_job), None)
        if idle is None:
            raise PeerLost(f"{name} has too many jobs already")
        return idle

    def _end_one_of_most(self, name: str) -> None:
        """End a session of the peer that has most of all. Raises PeerLost when that is `name`."""
        counts = Counter(one.name for one in self)
        most, count = counts.most_common(1)[0]
        theirs = [one for one in self if one.name == most]
        ending = next((one for one in theirs if one.lost or not one.has_job), None)
        if counts[name] >= count or ending is None:
            raise PeerLost("too many sessions wait already")
        self._end([ending])

    def _end(self, sessions: Iterable[WebSocketPeer]) -> None:
        for one in sessions:
            one.drop()
            self._forget(one.key or b"", one)

    def _forget(self, key: bytes, peer: WebSocketPeer) -> None:
        self._by_key.pop(key, None)
        self._waiting.pop(peer, None)
