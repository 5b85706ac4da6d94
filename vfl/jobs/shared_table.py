"""A party's table as a job over rows has it: the job says which columns there are, and of what kind."""

from dataclasses import dataclass

import numpy as np

from vfl.arrays import Floats, Integers, Mask
from vfl.errors import ConfigError
from vfl.jobs.own_table import read_guest
from vfl.jobs.show import Show
from vfl.learn.binning import Features
from vfl.learn.holdout import draw_split
from vfl.learn.levels import tidy_levels
from vfl.models.halves import AnyGuestHalf
from vfl.models.kinds import kind_of_job
from vfl.party.config import Job
from vfl.party.keys import TableIds
from vfl.party.sections import USES, DataSection
from vfl.party.table import Table
from vfl.protocols.common.rows import Training
from vfl.protocols.pooled.bins import Schema
from vfl.text import counted


def schema_of(job: Job) -> Schema:
    """The columns that all parties of a job over rows have."""
    columns = job.columns or {}
    levels = {name: one.levels for name, one in columns.items() if one.type == "category"}
    return Schema(tuple(columns), levels)


def section_of(data: DataSection, job: Job) -> DataSection:
    """[data] with the columns of a job over rows."""
    schema = schema_of(job)
    update = {"columns": schema.columns, "ignore": None, "categorical": tuple(schema.levels)}
    return data.model_copy(update=update)


def as_trained(data: DataSection, half: AnyGuestHalf) -> DataSection:
    """[data] for a model's columns: those of a model over rows are what its job said they are."""
    columns = half.job.get("columns")
    if not columns:
        return data
    categories = tuple(name for name in half.columns if columns[name]["type"] == "category")
    return data.model_copy(update={"columns": half.columns, "ignore": None, "categorical": categories})


def without_features(data: DataSection) -> DataSection:
    """[data] with ids and label alone."""
    none: dict[str, object] = {"columns": (), "ignore": None, "categorical": (), "monotone": {}}
    return data.model_copy(update=none | {"dates": {}, "aggregate": {}})


@dataclass(frozen=True)
class OwnRows:
    """The rows of a party that take part in a job over rows; arrays have an entry for each of these.

    taken: which rows of the table they are. ids: digest of the table's ids.
    """

    table: Table
    taken: Integers
    features: Features
    rows: Training
    held_out: Mask
    ids: str

    @property
    def exposure(self) -> Floats | None:
        """Of the rows that take part, if the job has one."""
        return None if self.table.exposure is None else self.table.exposure[self.taken]


def read_own_rows(data: DataSection, job: Job, show: Show) -> OwnRows:
    """The party's table as the job has it. Raises DataError and ConfigError, of which peers hear in what
    the table differs from the job."""
    uses = job.uses(data)
    unused = set(USES) - set(uses)
    section = section_of(data, job)
    table, ids = read_guest(section, show=show, loss=job.loss, unused=unused, agreed=True)
    own = take_part(table, ids, job)
    for text in level_notes(own, job):
        show.say(f"note: {text}")
    return own


def take_part(table: Table, ids: TableIds, job: Job) -> OwnRows:
    """The rows of a table that train, and those that are held out, drawn by the job's seed. Raises
    ConfigError for a table that is not as the job says."""
    if table.label is None:
        raise ConfigError("[data] label is missing in the party file: a job over rows needs one")
    kind, taken = kind_of_job(job), ids.rows
    features = tidy_levels(table.take(taken))
    try:
        schema_of(job).check(features)
    except ConfigError as error:
        raise ConfigError(f"{table.path.name}: {error}", for_peer=f"its table: {error}") from None
    draw = np.random.default_rng([kind.seed, 1]).random(table.rows)[ids.entities][taken]
    split = draw_split(draw, job.job.holdout, kind.validation_share)
    weight = np.ones(len(taken)) if table.weight is None else table.weight[taken]
    offset = None if table.offset is None else table.offset[taken]
    label = table.label[taken]
    rows = Training(label, weight, split.train, split.validation, job.loss, offset)
    return OwnRows(table, taken, features, rows, split.held_out, ids.digest)


def level_notes(own: OwnRows, job: Job) -> list[str]:
    """How many rows have levels that the job does not name; no word quotes a level."""
    notes = []
    for name, count in schema_of(job).unknown_levels(own.features).items():
        if not count:
            continue
        known = len(own.taken) - sum(value is None for value in own.features[name].tolist())
        if count == known:
            notes.append(
                f"{own.table.path.name}: no row has a level of '{name}' that the job names, in just "
                "that spelling: all count as one, so that the column tells this party's rows not apart"
            )
        else:
            some = counted(count, "row has", "rows have")
            notes.append(
                f"{own.table.path.name}: {some} a level of '{name}' that the job does not name: they "
                "count as one"
            )
    return notes
