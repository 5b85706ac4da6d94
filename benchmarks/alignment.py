"""Two or more parties align ids of vehicles: speed, bytes, memory.

    python benchmarks/alignment.py --ids 1000000 --engine ot

Each party is a process of its own, with mutual TLS between them over the loopback interface. Every host
has as many ids as the guest, half of them the guest's (the same half with each). Ids are made up in the
form of vehicle identification numbers, 17 characters, in another order at each party. Time runs from the
first message to the last, after the ids have been made and the sessions opened; `ids per second and
core` is the ids of one side by the processor seconds of all parties together.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from parties import show

from vfl import local
from vfl.jobs.memory import peak_memory
from vfl.net.peer import Peer, together
from vfl.net.websocket import Credentials, dial, listen
from vfl.party import identity
from vfl.protocols.align.psi import PsiSettings, guest_align, host_align
from vfl.protocols.common.participant import Participant

GUEST = "insurer"
WAIT = 600  # seconds for the others to make their ids


def main() -> None:
    """Align once and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ids", type=int, default=100_000)
    parser.add_argument("--engine", choices=["ecdh", "ot"], default="ecdh")
    parser.add_argument("--hosts", type=int, default=1)
    parser.add_argument("--scratch", action="store_true", help="large arrays lie in files")
    parser.add_argument("--json", action="store_true", help="print the figures by name instead")
    parser.add_argument("--party", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--ports", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.party:
        print(json.dumps(asyncio.run(party(options))))
        return
    with tempfile.TemporaryDirectory() as work:
        figures = measure(Path(work), options)
    if options.json:
        print(json.dumps(figures))
    else:
        show(f"{options.ids:,} ids a side, {options.engine}, {options.hosts} hosts", figures)


def measure(work: Path, options: argparse.Namespace) -> dict:
    """All figures, by name."""
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
    of = {name: json.loads(line) for name, line in said.items()}
    common = options.ids // 2
    wrong = [name for name, one in of.items() if one["rows"] != common]
    if wrong:
        raise SystemExit(f"{wrong} found other rows than the {common:,} in common")
    cpu = sum(one["cpu_s"] for one in of.values())
    first = of[hosts[0]]
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
    command += ["--scratch"] * options.scratch
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()


async def party(options: argparse.Namespace) -> dict[str, float]:
    """One party's alignment, and what it took."""
    hosts = list(options.ports)
    ids = made_up(options.ids, hosts.index(options.party) if options.party in hosts else None)
    scratch = options.folder if options.scratch else None
    if options.party == GUEST:
        own = credentials(options.folder, GUEST, hosts)
        peers: list[Peer] = [
            await dial(own, host, f"127.0.0.1:{port}", "guest", WAIT)
            for host, port in options.ports.items()
        ]
        begun = time.perf_counter(), time.process_time()
        common = await guest_align(
            peers, ids, context=b"benchmark", settings=PsiSettings(options.engine, scratch)
        )
        ended = time.perf_counter(), time.process_time()
    else:
        own = credentials(options.folder, options.party, [GUEST])
        address = f"127.0.0.1:{options.ports[options.party]}"
        async with listen(own, address, "host", lambda line: None) as listener:
            peers = [await listener.accept()]
            begun = time.perf_counter(), time.process_time()
            common = await host_align(
                peers[0],
                ids,
                Participant(options.party, context=b"benchmark"),
                settings=PsiSettings(options.engine, scratch),
            )
            ended = time.perf_counter(), time.process_time()
            await together([peer.close() for peer in peers])
    await together([peer.close() for peer in peers])
    return {
        "rows": len(common.rows),
        "wall_s": ended[0] - begun[0],
        "cpu_s": ended[1] - begun[1],
        "sent": sum(peer.traffic.bytes_sent for peer in peers),
        "received": sum(peer.traffic.bytes_received for peer in peers),
        "peak": peak_memory(),
    }


def made_up(count: int, host: int | None) -> list[bytes]:
    """A party's ids: the guest's are the first `count`, a host's half of them and as many of its own."""
    numbers = np.arange(count)
    if host is not None:
        numbers = np.concatenate([numbers[: count // 2], numbers[count // 2 :] + (host + 1) * count])
    np.random.default_rng(None if host is None else host).shuffle(numbers)
    return [b"WVWZZZ1K%09d" % number for number in numbers.tolist()]


def credentials(folder: Path, name: str, others: list[str]) -> Credentials:
    """A party's key and what it pins."""
    own = identity.load(folder / "keys" / name)
    pins = {other: identity.load_certificate(folder / "peers" / f"{other}.pem").der for other in others}
    return Credentials(name, own.certificate_path, own.key_path, pins)


if __name__ == "__main__":
    main()
