"""What the rows of a table that have one id come to."""

import numpy as np
from numpy.typing import NDArray

from vfl.party.config_values import Aggregate


def aggregate_groups(
    values: NDArray[np.generic], of: NDArray[np.int64], groups: int, rule: Aggregate
) -> NDArray[np.generic]:
    """What a rule makes of each group's values; `of` has the group of each value."""
    if rule in ("first", "last"):
        order = np.arange(len(values)) if rule == "last" else np.arange(len(values))[::-1]
        at = np.empty(groups, np.int64)
        at[of[order]] = order  # of several the one written last stays
        return values[at]
    if rule == "mode":
        return _modes(values, of, groups)
    known = ~np.isnan(values)
    number = np.bincount(of[known], minlength=groups)
    with np.errstate(invalid="ignore"):
        if rule in ("max", "min"):
            made = np.full(groups, np.nan)
            (np.fmax if rule == "max" else np.fmin).at(made, of, values)
            return made
        total = np.bincount(of[known], weights=values[known], minlength=groups)
        made = total / number if rule == "mean" else total
    return np.where(number > 0, made, np.nan)


def _modes(values: NDArray[np.generic], of: NDArray[np.int64], groups: int) -> NDArray[np.generic]:
    """The most frequent text of each group, of several the one that comes first; None without any."""
    made: NDArray[np.generic] = np.full(groups, None, object)
    known = np.flatnonzero(values != np.array(None))
    names, code = np.unique(values[known].astype(str), return_inverse=True)
    if not len(names):
        return made
    pairs, first, times = np.unique(of[known] * len(names) + code, return_index=True, return_counts=True)
    group = pairs // len(names)
    best = np.lexsort((first, -times, group))
    best = best[np.unique(group[best], return_index=True)[1]]
    made[group[best]] = names[pairs[best] % len(names)].astype(object)
    return made
