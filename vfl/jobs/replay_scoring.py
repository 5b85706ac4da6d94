"""Batches played again (rerun.py): by a host."""

from vfl.jobs.own_table import table_of
from vfl.jobs.queries import with_query_of
from vfl.jobs.rerun import Rerun
from vfl.jobs.scoring_host import HostScoring, commits_to
from vfl.models.halves import HostHalf
from vfl.models.kinds import kind_of_model, load_half
from vfl.net.peer import Peer


async def replay_host(run: Rerun) -> None:
    """A host's part of a batch that was scored by an alignment."""
    site, offer, show = run.site, run.offer, run.show
    half = load_half(site.store, offer.model or "", HostHalf)
    kind = kind_of_model(half.model)
    data = with_query_of(site.party.data, half, show)
    table, ids = await table_of(site, offer, half.columns, kind.needed(half.model), data)
    run.check_table(commits_to(site, half.name, table, ids), table.path.name)
    run.relies.append(f"on the half of {half.name} that an earlier run has left")
    guest = run.peers[run.evidence.agreement.terms.guest]
    work = HostScoring(site, offer, half, table, ids, run.randomness, run.answers, show, replayed=True)
    del table, ids
    await work.score(guest, _count_no_ids, _count_no_rows)


def _count_no_ids(peer: Peer, ids: int) -> None:
    """In a replay what the run has counted is not counted again."""


def _count_no_rows(rows: int) -> None:
    """The same."""
