"""Batches played again (rerun.py): by the guest, by a host."""

import asyncio

from vfl.blocks.scratch import Scratch
from vfl.jobs.batch_rows import read_batch
from vfl.jobs.own_table import table_of
from vfl.jobs.queries import with_query_of
from vfl.jobs.rerun import Rerun
from vfl.jobs.score_places import place_of
from vfl.jobs.scoring import AskedBatch, BatchClock, BatchJob, PlayedBatch, section_as_trained
from vfl.jobs.scoring import commits_to as commits_to_batch
from vfl.jobs.scoring_host import HostScoring, commits_to
from vfl.models.halves import GuestHalf, HostHalf
from vfl.models.kinds import kind_of_model, load_half
from vfl.net.peer import Peer


async def replay_guest(run: Rerun) -> None:
    """The guest's part of a batch that was scored by an alignment."""
    site, show, asked = run.site, run.show, run.asked(AskedBatch)
    half = load_half(site.store, asked.model, GuestHalf)
    section = section_as_trained(with_query_of(site.party.data, half, show), half)
    place, scratch = place_of(asked.place, section), Scratch(site.store.scratch(make=False))
    rows = await asyncio.to_thread(read_batch, section, half, place, scratch, show)
    run.check_table(commits_to_batch(site, half.name, rows), place.name)
    run.takes_half(half.name, half.model)
    work = BatchJob(
        site=site,
        half=half,
        rows=rows,
        section=section,
        place=place,
        batch=PlayedBatch(asked.first, rows.table.rows),
        explain=asked.explain,
        show=show,
        clock=BatchClock(),
        drift={},
        resumed_from=asked.first,
    )
    await work.by_alignment(run.hosts, run.offer, run.randomness, run.answers, replayed=True)


async def replay_host(run: Rerun) -> None:
    """A host's part of a batch that was scored by an alignment."""
    site, offer, show = run.site, run.offer, run.show
    half = load_half(site.store, offer.model or "", HostHalf)
    kind = kind_of_model(half.model)
    data = with_query_of(site.party.data, half, show)
    table, ids = await table_of(site, offer, half.columns, kind.needed(half.model), data)
    run.check_table(commits_to(site, half.name, table, ids), table.path.name)
    run.takes_half(half.name, half.model)
    guest = run.peers[run.evidence.agreement.terms.guest]
    work = HostScoring(site, offer, half, table, ids, run.randomness, run.answers, show, replayed=True)
    del table, ids
    await work.score(guest, _count_no_ids, _count_no_rows)


def _count_no_ids(peer: Peer, ids: int) -> None:
    """In a replay what the run has counted is not counted again."""


def _count_no_rows(rows: int) -> None:
    """The same."""
