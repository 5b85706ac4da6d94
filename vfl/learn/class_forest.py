"""The trees of several classes, in rounds of one of each class."""

from collections.abc import Callable, Sequence

import numpy as np

from vfl.arrays import Floats
from vfl.learn.forest import Forest, Planes
from vfl.learn.row_forest import RowBits, RowForest
from vfl.learn.tree import Branch, Tree


class ClassForest:
    """A forest of each class; `starts`: its scores without any tree."""

    def __init__(
        self, trees: Sequence[Tree], starts: Sequence[float], plane_of: Callable[[Branch], int]
    ) -> None:
        self._forests = [
            Forest(trees[number :: len(starts)], start, plane_of) for number, start in enumerate(starts)
        ]

    def scores(self, planes: Planes, rows: int, before: Floats | None = None) -> Floats:
        """The scores of so many rows, shape (rows, classes), as `Forest.scores`; `before` alike."""
        each = [None] * len(self._forests) if before is None else [*before.T]
        found = [
            forest.scores(planes, rows, first) for forest, first in zip(self._forests, each, strict=True)
        ]
        return np.stack(found, axis=1)


class RowClassForest:
    """The same for rows given as bits."""

    def __init__(
        self, trees: Sequence[Tree], starts: Sequence[float], plane_of: Callable[[Branch], int]
    ) -> None:
        self._forests = [
            RowForest(trees[number :: len(starts)], start, plane_of)
            for number, start in enumerate(starts)
        ]

    def scores(self, bits: RowBits) -> Floats:
        """The scores of each row, shape (rows, classes)."""
        return np.stack([forest.scores(bits) for forest in self._forests], axis=1)
