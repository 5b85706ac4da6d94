"""What a party's ledger has of one run: the messages with each peer after the agreement, and what it
says of the party's own answers to the run."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from msgspec import UnsetType

from vfl.errors import ModelError
from vfl.net.replay import Sent
from vfl.news import RUN_DIGITS
from vfl.party.audit.lines import entries_of
from vfl.party.ledger import AnswersEntry, JobEntry, MessageEntry, Seal

_LAST = ("Agreed", "Gathered")  # of an agreement
STOP = "Stop"


@dataclass
class Conversation:
    """The messages of a run with one peer, in order."""

    peer: str
    agreement: list[str] = field(default_factory=list)  # the types of those that agree to the run
    sent: list[Sent] = field(default_factory=list)
    received: list[Sent] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)  # of what was received, their numbers in the ledger


@dataclass
class RunLines:
    """All that a ledger has of a run."""

    talks: dict[str, Conversation] = field(default_factory=dict)  # by peer
    answers: list[AnswersEntry] = field(default_factory=list)
    seals: list[str] = field(default_factory=list)
    """The hashes of the seals behind its last line, the oldest first."""


def conversations(ledger: Path, run: str) -> dict[str, Conversation]:
    """The messages of a run, in hex, by peer. Raises as `lines_of_run`."""
    return lines_of_run(ledger, run).talks


def lines_of_run(ledger: Path, run: str) -> RunLines:
    """What there is of a run, in hex. Raises DataError for what is no ledger, ModelError where a line
    stands for several messages."""
    sessions: dict[int, Conversation] = {}
    begun: set[int] = set()
    found = RunLines()
    for line, (entry, _, hash_) in entries_of(ledger):
        if isinstance(entry, Seal):
            found.seals.append(hash_)
        elif isinstance(entry, JobEntry) and entry.run == run[:RUN_DIGITS]:
            sessions[entry.session] = Conversation(entry.peer)
        elif isinstance(entry, AnswersEntry) and entry.run == run[:RUN_DIGITS]:
            found.answers.append(entry)
            found.seals.clear()
        elif isinstance(entry, MessageEntry) and (talk := sessions.get(entry.session)) is not None:
            found.seals.clear()
            if not isinstance(entry.messages, UnsetType):
                raise ModelError(f"{line.place} stands for several messages: no such run is replayed")
            if entry.session not in begun:
                talk.agreement.append(entry.type)
                if entry.type in _LAST:
                    begun.add(entry.session)
                continue
            message = Sent(entry.type, entry.bytes, bytes.fromhex(entry.digest))
            if entry.direction == "sent":
                talk.sent.append(message)
            else:
                talk.received.append(message)
                talk.lines.append(entry.n)
    found.talks = _by_peer(sessions.values())
    return found


def _by_peer(found: Iterable[Conversation]) -> dict[str, Conversation]:
    by: dict[str, Conversation] = {}
    for one in found:
        if one.peer in by:
            raise ModelError(f"the ledger has two sessions of the run with {one.peer}")
        by[one.peer] = one
    return by
