"""The guest's side of each job."""

import contextlib
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.workers import Operations
from vfl.errors import (
    DataError,
    PeerError,
    PeerLost,
    PeerStopped,
    VflError,
)
from vfl.jobs.account import Account
from vfl.jobs.agreement import Agreement, offer_to
from vfl.jobs.alignment import guest_alignment, matching_of, read_guest, refreshed
from vfl.jobs.connect import Office, hosts_of
from vfl.jobs.coordinator import check_coordinator
from vfl.jobs.findings import Finding, NothingTrained, check_held_out, check_learnt, of_quality
from vfl.jobs.halves import Alignment, AnyGuestHalf, GuestHalf, save_half
from vfl.jobs.hints import hints_held
from vfl.jobs.learners import Learner, Run, learner_of
from vfl.jobs.names import JOB_LENGTH
from vfl.jobs.offer import Kept, Offer, new_run, stamp
from vfl.jobs.record import Evaluation, Record, now, save_record
from vfl.jobs.relativities import save_relativities
from vfl.jobs.resume import Matter, Unfinished, begun, persevere
from vfl.jobs.show import Show
from vfl.jobs.storage import in_store
from vfl.learn.drift import Profile, profile_of_scores, profiles
from vfl.learn.levels import levels_of, tidied
from vfl.learn.losses import BadLabel, LogisticLoss, Loss
from vfl.learn.metrics import binary_metrics, regression_metrics
from vfl.net.peer import Peer, together
from vfl.party.config import USES, DataSection, Job
from vfl.party.linear import check_rules
from vfl.party.store import Store
from vfl.party.table import Table
from vfl.protocols.common.rows import Training
from vfl.protocols.linear.scoring import GuestGlm
from vfl.protocols.trees.grower import GuestModel
from vfl.text import counted


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


@in_store
async def train(
    office: Office,
    job: Job,
    *,
    alignment: str | None = None,
    fresh: bool = False,
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
    party, started, loss = office.party, time.monotonic(), job.loss
    uses = job.uses(party.data)
    say_uses(show, party.data, uses)
    if job.glm.coordinator is not None:
        check_coordinator(party, job.glm.coordinator)
    store, unused = Store(party.party.store), set(USES) - set(uses)
    named = guest_alignment(office, store, alignment)
    table, ids = read_guest(party.data, show=show, loss=loss, unused=unused)
    if job.job.model == "glm":
        check_rules(party.glm, table.features, table.path.name)
    aligned = refreshed(named, ids, table.path.name)
    rows, held_out = _split(table, aligned.rows, job, loss, ids.entities)
    features = tidied(table.take(aligned.rows))
    learner = learner_of(job, party, features, rows, show)
    # In the party file's order, which decides between equal gains.
    hosts = [name for name in party.partners if name in aligned.parties]
    own = (rows.label, rows.weight, rows.offset, rows.train, rows.validation)
    matter = Matter.of(party, job, aligned.name, aligned.guest, hosts, features, *own)
    new = f"{job.name[:JOB_LENGTH]}-{stamp(new_run())}"
    with (
        begun(store, new, matter, fresh=fresh, show=show) as unfinished,
        hints_held(store, aligned.name) as keeps_hints,
    ):
        if unfinished.done:
            steps = learner.steps(unfinished.done)
            show.say(f"going on with {unfinished.name} after {steps}; --fresh starts anew")
        work = _Work(
            office,
            job,
            table,
            ids.digest,
            aligned,
            rows,
            held_out,
            learner,
            unfinished,
            keeps_hints,
            show,
            started,
        )
        return await persevere(
            work.attempt,
            wait=wait,
            reconnect=party.party.reconnect,
            show=show,
            done=lambda: unfinished.done,
        )


def say_uses(show: Show, data: DataSection, uses: Mapping[str, str]) -> None:
    """Say which of the columns of exposure, offset and weight a job uses, and which it leaves alone."""
    named = {key: name for key in USES if (name := getattr(data, key)) is not None}
    used = " and ".join(f"{key} '{name}'" for key, name in named.items() if key in uses)
    alone = " and ".join(f"{key} '{name}'" for key, name in named.items() if key not in uses)
    said = [f"uses {used}"] if used else []
    said += [f"does without {alone} (no feature either)"] if alone else []
    if said:
        show.say(f"this job {', '.join(said)}")


@dataclass
class _Work:
    """The part of a training that needs hosts."""

    office: Office
    job: Job
    table: Table
    ids: str  # digest of the table's ids
    aligned: Alignment
    rows: Training
    held_out: NDArray[np.bool_]
    learner: Learner
    unfinished: Unfinished
    keeps_hints: bool
    show: Show
    started: float  # of the present attempt

    async def attempt(self, wait: float) -> Trained:
        """Connect to all parties, go on where they are, to the end."""
        trained = None
        try:
            async with (
                hosts_of(self.office, wait, self.show, self.unfinished.matter.hosts) as hosts,
                contextlib.AsyncExitStack() as sessions,
            ):
                operations: Operations = Counter()

                def account() -> Account:
                    return Account.of(self.started, [*hosts, *self.learner.others], operations)

                self.unfinished.measure = account
                try:
                    trained, found = await self._with(hosts, wait, sessions, operations)
                    parties = (*hosts, *self.learner.others)
                    await together([_tell_kept(party, found) for party in parties])
                except VflError:
                    self.unfinished.news.account += account()
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
        office, aligned = self.office, self.aligned
        offer = Offer(
            "train",
            new_run(),
            [host.name for host in hosts],
            list(aligned.normalise),
            alignment=aligned.name,
            model=self.unfinished.name,
            job=self.job.canonical,
            done=self.unfinished.done,
            matching=matching_of(office.party.data, join=aligned.join, many=aligned.many),
        )
        answers, agreement = await offer_to(office, hosts, offer)
        for host, answer in zip(hosts, answers, strict=True):
            if answer.rows != len(aligned.rows):
                raise PeerError(
                    f"{host.name} has {counted(answer.rows or 0, 'row')} in alignment {aligned.name}, "
                    f"this party {len(aligned.rows):,}: align again",
                    for_peer="the parties hold different alignments",
                )
        run = Run(office, offer, agreement, self.unfinished, wait, sessions, self.keeps_hints)
        params, alone = self.learner.params, f"{office.party.name} alone"
        try:
            model, score = await self.learner.learn(hosts, run, operations)
            found = check_learnt(model, score, self.rows, params)
        except NothingTrained:
            self.unfinished.finish()  # there is nothing to go on with
            raise
        found += check_held_out(self.job.job.holdout, self.held_out)
        metrics, evaluation = await self._evaluated(score)
        warnings = [one.text for one in found]
        warnings += of_quality(metrics, self.rows, self.held_out, alone, params)
        return self._kept(model, score, metrics, evaluation, agreement, warnings), found

    async def _evaluated(
        self, score: NDArray[np.float64]
    ) -> tuple[dict[str, dict[str, float]], Evaluation | None]:
        """Metrics by model on the rows held out, and what they were made of; none without such rows."""
        rows, held_out, name = self.rows, self.held_out, self.office.party.name
        if not held_out.any():
            return {}, None
        scores = {f"{name} alone": await self.learner.alone(), "federation": score}
        exposure = self.table.exposure
        exposure = None if exposure is None else exposure[self.aligned.rows]
        evaluation = Evaluation.of(
            held_out,
            self.aligned.rows,
            rows.label,
            rows.weight,
            exposure,
            {what: rows.loss.predict(values) for what, values in scores.items()},
        )
        metrics = {what: _metrics(rows, held_out, values, exposure) for what, values in scores.items()}
        return metrics, evaluation

    def _kept(
        self,
        model: GuestModel | GuestGlm,
        score: NDArray[np.float64],
        metrics: dict[str, dict[str, float]],
        evaluation: Evaluation | None,
        agreement: Agreement,
        warnings: list[str],
    ) -> Trained:
        """The guest's half and its record, stored; then no checkpoint is needed."""
        party, job, aligned, rows = self.office.party, self.job, self.aligned, self.rows
        table, learner, store = self.table, self.learner, Store(self.office.party.party.store)
        features = tidied(table.take(aligned.rows))
        half: AnyGuestHalf = GuestHalf(
            self.unfinished.name,
            job.settings,
            tuple(table.features),
            aligned.normalise,
            self.office.fingerprints,
            model,
            metrics,
            job.job.objective or job.job.family or "binary",
            learner.params.tweedie_power,
            exposure=table.exposure is not None,
            offset="offset" in job.uses(party.data),
            profiles=profiles(features),
            score_profile=_score_profile(score, rows, self.held_out),
            fallback=aligned.fallback,
            levels=levels_of(features),
        )
        save_half(store, half)
        steps = party.glm.step
        relativities = save_relativities(store, half, steps) if isinstance(model, GuestGlm) else None
        account = self.unfinished.news.account + self.unfinished.measure()
        counts = {
            "train": int(rows.train.sum()),
            "validation": int(rows.validation.sum()),
            "held out": int(self.held_out.sum()),
        }
        record = Record(
            half.name,
            party.name,
            party.role,
            [party.name, *self.unfinished.matter.hosts],
            job.settings,
            aligned.name,
            len(aligned.rows),
            now(),
            account,
            counts,
            metrics,
            rows.loss.measure,
            learner.curve,
            learner.phases,
            model.ending if isinstance(model, GuestGlm) else {},
            {} if isinstance(model, GuestGlm) else party.data.monotone,
            agreement,
            self.ids,
            warnings,
        )
        save_record(store, record, evaluation)
        self.unfinished.finish()
        path = store.path("model", half.name)
        return Trained(half, path, counts, account, learner.phases, relativities, warnings)


async def _tell_kept(party: Peer, found: Sequence[Finding]) -> None:
    # A host that is gone keeps its checkpoint until its next run of the job.
    with contextlib.suppress(PeerLost, PeerStopped):
        await party.send(Kept(found=[one.word for one in found]))


def _metrics(
    rows: Training,
    held_out: NDArray[np.bool_],
    score: NDArray[np.float64],
    exposure: NDArray[np.float64] | None,
) -> dict[str, float]:
    """Metrics of the rows held out, without those that are no number, which a document cannot hold."""
    label, weight, loss = rows.label[held_out], rows.weight[held_out], rows.loss
    if isinstance(loss, LogisticLoss):
        found = binary_metrics(label, loss.predict(score[held_out]), weight)
    else:
        offset = None if rows.offset is None else rows.offset[held_out]
        years = None if exposure is None else exposure[held_out]
        found = regression_metrics(loss, label, score[held_out], weight, offset, years)
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _score_profile(
    score: NDArray[np.float64], rows: Training, held_out: NDArray[np.bool_]
) -> Profile | None:
    """Of the scores without offset of the rows held out, which are as those of other rows will be; of
    all rows if none is held out. None if nobody knows them."""
    chosen = np.isfinite(score) & (held_out if held_out.any() else True)
    alone = score if rows.offset is None else score - rows.offset
    return profile_of_scores(alone[chosen]) if chosen.any() else None


def _or_validation(share: float, before: str) -> str:
    return f"{before}validation_share = {share:g} in [secureboost]" if share else ""


def _split(
    table: Table,
    aligned: NDArray[np.int64],
    job: Job,
    loss: Loss,
    entities: NDArray[np.int64] | None = None,
) -> tuple[Training, NDArray[np.bool_]]:
    """The rows that train, that decide when to stop and that are held out, drawn by the job's seed.

    entities: of each row of the table the first that is about the same thing, a vehicle or a person;
    all rows about one go the same way. None: every row is about another.
    """
    if table.label is None:
        raise ValueError("training needs a label")
    linear = job.job.model == "glm"
    seed = job.glm.seed if linear else job.secureboost.seed
    share = 0.0 if linear else job.secureboost.validation_share
    draw = np.random.default_rng([seed, 1]).random(table.rows)
    draw = draw[aligned if entities is None else entities[aligned]]
    held_out = draw < job.job.holdout
    validation = ~held_out & (draw < job.job.holdout + (1 - job.job.holdout) * share)
    label = table.label[aligned]
    train = ~held_out & ~validation
    if not train.any():
        raise DataError(
            f"{table.path.name}: no aligned row is left to train on: lower "
            f"holdout = {job.job.holdout:g} in [job]{_or_validation(share, ' or ')}",
            for_peer="no aligned row is left to train on (holdout, validation_share)",
        )
    for mask, what in ((train, "train on"), (validation, "stop by"), (held_out, "evaluate on")):
        if not mask.any():
            continue
        try:
            loss.check(label[mask])
        except BadLabel as error:
            raise DataError(
                f"{table.path.name}: in the {counted(int(mask.sum()), 'aligned row')} to {what}, the "
                f"label {error} (holdout = {job.job.holdout:g}{_or_validation(share, ', ')})",
                for_peer="too few aligned rows, or all with the same label",
            ) from None
    weight = np.ones(len(label)) if table.weight is None else table.weight[aligned]
    offset = None if table.offset is None else table.offset[aligned]
    return Training(label, weight, train, validation, loss, offset), held_out
