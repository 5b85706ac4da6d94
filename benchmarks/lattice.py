"""The lattice kernels, by size of the host's table: once a job, and a vector of a batch.

python benchmarks/lattice.py
python benchmarks/lattice.py --rows 10000 100000 --columns 5 20 200 --bins 32 --batch 16 --json
python benchmarks/lattice.py --rows 1000000 --bits 6 --pairs

With --pairs a second column has gradients and hessians in one word each, half as many vectors at a time:
times are then those of a pair, to be held against two vectors.

Every combination of rows and columns is measured once, outputs are checked against plain sums. Times are
processor time of all cores together (user and system), after a small run that compiles the kernels;
elapsed times are beside them with --elapsed. Below stands what the machine does in the same run: bytes
copied and added from memory to memory, counted as STREAM does (McCalpin), AES-256-CTR, and products of
matrices, the most that a core computes in a second. Of each kernel the bytes that it must read and write
at the least, at what rate it does, and what its transforms and random words would take by themselves.
"""

import argparse
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import TypeVar

import numpy as np
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from vfl.arrays import Floats, Words
from vfl.crypto.lattice import answers
from vfl.crypto.lattice.hint import EncryptedHint, HintKey
from vfl.crypto.lattice.matrix import Accumulator, CellMatrix, CodedColumn, Outputs, make_hint
from vfl.crypto.lattice.parameters import DEGREE, PAIR_WORD, WORDS, choose
from vfl.crypto.lattice.randomness import WordStream, room_for
from vfl.crypto.lattice.vectors import PublicRows, Secrets, VectorEncryption
from vfl.crypto.randomness import Stream

T = TypeVar("T")
PIECE = 8 * DEGREE


def main() -> None:
    """Measure each size once and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--columns", type=int, nargs="+", default=[20])
    parser.add_argument("--bins", type=int, default=32)
    parser.add_argument("--batch", type=int, default=32, help="vectors at a time")
    parser.add_argument("--bits", type=int, default=10, help="of a vector's entries")
    parser.add_argument(
        "--pairs", action="store_true", help="beside them pairs, for --bits that these hold"
    )
    parser.add_argument("--elapsed", action="store_true", help="elapsed times too")
    parser.add_argument("--json", action="store_true", help="print the figures by name instead")
    options = parser.parse_args()
    kinds = (False, True) if options.pairs else (False,)
    for pairs in kinds:
        measure(2 * DEGREE, 2, pairs, options)
    machine = yardsticks()
    sizes = product(options.rows, options.columns, kinds)
    found = [measure(rows, columns, pairs, options) for rows, columns, pairs in sizes]
    compared = [against(figures, machine, options) for figures in found]
    if options.json:
        print(json.dumps({"machine": machine, "sizes": found, "against": compared}))
        return
    table = Table(title=f"{options.bins} bins, batches of {options.batch}")
    table.add_column("figure")
    for figures in found:
        kind = ", pairs" if figures["pairs"] else ""
        title = f"{figures['rows']:,.0f} x {figures['columns']:,.0f}{kind}"
        table.add_column(title, justify="right")
    for name in list(found[0])[3:]:
        table.add_row(name, *(f"{figures[name]:,.2f}" for figures in found))
    for name in compared[0]:
        table.add_row(name, *(f"{figures[name]:,.2f}" for figures in compared))
    Console().print(table)
    Console().print(", ".join(f"{name} {value:,.1f}" for name, value in machine.items()))


def yardsticks() -> dict[str, float]:
    """What this machine does: the best of several tries, by name with its unit."""
    size, tries = 1 << 24, 5  # 128 MB an array, more than caches hold

    def copied(kept: list[Floats]) -> float:
        return 16 * size / seconds(lambda: np.copyto(kept[0], kept[1]))

    def added(kept: list[Floats]) -> float:
        return 24 * size / seconds(lambda: np.add(kept[1], kept[2], out=kept[0]))

    def rate(work: Callable[[list[Floats]], float], cores: int) -> float:
        """Of so many threads at once, each by its own processor time."""
        arrays = [[np.full(size, float(k)) for k in range(3)] for _ in range(cores)]
        with ThreadPoolExecutor(cores) as threads:
            return max(sum(threads.map(work, arrays)) / 1e9 for _ in range(tries))

    square = np.ones((1024, 1024))
    with threadpool_limits(1, "blas"):
        flops = max(2 * 1024**3 / seconds(lambda: square @ square) / 1e9 for _ in range(tries))
    stream = WordStream(bytes(32), "speed")
    room = room_for(1 << 15)
    drawn = max(8 * (1 << 15) / seconds(lambda: stream.read(1 << 15, room)) / 1e9 for _ in range(1000))
    return {
        "copy, one core, GB/s": rate(copied, 1),
        "copy, two cores, GB/s": rate(copied, 2),
        "add, one core, GB/s": rate(added, 1),
        "add, two cores, GB/s": rate(added, 2),
        "AES-256-CTR, one core, GB/s": drawn,
        "products of matrices, one core, GFlop/s": flops,
    }


def seconds(work: Callable[[], object]) -> float:
    """Processor seconds of this thread."""
    began = time.thread_time()
    work()
    return time.thread_time() - began


def against(
    figures: dict[str, float], machine: dict[str, float], options: argparse.Namespace
) -> dict[str, float]:
    """A vector's kernels beside what they must move and compute."""
    rows, batch, word = figures["rows"], figures["batch"], figures["rows_sent_bytes_a_row"]
    copy = machine["copy, one core, GB/s"]
    least = {
        # Values in, words out, and the public polynomials for the batch.
        "encrypt": rows * ((8 if options.bits > 16 or figures["pairs"] else 2) + word + 16 / batch),
        # Words in, and a byte for the code of a row and column.
        "sum": rows * (word + figures["columns"] / batch),
        "multiply": figures["hint_kept_mb"] * 1e6 / batch,
    }
    made: dict[str, float] = {}
    for name, size in least.items():
        speed = size / figures[f"{name}_ms"] / 1e6
        made |= {f"{name}_least_mb": size / 1e6, f"{name}_gb_s": speed, f"{name}_of_copy": speed / copy}
    # 5 n log2 n operations a transform of n points, two of a block; 8 random bytes a row.
    blocks = -(-rows // DEGREE)
    transforms = blocks * 2 * 5 * (DEGREE / 2) * 11
    made["encrypt_transforms_at_peak_ms"] = (
        transforms / machine["products of matrices, one core, GFlop/s"] / 1e6
    )
    made["encrypt_random_words_ms"] = blocks * DEGREE * 8 / machine["AES-256-CTR, one core, GB/s"] / 1e6
    made["sum_additions_g_s"] = rows * figures["columns"] / figures["sum_ms"] / 1e6
    return made


def measure(rows: int, columns: int, pairs: bool, options: argparse.Namespace) -> dict[str, float]:
    """All figures of one size, by name."""
    figures: dict[str, float] = {"rows": rows, "columns": columns, "pairs": pairs}

    def timed(name: str, work: Callable[[], T], vectors: int = 0) -> T:
        """Times of `work` in seconds, or in milliseconds a vector; those of one name add up."""
        elapsed, processor = time.perf_counter(), time.process_time()
        result = work()
        factor = 1000 / vectors if vectors else 1
        name += "_ms" if vectors else "_s"
        spent = {name: time.process_time() - processor}
        if options.elapsed:
            spent[f"{name}_elapsed"] = time.perf_counter() - elapsed
        for each, seconds in spent.items():
            figures[each] = figures.get(each, 0.0) + seconds * factor
        return result

    generator = np.random.default_rng(0)
    batch, bins = max(1, options.batch // 2) if pairs else options.batch, options.bins
    matrix = left_sums(generator, rows, columns, bins)
    p = choose(rows, options.bits, len(matrix.outputs), 3200, words=(PAIR_WORD,) if pairs else WORDS)
    public = PublicRows(bytes(32), rows, p.modulus.vectors)
    timed("public_rows", lambda: public.flat(range(public.blocks)))
    made = timed("hint", lambda: make_hint(matrix, PublicRows(bytes(32), rows, p.modulus.sums)))
    key = HintKey(p, bytes(32), bytes(32), matrix.digest())
    parts = timed("encrypt_hint", lambda: list(key.encrypt(made)))
    encrypted = EncryptedHint(p, bytes(32), key.header())
    timed("load_hint", lambda: [encrypted.load(i, part) for i, part in enumerate(parts)])

    drawn = Secrets.draw(batch, Stream())
    products, masks = timed("multiply", lambda: encrypted.multiply(drawn, Stream()), batch)
    encryption, sums = VectorEncryption(p, public, drawn, Stream()), Accumulator(p, matrix, batch)
    most = 1 << (options.bits - 1)
    numbers = 2 * batch if pairs else batch
    exact = np.zeros((numbers, columns * bins), np.int64)
    sent: list[bytes] = []
    for start in range(0, rows, PIECE):
        given = generator.integers(1 - most, most, (numbers, min(PIECE, rows - start)))
        if pairs:
            given[1::2] = np.abs(given[1::2])
            values = given[0::2] * p.base + given[1::2]
        else:
            values = given.astype(np.int16 if options.bits <= 16 else np.int64)  # as trees have them
        sent.append(timed("encrypt", lambda v=values, s=start: encryption.rows(s, v), batch))  # type: ignore[misc]
        for f, column in enumerate(matrix.columns):
            for v in range(numbers):
                # Doubles are exact here: sums stay far below 2^53.
                codes = column.array[column.row, start : start + PIECE]
                sums_of_bins = np.bincount(codes, given[v], bins)
                exact[v, f * bins : (f + 1) * bins] += sums_of_bins.astype(np.int64)

    def summed() -> Words:
        # Pieces are added up by threads: what they take is over when the result is there.
        for number, data in enumerate(sent):
            sums.add(number * PIECE, data)
        return sums.result()

    total = timed("sum", summed, batch)
    opened = timed("open", lambda: key.open(products, batch), batch)
    answer = timed("seal", lambda: answers.seal(p, total, opened, Stream()), batch)
    found = timed("unseal", lambda: answers.unseal(p, answer, masks), batch)
    running = np.cumsum(exact.reshape(numbers, columns, bins), axis=2)[:, :, :-1]
    if not np.array_equal(found, running.reshape(numbers, -1)):
        raise SystemExit("the sums are not exact")
    return figures | {
        "batch": batch,
        "outputs": p.outputs,
        "margin_bits": p.margin_bits,
        "hint_sent_mb": (p.hint_header_bytes + sum(map(len, parts))) / 1e6,
        "rows_sent_bytes_a_row": sum(map(len, sent)) / rows / batch,
        "products_sent_kb": len(products) / batch / 1e3,
        "answer_sent_kb": len(answer) / batch / 1e3,
        "public_rows_kept_mb": public.blocks * 16 * DEGREE / 1e6,
        "hint_kept_mb": encrypted.nbytes / 1e6,
    }


def left_sums(generator: np.random.Generator, rows: int, columns: int, bins: int) -> CellMatrix:
    """Uniform bins, and the left sums of all edges of all columns."""
    codes = generator.integers(0, bins, (columns, rows)).astype(np.uint8)
    at = (np.arange(columns)[:, np.newaxis] * bins + np.arange(bins - 1)).reshape(-1)
    ones = np.ones(len(at), np.int64)
    return CellMatrix(
        CodedColumn.all_of(codes, [bins] * columns),
        Outputs(np.arange(len(at) + 1), at, ones, running=True),
    )


if __name__ == "__main__":
    main()
