"""`vfl online` over sockets: TLS, slow and hostile clients, signals, and the command itself."""

import asyncio
import contextlib
import errno
import json
import os
import re
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import commands
import httpx
import pytest
from federation import Party, Running, pinned
from quotes import Made, made, online
from test_online_http import GOOD, SCORE

from vfl.errors import ConfigError
from vfl.models.kinds import save_half
from vfl.online import accepting, server
from vfl.online.service import Online
from vfl.party import identity
from vfl.party.store import Store
from vfl.party.tokens import add_token

BODY = json.dumps({"rows": [GOOD]}).encode()
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" % (len(BODY), BODY)


@contextlib.asynccontextmanager
async def serving(service: Online) -> AsyncIterator[tuple[int, "asyncio.Task[bool]"]]:
    """The port of a service that listens, and its task, which says whether it was ended at once."""
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    service.ready = port.set_result
    await service.begin()
    task = asyncio.create_task(service.run())
    try:
        yield await port, task
    finally:
        if not task.done():
            service.server.stop()
            service.server.stop()
        await task


def serve(service: Online, work: Any) -> Any:
    async def whole() -> Any:
        async with serving(service) as (port, task):
            return await work(port, task)

    return asyncio.run(whole())


def http(port: int, **settings: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, **settings)


def head(length: int, *more: str) -> bytes:
    lines = [f"POST {SCORE} HTTP/1.1", "Host: x", "Content-Type: application/json", *more]
    return "\r\n".join([*lines, f"Content-Length: {length}", "", ""]).encode()


async def said(reader: asyncio.StreamReader) -> bytes:
    """What the service sends until it parts with this client."""
    with contextlib.suppress(ConnectionError):
        return await reader.read()
    return b""


def test_requests_over_tls_and_another_certificate(tmp_path: Path) -> None:
    for name in ("one", "two"):
        identity.create(tmp_path / name, "service")
    certificate, key = tmp_path / "service.pem", tmp_path / "service.key"

    def put(name: str) -> ssl.SSLContext:
        for path in (certificate, key):
            path.write_bytes(Path(f"{tmp_path / name}{path.suffix}").read_bytes())
            os.utime(path, ns=(0, len(name) + int(name == "two")))
        trusting = ssl.create_default_context(cafile=str(certificate))
        trusting.check_hostname = False
        return trusting

    first = put("one")
    settings = {"plain_http": False, "certificate": str(certificate), "key": str(key)}
    service, *_ = online(tmp_path, [made()], **settings)

    async def work(port: int, task: "asyncio.Task[bool]") -> None:
        async def ask(trusting: ssl.SSLContext) -> int:
            async with httpx.AsyncClient(verify=trusting, trust_env=False) as asking:
                return (await asking.get(f"https://127.0.0.1:{port}/healthz")).status_code

        assert await ask(first) == 200
        second = put("two")
        await service.refresh()
        assert await ask(second) == 200
        with pytest.raises(httpx.ConnectError):
            await ask(first)
        key.write_text("no key")
        await service.refresh()  # the one before stays
        assert await ask(second) == 200
        put("one")
        key.write_bytes((tmp_path / "two.key").read_bytes())
        os.utime(key, ns=(0, 1))
        await service.refresh()  # as between the copying of two files
        assert await ask(second) == 200

    serve(service, work)
    with pytest.raises(ConfigError, match="cannot be used as certificate and key"):
        asyncio.run(service.begin())
    key.unlink()
    with pytest.raises(ConfigError, match=r"no file .*service.key, which \[online\] names"):
        asyncio.run(service.begin())


def test_plain_http_to_the_port_of_https_is_told_so(tmp_path: Path) -> None:
    own = identity.create(tmp_path / "service", "service")
    paths = {"certificate": str(tmp_path / "service.pem"), "key": str(tmp_path / "service.key")}
    service, _, quiet = online(tmp_path, [made()], plain_http=False, timeout=3, **paths)
    trusting = ssl.create_default_context(cadata=own.certificate.pem.decode())
    trusting.check_hostname = False

    async def work(port: int, task: "asyncio.Task[bool]") -> None:
        async def send(*pieces: bytes, over: bool = True) -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            if over:
                writer.write_eof()
            found = await said(reader)
            writer.close()
            return found

        async with http(port) as asking:
            for answer in (
                await asking.get("/healthz"),
                await asking.post(SCORE, content=BODY),
                await asking.put("/", content=b"x" * 200_000),
                await asking.delete("/"),
                await asking.request("BREW", "/"),
            ):
                assert answer.status_code == 400
                assert "speaks HTTPS" in answer.json()["error"]
                assert answer.headers["connection"] == "close"
        # It is answered once, however much is asked, and a handshake is none any more.
        request = b"GET /secret-8 HTTP/1.1\r\nHost: x\r\n\r\n"
        assert (await send(*[request] * 50)).count(b"HTTP/1.1 ") == 1
        assert (await send(request, over=False)).count(b"HTTP/1.1 ") == 1  # parted with in time
        assert (await send(request[:2], request[2:])).startswith(b"HTTP/1.1 400 ")
        assert (await send(request, b"\x16\x03\x01\x02\x00\x01")).count(b"HTTP/1.1 ") == 1
        with contextlib.suppress(OSError):  # parted with before it has sent all
            assert (await send(request, *[b"y" * 100_000] * 20)).count(b"HTTP/1.1 ") <= 1
        # What is neither gets what TLS says to it, or nothing.
        for content in (b"secret-8\r\n\r\n", b"\x16\x03\x01\x00\x05hello", b""):
            assert b"HTTP" not in await send(content)
        async with httpx.AsyncClient(verify=trusting, trust_env=False) as asking:
            assert (await asking.get(f"https://127.0.0.1:{port}/healthz")).status_code == 200
        assert (await byte_by_byte(port, trusting)).startswith(b"HTTP/1.1 200 ")

    serve(service, work)
    assert not any("secret-8" in line for line in quiet.lines)


async def byte_by_byte(port: int, trusting: ssl.SSLContext) -> bytes:
    """The answer to a client whose handshake comes in pieces that begin with any byte, a letter too."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(incoming, outgoing, server_hostname="service")

    async def send() -> None:
        for byte in outgoing.read():
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)

    async def done(step: Any) -> Any:
        while True:
            try:
                found = step()
            except ssl.SSLWantReadError:
                await send()
                incoming.write(await reader.read(65_536))
            else:
                await send()
                return found

    await done(client.do_handshake)
    client.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    await send()
    answer: bytes = await done(lambda: client.read(1000))
    writer.close()
    return answer


def test_connections_without_a_handshake_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes memory before anybody knows who it is."""
    own = identity.create(tmp_path / "service", "service")
    paths = {"certificate": str(tmp_path / "service.pem"), "key": str(tmp_path / "service.key")}
    service, _, quiet = online(tmp_path, [made()], plain_http=False, connections=3, **paths)
    trusting = ssl.create_default_context(cadata=own.certificate.pem.decode())
    trusting.check_hostname = False
    monkeypatch.setattr(accepting, "_PAUSE", 0.01)

    async def work(port: int, task: "asyncio.Task[bool]") -> None:
        (acceptor,) = service.server.servers
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        while len(acceptor._greeting) < 3:
            await asyncio.sleep(0.005)
        for _ in range(3):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await said(reader) == b""  # turned away at once
            writer.close()
        for _, writer in idle:
            writer.close()
        while acceptor._greeting:
            await asyncio.sleep(0.005)
        # Where the system has no room, connections wait.
        with monkeypatch.context() as patch:
            patch.setattr(acceptor, "_listening", Full(acceptor._listening))
            asking = asyncio.create_task(
                http(port, verify=trusting).get(f"https://127.0.0.1:{port}/healthz")
            )
            while not any("no connection can be taken for now" in line for line in quiet.lines):
                await asyncio.sleep(0.005)
        assert (await asking).status_code == 200

    serve(service, work)


class Full:
    """A socket that listens, where there is no room for a connection."""

    def __init__(self, listening: socket.socket) -> None:
        self._listening = listening

    def fileno(self) -> int:
        return self._listening.fileno()

    def accept(self) -> None:
        raise OSError(errno.EMFILE, "Too many open files")


def test_sigterm_answers_what_is_asked_and_ends(tmp_path: Path) -> None:
    model = made()
    service, source, quiet = online(tmp_path, [model])
    directory = source.of[model.half.name]["registry"]

    async def work(port: int, task: "asyncio.Task[bool]") -> None:
        async with http(port) as asking, http(port) as idle:
            assert (await idle.get("/healthz")).status_code == 200
            directory.gate = asyncio.Event()
            count = len(directory.asked)
            under_way = asyncio.create_task(asking.post(SCORE, content=BODY))
            while len(directory.asked) == count:
                await asyncio.sleep(0)
            os.kill(os.getpid(), signal.SIGTERM)
            while "ending: no more connections are taken" not in quiet.lines:
                await asyncio.sleep(0.005)
            last = await idle.get("/readyz")  # on a connection from before
            assert last.status_code == 503 and last.headers["connection"] == "close"
            with pytest.raises(httpx.ConnectError):
                async with http(port) as late:
                    await late.get("/healthz")
            assert not task.done()
            directory.gate.set()
            answer = await under_way
            assert answer.status_code == 200 and answer.json()["away"] == []
            assert await task is False

    serve(service, work)
    assert quiet.lines[-1] == "ended: all requests are answered"


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    model = made()
    service, source, quiet = online(tmp_path, [model])
    directory = source.of[model.half.name]["registry"]

    async def work(port: int, task: "asyncio.Task[bool]") -> None:
        directory.gate = asyncio.Event()
        count = len(directory.asked)
        async with http(port) as asking:
            under_way = asyncio.create_task(asking.post(SCORE, content=BODY))
            while len(directory.asked) == count:
                await asyncio.sleep(0)
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
                await asyncio.sleep(0.05)
            assert await task is True
            under_way.cancel()

    serve(service, work)
    assert quiet.lines[-1] == "ended at once"


def test_sighup_has_it_look_for_newer_models(tmp_path: Path) -> None:
    model = made()
    old = replace(model, half=replace(model.half, name="claims-20261101-120000-aaaa"))
    new = replace(model, half=replace(model.half, name="claims-20261102-120000-aaaa"))
    service, source, _ = online(tmp_path, [old], refresh=80_000)

    async def work(port: int, task: "asyncio.Task[bool]") -> None:
        save_half(service.sources.store, new.half)
        source.of[new.half.name] = source.of[old.half.name]
        os.kill(os.getpid(), signal.SIGHUP)
        while list(service.catalogue.models) != [new.half.name]:
            await asyncio.sleep(0.005)

    serve(service, work)


def test_clients_that_are_slow_hold_nobody_up(tmp_path: Path) -> None:
    service, *_ = online(tmp_path, [made()], timeout=0.3, connections=40)

    async def work(port: int, task: "asyncio.Task[bool]") -> None:
        async def slow(*pieces: bytes, forever: bytes = b"") -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for piece in pieces:
                writer.write(piece)
            answer = asyncio.create_task(said(reader))
            with contextlib.suppress(ConnectionError):
                while forever and not answer.done():
                    writer.write(forever)
                    await writer.drain()
                    await asyncio.sleep(0.05)
            found = await answer
            writer.close()
            return found

        silent, byte_by_byte, headers, body, half_body = await asyncio.gather(
            slow(),
            slow(b"POST ", forever=b"x"),
            slow(f"GET {SCORE} HTTP/1.1\r\n".encode(), forever=b"X-A: b\r\n"),
            slow(head(1000), forever=b" "),
            slow(head(1000), b"{"),
        )
        assert silent == byte_by_byte == headers == b""
        for answer in (body, half_body):
            assert answer.startswith(b"HTTP/1.1 408 ")
        async with http(port) as asking:
            assert (await asking.post(SCORE, content=BODY)).status_code == 200

    serve(service, work)


def test_clients_that_read_no_answer_are_parted_with(tmp_path: Path) -> None:
    service, *_ = online(tmp_path, [made()], timeout=0.3)
    many = json.dumps({"rows": [GOOD] * 2000}).encode()

    async def work(port: int, task: "asyncio.Task[bool]") -> None:
        idle = socket.socket()
        idle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        idle.connect(("127.0.0.1", port))
        _, writer = await asyncio.open_connection(sock=idle, limit=1)
        writer.write((head(len(many)) + many) * 40)
        while not service.server.server_state.connections:
            await asyncio.sleep(0.005)
        while service.server.server_state.connections:  # until the service has had enough
            await asyncio.sleep(0.005)
        writer.close()

    serve(service, work)


def test_floods_and_what_is_no_http(tmp_path: Path) -> None:
    service, _, quiet = online(tmp_path, [made()], connections=5)

    async def work(port: int, task: "asyncio.Task[bool]") -> None:
        async def send(content: bytes) -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with contextlib.suppress(ConnectionError):
                writer.write(content)
                await writer.drain()
            found = await said(reader)
            writer.close()
            return found

        chunks = head(0, "Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"")
        flood = f"POST {SCORE} HTTP/1.1\r\nHost: x\r\n".encode()
        flood += b"".join(b"X-%d: %s\r\n" % (i, b"v" * 200) for i in range(500)) + b"\r\n"
        for content, status in (
            (flood, 431),
            (b"GET /" + b"a" * 50_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 500, 400),
            (b"secret-7\r\n\r\n", 400),
            (b"PRI * HTTP/2.0\r\nHost: x\r\n\r\nSM\r\n\r\n", 400),
            (b"GET /healthz HTTP/9.9\r\nHost: x\r\n\r\n", 400),
            # Two lengths, between which another request could hide; and none in the ways of HTTP.
            (head(len(BODY), "Transfer-Encoding: chunked") + CHUNKED, 400),
            (head(5, "Transfer-Encoding: chunked") + CHUNKED, 400),
            (head(len(BODY), "Content-Length: 5") + BODY, 400),
            (head(len(BODY), "Transfer-Encoding: gzip, chunked") + BODY, 400),
            (head(len(BODY), "Transfer-Encoding : chunked") + CHUNKED, 400),
            (chunks + b"1\r\n{\r\n" * 5_000, 400),
            (b"POST /none" + chunks[len("POST " + SCORE) :] + b"1\r\n{\r\n" * 5_000, 400),
            (head(5, "Transfer-Encoding: chunked") + b"zz\r\n", 400),
            (head(-1), 400),
        ):
            answer = await send(content)
            assert answer.startswith(b"HTTP/1.1 %d " % status), (content[:40], answer[:40])
            assert answer.count(b"HTTP/1.1 ") == 1  # and no more of this connection is read
        upgrade = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: upgrade, close\r\nUpgrade: websocket"
        assert (await send(f"{upgrade}\r\n\r\n".encode())).startswith(b"HTTP/1.1 200 ")
        pieces = b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n"  # as it may be
        closing = chunks[:-2] + b"Connection: close\r\n\r\n"
        assert (await send(closing + pieces)).startswith(b"HTTP/1.1 200 ")
        # More connections than there may be: the next one is turned away where all others are asking.
        open_ones = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5)]
        for _, writer in open_ones:
            writer.write(b"GET /")
        while sum(not one._is_idle for one in service.server.server_state.connections) < 5:
            await asyncio.sleep(0.005)
        assert await send(b"") == b""
        for _, writer in open_ones:
            writer.close()
        while service.server.server_state.connections:
            await asyncio.sleep(0.005)
        # It takes the place of one that asks for nothing, of which the first is the one from before.
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5)]
        while len(service.server.server_state.connections) < 5:
            await asyncio.sleep(0.005)
        for reader, writer in idle[:2]:
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200 ")
        for longest in (2, 3, 4, 0):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200 ")
            idle.append((reader, writer))
            assert await said(idle[longest][0]) == b""
        for _, writer in idle:
            writer.close()
        async with http(port) as asking:
            assert (await asking.post(SCORE, content=BODY)).status_code == 200

    serve(service, work)
    assert not any("secret-7" in line for line in quiet.lines)


@pytest.fixture
def guest(tmp_path: Path) -> Party:
    """A guest with a model of its own columns alone."""
    folder = tmp_path / "insurer"
    own = identity.create(folder / "keys" / "insurer", "insurer")
    identity.create(folder / "other" / "registry", "registry")
    model: Made = made("secureboost", "binary", ())
    mine = {"insurer": own.certificate.fingerprint}
    parties = replace(model.half.model, parties=("insurer",))  # type: ignore[type-var]
    save_half(Store(folder / "vfl-store"), replace(model.half, fingerprints=mine, model=parties))
    data: dict[str, Any] = {
        "path": "policies.csv",
        "id": "plate",
        "categorical": ["area"],
        "dates": {"born": {"as": "year", "order": "dmy"}},
    }
    peers = {"registry": {**pinned("registry"), "certificate": "other/registry.pem"}}
    listen = {"name": "insurer", "role": "guest", "identity": "keys/insurer", "listen": "127.0.0.1:0"}
    section = {"listen": "127.0.0.1:0", "plain_http": True}
    return Party("insurer", folder, {"party": listen, "data": data, "online": section, "peers": peers})


def port_of(running: Running) -> int:
    lines = running.until("listening on http://127.0.0.1:")
    found = re.search(r"listening on http://127.0.0.1:(\d+)", "\n".join(lines))
    assert found is not None
    return int(found[1])


def test_the_command_serves_until_it_is_told_to_end(guest: Party) -> None:
    missing = guest.run("online")
    assert missing.failed(ConfigError.exit_code, "no file of tokens", "vfl online token NAME")
    token = add_token(guest.folder / "online-tokens.toml", "quotes", ["score", "explain"])
    running = guest.start("online")
    with httpx.Client(base_url=f"http://127.0.0.1:{port_of(running)}", trust_env=False) as asking:
        row = {"age": 40, "born": "1.2.1980", "area": "urban"}
        body = {"rows": [row], "explain": True}
        answer = asking.post(SCORE, json=body, headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 200, answer.text
        assert 0 < answer.json()["results"][0]["prediction"] < 1
        assert asking.post(SCORE, json=body).status_code == 401
    running.signal(signal.SIGTERM)
    done = running.wait()
    assert (done.code, done.out) == (0, "")
    assert running.err.splitlines()[-1] == "ended: all requests are answered"
    # With a request that does not come to its end a second signal ends it at once.
    again = guest.start("online")
    with socket.create_connection(("127.0.0.1", port_of(again))) as slow:
        slow.sendall(head(1000, f"Authorization: Bearer {token}", "Expect: 100-continue"))
        assert slow.recv(100).startswith(b"HTTP/1.1 100 ")  # it is waited for
        again.signal(signal.SIGTERM)
        again.until("ending: no more connections are taken")
        again.signal(signal.SIGTERM)
        assert again.wait().code == 130
    assert "ended at once" in again.err
    guest.close([token, "1.2.1980"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"online": None}, "has no section [online]"),
        ({"online": {"listen": "127.0.0.1:0"}}, "certificate and key are missing"),
        ({"online": {"plain_http": True, "without_tokens": True, "models": ["x"]}}, "no model x"),
    ],
)
def test_what_the_command_cannot_begin_with(guest: Party, change: dict[str, Any], said: str) -> None:
    guest.settings |= change
    guest.settings = {name: section for name, section in guest.settings.items() if section is not None}
    done = guest.run("online")
    assert done.code != 0 and len(done.errors) == 1 and said in done.errors[0]
    guest.close([])


def test_without_its_extra_the_command_says_what_to_install(
    guest: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest.write()
    for name in ("vfl.online.http", "vfl.online.service"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)  # type: ignore[arg-type]
    done = commands.command("online", guest.file.name, folder=guest.folder)
    done.failed(ConfigError.exit_code, "fastapi is not installed", "pip install 'vfl[online]'")


def test_what_is_written_at_a_time_leaves_together() -> None:
    left: list[bytes] = []
    ended: list[str] = []

    class Wire(asyncio.Transport):
        def write(self, data: bytes | bytearray | memoryview) -> None:
            left.append(bytes(data))

        def is_closing(self) -> bool:
            return bool(ended)

        def close(self) -> None:
            ended.append("closed")

        def abort(self) -> None:
            ended.append("aborted")

    async def work() -> None:
        joined = server._Joined(Wire(), asyncio.get_running_loop())
        joined.write(b"head ")
        joined.write(bytearray(b"body"))
        assert left == []
        await asyncio.sleep(0)
        assert left == [b"head body"]
        joined.write(b"one")
        joined.close()  # what was written before it is sent
        joined.write(b"late")
        await asyncio.sleep(0)
        assert left == [b"head body", b"one"] and ended == ["closed"]
        other = server._Joined(Wire(), asyncio.get_running_loop())
        ended.clear()
        other.write(b"lost")
        other.abort()
        await asyncio.sleep(0)
        assert left == [b"head body", b"one"] and ended == ["aborted"]

    asyncio.run(work())
