"""What the processes of a party do now, each in a small file of the store: `vfl status` reads them.

A file is written whole, at most once a second, and removed when its process ends. A lock lies beside it,
which the system lets go of however the process ends: a file whose lock nobody holds was left behind by a
process that was killed, and goes when the next one begins. None has an id, a key or a cell of a table.
"""

import asyncio
import contextlib
import os
import secrets
import threading
import time
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from vfl.errors import ModelError, Refused
from vfl.jobs.show import Show
from vfl.net.peer import Peer
from vfl.net.session import WebSocketPeer
from vfl.news import RUN_DIGITS, WORK, Work, ended_by
from vfl.party import locks
from vfl.party.files import replacing, unwritable
from vfl.party.locks import Holder
from vfl.party.store import Store

_PAUSE = 1.0  # seconds between two writings of a file
_LOOK = 1.0  # seconds between two looks whether a job is to end
_LINES, _PHASES, _LOSSES = 40, 40, 500  # the newest of each that are kept of a job
_CANCEL = "cancel-{}.json"
_FORGOTTEN = 3600.0  # seconds after which nobody looks for such a file any more

Losses = Mapping[str, float | None]
"""Of a tree or an iteration, as a run's record has them."""


@dataclass
class PeerNow:
    """A session of a job."""

    name: str
    state: str  # here; away: its connection is broken and waited for; gone
    sent: int = 0  # bytes
    received: int = 0


@dataclass
class PhaseNow:
    """A step of a job, from when on it was at it."""

    step: str
    since: str  # ISO 8601, UTC
    first: int = 0  # how much was done then


@dataclass(eq=False)  # each is one of its own
class JobNow:
    """A job that a process is at."""

    task: str  # align, train, score, ...
    parties: list[str] = field(default_factory=list)  # the others
    about: list[str] = field(default_factory=list)  # the model, the alignment, once they are known
    since: str = ""  # ISO 8601, UTC
    step: str = ""
    done: int = 0
    of: int | None = None  # None where nobody knows how much there is to do
    told: str = ""  # when that was so
    id: str = ""
    peers: list[PeerNow] = field(default_factory=list)
    phases: list[PhaseNow] = field(default_factory=list)
    lines: list[tuple[str, str]] = field(default_factory=list)  # when, what its people were told
    losses: list[dict[str, float | None]] = field(default_factory=list)  # of the newest steps


@dataclass(frozen=True)
class ProcessNow:
    """A process and its jobs."""

    process: int
    command: str
    since: str
    machine: str
    jobs: list[JobNow] = field(default_factory=list)

    @property
    def holder(self) -> Holder:
        """Who it is."""
        return Holder(self.process, self.command, self.since, self.machine)

    def does(self, command: str) -> bool:
        """Whether it is this command of vfl's."""
        return self.command.split()[:2] == ["vfl", command]


_JOB: ContextVar[JobNow | None] = ContextVar("_JOB", default=None)


class Watcher:
    """Hears of the jobs of a process, as figures and traces do. No id, value or key is told."""

    def began(self, job: JobNow) -> None:
        """A job began."""

    def offered(self, job: JobNow, run: bytes, leads: bool) -> None:
        """All parties of the job know this random name of their run; whether this one leads it."""

    def moved(self, job: JobNow) -> None:
        """The job is at its `step`, of which so much is `done`; called often."""

    def counted(self, job: JobNow, rows: int) -> None:
        """The job is about so many rows, or about so many more."""

    def drifted(self, job: JobNow, model: str, psi: float) -> None:
        """The column that has moved most since a model's training has this stability index."""

    def passed(self, peer: str, direction: str, kind: str, size: int) -> None:
        """A message of so many bytes was "sent" or "received"; called often."""

    def ended(self, job: JobNow, error: BaseException | None) -> None:
        """The job ended, by an error if there is one."""


class Activity:
    """What this process does in a store. Until it is `open` nothing is written."""

    def __init__(self, store: Store) -> None:
        self.watchers: list[Watcher] = []
        self._store = store
        self._file: Path | None = None
        self._jobs: list[JobNow] = []
        self._sessions: dict[str, Sequence[Peer]] = {}  # by the id of the job
        self._lock = threading.Lock()
        self._written = -_PAUSE
        self._due = False
        self._loop: asyncio.AbstractEventLoop | None = None

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """The block, of which others can know. Raises DataError where the store cannot be written."""
        if self._file is not None:
            yield
            return
        self._loop, self._due = None, False
        with contextlib.suppress(RuntimeError):  # no loop: a command that works in one go
            self._loop = asyncio.get_running_loop()
        folder = self._store.status()
        _clear(folder)
        name = f"{os.getpid()}-{secrets.token_hex(4)}"
        lock = folder / f"{name}.lock"
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locks.locked(lock))
            except OSError as error:
                raise unwritable(f"{lock} cannot be locked", error) from None
            self._file = file = folder / f"{name}.json"
            self._note()
            try:
                yield
            finally:
                with self._lock:
                    self._file = None
                for path in (file, _unfinished(file), lock):
                    with contextlib.suppress(OSError):  # a job that is done does not fail by it
                        path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def job(
        self, task: str, show: Show, parties: Collection[str] = (), about: Collection[str | None] = ()
    ) -> Iterator[Show]:
        """A job, with a show that notes how far it is."""
        job = JobNow(task, [*parties], [name for name in about if name], _now())
        job.id = secrets.token_hex(4)
        token, work = _JOB.set(job), WORK.set(Work(task, next(iter(job.about), None)))
        with self._lock:
            self._jobs.append(job)
        self._note()
        error: BaseException | None = None
        for watcher in self.watchers:
            watcher.began(job)
        try:
            yield _Following(show, self, job)
        except BaseException as raised:
            error = raised
            ended_by(raised, WORK.get())
            raise
        finally:
            for watcher in self.watchers:
                watcher.ended(job, error)
            _JOB.reset(token)
            WORK.reset(work)
            with self._lock:
                self._jobs.remove(job)
                self._sessions.pop(job.id, None)
            self._note()

    @contextlib.asynccontextmanager
    async def until_cancelled(self) -> AsyncIterator[None]:
        """The block, which ends once a person has cancelled the present job. Raises Refused then."""
        job, task, cancelled = _JOB.get(), asyncio.current_task(), list[Refused]()
        if job is None or task is None:
            yield
            return
        path, others = self._store.status(make=False) / _CANCEL.format(job.id), task.cancelling()

        async def watch() -> None:
            while not cancelled:
                await asyncio.sleep(_LOOK)
                if (who := _who_cancelled(path)) is not None:
                    text = "a person there cancelled it"
                    cancelled.append(Refused(f"{who} cancelled the job", for_peer=text))
                    task.cancel()

        watching = asyncio.create_task(watch())
        try:
            yield
        except asyncio.CancelledError:
            if cancelled and task.uncancel() <= others:
                raise cancelled[0] from None
            raise
        finally:
            watching.cancel()
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def tell(
        self,
        parties: Collection[str] = (),
        about: Collection[str | None] = (),
        *,
        sessions: Sequence[Peer] = (),
        losses: Losses | None = None,
    ) -> None:
        """Note with whom the present job is, which model and alignment it is about, its sessions, and
        what a step came to."""
        job = _JOB.get()
        if job is None:
            return
        with self._lock:
            job.parties = [*dict.fromkeys([*job.parties, *parties])]
            job.about = [*dict.fromkeys([*job.about, *(name for name in about if name)])]
            if sessions:
                self._sessions[job.id] = sessions
            if losses is not None:
                job.losses = [*job.losses[1 - _LOSSES :], dict(losses)]
        if (work := WORK.get()) is not None:
            work.job = next(iter(job.about), None)
        self._note()

    def offered(self, run: bytes, *, leads: bool) -> None:
        """Note by which random name all parties know the present job's run."""
        if (work := WORK.get()) is not None:
            work.run = run.hex()[:RUN_DIGITS]
        if (job := _JOB.get()) is not None:
            for watcher in self.watchers:
                watcher.offered(job, run, leads)

    def count(self, rows: int) -> None:
        """Tell watchers of so many rows, which this party's policy has let pass."""
        if (job := _JOB.get()) is not None:
            for watcher in self.watchers:
                watcher.counted(job, rows)

    def drifted(self, model: str, psi: Collection[float]) -> None:
        """Tell watchers how far columns have moved since a model's training (PSI)."""
        if (job := _JOB.get()) is not None and psi:
            for watcher in self.watchers:
                watcher.drifted(job, model, max(psi))

    def passed(self, peer: str, direction: str, kind: str, size: int) -> None:
        """Tell watchers of a message."""
        for watcher in self.watchers:
            watcher.passed(peer, direction, kind, size)

    def follow(self, job: JobNow, step: str, done: int, of: int | None) -> None:
        """Note how far a job is."""
        if self._file is None and not self.watchers:
            return
        with self._lock:
            # What stands behind a comma may be a figure of the job.
            job.step, job.done, job.of, job.told = step.partition(",")[0], done, of, _now()
            if not job.phases or job.phases[-1].step != job.step:
                job.phases = [*job.phases[1 - _PHASES :], PhaseNow(job.step, job.told, done)]
        for watcher in self.watchers:
            watcher.moved(job)
        self._note()

    def hear(self, job: JobNow, line: str) -> None:
        """Note what people were told of a job."""
        if self._file is None:
            return
        with self._lock:
            job.lines = [*job.lines[1 - _LINES :], (_now(), str(line))]  # a plain one, of News, too
        self._note()

    def _note(self) -> None:
        """Write what there is to say, soon."""
        with self._lock:
            left = self._written + _PAUSE - time.monotonic()
            if left <= 0:
                self._write()
            elif self._loop is not None and not self._due:
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    self._loop.call_soon_threadsafe(self._loop.call_later, left, self._catch_up)
                    self._due = True

    def _catch_up(self) -> None:
        with self._lock:
            self._due = False
            self._write()

    def _write(self) -> None:
        """Write the file anew. A job does not end where that fails."""
        if self._file is None:
            return
        self._written = time.monotonic()
        own = locks.own_holder()
        for job in self._jobs:
            if sessions := self._sessions.get(job.id):
                job.peers = [_peer_now(one) for one in sessions]
        now = ProcessNow(own.process, own.command, own.since, own.machine, self._jobs)
        unfinished = _unfinished(self._file)
        with contextlib.suppress(OSError):
            unfinished.touch(mode=0o600)
            unfinished.write_bytes(msgspec.json.encode(now))
            unfinished.replace(self._file)


class _Following:
    """A show that notes how far a job is."""

    def __init__(self, show: Show, activity: Activity, job: JobNow) -> None:
        self._show, self._activity, self._job = show, activity, job

    def say(self, line: str) -> None:
        """One line for the person at this party."""
        self._activity.hear(self._job, line)
        self._show.say(line)

    def progress(self, what: str, done: int, of: int | None) -> None:
        """How far a step is."""
        self._activity.follow(self._job, what, done, of)
        self._show.progress(what, done, of)


@dataclass(frozen=True)
class Found:
    """What is known of the processes of a store."""

    running: list[ProcessNow]
    killed: list[ProcessNow]  # that ended without a word


def find_processes(store: Store) -> Found:
    """The processes that work in a store, and those that left something behind, the oldest first."""
    found = Found([], [])
    for lock in sorted(store.status(make=False).glob("*.lock")):
        holder = locks.holder(lock)
        now = _read(lock.with_suffix(".json"))
        if holder is not None:
            at_work = ProcessNow(holder.process, holder.command, holder.since, holder.machine)
            found.running.append(at_work if now is None else now)
        elif now is not None:
            found.killed.append(now)
    known = {(one.process, one.machine) for one in found.running}
    for lock in sorted([*store.root.glob("serve.lock"), *store.root.glob("online-*.lock")]):
        holder = locks.holder(lock)  # of an earlier version
        if holder is not None and (holder.process, holder.machine) not in known:
            one = ProcessNow(holder.process, holder.command, holder.since, holder.machine)
            found.running.append(one)
    for processes in (found.running, found.killed):
        processes.sort(key=lambda one: (one.since, one.process))
    return found


def cancel(store: Store, job: str, who: str) -> None:
    """Have a job end that a process of the store is at. Raises ModelError where there is none of that
    id, DataError where it cannot be told."""
    if all(one.id != job for process in find_processes(store).running for one in process.jobs):
        raise ModelError("there is no such job: it has ended")
    with replacing(store.status() / _CANCEL.format(job)) as file:
        file.write(msgspec.json.encode(who))


def _who_cancelled(path: Path) -> str | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=str)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return "somebody"


def _peer_now(peer: Peer) -> PeerNow:
    state = "here"
    if isinstance(peer, WebSocketPeer):
        state = "gone" if peer.lost else "away" if peer.away else "here"
    return PeerNow(peer.name, state, peer.traffic.bytes_sent, peer.traffic.bytes_received)


def _read(file: Path) -> ProcessNow | None:
    try:
        return msgspec.json.decode(file.read_bytes(), type=ProcessNow)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _clear(folder: Path) -> None:
    """Remove what processes have left that were killed."""
    for lock in folder.glob("*.lock"):
        with contextlib.suppress(OSError):  # it is held
            locks.forget(lock)
            for path in (lock.with_suffix(".json"), _unfinished(lock.with_suffix(".json"))):
                path.unlink(missing_ok=True)
    for left in folder.glob(_CANCEL.format("*")):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _FORGOTTEN:
                left.unlink(missing_ok=True)


def _unfinished(file: Path) -> Path:
    return file.with_name(f".{file.name}.tmp")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
