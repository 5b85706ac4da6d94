"""Whole runs of all parties in one process, every frame kept; and a proxy between processes.

The jobs are the real ones over real sockets. A frame is kept as it goes into TLS.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import msgspec
from federation import JOB, Federation, toml
from silent import Silent

from vfl.jobs import alignment, coordinator, host, scoring, training
from vfl.jobs.connect import Site
from vfl.net.hello import Hello
from vfl.net.peer import HEADER
from vfl.net.websocket import WebSocketPeer
from vfl.net.wire import decode
from vfl.party.config import load_job, load_party


@dataclass(frozen=True)
class Sent:
    """A message on the wire."""

    job: str
    sender: str
    receiver: str
    kind: str
    frame: bytes

    @property
    def payload(self) -> bytes:
        return self.frame[HEADER:]


class _Lines(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


ALIGNED = alignment.Plan()


def record(
    federation: Federation,
    wanted: Mapping[str, Any] = JOB,
    *more: Mapping[str, Any],
    plan: alignment.Plan = ALIGNED,
) -> list[Sent]:
    """Align, train each job and score with it; all messages in the order they were sent."""
    sent: list[Sent] = []
    asyncio.run(_record(federation, (wanted, *more), plan, sent))
    return sent


def record_alignment(federation: Federation, plan: alignment.Plan) -> list[Sent]:
    """Align, and no more."""
    sent: list[Sent] = []
    asyncio.run(_record(federation, (), plan, sent))
    return sent


async def _record(
    federation: Federation, wanted: Sequence[Mapping[str, Any]], plan: alignment.Plan, sent: list[Sent]
) -> None:
    offices: dict[str, Site] = {}
    owner: dict[bytes, str] = {}  # of a certificate's fingerprint
    job = "align"
    put = WebSocketPeer._put

    def opened(name: str) -> Site:
        party = federation.parties[name]
        party.write()
        offices[name] = Site.open(load_party(party.file))
        owner[bytes.fromhex(offices[name].identity.certificate.fingerprint)] = name
        return offices[name]

    async def spy(peer: WebSocketPeer, frame: bytes) -> None:
        kind = msgspec.msgpack.decode(frame[HEADER:])[0]
        if kind == "Hello":
            own = decode(frame[HEADER:], [Hello])
            assert isinstance(own, Hello)
            sender = owner[own.fingerprint]
        else:
            sender = owner[peer.hello.seen]
        sent.append(Sent(job, sender, peer.name, kind, frame))
        await put(peer, frame)

    hosts = [name for name in federation.parties if name not in ("insurer", "umpire")]
    shows = {name: _Lines() for name in hosts}
    with mock.patch.object(WebSocketPeer, "_put", spy):
        async with asyncio.TaskGroup() as group:
            serving = [group.create_task(host.serve(opened(name), shows[name])) for name in hosts]
            if "umpire" in federation.parties:
                serving.append(group.create_task(coordinator.coordinate(opened("umpire"), Silent())))
            for name in hosts:
                while not any(line.startswith("listening on ") for line in shows[name].lines):
                    await asyncio.sleep(0.01)
                address = shows[name].lines[-1].removeprefix("listening on ")
                federation.guest.settings["peers"][name]["address"] = address
            site = opened("insurer")
            home = federation.guest.folder
            await alignment.align(site, plan, wait=60, show=Silent())
            for one in wanted:
                job = "train"
                (home / "job.toml").write_text(toml(one))
                trained = await training.train(site, load_job(home / "job.toml"), wait=60, show=Silent())
                job = "score"
                await scoring.score(
                    site, trained.half.name, home / "new.csv", home / "s.csv", wait=60, show=Silent()
                )
            for task in serving:
                task.cancel()


@dataclass
class Proxy:
    """Passes TCP connections on to `target` and keeps what passes, both ways."""

    target: str
    seen: bytearray = field(default_factory=bytearray)
    address: str = ""

    @contextlib.contextmanager
    def running(self) -> Iterator["Proxy"]:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.address = f"127.0.0.1:{listening.getsockname()[1]}"
            threading.Thread(target=self._accept, args=(listening,), daemon=True).start()
            yield self

    def _accept(self, listening: socket.socket) -> None:
        host, _, port = self.target.rpartition(":")
        with contextlib.suppress(OSError):  # closed: the test is over
            while True:
                one, _ = listening.accept()
                other = socket.create_connection((host, int(port)))
                for ends in ((one, other), (other, one)):
                    threading.Thread(target=self._pass, args=ends, daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.seen += data
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
