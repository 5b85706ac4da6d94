"""How soon every party knows that a job has ended: seconds from what ends it.

    python benchmarks/endings.py --times 3

An insurer and two hosts that listen, each a process on this machine, 400 rows. In the middle of a
training (or at its beginning, where a host refuses it) something ends the job: `guest` is when the
insurer's command has ended, `hosts` when the last host that is still there has told its own people.
Nobody waits for lost parties (`reconnect = 0`). Medians; the tests hold what is said, not how soon.
"""

import argparse
import json
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from federation import JOB, Federation, Running, ended, kill, make_keys

BOOST = JOB["secureboost"]
LONG = {**JOB, "secureboost": {**BOOST, "trees": 500}}
REFUSED = {**JOB, "secureboost": {**BOOST, "min_child_rows": 1}}
Ending = Callable[[Federation, Running], None]


def at_the_guest(number: signal.Signals) -> Ending:
    """The insurer's command gets a signal."""
    return lambda federation, running: running.process.send_signal(number)


def at_a_host(number: signal.Signals) -> Ending:
    """The registry gets a signal."""
    return lambda federation, running: federation.serving["registry"].process.send_signal(number)


def killed(federation: Federation, running: Running) -> None:
    """The registry is gone without a word."""
    kill(federation.serving["registry"])


ENDINGS: dict[str, Ending | None] = {
    "Ctrl-C at the guest": at_the_guest(signal.SIGINT),
    "the guest killed": at_the_guest(signal.SIGKILL),
    "SIGTERM at a host": at_a_host(signal.SIGTERM),
    "a host killed": killed,
    "a host's policy refuses": None,
}


def main() -> None:
    """Measure all endings and print them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=3, help="runs of each, of which the median")
    parser.add_argument("--json", action="store_true", help="print the figures by name instead")
    options = parser.parse_args()
    figures = {}
    with tempfile.TemporaryDirectory() as work:
        keys = make_keys(Path(work) / "keys")
        for name, ending in ENDINGS.items():
            folders = [Path(work) / f"{name} {k}" for k in range(options.times)]
            found = [measure(folder, keys, ending) for folder in folders]
            figures[name] = {
                "guest_s": statistics.median(guest for guest, _ in found),
                "hosts_s": statistics.median(hosts for _, hosts in found),
            }
    if options.json:
        print(json.dumps(figures))
        return
    table = Table("what ends the job", "guest, s", "hosts, s")
    for name, row in figures.items():
        table.add_row(name, *(f"{seconds:.2f}" for seconds in row.values()))
    Console().print(table)


def measure(folder: Path, keys: Path, ending: Ending | None) -> tuple[float, float]:
    """Seconds until the guest's command has ended, and until the last host has said so."""
    federation = Federation(folder, keys)
    federation.parties["registry"].settings["policy"]["min_child_rows"] = BOOST["min_child_rows"]
    with ended(federation.serve()):
        federation.guest.align().ok()
        marks = {name: host.mark() for name, host in federation.serving.items()}
        running = federation.guest.start_train(REFUSED if ending is None else LONG)
        for name, host in federation.serving.items():
            host.until("asks to train", marks[name])
        if ending is not None:
            time.sleep(2)  # into the trees
        began = time.monotonic()
        if ending is not None:
            ending(federation, running)
        running.process.wait()
        guest = time.monotonic() - began
        for name, host in federation.serving.items():
            if host.process.poll() is None:
                host.until("job ended", marks[name])
        return guest, time.monotonic() - began


if __name__ == "__main__":
    main()
