"""What data is worth, found out again (rerun.py): by the guest, by a host."""

import asyncio
import contextlib
from collections import Counter
from dataclasses import replace
from typing import Annotated

from msgspec import Meta

from vfl.jobs.aligned_rows import read_guest_rows
from vfl.jobs.alignments import load_alignment
from vfl.jobs.answers import AnsweredLabels, AnsweredSums
from vfl.jobs.hints import PassingGuestHints
from vfl.jobs.offer import Kept
from vfl.jobs.replay_training import host_columns
from vfl.jobs.rerun import Rerun
from vfl.jobs.training_host import commits_to as host_commits_to
from vfl.jobs.worth import GuestWorth, HostWorth, commits_to, read_beside, sample_of
from vfl.models.kind import AnyHostModel, HostRun
from vfl.protocols.common.course import UNCOUNTED
from vfl.protocols.common.label_count import OneAttempt
from vfl.protocols.common.participant import Resources
from vfl.protocols.worth import hear_worth

_ROWS = Annotated[int, Meta(ge=1)] | None


async def replay_guest(run: Rerun) -> None:
    """The guest's part."""
    site, job, show = run.site, run.job, run.show
    named = load_alignment(site.store, run.offer.alignment or "")
    run.takes_alignment(named)
    own = await asyncio.to_thread(read_guest_rows, site, job, named, show)
    own = sample_of(own, job, run.answers.ask("rows that are drawn", _ROWS, lambda: None))
    beside = await asyncio.to_thread(read_beside, site, job, own)
    run.check_table(commits_to(own, beside), own.table.path.name)
    work = await GuestWorth.of(site, job, own, beside, show)
    resources = Resources(site.party.party.machine, Counter(), run.randomness, run.say)
    hints = PassingGuestHints(site.store, f"replay of {run.evidence.run}")
    with contextlib.closing(hints):
        await work.find(run.hosts, resources, hints, AnsweredLabels(OneAttempt(), run.answers))


async def replay_host(run: Rerun) -> None:
    """A host's part."""
    site, offer = run.site, run.offer
    own = await host_columns(run)
    run.check_table(host_commits_to(own), own.table.path.name)
    work, looks_at = await HostWorth.of(site, run.job, offer, own, run.show), run.over_trainings

    def given(training: HostRun[AnyHostModel], number: int) -> HostRun[AnyHostModel]:
        return replace(
            training,
            participant=run.participant(training.participant, looks_at),
            sums=AnsweredSums(UNCOUNTED, run.answers),
        )

    guest = run.peers[run.evidence.agreement.terms.guest]
    await work.train(guest, run.randomness, given)
    await hear_worth(guest, offer.hosts, work.rows)
    await guest.send(Kept())
