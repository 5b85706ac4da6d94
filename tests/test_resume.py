"""Jobs that go on after a kill: the model is bit for bit that of a run that nobody disturbed.

First the protocols over memory, cut at messages of each party in turn, with checkpoints on disk; then
what keeps the checkpoints; then parties as processes that are killed and started again.
"""

import asyncio
import contextlib
import dataclasses
import errno
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import msgspec
import numpy as np
import pytest
from federation import JOB, Federation, Running, ended, kill
from kills import halves, ready, restart, start_train
from test_boost import KEY
from test_boost import Job as BoostJob
from test_boost import make_job as make_boost_job
from test_glm import KEY as GLM_KEY
from test_glm import Job as GlmJob
from test_glm import make_job as make_glm_job
from test_hidden_glm import hidden_job, role

from vfl.arrays import Mask
from vfl.crypto import powers
from vfl.errors import (
    DataError,
    ModelError,
    PeerLost,
    PeerStopped,
    PeerUnreachable,
    Refused,
    VflError,
)
from vfl.jobs import resume
from vfl.jobs.account import Account, Exchanged
from vfl.jobs.labels_given import LabelsGiven
from vfl.jobs.record import load_record
from vfl.jobs.resume import (
    Replaceable,
    RunSubject,
    begin_run,
    limit_runs,
    open_run,
    persevere,
    unfinished_runs,
)
from vfl.learn.glm import BlockState
from vfl.learn.params import BoostParams
from vfl.net.peer import MemoryPeer
from vfl.party.store import Store
from vfl.protocols.common.checkpoints import Checkpoints
from vfl.protocols.common.course import UNCOUNTED, GuestCourse, HostCourse, SumsCount
from vfl.protocols.common.participant import Participant
from vfl.protocols.linear.fit import Fit, GuestFitState, HostFitState
from vfl.protocols.linear.fitting import guest_fit
from vfl.protocols.linear.hidden import HiddenState
from vfl.protocols.trees.grower import GuestTrees, HostTrees
from vfl.protocols.trees.training import guest_train, host_train

pytestmark = pytest.mark.usefixtures("quick_key")

SUBJECT = RunSubject("digest", "claims", "aligned", "guest", ["a", "b"], "own")
LEAD = "coordinator"


@pytest.fixture(autouse=True, scope="module")
def _made_once() -> Iterator[None]:
    """All attempts have one key, whose tables of powers are small."""
    with mock.patch.object(powers, "_TABLE_BYTES", 4_000_000):
        yield


# --- The protocols, cut at any message. -----------------------------------------------------------


@dataclass
class Fuse:
    """Kills a party at its message of this number, before it is sent or after it was received."""

    left: int

    def burn(self, *seen: Any) -> None:
        self.left -= 1
        if self.left == 0:
            raise PeerLost("killed")


Ends = dict[str, MemoryPeer]
Role = Callable[[Ends, Any, int], Any]  # a party's part: its sessions, its checkpoints, steps done


@dataclass
class Run:
    """A protocol with what its parties keep; the first party is the guest."""

    roles: dict[str, Role]
    states: dict[str, Any]  # the kind of each party's states; a coordinator has none
    folder: Path
    begun: list[int] = field(default_factory=list)  # after how many steps each attempt began

    def attempt(self, killed: str = "", at: int = 0) -> dict[str, Any] | None:
        """All parties from their checkpoints to the end; None when one was killed before."""
        return asyncio.run(self._attempt(killed, at))

    async def _attempt(self, killed: str, at: int) -> dict[str, Any] | None:
        ends: dict[str, Ends] = {name: {} for name in self.roles}
        guest, *others = self.roles
        pairs = [(guest, name) for name in others]
        if LEAD in others:
            pairs += [(LEAD, host) for host in others if host != LEAD]
        for one, other in pairs:
            ends[one][other], ends[other][one] = MemoryPeer.pair(one, other)
        fuse = Fuse(at)
        for end in ends[killed].values() if killed else ():
            end.observers.append(fuse.burn)
        with contextlib.ExitStack() as stack:
            runs = {
                name: stack.enter_context(open_run(Store(self.folder / name), "claims-1", SUBJECT))
                for name in self.states
            }
            done = runs[guest].done
            self.begun.append(done)
            kept = {name: run.checkpoints(self.states[name], done) for name, run in runs.items()}
            parts = (self._part(name, ends[name], kept.get(name), done) for name in self.roles)
            outcomes = await asyncio.gather(*parts)
        return None if None in outcomes else dict(zip(self.roles, outcomes, strict=True))

    async def _part(self, name: str, ends: Ends, kept: Any, done: int) -> Any:
        """A party's outcome, or None: whoever ends closes its sessions, and so ends the others."""
        try:
            return [await self.roles[name](ends, kept, done)]
        except PeerLost:
            return None
        finally:
            for end in ends.values():
                await end.close()

    def survive(self, seed: int, kills: int, messages: int) -> dict[str, Any]:
        """The outcome after attempts each of which a party ended at a message of its own."""
        rng = random.Random(seed)
        for _ in range(kills):
            self.attempt(rng.choice(list(self.roles)), rng.randint(1, messages))
        outcome = self.attempt()
        assert outcome is not None
        return outcome


def of_trees(
    job: BoostJob, folder: Path, sums: SumsCount = UNCOUNTED, states: list[GuestTrees] | None = None
) -> Run:
    """sums: what hosts tell. states: gets what the guest keeps."""
    blocks = job.blocks
    name, *hosts = blocks

    def guest(ends: Ends, kept: Any, done: int) -> Any:
        peers = [ends[host] for host in hosts]
        own = {name: blocks[name]}

        def write(state: GuestTrees) -> None:
            if states is not None:
                states.append(state)
            kept.write(state)

        course = GuestCourse(checkpoints=replace(kept, write=write))
        return guest_train(peers, own, job.rows, job.params, key=KEY, course=course)

    def host(own: str) -> Role:
        return lambda ends, kept, done: host_train(
            ends[name],
            blocks[own],
            job.params,
            Participant(own),
            shown=str,
            course=HostCourse(checkpoints=kept, sums=sums),
        )

    roles = {name: guest, **{own: host(own) for own in hosts}}
    return Run(roles, {name: GuestTrees, **dict.fromkeys(hosts, HostTrees)}, folder)


def of_glm(job: GlmJob, folder: Path) -> Run:
    name, *hosts = job.tables

    def guest(ends: Ends, kept: Any, done: int) -> Any:
        own = {name: job.matrices[name]}
        peers = [ends[host] for host in hosts]
        labels = LabelsGiven(Store(folder / name), SUBJECT.alignment, SUBJECT.job)
        course = GuestCourse(checkpoints=kept, labels=labels)
        return guest_fit(peers, own, job.rows, job.params, key=GLM_KEY, course=course)

    def host(own: str) -> Role:
        return lambda ends, kept, done: job.host(ends[name], own, checkpoints=kept)

    roles = {name: guest, **{own: host(own) for own in hosts}}
    return Run(roles, {name: GuestFitState, **dict.fromkeys(hosts, HostFitState)}, folder)


def of_hidden(job: GlmJob, folder: Path) -> Run:
    def part(own: str) -> Role:
        if own == LEAD:
            return lambda ends, kept, done: role(job, own, ends, done=done)
        return lambda ends, kept, done: role(job, own, ends, checkpoints=kept)

    return Run(
        {own: part(own) for own in (*job.tables, LEAD)}, dict.fromkeys(job.tables, HiddenState), folder
    )


def plain(outcome: object) -> bytes:
    """Every bit of what a party has in the end."""
    return msgspec.msgpack.encode(outcome, enc_hook=lambda array: [array.dtype.str, array.tolist()])


TREES = BoostParams(trees=4, depth=2, max_bins=6, min_child_rows=5)
DRAWN = TREES.model_copy(
    update={
        "trees": 7,
        "goss_top": 0.3,
        "goss_other": 0.3,
        "learning_rate": 0.5,
        "colsample": 0.7,
        "validation_share": 0.3,
        "early_stopping_rounds": 2,
        "guest_trees": 2,
    }
)
PROTOCOLS: dict[str, tuple[Callable[[Path], Run], int]] = {  # and among how many messages is cut
    "trees": (lambda at: of_trees(make_boost_job(100, 2, 1, TREES), at), 16),
    "drawn rows": (lambda at: of_trees(make_boost_job(120, 1, 2, DRAWN), at), 20),
    "classes": (
        lambda at: of_trees(
            make_boost_job(100, 2, 1, TREES.model_copy(update={"trees": 2}), objective="multiclass"), at
        ),
        24,
    ),
    "linear": (lambda at: of_glm(make_glm_job("poisson", 3, 120, tolerance=1e-4), at), 45),
    "lasso": (
        lambda at: of_glm(make_glm_job("poisson", 3, 120, tolerance=1e-4, alpha=0.02, l1_ratio=0.8), at),
        45,
    ),
    "hidden": (lambda at: of_hidden(hidden_job("logistic", 3, rows=60, tolerance=1e-2), at), 40),
    "hidden counts": (lambda at: of_hidden(hidden_job("poisson", 2, rows=60, tolerance=3e-2), at), 40),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_protocol_goes_on_after_kills_at_any_message(protocol: str, tmp_path: Path) -> None:
    make, messages = PROTOCOLS[protocol]
    undisturbed = make(tmp_path / "whole").attempt()
    run = make(tmp_path / "killed")
    survived = run.survive(seed=1, kills=8, messages=messages)
    assert undisturbed is not None
    for name, outcome in undisturbed.items():
        (one,), (other,) = survived[name], outcome
        if isinstance(other, Fit):  # what was opened twice counts twice
            assert one.readable > other.readable > 0
            one = replace(one, readable=other.readable)
        assert plain(one) == plain(other), name
    assert run.begun == sorted(run.begun) and len(set(run.begun)) > 1, run.begun


# --- What keeps the checkpoints. ------------------------------------------------------------------


def state(done: int) -> GuestFitState:
    block = BlockState(np.full(2, 0.1 * done), np.ones(2), [np.arange(2.0)], [np.full(2, -1e-300)])
    score = np.random.default_rng(done).normal(size=50)
    return GuestFitState(done, 0.1, score, -1.5, np.inf, {"a": block})


def kept(
    store: Store, *steps: int, subject: RunSubject = SUBJECT, name: str = "claims-1", keep: int = 2
) -> None:
    """A run that was killed after these steps."""
    with open_run(store, name, subject, keep=keep) as run:
        for done in steps:
            asyncio.run(run.checkpoints(GuestFitState, run.done).keep(state(done)))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "vfl-store")


class OfManyRows:
    """Tells no sums of two children of which one has fewer than a sixth of the rows."""

    least = 0

    def begin_tree(self, drawn: Mask | None) -> None:
        return

    def tell(self, pairs: Sequence[tuple[Mask, Mask]]) -> list[bool]:
        return [min(int(one.sum()), int(other.sum())) >= len(one) / 6 for one, other in pairs]


def test_nodes_that_hosts_kept_to_themselves_are_counted_over_all_attempts(tmp_path: Path) -> None:
    job = make_boost_job(120, 2, 1, TREES.model_copy(update={"depth": 3}))
    counted = []
    for folder, kills in (("whole", ()), ("killed", (50, 60))):
        states: list[GuestTrees] = []
        run = of_trees(job, tmp_path / folder, OfManyRows(), states)
        for at in kills:
            assert run.attempt(next(iter(run.roles)), at) is None
        assert run.attempt() is not None and (run.begun[-1] > 1) == bool(kills)
        counted.append([dict(states[-1].withheld), states[-1].done])
    assert counted[0] == counted[1] and sum(counted[0][0].values()) > 4, counted


def test_a_checkpoint_comes_back_bit_for_bit(store: Store) -> None:
    with open_run(store, "claims-1", SUBJECT) as run:
        run.measure = lambda: Account(
            2.0, {"a": 5}, {}, 10, {"add": 3}, [Exchanged("a", "sent", "X", 1, 5)]
        )
        checkpoints = run.checkpoints(GuestFitState, 0)
        assert checkpoints.last is None
        for done in (1, 2, 3):
            run.history.curve.append({"train": 0.1 * done})
            asyncio.run(checkpoints.keep(state(done)))
    folder = store.folder("checkpoint")
    assert {path.suffix for path in folder.iterdir()} == {".json", ".npy"}
    assert len(list(folder.iterdir())) == 3  # the last two states alone
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in folder.iterdir())
    for done in (3, 2):
        with open_run(store, "claims-1", SUBJECT) as run:
            assert run.done == 3
            last = run.checkpoints(GuestFitState, done).last
            assert last is not None and plain(last) == plain(state(done))
            assert run.history.curve == [{"train": 0.1 * step} for step in range(1, done + 1)]
            # An attempt that goes on adds to what was spent.
            run.measure = lambda: Account(1.0, {"a": 1}, {"b": 7}, 5)
            spent = run.history.account + run.measure()
            assert (spent.seconds, spent.sent, spent.peak_memory) == (3.0, {"a": 6}, 10)
            assert spent.messages == [Exchanged("a", "sent", "X", 1, 5)]
    with open_run(store, "claims-1", SUBJECT) as run:
        with pytest.raises(
            ModelError, match=r"is of other steps \(2 and 3\) than the job goes on from \(1\): start"
        ):
            run.checkpoints(GuestFitState, 1)
        with pytest.raises(ModelError, match=r"is of another version: start the job anew \(--fresh\)$"):
            run.checkpoints(HiddenState, 3)


def test_a_checkpoint_is_of_one_matter_and_one_process(store: Store) -> None:
    kept(store, 1)
    assert unfinished_runs(store, SUBJECT) == ["claims-1"]
    for change, said in (
        (
            {"own": "other"},
            "its table, its party file or its vfl changed since the checkpoint of claims-1",
        ),
        ({"job": "other"}, "the job changed since"),
        ({"alignment": "other"}, "the alignment changed since"),
    ):
        other = dataclasses.replace(SUBJECT, **change)
        assert unfinished_runs(store, other) == []
        with pytest.raises(ModelError, match=said), open_run(store, "claims-1", other):
            pass
    stranger = dataclasses.replace(SUBJECT, guest="stranger")
    with (
        pytest.raises(Refused, match="a run that another party has begun"),
        open_run(store, "claims-1", stranger),
    ):
        pass
    lines: list[str] = []
    show = SimpleNamespace(say=lines.append)
    with begin_run(store, "claims-2", SUBJECT, fresh=False, show=show) as first:
        assert (first.name, first.done) == ("claims-1", 1)
        with begin_run(store, "claims-2", SUBJECT, fresh=False, show=show) as second:
            assert (second.name, second.done) == ("claims-2", 0)
    changed = dataclasses.replace(SUBJECT, job="other")
    with begin_run(store, "claims-2", changed, fresh=False, show=show) as run:
        assert run.name == "claims-2"
    (line,) = lines
    assert line.startswith(
        "note: what is unfinished of claims is of another job file, table or alignment"
    )
    with begin_run(store, "claims-2", SUBJECT, fresh=True, show=show) as run:
        assert run.name == "claims-2"
    assert store.names("checkpoint") == []


def test_a_run_that_is_done_leaves_nothing_of_its_job(store: Store) -> None:
    kept(store, 1, 2)
    kept(store, 1, name="other-1", subject=dataclasses.replace(SUBJECT, job_name="other"))
    (store.folder("checkpoint") / "claims-0.lock").touch()  # of a process that was killed
    with open_run(store, "claims-2", SUBJECT) as run:
        asyncio.run(run.checkpoints(GuestFitState, 0).keep(state(1)))
        run.finish()
    assert {path.name.partition(".")[0] for path in store.folder("checkpoint").iterdir()} == {"other-1"}


def test_a_host_keeps_some_unfinished_runs_of_a_guest_alone(store: Store) -> None:
    for number in range(25):
        name = f"claims-{number}"
        kept(store, 1, name=name)
        os.utime(store.path("checkpoint", name), ns=(number, number))
    limit_runs(store, SUBJECT.guest)
    assert set(store.names("checkpoint")) == {f"claims-{number}" for number in range(5, 25)}


@pytest.mark.parametrize("damaged", ["*.npy", "*.json"])
def test_a_damaged_checkpoint_is_refused(store: Store, damaged: str) -> None:
    kept(store, 1, keep=1)
    (path,) = store.folder("checkpoint").glob(damaged)
    path.write_bytes(path.read_bytes()[:-3] + b"\x01}\n")
    with pytest.raises(ModelError, match="damaged"), open_run(store, "claims-1", SUBJECT) as run:
        run.checkpoints(GuestFitState, 1)


def test_a_full_disk_leaves_the_last_checkpoint(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    kept(store, 1)

    def full(_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with open_run(store, "claims-1", SUBJECT) as run:
        checkpoints = run.checkpoints(GuestFitState, 1)
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full)
            with pytest.raises(DataError, match=r"cannot be written: No space left on device$"):
                asyncio.run(checkpoints.keep(state(2)))
    with open_run(store, "claims-1", SUBJECT) as run:
        last = run.checkpoints(GuestFitState, 1).last
        assert run.done == 1 and plain(last) == plain(state(1))


def test_a_write_is_finished_before_its_job_is_cancelled() -> None:
    """Else it would overwrite what the next attempt keeps."""
    written: list[int] = []

    def write(state: GuestFitState) -> None:
        time.sleep(0.05)
        written.append(state.done)

    async def cancelled() -> None:
        keeping = asyncio.create_task(Checkpoints(None, write).keep(state(3)))
        await asyncio.sleep(0.01)
        keeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeping
        assert written == [3]

    asyncio.run(cancelled())


def test_a_newer_attempt_takes_the_place_of_an_older() -> None:
    ended: list[str] = []

    async def waits() -> str:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("older")
        return "never"

    async def answers() -> str:
        return "newer, after " + "".join(ended)

    async def both() -> None:
        jobs = Replaceable()
        older = asyncio.create_task(jobs.run("claims", waits))
        await asyncio.sleep(0)
        assert await jobs.run("other", answers) == "newer, after "
        assert await jobs.run("claims", answers) == "newer, after older"
        with pytest.raises(PeerLost, match="the same job has been begun again"):
            await older
        another = asyncio.create_task(jobs.run("claims", waits))
        await asyncio.sleep(0)
        another.cancel()
        with pytest.raises(asyncio.CancelledError):
            await another

    asyncio.run(both())


def persevered(
    errors: list[VflError], steps: list[int], reconnect: float = 60
) -> tuple[list[float], list[str], VflError | None]:
    """The seconds each attempt waits, what is said, and what is raised, if each attempt ends so."""
    waits: list[float] = []
    lines: list[str] = []

    async def attempt(wait: float) -> None:
        waits.append(wait)
        if len(waits) <= len(errors):
            raise errors[len(waits) - 1]

    try:
        with mock.patch.object(resume, "_PAUSE", 0):
            asyncio.run(
                persevere(
                    attempt,
                    wait=5,
                    reconnect=reconnect,
                    show=SimpleNamespace(say=lines.append),
                    done=lambda: [0, *steps][len(waits)],
                )
            )
    except VflError as error:
        return waits, lines, error
    return waits, lines, None


def test_what_a_guest_does_when_a_peer_is_lost() -> None:
    lost = PeerLost("registry is gone")
    told = PeerStopped("umpire stopped the job: ...", passing=True)
    waits, lines, error = persevered([lost, told, lost, lost], [0, 3, 4, 4, 4])
    assert (waits, error) == ([5, 60, 60, 60, 60], None)
    assert lines[0] == (
        "registry is gone: waiting up to 60 s for all parties to be there; Ctrl-C ends, and the same "
        "command goes on later"
    )
    # To try again three times in a row without a new step is enough.
    assert persevered([lost] * 9, [0] * 9)[::2] == ([5, 60, 60, 60], lost)
    assert persevered([lost] * 9, [1] * 9)[::2] == ([5, 60, 60, 60, 60], lost)
    # What does not pass by waiting ends the job.
    for final in (PeerStopped("no disk"), Refused("a rule"), PeerUnreachable("nobody there")):
        assert persevered([lost, final], [1, 1, 1])[::2] == ([5, 60], final)
    assert persevered([lost], [1, 1], reconnect=0)[::2] == ([5], lost)


# --- Parties as processes. ------------------------------------------------------------------------


def test_parties_that_are_killed_go_on_with_their_job(tmp_path: Path, keys: Path) -> None:
    """A host in the middle, then the guest and the other host at once."""
    wanted = {**JOB, "secureboost": {**JOB["secureboost"], "trees": 8, "subsample": 0.8}}
    federation = ready(Federation(tmp_path, keys))
    guest = federation.guest

    def after(tree: int, running: Running) -> None:
        """Wait until the guest has kept so many trees of the run."""
        folder = Store(guest.store)
        while running.process.poll() is None:
            with contextlib.suppress(ModelError):
                if any(
                    folder.read("checkpoint", n)["states"][-1]["done"] >= tree
                    for n in folder.names("checkpoint")
                ):
                    return
            time.sleep(0.01)
        raise AssertionError(running.err)

    with ended(federation):
        guest.align().ok()
        whole = start_train(federation, wanted).wait().ok().json
        running = start_train(federation, wanted)
        after(2, running)
        restart(federation, "registry")
        after(5, running)
        kill(running)
        restart(federation, "bureau")
        done = start_train(federation, wanted).wait().ok()
        assert re.search(r"going on with claims-\S+ after tree [5-8] of 8; --fresh starts", done.err)
        assert halves(federation, done.json["model"]) == halves(federation, whole["model"])
        assert "the connection to registry broke" in running.err
        # The record covers all parts; nothing of the run is left behind.
        records = [
            load_record(Store(guest.store), name)[0] for name in (whole["model"], done.json["model"])
        ]
        assert records[0].curve == records[1].curve
        assert len(records[1].phases) == 8
        for name in ("registry", "bureau"):
            federation.serving[name].until(f"trained {done.json['model']}")
        for party in federation.parties.values():
            assert list(Store(party.store).folder("checkpoint").iterdir()) == []
