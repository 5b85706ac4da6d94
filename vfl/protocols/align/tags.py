"""Member tags: which row has which."""

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Bytes, Integers, Words
from vfl.kernels import kernel


class TagRows:
    """The rows of tags, found by hashing: 8 to 16 bytes a tag where a dict would take 150."""

    def __init__(self, tags: Bytes) -> None:
        """tags: uint8 (n, 16), random, as they are where they lie."""
        self._tags = _words(tags)
        self._places = np.zeros(1 << (2 * len(tags)).bit_length(), np.uint32)
        _enter(self._tags, self._places)

    def rows(self, wanted: Bytes) -> Integers:
        """The row of each tag, -1 for a tag that is none: int64 (m,)."""
        rows = np.empty(len(wanted), np.int64)
        _find(self._tags, self._places, _words(wanted), rows)
        return rows


def _words(tags: Bytes) -> Words:
    # A copy of what cannot be written to or lies apart, so that a kernel is compiled for one kind.
    return np.require(tags, requirements=["C", "W"]).view(np.uint64)


@kernel
def _enter(tags: Words, places: NDArray[np.uint32]) -> None:
    """Put each row's number, from 1 on, at the place that its tag names, or the next that is free."""
    mask = np.uint64(len(places) - 1)
    for row in range(len(tags)):
        at = tags[row, 0] & mask
        while places[at]:
            at = (at + np.uint64(1)) & mask
        places[at] = np.uint32(row + 1)


@kernel
def _find(tags: Words, places: NDArray[np.uint32], wanted: Words, rows: Integers) -> None:
    mask = np.uint64(len(places) - 1)
    for i in range(len(wanted)):
        at, rows[i] = wanted[i, 0] & mask, -1
        while places[at]:
            row = np.int64(places[at]) - 1
            if tags[row, 0] == wanted[i, 0] and tags[row, 1] == wanted[i, 1]:
                rows[i] = row
                break
            at = (at + np.uint64(1)) & mask
