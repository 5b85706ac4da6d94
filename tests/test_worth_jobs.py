"""What partners' data is worth, on the command line: a process for every party, real sockets."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from commands import Done
from federation import (
    GLM_JOB,
    HIDDEN_JOB,
    JOB,
    WAIT,
    WIDE,
    Federation,
    Party,
    Table,
    ended,
    make_tables,
    toml,
)

from vfl.party.store import Store

RULES: dict[str, Any] = {**WIDE, "worth": True, "encryptions": ["paillier", "lattice"]}
HOSTS = ("registry", "bureau")
ALL = "insurer + registry + bureau"


@pytest.fixture(scope="module")
def parties(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[Federation]:
    """An insurer with a present premium, and two hosts that let it find out what their data is worth."""
    tables = known_to_both(make_tables(500))
    paid = [f"{100 + 7 * (place % 13)}" for place in range(500)]
    tables["insurer"] = {**tables["insurer"], "count": paid}
    made = Federation(tmp_path_factory.mktemp("worth"), keys, tables=tables)
    made.guest.settings["data"]["current_premium"] = "count"
    for name in HOSTS:
        made.parties[name].settings["policy"] = RULES
    with ended(made):
        made.serve()
        made.guest.align().ok()
        yield made


def worth(made: Federation, job: dict[str, Any], *arguments: str) -> Done:
    (made.guest.folder / "job.toml").write_text(toml(job))
    return made.guest.run("worth", "job.toml", *WAIT, "--json", *arguments)


def figures(found: dict[str, Any]) -> dict[tuple[str, str, str], float]:
    return {(one["figure"], one["of"], one["measure"]): one["value"] for one in found["figures"]}


def counts(made: Federation, host: str) -> tuple[int, int]:
    """Jobs and trainings with sums that a host has counted of the guest."""
    store = Store(made.parties[host].store)
    jobs = json.loads(store.counts("usage").read_bytes())["guests"]["insurer"].get("jobs", 0)
    return jobs, sum(len(store.read("sums", name)["jobs"]) for name in store.names("sums"))


def documents(made: Federation) -> set[Path]:
    """What the parties keep, but pages and what holds guests to limits: counts, draws, ledgers."""
    kept = ("models", "runs", "checkpoints", "hints", "tables", "cells", "scratch")
    folders = [party.store / name for party in made.parties.values() for name in kept]
    return {path for folder in folders for path in folder.glob("*") if path.suffix != ".lock"}


@pytest.mark.parametrize(
    "job",
    [
        JOB,
        pytest.param(
            {**JOB, "secureboost": {**JOB["secureboost"], "encryption": "lattice"}},
            marks=pytest.mark.slow,
        ),
        {**GLM_JOB, "glm": {**GLM_JOB["glm"], "alpha": 0.01, "encryption": "lattice"}},
    ],
    ids=["trees, paillier", "trees, lattice", "linear, lattice"],
)
def test_figures_are_those_of_training_and_nothing_is_kept(
    parties: Federation, job: dict[str, Any]
) -> None:
    before, kept = {name: counts(parties, name) for name in HOSTS}, documents(parties)
    said = {name: parties.serving[name].mark() for name in HOSTS}
    found = worth(parties, job).ok().json
    of = figures(found)
    for name in HOSTS:
        parties.serving[name].until("told by insurer what data is worth to", said[name])
        # With the other host and alone: two jobs, and the sums of two.
        jobs, sums = (
            after - was for after, was in zip(counts(parties, name), before[name], strict=True)
        )
        assert jobs == 2 and (sums == 2) == (job["job"]["model"] == "secureboost")
        page = max((parties.parties[name].store / "worth").glob("*.csv"))
        theirs = pd.read_csv(page)
        assert theirs["value"].tolist() == [one["value"] for one in found["figures"]]
        assert theirs["of"].tolist() == [one["of"] for one in found["figures"]]
        text = page.with_suffix(".html").read_text()
        assert all(column not in text for column in ("power", "driver_age", "density"))
        both = of["model", ALL, "d2"]
        (other,) = set(HOSTS) - {name}
        assert of["left_out", name, "d2"] == pytest.approx(
            both - of["model", f"insurer + {other}", "d2"]
        )
    assert documents(parties) == kept
    assert {one["measure"] for one in found["figures"]} == {"d2", "gini", "loss_ratio"}
    trained = parties.guest.train(job).ok().json
    for model, name in (("federation", ALL), ("insurer alone", "insurer alone")):
        ours, theirs = of["model", name, "gini"], trained["metrics"][model]["gini"]
        assert ours == pytest.approx(theirs, abs=1e-12)


def test_a_sample_trains_on_fewer_rows(parties: Federation) -> None:
    found = (
        worth(parties, GLM_JOB | {"glm": {"alpha": 0.01}}, "--rows", "300", "--out", "some").ok().json
    )
    rows = found["rows"]
    assert rows["train"] + rows["held_out"] == 300 < rows["aligned"] < rows["table"] == 500
    assert found["policies"] == rows["held_out"]
    assert found["match_rate"] == rows["aligned"] / rows["table"]
    assert Path(found["page"]).parent == parties.guest.folder / "some"
    few = worth(parties, JOB, "--rows", "2")
    assert few.failed(3, "take more --rows, or another holdout in [job]")


@pytest.mark.slow
def test_rows_with_a_cluster_of_its_own_give_the_same_figures(parties: Federation) -> None:
    pytest.importorskip("distributed")
    job = {**JOB, "secureboost": {**JOB["secureboost"], "encryption": "lattice"}}
    here = worth(parties, job, "--rows", "300").ok().json
    there = worth(parties, job, "--rows", "300", "--local-cluster", "1").ok()
    assert "rows lie with 1 worker" in there.err
    assert there.json["figures"] == here["figures"]


@pytest.mark.parametrize(
    ("job", "why"),
    [
        (HIDDEN_JOB, "`vfl worth` trains without a coordinator: take coordinator = 'umpire' out"),
        ({**JOB, "job": {**JOB["job"], "holdout": 0}}, "set holdout above 0 in [job]"),
        ({**JOB, "secureboost": {"trees": 4, "init_model": "claims"}}, "take init_model out"),
    ],
    ids=["a coordinator", "nothing held out", "trees before"],
)
def test_jobs_without_such_figures(parties: Federation, job: dict[str, Any], why: str) -> None:
    assert worth(parties, job).failed(2, why)


def test_a_host_that_does_not_allow_it(parties: Federation) -> None:
    job = {**JOB, "secureboost": {**JOB["secureboost"], "encryption": "lattice"}}
    worth(parties, job).ok()
    bureau = parties.parties["bureau"]
    restart(parties, "bureau", {**RULES, "worth": False})
    refused = worth(parties, job)
    assert refused.failed(9, "what its data is worth breaks rule worth = false of [policy]")
    # There is room for one of its two trainings, which is not begun.
    jobs, last = counts(parties, "bureau")[0], last_sums(parties, "bureau")
    restart(parties, "bureau", {**RULES, "max_jobs_a_day": jobs + 1})
    assert worth(parties, job).failed(9, "breaks rule max_jobs_a_day")
    most = last["before"] + 2.5 * last["told"]
    restart(parties, "bureau", {**RULES, "max_sums_a_row": most})
    assert worth(parties, job).failed(9, "rule max_sums_a_row", "of earlier jobs on these rows")
    assert counts(parties, "bureau")[0] == jobs
    assert last_sums(parties, "bureau") == last
    restart(parties, "bureau", RULES)
    assert not list((bureau.store / "scratch").glob("*.parts"))


def last_sums(made: Federation, host: str) -> dict[str, float]:
    """What the last training of which a host told sums came to, and those before it."""
    store = Store(made.parties[host].store)
    (name,) = store.names("sums")
    told = [job for job in store.read("sums", name)["jobs"].values() if job["told"]]
    return dict(told[-1])


def restart(made: Federation, host: str, policy: dict[str, Any]) -> None:
    made.serving[host].stop()
    made.parties[host].settings["policy"] = policy
    made.serve(host)


def test_a_host_that_is_killed_ends_it(parties: Federation) -> None:
    long = {**JOB, "secureboost": {"trees": 1000, "depth": 2, "max_bins": 6, "min_child_rows": 10}}
    (parties.guest.folder / "job.toml").write_text(toml(long))
    mark, bureau = (parties.serving[name].mark() for name in HOSTS)
    running = parties.guest.start("worth", "job.toml", *WAIT, "--json")
    parties.serving["registry"].until("asks to find out what data is worth to", mark)
    parties.serving["bureau"].until("asks to find out what data is worth to", bureau)
    parties.serving["bureau"].signal(signal.SIGKILL)
    done = running.wait()
    assert done.code in (7, 8) and "bureau" in done.err
    parties.serving["registry"].until("job ended", mark)
    parties.serve("bureau")


def test_a_model_with_one_host_is_that_of_a_training_with_it(
    parties: Federation, tmp_path: Path
) -> None:
    """Both hosts know the same rows: an alignment with one of them has the same, too."""
    job = {**JOB, "secureboost": {**JOB["secureboost"], "encryption": "lattice"}}
    before = hints(parties.guest)
    of = figures(worth(parties, job).ok().json)
    # Of four in three trainings; one host alone may do with shorter words, and so another hint.
    assert len(HOSTS) <= hints(parties.guest) - before < 4
    single = parties.another_guest(tmp_path / "single", "registry")
    single.align().ok()
    expected = single.train(job).ok().json["metrics"]["federation"]["gini"]
    assert of["model", "insurer + registry", "gini"] == pytest.approx(expected, abs=1e-12)
    assert of["model", ALL, "gini"] != of["model", "insurer + registry", "gini"]


def hints(party: Party) -> int:
    """How many hints a party was sent, by its ledger."""
    files = sorted((party.store / "ledger").glob("*.jsonl"))
    return sum(file.read_text().count('"HintHeader"') for file in files)


def known_to_both(tables: dict[str, Table]) -> dict[str, Table]:
    """Without the rows that one host alone knows."""
    columns = {"registry": "registration", "bureau": "plate_no"}
    ids = {
        name: [plate.upper().replace(" ", "") for plate in tables[name][column]]
        for name, column in columns.items()
    }
    both = set.intersection(*map(set, ids.values()))
    some = {
        name: {
            column: [cell for cell, plate in zip(cells, ids[name], strict=True) if plate in both]
            for column, cells in tables[name].items()
        }
        for name in columns
    }
    return tables | some
