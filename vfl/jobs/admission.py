"""What a job asks of a host, and what a host lets in."""

from dataclasses import replace

from vfl.errors import Refused
from vfl.jobs.agreement import Agreement, accept_offer, check_offer
from vfl.jobs.connect import Site
from vfl.jobs.offer import Matching, Offer
from vfl.jobs.show import Show
from vfl.net.peer import Peer
from vfl.party.config_values import Engine, JoinKind
from vfl.party.kinds import DocumentKind
from vfl.party.policy import (
    Usage,
    today,
)
from vfl.party.sections import DataSection, PolicySection
from vfl.party.store import Store
from vfl.protocols.align.psi import Admit, PsiSettings
from vfl.protocols.common.participant import Participant


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


def psi_settings(site: Site, offer: Offer, show: Show, admit: Admit | None = None) -> PsiSettings:
    """How ids are matched in a job; `admit` is told how many a peer announces."""
    scratch = site.store.scratch()
    settings = PsiSettings(offer.matching.engine, scratch, show.progress)
    return settings if admit is None else replace(settings, admit=admit)


def lone_participant(site: Site, offer: Offer) -> Participant:
    """This host in a matching with the guest alone, which asks each host by itself."""
    name = site.party.name
    return Participant(name, [name], offer.run + name.encode())


def check_request(site: Site, peer: Peer, offer: Offer, show: Show, what: str) -> None:
    """Say what the guest asks for. Raises as `check_offer`."""
    show.say(f"{peer.name} asks to {what}")
    check_offer(site, peer, offer)


async def accept(site: Site, peer: Peer, offer: Offer, rows: int | None = None) -> Agreement:
    """Count the job, which starts here, and tell the guest that this host takes part.

    A job that goes on counts again: each attempt may ask this party anew. Returns the agreement.
    """
    Usage(site.store).count(site.party.policy, peer.name, "jobs", 1, today())
    return await accept_offer(site, peer, offer, rows)


def fresh_name(store: Store, kind: DocumentKind, name: str | None) -> str:
    """The name for a new document. Raises Refused when it is taken: nothing is overwritten."""
    if name is None or name in store.names(kind):
        raise Refused(f"the {kind} that the guest names exists already at the host")
    return name


def id_counter(policy: PolicySection, usage: Usage) -> Admit:
    """What counts ids as the guest announces them, before any is looked for."""

    def count(peer: Peer, ids: int) -> None:
        usage.count(policy, peer.name, "ids", max(0, ids), today())

    return count
