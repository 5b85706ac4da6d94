"""Sealed directories: how fast a host seals, and how fast rows are looked up, in one process; or what
publishing and fetching one takes between processes.

    python benchmarks/lookups.py
    python benchmarks/lookups.py --rows 10000000 --parties

In one process every row has one id and a part of random bytes. Both sides of the lookups compute in
it, on all cores; what lines and TLS take is not in it.

With --parties a host has a Parquet file of so many rows and a model of full trees drawn at random (as
in scoring.py). It runs `vfl publish` and `vfl serve`, a guest's process fetches the directory over
mutual TLS and is killed on the way once; then some rows change, and both do so again. Memory of a
process is its peak (VmHWM of Linux), pages of mapped files with it.
"""

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from parties import show
from scoring import LEVELS, MISSING, PARTIES, halves

from vfl import local
from vfl.arrays import Bytes
from vfl.crypto import voprf
from vfl.jobs.connect import Site
from vfl.jobs.host_lookups import HostLookups, Meeting, Patience
from vfl.jobs.memory import peak_memory
from vfl.models.halves import GuestHalf, HostHalf
from vfl.models.kinds import load_half, save_half
from vfl.net.peer import MemoryPeer
from vfl.party.config import load_party
from vfl.party.identity import load_certificate
from vfl.party.store import Store
from vfl.protocols.align.join import KeyIds
from vfl.protocols.lookup.directory import TAG, bits_for, inputs_of
from vfl.protocols.lookup.lookup import LookupSession, host_lookups
from vfl.protocols.lookup.messages import POINTS
from vfl.protocols.lookup.sealing import OpenTable, Sealing, seal

KEY = voprf.derive_key(bytes(32), b"benchmarks")
PUBLIC = voprf.public_key(KEY)
HOST, MODEL = PARTIES[1], "quotes-20261101-120000-aaaa"
VFL = [sys.executable, "-m", "vfl.cli"]
_AT_ONCE = 500_000  # rows that are made


class Source:
    """A host that answers whatever is asked."""

    version, most_a_minute = "20261129-120000-abcdef", 0

    async def newest(self) -> "Source":
        return self

    async def admit(self, points: int) -> None: ...

    async def admit_fetch(self, size: int) -> None: ...

    def secret_of(self, public: bytes) -> bytes:
        return KEY


def main() -> None:
    """Seal a table, look rows up, and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--bytes", type=int, default=44, help="of a part: 350 splits")
    parser.add_argument("--batch", type=int, default=65_536, help="rows that are looked up at once")
    parser.add_argument("--single", type=int, default=500, help="and one by one")
    parser.add_argument("--parties", action="store_true", help="publish and fetch between processes")
    parser.add_argument("--changed", type=float, default=0.01, help="share of rows that change then")
    parser.add_argument("--min-changed-rows", type=int, default=512, help="of the host's [policy]")
    parser.add_argument("--trees", type=int, default=50, help="of the model that is published")
    parser.add_argument("--depth", type=int, default=5)
    parser.add_argument("--numbers", type=int, default=10, help="numeric columns of the host")
    parser.add_argument("--categories", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where the parties are, and stay")
    parser.add_argument("--json", action="store_true", help="print the figures by name instead")
    options = parser.parse_args()
    options.hidden = False
    if options.parties:
        with tempfile.TemporaryDirectory() as made:
            put(options, between(options.folder or Path(made), options))
        return
    figures = sealed(options.rows, options.bytes) | asyncio.run(looked_up(options.batch, options.single))
    put(options, figures)


def put(options: argparse.Namespace, figures: dict[str, float]) -> None:
    """Print the figures."""
    if options.json:
        print(json.dumps(figures))
    else:
        show(f"{options.rows:,} rows", figures)


def sealed(rows: int, size: int) -> dict[str, float]:
    """Seconds of sealing so many rows, and of sealing them again, where nothing has changed."""

    def pack(part: slice) -> Bytes:
        rng = np.random.default_rng(part.start)
        return rng.integers(0, 256, (part.stop - part.start, size), dtype=np.uint8)

    table = OpenTable(
        [KeyIds([b"ID-%010d" % i for i in range(rows)], np.arange(rows))], rows, pack, size
    )
    few = OpenTable([KeyIds([b"%d" % i for i in range(5000)], np.arange(5000))], 5000, pack, size)
    bits = bits_for(rows, TAG + size)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "entries"

        def run(one: OpenTable, sealing: Sealing) -> tuple[float, Sealing]:
            began = time.perf_counter()
            with path.open("wb") as file:
                made = seal(one, sealing, file, Path(folder), secrets.token_bytes)
            seconds = time.perf_counter() - began
            return seconds, Sealing(KEY, bytes(16), sealing.bits, made.catalogue)

        run(few, Sealing(KEY, bytes(16), 2))  # compiles the kernels
        first, after = run(table, Sealing(KEY, bytes(16), bits))
        again, _ = run(table, after)
        return {
            "seconds of sealing": first,
            "rows sealed a second": rows / first,
            "seconds of sealing again": again,
            "bytes a row": path.stat().st_size / rows,
            "MB of memory at most": peak_memory() / 1e6,
        }


async def looked_up(batch: int, single: int) -> dict[str, float]:
    """Rows a second of a batch, and milliseconds of a row by itself, with one host."""
    to_host, to_guest = MemoryPeer.pair("insurer", "registry")
    serving = asyncio.create_task(host_lookups(to_guest, Source(), secrets.token_bytes))  # type: ignore[arg-type]
    figures: dict[str, float] = {}
    async with LookupSession(to_host).open() as session:

        async def look_up(ids: list[bytes]) -> None:
            await session.outputs(inputs_of(0, ids), PUBLIC, secrets.token_bytes, lambda version: None)

        async def all_of(count: int) -> None:
            ids = [b"ID-%010d" % i for i in range(count)]
            pieces = [ids[at : at + POINTS] for at in range(0, count, POINTS)]
            turns = asyncio.Semaphore(3)

            async def one(piece: list[bytes]) -> None:
                async with turns:
                    await look_up(piece)

            await asyncio.gather(*map(one, pieces))

        await all_of(POINTS)  # compiles the kernels
        if batch:
            began = time.perf_counter()
            await all_of(batch)
            figures["rows looked up a second"] = batch / (time.perf_counter() - began)
        if single:
            times = []
            for i in range(single):
                began = time.perf_counter()
                await look_up([b"ID-%010d" % i])
                times.append(1000 * (time.perf_counter() - began))
            figures["ms of a single row, median"] = float(np.median(times))
            figures["ms of a single row, 99 of 100"] = float(np.quantile(times, 0.99))
    await serving
    return figures


# --- Between processes.


def between(work: Path, options: argparse.Namespace) -> dict[str, float]:
    """What publishing and fetching a directory takes, at first and after a change."""
    folders = {party: work / party for party in PARTIES}
    local.exchange_keys(folders)
    address = lay_out(folders, options)
    host, guest = folders[HOST], folders[PARTIES[0]]
    figures: dict[str, float] = {}
    spawn = multiprocessing.get_context("spawn")

    def publish(when: str) -> dict[str, Any]:
        seconds, peak, said = watched(host, "publish", f"{HOST}.toml", "--model", MODEL, "--json")
        figures[f"seconds of publishing{when}"] = seconds
        figures[f"MB of publishing at most{when}"] = peak / 1e6
        return json.loads(said)

    def fetch(when: str, kill_at: float = 1.0) -> float:
        """Have the directory fetched, and the process killed once a share of it has come."""
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=fetched, args=(theirs, guest, kill_at), daemon=True)
        began = time.perf_counter()
        process.start()
        came, peak = ours.recv()
        if kill_at < 1:
            process.kill()
        process.join()
        figures[f"seconds of fetching{when}"] = time.perf_counter() - began
        figures[f"MB of the guest at most{when}"] = peak / 1e6
        return came

    first = publish("")
    figures["bytes a row"] = first["bytes"] / first["rows"]
    with serving(host, address) as serve:
        before = peak_memory(serve.pid)
        fetch(" half of it, and killed", 0.5)
        rest = fetch(" the rest")
        figures["share of it that was fetched after the kill"] = rest / first["bytes"]
        write_table(host, options, options.changed)
        again = publish(f", {options.changed:.2%} changed")
        figures["share of parts written anew"] = again["parts_written"] / again["parts"]
        sent = fetch(f", {options.changed:.2%} changed")
        figures["share of it that was fetched"] = sent / again["bytes"]
        figures["MB of the host at most before, after serving it"] = before / 1e6
        figures["MB of the host at most, after serving it"] = peak_memory(serve.pid) / 1e6
    return figures


def lay_out(folders: dict[str, Path], options: argparse.Namespace) -> str:
    """Tables, party files and halves of the model; where the host listens."""
    guest, theirs = halves(options)
    prints = {
        party: load_certificate(folder / "keys" / f"{party}.pem").fingerprint
        for party, folder in folders.items()
    }
    job = {"job": {"name": "quotes", "model": "secureboost", "objective": "binary"}}
    names = [f"number{k}" for k in range(options.numbers)]
    names += [f"category{k}" for k in range(options.categories)]
    save_half(
        Store(folders[PARTIES[0]] / "vfl-store"),
        GuestHalf(MODEL, job, tuple(names), ("trim",), prints, guest, {}),
    )
    save_half(
        Store(folders[HOST] / "vfl-store"),
        HostHalf(MODEL, job, tuple(names), ("trim",), prints[PARTIES[0]], prints[HOST], theirs[0]),
    )
    write_table(folders[HOST], options, 0.0)
    (folders[PARTIES[0]] / "table.csv").write_text("policy,label\nP0000000000,1\n")
    address = f"127.0.0.1:{local.free_port()}"
    party = '[party]\nname = "{}"\nidentity = "keys/{}"\nrole = "{}"\n'
    data = '[data]\nid = "policy"\nnormalise = ["trim"]\npath = "{}"\n'
    peer = '[peers.{}]\ncertificate = "peers/{}.pem"\n'
    (folders[PARTIES[0]] / "insurer.toml").write_text(
        party.format("insurer", "insurer", "guest")
        + data.format("table.csv")
        + "".join(peer.format(name, name) + f'address = "{address}"\n' for name in PARTIES[1:])
    )
    (folders[HOST] / f"{HOST}.toml").write_text(
        party.format(HOST, HOST, "host")
        + f'listen = "{address}"\n'
        + data.format("table.parquet")
        + f"categorical = {json.dumps(names[options.numbers :])}\n"
        + f"[policy]\ndirectories = true\nmin_changed_rows = {options.min_changed_rows}\n"
        + peer.format("insurer", "insurer")
    )
    return address


def write_table(folder: Path, options: argparse.Namespace, changed: float) -> None:
    """The host's table, with other numbers in a share of its rows."""
    writer, rest = None, options.rows
    for number, first in enumerate(range(0, options.rows, _AT_ONCE)):
        rows = min(_AT_ONCE, rest)
        rest -= rows
        generator, other = (np.random.default_rng([number, k]) for k in (0, 1))
        anew = other.random(rows) < changed
        columns: dict[str, Any] = {"policy": [f"P{i:010}" for i in range(first, first + rows)]}
        for k in range(options.numbers):
            values = np.where(anew, other.random(rows), generator.random(rows))
            columns[f"number{k}"] = pa.array(values, mask=generator.random(rows) < MISSING)
        for k in range(options.categories):
            levels = pa.array(generator.integers(0, len(LEVELS) - 1, rows), pa.int32())
            columns[f"category{k}"] = pa.DictionaryArray.from_arrays(levels, LEVELS[:-1].tolist())
        table = pa.table(columns)
        writer = writer or pq.ParquetWriter(folder / "table.parquet", table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()


def watched(folder: Path, *command: str) -> tuple[float, int, str]:
    """Seconds that a command takes, the most memory that it holds, and what it prints."""
    began, peak = time.perf_counter(), 0
    with subprocess.Popen([*VFL, *command], cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            with contextlib.suppress(OSError):
                peak = max(peak, peak_memory(process.pid))
            time.sleep(0.02)
        said = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise RuntimeError(f"vfl {command[0]} ended with exit code {process.returncode}")
    return time.perf_counter() - began, peak, said


@contextlib.contextmanager
def serving(folder: Path, address: str) -> Iterator["subprocess.Popen[bytes]"]:
    """`vfl serve`, once it listens."""
    with (folder / "serve.log").open("ab") as log:
        process = subprocess.Popen(
            [*VFL, "serve", f"{HOST}.toml"],
            cwd=folder,
            stderr=log,
            preexec_fn=local.with_parent(signal.SIGTERM),
        )
    try:
        while "listening on" not in (folder / "serve.log").read_text():
            if process.poll() is not None:
                raise RuntimeError(f"vfl serve has ended: see {log.name}")
            time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        process.wait()


def fetched(pipe: Connection, folder: Path, stop_at: float) -> None:
    """A guest's process: bytes of the directory that came, until there is this share of it, and the most
    memory that this took."""
    os.chdir(folder)
    site = Site.open(load_party(folder / "insurer.toml"))
    half, came, whole = load_half(site.store, MODEL, GuestHalf), 0, asyncio.Event()
    parts = LookupSession.parts

    async def counted(
        self: LookupSession, version: str, numbers: Sequence[int], size: int
    ) -> bytes | None:
        nonlocal came
        content = await parts(self, version, numbers, size)
        came += len(content or b"")
        return content

    class Progress:
        def say(self, line: str) -> None: ...

        def progress(self, what: str, done: int, of: int | None) -> None:
            if of and done >= stop_at * of:
                whole.set()

    async def run() -> None:
        async with Meeting(site, Progress()).open([HOST]) as meeting:
            lookups = HostLookups(meeting, half, HOST, Progress(), Patience(60, 60))
            async with lookups.open():
                if stop_at < 1:
                    await whole.wait()
                    pipe.send((came, peak_memory()))
                    await asyncio.Event().wait()  # until it is killed
                await lookups.wait(3600)
                pipe.send((came, peak_memory()))

    LookupSession.parts = counted  # type: ignore[method-assign]
    asyncio.run(run())


if __name__ == "__main__":
    main()
