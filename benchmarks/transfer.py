"""How fast large messages go from party to party, beside what they cannot be faster than.

    python benchmarks/transfer.py --mib 1024 --times 3

Two processes on this machine and mutual TLS between them, the ways in turns: a session of two parties
that both write a ledger, the guest sending encrypted vectors to the host (or `--back`, the host to the
guest: frames of who dialled are masked, of who listens they are not); and plain `ssl` sockets that
block, of which each sends and receives the same bytes in a buffer that stays. Beside them the cipher of
that TLS alone, on blocks as large as its records (`openssl speed`, one core), and BLAKE3 alone, of
which a ledger needs one for each message at each party.

MB/s, and processor seconds (user and system, all threads) for a GB at each end; medians.
"""

import argparse
import asyncio
import contextlib
import json
import os
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from vfl.blocks.heap import keep_freed
from vfl.jobs.journal import Journal
from vfl.local import free_port
from vfl.net.tls import HOST, Credentials
from vfl.net.websocket import WebSocketPeer, dial, listen
from vfl.net.wire import MIB, digest_of
from vfl.party import identity
from vfl.party.ledger import FOLDER, Ledger
from vfl.party.store import Store
from vfl.protocols.common.lattice_sums import Query, Vectors

PARTIES = GUEST, HOLDER = "insurer", "registry"
GB = 1e9
RECORD = 16384  # bytes, the most of TLS


@dataclass(frozen=True)
class Measured:
    """One end's share of one stream."""

    seconds: float
    processor: float


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mib", type=int, default=1024, help="of one stream")
    parser.add_argument("--message", type=int, default=4, help="MiB of a message")
    parser.add_argument("--times", type=int, default=3, help="streams each way, of which the median")
    parser.add_argument("--back", action="store_true", help="from the party that listens")
    parser.add_argument("--json", action="store_true", help="print the figures by name instead")
    parser.add_argument("--serve", nargs=2, metavar=("FOLDER", "PORT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    keep_freed()  # as each command does
    if options.serve:
        serve(Path(options.serve[0]), int(options.serve[1]), options)
        return
    figures = measure(options)
    if options.json:
        print(json.dumps(figures))
    else:
        show(figures, options)


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Figures by name."""
    found: dict[str, list[tuple[Measured, Measured]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        for party in PARTIES:
            (folder / party).mkdir()
            identity.create(folder / party / party, party)
        port = free_port()
        arguments = ["--mib", str(options.mib), "--message", str(options.message)]
        arguments += ["--back"] * options.back + ["--serve", name, str(port)]
        listening = subprocess.Popen(
            [sys.executable, __file__, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        stack.callback(listening.kill)
        for _ in range(1 + options.times):
            for way, (_, dialling) in WAYS.items():
                ask(listening, way)
                here = dialling(folder, port, options)
                found[way].append((here, Measured(*json.loads(line_of(listening)))))
    figures: dict[str, float] = {}
    for way, ends in found.items():
        senders, receivers = zip(*((b, a) if options.back else (a, b) for a, b in ends[1:]), strict=True)
        sent = options.mib * MIB
        figures[f"{way}, MB/s"] = sent / 1e6 / statistics.median(one.seconds for one in receivers)
        for end, of in (("sender", senders), ("receiver", receivers)):
            figures[f"{way}, {end}, s/GB"] = statistics.median(one.processor for one in of) * GB / sent
    figures |= {f"{CIPHER}, MB/s": cipher_alone(), f"{HASH}, MB/s": hash_alone()}
    for what in (SOCKETS, CIPHER):
        figures[f"ratio to {what}"] = figures[f"{SESSION}, MB/s"] / figures[f"{what}, MB/s"]
    return figures


def show(figures: dict[str, float], options: argparse.Namespace) -> None:
    """As a table."""
    table = Table(title=f"{options.mib:,} MiB in messages of {options.message} MiB")
    for column in ("way", "MB/s", "sender, s/GB", "receiver, s/GB"):
        table.add_column(column, justify="left" if column == "way" else "right")
    for way in WAYS:
        spent = (f"{figures[f'{way}, {end}, s/GB']:.2f}" for end in ("sender", "receiver"))
        table.add_row(way, f"{figures[f'{way}, MB/s']:,.0f}", *spent)
    for what in (CIPHER, HASH):
        rate = figures[f"{what}, MB/s"]
        table.add_row(f"{what} alone", f"{rate:,.0f}", *2 * [f"{1e3 / rate:.2f}"])
    Console().print(table)
    Console().print(
        f"a session has {figures[f'ratio to {SOCKETS}']:.2f} of what plain sockets have,"
        f" {figures[f'ratio to {CIPHER}']:.2f} of the cipher alone"
    )


def ask(listening: "subprocess.Popen[str]", way: str) -> None:
    """Have the other process listen, once it does."""
    assert listening.stdin is not None  # noqa: S101 - for the type checker
    listening.stdin.write(f"{way}\n")
    listening.stdin.flush()
    line_of(listening)


def line_of(listening: "subprocess.Popen[str]") -> str:
    """The next line of the other process."""
    assert listening.stdout is not None  # noqa: S101 - for the type checker
    if not (line := listening.stdout.readline()):
        raise SystemExit("the process that listens has ended")
    return line


def cipher_alone() -> float:
    """MB/s of AES-256-GCM on one core, in blocks as large as a record of TLS."""
    said = subprocess.run(
        ["openssl", "speed", "-mr", "-seconds", "1", "-bytes", str(RECORD), "-evp", "aes-256-gcm"],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(said.stdout.split(":")[-1]) / 1e6


def hash_alone() -> float:
    """MB/s of BLAKE3 on one core, by processor time."""
    data, began = os.urandom(64 * MIB), time.process_time()
    digest_of(data)
    return len(data) / 1e6 / (time.process_time() - began)


# --- The ends of a session ----------------------------------------------------------------------


def credentials(folder: Path, own: str, peer: str) -> tuple[Credentials, Journal]:
    """Those of a party, and its ledger, which hears of all messages."""
    key = identity.load(folder / own / own)
    store = Store(folder / own / "store")
    journal = Journal(Ledger(store.root / FOLDER, key, own), store)
    pin = identity.load_certificate(folder / peer / f"{peer}.pem").der
    files = folder / own / f"{own}.pem", folder / own / f"{own}.key"
    return Credentials(own, *files, {peer: pin}, watch=journal.watch), journal


def listen_in_session(folder: Path, port: int, options: argparse.Namespace) -> Measured:
    """The registry."""
    own, journal = credentials(folder, HOLDER, GUEST)

    async def answer() -> Measured:
        async with listen(own, f"127.0.0.1:{port}", "host", print) as listener:
            print("listens", flush=True)
            peer = await listener.accept()
            return await stream(peer, options, sends=options.back)

    measured = asyncio.run(answer())
    journal.seal(print)
    return measured


def dial_for_session(folder: Path, port: int, options: argparse.Namespace) -> Measured:
    """The insurer."""
    own, journal = credentials(folder, GUEST, HOLDER)

    async def ask() -> Measured:
        peer = await dial(own, HOLDER, f"127.0.0.1:{port}", "guest", 30)
        return await stream(peer, options, sends=not options.back)

    measured = asyncio.run(ask())
    journal.seal(print)
    return measured


async def stream(peer: WebSocketPeer, options: argparse.Namespace, *, sends: bool) -> Measured:
    """Send or receive so many vectors; the first and the last message go the other way."""
    count = options.mib // options.message
    if not sends:
        await peer.send(Query(1))
        with measuring() as measured:
            for _ in range(count):
                await peer.recv(Vectors)
        await peer.send(Query(1))
        await peer.close()
        return measured()
    message = Vectors(os.urandom(options.message * MIB - 64))
    await peer.recv(Query)
    with measuring() as measured:
        for _ in range(count):
            await peer.send(message)
        await peer.recv(Query)
    await peer.close()
    return measured()


# --- Sockets that block -------------------------------------------------------------------------


def contexts(folder: Path, own: str, peer: str, side: int) -> ssl.SSLContext:
    """TLS 1.3 between the two parties."""
    context = ssl.SSLContext(side)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(folder / own / f"{own}.pem", folder / own / f"{own}.key")
    context.load_verify_locations(folder / peer / f"{peer}.pem")
    return context


def listen_on_socket(folder: Path, port: int, options: argparse.Namespace) -> Measured:
    """The registry."""
    context = contexts(folder, HOLDER, GUEST, ssl.PROTOCOL_TLS_SERVER)
    with socket.create_server(("127.0.0.1", port)) as bound:
        print("listens", flush=True)
        accepted, _ = bound.accept()
        with context.wrap_socket(accepted, server_side=True) as tls:
            return pump(tls, options, sends=options.back)


def dial_socket(folder: Path, port: int, options: argparse.Namespace) -> Measured:
    """The insurer."""
    context = contexts(folder, GUEST, HOLDER, ssl.PROTOCOL_TLS_CLIENT)
    with (
        socket.create_connection(("127.0.0.1", port)) as connected,
        context.wrap_socket(connected, server_hostname=HOST) as tls,
    ):
        return pump(tls, options, sends=not options.back)


def pump(tls: ssl.SSLSocket, options: argparse.Namespace, *, sends: bool) -> Measured:
    """Send or receive the bytes of the stream; the first and the last byte go the other way."""
    size = options.message * MIB
    count = options.mib // options.message
    if sends:
        data = os.urandom(size)
        tls.recv(1)
        with measuring() as measured:
            for _ in range(count):
                tls.sendall(data)
            tls.recv(1)
        return measured()
    buffer = memoryview(bytearray(size))
    tls.send(b"x")
    with measuring() as measured:
        for _ in range(count):
            got = 0
            while got < size:
                got += tls.recv_into(buffer[got:])
        tls.send(b"x")
    return measured()


# --- What is measured ---------------------------------------------------------------------------


@contextlib.contextmanager
def measuring() -> Iterator[Callable[[], Measured]]:
    """Seconds and processor seconds of the block, to be asked for after it."""
    began, used = time.perf_counter(), time.process_time()
    ended: list[Measured] = []
    yield lambda: ended[0]
    ended.append(Measured(time.perf_counter() - began, time.process_time() - used))


SESSION, SOCKETS, CIPHER, HASH = "session", "ssl sockets", "cipher", "BLAKE3"

Way = Callable[[Path, int, argparse.Namespace], Measured]
WAYS: dict[str, tuple[Way, Way]] = {
    SESSION: (listen_in_session, dial_for_session),
    SOCKETS: (listen_on_socket, dial_socket),
}


def serve(folder: Path, port: int, options: argparse.Namespace) -> None:
    """The process that listens: once in each way that a line of the other one names."""
    for line in sys.stdin:
        measured = WAYS[line.strip()][0](folder, port, options)
        print(json.dumps([measured.seconds, measured.processor]), flush=True)


if __name__ == "__main__":
    main()
