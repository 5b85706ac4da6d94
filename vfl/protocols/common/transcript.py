"""What several parties hear alike, as a running digest.

Masks that cancel among parties (fellows.py) are drawn from it, so that they cancel only where all have
heard the same: who sends them different messages is left with noise.
"""

import hashlib
from collections.abc import Mapping

from msgspec.structs import replace

from vfl.net import wire
from vfl.net.peer import Peer
from vfl.net.wire import Message, Octets

Apart = Mapping[type[Message], str | None]
"""Messages that differ from one party to another by design: by kind, the field that does; None: all."""


class Transcript:
    """A digest of messages in their order, all but what is `apart`."""

    def __init__(self, apart: Apart | None = None) -> None:
        self._hash = hashlib.blake2b(digest_size=32, person=b"vfl heard alike")
        self._apart = {kind.__name__: (kind, field) for kind, field in (apart or {}).items()}

    @property
    def digest(self) -> bytes:
        """Of 32 bytes, of all that was added so far."""
        return self._hash.digest()

    def add(self, part: Octets) -> None:
        self._hash.update(len(part).to_bytes(8, "big"))
        self._hash.update(part)

    def listen(self, peer: Peer) -> None:
        """Add what this peer sends from now on."""
        self._observe(peer, "received")

    def repeat(self, peer: Peer) -> None:
        """Add what this peer is sent from now on: one of those who hear the same."""
        self._observe(peer, "sent")

    def _observe(self, peer: Peer, wanted: str) -> None:
        def observe(direction: str, kind: str, payload: Octets) -> None:
            if direction != wanted:
                return
            if kind not in self._apart:
                self.add(payload)
                return
            apart, field = self._apart[kind]
            if field is not None:
                self.add(wire.encode(replace(wire.decode(payload, (apart,)), **{field: b""})))

        peer.observers.append(observe)
