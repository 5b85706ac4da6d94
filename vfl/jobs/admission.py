"""What a job asks of a host, and what a host lets in."""

from collections.abc import Sequence
from dataclasses import replace

from vfl.crypto.randomness import Randomness
from vfl.errors import Refused
from vfl.jobs.agreement import Agreement, accept_offer, check_offer
from vfl.jobs.columns_given import ColumnsGiven
from vfl.jobs.connect import Site
from vfl.jobs.offer import Approved, Matching, Offer
from vfl.jobs.show import Show
from vfl.learn.params import GlmParams
from vfl.net.peer import Peer
from vfl.news import News
from vfl.party.config import Job
from vfl.party.config_values import Engine, JoinKind
from vfl.party.kept_ids import GuestKeptAnswers, GuestKeptStores, HostKeptIds
from vfl.party.kept_query import KeptQuery
from vfl.party.kinds import DocumentKind
from vfl.party.policy import (
    OVER_COLUMNS,
    Sides,
    Usage,
    check_job,
    sides_of,
    today,
)
from vfl.party.policy_section import PolicySection
from vfl.party.sections import DataSection
from vfl.party.store import Store
from vfl.protocols.align.answered import KeptAnswers
from vfl.protocols.align.psi import Admit, PsiSettings
from vfl.protocols.common.participant import Participant
from vfl.text import in_words


def matching_of(
    data: DataSection,
    *,
    engine: Engine = "ecdh",
    join: JoinKind = "inner",
    many: bool = False,
    extends: str | None = None,
) -> Matching:
    """What a guest's Offer says of its keys and of how rows are matched."""
    return Matching(
        [list(key.normalise) for key in data.fallback],
        [len(key.id) for key in data.keys],
        engine,
        join,
        many,
        extends,
    )


def psi_settings(
    site: Site, offer: Offer, show: Show, hosts: Sequence[Peer], randomness: Randomness
) -> PsiSettings:
    """How a guest matches ids with these hosts in a job. `randomness`: of this matching alone."""
    settings = _settings(site, offer, show, randomness)
    if len(hosts) != 1:
        return settings
    (host,) = hosts
    settings = replace(settings, guest_keeps=GuestKeptStores(site.store, host.name))
    if offer.task != "align":  # of a batch's ids nothing is kept
        return settings
    keeps = GuestKeptAnswers(site.store, host.name, offer.run.hex())
    return replace(settings, answers=KeptAnswers(keeps))


def host_psi_settings(
    site: Site,
    offer: Offer,
    show: Show,
    guest: Peer,
    admit: Admit,
    randomness: Randomness,
    *,
    alone: bool,
) -> PsiSettings:
    """How a host matches ids; `admit` is told how many the guest announces. `randomness`: of this
    matching alone. alone: whether no other host is there."""
    policy, keeps = site.party.policy, None
    if policy.kept_key_days and alone:
        known = guest.name, site.fingerprints[guest.name]
        keeps = HostKeptIds(site.store, known, offer.normalise, policy, today(), offer.run.hex())
    return replace(_settings(site, offer, show, randomness), admit=admit, host_keeps=keeps)


def _settings(site: Site, offer: Offer, show: Show, randomness: Randomness) -> PsiSettings:
    return PsiSettings(offer.matching.engine, site.store.scratch(), show.progress, randomness=randomness)


def lone_participant(site: Site, offer: Offer) -> Participant:
    """This host in a matching with the guest alone, which asks each host by itself."""
    name = site.party.name
    return Participant(name, [name], offer.run + name.encode())


def check_request(site: Site, peer: Peer, offer: Offer, show: Show, what: str) -> None:
    """Say what the peer asks for. Raises as `check_offer`."""
    show.say(News(f"{peer.name} asks to {what}", "asked", peer.name))
    check_offer(site, peer, offer)


def admit_job(site: Site, guest: str, job: Job) -> None:
    """Raises Refused for a training that the policy does not allow, or of which nothing further may be
    told."""
    policy, params = site.party.policy, job.params
    check_job(policy, job, guest, today())
    if isinstance(params, GlmParams) and params.inference:
        ColumnsGiven(site.store).check_room(policy, guest)


def check_project(site: Site, guest: str, job: Job, show: Show) -> None:
    """Say of which project a job is, if of any. Raises Refused where the day has no room for it and for
    the models that come after it: none is of use without the others."""
    names = job.job.project
    if names is None:
        return
    show.say(f"it is one of the models {in_words(names)}, each a job")
    left = len(names) - names.index(job.name)
    Usage(site.store).check_room(site.party.policy, guest, "jobs", left, today())


async def accept(
    site: Site,
    peer: Peer,
    offer: Offer,
    rows: int | None = None,
    query: KeptQuery | None = None,
    jobs: int = 1,
    approved: Approved | None = None,
    commitment: bytes = b"",
) -> Agreement:
    """Count the job, which starts here, and tell who started it that this party takes part.

    A job that goes on counts again: each attempt may ask this party anew. `jobs`: as how many it counts.
    `approved`: what `approval.approve` gave, which has to be asked before. `commitment`: this one's, if
    it keeps a tape. Returns the agreement.
    """
    count_job(site, peer, rows, jobs)
    digest = b"" if query is None else query.digest
    return await accept_offer(site, peer, offer, rows, digest, approved, commitment)


def count_job(site: Site, peer: Peer, rows: int | None = None, jobs: int = 1) -> None:
    """Count a job of a guest, which starts here, and the rows that it is about. Raises Refused."""
    Usage(site.store, sides_of(site.party)).count(site.party.policy, peer.name, "jobs", jobs, today())
    if rows is not None:
        site.activity.count(rows)


def fresh_name(store: Store, kind: DocumentKind, name: str | None, sides: Sides = OVER_COLUMNS) -> str:
    """The name for a new document. Raises Refused when it is taken: nothing is overwritten, and an
    alignment does not get the draws that were taken of one that was removed."""
    kinds: tuple[DocumentKind, ...] = (kind, "draw") if kind == "alignment" else (kind,)
    if name is None or any(name in store.names(one) for one in kinds):
        raise Refused(f"the {kind} that the {sides.starts} names exists already at the {sides.allows}")
    return name


def id_counter(policy: PolicySection, usage: Usage) -> Admit:
    """What counts ids as the guest announces them, before any is looked for."""

    def count(peer: Peer, ids: int) -> None:
        usage.count(policy, peer.name, "ids", max(0, ids), today())

    return count
