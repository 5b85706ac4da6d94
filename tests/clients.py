"""Clients of a server that adds, all of them over memory in one event loop."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from memory import over_memory

from vfl.errors import PeerLost, VflError
from vfl.net.peer import MemoryPeer, Peer, stop_all
from vfl.protocols.common.participant import Participant
from vfl.protocols.pooled.adding import Absences, Adder, MaskingAdder
from vfl.protocols.pooled.adding_server import ServerCourse, serve_totals
from vfl.protocols.pooled.plain_adding import plain_adders

CONTEXT = b"job 7, run 1"

Role = Callable[[Adder], Awaitable[Any]]


def over_server(
    roles: Mapping[str, Role],
    *,
    server: Callable[[Sequence[Peer]], Awaitable[Any]] = serve_totals,
    opened: Callable[[MemoryPeer, MemoryPeer], None] | None = None,
    made: Callable[[str, Peer], MaskingAdder] | None = None,
) -> dict[str, Any]:
    """What each client's role comes to, and the server's under "server"; the first failure is raised.

    made: a client's adder, of its name and its peer.
    """
    names = tuple(roles)

    async def client(name: str, peer: MemoryPeer) -> Any:
        adder = made(name, peer) if made else MaskingAdder(peer, Participant(name, names, CONTEXT))
        done = await roles[name](adder)
        await adder.end()
        return done

    ends = over_memory(names, server, client, guest="server", opened=opened)
    return dict(zip(("server", *names), ends, strict=True))


def in_plain(roles: Mapping[str, Role]) -> dict[str, Any]:
    """What each client's role comes to where nothing is hidden."""

    async def run() -> list[Any]:
        return await asyncio.gather(*(roles[adder.name](adder) for adder in plain_adders([*roles])))

    return dict(zip(roles, asyncio.run(run()), strict=True))


class Line:
    """The server's end of a session with a client, cut at one of its frames: after so many of them, sent
    or awaited, both ends find it broken."""

    def __init__(self, to_client: MemoryPeer, to_server: MemoryPeer, after: int | None) -> None:
        self.frames, self._after, self._to_server = 0, after, to_server
        for name in ("_put", "_get"):
            setattr(to_client, name, self._counted(getattr(to_client, name), to_client.name))

    def _counted(self, pass_on: Callable[..., Awaitable[Any]], client: str) -> Callable[..., Any]:
        async def counted(*frame: bytes) -> Any:
            if self._after is not None and self.frames >= self._after:
                self._to_server._inbox.put_nowait(None)
                raise PeerLost(f"the connection to {client} broke")
            self.frames += 1
            return await pass_on(*frame)

        return counted


def with_ends(
    roles: Mapping[str, Role],
    absences: Absences,
    *,
    cut: Mapping[str, int] | None = None,
    told: list[Any] | None = None,
    opened: Callable[[MemoryPeer, MemoryPeer], None] = lambda *_: None,
) -> dict[str, Any]:
    """What each party comes to, an error or not, where one that fails says so to those it speaks to and
    hangs up, as jobs do; under "frames" how many there were with each client.

    cut: after how many frames the server's sessions with clients break. told: gets whoever is told that
    somebody is gone, and who that is.
    """
    names = tuple(roles)
    said = [] if told is None else told

    async def ending(work: Awaitable[Any], peers: Sequence[Peer]) -> Any:
        try:
            return await work
        except VflError as error:
            await stop_all(peers, error)
            return error

    async def client(name: str, peer: Peer) -> Any:
        own = Participant(name, names, CONTEXT)
        adder = MaskingAdder(peer, own, absences, lambda gone: said.append((name, *gone)))
        done = await roles[name](adder)
        await adder.end()
        return done

    async def run() -> dict[str, Any]:
        pairs = {name: MemoryPeer.pair("server", name) for name in names}
        lines = {name: Line(*pair, (cut or {}).get(name)) for name, pair in pairs.items()}
        for pair in pairs.values():
            opened(*pair)
        theirs = [to_client for to_client, _ in pairs.values()]
        course = ServerCourse(absences, left=lambda gone: said.append(("server", gone)))
        work = [ending(serve_totals(theirs, course), theirs)]
        work += [ending(client(name, pair[1]), [pair[1]]) for name, pair in pairs.items()]
        ends = dict(zip(("server", *names), await asyncio.gather(*work), strict=True))
        return ends | {"frames": {name: line.frames for name, line in lines.items()}}

    return asyncio.run(run())
