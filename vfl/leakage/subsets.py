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
_MOST_MATCHES = 1 << 12
"""Pairs of halves that are looked at: alike rows make many of one set."""


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
    return min(spread_of(g, h), float(np.log2(alike + 1.0).sum()))


def spread_of(g: Integers, h: Integers) -> float:
    """How many bits sums of such rows differ in: sets of fewer bits seldom have the same by chance."""
    return sum(math.log2(max(float(np.std(values)), 1.0)) for values in (g, h))


def few(keys: Keys, total: np.uint64, most: int) -> Integers | None:
    """The one set of at most `most` of the keys that adds up to `total`; None if there is none or more
    than one."""
    return Few(keys, most).find(total)


class Few:
    """Sets of at most `most` (up to 6) of some keys, of which many sums are looked for.

    Each is two sets of half as many, met in the middle.
    """

    def __init__(self, keys: Keys, most: int) -> None:
        self._most, half = most, (most + 1) // 2
        of = _sets(len(keys), half)
        padded = np.append(keys, np.uint64(0))  # -1: no row
        sums = np.zeros(len(of), np.uint64)
        for chosen in of.T:
            sums += padded[chosen]
        order = np.argsort(sums)
        self._sums, self._of = sums[order], of[order]
        # The other part of a set is the smaller one.
        smaller = (self._of >= 0).sum(axis=1) <= most - half
        self._other, self._other_of = self._sums[smaller], self._of[smaller]

    def find(self, total: np.uint64) -> Integers | None:
        """The one set with this sum; None if there is none or more than one, or too many pairs of halves
        have it."""
        hits, first, last = _matches(self._sums, total - self._other)
        if not len(hits) or (last - first).sum() > _MOST_MATCHES:
            return None
        found: set[tuple[int, ...]] = set()
        for hit, begin, end in zip(hits.tolist(), first.tolist(), last.tolist(), strict=True):
            for at in range(begin, end):
                rows = [int(i) for i in (*self._of[at], *self._other_of[hit]) if i >= 0]
                if len(set(rows)) == len(rows) <= self._most:
                    found.add(tuple(sorted(rows)))
                if len(found) > 1:
                    return None
        return np.array(found.pop(), np.int64) if found else None


def _matches(known: Keys, wanted: Keys) -> tuple[Integers, Integers, Integers]:
    """Which of the wanted keys are known, and from where to where each is among these, which are
    sorted."""
    first = np.searchsorted(known, wanted)
    hits = np.flatnonzero(known[np.minimum(first, len(known) - 1)] == wanted)
    return hits, first[hits], np.searchsorted(known, wanted[hits], side="right")


@lru_cache(32)
def _sets(count: int, most: int) -> NDArray[np.int16]:
    """All sets of at most `most` of so many, shape (sets, most), filled up with -1."""
    last = np.zeros((1, 0), np.int16)
    found = [np.full((1, most), -1, np.int16)]
    for size in range(1, most + 1):
        # Each set of one less, with every key after its last.
        begin = last[:, -1].astype(np.int64) + 1 if size > 1 else np.zeros(1, np.int64)
        more = count - begin
        after = np.arange(more.sum()) - np.repeat(np.cumsum(more) - more - begin, more)
        last = np.column_stack([np.repeat(last, more, axis=0), after.astype(np.int16)])
        found.append(np.pad(last, ((0, 0), (0, most - size)), constant_values=-1))
    return np.concatenate(found)


def any_of(keys: Keys, total: np.uint64) -> Integers | None:
    """The one subset, of whatever size, that adds up to `total`; at most MOST_HALVED keys."""
    if len(keys) > MOST_HALVED:
        raise ValueError("too many keys to try all subsets")
    found = Every(keys).find(total)
    return found[0] if len(found) == 1 else None


class Every:
    """All subsets of a few keys, of which many sums are looked for: each is two, one of each half."""

    def __init__(self, keys: Keys) -> None:
        self._halves = np.array_split(np.arange(len(keys)), 2)
        sums = [_all_sums(keys[half]) for half in self._halves]
        self._order = np.argsort(sums[0])
        self._left, self._right = sums[0][self._order], sums[1]

    def find(self, total: np.uint64) -> list[Integers]:
        """The subsets with this sum; two of them if there are more."""
        found = _matches(self._left, total - self._right)
        pairs = [
            (int(self._order[at]), hit)
            for hit, begin, end in zip(*(part[:2].tolist() for part in found), strict=True)
            for at in range(begin, min(begin + 2, end))
        ]
        return [self._subset(pair) for pair in pairs[:2]]

    def _subset(self, chosen: tuple[int, int]) -> Integers:
        return np.array(
            [
                i
                for half, bits in zip(self._halves, chosen, strict=True)
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
