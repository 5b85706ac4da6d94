"""The batch job: killed and gone on with, explained, watched for drift, run by a scheduler."""

import csv
import json
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federation import GLM_JOB, JOB, Federation, Party, Table, kill, write_table
from room import HOSTS, Room, Said

from vfl.arrays import Floats
from vfl.errors import ConfigError, ModelError, PeerStopped, Refused
from vfl.jobs import resume, score_places, scoring
from vfl.jobs.show import say_drift
from vfl.learn.drift import profile
from vfl.party import store
from vfl.party.store import Store
from vfl.protocols.common import batches
from vfl.protocols.linear import scoring as glm_scoring
from vfl.protocols.trees import scoring as protocol

ROWS = 24  # of a part in these tests
FREQUENCY = {
    "job": {**JOB["job"], "name": "frequency", "objective": "poisson"},
    "secureboost": {**JOB["secureboost"], "trees": 1},
}


class Killed(BaseException):
    """What `kill -9` is to code in this process."""


Trained = tuple[Room, dict[str, str]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[Trained]:
    """Parties that have aligned and trained trees and a linear model, in this process."""
    patch = pytest.MonkeyPatch()
    room = Room(Federation(tmp_path_factory.mktemp("room"), keys, guest_listens=True))
    room.federation.guest.settings["party"]["reconnect"] = 60
    room.patch(patch)
    patch.setattr(resume, "_PAUSE", 0.0)
    for module in (batches, protocol, glm_scoring, scoring):
        patch.setattr(module, "ROWS", ROWS)
    room.align()
    models = {"trees": room.train(JOB), "linear": room.train(GLM_JOB)}
    yield room, models
    patch.undo()


def run(room: Room, model: str, kill: Callable[[pytest.MonkeyPatch], None], **options: Any) -> None:
    """A run that is killed."""
    with pytest.MonkeyPatch.context() as patch:
        kill(patch)
        with pytest.raises(Killed):
            room.score(model, **options)


def before_call(number: int, owner: Any, name: str, *, after: bool = False, folder: str = "") -> Any:
    """Killed before (or after) a call of this number, counted from 1. `folder`: of calls for a file of
    this folder alone, as hosts write files in this process, too."""

    def kill(patch: pytest.MonkeyPatch) -> None:
        real, calls = getattr(owner, name), iter(range(1, 10_000))

        def counted(*arguments: Any, **named: Any) -> Any:
            here = (not folder or arguments[0].parent.name == folder) and next(calls) == number
            if here and not after:
                raise Killed
            result = real(*arguments, **named)
            if here:
                raise Killed
            return result

        patch.setattr(owner, name, counted)

    return kill


KEEP = (scoring.Batch, "keep")
KILLS = {
    "after the first part": before_call(1, *KEEP, after=True),
    "before the third part": before_call(3, *KEEP),
    "after the last part": before_call(4, *KEEP, after=True),
    "before the output": before_call(1, score_places, "write_scores", after=True),
    "after the output": before_call(1, score_places._File, "write", after=True),
    **{f"before file {n}": before_call(n, store, "replacing", folder="batches") for n in (3, 8, 11)},
}


@pytest.mark.parametrize("what", KILLS)
def test_a_run_that_is_killed_is_gone_on_with(trained: Trained, what: str) -> None:
    room, models = trained
    number = list(KILLS).index(what)
    model, out, explain = [("trees", "k.csv", False), ("linear", "k.parquet", True)][number % 2]
    path = room.folder / out
    whole = room.reference(models[model], out, explain=explain)
    rows = room.rows

    path.write_text("yesterday's")
    run(room, models[model], KILLS[what], out=out, explain=explain, force=True)
    asked = room.asked
    replaced = what == "after the output"
    assert (path.read_bytes() == whole) if replaced else (path.read_text() == "yesterday's")
    # What a process leaves that cannot clean up.
    (room.folder / f".{out}.a_b_c_d_.tmp").write_text("half")
    for left in room.kept[:1]:
        left.with_name(f".{left.name}.a_b_c_d_.tmp").write_text("half")

    again = room.score(models[model], out=out, explain=explain, force=not replaced)
    assert path.read_bytes() == whole and again.replaced
    assert again.rows == rows
    assert again.resumed_from in {*range(0, rows, ROWS), rows}
    if again.resumed_from:
        assert room.said["insurer"].has(f"going on after {again.resumed_from:,} of {rows:,} rows")
    assert again.resumed_from > 0 or what == "before file 3"
    known = {name: rows - again.unknown[name] for name in HOSTS}
    for name in HOSTS:  # one part was asked for and not kept, another asked for ahead
        assert known[name] <= asked[name] + room.asked[name] <= known[name] + 2 * ROWS
    assert room.kept == []
    assert [p.name for p in room.folder.iterdir() if p.name.endswith(".tmp")] == []


def test_a_changed_table_model_or_option_starts_anew(trained: Trained) -> None:
    room, models = trained
    out, said = "n.csv", "rows of an unfinished batch are of another table, model or option"
    stop = before_call(2, *KEEP, after=True)
    header, *rows = (room.folder / "new.csv").read_bytes().splitlines(keepends=True)
    (room.folder / "back.csv").write_bytes(b"".join([header, *reversed(rows)]))
    changes: list[dict[str, Any]] = [
        {"explain": True},
        {"model": models["linear"]},
        {"data": "back.csv"},
    ]
    for change in changes:
        run(room, models["trees"], stop, out=out)
        assert room.score(**{"model": models["trees"], **change}, out=out).resumed_from == 0
        assert room.said["insurer"].has(f"{2 * ROWS} {said}")
    assert (room.folder / out).read_bytes() == room.reference(models["trees"], "w.csv", data="back.csv")
    run(room, models["trees"], stop, out=out)
    assert room.score(models["trees"], out=out, fresh=True).resumed_from == 0
    assert not room.said["insurer"].has(said)


def test_a_host_that_shows_other_columns_than_before(trained: Trained) -> None:
    room, models = trained
    run(room, models["linear"], before_call(2, *KEEP, after=True), out="h.csv", explain=True)
    policy = room.federation.parties["bureau"].settings["policy"]
    try:
        policy["show_names"] = True
        with pytest.raises(ModelError, match=r"shows other columns now .*: say --fresh to begin anew"):
            room.score(models["linear"], out="h.csv", explain=True)
        room.score(models["linear"], out="h.csv", explain=True, fresh=True)
    finally:
        policy["show_names"] = False
    assert "contribution:bureau:occupation" in check_explained(room.folder / "h.csv", top=3)


def test_a_damaged_part_is_scored_again(trained: Trained) -> None:
    room, models = trained
    whole = room.reference(models["trees"], "d.csv")
    for extension in ("json", "npy"):
        run(room, models["trees"], before_call(3, *KEEP, after=True), out="d.csv")
        second = [path for path in room.kept if "-000000001." in path.name and extension in path.name]
        second[0].write_bytes(second[0].read_bytes()[:-9] + b"123456789")
        assert room.score(models["trees"], out="d.csv").resumed_from == ROWS
        assert (room.folder / "d.csv").read_bytes() == whole
    assert room.kept == []


def test_an_output_is_written_by_one_process_at_a_time(trained: Trained) -> None:
    room, models = trained
    own = Store(room.folder / "vfl-store")
    name = scoring.batch_name(str(room.folder / "one.csv"))
    with own.locked("batch", name, "a test"):
        with pytest.raises(Refused, match=r"^another run of vfl that writes .*one.csv is at work alr"):
            room.score(models["trees"], out="one.csv")
        room.score(models["trees"], out="two.csv")
    (room.folder / "vfl-store" / "batches" / f"{name}.lock").touch()  # of a process that was killed
    room.score(models["trees"], out="one.csv")
    assert room.kept == []


def test_a_host_that_is_lost_is_waited_for(trained: Trained) -> None:
    room, models = trained
    whole = room.reference(models["linear"], "l.csv")
    room.cut_after = 2
    done = room.score(models["linear"], out="l.csv")
    assert (room.folder / "l.csv").read_bytes() == whole
    assert done.resumed_from == 0
    assert room.said["insurer"].has("the connection to registry broke: waiting up to 60 s")
    assert sum(line.startswith("insurer asks") for line in room.said["bureau"].lines) == 2
    assert done.account.sent["bureau"] > 5000


def test_a_days_limit_of_a_host_ends_the_run_and_keeps_what_is_done(trained: Trained) -> None:
    room, models = trained
    whole = room.reference(models["trees"], "q.csv")
    policy = room.federation.parties["registry"].settings["policy"]
    used = json.loads((room.federation.parties["registry"].store / "usage.json").read_text())
    limit = used["guests"]["insurer"]["scored_rows"] + 3 * ROWS
    try:
        policy["max_scored_rows_a_day"] = limit
        with pytest.raises(PeerStopped, match="max_scored_rows_a_day"):
            room.score(models["trees"], out="q.csv")
        kept = [line for line in room.said["insurer"].lines if "are done and kept" in line]
        assert len(kept) == 1
        assert kept[0].endswith("the same command goes on after them when the day is over (00:00 UTC)")
        policy["max_scored_rows_a_day"] = 10 * limit  # another day
        done = room.score(models["trees"], out="q.csv")
        assert done.resumed_from in (2 * ROWS, 3 * ROWS)
        assert kept[0].startswith(f"{done.resumed_from} of {done.rows} rows")
        assert (room.folder / "q.csv").read_bytes() == whole
    finally:
        del policy["max_scored_rows_a_day"]


def cells(path: Path) -> dict[str, list[str]]:
    """The columns of a CSV file."""
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    return {name: [row[at] for row in rows[1:]] for at, name in enumerate(rows[0])}


def floats(column: Sequence[str]) -> Floats:
    return np.array([float(cell) for cell in column])


def check_explained(path: Path, top: int) -> dict[str, list[str]]:
    found = cells(path)
    parts = [floats(column) for name, column in found.items() if name.startswith("contribution:")]
    total = floats(found["base"]) + np.sum(parts, axis=0)
    assert total == pytest.approx(floats(found["score"]), rel=1e-9, abs=1e-9)
    assert {len(set(text.split("; "))) for text in found["reasons"]} <= set(range(1, top + 1))
    return found


def test_explained_scores_add_up(trained: Trained) -> None:
    room, models = trained
    for model in models.values():
        room.score(model, out="e.csv", explain=True, top=2)
        found = check_explained(room.folder / "e.csv", top=2)
        odds = np.exp(floats(found["score"]))
        assert floats(found["probability"]) == pytest.approx(odds / (1 + odds))
        plain = cells_of_reference(room, model)
        assert {name: found[name] for name in plain} == plain
    shown = [name.removeprefix("contribution:") for name in found if name.startswith("contribution:")]
    assert set(shown) == {"area", "density", "registry:brand", "registry:power", "bureau"}


def cells_of_reference(room: Room, model: str) -> dict[str, list[str]]:
    room.reference(model, "p.csv")
    return cells(room.folder / "p.csv")


def test_an_offset_is_a_contribution_and_an_exposure_none(trained: Trained) -> None:
    room, _ = trained
    guest = room.federation.guest
    data, table = guest.settings["data"], guest.table.read_bytes()
    rng = random.Random(3)

    def wide(rows: Table) -> Table:
        years = [repr(rng.uniform(0.2, 1)) for _ in rows["plate"]]
        return {**rows, "years": years, "rate": [repr(rng.gauss(0, 0.3)) for _ in years]}

    try:
        write_table(guest.table, wide(room.federation.tables["insurer"]))
        batch = wide(room.federation.tables["new"])
        write_table(room.folder / "wide.csv", batch)
        data |= {"exposure": "years", "offset": "rate"}
        model = room.train(FREQUENCY)
        room.score(model, out="o.csv", data="wide.csv", explain=True)
        found = check_explained(room.folder / "o.csv", top=3)
        assert floats(found["contribution:offset"]) == pytest.approx(floats(batch["rate"]))
        assert floats(found["prediction"]) == pytest.approx(np.exp(floats(found["score"])))
        expected = floats(found["prediction"]) * floats(batch["years"])
        assert floats(found["expected"]) == pytest.approx(expected)
        assert not any("offset" in text for text in found["reasons"])
    finally:
        guest.table.write_bytes(table)
        del data["exposure"], data["offset"]


def test_each_party_is_warned_of_its_own_columns_that_shifted(trained: Trained) -> None:
    room, models = trained
    usual = room.score(models["trees"], out="s.csv")
    assert set(usual.drift) == {"area", "density"}
    assert not any(said.has("shifted") for said in room.said.values())

    batch = room.federation.tables["new"]
    denser = [repr(float(cell or 0) / 10 + 2) for cell in batch["density"]]
    write_table(room.folder / "denser.csv", {**batch, "density": denser})
    registry = room.federation.parties["registry"]
    table = registry.table.read_bytes()
    try:
        known = room.federation.tables["registry"]
        power = [repr(float(cell or 0) / 10 + 150) for cell in known["power"]]
        write_table(registry.table, {**known, "power": power})
        done = room.score(models["trees"], out="s.csv", data="denser.csv")
    finally:
        registry.table.write_bytes(table)
    large = r"note: column '{}' has shifted since training \(PSI [0-9.]+, large\)"
    assert done.drift["density"] > 1 > done.drift["area"]
    assert done.score_psi is not None and done.score_psi > 1
    shifted = {name: [x for x in said.lines if "shifted" in x] for name, said in room.said.items()}
    assert len(shifted["insurer"]) == 2
    assert re.fullmatch(large.format("density"), shifted["insurer"][0])
    assert shifted["insurer"][1].startswith("note: the scores have shifted since training")
    assert len(shifted["registry"]) == 1
    assert re.fullmatch(large.format("power"), shifted["registry"][0])
    assert shifted["bureau"] == []
    told = [
        {(m.peer, m.direction, m.kind, m.messages) for m in of.account.messages} for of in (usual, done)
    ]
    assert told[0] == told[1]


@pytest.mark.parametrize("kind", [float, object])
def test_a_shifted_column_with_the_same_in_all_rows_is_said_to_have_it(kind: type) -> None:
    before = np.random.default_rng(1).integers(0, 9, 900)
    known = profile(before.astype(str).astype(object) if kind is object else before.astype(float))
    said = Said()
    for news in ([0] * 300, [0, 1] * 150):
        batch = np.array([str(new) if kind is object else new for new in news], kind)
        say_drift(said, "column 'age' has", known, batch)
    assert [line.rpartition("large)")[2] for line in said.lines] == [": all rows have the same", ""]


def test_a_model_of_an_earlier_version(trained: Trained) -> None:
    room, models = trained
    own = Store(room.folder / "vfl-store")
    body = own.read("model", models["trees"])
    del body["profiles"], body["score_profile"]
    for tree in body["model"]["trees"]:
        tree["covers"] = {}
    own.write("model", "old-1", {**body, "name": models["trees"]})
    done = room.score("old-1", out="v.csv")
    assert (done.drift, done.score_psi) == ({}, None)
    with pytest.raises(ModelError, match="train it again"):
        room.score("old-1", out="v.csv", explain=True)
    assert room.asked == dict.fromkeys(HOSTS, 0)


def test_an_id_that_is_called_as_a_column_of_the_output(trained: Trained) -> None:
    room, models = trained
    data = room.federation.guest.settings["data"]
    try:
        data["id"] = "reasons"
        with pytest.raises(ConfigError, match=r"\[data\] id 'reasons' is the name of a column of the"):
            room.score(models["trees"], explain=True)
    finally:
        data["id"] = "plate"


# As processes

# A guest that stops for long when so many parts of eight rows are kept.
SLOW_GUEST = """
import time, vfl.cli, vfl.jobs.batch as batch, vfl.protocols.trees.scoring as scoring
scoring.ROWS = 8
keep = batch.Batch.keep
def slow(self, *args):
    keep(self, *args)
    if self.rows == {parts} * 8:
        time.sleep(600)
batch.Batch.keep = slow
vfl.cli.main()
"""


def test_kill_9_and_two_at_once(federation: Federation, insurer: Party) -> None:
    insurer.score(out="whole.csv").ok()
    options = ("--model", "claims", "--data", "new.csv", "--out", "scores.csv", "--json")
    parts = insurer.store / "batches"
    for kept in (3, 5):
        program = SLOW_GUEST.format(parts=kept)
        running = insurer.start("score", *options, program=program)
        until(lambda kept=kept: len(list(parts.glob("*.json"))) == kept)
        if kept == 3:
            refused = insurer.run("score", *options)
            refused.failed(6, "another run of vfl that writes ", "scores.csv is at work already")
        kill(running)
        assert not (insurer.folder / "scores.csv").exists()
    last = insurer.score().ok()
    found = last.json
    assert found["resumed_from"] == 5 * 8
    assert f"going on after {found['resumed_from']} of {found['rows']} rows" in last.err
    assert found["out"] == str(insurer.folder / "scores.csv")
    assert found["rows_per_second"] > 0
    assert set(found["seconds_by_phase"]) == {"reading", "alignment", "scoring", "writing"}
    assert set(found["drift"]) == {"area", "density"}
    whole = (insurer.folder / "whole.csv").read_bytes()
    assert (insurer.folder / "scores.csv").read_bytes() == whole
    assert list(parts.iterdir()) == []


def until(there: Callable[[], bool]) -> None:
    while not there():
        time.sleep(0.02)


OPERATIONS = Path(__file__).parent.parent / "docs" / "operations.md"


def test_the_crontab_line_of_the_documentation_works(federation: Federation, insurer: Party) -> None:
    found = re.findall(r"^[0-9]+ [0-9]+ \* \* \* +(.* score .*)$", OPERATIONS.read_text(), re.MULTILINE)
    assert len(found) == 1
    insurer.write()
    (insurer.folder / "new_policies.csv").write_bytes((insurer.folder / "new.csv").read_bytes())
    line = found[0].replace("/opt/vfl/bin/vfl", f"{sys.executable} -m vfl.cli")
    line = line.replace("/srv/vfl", str(insurer.folder)).replace("claim-probability", "claims")
    line = re.sub(r"(?<!\\)%.*", "", line).replace(r"\%", "%")  # as cron does
    environment = {"HOME": str(insurer.folder), "PATH": "/usr/bin:/bin", "SHELL": "/bin/sh"}
    done = subprocess.run(
        ["/bin/sh", "-c", line], env=environment, cwd="/", capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done
    summary = json.loads((insurer.folder / "score.json").read_text())
    assert summary["rows"] == len(federation.tables["new"]["plate"])
    assert len(cells(insurer.folder / "scores.csv")["probability"]) == summary["rows"]
    assert "error" not in (insurer.folder / "score.log").read_text()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
def test_the_systemd_units_of_the_documentation_are_valid(tmp_path: Path) -> None:
    units = re.findall(
        r"^# /etc/systemd/system/(vfl-score\.[a-z]+)\n(.*?)^```", OPERATIONS.read_text(), re.M | re.S
    )
    assert sorted(name for name, _ in units) == ["vfl-score.service", "vfl-score.timer"]
    for name, text in units:
        (tmp_path / name).write_text(text.replace("/opt/vfl/bin/vfl", sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", *(str(tmp_path / name) for name, _ in units)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
