"""A training, the guest and a host side by side: rows, the protocol, what each keeps of it."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from vfl.arrays import Mask
from vfl.crypto.workers import Operations
from vfl.errors import PeerLost, PeerStopped, Refused, VflError
from vfl.jobs.account import Account
from vfl.jobs.admission import accept, admit_job, check_project, check_request, fresh_name, matching_of
from vfl.jobs.agreement import Agreement, check_aligned, offer_to
from vfl.jobs.aligned_rows import GuestRows, read_guest_rows
from vfl.jobs.alignments import Alignment, count_known_rows, guest_alignment, known_rows
from vfl.jobs.approval import approve
from vfl.jobs.connect import Site, hosts_of
from vfl.jobs.coordinator import coordinator_of
from vfl.jobs.drawn_rows import StoredDraws
from vfl.jobs.evaluation import evaluate, held_out_rows, score_profile
from vfl.jobs.hints import StoredGuestHints, StoredHostHints, hold_hints
from vfl.jobs.host_columns import read_host_columns
from vfl.jobs.labels_given import LabelsGiven
from vfl.jobs.memory import release_memory
from vfl.jobs.names import JOB_LENGTH
from vfl.jobs.offer import Approved, Kept, Offer, new_run, stamp
from vfl.jobs.own_table import names_shown, say_uses
from vfl.jobs.project_rows import Outcome
from vfl.jobs.record import Evaluation, Record, now, save_record
from vfl.jobs.relativities import save_relativities
from vfl.jobs.resume import (
    Replaceable,
    RunSubject,
    Unfinished,
    begin_run,
    limit_runs,
    open_run,
    persevere,
    remove_model,
)
from vfl.jobs.show import Show
from vfl.jobs.storage import in_store
from vfl.jobs.sums_given import SumsGiven, training_share
from vfl.jobs.telling import tell_kept
from vfl.jobs.warm_start import guest_kind, host_kind
from vfl.learn.drift import Profile, profiles
from vfl.learn.levels import Levels, levels_of, tidy_levels
from vfl.models.findings import Finding, NothingTrained, check_held_out, judge_quality, words_of
from vfl.models.halves import AnyGuestHalf, AnyHostHalf, GuestHalf, HostHalf
from vfl.models.kind import (
    AnyGuestModel,
    AnyHostModel,
    AnyKind,
    GuestRole,
    GuestRun,
    HostOutcome,
    HostRun,
    PartyColumns,
    TrainingStep,
)
from vfl.models.kinds import kind_of_job, rules_of, save_half
from vfl.net.peer import Peer, together
from vfl.party.config import Job
from vfl.party.kept_query import KeptQuery
from vfl.party.policy import check_coordinator, check_intersection
from vfl.party.table import Table
from vfl.protocols.common.checkpoints import to_the_end
from vfl.protocols.common.course import UNCOUNTED, SumsCount
from vfl.protocols.common.lattice_hints import KeptHints, NoKeptHints
from vfl.protocols.common.participant import Resources


@dataclass(frozen=True)
class Trained:
    """What training came to."""

    half: AnyGuestHalf
    path: Path
    rows: dict[str, int]  # trained on, kept to decide when to stop, held out
    account: Account
    phases: list[dict[str, float]]  # seconds of each tree or iteration by phase
    relativities: Path | None  # of a linear model, as CSV
    warnings: list[str] = field(default_factory=list)  # where the model is weak, and what to try
    of_project: "ProjectPart | None" = None  # of a model of a project


@dataclass(frozen=True)
class ProjectPart:
    """What a project needs of one of its models: rows of the guest's table that are not held out, and
    what is said of all that are."""

    train: NDArray[np.int64]
    held_out: Evaluation | None


@in_store
async def train(
    site: Site,
    job: Job,
    *,
    alignment: str | None = None,
    fresh: bool = False,
    outcome: Outcome | None = None,
    wait: float,
    show: Show,
) -> Trained:
    """Train the job's model on aligned rows, evaluate it on held-out ones, keep the guest's half.

    A run of the same job, alignment and table that was interrupted goes on after the last tree or
    iteration that all parties have kept, unless `fresh`. Peers that are lost are waited for, as long as
    `[party] reconnect` says. Raises DataError, ConfigError (training that diverges, an exposure that has
    no meaning), ModelError (no alignment, or one of another table; a checkpoint that cannot be used) and
    what sessions raise.
    """
    party, started, store = site.party, time.monotonic(), site.store
    say_uses(show, party.data, job.uses(party.data))
    kind = kind_of_job(job)
    if kind.coordinator is not None:
        check_coordinator(party, kind.coordinator)
    own = read_guest_rows(site, job, guest_alignment(site, store, alignment), show, outcome)
    kind = guest_kind(site, job, own)
    role, subject = _prepare(site, job, own, kind)
    release_memory(own.table.rows)
    new = f"{job.name[:JOB_LENGTH]}-{stamp(new_run())}"
    with (
        begin_run(store, new, subject, fresh=fresh, show=show) as unfinished,
        hold_hints(store, subject.alignment) as keeps_hints,
    ):
        site.activity.tell(subject.hosts, [unfinished.name, subject.alignment])
        if unfinished.done:
            steps = kind.steps(unfinished.done)
            show.say(f"going on with {unfinished.name} after {steps}; --fresh starts anew")
        work = _GuestTraining(
            site=site,
            job=job,
            kind=kind,
            role=role,
            own=own,
            unfinished=unfinished,
            keeps_hints=keeps_hints,
            show=show,
            started=started,
            query=KeptQuery.of(party.data),
            of_project=outcome is not None,
        )
        return await persevere(
            work.attempt,
            wait=wait,
            reconnect=party.party.reconnect,
            show=show,
            done=lambda: unfinished.done,
        )


def _prepare(
    site: Site, job: Job, own: GuestRows, kind: AnyKind
) -> tuple[GuestRole[AnyGuestModel], RunSubject]:
    """The guest's role, and what its run is about."""
    party, aligned, rows, features = site.party, own.aligned, own.rows, own.features
    columns = PartyColumns(party.name, own.table.path.name, features, rules_of(party), own.scratch)
    role = kind.guest(columns, rows)
    # In the party file's order, which decides between equal gains.
    hosts = [name for name in party.partners if name in aligned.parties]
    brought = (rows.label, rows.weight, rows.offset, rows.train, rows.validation)
    by = own.held_out if job.splits(party.data) else None
    subject = RunSubject.of(party, job, aligned.name, aligned.guest, hosts, features, *brought, by)
    return role, subject


@dataclass
class _GuestTraining:
    """The part of a training that needs hosts."""

    site: Site
    job: Job
    kind: AnyKind
    role: GuestRole[AnyGuestModel]
    own: GuestRows
    unfinished: Unfinished
    keeps_hints: bool
    show: Show
    started: float  # of the present attempt
    others: list[Peer] = field(default_factory=list)  # its sessions beside those with hosts
    query: KeptQuery | None = None  # that made the table
    of_project: bool = False

    async def attempt(self, wait: float) -> Trained:
        """Connect to all parties, go on where they are, to the end."""
        trained = None
        try:
            async with (
                hosts_of(self.site, wait, self.show, self.unfinished.subject.hosts) as hosts,
                contextlib.AsyncExitStack() as sessions,
            ):
                operations: Operations = Counter()
                self.others = []

                def account() -> Account:
                    return Account.of(self.started, [*hosts, *self.others], operations)

                self.unfinished.measure = account
                try:
                    trained, found = await self._with(hosts, wait, sessions, operations)
                    parties = (*hosts, *self.others)
                    await together([tell_kept(party, found) for party in parties])
                except VflError:
                    self.unfinished.history.account += account()
                    self.started = time.monotonic()
                    raise
        except (PeerLost, PeerStopped):
            if trained is None:  # else it had ended
                raise
        if trained is None:
            raise AssertionError("a job without an outcome")
        return trained

    async def _with(
        self,
        hosts: Sequence[Peer],
        wait: float,
        sessions: contextlib.AsyncExitStack,
        operations: Operations,
    ) -> tuple[Trained, list[Finding]]:
        """What training came to, and what the job's settings did to it."""
        site, aligned, rows = self.site, self.own.aligned, self.own.rows
        offer = Offer(
            "train",
            new_run(),
            [host.name for host in hosts],
            list(aligned.normalise),
            alignment=aligned.name,
            model=self.unfinished.name,
            job=self.job.canonical,
            training=int(rows.train.sum()),
            done=self.unfinished.done,
            matching=matching_of(site.party.data, join=aligned.join, many=aligned.many),
            query=UNSET if self.query is None else self.query.digest,
        )
        answers, agreement = await offer_to(site, hosts, offer, self.show)
        check_aligned(hosts, answers, aligned.name, len(aligned.rows))
        alone = f"{site.party.name} alone"
        try:
            model, score = await self._train(hosts, offer, agreement, wait, sessions, operations)
            found = self.kind.check_learnt(model, score, rows)
        except NothingTrained:
            self.unfinished.finish()  # there is nothing to go on with
            raise
        found += check_held_out(self.job.job.holdout, self.own.held_out)
        metrics, evaluation, part = await self._evaluate(score)
        warnings = [one.text for one in found]
        warnings += judge_quality(metrics, rows, self.own.judged, alone, self.kind.advice)
        kept = self._keep_run(model, score, metrics, evaluation, agreement, warnings)
        return replace(kept, of_project=part), found

    async def _train(
        self,
        hosts: Sequence[Peer],
        offer: Offer,
        agreement: Agreement,
        wait: float,
        sessions: contextlib.AsyncExitStack,
        operations: Operations,
    ) -> tuple[AnyGuestModel, NDArray[np.float64]]:
        """The guest's half and every aligned row's score."""
        site, kind, role, show = self.site, self.kind, self.role, self.show
        role.check_rows()
        checkpoints = self.unfinished.checkpoints(kind.guest_state, offer.done)
        coordinator = None
        if kind.coordinator is not None:
            meeting = coordinator_of(site, agreement, offer.job, kind.coordinator, wait, show, hosts)
            coordinator = await sessions.enter_async_context(meeting)
            self.others.append(coordinator)
        hints: KeptHints = NoKeptHints()
        if self.keeps_hints:
            hints = StoredGuestHints(
                site.store, f"{self.own.aligned.name} {kind.name}", site.fingerprints
            )
            sessions.callback(hints.close)
        run = GuestRun(
            Resources(site.party.party.machine, operations),
            self._follow,
            checkpoints,
            hints,
            lambda done, of: show.progress("receiving hints", done, of),
            coordinator,
            lambda done, of: show.progress("choosing alpha, fits", done, of),
            lambda done, of: show.progress("standard errors, %", done, of),
            LabelsGiven.of(site.store, self.own.aligned.name, self.job),
        )
        model, score = await role.train(hosts, run)
        role.check_model(model)
        if (ending := role.ending(model)) is not None:
            show.say(ending)
        return model, score

    def _follow(self, step: TrainingStep) -> None:
        """Keep what the record says of a step, and show it. Raises NothingTrained."""
        self.role.check_step(step)
        history = self.unfinished.history
        report = self.role.report(step, history.curve)
        history.phases += [] if report.seconds is None else [report.seconds]
        history.curve.append(dict(report.losses))
        self.site.activity.tell(losses=report.losses)
        self.show.progress(report.what, report.step, report.of)

    async def _evaluate(
        self, score: NDArray[np.float64]
    ) -> tuple[dict[str, dict[str, float]], Evaluation | None, ProjectPart | None]:
        """Metrics by model on the rows held out, and what they were made of; none without such rows.
        For a project also what it needs of them."""
        own, name = self.own, self.site.party.name
        rows, held_out, of_table = own.rows, own.held_out, own.aligned.rows
        trained = of_table[rows.train | rows.validation] if self.of_project else None
        if not held_out.any():
            return {}, None, None if trained is None else ProjectPart(trained, None)
        scores = {f"{name} alone": await self.role.train_alone(), "federation": score}
        exposure = own.table.exposure
        exposure = None if exposure is None else exposure[of_table]
        metrics, found = evaluate(rows, own.judged, of_table, exposure, scores)
        if trained is None:
            return metrics, found, None
        every = found
        if own.judged is not held_out and not np.array_equal(own.judged, held_out):
            every = held_out_rows(rows, held_out, of_table, exposure, scores)
        return metrics, found, ProjectPart(trained, every)

    def _keep_run(
        self,
        model: AnyGuestModel,
        score: NDArray[np.float64],
        metrics: dict[str, dict[str, float]],
        evaluation: Evaluation | None,
        agreement: Agreement,
        warnings: list[str],
    ) -> Trained:
        """The guest's half and its record, stored; then no checkpoint is needed."""
        party, job, own = self.site.party, self.job, self.own
        aligned, rows, table, features = own.aligned, own.rows, own.table, own.features
        kind, store = self.kind, self.site.store
        half: AnyGuestHalf = GuestHalf(
            name=self.unfinished.name,
            job=job.settings,
            columns=tuple(table.features),
            normalise=aligned.normalise,
            fingerprints=self.site.fingerprints,
            model=model,
            metrics=metrics,
            objective=job.objective,
            tweedie_power=kind.tweedie_power,
            exposure=table.exposure is not None,
            offset="offset" in job.uses(party.data),
            profiles=profiles(features),
            score_profile=score_profile(score, rows, own.held_out),
            fallback=aligned.fallback,
            levels=levels_of(features),
            query=self.query,
            classes=table.classes,
        )
        save_half(store, half)
        relativities = save_relativities(store, half, party.glm.step) if kind.has_relativities else None
        history = self.unfinished.history
        account = history.account + self.unfinished.measure()
        record = Record(
            model=half.name,
            party=party.name,
            role=party.role,
            parties=[party.name, *self.unfinished.subject.hosts],
            job=job.settings,
            alignment=aligned.name,
            aligned_rows=len(aligned.rows),
            ended=now(),
            account=account,
            rows=own.parts.counts,
            metrics=metrics,
            measure=rows.loss.measure,
            curve=history.curve,
            phases=history.phases,
            ending=dict(kind.ending(model)),
            monotone=dict(kind.recorded_rules(rules_of(party))),
            agreement=agreement,
            ids=own.ids,
            warnings=warnings,
            split=own.parts.shares,
        )
        save_record(store, record, evaluation)
        self.unfinished.finish()
        path = store.path("model", half.name)
        return Trained(half, path, own.parts.counts, account, history.phases, relativities, warnings)


_REACH = 60.0  # seconds to reach a coordinator
_TRAINING = Replaceable()


@dataclass
class _HostTraining:
    """A training that this host has agreed to, whatever the kind of model."""

    site: Site
    peer: Peer
    offer: Offer
    job: Job
    kind: AnyKind
    unfinished: Unfinished
    alignment: Alignment
    table: Table
    columns: PartyColumns  # of the aligned rows
    show: Show
    given: SumsGiven | None = None  # of a kind that tells sums
    operations: Operations = field(default_factory=Counter)
    others: list[Peer] = field(default_factory=list)  # sessions beside that with the guest
    agreement: Agreement | None = None  # once the job is accepted
    profiles: dict[str, Profile] = field(default_factory=dict)  # of the aligned rows that it knows
    levels: dict[str, Levels] = field(default_factory=dict)  # of these rows
    query: KeptQuery | None = None  # that made the table
    approved: Approved | None = None

    async def train(self) -> HostOutcome:
        """Prepare the columns, accept the job, train; what this host has kept, in words."""
        site, kind, policy, show = self.site, self.kind, self.site.party.policy, self.show
        if kind.coordinator is not None:
            check_coordinator(site.party, kind.coordinator)
        role = await asyncio.to_thread(kind.host, self.columns)
        self.columns = replace(self.columns, features={})  # the role has what it needs of them
        release_memory(self.table.rows)
        checkpoints = self.unfinished.checkpoints(kind.host_state, self.offer.done)
        rows, minimum = len(self.alignment.rows), kind.least_rows(policy)
        async with contextlib.AsyncExitStack() as sessions:
            sums = await self._reserve_sums(sessions)
            self.agreement = await accept(
                site, self.peer, self.offer, rows, self.query, 1, self.approved
            )
            coordinator = None
            if kind.coordinator is not None:
                coordinator = await sessions.enter_async_context(
                    self._coordinator(self.agreement, kind.coordinator)
                )
                self.others.append(coordinator)
            run = HostRun[AnyHostModel](
                site.participant(self.offer.hosts, self.offer.run, minimum, self.operations),
                rows,
                self._keep,
                job=self.job.name,
                progress=show.progress,
                checkpoints=checkpoints,
                hints=StoredHostHints(
                    self.site.store, f"{self.alignment.name} {kind.name}", self.alignment.guest
                ),
                draws=StoredDraws(self.site.store, self.alignment.name),
                sums=sums,
                hint_progress=lambda done, of: show.progress("making a hint", done, of),
                coordinator=coordinator,
                shown=names_shown(site, self.table),
                admit=self._admit,
            )
            return await role.train(self.peer, run)

    async def _reserve_sums(self, ends: contextlib.AsyncExitStack) -> SumsCount:
        """Reserve what the job may tell until `ends`; returns what counts a tree. Raises Refused."""
        told, given = self.kind.tells_sums, self.given
        if told is None or given is None:
            return UNCOUNTED
        policy, name = self.site.party.policy, self.unfinished.name
        share = training_share(self.peer, self.offer, self.alignment, self.job)
        budgets = []

        def reserve() -> None:
            budget = given.reserve(policy, name, told, share, self.offer.done)
            ends.callback(budget.close)
            budgets.append(budget)

        await to_the_end(reserve)
        return budgets[0]

    def _coordinator(
        self, agreement: Agreement, name: str
    ) -> contextlib.AbstractAsyncContextManager[Peer]:
        """The session with the coordinator; one of a job that goes on may be about to come back."""
        again = self.site.party.party.reconnect if self.offer.done else 0.0
        reach = max(_REACH, again)
        return coordinator_of(self.site, agreement, self.offer.job, name, reach, self.show)

    def record(self) -> Record:
        """What is kept of the run, which has ended."""
        offer, alignment, unfinished = self.offer, self.alignment, self.unfinished
        rows = {"known": count_known_rows(alignment.rows)}
        if offer.training is not None:
            rows["train"] = offer.training
        return Record(
            model=unfinished.name,
            party=self.site.party.name,
            role=self.site.party.role,
            parties=[self.peer.name, *offer.hosts],
            job=self.job.settings,
            alignment=alignment.name,
            aligned_rows=len(alignment.rows),
            ended=now(),
            rows=rows,
            account=unfinished.history.account + unfinished.measure(),
            monotone=dict(self.kind.recorded_rules(self.columns.rules)),
            agreement=self.agreement,
        )

    def _admit(self, training: Mask) -> None:
        known = count_known_rows(self.alignment.rows, training)
        check_intersection(self.site.party.policy, known, most=False)

    def _keep(self, model: AnyHostModel) -> None:
        """Store this host's half."""
        half: AnyHostHalf = HostHalf(
            name=self.unfinished.name,
            job=self.job.settings,
            columns=tuple(self.table.features),
            normalise=self.alignment.normalise,
            guest=self.alignment.guest,
            host=self.site.identity.certificate.fingerprint,
            model=model,
            profiles=self.profiles,
            levels=self.levels,
            query=self.query,
        )
        save_half(self.site.store, half)
        if self.kind.has_relativities:
            path = save_relativities(self.site.store, half, self.site.party.glm.step)
            self.show.say(f"relativities are in {path}")
        if (remark := self.kind.remark(model, self.peer.name)) is not None:
            self.show.say(remark)


async def serve_train(site: Site, peer: Peer, offer: Offer, show: Show) -> str:
    """Train; in place of an attempt at the same model that waits for its guest to come back."""
    which = f"{site.party.name} {peer.name} {offer.model}"
    return await _TRAINING.run(which, lambda: _train_on(site, peer, offer, show))


async def _train_on(site: Site, peer: Peer, offer: Offer, show: Show) -> str:
    party = site.party
    job = await asyncio.to_thread(Job.from_canonical, offer.job)
    if job.over_rows:
        raise Refused("it has columns of its own: no job over rows")
    check_request(site, peer, offer, show, f"train {job.name} ({job.job.purpose})")
    check_project(site, peer.name, job, show)
    admit_job(site, peer.name, job)
    kind, store = kind_of_job(job), site.store
    name = (offer.done and offer.model) or fresh_name(store, "model", offer.model)
    own = await read_host_columns(site, peer, offer, job)
    approved = await approve(site, peer, offer, show, own.brought(job))
    table, alignment, started = own.table, own.alignment, time.monotonic()
    kind = host_kind(site, peer, job, table, None if offer.done else count_known_rows(alignment.rows))
    subject = await asyncio.to_thread(
        RunSubject.of, party, job, alignment.name, alignment.guest, offer.hosts, own.columns.features
    )
    limit_runs(store, alignment.guest)
    with open_run(store, name, subject, new=not offer.done) as unfinished:
        if not offer.done:  # another run of the name may have ended meanwhile
            fresh_name(store, "model", name)
        work = _HostTraining(
            site=site,
            peer=peer,
            offer=offer,
            job=job,
            kind=kind,
            unfinished=unfinished,
            alignment=alignment,
            table=table,
            columns=own.columns,
            show=show,
            given=own.given,
            query=KeptQuery.of(party.data),
            approved=approved,
        )
        # Of the rows it knows: in a batch there are no others.
        of_host = known_rows(alignment.rows, own.columns.scratch)
        known_features = tidy_levels(table.take(of_host))
        work.profiles = await asyncio.to_thread(profiles, known_features)
        work.levels = await asyncio.to_thread(levels_of, known_features)
        del own, known_features, of_host
        unfinished.measure = lambda: Account.of(started, [peer, *work.others], work.operations)
        outcome = await work.train()
        record = await asyncio.to_thread(work.record)
        save_record(store, record)
        try:
            found = words_of((await peer.recv(Kept)).found)
        except PeerStopped as error:
            if not error.passing:  # the guest keeps no half either: this one would be of no use
                remove_model(store, name)
            raise
        for text in (warnings := [*found, *([] if outcome.remark is None else [outcome.remark])]):
            show.say(f"note: {text}")
        if warnings:
            save_record(store, replace(record, warnings=warnings))
        unfinished.finish()
    return f"trained {name} with {peer.name}: {outcome.kept} are of this party's columns"
