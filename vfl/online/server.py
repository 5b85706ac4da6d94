"""The HTTP server: connections that are taken, watched and let go of.

uvicorn speaks HTTP (h11). What it leaves open is added here: a client that sends its request byte by
byte, or does not read its answer, is parted with in time; a service that ends still answers those who
had not heard of it.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import cast

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from vfl.online.accepting import Acceptor
from vfl.party.online_section import OnlineSection

_KEEP_ALIVE = 75  # seconds for which a connection without a request stays open
_HEADERS = 16_384  # bytes of a request's head
_PIECES, _PIECE = 2_000, 16  # pieces of a body that may be of fewer bytes than this on average
_LINGER = 0.5  # seconds in which clients hear that the service ends before connections are closed


class _Joined(asyncio.Transport):
    """A connection's way out, on which what is written at a time leaves together: head and body of an
    answer are one record of TLS and one packet, not two."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport, self._loop = transport, loop
        self._waiting: list[bytes | bytearray | memoryview] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._waiting:
            self._loop.call_soon(self._flush)
        self._waiting.append(data)

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        if waiting and not self._transport.is_closing():
            self._transport.write(waiting[0] if len(waiting) == 1 else b"".join(waiting))

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        self._waiting.clear()
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def get_extra_info(self, name: str, default: object = None) -> object:
        return self._transport.get_extra_info(name, default)


class _Parser(h11.Connection):
    """Reads requests. A body in very many pieces of a few bytes would hold up all others' requests: each
    piece takes as long as a row."""

    _pieces = _bytes = 0

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        event = super().next_event()
        if isinstance(event, h11.Data):
            self._pieces += 1
            self._bytes += len(event.data)
            if self._pieces > _PIECES and self._bytes < _PIECE * self._pieces:
                raise h11.RemoteProtocolError("a body in pieces of a few bytes")
        elif isinstance(event, h11.Request):
            self._pieces = self._bytes = 0
        return event


class _Connection(H11Protocol):
    """A connection that knows since when it has waited for its client."""

    most: int
    """Connections at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(_Joined(cast(asyncio.Transport, transport), self.loop))
        self.conn = _Parser(h11.SERVER, _HEADERS)
        self._since: float | None = self.loop.time()
        self._idle_from = self._since
        self._paused: float | None = None
        if len(self.connections) > self.most:
            self._make_room()

    def _make_room(self) -> None:
        """Part from whoever has asked for nothing for the longest; from this client where all others are
        asking, or being answered."""
        others = [one for one in self.connections if isinstance(one, _Connection) and one is not self]
        idle = [one for one in others if one._is_idle]
        min(idle, key=lambda one: one._idle_from, default=self).transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._since is None and not self._answers:
            self._since = self.loop.time()
        super().data_received(data)
        if self._answers:
            self._since = None  # the service reads on in its own time

    def on_response_complete(self) -> None:
        self._since, self._idle_from = None, self.loop.time()
        super().on_response_complete()

    def pause_writing(self) -> None:
        self._paused = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._paused = None
        super().resume_writing()

    @property
    def _answers(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def _is_idle(self) -> bool:
        return self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]

    def part_if_overdue(self, timeout: float) -> None:
        """Part from a client that has been waited for too long."""
        before = self.loop.time() - timeout
        if any(since is not None and since < before for since in (self._since, self._paused)):
            self.transport.abort()


class Server(uvicorn.Server):
    """Serves an application at one socket until it is told to stop."""

    def __init__(
        self,
        app: ASGIApp,
        section: OnlineSection,
        tls: ssl.SSLContext | None,
        drain: Callable[[], None],
        say: Callable[[str], None],
    ) -> None:
        """drain: called when the service begins to end. `say` hears what goes wrong."""
        config = uvicorn.Config(
            app,
            http=_Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=max(1, round(section.drain)),
            h11_max_incomplete_event_size=_HEADERS,
        )
        super().__init__(config)
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL + 1)
        self._section, self._tls, self._drain, self._say = section, tls, drain, say
        self._ending: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the service's own matter."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to take connections."""
        await self.lifespan.startup()

        def connection() -> _Connection:
            made = _Connection(self.config, self.server_state, self.lifespan.state)
            made.most = self._section.connections
            return made

        loop, timeout = asyncio.get_running_loop(), self._section.timeout
        wait = None if self._tls is None else timeout

        async def greet(one: socket.socket) -> None:
            await loop.connect_accepted_socket(
                connection, one, ssl=self._tls, ssl_handshake_timeout=wait, ssl_shutdown_timeout=wait
            )

        most = self._section.connections
        made = [Acceptor(one, greet, most, self._say) for one in sockets or []]
        self.servers = cast(
            "list[asyncio.Server]", made
        )  # of which uvicorn uses no more than these have
        self.started = True

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: part from clients that are waited for too long."""
        for connection in list(self.server_state.connections):
            if isinstance(connection, _Connection):
                connection.part_if_overdue(self._section.timeout)
        return await super().on_tick(counter)

    def stop(self) -> None:
        """Take no more connections, answer what is asked, and end; at once if called again."""
        if self._ending is not None:
            self.force_exit = self.should_exit = True
            return
        self._drain()
        for server in getattr(self, "servers", []):
            server.close()
        self._ending = asyncio.get_running_loop().create_task(self._end())

    async def _end(self) -> None:
        # What is under way on an open connection is still answered, with a word that it was the last.
        await asyncio.sleep(_LINGER)
        self.should_exit = True
