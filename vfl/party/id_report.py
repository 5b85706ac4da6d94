"""What the ids of a table look like, before any protocol: a report that shows none of them.

Ids that two parties write differently are not found, and nobody is told: each party looks at its own
columns first. Counts, lengths, shapes (`AA-999-AA`), and findings with what to do about each. A shape
is shown where `COMMON` rows have it, for a rare one could be an id's.

All checks run over the distinct values of a column, in Arrow.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vfl.arrays import Mask
from vfl.party.config_values import Duplicates
from vfl.party.id_cells import IdReading
from vfl.party.id_findings import COMMON, Codes, IdFinding, Values, findings_of
from vfl.party.ids import by_column, digest, in_words
from vfl.party.keys import all_keys
from vfl.party.rows import RowNumbers, below_header
from vfl.party.sections import DataSection
from vfl.party.sources.arrow import mask_of
from vfl.party.table import Table, read_table

TOP_LENGTHS, TOP_SHAPES = 3, 5
_LONGEST_SHAPE = 40
_AS_THEY_ARE = IdReading()


@dataclass(frozen=True)
class Counts:
    """Of a column or of a whole id: rows without it, different ids, rows whose id another row has."""

    empty: int
    distinct: int
    repeated: int


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


def profile_ids(data: DataSection) -> IdReport:
    """The report on the id columns of a party's table; no other column is read.

    Raises DataError for a table that cannot be read.
    """
    table = ids_alone(data)
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


def find_unmended(data: DataSection, by_key: Sequence[Sequence[Sequence[str | None]]]) -> list[str]:
    """What the rules do not mend in the ids of a table, a line for each column that has such rows.

    by_key: the cells of the columns of each key.
    """
    lines = []
    for key, columns, reading in zip(data.keys, by_key, data.id_readings, strict=True):
        rules = by_column(key.normalise, len(columns))
        for i, (name, cells, steps) in enumerate(zip(key.id, columns, rules, strict=True)):
            findings = findings_of(Values.of(cells, steps, reading, i), len(columns) == 1, again=False)
            found = [f"{f.rows:,} {f.what}" for f in findings if not f.mended]
            if found:
                lines.append(
                    f"id column '{name}', rows: {'; '.join(found)} (vfl align --dry-run says which and "
                    "what to do)"
                )
    return lines


def ids_alone(data: DataSection) -> Table:
    """A party's table with the columns of its ids alone. Raises DataError."""
    alone = data.model_copy(update=dict.fromkeys(("label", "weight", "exposure", "offset")))
    return read_table(alone, role="guest", need_label=False, expect=())


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
    columns: dict[str, list[str | None]],
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
    made = [
        _column(name, Values.of(values, steps, reading, place), len(columns) == 1)
        for place, ((name, values), steps) in enumerate(zip(columns.items(), rules, strict=True))
    ]
    whole, missing = made[0][1], made[0][2]
    for _, codes, empty in made[1:]:
        missing = missing | empty
        whole = np.unique(whole * (codes.max(initial=0) + 1) + codes, return_inverse=True)[1]
    counts = _counts(whole, missing)
    found = _with_row_numbers([column for column, _, _ in made], row_numbers)
    return IdReport(
        file=file, rows=len(whole), rule=in_words(rule), digest=digest(rule), columns=found, ids=counts
    )


def _with_row_numbers(
    columns: Sequence[IdColumnReport], row_numbers: RowNumbers
) -> list[IdColumnReport]:
    """The columns with the rows of their findings as people find them: all at once, since a file may
    have to be read for it."""
    places = sorted({row for column in columns for finding in column.findings for row in finding.first})
    number = dict(zip(places, row_numbers(places), strict=True))
    return [
        replace(
            column,
            findings=[replace(f, first=[number[row] for row in f.first]) for f in column.findings],
        )
        for column in columns
    ]


def _column(name: str, values: Values, alone: bool) -> tuple[IdColumnReport, Codes, Mask]:
    """The report on a column, the code of each row's normalised value, and where that is empty."""
    again = values.cleaned.dictionary_encode()
    normalised = again.indices.to_numpy(zero_copy_only=False).astype(np.int64)[values.every]
    nothing = mask_of(pc.equal(values.cleaned, ""))
    missing = nothing[values.every] if len(nothing) else np.zeros(0, np.bool_)
    blank = np.ones(len(values.every), np.bool_)
    blank[values.rows] = False
    lengths = pc.utf8_length(values.text).to_numpy(zero_copy_only=False)[values.code]
    sizes, rows_of_size = np.unique(lengths, return_counts=True)
    common = np.argsort(-rows_of_size, kind="stable")[:TOP_LENGTHS]
    shapes = _shapes(values)
    shown = [(shape, rows) for shape, rows in shapes[:TOP_SHAPES] if rows >= COMMON]
    column = IdColumnReport(
        name=name,
        rule=in_words(values.steps),
        written=_counts(values.every, blank),
        normalised=_counts(normalised, missing),
        shortest=int(sizes.min(initial=sizes[0])) if len(sizes) else 0,
        longest=int(sizes.max(initial=0)),
        lengths=[(int(sizes[i]), int(rows_of_size[i])) for i in common],
        shapes=shown,
        other_shapes=len(values.rows) - sum(rows for _, rows in shown),
        findings=findings_of(values, alone),
    )
    return column, normalised, missing


def _counts(code: Codes, empty: Mask) -> Counts:
    _, rows = np.unique(code[~empty], return_counts=True)
    return Counts(int(np.count_nonzero(empty)), len(rows), int(rows[rows > 1].sum()))


_LETTER = np.full(256, ord("?"), np.uint8)
_LETTER[ord("!") : ord("~") + 1] = np.arange(ord("!"), ord("~") + 1)
_LETTER[ord("A") : ord("Z") + 1] = ord("A")
_LETTER[ord("a") : ord("z") + 1] = ord("a")
_LETTER[ord("0") : ord("9") + 1] = ord("9")
_LETTER[list(b"\t\n\r\f\v ")] = ord("_")


def _shapes(values: Values) -> list[tuple[str, int]]:
    """Each shape with its rows, the most common first."""
    text = pc.utf8_slice_codeunits(values.text, 0, _LONGEST_SHAPE)
    if values.beyond.any():
        plain = [_ascii_shape(value) for value in text.filter(pa.array(values.beyond)).to_pylist()]
        text = pc.replace_with_mask(text, pa.array(values.beyond), pa.array(plain, text.type))
    _, offsets, letters = text.buffers()  # a byte is a character
    signs = _LETTER[np.frombuffer(letters or b"", np.uint8)].tobytes()
    shapes = pa.Array.from_buffers(text.type, len(text), [None, offsets, pa.py_buffer(signs)])
    coded = shapes.dictionary_encode()
    of_value = coded.indices.to_numpy(zero_copy_only=False)
    rows = np.bincount(of_value[values.code], minlength=len(coded.dictionary))
    order = np.argsort(-rows, kind="stable")
    names = coded.dictionary.to_pylist()
    return [(names[i], int(rows[i])) for i in order.tolist() if rows[i]]


def _ascii_shape(value: str) -> str:
    """A value with letters, digits and blanks beyond ASCII in place of which stand those of ASCII."""
    kinds = {"Ll": "a", "N": "9", "L": "A", "Z": " "}
    categories = map(unicodedata.category, value)
    return "".join(
        c if c.isascii() else kinds.get(kind) or kinds.get(kind[0], "\x7f")
        for c, kind in zip(value, categories, strict=True)
    )
