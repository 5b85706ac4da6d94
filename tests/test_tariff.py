"""Rating tables of a linear model: edits and predictions, the workbook, the version that scores."""

import csv
import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federation import GLM_JOB, Federation, Party, private_words, write_table
from openpyxl import load_workbook

from vfl.errors import ConfigError, DataError, ModelError
from vfl.jobs.record import load_record
from vfl.jobs.tariff import read_factors
from vfl.learn.design import Design, Factor, Rules
from vfl.models.halves import BASE, Change, GuestHalf
from vfl.models.kinds import load_half
from vfl.models.tariff import (
    Points,
    TariffLine,
    edit_model,
    expected_of,
    move_base,
    moved,
    shift_to,
    tariff_lines,
)
from vfl.party.store import Store
from vfl.party.tariff_file import EditSection, PointsSection, RuleSection, load_tariff
from vfl.protocols.linear.scoring import GuestGlm, LinearPart
from vfl.report.rating_tables import RatingTables

SAFE = "'=HYPERLINK(1)"
"""How a spreadsheet shall find a level of this name without the apostrophe."""


def made(rows: int = 60) -> tuple[GuestGlm, dict[str, Any]]:
    """A half with a factor of three levels and a slope."""
    rng = np.random.default_rng(2)
    features: dict[str, Any] = {
        "area": rng.choice(np.array(["a", "b", SAFE[1:]], dtype=object), rows),
        "density": rng.normal(50, 10, rows),
    }
    features["area"][:40] = "a"  # the base level
    design = Design.fit(features, Rules(min_level_rows=1))
    values = {("area", "b"): math.log(1.2345), ("area", SAFE[1:]): math.log(9.0)}
    coefficients = tuple(values.get(place, 0.3) for place in design.coefficients)
    model = GuestGlm(("insurer", "bureau"), -2.0, LinearPart(design, coefficients), 3, True, 0.5, 0.1, 0)
    return model, features


def edit(column: str, level: str = "", **value: float) -> EditSection:
    return EditSection.model_validate({"column": column, "level": level, "reason": "market", **value})


def test_edits_come_first_then_caps_then_rounding() -> None:
    model, features = made()
    rules = RuleSection(decimals=2, least=0.5, most=4)
    edited = edit_model(model, rules, [edit("area", "b", times=1.1), edit("density", relativity=1.5)])
    factor = {"a": 1.0, "b": 1.36, SAFE[1:]: 4.0}  # 1.2345 x 1.1 = 1.35795
    (slope,) = edited.model.part.design.covariates
    expected = [
        math.log(factor[area]) + math.log(1.5) * (x - slope.mean) / slope.deviation
        for area, x in zip(features["area"], features["density"], strict=True)
    ]
    np.testing.assert_allclose(edited.model.part.scores(features, 60), expected, atol=1e-6)
    assert [(c.column, c.level, c.rule) for c in edited.changes] == [
        ("area", "b", "edit"),
        ("density", "", "edit"),
        ("area", SAFE[1:], "cap"),
        ("area", "b", "rounding"),
    ]
    assert edited.changes[0].reason == "market" and edited.changes[2].before == pytest.approx(9)
    assert edit_model(model, RuleSection(), []).changes == ()
    # An edit by hand is not capped.
    deliberate = edit_model(model, rules, [edit("area", SAFE[1:], relativity=6)])
    found = dict(zip(model.part.design.coefficients, deliberate.model.part.coefficients, strict=True))
    assert math.exp(found["area", SAFE[1:]]) == pytest.approx(6)


@pytest.mark.parametrize(
    ("one", "why"),
    [
        (edit("area", "a", times=2), "the level is the base level, whose relativity is 1"),
        (
            edit("area", "bb", times=2),
            "the model has no such level of it: did you mean 'b'? There are '=HYPERLINK(1)' and 'b'",
        ),
        (edit("aera", "b", times=2), "no column of this party in the model: did you mean 'area'?"),
        (edit("density", "b", times=2), "the column is a number with a slope"),
    ],
)
def test_edits_of_what_is_not_there(one: EditSection, why: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(why)):
        edit_model(made()[0], RuleSection(), [one])


def test_levels_that_there_are_are_named_some_of_them() -> None:
    model, _ = made()
    (area, *_) = model.part.design.factors
    assert isinstance(area, Factor)
    levels = (area.base, *(f"level {i}" for i in range(1, 1001)))
    many = replace(area, levels=levels, rows=(10,) * len(levels))
    design = replace(model.part.design, factors=(many,))
    model = replace(model, part=LinearPart(design, (0.1,) * len(design.coefficients)))
    with pytest.raises(ConfigError) as raised:
        edit_model(model, RuleSection(), [edit("area", "\x1b", times=2)])
    told = str(raised.value)
    assert "'level 1', 'level 2'" in told and "'level 20' and 980 more" in told
    assert "'level 21'" not in told and len(told) < 400


def test_factors_are_told_as_people_write_them() -> None:
    model, _ = made()
    base = move_base(replace(model, intercept=math.log(180.5)), 0.0, 2)
    assert [(c.before, c.after) for c in base.changes] == [(180.5, 180.0)]
    edited = edit_model(model, RuleSection(decimals=2), [edit("density", relativity=1.1)])
    assert [(c.column, c.after) for c in edited.changes if c.rule != "cap"] == [
        ("density", 1.1),
        ("area", 1.23),
    ]
    tables = tariff_lines(edited.model, edited.model, {}.get, None)
    assert {one.level: one.charged for one in tables["area"]}["b"] == 1.23


def test_premiums_are_compared_at_the_total_of_what_happened() -> None:
    rng = np.random.default_rng(4)
    premiums, weight = rng.uniform(100, 900, 200), rng.uniform(0.5, 2, 200)
    label = rng.poisson(0.2, 200).astype(float)
    expected = expected_of("log", premiums, weight, label)
    assert expected is not None
    np.testing.assert_allclose(expected, premiums * (weight @ label) / (weight @ premiums))
    odds = expected_of("logit", premiums / 1000, weight, np.minimum(label, 1))
    assert odds is not None and weight @ odds == pytest.approx(weight @ np.minimum(label, 1))
    assert expected_of("log", premiums, weight, np.zeros(200)) is None
    assert expected_of("logit", premiums / 1000, weight, np.ones(200)) is None


def test_the_base_rate_is_brought_to_a_total() -> None:
    rng = np.random.default_rng(0)
    predictions, weight = rng.uniform(0.02, 0.4, 500), rng.uniform(0.5, 2, 500)
    for link in ("log", "logit"):
        shift = np.full(500, shift_to(link, predictions, weight, 77.0))  # type: ignore[arg-type]
        assert weight @ moved(link, predictions, shift) == pytest.approx(77.0)  # type: ignore[arg-type]
    odds = predictions / (1 - predictions)
    again = moved("logit", predictions, np.log(np.full(500, 1.3)))
    np.testing.assert_allclose(again / (1 - again), 1.3 * odds)
    with pytest.raises(ModelError, match="out of reach"):
        shift_to("logit", predictions, weight, float(weight.sum()) + 1)
    model, _ = made()
    based = move_base(model, 0.1, 2)
    assert math.exp(based.model.intercept) == pytest.approx(float(f"{math.exp(-1.9):.1e}"))
    assert [c.column for c in based.changes] == [BASE]


def test_points_double_the_odds() -> None:
    """600 points at odds of 50 to 1, 20 more at 100 to 1 (Siddiqi, 2006)."""
    points = Points(PointsSection(decimals=6))
    assert points.base(-math.log(50)) == pytest.approx(600)
    assert points.base(-math.log(100)) == pytest.approx(620)
    assert points.of(-math.log(2)) == pytest.approx(20)
    assert Points(PointsSection()).of(0.1) == -3


def test_tables_of_a_half() -> None:
    model, _ = made()
    edited = edit_model(model, RuleSection(decimals=1), []).model
    tables = tariff_lines(model, edited, {"density": 5.0}.get, None)
    assert [(one.level, round(one.charged, 9)) for one in tables["area"]] == [
        ("=HYPERLINK(1)", 9.0),
        ("a", 1.0),
        ("b", 1.2),
    ]
    (slope,) = tables["density"]
    (covariate,) = model.part.design.covariates
    assert slope.charged == slope.fitted == pytest.approx(math.exp(0.3 * 5 / covariate.deviation))
    assert sum(one.rows for one in tables["area"]) == 60


def test_nothing_in_a_workbook_is_computed(tmp_path: Path) -> None:
    evil = ["=1+1", "+cmd|' /C calc'!A0", "@SUM(A1)", "-2+3", "\t=1", "\x07bell", "https://evil.example"]
    lines = [TariffLine("x", one, 1.0, 2.0, 3, None, 4.0) for one in evil]
    names = ["[a]*?/\\:", "=2+2", "x" * 60, "X" * 60, "Changes", "'quoted'", ""]
    tables = RatingTables(
        [("model", "=model")],
        dict.fromkeys(names, lines),
        {"=bureau": [("=c", "=l", 1.5, 2)]},
        ["=registry"],
        (Change("=x", "=y", 1.0, 2.0, "edit", "=1+1"),),
        True,
    )
    path = tmp_path / "tables.xlsx"
    path.write_bytes(tables.workbook())
    book = load_workbook(path)
    cells = [
        cell for sheet in book for row in sheet.iter_rows() for cell in row if cell.value is not None
    ]
    assert {cell.data_type for cell in cells} == {"s", "n"}
    texts = [cell.value for cell in cells if cell.data_type == "s"]
    assert not [text for text in texts if text[0] in "=+-@\t"]
    assert "'=1+1" in texts and all(cell.hyperlink is None for cell in cells)
    titles = [sheet.title for sheet in book]
    assert len({title.casefold() for title in titles}) == len(titles) == len(names) + 4
    assert all(0 < len(title) <= 31 for title in titles)


def of_line(text: str) -> str:
    return f'{{"model": "m", "relativities": [{{"column": "a", "level": "b", {text}}}]}}'


@pytest.mark.parametrize(
    "told",
    [
        "[]",
        "{",
        "[" * 100_000,
        '{"model": "m"}',
        of_line('"relativity": NaN, "rows": 1'),
        of_line('"relativity": 1e999, "rows": 1'),
        of_line(f'"relativity": 1{"0" * 400}, "rows": 1'),
        of_line('"relativity": true, "rows": 1'),
        of_line('"relativity": 1, "rows": -1'),
        of_line('"relativity": 1, "rows": 1, "level": 3'),
    ],
)
def test_factors_of_a_host_that_are_none(tmp_path: Path, told: str) -> None:
    model, _ = made()
    half = GuestHalf("m", {}, (), (), {}, model, {}, objective="poisson")
    path = tmp_path / "theirs.json"
    path.write_text(told)
    with pytest.raises(DataError, match="is not what `vfl relativities --json` writes at bureau"):
        read_factors(path, "bureau", half)
    path.write_text('{"model": "another", "relativities": []}')
    with pytest.raises(DataError, match="the factors of another model than m"):
        read_factors(path, "bureau", half)
    with pytest.raises(ConfigError, match="model m has no such host"):
        read_factors(path, "registry", half)
    with pytest.raises(DataError, match="cannot be read"):
        read_factors(tmp_path / "none.json", "bureau", half)


def test_coefficients_beyond_all_numbers_are_shown() -> None:
    model, _ = made()
    part = LinearPart(model.part.design, tuple(2000.0 for _ in model.part.coefficients))
    beyond = replace(model, part=part)
    edited = edit_model(beyond, RuleSection(most=3), [])
    assert [round(math.exp(c), 9) for c in edited.model.part.coefficients[:2]] == [3, 3]
    tables = tariff_lines(beyond, beyond, {}.get, None)
    assert all(math.isfinite(one.charged) for lines in tables.values() for one in lines)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[tariff]\nleast = 2", "least and most must have 1"),
        ('[base]\ntarget = "model"\ntotal = 3', "exclude each other"),
        (
            '[[edit]]\ncolumn = "a"\nreason = "r"',
            r"\[\[edit]] number 1: an edit has either relativity or",
        ),
        ('[[edit]]\ncolumn = "a"\ntimes = 2.0', r"\[\[edit]] number 1: reason is missing"),
        (
            '[[edit]]\ncolumn = "a"\ntimes = 2.0\nreason = "r"\n'
            '[[edit]]\ncolumn = "b"\ntimes = 0.0\nreason = "r"',
            r"\[\[edit]] number 2: times must be a number from 0.000001 to",
        ),
        (
            '[[edit]]\ncolumn = "a"\nreason = "r"\nrelativty = 2.0',
            r"unknown key 'relativty' in \[\[edit]] number 1: did you mean 'relativity'",
        ),
        ("[tarif]\ndecimals = 2", "did you mean 'tariff'"),
        ("[tariff]\ndecimals = 2.5", "decimals"),
        ("tariff", "is not valid TOML"),
    ],
)
def test_a_file_that_does_not_fit(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "edits.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=why) as raised:
        load_tariff(path)
    assert str(raised.value).startswith("edits.toml")


# --- With parties. --------------------------------------------------------------------------------


def scores(party: Party, model: str, out: Path) -> Mapping[str, float]:
    party.score(model, out=str(out)).ok()
    with out.open(newline="") as file:
        return {row["plate"]: float(row["probability"]) for row in csv.DictReader(file)}


def may_say(federation: Federation, party: Party) -> None:
    """A party's own levels are for its own people."""
    party.processes[-1].own += private_words(federation.tables)


def test_a_version_scores_and_the_old_one_stays(
    federation: Federation, insurer: Party, tmp_path: Path
) -> None:
    model = insurer.train({**GLM_JOB, "job": {**GLM_JOB["job"], "name": "priced"}}).ok().json["model"]
    store = Store(insurer.store)
    half = load_half(store, model, GuestHalf)
    assert isinstance(half.model, GuestGlm)
    (area,) = [one for one in half.model.part.design.factors if one.name == "area"]
    assert isinstance(area, Factor)
    level = area.others[0]
    before = (store.root / "models" / f"{model}.json").read_bytes()
    rows = len(federation.tables["insurer"]["plate"])
    write_table(insurer.table, {**federation.tables["insurer"], "premium": ["0.4"] * rows})
    insurer.settings["data"]["current_premium"] = "premium"
    insurer.write()
    edits = insurer.folder / "edits.toml"
    edits.write_text(
        f'[tariff]\ndecimals = 1\n[base]\ntarget = "present"\n[points]\n'
        f'[[edit]]\ncolumn = "area"\nlevel = "{level}"\nrelativity = 2.0\nreason = "=market"\n'
    )
    theirs = federation.parties["bureau"].run("relativities", "--model", "priced", "--json").ok()
    may_say(federation, federation.parties["bureau"])
    (insurer.folder / "bureau.json").write_text(json.dumps(theirs.json))
    out = tmp_path / "tariff.xlsx"
    done = insurer.run(
        *("tariff", "--model", "priced", "--edits", str(edits), "--out", str(out), "--json"),
        *("--factors", "bureau=bureau.json"),
    ).ok()
    may_say(federation, insurer)
    version = done.json["model"]
    assert done.json["edited_from"] == model != version
    assert done.json["rated_by_the_service"] == ["registry"]
    changes = done.json["changes"]
    assert changes[0]["rule"] == "edit" and changes[-1]["column"] == BASE
    assert (store.root / "models" / f"{model}.json").read_bytes() == before
    new = load_half(store, version, GuestHalf)
    assert new.edited_from == model and isinstance(new.model, GuestGlm)
    # The base rate is right: over the rows held out that have a premium.
    _, evaluation = load_record(store, version)
    assert evaluation is not None
    total = evaluation.weight.sum() * 0.4
    assert evaluation.predictions["federation"] @ evaluation.weight == pytest.approx(total)
    # Both score; what is between them is what was edited.
    old, now = (scores(insurer, name, tmp_path / f"{name}.csv") for name in (model, version))
    odds = {name: p / (1 - p) for name, p in old.items()}
    factors: dict[str, float] = {}
    for one in changes:
        if one["column"] == "area":
            factors[one["level"]] = factors.get(one["level"], 1.0) * one["after"] / one["before"]
    assert set(now) == set(old) and len(now) > 40
    table = federation.tables["new"]
    by_plate = dict(zip(table["plate"], table["area"], strict=True))
    base = done.json["base"] / math.exp(half.model.intercept)
    seen = 0
    for plate, p in now.items():
        area_of = by_plate[plate]
        if area_of in area.levels:
            expected = odds[plate] * base * factors.get(area_of, 1.0)
            assert p / (1 - p) == pytest.approx(expected, rel=1e-6)
            seen += 1
    assert seen > 20
    # The page of the version is of its own predictions, and says whence it comes.
    page = insurer.run("report", "--model", version, "--out", str(tmp_path / "page"), "--json").ok()
    may_say(federation, insurer)
    (balance,) = [r for r in page.json["tables"]["benchmark"] if r["measure"] == "off_balance"]
    assert balance["value"] == pytest.approx(1)
    # Premiums are no expected claims: they are compared at the total of these.
    ratio = float(evaluation.weight @ evaluation.label) / total
    assert done.json["loss_ratio"] == pytest.approx(ratio) != pytest.approx(1, abs=0.05)
    measures = {one["measure"] for one in page.json["tables"]["metrics"]}
    assert "log_loss" in measures and not measures & {"actual_expected", "calibration_intercept"}
    with (tmp_path / "page" / "factors.csv").open(newline="") as file:
        by_area = [one for one in csv.DictReader(file) if one["column"] == "area"]
    sums = [
        sum(float(one[key]) * float(one["exposure"]) for one in by_area)
        for key in ("actual", "expected")
    ]
    assert sums[0] == pytest.approx(sums[1])
    said = (tmp_path / "page" / "report.html").read_text()
    assert "This is a tariff of premiums" in said and f"loss ratio is {ratio * 100:.1f}" in said
    table = insurer.run("oneway", "--by", "insurer:area", "--model", version, "--json").ok()
    may_say(federation, insurer)
    *levels, total_line = table.json["table"]
    assert total_line["expected"] == pytest.approx(total_line["actual"])
    assert sum(one["expected"] for one in levels) == pytest.approx(total_line["expected"])
    again = insurer.run("report", "--model", model, "--out", str(tmp_path / "trained")).ok()
    may_say(federation, insurer)
    assert again.code == 0
    assert "tariff of premiums" not in (tmp_path / "trained" / "report.html").read_text()
    # The same file, said again, is the same tariff: of the job's model, or of its full name.
    for name in ("priced", model):
        same = insurer.run(
            *("tariff", "--model", name, "--edits", str(edits), "--out", str(out), "--json"),
            *("--factors", "bureau=bureau.json"),
        ).ok()
        may_say(federation, insurer)
        assert same.json == {**done.json, "new": False} and done.json["new"]
    assert f"<dt>edited from</dt><dd>{model}" in (tmp_path / "page" / "report.html").read_text()
    book = load_workbook(out)
    assert {"Tariff", "area", "density", "bureau factors", "Rated by the service", "Changes"} <= set(
        book.sheetnames
    )
    assert [cell.value for cell in book["Changes"][2]][1:3] == ["area", level]
    assert book["Changes"][2][6].value == "'=market"
    # A host writes its own, and edits nothing.
    bureau = federation.parties["bureau"]
    bureau.run("tariff", "--model", "priced", "--out", str(tmp_path / "bureau.xlsx")).ok()
    refused = bureau.run(
        "tariff", "--model", "priced", "--out", str(tmp_path / "b.xlsx"), "--edits", str(edits)
    )
    assert refused.code == 2 and "a host's half is not edited" in refused.err
    # Printed for people: what becomes of the base rate, and of a mistake the file that has it.
    told = insurer.run("tariff", "--model", model, "--edits", str(edits), "--out", str(out)).ok()
    may_say(federation, insurer)
    assert "the newest version is this tariff already" in told.out
    assert f"loss ratio over the rows held out: {ratio:.4f}" in told.out
    assert f"base rate {done.json['base']:.6g}, {math.exp(half.model.intercept):.6g} before" in told.out
    wrong = insurer.folder / "wrong.toml"
    wrong.write_text('[[edit]]\ncolumn = "area"\nlevel = "?"\ntimes = 2.0\nreason = "market"\n')
    refused = insurer.run("tariff", "--model", model, "--edits", str(wrong), "--out", str(out))
    may_say(federation, insurer)
    assert refused.code == 2 and "wrong.toml: edit of 'area': the model has no such" in refused.err
    trees = insurer.run("tariff", "--model", "claims", "--out", str(tmp_path / "trees.xlsx"))
    assert trees.code == 5 and "only linear models have rating tables" in trees.err
