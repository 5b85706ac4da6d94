"""Stretches of a table's files as workers of a cluster read them: row groups, lines, or whole files.

A worker converts columns by the code of the party's own process. What it finds anything to say about is
not plain: the party's process reads such a table itself, and says it.
"""

import hashlib
import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vfl.arrays import Floats, Integers
from vfl.blocks.held_columns import LEVEL, NUMBER
from vfl.blocks.texts import Cells
from vfl.errors import DataError
from vfl.party.reading import Reading
from vfl.party.sources.arrow import coded
from vfl.party.sources.folders import file_name
from vfl.party.sources.misfits import MAX_CATEGORIES
from vfl.party.sources.numerals import GroupSigns
from vfl.party.sources.opening import open_file
from vfl.party.sources.source import Source
from vfl.party.sources.text import PartOfMore

FACTS: Hashable = ("facts", "")
"""The key of what is known of a stretch, beside those of its columns."""
ID = "id"
"""Of the key of a column: text as Arrow has it."""

_ENDS, _WITHIN, _PLACES = (
    1 << 16,
    1 << 12,
    16,
)  # bytes that a print is of, and how many stretches of them


@dataclass(frozen=True)
class Print:
    """By what a file is known to be the same: its size, and a digest of its beginning, its end (which
    has Parquet's footer) and stretches between them."""

    size: int
    digest: bytes

    @classmethod
    def of(cls, path: Path) -> "Print":
        """Raises OSError."""
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest = hashlib.sha256(_at(file, 0, _ENDS))
            for place in range(1, _PLACES):
                digest.update(_at(file, place * size // _PLACES, _WITHIN))
            digest.update(_at(file, max(0, size - _ENDS), _ENDS))
        return cls(size, digest.digest())


def _at(file: BinaryIO, place: int, size: int) -> bytes:
    file.seek(place)
    return file.read(size)


@dataclass(frozen=True)
class Stretch:
    """Rows of a file: of row groups, of the lines that begin at some bytes, or all of them (None)."""

    path: Path
    known: Print
    part: slice | None


@dataclass(frozen=True)
class Columns:
    """The columns of a table that workers are to hold, by what they are to be."""

    ids: Sequence[str]
    numbers: Sequence[str]
    levels: Sequence[str]

    @property
    def names(self) -> list[str]:
        """All of them, each once."""
        return list(dict.fromkeys([*self.ids, *self.numbers, *self.levels]))

    @property
    def keys(self) -> list[Hashable]:
        """Of all columns and of what is known of a stretch."""
        kinds = ((ID, self.ids), (NUMBER, self.numbers), (LEVEL, self.levels))
        return [FACTS, *((kind, name) for kind, names in kinds for name in names)]


@dataclass(frozen=True)
class Facts:
    """What the party's process learns of a stretch.

    unseen: why the worker cannot read this file, "" if it can. plain: whether there is nothing to say
    about its cells; if not, `quotes` says whether that is for quotes alone, so that the file as a whole
    may be plain. signs: of numbers that are text. valued: columns with a value in some row. levels: by
    column, in the order of their codes.
    """

    rows: int = 0
    unseen: str = ""
    plain: bool = True
    quotes: bool = False
    signs: Mapping[str, GroupSigns] = field(default_factory=dict)
    valued: frozenset[str] = frozenset()
    levels: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class ReadStretch:
    """A stretch that a worker has read: float64 of numbers, int32 codes of levels, Arrow's text of
    ids."""

    called: str
    facts: Facts
    columns: Mapping[Hashable, object]

    def column(self, key: Hashable) -> object:
        """One of them, or what is known. Raises DataError where the file is not what it was."""
        if key == FACTS:
            return self.facts
        if key not in self.columns:
            raise DataError(
                f"{self.called}: a worker of the cluster finds the file gone, or changed since it was "
                "read: start again"
            )
        return self.columns[key]


class _NotPlain(Exception):
    """There is something to say of a stretch."""


def read_stretch(reading: Reading, columns: Columns, stretch: Stretch) -> ReadStretch:
    """What a worker does: read a stretch and convert its columns."""
    called = file_name(stretch.path)
    if unseen := why_unseen(stretch.path, stretch.known):
        return ReadStretch(called, Facts(unseen=unseen), {})
    try:
        source = open_file(stretch.path, reading, part=True)
        source.read(columns.names, stretch.part)
        if source.notes:
            raise _NotPlain
        return _converted(source, columns)
    except PartOfMore as more:
        return ReadStretch(called, Facts(plain=False, quotes=more.quotes), {})
    except (DataError, _NotPlain):
        return ReadStretch(called, Facts(plain=False), {})
    except OSError as error:  # as of a disk on the network
        return ReadStretch(called, Facts(unseen=_reason(error)), {})


def why_unseen(path: Path, known: Print) -> str:
    """Why a file is not the one that is known, "" if it is."""
    try:
        found = Print.of(path)
    except OSError as error:
        return _reason(error)
    if found.size != known.size:
        return "another size"
    return "" if found == known else "other content"


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__


def _converted(source: Source, columns: Columns) -> ReadStretch:
    held: dict[Hashable, object] = {}
    valued, levels = set[str](), dict[str, Sequence[str]]()
    for name in columns.ids:
        cells = source.ids(name)
        if not isinstance(cells, Cells):
            raise _NotPlain
        held[ID, name] = cells.column
    for name in columns.numbers:
        held[NUMBER, name] = values = _numbers(source, name)
        if not np.isnan(values).all():
            valued.add(name)
    for name in columns.levels:
        levels[name], held[LEVEL, name] = _levels(source, name)
        if levels[name]:
            valued.add(name)
    facts = Facts(source.rows, signs=source.signs, valued=frozenset(valued), levels=levels)
    return ReadStretch(source.called, facts, held)


def _numbers(source: Source, name: str) -> Floats:
    values = source.numbers(name, "", "", feature=True)
    if np.isinf(values).any():
        raise _NotPlain
    return values


def _levels(source: Source, name: str) -> tuple[Sequence[str], Integers]:
    if not source.rows:
        return [], np.empty(0, np.int32)
    names, codes = coded(source.text(name))
    if len(names) > MAX_CATEGORIES:
        raise _NotPlain
    return names, codes.astype(np.int32)


def unseen_of(files: Sequence[tuple[Path, Print]]) -> str:
    """Why a worker cannot read the first of some files that it cannot, "" if it can read all."""
    for path, known in files:
        if why := why_unseen(path, known):
            return f"{file_name(path)}: {why}"
    return ""
