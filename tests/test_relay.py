"""Parties that meet at a relay: what it passes on, whom it refuses, what it knows; hostile dialers."""

import asyncio
import contextlib
import datetime
import hashlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from commands import command
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509 import load_der_x509_certificate
from ends import Ends, exchange, made_in, until
from recording import Proxy

from vfl.errors import ConfigError, IdentityError, PeerUnreachable
from vfl.jobs.relaying import limits_of
from vfl.net import relay as relays
from vfl.net import rendezvous
from vfl.net.listening import bind
from vfl.net.relay import Limits, Relay
from vfl.net.rendezvous import (
    CHALLENGE,
    DIALS,
    FALSE,
    FULL,
    GREETING,
    HERE,
    JOIN,
    NOBODY,
    PROCESS,
    READY,
    REQUEST,
    SPENT,
    TAKEN,
    UNKNOWN,
    WAITING,
    WAITS,
    Key,
    Request,
    keys_of,
    receive,
)
from vfl.net.session import NotYet, Patience
from vfl.net.tls import Credentials
from vfl.net.websocket import Listener, WebSocketPeer, dial, listen
from vfl.net.wire import Message
from vfl.party.config import load_relay

LOCAL = "127.0.0.1:0"
ONE, TWO = bytes(PROCESS), b"\1" * PROCESS


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Ends:
    return made_in(tmp_path_factory.mktemp("keys"))


class Text(Message, frozen=True):
    words: str


def fresh_key() -> Key:
    return Key(ed25519.Ed25519PrivateKey.generate())


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


# --- Two parties ---


def test_two_parties_that_dial_out_have_sessions_with_each_other(ends: Ends) -> None:
    async def run() -> None:
        async with relaying() as running, waiting(ends, at(running)) as listener:
            assert listener.troubles == {}
            assert running.counts.pairs == 0
            sessions = []
            for value in range(3):
                here = await call(ends, at(running))
                sessions.append((here, await listener.accept()))
                await exchange(*sessions[-1], value)
            assert {there.name for _, there in sessions} == {"insurer"}
            assert (running.counts.pairs, running.counts.joined) == (3, 3)
            # One breaks: it goes on over another connection.
            sessions[0][0]._link.connection.transport.abort()
            await exchange(*sessions[0], 7)
            assert running.counts.joined == 4
            await asyncio.gather(*(end.close() for pair in sessions for end in pair))
        assert (running.counts.open, running.counts.pairs) == (0, 0)
        assert running.counts.bytes > 4000
        assert running.counts.refused.total() == 0

    asyncio.run(run())


def test_who_comes_first_is_waited_for(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relays, "HOLD", 60.0)

    async def run() -> None:
        async with relaying() as running:
            calling = asyncio.create_task(call(ends, at(running)))
            await until(lambda: any(place.diallers for place in running._places.values()))
            async with waiting(ends, at(running)) as listener:
                here, there = await calling, await listener.accept()
                await exchange(here, there, 1)
                await asyncio.gather(here.close(), there.close())

    asyncio.run(run())


def test_a_place_is_known_to_two_parties_alone(ends: Ends) -> None:
    (waits,) = keys_of(ends.registry, WAITS, ["insurer"]).values()
    (dials,) = keys_of(ends.insurer, DIALS, ["registry"]).values()
    (back,) = keys_of(ends.registry, DIALS, ["insurer"]).values()
    assert waits.place == dials.place != back.place
    # Neither of them, nor what a certificate shows, is in it; another party has another secret.
    other = ends.stranger
    stranger = Credentials("stranger", other.certificate_path, other.key_path, dict(ends.insurer.pins))
    (third,) = keys_of(stranger, DIALS, ["registry"]).values()
    assert third.place not in (waits.place, back.place)


def test_a_key_under_a_passphrase_meets_as_well(ends: Ends, tmp_path: Path) -> None:
    from vfl.party import identity

    words = b"a long passphrase"
    sealed = identity.create(tmp_path / "sealed", "registry", words)
    registry = Credentials(
        "registry",
        sealed.certificate_path,
        sealed.tls_key.path,
        dict(ends.registry.pins),
        sealed.tls_key.password,
    )
    insurer = Credentials(
        "insurer", ends.insurer.certificate, ends.insurer.key, {"registry": sealed.certificate.der}
    )
    (waits,) = keys_of(registry, WAITS, ["insurer"]).values()
    (dials,) = keys_of(insurer, DIALS, ["registry"]).values()
    assert waits.place == dials.place
    with pytest.raises(IdentityError, match="holds no key that can be read"):
        keys_of(Credentials("x", sealed.certificate_path, sealed.key_path, {}, b"wrong"), WAITS, [])


def test_a_relay_that_is_killed_breaks_connections_and_no_session(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []

    async def run() -> None:
        async with relaying() as running:
            port = running.port
            context = contextlib.AsyncExitStack()
            listener = await context.enter_async_context(waiting(ends, at(running), lines))
            here = await call(ends, at(running))
            there = await listener.accept()
            await exchange(here, there, 1)
        async with context:
            await until(lambda: here.away and there.away and listener.troubles)
            assert "the connection to the relay broke" in lines[0] or "the relay closed" in lines[0]
            assert lines[0].startswith(f"relay://127.0.0.1:{port}: ")
            sending = asyncio.create_task(exchange(here, there, 2))
            async with relaying(f"127.0.0.1:{port}"):
                await sending
                await exchange(here, there, 3)
                await until(lambda: not listener.troubles)
                await asyncio.gather(here.close(), there.close())

    asyncio.run(run())
    assert lines[-1].endswith(": waiting there again")
    assert not [line for line in lines if "insurer" in line or "registry" in line]


def test_a_relay_sees_tls_and_places_and_no_names(ends: Ends) -> None:
    """Nor anything of either certificate; what the places are it cannot work out from both."""
    words = "a purpose that nobody else may read"

    async def run() -> tuple[bytes, bytes]:
        async with relaying() as running:
            with Proxy(f"127.0.0.1:{running.port}").running() as proxy:
                address = f"relay://{proxy.address}"
                async with waiting(ends, address) as listener:
                    here = await call(ends, address)
                    there = await listener.accept()
                    await here.send(Text(words))
                    assert await there.recv(Text) == Text(words)
                    here._link.connection.transport.abort()
                    await there.send(Text(words))
                    assert await here.recv(Text) == Text(words)
                    await asyncio.gather(here.close(), there.close())
                (place,) = {key.place for key in keys_of(ends.registry, WAITS, ["insurer"]).values()}
                return bytes(proxy.seen), place

    seen, place = asyncio.run(run())
    assert seen.count(GREETING) >= 4
    assert seen.count(place) == seen.count(GREETING)
    hidden = [b"insurer", b"registry", words.encode()]
    for der in (*ends.insurer.pins.values(), *ends.registry.pins.values()):
        public = load_der_x509_certificate(der).public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey)
        digest = hashlib.sha256(der)
        hidden += [der[:40], digest.digest(), digest.hexdigest().encode()]
        hidden.append(public.public_numbers().x.to_bytes(32, "big"))
    assert not [found for found in hidden if found in seen]


# --- What is said when they do not meet ---


def test_each_side_says_why_it_does_not_meet_the_other(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relays, "HOLD", 0.01)
    lines: list[str] = []

    async def run() -> None:
        async with relaying() as running:
            address = at(running)
            with pytest.raises(
                PeerUnreachable, match="nobody waits for this party at the rel"
            ) as silent:
                await call(ends, address, 0)
            assert silent.value.nobody_listens
            assert f"cannot reach registry at {address}: " in str(silent.value)
        gone = "the relay cannot be reached .connection refused."
        with pytest.raises(PeerUnreachable, match=gone) as unreachable:
            await call(ends, address, 0)
        assert not unreachable.value.nobody_listens
        async with waiting(ends, address, lines) as listener:
            assert listener.troubles == {"insurer": "the relay cannot be reached (connection refused)"}
        with pytest.raises(ConfigError, match="is no address"):
            await call(ends, "relay://nobody", 0)

    asyncio.run(run())
    assert lines == [
        f"{lines[0].split(': ')[0]}: the relay cannot be reached (connection refused): trying again"
    ]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (GREETING + bytes(CHALLENGE) + FULL, "the relay has no place left"),
        (GREETING + bytes(CHALLENGE) + SPENT, "the relay has carried today"),
        (GREETING + bytes(CHALLENGE) + UNKNOWN, "does not serve these two parties"),
        (GREETING + bytes(CHALLENGE) + FALSE, "refused the proof"),
        (GREETING + bytes(CHALLENGE) + b"\0", "no answer that is known"),
        (GREETING + bytes(CHALLENGE), "the relay closed the connection"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "no relay of this version"),
        (b"vfl relay 2\n", "no relay of this version"),
        (b"v", "the relay closed the connection"),
        (b"", "the relay closed the connection"),
    ],
)
def test_whatever_a_relay_answers_is_a_line_at_both_sides(said: bytes, why: str) -> None:
    async def run() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(said)
            await writer.drain()
            writer.write_eof()
            await reader.read()
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            there = rendezvous.Relay("127.0.0.1", server.sockets[0].getsockname()[1])
            for asking in (
                there.dial(fresh_key(), 10),
                there.wait(fresh_key(), ONE, lambda: None, 10),
            ):
                with pytest.raises(NotYet, match=why):
                    await asking

    asyncio.run(run())


def test_a_relay_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "_LEAST", 0.0)

    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            there = rendezvous.Relay("127.0.0.1", silent.getsockname()[1])
            for asking in (
                there.dial(fresh_key(), 0.05),
                there.wait(fresh_key(), ONE, lambda: None, 0.05),
            ):
                with pytest.raises(NotYet, match="no answer in time"):
                    await asking

    asyncio.run(run())


def test_a_relay_that_falls_silent_is_dialled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked now and then, one that waits stays; where nothing is heard it does not."""
    monkeypatch.setattr(relays, "ASKS", 0.02)
    monkeypatch.setattr(rendezvous, "SILENT", 5.0)

    async def run() -> None:
        async with relaying() as running:
            heard = asyncio.Event()
            waits = asyncio.create_task(client(running).wait(fresh_key(), ONE, heard.set, 10))
            await heard.wait()
            (place,) = running._places.values()
            (waiter,) = place.waiters
            await until(waiter._heard.is_set)
            monkeypatch.setattr(relays, "ASKS", 60.0)
            monkeypatch.setattr(rendezvous, "SILENT", 0.05)
            with pytest.raises(NotYet, match=r"broke .timed out"):
                await waits

    asyncio.run(run())


def test_a_relay_that_asks_without_end_is_given_up() -> None:
    async def run() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(GREETING + bytes(CHALLENGE) + WAITING + b"?" * 10_000)
            await reader.read()
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            there = rendezvous.Relay("127.0.0.1", server.sockets[0].getsockname()[1])
            with pytest.raises(NotYet, match="asks without end"):
                await there.wait(fresh_key(), ONE, lambda: None, 10)

    asyncio.run(run())


def test_the_first_address_of_a_relay_that_answers_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "NEXT_ADDRESS", 0.02)
    connect_to = rendezvous._connect_to
    tried: list[str] = []

    async def connect(family: int, where: tuple[str, int]) -> socket.socket:
        tried.append(where[0])
        if where[0] == "192.0.2.1":
            await asyncio.Event().wait()
        if where[0] == "192.0.2.2":
            raise ConnectionRefusedError
        return await connect_to(family, where)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(rendezvous, "_connect_to", connect)
        async with relaying() as running:
            addresses = ["192.0.2.1", "192.0.2.2", "127.0.0.1", "192.0.2.3"]

            async def resolve(*_: object, **__: object) -> list[tuple[object, ...]]:
                return [(socket.AF_INET, 0, 0, "", (address, running.port)) for address in addresses]

            monkeypatch.setattr(loop, "getaddrinfo", resolve)
            (await rendezvous._connect("relay.example", running.port, "the relay")).close()
            assert tried == addresses[:3]
            del addresses[2:]
            del addresses[0]
            with pytest.raises(NotYet, match=r"the relay cannot be reached .connection refused"):
                await rendezvous._connect("relay.example", running.port, "the relay")

    asyncio.run(run())


def test_a_proxy_is_on_the_way_to_a_relay(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []

    async def run() -> None:
        async with relaying() as running:

            async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                asked.append((await reader.readuntil(b"\r\n\r\n")).strip())
                if b"forbidden" in asked[-1]:
                    writer.write(b"HTTP/1.1 403 Forbidden\r\n\r\n")
                    writer.close()
                    return
                there, back = await asyncio.open_connection("127.0.0.1", running.port)
                # What the relay says first comes with the proxy's own answer.
                writer.write(b"HTTP/1.1 200 OK\r\nVia: x\r\n\r\n" + await there.read(1000))

                async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
                    with contextlib.suppress(OSError):
                        while data := await source.read(65536):
                            target.write(data)
                    target.close()

                await asyncio.gather(copy(reader, back), copy(there, writer))

            proxy = await asyncio.start_server(forward, "127.0.0.1", 0)
            port = proxy.sockets[0].getsockname()[1]
            monkeypatch.setenv("https_proxy", f"http://me:se%20cret@127.0.0.1:{port}")
            for name in ("no_proxy", "NO_PROXY"):
                monkeypatch.delenv(name, raising=False)
            async with proxy, waiting(ends, "relay://relay.example:443") as listener:
                assert listener.troubles == {}
                here = await call(ends, "relay://relay.example:443")
                there = await listener.accept()
                await exchange(here, there, 1)
                await asyncio.gather(here.close(), there.close())
                with pytest.raises(PeerUnreachable, match="the proxy of HTTPS_PROXY answered 403"):
                    await call(ends, "relay://forbidden.example:443", 0)
            monkeypatch.setenv("https_proxy", "socks5://127.0.0.1:1")
            with pytest.raises(ConfigError, match="is it http://"):
                await call(ends, "relay://relay.example:443", 0)
            monkeypatch.setenv("https_proxy", "http://me:secret@127.0.0.1:1")
            with pytest.raises(PeerUnreachable, match="proxy of HTTPS_PROXY cannot be re") as caught:
                await call(ends, "relay://relay.example:443", 0)
            assert "secret" not in str(caught.value)

    asyncio.run(run())
    lines = b"CONNECT relay.example:443 HTTP/1.1\r\nHost: relay.example:443\r\n"
    assert asked[0] == lines + b"Proxy-Authorization: Basic bWU6c2UgY3JldA=="


# --- Who may take which place ---


def test_who_cannot_sign_for_a_place_does_not_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relays, "HOLD", 0.01)

    async def run() -> None:
        async with relaying() as running:
            key, stranger = fresh_key(), fresh_key()
            other, greeting = await say(running.port, at_least=len(GREETING) + CHALLENGE)
            challenge = greeting[len(GREETING) :]
            right = Request.made_of(key.request(challenge, WAITS, ONE))
            theirs = Request.made_of(stranger.request(challenge, WAITS, ONE))
            forged = [
                right.encoded,  # of another challenge, replayed
                Request(WAITS, key.place, ONE, theirs.signature).encoded,
                Request(DIALS, key.place, ONE, right.signature).encoded,
                Request(WAITS, key.place, TWO, right.signature).encoded,
                Request(b"?", key.place, ONE, right.signature).encoded,
                os.urandom(REQUEST),
            ]
            for request in forged:
                caller, _ = await say(running.port, request, len(GREETING) + CHALLENGE)
                assert await ended(caller) == FALSE
            other.close()
            assert running._places == {}
            assert running.counts.refused == {"no proof": len(forged)}
            # What is signed for one seat, process and challenge serves there.
            caller, answer = await ask(running, key, WAITS)
            assert answer == WAITING
            caller.close()

    asyncio.run(run())


def test_there_is_no_place_for_which_anybody_can_sign() -> None:
    """A key of small order, for which a signature may hold that needs no private key."""
    p = 2**255 - 19
    d = -121665 * pow(121666, -1, p) % p

    def double(x: int, y: int) -> tuple[int, int]:
        product = d * x * x * y * y % p
        return (
            2 * x * y * pow(1 + product, -1, p) % p,
            (y * y + x * x) * pow(1 - product, -1, p) % p,
        )

    def root(square: int) -> int:
        found = pow(square, (p + 3) // 8, p)
        return found if found * found % p == square else found * pow(2, (p - 1) // 4, p) % p

    for weak in rendezvous._WEAK:
        y = int.from_bytes(weak, "little") % p
        x = root((y * y - 1) * pow(d * y * y + 1, -1, p) % p)
        point = (x, y)
        for _ in range(3):
            point = double(*point)
        assert point == (0, 1), weak.hex()
        for sign in (0, 0x80):
            place = weak[:-1] + bytes([weak[-1] | sign])
            for challenge in range(64):
                for first in (place, *rendezvous._WEAK):
                    request = Request(WAITS, place, ONE, first + bytes(32))
                    assert not request.is_proven(challenge.to_bytes(CHALLENGE, "big"))


def test_one_process_waits_at_a_place_until_it_is_gone(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relays, "ANSWER", 0.1)

    async def run() -> None:
        async with relaying() as running:
            async with waiting(ends, at(running)):
                with pytest.raises(ConfigError, match="another program of this party waits there alr"):
                    async with waiting(ends, at(running)):
                        pass
            key = fresh_key()
            dead, answer = await ask(running, key, WAITS, ONE)  # never answers
            assert answer == WAITING
            alive, answer = await ask(running, key, WAITS, TWO)
            assert answer == WAITING
            assert await ended(dead) == b"?"
            taken = asyncio.create_task(ask(running, key, WAITS, ONE))
            assert await receive(alive, 1) == b"?"
            alive.send(HERE)
            caller, answer = await taken
            assert answer == TAKEN
            assert await ended(caller) == b""
            alive.close()

    asyncio.run(run())


def test_the_newest_connection_of_those_that_wait_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relays, "ANSWER", 0.1)

    async def run() -> None:
        async with relaying() as running:
            key = fresh_key()
            first, second, third = [(await ask(running, key, WAITS))[0] for _ in range(3)]
            assert await ended(first) == b""  # two may wait
            dials = asyncio.create_task(client(running).dial(key, 10))
            assert await ended(third) == JOIN  # which has not said that it is ready
            assert await receive(second, 1) == JOIN
            second.send(READY + b"raw")
            caller = await dials
            assert await receive(caller, 3) == b"raw"
            caller.close()
            assert await ended(second) == b""

    asyncio.run(run())


def test_an_operator_may_list_places(ends: Ends) -> None:
    (key,) = keys_of(ends.registry, WAITS, ["insurer"]).values()

    async def run() -> None:
        async with relaying(places=frozenset([key.place])) as running:
            async with waiting(ends, at(running)) as listener:
                assert listener.troubles == {}
            caller, answer = await ask(running, fresh_key(), DIALS)
            assert answer == UNKNOWN
            caller.close()
        async with (
            relaying(places=frozenset([bytes(32)])) as running,
            waiting(ends, at(running)) as listener,
        ):
            assert "its operator has to add the place" in listener.troubles["insurer"]

    asyncio.run(run())


# --- Bounds ---


def test_connections_that_prove_nothing_end_soon_and_give_way_before(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relays, "AN_ADDRESS", 6)

    async def run() -> None:
        async with (
            relaying(an_address=4, handshake=0.3) as running,
            waiting(ends, at(running)) as listener,
        ):
            silent = [await say(running.port) for _ in range(20)]
            slow = [await say(running.port, bytes(REQUEST - 1)) for _ in range(20)]
            gone = [await say(running.port, b"?") for _ in range(4)]
            for caller, _ in gone:
                caller.shutdown(socket.SHUT_WR)
            here = await call(ends, at(running))  # they gave way to the peer
            there = await listener.accept()
            await exchange(here, there, 1)
            refused = running.counts.refused
            assert refused["gave way to newer ones"] >= 36
            for caller, _ in (*silent, *slow, *gone):
                await ended(caller)
            await until(lambda: not running._strangers)
            assert set(refused) <= {
                "gave way to newer ones",
                "gone before the request",
                "no request in time",
            }
            assert refused.total() == 44
            assert running.counts.open == 3  # the pair, and who waits for the next
            await exchange(here, there, 2)
            await asyncio.gather(here.close(), there.close())

    asyncio.run(run())


def test_strangers_of_many_addresses_give_way_where_most_are() -> None:
    async def run() -> None:
        async with relaying() as running:
            running.strangers = 6
            pairs = []
            for network in ("a", "b", "b", "b", "c", "a", "d"):
                one, other = socket.socketpair()
                one.setblocking(False)
                running._take(one, network)
                pairs.append(other)
            assert running._crowd == {"a": 2, "b": 2, "c": 1, "d": 1}
            await until(lambda: len(running._tasks) == 6)
            assert [pair.recv(1) for pair in pairs] == [b"v", b"", *[b"v"] * 5]
            for pair in pairs:
                pair.close()

    asyncio.run(run())


def test_those_who_have_proven_their_place_stay_and_are_bounded() -> None:
    async def run() -> None:
        async with relaying(connections=6, an_address=6, a_place=3) as running:
            key = fresh_key()
            kept = [await joined(running, key)]
            waiter, answer = await ask(running, key, WAITS)
            assert answer == WAITING
            caller, answer = await ask(running, key, DIALS)
            assert answer == FULL  # the place
            assert await ended(caller) == b""
            kept.append(await joined(running))
            kept.append((waiter, (await ask(running, fresh_key(), WAITS))[0]))
            caller, answer = await ask(running, fresh_key(), WAITS)
            assert answer == FULL
            assert await ended(caller) == b""
            assert running.counts.refused == {"no place left": 2}
            assert running.counts.open == 6
            for pair in kept:
                for end in pair:
                    end.close()
            await until(lambda: not (running._places or running._admitted or running.counts.open))
        async with relaying(an_address=1) as running:
            (await ask(running, fresh_key(), WAITS))[0].close()
            await until(lambda: not running._admitted)
            waiter, answer = await ask(running, fresh_key(), WAITS)
            assert answer == WAITING
            caller, answer = await ask(running, fresh_key(), WAITS)
            assert answer == FULL
            caller.close()
            waiter.close()

    asyncio.run(run())


def test_an_address_asks_so_often_alone_where_places_are_not_listed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(relays, "AT_ONCE", 3)
    monkeypatch.setattr(relays, "A_SECOND", 0.001)
    monkeypatch.setattr(relays, "_PACES", 2)
    monkeypatch.setattr(relays, "HOLD", 0.0)
    key = fresh_key()

    async def run() -> None:
        for places, last in ((None, FULL), (frozenset([key.place]), NOBODY)):
            async with relaying(places=places) as running:
                answers = []
                for _ in range(5):
                    caller, answer = await ask(running, key, DIALS)
                    answers.append(answer)
                    caller.close()
                assert answers == [NOBODY] * 3 + [last] * 2
        # What is remembered of addresses is bounded.
        for i in range(10):
            assert running._is_paced(f"192.0.2.{i}")
        assert len(running._paces) == 2

    asyncio.run(run())


def test_bytes_pass_unchanged_and_no_more_than_a_buffer_waits() -> None:
    data = os.urandom(3_000_000)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        async with relaying() as running:
            one, other = await joined(running)
            other.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            sending = asyncio.create_task(loop.sock_sendall(one, data * 8))
            before = -1
            while before != running.counts.bytes:  # nobody reads: it comes to a halt
                before = running.counts.bytes
                await asyncio.sleep(0.05)
            assert not sending.done()
            # The other direction passes meanwhile.
            await loop.sock_sendall(other, b"back")
            assert await receive(one, 4) == b"back"
            got = bytearray()
            while len(got) < 8 * len(data):
                got += await loop.sock_recv(other, 1 << 18)
            assert got == data * 8
            await sending
            for end in (one, other):
                end.close()
        assert running.counts.bytes == 8 * len(data) + 4

    asyncio.run(run())


def test_an_end_that_closes_is_followed_by_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relays, "LINGER", 0.1)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        async with relaying() as running:
            one, other = await joined(running)
            await loop.sock_sendall(one, b"last")
            one.shutdown(socket.SHUT_WR)
            assert await receive(other, 4) == b"last"
            assert await loop.sock_recv(other, 1) == b""
            await loop.sock_sendall(other, b"answer")
            assert await receive(one, 6) == b"answer"
            assert await loop.sock_recv(one, 1) == b""  # it does not hold its half open for ever
            await until(lambda: not running._tasks)
            one.close()
            other.close()
            # A reset is passed on as an end, at once.
            monkeypatch.setattr(relays, "LINGER", 60.0)
            one, other = await joined(running)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            one.close()
            assert await ended(other) == b""
            await until(lambda: not running._tasks)

    asyncio.run(run())


def test_two_between_whom_nothing_moves_are_parted() -> None:
    async def run() -> None:
        async with relaying(idle=0.1) as running:
            one, other = await joined(running)
            assert await ended(one) == await ended(other) == b""
            await until(lambda: not running._tasks)

    asyncio.run(run())


def test_bytes_are_bounded_by_the_day_and_by_the_second() -> None:
    today = datetime.date(2027, 1, 1)

    async def run() -> None:
        nonlocal today
        loop = asyncio.get_running_loop()
        running = Relay(await bind(LOCAL), Limits(bytes_a_day=10), lambda: today)
        one, other = await joined(running)
        await loop.sock_sendall(one, bytes(10))
        assert await receive(other, 10) == bytes(10)
        await loop.sock_sendall(one, b"x")
        assert await ended(other) == await ended(one) == b""
        caller, answer = await ask(running, fresh_key(), DIALS)
        assert answer == SPENT
        caller.close()
        today += datetime.timedelta(days=1)
        for end in await joined(running):
            end.close()
        await running.close()

    asyncio.run(run())
    moved = relays._Moved(5.0, 100)
    assert moved.note(50, 10.0) == 0.5
    assert moved.note(50, 10.25) == 0.75  # what the other direction has used counts
    assert moved.note(100, 20.0) == 1.0
    assert relays._Moved(5.0).note(10**9, 10.0) == 0.0


# --- Hostile relays ---


def test_a_relay_that_joins_a_party_with_a_stranger_is_found_out(ends: Ends) -> None:
    """It can deny its service; it cannot put anybody in a peer's place."""
    lines: list[str] = []
    made = ends.stranger
    stranger = Credentials("stranger", made.certificate_path, made.key_path, dict(ends.registry.pins))

    async def run() -> None:
        async with listen(stranger, LOCAL, "host", lines.append) as listener:

            async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                writer.write(GREETING + bytes(CHALLENGE))
                await reader.readexactly(REQUEST)
                writer.write(JOIN)
                there, back = await asyncio.open_connection("127.0.0.1", listener.port)

                async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
                    with contextlib.suppress(OSError):
                        while data := await source.read(65536):
                            target.write(data)
                    target.close()

                await asyncio.gather(copy(reader, back), copy(there, writer))

            server = await asyncio.start_server(answer, "127.0.0.1", 0)
            async with server:
                address = f"relay://127.0.0.1:{server.sockets[0].getsockname()[1]}"
                with pytest.raises(IdentityError, match="shows another certificate"):
                    await call(ends, address)

    asyncio.run(run())


def test_what_a_relay_hands_on_is_a_stranger_to_the_party_that_waits(ends: Ends) -> None:
    lines: list[str] = []
    (key,) = keys_of(ends.registry, WAITS, ["insurer"]).values()

    async def run() -> None:
        async with relaying() as running, waiting(ends, at(running), lines):
            caller = await client(running).dial(key, 10)
            await asyncio.get_running_loop().sock_sendall(caller, b"GET / HTTP/1.1\r\n\r\n")
            await ended(caller)
            assert lines == [f"refused a connection from {at(running)}: it does not speak TLS 1.3"]

    asyncio.run(run())


def test_the_line_of_counts_has_numbers_alone() -> None:
    counts = relays.Counts(3, 1, 1200, 40, 5_000_000)
    assert counts.line == (
        "open: 3 connections, 1 pair; since the start: 1,200 connections, 40 pairs, 5,000,000 bytes; "
        "refused: 0"
    )
    counts.refused.update({"no proof": 2, "nobody waited": 5})
    assert counts.line.endswith("; refused: 7 (nobody waited: 5, no proof: 2)")


# --- The file and the command ---


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "section [relay] is missing"),
        ('[party]\nname = "x"', "is a party file, where a relay file is due"),
        ('[relay]\nlisten = "x"', "[relay] listen must be host:port with a port from 0"),
        ('[relay]\nlisten = "relay://x:1"', "[relay] listen must be host:port with a port from 0"),
        ('[relay]\nlisten = "x:1"\nport = 1', "unknown key 'port' in [relay]"),
        ('[relay]\nlisten = "x:1"\nplaces = ["ab"]', "[relay] places must be a list of 64 hexadecimal"),
        ('[relay]\nlisten = "x:1"\nplaces = []', "[relay] places must be a list of 64 hexadecimal"),
        ('[relay]\nlisten = "x:1"\nidle = 1', "[relay] idle must be a number from 10 to 86400"),
        ('[relay]\nlisten = "x:1"\nbytes_a_day = 0', "bytes_a_day must be a whole number of at least 1"),
        ('[relay]\nlisten = "192.0.2.1:1"', "cannot listen on 192.0.2.1:1: cannot assign"),
    ],
)
def test_a_relay_s_file_is_checked(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "relay.toml"
    file.write_text(text)
    command("relay", str(file)).failed(2, said)


def test_a_relay_s_file_says_what_strangers_may_have(tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    file.write_text('[relay]\nlisten = "0.0.0.0:7443"')
    settings = load_relay(file).relay
    assert limits_of(settings) == Limits()
    file.write_text(
        f'[relay]\nlisten = "[::]:7443"\nplaces = ["{"ab" * 32}"]\nconnections = 10\nidle = 60\n'
        "connections_an_address = 4\nconnections_a_place = 6\nhandshake = 2\n"
        "bytes_a_second = 1000\nbytes_a_day = 5000\nreport = 0\n"
    )
    changed = limits_of(load_relay(file).relay)
    assert changed == Limits(10, 4, 6, 2.0, 60.0, 1000, 5000, frozenset([b"\xab" * 32]))
