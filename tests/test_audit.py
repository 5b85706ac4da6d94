"""Runs of jobs that are replayed by their parties, and what is found where one did something else."""

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import pytest
from audited import LATTICE, AuditedRoom, aligned_room, make_room, put_back
from click.testing import CliRunner
from federation import GLM_JOB, JOB, write_table
from paillier_key import one_key
from room import HOSTS

from vfl.cli import main
from vfl.errors import DataError, ModelError
from vfl.jobs import evidence as kept_evidence
from vfl.jobs import replaying, resume
from vfl.jobs.certificate import check_certificate
from vfl.jobs.evidence import find_evidence, load_evidence, save_evidence, tape_file, tapes_of
from vfl.jobs.hints import lock_hints
from vfl.jobs.kept_evidence import list_evidence
from vfl.jobs.record import load_record
from vfl.jobs.replaying import runs_named
from vfl.jobs.rerun import EvidenceDiffers
from vfl.party import identity
from vfl.party.at_rest import is_encrypted
from vfl.party.documents import canonical_json, document
from vfl.party.identity import Identity, load_certificate
from vfl.party.ledger import FOLDER, JobEntry, Ledger, MessageEntry, decode, months
from vfl.party.tapes import InTurn, read_tape

ALL = ("insurer", *HOSTS)
OTHERS = {"insurer": HOSTS, **dict.fromkeys(HOSTS, ("insurer",))}
LATTICE_GLM = {
    **GLM_JOB,
    "job": {**GLM_JOB["job"], "name": "lattice-glm"},
    "glm": {**GLM_JOB["glm"], "encryption": "lattice"},
}


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[AuditedRoom]:
    """Parties that have aligned, in which tests train."""
    with aligned_room(tmp_path_factory.mktemp("audit") / "room", keys) as room:
        yield room


@pytest.fixture(scope="module")
def trees(honest: AuditedRoom) -> str:
    """The name of a model."""
    return honest.train(JOB)


@pytest.fixture
def spoilt(honest: AuditedRoom, trees: str, tmp_path: Path) -> Iterator[tuple[AuditedRoom, str]]:
    """The same parties, of which a test may spoil what they keep."""
    with put_back(honest, tmp_path / "before"):
        yield honest, trees


def replay_all(room: AuditedRoom, subject: str) -> None:
    """All parties replay a run to its last byte, and each of their peers finds that it is all."""
    for name in ALL:
        done = room.replay(name, subject, workers=2)
        assert done.complete and not done.ended
        for peer in OTHERS[name]:
            checked = room.check(peer, room.certify(name, done, peer))
            assert checked.complete and checked.received == done.shown[peer].of > 0
            assert checked.certificate.checked == ["secret", "settings", "table"]


@pytest.mark.parametrize(
    ("join", "engine"),
    [("inner", "ecdh"), pytest.param("left", "ot", marks=pytest.mark.slow), ("inner", "vole")],
)
def test_alignments_replay(honest: AuditedRoom, join: str, engine: str) -> None:
    made = honest.align(join=join, engine=engine, name=f"{join}-{engine}").alignment
    replay_all(honest, made.name)


def test_an_extended_alignment_replays_and_says_on_what_it_relies(honest: AuditedRoom) -> None:
    first = honest.align(name="base").alignment.name
    made = honest.align(extend=first, name="more").alignment.name
    replay_all(honest, made)
    for party, peer in (("bureau", "insurer"), ("insurer", "bureau")):
        before, shown = (honest.replay(party, name).shown[peer] for name in (first, made))
        (took,) = shown.took
        assert (took.what, took.run) == ("alignment", honest.runs(party, first)[0].run)
        assert took.sha256 == before.left["alignment"] != shown.left["alignment"]
        assert not shown.relies


def test_trees_replay(honest: AuditedRoom, trees: str) -> None:
    replay_all(honest, trees)


def test_a_linear_model_replays(honest: AuditedRoom) -> None:
    replay_all(honest, honest.train(GLM_JOB))


@pytest.mark.slow
def test_trees_replay_that_go_on_with_a_hint(honest: AuditedRoom) -> None:
    first, second = honest.train(LATTICE), honest.train(LATTICE)
    replay_all(honest, first)
    replay_all(honest, second)
    assert not honest.replay("insurer", first).shown["bureau"].relies
    (run,) = honest.runs("insurer", second)
    # As a training has them that goes on.
    with lock_hints(honest.there("insurer").store, run.agreement.terms.alignment or ""):
        relies = honest.replay("insurer", second).shown["bureau"].relies
    assert relies == [f"on a hint of {host} that came in an earlier run" for host in HOSTS]
    before, shown = (honest.replay("bureau", model).shown["insurer"] for model in (first, second))
    took = {one.what: one for one in shown.took}["hint"]
    assert (took.run, took.sha256) == (honest.runs("bureau", first)[0].run, before.left["hint"])
    assert not shown.relies
    honest.train(LATTICE_GLM)  # has a hint of its own
    shutil.rmtree(honest.there("insurer").store.folder("hint"))
    with pytest.raises(ModelError, match=r"hint of \w+ that an earlier run has kept and that is"):
        honest.replay("insurer", second)


@pytest.mark.slow
def test_a_linear_model_replays_under_the_lattice_engine(honest: AuditedRoom) -> None:
    replay_all(honest, honest.train(LATTICE_GLM))


def test_a_batch_replays(honest: AuditedRoom) -> None:
    model = honest.train(JOB)
    honest.score(model)
    replay_all(honest, model)
    for name in HOSTS:
        done = honest.replay(name, model)
        assert done.evidence.agreement.terms.task == "score"
        before, shown = honest.replay(name, model, attempt=0).shown["insurer"], done.shown["insurer"]
        (took,) = shown.took
        assert (took.what, took.run) == ("half of the model", honest.runs(name, model)[0].run)
        assert took.sha256 == before.left["half of the model"]


# --- What is spoilt is found and named. -------------------------------------------------------------


def cell(room: AuditedRoom, name: str, column: str) -> None:
    """Change a digit of one row that is aligned."""
    party = room.federation.parties[name]
    table = {head: [*cells] for head, cells in room.federation.tables[name].items()}
    site = room.there(name)
    rows = kept_rows(site)
    row = next(row for row in rows if table[column][row])
    table[column][row] = "1" if table[column][row] == "0" else "0"
    write_table(party.table, table)


def kept_rows(site: Any) -> list[int]:
    from vfl.jobs.alignments import find_alignment

    return [row for row in find_alignment(site.store, "first").rows.tolist() if row >= 0]


def change(room: AuditedRoom, name: str, model: str, how: Callable[[Any], Any]) -> None:
    """Change what a party keeps of a run, as who has its passphrase could."""
    store, found = room.there(name).store, room.runs(name, model)[0]
    save_evidence(store, how(found))


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def spoil_tape(room: AuditedRoom, model: str) -> None:
    store, (found,) = room.there("registry").store, room.runs("registry", model)
    path = tape_file(store, found.run, "insurer")
    path.write_bytes(flipped(path.read_bytes(), 1000))


def spoil_ledger(room: AuditedRoom, model: str) -> None:
    store = room.there("registry").store
    path = months(store.root / FOLDER)[-1]
    content = path.read_bytes()
    at = content.index(b'"blake3":"', len(content) // 2) + 10
    path.write_bytes(content[:at] + (b"1" if content[at : at + 1] == b"0" else b"0") + content[at + 1 :])


def spoil_secret(room: AuditedRoom, model: str) -> None:
    def how(found: Any) -> Any:

        secret = flipped(found.opening.secret, 31)
        return replace(found, opening=msgspec.structs.replace(found.opening, secret=secret))

    change(room, "registry", model, how)


def spoil_settings(room: AuditedRoom, model: str) -> None:
    def how(found: Any) -> Any:
        found.opening.settings["policy"]["min_child_rows"] += 1
        return found

    change(room, "registry", model, how)


def forge_all(room: AuditedRoom, model: str) -> None:
    """Another secret with commitments that fit it: they are not those that were signed."""

    def how(found: Any) -> Any:

        secret = flipped(found.opening.secret, 31)
        opening = msgspec.structs.replace(found.opening, secret=secret)
        return replace(found, opening=opening, commitments=opening.commitments)

    change(room, "registry", model, how)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda room, model: cell(room, "registry", "power"), "its column 'power' is another$"),
        (
            spoil_tape,
            r"message \d+ of insurer on the tape is not the one|tape of insurer is",
        ),
        (spoil_ledger, r"the ledger is not whole: \d{4}-\d\d.jsonl:\d+ was changed"),
        (spoil_secret, "the secret that run [0-9a-f]{12} keeps is not what the party committed to$"),
        (spoil_settings, "the settings that run .* keeps is not what the party committed to$"),
        (forge_all, "the commitments that are kept of run .* are not those that were signed$"),
    ],
)
def test_what_was_changed_is_found_and_named(
    spoilt: tuple[AuditedRoom, str], spoil: Callable[[AuditedRoom, str], None], said: str
) -> None:
    room, model = spoilt
    spoil(room, model)
    with pytest.raises(EvidenceDiffers, match=said):
        room.replay("registry", model)


@pytest.mark.parametrize(("column", "part"), [("claim", "label"), ("density", "column 'density'")])
def test_a_guests_table_that_was_changed_is_found(
    spoilt: tuple[AuditedRoom, str], column: str, part: str
) -> None:
    room, model = spoilt
    cell(room, "insurer", column)
    with pytest.raises(EvidenceDiffers, match=f"the party committed to: its {part} is another$"):
        room.replay("insurer", model)


def test_rows_that_came_later_change_nothing(spoilt: tuple[AuditedRoom, str]) -> None:
    room, model = spoilt
    table = room.federation.tables["registry"]
    more = {head: [*cells, cells[0]] for head, cells in table.items()}
    more["registration"][-1] = "zz99 zz99"
    write_table(room.federation.parties["registry"].table, more)
    assert room.replay("registry", model).complete


def test_a_policy_that_has_changed_since_changes_nothing(spoilt: tuple[AuditedRoom, str]) -> None:
    room, model = spoilt
    settings = room.federation.parties["registry"].settings["policy"]
    with mock.patch.dict(settings, {"min_child_rows": 100, "max_trees": 1, "show_names": False}):
        assert room.replay("registry", model).complete


def test_a_replay_goes_on_beside_a_training_and_another_replay(honest: AuditedRoom, trees: str) -> None:
    """It has no lock that a training on the alignment has: to meet one would look like a difference."""
    (run,) = honest.runs("insurer", trees)
    with lock_hints(honest.there("insurer").store, run.agreement.terms.alignment or ""):
        assert honest.replay("insurer", trees).complete


def test_what_this_machine_lacks_is_no_difference(spoilt: tuple[AuditedRoom, str]) -> None:
    room, model = spoilt
    table = room.federation.parties["bureau"].table
    table.rename(table.with_name("elsewhere.csv"))
    with pytest.raises(DataError, match=f"^no file .*{table.name}"):
        room.replay("bureau", model)


def test_a_run_is_named_by_its_first_digits(honest: AuditedRoom, trees: str) -> None:
    store, (run,) = honest.there("bureau").store, honest.runs("bureau", trees)
    assert runs_named(store, run.run[:12].upper()) == runs_named(store, run.run) == [run]
    for name, said in (
        (run.run[:3], "nothing is kept of a run"),
        (run.subject[:-1], f"did you mean {run.subject}"),
        ("claim", "did you mean claims"),
    ):
        with pytest.raises(ModelError, match=said):
            runs_named(store, name)
    same = [replace(run, run=run.run[:4] + other * 60) for other in "01"]
    with (
        mock.patch.object(replaying, "find_evidence", lambda _: same),
        pytest.raises(ModelError, match=f"2 runs begin with {run.run[:4]}: give more digits"),
    ):
        runs_named(store, run.run[:4])


def test_what_the_store_answered_is_found_damaged(honest: AuditedRoom) -> None:
    model = honest.train(LATTICE)
    store, (found,) = honest.there("bureau").store, honest.runs("bureau", model)
    path = tape_file(store, found.run, kept_evidence.OWN)
    content = path.read_bytes()
    path.write_bytes(flipped(content, len(content) - 1))
    with pytest.raises(ModelError, match="what the run has asked of the store is damaged"):
        honest.replay("bureau", model)


def test_tapes_and_secrets_are_encrypted_where_the_store_is(
    tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Identity, "under_passphrase", True)
    room = make_room(tmp_path / "room", keys)
    room.patch(monkeypatch)
    name = room.align().alignment.name
    for party in ALL:
        store, (found,) = room.there(party).store, room.runs(party, name)
        files = [store.path("evidence", found.name), *tapes_of(store, found.run)]
        assert len(files) >= 2 and all(is_encrypted(path) for path in files)
    replay_all(room, name)
    path = tape_file(store, found.run, "insurer")
    path.write_bytes(flipped(path.read_bytes(), 900))
    with pytest.raises(EvidenceDiffers, match="the tape of insurer is damaged"):
        room.replay("bureau", name)


# --- Certificates. ----------------------------------------------------------------------------------


def test_a_certificate_that_says_something_else_does_not_hold(
    honest: AuditedRoom, trees: str, tmp_path: Path
) -> None:
    done = honest.replay("registry", trees)
    path = honest.certify("registry", done, "insurer")
    with pytest.raises(ModelError, match="is for insurer: ask registry for the one for bureau"):
        honest.check("bureau", path)
    body = json.loads(path.read_bytes())["body"]
    body["certificate"]["messages"][0][2] = "00" * 32
    path.write_bytes(document("vfl/replay-certificate", 1, canonical_json(body)))
    with pytest.raises(EvidenceDiffers, match=r"the signature of .* does not hold"):
        honest.check("insurer", path)
    # The party itself may sign what it likes.
    shown = done.shown["insurer"]
    forged = replace(shown, messages=[shown.messages[1], *shown.messages[1:]])
    other = replace(done, shown={"insurer": forged})
    with pytest.raises(EvidenceDiffers, match="message 1 of registry in the run is not the one of"):
        honest.check("insurer", honest.certify("registry", other, "insurer"))
    short = replace(done, shown={"insurer": replace(shown, messages=shown.messages[:-2])})
    checked = honest.check("insurer", honest.certify("registry", short, "insurer"))
    assert not checked.complete
    assert [number for number, _ in checked.uncovered] == [shown.of - 1, shown.of]


def test_a_certificate_is_not_held_against_a_ledger_that_was_written_anew(
    spoilt: tuple[AuditedRoom, str],
) -> None:
    """By who has the key: seals that came with runs tell, and the peer is not blamed."""
    room, model = spoilt
    path = room.certify("bureau", room.replay("bureau", model), "insurer")
    site = room.there("insurer")
    folder = site.store.root / FOLDER
    lines = [line for month in months(folder) for line in month.read_bytes().splitlines()]
    shutil.rmtree(folder)
    for seal in (room.federation.parties["insurer"].folder / "keys").glob("*.seal-*.json"):
        seal.unlink()
    forger = Ledger(folder, site.identity, "guest")
    for entry in (decode(line).entry for line in lines):
        if isinstance(entry, MessageEntry) and entry.peer == "bureau":
            forger.append(msgspec.structs.replace(entry, blake3="11" * 32), "nothing")
        elif isinstance(entry, JobEntry | MessageEntry):
            forger.append(entry, "nothing")
    forger.seal()
    with pytest.raises(EvidenceDiffers, match="this party's own ledger is not whole: no line has the"):
        room.check("insurer", path)


def test_an_auditors_own_key(honest: AuditedRoom, trees: str, tmp_path: Path) -> None:
    from vfl.jobs.certificate import make_certificate

    auditor = identity.create(tmp_path / "auditor", "auditor")
    done = honest.replay("registry", trees)
    path = tmp_path / "certificate.json"
    path.write_bytes(make_certificate(done.evidence, done.shown["insurer"], auditor))
    site = honest.there("insurer")
    with pytest.raises(EvidenceDiffers, match="not signed by registry but by auditor: name the"):
        check_certificate(site, path)
    found = check_certificate(site, path, load_certificate(tmp_path / "auditor.pem"))
    assert found.complete and found.signed_by == "the auditor auditor"
    other = identity.create(tmp_path / "other", "auditor")
    with pytest.raises(EvidenceDiffers, match="signed by another auditor than was named, one whose"):
        check_certificate(site, path, other.certificate)
    with pytest.raises(EvidenceDiffers, match="signed by auditor, and insurer was named"):
        check_certificate(site, path, site.identity.certificate)


def test_a_file_of_another_kind_is_no_certificate(honest: AuditedRoom, trees: str) -> None:
    site, party = honest.there("insurer"), honest.federation.parties["insurer"]
    for path in (party.file, party.table):
        with pytest.raises(ModelError, match=f"{path.name} is no certificate of a replay$"):
            check_certificate(site, path)
    path = honest.certify("registry", honest.replay("registry", trees), "insurer")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ModelError, match="is damaged: it is no valid JSON"):
        check_certificate(site, path)


# --- Runs that were broken off. ---------------------------------------------------------------------


def test_a_run_that_goes_on_replays_by_attempt(honest: AuditedRoom) -> None:
    job = {**JOB, "secureboost": {**JOB["secureboost"], "trees": 3}}
    with honest.losing_a_connection(2):
        model = honest.train(job)
    for name in ALL:
        runs = honest.runs(name, model)
        assert [run.agreement.terms.done for run in runs] == [0, 1]
        first, second = (honest.replay(name, model, attempt=attempt, workers=2) for attempt in (0, 1))
        assert not first.evidence.whole and first.ended
        assert second.complete and not second.ended
        for done in (first, second):
            for peer in OTHERS[name]:
                checked = honest.check(peer, honest.certify(name, done, peer))
                assert {kind for _, kind in checked.uncovered} <= {"Stop"}
                before = [] if done is first else [first.evidence.run]
                assert checked.certificate.went_on_from == before
        made_up = replace(second.shown[peer], before=["ab" * 32])
        path = honest.certify(name, replace(second, shown={peer: made_up}), peer)
        with pytest.raises(EvidenceDiffers, match="attempt abababababab, which is none that this party"):
            honest.check(peer, path)
    assert len({run.opening.secret for name in ALL for run in honest.runs(name, model)}) == 6


def test_a_tape_is_on_disk_as_far_as_a_checkpoint_goes(
    honest: AuditedRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else who is killed could never replay the attempt that goes on from it."""
    written, seen = resume.Unfinished._write, dict[tuple[str, int], int]()
    stores = {name: honest.there(name).store for name in ("insurer", "bureau")}

    def write(self: resume.Unfinished, state: Any) -> None:
        written(self, state)
        for name, store in stores.items():
            if self.name in {path.stem for path in store.files("checkpoint", self.name)}:
                (run,) = [one.run for one in find_evidence(store) if one.subject == self.name]
                tapes = [path for path in tapes_of(store, run) if kept_evidence.OWN not in path.name]
                seen[name, state.done] = sum(len([*read_tape(path.open("rb"))]) for path in tapes)

    monkeypatch.setattr(resume.Unfinished, "_write", write)
    late = partial(InTurn, enough=1 << 30, seconds=3600.0)  # writes nothing that it is not asked for
    monkeypatch.setattr(kept_evidence, "InTurn", late)
    honest.train(JOB)
    for name in stores:
        counts = [count for (party, _), count in sorted(seen.items()) if party == name]
        assert 0 < counts[0] < counts[1]


def test_a_full_disk_ends_the_tape_and_not_the_job(
    honest: AuditedRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_evidence, "SPARE", 1 << 62)
    model = honest.train(JOB)
    assert honest.said["insurer"].has("note: the tape of this run ends here")
    (found,) = honest.runs("insurer", model)
    assert found.whole and found.tape.why_ended.startswith("its disk has less than")
    done = honest.replay("insurer", model)
    assert done.ended and not done.complete


def test_without_a_tape_nothing_is_committed_to_or_kept(
    honest: AuditedRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ALL:
        monkeypatch.setitem(honest.federation.parties[name].settings["party"], "tape", "none")
    model = honest.train(GLM_JOB)
    for name in ALL:
        store = honest.there(name).store
        agreement = load_record(store, model)[0].agreement
        assert agreement is not None and not agreement.commitments
        assert not [one for one in find_evidence(store) if one.subject == model]
    # Where one party alone keeps a tape, the others keep what it has signed.
    monkeypatch.setitem(honest.federation.parties["bureau"].settings["party"], "tape", "all")
    model = honest.train(GLM_JOB)
    (found,) = honest.runs("insurer", model)
    assert found.opening is None and set(found.agreement.commitments) == {"bureau"}
    assert not tapes_of(honest.there("insurer").store, found.run)
    checked = honest.check(
        "insurer", honest.certify("bureau", honest.replay("bureau", model), "insurer")
    )
    assert checked.complete
    with pytest.raises(ModelError, match=r"no tape of run [0-9a-f]{12} was kept here"):
        honest.replay("insurer", model)


def test_a_run_of_another_protocol_is_refused(spoilt: tuple[AuditedRoom, str]) -> None:
    room, model = spoilt
    change(room, "bureau", model, lambda found: replace(found, protocol=2, version="0.0.9"))
    with pytest.raises(ModelError, match=r"is of vfl 0\.0\.9, which speaks protocol 2, where this one"):
        room.replay("bureau", model)
    listed = [one.replay for one in list_evidence(room.there("bureau").store) if one.subject == model]
    assert listed == ["yes, by a version of protocol 2"]


def test_a_secret_is_removed_on_request(spoilt: tuple[AuditedRoom, str]) -> None:
    from vfl.jobs.kept_evidence import forget

    room, model = spoilt
    store, runs = room.there("bureau").store, room.runs("bureau", model)
    forget(store, runs)
    (found,) = room.runs("bureau", model)
    assert found.opening is None and not tapes_of(store, found.run)
    assert load_evidence(store, found.name).agreement == runs[0].agreement
    with pytest.raises(ModelError, match=r"the secret of run .* was removed on .*: it cannot"):
        room.replay("bureau", model)


def told(*words: str) -> dict[str, Any]:
    result = CliRunner().invoke(main, [*words, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_what_is_kept_is_listed_forgotten_and_removed(spoilt: tuple[AuditedRoom, str]) -> None:
    room, model = spoilt
    file = str(room.federation.parties["bureau"].file)
    (run,) = [one for one in told("audit", "list", file)["runs"] if one["subject"] == model]
    assert (run["task"], run["replay"]) == ("train", "yes")
    assert sorted(run["commitments"]) == sorted(ALL)
    gone = told("audit", "forget", file, "--run", run["run"][:12], "--yes")
    assert len(gone["files"]) >= 2 and gone["bytes"] > 0
    (after,) = [one for one in told("audit", "list", file)["runs"] if one["subject"] == model]
    assert after["replay"] == "forgotten" and after["bytes"] < run["bytes"]
    document = room.there("bureau").store.path("evidence", run["run"][:32])
    before = document.read_bytes()
    document.write_bytes(flipped(before, len(before) // 2))
    result = CliRunner().invoke(main, ["audit", "list", file])
    assert result.exit_code == 0 and f"note: {document}" in result.output
    document.write_bytes(before)
    told("models", "remove", file, "--model", model, "--yes")
    assert model not in {one["subject"] for one in told("audit", "list", file)["runs"]}
    result = CliRunner().invoke(main, ["audit", "replay", file, "--run", "nothing"])
    assert result.exit_code == 5 and "nothing is kept of a run nothing" in result.output


def test_digests_of_columns_are_shown_under_the_partys_key(honest: AuditedRoom, trees: str) -> None:
    file, model = str(honest.federation.parties["registry"].file), honest.train(GLM_JOB)
    runs = {name: honest.runs("registry", name)[0] for name in (trees, model)}
    with one_key():
        (first,), (second,) = (told("audit", "replay", file, "--run", name)["runs"] for name in runs)
    assert "column 'power'" in first["table"]
    assert first["table"] == second["table"]  # of the same columns and rows
    for run, said in zip(runs.values(), (first, second), strict=True):
        assert run.opening is not None and said["table"].keys() == run.opening.table.keys()
        assert not {*said["table"].values()} & {*run.opening.table.values()}


# --- The walk of docs/audit.md. ---------------------------------------------------------------------

PAGE = Path(__file__).parents[1] / "docs" / "audit.md"


def walks() -> list[tuple[str, str, list[str]]]:
    """Who types which command, and the lines that the page shows of what it prints."""
    found: list[tuple[str, str, list[str]]] = []
    for block in re.findall(r"<!-- walk -->\n```console\n(.*?)```", PAGE.read_text(), re.DOTALL):
        for line in block.splitlines():
            if (typed := re.match(r"(\w+)\$ (.*)", line)) is not None:
                found.append((typed[1], typed[2], []))
            else:
                found[-1][2].append(line)
    return found


def shown(line: str) -> str:
    """A line of the page as a pattern: runs and numbers are others each time."""
    parts = (re.sub(r"\d+", r"[\\d,]+", re.escape(part)) for part in line.split("0123456789ab"))
    return "[0-9a-f]{12}".join(parts)


def test_the_walk_of_an_auditor(honest: AuditedRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    honest.train(JOB)
    folders = {name: party.folder for name, party in honest.federation.parties.items()}
    folders["auditor"] = honest.federation.folder / "auditor"
    folders["auditor"].mkdir()
    done = []
    for who, typed, expected in walks():
        monkeypatch.chdir(folders[who])
        command, *words = shlex.split(typed)
        words = [str(one) for word in words for one in (Path().glob(word) if "*" in word else [word])]
        if command != "vfl":
            subprocess.run([command, *words], check=True)
            continue
        with one_key():
            result = CliRunner().invoke(main, words)
        assert result.exit_code == 0, result.output
        for line in expected:
            assert re.search(f"^{shown(line)}$", result.output, re.MULTILINE), (line, result.output)
        done.append(" ".join(words[:2]))
    assert done[-2:] == ["audit replay", "audit check"]
