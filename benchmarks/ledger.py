"""What the ledger costs a job: seconds spent in it at each party, beside those of the whole job.

    python benchmarks/ledger.py --rows 20000
    python benchmarks/ledger.py --rows 20000 --without

SecureBoost on made-up columns, each party a process. The time to write each message down is measured
inside the job, since whole runs on a shared machine differ by more than that. `--without` leaves the
ledger out, for what it is worth.
"""

import argparse
import atexit
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from parties import UNBOUND, set_up, show, uniform

from vfl import local
from vfl.cli import main as vfl
from vfl.jobs import journal
from vfl.party.audit.tables import rows
from vfl.party.ledger import FOLDER, Ledger

COST = "ledger-seconds.json"
JOB = """[job]
name = "uniform"
purpose = "benchmark of the ledger"
model = "secureboost"
objective = "binary"
holdout = 0
[secureboost]
trees = {trees}
depth = 4
max_bins = 32
"""


def main() -> None:
    """Run the job once and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--trees", type=int, default=5)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes of each party")
    parser.add_argument("--without", action="store_true", help="no ledger")
    parser.add_argument("--json", action="store_true", help="print the figures by name instead")
    options = parser.parse_args()
    party = [sys.executable, __file__, "party", "without" if options.without else "with"]
    with tempfile.TemporaryDirectory() as work, mock.patch.object(local, "_VFL", party):
        figures = measure(Path(work), options)
    if options.json:
        print(json.dumps(figures))
    else:
        show(f"the ledger's share, {options.rows:,} rows, {options.trees} trees", figures)


def measure(work: Path, options: argparse.Namespace) -> dict:
    """All figures, by name."""
    split = uniform(Path(), options.rows, 10)
    folders = {party: work / party for party in split.tables}
    job = JOB.format(trees=options.trees)
    set_up(folders, split, job, options.workers, extra={"host": UNBOUND})
    with local.serving({"host": folders["host"]}):
        aligned = local.run(folders["guest"], "align", "guest.toml", "--wait", "60")
        trained = local.run(folders["guest"], "train", "guest.toml", "job.toml")
    seconds = aligned["seconds"] + trained["seconds"]
    figures: dict[str, Any] = {"align_s": aligned["seconds"], "train_s": trained["seconds"]}
    if options.without:
        return figures
    for party, folder in folders.items():
        spent = sum(json.loads(line) for line in (folder / COST).read_text().splitlines())
        messages = list(rows(folder / "vfl-store" / FOLDER))
        size = sum(file.stat().st_size for file in (folder / "vfl-store" / FOLDER).iterdir())
        figures[party] = {
            "messages": len(messages),
            "payload_mb": sum(message.bytes for message in messages) / 1e6,
            "ledger_mb": size / 1e6,
            "ledger_s": spent,
            "share_percent": 100 * spent / seconds,
        }
    return figures


def as_party(ledger: str, arguments: list[str]) -> None:
    """The command line, with the seconds in the ledger written to a file in the end."""
    spent = 0.0

    def timed(work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any) -> Any:
            nonlocal spent
            started = time.perf_counter()
            try:
                return work(*given)
            finally:
                spent += time.perf_counter() - started

        return run

    def write() -> None:
        with Path(COST).open("a") as file:
            file.write(f"{spent}\n")

    if ledger == "without":
        mock.patch.object(journal.Journal, "watch", lambda *_: None).start()
    mock.patch.object(journal._Session, "write_down", timed(journal._Session.write_down)).start()
    mock.patch.object(Ledger, "seal", timed(Ledger.seal)).start()
    atexit.register(write)
    vfl(arguments)


if __name__ == "__main__":
    if sys.argv[1:2] == ["party"]:
        as_party(sys.argv[2], sys.argv[3:])
    else:
        main()
