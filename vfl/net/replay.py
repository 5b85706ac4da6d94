"""A peer of a run that is over, played from what it sent then.

Who plays a role against such peers gets the messages of the run, and learns of the first of its own that
is not the one that left then.
"""

import asyncio
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from vfl.errors import PeerLost, VflError
from vfl.net import wire
from vfl.net.peer import HEADER, Peer
from vfl.net.wire import Message, Octets, digest_of
from vfl.text import counted


@dataclass(frozen=True)
class Sent:
    """What is known of a message that left."""

    kind: str
    size: int  # bytes of the payload
    digest: bytes

    @classmethod
    def of(cls, kind: str, payload: Octets) -> "Sent":
        return cls(kind, len(payload), digest_of(payload))

    def __str__(self) -> str:
        return f"{self.kind} of {counted(self.size, 'byte')}"


class MessageDiffers(VflError):
    """A message of the replay is not the one that left in the run."""

    def __init__(self, peer: str, place: int, was: Sent | None, would_be: Sent | None) -> None:
        """`place` counts messages to this peer from 1; None: there is no message."""
        self.peer, self.place, self.was, self.would_be = peer, place, was, would_be
        if was is None:
            what = f"there was none, and the program sends {would_be}"
        elif would_be is None:
            what = f"it was {was}, and the program sends none"
        elif (was.kind, was.size) == (would_be.kind, would_be.size):
            what = f"it was {was}, and the program sends other content"
        else:
            what = f"it was {was}, and the program sends {would_be}"
        super().__init__(f"message {place:,} to {peer} differs: {what}", for_peer="a replay differs")


class TapeEnds(PeerLost):
    """The run's last message from a peer has been played."""


class BrokenOff:
    """What the peers of a run that was broken off share: where the tape of one ends, the role goes on
    with what it does at the same time for as long as messages left in the run. Else the first tape that
    ends would end it, and the rest be held against nothing."""

    def __init__(self, still: float = 60.0) -> None:
        """`still`: seconds in which nothing is sent, after which the end is waited with no longer."""
        self._still = still
        self._peers: list[ReplayedPeer] = []
        self._moved = asyncio.Event()

    def join(self, peer: "ReplayedPeer") -> None:
        """Take in another one."""
        self._peers.append(peer)

    def move(self) -> None:
        """Say that a message was compared."""
        self._moved.set()

    async def wait(self) -> None:
        """Wait until there is no message left to compare, or until nothing moves any more."""
        while self._still and any(peer.is_sent_to for peer in self._peers):
            self._moved.clear()
            try:
                await asyncio.wait_for(self._moved.wait(), self._still)
            except TimeoutError:
                return


class ReplayedPeer(Peer):
    """The other end of a session of a run that is over."""

    def __init__(
        self,
        name: str,
        received: Iterable[bytes],
        sent: Iterable[Sent],
        *,
        cut: BrokenOff | None = None,
        left_out: Collection[Message] = (),
    ) -> None:
        """`received`: the payloads that came from the peer, in order; `sent`: what went to it. `cut`:
        where the run was broken off, so that after the last message nothing can be compared.
        `left_out`: each stands for any message of its type, which is then not compared."""
        super().__init__(name)
        self._cut = cut
        self.differs: MessageDiffers | None = None
        """What was raised of a message to the peer, also where the role has ended by another error."""
        if cut is not None:
            cut.join(self)
        self._tape: Iterator[bytes] = iter(received)
        self._expected = deque(sent)
        self.loses_last = False
        """Whether the connection was lost by the last message to the peer."""
        self._stand_ins = left_out
        self.compared = 0  # messages to the peer that were those of the run, or left out
        self.left_out: set[int] = set()  # of these, by place, counted from 0
        self.played = 0  # messages of the peer that the role has had

    async def send(self, message: Message) -> None:
        """Compare a message with the one that left in its place. Raises MessageDiffers."""
        payload = wire.encode(message)
        sent = Sent.of(type(message).__name__, payload)
        self._record("sent", sent.kind, payload, HEADER + len(payload))
        self._sent += 1
        was = self._expected.popleft() if self._expected else None
        if was is None and self._cut is not None:
            await self._cut.wait()
            raise TapeEnds(f"the run was broken off before another message went to {self.name}")
        if was is not None and was.kind == sent.kind and message in self._stand_ins:
            self.left_out.add(self.compared)
        elif was != sent:
            self.differs = MessageDiffers(self.name, self.compared + 1, was, sent)
            raise self.differs
        self.compared += 1
        if self._cut is not None:
            self._cut.move()
        if self.loses_last and not self._expected:
            raise TapeEnds(f"the connection to {self.name} was lost in the run")

    def check_end(self) -> None:
        """Raises MessageDiffers when the run has sent more than the replay, and what reading the rest of
        what came from the peer raises."""
        if self._expected:
            raise MessageDiffers(self.name, self.compared + 1, self._expected[0], None)
        deque(self._tape, maxlen=0)

    @property
    def is_sent_to(self) -> bool:
        """Whether a message to the peer is left to compare."""
        return bool(self._expected)

    async def _put(self, frame: Octets) -> None:
        raise AssertionError("a frame to a peer of a run that is over")

    async def _get(self) -> bytes:
        payload = next(self._tape, None)
        if payload is None:
            if self._cut is not None:
                await self._cut.wait()
            raise TapeEnds(f"the tape of {self.name} ends here")
        self.played += 1
        return self._session + self._received.to_bytes(8, "big") + payload

    async def close(self) -> None:
        return
