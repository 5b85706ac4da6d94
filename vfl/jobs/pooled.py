"""A training over rows, the server and a client side by side.

Each client has the label and all columns for rows of its own; the server, a coordinator, has no data. It
leads: it offers the job to all clients, adds up what it cannot read (protocols/pooled/adding.py), and
keeps a record. Each client keeps the whole model, and what it is worth on rows that it held out itself,
beside a model of its own rows alone.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
from msgspec import UNSET

from vfl.arrays import Floats
from vfl.errors import ConfigError, PeerLost, PeerStopped, Refused, VflError
from vfl.jobs.account import Account
from vfl.jobs.admission import accept, check_request, fresh_name
from vfl.jobs.agreement import Agreement, offer_to
from vfl.jobs.approval import approve
from vfl.jobs.approval_view import Brought
from vfl.jobs.commitments import TableDigests, digest_table
from vfl.jobs.connect import Site, hosts_of
from vfl.jobs.evaluation import evaluate, score_profile
from vfl.jobs.evidence import Answers, Keeping, keeping
from vfl.jobs.names import JOB_LENGTH
from vfl.jobs.offer import Kept, Offer, new_run, stamp
from vfl.jobs.record import Evaluation, Record, now, save_record
from vfl.jobs.resume import (
    Replaceable,
    RunSubject,
    Unfinished,
    begin_run,
    limit_runs,
    open_run,
    persevere,
)
from vfl.jobs.shared_table import OwnRows, TakenRows, read_own_rows, schema_of
from vfl.jobs.show import Show
from vfl.jobs.storage import in_store
from vfl.learn.drift import profiles
from vfl.learn.holdout import Cuts
from vfl.learn.levels import Levels
from vfl.learn.losses import BadLabel
from vfl.models.findings import NothingTrained, judge_quality
from vfl.models.halves import AnyGuestHalf, GuestHalf
from vfl.models.kind import AnyGuestModel, AnyKind, ClientRole, ClientRun, PartyColumns, TrainingStep
from vfl.models.kinds import kind_of_job, rules_of_job, save_half
from vfl.net.peer import Peer, together
from vfl.party.config import Job, Party
from vfl.party.kept_query import KeptQuery
from vfl.party.policy import OVER_ROWS, broken_by_pool, check_job, today
from vfl.protocols.common.checkpoints import Checkpoints
from vfl.protocols.pooled.adding import Absences, Adder, MaskingAdder, common_step
from vfl.protocols.pooled.adding_server import ServerCourse, serve_totals
from vfl.protocols.pooled.times import common_cuts
from vfl.protocols.pooled.totals import Totals
from vfl.text import counted

T = TypeVar("T")
_TRAINING = Replaceable()


# --- The server ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Led:
    """What a job over rows came to, as its server knows it."""

    model: str
    clients: list[str]  # those that stayed to the end
    totals: int
    account: Account


@dataclass(frozen=True)
class ServerState:
    """That a job has begun: all that the server keeps of it."""

    done: int


@in_store
async def lead(site: Site, job: Job, *, fresh: bool = False, wait: float, show: Show) -> Led:
    """Have the clients of the party file train the job's model; the server reads nothing of it.

    A run of the same job that was interrupted goes on after the last step that all clients have kept,
    unless `fresh`. Clients that are lost are waited for, as long as `[party] reconnect` says. Raises
    ConfigError for a job that has no such clients, and what sessions raise.
    """
    party, names = site.party, site.party.partners
    check_pool(party, job)
    subject = RunSubject(job.digest, job.name, "", site.identity.certificate.fingerprint, names, "")
    new = f"{job.name[:JOB_LENGTH]}-{stamp(new_run())}"
    with begin_run(site.store, new, subject, fresh=fresh, show=show) as unfinished:
        site.activity.tell(names, [unfinished.name])
        if unfinished.done:
            show.say(f"going on with {unfinished.name}; --fresh starts anew")
        leading = _Leading(site, job, names, unfinished, show)
        return await persevere(
            leading.attempt,
            wait=wait,
            reconnect=party.party.reconnect,
            show=show,
            done=lambda: leading.totals,
        )


def check_pool(party: Party, job: Job) -> None:
    """Raises ConfigError for a job that a coordinator cannot start with the peers of its party file."""
    if not job.over_rows:
        raise ConfigError(
            'a coordinator starts jobs over rows alone: add partition = "rows" to [job], or start the '
            "job at the guest"
        )
    if len(party.partners) < job.rows.min_parties:
        raise ConfigError(
            f"min_parties = {job.rows.min_parties} in [rows] of the job, and [peers] has "
            f"{counted(len(party.partners), 'party', 'parties')}: lower it, or add parties"
        )


@dataclass
class _Leading:
    """The server's part of a job."""

    site: Site
    job: Job
    names: list[str]
    unfinished: Unfinished
    show: Show
    totals: int = 0  # of all attempts

    async def attempt(self, wait: float) -> Led:
        """Connect to all clients, have them go on where they are, to the end."""
        started = time.monotonic()
        async with hosts_of(self.site, wait, self.show, self.names, role="guest") as clients:
            with keeping(self.site, self.show, dict) as kept:
                return await self._with(clients, started, kept)

    async def _with(self, clients: Sequence[Peer], started: float, kept: Keeping) -> Led:
        job = self.job
        checkpoints = self.unfinished.checkpoints(ServerState, self.unfinished.done)
        self.unfinished.before_state = kept.settle
        offer = Offer(
            "train",
            new_run(),
            self.names,
            [],
            model=self.unfinished.name,
            job=job.canonical,
            done=self.unfinished.done,
            commitment=kept.commitment or UNSET,
        )
        _, agreement = await offer_to(self.site, clients, offer, self.show)
        kept.agreed(agreement, offer.job, clients)
        before = self.totals

        def follow(totals: int) -> None:
            self.totals = before + totals
            self.show.progress(f"{job.name}: adding up totals", self.totals, None)

        def left(name: str) -> None:
            (gone,) = (client for client in clients if client.name == name)
            kept.answers.ask(lost_by(name), bool, lambda: gone.unsent)
            self.show.say(f"{name} is gone: the others go on without it")

        if not self.unfinished.done:
            await checkpoints.keep(ServerState(1))

        def keep(stayed: list[str]) -> Led:
            return self._keep(stayed, agreement, Account.of(started, clients))

        return await add_for(clients, ServerCourse(absences(job), follow, left), keep)

    def _keep(self, stayed: list[str], agreement: Agreement, account: Account) -> Led:
        party, name = self.site.party, self.unfinished.name
        record = Record(
            model=name,
            party=party.name,
            role=party.role,
            parties=self.names,
            job=self.job.settings,
            alignment="",
            aligned_rows=0,
            ended=now(),
            account=account,
            agreement=agreement,
        )
        save_record(self.site.store, record)
        self.unfinished.finish()
        return Led(name, stayed, self.totals, account)


async def add_for(clients: Sequence[Peer], course: ServerCourse, keep: Callable[[list[str]], T]) -> T:
    """The server's part after the agreement, in a job and in its replay. `keep`: once the clients that
    stayed have kept the model."""
    stayed = await serve_totals(clients, course)
    present = [client for client in clients if client.name in stayed]
    await together([client.recv(Kept) for client in present])
    kept = keep(stayed)
    # Once they hear of it they go on from nowhere: this party must not ask for that any more.
    await together([_tell_kept(client) for client in present])
    return kept


async def _tell_kept(client: Peer) -> None:
    # One that is gone keeps its model, and its checkpoint until its next run of the job.
    with contextlib.suppress(PeerLost, PeerStopped):
        await client.send(Kept())


def lost_by(client: str) -> str:
    """What a run is asked of a client that is gone."""
    return f"whether {client} was lost by a message to it"


def absences(job: Job) -> Absences:
    """What becomes of a job when a client is gone."""
    return Absences(job.rows.without, job.rows.min_parties)


# --- A client -----------------------------------------------------------------------------------------


async def serve_pooled(site: Site, peer: Peer, offer: Offer, show: Show) -> str:
    """A client's part; in place of an attempt at the same model that waits for its server to come
    back. What it came to, in words."""
    which = f"{site.party.name} {peer.name} {offer.model}"
    return await _TRAINING.run(which, lambda: _train_on(site, peer, offer, show))


async def _train_on(site: Site, peer: Peer, offer: Offer, show: Show) -> str:
    party, store = site.party, site.store
    job = await asyncio.to_thread(Job.from_canonical, offer.job)
    check_request(site, peer, offer, show, f"train {job.name} over rows ({job.job.purpose})")
    _check_job(site, peer, offer, job)
    kind = kind_of_job(job)
    taken = await asyncio.to_thread(read_own_rows, party.data, job, show)
    name = offer.model if offer.done else fresh_name(store, "model", offer.model, OVER_ROWS)
    if name is None:
        raise peer.breach("an Offer to train without a model")
    guest = site.pinned[peer.name].fingerprint
    subject = await asyncio.to_thread(
        RunSubject.of, party, job, "", guest, offer.hosts, taken.features, *taken.brought
    )
    limit_runs(store, guest)
    new = not offer.done or name not in store.names("checkpoint")
    with open_run(store, name, subject, new=new) as unfinished:
        work = _Client(site, peer, offer, job, kind, taken, unfinished, show)
        commits: TableDigests = {}
        if party.party.tape != "none":
            commits = await asyncio.to_thread(commits_to, taken)
        with keeping(site, show, lambda: commits) as kept:
            unfinished.before_state = kept.settle
            return await work.train(kept)


def _check_job(site: Site, peer: Peer, offer: Offer, job: Job) -> None:
    """Raises Refused for a job that this party does not take part in."""
    if not job.over_rows:
        raise Refused('it has the label and rows of its own: jobs with partition = "rows" alone')
    # A server that counted itself among them would have the secret that the clients share.
    strangers = [name for name in offer.hosts if name not in (*site.party.clients, site.party.name)]
    if strangers:
        raise Refused(
            f"the job is with {' and '.join(strangers)}, whose certificate this party does not pin as a "
            f'client\'s: add [peers.{strangers[0]}] with its certificate and role = "client"'
        )
    if len(offer.hosts) < job.rows.min_parties:
        raise peer.breach("an Offer to fewer parties than its job needs")
    check_job(site.party.policy, job, peer.name, today())
    broken = broken_by_pool(site.party.policy, len(offer.hosts))
    if broken:
        raise Refused("; ".join(broken), rules=("min_parties",))


def commits_to(taken: TakenRows) -> TableDigests:
    """What the run has of a client's table, for its commitment."""
    return digest_table(
        taken.features,
        ids=taken.ids,
        label=taken.label,
        weight=taken.weight,
        offset=taken.offset,
        draws=taken.draw,
        times=None if taken.times is None else taken.times[0],
    )


class StepsKept(Protocol):
    """The states that a client has kept of a job: in its store, or in a replay."""

    @property
    def newest(self) -> int:
        """Steps that the last one has done; 0 without any."""

    def go_on_after(self, done: int) -> tuple[Checkpoints[Any], Cuts | None]:
        """Those to go on with, and the times by which rows were split then. Raises ModelError."""

    def split_by(self, cuts: Cuts) -> None:
        """Keep these times with the states that follow."""


@dataclass(frozen=True)
class _StepsInStore:
    """`StepsKept` of a job."""

    unfinished: Unfinished
    kind: AnyKind
    answers: Answers

    @property
    def newest(self) -> int:
        return self.answers.ask("steps that are kept", int, lambda: self.unfinished.done)

    def go_on_after(self, done: int) -> tuple[Checkpoints[Any], Cuts | None]:
        checkpoints = self.unfinished.checkpoints(self.kind.client_state, done)
        return checkpoints, self.unfinished.history.cuts

    def split_by(self, cuts: Cuts) -> None:
        self.unfinished.history.cuts = cuts


@dataclass(frozen=True)
class Added:
    """What a client has when all is added up."""

    role: ClientRole[AnyGuestModel]
    own: OwnRows
    model: AnyGuestModel
    score: Floats


@dataclass(frozen=True)
class ClientWork:
    """A client's part after the agreement, in a job and in its replay."""

    site: Site
    job: Job
    kind: AnyKind
    taken: TakenRows
    show: Show

    async def add_up(
        self,
        adder: MaskingAdder,
        steps: StepsKept,
        follow: Callable[[ClientRole[AnyGuestModel], TrainingStep], None],
    ) -> Added:
        """Add up with the others to the end. Raises NothingTrained, Refused for too few rows of all."""
        taken, job = self.taken, self.job
        done = await common_step(adder, steps.newest)
        checkpoints, cuts = steps.go_on_after(done)
        own = await self._split(adder, steps, cuts)
        await self._check_rows(adder, int(own.rows.train.sum()), "rows that train")
        if done:
            self.show.say(f"going on after {self.kind.steps(done)}")
        columns = PartyColumns(
            self.site.party.name, taken.table.path.name, taken.features, rules_of_job(job)
        )
        role: ClientRole[AnyGuestModel] = await asyncio.to_thread(
            self.kind.client, columns, own.rows, schema_of(job)
        )
        model, score = await role.add_up(adder, ClientRun(partial(follow, role), checkpoints))
        role.check_model(model)
        await adder.end()
        return Added(role, own, model, score)

    async def _split(self, adder: Adder, steps: StepsKept, cuts: Cuts | None) -> OwnRows:
        """The rows that train and that do not; by time from cuts on that are the same at all parties."""
        job, taken = self.job, self.taken
        if taken.times is not None and cuts is None:
            await self._check_rows(adder, len(taken.taken), "rows that take part")
            shares = job.job.holdout, self.kind.validation_share
            cuts = await common_cuts(Totals(adder), taken.times, taken.draw, shares)
            steps.split_by(cuts)
        own = taken.split(job, cuts or Cuts())
        for text in own.parts.by_columns:
            self.show.say(text)
        return own

    async def _check_rows(self, adder: Adder, count: int, what: str) -> None:
        """Raises Refused where all parties together have too few rows for this one's policy."""
        (rows,) = await adder.total(np.array([count], np.int64), what)
        least = self.site.party.policy.min_pooled_rows
        if rows < least:
            broken = broken_by_pool(self.site.party.policy, None, int(rows))
            raise Refused("; ".join(broken), rules=("min_pooled_rows",))


@dataclass
class _Client:
    """A training that this party has agreed to."""

    site: Site
    peer: Peer
    offer: Offer
    job: Job
    kind: AnyKind
    taken: TakenRows
    unfinished: Unfinished
    show: Show

    async def train(self, kept: Keeping) -> str:
        """Add up with the others to the end, keep the model; what came of it, in words."""
        site, peer, offer, unfinished = self.site, self.peer, self.offer, self.unfinished
        taken, job = self.taken, self.job
        started = time.monotonic()
        unfinished.measure = lambda: Account.of(started, [peer])
        query = KeptQuery.of(site.party.data)
        approved = await approve(site, peer, offer, self.show, Brought([*taken.features], job))
        agreement = await accept(
            site, peer, offer, query=query, approved=approved, commitment=kept.commitment
        )
        kept.agreed(agreement, offer.job, [peer])
        gone: list[str] = []

        def left(names: Sequence[str]) -> None:
            gone.extend(names)
            self.show.say(f"note: {' and '.join(names)} left the job: the others go on without its rows")
            self._note_two(len(offer.hosts) - len(gone))

        self._note_two(len(offer.hosts))
        randomness = kept.randomness_of(offer.run)
        participant = site.participant(offer.hosts, offer.run, randomness=randomness)
        participant = participant.asking(kept.sign(site.identity.sign), kept.say)
        adder = MaskingAdder(peer, participant, absences(job), left)
        work = ClientWork(site, job, self.kind, taken, self.show)
        steps = _StepsInStore(unfinished, self.kind, kept.answers)
        try:
            added = await work.add_up(adder, steps, self._follow)
        except NothingTrained:
            unfinished.finish()  # there is nothing to go on with
            raise
        role, own, model, score = added.role, added.own, added.model, added.score
        if (ending := role.ending(model)) is not None:
            self.show.say(ending)
        evaluated = await self._evaluate(role, own, score)
        half = self._keep(model, own, score, evaluated, (agreement, query))
        with contextlib.suppress(PeerLost, PeerStopped):  # the model is kept, whoever hears of it
            await peer.send(Kept())
            await peer.recv(Kept)
            unfinished.finish()  # else a server that was killed comes back to go on from the last step
        parties = [name for name in offer.hosts if name not in gone]
        return f"trained {half.name} over the rows of {counted(len(parties), 'party', 'parties')}"

    def _note_two(self, parties: int) -> None:
        if parties == 2:
            self.show.say(
                "note: there are two parties: each can take its own part off every total, and has the "
                "other's"
            )

    def _follow(self, role: ClientRole[AnyGuestModel], step: TrainingStep) -> None:
        history = self.unfinished.history
        report = role.report(step, history.curve)
        if report.seconds is not None:
            history.phases.append(report.seconds)
        history.curve.append(dict(report.losses))
        self.site.activity.tell(losses=report.losses)
        self.show.progress(report.what, report.step, report.of)

    async def _evaluate(
        self, role: ClientRole[AnyGuestModel], own: OwnRows, score: Floats
    ) -> tuple[dict[str, dict[str, float]], Evaluation | None]:
        """What the model is worth on rows that this party held out, beside one of its own rows alone."""
        name, rows, held_out = self.site.party.name, own.rows, own.held_out
        if not held_out.any():
            if self.job.job.holdout:
                self.show.say("note: no row of this party is held out: the model is not tried on any")
            return {}, None
        scores = {}
        try:
            rows.loss.check(rows.label[rows.train])
            scores[f"{name} alone"] = await role.train_alone()
        except (BadLabel, VflError) as error:
            self.show.say(f"note: no model of {name}'s rows alone to compare with: {error}")
        scores["federation"] = score
        try:
            rows.loss.check(rows.label[held_out])
        except BadLabel as error:
            self.show.say(f"note: the label of rows held out {error}: not evaluated")
            return {}, None
        return evaluate(rows, held_out, own.of.taken, own.of.exposure, scores)

    def _keep(
        self,
        model: AnyGuestModel,
        own: OwnRows,
        score: Floats,
        evaluated: tuple[dict[str, dict[str, float]], Evaluation | None],
        agreed: tuple[Agreement, KeptQuery | None],
    ) -> AnyGuestHalf:
        """The model and its record, stored; agreed: what was signed, and the query of its digest."""
        party, job, taken, kind = self.site.party, self.job, self.taken, self.kind
        known, (metrics, evaluation), (agreement, query) = self.site.fingerprints, evaluated, agreed
        half: AnyGuestHalf = GuestHalf(
            name=self.unfinished.name,
            job=job.settings,
            columns=tuple(taken.features),
            normalise=party.data.normalise,
            fingerprints={name: known[name] for name in (party.name, *self.offer.hosts)},
            model=model,
            metrics=metrics,
            objective=job.objective,
            tweedie_power=kind.tweedie_power,
            exposure=taken.table.exposure is not None,
            offset="offset" in job.uses(party.data),
            profiles=profiles(taken.features),
            score_profile=score_profile(score, own.rows, own.held_out),
            fallback=tuple(key.normalise for key in party.data.fallback),
            levels={name: Levels.of(np.array(of, object)) for name, of in schema_of(job).levels.items()},
            query=query,
        )
        save_half(self.site.store, half)
        alone = f"{party.name} alone"
        warnings = []
        if alone in metrics:
            of_others = "the others' rows"
            warnings = judge_quality(metrics, own.rows, own.held_out, alone, kind.advice, of_others)
        history = self.unfinished.history
        counts = own.parts.counts
        record = Record(
            model=half.name,
            party=party.name,
            role=party.role,
            parties=[party.name, *(name for name in self.offer.hosts if name != party.name)],
            job=job.settings,
            alignment="",
            aligned_rows=len(taken.taken),
            ended=now(),
            account=history.account + self.unfinished.measure(),
            rows=counts,
            metrics=metrics,
            measure=own.rows.loss.measure,
            curve=history.curve,
            phases=history.phases,
            ending=dict(kind.ending(model)),
            monotone=dict(kind.recorded_rules(rules_of_job(job))),
            agreement=agreement,
            ids=taken.ids,
            warnings=warnings,
            split=own.parts.shares,
        )
        save_record(self.site.store, record, evaluation)
        if metrics:
            self.show.say(f"on {counted(counts['held out'], 'row')} held out: {_worth(metrics)}")
        for text in warnings:
            self.show.say(f"note: {text}")
        return half


def _worth(metrics: Mapping[str, Mapping[str, float]]) -> str:
    """What each model is worth, by one measure, in words."""
    key, measure = ("auc", "AUC") if "auc" in metrics["federation"] else ("d2", "D²")
    return f"{measure} " + ", ".join(f"{of[key]:.4f} {who}" for who, of in metrics.items() if key in of)
