"""What a training would cost: as much as the same job does on tables of other columns and more rows."""

import asyncio
from pathlib import Path

import numpy as np
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


TREES = {"secureboost": {"trees": 4, "depth": 3, "min_child_rows": 20, "max_bins": 32}}
JOBS = {
    "trees": merged(JOB, TREES),
    "trees, lattice": merged(JOB, merged(TREES, {"secureboost": {"encryption": "lattice"}})),
    "linear": merged(GLM_JOB, {"glm": {"alpha": 0.01}}),
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


def costs(job: Job) -> tuple[int, int]:
    """Bytes to and from a host with eight columns, skewed and dependent ones, in a run of all rows."""
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
    sessions = Sessions.of(["registry"], ONE_PROCESS)
    asyncio.run(fit_apart(Aligned(task, np.arange(ROWS), parties, training), sessions))
    traffic = sessions.peers[0].traffic
    return traffic.bytes_sent, traffic.bytes_received


@pytest.mark.parametrize("name", JOBS)
def test_bytes_are_within_the_factor_that_is_said(name: str, insurer: Party, quick_key: None) -> None:
    job = Job.model_validate(JOBS[name])
    with one_key():
        sent, received = costs(job)
        found = forecast(insurer, job, ROWS, columns=8)
    told = found.traffic["registry"]
    assert sent / BYTES_OFF < told.sent < sent * BYTES_OFF, (sent, told)
    both = sent + received
    assert both / BYTES_OFF < told.sent + told.received < both * BYTES_OFF, (sent, received, told)
    assert found.trained == round(expected_share(job) * ROWS)
    assert found.processor_seconds > 0 and found.memory > 0


def test_what_the_command_says(
    insurer: Party, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_key: None
) -> None:
    monkeypatch.setattr(forecasts, "_ROWS", {"paillier": 20})
    (tmp_path / "job.toml").write_text(toml(merged(JOB, {"secureboost": {"trees": 3}})))
    with one_key():
        done = command("train", "insurer.toml", "job.toml", "--estimate", "40", folder=tmp_path).ok()
    assert "claims over 40 rows: nothing was sent" in done.out
    assert "registry: " in done.out and "what each party could learn" in done.out
    assert "as a rule bytes are within a factor of 1.5" in done.out
    line = command("train", "insurer.toml", "job.toml", "--estimate", folder=tmp_path)
    line.failed(2, "there is no alignment yet")


def test_jobs_that_it_knows_nothing_of(insurer: Party) -> None:
    hidden = merged(JOB, {"secureboost": {"sums": "hidden", "coordinator": "trustee"}})
    with pytest.raises(ConfigError, match="with a coordinator"):
        forecast(insurer, Job.model_validate(hidden), 100)
