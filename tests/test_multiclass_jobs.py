"""Jobs of a label of several classes, between processes: trained, scored, reported, refused."""

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from commands import command
from federation import JOB, WAIT, Federation, Table, ended, make_tables, toml

from vfl.models.halves import GuestHalf
from vfl.models.kinds import load_half
from vfl.party.store import Store

CLASSES = ("big", "none", "small")
SETTINGS = {"trees": 2, "depth": 2, "max_bins": 6, "min_child_rows": 10, "classes": 3}


def job(name: str, **settings: Any) -> dict[str, dict[str, Any]]:
    own = {**JOB["job"], "name": name, "objective": "multiclass"}
    return {"job": own, "secureboost": {**SETTINGS, **settings}}


def of_classes(tables: dict[str, Table]) -> dict[str, Table]:
    """The tables with a label of three classes, in text."""
    own = tables["insurer"]
    rng = np.random.default_rng(0)
    claims = [("small" if rng.random() < 0.4 else "big") if c == "1" else "none" for c in own["claim"]]
    return {**tables, "insurer": {**own, "claim": claims}}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[Federation]:
    folder = tmp_path_factory.mktemp("classes")
    federation = Federation(folder, keys, coordinator=True, tables=of_classes(make_tables(300)))
    for name in ("registry", "bureau"):
        federation.parties[name].settings["policy"] |= {"encryptions": ["paillier", "lattice"]}
    with ended(federation.serve()):
        federation.guest.align().ok()
        yield federation


def scored(made: Federation, out: str) -> list[dict[str, str]]:
    with (made.guest.folder / out).open(newline="") as file:
        return [*csv.DictReader(file)]


@pytest.mark.parametrize("encryption", ["paillier", "lattice"])
def test_a_model_of_several_classes(made: Federation, encryption: str) -> None:
    found = made.guest.train(job(f"three-{encryption}", encryption=encryption)).ok().json
    assert set(found["metrics"]["federation"]) == {"log_loss", "accuracy", "auc_ovr"}
    half = load_half(Store(made.guest.store), found["model"], GuestHalf)
    assert half.classes == CLASSES and len(half.model.trees) == 6
    made.guest.score(found["model"], out=f"{encryption}.csv").ok()
    rows = scored(made, f"{encryption}.csv")
    made.guest.score(found["model"], out=f"{encryption}.parquet").ok()
    typed = pq.read_table(made.guest.folder / f"{encryption}.parquet").to_pylist()
    for one, row in zip(typed, rows, strict=True):
        assert one == {key: float(v) if key.startswith("prob") else v for key, v in row.items()}
    heads = [f"probability_{name}" for name in CLASSES]
    assert list(rows[0]) == ["plate", "prediction", *heads, "unknown_to"]
    for row in rows:
        told = [float(row[head]) for head in heads]
        assert sum(told) == pytest.approx(1) and row["prediction"] == CLASSES[int(np.argmax(told))]


@pytest.mark.slow
def test_what_a_model_of_several_classes_says_of_itself(made: Federation) -> None:
    guest = made.guest
    model = guest.train(job("told")).ok().json["model"]
    score = ("--model", model, "--data", "new.csv", "--out", "why.csv", "--explain", *WAIT)
    guest.run("score", *score).failed(5, "a model of several classes cannot explain scores yet")
    table = ("--by", "registry:brand", "--model", model, *WAIT)
    guest.run("oneway", *table).failed(2, "predicts several classes", "leave --model out")
    (guest.folder / "job.toml").write_text(toml(job("worth")))
    guest.run("worth", "job.toml", *WAIT).failed(2, "it is not for multiclass")
    for simulate in ([], ["--simulate"]):
        asked = ("leakage", "job.toml", guest.file.name, "--rows", "300", "--json", *simulate)
        told = command(*asked, folder=guest.folder).ok().json
        sums = next(one for one in told["disclosures"] if one["name"] == "table_from_sums")
        assert "6 joint trees" in sums["how"]
        labels = [one for one in told["disclosures"] if one["name"] == "labels_from_nodes"]
        assert labels and all("the one that is told best" in one["what"] for one in labels)
    for _ in range(2):  # the second takes the place of the first
        guest.run("report", "--model", model, "--out", "page").ok()
    page = (guest.folder / "page" / "report.html").read_text()
    assert "Confusion matrix" in page and "Calibration of small" in page
    with (guest.folder / "page" / "confusion.csv").open(newline="") as file:
        head, *counts = csv.reader(file)
    assert head == ["class", *CLASSES] and [row[0] for row in counts] == [*CLASSES]
    held = sum(int(cell) for row in counts for cell in row[1:])
    with (guest.folder / "page" / "classes.csv").open(newline="") as file:
        lines = [row for row in csv.DictReader(file) if row["model"] == "federation"]
    assert held == sum(int(row["rows"]) for row in lines) > 0
    listed = command("models", guest.file.name, folder=guest.folder).ok().out
    assert any(model in line and "AUC, each class" in line for line in listed.splitlines())
    for name in ("registry", "bureau"):
        host = made.parties[name]
        host.run("report", "--model", model, "--out", "page").ok()
        assert (host.folder / "page" / "report.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize("encryption", ["paillier", "lattice"])
def test_sums_of_all_classes_may_be_hidden(made: Federation, encryption: str) -> None:
    plain = made.guest.train(job(f"open-{encryption}", encryption=encryption)).ok().json["model"]
    hidden = {"encryption": encryption, "sums": "hidden", "coordinator": "umpire"}
    found = made.guest.train(job(f"hidden-{encryption}", **hidden)).ok().json["model"]
    store = Store(made.guest.store)
    ours, theirs = (load_half(store, name, GuestHalf).model for name in (found, plain))
    assert ours.class_starts == theirs.class_starts
    for one, other in zip(ours.trees, theirs.trees, strict=True):
        assert one.leaves == other.leaves and one.covers == other.covers
    assert "6 trees; sent" in made.serving["umpire"].until("coordinated")[-1]


@pytest.mark.parametrize(
    ("claims", "classes", "line"),
    [
        (lambda own: ["none"] * len(own), 3, "label 'claim' has 1 class, where classes = 3"),
        (lambda own: [f"c{i % 21}" for i in range(len(own))], 20, "has 21 classes, where classes = 20"),
        (lambda own: ["", *own[1:]], 3, "label 'claim' is missing in 1 row"),
        (lambda own: own, 4, "label 'claim' has 3 classes, where classes = 4"),
        (lambda own: ["rare", *own[1:]], 4, "the label has no row of 1 of its 4 classes"),
    ],
)
def test_bad_labels_are_a_line(
    made: Federation, claims: Callable[[list[str]], list[str]], classes: int, line: str
) -> None:
    guest = made.guest
    before = guest.table.read_bytes()
    with guest.table.open(newline="") as file:
        head, *rows = csv.reader(file)
    place = head.index("claim")
    for row, claim in zip(rows, claims([row[place] for row in rows]), strict=True):
        row[place] = claim
    wanted = job("bad", classes=classes)
    if "has no row" in line:
        wanted["job"]["holdout"] = 0.9  # one row of a class, which does not train
        wanted["secureboost"]["seed"] = 3
    try:
        with guest.table.open("w", newline="") as file:
            csv.writer(file).writerows([head, *rows])
        guest.train(wanted).failed(3, line)
    finally:
        guest.table.write_bytes(before)


def test_doctor_knows_a_label_of_text(made: Federation) -> None:
    guest = made.guest
    (guest.folder / "job.toml").write_text(toml(job("told")))
    told = guest.run("doctor", "--job", "job.toml", "--json")
    assert told.code == 0 and "label of 3 classes" in told.out
    told = guest.run("doctor", "--json")
    assert told.code == 0 and "label 'claim' has 3 classes of text, as multiclass needs them" in told.out
