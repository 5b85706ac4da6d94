"""Searches for settings played again (rerun.py): by the guest, by a host."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated

from msgspec import Meta
from pydantic import ValidationError

from vfl.jobs.aligned_rows import read_guest_rows
from vfl.jobs.alignments import load_alignment
from vfl.jobs.answers import AnsweredHostHints, AnsweredLabels, AnsweredSums
from vfl.jobs.hints import lock_hints
from vfl.jobs.judging import judged_parts
from vfl.jobs.replay_training import GuestHints, host_columns
from vfl.jobs.rerun import EvidenceDiffers, Rerun
from vfl.jobs.training import guest_columns
from vfl.jobs.training_host import commits_to as host_commits_to
from vfl.jobs.tuning import FOLDS, NEXT, POOR, GuestTrials, TrialWork, commits_to
from vfl.jobs.tuning_host import HostTrials, agreed_search
from vfl.models.kind import AnyHostModel, AnyKind, HostRun
from vfl.models.kinds import kind_of_job
from vfl.party.tune_section import Setting
from vfl.protocols.common.course import NO_HINTS, UNCOUNTED
from vfl.protocols.common.label_count import OneAttempt
from vfl.protocols.common.participant import Resources
from vfl.protocols.tuning import NextTrial, tell_end


async def replay_guest(run: Rerun) -> None:
    """The guest's part. Which settings come next, and how far they get, is what the run has chosen."""
    site, show, answers = run.site, run.show, run.answers
    search = agreed_search(run.job, run.offer)
    named = load_alignment(site.store, run.offer.alignment or "")
    run.takes_alignment(named)
    own = await asyncio.to_thread(read_guest_rows, site, search.split, named, show)
    draw = int(answers.ask(FOLDS, Annotated[str, Meta(pattern=r"^[0-9a-f]{1,64}\Z")], lambda: ""), 16)
    parts = judged_parts(own, search, draw)
    run.check_table(commits_to(own, parts), own.table.path.name)
    with lock_hints(site.store, named.name):
        hints = GuestHints(run, f"{named.name} {kind_of_job(search.job).name}")
        work = GuestTrials(
            site,
            search,
            own,
            parts,
            guest_columns(site, own),
            Resources(site.party.party.machine, Counter(), run.randomness, run.say),
            hints,
            AnsweredLabels(OneAttempt(), answers),
            show,
        )
        try:
            while (asked := answers.ask(NEXT, NextTrial | None, lambda: None)) is not None:
                await _trial(work, _AskedAgain(run, asked)).run(run.hosts)
        finally:
            hints.close()
    await tell_end(run.hosts)


def _trial(work: GuestTrials, asked: "_AskedAgain") -> TrialWork:
    try:
        return TrialWork(work, asked)
    except ValidationError:
        raise EvidenceDiffers(f"the settings of trial {asked.number:,} are none of its job") from None


async def replay_host(run: Rerun) -> None:
    """A host's part."""
    site, offer = run.site, run.offer
    search = agreed_search(run.job, offer)
    own = await host_columns(run)
    run.check_table(host_commits_to(own), own.table.path.name)
    hints, looks_at = AnsweredHostHints(NO_HINTS, run.answers), run.over_trainings

    async def given(
        training: HostRun[AnyHostModel], number: int, kind: AnyKind
    ) -> HostRun[AnyHostModel]:
        return replace(
            training,
            participant=run.participant(training.participant, looks_at),
            hints=hints,
            sums=AnsweredSums(UNCOUNTED, run.answers),
        )

    work = HostTrials(site, offer, search, own, run.show, run.randomness)
    await work.serve(run.peers[run.evidence.agreement.terms.guest], given)


class _AskedAgain:
    """`Asked` of a replay."""

    def __init__(self, run: Rerun, asked: NextTrial) -> None:
        self._answers = run.answers
        self.number = asked.number
        self.settings: Mapping[str, Setting] = asked.settings

    def is_poor(self, loss: float) -> bool:
        return self._answers.ask(POOR, bool, lambda: False)
