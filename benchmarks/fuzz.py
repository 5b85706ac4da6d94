"""Attack every message of every protocol, and count how the parties end.

    python benchmarks/fuzz.py                         # every attack once; takes an hour on two cores
    python benchmarks/fuzz.py --minutes 15 --seed 7   # attacks at random

The attacks are those of tests/hostile.py, whose docstring says what counts as a fault. Bytes flipped and
filled at random are drawn from the seed: the same seed and number of the attack give the same one again
(`--seed 7 --only 1234`), though keys and blinding are fresh in every run. Faults are printed as they are
found, and end the command with exit code 1.
"""

import argparse
import json
import random
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import hostile
import roles
from federation import make_keys


def all_scenarios(folder: Path) -> dict[str, hostile.Scenario]:
    """Those of tests/roles.py by name."""
    made = {name: make() for name, make in roles.SCENARIOS.items()}
    keys = make_keys(folder / "keys")
    return made | {"agreement": roles.agreement(folder / "parties", keys)}


def at_random(every: dict[str, hostile.Scenario], seed: int) -> Iterator[hostile.Case]:
    """Attacks without end: of all protocols alike, with fresh random bytes again and again."""
    rng = random.Random(seed)  # noqa: S311
    while True:
        rounds = [hostile.cases(scenario, rng.randrange(2**32)) for scenario in every.values()]
        for own in rounds:
            rng.shuffle(own)
        for k in range(max(map(len, rounds)) // 20):
            for own in rounds:
                if k < len(own):
                    yield own[k]


def main() -> int:
    parser = argparse.ArgumentParser(description="Attack every message of every protocol.")
    parser.add_argument("--minutes", type=float, help="attack at random for so long; else each once")
    parser.add_argument("--seed", type=int, default=0, help="of what is random in attacks")
    parser.add_argument("--only", type=int, help="the number of the one attack to repeat")
    parser.add_argument("--scenario", action="append", help="a protocol by name; all if absent")
    parser.add_argument("--json", action="store_true", help="print the counts by name instead")
    asked = parser.parse_args()
    warnings.simplefilter("ignore", RuntimeWarning)
    ends = time.monotonic() + 60 * asked.minutes if asked.minutes else float("inf")
    found: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as folder, roles.in_memory():
        every = all_scenarios(Path(folder))
        if asked.scenario:
            every = {name: every[name] for name in asked.scenario}
        if asked.minutes or asked.only is not None:
            attacks = at_random(every, asked.seed)
        else:
            attacks = (case for one in every.values() for case in hostile.cases(one, asked.seed))
        for number, case in enumerate(attacks):
            if time.monotonic() > ends or (asked.only is not None and number > asked.only):
                break
            if asked.only not in (None, number):
                continue
            counts = found.setdefault(case.scenario.name, Counter())
            try:
                counts[case.outcome()] += 1
            except AssertionError as fault:
                counts["fault"] += 1
                print(f"{number}: {fault}", file=sys.stderr, flush=True)
    columns = ("refused", "rule", "silent", "done", "fault")
    total = sum(found.values(), Counter[str]())
    if asked.json:
        counts_of = {**found, "all": total}.items()
        print(json.dumps({name: {c: counts[c] for c in columns} for name, counts in counts_of}))
        return int(bool(total["fault"]))
    print(f"\n| protocol | attacks | {' | '.join(columns)} |")
    print("| --- " * (2 + len(columns)) + "|")
    for name, counts in {**found, "all": total}.items():
        cells = [f"{counts[column]:,}" for column in columns]
        print(f"| {name} | {counts.total():,} | {' | '.join(cells)} |")
    return int(bool(total["fault"]))


if __name__ == "__main__":
    sys.exit(main())
