"""The ledger: every message that a party sent and received, in a chain of hashes.

A folder with a file a month, `2026-11.jsonl`, and in it an entry a line, in JSON. With T the text of
a line without its last member, `hash`, and H before the first line 64 zeros,

    H = SHA-256(H of the line before || SHA-256(T))          both in lower-case hexadecimal

is the hash of the line; the chain runs on from file to file. It is the log of Schneier and Kelsey (1999,
"Secure audit logs to support computer forensics", section 3) without its encryption: in a copy for
others a line can give way to its SHA-256 and the copy can still be checked. The salt of each line keeps
what was left out from being guessed.

At the end of each session the party signs the hash (`Seal`), and the signed line is kept once more in
`seal.json`, so that a ledger cut off before its last seal is found, and beside the party's key, so that
one is found that was cut back together with `seal.json`. At the start of a job parties tell each other
the hash of their newest seal, which each keeps with the run (jobs/agreement.py). Against the owner, who
could write the whole chain anew and sign it, stand these and the peers' ledgers (audit.py).

A line is written before its message leaves, and reaches the disk with the next seal. Processes of one
party share a ledger: each writes under a lock and goes on from the line it finds.
"""

import base64
import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from vfl.errors import DataError
from vfl.party.files import TAIL, last_line, replacing
from vfl.party.identity import Identity
from vfl.party.locks import Held, locked
from vfl.version import __version__

Way = Literal["sent", "received"]

ORIGIN = "0" * 64  # what stands for the hash before the first line
FOLDER = "ledger"  # in a party's store
SEAL = "seal.json"
_LOCK = "lock"
_MONTH = re.compile(r"[0-9]{4}-(?:0[1-9]|1[0-2])\.jsonl")
_LINE = re.compile(rb'(\{.*),"hash":"([0-9a-f]{64})"\}', re.DOTALL)


class Entry(msgspec.Struct, frozen=True, kw_only=True, tag_field="entry"):
    """A line. `n` counts all lines of a ledger from 1; a session's number is that of its first line."""

    n: int = 0
    time: str = ""  # ISO 8601, UTC
    salt: str = ""


class Start(Entry, frozen=True, kw_only=True, tag="start"):
    """A process has begun to write, or a month: whose ledger it is, with the party's certificate."""

    party: str
    role: str
    version: str
    certificate: str  # PEM


class Type(Entry, frozen=True, kw_only=True, tag="type"):
    """What a type of message reveals, before the first line with such a message in each process."""

    type: str
    reveals: str


class JobEntry(Entry, frozen=True, kw_only=True, tag="job"):
    """What the messages that follow in a session are for."""

    session: int = 0
    peer: str
    task: str
    job: str | None
    purpose: str | None
    run: str
    hosts: list[str]
    alignment: str | None
    model: str | None


class MessageEntry(Entry, frozen=True, kw_only=True, tag="message"):
    """A message, of which the ledger holds the size and the digest; of lookups, all messages of a type
    and a session in a minute or less."""

    session: int = 0
    peer: str
    direction: Way
    task: str | None  # None before the job
    job: str | None
    type: str
    rows: int | None  # that it speaks of, where it can be told
    bytes: int  # of the payload
    blake3: str | UnsetType = UNSET  # of the payload
    sha256: str | UnsetType = UNSET  # in its place, in lines of versions before protocol 4
    messages: int | UnsetType = UNSET
    """How many they are, of a line that stands for several. Then the digest is that of the last line of
    their type, way and session (64 zeros before), followed by that of each payload, one after the
    other: H = BLAKE3(H || BLAKE3(payload)), in bytes."""

    @property
    def digest(self) -> str:
        """Of the payload or payloads, in hex; empty where the line has none."""
        return next((one for one in (self.blake3, self.sha256) if not isinstance(one, UnsetType)), "")

    @property
    def count(self) -> int:
        """How many messages it stands for."""
        return 1 if isinstance(self.messages, UnsetType) else self.messages


class DecisionEntry(Entry, frozen=True, kw_only=True, tag="decision"):
    """What became of a job that a person was asked about: who decided, when and why."""

    peer: str
    task: str
    job: str | None
    model: str | None
    run: str
    request: str  # the id under which it waited
    outcome: str  # approved, refused; lapsed, withdrawn: nobody decided
    who: str
    decided: str  # ISO 8601, UTC
    reason: str


class AnswersEntry(Entry, frozen=True, kw_only=True, tag="answers"):
    """What a party's own store has answered so far to a run that can be replayed: how many answers there
    were, and a salted digest of them (jobs/evidence.py), before the next message leaves."""

    run: str
    answers: int
    sha256: str


class Seal(Entry, frozen=True, kw_only=True, tag="seal"):
    """The party's signature over the hash of the line before."""

    certificate: str  # fingerprint
    signature: str  # of `statement`, ECDSA with SHA-256, DER in base64

    @property
    def signed(self) -> bytes:
        """The signature; empty where it is none."""
        try:
            return base64.b64decode(self.signature, validate=True)
        except ValueError:
            return b""


class Repair(Entry, frozen=True, kw_only=True, tag="repair"):
    """A process was killed while it wrote a line; what there was of it is kept in `file`."""

    file: str
    bytes: int
    sha256: str


class Extract(Entry, frozen=True, kw_only=True, omit_defaults=True, tag="extract"):
    """The first line of a copy for a peer, not of the chain: `n` is the number before its first line.
    Has no hash, salt and time."""

    party: str
    peer: str
    last: int  # the number of its last line


class Omitted(Entry, frozen=True, kw_only=True, omit_defaults=True, tag="omitted"):
    """What stands in a copy for a line left out: the SHA-256 of its text. Has no hash, salt and time."""

    sha256: str


Note = DecisionEntry | AnswersEntry
AnyEntry = Start | Type | JobEntry | MessageEntry | Note | Seal | Repair | Extract | Omitted

_decoder = msgspec.json.Decoder(AnyEntry)


class ParsedLine(NamedTuple):
    """A line as read."""

    entry: AnyEntry
    digest: str  # SHA-256 of its text
    hash: str  # as the line says; empty where it was left out


def link(before: str, digest: str) -> str:
    """The hash of a line, from that of the line before and the SHA-256 of its text, all in hex."""
    return hashlib.sha256((before + digest).encode()).hexdigest()


def statement(party: str, n: int, before: str, time: str) -> bytes:
    """What a seal signs: whose ledger, the seal's number, the hash before it, and when."""
    return f"vfl ledger of {party}: seal {n} after {before} at {time}".encode()


def encode(entry: Entry, before: str) -> tuple[bytes, str]:
    """(the line, its hash)."""
    text = msgspec.json.encode(entry)
    own = link(before, hashlib.sha256(text).hexdigest())
    return b'%b,"hash":"%b"}\n' % (text[:-1], own.encode()), own


def decode(line: bytes) -> ParsedLine:
    """A line without its end of line. Raises ValueError when it is no entry."""
    found = _LINE.fullmatch(line)
    text = line if found is None else found[1] + b"}"
    try:
        entry = _decoder.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise ValueError("no entry") from None
    if found is not None:
        return ParsedLine(entry, hashlib.sha256(text).hexdigest(), found[2].decode())
    if not isinstance(entry, Extract | Omitted):
        raise ValueError("an entry without a hash")
    return ParsedLine(entry, entry.sha256 if isinstance(entry, Omitted) else "", "")


def months(folder: Path) -> list[Path]:
    """The files of a ledger, in order."""
    return sorted(path for path in folder.iterdir() if _MONTH.fullmatch(path.name))


class PlacedSeal(msgspec.Struct, frozen=True):
    """The content of `seal.json`: the last seal and where it stands."""

    file: str
    offset: int
    line: str


def last_seal(folder: Path) -> PlacedSeal | None:
    """What `seal.json` says, if there is one. Raises DataError when it is damaged."""
    try:
        return msgspec.json.decode((folder / SEAL).read_bytes(), type=PlacedSeal)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _refused(f"{folder / SEAL} cannot be read: {error.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise DataError(f"{folder / SEAL} is damaged: restore it from a backup") from None


def stands(folder: Path, seal: PlacedSeal) -> bool:
    """Whether the ledger has the seal where it was written."""
    line = seal.line.encode() + b"\n"
    try:
        with (folder / Path(seal.file).name).open("rb") as file:
            file.seek(seal.offset)
            return file.read(len(line)) == line
    except (OSError, ValueError):
        return False


class KeptSeal(msgspec.Struct, frozen=True):
    """The content of the file beside a party's key: the newest seal of a ledger."""

    ledger: str  # its folder
    seal: PlacedSeal


def kept_beside(keys: Path, party: str, folder: Path) -> Path:
    """The file that holds the newest seal of a party's ledger, in the folder of its keys."""
    place = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:12]
    return keys / f"{party}.seal-{place}.json"


def read_kept(path: Path) -> KeptSeal | None:
    """What the file beside the key says, if there is one. Raises DataError when it is damaged."""
    try:
        kept = msgspec.json.decode(path.read_bytes(), type=KeptSeal)
        decode(kept.seal.line.encode())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError):
        raise DataError(f"{path} is damaged: restore it from a backup, or remove it") from None
    return kept


def cut_back(folder: Path, seal: PlacedSeal, last: int) -> bool:
    """Whether the ledger, whose last line is number `last`, lacks a seal that it once had.

    A file that went to an archive says nothing, if the ledger goes on after that seal.
    """
    if stands(folder, seal):
        return False
    archived = not (folder / Path(seal.file).name).exists()
    return not (archived and last > decode(seal.line.encode()).entry.n)


@dataclass
class _End:
    """Where the chain ends."""

    name: str = ""  # of the last file
    size: int = 0
    n: int = 0
    hash: str = ORIGIN


class Ledger:
    """One party's ledger, to be written to. Nothing is made before the first line."""

    def __init__(self, folder: Path, identity: Identity, role: str) -> None:
        self.folder = folder
        self._identity = identity
        self._role = role
        self._end = _End()
        self._month = ""  # the file that this process has begun to write to
        self._told: set[str] = set()  # the types it has written down there
        self._wrote = False  # since its last seal
        self._kept = kept_beside(identity.key_path.parent, identity.name, folder)
        self._noted: set[str] = set()
        self.notes: list[str] = []
        """What there is to tell the person at this party, once."""

    @property
    def newest_seal(self) -> bytes:
        """The hash of the last seal's line; empty where there is none yet. Raises DataError."""
        seal = last_seal(self.folder)
        try:
            return b"" if seal is None else bytes.fromhex(decode(seal.line.encode()).hash)
        except ValueError:
            raise _refused(f"{self.folder / SEAL} is damaged: restore it from a backup") from None

    def check(self) -> None:
        """Raises DataError unless the ledger can go on: it is this party's, whole as far as its newest
        seals tell, and its files can be written. Leaves nothing behind.
        """
        try:
            if not self.folder.is_dir():
                return  # the first line makes it
            for path in (self.folder / _LOCK, self.folder / SEAL, *months(self.folder)[-1:]):
                if path.exists() and not os.access(path, os.W_OK):
                    raise _refused(
                        f"the ledger {self.folder} cannot be written: {path.name} is another "
                        "account's, or read-only"
                    )
            self._find_end(months(self.folder))
        except OSError as error:
            raise _refused(f"the ledger {self.folder} cannot be read: {error.strerror}") from None

    def append(self, entry: JobEntry | MessageEntry, reveals: str) -> int:
        """Write an entry and, before the first message of its type, what the type reveals.

        The number, the time and, where it is 0, the session are filled in. Returns the session. Raises
        DataError when the line cannot be written.
        """
        with self._open() as entries:
            if isinstance(entry, MessageEntry) and entry.type not in self._told:
                entries.append(Type(type=entry.type, reveals=reveals))
            session = entry.session or self._end.n + len(entries) + 1
            entries.append(msgspec.structs.replace(entry, session=session))
        if isinstance(entry, MessageEntry):
            self._told.add(entry.type)
        self._wrote = True
        return session

    def note(self, entry: Note) -> None:
        """Write an entry that is of no session. Raises DataError when it cannot be written."""
        with self._open() as entries:
            entries.append(entry)
        self._wrote = True

    def seal(self) -> None:
        """Sign what was written so far and bring it to disk. Raises DataError when that fails."""
        if not self._wrote:
            return
        with self._open() as entries:
            # Signed when its number and its time are known.
            entries.append(Seal(certificate=self._identity.certificate.fingerprint, signature=""))
        self._wrote = False

    @contextlib.contextmanager
    def _open(self) -> Iterator[list[Entry]]:
        """Entries to be written at the end of the chain, all of them or none."""
        try:
            # Opened each time: a worker that was forked meanwhile must not keep the lock.
            with contextlib.ExitStack() as stack:
                try:
                    stack.enter_context(locked(self.folder / _LOCK, wait=True))
                except FileNotFoundError:
                    self._make_folders()
                    stack.enter_context(locked(self.folder / _LOCK, wait=True))
                yield from self._locked()
        except Held as held:
            raise held.overdue(f"the ledger {self.folder}", for_peer=_FOR_PEER) from None
        except OSError as error:
            raise _refused(f"the ledger {self.folder} cannot be written: {error.strerror}") from None

    def _make_folders(self) -> None:
        # One by one: the mode goes to the last folder only.
        for folder in (self.folder.parent, self.folder):
            folder.mkdir(mode=0o700, exist_ok=True)

    def _locked(self) -> Iterator[list[Entry]]:
        entries: list[Entry] = []
        repair = self._catch_up()
        if repair is not None:
            entries.append(repair)
        now = datetime.now(UTC)
        # A clock that was set back does not open an older file again.
        name = max(f"{now:%Y-%m}.jsonl", self._end.name)
        if name != self._end.name:
            self._end.name, self._end.size = name, 0
        if name != self._month:
            self._told.clear()
            entries.append(
                Start(
                    party=self._identity.name,
                    role=self._role,
                    version=__version__,
                    certificate=self._identity.certificate.pem.decode(),
                )
            )
        yield entries
        self._write(entries, now.isoformat().replace("+00:00", "Z"))

    def _write(self, entries: Sequence[Entry], time: str) -> None:
        end, path = self._end, self.folder / self._end.name
        lines, n, before = [], end.n, end.hash
        for entry in entries:
            n += 1
            filled = msgspec.structs.replace(entry, n=n, time=time, salt=secrets.token_hex(8))
            if isinstance(filled, Seal):
                signed = self._identity.sign(statement(self._identity.name, n, before, time))
                filled = msgspec.structs.replace(filled, signature=base64.b64encode(signed).decode())
            line, before = encode(filled, before)
            lines.append(line)
        seals = isinstance(entries[-1], Seal)
        data = b"".join(lines)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            try:
                written = os.write(file, data)
                if written < len(data):
                    os.write(file, data[written:])  # which says why
                if seals:
                    os.fsync(file)
            except OSError:
                os.ftruncate(file, end.size)
                raise
        finally:
            os.close(file)
        self._month = end.name
        offset = end.size + len(data) - len(lines[-1])
        self._end = _End(end.name, end.size + len(data), n, before)
        if seals:
            sealed = PlacedSeal(end.name, offset, lines[-1].decode().rstrip("\n"))
            with replacing(self.folder / SEAL) as beside:
                beside.write(msgspec.json.encode(sealed) + b"\n")
            self._keep(sealed)

    def _keep(self, seal: PlacedSeal) -> None:
        """Keep the newest seal beside the key, where that can be."""
        try:
            with replacing(self._kept) as file:
                file.write(msgspec.json.encode(KeptSeal(str(self.folder.resolve()), seal)) + b"\n")
        except DataError as error:
            self._note(
                "the ledger's newest seal is not kept beside the key, so that `vfl ledger verify` finds "
                f"less: {error}"
            )

    def _note(self, text: str) -> None:
        if text not in self._noted:
            self._noted.add(text)
            self.notes.append(text)

    def _catch_up(self) -> Repair | None:
        """Go to the end of the chain, where another process may have written.

        What a killed process has left of a line is set aside, and the entry that says so returned.
        Raises DataError when the ledger is not what was sealed.
        """
        files = months(self.folder)
        newest = files[-1] if files else None
        size = newest.stat().st_size if newest is not None else 0
        if newest is not None and (newest.name, size) == (self._end.name, self._end.size):
            return None
        end, torn = self._find_end(files)
        if not files:
            self._begin_anew()
        if end.n < self._end.n:
            self._month = ""  # another ledger was put in its place
        self._end = end
        if not torn:
            return None
        beside = self.folder / f"{end.name.removesuffix('.jsonl')}.torn-{end.n + 1}"
        with replacing(beside) as kept:
            kept.write(torn)
        os.truncate(self.folder / end.name, end.size)
        return Repair(file=beside.name, bytes=len(torn), sha256=hashlib.sha256(torn).hexdigest())

    def _find_end(self, files: Sequence[Path]) -> tuple[_End, bytes]:
        """Where the chain ends, and what a killed process has left of a line there.

        Raises DataError when the ledger is not this party's or not what was sealed.
        """
        changed = (
            f"the ledger {self.folder} is not what was sealed: it was changed or cut; `vfl ledger "
            "verify` shows where. Restore it from a backup, or move it away to begin another"
        )
        if (seal := last_seal(self.folder)) is not None and not stands(self.folder, seal):
            raise _refused(changed)
        newest = files[-1] if files else None
        torn = b""
        end = _End(newest.name if newest is not None else "", 0)
        for path in reversed(files):
            last, rest = last_line(path)
            if path == newest:
                torn = rest
                end.size = path.stat().st_size - len(rest)
            if last:
                try:
                    written = decode(last)
                except ValueError:
                    raise _refused(
                        f"the last line of {path} is damaged: restore it from a backup, or move the "
                        "folder away to begin another ledger"
                    ) from None
                end.n, end.hash = written.entry.n, written.hash
                break
        if newest is not None:
            start = _first_start(newest)
            if start is not None and start.party != self._identity.name:
                raise _refused(
                    f"the ledger {self.folder} is {start.party}'s: give each party a store of its own "
                    "(store in [party])"
                )
            kept = read_kept(self._kept)
            if kept is not None and cut_back(self.folder, kept.seal, end.n):
                raise _refused(f"{changed} ({self._kept} has its newest seal)")
        return end, torn

    def _begin_anew(self) -> None:
        """Set aside what is beside the key of a ledger that was here and is gone."""
        if not self._kept.exists():
            return
        number = 1
        while (aside := place_of_replaced(self._kept, number)).exists():
            number += 1
        self._note(f"another ledger was in {self.folder} before: its newest seal is kept as {aside}")
        try:
            self._kept.replace(aside)
        except OSError:
            return  # nor can a new one be kept there


def place_of_replaced(kept: Path, number: int) -> Path:
    """Where the newest seal of an earlier ledger in the same folder lies, beside the key."""
    return kept.with_name(f"{kept.stem}.replaced-{number}.json")


def replaced_seals(kept: Path) -> list[Path]:
    """All files of this kind."""
    return sorted(kept.parent.glob(f"{kept.stem}.replaced-*.json"))


def lock_of(ledger: Path) -> Path:
    """The file that is locked while lines are written to a ledger, its folder or one of its files."""
    return (ledger if ledger.is_dir() else ledger.parent) / _LOCK


def _first_start(path: Path) -> Start | None:
    """What the first line of a file says of who writes it."""
    with path.open("rb") as file:
        line = file.readline(TAIL)
    try:
        entry = decode(line.rstrip(b"\n")).entry
    except ValueError:
        return None
    return entry if isinstance(entry, Start) else None


_FOR_PEER = "it could not write its ledger (its log has the details)"


def _refused(text: str) -> DataError:
    return DataError(text, for_peer=_FOR_PEER)
