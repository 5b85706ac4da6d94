"""Tables whose columns workers of a cluster read and hold, where they can see the files.

The party's process opens the files, says which rows each worker reads, and learns what is to be known of
them. Only what is plain stays with the workers. A table about which there is anything to say (a cell
that is no number, a note), one that workers see otherwise than this process, and what comes from a
query, a database or a workbook, are read here, in the same words wherever the rows lie.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vfl.blocks.engine import ENGINE
from vfl.blocks.held_cells import HeldCells, Origin
from vfl.blocks.held_columns import LEVEL, NUMBER, HeldColumns
from vfl.blocks.held_parts import HeldParts
from vfl.blocks.scratch import release_pages
from vfl.party.reading import DateColumn, Reading
from vfl.party.rows import RowNumbers
from vfl.party.sources.arrow import ArrowColumn, is_exact, is_text
from vfl.party.sources.content import Content
from vfl.party.sources.misfits import MAX_CATEGORIES
from vfl.party.sources.numerals import GroupSigns
from vfl.party.sources.parquet import Parquet
from vfl.party.sources.parts import TextParts, TypedParts
from vfl.party.sources.source import Source, TableError
from vfl.party.sources.stretches import (
    FACTS,
    ID,
    Columns,
    Facts,
    Print,
    Stretch,
    read_stretch,
    unseen_of,
)
from vfl.party.sources.text import Csv
from vfl.text import counted

WORTH = 32 << 20  # bytes of files from which on workers are worth asking
_LEAST, _MOST = 4 << 20, 64 << 20  # bytes of lines that are read at a time
_LEAST_ROWS, _MOST_ROWS = 1 << 16, 1 << 20  # the same of row groups
_WHOLE = 1 << 30  # bytes of a file that one worker reads as a whole
_BLOCKS = 2  # a thread
_OF_A_CELL = 8  # bytes that workers take for a number


def why_here(source: Source, columns: int, room: float) -> str:
    """Why the party's own process reads so many columns of a table: "" where workers may, which have
    `room` bytes for them. Raises OSError for a file that is gone."""
    files = _files(source)
    if files is None:
        return "workers read Parquet and CSV files alone"
    size = sum(part.path.stat().st_size for part in files)
    if size < WORTH:
        return f"its files have less than {WORTH >> 20} MB"
    for part in files:
        if isinstance(part, Csv) and not part.can_be_cut and part.content.size > _WHOLE:
            return (
                f"{part.called} has quotes, or is packed, and is too large for one worker: write it as "
                "Parquet or in parts"
            )
    if (need := _room_of(files, columns)) > room:
        return (
            f"its columns take some {need / 1e9:.1f} GB, and workers keep {room / 1e9:.1f} GB for "
            "them, a quarter of their memory"
        )
    return ""


def prints_of(source: Source) -> list[tuple[Path, Print]]:
    """By what workers know the files of a table. Raises OSError."""
    return [(part.path.absolute(), Print.of(part.path)) for part in _files(source) or ()]


READ_HERE = "this process reads the table and sends workers what they need: "


@dataclass(frozen=True)
class HowRead:
    """Who reads a table in a job over a cluster; in words, with why it is not the workers."""

    by_workers: bool
    words: str


def how_read(
    source: Source, ask: Callable[[Callable[[], object]], Mapping[str, object]], room: float
) -> HowRead:
    """Who reads all columns of an open table. ask: what a function comes to at each worker, by its
    address. room: bytes that workers have for them."""
    try:
        if why := why_here(source, len(source.names), room):
            return HowRead(False, READ_HERE + why)
        known = prints_of(source)
    except OSError as error:
        return HowRead(False, f"{READ_HERE}a file cannot be read now ({error.strerror})")
    for worker, unseen in sorted(ask(partial(unseen_of, known)).items()):
        if unseen:
            why = f"worker {worker} does not see it as this process does ({unseen})"
            return HowRead(False, READ_HERE + why)
    files = counted(len(known), "file")
    return HowRead(True, f"workers read the table ({files}) and hold its columns of plain cells")


def hold_columns(source: Source, columns: Columns) -> "HeldTable | None":
    """Columns of an open table as workers hold them; None where this process reads all of it."""
    if not ENGINE.apart or source.lacking.keys() & {*columns.names}:
        return None
    try:
        if why_here(source, len(columns.names), ENGINE.room):
            return None
        known = [known for _, known in prints_of(source)]
    except OSError:
        return None  # which reading says, too
    columns = _that_can_be_held(source, columns)
    if not columns.names:
        return None
    given = {name: getattr(source.reading, name) for name in Reading.model_fields}
    read = partial(read_stretch, Reading.model_construct(**given), columns)
    # Not the source, which has columns that are read here.
    contents = [part.content for part in _files(source) or () if part.content is not None]
    check = partial(_check_unchanged, contents)
    whole = frozenset[int]()
    while True:
        stretches = [*_stretches(source, known, whole)]
        parts = ENGINE.read_parts(read, [stretch for _, stretch in stretches], columns.keys, check)
        if parts is None:
            return None
        facts = cast(Sequence[Facts], [*parts.each(FACTS)])
        quoted = {place for (place, _), own in zip(stretches, facts, strict=True) if own.quotes}
        if not quoted or quoted <= whole:
            break
        if any(known[place].size > _WHOLE for place in quoted):
            return None
        whole |= quoted  # such a file is read by one worker
    if not _are_plain(facts):
        return None
    rows = np.zeros(len(known), np.int64)
    np.add.at(rows, [place for place, _ in stretches], [own.rows for own in facts])
    if isinstance(source, TextParts | TypedParts):
        source.number_rows(rows.tolist())
    source.rows = int(rows.sum())
    check()
    return HeldTable(source, parts, facts, columns)


def _check_unchanged(contents: Sequence[Content]) -> None:
    """Raises TableError for a file that has changed. Workers know one by some of its bytes alone."""
    for content in contents:
        if not content.is_unchanged:
            raise TableError(f"{content.called}: the file has changed while it was read: start again")


def _are_plain(facts: Sequence[Facts]) -> bool:
    """Whether there is nothing to say of all stretches together."""
    if not sum(own.rows for own in facts) or not all(own.plain and not own.unseen for own in facts):
        return False
    for name in facts[0].signs:
        signs: GroupSigns | None = None
        for own in facts:
            if signs is None:
                signs = own.signs[name]
            else:
                signs.add(own.signs[name])
        if signs is not None and signs.may_be_groups:
            return False
    levels = facts[0].levels
    return all(len({t for own in facts for t in own.levels[n]}) <= MAX_CATEGORIES for n in levels)


def _room_of(files: Sequence[Csv | Parquet], columns: int) -> int:
    """About how many bytes workers would take for so many columns."""
    return sum(
        _OF_A_CELL * part.rows * columns if isinstance(part, Parquet) else part.content.size
        for part in files
    )


def _files(source: Source) -> Sequence[Csv | Parquet] | None:
    """The files of a table that workers could read."""
    parts = source.parts if isinstance(source, TextParts | TypedParts) else [source]
    files = [part for part in parts if isinstance(part, Csv | Parquet)]
    return files if len(files) == len(parts) else None


def _that_can_be_held(source: Source, columns: Columns) -> Columns:
    """Those that are converted cell by cell; others depend on all cells of a column, or are errors."""
    files = [part for part in _files(source) or () if isinstance(part, Parquet)]
    if not files:
        return columns
    kinds = dict[str, pa.DataType]()
    for name in columns.names:
        own = {part.schema.field(name).type for part in files if name not in part.folders}
        if len(own) == 1 and not any(name in part.folders for part in files):
            kinds[name] = own.pop()
    numbers = [
        n for n in columns.numbers if n in kinds and _is_number(kinds[n], source.reading.dates, n)
    ]
    levels = [n for n in columns.levels if n in kinds and _is_level(kinds[n])]
    ids = [n for n in columns.ids if n in kinds and _is_id(kinds[n])]
    return Columns(ids, numbers, levels)


def _is_number(kind: pa.DataType, dates: Mapping[str, DateColumn], name: str) -> bool:
    types = pa.types
    if name in dates:
        return bool(is_text(kind) or types.is_integer(kind) or types.is_date(kind))
    tests = types.is_integer, types.is_floating, types.is_boolean, types.is_decimal
    return any(test(kind) for test in tests)


def _is_level(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_boolean(kind) or (is_exact(kind) and not pa.types.is_null(kind)))


def _is_id(kind: pa.DataType) -> bool:
    return _is_level(kind) and not pa.types.is_boolean(kind)


def _stretches(
    source: Source, known: Sequence[Print], whole: frozenset[int]
) -> Iterator[tuple[int, Stretch]]:
    """What workers read at a time, in the order of the rows, each with the number of its file. whole:
    files that are not to be cut."""
    files = _files(source) or ()
    share = max(1, ENGINE.width * _BLOCKS)
    lines = sum(own.size for own in known) // share
    groups = sum(sum(part.groups) for part in files if isinstance(part, Parquet)) // share
    for number, (part, own) in enumerate(zip(files, known, strict=True)):
        cuts: list[slice | None] = [None]
        if isinstance(part, Parquet):
            cuts = [*_of_groups(part.groups, min(max(groups, _LEAST_ROWS), _MOST_ROWS))]
        elif part.can_be_cut and number not in whole:
            size = min(max(lines, _LEAST), _MOST)
            starts = range(0, max(1, own.size), size)
            cuts = [slice(start, min(start + size, own.size)) for start in starts]
        for cut in cuts:
            yield number, Stretch(part.path.absolute(), own, cut)


def _of_groups(groups: Sequence[int], rows: int) -> Iterator[slice]:
    """Row groups that follow each other, so many rows together or, of large ones, one."""
    first, known = 0, 0
    for place, own in enumerate(groups):
        if known and known + own > rows:
            yield slice(first, place)
            first, known = place, 0
        known += own
    yield slice(first, len(groups))


class HeldTable(Source):
    """A table of which workers hold columns; others are read here."""

    def __init__(self, own: Source, parts: HeldParts, facts: Sequence[Facts], columns: Columns) -> None:
        super().__init__(own.path, own.reading)
        self.own, self._parts, self._facts, self._columns = own, parts, facts, columns
        self.names, self.rows, self.shown, self.scratch = own.names, own.rows, own.shown, own.scratch
        self.notes, self.folders = own.notes, own.folders

    @property
    def called(self) -> str:
        return self.own.called

    @property
    def row_numbers(self) -> RowNumbers:
        return self.own.row_numbers

    @property
    def row_labels(self) -> frozenset[str]:
        return self.own.row_labels

    def read(self, names: list[str], part: slice | None = None) -> None:
        if names:
            self.own.read(names, part)
            if self.own.rows != self.rows:
                raise self.error("the file has changed while it was read: start again")

    def lacks(self, names: Sequence[str], again: Sequence[str]) -> list[str]:
        """Those of the columns that are to be read here: not held, or needed `again` in another form."""
        return [name for name in names if name in again or name not in self._columns.names]

    def held_features(
        self, names: Sequence[str], categorical: Sequence[str], *, filled: bool
    ) -> HeldColumns | None:
        """Columns of numbers, and of categories, with the workers; None where these lack one, or some
        column has no value although it must be `filled`."""
        kinds = [
            (name, self._columns.levels if name in categorical else self._columns.numbers)
            for name in names
        ]
        valued = frozenset[str]().union(*(own.valued for own in self._facts))
        if any(name not in held or (filled and name not in valued) for name, held in kinds):
            return None
        levels = {
            name: [own.levels[name] for own in self._facts] for name in names if name in categorical
        }
        return HeldColumns.of(names, self._parts, self.rows, levels, self.scratch.of_rows)

    def ids(self, name: str) -> Sequence[str | None]:
        if name not in self._columns.ids:
            return self.own.ids(name)
        return HeldCells(Origin(self._parts, (ID, name)), self.rows, self.scratch)

    def text(self, name: str, what: str = "") -> ArrowColumn:
        if what or name not in self._columns.levels:
            return self.own.text(name, what)
        codes = cast(Iterator[NDArray[np.int32]], self._parts.each((LEVEL, name)))
        texts = []
        for facts, own in zip(self._facts, codes, strict=True):
            names = pa.array(facts.levels[name], pa.string())
            texts.append(names.take(pa.array(own, mask=own < 0)))
        return pa.chunked_array(texts, pa.string())

    def numbers(
        self, name: str, what: str, advice: str, *, feature: bool = False
    ) -> NDArray[np.float64]:
        if name not in self._columns.numbers:
            return self.own.numbers(name, what, advice, feature=feature)
        values, at = self.scratch.of_rows(self.rows, np.float64, "a column of the table"), 0
        blocks = cast(Iterator[NDArray[np.float64]], self._parts.each((NUMBER, name)))
        for own in blocks:
            values[at : at + len(own)] = own
            at += len(own)
            release_pages(values)
        return values

    def days(self, name: str, what: str, rule: DateColumn) -> NDArray[np.float64]:
        return self.own.days(name, what, rule)

    def keep(self, features: Mapping[str, object]) -> None:
        """Let workers have the room of columns that are here, or of no use any more: all but ids and
        those features that they hold."""
        held = features.keys() if isinstance(features, HeldColumns) else ()
        for kind, names in ((NUMBER, self._columns.numbers), (LEVEL, self._columns.levels)):
            for name in {*names} - {*held}:
                self._parts.forget((kind, name))
