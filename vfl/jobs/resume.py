"""Training that goes on where it was when a party was killed, lost or out of disk.

Each party keeps a document of kind "checkpoint" under the model's name from the first step on: what the
run is about, and its last states (protocols/common/checkpoints.py). It goes when the model is kept, and
with it those of earlier runs of the same job. A guest that loses a peer connects to all again and goes
on by itself (`persevere`); one that was killed is started again with the same command and finds its
checkpoint.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from vfl.errors import ModelError, PeerLost, Refused, VflError
from vfl.jobs.account import Account
from vfl.jobs.digests import add_array
from vfl.jobs.show import Show
from vfl.jobs.states import EncodedState, array_of
from vfl.learn.binning import Features
from vfl.learn.holdout import Cuts
from vfl.party.config import Job, Party
from vfl.party.documents import canonical_json
from vfl.party.store import Store
from vfl.protocols.common.checkpoints import Checkpoints, State
from vfl.version import __version__

T = TypeVar("T")
S = TypeVar("S", bound=State)

_STALLED = 3  # times that a guest tries again in a row without a new step
_PAUSE = 1.0  # seconds before a guest connects again
_NOT_OF_A_RUN = {"max_sums_a_row", "max_approved_lookups", "approved_lookup_days"}
_UNFINISHED = 20  # runs of one guest that a host keeps at most


@dataclass(frozen=True)
class RunSubject:
    """What a run is about: a checkpoint of anything else is of no use to it."""

    job: str  # digest of the canonical job
    job_name: str
    alignment: str
    guest: str
    hosts: list[str]
    own: str  # digest of what this party brings

    @classmethod
    def of(
        cls,
        party: Party,
        job: Job,
        alignment: str,
        guest: str,
        hosts: Iterable[str],
        features: Features,
        *others: NDArray[np.generic] | None,
    ) -> "RunSubject":
        """`features` are those of the aligned rows, `others` what else the party has of them."""
        digest = hashlib.sha256()
        for name, values in features.items():
            add_array(digest, name, values)
        for number, array in enumerate(others):
            if array is not None:
                add_array(digest, str(number), array)
        rules = {
            "version": __version__,
            "monotone": dict(party.data.monotone),
            "glm": party.glm.model_dump(mode="json", exclude={"step"}),
            # A host may raise the rule of sums for a job that is to go on; those of lookups are of none.
            "policy": party.policy.model_dump(mode="json", exclude=_NOT_OF_A_RUN),
        }
        digest.update(canonical_json(rules))
        return cls(job.digest, job.name, alignment, guest, list(hosts), digest.hexdigest())


@dataclass
class RunHistory:
    """What a run's record says of the steps done so far, over all attempts."""

    account: Account = field(default_factory=Account.nothing)
    curve: list[dict[str, float | None]] = field(default_factory=list)
    phases: list[dict[str, float]] = field(default_factory=list)
    cuts: Cuts | None = None  # of times by which rows are split, where parties have found them together


@dataclass(frozen=True)
class _Kept:
    """A state as it is written."""

    state: msgspec.Raw
    news: RunHistory


class _KeptState(TypedDict):
    """A state in the checkpoint's document: the steps done, and the reference of its array."""

    done: int
    state: dict[str, Any]


class Unfinished:
    """A run of this party whose model is not kept yet; `open_run` makes one."""

    def __init__(self, store: Store, name: str, subject: RunSubject, keep: int) -> None:
        self._store, self.name, self.subject, self._keep = store, name, subject, keep
        self._states: list[_KeptState] = []  # by age
        self.history = RunHistory()
        self.measure: Callable[[], Account] = Account.nothing
        """What the present attempt has cost so far."""
        self.before_state: Callable[[], None] = lambda: None
        """Called before a state is written."""
        if name in store.names("checkpoint"):
            _, self._states = _read(store, name)

    @property
    def done(self) -> int:
        """Steps that the last state has done; 0 without any."""
        return self._states[-1]["done"] if self._states else 0

    def checkpoints(self, kind: type[S], done: int) -> Checkpoints[S]:
        """Those of a role whose states are of this kind, to go on after `done` steps (0: to begin).

        Sets `history` to that of then. Raises ModelError when there is no whole state of so many steps.
        """
        if not done:
            self._states = []
            self.history = RunHistory(self.history.account)
            self._store.remove("checkpoint", self.name)
            return Checkpoints(None, self._write)
        of_step = [state for state in self._states if state["done"] == done]
        if not of_step:
            have = " and ".join(str(state["done"]) for state in self._states) or "none"
            what = f"is of other steps ({have}) than the job goes on from ({done})"
            text = f"its checkpoint of {self.name} {what}"
            raise _start_anew(text)
        self._states = [state for state in self._states if state["done"] <= done]
        try:
            data = self._store.read_array("checkpoint", of_step[0]["state"])
        except ModelError as error:
            raise _start_anew(str(error)) from None
        try:
            kept = msgspec.msgpack.decode(data.data, type=_Kept)
            last = msgspec.msgpack.decode(kept.state, type=kind, dec_hook=array_of)
        except (msgspec.MsgspecError, TypeError, ValueError):
            raise _start_anew(f"its checkpoint of {self.name} is of another version") from None
        if last.done != done:
            raise _start_anew(f"its checkpoint of {self.name} is damaged")
        spent = max(self.history.account, kept.news.account, key=lambda account: account.seconds)
        self.history = replace(kept.news, account=spent)
        return Checkpoints(last, self._write)

    def _write(self, state: State) -> None:
        """Keep a state, in the place of one of as many steps. Raises DataError when the store cannot be
        written: the last one stays."""
        self.before_state()
        store, name = self._store, self.name
        news = replace(self.history, account=self.history.account + self.measure())
        encoded = EncodedState({"state": state, "news": news})  # a `_Kept`
        ref = store.write_bytes("checkpoint", name, encoded.size, encoded.pieces)
        kept: _KeptState = {"done": state.done, "state": dict(ref)}
        earlier = [one for one in self._states if one["done"] != state.done]
        states = [*earlier, kept][-self._keep :]
        store.write("checkpoint", name, {"matter": msgspec.to_builtins(self.subject), "states": states})
        self._states = states

    def finish(self) -> None:
        """The model is kept: remove the checkpoint, and those of earlier runs of the job."""
        self._states = []
        self._store.remove("checkpoint", self.name)
        earlier = self.subject.job_name, self.subject.guest
        runs = _all(self._store)
        forget(self._store, [n for n, of in runs if (of.job_name, of.guest) == earlier])
        # Runs that were killed before their first step have left a lock alone.
        locks = {path.stem for path in self._store.folder("checkpoint").glob("*.lock")}
        forget(self._store, locks.difference(self._store.names("checkpoint")))


@dataclass(frozen=True)
class KeptRun:
    """A checkpoint that a party keeps."""

    name: str
    subject: RunSubject | None  # None where it cannot be read
    done: int = 0  # steps that its last state has done
    error: str = ""


def kept_runs(store: Store) -> list[KeptRun]:
    """All checkpoints, the one that was written last first; of the same subject a guest goes on with the
    first."""
    runs = []
    for name in store.names("checkpoint"):
        with contextlib.suppress(FileNotFoundError):
            age = store.path("checkpoint", name).stat().st_mtime_ns
            try:
                subject, states = _read(store, name)
                runs.append((age, KeptRun(name, subject, states[-1]["done"] if states else 0)))
            except ModelError as error:
                runs.append((age, KeptRun(name, None, error=str(error))))
    return [run for _, run in sorted(runs, key=lambda one: -one[0])]


@contextlib.contextmanager
def open_run(
    store: Store, name: str, subject: RunSubject, *, new: bool = False, keep: int = 2
) -> Iterator[Unfinished]:
    """A run of this party, which no other process of it can open meanwhile.

    `new`: whether it begins, be there a checkpoint of that name or not. `keep`: so many states, of the
    guest the last, of a host also the one before. Raises Refused when another process has it open or it
    is another guest's, ModelError for a checkpoint of another subject, DataError when the store cannot
    be written.
    """
    with store.locked("checkpoint", name, f"the training of {name}"):
        if name in store.names("checkpoint"):
            found, _ = _read(store, name)
            if found.guest != subject.guest:
                raise Refused(f"{name} is the name of a run that another party has begun")
            changed = not new and [
                words for key, words in _CHANGED.items() if getattr(found, key) != getattr(subject, key)
            ]
            if changed:
                raise _start_anew(f"{changed[0]} changed since the checkpoint of {name}")
        yield Unfinished(store, name, subject, keep)


_CHANGED = {
    "job": "the job",
    "alignment": "the alignment",
    "hosts": "the parties",
    "own": "its table, its party file or its vfl",
}


@contextlib.contextmanager
def begin_run(
    store: Store, new: str, subject: RunSubject, *, fresh: bool, show: Show
) -> Iterator[Unfinished]:
    """A guest's run: the newest unfinished one of this subject that no other process is at, or a `new`
    one. `fresh`: never an unfinished one; those of this subject are removed.
    """
    names = unfinished_runs(store, subject)
    if fresh:
        forget(store, names)
        names = []
    elif not names and any(
        (other.job_name, other.guest) == (subject.job_name, subject.guest) for _, other in _all(store)
    ):
        show.say(
            f"note: what is unfinished of {subject.job_name} is of another job file, table or "
            "alignment, or of another version of vfl: starting anew"
        )
    with contextlib.ExitStack() as stack:
        run = None
        for name in names:
            with contextlib.suppress(Refused):
                run = stack.enter_context(open_run(store, name, subject, keep=1))
                break
        yield run or stack.enter_context(open_run(store, new, subject, keep=1))


def unfinished_runs(store: Store, subject: RunSubject) -> list[str]:
    """The runs of this very subject that have a checkpoint, the newest first."""
    return [name for name, found in _all(store) if found == subject]


def forget(store: Store, names: Iterable[str]) -> None:
    """Remove the checkpoints of runs that nobody is at."""
    for name in names:
        _remove_idle(store, name)


def limit_runs(store: Store, guest: str) -> None:
    """Keep the newest unfinished runs of a guest alone, so that it cannot fill this host's disk."""
    names = [name for name, subject in _all(store) if subject.guest == guest]
    forget(store, names[_UNFINISHED:])


async def persevere(
    attempt: Callable[[float], Awaitable[T]],
    *,
    wait: float,
    reconnect: float,
    show: Show,
    done: Callable[[], int] = lambda: 0,
) -> T:
    """What an attempt at a job comes to, again and again while what ends it may pass.

    `attempt` gets the seconds to wait for all parties: `wait`, later `reconnect` (0: there is no later).
    `done` counts steps that need not be done again: without a new one the attempts are few. Raises what
    the last one raised.
    """
    stalled, before = 0, done()
    while True:
        try:
            return await attempt(wait)
        except VflError as error:
            stalled, before = (0 if done() > before else stalled + 1), done()
            if not (error.passing and reconnect) or stalled > _STALLED:
                raise
            show.say(
                f"{error}: waiting up to {reconnect:,.0f} s for all parties to be there; "
                "Ctrl-C ends, and the same command goes on later"
            )
        wait = reconnect
        await asyncio.sleep(_PAUSE)


class Replaceable:
    """Jobs under way in this process, of which a newer one of the same name takes the place.

    Who was killed comes back with its job while this party still waits for it in the old one.
    """

    def __init__(self) -> None:
        self._jobs: dict[str, asyncio.Task[object]] = {}

    async def run(self, name: str, job: Callable[[], Coroutine[object, None, T]]) -> T:
        """The job's outcome, begun once an older one of that name has ended. Raises PeerLost in that."""
        while (older := self._jobs.get(name)) is not None:
            older.cancel()
            await asyncio.wait([older])
        task = asyncio.create_task(job())
        self._jobs[name] = task
        try:
            return await task
        except asyncio.CancelledError:
            own = asyncio.current_task()
            if own is None or own.cancelling():
                raise
            raise PeerLost("the same job has been begun again") from None
        finally:
            if self._jobs.get(name) is task:
                del self._jobs[name]


def _read(store: Store, name: str) -> tuple[RunSubject, list[_KeptState]]:
    """What a checkpoint is about and its states. Raises ModelError."""
    body = store.read("checkpoint", name)
    try:
        return msgspec.convert(body.get("matter"), RunSubject), msgspec.convert(
            body.get("states"), list[_KeptState]
        )
    except msgspec.ValidationError:
        raise _start_anew(f"the checkpoint of {name} is of another version") from None


def _all(store: Store) -> list[tuple[str, RunSubject]]:
    """The checkpoints that can be read, the newest first."""
    return [(run.name, run.subject) for run in kept_runs(store) if run.subject is not None]


def _remove_idle(store: Store, name: str) -> None:
    with contextlib.suppress(Refused), store.locked("checkpoint", name, name):
        store.remove("checkpoint", name)


def _start_anew(what: str) -> ModelError:
    text = f"{what}: start the job anew (--fresh)"
    return ModelError(text, for_peer=text)


def remove_model(store: Store, name: str) -> None:
    """Remove what is kept of a model but its checkpoint, from which the guest may go on."""
    store.remove("model", name)
    store.remove("run", name)
