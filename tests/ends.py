"""A registry that listens and an insurer that dials it, in one process, over real sockets."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from vfl.net.session import Patience
from vfl.net.tls import Credentials
from vfl.net.websocket import Listener, WebSocketPeer, dial, listen
from vfl.net.window import Opening
from vfl.net.wire import Message
from vfl.party import identity


class Number(Message, frozen=True):
    value: int


@dataclass(frozen=True)
class Ends:
    """A registry that listens, the insurer that it pins, and a stranger."""

    folder: Path
    registry: Credentials
    insurer: Credentials
    stranger: identity.Identity


def made_in(folder: Path) -> Ends:
    """Fresh keys in a folder."""
    made = {name: identity.create(folder / name, name) for name in ("registry", "insurer", "stranger")}

    def credentials(name: str, peer: str) -> Credentials:
        own = made[name]
        return Credentials(name, own.certificate_path, own.key_path, {peer: made[peer].certificate.der})

    return Ends(
        folder,
        credentials("registry", "insurer"),
        credentials("insurer", "registry"),
        made["stranger"],
    )


@contextlib.asynccontextmanager
async def registry(
    ends: Ends,
    lines: list[str] | None = None,
    patience: float = 0,
    opening: Opening | None = None,
) -> AsyncIterator[Listener]:
    """The registry; `lines` are those about refused connections."""
    say = (lambda line: None) if lines is None else lines.append
    async with listen(
        ends.registry, "127.0.0.1:0", "host", say, Patience(patience), opening
    ) as listener:
        yield listener


async def call(
    ends: Ends,
    listener: Listener,
    wait: float = 20,
    patience: float = 0,
    failed: list[str] | None = None,
) -> WebSocketPeer:
    """A session of the insurer's with the registry; `failed`: why attempts did, where they did."""
    address = f"127.0.0.1:{listener.port}"
    told = None if failed is None else failed.append
    return await dial(ends.insurer, "registry", address, "guest", wait, told, Patience(patience))


async def until(true: Callable[[], object], seconds: float = 240) -> None:
    """Wait until something is so; what hangs ends with an error."""
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.01)


async def exchange(one: WebSocketPeer, two: WebSocketPeer, value: int) -> None:
    """A message in each direction."""
    await one.send(Number(value))
    assert await two.recv(Number) == Number(value)
    await two.send(Number(-value))
    assert await one.recv(Number) == Number(-value)
