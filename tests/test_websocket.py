"""Real sockets, real certificates, on 127.0.0.1."""

import asyncio
import contextlib
import logging
import math
import os
import random
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from breaking import LOCAL, Broken, Parties, registry, through_relay, until
from processes import die_with_parent
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

from vfl.errors import (
    ConfigError,
    DataError,
    IdentityError,
    PeerError,
    PeerLost,
    PeerStopped,
    PeerUnreachable,
    VflError,
)
from vfl.net import hello, open_sessions, session, websocket, window, wire
from vfl.net.hello import OtherProtocol, Resume, Resumed
from vfl.net.peer import stop_all, together
from vfl.net.tls import context_of
from vfl.net.websocket import Credentials, Listener, Patience, WebSocketPeer, dial, listen
from vfl.net.wire import MAX_MESSAGE, MIB, Message
from vfl.party import identity

NO_NAMES = (f"{'a' * 64}.example:1", "a..b:1", "a\0b:1", "a b:1", "a\u2028b:1")


class Block(Message, frozen=True):
    limit: ClassVar[int] = MAX_MESSAGE
    data: bytes


class Number(Message, frozen=True):
    value: int


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


async def dial_registry(
    parties: Parties, listener: Listener, name: str = "insurer", wait: float = 60
) -> WebSocketPeer:
    own = parties.credentials(name, "registry")
    return await dial(own, "registry", f"127.0.0.1:{listener.port}", "guest", wait)


@contextlib.asynccontextmanager
async def opened(parties: Parties):
    """(what the insurer holds of the registry, what the registry holds of the insurer)."""
    async with registry(parties) as listener:
        here = await dial_registry(parties, listener)
        there = await listener.accept()
        try:
            yield here, there
        finally:
            await asyncio.gather(here.close(), there.close())


async def silence(text: str) -> None:
    """A connection's `send` that sends nothing."""


def test_a_session_is_greeted_named_by_its_pin_and_carries_messages(parties: Parties) -> None:
    async def run() -> None:
        async with opened(parties) as (here, there):
            assert (here.name, there.name) == ("registry", "insurer")
            assert (here.hello.role, there.hello.role) == ("host", "guest")
            assert here._session == there._session != bytes(16)
            tls = here._link.connection.transport.get_extra_info("ssl_object")
            assert tls.version() == "TLSv1.3"
            await here.send(Number(1))
            assert await there.recv(Number) == Number(1)
            await there.send(Number(2))
            assert await here.recv(Number) == Number(2)

    asyncio.run(run())


def test_no_short_message_waits_for_the_acknowledgement_of_the_one_before(parties: Parties) -> None:
    async def run() -> None:
        async with opened(parties) as ends:
            for end in ends:
                used = end._link.connection.transport.get_extra_info("socket")
                assert used.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) > 0

    asyncio.run(run())


def test_big_messages_cross_each_other_even_when_both_send_first(parties: Parties) -> None:
    block = Block(os.urandom(20 * MIB))

    async def send_then_receive(peer: WebSocketPeer) -> None:
        await peer.send(block)
        assert await peer.recv(Block) == block

    async def run() -> None:
        async with opened(parties) as ends:
            await asyncio.gather(*(send_then_receive(end) for end in ends))

    asyncio.run(run())


def test_the_largest_message_passes_and_a_larger_frame_is_a_breach(parties: Parties) -> None:
    async def run() -> None:
        async with opened(parties) as (here, there):
            largest = Block(bytes(MAX_MESSAGE - 100))
            await here.send(largest)
            assert len((await there.recv(Block)).data) == len(largest.data)
            with contextlib.suppress(PeerLost):
                await here._put(bytes(window.MAX_FRAME + 1))
            with pytest.raises(PeerError, match=r"insurer .* frame larger than any message"):
                await there.recv(Block)

    asyncio.run(run())


def test_a_slow_reader_holds_the_sender_back(parties: Parties, monkeypatch) -> None:
    monkeypatch.setattr(window, "WINDOW", 4 * MIB)
    monkeypatch.setattr(window, "BEAT", 0.05)
    sent = 0

    async def run() -> None:
        nonlocal sent
        async with opened(parties) as (here, there):

            async def pour() -> None:
                nonlocal sent
                for _ in range(40):
                    await here.send(Block(bytes(MIB // 2)))
                    sent += 1

            pouring = asyncio.create_task(pour())
            await until(lambda: sent >= 7)
            await asyncio.sleep(0.7)  # many times the silence that would end the session
            assert sent == 7
            assert there._receiving.held <= 4 * MIB
            assert here._link.connection.transport.get_write_buffer_size() == 0
            for _ in range(40):
                await there.recv(Block)
                assert there._receiving.held <= 4 * MIB
            await pouring
            assert not here.lost and not there.lost

    asyncio.run(run())


def test_a_peer_that_sends_more_than_it_may_is_refused(parties: Parties, monkeypatch) -> None:
    async def run() -> None:
        async with opened(parties) as (here, there):
            monkeypatch.setattr(window, "WINDOW", MIB)
            await here._link.connection.send(bytes(MIB))
            with pytest.raises(PeerError, match="more than it was allowed"):
                await there.recv(Block)
            with pytest.raises(PeerLost):
                await here.recv(Block)

    asyncio.run(run())


@pytest.mark.parametrize("report", ["99999999", "-1", "x", "", "9" * 5000, "١"])
def test_a_flow_report_that_cannot_be_is_refused(parties: Parties, report: str) -> None:
    async def run() -> None:
        async with opened(parties) as (here, there):
            await here._link.connection.send(report)
            with pytest.raises(PeerError, match="flow report"):
                await there.recv(Number)

    asyncio.run(run())


def test_a_cancelled_send_leaves_no_gap(parties: Parties, monkeypatch) -> None:
    monkeypatch.setattr(window, "WINDOW", 2 * MIB)

    async def run() -> None:
        async with opened(parties) as (here, there):
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


def test_sends_that_wait_are_not_overtaken(parties: Parties, monkeypatch) -> None:
    monkeypatch.setattr(window, "WINDOW", 2 * MIB)

    async def run() -> None:
        async with opened(parties) as (here, there):
            sends = [asyncio.create_task(here.send(Block(bytes(MIB)))) for _ in range(3)]
            await asyncio.sleep(0)  # the first has room, two wait for it

            async def later() -> None:
                await here._room.wait()  # between the second, which now has room, and the third
                await here.send(Number(4))

            sends.append(asyncio.create_task(later()))
            await asyncio.sleep(0.1)
            for _ in range(3):
                assert len((await there.recv(Block)).data) == MIB
            assert await there.recv(Number) == Number(4)
            await asyncio.gather(*sends)

    asyncio.run(run())


def test_closing_delivers_what_was_sent_and_is_seen(parties: Parties) -> None:
    async def run() -> None:
        async with opened(parties) as (here, there):
            waiting = asyncio.create_task(here.recv(Number))
            await there.send(Number(1))
            assert await waiting == Number(1)
            waiting = asyncio.create_task(here.recv(Number))
            await here.send(Block(bytes(20 * MIB)))
            await here.send(Number(2))
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

    asyncio.run(run())


def test_a_silent_peer_is_lost_and_a_busy_one_is_not(parties: Parties, monkeypatch) -> None:
    monkeypatch.setattr(window, "BEAT", 0.05)

    async def run() -> None:
        async with opened(parties) as (here, there):
            await asyncio.sleep(0.8)
            assert not here.lost
            there._link.connection.send = silence  # as a machine without power
            with pytest.raises(PeerLost, match=r"registry broke .nothing heard"):
                await here.recv(Number)

    asyncio.run(run())


def test_closing_towards_a_dead_machine_ends(parties: Parties, monkeypatch) -> None:
    monkeypatch.setattr(session, "CLOSE", 0.3)

    async def run() -> None:
        async with opened(parties) as (here, there):
            there._link.connection.transport.pause_reading()
            tcp = there._link.connection.transport.get_extra_info("socket")
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)  # nor does its kernel
            await here.send(Block(bytes(20 * MIB)))
            await asyncio.sleep(0.2)
            await here.close()
            with pytest.raises(PeerLost, match="this party closed"):
                await here.send(Number(1))

    asyncio.run(run())


def test_stop_reaches_a_peer_whose_message_was_cut_off_by_a_failure(parties: Parties) -> None:
    async def run() -> None:
        async with opened(parties) as (here, there):

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
    monkeypatch.setattr(window, "BEAT", 0.05)

    async def run() -> None:
        async with opened(parties) as (here, there):
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
from vfl.net.session import NO_PATIENCE
from vfl.net.tls import context_of
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
def test_a_killed_peer_is_lost_and_not_for_its_silence(parties: Parties, busy: bool) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(parties.folder)],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=die_with_parent,
    )
    assert child.stdout is not None

    async def run() -> None:
        own = parties.credentials("insurer", "registry")
        port = int(await asyncio.to_thread(child.stdout.readline))
        peer = await dial(own, "registry", f"127.0.0.1:{port}", "guest", 60)
        await peer.send(Block(b"alive"))
        assert (await peer.recv(Block)).data == b"alive"

        async def pour() -> None:
            while True:
                await peer.send(Block(bytes(MIB)))

        work = asyncio.create_task(pour() if busy else peer.recv(Block))
        await asyncio.sleep(0.2)
        child.send_signal(signal.SIGKILL)
        with pytest.raises(PeerLost, match=r"^the connection to registry broke \(.*\)$") as lost:
            await work
        assert "nothing heard" not in str(lost.value)
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
            assert not listener._sessions.waiting

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
        with socket.create_connection(("127.0.0.1", port), timeout=60) as raw:
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


@pytest.mark.parametrize("ends", ["the handshake's time", "the listener"])
def test_who_is_refused_and_does_not_hang_up_is_told_of_when_something_else_ends_it(
    parties: Parties, monkeypatch, ends: str
) -> None:
    monkeypatch.setattr(websocket, "HANDSHAKE", 1.0 if ends == "the handshake's time" else 60)
    refused: list[str] = []

    async def run() -> None:
        async with registry(parties, refused=refused) as listener:
            own = parties.credentials("stranger", "registry")
            context = context_of(own, ssl.PROTOCOL_TLS_CLIENT, [own.pins["registry"]])
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            arriving, leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = context.wrap_bio(arriving, leaving, server_hostname="vfl-party")
            with contextlib.suppress(ssl.SSLWantReadError):
                tls.do_handshake()
            writer.write(leaving.read())
            while True:  # until the client has shown its certificate, which is the last it says
                arriving.write(await reader.read(65536))
                with contextlib.suppress(ssl.SSLWantReadError):
                    tls.do_handshake()
                    break
            writer.write(leaving.read())
            assert await reader.read(65536)  # the alert
            assert not refused
            if ends == "the handshake's time":
                await until(lambda: refused)
        writer.close()

    asyncio.run(run())
    assert refused == ["refused a connection from 127.0.0.1: its certificate is not pinned here"]


def test_a_certificate_that_only_claims_the_name_is_refused(parties: Parties, tmp_path) -> None:
    impostor = identity.create(tmp_path / "insurer", "insurer")
    pin = parties.made["registry"].certificate.der
    own = Credentials("insurer", impostor.certificate_path, impostor.key_path, {"registry": pin})
    refused: list[str] = []

    async def run() -> None:
        async with registry(parties, refused=refused) as listener:
            with pytest.raises(IdentityError, match="registry refused"):
                await dial(own, "registry", f"127.0.0.1:{listener.port}", "guest", 60)
            await until(lambda: len(refused) == 1)
            assert not listener._sessions.waiting

    asyncio.run(run())


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "does not speak TLS 1.3"),
        (b"\x00\xff" * 500, "does not speak TLS 1.3"),
        (
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
            "it begins with the PROXY protocol: switch",
        ),
        (
            b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c",
            "it begins with the PROXY protocol: switch",
        ),
        (b"\x16\x03\x01\x40\x00" + b"x" * 100, ""),
        (b"", "closed the connection"),
    ],
    ids=["http", "garbage", "a balancer", "a newer balancer", "half a record", "nothing"],
)
def test_what_is_no_tls_is_refused(parties: Parties, said: bytes, why: str) -> None:
    refused: list[str] = []

    def talk(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as raw:
            raw.sendall(said)
            with contextlib.suppress(OSError):  # the listener may have hung up at the first bytes
                raw.shutdown(socket.SHUT_WR)
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
            socket.create_connection(("127.0.0.1", port), timeout=60) as raw,
            pytest.raises(ssl.SSLError, match=r"(?i)alert protocol version"),
        ):
            context.wrap_socket(raw)

    async def run() -> None:
        async with registry(parties, refused=refused) as listener:
            await asyncio.to_thread(talk, listener.port)
            await until(lambda: len(refused) == 1)

    asyncio.run(run())
    assert "does not speak TLS 1.3" in refused[0]


def test_who_stops_in_the_middle_of_tls_blocks_nobody_and_is_let_go(
    parties: Parties, monkeypatch
) -> None:
    monkeypatch.setattr(websocket, "HANDSHAKE", 0.6)
    refused: list[str] = []

    async def run() -> None:
        async with registry(parties, refused=refused) as listener:
            own = parties.credentials("insurer", "registry")
            context = context_of(own, ssl.PROTOCOL_TLS_CLIENT, [own.pins["registry"]])
            outgoing = ssl.MemoryBIO()
            with contextlib.suppress(ssl.SSLWantReadError):
                context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="vfl-party").do_handshake()
            with socket.create_connection(("127.0.0.1", listener.port), timeout=5) as stuck:
                stuck.sendall(outgoing.read())
                peer = await dial_registry(parties, listener)
                assert (await listener.accept()).name == "insurer"
                await peer.close()
                await until(lambda: refused)

    asyncio.run(run())
    assert refused == ["refused a connection from 127.0.0.1: no handshake within 1 s"]


def test_a_pinned_peer_that_stops_after_tls_is_let_go(parties: Parties, monkeypatch) -> None:
    monkeypatch.setattr(websocket, "HANDSHAKE", 2)
    refused: list[str] = []

    async def run() -> None:
        async with registry(parties, refused=refused) as listener:
            own = parties.credentials("insurer", "registry")
            context = context_of(own, ssl.PROTOCOL_TLS_CLIENT, [own.pins["registry"]])
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

    async def greet(peer, *, own, other, role, answers):
        """The registry runs a later protocol than the insurer."""
        if role != "host":
            return await true_greet(peer, own=own, other=other, role=role, answers=answers)
        await peer.send(hello.Hello(hello.PROTOCOL + 1, "0.3.0", role, bytes(32), own, other))
        theirs = await peer.recv(hello.Hello)
        assert theirs.protocol == hello.PROTOCOL
        raise OtherProtocol("insurer runs an older protocol")

    monkeypatch.setattr(hello, "greet", greet)

    async def run() -> None:
        async with registry(parties, refused=refused) as listener:
            with pytest.raises(OtherProtocol, match=r"registry runs protocol \d+ \(vfl 0\.3\.0\)"):
                await dial_registry(parties, listener, wait=math.inf)
            await until(lambda: len(refused) == 1)

    asyncio.run(run())
    assert "insurer runs an older protocol" in refused[0]


def test_dialling_waits_for_a_listener_that_comes_later(parties: Parties) -> None:
    told: list[str] = []

    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        address = f"127.0.0.1:{port}"
        own = parties.credentials("insurer", "registry")
        dialling = asyncio.create_task(dial(own, "registry", address, "guest", math.inf, told.append))
        await until(lambda: told)
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
    with pytest.raises(PeerUnreachable, match=rf"registry at 127.0.0.1:{port}.*refused"):
        asyncio.run(attempt(f"127.0.0.1:{port}", 0.5))
    with pytest.raises(PeerUnreachable, match=r"localhost.*refused"):
        asyncio.run(attempt(f"localhost:{port}"))
    with pytest.raises(PeerUnreachable, match=r"nowhere\.invalid:1: the name cannot be resolved"):
        asyncio.run(attempt("nowhere.invalid:1"))
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(PeerUnreachable, match="timed out"),
    ):
        asyncio.run(attempt(f"127.0.0.1:{silent.getsockname()[1]}", 0.01))
    for address in (
        "registry",
        "registry:x",
        "registry:70000",
        ":1",
        "a@b:1",
        "x:1/y",
        "::1:1",
        *NO_NAMES,
    ):
        with pytest.raises(ConfigError, match="is no address"):
            asyncio.run(attempt(address))


def test_an_address_that_does_not_answer_is_passed_over(parties: Parties, monkeypatch) -> None:
    """A name may have several, of IPv6 and IPv4: the first is not waited for until time is up."""
    resolve = socket.getaddrinfo

    async def run() -> None:
        with contextlib.ExitStack() as stack:
            # Nobody accepts, and the queue is full: the system lets further calls wait.
            deaf = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
            for _ in range(3):
                caller = stack.enter_context(socket.socket())
                caller.setblocking(False)
                caller.connect_ex(deaf.getsockname())
            async with registry(parties) as listener:

                def both(host: str, *args: object, **named: object) -> list[Any]:
                    if host != "registry.example":
                        return resolve(host, *args, **named)
                    kind = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
                    return [
                        (*kind, ("127.0.0.1", port)) for port in (deaf.getsockname()[1], listener.port)
                    ]

                monkeypatch.setattr(socket, "getaddrinfo", both)
                own = parties.credentials("insurer", "registry")
                peer = await dial(own, "registry", "registry.example:7443", "guest", 0)
                assert (await listener.accept()).name == "insurer"
                peer.drop()

    asyncio.run(run())


@pytest.mark.parametrize(
    "to", ["wss://{other}/", "wss://[/", "wss://a:b@{other}/", "/resume", "ws://{other}/"]
)
def test_no_redirect_is_followed(parties: Parties, to: str) -> None:
    """A peer cannot have this party's machine dial addresses of its choice."""
    own, host = parties.credentials("insurer", "registry"), parties.credentials("registry", "insurer")
    context = context_of(host, ssl.PROTOCOL_TLS_SERVER, list(host.pins.values()))
    dialled = 0

    async def run() -> None:
        def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal dialled
            dialled += 1
            writer.close()

        async with await asyncio.start_server(count, "127.0.0.1", 0) as elsewhere:
            where = to.format(other=f"127.0.0.1:{elsewhere.sockets[0].getsockname()[1]}")

            async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(f"HTTP/1.1 307 Elsewhere\r\nLocation: {where}\r\n\r\n".encode())
                await writer.drain()
                writer.close()

            async with await asyncio.start_server(redirect, "127.0.0.1", 0, ssl=context) as server:
                address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
                with pytest.raises(PeerUnreachable, match="it answered with HTTP status 307"):
                    await dial(own, "registry", address, "guest", 0)

    asyncio.run(run())
    assert dialled == 0


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
                peer = await dial(own, "registry", "registry.example:7443", "guest", 60)
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
                peer = await dial(own, "registry", f"[::1]:{listener.port}", "guest", 60)
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
    for address in ("7443", *NO_NAMES):
        with pytest.raises(ConfigError, match="is no address"):
            asyncio.run(attempt(address))


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


# --- Connections that break ---------------------------------------------------------------------


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    monkeypatch.setattr(session, "BACKOFF", (0.01, 0.1))


async def exchange(one: WebSocketPeer, two: WebSocketPeer, first: int = 0) -> None:
    for value, (left, right) in enumerate([(one, two), (two, one)], first):
        await left.send(Number(value))
        assert await right.recv(Number) == Number(value)


@pytest.mark.parametrize("seed", range(4))
def test_all_messages_arrive_once_and_in_order_whatever_is_cut(
    parties: Parties, monkeypatch, seed: int
) -> None:
    """Connections live for a random number of bytes, from within the handshake to several messages."""
    monkeypatch.setattr(window, "WINDOW", MIB)
    monkeypatch.setattr(session, "PIECE", 60_000)
    monkeypatch.setattr(window, "BEAT", 0.02)
    rng = random.Random(seed)
    count = 150

    async def pour(peer: WebSocketPeer, blocks: list[bytes]) -> None:
        for block in blocks:
            await peer.send(Block(block))
            if rng.random() < 0.1:
                await asyncio.sleep(rng.uniform(0, 0.02))

    async def drink(peer: WebSocketPeer, blocks: list[bytes]) -> None:
        for block in blocks:
            assert (await peer.recv(Block)).data == block
            if rng.random() < 0.1:
                await asyncio.sleep(rng.uniform(0, 0.02))

    async def run() -> None:
        async with through_relay(parties) as made:
            made.relay.budget = lambda: 10 ** rng.uniform(3, 6.3)
            made.relay.cut()
            sizes = [int(10 ** rng.uniform(0, 5.3)) for _ in range(2 * count)]
            blocks = [rng.randbytes(size) for size in sizes]
            left, right = blocks[:count], blocks[count:]
            await asyncio.gather(
                pour(made.here, left),
                drink(made.there, left),
                pour(made.there, right),
                drink(made.here, right),
            )
            assert made.relay.connections > 5
            for peer, out in ((made.here, left), (made.there, right)):
                assert peer.traffic.sent["Block"] >= sum(map(len, out))
                assert peer.traffic.sent_messages["Block"] == count
                assert peer.traffic.resent > 0
            assert made.here.traffic.sent == made.there.traffic.received
            assert made.refused == [] or {line.partition(": ")[2] for line in made.refused} <= {
                "it closed the connection during the handshake",
                "insurer broke the protocol: it sent a Resume that is not its latest",
            }
            made.relay.budget = lambda: math.inf
            await asyncio.gather(made.here.close(), made.there.close())

    asyncio.run(run())


def test_both_ends_are_told_once_and_go_on(parties: Parties) -> None:
    async def run() -> None:
        async with through_relay(parties) as made:
            await exchange(made.here, made.there)
            await made.cut()
            await made.here.send(Number(7))
            await made.there.send(Number(8))
            waiting = asyncio.create_task(made.there.recv(Number))
            await asyncio.sleep(0.3)
            assert not waiting.done() and not made.here.lost and not made.there.lost
            made.relay.down = False
            assert await waiting == Number(7)
            assert await made.here.recv(Number) == Number(8)
            await exchange(made.here, made.there)
            broke, back = made.said_here
            assert re.fullmatch(
                r"the connection to registry broke \(.+\): dialling again for 120 s", broke
            )
            assert re.fullmatch(r"the connection to registry is back after \d+ s", back)
            broke, back = made.said_there
            assert re.fullmatch(
                r"the connection to insurer broke \(.+\): waiting 120 s for it to dial again", broke
            )
            assert re.fullmatch(r"the connection to insurer is back after \d+ s", back)
            assert made.refused == []
            await asyncio.gather(made.here.close(), made.there.close())

    asyncio.run(run())


def test_a_session_that_does_not_come_back_is_lost_at_both_ends(parties: Parties) -> None:
    async def run() -> None:
        async with through_relay(parties, seconds=1) as made:
            await made.there.send(Number(1))
            await until(lambda: not made.here._receiving.is_empty)
            await made.cut()
            assert await made.here.recv(Number) == Number(1)
            # Who dialled says why the last attempt came to nothing.
            for peer, other, why in ((made.here, "registry", ": .+"), (made.there, "insurer", "")):
                with pytest.raises(PeerLost) as caught:
                    await peer.recv(Number)
                assert re.fullmatch(
                    rf"the connection to {other} broke \(.+\) and did not come back within 1 s{why}",
                    str(caught.value),
                )
            assert made.relay.connections > 1
            made.relay.down = False
            await asyncio.gather(made.here.close(), made.there.close())

    asyncio.run(run())


@pytest.mark.parametrize("sends", ["here", "there"])
def test_connections_that_break_before_anything_comes_through_are_not_tried_for_ever(
    parties: Parties, sends: str
) -> None:
    """As a relay can cut them, or a firewall that lets so many bytes pass and no more."""

    async def run() -> None:
        async with through_relay(parties) as made:
            sender, receiver = (made.here, made.there)[:: 1 if sends == "here" else -1]
            made.relay.budget = lambda: 50_000
            made.relay.cut()
            for _ in range(2 * session.IN_VAIN):  # what is small comes through, however often it breaks
                await sender.send(Block(bytes(20_000)))
                await receiver.recv(Block)
                made.relay.cut()
            assert not sender.lost
            await sender.send(Block(bytes(MIB)))
            await until(lambda: sender._in_vain)
            sender._broke -= 120  # as long ago as it is patient
            with pytest.raises(PeerLost, match=r"broke .+, as \d+ before it, over which nothing came"):
                await sender.recv(Block)
            if sends == "there":
                with pytest.raises(PeerLost, match="registry was restarted, or has given up"):
                    await receiver.recv(Block)

    asyncio.run(run())


def test_a_party_that_was_restarted_does_not_know_the_session(parties: Parties, monkeypatch) -> None:
    monkeypatch.setattr(session, "CLOSE", 0.2)  # of the end whose peer has gone for good

    async def run() -> None:
        async with through_relay(parties) as made, registry(parties, refused=made.refused) as other:
            await made.cut()
            made.relay.target, made.relay.down = other.port, False
            with pytest.raises(PeerLost, match=r"^registry was restarted, or has given up the session$"):
                await made.here.recv(Number)
            # It is told so; to who has restarted it is nothing to be told of.
            assert not made.refused and not other.refused
            # Nor is one resumed that has ended.
            await made.there.close()
            await until(lambda: not made.listener._sessions)

    asyncio.run(run())


def test_a_deaf_line_is_noticed_and_replaced(parties: Parties, monkeypatch) -> None:
    monkeypatch.setattr(window, "BEAT", 0.05)

    async def run() -> None:
        async with through_relay(parties) as made:
            made.relay.deaf = True
            await made.here.send(Number(1))
            await until(lambda: made.here.away and made.there.away)
            # Which of the two notices first is chance; the other then sees the end of the connection.
            noticed = [said[0] for said in (made.said_here, made.said_there)]
            assert any("nothing heard for" in line for line in noticed)
            made.relay.deaf = False
            assert await made.there.recv(Number) == Number(1)
            await exchange(made.there, made.here)

    asyncio.run(run())


def test_a_line_that_only_one_end_knows_to_be_broken_is_replaced(parties: Parties) -> None:
    async def run() -> None:
        async with through_relay(parties) as made:
            old = made.there._link.connection
            old.transport.pause_reading()  # so that it does not see the end
            made.relay.cut()
            await made.here.send(Number(1))
            assert await made.there.recv(Number) == Number(1)
            await exchange(made.here, made.there)
            assert made.there._link.connection is not old
            assert made.said_there == ["insurer dialled again: the connection before it had broken"]

    asyncio.run(run())


def test_a_fault_of_a_session_ends_it_for_those_who_wait(parties: Parties, monkeypatch) -> None:
    """Whichever of its works fails: nobody waits for ever, and the other end learns of it."""

    async def run(fail: Callable[[Broken], Awaitable[None]]) -> None:
        async with through_relay(parties) as made:
            waiting = [asyncio.create_task(made.here.recv(Number)) for _ in range(2)]
            there = asyncio.create_task(made.there.recv(Number))
            await fail(made)
            for task in waiting:
                with pytest.raises(
                    VflError, match=r"registry failed here: a fault of vfl itself, .*Zero"
                ):
                    await task
            made.relay.down = False
            with pytest.raises(PeerLost, match=r"insurer broke, and nobody listens"):
                made.there.end_with_connection()
                await there
            await made.here.close()

    def divide(*_: object) -> None:
        raise ZeroDivisionError

    async def at_writing(made: Broken) -> None:
        monkeypatch.setattr(made.here._sending, "take_next", divide)
        await made.here.send(Number(1))
        await until(lambda: made.there.away)

    async def at_reading(made: Broken) -> None:
        monkeypatch.setattr(made.here._receiving, "put", divide)
        await made.there.send(Number(1))
        await until(lambda: made.there.away)

    async def at_telling(made: Broken) -> None:
        made.here._patience = Patience(120, divide)
        await made.cut()

    for fail in (at_writing, at_reading, at_telling):
        asyncio.run(run(fail))


def test_a_connection_that_comes_at_the_last_moment_is_used(parties: Parties, monkeypatch) -> None:
    async def run() -> None:
        async with through_relay(parties) as made:

            async def wait_too_long() -> None:
                while made.there._link is None:
                    await asyncio.sleep(0.01)
                await asyncio.sleep(60)

            made.there._patience = Patience(0.5)
            monkeypatch.setattr(made.there, "_wait_for_resume", wait_too_long)
            made.relay.cut()
            await exchange(made.here, made.there)
            assert not made.here.lost and not made.there.lost

    asyncio.run(run())


def test_a_new_session_does_not_disturb_one_that_waits(parties: Parties) -> None:
    async def run() -> None:
        async with through_relay(parties) as made:
            await made.cut()
            fresh = await dial_registry(parties, made.listener)
            other = await made.listener.accept()
            await exchange(fresh, other)
            assert made.there.away
            made.relay.down = False
            await exchange(made.here, made.there)
            await exchange(fresh, other)
            await asyncio.gather(fresh.close(), other.close())

    asyncio.run(run())


def test_what_was_sent_before_closing_arrives_over_the_next_connection(parties: Parties) -> None:
    async def run() -> None:
        async with through_relay(parties) as made:
            await made.cut()
            await made.here.send(Block(bytes(MIB)))
            closing = asyncio.create_task(made.here.close())
            await asyncio.sleep(0.1)
            made.relay.down = False
            assert len((await made.there.recv(Block)).data) == MIB
            with pytest.raises(PeerLost, match=r"^insurer closed the connection$"):
                await made.there.recv(Number)
            await closing

    asyncio.run(run())


def test_stopping_while_a_connection_is_broken_ends(parties: Parties) -> None:
    async def run() -> None:
        async with through_relay(parties) as made:
            await made.cut()
            await stop_all([made.here, made.there], DataError("row 7"), seconds=0.3)
            assert made.here.lost and made.there.lost
            connections = made.relay.connections
            await asyncio.sleep(0.3)
            assert made.relay.connections <= connections + 1  # nobody dials any more
            assert not made.listener._sessions

    asyncio.run(run())


def test_leaving_the_block_ends_sessions_that_wait(parties: Parties) -> None:
    async def run() -> None:
        async with registry(parties, patience=Patience(120)) as listener:
            patience = Patience(120)
            own = parties.credentials("insurer", "registry")
            address = f"127.0.0.1:{listener.port}"
            here = await dial(own, "registry", address, "guest", 60, patience=patience)
            there = await listener.accept()
            here._link.connection.transport.abort()
            here._living.cancel()
            await until(lambda: there.away)
        with pytest.raises(PeerLost, match=r"insurer broke, and nobody listens here any more"):
            await there.recv(Number)

    asyncio.run(run())


async def ask(parties: Parties, made: Broken, name: str, said: str | bytes) -> bytes | None:
    """What a pinned peer gets for the first thing it says on a connection that goes on."""
    own = parties.credentials(name, "registry")
    line = websocket._Line(own, "registry", f"127.0.0.1:{made.listener.port}", None)
    connection = await line.connect(websocket.GO_ON, 60)
    try:
        await connection.send(said)
        return await connection.recv()
    except ConnectionClosed:
        return None
    finally:
        connection.transport.abort()


def test_hostile_resumptions(parties: Parties, monkeypatch) -> None:
    async def run() -> None:
        lines: list[str] = []
        async with through_relay(parties) as made:
            own = parties.credentials("registry", "insurer", "bank")
            monkeypatch.setattr(made.listener, "_credentials", own)
            key = made.there.key
            await exchange(made.here, made.there)
            # A session of somebody else, one that never was, no Resume at all.
            no = wire.encode(Resumed(None))
            assert await ask(parties, made, "bank", wire.encode(Resume(key, 9, 2))) == no
            assert await ask(parties, made, "insurer", wire.encode(Resume(bytes(32), 9, 2))) == no
            for said in ("0", b"", b"\xff" * 100, wire.encode(Number(1)), bytes(2 * MIB)):
                assert await ask(parties, made, "insurer", said) is None
            for count in (-1, 2**63, None):
                raw = msgspec.msgpack.encode(["Resume", {"key": key, "attempt": 1, "received": count}])
                assert await ask(parties, made, "insurer", raw) is None
            # The insurer's own Resume, once more.
            made.relay.cut()
            await until(lambda: made.here._windows.attempts > 0 and made.here._link is not None)
            await exchange(made.here, made.there)
            for attempt in range(made.here._windows.attempts + 1):
                assert await ask(parties, made, "insurer", wire.encode(Resume(key, attempt, 2))) is None
            await exchange(made.here, made.there)
            assert not made.there.lost
            lines += made.refused
            # Frames that were never sent, or were consumed long ago.
            await until(lambda: made.there._sending.is_empty)
            assert await ask(parties, made, "insurer", wire.encode(Resume(key, 99, 1))) is None
            with pytest.raises(PeerError, match=r"insurer .* Resume that counts frames which it cannot"):
                await made.there.recv(Number)
            await until(lambda: not made.listener._sessions)
            with pytest.raises(PeerLost, match="registry was restarted, or has given up"):
                await made.here.recv(Number)
        assert key.hex() not in str(lines) and repr(key) not in str(lines)
        assert sum("not its latest" in line for line in lines) >= 2
        # One that never was may be of before a restart: nothing is said of it.
        assert sum("bank goes on with a session of another party" in line for line in lines) == 1
        assert sum("malformed Resume" in line for line in lines) == 3

    monkeypatch.setattr(window, "BEAT", 0.1)
    asyncio.run(run())


def test_a_flood_of_resumptions_holds_little_and_ends(parties: Parties, monkeypatch) -> None:
    """Each takes the place of the one before; what is kept for the other end is kept once."""
    monkeypatch.setattr(window, "WINDOW", 4 * MIB)

    async def run() -> None:
        async with through_relay(parties) as made:
            await made.there.send(Block(bytes(MIB)))
            made.here._living.cancel()
            own = parties.credentials("insurer", "registry")
            line = websocket._Line(own, "registry", f"127.0.0.1:{made.listener.port}", None)
            asks = [line.resume(Resume(made.there.key, attempt, 1)) for attempt in range(1, 41)]
            answers = await asyncio.gather(*asks, return_exceptions=True)
            links = [answer[0] for answer in answers if isinstance(answer, tuple)]
            assert links
            await until(lambda: len(made.listener._admission.handshakes) == 0)
            assert made.there._sending.held < 2 * MIB
            open_ = [link for link in links if link.state is State.OPEN]
            await until(lambda: sum(link.state is State.OPEN for link in open_) <= 1)
            assert not made.there.lost
            for link in links:
                link.transport.abort()

    asyncio.run(run())


def test_an_answer_that_cannot_be_is_a_breach(parties: Parties, monkeypatch) -> None:
    async def run() -> None:
        async with through_relay(parties) as made:
            await exchange(made.here, made.there)
            await made.cut()
            made.there._receiving.arrived = 9
            made.relay.down = False
            with pytest.raises(PeerError, match=r"registry .* a Resumed that counts frames"):
                await made.here.recv(Number)

    asyncio.run(run())


def test_sessions_are_bounded(parties: Parties, monkeypatch) -> None:
    monkeypatch.setattr(open_sessions, "MOST", 3)

    async def run() -> None:
        refused: list[str] = []
        async with registry(parties, refused=refused) as listener:
            peers = [await dial_registry(parties, listener, wait=60 * (k < 3)) for k in range(4)]
            with pytest.raises(PeerLost, match="registry closed"):
                await peers[3].recv(Number)
            await peers[0].close()
            await until(lambda: len(listener._sessions) == 2)
            await (await dial_registry(parties, listener)).close()
            assert refused == ["refused a connection from 127.0.0.1: too many sessions wait already"]
            for peer in peers:
                peer.drop()

    asyncio.run(run())
