"""A relay, parties that meet at it, and connections that say something to it, in one process."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

from cryptography.hazmat.primitives.asymmetric import ed25519
from ends import Ends

from vfl.net import rendezvous
from vfl.net.listening import bind
from vfl.net.relay import Limits, Relay
from vfl.net.rendezvous import (
    CHALLENGE,
    GREETING,
    PROCESS,
    Key,
    receive,
)
from vfl.net.session import Patience
from vfl.net.websocket import Listener, WebSocketPeer, dial, listen
from vfl.net.wire import Message

LOCAL = "127.0.0.1:0"
ONE, TWO = bytes(PROCESS), b"\1" * PROCESS


class Text(Message, frozen=True):
    words: str


def fresh_key() -> Key:
    return Key(ed25519.Ed25519PrivateKey.generate(), bytes(32))


@contextlib.asynccontextmanager
async def relaying(address: str = LOCAL, **limits: object) -> AsyncIterator[Relay]:
    running = Relay(await bind(address), Limits(**limits))
    try:
        yield running
    finally:
        await running.close()


def at(running: Relay) -> str:
    return f"relay://127.0.0.1:{running.port}"


def client(running: Relay) -> rendezvous.Relay:
    return rendezvous.Relay("127.0.0.1", running.port)


@contextlib.asynccontextmanager
async def waiting(
    ends: Ends, address: str, lines: list[str] | None = None, patience: float = 60
) -> AsyncIterator[Listener]:
    """The registry, at a relay."""
    say = (lambda line: None) if lines is None else lines.append
    async with listen(ends.registry, address, "host", say, Patience(patience)) as listener:
        yield listener


async def call(ends: Ends, address: str, wait: float = 20) -> WebSocketPeer:
    return await dial(ends.insurer, "registry", address, "guest", wait, patience=Patience(60))


async def say(port: int, data: bytes = b"", at_least: int = 0) -> tuple[socket.socket, bytes]:
    """A connection to a relay that has said something, and the first bytes that it got."""
    loop = asyncio.get_running_loop()
    caller = socket.socket()
    caller.setblocking(False)
    await loop.sock_connect(caller, ("127.0.0.1", port))
    got = await receive(caller, at_least)
    await loop.sock_sendall(caller, data)
    return caller, got


async def ask(
    running: Relay, key: Key, seat: bytes, process: bytes = ONE
) -> tuple[socket.socket, bytes]:
    """A connection that has asked for a seat, and the relay's answer."""
    caller, greeting = await say(running.port, at_least=len(GREETING) + CHALLENGE)
    await asyncio.get_running_loop().sock_sendall(
        caller, key.request(greeting[len(GREETING) :], seat, process)
    )
    return caller, await receive(caller, 1)


async def ended(caller: socket.socket) -> bytes:
    """What a connection still gets before it ends."""
    got = b""
    with contextlib.suppress(ConnectionError):
        while more := await asyncio.get_running_loop().sock_recv(caller, 1000):
            got += more
    caller.close()
    return got


async def joined(running: Relay, key: Key | None = None) -> tuple[socket.socket, socket.socket]:
    """Both ends of two connections that the relay has joined: of who dialled and of who waited."""
    key, there = key or fresh_key(), client(running)
    heard = asyncio.Event()
    waits = asyncio.create_task(there.wait(key, ONE, heard.set, 10))
    await heard.wait()
    return await there.dial(key, 10), await waits
