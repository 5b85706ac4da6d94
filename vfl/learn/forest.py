"""Trees as bits: which way each split sends each row, and what all trees then add to the rows' scores.

Directions are *planes*: a bit a row, most significant first, as `np.packbits` has them. A tree needs one
AND and one XOR of planes for each of its splits: eight rows a byte, thousands a call. QuickScorer
(Lucchese et al., SIGIR 2015) keeps such a mask of leaves for each row; here rows lie along the bits,
since directions of hosts come so. Each level of a tree gives a plane of who went right, and the planes
of all levels are, row by row, the number of the leaf.
"""

from collections.abc import Callable, Sequence
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats, Integers
from vfl.learn.binning import Features
from vfl.learn.splits import Split
from vfl.learn.tree import Branch, Tree

Planes = NDArray[np.uint8]
"""Shape (planes, bytes): bits of rows, eight a byte; what fills the last byte has no meaning."""

RowIndex = slice | NDArray[np.integer]


def distinct(splits: Sequence[Split]) -> tuple[list[Split], Integers]:
    """Each split once, in order of first use, and for each of `splits` which one it is."""
    place_of = {split: place for place, split in enumerate(dict.fromkeys(splits))}
    return list(place_of), np.array([place_of[split] for split in splits], np.int64)


def missing_left(splits: Sequence[Split]) -> NDArray[np.bool_]:
    """Whether each split sends a missing value left."""
    left = [s.category is None if s.categorical else s.missing_left for s in splits]
    return np.array(left, np.bool_)


class Sides:
    """Says which way splits send rows; each column is prepared once, whatever its number of splits.

    `features` are the columns of a whole batch. Raises ValueError naming a column that has become
    categorical or numeric since the splits were made.
    """

    def __init__(self, splits: Sequence[Split], features: Features) -> None:
        self._splits = splits
        self._of_column: dict[str, list[int]] = {}
        for place, split in enumerate(splits):
            self._of_column.setdefault(split.column, []).append(place)
        self._codes: dict[str, dict[str | None, int]] = {}  # of the categories that splits name
        self._values: dict[str, NDArray[np.float64] | NDArray[np.int32]] = {}
        for column, places in self._of_column.items():
            values, categorical = features[column], splits[places[0]].categorical
            if (values.dtype == object) != categorical:
                now, then = ("numeric", "categorical") if categorical else ("categorical", "numeric")
                raise ValueError(f"column '{column}' is {now} and was {then} in training")
            if categorical:
                names = dict.fromkeys(splits[place].category for place in places)
                codes = {name: code for code, name in enumerate(names)}
                found = map(codes.get, values, repeat(-1))
                self._codes[column] = codes
                self._values[column] = np.fromiter(found, np.int32, len(values))
            else:
                self._values[column] = values.astype(np.float64, copy=False)

    def left(self, rows: RowIndex, count: int) -> Planes:
        """Which of these rows, `count` in number, each split sends left: a plane a split."""
        planes = np.empty((len(self._splits), -(-count // 8)), np.uint8)
        for column, places in self._of_column.items():
            values = self._values[column][rows]
            missing = np.isnan(values)
            for place in places:
                split = self._splits[place]
                if split.categorical:
                    left = values == self._codes[column][split.category]
                elif split.threshold is None:
                    left = ~missing
                elif split.above:
                    left = values > split.threshold
                else:
                    left = values <= split.threshold
                if split.missing_left and not split.categorical:
                    left |= missing
                planes[place] = np.packbits(left)
        return planes


class Forest:
    """The trees of a model, ready for rows given as planes.

    `plane_of` says in which plane a branch's directions stand; `start` is the score without any tree.
    """

    def __init__(self, trees: Sequence[Tree], start: float, plane_of: Callable[[Branch], int]) -> None:
        self._start = start
        self._trees = [_Walk(tree, plane_of) for tree in trees]

    def scores(self, planes: Planes, rows: int) -> Floats:
        """The score of each row, shape (rows,): start and trees added up in their order."""
        scores = np.full(rows, self._start)
        for walk in self._trees:
            scores += walk.weights.take(walk.leaves(planes, rows))
        return scores


class _Walk:
    """A tree whose leaves are numbered by the way to them: a bit a level, 1 is right, 0 below a leaf."""

    def __init__(self, tree: Tree, plane_of: Callable[[Branch], int]) -> None:
        self._steps = [
            (node, _level(node), plane_of(tree.branches[node])) for node in sorted(tree.branches)
        ]
        self._inner = set(tree.branches)
        self._levels = max((level + 1 for _, level, _ in self._steps), default=0)
        self.weights = np.zeros(1 << self._levels)
        for node, weight in tree.leaves.items():
            level = _level(node)
            self.weights[(node + 1 - (1 << level)) << (self._levels - level)] = weight

    def leaves(self, planes: Planes, rows: int) -> Integers:
        """The number of each row's leaf, shape (rows,)."""
        right = np.zeros((self._levels, planes.shape[1]), np.uint8)
        inside = {0: np.full(planes.shape[1], 0xFF, np.uint8)}
        for node, level, plane in self._steps:
            here = inside.pop(node)
            left = here & planes[plane]
            here ^= left
            right[level] |= here
            for child, reached in ((2 * node + 1, left), (2 * node + 2, here)):
                if child in self._inner:
                    inside[child] = reached
        return numbers(right, rows)


def numbers(planes: Planes, rows: int) -> Integers:
    """At most 16 planes read across, shape (rows,): each row's bits as one number, the first plane's the
    most significant."""
    if len(planes) > 16:
        raise ValueError("a tree of more than 16 levels")
    low, high = planes[-8:], planes[:-8]
    if not len(high):
        return _bytes(low, rows).astype(np.int64)
    both = np.empty((rows, 2), np.uint8)
    both[:, 0], both[:, 1] = _bytes(low, rows), _bytes(high, rows)
    return both.view("<u2")[:, 0].astype(np.int64)


def _bytes(planes: Planes, rows: int) -> NDArray[np.uint8]:
    """At most 8 planes read across."""
    bits = np.zeros(rows, np.uint8)
    for plane in planes:
        bits += bits  # a shift, but several times faster
        bits |= np.unpackbits(plane, count=rows)
    return bits


def _level(node: int) -> int:
    """How many splits lie above a node."""
    return (node + 1).bit_length() - 1
