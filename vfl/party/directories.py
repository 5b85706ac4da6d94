"""Sealed directories in a party's store: those that a host has made, and those that a guest keeps.

A document holds the signed header and names the catalogue's arrays; of a host the secret key as well,
for which documents of this kind are encrypted. The entries lie beside it in a file of their own,
`NAME.VERSION.entries`, open: they are sealed already, and a guest maps them into memory.
"""

import contextlib
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, TypedDict

import msgspec
import numpy as np

from vfl.arrays import Bytes
from vfl.errors import ModelError
from vfl.party.at_rest import Sink
from vfl.party.documents import convert_document
from vfl.party.files import reason, replacing
from vfl.party.store import ArrayRef, Store
from vfl.protocols.lookup.directory import (
    DIGEST,
    SALT,
    Catalogue,
    Header,
    decode_header,
    digest_of_part,
)

_KIND: Literal["directory"] = "directory"


class KeptKey(msgspec.Struct, frozen=True):
    """A secret key of a host's directories for a model, under which lookups are answered."""

    secret: str  # in hex
    public: str  # in hex
    since: datetime  # of its first directory
    last: datetime  # of its last one

    def __repr__(self) -> str:
        return f"KeptKey({self.public!r})"


@dataclass(frozen=True)
class Directory:
    """A directory as it is kept."""

    header: Header
    signed: bytes  # the header as it was signed
    signature: bytes
    catalogue: Catalogue
    path: Path  # of its entries

    def read(self, part: int) -> bytes:
        """The entries of a part. Raises ModelError when the file is damaged, FileNotFoundError where
        another version has taken its place."""
        starts, width = self.catalogue.starts, self.header.width
        first, stop = int(starts[part]) * width, int(starts[part + 1]) * width
        try:
            with self.path.open("rb") as file:
                file.seek(first)
                content = file.read(stop - first)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise ModelError(f"{self.path} cannot be read: {reason(error)}") from None
        if digest_of_part(content) != self.catalogue.digests[part].tobytes():
            raise ModelError(f"{self.path} is damaged: it is not what was written")
        return content

    @property
    def is_whole(self) -> bool:
        """Whether the file is the one that was written: all of it is read."""
        try:
            for part in range(self.header.parts):
                self.read(part)
        except (ModelError, FileNotFoundError):
            return False
        return True

    def mapped(self) -> Bytes:
        """All entries, shape (entries, width), as pages of the file. Raises ModelError."""
        shape = (self.header.entries, self.header.width)
        try:
            if self.path.stat().st_size != self.header.size:
                raise ModelError(f"{self.path} is damaged: it is not as long as it was written")
            if not self.header.entries:
                return np.empty(shape, np.uint8)
            return np.asarray(np.memmap(self.path, np.uint8, "r", shape=shape))
        except OSError as error:
            raise ModelError(f"{self.path} cannot be read: {reason(error)}") from None


@dataclass(frozen=True)
class OwnDirectory:
    """A host's directory for a model, with its keys, the newest last."""

    directory: Directory
    keys: tuple[KeptKey, ...]


class _Arrays(TypedDict):
    counts: ArrayRef
    salts: ArrayRef
    digests: ArrayRef


class _Kept(msgspec.Struct, frozen=True):
    header: str
    signature: str
    catalogue: _Arrays
    entries: str
    model: str
    peer: str
    made: str
    keys: list[KeptKey] = []


class Withdrawn(msgspec.Struct, frozen=True):
    """What a host keeps of a model whose directory it has withdrawn."""

    model: str
    withdrawn: datetime
    last: datetime | None = None  # when the one that was withdrawn was made: no later one is older


def name_of(model: str, host: str) -> str:
    """The name of a guest's document of a host's directory for a model."""
    return f"{host}-{hashlib.sha256(model.encode()).hexdigest()[:24]}"


@contextlib.contextmanager
def new_entries(store: Store, name: str, version: str) -> Iterator[tuple[Sink, Path]]:
    """A file to write entries to, which appears whole under the path of this version. Raises
    DataError."""
    store.make(_KIND)
    path = entries_path(store, name, version)
    with replacing(path) as file:
        yield file, path


def entries_path(store: Store, name: str, version: str) -> Path:
    """The file of the entries of a version."""
    return store.folder(_KIND) / f"{name}.{version}.entries"


def keep_directory(
    store: Store, name: str, directory: Directory, peer: str, keys: tuple[KeptKey, ...] = ()
) -> None:
    """Keep a directory whose entries are written, in place of the one before. Raises DataError."""
    catalogue = directory.catalogue
    arrays = {
        "counts": store.write_array(_KIND, name, catalogue.counts),
        "salts": store.write_array(_KIND, name, catalogue.salts),
        "digests": store.write_array(_KIND, name, catalogue.digests),
    }
    body = {
        "header": directory.signed.hex(),
        "signature": directory.signature.hex(),
        "catalogue": {key: dict(ref) for key, ref in arrays.items()},
        "entries": directory.path.name,
        "model": directory.header.model,
        "peer": peer,
        "made": directory.header.made.isoformat(timespec="seconds"),
    }
    if keys:
        body["keys"] = msgspec.to_builtins(list(keys))
    store.write(_KIND, name, body)
    _remove_entries(store, name, keep=directory.path.name)


def load_directory(store: Store, name: str) -> OwnDirectory | Withdrawn | None:
    """What is kept of a directory, None if there is nothing. Raises ModelError when it is damaged."""
    if not (store.folder(_KIND) / f"{name}.json").exists():
        return None
    body = store.read(_KIND, name)
    what = f"directory {name}"
    if "withdrawn" in body:
        return convert_document(body, Withdrawn, what)
    kept = convert_document(body, _Kept, what)
    try:
        signed, signature = bytes.fromhex(kept.header), bytes.fromhex(kept.signature)
        header = decode_header(signed)
    except ValueError as error:
        raise ModelError(f"{what} is damaged: {error}") from None
    catalogue = Catalogue(
        store.read_array(_KIND, kept.catalogue["counts"]),
        store.read_array(_KIND, kept.catalogue["salts"]),
        store.read_array(_KIND, kept.catalogue["digests"]),
    )
    shapes = (catalogue.counts.shape, catalogue.salts.shape, catalogue.digests.shape)
    if shapes != ((header.parts,), (header.parts, SALT), (header.parts, DIGEST)) or catalogue.fault(
        header
    ):
        raise ModelError(f"{what} is damaged: its catalogue is another one's")
    if not re.fullmatch(r"[a-z0-9][A-Za-z0-9._-]*\.entries", kept.entries):
        raise ModelError(f"{what} is damaged: it names no file of entries")
    directory = Directory(header, signed, signature, catalogue, store.folder(_KIND) / kept.entries)
    return OwnDirectory(directory, tuple(kept.keys))


def load_withdrawn(store: Store, name: str) -> Withdrawn | None:
    """What is kept of a directory that was withdrawn, None for any other. Raises ModelError when it is
    damaged."""
    body = store.read(_KIND, name)
    return convert_document(body, Withdrawn, f"directory {name}") if "withdrawn" in body else None


def withdraw_directory(store: Store, name: str, now: datetime) -> None:
    """Remove a host's directory with its keys; what is left says since when. Raises DataError, and
    ModelError when it is damaged."""
    kept, when = load_directory(store, name), now.isoformat(timespec="seconds")
    last = kept.directory.header.made if isinstance(kept, OwnDirectory) else kept and kept.last
    body = {"model": name, "withdrawn": when, "made": when}
    store.write(_KIND, name, body | ({"last": last.isoformat()} if last else {}))
    _remove_entries(store, name)


def remove_directory(store: Store, name: str) -> None:
    """Remove all that is kept of a directory."""
    store.remove(_KIND, name)
    _remove_entries(store, name)


def _remove_entries(store: Store, name: str, keep: str = "") -> None:
    for path in _entries(store, name):
        if path.name != keep:
            path.unlink(missing_ok=True)


def _entries(store: Store, name: str) -> list[Path]:
    own = re.compile(re.escape(name) + r"\.[0-9]{8}-[0-9]{6}-[0-9a-f]{6}\.entries(\.part)?")
    return [path for path in store.folder(_KIND).glob("*.entries*") if own.fullmatch(path.name)]


def files_of_directory(store: Store, name: str) -> list[Path]:
    """All files that are kept of a directory."""
    return [*store.files(_KIND, name), *_entries(store, name)]


def kept_directories(store: Store) -> Mapping[str, OwnDirectory | Withdrawn]:
    """All that are kept, by their names. Raises ModelError when one is damaged."""
    found = {name: load_directory(store, name) for name in store.names(_KIND)}
    return {name: one for name, one in found.items() if one is not None}
