"""The disease risk scenario: its tables, its party files, its notebook."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from vfl.party.config import load_job, load_party
from vfl.party.policy import widened

ROOT = Path(__file__).resolve().parents[1]
SCENARIO = ROOT / "scenarios" / "disease_risk"
HOSPITALS = ("university", "city", "county", "coast")


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tables")
    maker = [sys.executable, SCENARIO / "make_data.py", "--out", made]
    for folder in (made / "one", made / "two"):
        subprocess.run([*maker[:3], folder], check=True, capture_output=True)
    return made


def test_the_maker_writes_the_same_tables_again(tables: Path) -> None:
    one, two = tables / "one", tables / "two"
    files = sorted(path.relative_to(one) for path in one.rglob("*.csv"))
    assert len(files) == 12
    for file in files:
        assert (one / file).read_bytes() == (two / file).read_bytes(), file


def test_three_write_one_number_in_ways_of_their_own(tables: Path) -> None:
    folder = tables / "one" / "columns"
    practice = pd.read_csv(folder / "practice" / "patients.csv")
    assert len(practice) == 8000 and 0.1 < practice["death"].mean() < 0.2
    assert (practice["years"] > 0).all()
    ids = set(practice["patient"].str.replace(" ", ""))
    assert len(ids) == 8000
    for file, share in (("laboratory/measurements.csv", 0.85), ("hospital/history.csv", 0.7)):
        own = pd.read_csv(folder / file)["patient"].astype(str)
        assert not set(own) & set(practice["patient"])
        known = set(own.str.replace("-", ""))
        assert len(known) == len(own) == round(8000 * share) and known <= ids


def test_hospitals_have_the_same_columns_and_other_mixes(tables: Path) -> None:
    job = load_job(SCENARIO / "rows" / "server" / "readmission.toml")
    rates, ages = {}, {}
    for name in HOSPITALS:
        table = pd.read_csv(tables / "one" / "rows" / name / "stays.csv", keep_default_na=False)
        assert {*table} == {"patient", "readmitted", *(job.columns or {})}
        assert table["patient"].is_unique
        for column, section in (job.columns or {}).items():
            if section.type == "category":
                unknown = set(table[column]) - set(section.levels)
                assert unknown == ({"other"} if column == "diagnosis" else set())
            else:
                assert pd.api.types.is_numeric_dtype(table[column])
        rates[name], ages[name] = table["readmitted"].mean(), table["age"].mean()
    assert max(rates.values()) > 1.3 * min(rates.values())
    assert max(ages, key=ages.get) == "county"


@pytest.mark.parametrize("host", ["laboratory", "hospital"])
def test_hosts_are_wider_in_the_engine_alone(host: str) -> None:
    party = load_party(SCENARIO / "columns" / host / f"{host}.toml")
    assert party.policy.hidden_sums and party.policy.hidden_scores
    (wider,) = widened(party.policy)
    assert wider.startswith("encryptions")


@pytest.mark.parametrize("name", HOSPITALS)
def test_hospitals_are_narrower_than_by_default(name: str) -> None:
    party = load_party(SCENARIO / "rows" / name / f"{name}.toml")
    assert widened(party.policy) == [] and party.policy.min_parties == 4
    assert {*party.clients, name} == set(HOSPITALS)
