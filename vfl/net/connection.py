"""WebSocket connections: the one file that knows inner parts of the `websockets` package.

What it uses of them is listed in tests/test_connection.py, which names the part that a new version has
changed. pyproject.toml allows the versions under which that test passes.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from http import HTTPStatus
from typing import ParamSpec, Protocol, TypeVar, cast

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.connection import Connection
from websockets.asyncio.server import Server, ServerConnection
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import Event, State
from websockets.server import ServerProtocol

P = ParamSpec("P")
T = TypeVar("T")

PIECES = 1024  # most of a message; our own messages have some hundred
NEXT_ADDRESS = 0.25  # until a name's next address is tried beside one that does not answer (RFC 8305)

# Which of these bounds a message depends on the version of websockets.
SIZES = ("max_size", "max_message_size")
PARSED = "recv_frame"  # what a protocol calls with each frame that it has parsed

# websockets reports broken connections with tracebacks; here they all end in one VflError.
_quiet = logging.Logger("vfl.net.connection", logging.CRITICAL + 1)


class BoundedConnection(Connection):
    """A connection that bounds what it holds, and notes what is heard and why it was lost."""

    heard = True  # anything, since this was last made False
    cause: Exception | None = None  # why it was lost, where the system or TLS has said so
    _pieces = 0  # of the message that is arriving

    @property
    def is_open(self) -> bool:
        """Whether the handshake is done and nothing has ended the connection."""
        return self.state is State.OPEN

    @property
    def is_closing(self) -> bool:
        """Whether nothing is written any more."""
        return self.transport.is_closing()

    @property
    def certificate(self) -> bytes:
        """What the other end showed (DER); empty where it showed none."""
        tls = self.transport.get_extra_info("ssl_object")
        return cast(bytes, tls.getpeercert(binary_form=True) or b"")

    def abort(self) -> None:
        """End it at once, without a word."""
        self.transport.abort()

    def allow(self, size: int, then: int | None = None) -> None:
        """Refuse messages of more bytes, from the next frame on and as soon as they say their size.

        `then` is the size after the first binary message, which others may follow at once.
        """
        protocol = self.protocol
        for name in SIZES:
            setattr(protocol, name, size)
        if then is None:
            return
        # Frames are parsed as many at a time as have come, so that the size has to change in between.
        parsed, begun = protocol.recv_frame, False

        def note_first(frame: Frame) -> None:
            nonlocal begun
            parsed(frame)
            begun = begun or frame.opcode is Opcode.BINARY
            if begun and frame.fin and frame.opcode in (Opcode.BINARY, Opcode.CONT):
                setattr(protocol, PARSED, parsed)
                self.allow(then)

        setattr(protocol, PARSED, note_first)

    def data_received(self, data: bytes) -> None:
        self.heard = True
        super().data_received(data)

    def process_event(self, event: Event) -> None:
        if isinstance(event, Frame):
            if event.opcode in (Opcode.PING, Opcode.PONG):
                # No party sends any, and answers to one that does not read them would pile up.
                self._break_off(CloseCode.PROTOCOL_ERROR, "a ping")
                return
            self._pieces = 0 if event.fin else self._pieces + 1
            if self._pieces > PIECES:
                self._break_off(CloseCode.MESSAGE_TOO_BIG, "too many pieces")
                return
        super().process_event(event)

    def _break_off(self, code: CloseCode, reason: str) -> None:
        self.protocol.fail(code, reason)
        self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        # Its traceback would keep the connection alive until the collector comes round.
        self.cause = None if exc is None else exc.with_traceback(None)
        super().connection_lost(exc)


# --- The end that dials ------------------------------------------------------------------------


class DialledConnection(BoundedConnection, ClientConnection):
    """The end that has dialled."""


class Dialling(connect):
    """An attempt to connect over TLS, through the HTTP proxy of an address where there is one, or over a
    socket that is connected already.

    Messages of `size` bytes may come, and of `then` after the first. Closing takes at most `closing`
    seconds.
    """

    def __init__(
        self,
        uri: str,
        tls: ssl.SSLContext,
        hostname: str,
        through: str | socket.socket | None,
        *,
        size: int,
        then: int,
        seconds: float,
        closing: float,
    ) -> None:
        self._made: DialledConnection | None = None

        def note(made: DialledConnection) -> None:
            self._made = made
            made.allow(size, then)

        self._connected = through if isinstance(through, socket.socket) else None
        super().__init__(
            uri,
            ssl=tls,
            server_hostname=hostname,
            sock=self._connected,
            proxy=through if isinstance(through, str) else None,
            compression=None,
            user_agent_header=None,
            open_timeout=seconds,
            ping_interval=None,
            close_timeout=closing,
            logger=_quiet,
            create_connection=cast(type[ClientConnection], _noted(DialledConnection, note)),
            happy_eyeballs_delay=NEXT_ADDRESS,
        )

    async def open(self) -> DialledConnection:
        """The connection after its WebSocket handshake. Raises what `websockets` does."""
        try:
            return cast(DialledConnection, await self)
        except BaseException:
            if self._connected is not None and self._made is None:
                self._connected.close()  # else it is the connection's
            raise

    @property
    def cause(self) -> Exception | None:
        """Why the connection was lost, if there was one."""
        return None if self._made is None else self._made.cause

    def process_redirect(self, exc: Exception) -> Exception:
        """No redirect is followed: it would have this machine dial wherever a peer says."""
        return exc


def _noted(make: Callable[P, T], note: Callable[[T], None]) -> Callable[P, T]:
    """`make`, where `note` hears of all that is made."""

    def noting(*args: P.args, **kwargs: P.kwargs) -> T:
        made = make(*args, **kwargs)
        note(made)
        return made

    return noting


# --- The end that listens ----------------------------------------------------------------------


class Serving(Protocol):
    """What a connection asks of its server."""

    def is_serving(self) -> bool: ...


class AcceptedConnection(BoundedConnection, ServerConnection):
    """The end that has been dialled; whoever accepted it runs the handshake."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not ServerConnection's, which starts a handler.
        Connection.connection_made(self, transport)

    @property
    def path(self) -> str | None:
        """What the other end asked for; None before it has."""
        return None if self.request is None else self.request.path

    async def upgrade(self) -> None:
        """Answer the WebSocket handshake; afterwards the connection is open, or lost."""
        await self.handshake(server_header=None)

    async def refuse(self, status: HTTPStatus) -> None:
        """Answer it with an HTTP status instead."""

        def answer(connection: ServerConnection, request: Request) -> Response:
            return connection.respond(status, "")

        await self.handshake(process_request=answer, server_header=None)


async def accept_tls(
    accepted: socket.socket,
    tls: ssl.SSLContext,
    serving: Serving,
    *,
    size: int,
    seconds: float,
    closing: float,
) -> AcceptedConnection:
    """The connection on a socket after TLS, before the WebSocket handshake.

    Messages of `size` bytes may come. TLS takes at most `seconds`, closing as many as `closing`.
    """

    def make() -> AcceptedConnection:
        return AcceptedConnection(
            ServerProtocol(max_size=size, logger=_quiet),
            cast(Server, serving),
            ping_interval=None,
            close_timeout=closing,
        )

    _, connection = await asyncio.get_running_loop().connect_accepted_socket(
        make, accepted, ssl=tls, ssl_handshake_timeout=seconds
    )
    return connection
