"""A training, the guest and a host side by side: rows, the protocol, what each keeps of it."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.workers import Operations
from vfl.errors import (
    ConfigError,
    PeerError,
    PeerLost,
    PeerStopped,
    VflError,
)
from vfl.jobs.account import Account
from vfl.jobs.admission import accept, check_asked, fresh_name, matching_of
from vfl.jobs.agreement import Agreement, offer_to
from vfl.jobs.alignments import guest_alignment, host_alignment, known_rows, refreshed
from vfl.jobs.connect import Office, hosts_of
from vfl.jobs.coordinator import check_coordinator, coordinator_of
from vfl.jobs.evaluation import held_out_metrics, score_profile, split_rows
from vfl.jobs.findings import (
    Finding,
    NothingTrained,
    check_held_out,
    check_learnt,
    of_quality,
    own_part,
    words_of,
)
from vfl.jobs.halves import (
    Alignment,
    AnyGuestHalf,
    AnyHostHalf,
    GuestHalf,
    HostHalf,
    save_half,
)
from vfl.jobs.hints import HostHints, hints_held
from vfl.jobs.learners import Learner, Run, learner_of
from vfl.jobs.names import JOB_LENGTH
from vfl.jobs.offer import Kept, Offer, new_run, stamp
from vfl.jobs.own_table import read_guest, table_of
from vfl.jobs.record import Evaluation, Record, now, save_record
from vfl.jobs.relativities import save_relativities
from vfl.jobs.resume import Matter, Replaceable, Unfinished, begun, limit_runs, opened, persevere
from vfl.jobs.show import Show
from vfl.jobs.storage import in_store
from vfl.learn.binning import Features, bin_columns
from vfl.learn.design import Design, Matrix
from vfl.learn.drift import Profile, profiles
from vfl.learn.levels import Levels, levels_of, tidied
from vfl.net.peer import Peer, together
from vfl.party.config import Job
from vfl.party.linear import check_rules, prepared
from vfl.party.policy import (
    check_intersection,
    check_job,
    today,
)
from vfl.party.sections import USES, DataSection
from vfl.party.store import Store
from vfl.party.table import Table
from vfl.protocols.common.bits import Mask
from vfl.protocols.common.checkpoints import Checkpoints
from vfl.protocols.common.course import HostCourse
from vfl.protocols.common.participant import Participant
from vfl.protocols.common.rows import Training
from vfl.protocols.linear.fitting import HostFit, HostFitState, host_fit
from vfl.protocols.linear.hidden import HiddenState, hidden_host_fit
from vfl.protocols.linear.scoring import GuestGlm, HostGlm, LinearPart
from vfl.protocols.trees.grower import HostTrees
from vfl.protocols.trees.model import GuestModel, HostModel
from vfl.protocols.trees.training import host_train
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
    rows, held_out = split_rows(table, aligned.rows, job, loss, ids.entities)
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
        work = _GuestTraining(
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
class _GuestTraining:
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
        metrics = {
            what: held_out_metrics(rows, held_out, values, exposure) for what, values in scores.items()
        }
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
            score_profile=score_profile(score, rows, self.held_out),
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


_REACH = 60.0  # seconds to reach a coordinator
_TRAINING = Replaceable()


@dataclass
class _HostTraining:
    """A training that this host has agreed to, whatever the kind of model."""

    office: Office
    peer: Peer
    offer: Offer
    job: Job
    unfinished: Unfinished
    alignment: Alignment
    table: Table
    features: Features  # of the aligned rows
    show: Show
    operations: Operations = field(default_factory=Counter)
    others: list[Peer] = field(default_factory=list)  # sessions beside that with the guest
    agreement: Agreement | None = None  # once it is accepted
    profiles: dict[str, Profile] = field(default_factory=dict)  # of the aligned rows that it knows
    levels: dict[str, Levels] = field(default_factory=dict)  # of these rows
    learnt: tuple[int | None, Any] = (None, None)  # its splits, or its coefficients

    @property
    def store(self) -> Store:
        return Store(self.office.party.party.store)

    async def accept(self) -> Agreement:
        """Tell the guest that this host takes part; what all parties have signed."""
        rows = len(self.alignment.rows)
        self.agreement = await accept(self.office, self.peer, self.offer, rows)
        return self.agreement

    def participant(self, minimum: int) -> Participant:
        """This host in the protocol of the training."""
        return self.office.participant(self.offer.hosts, self.offer.run, minimum, self.operations)

    def hints(self, model: str) -> HostHints:
        """Where hints of the alignment are kept, for this kind of model."""
        return HostHints(self.store, f"{self.alignment.name} {model}", self.alignment.guest)

    def half(self, model: HostModel | HostGlm) -> AnyHostHalf:
        """This host's half, which it keeps."""
        return HostHalf(
            self.unfinished.name,
            self.job.settings,
            tuple(self.table.features),
            self.alignment.normalise,
            self.alignment.guest,
            self.office.identity.certificate.fingerprint,
            model,
            self.profiles,
            self.levels,
        )


async def serve_train(office: Office, peer: Peer, offer: Offer, show: Show) -> str:
    """Train; in place of an attempt at the same model that waits for its guest to come back."""
    which = f"{office.party.name} {peer.name} {offer.model}"
    return await _TRAINING.run(which, lambda: _train_on(office, peer, offer, show))


async def _train_on(office: Office, peer: Peer, offer: Offer, show: Show) -> str:
    party = office.party
    job = await asyncio.to_thread(Job.from_canonical, offer.job)
    check_asked(office, peer, offer, show, f"train {job.name} ({job.job.purpose})")
    check_job(party.policy, job, peer.name, today())
    table, ids = await table_of(office, offer)
    if not table.features:
        raise ConfigError(
            f"[policy] columns is empty: no feature of {table.path.name} may enter a model",
            for_peer="none of its columns may enter a model, by columns of [policy]",
        )
    if job.job.model == "glm":
        check_rules(party.glm, table.features, table.path.name)
    store = Store(party.party.store)
    known = offer.model if offer.done else None  # of a run that has begun before
    name = known or fresh_name(store, "model", offer.model)
    alignment = await asyncio.to_thread(host_alignment, office, store, peer, offer, ids)
    check_intersection(party.policy, known_rows(alignment.rows))
    features, started = tidied(table.take(alignment.rows)), time.monotonic()
    matter = await asyncio.to_thread(
        Matter.of, party, job, alignment.name, alignment.guest, offer.hosts, features
    )
    limit_runs(store, alignment.guest)
    with opened(store, name, matter, new=not offer.done) as unfinished:
        work = _HostTraining(office, peer, offer, job, unfinished, alignment, table, features, show)
        # Of the rows it knows: in a batch there are no others.
        known_features = tidied(table.take(alignment.rows[alignment.rows >= 0]))
        work.profiles = await asyncio.to_thread(profiles, known_features)
        work.levels = levels_of(known_features)
        unfinished.measure = lambda: Account.of(started, [peer, *work.others], work.operations)
        kept = await (_fit if job.job.model == "glm" else _boost)(work)
        record = Record(
            name,
            party.name,
            party.role,
            [peer.name, *offer.hosts],
            job.settings,
            alignment.name,
            len(alignment.rows),
            now(),
            unfinished.news.account + unfinished.measure(),
            agreement=work.agreement,
        )
        if job.job.model == "secureboost":
            record = replace(record, monotone=party.data.monotone)
        save_record(store, record)
        try:
            found = words_of((await peer.recv(Kept)).found)
        except PeerStopped as error:
            if not error.passing:  # the guest keeps no half either: this one would be of no use
                _remove_half(store, name)
            raise
        own = own_part(*work.learnt)
        warnings = [*found, *([own] if own is not None else [])]
        for text in warnings:
            show.say(f"note: {text}")
        if warnings:
            save_record(store, replace(record, warnings=warnings))
        unfinished.finish()
    return f"trained {name} with {peer.name}: {kept} are of this party's columns"


def _remove_half(store: Store, name: str) -> None:
    """Remove what is kept of a model but its checkpoint, from which the guest may go on."""
    store.remove("model", name)
    store.remove("run", name)


async def _boost(work: _HostTraining) -> str:
    """Train trees; what this host has kept, in words."""
    party, params = work.office.party, work.job.secureboost
    binned = await asyncio.to_thread(
        bin_columns,
        work.features,
        params.max_bins,
        max(params.min_bin_rows, party.policy.min_bin_rows or party.policy.min_child_rows),
        party.data.monotone,
    )
    checkpoints = work.unfinished.checkpoints(HostTrees, work.offer.done)
    await work.accept()
    course = HostCourse[HostModel, HostTrees](
        keep=lambda model: save_half(work.store, work.half(model)),
        progress=lambda tree, of: work.show.progress(f"training {work.job.name}", tree, of),
        checkpoints=checkpoints,
        hints=work.hints("secureboost"),
        hint_progress=lambda done, of: work.show.progress("making a hint", done, of),
    )
    model = await host_train(
        work.peer,
        binned,
        params,
        work.participant(party.policy.min_child_rows),
        shown=_shown(work.office, work.table),
        course=course,
    )
    work.learnt = len(model.splits), None
    return counted(len(model.splits), "split")


async def _fit(work: _HostTraining) -> str:
    """Fit a linear model; what this host has kept, in words."""
    office, params, show = work.office, work.job.glm, work.show
    party = office.party
    if params.coordinator is not None:
        check_coordinator(party, params.coordinator)
    designs: list[Design] = []

    def prepare(training: Mask) -> Matrix:
        check_intersection(party.policy, known_rows(work.alignment.rows[training]), most=False)
        design, matrix = prepared(work.table.path.name, work.features, training, party.glm, params.alpha)
        designs.append(design)
        return matrix

    def keep(fit: HostFit) -> None:
        (design,) = designs
        part = LinearPart(design, tuple(fit.coefficients.tolist()))
        half = work.half(HostGlm(part, fit.converged))
        save_half(work.store, half)
        path = save_relativities(work.store, half, party.glm.step)
        show.say(f"relativities are in {path}")
        if not fit.converged:
            show.say(f"note: the fit had not converged when {work.peer.name} ended it")

    def follow(iteration: int, of: int) -> None:
        show.progress(f"fitting {work.job.name}, at most {counted(of, 'iteration')}", iteration, None)

    unfinished, done = work.unfinished, work.offer.done
    kind = HostFitState if params.coordinator is None else HiddenState
    checkpoints: Checkpoints[Any] = unfinished.checkpoints(kind, done)
    agreement = await work.accept()
    participant = work.participant(party.policy.min_intersection)
    course = HostCourse[HostFit, Any](keep, follow, checkpoints)
    rows = len(work.alignment.rows)
    if params.coordinator is None:
        course = replace(
            course,
            hints=work.hints("glm"),
            hint_progress=lambda done, of: show.progress("making a hint", done, of),
        )
        beta = await host_fit(work.peer, rows, prepare, params, participant, course)
        work.learnt = None, beta
        return counted(len(beta), "coefficient")
    reach = max(_REACH, party.party.reconnect) if done else _REACH  # it may be about to come back
    async with coordinator_of(
        office, agreement, work.offer.job, params.coordinator, reach, show
    ) as coordinator:
        work.others.append(coordinator)
        fit = await hidden_host_fit(
            work.peer,
            coordinator,
            rows,
            prepare,
            params,
            work.job.job.family or "",
            participant,
            course,
        )
    work.learnt = None, fit.coefficients
    return counted(len(fit.coefficients), "coefficient")


def _shown(office: Office, table: Table) -> Callable[[str], str]:
    """The name under which the guest may see a column: its own, or the party's and a number."""
    if office.party.policy.show_names:
        return str
    numbers = {name: i for i, name in enumerate(table.features, 1)}
    return lambda column: f"{office.party.name}:{numbers[column]}"
