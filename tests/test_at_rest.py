"""Files of a store whose party has its key under a passphrase."""

import io
import json
import shutil
import tracemalloc
from datetime import date
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization
from federation import JOB, Federation
from room import Room
from traced import traced

from vfl.cli import main
from vfl.errors import DataError, IdentityError, ModelError
from vfl.jobs.connect import store_of
from vfl.jobs.hints import StoredGuestHints
from vfl.jobs.resume import Unfinished
from vfl.party import at_rest, identity, passphrase
from vfl.party.at_rest import FIRST_LINE, StoreKey, copy, is_encrypted
from vfl.party.config import load_party
from vfl.party.documents import canonical_json, document
from vfl.party.identity import Identity
from vfl.party.kinds import COUNTS, ENCRYPTED, FOLDERS, DocumentKind
from vfl.party.policy import Usage
from vfl.party.row_sums import RowSumsFile
from vfl.party.store import ArrayRef, Store
from vfl.protocols.common.lattice_hints import KnownHint

WORDS = "correct horse battery"
BODY = {"rows": [1, 2, 3], "name": "Zoë"}


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    """With its key under a passphrase."""
    return identity.create(tmp_path_factory.mktemp("keys") / "bureau", "bureau", WORDS.encode())


@pytest.fixture(scope="module")
def open_owner(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    """Without a passphrase."""
    return identity.create(tmp_path_factory.mktemp("keys") / "registry", "registry")


def store(folder: Path, own: Identity) -> Store:
    return Store(folder / "store", StoreKey(folder / "store", lambda: own))


def test_only_kinds_that_nobody_reads_are_encrypted(
    tmp_path: Path, owner: Identity, open_owner: Identity
) -> None:
    sealed, plain = store(tmp_path, owner), store(tmp_path / "plain", open_owner)
    rows = np.arange(100)
    for kind in ("alignment", "batch", "checkpoint", "draw", "hint", "model", "run"):
        for one in (sealed, plain):
            body = {**BODY, "array": dict(one.write_array(kind, "a", rows))}
            path = one.write(kind, "a", body)
            encrypted = one is sealed and kind in ENCRYPTED
            assert one.encrypts(kind) == encrypted
            array = path.with_name(body["array"]["file"])
            assert is_encrypted(path) == is_encrypted(array) == encrypted
            assert (b"rows" in path.read_bytes()) != encrypted
            again = Store(one.root, StoreKey(one.root, lambda: owner))
            assert again.read(kind, "a") == body and again.names(kind) == ["a"]
            assert (again.read_array(kind, body["array"]) == rows).all()
            assert path.stat().st_mode & 0o777 == array.stat().st_mode & 0o777 == 0o600
            # Neither does the name of an array tell what is in it.
            assert (body["array"]["sha256"][:16] in array.name) != encrypted
    assert not (plain.root / "encryption.json").exists()
    with pytest.raises(ModelError, match=r"a\.json is encrypted: only its party's own commands"):
        Store(sealed.root).read("alignment", "a")


COUNTED = b'{"a-1": {"claims-1": 0.25}}'


def open_store(folder: Path, own: Identity, value: int = 1) -> dict[DocumentKind, ArrayRef]:
    """A store without a key, with a document of each kind that is encrypted, and counts."""
    kept, refs = store(folder, own), {}
    for kind in FOLDERS:
        if kind in ENCRYPTED:
            refs[kind] = kept.write_array(kind, "a", np.full(9, value))
            kept.write(kind, "a", {"rows": dict(refs[kind])})
    (kept.folder("hint") / "a.parts").write_bytes(bytes([value]) * 99)
    for count in COUNTS:
        kept.write_counts(count, COUNTED + b" " * (value - 1))
    return refs


def open_files(kept: Store) -> list[str]:
    """The files of kinds that are encrypted which are not."""
    folders = {kept.folder(kind) for kind in FOLDERS if kind in ENCRYPTED}
    files = [path for folder in folders for path in folder.glob("*.[jnp]*")]
    files += [kept.counts(count) for count in COUNTS]
    return sorted(path.name for path in files if path.exists() and not is_encrypted(path))


def every_file(refs: dict[DocumentKind, ArrayRef]) -> int:
    """How many files of kinds that are encrypted `open_store` has made: documents, their arrays, the
    rows of a hint, counts."""
    return 2 * len(refs) + 1 + len(COUNTS)


def test_files_from_before_the_passphrase_are_encrypted_with_the_first(
    tmp_path: Path, owner: Identity, open_owner: Identity
) -> None:
    refs = open_store(tmp_path, open_owner)
    after = store(tmp_path, owner)
    # What only reads makes no key.
    assert after.read("alignment", "a") == {"rows": refs["alignment"]}
    assert len(open_files(after)) == every_file(refs) and not (after.root / "encryption.json").exists()
    after.write("alignment", "b", BODY)
    assert after.names("alignment") == ["a", "b"] and after.latest("alignment") == "b"
    for kept in (after, store(tmp_path, owner)):
        assert open_files(kept) == []
        for kind, ref in refs.items():
            assert kept.read(kind, "a") == {"rows": ref}
            assert (kept.read_array(kind, ref) == np.ones(9)).all()
        with kept.open("hint", kept.folder("hint") / "a.parts") as parts:
            assert parts.read() == b"\1" * 99
        assert all(kept.read_counts(kind) == COUNTED for kind in COUNTS)
    assert refs["draw"]["sha256"].encode() not in (after.root / "encryption.json").read_bytes()


def test_files_that_a_killed_process_has_not_encrypted_yet_are_when_they_are_read(
    tmp_path: Path, owner: Identity, open_owner: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = open_store(tmp_path, open_owner)
    with monkeypatch.context() as full:
        full.setattr(at_rest, "copy", Mock(side_effect=DataError("the disk is full")))
        with pytest.raises(DataError, match="the disk is full"):
            store(tmp_path, owner).write("alignment", "b", BODY)
    kept = store(tmp_path, owner)
    assert len(open_files(kept)) == every_file(refs)
    changed = kept.path("batch", "a")
    changed.write_bytes(changed.read_bytes() + b" ")
    for kind, ref in refs.items():
        if kind != "batch":
            assert kept.read(kind, "a") == {"rows": ref}
        assert (kept.read_array(kind, ref) == np.ones(9)).all()
    assert all(kept.read_counts(kind) == COUNTED for kind in COUNTS)
    assert open_files(kept) == ["a.json", "a.parts"]
    with pytest.raises(ModelError, match="is not encrypted, as all such files of this store are"):
        kept.read("batch", "a")
    assert open_files(kept) == ["a.json", "a.parts"]


def test_open_files_are_not_taken_once_a_store_is_encrypted(
    tmp_path: Path, owner: Identity, open_owner: Identity
) -> None:
    open_store(tmp_path, open_owner)
    kept = store(tmp_path, owner)
    kept.write("model", "m", BODY)
    kept.write("draw", "b", BODY)
    # Whoever may write there has no key, but a store of his own.
    forged = store(tmp_path / "forged", open_owner)
    refs = open_store(tmp_path / "forged", open_owner, 2)
    shutil.copytree(forged.root, kept.root, dirs_exist_ok=True)
    own = open_store(tmp_path / "again", open_owner)  # the very files that were there before
    for again in (kept, store(tmp_path, owner)):
        for kind, ref in refs.items():
            path = again.path(kind, "a")
            said = (
                f"{path} is not encrypted, as all such files of this store are: none of this party's "
                "commands wrote it; remove it, or bring it back from a copy"
            )
            for way in ("a", path, str(path.parent / ".." / path.parent.name / path.name)):
                with pytest.raises(ModelError) as refused:
                    again.read(kind, way)
                assert str(refused.value).endswith(said.partition(" is not")[2])
            assert str(path) not in refused.value.for_peer
            with pytest.raises(ModelError, match="is not encrypted"):
                again.read_array(kind, ref)
            assert (again.read_array(kind, own[kind]) == np.ones(9)).all()
        with (
            pytest.raises(ModelError, match=r"a\.parts is not encrypted"),
            again.open("hint", again.folder("hint") / "a.parts"),
        ):
            pass
        for count, name in COUNTS.items():
            with pytest.raises(ModelError, match=rf"{name} is not encrypted"):
                again.read_counts(count)
        assert again.read("model", "m") == BODY
        # Commands that list what is there list the rest.
        assert again.names("draw") == ["a", "b"] and again.latest("alignment") == "a"
    kept.write("draw", "a", BODY)  # in place of the forged one
    assert kept.read("draw", "a") == BODY
    # A file from elsewhere that somebody names is his own affair.
    assert kept.read("draw", forged.path("draw", "a")) == {"rows": refs["draw"]}


def test_counts_are_of_their_own_file_alone(tmp_path: Path, owner: Identity) -> None:
    kept = store(tmp_path, owner)
    kept.write_counts("labels", COUNTED)
    assert kept.read_counts("labels") == COUNTED
    whole = kept.counts("labels").read_bytes()
    kept.write_counts("usage", b'{"day":"2027-06-30","guests":{}}')
    for content in (kept.counts("usage").read_bytes(), whole[:-1] + bytes([whole[-1] ^ 1]), whole[:60]):
        kept.counts("labels").write_bytes(content)
        with pytest.raises(ModelError, match=r"labels\.json is damaged: it is not what was written"):
            kept.read_counts("labels")
    kept.counts("usage").write_bytes(b'{"day":"2027-06-30","guests":{}}')
    with pytest.raises(ModelError, match=r"usage\.json is not encrypted"):
        Usage(kept).of("insurer", date(2027, 6, 30))


def test_the_sums_about_rows_are_encrypted_and_those_of_another_store_are_refused(
    tmp_path: Path, owner: Identity
) -> None:
    kept, forged = store(tmp_path, owner), Store(tmp_path / "forged")
    for one in (kept, forged):
        file = RowSumsFile(one, "insurer")
        sums = file.read().with_rows(np.arange(9, dtype=np.uint64))
        file.write(sums.with_told(np.arange(9), np.full(9, 0.25)))
    files = [path for path in kept.folder("sums").iterdir() if path.suffix in (".json", ".npy")]
    assert len(files) == 3 and all(map(is_encrypted, files))
    assert RowSumsFile(kept, "insurer").read().told.tolist() == [0.25] * 9
    shutil.copy(forged.path("sums", "insurer"), kept.path("sums", "insurer"))
    with pytest.raises(ModelError, match=r"insurer\.json is damaged .*not encrypted"):
        RowSumsFile(kept, "insurer").read()


def test_a_store_whose_key_is_gone_is_not_begun_again(tmp_path: Path, owner: Identity) -> None:
    kept = store(tmp_path, owner)
    kept.write("draw", "a", BODY)
    (key := kept.root / "encryption.json").unlink()
    open_draw = Store(tmp_path / "forged").write("draw", "b", BODY)
    shutil.copy(open_draw, kept.folder("draw"))
    again = store(tmp_path, owner)
    for work in (lambda: again.write("draw", "c", BODY), lambda: again.read("draw", "b")):
        with pytest.raises(ModelError, match=r"a\.json is encrypted, and .*encryption\.json with its"):
            work()
    assert not key.exists()


def test_the_list_of_files_from_before_is_the_keys_own(
    tmp_path: Path, owner: Identity, open_owner: Identity
) -> None:
    for name in ("one", "two"):
        open_store(tmp_path / name, open_owner)
        store(tmp_path / name, owner).write("draw", "b", BODY)
    one, two = (tmp_path / name / "store" / "encryption.json" for name in ("one", "two"))
    body, other = (json.loads(file.read_text())["body"] for file in (one, two))
    shutil.copy(Store(tmp_path / "forged").write("draw", "a", BODY), one.parent / "draws")
    said = {"encryption.json is damaged": other["before"], "a.json is not encrypted": None}
    for text, before in said.items():
        body["before"] = before
        one.write_bytes(document("vfl/store-key", 1, canonical_json(body)))
        kept = store(tmp_path / "one", owner)
        with pytest.raises(ModelError, match=text):
            kept.read("draw", "a")
        assert kept.read("draw", "b") == BODY


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 127, 128, 129, 1000])
def test_any_size_comes_back(
    tmp_path: Path, owner: Identity, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(at_rest, "BLOCK", 64)
    kept, content = store(tmp_path, owner), np.random.default_rng(size).bytes(size)
    kept.make("hint")
    path = kept.folder("hint") / "a.parts"
    with kept.replacing("hint", path) as sink:
        for start in range(0, size, 50):
            sink.write(content[start : start + 50])
    blocks = max(1, -(-size // 64))
    assert path.stat().st_size == len(FIRST_LINE) + 32 + size + 16 * blocks
    with kept.open("hint", path) as source:
        assert source.read() == content and source.read(1) == b""
    with kept.open("hint", path) as source:
        assert b"".join(iter(lambda: source.read(7), b"")) == content


def test_what_was_tampered_with_is_said_to_be_damaged(
    tmp_path: Path, owner: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(at_rest, "BLOCK", 64)
    kept = store(tmp_path, owner)
    path = kept.write("alignment", "a", {"rows": list(range(100))})
    whole, head = path.read_bytes(), len(FIRST_LINE) + 32
    first, second, rest = whole[head : head + 80], whole[head + 80 : head + 160], whole[head + 160 :]
    changed = {f"bit of {n}": whole[:n] + bytes([whole[n] ^ 1]) + whole[n + 1 :] for n in (21, 53, 90)}
    changed |= {f"cut to {n}": whole[:n] for n in (21, 40, 53, 54, 60, 69, 133, 213, len(whole) - 1)}
    changed["last bit"] = whole[:-1] + bytes([whole[-1] ^ 1])
    changed["blocks moved"] = whole[:head] + second + first + rest
    changed["a block left out"] = whole[:head] + second + rest
    changed["a block twice"] = whole[:head] + first + first + second + rest
    changed["more"] = whole + b"\0"
    other = kept.write("alignment", "b", {"rows": list(range(100))}).read_bytes()
    changed["another document"] = other
    changed["an older key"] = store(tmp_path / "other", owner).write("alignment", "a", BODY).read_bytes()
    for content in changed.values():
        path.write_bytes(content)
        with pytest.raises(ModelError) as damaged:
            store(tmp_path, owner).read("alignment", "a")
        assert str(damaged.value) == f"{path} is damaged: it is not what was written"
        assert str(path) not in damaged.value.for_peer
    # A document of another kind in its place.
    kept.make("batch")
    moved = kept.folder("batch") / "a.json"
    moved.write_bytes(whole)
    with pytest.raises(ModelError, match="is damaged"):
        kept.read("batch", "a")


def changed(content: bytes, at: int) -> bytes:
    """With another byte there."""
    spoilt = bytearray(content)
    spoilt[at] ^= 1
    return bytes(spoilt)


def test_an_array_that_was_tampered_with(tmp_path: Path, owner: Identity) -> None:
    kept = store(tmp_path, owner)
    ref = dict(kept.write_array("checkpoint", "c", np.arange(1000)))
    file = kept.folder("checkpoint") / ref["file"]
    whole = file.read_bytes()
    for content in (whole[:-1], changed(whole, 500), whole + whole):
        file.write_bytes(content)
        with pytest.raises(ModelError, match="is damaged: it is not what was written"):
            kept.read_array("checkpoint", ref)


def test_another_identity_or_no_key(tmp_path: Path, owner: Identity, open_owner: Identity) -> None:
    kept = store(tmp_path, owner)
    path = kept.write("alignment", "a", BODY)
    with pytest.raises(ModelError) as foreign:
        store(tmp_path, open_owner).read("alignment", "a")
    assert str(foreign.value) == (
        f"{path} is encrypted, and not for {open_owner.certificate_path}: set identity in [party] to "
        "the one that it was made with, or to one that `vfl keys rotate` made of it"
    )
    key = kept.root / "encryption.json"
    content = key.read_bytes()
    assert key.stat().st_mode & 0o777 == 0o600
    for damage in (b"", b"{}", content.replace(b"key", b"kay", 1), changed(content, -9)):
        key.write_bytes(damage)
        with pytest.raises(ModelError, match=r"encryption\.json is damaged"):
            store(tmp_path, owner).read("alignment", "a")
    document = json.loads(content)
    ((fingerprint, wrapped),) = document["body"]["keys"].items()
    assert fingerprint == owner.certificate.fingerprint and set(wrapped) == {"salt", "key"}
    key.unlink()
    with pytest.raises(
        ModelError, match=r"is encrypted, and .*encryption\.json with its key is not there"
    ):
        store(tmp_path, owner).read("alignment", "a")


@pytest.mark.parametrize("option", [[], ["--no-passphrase"]])
def test_a_rotated_key_opens_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: list[str]
) -> None:
    monkeypatch.setenv(passphrase.VARIABLE, WORDS)
    old = identity.create(tmp_path / "keys" / "bureau", "bureau", WORDS.encode())
    kept = store(tmp_path, old)
    kept.write("alignment", "a", BODY)
    party = tmp_path / "bureau.toml"
    party.write_text(
        '[party]\nname = "bureau"\nrole = "host"\nidentity = "keys/bureau"\nstore = "store"\n'
        '[data]\npath = "t.csv"\nid = "id"\n'
        '[peers.insurer]\naddress = "127.0.0.1:1"\ncertificate = "peers/insurer.pem"\n'
    )
    done = CliRunner().invoke(main, ["keys", "rotate", str(party), *option])
    assert done.exit_code == 0, done.output
    new = identity.load(tmp_path / "keys" / "bureau.2")
    for own in (old, new):
        assert store(tmp_path, own).read("alignment", "a") == BODY
    later = store(tmp_path, new).write("alignment", "b", BODY)
    assert is_encrypted(later)  # also without a passphrase: what is open here is not taken
    assert store(tmp_path, old).read("alignment", "b") == BODY
    # A store that this key does not open is found before another key is made.
    (kept.root / "encryption.json").write_bytes(b"")
    done = CliRunner().invoke(main, ["keys", "rotate", str(party)])
    assert done.exit_code == 5 and "encryption.json is damaged" in done.output
    assert not (tmp_path / "keys" / "bureau.3.key").exists()


def test_what_is_encrypted_between_rotation_and_the_new_key_can_be_read(
    tmp_path: Path, owner: Identity, open_owner: Identity
) -> None:
    StoreKey(tmp_path / "store", lambda: owner).hand_over(open_owner)
    store(tmp_path, owner).write("alignment", "a", BODY)
    assert store(tmp_path, open_owner).read("alignment", "a") == BODY
    # Nothing is made for a store in which nothing is encrypted.
    StoreKey(tmp_path / "none", lambda: open_owner).hand_over(owner)
    assert not (tmp_path / "none").exists()


def test_memory_does_not_grow_with_a_file(tmp_path: Path, owner: Identity) -> None:
    kept, size = store(tmp_path, owner), 40 * at_rest.BLOCK
    kept.make("hint")
    path = kept.folder("hint") / "a.parts"
    zeros = io.BytesIO(bytes(size))
    with kept.replacing("hint", path) as sink:  # before what is measured: keys and modules
        sink.write(b"")
    with traced():
        with kept.replacing("hint", path) as sink:
            digest = copy(zeros, sink)
        with kept.open("hint", path) as source:
            assert copy(source, io.BytesIO()) == digest
            assert tracemalloc.get_traced_memory()[1] < size + 8 * at_rest.BLOCK


HINT = KnownHint(b"n" * 32, b"s" * 32, b"header", 3)


def test_a_hint_is_worked_on_in_a_copy(tmp_path: Path, owner: Identity) -> None:
    kept = store(tmp_path, owner)

    def shelf(own: Identity) -> StoredGuestHints:
        return StoredGuestHints(store(tmp_path, own), "aligned-1", {"bureau": "print"})

    hints = shelf(owner)
    hints.clear("bureau", 8)
    working = hints.file("bureau")
    assert working is not None and working.parent == kept.scratch()
    working.write_bytes(b"parts of")
    hints.keep("bureau", HINT)
    assert not any(kept.scratch().iterdir())
    (parts,) = kept.folder("hint").glob("*.parts")
    assert is_encrypted(parts) and b"parts of" not in parts.read_bytes()
    again = shelf(owner)
    assert again.known("bureau") == HINT
    assert again.file("bureau") == working and working.read_bytes() == b"parts of"
    again.close()
    assert not any(kept.scratch().iterdir())
    whole = parts.read_bytes()
    parts.write_bytes(changed(whole, -1))
    assert shelf(owner).known("bureau") is None  # another one is made
    assert not any(kept.scratch().iterdir())
    parts.write_bytes(b"parts of")  # an open one, which was not there before the passphrase
    assert shelf(owner).known("bureau") is None
    assert not any(kept.scratch().iterdir())


def test_a_hint_from_before_the_passphrase_is_worked_on_in_a_copy(
    tmp_path: Path, owner: Identity, open_owner: Identity
) -> None:
    def shelf(own: Identity) -> StoredGuestHints:
        return StoredGuestHints(store(tmp_path, own), "aligned-1", {"bureau": "print"})

    before = shelf(open_owner)
    before.clear("bureau", 8)
    working = before.file("bureau")
    assert working is not None and working.parent == store(tmp_path, open_owner).folder("hint")
    working.write_bytes(b"parts of")
    before.keep("bureau", HINT)
    for begun in (False, True):
        assert is_encrypted(working) == begun
        after = shelf(owner)
        assert after.known("bureau") == HINT
        copied = after.file("bureau")
        assert copied is not None and copied != working and copied.read_bytes() == b"parts of"
        after.close()
        store(tmp_path, owner).write("alignment", "b", BODY)


def test_a_copy_that_a_killed_process_left_is_cleared_away(tmp_path: Path, owner: Identity) -> None:
    kept = store(tmp_path, owner)
    kept.make("hint")
    for name in ("a.parts", "a.parts.part"):
        (kept.scratch() / name).write_bytes(b"parts")
    with kept.in_use():
        assert not any(kept.scratch().iterdir())


def under_passphrase(folder: Path, keys: Path) -> Path:
    """The keys of a federation, all under the same passphrase."""
    shutil.copytree(keys, folder)
    for path in folder.rglob("*.key"):
        key = serialization.load_pem_private_key(path.read_bytes(), None)
        der = key.private_bytes(
            serialization.Encoding.DER,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        path.write_bytes(passphrase.seal(der, WORDS.encode()))
    return folder


def test_a_job_leaves_nothing_in_the_clear(
    tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(passphrase.VARIABLE, WORDS)
    monkeypatch.setattr(passphrase, "_SCRYPT_N", 16)  # of no use to the test but to be waited for
    monkeypatch.setattr(Unfinished, "finish", lambda _: None)  # its checkpoints stay
    federation = Federation(
        tmp_path / "room", under_passphrase(tmp_path / "keys", keys), guest_listens=True
    )
    room = Room(federation)
    room.patch(monkeypatch)
    for name in ("registry", "bureau"):
        policy = federation.parties[name].settings["policy"]
        policy["encryptions"] = ["paillier", "lattice"]
    aligned = room.align().alignment.name
    job = {**JOB, "secureboost": {**JOB["secureboost"], "trees": 1, "encryption": "lattice"}}
    first = room.train(job)
    for name in ("insurer", "registry", "bureau"):
        party = load_party(federation.parties[name].file)
        kept = Store(party.party.store)
        files = [
            path
            for kind in FOLDERS
            if kind in ENCRYPTED
            for path in kept.folder(kind).glob("*")
            if path.suffix != ".lock"
        ]
        counts = [path for kind in COUNTS if (path := kept.counts(kind)).exists()]
        assert len(counts) == (0 if name == "insurer" else 1)
        assert all(is_encrypted(path) for path in counts)
        of_host = set() if name == "insurer" else {"sums"}
        folders = {path.parent.name for path in files}
        assert folders == {"alignments", "checkpoints", "hints"} | of_host
        assert all(is_encrypted(path) for path in files)
        assert not any(kept.scratch().iterdir())
        assert store_of(party).read("alignment", aligned)["name"] == aligned
    # A second job finds the hints again and ends in the same model.
    with monkeypatch.context() as no_new:
        no_new.setattr(StoredGuestHints, "keep", None)
        second = room.train(job, fresh=True)
    own = store_of(load_party(federation.guest.file))
    assert own.read("model", second)["model"] == own.read("model", first)["model"]
    assert not any(own.scratch().iterdir())

    shutil.copy(Store(tmp_path / "forged").write("alignment", "planted", BODY), own.folder("alignment"))
    listed = CliRunner().invoke(main, ["alignments", str(federation.guest.file), "--json"])
    assert listed.exit_code == 0
    found = {one["name"]: one.get("error", "") for one in json.loads(listed.stdout)["alignments"]}
    assert found[aligned] == "" and "planted.json is not encrypted" in found["planted"]
    monkeypatch.delenv(passphrase.VARIABLE)
    with pytest.raises(IdentityError, match="has a passphrase: give it in VFL_PASSPHRASE"):
        store_of(load_party(federation.guest.file)).read("alignment", aligned)
    refused = CliRunner().invoke(main, ["alignments", str(federation.guest.file)])
    assert refused.exit_code == 4 and "insurer.key has a passphrase" in refused.output
