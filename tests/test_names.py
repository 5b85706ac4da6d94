"""Names of columns and levels that look like markup or formulas, through every command."""

import csv
import errno
import io
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner, Result
from federation import GLM_JOB, JOB, Federation, make_tables, toml, write_table
from room import Room

from vfl.cli import main
from vfl.party.spreadsheet import unescaped
from vfl.party.store import Store
from vfl.terminal.progress import ProgressDisplay
from vfl.terminal.streams import stderr

RENAMED = {
    "insurer": {"density": "=density [/km]", "area": "[bold]area[/bold]"},
    "new": {"density": "=density [/km]", "area": "[bold]area[/bold]"},
    "registry": {"power": "share [/day]", "brand": "@SUM(A1:A9)<b>"},
    "bureau": {"driver_age": "-age :car: 🚗", "occupation": "größe; =1+1"},
}
LEVELS = {
    "[bold]area[/bold]": ['=HYPERLINK("http://x")', "[/]", "-1-1"],
    "@SUM(A1:A9)<b>": ["=1+1", "[red]C[/red]<b>", "+49 1"],
    "größe; =1+1": ["＝1", "@x", "日本"],
}
FORMULA = re.compile(r"""[\s"]*[=+@＝＋－＠-]""")


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[Room]:
    tables = {}
    for party, table in make_tables().items():
        names = RENAMED[party]
        tables[party] = {names.get(name, name): cells for name, cells in table.items()}
        for name, levels in LEVELS.items():
            if name in tables[party]:
                seen = sorted({cell for cell in tables[party][name] if cell})
                tables[party][name] = [
                    levels[seen.index(cell) % 3] if cell else "" for cell in tables[party][name]
                ]
    # Ids of the batch that a spreadsheet would compute; no host knows them.
    ids = tables["new"]["plate"]
    ids[-4:] = ["=1+1", "-12", "+49 170 123", "@x"]
    made = Federation(tmp_path_factory.mktemp("names"), keys, tables=tables, guest_listens=True)
    for name, renamed in RENAMED.items():
        if name != "new":
            party = made.parties[name]
            party.settings["data"]["categorical"] = [list(renamed.values())[1]]
            party.settings["policy"] = {**party.settings.get("policy", {}), "show_names": True}
            party.write()
    room = Room(made)
    with pytest.MonkeyPatch.context() as patch:
        room.patch(patch)
        yield room


def vfl(room: Room, *arguments: str, party: str = "insurer", code: int = 0) -> Result:
    of = room.federation.parties[party]
    command, *rest = arguments
    done = CliRunner().invoke(main, [*command.split(), str(of.file), *rest], catch_exceptions=False)
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output and "MarkupError" not in done.output
    if "--json" in rest:
        assert done.stdout.count("\n") == 1 and isinstance(json.loads(done.stdout), dict)
    return done


def write_job(room: Room, name: str, job: dict[str, Any]) -> str:
    job = {**job, "job": {**job["job"], "name": name, "purpose": "=2+5 [red]x[/red] [/]"}}
    path = room.folder / f"{name}.toml"
    path.write_text(toml(job))
    return str(path)


def check_csv(path: Path) -> pd.DataFrame:
    """No cell but a number begins as a formula, with whatever separator it is read."""
    text = path.read_text("utf-8")
    for separator in ",;\t":
        for row in csv.reader(text.splitlines(), delimiter=separator):
            for cell in row:
                number = re.match(r"[-+]?[0-9][0-9 ./()e+-]*(,|$)", cell)
                assert number or not FORMULA.match(cell), (path.name, cell)
    return pd.read_csv(path)


@pytest.mark.usefixtures("few_draws")
def test_every_command_shows_names_as_they_are(room: Room) -> None:
    own, shown = RENAMED["insurer"], [name for of in RENAMED.values() for name in of.values()]
    vfl(room, "align", "--wait", "1")
    vfl(room, "align", "--dry-run")
    for name in RENAMED:
        if name != "new":
            vfl(room, "align", "--dry-run", "--json", party=name)
    assert "20" in vfl(room, "alignments").stdout
    vfl(room, "alignments", "--json")

    done = vfl(room, "train", write_job(room, "trees", JOB))
    first, *lines = done.stdout.splitlines()
    assert first.startswith("model trees-")
    columns = [line.split("\t")[1] for line in lines if line.count("\t") == 3]
    assert columns[0] == "column" and set(columns[1:]) <= set(shown) and len(columns) > 2
    trained = json.loads(vfl(room, "train", write_job(room, "trees", JOB), "--json", "--fresh").stdout)
    assert {column for _, column, *_ in trained["importance"]} <= set(shown)
    linear = vfl(room, "train", write_job(room, "lines", GLM_JOB))
    assert linear.stdout.startswith("model lines-")

    for party in ("insurer", "registry", "bureau"):
        printed = vfl(room, "relativities", "--model", "lines", party=party).stdout
        found = json.loads(vfl(room, "relativities", "--model", "lines", "--json", party=party).stdout)
        for line in found["relativities"]:
            assert line["column"] in (*RENAMED[party].values(), "(intercept)")
            assert f"{line['column']}\t{line['level']}" in printed
        ledger = vfl(
            room, "ledger show", "--job", "lines", party=party, code=3
        )  # hosts of this room keep none
        assert ledger.stdout == ""
        for model in ("trees", "lines"):
            out = room.folder.parent / f"{party}-{model}"
            vfl(room, "report", "--model", model, "--out", str(out), party=party)
            for sheet in out.glob("*.csv"):
                check_csv(sheet)
            page = (out / "report.html").read_text("utf-8")
            assert "<b>" not in page and "[red]x[/red] [/]" in page
    kept = next((room.folder / "vfl-store" / "models").glob("lines-*.csv"))
    levels = check_csv(kept).set_index("column").loc["[bold]area[/bold]", "level"]
    assert set(levels.map(unescaped)) - {"(missing)"} == set(LEVELS[own["area"]])


def test_what_hosts_say_of_names(room: Room, capsys: pytest.CaptureFixture[str]) -> None:
    vfl(room, "align", "--wait", "1")
    vfl(room, "train", write_job(room, "trees", JOB))
    for said in room.said.values():
        stderr.start()
        news = ProgressDisplay()
        with news.bar:
            for line in said.lines:
                news.say(line)
        assert capsys.readouterr().err.splitlines() == said.lines
    assert room.said["registry"].lines == [] or any(
        "[red]x[/red]" in s for s in room.said["registry"].lines
    )


@pytest.mark.parametrize(("number", "code"), [(errno.EPIPE, 0), (errno.ENOSPC, 3)])
def test_a_job_outlives_its_readers(
    room: Room, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    class Failing(io.TextIOWrapper):
        written = 0

        def write(self, text: str) -> int:
            self.written += len(text)
            raise OSError(number, os.strerror(number))

    def run(*failing: str) -> tuple[int, dict[str, Any]]:
        streams = {name: Failing(io.BytesIO()) if name in failing else io.StringIO() for name in both}
        with monkeypatch.context() as patch:
            for name, stream in streams.items():
                patch.setattr(sys, name, stream)
            with pytest.raises(SystemExit) as ended:
                main.main(["align", str(room.federation.guest.file), "--wait", "1"])
        return int(str(ended.value)), streams

    both = ("stdout", "stderr")
    kept = Store(room.federation.guest.store)
    for failing, expected in ((("stderr",), 0), (("stdout",), code), (both, code)):
        before = set(kept.names("alignment"))
        found, streams = run(*failing)
        (made,) = set(kept.names("alignment")) - before
        assert found == expected
        if failing == ("stdout",) and code:
            last = streams["stderr"].getvalue().splitlines()[-1]
            assert last.startswith("error: stdout cannot be written (No space left on device)")
            assert f"alignment {made} is kept" in last
        elif failing == ("stderr",):
            assert f"alignment {made} is kept" in streams["stdout"].getvalue()


def test_scores_of_ids_that_look_like_formulas(room: Room) -> None:
    vfl(room, "align", "--wait", "1")
    vfl(room, "train", write_job(room, "trees", JOB))
    data, out = str(room.folder / "new.csv"), room.folder / "s.csv"
    arguments = ("score", "--model", "trees", "--data", data, "--explain", "--wait", "1")
    done = vfl(room, *arguments, "--out", str(out))
    assert "column 'plate' has 2 cells that a spreadsheet would compute" in done.stdout
    ids = room.federation.tables["new"]["plate"]
    scores = check_csv(out)
    assert scores["plate"].map(unescaped).tolist() == ids  # exactly
    assert scores["plate"].tolist()[-4:] == ["'=1+1", "-12", "+49 170 123", "'@x"]
    assert [name for name in scores.columns if name.startswith("contribution:")]
    done = vfl(room, *arguments, "--out", str(out.with_suffix(".parquet")), "--json")
    assert json.loads(done.stdout)["escaped"] == {}
    assert pd.read_parquet(out.with_suffix(".parquet"))["plate"].tolist() == ids


def test_scores_go_over_no_input(room: Room) -> None:
    vfl(room, "align", "--wait", "1")
    vfl(room, "train", write_job(room, "trees", JOB))
    folder = room.folder
    arguments = ("score", "--model", "trees", "--data", str(folder / "new.csv"), "--wait", "1", "--out")
    before = (folder / "new.csv").read_bytes(), (folder / "table.csv").read_bytes()
    (folder / "link.csv").symlink_to("table.csv")
    (folder / "mine.csv").write_text("mine")
    (folder / "way.csv").symlink_to("nightly.csv")
    for name in ("new.csv", "table.csv", "link.csv", "vfl-store/models/x.csv"):
        for force in ((), ("--force",)):
            done = vfl(room, *arguments, str(folder / name), *force, code=3)
            assert "cannot be written: it " in done.stderr and "name another one" in done.stderr
    done = vfl(room, *arguments, str(folder / "mine.csv"), code=3)
    assert "it is there already and was not written by vfl score" in done.stderr
    assert ((folder / "new.csv").read_bytes(), (folder / "table.csv").read_bytes()) == before
    vfl(room, *arguments, str(folder / "mine.csv"), "--force")
    # Night after night, through a link.
    for night in range(3):
        done = vfl(room, *arguments, str(folder / "way.csv"), "--json")
        assert json.loads(done.stdout)["replaced"] == (night > 0)
        assert (folder / "way.csv").is_symlink() and (folder / "nightly.csv").stat().st_size > 1000
    assert "in place of earlier ones" in vfl(room, *arguments, str(folder / "nightly.csv")).stdout
    write_table(folder / "nightly.csv", {"plate": ["A"], "note": ["x"]})
    done = vfl(room, *arguments, str(folder / "way.csv"), code=3)
    assert "it has been changed since vfl score wrote it" in done.stderr
