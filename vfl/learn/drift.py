"""What a party keeps of its own columns at training, to tell later whether a batch looks different.

A profile holds the shares of at most 10 quantile groups of a numeric column, or of at most 20 categories
of most rows, and those of the other and of missing values. It stays with the column's owner: edges and
categories are values of that column.

By chance alone the population stability index (`vfl.learn.metrics.psi`) of a batch against a profile is
above 0: where nothing has changed, with B groups, n rows then and m rows now, it is distributed about as
(1/n + 1/m) times chi-square with B - 1 degrees of freedom (Yurdakul, Naranjo, Journal of Risk Model
Validation 14, 2020). `judge_drift` holds it against that.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats
from vfl.blocks.engine import ENGINE, Array
from vfl.blocks.scratch import Scratch, in_pieces
from vfl.learn.binning import Column, Features, choose_bins
from vfl.learn.metrics import LARGE_PSI, MODERATE_PSI, psi

Verdict = Literal["none", "moderate", "large"]

# Groups of a profile, and the rows that each has at least, so that chance moves its share little.
_QUANTILES, _CATEGORIES, _LEAST_ROWS = 10, 20, 20

# How near two scores are, relatively or below 1 absolutely, that differ by rounding alone.
_NEAR = 1e-9

_BY_CHANCE = 0.001  # share of batches whose index is above the bound of noise where nothing changed


@dataclass(frozen=True)
class Profile:
    """Groups of one column's values and their shares. Raises ValueError when the two do not fit."""

    edges: (
        tuple[float, ...] | None
    )  # upper ones (inclusive) of all groups but the last; None: categories
    categories: tuple[str, ...]
    shares: tuple[
        float, ...
    ]  # of each group, then of other categories if it is of these, then of missing
    rows: int

    def __post_init__(self) -> None:
        if len(self.shares) != self._column.bins + 1 or self.rows < 1:
            raise ValueError("a profile whose shares are not those of its groups")

    @property
    def groups(self) -> int:
        """How many groups there are, other and missing values' included."""
        return len(self.shares)

    def psi(self, values: NDArray[np.generic]) -> float:
        """The population stability index of the column's values in a batch; 0 without rows.

        A group that is empty on one side counts there as half a row, or as its share on the other side
        if that is less: whether it is there at all tells nothing then. Raises ValueError for categories
        where there were numbers, and the other way round.
        """
        if (values.dtype == object) != (self.edges is None):
            kinds = ("categorical", "numeric") if self.edges is None else ("numeric", "categorical")
            raise ValueError(f"the column was {kinds[0]} in training and is {kinds[1]} now")
        if not len(values):
            return 0.0
        then, now = np.array(self.shares), _shares(self._column, [values])
        return psi(
            np.where(then > 0, then, np.minimum(now, 0.5 / self.rows)),
            np.where(now > 0, now, np.minimum(then, 0.5 / len(values))),
        )

    @property
    def _column(self) -> Column:
        edges = None if self.edges is None else np.array(self.edges, np.float64)
        return Column("", edges, self.categories, has_missing=True)


def profile(values: NDArray[np.generic]) -> Profile:
    """The profile of a column (as in `binning.Features`), or of scores, by the rows of training.

    A group holds 20 rows at least: with fewer values in all, nothing but missing ones is told apart.
    Raises ValueError without rows.
    """
    return _profile("", [values])


def _profile(name: str, parts: Sequence[Array]) -> Profile:
    """The profile of a column whose rows lie in several arrays, one after the other."""
    if not (rows := sum(map(len, parts))):
        raise ValueError("no rows to make a profile of")
    most = _CATEGORIES + 1 if parts[0].dtype == object else _QUANTILES
    column = choose_bins("", parts, most, _LEAST_ROWS)
    edges = None if column.edges is None else tuple(column.edges.tolist())
    if edges == ():
        edges = _around(parts)
    column = Column("", None if edges is None else np.array(edges), column.categories, has_missing=True)
    return Profile(edges, column.categories, tuple(_shares(column, parts).tolist()), rows)


def profile_of_scores(scores: Floats, scratch: Scratch = Scratch()) -> Profile:
    """The profile of finite scores; scratch: where their order lies, of many.

    Many may be the same but for rounding, as those of trees are once an offset has been taken off. No
    edge lies among these: in a batch all would be on one side of it. Raises ValueError without scores.
    """
    if not len(scores):
        raise ValueError("no scores to make a profile of")
    ordered = scratch.taken(scores, np.argsort(scores), "scores")
    low, high = float(ordered[0]), float(ordered[-1])
    apart = np.ones(len(ordered), np.bool_)  # which are not the same as the next one
    for some in in_pieces(len(ordered) - 1, ordered):
        here, next_one = ordered[some], ordered[1:][some]
        apart[some] = next_one - here > _NEAR * np.maximum(1, np.abs(next_one))
    highest, before = ordered[apart], 0  # of each run of scores that are the same
    for some in in_pieces(len(ordered), ordered):
        run = before + np.append(0, np.cumsum(apart[some]))
        ordered[some], before = highest[run[:-1]], int(run[-1])
    exact = profile(ordered)
    if len(highest) == 1:
        return replace(exact, edges=(low - _margin(low), high + _margin(high)))
    return replace(exact, edges=tuple(edge + _margin(edge) for edge in exact.edges or ()))


def _margin(score: float) -> float:
    return _NEAR / 2 * max(1.0, abs(score))


def profiles(features: Features) -> dict[str, Profile]:
    """The profile of each column."""
    return dict(zip(features, ENGINE.columns(_profile, features), strict=True))


def judge_drift(psi: float, groups: int, rows_then: int, rows_now: int) -> Verdict:
    """Whether a batch differs from the rows of training, by the index of a column or of scores.

    "moderate" and "large" are above MODERATE_PSI and LARGE_PSI, and above what 1 of 1,000 batches
    reaches by chance where nothing has changed: about 30 (1/then + 1/now) for 11 groups, so that batches
    of fewer than 300 rows need more than 0.1. Of many columns some will be that one of 1,000.
    """
    if not rows_then or not rows_now:
        return "none"
    noise = (1 / rows_then + 1 / rows_now) * _chi_square(max(groups - 1, 1))
    if psi <= max(MODERATE_PSI, noise):
        return "none"
    return "large" if psi > LARGE_PSI else "moderate"


def _chi_square(freedom: int) -> float:
    """The quantile of chi-square that chance exceeds once in 1,000, or up to 3 % more.

    Wilson, Hilferty, PNAS 17, 1931.
    """
    z, v = NormalDist().inv_cdf(1 - _BY_CHANCE), 2 / (9 * freedom)
    return freedom * (1 - v + z * math.sqrt(v)) ** 3


def _around(parts: Sequence[Array]) -> tuple[float, ...]:
    """Edges of a column of one value, so that any other value is in another group; else none."""
    numbers = (part.astype(np.float64, copy=False) for part in parts)
    known = [own[~np.isnan(own)] for own in numbers]
    ends = [(own.min(), own.max()) for own in known if len(own)]
    if not ends or min(low for low, _ in ends) < max(high for _, high in ends):
        return ()
    value = float(next(own[0] for own in known if len(own)))
    return float(np.nextafter(value, -np.inf)), value


def _shares(column: Column, parts: Sequence[Array]) -> Floats:
    """The share of each group, missing values' last."""
    counts = np.zeros(column.bins + 1, np.int64)
    for part in parts:
        for some in in_pieces(len(part), part):
            counts += np.bincount(column.codes(part[some]), minlength=column.bins + 1)
    return np.asarray(counts / sum(map(len, parts)))
