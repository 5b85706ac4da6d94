"""What figures for a monitor cost: python benchmarks/monitor.py

Seconds of processor time a message that a host sends or receives, and an answer to the monitor.
"""

import argparse
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
    site = Site.open(load_party(options.parse_args().party))
    site.activity.watchers.append(figures := Figures(site))
    job = JobNow("train", step="training claims", done=1)
    figures.began(job)
    peer = next(iter(site.party.peers))
    a_message = of_each(lambda: site.activity.passed(peer, "sent", "Offer", 1000), 20_000)
    a_step = of_each(lambda: figures.moved(job), 20_000)
    an_answer = of_each(figures.show, 50)
    print(f"a message {a_message * 1e6:.2f} µs, a step {a_step * 1e6:.2f} µs, ", end="")
    print(f"an answer {an_answer * 1e3:.2f} ms of {len(figures.show()):,} bytes")


if __name__ == "__main__":
    main()
