"""Hints of the lattice engine, kept with an alignment for later jobs on the same rows and bins.

The guest keeps what a host sent it: as much as 200 KB for each of the host's split candidates. A host
keeps a secret of 32 bytes, from which the key of its hint and the order of its candidates follow. Both
keep the last hint of an alignment and peer, and of the last alignments alone. Of two runs of a guest on
one alignment at the same time the second keeps none: its hints lie in memory.

Where the store encrypts hints, a job of the guest works on a copy in the store's scratch folder, since
the file is mapped into memory. The copy is what the host sent, still under the host's key; it goes when
the job ends.
"""

import contextlib
import hashlib
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import msgspec

from vfl.errors import DataError, ModelError, Refused
from vfl.party.at_rest import copy, is_encrypted
from vfl.party.files import replacing
from vfl.party.locks import in_turn
from vfl.party.store import Store
from vfl.protocols.common.lattice_hints import HostHint, KnownHint

H = TypeVar("H", KnownHint, HostHint)

_KEPT = 4  # hints of one peer
_SPARE = 1 << 26  # bytes of a disk that are left to others


@contextmanager
def hold_hints(store: Store, alignment: str) -> Iterator[bool]:
    """Whether a run of the guest has the kept hints of an alignment to itself, as long as it lasts."""
    with ExitStack() as stack:
        try:
            stack.enter_context(lock_hints(store, alignment))
        except Refused:
            held = False
        else:
            held = True
        yield held


def lock_hints(store: Store, alignment: str) -> AbstractContextManager[None]:
    """The hints of an alignment, to a guest's process alone. Raises Refused while a job has them."""
    return store.locked("hint", _name(alignment, "guest"), f"a training on {alignment}")


class StoredGuestHints:
    """Where the guest keeps hints of an alignment: `KeptHints` of protocols/common/lattice_hints.py."""

    def __init__(self, store: Store, alignment: str, fingerprints: Mapping[str, str]) -> None:
        """`fingerprints`: the certificates of hosts, by name."""
        self._store, self._alignment, self._fingerprints = store, alignment, fingerprints

    def known(self, host: str) -> KnownHint | None:
        """The hint that was kept last, unless its file is gone or damaged."""
        name = self._name(host)
        hint, digest = _read(self._store, name, KnownHint)
        # With a damaged one sums would be wrong, or the host would look like one that cheats.
        if hint is None or digest is None or digest != self._unpack(name):
            return None
        return hint

    def file(self, host: str) -> Path | None:
        name = self._name(host)
        return self._copy(name) if self._works_on_copy(name) else self._file(name)

    def keep(self, host: str, hint: KnownHint) -> None:
        name = self._name(host)
        file = self._file(name)
        if self._works_on_copy(name):
            with self._copy(name).open("rb") as opened, self._store.replacing("hint", file) as sink:
                digest: str | None = copy(opened, sink)
            self._copy(name).unlink()  # it stays mapped
        else:
            file.chmod(0o600)
            digest = _digest(file)
        _write(self._store, name, self._fingerprints[host], hint, digest)
        for old in _older(self._store, self._fingerprints[host]):
            self._remove(old)

    def read_into(self, host: str, hint: KnownHint, path: Path) -> bool:
        """Write what is kept of a hint into a file, decrypted; whether it is there, whole, and this one.

        Takes no lock and works on no copy of a job's: one that goes on may have the hints to itself.
        Raises DataError for a file that cannot be written.
        """
        name = self._name(host)
        known, digest = _read(self._store, name, KnownHint)
        if known != hint or digest is None:
            return False
        with replacing(path) as sink:
            try:
                with self._store.open("hint", self._file(name)) as opened:
                    return copy(opened, sink) == digest
            except (FileNotFoundError, ModelError):
                return False

    def clear(self, host: str, size: int) -> None:
        self._store.make("hint")
        self._remove(name := self._name(host))
        folder = self._store.folder("hint")
        taken = size
        if self._works_on_copy(name):
            self._store.scratch()
            taken = 2 * size
        _check_room(folder, host, taken)

    def close(self) -> None:
        """Remove the copies of this job."""
        for host in self._fingerprints:
            self._remove_copy(self._name(host))

    def _unpack(self, name: str) -> str | None:
        """The SHA-256 of a kept file's content, copied if it is encrypted or what is kept shall be; None
        when there is none, or none that can be read."""
        file = self._file(name)
        try:
            if not (is_encrypted(file) or self._store.encrypts("hint")):
                return _digest(file)
            self._store.scratch()
            with self._store.open("hint", file) as opened, replacing(self._copy(name)) as sink:
                return copy(opened, sink)
        except (DataError, ModelError, OSError):
            return None

    def _works_on_copy(self, name: str) -> bool:
        return self._store.encrypts("hint") or self._copy(name).exists()

    def _remove(self, name: str) -> None:
        self._store.remove("hint", name)
        self._remove_copy(name)
        file = self._file(name)
        for path in (file, _unfinished(file)):
            path.unlink(missing_ok=True)

    def _remove_copy(self, name: str) -> None:
        copied = self._copy(name)
        for path in (copied, _unfinished(copied)):
            path.unlink(missing_ok=True)

    def _name(self, host: str) -> str:
        return _name(self._alignment, self._fingerprints[host])

    def _file(self, name: str) -> Path:
        return _file(self._store, name)

    def _copy(self, name: str) -> Path:
        return self._store.scratch(make=False) / f"{name}.parts"


def hints_of(store: Store, alignment: str, fingerprints: Iterable[str]) -> list[str]:
    """The names of the hints that are kept of an alignment with peers of these certificates."""
    names = {_name(alignment, one) for one in fingerprints}
    there = names.intersection(store.names("hint"))
    return sorted(there | {name for name in names if _file(store, name).exists()})


def files_of_hint(store: Store, name: str) -> list[Path]:
    """All files that are kept of a hint."""
    return [*store.files("hint", name), *(path for path in [_file(store, name)] if path.exists())]


def _file(store: Store, name: str) -> Path:
    return store.folder("hint") / f"{name}.parts"


def _unfinished(file: Path) -> Path:
    return file.with_name(f"{file.name}.part")


class StoredHostHints:
    """Where a host keeps its hint of an alignment with a guest."""

    def __init__(self, store: Store, alignment: str, guest: str, run: str = "") -> None:
        """`guest`: the fingerprint of its certificate; `run`: that keeps hints, in hex."""
        self._store, self._guest, self._run = store, guest, run
        self._name = _name(alignment, guest)

    @property
    def run_before(self) -> str:
        """The run that has made the hint that is kept, in hex; empty where that is not known."""
        with contextlib.suppress(ModelError):
            run = self._store.read("hint", self._name).get("run", "")
            return run if isinstance(run, str) else ""
        return ""

    def known(self) -> HostHint | None:
        """The hint that was kept last."""
        return _read(self._store, self._name, HostHint)[0]

    def keep(self, hint: HostHint) -> None:
        """Keep a hint in place of the last one. Raises DataError when the store cannot be written."""
        with self._in_turn():
            _write(self._store, self._name, self._guest, hint, run=self._run)
            for old in _older(self._store, self._guest):
                self._store.remove("hint", old)

    def promise(self, name: bytes, vectors: int, life: int) -> bool:
        """Count so many vectors more of the hint of that name, if it is still the one that is kept and
        its life has room for them; whether it has. Raises DataError when the store cannot be written."""
        with self._in_turn():
            kept = self.known()
            if kept is None or kept.name != name or kept.vectors + vectors > life:
                return False
            counted = replace(kept, vectors=kept.vectors + vectors)
            _write(self._store, self._name, self._guest, counted, run=self.run_before)
            return True

    def _in_turn(self) -> AbstractContextManager[object]:
        """While no other job of the party keeps or counts."""
        self._store.make("hint")
        return in_turn(self._store.folder("hint") / "host.lock")


class PassingGuestHints:
    """The guest's hints for several trainings of one job, gone when it ends: `KeptHints`."""

    def __init__(self, store: Store, job: str) -> None:
        """`job`: a name that no other job of the store has."""
        self._store, self._job = store, job
        self._known: dict[str, KnownHint] = {}
        self._files: dict[str, Path] = {}

    def known(self, host: str) -> KnownHint | None:
        return self._known.get(host)

    def file(self, host: str) -> Path | None:
        if host not in self._files:
            name = _name(self._job, host)
            self._files[host] = self._store.scratch() / f"{name}.parts"
        return self._files[host]

    def keep(self, host: str, hint: KnownHint) -> None:
        self._known[host] = hint

    def clear(self, host: str, size: int) -> None:
        self._known.pop(host, None)
        self._unlink(host)
        _check_room(self._store.scratch(), host, size)

    def close(self) -> None:
        """Remove the files of this job."""
        for host in self._files:
            self._unlink(host)

    def _unlink(self, host: str) -> None:
        if (file := self._files.get(host)) is not None:
            for path in (file, _unfinished(file)):
                path.unlink(missing_ok=True)


class PassingHostHints:
    """A host's hint for several trainings of one job, in memory alone: `HostHints`."""

    def __init__(self) -> None:
        self._hint: HostHint | None = None

    def known(self) -> HostHint | None:
        return self._hint

    def keep(self, hint: HostHint) -> None:
        self._hint = hint

    def promise(self, name: bytes, vectors: int, life: int) -> bool:
        hint = self._hint
        if hint is None or hint.name != name or hint.vectors + vectors > life:
            return False
        self._hint = replace(hint, vectors=hint.vectors + vectors)
        return True


def _check_room(folder: Path, host: str, size: int) -> None:
    """Raises DataError without room for a hint of so many bytes: the file is mapped into memory, and a
    disk that is full would end the process without a word."""
    if shutil.disk_usage(folder).free < size + _SPARE:
        text = f"{folder} has no room for the hint of {host}, {size / 1e6:,.0f} MB"
        advice = "make room on its disk, or have fewer bins (max_bins)"
        raise DataError(f"{text}: {advice}", for_peer="its disk is full")


def _name(alignment: str, peer: str) -> str:
    return hashlib.sha256(f"{alignment}\n{peer}".encode()).hexdigest()[:32]


def _digest(file: Path) -> str | None:
    """The SHA-256 of a file; None when there is none, or none that can be read."""
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError:
        return None


def _read(store: Store, name: str, kind: type[H]) -> tuple[H | None, str | None]:
    """What was kept, and the digest of its file; None when there is none, or none that can be used."""
    if name not in store.names("hint"):
        return None, None
    try:
        document = store.read("hint", name)
        return msgspec.convert(document.get("hint"), kind), document.get("sha256")
    except (ModelError, msgspec.ValidationError):
        return None, None


def _write(
    store: Store,
    name: str,
    peer: str,
    hint: KnownHint | HostHint,
    digest: str | None = None,
    run: str = "",
) -> None:
    """run: at a host, that has made it, in hex."""
    body = {"peer": peer, "hint": msgspec.to_builtins(hint), "sha256": digest}
    store.write("hint", name, body | ({"run": run} if run else {}))


def _older(store: Store, peer: str) -> list[str]:
    """The hints of a peer but the newest."""
    hints = []
    for name in store.names("hint"):
        try:
            if store.read("hint", name).get("peer") == peer:
                hints.append((store.path("hint", name).stat().st_mtime_ns, name))
        except (ModelError, OSError):
            continue
    return [name for _, name in sorted(hints)[:-_KEPT]]
