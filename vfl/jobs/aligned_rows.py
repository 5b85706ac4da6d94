"""What a guest brings to a training: its table, and the rows of an alignment in it."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vfl.blocks.scratch import Scratch
from vfl.errors import DataError
from vfl.jobs.alignments import Alignment, joined_rows, refresh
from vfl.jobs.cluster import say_if_slower
from vfl.jobs.connect import Site
from vfl.jobs.evaluation import RowParts, split_rows
from vfl.jobs.memory import release_memory
from vfl.jobs.own_table import read_guest
from vfl.jobs.project_rows import Outcome
from vfl.jobs.show import Show
from vfl.learn.binning import Features
from vfl.learn.levels import tidy_levels
from vfl.learn.losses import PoissonLoss
from vfl.models.kinds import kind_of_job, rules_of
from vfl.party.config import Job
from vfl.party.linear_rules import check_pairs
from vfl.party.sections import USES
from vfl.party.table import Table
from vfl.protocols.common.rows import Training
from vfl.text import counted


@dataclass(frozen=True)
class GuestRows:
    """The guest's rows of a training. Of millions of rows there is nothing in it that no step needs.

    table: without ids, label, weight and offset, of which `rows` has those of the aligned rows.
    ids: the digest of the table's ids; aligned_ids: of those of the aligned rows. held_out: (aligned
    rows,). judged: those of them that a model is judged by, which have weight.
    """

    table: Table
    ids: str
    aligned_ids: str
    aligned: Alignment
    rows: Training
    held_out: NDArray[np.bool_]
    parts: RowParts
    scratch: Scratch
    judged: NDArray[np.bool_]

    @property
    def features(self) -> Features:
        """Of the aligned rows, with levels as models know them."""
        return tidy_levels(self.table.take(self.aligned.rows))


def read_guest_rows(
    site: Site, job: Job, named: Alignment, show: Show, outcome: Outcome | None = None
) -> GuestRows:
    """The guest's table as it is now, and its rows of the alignment `named`. `outcome`: what a project's
    model is to learn, in place of the label of the party file. Raises DataError, ConfigError and
    ModelError."""
    data, kind, scratch = site.party.data, kind_of_job(job), Scratch(site.store.scratch(make=False))
    check_pairs(site.party.glm, data, job.linear.pairs, site.party.partners)
    unused = set(USES) - set(job.uses(data))
    table, ids = read_guest(
        data,
        show=show,
        loss=job.loss if outcome is None else PoissonLoss(),
        unused=unused,
        split=job.splits(data),
        unlabelled=outcome is not None,
        scratch=scratch,
    )
    digest = ids.digest
    if outcome is not None:
        table = outcome.of(table, digest)
    if job.params.idle is not None:
        show.say(f"note: {job.params.idle}")
    say_if_slower(show, len(named.rows), len(table.features))
    kind.check_rules(rules_of(site.party), table.features, table.path.name)
    aligned = refresh(named, ids, table.path.name)
    rows, held_out = split_rows(table, aligned.rows, job, ids.entities, scratch)
    rows = replace(rows, about=joined_rows(aligned))
    parts = RowParts.of(table, aligned.rows, rows, held_out, job.job.holdout)
    for text in parts.sentences:
        show.say(text)
    judged = held_out
    if outcome is not None:
        judged = held_out & (rows.weight > 0)
        _check_claims(rows, held_out, judged, table.path.name)
    del ids
    table = replace(table, ids=[], label=None, weight=None, offset=None)
    release_memory(table.rows)
    return GuestRows(
        table,
        digest,
        named.digest_of_ids,
        aligned.stored(scratch),
        rows.stored(scratch),
        held_out,
        parts,
        scratch,
        judged,
    )


def _check_claims(
    rows: Training, held_out: NDArray[np.bool_], judged: NDArray[np.bool_], table: str
) -> None:
    """Raises DataError for rows that train, that decide when to stop or that are held out of which none
    has weight."""
    weighing = rows.weight > 0
    for mask, some, what in (
        (rows.train, rows.train & weighing, "train on"),
        (rows.validation, rows.validation & weighing, "stop by"),
        (held_out, judged, "evaluate on"),
    ):
        if mask.any() and not some.any():
            raise DataError(
                f"{table}: none of the {counted(int(mask.sum()), 'aligned row')} to {what} has a claim: "
                "bring more rows, or another holdout",
                for_peer="too few aligned rows",
            )
