"""`vfl online`: latency of single quotes at a fixed rate, batches, and a host that is killed meanwhile.

    python benchmarks/online.py
    python benchmarks/online.py --seconds 600 --rate 200 --json

An insurer and two hosts, each a process of its own, mutual TLS between them; HTTP over TLS to the
clients, which are a process as well. Trees are full and drawn at random, tables made up (as in
scoring.py); hosts publish sealed directories, know nine rows in ten and answer every quote. Quotes leave
at their times whatever has become of earlier ones (an open loop), and their latency counts from then.
Then batches, one after another; then quotes again while a host is killed and started anew: answers in
between say that it was away, and none may fail. Everything runs on this machine, over its loopback, or
with --delay between network namespaces. With --malformed requests and lookups follow that nobody should
send.

    python benchmarks/online.py --minutes 10
    python benchmarks/online.py --delay 10 --phases quotes    # 20 ms there and back
    python benchmarks/online.py --phases quotes --seconds 5 --malformed 100000
"""

import argparse
import asyncio
import contextlib
import ctypes
import json
import multiprocessing
import os
import re
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import malformed
import numpy as np
import pandas as pd
from line import give_addresses
from parties import HERE, show
from scoring import PARTIES, columns, halves

from vfl import local
from vfl.models.halves import GuestHalf, HostHalf
from vfl.models.kinds import save_half
from vfl.party.identity import load_certificate
from vfl.party.store import Store
from vfl.party.tokens import add_token

sys.path.insert(0, str(HERE.parent / "tests"))
from lines import Condition, Network, lacking

MODEL = "quotes-20261101-120000-aaaa"
RULE = ("nfkc", "trim", "upper", "alnum")
VFL = [sys.executable, "-m", "vfl.cli"]
PATIENCE = 300.0
PHASES = ("quotes", "batches", "killed")
_CLONE_NEWNET = 0x40000000


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=float, default=200, help="single quotes a second")
    parser.add_argument(
        "--seconds", type=float, default=30, help="of quotes; a third as long with a kill"
    )
    parser.add_argument("--minutes", type=float, help="the same in minutes")
    parser.add_argument(
        "--delay",
        type=float,
        help="parties in network namespaces, so many ms apart each way; as root",
    )
    parser.add_argument(
        "--malformed", type=int, default=0, help="requests and lookups that nobody should send"
    )
    parser.add_argument("--attacks", type=int, help="of these the lookups, if not as many as requests")
    parser.add_argument("--batch", type=int, default=5000, help="rows of a batch")
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--rows", type=int, default=20_000, help="rows of each host's table, about")
    parser.add_argument("--trees", type=int, default=50)
    parser.add_argument("--depth", type=int, default=5)
    parser.add_argument("--numbers", type=int, default=6, help="numeric columns of each party")
    parser.add_argument("--categories", type=int, default=2, help="categorical columns of each party")
    parser.add_argument("--deadline", type=int, default=100, help="ms that each host has to answer")
    parser.add_argument(
        "--phases", nargs="+", choices=PHASES, default=PHASES, help="what is measured, one after another"
    )
    parser.add_argument("--plain", action="store_true", help="HTTP without TLS")
    parser.add_argument("--folder", type=Path, help="where parties and logs are, and stay")
    parser.add_argument("--json", action="store_true", help="print the figures by name instead")
    options = parser.parse_args()
    options.hidden = False
    if options.minutes is not None:
        options.seconds = 60 * options.minutes
    if options.delay is not None and (options.plain or (lack := lacking())):
        sys.exit("--delay goes with TLS" if options.plain else lack)
    with tempfile.TemporaryDirectory() as made:
        work = options.folder or Path(made)
        folders = {party: work / party for party in PARTIES}
        local.exchange_keys(folders)
        rows = lay_out(folders, options)
        with contextlib.ExitStack() as stack:
            network = None
            if options.delay is not None:
                network = stack.enter_context(Network(PARTIES).running())
                network.condition = Condition(delay=options.delay / 1000)
                give_addresses(folders, network)
            figures = measure(folders, rows, options, network)
    attacks = options.malformed if options.attacks is None else options.attacks
    if attacks:
        figures["lookups"] = malformed.lookups(attacks)
    if options.json:
        print(json.dumps(figures))
    else:
        show(f"{options.rate:g} quotes a second for {options.seconds:g} s", figures)


def lay_out(folders: dict[str, Path], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Tables, party files and halves of all parties; the rows that clients send."""
    guest, theirs = halves(options)
    prints = {
        party: load_certificate(folder / "keys" / f"{party}.pem").fingerprint
        for party, folder in folders.items()
    }
    job = {"job": {"name": "quotes", "model": "secureboost", "objective": "binary"}}
    ports = {party: local.free_port() for party in PARTIES}
    rows: list[dict[str, Any]] = []
    for number, (party, folder) in enumerate(folders.items()):
        own = columns(number, options)
        table = pd.DataFrame({"policy": [f"P{i:07}" for i in range(options.rows)], **own})
        known = np.random.default_rng(number).random(options.rows) < 0.9 if number else slice(None)
        table[known].to_csv(folder / "table.csv", index=False)
        store = Store(folder / "vfl-store")
        names = tuple(own)
        if number:
            half = HostHalf(
                MODEL, job, names, RULE, prints["insurer"], prints[party], theirs[number - 1]
            )
            save_half(store, half)
        else:
            save_half(store, GuestHalf(MODEL, job, names, RULE, prints, guest, {}))
            rows = json.loads(table.head(4000).to_json(orient="records", double_precision=15))
        (folder / f"{party}.toml").write_text(party_file(party, list(own), ports, options))
    return rows


def party_file(party: str, names: list[str], ports: dict[str, int], options: argparse.Namespace) -> str:
    categorical = [name for name in names if name.startswith("category")]
    lines = ["[party]", f'name = "{party}"', f'identity = "keys/{party}"', "workers = 1"]
    if party == PARTIES[0]:
        lines += ['role = "guest"']
    else:
        lines += ['role = "host"', f'listen = "127.0.0.1:{ports[party]}"']
    lines += [
        "[data]",
        'path = "table.csv"',
        'id = "policy"',
        f"categorical = {json.dumps(categorical)}",
    ]
    if party == PARTIES[0]:
        tls = (
            "plain_http = true"
            if options.plain
            else 'certificate = "tls/insurer.pem"\nkey = "tls/insurer.key"'
        )
        lines += ["[online]", f'listen = "127.0.0.1:{ports[party]}"', tls]
        lines += [f"max_rows = {max(10_000, options.batch)}"]
        for host in PARTIES[1:]:
            lines += [f"[online.hosts.{host}]", f"deadline = {options.deadline}"]
        for host in PARTIES[1:]:
            address = f'address = "127.0.0.1:{ports[host]}"'
            lines += [f"[peers.{host}]", address, f'certificate = "peers/{host}.pem"']
    else:
        lines += ["[policy]", "directories = true", "min_scored_rows = 1"]
        lines += ['max_scored_rows_a_day = "unlimited"', 'max_lookups_a_minute = "unlimited"']
        lines += ["[peers.insurer]", 'certificate = "peers/insurer.pem"']
    return "\n".join(lines) + "\n"


def measure(
    folders: dict[str, Path],
    rows: list[dict[str, Any]],
    options: argparse.Namespace,
    network: Network | None,
) -> dict[str, Any]:
    """All figures, by name."""
    guest = folders[PARTIES[0]]
    token = add_token(guest / "online-tokens.toml", "clients", ["score", "metrics"])
    if not options.plain:
        local.identity.create(guest / "tls" / "insurer", "insurer")
    for host in PARTIES[1:]:
        local.run(folders[host], "publish", f"{host}.toml", "--model", MODEL)
    with contextlib.ExitStack() as stack:
        hosts = {
            host: stack.enter_context(running(folders[host], "serve", host, network))
            for host in PARTIES[1:]
        }
        for host in hosts:
            until(folders[host] / "serve.log", "listening on")
        service = stack.enter_context(running(guest, "online", PARTIES[0], network))
        said = until(guest / "online.log", "listening on http")
        address = re.findall(r"listening on (https?)://([0-9.]+):(\d+)", said)[-1]
        space = None if network is None else network.namespace(PARTIES[0])
        spawn = multiprocessing.get_context("spawn")
        ours, theirs = spawn.Pipe()
        clients = spawn.Process(
            target=load, args=(theirs, (*address, space), token, rows, guest, options), daemon=True
        )
        clients.start()
        figures: dict[str, Any] = {}
        for phase in ("warm", *options.phases, *(["malformed"] if options.malformed else [])):
            ours.send(phase)
            at_work = {"service": service.pid, **{host: one.pid for host, one in hosts.items()}}
            before = {name: processor(pid) for name, pid in at_work.items()}
            began, memory = time.monotonic(), [resident(service.pid)]
            kill_at = began + options.seconds / 12 if phase == "killed" else None
            while not ours.poll(0.5):
                memory.append(resident(service.pid))
                if time.monotonic() - began > PATIENCE + options.seconds + options.malformed / 20:
                    raise TimeoutError(f"{phase} has not ended")
                if kill_at is not None and time.monotonic() > kill_at:
                    kill_at = None
                    stack.enter_context(killed(folders["registry"], hosts["registry"], network))
            if phase != "warm":
                heard = ours.recv()
                # A host that was killed has no figure: another process has taken its place.
                taken = {
                    name: processor(pid) - before[name]
                    for name, pid in at_work.items()
                    if Path(f"/proc/{pid}/stat").exists()
                }
                seconds, answered = time.monotonic() - began, heard.pop("answered")
                figures[phase] = heard | {
                    "service_processor_share": taken["service"] / seconds,
                    f"processor_{'µs a row' if phase == 'batches' else 'ms a quote'}": {
                        name: used / answered * (1e6 if phase == "batches" else 1e3)
                        for name, used in taken.items()
                    },
                    "memory_mb": {
                        "first": memory[0] / 1e6,
                        "last": memory[-1] / 1e6,
                        "most": max(memory) / 1e6,
                    },
                }
            else:
                ours.recv()
        ours.send(None)
        clients.join(10)
        service.send_signal(signal.SIGTERM)
        figures["service_exit_code"] = service.wait(60)
    return figures


@contextlib.contextmanager
def running(
    folder: Path, command: str, party: str, network: Network | None
) -> Iterator["subprocess.Popen[bytes]"]:
    """A command that serves, which logs to COMMAND.log."""
    program = VFL if network is None else network.program(party)
    with (folder / f"{command}.log").open("ab") as log:
        process = subprocess.Popen(
            [*program, command, f"{party}.toml"],
            cwd=folder,
            stderr=log,
            preexec_fn=local.with_parent(signal.SIGTERM),
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


@contextlib.contextmanager
def killed(folder: Path, host: "subprocess.Popen[bytes]", network: Network | None) -> Iterator[None]:
    """Kill a host, and start it anew two seconds later."""
    host.kill()
    host.wait()
    time.sleep(2)
    with running(folder, "serve", folder.name, network):
        yield


def until(log: Path, text: str) -> str:
    """What a log says once this is in it."""
    deadline = time.monotonic() + PATIENCE
    while text not in (said := log.read_text()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {text!r} in {log}:\n{said}")
        time.sleep(0.05)
    return said


def resident(process: int) -> int:
    """Bytes of a process that are in memory."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    return int(found[1]) * 1024 if found else 0


def processor(process: int) -> float:
    """Seconds of the processor that a process has had."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# --- The clients' process.


Address = tuple[str, str, str, str | None]
"""Scheme, host and port of the service, and the network namespace in which it can be reached."""


def enter(namespace: str) -> None:
    """Be in a network namespace from now on, this thread and those that it starts. Raises OSError."""
    with Path("/run/netns", namespace).open() as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")


class Client:
    """Connections to the service that are kept open, as many as are needed at once."""

    def __init__(self, address: Address, token: str, folder: Path) -> None:
        self.where, self.tls = (address[1], int(address[2])), None
        if address[0] == "https":
            self.tls = ssl.create_default_context(cafile=str(folder / "tls" / "insurer.pem"))
            self.tls.check_hostname = False
        self._head = (
            f"Host: 127.0.0.1\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json"
        )
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def post(self, body: bytes) -> tuple[int, bytes]:
        """The status and the body of an answer."""
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():
                break
            writer.close()  # by the service, as nothing was asked on it for long
        else:
            reader, writer = await asyncio.open_connection(*self.where, ssl=self.tls, limit=1 << 24)
        head = f"POST /v1/score HTTP/1.1\r\n{self._head}\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        said = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", said, re.IGNORECASE)
        answer = await reader.readexactly(int(length[1]) if length else 0)
        self._idle.append((reader, writer))
        return int(said[9:12]), answer


def load(
    pipe: Connection,
    address: Address,
    token: str,
    rows: list[dict[str, Any]],
    folder: Path,
    options: argparse.Namespace,
) -> None:
    """Send what each phase asks for; the figures go back through the pipe."""
    if address[3] is not None:
        enter(address[3])
    client = Client(address, token, folder)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        while (phase := await loop.run_in_executor(None, pipe.recv)) is not None:
            if phase == "batches":
                pipe.send(await batches(client, rows, options))
            elif phase == "malformed":
                count = options.malformed
                pipe.send(await malformed.requests(client.where, client.tls, token, rows, count))
            else:
                share = {"warm": 0.0, "quotes": 1.0, "killed": 1 / 3}[phase]
                seconds = max(2.0, options.seconds * share)
                pipe.send(await quotes(client, rows, options.rate, seconds))

    asyncio.run(run())


async def quotes(client: Client, rows: list[dict[str, Any]], rate: float, seconds: float) -> dict:
    """Single quotes that leave at their times, whatever has become of earlier ones."""
    generator = np.random.default_rng()
    bodies = [json.dumps({"rows": [row]}).encode() for row in rows]
    took: list[float] = []
    outcomes: Counter[str] = Counter()

    async def one(due: float) -> None:
        try:
            status, answer = await client.post(bodies[generator.integers(len(bodies))])
        except (OSError, asyncio.IncompleteReadError) as error:
            outcomes[f"failed: {type(error).__name__}"] += 1
            return
        took.append(time.perf_counter() - due)
        away = status == 200 and json.loads(answer)["away"]
        outcomes[f"without {' and '.join(away)}" if away else f"status {status}"] += 1

    began, tasks = time.perf_counter(), set()
    for number in range(round(rate * seconds)):
        due = began + number / rate
        if (pause := due - time.perf_counter()) > 0:
            await asyncio.sleep(pause)
        task = asyncio.create_task(one(due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    ms = 1000 * np.array(took or [np.nan])
    found = {f"p{p:g}": float(np.percentile(ms, p)) for p in (50, 90, 99, 99.9)}
    return {
        "answered": max(1, len(took)),
        "quotes": len(took),
        "milliseconds": found | {"most": float(ms.max())},
        "outcomes": dict(outcomes),
    }


async def batches(client: Client, rows: list[dict[str, Any]], options: argparse.Namespace) -> dict:
    """Batches one after another, and two at a time."""
    generator = np.random.default_rng(1)
    figures: dict[str, Any] = {"answered": 2 * options.batch * options.batches}
    drawn = generator.integers(len(rows), size=(min(4, options.batches), options.batch)).tolist()
    bodies = [json.dumps({"rows": [rows[at] for at in places]}).encode() for places in drawn]
    for at_once in (1, 2):
        turns, statuses = asyncio.Semaphore(at_once), Counter[int]()

        async def one(body: bytes, turns: asyncio.Semaphore = turns) -> None:
            async with turns:
                status, _ = await client.post(body)
                statuses[status] += 1  # noqa: B023 - awaited within the turn

        began = time.perf_counter()
        await asyncio.gather(*(one(bodies[i % len(bodies)]) for i in range(options.batches)))
        seconds = time.perf_counter() - began
        figures[f"rows_a_second, {at_once} at once"] = options.batch * options.batches / seconds
        if set(statuses) != {200}:
            figures["statuses"] = {str(status): count for status, count in statuses.items()}
    return figures


if __name__ == "__main__":
    main()
