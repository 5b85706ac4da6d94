"""Trees as bits: which way each split sends each row, and what all trees then add to the rows' scores.

Directions are *planes*: a bit a row, most significant first, as `np.packbits` has them. A tree needs one
AND and one XOR of planes for each of its splits: eight rows a byte, thousands a call. QuickScorer
(Lucchese et al., SIGIR 2015) keeps such a mask of leaves for each row; here rows lie along the bits,
since directions of hosts come so. Each level of a tree gives a plane of who went right, and the planes
of all levels are, row by row, the number of the leaf.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from typing import cast

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats, Integers
from vfl.blocks.columns import MadeColumns, Room, in_memory, room_of
from vfl.blocks.engine import ENGINE, Array
from vfl.blocks.scratch import in_pieces, release_pages
from vfl.learn.binning import Features
from vfl.learn.splits import Split
from vfl.learn.tree import Branch, Tree

Planes = NDArray[np.uint8]
"""Shape (planes, bytes): bits of rows, eight a byte; what fills the last byte has no meaning."""

_Places = NDArray[np.floating] | NDArray[np.unsignedinteger] | NDArray[np.int32]

RowIndex = slice | NDArray[np.integer]
SideValues = dict[str, _Places]


def distinct(splits: Sequence[Split]) -> tuple[list[Split], Integers]:
    """Each split once, in order of first use, and for each of `splits` which one it is."""
    place_of = {split: place for place, split in enumerate(dict.fromkeys(splits))}
    return list(place_of), np.array([place_of[split] for split in splits], np.int64)


def missing_left(splits: Sequence[Split]) -> NDArray[np.bool_]:
    """Whether each split sends a missing value left."""
    left = [None in s.named if s.categorical else s.missing_left for s in splits]
    return np.array(left, np.bool_)


class Sides:
    """Says which way splits send rows; each column is prepared once, whatever its number of splits.

    `features` are the columns of a whole batch. Of those that are made when they are asked for it keeps
    between which of the splits' thresholds each number is, in place of the number. Raises ValueError
    naming a column that has become categorical or numeric since the splits were made.
    """

    def __init__(self, splits: Sequence[Split], features: Features) -> None:
        self._splits = splits
        self._of_column: dict[str, list[int]] = {}
        for place, split in enumerate(splits):
            self._of_column.setdefault(split.column, []).append(place)
        self._codes: dict[str, dict[str | None, int]] = {}  # of the categories that splits name
        self._numbers: dict[str, _Numbers] = {}
        self._levels: dict[str, NDArray[np.int32]] = {}
        room = room_of(features)
        for column, places in self._of_column.items():
            values, categorical = features[column], splits[places[0]].categorical
            if (values.dtype == object) != categorical:
                now, then = ("numeric", "categorical") if categorical else ("categorical", "numeric")
                raise ValueError(f"column '{column}' is {now} and was {then} in training")
            if categorical:
                names = dict.fromkeys(name for place in places for name in splits[place].named)
                codes = {name: code for code, name in enumerate(names)}
                self._codes[column] = codes
                self._levels[column] = _levels(codes, values, room)
            else:
                thresholds = [splits[place].threshold for place in places]
                numbers, made = values.astype(np.float64, copy=False), isinstance(features, MadeColumns)
                self._numbers[column] = (
                    _Numbers.between(numbers, thresholds, room)
                    if made
                    else _Numbers.of(numbers, thresholds)
                )

    def left(self, rows: RowIndex, count: int) -> Planes:
        """Which of these rows, `count` in number, each split sends left: a plane a split."""
        return self.left_of(self.values(rows), count)

    def values(self, rows: RowIndex) -> "SideValues":
        """What splits have to know of these rows, by column."""
        held = {column: numbers.values for column, numbers in self._numbers.items()} | self._levels
        found = {column: values[rows] for column, values in held.items()}
        for values in held.values():
            release_pages(values)
        return found

    def of_no_rows(self) -> "Sides":
        """The same without the columns: for `left_of` alone."""
        rules = copy.copy(self)
        rules._levels = {}
        rules._numbers = {
            column: replace(numbers, values=numbers.values[:0].copy())
            for column, numbers in self._numbers.items()
        }
        return rules

    def left_of(self, found: "SideValues", count: int) -> Planes:
        """As `left`, of the `values` of so many rows."""
        planes = np.empty((len(self._splits), -(-count // 8)), np.uint8)
        for column, places in self._of_column.items():
            values = found[column]
            if column in self._codes:
                codes = self._codes[column]
                for place in places:
                    named = [codes[name] for name in self._splits[place].named]
                    left = values == named[0] if len(named) == 1 else np.isin(values, named)
                    planes[place] = np.packbits(left)
                continue
            numbers = self._numbers[column]
            missing = np.isnan(values) if numbers.missing is None else values == numbers.missing
            for place in places:
                planes[place] = np.packbits(_goes_left(self._splits[place], numbers, values, missing))
        return planes


@dataclass(frozen=True)
class _Numbers:
    """A numeric column as splits see it: its numbers, or the places of numbers among thresholds."""

    values: _Places
    bounds: Mapping[float | None, float]  # what stands for each threshold
    missing: int | None = None  # stands for a missing value; None: NaN

    @classmethod
    def of(cls, values: Floats, thresholds: Sequence[float | None]) -> "_Numbers":
        """The numbers as they are."""
        return cls(values, {each: each for each in thresholds if each is not None})

    @classmethod
    def between(
        cls, values: Floats, thresholds: Sequence[float | None], room: Room = in_memory
    ) -> "_Numbers":
        """How many thresholds are below each number: a byte or two in place of eight."""
        order = np.array(sorted({each for each in thresholds if each is not None}))
        missing = len(order) + 1
        kind = np.min_scalar_type(missing).type
        made = room(len(values), kind, "places of numbers")
        places = cast(NDArray[np.unsignedinteger], made)

        def place(part: Floats) -> Array:
            found = np.searchsorted(order, part, side="left")
            return np.where(np.isnan(part), missing, found).astype(places.dtype)

        ENGINE.fill(places, place, values)
        release_pages(places)
        return cls(places, {each: i for i, each in enumerate(order.tolist())}, missing)


def _levels(
    codes: Mapping[str | None, int], values: NDArray[np.generic], room: Room
) -> NDArray[np.int32]:
    """The code of each row's category, -1 of others."""
    levels = np.asarray(room(len(values), np.int32, "levels"), np.int32)
    for some in in_pieces(len(values), levels):
        own = values[some].tolist()
        levels[some] = np.fromiter(map(codes.get, own, repeat(-1)), np.int32, len(own))
    return levels


def _goes_left(
    split: Split, numbers: _Numbers, values: _Places, missing: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Which of some rows of a numeric column a split sends left."""
    if split.threshold is None:
        left = ~missing
    elif split.above:
        left = (values > numbers.bounds[split.threshold]) & ~missing
    else:
        left = values <= numbers.bounds[split.threshold]
    return left | missing if split.missing_left else left


class Forest:
    """The trees of a model, ready for rows given as planes.

    `plane_of` says in which plane a branch's directions stand; `start` is the score without any tree.
    """

    def __init__(self, trees: Sequence[Tree], start: float, plane_of: Callable[[Branch], int]) -> None:
        self._start = start
        self._trees = [_Walk(tree, plane_of) for tree in trees]

    def scores(self, planes: Planes, rows: int, before: Floats | None = None) -> Floats:
        """The score of each row, shape (rows,): start and trees added up in their order. `before`: each
        row's score without any tree, in place of the start."""
        scores = np.full(rows, self._start) if before is None else np.array(before)
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
