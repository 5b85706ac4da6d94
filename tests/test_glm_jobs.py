"""Linear models on the command line: a process for every party, real sockets and certificates."""

import csv
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federation import (
    GLM_JOB,
    WIDE,
    Federation,
    Party,
    Table,
    ended,
    kill,
    private_words,
    replaced,
    write_table,
)
from glum import GeneralizedLinearRegressor

from vfl.jobs.alignments import load_alignment
from vfl.jobs.record import load_record
from vfl.models.halves import GuestHalf, HostHalf
from vfl.models.kinds import load_half
from vfl.models.own_penalties import said_bands
from vfl.party.config import load_party
from vfl.party.spreadsheet import unescaped
from vfl.party.store import Store
from vfl.party.table import read_table

LONG = {**GLM_JOB, "glm": {"tolerance": 1e-300, "max_iterations": 10_000}}


def job(family: str = "logistic", name: str = "linear", **settings: Any) -> dict[str, dict[str, Any]]:
    return {
        "job": {**GLM_JOB["job"], "family": family, "name": name},
        "glm": {**GLM_JOB["glm"], **settings},
    }


def with_years(table: Table) -> Table:
    return {**table, "years": [f"{0.25 + (i % 7) / 8}" for i in range(len(table["plate"]))]}


def counts(table: Table) -> Table:
    return {**table, "claim": [str(int(c) * (1 + i % 3)) for i, c in enumerate(table["claim"])]}


@pytest.fixture
def frequency(federation: Federation, insurer: Party) -> Party:
    """The insurer with counts and an exposure."""
    write_table(insurer.table, with_years(counts(federation.tables["insurer"])))
    write_table(insurer.folder / "new.csv", with_years(federation.tables["new"]))
    insurer.settings["data"]["exposure"] = "years"
    return insurer


def settings_of(party: Party) -> Any:
    party.write()
    return load_party(party.file)


def parts(
    federation: Federation, insurer: Party, model: str
) -> Iterator[tuple[Any, np.ndarray, np.ndarray]]:
    """Each party's half of the model with its matrix of aligned rows and its coefficients."""
    for name, party in {**federation.parties, "insurer": insurer}.items():
        store, settings = Store(party.store), settings_of(party)
        half = load_half(store, model, GuestHalf if name == "insurer" else HostHalf)
        aligned = load_alignment(store, load_alignment(Store(insurer.store), latest(insurer)).name)
        table = read_table(settings.data, role=settings.role, need_label=False)
        part = half.model.part
        features = {n: table.features[n][aligned.rows] for n in half.columns}
        yield half, part.design.matrix(features, len(aligned.rows)).dense(), np.array(part.coefficients)


def latest(party: Party) -> str:
    return Store(party.store).latest("alignment")


def lines_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


def test_a_frequency_model_with_two_hosts(federation: Federation, frequency: Party) -> None:
    marks = {name: host.mark() for name, host in federation.serving.items()}
    done = frequency.train(job("poisson", "frequency", tolerance=1e-8)).ok()
    trained = done.json
    assert trained["converged"] and 0 < trained["iterations"] < 60
    assert set(trained["metrics"]) == {"insurer alone", "federation"}
    assert {"deviance", "d2", "mae", "gini"} <= set(trained["metrics"]["federation"])
    assert trained["rows"]["validation"] == 0
    assert len(trained["phases"]) == trained["iterations"] + 1
    assert f"converged after {trained['iterations']} iterations: deviance " in done.err
    # What hosts could have read stays counted when the run is done.
    counted = json.loads((frequency.store / "labels.json").read_text("utf-8"))
    ((_, of_jobs),) = counted.items()
    ((_, labels),) = of_jobs.items()
    assert set(labels) == set(federation.serving) and min(labels.values()) > 60
    for name, host in federation.serving.items():
        text = "\n".join(host.until("trained", marks[name]))
        assert f"trained {trained['model']} with insurer: " in text
        assert "coefficients are of this party's columns" in text
        assert "relativities are in " in text and "not converged" not in text

    # The pooled fit of the same columns.
    half, matrices, coefficients = zip(*parts(federation, frequency, trained["model"]), strict=True)
    aligned = load_alignment(Store(frequency.store), latest(frequency)).rows
    settings = settings_of(frequency)
    table = read_table(settings.data, role="guest", need_label=True)
    draw = np.random.default_rng([0, 1]).random(table.rows)[aligned]
    train = draw >= 0.25
    label, years = table.label[aligned][train], table.exposure[aligned][train]
    assert train.sum() == trained["rows"]["train"]
    pooled = GeneralizedLinearRegressor(
        family="poisson", alpha=0, gradient_tol=1e-10, max_iter=1000, scale_predictors=False
    ).fit(np.hstack(matrices)[train], label, offset=np.log(years))
    guest = half[0].model
    # At a gradient of 1e-8 and curvatures of 1e-2 and more, coefficients are within 1e-6 and a bit.
    assert guest.intercept == pytest.approx(pooled.intercept_, abs=1e-5)
    assert np.concatenate(coefficients) == pytest.approx(pooled.coef_, abs=1e-5)
    assert all(one.model.converged for one in half)
    run, evaluation = load_record(Store(frequency.store), trained["model"])
    assert run.ending["converged"] and run.ending["iterations"] == trained["iterations"]
    assert len(run.curve) == len(run.phases) == trained["iterations"] + 1
    assert evaluation is not None and set(evaluation.predictions) == {"insurer alone", "federation"}
    assert len(evaluation.rows) == trained["rows"]["held out"] and run.account.seconds > 0

    # Scores: predictions are those of the coefficients where all parties know the row.
    scored = frequency.score(model="frequency").ok().json
    batch = with_years(federation.tables["new"])
    assert scored["rows"] == len(batch["plate"])
    rows = lines_of((frequency.folder / "scores.csv").read_text())
    assert list(rows[0]) == ["plate", "prediction", "expected", "unknown_to"]
    eta = guest.intercept + sum(m @ c for m, c in zip(matrices, coefficients, strict=True))
    plates = federation.tables["insurer"]["plate"]
    expected = {plates[row]: float(np.exp(e)) for row, e in zip(aligned, eta, strict=True)}
    seen = 0
    for row, exposure in zip(rows, batch["years"], strict=True):
        assert float(row["expected"]) == pytest.approx(float(row["prediction"]) * float(exposure))
        if row["plate"] in expected:
            assert float(row["prediction"]) == pytest.approx(expected[row["plate"]], rel=1e-6)
            assert row["unknown_to"] == ""
            seen += 1
    assert seen > 40
    everywhere = [row for row in rows if row["unknown_to"] == "registry bureau"]
    assert everywhere
    # The same without the exposure: per unit.
    write_table(frequency.folder / "units.csv", federation.tables["new"])
    done = frequency.score(model="frequency", data="units.csv", out="units.csv.parquet").ok()
    assert "note: units.csv has no column of exposure: scored per unit of exposure" in done.err


def test_relativities_at_every_party(federation: Federation, frequency: Party) -> None:
    frequency.settings["glm"] = {"binned": ["density"], "bins": 4}
    frequency.run("doctor").ok()
    model = frequency.train(job("poisson", "shown")).ok().json["model"]
    half = Store(frequency.store).read("model", model)
    assert half["kind"] == "glm"
    names = {factor["name"] for factor in half["model"]["part"]["design"]["factors"]}
    assert names == {"density", "area"}
    for party in (frequency, *(federation.parties[name] for name in ("registry", "bureau"))):
        # Levels are this party's own: its people may read them on the screen.
        own = [cell for cell in private_words(federation.tables) if cell.isalnum()]
        for arguments in (("--model", model), ("--model", "shown", "--json")):
            done = party.run("relativities", *arguments).ok()
            party.processes[-1].own = own
            assert done.err == ""
        shown = done.json["relativities"]
        assert done.json["model"] == model
        file = lines_of((party.store / "models" / f"{model}.csv").read_text())
        assert [(line["column"], line["level"]) for line in shown] == [
            (line["column"], unescaped(line["level"])) for line in file
        ]
        for line, kept in zip(shown, file, strict=True):
            assert float(kept["coefficient"]) == line["coefficient"]
            per = line["coefficient"] if line["per_unit"] is None else line["per_unit"]
            assert line["relativity"] == pytest.approx(np.exp(per))
        columns = {line["column"] for line in shown}
        assert ("(intercept)" in columns) == (party is frequency)
        assert sum(line["rows"] or 0 for line in shown if line["level"]) > 200  # of each factor
    model = next(path.stem for path in (frequency.store / "models").glob("claims-*.json"))
    frequency.run("relativities", "--model", "claims").failed(
        5, f"model {model} is of trees: only linear models have relativities"
    )
    frequency.run("relativities", "--model", "shwon").failed(5, "no model shwon in ")


def test_a_guest_with_a_label_and_no_columns(federation: Federation, insurer: Party) -> None:
    insurer.settings["data"] |= {"columns": [], "categorical": []}
    trained = insurer.train(job()).ok().json
    assert trained["converged"]
    assert trained["metrics"]["insurer alone"]["auc"] == 0.5
    assert trained["metrics"]["federation"]["auc"] > 0.6
    insurer.score(model="linear").ok()
    rows = lines_of((insurer.folder / "scores.csv").read_text())
    assert list(rows[0]) == ["plate", "probability", "unknown_to"]
    assert all(0 < float(row["probability"]) < 1 for row in rows)


def test_alpha_is_chosen_among_several(federation: Federation, insurer: Party) -> None:
    marks = {name: host.mark() for name, host in federation.serving.items()}
    settings = {"alphas": [0.1, 0.01], "folds": 2, "tolerance": 1e-3, "shrink_to": "mean"}
    done = insurer.train(job(name="several", **settings)).ok()
    model = load_half(Store(insurer.store), done.json["model"], GuestHalf).model
    assert [alpha for alpha, *_ in model.choice.tried] == [0.1, 0.01]
    assert f"alpha {model.choice.alpha:g} of 2 (deviance of rows left out " in done.err
    assert done.json["alpha"] == model.choice.alpha
    # What was opened in all fits is counted.
    (of_jobs,) = json.loads((insurer.store / "labels.json").read_text("utf-8")).values()
    (labels,) = of_jobs.values()
    assert min(labels.values()) > 60 * 5
    for name, host in federation.serving.items():
        assert "coefficients are of this party's columns" in "\n".join(
            host.until("trained", marks[name])
        )


def test_each_party_hears_which_of_its_coefficients_are_zero(
    federation: Federation, insurer: Party
) -> None:
    marks = {name: host.mark() for name, host in federation.serving.items()}
    settings = {"alpha": 0.03, "l1_ratio": 1.0, "tolerance": 1e-4}
    done = insurer.train(job(name="lasso", **settings)).ok()
    half = load_half(Store(insurer.store), done.json["model"], GuestHalf)
    assert half.job["glm"]["l1_ratio"] == 1.0
    halves = {"": half.model.part}
    for name in federation.serving:
        store = Store(federation.parties[name].store)
        halves[name] = load_half(store, done.json["model"], HostHalf).model.part
    zeros = {name: sum(own == 0 for own in part.coefficients) for name, part in halves.items()}
    assert sum(zeros.values()) > 0
    for name, part in halves.items():
        said = done.err
        if name:
            said = "\n".join(federation.serving[name].until("trained", marks[name]))
        many = f"{zeros[name]} of {len(part.coefficients)} coefficient"
        all_zero = zeros[name] == len(part.coefficients)
        assert (many in said) == (zeros[name] > 0 and not (name and all_zero)), said


def test_an_owner_hears_which_of_its_bands_are_one(federation: Federation, insurer: Party) -> None:
    """And of rules that a job leaves without effect; the half knows what its rules were."""
    insurer.settings["glm"] = {
        "bands": {"density": [-1, -0.6, -0.3, 0, 0.3, 0.6, 1]},
        "fuse": ["density"],
        "credible": {"area": 10.0},
    }
    settings = {"alpha": 0.06, "l1_ratio": 0.9, "l1_on": "steps", "tolerance": 1e-4}
    done = insurer.train(job(name="fused", **settings, credibility=True)).ok()
    half = load_half(Store(insurer.store), done.json["model"], GuestHalf)
    part = half.model.part
    by_name = {factor.name: factor for factor in part.design.factors}
    assert by_name["density"].fused and by_name["area"].credible == 10.0
    (said,) = said_bands(part)
    assert said in done.err
    shown = insurer.run("relativities", "--model", "fused", "--json").ok()
    # Levels are this party's own.
    insurer.processes[-1].own = [cell for cell in private_words(federation.tables) if cell.isalnum()]
    assert shown.json["notes"] == [said]
    plain = insurer.train(job(name="plain", tolerance=1e-2)).ok()
    assert "fuse in [glm] has no effect: the job's alpha is 0" in plain.err
    assert "credible in [glm] has no effect: the job lacks credibility = true" in plain.err
    stored = Store(insurer.store).read("model", plain.json["model"])
    factors = stored["model"]["part"]["design"]["factors"]
    assert not any({"fused", "credible"} & factor.keys() for factor in factors)
    del insurer.settings["glm"]


def test_a_fit_that_does_not_converge_is_kept_and_says_so(
    federation: Federation, insurer: Party
) -> None:
    marks = {name: host.mark() for name, host in federation.serving.items()}
    done = insurer.train(job(max_iterations=1)).ok()
    assert not done.json["converged"]
    assert "note: not converged after 1 iteration: " in done.err
    assert "raise max_iterations or alpha in [glm]" in done.err
    for name, host in federation.serving.items():
        lines = host.until("trained", marks[name])
        assert "note: the fit had not converged when insurer ended it" in lines
    done = insurer.run("train", "job.toml").ok()
    assert ": NOT converged after 1 iteration; " in done.out
    assert "relativities are in " in done.out
    # It scores all the same; levels that were not in training are noted.
    batch = dict(federation.tables["new"])
    batch["area"] = ["QQQQ", "QQQQ", *batch["area"][2:]]
    write_table(insurer.folder / "new.csv", batch)
    done = insurer.score(model="linear").ok()
    rows = len(batch["area"])
    said = f"note: column 'area' has a level that was not in training in 2 of {rows} rows: scored as"
    assert said in done.err


# --- What is refused. -----------------------------------------------------------------------------


@pytest.fixture
def ends(federation: Federation, insurer: Party) -> Iterator[Callable[[str], str]]:
    """The line with which a host's job ended; afterwards it serves on."""
    marks = {name: host.mark() for name, host in federation.serving.items()}

    def ending(name: str) -> str:
        host, told = federation.serving[name], ("job ended: ", "error: ")
        lines: list[str] = []
        while not any(line.startswith(told) for line in lines):
            lines = host.until(": ", marks[name])
        (line,) = [line for line in lines if line.startswith(told)]
        return line

    yield ending


def half_again(table: Table, column: str) -> list[str]:
    return [repr(float(cell) * 1.5 + 1) if cell else "" for cell in table[column]]


def test_what_the_guest_cannot_use_troubles_no_host(federation: Federation, insurer: Party) -> None:
    marks = {name: host.mark() for name, host in federation.serving.items()}
    table = federation.tables["insurer"]
    write_table(insurer.table, {**table, "again": half_again(table, "density")})
    insurer.train(job()).failed(
        3,
        "table.csv: column 'again' is a linear combination of other columns: leave out columns "
        "(ignore), or set the job's alpha above 0",
    )
    insurer.settings["glm"] = {"base": {"area": "nowhere"}}
    insurer.train(job()).failed(3, "table.csv: column 'area' has no level 'nowhere' to be the base")
    insurer.processes[-1].own = [cell for cell in table["area"] if cell]
    del insurer.settings["glm"]

    write_table(insurer.table, with_years(table))
    insurer.train(job("gamma")).failed(3, "table.csv: label 'claim' must be above 0 but is not in")
    asks = {**job(), "job": {**job()["job"], "exposure": True}}
    insurer.train(asks).failed(2, "[job] exposure is for counts (poisson): a 0/1 label has no rate")
    for name, host in federation.serving.items():
        assert host.mark() == marks[name]


def test_columns_of_a_host_that_depend_on_each_other(
    federation: Federation, insurer: Party, ends: Callable[[str], str]
) -> None:
    table = federation.tables["registry"]
    with replaced(federation.parties["registry"], {**table, "again": half_again(table, "power")}):
        line = insurer.train(job()).failed(
            9, "registry stopped the job: some of its columns are linear combinations of others"
        )
        assert "again" not in line and "the job needs alpha above 0" in line
        assert ends("registry").startswith(
            "error: table.csv: column 'again' is a linear combination of other columns: leave out"
        )
        assert ends("bureau") == "job ended: insurer stopped the job: registry stopped it"


def test_a_column_of_a_host_that_cannot_be_used(
    federation: Federation, insurer: Party, ends: Callable[[str], str]
) -> None:
    table = federation.tables["registry"]
    with replaced(federation.parties["registry"], {**table, "same": ["1"] * len(table["power"])}):
        insurer.train(job()).failed(
            9,
            "registry stopped the job: one of its columns cannot enter a linear model (its log has the",
        )
    assert ends("registry") == (
        "error: table.csv: column 'same' holds one value only: leave it out (ignore)"
    )


def test_a_host_with_too_many_columns_for_the_rows(
    federation: Federation, insurer: Party, ends: Callable[[str], str]
) -> None:
    rng, table = random.Random(2), federation.tables["registry"]
    more = {f"x{k}": [repr(rng.gauss(0, 1)) for _ in table["power"]] for k in range(60)}
    with replaced(federation.parties["registry"], {**table, **more}):
        insurer.train(job()).failed(3, "registry has 6", "it needs 5 rows a column (fewer levels or")
    assert ends("registry").startswith("job ended: insurer stopped the job: registry has too many")
    assert ends("bureau").startswith("job ended: insurer stopped the job: registry has too many")


def test_a_label_that_is_separable(
    federation: Federation, insurer: Party, ends: Callable[[str], str]
) -> None:
    table = federation.tables["insurer"]
    first = sorted(set(table["area"]))[-1]
    write_table(insurer.table, {**table, "claim": [str(int(c == first)) for c in table["area"]]})
    done = insurer.train(job())  # which shows after some iterations only
    assert (done.code, done.out) == (3, "")
    (line,) = done.errors
    insurer.processes[-1].own = [cell for cell in table["area"] if cell]
    assert "the label is separable" in line and "set alpha above 0 in [glm], or join" in line
    assert f"column 'area' at level '{first}'" in line  # the guest's own level, named to it alone
    for name in ("registry", "bureau"):
        assert ends(name) == (
            "job ended: insurer stopped the job: columns of the guest's own separate the label without "
            "error: the job needs alpha above 0"
        )
    assert insurer.train(job(alpha=0.01)).ok().json["converged"]


def test_rules_of_a_host_of_its_own(tmp_path: Path, keys: Path) -> None:
    made = Federation(tmp_path, keys, hosts=("registry",))
    registry = made.parties["registry"]
    registry.settings["policy"] = {**WIDE, "min_intersection": 300}
    with ended(made.serve()):
        host = made.serving["registry"]
        made.guest.align().ok()
        rule = " rows to train on are below rule min_intersection = 300 of [policy]"
        made.guest.train(job()).failed(9, "registry stopped the job: ", rule)
        assert rule in host.until("job ended")[-1]

        registry.settings["policy"] = WIDE
        registry.settings["glm"] = {"base": {"brand": "nowhere"}}
        kill(host)
        made.serve()
        host = made.serving["registry"]
        made.guest.train(job()).failed(9, "one of its columns cannot enter a linear model (its log")
        line = host.until("error: ")[-1]
        assert line.startswith("error: table.csv: column 'brand' has no level 'nowhere' to be the base")
        host.own = [cell for cell in made.tables["registry"]["brand"] if cell]


def test_a_host_that_dies_during_a_fit(tmp_path: Path, keys: Path) -> None:
    with ended(Federation(tmp_path, keys).serve()) as made:
        guest, registry, bureau = made.guest, made.serving["registry"], made.serving["bureau"]
        guest.align().ok()
        running = guest.start_train(LONG)
        for host in (registry, bureau):
            host.until("asks to train")
        kill(registry)
        running.wait().failed(8, "the connection to registry broke (")
        assert bureau.until("job ended")[-1] == (
            "job ended: insurer stopped the job: the connection to another party broke"
        )
        made.serve("registry")
        assert guest.train(job()).ok().json["converged"]
