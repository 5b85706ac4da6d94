"""Trainings over rows played again (rerun.py): by the server, by a client."""

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any

from vfl.errors import ModelError
from vfl.jobs.offer import Kept
from vfl.jobs.pooled import ClientWork, absences, add_for, commits_to, lost_by
from vfl.jobs.rerun import Rerun
from vfl.jobs.shared_table import read_own_rows
from vfl.learn.holdout import Cuts
from vfl.models.kind import AnyGuestModel, ClientRole, TrainingStep
from vfl.models.kinds import kind_of_job
from vfl.net.replay import TapeEnds
from vfl.protocols.common.checkpoints import Checkpoints, State
from vfl.protocols.pooled.adding import MaskingAdder
from vfl.protocols.pooled.adding_server import ServerCourse


async def replay_server(run: Rerun) -> None:
    """The server's part. A client that was gone is gone where what came from it ends."""
    run.check_table({}, "what a server has")
    gone = set[str]()
    for client in run.hosts:
        with contextlib.suppress(TapeEnds):  # one that stayed
            client.loses_last = run.answers.ask(lost_by(client.name), bool, lambda: False)
            gone.add(client.name)

    def follow(totals: int) -> None:
        run.show.progress("replaying: adding up totals", totals, None)

    def left(name: str) -> None:
        if name not in gone:
            raise TapeEnds(f"the tape of {name} ends here")

    await add_for(run.hosts, ServerCourse(absences(run.job), follow, left), len)


async def replay_client(run: Rerun) -> None:
    """A client's part."""
    site, job, offer, show = run.site, run.job, run.offer, run.show
    taken = await asyncio.to_thread(read_own_rows, site.party.data, job, show)
    run.check_table(commits_to(taken), taken.table.path.name)
    server = run.peers[run.evidence.agreement.terms.guest]
    own = site.participant(offer.hosts, offer.run, randomness=run.randomness)
    adder = MaskingAdder(server, own.asking(run.sign, run.say), absences(job))
    curve: list[dict[str, float | None]] = []

    def follow(role: ClientRole[AnyGuestModel], step: TrainingStep) -> None:
        report = role.report(step, curve)
        curve.append(dict(report.losses))
        show.progress(f"replaying {report.what}", report.step, report.of)

    work = ClientWork(site, job, kind_of_job(job), taken, show)
    await work.add_up(adder, _StepsOfRerun(run), follow)
    await server.send(Kept())
    with contextlib.suppress(TapeEnds):  # the model is kept, whoever hears of it
        await server.recv(Kept)


@dataclass(frozen=True)
class _Step:
    """A state of a client, and the times by which its rows are split."""

    done: int
    state: State
    cuts: Cuts | None


class _StepsOfRerun:
    """`StepsKept` of a replay: those that this attempt and the ones before it have kept."""

    def __init__(self, run: Rerun) -> None:
        self._run = run
        self._cuts: Cuts | None = None

    @property
    def newest(self) -> int:
        return self._run.answers.ask("steps that are kept", int, lambda: 0)

    def go_on_after(self, done: int) -> tuple[Checkpoints[Any], Cuts | None]:
        """Raises ModelError where no attempt before this one has come to so many steps."""
        if not done:
            return Checkpoints(None, self._keep), None
        found = [one for one in self._run.earlier if one.done == done]
        if not found or not isinstance(found[-1], _Step):
            raise ModelError(
                f"run {self._run.evidence.run[:12]} went on after {done:,} steps, to which the tapes of "
                "the attempts before it do not reach: it cannot be replayed"
            )
        self._cuts = found[-1].cuts
        return Checkpoints(found[-1].state, self._keep), self._cuts

    def split_by(self, cuts: Cuts) -> None:
        self._cuts = cuts

    def _keep(self, state: State) -> None:
        self._run.keep(_Step(state.done, state, self._cuts))
