"""Whether two parties' ledgers agree on what they sent each other."""

from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from msgspec import UnsetType

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
    lost: list[str] = field(default_factory=list)  # counted in a minute that was not written down


@dataclass
class _LedgerSession:
    """The messages of a session in one party's ledger."""

    party: str
    peer: str
    sent: list[MessageEntry] = field(default_factory=list)
    received: list[MessageEntry] = field(default_factory=list)
    counted: dict[tuple[str, str], "_Counted"] = field(default_factory=dict)  # by direction and type

    @property
    def all(self) -> list[MessageEntry]:
        return sorted([*self.sent, *self.received], key=lambda line: line.n)

    @property
    def is_cut(self) -> bool:
        """Whether its process may have been killed: then its counts of the last minute are not there."""
        return bool(self.all) and not any(line.type in _ENDS for line in self.all)


_ENDS = ("LookupEnd", "Stop")  # before these it has written its counts down
_LAST = 2  # lines of one party in which another's last minute is, or what was on the way


@dataclass
class _Counted:
    """Messages of a type that went one way in a session, of which a ledger has counts."""

    messages: int
    rows: int
    bytes: int
    last: MessageEntry
    so_far: list[int]  # how many messages there were by each line

    def is_last(self, other: "_Counted | None") -> bool:
        """Whether what the other ledger lacks of them is no more than the end."""
        count = 0 if other is None else other.messages
        return sum(many > count for many in self.so_far) <= _LAST

    @property
    def key(self) -> tuple[int, int, int, str]:
        return self.messages, self.rows, self.bytes, self.last.digest


def compare(ours: Path, theirs: Path, since: str = "") -> Comparison:
    """Whether two ledgers have the same messages between the two parties, each sent by the one and
    received by the other, in the same order.

    Of lookups both have counts by the minute. A process that was killed has not written its last ones
    down: what the other has more is lost then, if it is no more than that.

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
            greeted.setdefault(line.digest, i)
    matched: set[int] = set()
    pairs: list[tuple[_LedgerSession, _LedgerSession]] = []
    for session in left:
        lines = (*session.sent[:1], *session.received[:1])
        at = next((greeted[line.digest] for line in lines if line.digest in greeted), None)
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
        for sender, receiver in ((one, other), (other, one)):
            _compare(found, sender, receiver)
            _compare_counts(found, sender, receiver)
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
            if not isinstance(entry.messages, UnsetType):
                _count(session, entry)
                continue
            (session.sent if entry.direction == "sent" else session.received).append(entry)
    return list(found.values())


def _count(session: _LedgerSession, line: MessageEntry) -> None:
    none = _Counted(0, 0, 0, line, [])
    before = session.counted.get((line.direction, line.type), none)
    session.counted[line.direction, line.type] = _Counted(
        before.messages + line.count,
        before.rows + (line.rows or 0),
        before.bytes + line.bytes,
        line,
        [*before.so_far, before.messages + line.count],
    )


def _compare_counts(found: Comparison, sender: _LedgerSession, receiver: _LedgerSession) -> None:
    """Messages of which both ledgers have counts: as many of each type, and the same digest of all."""
    for direction, kind in [*sender.counted, *receiver.counted]:
        sent = sender.counted.get(("sent", kind))
        received = receiver.counted.get(("received", kind))
        if direction != ("received" if sent is None else "sent"):
            continue
        if sent is not None and received is not None and sent.key == received.key:
            found.messages += sent.messages
            continue
        counts = [0 if one is None else one.messages for one in (sent, received)]
        if sent is not None and counts[0] > counts[1] and sent.is_last(received):
            # On the way when the connection broke; or received, and not written down any more.
            text = _told(sender, sent, "sent to", receiver, counts[1])
            found.in_flight.append(
                text + (f", or {_killed(receiver)}" if _lacks(receiver, sender) else "")
            )
        elif received is not None and counts[1] > counts[0] and sender.is_cut and received.is_last(sent):
            text = _told(receiver, received, "received from", sender, counts[0])
            found.lost.append(f"{text}: {_killed(sender)}")
        elif sent is not None:
            found.differences.append(_told(sender, sent, "sent to", receiver, counts[1]))
            continue
        elif received is not None:
            found.differences.append(_told(receiver, received, "received from", sender, 0))
            continue
        found.messages += min(counts)


def _lacks(session: _LedgerSession, other: _LedgerSession) -> bool:
    """Whether messages are not in a session's counts that it must have sent."""
    return session.is_cut and any(
        one.messages > (sent.messages if (sent := session.counted.get(("sent", kind))) else 0)
        for (direction, kind), one in other.counted.items()
        if direction == "received"
    )


def _told(session: _LedgerSession, one: _Counted, how: str, other: _LedgerSession, count: int) -> str:
    return (
        f"{session.party}'s line {one.last.n} ({one.last.time}): {one.messages:,} {one.last.type} in "
        f"the session, {counted(one.bytes, 'byte')}, {how} {other.party}, of which its ledger has "
        f"{count:,}"
    )


def _killed(session: _LedgerSession) -> str:
    return f"{session.party}'s process ended before it had written its last minute down"


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
    return line.type, line.bytes, line.digest


def _named(session: _LedgerSession, line: MessageEntry, how: str, other: str) -> str:
    message = f"{line.type}, {counted(line.bytes, 'byte')}, {how} {other}"
    return f"{session.party}'s line {line.n} ({line.time}): {message}"


def _differs(session: _LedgerSession, line: MessageEntry, how: str, other: str) -> str:
    return f"{_named(session, line, how, other)}, is not in {other}'s ledger there"
