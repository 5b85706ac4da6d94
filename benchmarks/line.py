"""The main job over a slow line: each party in a network namespace of its own. Needs root, on Linux.

    python benchmarks/line.py
    python benchmarks/line.py --rows 100000 --megabits 20 --delay 40 --hidden

Two parties, of uniform columns: they align, train over the lattice engine, train once more by the hint
that is kept, and the guest scores a batch. Seconds are those that commands say they took, beside them
those that the line alone takes for as many bytes. A namespace stands for a machine; the two cores are
shared.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from parties import HERE, UNBOUND, set_up, tell, uniform

from vfl.local import with_parent

sys.path.insert(0, str(HERE.parent / "tests"))
from lines import Condition, Network, lacking

_TERMINATE = 15


def main() -> None:
    """Run the job once and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=20, help="of the host")
    parser.add_argument("--guest-columns", type=int, default=5)
    parser.add_argument("--scored", type=int, default=100_000, help="rows of the batch")
    parser.add_argument(
        "--engine", choices=["ecdh", "ot", "vole"], default="ot", help="of the alignment"
    )
    parser.add_argument("--trees", type=int, default=3)
    parser.add_argument("--depth", type=int, default=5)
    parser.add_argument("--hidden", action="store_true", help="a coordinator opens the sums")
    parser.add_argument("--megabits", type=float, default=100, help="a second, of each party either way")
    parser.add_argument("--delay", type=float, default=10, help="milliseconds each way")
    parser.add_argument("--json", action="store_true", help="print the figures by name instead")
    options = parser.parse_args()
    if lack := lacking():
        sys.exit(lack)
    with tempfile.TemporaryDirectory() as work:
        figures = measure(Path(work), options)
    what = f"{options.rows:,} rows, {options.megabits:g} Mbit/s, {options.delay:g} ms each way"
    tell(options, what, figures)


def measure(work: Path, options: argparse.Namespace) -> dict[str, float]:
    """All figures, by name."""
    split = uniform(work, options.rows, options.columns).narrowed("guest", options.guest_columns)
    folders = {party: work / party for party in ("guest", "host", *["umpire"] * options.hidden)}
    policy = [*UNBOUND, 'encryptions = ["lattice"]', 'engines = ["ecdh", "ot", "vole"]']
    extra = {"host": policy, "guest": ["[align]", f'engine = "{options.engine}"']}
    set_up(folders, split, job(options), 1, 2048, extra)
    batch = split.tables["guest"].head(options.scored).drop(columns="label")
    batch.to_parquet(folders["guest"] / "batch.parquet", index=False)
    network = Network([*folders])
    network.condition = Condition(delay=options.delay / 1000, rate=1e6 * options.megabits)
    with network.running(), ExitStack() as serving:
        give_addresses(folders, network)
        for party in [*folders][1:]:
            serving.enter_context(served(network, folders[party], party))
        run = Runner(network, folders["guest"])
        aligned = run("align", "--wait", "60")
        trained = run("train", "job.toml")
        again = run("train", "job.toml")  # by the hint that is kept
        scored = run("score", "--model", trained["model"], "--data", "batch.parquet", "--out", "s.csv")
    figures: dict[str, float] = {"rows aligned": aligned["rows"], "trees": trained["trees"]}
    for what, done in (
        ("align", aligned),
        ("train", trained),
        ("train_again", again),
        ("score", scored),
    ):
        total = sum(done["bytes_sent"].values()) + sum(done["bytes_received"].values())
        busiest = max(sum(done["bytes_sent"].values()), sum(done["bytes_received"].values()))
        figures |= {
            f"{what}_s": done["seconds"],
            f"{what}_bytes": total,
            f"{what}_line_s": 8 * busiest / (1e6 * options.megabits),
        }
    trees = [tree["whole tree"] for tree in again["phases"]]
    figures["seconds_per_tree"] = sorted(trees)[len(trees) // 2]
    figures["bytes_a_row_and_tree"] = figures["train_again_bytes"] / options.rows / len(trees)
    return figures


class Runner:
    """Runs the guest's commands in its namespace."""

    def __init__(self, network: Network, folder: Path) -> None:
        self._network, self._folder = network, folder

    def __call__(self, command: str, *arguments: str) -> dict:
        """What a command prints with --json. Raises CalledProcessError."""
        words = [*self._network.program("guest"), command, "guest.toml", *arguments, "--json"]
        done = subprocess.run(words, cwd=self._folder, stdout=subprocess.PIPE, text=True, check=True)
        return json.loads(done.stdout)


@contextmanager
def served(network: Network, folder: Path, party: str) -> Iterator[None]:
    """A party that serves in its namespace for as long as the block lasts."""
    with (folder / "serve.log").open("w") as log:
        process = subprocess.Popen(
            [*network.program(party), "serve", f"{party}.toml"],
            cwd=folder,
            stderr=log,
            preexec_fn=with_parent(_TERMINATE),
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def give_addresses(folders: dict[str, Path], network: Network) -> None:
    """Have the parties listen and dial at the addresses of their namespaces."""
    ports: dict[str, str] = {}
    for party, folder in folders.items():
        file = folder / f"{party}.toml"
        if found := re.search(r'listen = "127\.0\.0\.1:([0-9]+)"', file.read_text()):
            ports[found[1]] = network.address(party)
    for party, folder in folders.items():
        file = folder / f"{party}.toml"
        text = re.sub(
            r"127\.0\.0\.1:([0-9]+)", lambda found: f"{ports[found[1]]}:{found[1]}", file.read_text()
        )
        file.write_text(text)


def job(options: argparse.Namespace) -> str:
    """The job file."""
    hidden = 'sums = "hidden"\ncoordinator = "umpire"\n' if options.hidden else ""
    return f"""[job]
name = "benchmark"
purpose = "benchmark"
model = "secureboost"
objective = "binary"
holdout = 0
[secureboost]
trees = {options.trees}
depth = {options.depth}
max_bins = 32
encryption = "lattice"
{hidden}"""


if __name__ == "__main__":
    main()
