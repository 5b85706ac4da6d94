"""Opening sessions over WebSocket and mutual TLS 1.3, both certificates pinned.

A session opens in four steps, and nothing is said before the step above it has succeeded:

    1. TCP, through an HTTP proxy where the environment names one; who is let in from there, and when, is
       decided in admission.py.
    2. TLS 1.3. Each end trusts the pinned certificates and no authority; then the certificate must
       equal a pinned one byte by byte. Whoever fails gets a TLS alert and nothing else.
    3. The WebSocket handshake. Its path says whether a session begins or goes on.
    4. The greeting (hello.py), or the resumption of a session (session.py).
"""

import asyncio
import contextlib
import functools
import hashlib
import socket
import ssl
import urllib.request
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import TypeVar, cast

from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidProxy,
    InvalidProxyStatus,
    InvalidStatus,
    ProxyError,
)

from vfl.errors import ConfigError, IdentityError, PeerError, PeerLost, PeerUnreachable, VflError
from vfl.net import hello, session, wire
from vfl.net.addresses import SCHEME, is_loopback, is_relay, split_address
from vfl.net.admission import Admission, Caller, Seal
from vfl.net.certificates import fingerprint
from vfl.net.connection import AcceptedConnection, BoundedConnection, Dialling, accept_tls
from vfl.net.failures import (
    Refusal,
    handshake_error,
    refusal,
    refusal_by_former_pin,
    refusal_of_unpinned,
    unpinned_error,
)
from vfl.net.hello import Resume, Resumed
from vfl.net.listening import bind
from vfl.net.mark import is_made_with, key_of
from vfl.net.open_sessions import OpenSessions
from vfl.net.refusals import Refusals
from vfl.net.rendezvous import DIALS, WAITS, Key, Relay, Waiting, keys_of
from vfl.net.session import NO_PATIENCE, NotYet, Patience, WebSocketPeer
from vfl.net.tls import (
    HOST,
    Context,
    Credentials,
    Failure,
    Outcome,
    context_of,
    own_der,
    reason_of,
)
from vfl.net.window import GREETING, MAX_FRAME, Opening

__all__ = ["HOST", "Credentials", "Listener", "Opening", "Patience", "WebSocketPeer", "dial", "listen"]

M = TypeVar("M", bound=wire.Message)

# What a load balancer answers that has nobody to hand a connection on to.
_NOBODY_BEHIND = (HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT)


class _Unpinned(Exception):
    """A certificate was shown that is not accepted."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.why)
        self.refusal = refusal


HANDSHAKE = 10.0  # seconds for TLS, WebSocket handshake and greeting
LEAVING = 2.0  # for sessions that nobody wants to be closed, at the end
BEGIN, GO_ON = "/", "/resume"  # the paths

MAX_SPARE = 16  # contexts


def _take_note(context: Context, *errors: BaseException | None) -> Outcome:
    """Note why a connection's TLS failed, if one of the errors says so, and return what came of it.

    The errors lose their tracebacks, whose frames refer to them, and to the buffers of the connection:
    these would stay until the collector comes round.
    """
    for error in errors:
        if error is None:
            continue
        if context.outcome.failure is None and isinstance(error, ssl.SSLError):
            context.outcome.failure = Failure.of(error)
        error.__traceback__ = None
        error.__context__ = error.__cause__ = None
    return context.outcome


async def _greet(
    credentials: Credentials, peer: WebSocketPeer, role: str, answers: bool = False
) -> hello.Hello:
    """Greet over a new connection. Raises what `greet` raises, and lets the peer go."""
    if credentials.watch is not None:
        credentials.watch(peer)
    own = hashlib.sha256(own_der(credentials)).digest()
    other = hashlib.sha256(credentials.pins[peer.name]).digest()
    try:
        return await hello.greet(peer, own=own, other=other, role=role, answers=answers)
    except BaseException as error:
        if isinstance(error, PeerError):
            # Our own greeting must arrive: the other end draws its conclusion from it.
            await peer.close()
        peer.drop()
        raise


def _decode_alone(kind: type[M], data: str | bytes, name: str) -> M:
    """The message in a frame outside of any session. Raises PeerError."""
    try:
        return cast(M, wire.decode(data if isinstance(data, bytes) else b"", [kind]))
    except wire.WireError as error:
        raise PeerError(
            f"{name} broke the protocol: it sent {error}",
            for_peer=f"a peer broke the protocol with {error}",
        ) from None


# --- The end that dials ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Line:
    """The way to a peer that listens, or waits at a relay."""

    credentials: Credentials
    name: str
    address: str
    proxy: str | None
    place: tuple[Relay, Key] | None = None

    async def connect(self, path: str, seconds: float, frame: int = MAX_FRAME) -> BoundedConnection:
        """A connection through TLS and the WebSocket handshake, to the pinned certificate, over which
        frames of so many bytes may come after the other end's answer to what is said first.

        Raises NotYet, and what is final: IdentityError, PeerUnreachable, ConfigError.
        """
        pin = self.credentials.pins[self.name]
        if (why := self.credentials.why_refused(pin)) is not None:
            raise IdentityError(why)
        seal_key = b"" if self.place is None else self.place[1].seal
        context = context_of(self.credentials, ssl.PROTOCOL_TLS_CLIENT, [pin], seal_key)
        through: str | socket.socket | None = self.proxy
        if self.place is not None:
            relay, key = self.place
            through = await relay.dial(key, seconds)
        dialling = Dialling(
            f"wss://{self.address.removeprefix(SCHEME)}{path}",
            context,
            HOST,
            through,
            size=GREETING.frame,
            then=frame,
            seconds=seconds,
            closing=session.CLOSE,
        )
        try:
            connection = await dialling.open()
        except (OSError, EOFError, InvalidHandshake, InvalidProxy, ImportError) as error:
            # In TLS 1.3 a client learns only at its first read that its certificate was refused.
            lost = dialling.cause
            outcome = _take_note(context, lost, error)
            if outcome.failure is not None:
                failed = handshake_error(self.credentials, self.name, self.address, outcome)
                if self.place is None or isinstance(failed, IdentityError):
                    raise failed from None
                # Else no TLS came of it: the next time the relay may join it with the peer.
            if self.proxy is not None and isinstance(error, InvalidProxyStatus):
                status = error.response.status_code
                raise NotYet(f"the proxy of HTTPS_PROXY answered {status}") from None
            if isinstance(error, InvalidProxy | ProxyError | ImportError):
                raise ConfigError("the proxy of HTTPS_PROXY cannot be used: is it http://?") from None
            if isinstance(error, InvalidStatus):
                if error.response.status_code == HTTPStatus.TOO_MANY_REQUESTS:
                    raise NotYet("it was connected to too often in a short time") from None
                status = error.response.status_code
                raise NotYet(
                    f"it answered with HTTP status {status}", nobody=status in _NOBODY_BEHIND
                ) from None
            if self.place is not None:
                why = reason_of(error) if isinstance(error, OSError) else "the connection was closed"
                if outcome.failure is not None:
                    why = outcome.failure.words
                raise NotYet(
                    f"what the relay joined this party with does not answer as {self.name} would ({why})"
                ) from None
            if isinstance(error, InvalidHandshake | EOFError) or isinstance(lost, OSError):
                raise NotYet(
                    "it closed the connection during the handshake (is this party's certificate"
                    " pinned there?)"
                ) from None
            behind = "" if self.proxy is None else " (through the proxy of HTTPS_PROXY)"
            nobody = self.proxy is None and not isinstance(error, socket.gaierror)
            raise NotYet(reason_of(error) + behind, nobody=nobody) from None
        shown = connection.certificate
        if shown != pin:
            connection.abort()
            raise unpinned_error(self.credentials, self.name, self.address, shown)
        return connection

    async def resume(self, request: Resume, frame: int = MAX_FRAME) -> tuple[BoundedConnection, Resumed]:
        """A connection on which the session goes on, and the other end's answer.

        Raises NotYet, PeerError for what is no answer, and what `connect` raises.
        """
        connection = await self.connect(GO_ON, HANDSHAKE, frame)
        try:
            async with asyncio.timeout(HANDSHAKE):
                await connection.send(wire.encode(request))
                return connection, _decode_alone(Resumed, await connection.recv(), self.name)
        except BaseException as error:
            connection.abort()
            if isinstance(error, TimeoutError | ConnectionClosed):
                raise NotYet("it gave no answer") from None
            raise


async def dial(
    credentials: Credentials,
    peer: str,
    address: str,
    role: str,
    wait: float,
    on_wait: Callable[[str], None] | None = None,
    patience: Patience = NO_PATIENCE,
    opening: Opening | None = None,
) -> WebSocketPeer:
    """Open a session with `peer`, which listens on `address` ("host:port") or waits at a relay
    ("relay://host:port").

    Tries again for `wait` seconds (math.inf: for ever) while the address does not answer; `on_wait`
    is told the reason of a failed attempt whenever it changes. Goes through the HTTP proxy of the
    environment (HTTPS_PROXY, NO_PROXY) except to the machine itself. When the connection breaks later,
    dials again as `patience` says. `opening` bounds what the peer may send before a job.

    Raises PeerUnreachable when the address cannot be reached in time, IdentityError when either
    end's certificate is not the pinned one or is not valid today, ConfigError for an address that
    is none, and what `greet` raises.
    """
    if peer not in credentials.pins:
        raise ConfigError(f"no certificate is pinned for {peer}")
    line = _line_to(credentials, peer, address)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait
    pause, longest = session.BACKOFF
    told = ""
    while True:
        # An attempt gets its full time when it is the first.
        seconds = min(HANDSHAKE, max(deadline - loop.time(), 1.0))
        try:
            frame = MAX_FRAME if opening is None else opening.frame
            connection = await line.connect(BEGIN, seconds, frame)
            found = WebSocketPeer(peer, connection, patience, opening, first=opening)
            theirs = await _greet(credentials, found, role)
            if found.lost:
                raise NotYet("it ended the session at once")
            found.outlive_connection(theirs, line.resume)
            return found
        except (NotYet, PeerLost) as failure:
            reason, nobody = str(failure), isinstance(failure, NotYet) and failure.nobody
        if on_wait is not None and reason != told:
            on_wait(f"{peer} at {address}: {reason}")
            told = reason
        if loop.time() + pause > deadline:
            waited = f" within {wait:g} s" if wait else ""
            raise PeerUnreachable(
                f"cannot reach {peer} at {address}{waited}: {reason}", nobody_listens=nobody
            )
        await asyncio.sleep(pause)
        pause = min(1.1 * pause, longest)  # who has not waited long is not kept waiting long


def _line_to(credentials: Credentials, peer: str, address: str) -> _Line:
    """The way to a peer. Raises ConfigError and IdentityError."""
    relay = relay_of(address)
    if relay is None:
        host, _ = split_address(address)
        return _Line(credentials, peer, address, proxy_to(host))
    key = keys_of(credentials, DIALS, [peer])[peer]
    return _Line(credentials, peer, address, None, (relay, key))


def relay_of(address: str) -> Relay | None:
    """The relay that an address is of, if it is one's. Raises ConfigError."""
    if not is_relay(address):
        return None
    host, port = split_address(address.removeprefix(SCHEME))
    return Relay(host, port, proxy_to(host))


def proxy_to(host: str) -> str | None:
    """The proxy to go through. A session with this machine itself never leaves it."""
    if is_loopback(host) or host.endswith(".localhost") or urllib.request.proxy_bypass(host):
        return None
    return urllib.request.getproxies().get("https")


# --- The end that listens ----------------------------------------------------------------------


class Listener:
    """Waits for sessions; made by `listen`."""

    def __init__(
        self,
        credentials: Credentials,
        bound: socket.socket | None,
        role: str,
        refusals: Refusals,
        patience: Patience,
        opening: Opening | None,
    ) -> None:
        self._credentials = credentials
        self._patience, self._opening = patience, opening
        self._sessions = OpenSessions()
        self._socket = bound
        self._role = role
        self._refusals = refusals
        self.refused: dict[str, str] = {}
        """Why the last connection of a peer was refused, by the name that it showed."""
        self.unnamed: tuple[str, str] | None = None
        """Where the last connection came from that a party without a name refused, and why."""
        self._leaving: set[asyncio.Task[None]] = set()
        self._spare: list[Context] = []  # of connections whose handshake failed
        own = fingerprint(own_der(credentials))
        pins = {name: fingerprint(pin) for name, pin in credentials.pins.items()}
        self._keys = [(name, key_of(pin, own)) for name, pin in pins.items()]
        before = credentials.formerly.get(credentials.name, frozenset())
        self._former_keys = [(name, key_of(pin, old)) for name, pin in pins.items() for old in before]
        self._admission = Admission(bound, self._peer_of, self._welcome, self._refuse)
        self._waiting: Waiting | None = None  # at a relay
        self.relay: str | None = None  # which one, as addresses name it

    @property
    def port(self) -> int:
        """The port; of use when port 0 (any) was asked for. At a relay there is none."""
        return 0 if self._socket is None else cast(int, self._socket.getsockname()[1])

    @property
    def troubles(self) -> dict[str, str]:
        """Why this party does not wait at the relay now, by the peer that it would wait for."""
        return {} if self._waiting is None else self._waiting.troubles

    @property
    def trouble(self) -> str | None:
        """The same in words, and for whom, if for some peers only."""
        reasons = () if self._waiting is None else self._waiting.reasons.values()
        return f"{self.relay}: {'; '.join(reasons)}" if reasons else None

    async def wait_at(self, relay: Relay, keys: Mapping[str, Key], say: Callable[[str], None]) -> None:
        """Take sessions that a relay joins. Raises ConfigError when another program does that."""
        self.relay = where = relay.address
        hand_on = functools.partial(self._take_joined, where, keys)
        self._waiting = Waiting(relay, keys, hand_on, lambda line: say(f"{where}: {line}"))
        await self._waiting.begin(HANDSHAKE)
        if self._waiting.is_taken:
            raise ConfigError(
                f"cannot wait at {where}: another program of this party waits there already"
            )

    def _take_joined(
        self, relay: str, keys: Mapping[str, Key], name: str, joined: socket.socket
    ) -> None:
        self._admission.take(joined, relay, Seal(name, keys[name].seal))

    async def accept(self) -> WebSocketPeer:
        """The next greeted session of any pinned peer, which now belongs to the caller."""
        while True:
            peer = await self._sessions.next()
            if not peer.lost:
                return peer
            self.dismiss(peer)

    def dismiss(self, peer: WebSocketPeer) -> None:
        """Close a session that is not wanted, without waiting for its end."""
        task = asyncio.create_task(peer.close())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    def _peer_of(self, mark: bytes) -> str | None:
        return next((name for name, key in self._keys if is_made_with(mark, key)), None)

    def _take_context(self) -> Context:
        """A context that trusts the pins of now; to make one takes a third of a handshake's time."""
        pins = list(self._credentials.accepted_pins().values())
        self._spare = [one for one in self._spare if one.pins == tuple(pins)]
        if self._spare:
            return self._spare.pop()
        return context_of(self._credentials, ssl.PROTOCOL_TLS_SERVER, pins)

    async def _welcome(self, caller: Caller) -> None:
        try:
            context = self._take_context()
        except VflError as error:
            caller.socket.close()
            self._refuse(caller.address, str(error))
            return
        name = None
        try:
            async with asyncio.timeout(HANDSHAKE):
                name, connection = await self._connect(caller.socket, context)
                if connection.path == GO_ON:
                    await self._resume(name, connection)
                else:
                    await self._begin(name, connection)
        except _Unpinned as unknown:
            self._refuse_caller(caller, unknown.refusal)
        except VflError as error:
            self._refuse(caller.address, str(error), name)
        except (TimeoutError, asyncio.CancelledError) as ended:
            if context.outcome.failure is not None:  # the other end was told, and has not closed yet
                self._refuse_caller(caller, self._explain(caller, context.outcome))
            elif isinstance(ended, TimeoutError):
                self._refuse(caller.address, f"no handshake within {HANDSHAKE:.0f} s", name)
            if isinstance(ended, asyncio.CancelledError):
                raise
        except (OSError, EOFError, InvalidHandshake, ConnectionClosed) as error:
            self._refuse_caller(caller, self._explain(caller, _take_note(context, error)))
            if name is None and len(self._spare) < MAX_SPARE:
                context.renew()
                self._spare.append(context)

    def _explain(self, caller: Caller, outcome: Outcome) -> Refusal:
        """Why a handshake failed."""
        if outcome.failure is not None and outcome.failure.refused_there:
            for name, key in self._former_keys:
                if caller.mark and is_made_with(caller.mark, key):
                    return refusal_by_former_pin(name)
        found = refusal(self._credentials, outcome)
        return replace(found, peer=found.peer or caller.peer)

    async def _connect(
        self, accepted: socket.socket, context: Context
    ) -> tuple[str, AcceptedConnection]:
        """The name of the pinned peer that dialled, and the connection after its handshake."""
        connection = await accept_tls(
            accepted,
            context,
            self,
            size=GREETING.frame,
            seconds=HANDSHAKE,
            closing=session.CLOSE,
        )
        context.stop_noting()
        try:
            shown = connection.certificate
            name = self._credentials.owner(shown)
            if name is None or self._credentials.why_refused(shown) is not None:
                raise _Unpinned(refusal_of_unpinned(self._credentials, shown))
            if not self._sessions.take_turn(name):
                await connection.refuse(HTTPStatus.TOO_MANY_REQUESTS)
                raise PeerLost(f"{name} connects too often")
            await connection.upgrade()
            if not connection.is_open:
                raise PeerLost(refusal(self._credentials, _take_note(context, connection.cause)).why)
        except BaseException:
            connection.abort()
            raise
        return name, connection

    async def _begin(self, name: str, connection: BoundedConnection) -> None:
        peer = WebSocketPeer(name, connection, self._patience, self._opening)
        theirs = await _greet(self._credentials, peer, self._role, answers=True)
        peer.outlive_connection(theirs)
        try:
            idle = self._sessions.add(peer)
        except PeerLost:
            await peer.close()
            raise
        if idle is not None:
            self.dismiss(idle)
        self.refused.pop(name, None)

    async def _resume(self, name: str, connection: BoundedConnection) -> None:
        try:
            request = _decode_alone(Resume, await connection.recv(), name)
            peer = self._sessions.get(request.key)
            if peer is not None and peer.name == name and peer.resumable:
                peer.resume(connection, request)
                return
            await connection.send(wire.encode(Resumed(None)))
            await connection.close()
            if peer is not None and peer.name != name:
                raise PeerLost(f"{name} goes on with a session of another party")
            # Else it is one of before a restart, say: the peer is told, and nobody here can do more.
        except BaseException:
            connection.abort()
            raise

    def is_serving(self) -> bool:
        return self._admission.open

    def _refuse(self, address: str, why: str, peer: str | None = None) -> None:
        if peer is not None:
            self.refused[peer] = why
        self._refusals.add(address, why, of_peer=peer is not None)

    def _refuse_caller(self, caller: Caller, found: Refusal) -> None:
        self._refuse(caller.address, found.why, found.peer)
        if found.peer is not None:
            self.refused[found.peer] = found.why + found.advice
        elif found.of_party:
            self.unnamed = (caller.address, found.why)

    async def _close(self) -> None:
        if self._waiting is not None:
            await self._waiting.close()
        await self._admission.close()
        if self._socket is not None:
            self._socket.close()
        for peer in self._sessions.waiting:
            self.dismiss(peer)
        if self._leaving:
            await asyncio.wait(self._leaving, timeout=LEAVING)
        for task in self._leaving:
            task.cancel()
        for peer in self._sessions:
            peer.end_with_connection()
        self._refusals.close()


@contextlib.asynccontextmanager
async def listen(
    credentials: Credentials,
    address: str,
    role: str,
    on_refused: Callable[[str], None],
    patience: Patience = NO_PATIENCE,
    opening: Opening | None = None,
    period: float = 0.0,
    waits_for: Collection[str] | None = None,
) -> AsyncIterator[Listener]:
    """Listen on `address` ("host:port"; 0.0.0.0 or [::] for all of the machine's addresses), or wait at
    a relay ("relay://host:port") for those peers that `waits_for` names, or all.

    `on_refused` gets one line for every connection that became no session; with a `period`, in seconds,
    one for all beyond the first few in it. A session whose connection breaks waits as `patience` says
    for the other end to dial again. `opening` bounds what a peer may send before a job. Leaving the
    block stops listening and closes sessions that nobody accepted; those accepted stay open, each as
    long as its connection.

    Raises ConfigError when the address cannot be listened on or another program of this party waits at
    the relay, IdentityError when the key and the certificate cannot be used. A relay that is not there
    is dialled again until it is: `troubles` says so meanwhile.
    """
    context_of(credentials, ssl.PROTOCOL_TLS_SERVER, [])  # so that a bad key shows here
    relay = relay_of(address)
    bound = await bind(address) if relay is None else None
    refusals = Refusals(on_refused, period)
    listener = Listener(credentials, bound, role, refusals, patience, opening)
    try:
        if relay is not None:
            names = credentials.pins if waits_for is None else waits_for
            await listener.wait_at(relay, keys_of(credentials, WAITS, names), on_refused)
        yield listener
    finally:
        await listener._close()
