"""Meeting another party at a relay, so that neither has to open a port.

A relay (relay.py) joins two connections and passes bytes on, those of the TLS between both parties. It
must find out which two belong together, let nobody take the place of either, and learn no names:

    1. Two parties share a secret that nobody else can compute, by P-256 Diffie-Hellman of one's private
       key and the other's pinned certificate (SP 800-56A). From it and both fingerprints, of who dials
       first, HKDF-SHA256 (RFC 5869) makes an Ed25519 key (RFC 8032), which both have. Its public half
       is their *place*. To all others it looks random, also to who knows both certificates.
    2. The relay begins with a greeting and a fresh challenge.
    3. A party answers with its seat (whether it waits or dials), the place, a number of its process, and
       a signature of all this and the challenge by the key of the place.
    4. The relay answers by one byte each time: WAITING, and ASK now and then, which is answered by
       HERE; or why not. When both are there the one that waits hears JOIN and says READY, the one that
       dials hears JOIN. From there on the bytes are the other party's.
    5. The first of them are TLS's ClientHello under a seal (mark.py), whose key is made with that of the
       place. So the relay itself, or whom it joins instead, is shown no certificate.

The relay is not trusted with anything but its service: whom it joins has to prove by TLS who it is.
"""

import asyncio
import base64
import contextlib
import functools
import hashlib
import math
import os
import re
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from vfl.errors import ConfigError, IdentityError, fault
from vfl.net.addresses import SCHEME
from vfl.net.connection import NEXT_ADDRESS
from vfl.net.pace import Pace
from vfl.net.session import BACKOFF, NotYet
from vfl.net.tls import Credentials, own_der, reason_of

GREETING: Final = b"vfl relay 1\n"
CHALLENGE: Final = 32
DIALS, WAITS = b"d", b"w"  # the seats
PLACE, PROCESS, SIGNATURE = 32, 16, 64
REQUEST: Final = 1 + PLACE + PROCESS + SIGNATURE

WAITING, ASK, HERE, JOIN, READY = b".", b"?", b"!", b"j", b"r"
NOBODY, TAKEN, FULL, SPENT, UNKNOWN, FALSE, OFTEN = b"n", b"t", b"f", b"s", b"u", b"x", b"o"

ASKS = 20.0  # seconds between two questions to one that waits
SILENT = 50.0  # seconds without any after which it dials the relay again
ASKING = 10.0  # seconds that a relay has to let a party wait
HOLD = 2.0  # seconds for which one that dials is kept while nobody waits
ANSWER = 3.0  # seconds for READY and HERE

_LEAST = HOLD + 2 * ANSWER  # where both that wait are dead
_HEAD = 8192  # bytes of a proxy's answer
_ASKS = 16  # at once; then one a second
_AT_ONCE, _A_SECOND = 32, 2.0  # connections that the relay hands on, of each peer
_SOON, _SELDOM = 0.3, 60.0  # seconds until news is told; where there is much
_AGAIN = 5.0  # seconds until a place is asked for again that is taken

_REFUSALS = {
    NOBODY: "nobody waits for this party at the relay: the other side is not running there, or one side"
    " pins a certificate that the other does not use",
    FULL: "the relay has no place left for another connection: its operator can look at its limits and"
    " at who else uses it",
    OFTEN: "this party's network address asks the relay too often: where others there do, the relay's"
    " operator can list places",
    SPENT: "the relay has carried today (UTC) what its limit allows",
    UNKNOWN: "the relay does not serve these two parties: its operator has to add the place that"
    " `vfl doctor` shows",
    FALSE: "the relay refused the proof that this party belongs there: are both sides of one version?",
}
# Points of small order, but for their sign (Curve25519's cofactor is 8): anybody can sign for them.
_WEAK = frozenset(
    number.to_bytes(32, "little")
    for number in (
        0,
        1,
        0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826,
        0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7,
        2**255 - 20,
        2**255 - 19,
        2**255 - 18,
    )
)
_NO_RELAY = "what listens there is no relay of this version, or is closing"
_UNTRIED = "the relay has not answered yet"
_TAKEN = "another program of this party waits there already"


class Taken(Exception):
    """Another process of this party waits at the place."""


@dataclass(frozen=True)
class Request:
    """What a party asks of a relay, as bytes on the wire."""

    seat: bytes
    place: bytes
    process: bytes
    signature: bytes

    @classmethod
    def made_of(cls, data: bytes) -> "Request":
        """The request in so many bytes. Raises ValueError for another length or seat."""
        if len(data) != REQUEST or data[:1] not in (DIALS, WAITS):
            raise ValueError("no request")
        process = 1 + PLACE
        signature = process + PROCESS
        return cls(data[:1], data[1:process], data[process:signature], data[signature:])

    @property
    def encoded(self) -> bytes:
        return self.seat + self.place + self.process + self.signature

    def is_proven(self, challenge: bytes) -> bool:
        """Whether it is signed by who has the key of the place, for this challenge."""
        if bytes([*self.place[:-1], self.place[-1] & 0x7F]) in _WEAK:
            return False
        signed = _signed(challenge, self.seat, self.place, self.process)
        try:
            ed25519.Ed25519PublicKey.from_public_bytes(self.place).verify(self.signature, signed)
        except (InvalidSignature, ValueError):
            return False
        return True


def _signed(challenge: bytes, seat: bytes, place: bytes, process: bytes) -> bytes:
    return GREETING + challenge + seat + place + process


@dataclass(frozen=True)
class Key:
    """The key of the place where two parties meet."""

    private: ed25519.Ed25519PrivateKey
    seal: bytes = field(repr=False)  # the key of the seals

    @property
    def place(self) -> bytes:
        """Where they meet, 32 bytes."""
        return self.private.public_key().public_bytes_raw()

    def request(self, challenge: bytes, seat: bytes, process: bytes) -> bytes:
        """What a party answers to a relay's challenge."""
        place = self.place
        signature = self.private.sign(_signed(challenge, seat, place, process))
        return Request(seat, place, process, signature).encoded


def key_of_secret(secret: bytes, dials: bytes, listens: bytes) -> Key:
    """The key that two parties derive from their secret and the digests of their certificates."""
    derived = HKDF(hashes.SHA256(), 64, None, b"vfl relay place" + dials + listens).derive(secret)
    return Key(ed25519.Ed25519PrivateKey.from_private_bytes(derived[:32]), derived[32:])


def keys_of(credentials: Credentials, seat: bytes, names: Iterable[str]) -> dict[str, Key]:
    """The keys of the places where this party takes the seat, by peer. Raises IdentityError."""
    try:
        own = serialization.load_pem_private_key(credentials.key.read_bytes(), credentials.password)
    except (OSError, ValueError, TypeError):
        raise IdentityError(f"cannot use {credentials.key}: it holds no key that can be read") from None
    keys = {}
    for name in names:
        public = x509.load_der_x509_certificate(credentials.pins[name]).public_key()
        if not isinstance(own, ec.EllipticCurvePrivateKey) or not isinstance(
            public, ec.EllipticCurvePublicKey
        ):
            raise IdentityError(f"the key of {name} or of this party is not on the curve P-256")
        ends = [own_der(credentials), credentials.pins[name]]
        if seat == WAITS:
            ends.reverse()
        dials, listens = (hashlib.sha256(der).digest() for der in ends)
        keys[name] = key_of_secret(own.exchange(ec.ECDH(), public), dials, listens)
    return keys


# --- A connection to a relay -------------------------------------------------------------------


@dataclass(frozen=True)
class Relay:
    """Where a relay is, and the HTTP proxy on the way to it. Raises ConfigError for a proxy that cannot
    be used."""

    host: str
    port: int
    proxy: str | None = None

    def __post_init__(self) -> None:
        if self.proxy is not None:
            _read_proxy(self.proxy)

    @property
    def address(self) -> str:
        """As party files name it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{SCHEME}{host}:{self.port}"

    async def dial(self, key: Key, seconds: float) -> socket.socket:
        """A connection to the party that waits at the place, from its first byte on.

        It may take a few seconds more, for the relay to say that nobody waits. Raises NotYet.
        """
        try:
            async with asyncio.timeout(max(seconds, _LEAST)):
                connected, answer = await self._ask(key, DIALS, bytes(PROCESS))
        except TimeoutError:
            raise NotYet("the relay gave no answer in time") from None
        if answer == JOIN:
            return connected
        connected.close()
        raise _refusal(answer)

    async def wait(
        self, key: Key, process: bytes, on_waiting: Callable[[], None], seconds: float
    ) -> socket.socket:
        """A connection to a party that dials the place, from its first byte on, whenever one comes.

        The relay has `seconds` to let this party wait, of which `on_waiting` hears. Raises NotYet when
        it does not, or is lost; Taken.
        """
        try:
            async with asyncio.timeout(seconds):
                connected, answer = await self._ask(key, WAITS, process)
        except TimeoutError:
            raise NotYet("the relay gave no answer in time") from None
        try:
            if answer == TAKEN:
                raise Taken
            if answer != WAITING:
                raise _refusal(answer)
            on_waiting()
            loop = asyncio.get_running_loop()
            pace = Pace(_ASKS, 1.0, loop.time())
            while answer != JOIN:
                async with asyncio.timeout(SILENT):
                    answer = await receive(connected, 1)
                if answer not in (ASK, JOIN):
                    raise _refusal(answer)
                if not pace.take(loop.time()):
                    raise NotYet("the relay asks without end")
                connected.send(HERE if answer == ASK else READY)
        except (OSError, EOFError) as error:  # TimeoutError too
            connected.close()
            raise _lost(error) from None
        except BaseException:
            connected.close()
            raise
        return connected

    async def _ask(self, key: Key, seat: bytes, process: bytes) -> tuple[socket.socket, bytes]:
        """A connection on which the relay has been asked for a seat, and its answer."""
        connected, greeting = await connect(self.host, self.port, self.proxy, "the relay"), b""
        try:
            with contextlib.suppress(EOFError):
                greeting = await receive(connected, len(GREETING))
            if greeting != GREETING:
                raise NotYet(_NO_RELAY)
            challenge = await receive(connected, CHALLENGE)
            connected.send(key.request(challenge, seat, process))
            return connected, await receive(connected, 1)
        except (OSError, EOFError) as error:
            connected.close()
            if isinstance(error, TimeoutError):
                raise
            raise _lost(error) from None
        except BaseException:
            connected.close()
            raise


@dataclass(frozen=True)
class _Proxy:
    """An HTTP proxy, and the name and password that it asks for."""

    host: str
    port: int
    words: str = field(repr=False)


def _read_proxy(address: str) -> _Proxy:
    """The proxy of an address. Raises ConfigError."""
    try:
        parts = urlsplit(address)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError
        parts.hostname.encode("idna")  # as it will be looked up; raises UnicodeError
        words = ""
        if parts.username is not None:
            words = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        return _Proxy(parts.hostname, parts.port or 80, words)
    except ValueError:
        raise ConfigError("the proxy of HTTPS_PROXY cannot be used: is it http://?") from None


def _refusal(answer: bytes) -> NotYet:
    """Why a relay refuses, in words."""
    why = _REFUSALS.get(answer, "the relay gave no answer that is known")
    return NotYet(why, nobody=answer == NOBODY, unlisted=answer == UNKNOWN)


def _lost(error: BaseException) -> NotYet:
    if isinstance(error, EOFError):
        return NotYet("the relay closed the connection")
    return NotYet(f"the connection to the relay broke ({reason_of(error)})")


async def receive(connected: socket.socket, size: int) -> bytes:
    """So many bytes and none more. Raises EOFError when the other end has closed before."""
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < size:
        more = await loop.sock_recv(connected, size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


async def connect(host: str, port: int, through: str | None, what: str) -> socket.socket:
    """A connection to the host, `what` in words, through an HTTP proxy if there is one. Raises NotYet,
    and ConfigError for a proxy that cannot be used."""
    if through is None:
        return await _connect(host, port, what)
    proxy = _read_proxy(through)
    host = f"[{host}]" if ":" in host else host
    lines = [f"CONNECT {host}:{port} HTTP/1.1", f"Host: {host}:{port}"]
    if proxy.words:
        basic = base64.b64encode(proxy.words.encode()).decode()
        lines.append(f"Proxy-Authorization: Basic {basic}")
    connected = await _connect(proxy.host, proxy.port, "the proxy of HTTPS_PROXY")
    try:
        connected.send("".join(f"{line}\r\n" for line in (*lines, "")).encode())
        head = b""
        while not head.endswith(b"\r\n\r\n") and len(head) < _HEAD:
            head += await receive(connected, 1)  # what follows is the other end's
    except (OSError, EOFError) as error:
        connected.close()
        if isinstance(error, TimeoutError):
            raise
        raise NotYet("the proxy of HTTPS_PROXY closed the connection") from None
    except BaseException:
        connected.close()
        raise
    status = re.fullmatch(rb"(?s)HTTP/1\.[01] ([0-9]{3})[ \r].*", head)
    if status is None or status[1][:1] != b"2":
        connected.close()
        said = "no HTTP" if status is None else status[1].decode()
        raise NotYet(f"the proxy of HTTPS_PROXY answered {said}")
    return connected


async def _connect(host: str, port: int, what: str) -> socket.socket:
    """A connection to the first address of a name that answers (RFC 8305). Raises NotYet."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise NotYet(f"{what} cannot be reached ({reason_of(error)})") from None
    attempts: list[asyncio.Task[socket.socket]] = []
    try:
        for family, _, _, _, where in found:
            attempts.append(asyncio.create_task(_connect_to(family, where)))
            left = {attempt for attempt in attempts if not attempt.done()}
            await asyncio.wait(left, timeout=NEXT_ADDRESS, return_when=asyncio.FIRST_COMPLETED)
            if any(_is_connected(attempt) for attempt in attempts):
                break
        while left and not any(_is_connected(attempt) for attempt in attempts):
            _, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
        first = next((attempt for attempt in attempts if _is_connected(attempt)), None)
        if first is not None:
            attempts.remove(first)
            return first.result()
        errors = [attempt.exception() for attempt in attempts]
        refused = all(isinstance(error, ConnectionRefusedError) for error in errors)
        why = reason_of(errors[0] or OSError())
        raise NotYet(f"{what} cannot be reached ({why})", refused=refused)
    finally:
        for attempt in attempts:
            attempt.cancel()
            attempt.add_done_callback(_close_result)


def _is_connected(attempt: "asyncio.Task[socket.socket]") -> bool:
    return attempt.done() and not attempt.cancelled() and attempt.exception() is None


def _close_result(attempt: "asyncio.Task[socket.socket]") -> None:
    if _is_connected(attempt):
        attempt.result().close()


async def _connect_to(family: int, where: tuple[object, ...]) -> socket.socket:
    connected = socket.socket(family, socket.SOCK_STREAM)
    try:
        connected.setblocking(False)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(connected, where)
    except BaseException:
        connected.close()
        raise
    return connected


# --- The end that waits ------------------------------------------------------------------------


class Waiting:
    """Waits at a relay for peers, with a connection for each, until closed.

    `hand_on(name, connection)` takes each that the relay has joined for that peer; `say` hears when the
    relay is lost and when it is back.
    """

    def __init__(
        self,
        relay: Relay,
        keys: Mapping[str, Key],
        hand_on: Callable[[str, socket.socket], None],
        say: Callable[[str], None],
    ) -> None:
        self._relay, self._hand_on, self._say = relay, hand_on, say
        self._told: set[str] = set()
        self._telling: asyncio.TimerHandle | None = None
        self._delay, self._last = _SOON, -math.inf  # of the next lines; when the last ones were
        self._begun = False
        self._tried = {name: asyncio.Event() for name in keys}
        self.troubles = dict.fromkeys(keys, _UNTRIED)
        """Why this party does not wait there now, by the peer that it would wait for."""
        self._works = [asyncio.create_task(self._wait_for(name, key)) for name, key in keys.items()]

    async def begin(self, seconds: float) -> None:
        """Wait until each peer can come, or there is a reason why not; no longer than so."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for tried in self._tried.values():
                    await tried.wait()
        self._begun = True
        if not self.is_taken:  # which is an error, and no line of its own
            self._tell_news()

    @property
    def is_taken(self) -> bool:
        """Whether another program of this party waits in its place.

        A peer has the key of the place where it meets this party, and can sit down there itself. It
        gains nothing by that, and must not keep this party from its other peers.
        """
        return _TAKEN in self.troubles.values() and self.troubles.keys() == self._tried.keys()

    async def close(self) -> None:
        for work in self._works:
            work.cancel()
        await asyncio.gather(*self._works, return_exceptions=True)
        if self._telling is not None:
            self._telling.cancel()

    async def _wait_for(self, name: str, key: Key) -> None:
        loop = asyncio.get_running_loop()
        pace = Pace(_AT_ONCE, _A_SECOND, loop.time())
        pause, longest = BACKOFF
        process = os.urandom(PROCESS)  # another at each place: the relay need not know whose they are
        waits = functools.partial(self._note, name)
        while True:
            try:
                joined = await self._relay.wait(key, process, waits, ASKING)
            except Taken:
                waits(_TAKEN)
                pause = _AGAIN  # each time the relay asks who waits there
            except NotYet as error:
                waits(str(error))
            except Exception as error:  # a bug here must not end the service
                waits(fault(error))
            else:
                self._hand_on(name, joined)
                pause = BACKOFF[0]
                if pace.take(loop.time()):
                    continue  # the next may come at once
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)

    def _note(self, name: str, trouble: str = "") -> None:
        """Note that this party waits for a peer, or why it does not."""
        if trouble:
            self.troubles[name] = trouble
        else:
            self.troubles.pop(name, None)
        self._tried[name].set()
        if self._begun and self._telling is None:
            self._telling = asyncio.get_running_loop().call_later(self._delay, self._tell_news)

    @property
    def reasons(self) -> dict[str, str]:
        """Why this party does not wait there now, in words: with the peers' names where others can
        come."""
        names: dict[str, list[str]] = {}
        for name, why in self.troubles.items():
            names.setdefault(why, []).append(name)
        whole = self.troubles.keys() == self._tried.keys() and len(names) == 1
        return {
            why: why if whole else f"{why} (for {' and '.join(peers)})" for why, peers in names.items()
        }

    def _tell_news(self) -> None:
        """Tell what has changed, of all peers in one line; less often where it changes all the time."""
        self._telling = None
        now = self.reasons
        now.pop(_UNTRIED, None)
        if now.keys() == self._told:
            return
        time = asyncio.get_running_loop().time()
        self._delay = min(2 * self._delay, _SELDOM) if time - self._last < _SELDOM else _SOON
        self._last = time
        for new in now.keys() - self._told:
            self._tell(f"{now[new]}: trying again")
        if self._told and not now:
            self._tell("waiting there again")
        self._told = set(now)

    def _tell(self, line: str) -> None:
        # As of refusals: a terminal that is gone must not stop the service.
        with contextlib.suppress(OSError, ValueError):
            self._say(line)
