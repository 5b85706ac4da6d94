"""A search for settings: trials on one alignment, none kept. A host's side is in tuning_host.py.

Guest and hosts agree once, on the job, the space of its settings and how many trials there are. A trial
is one training of the job with settings of the space, or one a fold. What differs from `vfl train` is
what becomes of it: halves are dropped. Hints are those of the alignment, so that trials share them, and
the training that follows. A host counts each training as a job, and its sums as those of any other.
"""

import asyncio
import contextlib
import hashlib
import secrets
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
import numpy as np
from msgspec import UNSET

from vfl.crypto.workers import Operations
from vfl.errors import ConfigError, ModelError, PeerLost, PeerStopped, VflError
from vfl.jobs.account import Account
from vfl.jobs.admission import matching_of
from vfl.jobs.agreement import check_aligned, offer_to
from vfl.jobs.aligned_rows import GuestRows, read_guest_rows
from vfl.jobs.alignments import guest_alignment
from vfl.jobs.answers import AnsweredGuestHints, AnsweredLabels
from vfl.jobs.commitments import TableDigests, digest_table
from vfl.jobs.connect import Site, hosts_of
from vfl.jobs.evidence import Answers, Keeping, keeping
from vfl.jobs.hints import StoredGuestHints, hold_hints
from vfl.jobs.judging import Judged, Judgement, judged_parts
from vfl.jobs.labels_given import LabelsGiven
from vfl.jobs.memory import release_memory
from vfl.jobs.offer import Offer, new_run
from vfl.jobs.own_table import say_uses
from vfl.jobs.resume import RunSubject, persevere
from vfl.jobs.show import Show
from vfl.jobs.storage import in_store
from vfl.jobs.study import AskedTrial, Ended, Study, TrialDone, check_optuna, trees_of
from vfl.jobs.training import commits_to as guest_commits_to
from vfl.jobs.training import guest_columns
from vfl.jobs.tuned_folder import TunedFolder, trial_words
from vfl.models.kind import GuestRun, PartyColumns, TrainingStep
from vfl.models.kinds import kind_of_job
from vfl.net.peer import Peer
from vfl.party.config import Job
from vfl.party.documents import canonical_json, convert_document
from vfl.party.kept_query import KeptQuery
from vfl.party.search import Search
from vfl.party.tune_section import Setting
from vfl.protocols.common.course import StopTraining
from vfl.protocols.common.label_count import LabelCount
from vfl.protocols.common.lattice_hints import KeptHints, NoKeptHints
from vfl.protocols.common.participant import Resources
from vfl.protocols.trees.grower import TreeDone
from vfl.protocols.tuning import NextTrial, tell_end, tell_trial
from vfl.text import counted


@dataclass(frozen=True)
class Tuned:
    """What came of it."""

    study: Study
    alignment: str
    rows: Mapping[str, int]  # that train, that judge, that are held out and were in no trial
    folder: TunedFolder
    best: Job
    account: Account


@in_store
async def tune(
    site: Site,
    job: Job,
    folder: TunedFolder,
    *,
    alignment: str | None = None,
    fresh: bool = False,
    wait: float,
    show: Show,
) -> Tuned:
    """Search for the settings of a job's model, and write what was found into the folder.

    A search of the same job, space, alignment and table that was interrupted goes on after its last
    trial, unless `fresh`; one that is done is shown again. Raises ConfigError for a job that cannot be
    searched, or without optuna; DataError and ModelError for what the guest brings, and what sessions
    raise.
    """
    check_optuna()
    search, started, party = Search.of(job), time.monotonic(), site.party
    say_uses(show, party.data, job.uses(party.data))
    named = guest_alignment(site, site.store, alignment)
    own = await asyncio.to_thread(read_guest_rows, site, search.split, named, show)
    work = _GuestWork(site, search, own, folder, show, started)
    work.open(fresh)
    parts = work.parts
    site.activity.tell(work.hosts, [named.name])
    if search.most_hints and search.job.params.encryption == "lattice":
        show.say(
            "note: the space changes which split candidates hosts have: each new value of max_bins, "
            "min_bin_rows or min_child_rows makes hosts' hints anew"
        )
    try:
        if work.study.left:
            with hold_hints(site.store, named.name) as work.keeps_hints:
                await persevere(
                    work.attempt,
                    wait=wait,
                    reconnect=party.party.reconnect,
                    show=show,
                    done=lambda: len(work.study.trials),
                )
    finally:
        if work.study.trials:
            folder.write(search, work.study)
    best = work.study.best
    if best is None:
        raise ModelError("no trial came to its end: see the table of trials, and change the space")
    rows = {"train": parts.train, "judge": parts.judge, "held out": int(own.held_out.sum())}
    return Tuned(
        work.study, named.name, rows, folder, search.best(best.settings, best.trees), work.account
    )


@dataclass(frozen=True)
class _Kept:
    """The document of a search. draw: by which rows are dealt into folds, in hex."""

    job: str
    trials: list[TrialDone]
    draw: str = ""


@dataclass
class _GuestWork:
    """The trainings of the guest."""

    site: Site
    search: Search
    own: GuestRows
    folder: TunedFolder
    show: Show
    started: float
    parts: Judged = field(init=False)
    keeps_hints: bool = False
    account: Account = field(default_factory=Account.nothing)

    def __post_init__(self) -> None:
        self.study = Study(self.search)
        release_memory(self.own.table.rows)

    @property
    def hosts(self) -> list[str]:
        return [name for name in self.site.party.partners if name in self.own.aligned.parties]

    # --- What is kept of the search. ----------------------------------------------------------------

    def open(self, fresh: bool) -> None:
        """Go on with what was tried before, by the same folds. Raises ModelError for a document that is
        damaged, ConfigError and DataError for what cannot be judged."""
        self._draw = secrets.token_hex(16)
        self._open(fresh)
        self.parts = judged_parts(self.own, self.search, int(self._draw, 16))

    def _open(self, fresh: bool) -> None:
        own, rows, tune = self.own, self.own.rows, self.search.tune
        brought = (rows.label, rows.weight, rows.offset, rows.train, rows.validation)
        subject = RunSubject.of(
            *(self.site.party, self.search.job, own.aligned.name, own.aligned.guest, self.hosts),
            self.own.features,
            *brought,
        )
        how = tune.model_dump(mode="json", exclude={"trials", "seconds"})
        of = [subject.job, subject.alignment, subject.hosts, subject.own, how]
        self._name = hashlib.sha256(canonical_json({"search": of})).hexdigest()[:32]
        if fresh or self._name not in self.site.store.names("search"):
            return
        body = self.site.store.read("search", self._name)
        path = self.site.store.path("search", self._name)
        kept = convert_document(body, _Kept, str(path))
        if kept.draw:  # else of a version that drew folds as hosts could, too
            self.study.trials, self._draw = kept.trials, kept.draw
        if self.study.trials:
            done = counted(len(self.study.trials), "trial")
            self.show.say(f"going on after {done} of an earlier run; --fresh starts anew")

    def _keep(self, done: TrialDone) -> None:
        """Keep a trial before the next one begins."""
        self.study.trials.append(done)
        kept = _Kept(self.search.job.name, self.study.trials, self._draw)
        self.site.store.write("search", self._name, msgspec.to_builtins(kept))
        is_best = ", the best so far" if self.study.best is done else ""
        words = trial_words(done, self.search.judges)
        told = f"trial {done.number:,} of {self.search.tune.trials:,}: {words}{is_best}"
        self.show.say(told)

    # --- Trials. ------------------------------------------------------------------------------------

    async def attempt(self, wait: float) -> None:
        """Connect to all hosts, and make trials as long as there are any to make."""
        started, operations = time.monotonic(), Counter[str]()
        hosts: list[Peer] = []
        try:
            async with hosts_of(self.site, wait, self.show, self.hosts) as sessions:
                hosts = list(sessions)
                with (
                    keeping(self.site, self.show, lambda: commits_to(self.own, self.parts)) as kept,
                    contextlib.ExitStack() as ends,
                ):
                    work = await self._agree(hosts, kept, operations, ends)
                    while (asked := await self._next(kept.answers)) is not None:
                        await self._trial(hosts, work, _Answered(asked, kept.answers))
                    await tell_end(hosts)
        finally:
            self.account += Account.of(started, hosts, operations)

    async def _next(self, answers: Answers) -> AskedTrial | None:
        """The next trial; None where no further one is to be made."""
        asked = None
        if self.study.left and not self._is_late():
            asked = await asyncio.to_thread(self.study.ask)
        trial = None if asked is None else NextTrial(asked.number, dict(asked.settings))
        answers.ask(NEXT, NextTrial | None, lambda: trial)
        return asked

    async def _agree(
        self,
        hosts: Sequence[Peer],
        kept: Keeping,
        operations: Operations,
        ends: contextlib.ExitStack,
    ) -> "GuestTrials":
        """Agree with the hosts on a run; what trains in it."""
        site, own, job = self.site, self.own, self.search.job
        run = await self._offer(hosts, kept)
        kept.answers.ask(FOLDS, str, lambda: self._draw)
        return GuestTrials(
            site,
            self.search,
            own,
            self.parts,
            guest_columns(site, own),
            Resources(site.party.party.machine, operations, kept.randomness_of(run), kept.say),
            AnsweredGuestHints(self._hints(ends), kept.answers),
            AnsweredLabels(LabelsGiven.of(site.store, own.aligned.name, job), kept.answers),
            self.show,
        )

    def _is_late(self) -> bool:
        most = self.search.tune.seconds
        if most is None or time.monotonic() - self.started < most:
            return False
        self.show.say(
            f"note: {most:g} s have passed: {counted(self.study.left, 'trial')} left, with which the "
            "same command goes on"
        )
        return True

    def _hints(self, ends: contextlib.ExitStack) -> KeptHints:
        if not self.keeps_hints:
            return NoKeptHints()
        name = f"{self.own.aligned.name} {kind_of_job(self.search.job).name}"
        hints = StoredGuestHints(self.site.store, name, self.site.fingerprints)
        ends.callback(hints.close)
        return hints

    async def _offer(self, hosts: Sequence[Peer], kept: Keeping) -> bytes:
        """Agree with the hosts on a run. Raises PeerError for another alignment, and what sessions
        raise."""
        site, aligned = self.site, self.own.aligned
        query = KeptQuery.of(site.party.data)
        offer = Offer(
            "tune",
            new_run(),
            [host.name for host in hosts],
            list(aligned.normalise),
            alignment=aligned.name,
            job=self.search.job.searched,
            training=self.parts.train,
            done=len(self.study.trials),
            matching=matching_of(site.party.data, join=aligned.join, many=aligned.many),
            query=UNSET if query is None else query.digest,
            commitment=kept.commitment or UNSET,
        )
        answers, agreement = await offer_to(site, hosts, offer, self.show)
        kept.agreed(agreement, offer.job, hosts)
        check_aligned(hosts, answers, aligned.name, len(aligned.rows))
        return offer.run

    async def _trial(self, hosts: Sequence[Peer], work: "GuestTrials", asked: "_Answered") -> None:
        """Make the next trial, and keep what came of it. Raises ConfigError for one that cannot be."""
        started, number, settings = time.monotonic(), asked.number, asked.settings
        made = TrialWork(work, asked)
        try:
            ended, values = await made.run(hosts)
        except (PeerLost, PeerStopped):
            raise
        except VflError as error:
            if error.exit_code == ConfigError.exit_code:  # its settings: another trial may do better
                self._keep(TrialDone(number, settings, "failed"))
                text = f"trial {number:,} ended: {error}; the same command goes on with the next"
                raise ConfigError(text, for_peer=error.for_peer) from None
            raise
        found = self.parts.together(values)
        known = found.value is not None and found.loss is not None
        self._keep(
            TrialDone(
                number,
                settings,
                ended if known else "failed",
                found.value,
                found.loss,
                made.best_trees,
                asked.curve,
                time.monotonic() - started,
                [one.value for one in values if one.value is not None] if len(values) > 1 else [],
            )
        )


# --- What is done in a search and in its replay. ------------------------------------------------------

NEXT, FOLDS, POOR = "the next trial", "the draw of folds", "whether a trial is poor"
"""What a search is asked of what it has tried so far."""


def commits_to(own: GuestRows, parts: Judged) -> TableDigests:
    """What the run has of the guest's table, for its commitment."""
    masks = {
        f"{what} of fold {number}": mask
        for number, rows in enumerate(parts.rows, 1)
        for what, mask in (("training", rows.train), ("judging", rows.validation))
    }
    return dict(guest_commits_to(own)) | digest_table({}, **masks)


class Asked(Protocol):
    """A trial that is to be made."""

    @property
    def number(self) -> int:
        """From 1."""

    @property
    def settings(self) -> Mapping[str, Setting]:
        """Of the space."""

    def is_poor(self, loss: float) -> bool:
        """Whether it is to be ended, by the loss after a further tree of its first training."""


class _Answered:
    """`Asked` of a search."""

    def __init__(self, asked: AskedTrial, answers: Answers) -> None:
        self._asked, self._answers = asked, answers
        self.number, self.settings = asked.number, asked.settings

    @property
    def curve(self) -> list[float]:
        return self._asked.curve

    def is_poor(self, loss: float) -> bool:
        return self._answers.ask(POOR, bool, lambda: self._asked.is_poor(loss))


@dataclass(frozen=True)
class GuestTrials:
    """What the trainings of the guest work with."""

    site: Site
    search: Search
    own: GuestRows
    parts: Judged
    columns: PartyColumns
    resources: Resources
    hints: KeptHints
    labels: LabelCount
    show: Show


class TrialWork:
    """The trainings of one trial."""

    def __init__(self, work: GuestTrials, asked: Asked) -> None:
        """Raises pydantic.ValidationError for settings that are not of the job."""
        self._work, self._asked = work, asked
        self._kind = kind_of_job(work.search.trial(asked.settings))
        self._fold, self._stopped = 0, False
        self._curves: list[list[float]] = []

    @property
    def best_trees(self) -> int | None:
        """How many trees were best, over folds on average."""
        each = [trees_of(self._work.search, curve) for curve in self._curves]
        known = [trees for trees in each if trees is not None]
        return round(float(np.mean(known))) if known else None

    async def run(self, hosts: Sequence[Peer]) -> tuple[Ended, list[Judgement]]:
        """Whether it came to its end, and loss and metric by fold."""
        work, asked, found = self._work, self._asked, list[Judgement]()
        await tell_trial(hosts, asked.number, asked.settings)
        # Hosts make a training for each fold: those after a poor first one end with their first tree.
        for self._fold, rows in enumerate(work.parts.rows):
            if not self._stopped:
                self._curves.append([])
            role = await asyncio.to_thread(self._kind.guest, work.columns, rows)
            run = GuestRun(
                work.resources.part("training", asked.number, self._fold),
                self._follow,
                hints=work.hints,
                hint_progress=lambda done, of: work.show.progress("receiving hints", done, of),
                labels=work.labels,
            )
            _, score = await role.train(hosts, run)
            if not self._fold or not self._stopped:
                found.append(work.parts.judge_of(self._fold, score))
        return "stopped" if self._stopped else "done", found

    def _follow(self, step: TrainingStep) -> None:
        """Show a step. Raises StopTraining for a trial of trees that is worse than others."""
        work, asked = self._work, self._asked
        what, done, of = self._kind.news(step)
        trials, judges = work.search.tune.trials, work.search.judges
        each = of or done
        before = (asked.number - 1) * judges + self._fold
        fold = f", fold {self._fold + 1} of {judges}" if judges > 1 else ""
        work.show.progress(
            f"searching, trial {asked.number:,} of {trials:,}{fold}, {what}",
            before * each + done,
            trials * judges * each,
        )
        if self._stopped and self._fold:
            raise StopTraining
        if not isinstance(step, TreeDone) or step.validation_loss is None:
            return
        self._curves[-1].append(step.validation_loss)
        if self._fold == 0 and asked.is_poor(step.validation_loss):
            self._stopped = True
            raise StopTraining
