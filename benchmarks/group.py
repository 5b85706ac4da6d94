"""ristretto255 on one core: the kernels beside libsodium, and what the compiler takes once.

python benchmarks/group.py
python benchmarks/group.py --rows 100000 --json
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from os import environ

import numpy as np
from rich.console import Console
from rich.table import Table

from vfl.crypto import group, ristretto

# Seconds of processor time that both kernels take at first, beyond the import.
FIRST = """
import time
from vfl.crypto import group, ristretto
kernels = ristretto.fastest()
started = time.process_time()
points = group._from_uniform(group.np.ones((8, 64), group.np.uint8), kernels)
group._multiply(points, bytes([2]) + bytes(31), kernels)
print(time.process_time() - started)
"""


def main() -> None:
    """Measure once and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--json", action="store_true", help="print the figures by name instead")
    options = parser.parse_args()
    figures = measure(options.rows)
    if options.json:
        print(json.dumps(figures))
        return
    layout = figures["layout"]
    table = Table(title=f"{options.rows:,} elements, {layout} kernels, processor time")
    for column in ("us an element", "libsodium", "kernels", "ratio"):
        table.add_column(column, justify="left" if column == "us an element" else "right")
    for name in ("multiply", "from_uniform", "hash_to_group"):
        theirs, ours = figures[f"{name}_libsodium_us"], figures[f"{name}_us"]
        table.add_row(name, f"{theirs:.2f}", f"{ours:.2f}", f"{theirs / ours:.1f}")
    Console().print(table)
    compiling, loading = figures["compile_s"], figures["cached_s"]
    print(f"both kernels, once: {compiling:.1f} s to compile; later {loading:.2f} s to load")


def measure(rows: int) -> dict[str, float | str]:
    """All figures, by name."""
    kernels = ristretto.fastest()
    if kernels is None:
        raise SystemExit("there are no kernels for this processor; libsodium does all work")
    figures: dict[str, float | str] = {"rows": rows, "layout": kernels.layout.name}
    uniform = np.random.default_rng(1).integers(0, 256, (rows, group.UNIFORM), dtype=np.uint8)
    ids = [b"%017d" % i for i in range(rows)]
    scalar = group.random_scalar()
    points = group._from_uniform(uniform, kernels)
    chosen = group._kernels
    for way, suffix in ((None, "_libsodium_us"), (kernels, "_us")):
        group._kernels = lambda rows, way=way: way
        for name, work in {
            "multiply": lambda: group.multiply(points, scalar),
            "from_uniform": lambda: group.from_uniform(uniform),
            "hash_to_group": lambda: group.hash_to_group(ids, b"benchmark"),
        }.items():
            figures[name + suffix] = per_row(work, rows)
    group._kernels = chosen
    with tempfile.TemporaryDirectory() as cache:
        figures["compile_s"] = first_use(cache)
        figures["cached_s"] = first_use(cache)
    return figures


def per_row(work: Callable[[], object], rows: int) -> float:
    """Microseconds of processor time a row, of all threads: the median of five runs."""
    work()
    times = []
    for _ in range(5):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return statistics.median(times) / rows * 1e6


def first_use(cache: str) -> float:
    """Seconds that a new process takes to be ready, with numba's cache in the directory `cache`."""
    run = subprocess.run(
        [sys.executable, "-c", FIRST],
        env=environ | {"NUMBA_CACHE_DIR": cache},
        check=True,
        capture_output=True,
        text=True,
    )
    return float(run.stdout)


if __name__ == "__main__":
    main()
