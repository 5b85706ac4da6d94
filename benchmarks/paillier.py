"""The operations of Paillier, one core against phe and a plain loop, histograms on all cores.

python benchmarks/paillier.py
python benchmarks/paillier.py --rows 100000 --columns 10 --bins 32 --workers 2 --json
python benchmarks/paillier.py --scheme ou

With another scheme, the plain loop is over its ciphertexts and phe still does Paillier.
"""

import argparse
import asyncio
import json
import os
import statistics
import time
from collections.abc import Callable

import gmpy2
import numpy as np
import phe
from rich.console import Console
from rich.table import Table

from vfl.crypto.ciphertexts import PrivateKey
from vfl.crypto.packing import Layout
from vfl.crypto.schemes import PRIVATE_KEYS
from vfl.crypto.sums import sum_by_cell, sum_rows
from vfl.crypto.workers import Workers
from vfl.learn.grouping import group_columns


def main() -> None:
    """Measure once and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--columns", type=int, default=10)
    parser.add_argument("--bins", type=int, default=32)
    parser.add_argument("--scheme", choices=PRIVATE_KEYS, default="paillier")
    parser.add_argument("--key-bits", type=int, default=2048)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--full-exponents", action="store_true", help="obfuscators without assumption")
    parser.add_argument("--json", action="store_true", help="print the figures by name instead")
    options = parser.parse_args()
    figures = measure(options)
    if options.json:
        print(json.dumps(figures))
        return
    table = Table(
        title=f"{options.scheme}, {options.key_bits} bits; "
        f"{options.rows:,} x {options.columns} x {options.bins}"
    )
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in figures.items():
        table.add_row(name, f"{value:,.2f}")
    Console().print(table)


def measure(options: argparse.Namespace) -> dict[str, float]:
    """All figures, by name."""
    key = PRIVATE_KEYS[options.scheme].generate(options.key_bits, full_exponents=options.full_exponents)
    key.warm()
    public = key.public
    public.warm()
    theirs, their_private = phe.generate_paillier_keypair(n_length=options.key_bits)
    layout = Layout.for_rows(options.rows, public.plaintext_bits(options.key_bits))
    few = key.encrypt(range(64))
    their_ciphertexts = [theirs.raw_encrypt(m) for m in range(4)]
    figures = {
        "encrypt_us": per_item(lambda: key.encrypt(range(64)), 64),
        "phe_encrypt_us": per_item(lambda: [theirs.raw_encrypt(m) for m in range(4)], 4),
        "add_us": per_item(lambda: public.running(few), 64),
        "decrypt_us": per_item(lambda: key.decrypt(few[:16]), 16),
        "phe_decrypt_us": per_item(lambda: [their_private.raw_decrypt(c) for c in their_ciphertexts], 4),
        "rerandomise_us": per_item(lambda: public.rerandomise(few[:16]), 16),
        "pack_us": per_item(lambda: public.pack(few[:40], layout.slot_bits, layout.slots), 40),
        "slots": layout.slots,
    }
    figures["encrypt_ratio_to_phe"] = figures["phe_encrypt_us"] / figures["encrypt_us"]
    # What is summed does not matter for the time, so 64 ciphertexts stand for all.
    rows = few[np.random.default_rng(0).integers(0, 64, options.rows)]
    size = options.columns, options.rows
    codes = np.random.default_rng(1).integers(0, options.bins, size).astype(np.uint8)
    integers = public.integers(rows)
    figures["loop_histogram_s"] = seconds(lambda: loop(integers, codes, options.bins, public.modulus))
    for workers in sorted({1, options.workers}):
        name = "histogram_s" if workers == 1 else f"histogram_{workers}_workers_s"
        figures[name] = asyncio.run(joint(key, rows, codes, options.bins, workers))
    figures["histogram_ratio_to_loop"] = figures["histogram_s"] / figures["loop_histogram_s"]
    return figures


def loop(integers: list[gmpy2.mpz], codes: np.ndarray, bins: int, modulus: gmpy2.mpz) -> None:
    """The plain way: a product a row and column."""
    for column in codes.tolist():
        sums = [gmpy2.mpz(1)] * bins
        for x, b in zip(integers, column, strict=True):
            sums[b] = sums[b] * x % modulus


async def joint(key: PrivateKey, rows: np.ndarray, codes: np.ndarray, bins: int, workers: int) -> float:
    """Seconds of the same histogram by joint cells of groups of columns, grouping included."""
    async with Workers(key.public, workers) as pool:
        store = pool.rows(*rows.shape)
        store.array[:] = rows
        await sum_rows(pool, store, np.arange(64), np.zeros((1, 64), np.int64), 1)  # start the pool
        started = time.perf_counter()
        slot = np.zeros(codes.shape[1], np.int64)
        groups = group_columns(codes, [bins] * len(codes), slot, 1)
        first = np.cumsum([0, *(group.cells for group in groups)])
        cells = np.array([group.cell_of_row + f for group, f in zip(groups, first, strict=False)])
        sums = await sum_rows(pool, store, np.arange(len(slot)), cells, int(first[-1]))
        for group, f in zip(groups, first, strict=False):
            for column in group.codes:
                await sum_by_cell(pool, sums, np.arange(f, f + group.cells), column, bins)
        elapsed = time.perf_counter() - started
        store.close()
    return elapsed


def per_item(work: Callable[[], object], items: int) -> float:
    """Microseconds of processor time an item: the median of five runs."""
    times = []
    for _ in range(5):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return statistics.median(times) / items * 1e6


def seconds(work: Callable[[], object]) -> float:
    """Seconds of one run."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
