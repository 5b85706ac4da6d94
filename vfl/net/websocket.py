"""Peers over WebSocket and mutual TLS 1.3, both certificates pinned.

A session opens in four steps, and nothing is said before the step above it has succeeded:

    1. TCP, through an HTTP proxy where the environment names one.
    2. TLS 1.3. Each end trusts the pinned certificates and no authority; then the certificate must
       equal a pinned one byte by byte. Whoever fails gets a TLS alert and nothing else.
    3. The WebSocket handshake.
    4. The greeting (hello.py).

In a session a binary frame is a frame of `Peer`. A text frame is a decimal number: how many bytes
of frames the receiver has consumed so far. It is sent every few seconds and so serves two ends:

- Flow control. A sender keeps at most WINDOW bytes unconsumed, so memory is bounded, while both
  ends read the socket at all times: two parties that send at once do not block each other, and a
  lost connection is noticed by a party that is busy with other things.
- Life. An end that hears nothing at all for 25 to 30 s holds the other for dead. Part of a large
  frame counts, so a slow link is no reason to part, nor is a party that computes for hours. (Ping
  and pong would not do: a pong waits behind the data that the answering end is sending.)
"""

import asyncio
import contextlib
import hashlib
import ipaddress
import logging
import os
import re
import socket
import ssl
import sys
import urllib.request
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.connection import Connection
from websockets.asyncio.server import Server, ServerConnection
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidProxy,
    InvalidProxyStatus,
    InvalidStatus,
    ProxyError,
)
from websockets.protocol import State
from websockets.server import ServerProtocol

from vfl.errors import ConfigError, IdentityError, PeerError, PeerLost, PeerUnreachable, VflError
from vfl.net import hello
from vfl.net.peer import Peer
from vfl.net.wire import KIB, MAX_MESSAGE

# The DNS name in every party's certificate. It says nothing: parties are told apart by fingerprint.
HOST = "vfl-party"

MAX_FRAME = MAX_MESSAGE + KIB
WINDOW = 2 * MAX_FRAME
PIECE = 256 * KIB  # asyncio's TLS takes a single write whole, however slow the line is
OVERHEAD = 256  # what a frame costs in memory beside its bytes

HANDSHAKE = 10.0  # seconds for TLS, WebSocket handshake and greeting
CLOSE = 10.0
BEAT = 5.0
SILENT_BEATS = 5
BACKOFF = (0.1, 2.0)  # first and longest pause between two attempts to connect

MAX_GREETING = 64  # connections in the middle of their handshake
MAX_READY = 16  # greeted sessions that nobody has accepted yet

# What TLS says when the other end refuses our certificate, by OpenSSL's name.
_REFUSALS = re.compile(r"ALERT_(UNKNOWN_CA|BAD_CERT|CERTIFICATE|UNSUPPORTED_CERT|ACCESS_DENIED)")
_EXPIRED, _NOT_YET_VALID = 10, 9  # X509_V_ERR_CERT_HAS_EXPIRED, ..._NOT_YET_VALID

# websockets reports broken connections with tracebacks; here they all end in one VflError.
_quiet = logging.Logger("vfl.net.websocket", logging.CRITICAL + 1)


@dataclass(frozen=True)
class Credentials:
    """What one party needs to open sessions."""

    name: str
    certificate: Path
    key: Path
    pins: Mapping[str, bytes]  # a peer's name -> its certificate (DER)

    def __post_init__(self) -> None:
        names: dict[bytes, str] = {}
        for name, pin in self.pins.items():
            if (other := names.setdefault(pin, name)) != name:
                raise ConfigError(f"{other} and {name} have the same certificate: one is wrong")


class WebSocketPeer(Peer):
    """The other end of a session over the network; made by `dial` and `Listener.accept`."""

    def __init__(self, name: str, connection: Connection) -> None:
        super().__init__(name)
        self.hello: hello.Hello  # set once the session is greeted
        self._connection = connection
        self._inbox: deque[bytes] = deque()
        self._held = 0  # cost of the frames in the inbox
        self._consumed = 0  # by this end, in total
        self._reported = 0  # of these, known to the peer
        self._sent_bytes = 0
        self._consumed_there = 0
        self._end: VflError | None = None
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._due = asyncio.Event()
        self._turn = asyncio.Lock()
        self._tasks = [asyncio.create_task(work()) for work in (self._read, self._report, self._watch)]

    @property
    def lost(self) -> bool:
        """Whether the session has ended; frames that arrived before can still be received."""
        return self._end is not None

    async def _put(self, frame: bytes) -> None:
        # A sender that is cancelled must not leave a gap in the sequence, or the peer would take
        # the Stop that follows for a breach: the frame keeps its place and goes out all the same.
        delivery = asyncio.create_task(self._deliver(frame))
        delivery.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(delivery)

    async def _deliver(self, frame: bytes) -> None:
        cost = len(frame) + OVERHEAD
        async with self._turn:
            while self._end is None and self._sent_bytes + cost > self._consumed_there + WINDOW:
                self._room.clear()
                await self._room.wait()
            if self._end is not None:
                raise self._ended()
            self._sent_bytes += cost
            # A send also returns when the connection is cut while it waits.
            with contextlib.suppress(ConnectionClosed):
                await self._connection.send(frame if len(frame) <= PIECE else _pieces(frame))
                if not self._cut:
                    return
            # The reading side knows the reason; it ends when the connection does.
            await asyncio.shield(self._tasks[0])
            raise self._ended()

    @property
    def _cut(self) -> bool:
        connection = self._connection
        return connection.state is State.CLOSED and connection.protocol.close_rcvd is None

    async def _get(self) -> bytes:
        while not self._inbox:
            if self._end is not None:
                raise self._ended()
            self._arrived.clear()
            await self._arrived.wait()
        frame = self._inbox.popleft()
        cost = len(frame) + OVERHEAD
        self._held -= cost
        self._consumed += cost
        if self._consumed - self._reported >= WINDOW // 4:
            self._due.set()
        return frame

    def _unread(self) -> Iterable[bytes]:
        return tuple(self._inbox)

    async def close(self) -> None:
        self._finish(PeerLost(f"this party closed the connection to {self.name}"))
        try:
            # Sending the last bytes to a dead machine would take as long as TCP is patient.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE):
                    await self._connection.close()
        finally:
            # Also when the caller's patience ends first: nothing of the session stays behind.
            self.drop()

    def drop(self) -> None:
        """End the session at once, without a word."""
        self._finish(PeerLost(f"this party closed the connection to {self.name}"))
        self._connection.transport.abort()
        for task in self._tasks[1:]:
            task.cancel()

    def _finish(self, error: VflError) -> None:
        """End the session; the first reason stands."""
        if self._end is None:
            self._end = error
        for event in (self._arrived, self._room, self._due):
            event.set()

    def _ended(self) -> VflError:
        """The reason as an exception of its own, for each caller."""
        assert self._end is not None  # noqa: S101 - for the type checker
        return type(self._end)(str(self._end), for_peer=self._end.for_peer)

    async def _read(self) -> None:
        try:
            while True:
                data = await self._connection.recv()
                if isinstance(data, str):
                    self._hear(data)
                    continue
                self._held += len(data) + OVERHEAD
                if self._held > WINDOW:
                    raise self.breach("more than it was allowed to send")
                self._inbox.append(data)
                self._arrived.set()
        except ConnectionClosed as closed:
            self._finish(self._why(closed))
        except PeerError as breach:
            self._finish(breach)
            self._connection.transport.abort()

    def _hear(self, report: str) -> None:
        consumed = int(report) if re.fullmatch(r"[0-9]{1,18}", report, re.ASCII) else -1
        if not self._consumed_there <= consumed <= self._sent_bytes:
            raise self.breach("a flow report that cannot be")
        self._consumed_there = consumed
        self._room.set()

    async def _report(self) -> None:
        """Tell the peer what was consumed: when it is much, and every few seconds in any case."""
        while self._end is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BEAT):
                    await self._due.wait()
            self._due.clear()
            consumed = self._consumed
            # Behind a large message on a slow link this is late, but its pieces count as life too.
            with contextlib.suppress(TimeoutError, ConnectionClosed):
                async with asyncio.timeout(BEAT):
                    await self._connection.send(str(consumed))
                    self._reported = consumed

    async def _watch(self) -> None:
        """End the session when nothing was heard for SILENT_BEATS.

        Counts its own turns instead of reading a clock, so that a process that was suspended itself
        does not blame the peer.
        """
        connection = cast(_Heard, self._connection)
        silent = 0
        while silent < SILENT_BEATS:
            connection.heard = False
            await asyncio.sleep(BEAT)
            if self._end is not None:
                return
            silent = 0 if connection.heard else silent + 1
        seconds = BEAT * SILENT_BEATS
        self._finish(self._broke(f"nothing heard for {seconds:.0f} s"))
        self._connection.transport.abort()

    def _broke(self, reason: str) -> PeerLost:
        return PeerLost(f"the connection to {self.name} broke ({reason})")

    def _why(self, closed: ConnectionClosed) -> VflError:
        if closed.sent is not None and not closed.rcvd_then_sent:
            # This end closed it for what it received: too large, or no WebSocket frame.
            if closed.sent.code == 1009:
                return self.breach("a frame larger than any message")
            if closed.sent.code in (1002, 1007):
                return self.breach("bytes that are no frame")
        if closed.rcvd is not None:
            return PeerLost(f"{self.name} closed the connection")
        if isinstance(closed.__cause__, OSError):
            return self._broke(_reason(closed.__cause__))
        return self._broke("it ended without a word")


def _pieces(frame: bytes) -> list[memoryview]:
    view = memoryview(frame)
    return [view[start : start + PIECE] for start in range(0, len(view), PIECE)]


class _Heard(Connection):
    """A connection that notes whether anything was heard, and why it was lost."""

    heard = True
    cause: Exception | None = None

    def data_received(self, data: bytes) -> None:
        self.heard = True
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.cause = exc
        super().connection_lost(exc)


class _Dialled(_Heard, ClientConnection):
    pass


class _Accepted(_Heard, ServerConnection):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not ServerConnection's, which starts a handler: the listener runs the handshake itself.
        Connection.connection_made(self, transport)


# --- TLS ---------------------------------------------------------------------------------------


class _SSLObject(ssl.SSLObject):
    """Sends the alert when a handshake fails.

    asyncio drops it (python/cpython#98078, mended in 2026 only), and the other end could not tell a
    refused certificate from a broken line. A handshake that "wants to read" has its output sent;
    the failure is raised at the next turn, which comes when the other end closes.
    """

    def do_handshake(self) -> None:
        context = cast(_Context, self.context)
        if context.failure is not None:
            raise context.failure
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            context.failure, context.shown = error, _unverified(self)
            if "ALERT" in (error.reason or ""):
                raise  # the other end's alert: it is answered by closing, not by another
            raise ssl.SSLWantReadError from None


class _Context(ssl.SSLContext):
    """The TLS context of a single connection; keeps the reason when its handshake fails."""

    sslobject_class = _SSLObject
    failure: ssl.SSLError | None = None
    shown = b""  # the other end's certificate then (DER), where OpenSSL lets a client see it


def _unverified(tls: Any) -> bytes:
    """The certificate shown in a failed handshake (DER), for the error message alone."""
    if sys.version_info >= (3, 13):
        chain = tls.get_unverified_chain()
        return chain[0] if chain else b""
    chain = tls._sslobj.get_unverified_chain()  # the same, before it was made public
    return ssl.PEM_cert_to_DER_cert(chain[0].public_bytes()) if chain else b""


def _context(credentials: Credentials, protocol: int, pins: list[bytes]) -> _Context:
    context = _Context(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    try:
        context.load_cert_chain(credentials.certificate, credentials.key)
    except OSError as error:  # ssl.SSLError too
        raise IdentityError(
            f"cannot use {credentials.certificate} with {credentials.key} ({_reason(error)})"
        ) from None
    # No authorities of the system: only these.
    for pin in pins:
        context.load_verify_locations(cadata=pin)
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0  # a resumed session would not show its certificate again
    return context


def _presented(connection: Connection) -> bytes:
    tls = connection.transport.get_extra_info("ssl_object")
    return cast(bytes, tls.getpeercert(binary_form=True) or b"")


def _short(der: bytes) -> str:
    """The start of a certificate's fingerprint, as people compare it."""
    return " ".join(re.findall("....", hashlib.sha256(der).hexdigest())[:4]) + " ..."


def _own_der(credentials: Credentials) -> bytes:
    # Lines around the certificate are allowed in the file, as OpenSSL has it.
    pem = re.search(r"(?s)-{5}BEGIN CERT.*?-{5}END CERTIFICATE-{5}", credentials.certificate.read_text())
    return ssl.PEM_cert_to_DER_cert(pem.group()) if pem else b""


def _reason(error: BaseException) -> str:
    """A failure of the operating system or of TLS in a few words."""
    match error:
        case ConnectionResetError() | BrokenPipeError():
            return "connection reset"
        case ConnectionRefusedError():
            return "connection refused"
        case ssl.SSLError():
            reason = (error.reason or str(error)).replace("_", " ").lower()
            return f"TLS: {reason}"
        case socket.gaierror():
            return "the name cannot be resolved"
        case TimeoutError():
            return "timed out"
        case OSError() if error.errno:
            return os.strerror(error.errno).lower()  # asyncio puts addresses into `strerror`
        case OSError() if "refused" in str(error).lower():
            return "connection refused"  # by each of several addresses
    return type(error).__name__


def _split(address: str) -> tuple[str, int]:
    """Host and port of "host:port". Raises ConfigError."""
    try:
        parts = urlsplit(f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or port is None or parts.netloc != address or parts.username is not None:
        raise ConfigError(
            f"{address!r} is no address: write host:port, such as registry.example:7443,"
            " 0.0.0.0:7443 or [::1]:7443"
        )
    return host, port


# --- The end that dials ------------------------------------------------------------------------


class _NotYet(Exception):
    """An attempt failed in a way that waiting may cure."""


async def dial(
    credentials: Credentials,
    peer: str,
    address: str,
    role: str,
    wait: float,
    on_wait: Callable[[str], None] | None = None,
) -> WebSocketPeer:
    """Open a session with `peer`, which listens on `address` ("host:port").

    Tries again for `wait` seconds (math.inf: for ever) while the address does not answer; `on_wait`
    is told the reason of a failed attempt whenever it changes. Goes through the HTTP proxy of the
    environment (HTTPS_PROXY, NO_PROXY) except to the machine itself.

    Raises PeerUnreachable when the address cannot be reached in time, IdentityError when either
    end's certificate is not the pinned one or is not valid today, ConfigError for an address that
    is none, and what `greet` raises.
    """
    host, _ = _split(address)
    if peer not in credentials.pins:
        raise ConfigError(f"no certificate is pinned for {peer}")
    proxy = _proxy(host)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait
    pause, longest = BACKOFF
    told = ""
    while True:
        # An attempt gets its full time when it is the first.
        patience = min(HANDSHAKE, max(deadline - loop.time(), 1.0))
        try:
            return await _attempt(credentials, peer, address, proxy, role, patience)
        except _NotYet as failure:
            reason = str(failure)
        if on_wait is not None and reason != told:
            on_wait(f"{peer} at {address}: {reason}")
            told = reason
        if loop.time() + pause > deadline:
            waited = f" within {wait:g} s" if wait else ""
            raise PeerUnreachable(f"cannot reach {peer} at {address}{waited}: {reason}")
        await asyncio.sleep(pause)
        pause = min(2 * pause, longest)


async def _attempt(
    credentials: Credentials, name: str, address: str, proxy: str | None, role: str, seconds: float
) -> WebSocketPeer:
    pin = credentials.pins[name]
    context = _context(credentials, ssl.PROTOCOL_TLS_CLIENT, [pin])
    made: list[_Dialled] = []

    def make(*args: Any, **limits: Any) -> _Dialled:
        made.append(_Dialled(*args, **limits))
        return made[-1]

    try:
        connection = await connect(
            f"wss://{address}/",
            ssl=context,
            server_hostname=HOST,
            proxy=proxy,
            compression=None,
            user_agent_header=None,
            open_timeout=seconds,
            ping_interval=None,
            close_timeout=CLOSE,
            max_size=MAX_FRAME,
            logger=_quiet,
            create_connection=cast(type[ClientConnection], make),
        )
    except (OSError, EOFError, InvalidHandshake, InvalidProxy, ImportError) as error:
        # In TLS 1.3 a client learns only at its first read that its certificate was refused.
        lost = made[-1].cause if made else None
        tls = context.failure or (lost if isinstance(lost, ssl.SSLError) else None)
        if tls is None and isinstance(error, ssl.SSLError):
            tls = error
        if tls is not None:
            raise _tls_failure(credentials, name, address, context.shown, tls) from None
        if proxy is not None and isinstance(error, InvalidProxyStatus):
            status = error.response.status_code
            raise _NotYet(f"the proxy of HTTPS_PROXY answered {status}") from None
        if isinstance(error, InvalidProxy | ProxyError | ImportError):
            raise ConfigError("the proxy of HTTPS_PROXY cannot be used: is it http://?") from None
        if isinstance(error, InvalidStatus):
            status = error.response.status_code
            raise _NotYet(f"it answered with HTTP status {status}") from None
        if isinstance(error, InvalidHandshake | EOFError) or isinstance(lost, OSError):
            raise _NotYet(
                "it closed the connection during the handshake (is this party's certificate"
                " pinned there?)"
            ) from None
        behind = "" if proxy is None else " (through the proxy of HTTPS_PROXY)"
        raise _NotYet(_reason(error) + behind) from None
    shown = _presented(connection)
    if shown != pin:
        connection.transport.abort()
        raise _not_pinned(name, address, shown, pin)
    try:
        return await _greeted(credentials, name, connection, role)
    except PeerLost as error:
        raise _NotYet(str(error)) from None


def _tls_failure(
    credentials: Credentials, name: str, address: str, shown: bytes, error: ssl.SSLError
) -> VflError:
    """What a failed TLS handshake means to the party that dialled."""
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in (_EXPIRED, _NOT_YET_VALID):
            return IdentityError(f"the certificate of {name} is {_validity(error)}")
        return _not_pinned(name, address, shown, credentials.pins[name])
    if _REFUSALS.search(error.reason or ""):
        own = credentials.certificate
        return IdentityError(
            f"{name} refused this party's certificate (fingerprint"
            f" {_short(_own_der(credentials))}): send {own} to {name}, where it must be pinned"
        )
    return PeerUnreachable(
        f"cannot reach {name} at {address}: what listens there does not speak TLS 1.3 ({_reason(error)})"
    )


def _not_pinned(name: str, address: str, shown: bytes, pin: bytes) -> IdentityError:
    fingerprint = f" (fingerprint {_short(shown)})" if shown else ""
    return IdentityError(
        f"{address} shows another certificate{fingerprint} than the one pinned for {name}"
        f" (fingerprint {_short(pin)}): check the address, and the certificate file of"
        f" [peers.{name}]"
    )


def _validity(error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code == _EXPIRED:
        return "no longer valid: it needs a new one, and this machine's clock must be right"
    return "not valid yet: check this machine's clock"


def _proxy(host: str) -> str | None:
    """The proxy to go through. A session with this machine itself never leaves it."""
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost" or host.endswith(".localhost")
    if local or urllib.request.proxy_bypass(host):
        return None
    return urllib.request.getproxies().get("https")


async def _greeted(
    credentials: Credentials, name: str, connection: Connection, role: str
) -> WebSocketPeer:
    peer = WebSocketPeer(name, connection)
    own = hashlib.sha256(_own_der(credentials)).digest()
    other = hashlib.sha256(credentials.pins[name]).digest()
    try:
        peer.hello = await hello.greet(peer, own=own, other=other, role=role)
    except BaseException as error:
        if isinstance(error, PeerError):
            # Our own greeting must arrive: the other end draws its conclusion from it.
            await peer.close()
        peer.drop()
        raise
    return peer


# --- The end that listens ----------------------------------------------------------------------


class Listener:
    """Waits for sessions; made by `listen`."""

    def __init__(
        self,
        credentials: Credentials,
        bound: socket.socket,
        role: str,
        on_refused: Callable[[str], None],
    ) -> None:
        self._credentials = credentials
        self._socket = bound
        self._role = role
        self._on_refused = on_refused
        self._ready: asyncio.Queue[WebSocketPeer] = asyncio.Queue(MAX_READY)
        self._greeting: set[asyncio.Task[None]] = set()
        self._accepting = asyncio.create_task(self._serve())

    @property
    def port(self) -> int:
        """The port; of use when port 0 (any) was asked for."""
        return cast(int, self._socket.getsockname()[1])

    async def accept(self) -> WebSocketPeer:
        """The next greeted session of any pinned peer, which now belongs to the caller."""
        while True:
            peer = await self._ready.get()
            if not peer.lost:
                return peer
            await peer.close()

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, remote = await loop.sock_accept(self._socket)
            except OSError:
                # Out of file descriptors, or a client that is gone already.
                await asyncio.sleep(0.2)
                continue
            if len(self._greeting) >= MAX_GREETING:
                accepted.close()
                self._refuse(remote[0], "too many handshakes at once")
                continue
            task = asyncio.create_task(self._welcome(accepted, remote[0]))
            self._greeting.add(task)
            task.add_done_callback(self._greeting.discard)

    async def _welcome(self, accepted: socket.socket, remote: str) -> None:
        pins = list(self._credentials.pins.values())
        try:
            context = _context(self._credentials, ssl.PROTOCOL_TLS_SERVER, pins)
        except VflError as error:
            accepted.close()
            self._refuse(remote, str(error))
            return
        try:
            async with asyncio.timeout(HANDSHAKE):
                peer = await self._open(accepted, context)
        except VflError as error:
            self._refuse(remote, str(error))
        except (OSError, EOFError, InvalidHandshake, ConnectionClosed) as error:
            self._refuse(remote, _refusal(context.failure or error))
        else:
            try:
                self._ready.put_nowait(peer)
            except asyncio.QueueFull:
                self._refuse(remote, "too many sessions wait already")
                await peer.close()

    async def _open(self, accepted: socket.socket, context: _Context) -> WebSocketPeer:
        def make() -> _Accepted:
            return _Accepted(
                ServerProtocol(max_size=MAX_FRAME, logger=_quiet),
                cast(Server, self),  # of which it only asks `is_serving`
                ping_interval=None,
                close_timeout=CLOSE,
            )

        _, connection = await asyncio.get_running_loop().connect_accepted_socket(
            make, accepted, ssl=context, ssl_handshake_timeout=HANDSHAKE
        )
        try:
            shown = _presented(connection)
            name = next((n for n, pin in self._credentials.pins.items() if pin == shown), None)
            if name is None:
                raise IdentityError(f"its certificate ({_short(shown)}) is not pinned here")
            await connection.handshake(server_header=None)
            if connection.state is not State.OPEN:
                raise PeerLost(_refusal(connection.cause))
        except BaseException:
            connection.transport.abort()
            raise
        return await _greeted(self._credentials, name, connection, self._role)

    def is_serving(self) -> bool:
        return not self._accepting.done()

    def _refuse(self, remote: str, why: str) -> None:
        self._on_refused(f"refused a connection from {remote}: {why}")

    async def _close(self) -> None:
        self._accepting.cancel()
        greeting = list(self._greeting)
        for task in greeting:
            task.cancel()
        await asyncio.gather(self._accepting, *greeting, return_exceptions=True)
        self._socket.close()
        while not self._ready.empty():
            await self._ready.get_nowait().close()


def _refusal(error: BaseException | None) -> str:
    """Why a connection was refused, for the party that listens."""
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in (_EXPIRED, _NOT_YET_VALID):
            return f"its certificate is {_validity(error)}"
        return "its certificate is not pinned here"
    reason = getattr(error, "reason", None) or ""
    if isinstance(error, TimeoutError):
        return f"no handshake within {HANDSHAKE:.0f} s"
    if not isinstance(error, ssl.SSLError):
        return "it closed the connection during the handshake"
    if _REFUSALS.search(reason):
        return "it does not pin this party's certificate"
    if "DID_NOT_RETURN_A_CERTIFICATE" in reason:
        return "it showed no certificate"
    return f"it does not speak TLS 1.3 ({_reason(error)})"


@contextlib.asynccontextmanager
async def listen(
    credentials: Credentials, address: str, role: str, on_refused: Callable[[str], None]
) -> AsyncIterator[Listener]:
    """Listen on `address` ("host:port"; 0.0.0.0 or [::] for all of the machine's addresses).

    `on_refused` gets one line for every connection that became no session. Leaving the block stops
    listening and closes sessions that nobody accepted; those accepted stay open.

    Raises ConfigError when the address cannot be listened on, IdentityError when the key and the
    certificate cannot be used.
    """
    host, port = _split(address)
    _context(credentials, ssl.PROTOCOL_TLS_SERVER, [])  # so that a bad key shows here
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, _, _, _, where = found[0]
        both = family == socket.AF_INET6 and host == "::" and socket.has_dualstack_ipv6()
        bound = socket.create_server(
            where[:2],
            family=family,
            backlog=MAX_GREETING,
            dualstack_ipv6=both,
        )
    except OSError as error:
        raise ConfigError(f"cannot listen on {address}: {_reason(error)}") from None
    bound.setblocking(False)
    listener = Listener(credentials, bound, role, on_refused)
    try:
        yield listener
    finally:
        await listener._close()
