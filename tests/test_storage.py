"""What a party's jobs need of its store, before any peer is waited for; processes that share a store."""

import asyncio
import contextlib
import errno
import fcntl
import json
import multiprocessing
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from federation import JOB, Federation, Party, Running, ended, kill, toml
from room import Room

from vfl.cli import main
from vfl.errors import DataError, ModelError, Refused
from vfl.jobs import alignment as alignments
from vfl.jobs import own_table, scoring
from vfl.jobs import training as trainings
from vfl.jobs.connect import Site
from vfl.jobs.doctor import examine
from vfl.jobs.hints import hold_hints
from vfl.jobs.storage import check_storage, serves_an_older_file, working
from vfl.party import files, identity, locks, permissions, revocation
from vfl.party.config import load_party
from vfl.party.files import replacing
from vfl.party.identity import load
from vfl.party.ledger import FOLDER, Ledger
from vfl.party.locks import alone, in_turn
from vfl.party.store import Store

COMMANDS = ("align", "train", "score")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Federation:
    """Parties that have aligned and trained; nobody changes their folders."""
    federation = Federation(
        tmp_path_factory.mktemp("made"), keys, hosts=("registry",), guest_listens=True
    )
    room = Room(federation)
    with pytest.MonkeyPatch.context() as patch:
        room.patch(patch)
        room.align()
        room.train({**JOB, "secureboost": {"trees": 1, "depth": 1, "encryption": "paillier"}})
    return federation


@pytest.fixture
def party(made: Federation, tmp_path: Path) -> Party:
    """The guest, in a folder that a test may spoil."""
    guest = made.another_guest(tmp_path / "insurer")
    (guest.folder / "job.toml").write_text(toml(JOB))
    guest.write()
    return guest


def command(guest: Party, name: str, *more: str) -> Result:
    """A command of the guest's in this process, which must end before any host is waited for."""
    folder = guest.folder
    words = {
        "align": [],
        "train": [f"{folder}/job.toml"],
        "score": ["--model", "claims", "--data", f"{folder}/new.csv", "--out", f"{folder}/scores.csv"],
    }[name]
    reached = []

    @contextlib.asynccontextmanager
    async def nobody(*_: object) -> Any:
        reached.append(name)
        raise AssertionError("hosts were asked")
        yield

    with pytest.MonkeyPatch.context() as patch:
        for module in (alignments, trainings, scoring):
            patch.setattr(module, "hosts_of", nobody)
        for module, reader in ((own_table, "read_wanted"), (trainings, "read_guest_rows")):
            patch.setattr(module, reader, nobody)  # nor is a table read for minutes first
        done = CliRunner().invoke(main, [name, str(guest.file), *words, *more])
    assert not reached
    return done


def in_the_way(store: Path) -> None:
    shutil.rmtree(store)
    store.write_text("")


def no_mount(store: Path) -> None:
    shutil.rmtree(store)
    store.symlink_to("/nowhere/at/all")


def folder_in_the_way(store: Path) -> None:
    shutil.rmtree(store / "scratch", ignore_errors=True)
    (store / "scratch").write_text("")


def ledger_in_the_way(store: Path) -> None:
    shutil.rmtree(store / "ledger", ignore_errors=True)
    (store / "ledger").write_text("")


SPOILT: dict[str, tuple[Callable[[Path], None], str]] = {
    "a file in the way": (in_the_way, "vfl-store cannot be written: a file of that name is in the way"),
    "a mount that is not there": (no_mount, "it is a link to /nowhere/at/all, which is not there"),
    "a folder of it": (folder_in_the_way, "scratch cannot be written: a file of that name"),
    "the ledger": (ledger_in_the_way, "ledger cannot be written: a file of that name"),
}


@pytest.mark.parametrize("what", SPOILT)
def test_a_store_that_cannot_be_used_is_said_at_once(party: Party, what: str) -> None:
    spoil, said = SPOILT[what]
    spoil(party.store)
    for name in COMMANDS:
        done = command(party, name)
        (line,) = done.stderr.splitlines()
        assert done.exit_code == 3 and line.startswith("error: the store") and said in line, done.output
        assert done.stdout == ""
    told: list[str] = []
    assert not asyncio.run(examine(load_party(party.file), 0.0, lambda it: told.append(it.line)))
    (failed,) = [line for line in told if line.startswith("FAIL")]
    assert failed.startswith("FAIL  store: ") and said in failed


def test_a_party_file_that_was_changed_after_serve_had_read_it_is_said(
    party: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    hour_ago = time.time() - 3600
    os.utime(party.file, (hour_ago, hour_ago))
    Store(party.store).check()
    with alone(party.store / "serve.lock", "vfl serve"):
        later = time.time() + 5  # a process says by the second when it was started
        os.utime(party.file, (later, later))
        assert serves_an_older_file(party.store, party.file) is None  # it has another one
    known = locks.own_holder()
    ours = replace(known, command=f"vfl serve {party.file.name}")
    monkeypatch.setattr(locks, "own_holder", lambda: ours)
    with alone(party.store / "serve.lock", "vfl serve"):
        os.utime(party.file, (hour_ago, hour_ago))
        assert serves_an_older_file(party.store, party.file) is None
        os.utime(party.file, (later, later))
        said = serves_an_older_file(party.store, party.file)
    assert said is not None and re.match(rf"{party.file.name} was changed after .* had read it: ", said)
    assert serves_an_older_file(party.store, party.file) is None


def test_a_store_whose_disk_is_not_mounted(party: Party, tmp_path: Path) -> None:
    """It is not made in the mount point's place, where nothing of it would be found."""
    party.settings["party"]["store"] = str(tmp_path / "disk" / "vfl-store")
    party.write()
    for name in COMMANDS:
        done = command(party, name)
        assert done.exit_code == 3
        assert f"there is no folder {tmp_path / 'disk'}; make it, or mount the disk" in done.stderr
    assert not (tmp_path / "disk").exists()


def failing(number: int) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize(
    ("owner", "call", "number", "said"),
    [
        (os, "fsync", errno.ENOSPC, "cannot be written: No space left on device"),
        (os, "fsync", errno.EDQUOT, "cannot be written: Disk quota exceeded"),
        (tempfile, "TemporaryFile", errno.EROFS, "cannot be written: Read-only file system"),
        (tempfile, "TemporaryFile", errno.EACCES, "cannot be written: Permission denied"),
        (fcntl, "flock", errno.ENOLCK, "is on a file system without locks (No locks available)"),
    ],
)
def test_what_the_system_says_of_a_store_is_passed_on(
    party: Party, monkeypatch: pytest.MonkeyPatch, owner: Any, call: str, number: int, said: str
) -> None:
    store = Store(party.store)
    store.check()
    before = sorted(path for path in party.store.rglob("*"))
    with monkeypatch.context() as patch:
        patch.setattr(owner, call, failing(number))
        with pytest.raises(DataError) as raised:
            store.check()
        fresh = Store(party.folder / "other")
        with pytest.raises(DataError, match=r"the store .*other cannot be made: "):
            fresh.check()
    assert said in str(raised.value) and "its log has the details" in raised.value.for_peer
    assert sorted(path for path in party.store.rglob("*")) == before
    assert not fresh.root.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else for a while")
def test_a_store_of_another_account(party: Party, tmp_path: Path) -> None:
    site = Site.open(load_party(party.file))
    for path in (tmp_path, *tmp_path.parents):
        if path == Path(tempfile.gettempdir()):
            break
        path.chmod(0o755)
    party.folder.chmod(0o755)
    for mode, said in (
        (0o700, "the store .*vfl-store cannot be (used|written): Permission denied"),
        (0o755, "the store .*vfl-store cannot be (used|written): Permission denied"),
    ):
        party.store.chmod(mode)
        os.seteuid(65534)
        try:
            with pytest.raises(DataError, match=said):
                check_storage(site)
            with pytest.raises(DataError, match="Permission denied"), Store(party.store).in_use():
                Store(party.store).write("model", "m", {})
        finally:
            os.seteuid(0)
    os.chown(party.store, 1, 1)
    os.seteuid(65534)
    try:
        with pytest.raises(DataError, match=r"can be written by its owner, account .*: chown it"):
            check_storage(site)
    finally:
        os.seteuid(0)


def test_a_check_leaves_nothing_behind(party: Party, tmp_path: Path) -> None:
    site = Site.open(load_party(party.file))
    shutil.rmtree(party.store)
    check_storage(site)
    assert not party.store.exists()
    with working(site) as store:
        assert [path.name for path in store.root.iterdir()] == ["status"]  # that it is at work
        assert store.root.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("role", ["host", "coordinator"])
def test_who_serves_says_it_too(
    tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    federation = Federation(tmp_path, keys, hosts=("registry",), coordinator=True)
    one = federation.parties["registry" if role == "host" else "umpire"]
    one.write()
    one.store.write_text("")
    done = CliRunner().invoke(main, ["serve", str(one.file)])
    (line,) = done.stderr.splitlines()
    assert done.exit_code == 3 and "a file of that name is in the way" in line


def test_a_ledger_that_cannot_go_on_ends_a_job_before_it_begins(party: Party, keys: Path) -> None:
    site = Site.open(load_party(party.file))
    own = site.journal.ledger
    with working(site):
        own.append(line_of("registry"), "")
        own.seal()
    (file,) = own.folder.glob("*.jsonl")
    whole = file.read_bytes()
    file.write_bytes(whole[:-30])
    for name in COMMANDS:
        done = command(party, name)
        assert done.exit_code == 3 and "is not what was sealed: it was changed or cut" in done.stderr
    file.write_bytes(whole)
    # A store is one party's.
    other = Ledger(own.folder, load(keys / "registry" / "registry"), "host")
    with pytest.raises(DataError, match=r"is insurer's: give each party a store of its own"):
        other.check()
    with pytest.raises(DataError, match=r"is insurer's: give each party a store of its own"):
        other.append(line_of("insurer"), "")
    # Another account's files, as `sudo vfl` leaves them: root may write to all.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: path.name != "lock")
        with pytest.raises(
            DataError, match="cannot be written: lock is another account's, or read-only"
        ):
            own.check()


def line_of(peer: str) -> Any:
    from vfl.party.ledger import JobEntry

    return JobEntry(
        peer=peer, task="align", job=None, purpose=None, run="", hosts=[], alignment=None, model=None
    )


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("align", ("--name", "Q 4"), "--name must be up to 40 lower-case letters"),
        ("align", ("--name", ""), "--name must be up to 40 lower-case letters"),
        ("align", ("--name", "q4\n"), "--name must be up to 40 lower-case letters"),
        ("align", ("--name", "x" * 41), "--name must be up to 40 lower-case letters"),
        ("align", ("--extend", "q5"), "no alignment q5 in "),
        ("align", ("--extend", "../q5"), "no file ../q5"),
        ("train", ("--alignment", "q5"), "no alignment q5 in "),
        ("train", ("--alignment", "Q5"), "no name of an alignment"),
        ("score", ("--model", "clams"), "no model clams in "),
        ("score", ("--out", "scores.txt"), "its name must end in .csv or .parquet"),
    ],
)
def test_a_name_is_checked_before_anything_is_read_or_asked(
    party: Party, name: str, words: tuple[str, ...], said: str
) -> None:
    done = command(party, name, *words)
    (line,) = done.stderr.splitlines()
    assert said in line and done.exit_code in (2, 3, 5) and done.stdout == ""


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"binned": ["densty"]}, "[glm] binned has 'densty', which is no feature of table.csv: did you"),
        (
            {"base": {"area": "nowhere"}},
            "[glm] base of column 'area' is a level that no row of table.csv",
        ),
    ],
)
def test_doctor_says_which_rule_names_what_is_not_there(
    party: Party, rule: dict[str, Any], said: str
) -> None:
    party.settings["glm"] = rule
    if "binned" in rule:
        party.settings["data"]["categorical"] = ["area"]
    party.write()
    told: list[str] = []
    assert not asyncio.run(examine(load_party(party.file), 0.0, lambda it: told.append(it.line)))
    assert [line for line in told if line.startswith("FAIL  table: ") and said in line]


def test_a_host_does_not_begin_to_serve_with_a_rule_about_no_column(tmp_path: Path, keys: Path) -> None:
    federation = Federation(tmp_path, keys, hosts=("registry",))
    host = federation.parties["registry"]
    host.settings["glm"] = {"binned": ["powr"]}
    host.write()
    done = CliRunner().invoke(main, ["serve", str(host.file)])
    assert done.exit_code == 2
    assert (
        "[glm] binned has 'powr', which is no feature of table.csv: did you mean 'power'?" in done.stderr
    )


# --- Who else can write ---------------------------------------------------------------------------


def folders(guest: Party) -> dict[str, Path]:
    return {
        "store": guest.store,
        "models": guest.store / "models",
        "ledger": guest.store / FOLDER,
        "keys": guest.folder / "keys",
        "peers": guest.folder / "peers",
        "pin": guest.folder / "peers" / "registry.pem",
    }


@pytest.mark.parametrize("which", ["store", "models", "ledger", "keys", "peers", "pin"])
@pytest.mark.parametrize("mode", [0o777, 0o702, 0o770, 0o720])
def test_a_folder_that_others_can_write_is_refused(party: Party, which: str, mode: int) -> None:
    (party.store / FOLDER).mkdir(mode=0o700, exist_ok=True)
    path = folders(party)[which]
    before = path.stat().st_mode & 0o777
    os.chown(path, -1, 1) if os.geteuid() == 0 else None
    path.chmod(mode)
    code = 3 if which in ("store", "models", "ledger") else 4
    who = "anybody" if mode & 0o002 else "group "
    for name in COMMANDS:
        done = command(party, name)
        assert done.exit_code == code, done.output
        (line,) = done.stderr.splitlines()
        assert f"{path} (" in line and f"can be written by {who}" in line
        assert f"run chmod go-w {path}, or set others_may_write = true in [party]" in line
    told: list[str] = []
    assert not asyncio.run(examine(load_party(party.file), 0.0, lambda it: told.append(it.line)))
    assert [line for line in told if line.startswith("FAIL") and f"can be written by {who}" in line]
    party.settings["party"]["others_may_write"] = True
    party.write()
    check_storage(Site.open(load_party(party.file)))
    told.clear()
    asyncio.run(examine(load_party(party.file), 0.0, lambda it: told.append(it.line)))
    assert any("who else can write there is not checked (others_may_write)" in line for line in told)
    path.chmod(before)


def test_serve_refuses_as_well(tmp_path: Path, keys: Path) -> None:
    federation = Federation(tmp_path, keys, hosts=("registry",))
    host = federation.parties["registry"]
    host.write()
    host.store.mkdir()
    host.store.chmod(0o777)
    done = CliRunner().invoke(main, ["serve", str(host.file)])
    assert done.exit_code == 3 and "can be written by anybody (mode 777)" in done.stderr


class Entry:
    """A user or a group as the system knows it."""

    def __init__(self, name: str, gid: int, members: tuple[str, ...] = ()) -> None:
        self.pw_name = self.gr_name = name
        self.pw_gid = self.gr_gid = gid
        self.gr_mem = list(members)


@pytest.mark.parametrize(
    ("group", "gid", "refused"),
    [
        (Entry("vfl", 500), 500, False),  # as made with umask 002: a group of its owner alone
        (Entry("vfl", 500, ("vfl",)), 500, False),
        (Entry("vfl", 500, ("vfl", "eve")), 500, True),
        (Entry("staff", 500), 500, True),
        (Entry("vfl", 0), 0, True),  # in containers many accounts are in group 0
        (None, 500, True),
    ],
)
def test_a_group_of_the_owner_alone_is_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: Entry | None, gid: int, refused: bool
) -> None:
    def of_group(number: int) -> Entry:
        if group is None:
            raise KeyError(number)
        return group

    monkeypatch.setattr(permissions.pwd, "getpwuid", lambda number: Entry("vfl", gid))
    monkeypatch.setattr(permissions.grp, "getgrgid", of_group)
    tmp_path.chmod(0o775)
    assert (permissions.writers(tmp_path) is not None) == refused
    # With an access list, whose mask the group's bits are, others may be meant.
    monkeypatch.setattr(os, "getxattr", lambda *_: b"acl", raising=False)
    assert permissions.writers(tmp_path) is not None
    tmp_path.chmod(0o755)
    assert permissions.writers(tmp_path) is None
    # The owner, if it is neither this account nor root.
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    monkeypatch.setattr(permissions.os, "geteuid", lambda: 12_345)
    owner = tmp_path.stat().st_uid
    assert (permissions.writers(tmp_path) is None) == (owner == 0)


def test_what_is_made_is_its_owners_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        store = Store(tmp_path / "store")
        for kind in ("alignment", "model", "run", "batch", "checkpoint", "hint", "draw"):
            store.make(kind)  # type: ignore[arg-type]
        store.scratch()
        done = CliRunner().invoke(main, ["keys", "new", "insurer", "--dir", str(tmp_path / "keys")])
    finally:
        os.umask(old)
    assert done.exit_code == 0
    assert {path.stat().st_mode & 0o777 for path in store.folders} == {0o700}
    assert permissions.writers(tmp_path / "keys") is None


# --- What killed processes leave ------------------------------------------------------------------

WRITER = """
import itertools, sys
from pathlib import Path
import numpy as np
from vfl.party.files import replacing
from vfl.party.locks import alone, in_turn
from vfl.party.store import Store
store = Store(Path(sys.argv[1]))
with store.in_use():
    print("ready", flush=True)
    for i in itertools.count():
        with store.locked("run", "r", "a test"):
            ref = store.write_array("run", f"r{i % 3}", np.full(20_000, i))
            store.write("run", f"r{i % 3}", {"number": i, "array": ref})
"""


def test_kill_9_leaves_no_half_file_and_no_lock(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    rng = random.Random(4)
    for _ in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(store.root)], stdout=subprocess.PIPE
        ) as writer:
            assert writer.stdout is not None and writer.stdout.readline() == b"ready\n"
            until(lambda: bool(store.names("run")))
            for _ in range(rng.randrange(2_000)):
                store.names("run")
            writer.kill()
        with store.locked("run", "r", "the killed one"):
            pass
        for name in store.names("run"):
            body = store.read("run", name)
            assert (store.read_array("run", body["array"]) == body["number"]).all()
    left = store.folder("run") / ".r0.json.abcdefgh.tmp"
    left.write_bytes(b"half")
    orphan = store.folder("run") / f"gone.{16 * '0'}.npy"
    orphan.write_bytes(b"")
    (store.folder("run") / "left.lock").write_text("")
    with store.locked("run", "held", "a test"), Store(tmp_path / "store").in_use():
        assert (store.folder("run") / "held.lock").exists()
        assert not (store.folder("run") / "left.lock").exists()
        assert not left.exists() and not orphan.exists()
        left.write_bytes(b"half")
        with Store(tmp_path / "store").in_use():
            assert left.exists()  # another process may be writing it
    known = {f"{name}.json" for name in store.names("run")}
    kept = {path.name for path in store.folder("run").iterdir()} - {left.name}
    assert known <= kept and len(kept) <= len(known) * 3  # with the arrays of each


def test_a_disk_that_is_full_in_the_middle_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At whatever file of a record it is full: the old record stays whole, and nothing else is left."""
    store = Store(tmp_path / "store")

    def keep(number: int) -> None:
        refs = [store.write_array("run", "r", np.full(9, number + i)) for i in range(3)]
        store.write("run", "r", {"number": number, "arrays": refs})

    keep(0)
    calls, sync = [0], os.fsync

    def full(handle: int) -> None:
        calls[0] -= 1
        if calls[0] == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    monkeypatch.setattr(os, "fsync", full)
    failures = 0
    for at in range(1, 20):
        calls[0] = at
        try:
            keep(10 * at)
        except DataError as error:
            failures += 1
            assert str(error).endswith("No space left on device")
        else:
            break
        body = store.read("run", "r")
        for i, ref in enumerate(body["arrays"]):
            assert (store.read_array("run", ref) == body["number"] + i).all()
    assert failures >= 7  # each file and its folder
    with store.in_use():
        names = {path.name for path in store.folder("run").iterdir()}
    body = store.read("run", "r")
    assert names == {"r.json", *(ref["file"] for ref in body["arrays"])}


def test_names_of_files_fit_any_file_system(tmp_path: Path) -> None:
    """No two names differ in case alone; the longest one, and that of an output, can be written."""
    store = Store(tmp_path / "store")
    for bad in ("Claims", "CLAIMS", "clAims", "é", "ı", "K"):
        with pytest.raises(ModelError, match="no name of a model"):
            store.write("model", bad, {})
    longest = "x" * 64
    ref = store.write_array("model", longest, np.arange(3))
    store.write("model", longest, {"array": ref})
    assert store.read("model", longest)["array"] == ref
    with store.locked("model", longest, "a test"):
        pass
    for name in ("é" * 100, "保" * 70, "x" * 251, "🚗" * 60):
        path = tmp_path / f"{name}.csv"
        with replacing(path) as file:
            file.write(b"scores")
        left = path.with_name(f"{files._unfinished(path)}abcdefgh.tmp")
        left.write_bytes(b"half")
        files.remove_unfinished(path)
        assert path.read_bytes() == b"scores" and not left.exists()


# --- Two processes --------------------------------------------------------------------------------


def test_who_holds_a_lock_is_said(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    with alone(path, "a test"):
        holder = locks.holder(path)
        assert holder is not None and holder.process == os.getpid()
        with pytest.raises(Refused) as raised, alone(path, "a test"):
            raise AssertionError
        text = str(raised.value)
        assert text.startswith(
            f"a test is at work already: {holder.command} (process {os.getpid()}, since"
        )
        assert raised.value.for_peer == "a test is at work already"  # no command, no path
        path.write_text("not what a holder says")
        with (
            pytest.raises(Refused, match="a test is at work already: another process; end that"),
            alone(path, "a test"),
        ):
            raise AssertionError
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(locks, "_PATIENCE", 0.05)
            with (
                pytest.raises(DataError, match="has been locked for 0 s by another process: end it"),
                in_turn(path),
            ):
                raise AssertionError
    assert not path.exists() and locks.holder(path) is None
    path.write_text('{"process":1,"command":"vfl","since":"","machine":"elsewhere"}')
    assert locks.holder(path) is None  # what a file says counts only while it is locked
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwrite", failing(errno.ENOSPC))
        with in_turn(path):  # a full disk takes nobody's lock
            pass
        patch.setattr(fcntl, "flock", failing(errno.ENOLCK))
        with (
            pytest.raises(DataError, match=r"x\.lock cannot be locked: No locks available"),
            in_turn(path),
        ):
            raise AssertionError


def test_a_command_that_holds_a_lock_is_shown_as_it_was_called(monkeypatch: pytest.MonkeyPatch) -> None:
    for argv, shown in (
        (["/opt/vfl/bin/vfl", "serve", "a.toml"], "vfl serve a.toml"),
        (["/src/vfl/cli/__main__.py", "train"], "vfl train"),
        (["/src/vfl/__main__.py", "train"], "vfl train"),
        (["/src/pytest/__main__.py", "tests"], "__main__.py tests"),
        (["notebook.py", "\x1b[31m", "\udc80"], "notebook.py ?[31m ?"),
        (["vfl", "x" * 500], "vfl " + "x" * 153 + "..."),
        ([], "vfl"),
    ):
        monkeypatch.setattr(sys, "argv", argv)
        locks._own.cache_clear()
        assert locks._own(1).command == shown
    locks._own.cache_clear()


@pytest.mark.slow
def test_two_serve_from_one_store(tmp_path: Path, keys: Path) -> None:
    federation = Federation(tmp_path, keys, hosts=("registry",))
    host = federation.parties["registry"]
    with ended(federation):
        federation.serve()
        pid = federation.serving["registry"].process.pid
        second = host.run("serve")
        said = f"at work already: vfl serve registry.toml (process {pid}, since 20"
        second.failed(6, "vfl serve in ", said)
        doctor = host.run("doctor")
        assert f"; vfl serve registry.toml (process {pid}, since 20" in doctor.out
        # One that was killed holds nothing.
        kill(federation.serving["registry"])
        federation.serve()
        federation.guest.align().ok()


def test_a_party_with_both_roles_and_commands_at_once(tmp_path: Path, keys: Path) -> None:
    """The registry serves the insurer, which trains twice and scores, while the registry itself aligns
    with the bureau from the same store: all are safe, and every ledger is whole."""
    federation = Federation(tmp_path, keys)
    guest, registry = federation.guest, federation.parties["registry"]
    with ended(federation):
        federation.serve()
        guest.align().ok()
        guest.train().ok()
        own = json.loads(json.dumps(registry.settings))
        address = guest.settings["peers"]["bureau"]["address"]
        own["party"] |= {"role": "guest"}
        del own["policy"], own["party"]["listen"]
        own["peers"] = {"bureau": {**own["peers"]["bureau"], "address": address}}
        (registry.folder / "guest.toml").write_text(toml(own))
        trainings = [guest.start_train({**JOB, "job": {**JOB["job"], "name": n}}) for n in ("a", "b")]
        scoring = guest.start(
            "score", "--model", "claims", "--data", "new.csv", "--out", "scores.csv", "--wait", "20"
        )
        aligning = Running(registry, ["align", "guest.toml", "--wait", "20", "--json"])
        models = [running.wait().ok().json["model"] for running in trainings]
        scoring.wait().ok()
        name = aligning.wait().ok().json["alignment"]
        assert name in Store(registry.store).names("alignment")
        for one in (guest, registry):
            assert set(models) <= set(Store(one.store).names("model"))
        for one in federation.parties.values():
            found = CliRunner().invoke(main, ["ledger", "verify", str(one.file), "--json"])
            assert found.exit_code == 0, found.output


def test_revoking_at_once_loses_no_certificate(tmp_path: Path) -> None:
    created = [identity.create(tmp_path / name / name, name) for name in ("a", "b", "c", "d")]
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(
            target=revocation.revoke,
            args=(tmp_path / "keys", one.certificate_path, one.certificate, "a test", "2027-01-01"),
        )
        for one in created
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    listed = revocation.revoked_by(tmp_path / "keys")
    assert set(listed) == {one.certificate.fingerprint for one in created}


def test_of_two_trainings_on_an_alignment_one_keeps_hints(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with hold_hints(store, "a-1") as first, hold_hints(store, "a-1") as second:
        assert (first, second) == (True, False)
        with hold_hints(store, "a-2") as other:
            assert other
    with hold_hints(store, "a-1") as again:
        assert again


def until(there: Callable[[], bool], seconds: float = 240.0) -> None:
    deadline = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.01)
