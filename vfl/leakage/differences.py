"""Sums over sets of rows that differ by few: the tracker (Denning, Denning, Schwartz, 1979).

Two sums of the same values over sets that differ by one row tell that row's value; over more sets linear
algebra tells more than pairs do. For values that stay: the hosts' sides against gradients that hardly
change, or labels against a host's own groups; over nodes, trees with other rows drawn, and jobs.
"""

import numpy as np

from vfl.arrays import Floats
from vfl.leakage.shown import Mask
from vfl.leakage.success import Success

_WHOLE = 1e-6


def close(sets: Mask, most: int = 1) -> Mask:
    """Which rows are in the difference of two of the sets, shape (sets, rows), that differ by at most
    `most` rows, or in a set of so few."""
    whole = np.concatenate([sets, np.zeros((1, sets.shape[1]), np.bool_)]).astype(np.float64)
    size = whole.sum(axis=1)
    apart = size[:, None] + size[None, :] - 2 * (whole @ whole.T)
    first, second = np.nonzero(np.triu((apart > 0) & (apart <= most), 1))
    rows = np.zeros(sets.shape[1], np.bool_)
    for a, b in zip(first.tolist(), second.tolist(), strict=True):
        rows |= whole[a] != whole[b]
    return rows


def follow(coefficients: Floats) -> Mask:
    """Of which rows the value follows from the sums with these coefficients, shape (sums, rows)."""
    rows = coefficients.shape[1]
    if not len(coefficients):
        return np.zeros(rows, np.bool_)
    scale = np.maximum(np.linalg.norm(coefficients, axis=1), 1e-300)
    _, values, vectors = np.linalg.svd(coefficients / scale[:, None], full_matrices=False)
    spanned = vectors[values > values.max(initial=0.0) * 1e-9]
    return np.asarray((spanned**2).sum(axis=0) > 1 - _WHOLE)


def success(coefficients: Floats, values: Floats, who: str = "guest", about: str = "host") -> Success:
    """How many rows' values are told: those that follow, and of the others the most frequent value."""
    names, of, often = np.unique(values, return_inverse=True, return_counts=True)
    right = follow(coefficients) | (names[of] == names[np.argmax(often)])
    guessing = float(often.max()) / len(values)
    unit = "rows whose value is told"
    return Success("differences of sums", who, about, float(right.mean()), guessing, unit)
