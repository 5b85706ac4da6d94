"""Kills of parties at random moments of jobs of every kind: does each come to the same result?

    python benchmarks/faults.py --kills 20 --seed 1

Every party is a process of its own on this machine. For each kind of job: once undisturbed, then again
and again with SIGKILL to one party or two at once, each started again within a second, until there were
as many kills as asked for. Prints a table for docs/operations.md, each job on stderr when it is done.
"""

import argparse
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from federation import (
    GLM_JOB,
    HIDDEN_JOB,
    JOB,
    Federation,
    Running,
    make_keys,
    make_tables,
    write_table,
)
from kills import WAIT, Struck, aligned, halves, ready, start_train, struck

ONE_OR_TWO = [
    ("insurer",),
    ("registry",),
    ("bureau",),
    ("insurer", "registry"),
    ("registry", "bureau"),
]
BOOST = JOB["secureboost"]
JOBS: dict[str, dict[str, Any]] = {
    "trees": {**JOB, "secureboost": {**BOOST, "trees": 30, "depth": 3}},
    "trees, GOSS, early stopping": {
        **JOB,
        "secureboost": {
            **BOOST,
            "trees": 40,
            "learning_rate": 0.3,
            "goss_top": 0.2,
            "goss_other": 0.3,
            "colsample": 0.7,
            "validation_share": 0.2,
            "early_stopping_rounds": 25,
        },
    },
    "linear model": {**GLM_JOB, "glm": {"tolerance": 1e-10}},
    "linear model, hidden scores": {
        **HIDDEN_JOB,
        "glm": {**HIDDEN_JOB["glm"], "tolerance": 1e-9},
    },
}


@dataclass
class Kind:
    """A kind of job: who is killed, how its command starts, and what it leaves."""

    federation: Federation
    victims: list[tuple[str, ...]]
    start: Callable[[], Running]
    result: Callable[[dict[str, Any]], Any]


def of_training(folder: Path, keys: Path, job: dict[str, Any], guest_listens: bool) -> Kind:
    hidden = "coordinator" in job.get("glm", {})
    federation = ready(Federation(folder, keys, coordinator=hidden, guest_listens=guest_listens))
    federation.guest.align().ok()
    victims = ONE_OR_TWO + ([("umpire",), ("umpire", "insurer"), ("umpire", "bureau")] if hidden else [])
    return Kind(
        federation,
        victims,
        lambda: start_train(federation, job),
        lambda done: halves(federation, done["model"]),
    )


def of_alignment(folder: Path, keys: Path) -> Kind:
    federation = ready(Federation(folder, keys, tables=make_tables(12_000)))
    return Kind(
        federation,
        ONE_OR_TWO,
        lambda: federation.guest.start("align", *WAIT, "--json"),
        lambda done: aligned(federation, done["alignment"]),
    )


def of_scoring(folder: Path, keys: Path, rows: int = 600_000) -> Kind:
    federation = ready(Federation(folder, keys))
    guest = federation.guest
    guest.align().ok()
    guest.train().ok()
    new = federation.tables["new"]
    many = -(-rows // len(new["plate"]))
    write_table(guest.folder / "many.csv", {name: cells * many for name, cells in new.items()})
    words = ("--model", "claims", "--data", "many.csv", "--out", "many-scores.csv")
    return Kind(
        federation,
        ONE_OR_TWO,
        lambda: guest.start("score", *words, *WAIT, "--json"),
        lambda done: (guest.folder / "many-scores.csv").read_bytes(),
    )


def tried(kind: Kind, kills: int, rng: random.Random) -> tuple[list[Struck], bool]:
    """Runs with so many kills in all, and whether each came to what the undisturbed one did."""
    whole = struck(kind.federation, kind.start, rng, 0, 1.0, kind.victims)
    expected, runs, same = kind.result(whole.done), [], True
    while (left := kills - sum(run.kills.total() for run in runs)) > 0:
        most = min(left, rng.randint(2, 6))
        run = struck(kind.federation, kind.start, rng, most, 0.7 * whole.seconds, kind.victims)
        runs.append(run)
        same &= kind.result(run.done) == expected
    return runs, same


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20, help="of each kind of job")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kind", action="append", help="part of the name of the only kinds to try")
    parser.add_argument("--json", action="store_true", help="print the figures by name instead")
    args = parser.parse_args()
    kinds: dict[str, Callable[[Path, Path], Kind]] = {"alignment": of_alignment}
    for number, (name, job) in enumerate(JOBS.items()):
        kinds[name] = lambda at, keys, job=job, listens=number % 2 == 1: of_training(
            at, keys, job, listens
        )
    kinds["scoring"] = of_scoring
    chosen = {n: k for n, k in kinds.items() if not args.kind or any(part in n for part in args.kind)}
    found = {}
    for name, make in chosen.items():
        with tempfile.TemporaryDirectory() as folder:
            at = Path(folder)
            kind = make(at / "parties", make_keys(at / "keys"))
            try:
                runs, same = tried(kind, args.kills, random.Random(f"{args.seed} {name}"))  # noqa: S311
            finally:
                for party in kind.federation.parties.values():
                    for running in party.processes:
                        running.stop()
        whom = sum((run.kills for run in runs), Counter[str]())
        who = ", ".join(f"{party} {count}" for party, count in whom.most_common())
        commands = sum(run.commands for run in runs)
        found[name] = {
            "runs": len(runs),
            "kills": whom.total(),
            "of whom": who,
            "commands": commands,
            "same result": "all" if same else "NO",
        }
        print(name, *found[name].values(), sep=" | ", file=sys.stderr, flush=True)
    if args.json:
        print(json.dumps(found))
        return
    table = Table("job", "runs", "kills", "of whom", "commands", "same result")
    for name, row in found.items():
        table.add_row(name, *map(str, row.values()))
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
