"""What numba compiles in the first job after an install, by kind of job, at each party.

    python benchmarks/compiling.py
    python benchmarks/compiling.py --kinds "trees, lattice" --kernels

A guest and a host, each a process on this machine with a cache of its own that is empty, as on two
machines, align and train once. Seconds are those of the processor in which kernels are compiled, by the
thread that waits for them.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from parties import UNBOUND, set_up
from rich.console import Console
from rich.table import Table
from small import await_line, processor_seconds, start, tables

PARTIES = ("guest", "host")
JOB = """
[job]
name = "first"
purpose = "a benchmark"
holdout = 0.25
"""
TREES = """
model = "secureboost"
objective = "binary"
[secureboost]
trees = 2
depth = 5
encryption = "{}"
"""
LINEAR = """
model = "glm"
family = "logistic"
[glm]
encryption = "{}"
"""
KINDS = {
    "trees, lattice": (TREES.format("lattice"), "ecdh"),
    "trees, paillier": (TREES.format("paillier"), "ecdh"),
    "linear, lattice": (LINEAR.format("lattice"), "ecdh"),
    "linear, paillier": (LINEAR.format("paillier"), "ecdh"),
    "align, ot": ("", "ot"),
    "align, vole": ("", "vole"),
}
"""By name: what is trained after the alignment, none for an alignment alone; the engine of this."""

LISTENER = """
import json, os, threading, time
import vfl.kernels


def listen():
    from numba.core import event

    class Compiling(event.Listener):
        now = threading.local()

        def on_start(self, event):
            self.now.depth = getattr(self.now, "depth", 0) + 1
            if self.now.depth == 1:
                self.now.began = time.thread_time()

        def on_end(self, event):
            self.now.depth -= 1
            if not self.now.depth:
                made = event.data["dispatcher"].py_func
                seconds = time.thread_time() - self.now.began
                line = json.dumps([f"{made.__module__}.{made.__name__}", seconds])
                with open(os.path.join(os.environ["COMPILED"], f"{os.getpid()}"), "a") as file:
                    print(line, file=file)

    event.register("numba:compile", Compiling())


vfl.kernels._awaiting.append(listen)
"""
"""The `sitecustomize` of every process: notes what it compiles."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=[*KINDS])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--columns", type=int, default=5, help="of each party")
    parser.add_argument("--workers", type=int, default=2, help="of each party")
    parser.add_argument("--kernels", action="store_true", help="each kernel by itself")
    parser.add_argument("--json", action="store_true", help="print the figures by name instead")
    options = parser.parse_args()
    found = {kind: measure(kind, options) for kind in options.kinds}
    if options.json:
        print(json.dumps(found))
        return
    title = f"{options.rows:,} rows: seconds in which kernels are compiled"
    table = Table("job", "party", "kernels", "seconds", title=title)
    for kind, parties in found.items():
        for party, kernels in parties.items():
            table.add_row(kind, party, f"{len(kernels)}", f"{sum(kernels.values()):.2f}")
            for name, seconds in sorted(kernels.items(), key=lambda item: -item[1]):
                if options.kernels:
                    table.add_row("", "", name.removeprefix("vfl."), f"{seconds:.2f}")
    Console().print(table)


def measure(kind: str, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """By party, the seconds of every kernel of the first job of a kind."""
    trained, engine = KINDS[kind]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "sitecustomize.py").write_text(LISTENER)
        folders = {party: work / party for party in PARTIES}
        allowed = ['encryptions = ["lattice", "paillier"]', 'engines = ["ecdh", "ot", "vole"]']
        extra = {"guest": ["[align]", f'engine = "{engine}"'], "host": [*UNBOUND, *allowed]}
        set_up(folders, tables(options, PARTIES), JOB + trained, options.workers, extra=extra)
        for party in PARTIES:
            for place in ("cache", "compiled"):
                (work / f"{place} of {party}").mkdir()
        serving = _start(work, "host", "serve", "host.toml")
        try:
            await_line(folders["host"] / "said", "dialling guest")
            _run(work, "align", "guest.toml")
            if trained:
                _run(work, "train", "guest.toml", "job.toml")
        finally:
            serving.send_signal(signal.SIGTERM)
            processor_seconds(serving)
        return {party: _compiled(work / f"compiled of {party}") for party in PARTIES}


def _run(work: Path, *arguments: str) -> None:
    """Run a command of the guest to its end."""
    try:
        processor_seconds(_start(work, "guest", *arguments))
    except SystemExit:
        for party in PARTIES:
            sys.stderr.write((work / party / "said").read_text())
        raise


def _start(work: Path, party: str, *arguments: str) -> "subprocess.Popen[bytes]":
    """A command of a party, with its cache and the listener."""
    path = [str(work), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {
        "NUMBA_CACHE_DIR": str(work / f"cache of {party}"),
        "COMPILED": str(work / f"compiled of {party}"),
        "PYTHONPATH": os.pathsep.join(path),
    }
    return start(work / party, *arguments, environment=os.environ | own)


def _compiled(folder: Path) -> dict[str, float]:
    seconds: dict[str, float] = defaultdict(float)
    for file in folder.iterdir():
        for line in file.read_text().splitlines():
            name, took = json.loads(line)
            seconds[name] += took
    return dict(seconds)


if __name__ == "__main__":
    main()
