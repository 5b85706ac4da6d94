"""Tables of a few parties, for the tests of the estimators."""

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

import vfl

SAMPLES = Path(__file__).resolve().parents[1] / "data_samples"
IDS = {"guest": "plate", "registry": "registration", "bureau": "plate_no"}

Hosts = dict[str, pd.DataFrame]


def plate(values: pd.Series) -> pd.Series:
    return values.str.upper().str.replace("[^A-Z0-9]", "", regex=True)


@cache
def samples() -> tuple[pd.DataFrame, pd.Series, Hosts]:
    """2,400 policies, their label, and what the hosts know of them (and of few others)."""
    insurer = pd.read_csv(SAMPLES / "insurer" / "policies.csv").iloc[:2400]
    hosts = {}
    for name, file in (("registry", "registry/vehicles.csv"), ("bureau", "bureau/drivers.csv")):
        table = pd.read_csv(SAMPLES / file)
        ours = plate(table[IDS[name]]).isin(plate(insurer["plate"]))
        # Aligning thousands of cars that the insurer lacks would only take time.
        hosts[name] = table[ours | (np.arange(len(table)) < 200)]
    return insurer.drop(columns="claim"), insurer["claim"], hosts


def small(rows: int = 80, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray, Hosts]:
    """Three small tables under one index, each row known to all."""
    rng = np.random.default_rng(seed)
    index = pd.Index([f"id {i}" for i in range(rows)], name="policy")
    insurer = pd.DataFrame({"age": rng.normal(size=rows)}, index)
    lender = pd.DataFrame({"debt": rng.normal(size=rows), "old": rng.random(rows) < 0.5}, index)
    registry = pd.DataFrame({"fuel": rng.choice(["gas", "coal"], rows)}, index).astype("category")
    signal = insurer["age"] + lender["debt"] + (registry["fuel"] == "coal")
    y = (signal > signal.median()).to_numpy(int)
    return insurer, y, {"lender": lender.sample(frac=1, random_state=1), "registry": registry}


def claims(rows: int = 120) -> tuple[pd.DataFrame, np.ndarray, np.ndarray, Hosts]:
    """Tables as of `small`, counts of claims and the years in which they happened."""
    insurer, high, hosts = small(rows)
    rng = np.random.default_rng(1)
    years = rng.uniform(0.1, 2, rows)
    return insurer, rng.poisson(years * np.where(high, 1.5, 0.3)).astype(float), years, hosts


def pooled_claims(rows: int = 300, seed: int = 3) -> tuple[pd.DataFrame, np.ndarray, Hosts, np.ndarray]:
    """Three small tables, a count that depends on two of them and the years at risk."""
    insurer, _, hosts = small(rows, seed)
    rng = np.random.default_rng(seed)
    years = rng.uniform(0.2, 1.5, rows)
    registry = hosts["registry"]
    effect = 0.3 * insurer["age"] + 0.6 * (registry["fuel"] == "coal") - 0.2
    return insurer, rng.poisson(years * np.exp(effect)), hosts, years


def quick(**params) -> vfl.SecureBoost:
    return vfl.SecureBoost(**{"trees": 1, "depth": 2, "min_child_rows": 5, **params})


def alone(**params) -> vfl.SecureBoost:
    """`quick` for a guest without hosts."""
    return quick(hosts={}, **params)


def regressor(objective="poisson", **params) -> vfl.SecureBoostRegressor:
    settings = {"trees": 2, "depth": 2, "min_child_rows": 5, **params}
    return vfl.SecureBoostRegressor(objective=objective, **settings)
