"""The lattice kernels, by size of the host's table: once a job, and a vector of a batch of 32.

python benchmarks/lattice.py
python benchmarks/lattice.py --rows 10000 100000 --columns 5 20 200 --bins 32 --json

Every combination of rows and columns is measured once, outputs are checked against plain sums. Times are
processor time of all cores together (user and system), after a small run that compiles the kernels;
elapsed times are beside them with --elapsed.
"""

import argparse
import json
import time
from collections.abc import Callable
from itertools import product
from typing import TypeVar

import numpy as np
from rich.console import Console
from rich.table import Table

from vfl.crypto.lattice import answers
from vfl.crypto.lattice.hint import EncryptedHint, HintKey
from vfl.crypto.lattice.matrix import Accumulator, CellMatrix, CodedColumn, Outputs, make_hint
from vfl.crypto.lattice.parameters import DEGREE, choose
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
    parser.add_argument("--bits", type=int, default=13, help="of a vector's entries")
    parser.add_argument("--elapsed", action="store_true", help="elapsed times too")
    parser.add_argument("--json", action="store_true", help="print the figures by name instead")
    options = parser.parse_args()
    measure(2 * DEGREE, 2, options)
    found = [measure(rows, columns, options) for rows, columns in product(options.rows, options.columns)]
    if options.json:
        print(json.dumps({"sizes": found}))
        return
    table = Table(title=f"{options.bins} bins, batches of {options.batch}")
    table.add_column("figure")
    for figures in found:
        table.add_column(f"{figures['rows']:,.0f} x {figures['columns']:,.0f}", justify="right")
    for name in list(found[0])[2:]:
        table.add_row(name, *(f"{figures[name]:,.2f}" for figures in found))
    Console().print(table)


def measure(rows: int, columns: int, options: argparse.Namespace) -> dict[str, float]:
    """All figures of one size, by name."""
    figures: dict[str, float] = {"rows": rows, "columns": columns}

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
    batch, bins = options.batch, options.bins
    matrix = left_sums(generator, rows, columns, bins)
    p = choose(rows, options.bits, len(matrix.outputs), 3200)
    public = timed("public_rows", lambda: PublicRows(bytes(32), rows))
    made = timed("hint", lambda: make_hint(matrix, public))
    key = HintKey(p, bytes(32), bytes(32), matrix.digest())
    parts = timed("encrypt_hint", lambda: list(key.encrypt(made)))
    encrypted = EncryptedHint(p, bytes(32), key.header())
    timed("load_hint", lambda: [encrypted.load(i, part) for i, part in enumerate(parts)])

    drawn = Secrets.draw(batch, Stream())
    products, masks = timed("multiply", lambda: encrypted.multiply(drawn, Stream()), batch)
    encryption, sums = VectorEncryption(p, public, drawn, Stream()), Accumulator(p, matrix, batch)
    most = 1 << (options.bits - 1)
    exact = np.zeros((batch, columns * bins), np.int64)
    sent = 0
    for start in range(0, rows, PIECE):
        values = generator.integers(1 - most, most, (batch, min(PIECE, rows - start)))
        data = timed("encrypt", lambda v=values, s=start: encryption.rows(s, v), batch)  # type: ignore[misc]
        timed("sum", lambda d=data, s=start: sums.add(s, d), batch)  # type: ignore[misc]
        sent += len(data)
        for f, column in enumerate(matrix.columns):
            for v in range(batch):
                # Doubles are exact here: sums stay far below 2^53.
                sums_of_bins = np.bincount(column.codes[start : start + PIECE], values[v], bins)
                exact[v, f * bins : (f + 1) * bins] += sums_of_bins.astype(np.int64)
    opened = timed("open", lambda: key.open(products, batch), batch)
    answer = timed("seal", lambda: answers.seal(p, sums.result(), opened, Stream()), batch)
    found = timed("unseal", lambda: answers.unseal(p, answer, masks), batch)
    running = np.cumsum(exact.reshape(batch, columns, bins), axis=2)[:, :, :-1]
    if not np.array_equal(found, running.reshape(batch, -1)):
        raise SystemExit("the sums are not exact")
    return figures | {
        "outputs": p.outputs,
        "margin_bits": p.margin_bits,
        "hint_sent_mb": (p.hint_header_bytes + sum(map(len, parts))) / 1e6,
        "rows_sent_bytes_a_row": sent / rows / batch,
        "products_sent_kb": len(products) / batch / 1e3,
        "answer_sent_kb": len(answer) / batch / 1e3,
        "public_rows_kept_mb": public.blocks * 16 * DEGREE / 1e6,
        "hint_kept_mb": encrypted.nbytes / 1e6,
    }


def left_sums(generator: np.random.Generator, rows: int, columns: int, bins: int) -> CellMatrix:
    """Uniform bins, and the left sums of all edges of all columns."""
    codes = [generator.integers(0, bins, rows).astype(np.uint8) for _ in range(columns)]
    at = (np.arange(columns)[:, np.newaxis] * bins + np.arange(bins - 1)).reshape(-1)
    ones = np.ones(len(at), np.int64)
    return CellMatrix(
        [CodedColumn(c, bins) for c in codes], Outputs(np.arange(len(at) + 1), at, ones, running=True)
    )


if __name__ == "__main__":
    main()
