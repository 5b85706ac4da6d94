"""Files of the store under the passphrase of the party's identity.

A store has one random key. It lies in `encryption.json`, encrypted for each certificate of the party
under a key that HKDF (RFC 5869) derives from the certificate's private key, which is under the
passphrase. So the costly derivation from the passphrase, scrypt, is done once, when the private key is
opened; no process keeps the passphrase for it; another passphrase for the same key changes no file; and
a rotated key is only added to the list, so that no file need be encrypted anew.

A store that has its key holds no other files of kinds that are encrypted: an open one, which whoever
may write there could have made, is not taken. Those that lie there when the key is made are encrypted
then. Lest it be cut short, their digests are in `encryption.json`, too, under the key: what was not
reached is encrypted when it is read.

An encrypted file has a first line that says so, a random salt of 32 bytes and blocks under AES-256-GCM.
The key of each file is derived by HKDF from the store's key, the salt and the file's kind and name: a
file in place of another one is noticed. The nonce of a block is its number and whether it is the last
(the construction STREAM: Hoang, Reyhanitabar, Rogaway, Vizár, 2015, "Online authenticated encryption
and its nonce-reuse misuse-resistance", section 7), so that blocks can be neither moved nor cut off, and
memory is needed for two blocks alone.
"""

import contextlib
import hashlib
import hmac
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Protocol

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from vfl.errors import DataError, ModelError
from vfl.party.documents import body_of, canonical_json, document, read_document
from vfl.party.files import make_folder, reason, replacing
from vfl.party.identity import Identity
from vfl.party.kinds import COUNTS, ENCRYPTED, FOLDERS, FileKind
from vfl.party.locks import in_turn

FIRST_LINE = b"vfl encrypted file 1\n"
BLOCK = 1 << 18  # bytes of content
_TAG, _SALT, _KEY = 16, 32, 32
_NONCE = bytes(12)  # of a key that encrypts once
_FORM, _VERSION = "vfl/store-key", 1


class Source(Protocol):
    """What content is read from."""

    def read(self, size: int = -1, /) -> bytes:
        """So many bytes, fewer only at the end; all that are left if `size` is negative."""


class Sink(Protocol):
    """What content is written to."""

    def write(self, data: bytes | memoryview, /) -> object:
        """Write all of it."""


class _Wrapped(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The store's key under the private key of a certificate."""

    salt: bytes
    key: bytes


class _Before(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What lay in the store when the key was made, under the key: SHA-256 by kind and name."""

    salt: bytes
    files: bytes


class _KeyFile(msgspec.Struct, frozen=True, omit_defaults=True):
    keys: dict[str, _Wrapped]  # by the certificate's fingerprint
    before: _Before | None = None  # None: nothing


class StoreKey:
    """The key of a store's encrypted files, which the party's identity opens once it is needed.

    `identity` is asked for at most once; it may ask for a passphrase.
    """

    def __init__(self, root: Path, identity: Callable[[], Identity]) -> None:
        self._root, self._file, self._load = root, root / "encryption.json", identity
        self._opened: bytes | None = None

    @cached_property
    def _identity(self) -> Identity:
        return self._load()

    @property
    def encrypts(self) -> bool:
        """Whether files are encrypted: where a passphrase keeps the key from who has the disk, and from
        then on."""
        return self.has_begun or self._identity.under_passphrase

    @property
    def has_begun(self) -> bool:
        """Whether files of the store are encrypted already."""
        return self._opened is not None or self._file.exists() or self._orphan is not None

    @cached_property
    def _orphan(self) -> Path | None:
        """An encrypted file of a store whose key is gone."""
        for _, path in _files(self._root):
            with contextlib.suppress(OSError):
                if is_encrypted(path):
                    return path
        return None

    def name(self, kind: str, digest: str) -> str:
        """16 hex digits for a file by its content's digest, from which nobody can tell the content."""
        return hmac.digest(self._made, f"{kind} {digest}".encode(), "sha256").hex()[:16]

    @contextmanager
    def encrypting(self, file: Sink, kind: str, name: str) -> Iterator[Sink]:
        """What encrypts all that is written to it into an open file."""
        with _encrypting(self._made, file, kind, name) as sink:
            yield sink

    def decrypting(self, file: BinaryIO, kind: str, path: Path) -> Source:
        """The content of an encrypted file, behind its first line. Raises ModelError, also when read."""
        salt = file.read(_SALT)
        return _Decrypting(file, _derived(self._kept(path), salt, kind, path.name), path)

    def take_in(self, kind: FileKind, path: Path) -> None:
        """Encrypt an open file of the store that was there before the key.

        Raises ModelError for any other one, and when there is a key that this identity does not open,
        DataError when it cannot be written.
        """
        key = self._made
        with self._turn():
            if not is_encrypted(path):
                self._take_in(key, kind, path, self._before.get(f"{kind} {path.name}"))

    def check(self) -> None:
        """Raises ModelError when there is a key that this identity does not open; makes one where files
        are going to be encrypted, DataError when it cannot be written."""
        if self.encrypts:
            _ = self._made

    def hand_over(self, new: Identity) -> None:
        """Let another identity of the party open the store, too: what is encrypted now and, until the
        party goes over to it, will be."""
        if self.encrypts:
            key = self._made
            with self._turn():
                read = self._read()
                added = {new.certificate.fingerprint: _wrap(key, new)}
                self._write(msgspec.structs.replace(read, keys={**read.keys, **added}))

    @cached_property
    def _made(self) -> bytes:
        """The key to write with, made if there is none yet."""
        make_folder(self._file.parent)
        with self._turn():
            if not self._file.exists():
                return self._begin()
        return self._kept(self._file)

    def _begin(self) -> bytes:
        """Make the key, and encrypt what is there."""
        if self._orphan is not None:
            raise self._missing(self._orphan)
        own, key = self._identity, secrets.token_bytes(_KEY)
        found: dict[tuple[FileKind, Path], str] = {}
        for kind, path in _files(self._root):
            try:
                with path.open("rb") as file:
                    found[kind, path] = hashlib.file_digest(file, "sha256").hexdigest()
            except FileNotFoundError:  # removed meanwhile
                continue
            except OSError as error:
                raise DataError(f"{path} cannot be read, to encrypt it: {reason(error)}") from None
        before = _seal({f"{kind} {path.name}": digest for (kind, path), digest in found.items()}, key)
        self._write(_KeyFile({own.certificate.fingerprint: _wrap(key, own)}, before))
        self._opened = key
        for (kind, path), digest in found.items():
            self._take_in(key, kind, path, digest)
        return key

    def _take_in(self, key: bytes, kind: FileKind, path: Path, digest: str | None) -> None:
        try:
            with (
                path.open("rb") as source,
                replacing(path) as file,
                _encrypting(key, file, kind, path.name) as sink,
            ):
                if copy(source, sink) != digest:
                    raise ModelError(
                        f"{path} is not encrypted, as all such files of this store are: none of this "
                        "party's commands wrote it; remove it, or bring it back from a copy"
                    )
        except FileNotFoundError:  # removed meanwhile
            return

    @cached_property
    def _before(self) -> dict[str, str]:
        """The digests of the files that lay there before the key."""
        before = self._read().before
        if before is None:
            return {}
        try:
            files = _listing(self._made, before.salt).decrypt(_NONCE, before.files, None)
        except InvalidTag:
            raise _damaged(self._file) from None
        return msgspec.json.decode(files, type=dict[str, str])

    def _turn(self) -> AbstractContextManager[None]:
        return in_turn(self._file.with_suffix(".lock"))

    def _kept(self, needed_for: Path) -> bytes:
        """The key to read with. Raises ModelError naming the file that cannot be read."""
        if self._opened is None:
            self._opened = self._open(needed_for)
        return self._opened

    def _open(self, needed_for: Path) -> bytes:
        own = self._identity
        try:
            wrapped = self._read().keys.get(own.certificate.fingerprint)
        except FileNotFoundError:
            raise self._missing(needed_for) from None
        if wrapped is None:
            raise ModelError(
                f"{needed_for} is encrypted, and not for {own.certificate_path}: set identity in "
                "[party] to the one that it was made with, or to one that `vfl keys rotate` made of it"
            )
        try:
            own_key = _wrapping(own, wrapped.salt)
            return own_key.decrypt(_NONCE, wrapped.key, own.certificate.fingerprint.encode())
        except InvalidTag:
            raise _damaged(self._file) from None

    def _missing(self, needed_for: Path) -> ModelError:
        return ModelError(
            f"{needed_for} is encrypted, and {self._file} with its key is not there: bring it back "
            "from a copy of the store"
        )

    def _read(self) -> _KeyFile:
        read = read_document(self._file)
        if not isinstance(read, dict) or read.get("format") != _FORM:
            raise _damaged(self._file)
        try:
            return msgspec.convert(body_of(read, _VERSION, self._file), _KeyFile)
        except msgspec.ValidationError:
            raise _damaged(self._file) from None

    def _write(self, content: _KeyFile) -> None:
        body = canonical_json(msgspec.to_builtins(content))
        with replacing(self._file) as file:
            file.write(document(_FORM, _VERSION, body))


class _Encrypting:
    def __init__(self, file: Sink, key: bytes) -> None:
        self._file, self._cipher = file, AESGCM(key)
        self._held, self._number = bytearray(), 0

    def write(self, data: bytes | memoryview) -> int:
        # The last block is known as such at the end: a whole one is held until more comes.
        rest = memoryview(data).cast("B")
        while len(self._held) + len(rest) > BLOCK:
            if self._held:
                missing = BLOCK - len(self._held)
                self._held += rest[:missing]
                rest = rest[missing:]
                self._put(self._held, last=False)
                self._held = bytearray()
            else:
                self._put(rest[:BLOCK], last=False)
                rest = rest[BLOCK:]
        self._held += rest
        return len(data)

    def finish(self) -> None:
        self._put(self._held, last=True)
        self._held = bytearray()

    def _put(self, block: bytearray | memoryview, *, last: bool) -> None:
        self._file.write(self._cipher.encrypt(_nonce(self._number, last), block, None))
        self._number += 1


class _Decrypting:
    def __init__(self, file: BinaryIO, key: bytes, path: Path) -> None:
        self._file, self._cipher, self._path = file, AESGCM(key), path
        self._held, self._number = bytearray(), 0
        self._next = self._block()
        self._ended = False

    def read(self, size: int = -1, /) -> bytes:
        while not self._ended and (size < 0 or len(self._held) < size):
            self._get()
        size = len(self._held) if size < 0 else size
        data = bytes(memoryview(self._held)[:size])
        del self._held[:size]
        return data

    def _get(self) -> None:
        block, self._next = self._next, self._block()
        self._ended = not self._next
        try:
            self._held += self._cipher.decrypt(_nonce(self._number, self._ended), block, None)
        except (InvalidTag, ValueError):  # the latter for one that is shorter than its tag
            raise _damaged(self._path) from None
        self._number += 1

    def _block(self) -> bytes:
        try:
            return self._file.read(BLOCK + _TAG)
        except OSError as error:
            raise ModelError(f"{self._path} cannot be read: {reason(error)}") from None


def copy(source: Source, sink: Sink) -> str:
    """Copy a content in blocks. Returns its SHA-256, in hex."""
    digest = hashlib.sha256()
    for block in iter(lambda: source.read(BLOCK), b""):
        digest.update(block)
        sink.write(block)
    return digest.hexdigest()


def is_encrypted(path: Path) -> bool:
    """Whether a file is encrypted. Raises OSError when it cannot be read."""
    with path.open("rb") as file:
        return file.read(len(FIRST_LINE)) == FIRST_LINE


@contextmanager
def _encrypting(key: bytes, file: Sink, kind: str, name: str) -> Iterator[Sink]:
    salt = secrets.token_bytes(_SALT)
    file.write(FIRST_LINE + salt)
    sink = _Encrypting(file, _derived(key, salt, kind, name))
    yield sink
    sink.finish()


def _files(root: Path) -> Iterator[tuple[FileKind, Path]]:
    """The files of kinds that are encrypted, without locks and what killed processes left."""
    for count, name in COUNTS.items():
        if (path := root / name).exists():
            yield count, path
    for kind, folder in FOLDERS.items():
        if kind in ENCRYPTED:
            for path in sorted((root / folder).glob("[!.]*")):
                if path.suffix in (".json", ".npy", ".parts") and path.is_file():
                    yield kind, path


def _seal(files: dict[str, str], key: bytes) -> _Before | None:
    if not files:
        return None
    salt = secrets.token_bytes(_SALT)
    return _Before(salt, _listing(key, salt).encrypt(_NONCE, canonical_json(files), None))


def _listing(key: bytes, salt: bytes) -> AESGCM:
    return AESGCM(HKDF(SHA256(), _KEY, salt, b"vfl files before encryption").derive(key))


def _derived(key: bytes, salt: bytes, kind: str, name: str) -> bytes:
    return HKDF(SHA256(), _KEY, salt, f"vfl file at rest\0{kind}\0{name}".encode()).derive(key)


def _wrapping(identity: Identity, salt: bytes) -> AESGCM:
    return AESGCM(identity.derive(b"vfl store key", salt))


def _wrap(key: bytes, identity: Identity) -> _Wrapped:
    salt = os.urandom(_SALT)
    named = identity.certificate.fingerprint.encode()
    return _Wrapped(salt, _wrapping(identity, salt).encrypt(_NONCE, key, named))


def _nonce(number: int, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])


def _damaged(path: Path) -> ModelError:
    return ModelError(f"{path} is damaged: it is not what was written")
