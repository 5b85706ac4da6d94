"""Searches for settings: spaces, what is tried next, what a host takes from its guest."""

import asyncio
import importlib.util
import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from vfl.errors import ConfigError, PeerError
from vfl.jobs.study import Study, TrialDone, check_optuna
from vfl.jobs.tuned_folder import folds_of, trial_words
from vfl.learn.binning import bin_columns
from vfl.learn.losses import LogisticLoss
from vfl.learn.params import BoostParams
from vfl.net.peer import MemoryPeer
from vfl.party.config import Job, load_job
from vfl.party.search import Search, job_text
from vfl.party.tune_section import default_space
from vfl.protocols.common.course import GuestCourse, StopTraining
from vfl.protocols.common.rows import Training
from vfl.protocols.trees.grower import TreeDone
from vfl.protocols.trees.training import guest_train
from vfl.protocols.tuning import NextTrial, SearchEnd, hear_trial

JOB = """
[job]
name = "claims"
purpose = "a test"
model = "secureboost"
objective = "binary"

[secureboost]
trees = 20
learning_rate = 0.1
"""
TUNE = """
[tune]
trials = 30

[tune.space]
learning_rate = {low = 0.01, high = 1.0, log = true}
depth = [2, 3, 4]
reg_lambda = [0.5, 2, 10.0]
"""


def job(tmp_path: Path, text: str) -> Job:
    (tmp_path / "job.toml").write_text(text)
    return load_job(tmp_path / "job.toml")


def test_a_job_is_the_same_with_its_search(tmp_path: Path) -> None:
    plain, tuned = job(tmp_path, JOB), job(tmp_path, JOB + TUNE)
    assert tuned.canonical == plain.canonical == plain.searched and "tune" not in tuned.settings
    search = Search.of(tuned)
    received = Job.from_canonical(search.job.searched)
    assert received.searched == search.job.searched and Search.of(received).tune == search.tune
    space = json.loads(search.job.searched)["tune"]["space"]
    assert space["depth"] == [2, 3, 4]
    assert space["learning_rate"] == {"low": 0.01, "high": 1.0, "log": True}
    default = Search.of(plain)  # written out for hosts
    assert dict(default.space) == default_space(plain.params)
    assert Search.of(Job.from_canonical(default.job.searched)).space == default.space


@pytest.mark.parametrize("values", ["[1{0}]", "[1, -1{0}]", "{{low = 1, high = 1{0}}}"])
def test_numbers_of_hundreds_of_digits_are_refused_in_a_line(tmp_path: Path, values: str) -> None:
    text = JOB + f"[tune.space]\ntrees = {values.format('0' * 400)}\n"
    with pytest.raises(ConfigError, match=r"trees must (be a list of 1 to 50 numbers|have numbers as)"):
        job(tmp_path, text)
    settings = json.loads(job(tmp_path, JOB).canonical) | {"tune": {"space": {"trees": [10**400]}}}
    with pytest.raises(ConfigError, match="trees must be a list of 1 to 50 numbers") as refused:
        Job.from_canonical(json.dumps(settings).encode())
    assert refused.value.for_peer


def test_the_jobs_of_trials(tmp_path: Path) -> None:
    search = Search.of(job(tmp_path, JOB + TUNE))
    settings = {"learning_rate": 0.3, "depth": 3, "reg_lambda": 2}
    trial = search.trial(settings)
    assert trial.tune is None and trial.secureboost.learning_rate == 0.3
    assert (trial.secureboost.validation_share, trial.secureboost.early_stopping_rounds) == (0.2, 10)
    best = search.best(settings, 7)
    assert (best.secureboost.trees, best.secureboost.validation_share) == (7, 0)
    assert job(tmp_path, job_text(best)).canonical == best.canonical
    assert search.tells_most.secureboost.depth == 4
    stops = JOB + "validation_share = 0.3\nearly_stopping_rounds = 4\n"
    own = Search.of(job(tmp_path, stops + TUNE)).best(settings, 7).secureboost
    assert (own.trees, own.validation_share, own.early_stopping_rounds) == (20, 0.3, 4)
    folded = Search.of(job(tmp_path, JOB + TUNE.replace("trials = 30", "folds = 4")))
    assert folded.split.secureboost.validation_share == 0 and folded.judges == 4
    assert folded.trial(settings).secureboost.validation_share == 0.25
    for wrong in (
        {**settings, "learning_rate": 2.0},
        {**settings, "depth": 3.0},
        {**settings, "depth": True},
        {**settings, "gamma": 1.0},
        {"depth": 3},
    ):
        assert not search.has(wrong)
    assert search.has(settings)


def value_of(settings: Mapping[str, float]) -> float:
    """A loss that is least at a learning rate of 0.1 and a depth of 3."""
    away = abs(math.log10(settings["learning_rate"]) + 1)
    return away + 0.3 * abs(settings["depth"] - 3) + 0.01 * settings["reg_lambda"]


def run(study: Study, trials: int) -> Study:
    for _ in range(trials):
        asked = study.ask()
        value = value_of(asked.settings)
        poor = [asked.is_poor(value + 1 / (tree + 1)) for tree in range(8)]
        ended = "stopped" if any(poor) else "done"
        done = TrialDone(asked.number, asked.settings, ended, value, value, 8, asked.curve)  # type: ignore[arg-type]
        study.trials.append(done)
    return study


def test_a_search_finds_what_is_best_and_goes_on_as_if_never_ended(tmp_path: Path) -> None:
    search = Search.of(job(tmp_path, JOB + TUNE))
    study = run(Study(search), 30)
    assert study.trials == run(Study(search), 30).trials
    assert study.trials == run(Study(search, run(Study(search), 12).trials), 18).trials
    assert all(search.has(one.settings) for one in study.trials)
    best = study.best
    assert best is not None and best.settings["depth"] == 3
    assert value_of(best.settings) < 0.1
    assert any(one.ended == "stopped" for one in study.trials)
    assert study.left == 0


def test_the_first_trial_is_the_job_itself_where_the_space_has_it(tmp_path: Path) -> None:
    with_depth = JOB + "depth = 2\nreg_lambda = 0.5\n" + TUNE
    assert Study(Search.of(job(tmp_path, with_depth))).ask().settings == {
        "learning_rate": 0.1,
        "depth": 2,
        "reg_lambda": 0.5,
    }
    assert Search.of(job(tmp_path, JOB + TUNE)).first is None  # reg_lambda = 1 is not in it


def test_without_optuna_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    check_optuna()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs the package optuna: pip install 'vfl\[tune\]'"):
        check_optuna()


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (NextTrial(2, {"depth": 3}), "another number"),
        (NextTrial(1, {"depth": 4}), "not agreed on"),
        (NextTrial(1, {}), "not agreed on"),
    ],
)
def test_a_host_takes_no_other_trial(message: NextTrial, why: str) -> None:
    def has(settings: Mapping[str, object]) -> bool:
        return settings == {"depth": 3}

    async def heard(told: NextTrial | SearchEnd) -> Mapping[str, object] | None:
        guest, host = MemoryPeer.pair("insurer", "bureau")
        await guest.send(told)
        return await hear_trial(host, 1, has)

    assert asyncio.run(heard(NextTrial(1, {"depth": 3}))) == {"depth": 3}
    assert asyncio.run(heard(SearchEnd())) is None
    with pytest.raises(PeerError, match=why):
        asyncio.run(heard(message))


def test_a_training_that_is_stopped_has_the_trees_that_there_are() -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(size=(2, 300))
    label = (values[0] + rng.normal(size=300) > 0).astype(float)
    train = np.arange(300) % 4 > 0
    rows = Training(label, np.ones(300), train, ~train, LogisticLoss())
    params = BoostParams.model_validate(
        {"trees": 9, "depth": 2, "early_stopping_rounds": 9, "validation_share": 0.25}
    )
    blocks = {"guest": bin_columns({"a": values[0], "b": values[1]}, params.max_bins, 3, {})}

    def follow(done: TreeDone) -> None:
        if done.tree == 3:
            raise StopTraining

    stopped, score = asyncio.run(guest_train([], blocks, rows, params, course=GuestCourse(follow)))
    whole = params.model_copy(update={"trees": 3})
    expected, of_three = asyncio.run(guest_train([], blocks, rows, whole))
    assert stopped == expected and (score == of_three).all() and len(stopped.trees) == 3


def test_a_search_over_one_federation_in_python() -> None:
    """The example of docs/python.md, on few rows."""
    import optuna
    from sklearn.model_selection import cross_val_score

    import vfl

    rng = np.random.default_rng(1)
    ids, power = np.arange(300).astype(str), rng.normal(size=300)
    policies = pd.DataFrame({"id": ids, "density": rng.normal(size=300)})
    claim = (power + rng.normal(size=300) > 0).astype(int)
    hosts = {"registry": pd.DataFrame({"id": ids, "power": power})}
    model = vfl.SecureBoost(hosts=hosts, id="id", trees=5, min_child_rows=10)

    def loss(trial: optuna.Trial) -> float:
        tried = model.set_params(
            learning_rate=trial.suggest_float("learning_rate", 0.001, 0.5, log=True)
        )
        return float(-cross_val_score(tried, policies, claim, scoring="neg_log_loss", cv=2).mean())

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(loss, n_trials=4)
    values = {one.params["learning_rate"]: one.value for one in study.trials}
    assert study.best_value == min(values.values()) < values[min(values)]
    model.set_params(**study.best_params).fit(policies, claim)
    assert model.learning_rate == study.best_params["learning_rate"]


def test_a_trial_that_was_ended_early_says_of_how_many_folds_it_is() -> None:
    stopped = TrialDone(3, {"depth": 4}, "stopped", 0.2, 0.25, 7, [0.3, 0.25])
    assert "loss 0.25, 7 trees, of 1 of 5 folds, ended after 2, worse" in trial_words(stopped, 5)
    assert "folds" not in trial_words(stopped, 1)
    done = TrialDone(4, {"depth": 4}, "done", 0.2, 0.25, 7, [], 1.0, [0.1, 0.3])
    assert (folds_of(stopped, 5), folds_of(done, 5)) == (1, 5)
    assert "by fold 0.1 to 0.3" in trial_words(done, 5) and "of 1" not in trial_words(done, 5)
