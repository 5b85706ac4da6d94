"""The disease risk scenario: its tables, its party files, its notebook."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import lightgbm
import numpy as np
import pandas as pd
import pytest
from commands import command
from notebooks import check_kept_outputs, printed, run_notebook

from vfl.party.config import load_job, load_party
from vfl.party.policy import widened

ROOT = Path(__file__).resolve().parents[1]
SCENARIO = ROOT / "scenarios" / "disease_risk"
NOTEBOOK = SCENARIO / "disease_risk.ipynb"
HOSPITALS = ("university", "city", "county", "coast")


@pytest.fixture(scope="module")
def demo() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCENARIO))
        import demo

        yield demo
        for name in ("demo", "make_data", "over_columns", "over_rows"):
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def work(demo: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("disease") / "work"
    demo.set_up(made, patients=6000, stays=8000, trees=7)
    return made


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
    assert len(practice) == 6000 and 0.1 < practice["death"].mean() < 0.2
    assert (practice["years"] > 0).all()
    ids = set(practice["patient"].str.replace(" ", ""))
    assert len(ids) == 6000
    for file, share in (("laboratory/measurements.csv", 0.85), ("hospital/history.csv", 0.7)):
        own = pd.read_csv(folder / file)["patient"].astype(str)
        assert not set(own) & set(practice["patient"])
        known = set(own.str.replace("-", ""))
        assert len(known) == len(own) == round(6000 * share) and known <= ids


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


def test_the_other_two_know_what_the_practice_does_not(demo: ModuleType, work: Path) -> None:
    table = demo.over_columns.pooled(work / "columns")
    assert len(table) > 3000
    own = [n for n in pd.read_csv(work / "columns" / "practice" / "patients.csv") if n in table]
    own = [name for name in own if name not in ("death", "years")]
    held = np.random.default_rng(0).random(len(table)) < 0.3

    class Tried:
        label, exposure = table["death"][held].to_numpy(), table["years"][held].to_numpy()

    def explained(*left_out: str) -> float:
        columns, years = table.drop(columns=["death", "years", *left_out]), table["years"]
        model = lightgbm.LGBMRegressor(
            objective="poisson", n_estimators=40, learning_rate=0.1, num_leaves=8, verbose=-1, n_jobs=1
        )
        rate = table["death"] / years
        model.fit(columns[~held], rate[~held], sample_weight=years[~held])
        return float(demo.over_columns.explained(Tried, model.predict(columns[held]) * Tried.exposure))

    alone = explained(*(name for name in table if name not in (*own, "death", "years")))
    assert 0.15 < alone + 0.02 < explained()


def test_all_take_part_in_their_jobs(work: Path) -> None:
    for host in ("laboratory", "hospital"):
        for job in ("mortality", "death"):
            file = str(work / "columns" / "practice" / f"{job}.toml")
            party = str(work / "columns" / host / f"{host}.toml")
            command("policy", "check", file, party, "--guest", "practice").ok()
    for hospital in HOSPITALS:
        for job in ("readmission", "readmission-linear"):
            file = f"../server/{job}.toml"
            folder = work / "rows" / hospital
            party = f"{hospital}.toml"
            command("policy", "check", file, party, "--guest", "server", folder=folder).ok()
            done = command("doctor", party, "--wait", "0", "--job", file, folder=folder)
            assert "ok    table: stays.csv" in done.out
    assert load_job(work / "rows" / "server" / "readmission.toml").secureboost.trees == 7
    assert load_job(work / "columns" / "practice" / "mortality.toml").secureboost.trees == 7


def test_the_deviance_that_is_explained(demo: ModuleType) -> None:
    from sklearn.metrics import d2_tweedie_score

    draw = np.random.default_rng(2)
    years, died = draw.uniform(0.5, 9, 300), (draw.random(300) < 0.2).astype(float)
    rate = draw.uniform(0.01, 0.1, 300)

    class Tried:
        label, exposure = died, years

    theirs = d2_tweedie_score(died / years, rate, sample_weight=years, power=1)
    assert demo.over_columns.explained(Tried, rate * years) == pytest.approx(theirs, abs=1e-9)


def test_the_demo_draws_what_it_found(demo: ModuleType, tmp_path: Path) -> None:
    columns = pd.DataFrame(
        {demo.over_columns.RATE: [0.18, 0.23, 0.22]},
        index=[demo.over_columns.ALONE, demo.over_columns.ALL, demo.over_columns.POOLED],
    )
    rows = pd.DataFrame(
        {"alone": [0.6, 0.61], "federated": [0.65, 0.66], "pooled": [0.66, 0.67]},
        index=["city", "coast"],
    )
    demo.draw({"columns": columns, "rows": rows}, tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    assert "practice alone" in text and "0.230" in text and "coast" in text


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VFL_NOTEBOOK_WORK", str(tmp_path / "work"))
    smaller = {"patients=6000, stays=8000, trees=None": "patients=2500, stays=2000, trees=2"}
    shown = printed(run_notebook(NOTEBOOK, smaller))
    assert "patients are known to all three" in shown and "report.html" in shown
    assert "rows held out: AUC" in shown and "coast allows readmission" in shown
    for what in ("of coefficients", "of standard errors"):
        (line,) = [line for line in shown.splitlines() if what in line]
        assert float(line.split()[-1]) < 1e-7
    for hospital in HOSPITALS:
        scores = pd.read_csv(tmp_path / "work" / "rows" / hospital / "scores.csv")
        assert len(scores) == 100 and np.isfinite(scores["probability"]).all()


def test_the_kept_outputs_are_of_this_notebook() -> None:
    check_kept_outputs(NOTEBOOK, pictures=1)


def test_the_guide_shows_the_files_of_the_hospitals() -> None:
    guide = (ROOT / "docs" / "guide.md").read_text()
    section = guide[guide.index("## Rows at several parties") :]
    party, job = (tomllib.loads(text) for text in re.findall(r"```toml\n(.*?)```", section, re.S)[:2])
    rows = SCENARIO / "rows"
    for shown, file in ((party, "coast/coast.toml"), (job, "server/readmission.toml")):
        shipped = tomllib.loads((rows / file).read_text())
        for name, keys in shown.items():
            assert keys.items() <= shipped[name].items(), name
