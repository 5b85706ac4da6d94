"""What figures for a monitor cost: python benchmarks/monitor.py PARTY.toml

Processor time a message that a host sends or receives, and an answer to the monitor.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

from vfl.jobs.activity import JobNow
from vfl.jobs.connect import Site
from vfl.monitor.figures import Figures
from vfl.party.config import load_party


def of_each(work: Callable[[], object], times: int) -> float:
    """Processor seconds of one call, the least of five rounds."""
    rounds = []
    for _ in range(5):
        began = time.process_time()
        for _ in range(times):
            work()
        rounds.append((time.process_time() - began) / times)
    return min(rounds)


def main() -> None:
    """Print both."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("party", type=Path, help="the file of a party whose keys are there")
    options.add_argument("--json", action="store_true", help="print the figures by name instead")
    given = options.parse_args()
    site = Site.open(load_party(given.party))
    site.activity.watchers.append(figures := Figures(site))
    job = JobNow("train", step="training claims", done=1)
    figures.began(job)
    peer = next(iter(site.party.peers))
    found = {
        "message_us": 1e6 * of_each(lambda: site.activity.passed(peer, "sent", "Offer", 1000), 20_000),
        "step_us": 1e6 * of_each(lambda: figures.moved(job), 20_000),
        "answer_ms": 1e3 * of_each(figures.show, 50),
        "answer_bytes": len(figures.show()),
    }
    if given.json:
        print(json.dumps(found))
        return
    print(f"a message {found['message_us']:.2f} µs, a step {found['step_us']:.2f} µs, ", end="")
    print(f"an answer {found['answer_ms']:.2f} ms of {found['answer_bytes']:,} bytes")


if __name__ == "__main__":
    main()
