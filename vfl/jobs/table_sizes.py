"""How much of a host's table enters a model, by the table as it is."""

from typing import NamedTuple

import numpy as np

from vfl.arrays import Floats
from vfl.learn.levels import tidy_levels
from vfl.learn.losses import Loss
from vfl.learn.splits import Candidates
from vfl.models.kind import PartyColumns
from vfl.models.kinds import kind_of_job, rules_of
from vfl.party.config import Job, Party
from vfl.party.policy import allowed_columns
from vfl.party.table import Table
from vfl.protocols.common.rows import Training
from vfl.protocols.trees.grower import BinnedTables


class TableSizes(NamedTuple):
    """How many columns a host's table has for a job, and what becomes of them."""

    columns: int
    candidates: int  # of splits
    of_design: int  # columns of the design of a linear model


def sizes_of(table: Table, party: Party, job: Job) -> TableSizes:
    """Of a host's own table: of all its rows, which are about those of an alignment.

    Raises ConfigError and DataError for a table that cannot be used.
    """
    features = allowed_columns(party.policy, table.features, table.path.name, table.faults)
    kind, rules = kind_of_job(job), rules_of(party)
    kind.check_rules(rules, features, table.path.name)
    own = PartyColumns(party.name, table.path.name, tidy_levels(features), rules)
    tables = kind.tables([own], blank_training(np.zeros(table.rows), job.loss))
    if isinstance(tables, BinnedTables):
        block = tables.blocks[party.name]
        return TableSizes(len(features), len(Candidates.of(block.columns)), 0)
    return TableSizes(len(features), 0, tables.matrices[party.name].columns)


def blank_training(label: Floats, loss: Loss) -> Training:
    """All rows train, with weight 1."""
    every = np.ones(len(label), np.bool_)
    return Training(label, np.ones(len(label)), every, ~every, loss)
