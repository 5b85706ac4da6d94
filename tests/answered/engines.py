"""Both roles of an engine of alignment over memory, and what they send."""

from collections.abc import Sequence
from typing import Any

import msgspec
from drawn import Drawn
from memory import over_memory
from reference.data import Stream, data

from answered.given import Given, hexes
from vfl.protocols.align.oprf import OprfRun


def both_roles(
    engine: Any, given: Given, asked: Sequence[bytes], own: Sequence[bytes], host: str
) -> tuple[dict[str, bytes], list[str], list[str]]:
    """What both sides of an engine send by kind, the guest's outputs and the host's."""
    sent: dict[str, bytes] = {}

    def see(way: str, kind: str, payload: bytes) -> None:
        fields = msgspec.msgpack.decode(payload)[1]
        sent[kind] = sent.get(kind, b"") + fields.get("points", b"")

    def run(entropy: str) -> OprfRun:
        return OprfRun(data(given["context"]), Drawn(Stream(given[entropy])), lambda *step: None)

    (of_guest,), of_host = over_memory(
        [host],
        lambda peers: engine.guest_outputs(peers, asked, run("guest entropy")),
        lambda name, peer: engine.host_outputs(peer, own, len(asked), name, run("host entropy")),
        opened=lambda to_host, to_guest: to_host.observers.append(see),
    )
    return sent, hexes(of_guest), hexes(of_host)
