"""Rows drawn at random without replacement, as NumPy's generators draw them, with little memory."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats, Integers, Mask
from vfl.blocks.means import stretches
from vfl.kernels import kernel

_FEW, _SHARE = 10_000, 50  # up to so many rows, or less than 1 of so many, NumPy draws in other ways
_AT_ONCE = 1 << 16  # draws of 64 bits
_BUCKETS = 32
_SAMPLE = 1 << 12  # values by which buckets are made


def draw_places(seed: list[int], total: int, count: int) -> Mask:
    """Which of so many places are drawn: those of `default_rng(seed).choice(total, count, False)`.

    That moves 8 bytes of every place, and so much again, where this takes 5.
    """
    generator, drawn = np.random.default_rng(seed), np.zeros(total, np.bool_)
    if not _FEW < total < 1 << 32 or count <= total // _SHARE:
        drawn[generator.choice(total, count, replace=False)] = True
        return drawn
    places, first = np.arange(total, dtype=np.uint32), max(total - count, 1)
    at = total - 1
    while at >= first:
        random = generator.bit_generator.random_raw(_AT_ONCE)
        at = int(_swap(places, at, first, random))
    drawn[places[total - count :]] = True
    return drawn


@kernel
def _swap(places: NDArray[np.uint32], at: int, first: int, random: NDArray[np.uint64]) -> int:
    """Swap each place from `at` down to `first` with one that is drawn among it and those before it
    (Lemire, ACM TOMACS 29, 2019), as far as the random numbers reach; returns the next."""
    used, mask = 0, np.uint64(0xFFFFFFFF)
    while at >= first:
        size = np.uint64(at + 1)
        unfit = (np.uint64(0x100000000) - size) % size
        chosen = np.uint64(0)
        while True:
            if used == 2 * len(random):
                return at
            word = random[used // 2]
            word = word >> np.uint64(32) if used % 2 else word & mask
            used += 1
            product = word * size
            if product & mask >= unfit:
                chosen = product >> np.uint64(32)
                break
        other = np.int64(chosen)
        places[at], places[other] = places[other], places[at]
        at -= 1
    return at


def in_order(keys: Floats) -> Iterator[Integers]:
    """`np.argsort(keys, kind="stable")`, piece by piece."""
    sample = np.sort(keys[:: max(1, len(keys) // _SAMPLE)])
    bounds = np.unique(sample[len(sample) // _BUCKETS :: max(1, len(sample) // _BUCKETS)])
    bounds = bounds[~np.isnan(bounds)]
    bucket = np.empty(len(keys), np.uint8)
    for some in stretches(len(keys)):
        bucket[some] = np.searchsorted(bounds, keys[some])  # what is no number comes last
    for number in range(len(bounds) + 1):
        own = np.flatnonzero(bucket == number)
        yield own[np.argsort(keys[own], kind="stable")]
