"""Sides between 0 and 1, ordered along a chain, that satisfy all equations: a convex problem.

Sides are 0 or 1. Relaxed to the interval they are found whole from about half as many equations as rows,
which linear algebra alone needs one for one (Donoho, Tanner, "Counting the faces of randomly-projected
hypercubes", 2010); along a chain from fewer. Solved by the alternating direction method of multipliers:
a projection onto the equations, one onto the ordered sides.
"""

from collections.abc import Sequence

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from vfl.arrays import Floats, Integers
from vfl.leakage.chains import Chain
from vfl.leakage.linking import Equations
from vfl.leakage.shown import Mask

_RIDGE = 1e-10
_MOST_WORK = 1e10  # products of the rounds for one chain; 10 rounds at least
_WEIGHT = 3.0  # of the constraints against nearness to the prior


def solve(chain: Chain, equations: Equations, share: Floats, rounds: int) -> Floats:
    """Sides of the chain's candidates, shape (candidates, rows): whole where rows are certain.

    With `rounds` 0 equations alone: the least change of the prior that satisfies them.
    """
    members = np.array(chain.members, np.int64)
    sure, may = chain.bounds
    open_ = np.flatnonzero(chain.open)
    sides = sure.astype(np.float64)
    if not len(open_):
        return sides
    prior = np.repeat(share[members][:, None], len(open_), axis=1)
    prior = np.clip(prior, sure[:, open_], may[:, open_])
    sides[:, open_] = prior
    rows = equations.coefficients[:, open_]
    used = np.flatnonzero(np.einsum("ij,ij->i", rows, rows) > 1e-12)
    if not len(used):
        return sides
    rows = rows[used]
    closed = np.setdiff1d(np.arange(sides.shape[1]), open_)
    given = sides[:, closed] @ equations.coefficients[np.ix_(used, closed)].T
    affine = _Affine(
        rows, equations.sums[np.ix_(members, used)] - given, equations.known[np.ix_(members, used)]
    )
    low, high = sure[:, open_].astype(np.float64), may[:, open_].astype(np.float64)
    exact = affine.project(prior)
    if not rounds:
        sides[:, open_] = exact
        return sides
    kept, push = np.clip(_ordered(exact), low, high), np.zeros_like(prior)
    work = float(rows.size) * len(members)
    for _ in range(int(np.clip(_MOST_WORK / work, 10, rounds))):
        exact = affine.project((prior + _WEIGHT * (kept - push)) / (1 + _WEIGHT))
        new = np.clip(_ordered(exact + push), low, high)
        push += exact - new
        moved = float(np.abs(new - kept).max())
        kept = new
        if moved < 1e-4 and float(np.abs(exact - kept).max()) < 1e-3:
            break
    sides[:, open_] = kept
    return sides


class _Affine:
    """What satisfies the known equations of each candidate."""

    def __init__(self, rows: Floats, sums: Floats, known: Mask) -> None:
        self._rows, self._sums = rows, sums
        own = rows @ rows.T
        own[np.diag_indices(len(own))] += _RIDGE
        self._parts: list[tuple[Integers, Integers, object]] = []
        patterns, which = np.unique(known, axis=0, return_inverse=True)
        for number, pattern in enumerate(patterns):
            at, kept = np.flatnonzero(which.reshape(-1) == number), np.flatnonzero(pattern)
            if len(kept):
                factor = cho_factor(own[np.ix_(kept, kept)], check_finite=False)
                self._parts.append((at, kept, factor))

    def project(self, points: Floats) -> Floats:
        """The nearest points that do."""
        missed = self._sums - points @ self._rows.T
        push = np.zeros_like(missed)
        for at, kept, factor in self._parts:
            push[np.ix_(at, kept)] = cho_solve(factor, missed[np.ix_(at, kept)].T, check_finite=False).T
        return np.asarray(points + push @ self._rows)


def _ordered(points: Floats) -> Floats:
    """The nearest points that do not fall along the first axis (isotonic regression of each column).

    By the formula of maxima of minima of means: chains have few candidates.
    """
    count = len(points)
    if count == 1 or (np.diff(points, axis=0) >= 0).all():
        return points
    running = np.concatenate([np.zeros((1, points.shape[1])), np.cumsum(points, axis=0)])
    result = np.full_like(points, -np.inf)
    for first in range(count):
        lowest = np.full(points.shape[1], np.inf)
        for last in range(count - 1, first - 1, -1):
            lowest = np.minimum(lowest, (running[last + 1] - running[first]) / (last + 1 - first))
            result[last] = np.maximum(result[last], lowest)
    return result


def solve_all(chains: Sequence[Chain], equations: Equations, share: Floats, rounds: int) -> Floats:
    """Sides of all candidates, shape (candidates, rows)."""
    sides = np.zeros((equations.sums.shape[0], equations.coefficients.shape[1]))
    for chain in chains:
        sides[chain.members] = solve(chain, equations, share, rounds)
    return sides
