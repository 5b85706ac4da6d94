"""What a party keeps between commands: alignments, its halves of models, runs, what is unfinished.

One document each (documents.py). Arrays too long for JSON lie beside it as `.npy` files named by
their own SHA-256, which the body holds, so that a document never meets another one's array. Files
for a person to read lie beside it under its name. Every file appears whole or not at all and is
readable by its owner only. Where the party's key is under a passphrase, so is what tells of rows or
keys, and what counts (at_rest.py).
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from vfl.blocks.scratch import OF_A_ROW_EACH, Scratch, in_pieces
from vfl.blocks.spill import clear_spilled
from vfl.errors import DataError, ModelError
from vfl.party.at_rest import FIRST_LINE, Sink, Source, StoreKey, copy, is_encrypted
from vfl.party.config_words import JOB_NAME
from vfl.party.documents import Body, body_of, canonical_json, document, parse_document
from vfl.party.files import (
    FOR_PEER,
    NotReadSoon,
    make_folder,
    make_folders,
    no_folder,
    reason,
    replacing,
    unwritable,
)
from vfl.party.kinds import COUNTS, ENCRYPTED, FOLDERS, CountKind, DocumentKind, FileKind
from vfl.party.locks import alone, forget, present, try_lock
from vfl.text import nearest_name

VERSION = 1
_ARRAY = r"{}\.[0-9a-f]{{16}}\.npy"  # the file of an array of the document named
_LEDGER, _SCRATCH, _STATUS, _APPROVALS = "ledger", "scratch", "status", "approvals"
_FOLDERS = (*FOLDERS.values(), _LEDGER, _SCRATCH, _STATUS, _APPROVALS)
_PROBE = 1024  # bytes that must go into a store


class ArrayRef(TypedDict):
    """What a body holds of an array beside it."""

    file: str
    sha256: str


class Store:
    """The folder of one party. Made on the first write, readable by its owner only.

    Without a key nothing is encrypted, and what is encrypted cannot be read.
    """

    def __init__(self, root: Path, key: StoreKey | None = None) -> None:
        self.root = root
        self._key = key

    def folder(self, kind: DocumentKind) -> Path:
        return self.root / FOLDERS[kind]

    @property
    def folders(self) -> list[Path]:
        """The folders of the store that are there, its own first."""
        every = [self.root, *(self.root / name for name in _FOLDERS)]
        return [folder for folder in every if os.path.isdir(folder)]  # noqa: PTH112 - False, not an error

    def scratch(self, *, make: bool = True) -> Path:
        """A folder for files that a job needs while it runs. Raises DataError when it cannot be made."""
        return self._made(_SCRATCH, make)

    def status(self, *, make: bool = True) -> Path:
        """The folder of what processes do now. Raises as `scratch`."""
        return self._made(_STATUS, make)

    def approvals(self, *, make: bool = True) -> Path:
        """The folder of jobs that wait for a person's decision. Raises as `scratch`."""
        return self._made(_APPROVALS, make)

    def _made(self, name: str, make: bool) -> Path:
        folder = self.root / name
        if not make:
            return folder
        try:
            make_folders(self.root, folder)
        except OSError as error:
            raise unwritable(f"{folder} cannot be made", error) from None
        return folder

    @property
    def scratch_at_hand(self) -> Path | None:
        """The same for a command that makes no store; None without one that can be written."""
        folder = self.root / _SCRATCH
        there = folder if folder.is_dir() else self.root
        return folder if there.is_dir() and os.access(there, os.W_OK | os.X_OK) else None

    def check(self) -> None:
        """Raises DataError, naming the cause, unless files can be written and locked in the store, or it
        can be made. Leaves nothing behind, also where another account runs it.
        """
        try:
            if os.path.lexists(self.root):
                _probe(self.root, f"the store {self.root} cannot be written")
                for folder in (self.root / name for name in _FOLDERS):
                    if os.path.lexists(folder):
                        _probe(folder, f"the store's folder {folder} cannot be written")
                return
            folder = self.root.parent
            if not folder.is_dir():
                raise DataError(
                    f"the store {self.root} cannot be made: there is no folder {folder}; make it, or "
                    "mount the disk that it is on",
                    for_peer=FOR_PEER,
                )
            _probe(folder, f"the store {self.root} cannot be made")
        except OSError as error:
            raise unwritable(f"the store {self.root} cannot be used", error) from None

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Work in the store. Who is the only one there clears away what killed processes have left: half
        files, arrays whose document was never written, locks.

        Raises DataError when the store cannot be made.
        """
        with contextlib.ExitStack() as stack:
            try:
                make_folders(self.root)
                only = stack.enter_context(present(self.root))
                if only is not None:
                    self._clear_away()
                    only()
            except OSError as error:
                raise unwritable(f"the store {self.root} cannot be used", error) from None
            yield

    def _clear_away(self) -> None:
        clear_spilled(self.scratch(make=False))
        for folder in self.folders:
            documents = {path.stem for path in folder.glob("*.json")}
            for path in folder.iterdir():
                array = re.fullmatch(r"(.+)\.[0-9a-f]{16}\.npy", path.name)
                half = path.name.startswith(".") and path.suffix == ".tmp"
                half |= folder.name == _SCRATCH and path.suffix in (".parts", ".part")
                with contextlib.suppress(OSError):
                    if half or (array is not None and array[1] not in documents):
                        path.unlink()
                    elif path.suffix == ".lock" and folder != self.root:
                        forget(path)

    def write(self, kind: DocumentKind, name: str, body: Mapping[str, object]) -> Path:
        """Write a document, in place of one of that name. Returns its path.

        `body` is JSON with text keys and finite floats, which come back bit for bit (ValueError
        otherwise). Arrays of an older document of that name are removed. Raises ModelError for a
        name that is none, DataError when the file cannot be written.
        """
        path = self.folder(kind) / f"{_check_name(kind, name)}.json"
        written = canonical_json(body)
        if canonical_json(json.loads(written)) != written:
            raise ValueError("a body has text keys only")
        self.make(kind)
        with self.replacing(kind, path) as file:
            file.write(document(f"vfl/{kind}", VERSION, written))
        for old in _arrays(path.parent, name):
            if f'"{old.name}"'.encode() not in written:
                old.unlink(missing_ok=True)
        return path

    def read(self, kind: DocumentKind, name_or_path: str | Path) -> Body:
        """The body of a document: by its name, or by the path of a file.

        Text with a slash or ending in .json is a path. Raises ModelError when it is missing,
        damaged, of another kind or of a newer version.
        """
        path = self.path(kind, name_or_path)
        try:
            with self.open(kind, path) as file:
                content = file.read()
        except FileNotFoundError:
            raise ModelError(self._missing(kind, name_or_path, path)) from None
        except OSError as error:
            raise ModelError(f"{path} cannot be read: {reason(error)}") from None
        return _body(parse_document(content, path), kind, path)

    def encrypts(self, kind: FileKind) -> bool:
        """Whether files of a kind are encrypted."""
        return kind in ENCRYPTED and self._key is not None and self._key.encrypts

    @contextmanager
    def replacing(self, kind: FileKind, path: Path) -> Iterator[Sink]:
        """As `files.replacing`, encrypted if files of this kind are."""
        with replacing(path) as file:
            if self._key is not None and self.encrypts(kind):
                with self._key.encrypting(file, kind, path.name) as sink:
                    yield sink
            else:
                yield file

    @contextmanager
    def writing(self, kind: DocumentKind, path: Path) -> Iterator[Sink]:
        """A new file that grows while a job runs, encrypted if files of this kind are; what there is of
        it stays if the process is killed. Raises DataError and OSError."""
        self.make(kind)
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(opened, "wb") as file:
            leaving = NotReadSoon(file)
            if self._key is not None and self.encrypts(kind):
                with self._key.encrypting(leaving, kind, path.name) as sink:
                    yield sink
            else:
                yield leaving

    @contextmanager
    def open(self, kind: FileKind, path: Path) -> Iterator[Source]:
        """The content of a file of the store, be it encrypted or not.

        Raises ModelError when it is damaged or this party cannot decrypt it, also when it is read, or
        when it is not encrypted where it ought to be; DataError and OSError.
        """
        if (
            self._key is not None
            and kind in ENCRYPTED
            and not is_encrypted(path)
            and self._is_own(path)
            and self._key.has_begun
        ):
            self._key.take_in(kind, path)
        with path.open("rb") as file:
            if file.read(len(FIRST_LINE)) != FIRST_LINE:
                file.seek(0)
                yield file
            elif self._key is None:
                raise ModelError(f"{path} is encrypted: only its party's own commands can read it")
            else:
                yield self._key.decrypting(file, kind, path)

    def _is_own(self, path: Path) -> bool:
        """Whether a file lies in the store, and not where somebody named it."""
        return path.parent.resolve().is_relative_to(self.root.resolve())

    def read_counts(self, kind: CountKind) -> bytes:
        """The counts of a kind. Raises ModelError when they are damaged or not of this party's writing,
        DataError and OSError."""
        with self.open(kind, self.counts(kind)) as file:
            return file.read()

    def write_counts(self, kind: CountKind, content: bytes) -> None:
        """Write counts in place of those before. Raises DataError when they cannot be written."""
        make_folder(self.root)
        with self.replacing(kind, self.counts(kind)) as file:
            file.write(content)

    def counts(self, kind: CountKind) -> Path:
        """The file of the counts of a kind."""
        return self.root / COUNTS[kind]

    def path(self, kind: DocumentKind, name_or_path: str | Path) -> Path:
        """The file that `read` opens."""
        if isinstance(name_or_path, Path):
            return name_or_path
        if "/" in name_or_path or os.sep in name_or_path or name_or_path.endswith(".json"):
            return Path(name_or_path)
        return self.folder(kind) / f"{_check_name(kind, name_or_path)}.json"

    def names(self, kind: DocumentKind) -> list[str]:
        """The names of all documents of a kind, sorted."""
        return sorted(path.stem for path in self._documents(kind))

    def latest(self, kind: DocumentKind) -> str:
        """The name of the document made last. Raises ModelError when there is none.

        It says itself when that was: files of a store that was copied, or came back from a backup, may
        all have the time of the copy.
        """
        documents = self._documents(kind)
        if not documents:
            raise ModelError(f"no {kind} yet in {self.folder(kind)}")
        return max(documents, key=lambda path: self._age(kind, path)).stem

    def _age(self, kind: DocumentKind, path: Path) -> tuple[str, int, str]:
        changed = path.stat().st_mtime_ns
        made = None
        with contextlib.suppress(ModelError):  # told when it is used
            made = self.read(kind, path.stem).get("made")
        if not isinstance(made, str) or not made:
            made = datetime.fromtimestamp(changed / 1e9, UTC).isoformat(timespec="seconds")
        return made, changed, path.stem

    def write_array(self, kind: DocumentKind, name: str, array: NDArray[np.generic]) -> ArrayRef:
        """Write an array beside the document `name`; its reference belongs into the body.

        To be called before `write`. Raises DataError when the file cannot be written, ValueError
        for an array of Python objects.
        """
        if array.dtype.hasobject or array.ndim != 1:
            return self._write(
                kind,
                name,
                lambda sink: np.lib.format.write_array(cast(BinaryIO, sink), array, allow_pickle=False),
            )

        def write(sink: Sink) -> None:  # the same bytes, of which few are in memory at a time
            header = np.lib.format.header_data_from_array_1_0(array)
            np.lib.format.write_array_header_1_0(cast(BinaryIO, sink), header)
            for some in in_pieces(len(array), array):
                sink.write(array[some].tobytes())

        return self._write(kind, name, write)

    def write_bytes(
        self, kind: DocumentKind, name: str, size: int, pieces: Callable[[], Iterable[bytes]]
    ) -> ArrayRef:
        """Write so many bytes, which come in pieces, as the array of them that `read_array` reads.

        They are asked for twice. Raises as `write_array`.
        """
        header = {"descr": "|u1", "fortran_order": False, "shape": (size,)}

        def write(sink: Sink) -> None:
            np.lib.format.write_array_header_1_0(cast(BinaryIO, sink), header)
            for piece in pieces():
                sink.write(piece)

        return self._write(kind, name, write)

    def _write(self, kind: DocumentKind, name: str, write: Callable[[Sink], None]) -> ArrayRef:
        """Write an array's file, of which `write` writes all to where it is told."""
        _check_name(kind, name)
        content = _Sha256()
        write(content)
        mark = content.hex[:16]
        if self._key is not None and self.encrypts(kind):
            mark = self._key.name(kind, content.hex)
        ref = ArrayRef(file=f"{name}.{mark}.npy", sha256=content.hex)
        self.make(kind)
        with self.replacing(kind, self.folder(kind) / ref["file"]) as file:
            write(_Plain(file))
        return ref

    def write_beside(
        self, kind: DocumentKind, name: str, extension: Literal["csv", "html", "toml"], content: bytes
    ) -> Path:
        """Write a file for a person to read, beside the document `name` if there is one; its path.

        Raises DataError when it cannot be written.
        """
        self.make(kind)
        path = self.folder(kind) / f"{_check_name(kind, name)}.{extension}"
        with replacing(path) as file:
            file.write(content)
        return path

    def read_array(
        self, kind: DocumentKind, ref: Mapping[str, object], folder: Path | None = None
    ) -> NDArray[Any]:
        """The array of a reference, a large one in a file of a job; `folder` is the document's, when it
        was read by path.

        Raises ModelError when the file is missing or is not the one that was written, DataError where
        the disk has no room.
        """
        name, digest = ref.get("file"), ref.get("sha256")
        if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9][a-z0-9._-]*\.npy", name):
            raise ModelError(f"the {kind} is damaged: it names no array file")
        path = (folder or self.folder(kind)) / name
        try:
            # Twice over the file: nothing is made of bytes that were not written.
            with self.open(kind, path) as file:
                if copy(file, _Nowhere()) != digest:
                    raise ModelError(f"{path} is damaged: it is not the array that was written")
            if not is_encrypted(path):  # what is encrypted does not lie on the disk in plain
                with self.open(kind, path) as file:
                    large = _large_array(file, self.scratch_at_hand)
                if large is not None:
                    return large
            with self.open(kind, path) as file:
                return np.lib.format.read_array(file, allow_pickle=False)
        except FileNotFoundError:
            raise ModelError(f"{path} is missing: it belongs to a stored {kind}") from None
        except (OSError, ValueError) as error:
            raise ModelError(f"{path} cannot be read: {reason(error)}") from None

    def remove(self, kind: DocumentKind, name: str) -> None:
        """Remove a document, if there is one, what lies beside it, and what killed processes left.

        For who knows that no other process writes the document now.
        """
        for path in self.files(kind, name):
            path.unlink(missing_ok=True)

    def remove_unfinished(self, kind: DocumentKind, name: str) -> None:
        """Remove what killed processes left of a document that is there; for the same."""
        for path in self.files(kind, name):
            if path.suffix == ".tmp":
                path.unlink(missing_ok=True)

    def files(self, kind: DocumentKind, name: str) -> list[Path]:
        """The files of a document: its own, what lies beside it, and what killed processes left."""
        mine = re.compile(
            re.escape(_check_name(kind, name)) + r"\.(json|csv)|" + _ARRAY.format(re.escape(name))
        )
        found = []
        for path in self.folder(kind).glob("*"):
            document = path.name.removeprefix(".")
            if path.suffix == ".tmp":
                document = document.rpartition(".")[0].rpartition(".")[0]  # as mkstemp named it
            if mine.fullmatch(document):
                found.append(path)
        return found

    def prune(self, kind: DocumentKind, prefix: str, keep: Collection[str] = ()) -> None:
        """Remove the documents whose names start so, but those to keep, with what belongs to them and
        what processes that were killed left unfinished.

        Only of names without dots, and for who knows that no other process writes such documents now.
        """
        for path in self.folder(kind).glob(f"*{prefix}*"):
            hidden = path.name.startswith(f".{prefix}") and path.suffix == ".tmp"
            document = path.name.partition(".")[0]
            if hidden or (document.startswith(prefix) and document not in keep):
                path.unlink(missing_ok=True)

    @contextmanager
    def locked(self, kind: DocumentKind, name: str, what: str) -> Iterator[None]:
        """Hold the name of a document against other processes of this party.

        Raises Refused, saying that `what` is at work, and who, when another one holds it, DataError when
        the store cannot be written. A process that is killed lets go.
        """
        self.make(kind)
        with alone(self.folder(kind) / f"{_check_name(kind, name)}.lock", what):
            yield

    def make(self, kind: DocumentKind) -> None:
        """Make the folder of a kind, if need be. Raises DataError when it cannot be made."""
        try:
            make_folders(self.root, self.folder(kind))
        except OSError as error:
            raise unwritable(f"{self.folder(kind)} cannot be made", error) from None

    def _documents(self, kind: DocumentKind) -> list[Path]:
        return [p for p in self.folder(kind).glob("*.json") if re.fullmatch(JOB_NAME, p.stem)]

    def _missing(self, kind: DocumentKind, name: str | Path, path: Path) -> str:
        if path.parent != self.folder(kind):
            return f"no file {path}"
        there = self.names(kind)
        near = nearest_name(path.stem, there)
        if near:
            advice = f"did you mean {near}?"
        elif there:
            advice = f"there are {', '.join(there[:5])}" + (", ..." if len(there) > 5 else "")
        else:
            advice = "there is none yet"
        return f"no {kind} {name} in {path.parent}: {advice}"


def _probe(folder: Path, what: str) -> None:
    """Raises DataError unless files can be made, filled and locked in the folder."""
    try:
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, no_folder(folder))
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_PROBE))
            file.flush()
            os.fsync(file.fileno())
            try:
                try_lock(file)
            except OSError as error:
                raise DataError(
                    f"{what}: {folder} is on a file system without locks ({reason(error)}): put the "
                    "store on another one, or mount it with locks (flock)",
                    for_peer=FOR_PEER,
                ) from None
    except OSError as error:
        raise unwritable(what, error) from None


class _Sha256:
    """A sink that NumPy can write an array to."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def write(self, data: bytes | memoryview) -> int:
        self._hash.update(data)
        return len(data)

    @property
    def hex(self) -> str:
        return self._hash.hexdigest()


class _Nowhere:
    """A sink that keeps nothing."""

    def write(self, data: bytes | memoryview) -> None:
        del data


class _Plain:
    """A file seen as a mere sink: NumPy's short cut for real files loses the error's reason."""

    def __init__(self, file: Sink) -> None:
        self.write = file.write


def _body(read: object, kind: DocumentKind, path: Path) -> Body:
    form = read.get("format") if isinstance(read, dict) else None
    if not isinstance(read, dict) or not isinstance(form, str) or not form.startswith("vfl/"):
        raise ModelError(f"{path} was not written by vfl")
    if form != f"vfl/{kind}":
        known = form.removeprefix("vfl/")
        what = f"is of kind {known}" if known in FOLDERS else "is of an unknown kind"
        raise ModelError(f"{path} {what}, where a {kind} is due")
    return body_of(read, VERSION, path)


def _large_array(file: Source, folder: Path | None) -> NDArray[Any] | None:
    """An array of many numbers, read into a file of a job; None of another one. Raises ValueError,
    OSError and DataError."""
    if folder is None or np.lib.format.read_magic(cast(BinaryIO, file)) != (1, 0):
        return None
    shape, in_columns, dtype = np.lib.format.read_array_header_1_0(cast(BinaryIO, file))
    if dtype.kind not in "iuf" or not dtype.isnative or in_columns:
        return None
    if math.prod(shape) * dtype.itemsize < OF_A_ROW_EACH:
        return None
    out = Scratch(folder).of_rows(math.prod(shape), dtype.type, "a stored array")
    for some in in_pieces(len(out), out):
        left = out[some].view(np.uint8)
        while len(left):
            read = np.frombuffer(file.read(len(left)), np.uint8)
            if not len(read):
                raise ValueError("it ends early")
            left[: len(read)] = read
            left = left[len(read) :]
    return out.reshape(shape)


def _check_name(kind: DocumentKind, name: str) -> str:
    """A name that is safe as a file's name and cannot be taken for a path."""
    if not re.fullmatch(JOB_NAME, name) or name.endswith((".json", ".npy")):
        raise ModelError(
            f"no name of {'an' if kind == 'alignment' else 'a'} {kind}: it is up to 64 lower-case "
            "letters, digits, dots, hyphens and underscores, starts with a letter or digit and does not "
            "end in .json or .npy"
        )
    return name


def _arrays(folder: Path, name: str) -> list[Path]:
    array = re.compile(_ARRAY.format(re.escape(name)))
    return [path for path in folder.iterdir() if array.fullmatch(path.name)]
