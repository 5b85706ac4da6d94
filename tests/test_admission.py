"""Who reaches the port and who gets through: floods, marks, memory, bounds; lines about refusals."""

import asyncio
import contextlib
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import strangers
from ends import Ends, call, exchange, made_in, registry, until
from processes import die_with_parent
from strangers import SAID, client_context, first_message

from vfl.errors import VflError
from vfl.net import admission
from vfl.net.admission import AN_ADDRESS, Lane, Marks, network_of
from vfl.net.tls import Credentials, context_of
from vfl.net.websocket import Listener, listen


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Ends:
    return made_in(tmp_path_factory.mktemp("keys"))


@contextlib.contextmanager
def flooded(listener: Listener, kind: str, many: int = 400) -> Iterator[None]:
    command = [sys.executable, strangers.__file__, str(listener.port), kind, str(many)]
    flooding = subprocess.Popen(command, preexec_fn=die_with_parent)
    try:
        yield
    finally:
        flooding.kill()
        flooding.wait()


# --- Floods ---


@pytest.mark.parametrize("kind", sorted(SAID))
def test_a_pinned_peer_gets_through_a_flood_and_its_session_goes_on(ends: Ends, kind: str) -> None:
    """From the same address, and at the first attempt: nothing of the peer's is ever refused."""
    lines: list[str] = []
    failed: list[str] = []

    async def run() -> None:
        async with registry(ends, lines, patience=60) as listener:
            here = await call(ends, listener, patience=60)
            there = await listener.accept()
            with flooded(listener, kind):
                await until(lambda: len(lines) > AN_ADDRESS + 400)
                assert len(listener._admission._waiting) <= AN_ADDRESS
                for value in range(3):
                    # A session that is there, one whose connection breaks, one that begins.
                    await exchange(here, there, value)
                    here._link.connection.transport.abort()
                    await exchange(here, there, value)
                    other = await call(ends, listener, wait=60, failed=failed)
                    another = await listener.accept()
                    await exchange(other, another, value)
                    await asyncio.gather(other.close(), another.close())
            assert listener.refused == {}
            await asyncio.gather(here.close(), there.close())

    asyncio.run(run())
    assert failed == []
    assert not [line for line in lines if "insurer" in line]


CHILD = """
import asyncio, dataclasses, os, sys
from pathlib import Path
from vfl.errors import VflError
from vfl.net import admission
from vfl.net.websocket import Credentials, dial, listen
from vfl.party import identity

folder = Path(sys.argv[1])

def credentials(name, peer):
    pin = identity.load_certificate(folder / f"{peer}.pem").der
    return Credentials(name, folder / f"{name}.pem", folder / f"{name}.key", {peer: pin})

def state():
    size = int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return f"{size / 1e6:.1f} {len(os.listdir('/proc/self/fd'))}"

async def listening():
    admission.STRANGERS = dataclasses.replace(admission.STRANGERS, pace=0.0)
    own = credentials("registry", "insurer")
    async with listen(own, "127.0.0.1:0", "host", lambda line: None) as it:
        print(it.port, flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            while it._admission._waiting or it._admission.handshakes:
                await asyncio.sleep(0.01)
            print(state(), flush=True)

async def dialling(port, times):
    own = credentials("insurer", "registry")
    print(state(), flush=True)
    for _ in range(times):
        try:
            await dial(own, "registry", f"127.0.0.1:{port}", "guest", 0)
        except VflError:
            pass
    print(state(), flush=True)

asyncio.run(dialling(int(sys.argv[2]), int(sys.argv[3])) if len(sys.argv) > 2 else listening())
"""


def numbers(line: str) -> tuple[float, int]:
    """Megabytes and file descriptors."""
    size, files = line.split()
    return float(size), int(files)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="asks Linux for the memory")
@pytest.mark.parametrize("kind", ["http", "random", "large", "unpinned", "no certificate", "cut"])
def test_failed_handshakes_leave_nothing_behind(ends: Ends, kind: str) -> None:
    """A listener in a process of its own; 300 of a kind move its memory by less than 15 MB."""
    unpinned = client_context(ends.stranger.certificate_path, ends.stranger.key_path)
    bare = client_context()
    hello = first_message(unpinned)

    async def attack(port: int) -> None:
        if kind in SAID or kind in ("cut",):
            said = SAID[kind]() if kind in SAID else hello[:100]
            await strangers.many(150, lambda: strangers.say(port, said))
            await strangers.many(150, lambda: strangers.say(port, hello if kind == "cut" else said))
        else:
            context = unpinned if kind == "unpinned" else bare
            await strangers.many(300, lambda: strangers.handshake(port, context))

    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(ends.folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=die_with_parent,
    )
    assert child.stdin is not None and child.stdout is not None

    def state() -> tuple[float, int]:
        child.stdin.write("\n")
        child.stdin.flush()
        return numbers(child.stdout.readline())

    try:
        port = int(child.stdout.readline())
        asyncio.run(strangers.many(20, lambda: strangers.handshake(port, unpinned)))
        size, files = state()
        asyncio.run(attack(port))
        after, left = state()
        assert after - size < 15  # 300 used to take 75 MB
        assert left == files
    finally:
        child.kill()
        child.communicate()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="asks Linux for the memory")
@pytest.mark.parametrize("kind", ["no TLS", "another certificate", "not pinned"])
def test_dialling_in_vain_leaves_nothing_behind(ends: Ends, kind: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await reader.read(10)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async def run() -> tuple[str, str]:
        async with contextlib.AsyncExitStack() as stack:
            if kind == "no TLS":
                server = await asyncio.start_server(answer, "127.0.0.1", 0)
                port = server.sockets[0].getsockname()[1]
                await stack.enter_async_context(server)
            else:
                other = ends.stranger
                pins = ends.registry.pins
                own = Credentials("registry", other.certificate_path, other.key_path, pins)
                if kind == "not pinned":
                    pins = {"stranger": other.certificate.der}
                    own = Credentials("registry", ends.registry.certificate, ends.registry.key, pins)
                told = lambda line: None  # noqa: E731
                port = (await stack.enter_async_context(listen(own, "127.0.0.1:0", "host", told))).port
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", CHILD, str(ends.folder), str(port), "100"),
                stdout=subprocess.PIPE,
            )
            out, _ = await child.communicate()
            before, after = out.decode().splitlines()
            return before, after

    (size, files), (after, left) = map(numbers, asyncio.run(run()))
    assert after - size < 15  # 100 failures used to take 27 MB and more
    assert left == files


# --- Bounds ---


def silent(port: int, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), 5, source_address=(source, 0))


async def is_closed(caller: socket.socket) -> bool:
    caller.setblocking(False)
    try:
        return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(caller, 1), 0.05) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer connections than a test can open in a second."""
    monkeypatch.setattr(admission, "WAITING", 48)
    monkeypatch.setattr(admission, "AN_ADDRESS", 16)
    monkeypatch.setattr(admission, "FIRST", 60.0)


@pytest.mark.usefixtures("small")
def test_the_oldest_silent_connection_of_an_address_gives_way(ends: Ends) -> None:
    lines: list[str] = []

    async def run() -> None:
        async with registry(ends, lines) as listener:
            waiting = listener._admission._waiting
            callers = []
            for number in range(26):
                callers.append(silent(listener.port))
                await until(lambda n=number: len(waiting) + len(lines) == n + 1)
            assert len(waiting) == 16
            closed = [await is_closed(caller) for caller in callers]
            assert closed == [True] * 10 + [False] * 16
            for caller in callers:
                caller.close()
            await until(lambda: not waiting)

    asyncio.run(run())
    gave_way = "refused a connection from 127.0.0.1: it said nothing and gave way to newer connections"
    assert lines.count(gave_way) == 10


@pytest.mark.usefixtures("small")
def test_a_crowd_of_one_address_does_not_push_out_another(ends: Ends) -> None:
    async def run() -> None:
        async with registry(ends) as listener:
            waiting = listener._admission._waiting
            lonely = silent(listener.port, "127.0.0.2")
            await until(lambda: len(waiting) == 1)
            crowd = [silent(listener.port) for _ in range(40)]
            await until(lambda: len(waiting) == 17)
            assert not await is_closed(lonely)
            # Of many addresses the fullest gives way, and there are never more than so many.
            others = [silent(listener.port, f"127.0.1.{n}") for n in range(40)]
            await until(lambda: listener._admission._crowd["127.0.1.39"] == 1)
            assert len(waiting) == 48
            assert listener._admission._crowd["127.0.0.1"] == 7
            assert not await is_closed(lonely)
            for caller in (lonely, *crowd, *others):
                caller.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"", "it said nothing within"),
        (b"\x16", "it sent no whole first message within"),
        (first_message(client_context())[:-1], "it sent no whole first message within"),
    ],
    ids=["nothing", "a byte", "all but the last"],
)
def test_who_does_not_say_its_first_message_is_let_go(
    ends: Ends, monkeypatch: pytest.MonkeyPatch, said: bytes, words: str
) -> None:
    assert admission.FIRST == 2.0
    monkeypatch.setattr(admission, "FIRST", 0.1)
    monkeypatch.setattr(admission, "WHOLE", 0.3)
    lines: list[str] = []

    async def run() -> None:
        async with registry(ends, lines) as listener:
            with silent(listener.port) as caller:
                caller.sendall(said)
                await until(lambda: lines)
                assert await is_closed(caller)

    asyncio.run(run())
    assert words in lines[0]


def test_a_handshake_that_stands_still_gives_way(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """Strangers do not depend on each other either: one that means it has its turn within seconds."""
    monkeypatch.setattr(admission, "STRANGERS", Lane(2, 0.0, 0.2))
    lines: list[str] = []
    hello = first_message(client_context())

    async def run() -> None:
        async with registry(ends, lines) as listener:
            stuck = [silent(listener.port) for _ in range(4)]
            for caller in stuck:
                caller.sendall(hello)
            await until(lambda: len(listener._admission._strangers.tasks) == 2)
            own = client_context(ends.stranger.certificate_path, ends.stranger.key_path)
            await strangers.handshake(listener.port, own)
            await until(lambda: any("is not pinned" in line for line in lines))
            for caller in stuck:
                caller.close()

    asyncio.run(run())
    still = "refused a connection from 127.0.0.1: its handshake stood still and gave way to others"
    assert still in lines


def test_whoever_comes_from_elsewhere_has_its_turn_first(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "STRANGERS", Lane(1, 0.0, 0.3))
    hello = first_message(client_context())
    order: list[str] = []

    async def run() -> None:
        async with registry(ends) as listener:
            welcome = listener._admission._welcome

            async def noted(caller: admission.Caller) -> None:
                order.append(caller.address)
                await welcome(caller)

            monkeypatch.setattr(listener._admission, "_welcome", noted)
            callers = [silent(listener.port) for _ in range(8)]
            for caller in callers:
                caller.sendall(hello)
            await until(lambda: len(listener._admission._strangers.queue) == 7)
            callers.append(silent(listener.port, "127.0.0.2"))
            callers[-1].sendall(hello)
            await until(lambda: len(order) >= 3)
            for caller in callers:
                caller.close()

    asyncio.run(run())
    assert order[1] == "127.0.0.2"


def test_without_file_descriptors_the_service_goes_on(ends: Ends) -> None:
    resource = pytest.importorskip("resource")
    lines: list[str] = []

    async def run() -> None:
        async with registry(ends, lines) as listener:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            in_use = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
            callers = [socket.socket() for _ in range(20)]
            resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + 22, hard))
            try:
                for caller in callers:
                    caller.setblocking(False)
                    await asyncio.get_running_loop().sock_connect(caller, ("127.0.0.1", listener.port))
                await until(lambda: lines)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                for caller in callers:
                    caller.close()
            peer = await call(ends, listener)
            await peer.close()

    asyncio.run(run())


def test_a_bug_does_not_end_the_service(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []

    def broken(mark: bytes) -> None:
        raise KeyError("a secret")

    async def run() -> None:
        async with registry(ends, lines) as listener:
            with monkeypatch.context() as patch:
                patch.setattr(listener._admission, "_peer_of_mark", broken)
                with contextlib.suppress(VflError):
                    await call(ends, listener, wait=0)
            await (await call(ends, listener)).close()

    asyncio.run(run())
    assert "a fault of vfl itself" in lines[0] and "secret" not in str(lines)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("nowhere", "nowhere"),
    ],
)
def test_what_counts_as_one_address(address: str, network: str) -> None:
    assert network_of(address) == network


# --- Marks ---


def hello_of(credentials: Credentials) -> bytes:
    (pin,) = credentials.pins.values()
    return first_message(context_of(credentials, ssl.PROTOCOL_TLS_CLIENT, [pin]))


def test_a_mark_serves_once(ends: Ends) -> None:
    """A first message that somebody has recorded gives no place in the peer's lane."""

    async def run() -> None:
        async with registry(ends) as listener:
            found = listener._admission
            hello = hello_of(ends.insurer)
            callers = [silent(listener.port) for _ in range(3)]
            for caller in callers:
                caller.sendall(hello)
                await asyncio.sleep(0.05)
            await until(lambda: len(found.handshakes) == 3)
            assert len(found._peers["insurer"].tasks) == 1
            assert len(found._strangers.tasks) == 2
            for caller in callers:
                caller.close()

    asyncio.run(run())


def test_marks_that_others_make_do_not_keep_the_peer_out(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has both certificates can make them; from elsewhere they do not take the peer's turn."""
    monkeypatch.setattr(admission, "PEER", Lane(2, 0.0, 0.3))
    monkeypatch.setattr(admission, "OF_A_PEER", 4)
    lines: list[str] = []

    async def run() -> None:
        async with registry(ends, lines) as listener:
            forged = [silent(listener.port, "127.0.0.2") for _ in range(12)]
            for caller in forged:
                caller.sendall(hello_of(ends.insurer))
            await until(lambda: listener._admission._peers.get("insurer"))
            lane = listener._admission._peers["insurer"]
            await until(lambda: len(lane.tasks) == 2 and len(lane.queue) == 4)
            peer = await call(ends, listener)
            await exchange(peer, await listener.accept(), 1)
            await until(lambda: len(lane.tasks) == 2)
            for caller in forged:
                caller.close()
            peer.drop()

    asyncio.run(run())
    assert {line.split()[4] for line in lines} == {"127.0.0.2:"}


def test_who_shows_no_mark_is_served_too(ends: Ends) -> None:
    """A pinned certificate decides, with or without a mark."""

    async def run() -> None:
        async with registry(ends) as listener:
            own = ends.insurer
            context = client_context(own.certificate, own.key)
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", listener.port, ssl=context, server_hostname="vfl-party"
            )
            writer.write(
                b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: MDEyMzQ1Njc4OTAxMjM0NQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
            assert (await reader.readline()).startswith(b"HTTP/1.1 101 ")
            writer.transport.abort()

    asyncio.run(run())


def test_old_marks_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "MARKS", 3)
    marks = Marks()
    assert [marks.take(bytes([n])) for n in (1, 2, 3, 1, 4, 1)] == [
        True,
        True,
        True,
        False,
        True,
        True,
    ]
