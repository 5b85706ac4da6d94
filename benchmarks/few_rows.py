"""Sums over few rows under the lattice engine: a hint and its vectors beside a matrix that is encrypted.

python benchmarks/few_rows.py
python benchmarks/few_rows.py --rows 600 1300 2000 --columns 200 --json

Processor seconds of both sides, all in one process, after a small run that compiles the kernels: once
for a hint or a matrix (made, encrypted, loaded), and for a tree of depth 5, which has queries of 2, 2,
4, 8 and 16 vectors. Sums are checked against plain ones. Last stands whether jobs take a matrix
(docs/lattice.md).
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from lattice import left_sums
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from vfl.crypto.lattice import answers
from vfl.crypto.lattice.direct import EncryptedMatrix, MatrixKey, choose_direct, entries_of, is_cheaper
from vfl.crypto.lattice.hint import EncryptedHint, HintKey, Opened
from vfl.crypto.lattice.matrix import Accumulator, make_hint
from vfl.crypto.lattice.parameters import choose
from vfl.crypto.lattice.vectors import PublicRows, Secrets, VectorEncryption
from vfl.crypto.randomness import Stream

T = TypeVar("T")
QUERIES = (2, 2, 4, 8, 16)  # vectors of a tree of depth 5, by level
BITS, LIFE, SEED = 13, 1 << 16, bytes(32)


def main() -> None:
    """Measure each number of rows once and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[300, 600, 1300, 2000, 4000])
    parser.add_argument("--columns", type=int, default=200)
    parser.add_argument("--bins", type=int, default=32)
    parser.add_argument("--json", action="store_true", help="print the figures by name instead")
    options = parser.parse_args()
    measure(100, 2, options.bins)
    found = [measure(rows, options.columns, options.bins) for rows in options.rows]
    if options.json:
        print(json.dumps(found))
        return
    table = Table(title=f"{options.columns:,} columns of {options.bins} bins")
    table.add_column("figure")
    for figures in found:
        table.add_column(f"{figures['rows']:,.0f} rows", justify="right")
    for name in list(found[0])[1:]:
        table.add_row(name, *(f"{figures[name]:,.2f}" for figures in found))
    Console().print(table)


def measure(rows: int, columns: int, bins: int) -> dict[str, float]:
    """All figures of one size, by name."""
    figures: dict[str, float] = {"rows": rows}
    generator = np.random.default_rng(0)
    matrix = left_sums(generator, rows, columns, bins)
    outputs, entries = len(matrix.outputs), entries_of(matrix)
    vectors = [generator.integers(1 - (1 << BITS - 1), 1 << BITS - 1, (k, rows)) for k in QUERIES]
    exact = [values @ entries.T.astype(np.int64) for values in vectors]

    def timed(name: str, work: Callable[[], T]) -> T:
        began = time.process_time()
        result = work()
        figures[name] = time.process_time() - began
        return result

    def check(found: Sequence[NDArray[np.int64]]) -> None:
        if not all(map(np.array_equal, found, exact)):
            raise SystemExit("the sums are not exact")

    hinted = choose(rows, BITS, outputs, LIFE, least=66)
    public = PublicRows(SEED, rows)

    def hint() -> tuple[HintKey, EncryptedHint]:
        key = HintKey(hinted, SEED, SEED, b"")
        made = EncryptedHint(hinted, SEED, key.header())
        for number, part in enumerate(key.encrypt(make_hint(matrix, public))):
            made.load(number, part)
        return key, made

    key, kept = timed("hint once, s", hint)

    def tree_by_hint() -> list[NDArray[np.int64]]:
        drawn = Secrets.draw(sum(QUERIES), Stream())
        products, masks = kept.multiply(drawn, Stream())
        opened, found, first = key.open(products, len(drawn)), [], 0
        for values in vectors:
            part = slice(first, first := first + len(values))
            own = Secrets(drawn.values[part])
            sums = Accumulator(hinted, matrix, len(values))
            sums.add(0, VectorEncryption(hinted, public, own, Stream()).rows(0, values.astype(np.int16)))
            taken = Opened(opened.whole[part], opened.fraction[part])
            answer = answers.seal(hinted, sums.result(), taken, Stream())
            found.append(answers.unseal(hinted, answer, masks[part]))
        return found

    check(timed("hint, a tree, s", tree_by_hint))
    direct = choose_direct(rows, BITS, outputs, LIFE, least=66)

    def encrypted() -> tuple[MatrixKey, EncryptedMatrix]:
        key = MatrixKey(direct, SEED, SEED, b"")
        made = EncryptedMatrix(direct, SEED, key.header())
        for number, part in enumerate(key.encrypt(entries_of(matrix))):
            made.load(number, part)
        return key, made

    own, stored = timed("matrix once, s", encrypted)

    def tree_by_matrix() -> list[NDArray[np.int64]]:
        found = []
        for values in vectors:
            products, masks = stored.multiply_vectors(values, Stream())
            opened = own.open(products, len(values))
            answer = answers.seal(direct, np.zeros_like(opened.whole), opened, Stream())
            found.append(answers.unseal(direct, answer, masks))
        return found

    check(timed("matrix, a tree, s", tree_by_matrix))
    made = sum(QUERIES)
    return figures | {
        "hint sent, MB": hinted.hint_bytes / 1e6,
        "matrix sent, MB": direct.hint_bytes / 1e6,
        "hint, a tree sent, MB": (
            hinted.product_bytes(made) + hinted.rows_bytes(rows, made) + hinted.answer_bytes(made)
        )
        / 1e6,
        "matrix, a tree sent, MB": (direct.product_bytes(made) + direct.answer_bytes(made)) / 1e6,
        "life of a matrix, vectors": direct.queries,
        "matrix is taken": is_cheaper([direct], [hinted]),
    }


if __name__ == "__main__":
    main()
