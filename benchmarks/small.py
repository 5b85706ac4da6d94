"""How soon a small job is done: `vfl align` and `vfl train` of 1,000 rows, from start to end.

    python benchmarks/small.py --times 3

An insurer and two hosts that serve and dial it, each a process on this machine, with five columns each
and mutual TLS. The seconds of `align` and `train` are those that a person waits for them; processor
seconds are those of a party's processes, workers included, a host's from the start of `vfl serve` to its
end. Medians over fresh parties, after a run that compiles what is not compiled yet.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from parties import UNBOUND, Split, set_up
from rich.console import Console
from rich.table import Table

from vfl import local

PARTIES = ("insurer", "registry", "bureau")
JOB = """
[job]
name = "small"
purpose = "a benchmark"
model = "secureboost"
objective = "binary"
holdout = 0.25

[secureboost]
trees = {trees}
depth = 3
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=3, help="runs, of which the median")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--columns", type=int, default=5, help="of each party")
    parser.add_argument("--trees", type=int, default=2)
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="of each party; default: all cores"
    )
    parser.add_argument("--json", action="store_true", help="print the figures by name instead")
    options = parser.parse_args()
    runs = []
    for _ in range(1 + options.times):
        with tempfile.TemporaryDirectory() as work:
            runs.append(measure(Path(work), options))
    figures = {name: statistics.median(run[name] for run in runs[1:]) for name in runs[0]}
    if options.json:
        print(json.dumps(figures))
        return
    table = Table("figure", "seconds", title=f"{options.rows:,} rows, {options.trees} trees")
    for name, seconds in figures.items():
        table.add_row(name.replace("_", " "), f"{seconds:.2f}")
    Console().print(table)


def measure(work: Path, options: argparse.Namespace) -> dict[str, float]:
    """Seconds of both commands, processor seconds of every party."""
    folders = {party: work / party for party in PARTIES}
    job = JOB.format(trees=options.trees)
    set_up(folders, tables(options), job, options.workers, extra=dict.fromkeys(PARTIES[1:], UNBOUND))
    figures = {}
    serving = {name: start(folders[name], "serve", f"{name}.toml") for name in PARTIES[1:]}
    try:
        for name in serving:
            await_line(folders[name] / "said", "dialling insurer")
        for command in (["align", "insurer.toml"], ["train", "insurer.toml", "job.toml"]):
            began = time.monotonic()
            used = processor_seconds(start(folders["insurer"], *command))
            figures[command[0]] = time.monotonic() - began
            figures[f"{command[0]}, insurer's processor"] = used
    finally:
        for name, process in serving.items():
            process.send_signal(signal.SIGTERM)
            figures[f"serve, {name}'s processor"] = processor_seconds(process)
    figures["all processors"] = sum(v for name, v in figures.items() if name.endswith("processor"))
    return figures


def tables(options: argparse.Namespace, parties: Sequence[str] = PARTIES) -> Split:
    """Every party knows all ids; the first one's label depends on a column of each."""
    rng = np.random.default_rng(0)
    ids = [f"policy {i}" for i in range(options.rows)]
    numbers = {party: rng.normal(size=(options.columns, options.rows)) for party in parties}
    features = {party: [f"{party}{i}" for i in range(options.columns)] for party in parties}
    found = {
        party: pd.DataFrame({"id": ids} | dict(zip(features[party], numbers[party], strict=True)))
        for party in parties
    }
    signal_ = sum(numbers[party][0] for party in parties)
    found[parties[0]]["label"] = (signal_ + rng.normal(size=options.rows) > 0).astype(int)
    return Split(found, features, {party: [] for party in parties})


def start(
    folder: Path, *arguments: str, environment: Mapping[str, str] | None = None
) -> "subprocess.Popen[bytes]":
    """A command of a party, which says what it has to say to the file `said`. `environment`: if it has
    another than this process."""
    with (folder / "said").open("wb") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "vfl.cli", *arguments],
            cwd=folder,
            env=environment,
            stdout=said,
            stderr=said,
            preexec_fn=local.with_parent(signal.SIGKILL),
        )


def await_line(file: Path, text: str) -> None:
    """Until a serving host has said so."""
    while text not in file.read_text():
        time.sleep(0.05)


def processor_seconds(process: "subprocess.Popen[bytes]") -> float:
    """Wait for the end of a process; what it and its own processes have used."""
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{process.args} ended with exit code {process.returncode}")
    return used.ru_utime + used.ru_stime


def used_so_far(process: "subprocess.Popen[bytes]") -> float:
    """Processor seconds of a process and of those of its own that have ended."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
