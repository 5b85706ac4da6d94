"""A party's table before any job: all that is wrong with it, and the lines of [data] that mend it."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from vfl.errors import ConfigError, DataError, VflError
from vfl.jobs.check_result import CheckResult, Reporter
from vfl.jobs.evaluation import RowParts, split_rows
from vfl.jobs.own_table import ids_of
from vfl.jobs.shared_table import level_notes, section_of, take_part, without_features
from vfl.learn.losses import LogisticLoss
from vfl.models.kinds import check_levels_of, check_rules_of
from vfl.party.config import Job, Party
from vfl.party.id_report import find_unmended, ids_alone
from vfl.party.keys import TableIds
from vfl.party.reading import DateColumn, merge, settings_line
from vfl.party.sections import USES, DataSection
from vfl.party.sources.misfits import set_it
from vfl.party.sources.source import TableError
from vfl.party.table import Table, Wanted, examine_table
from vfl.text import counted

_SHOWN = 5  # rows that a fault names
_ROUNDS = 6  # readings, each with what those before it proposed


class Fail(Protocol):
    def __call__(self, text: str, advice: str = "") -> None: ...


def check_table(party: Party, report: Reporter, job: Job | None = None) -> bool:
    """Report on a party's table, ids and label; True when a job could use them as they are, or a guest's
    `job` if there is one.

    A table that cannot be read as the party file says is read on with what the file itself proposes, so
    that all faults are known after one run. Nothing is changed. Of a party of jobs over rows, whose
    columns a job names, ids and label alone are looked at without one.
    """
    faults: list[CheckResult] = []

    def fail(text: str, advice: str = "") -> None:
        faults.append(CheckResult("FAIL", "table", f"table: {text}", advice))
        report(faults[-1])

    if party.role == "guest" and party.data.label is None:
        fail("[data] label is missing in the party file: the guest names its label")
    over_rows = bool(party.clients and not party.partners) if job is None else job.over_rows
    given = party.data
    if over_rows:
        given = without_features(given) if job is None else section_of(given, job)
    table, data = _read(party, given, fail, job)
    ids = _ids(table, data, fail)
    if table is not None:
        if not over_rows:  # else the job says what becomes of columns, and one class of label will do
            for text in (*_broken_rules(party, table), *_label_faults(table, data)):
                fail(text)
            for text in _linear_faults(party, table):
                fail(text)
        if job is not None and ids is not None and table.label is not None and not faults:
            check = _check_rows if over_rows else _check_split
            check(table, ids, job, fail, report)
        if not faults and ids is not None:
            report(CheckResult("ok", "table", f"table: {_summary(table, ids)}"))
        notes = (*_label_notes(table, data), *_number_notes(table, data))
        for note in (*table.warnings, *(ids.notes if ids else ()), *notes):
            report(CheckResult("note", "table", f"table: {note}"))
    if over_rows and job is None:
        text = "table: a job over rows names its columns: --job JOB.toml checks them"
        report(CheckResult("note", "table", text))
    _note_ids(data, report)
    if data is not given:
        left = "" if table is not None else ", but for what has to be corrected"
        report(CheckResult("note", "[data]", f"[data]: with these lines the table can be read{left}:"))
        for line in _lines(given, data):
            report(CheckResult("note", "[data]", f"[data]: {line}", line))
    return not faults and ids is not None


def _read(
    party: Party, data: DataSection, fail: Fail, job: Job | None
) -> tuple[Table | None, DataSection]:
    """The table, if it can be read at last, and [data] with the proposals that it took."""
    wanted = Wanted(party.role, party.role == "guest" and data.label is not None)
    if job is not None:
        try:
            uses, split = job.uses(data), job.splits(data)
        except ConfigError as error:
            fail(str(error))
        else:
            unused = set(USES) - set(uses)
            wanted = replace(wanted, loss=job.loss, unused=unused, split=split, agreed=job.over_rows)
    told: list[str] = []
    for _ in range(_ROUNDS):
        table, faults = examine_table(data, wanted, _SHOWN)
        new = [fault for fault in faults if not any(_holds(text, str(fault)) for text in told)]
        settings = merge(_settings(fault) for fault in new)
        for fault in new:
            fail(str(fault), "\n".join(_lines(data, _changed(data, _settings(fault)))))
        told += [str(fault) for fault in new]
        if not settings:
            return table, data
        data = _changed(data, settings)
    return None, data


def _settings(fault: DataError) -> Mapping[str, object]:
    return fault.settings if isinstance(fault, TableError) else {}


def _holds(told: str, text: str) -> bool:
    """Whether all that a fault says of a column was said of it before."""
    subject, _, said = text.partition(" has ")
    return told == text or (
        bool(said)
        and told.startswith(f"{subject} has ")
        and all(s in told for s in said.split("; and "))
    )


def _changed(data: DataSection, settings: Mapping[str, Any]) -> DataSection:
    """[data] with some keys more."""
    update: dict[str, object] = {}
    for key, value in settings.items():
        if key == "ignore" and data.columns is not None:
            update["columns"] = tuple(name for name in data.columns if name not in value)
        elif key == "dates":
            rules = {name: DateColumn.model_validate(rule) for name, rule in value.items()}
            update["dates"] = {**data.dates, **rules}
        elif isinstance(value, list):
            update[key] = tuple(dict.fromkeys([*(getattr(data, key) or ()), *value]))
        else:
            update[key] = value
    return data.model_copy(update=update) if update else data


def _lines(before: DataSection, after: DataSection) -> list[str]:
    """The keys of [data] that differ, as lines of TOML."""
    lines = []
    for key in DataSection.model_fields:
        value = getattr(after, key)
        if value == getattr(before, key):
            continue
        if key == "dates":
            value = {
                name: rule.model_dump(by_alias=True, exclude_none=True, exclude_defaults=True)
                for name, rule in value.items()
            }
        lines.append(settings_line(key, value))
    return lines


def _ids(table: Table | None, data: DataSection, fail: Fail) -> TableIds | None:
    """The ids of the table; both rows without one and rows that share theirs are told."""
    if table is None:
        try:
            table = ids_alone(data)
        except VflError:  # told already
            return None
    said: set[str] = set()
    for empty in ("refuse", "drop") if data.empty == "refuse" else ("drop",):
        try:
            ids = ids_of(table, data.model_copy(update={"empty": empty}))
        except VflError as error:
            if str(error) not in said:
                fail(str(error))
            said.add(str(error))
        else:
            return None if said else ids
    return None


def _note_ids(data: DataSection, report: Reporter) -> None:
    """What the rule for ids does not mend, a line for each column."""
    try:
        table = ids_alone(data)
    except VflError:  # a table that cannot be read has failed already
        return
    for line in find_unmended(data, table.by_key(data)):
        report(CheckResult("note", "ids", line))


def _broken_rules(party: Party, table: Table) -> Iterator[str]:
    """The columns that [policy] names and the table has not as features."""
    if party.role == "host":
        for name in party.policy.columns or ():
            if name not in table.features:
                yield f"[policy] columns has {name!r}, which is no feature of {table.path.name}"


def _linear_faults(party: Party, table: Table) -> Iterator[str]:
    """What [glm] says of columns and levels that the table has not."""
    try:
        check_rules_of(party, table.features, table.path.name)
        check_levels_of(party, table.features, table.path.name)
    except ConfigError as error:
        yield str(error)


def _label_faults(table: Table, data: DataSection) -> Iterator[str]:
    if table.label is not None and (table.label == table.label[0]).all():
        yield (
            f"{table.path.name}: label '{data.label}' has the same value in every row: no model can be "
            "trained on it"
        )


def _label_notes(table: Table, data: DataSection) -> Iterator[str]:
    """Whether a label that seems to be one of two classes is 0 or 1."""
    if table.label is None:
        return
    values = np.unique(table.label)
    if len(values) == 2 and set(values.tolist()) != {0.0, 1.0}:
        yield (
            f"{table.path.name}: label '{data.label}' has two values that are not 0 and 1, as "
            "binary and logistic need them"
        )
    elif len(values) > 2 and np.isin(table.label, (0.0, 1.0)).mean() >= 0.99:
        alone = without_features(data)
        loss = LogisticLoss()
        _, faults = examine_table(alone, Wanted("guest", True, loss=loss), _SHOWN)
        yield from (f"{fault} (with binary and logistic)" for fault in faults)


def _number_notes(table: Table, data: DataSection) -> Iterator[str]:
    """Columns of numbers that are dates, such as 20241231."""
    for name, values in table.features.items():
        if values.dtype == object or name in data.dates:
            continue
        known = values[~np.isnan(values)].astype(np.float64)
        if not len(known) or not ((known >= 19_000_101) & (known <= 20_991_231)).all():
            continue
        month, day = known // 100 % 100, known % 100
        if ((month >= 1) & (month <= 12) & (day >= 1) & (day <= 31) & (known % 1 == 0)).all():
            line = set_it(dates={name: {"as": "days"}})
            yield f"{table.path.name}: column '{name}' has dates such as 20241231 as numbers: {line}"


def _check_split(table: Table, ids: TableIds, job: Job, fail: Fail, report: Reporter) -> None:
    """What a job would make of the rows, if all were aligned."""
    try:
        rows, held_out = split_rows(table, ids.rows, job, ids.entities)
    except DataError as error:
        fail(str(error))
        return
    parts = RowParts.of(table, ids.rows, rows, held_out, job.job.holdout)
    counts = ", ".join(f"{number:,} {what}" for what, number in parts.counts.items() if number)
    for text in (f"of all rows that have an id {counts}", *parts.sentences):
        report(CheckResult("note", "job", f"job {job.name}: {text}"))


def _check_rows(table: Table, ids: TableIds, job: Job, fail: Fail, report: Reporter) -> None:
    """What a job over rows would make of the table."""
    try:
        own = take_part(table, ids, job)
    except ConfigError as error:
        fail(str(error))
        return
    parts = ((own.rows.train, "train"), (own.rows.validation, "validate"), (own.held_out, "held out"))
    counts = ", ".join(f"{int(mask.sum()):,} {what}" for mask, what in parts if mask.any())
    report(CheckResult("note", "job", f"job {job.name}: of this party's rows {counts}"))
    for text in level_notes(own, job):
        report(CheckResult("note", "table", f"table: {text}"))


def _summary(table: Table, ids: TableIds) -> str:
    kinds = [values.dtype == object for values in table.features.values()]
    label = "" if table.label is None else f", label mean {table.label.mean():.4f}"
    distinct = sum(len(np.unique(key.of_row[key.of_row >= 0])) for key in ids.keys[:1])
    return (
        f"{table.path.name}, {counted(table.rows, 'row')}, {counted(distinct, 'distinct id')}, "
        f"{len(kinds) - sum(kinds)} numeric and {sum(kinds)} categorical columns{label}"
    )
