"""Trees with open and with hidden sums, in turns on one alignment: seconds of a tree, and their ratio.

    python benchmarks/hidden_sums.py freMTPL2 --rows 20000 --trees 12 --rounds 3
    python benchmarks/hidden_sums.py uniform --rows 1000000 --columns 5 --trees 4 --rounds 1
    python benchmarks/hidden_sums.py uniform --rows 20000 --encryption paillier --trees 2

Each party a process, mutual TLS between them, a coordinator besides. What else the machine does meets
both alike, as they take turns: the ratio is what counts.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import secureboost
from parties import DATA, SPLITS, UNBOUND, Split, chosen, set_up, tell

from vfl import local


def main() -> None:
    """Run the jobs and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("split", choices=SPLITS)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--columns", type=int, default=10, help="of each party, for uniform")
    parser.add_argument("--trees", type=int, default=12, help="of a job")
    parser.add_argument("--rounds", type=int, default=2, help="jobs of each kind")
    parser.add_argument("--depth", type=int, default=5)
    parser.add_argument("--encryption", choices=["paillier", "lattice"], default="lattice")
    parser.add_argument("--workers", type=int, default=1, help="processes of each party")
    parser.add_argument("--json", action="store_true", help="print the figures by name instead")
    options = parser.parse_args()
    split = chosen(options)
    with tempfile.TemporaryDirectory() as work:
        figures = measure(Path(work), split, options)
    tell(options, f"{options.split}, {figures['rows']:,} aligned rows, {options.encryption}", figures)


def measure(work: Path, split: Split, options: argparse.Namespace) -> dict:
    """All figures, by name; seconds are medians over all trees of a kind but each job's first, if it
    has more."""
    guest, *hosts = split.tables
    folders = {party: work / party for party in (*split.tables, "umpire")}
    extra = {host: [*UNBOUND, f'encryptions = ["{options.encryption}"]'] for host in hosts}
    extra[guest] = ["[align]", 'engine = "ot"']
    set_up(folders, split, job(options, hidden=False), options.workers, extra=extra)
    (folders[guest] / "hidden.toml").write_text(job(options, hidden=True))
    seconds: dict[str, list[float]] = {"job": [], "hidden": []}
    with local.serving({party: folders[party] for party in (*hosts, "umpire")}):
        aligned = local.run(folders[guest], "align", f"{guest}.toml", "--wait", "60")
        for _ in range(options.rounds):
            for name, taken in seconds.items():
                trained = local.run(folders[guest], "train", f"{guest}.toml", f"{name}.toml")
                trees = trained["phases"]
                taken += [tree["whole tree"] for tree in trees[1:] or trees]
    median = {name: statistics.median(taken) for name, taken in seconds.items()}
    return {
        "rows": aligned["rows"],
        "open_s": median["job"],
        "hidden_s": median["hidden"],
        "ratio": median["hidden"] / median["job"],
    }


def job(options: argparse.Namespace, *, hidden: bool) -> str:
    """A job file like that of the main benchmark."""
    others = {"max_bins": 32, "learning_rate": 0.2, "holdout": 0.0, "goss": (0.0, 0.0)}
    own = {**vars(options), **others, "hidden": hidden, "key_bits": 2048, "obfuscators": "short"}
    return secureboost.job(argparse.Namespace(**own))


if __name__ == "__main__":
    main()
