"""Jobs of parties that cut, group, bend and cross their columns: files, explanations, reports."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from federation import GLM_JOB, Federation
from room import HOSTS, Room

from vfl.errors import ConfigError
from vfl.jobs import resume
from vfl.jobs.report import gather, write_report
from vfl.models.halves import GuestHalf, HostHalf
from vfl.models.kinds import check_rules_of, load_half
from vfl.models.relativities import COLUMNS
from vfl.party.config import load_party
from vfl.party.store import Store

RULES = {
    "insurer": {"splines": {"density": 2}, "min_level_rows": 5},
    "registry": {
        "polynomials": {"power": 2},
        "base": {"power": "100"},
        "missing": "level",
        "min_level_rows": 5,
    },
    "bureau": {
        "bands": {"driver_age": [25, 40, 60]},
        "interactions": [["driver_age", "occupation"]],
        "min_level_rows": 5,
    },
}

Trained = tuple[Room, str]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[Trained]:
    patch = pytest.MonkeyPatch()
    room = Room(Federation(tmp_path_factory.mktemp("rules"), keys, guest_listens=True))
    room.patch(patch)
    patch.setattr(resume, "_PAUSE", 0.0)
    for name, rules in RULES.items():
        room.federation.parties[name].settings["glm"] = dict(rules)
    jobs = sorted({*room.federation.tables["bureau"]["occupation"]} - {""})
    room.federation.parties["bureau"].settings["glm"]["group"] = {"occupation": {"office": jobs[:2]}}
    for name in HOSTS:
        room.federation.parties[name].settings["policy"] |= {"explain": True, "show_names": True}
    room.align()
    job = {"job": GLM_JOB["job"], "glm": {"tolerance": 1e-4, "alpha": 0.01}}
    yield room, room.train(job)
    patch.undo()


def lines_of(room: Room, name: str, model: str) -> list[dict[str, str]]:
    text = (
        Store(room.federation.parties[name].store).path("model", model).with_suffix(".csv").read_text()
    )
    return list(csv.DictReader(text.splitlines()))


def test_each_owner_reads_its_columns_and_nobody_elses(trained: Trained) -> None:
    room, model = trained
    found = {name: lines_of(room, name, model) for name in RULES}
    assert all(tuple(lines[0]) == COLUMNS for lines in found.values())
    columns = {name: {line["column"] for line in lines} for name, lines in found.items()}
    assert columns["bureau"] == {"driver_age", "occupation", "driver_age × occupation"}
    assert columns["registry"] == {"power", "brand"}
    ages = [line["level"] for line in found["bureau"] if line["column"] == "driver_age"]
    assert ages == ["< 25", "25 to < 40", "40 to < 60", ">= 60", "(missing)"]
    powers = [line for line in found["registry"] if line["column"] == "power"]
    values = [float(line["level"]) for line in powers if line["level"] != "(missing)"]
    assert values == sorted(values) and len(values) > 10
    (base,) = [line for line in powers if line["level"] == "100"]
    assert float(base["relativity"]) == 1.0
    assert powers[-1]["level"] == "(missing)" and int(powers[-1]["rows"]) > 0


def test_explanations_add_up_to_the_scores(trained: Trained) -> None:
    room, model = trained
    room.score(model, out="explained.csv", explain=True)
    head, *rows = csv.reader((room.folder / "explained.csv").read_text().splitlines())
    assert "bureau:driver_age × occupation" in " ".join(head)
    assert len(rows) == room.rows


def test_reports_show_bands_in_order_and_curves(trained: Trained, tmp_path: Path) -> None:
    room, model = trained
    for name in ("insurer", "registry", "bureau"):
        party = load_party(room.federation.parties[name].file)
        evidence = gather(party, model)
        assert [line.column for line in evidence.lines] == [
            line["column"] for line in lines_of(room, name, model)
        ]
        written = write_report(party, model, tmp_path / name)
        text = written.page.read_text("utf-8") if hasattr(written, "page") else ""
        text = text or next((tmp_path / name).glob("*.html")).read_text("utf-8")
        if name == "bureau":
            table = text[text.index("Coefficients and relativities") :]
            places = [table.index(level) for level in ("25 to &lt; 40", "40 to &lt; 60")]
            assert places == sorted(places) and "driver_age × occupation" in text
        if name == "registry":
            assert "relativity of power" in text


def test_halves_are_read_again_and_name_no_column_of_others(trained: Trained) -> None:
    room, model = trained
    guest = load_half(Store(room.federation.parties["insurer"].store), model, GuestHalf)
    assert [curve.name for curve in guest.model.part.design.curves] == ["density"]
    bureau = load_half(Store(room.federation.parties["bureau"].store), model, HostHalf)
    design = bureau.model.part.design
    assert dict(design.factors[1].grouped).keys() and design.crossings[0].columns == (
        *("driver_age", "occupation"),
    )
    text = json.dumps(Store(room.federation.parties["insurer"].store).read("model", model))
    assert "driver_age" not in text and "office" not in text
    assert np.isfinite(bureau.model.part.coefficients).all()


@pytest.mark.parametrize(
    ("glm", "said"),
    [
        ({"bands": {"plate_no": [1]}}, "bands names a column that is no feature"),
        ({"bands": {"occupation": [1]}}, "bands names a column that .data. lists under categorical"),
        ({"splines": {"occupation": 2}}, "splines names a column that .data. lists under categorical"),
        (
            {"group": {"driver_age": {"a": ["1"]}}},
            "group names a column that .data. does not list under",
        ),
        (
            {"interactions": [["driver_age", "occupation"]]},
            "interactions names a column without levels, 'driver_age'",
        ),
        ({"credible": {"ocupation": 25}}, "lists it: did you mean 'occupation'"),
        ({"base": {"driver_age": "1"}}, "base names a column without levels, 'driver_age'"),
        (
            {"splines": {"driver_age": 2}, "step": {"driver_age": 1}},
            "splines makes a curve: it has none",
        ),
        (
            {"bands": {"driver_age": [1]}, "step": {"driver_age": 1}},
            "bands cuts into levels: they have n",
        ),
        ({"min_level_exposure": 3.0}, "min_level_exposure is the guest's"),
        ({"bands": {"driver_age": [2, 1]}}, "bands. driver_age must be a list of numbers, each above"),
        ({"bands": {"driver_age": "21"}}, "bands. driver_age must be a list of numbers, each above"),
        (
            {"polynomials": {"driver_age": 7}},
            "polynomials. driver_age must be a whole number from 2 to 5",
        ),
        ({"group": {"occupation": {"a": "b"}}}, "occupation. a must be a list"),
        ({"interactions": "age"}, "interactions must be a list"),
    ],
)
def test_party_files_that_cannot_be(trained: Trained, glm: dict[str, object], said: str) -> None:
    party = trained[0].federation.parties["bureau"]
    kept = party.settings["glm"]
    party.settings["glm"] = glm
    try:
        party.write()
        with pytest.raises(ConfigError, match=said) as raised:
            load_party(party.file)
    finally:
        party.settings["glm"] = kept
        party.write()
    assert "\n" not in str(raised.value)


def test_columns_that_the_table_does_not_have(trained: Trained) -> None:
    party = trained[0].federation.parties["bureau"]
    kept = party.settings["glm"]
    for glm, key in (
        ({"bands": {"driver_agee": [30]}}, "bands"),
        ({"splines": {"driver_agee": 3}}, "splines"),
        ({"polynomials": {"driver_agee": 3}}, "polynomials"),
    ):
        party.settings["glm"] = glm
        try:
            party.write()
            with pytest.raises(ConfigError, match=f"{key} has 'driver_agee', .* mean 'driver_age'"):
                check_rules_of(load_party(party.file), ["driver_age", "occupation"], "table.csv")
        finally:
            party.settings["glm"] = kept
            party.write()
