"""Both roles of an engine of alignment over memory, and what they send."""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
from reference.data import Stream, data

from answered.given import Given, hexes
from vfl.net.peer import MemoryPeer, together


def both_roles(
    engine: Any, given: Given, asked: Sequence[bytes], own: Sequence[bytes], host: str
) -> tuple[dict[str, bytes], list[str], list[str]]:
    """What both sides of an engine send by kind, the guest's outputs and the host's."""
    guests, hosts = Stream(given["guest entropy"]), Stream(given["host entropy"])
    sent: dict[str, bytes] = {}

    def see(way: str, kind: str, payload: bytes) -> None:
        fields = msgspec.msgpack.decode(payload)[1]
        sent[kind] = sent.get(kind, b"") + fields.get("points", b"")

    async def run() -> list[Any]:
        to_host, to_guest = MemoryPeer.pair("guest", host)
        to_host.observers.append(see)
        common = {"context": data(given["context"]), "report": lambda *step: None}
        return await together(
            [
                engine.guest_outputs([to_host], asked, entropy=guests, **common),
                engine.host_outputs(to_guest, own, len(asked), name=host, entropy=hosts, **common),
            ]
        )

    (of_guest,), of_host = asyncio.run(run())
    return sent, hexes(of_guest), hexes(of_host)
