"""WebSocket connections: the one file that knows inner parts of the `websockets` package.

What it uses of them is listed in tests/test_connection.py, which names the part that a new version has
changed. pyproject.toml allows the versions under which that test passes.
"""

import asyncio
import logging
import secrets
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from http import HTTPStatus
from typing import ParamSpec, Protocol, TypeVar, cast

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.connection import Connection
from websockets.asyncio.server import Server, ServerConnection
from websockets.datastructures import HeadersLike
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import CLIENT, SERVER, Event, State
from websockets.server import ServerProtocol

from vfl.net.large import LARGE, LONGEST_HEAD, Arriving, Head, head_of
from vfl.net.secured import TlsTransport
from vfl.net.wire import Octets

P = ParamSpec("P")
T = TypeVar("T")

PIECES = 1024  # most of a message; our own messages have some hundred
NEXT_ADDRESS = 0.25  # until a name's next address is tried beside one that does not answer (RFC 8305)

# Which of these bounds a message depends on the version of websockets.
SIZES = ("max_size", "max_message_size")
PARSED = "recv_frame"  # what a protocol calls with each frame that it has parsed
SENT = "send_frame"  # and with each that it sends
# A mask is there for what reads a browser's bytes on their way (RFC 6455, section 10.3). Nothing reads
# what TLS carries between two pinned certificates, so large frames have the mask that changes nothing.
_NO_MASK = bytes(4)
_DATA = (Opcode.TEXT, Opcode.BINARY, Opcode.CONT)
_AHEAD = 1024 * 1024  # bytes that may be written before the line takes them: waits for a reader cost
_AT_ONCE = 16 * 1024  # bytes, decrypted at once where no large frame is under way: a record of TLS
ELSEWHERE = secrets.token_bytes(16)  # stands for a large message in the queue of `websockets`

# websockets reports broken connections with tracebacks; here they all end in one VflError.
_quiet = logging.Logger("vfl.net.connection", logging.CRITICAL + 1)


class _Scratch(threading.local):
    """Where a thread's connections have bytes put that arrive, each until it has gone through them."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(_AT_ONCE))


_scratch = _Scratch()


class BoundedConnection(Connection, asyncio.BufferedProtocol):
    """A connection that bounds what it holds, and notes what is heard and why it was lost.

    Once the size of messages is settled, frames are told apart here. The large ones of binary messages
    go into these at once; all others go on to the parser of `websockets`.
    """

    heard = True  # anything, since this was last made False
    cause: Exception | None = None  # why it was lost, where the system or TLS has said so
    _pieces = 0  # of the message that is arriving
    _size: int | None = None  # of a message at most; None: not settled
    _then: int | None = None  # the same after the first binary message
    _begun = False  # whether a binary message has
    _cuts = False  # whether frames are told apart here
    _passing = 0  # bytes of a frame that goes on to the parser
    _parser_has = False  # part of a message, which others follow
    _arriving: Arriving | None = None  # a message in large frames
    _before = 0  # bytes of the one before it
    _head = b""  # what has come of a frame that has not said its size
    _rest = b""  # what had arrived behind the last frame that the parser has found by itself
    _goes_in = False  # what arrives is put into the message at once

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._large: deque[memoryview] = deque()  # messages
        # Not ServerConnection's, which starts a handler.
        Connection.connection_made(self, transport)

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
        if self._size is self._then is None:
            self._parsed, self._send_frame = protocol.recv_frame, protocol.send_frame
            setattr(protocol, PARSED, self._note_parsed)
            setattr(protocol, SENT, self._put_frame)
        self._size, self._then = (size, None) if then is None else (None, then)

    # --- What arrives ---

    async def receive(self) -> Octets | str:
        """The next message. Raises ConnectionClosed."""
        data = await self.recv()
        return self._large.popleft() if data == ELSEWHERE else data

    def get_buffer(self, sizehint: int) -> memoryview:
        arriving = self._arriving
        self._goes_in = self._cuts and arriving is not None
        if not self._goes_in or arriving is None:
            return _scratch.view  # of which buffer_updated tells before the thread does anything else
        return arriving.room if arriving.in_frame else _scratch.view[:LONGEST_HEAD]

    def buffer_updated(self, nbytes: int) -> None:
        arriving = self._arriving
        if self._goes_in and arriving is not None and arriving.in_frame:
            self.heard = True
            arriving.take(nbytes)
            self._end_piece(arriving)
        else:
            self.data_received(_scratch.view[:nbytes])

    def data_received(self, data: bytes | memoryview) -> None:
        self.heard = True
        left = memoryview(data)
        while left:
            arriving = self._arriving
            if not self._cuts:
                self._rest = b""
                self._parse(left)
                left = memoryview(self._rest)
            elif self._passing:
                part, left = left[: self._passing], left[self._passing :]
                self._passing -= len(part)
                self._parse(part)
            elif arriving is not None and arriving.in_frame:
                left = arriving.add(left)
                self._end_piece(arriving)
            else:
                left = self._begin_frame(left)

    def _parse(self, data: bytes | memoryview) -> None:
        """Have `websockets` parse what has arrived."""
        super().data_received(cast(bytes, data))
        if self.protocol.parser_exc is not None or self.protocol.close_rcvd is not None:
            self._cuts = False  # nothing more is read

    def _note_parsed(self, frame: Frame) -> None:
        """Note what frames leave behind that the parser has found."""
        self._parsed(frame)
        if frame.opcode in _DATA:
            self._parser_has = not frame.fin
            self._begun = self._begun or frame.opcode is Opcode.BINARY
            if self._then is not None and self._begun and frame.fin and frame.opcode is not Opcode.TEXT:
                # Frames are parsed as many at a time as have come: the size changes in between.
                self.allow(self._then)
        if self._size is not None and not self._cuts and self.is_open:
            self._cuts = True
            arrived = self.protocol.reader.buffer
            self._rest = bytes(arrived)
            arrived.clear()

    def _begin_frame(self, data: memoryview) -> memoryview:
        """Find out whose the next frame is, once it has said its size; what has come beside its head."""
        before, arriving = self._head, self._arriving
        beginning = before + data[: LONGEST_HEAD - len(before)]
        frame = Head.parse(beginning, masked=self.protocol.side is SERVER)
        if frame is None:
            self._head = beginning
            return data[:0]
        self._head = b""
        if arriving is None:
            is_large = frame.opcode is Opcode.BINARY and frame.length >= LARGE
            takes = is_large and frame.is_regular and not self._parser_has
        else:
            takes = frame.is_regular and frame.opcode is Opcode.CONT
        if not takes:
            if arriving is not None and frame.opcode in _DATA:
                self._fail(CloseCode.PROTOCOL_ERROR, "expected a continuation frame")
                return data
            self._passing = frame.size + frame.length - len(before)
            self._parse(before)
            return data
        arriving = arriving or Arriving(self._before)
        if arriving.size + frame.length > (self._size or 0):
            self._fail(CloseCode.MESSAGE_TOO_BIG, "over the size of messages")
            return data
        if frame.mask is None:
            self._head = beginning
            return data[:0]
        self._arriving = arriving
        arriving.begin(frame)
        self._end_piece(arriving)
        return data[frame.size - len(before) :]

    def _end_piece(self, arriving: Arriving) -> None:
        """Go on after a frame, if all of it is there."""
        if arriving.in_frame or not self._may_follow(arriving.is_whole):
            return
        if arriving.is_whole:
            self._arriving, self._before = None, arriving.size
            self._large.append(arriving.result())
            super().process_event(Frame(Opcode.BINARY, ELSEWHERE))

    def process_event(self, event: Event) -> None:
        if isinstance(event, Frame):
            if event.opcode in (Opcode.PING, Opcode.PONG):
                # No party sends any, and answers to one that does not read them would pile up.
                self._break_off(CloseCode.PROTOCOL_ERROR, "a ping")
                return
            if not self._may_follow(event.fin):
                return
        super().process_event(event)

    def _may_follow(self, fin: bool) -> bool:
        """Count a frame; False where its message has too many, and the connection is broken off."""
        self._pieces = 0 if fin else self._pieces + 1
        if self._pieces > PIECES:
            self._break_off(CloseCode.MESSAGE_TOO_BIG, "too many pieces")
        return self._pieces <= PIECES

    def _break_off(self, code: CloseCode, reason: str) -> None:
        self._cuts = False
        self.protocol.fail(code, reason)
        self.abort()

    def _fail(self, code: CloseCode, reason: str) -> None:
        """Close for what has arrived, of which the other end is told."""
        self._cuts = False
        self.protocol.fail(code, reason)
        super().data_received(b"")  # which writes what is to be said

    def connection_lost(self, exc: Exception | None) -> None:
        # Its traceback would keep the connection alive until the collector comes round.
        self.cause = None if exc is None else exc.with_traceback(None)
        super().connection_lost(exc)

    # --- What is sent ---

    async def send_long(self, message: Octets, piece: int, sent: Callable[[], None]) -> None:
        """Send a binary message in pieces of so many bytes, none of which is copied.

        `sent` hears of each that the line has taken. No other message may be under way. Raises
        ConnectionClosed.
        """
        view = memoryview(message)
        for start in range(0, len(view), piece):
            if not self.is_open:
                async with self.send_context():  # which raises for it
                    pass
            stop = start + piece
            opcode = Opcode.CONT if start else Opcode.BINARY
            self._put_frame(Frame(opcode, view[start:stop], fin=stop >= len(view)))
            self.send_data()
            try:
                await self.drain()
            except OSError:
                await self.wait_closed()
                raise self.close_exc from None
            sent()

    def _put_frame(self, frame: Frame) -> None:
        """Have a frame written: a large one as it lies there, which `websockets` would copy."""
        size = len(frame.data)
        if size < LARGE:
            self._send_frame(frame)
            return
        mask = _NO_MASK if self.protocol.side is CLIENT else b""
        written = head_of(frame.opcode, frame.fin, size, mask), frame.data
        self.protocol.writes += cast(tuple[bytes, bytes], written)

    def send_data(self) -> None:
        writes = self.protocol.writes
        if len(writes) > 1 and all(writes):  # an empty one says that nothing follows
            self.transport.writelines(self.protocol.data_to_send())  # one by one, each costs a call
        else:
            super().send_data()


class SecuredConnection(BoundedConnection):
    """A connection that says nothing on its line but over TLS."""

    _context: ssl.SSLContext
    _hostname: str | None  # in the other end's certificate; None where that end has dialled

    def secure_by(self, context: ssl.SSLContext, hostname: str | None) -> None:
        """Say over which TLS, before there is a line."""
        self._context, self._hostname = context, hostname

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, TlsTransport):
            super().connection_made(transport)
            return
        line = cast(asyncio.Transport, transport)
        self.transport = TlsTransport(line, self._context, self, self._hostname)

    async def wait_until_secured(self) -> None:
        """Wait for TLS's handshake. Raises ssl.SSLError, and OSError where the line was lost."""
        try:
            await cast(TlsTransport, self.transport).secured
        except BaseException:
            self.transport.abort()
            raise


# --- The end that dials ------------------------------------------------------------------------


class DialledConnection(SecuredConnection, ClientConnection):
    """The end that has dialled."""

    async def handshake(
        self,
        additional_headers: HeadersLike | None = None,
        user_agent_header: str | None = None,
    ) -> None:
        await self.wait_until_secured()
        await super().handshake(additional_headers, user_agent_header)


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
            made.secure_by(tls, hostname)
            made.protocol.uri = replace(made.protocol.uri, secure=True)  # as it is
            made.allow(size, then)

        self._connected = through if isinstance(through, socket.socket) else None
        super().__init__(
            uri.replace("wss:", "ws:", 1),  # else it would have asyncio do TLS
            sock=self._connected,
            proxy=through if isinstance(through, str) else None,
            compression=None,
            user_agent_header=None,
            open_timeout=seconds,
            ping_interval=None,
            close_timeout=closing,
            write_limit=_AHEAD,
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


class AcceptedConnection(SecuredConnection, ServerConnection):
    """The end that has been dialled; whoever accepted it runs the handshake."""

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
        made = AcceptedConnection(
            ServerProtocol(max_size=size, logger=_quiet),
            cast(Server, serving),
            ping_interval=None,
            close_timeout=closing,
            write_limit=_AHEAD,
        )
        made.secure_by(tls, None)
        return made

    _, connection = await asyncio.get_running_loop().connect_accepted_socket(make, accepted)
    async with asyncio.timeout(seconds):
        await connection.wait_until_secured()
    return connection
