"""What is drawn for a tree: rows by the guest, columns by each party; and a host's check of the rows."""

import zlib
from collections import deque
from collections.abc import Sequence

import numpy as np

from vfl.arrays import Floats, Mask
from vfl.errors import Refused
from vfl.learn.binning import Binned
from vfl.learn.params import BoostParams
from vfl.learn.told_sums import takes_largest
from vfl.protocols.common.draw_memory import NO_MEMORY, DrawMemory


def draw_rows(
    train: Mask, params: BoostParams, tree: int, gradient: Floats, hessian: Floats
) -> tuple[Mask, Floats]:
    """The rows drawn for a tree, and for how many training rows each of them counts.

    Either a share without replacement, each counting for itself, or by gradient-based one-side sampling
    (Ke et al., NeurIPS 2017, algorithm 2): the rows with the largest |gradient hessian|, the first among
    equal ones, and a draw from the others, which counts for all of them. `most_drawn` of told_sums.py
    bounds how many rows these are.
    """
    mask, counts_for = train.copy(), np.ones(len(train))
    rows = np.flatnonzero(train)
    generator = np.random.default_rng([params.seed, tree])
    if takes_largest(params, tree):
        with np.errstate(over="ignore"):
            size = np.abs(gradient[rows] * hessian[rows])
        top = max(1, round(params.goss_top * len(rows)))
        others = rows[np.argsort(-size, kind="stable")[top:]]
        count = min(len(others), max(1, round(params.goss_other * len(rows))))
        drawn = generator.choice(others, count, replace=False)
        mask[others] = False
        mask[drawn] = True
        counts_for[drawn] = len(others) / max(1, count)
    elif params.subsample < 1:
        drawn = generator.choice(rows, max(1, round(params.subsample * len(rows))), replace=False)
        mask[:] = False
        mask[drawn] = True
    return mask, counts_for


def draw_columns(binned: Binned, name: str, params: BoostParams, tree: int) -> Binned:
    """The columns of a party drawn for a tree: each party draws a share of its own, at least one."""
    total = len(binned.columns)
    if params.colsample == 1 or not total:
        return binned
    size = max(1, round(params.colsample * total))
    generator = np.random.default_rng([params.seed, tree, zlib.crc32(name.encode())])
    drawn = np.sort(generator.choice(total, size, replace=False))
    return Binned(tuple(binned.columns[i] for i in drawn), binned.codes[drawn])


class Draws:
    """The rows that trees were drawn from, as a bit a row: those of this job and of earlier ones.

    Sums over two sets of rows that differ by few tell of these few by subtraction, if gradients hardly
    change from tree to tree (a small learning_rate) or from job to job (the first tree of each).
    """

    _IN_CHECKPOINT = 64

    def __init__(self, minimum: int, memory: DrawMemory = NO_MEMORY) -> None:
        self._minimum, self._memory = minimum, memory
        self.seen: deque[bytes] = deque(maxlen=self._IN_CHECKPOINT)
        """The last different ones of this job."""
        self._known: set[int] = set()  # rows of a draw

    def restore(self, seen: Sequence[bytes]) -> None:
        """Remember what an earlier attempt at the job has seen."""
        for active in seen:
            self.seen.append(active)
            self._known.add(int.from_bytes(active, "big"))

    def check(self, active: bytes) -> None:
        """Raises Refused for rows that differ by too few from those of an earlier tree."""
        rows = int.from_bytes(active, "big")
        with self._memory.in_turn():
            self._known.update(int.from_bytes(draw, "big") for draw in self._memory.news())
            if rows in self._known:
                return
            if any((rows ^ earlier).bit_count() < self._minimum for earlier in self._known):
                raise Refused(
                    f"rows drawn for two trees that differ in fewer than {self._minimum:,} break rule "
                    "min_child_rows of [policy]: set subsample to 1, or lower; after an earlier job on "
                    "the alignment, train on the same rows (holdout, seed), or on more different ones"
                )
            self._memory.keep(active)
            self.seen.append(active)
            self._known.add(rows)
