"""A peer that is pinned and hostile: what its sessions may hold, and for how long, before a job."""

import asyncio
import contextlib
import json
import ssl
import struct
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from ends import Ends, Number, call, exchange, made_in, registry, until
from federation import Federation, make_tables
from silent import Silent
from websockets.asyncio.connection import Connection
from websockets.exceptions import ConnectionClosedError

from vfl.errors import ConfigError, PeerError, PeerLost, PeerStopped
from vfl.jobs import connect, coordinator, host, journal
from vfl.jobs.connect import OPENING, Site, connect_hosts
from vfl.jobs.offer import Accept, Gathered, Join, Offer, new_run
from vfl.net import open_sessions, websocket, window
from vfl.net.connection import PIECES
from vfl.net.hello import Hello, Resume, Resumed
from vfl.net.peer import HEADER, Stop
from vfl.net.tls import context_of
from vfl.net.websocket import Listener, WebSocketPeer
from vfl.net.window import GREETING, Opening
from vfl.net.wire import KIB, MAX_MESSAGE, MIB, Message
from vfl.party import config
from vfl.party.config import MAX_KEYS, Job, load_party

SMALL = Opening(frame=64 * KIB, window=128 * KIB)


class Block(Message, frozen=True):
    limit: ClassVar[int] = MAX_MESSAGE
    data: bytes


class Said(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Ends:
    return made_in(tmp_path_factory.mktemp("keys"))


@contextlib.asynccontextmanager
async def opened(ends: Ends) -> AsyncIterator[tuple[WebSocketPeer, WebSocketPeer]]:
    """(the insurer's end, the registry's): greeted, without a job."""
    async with registry(ends, opening=SMALL) as listener:
        here = await call(ends, listener)
        there = await listener.accept()
        try:
            yield here, there
        finally:
            here.drop()
            there.drop()


def frame(opcode: int, data: bytes = b"", *, fin: bool = True, size: int | None = None) -> bytes:
    """A frame as a client sends it, under the mask of zeros; `size` is what it says of its length."""
    length = len(data) if size is None else size
    head = bytes([0x80 * fin | opcode])
    if length < 126:
        head += bytes([0x80 | length])
    else:
        head += bytes([0x80 | 127]) + struct.pack("!Q", length)
    return head + bytes(4) + data


async def line(ends: Ends, listener: Listener) -> Connection:
    """A connection of the insurer's before any greeting."""
    address = f"127.0.0.1:{listener.port}"
    return await websocket._Line(ends.insurer, "registry", address, None).connect("/", 10)


# --- What arrives ---


def test_a_greeting_is_bounded_while_it_arrives(ends: Ends) -> None:
    """The length alone is enough: nothing of 32 MiB is waited for, let alone kept."""
    lines: list[str] = []

    async def run() -> None:
        async with registry(ends, lines) as listener:
            connection = await line(ends, listener)
            connection.transport.write(frame(2, bytes(1000), size=GREETING.frame + 1))
            await until(lambda: lines)
            connection.transport.abort()

    asyncio.run(run())
    larger = "insurer broke the protocol: it sent a frame larger than any message that was due"
    assert lines == [f"refused a connection from 127.0.0.1: {larger}"]


@pytest.mark.parametrize("path", [websocket.BEGIN, websocket.GO_ON])
def test_an_answer_is_bounded_while_it_arrives(
    ends: Ends, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """At the end that dials: a large frame in place of the answer, and behind it."""

    async def run() -> None:
        async with registry(ends) as listener:
            answers = [bytes([0x82, 10]) + bytes(10), b""]
            large = bytes([0x82, 127]) + struct.pack("!Q", 5 * MIB) + bytes(5 * MIB)

            async def answer(name: str, connection: Connection) -> None:
                connection.transport.write(answers[0] + large)
                await connection.wait_closed()

            monkeypatch.setattr(listener, "_begin", answer)
            monkeypatch.setattr(listener, "_resume", answer)
            found = websocket._Line(ends.insurer, "registry", f"127.0.0.1:{listener.port}", None)
            connection = await found.connect(path, 10)
            assert await connection.recv() == bytes(10)
            assert await connection.receive() == bytes(5 * MIB)
            connection.transport.abort()
            answers[:] = [b""]
            connection = await found.connect(path, 10)
            with pytest.raises(ConnectionClosedError) as closed:
                await connection.recv()
            assert closed.value.sent is not None and closed.value.sent.code == 1009
            connection.transport.abort()

    asyncio.run(run())


def test_no_frame_before_a_job_is_larger_than_a_first_message(ends: Ends) -> None:
    async def run() -> None:
        async with opened(ends) as (here, there):
            await exchange(here, there, 1)
            assert here._link is not None
            here._link.connection.transport.write(frame(2, bytes(1000), size=SMALL.frame + 1))
            with pytest.raises(
                PeerError, match=r"insurer .* a frame larger than any message that was due"
            ):
                await there.recv(Number)

    asyncio.run(run())


def test_a_session_without_a_job_holds_little(ends: Ends) -> None:
    async def run() -> None:
        async with opened(ends) as (here, there):
            for _ in range(3):
                await here.send(Block(bytes(SMALL.window // 3)))
            await until(lambda: there.lost)
            with pytest.raises(PeerError, match=r"insurer .* more than it was allowed to send"):
                while True:
                    await there._get()

    asyncio.run(run())


def test_with_a_job_the_whole_window_is_open_on_every_connection(ends: Ends) -> None:
    async def run() -> None:
        async with registry(ends, patience=20, opening=SMALL) as listener:
            here = await call(ends, listener, patience=20)
            there = await listener.accept()
            assert not there.has_job
            for peer in (here, there):
                peer.bind(b"a job")
            assert there.has_job
            for _ in range(2):
                for one, two in ((here, there), (there, here)):
                    await one.send(Block(bytes(5 * MIB)))
                    assert len((await two.recv(Block)).data) == 5 * MIB
                assert here._link is not None
                here._link.connection.transport.abort()
            await asyncio.gather(here.close(), there.close())

    asyncio.run(run())


def test_a_session_without_a_job_stays_bounded_when_it_goes_on(ends: Ends) -> None:
    async def run() -> None:
        async with registry(ends, patience=20, opening=SMALL) as listener:
            here = await call(ends, listener, patience=20)
            there = await listener.accept()
            assert here._link is not None
            here._link.connection.transport.abort()
            await exchange(here, there, 1)
            here._link.connection.transport.write(frame(2, bytes(1000), size=SMALL.frame + 1))
            with pytest.raises(PeerError, match="a frame larger than any message that was due"):
                await there.recv(Number)
            here.drop()

    asyncio.run(run())


def test_all_first_messages_fit() -> None:
    """Of every message that is sent before both ends are bound to a job."""
    envelope = HEADER + 64
    assert Hello.limit + envelope <= GREETING.frame
    for kind in (Resume, Resumed):
        assert kind.limit + envelope <= GREETING.frame
    for kind in (Offer, Accept, Join, Gathered, Stop):
        assert kind.limit + envelope <= OPENING.frame, kind
    assert OPENING.window >= Join.limit + Stop.limit + 2 * (envelope + window.OVERHEAD)


@pytest.mark.parametrize("opcode", [9, 10], ids=["ping", "pong"])
def test_pings_are_a_breach(ends: Ends, opcode: int) -> None:
    """The answers to those of a peer that reads nothing would pile up."""

    async def run() -> None:
        async with opened(ends) as (here, there):
            await exchange(here, there, 1)
            assert here._link is not None and there._link is not None
            connection = there._link.connection
            here._link.connection.transport.write(frame(opcode, b"x" * 125) * 1000)
            with pytest.raises(PeerError, match="bytes that are no frame"):
                await there.recv(Number)
            assert connection.is_closing  # and holds nothing any more that waits to be written

    asyncio.run(run())


def test_flow_reports_without_end_are_a_breach(ends: Ends) -> None:
    """They cost little to send and keep the event loop from all others."""

    async def run() -> None:
        async with opened(ends) as (here, there):
            assert here._link is not None
            here._link.connection.transport.write(frame(1, b"0") * 5000)
            with pytest.raises(PeerError, match="insurer broke the protocol: it sent flow reports"):
                await there.recv(Number)

    asyncio.run(run())


@pytest.mark.parametrize("piece", [b"", b"x"])
def test_a_message_in_too_many_pieces_is_refused(ends: Ends, piece: bytes) -> None:
    async def run() -> None:
        async with opened(ends) as (here, there):
            await exchange(here, there, 1)
            assert here._link is not None
            pieces = frame(2, piece, fin=False) + frame(0, piece, fin=False) * PIECES
            here._link.connection.transport.write(pieces)
            with pytest.raises(PeerError, match="a frame larger than any message"):
                await there.recv(Number)

    asyncio.run(run())


def test_as_many_pieces_as_there_may_be(ends: Ends) -> None:
    async def run() -> None:
        async with opened(ends) as (here, there):
            assert here._link is not None
            many = frame(2, b"", fin=False) + frame(0, fin=False) * (PIECES - 2) + frame(0)
            for _ in range(2):
                here._link.connection.transport.write(many)
                assert await there._get() == b""

    asyncio.run(run())


# --- Handshakes of a pinned peer ---


async def pinned(ends: Ends, listener: Listener) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The insurer's TLS, and nothing after it."""
    pin = ends.insurer.pins["registry"]
    context = context_of(ends.insurer, ssl.PROTOCOL_TLS_CLIENT, [pin])
    return await asyncio.open_connection(
        "127.0.0.1", listener.port, ssl=context, server_hostname="vfl-party"
    )


REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    "said",
    [
        REQUEST + b"A: " + b"x" * 9000 + b"\r\n",
        REQUEST + b"".join(b"A%d: x\r\n" % n for n in range(300)),
        b"GET /" + b"x" * 9000,
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n",
        b"\x00" * 10_000,
    ],
    ids=["a long header", "many headers", "a long path", "a body", "no HTTP"],
)
def test_large_requests_are_refused(ends: Ends, said: bytes) -> None:
    lines: list[str] = []

    async def run() -> None:
        async with registry(ends, lines) as listener:
            reader, writer = await pinned(ends, listener)
            writer.write(said)
            with contextlib.suppress(OSError):
                while await reader.read(65536):
                    pass
            writer.transport.abort()
            await until(lambda: lines)
            await (await call(ends, listener)).close()

    asyncio.run(run())
    assert len(lines) == 1


@pytest.mark.parametrize("where", ["request", "greeting", "frame"])
def test_one_byte_at_a_time_is_too_slow(ends: Ends, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """TLS, request and greeting have one time limit for all of them."""
    monkeypatch.setattr(websocket, "HANDSHAKE", 0.8)
    lines: list[str] = []

    async def run() -> None:
        async with registry(ends, lines) as listener:
            if where == "request":
                _, writer = await pinned(ends, listener)
                write = writer.transport.write
            else:
                connection = await line(ends, listener)
                write = connection.transport.write
            said = {"request": REQUEST, "greeting": b"", "frame": frame(2, bytes(500))}[where]
            for byte in said:
                if lines:
                    break
                write(bytes([byte]))
                await asyncio.sleep(0.1)
            await until(lambda: lines)

    asyncio.run(run())
    assert lines == ["refused a connection from 127.0.0.1: no handshake within 1 s"]


# --- Many sessions ---


def test_the_sessions_of_one_peer_are_bounded(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest that has no job gives way; one with a job never does."""
    monkeypatch.setattr(open_sessions, "A_PEER", 4)
    lines: list[str] = []

    async def run() -> None:
        async with registry(ends, lines, opening=SMALL) as listener:
            pairs = []
            for number in range(7):
                here = await call(ends, listener)
                there = await listener.accept()
                pairs.append((here, there))
                if number == 1:
                    for peer in (here, there):
                        peer.bind(b"a job")
            await until(lambda: sum(not there.lost for _, there in pairs) == 4)
            assert [there.lost for _, there in pairs] == [True, False, True, True, False, False, False]
            for here, _ in (pairs[0], pairs[2], pairs[3]):
                with pytest.raises(PeerLost, match="registry closed the connection"):
                    await here.recv(Number)
            await exchange(*pairs[1], 1)
            for _, there in pairs[4:]:
                there.bind(b"a job")
            late = await call(ends, listener)
            with pytest.raises(PeerLost, match="registry closed the connection"):
                await late.recv(Number)
            await until(lambda: lines)
            for pair in pairs:
                for peer in pair:
                    peer.drop()

    asyncio.run(run())
    assert lines == ["refused a connection from 127.0.0.1: insurer has too many jobs already"]


def test_a_session_that_will_not_be_closed_holds_nobody_up(ends: Ends) -> None:
    async def run() -> None:
        async with registry(ends) as listener:
            here = await call(ends, listener)
            unwanted = await listener.accept()
            assert here._link is not None
            here._link.connection.transport.pause_reading()
            here._link.connection.transport.write = lambda data: None  # it does not answer either
            listener.dismiss(unwanted)
            other = await call(ends, listener)
            await exchange(other, await listener.accept(), 1)
            here.drop()
            other.drop()

    asyncio.run(run())


# --- Sessions without a job ---


@pytest.fixture
def made(tmp_path: Path, keys: Path) -> Federation:
    """Files of all parties; nobody runs."""
    federation = Federation(tmp_path / "f", keys, tables=make_tables(60), coordinator=True)
    for name, party in federation.parties.items():
        if name not in ("insurer", "umpire"):
            party.settings["party"]["listen"] = "127.0.0.1:0"
            federation.guest.settings["peers"][name]["address"] = "127.0.0.1:1"
    for party in federation.parties.values():
        party.write()
    return federation


def site(made: Federation, name: str) -> Site:
    return Site.open(load_party(made.parties[name].file))


@pytest.mark.parametrize("name", ["registry", "umpire"])
def test_a_session_that_never_makes_an_offer_ends(
    made: Federation, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(host, "_OFFER", 0.2)
    monkeypatch.setattr(coordinator, "_JOIN", 0.2)
    own, insurer = site(made, name), site(made, "insurer")

    async def run() -> None:
        async with own.listen("127.0.0.1:0", Said()) as listener:
            here = await insurer.dial(name, f"127.0.0.1:{listener.port}", 5, Said())
            there = await listener.accept()
            if name == "umpire":
                serving = coordinator._session(own, there, {}, Said(), 5)
            else:
                serving = host.serve_session(own, there, Said())
            task = asyncio.create_task(serving)
            with pytest.raises(
                PeerStopped, match=f"{name} stopped the job: no job came in time"
            ) as told:
                await here.recv(Accept)
            assert told.value.passing
            await task
            await until(lambda: not listener._sessions)

    asyncio.run(run())


def test_a_guest_dials_again_a_host_that_let_go_while_others_were_awaited(
    made: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The registry holds no session for ever, and the bureau is late."""
    monkeypatch.setattr(host, "_OFFER", 0.3)
    monkeypatch.setattr(connect, "_AGAIN", 0.1)
    offices = {name: site(made, name) for name in ("registry", "bureau")}
    served = []

    async def serve(own: Site, listener: Listener) -> None:
        while True:
            peer = await listener.accept()
            served.append(own.party.name)
            task = asyncio.create_task(host.serve_session(own, peer, Said()))
            tasks.append(task)

    async def run() -> None:
        async with contextlib.AsyncExitStack() as stack:
            first = await stack.enter_async_context(offices["registry"].listen("127.0.0.1:0", Said()))
            tasks.append(asyncio.create_task(serve(offices["registry"], first)))
            peers = made.guest.settings["peers"]
            peers["registry"]["address"] = f"127.0.0.1:{first.port}"
            late = await stack.enter_async_context(offices["bureau"].listen("127.0.0.1:0", Said()))
            peers["bureau"]["address"] = f"127.0.0.1:{late.port}"
            made.guest.write()
            insurer = site(made, "insurer")
            held = insurer.dial

            async def dial(name: str, *rest: Any) -> WebSocketPeer:
                if name == "bureau":
                    await asyncio.sleep(1)  # no session with the registry lasts that long
                return await held(name, *rest)

            object.__setattr__(insurer, "dial", dial)
            hosts = await connect_hosts(insurer, ["registry", "bureau"], 30, Said(), None)
            assert [one.name for one in hosts] == ["registry", "bureau"]
            assert not any(one.lost for one in hosts if isinstance(one, WebSocketPeer))
            assert served.count("registry") >= 2
            for one in hosts:
                await one.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    tasks: list[asyncio.Task[None]] = []
    asyncio.run(run())


def test_a_guest_that_is_interrupted_while_it_waits_tells_who_is_there(made: Federation) -> None:
    async def run() -> None:
        async with site(made, "registry").listen("127.0.0.1:0", Said()) as listener:
            peers = made.guest.settings["peers"]
            peers["registry"]["address"] = f"127.0.0.1:{listener.port}"
            peers["bureau"]["address"] = "127.0.0.1:1"  # nobody is there
            made.guest.write()
            insurer, here = site(made, "insurer"), asyncio.Event()
            held = insurer.dial

            async def dial(*to: Any) -> WebSocketPeer:
                peer = await held(*to)
                here.set()
                return peer

            object.__setattr__(insurer, "dial", dial)
            work = connect_hosts(insurer, ["registry", "bureau"], 60, Said(), None)
            waiting = asyncio.create_task(work)
            there = await listener.accept()
            await here.wait()
            waiting.cancel()
            with pytest.raises(PeerStopped, match="it was interrupted by its operator"):
                await there.recv(Accept)
            with pytest.raises(asyncio.CancelledError):
                await waiting

    asyncio.run(run())


# --- Texts of jobs ---


def settings() -> dict[str, Any]:
    job = {"name": "x", "purpose": "p", "model": "glm", "family": "logistic"}
    return Job.model_validate({"job": job}).settings


def canonical(body: object) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    "extra",
    [
        {f"k{n}": 1 for n in range(6000)},
        {"job": {**{f"k{n}": 1 for n in range(MAX_KEYS)}}},
        {"glm": {f"tolerancf{n}": 1 for n in range(3000)}},
        {"x": [{"a": 1}] * 5000},
        {"x": [[[{"a": {"b": {}}}] * 30] * 10] * 5},
    ],
    ids=["unknown", "in a section", "near misses", "in a list", "deep"],
)
def test_a_job_with_many_keys_is_not_looked_at(
    monkeypatch: pytest.MonkeyPatch, extra: dict[str, Any]
) -> None:
    text = canonical({**settings(), **extra})
    assert len(text) <= config.MAX_JOB
    monkeypatch.setattr(Job, "model_validate", None)  # which would look at each of them
    with pytest.raises(ConfigError, match=f"^the job received has over {MAX_KEYS} keys$") as error:
        Job.from_canonical(text)
    assert error.value.for_peer == str(error.value)


def test_a_job_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read, text = [], canonical(settings())
    true = Job.model_validate
    monkeypatch.setattr(
        Job, "model_validate", lambda *given, **more: read.append(1) or true(*given, **more)
    )
    config._parse_received.cache_clear()
    first = Job.from_canonical(text)
    assert Job.from_canonical(text) is first and len(read) == 1
    assert first.canonical == text


def test_a_host_reads_a_job_beside_its_event_loop(
    made: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, insurer = site(made, "registry"), site(made, "insurer")
    threads: list[threading.Thread] = []
    true = Job.model_validate

    def noted(*given: Any, **more: Any) -> Job:
        threads.append(threading.current_thread())
        return true(*given, **more)

    async def run() -> None:
        async with own.listen("127.0.0.1:0", Said()) as listener:
            here = await insurer.dial("registry", f"127.0.0.1:{listener.port}", 5, Said())
            there = await listener.accept()
            serving = asyncio.create_task(host.serve_session(own, there, Said()))
            job = canonical(settings())
            offer = Offer("train", new_run(), ["registry"], [], "a", "m", job)
            config._parse_received.cache_clear()
            monkeypatch.setattr(Job, "model_validate", noted)
            await here.send(offer)
            with pytest.raises(PeerStopped, match="an Offer without the certificates of its parties"):
                await here.recv(Accept)
            await serving

    asyncio.run(run())
    assert len(threads) == 1 and threads[0] is not threading.main_thread()


@pytest.mark.parametrize(
    ("text", "title"),
    [
        (canonical(settings()), ("x", "p")),
        (canonical({"job": {"name": "x", "purpose": "p", "other": [1] * 1000}}), ("x", "p")),
        (b"", (None, None)),
        (b"\xff", (None, None)),
        (b"[" * 60_000, (None, None)),
        (canonical({"job": {"name": "x\n", "purpose": "p"}}), (None, None)),
        (canonical({"job": {"name": "../x", "purpose": "p"}}), (None, None)),
        (canonical({"job": {"name": "x", "purpose": "p\x1b[31m"}}), (None, None)),
        (canonical({"job": {"name": "x", "purpose": "p" * 201}}), (None, None)),
        (canonical({"job": {"name": 7, "purpose": "p"}}), (None, None)),
    ],
)
def test_the_title_of_a_job_in_the_ledger(text: bytes, title: tuple[str | None, str | None]) -> None:
    assert journal._title(text) == title
