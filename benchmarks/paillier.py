"""The operations of Paillier, one core against phe and a plain loop, histograms on all cores.

python benchmarks/paillier.py
python benchmarks/paillier.py --rows 100000 --columns 10 --bins 32 --workers 2 --json
python benchmarks/paillier.py --table policies.parquet VehPower VehAge VehBrand VehGas

With --table the histogram is of a Parquet file's columns, binned, instead of uniform ones; those of text
are categories.
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
import pandas as pd
import phe
from rich.console import Console
from rich.table import Table

from vfl.crypto.packing import SumPacking
from vfl.crypto.paillier import PrivateKey
from vfl.crypto.sums import sum_rows
from vfl.crypto.workers import Machine, Workers
from vfl.learn.binning import bin_columns
from vfl.protocols.common.histograms import JointSums


def main() -> None:
    """Measure once and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--columns", type=int, default=10)
    parser.add_argument("--bins", type=int, default=32)
    parser.add_argument("--table", nargs="+", metavar=("FILE", "COLUMN"), help="columns of a table")
    parser.add_argument("--key-bits", type=int, default=2048)
    parser.add_argument("--repeat", type=int, default=1, help="histograms, of which the median")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--full-exponents", action="store_true", help="obfuscators without assumption")
    parser.add_argument("--json", action="store_true", help="print the figures by name instead")
    options = parser.parse_args()
    figures = measure(options)
    if options.json:
        print(json.dumps(figures))
        return
    table = Table(title=f"Paillier, {options.key_bits} bits")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in figures.items():
        table.add_row(name, f"{value:,.2f}")
    Console().print(table)


def measure(options: argparse.Namespace) -> dict[str, float]:
    """All figures, by name."""
    key = PrivateKey.generate(options.key_bits, full_exponents=options.full_exponents)
    key.warm()
    public = key.public
    pool = public.obfuscators(public.pool_size)
    public.obfuscators(1, pool)  # makes the tables
    theirs, their_private = phe.generate_paillier_keypair(n_length=options.key_bits)
    codes, sizes = columns(options)
    rows = codes.shape[1]
    layout = SumPacking.for_rows(rows, options.key_bits)
    few = key.encrypt(range(64))
    their_ciphertexts = [theirs.raw_encrypt(m) for m in range(4)]
    figures = {
        "encrypt_us": per_item(lambda: key.encrypt(range(64)), 64),
        "phe_encrypt_us": per_item(lambda: [theirs.raw_encrypt(m) for m in range(4)], 4),
        "add_us": per_item(lambda: public.running(few), 64),
        "decrypt_us": per_item(lambda: key.decrypt(few[:16]), 16),
        "phe_decrypt_us": per_item(lambda: [their_private.raw_decrypt(c) for c in their_ciphertexts], 4),
        "rerandomise_us": per_item(lambda: public.rerandomise(few[:16]), 16),
        "rerandomise_by_product_us": per_item(
            lambda: public.rerandomise(few[:16], public.obfuscators(16, pool)), 16
        ),
        "pack_us": per_item(lambda: public.pack(few[:40], layout.slot_bits, layout.slots), 40),
        "slots": layout.slots,
    }
    figures["encrypt_ratio_to_phe"] = figures["phe_encrypt_us"] / figures["encrypt_us"]
    # What is summed does not matter for the time, so 64 ciphertexts stand for all.
    pick = np.random.default_rng(0).integers(0, 64, rows)
    integers = public.integers(few)
    of_row = [integers[i] for i in pick.tolist()]
    figures["rows"], figures["columns"] = rows, len(codes)
    times: dict[str, list[float]] = {}
    for _ in range(options.repeat):
        once = {"loop_histogram_s": seconds(lambda: loop(of_row, codes, sizes, public.n_squared))}
        for workers in sorted({1, options.workers}):
            name = "histogram_s" if workers == 1 else f"histogram_{workers}_workers_s"
            once[name] = asyncio.run(joint(key, few[pick], codes, sizes, workers))
        once["histogram_ratio_to_loop"] = once["histogram_s"] / once["loop_histogram_s"]
        for name, value in once.items():
            times.setdefault(name, []).append(value)
    return figures | {name: statistics.median(values) for name, values in times.items()}


def columns(options: argparse.Namespace) -> tuple[np.ndarray, list[int]]:
    """Codes of shape (columns, rows), and how many codes each column has."""
    if options.table is None:
        size = options.columns, options.rows
        codes = np.random.default_rng(1).integers(0, options.bins, size).astype(np.uint8)
        return codes, [options.bins] * options.columns
    file, *names = options.table
    table = pd.read_parquet(file, columns=names)
    features = {
        name: table[name].to_numpy(np.float64 if pd.api.types.is_numeric_dtype(table[name]) else object)
        for name in names
    }
    binned = bin_columns(features, options.bins, 3)
    return binned.codes, [column.bins + 1 for column in binned.columns]


def loop(rows: list[gmpy2.mpz], codes: np.ndarray, sizes: list[int], modulus: gmpy2.mpz) -> None:
    """The plain way: a product a row and column."""
    for column, size in zip(codes.tolist(), sizes, strict=True):
        sums = [gmpy2.mpz(1)] * size
        for x, b in zip(rows, column, strict=True):
            sums[b] = sums[b] * x % modulus


async def joint(
    key: PrivateKey, rows: np.ndarray, codes: np.ndarray, sizes: list[int], workers: int
) -> float:
    """Seconds of the same histogram by joint cells of groups of columns, grouping included.

    Of one core they are processor time, as the loop's; of several they are time passed.
    """
    clock = time.process_time if workers == 1 else time.perf_counter
    async with Workers(key.public, Machine(workers)) as pool:
        store = pool.rows(*rows.shape)
        store.array[:] = rows
        await sum_rows(pool, store, np.arange(64), np.zeros((1, 64), np.int64), 1)  # start the pool
        started = clock()
        sums = JointSums(pool, store, sizes, 1)
        sums.group(codes, np.zeros(codes.shape[1], np.int64))
        await sums.add(0, codes.shape[1], np.arange(codes.shape[1]))
        await sums.histograms()
        elapsed = clock() - started
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
    """Seconds of processor time of one run."""
    started = time.process_time()
    work()
    return time.process_time() - started


if __name__ == "__main__":
    main()
