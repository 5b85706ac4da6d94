"""A protocol of a guest and its hosts over memory, each in its role, in one event loop."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from vfl.net.peer import MemoryPeer, together

GuestRole = Callable[[list[MemoryPeer]], Awaitable[Any]]
HostRole = Callable[[str, MemoryPeer], Awaitable[Any]]


def over_memory(
    hosts: Sequence[str],
    guest_role: GuestRole,
    host_role: HostRole,
    *,
    guest: str = "guest",
    opened: Callable[[MemoryPeer, MemoryPeer], None] | None = None,
) -> list[Any]:
    """What the guest comes to, then each host in the order of `hosts`.

    guest_role: told of its peers, in that order. host_role: told its name, and of its peer.
    opened: told of each session's ends, the guest's and the host's, before anything is sent.
    """

    async def run() -> list[Any]:
        pairs = [MemoryPeer.pair(guest, host) for host in hosts]
        for pair in pairs:
            if opened is not None:
                opened(*pair)
        theirs = [to_guest for _, to_guest in pairs]
        return await together(
            [guest_role([to_host for to_host, _ in pairs]), *map(host_role, hosts, theirs)]
        )

    return asyncio.run(run())
