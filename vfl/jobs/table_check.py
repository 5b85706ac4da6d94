"""A party's table before any job: all that is wrong with it, and the lines of [data] that mend it."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from vfl.blocks.scratch import Scratch
from vfl.errors import ConfigError, DataError, VflError
from vfl.jobs.check_result import CheckResult, Reporter
from vfl.jobs.evaluation import RowParts, split_rows
from vfl.jobs.own_table import ids_of
from vfl.jobs.proposals import SHOWN, Fail, lines_of, read_with_proposals
from vfl.jobs.report_columns import notes_on_columns
from vfl.jobs.shared_table import level_notes, section_of, take_part, without_features
from vfl.jobs.vole_check import check_vole
from vfl.learn.holdout import Cuts
from vfl.learn.losses import LogisticLoss
from vfl.models.kinds import check_levels_of, check_rules_of, rules_of
from vfl.party.config import Job, Party
from vfl.party.id_report import find_unmended, ids_alone
from vfl.party.keys import TableIds
from vfl.party.sections import USES, DataSection
from vfl.party.sources.misfits import set_it
from vfl.party.store import Store
from vfl.party.table import Table, Wanted, examine_table
from vfl.text import counted


def _ignore(rows: int, features: int) -> None: ...


def check_table(
    party: Party,
    report: Reporter,
    job: Job | None = None,
    follow: Callable[[int, int], None] = _ignore,
) -> bool:
    """Report on a party's table, ids and label; True when a job could use them as they are, or a guest's
    `job` if there is one.

    A table that cannot be read as the party file says is read on with what the file itself proposes, so
    that all faults are known after one run. Nothing is changed. Of a party of jobs over rows, whose
    columns a job names, ids and label alone are looked at without one. `follow` is told how many rows
    and features there are, of a table that can be used.
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
    ids = _ids(table, data, _scratch_of(party), fail)
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
            follow(table.rows, len(table.features))
        told = () if job is not None else _label_notes(table, data)  # a job says what it may be
        notes = (*told, *_number_notes(table, data))
        for note in (*table.warnings, *(ids.notes if ids else ()), *notes):
            report(CheckResult("note", "table", f"table: {note}"))
    if table is not None and party.data.for_reports:
        for note in notes_on_columns(party):
            report(CheckResult("note", "table", f"table: {note}"))
    if over_rows and job is None:
        text = "table: a job over rows names its columns: --job JOB.toml checks them"
        report(CheckResult("note", "table", text))
    if over_rows and rules_of(party).named:
        text = (
            "table: monotone and [glm] of the party file do not count in jobs over rows, which say them"
        )
        report(CheckResult("note", "table", text))
    _note_ids(data, _scratch_of(party), report)
    can = ids is None or over_rows or check_vole(party, len(ids.group), report)
    if data is not given:
        left = "" if table is not None else ", but for what has to be corrected"
        report(CheckResult("note", "[data]", f"[data]: with these lines the table can be read{left}:"))
        for line in lines_of(given, data):
            report(CheckResult("note", "[data]", f"[data]: {line}", line))
    return not faults and ids is not None and can


def _read(
    party: Party, data: DataSection, fail: Fail, job: Job | None
) -> tuple[Table | None, DataSection]:
    """The table, if it can be read at last, and [data] with the proposals that it took."""
    need_label = party.role == "guest" and data.label is not None
    wanted = Wanted(party.role, need_label, scratch=_scratch_of(party))
    if job is not None:
        try:
            uses, split = job.uses(data), job.splits(data)
        except ConfigError as error:
            fail(str(error))
        else:
            unused = set(USES) - set(uses)
            wanted = replace(wanted, loss=job.loss, unused=unused, split=split, agreed=job.over_rows)
    return read_with_proposals(data, wanted, fail)


def _ids(table: Table | None, data: DataSection, scratch: Scratch, fail: Fail) -> TableIds | None:
    """The ids of the table, with their faults told."""
    if table is None:
        try:
            table = ids_alone(data, scratch)
        except VflError:  # told already
            return None
    return try_ids(table, data, fail)


def try_ids(table: Table, data: DataSection, fail: Fail) -> TableIds | None:
    """The ids of a table; both rows without one and rows that share theirs are told, and then None."""
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


def _scratch_of(party: Party) -> Scratch:
    """Where a table goes that is too large for memory, if the store is there."""
    return Scratch(Store(party.party.store).scratch_at_hand)


def _note_ids(data: DataSection, scratch: Scratch, report: Reporter) -> None:
    """What the rule for ids does not mend, a line for each column."""
    try:
        table = ids_alone(data, scratch)
    except VflError:  # a table that cannot be read has failed already
        return
    for line in find_unmended(data, table.by_key(data), max(1, table.rows)):
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
    """Whether a label that seems to be one of two classes is 0 or 1, or a count."""
    if table.classes:
        yield (
            f"{table.path.name}: label '{data.label}' has {len(table.classes)} classes of text, as "
            "multiclass needs them"
        )
    if table.label is None or table.classes:
        return
    values = np.unique(table.label)
    if len(values) == 2 and set(values.tolist()) != {0.0, 1.0}:
        yield (
            f"{table.path.name}: label '{data.label}' has two values that are not 0 and 1, as "
            "binary and logistic need them"
        )
    elif len(values) > 2 and np.isin(table.label, (0.0, 1.0)).mean() >= 0.99:
        if ((values >= 0) & (values % 1 == 0)).all():
            more = counted(int((table.label > 1).sum()), "row")
            yield (
                f"{table.path.name}: label '{data.label}' is a whole number above 1 in {more}: counts "
                "are for poisson, binary and logistic need 0 and 1"
            )
            return
        alone = without_features(data)
        loss = LogisticLoss()
        _, faults = examine_table(alone, Wanted("guest", True, loss=loss), SHOWN)
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
    if own.by.time is None:
        parts = own.split(job, Cuts()).parts
        counts = ", ".join(f"{number:,} {what}" for what, number in parts.counts.items() if number)
        said = [f"of this party's rows {counts}", *parts.by_columns]
    else:
        said = [
            f"of this party's {counted(len(own.taken), 'row')} those are held out whose "
            f"'{own.by.time.name}' is among the last of all parties, which they find in the job"
        ]
    for text in said:
        report(CheckResult("note", "job", f"job {job.name}: {text}"))
    for text in level_notes(own, job):
        report(CheckResult("note", "table", f"table: {text}"))


def _summary(table: Table, ids: TableIds) -> str:
    kinds = [values.dtype == object for values in table.features.values()]
    label = "" if table.label is None else f", label mean {table.label.mean():.4f}"
    label = f", label of {len(table.classes)} classes" if table.classes else label
    distinct = sum(len(np.unique(key.of_row[key.of_row >= 0])) for key in ids.keys[:1])
    return (
        f"{table.path.name}, {counted(table.rows, 'row')}, {counted(distinct, 'distinct id')}, "
        f"{len(kinds) - sum(kinds)} numeric and {sum(kinds)} categorical columns{label}"
    )
