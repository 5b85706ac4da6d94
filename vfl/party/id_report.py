"""What the ids of a table look like, before any protocol: a report that shows none of them.

Ids that two parties write differently are not found, and nobody is told: each party looks at its own
columns first. Counts, lengths, shapes (`AA-999-AA`), and findings with what to do about each. A shape
is shown where `COMMON` rows have it, for a rare one could be an id's.

All checks run over the distinct values of a column, in Arrow.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vfl.arrays import Mask
from vfl.blocks.scratch import Scratch
from vfl.blocks.texts import stretches_of
from vfl.party.config_values import Duplicates
from vfl.party.id_cells import IdReading
from vfl.party.id_findings import COMMON, ColumnFindings, Evidence, IdFinding
from vfl.party.id_values import Codes, Values, WrittenIds
from vfl.party.ids import NormalisedIds, by_column, digest, in_words, normalise
from vfl.party.keys import all_keys
from vfl.party.rows import RowNumbers, below_header
from vfl.party.sections import DataSection
from vfl.party.sources.arrow import mask_of
from vfl.party.table import Table, Wanted, read_wanted
from vfl.text import counted

TOP_LENGTHS, TOP_SHAPES = 3, 5
LOOKED_AT = 1 << 21
"""Rows that are looked at before a job: all of tens of millions take minutes."""
_LONGEST_SHAPE = 40
_AS_THEY_ARE = IdReading()


@dataclass(frozen=True)
class Counts:
    """Of a column or of a whole id: rows without it, different ids, rows whose id another row has."""

    empty: int
    distinct: int
    repeated: int

    def __add__(self, other: "Counts") -> "Counts":
        """Of two parts that have no value in common."""
        return Counts(
            self.empty + other.empty, self.distinct + other.distinct, self.repeated + other.repeated
        )


@dataclass(frozen=True)
class IdColumnReport:
    """One column of the id."""

    name: str
    rule: str
    written: Counts
    normalised: Counts
    shortest: int  # characters without blanks at the ends; 0 without any value
    longest: int
    lengths: list[tuple[int, int]]  # the most common ones: characters, rows
    shapes: list[tuple[str, int]]  # the most common ones: shape, rows
    other_shapes: int  # rows of all others
    findings: list[IdFinding]


@dataclass(frozen=True)
class IdReport:
    """The ids of a table; `ids` counts whole ids as the parties compare them."""

    file: str
    rows: int
    rule: str
    digest: str  # the same at all parties, or they refuse each other
    columns: list[IdColumnReport]
    ids: Counts
    plan: list[str] = field(
        default_factory=list
    )  # what becomes of rows without an id and of repeated ids
    further: list["IdReport"] = field(default_factory=list)  # on further keys


def profile_ids(data: DataSection, scratch: Scratch = Scratch()) -> IdReport:
    """The report on the id columns of a party's table; no other column is read.

    Raises DataError for a table that cannot be read.
    """
    table = ids_alone(data, scratch)
    by_key, readings = table.by_key(data), data.id_readings
    reports = [
        profile(
            dict(zip(key.id, columns, strict=True)),
            key.normalise,
            table.path.name,
            reading,
            table.row_numbers,
        )
        for key, columns, reading in zip(data.keys, by_key, readings, strict=True)
    ]
    ids = all_keys(
        by_key,
        [key.normalise for key in data.keys],
        "keep",
        "drop",
        table.path.name,
        [replace(reading, merging="allow") for reading in readings],
    )
    plan = _plan(data, len(ids.without_id), reports[0].ids.repeated, ids.merged)
    return replace(reports[0], plan=plan, further=reports[1:])


def find_unmended(
    data: DataSection, by_key: Sequence[Sequence[Sequence[str | None]]], most: int = LOOKED_AT
) -> list[str]:
    """What the rules do not mend in the ids of a table, a line for each column that has such rows.

    by_key: the cells of the columns of each key. most: of how many rows, about; of more, stretches all
    over the table.
    """
    lines = []
    for key, columns, reading in zip(data.keys, by_key, data.id_readings, strict=True):
        rules = by_column(key.normalise, len(columns))
        for i, (name, cells, steps) in enumerate(zip(key.id, columns, rules, strict=True)):
            findings = ColumnFindings(steps, reading, len(columns) == 1, again=False)
            some = stretches_of(cells, most)
            for values in WrittenIds(some, steps, reading, i).parts(alike=False):
                findings.look(values)
            of = f"of {counted(len(some), 'row')} that were looked at"
            rows = "rows" if len(some) == len(cells) else of
            found = [f"{f.rows:,} {f.what}" for f in findings.found() if not f.mended]
            if found:
                lines.append(
                    f"id column '{name}', {rows}: {'; '.join(found)} (vfl align --dry-run says which "
                    "and what to do)"
                )
    return lines


def ids_alone(data: DataSection, scratch: Scratch) -> Table:
    """A party's table with the columns of its ids alone. Raises DataError."""
    alone = data.model_copy(update=dict.fromkeys(("label", "weight", "exposure", "offset")))
    return read_wanted(alone, Wanted("guest", False, expect=(), scratch=scratch))


def _plan(data: DataSection, empty: int, repeated: int, merged: int) -> list[str]:
    """What becomes of rows without any id, and of rows that share the first key with others."""
    plan = []
    if merged:
        ends = "an alignment stops at them" if data.merging == "refuse" else "they count as one id"
        rows = "row has" if merged == 1 else "rows have"
        plan.append(
            f'merging = "{data.merging}": {merged:,} {rows} an id that normalise makes equal to a '
            f"different one, {ends}"
        )
    if empty:
        ends = "an alignment stops at them" if data.empty == "refuse" else "they match nothing"
        plan.append(
            f'empty = "{data.empty}": {empty:,} row{"" if empty == 1 else "s"} without an id, {ends}'
        )
    if repeated:
        plan.append(
            f'duplicates = "{data.duplicates}": {repeated:,} rows share their id, '
            f"{_ENDS[data.duplicates]}"
        )
        if data.aggregate:
            own = ", ".join(f"{rule} of '{column}'" for column, rule in data.aggregate.items())
            plan.append(f"aggregate: but {own}")
    return plan


_ENDS: dict[Duplicates, str] = {
    "refuse": "an alignment stops at them",
    "keep": "each is joined to the row that the host has of it",
    "first": "the first row of each id is used",
    "last": "the last row of each id is used",
    "sum": "they become one with the sum of their numbers",
    "mean": "they become one with the mean of their numbers",
    "max": "they become one with the largest of their numbers",
    "min": "they become one with the smallest of their numbers",
}


def profile(
    columns: dict[str, Sequence[str | None]],
    rule: Sequence[str],
    file: str,
    reading: IdReading = _AS_THEY_ARE,
    row_numbers: RowNumbers = below_header,
) -> IdReport:
    """The report on the columns of an id, one value a row, under a rule as `ids.compose` makes it.

    row_numbers: by which a person finds the rows in the file. Raises ConfigError for a rule that does
    not fit the columns.
    """
    rules = by_column(rule, len(columns))
    found = [
        _column(name, WrittenIds(cells, steps, reading, place), len(columns) == 1)
        for place, ((name, cells), steps) in enumerate(zip(columns.items(), rules, strict=True))
    ]
    allowed = replace(reading, merging="allow")
    ids = normalise(list(columns.values()), rule, "first", empties="drop", reading=allowed)
    return IdReport(
        file=file,
        rows=len(next(iter(columns.values()))),
        rule=in_words(rule),
        digest=digest(rule),
        columns=_with_row_numbers(found, row_numbers),
        ids=_counts_of(ids),
    )


def _counts_of(ids: NormalisedIds) -> Counts:
    rows = np.bincount(ids.id_of_row[ids.id_of_row >= 0])
    return Counts(ids.empties, len(ids.ids), int(rows[rows > 1].sum()))


def _with_row_numbers(
    columns: Sequence[IdColumnReport], row_numbers: RowNumbers
) -> list[IdColumnReport]:
    """The columns with the rows of their findings as people find them: all at once, since a file may
    have to be read for it."""
    found = [finding for column in columns for finding in column.findings]
    places = sorted({int(row) for finding in found for row in finding.first})
    number = dict(zip(places, row_numbers(places), strict=True))
    return [
        replace(
            column,
            findings=[replace(f, first=[number[int(row)] for row in f.first]) for f in column.findings],
        )
        for column in columns
    ]


def _column(name: str, column: WrittenIds, alone: bool) -> IdColumnReport:
    """The report on a column."""
    written, normalised = Counts(0, 0, 0), Counts(0, 0, 0)
    lengths: Counter[int] = Counter()
    shapes: dict[str, Evidence] = {}
    findings = ColumnFindings(column.steps, column.reading, alone, again=True)
    filled = 0
    for values in column.parts(alike=True):
        coded = values.cleaned.dictionary_encode()
        cleaned = coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)[values.every]
        nothing = mask_of(pc.equal(values.cleaned, ""))
        missing = nothing[values.every] if len(nothing) else np.zeros(0, np.bool_)
        blank = mask_of(pc.equal(values.text, ""))[values.every] if len(nothing) else missing
        written, normalised = (
            written + _counts(values.every, blank),
            normalised + _counts(cleaned, missing),
        )
        characters = pc.utf8_length(values.text).to_numpy(zero_copy_only=False)[values.code]
        sizes, rows_of_size = np.unique(characters, return_counts=True)
        lengths.update(dict(zip(sizes.tolist(), rows_of_size.tolist(), strict=True)))
        for shape, rows in _shapes(values):
            shapes[shape] = shapes.get(shape, Evidence()) + rows
        findings.look(values)
        filled += len(values.rows)
    common = sorted(lengths, key=lambda size: (-lengths[size], size))[:TOP_LENGTHS]
    ordered = sorted(shapes, key=lambda shape: (-shapes[shape].rows, shapes[shape].first))
    shown = [(shape, shapes[shape].rows) for shape in ordered[:TOP_SHAPES]]
    shown = [(shape, rows) for shape, rows in shown if rows >= COMMON]
    return IdColumnReport(
        name=name,
        rule=in_words(column.steps),
        written=written,
        normalised=normalised,
        shortest=min(lengths, default=0),
        longest=max(lengths, default=0),
        lengths=[(size, lengths[size]) for size in common],
        shapes=shown,
        other_shapes=filled - sum(rows for _, rows in shown),
        findings=findings.found(),
    )


def _counts(code: Codes, empty: Mask) -> Counts:
    _, rows = np.unique(code[~empty], return_counts=True)
    return Counts(int(np.count_nonzero(empty)), len(rows), int(rows[rows > 1].sum()))


_LETTER = np.full(256, ord("?"), np.uint8)
_LETTER[ord("!") : ord("~") + 1] = np.arange(ord("!"), ord("~") + 1)
_LETTER[ord("A") : ord("Z") + 1] = ord("A")
_LETTER[ord("a") : ord("z") + 1] = ord("a")
_LETTER[ord("0") : ord("9") + 1] = ord("9")
_LETTER[list(b"\t\n\r\f\v ")] = ord("_")


def _shapes(values: Values) -> Iterator[tuple[str, Evidence]]:
    """Each shape with its rows."""
    text = pc.utf8_slice_codeunits(values.text, 0, _LONGEST_SHAPE)
    if values.beyond.any():
        plain = [_ascii_shape(value) for value in text.filter(pa.array(values.beyond)).to_pylist()]
        text = pc.replace_with_mask(text, pa.array(values.beyond), pa.array(plain, text.type))
    _, offsets, letters = text.buffers()  # a byte is a character
    signs = _LETTER[np.frombuffer(letters or b"", np.uint8)].tobytes()
    shapes = pa.Array.from_buffers(text.type, len(text), [None, offsets, pa.py_buffer(signs)])
    coded = shapes.dictionary_encode()
    of_row = coded.indices.to_numpy(zero_copy_only=False)[values.code]
    rows = np.bincount(of_row, minlength=len(coded.dictionary))
    first = np.zeros(len(rows), np.int64)
    first[of_row[::-1]] = values.rows[::-1]  # of several the one written last stays
    for name, count, one in zip(
        coded.dictionary.to_pylist(), rows.tolist(), first.tolist(), strict=True
    ):
        if count:
            yield name, Evidence(count, (one,))


def _ascii_shape(value: str) -> str:
    """A value with letters, digits and blanks beyond ASCII in place of which stand those of ASCII."""
    kinds = {"Ll": "a", "N": "9", "L": "A", "Z": " "}
    categories = map(unicodedata.category, value)
    return "".join(
        c if c.isascii() else kinds.get(kind) or kinds.get(kind[0], "\x7f")
        for c, kind in zip(value, categories, strict=True)
    )
