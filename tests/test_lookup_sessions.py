"""A guest's session of lookups: requests that are given up, and faults."""

import asyncio
import secrets

import pytest

from vfl.crypto import group
from vfl.errors import VflError
from vfl.net.peer import MemoryPeer
from vfl.protocols.lookup.lookup import LookupSession
from vfl.protocols.lookup.messages import LookedUp, LookUp


def test_who_gives_up_before_its_turn_asks_for_nothing_and_a_fault_reaches_who_asks() -> None:
    to_host, to_guest = MemoryPeer.pair("insurer", "registry")
    key = secrets.token_bytes(32)

    def lookup(points: int) -> LookUp:
        return LookUp(key, bytes(group.POINT * points))

    async def run() -> None:
        async with LookupSession(to_host, secrets.token_bytes).open() as session:
            await session._turn.acquire()  # another request is on its way out
            asking = [asyncio.create_task(session.ask(lookup(n), LookedUp)) for n in (1, 2)]
            await asyncio.sleep(0)
            asking[0].cancel()
            await asyncio.sleep(0)
            session._turn.release()
            assert len((await to_guest.recv(LookUp)).points) == 2 * group.POINT
            answer = LookedUp(bytes(2 * group.POINT), bytes(64), "a version")
            await to_guest.send(answer)
            assert await asking[1] == answer and asking[0].cancelled()
            with pytest.raises(VflError, match="ValueError"):  # a message over its own limit
                await session.ask(lookup(LookUp.limit), LookedUp)
            with pytest.raises(VflError, match="ValueError"):  # it has ended
                await session.ask(lookup(1), LookedUp)

    asyncio.run(run())
