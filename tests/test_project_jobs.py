"""Projects on the command line: frequency and severity of the same policies, scored together."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from federation import WAIT, WIDE, Federation, Table, ended, toml, word, write_table
from glum import GeneralizedLinearRegressor

from vfl.jobs.projects import load_project_document
from vfl.jobs.record import load_record
from vfl.learn.claims import LargeLossLoad, PolicyClaims
from vfl.party.store import Store

ROWS, CAP = 900, 2500.0
HOSTS = ("registry", "bureau")
PROJECT: dict[str, Any] = {
    "project": {
        "name": "tariff",
        "purpose": "a test",
        "counts": "count",
        "amounts": "paid",
        "exposure": "years",
        "cap": CAP,
        "load_by": "zone",
        "holdout": 0.25,
    },
    "frequency": {"model": "glm", "glm": {"tolerance": 1e-9, "encryption": "lattice"}},
    "severity": {"model": "glm", "glm": {"tolerance": 1e-7, "encryption": "lattice"}},
}
TREES = {"trees": 2, "depth": 2, "max_bins": 6, "min_child_rows": 10, "encryption": "lattice"}


def frames() -> dict[str, pd.DataFrame]:
    """Policies with claims, and what hosts know of them, in one order."""
    rng = np.random.default_rng(3)
    plates = random.Random(3)
    power, age = rng.normal(100, 20, ROWS), rng.uniform(18, 80, ROWS)
    density = rng.normal(0, 1, ROWS)
    area = rng.choice(["plain", "hill", "coast"], ROWS)
    years = rng.choice([0.25, 0.5, 1.0], ROWS)
    rate = np.exp(-0.7 + 0.3 * density + 0.006 * (power - 100) - 0.01 * (age - 45))
    count = rng.poisson(rate * years)
    mean = np.exp(6.8 + 0.2 * (area == "coast") + 0.005 * (power - 100) + 0.002 * (age - 45))
    claims = [rng.gamma(1.2, mean[i] / 1.2, n) for i, n in enumerate(count)]
    ids = [word(plates) for _ in range(ROWS)]
    zone = np.where(np.arange(ROWS) % 3 == 0, "inner", "outer")
    return {
        "insurer": pd.DataFrame(
            {
                "plate": ids,
                "density": density,
                "area": area,
                "zone": zone,
                "count": count,
                "paid": [float(own.sum()) for own in claims],
                "years": years,
                "premium": np.round(300 * np.exp(0.2 * density), 2),
                "claim": (count > 0).astype(int),
            }
        ),
        "registry": pd.DataFrame({"registration": ids, "power": power, "brand": "b"}),
        "bureau": pd.DataFrame({"plate_no": ids, "driver_age": age, "occupation": "o"}),
        "claims": pd.DataFrame(
            {
                "policy": [ids[i] for i, own in enumerate(claims) for _ in own],
                "amount": [float(x) for own in claims for x in own],
            }
        ),
    }


FRAMES = frames()


def as_table(frame: pd.DataFrame, columns: list[str] | None = None) -> Table:
    kept = frame if columns is None else frame[columns]
    return {name: [repr(x) if isinstance(x, float) else str(x) for x in kept[name]] for name in kept}


@pytest.fixture(scope="module")
def parties(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[Federation]:
    """An insurer with claims and two hosts, whose rows are in other orders."""
    tables = {
        name: as_table(FRAMES[name].sample(frac=1, random_state=i)) for i, name in enumerate(HOSTS)
    }
    tables["insurer"] = as_table(FRAMES["insurer"])
    new = ["plate", "density", "area", "zone", "years"]
    tables["new"] = as_table(FRAMES["insurer"].iloc[:200], new)
    made = Federation(tmp_path_factory.mktemp("projects"), keys, tables=tables)
    data = made.guest.settings["data"]
    data |= {"categorical": ["area", "zone"], "current_premium": "premium"}
    data["premium_per_exposure"] = True
    data["exposure"] = "years"
    for name, column in zip(HOSTS, ("brand", "occupation"), strict=True):
        made.parties[name].settings["data"] |= {"ignore": [column], "categorical": []}
        rules = {**WIDE, "encryptions": ["paillier", "lattice"]}
        made.parties[name].settings["policy"] = rules
    made.tables = {}  # plain numbers and words of this table occur by chance
    write_table(made.guest.folder / "claims.csv", as_table(FRAMES["claims"]))
    with ended(made):
        made.serve()
        made.guest.align().ok()
        yield made


def train(made: Federation, project: dict[str, Any], *arguments: str) -> Any:
    (made.guest.folder / "project.toml").write_text(toml(project))
    return made.guest.run("train", "project.toml", *WAIT, "--json", *arguments)


def design(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """All parties' columns as numbers."""
    own = FRAMES["insurer"].iloc[rows]
    columns = [own["density"], FRAMES["registry"]["power"].iloc[rows] / 20]
    columns += [FRAMES["bureau"]["driver_age"].iloc[rows] / 20]
    columns += [(own["area"] == "coast"), (own["area"] == "hill"), own["zone"] == "inner"]
    return np.column_stack([np.asarray(column, np.float64) for column in columns])


def by_glum(rows: np.ndarray[Any, Any], claims: PolicyClaims, years: Any) -> list[Any]:
    """Frequency on all `rows`, severity on those with claims."""
    own = claims.take(rows)
    frequency = GeneralizedLinearRegressor(family="poisson", alpha=0, gradient_tol=1e-11, max_iter=500)
    frequency.fit(design(rows), own.count / years[rows], sample_weight=years[rows])
    some = own.count > 0
    severity = GeneralizedLinearRegressor(family="gamma", alpha=0, gradient_tol=1e-11, max_iter=500)
    severity.fit(design(rows[some]), own.capped[some] / own.count[some], sample_weight=own.count[some])
    return [frequency, severity]


def test_models_and_expected_losses_are_those_of_glum_on_pooled_columns(parties: Federation) -> None:
    done = train(parties, PROJECT).ok()
    found = done.json
    assert set(found["models"]) == {"frequency", "severity"}
    assert found["models"]["severity"].startswith("tariff-severity-")
    store = Store(parties.guest.store)
    kept, held = load_project_document(store, found["project"])
    assert held is not None
    assert kept.ended
    frame = FRAMES["insurer"]
    years = frame["years"].to_numpy()
    claims = PolicyClaims.of_policies(frame["count"].to_numpy(np.float64), frame["paid"].to_numpy(), CAP)
    train_rows = np.setdiff1d(np.arange(ROWS), held.rows)
    frequency, severity = by_glum(train_rows, claims, years)
    x = design(held.rows)
    expected = frequency.predict(x) * years[held.rows]
    assert held.predictions["frequency"]["federation"] == pytest.approx(expected, rel=1e-6)
    assert held.predictions["severity"]["federation"] == pytest.approx(severity.predict(x), rel=1e-6)
    zone = frame["zone"].to_numpy(object)
    load = LargeLossLoad.of(claims.take(train_rows), None, zone[train_rows])
    assert load.overall > 1.01
    assert len({*load.segments.values()}) == 2
    assert (found["load"], found["loads"]) == (load.overall, dict(load.segments))
    losses = expected * severity.predict(x) * load.at(len(held.rows), zone[held.rows])
    assert held.expected_loss("federation") == pytest.approx(losses, rel=1e-6)

    # The record of severity has the rows held out that have claims, and no others.
    _, evaluation = load_record(store, found["models"]["severity"])
    assert evaluation is not None
    assert np.array_equal(evaluation.rows, held.rows[held.claims.count > 0])

    # Scores: the same numbers for new rows, by name.
    scored = parties.guest.score("tariff", out="scores.csv").ok().json
    assert scored["rows"] == 200 and scored["unknown"] == dict.fromkeys(HOSTS, 0)
    table = pd.read_csv(parties.guest.folder / "scores.csv")
    x = design(np.arange(200))
    rate, claim, own = frequency.predict(x), severity.predict(x), load.at(200, zone[:200])
    assert table["frequency"].to_numpy() == pytest.approx(rate, rel=1e-6)
    assert table["severity"].to_numpy() == pytest.approx(claim, rel=1e-6)
    assert table["load"].to_numpy() == pytest.approx(own)
    assert table["pure_premium"].to_numpy() == pytest.approx(rate * claim * own, rel=1e-6)
    assert table["expected_loss"].to_numpy() == pytest.approx(rate * claim * own * years[:200], rel=1e-6)

    # The report: frequency, severity and what they come to, whose figures are those of the rows.
    done = parties.guest.run("report", "--model", "tariff", "--json", "--out", "page").ok()
    summary = pd.DataFrame(done.json["tables"]["summary"]).set_index(["part", "model", "measure"])
    own = held.claims
    for part, happened, due in (
        ("frequency", own.count, expected),
        ("severity", own.capped, own.count * severity.predict(design(held.rows))),
        ("pure_premium", own.paid, losses),
    ):
        value = summary.loc[(part, "federation", "actual_by_expected"), "value"]
        assert value == pytest.approx(happened.sum() / due.sum(), rel=1e-6)
    page = (parties.guest.folder / "page" / "report.html").read_text()
    assert "Frequency" in page and "Against the present tariff" in page and "Large-loss load" in page
    kept_best = pd.read_csv(parties.guest.folder / "page" / "benchmark_kept.csv")
    assert {"federation", "insurer alone"} <= {*kept_best.iloc[:, 0]}


def test_hosts_agree_to_both_models_and_count_both(parties: Federation) -> None:
    def jobs(host: str) -> int:
        used = json.loads(Store(parties.parties[host].store).counts("usage").read_bytes())
        return int(used["guests"]["insurer"]["jobs"])

    before = {name: jobs(name) for name in HOSTS}
    mark = {name: parties.serving[name].mark() for name in HOSTS}
    found = train(parties, PROJECT, "--fresh").ok().json
    names = ["tariff-frequency", "tariff-severity"]
    for host in HOSTS:
        parties.serving[host].until(f"trained {found['models']['severity']}", mark[host])
        said = parties.serving[host].err[mark[host] :]
        assert "it is one of the models tariff-frequency and tariff-severity, each a job" in said
        assert jobs(host) - before[host] == 2
        for model in found["models"].values():
            record, _ = load_record(Store(parties.parties[host].store), model)
            assert record.job["job"]["project"] == names
            assert record.agreement is not None
            # Nothing that a host keeps of severity tells how many rows have claims.
            assert (
                record.rows["train"]
                == ROWS
                - load_project_document(Store(parties.guest.store), found["project"])[1].rows.size
            )


def test_a_day_without_room_for_all_models_refuses_the_first(parties: Federation) -> None:
    host = parties.parties["bureau"]
    used = json.loads(Store(host.store).counts("usage").read_bytes())["guests"]["insurer"]["jobs"]
    rules = host.settings["policy"]
    try:
        restart(parties, "bureau", {**rules, "max_jobs_a_day": used + 1})
        train(parties, PROJECT, "--fresh").failed(9, "2 more jobs", "max_jobs_a_day")
        assert (
            json.loads(Store(host.store).counts("usage").read_bytes())["guests"]["insurer"]["jobs"]
            == used
        )
    finally:
        restart(parties, "bureau", rules)


def restart(made: Federation, name: str, rules: dict[str, Any]) -> None:
    made.serving[name].stop()
    made.parties[name].settings["policy"] = rules
    made.serve(name)


@pytest.mark.slow
def test_a_command_goes_on_with_the_model_that_is_missing(parties: Federation) -> None:
    broken = {**PROJECT, "project": {**PROJECT["project"], "name": "again"}}
    host = parties.parties["registry"]
    rules = host.settings["policy"]
    try:
        restart(parties, "registry", {**rules, "objectives": ["poisson"]})
        assert "objectives" in train(parties, broken).failed(9)
    finally:
        restart(parties, "registry", rules)
    asked = parties.guest.score("again").failed(5, "of project again-", "only frequency is trained")
    assert "`vfl train` with its file goes on" in asked
    done = train(parties, broken).ok()
    assert "frequency: again-frequency-" in done.err and set(done.json["trained"]) == {"severity"}
    assert parties.guest.score("again", out="again.csv").ok().json["rows"] == 200


def test_claims_of_a_second_table_are_capped_one_by_one(parties: Federation) -> None:
    own = {key: value for key, value in PROJECT["project"].items() if key not in ("counts", "amounts")}
    project = {
        **PROJECT,
        "project": {**own, "name": "single", "load_by": "zone"},
        "claims": {"path": "claims.csv", "id": "policy", "amount": "amount"},
    }
    ignore = parties.guest.settings["data"]
    parties.guest.settings["data"] = {**ignore, "ignore": ["count", "paid"]}
    try:
        found = train(parties, project).ok().json
    finally:
        parties.guest.settings["data"] = ignore
    _, held = load_project_document(Store(parties.guest.store), found["project"])
    assert held is not None
    claims = FRAMES["claims"]
    plates = FRAMES["insurer"]["plate"].iloc[held.rows]
    capped = claims["amount"].clip(upper=CAP).groupby(claims["policy"]).sum().reindex(plates).fillna(0)
    assert held.claims.capped == pytest.approx(capped.to_numpy())
    assert held.claims.count.tolist() == FRAMES["insurer"]["count"].iloc[held.rows].tolist()
    assert held.claims.paid == pytest.approx(FRAMES["insurer"]["paid"].iloc[held.rows].to_numpy())


@pytest.mark.slow
def test_trees_and_a_tweedie_model_beside_them(parties: Federation) -> None:
    part = {"model": "secureboost", "secureboost": TREES}
    linear = {"model": "glm", "glm": {"encryption": "lattice"}}
    project = {
        "project": {**PROJECT["project"], "name": "grown"},
        "frequency": part,
        "severity": part,
        "tweedie": linear,
    }
    found = train(parties, project).ok().json
    assert set(found["models"]) == {"frequency", "severity", "tweedie"}
    parties.guest.score("grown", out="grown.csv").ok()
    table = pd.read_csv(parties.guest.folder / "grown.csv")
    made = table["frequency"] * table["severity"] * table["load"]
    assert table["pure_premium"].to_numpy() == pytest.approx(made.to_numpy())
    assert (table["tweedie"] > 0).all()


@pytest.mark.parametrize(
    ("cells", "why"),
    [
        ({"paid": "0.0"}, "amounts 'paid' is 0 where there are claims in 1 row (row 2)"),
        ({"count": "0"}, "amounts 'paid' is above 0 where no claim is counted in 1 row (row 2)"),
        ({"paid": "-5.0"}, "amounts 'paid' must not be negative but is in 1 row (row 2)"),
        ({"paid": ""}, "amounts 'paid' is missing in 1 row"),
        ({"paid": "much"}, "amounts 'paid' has text that is no number in row 2: it must be a number"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_claims_that_do_not_fit_are_named_by_row(
    parties: Federation, cells: dict[str, str], why: str
) -> None:
    table = as_table(FRAMES["insurer"].sort_values("count", ascending=False))
    for name, cell in cells.items():
        table[name][0] = cell
    before = parties.guest.table.read_bytes()
    try:
        write_table(parties.guest.table, table)
        train(parties, {**PROJECT, "project": {**PROJECT["project"], "name": "bad"}}).failed(3, why)
    finally:
        parties.guest.table.write_bytes(before)


@pytest.mark.parametrize(
    ("section", "key"),
    [("project", "counts"), ("project", "amounts"), ("project", "load_by"), ("claims", "amount")],
)
def test_a_column_that_is_missing_is_named_as_the_project_file_does(
    parties: Federation, section: str, key: str
) -> None:
    project = {**PROJECT, "project": {**PROJECT["project"], "name": "bad"}}
    if section == "claims":
        project["claims"] = {"path": "claims.csv", "id": "policy"}
        project["project"] = {"name": "bad", "purpose": "a test"}
    project[section] = {**project[section], key: "absent"}
    train(parties, project).failed(3, f"no column 'absent' (named by {key} in [{section}])")


def test_explanations_are_of_one_model(parties: Federation) -> None:
    asked = ("--model", "tariff", "--data", "new.csv", "--out", "why.csv", "--explain", *WAIT)
    parties.guest.run("score", *asked).failed(2, "--explain is of one model")


FREMTPL2 = Path(__file__).parents[2] / "shared" / "data" / "freMTPL2"


@pytest.mark.slow
@pytest.mark.skipif(not FREMTPL2.exists(), reason="freMTPL2 is not there (shared/data/freMTPL2)")
def test_fremtpl2_comes_to_what_glum_finds_on_pooled_columns(tmp_path: Path, keys: Path) -> None:
    """40,000 policies, their claims in a table of their own, capped at 100,000 as in the literature."""
    rows, cap = 40_000, 100_000.0
    policies = pd.read_parquet(FREMTPL2 / "policies.parquet").head(rows)
    ids = policies["IDpol"].astype(int).astype(str)
    claims = pd.read_parquet(FREMTPL2 / "claims.parquet")
    claims = claims.assign(IDpol=claims["IDpol"].astype(int).astype(str))
    policies = policies.assign(
        IDpol=ids, Exposure=policies["Exposure"].clip(upper=1), density=np.log(policies["Density"])
    )
    tables = {
        "insurer": policies[["IDpol", "Exposure", "Area", "density"]],
        "registry": policies[["IDpol", "VehPower", "VehAge", "VehBrand", "VehGas"]],
        "bureau": policies[["IDpol", "DrivAge", "BonusMalus"]],
    }
    tables["new"] = tables["insurer"].head(1_000)
    cells = {name: as_table(table.astype({"IDpol": str})) for name, table in tables.items()}
    made = Federation(tmp_path, keys, tables=cells)
    names = {"insurer": ["Area"], "registry": ["VehBrand", "VehGas"], "bureau": []}
    for name, party in made.parties.items():
        party.settings["data"] |= {"id": "IDpol", "categorical": names[name]}
        if name != "insurer":
            party.settings["policy"] = {**WIDE, "encryptions": ["lattice"]}
    del made.guest.settings["data"]["label"]
    made.guest.settings["data"]["exposure"] = "Exposure"
    made.tables = {}  # numbers and words of this table occur by chance
    own = {"name": "motor", "purpose": "a test", "cap": cap, "holdout": 0.3}
    part = {"model": "glm", "glm": {"tolerance": 1e-9, "encryption": "lattice", "max_iterations": 500}}
    project = {
        "project": own,
        "claims": {"path": "claims.csv", "amount": "ClaimAmount"},
        "frequency": part,
        "severity": part,
    }
    for party in made.parties.values():
        party.settings["party"]["workers"] = 1
    claims.to_csv(made.guest.folder / "claims.csv", index=False)
    with ended(made):
        made.serve()
        made.guest.align().ok()
        found = train(made, project).ok().json
        made.guest.score("motor", out="scores.csv").ok()
        made.guest.run("report", "--model", "motor").ok()
        scores = pd.read_csv(made.guest.folder / "scores.csv")
    _, held = load_project_document(Store(made.guest.store), found["project"])
    assert held is not None
    capped = claims["ClaimAmount"].clip(upper=cap)
    count, paid, under = (
        one.groupby(claims["IDpol"]).sum().reindex(ids).fillna(0).to_numpy(np.float64)
        for one in (pd.Series(1.0, claims.index), claims["ClaimAmount"], capped)
    )
    numbers = policies[["density", "VehPower", "VehAge", "DrivAge", "BonusMalus"]].astype(float)
    dummies = pd.get_dummies(policies[["Area", "VehBrand", "VehGas"]].astype(str), drop_first=True)
    x = np.column_stack([(numbers - numbers.mean()) / numbers.std(), dummies]).astype(float)
    rest, years = np.setdiff1d(np.arange(rows), held.rows), policies["Exposure"].to_numpy()
    some = rest[count[rest] > 0]
    fits = []
    for family, of, label, weight in (
        ("poisson", rest, count[rest] / years[rest], years[rest]),
        ("gamma", some, under[some] / count[some], count[some]),
    ):
        model = GeneralizedLinearRegressor(family=family, alpha=0, gradient_tol=1e-12, max_iter=500)
        fits.append(model.fit(x[of], label, sample_weight=weight))
    frequency, claim = (model.predict(x) for model in fits)
    load = paid[rest].sum() / under[rest].sum()
    assert found["load"] == pytest.approx(load)
    expected = frequency * years * claim * load
    assert held.expected_loss("federation") == pytest.approx(expected[held.rows], rel=1e-6)
    assert scores["expected_loss"].to_numpy() == pytest.approx(expected[:1_000], rel=1e-6)
