"""The host's side: serve guests, job after job."""

import asyncio
import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any

from vfl.crypto.workers import Operations
from vfl.errors import (
    ConfigError,
    DataError,
    ModelError,
    PeerLost,
    PeerStopped,
    Refused,
    VflError,
)
from vfl.jobs.account import Account
from vfl.jobs.agreement import Agreement
from vfl.jobs.alignment import (
    accept,
    alone,
    asked,
    count_ids,
    fresh_name,
    host_alignment,
    known_rows,
    psi_settings,
    read_host,
    serve_align,
    table_of,
)
from vfl.jobs.connect import Office, check_role, no_job, warn_daily
from vfl.jobs.coordinator import check_coordinator, coordinator_of
from vfl.jobs.findings import own_part, words_of
from vfl.jobs.halves import (
    Alignment,
    AnyHostHalf,
    HostHalf,
    load_half,
    save_half,
)
from vfl.jobs.hints import HostHints
from vfl.jobs.offer import Kept, Offer
from vfl.jobs.record import Record, now, save_record
from vfl.jobs.relativities import save_relativities
from vfl.jobs.resume import Matter, Replaceable, Unfinished, limit_runs, opened
from vfl.jobs.show import Once, Show, drift_of_columns, say_unknown_levels, say_unseen
from vfl.jobs.storage import serving
from vfl.jobs.telling import serving_on, while_here
from vfl.learn.binning import Features, bin_columns
from vfl.learn.design import Design, Matrix
from vfl.learn.drift import Profile, profiles
from vfl.learn.levels import Levels, levels_of, respelled, tidied
from vfl.net.peer import Peer, stop_all
from vfl.net.websocket import WebSocketPeer
from vfl.net.wire import decode
from vfl.party.config import Job
from vfl.party.id_report import unmended
from vfl.party.linear import check_rules, own_scores, prepared
from vfl.party.policy import (
    Usage,
    check_batch,
    check_intersection,
    check_job,
    check_score,
    today,
)
from vfl.party.store import Store
from vfl.party.table import Table
from vfl.protocols.align.join import host_match
from vfl.protocols.common.batches import ScoreRows
from vfl.protocols.common.bits import Mask
from vfl.protocols.common.checkpoints import Checkpoints
from vfl.protocols.common.course import HostCourse
from vfl.protocols.common.participant import Participant
from vfl.protocols.linear.fitting import HostFit, HostFitState, host_fit
from vfl.protocols.linear.hidden import HiddenState, hidden_host_fit
from vfl.protocols.linear.scoring import HostGlm, LinearPart, host_glm_score
from vfl.protocols.trees.grower import HostModel, HostTrees
from vfl.protocols.trees.scoring import host_score
from vfl.protocols.trees.training import host_train
from vfl.text import counted

_REACH = 60.0  # seconds to reach a coordinator
_PAUSE = 1.0  # seconds between two sessions with a guest that hangs up
_OFFER = 600.0  # seconds for which a session may be without a job
_TRAINING = Replaceable()
_NOT_AS_IN_TRAINING = "one of its columns is not as it was in training (its log has the details)"


async def serve(office: Office, show: Show) -> None:
    """Serve every guest of the party file until cancelled; no job's failure ends it.

    Raises DataError or ConfigError when the store, the table or an address cannot be used from the
    start, Refused when another process serves from this store.
    """
    party = office.party
    with serving(office):
        table, ids = read_host(office, needed=())
        check_rules(party.glm, {*table.features, *table.faults}, table.path.name)
        _check_faults(office, table, show)
        written = unmended(party.data, table.by_key(party.data))
        notes = [f"{table.path.name}: {note}" for note in (*ids.notes, *written)]
        for note in (*table.warnings, *notes):
            show.say(f"note: {note}")
        show.say(
            f"{party.name} serves {table.path.name}: {counted(len(ids.rows), 'id')}, "
            f"{counted(len(table.features), 'column')}"
        )
        await _serve(office, show)


async def _serve(office: Office, show: Show) -> None:
    party = office.party
    async with asyncio.TaskGroup() as group:
        group.create_task(warn_daily(office, show))
        for name in party.partners:
            if (address := party.peers[name].address) is not None:
                group.create_task(_dial_forever(office, name, address, show))
        if party.party.listen is not None:
            group.create_task(_listen_forever(office, party.party.listen, group, show))


def _check_faults(office: Office, table: Table, show: Show) -> None:
    """Say which columns cannot be used, and which models need them.

    Raises DataError if no model does without them: then there is nothing to serve.
    """
    if not table.faults:
        return
    store, needed = Store(office.party.party.store), {}
    for name in store.names("model"):
        with contextlib.suppress(ModelError):  # another party's half, or a damaged one
            needed[name] = load_half(store, name, HostHalf).needed & table.faults.keys()
    if all(needed.values()):
        raise next(iter(table.faults.values()))
    for column, error in table.faults.items():
        models = sorted(name for name, columns in needed.items() if column in columns)
        who = "no model needs"
        if models:
            who = f"model {models[0]} needs" if len(models) == 1 else f"models {', '.join(models)} need"
        show.say(f"note: {error} ({who} it; no alignment and no training until it is mended)")


async def _dial_forever(office: Office, name: str, address: str, show: Show) -> None:
    once = Once(show.say)

    def waits(why: str) -> None:
        once(f"waiting for {why}")

    show.say(f"dialling {name} at {address}")
    while True:
        try:
            peer = await office.dial(name, address, math.inf, show, waits)
        except VflError as error:
            # The other side may be mended while this one waits.
            once(f"error: {error}")
        else:
            await serve_session(office, peer, show)
        await asyncio.sleep(_PAUSE)


async def _listen_forever(office: Office, address: str, group: asyncio.TaskGroup, show: Show) -> None:
    async with office.listen(address, show) as listener:
        show.say(f"listening on {address.rpartition(':')[0]}:{listener.port}")
        while True:
            peer = await listener.accept()
            group.create_task(serve_session(office, peer, show))


async def serve_session(office: Office, peer: WebSocketPeer, show: Show) -> None:
    """One session: a guest's job, or its wish to leave. Says how it ended and tells the guest."""
    try:
        async with serving_on([peer], show):
            await _attend(office, peer, show)
    finally:
        with contextlib.suppress(PeerLost):
            await peer.close()
        office.journal.seal(show.say)


async def _attend(office: Office, peer: WebSocketPeer, show: Show) -> None:
    check_role(peer, "guest")
    try:
        async with asyncio.timeout(_OFFER):
            offer = await peer.recv(Offer)
    except PeerLost:
        return  # connected to see whether this party is there
    except TimeoutError:
        await stop_all([peer], no_job(peer, _OFFER))
        return
    office.check_not_revoked([peer.name])
    started = time.monotonic()
    done = await while_here([peer], _TASKS[offer.task](office, peer, offer, show))
    traffic = peer.traffic
    show.say(
        f"{done} in {time.monotonic() - started:.1f} s; sent {counted(traffic.bytes_sent, 'byte')}, "
        f"received {traffic.bytes_received:,}"
    )


@dataclass
class _Work:
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


async def _train(office: Office, peer: Peer, offer: Offer, show: Show) -> str:
    """Train; in place of an attempt at the same model that waits for its guest to come back."""
    which = f"{office.party.name} {peer.name} {offer.model}"
    return await _TRAINING.run(which, lambda: _train_on(office, peer, offer, show))


async def _train_on(office: Office, peer: Peer, offer: Offer, show: Show) -> str:
    party = office.party
    job = await asyncio.to_thread(Job.from_canonical, offer.job)
    asked(office, peer, offer, show, f"train {job.name} ({job.job.purpose})")
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
        work = _Work(office, peer, offer, job, unfinished, alignment, table, features, show)
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


async def _boost(work: _Work) -> str:
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


async def _fit(work: _Work) -> str:
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


async def _score(office: Office, peer: Peer, offer: Offer, show: Show) -> str:
    policy, usage = office.party.policy, Usage(office.party.party.store)
    asked(office, peer, offer, show, f"score a batch with {offer.model}")
    check_score(policy, peer.name, today(), offer.matching.engine)
    half = load_half(Store(office.party.party.store), offer.model or "", HostHalf)
    if not office.same_party(peer.name, half.guest):
        raise Refused(f"model {half.name} was not trained with this {peer.name}")
    if policy.columns is not None and not set(half.columns) <= set(policy.columns):
        raise Refused(f"model {half.name} has columns that rule columns of [policy] leaves out")
    try:
        table, ids = await table_of(office, offer, half.columns, half.needed)
    except DataError as error:
        raise DataError(f"{error} (for model {half.name})", for_peer=_NOT_AS_IN_TRAINING) from None
    for column in table.faults:
        show.say(f"note: {table.path.name}: column '{column}' cannot be used; {half.name} needs it not")
    await accept(office, peer, offer)
    count_ids(peer, policy, usage)
    settings = psi_settings(office, offer, show)
    rows = (await host_match(peer, ids.keys, alone(office, offer), settings=settings)).rows
    check_batch(policy, len(rows))
    # These are the rows that it will be asked for.
    features, unknown = await asyncio.to_thread(respelled, table.take(rows), half.levels)
    strange = say_unknown_levels(show, unknown, half.levels)
    await asyncio.to_thread(drift_of_columns, show, half.profiles, table.path.name, features)

    def follow(done: int, of: int) -> None:
        show.progress("scoring", done, of)

    def count(direction: str, kind: str, payload: bytes) -> None:
        """Rows as they are asked for, before any answer."""
        if (direction, kind) == ("received", ScoreRows.__name__):
            message = decode(payload, [ScoreRows])
            many = len(message.places) // 4 if isinstance(message, ScoreRows) else 0
            usage.count(policy, peer.name, "scored_rows", many, today())

    peer.observers.append(count)
    if isinstance(half.model, HostModel):
        scored = await host_score(peer, half.model, features, len(rows), follow, unknown_levels=strange)
    else:
        part = half.model.part
        scores = await asyncio.to_thread(own_scores, table.path.name, part, features, len(rows))
        say_unseen(show, scores.unseen, half.levels)
        shows = policy.show_names and policy.explain
        scored = await host_glm_score(
            peer,
            part,
            features,
            scores.rows,
            scores.missing,
            follow,
            show_columns=shows,
            unknown_levels=strange,
        )
    return f"scored {counted(scored, 'row')} for {peer.name}"


_TASKS: dict[str, Callable[[Office, Peer, Offer, Show], Coroutine[Any, Any, str]]] = {
    "align": serve_align,
    "train": _train,
    "score": _score,
}


def _shown(office: Office, table: Table) -> Callable[[str], str]:
    """The name under which the guest may see a column: its own, or the party's and a number."""
    if office.party.policy.show_names:
        return str
    numbers = {name: i for i, name in enumerate(table.features, 1)}
    return lambda column: f"{office.party.name}:{numbers[column]}"
