"""Shapes on the command line: of the guest's columns, edited, and of a host's by the guest's values."""

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federation import JOB, WIDE, Federation, ended, make_tables, toml

from vfl.models.halves import GuestHalf, HostHalf
from vfl.models.kinds import load_half
from vfl.models.shapes import additive, centred
from vfl.party.store import Store

FLAT = {**JOB, "secureboost": {**JOB["secureboost"], "trees": 12, "depth": 1, "encryption": "lattice"}}
HOSTS = ("registry", "bureau")


@pytest.fixture(scope="module")
def parties(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[Federation]:
    """Three parties that have trained a model of trees of one split, and one of deeper trees."""
    made = Federation(tmp_path_factory.mktemp("shapes"), keys, tables=make_tables(500))
    for name in HOSTS:
        made.parties[name].settings["policy"] = {**WIDE, "encryptions": ["paillier", "lattice"]}
    with ended(made):
        made.serve()
        made.guest.align().ok()
        made.guest.train({**JOB, "job": {**JOB["job"], "name": "deep"}, "secureboost": DEEP}).ok()
        made.guest.train(FLAT).ok()
        yield made


DEEP = {"trees": 2, "depth": 3, "max_bins": 6, "min_child_rows": 10, "encryption": "lattice"}


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def scores(made: Federation, model: str, out: str) -> dict[str, float]:
    made.guest.run("score", "--model", model, "--data", "new.csv", "--out", out, "--wait", "60").ok()
    return {row["plate"]: float(row["probability"]) for row in rows_of(made.guest.folder / out)}


def test_the_shapes_of_the_guest_and_of_a_host_add_up(parties: Federation) -> None:
    """What each party can say of its columns is, with the guest's constant, every part of the model."""
    guest = parties.guest.run("shapes", "--model", "claims", "--json").ok().json
    folder = parties.guest.folder / "shapes-claims"
    assert {path.name for path in folder.iterdir()} == {"shapes.csv", "shapes.html"}
    assert set(guest["columns"]) <= {"density", "area"} and not guest["pairs"]
    store = Store(parties.guest.store)
    half = load_half(store, guest["model"], GuestHalf)
    sum_ = additive(half.model)
    assert sum_.centre == guest["centre"]
    steps = sum(len(steps) for owners, steps in sum_.parts.items() if owners != (0, 0))
    assert guest["steps_with_others"] == steps
    given = 0
    for name in HOSTS:
        file = parties.guest.folder / f"for-{name}.json"
        told = parties.guest.run(
            "shapes", "--model", "claims", "--give", name, "--out", file.name, "--json"
        ).ok()
        given += told.json["steps"]
        copy = parties.parties[name].folder / "given.json"
        copy.write_bytes(file.read_bytes())
        host = parties.parties[name].run(
            "shapes", "--model", guest["model"], "--values", "given.json", "--json"
        )
        found = host.ok().json
        assert found["centre"] is None and found["columns"]
        table = rows_of(Path(found["shapes"]) / "shapes.csv")
        theirs = load_half(Store(parties.parties[name].store), guest["model"], HostHalf).model.splits
        place = half.model.parties.index(name)
        numbers = [column for column in found["columns"] if column in ("power", "driver_age")]
        for column in numbers:
            lines = [row for row in table if row["column"] == column and row["level"] == ""]
            points = np.array([float(row["up_to"] or "inf") for row in lines])
            own = [step for step in sum_.own(place) if theirs[step.record].column == column]
            expected = centred(own, theirs, {column: points})
            assert np.abs(expected - [float(row["value"]) for row in lines]).max() < 1e-12
            assert float(lines[0]["factor"]) == pytest.approx(math.exp(float(lines[0]["value"])))
    assert given == steps
    page = (folder / "shapes.html").read_text()
    assert "density adds" in page and "Shapes of the columns of insurer" in page


EDITS: dict[str, Any] = {"column": "density", "up_to": 0.25, "times": 1.5, "reason": "a test of edits"}


def test_an_edited_model_is_a_version_that_scores(parties: Federation) -> None:
    before = scores(parties, "claims", "before.csv")
    (parties.guest.folder / "edits.toml").write_text(toml({"[edit]": EDITS}))
    done = parties.guest.run(
        "shapes", "--model", "claims", "--edits", "edits.toml", "--out", "edited", "--json"
    )
    found = done.ok().json
    assert found["edited_from"] and found["model"] != found["edited_from"] and found["changes"] == 1
    (line,) = rows_of(Path(found["shapes"]) / "edits.csv")
    assert line == {
        "column": "density",
        "place": "up to 0.25",
        "before": "1.0",
        "after": "1.5",
        "reason": "a test of edits",
    }
    after = scores(parties, found["model"], "after.csv")
    tables = parties.tables["new"]
    density = dict(zip(tables["plate"], tables["density"], strict=True))
    moved = 0
    for plate, was in before.items():
        low = density[plate] != "" and float(density[plate]) <= 0.25
        odds = was / (1 - was) * (1.5 if low else 1.0)
        assert after[plate] == pytest.approx(odds / (1 + odds), rel=1e-9)
        moved += low
    assert 0 < moved < len(before)
    # The record says how good the version is on the rows held out, and reports are written of it.
    half = load_half(Store(parties.guest.store), found["model"], GuestHalf)
    assert (
        len(half.changes) == 1
        and half.metrics["federation"]["auc"] > 0.5
        and half.edited_from == found["edited_from"]
    )
    parties.guest.run("report", "--model", found["model"], "--out", "report").ok()
    explained = parties.guest.run(
        *("score", "--model", found["model"], "--data", "new.csv", "--out", "why.csv", "--explain"),
        *("--wait", "60"),
    )
    explained.ok()


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        ({"column": "dense"}, "did you mean 'density'?"),
        ({"column": "power"}, "each party edits its own"),
        ({"up_to": None, "level": "x"}, "the column is a number: give above, up_to or both"),
        ({"above": 3.0}, "an edit has above below up_to"),
        ({"add": 1.0}, "an edit has either times or add"),
        ({"times": None, "add": 1000.0}, "add is more than 13.8 either way, a factor of a million"),
    ],
)
def test_edits_that_do_not_fit(parties: Federation, edit: dict[str, Any], why: str) -> None:
    made = {key: value for key, value in {**EDITS, **edit}.items() if value is not None}
    (parties.guest.folder / "wrong.toml").write_text(toml({"[edit]": made}))
    kept = len(list((parties.guest.store / "models").glob("*.json")))
    done = parties.guest.run("shapes", "--model", "claims", "--edits", "wrong.toml", "--out", "wrong")
    assert done.failed(2, why)
    assert len(list((parties.guest.store / "models").glob("*.json"))) == kept
    assert not (parties.guest.folder / "wrong").exists()


def steps_of(file: Path, host: str, *, record: int, left: float, twice: bool = False) -> str:
    """A file of `vfl shapes --give` with a step that nobody gave."""
    step = {"record": record, "left": left, "right": 0.0, "mean": 0.0}
    told = json.loads(file.read_text()) | {"host": host, "steps": [step] * (1 + twice)}
    return json.dumps(told)


def test_who_cannot_have_shapes(parties: Federation) -> None:
    bureau = parties.parties["bureau"]
    assert parties.guest.run("shapes", "--model", "deep").failed(5, "train with depth = 1 or depth = 2")
    assert bureau.run("shapes", "--model", "claims").failed(2, "a host needs --values")
    assert parties.guest.run("shapes", "--model", "claims", "--give", "bureaus").failed(
        2, "did you mean bureau?"
    )
    parties.guest.run("shapes", "--model", "claims", "--give", "registry", "--out", "theirs.json").ok()
    file = parties.guest.folder / "theirs.json"
    for content, code, why in (
        (file.read_text().replace("claims-", "others-"), 5, "is of another model"),
        (file.read_text(), 5, "or of another host's half"),
        (steps_of(file, "bureau", record=0, left=1e300), 5, "has steps that no tree adds"),
        (steps_of(file, "bureau", record=0, left=1.0, twice=True), 5, "or of another host's half"),
        (steps_of(file, "bureau", record=-1, left=1.0), 5, "or of another host's half"),
        (json.dumps({"vfl": "shapes"}), 3, "is no file of `vfl shapes --give`"),
    ):
        (bureau.folder / "theirs.json").write_text(content)
        done = bureau.run("shapes", "--model", "claims", "--values", "theirs.json")
        assert done.failed(code, why)


def test_a_host_without_a_step_of_its_own_is_said_to_have_no_shapes(parties: Federation) -> None:
    boost = {**FLAT["secureboost"], "trees": 1}
    parties.guest.train({**JOB, "job": {**JOB["job"], "name": "bare"}, "secureboost": boost}).ok()
    asked = ("shapes", "--model", "bare", "--give")
    said = [parties.guest.run(*asked, name, "--out", f"{name}.json").ok().out for name in HOSTS]
    bare = [line for line in said if "0 steps of " in line and "so that it has no shapes" in line]
    given = [line for line in said if "send it to " in line]
    assert bare and len(bare) + len(given) == len(HOSTS)  # one split: at most one host has it
