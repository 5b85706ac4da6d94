"""Who comes back: four hospitals hold the same columns of patients of their own."""

from pathlib import Path
from typing import cast

import lightgbm
import numpy as np
import pandas as pd

from vfl import local
from vfl.jobs.record import Evaluation, load_record
from vfl.learn.metrics import binary_metrics
from vfl.models.halves import GuestHalf
from vfl.models.kinds import load_half
from vfl.party.config import load_job
from vfl.party.store import Store
from vfl.protocols.linear.scoring import GuestGlm

HERE = Path(__file__).parent / "rows"
HOSPITALS = ("university", "city", "county", "coast")
PARTIES = (*HOSPITALS, "server")
TREES, LINEAR = "readmission", "readmission-linear"
ALONE, FEDERATED, POOLED = "alone", "federated", "pooled"


def set_up(work: Path, trees: int | None) -> None:
    """A folder for each party: party file, keys, and the others' certificates."""
    local.lay_out(HERE, work, PARTIES)
    if trees is not None:
        local.set_trees(work / "server" / f"{TREES}.toml", trees)


def train(work: Path, job: str) -> dict:
    """The server starts a job, the hospitals serve."""
    return local.run(work / "server", "train", "server.toml", f"{job}.toml")


def store(work: Path, hospital: str) -> Store:
    """What a hospital keeps."""
    return Store(work / hospital / "vfl-store")


def held_out(work: Path, hospital: str, model: str) -> Evaluation:
    """What a hospital kept of the rows that it held out itself."""
    _, evaluation = load_record(store(work, hospital), model)
    if evaluation is None:
        raise ValueError(f"{hospital} held out no row for {model}")
    return evaluation


def tables(work: Path) -> dict[str, pd.DataFrame]:
    """The tables of all hospitals, levels that the job does not name as one."""
    columns = load_job(work / "server" / f"{TREES}.toml").columns or {}
    found = {}
    for hospital in HOSPITALS:
        table = pd.read_csv(work / hospital / "stays.csv", keep_default_na=False)
        for name, column in columns.items():
            if column.type == "category":
                known = table[name].where(table[name].isin(column.levels), "(other)")
                table[name] = pd.Categorical(known, [*column.levels, "(other)"])
        found[hospital] = table[["readmitted", *columns]]
    return found


def pooled_rows(work: Path, model: str) -> pd.DataFrame:
    """The rows of all hospitals that trained a model, which nobody could have in one place."""
    parts = []
    for hospital, table in tables(work).items():
        parts.append(table.drop(index=table.index[held_out(work, hospital, model).rows]))
    return pd.concat(parts, ignore_index=True)


def worth(work: Path, model: str) -> pd.DataFrame:
    """What a model is worth to each hospital, on patients that it held out: AUC."""
    best = lightgbm.LGBMClassifier(
        n_estimators=60, learning_rate=0.1, num_leaves=8, min_child_samples=20, verbose=-1, n_jobs=1
    )
    rows = pooled_rows(work, model)
    best.fit(rows.drop(columns="readmitted"), rows["readmitted"])
    lines = {}
    for hospital, table in tables(work).items():
        half = load_half(store(work, hospital), model, GuestHalf)
        tried = table.iloc[held_out(work, hospital, model).rows]
        probability = best.predict_proba(tried.drop(columns="readmitted"))[:, 1]
        lines[hospital] = {
            "stays": len(table),
            # Of few stays a linear model alone cannot be fitted, as of levels of too few rows.
            ALONE: half.metrics.get(f"{hospital} alone", {}).get("auc", np.nan),
            FEDERATED: half.metrics["federation"]["auc"],
            POOLED: binary_metrics(tried["readmitted"].to_numpy(float), probability)["auc"],
        }
    return pd.DataFrame(lines).T


def design(work: Path, model: str) -> tuple[np.ndarray, np.ndarray]:
    """The pooled rows that trained a linear model, as its columns have them, and their label."""
    linear = linear_model(work, model)
    rows = pooled_rows(work, model)
    features = {
        name: values.to_numpy(float)
        if values.dtype != "category"
        else values.astype(str).to_numpy(object)
        for name, values in rows.drop(columns="readmitted").items()
    }
    return linear.part.design.matrix(features).dense(), rows["readmitted"].to_numpy(float)


def linear_model(work: Path, model: str) -> GuestGlm:
    """The model, which every hospital has whole."""
    return cast(GuestGlm, load_half(store(work, HOSPITALS[0]), model, GuestHalf).model)
