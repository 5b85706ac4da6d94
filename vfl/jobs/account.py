"""What a job cost a party."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vfl.jobs.memory import peak_memory
from vfl.net.peer import Peer


@dataclass(frozen=True)
class Account:
    """Seconds in all, bytes by peer, the most memory this party held in bytes, operations by kind.

    The memory is that of the main process, its workers not counted; operations are those on
    ciphertexts.
    """

    seconds: float
    sent: dict[str, int]
    received: dict[str, int]
    peak_memory: int
    operations: dict[str, int] = field(default_factory=dict)

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
        )

    @property
    def document(self) -> dict[str, Any]:
        """For the party's record of the run."""
        return {
            "seconds": self.seconds,
            "sent": self.sent,
            "received": self.received,
            "peak_memory": self.peak_memory,
            "operations": self.operations,
        }
