"""Scoring with trees, with and without explanations; each party a process, mutual TLS between them.

    python benchmarks/scoring.py
    python benchmarks/scoring.py --rows 100000 --unknown 0.5 --numbers 0

Every party holds columns of random numbers and categories, a tenth of their values missing. The trees
are full and their splits drawn at random, numbers at one of 31 quantiles: what is measured is the batch
after its alignment, which the parties skip by knowing each other's orders of rows. `explain` also puts
the three strongest reasons of each row into words, whose seconds are given apart.
"""

import argparse
import asyncio
import json
import multiprocessing
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from parties import show

from vfl import local
from vfl.jobs.memory import peak_memory
from vfl.learn.binning import Features
from vfl.learn.explain import reasons
from vfl.learn.splits import Split
from vfl.learn.tree import Branch, Tree
from vfl.net.websocket import Credentials, WebSocketPeer, dial, listen
from vfl.party.identity import load_certificate
from vfl.protocols.trees.model import GuestModel, HostModel
from vfl.protocols.trees.scoring import guest_score, host_score

PARTIES = ("insurer", "registry", "bureau")
MISSING = 0.1
BINS = 32
LEVELS = np.array([*"abcdefgh", None], object)


def main() -> None:
    """Score the batch plainly and explained, and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--trees", type=int, default=50)
    parser.add_argument("--depth", type=int, default=5)
    parser.add_argument("--numbers", type=int, default=6, help="numeric columns of each party")
    parser.add_argument("--categories", type=int, default=2, help="categorical columns of each party")
    parser.add_argument("--unknown", type=float, default=0.1, help="share of rows a host does not know")
    parser.add_argument("--hidden", action="store_true", help="hosts hide names: a block each")
    parser.add_argument("--json", action="store_true", help="print the figures by name instead")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        folders = {party: Path(work) / party for party in PARTIES}
        local.exchange_keys(folders)
        figures = measure(folders, options)
    if options.json:
        print(json.dumps(figures))
    else:
        show(f"{options.rows:,} rows, {options.trees} trees of depth {options.depth}", figures)


def measure(folders: dict[str, Path], options: argparse.Namespace) -> dict:
    """All figures, by name."""
    spawn = multiprocessing.get_context("spawn")
    pipes = [spawn.Pipe() for _ in PARTIES[1:]]
    hosts = [
        spawn.Process(target=serve, args=(number, folders, options, theirs))
        for number, (_, theirs) in enumerate(pipes, start=1)
    ]
    for host in hosts:
        host.start()
    try:
        ports = [ours.recv() for ours, _ in pipes]
        figures = asyncio.run(guest(folders, ports, options))
        for name, (ours, _) in zip(PARTIES[1:], pipes, strict=True):
            for key, value in ours.recv().items():
                figures[key][name] = value
    finally:
        for host in hosts:
            host.join(10)
            host.kill()
    return figures


async def guest(folders: dict[str, Path], ports: list[int], options: argparse.Namespace) -> dict:
    """Score the batch twice."""
    model, _ = halves(options)
    features = columns(0, options)
    places = [np.argsort(order(number, options)) for number in (1, 2)]
    for place in places:
        place[place >= known(options)] = -1
    peers: list[WebSocketPeer] = [
        await dial(credentials(0, folders), name, f"127.0.0.1:{port}", "guest", 30)
        for name, port in zip(PARTIES[1:], ports, strict=True)
    ]
    seconds, cpu, words = {}, {}, 0.0
    sizes = []
    for what in ("score", "explain"):
        started, busy = time.perf_counter(), time.process_time()
        batch = guest_score(peers, model, features, places, options.rows, explain=what == "explain")
        async for part in batch:
            if part.contributions is not None:
                began = time.perf_counter()
                reasons(part.contributions, "log")
                words += time.perf_counter() - began
        seconds[what], cpu[what] = time.perf_counter() - started, time.process_time() - busy
        sizes.append([(peer.traffic.bytes_sent, peer.traffic.bytes_received) for peer in peers])
    for peer in peers:
        await peer.close()
    return {
        "rows": options.rows,
        "rows_a_second": {what: round(options.rows / s) for what, s in seconds.items()},
        "seconds": seconds | {"explain, words": words},
        "explained_to_plain": (seconds["explain"] - words) / seconds["score"],
        "guest_processor_s": cpu,
        "host_processor_s": {},
        "bytes_guest_to_host": dict(zip(PARTIES[1:], (sent for sent, _ in sizes[0]), strict=True)),
        "bytes_host_to_guest": dict(zip(PARTIES[1:], (got for _, got in sizes[0]), strict=True)),
        "peak_memory_mb": {PARTIES[0]: peak_memory() / 1e6},
    }


def serve(number: int, folders: dict[str, Path], options: argparse.Namespace, pipe: Connection) -> None:
    """A host's process: two batches for the guest."""
    half = halves(options)[1][number - 1]
    rows = order(number, options)[: known(options)]
    features = {name: values[rows] for name, values in columns(number, options).items()}

    async def run() -> float:
        async with listen(credentials(number, folders), "127.0.0.1:0", "host", print) as listener:
            pipe.send(listener.port)
            peer = await listener.accept()
        busy = time.process_time()
        for _ in ("score", "explain"):
            await host_score(peer, half, features, len(rows))
        busy = time.process_time() - busy
        await peer.close()
        return busy / 2

    busy = asyncio.run(run())
    pipe.send({"host_processor_s": busy, "peak_memory_mb": peak_memory() / 1e6})


def credentials(number: int, folders: dict[str, Path]) -> Credentials:
    """A party's key, and the certificates it pins."""
    keys = folders[PARTIES[number]] / "keys" / PARTIES[number]
    pins = {
        other: load_certificate(folders[PARTIES[number]] / "peers" / f"{other}.pem").der
        for other in PARTIES
        if other != PARTIES[number] and 0 in (number, PARTIES.index(other))
    }
    return Credentials(PARTIES[number], keys.with_suffix(".pem"), keys.with_suffix(".key"), pins)


def known(options: argparse.Namespace) -> int:
    """How many rows a host knows."""
    return round(options.rows * (1 - options.unknown))


def order(number: int, options: argparse.Namespace) -> np.ndarray:
    """The batch's rows in a host's order, those last that it does not know."""
    return np.random.default_rng([number, 1]).permutation(options.rows)


def columns(number: int, options: argparse.Namespace) -> Features:
    """A party's columns."""
    rng = np.random.default_rng([number, 2])
    found: dict[str, np.ndarray] = {}
    for k in range(options.numbers):
        found[f"number{k}"] = rng.random(options.rows)
        found[f"number{k}"][rng.random(options.rows) < MISSING] = np.nan
    for k in range(options.categories):
        found[f"category{k}"] = LEVELS[rng.integers(0, len(LEVELS), options.rows)]
    return found


def halves(options: argparse.Namespace) -> tuple[GuestModel, list[HostModel]]:
    """A model of full trees with random splits, nodes of the same size."""
    rng = np.random.default_rng(3)
    splits: list[list[Split]] = [[], [], []]
    trees = []
    for _ in range(options.trees):
        branches = {}
        for node in range(2**options.depth - 1):
            party, column = int(rng.integers(3)), int(rng.integers(options.numbers + options.categories))
            edge, left = int(rng.integers(1, BINS)) / BINS, bool(rng.integers(2))
            if column < options.numbers:
                split = Split(f"number{column}", edge, None, False, left)
            else:
                level = LEVELS[rng.integers(0, len(LEVELS))]
                split = Split(f"category{column - options.numbers}", None, level, True, False)
            shown = f"{PARTIES[party]}:{column}" if party and options.hidden else split.column
            branches[node] = Branch(party, len(splits[party]), shown, 1.0)
            splits[party].append(split)
        ends = range(len(branches), 2 * len(branches) + 1)
        leaves = {node: float(rng.normal(scale=0.1)) for node in ends}
        covers = {node: 2 ** (options.depth + 1 - (node + 1).bit_length()) for node in range(ends.stop)}
        trees.append(Tree(branches, leaves, covers))
    model = GuestModel(PARTIES, 0.0, tuple(trees), tuple(splits[0]))
    return model, [HostModel(tuple(own)) for own in splits[1:]]


if __name__ == "__main__":
    main()
