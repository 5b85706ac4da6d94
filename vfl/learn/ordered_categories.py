"""Splits of a categorical column by sets of its categories, in the order of their gradients.

As LightGBM finds them (Fisher, On grouping for maximum homogeneity, JASA 1958): of a node the categories
are sorted by their sum of gradients over that of hessians plus `cat_smooth`, and the first ones of this
order, or the last ones, go left. Two rules are our own. Categories of one statistic stay together, so
that the order in which they are held changes nothing. And a category is moved only where it is known to
leave enough rows on both sides alone: then so does the set, as at least half of these stay right; the
others go right, as do those that are too rare to be kept apart.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vfl.arrays import Floats, Integers, Mask
from vfl.learn.params import BoostParams
from vfl.learn.quantiser import Scales
from vfl.learn.tree import FREE, Bounds, Sums, gains

MOST_SINGLE = 4
"""A column of so many categories, a missing one among them, is split by one against the rest
(LightGBM's max_cat_to_onehot)."""


class Sets(NamedTuple):
    """Sets of candidates of a node that may go left together, and their gains."""

    members: list[tuple[int, ...]]  # in ascending order
    gains: Floats


NO_SETS = Sets([], np.zeros(0))


class CategoryOrder:
    """The categorical columns of a party that are split by sets."""

    def __init__(self, groups: Sequence[Integers], params: BoostParams) -> None:
        """`groups`: of each column, the candidates that part one category from the rest."""
        self.groups = [group for group in groups if len(group) > MOST_SINGLE]
        self._params = params
        # A set's two sides, not the node above them, have the further penalty.
        self._sides = params.model_copy(update={"reg_lambda": params.reg_lambda + params.cat_l2})

    def __bool__(self) -> bool:
        return bool(self.groups)

    def single(self, candidates: int) -> Mask:
        """Which of so many candidates may not be taken by themselves."""
        found = np.zeros(candidates, np.bool_)
        for group in self.groups:
            found[group] = True
        return found

    def sets(self, left: Sums, node: Sums, valid: Mask, scales: Scales, bounds: Bounds = FREE) -> Sets:
        """The sets of a node, in ascending order of their members, with -inf for those that gain too
        little. `left`: of each candidate; `valid`: those that leave enough rows on both sides."""
        found: dict[tuple[int, ...], tuple[int, int]] = {}
        for group in self.groups:
            found.update(self._of_column(group[valid[group]], left, scales))
        if not found:
            return NO_SETS
        members = sorted(found)
        sums = np.array([found[one] for one in members], np.int64).T
        allowed = np.ones(len(members), np.bool_)
        of_sets = gains(Sums(*sums), node, allowed, scales, self._params, bounds, sides=self._sides)
        return Sets(members, of_sets)

    def _of_column(
        self, group: Integers, left: Sums, scales: Scales
    ) -> dict[tuple[int, ...], tuple[int, int]]:
        """The sets of a column's candidates, and their sums of gradients and hessians."""
        g, h = left.gradient[group], left.hessian[group]
        known = np.flatnonzero(h > 0)  # nothing is known of the others
        group, g, h = group[known], g[known], h[known]
        statistic = (g / scales.gradient) / (h / scales.hessian + self._params.cat_smooth)
        order = np.argsort(statistic, kind="stable")
        most = min(self._params.max_cat_threshold, (len(group) + 1) // 2)
        found: dict[tuple[int, ...], tuple[int, int]] = {}
        for way in (order, order[::-1]):
            ranked = statistic[way]
            sums = np.cumsum(g[way]), np.cumsum(h[way])
            for count in range(1, most + 1):
                if count == len(way) or ranked[count - 1] != ranked[count]:
                    members = tuple(sorted(group[way[:count]].tolist()))
                    found[members] = int(sums[0][count - 1]), int(sums[1][count - 1])
        return found
