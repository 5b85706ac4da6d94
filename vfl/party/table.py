"""The party's own table.

Ids stay text exactly as written, categories stay text, everything else must be a number. No
type is guessed: whatever is not plainly one of the three is an error that names the column
and the rows as a spreadsheet shows them (the header is row 1, for Parquet too), and never a value.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats
from vfl.blocks.columns import change_each, change_named, in_memory, room_of
from vfl.blocks.engine import ENGINE
from vfl.blocks.held_columns import HeldColumns
from vfl.blocks.scratch import ColumnFile, Scratch, in_pieces
from vfl.blocks.texts import Cells, CellsWithout
from vfl.errors import ConfigError, DataError
from vfl.learn.binning import Features
from vfl.learn.holdout import SplitColumn, SplitColumns
from vfl.learn.losses import Loss
from vfl.learn.suspects import LabelOrder, suspicions
from vfl.party.class_labels import read_classes, text_classes
from vfl.party.config_values import Aggregate, Role
from vfl.party.feature_columns import check_label, feature, guests_column, label_if_fine
from vfl.party.row_groups import aggregate_groups
from vfl.party.rows import RowNumbers, below_header
from vfl.party.sections import DataSection
from vfl.party.sources.held import HeldTable, hold_columns
from vfl.party.sources.misfits import MAX_CATEGORIES as MAX_CATEGORIES
from vfl.party.sources.numerals import grammar
from vfl.party.sources.places import Place, open_rows
from vfl.party.sources.source import Source, labels_in_words
from vfl.party.sources.stretches import Columns
from vfl.party.split_columns import read_groups, read_times
from vfl.text import counted, nearest_name

RowChoice = NDArray[np.integer] | slice


@dataclass(frozen=True)
class Table:
    """A table as the protocols need it; every array has `rows` entries.

    `ids` holds the texts of each id column of all keys (`DataSection.id_columns`), None where the
    cell is empty. A feature is float64 with NaN for missing or, if categorical, objects: text or None.
    `offset` is what is added to the score: the offset column plus log(exposure), None without either
    column. `faults` has the columns that cannot be used, or that are not there, and why, where nobody
    needs them. `row_numbers` says where rows are in the file; it reads that again if it has to. `split`
    has the columns by which a job splits rows. `order` is a digest of what rows were put in order by
    whose source promises none; the same for the same rows. `classes` names those of a label of several
    classes; `label` has their numbers. `left_out` is how many rows of a batch a query made none of.
    """

    path: Path
    ids: list[Sequence[str | None]]
    features: Features
    label: NDArray[np.float64] | None
    weight: NDArray[np.float64] | None
    rows: int
    warnings: list[str]
    faults: Mapping[str, DataError] = field(default_factory=dict)
    exposure: NDArray[np.float64] | None = None
    offset: NDArray[np.float64] | None = None
    row_numbers: RowNumbers = below_header
    split: SplitColumns = field(default_factory=SplitColumns)
    order: bytes = b""
    classes: tuple[str, ...] = ()
    left_out: int = 0

    def take(self, rows: RowChoice) -> Features:
        """The features of some rows, in the order given; a row below 0 has none: all are missing."""

        if isinstance(self.features, HeldColumns) and not isinstance(rows, slice):
            return self.features.take(rows)

        def take(values: NDArray[np.generic]) -> NDArray[np.generic]:
            if isinstance(rows, slice):
                return values[rows]
            missing = np.array(None if values.dtype == object else np.nan)
            room = in_memory if values.dtype == object else room_of(self.features)
            chosen = room(len(rows), values.dtype.type, "a column of the table")
            for some in in_pieces(len(rows), rows, values, chosen):
                own = rows[some]
                chosen[some] = values[own]
                np.putmask(chosen[some], own < 0, missing)
            return chosen

        return change_each(self.features, take)

    def by_key(self, data: DataSection) -> list[list[Sequence[str | None]]]:
        """The id columns of each key, None in a cell that `missing` of [data] says is none.

        A spelling that is a number says so of features alone: 999 may be an id.
        """
        number = re.compile(grammar(data.decimal, data.thousands))
        none = frozenset(text.strip() for text in data.missing if not number.match(text.strip()))
        column = {
            name: cells if name in data.as_text or not none else CellsWithout(cells, none)
            for name, cells in zip(data.id_columns, self.ids, strict=True)
        }
        return [[column[name] for name in key.id] for key in data.keys]

    def aggregate(
        self, group: NDArray[np.int64], rule: Aggregate, own: Mapping[str, Aggregate]
    ) -> "Table":
        """The table in which each row that stands for others has what `rule` makes of all of them.

        group: int64 (rows,), the row that stands for each row, -1 for rows to leave alone. own: another
        rule, by column. Sum, mean, max and min are of the values that are known, mode is the most
        frequent category (of several the one that comes first); without any value the result is missing.
        First and last take the row itself.
        """
        member = np.flatnonzero(group >= 0)
        stands, of = np.unique(group[member], return_inverse=True)
        if len(stands) == len(member) and (stands == member).all():
            return self

        def aggregate(name: str, values: NDArray[np.generic]) -> NDArray[np.generic]:
            aggregated = values.copy()
            aggregated[stands] = aggregate_groups(values[member], of, len(stands), own.get(name, rule))
            return aggregated

        return replace(self, features=change_named(self.features, aggregate))


_OF_THE_JOB = ("categorical", "columns")
_BY_THE_JOB = " (named by [columns] of the job)"
"""Keys of [data] that a job over rows writes."""


@dataclass(frozen=True)
class Wanted:
    """What is wanted of a table; see `read_table`. `split` names the columns by which a job splits rows,
    by use ("group", "time"); they are features only where [data] lists them as such. `agreed`: the job
    says which features there are and of what kind, so that no key of [data] would mend one. `scratch`:
    where columns go that are too large for memory. `order`: the columns by which rows without an order
    are put in one; those of the ids if absent. `unlabelled`: with `need_label`, the
    label may be elsewhere, and all else of the guest's is read nevertheless. `label_key` and
    `expect_why`: who names the label, and the features of `expect`, for errors."""

    role: Role
    need_label: bool
    path: Place | None = None
    expect: Sequence[str] | None = None
    needed: Collection[str] | None = None
    loss: Loss | None = None
    unused: Collection[str] = ()
    split: Mapping[str, str] = field(default_factory=dict)
    agreed: bool = False
    scratch: Scratch = Scratch()
    order: Sequence[str] = ()
    unlabelled: bool = False
    label_key: str = "label"
    expect_why: str = ", which the model was trained on"

    @property
    def may_have_classes(self) -> bool:
        """Whether a label may be text."""
        return self.need_label and (self.loss is None or self.loss.classes > 1)

    def names(self, key: str) -> str:
        """Where the user names what `key` of [data] names here."""
        return self.label_key if key == "label" else key

    def needs(self, feature: str) -> bool:
        """Whether a fault of this feature is one of the whole table."""
        return self.needed is None or feature in self.needed


def read_table(
    data: DataSection,
    *,
    role: Role,
    need_label: bool,
    path: Place | None = None,
    expect: Sequence[str] | None = None,
    needed: Collection[str] | None = None,
    loss: Loss | None = None,
    unused: Collection[str] = (),
) -> Table:
    """Read the table of a party file, or the new rows at `path` that are to be scored.

    With `need_label` label, weight, exposure and offset are read and checked, the label by `loss` if
    given; without it they may be absent and are no features either way. `expect` names the features
    that a model was trained on: these and no others are read, in that order, with the exposure (if the
    column is there) and the offset (which must be there). `needed` names the features that must be
    fine, None all of them; others that are not fine are left out and are `faults` of the table.
    `unused` has the uses (exposure, offset, weight) that the job does without; these columns are no
    features either.

    Raises DataError for anything that cannot be used as it is, ConfigError when the label is
    needed and the party file names none.
    """
    return read_wanted(
        data,
        Wanted(
            role=role,
            need_label=need_label,
            path=path,
            expect=expect,
            needed=needed,
            loss=loss,
            unused=unused,
        ),
    )


def read_wanted(data: DataSection, wanted: Wanted) -> Table:
    """The table as `read_table` reads it. Raises as it does."""
    if wanted.need_label and data.label is None and not wanted.unlabelled:
        raise ConfigError("[data] label is missing in the party file: the guest names its label")
    table, faults = examine_table(data, wanted)
    if table is None:
        own = wanted.path is None or wanted.path == data.path
        raise _first(faults, ": `vfl doctor` lists them" if own else "")
    return table


def feature_names(data: DataSection, role: Role, scratch: Scratch) -> list[str]:
    """The names of a party's features, in the order of its table, of which no row is read.

    Raises DataError for a table that cannot be opened, or lacks a column that the party file names.
    """
    wanted = Wanted(role, False, scratch=scratch)
    source = open_rows(data, None, data.id_columns, scratch)
    faults: list[DataError] = []
    columns = _choose_features(source, data, {}, wanted, faults, {})
    if faults:
        raise faults[0]
    return _meant(source, data, columns, []) if data.columns is None else columns


def examine_table(
    data: DataSection, wanted: Wanted, shown: int = 1
) -> tuple[Table | None, list[DataError]]:
    """The table as `read_table` reads it, None where it has faults, and all of these, a line each.

    shown: how many rows each of them names.
    """
    expect = wanted.expect
    faults: list[DataError] = []
    aside: dict[str, DataError] = {}  # of features that nobody needs
    try:
        source = open_rows(data, wanted.path, wanted.order or data.id_columns, wanted.scratch)
    except DataError as error:
        return None, [error]
    path = source.path
    source.shown = shown
    guests = _guests(source, data, wanted)
    columns = _choose_features(source, data, guests, wanted, faults, aside)
    if faults and (source.doubt[0] or source.unnamed):
        return None, faults[:1]  # no column is what it seems
    warnings: list[str] = []
    if expect is None and data.columns is None:
        columns = _meant(source, data, columns, warnings)
    if not columns and wanted.role == "host" and wanted.needed is None:
        faults.append(DataError(f"{path.name}: no column is left to use as a feature"))
    ids = [name for name in data.id_columns if name in source.names]
    known = [data.label] if expect is None and data.label in source.names else []
    by = [name for name in wanted.split.values() if name in source.names]
    levels = [name for name in columns if name in data.categorical]
    numbers = [name for name in columns if name not in data.categorical]
    try:
        own = [*guests.values(), *known]
        names = list(dict.fromkeys([*ids, *columns, *guests.values(), *by, *known]))
        again = [*by, *(name for name in own if name == data.label and wanted.may_have_classes)]
        source = _read(source, names, Columns(ids, list(dict.fromkeys([*numbers, *own])), levels), again)
    except DataError as error:
        return None, [*faults, error]
    # A batch may well lack a value in all of its rows, and so may one party of several.
    filled = (expect is None or wanted.role == "host") and not wanted.agreed
    kept = _features(source, data, wanted, columns, filled, faults, aside)
    found: dict[str, NDArray[np.float64]] = {}
    classes: tuple[str, ...] = ()
    for key, name in guests.items():
        with _kept(faults):
            if key == "label" and (several := _several_classes(source, name, wanted.loss)):
                found[key], classes = several
                continue
            found[key] = guests_column(source, key, name, wanted.names(key).partition(" ")[0])
            if key == "label" and wanted.loss is not None:
                check_label(source, name, found[key], wanted.loss, wanted.agreed)
    split = _split_columns(source, data, wanted, faults)
    of_ids = _ids(source, ids, faults, wanted.scratch)
    if faults:
        return None, faults
    if expect is None:
        label = found.get("label")
        if label is None and data.label is not None:
            label = label_if_fine(source, data.label)
        warnings += _doubts(path, kept.features, label, wanted.agreed)
    if isinstance(source, HeldTable):
        source.keep(kept.features)
    table = Table(
        path=path,
        ids=of_ids,
        features=kept.features,
        label=found.get("label"),
        weight=found.get("weight"),
        rows=source.rows,
        warnings=[*warnings, *source.notes, *(f"{path.name}: {note}" for note in kept.notes)],
        faults=aside,
        exposure=found.get("exposure"),
        offset=_added(found.get("offset"), found.get("exposure"), wanted.scratch),
        row_numbers=source.row_numbers,
        left_out=source.left_out,
        split=split,
        order=source.order,
        classes=classes,
    )
    return table, []


def _doubts(path: Path, features: Features, label: Floats | None, agreed: bool) -> list[str]:
    """What is suspicious about features."""
    order = None if label is None else LabelOrder.of(label)
    found = _suspicions(features, order, agreed)
    return [
        f"{path.name}: column '{name}' {why}"
        for name, whys in zip(features, found, strict=True)
        for why in whys
    ]


def _read(source: Source, names: list[str], columns: Columns, by: Sequence[str]) -> Source:
    """Have columns of an open table read, by workers where there are some that can. names: of all of
    them. by: those by which rows are split. Raises DataError."""
    held = hold_columns(source, columns)
    if held is None:
        source.read(names)
        return source
    held.read(held.lacks(names, by))
    return held


def _several_classes(
    source: Source, name: str, loss: Loss | None
) -> tuple[Floats, tuple[str, ...]] | None:
    """A label of several classes and their names; None of any other. Raises DataError."""
    if loss is None:
        return text_classes(source, name)
    return read_classes(source, name, loss.classes) if loss.classes > 1 else None


@dataclass(frozen=True)
class _Kept:
    """Features, and what the table's owner should know of how they are kept, after its name."""

    features: Features
    notes: Sequence[str] = ()


def _features(
    source: Source,
    data: DataSection,
    wanted: Wanted,
    columns: Sequence[str],
    filled: bool,
    faults: list[DataError],
    aside: dict[str, DataError],
) -> _Kept:
    """The features, as far as they can be used; what is wrong with others is a fault, or goes
    `aside`."""
    # A batch is scored some rows at a time, for which its columns are here.
    if isinstance(source, HeldTable) and wanted.expect is None:
        held = source.held_features(columns, data.categorical, filled=filled)
        if held is not None:
            return _Kept(held)
    kept = ColumnFile(wanted.scratch, len(columns), source.rows)
    for name in columns:
        try:
            kept.add(name, feature(source, data, name, filled, wanted.agreed))
        except DataError as error:
            if wanted.needs(name):
                faults.append(error)
            else:
                aside[name] = error
    return _Kept(kept.features, kept.notes)


def _suspicions(features: Features, order: LabelOrder | None, agreed: bool) -> Iterator[list[str]]:
    """What speaks against each of the features."""
    if not isinstance(features, HeldColumns):
        return (suspicions(values, order, agreed=agreed) for values in features.values())
    shared = ENGINE.share(order).argument
    return ENGINE.columns(partial(_suspected, shared, agreed), features)


def _suspected(
    order: LabelOrder | None, agreed: bool, name: str, parts: Sequence[NDArray[np.generic]]
) -> list[str]:
    (values,) = parts
    return suspicions(values, order, agreed=agreed)


def _added(offset: Floats | None, exposure: Floats | None, scratch: Scratch) -> Floats | None:
    """What is added to the scores of rows, on the scale of the link."""
    if exposure is None:
        return offset
    added = scratch.of_rows(len(exposure), np.float64, "offsets")
    for some in in_pieces(len(added), added, exposure, *([] if offset is None else [offset])):
        log = np.log(exposure[some])
        added[some] = log if offset is None else offset[some] + log
    return added


def _ids(
    source: Source, names: Sequence[str], faults: list[DataError], scratch: Scratch
) -> list[Sequence[str | None]]:
    found: list[Sequence[str | None]] = []
    for name in names:
        with _kept(faults):
            found.append(Cells.stored(source.ids(name), scratch))
    return found


@contextmanager
def _kept(faults: list[DataError]) -> Iterator[None]:
    """Keep an error with the others and go on."""
    try:
        yield
    except DataError as error:
        faults.append(error)


def _first(faults: Sequence[DataError], lists: str) -> DataError:
    """The first fault, and how many more there are and what lists them."""
    more = len(faults) - 1
    if not more:
        return faults[0]
    said = [fault.for_peer for fault in faults if fault.for_peer != DataError.for_peer]
    for_peer = f"{said[0]} (and {counted(more, 'more fault')})" if said else None
    text = f"{faults[0]} (and {counted(more, 'more fault')}{lists})"
    return DataError(text, for_peer=for_peer)


def _guests(source: Source, data: DataSection, wanted: Wanted) -> dict[str, str]:
    """The guest's own columns that are to be read, by use."""
    named = {
        key: name for key, name in data.guests.items() if name is not None and key not in wanted.unused
    }
    if wanted.need_label:
        return named
    if wanted.expect is None:
        return {}
    at_scoring = {key: name for key, name in named.items() if key in ("exposure", "offset")}
    if data.exposure not in source.names:
        at_scoring.pop("exposure", None)
    return at_scoring


def _choose_features(
    source: Source,
    data: DataSection,
    guests: dict[str, str],
    wanted: Wanted,
    faults: list[DataError],
    aside: dict[str, DataError],
) -> list[str]:
    """The feature columns that are there; what is named but missing is a fault, and leaves `guests`.

    A feature that nobody needs and that is missing goes into `aside`.
    """
    expect = wanted.expect
    due: list[tuple[str, Iterable[str]]] = [
        (" (named by id)", data.id_columns),
        *((f" (named by {wanted.names(key)})", [name]) for key, name in guests.items()),
        *((f" (named by {use} in [job])", [name]) for use, name in wanted.split.items()),
    ]
    features: list[tuple[str, Iterable[str]]] = []
    if expect is None:
        for use in ("categorical", "dates", "monotone", "aggregate", "columns", "ignore"):
            by = _BY_THE_JOB if wanted.agreed and use in _OF_THE_JOB else f" (named by {use})"
            features.append((by, getattr(data, use) or ()))
        # One that is misspelt would leave the column that was meant among the features.
        features += [(f" (named by {use})", [name]) for use, name in data.for_reports]
    else:
        features.append((wanted.expect_why, expect))
    told: set[str] = set()
    for named in (due, features):
        for use, names in named:
            for name in names:
                if name in source.names or name in told:
                    continue
                told.add(name)
                error = _absent(source, name, use)
                if wanted.agreed and use.endswith(("of the job)", "in [job])")):
                    error.for_peer = f"its table has no column '{name}'{use}"
                if named is due or wanted.needs(name):
                    faults.append(error)
                else:
                    aside[name] = error
    for key, name in list(guests.items()):
        if name in told:
            del guests[key]
    if expect is not None:
        return [name for name in expect if name not in told]
    if data.columns is not None:
        return [name for name in data.columns if name not in told]
    other = {*data.id_columns, *data.guests.values(), *(data.ignore or ())}
    other |= {name for _, name in data.for_reports}
    listed = {*data.categorical, *data.dates, *data.monotone, *data.aggregate}
    other |= set(wanted.split.values()) - listed
    # What a misspelt name means is no feature of numbers: else a second fault would follow from it.
    misspelt = told - aside.keys() - {*data.monotone, *data.aggregate}
    other |= {near for name in misspelt if (near := nearest_name(name, source.names))} - listed
    return [name for name in source.names if name not in other]


def _meant(source: Source, data: DataSection, columns: Sequence[str], warnings: list[str]) -> list[str]:
    """The columns without an index that a data frame had, unless the party file names it."""
    unmeant = source.row_labels - {*data.categorical, *data.monotone, *data.aggregate}
    for name in columns:
        if name in unmeant:
            unless = ", unless columns in [data] lists it" if name else ""
            warnings.append(f"{source.path.name}: {labels_in_words(name)}{unless}")
    return [name for name in columns if name not in unmeant]


def _absent(source: Source, name: str, use: str) -> DataError:
    """The error for a column that is not there."""
    what = f"no column '{name}'{use}"
    doubt, settings = source.doubt
    if doubt:
        return source.error(f"{what}: the file has one column; {doubt}", settings)
    if source.unnamed:
        return source.error(
            f"{what}: the first row seems to hold cells, so write the names of the columns above it"
        )
    return source.error(what + _or(name, source.names))


def _or(name: str, names: Sequence[str]) -> str:
    near = nearest_name(name, names)
    if near:
        return f": did you mean '{near}'?"
    return f": the columns are {', '.join(names[:20])}" + (", ..." if len(names) > 20 else "")


def _split_columns(
    source: Source, data: DataSection, wanted: Wanted, faults: list[DataError]
) -> SplitColumns:
    """The columns by which a job splits rows; what is wrong with them is a fault."""
    found: dict[str, SplitColumn] = {}
    for use, name in wanted.split.items():
        if name in source.names:
            with _kept(faults):
                if use == "group":
                    found[use] = read_groups(source, name)
                else:
                    found[use] = read_times(source, name, data.dates.get(name))
    return SplitColumns(found.get("group"), found.get("time"))
