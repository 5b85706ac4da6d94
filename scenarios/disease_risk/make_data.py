"""Make tables for two questions about disease: who dies, and who comes back to hospital.

`columns/`: a practice (the guest), a laboratory and a hospital know other things of the same patients.
The practice knows who has died and for how long it has followed each patient; the laboratory measured
some, the hospital treated some. All know a patient by the number of the health insurance, which each
writes in its own way.

`rows/`: four hospitals know the same things of patients of their own, and which of them came back within
30 days of a stay. Their patients are of different mixes: a university hospital has the hard cases, a
county hospital the old ones.

No row is of a real person. Columns are named as in data that are published for study: a cohort of
patients with and without fatty liver, and stays of diabetics in American hospitals.

`python scenarios/disease_risk/make_data.py --out DIR` writes them, byte for byte the same each time.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import pandas as pd
from numpy.random import Generator
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]

SEED = 2027
PATIENTS = 6000
STAYS = 8000


# --- Other columns of the same patients ---------------------------------------------------------------


def cohort(patients: int, rng: Generator) -> dict[str, pd.DataFrame]:
    """What the three parties know, by party, without ids; a row is a patient, the same for all."""
    age = np.clip(np.round(rng.normal(53, 15, patients)), 18, 98)
    male = rng.random(patients) < 0.47
    height = np.round(rng.normal(163 + 13 * male, 7), 0)
    bmi = np.clip(rng.lognormal(3.36, 0.22, patients), 15, 70)
    frailty = rng.normal(0, 1, patients)
    old = (age - 53) / 15
    smokes = rng.random(patients) < 0.22
    likely = {
        "had_afib": -3.4 + 1.1 * old + 0.5 * frailty,
        "had_ang_isc": -2.8 + 0.9 * old + 0.4 * male + 0.4 * frailty,
        "had_cardiac_arrest": -5.6 + 0.6 * old + 0.6 * frailty,
        "had_diabetes": -1.6 + 0.4 * old + 0.09 * (bmi - 30) + 0.3 * frailty,
        "had_heart_failure": -3.6 + 1.1 * old + 0.9 * frailty,
        "had_htn": -0.2 + 0.9 * old + 0.06 * (bmi - 30),
        "had_dyslipidemia": 1.5 + 0.4 * old + 0.03 * (bmi - 30),
        "had_MI": -3.5 + 0.9 * old + 0.5 * male + 0.5 * frailty,
        "had_nafld": -0.8 + 0.1 * (bmi - 30),
        "had_stroke": -3.0 + 1.0 * old + 0.5 * frailty,
    }
    history = {name: (rng.random(patients) < _logit(of)).astype(np.int64) for name, of in likely.items()}
    sbp = rng.normal(130, 13, patients) + 9 * history["had_htn"] + 5 * old
    dbp = 0.45 * sbp + rng.normal(19, 8, patients) - 3 * old
    hdl = np.clip(rng.normal(58, 14, patients) - 9 * male - 0.4 * (bmi - 30), 15, 130)
    chol = rng.normal(190, 35, patients) + 8 * old - 20 * history["had_dyslipidemia"] * (old > 1)
    fib4 = np.exp(0.25 + 0.45 * old + 0.35 * frailty + rng.normal(0, 0.25, patients))
    measured = {"chol": chol, "dbp": dbp, "fib4": fib4, "hdl": hdl, "sbp": sbp}

    # Those who died, by a rate that doubles every nine years of age.
    rate = 0.0075 * np.exp(1.05 * old + 0.2 * male + 0.5 * smokes + 0.35 * frailty)
    rate *= np.exp(0.55 * history["had_heart_failure"] + 0.4 * history["had_diabetes"])
    rate *= np.exp(0.35 * history["had_stroke"] + 0.3 * history["had_afib"] + 0.9 * (fib4 > 2.67))
    rate *= np.exp(0.012 * np.abs(sbp - 130) + 0.05 * np.maximum(0, 20 - bmi) - 0.012 * (hdl - 52))
    followed = rng.uniform(0.05, 12, patients)
    life = rng.exponential(1 / rate)
    years = np.round(np.minimum(life, followed), 3).clip(0.01)
    weighed = rng.random(patients) < 0.75
    practice = pd.DataFrame(
        {
            "death": (life <= followed).astype(np.int64),
            "years": years,
            "age": age.astype(np.int64),
            "male": male.astype(np.int64),
            "weight": np.where(weighed, np.round(bmi * (height / 100) ** 2, 1), np.nan),
            "height": np.where(rng.random(patients) < 0.82, height, np.nan),
            "bmi": np.where(weighed, np.round(bmi, 1), np.nan),
        }
    )
    often = {name: 1 + rng.poisson(np.exp(0.9 + 0.2 * frailty)) for name in measured}
    seen = {name: rng.random(patients) < share for name, share in _MEASURED.items()}
    laboratory: dict[str, Floats] = {}
    for name, level in measured.items():
        spread = 0.12 * level
        last = level + spread * rng.normal(size=patients)
        digits = 2 if name == "fib4" else 0
        laboratory[f"{name}_last"] = np.where(seen[name], np.round(last, digits), np.nan)
        laboratory[f"{name}_count"] = np.where(seen[name], often[name], np.nan)
    laboratory["smoke_last"] = np.where(seen["smoke"], smokes, np.nan)
    return {
        "practice": practice,
        "laboratory": pd.DataFrame(laboratory),
        "hospital": pd.DataFrame(history),
    }


_MEASURED = {"chol": 0.97, "dbp": 0.9, "fib4": 0.6, "hdl": 0.97, "sbp": 0.9, "smoke": 0.7}
"""Shares of the laboratory's patients of whom it has a measurement."""


def _logit(score: Floats) -> Floats:
    return 1 / (1 + np.exp(-score))


def number(numbers: Whole, between: str) -> list[str]:
    """Numbers of a health insurance, as a party writes them: in three groups of digits."""
    texts = (f"{one:010d}" for one in numbers.tolist())
    return [between.join((text[:3], text[3:6], text[6:])) for text in texts]


def make_columns(patients: int, seed: int) -> dict[str, pd.DataFrame]:
    """The tables of practice, laboratory and hospital, by file name."""
    rng, ids_rng, known_rng = np.random.default_rng([seed, 1]).spawn(3)
    of = cohort(patients, rng)
    numbers = ids_rng.choice(9_000_000_000, patients, replace=False) + 1_000_000_000
    tables = {}
    for party, between, share in (
        ("practice", " ", 1),
        ("laboratory", "-", 0.85),
        ("hospital", "", 0.7),
    ):
        known = known_rng.permutation(patients)[: round(patients * share)]
        table = of[party].iloc[known].reset_index(drop=True)
        table.insert(0, "patient", number(numbers[known], between))
        tables[party] = table
    new = of["practice"].iloc[:400].drop(columns=["death", "years"])
    new.insert(0, "patient", number(numbers[:400], " "))
    return {
        "practice/patients.csv": tables["practice"],
        "practice/new_patients.csv": new,
        "laboratory/measurements.csv": tables["laboratory"],
        "hospital/history.csv": tables["hospital"],
    }


# --- Other rows of the same columns -------------------------------------------------------------------


@dataclass(frozen=True)
class Mix:
    """Which patients a hospital has."""

    share: float  # of all stays
    age: float  # mean
    hard: float  # how ill patients are, in deviations
    emergency: float  # share
    diagnoses: Mapping[str, float]
    tested: float  # share with a test of glycated haemoglobin


_COMMON = {
    "circulatory": 0.30,
    "respiratory": 0.14,
    "digestive": 0.09,
    "diabetes": 0.09,
    "injury": 0.07,
    "musculoskeletal": 0.05,
    "genitourinary": 0.05,
    "neoplasms": 0.04,
    "other": 0.17,
}
MIXES = {
    "university": Mix(0.46, 62, 0.5, 0.40, _COMMON | {"neoplasms": 0.16, "circulatory": 0.34}, 0.26),
    "city": Mix(0.28, 60, 0.0, 0.66, _COMMON | {"injury": 0.16, "digestive": 0.13}, 0.16),
    "county": Mix(0.17, 73, 0.2, 0.55, _COMMON | {"respiratory": 0.24, "genitourinary": 0.09}, 0.08),
    "coast": Mix(0.09, 67, -0.4, 0.22, _COMMON | {"musculoskeletal": 0.24, "injury": 0.12}, 0.12),
}
ADMISSIONS = ["elective", "emergency", "urgent"]
TESTS = ["none", "normal", "raised", "high"]
DOSES = ["no", "steady", "down", "up"]


def stays(rows: int, mix: Mix, rng: Generator) -> pd.DataFrame:
    """Stays of one hospital, each of another patient; `readmitted` is the label."""
    age = np.clip(np.round(rng.normal(mix.age, 14, rows) / 10 - 0.5) * 10 + 5, 5, 95)
    ill = rng.normal(mix.hard, 1, rows)
    emergency = rng.random(rows) < mix.emergency
    urgent = ~emergency & (rng.random(rows) < 0.4)
    shares = np.array([*mix.diagnoses.values()])
    diagnosis = rng.choice([*mix.diagnoses], rows, p=shares / shares.sum())
    days = np.clip(1 + rng.poisson(np.exp(1.0 + 0.22 * ill + 0.1 * emergency)), 1, 14)
    inpatient = rng.poisson(np.exp(-1.0 + 0.5 * ill))
    emergencies = rng.poisson(np.exp(-2.0 + 0.5 * ill))
    outpatient = rng.poisson(np.exp(-1.4 + 0.3 * ill))
    medications = np.clip(np.round(rng.normal(12 + 1.1 * days + 2.0 * ill, 5)), 1, 80)
    tested = rng.random(rows) < mix.tested
    sugar = rng.normal(0.3 * ill, 1, rows)
    test = np.where(tested, np.array(TESTS)[1 + np.searchsorted([-0.2, 0.6], sugar)], "none")
    dose = np.clip(np.round(1.2 + 0.5 * sugar + rng.normal(0, 0.9, rows)), 0, 3).astype(int)
    tablets = rng.random(rows) < 0.55
    score = -1.6 + 0.6 * np.minimum(inpatient, 4) + 0.35 * np.minimum(emergencies, 4)
    score += 0.02 * (age - 62) - 0.0011 * (age - 62) ** 2 + 0.09 * days + 0.3 * emergency
    score += 0.5 * (diagnosis == "diabetes") + 0.4 * (diagnosis == "circulatory")
    score += 0.9 * ((diagnosis == "respiratory") & (age > 70)) - 0.7 * (diagnosis == "musculoskeletal")
    score += 0.5 * (dose == 3) + 0.3 * (dose == 2) - 0.4 * (tested & (test == "normal"))
    score += 0.6 * ((test == "high") & (dose == 0)) + 0.1 * ill - 0.15 * tablets
    numbers = rng.choice(900_000, rows, replace=False) + 100_000
    return pd.DataFrame(
        {
            "patient": [f"{one}" for one in numbers.tolist()],
            "readmitted": (rng.random(rows) < _logit(score)).astype(np.int64),
            "age": age.astype(np.int64),
            "gender": np.where(rng.random(rows) < 0.53, "female", "male"),
            "admission": np.where(emergency, "emergency", np.where(urgent, "urgent", "elective")),
            "time_in_hospital": days,
            "num_lab_procedures": np.clip(np.round(rng.normal(38 + 4 * ill + days, 15)), 1, 120),
            "num_procedures": np.clip(rng.poisson(np.where(emergency, 0.8, 1.9)), 0, 6),
            "num_medications": medications.astype(np.int64),
            "number_outpatient": outpatient,
            "number_emergency": emergencies,
            "number_inpatient": inpatient,
            "number_diagnoses": np.clip(np.round(rng.normal(7.2 + 0.8 * ill, 1.8)), 1, 16),
            "diagnosis": diagnosis,
            "a1c": test,
            "insulin": np.array(DOSES)[dose],
            "tablets": np.where(tablets, "yes", "no"),
        }
    ).astype({"num_lab_procedures": np.int64, "number_diagnoses": np.int64})


def make_rows(rows: int, seed: int) -> dict[str, pd.DataFrame]:
    """The tables of the four hospitals, by file name, and of each some stays that have just ended."""
    tables = {}
    for (hospital, mix), rng in zip(
        MIXES.items(), np.random.default_rng([seed, 2]).spawn(len(MIXES)), strict=True
    ):
        known = round(rows * mix.share)
        table = stays(known + 100, mix, rng)
        tables[f"{hospital}/stays.csv"] = table[:known]
        tables[f"{hospital}/new_stays.csv"] = table[known:].drop(columns="readmitted")
    return tables


def make_tables(patients: int, rows: int, seed: int) -> dict[str, pd.DataFrame]:
    """All tables, by file name."""
    return {f"columns/{name}": table for name, table in make_columns(patients, seed).items()} | {
        f"rows/{name}": table for name, table in make_rows(rows, seed).items()
    }


def write_tables(out: Path, tables: Mapping[str, pd.DataFrame]) -> None:
    """Write tables as files of a folder."""
    for name, table in tables.items():
        file = out / name
        file.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(file, index=False, lineterminator="\n", encoding="utf-8")


@click.command(help=__doc__.splitlines()[0] if __doc__ else None)
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="where to write"
)
@click.option("--patients", type=click.IntRange(min=800), default=PATIENTS, show_default=True)
@click.option("--stays", "rows", type=click.IntRange(min=400), default=STAYS, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=SEED, show_default=True)
def main(out: Path, patients: int, rows: int, seed: int) -> None:
    tables = make_tables(patients, rows, seed)
    write_tables(out, tables)
    for name, table in tables.items():
        click.echo(f"{out / name}: {len(table):,} rows")


if __name__ == "__main__":
    main()
