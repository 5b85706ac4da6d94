"""What a guest brings to a training: its table, and the rows of an alignment in it."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vfl.blocks.scratch import Scratch
from vfl.jobs.alignments import Alignment, refresh
from vfl.jobs.cluster import say_if_slower
from vfl.jobs.connect import Site
from vfl.jobs.evaluation import RowParts, split_rows
from vfl.jobs.memory import release_memory
from vfl.jobs.own_table import read_guest
from vfl.jobs.show import Show
from vfl.learn.binning import Features
from vfl.learn.levels import tidy_levels
from vfl.models.kinds import kind_of_job, rules_of
from vfl.party.config import Job
from vfl.party.sections import USES
from vfl.party.table import Table
from vfl.protocols.common.rows import Training


@dataclass(frozen=True)
class GuestRows:
    """The guest's rows of a training. Of millions of rows there is nothing in it that no step needs.

    table: without ids, label, weight and offset, of which `rows` has those of the aligned rows.
    ids: the digest of the table's ids. held_out: (aligned rows,).
    """

    table: Table
    ids: str
    aligned: Alignment
    rows: Training
    held_out: NDArray[np.bool_]
    parts: RowParts
    scratch: Scratch

    @property
    def features(self) -> Features:
        """Of the aligned rows, with levels as models know them."""
        return tidy_levels(self.table.take(self.aligned.rows))


def read_guest_rows(site: Site, job: Job, named: Alignment, show: Show) -> GuestRows:
    """The guest's table as it is now, and its rows of the alignment `named`. Raises DataError,
    ConfigError and ModelError."""
    data, kind, scratch = site.party.data, kind_of_job(job), Scratch(site.store.scratch(make=False))
    unused = set(USES) - set(job.uses(data))
    table, ids = read_guest(
        data, show=show, loss=job.loss, unused=unused, split=job.splits(data), scratch=scratch
    )
    say_if_slower(show, len(named.rows), len(table.features))
    kind.check_rules(rules_of(site.party), table.features, table.path.name)
    aligned = refresh(named, ids, table.path.name)
    rows, held_out = split_rows(table, aligned.rows, job, ids.entities, scratch)
    parts = RowParts.of(table, aligned.rows, rows, held_out, job.job.holdout)
    for text in parts.sentences:
        show.say(text)
    digest = ids.digest
    del ids
    table = replace(table, ids=[], label=None, weight=None, offset=None)
    release_memory(table.rows)
    return GuestRows(
        table,
        digest,
        aligned.stored(scratch),
        rows.stored(scratch),
        held_out,
        parts,
        scratch,
    )
