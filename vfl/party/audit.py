"""What a ledger shows to who checks it: whether it is whole, whether it agrees with a peer's, tables.

Reads ledgers (ledger.py), a folder or a file of one, and the copies made for peers. No private key is
needed.
"""

import csv
import itertools
import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from vfl.errors import ConfigError, DataError, IdentityError
from vfl.party.identity import Certificate, parse_certificate
from vfl.party.ledger import (
    ORIGIN,
    SEAL,
    AnyEntry,
    Asked,
    Extract,
    Kept,
    Omitted,
    Passed,
    Repair,
    Seal,
    Sealed,
    Start,
    Type,
    Way,
    Written,
    cut_back,
    decode,
    last_seal,
    link,
    lock_of,
    months,
    read_kept,
    replaced_of,
    stands,
    statement,
)
from vfl.party.locks import still
from vfl.party.spreadsheet import write_rows
from vfl.text import counted

_UNFINISHED = "is not finished, as a killed process leaves it: the next job sets it aside"


# --- IdReading ----------------------------------------------------------------------------------------


class _Line(NamedTuple):
    path: Path
    number: int  # in the file
    data: bytes  # with its end

    @property
    def place(self) -> str:
        return f"{self.path.name}:{self.number}"


def _files(ledger: Path) -> list[Path]:
    """Raises DataError where there is no ledger."""
    try:
        files = months(ledger) if ledger.is_dir() else [ledger] if ledger.exists() else []
    except OSError as error:
        raise _unreadable(ledger, error) from None
    if not files:
        raise DataError(f"there is no ledger in {ledger}")
    return files


def _lines(ledger: Path) -> Iterator[_Line]:
    """All lines as they are now: none that a process is about to write is seen half."""
    with still(lock_of(ledger)):
        files = [(path, _size(path)) for path in _files(ledger)]
    for path, size in files:
        try:
            with path.open("rb") as file:
                number = 0
                while (rest := size - file.tell()) > 0:
                    number += 1
                    yield _Line(path, number, file.readline(rest))
        except OSError as error:
            raise _unreadable(path, error) from None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise _unreadable(path, error) from None


def _written(ledger: Path) -> Iterator[tuple[_Line, Written]]:
    """Lines that can be read; an unfinished last one is left out. Raises DataError for any other."""
    for line in _lines(ledger):
        if not line.data.endswith(b"\n"):
            continue
        try:
            yield line, decode(line.data[:-1])
        except ValueError:
            raise DataError(f"{line.place} is no entry of a ledger: see `vfl ledger verify`") from None


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"{path} cannot be read: {error.strerror}")


# --- Is it whole? -----------------------------------------------------------------------------------


@dataclass
class Verdict:
    """What `verify` found."""

    party: str = ""
    lines: int = 0
    seals: int = 0
    sealed: int = 0  # the last line under a seal
    sealed_at: str = ""
    last: int = 0
    head: str = ""  # the hash of the last line
    damage: list[str] = field(default_factory=list)  # in the order of lines
    notes: list[str] = field(default_factory=list)


def verify(
    ledger: Path,
    certificate: Certificate | None = None,
    *,
    earlier: Set[str] = frozenset(),
    head: str | None = None,
    kept: Path | None = None,
    noted: Mapping[str, str] | None = None,
) -> Verdict:
    """Whether each line is as it was written, none is missing, moved or put in, and all seals hold.

    `certificate`: the party's own, which seals must be of, or of one whose fingerprint is in `earlier`;
    without it those that the ledger holds serve. `head`: a hash noted down at an earlier check, which
    the ledger must still have; `noted`: such hashes, and where each was noted. `kept`: the file beside
    the key that holds the newest seal. Where none of these is known, an end cut off together with
    `seal.json` is not found, nor what the owner of the key writes anew: the peers' ledgers (`compare`)
    tell. Raises DataError where there is no ledger.
    """
    hashes = {**(noted or {}), **({} if head is None else {head: "at an earlier check"})}
    return _Verification(ledger, certificate, earlier, hashes, kept).run()


def checked_hash(text: str) -> str:
    """A hash as a person has noted it down. Raises ConfigError for what is none."""
    hash_ = text.strip().lower()
    if not re.fullmatch(r"[0-9a-f]{64}", hash_):
        raise ConfigError(
            "a hash of a ledger has 64 hexadecimal digits, as `vfl ledger verify` prints it"
        )
    return hash_


class _Verification:
    """The state between two lines."""

    def __init__(
        self,
        ledger: Path,
        certificate: Certificate | None,
        earlier: Set[str],
        noted: dict[str, str],
        kept: Path | None,
    ) -> None:
        self._ledger = ledger
        self._certificate = certificate
        self._sealers = {certificate.fingerprint, *earlier} if certificate is not None else None
        self._noted, self._kept = noted, kept
        self._found = Verdict()
        self._damage: list[tuple[int, str]] = []  # with the order of the line
        self._order = 0
        self._expected = 1
        # What the hash before the next line may be: as written, or as computed; None: not known.
        self._before: set[str] | None = {ORIGIN}
        self._missing: list[tuple[int, int, int, str]] = []  # from, to, order and place of the next line
        self._certificates: dict[str, Certificate] = {}
        self._own_word: set[str] = set()  # certificates of seals for which only the ledger stands
        self._seal_hashes: set[str] = set()
        self._copied = 0  # lines that a copy must have
        self._repairs: set[str] = set()
        self._elses = False  # whether it is of another party than the certificate

    def run(self) -> Verdict:
        found = self._found
        if certificate := self._certificate:
            self._certificates[certificate.fingerprint] = certificate
            found.party = certificate.name
        beside, kept = (
            self._read_last_seal(),
            self._read_kept(),
        )  # before the lines: a job may be writing
        lines = iter(_lines(self._ledger))
        line: _Line | None = next(lines, None)
        while line is not None:
            following = next(lines, None)
            self._order += 1
            written = self._read(line)
            if written is not None:
                self._take(line, written, following)
                for hash_ in (written.hash, *(self._before or ())):
                    self._noted.pop(hash_, None)
            line = following
        for first, last, order, place in self._missing:
            self._say(f"{_numbers(first, last)} missing before {place}", order)
        if found.last < self._copied:
            self._say(f"the copy was cut off: it went on to line {self._copied}")
        copied = self._copied > 0
        for where in dict.fromkeys(self._noted.values()):
            self._say(
                f"no line has the hash that was noted {where}: the ledger was cut back or rewritten, "
                + ("or this copy was made before: ask for a new one" if copied else "or is another one")
            )
        if self._ledger.is_dir():
            self._check_last_seal(beside)
            self._check_kept(kept)
            self._check_torn()
        self._note_seals()
        found.damage = [text for _, text in sorted(self._damage, key=lambda damage: damage[0])]
        return found

    def _say(self, text: str, order: int | None = None) -> None:
        self._damage.append((self._order if order is None else order, text))

    def _read(self, line: _Line) -> Written | None:
        if not line.data.endswith(b"\n"):
            self._say(f"{line.place} {_UNFINISHED}")
            return None
        try:
            return decode(line.data[:-1])
        except ValueError:
            self._say(f"{line.place} was changed: it is no entry")
            self._expected += 1
            self._before = None
            return None

    def _take(self, line: _Line, written: Written, following: _Line | None) -> None:
        entry, found = written.entry, self._found
        if isinstance(entry, Extract):
            if self._order > 1:
                self._say(f"{line.place} was put in: a copy begins there")
            self._begin(entry.n + 1)
            self._check_party(entry.party)
            self._copied = entry.last
            found.notes.append(f"a copy for {entry.peer}: other lines are represented by their digests")
            return
        if self._order == 1 and not self._ledger.is_dir() and entry.n > 1:
            self._begin(entry.n)  # a file of its own
            found.notes.append(f"the file begins with line {entry.n}: what stood before was not checked")
        found.lines += 1
        linked = True
        if entry.n == self._expected:
            linked = self._linked(written)
            if not linked:
                self._say(f"{line.place} was changed (line {entry.n})")
        elif self._replaced(following):
            self._say(
                f"{line.place} was changed: line {entry.n} stands in place of line {self._expected}"
            )
            self._expected += 1
            self._before = None
            return
        elif not self._follow(line, entry.n):
            return
        self._look_at(line, written, linked)
        self._expected += 1
        computed = {link(before, written.digest) for before in self._before or ()}
        if written.hash:
            self._before = {written.hash, *sorted(computed)[:4]}
        elif self._before is not None:
            self._before = computed
        found.last = self._expected - 1
        found.head = written.hash or next(iter(computed), "")

    def _begin(self, n: int) -> None:
        self._expected = n
        self._before = {ORIGIN} if n == 1 else None

    def _replaced(self, following: _Line | None) -> bool:
        """Whether a line of another number stands where the expected one did, as the next line says."""
        if following is None:
            return False
        try:
            return decode(following.data.rstrip(b"\n")).entry.n == self._expected + 1
        except ValueError:
            return False

    def _follow(self, line: _Line, n: int) -> bool:
        """A line that is not the next one; whether the chain goes on from there."""
        if n > self._expected:
            self._missing.append((self._expected, n - 1, self._order, line.place))
            self._expected, self._before = n, None
            return True
        for i, (first, last, order, place) in enumerate(self._missing):
            if first <= n <= last:
                self._say(
                    f"{line.place} was moved (line {n}): it stands after line {self._expected - 1}"
                )
                rest = [(first, n - 1, order, place), (n + 1, last, order, place)]
                self._missing[i : i + 1] = [gap for gap in rest if gap[0] <= gap[1]]
                return False
        self._say(f"{line.place} was put in: line {n} stands there a second time")
        return False

    def _linked(self, written: Written) -> bool:
        if self._before is None or not written.hash:
            return True
        return any(link(before, written.digest) == written.hash for before in self._before)

    def _look_at(self, line: _Line, written: Written, linked: bool) -> None:
        entry, found = written.entry, self._found
        if isinstance(entry, Start):
            self._check_party(entry.party)
            try:
                certificate = parse_certificate(entry.certificate.encode(), line.path)
            except IdentityError:
                self._say(f"{line.place} holds no certificate of a party")
            else:
                self._certificates.setdefault(certificate.fingerprint, certificate)
        elif isinstance(entry, Repair):
            self._repairs.add(entry.file)
            found.notes.append(
                f"{line.place}: {counted(entry.bytes, 'byte')} of a line that a killed process had not "
                f"finished {'was' if entry.bytes == 1 else 'were'} set aside as {entry.file}"
            )
        elif isinstance(entry, Seal):
            self._seal_hashes.add(written.hash)
            self._check_seal(line, entry, linked)

    def _check_party(self, party: str) -> None:
        """Whose ledger it is, by its own word."""
        found = self._found
        found.party = found.party or party
        if party != found.party and not self._elses:
            self._elses = True
            self._say(f"the ledger is of {party}, the certificate is of {found.party}")

    def _check_seal(self, line: _Line, seal: Seal, linked: bool) -> None:
        found = self._found
        found.seals += 1
        certificate = self._certificates.get(seal.certificate)
        if certificate is None:
            self._say(f"{line.place}: sealed with a certificate that the ledger does not hold")
            return
        if self._elses:
            return  # of whom it is has been said
        if self._sealers is None:
            self._own_word.add(seal.certificate)
        elif seal.certificate not in self._sealers:
            self._say(f"{line.place}: sealed with another certificate than the party's")
            return
        if self._before is None or not linked:
            return  # the damage has been said
        if not any(
            certificate.verify(seal.signed, statement(found.party, seal.n, before, seal.time))
            for before in self._before
        ):
            self._say(f"{line.place}: the seal's signature does not hold")
            return
        found.sealed, found.sealed_at = seal.n, seal.time

    def _read_last_seal(self) -> Sealed | DataError | None:
        try:
            return last_seal(self._ledger) if self._ledger.is_dir() else None
        except DataError as error:
            return error

    def _check_last_seal(self, seal: Sealed | DataError | None) -> None:
        if isinstance(seal, DataError):
            self._say(str(seal))
        elif seal is None:
            if self._found.seals and not (self._ledger / SEAL).exists():
                self._say(f"{SEAL} is missing, though the ledger has seals")
        elif not stands(self._ledger, seal):
            try:
                written = decode(seal.line.encode())
            except ValueError:
                self._say(f"{SEAL} is damaged")
                return
            n = written.entry.n
            if n > self._found.last:
                self._say(f"the ledger was cut off before line {n}, the last seal by {SEAL}")
            elif not self._damage or written.hash not in self._seal_hashes:
                self._say(f"line {n} is not the last seal that {SEAL} holds: the ledger was rewritten")

    def _read_kept(self) -> Kept | DataError | None:
        try:
            return None if self._kept is None else read_kept(self._kept)
        except DataError as error:
            return error

    def _check_kept(self, kept: Kept | DataError | None) -> None:
        """Hold the ledger against what lies beside the party's key."""
        if isinstance(kept, DataError):
            self._say(str(kept))
        elif kept is not None and cut_back(self._ledger, kept.seal, self._found.last):
            n = decode(kept.seal.line.encode()).entry.n
            if n > self._found.last:
                self._say(f"the ledger was cut off before line {n}, the newest seal by {self._kept}")
            else:
                self._say(
                    f"line {n} is not the newest seal that {self._kept} holds: the ledger was cut "
                    "back or rewritten"
                )
        for path in replaced_of(self._kept) if self._kept is not None else ():
            try:
                earlier = read_kept(path)
            except DataError as error:
                self._say(str(error))
                continue
            if earlier is not None:
                entry = decode(earlier.seal.line.encode()).entry
                self._say(
                    f"another ledger was here before, whose newest seal is line {entry.n} of "
                    f"{entry.time}: if it was moved away on purpose, remove {path}"
                )

    def _check_torn(self) -> None:
        for path in sorted(self._ledger.glob("*.torn-*")):
            if path.name not in self._repairs:
                self._found.notes.append(f"{path.name} was set aside, but no line says so")

    def _note_seals(self) -> None:
        found = self._found
        for fingerprint in sorted(self._own_word):
            found.notes.append(
                f"seals are of certificate {fingerprint}, which the ledger itself holds: compare it "
                "with the party's"
            )
        if found.sealed < found.last:
            found.notes.append(f"{_numbers(found.sealed + 1, found.last)} under no seal yet")


def _numbers(first: int, last: int) -> str:
    return f"line {first} is" if first == last else f"lines {first} to {last} are"


# --- Do two parties tell the same? ------------------------------------------------------------------


@dataclass
class Comparison:
    """What `compare` found."""

    parties: tuple[str, str]
    sessions: int = 0
    messages: int = 0  # in both
    differences: list[str] = field(default_factory=list)
    in_flight: list[str] = field(default_factory=list)  # sent at the end of a session, not received


@dataclass
class _Session:
    """The messages of a session in one party's ledger."""

    party: str
    peer: str
    sent: list[Passed] = field(default_factory=list)
    received: list[Passed] = field(default_factory=list)

    @property
    def all(self) -> list[Passed]:
        return sorted([*self.sent, *self.received], key=lambda line: line.n)


def compare(ours: Path, theirs: Path, since: str = "") -> Comparison:
    """Whether two ledgers have the same messages between the two parties, each sent by the one and
    received by the other, in the same order.

    Sessions are told by their greetings, which hold fresh nonces. A message that was sent and not
    received counts as a difference unless it is at the end of its session, where the connection may have
    broken. `since` (ISO 8601, UTC) leaves out sessions that began earlier. Raises DataError for what is
    no ledger, and for two of the same party.
    """
    parties = party_of(ours), party_of(theirs)
    if parties[0] == parties[1]:
        raise DataError(f"both ledgers are {parties[0]}'s: name one of each party")
    found = Comparison(parties)
    left = _sessions(ours, *parties)
    right = _sessions(theirs, parties[1], parties[0])
    greeted: dict[str, int] = {}
    for i, session in enumerate(right):
        for line in (*session.sent[:1], *session.received[:1]):
            greeted.setdefault(line.sha256, i)
    matched: set[int] = set()
    pairs: list[tuple[_Session, _Session]] = []
    for session in left:
        lines = (*session.sent[:1], *session.received[:1])
        at = next((greeted[line.sha256] for line in lines if line.sha256 in greeted), None)
        if at is None or at in matched:
            pairs.append((session, _Session(session.peer, session.party)))
            continue
        matched.add(at)
        pairs.append((session, right[at]))
    pairs += [
        (_Session(session.peer, session.party), session)
        for i, session in enumerate(right)
        if i not in matched
    ]
    for one, other in sorted(pairs, key=lambda pair: min(x.all[0].time for x in pair if x.all)):
        if min(line.time for line in (*one.all[:1], *other.all[:1])) < since:
            continue
        found.sessions += 1
        _compare(found, one, other)
        _compare(found, other, one)
    return found


def party_of(ledger: Path) -> str:
    """Whose ledger it is. Raises DataError where it does not say."""
    for _, written in _written(ledger):
        if isinstance(written.entry, Start | Extract):
            return written.entry.party
    raise DataError(f"{ledger} does not say whose ledger it is")


def _sessions(ledger: Path, party: str, peer: str) -> list[_Session]:
    found: dict[int, _Session] = defaultdict(lambda: _Session(party, peer))
    for _, written in _written(ledger):
        entry = written.entry
        if isinstance(entry, Passed) and entry.peer == peer:
            session = found[entry.session]
            (session.sent if entry.direction == "sent" else session.received).append(entry)
    return list(found.values())


def _compare(found: Comparison, sender: _Session, receiver: _Session) -> None:
    """One direction of a session. What both have in order is matched from the front."""
    places: dict[tuple[str, int, str], list[int]] = defaultdict(list)
    for i, line in enumerate(sender.sent):
        places[_key(line)].append(i)
    lost: list[Passed] = []  # sent, and something after it was received
    unread: list[Passed] = []
    at = 0
    for line in receiver.received:
        later = places[_key(line)]
        place = bisect_left(later, at)
        if place == len(later):
            found.differences.append(_differs(receiver, line, "received from", sender.party))
            continue
        skipped = sender.sent[at : later[place]]
        if line.type == "Stop" and line is receiver.received[-1]:
            unread += skipped  # a Stop is read also where messages before it were not
        else:
            lost += skipped
        at = later[place] + 1
        found.messages += 1
    found.differences += [_differs(sender, line, "sent to", receiver.party) for line in lost]
    rest = unread + sender.sent[at:]
    # Who has heard nothing at all was not greeted. Else the other ledger lacks a whole session.
    if rest and not receiver.all and sender.received:
        found.differences += [_differs(sender, line, "sent to", receiver.party) for line in rest]
    else:
        found.in_flight += [_named(sender, line, "sent to", receiver.party) for line in rest]


def _key(line: Passed) -> tuple[str, int, str]:
    return line.type, line.bytes, line.sha256


def _named(session: _Session, line: Passed, how: str, other: str) -> str:
    message = f"{line.type}, {counted(line.bytes, 'byte')}, {how} {other}"
    return f"{session.party}'s line {line.n} ({line.time}): {message}"


def _differs(session: _Session, line: Passed, how: str, other: str) -> str:
    return f"{_named(session, line, how, other)}, is not in {other}'s ledger there"


# --- Tables and copies ------------------------------------------------------------------------------


class Row(msgspec.Struct, frozen=True):
    """A message, with what other lines say of its job and its type."""

    n: int
    time: str
    session: int
    peer: str
    direction: Way
    task: str | None
    job: str | None
    purpose: str | None
    run: str | None
    model: str | None
    type: str
    reveals: str
    rows: int | None
    bytes: int
    sha256: str
    hash: str


@dataclass(frozen=True)
class Choice:
    """Which messages; None: all."""

    job: str | None = None
    peer: str | None = None
    type: str | None = None
    since: str | None = None  # ISO 8601, UTC

    def has(self, line: Passed) -> bool:
        return (
            self.job in (None, line.job)
            and self.peer in (None, line.peer)
            and self.type in (None, line.type)
            and (self.since is None or line.time >= self.since)
        )


def rows(ledger: Path, choice: Choice | None = None) -> Iterator[Row]:
    """The messages of a ledger. Raises DataError for what is no ledger."""
    choice = choice or Choice()
    jobs: dict[int, Asked] = {}
    reveals: dict[str, str] = {}
    for _, (entry, _, hash_) in _written(ledger):
        if isinstance(entry, Asked):
            jobs[entry.session] = entry
        elif isinstance(entry, Type):
            reveals[entry.type] = entry.reveals
        elif isinstance(entry, Passed) and choice.has(entry):
            asked = jobs.get(entry.session)
            yield Row(
                entry.n,
                entry.time,
                entry.session,
                entry.peer,
                entry.direction,
                entry.task,
                entry.job,
                asked.purpose if asked else None,
                asked.run if asked else None,
                asked.model if asked else None,
                entry.type,
                reveals.get(entry.type, ""),
                entry.rows,
                entry.bytes,
                entry.sha256,
                hash_,
            )


@dataclass
class Known:
    """What a ledger has messages of."""

    jobs: set[str] = field(default_factory=set)
    peers: set[str] = field(default_factory=set)
    types: set[str] = field(default_factory=set)


def known(ledger: Path) -> Known:
    """The jobs, peers and types of all messages. Raises DataError for what is no ledger."""
    found = Known()
    for _, (entry, _, _) in _written(ledger):
        if isinstance(entry, Passed):
            found.peers.add(entry.peer)
            found.types.add(entry.type)
            if entry.job:
                found.jobs.add(entry.job)
    return found


class Total(msgspec.Struct):
    """The messages of one type that went one way between the party and a peer, in all runs of a job."""

    job: str
    task: str
    purpose: str
    type: str
    direction: Way
    peer: str
    reveals: str
    messages: int = 0
    rows: int = 0
    bytes: int = 0
    first: str = ""
    last: str = ""


def totals(messages: Iterable[Row]) -> list[Total]:
    """By job, task, purpose, type, direction and peer, in the order of the first message of each."""
    found: dict[tuple[str, ...], Total] = {}
    order: dict[tuple[str, ...], int] = {}  # of the job, of the type in it, of the peer
    for row in messages:
        key = (row.job or "", row.task or "", row.purpose or "", row.type, row.direction, row.peer)
        for part in (key[:3], key[:5], key):
            order.setdefault(part, len(order))
        if key not in found:
            found[key] = Total(*key[:4], row.direction, row.peer, row.reveals, first=row.time)
        total = found[key]
        total.messages += 1
        total.rows += row.rows or 0
        total.bytes += row.bytes
        total.last = row.time
    return [found[key] for key in sorted(found, key=lambda k: (order[k[:3]], order[k[:5]], order[k]))]


def export_csv(ledger: Path, out: BinaryIO, choice: Choice | None = None) -> int:
    """Write the messages as CSV; how many. Raises DataError for what is no ledger."""
    messages = (msgspec.structs.astuple(row) for row in rows(ledger, choice))
    return write_rows(out, itertools.chain([Row.__struct_fields__], messages)) - 1


def is_table(path: Path) -> bool:
    """Whether a file is a table of messages, by its header."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return next(csv.reader(file), None) == list(Row.__struct_fields__)
    except (OSError, UnicodeDecodeError, csv.Error):
        return False


def is_copy(path: Path, party: str, peer: str) -> bool:
    """Whether a file is a copy of a party's ledger for a peer, by its first line."""
    try:
        with path.open("rb") as file:
            entry = decode(file.readline().rstrip(b"\n")).entry
    except (OSError, ValueError):
        return False
    return isinstance(entry, Extract) and (entry.party, entry.peer) == (party, peer)


def export_copy(ledger: Path, peer: str, out: BinaryIO) -> int:
    """Write the lines that concern a peer, and the digests of all others, so that the chain and the
    seals can be checked; how many messages. Raises DataError.
    """
    types: set[str] = set()
    party, count, first, last = "", 0, 0, 0
    for _, (entry, _, _) in _written(ledger):
        if isinstance(entry, Extract):
            raise DataError(f"{ledger} is a copy for {entry.peer}: copies are made of whole ledgers")
        if isinstance(entry, Passed) and entry.peer == peer:
            types.add(entry.type)
        elif isinstance(entry, Start):
            party = entry.party
        first, last = first or entry.n, entry.n

    def concerns(entry: AnyEntry) -> bool:
        if isinstance(entry, Asked | Passed):
            return entry.peer == peer
        return not isinstance(entry, Type) or entry.type in types

    head = Extract(n=first - 1, party=party, peer=peer, last=last)
    out.write(msgspec.json.encode(head) + b"\n")
    for line, (entry, digest, _) in _written(ledger):
        if entry.n > last:
            break  # written meanwhile
        if concerns(entry):
            out.write(line.data)
            count += isinstance(entry, Passed)
        else:
            out.write(msgspec.json.encode(Omitted(n=entry.n, sha256=digest)) + b"\n")
    return count
