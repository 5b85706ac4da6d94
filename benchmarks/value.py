"""What the federation is worth: insurer alone, federated and pooled, trees and linear model.

    python benchmarks/value.py --rows 100000 --figure docs/images/value.svg
    python benchmarks/value.py --rows 678013 --trees 100 --depth 5 --encryption lattice

freMTPL2, claim frequency (Poisson with exposure), three parties over mutual TLS, each a process.
"Pooled" has all columns in one place, which no company could have: the same trees without any
encryption, glum's fit of the same linear model, and LightGBM. Deviance explained, normalised Gini and
the lift of the top tenth of exposure are those of held-out policies. Data: see benchmarks/README.md.
"""

import argparse
import asyncio
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import glum
import lightgbm
import numpy as np
from numpy.typing import NDArray
from parties import DATA, UNBOUND, check_data, frequency, set_up
from rich.console import Console
from rich.table import Table

from vfl import local
from vfl.jobs.alignments import load_alignment
from vfl.jobs.record import Evaluation, load_record
from vfl.learn.binning import bin_columns
from vfl.learn.losses import loss_of
from vfl.learn.metrics import gini, lift_table, lorenz, totals
from vfl.learn.params import BoostParams
from vfl.models.halves import GuestHalf, HostHalf
from vfl.models.kinds import load_half
from vfl.party.config import load_party
from vfl.party.store import Store
from vfl.party.table import read_table
from vfl.protocols.common.rows import Training
from vfl.protocols.trees.training import guest_train

TREES = BoostParams(trees=60, depth=4, learning_rate=0.1, min_child_rows=100, min_child_weight=1e-3)
ALPHA, TOLERANCE, HOLDOUT = 1e-4, 1e-8, 0.3


@dataclass(frozen=True)
class Pooled:
    """All parties' columns of the aligned rows, which rows train, and the insurer's labels."""

    features: dict[str, dict[str, NDArray]]  # by party
    design: NDArray  # of the linear model
    train: NDArray[np.bool_]
    label: NDArray[np.float64]
    offset: NDArray[np.float64]


def main() -> None:
    """Run both jobs and print their figures beside the pooled ones."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--trees", type=int, default=TREES.trees)
    parser.add_argument("--depth", type=int, default=TREES.depth)
    parser.add_argument("--encryption", choices=["paillier", "lattice"], default=TREES.encryption)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes of each party")
    parser.add_argument("--figure", type=Path, help="draw Lorenz curves and lifts into this file")
    parser.add_argument("--json", action="store_true", help="print the figures by name instead")
    options = parser.parse_args()
    check_data(options.data)
    changed = {"trees": options.trees, "depth": options.depth, "encryption": options.encryption}
    params = TREES.model_copy(update=changed)
    with tempfile.TemporaryDirectory() as work:
        evaluations, seconds, equal = measure(Path(work), params, options)
    figures = {name: quality(*evaluation) for name, evaluation in evaluations.items()}
    if options.figure is not None:
        draw(evaluations, options.figure)
    if options.json:
        print(json.dumps({"models": figures, "seconds": seconds, "federated_minus_pooled": equal}))
        return
    table = Table(title=f"freMTPL2, {options.rows:,} policies, {HOLDOUT:.0%} held out")
    for heading in ("model", "deviance explained", "Gini", "lift of the top tenth"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for name, row in figures.items():
        table.add_row(name, f"{row['d2']:.2%}", f"{row['gini']:.3f}", f"{row['top_lift']:.2f}")
    console = Console(highlight=False, width=100)
    console.print(table)
    for name, took in seconds.items():
        console.print(f"{name}: {took:.0f} s")
    for name, difference in equal.items():
        console.print(
            f"{name}, federated against pooled: predictions differ by {difference:.1e} at most"
        )


Rows = tuple[Evaluation, NDArray[np.float64]]  # held-out rows, and what a model expects of them


def measure(
    work: Path, params: BoostParams, options: argparse.Namespace
) -> tuple[dict[str, Rows], dict[str, float], dict[str, float]]:
    """Predictions by model, seconds by job, and how far federated ones are from pooled ones."""
    split = frequency(options.data, options.rows, 0)
    guest, *hosts = folders = {party: work / party for party in split.tables}
    extra = {
        "registry": ["[glm]", 'binned = ["VehAge"]'],
        "bureau": ["[glm]", 'binned = ["DrivAge"]'],
    }
    for host in hosts:
        extra[host] += [*UNBOUND, f'encryptions = ["{params.encryption}"]']
    set_up(folders, split, "", options.workers, extra=extra)
    head = f'[job]\npurpose = "benchmark"\nholdout = {HOLDOUT}\n'
    given = params.model_dump(exclude_defaults=True)
    jobs = {
        "linear model": f'{head}name = "glm"\nmodel = "glm"\nfamily = "poisson"\n[glm]\n'
        f"alpha = {ALPHA}\ntolerance = {TOLERANCE}\nmax_iterations = 200\n"
        f'encryption = "{params.encryption}"\n',
        "trees": f'{head}name = "trees"\nmodel = "secureboost"\nobjective = "poisson"\n[secureboost]\n'
        + "".join(f"{key} = {json.dumps(value)}\n" for key, value in given.items()),
    }
    done = {}
    with local.serving({host: folders[host] for host in hosts}):
        local.run(folders[guest], "align", f"{guest}.toml", "--wait", "60")
        for name, job in jobs.items():
            (folders[guest] / "job.toml").write_text(job)
            done[name] = local.run(folders[guest], "train", f"{guest}.toml", "job.toml")
    found: dict[str, Rows] = {}
    equal = {}
    for name, trained in done.items():
        _, evaluation = load_record(Store(folders[guest] / "vfl-store"), trained["model"])
        pooled = pool(folders, done["linear model"]["model"], evaluation)
        for who in ("insurer alone", "federation"):
            found[f"{name}, {who}"] = (evaluation, evaluation.predictions[who])
        same = (pooled_trees if name == "trees" else pooled_glum)(pooled, params)
        equal[name] = float(np.abs(same / evaluation.predictions["federation"] - 1).max())
        found[f"{name}, pooled" + ("" if name == "trees" else " (glum)")] = (evaluation, same)
    found["LightGBM, pooled"] = (evaluation, pooled_lightgbm(pooled, params))
    return found, {name: trained["seconds"] for name, trained in done.items()}, equal


def pool(folders: dict[str, Path], model: str, evaluation: Evaluation) -> Pooled:
    """Everybody's columns in the common order, and the linear model's design of them."""
    features, designs = {}, []
    for party, folder in folders.items():
        settings = load_party(folder / f"{party}.toml")
        store = Store(settings.party.store)
        half = load_half(store, model, GuestHalf if party == "insurer" else HostHalf)
        rows = load_alignment(store, store.latest("alignment")).rows
        table = read_table(settings.data, role=settings.role, need_label=party == "insurer")
        features[party] = table.take(rows)
        designs.append(half.model.part.design.matrix(features[party]).dense())
        if party == "insurer":
            train = ~np.isin(rows, evaluation.rows)
            label, offset = table.label[rows], table.offset[rows]
    return Pooled(features, np.hstack(designs), train, label, offset)


def pooled_trees(pooled: Pooled, params: BoostParams) -> NDArray[np.float64]:
    """This project's trees where one party holds all columns: no host, no encryption."""
    own = {
        party: bin_columns(columns, params.max_bins, params.min_bin_rows)
        for party, columns in pooled.features.items()
    }
    rows = Training(
        pooled.label,
        np.ones(len(pooled.label)),
        pooled.train,
        np.zeros(len(pooled.label), np.bool_),
        loss_of("poisson"),
        pooled.offset,
    )
    _, score = asyncio.run(guest_train([], own, rows, params))
    return np.exp(score[~pooled.train])


def pooled_glum(pooled: Pooled, params: BoostParams) -> NDArray[np.float64]:
    """glum's fit of the same design."""
    train, offset = pooled.train, pooled.offset
    model = glum.GeneralizedLinearRegressor(
        family="poisson", alpha=ALPHA, l1_ratio=0, gradient_tol=1e-10, max_iter=300
    ).fit(pooled.design[train], pooled.label[train], offset=offset[train])
    return model.predict(pooled.design[~train], offset=offset[~train])


def pooled_lightgbm(pooled: Pooled, params: BoostParams) -> NDArray[np.float64]:
    """LightGBM on all columns with the same settings."""
    columns, categorical = [], []
    for values in (v for features in pooled.features.values() for v in features.values()):
        if values.dtype == object:
            categorical.append(len(columns))
            values = np.unique(values.astype(str), return_inverse=True)[1]
        columns.append(values.astype(float))
    data, train = np.column_stack(columns), pooled.train
    model = lightgbm.train(
        {
            "objective": "poisson",
            "learning_rate": params.learning_rate,
            "max_depth": params.depth,
            "num_leaves": 2**params.depth,
            "min_data_in_leaf": params.min_child_rows,
            "min_sum_hessian_in_leaf": params.min_child_weight,
            "max_bin": params.max_bins,
            "verbose": -1,
            "seed": 1,
        },
        lightgbm.Dataset(
            data[train],
            pooled.label[train] / np.exp(pooled.offset[train]),
            weight=np.exp(pooled.offset[train]),
            categorical_feature=categorical,
        ),
        params.trees,
    )
    return model.predict(data[~train]) * np.exp(pooled.offset[~train])


def quality(rows: Evaluation, expected: NDArray[np.float64]) -> dict[str, float]:
    """Deviance explained, Gini and lift of held-out rows."""
    loss, offset = loss_of("poisson"), np.log(rows.exposure)
    deviance = loss.deviance(np.log(expected), rows.label, rows.weight)
    constant = loss.start(rows.label, rows.weight, offset) + offset
    total = totals(rows.label, expected, rows.weight, rows.exposure)
    return {
        "d2": 1 - deviance / loss.deviance(constant, rows.label, rows.weight),
        "gini": gini(*total),
        "top_lift": lift_table(*total)[-1].lift,
    }


def draw(evaluations: dict[str, Rows], path: Path) -> None:
    """Lorenz curves and lifts by tenth of exposure, of both kinds of model."""
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.family": "DejaVu Sans", "font.size": 9, "svg.hashsalt": "vfl"})
    colours = {"insurer alone": "#a9bbea", "federation": "#2b4fa8", "pooled": "#e08a1e"}
    figure, axes = plt.subplots(2, 2, figsize=(9, 7.2))
    for (left, right), kind in zip(axes, ("trees", "linear model"), strict=True):
        for name, (rows, expected) in evaluations.items():
            if not name.startswith(kind):
                continue
            who = name.removeprefix(f"{kind}, ").removesuffix(" (glum)")
            style = {"color": colours[who], "label": who}
            style |= (
                {"linestyle": (0, (4, 3)), "linewidth": 1.2} if who == "pooled" else {"linewidth": 2}
            )
            total = totals(rows.label, expected, rows.weight, rows.exposure)
            left.plot(*lorenz(*total), **style)
            lifts = [row.lift for row in lift_table(*total)]
            right.plot(range(1, len(lifts) + 1), lifts, marker="o", markersize=3.5, **style)
        left.plot([0, 1], [0, 1], color="#b5b5b5", linewidth=0.8)
        left.set(title=f"{kind}: Lorenz curve", xlabel="share of exposure", ylabel="share of claims")
        right.axhline(1, color="#b5b5b5", linewidth=0.8)
        right.set(title=f"{kind}: lift", xlabel="tenth of exposure, by predicted frequency")
        right.set(ylabel="frequency by the overall one", xticks=range(1, 11))
        left.legend(frameon=False)
        for axis in (left, right):
            axis.spines[["top", "right"]].set_visible(False)
            axis.title.set_horizontalalignment("left")
            axis.title.set_x(0)
    figure.tight_layout(h_pad=2)
    metadata = {"Date": None} if path.suffix == ".svg" else None
    figure.savefig(path, facecolor="white", dpi=110, metadata=metadata)


if __name__ == "__main__":
    main()
