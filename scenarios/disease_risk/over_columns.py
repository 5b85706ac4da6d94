"""Who dies: a practice, a laboratory and a hospital hold other columns of the same patients."""

from pathlib import Path

import lightgbm
import numpy as np
import pandas as pd

from vfl import local
from vfl.jobs.record import Evaluation, load_record
from vfl.learn.metrics import binary_metrics
from vfl.party.store import Store

HERE = Path(__file__).parent / "columns"
HOSTS = ("laboratory", "hospital")
PARTIES = ("practice", *HOSTS, "trustee")
TABLES = {"laboratory": "measurements.csv", "hospital": "history.csv"}
TREES, LINEAR = "mortality", "death"
RATE, DEATH = "deaths a year: deviance explained", "death: AUC"
ALONE, ALL, POOLED = "practice alone", "all three", "LightGBM, pooled columns"


def set_up(work: Path, trees: int | None) -> None:
    """A folder for each party: party file, keys, and the others' certificates."""
    local.lay_out(HERE, work, PARTIES)
    if trees is not None:
        local.set_trees(work / "practice" / f"{TREES}.toml", trees)


def train(work: Path, job: str) -> dict:
    """The practice trains a job, all others serve."""
    return local.run(work / "practice", "train", "practice.toml", f"{job}.toml")


def worth(work: Path, trees: dict, linear: dict) -> dict[str, dict[str, float]]:
    """What each model is worth on the patients held out."""
    best = pooled(work)
    return {
        ALONE: {
            RATE: trees["metrics"][ALONE]["d2"],
            DEATH: linear["metrics"][ALONE]["auc"],
        },
        ALL: {
            RATE: trees["metrics"]["federation"]["d2"],
            DEATH: linear["metrics"]["federation"]["auc"],
        },
        POOLED: {
            RATE: lightgbm_rate(best, held_out(work, trees["model"])),
            DEATH: lightgbm_auc(best, held_out(work, linear["model"])),
        },
    }


def held_out(work: Path, model: str) -> Evaluation:
    """What the practice kept of the rows that a model held out."""
    _, evaluation = load_record(Store(work / "practice" / "vfl-store"), model)
    if evaluation is None:
        raise ValueError(f"{model} held out no row")
    return evaluation


def number(patient: pd.Series) -> pd.Series:
    """The number of the health insurance, however it is written."""
    return patient.astype(str).str.replace(r"[^0-9]", "", regex=True)


def pooled(work: Path) -> pd.DataFrame:
    """All columns of the patients that all three know, by row of the practice's table."""
    table = pd.read_csv(work / "practice" / "patients.csv")
    table["patient"] = number(table["patient"])
    for host, file in TABLES.items():
        other = pd.read_csv(work / host / file)
        other["patient"] = number(other["patient"])
        table = table.join(other.set_index("patient"), on="patient", how="inner")
    return table.drop(columns="patient")


def lightgbm_rate(table: pd.DataFrame, tried: Evaluation) -> float:
    """The deviance that LightGBM explains with the columns of all."""
    train = ~table.index.isin(tried.rows)
    columns, years = table.drop(columns=["death", "years"]), table["years"]
    model = lightgbm.LGBMRegressor(
        objective="poisson", n_estimators=60, learning_rate=0.1, num_leaves=8, verbose=-1, n_jobs=1
    )
    model.fit(columns[train], (table["death"] / years)[train], sample_weight=years[train])
    expected = model.predict(columns.loc[tried.rows]) * tried.exposure
    return explained(tried, expected)


def explained(tried: Evaluation, expected: np.ndarray) -> float:
    """The share of the Poisson deviance of one rate for all that is gone."""
    died, years = tried.label, tried.exposure
    ours, constant = (
        float(np.sum(np.where(died > 0, -np.log(deaths), 0.0) + deaths))
        for deaths in (expected, years * died.sum() / years.sum())
    )
    saturated = float(died.sum())  # of a label that is 0 or 1
    return 1 - (ours - saturated) / (constant - saturated)


def lightgbm_auc(table: pd.DataFrame, tried: Evaluation) -> float:
    """LightGBM's with the columns of all."""
    train = ~table.index.isin(tried.rows)
    columns = table.drop(columns=["death", "years"])
    model = lightgbm.LGBMClassifier(
        n_estimators=60, learning_rate=0.1, num_leaves=8, verbose=-1, n_jobs=1
    )
    model.fit(columns[train], table["death"][train])
    return binary_metrics(tried.label, model.predict_proba(columns.loc[tried.rows])[:, 1])["auc"]
