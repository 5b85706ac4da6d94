"""The report of a run: what the pages of all roles say, and that they hold and load nothing else."""

import base64
import csv
import hashlib
import io
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from federation import GLM_JOB, Federation, Party, write_table
from reports import NASTY, made_up

from vfl.cli import main
from vfl.errors import DataError
from vfl.jobs.names import resolve_model
from vfl.jobs.record import Record, load_record, save_record
from vfl.jobs.relativities import lines_of
from vfl.jobs.report import gather, write_report
from vfl.jobs.reveals import message_types, reveals
from vfl.leakage.disclosure import TERMS, Circumstances, merged
from vfl.leakage.meter import disclosures
from vfl.learn.explain import partial_dependence
from vfl.learn.holdout import ColumnShare
from vfl.learn.metrics import (
    actual_against_expected,
    double_lift,
    lift_table,
    lorenz,
    roc,
    totals,
)
from vfl.learn.params import BoostParams, GlmParams
from vfl.models.dependence import Dependence
from vfl.models.halves import GuestHalf, HostHalf
from vfl.models.kinds import load_half
from vfl.models.relativities import Line
from vfl.party.config import load_party
from vfl.party.spreadsheet import unescaped
from vfl.party.store import Store
from vfl.party.table import read_table
from vfl.protocols.trees.paillier import TreeStart
from vfl.report.evidence import Evidence, Exchange
from vfl.report.page import PAGE, SHEETS, render
from vfl.report.words import DISCLAIMERS, job_file, shares
from vfl.text import counted

pytestmark = pytest.mark.usefixtures("few_draws")

VOID = {"meta", "link", "br", "img", "input", "hr"}


@dataclass
class Element:
    name: str
    attributes: dict[str, str]
    text: str = ""
    within: list[str] = field(default_factory=list)


class Page(HTMLParser):
    """A page's elements, in order; a tag that is not closed in its place is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self._open: list[Element] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        one = Element(tag, {k: v or "" for k, v in attrs}, within=[e.name for e in self._open])
        self.elements.append(one)
        if tag not in VOID:
            self._open.append(one)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop().name == tag

    def handle_data(self, data: str) -> None:
        for one in self._open:
            one.text += data

    def all(self, name: str) -> list[Element]:
        return [one for one in self.elements if one.name == name]

    @property
    def titles(self) -> list[str]:
        return [one.text for one in self.all("h2")]

    @property
    def text(self) -> str:
        (body,) = self.all("body")
        return " ".join(body.text.split())


def checked(text: str) -> Page:
    """The page, which loads nothing, runs nothing but its own script, and can be read aloud."""
    page = Page(text)
    style, script = page.all("style"), page.all("script")
    assert len(style) == len(script) == 1
    (policy,) = [
        one.attributes["content"]
        for one in page.all("meta")
        if one.attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    hashes = [
        base64.b64encode(hashlib.sha256(one.text.encode()).digest()).decode()
        for one in (*style, *script)
    ]
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'; "
        "base-uri 'none'; form-action 'none'"
    )
    assert "//" not in style[0].text.replace("/*", "") and "@import" not in style[0].text
    ids = Counter(one.attributes["id"] for one in page.elements if "id" in one.attributes)
    assert set(ids.values()) == {1}
    referred = re.findall(r"""(?:href=["']|url\()#([^"')]+)""", text)
    assert set(referred) <= set(ids)
    for one in page.elements:
        assert not {"style", "src", "srcset", "action"} & set(one.attributes), one
        assert not any(name.startswith("on") for name in one.attributes), one
        href = one.attributes.get("href", "#")
        assert href.startswith("#") or href.removesuffix(".csv") in SHEETS, one
        if one.name == "svg":
            assert one.attributes["role"] == "img" and len(one.attributes["aria-label"]) > 20
        if one.name == "th":
            assert one.attributes["scope"] in ("col", "row", "rowgroup")
    assert len(page.all("table")) == len(page.all("caption"))
    assert len(page.all("figure")) == len(page.all("svg")) == len(page.all("figcaption"))
    return page


def rows_of(content: bytes | str) -> list[dict[str, str]]:
    text = content if isinstance(content, str) else content.decode()
    return list(csv.DictReader(io.StringIO(text)))


def numbers(rows: list[dict[str, str]], *names: str) -> np.ndarray:
    return np.array([[float(row[name]) for name in names] for row in rows])


def same(rows: list[dict[str, str]], names: tuple[str, ...], expected: Any) -> None:
    """CSV holds all digits."""
    np.testing.assert_array_equal(numbers(rows, *names), np.array(expected, np.float64))


def report(party: Party, model: str, out: Path, note: str = "") -> tuple[Page, dict[str, str]]:
    """The checked page and the files of `vfl report`, which says this first."""
    party.write()
    done = CliRunner().invoke(main, ["report", str(party.file), "--model", model, "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert done.output == f"{note}report in {out / PAGE}\n"
    files = {path.name: path.read_text() for path in out.iterdir()}
    page = checked(files[PAGE])
    named = {e.attributes["href"] for e in page.all("a") if e.attributes["href"].endswith(".csv")}
    assert named == set(files) - {PAGE}
    return page, files


def ids_in(files: Mapping[str, str], federation: Federation) -> list[str]:
    found = []
    for name, column in (("insurer", "plate"), ("registry", "registration"), ("bureau", "plate_no")):
        cells = federation.tables[name][column]
        found += [cell for cell in cells if any(cell in text for text in files.values())]
    return found


NO_FIGURES: dict[str, Any] = {"held_out": None, "metrics": {}, "factors": {}, "dependence": {}}
"""Of a page on which no figure matters: they are most of the time that it takes."""


def few_figures() -> Evidence:
    """A run of which one column is shown."""
    made = made_up(columns=1, dependence={})
    return replace(made, factors={"number 0": made.factors["number 0"]})


def tree(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


# --- What the pages say. --------------------------------------------------------------------------


def check_disclosures(record: Record, files: Mapping[str, str], page: Page) -> None:
    """What the guest's page says a run of trees gave away: as before the job, but by the splits that
    hosts won."""
    gave = {row["name"]: row for row in rows_of(files["gave_away.csv"])}
    share = record.rows["train"] / record.aligned_rows
    of = Circumstances("insurer", ["registry", "bureau"], record.aligned_rows, training=share)
    params = BoostParams.model_validate(record.job["secureboost"])
    before = {one.name: one for one in disclosures(of, params, True)}
    assert set(gave) == set(before)
    for name in ("table_from_sums", "labels_from_nodes", "cheating_guest"):
        assert float(gave[name]["success"]) == before[name].success
        assert unescaped(gave[name]["what"]) == before[name].what
    assert "that it won" in gave["table_from_model"]["how"]
    assert f"insurer about registry: {before['scored_rows'].what}" in page.text


def test_the_guests_page_of_trees(federation: Federation, insurer: Party) -> None:
    marks = {name: host.mark() for name, host in federation.serving.items()}
    insurer.write()
    before = tree(insurer.folder.parent)
    done = insurer.run("report", "--model", "claims", "--json").ok().json
    page_file = Path(done["report"])
    store = Store(insurer.store)
    half = load_half(store, store.names("model")[-1], GuestHalf)
    assert page_file == insurer.folder / f"report-{half.name}" / PAGE
    made = tree(insurer.folder.parent) - before
    assert {path.name for path in made if path.parent == page_file.parent} == set(done["files"])
    digests = {path for path in made if insurer.store / "outputs" in (path, path.parent)}
    others = {path for path in made if path.parent != page_file.parent} - digests
    assert others == {page_file.parent} and len(digests) == 2
    assert page_file.parent.stat().st_mode & 0o777 == 0o700
    # Nobody was asked, and no id is told.
    assert all(host.mark() == marks[name] for name, host in federation.serving.items())
    files = {path.name: path.read_text() for path in page_file.parent.iterdir()}
    assert ids_in(files, federation) == []

    page = checked(files[PAGE])
    assert page.titles == [
        *("Summary", "Quality", "By factor", "What drives it", "Training"),
        *("What this run gave away", "What left and what came"),
    ]
    record, evaluation = load_record(store, half.name)
    check_disclosures(record, files, page)
    assert evaluation is not None
    for row in rows_of(files["metrics.csv"]):
        for model in ("federation", "insurer alone"):
            assert float(row[model]) == pytest.approx(record.metrics[model][row["measure"]], nan_ok=True)
    of = {
        name: totals(evaluation.label, p, evaluation.weight)
        for name, p in evaluation.predictions.items()
    }
    for name, rows in of.items():
        part = [row for row in rows_of(files["lift.csv"]) if row["model"] == name]
        names = ("rows", "exposure", "actual", "expected", "lift")
        same(part, names, [[getattr(one, n) for n in names] for one in lift_table(*rows)])
        part = [row for row in rows_of(files["lorenz.csv"]) if row["model"] == name]
        same(part, ("share_of_exposure", "share_of_actual"), np.transpose(lorenz(*rows)))
        part = [row for row in rows_of(files["roc.csv"]) if row["model"] == name]
        curve = roc(evaluation.label, evaluation.predictions[name], evaluation.weight)
        same(part, ("false_positive_rate", "true_positive_rate"), np.transpose(curve))
    ours, theirs = of["federation"], of["insurer alone"]
    groups = double_lift(ours.actual, ours.expected, theirs.expected, ours.exposure)
    same(
        rows_of(files["double_lift.csv"]),
        ("actual", "federation", "insurer alone"),
        [(g.actual, g.ours, g.theirs) for g in groups],
    )
    top = lift_table(*ours)[-1].lift
    assert f"{top:.1f} times the average rate of claim" in page.text
    table = read_table(
        load_party(insurer.file).data, role="guest", need_label=False, expect=half.columns
    )
    factors = rows_of(files["factors.csv"])
    assert {row["column"] for row in factors} == {"density", "area"}
    for column, values in table.features.items():
        levels = actual_against_expected(values[evaluation.rows], *ours)
        part = [row for row in factors if row["column"] == column]
        if values.dtype == object:  # in their own order, not by size
            known = sorted(v.label for v in levels if v.label[0] != "(")
            places = [*known, *(v.label for v in levels if v.label[0] == "(")]
            levels = sorted(levels, key=lambda v: places.index(v.label))
        assert [unescaped(row["level"]) for row in part] == [level.label for level in levels]
        same(part, ("actual", "expected"), [(v.actual, v.expected) for v in levels])

    importance = rows_of(files["importance.csv"])
    assert [(r["party"], r["column"], int(r["splits"])) for r in importance] == [
        one[:3] for one in half.model.importance()
    ]
    dependence = rows_of(files.get("partial_dependence.csv", "column"))
    assert {r["column"] for r in dependence} == {split.column for split in half.model.splits}
    for column in table.features:
        part = [row for row in dependence if row["column"] == column]
        if part and column == "area":
            grid = np.array([row["value"] or None for row in part], dtype=object)
            assert {"(other)", *(s.category for s in half.model.splits if s.column == column)} >= set(
                grid
            )
        elif part:
            grid = np.array([float(row["value"]) for row in part])
        if part:
            same(part, ("score",), partial_dependence(half.model, column, grid)[:, None])
    messages = rows_of(files["messages.csv"])
    for peer, total in record.account.sent.items():
        sent = [m for m in messages if (m["peer"], m["direction"]) == (peer, "sent")]
        assert sum(int(m["bytes"]) for m in sent) == total
    said = " ".join((TreeStart.__doc__ or "").split()).partition("Reveals: ")[2].removesuffix(".")
    assert {m["reveals"] for m in messages if m["message"] == "TreeStart"} == {said}
    assert said in page.text
    assert 'purpose = "a test"' in page.text and "min_child_rows = 10" in page.text


def test_a_hosts_page_of_trees(federation: Federation, tmp_path: Path) -> None:
    for name in ("registry", "bureau"):
        party = federation.parties[name]
        store = Store(party.store)
        model = resolve_model(store, "claims")  # other tests of this federation train it, too
        page, files = report(party, "claims", tmp_path / name)
        assert page.titles == [
            *("What was asked", "Which columns were used", "What this run gave away"),
            *("What left and what came", "Cost"),
        ]
        assert f"{name}, was asked by insurer to train claims with it, for a test" in page.text
        half: Any = load_half(store, model, HostHalf)
        splits = Counter(split.column for split in half.model.splits)
        assert {r["column"]: int(r["splits"]) for r in rows_of(files["splits.csv"])} == splits
        assert ids_in(files, federation) == []
        # Neither a threshold nor the guest's figures.
        for split in half.model.splits:
            known = split.category if split.categorical else repr(split.threshold)
            assert not any(str(known) in text for text in files.values() if known)
        assert set(files) == {PAGE, "splits.csv", "gave_away.csv", "messages.csv"}
        gave = rows_of(files["gave_away.csv"])
        mine = [r for r in gave if (r["name"], r["about"]) == ("table_from_model", name)]
        assert f"the {counted(splits.total(), 'split')} that it won" in mine[0]["how"]
        # Its own table is counted, and its headline is about itself.
        assert "candidates" in mine[0]["how"] and "taken for" not in mine[0]["how"]
        assert f"insurer could know of {name} in which bin" in page.text
        other = {"registry": "bureau", "bureau": "registry"}[name]
        assert f"insurer could know of {other}" not in page.text
        ways = {(m["direction"], m["message"]) for m in rows_of(files["messages.csv"])}
        assert ("sent", "CandidateSums") in ways and ("received", "TreeStart") in ways


def test_linear_models_show_relativities(federation: Federation, insurer: Party, tmp_path: Path) -> None:
    table = federation.tables["insurer"]
    years = [f"{0.25 + (i % 7) / 8}" for i in range(len(table["plate"]))]
    write_table(insurer.table, {**table, "years": years})
    insurer.settings["data"]["exposure"] = "years"
    job = {**GLM_JOB, "job": {**GLM_JOB["job"], "name": "reported", "family": "poisson"}}
    model = insurer.train(job).ok().json["model"]
    store = Store(insurer.store)
    of: dict[str, tuple[Page, dict[str, str]]] = {}
    for party, name in ((insurer, model), (federation.parties["bureau"], "reported")):
        page, files = of[party.name] = report(party, name, tmp_path / f"of {party.name}")
        half: Any = load_half(Store(party.store), model, GuestHalf if party is insurer else HostHalf)
        lines = lines_of(half)
        shown = rows_of(files["relativities.csv"])
        assert [(r["column"], r["level"]) for r in shown] == [(one.column, one.level) for one in lines]
        assert [float(r["coefficient"]) for r in shown] == [one.coefficient for one in lines]
        assert "importance.csv" not in files and "splits.csv" not in files
        assert ids_in(files, federation) == []
    page, files = of["insurer"]
    assert "roc.csv" not in files and "The fit converged after" in page.text
    assert "times the average frequency of claim" in page.text
    _, evaluation = load_record(store, model)
    assert evaluation is not None and evaluation.exposure is not None
    rows = totals(
        evaluation.label,
        evaluation.predictions["federation"],
        evaluation.weight,
        evaluation.exposure,
    )
    part = [row for row in rows_of(files["lift.csv"]) if row["model"] == "federation"]
    same(part, ("actual", "expected"), [(g.actual, g.expected) for g in lift_table(*rows)])
    curve = rows_of(files["training.csv"])
    assert list(curve[0]) == ["iteration", "gradient", "train"] and len(curve) > 2


def test_a_coordinators_page(federation: Federation, insurer: Party, tmp_path: Path) -> None:
    record, _ = load_record(Store(insurer.store), Store(insurer.store).latest("run"))
    job = {"job": {**record.job["job"], "model": "glm", "family": "poisson"}, "glm": {}}
    job["glm"] = {"coordinator": "umpire", "scores": "hidden"}
    settings = {
        "party": {"name": "umpire", "role": "coordinator", "identity": "keys/umpire"},
        "peers": {name: {"certificate": f"peers/{name}.pem"} for name in ("insurer", "registry")},
    }
    settings["party"]["listen"] = "127.0.0.1:7444"
    umpire = Party("umpire", insurer.folder, settings)
    store = Store(tmp_path / "umpire-store")
    settings["party"]["store"] = str(store.root)
    name = "hidden-20261123-020838-846a7d"
    parties = ["insurer", "registry", "bureau"]
    save_record(
        store,
        Record(name, "umpire", "coordinator", parties, job, "", 0, record.ended, record.account),
    )
    page, files = report(umpire, "hidden", tmp_path / "out")
    assert page.titles == [
        *("What was asked", "What this run gave away", "What left and what came", "Cost")
    ]
    gave = rows_of(files["gave_away.csv"])
    assert [row["who"] for row in gave] == ["umpire", "umpire with another party"]
    assert "hold the key while insurer, registry and bureau fit claims" in page.text
    assert set(files) == {PAGE, "gave_away.csv", "messages.csv"}


# --- What cannot be shown. ------------------------------------------------------------------------


def test_a_changed_table_is_left_out_and_the_page_says_why(
    federation: Federation, insurer: Party, tmp_path: Path
) -> None:
    insurer.write()
    table = federation.tables["insurer"]
    changes: dict[str, tuple[Callable[[], Any], str]] = {
        "order": (
            lambda: write_table(insurer.table, {k: v[::-1] for k, v in table.items()}),
            "since table.csv has other ids (or another order) than when the model was trained.",
        ),
        "column": (
            lambda: write_table(insurer.table, {k: v for k, v in table.items() if k != "area"}),
            "table.csv: no column 'area', which the model was trained on",
        ),
        "file": (lambda: insurer.table.unlink(), "no file table.csv"),
    }
    party = load_party(insurer.file)
    for change, why in changes.values():
        change()
        evidence = gather(party, "claims")
        assert why in evidence.no_factors and str(insurer.folder) not in evidence.no_factors
        assert not evidence.factors and evidence.held_out is not None
        assert set(evidence.dependence) <= {"density", "area"}  # of the model alone
    insurer.settings["data"]["categorical"] = ["area", "density"]
    write_table(insurer.table, table)
    insurer.write()
    assert gather(load_party(insurer.file), "claims").factors["density"].dtype == object
    insurer.table.unlink()
    page, files = report(insurer, "claims", tmp_path / "out", f"note: {evidence.no_factors}\n")
    assert "Against the present tariff" not in page.text
    assert evidence.no_factors in page.text and not page.all("select")
    assert "factors.csv" not in files and "lift.csv" in files


def test_no_rows_held_out() -> None:
    text = render(made_up(**NO_FIGURES))[PAGE].decode()
    page = checked(text)
    assert "No rows were held out (holdout is 0 in the job file): the quality is not known." in page.text
    assert "times the average" not in page.text and not page.all("select")


def test_by_which_columns_rows_were_held_out() -> None:
    week = ColumnShare(
        "week",
        {"train": 40, "validation": 1, "held out": 12},
        {"train": ["1", "40"], "validation": ["40"], "held out": ["41", "52"]},
    )
    home = ColumnShare("home", {"train": 9, "held out": 2}, {"held out": ["north", NASTY]})
    rows = {"train": 60, "validation": 5, "held out": 20, "left out": 7}
    one = replace(made_up(), rows=rows, split={"time": week, "group": home})
    page = checked(render(one)[PAGE].decode())
    assert (
        "By time: rows whose week is 41 to 52 are held out; 40 decide when to stop; 1 to 40 train."
        in page.text
    )
    assert "the held-out rows are those of 2 of the values of home (north and " in page.text
    assert "and none of these is among the 9 that train. 7 rows of held-out groups" in page.text
    assert "By time" not in checked(render(made_up())[PAGE].decode()).text


@pytest.mark.parametrize("role", ["guest", "host", "coordinator"])
def test_what_training_warned_of_stands_at_the_top(role: str) -> None:
    """As text, each warning for itself; a run without any has no such box."""
    told = [f"the model does worse than {NASTY} alone", "\u202eraise trees, 3 of 4 have no split"]
    text = render(made_up(role=role, warnings=told, **NO_FIGURES))[PAGE].decode()
    assert NASTY not in text and "\u202e" not in text
    page = checked(text)
    (box,) = page.all("aside")
    assert [one.text for one in page.all("li")] == [
        f"The model does worse than {NASTY} alone",
        "\\u202eraise trees, 3 of 4 have no split",
    ]
    assert box.text.startswith("What training warned of")
    first, *others = page.titles
    assert page.text.index(first) < page.text.index("What training warned of")
    assert page.text.index("What training warned of") < page.text.rindex(others[0])
    assert checked(render(made_up(role=role, **NO_FIGURES))[PAGE].decode()).all("aside") == []


def test_no_sentence_of_ours_is_cut_off() -> None:
    of = Circumstances("insurer", ["registry", "bureau"], 6576, given=0.0365)
    jobs: list[BoostParams | GlmParams] = [
        BoostParams(),
        BoostParams(encryption="lattice", goss_top=0.1, goss_other=0.1),
        BoostParams(sums="hidden", coordinator="umpire"),
        GlmParams(),
        GlmParams(scores="hidden", coordinator="umpire"),
    ]
    found = [one for params in jobs for one in merged(disclosures(of, params, False))]
    asked = [Exchange("insurer", "sent", name, 1, 1, reveals(k)) for name, k in message_types().items()]
    page = checked(render(made_up(role="host", gave_away=found, exchanges=asked))[PAGE].decode())
    for text in (
        *DISCLAIMERS,
        *TERMS.values(),
        *(one.what for one in found),
        *(one.how for one in found),
    ):
        assert text in page.text
    assert all(one.reveals in page.text for one in asked)
    assert page.text.index(TERMS["of what guessing misses"]) < page.text.index(found[0].what)


def test_a_reports_warnings_are_those_of_the_record(federation: Federation) -> None:
    for name in ("insurer", "registry"):
        federation.parties[name].write()
        party = load_party(federation.parties[name].file)
        store = Store(party.party.store)
        record, evaluation = load_record(store, resolve_model(store, "claims", "run"))
        save_record(store, replace(record, warnings=["many trees have no split"]), evaluation)
        try:
            assert gather(party, "claims").warnings == ["many trees have no split"]
        finally:
            save_record(store, record, evaluation)
        assert gather(party, "claims").warnings == record.warnings


def test_a_guest_without_columns() -> None:
    nothing = made_up().held_out
    assert nothing is not None
    alone = {**nothing.predictions, "insurer alone": np.full(len(nothing.label), 0.2)}
    evidence = made_up(
        held_out=type(nothing)(nothing.label, nothing.weight, None, alone), factors={}, dependence={}
    )
    page = checked(render(evidence)[PAGE].decode())
    assert "insurer has no columns of its own in this model." in page.text
    # Its one group is no tenth.
    assert "by the columns of insurer alone, the top 100 % had 1.0 times (1.0 to 1.0)." in page.text


@pytest.mark.slow
def test_foreign_text_is_text_and_twenty_factors_stay_below_two_megabytes() -> None:
    evidence = made_up(label=NASTY, columns=10, levels=30)
    files = render(evidence)
    text = files[PAGE].decode()
    assert len(text.encode()) < 2_000_000
    assert NASTY not in text and "<script>alert" not in text
    page = checked(text)
    assert len(page.all("script")) == 1 and len(page.all("option")) == 21
    assert NASTY in page.text
    labels = [one.text for one in page.all("text")]
    assert "$x_1$ ]]>" in labels and "A & B" in labels  # no mathematics
    assert "\\x00\\u202eodd" in labels  # and no control characters
    assert not any("\x00" in one or "\u202e" in one for one in labels)
    assert {row["column"] for row in rows_of(files["factors.csv"])} == set(evidence.factors)


def test_names_that_are_endless_invisible_or_formulas() -> None:
    evil = "=cmd|'/C calc'!A0\x1b[2J\u202e[bold]{{ 1 }}</text>"
    long = "x" * 100_000
    made = made_up(columns=1)
    (numbers,) = [values for values in made.factors.values() if values.dtype != object]
    levels = np.array([evil, long, "10", "9", None], dtype=object)[np.arange(len(numbers)) % 5]
    evidence = made_up(
        factors={evil: levels, long: numbers},
        dependence={evil: Dependence(np.array([evil, long], dtype=object), np.array([-1.0, 0.5]))},
        importance=[("registry", evil, 5, 20.0), ("insurer", long, 3, 10.0)],
    )
    files = render(evidence)
    text = files[PAGE].decode()
    page = checked(text)
    assert len(text) < 500_000 and "\x1b" not in text and "\u202e" not in text and evil not in text
    assert "\\x1b[2J\\u202e[bold]{{ 1 }}</text>" in page.text
    for row in rows_of(files["importance.csv"]):
        assert row["column"] in (long, "'=cmd|'/C calc'!A0\\x1b[2J\\u202e[bold]{{ 1 }}</text>")
    by_level = [r["level"] for r in rows_of(files["factors.csv"]) if r["column"] != long]
    assert by_level == ["9", "10", evil_cell(evil), long, "(missing)"]


def evil_cell(text: str) -> str:
    return "'" + text.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")


def test_a_job_is_shown_as_a_file_that_can_be_read_again() -> None:
    columns = {"age of car": {"type": "number", "monotone": None}, "fuel": {"levels": ['a "b"', "c"]}}
    job = {
        "job": {"name": "a", "group": None, "holdout": 0.2},
        "columns": columns,
        "rows": {"without": True},
    }
    assert tomllib.loads(job_file(job)) == {
        "job": {"name": "a", "holdout": 0.2},
        "columns": {"age of car": {"type": "number"}, "fuel": columns["fuel"]},
        "rows": {"without": True},
    }


def test_shares_add_up() -> None:
    assert shares([1, 1, 1]) == ["34\u00a0%", "33\u00a0%", "33\u00a0%"]
    assert shares([0.496, 0.496, 0.008]) == ["50\u00a0%", "49\u00a0%", "1\u00a0%"]
    assert shares([2, 0]) == ["100\u00a0%", "0\u00a0%"] and shares([0, 0]) == ["0\u00a0%"] * 2
    rng = np.random.default_rng(3)
    for _ in range(200):
        parts = (rng.random(rng.integers(1, 70)) ** 8).tolist()
        for decimals in (0, 1):
            found = [float(one.removesuffix("\u00a0%")) for one in shares(parts, decimals)]
            assert sum(found) == pytest.approx(100)
            exact = 100 * np.array(parts) / sum(parts)
            assert (np.abs(np.array(found) - exact) < 10**-decimals).all()
    importance = [("insurer", "a", 1, 1.0), ("registry", "b", 1, 1.0), ("bureau", "c", 1, 1.0)]
    parties = ["insurer", "registry", "bureau"]
    evidence = made_up(importance=importance, parties=parties, factors={}, dependence={})
    page = checked(render(evidence)[PAGE].decode())
    tiles = [one.text for one in page.all("strong")]
    assert [tile for tile in tiles if tile.endswith("%")] == ["34\u00a0%", "33\u00a0%", "33\u00a0%"]


@pytest.mark.parametrize(
    ("objective", "years", "weights", "size"),
    [
        ("binary", False, False, "policies"),
        ("poisson", False, False, "policies"),
        ("poisson", True, False, "exposure"),
        ("binary", False, True, "weight"),
        ("gamma", False, False, "rows"),
    ],
)
def test_what_groups_are_measured_in(objective: str, years: bool, weights: bool, size: str) -> None:
    made = few_figures()
    held = made.held_out
    assert held is not None
    some = np.linspace(0.5, 1.5, len(held.label))
    changed = type(held)(
        held.label, some if weights else held.weight, some if years else None, held.predictions
    )
    job = {**made.job, "job": {**made.job["job"], "objective": objective}}
    metrics = made.metrics if objective == "binary" else {name: {"d2": 0.1} for name in made.metrics}
    evidence = replace(made, held_out=changed, job=job, metrics=metrics)
    page = checked(render(evidence)[PAGE].decode())
    labels = " ".join(one.text for one in page.all("text"))
    assert f"share of {size}, lowest expected first" in labels
    assert f"share of {size}, by ratio of both" in labels
    assert f"The tenth of {size} that the federation's model rates highest" in page.text
    for other in {"policies", "exposure", "weight", "rows"} - {size}:
        assert f"share of {other}" not in labels and f"tenth of {other}" not in page.text


def test_a_numeric_columns_relativity_is_that_of_a_step() -> None:
    lines = [
        Line("sum_insured", "", -0.05, -1e-6, 0.999999, 900, 50_000.0, -0.05, 0.951229),
        Line("kw", "", 0.1, 0.1, 1.105171, 900, 0.29, 0.1, 1.105171, is_deviation=True),
        *(Line("doors", level, 0.1, None, 1.1, 9) for level in ("2", "10")),
    ]
    job = {"job": {**made_up().job["job"], "model": "glm", "family": "poisson"}, "glm": {}}
    files = render(made_up(role="host", party="registry", job=job, lines=lines))
    page = checked(files[PAGE].decode())
    cells = [one.text for one in page.all("td")]
    assert cells[:8] == [
        *("per 50,000", "−0.0500", "0.9512", "900"),
        *("per 0.2900 (SD)", "0.1000", "1.1052", "900"),
    ]
    assert [one.text for one in page.all("th")][:5] == [
        *("column", "level or step", "coefficient", "relativity", "rows")
    ]
    (line, *_) = rows_of(files["relativities.csv"])
    assert line["relativity"] == "0.999999" and line["relativity_per_step"] == "0.951229"
    straight = [replace(line, relativity=None, relativity_per_step=None) for line in lines]
    job["job"]["family"] = "gaussian"
    page = checked(
        render(made_up(role="host", party="registry", job=job, lines=straight))[PAGE].decode()
    )
    assert [one.text for one in page.all("td")][:4] == ["per 50,000", "−0.0500", "−0.0500", "900"]


def test_a_factor_of_many_levels() -> None:
    lines = [Line("town", f"town {i}", i / 1000, None, 1 + i / 1000, 10 + i) for i in range(500)]
    job = {"job": {**made_up().job["job"], "model": "glm", "family": "poisson"}, "glm": {}}
    evidence = made_up(role="host", party="registry", job=job, lines=lines)
    files = render(evidence)
    page = checked(files[PAGE].decode())
    assert len(rows_of(files["relativities.csv"])) == 500
    assert "Coefficients and relativities (the first 200 of 500)" in page.text
    assert sum(one.text.startswith("town ") for one in page.all("text")) == 30
    assert "goes from 1.47 at town 470 to 1.50 at town 499" in page.text


@pytest.mark.parametrize("objective", ["gamma", "tweedie", "squared"])
def test_amounts(objective: str) -> None:
    evidence = few_figures()
    held = evidence.held_out
    assert held is not None
    scale = -1 if objective == "squared" else 1
    amounts = {name: scale * 100 * p for name, p in held.predictions.items()}
    changed = replace(
        evidence,
        job={**evidence.job, "job": {**evidence.job["job"], "objective": objective}},
        held_out=type(held)(np.abs(held.label * 90 + 1), held.weight, None, amounts),
        metrics={name: {"deviance": 1.0, "d2": 0.1, "mae": 2.0} for name in amounts},
    )
    files = render(changed)
    page = checked(files[PAGE].decode())
    assert "The mean of claim, modelled by insurer" in page.text
    assert "roc.csv" not in files
    # A ratio of predictions of either sign orders nothing.
    assert ("double_lift.csv" in files) == (objective != "squared")


# --- What may go wrong. ---------------------------------------------------------------------------


def test_exit_codes(insurer: Party, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    insurer.write()

    def refused(code: int, where: Path, *said: str, model: str = "claims") -> None:
        arguments = ["report", str(insurer.file), "--model", model, "--out", str(where)]
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == code, done.output
        assert all(text in done.output for text in said), done.output
        assert done.output.count("\n") == 1

    refused(5, tmp_path / "out", "error: no model clams in ", model="clams")
    refused(3, tmp_path / "file", "it is a file")
    refused(3, tmp_path / "no" / "such", "there is no folder")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    refused(3, tmp_path / "mine", "holds other files than a report", "--out")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]
    store = Store(insurer.store)
    for path in store.folder("run").glob("*.json"):
        path.unlink()
    refused(5, tmp_path / "out", "there is no record of the run that made model claims-", "train again")
    assert not (tmp_path / "out").exists()


def test_a_report_takes_the_place_of_an_earlier_one_whole_or_not_at_all(
    insurer: Party, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    insurer.write()
    party = load_party(insurer.file)
    made = {PAGE: b"page", "lift.csv": b"lift", "metrics.csv": b"metrics"}
    monkeypatch.setattr("vfl.jobs.report.render", lambda evidence, told: made)

    def there() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in out.iterdir()}

    assert not write_report(party, "claims", out).replaced
    before, write = there(), Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if path.name == "lift.csv":
            raise OSError(28, "No space left on device")
        return write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(DataError, match="No space left on device"):
            write_report(party, "claims", out)
    assert there() == before
    made["splits.csv"] = b"of another model"
    assert write_report(party, "claims", out).replaced
    assert there() == made

    # What somebody has changed or put there stays, unless that is not wanted.
    for name, content in ((PAGE, b"page, with notes"), ("roc.csv", b"mine")):
        (out / name).write_bytes(content)
        changed = there()
        with pytest.raises(DataError, match=r"changed since vfl report wrote it: .* --force"):
            write_report(party, "claims", out)
        assert there() == changed
        assert write_report(party, "claims", out, force=True).replaced
        assert there() == made
    (out / "letter.txt").write_text("dear")
    for force in (False, True):
        with pytest.raises(DataError, match="holds other files than a report"):
            write_report(party, "claims", out, force=force)
    (out / "letter.txt").unlink()

    # A report of another store, or of a version that kept no digests, is known by its page.
    shutil.rmtree(insurer.store / "outputs")
    with pytest.raises(DataError, match=r"was not written by vfl report: .* --force"):
        write_report(party, "claims", out)
    (out / PAGE).write_text('<meta name="generator" content="vfl 0.1.0">')
    assert write_report(party, "claims", out).replaced
    link = tmp_path / "link"
    link.symlink_to(out)
    assert write_report(party, "claims", link).page == link / PAGE
    assert link.is_symlink() and there() == made
    with pytest.raises(DataError, match="it lies in the store of insurer"):
        write_report(party, "claims", insurer.store / "models" / "report", force=True)
    hidden = [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert hidden == []


def test_other_commands_do_not_wait_for_matplotlib() -> None:
    code = "import sys, vfl.cli, vfl.jobs.training, vfl.jobs.host; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_a_report_without_its_packages_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    for name in list(sys.modules):
        if name.startswith(("vfl.report", "vfl.jobs.report")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    done = CliRunner().invoke(main, ["report", "insurer.toml", "--model", "claims"])
    assert done.exit_code == 2
    assert done.stderr == (
        f"error: {package} is not installed, which this command needs: pip install 'vfl[report]' "
        "(in a clone: pip install '.[report]')\n"
    )
