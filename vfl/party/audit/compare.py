"""Whether two parties' ledgers agree on what they sent each other."""

from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from vfl.errors import DataError
from vfl.party.audit.lines import entries_of
from vfl.party.ledger import (
    Extract,
    MessageEntry,
    Start,
)
from vfl.text import counted


@dataclass
class Comparison:
    """What `compare` found."""

    parties: tuple[str, str]
    sessions: int = 0
    messages: int = 0  # in both
    differences: list[str] = field(default_factory=list)
    in_flight: list[str] = field(default_factory=list)  # sent at the end of a session, not received


@dataclass
class _LedgerSession:
    """The messages of a session in one party's ledger."""

    party: str
    peer: str
    sent: list[MessageEntry] = field(default_factory=list)
    received: list[MessageEntry] = field(default_factory=list)

    @property
    def all(self) -> list[MessageEntry]:
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
    pairs: list[tuple[_LedgerSession, _LedgerSession]] = []
    for session in left:
        lines = (*session.sent[:1], *session.received[:1])
        at = next((greeted[line.sha256] for line in lines if line.sha256 in greeted), None)
        if at is None or at in matched:
            pairs.append((session, _LedgerSession(session.peer, session.party)))
            continue
        matched.add(at)
        pairs.append((session, right[at]))
    pairs += [
        (_LedgerSession(session.peer, session.party), session)
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
    for _, written in entries_of(ledger):
        if isinstance(written.entry, Start | Extract):
            return written.entry.party
    raise DataError(f"{ledger} does not say whose ledger it is")


def _sessions(ledger: Path, party: str, peer: str) -> list[_LedgerSession]:
    found: dict[int, _LedgerSession] = defaultdict(lambda: _LedgerSession(party, peer))
    for _, written in entries_of(ledger):
        entry = written.entry
        if isinstance(entry, MessageEntry) and entry.peer == peer:
            session = found[entry.session]
            (session.sent if entry.direction == "sent" else session.received).append(entry)
    return list(found.values())


def _compare(found: Comparison, sender: _LedgerSession, receiver: _LedgerSession) -> None:
    """One direction of a session. What both have in order is matched from the front."""
    places: dict[tuple[str, int, str], list[int]] = defaultdict(list)
    for i, line in enumerate(sender.sent):
        places[_key(line)].append(i)
    lost: list[MessageEntry] = []  # sent, and something after it was received
    unread: list[MessageEntry] = []
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


def _key(line: MessageEntry) -> tuple[str, int, str]:
    return line.type, line.bytes, line.sha256


def _named(session: _LedgerSession, line: MessageEntry, how: str, other: str) -> str:
    message = f"{line.type}, {counted(line.bytes, 'byte')}, {how} {other}"
    return f"{session.party}'s line {line.n} ({line.time}): {message}"


def _differs(session: _LedgerSession, line: MessageEntry, how: str, other: str) -> str:
    return f"{_named(session, line, how, other)}, is not in {other}'s ledger there"
