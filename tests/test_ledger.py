import asyncio
import csv
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest
from blake3 import blake3
from click.testing import CliRunner, Result
from federation import HIDDEN_JOB, JOB, Federation, ended, kill
from hypothesis import given, settings
from hypothesis import strategies as st
from recording import Sent, record
from test_wire_privacy import Searcher, secrets

from vfl.cli import main
from vfl.errors import DataError
from vfl.jobs.journal import Journal
from vfl.jobs.reveals import message_types
from vfl.net.peer import MemoryPeer, Stop, stop_all
from vfl.party import ledger, locks
from vfl.party.audit import compare, tables, verify
from vfl.party.identity import Identity, create, load
from vfl.party.ledger import JobEntry, Ledger, MessageEntry, Seal
from vfl.party.store import Store

DIGEST = "ab" * 32


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return create(tmp_path_factory.mktemp("owner") / "insurer", "insurer")


@pytest.fixture
def own(tmp_path: Path, owner: Identity) -> Ledger:
    return Ledger(tmp_path / "ledger", owner, "guest")


def passed(session: int = 0, kind: str = "Gradients", size: int = 10) -> MessageEntry:
    return MessageEntry(
        session=session,
        peer="registry",
        direction="sent",
        task="train",
        job="claims",
        type=kind,
        rows=None,
        bytes=size,
        blake3=DIGEST,
    )


def fill(own: Ledger, messages: int = 8, sessions: int = 3) -> Path:
    """Sessions with a seal after each but the last; the file."""
    for number in range(sessions):
        session = 0
        for i in range(messages):
            session = own.append(passed(session, f"Kind{i % 3}"), "nothing")
        if number < sessions - 1:
            own.seal()
    (path,) = ledger.months(own.folder)
    return path


def damage(own: Ledger, owner: Identity) -> list[str]:
    return verify.verify(own.folder, owner.certificate).damage


# --- The chain ------------------------------------------------------------------------------------


def test_a_line_has_its_number_and_the_chain_goes_on_over_processes_and_months(
    own: Ledger, owner: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = own.append(passed(), "nothing")
    assert own.append(passed(session), "nothing") == session == 3
    own.seal()
    own.seal()  # nothing new: no second one

    class Later(ledger.datetime):
        @classmethod
        def now(cls, tz: object = None) -> "Later":
            return cls(2099, 1, 31, tzinfo=ledger.UTC)

    again = Ledger(own.folder, owner, "guest")
    again.append(passed(), "nothing")
    monkeypatch.setattr(ledger, "datetime", Later)
    again.append(passed(), "nothing")
    monkeypatch.undo()
    again.append(passed(), "nothing")  # the clock was set back: the newest file goes on
    again.seal()
    files = ledger.months(own.folder)
    assert len(files) == 2 and files[1].name == "2099-01.jsonl"
    found = verify.verify(own.folder, owner.certificate)
    kinds = [
        [ledger.decode(line).entry.__struct_config__.tag for line in file.read_bytes().splitlines()]
        for file in files
    ]
    # Each month and each process says who writes and what the types reveal.
    assert kinds == [
        ["start", "type", "message", "message", "seal", "start", "type", "message"],
        ["start", "type", "message", "message", "seal"],
    ]
    assert (found.damage, found.notes, found.lines, found.seals, found.sealed) == ([], [], 13, 2, 13)
    alone = verify.verify(files[1], owner.certificate)
    assert alone.damage == [] and "begins with line 9" in alone.notes[0]
    assert stat.S_IMODE(own.folder.stat().st_mode) == 0o700
    for path in own.folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, owner: Identity) -> tuple[Ledger, bytes]:
    own = Ledger(tmp_path_factory.mktemp("filled") / "ledger", owner, "guest")
    return own, fill(own, 3).read_bytes()


@settings(max_examples=200)
@given(at=st.integers(0, 10**6), flip=st.integers(1, 255))
def test_every_byte_changed_is_found(
    filled: tuple[Ledger, bytes], owner: Identity, at: int, flip: int
) -> None:
    own, whole = filled
    (path,) = ledger.months(own.folder)
    at %= len(whole)
    path.write_bytes(whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :])
    assert damage(own, owner)


@pytest.mark.parametrize("spoilt", ["no json", "gone", "{}"])
def test_the_seal_beside_it_is_missed(own: Ledger, owner: Identity, spoilt: str) -> None:
    fill(own)
    beside = own.folder / ledger.SEAL
    if spoilt == "gone":
        beside.unlink()
    else:
        beside.write_text(spoilt)
    assert ledger.SEAL in damage(own, owner)[0]


SURGERY: dict[str, Callable[[list[bytes], int], list[bytes]]] = {
    "missing": lambda lines, i: lines[:i] + lines[i + 1 :],
    "moved": lambda lines, i: [*lines[:i], lines[i + 1], lines[i], *lines[i + 2 :]],
    "a second time": lambda lines, i: lines[: i + 1] + lines[i:],
    "in place of": lambda lines, i: (
        [*lines[:i], lines[i].replace(b'"n":', b'"n":1', 1), *lines[i + 1 :]]
    ),
    "was changed": lambda lines, i: (
        [*lines[:i], lines[i].replace(b'"time":"', b'"time":" '), *lines[i + 1 :]]
    ),
    "no entry": lambda lines, i: [*lines[:i], b"{}\n", *lines[i + 1 :]],
}


@pytest.mark.parametrize("what", SURGERY)
def test_every_line_changed_cut_moved_or_repeated_is_named(
    own: Ledger, owner: Identity, what: str
) -> None:
    path = fill(own)
    lines = path.read_bytes().splitlines(keepends=True)
    assert damage(own, owner) == []
    last = max(i for i, line in enumerate(lines) if b'"entry":"seal"' in line)
    for i in range(len(lines) - 2):
        path.write_bytes(b"".join(SURGERY[what](lines, i)))
        said = damage(own, owner)
        # One line of damage, at the place, unless it is the certificate or the seal that seal.json has.
        assert what in said[0], (i, said)
        assert f".jsonl:{i + 1 + (what in ('moved', 'a second time'))}" in said[0]
        assert len(said) == 1 or i in (0, last - 1, last), (i, said)


def test_lines_of_before_protocol_4_have_the_sha256_of_messages(
    own: Ledger, owner: Identity, tmp_path: Path
) -> None:
    old = msgspec.structs.replace(passed(), blake3=msgspec.UNSET, sha256="7e" * 32)
    for line in (old, passed()):
        own.append(line, "nothing")
    own.seal()
    assert verify.verify(own.folder, owner.certificate).damage == []
    assert [row.digest for row in tables.rows(own.folder)] == ["7e" * 32, DIGEST]
    theirs = Ledger(tmp_path / "theirs", create(tmp_path / "registry", "registry"), "host")
    for line in (old, passed()):
        theirs.append(msgspec.structs.replace(line, peer="insurer", direction="received"), "nothing")
    same = compare.compare(own.folder, theirs.folder)
    assert (same.differences, same.messages) == ([], 2)


def test_several_damages_are_all_named(own: Ledger, owner: Identity) -> None:
    path = fill(own, 30)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[10] = lines[10].replace(b'"bytes":10', b'"bytes":11')
    del lines[20:22]
    lines[40], lines[45] = lines[45], lines[40]
    path.write_bytes(b"".join(lines))
    said = "\n".join(damage(own, owner))
    assert [text.split(" ", 1)[1] for text in said.splitlines()] == [
        "was changed (line 11)",
        "21 to 22 are missing before 2026-11.jsonl:21".replace("2026-11.jsonl", path.name),
        "was changed: line 48 stands in place of line 43",
        "was changed: line 43 stands in place of line 48",
    ]


def test_an_end_cut_off_is_found_up_to_the_last_seal(own: Ledger, owner: Identity) -> None:
    path = fill(own)
    lines = path.read_bytes().splitlines(keepends=True)
    sealed = max(i for i, line in enumerate(lines) if b'"entry":"seal"' in line)
    for length in range(len(lines)):
        path.write_bytes(b"".join(lines[:length]))
        assert bool(damage(own, owner)) == (length <= sealed), length
    path.unlink()
    with pytest.raises(DataError, match="there is no ledger"):
        damage(own, owner)
    with pytest.raises(DataError, match="changed or cut"):
        Ledger(own.folder, owner, "guest").append(passed(), "nothing")


def test_a_chain_written_anew_needs_the_key_and_the_noted_hash(
    own: Ledger, owner: Identity, tmp_path: Path
) -> None:
    path = fill(own, sessions=2)
    head = verify.verify(own.folder, owner.certificate).head
    assert verify.verify(own.folder, owner.certificate, head=head).damage == []
    entries = [ledger.decode(line).entry for line in path.read_bytes().splitlines()]
    before, lines = ledger.ORIGIN, []
    for entry in entries:
        changed = msgspec.structs.replace(entry, salt="0" * 16)
        line, before = ledger.encode(changed, before)
        lines.append(line)
    path.write_bytes(b"".join(lines))
    said = damage(own, owner)
    assert "signature does not hold" in said[0] and "rewritten" in said[-1]
    with pytest.raises(DataError, match="changed or cut"):
        Ledger(own.folder, owner, "guest").append(passed(), "nothing")
    # The owner itself can: against that stand a noted hash and the peers.
    shutil.rmtree(own.folder)
    fill(own_again := Ledger(own.folder, owner, "guest"), sessions=2)
    assert damage(own_again, owner) == []
    assert "noted" in verify.verify(own.folder, owner.certificate, head=head).damage[0]
    other = create(tmp_path / "other", "insurer")
    said = verify.verify(own.folder, other.certificate).damage
    assert len(said) == 1 and "another certificate than the party's" in said[0]
    rotated = frozenset({owner.certificate.fingerprint})
    assert verify.verify(own.folder, other.certificate, earlier=rotated).damage == []
    # Who has no key could leave the seals out: it is told. A process that had the old one open goes on.
    for path in own.folder.iterdir():
        path.unlink()
    own.append(passed(), "nothing")
    assert verify.verify(own.folder, owner.certificate).notes == ["lines 1 to 3 are under no seal yet"]


def cut_at_seals(own: Ledger) -> Iterator[int]:
    """Cut a ledger back to each of its earlier seals, with the `seal.json` of then; the lines left."""
    (path,) = ledger.months(own.folder)
    whole, beside = path.read_bytes(), (own.folder / ledger.SEAL).read_bytes()
    offset = 0
    for number, line in enumerate(whole.splitlines(keepends=True), 1):
        if b'"entry":"seal"' in line and number < whole.count(b"\n"):
            path.write_bytes(whole[: offset + len(line)])
            sealed = ledger.PlacedSeal(path.name, offset, line.decode().rstrip("\n"))
            (own.folder / ledger.SEAL).write_bytes(msgspec.json.encode(sealed))
            yield number
        offset += len(line)
    path.write_bytes(whole)
    (own.folder / ledger.SEAL).write_bytes(beside)


def test_a_ledger_cut_back_to_an_earlier_seal_is_found(own: Ledger, owner: Identity) -> None:
    fill(own, sessions=4)
    own.seal()
    kept = ledger.kept_beside(owner.key_path.parent, "insurer", own.folder)
    assert kept.stat().st_mode & 0o777 == 0o600
    whole = verify.verify(own.folder, owner.certificate, kept=kept)
    assert (whole.damage, whole.notes, whole.sealed) == ([], [], whole.last)
    cuts = 0
    for lines in cut_at_seals(own):
        cuts += 1
        assert damage(own, owner) == []  # the folder alone does not tell
        (said,) = verify.verify(own.folder, owner.certificate, kept=kept).damage
        assert said == f"the ledger was cut off before line {whole.last}, the newest seal by {kept}"
        (said,) = verify.verify(own.folder, owner.certificate, noted={whole.head: "in run x"}).damage
        assert said.startswith("no line has the hash that was noted in run x: the ledger was cut back")
        again = Ledger(own.folder, owner, "guest")
        for go_on in (again.check, lambda again=again: again.append(passed(), "nothing")):
            with pytest.raises(DataError, match=r"is not what was sealed: .*\.json has its newest seal"):
                go_on()
        assert whole.last > lines
    assert cuts == 3
    # Going on from an earlier seal makes other lines in the place of the newest.
    kept_away = kept.read_bytes()
    assert next(cut_at_seals(own)) < whole.last
    kept.unlink()
    fill(Ledger(own.folder, owner, "guest"), messages=40, sessions=2)
    kept.write_bytes(kept_away)
    (said,) = verify.verify(own.folder, owner.certificate, kept=kept).damage
    assert f"line {whole.last} is not the newest seal that {kept} holds" in said
    kept.write_text("{}")
    (said,) = verify.verify(own.folder, owner.certificate, kept=kept).damage
    assert said == f"{kept} is damaged: restore it from a backup, or remove it"


def test_a_seal_that_cannot_be_kept_beside_the_key_is_said_once(
    own: Ledger, owner: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the folder of keys is read-only."""
    replacing = ledger.replacing

    def only_in_the_store(path: Path, mode: int = 0o600) -> object:
        if path.parent == owner.key_path.parent:
            raise DataError(f"{path} cannot be written: Read-only file system")
        return replacing(path, mode)

    monkeypatch.setattr(ledger, "replacing", only_in_the_store)
    fill(own, sessions=4)
    said: list[str] = []
    journal = Journal(own, Store(own.folder.parent))
    journal.seal(said.append)
    own.append(passed(), "nothing")
    journal.seal(said.append)
    (note,) = said
    assert note.startswith("note: the ledger's newest seal is not kept beside the key, so that")
    assert "Read-only file system" in note
    assert damage(own, owner) == []


def test_a_ledger_that_was_moved_away_is_asked_after(own: Ledger, owner: Identity) -> None:
    fill(own, sessions=2)
    own.seal()
    kept = ledger.kept_beside(owner.key_path.parent, "insurer", own.folder)
    own.folder.rename(own.folder.with_name("old"))
    again = Ledger(own.folder, owner, "guest")
    again.append(passed(), "nothing")
    again.seal()
    (note,) = again.notes
    (aside,) = ledger.replaced_seals(kept)
    assert f"another ledger was in {own.folder} before: its newest seal is kept as {aside}" in note
    (said,) = verify.verify(own.folder, owner.certificate, kept=kept).damage
    assert said.startswith("another ledger was here before, whose newest seal is line ")
    assert said.endswith(f"if it was moved away on purpose, remove {aside}")
    assert verify.verify(own.folder.with_name("old"), owner.certificate).damage == []
    aside.unlink()
    assert verify.verify(own.folder, owner.certificate, kept=kept).damage == []


def test_months_in_an_archive_are_no_cut(
    own: Ledger, owner: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(own, sessions=2)
    own.seal()
    kept = ledger.kept_beside(owner.key_path.parent, "insurer", own.folder)
    old = kept.read_bytes()

    class Later(ledger.datetime):
        @classmethod
        def now(cls, tz: object = None) -> "Later":
            return cls(2099, 1, 31, tzinfo=ledger.UTC)

    monkeypatch.setattr(ledger, "datetime", Later)
    own.append(passed(), "nothing")
    own.seal()
    kept.write_bytes(old)  # as if the folder of keys had been read-only since
    first, _ = ledger.months(own.folder)
    first.rename(own.folder.with_name(first.name))
    Ledger(own.folder, owner, "guest").append(passed(), "nothing")


def test_a_line_that_is_being_written_is_no_damage(
    own: Ledger, owner: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fill(own)
    line = path.read_bytes().splitlines(keepends=True)[-1]
    path.write_bytes(path.read_bytes()[: -len(line)])
    writer = ExitStack()
    writer.enter_context(locks.locked(ledger.lock_of(own.folder)))
    with path.open("ab") as file:
        file.write(line[:20])

    def written(seconds: float) -> None:
        """What the writer does while `verify` waits for its lock."""
        with path.open("ab") as file:
            file.write(line[20:])
        writer.close()

    monkeypatch.setattr(locks.time, "sleep", written)
    assert verify.verify(own.folder, owner.certificate).damage == []


def test_a_stopped_writer_is_named(
    own: Ledger, owner: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(own)
    monkeypatch.setattr(locks, "_PATIENCE", 0.02)
    with (
        locks.locked(ledger.lock_of(own.folder)),
        pytest.raises(
            DataError, match=rf"has been locked for 0 s by .* \(process {os.getpid()}, since"
        ) as raised,
    ):
        own.append(passed(), "nothing")
    assert raised.value.for_peer == "it could not write its ledger (its log has the details)"
    own.append(passed(), "nothing")


def test_an_auditor_needs_standard_tools_only(own: Ledger, owner: Identity) -> None:
    """The commands of docs/operations.md."""
    if not all(shutil.which(tool) for tool in ("bash", "sha256sum", "openssl")):
        pytest.skip("needs bash, sha256sum and openssl")
    document = (Path(__file__).parents[1] / "docs" / "operations.md").read_text()
    script = document.split("<!-- check-ledger -->\n```sh\n")[1].split("```")[0]
    path = fill(own, sessions=2)

    def check() -> str:
        done = subprocess.run(
            ["bash", "-c", script], cwd=own.folder.parent, capture_output=True, text=True, check=True
        )
        return done.stdout + done.stderr

    (own.folder.parent / "insurer.pem").write_bytes(owner.certificate.pem)
    said = check()
    assert "changed" not in said and said.count("Verified OK") == 1
    path.write_bytes(path.read_bytes().replace(b'"bytes":10', b'"bytes":11', 1))
    assert check().count("changed") == 1


# --- Processes ------------------------------------------------------------------------------------


def test_a_torn_line_is_set_aside_by_the_next_start(own: Ledger, owner: Identity) -> None:
    path = fill(own)
    whole = path.read_bytes()
    last = len(whole.splitlines(keepends=True)[-1])
    for length in (len(whole) - 1, len(whole) - last + 1):
        path.write_bytes(whole[:length])
        assert "is not finished" in damage(own, owner)[-1]
        Ledger(own.folder, owner, "guest").append(passed(), "nothing")
        found = verify.verify(own.folder, owner.certificate)
        assert found.damage == [] and "set aside" in found.notes[0] and len(found.notes) == 2
        (torn,) = own.folder.glob("*.torn-*")
        assert torn.read_bytes() == whole[len(whole) - last : length]
        torn.unlink()


def test_a_first_line_torn_and_an_empty_file(own: Ledger, owner: Identity) -> None:
    path = fill(own, 1, 1)
    path.write_bytes(path.read_bytes()[:50])
    own.append(passed(), "nothing")
    assert ledger.decode(path.read_bytes().splitlines()[0]).entry.n == 1
    assert damage(own, owner) == []
    path.write_bytes(b"")
    Ledger(own.folder, owner, "guest").append(passed(), "nothing")
    assert damage(own, owner) == []


WRITER = """
import sys
import time
from pathlib import Path
from vfl.party.identity import load
from vfl.party.ledger import Ledger, MessageEntry

own = Ledger(Path(sys.argv[1]), load(Path(sys.argv[2])), "guest")
session = 0
for i in range(int(sys.argv[3])):
    session = own.append(
        MessageEntry(session=session, peer="registry", direction="sent", task=None, job=None,
               type=f"Kind{i % 5}", rows=None, bytes=1, blake3="ab"),
        "nothing",
    )
    if i == 0:
        print("ready", flush=True)
    if i % 40 == 39:
        own.seal()
"""


def writer(own: Ledger, owner: Identity, messages: int) -> "subprocess.Popen[str]":
    prefix = owner.key_path.with_suffix("")
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(own.folder), str(prefix), str(messages)],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_processes_share_a_ledger_and_may_be_killed(own: Ledger, owner: Identity) -> None:
    doomed, *living = [writer(own, owner, messages) for messages in (10**6, 200, 200)]
    for process in (doomed, *living):
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    doomed.kill()
    assert [process.wait() for process in (doomed, *living)] == [-signal.SIGKILL, 0, 0]
    for process in (doomed, *living):
        assert process.stdout is not None
        process.stdout.close()
    own.append(passed(kind="Last"), "nothing")
    found = verify.verify(own.folder, owner.certificate)
    assert found.damage == []
    counts = Counter(row.type for row in tables.rows(own.folder))
    assert counts["Last"] == 1 and all(counts[f"Kind{i}"] >= 80 for i in range(5))


def test_no_message_leaves_without_a_line(
    own: Ledger, owner: Identity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        here, there = MemoryPeer.pair("insurer", "registry")
        Journal(own, Store(tmp_path)).watch(here)
        await here.send(Stop("first"))
        (path,) = ledger.months(own.folder)
        size = path.stat().st_size
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, before[1]))
        try:
            with pytest.raises(DataError, match=r"ledger .* cannot be written: File too large"):
                await here.send(Stop("second"))
            await stop_all([here], DataError("full"))  # closes without a word
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert path.stat().st_size == size
        assert (await there.recv(Stop)).reason == "first"
        assert there._inbox.get_nowait() is None
        here, there = MemoryPeer.pair("insurer", "registry")
        Journal(own, Store(tmp_path)).watch(here)
        await here.send(Stop("third"))  # there is room again
        own.seal()
        assert damage(own, owner) == []

    asyncio.run(run())


# --- Whole runs -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> tuple[Federation, list[Sent]]:
    federation = Federation(tmp_path_factory.mktemp("ledger"), keys)
    return federation, record(federation)


@pytest.fixture(scope="module")
def hidden(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> tuple[Federation, list[Sent]]:
    federation = Federation(tmp_path_factory.mktemp("hidden"), keys, coordinator=True)
    return federation, record(federation, HIDDEN_JOB)


def of(federation: Federation, party: str) -> Path:
    return federation.parties[party].store / ledger.FOLDER


def offered(message: Sent) -> bytes:
    run = msgspec.msgpack.decode(message.payload)[1]["run"]
    assert isinstance(run, bytes) and len(run) == 32
    return run


def vfl(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["ledger", *map(str, arguments)])


@pytest.mark.parametrize("name", ["run", "hidden"])
def test_every_message_is_in_both_ledgers(request: pytest.FixtureRequest, name: str) -> None:
    federation, sent = request.getfixturevalue(name)
    digests = {direction: Counter() for direction in ("sent", "received")}
    for party in federation.parties:
        found = verify.verify(of(federation, party), load(federation.keys / party / party).certificate)
        assert (found.damage, found.notes) == ([], []) and found.sealed == found.last
        for row in tables.rows(of(federation, party)):
            ends = (party, row.peer) if row.direction == "sent" else (row.peer, party)
            digests[row.direction][*ends, row.type, row.bytes, row.digest] += 1
            assert row.reveals and "no such message" not in row.reveals
            assert row.type in ("Hello", "Offer", "Join", "Stop") or row.task
    wire = Counter(
        (m.sender, m.receiver, m.kind, len(m.payload), blake3(m.payload).hexdigest()) for m in sent
    )
    assert wire == digests["sent"] == digests["received"]
    parties = list(federation.parties)
    for i, one in enumerate(parties):
        for other in parties[:i]:
            same = compare.compare(of(federation, one), of(federation, other))
            assert (same.differences, same.in_flight) == ([], [])
            between = sum(set(m) >= {one, other} for m in wire)
            assert bool(same.messages) == bool(between)


def test_what_speaks_of_rows_is_a_field() -> None:
    kinds = [kind for kind in message_types().values() if kind.per_row is not None]
    assert len(kinds) >= 18
    for kind in kinds:
        assert kind.per_row is not None and kind.per_row[0] in kind.__struct_fields__, kind


def test_lines_say_job_purpose_and_rows(run: tuple[Federation, list[Sent]]) -> None:
    federation, _ = run
    found = list(tables.rows(of(federation, "registry")))
    jobs = {(row.task, row.job, row.purpose) for row in found if row.type != "Hello"}
    title = ("claims", "a test")
    assert jobs == {("align", None, None), ("train", *title), ("score", *title)}
    rows = {(row.task, row.type): row.rows for row in found}
    aligned = rows["train", "Accept"]
    assert aligned and rows["align", "CommonRows"] == rows["align", "CommonTags"] == aligned
    assert 0 <= (rows["train", "TreeStart"] or 0) - aligned < 8
    # A ciphertext a training row, in several messages where there are many.
    assert 0 < (rows["train", "Gradients"] or 0) < aligned
    assert rows["score", "BlindedIds"] == len(set(federation.tables["new"]["plate"]))


@pytest.mark.parametrize("name", ["run", "hidden"])
def test_nothing_private_is_in_a_ledger(request: pytest.FixtureRequest, name: str) -> None:
    federation, sent = request.getfixturevalue(name)
    searcher = Searcher(secrets(federation))
    for party in federation.parties:
        for path in of(federation, party).iterdir():
            # The microseconds of a line may be digits of some value by chance.
            data = re.sub(rb"T\d\d:\d\d:\d\d\.\d+Z", b"", path.read_bytes())
            assert b"PRIVATE" not in data
            assert searcher.found(data) == set()
            for run_name in {offered(m) for m in sent if m.kind == "Offer"}:
                assert run_name.hex()[:16].encode() not in data and run_name not in data


def test_compare_names_what_differs(run: tuple[Federation, list[Sent]], tmp_path: Path) -> None:
    """The registry writes its ledger anew, with its key, and leaves out or changes a message."""
    federation, _ = run
    ours, theirs = of(federation, "insurer"), of(federation, "registry")
    identity = load(federation.keys / "registry" / "registry")
    (file,) = ledger.months(theirs)
    entries = [ledger.decode(line).entry for line in file.read_bytes().splitlines()]
    gradients = [
        i for i, e in enumerate(entries) if isinstance(e, MessageEntry) and e.type == "Direction"
    ]

    def forged(name: str, change: Callable[[list[ledger.Entry]], None]) -> Path:
        folder = tmp_path / name
        forger = Ledger(folder, identity, "host")
        changed = list(entries)
        change(changed)
        for entry in changed:
            if isinstance(entry, JobEntry | MessageEntry):
                forger.append(entry, "nothing")
            elif isinstance(entry, Seal):
                forger.seal()
        assert verify.verify(folder, identity.certificate).damage == []
        return folder

    same = compare.compare(ours, forged("same", lambda _: None))
    assert (same.differences, same.in_flight) == ([], []) and same.messages > 50
    at = gradients[0]
    without = compare.compare(ours, forged("without", lambda e: e.pop(at)))
    (said,) = without.differences
    assert "insurer's line" in said and "Direction" in said and "received from registry" in said

    def change(changed: list[ledger.Entry]) -> None:
        changed[at] = msgspec.structs.replace(changed[at], blake3=DIGEST)

    said_both = compare.compare(ours, forged("changed", change)).differences
    assert len(said_both) == 2 and any("registry's line" in text for text in said_both)
    received = [
        i
        for i, e in enumerate(entries)
        if isinstance(e, MessageEntry) and e.direction == "received" and e.session == entries[at].session
    ]

    def swap(changed: list[ledger.Entry]) -> None:
        i, j = received[-4], received[-3]
        changed[i], changed[j] = changed[j], changed[i]

    assert compare.compare(ours, forged("swapped", swap)).differences
    session = entries[at].session

    def forget(changed: list[ledger.Entry]) -> None:
        changed[:] = [e for e in changed if getattr(e, "session", None) != session]

    forgot = compare.compare(ours, forged("forgot", forget))
    assert len(forgot.differences) > 10 and forgot.in_flight == []
    # The end of a session may have been in flight when its connection broke: told, and no difference.
    late = compare.compare(ours, forged("late", lambda e: e.pop(received[-1])))
    assert late.differences == [] and len(late.in_flight) == 1
    with pytest.raises(DataError, match="both ledgers are insurer's"):
        compare.compare(ours, ours)


def test_a_copy_for_a_peer_is_whole_and_shows_nothing_of_others(
    run: tuple[Federation, list[Sent]], tmp_path: Path
) -> None:
    federation, _ = run
    ours, copy = of(federation, "insurer"), tmp_path / "for-registry.jsonl"
    own = load(federation.keys / "insurer" / "insurer").certificate
    written = io.BytesIO()
    assert tables.export_copy(ours, "registry", written) > 50
    data = written.getvalue()
    copy.write_bytes(data)
    assert b"registry" in data and b'"peer":"bureau"' not in data and b"omitted" in data
    found = verify.verify(copy, own)
    assert found.damage == [] and found.seals == found.lines - found.last + found.seals
    same = compare.compare(copy, of(federation, "registry"))
    assert (same.differences, same.in_flight) == ([], []) and same.parties == ("insurer", "registry")
    rng = random.Random(1)
    lines = data.splitlines(keepends=True)
    last = max(i for i, line in enumerate(lines) if b'"seal"' in line)
    for i in [*rng.sample(range(1, last), 40), last]:
        copy.write_bytes(b"".join(lines[:i] + lines[i + 1 :]))
        assert verify.verify(copy, own).damage, i
        position = rng.randrange(20, len(lines[i]) - 10)
        swapped = bytes([lines[i][position] ^ 1])
        line = lines[i][:position] + swapped + lines[i][position + 1 :]
        copy.write_bytes(b"".join([*lines[:i], line, *lines[i + 1 :]]))
        assert verify.verify(copy, own).damage, i
    with pytest.raises(DataError, match="is a copy for registry"):
        copy.write_bytes(data)
        tables.export_copy(copy, "registry", io.BytesIO())


def test_commands(run: tuple[Federation, list[Sent]], tmp_path: Path) -> None:
    federation, _ = run
    party, peer = federation.guest.file, of(federation, "bureau")
    shown = vfl("show", party)
    assert shown.exit_code == 0 and "encrypted gradients of drawn rows" in " ".join(shown.output.split())
    totals = json.loads(vfl("show", party, "--json", "--peer", "bureau", "--job", "claims").output)
    assert {total["peer"] for total in totals["totals"]} == {"bureau"}
    assert {total["task"] for total in totals["totals"]} == {"train", "score"}
    lines = json.loads(vfl("show", party, "--lines", "--json", "--type", "Gradients").stdout)["messages"]
    assert lines and all(line["type"] == "Gradients" for line in lines)
    assert len(vfl("show", party, "--lines", "--type", "Gradients").stdout.splitlines()) == len(lines)
    late = vfl("show", party, "--lines", "--since", "2099-01-01")
    assert (late.exit_code, late.stdout) == (0, "")
    assert late.stderr == "note: there is no such message\n"
    assert json.loads(vfl("show", party, "--lines", "--json", "--since", "2099-01-01").stdout) == {
        "messages": []
    }
    whole = vfl("verify", party)
    assert whole.exit_code == 0 and whole.output.endswith("whole\n") and "note" not in whole.output
    assert vfl("compare", party, peer).exit_code == 0
    out = tmp_path / "ledger.csv"
    assert vfl("export", party, "--out", out).exit_code == 0
    with out.open(newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(list(tables.rows(of(federation, "insurer"))))
    assert {row["purpose"] for row in table} == {"a test", ""}
    copied = tmp_path / "ledger"
    shutil.copytree(peer, copied)
    (file_,) = ledger.months(copied)
    file_.write_bytes(file_.read_bytes().replace(b'"type":"Offer"', b'"type":"offer"', 1))
    bad = vfl("verify", copied, "--certificate", federation.keys / "bureau" / "bureau.pem")
    assert bad.exit_code == 1 and bad.output.count("DAMAGE") == 1
    assert "damaged" in vfl("compare", party, copied).output
    assert vfl("export", party, "--out", tmp_path / "x.jsonl").exit_code == 2
    assert vfl("verify", tmp_path / "nothing").exit_code == 3


def test_what_a_peers_runs_have_noted_finds_a_ledger_written_anew(
    run: tuple[Federation, list[Sent]], tmp_path: Path
) -> None:
    """By its owner, whose key seals whatever it likes."""
    federation, _ = run
    registry = federation.parties["registry"].file
    copy = tmp_path / "for-registry.jsonl"
    vfl("export", federation.guest.file, "--peer", "registry", "--out", copy)
    whole = vfl("verify", copy, "--known", registry)
    assert whole.exit_code == 0, whole.output
    other = vfl("verify", copy, "--certificate", federation.keys / "registry" / "registry.pem")
    assert other.exit_code == 1 and other.output.count("DAMAGE") == 1
    assert "DAMAGE the ledger is of insurer, the certificate is of registry" in other.output
    guest = federation.another_guest(tmp_path / "insurer")
    guest.write()
    folder = guest.store / ledger.FOLDER
    (path,) = ledger.months(folder)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:4]))
    (folder / ledger.SEAL).unlink()
    own = Ledger(folder, load(guest.folder / "keys" / "insurer"), "guest")
    own.append(passed(), "nothing")
    own.seal()
    assert verify.verify(folder).damage == []
    vfl("export", guest.file, "--peer", "registry", "--out", copy)
    for words in (("verify", copy, "--known", registry), ("verify", guest.file)):
        found = vfl(*words)
        assert found.exit_code == 1, found.output
        assert "DAMAGE no line has the hash that was noted in run claims-" in found.output
        older = "or this copy was made before: ask for a new one"
        assert (older in found.output) == (words[1] == copy)
    assert "is damaged" in vfl("compare", guest.file, registry).output


def test_a_noted_hash_is_64_digits(run: tuple[Federation, list[Sent]]) -> None:
    federation, _ = run
    head = json.loads(vfl("verify", federation.guest.file, "--json").output)["head"]
    assert vfl("verify", federation.guest.file, "--head", f" {head.upper()}").exit_code == 0
    for bad in (head[:-1], head + "0", "g" + head[1:], ""):
        refused = vfl("verify", federation.guest.file, "--head", bad)
        assert refused.exit_code == 2 and "has 64 hexadecimal digits" in refused.output


def test_a_formula_in_a_purpose_stays_text(own: Ledger, tmp_path: Path) -> None:
    asked = JobEntry(
        peer="registry",
        task="train",
        job="claims",
        purpose="=1+1",
        run="ab",
        hosts=[],
        alignment=None,
        model=None,
    )
    own.append(passed(own.append(asked, "")), "nothing")
    written = io.BytesIO()
    assert tables.export_csv(own.folder, written) == 1
    assert b",'=1+1," in written.getvalue()


def test_a_table_is_tab_separated_in_a_pipe(run: tuple[Federation, list[Sent]]) -> None:
    federation, _ = run
    head, *rows = vfl("show", federation.guest.file).stdout.splitlines()
    names = head.split("\t")
    assert names[:3] == ["task", "job", "purpose"] and names[-1] == "reveals"
    totals = json.loads(vfl("show", federation.guest.file, "--json").stdout)["totals"]
    assert rows == ["\t".join(str(total[name]) for name in names) for total in totals]


def test_a_job_peer_or_type_that_there_is_not(run: tuple[Federation, list[Sent]]) -> None:
    federation, _ = run
    for option, name, said in (
        ("--job", "clams", "has no message of a job clams (--job): did you mean claims?"),
        ("--job", "nosuch", "has no message of a job nosuch (--job); there are claims"),
        ("--peer", "registri", "has no message to or from registri (--peer): did you mean registry?"),
        ("--type", "Gradient", "has no message of a type Gradient (--type): did you mean Gradients?"),
    ):
        for more in ((), ("--json",), ("--lines",), ("--lines", "--json")):
            done = vfl("show", federation.guest.file, option, name, *more)
            assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.output
            assert said in done.stderr
            assert done.stdout == ""


def test_a_job_refused_and_a_host_killed_in_the_middle(tmp_path: Path, keys: Path) -> None:
    """Between processes: what was refused is there, and what was in flight is no difference."""
    with ended(Federation(tmp_path, keys, hosts=("registry",))) as made:
        made.guest.settings["party"]["reconnect"] = 0
        made.parties["registry"].settings["policy"]["min_child_rows"] = 10
        made.serve()
        made.guest.align().ok()
        boost = JOB["secureboost"]
        assert made.guest.train({**JOB, "secureboost": {**boost, "min_child_rows": 5}}).code == 9
        theirs = of(made, "registry")
        (stop,) = tables.rows(theirs, tables.MessageFilter(type="Stop"))
        assert (stop.direction, stop.job, stop.purpose) == ("sent", "claims", "a test")
        training = made.guest.start_train({**JOB, "secureboost": {**boost, "trees": 500}})
        while not any(tables.rows(theirs, tables.MessageFilter(type="Gradients"))):
            assert training.process.poll() is None
            time.sleep(0.05)
        kill(made.serving["registry"])
        assert training.wait().code == 8
        same = compare.compare(of(made, "insurer"), theirs)
        assert same.differences == [] and same.sessions == 3
        for party in made.parties:
            assert verify.verify(of(made, party)).damage == []
