"""Callers of whom nothing is known: what they say at a port, once or all the time.

`python strangers.py PORT KIND MANY` floods a port until it is killed: it keeps so many connections open
and dials again whenever one is closed.
"""

import asyncio
import contextlib
import os
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path


def client_context(certificate: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    """A client that believes whoever answers."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context


def first_message(context: ssl.SSLContext) -> bytes:
    """A ClientHello."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="vfl-party")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def large_hello() -> bytes:
    """The beginning of a ClientHello as long as TLS allows."""
    return b"\x16\x03\x01\x40\x00\x01\xff\xff\xff" + b"A" * 16380


SAID: dict[str, Callable[[], bytes]] = {
    "silent": lambda: b"",
    "slow": lambda: first_message(client_context())[:20],
    "hello": lambda: first_message(client_context()),
    "http": lambda: b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "large": large_hello,
    "random": lambda: os.urandom(4096),
}
"""What a caller says before it is silent for ever, by kind."""


async def say(port: int, said: bytes) -> None:
    """Say something and hang up."""
    loop = asyncio.get_running_loop()
    with socket.socket() as caller:
        caller.setblocking(False)
        await loop.sock_connect(caller, ("127.0.0.1", port))
        with contextlib.suppress(OSError):
            await loop.sock_sendall(caller, said)


async def handshake(port: int, context: ssl.SSLContext) -> None:
    """Try a handshake, and wait until the other end hangs up."""
    with contextlib.suppress(OSError, TimeoutError):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context, server_hostname="vfl-party"
        )
        with contextlib.suppress(OSError):
            async with asyncio.timeout(20):
                await reader.read(1)
        writer.transport.abort()


async def many(times: int, call: Callable[[], Awaitable[None]], at_once: int = 12) -> None:
    """Call so often, several at a time."""
    turns = asyncio.Semaphore(at_once)

    async def one() -> None:
        async with turns:
            await call()

    await asyncio.gather(*(one() for _ in range(times)))


def flood(port: int, kind: str, count: int) -> None:
    """Until this process ends."""
    said, callers = SAID[kind](), list[socket.socket]()
    while True:
        alive = []
        for caller in callers:
            try:
                ended = caller.recv(65536) == b""
            except BlockingIOError:
                ended = False
            except OSError:
                ended = True
            if ended:
                caller.close()
            else:
                alive.append(caller)
        callers = alive
        with contextlib.suppress(OSError):
            while len(callers) < count:
                caller = socket.create_connection(("127.0.0.1", port), 2)
                callers.append(caller)
                caller.sendall(said)
                caller.setblocking(False)


if __name__ == "__main__":
    flood(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
