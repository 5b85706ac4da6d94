"""The party's own table: CSV or Parquet in, scores out.

Ids stay text exactly as written, categories stay text, everything else must be a number. No
type is guessed: whatever is not plainly one of the three is an error that names the column
and the rows as a spreadsheet shows them (the header is row 1, for Parquet too), and never a value.
"""

import codecs
import contextlib
import csv
import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vfl.errors import ConfigError, DataError
from vfl.learn.binning import Features
from vfl.learn.losses import BadLabel, Loss
from vfl.party.config import Aggregate, DataSection, Role, did_you_mean
from vfl.party.store import replacing

Rows = NDArray[np.integer[Any]] | slice

MAX_CATEGORIES = 10_000
_MISSING = pa.array(["", "NA", "N/A", "NaN", "nan", "NULL", "Null", "null"])
_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_DECIMAL_COMMA = r"^[+-]?[0-9]*,[0-9]+$"


@dataclass(frozen=True)
class Table:
    """A table as the protocols need it; every array has `rows` entries.

    `ids` holds a list of text for each id column of all keys (`DataSection.id_columns`), None where the
    cell is empty. A feature is float64 with NaN for missing or, if categorical, objects: text or None.
    `offset` is what is added to the score: the offset column plus log(exposure), None without either
    column.
    """

    path: Path
    ids: list[list[str | None]]
    features: Features
    label: NDArray[np.float64] | None
    weight: NDArray[np.float64] | None
    rows: int
    warnings: list[str]
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
    loss: Loss | None = None,
) -> Table:
    """Read the table of a party file, or the new rows at `path` that are to be scored.

    With `need_label` label, weight, exposure and offset are read and checked, the label by `loss` if
    given; without it they may be absent and are no features either way. `expect` names the features
    that a model was trained on: these and no others are read, in that order, with the exposure (if
    the column is there) and the offset (which must be there).

    Raises DataError for anything that cannot be used as it is, ConfigError when the label is
    needed and the party file names none.
    """
    path = path or data.path
    if need_label and data.label is None:
        raise ConfigError("[data] label is missing in the party file: the guest names its label")
    source = _open(path)
    guests = _guests(source, data, need_label, expect)
    columns = _chosen(source, data, guests, expect)
    if not columns and role == "host":
        raise DataError(f"{path.name}: no column is left to use as a feature")
    source.read([*data.id_columns, *columns, *guests.values()])
    warnings: list[str] = []
    features = {
        name: _categories(source, name) if name in data.categorical else _numbers(source, name)
        for name in columns
    }
    if expect is None:  # a batch to score may well lack a value in all of its rows
        for name, values in features.items():
            _check_content(source, name, values, warnings)
    found = {key: _guests_column(source, key, name) for key, name in guests.items()}
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
        exposure=exposure,
        offset=offset,
    )


Columns = Mapping[str, Sequence[str | None] | NDArray[np.float64]]


def write_scores(path: Path, parts: Iterable[Columns]) -> None:
    """Write the rows of all parts as CSV or Parquet, by the extension of `path`.

    A part holds columns of text or floats, all of its length; each part has the same ones, and there is
    one at least. None and NaN become empty cells, floats are written so that they read back bit for bit.
    The file appears whole or not at all, readable by its owner only. Raises DataError.
    """
    check_writable(path)
    with replacing(path) as file, contextlib.ExitStack() as stack:
        writer: Any = None
        for columns in parts:
            arrays = {
                name: pa.array(
                    values,
                    pa.float64() if isinstance(values, np.ndarray) else pa.string(),
                    from_pandas=True,
                )
                for name, values in columns.items()
            }
            part = pa.table(arrays)
            if writer is None:
                kind = pq.ParquetWriter if path.suffix.lower() == ".parquet" else pa.csv.CSVWriter
                writer = stack.enter_context(kind(file, part.schema))
            writer.write_table(part)


def check_writable(path: Path) -> None:
    """Raise DataError now if `write_scores` could not write to `path` later."""
    if path.suffix.lower() not in (".csv", ".parquet"):
        raise DataError(f"{path} cannot be written: its name must end in .csv or .parquet")
    try:
        if path.is_dir():
            raise DataError(f"{path} cannot be written: it is a folder")
        if not path.parent.is_dir():
            raise DataError(f"{path} cannot be written: there is no folder {path.parent}")
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}") from None
    probe = path.with_name(f".{path.name[:100]}.probe")
    try:
        with replacing(probe) as file:
            file.write(b"\0")
    except DataError as error:
        raise DataError(str(error).replace(str(probe), str(path))) from None
    probe.unlink(missing_ok=True)


class _Source:
    """An open file: the names of its columns at first, then the columns asked for."""

    names: list[str]
    rows: int

    def __init__(self, path: Path) -> None:
        self.path = path
        self.table: Any = None

    def read(self, names: list[str]) -> None:
        raise NotImplementedError

    def ids(self, name: str) -> list[str | None]:
        """A column of ids as text, exactly as written."""
        raise NotImplementedError

    def text(self, name: str) -> Any:
        """A categorical column as an Arrow array of text, null where missing."""
        raise NotImplementedError

    def numbers(self, name: str, what: str, advice: str) -> NDArray[np.float64]:
        """A numeric column, NaN where missing. `what` and `advice` word the errors."""
        raise NotImplementedError

    def row_numbers(self, places: Sequence[int]) -> list[int]:
        """The numbers that a person finds these data rows (from 0, ascending) by."""
        raise NotImplementedError

    def error(self, text: str) -> DataError:
        return DataError(f"{self.path.name}: {text}")

    def in_rows(self, bad: NDArray[np.bool_]) -> str:
        """'in row 17 (and 3 more rows)'."""
        places = np.flatnonzero(bad)
        more = len(places) - 1
        text = f"in row {self.row_numbers([int(places[0])])[0]}"
        return text + (f" (and {more:,} more row{'s' if more > 1 else ''})" if more else "")


class _Csv(_Source):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            with path.open("rb") as file:
                start = file.read(4)
            if not start:
                raise self.error("the file is empty")
            if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
                raise self.error("the file is UTF-16, not UTF-8: save it as CSV UTF-8")
            self.delimiter = self._delimiter()
            records = self._records()
            header, self._blank_lines = next(records)
            self.names = [name.strip() for name in header]
            if next(records, None) is None:
                raise self.error("the file has a header but no rows")
        except UnicodeDecodeError:
            raise self._not_utf8() from None
        except csv.Error:
            raise self.error("the first rows are no CSV") from None
        except StopIteration:
            raise self.error("the file is empty") from None

    def read(self, names: list[str]) -> None:
        # Everything is read as text, so that what is no number is found and named here.
        try:
            if self._stray_quote():
                raise self._broken()
            self.table = pa.csv.read_csv(
                self.path,
                read_options=pa.csv.ReadOptions(
                    column_names=self.names,
                    skip_rows=self._blank_lines,
                    skip_rows_after_names=1,
                    block_size=4 << 20,
                ),
                parse_options=pa.csv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True),
                convert_options=pa.csv.ConvertOptions(
                    column_types=dict.fromkeys(self.names, pa.string()),
                    include_columns=names,
                    strings_can_be_null=False,
                ),
            )
        except UnicodeDecodeError:
            raise self._not_utf8() from None
        except pa.ArrowInvalid:
            raise self._broken() from None
        self.rows = self.table.num_rows

    def ids(self, name: str) -> list[str | None]:
        values = self.table[name].to_numpy(zero_copy_only=False)
        return [value or None for value in values.tolist()]

    def text(self, name: str) -> Any:
        column = self.table[name]
        missing = pc.is_in(pc.utf8_trim_whitespace(column), _MISSING)
        return pc.if_else(missing, pa.scalar(None, pa.string()), column)

    def numbers(self, name: str, what: str, advice: str) -> NDArray[np.float64]:
        text = self.text(name)
        try:
            values = pc.cast(text, pa.float64())
        except pa.ArrowInvalid:
            text = pc.utf8_trim_whitespace(text)
            lower = pc.utf8_lower(text)
            text = pc.if_else(pc.equal(lower, "true"), "1", text)
            text = pc.if_else(pc.equal(lower, "false"), "0", text)
            text = pc.replace_substring_regex(text, r"^\+", "")
            infinite = pc.match_substring_regex(lower, r"^[+-]?inf(inity)?$")
            good = pc.or_(pc.match_substring_regex(text, _NUMBER), infinite)
            bad = ~_filled(good, True)
            if bad.any():
                commas = _filled(pc.match_substring_regex(text, _DECIMAL_COMMA), False)
                hint = " (numbers are written with a point, as in 1.5)" if commas.any() else ""
                raise self._no_number(what, advice, bad, hint) from None
            values = pc.cast(text, pa.float64())
        numbers = _float64(values)
        strange = np.isnan(numbers) & _filled(pc.is_valid(text), True)
        if strange.any():  # NaN in a spelling that is not one of the missing values
            raise self._no_number(what, advice, strange, "")
        return numbers

    def row_numbers(self, places: Sequence[int]) -> list[int]:
        # Read again, since blank lines count for a person and quoted line breaks do not.
        found: list[int] = []
        try:
            for place, (_, number) in enumerate(self._records(), start=-1):
                if len(found) == len(places):
                    break
                if place == places[len(found)]:
                    found.append(number + 1)
        except csv.Error:  # a cell too long for this reader: from here on, count data rows
            pass
        return found + [place + 2 for place in places[len(found) :]]

    def _no_number(self, what: str, advice: str, bad: NDArray[np.bool_], hint: str) -> DataError:
        return self.error(f"{what} has text that is no number {self.in_rows(bad)}{hint}: {advice}")

    def _delimiter(self) -> str:
        """The one of comma, semicolon and tab that makes most columns of the header."""
        with self.path.open(encoding="utf-8-sig", newline="") as file:
            line = next((line for line in file if line.strip()), "")
        return max(",;\t", key=lambda d: len(next(csv.reader([line], delimiter=d), [])))

    def _records(self, strict: bool = False) -> Iterator[tuple[list[str], int]]:
        """The records that are not blank, each with the number of records before it."""
        with self.path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=self.delimiter, strict=strict)
            for number, record in enumerate(reader):
                if record:
                    yield record, number

    def _stray_quote(self) -> bool:
        """Whether a quote has no partner: it could swallow all rows after it unseen.

        Raises UnicodeDecodeError, also for columns that are not read.
        """
        decoder = codecs.getincrementaldecoder("utf-8")()
        quotes = 0
        with self.path.open("rb") as file:
            while chunk := file.read(1 << 20):
                quotes += chunk.count(b'"')
                decoder.decode(chunk)
        decoder.decode(b"", final=True)
        if quotes % 2 == 0:
            return False
        try:
            for _ in self._records(strict=True):
                pass
        except csv.Error:
            return True
        return False

    def _broken(self) -> DataError:
        """Why Arrow could not read the file; its own words would quote a row."""
        number = 0
        try:
            for record, number in self._records(strict=True):
                if len(record) != len(self.names):
                    return self.error(
                        f"row {number + 1} has {len(record)} cells, the header {len(self.names)}"
                    )
        except UnicodeDecodeError:
            return self._not_utf8()
        except csv.Error:
            return self.error(f"a quote is not closed, or not doubled, in or after row {number + 2}")
        return self.error("the file is no CSV that can be read")

    def _not_utf8(self) -> DataError:
        content = self.path.read_bytes()
        try:
            content.decode()
            number = 1  # it has been changed meanwhile
        except UnicodeDecodeError as error:
            number = content.count(b"\n", 0, error.start) + 1
        return self.error(f"line {number} is not UTF-8: save the file as CSV UTF-8")


class _Parquet(_Source):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._file = self._whole(lambda: pq.ParquetFile(path))
        self.names = list(self._file.schema_arrow.names)
        self.rows = self._file.metadata.num_rows
        if self.rows == 0:
            raise self.error("the file has columns but no rows")

    def read(self, names: list[str]) -> None:
        # Arrow also takes a name for the prefix of nested ones; select keeps what was asked for.
        self.table = self._whole(lambda: self._file.read(columns=names).select(names))

    def ids(self, name: str) -> list[str | None]:
        column = self._plain(name)
        kind = column.type
        if pa.types.is_floating(kind) or (pa.types.is_decimal(kind) and kind.scale != 0):
            raise self.error(
                f"id column '{name}' holds decimal numbers: leading zeros and exact digits are "
                "lost and cannot be brought back, so write it anew as text or whole numbers"
            )
        if not (
            _is_text(kind)
            or pa.types.is_integer(kind)
            or pa.types.is_decimal(kind)
            or pa.types.is_date(kind)
            or pa.types.is_null(kind)
        ):
            raise self.error(f"id column '{name}' is of type {kind}: write it as text")
        values = pc.cast(column, pa.string()).to_numpy(zero_copy_only=False)
        return [value or None for value in values.tolist()]

    def text(self, name: str) -> Any:
        column = self._plain(name)
        kind = column.type
        if pa.types.is_floating(kind):
            # Whole numbers with gaps are often stored as floats: 3.0 is the category 3.
            numbers = _float64(column)
            seen = numbers[~np.isnan(numbers)]
            if (np.abs(seen) >= 2**53).any():
                raise self.error(f"categorical column '{name}' holds huge numbers: write it as text")
            column = pa.array(numbers, from_pandas=True)
            if (seen == np.round(seen)).all():
                column = pc.cast(column, pa.int64())
        elif not (
            _is_text(kind)
            or pa.types.is_integer(kind)
            or pa.types.is_boolean(kind)
            or pa.types.is_decimal(kind)
            or pa.types.is_date(kind)
            or pa.types.is_null(kind)
        ):
            raise self.error(f"categorical column '{name}' is of type {kind}: write it as text")
        text = pc.cast(column, pa.string())
        missing = pc.is_in(pc.utf8_trim_whitespace(text), _MISSING)
        return pc.if_else(missing, pa.scalar(None, pa.string()), text)

    def numbers(self, name: str, what: str, advice: str) -> NDArray[np.float64]:
        column = self._plain(name)
        kind = column.type
        if column.null_count == self.rows:
            return np.full(self.rows, np.nan)
        if pa.types.is_temporal(kind):
            raise self.error(
                f"{what} holds dates or times: turn it into a number, such as an age in years, "
                "or ignore it in [data]"
            )
        if _is_text(kind):
            raise self.error(f"{what} holds text, not numbers: {advice}")
        if not (
            pa.types.is_integer(kind)
            or pa.types.is_floating(kind)
            or pa.types.is_boolean(kind)
            or pa.types.is_decimal(kind)
        ):
            raise self.error(f"{what} is of type {kind}: {advice}")
        return _float64(column)

    def row_numbers(self, places: Sequence[int]) -> list[int]:
        return [place + 2 for place in places]

    def _plain(self, name: str) -> Any:
        column = self.table[name]
        if pa.types.is_dictionary(column.type):
            column = pc.cast(column, column.type.value_type)
        return column

    def _whole(self, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except (pa.ArrowException, OSError, ValueError):
            raise self.error("the file is damaged or is no Parquet file") from None


def _open(path: Path) -> _Source:
    kind = {".csv": _Csv, ".parquet": _Parquet}.get(path.suffix.lower())
    if kind is None:
        raise DataError(f"{path.name}: a table must be a .csv or .parquet file")
    try:
        with path.open("rb"):
            pass
        source: _Source = kind(path)
    except FileNotFoundError:
        raise DataError(f"no file {path}{_similar(path)}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    for number, name in enumerate(source.names, start=1):
        if not name:
            raise source.error(f"column {number} has no name in the header: name it or remove it")
        if source.names.count(name) > 1:
            raise source.error(f"column '{name}' comes twice in the header")
    return source


def _similar(path: Path) -> str:
    if not path.parent.is_dir():
        return f": there is no folder {path.parent}"
    there = [p.name for p in path.parent.iterdir() if p.suffix.lower() in (".csv", ".parquet")]
    near = difflib.get_close_matches(path.name, there, n=1)
    return f": did you mean {near[0]}?" if near else ""


def _guests(
    source: _Source, data: DataSection, need_label: bool, expect: Sequence[str] | None
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
    source: _Source, data: DataSection, guests: Mapping[str, str], expect: Sequence[str] | None
) -> list[str]:
    """The feature columns, after a check that every column named anywhere is there."""
    named: list[tuple[str, Iterable[str]]] = [
        ("id", data.id_columns),
        *((key, [name]) for key, name in guests.items()),
    ]
    if expect is None:
        for use in ("categorical", "monotone", "aggregate", "columns", "ignore"):
            named.append((use, getattr(data, use) or ()))
    for use, names in named:
        for name in names:
            if name not in source.names:
                raise source.error(f"no column '{name}' (named by {use}){_or(name, source.names)}")
    for name in expect or ():
        if name not in source.names:
            raise source.error(
                f"no column '{name}', which the model was trained on{_or(name, source.names)}"
            )
    if expect is not None:
        return list(expect)
    if data.columns is not None:
        return list(data.columns)
    other = {*data.id_columns, *data.guests.values(), *(data.ignore or ())}
    return [name for name in source.names if name not in other]


def _or(name: str, names: Sequence[str]) -> str:
    near = did_you_mean(name, names)
    if near:
        return f": did you mean '{near}'?"
    return f": the columns are {', '.join(names[:20])}" + (", ..." if len(names) > 20 else "")


def _numbers(source: _Source, name: str) -> NDArray[np.float64]:
    return _finite(source, name, f"column '{name}'", "correct it or list the column under categorical")


def _finite(source: _Source, name: str, what: str, advice: str) -> NDArray[np.float64]:
    values = source.numbers(name, what, advice)
    infinite = np.isinf(values)
    if infinite.any():
        raise source.error(f"{what} has an infinite number {source.in_rows(infinite)}: correct it")
    return values


def _categories(source: _Source, name: str) -> NDArray[np.object_]:
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


def _check_content(source: _Source, name: str, values: NDArray[Any], warnings: list[str]) -> None:
    missing = values == np.array(None) if values.dtype == object else np.isnan(values)
    if missing.all():
        raise source.error(f"column '{name}' has no value in any row: ignore it in [data]")
    if not missing.any() and (values == values[0]).all():
        warnings.append(f"{source.path.name}: column '{name}' has the same value in every row")


_GUESTS_ADVICE = {
    "label": "a label is a number, such as 0 or 1",
    "weight": "a weight is a positive number",
    "exposure": "an exposure is a positive number, such as years at risk",
    "offset": "an offset is a number",
}


def _guests_column(source: _Source, key: str, name: str) -> NDArray[np.float64]:
    what = f"{key} '{name}'"
    values = _finite(source, name, what, _GUESTS_ADVICE[key])
    _no_gaps(source, what, values)
    if key in ("weight", "exposure") and (values <= 0).any():
        raise source.error(f"{what} must be positive but is not {source.in_rows(values <= 0)}")
    return values


def _check_label(source: _Source, name: str, values: NDArray[np.float64], loss: Loss) -> None:
    try:
        loss.check(values)
    except BadLabel as error:
        where = "" if error.rows is None else f" {source.in_rows(error.rows)}"
        raise source.error(f"label '{name}' {error.what}{where}: {error.advice}") from None


def _no_gaps(source: _Source, what: str, values: NDArray[np.float64]) -> None:
    gaps = np.flatnonzero(np.isnan(values))
    if len(gaps):
        rows = ", ".join(str(n) for n in source.row_numbers([int(g) for g in gaps[:5]]))
        several = len(gaps) > 1
        raise source.error(
            f"{what} is missing in {len(gaps):,} row{'s' if several else ''} "
            f"({'rows' if several else 'row'} {rows}{', ...' if len(gaps) > 5 else ''})"
        )


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _filled(mask: Any, missing: bool) -> NDArray[np.bool_]:
    """An Arrow mask as NumPy's, `missing` where it is null."""
    return cast(
        NDArray[np.bool_], pc.fill_null(mask, missing).to_numpy(zero_copy_only=False).astype(bool)
    )


def _float64(column: Any) -> NDArray[np.float64]:
    """A column as float64, NaN where null; integers over 2^53 are rounded."""
    values = pc.cast(column, pa.float64(), safe=False)
    array = np.array(pc.fill_null(values, float("nan")).to_numpy(zero_copy_only=False))
    return cast(NDArray[np.float64], array.astype(np.float64, copy=False))
