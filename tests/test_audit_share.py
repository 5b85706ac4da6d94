"""Hosts that keep a share of each training's trees on tape: what they replay, what their peers find."""

import asyncio
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from audited import LATTICE, AuditedRoom, aligned_room, put_back
from click.testing import CliRunner
from federation import GLM_JOB, JOB
from paillier_key import one_key
from room import Said

from vfl.cli import main
from vfl.crypto.lattice import direct
from vfl.jobs.audits import load_audits, looks_at_drawn, settle
from vfl.jobs.certificate import Covered
from vfl.jobs.commitments import Opening
from vfl.jobs.doctor import _report_tapes
from vfl.jobs.evidence import save_evidence, tape_file
from vfl.jobs.replaying import replay
from vfl.jobs.rerun import EvidenceDiffers
from vfl.jobs.tape_share import KeptSteps, StepsOnTape
from vfl.party.audit.conversations import conversations
from vfl.party.documents import canonical_json
from vfl.party.ledger import FOLDER
from vfl.party.tapes import read_tape

GUEST, SHARES, WHOLE = "insurer", "registry", "bureau"
SHARE, TREES = 0.4, 4


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[AuditedRoom]:
    """Parties that have aligned; guest and registry keep a share, the bureau all. Secrets follow from
    what is committed to, so that the same trees are kept each time: some, and not all."""
    draw = Opening.new

    @cache
    def secret_of(content: bytes) -> bytes:
        drawn = [hashlib.sha256(b"vfl %d" % salt + content).digest() for salt in range(64)]
        return next(one for one in drawn if 0 < len(kept_by(one)) < TREES)

    def known(table: Any, settings: Any) -> Opening:
        secret = secret_of(canonical_json(dict(table)))
        return msgspec.structs.replace(draw(table, settings), secret=secret)

    with (
        aligned_room(tmp_path_factory.mktemp("share") / "room", keys) as made,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name in (GUEST, SHARES):
            made.federation.parties[name].settings["party"]["tape"] = SHARE
        patch.setattr(Opening, "new", known)
        yield made


def with_trees(job: dict[str, Any], trees: int = TREES) -> dict[str, Any]:
    return {**job, "secureboost": {**job["secureboost"], "trees": trees}}


@pytest.fixture(scope="module", params=["paillier", "lattice", "matrices"])
def model(room: AuditedRoom, request: pytest.FixtureRequest) -> Iterator[str]:
    """Its name; of "matrices" hosts encrypt theirs, as in larger jobs of so few rows."""
    lattice = {**LATTICE, "job": {**JOB["job"], "name": request.param}}
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "matrices":
            patch.setattr(direct, "_LEAST_SPARED", 0)
        yield room.train(with_trees(JOB if request.param == "paillier" else lattice))


def kept_by(secret: bytes) -> list[int]:
    """The trees that are kept by a secret."""
    found = StepsOnTape(secret, SHARE).of(TREES)
    assert found is not None
    return found.kept


def kept_of(room: AuditedRoom, model: str) -> list[int]:
    """The trees that the registry has kept, by its secret: some, and not all."""
    kept = kept_by(room.runs(SHARES, model)[-1].opening.secret)
    assert 0 < len(kept) < TREES
    return kept


def payloads(room: AuditedRoom, run: str, name: str) -> list[bytes | None]:
    store = room.there(name).store
    with store.open("evidence", tape_file(store, run, GUEST)) as source:
        return [payload for _, payload in read_tape(source)]


def trees_that_lack(messages: Sequence[Covered]) -> set[int]:
    """The trees of which a certificate does not cover all messages of a host."""
    tree, found = 0, set[int]()
    for one in messages:
        if not one.digest:
            found.add(tree)
        tree += one.type == "TreeKept"
    return found


def test_what_was_kept_replays_and_the_rest_is_named(room: AuditedRoom, model: str) -> None:
    kept = kept_of(room, model)
    done = room.replay(SHARES, model, workers=2)
    assert not done.ended and not done.complete
    checked = room.check(GUEST, room.certify(SHARES, done, GUEST))
    assert checked.steps == done.shown[GUEST].steps == KeptSteps(SHARE, TREES, kept)
    assert {kind for _, kind in checked.uncovered} <= {"CandidateSums", "VectorSums"}
    assert trees_that_lack(checked.certificate.messages) == {*range(TREES)} - {*kept}
    # Who gets sums, and who keeps all, replays all.
    for name, peer in ((GUEST, SHARES), (WHOLE, GUEST)):
        whole = room.replay(name, model, workers=2)
        assert whole.complete and whole.shown[peer].steps is None
        assert room.check(peer, room.certify(name, whole, peer)).complete


def test_of_other_trees_what_is_long_is_not_on_disk(room: AuditedRoom, model: str) -> None:
    (share,), (whole,) = room.runs(SHARES, model), room.runs(WHOLE, model)
    found = payloads(room, share.run, SHARES)
    came = conversations(room.there(SHARES).store.root / FOLDER, share.run)[GUEST].received
    missing = [one for one, payload in zip(came, found, strict=True) if payload is None]
    assert {one.kind for one in missing} <= {"Gradients", "Vectors"}
    # An entry has a head of 13 bytes; nothing else is written.
    kept = sum(one.size for one, payload in zip(came, found, strict=True) if payload is not None)
    tape = tape_file(room.there(SHARES).store, share.run, GUEST)
    assert missing and tape.stat().st_size <= kept + 13 * len(came) + 300
    assert None not in payloads(room, whole.run, WHOLE)
    assert share.tape.steps == KeptSteps(SHARE, TREES, kept_of(room, model))
    assert isinstance(whole.tape.steps, msgspec.UnsetType)
    assert share.opening.settings["tape"] == SHARE and "tape" not in whole.opening.settings
    assert room.said[SHARES].has("a share of 0.4 of this run's trees is kept on tape")


def test_a_byte_of_the_tape_is_found(room: AuditedRoom, model: str, tmp_path: Path) -> None:
    with put_back(room, tmp_path / "before"):
        (run,) = room.runs(SHARES, model)
        store = room.there(SHARES).store
        path = tape_file(store, run.run, GUEST)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2] + b"\1" + content[len(content) // 2 + 1 :])
        with pytest.raises(EvidenceDiffers, match="tape"):
            room.replay(SHARES, model)


def test_a_host_that_keeps_less_than_it_has_committed_to_is_found(
    room: AuditedRoom, model: str, tmp_path: Path
) -> None:
    with put_back(room, tmp_path / "before"):
        store = room.there(SHARES).store
        (run,) = room.runs(SHARES, model)
        less = {**run.opening.settings, "tape": 1e-9}
        save_evidence(store, replace(run, opening=msgspec.structs.replace(run.opening, settings=less)))
        with pytest.raises(EvidenceDiffers, match="the settings that run"):
            room.replay(SHARES, model)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(StepsOnTape, "keeps", lambda self, step: False)
            other = room.train(with_trees(JOB))
        with pytest.raises(EvidenceDiffers, match="is not on the tape, and the party has committed to"):
            room.replay(SHARES, other)


def test_a_certificate_that_names_other_trees_does_not_hold(room: AuditedRoom, model: str) -> None:
    kept = kept_of(room, model)
    done = room.replay(SHARES, model)
    shown = done.shown[GUEST]

    def check(**changes: Any) -> None:
        made = replace(done, shown={GUEST: replace(shown, **changes)})
        room.check(GUEST, room.certify(SHARES, made, GUEST))

    check()
    # It was not played against what the guest has sent for trees that it names, or that it does not.
    for named in (KeptSteps(SHARE, TREES, [*range(TREES)]), None):
        with pytest.raises(EvidenceDiffers, match="against which registry was replayed, is not the one"):
            check(steps=named)
    with pytest.raises(EvidenceDiffers, match="another number of trees"):
        check(steps=KeptSteps(SHARE, TREES + 1, kept))
    tree, lacking = 0, list[Covered]()
    for one in shown.messages:
        lacks = tree == kept[0] and one.type in ("CandidateSums", "VectorSums")
        lacking.append(Covered(one.type, one.bytes, "") if lacks else one)
        tree += one.type == "TreeKept"
    with pytest.raises(EvidenceDiffers, match=f"names tree {kept[0] + 1} of the run as replayed"):
        check(messages=lacking)


def test_linear_models_and_alignments_are_kept_whole(room: AuditedRoom) -> None:
    for subject in (room.train(GLM_JOB), room.align(name="further").alignment.name):
        done = room.replay(SHARES, subject)
        assert done.complete and done.shown[GUEST].steps is None
        assert done.evidence.opening.settings["tape"] == SHARE


def test_a_run_that_goes_on_keeps_a_share_of_each_attempt(room: AuditedRoom) -> None:
    with room.losing_a_connection(2):
        model = room.train(with_trees(JOB, TREES + 1))
    runs = room.runs(SHARES, model)
    first, second = (room.replay(SHARES, model, attempt=attempt) for attempt in (0, 1))
    assert first.ended and not second.ended
    for done, run in zip((first, second), runs, strict=True):
        checked = room.check(GUEST, room.certify(SHARES, done, GUEST))
        steps = checked.steps
        assert steps is not None and steps.steps == (2 if run is runs[0] else TREES)
        assert trees_that_lack(checked.certificate.messages) <= {*range(steps.steps)} - {*steps.kept}
        assert {kind for _, kind in checked.uncovered} <= {"CandidateSums", "Stop"}
    assert second.shown[GUEST].before == [runs[0].run]


def test_a_guest_with_a_share_can_be_audited(room: AuditedRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps all that came to it: whatever a host draws later can be replayed."""
    monkeypatch.setitem(room.federation.parties[WHOLE].settings["policy"], "audit", 1.0)
    model = room.train(with_trees(JOB, 2))
    site = room.there(GUEST)
    (run,) = room.runs(GUEST, model)
    with one_key():
        done = asyncio.run(replay(site, run, Said(), lambda one: looks_at_drawn(site.store, one)))
    assert done.complete
    checked = room.check(WHOLE, room.certify(GUEST, done, WHOLE))
    there = room.there(WHOLE).store
    assert settle(there, checked)
    assert load_audits(there, model)[GUEST].state == "shown"


def test_commands(room: AuditedRoom, model: str, tmp_path: Path) -> None:
    kept = kept_of(room, model)
    trees = f"{len(kept)} of {TREES} trees ({', '.join(str(tree + 1) for tree in kept)})"
    file = str(room.federation.parties[SHARES].file)

    def call(*arguments: str, code: int = 0) -> str:
        with one_key():
            result = CliRunner().invoke(main, ["audit", *arguments])
        assert result.exit_code == code, result.output
        return result.stdout

    listed = call("list", file)
    assert re.search(rf"train\t{model}\t.*\tyes, {re.escape(trees)}\t", listed), listed
    (row,) = [one for one in json.loads(call("list", file, "--json"))["runs"] if one["subject"] == model]
    assert row["kept"] == {"share": SHARE, "steps": TREES, "kept": kept}
    out = str(tmp_path / "certificates")
    said = call("replay", file, "--run", model, "--out", out)
    assert f"sums of {trees} were looked at, of the others all else: its tape has a share of 0.4" in said
    (path,) = Path(out).iterdir()
    guest = str(room.federation.guest.file)
    found = call("check", guest, str(path), code=1)
    assert f"registry: sums of {trees} were looked at" in found and "NOT COVERED message" in found
    document = json.loads(call("check", guest, str(path), "--json", code=1))
    assert document["kept"]["kept"] == kept and not document["complete"]
    assert document["covered"] + len(document["uncovered"]) == document["received"]


def test_the_doctor_says_which_share(room: AuditedRoom) -> None:
    found = list[str]()
    _report_tapes(room.there(SHARES).party, lambda result: found.append(result.text))
    assert ", of trees at a host a share of 0.4 from now on, " in found[0]
