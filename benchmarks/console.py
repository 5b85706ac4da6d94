"""What a watched console costs a job: trainings with and without one, in turns.

    python benchmarks/console.py --times 5 --pages 2

An insurer and a host, each a process on this machine, mutual TLS between them, lattice engine. Every
second training has a console of the insurer beside it, with so many pages of what runs open (server-sent
events). Seconds are those of `vfl train`; processor seconds those of its processes, and of the console
while the training ran. Medians; ratios are with a console over without.
"""

import argparse
import contextlib
import json
import re
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
from parties import UNBOUND, set_up
from rich.console import Console
from rich.table import Table
from small import await_line, processor_seconds, start, tables, used_so_far

PARTIES = ("insurer", "registry")
JOB = """
[job]
name = "watched"
purpose = "a benchmark"
model = "secureboost"
objective = "binary"
holdout = 0.25

[secureboost]
trees = {trees}
depth = 5
encryption = "lattice"
"""
LATTICE = 'encryptions = ["paillier", "lattice"]'


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=5, help="pairs of trainings, of which the median")
    parser.add_argument("--pages", type=int, default=2, help="open pages of what runs")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--columns", type=int, default=10, help="of each party")
    parser.add_argument("--trees", type=int, default=30)
    parser.add_argument("--json", action="store_true", help="print the figures by name instead")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        figures = measure(Path(work), options)
    if options.json:
        print(json.dumps(figures))
        return
    title = f"{options.rows:,} rows, {options.trees} trees, {options.pages} pages"
    table = Table("figure", "value", title=title)
    for name, value in figures.items():
        table.add_row(name.replace("_", " "), f"{value:.4f}")
    Console().print(table)


def measure(work: Path, options: argparse.Namespace) -> dict[str, float]:
    """Figures by name."""
    folders = {party: work / party for party in PARTIES}
    set_up(
        folders,
        tables(options, PARTIES),
        JOB.format(trees=options.trees),
        1,
        extra={"registry": [*UNBOUND, LATTICE]},
    )
    serving = start(folders["registry"], "serve", "registry.toml")
    plain, watched = [], []
    try:
        await_line(folders["registry"] / "said", "dialling insurer")
        processor_seconds(start(folders["insurer"], "align", "insurer.toml"))
        train(folders["insurer"])  # compiles what is not compiled yet
        for _ in range(options.times):
            plain.append(train(folders["insurer"]))
            with console(folders["insurer"], options.pages) as used:
                before = used()
                seconds, own = train(folders["insurer"])
                watched.append((seconds, own, used() - before))
    finally:
        serving.send_signal(signal.SIGTERM)
        processor_seconds(serving)
    of_plain, of_watched = (
        [statistics.median(values) for values in zip(*runs, strict=True)] for runs in (plain, watched)
    )
    return {
        "seconds_without": of_plain[0],
        "seconds_with": of_watched[0],
        "ratio_of_seconds": of_watched[0] / of_plain[0],
        "processor_without": of_plain[1],
        "processor_with": of_watched[1],
        "ratio_of_processor": of_watched[1] / of_plain[1],
        "processor_of_console": of_watched[2],
        "console_share_of_a_core": of_watched[2] / of_watched[0],
    }


def train(folder: Path) -> tuple[float, float]:
    """Seconds of `vfl train`, and processor seconds of its processes."""
    began = time.monotonic()
    used = processor_seconds(start(folder, "train", "insurer.toml", "job.toml", "--fresh"))
    return time.monotonic() - began, used


@contextlib.contextmanager
def console(folder: Path, pages: int) -> Iterator[Callable[[], float]]:
    """A console with open pages; what tells its processor seconds so far."""
    talks = folder / "console"
    talks.mkdir(exist_ok=True)
    process = start(folder, "console", "insurer.toml", "--listen", "127.0.0.1:0")
    said = folder / "said"
    await_line(said, "the console of")
    text = said.read_text()
    # A later command of the party writes into another file of that name.
    said.unlink()
    base = re.search(r"(http://\S+?)/?\s", text)
    token = re.search(r"token to look: (\S+)", text)
    if base is None or token is None:
        raise SystemExit(f"a console that says neither address nor token: {text}")
    client = httpx.Client(base_url=base[1], timeout=60)
    client.post("/signin", data={"token": token[1], "name": "bench", "then": "/"}).raise_for_status()
    heard = [threading.Event() for _ in range(pages)]

    def listen(first: threading.Event) -> None:
        with contextlib.suppress(httpx.HTTPError), client.stream("GET", "/events?of=live") as stream:
            for _ in stream.iter_lines():
                first.set()

    for first in heard:
        threading.Thread(target=listen, args=(first,), daemon=True).start()
    if not all(first.wait(60) for first in heard):
        raise SystemExit("a page of the console that hears nothing")

    try:
        yield lambda: used_so_far(process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


if __name__ == "__main__":
    main()
