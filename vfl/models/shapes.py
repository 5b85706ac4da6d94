"""Trees of depth 1 and 2 as a sum of shapes: a function of one column each, and of pairs of columns.

A tree of one split is a step in one column. A tree of depth 2 is, on each side of its root, a step in
the column of the split below: a function of two columns, or of one where both splits are of the same. So
the score of a row is, exactly, a base, a shape of each column and a table of each pair that meets in a
tree: a generalised additive model with pairwise interactions (Lou et al., KDD 2013; interpret's EBM).
What is not taken over from EBM: columns take turns there, one a tree; here each tree takes the best
column, so that of columns which say the same the better one has most of the shape, and pairs are not
purified of what their columns say alone.

The guest holds what each side of a split adds, hosts the values at which their columns are split. Nobody
has the shape of a host's column unless the guest gives that host the values of its splits.
"""

import itertools
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats
from vfl.errors import ModelError
from vfl.learn.binning import Features
from vfl.learn.metrics import OTHER
from vfl.learn.splits import Split
from vfl.learn.tree import Branch, Tree
from vfl.models.halves import AnyGuestHalf, AnyHostHalf
from vfl.protocols.linear.scoring import HostGlm
from vfl.protocols.trees.model import GuestModel, HostModel
from vfl.text import level_order

_DEEPEST = 2
_MOST_ADDED = 1e100
"""On the scale of the score, of a file that comes from elsewhere: no tree adds as much."""
MISSING = "(missing)"
SHAPE_HEADS = ("column", "above", "up_to", "level", "value", "factor")
"""Of the table of shapes: what a place adds to the score, and its exponential."""


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a split adds on either side, on the scale of the score; of one below a root, where the root
    sends rows to one side.

    record: in the half of its owner. mean: over the rows that trained the tree, 0 where nobody counted
    them. root: that split's record, None of a root; root_left: whether it is rows that go left there.
    """

    record: int
    left: float
    right: float
    mean: float
    root: int | None = None
    root_left: bool = True


@dataclass(frozen=True)
class Additive:
    """A model as a sum of the base, in which is what trees without any split add, and of all steps."""

    base: float
    parts: Mapping[tuple[int, int], tuple[Step, ...]]
    """By the owner of the split and that of its root, twice the same where both are of one party."""

    def own(self, party: int) -> tuple[Step, ...]:
        """The steps that are of columns of one party alone."""
        return self.parts.get((party, party), ())

    @property
    def centre(self) -> float:
        """What the mean row has: the base and the means of all steps."""
        return self.base + sum(step.mean for steps in self.parts.values() for step in steps)


@dataclass(frozen=True)
class MetColumns:
    """A column of the guest's and one of a host's that meet on paths of trees, as hosts show them."""

    own: str
    theirs: str  # with the host's name
    splits: int  # below one of the other column
    gain: float  # of these, together


def met_columns(model: GuestModel) -> list[MetColumns]:
    """Pairs of columns of the guest and a host of which one is split below the other, most gain first.

    A split counts for each column of the other party above it, once.
    """
    found: dict[tuple[str, str], list[float]] = {}
    for tree in model.trees:
        for node, branch in tree.branches.items():
            above, at = set[tuple[int, str]](), node
            while at:
                at = (at - 1) // 2
                if (one := tree.branches[at]).party != branch.party:
                    above.add((one.party, one.column))
            for party, column in above:
                if 0 not in (party, branch.party):
                    continue
                host, theirs = (party, column) if branch.party == 0 else (branch.party, branch.column)
                own = branch.column if branch.party == 0 else column
                prefix = f"{model.parties[host]}:"
                named = theirs if theirs.startswith(prefix) else prefix + theirs
                found.setdefault((own, named), []).append(branch.gain)
    pairs = [MetColumns(*names, len(gains), math.fsum(gains)) for names, gains in found.items()]
    return sorted(pairs, key=lambda pair: (-pair.gain, pair.own, pair.theirs))


def additive(model: GuestModel) -> Additive:
    """The steps of a model. Raises ModelError for trees deeper than 2, and for several classes."""
    if model.class_starts:
        raise ModelError(
            "the model tells several classes apart: shapes are of models with one score a row"
        )
    base, parts = model.start, dict[tuple[int, int], list[Step]]()
    for tree in model.trees:
        if max(tree.branches, default=0) > _DEEPEST:
            raise ModelError(
                "the model has trees of more than two levels, which are no shapes of columns and pairs: "
                "train with depth = 1 or depth = 2"
            )
        if (top := tree.branches.get(0)) is None:
            base += tree.leaves[0]
            continue
        # Of the root alone: what a side adds that is not split again.
        sides = [tree.leaves.get(node, 0.0) for node in (1, 2)]
        if any(node in tree.leaves for node in (1, 2)):
            mean = _mean(tree, (1, 2), sides, 0)
            step = Step(top.record, sides[0], sides[1], mean)
            parts.setdefault((top.party, top.party), []).append(step)
        for node in (1, 2):
            if (below := tree.branches.get(node)) is not None:
                ends = (2 * node + 1, 2 * node + 2)
                added = [tree.leaves[end] for end in ends]
                mean = _mean(tree, ends, added, 0)
                step = Step(below.record, added[0], added[1], mean, top.record, node == 1)
                parts.setdefault((below.party, top.party), []).append(step)
    return Additive(base, {owners: tuple(steps) for owners, steps in parts.items()})


def _mean(tree: Tree, ends: Sequence[int], added: Sequence[float], root: int) -> float:
    """What the rows of some nodes get, over all rows of a tree."""
    if not tree.covers.get(root):
        return 0.0
    return (
        sum(tree.covers[end] * value for end, value in zip(ends, added, strict=True)) / tree.covers[root]
    )


# --- One party's columns. ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """What a column adds to the score, centred on the mean of the rows that trained.

    edges: of a number, ascending; `values` are of the intervals up to each, above the last, and of a
    missing value. levels: of a category, those with a split of their own, then all others, None where
    missing.
    """

    column: str
    edges: Floats | None
    levels: tuple[str | None, ...]
    values: Floats


@dataclass(frozen=True)
class PairTable:
    """What a pair of columns adds beyond both: values of shape (places of the first, of the second),
    which are those of a Shape."""

    first: Shape  # whose values are not used
    second: Shape
    values: Floats


@dataclass(frozen=True)
class OwnShapes:
    """The shapes of a party's columns, and of pairs of them."""

    shapes: tuple[Shape, ...]
    pairs: tuple[PairTable, ...]


def shapes_of(steps: Sequence[Step], splits: Sequence[Split]) -> OwnShapes:
    """The shapes of a party's steps, by its own splits."""
    by_columns: dict[tuple[str, ...], list[Step]] = {}
    for step in steps:
        met = {splits[record].column for record in (step.record, step.root) if record is not None}
        by_columns.setdefault(tuple(sorted(met)), []).append(step)
    grids = {name: _grid(name, splits) for name in {name for key in by_columns for name in key}}
    shapes, pairs = [], []
    for names, own in sorted(by_columns.items()):
        if len(names) == 1:
            grid, values = grids[names[0]]
            shapes.append(replace(grid, values=centred(own, splits, {names[0]: values})))
            continue
        (first, these), (second, those) = (grids[name] for name in names)
        every = np.repeat(these, len(those)), np.tile(those, len(these))
        crossed = dict(zip(names, every, strict=True))
        values = centred(own, splits, crossed).reshape(len(these), len(those))
        pairs.append(PairTable(first, second, values))
    return OwnShapes(tuple(shapes), tuple(pairs))


def centred(steps: Sequence[Step], splits: Sequence[Split], features: Features) -> Floats:
    """What steps of a party's columns add to rows, less their mean, shape (rows,)."""
    count = len(next(iter(features.values()))) if features else 0
    total, sides = np.zeros(count), dict[int, NDArray[np.bool_]]()

    def left(record: int) -> NDArray[np.bool_]:
        if record not in sides:
            sides[record] = splits[record].goes_left(features)
        return sides[record]

    for step in steps:
        added = np.where(left(step.record), step.left, step.right)
        if step.root is not None:
            added = np.where(left(step.root) == step.root_left, added, 0.0)
        total += added - step.mean
    return total


def _grid(column: str, splits: Sequence[Split]) -> tuple[Shape, NDArray[np.generic]]:
    """Where a column's shape may change, and a value of each place."""
    own = [split for split in splits if split.column == column]
    if own[0].categorical:
        every = {name for split in own for name in split.named if name is not None}
        named = sorted(every, key=level_order)
        levels: tuple[str | None, ...] = (*named, OTHER, None)
        return Shape(column, None, levels, np.empty(0)), np.array([*levels], object)
    edges = np.unique([split.threshold for split in own if split.threshold is not None])
    return Shape(column, edges, (), np.empty(0)), np.array([*edges, np.inf, np.nan])


def shape_lines(shape: Shape) -> list[tuple[object, ...]]:
    """The lines of a column, under the heads of the table."""
    if shape.edges is None:
        places = [("", "", MISSING if level is None else level) for level in shape.levels]
    else:
        ends = ["", *shape.edges.tolist(), ""]
        places = [(low, high, "") for low, high in itertools.pairwise(ends)]
        places.append(("", "", MISSING))
    return [
        (shape.column, *place, value, exponential(value))
        for place, value in zip(places, shape.values.tolist(), strict=True)
    ]


def exponential(value: float) -> float:
    """Of what a place adds to the score, infinite where no float is as large: where models add, in the
    label's unit, values have any size."""
    return math.exp(value) if value < math.log(sys.float_info.max) else math.inf


def places_of(shape: Shape) -> list[str]:
    """The places of a column in words."""
    if shape.edges is None:
        return [MISSING if level is None else level for level in shape.levels]
    edges = [f"{edge:g}" for edge in shape.edges.tolist()]
    if not edges:
        return ["(any)", MISSING]
    between = [f"{low} to {high}" for low, high in itertools.pairwise(edges)]
    return [f"up to {edges[0]}", *between, f"above {edges[-1]}", MISSING]


# --- Halves. ----------------------------------------------------------------------------------------


def guest_trees(half: AnyGuestHalf) -> GuestModel:
    """The trees of a guest's half. Raises ModelError for another kind of model."""
    if not isinstance(half.model, GuestModel):
        raise ModelError(
            f"model {half.name} is linear: `vfl relativities` and `vfl tariff` have its factors"
        )
    return half.model


def host_splits(half: AnyHostHalf) -> tuple[Split, ...]:
    """The splits of a host's half. Raises ModelError for another kind of model."""
    return splits_of(half.model)


def splits_of(model: HostModel | HostGlm) -> tuple[Split, ...]:
    """Those of a host's part of a model. Raises ModelError for another kind of model."""
    if not isinstance(model, HostModel):
        raise ModelError("the model is linear: `vfl relativities` has its factors")
    return model.splits


class GivenSteps(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a guest gives a host: the steps of the host's own splits in a model, nothing of others'."""

    vfl: str  # "shapes"
    model: str  # as the host knows it
    guest: str
    host: str
    steps: list[Step]

    def check(self, half: AnyHostHalf, host: str) -> None:
        """Raises ModelError for steps of another model or host, of splits that the half has not, of one
        split twice, or of what no tree adds."""
        splits = len(host_splits(half))
        of_steps = [step.record for step in self.steps]
        records = [*of_steps, *(step.root for step in self.steps if step.root is not None)]
        if (
            self.vfl != "shapes"
            or (self.model, self.host) != (half.name, host)
            or any(not 0 <= record < splits for record in records)
            or len({*of_steps}) < len(of_steps)
        ):
            raise ModelError(
                f"the file of the guest is of another model than {half.name}, or of another host's half"
            )
        added = [value for step in self.steps for value in (step.left, step.right, step.mean)]
        if any(abs(value) > _MOST_ADDED for value in added):
            raise ModelError("the file of the guest has steps that no tree adds: ask for it again")


# --- Edits. -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ShapeEdit:
    """A change of the shape of one of the guest's columns: so much more of the score in one place."""

    column: str
    add: float
    above: float | None = None  # of a number: x > above, x <= up_to
    up_to: float | None = None
    level: str | None = None
    missing: bool = False


def edited(model: GuestModel, edits: Sequence[ShapeEdit], features: Features | None) -> GuestModel:
    """The model with a tree of one split, or two, more for each edit.

    features: some rows of the guest, by which new trees are centred and explained; None: they are not.
    Each edit is of a column that has splits: Raises KeyError for another one.
    """
    splits, trees = list(model.splits), list(model.trees)
    for edit in edits:
        for split, on_left, on_right in _splits_of(edit, model.splits):
            tree = Tree(
                {0: Branch(0, len(splits), edit.column, 0.0)},
                {1: on_left, 2: on_right},
                {} if features is None else _covers(split, features),
            )
            splits.append(split)
            trees.append(tree)
    return replace(model, splits=tuple(splits), trees=tuple(trees))


def added(before: GuestModel, after: GuestModel, features: Features) -> Floats:
    """What the trees of edits add to rows, shape (rows,)."""
    total = np.zeros(len(next(iter(features.values()))))
    for tree in after.trees[len(before.trees) :]:
        left = after.splits[tree.branches[0].record].goes_left(features)
        total += np.where(left, tree.leaves[1], tree.leaves[2])
    return total


def _splits_of(edit: ShapeEdit, splits: Sequence[Split]) -> list[tuple[Split, float, float]]:
    """The splits by which an edit reaches its place, and what each adds on either side."""
    categorical = {split.column: split.categorical for split in splits}[edit.column]
    if categorical:
        return [(Split(edit.column, None, edit.level, True, False), edit.add, 0.0)]
    if edit.missing:
        return [(Split(edit.column, None, None, False, False), 0.0, edit.add)]
    found = []
    # x <= up_to has it all, less x <= above; a missing value has none of it.
    if edit.up_to is not None:
        found.append((Split(edit.column, edit.up_to, None, False, False), edit.add, 0.0))
        if edit.above is not None:
            found.append((Split(edit.column, edit.above, None, False, False), -edit.add, 0.0))
    elif edit.above is not None:
        found.append((Split(edit.column, edit.above, None, False, True), 0.0, edit.add))
    return found


def _covers(split: Split, features: Features) -> dict[int, int]:
    left = split.goes_left(features)
    count = int(left.sum())
    return {0: len(left), 1: count, 2: len(left) - count}
