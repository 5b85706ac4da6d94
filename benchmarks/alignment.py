"""Two or more parties align ids of vehicles: speed, bytes, memory.

    python benchmarks/alignment.py --ids 1000000 --engine ot
    python benchmarks/alignment.py --ids 10000 --host-ids 10000000 --kept --runs 2
    python benchmarks/alignment.py --ids 1000000 --kept --runs 2 --changed 10000
    python benchmarks/alignment.py --ids 100000000 --engine vole --scratch --loaded --work DIR --log FILE

Each party is a process of its own, with mutual TLS between them over the loopback interface. Every
host has as many ids as the guest, half of them the guest's (the same half with each). Ids are made up
in the form of vehicle identification numbers, 17 characters, in another order at each party. Time runs
from the first message to the last, after the ids have been made (of 20 million at most) and the
sessions opened; `ids per second and core` is the ids of one side by the processor seconds of all
parties together. With `--kept` a host keeps its ids as evaluated, and the guest its answers; of several
runs each has figures. With `--changed` each further run has so many ids more at each side, half of them
in common.

A long run says beforehand what it takes of the disk of `--work`, and ends if there is less. Every half
minute each party says to standard error, and adds to `--log`, how far it is, and its memory; figures
come there as soon as a run has ended, so that of one that is cut off nothing is lost but its end.
"""

import argparse
import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
from parties import show

from vfl import local
from vfl.blocks.texts import PIECE, Packed, pack_rows
from vfl.jobs.memory import peak_memory
from vfl.net.peer import MemoryPeer, Peer, together
from vfl.net.websocket import Credentials, dial, listen
from vfl.party import identity
from vfl.party.kept_ids import GuestKeptAnswers, GuestKeptStores, HostKeptIds
from vfl.party.policy_section import PolicySection
from vfl.party.store import Store
from vfl.protocols.align import buckets
from vfl.protocols.align.answered import KeptAnswers
from vfl.protocols.align.psi import PsiSettings, guest_align, host_align
from vfl.protocols.common.participant import Participant

GUEST = "insurer"
WAIT = 3600  # seconds for the others to make their ids
LISTED = 20_000_000  # ids that are made before the time runs; more are made as they are read
EVERY = 30  # seconds between what a party says of how far it is
PREFIX = b"WVWZZZ1K"
DIGITS = 9


def main() -> None:
    """Align once and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ids", type=int, default=100_000)
    parser.add_argument("--engine", choices=["ecdh", "ot", "vole"], default="ecdh")
    parser.add_argument("--hosts", type=int, default=1)
    parser.add_argument("--host-ids", type=int, help="of a host; as many as the guest's if absent")
    parser.add_argument("--kept", action="store_true", help="one host keeps its ids as evaluated (ecdh)")
    parser.add_argument("--runs", type=int, default=1, help="alignments one after the other")
    parser.add_argument("--changed", type=int, default=0, help="ids more at each side, each further run")
    parser.add_argument("--scratch", action="store_true", help="large arrays lie in files")
    parser.add_argument("--work", type=Path, help="a folder for files; the system's for such if absent")
    parser.add_argument("--log", type=Path, help="a file to which is added how far parties are")
    parser.add_argument(
        "--loaded", action="store_true", help="compiled kernels are loaded before the time runs"
    )
    parser.add_argument("--json", action="store_true", help="print the figures by name instead")
    parser.add_argument("--party", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--ports", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.party:
        print(json.dumps(asyncio.run(party(options))))
        return
    check_disk(options)
    with tempfile.TemporaryDirectory(dir=options.work) as work:
        figures = measure(Path(work), options)
    for number, one in enumerate(figures, 1):
        if options.json:
            print(json.dumps(one))
        else:
            run = f", run {number}" * (options.runs > 1)
            show(f"{options.ids:,} ids, {options.engine}, {options.hosts} hosts{run}", one)


def check_disk(options: argparse.Namespace) -> None:
    """Say what files take, and end where there is no room for them."""
    if not options.scratch or options.engine != "vole":
        return
    guests, hosts = options.ids, options.host_ids or options.ids
    cut = buckets.Buckets.of(guests)
    # Digests and numbers of rows; tags, and at a host those of the common rows, are of 10 bytes.
    of_guest = cut.count * cut.guest_room * 36 + options.hosts * guests * buckets.TAG
    count = cut.count * cut.parts_of(hosts)
    of_host = count * buckets.room(hosts, count) * 46 + min(guests, hosts) // 2 * buckets.TAG
    needed = of_guest + options.hosts * of_host
    folder = options.work or Path(tempfile.gettempdir())
    free = shutil.disk_usage(folder).free
    note(options, f"files take {needed / 1e9:,.1f} GB of {folder}, which has {free / 1e9:,.1f} GB left")
    if needed > free:
        raise SystemExit("free some, or name another folder by --work")


def note(options: argparse.Namespace, line: str) -> None:
    """Say a line to standard error, and add it to the log."""
    print(line, file=sys.stderr, flush=True)
    if options.log is not None:
        with options.log.open("a") as log:
            log.write(line + "\n")


class HowFar:
    """How far a party is, said now and then."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options, self._begun = options, time.monotonic()
        self._said = self._begun

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._said < EVERY:
            return
        self._said = now
        spent, peak, share = now - self._begun, peak_memory() / 1e6, done / max(1, total)
        line = f"{what}, {share:.1%} of {total:,}, {spent:,.0f} s, peak {peak:,.0f} MB"
        note(self._options, f"{self._options.party}: {line}")


def measure(work: Path, options: argparse.Namespace) -> list[dict]:
    """All figures by name, of each run."""
    hosts = [f"host{j}" for j in range(options.hosts)]
    folders = {name: work / name for name in (GUEST, *hosts)}
    local.exchange_keys(folders)
    ports = {host: local.free_port() for host in hosts}
    with ExitStack() as stack:
        running = {
            name: stack.enter_context(started(name, folder, ports, options))
            for name, folder in folders.items()
        }
        said = {name: process.communicate()[0] for name, process in running.items()}
    each = {name: json.loads(line) for name, line in said.items()}
    return [
        figures_of({name: runs[number] for name, runs in each.items()}, options, number)
        for number in range(options.runs)
    ]


def figures_of(of: dict[str, dict], options: argparse.Namespace, number: int) -> dict:
    """The figures of a run, from what each party says of it."""
    common = min(options.ids, options.host_ids or options.ids) // 2 + number * (options.changed // 2)
    wrong = [name for name, one in of.items() if one["rows"] != common]
    if wrong:
        raise SystemExit(f"{wrong} found other rows than the {common:,} in common")
    cpu = sum(one["cpu_s"] for one in of.values())
    first = of["host0"]
    return {
        "ids_per_second_and_core": round(options.ids / cpu),
        "wall_s": round(of[GUEST]["wall_s"], 2),
        "cpu_s": {name: round(one["cpu_s"], 2) for name, one in of.items()},
        "guest_to_host_mb": round(first["received"] / 1e6, 2),
        "host_to_guest_mb": round(first["sent"] / 1e6, 2),
        "bytes_an_id": round((first["received"] + first["sent"]) / options.ids, 1),
        "peak_mb": {name: round(one["peak"] / 1e6) for name, one in of.items()},
    }


@contextmanager
def started(
    name: str, folder: Path, ports: dict[str, int], options: argparse.Namespace
) -> Iterator[subprocess.Popen]:
    """The process of a party; ended with the block."""
    command = [sys.executable, __file__, "--party", name, "--folder", folder, "--engine", options.engine]
    command += ["--ids", str(options.ids), "--ports", json.dumps(ports)]
    command += ["--host-ids", str(options.host_ids or options.ids), "--runs", str(options.runs)]
    command += ["--kept"] * options.kept
    command += ["--scratch"] * options.scratch + ["--loaded"] * options.loaded
    command += ["--changed", str(options.changed)]
    command += ["--log", str(options.log)] if options.log else []
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()


async def party(options: argparse.Namespace) -> list[dict[str, float]]:
    """One party's alignments, and what each took."""
    hosts = list(options.ports)
    host = hosts.index(options.party) if options.party in hosts else None
    tables = [made_up(options, host, number) for number in range(options.runs if options.changed else 1)]
    if options.loaded:
        await load(options.engine)
    if options.party == GUEST:
        own = credentials(options.folder, GUEST, hosts)
        peers: list[Peer] = [
            await dial(own, host, f"127.0.0.1:{port}", "guest", WAIT)
            for host, port in options.ports.items()
        ]
        runs = [await run_once(options, peers, tables, number) for number in range(options.runs)]
    else:
        own = credentials(options.folder, options.party, [GUEST])
        address = f"127.0.0.1:{options.ports[options.party]}"
        async with listen(own, address, "host", lambda line: None) as listener:
            peers = [await listener.accept()]
            runs = [await run_once(options, peers, tables, number) for number in range(options.runs)]
            await together([peer.close() for peer in peers])
    await together([peer.close() for peer in peers])
    return runs


async def run_once(
    options: argparse.Namespace, peers: list[Peer], tables: Sequence[Sequence[bytes]], number: int
) -> dict[str, float]:
    """One alignment, and what it took. tables: ids by run, or the same in all runs."""
    ids = tables[number % len(tables)]
    context, sent = b"benchmark %d" % number, [peer.traffic.bytes_sent for peer in peers]
    received = [peer.traffic.bytes_received for peer in peers]
    scratch = options.folder if options.scratch else None
    settings = PsiSettings(options.engine, scratch, HowFar(options))
    if options.kept:
        store, rules = Store(options.folder), PolicySection(kept_key_days=1, max_ids_a_key="unlimited")
        settings = replace(
            settings,
            guest_keeps=GuestKeptStores(store, "host0"),
            answers=KeptAnswers(GuestKeptAnswers(store, "host0"), ids),
            host_keeps=HostKeptIds(store, (GUEST, ""), [], rules, date(2027, 1, 1)),
        )
    begun = time.perf_counter(), time.process_time()
    if options.party == GUEST:
        common = await guest_align(peers, ids, context=context, settings=settings)
    else:
        own = Participant(options.party, context=context)
        common = await host_align(peers[0], ids, own, settings=settings)
    ended = time.perf_counter(), time.process_time()
    figures = {
        "rows": len(common.rows),
        "wall_s": ended[0] - begun[0],
        "cpu_s": ended[1] - begun[1],
        "sent": sum(peer.traffic.bytes_sent for peer in peers) - sum(sent),
        "received": sum(peer.traffic.bytes_received for peer in peers) - sum(received),
        "peak": peak_memory(),
    }
    note(options, f"{options.party}: {json.dumps(figures)}")
    return figures


async def load(engine: str) -> None:
    """Align a few ids within this process, so that all kernels are loaded."""
    to_host, to_guest = MemoryPeer.pair(GUEST, "host")
    settings, ids = PsiSettings(engine), MadeUp(np.arange(8192))[:]
    host = host_align(to_guest, ids, Participant("host", context=b"load"), settings=settings)
    await together([guest_align([to_host], ids, context=b"load", settings=settings), host])


class MadeUp(Sequence[bytes]):
    """Ids of vehicles by their numbers, written when they are asked for: of more than fit a list."""

    def __init__(self, numbers: np.ndarray) -> None:
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, which):
        numbers = np.atleast_1d(self._numbers[which]).astype(np.int64)
        rows = np.empty((len(numbers), len(PREFIX) + DIGITS), np.uint8)
        rows[:, : len(PREFIX)] = np.frombuffer(PREFIX, np.uint8)
        for place in range(rows.shape[1] - 1, len(PREFIX) - 1, -1):
            numbers, digit = np.divmod(numbers, 10)
            rows[:, place] = ord("0") + digit
        return pack_rows(rows) if isinstance(which, slice) else rows.tobytes()


def made_up(options: argparse.Namespace, host: int | None, run: int = 0) -> Sequence[bytes]:
    """A party's ids in a run: the guest's are the first `--ids`, a host's some of them and others of its
    own; in further runs as many more as `--changed` says, half of them the guest's."""
    guests, hosts = options.ids, options.host_ids or options.ids
    most, more = max(guests, hosts), run * options.changed
    count, common = guests if host is None else hosts, min(guests, hosts) // 2
    numbers = np.arange(count + more, dtype=np.uint32)  # nine digits fit
    numbers[count:] += (2 + options.hosts) * most - count
    if host is not None:
        numbers[common:count] += (host + 1) * most
        # Of each run's new ids the second half is this host's alone.
        own = np.arange(more) % max(1, options.changed) >= options.changed // 2
        numbers[count:][own] += (host + 1) * options.runs * options.changed
    if len(numbers) and int(numbers.max()) >= 10**DIGITS:
        raise SystemExit("ids have nine digits: take fewer, or fewer hosts")
    np.random.default_rng(None if host is None else host).shuffle(numbers)
    ids = MadeUp(numbers)
    if count > LISTED:
        return ids
    return Packed.of(ids[start : start + PIECE] for start in range(0, len(ids), PIECE))


def credentials(folder: Path, name: str, others: list[str]) -> Credentials:
    """A party's key and what it pins."""
    own = identity.load(folder / "keys" / name)
    pins = {other: identity.load_certificate(folder / "peers" / f"{other}.pem").der for other in others}
    return Credentials(name, own.certificate_path, own.key_path, pins)


if __name__ == "__main__":
    main()
