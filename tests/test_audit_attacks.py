"""Parties that do something else than the program in a run, and what a replay or a peer finds of it."""

import base64
import contextlib
import hashlib
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import gmpy2
import msgspec
import numpy as np
import pytest
from audited import LATTICE, AuditedRoom, aligned_room, put_back
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from federation import GLM_JOB, JOB, write_table

from vfl.errors import VflError
from vfl.jobs import alignment, rerun
from vfl.jobs import evidence as kept_evidence
from vfl.jobs.alignments import find_alignment
from vfl.jobs.evidence import (
    Evidence,
    find_evidence,
    remove_evidence,
    save_evidence,
    tape_file,
    tapes_of,
)
from vfl.jobs.kept_evidence import forget
from vfl.jobs.rerun import EvidenceDiffers
from vfl.learn.losses import LogisticLoss
from vfl.net import wire
from vfl.net.peer import HEADER, MemoryPeer
from vfl.net.replay import MessageDiffers
from vfl.party.identity import Identity
from vfl.party.ledger import FOLDER, months
from vfl.party.tapes import TapeWriter, read_tape
from vfl.protocols.align.join import KeyIds
from vfl.protocols.linear.encrypted_product import EncryptedProduct, Layout
from vfl.protocols.linear.fitting import FitLoop
from vfl.protocols.linear.products import Residuals


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


def last_run(room: AuditedRoom, name: str) -> str:
    return find_evidence(room.there(name).store)[-1].run


def cheat(room: AuditedRoom, job: dict[str, Any], *patches: Any) -> None:
    """A run of which one party has another program, however it ends."""
    with contextlib.ExitStack() as stack, contextlib.suppress(VflError):
        for patch in patches:
            stack.enter_context(patch)
        room.train(job)


def one_row(self: LogisticLoss, score: Any, label: Any, weight: Any) -> Any:
    """Gradients that tell in which bins of a host one row is."""
    gradient = np.zeros(score.shape)
    gradient[..., 3] = 1.0
    return gradient, np.full(score.shape, 0.25)


@pytest.mark.parametrize(("job", "message"), [(JOB, "Gradients"), (LATTICE, "Vectors")])
def test_a_guest_that_encrypts_numbers_of_its_own_is_found(
    honest: AuditedRoom, job: dict[str, Any], message: str
) -> None:
    cheat(honest, job, mock.patch.object(LogisticLoss, "damped_gradients", one_row))
    with pytest.raises(
        MessageDiffers, match=rf"^message \d+ to \w+ differs: it was {message} of [\d,]+"
    ):
        honest.replay("insurer", last_run(honest, "insurer"))


def test_a_guest_of_a_linear_model_that_sends_other_residuals_is_found(honest: AuditedRoom) -> None:
    rounded = FitLoop._rounded

    def one(self: FitLoop, residuals: Any) -> Any:
        return rounded(self, (np.arange(len(residuals)) == 3).astype(float))

    job = {**GLM_JOB, "glm": {**GLM_JOB["glm"], "max_iterations": 2}}
    cheat(honest, job, mock.patch.object(FitLoop, "_rounded", one))
    with pytest.raises(MessageDiffers, match=r"to \w+ differs: it was FitNext of [\d,]+ bytes"):
        honest.replay("insurer", last_run(honest, "insurer"))


def test_a_host_that_has_residuals_of_its_choice_opened_is_found(honest: AuditedRoom) -> None:
    mask = EncryptedProduct.mask

    async def packed(self: EncryptedProduct, layout: Layout, places: Any = None) -> Any:
        _, masks = await mask(self, layout)
        key = self._workers.key
        total = gmpy2.mpz(1)
        for row in reversed(key.integers(self.sums._store.array[:64])):
            total = total * total * row % key.n_squared
        return key.add(key.array([total]), key.unsafe_encrypt(masks)), masks

    cheat(honest, GLM_JOB, mock.patch.object(EncryptedProduct, "mask", packed))
    run = last_run(honest, "registry")
    with pytest.raises(MessageDiffers, match=r"to insurer differs: it was MaskedProducts of [\d,]+"):
        honest.replay("registry", run)
    assert honest.replay("insurer", run).shown  # who was asked did as it should


@pytest.mark.slow
def test_a_host_that_was_played_against_messages_of_its_own_making_is_found(honest: AuditedRoom) -> None:
    """Its ledger and its tape have what it puts in the place of what came, and all follows from that."""
    get = MemoryPeer._get

    async def turned(self: MemoryPeer) -> bytes:
        frame = await get(self)
        with contextlib.suppress(wire.WireError):
            found = wire.decode(frame[HEADER:], (Residuals,))
            half = len(found.ciphertexts) // 2
            other = found.ciphertexts[half:] + found.ciphertexts[:half]
            frame = frame[:HEADER] + wire.encode(Residuals(other))
        return frame

    cheat(honest, GLM_JOB, mock.patch.object(MemoryPeer, "_get", turned))
    run = last_run(honest, "registry")
    done = honest.replay("registry", run)
    theirs = honest.certify("registry", done, "insurer")
    why = r"message \d+ of insurer, against which registry was replayed, is not the one that left here"
    with pytest.raises(EvidenceDiffers, match=why):
        honest.check("insurer", theirs)
    mine = honest.replay("insurer", run)
    with pytest.raises(EvidenceDiffers, match=r"message \d+ of insurer in the run is not the one of"):
        honest.check("registry", honest.certify("insurer", mine, "registry"))


def answer_otherwise(
    room: AuditedRoom, name: str, run: str, what: str, change: Callable[[Any], Any]
) -> int:
    """Rewrite what a party's store is said to have answered; how many answers were others."""
    store, (found,) = room.there(name).store, room.runs(name, run)
    path = tape_file(store, found.run, kept_evidence.OWN)
    with store.open("evidence", path) as source:
        entries = [(number, *msgspec.msgpack.decode(entry)) for number, entry in read_tape(source)]
    changed = sum(said.startswith(what) for _, said, _ in entries)
    path.unlink()
    digest = hashlib.sha256()
    with store.writing("evidence", path) as sink:
        writer = TapeWriter(sink)
        for number, said, given in entries:
            entry = msgspec.msgpack.encode((said, change(given) if said.startswith(what) else given))
            writer.add(number, "answer", entry)
            digest.update(entry)
    tape = msgspec.structs.replace(found.tape, answers=digest.hexdigest())
    save_evidence(store, replace(found, tape=tape))
    return changed


@pytest.mark.parametrize("told", [-1.0, 0.5, 1e9, math.inf, math.nan])
def test_a_time_that_no_program_tells_is_found(
    spoilt: tuple[AuditedRoom, str], monkeypatch: pytest.MonkeyPatch, told: float
) -> None:
    room, model = spoilt
    monkeypatch.setattr(rerun, "_check_answers", mock.Mock())  # it has written its ledger anew, too
    assert answer_otherwise(room, "registry", model, "seconds", lambda _: told)
    with pytest.raises(EvidenceDiffers, match="has told insurer a time that the program does not tell"):
        room.replay("registry", model)


def test_answers_that_are_made_up_after_the_run_are_found(spoilt: tuple[AuditedRoom, str]) -> None:
    room, model = spoilt
    assert answer_otherwise(room, "registry", model, "seconds", lambda given: given + 8.0)
    why = r"^what the run has asked of the store is not what its ledger has a digest of in line [\d,]+$"
    with pytest.raises(EvidenceDiffers, match=why):
        room.replay("registry", model)


def test_a_run_whose_ledger_has_nothing_of_its_answers_says_so(
    honest: AuditedRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of an earlier version."""
    monkeypatch.setattr(kept_evidence._Tapes, "_note_answers", lambda self: None)
    model = honest.align(name="earlier").alignment.name
    shown = honest.replay("registry", model).shown["insurer"]
    assert shown.relies == ["on what its store has answered, of which its ledger has nothing"]
    assert shown.answers is None


def test_answers_lie_under_a_seal_that_a_peer_was_told_in_a_later_run(honest: AuditedRoom) -> None:
    model = honest.align(name="sealed").alignment.name
    done = honest.replay("registry", model)
    path, shown = honest.certify("registry", done, "insurer"), done.shown["insurer"]
    assert shown.answers is not None and shown.answers.answers > 0 and not shown.answers.sealed
    checked = honest.check("insurer", path)
    assert checked.complete and not checked.answers_sealed
    honest.align(name="later")
    again = honest.replay("registry", model)
    known = again.shown["insurer"].answers
    assert known is not None and known.sealed and known.sha256 == shown.answers.sha256
    assert honest.check("insurer", honest.certify("registry", again, "insurer")).answers_sealed
    other = replace(again.shown["insurer"], answers=msgspec.structs.replace(known, sealed="ab" * 32))
    made_up = honest.certify("registry", replace(again, shown={"insurer": other}), "insurer")
    with pytest.raises(EvidenceDiffers, match="a seal of registry's ledger that this party was not"):
        honest.check("insurer", made_up)


def test_a_signature_by_other_random_numbers_is_found(
    honest: AuditedRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    def free(self: Identity, data: bytes) -> bytes:
        return self._key.sign(data, ec.ECDSA(hashes.SHA256()))

    with monkeypatch.context() as patch:
        patch.setattr(Identity, "sign", free)
        name = honest.align(name="signed").alignment.name
    why = "a signature that the run has made is not the one that the program makes"
    with pytest.raises(EvidenceDiffers, match=why):
        honest.replay("registry", name)


def test_a_guest_that_tries_an_id_that_it_does_not_hold_is_found(honest: AuditedRoom) -> None:
    match = alignment.guest_match

    async def guessed(hosts: Any, keys: Any, **more: Any) -> Any:
        first = KeyIds([b"GUESSED", *list(keys[0].ids)[1:]], keys[0].of_row)
        return await match(hosts, [first, *keys[1:]], **more)

    with mock.patch.object(alignment, "guest_match", guessed), contextlib.suppress(VflError):
        honest.align(name="guessed")
    run = last_run(honest, "insurer")
    with pytest.raises(MessageDiffers, match=r"^message \d+ to \w+ differs: it was \w+ of [\d,]+ bytes"):
        honest.replay("insurer", run)
    assert honest.replay("registry", run).shown


# --- A byte at any place. ---------------------------------------------------------------------------


def found_at(path: Path, count: int, look: Callable[[], object]) -> list[str]:
    """What is said where one byte of a file is another, at so many places: the first, the last and
    others by chance. It is as before then."""
    before, said = path.read_bytes(), []
    rng = np.random.default_rng(len(before))
    places = [0, len(before) - 1, *rng.integers(len(before), size=count - 2).tolist()]
    try:
        for at in places:
            by = int(rng.integers(1, 256))
            path.write_bytes(before[:at] + bytes([before[at] ^ by]) + before[at + 1 :])
            with pytest.raises(VflError) as found:
                look()
            said.append(str(found.value))
    finally:
        path.write_bytes(before)
    return said


@pytest.mark.parametrize("name", ["registry", "insurer"])
def test_any_byte_that_was_changed_is_found_and_named(
    honest: AuditedRoom, trees: str, name: str
) -> None:
    """Of a tape, what the store has answered, the document with secret, salts and settings, the ledger,
    a certificate."""
    store, (found,) = honest.there(name).store, honest.runs(name, trees)
    peer = "insurer" if name == "registry" else "registry"
    done = honest.replay(name, found.run)
    certificate = honest.certify(name, done, peer)
    (ledger,) = months(store.root / FOLDER)

    def look() -> object:
        return honest.replay(name, found.run)

    def check() -> object:
        return honest.check(peer, certificate)

    for path, count, whose, named in (
        (
            tape_file(store, found.run, peer),
            8,
            look,
            rf"message \d+ of {peer} on the tape|tape of {peer}",
        ),
        (store.path("evidence", found.name), 5, look, found.name),
        (ledger, 8, look, r"^the ledger is not whole: \d{4}-\d\d\.jsonl:\d+ "),
        (certificate, 12, check, r"certificate|signature|damaged"),
    ):
        for said in found_at(path, count, whose):
            assert re.search(named, said), (path.name, said)
    answers = tape_file(store, found.run, kept_evidence.OWN)
    assert answers.exists() == (name == "registry")
    if answers.exists():
        for said in found_at(answers, 5, look):
            assert re.search("asked of the store is damaged|answer 1?[0-9] of the store", said), said
    assert look() and check()


def another(cell: str) -> str:
    """A cell of another value, which differs in its last digit or letter.

    A float's last digit may say nothing: then the one before it is another as well.
    """
    if cell in {"0", "1"}:
        return str(1 - int(cell))
    changed = cell[:-1] + ("5" if cell.endswith("7") else "7")
    with contextlib.suppress(ValueError):
        if float(changed) == float(cell):
            return another(cell[:-1]) + changed[-1]
    return changed


@pytest.mark.parametrize(("name", "label"), [("registry", ""), ("insurer", "claim")])
def test_any_digit_of_a_table_is_found_and_its_column_named(
    spoilt: tuple[AuditedRoom, str], name: str, label: str
) -> None:
    room, model = spoilt
    table, rng = room.federation.tables[name], np.random.default_rng(8)
    (found,) = room.runs(name, model)
    parts = sorted(part for part in found.opening.table if part.startswith("column"))
    columns = [part.removeprefix("column '").removesuffix("'") for part in parts]
    of_alignment = find_alignment(room.there(name).store, "first").rows
    for column in [*columns, *([label] if label else [])]:
        for row in rng.choice(of_alignment, 2, replace=False).tolist():
            cells = [*table[column]]
            cells[row] = another(cells[row])
            write_table(room.federation.parties[name].table, {**table, column: cells})
            part = "label" if column == label else re.escape(f"column '{column}'")
            with pytest.raises(EvidenceDiffers, match=rf"committed to: its {part} is another$"):
                room.replay(name, model)


# --- What is left of a secret, and what a replay leaves. ---------------------------------------------


def holding(folder: Path, secret: bytes) -> list[Path]:
    """The files in which a secret is, as documents write bytes."""
    written = base64.b64encode(secret)
    return [path for path in folder.rglob("*") if path.is_file() and written in path.read_bytes()]


def test_a_secret_that_is_removed_is_in_no_file(spoilt: tuple[AuditedRoom, str]) -> None:
    room, model = spoilt
    store, (found,) = room.there("bureau").store, room.runs("bureau", model)
    document = store.path("evidence", found.name)
    document.with_name(f".{document.name}.abcdefgh.tmp").write_bytes(document.read_bytes())
    assert len(holding(store.root, found.opening.secret)) == 2
    forget(store, [found])
    assert not holding(store.root, found.opening.secret)


@pytest.mark.parametrize("remove", [True, False])
def test_a_secret_that_is_removed_in_its_run_does_not_come_back(
    honest: AuditedRoom, remove: bool
) -> None:
    store = honest.there("insurer").store
    taken: list[Evidence] = []

    def take(kind: str) -> None:
        if kind == "TreeKept" and not taken:
            taken.append(find_evidence(store)[-1])
            if remove:
                remove_evidence(store, taken[0].run)
            else:
                forget(store, taken)

    honest.on_message = take
    try:
        honest.train(JOB)
    finally:
        honest.on_message = None
    (found,) = taken
    assert found.opening is not None and not holding(store.root, found.opening.secret)
    assert not tapes_of(store, found.run)
    kept = [one for one in find_evidence(store) if one.run == found.run]
    assert len(kept) == (not remove) and all(one.forgotten and one.opening is None for one in kept)


def test_a_replay_changes_no_file(honest: AuditedRoom) -> None:
    def files() -> dict[Path, bytes]:
        every = [path for path in honest.federation.folder.rglob("*") if path.is_file()]
        return {path: hashlib.sha256(path.read_bytes()).digest() for path in every}

    names = [honest.align(name="still").alignment.name, honest.train(LATTICE), honest.train(GLM_JOB)]
    honest.there("insurer")  # writes the party file
    before = files()
    for name in names:
        for party in ("insurer", "registry"):
            assert honest.replay(party, name).shown
    assert files() == before


def test_a_version_that_was_not_committed_to_is_found(spoilt: tuple[AuditedRoom, str]) -> None:
    room, model = spoilt
    store, (found,) = room.there("bureau").store, room.runs("bureau", model)
    save_evidence(store, replace(found, version="0.0.9"))
    with pytest.raises(EvidenceDiffers, match="is said to be of another version than the party"):
        room.replay("bureau", model)


def test_both_name_the_half_of_a_model_that_a_training_goes_on_from(
    honest: AuditedRoom, trees: str
) -> None:
    model = honest.train({**JOB, "secureboost": {**JOB["secureboost"], "init_model": trees}})
    for party, peer in (("insurer", "registry"), ("registry", "insurer")):
        before = honest.replay(party, trees).shown[peer]
        shown = honest.replay(party, model).shown[peer]
        took = {one.what: one for one in shown.took}
        assert not shown.relies and set(took) == {"half of the model", "alignment"}
        assert took["half of the model"].run == honest.runs(party, trees)[0].run
        assert took["half of the model"].sha256 == before.left["half of the model"]
        assert before.left != shown.left


def test_certificates_of_one_replay_can_be_told_from_those_of_two(
    honest: AuditedRoom, trees: str
) -> None:
    once, again = honest.replay("insurer", trees), honest.replay("insurer", trees)
    shown = [*once.shown.values(), *again.shown.values()]
    assert len(shown) == 4 and len({one.replay for one in shown}) == 1
    others = {honest.replay(name, trees).shown["insurer"].replay for name in ("registry", "bureau")}
    assert len({shown[0].replay, *others}) == 3
