"""What tapes cost a training, and how long a replay takes: with and without, in turns.

    python benchmarks/tapes.py --times 3 --encryptions lattice

An insurer and a host, each a process on this machine with one worker, mutual TLS between them. There
are two such pairs with the same tables, one of which has `[party] tape = "all"` at both, or a share by
`--tape`, of which a host keeps so many trees; they train in turns, and who begins changes from pair to
pair. Seconds are those of `vfl train`; processor seconds, user and system, those of its process and of
the host while it ran. Medians over the pairs, after one that compiles what is not compiled yet; ratios
are with over without. Then each party replays its last run: processor seconds of the whole command,
beside the party's own while it trained.
"""

import argparse
import contextlib
import json
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from parties import UNBOUND, set_up, tell
from small import await_line, processor_seconds, start, tables, used_so_far

PARTIES = GUEST, HOST = "insurer", "registry"
PAIRS = WITHOUT, WITH = "without", "with"
MODEL = "taped"
JOB = """
[job]
name = "{model}"
purpose = "a benchmark"
model = "secureboost"
objective = "binary"
holdout = 0.25

[secureboost]
trees = {trees}
depth = {depth}
encryption = "{encryption}"
"""
BOTH = ("lattice", "paillier")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=5, help="pairs of trainings, of which the median")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--columns", type=int, default=2, help="of each party")
    parser.add_argument("--trees", type=int, default=50)
    parser.add_argument("--depth", type=int, default=5)
    parser.add_argument("--tape", default="all", help="all, or a share such as 0.1")
    parser.add_argument("--encryptions", nargs="+", choices=BOTH, default=list(BOTH))
    parser.add_argument("--json", action="store_true", help="print the figures by name instead")
    options = parser.parse_args()
    figures = {}
    for encryption in options.encryptions:
        with tempfile.TemporaryDirectory() as work:
            figures[encryption] = measure(Path(work), encryption, options)
    tell(options, f"{options.rows:,} rows, {options.trees} trees of depth {options.depth}", figures)


def measure(work: Path, encryption: str, options: argparse.Namespace) -> dict[str, float]:
    """Figures by name, of one encryption."""
    split = tables(options, PARTIES)
    job = JOB.format(model=MODEL, trees=options.trees, depth=options.depth, encryption=encryption)
    allowed = [*UNBOUND, 'encryptions = ["paillier", "lattice"]']
    runs: dict[str, list[dict[str, float]]] = {pair: [] for pair in PAIRS}
    with contextlib.ExitStack() as stack:
        serving = {}
        for pair in PAIRS:
            (work / pair).mkdir()
            folders = {party: work / pair / party for party in PARTIES}
            set_up(folders, split, job, 1, extra={HOST: allowed})
            if pair == WITH:
                for party, folder in folders.items():
                    keep_tapes(folder / f"{party}.toml", options.tape)
            serving[pair] = stack.enter_context(serve(folders[HOST]))
            processor_seconds(start(folders[GUEST], "align", f"{GUEST}.toml"))
        for turn in range(1 + options.times):
            for pair in PAIRS if turn % 2 else reversed(PAIRS):
                runs[pair].append(train(work / pair, serving[pair]))
    found = {
        pair: {name: statistics.median(run[name] for run in of[1:]) for name in of[0]}
        for pair, of in runs.items()
    }
    figures = {f"{name} {pair}": value for pair in PAIRS for name, value in found[pair].items()}
    for name in ("seconds", "processor"):
        figures[f"{name} ratio"] = found[WITH][name] / found[WITHOUT][name]
    if options.tape != "all":
        figures["trees on the tape of the registry"] = trees_of_last(work / WITH / HOST)
    for party in PARTIES:
        folder = work / WITH / party
        figures[f"bytes of the tape of the {party}"] = tape_of_last(folder)
        replayed = processor_seconds(
            start(folder, "audit", "replay", f"{party}.toml", "--run", MODEL, "--out", "certificates")
        )
        figures[f"replay at the {party}"] = replayed
        figures[f"replay ratio at the {party}"] = replayed / found[WITH][f"processor of the {party}"]
    return figures


def keep_tapes(file: Path, tape: str) -> None:
    """Set it in a party file."""
    value = '"all"' if tape == "all" else tape
    file.write_text(file.read_text().replace("[party]", f"[party]\ntape = {value}", 1))


@contextlib.contextmanager
def serve(folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """The block of a host that serves."""
    process = start(folder, "serve", f"{HOST}.toml")
    try:
        await_line(folder / "said", f"dialling {GUEST}")
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        processor_seconds(process)


def train(work: Path, serving: "subprocess.Popen[bytes]") -> dict[str, float]:
    """Seconds, processor seconds of both, bytes on the wire. Earlier tapes are removed before."""
    for party in PARTIES:
        for old in (work / party / "vfl-store" / "evidence").glob("*"):
            old.unlink()
    before = used_so_far(serving)
    began = time.monotonic()
    guests = processor_seconds(start(work / GUEST, "train", f"{GUEST}.toml", "job.toml", "--fresh"))
    seconds = time.monotonic() - began
    await_end(work / HOST)
    hosts = used_so_far(serving) - before
    runs = (work / GUEST / "vfl-store" / "runs").glob("*.json")
    record = json.loads(max(runs, key=lambda one: one.stat().st_mtime_ns).read_text())
    return {
        "seconds": seconds,
        "processor": guests + hosts,
        f"processor of the {GUEST}": guests,
        f"processor of the {HOST}": hosts,
        "bytes on the wire": sum(one["bytes"] for one in record["body"]["account"]["messages"]),
    }


def await_end(folder: Path) -> None:
    """Until a host has written down that its run is over, where it keeps evidence of it."""
    documents = folder / "vfl-store" / "evidence"
    while any(not json.loads(one.read_text())["body"]["ended"] for one in documents.glob("*.json")):
        time.sleep(0.05)


def tape_of_last(folder: Path) -> int:
    """Bytes of the tapes of the last run."""
    return sum(one.stat().st_size for one in (folder / "vfl-store" / "evidence").glob("*.parts"))


def trees_of_last(folder: Path) -> int:
    """Trees of the last run that a host's tape has."""
    (document,) = (folder / "vfl-store" / "evidence").glob("*.json")
    return len(json.loads(document.read_text())["body"]["tape"]["steps"]["kept"])


if __name__ == "__main__":
    main()
