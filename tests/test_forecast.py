"""What a training would cost: as much as the same job does on tables of other columns and more rows."""

import asyncio
import re
from pathlib import Path

import numba
import numpy as np
import pool
import pytest
from commands import command
from federation import GLM_JOB, JOB, toml
from paillier_key import one_key

from vfl.crypto.workers import ONE_PROCESS
from vfl.errors import ConfigError
from vfl.jobs import forecast as forecasts
from vfl.jobs.forecast import BYTES_OFF, forecast
from vfl.models.kind import PartyColumns
from vfl.models.kinds import expected_share, kind_of_job
from vfl.party import identity
from vfl.party.config import Job, Party, load_party
from vfl.protocols.common.rows import Training
from vfl.simulate import GUEST, Aligned, Sessions, SimulatedTask, fit_apart

ROWS = 900


def merged(settings: dict, more: dict) -> dict:
    """TOML tables with those of others added."""
    return {**settings, **{key: {**settings.get(key, {}), **value} for key, value in more.items()}}


TRUSTEE = {"coordinator": "trustee"}
TREES = {"secureboost": {"trees": 4, "depth": 3, "min_child_rows": 20, "max_bins": 32}}
JOBS = {
    "trees": merged(JOB, TREES),
    "trees, lattice": merged(JOB, merged(TREES, {"secureboost": {"encryption": "lattice"}})),
    "linear": merged(GLM_JOB, {"glm": {"alpha": 0.01}}),
    "hidden trees": merged(JOB, merged(TREES, {"secureboost": {"sums": "hidden", **TRUSTEE}})),
    "hidden linear": merged(GLM_JOB, {"glm": {"alpha": 0.01, "scores": "hidden", **TRUSTEE}}),
    "linear, lattice": merged(GLM_JOB, {"glm": {"alpha": 0.01, "encryption": "lattice"}}),
}


@pytest.fixture
def insurer(tmp_path: Path) -> Party:
    identity.create(tmp_path / "keys" / "insurer", "insurer")
    path = tmp_path / "insurer.toml"
    path.write_text(
        '[party]\nname = "insurer"\nrole = "guest"\nidentity = "keys/insurer"\nlisten = "127.0.0.1:1"\n'
        '[data]\npath = "t.csv"\nid = "id"\nlabel = "claim"\n'
        '[peers.registry]\ncertificate = "registry.pem"\n'
    )
    return load_party(path)


def costs(job: Job) -> list[tuple[int, int]]:
    """Bytes to and from a host with eight columns, skewed and dependent ones, in a run of all rows; then
    of the guest, and of the host, to and from the coordinator, if there is one."""
    draw = np.random.default_rng(11)
    base = draw.gamma(2.0, size=ROWS)
    theirs = {
        f"h{n}": np.round(base * draw.uniform(0.2, 1) + draw.gamma(1.0, size=ROWS), 2) for n in range(8)
    }
    own = {f"g{n}": draw.normal(size=ROWS) for n in range(3)}
    risk = 0.8 * base + own["g0"] - 2.5 + draw.logistic(size=ROWS)
    train = draw.random(ROWS) < expected_share(job)
    training = Training((risk > 0).astype(float), np.ones(ROWS), train, np.zeros(ROWS, bool), job.loss)
    parties = [PartyColumns(GUEST, "t", own), PartyColumns("registry", "t", theirs)]
    task = SimulatedTask(kind_of_job(job), {}, training, "protocol", ONE_PROCESS, lambda step: None)
    sessions = Sessions.of(["registry"], ONE_PROCESS, task.kind.coordinator)
    asyncio.run(fit_apart(Aligned(task, np.arange(ROWS), parties, training), sessions))
    peers = [*sessions.peers, *(to_lead for to_lead, _ in sessions.led)]
    return [(peer.traffic.bytes_sent, peer.traffic.bytes_received) for peer in peers]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name.startswith("hidden") else []) for name in JOBS],
)
def test_bytes_are_within_the_factor_that_is_said(name: str, insurer: Party, quick_key: None) -> None:
    job = Job.model_validate(JOBS[name])
    with one_key():
        spent = costs(job)
        found = forecast(insurer, job, ROWS, {"registry": 8})
    told = [*found.traffic.values(), *found.beside.values()]
    assert [*found.traffic] == ["registry", *(["trustee"] if "hidden" in name else [])]
    for (sent, received), foretold in zip(spent, told, strict=True):
        for real, said in ((sent, foretold.sent), (received, foretold.received)):
            assert real / BYTES_OFF - 1000 < said < real * BYTES_OFF + 1000, (spent, told)
    assert BYTES_OFF <= 1.2
    assert found.trained == round(expected_share(job) * ROWS)
    assert found.processor_seconds > 0 and found.memory > 0
    trees, tapes = job.job.model == "secureboost", found.tapes
    assert (found.iterations > 2) != trees and found.document["iterations"] == found.iterations
    assert tapes.host == found.traffic["registry"].sent and (tapes.of_trees > 0) == trees
    assert tapes.at_a_host(0.1) == round(tapes.host - 0.9 * tapes.of_trees)
    if name == "trees":  # all but which rows are drawn and go left
        assert tapes.at_a_host(0.1) < 0.2 * tapes.host


def played(rows: int, seconds: float, a_tree: float, trees: int = 3) -> forecasts._Played:
    return forecasts._Played(rows, trees, [], [], [], seconds, a_tree, 0, 0.0)


def test_the_time_of_trees_and_of_all_else_is_carried_on_apart() -> None:
    """Of what grows with rows, and of what chance made less for more rows."""
    few = [played(1000, 9.0, 0.0, trees=1), played(3000, 9.0, 0.0, trees=1)]  # no tree apart
    exact = [*few, played(1000, 1.0, 0.5), played(3000, 2.0, 0.7)]
    assert forecasts._seconds(exact, 10_000, 30) == pytest.approx(5.5 + 30 * 1.4)
    level = [*few, played(1000, 2.0, 0.7), played(3000, 1.0, 0.6)]
    assert forecasts._seconds(level, 10_000, 30) == pytest.approx(1 + 30 * 0.6)
    alone = [played(1000, 1.0, 0.0, trees=1), played(3000, 2.0, 0.0, trees=1)]
    assert forecasts._seconds(alone, 10_000, 1) == pytest.approx(5.5)


def test_kernels_are_in_no_time_that_is_carried_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """What compiles or loads one is played once more."""
    times = iter([30.0, 1.0, 1.5])

    def play(*_: object) -> forecasts._Played:
        seconds = next(times)
        if seconds > 9:
            numba.njit(lambda cell: cell + 1)(1)
        return played(1000, seconds, 0.1)

    monkeypatch.setattr(forecasts, "_play", play)
    job = Job.model_validate(JOBS["trees"])
    times_of = [forecasts._play_compiled(job, {}, 1000, 3, 1000).seconds for _ in range(2)]
    assert times_of == [1.0, 1.5]


def test_what_the_command_says(
    insurer: Party, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_key: None
) -> None:
    monkeypatch.setattr(forecasts, "_ROWS", {"paillier": 20})
    (tmp_path / "job.toml").write_text(toml(merged(JOB, {"secureboost": {"trees": 3}})))
    with one_key():
        done = command("train", "insurer.toml", "job.toml", "--estimate", "40", folder=tmp_path).ok()
    assert "claims over 40 rows: nothing was sent" in done.out
    assert "registry: " in done.out and "what each party could learn" in done.out
    assert "as a rule bytes are within a factor of 1.2 where a host's number of columns" in done.out
    assert re.search(r"tape, where .* at a host \(with tape = 0\.1 there some \d+\.\d MB, as", done.out)
    assert "a replay takes this party's part of the time once more, less than " in done.out
    assert "MB in, for 5 columns (not known here: say how many by --host-columns registry=N" in done.out
    said = ("train", "insurer.toml", "job.toml", "--estimate", "40", "--host-columns")
    with one_key():
        done = command(*said, "registry=9", folder=tmp_path).ok()
        of_nine = command(*said, "registry=9", "--json", folder=tmp_path).ok().json["leakage"]
    assert "MB in, for 9 columns\n" in done.out
    (by_model,) = [one for one in of_nine["disclosures"] if one["name"] == "table_from_model"]
    assert (
        f"of {9 * (Job.model_validate(JOB).secureboost.max_bins - 1)} candidates" in by_model["how"]
        and "taken for" not in by_model["how"]
    )
    for bad in ("registry", "registry=0", "registry=x", "registry=99999999999"):
        command(*said, bad, folder=tmp_path).failed(2, "--host-columns takes NAME=N once a host")
    command(*said, "bureau=3", folder=tmp_path).failed(2, "bureau is no host of this job: name registry")
    command(*said[:3], *said[5:], "registry=9", folder=tmp_path).failed(
        2, "is for --estimate: leave it out"
    )
    line = command("train", "insurer.toml", "job.toml", "--estimate", folder=tmp_path)
    line.failed(2, "there is no alignment yet")


def test_what_it_says_of_a_coordinator(
    insurer: Party, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_key: None
) -> None:
    monkeypatch.setattr(forecasts, "_ROWS", {"paillier": 20})
    (tmp_path / "job.toml").write_text(toml(JOBS["hidden trees"]))
    with one_key():
        done = command("train", "insurer.toml", "job.toml", "--estimate", "40", folder=tmp_path).ok()
    lines = [line for line in done.out.splitlines() if " MB out, " in line]
    assert [line.partition(": ")[0] for line in lines] == [
        "registry",
        "trustee",
        "registry with trustee",
    ]


def test_jobs_that_it_knows_nothing_of(insurer: Party) -> None:
    with pytest.raises(ConfigError, match="cannot play deaths, a job over rows"):
        forecast(insurer, Job.model_validate(pool.job()), 100)


@pytest.mark.slow
def test_each_host_has_columns_of_its_own(insurer: Party, quick_key: None) -> None:
    peer = insurer.peers["registry"]
    both = insurer.model_copy(update={"peers": {"registry": peer, "bureau": peer}})
    job = Job.model_validate(JOBS["trees, lattice"])
    with one_key():
        found = forecast(both, job, ROWS, {"bureau": 12}).traffic
    assert found["bureau"].received > 1.8 * found["registry"].received
    assert found["bureau"].sent == pytest.approx(found["registry"].sent, rel=0.2)


@pytest.mark.slow
def test_a_project_is_all_of_its_models(
    insurer: Party, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_key: None
) -> None:
    monkeypatch.setattr(forecasts, "_ROWS", {"paillier": 40})
    (tmp_path / "p.toml").write_text(
        '[project]\nname = "motor"\npurpose = "pricing"\ncounts = "n"\namounts = "paid"\n'
        '[frequency]\nmodel = "glm"\n[severity]\nmodel = "glm"\n'
    )
    said = ("train", "insurer.toml", "p.toml", "--estimate", "80")
    with one_key():
        done = command(*said, folder=tmp_path).ok()
        told = command(*said, "--json", folder=tmp_path).ok().json
    assert "project motor: registry " in done.out and "MB in, all models together" in done.out
    for part in ("frequency", "severity"):
        assert f"motor-{part} over 80 rows: nothing was sent" in done.out
        one = told["models"][part]
        assert one["traffic"]["registry"]["sent"] > 80 * 256
        assert one["columns"]["registry"] == {"count": 5, "basis": "assumed", "model": ""}


@pytest.mark.slow
def test_the_hint_or_matrix_of_many_columns_is_in_the_memory_that_is_said(insurer: Party) -> None:
    job = Job.model_validate(JOBS["trees, lattice"])
    few, many = (forecast(insurer, job, 400, {"registry": count}) for count in (5, 200))
    more = many.memory - few.memory
    assert more > 2 * (many.traffic["registry"].received - few.traffic["registry"].received) > 0
