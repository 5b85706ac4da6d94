"""How sure a figure is: intervals by drawing policies again, with replacement.

All rows of one policy are drawn together, since what happens in one year of it says something of the
next. Intervals are percentiles of the draws (Efron and Tibshirani, An Introduction to the Bootstrap,
1993, chapter 13). They say how far a figure may lie from that of all policies like these; what training
itself would have made of other rows is not in them.

Draws are seeded by their number, so that a figure has the same interval whichever others are asked for.
"""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats, Integers

if TYPE_CHECKING:
    from scipy.sparse import csr_array

LEVEL = 0.95
SEED = 1
LEAST = 10
"""Policies with which something happened, below which a rate has no interval: of fewer, the draws know
too little of what might have happened."""

_DRAWS, _FEWER, _MANY = 500, 200, 50_000  # fewer draws from so many policies on
_KEPT = 1 << 27  # numbers of draws that are kept, bytes
_TERMS = 20_000_000  # of sums that are in memory at a time


class Estimate(NamedTuple):
    """A figure and the middle 95 % of its draws; these are NaN where they are not known."""

    value: float
    low: float = math.nan
    high: float = math.nan

    @property
    def known(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)

    def has(self, value: float) -> bool:
        """Whether another value is in the interval; of one that is not known any may be."""
        return not self.known or self.low <= value <= self.high


class Summed(NamedTuple):
    """Values to be summed by group: int64 (rows,) from 0 to `groups` - 1, and float64 (rows,)."""

    group: Integers
    groups: int
    values: Floats


class Resamples:
    """Policies drawn again and again: as many as there are, with replacement.

    policy: of each row the policy it is of, any whole number; None where each row is one.
    """

    def __init__(self, rows: int, policy: Integers | None = None, seed: int = SEED) -> None:
        if policy is None:
            self.policy, self.policies = np.arange(rows), rows
        else:
            known, self.policy = np.unique(policy, return_inverse=True)
            self.policies = len(known)
        self.draws = _DRAWS if self.policies < _MANY else _FEWER
        self._seed = seed
        self._kept: dict[int, NDArray[np.uint8]] = {}
        self._keep = self.draws * self.policies <= _KEPT

    def times(self, draw: int) -> Floats:
        """How often each policy is in a draw, shape (policies,)."""
        if (kept := self._kept.get(draw)) is not None:
            return kept.astype(np.float64)
        rng = np.random.default_rng([self._seed, draw])
        drawn = rng.integers(self.policies, size=self.policies, dtype=np.int32)
        times = np.bincount(drawn, minlength=self.policies)
        if self._keep and times.max() < 256:
            self._kept[draw] = times.astype(np.uint8)
        return times.astype(np.float64)

    def sums(self, wanted: Sequence[Summed]) -> list[NDArray[np.float64]]:
        """The sums of each draw, shape (draws, groups) for each of `wanted`."""
        from scipy.sparse import csr_array

        found: list[NDArray[np.float64]] = []
        batch: list[csr_array] = []
        for one in wanted:
            there = np.flatnonzero(one.values)
            places = (one.group[there], self.policy[there])
            batch.append(
                csr_array((one.values[there], places), shape=(one.groups, self.policies), dtype=float)
            )
            if sum(matrix.nnz for matrix in batch) > _TERMS:
                found += self._multiply(batch)
                batch = []
        return found + (self._multiply(batch) if batch else [])

    def _multiply(self, batch: "Sequence[csr_array]") -> list[NDArray[np.float64]]:
        from scipy.sparse import vstack

        whole = vstack(batch, format="csr")
        made = np.stack([whole @ self.times(draw) for draw in range(self.draws)])
        ends = np.cumsum([matrix.shape[0] for matrix in batch])[:-1]
        return np.split(made, ends, axis=1)

    def each(self, statistic: Callable[[Floats], Floats]) -> NDArray[np.float64]:
        """What a statistic makes of each draw, shape (draws, values); it is given how often each row is
        in it, shape (rows,)."""
        return np.stack([statistic(self.times(draw)[self.policy]) for draw in range(self.draws)])

    def counts(self, group: Integers, groups: int, happened: NDArray[np.bool_]) -> Integers:
        """With how many policies of each group something happened."""
        pairs = np.unique(group[happened] * self.policies + self.policy[happened])
        return np.bincount(pairs // self.policies, minlength=groups)


def one_group(values: Floats) -> Summed:
    """A sum over all rows."""
    return Summed(np.zeros(len(values), np.int64), 1, values)


def estimate(value: float, draws: Floats) -> Estimate:
    """A figure with its interval, of the draws in which it is a number; not known if it is none in one
    of twenty."""
    known = draws[np.isfinite(draws)]
    if not math.isfinite(value) or len(known) < 0.95 * len(draws) or not len(known):
        return Estimate(value)
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return Estimate(value, low, high)


def estimates(
    values: Floats, draws: NDArray[np.float64], enough: NDArray[np.bool_] | None = None
) -> list[Estimate]:
    """Figures with the intervals of their columns of draws, not known where there is not `enough`."""
    found = [estimate(value, column) for value, column in zip(values.tolist(), draws.T, strict=True)]
    if enough is None:
        return found
    return [
        one if known else Estimate(one.value) for one, known in zip(found, enough.tolist(), strict=True)
    ]


def quotients(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quotients of draws, NaN where there is nothing below."""
    made = np.full(np.broadcast_shapes(above.shape, below.shape), np.nan)
    np.divide(above, below, out=made, where=np.broadcast_to(below != 0, made.shape))
    return made
