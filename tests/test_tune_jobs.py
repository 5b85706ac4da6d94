"""Searches for settings on the command line: a process for every party, real sockets."""

import csv
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from commands import Done
from federation import GLM_JOB, HIDDEN_JOB, JOB, WAIT, WIDE, Federation, ended, make_tables, toml

from vfl.party.config import load_job
from vfl.party.row_sums import RowSumsFile
from vfl.party.store import Store

RULES: dict[str, Any] = {**WIDE, "tune_trials": 12, "encryptions": ["paillier", "lattice"]}
HOSTS = ("registry", "bureau")
LATTICE = {**JOB, "secureboost": {**JOB["secureboost"], "trees": 12, "encryption": "lattice"}}
SPACE = {
    "learning_rate": {"low": 0.05, "high": 0.5, "log": True},
    "depth": [1, 2, 3],
    "reg_lambda": [0.5, 1.0, 8.0],
}


@pytest.fixture(scope="module")
def parties(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[Federation]:
    """An insurer and two hosts that let it search."""
    made = Federation(tmp_path_factory.mktemp("tune"), keys, tables=make_tables(500))
    for name in HOSTS:
        made.parties[name].settings["policy"] = RULES
    with ended(made):
        made.serve()
        made.guest.align().ok()
        yield made


def searching(job: dict[str, Any], space: dict[str, Any] | None = None, **tune: Any) -> dict[str, Any]:
    return {**job, "tune": tune, **({} if space is None else {"tune.space": space})}


def tune(made: Federation, job: dict[str, Any], *arguments: str) -> Done:
    (made.guest.folder / "job.toml").write_text(toml(job))
    return made.guest.run("tune", "job.toml", *WAIT, "--json", *arguments)


def without_times(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [{key: value for key, value in one.items() if key != "seconds"} for one in found["trials"]]


def counts(made: Federation, host: str) -> int:
    """Jobs that a host has counted of the guest."""
    usage = json.loads(Store(made.parties[host].store).counts("usage").read_bytes())
    return int(usage["guests"]["insurer"].get("jobs", 0))


def told(made: Federation, host: str) -> float:
    """The sums about a row that trainings have told, over all jobs."""
    return float(sum(job["told"] for job in sums_of(made, host)))


def sums_of(made: Federation, host: str) -> list[dict[str, float]]:
    """What trainings told, and what those before them."""
    store = Store(made.parties[host].store)
    return [job for name in store.names("sums") for job in store.read("sums", name)["jobs"].values()]


def headers(made: Federation) -> int:
    """How many hints the guest was sent, by its ledger."""
    files = sorted((made.guest.store / "ledger").glob("*.jsonl"))
    lines = [line for file in files for line in file.read_text().splitlines() if '"HintHeader"' in line]
    return sum(json.loads(line)["entry"] == "message" for line in lines)


def halves(made: Federation) -> set[Path]:
    """Models, runs and checkpoints that parties keep."""
    kept = ("models", "runs", "checkpoints")
    folders = [party.store / name for party in made.parties.values() for name in kept]
    return {path for folder in folders for path in folder.glob("*") if path.suffix != ".lock"}


@pytest.fixture(scope="module")
def searched(parties: Federation) -> dict[str, Any]:
    """What a search of eight trials over the lattice engine finds."""
    before, kept = {name: counts(parties, name) for name in HOSTS}, halves(parties)
    sums = {name: told(parties, name) for name in HOSTS}
    said = {name: parties.serving[name].mark() for name in HOSTS}
    done = tune(parties, searching(LATTICE, SPACE, trials=8)).ok()
    for name in HOSTS:
        parties.serving[name].until("made 8 trials of claims with insurer, none of which", said[name])
        assert counts(parties, name) == before[name] + 8
        assert told(parties, name) > sums[name]
    assert halves(parties) == kept
    assert headers(parties) == len(HOSTS)  # one hint serves all trials
    assert "trial 8 of 8: " in done.err
    found: dict[str, Any] = done.json
    return found


def test_trials_are_trainings_with_their_settings(parties: Federation, searched: dict[str, Any]) -> None:
    first = searched["trials"][0]
    assert first["settings"] == {"learning_rate": 0.2, "depth": 2, "reg_lambda": 1.0}  # the job's own
    assert {one["ended"] for one in searched["trials"]} == {"done", "stopped"}
    ends = [one for one in searched["trials"] if one["ended"] == "done"]
    best = min(ends, key=lambda one: float(one["value"]))
    assert searched["best"] == best["trial"]
    how = {**best["settings"], "validation_share": 0.2, "early_stopping_rounds": 10}
    same = {**LATTICE, "secureboost": {**LATTICE["secureboost"], **how}}
    trained = parties.guest.train(same).ok().json
    record = Store(parties.guest.store).read("run", trained["model"])
    curve = [one["validation"] for one in record["curve"]]
    assert min(curve) == best["loss"] and curve.index(min(curve)) + 1 == best["trees"]
    assert headers(parties) == len(HOSTS)  # and the trainings after it


def test_the_table_and_the_job_file(parties: Federation, searched: dict[str, Any]) -> None:
    with Path(searched["table"]).open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["trial"]) for row in rows] == [*range(1, 9)]
    assert [float(row["loss"]) for row in rows] == [one["loss"] for one in searched["trials"]]
    best = searched["trials"][searched["best"] - 1]
    assert float(rows[best["trial"] - 1]["learning_rate"]) == best["settings"]["learning_rate"]
    path = Path(searched["job_file"])
    assert path == parties.guest.folder / "tune-claims" / "claims.toml"
    job = load_job(path)
    given = {**best["settings"], "trees": best["trees"], "encryption": "lattice", "max_bins": 6}
    assert {name: getattr(job.secureboost, name) for name in given} == given
    assert job.tune is None and job.secureboost.validation_share == 0
    trained = parties.guest.run("train", str(path), *WAIT, "--json").ok().json
    both = tune(parties, searching(LATTICE, SPACE, trials=8), "--train").ok().json
    assert both["metrics"] == trained["metrics"] and both["model"] != trained["model"]


@pytest.mark.slow
def test_a_search_goes_on_as_one_that_was_not_ended(
    parties: Federation, searched: dict[str, Any]
) -> None:
    before = {name: counts(parties, name) for name in HOSTS}
    some = tune(parties, searching(LATTICE, SPACE, trials=3), "--fresh").ok().json
    assert without_times(some) == without_times(searched)[:3]
    done = tune(parties, searching(LATTICE, SPACE, trials=8)).ok()
    assert "going on after 3 trials of an earlier run" in done.err
    assert without_times(done.json) == without_times(searched)
    after = {name: count + 8 for name, count in before.items()}
    assert {name: counts(parties, name) for name in HOSTS} == after
    again = tune(parties, searching(LATTICE, SPACE, trials=8)).ok()  # nobody is asked
    assert without_times(again.json) == without_times(searched)
    assert {name: counts(parties, name) for name in HOSTS} == after


def test_ctrl_c_keeps_what_was_found(parties: Federation) -> None:
    job = {**searching(LATTICE, SPACE, trials=12, seed=3), "job": {**JOB["job"], "name": "ended"}}
    (parties.guest.folder / "job.toml").write_text(toml(job))
    mark = parties.serving["registry"].mark()
    running = parties.guest.start("tune", "job.toml", *WAIT)
    running.until("trial 2 of 12: ")
    running.signal(signal.SIGINT)
    assert running.wait().code == 130
    parties.serving["registry"].until("job ended", mark)
    assert load_job(parties.guest.folder / "tune-ended" / "ended.toml").name == "ended"
    done = tune(parties, {**job, "tune": {"trials": 12, "seed": 3, "seconds": 1e-3}}).ok()
    assert "going on after" in done.err and "s have passed" in done.err
    assert 2 <= len(done.json["trials"]) < 12


@pytest.mark.slow
def test_after_a_host_was_killed_the_search_goes_on(
    parties: Federation, searched: dict[str, Any]
) -> None:
    job = {**searching(LATTICE, SPACE, trials=9), "job": {**JOB["job"], "name": "killed"}}
    (parties.guest.folder / "job.toml").write_text(toml(job))
    mark = parties.serving["registry"].mark()
    running = parties.guest.start("tune", "job.toml", *WAIT)
    running.until("trial 2 of 9: ")
    parties.serving["bureau"].signal(signal.SIGKILL)
    done = running.wait()
    parties.serve("bureau")
    assert done.code in (7, 8) and "bureau" in done.err
    parties.serving["registry"].until("job ended", mark)
    assert without_times(tune(parties, job).ok().json)[:8] == without_times(searched)


@pytest.mark.parametrize(
    ("job", "tuned"),
    [
        ({**JOB, "secureboost": {**JOB["secureboost"], "trees": 3}}, {"folds": 2, "metric": "gini"}),
        ({**GLM_JOB, "glm": {**GLM_JOB["glm"], "encryption": "lattice"}}, {"folds": 2}),
        ({**GLM_JOB, "glm": {**GLM_JOB["glm"], "encryption": "lattice"}}, {}),
    ],
    ids=["trees by folds, paillier", "linear by folds", "linear"],
)
def test_other_jobs(parties: Federation, job: dict[str, Any], tuned: dict[str, Any]) -> None:
    before = {name: counts(parties, name) for name in HOSTS}
    space = {"depth": [1, 2]} if job["job"]["model"] == "secureboost" else None
    out = f"other-{job['job']['name']}-{len(tuned)}"
    found = tune(parties, searching(job, space, trials=2, **tuned), "--out", out).ok().json
    folds = tuned.get("folds", 1)
    assert [one["ended"] for one in found["trials"]] == ["done", "done"]
    after = {name: count + 2 * folds for name, count in before.items()}
    assert {name: counts(parties, name) for name in HOSTS} == after
    rows = found["rows"]
    if folds == 2:  # each row that trains judges once
        assert rows["judge"] + rows["held out"] == 449 and abs(2 * rows["train"] - rows["judge"]) <= 2
    table = pd.read_csv(parties.guest.folder / out / "trials.csv")
    for _, trial in table.iterrows():  # the mean lies between the folds, of which there are two
        low, high = trial["least_fold"], trial["greatest_fold"]
        if folds == 1:
            assert np.isnan([low, high, trial["deviation"]]).all()
        else:
            assert low < trial["value"] < high
            assert trial["deviation"] == pytest.approx((high - low) / 2**0.5)
    load_job(found["job_file"])


@pytest.mark.slow
def test_poor_trials_by_folds_end_early(parties: Federation) -> None:
    # So wide that the sixth, of the lowest rate, is worse than the median whatever the folds are.
    space = {**SPACE, "learning_rate": {"low": 0.001, "high": 0.5, "log": True}}
    job = {**searching(LATTICE, space, trials=8, folds=2), "job": {**JOB["job"], "name": "folds"}}
    before = {name: counts(parties, name) for name in HOSTS}
    found = tune(parties, job).ok().json
    ends = [one["ended"] for one in found["trials"]]
    assert ends[:5] == ["done"] * 5 and "stopped" in ends[5:-1]  # hosts go on to the trial after it
    assert {name: counts(parties, name) for name in HOSTS} == {n: c + 16 for n, c in before.items()}
    # Another one may be worse with the last tree alone, as the folds fall.
    assert min(one["trees"] for one in found["trials"] if one["ended"] == "stopped") < 12


@pytest.mark.parametrize(
    ("job", "why"),
    [
        (HIDDEN_JOB, "take coordinator = 'umpire' out"),
        ({**JOB, "secureboost": {"trees": 4, "init_model": "claims"}}, "take init_model out"),
        (searching(JOB, {"depths": [1, 2]}), "no setting 'depths': did you mean 'depth'?"),
        (searching(JOB, {"depth": [1.5, 2]}), "[tune.space] depth must have whole numbers"),
        (searching(JOB, {"depth": [2, 40]}), "depth: each value must be a whole number from 1 to 10"),
        (searching(JOB, {"gamma": {"low": 2, "high": 1}}), "must have a low below high"),
        (searching(JOB, None, trials=0), "[tune] trials must be a whole number from 1 to 1000"),
    ],
    ids=["a coordinator", "trees before", "a name", "a half", "too deep", "no range", "no trial"],
)
def test_jobs_that_cannot_be_searched(parties: Federation, job: dict[str, Any], why: str) -> None:
    assert tune(parties, job).failed(2, why)


def test_a_host_that_does_not_allow_it(parties: Federation) -> None:
    job = searching({**LATTICE, "job": {**JOB["job"], "name": "refused"}}, SPACE, trials=4)
    jobs = counts(parties, "bureau")
    store = Store(parties.parties["bureau"].store)
    sums = float(RowSumsFile(store, "insurer").read().told.max(initial=0.0))
    for rules, *why in (  # a trial of 12 trees of depth 3 tells up to 0.343 sums a row
        ({"tune_trials": 3}, "a search of 4 trials breaks rule tune_trials = 3 of [policy]"),
        ({"max_jobs_a_day": jobs + 3}, "breaks rule max_jobs_a_day"),
        ({"max_trees": 11}, "trees = 12 breaks rule max_trees = 11"),
        ({"max_sums_a_row": sums + 0.9}, "4 trials may tell too much", "(2 trials would not)"),
    ):
        restart(parties, "bureau", {**RULES, **rules})
        assert tune(parties, job).failed(9, *why)
    assert counts(parties, "bureau") == jobs
    restart(parties, "bureau", {name: rule for name, rule in RULES.items() if name != "tune_trials"})
    assert tune(parties, job).failed(9, "breaks rule tune_trials = 0 of [policy] (the default)")
    restart(parties, "bureau", RULES)


def restart(made: Federation, host: str, policy: dict[str, Any]) -> None:
    made.serving[host].stop()
    made.parties[host].settings["policy"] = policy
    made.serve(host)
