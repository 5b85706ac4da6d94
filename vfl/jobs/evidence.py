"""What a party keeps of a run so that its part can be replayed and audited (replaying.py).

With a `[party] tape` a party draws a secret for each run and each attempt at one, from which all
that is random in its part follows (crypto/randomness.py), commits to it, to its table and to its
settings in what all parties sign (commitments.py), and writes down

- what arrives from each peer after the agreement: its tape (party/tapes.py), at a host of all steps of
  a training or of a share of them (tape_share.py);
- what its own store has answered to the run (`Answers`): what earlier runs left, such as a hint of the
  lattice engine, and how much of something is left to tell. Before the next message leaves the party's
  ledger gets a digest of all answers so far, so that none can be made up once that is sealed;
- who has agreed to what, also where another party alone keeps a tape: its certificate is held against
  that later.

All of it lies in the store as one document a run with its tapes beside it, encrypted where the store is.
Tapes are written in a thread, for which a run waits only where its disk is slower than its peers. A tape
whose disk is full, or that cannot be written, ends; the run goes on.
"""

import asyncio
import contextlib
import hashlib
import shutil
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from vfl.crypto.randomness import Randomness
from vfl.errors import ModelError, VflError
from vfl.jobs.agreement import Agreement
from vfl.jobs.arithmetic import Arithmetic, present
from vfl.jobs.commitments import Commitments, Opening, TableDigests, settings_of
from vfl.jobs.connect import Site
from vfl.jobs.offer import Task
from vfl.jobs.record import now
from vfl.jobs.show import Show
from vfl.jobs.tape_share import KeptSteps, StepsOnTape, Walk, steps_on_tape
from vfl.net.hello import PROTOCOL
from vfl.net.peer import Peer
from vfl.net.replay import TapeEnds
from vfl.net.wire import Octets
from vfl.news import RUN_DIGITS
from vfl.party.at_rest import Sink
from vfl.party.documents import convert_document
from vfl.party.kinds import DocumentKind
from vfl.party.ledger import AnswersEntry
from vfl.party.store import Store
from vfl.party.tapes import InTurn, TapeWriter
from vfl.version import __version__

T = TypeVar("T")
_KIND: DocumentKind = "evidence"
_NAME = 32  # hexadecimal digits of a run that name its document
OWN = "_own"  # whose tape that of answers is; no party has such a name
HALF, ALIGNMENT = "half of the model", "alignment"
"""What one run leaves and others go on with, by these names in the certificates of both."""
SPARE = 1 << 28  # bytes of a disk that tapes leave to others
_PIECE = 1 << 24  # bytes of what is kept that an entry holds
_LOOK = 1 << 24  # bytes of tapes between two looks at the disk


class Taken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a run went on with that an earlier one has left."""

    what: str
    run: str  # the earlier one, in hex
    sha256: str  # salted (Opening.handed_on), as the certificate of that run has it, in hex


class Answers(Protocol):
    """What a run asks of what is not of the run: written down in it, read again in its replay."""

    def ask(self, what: str, kind: Any, answer: Callable[[], T]) -> T:
        """The answer to the next question of this name, which is of this type for `msgspec`."""

    def keep(self, content: bytes) -> None:
        """Keep what an earlier run has left in the store, for the replay of this one."""

    def kept(self, digest: bytes) -> bytes:
        """In a replay: what was kept so, by its SHA-256. Raises ModelError where it is not there."""

    def leaves(self, what: str, digest: bytes) -> None:
        """Note what this run leaves to later ones, by its SHA-256: a replay shows that it follows."""

    def takes(self, what: str, run: str, digest: bytes) -> None:
        """Note what this run goes on with that an earlier one, in hex, has left."""


class PassedOn:
    """Of a run of which no tape is kept: `Answers`."""

    def ask(self, what: str, kind: Any, answer: Callable[[], T]) -> T:
        return answer()

    def keep(self, content: bytes) -> None:
        """Nothing is."""

    def kept(self, digest: bytes) -> bytes:
        raise AssertionError("a run asks its store, and not what was kept of it")

    def leaves(self, what: str, digest: bytes) -> None:
        """Nobody asks."""

    def takes(self, what: str, run: str, digest: bytes) -> None:
        """Nobody asks."""


class Tape(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What there is of a run's tapes."""

    peers: list[str]
    bytes: int = 0
    why_ended: str = ""  # before the run did; empty: it did not
    answers: str = ""  # SHA-256 of them, in hex
    steps: KeptSteps | UnsetType = UNSET  # of a run of which a share is kept


@dataclass(frozen=True)
class Evidence:
    """What a party keeps of a run."""

    run: str  # in hex
    party: str
    begun: str  # ISO 8601, UTC
    agreement: Agreement
    job: str  # canonical, empty without one
    version: str
    protocol: int
    opening: Opening | None = None  # None: of a party that keeps no tape, or that has forgotten
    commitments: Commitments | None = None  # what is opened so
    tape: Tape | None = None
    ended: str = ""  # ISO 8601, UTC; empty while it goes on, or where its process was killed
    whole: bool = False  # whether it has ended as a job ends that goes well
    forgotten: str = ""  # when the secret was removed
    arithmetic: Arithmetic | None = None  # of a run whose part can be replayed

    @property
    def name(self) -> str:
        """Of the document."""
        return self.run[:_NAME]

    @property
    def subject(self) -> str:
        """The model that it is about; of a run about none the alignment."""
        terms = self.agreement.terms
        about = terms.alignment if terms.task == "align" else terms.model or terms.alignment
        return about or ""


def save_evidence(store: Store, evidence: Evidence) -> None:
    """Keep a document. Raises DataError when the store cannot be written."""
    store.write(_KIND, evidence.name, msgspec.to_builtins(evidence))


def load_evidence(store: Store, name: str) -> Evidence:
    """That of a name. Raises ModelError when it is missing or damaged."""
    return convert_document(store.read(_KIND, name), Evidence, f"evidence {name}")


def find_evidence(store: Store) -> list[Evidence]:
    """All that can be read, the oldest first."""
    found = []
    for name in store.names(_KIND):
        with contextlib.suppress(ModelError):
            found.append(load_evidence(store, name))
    return sorted(found, key=lambda one: (one.begun, one.run))


def find_damage(store: Store) -> list[ModelError]:
    """What is wrong with the documents that cannot be read."""
    found = []
    for name in store.names(_KIND):
        try:
            load_evidence(store, name)
        except ModelError as error:
            found.append(error)
    return found


def tape_file(store: Store, run: str, peer: str) -> Path:
    """Where the tape of a peer lies."""
    return store.folder(_KIND) / f"{run[:_NAME]}.{peer}.parts"


def file_of_kept(store: Store, run: str, digest: bytes) -> Path:
    """Where what an earlier run has left lies for a run, by its SHA-256."""
    return tape_file(store, run, f"_kept-{digest.hex()[:32]}")


def run_of(store: Store, task: Task, subject: str) -> str:
    """The run, in hex, that has made a model or an alignment; empty where nothing is kept of it."""
    made = [
        one.run
        for one in find_evidence(store)
        if one.whole and (one.agreement.terms.task, one.subject) == (task, subject)
    ]
    return made[-1] if made else ""


def tapes_of(store: Store, run: str) -> list[Path]:
    """All tape files of a run."""
    return sorted(store.folder(_KIND).glob(f"{run[:_NAME]}.*.parts"))


def files_of_evidence(store: Store, run: str) -> list[Path]:
    """All files that are kept of a run."""
    return [*store.files(_KIND, run[:_NAME]), *tapes_of(store, run)]


def remove_evidence(store: Store, run: str) -> None:
    """Remove all that is kept of a run, its secret first."""
    store.remove(_KIND, run[:_NAME])
    for path in tapes_of(store, run):
        path.unlink(missing_ok=True)


async def digests_if_kept(site: Site, make: Callable[[], TableDigests]) -> TableDigests:
    """What a run commits to of the table, made while sessions go on; none where no tape is kept."""
    return {} if site.party.party.tape == "none" else await asyncio.to_thread(make)


@contextlib.contextmanager
def keeping(
    site: Site,
    show: Show,
    table: Callable[[], TableDigests] | None,
    asked: Mapping[str, Any] | None = None,
) -> Iterator["Keeping"]:
    """The block of a run, of which is kept what [party] says. `table`: of what it commits to; None for a
    part that cannot be replayed, of which is kept what others have signed. `asked`: what a person has
    asked for beside the party file and the job that is signed, in JSON; it is committed to with the
    settings."""
    opening = None
    if site.party.party.tape != "none" and table is not None:
        settings = settings_of(site.party)
        opening = Opening.new(table(), settings if asked is None else settings | {"asked": dict(asked)})
    keeping = Keeping(site, show, opening)
    try:
        yield keeping
    except BaseException:
        keeping.close(whole=False)
        raise
    keeping.close(whole=True)


class Keeping:
    """A run of which something is kept, perhaps: its secret, its tapes."""

    def __init__(self, site: Site, show: Show, opening: Opening | None) -> None:
        self._site, self._show, self._opening = site, show, opening
        self._evidence: Evidence | None = None
        self._tapes: _Tapes | None = None
        self._kept = False

    @property
    def commitment(self) -> bytes:
        """What this party signs; empty where it keeps no tape."""
        return b"" if self._opening is None else self._opening.commitments.digest

    @property
    def answers(self) -> Answers:
        """What the run asks this party's store through."""
        return PassedOn() if self._tapes is None else self._tapes

    def randomness_of(self, run: bytes) -> Randomness:
        """Where all that is random in the run comes from; to be asked for once."""
        if self._opening is None:
            return self._site.randomness_of(run)
        return Randomness(self._opening.secret)

    def agreed(self, agreement: Agreement, job: bytes, peers: Sequence[Peer]) -> None:
        """All have signed: keep what they did, and what these peers send from now on."""
        if not agreement.commitments:
            return
        party, opening, run = self._site.party, self._opening, agreement.terms.run.hex()
        tape = None if opening is None else Tape([])
        self._evidence = Evidence(
            run,
            party.name,
            datetime.now(UTC).isoformat(),  # attempts may follow each other quickly
            agreement,
            job.decode(),
            __version__,
            PROTOCOL,
            opening,
            None if opening is None else opening.commitments,
            tape,
            arithmetic=None if opening is None else present(),
        )
        self._kept = self._save(self._evidence)
        if self._kept and opening is not None:
            ledger = self._site.journal.ledger

            def note(answers: int, digest: bytes) -> None:
                said = opening.noted(digest)
                ledger.note(AnswersEntry(run=run[:RUN_DIGITS], answers=answers, sha256=said))

            steps = steps_on_tape(agreement.terms, party.name, opening)
            share = agreement.terms.guest, steps
            self._tapes = _Tapes(self._site.store, run, self._show, share, note)
        self.watch(*peers)

    def watch(self, *peers: Peer) -> None:
        """Write down what these send from now on."""
        if self._tapes is not None:
            for peer in peers:
                self._tapes.watch(peer)

    def joined(self, *peers: Peer) -> None:
        """A coordinator has signed, too, and these send something from now on."""
        if self._evidence is not None:
            self._save_again(self._evidence)
        self.watch(*peers)

    def say(self, peer: str, seconds: float) -> float:
        """What is told to a peer of the time that something took: `Say` of protocols/common/clock.py."""
        return self.answers.ask(f"seconds told to {peer}", float, lambda: seconds)

    def sign(self, sign: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
        """What signs in the run: by a key that may have been rotated when the run is replayed."""
        answers = self.answers
        return lambda data: answers.ask("signature", bytes, lambda: sign(data))

    def settle(self) -> None:
        """Have all written that has arrived so far: before a checkpoint is, from which an attempt may go
        on that is replayed after this one, as far as this one's tape goes."""
        if self._tapes is not None:
            self._tapes.settle()

    def close(self, *, whole: bool) -> None:
        """The run has ended."""
        if self._evidence is None:
            return
        tape = None if self._tapes is None else self._tapes.close()
        self._save_again(replace(self._evidence, tape=tape, ended=now(), whole=whole))

    def _save_again(self, evidence: Evidence) -> None:
        """Keep the document as it is now, unless its secret was removed while the run went on."""
        store = self._site.store
        removed = self._kept and not store.path(_KIND, evidence.name).exists()
        with contextlib.suppress(ModelError):
            if forgotten := load_evidence(store, evidence.name).forgotten:
                evidence = replace(evidence, opening=None, tape=None, forgotten=forgotten)
        if removed or evidence.forgotten:
            for path in tapes_of(store, evidence.run):
                path.unlink(missing_ok=True)
        if not removed:
            self._save(evidence)

    def _save(self, evidence: Evidence) -> bool:
        """Keep the document; whether that went well. No job is lost for the sake of its evidence."""
        try:
            save_evidence(self._site.store, evidence)
        except VflError as error:
            self._show.say(f"note: the run cannot be replayed, and goes on: {error}")
            return False
        return True


class _Tapes(PassedOn):
    """The tapes of a run that goes on: `Answers`."""

    def __init__(
        self,
        store: Store,
        run: str,
        show: Show,
        share: tuple[str, StepsOnTape | None],
        note: Callable[[int, bytes], None],
    ) -> None:
        """share: the guest, and of which steps all is kept that comes from it; None: of all.
        note: told how many answers there were, and the SHA-256 of them."""
        self._store, self._run, self._show, self._note = store, run, show, note
        self._guest, self._steps = share
        self._walk = None if self._steps is None else Walk(self._steps.keeps)
        self._files = contextlib.ExitStack()
        self._lock = threading.Lock()
        self._number = 0
        self._told = self._said = self._closed = False
        self._writing = InTurn()  # which alone has what follows
        self._tapes: dict[str, TapeWriter] = {}
        self._looked = 0  # at how many bytes
        self._why = ""
        self._asked, self._answers = hashlib.sha256(), hashlib.sha256()  # given; written
        self._given = self._noted = 0  # answers, of them those that were noted

    def watch(self, peer: Peer) -> None:
        """Write down what a peer sends from now on."""

        walk = self._walk if peer.name == self._guest else None

        def arrived(direction: str, kind: str, payload: Octets) -> None:
            if direction == "received":
                left_out = walk is not None and walk.leaves_out(kind)
                self._add(peer.name, kind, None if left_out else payload)
                self._say_share()
            else:
                self._note_answers()

        peer.observers.append(arrived)

    def ask(self, what: str, kind: Any, answer: Callable[[], T]) -> T:
        given = answer()
        self._add(OWN, what, msgspec.msgpack.encode((what, given)))
        return given

    def settle(self) -> None:
        """Wait until all is written that has arrived."""
        self._writing.settle()

    def keep(self, content: bytes) -> None:
        path = file_of_kept(self._store, self._run, hashlib.sha256(content).digest())
        try:
            self._store.make(_KIND)
            with self._store.replacing(_KIND, path) as sink:
                tape = TapeWriter(sink)
                for number, start in enumerate(range(0, len(content), _PIECE)):
                    tape.add(number, "kept", content[start : start + _PIECE])
        except (OSError, VflError) as error:
            self._writing.put(0, partial(self._end, str(error)))

    def _note_answers(self) -> None:
        """Have the ledger say what the store has answered so far. Raises DataError where it cannot."""
        with self._lock:
            if self._given == self._noted:
                return
            self._note(self._given, self._asked.digest())
            self._noted = self._given

    def close(self) -> Tape:
        """What there is, all of which has been written."""
        try:
            self._note_answers()
        except VflError as error:
            self._show.say(f"note: what this run has asked of the store is not in the ledger: {error}")
        with self._lock:
            self._closed = True
            try:
                self._writing.close()
            finally:
                self._end("")
            self._tell()
            size = sum(tape.bytes for tape in self._tapes.values())
            peers = [name for name in self._tapes if name != OWN]
            steps: KeptSteps | None = None
            if self._steps is not None and self._walk is not None:
                steps = self._steps.of(self._walk.steps)
            return Tape(peers, size, self._why, self._answers.hexdigest(), steps or UNSET)

    def _add(self, whose: str, kind: str, payload: Octets | None) -> None:
        with self._lock:
            if self._why or self._closed:
                self._tell()
                return
            self._number += 1
            if whose == OWN:
                self._given += 1
                self._asked.update(payload or b"")
            write = partial(self._write, self._number, whose, kind, payload)
            self._writing.put(0 if payload is None else len(payload), write)

    def _write(self, number: int, whose: str, kind: str, payload: Octets | None) -> None:
        """In the thread."""
        if self._why:
            return
        try:
            self._check_room()
            if whose not in self._tapes:
                path = tape_file(self._store, self._run, whose)
                sink: Sink = self._files.enter_context(self._store.writing(_KIND, path))
                self._tapes[whose] = TapeWriter(sink)
            if payload is None:
                self._tapes[whose].leave_out(number)
                return
            self._tapes[whose].add(number, kind, payload)
            if whose == OWN:
                self._answers.update(payload)
        except (OSError, VflError) as error:
            self._end(error.strerror if isinstance(error, OSError) and error.strerror else str(error))

    def _say_share(self) -> None:
        """Say once, when trees begin, that some alone are kept."""
        if self._steps is not None and self._walk is not None and self._walk.steps and not self._said:
            self._said = True
            self._show.say(f"a share of {self._steps.share:g} of this run's trees is kept on tape")

    def _tell(self) -> None:
        """Say once that the tape has ended before the run."""
        if self._why and not self._told:
            self._told = True
            self._show.say(
                f"note: the tape of this run ends here ({self._why}): the run goes on, and can be "
                "replayed up to here alone"
            )

    def _check_room(self) -> None:
        """Raises OSError where the disk is about to be full."""
        size = sum(tape.bytes for tape in self._tapes.values())
        if self._looked and size < self._looked + _LOOK:
            return
        self._looked = max(size, 1)
        self._store.make(_KIND)
        if shutil.disk_usage(self._store.folder(_KIND)).free < SPARE:
            raise OSError(28, f"its disk has less than {SPARE >> 20} MB left")

    def _end(self, why: str) -> None:
        self._why = self._why or why
        try:
            self._files.close()
        except (OSError, VflError) as error:
            self._why = self._why or str(error)


class Replayed:
    """The answers of a run that is over: `Answers`. The store is not asked."""

    def __init__(
        self,
        given: Iterator[tuple[int, bytes | None]],
        digest: str,
        kept: Callable[[bytes], bytes],
    ) -> None:
        """`digest`: of all of them; empty where it is not known. `kept`: what was kept beside them, by
        its SHA-256. Raises ModelError for other ones."""
        self.kept = kept
        self.left: dict[str, bytes] = {}
        self.taken: list[tuple[str, str, bytes]] = []
        found = hashlib.sha256()
        self.digests = [found.digest()]
        """Of the first none, one, two ... of them."""
        self._given: defaultdict[str, deque[msgspec.Raw]] = defaultdict(deque)
        try:
            for _, entry in given:
                if entry is None:
                    raise damaged_answers()
                found.update(entry)
                self.digests.append(found.digest())
                what, answer = msgspec.msgpack.decode(entry, type=tuple[str, msgspec.Raw])
                self._given[what].append(answer)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise damaged_answers() from None
        if digest and found.hexdigest() != digest:
            raise damaged_answers()

    def ask(self, what: str, kind: Any, answer: Callable[[], T]) -> T:
        if not self._given[what]:
            raise TapeEnds(f"the run asked for {what} no further")
        try:
            decoded: T = msgspec.msgpack.decode(self._given[what].popleft(), type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise damaged_answers() from None
        return decoded

    def keep(self, content: bytes) -> None:
        raise AssertionError("a replay keeps nothing")

    def leaves(self, what: str, digest: bytes) -> None:
        self.left[what] = digest

    def takes(self, what: str, run: str, digest: bytes) -> None:
        self.taken.append((what, run, digest))


def damaged_answers() -> ModelError:
    """Of answers that are not those of the run."""
    return ModelError("what the run has asked of the store is damaged: it is not what was written")
