"""Sessions over real sockets whose connections break."""

import asyncio
import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vfl.net.session import NO_PATIENCE
from vfl.net.websocket import Credentials, Listener, Patience, WebSocketPeer, dial, listen
from vfl.party import identity

LOCAL = "127.0.0.1:0"


class Parties:
    """Identities of several parties, and who pins whom."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made = {
            name: identity.create(folder / name, name)
            for name in ("insurer", "registry", "bank", "stranger")
        }

    def credentials(self, name: str, *peers: str, **named: str) -> Credentials:
        own = self.made[name]
        pins = {peer: self.made[peer].certificate.der for peer in peers}
        pins |= {peer: self.made[shown].certificate.der for peer, shown in named.items()}
        return Credentials(name, own.certificate_path, own.key_path, pins)


@contextlib.asynccontextmanager
async def registry(
    parties: Parties,
    *peers: str,
    refused: list[str] | None = None,
    patience: Patience = NO_PATIENCE,
    address: str = LOCAL,
):
    """The registry, listening."""
    lines = refused if refused is not None else []
    own = parties.credentials("registry", *(peers or ("insurer",)))
    async with listen(own, address, "host", lines.append, patience) as listener:
        yield listener


async def until(true) -> None:
    while not true():
        await asyncio.sleep(0.01)


class Relay:
    """A TCP relay to `port` that cuts, swallows and refuses."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.budget: Callable[[], float] = lambda: math.inf  # bytes that a connection lives for
        self.down = False  # connections are closed at once
        self.deaf = False  # what comes is thrown away, and nobody learns of it
        self.connections = 0
        self._open: set[asyncio.StreamWriter] = set()

    @contextlib.asynccontextmanager
    async def running(self):
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            self._server.close()
            self.cut()

    def cut(self) -> None:
        """Break all connections there are."""
        for writer in self._open:
            writer.transport.abort()
        self._open.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.down:
            writer.transport.abort()
            return
        there, back = await asyncio.open_connection("127.0.0.1", self.target)
        self._open |= {writer, back}
        left = self.budget()

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            nonlocal left
            with contextlib.suppress(OSError):
                while data := await source.read(65536):
                    part, left = data[: int(min(left, len(data)))], left - len(data)
                    if not self.deaf:
                        sink.write(part)
                        await sink.drain()
                    if left <= 0:
                        return

        copies = [asyncio.create_task(copy(reader, back)), asyncio.create_task(copy(there, writer))]
        await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
        for task, end in zip(copies, (writer, back), strict=True):
            task.cancel()
            if left <= 0:
                end.transport.abort()  # in the middle of whatever was under way
            end.close()
        self._open -= {writer, back}


@dataclass
class Broken:
    """A session through a relay, and what its ends were told."""

    relay: Relay
    listener: Listener
    here: WebSocketPeer  # the insurer's, who dialled
    there: WebSocketPeer  # the registry's
    said_here: list[str]
    said_there: list[str]
    refused: list[str]

    async def cut(self) -> None:
        """Break the connection, and wait until both ends know."""
        self.relay.down = True
        self.relay.cut()
        await until(lambda: (self.here.away or self.here.lost) and (self.there.away or self.there.lost))


@contextlib.asynccontextmanager
async def through_relay(parties: Parties, seconds: float = 120):
    here: list[str] = []
    there: list[str] = []
    refused: list[str] = []
    async with (
        registry(parties, refused=refused, patience=Patience(seconds, there.append)) as listener,
        Relay(listener.port).running() as relay,
    ):
        own = parties.credentials("insurer", "registry")
        address = f"127.0.0.1:{relay.port}"
        peer = await dial(own, "registry", address, "guest", 60, patience=Patience(seconds, here.append))
        other = await listener.accept()
        try:
            yield Broken(relay, listener, peer, other, here, there, refused)
        finally:
            peer.drop()
            other.drop()
