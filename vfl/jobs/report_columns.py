"""The guest's own columns on the rows held out, as its report looks at them: read anew, offline."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats, Integers
from vfl.blocks.scratch import Scratch
from vfl.errors import VflError
from vfl.jobs.alignments import is_of, load_alignment
from vfl.jobs.own_table import ids_of
from vfl.jobs.queries import as_in_training
from vfl.jobs.record import Evaluation, Record
from vfl.jobs.shared_table import as_trained
from vfl.learn.binning import Features
from vfl.learn.levels import match_levels, tidy_levels
from vfl.learn.losses import out_of_range
from vfl.models.halves import AnyGuestHalf
from vfl.party.config import Party
from vfl.party.rows import rows_in_words
from vfl.party.sections import DataSection
from vfl.party.store import Store
from vfl.party.table import Table, Wanted, read_wanted
from vfl.report.evidence import Beside
from vfl.text import counted

_SIZED_BY_WEIGHT = ("gamma", "tweedie", "squared", "gaussian")
"""Of what a weight is the size of a row, and not how many rows it stands for."""


@dataclass(frozen=True)
class HeldOutColumns:
    """The guest's columns on the rows held out. `no_factors`: why there are none, in a sentence."""

    factors: Features
    no_factors: str
    beside: Beside


def read_held_out(
    party: Party, store: Store, half: AnyGuestHalf, record: Record, evaluation: Evaluation | None
) -> HeldOutColumns:
    """The columns of the model and those for reports alone, of the table as it is now."""
    least = party.policy.min_child_rows
    if evaluation is None:
        why = "No rows were held out (holdout is 0 in the job file)."
        return _without(party, why)
    # Label, weight, exposure and offset are in the record.
    try:
        data = as_trained(as_in_training(party.data, half)[0], half)
        further = [name for _, name in data.for_reports if name not in half.columns]
        if data.premium_per_exposure and data.exposure is not None and evaluation.exposure is None:
            further.append(data.exposure)
        names = (*data.protected, *data.report_by)
        update: dict[str, object] = dict.fromkeys(("label", "weight", "exposure", "offset"))
        update["categorical"] = (*data.categorical, *(name for name in further if name in names))
        scratch = Scratch(store.scratch_at_hand)
        wanted = Wanted(
            "guest", False, expect=(*half.columns, *further), needed=half.columns, scratch=scratch
        )
        table = read_wanted(data.model_copy(update=update), wanted)
        ids = ids_of(table, data)
        same = (
            record.ids == ids.digest
            if record.ids
            else is_of(load_alignment(store, record.alignment), ids)
        )
    except VflError as error:
        told = _told(error, party)
        end = "" if told.endswith("?") else "."
        why = f"The columns are not shown, since the table cannot be read as in training: {told}{end}"
        return _without(party, why)
    if not same:
        why = (
            f"The columns are not shown, since {party.data.named.name} has other ids (or another order) "
            "than when the model was trained."
        )
        return _without(party, why)
    features = table.take(evaluation.rows)
    own = {name: features[name] for name in half.columns}
    premium, no_premium = present_premium(
        party, (half.columns, half.objective), table, features, evaluation
    )
    notes: list[str] = []
    beside = Beside(
        policy=_policies(ids.entities, evaluation.rows),
        premium=premium,
        no_premium=no_premium,
        protected=_texts(data.protected, "protected", table, features, half, party, notes),
        by=_texts(data.report_by, "report_by", table, features, half, party, notes),
        least=least,
        notes=notes,
    )
    return HeldOutColumns(match_levels(own, half.levels)[0], "", beside)


def _without(party: Party, why: str) -> HeldOutColumns:
    """No columns, and no present premium where one is named."""
    return HeldOutColumns({}, why, Beside(no_premium=why if party.data.current_premium else ""))


def notes_on_columns(party: Party) -> list[str]:
    """What a report would not show of the columns that it alone looks at, a sentence each. Of a table
    that cannot be read nothing is said: others say it."""
    data = party.data
    names = [name for _, name in data.for_reports]
    update: dict[str, object] = dict.fromkeys(("label", "weight", "exposure", "offset"))
    update["categorical"] = (*data.categorical, *data.protected, *data.report_by)
    try:
        wanted = Wanted("guest", False, expect=names, needed=())
        table = read_wanted(data.model_copy(update=update), wanted)
    except VflError:
        return []
    notes = [f"reports leave out {name}: {_told(table.faults[name], party)}" for name in table.faults]
    if (premium := table.features.get(data.current_premium or "")) is None:
        return notes
    known = np.asarray(premium, np.float64)
    if (below := known < 0).any():
        rows = rows_in_words(np.flatnonzero(below).tolist(), table.row_numbers)
        notes.append(
            f"reports have no present tariff: {data.current_premium} is below 0 in "
            f"{counted(int(below.sum()), 'row')} ({rows})"
        )
    elif none := int((~(known > 0)).sum()):
        some = counted(none, "row")
        notes.append(f"{some} without {data.current_premium} (or with 0): reports compare the others")
    return notes


def _policies(entities: Integers, rows: Integers) -> Integers:
    return np.asarray(entities[rows], np.int64)


def _told(error: VflError, party: Party) -> str:
    """An error without the folder of the table."""
    named = party.data.named
    return str(error).replace(str(named), named.name).rstrip(".")


def present_premium(
    party: Party,
    model: tuple[Collection[str], str],
    table: Table,
    features: Features,
    evaluation: Evaluation,
) -> tuple[Floats | None, str]:
    """The present premium of each row held out in all, or why there is none.

    model: the guest's columns in it, and its objective.
    """
    data, (columns, objective) = party.data, model
    name = data.current_premium
    if name is None:
        return None, ""
    if name in columns:
        return None, (
            f"{name} is the present premium by [data], and a feature of this model: the two cannot be "
            "compared. Train a model without it."
        )
    needed = [name]
    if data.premium_per_exposure and data.exposure is not None and evaluation.exposure is None:
        needed.append(data.exposure)
    for column in needed:
        if (fault := table.faults.get(column)) is not None:
            return None, f"The present tariff is not shown: {_told(fault, party)}."
    premium = np.asarray(features[name], np.float64)
    for bad, what in ((premium < 0, "below 0"), (out_of_range(premium), "out of all range")):
        if bad.any():
            rows = rows_in_words(np.sort(evaluation.rows[bad]).tolist(), table.row_numbers)
            return None, (
                f"The present tariff is not shown: {name} is {what} in "
                f"{counted(int(bad.sum()), 'row')} held out ({rows}). Correct it, or leave the cell "
                "empty where a row has no premium."
            )
    size = size_of_premium(data, objective, features, evaluation)
    if not (size > 0).all():
        return None, f"The present tariff is not shown: {data.exposure} is not above 0 in every row."
    return np.where(premium > 0, premium, np.nan) * size, ""


def size_of_premium(
    data: DataSection, objective: str, features: Features, evaluation: Evaluation
) -> Floats:
    """What a premium is multiplied by to be that of its row in all."""
    by_weight = objective in _SIZED_BY_WEIGHT
    if not data.premium_per_exposure:
        return np.ones(len(evaluation.weight)) if by_weight else evaluation.weight
    if evaluation.exposure is not None:
        return evaluation.weight * evaluation.exposure
    if by_weight or data.exposure is None:
        return evaluation.weight
    return evaluation.weight * np.asarray(features[data.exposure], np.float64)


def _texts(
    names: tuple[str, ...],
    use: str,
    table: Table,
    features: Features,
    half: AnyGuestHalf,
    party: Party,
    notes: list[str],
) -> Features:
    """Columns as text; what is wrong with them goes into `notes`."""
    found: dict[str, NDArray[np.generic]] = {}
    for name in names:
        if (fault := table.faults.get(name)) is not None:
            notes.append(f"{name} ({use}) is not shown: {_told(fault, party)}.")
            continue
        values = features[name]
        if name in half.columns:
            notes.append(f"{name} is under {use} in [data], and a feature of this model nevertheless.")
        if values.dtype != object:
            numbers = values.tolist()
            texts = [None if one != one else repr(one).removesuffix(".0") for one in numbers]
            values = np.array(texts, dtype=object)
        found[name] = values
    return tidy_levels(found)
