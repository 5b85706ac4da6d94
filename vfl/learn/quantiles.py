"""Quantiles of weighted numbers, and the leaves of trees that predict one.

Trees of a quantile are grown by gradients whose second derivative is made up: it says where rows differ,
not how far to go. So, as in LightGBM, a leaf whose tree is grown weighs what the quantile of its rows'
residuals is, shrunk by the learning rate. The penalties of leaf weights count in gains alone.

Under monotone constraints, where a split orders its children, the middle of the quantiles of both sides
bounds all leaves below them, as for other objectives the middle of their weights does (tree.py).
"""

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats


def weighted_quantile(values: Floats, weight: Floats, quantile: float) -> float:
    """The quantile of these numbers; 0 where nothing weighs.

    Of equal weights as LightGBM and NumPy have it by default, between the two next numbers. Of others
    the least number at which the weight of all up to it is the share of the whole, or more: it has the
    least pinball loss.
    """
    if not len(values):
        return 0.0
    if (weight == weight[0]).all():
        if not weight[0] > 0:
            return 0.0
        ordered, last = np.sort(values), len(values) - 1
        place = last * (1.0 - quantile)  # from the top
        whole = int(place)
        if whole >= last:
            return float(ordered[0])
        upper, lower = float(ordered[last - whole]), float(ordered[last - whole - 1])
        return upper - (upper - lower) * (place - whole)
    order = np.argsort(values, kind="stable")
    shares = np.cumsum(weight[order])
    at = int(np.searchsorted(shares, quantile * shares[-1]))
    return float(values[order[min(at, len(values) - 1)]])


@dataclass(frozen=True, eq=False)
class LeafRows:
    """The rows that a tree was grown from; arrays have shape (rows,)."""

    leaf: NDArray[np.signedinteger]
    residual: Floats  # what is left of the label
    weight: Floats


def renewed_leaves(
    leaves: Iterable[int], ordered: Collection[int], rows: LeafRows, quantile: float, rate: float
) -> dict[int, float]:
    """The weight of each leaf. `ordered`: the inner nodes of which no leaf on the left may weigh more
    than one on the right. `rate`: what weights are shrunk by."""
    left = {*leaves}
    order = np.argsort(rows.leaf, kind="stable")
    placed = rows.leaf[order]

    def weight_of(some: Iterable[int]) -> float:
        ends = [np.searchsorted(placed, [leaf, leaf + 1]).tolist() for leaf in some]
        of = np.sort(np.concatenate([order[first:last] for first, last in ends]))
        return rate * weighted_quantile(rows.residual[of], rows.weight[of], quantile)

    def below(node: int) -> list[int]:
        return [node] if node in left else [*below(2 * node + 1), *below(2 * node + 2)]

    weights: dict[int, float] = {}

    def renew(node: int, low: float, high: float) -> None:
        if node in left:
            weights[node] = min(max(weight_of([node]), low), high)
            return
        middles = high, low
        if node in ordered:
            sides = [min(max(weight_of(below(2 * node + s)), low), high) for s in (1, 2)]
            middles = (sum(sides) / 2,) * 2
        renew(2 * node + 1, low, middles[0])
        renew(2 * node + 2, middles[1], high)

    renew(0, -math.inf, math.inf)
    return weights
