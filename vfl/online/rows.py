"""Rows of a request as a model takes them: the guest's columns, ids, exposure and offset."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats, Mask
from vfl.errors import DataError
from vfl.jobs.queries import as_in_training
from vfl.jobs.scoring import section_as_trained
from vfl.learn.binning import Features
from vfl.models.halves import AnyGuestHalf
from vfl.models.kinds import kind_of_model
from vfl.online.cells import (
    NO_ROW,
    CategoryCells,
    Cell,
    IdCells,
    NumberCells,
    Problem,
    Problems,
    cells_of,
    in_words,
)
from vfl.party.sections import DataSection
from vfl.text import nearest_name

Row = Mapping[str, Cell]

_NAME = 100  # characters of a column's name that a misspelt one is compared with
_COMPARED = 20  # names of a request for which that is done
_MORE = 1_000  # keys of a row beyond those that it may have, of which each is looked at


class RepeatedKeys(dict[str, Cell]):
    """An object of JSON that has keys more than once, of each the last value."""

    def __init__(self, pairs: Sequence[tuple[str, Cell]]) -> None:
        super().__init__(pairs)
        keys = [key for key, _ in pairs]
        self.keys_repeated = [key for key, many in Counter(keys).items() if many > 1]


class RowsRefused(DataError):
    """Rows that cannot be scored as they are: which cells, and what is wrong with them."""

    def __init__(self, problems: Problems) -> None:
        super().__init__(in_words(problems))
        self.problems: Sequence[Problem] = problems.by_row
        self.count = problems.count


@dataclass(frozen=True)
class ReadRows:
    """Rows that can be scored.

    ids: by row, one for each key. offset: what is added to scores, log(exposure) included. has_exposure:
    which rows have one; the others are scored per unit. unknown_levels: by row, the columns with a level
    that no row of training had.
    """

    rows: int
    ids: Sequence[Sequence[bytes]]
    features: Features
    offset: Floats | None
    exposure: Floats | None
    has_exposure: Mask | None
    unknown_levels: Mapping[int, Sequence[str]]


class RowReader:
    """Reads rows for one model, by [data] as it was when the model was trained."""

    def __init__(self, party: DataSection, half: AnyGuestHalf) -> None:
        """Raises ConfigError where [data] does not fit the model any more."""
        data = section_as_trained(as_in_training(party, half)[0], half)
        self._needed = kind_of_model(half.model).needed(half.model)
        self._numbers: list[NumberCells] = []
        self._categories: list[CategoryCells] = []
        for name in half.columns:
            if name in data.categorical:
                self._categories.append(CategoryCells(name, data, half.levels.get(name)))
            else:
                self._numbers.append(NumberCells(name, data))
        self._exposure = None if data.exposure is None else NumberCells(data.exposure, data)
        self._offset = None if data.offset is None else NumberCells(data.offset, data)
        self._ids = IdCells(data) if len(half.model.parties) > 1 else None
        self.ids = data.id_columns if self._ids is not None else ()
        self.columns = half.columns
        self._allowed = frozenset({*half.columns, *data.id_columns, *_of_no_effect(party)})

    @property
    def uses(self) -> dict[str, str]:
        """What each column of a row holds: "number", "date", "category", "id", "exposure", "offset"."""
        found = dict.fromkeys(self.ids, "id")
        for column in self._numbers:
            found[column.name] = "date" if column.is_date else "number"
        found |= {column.name: "category" for column in self._categories}
        for use, one in (("exposure", self._exposure), ("offset", self._offset)):
            if one is not None:
                found[one.name] = use
        return found

    def is_needed(self, column: str) -> bool:
        """Whether rows must have a column, be it null."""
        return column in self._needed or column in self.ids or self.uses.get(column) == "offset"

    def read(self, given: Sequence[Cell]) -> ReadRows:
        """Raises RowsRefused naming row and column of all cells that cannot be used."""
        problems = Problems()
        rows = [self._row(number, row, problems) for number, row in enumerate(given)]
        features: dict[str, NDArray[np.generic]] = {}
        unknown: dict[int, list[str]] = {}
        for column in self._numbers:
            features[column.name] = column.read(self._cells(rows, column.name, problems), problems)
        for category in self._categories:
            cells = self._cells(rows, category.name, problems)
            features[category.name], strange = category.read(cells, problems)
            for number in strange:
                unknown.setdefault(number, []).append(category.name)
        ids: list[tuple[bytes, ...]] = []
        if self._ids is not None:
            of = {name: cells_of(rows, name, problems) for name in self.ids}
            ids = self._ids.read(of, len(rows), problems)
        exposure, has_exposure = self._read_exposure(rows, problems)
        offset = None
        if self._offset is not None:
            offset = self._offset.read(cells_of(rows, self._offset.name, problems), problems)
            for number in np.flatnonzero(np.isnan(offset)).tolist():
                problems.add(number, self._offset.name, "must be a number: an offset is never missing")
        if problems.count:
            raise RowsRefused(problems)
        if exposure is not None:
            logarithm = np.log(exposure)
            offset = logarithm if offset is None else offset + logarithm
        return ReadRows(len(rows), ids, features, offset, exposure, has_exposure, unknown)

    def blank(self) -> ReadRows:
        """A row without any value and id."""
        features: dict[str, NDArray[np.generic]] = {
            column.name: np.array([np.nan]) for column in self._numbers
        }
        features |= {column.name: np.array([None], object) for column in self._categories}
        return ReadRows(1, [()], features, None, None, None, {})

    def _row(self, number: int, row: Cell, problems: Problems) -> Row:
        """A row, empty where it is none."""
        if not isinstance(row, dict):
            problems.settle(number, NO_ROW)
            return {}
        if len(row) > len(self._allowed) + _MORE:
            problems.settle(number, "has far more keys than the model has columns")
            return {}
        if isinstance(row, RepeatedKeys):
            for name in row.keys_repeated:
                problems.add(number, name, "is there more than once")
        if not row.keys() <= self._allowed:
            self._say_unknown(number, row, problems)
        return row

    def _cells(self, rows: Sequence[Row], name: str, problems: Problems) -> list[Cell]:
        if name in self._needed:
            return cells_of(rows, name, problems)
        return [row.get(name) for row in rows]

    def _read_exposure(
        self, rows: Sequence[Row], problems: Problems
    ) -> tuple[Floats | None, Mask | None]:
        """The exposure of each row, 1 where it has none, and which have one; None where none has."""
        column = self._exposure
        if column is None:
            return None, None
        there = np.fromiter((column.name in row for row in rows), np.bool_, len(rows))
        if not there.any():
            return None, None
        values = column.read([row.get(column.name, 1.0) for row in rows], problems)
        for row in np.flatnonzero(~(values > 0)).tolist():
            problems.add(
                row, column.name, "must be a number above 0; leave it out to score per unit of exposure"
            )
        return np.where(values > 0, values, 1.0), there

    def _say_unknown(self, number: int, row: Row, problems: Problems) -> None:
        for name in sorted(row.keys() - self._allowed):
            # What would be meant takes time, which a row of very many columns must not have.
            seek = problems.count < _COMPARED and len(name) <= _NAME
            near = nearest_name(name, list(self.uses)) if seek else None
            hint = f": did you mean '{near}'?" if near else ""
            problems.add(number, name, f"is no column of the model{hint}")


def _of_no_effect(data: DataSection) -> list[str]:
    """Columns that rows may have though the model takes nothing of them: the guest's own ones."""
    own = [name for name in data.guests.values() if name is not None]
    return [*own, *(name for _, name in data.for_reports), *(data.ignore or ())]
