"""What a relay costs: a session's throughput and the time of an answer, through it and without it.

    python benchmarks/relay.py --mib 200 --times 3

Three processes on this machine: a relay, a registry that waits at it and listens as well, and an insurer
(this one) that dials both ways in turns. Medians; the ratio is what to look at.
"""

import argparse
import asyncio
import contextlib
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import ClassVar

from rich.console import Console
from rich.table import Table

from vfl.local import free_port
from vfl.net.tls import Credentials
from vfl.net.websocket import WebSocketPeer, dial, listen
from vfl.net.wire import MAX_MESSAGE, MIB, Message
from vfl.party import identity

ANSWERS = 200  # small messages to and fro


class Block(Message, frozen=True):
    """insurer -> registry, or back."""

    limit: ClassVar[int] = MAX_MESSAGE
    data: bytes


def credentials(folder: Path, own: str, peer: str) -> Credentials:
    certificate = identity.load_certificate(folder / f"{peer}.pem")
    return Credentials(own, folder / f"{own}.pem", folder / f"{own}.key", {peer: certificate.der})


async def answer(folder: Path, addresses: list[str]) -> None:
    """The registry: takes blocks, and answers small ones."""

    async def serve(peer: WebSocketPeer) -> None:
        while True:
            block = await peer.recv(Block)
            if len(block.data) == 1:
                await peer.send(block)

    async with contextlib.AsyncExitStack() as stack:
        own = credentials(folder, "registry", "insurer")
        listeners = [
            await stack.enter_async_context(listen(own, address, "host", print)) for address in addresses
        ]

        async def accept(index: int) -> None:
            while True:
                peer = await listeners[index].accept()
                with contextlib.suppress(Exception):
                    await serve(peer)

        await asyncio.gather(*(accept(index) for index in range(len(listeners))))


async def measure(folder: Path, address: str, mib: int) -> tuple[float, float]:
    """MB a second, and milliseconds for an answer."""
    peer = await dial(credentials(folder, "insurer", "registry"), "registry", address, "guest", 30)
    block, small = Block(bytes(MIB)), Block(b"x")
    await peer.send(small)
    await peer.recv(Block)
    began = time.perf_counter()
    for _ in range(mib):
        await peer.send(block)
    await peer.send(small)
    await peer.recv(Block)
    rate = mib * MIB / 1e6 / (time.perf_counter() - began)
    began = time.perf_counter()
    for _ in range(ANSWERS):
        await peer.send(small)
        await peer.recv(Block)
    took = (time.perf_counter() - began) / ANSWERS * 1e3
    await peer.close()
    return rate, took


def main() -> None:
    """Measure both ways and print them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mib", type=int, default=200, help="bytes of one measurement")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print the figures by name instead")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(answer(Path(options.serve[0]), options.serve[1:]))
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        for party in ("insurer", "registry"):
            identity.create(folder / party, party)
        relay, direct = (f"127.0.0.1:{free_port()}" for _ in range(2))
        (folder / "relay.toml").write_text(f'[relay]\nlisten = "{relay}"\n')
        ways = {"direct": direct, "through the relay": f"relay://{relay}"}
        serving = [sys.executable, __file__, "--serve", name, *ways.values()]
        for command in ([sys.executable, "-m", "vfl.cli", "relay", f"{name}/relay.toml"], serving):
            process = stack.enter_context(subprocess.Popen(command, stderr=subprocess.DEVNULL))
            stack.callback(process.kill)
        found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        for _ in range(options.times):
            for way, address in ways.items():
                found[way].append(asyncio.run(measure(folder, address, options.mib)))
    table = Table("way", "MB/s", "answer, ms")
    medians = {
        way: [statistics.median(column) for column in zip(*rows, strict=True)]
        for way, rows in found.items()
    }
    for way, (rate, took) in medians.items():
        table.add_row(way, f"{rate:.0f}", f"{took:.2f}")
    shares = [b / a if a else math.nan for a, b in zip(*medians.values(), strict=True)]
    if options.json:
        named = {
            f"{way}, {what}": value
            for way, values in {**medians, "ratio": shares}.items()
            for what, value in zip(("MB/s", "answer, ms"), values, strict=True)
        }
        print(json.dumps(named))
        return
    table.add_row("ratio", *(f"{share:.2f}" for share in shares))
    Console().print(table)


if __name__ == "__main__":
    main()
