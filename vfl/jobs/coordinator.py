"""The coordinator's side: hold the key of jobs with hidden scores, decrypt what was masked, lead.

It listens; guest and hosts dial it for a job that names it, each in a session of its own.
"""

import asyncio
import contextlib
import hashlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from msgspec import UNSET

from vfl.errors import (
    PeerLost,
    PeerUnreachable,
    Refused,
    VflError,
)
from vfl.jobs.account import Account
from vfl.jobs.agreement import (
    Agreement,
    check_certificates,
    check_commitments,
    check_queries,
    check_signatures,
    given,
)
from vfl.jobs.connect import Site, check_role, warn_daily
from vfl.jobs.evidence import Keeping, keeping
from vfl.jobs.names import JOB_LENGTH
from vfl.jobs.offer import Gathered, Join, Kept, Terms, stamp
from vfl.jobs.record import Record, now, save_record
from vfl.jobs.show import Show
from vfl.jobs.storage import serving
from vfl.jobs.telling import attending, first_message, serving_on, telling, while_here
from vfl.models.findings import words_of
from vfl.models.kind import CoordinatorRun
from vfl.models.kinds import kind_of_job
from vfl.net.peer import Peer, stop_all, together
from vfl.net.websocket import WebSocketPeer
from vfl.news import News
from vfl.party.config import Job
from vfl.party.policy import check_coordinator
from vfl.party.store import Store
from vfl.protocols.common.participant import Resources
from vfl.text import counted

T = TypeVar("T")
_GATHERING = 120.0  # seconds that the first party of a job waits for the others
_JOIN = 60.0  # seconds for which a session may be without a job


@contextlib.asynccontextmanager
async def coordinator_of(
    site: Site,
    agreement: Agreement,
    job: bytes,
    name: str,
    wait: float,
    show: Show,
    hosts: Sequence[Peer] = (),
) -> AsyncIterator[Peer]:
    """A party's session with the coordinator, when all have come; it is told what ends the job.

    `job` is in canonical form. The coordinator's signature is added to `agreement`.
    Raises what sessions raise, also when one of `hosts`, whose sessions are the guest's, ends the job
    before all have come.
    """
    address = check_coordinator(site.party, name)
    terms = agreement.terms
    signatures = [agreement.signatures[signer] for signer in terms.signers]
    join = Join(terms, signatures, job, agreement.told_queries, agreement.told_commitments)
    session = await while_here(hosts, site.dial(name, address, wait, show))
    cancelled = VflError("", for_peer="its part of the job was cancelled", passing=True)
    async with telling([session], cancelled), site.while_not_revoked([name]):
        check_role(session, "coordinator")
        await session.send(join)
        gathered = await while_here(hosts, session.recv(Gathered))
        commitment = given(gathered.commitment)
        if not site.pinned[name].verify(gathered.signature, terms.statement_of(b"", commitment)):
            raise session.breach("Gathered with a signature that does not hold")
        agreement.add(name, gathered.signature, commitment)
        _bind(session, join)
        yield session
    await session.close()


def _bind(peer: Peer, join: Join) -> None:
    """Bind what follows to this run and this job; both ends call it after Gathered."""
    peer.bind(b"coordinated job", join.terms.run, join.job)


@dataclass
class _Gathering:
    """A job whose parties are coming."""

    join: Join
    came: dict[str, WebSocketPeer] = field(default_factory=dict)
    done: asyncio.Event = field(default_factory=asyncio.Event)  # the job has ended
    error: VflError | None = None  # why it ended before all had come

    @property
    def missing(self) -> list[str]:
        return [name for name in self.join.parties if name not in self.came]


async def coordinate(site: Site, show: Show, patience: float = _GATHERING) -> None:
    """Serve jobs until cancelled; no job's failure ends it.

    Raises ConfigError for the address, DataError for the store, Refused when another process serves from
    it. `patience`: seconds that the first party of a job waits for the others.
    """
    address = site.party.party.listen or ""
    gatherings: dict[bytes, _Gathering] = {}
    with serving(site):
        await _coordinate(site, address, gatherings, show, patience)


async def _coordinate(
    site: Site, address: str, gatherings: dict[bytes, _Gathering], show: Show, patience: float
) -> None:
    async with (
        asyncio.TaskGroup() as group,
        site.listen(address, show) as listener,
    ):
        where = f"{site.party.name} coordinates: {site.where(listener)}"
        show.say(News(where, "listening"))
        group.create_task(warn_daily(site, show))
        while True:
            peer = await listener.accept()
            group.create_task(_session(site, peer, gatherings, show, patience))


async def _session(
    site: Site,
    peer: WebSocketPeer,
    gatherings: dict[bytes, _Gathering],
    show: Show,
    patience: float,
) -> None:
    """One party's session: who comes last leads the job, the others' sessions wait for its end."""
    async with attending(peer, site.journal, show):
        await _attend(site, peer, gatherings, show, patience)


async def _attend(
    site: Site,
    peer: WebSocketPeer,
    gatherings: dict[bytes, _Gathering],
    show: Show,
    patience: float,
) -> None:
    join = await first_message(peer, Join, _JOIN)
    if join is None:
        return
    site.check_not_revoked([peer.name])
    await asyncio.to_thread(Job.from_canonical, join.job)  # which is not read again
    job = _check_join(site, peer, join)
    gathering = gatherings.setdefault(join.terms.run, _Gathering(join))
    if gathering.join != join:
        raise peer.breach("a Join of another job than the other parties'")
    if peer.name in gathering.came:
        raise peer.breach("a second Join")
    gathering.came[peer.name] = peer
    if not gathering.missing:
        del gatherings[join.terms.run]
        await _lead(site, gathering, job, show)
    elif error := await _wait(peer, gathering, gatherings, patience):
        if gathering.error is None:  # the first to see it says it
            gathering.error = error
            gathering.done.set()
            show.say(News(f"job ended: {error}", "ended", peer.name))
        await stop_all([peer], error)


def _check_join(site: Site, peer: Peer, join: Join) -> Job:
    """The job, if this party is its coordinator and the peer one of its parties."""
    job = Job.from_canonical(join.job)
    if len(set(join.parties)) < len(join.parties) or peer.name not in join.parties:
        raise peer.breach("a Join that does not name it once")
    if kind_of_job(job).coordinator != site.party.name:
        raise Refused("the job names another coordinator, or none")
    strangers = [name for name in join.parties if name not in site.party.peers]
    if strangers:
        raise Refused(f"the job is with {strangers[0]}, whose certificate the coordinator does not pin")
    _check_terms(site, peer, join)
    return job


def _check_terms(site: Site, peer: Peer, join: Join) -> None:
    """Raises PeerError when what the parties have signed is not this job of theirs, Refused when they
    know one of them by another certificate."""
    terms = join.terms
    if terms.task != "train" or terms.job != hashlib.sha256(join.job).digest():
        raise peer.breach("a Join of another job than the parties have signed")
    if set(terms.fingerprints) != {*join.parties, site.party.name}:
        raise peer.breach("a Join without the certificates of its parties")
    check_certificates(site, terms)
    if len(join.signatures) != len(join.parties):
        raise peer.breach("a Join with another number of signatures than parties")
    check_queries(peer, "a Join", terms, join.queries)
    check_commitments(peer, "a Join", terms, join.commitments)
    agreement = Agreement.of(
        site, terms, join.signatures, queries=join.queries, commitments=join.commitments
    )
    check_signatures(site, peer, "a Join", agreement)


async def _wait(
    peer: WebSocketPeer, gathering: _Gathering, gatherings: dict[bytes, _Gathering], patience: float
) -> VflError | None:
    """Until the job has ended; why, if it ended before all parties had come."""
    deadline = time.monotonic() + patience
    while not gathering.done.is_set():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                await gathering.done.wait()
        missing = gathering.missing
        if not missing or gathering.done.is_set():
            continue  # the one who leads knows
        if peer.lost or time.monotonic() > deadline:
            gatherings.pop(gathering.join.terms.run, None)
            if peer.lost:
                return peer.last_words(PeerLost(f"{peer.name} is gone"))
            text = f"{' and '.join(missing)} did not join the job within {patience:.0f} s"
            return PeerUnreachable(text, for_peer=text)
    return gathering.error


async def _lead(site: Site, gathering: _Gathering, job: Job, show: Show) -> None:
    """The job, with all its parties here; whatever ends it, all are told."""
    parties = [gathering.came[name] for name in gathering.join.parties]
    try:
        async with serving_on(parties, show), site.while_not_revoked(gathering.join.parties):
            with site.activity.job("train", show, gathering.join.parties, [job.name]) as following:
                site.activity.offered(gathering.join.terms.run, leads=False)
                await _fit(site, gathering.join, parties, job, following)
    finally:
        gathering.done.set()


async def _fit(site: Site, join: Join, parties: Sequence[WebSocketPeer], job: Job, show: Show) -> None:
    asked = f"{join.terms.guest} asks to coordinate {job.name} ({job.job.purpose})"
    show.say(News(asked, "asked", join.terms.guest))
    agreement = Agreement.of(
        site, join.terms, join.signatures, queries=join.queries, commitments=join.commitments
    )
    with keeping(site, show, dict) as kept:
        await _fit_on(site, join, agreement, parties, job, show, kept)


async def _fit_on(
    site: Site,
    join: Join,
    agreement: Agreement,
    parties: Sequence[WebSocketPeer],
    job: Job,
    show: Show,
    kept: Keeping,
) -> None:
    """Sign, and have the job done."""
    started, operations, store = time.monotonic(), Counter[str](), site.store
    own = site.identity.sign(join.terms.statement_of(b"", kept.commitment))
    agreement.add(site.party.name, own, kept.commitment)
    await together([party.send(Gathered(own, kept.commitment or UNSET)) for party in parties])
    for party in parties:
        _bind(party, join)
    kept.agreed(agreement, join.job, parties)

    def follow(what: str, done: int, of: int | None) -> None:
        show.progress(f"{job.name}: {what}", done, of)

    resources = Resources(
        site.party.party.machine, operations, kept.randomness_of(join.terms.run), kept.say
    )
    run = CoordinatorRun(resources, follow, join.terms.done)
    outcome = await kind_of_job(job).coordinator_role().train(parties, run)
    # A model that says the same of every row is none: the guest finds that out, and others do.
    (guest,) = (party for party in parties if party.name == join.terms.guest)
    found = words_of((await guest.recv(Kept)).found)
    for text in found:
        show.say(f"note: {text}")
    account = Account.of(started, parties, operations)
    record = Record(
        _record_name(store, job, join.terms),
        site.party.name,
        site.party.role,
        join.parties,
        job.settings,
        "",
        0,
        now(),
        account,
        agreement=agreement,
        warnings=found,
    )
    save_record(store, record)
    sent, received = (sum(of.values()) for of in (account.sent, account.received))
    line = f"coordinated {job.name} in {account.seconds:.1f} s: {outcome}; "
    line += f"sent {counted(sent, 'byte')}, received {received:,}"
    show.say(News(line, "done"))


def _record_name(store: Store, job: Job, terms: Terms) -> str:
    """The model's, unless there is a record of that name: nothing is overwritten."""
    if terms.model is not None and terms.model not in store.names("run"):
        return terms.model
    return f"{job.name[:JOB_LENGTH]}-{stamp(terms.run)}"
