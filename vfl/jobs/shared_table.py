"""A party's table as a job over rows has it: the job says which columns there are, and of what kind."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vfl.arrays import Floats, Integers, Mask
from vfl.errors import ConfigError
from vfl.jobs.evaluation import RowParts
from vfl.jobs.own_table import read_guest
from vfl.jobs.show import Show
from vfl.learn.binning import Features
from vfl.learn.holdout import Cuts, SplitColumns, group_draws, split_at
from vfl.learn.levels import spell_as_agreed, tidy_levels
from vfl.models.halves import AnyGuestHalf
from vfl.models.kinds import kind_of_job, rules_of_job
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
    return Schema(tuple(columns), levels, rules_of_job(job).monotone)


def section_of(data: DataSection, job: Job) -> DataSection:
    """[data] with the columns of a job over rows. Raises ConfigError where one of them is not to be a
    feature at this party."""
    schema = schema_of(job)
    for use, name in data.for_reports:
        if name in schema.columns:
            raise ConfigError(
                f"the job has a column '{name}', which {use} of [data] says is no feature: no model may "
                "be trained on it here",
                for_peer=f"its own file says that column '{name}' is no feature",
            )
    update: dict[str, object] = {"columns": schema.columns, "ignore": None}
    update |= {"categorical": tuple(schema.levels), "monotone": dict(schema.monotone)}
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
    none |= {"current_premium": None, "protected": (), "report_by": ()}
    return data.model_copy(update=none | {"dates": {}, "aggregate": {}})


@dataclass(frozen=True)
class TakenRows:
    """The rows of a party that take part in a job over rows, before it is known which of them train;
    arrays have an entry for each of these.

    taken: which rows of the table they are. features: with levels as the job spells them. respelled: by
    column, how many rows spell one in another way. ids: digest of the table's ids. by: the columns by
    which they are split. draw: from 0 to 1, of each row or of its group; None where times alone split
    them.
    """

    table: Table
    taken: Integers
    features: Features
    respelled: Mapping[str, int]
    ids: str
    by: SplitColumns
    draw: Floats | None

    @property
    def label(self) -> Floats:
        if self.table.label is None:
            raise ValueError("training needs a label")
        return self.table.label[self.taken]

    @property
    def weight(self) -> Floats:
        given = self.table.weight
        return np.ones(len(self.taken)) if given is None else given[self.taken]

    @property
    def offset(self) -> Floats | None:
        return None if self.table.offset is None else self.table.offset[self.taken]

    @property
    def exposure(self) -> Floats | None:
        """If the job has one."""
        return None if self.table.exposure is None else self.table.exposure[self.taken]

    @property
    def times(self) -> tuple[Floats, bool] | None:
        """The number of each row's time, and whether times are dates; None where they split no rows."""
        time = self.by.time
        return None if time is None else (time.times, time.dated)

    @property
    def brought(self) -> list[Floats | None]:
        """What tells rows from others, and how they are split."""
        return [self.label, self.weight, self.offset, self.draw, self.times and self.times[0]]

    def split(self, job: Job, cuts: Cuts) -> "OwnRows":
        """The rows that train, those that decide when to stop, and those that are held out."""
        share = kind_of_job(job).validation_share
        split = split_at(self.draw, self.times and self.times[0], cuts, job.job.holdout, share)
        rows = Training(self.label, self.weight, split.train, split.validation, job.loss, self.offset)
        parts = RowParts.of(self.table, self.taken, rows, split.held_out, job.job.holdout)
        return OwnRows(self, rows, split.held_out, parts)


@dataclass(frozen=True)
class OwnRows:
    """The rows of a party in a job over rows, and what becomes of them."""

    of: TakenRows
    rows: Training
    held_out: Mask
    parts: RowParts


def read_own_rows(data: DataSection, job: Job, show: Show) -> TakenRows:
    """The party's table as the job has it. Raises DataError and ConfigError, of which peers hear in what
    the table differs from the job."""
    uses, split = job.uses(data), job.splits(data)
    unused = set(USES) - set(uses)
    section = section_of(data, job)
    table, ids = read_guest(section, show=show, loss=job.loss, unused=unused, split=split, agreed=True)
    own = take_part(table, ids, job)
    for text in level_notes(own, job):
        show.say(f"note: {text}")
    return own


def take_part(table: Table, ids: TableIds, job: Job) -> TakenRows:
    """The rows of a table that take part, drawn by the job's seed. Raises ConfigError for a table that
    is not as the job says."""
    if table.label is None:
        raise ConfigError("[data] label is missing in the party file: a job over rows needs one")
    taken, seed, schema = ids.rows, kind_of_job(job).seed, schema_of(job)
    features = tidy_levels(table.take(taken))
    try:
        schema.check(features)
    except ConfigError as error:
        raise ConfigError(f"{table.path.name}: {error}", for_peer=f"its table: {error}") from None
    features, respelled = spell_as_agreed(features, schema.levels)
    by, draw = table.split.take(taken), None
    if by.group is not None:
        draw = group_draws(by.group, ids.entities[taken], seed)
    elif by.time is None:
        draw = np.random.default_rng([seed, 1]).random(table.rows)[ids.entities][taken]
    return TakenRows(table, taken, features, respelled, ids.digest, by, draw)


def level_notes(own: TakenRows, job: Job) -> list[str]:
    """How many rows have levels that the job spells in another way, or does not name; no word quotes a
    level."""
    notes = [
        f"{own.table.path.name}: {counted(count, 'row has', 'rows have')} a level of '{name}' in "
        "another spelling than the job: they count as the job's"
        for name, count in own.respelled.items()
    ]
    for name, count in schema_of(job).unknown_levels(own.features).items():
        if not count:
            continue
        known = len(own.taken) - sum(value is None for value in own.features[name].tolist())
        if count == known:
            notes.append(
                f"{own.table.path.name}: no row has a level of '{name}' that the job names: all "
                "count as one, so that the column tells this party's rows not apart"
            )
        else:
            some = counted(count, "row has", "rows have")
            notes.append(
                f"{own.table.path.name}: {some} a level of '{name}' that the job does not name: they "
                "count as one"
            )
    return notes
