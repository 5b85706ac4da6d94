"""Parties that meet at a relay: sessions, places, what is said when they do not meet, hostile relays."""

import asyncio
import contextlib
import hashlib
import socket
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import load_der_x509_certificate
from ends import Ends, exchange, made_in, until
from meetings import (
    LOCAL,
    ONE,
    TWO,
    Text,
    ask,
    at,
    call,
    client,
    ended,
    fresh_key,
    relaying,
    waiting,
)
from recording import Proxy
from strangers import client_context, first_message

from vfl.errors import ConfigError, IdentityError, PeerUnreachable
from vfl.net import relay as relays
from vfl.net import rendezvous
from vfl.net.mark import SEAL, read_hello
from vfl.net.rendezvous import (
    ASK,
    CHALLENGE,
    DIALS,
    FALSE,
    FULL,
    GREETING,
    HERE,
    JOIN,
    OFTEN,
    REQUEST,
    SPENT,
    UNKNOWN,
    WAITING,
    WAITS,
    keys_of,
    receive,
)
from vfl.net.session import NotYet
from vfl.net.tls import Credentials
from vfl.net.websocket import dial, listen
from vfl.party import identity


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Ends:
    return made_in(tmp_path_factory.mktemp("keys"))


async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Pass on what comes until it ends."""
    with contextlib.suppress(OSError):
        while data := await source.read(65536):
            target.write(data)
    target.close()


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
            await until(lambda: here.away and there.away and lines)
            assert lines[0].startswith(f"relay://127.0.0.1:{port}: the ")
            sending = asyncio.create_task(exchange(here, there, 2))
            async with relaying(f"127.0.0.1:{port}"):
                await sending
                await exchange(here, there, 3)
                await until(lambda: not listener.troubles and lines[1:])
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


def test_a_peer_in_this_party_s_seat_keeps_it_from_nobody_else(tmp_path: Path) -> None:
    """Both have the key of their place."""
    made = {name: identity.create(tmp_path / name, name) for name in ("registry", "insurer", "bureau")}

    def credentials(name: str, *peers: str) -> Credentials:
        own, pins = made[name], {peer: made[peer].certificate.der for peer in peers}
        return Credentials(name, own.certificate_path, own.key_path, pins)

    registry, bureau = credentials("registry", "insurer", "bureau"), credentials("bureau", "registry")
    insurer = credentials("insurer", "registry")
    (key,) = keys_of(bureau, DIALS, ["registry"]).values()
    lines: list[str] = []

    async def run() -> None:
        async with relaying() as running:
            async with listen(registry, at(running), "host", lines.append) as listener:
                assert listener.trouble is None
                # The relay cannot tell by their numbers that both places are of one process.
                assert len({place.process for place in running._places.values()}) == 2
            await until(lambda: not running._places)
            seat, answer = await ask(running, key, WAITS, TWO)
            assert answer == WAITING

            async def stay() -> None:
                while await receive(seat, 1) == ASK:
                    seat.send(HERE)

            staying = asyncio.create_task(stay())
            async with listen(registry, at(running), "host", lines.append) as listener:
                trouble = "another program of this party waits there already (for bureau)"
                assert listener.trouble == f"{at(running)}: {trouble}"
                here = await dial(insurer, "registry", at(running), "guest", 20)
                await exchange(here, await listener.accept(), 1)
                await here.close()
                # A second program would have nobody to wait for.
                with pytest.raises(ConfigError, match="another program of this party waits there alr"):
                    async with listen(registry, at(running), "host", lines.append):
                        pass
            staying.cancel()
            seat.close()
            assert lines == [f"{at(running)}: {trouble}: trying again"]

    asyncio.run(run())


def test_a_relay_that_comes_and_goes_has_few_lines(ends: Ends) -> None:
    """Of all peers together, and less and less often."""
    lines: list[str] = []

    async def run() -> None:
        keys = {name: fresh_key() for name in ("insurer", "bureau")}
        waits = rendezvous.Waiting(rendezvous.Relay("127.0.0.1", 1), keys, lambda *_: None, lines.append)
        loop = asyncio.get_running_loop()
        await waits.begin(10)
        gone = "the relay cannot be reached (connection refused)"
        assert lines == [f"{gone}: trying again"]
        for work in waits._works:
            work.cancel()
        delays = []
        for _ in range(12):
            for name in keys:
                waits._note(name, "" if lines[-1].startswith(gone) else gone)
            assert waits._telling is not None
            delays.append(waits._telling.when() - loop.time())
            waits._telling.cancel()
            waits._tell_news()  # as if so long had passed
        assert lines[1:3] == ["waiting there again", f"{gone}: trying again"]
        assert len(lines) == 13
        assert delays[0] < 1 < delays[3] < delays[7] < delays[11] <= 60
        waits._last -= 60
        for name in keys:
            waits._note(name, "the relay closed the connection")
        waits._tell_news()
        assert waits._delay < 1
        await waits.close()

    asyncio.run(run())


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
        # An address that is of the other kind.
        async with relaying() as running:
            address = f"127.0.0.1:{running.port}"
            with pytest.raises(PeerUnreachable, match=f"if it is a relay, write relay://{address}$"):
                await call(ends, address, 0)

    asyncio.run(run())
    assert lines == [
        f"{lines[0].split(': ')[0]}: the relay cannot be reached (connection refused): trying again"
    ]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (GREETING + bytes(CHALLENGE) + FULL, "the relay has no place left"),
        (GREETING + bytes(CHALLENGE) + OFTEN, "asks the relay too often"),
        (GREETING + bytes(CHALLENGE) + SPENT, "the relay has carried today"),
        (GREETING + bytes(CHALLENGE) + UNKNOWN, "does not serve these two parties"),
        (GREETING + bytes(CHALLENGE) + FALSE, "refused the proof"),
        (GREETING + bytes(CHALLENGE) + b"\0", "no answer that is known"),
        (GREETING + bytes(CHALLENGE), "the relay closed the connection"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "no relay of this version"),
        (b"vfl relay 2\n", "no relay of this version"),
        (b"v", "no relay of this version, or is closing"),
        (b"", "no relay of this version, or is closing"),
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
            for unusable in (
                "socks5://127.0.0.1:1",
                "http://",
                "http://[x",
                "http://x:y",
                "http://a..b",
            ):
                monkeypatch.setenv("https_proxy", unusable)
                with pytest.raises(ConfigError, match="is it http://"):
                    await call(ends, "relay://relay.example:443", 0)
                with pytest.raises(ConfigError, match="is it http://"):
                    async with waiting(ends, "relay://relay.example:443"):
                        pass
            monkeypatch.setenv("https_proxy", "http://me:secret@127.0.0.1:1")
            with pytest.raises(PeerUnreachable, match="proxy of HTTPS_PROXY cannot be re") as caught:
                await call(ends, "relay://relay.example:443", 0)
            assert "secret" not in str(caught.value)

    asyncio.run(run())
    lines = b"CONNECT relay.example:443 HTTP/1.1\r\nHost: relay.example:443\r\n"
    assert asked[0] == lines + b"Proxy-Authorization: Basic bWU6c2UgY3JldA=="


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
                await reader.readexactly(SEAL)  # which nobody else takes for TLS
                there, back = await asyncio.open_connection("127.0.0.1", listener.port)

                await asyncio.gather(copy(reader, back), copy(there, writer))

            server = await asyncio.start_server(answer, "127.0.0.1", 0)
            async with server:
                address = f"relay://127.0.0.1:{server.sockets[0].getsockname()[1]}"
                with pytest.raises(IdentityError, match=r"one that shows another certificate .*ask who"):
                    await call(ends, address)

    asyncio.run(run())


def test_who_is_joined_with_nonsense_dials_again(ends: Ends) -> None:
    lines: list[str] = []

    async def run() -> None:
        async with relaying() as running, waiting(ends, at(running)) as listener:

            async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                if not lines:
                    writer.write(GREETING + bytes(CHALLENGE))
                    await reader.readexactly(REQUEST)
                    writer.write(JOIN)
                    await reader.read(10_000)
                    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                    await reader.read(100)  # the alert
                    writer.close()
                    return
                there, back = await asyncio.open_connection("127.0.0.1", running.port)
                await asyncio.gather(copy(reader, back), copy(there, writer))

            server = await asyncio.start_server(answer, "127.0.0.1", 0)
            async with server:
                address = f"relay://127.0.0.1:{server.sockets[0].getsockname()[1]}"
                here = await dial(ends.insurer, "registry", address, "guest", 20, lines.append)
                there = await listener.accept()
                await exchange(here, there, 1)
                await asyncio.gather(here.close(), there.close())

    asyncio.run(run())
    (line,) = lines
    assert "what the relay joined this party with does not answer as registry would (TLS: " in line


def test_a_relay_is_shown_no_certificate_and_no_mark(ends: Ends) -> None:
    """Neither of who waits, by beginning TLS itself, nor by what it takes from who dials."""
    lines: list[str] = []
    (key,) = keys_of(ends.registry, WAITS, ["insurer"]).values()
    own = first_message(client_context())

    async def run() -> None:
        sealed: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        async with relaying() as running, waiting(ends, at(running), lines):

            async def keep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                writer.write(GREETING + bytes(CHALLENGE))
                await reader.readexactly(REQUEST)
                writer.write(JOIN)
                sealed.set_result(await reader.read(10_000))
                writer.close()

            server = await asyncio.start_server(keep, "127.0.0.1", 0)
            async with server:
                port = server.sockets[0].getsockname()[1]
                with pytest.raises(PeerUnreachable, match="does not answer as registry would"):
                    await call(ends, f"relay://127.0.0.1:{port}", 0)
            said = sealed.result()
            seal, hello = said[:SEAL], said[SEAL:]
            assert read_hello(hello) == b""  # a mark tells both parties to who has their certificates
            tried = [
                own,
                bytes(SEAL) + own,
                seal + own,
                seal + hello[:-1] + bytes([hello[-1] ^ 1]),
                hello,
            ]
            for data in tried:
                caller = await client(running).dial(key, 10)
                await asyncio.get_running_loop().sock_sendall(caller, data)
                assert await ended(caller) == b""
            # As it was said it is answered, for the eyes of who dialled.
            caller = await client(running).dial(key, 10)
            await asyncio.get_running_loop().sock_sendall(caller, said)
            assert await receive(caller, 1) == b"\x16"
            caller.close()

    asyncio.run(run())
    why = {line.partition(": ")[2] for line in lines if ": it is " in line}
    assert why == {"it is not the peer that this party meets there: the relay joined it with another"}
    assert not [line for line in lines if "certificate" in line]


def test_what_a_relay_hands_on_is_a_stranger_to_the_party_that_waits(ends: Ends) -> None:
    lines: list[str] = []
    (key,) = keys_of(ends.registry, WAITS, ["insurer"]).values()

    async def run() -> None:
        async with relaying() as running, waiting(ends, at(running), lines):
            caller = await client(running).dial(key, 10)
            await asyncio.get_running_loop().sock_sendall(caller, b"GET / HTTP/1.1\r\n" * 3)
            await ended(caller)
            assert lines == [f"refused a connection from {at(running)}: it does not speak TLS 1.3"]

    asyncio.run(run())
