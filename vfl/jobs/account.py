"""What a job cost a party."""

import time
from collections import Counter
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
    def nothing(cls) -> "Account":
        """The account of a job that has not begun."""
        return cls(0.0, {}, {}, 0)

    def __add__(self, later: "Account") -> "Account":
        """The account of two attempts at a job, one after the other."""
        total = Counter[tuple[str, str, str]]()
        size = Counter[tuple[str, str, str]]()
        for one in (*self.messages, *later.messages):
            key = one.peer, one.direction, one.kind
            total[key] += one.messages
            size[key] += one.bytes
        return Account(
            self.seconds + later.seconds,
            _sum(self.sent, later.sent),
            _sum(self.received, later.received),
            max(self.peak_memory, later.peak_memory),
            _sum(self.operations, later.operations),
            [Exchanged(*key, count, size[key]) for key, count in total.items()],
        )

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


def _sum(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {key: one.get(key, 0) + other.get(key, 0) for key in {**one, **other}}
