"""Trees over the rows of several insurers: freMTPL2 by rows, beside LightGBM on all rows.

    python benchmarks/pooled_trees.py
    python benchmarks/pooled_trees.py --objective binary --holdout 0.25 --trees 50
    python benchmarks/pooled_trees.py --server

Claim frequency with its exposure (Poisson), or any claim (binary). Every row is at one of the insurers
by chance, all of them in this process: their totals are plain sums or, with --server, those of a server
that reads nothing, with every message over memory. Seconds of a tree by phase are medians of the first
insurer's, and a phase waits for the others; processor seconds are those of all. LightGBM has its own
bins of all rows that train, and the same depth, leaves, learning rate, penalty and least rows. Data: see
benchmarks/README.md.
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import lightgbm
import numpy as np
import pandas as pd
from parties import DATA, check_data, tell
from parties import scenario as fremtpl2
from sklearn.metrics import roc_auc_score

from vfl.learn.binning import Features
from vfl.learn.losses import Loss, loss_of
from vfl.learn.params import BoostParams
from vfl.net.peer import MemoryPeer, together
from vfl.protocols.common.course import GuestCourse
from vfl.protocols.common.participant import Participant
from vfl.protocols.common.rows import Training
from vfl.protocols.pooled.adding import Adder, MaskingAdder
from vfl.protocols.pooled.adding_server import serve_totals
from vfl.protocols.pooled.bins import Schema
from vfl.protocols.pooled.plain_adding import plain_adders
from vfl.protocols.pooled.trees import grow_client
from vfl.protocols.trees.grower import TreeDone

NUMBERS = ["Density", "VehPower", "VehAge", "DrivAge", "BonusMalus"]
CATEGORIES = ["Area", "Region", "VehBrand", "VehGas"]


def main() -> None:
    """Train once and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--insurers", type=int, default=4)
    parser.add_argument("--objective", choices=["poisson", "binary"], default="poisson")
    parser.add_argument("--trees", type=int, default=100)
    parser.add_argument("--depth", type=int, default=5)
    parser.add_argument("--max-bins", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=0.1)
    parser.add_argument("--holdout", type=float, default=0.0, help="share of rows that do not train")
    parser.add_argument("--server", action="store_true", help="totals by a server that reads nothing")
    parser.add_argument("--json", action="store_true", help="print the figures by name instead")
    options = parser.parse_args()
    check_data(options.data)
    policies = fremtpl2.load(options.data / "freMTPL2").head(options.rows)
    figures = measure(policies, options)
    tell(options, f"freMTPL2, {figures['rows']:,} rows at {options.insurers} insurers", figures)


def measure(policies: pd.DataFrame, options: argparse.Namespace) -> dict:
    """All figures, by name."""
    params = BoostParams(
        trees=options.trees,
        depth=options.depth,
        max_bins=options.max_bins,
        learning_rate=options.learning_rate,
    )
    poisson, count = options.objective == "poisson", len(policies)
    features: dict[str, np.ndarray] = {name: policies[name].to_numpy(np.float64) for name in NUMBERS}
    features |= {name: policies[name].astype(object).to_numpy(object) for name in CATEGORIES}
    if not poisson:
        features["Exposure"] = policies["Exposure"].to_numpy(np.float64)
    schema = Schema(tuple(features), {name: sorted(set(features[name])) for name in CATEGORIES})
    rng = np.random.default_rng(0)
    train = rng.random(count) >= options.holdout
    rows = Training(
        policies["claims" if poisson else "claim"].to_numpy(np.float64),
        np.ones(count),
        train,
        np.zeros(count, np.bool_),
        loss_of(options.objective),
        np.log(policies["Exposure"].to_numpy(np.float64)) if poisson else None,
    )
    parts = [np.flatnonzero(own) for own in _one_hot(rng.integers(0, options.insurers, count))]
    run = Run(features, rows, schema, params, parts, options.server)
    score = run.train()
    theirs, seconds = lightgbm_scores(features, rows, params)
    judged = ~train if options.holdout else train
    return {
        "rows": count,
        "trees": options.trees,
        "seconds to the first tree": run.told[0] - run.started,
        "seconds of trees": run.told[-1] - run.told[0],
        "processor seconds of trees": run.spent[-1] - run.spent[0],
        "seconds of a tree": run.phases(),
        "MB sent by an insurer": run.sent / 1e6,
        "seconds of LightGBM": seconds,
        "rows judged on": int(judged.sum()),
        **{
            f"{what} {name}": value
            for name, values in (("federated", score), ("LightGBM", theirs))
            for what, value in quality(rows, values, judged).items()
        },
    }


def _one_hot(numbers: np.ndarray) -> list[np.ndarray]:
    return [numbers == k for k in range(int(numbers.max()) + 1)]


class Run:
    """A training of all insurers in this process."""

    def __init__(
        self,
        features: Features,
        rows: Training,
        schema: Schema,
        params: BoostParams,
        parts: Sequence[np.ndarray],
        server: bool,
    ) -> None:
        self.features, self.rows, self.schema, self.params = features, rows, schema, params
        self.parts = {f"insurer{k}": own for k, own in enumerate(parts)}
        self.server = server
        self.started, self.sent = 0.0, 0
        self.told: list[float] = []  # when each tree was done
        self.spent: list[float] = []  # processor seconds until then
        self.seconds: list[dict[str, float]] = []

    def train(self) -> np.ndarray:
        """The score of every row."""
        self.started = time.perf_counter()
        grown = asyncio.run(self._with_server() if self.server else self._in_plain())
        if any(model != grown[0][0] for model, _ in grown):
            sys.exit("the insurers hold different models")
        score = np.empty(len(self.rows.label))
        for (_, own), part in zip(grown, self.parts.values(), strict=True):
            score[part] = own
        return score

    def phases(self) -> dict[str, float]:
        """Seconds of a tree by phase."""
        return {
            phase: statistics.median(tree[phase] for tree in self.seconds) for phase in self.seconds[-1]
        }

    async def _in_plain(self) -> list:
        return await together([self._client(adder) for adder in plain_adders([*self.parts])])

    async def _with_server(self) -> list:
        names = tuple(self.parts)
        pairs = [MemoryPeer.pair("server", name) for name in names]

        async def client(name: str, peer: MemoryPeer) -> tuple:
            adder = MaskingAdder(peer, Participant(name, names, b"benchmark"))
            grown = await self._client(adder)
            await adder.end()
            self.sent = peer.traffic.bytes_sent
            return grown

        serving = serve_totals([to_client for to_client, _ in pairs])
        clients = [client(name, peer) for name, (_, peer) in zip(names, pairs, strict=True)]
        return (await together([serving, *clients]))[1:]

    async def _client(self, adder: Adder) -> tuple:
        own = self.parts[adder.name]
        rows = self.rows
        offset = None if rows.offset is None else rows.offset[own]
        arrays = (rows.label, rows.weight, rows.train, rows.validation)
        part = Training(*(values[own] for values in arrays), rows.loss, offset)
        features = {name: values[own] for name, values in self.features.items()}
        course = GuestCourse(self._follow) if adder.name == next(iter(self.parts)) else GuestCourse()
        return await grow_client(adder, features, part, self.schema, self.params, course=course)

    def _follow(self, done: TreeDone) -> None:
        self.told.append(time.perf_counter())
        self.spent.append(time.process_time())
        self.seconds.append(done.seconds)


def lightgbm_scores(features: Features, rows: Training, params: BoostParams) -> tuple[np.ndarray, float]:
    """The score of every row, and the seconds of training."""
    x = np.column_stack([_numbers(values) for values in features.values()])
    categorical = [k for k, name in enumerate(features) if name in CATEGORIES]
    poisson = rows.offset is not None
    settings = {
        "objective": "poisson" if poisson else "binary",
        "num_leaves": 2**params.depth,
        "max_depth": params.depth,
        "learning_rate": params.learning_rate,
        "lambda_l2": params.reg_lambda,
        "min_data_in_leaf": params.min_child_rows,
        "min_sum_hessian_in_leaf": params.min_child_weight,
        "max_bin": params.max_bins,
        "max_cat_to_onehot": 64,  # one category against the rest, as ours
        "num_threads": 1,
        "verbose": -1,
    }
    train, base = rows.train, np.zeros(len(rows.label))
    if poisson:
        base = rows.start()[1]
    data = lightgbm.Dataset(
        x[train],
        rows.label[train],
        init_score=base[train] if poisson else None,
        categorical_feature=categorical,
    )
    started = time.perf_counter()
    booster = lightgbm.train(settings, data, params.trees)
    seconds = time.perf_counter() - started
    return base + np.asarray(booster.predict(x, raw_score=True)), seconds


def _numbers(values: np.ndarray) -> np.ndarray:
    if values.dtype != object:
        return values
    return np.unique(values.astype(str), return_inverse=True)[1].astype(float)


def quality(rows: Training, score: np.ndarray, judged: np.ndarray) -> dict[str, float]:
    """How good scores are on some rows."""
    loss: Loss = rows.loss
    label, weight = rows.label[judged], rows.weight[judged]
    if rows.offset is None:
        return {"AUC": float(roc_auc_score(label, score[judged]))}
    _, start = rows.start()
    constant = loss.deviance(start[judged], label, weight)
    return {"deviance explained": 1 - loss.deviance(score[judged], label, weight) / constant}


if __name__ == "__main__":
    main()
