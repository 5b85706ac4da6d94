"""Health, on data of people: what other columns, and other rows, are worth to who has some, by AUC.

    python benchmarks/health.py
    python benchmarks/health.py --rows 5000

Other columns: who of a practice's patients dies, with the columns of a laboratory and of a hospital, on
the patients that all three know. Other rows: which diabetics come back to hospital, at four hospitals of
different mixes, a patient's first stay alone, without those who died or went to a hospice. Both trees
are, bit for bit, those that the parties would train apart, computed in one process; LightGBM has the
same settings and all tables in one place. Data: see benchmarks/README.md.
"""

import argparse
import asyncio
import json
import time
import warnings
from collections.abc import Mapping
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
from vfl.learn.losses import loss_of
from vfl.learn.params import BoostParams
from vfl.protocols.common.rows import Training
from vfl.protocols.pooled.bins import Schema
from vfl.protocols.pooled.plain_adding import plain_adders
from vfl.protocols.pooled.trees import grow_client

HELD_OUT = 0.3
HOSTS = ("laboratory", "hospital")
HOSPITALS = ("university", "city", "county", "coast")
GONE = (11, 13, 14, 19, 20, 21)  # dispositions: dead, or to a hospice
NUMBERS = (
    *("time_in_hospital", "num_lab_procedures", "num_procedures", "num_medications"),
    *("number_outpatient", "number_emergency", "number_inpatient", "number_diagnoses"),
)
CATEGORIES = (
    *("race", "gender", "payer_code", "max_glu_serum", "A1Cresult", "metformin", "insulin", "change"),
    *("diabetesMed", "specialty", "admission", "source", "disposition", "diag_1", "diag_2", "diag_3"),
)
CHAPTERS = (140, 240, 250, 251, 280, 290, 320, 390, 460, 520, 580, 630, 680, 710, 740, 760, 780, 800)
"""Where chapters of ICD-9 begin; 250 is diabetes."""


def main() -> None:
    """Train all models and print their AUC."""
    parser = options_of_trees(__doc__, trees=60, depth=4, learning_rate=0.1)
    parser.add_argument("--rows", type=int, help="the first so many of each table only")
    options = parser.parse_args()
    check_data(options.data / "health")
    warnings.simplefilter("ignore", VflWarning)
    started = time.monotonic()
    figures = {"columns": over_columns(options), "rows": over_rows(options)}
    seconds = time.monotonic() - started
    if options.json:
        print(json.dumps({"auc": figures, "seconds": seconds}))
        return
    console = Console(highlight=False, width=120)
    for title, found in (("who dies", figures["columns"]), ("who comes back", figures["rows"])):
        table = Table(title=f"{title}: AUC")
        table.add_column("")
        for heading in next(iter(found.values())):
            table.add_column(heading, justify="right")
        for name, row in found.items():
            texts = [f"{x:,}" if isinstance(x, int) else f"{x:.3f}" for x in row.values()]
            table.add_row(name, *(text.replace("nan", "") for text in texts))
        console.print(table)
    console.print(f"{seconds:.0f} s")


def over_columns(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """The AUC of who dies, by the columns of whom."""
    folder = options.data / "health"
    practice = pd.read_parquet(folder / "practice.parquet").head(options.rows)
    hosts = {name: pd.read_parquet(folder / f"{name}.parquet") for name in HOSTS}
    for table in hosts.values():
        practice = practice[practice["patient"].isin(table["patient"])].reset_index(drop=True)
    hosts = {name: practice[["patient"]].merge(table, on="patient") for name, table in hosts.items()}
    label = practice["death"].to_numpy()
    own = practice.drop(columns=["death", "years"])
    held_out = np.random.default_rng(0).random(len(own)) < HELD_OUT
    figures = {}
    for name, whose in (
        ("practice alone", ()),
        ("with the laboratory", ("laboratory",)),
        ("with the hospital", ("hospital",)),
        ("all three", HOSTS),
    ):
        model = vfl.SecureBoost(
            hosts={host: hosts[host] for host in whose},
            id="patient",
            trees=options.trees,
            depth=options.depth,
            learning_rate=options.learning_rate,
            max_bins=64,
            progress=False,
        )
        model.fit(own[~held_out], label[~held_out])
        pooled = pd.concat([own, *(hosts[host] for host in whose)], axis=1).drop(columns="patient")
        best = lightgbm_of(options).fit(pooled[~held_out], label[~held_out])
        figures[name] = {
            "trees": _auc(label[held_out], model.decision_function(own[held_out])),
            "LightGBM": _auc(label[held_out], best.predict_proba(pooled[held_out])[:, 1]),
        }
    return figures


def over_rows(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """The AUC of who comes back, at each hospital alone, federated and pooled."""
    table = stays(options.data / "health", options.rows)
    whose = hospital_of(table)
    label = table.pop("label").to_numpy(np.float64)
    train = np.random.default_rng(1).random(len(table)) >= HELD_OUT
    score = federated(table, label, train, whose, options)
    best = lightgbm_of(options).fit(table[train], label[train])
    pooled = best.predict_proba(table)[:, 1]
    figures = {}
    for number, name in enumerate(HOSPITALS):
        own = whose == number
        tried = own & ~train
        alone = lightgbm_of(options).fit(table[own & train], label[own & train])
        by_alone = alone.predict_proba(table[tried])[:, 1]
        figures[name] = {
            "stays": int(own.sum()),
            "LightGBM, alone": _auc(label[tried], by_alone),
            "federated": _auc(label[tried], score[tried]),
            "LightGBM, pooled": _auc(label[tried], pooled[tried]),
        }
    figures["all"] = {
        "stays": len(table),
        "LightGBM, alone": float("nan"),
        "federated": _auc(label[~train], score[~train]),
        "LightGBM, pooled": _auc(label[~train], pooled[~train]),
    }
    return figures


def stays(folder: Path, rows: int | None) -> pd.DataFrame:
    """First stays, a row each, with the label; diagnoses by chapter, rare levels as one."""
    raw = pd.read_parquet(folder / "diabetes_130_hospitals.parquet").sort_values("encounter_id")
    raw = raw.drop_duplicates("patient_nbr").head(rows).reset_index(drop=True)
    raw = raw[~raw["discharge_disposition_id"].isin(GONE)].reset_index(drop=True)
    made = raw[[*NUMBERS]].astype(np.float64)
    made.insert(0, "age", raw["age"].str.extract(r"\[(\d+)")[0].astype(float) + 5)
    raw = raw.rename(
        columns={
            "medical_specialty": "specialty",
            "admission_type_id": "admission",
            "admission_source_id": "source",
            "discharge_disposition_id": "disposition",
        }
    )
    for name in CATEGORIES:
        values = raw[name].map(chapter) if name.startswith("diag_") else raw[name]
        words = values.astype(object).where(values.notna(), "unknown").astype(str)
        common = words.value_counts().index[:12]
        made[name] = words.where(words.isin(common), "(other)").astype("category")
    made["label"] = (raw["readmitted"] != "NO").astype(int)
    return made


def chapter(code: object) -> str | None:
    """Of a code of ICD-9 the chapter, None of none."""
    text = str(code)
    if text[:1] in "EV":
        return text[:1]
    try:
        return str(np.searchsorted(CHAPTERS, float(text), side="right"))
    except ValueError:
        return None


def hospital_of(table: pd.DataFrame) -> NDArray[np.int64]:
    """Which hospital a patient goes to: hard cases, emergencies, the old, and few others."""
    draw = np.random.default_rng(2)
    age = (table["age"] - 65) / 15
    emergency = (table["admission"] == "1").astype(float)
    hard = (table["num_medications"] - 16) / 8
    likes = np.stack([1.0 + 0.8 * hard, 0.2 + 1.0 * emergency, -0.2 + 0.9 * age, -0.9 - 1.2 * emergency])
    return np.argmax(likes + draw.gumbel(size=likes.shape), axis=0)


def federated(
    table: pd.DataFrame,
    label: NDArray[np.float64],
    train: NDArray[np.bool_],
    whose: NDArray[np.int64],
    options: argparse.Namespace,
) -> NDArray[np.float64]:
    """The score of every stay by the trees that the hospitals grow over the rows of all."""
    names = [name for name in table if name not in CATEGORIES]
    features: Mapping[str, np.ndarray] = {
        **{name: table[name].to_numpy(np.float64) for name in names},
        **{name: table[name].astype(object).to_numpy(object) for name in CATEGORIES},
    }
    schema = Schema(tuple(features), {name: sorted(set(features[name])) for name in CATEGORIES})
    params = BoostParams(
        trees=options.trees,
        depth=options.depth,
        learning_rate=options.learning_rate,
        max_bins=64,
    )
    parts = [np.flatnonzero(whose == number) for number in range(len(HOSPITALS))]

    async def grow() -> list[NDArray[np.float64]]:
        adders = plain_adders(HOSPITALS)
        clients = []
        for own, adder in zip(parts, adders, strict=True):
            rows = Training(
                label[own],
                np.ones(len(own)),
                train[own],
                np.zeros(len(own), np.bool_),
                loss_of("binary"),
                None,
            )
            mine = {name: values[own] for name, values in features.items()}
            clients.append(grow_client(adder, mine, rows, schema, params))
        return [score for _, score in await asyncio.gather(*clients)]

    score = np.zeros(len(table))
    for own, found in zip(parts, asyncio.run(grow()), strict=True):
        score[own] = found
    return score


def lightgbm_of(options: argparse.Namespace) -> lightgbm.LGBMClassifier:
    return lightgbm.LGBMClassifier(
        n_estimators=options.trees,
        max_depth=options.depth,
        num_leaves=2**options.depth,
        learning_rate=options.learning_rate,
        min_child_samples=20,
        reg_lambda=1.0,
        verbose=-1,
    )


def _auc(label: NDArray[np.float64], score: NDArray[np.float64]) -> float:
    return float(roc_auc_score(label, score))


if __name__ == "__main__":
    main()
