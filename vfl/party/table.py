"""The party's own table.

Ids stay text exactly as written, categories stay text, everything else must be a number. No
type is guessed: whatever is not plainly one of the three is an error that names the column
and the rows as a spreadsheet shows them (the header is row 1, for Parquet too), and never a value.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray

from vfl.errors import ConfigError, DataError
from vfl.learn.binning import Features
from vfl.learn.levels import spelled_alike
from vfl.learn.losses import BadLabel, Loss
from vfl.learn.suspects import TOLD, levels_of_rows, numbers_rows, told
from vfl.party.config import Aggregate, DataSection, Role, did_you_mean
from vfl.party.sources.opening import open_source
from vfl.party.sources.source import Source

Rows = NDArray[np.integer[Any]] | slice

MAX_CATEGORIES = 10_000
MANY = 50  # rows from which on texts that are all different are no categories


@dataclass(frozen=True)
class Table:
    """A table as the protocols need it; every array has `rows` entries.

    `ids` holds a list of text for each id column of all keys (`DataSection.id_columns`), None where the
    cell is empty. A feature is float64 with NaN for missing or, if categorical, objects: text or None.
    `offset` is what is added to the score: the offset column plus log(exposure), None without either
    column. `faults` has the columns that cannot be used, or that are not there, and why, where nobody
    needs them.
    """

    path: Path
    ids: list[list[str | None]]
    features: Features
    label: NDArray[np.float64] | None
    weight: NDArray[np.float64] | None
    rows: int
    warnings: list[str]
    faults: Mapping[str, DataError] = field(default_factory=dict)
    exposure: NDArray[np.float64] | None = None
    offset: NDArray[np.float64] | None = None

    def take(self, rows: Rows) -> Features:
        """The features of some rows, in the order given; a row below 0 has none: all are missing."""
        unknown = None if isinstance(rows, slice) else rows < 0
        if unknown is None or not unknown.any():
            return {name: values[rows] for name, values in self.features.items()}
        taken = {}
        for name, values in self.features.items():
            chosen = values[rows]
            np.putmask(chosen, unknown, np.array(None if values.dtype == object else np.nan))
            taken[name] = chosen
        return taken

    def by_key(self, data: DataSection) -> list[list[list[str | None]]]:
        """The id columns of each key."""
        column = dict(zip(data.id_columns, self.ids, strict=True))
        return [[column[name] for name in key.id] for key in data.keys]

    def aggregated(
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
        features = {}
        for name, values in self.features.items():
            made = _aggregate(values[member], of, len(stands), own.get(name, rule))
            features[name] = values.copy()
            features[name][stands] = made
        return replace(self, features=features)


def read_table(
    data: DataSection,
    *,
    role: Role,
    need_label: bool,
    path: Path | None = None,
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
    path = path or data.path
    if need_label and data.label is None:
        raise ConfigError("[data] label is missing in the party file: the guest names its label")
    source = open_source(path)
    guests = _guests(source, data, need_label, expect)
    guests = {key: name for key, name in guests.items() if key not in unused}
    warnings: list[str] = []
    faults: dict[str, DataError] = {}

    def fault(name: str, error: DataError) -> None:
        """What is wrong with a feature ends the reading, if the feature is needed."""
        if needed is None or name in needed:
            raise error
        faults[name] = error

    columns = _chosen(source, data, guests, expect, fault)
    if expect is None and data.columns is None:
        columns = _meant(source, data, columns, warnings)
    if not columns and role == "host" and needed is None:
        raise DataError(f"{path.name}: no column is left to use as a feature")
    known = [data.label] if expect is None and data.label in source.names else []
    source.read(list(dict.fromkeys([*data.id_columns, *columns, *guests.values(), *known])))
    features = {}
    for name in columns:
        try:
            features[name] = _feature(source, data, name, filled=expect is None or role == "host")
        except DataError as error:
            fault(name, error)
    found = {key: _guests_column(source, key, name) for key, name in guests.items()}
    if expect is None:
        label = found.get("label")
        if label is None and data.label is not None:
            label = _label_if_fine(source, data.label)
        for name, values in features.items():
            warnings += [f"{path.name}: column '{name}' {why}" for why in _suspicions(values, label)]
    if loss is not None and "label" in found:
        _check_label(source, guests["label"], found["label"], loss)
    exposure, offset = found.get("exposure"), found.get("offset")
    if exposure is not None:
        offset = np.log(exposure) if offset is None else offset + np.log(exposure)
    return Table(
        path=path,
        ids=[source.ids(name) for name in data.id_columns],
        features=features,
        label=found.get("label"),
        weight=found.get("weight"),
        rows=source.rows,
        warnings=warnings,
        faults=faults,
        exposure=exposure,
        offset=offset,
    )


def _guests(
    source: Source, data: DataSection, need_label: bool, expect: Sequence[str] | None
) -> dict[str, str]:
    """The guest's own columns that are to be read, by use."""
    named = {key: name for key, name in data.guests.items() if name is not None}
    if need_label:
        return named
    if expect is None:
        return {}
    at_scoring = {key: name for key, name in named.items() if key in ("exposure", "offset")}
    if data.exposure not in source.names:
        at_scoring.pop("exposure", None)
    return at_scoring


def _chosen(
    source: Source,
    data: DataSection,
    guests: Mapping[str, str],
    expect: Sequence[str] | None,
    fault: Callable[[str, DataError], None],
) -> list[str]:
    """The feature columns, after a check that every column named anywhere is there."""
    for use, names in [("id", data.id_columns), *((key, [name]) for key, name in guests.items())]:
        for name in names:
            if name not in source.names:
                raise source.error(f"no column '{name}' (named by {use}){_or(name, source.names)}")
    if expect is not None:
        for name in expect:
            if name not in source.names:
                what = f"no column '{name}', which the model was trained on{_or(name, source.names)}"
                fault(name, source.error(what))
        return [name for name in expect if name in source.names]
    for use in ("categorical", "monotone", "aggregate", "columns", "ignore"):
        for name in getattr(data, use) or ():
            if name not in source.names:
                what = f"no column '{name}' (named by {use}){_or(name, source.names)}"
                fault(name, source.error(what))
    if data.columns is not None:
        return [name for name in data.columns if name in source.names]
    other = {*data.id_columns, *data.guests.values(), *(data.ignore or ())}
    return [name for name in source.names if name not in other]


def _meant(source: Source, data: DataSection, columns: Sequence[str], warnings: list[str]) -> list[str]:
    """The columns without an index that a data frame had, unless the party file names it."""
    unmeant = source.row_labels - {*data.categorical, *data.monotone, *data.aggregate}
    for name in columns:
        if name in unmeant:
            what = f"column '{name}' holds" if name else "the first column, without a name, holds"
            warnings.append(
                f"{source.path.name}: {what} the labels of a data frame's rows (its index): left out"
                + (", unless columns in [data] lists it" if name else "")
            )
    return [name for name in columns if name not in unmeant]


def _or(name: str, names: Sequence[str]) -> str:
    near = did_you_mean(name, names)
    if near:
        return f": did you mean '{near}'?"
    return f": the columns are {', '.join(names[:20])}" + (", ..." if len(names) > 20 else "")


def _feature(source: Source, data: DataSection, name: str, filled: bool) -> NDArray[Any]:
    """A column of numbers or categories; if it must be `filled`, with a value in some row."""
    values: NDArray[Any]
    if name in data.categorical:
        values = _categories(source, name)
        missing = values == np.array(None)
    else:
        values = _numbers(source, name)
        missing = np.isnan(values)
    if filled and missing.all():
        raise source.error(f"column '{name}' has no value in any row: ignore it in [data]")
    return values


def _numbers(source: Source, name: str) -> NDArray[np.float64]:
    what = f"column '{name}'"
    try:
        return _finite(source, name, what, "")
    except DataError:
        return _finite(source, name, what, _advice(source, name))


def _advice(source: Source, name: str) -> str:
    """What to do about a column in which something is no number, by what most of it is.

    Whoever lists numbers under categorical for one bad cell gets a level for each of them.
    """
    try:
        text = source.text(name)
    except DataError:  # of a type that is no column of names either
        return "write it as numbers, or ignore it in [data]"
    known = pc.sum(pc.is_valid(text)).as_py() or 0
    for pattern, advice in _ADVICE.items():
        if 2 * _matching(text, pattern) > known:
            return advice
    if 2 * len(pc.unique(pc.drop_null(text))) > known >= MANY:
        return "it has hardly a text twice: ignore it in [data]"
    return "list it under categorical if its values are names, else ignore it in [data]"


# By what most cells are.
_UNIT = "[%‰$€£¥]|(?i:eur|usd|chf|gbp|km|kg|kw|hp|ps|cm|mm|m|g)"
_ADVICE = {
    r"^\s*[0-9]{1,4}([-./][0-9]{1,2}){2}([0-9]{2})?([T ].*)?$": (
        "turn dates into numbers, such as an age in years, or ignore the column in [data]"
    ),
    r"^\s*[+-]?([0-9]{1,3}([. '][0-9]{3})*|[0-9]+)?,[0-9]+\s*$": (
        'set decimal = "," in [data] if the comma is before the decimals'
    ),
    r"^\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*$": (
        "write a number there, or nothing where the value is missing"
    ),
    rf"^\s*[$€£¥]?\s*[+-]?[0-9][0-9.,' ]*\s*({_UNIT})?\s*$": (
        "write it as plain numbers, without units, currencies and signs for thousands"
    ),
}


def _matching(text: Any, pattern: str) -> int:
    return int(pc.sum(pc.match_substring_regex(text, pattern)).as_py() or 0)


def _finite(source: Source, name: str, what: str, advice: str) -> NDArray[np.float64]:
    values = source.numbers(name, what, advice)
    infinite = np.isinf(values)
    if infinite.any():
        raise source.error(f"{what} has an infinite number {source.in_rows(infinite)}: correct it")
    return values


def _categories(source: Source, name: str) -> NDArray[np.object_]:
    """A categorical column as shared text objects, None where missing."""
    text = source.text(name)
    if isinstance(text, pa.ChunkedArray):
        text = text.combine_chunks()
    coded = text.dictionary_encode()
    names = coded.dictionary.to_pylist()
    if len(names) > MAX_CATEGORIES:
        raise source.error(
            f"categorical column '{name}' has {len(names):,} categories, over "
            f"{MAX_CATEGORIES:,}: it looks like an id, ignore it in [data]"
        )
    # The last entry is None: a missing code of -1 finds it.
    codes = pc.fill_null(coded.indices.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
    objects: NDArray[np.object_] = np.array([*names, None], dtype=object)
    return cast(NDArray[np.object_], objects[codes])


def _aggregate(
    values: NDArray[Any], of: NDArray[np.int64], groups: int, rule: Aggregate
) -> NDArray[Any]:
    """What a rule makes of each group's values; `of` has the group of each value."""
    if rule in ("first", "last"):
        order = np.arange(len(values)) if rule == "last" else np.arange(len(values))[::-1]
        at = np.empty(groups, np.int64)
        at[of[order]] = order  # of several the one written last stays
        return values[at]
    if rule == "mode":
        return _modes(values, of, groups)
    known = ~np.isnan(values)
    number = np.bincount(of[known], minlength=groups)
    with np.errstate(invalid="ignore"):
        if rule in ("max", "min"):
            made = np.full(groups, np.nan)
            (np.fmax if rule == "max" else np.fmin).at(made, of, values)
            return made
        total = np.bincount(of[known], weights=values[known], minlength=groups)
        made = total / number if rule == "mean" else total
    return np.where(number > 0, made, np.nan)


def _modes(values: NDArray[Any], of: NDArray[np.int64], groups: int) -> NDArray[Any]:
    """The most frequent text of each group, of several the one that comes first; None without any."""
    made: NDArray[Any] = np.full(groups, None, object)
    known = np.flatnonzero(values != np.array(None))
    names, code = np.unique(values[known].astype(str), return_inverse=True)
    if not len(names):
        return made
    pairs, first, times = np.unique(of[known] * len(names) + code, return_index=True, return_counts=True)
    group = pairs // len(names)
    best = np.lexsort((first, -times, group))
    best = best[np.unique(group[best], return_index=True)[1]]
    made[group[best]] = names[pairs[best] % len(names)].astype(object)
    return made


def _suspicions(values: NDArray[Any], label: NDArray[np.float64] | None) -> list[str]:
    """What speaks against a column as a feature, after its name."""
    missing = values == np.array(None) if values.dtype == object else np.isnan(values)
    if not missing.any() and (values == values[0]).all():
        return ["has the same value in every row"]
    found = []
    if values.dtype == object:
        if levels := levels_of_rows(values):
            found.append(
                f"has {levels[0]:,} levels in {levels[1]:,} rows, from which little can be learned: if "
                "it is an id, ignore it in [data]"
            )
        if alike := spelled_alike(values):
            found.append(
                f"has {alike:,} levels that are different only in how they are written, as 1 and 1.0 or "
                "a and A are: each counts as a level of its own; write them alike if they are one"
            )
    elif why := numbers_rows(values):
        found.append(f"{why}: it knows the order of the rows; ignore it in [data] unless it is meant")
    if label is not None and (share := told(values, label)) >= TOLD:
        ones = len(np.unique(label)) == 2
        how = f"AUC {(1 + share) / 2:.3f}" if ones else f"{share:.0%} of the best order"
        found.append(
            f"tells the label almost alone ({how}): unless it is known before the label is, ignore it "
            "in [data]"
        )
    return found


_GUESTS_ADVICE = {
    "label": "a label is a number, such as 0 or 1",
    "weight": "a weight is a positive number",
    "exposure": "an exposure is a positive number, such as years at risk",
    "offset": "an offset is a number",
}


def _guests_column(source: Source, key: str, name: str) -> NDArray[np.float64]:
    what = f"{key} '{name}'"
    values = _finite(source, name, what, _GUESTS_ADVICE[key])
    _no_gaps(source, what, values)
    if key in ("weight", "exposure") and (values <= 0).any():
        raise source.error(f"{what} must be positive but is not {source.in_rows(values <= 0)}")
    return values


def _label_if_fine(source: Source, name: str) -> NDArray[np.float64] | None:
    """A label that nobody needs yet; None where it is missing, or no number, in some row."""
    if name not in source.names:
        return None
    try:
        return _guests_column(source, "label", name)
    except DataError:
        return None


def _check_label(source: Source, name: str, values: NDArray[np.float64], loss: Loss) -> None:
    try:
        loss.check(values)
    except BadLabel as error:
        where = "" if error.rows is None else f" {source.in_rows(error.rows)}"
        raise source.error(f"label '{name}' {error.what}{where}: {error.advice}") from None


def _no_gaps(source: Source, what: str, values: NDArray[np.float64]) -> None:
    gaps = np.flatnonzero(np.isnan(values))
    if len(gaps):
        rows = ", ".join(str(n) for n in source.row_numbers([int(g) for g in gaps[:5]]))
        several = len(gaps) > 1
        raise source.error(
            f"{what} is missing in {len(gaps):,} row{'s' if several else ''} "
            f"({'rows' if several else 'row'} {rows}{', ...' if len(gaps) > 5 else ''})"
        )
