"""A host's side of a training: rows, the protocol, what it keeps of it."""

import asyncio
import contextlib
import time
from collections import Counter
from dataclasses import dataclass, field, replace

from msgspec import UNSET

from vfl.arrays import Mask
from vfl.crypto.randomness import Randomness
from vfl.crypto.workers import Operations
from vfl.errors import PeerStopped, Refused
from vfl.jobs.account import Account
from vfl.jobs.admission import admit_job, check_project, check_request, count_job, fresh_name
from vfl.jobs.agreement import Agreement, accept_offer
from vfl.jobs.alignments import Alignment, count_known_rows, known_rows
from vfl.jobs.answers import AnsweredHostHints, AnsweredSums, answered_draw
from vfl.jobs.approval import approve
from vfl.jobs.audit_draw import Drawing, HostDraw
from vfl.jobs.audits import (
    begin_audit,
    check_audited,
    check_outstanding,
    new_draw,
    note_draw,
)
from vfl.jobs.commitments import TableDigests, digest_table
from vfl.jobs.connect import Site
from vfl.jobs.coordinator import coordinator_of
from vfl.jobs.drawn_rows import StoredDraws
from vfl.jobs.evidence import Answers, Keeping, keeping
from vfl.jobs.hints import StoredHostHints
from vfl.jobs.host_columns import HostColumns, read_host_columns
from vfl.jobs.memory import release_memory
from vfl.jobs.offer import Approved, Kept, Offer
from vfl.jobs.own_table import names_shown
from vfl.jobs.record import Record, now, save_record
from vfl.jobs.relativities import save_relativities
from vfl.jobs.resume import (
    Replaceable,
    RunSubject,
    Unfinished,
    limit_runs,
    open_run,
    remove_model,
)
from vfl.jobs.show import Show
from vfl.jobs.sums_given import SumsGiven, training_share
from vfl.jobs.warm_start import half_begun_with, host_kind
from vfl.learn.drift import Profile, profiles
from vfl.learn.levels import Levels, levels_of, tidy_levels
from vfl.models.findings import words_of
from vfl.models.halves import AnyHostHalf, HostHalf
from vfl.models.kind import (
    AnyHostModel,
    AnyKind,
    HostOutcome,
    HostRun,
    PartyColumns,
)
from vfl.models.kinds import kind_of_job, save_half
from vfl.net.peer import Peer
from vfl.party.config import Job
from vfl.party.kept_query import KeptQuery
from vfl.party.policy import check_auditable, check_coordinator, check_intersection
from vfl.party.table import Table
from vfl.protocols.common.checkpoints import to_the_end
from vfl.protocols.common.course import UNCOUNTED, SumsCount
from vfl.text import counted


def commits_to(own: HostColumns) -> TableDigests:
    """What a run has of a host's table, for its commitment."""
    return digest_table(own.columns.features, ids=own.alignment_ids)


@dataclass(frozen=True)
class HostWork:
    """What a host's part of a training is about."""

    site: Site
    job: Job
    kind: AnyKind
    offer: Offer
    table: Table
    rows: int  # aligned


def host_run(
    work: HostWork, randomness: Randomness, operations: Operations, show: Show
) -> HostRun[AnyHostModel]:
    """What a host's role works with, in a job and in its replay, but for what it keeps and counts."""
    site, offer = work.site, work.offer
    minimum = work.kind.least_rows(site.party.policy)
    return HostRun[AnyHostModel](
        site.participant(offer.hosts, offer.run, minimum, operations, randomness),
        work.rows,
        lambda half: None,
        job=work.job.name,
        progress=show.progress,
        hint_progress=lambda done, of: show.progress("making a hint", done, of),
        shown=names_shown(site, work.table),
    )


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
    draw: HostDraw | None = None  # of a policy that audits trainings

    async def train(self, kept: Keeping) -> HostOutcome:
        """Prepare the columns, accept the job, train; what this host has kept, in words."""
        site, kind, offer = self.site, self.kind, self.offer
        if kind.coordinator is not None:
            check_coordinator(site.party, kind.coordinator)
        role = await asyncio.to_thread(kind.host, self.columns)
        self.columns = replace(self.columns, features={})  # the role has what it needs of them
        release_memory(self.table.rows)
        checkpoints = self.unfinished.checkpoints(kind.host_state, offer.done)
        self.unfinished.before_state = kept.settle
        rows = len(self.alignment.rows)
        async with contextlib.AsyncExitStack() as sessions:
            sums = await self._reserve_sums(sessions)
            self.agreement = await self._accept(rows, kept.commitment)
            kept.agreed(self.agreement, offer.job, [self.peer])
            begin_audit(site.store, self.agreement, site.party.name, self.peer.name)
            coordinator = None
            if kind.coordinator is not None:
                coordinator = await sessions.enter_async_context(
                    self._coordinator(self.agreement, kind.coordinator)
                )
                self.others.append(coordinator)
                kept.joined(coordinator)
            hints = StoredHostHints(
                site.store,
                f"{self.alignment.name} {kind.name}",
                self.alignment.guest,
                offer.run.hex(),
            )
            run = host_run(
                HostWork(site, self.job, kind, offer, self.table, rows),
                kept.randomness_of(offer.run),
                self.operations,
                self.show,
            )
            run = replace(
                run,
                participant=run.participant.asking(kept.sign(site.identity.sign), kept.say),
                keep=self._keep,
                checkpoints=checkpoints,
                hints=AnsweredHostHints(hints, kept.answers),
                draws=StoredDraws(site.store, self.alignment.name),
                sums=AnsweredSums(sums, kept.answers),
                coordinator=coordinator,
                admit=self._admit,
            )
            outcome = await role.train(self.peer, run)
            await self._draw(kept.answers)
            return outcome

    async def _accept(self, rows: int, commitment: bytes) -> Agreement:
        """Count the job, sign, and hear what all have signed; whether it is audited is drawn later."""
        site, offer, audit = self.site, self.offer, None
        self.draw = new_draw(site.party)
        if self.draw is not None:
            audit = self.draw.demand(offer.terms(self.peer.name), site.identity)
        query = b"" if self.query is None else self.query.digest
        count_job(site, self.peer, rows)
        return await accept_offer(site, self.peer, offer, rows, query, self.approved, commitment, audit)

    async def _draw(self, answers: Answers) -> None:
        """Draw with the guest whether the run is audited, where this host's policy has that done."""
        if self.draw is None:
            return
        site, agreement = self.site, self.agreement
        if agreement is None:
            raise AssertionError("a draw of a job that was not agreed to")

        def keep(drawing: Drawing) -> None:
            many = len(note_draw(site.store, agreement, self.peer, drawing))
            which = f"{counted(many, 'tree')} of" if many else "no tree of"
            drawn = f"{'are' if many > 1 else 'is'} audited, as was drawn with {self.peer.name}"
            self.show.say(f"{which} {self.unfinished.name} {drawn}")

        await answered_draw(self.draw, answers).draw(self.peer, site.party.name, keep)

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
    check_auditable(party.policy, tape=offer.commitment is not UNSET)
    await asyncio.to_thread(check_outstanding, site, peer.name)
    kind, store = kind_of_job(job), site.store
    name = (offer.done and offer.model) or fresh_name(store, "model", offer.model)
    own = await read_host_columns(site, peer, offer, job)
    approved = await approve(site, peer, offer, show, own.brought(job))
    table, alignment, started = own.table, own.alignment, time.monotonic()
    if kind.init_model is not None:
        await asyncio.to_thread(check_audited, site, kind.init_model, show)
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
        commits: TableDigests = {}
        if party.party.tape != "none":
            commits = await asyncio.to_thread(commits_to, own)
            commits = {**commits, **half_begun_with(store, kind)}
        del own, known_features, of_host
        unfinished.measure = lambda: Account.of(started, [peer, *work.others], work.operations)
        with keeping(site, show, lambda: commits) as kept:
            outcome = await work.train(kept)
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
