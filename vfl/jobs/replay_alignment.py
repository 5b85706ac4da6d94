"""Alignments played again (rerun.py): by the guest, by a host."""

import asyncio

from vfl.blocks.scratch import Scratch
from vfl.jobs.alignment import GuestAlignment, SettledPlan, commits_to
from vfl.jobs.alignment_host import HostAlignment, alignment_of_host
from vfl.jobs.alignments import Alignment, key_of_identities, load_alignment
from vfl.jobs.offer import Kept
from vfl.jobs.own_table import read_guest, table_of
from vfl.jobs.rerun import Rerun
from vfl.net.peer import Peer


async def replay_guest(run: Rerun) -> None:
    """The guest's part of an alignment."""
    site, offer, show = run.site, run.offer, run.show
    scratch = Scratch(site.store.scratch(make=False))
    table, ids = await asyncio.to_thread(read_guest, site.party.data, show=show, scratch=scratch)
    run.check_table(commits_to(ids), table.path.name)
    plan = SettledPlan(None, offer.matching.join, offer.matching.engine, _earlier(run))
    work = GuestAlignment(site, table, ids, plan, show, replayed=True)
    joined = await work.match(run.hosts, offer, run.randomness, run.answers)
    made = await asyncio.to_thread(work.alignment, offer, run.hosts, joined, run.randomness)
    run.leaves_alignment(made)


async def replay_host(run: Rerun) -> None:
    """A host's part of an alignment."""
    site, offer = run.site, run.offer
    table, ids = await table_of(site, offer)
    run.check_table(commits_to(ids), table.path.name)
    work = HostAlignment(
        site, offer, table, ids, _earlier(run), run.randomness, run.answers, run.show, replayed=True
    )
    guest = run.peers[run.evidence.agreement.terms.guest]
    matched, rows = await work.match(guest, _count_nothing, run.sign)
    secret = key_of_identities(run.randomness)
    made = await asyncio.to_thread(
        alignment_of_host, site, guest, offer, offer.alignment or "", rows, matched, ids, secret
    )
    run.leaves_alignment(made)
    await guest.send(Kept(site.party.policy.days_of_use))


def _earlier(run: Rerun) -> Alignment | None:
    """The alignment that was extended, as this party keeps it. Raises ModelError."""
    name = run.offer.matching.extends
    if name is None:
        return None
    earlier = load_alignment(run.site.store, name)
    run.takes_alignment(earlier)
    return earlier


def _count_nothing(peer: Peer, ids: int) -> None:
    """In a replay what the run has counted is not counted again."""
