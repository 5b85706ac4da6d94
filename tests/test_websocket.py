"""Real sockets, real certificates, on 127.0.0.1."""

import asyncio
import contextlib
import logging
import math
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import pytest

from vfl.errors import (
    ConfigError,
    DataError,
    IdentityError,
    PeerError,
    PeerLost,
    PeerStopped,
    PeerUnreachable,
)
from vfl.net import hello, websocket
from vfl.net.hello import OtherProtocol
from vfl.net.peer import stop_all, together
from vfl.net.websocket import Credentials, Listener, WebSocketPeer, dial, listen
from vfl.net.wire import MAX_MESSAGE, MIB, Message
from vfl.party import identity

LOCAL = "127.0.0.1:0"


class Block(Message, frozen=True):
    limit: ClassVar[int] = MAX_MESSAGE
    data: bytes


class Number(Message, frozen=True):
    value: int


class Parties:
    """Identities of several parties, and who pins whom."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made = {
            name: identity.create(folder / name, name)
            for name in ("insurer", "registry", "bank", "stranger")
        }

    def credentials(self, name: str, *peers: str, **named: str) -> Credentials:
        own = self.made[name]
        pins = {peer: self.made[peer].certificate.der for peer in peers}
        pins |= {peer: self.made[shown].certificate.der for peer, shown in named.items()}
        return Credentials(name, own.certificate_path, own.key_path, pins)


@pytest.fixture(scope="module")
def parties(tmp_path_factory) -> Parties:
    return Parties(tmp_path_factory.mktemp("keys"))


@pytest.fixture(autouse=True)
def no_noise(capfd, caplog):
    """Nothing that a test does may print, log or leave an exception unseen."""
    caplog.set_level(logging.WARNING)
    yield
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")
    assert [record.getMessage() for record in caplog.records] == []


@contextlib.asynccontextmanager
async def registry(parties: Parties, *peers: str, refused: list[str] | None = None):
    """The registry, listening."""
    lines = refused if refused is not None else []
    own = parties.credentials("registry", *(peers or ("insurer",)))
    async with listen(own, LOCAL, "host", lines.append) as listener:
        yield listener


async def dial_registry(
    parties: Parties, listener: Listener, name: str = "insurer", wait: float = 0
) -> WebSocketPeer:
    own = parties.credentials(name, "registry")
    return await dial(own, "registry", f"127.0.0.1:{listener.port}", "guest", wait)


@contextlib.asynccontextmanager
async def session(parties: Parties):
    """(what the insurer holds of the registry, what the registry holds of the insurer)."""
    async with registry(parties) as listener:
        here = await dial_registry(parties, listener)
        there = await listener.accept()
        try:
            yield here, there
        finally:
            await asyncio.gather(here.close(), there.close())


async def until(true, seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.01)


def test_a_session_is_greeted_named_by_its_pin_and_carries_messages(parties: Parties) -> None:
    async def run() -> None:
        async with session(parties) as (here, there):
            assert (here.name, there.name) == ("registry", "insurer")
            assert (here.hello.role, there.hello.role) == ("host", "guest")
            assert here._session == there._session != bytes(16)
            tls = here._connection.transport.get_extra_info("ssl_object")
            assert tls.version() == "TLSv1.3"
            await here.send(Number(1))
            assert await there.recv(Number) == Number(1)
            await there.send(Number(2))
            assert await here.recv(Number) == Number(2)

    asyncio.run(run())


def test_big_messages_cross_each_other_even_when_both_send_first(parties: Parties) -> None:
    block = Block(os.urandom(20 * MIB))

    async def send_then_receive(peer: WebSocketPeer) -> None:
        await peer.send(block)
        assert await peer.recv(Block) == block

    async def run() -> None:
        async with session(parties) as ends, asyncio.timeout(20):
            await asyncio.gather(*(send_then_receive(end) for end in ends))

    asyncio.run(run())


def test_the_largest_message_passes_and_a_larger_frame_is_a_breach(parties: Parties) -> None:
    async def run() -> None:
        async with session(parties) as (here, there):
            largest = Block(bytes(MAX_MESSAGE - 100))
            await here.send(largest)
            assert len((await there.recv(Block)).data) == len(largest.data)
            with contextlib.suppress(PeerLost):
                await here._put(bytes(websocket.MAX_FRAME + 1))
            with pytest.raises(PeerError, match=r"insurer .* frame larger than any message"):
                await there.recv(Block)

    asyncio.run(run())


def test_a_slow_reader_holds_the_sender_back(parties: Parties, monkeypatch) -> None:
    monkeypatch.setattr(websocket, "WINDOW", 4 * MIB)
    monkeypatch.setattr(websocket, "BEAT", 0.05)
    sent = 0

    async def run() -> None:
        nonlocal sent
        async with session(parties) as (here, there):

            async def pour() -> None:
                nonlocal sent
                for _ in range(40):
                    await here.send(Block(bytes(MIB // 2)))
                    sent += 1

            pouring = asyncio.create_task(pour())
            await until(lambda: sent >= 7)
            await asyncio.sleep(0.7)  # many times the silence that would end the session
            assert sent == 7
            assert there._held <= 4 * MIB
            assert here._connection.transport.get_write_buffer_size() == 0
            for _ in range(40):
                await there.recv(Block)
                assert there._held <= 4 * MIB
            await pouring
            assert not here.lost and not there.lost

    asyncio.run(run())


def test_a_peer_that_sends_more_than_it_may_is_refused(parties: Parties, monkeypatch) -> None:
    async def run() -> None:
        async with session(parties) as (here, there):
            monkeypatch.setattr(websocket, "WINDOW", MIB)
            await here._connection.send(bytes(MIB))
            with pytest.raises(PeerError, match="more than it was allowed"):
                await there.recv(Block)
            with pytest.raises(PeerLost):
                await here.recv(Block)

    asyncio.run(run())


@pytest.mark.parametrize("report", ["99999999", "-1", "x", "", "9" * 5000, "١"])
def test_a_flow_report_that_cannot_be_is_refused(parties: Parties, report: str) -> None:
    async def run() -> None:
        async with session(parties) as (here, there):
            await here._connection.send(report)
            with pytest.raises(PeerError, match="flow report"):
                await there.recv(Number)

    asyncio.run(run())


def test_a_cancelled_send_leaves_no_gap(parties: Parties, monkeypatch) -> None:
    monkeypatch.setattr(websocket, "WINDOW", 2 * MIB)

    async def run() -> None:
        async with session(parties) as (here, there):
            await here.send(Block(bytes(MIB)))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await here.send(Block(bytes(MIB)))
            last = asyncio.create_task(here.send(Number(3)))
            assert len((await there.recv(Block)).data) == MIB
            assert len((await there.recv(Block)).data) == MIB
            assert await there.recv(Number) == Number(3)
            await last

    asyncio.run(run())


def test_closing_delivers_what_was_sent_and_is_seen_at_once(parties: Parties) -> None:
    async def run() -> None:
        async with session(parties) as (here, there):
            waiting = asyncio.create_task(here.recv(Number))
            await there.send(Number(1))
            assert await waiting == Number(1)
            waiting = asyncio.create_task(here.recv(Number))
            await here.send(Block(bytes(20 * MIB)))
            await here.send(Number(2))
            start = time.monotonic()
            await here.close()
            with pytest.raises(PeerLost, match="this party closed"):
                await waiting
            with pytest.raises(PeerLost, match="this party closed"):
                await here.send(Number(3))
            assert len((await there.recv(Block)).data) == 20 * MIB
            assert await there.recv(Number) == Number(2)
            for _ in range(2):
                with pytest.raises(PeerLost, match=r"^insurer closed the connection$"):
                    await there.recv(Number)
            with pytest.raises(PeerLost):
                await there.send(Number(4))
            assert time.monotonic() - start < 2

    asyncio.run(run())


def test_a_silent_peer_is_lost_and_a_busy_one_is_not(parties: Parties, monkeypatch) -> None:
    monkeypatch.setattr(websocket, "BEAT", 0.05)

    async def run() -> None:
        async with session(parties) as (here, there):
            await asyncio.sleep(0.8)
            assert not here.lost
            there._tasks[1].cancel()  # it says nothing more, as a machine without power
            with pytest.raises(PeerLost, match=r"registry broke .nothing heard"):
                await here.recv(Number)

    asyncio.run(run())


def test_closing_towards_a_dead_machine_takes_no_longer_than_it_may(
    parties: Parties, monkeypatch
) -> None:
    monkeypatch.setattr(websocket, "CLOSE", 0.3)

    async def run() -> None:
        async with session(parties) as (here, there):
            there._connection.transport.pause_reading()
            tcp = there._connection.transport.get_extra_info("socket")
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)  # nor does its kernel
            sending = asyncio.create_task(here.send(Block(bytes(20 * MIB))))
            await asyncio.sleep(0.2)
            assert not sending.done()
            start = time.monotonic()
            await here.close()
            assert time.monotonic() - start < 2
            with pytest.raises(PeerLost, match="this party closed"):
                await sending

    asyncio.run(run())


def test_stop_reaches_a_peer_whose_message_was_cut_off_by_a_failure(parties: Parties) -> None:
    async def run() -> None:
        async with session(parties) as (here, there):

            async def fails() -> None:
                await asyncio.sleep(0)
                raise DataError("row 7")

            with pytest.raises(DataError) as caught:
                await together([here.send(Block(bytes(20 * MIB))), fails()])
            telling = asyncio.create_task(stop_all([here], caught.value))
            assert len((await there.recv(Block)).data) == 20 * MIB
            with pytest.raises(PeerStopped, match="insurer stopped the job: a problem in its own"):
                await there.recv(Block)
            await telling

    asyncio.run(run())


def test_a_stalled_event_loop_does_not_blame_the_peer(parties: Parties, monkeypatch) -> None:
    monkeypatch.setattr(websocket, "BEAT", 0.05)

    async def run() -> None:
        async with session(parties) as (here, there):
            time.sleep(0.6)  # arithmetic that holds the interpreter
            await asyncio.sleep(0.2)
            assert not here.lost and not there.lost

    asyncio.run(run())


def test_two_peers_at_once(parties: Parties) -> None:
    async def run() -> None:
        async with registry(parties, "insurer", "bank") as listener:
            insurer, bank = await asyncio.gather(
                dial_registry(parties, listener), dial_registry(parties, listener, "bank")
            )
            got = {peer.name: peer for peer in (await listener.accept(), await listener.accept())}
            await asyncio.gather(insurer.send(Number(1)), bank.send(Number(2)))
            assert await got["insurer"].recv(Number) == Number(1)
            assert await got["bank"].recv(Number) == Number(2)
            await asyncio.gather(*(p.close() for p in (insurer, bank, *got.values())))

    asyncio.run(run())


def test_leaving_the_block_ends_the_waiting_but_not_the_accepted(parties: Parties) -> None:
    async def run() -> None:
        async with registry(parties) as listener:
            first = await dial_registry(parties, listener)
            accepted = await listener.accept()
            second = await dial_registry(parties, listener)
        with pytest.raises(PeerLost):
            await second.recv(Number)
        await first.send(Number(1))
        assert await accepted.recv(Number) == Number(1)
        await asyncio.gather(first.close(), accepted.close(), second.close())

    asyncio.run(run())


CHILD = """
import asyncio, sys
from pathlib import Path
from vfl.net.websocket import Credentials, listen
from vfl.net.wire import MAX_MESSAGE, Message
from vfl.party import identity

class Block(Message, frozen=True):
    limit = MAX_MESSAGE
    data: bytes

async def main(folder):
    pin = identity.load_certificate(folder / "insurer.pem").der
    own = Credentials("registry", folder / "registry.pem", folder / "registry.key", {"insurer": pin})
    async with listen(own, "127.0.0.1:0", "host", print) as listener:
        print(listener.port, flush=True)
        peer = await listener.accept()
        while True:
            await peer.send(await peer.recv(Block))

asyncio.run(main(Path(sys.argv[1])))
"""


@pytest.mark.parametrize("busy", [False, True], ids=["waiting", "sending"])
def test_a_killed_peer_is_lost_within_seconds(parties: Parties, busy: bool) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(parties.folder)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None

    async def run() -> None:
        own = parties.credentials("insurer", "registry")
        port = int(await asyncio.to_thread(child.stdout.readline))
        peer = await dial(own, "registry", f"127.0.0.1:{port}", "guest", 5)
        await peer.send(Block(b"alive"))
        assert (await peer.recv(Block)).data == b"alive"

        async def pour() -> None:
            while True:
                await peer.send(Block(bytes(MIB)))

        work = asyncio.create_task(pour() if busy else peer.recv(Block))
        await asyncio.sleep(0.2)
        child.send_signal(signal.SIGKILL)
        start = time.monotonic()
        with pytest.raises(PeerLost, match=r"^the connection to registry broke \(.*\)$"):
            await work
        assert time.monotonic() - start < 5
        await peer.close()

    try:
        asyncio.run(run())
    finally:
        child.kill()
        child.communicate()


def test_a_party_that_is_not_pinned_is_told_so(parties: Parties) -> None:
    refused: list[str] = []

    async def run() -> None:
        async with registry(parties, refused=refused) as listener:
            for _ in range(5):
                with pytest.raises(IdentityError) as caught:
                    await dial_registry(parties, listener, "stranger", wait=math.inf)
                own = parties.made["stranger"].certificate.fingerprint_groups[:19]
                assert "registry refused this party's certificate" in str(caught.value)
                assert own in str(caught.value)
            await until(lambda: len(refused) == 5)
            assert listener._ready.empty()

    asyncio.run(run())
    assert set(refused) == {"refused a connection from 127.0.0.1: its certificate is not pinned here"}


@pytest.mark.parametrize("shows", ["stranger", None])
def test_an_unpinned_client_gets_an_alert_and_nothing_else(parties: Parties, shows) -> None:
    refused: list[str] = []

    def talk(port: int) -> tuple[bytes, ssl.SSLError, bytes]:
        """(plaintext received, how it ended, records after the handshake)."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if shows:
            made = parties.made[shows]
            context.load_cert_chain(made.certificate_path, made.key_path)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing)
        with socket.create_connection(("127.0.0.1", port), timeout=5) as raw:
            while True:
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    raw.sendall(outgoing.read())
                    incoming.write(raw.recv(65536))
            raw.sendall(outgoing.read())
            after = b""
            with contextlib.suppress(ConnectionResetError):
                raw.shutdown(socket.SHUT_WR)
                while data := raw.recv(65536):
                    after += data
            incoming.write(after)
            incoming.write_eof()
            try:
                return tls.read(65536), ssl.SSLError(), after
            except ssl.SSLError as error:
                return b"", error, after

    async def run() -> tuple[bytes, ssl.SSLError, bytes]:
        async with registry(parties, refused=refused) as listener:
            got = await asyncio.to_thread(talk, listener.port)
            await until(lambda: len(refused) == 1)
            return got

    plain, error, after = asyncio.run(run())
    assert plain == b""
    assert "ALERT" in error.reason
    assert len(after) <= 24  # one record: an encrypted alert
    why = "its certificate is not pinned here" if shows else "it showed no certificate"
    assert refused == [f"refused a connection from 127.0.0.1: {why}"]


def test_another_certificate_under_the_name_is_refused_with_both_fingerprints(
    parties: Parties,
) -> None:
    refused: list[str] = []

    async def run() -> None:
        async with registry(parties, refused=refused) as listener:
            own = parties.credentials("insurer", registry="bank")
            address = f"127.0.0.1:{listener.port}"
            with pytest.raises(IdentityError) as caught:
                await dial(own, "registry", address, "guest", math.inf)
            for name in ("registry", "bank"):
                start = parties.made[name].certificate.fingerprint_groups[:19]
                assert start in str(caught.value)
            assert "[peers.registry]" in str(caught.value)
            await until(lambda: len(refused) == 1)

    asyncio.run(run())
    assert refused == ["refused a connection from 127.0.0.1: it does not pin this party's certificate"]


def test_a_certificate_that_only_claims_the_name_is_refused(parties: Parties, tmp_path) -> None:
    impostor = identity.create(tmp_path / "insurer", "insurer")
    pin = parties.made["registry"].certificate.der
    own = Credentials("insurer", impostor.certificate_path, impostor.key_path, {"registry": pin})
    refused: list[str] = []

    async def run() -> None:
        async with registry(parties, refused=refused) as listener:
            with pytest.raises(IdentityError, match="registry refused"):
                await dial(own, "registry", f"127.0.0.1:{listener.port}", "guest", 0)
            await until(lambda: len(refused) == 1)
            assert listener._ready.empty()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "does not speak TLS 1.3"),
        (b"\x00\xff" * 500, "does not speak TLS 1.3"),
        (b"\x16\x03\x01\x40\x00" + b"x" * 100, ""),
        (b"", "closed the connection"),
    ],
    ids=["http", "garbage", "half a record", "nothing"],
)
def test_what_is_no_tls_is_refused(parties: Parties, said: bytes, why: str) -> None:
    refused: list[str] = []

    def talk(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as raw:
            raw.sendall(said)
            raw.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                assert len(raw.recv(65536)) < 10

    async def run() -> None:
        async with registry(parties, refused=refused) as listener:
            await asyncio.to_thread(talk, listener.port)
            await until(lambda: len(refused) == 1)
            peer = await dial_registry(parties, listener)
            await peer.close()

    asyncio.run(run())
    assert refused[0].startswith("refused a connection from 127.0.0.1: it ")
    assert why in refused[0]


def test_an_older_tls_is_refused(parties: Parties) -> None:
    refused: list[str] = []

    def talk(port: int) -> None:
        made = parties.made["insurer"]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(made.certificate_path, made.key_path)
        with (
            socket.create_connection(("127.0.0.1", port), timeout=5) as raw,
            pytest.raises(ssl.SSLError, match=r"(?i)alert protocol version"),
        ):
            context.wrap_socket(raw)

    async def run() -> None:
        async with registry(parties, refused=refused) as listener:
            await asyncio.to_thread(talk, listener.port)
            await until(lambda: len(refused) == 1)

    asyncio.run(run())
    assert "does not speak TLS 1.3" in refused[0]


def test_stuck_clients_block_nobody_are_bounded_and_let_go(parties: Parties, monkeypatch) -> None:
    monkeypatch.setattr(websocket, "HANDSHAKE", 0.6)
    monkeypatch.setattr(websocket, "MAX_GREETING", 4)
    refused: list[str] = []

    async def run() -> None:
        async with registry(parties, refused=refused) as listener:
            address = ("127.0.0.1", listener.port)
            stuck = [socket.create_connection(address, timeout=5) for _ in range(3)]
            stuck[0].sendall(b"\x16\x03\x01\x02\x00\x01")  # the start of a ClientHello
            peer = await dial_registry(parties, listener)
            assert (await listener.accept()).name == "insurer"
            await until(lambda: not listener._greeting or len(listener._greeting) == 3)
            more = [socket.create_connection(address, timeout=5) for _ in range(3)]
            await until(lambda: len(refused) == 6)
            assert sum("too many handshakes" in line for line in refused) == 2
            assert sum("no handshake within" in line for line in refused) == 4
            for client in stuck + more:
                with client, contextlib.suppress(ConnectionResetError):
                    assert await asyncio.to_thread(client.recv, 100) == b""
            await peer.close()

    asyncio.run(run())


def test_a_pinned_peer_that_stops_after_tls_is_let_go(parties: Parties, monkeypatch) -> None:
    monkeypatch.setattr(websocket, "HANDSHAKE", 0.5)
    refused: list[str] = []

    async def run() -> None:
        async with registry(parties, refused=refused) as listener:
            own = parties.credentials("insurer", "registry")
            context = websocket._context(own, ssl.PROTOCOL_TLS_CLIENT, [own.pins["registry"]])
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", listener.port, ssl=context, server_hostname="vfl-party"
            )
            assert await reader.read(100) == b""
            writer.close()
            await until(lambda: len(refused) == 1)

    asyncio.run(run())
    assert "no handshake within" in refused[0]


def test_other_versions_are_named_at_both_ends(parties: Parties, monkeypatch) -> None:
    refused: list[str] = []
    true_greet = hello.greet

    async def greet(peer, *, own, other, role):
        """The registry runs protocol 2, the insurer protocol 1."""
        if role != "host":
            return await true_greet(peer, own=own, other=other, role=role)
        await peer.send(hello.Hello(2, "0.3.0", role, bytes(32), own, other))
        theirs = await peer.recv(hello.Hello)
        assert theirs.protocol == 1
        raise OtherProtocol("insurer runs protocol 1 (vfl 0.1.0), this party protocol 2")

    monkeypatch.setattr(hello, "greet", greet)

    async def run() -> None:
        async with registry(parties, refused=refused) as listener:
            with pytest.raises(OtherProtocol, match=r"registry runs protocol 2 \(vfl 0\.3\.0\)"):
                await dial_registry(parties, listener, wait=math.inf)
            await until(lambda: len(refused) == 1)

    asyncio.run(run())
    assert "insurer runs protocol 1" in refused[0]


def test_dialling_waits_for_a_listener_that_comes_later(parties: Parties) -> None:
    told: list[str] = []

    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        address = f"127.0.0.1:{port}"
        own = parties.credentials("insurer", "registry")
        dialling = asyncio.create_task(dial(own, "registry", address, "guest", math.inf, told.append))
        await asyncio.sleep(0.3)
        host = parties.credentials("registry", "insurer")
        async with listen(host, address, "host", lambda line: None) as listener:
            peer = await dialling
            assert (await listener.accept()).name == "insurer"
            await peer.close()
        assert told == [f"registry at {address}: connection refused"]

    asyncio.run(run())


def test_what_cannot_be_reached_is_named_with_the_reason(parties: Parties) -> None:
    own = parties.credentials("insurer", "registry")

    async def attempt(address: str, wait: float = 0) -> None:
        await dial(own, "registry", address, "guest", wait)

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    start = time.monotonic()
    with pytest.raises(PeerUnreachable, match=rf"registry at 127.0.0.1:{port}.*refused"):
        asyncio.run(attempt(f"127.0.0.1:{port}", 0.5))
    assert time.monotonic() - start < 2
    with pytest.raises(PeerUnreachable, match=r"localhost.*refused"):
        asyncio.run(attempt(f"localhost:{port}"))
    with pytest.raises(PeerUnreachable, match=r"nowhere\.invalid:1: the name cannot be resolved"):
        asyncio.run(attempt("nowhere.invalid:1"))
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(PeerUnreachable, match="timed out"),
    ):
        asyncio.run(attempt(f"127.0.0.1:{silent.getsockname()[1]}", 0.01))
    for address in ("registry", "registry:x", "registry:70000", ":1", "a@b:1", "x:1/y", "::1:1"):
        with pytest.raises(ConfigError, match="is no address"):
            asyncio.run(attempt(address))


def test_a_port_that_speaks_no_tls_is_named(parties: Parties) -> None:
    own = parties.credentials("insurer", "registry")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async def run() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            await dial(own, "registry", address, "guest", math.inf)

    with pytest.raises(PeerUnreachable, match="does not speak TLS"):
        asyncio.run(run())


def test_a_proxy_is_used_except_for_this_machine(parties: Parties, monkeypatch) -> None:
    asked: list[bytes] = []

    async def run() -> None:
        async with registry(parties) as listener:

            async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                asked.append((await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0])
                if b"forbidden" in asked[-1]:
                    writer.write(b"HTTP/1.1 403 Forbidden\r\n\r\n")
                    writer.close()
                    return
                there, back = await asyncio.open_connection("127.0.0.1", listener.port)
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")

                async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
                    with contextlib.suppress(OSError):
                        while data := await source.read(65536):
                            target.write(data)
                    target.close()

                await asyncio.gather(copy(reader, back), copy(there, writer))

            proxy = await asyncio.start_server(forward, "127.0.0.1", 0)
            where = f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
            monkeypatch.setenv("https_proxy", where)
            monkeypatch.delenv("no_proxy", raising=False)
            monkeypatch.delenv("NO_PROXY", raising=False)
            own = parties.credentials("insurer", "registry")
            async with proxy:
                peer = await dial(own, "registry", "registry.example:7443", "guest", 0)
                there = await listener.accept()
                await peer.send(Number(1))
                assert await there.recv(Number) == Number(1)
                await asyncio.gather(peer.close(), there.close())
                with pytest.raises(PeerUnreachable, match="HTTPS_PROXY answered 403"):
                    await dial(own, "registry", "forbidden.example:7443", "guest", 0)
                direct = await dial_registry(parties, listener)
                await direct.close()
            monkeypatch.setenv("https_proxy", "http://user:secret@127.0.0.1:1")
            with pytest.raises(PeerUnreachable, match=r"refused .through the proxy") as caught:
                await dial(own, "registry", "registry.example:7443", "guest", 0)
            assert "secret" not in str(caught.value)

    asyncio.run(run())
    assert asked == [
        b"CONNECT registry.example:7443 HTTP/1.1",
        b"CONNECT forbidden.example:7443 HTTP/1.1",
    ]


def test_ipv6(parties: Parties) -> None:
    async def run() -> None:
        host = parties.credentials("registry", "insurer")
        own = parties.credentials("insurer", "registry")
        try:
            async with listen(host, "[::1]:0", "host", lambda line: None) as listener:
                peer = await dial(own, "registry", f"[::1]:{listener.port}", "guest", 0)
                await peer.close()
        except ConfigError:
            pytest.skip("no IPv6 here")

    asyncio.run(run())


def test_an_address_that_cannot_be_listened_on_is_named(parties: Parties) -> None:
    own = parties.credentials("registry", "insurer")

    async def attempt(address: str) -> None:
        async with listen(own, address, "host", lambda line: None):
            pass

    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=rf"cannot listen on {address}: address .* in use"):
            asyncio.run(attempt(address))
    with pytest.raises(ConfigError, match=r"cannot listen on 192\.0\.2\.1:7443: cannot assign"):
        asyncio.run(attempt("192.0.2.1:7443"))
    with pytest.raises(ConfigError, match="is no address"):
        asyncio.run(attempt("7443"))


def test_credentials_that_cannot_be_used_are_named(parties: Parties, tmp_path: Path) -> None:
    insurer, bank = parties.made["insurer"], parties.made["bank"]
    mixed = Credentials("insurer", insurer.certificate_path, bank.key_path, {})

    async def attempt() -> None:
        async with listen(mixed, LOCAL, "host", lambda line: None):
            pass

    with pytest.raises(IdentityError, match=r"insurer\.pem with .*bank\.key .*mismatch"):
        asyncio.run(attempt())
    with pytest.raises(ConfigError, match="a and b have the same certificate"):
        parties.credentials("insurer", a="bank", b="bank")
