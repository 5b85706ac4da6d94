"""What a party's ledger has of one run: the messages with each peer after the agreement."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from msgspec import UnsetType

from vfl.errors import ModelError
from vfl.net.replay import Sent
from vfl.news import RUN_DIGITS
from vfl.party.audit.lines import entries_of
from vfl.party.ledger import JobEntry, MessageEntry

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


def conversations(ledger: Path, run: str) -> dict[str, Conversation]:
    """Those of a run, in hex, by peer. Raises DataError for what is no ledger, ModelError where a line
    stands for several messages."""
    sessions: dict[int, Conversation] = {}
    begun: set[int] = set()
    for line, (entry, _, _) in entries_of(ledger):
        if isinstance(entry, JobEntry) and entry.run == run[:RUN_DIGITS]:
            sessions[entry.session] = Conversation(entry.peer)
        elif isinstance(entry, MessageEntry) and (found := sessions.get(entry.session)) is not None:
            if not isinstance(entry.messages, UnsetType):
                raise ModelError(f"{line.place} stands for several messages: no such run is replayed")
            if entry.session not in begun:
                found.agreement.append(entry.type)
                if entry.type in _LAST:
                    begun.add(entry.session)
                continue
            message = Sent(entry.type, entry.bytes, bytes.fromhex(entry.sha256))
            if entry.direction == "sent":
                found.sent.append(message)
            else:
                found.received.append(message)
                found.lines.append(entry.n)
    return _by_peer(sessions.values())


def _by_peer(found: Iterable[Conversation]) -> dict[str, Conversation]:
    by: dict[str, Conversation] = {}
    for one in found:
        if one.peer in by:
            raise ModelError(f"the ledger has two sessions of the run with {one.peer}")
        by[one.peer] = one
    return by
