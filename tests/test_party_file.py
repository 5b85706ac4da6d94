"""One party file for all jobs: which of its columns a job uses, and what is a feature in none."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from federation import GLM_JOB, JOB, Federation, make_tables, write_table
from room import Room

import vfl
from vfl.models.halves import GuestHalf
from vfl.models.kinds import load_half
from vfl.party.store import Store

TABLES = make_tables(rows=300, seed=9)
ROWS = len(TABLES["insurer"]["plate"])
MORE = {
    "years": [f"{0.25 + i % 7 / 8}" for i in range(ROWS)],
    "rate": [f"{i % 5 / 10}" for i in range(ROWS)],
    "w": [f"{1 + i % 3}" for i in range(ROWS)],
}


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[Room]:
    """Parties that have aligned, the insurer with a table of all three columns."""
    patch = pytest.MonkeyPatch()
    tables = {**TABLES, "insurer": {**TABLES["insurer"], **MORE}}
    room = Room(Federation(tmp_path_factory.mktemp("room"), keys, guest_listens=True, tables=tables))
    room.patch(patch)
    room.align()
    yield room
    patch.undo()


def trained(room: Room, names: dict[str, str], job: dict, **said: bool) -> GuestHalf:
    """A model of trees, with these columns in the party file and these words in the job."""
    settings = room.federation.guest.settings
    before, settings["data"] = settings["data"], {**settings["data"], **names}
    room.said["insurer"].lines.clear()
    try:
        model = room.train({**job, "job": {**job["job"], **said}})
    finally:
        settings["data"] = before
    return load_half(Store(room.federation.guest.store), model, GuestHalf)


def ignoring(*columns: str) -> dict:
    return {"ignore": list(columns)}


TREES = {**JOB, "secureboost": {**JOB["secureboost"], "trees": 1}}
COUNTS = {**TREES, "job": {**TREES["job"], "objective": "poisson"}}
ALL = {"exposure": "years", "offset": "rate", "weight": "w"}


def test_the_party_file_of_a_frequency_model_is_one_of_a_binary_job(room: Room) -> None:
    counts = trained(room, {"exposure": "years", **ignoring("rate", "w")}, COUNTS)
    assert counts.exposure and counts.columns == ("density", "area")
    assert room.said["insurer"].has("this job uses exposure 'years'")
    binary = trained(room, {"exposure": "years", **ignoring("rate", "w")}, TREES)
    assert not binary.exposure and binary.columns == ("density", "area")
    line = "this job does without exposure 'years' (no feature either)"
    assert line in room.said["insurer"].lines
    assert binary.model == trained(room, ignoring("years", "rate", "w"), TREES).model
    linear = {**GLM_JOB, "glm": {**GLM_JOB["glm"], "alpha": 0.1}}
    assert (
        trained(room, {"exposure": "years", **ignoring("rate", "w")}, linear).columns == counts.columns
    )


def test_a_job_may_do_without_offset_and_weight(room: Room) -> None:
    whole = trained(room, ALL, COUNTS)
    assert whole.offset and whole.exposure and whole.columns == ("density", "area")
    alone = trained(room, ALL, COUNTS, offset=False, weight=False, exposure=False)
    assert room.said["insurer"].has("does without exposure 'years' and offset 'rate' and weight 'w' (no")
    assert (alone.offset, alone.exposure, alone.columns) == (False, False, ("density", "area"))
    assert alone.model == trained(room, ignoring("years", "rate", "w"), COUNTS).model
    some = trained(room, ALL, COUNTS, weight=False)
    assert (
        some.model
        == trained(room, {"exposure": "years", "offset": "rate", "ignore": ["w"]}, COUNTS).model
    )
    assert some.model != whole.model


def test_a_binary_model_is_scored_with_that_party_file(room: Room) -> None:
    room.federation.guest.settings["data"].update(ALL)
    model = room.train(TREES)
    batch = {**TABLES["new"], "rate": ["0"] * len(TABLES["new"]["plate"])}
    write_table(room.folder / "new.csv", batch)  # the offset it was trained with, and no exposure
    room.score(model)
    scores = pd.read_csv(room.folder / "scores.csv")
    assert list(scores) == ["plate", "probability", "unknown_to"]


def test_what_an_estimator_is_given_apart_is_no_feature() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=200), "years": rng.uniform(0.5, 1, 200)})
    frame["claims"] = rng.poisson(0.3 * frame["years"])
    frame["w"] = 1.0 + np.arange(200) % 2
    model = vfl.SecureBoostRegressor(hosts={}, objective="poisson", trees=2, depth=2)
    with pytest.warns(UserWarning, match="'years' is given as exposure: it is no feature"):
        model.fit(frame, frame["claims"], exposure=frame["years"], sample_weight=frame["w"])
    plain = vfl.SecureBoostRegressor(hosts={}, objective="poisson", trees=2, depth=2)
    plain.fit(frame[["x"]], frame["claims"], exposure=frame["years"], sample_weight=frame["w"])
    assert model.model_ == plain.model_
    assert np.array_equal(model.predict(frame), plain.predict(frame[["x"]]))
    # A column of the same name with other values is a feature like any.
    other = frame[["x", "years"]].assign(years=1.0)
    vfl.SecureBoostRegressor(hosts={}, objective="poisson", trees=1, depth=1).fit(
        other, frame["claims"], exposure=frame["years"]
    )
