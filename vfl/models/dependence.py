"""Partial dependence of a model of trees on the guest's columns, at the values where it changes."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats
from vfl.errors import ModelError
from vfl.learn.binning import Features
from vfl.learn.explain import partial_dependence
from vfl.learn.metrics import OTHER
from vfl.learn.splits import Split
from vfl.protocols.trees.model import GuestModel
from vfl.text import level_order

_ENDS = (0.01, 0.99)  # quantiles of a column between which partial dependence is shown


@dataclass(frozen=True)
class Dependence:
    """Partial dependence on one column of the guest."""

    grid: NDArray[np.generic]  # float64, or objects (str, None) for categories
    scores: Floats  # on the link scale, shape (points,)


def dependence_on(
    model: GuestModel, columns: Collection[str], factors: Features
) -> tuple[dict[str, Dependence], str]:
    """Partial dependence on the guest's columns that have splits; if there is none, why."""
    dependence = {}
    for column in columns:
        splits = [split for split in model.splits if split.column == column]
        if not splits:
            continue
        values = factors.get(column)
        if values is not None and (values.dtype == object) != splits[0].categorical:
            values = None  # the party file says otherwise by now
        grid = _grid(splits, values)
        try:
            dependence[column] = Dependence(grid, partial_dependence(model, column, grid))
        except ModelError as error:
            return {}, f"Partial dependence is not shown: {error}."
    return dependence, ""


def _grid(splits: Sequence[Split], values: NDArray[np.generic] | None) -> NDArray[np.generic]:
    """The values at which a column's dependence changes, and where the column has them, its ends and a
    missing value."""
    if splits[0].categorical:
        # Categories without a split of their own are all alike.
        named = {name for split in splits for name in split.named}
        rest = {OTHER} if values is None else {OTHER if value else None for value in set(values) - named}
        known = [
            level for group in (named, rest) for level in sorted(filter(None, group), key=level_order)
        ]
        return np.array([*known, *([None] if None in named | rest else [])], dtype=object)
    edges = np.unique([split.threshold for split in splits if split.threshold is not None])
    present = edges if values is None else values.astype(np.float64)
    missing = bool(np.isnan(present).any()) or not len(edges)
    present = present[~np.isnan(present)]
    ends = np.quantile(present, _ENDS) if len(present) else np.zeros(2)
    low, high = min(ends[0], *edges[:1]), max(ends[1], *edges[-1:])
    margin = (high - low) * 0.05 or 1.0
    if values is None:
        low, high = low - margin, high + margin
    # A step lies right above its edge.
    grid = [low, *np.nextafter(edges, np.inf), max(high, edges[-1] + margin) if len(edges) else high]
    return np.array([*grid, *([np.nan] if missing else [])])
