"""Trees walked row by row: for few rows at a time, where forest.py's bits of many rows do not pay.

Everything that does not depend on the rows is made once. Sides, scores and contributions are those of
forest.py and explain.py, bit for bit: the same comparisons, and the same additions in the same order.
"""

from collections.abc import Callable, Sequence
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats, Integers
from vfl.kernels import kernel
from vfl.learn.binning import Features
from vfl.learn.explain import Explainer
from vfl.learn.splits import Split
from vfl.learn.tree import Branch, Tree

RowBits = NDArray[np.uint8]
"""Shape (rows, splits): 1 where a split sends a row left."""

_PRESENT, _ABOVE, _MISSING_LEFT = 1, 2, 4  # of a numeric split: no threshold; how it sends rows
_ONE, _SET = -1, -2  # of a categorical one: whether one category goes left, or several


class RowSides:
    """Says which way splits send rows."""

    def __init__(self, splits: Sequence[Split]) -> None:
        """splits: each of them once or more."""
        self._numeric = list(dict.fromkeys(s.column for s in splits if not s.categorical))
        self._categorical: dict[str, dict[str | None, int]] = {}
        column, kind = np.zeros(len(splits), np.int32), np.full(len(splits), _ONE, np.int32)
        bound, sets = np.zeros(len(splits)), list[list[int]]()
        for place, split in enumerate(splits):
            if split.categorical:
                codes = self._categorical.setdefault(split.column, {})
                named = [codes.setdefault(name, len(codes)) for name in split.named]
                bound[place] = named[0]
                if len(named) > 1:
                    kind[place], bound[place] = _SET, len(sets)
                    sets.append(named)
                column[place] = list(self._categorical).index(split.column)
                continue
            column[place] = self._numeric.index(split.column)
            kind[place] = _PRESENT * (split.threshold is None)
            kind[place] |= _ABOVE * split.above | _MISSING_LEFT * split.missing_left
            bound[place] = 0.0 if split.threshold is None else split.threshold
        self._column, self._kind, self._bound = column, kind, bound
        most = max((len(codes) for codes in self._categorical.values()), default=0)
        self._sets = np.zeros((len(sets), most + 1), np.uint8)  # a further one for other categories
        for own, members in zip(self._sets, sets, strict=True):
            own[members] = 1

    def __len__(self) -> int:
        return len(self._column)

    def fill(self, bits: RowBits, features: Features) -> None:
        """Write which of these rows each split sends left.

        Raises ValueError naming a column that has become categorical or numeric since the splits were
        made.
        """
        rows = len(bits)
        numbers = np.empty((len(self._numeric), rows))
        for place, name in enumerate(self._numeric):
            numbers[place] = _checked(name, features[name], categorical=False)
        codes = np.empty((len(self._categorical), rows), np.int32)
        for place, (name, known) in enumerate(self._categorical.items()):
            values = _checked(name, features[name], categorical=True)
            codes[place] = np.fromiter(map(known.get, values, repeat(-1)), np.int32, rows)
        _fill_sides(numbers, codes, self._column, self._kind, self._bound, self._sets, bits)


def _checked(name: str, values: NDArray[np.generic], categorical: bool) -> NDArray[np.generic]:
    if (values.dtype == object) != categorical:
        now, then = ("numeric", "categorical") if categorical else ("categorical", "numeric")
        raise ValueError(f"column '{name}' is {now} and was {then} in training")
    return values


class RowForest:
    """The trees of a model, ready for rows given as bits.

    `plane_of` says which bit of a row is a branch's; `start` is the score without any tree.
    """

    def __init__(self, trees: Sequence[Tree], start: float, plane_of: Callable[[Branch], int]) -> None:
        self._start = start
        roots: list[int] = []
        planes: list[int] = []
        weights: list[float] = []
        children: list[tuple[int, int]] = []
        for tree in trees:
            first = len(planes)
            roots.append(first)
            # Only of nodes that are there: a heap's numbers have gaps.
            place_of = {node: first + i for i, node in enumerate(sorted({*tree.branches, *tree.leaves}))}
            for node in place_of:
                branch = tree.branches.get(node)
                planes.append(-1 if branch is None else plane_of(branch))
                weights.append(tree.leaves.get(node, 0.0))
                below = (0, 0) if branch is None else (place_of[2 * node + 1], place_of[2 * node + 2])
                children.append(below)
        self._roots, self._planes = np.array(roots, np.int32), np.array(planes, np.int32)
        self._weights = np.array(weights, np.float64)
        self._children = np.array(children, np.int32).reshape(-1, 2)

    def scores(self, bits: RowBits) -> Floats:
        """The score of each row, shape (rows,): start and trees added up in their order."""
        scores = np.full(len(bits), self._start)
        _add_leaves(bits, self._roots, self._planes, self._children, self._weights, scores)
        return scores


class RowExplainer:
    """What each player adds to the score of each row, of an explainer whose tables fit into memory."""

    def __init__(self, explainer: Explainer) -> None:
        self.base, self.players = explainer.base, explainer.players
        steps: list[tuple[int, int, int]] = []  # plane, side, bit of the number that it clears
        inner: list[int] = []
        players: list[int] = []
        tables: list[Floats] = []
        pieces, entries = [], 0
        for piece in explainer.pieces:
            upper = piece.upper
            pieces.append((len(steps), len(inner), len(players), entries, len(upper), piece.bits))
            steps += [
                (step.plane, int(step.left), len(upper) - 1 - upper.index(step.player))
                for step in piece.above
            ]
            inner += piece.inner.values()
            players += piece.players
            tables.append(piece.table().ravel())
            entries += tables[-1].size
        pieces.append((len(steps), len(inner), len(players), entries, 0, 0))
        self._pieces = np.array(pieces, np.int64)
        self._steps = np.array(steps, np.int32).reshape(-1, 3)
        self._inner, self._players = np.array(inner, np.int32), np.array(players, np.int32)
        self._tables = np.concatenate([np.empty(0), *tables])

    def contributions(self, bits: RowBits) -> dict[str, Floats]:
        """Each player's part of the scores, shape (rows,)."""
        parts = np.zeros((len(self.players), len(bits)))
        _add_tables(bits, self._pieces, self._steps, self._inner, self._players, self._tables, parts)
        return dict(zip(self.players, parts, strict=True))


@kernel
def _fill_sides(
    numbers: Floats,
    codes: NDArray[np.int32],
    column: NDArray[np.int32],
    kind: NDArray[np.int32],
    bound: Floats,
    sets: NDArray[np.uint8],
    bits: RowBits,
) -> None:
    """Which way each split sends each row."""
    for i in range(len(bits)):
        for split in range(len(column)):
            how = kind[split]
            if how == _SET:
                bits[i, split] = sets[int(bound[split]), codes[column[split], i]]  # -1 is the last one
                continue
            if how < 0:
                bits[i, split] = codes[column[split], i] == bound[split]
                continue
            value = numbers[column[split], i]
            if np.isnan(value):
                left = (how & _MISSING_LEFT) != 0
            elif how & _PRESENT:
                left = True
            elif how & _ABOVE:
                left = value > bound[split]
            else:
                left = value <= bound[split]
            bits[i, split] = left


@kernel
def _add_leaves(
    bits: RowBits,
    roots: NDArray[np.int32],
    planes: NDArray[np.int32],
    children: NDArray[np.int32],
    weights: Floats,
    scores: Floats,
) -> None:
    """Add the weight of each tree's leaf to each row's score."""
    for i in range(len(bits)):
        score = scores[i]
        for tree in range(len(roots)):
            node = roots[tree]
            while planes[node] >= 0:
                node = children[node, 1 - bits[i, planes[node]]]
            score += weights[node]
        scores[i] = score


@kernel
def _add_tables(
    bits: RowBits,
    pieces: Integers,
    steps: NDArray[np.int32],
    inner: NDArray[np.int32],
    players: NDArray[np.int32],
    tables: Floats,
    parts: Floats,
) -> None:
    """Add what each piece of a tree gives each player."""
    for i in range(len(bits)):
        for piece in range(len(pieces) - 1):
            number = (1 << pieces[piece, 4]) - 1
            for step in range(pieces[piece, 0], pieces[piece + 1, 0]):
                if bits[i, steps[step, 0]] != steps[step, 1]:
                    number &= ~(1 << steps[step, 2])
            for place in range(pieces[piece, 1], pieces[piece + 1, 1]):
                number = 2 * number + bits[i, inner[place]]
            entry = pieces[piece, 3] + number
            for player in range(pieces[piece, 2], pieces[piece + 1, 2]):
                parts[players[player], i] += tables[entry]
                entry += 1 << pieces[piece, 5]
