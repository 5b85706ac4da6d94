"""A search for settings, the guest and a host side by side: trials on one alignment, none kept.

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
from functools import partial

import msgspec
import numpy as np
from msgspec import UNSET

from vfl.arrays import Mask
from vfl.crypto.workers import Operations
from vfl.errors import ConfigError, ModelError, PeerLost, PeerStopped, Refused, VflError
from vfl.jobs.account import Account
from vfl.jobs.admission import accept, check_request, matching_of
from vfl.jobs.agreement import check_aligned, offer_to
from vfl.jobs.aligned_rows import GuestRows, read_guest_rows
from vfl.jobs.alignments import Alignment, count_known_rows, guest_alignment
from vfl.jobs.approval import approve
from vfl.jobs.connect import Site, hosts_of
from vfl.jobs.drawn_rows import StoredDraws
from vfl.jobs.hints import StoredGuestHints, StoredHostHints, hold_hints
from vfl.jobs.host_columns import HostColumns, read_host_columns
from vfl.jobs.judging import Judged, Judgement, judged_parts
from vfl.jobs.labels_given import LabelsGiven
from vfl.jobs.memory import release_memory
from vfl.jobs.names import JOB_LENGTH
from vfl.jobs.offer import Offer, new_run, stamp
from vfl.jobs.own_table import say_uses
from vfl.jobs.resume import RunSubject, persevere
from vfl.jobs.show import Show
from vfl.jobs.storage import in_store
from vfl.jobs.study import AskedTrial, Ended, Study, TrialDone, check_optuna, trees_of
from vfl.jobs.sums_given import SumsBudget, SumsGiven, training_share
from vfl.jobs.tuned_folder import TunedFolder, trial_words
from vfl.learn.params import BoostParams
from vfl.models.kind import AnyHostModel, AnyKind, GuestRun, HostRun, PartyColumns, TrainingStep
from vfl.models.kinds import kind_of_job, rules_of
from vfl.net.peer import Peer
from vfl.party.config import Job
from vfl.party.documents import canonical_json, convert_document
from vfl.party.kept_query import KeptQuery
from vfl.party.policy import check_intersection, check_tune, today
from vfl.party.policy_section import PolicySection
from vfl.party.search import Search
from vfl.protocols.common.checkpoints import to_the_end
from vfl.protocols.common.course import UNCOUNTED, StopTraining, SumsCount
from vfl.protocols.common.lattice_hints import KeptHints, NoKeptHints
from vfl.protocols.common.participant import Resources
from vfl.protocols.trees.grower import TreeDone
from vfl.protocols.tuning import hear_trial, tell_end, tell_trial
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
        self.features = self.own.features
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
            self.features,
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
                randomness = self.site.randomness_of(await self._offer(hosts))
                resources = Resources(self.site.party.party.machine, operations, randomness)
                with contextlib.ExitStack() as ends:
                    hints = self._hints(ends)
                    while self.study.left and not self._is_late():
                        await self._trial(hosts, hints, resources)
                await tell_end(hosts)
        finally:
            self.account += Account.of(started, hosts, operations)

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

    async def _offer(self, hosts: Sequence[Peer]) -> bytes:
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
        )
        answers, _ = await offer_to(site, hosts, offer, self.show)
        check_aligned(hosts, answers, aligned.name, len(aligned.rows))
        return offer.run

    async def _trial(self, hosts: Sequence[Peer], hints: KeptHints, resources: Resources) -> None:
        """Make the next trial, and keep what came of it. Raises ConfigError for one that cannot be."""
        started = time.monotonic()
        asked = await asyncio.to_thread(self.study.ask)
        made = _TrialWork(self, asked, self.search.trial(asked.settings))
        await tell_trial(hosts, asked.number, asked.settings)
        try:
            ended, values = await made.run(hosts, hints, resources)
        except (PeerLost, PeerStopped):
            raise
        except VflError as error:
            if error.exit_code == ConfigError.exit_code:  # its settings: another trial may do better
                self._keep(TrialDone(asked.number, asked.settings, "failed"))
                text = f"trial {asked.number:,} ended: {error}; the same command goes on with the next"
                raise ConfigError(text, for_peer=error.for_peer) from None
            raise
        found = self.parts.together(values)
        known = found.value is not None and found.loss is not None
        self._keep(
            TrialDone(
                asked.number,
                asked.settings,
                ended if known else "failed",
                found.value,
                found.loss,
                made.best_trees,
                asked.curve,
                time.monotonic() - started,
                [one.value for one in values if one.value is not None] if len(values) > 1 else [],
            )
        )


class _TrialWork:
    """The trainings of one trial."""

    def __init__(self, work: _GuestWork, asked: AskedTrial, job: Job) -> None:
        self._work, self._asked, self._job = work, asked, job
        self._kind = kind_of_job(job)
        self._fold, self._stopped = 0, False
        self._curves: list[list[float]] = []

    @property
    def best_trees(self) -> int | None:
        """How many trees were best, over folds on average."""
        each = [trees_of(self._work.search, curve) for curve in self._curves]
        known = [trees for trees in each if trees is not None]
        return round(float(np.mean(known))) if known else None

    async def run(
        self, hosts: Sequence[Peer], hints: KeptHints, resources: Resources
    ) -> tuple[Ended, list[Judgement]]:
        """Whether it came to its end, and loss and metric by fold."""
        work, found = self._work, list[Judgement]()
        site, own = work.site, work.own
        columns = PartyColumns(
            site.party.name, own.table.path.name, work.features, rules_of(site.party), own.scratch
        )
        # Hosts make a training for each fold: those after a poor first one end with their first tree.
        for self._fold, rows in enumerate(work.parts.rows):
            if not self._stopped:
                self._curves.append([])
            role = await asyncio.to_thread(self._kind.guest, columns, rows)
            run = GuestRun(
                resources.part("training", self._asked.number, self._fold),
                self._follow,
                hints=hints,
                hint_progress=lambda done, of: work.show.progress("receiving hints", done, of),
                labels=LabelsGiven.of(site.store, own.aligned.name, work.search.job),
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


# ---------------------------------------------------------------------------------------- host


async def serve_tune(site: Site, peer: Peer, offer: Offer, show: Show) -> str:
    """Train as often as the guest has trials, at most as many as agreed; drop every half."""
    party = site.party
    search = _agreed_search(await asyncio.to_thread(Job.from_canonical, offer.job), offer)
    job, trials = search.job, search.tune.trials
    left = trials - offer.done
    what = f"search for settings of {job.name} ({job.job.purpose}): {counted(trials, 'trial')}"
    check_request(site, peer, offer, show, f"{what}, {left:,} to come" if offer.done else what)
    check_tune(party.policy, search.extremes, trials, peer.name, today())
    if left < 1:
        raise Refused("no trial of the search is left")
    # Of the trials so far nothing is known here: what is left is held against the rules.
    asked = msgspec.structs.replace(offer, done=0)
    own = await read_host_columns(site, peer, asked, search.tells_most)
    release_memory(own.table.rows)
    trainings = left * search.judges
    approved = await approve(site, peer, offer, show, own.brought(search.tells_most, trainings))
    async with contextlib.AsyncExitStack() as ends:
        work = _HostWork(site, peer, offer, search, own, show)
        await work.reserve(trainings, ends)
        rows, query = len(own.alignment.rows), KeptQuery.of(party.data)
        await accept(site, peer, offer, rows, query, jobs=trainings, approved=approved)
        done = 0
        while True:
            settings = await hear_trial(peer, offer.done + done + 1, search.has)
            if settings is None:
                break
            done += 1
            if done > left:
                raise peer.breach("a NextTrial beyond those that were agreed on")
            await work.trial(done, search.trial(settings))
    return f"made {counted(done, 'trial')} of {job.name} with {peer.name}, none of which is kept"


def _agreed_search(job: Job, offer: Offer) -> Search:
    """The search that the guest offers. Raises Refused for one that it has not written out, or that
    there is not."""
    try:
        search = Search.of(job)
    except ConfigError as error:
        raise Refused(str(error)) from None
    if search.job.searched != offer.job:
        raise Refused("the search offered has no space written out")
    return search


@dataclass
class _HostWork:
    """The trainings of a host."""

    site: Site
    peer: Peer
    offer: Offer
    search: Search
    own: HostColumns
    show: Show

    def __post_init__(self) -> None:
        self._budgets: list[_Reserved] = []
        self._operations: Operations = Counter()
        self._randomness = self.site.randomness_of(self.offer.run)

    async def reserve(self, trainings: int, ends: contextlib.AsyncExitStack) -> None:
        """Reserve what all trainings may tell, as if each told the most of any of the space, before the
        first, until `ends`. Raises Refused."""
        told, given = kind_of_job(self.search.tells_most).tells_sums, self.own.given
        if told is None or given is None:
            return
        share = training_share(self.peer, self.offer, self.own.alignment, self.search.job)
        job, policy = self.search.job.name[:JOB_LENGTH], self.site.party.policy
        names = [f"{job}-{stamp(self.offer.run)}-{n}" for n in range(1, trainings + 1)]

        def reserve() -> None:
            for number, name in enumerate(names):
                try:
                    budget = _Reserved(given, name, share, given.reserve(policy, name, told, share))
                except Refused as error:
                    trials = counted(trainings // self.search.judges, "trial")
                    fit = counted(number // self.search.judges, "trial")
                    raise Refused(
                        f"{trials} may tell too much, if each tells the most of its space ({fit} would "
                        f"not): {error}"
                    ) from None
                ends.callback(budget.close)
                self._budgets.append(budget)

        await to_the_end(reserve)

    async def trial(self, number: int, job: Job) -> None:
        """The trainings of one trial, the `number`-th of this session."""
        site, own, kind = self.site, self.own, kind_of_job(job)
        role = await asyncio.to_thread(kind.host, own.columns)
        judges, trials = self.search.judges, self.search.tune.trials
        name = f"{own.alignment.name} {kind.name}"
        numbers = {c: f"{site.party.name}:{place}" for place, c in enumerate(own.table.features, 1)}
        for judge in range(judges):
            sums = await self._budget((number - 1) * judges + judge, kind)
            # Secrets among hosts are of one training.
            which = f"tune {self.offer.done + number} {judge}".encode()
            run = HostRun[AnyHostModel](
                site.participant(
                    self.offer.hosts,
                    hashlib.sha256(which + self.offer.run).digest(),
                    kind.least_rows(site.party.policy),
                    self._operations,
                    self._randomness,
                ).part("training", self.offer.done + number, judge),
                len(own.alignment.rows),
                _drop,
                job=f"trial {self.offer.done + number} of {trials} of {job.name}",
                progress=self.show.progress,
                hints=StoredHostHints(site.store, name, own.alignment.guest),
                draws=StoredDraws(site.store, own.alignment.name),
                sums=sums,
                hint_progress=lambda done, of: self.show.progress("making a hint", done, of),
                shown=numbers.__getitem__,
                admit=partial(_admit, site, own.alignment),
            )
            await role.train(self.peer, run)

    async def _budget(self, training: int, kind: AnyKind) -> SumsCount:
        """What counts the sums of a training: by its own settings, in place of the most of any."""
        told = kind.tells_sums
        if told is None or not self._budgets:
            return UNCOUNTED
        reserved = self._budgets[training]
        await to_the_end(reserved.renew, self.site.party.policy, told)
        return reserved.budget


@dataclass
class _Reserved:
    """What a training may tell."""

    given: SumsGiven
    name: str
    share: float  # of the aligned rows that train
    budget: SumsBudget

    def renew(self, policy: PolicySection, told: BoostParams) -> None:
        """Reserve for other settings in its place. Raises Refused."""
        self.close()
        self.budget = self.given.reserve(policy, self.name, told, self.share)

    def close(self) -> None:
        self.budget.close()


def _drop(half: AnyHostModel) -> None:
    """Nothing is kept of a trial."""


def _admit(site: Site, alignment: Alignment, training: Mask) -> None:
    known = count_known_rows(alignment.rows, training)
    check_intersection(site.party.policy, known, most=False)
