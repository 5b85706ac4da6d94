"""A host's table and alignment for a training, read and held against its policy before it says yes."""

import asyncio
from dataclasses import dataclass, replace

from vfl.blocks.scratch import Scratch
from vfl.errors import ConfigError
from vfl.jobs.alignments import Alignment, count_known_rows, host_alignment, joined_rows
from vfl.jobs.approval_view import Brought
from vfl.jobs.connect import Site
from vfl.jobs.memory import release_memory
from vfl.jobs.offer import Offer
from vfl.jobs.own_table import table_of
from vfl.jobs.sums_given import SumsGiven, training_share
from vfl.learn.levels import tidy_levels
from vfl.models.kind import PartyColumns
from vfl.models.kinds import kind_of_job, rules_of
from vfl.net.peer import Peer
from vfl.party.config import Job
from vfl.party.policy import check_intersection
from vfl.party.table import Table


@dataclass(frozen=True)
class HostColumns:
    """What a host brings to a training.

    columns: of the aligned rows. given: the count of sums, of a kind of model that tells any.
    """

    table: Table
    alignment: Alignment
    alignment_ids: str  # digest of the ids of the aligned rows
    columns: PartyColumns
    given: SumsGiven | None

    def brought(self, job: Job, trainings: int = 1) -> Brought:
        """What whoever approves the job is shown of it."""
        return Brought([*self.table.features], job, self.table, self.alignment, self.given, trainings)


async def read_host_columns(site: Site, peer: Peer, offer: Offer, job: Job) -> HostColumns:
    """The host's columns as the job would use them.

    Raises ConfigError, DataError and ModelError for a table or an alignment that cannot be used, Refused
    for too few rows and for more sums than the policy allows.
    """
    party, store, kind = site.party, site.store, kind_of_job(job)
    table, ids = await table_of(site, offer)
    if not table.features:
        raise ConfigError(
            f"[policy] columns is empty: no feature of {table.path.name} may enter a model",
            for_peer="none of its columns may enter a model, by columns of [policy]",
        )
    scratch = Scratch(store.scratch(make=False))
    columns = PartyColumns(party.name, table.path.name, table.features, rules_of(party), scratch)
    kind.check_rules(columns.rules, table.features, table.path.name)
    alignment = await asyncio.to_thread(host_alignment, site, store, peer, offer, ids)
    del ids  # of millions of rows they take as much as some columns
    digest = alignment.digest_of_ids
    table, alignment = replace(table, ids=[]), alignment.stored(scratch)
    release_memory(table.rows)
    known_rows = await asyncio.to_thread(count_known_rows, alignment.rows)
    check_intersection(party.policy, known_rows)
    given = None
    if (told := kind.tells_sums) is not None:
        share = training_share(peer, offer, alignment, job)
        given = await asyncio.to_thread(SumsGiven, store, alignment)
        await asyncio.to_thread(given.check, party.policy, told, share, offer.done)
        alignment = given.alignment
    features = tidy_levels(table.take(alignment.rows))
    columns = replace(columns, features=features, about=joined_rows(alignment))
    return HostColumns(table, alignment, digest, columns, given)
