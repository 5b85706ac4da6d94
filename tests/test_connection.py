"""The inner parts of `websockets` that connections are made of."""

import asyncio
import inspect
import socket
import ssl
from collections.abc import Callable
from importlib.metadata import version
from unittest import mock

import pytest
from websockets.asyncio import client, connection, server
from websockets.exceptions import ConnectionClosedError
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side, State
from websockets.server import ServerProtocol

from vfl.net.connection import (
    NEXT_ADDRESS,
    AcceptedConnection,
    BoundedConnection,
    DialledConnection,
    Dialling,
)
from vfl.net.secured import TlsTransport

# What vfl/net/connection.py calls or takes the place of, and the parameters that it relies on.
PARTS: dict[tuple[type, str], list[str]] = {
    (connection.Connection, "connection_made"): ["self", "transport"],
    (connection.Connection, "connection_lost"): ["self", "exc"],
    (connection.Connection, "data_received"): ["self", "data"],
    (connection.Connection, "process_event"): ["self", "event"],
    (server.ServerConnection, "__init__"): ["protocol", "server", "ping_interval", "close_timeout"],
    (server.ServerConnection, "handshake"): ["process_request", "server_header"],
    (server.ServerConnection, "respond"): ["status", "text"],
    (client.ClientConnection, "__init__"): ["protocol", "ping_interval", "close_timeout"],
    (client.ClientConnection, "handshake"): ["additional_headers", "user_agent_header"],
    (client.connect, "__init__"): [
        "uri",
        "compression",
        "user_agent_header",
        "proxy",
        "open_timeout",
        "ping_interval",
        "close_timeout",
        "logger",
        "create_connection",
        "kwargs",  # of loop.create_connection
    ],
    (client.connect, "process_redirect"): ["self", "exc"],
    (ServerProtocol, "__init__"): ["max_size", "logger"],
    (Protocol, "recv_frame"): ["self", "frame"],
    (Protocol, "send_frame"): ["self", "frame"],
    (Protocol, "data_to_send"): ["self"],
    (connection.Connection, "send_data"): ["self"],
    (connection.Connection, "send_context"): ["self"],
    (connection.Connection, "drain"): ["self"],
    (connection.Connection, "wait_closed"): ["self"],
    (Protocol, "fail"): ["self", "code", "reason"],
    (Protocol, "receive_data"): ["self", "data"],
    (Protocol, "events_received"): ["self"],
}


def text(data: bytes, *, binary: bool = True, fin: bool = True) -> bytes:
    """A frame as a server sends it."""
    return Frame(Opcode.BINARY if binary else Opcode.TEXT, data, fin).serialize(mask=False)


def bounded(size: int, then: int | None = None) -> tuple[BoundedConnection, list[object]]:
    """A client's end without a socket, and the frames that it hears of."""
    made = BoundedConnection(Protocol(Side.CLIENT), ping_interval=None)
    made.connection_made(mock.Mock(spec=asyncio.Transport))
    heard: list[object] = []
    made.recv_messages.put = heard.append
    made.allow(size, then)
    return made, heard


def check_parts() -> None:
    for (owner, name), wanted in PARTS.items():
        part = getattr(owner, name, None)
        assert part is not None, f"{owner.__name__}.{name} is not there any more"
        there = list(inspect.signature(part).parameters)
        missing = [one for one in wanted if one not in there]
        assert not missing, f"{owner.__name__}.{name} has no {missing} any more, but {there}"


async def check_sizes() -> None:
    made, heard = bounded(10)
    made.data_received(text(bytes(10)))
    assert len(heard) == 1, "Connection.process_event does not hear of each frame"
    made.data_received(text(bytes(11))[:2])  # its length alone
    closed = made.protocol.close_sent
    assert closed is not None and closed.code == 1009, "no name of SIZES bounds a message any more"


async def check_change_between_frames() -> None:
    made, heard = bounded(10, then=20)
    made.data_received(text(b"x", binary=False) + text(bytes(10)) + text(bytes(20)))
    assert len(heard) == 3, "Protocol.recv_frame of the instance is not called between frames any more"
    made.data_received(text(bytes(21)))
    assert made.protocol.close_sent is not None, "the size after the first message does not hold"


async def check_parser_between_frames() -> None:
    """What has arrived behind a frame is taken from the parser; the rest: tests/test_large.py."""
    made, heard = bounded(100_000)
    made.data_received(text(b"x") + text(bytes(50_000))[:-1])
    assert len(heard) == 1 and not made.protocol.reader.buffer, "Protocol.reader has another buffer"
    made.data_received(b"\0")
    assert len(heard) == 2, "a large frame that has begun behind a frame is lost"


async def check_writes() -> None:
    made, _ = bounded(10)
    made.protocol.state = State.OPEN
    await made.send(bytes(50_000))
    (written,) = [call.args[0] for call in made.transport.writelines.mock_calls]
    assert len(written) == 2, "Protocol.writes does not hold what is to be written any more"


async def check_pings() -> None:
    made, _ = bounded(10)
    made.data_received(Frame(Opcode.PING, b"").serialize(mask=False))
    assert made.protocol.close_sent is not None, "Connection.process_event hears of no ping any more"
    made.transport.abort.assert_called()


async def check_end() -> None:
    made, _ = bounded(10)
    lost = ConnectionResetError("by the other end")
    made.connection_lost(lost)
    assert made.state is State.CLOSED, "Connection.connection_lost does not close any more"
    assert made.cause is lost
    with pytest.raises(ConnectionClosedError) as closed:
        await made.recv()
    assert closed.value.__cause__ is lost, "ConnectionClosed does not name its cause any more"
    assert (closed.value.sent, closed.value.rcvd, closed.value.rcvd_then_sent) == (None, None, None)


async def check_server() -> None:
    serving = mock.Mock(spec=["is_serving"])
    made = AcceptedConnection(ServerProtocol(), serving, ping_interval=None)
    made.connection_made(mock.Mock(spec=TlsTransport))
    assert made.path is None
    made.data_received(
        b"GET /resume HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    await made.upgrade()
    assert made.path == "/resume", "ServerConnection.request has no path any more"
    assert made.is_open, "ServerConnection.handshake does not open any more"
    serving.is_serving.assert_called()
    (answer,) = [call.args[0] for call in made.transport.write.mock_calls]
    assert answer.startswith(b"HTTP/1.1 101") and b"Server:" not in answer


async def check_client(connected: socket.socket | None = None) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    dialling = Dialling(
        "wss://x.invalid:443/", tls, "y", connected, size=10, then=20, seconds=9, closing=9
    )
    lost = ConnectionResetError("by the other end")
    asked: dict[str, object] = {}

    async def create_connection(make: Callable[[], BoundedConnection], **options: object) -> None:
        asked.update(options)
        made = make()
        assert isinstance(made, DialledConnection), "connect has another create_connection"
        assert (made._context, made._hostname) == (tls, "y")
        assert made.protocol.connect().headers["Host"] == "x.invalid", "no port of wss:// in its place"
        made.connection_made(mock.Mock(spec=TlsTransport))
        made.connection_lost(lost)
        raise lost

    loop = asyncio.get_running_loop()
    with (
        mock.patch.object(loop, "create_connection", create_connection),
        pytest.raises(ConnectionResetError),
    ):
        await dialling.open()
    assert dialling.cause is lost
    wanted: dict[str, object] = {"sock": connected, "happy_eyeballs_delay": NEXT_ADDRESS}
    if connected is None:
        wanted |= {"host": "x.invalid", "port": 443}
    assert asked == wanted, "connect dials in another way"


async def check_client_on_a_socket() -> None:
    with socket.socket() as connected:
        await check_client(connected)


def test_websockets_has_the_parts_that_connections_are_made_of() -> None:
    """Where this fails with a new version, vfl/net/connection.py has to follow it."""
    try:
        check_parts()
        for check in (
            check_sizes,
            check_change_between_frames,
            check_parser_between_frames,
            check_writes,
            check_pings,
            check_end,
            check_server,
            check_client,
            check_client_on_a_socket,
        ):
            asyncio.run(check())
    except Exception as error:
        pytest.fail(f"websockets {version('websockets')}: {type(error).__name__}: {error}")
