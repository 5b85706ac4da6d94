"""A training over rows, the server and a client side by side.

Each client has the label and all columns for rows of its own; the server, a coordinator, has no data. It
leads: it offers the job to all clients, adds up what it cannot read (protocols/pooled/adding.py), and
keeps a record. Each client keeps the whole model, and what it is worth on rows that it held out itself,
beside a model of its own rows alone.
"""

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vfl.arrays import Floats
from vfl.errors import ConfigError, PeerLost, PeerStopped, Refused, VflError
from vfl.jobs.account import Account
from vfl.jobs.admission import accept, check_request, fresh_name
from vfl.jobs.agreement import Agreement, offer_to
from vfl.jobs.connect import Site, hosts_of
from vfl.jobs.evaluation import evaluate, score_profile
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
from vfl.jobs.shared_table import OwnRows, read_own_rows, schema_of
from vfl.jobs.show import Show
from vfl.jobs.storage import in_store
from vfl.learn.drift import profiles
from vfl.learn.levels import Levels
from vfl.learn.losses import BadLabel
from vfl.models.findings import NothingTrained, judge_quality
from vfl.models.halves import AnyGuestHalf, GuestHalf
from vfl.models.kind import AnyGuestModel, AnyKind, ClientRole, ClientRun, PartyColumns, TrainingStep
from vfl.models.kinds import kind_of_job, save_half
from vfl.net.peer import Peer, together
from vfl.party.config import Job, Party
from vfl.party.policy import broken_by_pool, check_job, today
from vfl.protocols.pooled.adding import Absences, MaskingAdder, common_step
from vfl.protocols.pooled.adding_server import ServerCourse, serve_totals
from vfl.text import counted

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
        started, job = time.monotonic(), self.job
        async with hosts_of(self.site, wait, self.show, self.names, role="guest") as clients:
            checkpoints = self.unfinished.checkpoints(ServerState, self.unfinished.done)
            offer = Offer(
                "train",
                new_run(),
                self.names,
                [],
                model=self.unfinished.name,
                job=job.canonical,
                done=self.unfinished.done,
            )
            _, agreement = await offer_to(self.site, clients, offer)
            before = self.totals

            def follow(totals: int) -> None:
                self.totals = before + totals
                self.show.progress(f"{job.name}: adding up", self.totals, None)

            def left(name: str) -> None:
                self.show.say(f"{name} is gone: the others go on without it")

            if not self.unfinished.done:
                await checkpoints.keep(ServerState(1))
            course = ServerCourse(_absences(job), follow, left)
            stayed = await serve_totals(clients, course)
            present = [client for client in clients if client.name in stayed]
            await together([client.recv(Kept) for client in present])
            led = self._keep(stayed, agreement, Account.of(started, clients))
            # Once they hear of it they go on from nowhere: this party must not ask for that any more.
            await together([_tell_kept(client) for client in present])
        return led

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


async def _tell_kept(client: Peer) -> None:
    # One that is gone keeps its model, and its checkpoint until its next run of the job.
    with contextlib.suppress(PeerLost, PeerStopped):
        await client.send(Kept())


def _absences(job: Job) -> Absences:
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
    schema, kind = schema_of(job), kind_of_job(job)
    own = await asyncio.to_thread(read_own_rows, party.data, job, show)
    columns = PartyColumns(party.name, own.table.path.name, own.features)
    role: ClientRole[AnyGuestModel] = await asyncio.to_thread(kind.client, columns, own.rows, schema)
    name = offer.model if offer.done else fresh_name(store, "model", offer.model)
    if name is None:
        raise peer.breach("an Offer to train without a model")
    brought = (own.rows.label, own.rows.weight, own.rows.offset, own.rows.train)
    guest = site.pinned[peer.name].fingerprint
    subject = await asyncio.to_thread(
        RunSubject.of, party, job, "", guest, offer.hosts, own.features, *brought
    )
    limit_runs(store, guest)
    new = not offer.done or name not in store.names("checkpoint")
    with open_run(store, name, subject, new=new) as unfinished:
        work = _Client(site, peer, offer, job, kind, role, own, schema.levels, unfinished, show)
        return await work.train()


def _check_job(site: Site, peer: Peer, offer: Offer, job: Job) -> None:
    """Raises Refused for a job that this party does not take part in."""
    if not job.over_rows:
        raise Refused('it has the label and rows of its own: jobs with partition = "rows" alone')
    strangers = [name for name in offer.hosts if name not in (*site.pinned, site.party.name)]
    if strangers:
        raise Refused(
            f"the job is with {' and '.join(strangers)}, whose certificate this party does not pin: add "
            f'[peers.{strangers[0]}] with its certificate and role = "client"'
        )
    check_job(site.party.policy, job, peer.name, today())
    broken = broken_by_pool(site.party.policy, len(offer.hosts))
    if broken:
        raise Refused("; ".join(broken))


@dataclass
class _Client:
    """A training that this party has agreed to."""

    site: Site
    peer: Peer
    offer: Offer
    job: Job
    kind: AnyKind
    role: ClientRole[AnyGuestModel]
    own: OwnRows
    levels: Mapping[str, Sequence[str]]  # that were agreed on
    unfinished: Unfinished
    show: Show

    async def train(self) -> str:
        """Add up with the others to the end, keep the model; what came of it, in words."""
        site, peer, offer, unfinished = self.site, self.peer, self.offer, self.unfinished
        started = time.monotonic()
        unfinished.measure = lambda: Account.of(started, [peer])
        agreement = await accept(site, peer, offer)
        gone: list[str] = []

        def left(names: Sequence[str]) -> None:
            gone.extend(names)
            self.show.say(f"note: {' and '.join(names)} left the job: the others go on without its rows")

        participant = site.participant(offer.hosts, offer.run)
        adder = MaskingAdder(peer, participant, _absences(self.job), left)
        done = await common_step(adder, unfinished.done)
        await self._check_rows(adder)
        checkpoints = unfinished.checkpoints(self.kind.client_state, done)
        if done:
            self.show.say(f"going on after {self.kind.steps(done)}")
        try:
            model, score = await self.role.add_up(adder, ClientRun(self._follow, checkpoints))
            self.role.check_model(model)
        except NothingTrained:
            unfinished.finish()  # there is nothing to go on with
            raise
        await adder.end()
        if (ending := self.role.ending(model)) is not None:
            self.show.say(ending)
        metrics, evaluation = await self._evaluate(score)
        half = self._keep(model, score, metrics, evaluation, agreement)
        with contextlib.suppress(PeerLost, PeerStopped):  # the model is kept, whoever hears of it
            await peer.send(Kept())
            await peer.recv(Kept)
            unfinished.finish()  # else a server that was killed comes back to go on from the last step
        parties = [name for name in offer.hosts if name not in gone]
        return f"trained {half.name} over the rows of {counted(len(parties), 'party', 'parties')}"

    async def _check_rows(self, adder: MaskingAdder) -> None:
        """Raises Refused where all parties together have too few rows for this one's policy."""
        own = np.array([int(self.own.rows.train.sum())], np.int64)
        (rows,) = await adder.total(own, "rows that train")
        least = self.site.party.policy.min_pooled_rows
        if rows < least:
            raise Refused("; ".join(broken_by_pool(self.site.party.policy, None, int(rows))))

    def _follow(self, step: TrainingStep) -> None:
        history = self.unfinished.history
        report = self.role.report(step, history.curve)
        if report.seconds is not None:
            history.phases.append(report.seconds)
        history.curve.append(dict(report.losses))
        self.show.progress(report.what, report.step, report.of)

    async def _evaluate(self, score: Floats) -> tuple[dict[str, dict[str, float]], Evaluation | None]:
        """What the model is worth on rows that this party held out, beside one of its own rows alone."""
        own, name = self.own, self.site.party.name
        rows, held_out = own.rows, own.held_out
        if not held_out.any():
            return {}, None
        scores = {}
        try:
            rows.loss.check(rows.label[rows.train])
            scores[f"{name} alone"] = await self.role.train_alone()
        except (BadLabel, VflError) as error:
            self.show.say(f"note: no model of {name}'s rows alone to compare with: {error}")
        scores["federation"] = score
        try:
            rows.loss.check(rows.label[held_out])
        except BadLabel as error:
            self.show.say(f"note: the label of rows held out {error}: not evaluated")
            return {}, None
        return evaluate(rows, held_out, own.taken, own.exposure, scores)

    def _keep(
        self,
        model: AnyGuestModel,
        score: Floats,
        metrics: dict[str, dict[str, float]],
        evaluation: Evaluation | None,
        agreement: Agreement,
    ) -> AnyGuestHalf:
        """The model and its record, stored."""
        party, job, own, kind = self.site.party, self.job, self.own, self.kind
        known = self.site.fingerprints
        half: AnyGuestHalf = GuestHalf(
            name=self.unfinished.name,
            job=job.settings,
            columns=tuple(own.features),
            normalise=party.data.normalise,
            fingerprints={name: known[name] for name in (party.name, *self.offer.hosts)},
            model=model,
            metrics=metrics,
            objective=job.job.objective or job.job.family or "binary",
            tweedie_power=kind.tweedie_power,
            exposure=own.table.exposure is not None,
            offset="offset" in job.uses(party.data),
            profiles=profiles(own.features),
            score_profile=score_profile(score, own.rows, own.held_out),
            fallback=tuple(key.normalise for key in party.data.fallback),
            levels={name: Levels.of(np.array(of, object)) for name, of in self.levels.items()},
        )
        save_half(self.site.store, half)
        alone = f"{party.name} alone"
        warnings = []
        if alone in metrics:
            of_others = "the others' rows"
            warnings = judge_quality(metrics, own.rows, own.held_out, alone, kind.advice, of_others)
        history = self.unfinished.history
        counts = {
            "train": int(own.rows.train.sum()),
            "validation": int(own.rows.validation.sum()),
            "held out": int(own.held_out.sum()),
        }
        record = Record(
            model=half.name,
            party=party.name,
            role=party.role,
            parties=[party.name, *(name for name in self.offer.hosts if name != party.name)],
            job=job.settings,
            alignment="",
            aligned_rows=len(own.taken),
            ended=now(),
            account=history.account + self.unfinished.measure(),
            rows=counts,
            metrics=metrics,
            measure=own.rows.loss.measure,
            curve=history.curve,
            phases=history.phases,
            ending=dict(kind.ending(model)),
            agreement=agreement,
            ids=own.ids,
            warnings=warnings,
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
