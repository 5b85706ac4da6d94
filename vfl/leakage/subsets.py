"""Which few rows make up a difference of sums: subset sums of integers, met in the middle.

Gradients of many bits make almost every set of rows have a sum of its own. A row's key is its
gradient and hessian, hashed to one word such that keys add up as they do (modulo 2^64): two
equations in one number.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Integers

Keys = NDArray[np.uint64]

_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd; any would do
MOST_HALVED = 26
"""Rows of which every subset is tried."""
_MOST_MATCHES = 64


def keys_of(g: Integers, h: Integers) -> Keys:
    """One word a row (or sum) that adds up as gradient and hessian do."""
    return np.asarray(g).astype(np.uint64) + np.asarray(h).astype(np.uint64) * _FACTOR


def bits_of(g: Integers, h: Integers) -> float:
    """About how many bits a sum over some of these rows says of which they are.

    Rows of one score have one hessian, and gradients that differ by their labels alone: of such rows a
    sum says how many they are, not which. Squared error, of one hessian, goes by gradients.
    """
    alike = np.unique(h, return_counts=True)[1]
    if len(alike) <= 1:
        alike = np.unique(g, return_counts=True)[1]
    spread = sum(math.log2(max(float(np.std(values)), 1.0)) for values in (g, h))
    return min(spread, float(np.log2(alike + 1.0).sum()))


def few(keys: Keys, total: np.uint64, most: int) -> Integers | None:
    """The one set of at most `most` (up to 4) of the keys that adds up to `total`; None if there is none
    or more than one."""
    count = len(keys)
    if most <= 0 or not count:
        return np.zeros(0, np.int64) if int(total) == 0 else None
    half = (most + 1) // 2
    of = _sets(count, half)
    padded = np.append(keys, np.uint64(0))  # -1: no row
    every = padded[of[:, 0]] + padded[of[:, 1]]
    order = np.argsort(every)
    every, of = every[order], of[order]
    # The other part of a set is the smaller one.
    other = slice(None) if most - half == 2 else of[:, 1] < 0
    return _only(every, of, every[other], of[other], total, most)


@lru_cache(64)
def _sets(count: int, most: int) -> Integers:
    """All sets of at most `most` (up to 2) of so many, shape (sets, 2), filled up with -1."""
    none = np.full((1, 2), -1)
    one = np.stack([np.arange(count), np.full(count, -1)], axis=1)
    pairs = np.stack(np.triu_indices(count, 1), axis=1)
    return np.concatenate([none, one, pairs][: most + 1])


def _only(
    left: Keys, left_sets: Integers, right: Keys, right_sets: Integers, total: np.uint64, most: int
) -> Integers | None:
    """The one union of a left and a right set with this sum; `left` is sorted."""
    wanted = total - right
    first = np.searchsorted(left, wanted, side="left")
    last = np.searchsorted(left, wanted, side="right")
    hits = np.flatnonzero(last > first)
    if not len(hits) or (last - first)[hits].sum() > _MOST_MATCHES:
        return None
    found: set[tuple[int, ...]] = set()
    for hit in hits.tolist():
        for at in range(int(first[hit]), int(last[hit])):
            rows = [int(i) for i in (*left_sets[at], *right_sets[hit]) if i >= 0]
            if len(set(rows)) == len(rows) <= most:
                found.add(tuple(sorted(rows)))
    if len(found) != 1:
        return None
    return np.array(found.pop(), np.int64)


def any_of(keys: Keys, total: np.uint64) -> Integers | None:
    """The one subset, of whatever size, that adds up to `total`; at most MOST_HALVED keys."""
    count = len(keys)
    if count > MOST_HALVED:
        raise ValueError("too many keys to try all subsets")
    halves = np.array_split(np.arange(count), 2)
    sums = [_all_sums(keys[half]) for half in halves]
    order = np.argsort(sums[0])
    left = sums[0][order]
    wanted = total - sums[1]
    first, last = (np.searchsorted(left, wanted, side=side) for side in ("left", "right"))
    hits = np.flatnonzero(last > first)
    if len(hits) != 1 or last[hits[0]] - first[hits[0]] != 1:
        return None
    chosen = int(order[first[hits[0]]]), int(hits[0])
    return np.array(
        [
            i
            for half, bits in zip(halves, chosen, strict=True)
            for n, i in enumerate(half)
            if bits >> n & 1
        ],
        np.int64,
    )


def _all_sums(keys: Keys) -> Keys:
    """Sums of all subsets: that of subset b is at b, bit n for key n."""
    sums = np.zeros(1, np.uint64)
    for key in keys:
        sums = np.concatenate([sums, sums + key])
    return sums
