"""The host's side: serve guests, job after job."""

import asyncio
import contextlib
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from vfl.crypto.workers import Operations
from vfl.errors import ModelError, PeerError, PeerLost, PeerStopped, Refused, VflError, fault
from vfl.jobs.account import Account
from vfl.jobs.connect import Office, check_role
from vfl.jobs.coordinator import Join, check_coordinator, coordinator_of
from vfl.jobs.halves import (
    Alignment,
    AnyHostHalf,
    HostHalf,
    ids_digest,
    load_alignment,
    load_half,
    save_alignment,
    save_half,
)
from vfl.jobs.offer import Accept, Kept, Offer, bind
from vfl.jobs.record import Record, now, save_record
from vfl.jobs.relativities import save_relativities
from vfl.jobs.show import Once, Show, say_unseen
from vfl.learn.binning import bin_columns
from vfl.learn.design import Design, Matrix
from vfl.learn.losses import Floats
from vfl.net.peer import Peer, stop_all
from vfl.net.websocket import WebSocketPeer, dial, listen
from vfl.party.config import Job, PolicySection
from vfl.party.ids import NormalisedIds, normalise
from vfl.party.linear import own_scores, prepared
from vfl.party.store import Kind, Store
from vfl.party.table import Table, read_table
from vfl.protocols.bits import Mask
from vfl.protocols.boost import HostModel, host_train
from vfl.protocols.glm import host_fit
from vfl.protocols.glm_scoring import HostGlm, LinearPart, host_glm_score
from vfl.protocols.hidden_glm import hidden_host_fit
from vfl.protocols.psi import host_align
from vfl.protocols.scoring import host_score

_REACH = 60.0  # seconds to reach a coordinator
_PAUSE = 1.0  # seconds between two sessions with a guest that hangs up


async def serve(office: Office, show: Show) -> None:
    """Serve every guest of the party file until cancelled; no job's failure ends it.

    Raises DataError or ConfigError when the table or an address cannot be used from the start.
    """
    party = office.party
    table, ids = _read(office)
    for warning in table.warnings:
        show.say(f"note: {warning}")
    show.say(
        f"{party.name} serves {table.path.name}: {len(ids.ids):,} ids, {len(table.features)} columns"
    )
    async with asyncio.TaskGroup() as group:
        for name in party.partners:
            if (address := party.peers[name].address) is not None:
                group.create_task(_dial_forever(office, name, address, show))
        if party.party.listen is not None:
            group.create_task(_listen_forever(office, party.party.listen, group, show))


async def _dial_forever(office: Office, name: str, address: str, show: Show) -> None:
    once = Once(show.say)

    def waits(why: str) -> None:
        once(f"waiting for {why}")

    show.say(f"dialling {name} at {address}")
    while True:
        try:
            peer = await dial(
                office.credentials, name, address, office.party.role, math.inf, on_wait=waits
            )
        except VflError as error:
            # The other side may be mended while this one waits.
            once(f"error: {error}")
        else:
            await serve_session(office, peer, show)
        await asyncio.sleep(_PAUSE)


async def _listen_forever(office: Office, address: str, group: asyncio.TaskGroup, show: Show) -> None:
    async with listen(office.credentials, address, office.party.role, Once(show.say)) as listener:
        show.say(f"listening on {address.rpartition(':')[0]}:{listener.port}")
        while True:
            peer = await listener.accept()
            group.create_task(serve_session(office, peer, show))


async def serve_session(office: Office, peer: WebSocketPeer, show: Show) -> None:
    """One session: a guest's job, or its wish to leave. Says how it ended and tells the guest."""
    try:
        check_role(peer, "guest")
        try:
            offer = await peer.recv(Offer)
        except PeerLost:
            return  # connected to see whether this party is there
        started = time.monotonic()
        done = await _while_connected(peer, _TASKS[offer.task](office, peer, offer, show))
        traffic = peer.traffic
        show.say(
            f"{done} in {time.monotonic() - started:.1f} s; sent {traffic.bytes_sent:,} bytes, "
            f"received {traffic.bytes_received:,}"
        )
    except (PeerStopped, PeerLost) as error:
        show.say(f"job ended: {error}")
    except VflError as error:
        not_ours = isinstance(error, PeerError | Refused)
        show.say(f"{'job ended' if not_ours else 'error'}: {error}")
        await stop_all([peer], error)
    except asyncio.CancelledError:
        await stop_all([peer], VflError("", for_peer="it is shutting down"))
        raise
    except Exception as error:
        # A bug here must not end the service for the next job.
        show.say(f"error: {fault(error)}")
        await stop_all([peer], VflError(""))
    finally:
        with contextlib.suppress(PeerLost):
            await peer.close()


async def _while_connected(peer: WebSocketPeer, job: Awaitable[str]) -> str:
    """The job's outcome; ends early when the guest is gone while this party computes."""
    working = asyncio.ensure_future(job)
    try:
        while not working.done():
            await asyncio.wait([working], timeout=0.5)
            if peer.lost and not working.done():
                await asyncio.wait([working], timeout=0.5)  # it may be reading the guest's last words
                break
        if not working.done():
            raise peer.last_words(PeerLost(f"{peer.name} is gone"))
        return working.result()
    finally:
        working.cancel()


async def _align(office: Office, peer: Peer, offer: Offer, show: Show) -> str:
    _, ids = await _accept(office, peer, offer, show, "align ids")
    store = Store(office.party.party.store)
    name = _fresh(store, "alignment", offer.alignment)
    await peer.send(Accept())
    bind(peer, offer)
    rows = await host_align(
        peer,
        ids.ids,
        context=offer.run,
        name=office.party.name,
        hosts=offer.hosts,
        minimum=office.party.policy.min_intersection,
        sign=office.identity.sign,
        verify=office.verify,
        progress=show.progress,
    )
    agreed = await peer.recv(Accept)
    if agreed.rows != len(rows):
        raise peer.breach("another number of common rows than this party has")
    known = office.fingerprints
    alignment = Alignment(
        name,
        known[peer.name],
        {name: known.get(name, "") for name in (peer.name, *offer.hosts)},
        tuple(offer.normalise),
        ids_digest(ids.ids),
        ids.rows[rows],
    )
    save_alignment(store, alignment)
    await peer.send(Kept())
    return f"aligned {len(rows):,} rows with {peer.name}"


@dataclass(frozen=True)
class _Work:
    """A training that this host has agreed to, whatever the kind of model."""

    office: Office
    peer: Peer
    offer: Offer
    job: Job
    name: str  # of the model
    alignment: Alignment
    table: Table
    show: Show
    operations: Operations = field(default_factory=Counter)
    others: list[Peer] = field(default_factory=list)  # sessions beside that with the guest

    @property
    def store(self) -> Store:
        return Store(self.office.party.party.store)

    async def accept(self) -> None:
        """Tell the guest that this host takes part."""
        await self.peer.send(Accept(len(self.alignment.rows)))
        bind(self.peer, self.offer)

    def half(self, model: HostModel | HostGlm) -> AnyHostHalf:
        """This host's half, which it keeps."""
        return HostHalf(
            self.name,
            self.job.settings,
            tuple(self.table.features),
            self.alignment.normalise,
            self.alignment.guest,
            self.office.identity.certificate.fingerprint,
            model,
        )


async def _train(office: Office, peer: Peer, offer: Offer, show: Show) -> str:
    party = office.party
    job = Job.from_canonical(offer.job)
    table, ids = await _accept(office, peer, offer, show, f"train {job.name} ({job.job.purpose})")
    _check_policy(party.policy, job)
    store = Store(party.party.store)
    name = _fresh(store, "model", offer.model)
    alignment = _aligned(office, store, peer, offer, ids)
    started = time.monotonic()
    work = _Work(office, peer, offer, job, name, alignment, table, show)
    kept = await (_fit if job.job.model == "glm" else _boost)(work)
    account = Account.of(started, [peer, *work.others], work.operations)
    parties = [peer.name, *offer.hosts]
    rows = len(alignment.rows)
    save_record(
        store,
        Record(
            name, party.name, party.role, parties, job.settings, alignment.name, rows, now(), account
        ),
    )
    return f"trained {name} with {peer.name}: {kept} are of this party's columns"


async def _boost(work: _Work) -> str:
    """Train trees; what this host has kept, in words."""
    party, params = work.office.party, work.job.secureboost
    binned = await asyncio.to_thread(
        bin_columns,
        work.table.take(work.alignment.rows),
        params.max_bins,
        max(params.min_bin_rows, party.policy.min_child_rows),
    )
    await work.accept()
    model = await host_train(
        work.peer,
        binned,
        params,
        name=party.name,
        shown=_shown(work.office, work.table),
        machine=party.party.machine,
        operations=work.operations,
        keep=lambda model: save_half(work.store, work.half(model)),
        progress=lambda tree, of: work.show.progress(f"training {work.job.name}", tree, of),
    )
    return f"{len(model.splits)} splits"


async def _fit(work: _Work) -> str:
    """Fit a linear model; what this host has kept, in words."""
    office, params, show = work.office, work.job.glm, work.show
    party = office.party
    if params.coordinator is not None:
        check_coordinator(party, params.coordinator)
    features = work.table.take(work.alignment.rows)
    designs: list[Design] = []

    def prepare(training: Mask) -> Matrix:
        design, matrix = prepared(work.table.path.name, features, training, party.glm, params.alpha)
        designs.append(design)
        return matrix

    def keep(coefficients: Floats, converged: bool) -> None:
        (design,) = designs
        half = work.half(HostGlm(LinearPart(design, tuple(coefficients.tolist())), converged))
        save_half(work.store, half)
        show.say(f"relativities are in {save_relativities(work.store, half)}")
        if not converged:
            show.say(f"note: the fit had not converged when {work.peer.name} ended it")

    def follow(iteration: int, of: int) -> None:
        show.progress(f"fitting {work.job.name}, at most {of:,} iterations", iteration, None)

    await work.accept()
    common: dict[str, Any] = {
        "name": party.name,
        "hosts": work.offer.hosts,
        "context": work.offer.run,
        "minimum": party.policy.min_intersection,
        "sign": office.identity.sign,
        "verify": office.verify,
        "machine": party.party.machine,
        "operations": work.operations,
        "keep": keep,
    }
    rows = len(work.alignment.rows)
    if params.coordinator is None:
        beta = await host_fit(work.peer, rows, prepare, params, **common, progress=follow)
        return f"{len(beta)} coefficients"
    join = Join(work.offer.run, work.peer.name, work.offer.hosts, work.offer.job)
    async with coordinator_of(office, join, params.coordinator, _REACH) as coordinator:
        work.others.append(coordinator)
        fit = await hidden_host_fit(
            work.peer,
            coordinator,
            rows,
            prepare,
            params,
            work.job.job.family or "",
            **common,
            progress=lambda iteration, of, _: follow(iteration, of),
        )
    return f"{len(fit.coefficients)} coefficients"


async def _score(office: Office, peer: Peer, offer: Offer, show: Show) -> str:
    table, ids = await _accept(office, peer, offer, show, f"score a batch with {offer.model}")
    half = load_half(Store(office.party.party.store), offer.model or "", HostHalf)
    if half.guest != office.fingerprints[peer.name]:
        raise Refused(f"model {half.name} was not trained with this {peer.name}")
    missing = [column for column in half.columns if column not in table.features]
    if missing:
        raise ModelError(
            f"{table.path.name} has no column {missing[0]!r}, which model {half.name} was trained on"
        )
    await peer.send(Accept())
    bind(peer, offer)
    rows = await host_align(
        peer,
        ids.ids,
        context=offer.run + office.party.name.encode(),
        name=office.party.name,
        hosts=[office.party.name],
        allow_empty=True,
        progress=show.progress,
    )
    features = table.take(ids.rows[rows])

    def follow(done: int, of: int) -> None:
        show.progress("scoring", done, of)

    if isinstance(half.model, HostModel):
        scored = await host_score(peer, half.model, features, len(rows), follow)
    else:
        part = half.model.part
        own = await asyncio.to_thread(own_scores, table.path.name, part, features, len(rows))
        say_unseen(show, own.unseen)
        scored = await host_glm_score(peer, own.missing, own.rows, follow)
    return f"scored {scored:,} rows for {peer.name}"


_TASKS: dict[str, Callable[[Office, Peer, Offer, Show], Awaitable[str]]] = {
    "align": _align,
    "train": _train,
    "score": _score,
}


def _read(office: Office) -> tuple[Table, NormalisedIds]:
    data = office.party.data
    table = read_table(data, role="host", need_label=False)
    return table, normalise(table.ids, data.normalise, data.duplicates, table.path.name)


async def _accept(
    office: Office, peer: Peer, offer: Offer, show: Show, what: str
) -> tuple[Table, NormalisedIds]:
    """Say what is asked; the table as it is now, with ids by the rule both sides name."""
    party = office.party
    show.say(f"{peer.name} asks to {what}")
    if party.name not in offer.hosts or len(set(offer.hosts)) < len(offer.hosts):
        raise peer.breach("an Offer that does not name this party once")
    own_rule, asked = list(party.data.normalise), list(offer.normalise)
    if own_rule != asked:
        raise Refused(
            f"{party.name} normalises ids by {', '.join(own_rule)}, the guest by {', '.join(asked)}: "
            "set normalise in [data] alike on both sides"
        )
    # In a thread: the guest would hold a host for dead that says nothing while it reads.
    return await asyncio.to_thread(_read, office)


def _check_policy(policy: PolicySection, job: Job) -> None:
    """Raises Refused naming the rule that the job breaks."""
    boosts = job.job.model == "secureboost"
    if boosts and job.secureboost.min_child_rows < policy.min_child_rows:
        raise Refused(
            f"min_child_rows = {job.secureboost.min_child_rows} is below the host's policy of "
            f"{policy.min_child_rows}"
        )
    key_bits = job.secureboost.key_bits if boosts else job.glm.key_bits
    if key_bits < policy.key_bits:
        raise Refused(f"key_bits = {key_bits} is below the host's policy of {policy.key_bits}")


def _fresh(store: Store, kind: Kind, name: str | None) -> str:
    """The name for a new document. Raises Refused when it is taken: nothing is overwritten."""
    if name is None or name in store.names(kind):
        raise Refused(f"the {kind} that the guest names exists already at the host")
    return name


def _aligned(office: Office, store: Store, peer: Peer, offer: Offer, ids: NormalisedIds) -> Alignment:
    """The alignment that the offer names, if it is with this guest, these hosts and this table."""
    if offer.alignment is None:
        raise peer.breach("an Offer to train without an alignment")
    if offer.alignment not in store.names("alignment"):
        raise ModelError(
            f"there is no alignment {offer.alignment} here",
            for_peer=f"it has no alignment {offer.alignment}: run `vfl align` again",
        )
    alignment = load_alignment(store, offer.alignment)
    if alignment.guest != office.fingerprints[peer.name] or set(alignment.parties) != {
        peer.name,
        *offer.hosts,
    }:
        raise Refused(f"alignment {alignment.name} was made with other parties")
    if alignment.ids != ids_digest(ids.ids):
        file = office.party.data.path.name
        raise ModelError(
            f"{file} has other ids (or another order) than when alignment {alignment.name} was made",
            for_peer=f"its table changed since alignment {alignment.name}: run `vfl align` again",
        )
    return alignment


def _shown(office: Office, table: Table) -> Callable[[str], str]:
    """The name under which the guest may see a column: its own, or the party's and a number."""
    if office.party.policy.show_names:
        return str
    numbers = {name: i for i, name in enumerate(table.features, 1)}
    return lambda column: f"{office.party.name}:{numbers[column]}"
