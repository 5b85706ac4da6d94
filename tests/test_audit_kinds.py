"""Further kinds of runs that are replayed by their parties: batches, projects, tables, screenings."""

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from audited import AuditedRoom
from federation import GLM_JOB, JOB, Federation, make_tables, write_table
from paillier_key import one_key
from room import HOSTS
from test_drawn_jobs import RULES

from vfl.errors import PeerStopped, VflError
from vfl.jobs import oneway, presenting, resume, scoring, screening
from vfl.jobs.audits import keep_certificate, load_audits
from vfl.jobs.certificate import make_certificate
from vfl.jobs.evidence import find_evidence, save_evidence
from vfl.jobs.kept_evidence import OF_ALIGNMENT, OF_MODEL, evidence_about, list_evidence
from vfl.jobs.oneway import TableRequest
from vfl.jobs.oneway_host import HostTable
from vfl.jobs.project import train_project
from vfl.jobs.project_scoring import score_project
from vfl.jobs.projects import KeptProject
from vfl.jobs.rerun import EvidenceDiffers
from vfl.jobs.scoring import ScoreOptions
from vfl.jobs.screening_host import ScreenedColumns
from vfl.learn.fixed_point import FixedPoint
from vfl.learn.forest import Sides
from vfl.net.replay import MessageDiffers
from vfl.party.config import Job
from vfl.party.project_file import Project
from vfl.protocols.align.join import KeyIds
from vfl.protocols.common import batches
from vfl.protocols.trees import scoring as of_trees

ALL = ("insurer", *HOSTS)


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[AuditedRoom]:
    """Parties that have aligned, of which the guest has claims, too."""
    tables, rng = make_tables(400), np.random.default_rng(5)
    count = rng.poisson(0.8, len(tables["insurer"]["plate"]))
    paid = [float(np.round(rng.gamma(2.0, 400.0, n).sum(), 2)) for n in count]
    tables["insurer"] |= {"count": [f"{n}" for n in count], "paid": [f"{one}" for one in paid]}
    federation = Federation(tmp_path_factory.mktemp("kinds"), keys, guest_listens=True, tables=tables)
    federation.guest.settings["data"]["ignore"] = ["count", "paid"]
    for name in HOSTS:
        federation.parties[name].settings["policy"] = RULES
        federation.parties[name].settings["glm"] = {"bins": 4}
    made = AuditedRoom(federation)
    with pytest.MonkeyPatch.context() as patch:
        made.patch(patch)
        for module in (oneway, screening):
            patch.setattr(module, "hosts_of", made.hosts_of)
        made.align(name="first")
        yield made


@pytest.fixture(scope="module")
def model(room: AuditedRoom) -> str:
    return room.train(JOB)


def replay_all(room: AuditedRoom, subject: str, parties: tuple[str, ...] = ALL, **more: Any) -> None:
    """These parties replay a run to its last byte, and each of their peers finds that it is all."""
    for name in parties:
        done = room.replay(name, subject, workers=2, **more)
        assert done.complete and not done.ended
        for peer, shown in done.shown.items():
            checked = room.check(peer, room.certify(name, done, peer))
            assert checked.complete and checked.received == shown.of > 0
            assert checked.certificate.checked == ["secret", "settings", "table"]


def last_run(room: AuditedRoom, name: str = "insurer") -> str:
    return find_evidence(room.there(name).store)[-1].run


def folder_of(room: AuditedRoom, name: str) -> dict[str, bytes]:
    """All that a party's store holds."""
    root = room.there(name).store.root
    return {str(path): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


# --- Batches. ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["ecdh", "vole"])
def test_both_sides_of_a_batch_replay(
    room: AuditedRoom, model: str, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in HOSTS:
        rules = {**RULES, "explain": True, "engines": ["ecdh", "vole"]}
        monkeypatch.setitem(room.federation.parties[name].settings, "policy", rules)
    monkeypatch.setitem(room.federation.guest.settings, "align", {"engine": engine})
    room.score(model, explain=engine == "ecdh", force=True)
    replay_all(room, model)
    shown = room.replay("insurer", model).shown["bureau"]
    assert not shown.relies and [one.what for one in shown.took] == ["half of the model"]


def test_a_batch_that_goes_on_replays_by_attempt(
    room: AuditedRoom, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(room.federation.guest.settings["party"], "reconnect", 60)
    monkeypatch.setattr(resume, "_PAUSE", 0.0)
    for module in (scoring, batches, of_trees):
        monkeypatch.setattr(module, "ROWS", 24)
    room.cut_after = 2
    done = room.score(model, out="cut.csv")
    assert done.rows > 48 and room.cut_after is None
    runs = room.runs("insurer", model)[-2:]
    firsts = [run.opening.settings["asked"]["first"] for run in runs if run.opening is not None]
    assert firsts[0] == 0 < firsts[1]
    replay_all(room, model)
    for name in ALL:
        before = room.replay(name, model, attempt=-2, workers=2)
        assert before.ended and not before.evidence.whole


def test_a_guest_that_tries_an_id_that_is_not_in_its_batch_is_found(
    room: AuditedRoom, model: str
) -> None:
    match = scoring.guest_match

    async def guessed(hosts: Any, keys: Any, **more: Any) -> Any:
        first = KeyIds([b"GUESSED", *list(keys[0].ids)[1:]], keys[0].of_row)
        return await match(hosts, [first, *keys[1:]], **more)

    with mock.patch.object(scoring, "guest_match", guessed), contextlib.suppress(VflError):
        room.score(model, out="guessed.csv")
    run = last_run(room)
    with pytest.raises(MessageDiffers, match=r"^message \d+ to \w+ differs: it was \w+ of [\d,]+ bytes"):
        room.replay("insurer", run)
    assert room.replay("registry", run).complete


def test_a_host_that_scores_with_directions_of_its_own_is_found(room: AuditedRoom, model: str) -> None:
    left = Sides.left

    def others(self: Sides, rows: Any, count: int) -> Any:
        sent = left(self, rows, count)
        return sent if isinstance(rows, slice) else ~sent  # the guest's own are of a slice

    with mock.patch.object(Sides, "left", others):
        room.score(model, out="wrong.csv")
    run = last_run(room)
    with pytest.raises(MessageDiffers, match="to insurer differs: it was Directions of"):
        room.replay("registry", run)
    assert room.replay("insurer", run).complete


def test_a_batch_or_a_half_that_was_changed_is_found(room: AuditedRoom, model: str) -> None:
    room.score(model, out="changed.csv")
    run, path = last_run(room), room.folder / "new.csv"
    before = path.read_text()
    table = {head: [*cells] for head, cells in room.federation.tables["new"].items()}
    table["density"][7] = "1.25"
    write_table(path, table)
    with pytest.raises(EvidenceDiffers, match=r"committed to: its column 'density' is another$"):
        room.replay("insurer", run)
    path.write_text(before)
    assert room.replay("insurer", run).complete
    store = room.there("insurer").store
    half = store.path("model", model).read_bytes()
    body = store.read("model", model)
    store.write("model", model, body | {"job": body["job"] | {"seed": 1}})
    with pytest.raises(EvidenceDiffers, match=r"committed to: its half of the model is another$"):
        room.replay("insurer", run)
    store.path("model", model).write_bytes(half)


# --- Projects. --------------------------------------------------------------------------------------

TREES = {"trees": 1, "depth": 2, "max_bins": 6, "min_child_rows": 10, "encryption": "lattice"}
OF_TREES = {"model": "secureboost", "secureboost": TREES}
PROJECT = {
    "project": {"name": "tariff", "purpose": "a test", "counts": "count", "amounts": "paid"},
    "frequency": OF_TREES,
    "severity": OF_TREES,
}


@pytest.fixture(scope="module")
def project(room: AuditedRoom) -> KeptProject:
    made, show = Project.model_validate(PROJECT), room.said["insurer"]
    return asyncio.run(train_project(room.site("insurer"), made, wait=1, show=show)).kept


@pytest.mark.slow
def test_models_of_a_project_replay(room: AuditedRoom, project: KeptProject) -> None:
    for name in project.models.values():
        replay_all(room, name)


def test_a_batch_of_a_project_replays(room: AuditedRoom, project: KeptProject) -> None:
    data, out = room.folder / "new.csv", room.folder / "tariff.csv"
    work = score_project(
        *(room.site("insurer"), project.name, data, out, ScoreOptions()),
        wait=1,
        show=room.said["insurer"],
    )
    asyncio.run(work)
    for name in project.models.values():
        assert room.runs("insurer", name)[-1].agreement.terms.task == "score"
        replay_all(room, name)


def test_models_of_a_project_score_once_their_audits_were_shown(
    room: AuditedRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presenting, "hosts_of", room.hosts_of)
    monkeypatch.setitem(room.federation.parties["bureau"].settings, "policy", {**RULES, "audit": 1.0})
    made, show = Project.model_validate(PROJECT), room.said["insurer"]
    kept = asyncio.run(train_project(room.site("insurer"), made, wait=1, show=show)).kept

    def score() -> None:
        where = room.folder / "new.csv", room.folder / "audited.csv"
        work = score_project(room.site("insurer"), kept.name, *where, ScoreOptions(), wait=1, show=show)
        asyncio.run(work)

    with pytest.raises(PeerStopped, match=f"model {kept.models['frequency']} has to be audited"):
        score()
    site = room.there("insurer")
    for name in kept.models.values():
        done = room.replay("insurer", name, attempt=0)
        content = make_certificate(done.evidence, done.shown["bureau"], site.identity)
        keep_certificate(site.store, done.evidence, "bureau", content)
    score()
    for name in kept.models.values():
        assert load_audits(room.there("bureau").store, name)["insurer"].state == "shown"


def test_other_losses_of_a_project_are_found(room: AuditedRoom, project: KeptProject) -> None:
    table = {head: [*cells] for head, cells in room.federation.tables["insurer"].items()}
    table["paid"] = [f"{2 * float(paid)}" for paid in table["paid"]]
    write_table(room.federation.guest.table, table)
    try:
        assert room.replay("insurer", project.models["frequency"], attempt=0).complete
        with pytest.raises(EvidenceDiffers, match=r"committed to: its label is another$"):
            room.replay("insurer", project.models["severity"], attempt=0)
    finally:
        write_table(room.federation.guest.table, room.federation.tables["insurer"])


# --- Tables by factors. -----------------------------------------------------------------------------


def table(room: AuditedRoom, *by: str, **more: Any) -> None:
    request = TableRequest.of(by, **more)
    with one_key():
        asyncio.run(oneway.oneway(room.site("insurer"), request, wait=1, show=room.said["insurer"]))


@pytest.mark.parametrize(
    ("by", "encryption", "hosts"),
    [
        (["registry:brand"], "lattice", ("registry",)),
        (["registry:power", "insurer:density"], "paillier", ("registry",)),
        (["registry:brand", "bureau:driver_age"], None, HOSTS),
    ],
)
def test_tables_replay(
    room: AuditedRoom, by: list[str], encryption: Any, hosts: tuple[str, ...]
) -> None:
    table(room, *by, encryption=encryption)
    run = last_run(room)
    replay_all(room, run, ("insurer", *hosts))
    if encryption == "lattice":
        table(room, *by, encryption=encryption)  # cut as before, which the store knows by now
        for again in (run, last_run(room)):
            assert room.replay("registry", again).complete


def test_a_table_of_what_a_model_expects_replays(room: AuditedRoom, model: str) -> None:
    table(room, "registry:brand", model=model, share=True)
    run = last_run(room)
    replay_all(room, run, ("insurer", "registry"))
    relies = room.replay("insurer", run).shown["registry"].relies
    assert relies == [f"on what {model} expects of rows that were held out of its training"]


def swapped(measures: Sequence[FixedPoint]) -> list[FixedPoint]:
    """Numbers that are not those of the rows."""
    return [replace(one, numbers=np.roll(one.numbers, 1)) for one in measures]


@pytest.mark.parametrize(
    ("encryption", "message"), [("lattice", "Vectors"), ("paillier", "TableValues")]
)
def test_a_guest_that_has_other_numbers_added_up_is_found(
    room: AuditedRoom, encryption: Any, message: str
) -> None:
    guest_table = oneway.guest_table

    async def others(host: Any, chosen: Any, measures: Any, *rest: Any) -> Any:
        return await guest_table(host, chosen, swapped(measures), *rest)

    with mock.patch.object(oneway, "guest_table", others), contextlib.suppress(VflError):
        table(room, "registry:brand", encryption=encryption)
    with pytest.raises(MessageDiffers, match=rf"to registry differs: it was {message} of"):
        room.replay("insurer", last_run(room))


def test_a_host_that_adds_up_other_rows_is_found(room: AuditedRoom) -> None:
    cells_of = HostTable.cells

    def others(self: HostTable, chosen: Any) -> Any:
        cells = cells_of(self, chosen)
        return replace(cells, codes=np.roll(cells.codes, 1))

    with mock.patch.object(HostTable, "cells", others):
        table(room, "registry:brand", encryption="paillier")
    run = last_run(room)
    with pytest.raises(MessageDiffers, match="to insurer differs: it was TableSums of"):
        room.replay("registry", run)
    assert room.replay("insurer", run).complete


def test_what_a_table_was_made_of_is_found_changed(room: AuditedRoom) -> None:
    table(room, "bureau:driver_age", encryption="paillier")
    run, party = last_run(room), room.federation.parties["bureau"]
    changed = {head: [*cells] for head, cells in room.federation.tables["bureau"].items()}
    changed["driver_age"] = [f"{float(age or 20) + 1}" for age in changed["driver_age"]]
    write_table(party.table, changed)
    try:
        with pytest.raises(EvidenceDiffers, match=r"its column 'driver_age' is another$"):
            room.replay("bureau", run)
    finally:
        write_table(party.table, room.federation.tables["bureau"])
    request = {"by": [["bureau", "driver_age"]], "share": True}
    store, (found,) = room.there("insurer").store, room.runs("insurer", run)
    assert found.opening is not None
    found.opening.settings["asked"] = request
    save_evidence(store, found)
    with pytest.raises(EvidenceDiffers, match=r"the settings that run .* keeps is not what"):
        room.replay("insurer", run)


# --- Screenings. ------------------------------------------------------------------------------------


def screen(room: AuditedRoom, **settings: Any) -> None:
    job, show = Job.model_validate({**JOB, "screen": settings}), room.said["insurer"]
    asyncio.run(screening.screen(room.site("insurer"), job, wait=1, show=show))


@pytest.mark.slow
def test_screenings_replay(room: AuditedRoom) -> None:
    screen(room, vif=True, correlations=True, tell_hosts=True)
    before = {name: folder_of(room, name) for name in ALL}
    replay_all(room, last_run(room))
    assert {name: folder_of(room, name) for name in ALL} == before  # nothing is counted or kept anew


def test_what_is_about_an_alignment_is_listed_and_goes_with_it(room: AuditedRoom, model: str) -> None:
    screen(room, vif=False)
    table(room, "registry:brand")
    table(room, "registry:brand", model=model)
    for name in ("insurer", "registry"):
        store = room.there(name).store
        *_, of_screening, of_table, of_model = list_evidence(store)
        assert [of_screening.task, of_table.task] == ["screen", "oneway"]
        assert of_screening.subject == of_table.subject and of_model.subject == model
        alignment, runs = of_table.subject, {one.run for one in evidence_about(store, OF_MODEL, model)}
        assert alignment.startswith("first-") and of_model.run in runs and of_table.run not in runs
        about = {one.run for one in evidence_about(store, OF_ALIGNMENT, alignment)}
        assert {of_screening.run, of_table.run} <= about and of_model.run not in about


def test_a_guest_that_screens_numbers_of_its_own_is_found(room: AuditedRoom) -> None:
    guest_screen = screening.guest_screen

    async def others(host: Any, chosen: Any, numbers: Any, *rest: Any) -> Any:
        (actual,) = swapped([numbers.actual])
        return await guest_screen(host, chosen, replace(numbers, actual=actual), *rest)

    with mock.patch.object(screening, "guest_screen", others), contextlib.suppress(VflError):
        screen(room, vif=False)
    with pytest.raises(MessageDiffers, match=r"to \w+ differs: it was Vectors of"):
        room.replay("insurer", last_run(room))


def test_a_host_that_screens_other_rows_is_found(room: AuditedRoom) -> None:
    of_rows = ScreenedColumns.of_rows

    def others(self: ScreenedColumns, chosen: Any) -> Any:
        return [replace(one, codes=np.roll(one.codes, 1)) for one in of_rows(self, chosen)]

    with mock.patch.object(ScreenedColumns, "of_rows", others):
        screen(room, vif=False)
    run = last_run(room)
    with pytest.raises(MessageDiffers, match=r"to insurer differs: it was HintHeader of"):
        room.replay("registry", run)
    assert room.replay("insurer", run).complete


# --- Rows that are joined several times. ------------------------------------------------------------


@pytest.mark.slow
def test_all_kinds_replay_of_a_left_join_with_repeated_ids(
    tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = make_tables(400)
    tables["insurer"] = {head: [*cells, *cells[:60]] for head, cells in tables["insurer"].items()}
    federation = Federation(tmp_path, keys, guest_listens=True, tables=tables)
    federation.guest.settings["data"]["duplicates"] = "keep"
    for name in HOSTS:
        federation.parties[name].settings["policy"] = RULES
        federation.parties[name].settings["glm"] = {"bins": 4}
    room = AuditedRoom(federation)
    room.patch(monkeypatch)
    for module in (oneway, screening):
        monkeypatch.setattr(module, "hosts_of", room.hosts_of)
    replay_all(room, room.align(name="many", join="left").alignment.name)
    screen(room, vif=True, correlations=True)
    replay_all(room, last_run(room))
    glm = {"alpha": 0.0, "inference": True, "max_iterations": 3}
    model = room.train({**GLM_JOB, "glm": glm})
    replay_all(room, model)
    room.score(model)
    replay_all(room, model)
    table(room, "registry:brand", "insurer:density")
    replay_all(room, last_run(room), ("insurer", "registry"))
