"""What passes between roles in memory, kept, and one of the roles played once more from it."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from vfl.net.peer import Peer
from vfl.net.replay import ReplayedPeer, Sent

T = TypeVar("T")


class Tape:
    """What a role has sent to a peer and received from it."""

    def __init__(self, peer: Peer) -> None:
        self.name = peer.name
        self.received: list[bytes] = []
        self.sent: list[Sent] = []
        peer.observers.append(self._observe)

    def _observe(self, direction: str, kind: str, payload: bytes) -> None:
        if direction == "received":
            self.received.append(bytes(payload))
        else:
            self.sent.append(Sent.of(kind, payload))


async def replay(tapes: Sequence[Tape], role: Callable[[Sequence[Peer]], Awaitable[T]]) -> T:
    """Play a role against the peers of these tapes: what comes of it.

    Raises MessageDiffers unless it sends what was sent, from first to last.
    """
    peers = [ReplayedPeer(tape.name, tape.received, tape.sent) for tape in tapes]
    found = await role(peers)
    for peer in peers:
        peer.check_end()
    return found
