"""Writes the messages of a party's sessions into its ledger, each with the job it belongs to."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, cast

import msgspec

from vfl.errors import DataError, VflError
from vfl.jobs.offer import Join, Offer
from vfl.jobs.reveals import message_type, reveals
from vfl.net.peer import Peer
from vfl.net.wire import CIPHERTEXT, Message, Octets, WireError, decode, digest_of
from vfl.news import RUN_DIGITS
from vfl.party.config_values import to_the_end
from vfl.party.config_words import JOB_NAME
from vfl.party.ledger import JobEntry, Ledger, MessageEntry, Way
from vfl.party.store import Store
from vfl.protocols.common.key import Key
from vfl.protocols.lookup.messages import LookedUp, LookUp

_KEYS = 64  # runs whose key's width is known
_COUNTED = frozenset({LookUp.__name__, LookedUp.__name__})
"""Messages of which the ledger has counts by the minute, as there is one for each row that is scored."""
_MINUTE = 60.0  # seconds
_NOTHING = bytes(32)

_fields = msgspec.msgpack.Decoder(tuple[str, dict[str, msgspec.Raw]])


class Journal:
    """The ledger as the party's sessions see it."""

    def __init__(self, ledger: Ledger, store: Store) -> None:
        self.ledger = ledger
        self._store = store
        self._widths: dict[str, int] = {}  # bits of a ciphertext, by run
        self.counting: dict[_Session, None] = {}
        """The sessions with messages that are counted and not yet written down."""

    def watch(self, peer: Peer) -> None:
        """Write down all messages of a session from now on; those that cannot be are not sent."""
        peer.observers.append(_Session(self, peer).write_down)

    def seal(self, say: Callable[[str], None]) -> None:
        """Seal the ledger at the end of a session, or say why that failed."""
        try:
            for session in [*self.counting]:
                session.write_counts()
            self.ledger.seal()
        except DataError as error:
            say(f"note: no seal: {error}")
        for note in self.ledger.notes:
            say(f"note: {note}")
        self.ledger.notes.clear()

    def entry_of(self, peer: str, payload: Octets) -> JobEntry | None:
        """The job that an Offer or a Join asks for; None for any other message."""
        try:
            message = decode(payload, [Offer, Join])
        except WireError:
            return None
        if isinstance(message, Join):
            terms, job = message.terms, message.job
        elif isinstance(message, Offer):
            terms, job = message.terms(""), message.job
        else:
            return None
        name, purpose = _title(job) if job else self._job_of(terms.model)
        return JobEntry(
            peer=peer,
            task=terms.task,
            job=name,
            purpose=purpose,
            run=terms.run.hex()[:RUN_DIGITS],
            hosts=terms.hosts,
            alignment=terms.alignment,
            model=terms.model,
        )

    def _job_of(self, model: str | None) -> tuple[str | None, str | None]:
        """Name and purpose of the job that a model of this party was trained for."""
        if model is None or model not in self._store.names("model"):
            return None, None
        try:
            body = self._store.read("model", model)
            return body["job"]["job"]["name"], body["job"]["job"]["purpose"]
        except (VflError, KeyError, TypeError):
            return None, None

    def rows(self, kind: type[Message] | None, payload: Octets, run: str) -> int | None:
        """How many rows a message speaks of, where it can be told; in bits, up to whole bytes."""
        if kind is Key:
            key = decode(payload, [Key])
            assert isinstance(key, Key)  # noqa: S101 - for the type checker
            self._widths[run] = 8 * 2 * len(key.modulus)  # ciphertexts are modulo the square
            while len(self._widths) > _KEYS:
                del self._widths[next(iter(self._widths))]
            return None
        if kind is None or kind.per_row is None:
            return None
        field, bits = kind.per_row
        # Nothing is copied: fields are views of the payload.
        value = _fields.decode(payload)[1].get(field)
        content = None if value is None else msgspec.msgpack.decode(value, type=int | memoryview | None)
        if content is None or isinstance(content, int):
            return content
        width = bits if bits != CIPHERTEXT else self._widths.get(run, 0)
        return 8 * len(content) // width if width else None


class _Session:
    """What the ledger knows of a session."""

    def __init__(self, journal: Journal, peer: Peer) -> None:
        self._journal = journal
        self._peer = peer.name
        self._number = 0
        self._job: JobEntry | None = None
        self._counts: dict[tuple[str, str], _Count] = {}  # by direction and type
        self._failed: DataError | None = None

    def write_down(self, direction: str, kind: str, payload: Octets) -> None:
        """Write a message down, or count it. Raises DataError when the ledger cannot be written."""
        journal = self._journal
        if kind in _COUNTED:
            self._count(direction, kind, payload)
            return
        self.write_counts()
        if kind in (Offer.__name__, Join.__name__):
            entry = journal.entry_of(self._peer, payload)
            if entry is not None:
                self._job = msgspec.structs.replace(entry, session=self._number)
                self._number = journal.ledger.append(self._job, "")
        of = message_type(kind)
        digest = digest_of(payload).hex()
        line = self._line(direction, kind, len(payload), self._rows(of, payload), digest)
        self._number = journal.ledger.append(line, reveals(of))

    def write_counts(self) -> None:
        """Write down what was counted. Raises DataError when the ledger cannot be written."""
        self._journal.counting.pop(self, None)
        for (direction, kind), count in self._counts.items():
            if count.messages:
                line = self._line(direction, kind, count.size, count.rows, count.digest.hex())
                line = msgspec.structs.replace(line, messages=count.messages)
                self._number = self._journal.ledger.append(line, reveals(message_type(kind)))
                count.messages = count.rows = count.size = 0

    def _count(self, direction: str, kind: str, payload: Octets) -> None:
        if self._failed is not None:
            raise self._failed
        count = self._counts.setdefault((direction, kind), _Count())
        count.messages += 1
        count.rows += self._rows(message_type(kind), payload) or 0
        count.size += len(payload)
        count.digest = digest_of(count.digest + digest_of(payload))
        if self not in self._journal.counting:
            self._journal.counting[self] = None
            with contextlib.suppress(RuntimeError):  # no loop runs: they are written with the seal
                asyncio.get_running_loop().call_later(_MINUTE, self._minute_is_over)

    def _minute_is_over(self) -> None:
        if self not in self._journal.counting:
            return
        try:
            self.write_counts()
            self._journal.ledger.seal()
        except DataError as error:
            self._failed = error  # and no further message leaves

    def _rows(self, of: type[Message] | None, payload: Octets) -> int | None:
        return self._journal.rows(of, payload, self._job.run if self._job else "")

    def _line(self, direction: str, kind: str, size: int, rows: int | None, digest: str) -> MessageEntry:
        job = self._job
        return MessageEntry(
            session=self._number,
            peer=self._peer,
            direction=cast(Way, direction),
            task=job.task if job else None,
            job=job.job if job else None,
            type=kind,
            rows=rows,
            bytes=size,
            blake3=digest,
        )


@dataclass
class _Count:
    """Messages of a type and a way in a session; the digest is of all of them so far."""

    messages: int = 0
    rows: int = 0
    size: int = 0
    digest: bytes = _NOTHING


class _Section(msgspec.Struct):
    name: Annotated[str, msgspec.Meta(pattern=to_the_end(JOB_NAME))]
    purpose: Annotated[str, msgspec.Meta(max_length=200)]


class _Titled(msgspec.Struct):
    """The part of a job that stands above its messages in the ledger; all else is passed over unread."""

    job: _Section


_titles = msgspec.json.Decoder(_Titled)


def _title(job: bytes) -> tuple[str | None, str | None]:
    """Name and purpose of a job file, as far as it is one."""
    try:
        section = _titles.decode(job).job
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None, None
    return (section.name, section.purpose) if section.purpose.isprintable() else (None, None)
