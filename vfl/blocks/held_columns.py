"""Columns of a table that workers hold, by name: one comes here when it is asked for."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from vfl.blocks.columns import MadeColumns, Room, Values
from vfl.blocks.cores import Begun
from vfl.blocks.held_parts import HeldParts, at_rows, run_on_whole
from vfl.blocks.scratch import in_pieces, release_pages

R = TypeVar("R")

NUMBER, LEVEL = "number", "level"
"""Of the key of a column: numbers, or codes of levels."""


@dataclass(frozen=True)
class _Rows:
    """Which rows of the parts are wanted, -1 for one that has no values: here and with workers."""

    here: NDArray[np.integer]
    there: object


@dataclass(frozen=True)
class _About:
    """What all choices of some columns have in common.

    parts: float64 by (NUMBER, name), int32 by (LEVEL, name). rows: of all parts. levels: by name, the
    levels of each part in the order of its codes; -1 is a missing one. room: for a column.
    """

    parts: HeldParts
    rows: int
    levels: Mapping[str, Sequence[Sequence[str]]]
    room: Room


class HeldColumns(MadeColumns):
    """Columns with workers, as MadeColumns has columns."""

    def __init__(
        self,
        names: Sequence[str],
        about: _About,
        rows: _Rows | None = None,
        changes: Sequence[Callable[[Values], Values]] = (),
    ) -> None:
        """changes: of categorical columns, one after the other."""
        made = partial(_gather, about, rows, changes)
        super().__init__(names, made, about.levels.keys() & {*names}, about.room)
        self._about, self._rows, self._changes = about, rows, changes

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        parts: HeldParts,
        rows: int,
        levels: Mapping[str, Sequence[Sequence[str]]],
        room: Room,
    ) -> "HeldColumns":
        """All rows of columns; see `_About`."""
        return cls(names, _About(parts, rows, levels, room))

    def take(self, rows: NDArray[np.integer]) -> "HeldColumns":
        """The columns of some rows, in this order; a row below 0 has no values."""
        if self._rows is not None:
            own = self._rows.here[rows]
            rows = np.where(rows < 0, -1, own)
        shared = self._about.parts.cluster.share(rows)
        return HeldColumns(tuple(self), self._about, _Rows(rows, shared), self._changes)

    def only(self, names: Sequence[str]) -> "HeldColumns":
        return HeldColumns(names, self._about, self._rows, self._changes)

    def with_categories(self, change: Callable[[Values], Values]) -> "HeldColumns":
        return HeldColumns(tuple(self), self._about, self._rows, [*self._changes, change])

    def begin(self, kernel: Callable[..., R], name: str, place: int) -> Begun[R]:
        """Have a worker run a kernel on a column of numbers: its name, and all its rows in one part."""
        rows = None if self._rows is None else self._rows.there
        return self._about.parts.whole((NUMBER, name), kernel, [name, rows], run_on_whole, place)


def _gather(
    about: _About, rows: _Rows | None, changes: Sequence[Callable[[Values], Values]], name: str
) -> Values:
    """A column as it comes here."""
    if name not in about.levels:
        return _numbers(about, rows, name)
    values = _levels(about, rows, name)
    for change in changes:
        values = change(values)
    return values


def _numbers(about: _About, rows: _Rows | None, name: str) -> Values:
    values, at = about.room(about.rows, np.float64, "a column of the table"), 0
    blocks = cast(Iterator[Values], about.parts.each((NUMBER, name)))
    for own in blocks:
        values[at : at + len(own)] = own
        at += len(own)
        release_pages(values)
    if rows is None:
        return values
    here = rows.here
    chosen = about.room(len(here), np.float64, "a column of the table")
    for some in in_pieces(len(here), here, values, chosen):
        chosen[some] = at_rows(cast(NDArray[np.float64], values), here[some])
    return chosen


def _levels(about: _About, rows: _Rows | None, name: str) -> Values:
    known, parts = dict[str, str](), []
    blocks = cast(Iterator[NDArray[np.int32]], about.parts.each((LEVEL, name)))
    for levels, codes in zip(about.levels[name], blocks, strict=True):
        # The last entry is None: a missing code of -1 finds it.
        texts = np.array([*(known.setdefault(text, text) for text in levels), None], dtype=object)
        parts.append(texts[codes])
    values: Values = np.concatenate(parts)
    if rows is not None:
        values = values[rows.here]
        np.putmask(values, rows.here < 0, np.array(None))
    return values
