"""A training at the guest: rows, the protocol, what it keeps of it. A host's is in training_host.py."""

import contextlib
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from vfl.crypto.workers import Operations
from vfl.errors import PeerLost, PeerStopped, VflError
from vfl.jobs.account import Account
from vfl.jobs.admission import matching_of
from vfl.jobs.agreement import Agreement, check_aligned, offer_to
from vfl.jobs.aligned_rows import GuestRows, read_guest_rows
from vfl.jobs.alignments import guest_alignment
from vfl.jobs.answers import AnsweredGuestHints, AnsweredLabels
from vfl.jobs.audits import begin_audits, draw_all, note_draws
from vfl.jobs.commitments import TableDigests, digest_table
from vfl.jobs.connect import Site, hosts_of
from vfl.jobs.coordinator import coordinator_of
from vfl.jobs.evaluation import evaluate, held_out_rows, score_profile
from vfl.jobs.evidence import Keeping, keeping
from vfl.jobs.hints import StoredGuestHints, hold_hints
from vfl.jobs.labels_given import LabelsGiven
from vfl.jobs.memory import release_memory
from vfl.jobs.names import JOB_LENGTH
from vfl.jobs.offer import Offer, new_run, stamp
from vfl.jobs.own_table import say_uses
from vfl.jobs.project_rows import Outcome
from vfl.jobs.record import Evaluation, Record, now, save_record
from vfl.jobs.relativities import save_relativities
from vfl.jobs.resume import (
    RunSubject,
    Unfinished,
    begin_run,
    persevere,
)
from vfl.jobs.show import Show
from vfl.jobs.storage import in_store
from vfl.jobs.telling import tell_kept
from vfl.jobs.warm_start import guest_kind, half_begun_with
from vfl.learn.drift import profiles
from vfl.learn.levels import levels_of
from vfl.models.findings import Finding, NothingTrained, check_held_out, judge_quality
from vfl.models.halves import AnyGuestHalf, GuestHalf
from vfl.models.kind import (
    AnyGuestModel,
    AnyKind,
    GuestRole,
    GuestRun,
    PartyColumns,
    TrainingStep,
)
from vfl.models.kinds import kind_of_job, rules_of, save_half
from vfl.net.peer import Peer, together
from vfl.party.config import Job
from vfl.party.kept_query import KeptQuery
from vfl.party.policy import check_coordinator
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
            outcome=outcome,
        )
        return await persevere(
            work.attempt,
            wait=wait,
            reconnect=party.party.reconnect,
            show=show,
            done=lambda: unfinished.done,
        )


def commits_to(own: GuestRows) -> TableDigests:
    """What a run has of the guest's table, for its commitment."""
    rows = own.rows
    return digest_table(
        own.features,
        ids=own.aligned_ids,
        label=rows.label,
        weight=rows.weight,
        offset=rows.offset,
        training=rows.train,
        validation=rows.validation,
        **{"rows held out": own.held_out},
    )


def guest_columns(site: Site, own: GuestRows) -> PartyColumns:
    """The guest's columns of the aligned rows."""
    party = site.party
    return PartyColumns(party.name, own.table.path.name, own.features, rules_of(party), own.scratch)


def _prepare(
    site: Site, job: Job, own: GuestRows, kind: AnyKind
) -> tuple[GuestRole[AnyGuestModel], RunSubject]:
    """The guest's role, and what its run is about."""
    party, aligned, rows = site.party, own.aligned, own.rows
    columns = guest_columns(site, own)
    features = columns.features
    role = kind.guest(columns, rows)
    # In the party file's order, which decides between equal gains.
    hosts = [name for name in party.partners if name in aligned.parties]
    brought = (rows.label, rows.weight, rows.offset, rows.train, rows.validation)
    by = own.held_out if job.splits(party.data) else None
    subject = RunSubject.of(party, job, aligned.name, aligned.guest, hosts, features, *brought, by)
    return role, subject


async def lead(
    role: GuestRole[AnyGuestModel],
    kind: AnyKind,
    job: Job,
    own: GuestRows,
    hosts: Sequence[Peer],
    run: GuestRun,
) -> tuple[AnyGuestModel, NDArray[np.float64], list[Finding]]:
    """The guest's part after the agreement, in a job and in its replay: its half, every aligned row's
    score, and what the settings did to the model, of which all hear. Raises NothingTrained."""
    role.check_rows()
    model, score = await role.train(hosts, run)
    role.check_model(model)
    found = kind.check_learnt(model, score, own.rows)
    return model, score, found + check_held_out(job.job.holdout, own.held_out)


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
    outcome: Outcome | None = None  # of a project's model

    def commits_to(self) -> TableDigests:
        """What the run has of the guest's table."""
        return {**commits_to(self.own), **half_begun_with(self.site.store, self.kind)}

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
                    asked = None if self.outcome is None else self.outcome.asked
                    with keeping(self.site, self.show, self.commits_to, asked) as kept:
                        trained, found = await self._with(hosts, wait, sessions, operations, kept)
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
        kept: Keeping,
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
            commitment=kept.commitment or UNSET,
        )
        answers, agreement = await offer_to(site, hosts, offer, self.show)
        kept.agreed(agreement, offer.job, hosts)
        begin_audits(site.store, agreement, self.show)
        check_aligned(hosts, answers, aligned.name, len(aligned.rows))
        alone = f"{site.party.name} alone"
        try:
            self.role.check_rows()
            run = await self._run(offer, agreement, wait, sessions, operations, kept, hosts)
            model, score, found = await lead(self.role, self.kind, self.job, self.own, hosts, run)
            draws = await draw_all(hosts, agreement, run.resources.randomness)
        except NothingTrained:
            self.unfinished.finish()  # there is nothing to go on with
            raise
        if (ending := self.role.ending(model)) is not None:
            self.show.say(ending)
        metrics, evaluation, part = await self._evaluate(score)
        warnings = [one.text for one in found]
        warnings += judge_quality(metrics, rows, self.own.judged, alone, self.kind.advice)
        trained = self._keep_run(model, score, metrics, evaluation, agreement, warnings)
        note_draws(site.store, agreement, hosts, draws, self.show)
        return replace(trained, of_project=part), found

    async def _run(
        self,
        offer: Offer,
        agreement: Agreement,
        wait: float,
        sessions: contextlib.AsyncExitStack,
        operations: Operations,
        kept: Keeping,
        hosts: Sequence[Peer],
    ) -> GuestRun:
        """What the guest's role works with; the coordinator has come, if there is one."""
        site, kind, show = self.site, self.kind, self.show
        checkpoints = self.unfinished.checkpoints(kind.guest_state, offer.done)
        self.unfinished.before_state = kept.settle
        coordinator = None
        if kind.coordinator is not None:
            meeting = coordinator_of(site, agreement, offer.job, kind.coordinator, wait, show, hosts)
            coordinator = await sessions.enter_async_context(meeting)
            self.others.append(coordinator)
            kept.joined(coordinator)
        hints: KeptHints = NoKeptHints()
        if self.keeps_hints:
            stored = StoredGuestHints(
                site.store, f"{self.own.aligned.name} {kind.name}", site.fingerprints
            )
            sessions.callback(stored.close)
            hints = stored
        given = LabelsGiven.of(site.store, self.own.aligned.name, self.job)
        return GuestRun(
            Resources(site.party.party.machine, operations, kept.randomness_of(offer.run), kept.say),
            self._follow,
            checkpoints,
            AnsweredGuestHints(hints, kept.answers),
            lambda done, of: show.progress("receiving hints", done, of),
            coordinator,
            lambda done, of: show.progress("choosing alpha, fits", done, of),
            lambda done, of: show.progress("standard errors, %", done, of),
            AnsweredLabels(given, kept.answers),
        )

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
        trained = of_table[rows.train | rows.validation] if self.outcome is not None else None
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
