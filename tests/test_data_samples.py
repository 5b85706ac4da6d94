"""The committed sample portfolio: made by its script, and worth a federation."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

import lightgbm
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = ROOT / "data_samples"
SCRIPT = ROOT / "scenarios" / "car_insurance" / "make_data.py"

POLICIES = "insurer/policies.csv"
NEW_POLICIES = "insurer/new_policies.csv"
VEHICLES = "registry/vehicles.csv"
DRIVERS = "bureau/drivers.csv"
ID_OF = {
    POLICIES: "plate",
    NEW_POLICIES: "plate",
    VEHICLES: "registration",
    DRIVERS: "plate_no",
}


@cache
def table(name: str) -> pd.DataFrame:
    """One file, indexed by its normalised ids."""
    rows = pd.read_csv(SAMPLES / name)
    ids = rows[ID_OF[name]].str.upper().str.replace("[^A-Z0-9]", "", regex=True)
    return rows.set_index(ids.rename("id"))


def own_columns(name: str) -> list[str]:
    return [column for column in table(name).columns if column not in (ID_OF[name], "claim")]


@cache
def aligned() -> pd.DataFrame:
    """The policies that all three companies know, with everybody's columns."""
    rows = table(POLICIES).join([table(VEHICLES), table(DRIVERS)], how="inner").sort_index()
    texts = rows.select_dtypes(exclude="number").columns
    return rows.astype(dict.fromkeys(texts, "category"))


def holdout_auc(columns: list[str], split: int) -> float:
    """AUC on the quarter of the aligned rows left out by this split."""
    rows = aligned()
    train, test = train_test_split(rows, test_size=0.25, random_state=split, stratify=rows["claim"])
    model = lightgbm.LGBMClassifier(
        n_estimators=120,
        learning_rate=0.05,
        num_leaves=8,
        min_child_samples=40,
        random_state=0,
        deterministic=True,
        n_jobs=1,
        verbose=-1,
    )
    model.fit(train[columns], train["claim"])
    return float(roc_auc_score(test["claim"], model.predict_proba(test[columns])[:, 1]))


def test_the_script_rewrites_the_files_byte_for_byte(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(SCRIPT), "--out", str(tmp_path)], check=True)
    for name in ID_OF:
        # Bytes, not read text: a line ending or a trailing ".0" is a difference too.
        assert (tmp_path / name).read_bytes() == (SAMPLES / name).read_bytes(), name


@pytest.mark.parametrize("name", ID_OF)
def test_ids_are_unique_once_normalised(name: str) -> None:
    assert table(name).index.is_unique
    assert table(name).index.str.fullmatch(r"[A-Z]{2}\d{3}[A-Z]{2}").all()


def test_no_policy_is_both_old_and_new() -> None:
    assert table(POLICIES).index.intersection(table(NEW_POLICIES).index).empty


@pytest.mark.parametrize(
    ("left", "right"),
    [(POLICIES, VEHICLES), (POLICIES, DRIVERS), (NEW_POLICIES, VEHICLES), (VEHICLES, DRIVERS)],
)
def test_each_company_writes_its_ids_its_own_way(left: str, right: str) -> None:
    assert not set(table(left)[ID_OF[left]]) & set(table(right)[ID_OF[right]])


@pytest.mark.parametrize("policies", [POLICIES, NEW_POLICIES])
@pytest.mark.parametrize("host", [VEHICLES, DRIVERS])
def test_hosts_know_most_policies_and_many_other_cars(policies: str, host: str) -> None:
    assert 0.80 <= table(policies).index.isin(table(host).index).mean() <= 0.95
    insured = table(POLICIES).index.union(table(NEW_POLICIES).index)
    assert (~table(host).index.isin(insured)).sum() > 2000


@pytest.mark.parametrize("host", [VEHICLES, DRIVERS])
def test_row_order_tells_nothing_about_another_company(host: str) -> None:
    shared = table(POLICIES).index.intersection(table(host).index)
    places = table(host).index.get_indexer(shared)
    assert abs(np.corrcoef(np.arange(len(shared)), places)[0, 1]) < 0.05


def test_new_policies_have_every_column_but_the_label() -> None:
    assert [*table(NEW_POLICIES).columns, "claim"] == list(table(POLICIES).columns)


def test_claim_rate_is_plausible() -> None:
    assert set(table(POLICIES)["claim"]) == {0, 1}
    assert 0.07 <= table(POLICIES)["claim"].mean() <= 0.09


@pytest.mark.parametrize("name", [POLICIES, NEW_POLICIES])
def test_exposure_is_at_most_one_year(name: str) -> None:
    assert table(name)["exposure"].between(0, 1, inclusive="right").all()


@pytest.mark.parametrize("name", ID_OF)
def test_gaps_are_few_and_whole_numbers_are_written_whole(name: str) -> None:
    missing = table(name).isna().mean()
    assert 0.0 < missing.max() <= 0.10
    written = pd.read_csv(SAMPLES / name, dtype=str)
    for column in written.columns.drop(["exposure"], errors="ignore"):
        assert not written[column].str.endswith(".0", na=False).any(), column


def test_federation_beats_the_insurer_alone() -> None:
    # A hold-out has some 120 claims, so that one AUC is off by 0.02: hence the mean of four.
    own = own_columns(POLICIES)
    everyone = own + own_columns(VEHICLES) + own_columns(DRIVERS)
    alone = np.mean([holdout_auc(own, split) for split in range(4)])
    together = np.mean([holdout_auc(everyone, split) for split in range(4)])
    assert together - alone >= 0.05
