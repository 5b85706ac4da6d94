"""What a job cost a party."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vfl.jobs.memory import peak_memory
from vfl.net.peer import Peer


@dataclass(frozen=True)
class Exchanged:
    """The messages of one type that went to or came from one peer."""

    peer: str
    direction: str  # "sent" or "received"
    kind: str
    messages: int
    bytes: int


@dataclass(frozen=True)
class Account:
    """Seconds in all, bytes by peer, the most memory this party held in bytes, operations by kind,
    messages by peer and type.

    The memory is that of the main process, its workers not counted; operations are those on
    ciphertexts.
    """

    seconds: float
    sent: dict[str, int]
    received: dict[str, int]
    peak_memory: int
    operations: dict[str, int] = field(default_factory=dict)
    messages: list[Exchanged] = field(default_factory=list)

    @classmethod
    def of(
        cls, started: float, peers: Sequence[Peer], operations: Mapping[str, int] | None = None
    ) -> "Account":
        """Since `started` (time.monotonic), over these sessions."""
        return cls(
            time.monotonic() - started,
            {peer.name: peer.traffic.bytes_sent for peer in peers},
            {peer.name: peer.traffic.bytes_received for peer in peers},
            peak_memory(),
            dict(operations or {}),
            [
                Exchanged(peer.name, direction, kind, count, sizes[kind])
                for peer in peers
                for direction, counts, sizes in (
                    ("sent", peer.traffic.sent_messages, peer.traffic.sent),
                    ("received", peer.traffic.received_messages, peer.traffic.received),
                )
                for kind, count in counts.items()
            ],
        )
