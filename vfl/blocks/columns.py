"""Columns of which one at a time is in memory: each is made when it is asked for."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.generic]
Room = Callable[[int, type[np.generic], str], Values]
"""Room for a number of this kind a row, of so many rows, and what they are, for errors."""


def in_memory(rows: int, kind: type[np.generic], what: str) -> Values:
    """Room for numbers that are few enough."""
    return np.empty(rows, kind)


class MadeColumns(Mapping[str, Values]):
    """Columns by name that `make` makes whenever one is asked for, and that are not kept here."""

    def __init__(
        self,
        names: Sequence[str],
        make: Callable[[str], Values],
        categorical: Collection[str] = (),
        room: Room = in_memory,
    ) -> None:
        """categorical: those that are of objects, which is known without making them. room: for what is
        made of them and kept."""
        self._names, self._make, self.room = dict.fromkeys(names), make, room
        self.categorical = frozenset(categorical)

    def only(self, names: Sequence[str]) -> "MadeColumns":
        """Some of the columns, in the order of `names`."""
        return MadeColumns(names, self.__getitem__, self.categorical & {*names}, self.room)

    def changed(self, change: Callable[[str, Values], Values]) -> "MadeColumns":
        """What `change` makes of each column, by its name, whenever that is asked for."""
        return MadeColumns(tuple(self), partial(_changed, self, change), self.categorical, self.room)

    def with_categories(self, change: Callable[[Values], Values]) -> "MadeColumns":
        """As `changed`, of the categorical columns alone."""
        return self.changed(lambda name, values: change(values) if name in self.categorical else values)

    def __getitem__(self, name: str) -> Values:
        if name not in self._names:
            raise KeyError(name)
        return self._make(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def change_each(
    features: Mapping[str, Values], change: Callable[[Values], Values]
) -> Mapping[str, Values]:
    """What `change` makes of each column: now, or of columns that are made when they are asked for
    then."""
    return change_named(features, lambda name, values: change(values))


def change_named(
    features: Mapping[str, Values], change: Callable[[str, Values], Values]
) -> Mapping[str, Values]:
    """As `change_each`, where the change depends on the column's name."""
    if isinstance(features, MadeColumns):
        return features.changed(change)
    return {name: change(name, values) for name, values in features.items()}


def change_categories(
    features: Mapping[str, Values], change: Callable[[Values], Values]
) -> Mapping[str, Values]:
    """As `change_each`, of the categorical columns alone."""
    if isinstance(features, MadeColumns):
        return features.with_categories(change)
    return {
        name: change(values) if values.dtype == object else values for name, values in features.items()
    }


def choose_columns(features: Mapping[str, Values], names: Sequence[str]) -> Mapping[str, Values]:
    """Some of the columns, in the order of `names`."""
    if isinstance(features, MadeColumns):
        return features.only(names)
    return {name: features[name] for name in names}


def room_of(features: Mapping[str, Values]) -> Room:
    """Room for what is made of columns: where they lie themselves."""
    return features.room if isinstance(features, MadeColumns) else in_memory


def categorical_columns(features: Mapping[str, Values]) -> list[str]:
    """The names of the columns that are of objects, in their order; no column is made to tell."""
    if isinstance(features, MadeColumns):
        return [name for name in features if name in features.categorical]
    return [name for name, values in features.items() if values.dtype == object]


def _changed(
    features: Mapping[str, Values], change: Callable[[str, Values], Values], name: str
) -> Values:
    return change(name, features[name])
