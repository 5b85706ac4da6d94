"""Trees in the clear: our histograms of a party's own columns beside LightGBM, in one process.

    python benchmarks/own_columns.py
    python benchmarks/own_columns.py --rows 200000 --columns 100 --encryption paillier

Uniform columns and a label that depends on some of them. Our trees are those of the plaintext
oracle, whose sums are what the guest's own columns take in a job; its gradients have the bits that
the encryption leaves. LightGBM has the same depth, leaves, bins, penalty and learning rate. All
train in turns in this process; figures are medians over trees, processor seconds those of all
threads. The first tree of every turn is left out: LightGBM makes its bins with it.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable, Sequence

import lightgbm
import numpy as np
from parties import tell

from vfl.learn.binning import bin_columns
from vfl.learn.losses import loss_of
from vfl.learn.params import BoostParams
from vfl.protocols.common.checkpoints import Checkpoints
from vfl.protocols.common.rows import Training
from vfl.protocols.trees.columns import Growth, HostColumns, OwnColumns
from vfl.protocols.trees.grower import Pooled, TreeDone

Seconds = tuple[float, float]
"""Of a clock on the wall, and of the processor."""


def main() -> None:
    """Train in turns and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=25)
    parser.add_argument("--depth", type=int, default=5)
    parser.add_argument("--max-bins", type=int, default=32)
    parser.add_argument("--trees", type=int, default=10, help="of each in every turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--encryption", choices=["paillier", "lattice"], default="lattice")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2], help="of LightGBM")
    parser.add_argument("--json", action="store_true", help="print the figures by name instead")
    options = parser.parse_args()
    figures = measure(options)
    tell(options, f"{options.rows:,} rows, {options.columns} columns, depth {options.depth}", figures)


def measure(options: argparse.Namespace) -> dict:
    """All figures, by name."""
    rng = np.random.default_rng(0)
    columns = rng.random((options.columns, options.rows))
    odds = 4 * (columns[: min(5, options.columns)] - 0.5).sum(axis=0)
    label = (rng.random(options.rows) < 1 / (1 + np.exp(-odds))).astype(np.float64)
    params = BoostParams(
        trees=options.trees,
        depth=options.depth,
        max_bins=options.max_bins,
        encryption=options.encryption,
    )
    grower = _Timed(columns, label, params)
    others = {threads: _LightGBM(columns, label, params, threads) for threads in options.threads}
    trees: list[Seconds] = []
    sums: list[Seconds] = []
    theirs: dict[int, list[Seconds]] = {threads: [] for threads in others}
    for _ in range(options.turns):
        of_trees, of_sums = grower.turn()
        trees += of_trees
        sums += of_sums
        for threads, other in others.items():
            theirs[threads] += other.turn()
    figures = {"gradient bits": grower.grower.quantisation.bits}
    figures |= _medians("tree", trees) | _medians("own columns' sums of a tree", sums)
    for threads, found in theirs.items():
        figures |= _medians(f"LightGBM's tree, threads: {threads}", found)
    return figures


def _medians(what: str, found: Sequence[Seconds]) -> dict[str, float]:
    wall, processor = zip(*found, strict=True)
    return {
        f"seconds, {what}": statistics.median(wall),
        f"processor seconds, {what}": statistics.median(processor),
    }


def _now() -> Seconds:
    return time.perf_counter(), time.process_time()


def _since(begun: Seconds) -> Seconds:
    now = _now()
    return now[0] - begun[0], now[1] - begun[1]


class _Pooled(Pooled):
    """The oracle, with the time that its sums take."""

    sums_took: Seconds = 0.0, 0.0

    async def sums(self, parties: Sequence[OwnColumns | HostColumns], growth: Growth) -> None:
        begun = _now()
        await super().sums(parties, growth)
        took = _since(begun)
        self.sums_took = self.sums_took[0] + took[0], self.sums_took[1] + took[1]


class _Timed:
    """Our trees."""

    def __init__(self, columns: np.ndarray, label: np.ndarray, params: BoostParams) -> None:
        features = {f"c{i}": column for i, column in enumerate(columns)}
        binned = bin_columns(features, params.max_bins, params.min_child_rows)
        everybody = np.ones(len(label), np.bool_)
        rows = Training(label, np.ones(len(label)), everybody, ~everybody, loss_of("binary"))
        self.grower = _Pooled({"guest": binned}, rows, params)

    def turn(self) -> tuple[list[Seconds], list[Seconds]]:
        """Train; what each tree took but the first, and its sums."""
        trees: list[Seconds] = []
        sums: list[Seconds] = []
        begun = _now()

        def progress(_: TreeDone) -> None:
            nonlocal begun
            trees.append(_since(begun))
            sums.append(self.grower.sums_took)
            self.grower.sums_took, begun = (0.0, 0.0), _now()

        asyncio.run(self.grower.train(progress, Checkpoints()))
        return trees[1:], sums[1:]


class _LightGBM:
    """LightGBM's."""

    def __init__(
        self, columns: np.ndarray, label: np.ndarray, params: BoostParams, threads: int
    ) -> None:
        self._settings = {
            "objective": "binary",
            "num_leaves": 2**params.depth,
            "max_depth": params.depth,
            "learning_rate": params.learning_rate,
            "max_bin": params.max_bins,
            "lambda_l2": params.reg_lambda,
            "min_data_in_leaf": params.min_child_rows,
            "num_threads": threads,
            "verbose": -1,
        }
        self._data = lightgbm.Dataset(columns.T, label, params=self._settings)
        self._trees = params.trees

    def turn(self) -> list[Seconds]:
        """Train; what each tree took but the first."""
        trees: list[Seconds] = []
        begun = _now()

        def follow(_: object) -> None:
            nonlocal begun
            trees.append(_since(begun))
            begun = _now()

        callbacks: list[Callable] = [follow]
        lightgbm.train(self._settings, self._data, self._trees, callbacks=callbacks)
        return trees[1:]


if __name__ == "__main__":
    main()
