"""Retail, four holders: what each is worth to a brand that asks who buys next week, by AUC.

    python benchmarks/retail.py
    python benchmarks/retail.py --households 500

A row is a household in a week; all of the brand's rows train, also those of households that the social
platform does not know (a left join). Held out are 30 % of the households, and then the last 20 % of the
weeks. The trees are, bit for bit, those that the holders would train apart, computed in one process;
LightGBM has the same settings and the same columns in one place. Data: see benchmarks/README.md.
"""

import argparse
import json
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import lightgbm
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from parties import check_data, options_of_trees
from rich.console import Console
from rich.table import Table
from sklearn.metrics import roc_auc_score

import vfl
from vfl.errors import VflWarning
from vfl.learn.holdout import SplitColumn, SplitColumns, split_by

HOLDERS = ("social", "eshop", "retailer")
OWN = ("campaigns_running", "redeemed_12w")
SHARES = {"household": 0.3, "week": 0.2}
MODELS: dict[str, tuple[bool, Sequence[str]]] = {  # whether the brand's columns are in, and whose else
    "brand alone": (True, ()),
    **{f"{name} alone": (False, (name,)) for name in HOLDERS},
    **{f"brand and {name}": (True, (name,)) for name in HOLDERS},
    "all": (True, HOLDERS),
}


@dataclass(frozen=True)
class Trial:
    """What a model is trained and tried on: tables with an `id`, rows of all in the brand's order."""

    own: pd.DataFrame
    hosts: dict[str, pd.DataFrame]
    label: NDArray[np.int64]
    held_out: NDArray[np.bool_]


def main() -> None:
    """Train all models on both splits and print their AUC."""
    parser = options_of_trees(__doc__, trees=40, depth=5, learning_rate=0.2)
    parser.add_argument("--households", type=int, help="of the first so many only")
    options = parser.parse_args()
    check_data(options.data / "retail")
    brand, hosts = load(options.data / "retail", options.households)
    warnings.simplefilter("ignore", VflWarning)
    started = time.monotonic()
    figures: dict[str, dict[str, float]] = {name: {} for name in MODELS}
    for column in SHARES:
        held_out = split(brand, column)
        for name, (with_brand, whose) in MODELS.items():
            own = brand[["id", *(OWN if with_brand else ())]]
            trial = Trial(own, {host: hosts[host] for host in whose}, brand["buys"].to_numpy(), held_out)
            figures[name][f"trees by {column}"] = federated(trial, options)
            figures[name][f"LightGBM by {column}"] = pooled(trial, options)
    if options.json:
        print(json.dumps({"auc": figures, "rows": len(brand), "seconds": time.monotonic() - started}))
        return
    table = Table(
        title=f"retail, {len(brand):,} rows of {brand['household'].nunique():,} households: AUC"
    )
    table.add_column("columns of")
    for heading in figures["all"]:
        table.add_column(heading, justify="right")
    for name, row in figures.items():
        table.add_row(name, *(f"{value:.3f}" for value in row.values()))
    console = Console(highlight=False, width=120)
    console.print(table)
    console.print(f"{time.monotonic() - started:.0f} s")


def load(folder: Path, households: int | None) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """The brand's table, and the hosts' without household and week, a row for each of the brand's."""
    brand = pd.read_parquet(folder / "brand.parquet")
    if households is not None:
        first = brand["household"].drop_duplicates().head(households)
        brand = brand[brand["household"].isin(first)].reset_index(drop=True)
    hosts = {}
    for name in HOLDERS:
        table = pd.read_parquet(folder / f"{name}.parquet").drop(columns=["household", "week"])
        # As a left join does: of rows that a host does not know all is missing.
        table = brand[["id"]].merge(table, how="left", on="id")
        text = table.columns.difference(["id", *table.select_dtypes("number")])
        hosts[name] = table.astype(dict.fromkeys(text, "category"))
    return brand, hosts


def split(brand: pd.DataFrame, column: str) -> NDArray[np.bool_]:
    """The rows held out, as a job with `group = "household"` or `time = "week"` holds them out."""
    words, place = np.unique(brand[column], return_inverse=True)
    one = SplitColumn(column, place.astype(np.int64), words.astype(str).tolist())
    by = SplitColumns(group=one) if column == "household" else SplitColumns(time=one)
    draw = np.random.default_rng([0, 1]).random(len(brand))
    return split_by(by, np.arange(len(brand)), draw, SHARES[column], 0.0).held_out


def federated(trial: Trial, options: argparse.Namespace) -> float:
    """The AUC of trees over the columns of brand and hosts."""
    own, label, held_out = trial.own, trial.label, trial.held_out
    model = vfl.SecureBoost(
        hosts=trial.hosts,
        id="id",
        normalise=["trim"],  # of 1-11 and 11-1 the hyphen tells which is which
        trees=options.trees,
        depth=options.depth,
        learning_rate=options.learning_rate,
        max_bins=64,
        unknown_levels=1,
        progress=False,
    )
    model.fit(own[~held_out], label[~held_out])
    return float(roc_auc_score(label[held_out], model.decision_function(own[held_out])))


def pooled(trial: Trial, options: argparse.Namespace) -> float:
    """That of LightGBM over the same columns in one place."""
    label, held_out = trial.label, trial.held_out
    tables = [one.drop(columns="id") for one in (trial.own, *trial.hosts.values())]
    table = pd.concat(tables, axis=1)
    model = lightgbm.LGBMClassifier(
        n_estimators=options.trees,
        max_depth=options.depth,
        num_leaves=2**options.depth,
        learning_rate=options.learning_rate,
        min_child_samples=20,
        reg_lambda=1.0,
        verbose=-1,
    )
    model.fit(table[~held_out], label[~held_out])
    return float(roc_auc_score(label[held_out], model.predict_proba(table[held_out])[:, 1]))


if __name__ == "__main__":
    main()
