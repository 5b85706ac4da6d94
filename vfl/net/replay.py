"""A peer of a run that is over, played from what it sent then.

Who plays a role against such peers gets the messages of the run, and learns of the first of its own that
is not the one that left then.
"""

import hashlib
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from vfl.errors import PeerLost, VflError
from vfl.net import wire
from vfl.net.peer import HEADER, Peer
from vfl.net.wire import Message
from vfl.text import counted


@dataclass(frozen=True)
class Sent:
    """What is known of a message that left."""

    kind: str
    size: int  # bytes of the payload
    digest: bytes  # SHA-256 of the payload

    @classmethod
    def of(cls, kind: str, payload: bytes) -> "Sent":
        return cls(kind, len(payload), hashlib.sha256(payload).digest())

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


class ReplayedPeer(Peer):
    """The other end of a session of a run that is over."""

    def __init__(
        self,
        name: str,
        received: Iterable[bytes],
        sent: Iterable[Sent],
        *,
        cut: bool = False,
        left_out: Collection[Message] = (),
    ) -> None:
        """`received`: the payloads that came from the peer, in order; `sent`: what went to it. `cut`:
        whether the run was broken off, so that after the last message nothing can be compared.
        `left_out`: each stands for any message of its type, which is then not compared."""
        super().__init__(name)
        self._cut = cut
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
        if was is None and self._cut:
            raise TapeEnds(f"the run was broken off before another message went to {self.name}")
        if was is not None and was.kind == sent.kind and message in self._stand_ins:
            self.left_out.add(self.compared)
        elif was != sent:
            raise MessageDiffers(self.name, self.compared + 1, was, sent)
        self.compared += 1
        if self.loses_last and not self._expected:
            raise TapeEnds(f"the connection to {self.name} was lost in the run")

    def check_end(self) -> None:
        """Raises MessageDiffers when the run has sent more than the replay, and what reading the rest of
        what came from the peer raises."""
        if self._expected:
            raise MessageDiffers(self.name, self.compared + 1, self._expected[0], None)
        deque(self._tape, maxlen=0)

    async def _put(self, frame: bytes) -> None:
        raise AssertionError("a frame to a peer of a run that is over")

    async def _get(self) -> bytes:
        payload = next(self._tape, None)
        if payload is None:
            raise TapeEnds(f"the tape of {self.name} ends here")
        self.played += 1
        return self._session + self._received.to_bytes(8, "big") + payload

    async def close(self) -> None:
        return
