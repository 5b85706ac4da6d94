"""The messages of a ledger as rows, sums and files."""

import csv
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import msgspec

from vfl.errors import DataError
from vfl.party.audit.lines import entries_of
from vfl.party.ledger import (
    AnswersEntry,
    AnyEntry,
    DecisionEntry,
    Extract,
    JobEntry,
    MessageEntry,
    Omitted,
    Start,
    Type,
    Way,
    decode,
)
from vfl.party.spreadsheet import write_rows


class MessageRow(msgspec.Struct, frozen=True):
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
    digest: str  # by its function: blake3, or sha256 in older lines
    hash: str
    messages: int = 1


@dataclass(frozen=True)
class MessageFilter:
    """Which messages; None: all."""

    job: str | None = None
    peer: str | None = None
    type: str | None = None
    since: str | None = None  # ISO 8601, UTC

    def has(self, line: MessageEntry) -> bool:
        return (
            self.job in (None, line.job)
            and self.peer in (None, line.peer)
            and self.type in (None, line.type)
            and (self.since is None or line.time >= self.since)
        )


def rows(ledger: Path, choice: MessageFilter | None = None) -> Iterator[MessageRow]:
    """The messages of a ledger. Raises DataError for what is no ledger."""
    choice = choice or MessageFilter()
    jobs: dict[int, JobEntry] = {}
    reveals: dict[str, str] = {}
    for _, (entry, _, hash_) in entries_of(ledger):
        if isinstance(entry, JobEntry):
            jobs[entry.session] = entry
        elif isinstance(entry, Type):
            reveals[entry.type] = entry.reveals
        elif isinstance(entry, MessageEntry) and choice.has(entry):
            asked = jobs.get(entry.session)
            yield MessageRow(
                n=entry.n,
                time=entry.time,
                session=entry.session,
                peer=entry.peer,
                direction=entry.direction,
                task=entry.task,
                job=entry.job,
                purpose=asked.purpose if asked else None,
                run=asked.run if asked else None,
                model=asked.model if asked else None,
                type=entry.type,
                reveals=reveals.get(entry.type, ""),
                rows=entry.rows,
                bytes=entry.bytes,
                digest=entry.digest,
                hash=hash_,
                messages=entry.count,
            )


@dataclass
class KnownNames:
    """What a ledger has messages of."""

    jobs: set[str] = field(default_factory=set)
    peers: set[str] = field(default_factory=set)
    types: set[str] = field(default_factory=set)


def known_names(ledger: Path) -> KnownNames:
    """The jobs, peers and types of all messages. Raises DataError for what is no ledger."""
    found = KnownNames()
    for _, (entry, _, _) in entries_of(ledger):
        if isinstance(entry, MessageEntry):
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


def totals(messages: Iterable[MessageRow]) -> list[Total]:
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
        total.messages += row.messages
        total.rows += row.rows or 0
        total.bytes += row.bytes
        total.last = row.time
    return [found[key] for key in sorted(found, key=lambda k: (order[k[:3]], order[k[:5]], order[k]))]


def export_csv(ledger: Path, out: BinaryIO, choice: MessageFilter | None = None) -> int:
    """Write the messages as CSV; how many. Raises DataError for what is no ledger."""
    messages = (msgspec.structs.astuple(row) for row in rows(ledger, choice))
    return write_rows(out, itertools.chain([MessageRow.__struct_fields__], messages)) - 1


def is_table(path: Path) -> bool:
    """Whether a file is a table of messages, by its header."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return next(csv.reader(file), None) == list(MessageRow.__struct_fields__)
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
    for _, (entry, _, _) in entries_of(ledger):
        if isinstance(entry, Extract):
            raise DataError(f"{ledger} is a copy for {entry.peer}: copies are made of whole ledgers")
        if isinstance(entry, MessageEntry) and entry.peer == peer:
            types.add(entry.type)
        elif isinstance(entry, Start):
            party = entry.party
        first, last = first or entry.n, entry.n

    def concerns(entry: AnyEntry) -> bool:
        if isinstance(entry, JobEntry | MessageEntry):
            return entry.peer == peer
        if isinstance(entry, DecisionEntry | AnswersEntry):  # of a person here, of this party's store
            return False
        return not isinstance(entry, Type) or entry.type in types

    head = Extract(n=first - 1, party=party, peer=peer, last=last)
    out.write(msgspec.json.encode(head) + b"\n")
    for line, (entry, digest, _) in entries_of(ledger):
        if entry.n > last:
            break  # written meanwhile
        if concerns(entry):
            out.write(line.data)
            count += isinstance(entry, MessageEntry)
        else:
            out.write(msgspec.json.encode(Omitted(n=entry.n, sha256=digest)) + b"\n")
    return count
