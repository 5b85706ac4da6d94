"""Sealed directories that their hosts make again, and what is said of lookups in them."""

import asyncio
import base64
import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from audited import AuditedRoom, aligned_room
from click.testing import CliRunner
from federation import JOB, write_table
from test_audit_fuzz import ends_well, others_of
from test_host_lookups import LONG, ids_of, looking

from vfl.cli import main
from vfl.errors import ModelError
from vfl.jobs.directory_audit import (
    _FORM,
    check_directory,
    replay_directory,
    sign_directory,
)
from vfl.jobs.evidence import remove_evidence
from vfl.jobs.publishing import publish
from vfl.jobs.replaying import runs_named
from vfl.jobs.rerun import EvidenceDiffers
from vfl.party import identity
from vfl.party.audit.lines import entries_of
from vfl.party.documents import canonical_json, document
from vfl.party.ledger import FOLDER, JobEntry

HOST = "registry"


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[AuditedRoom]:
    with aligned_room(tmp_path_factory.mktemp("directories") / "room", keys) as made:
        made.federation.parties[HOST].settings["policy"]["directories"] = True
        yield made


@pytest.fixture(scope="module")
def model(room: AuditedRoom) -> str:
    """A model that a guest has looked rows up for."""
    name = room.train({**JOB, "secureboost": {**JOB["secureboost"], "trees": 1}})
    fetch(room, name)
    return name


def fetch(room: AuditedRoom, name: str) -> None:
    """Have the guest fetch the newest directory, and look some rows up in it."""

    async def run() -> None:
        async with looking(room, name) as (_, found):
            await found.wait(LONG)
            assert any((await found.look_up(ids_of(room)[:20])).parts)

    asyncio.run(run())


def certified(room: AuditedRoom, name: str, folder: Path) -> Path:
    site = room.there(HOST)
    path = folder / "directory.json"
    path.write_bytes(sign_directory(replay_directory(site, name, room.said[HOST]), site.identity))
    return path


def test_a_directory_is_made_again_of_the_half_that_was_trained(
    room: AuditedRoom, model: str, tmp_path: Path
) -> None:
    found = check_directory(room.there("insurer"), certified(room, model, tmp_path))
    trained = room.replay(HOST, model).shown["insurer"]
    (took,) = found.certificate.took
    assert (took.run, took.sha256) == (room.runs(HOST, model)[0].run, trained.left[took.what])
    assert found.signed_by == "registry itself"


def test_a_directory_of_other_columns_is_found(room: AuditedRoom, model: str) -> None:
    party, table = room.federation.parties[HOST], room.federation.tables[HOST]
    changed = {head: [*cells] for head, cells in table.items()}
    changed["power"] = changed["power"][::-1]
    write_table(party.table, changed)
    try:
        with pytest.raises(EvidenceDiffers, match=r"half and the table as they .*: its ids or its"):
            replay_directory(room.there(HOST), model, room.said[HOST])
    finally:
        write_table(party.table, table)


def test_a_directory_of_another_half_is_found(room: AuditedRoom, model: str, tmp_path: Path) -> None:
    """A half of the host's own making gives another directory: not of the one that was trained."""
    store = room.there(HOST).store
    before, body = store.path("model", model).read_bytes(), store.read("model", model)
    split = {**body["model"]["splits"][0], "threshold": 1e9}
    half = {**body["model"], "splits": [split, *body["model"]["splits"][1:]]}
    store.write("model", model, body | {"model": half})
    publish(room.there(HOST), model, room.said[HOST])
    other = replay_directory(room.there(HOST), model, room.said[HOST])
    assert other.took[0].sha256 != room.replay(HOST, model).shown["insurer"].left[other.took[0].what]
    store.path("model", model).write_bytes(before)
    with pytest.raises(EvidenceDiffers, match=r"is not what the program makes .*: its ids or its parts"):
        replay_directory(room.there(HOST), model, room.said[HOST])
    publish(room.there(HOST), model, room.said[HOST])
    path = certified(room, model, tmp_path)
    with pytest.raises(EvidenceDiffers, match=r"is about directory .* for this party is .*: have that"):
        check_directory(room.there("insurer"), path)
    fetch(room, model)
    assert check_directory(room.there("insurer"), path).certificate.took


def test_the_commands(room: AuditedRoom, model: str, tmp_path: Path) -> None:
    files = {name: str(room.federation.parties[name].file) for name in ("insurer", HOST)}
    fetch(room, model)
    identity.create(tmp_path / "auditor", "auditor")
    words = ["audit", "directory", files[HOST], "--model", model, "--out", str(tmp_path / "out")]
    said = CliRunner().invoke(main, [*words, "--auditor", str(tmp_path / "auditor"), "--json"])
    assert said.exit_code == 0, said.output
    (path,) = json.loads(said.stdout)["certificates"]
    check = ["audit", "check", files["insurer"], path]
    refused = CliRunner().invoke(main, check)
    assert refused.exit_code == 1 and "is not signed by registry but by auditor" in refused.output
    said = CliRunner().invoke(main, [*check, "--auditor", str(tmp_path / "auditor.pem")])
    assert said.exit_code == 0 and "has left, of which no certificate is here" in said.output
    assert "signed by the auditor auditor; all entries are the program's" in said.output
    trained = room.certify(HOST, room.replay(HOST, model), "insurer")
    own = certified(room, model, tmp_path)
    said = CliRunner().invoke(
        main, ["audit", "check", files["insurer"], str(own), str(trained), "--json"]
    )
    document = json.loads(said.stdout)
    assert [one["notes"] for one in document["directories"]] == [[]] and said.exit_code == 1
    assert [one["sender"] for one in document["runs"][0]["uncovered"]] == ["bureau"]
    content = Path(path).read_bytes()
    Path(path).write_bytes(content.replace(b'"host":"registry"', b'"host":"bureau"'))
    damaged = CliRunner().invoke(main, [*check, path])
    assert damaged.exit_code == 5 and "is damaged: its content does not match" in damaged.output
    with pytest.raises(EvidenceDiffers, match="is signed by another auditor than was named"):
        Path(path).write_bytes(content)
        other = identity.create(tmp_path / "other", "auditor")
        check_directory(room.there("insurer"), Path(path), other.certificate)
    with pytest.raises(ModelError, match="no directory of model none is served here"):
        replay_directory(room.there(HOST), "none", room.said[HOST])


def test_a_certificate_that_was_spoilt(room: AuditedRoom, model: str, tmp_path: Path) -> None:
    site = room.there(HOST)
    made = msgspec.to_builtins(replay_directory(site, model, room.said[HOST]))
    made["auditor"] = site.identity.certificate.pem.decode()
    path, guest = tmp_path / "directory.json", room.there("insurer")
    for other in others_of(made):
        signature = base64.b64encode(site.identity.sign(_FORM._signed(other))).decode()
        body = canonical_json({"certificate": other, "signature": signature})
        path.write_bytes(document(_FORM.name, _FORM.version, body))
        ends_well(lambda: check_directory(guest, path), other)


def test_lookups_are_not_replayed_and_a_line_says_why(room: AuditedRoom, model: str) -> None:
    store = room.there(HOST).store
    entries = [entry for _, (entry, _, _) in entries_of(store.root / FOLDER)]
    run = next(one.run for one in entries if isinstance(one, JobEntry) and one.task == "lookup")
    why = r"lookups in a sealed directory, which are not replayed: each answer has a proof"
    with pytest.raises(ModelError, match=f"^the messages of run {run[:12]} are {why}"):
        runs_named(store, run[:12])
    for one in room.runs(HOST, model):
        remove_evidence(store, one.run)
    with pytest.raises(ModelError, match=f"^all that is kept of {model} here are {why}"):
        runs_named(store, model)
