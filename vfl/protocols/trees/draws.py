"""What is drawn for a tree: rows by the guest, columns by each party; and a host's check of the rows."""

import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from vfl.arrays import Floats, Integers, Mask
from vfl.blocks.engine import BLOCK, ENGINE, Rows
from vfl.errors import Refused
from vfl.learn.binning import Binned
from vfl.learn.drawing import draw_places, in_order
from vfl.learn.params import BoostParams
from vfl.learn.told_sums import takes_largest
from vfl.protocols.common.draw_memory import NO_MEMORY, DrawMemory


def draw_rows(
    train: Mask, params: BoostParams, tree: int, size: Callable[[], Floats]
) -> tuple[Mask, Floats]:
    """The rows drawn for a tree, and for how many training rows each of them counts; the same for all
    trees of a round.

    Either a share without replacement, each counting for itself, or by gradient-based one-side sampling
    (Ke et al., NeurIPS 2017, algorithm 2): the rows with the largest `size`, their |gradient hessian|,
    the first among equal ones, and a draw from the others, which counts for all of them. `most_drawn` of
    told_sums.py bounds how many rows these are. Where all are taken `train` itself is what is returned.
    """
    counts_for = np.broadcast_to(1.0, len(train))
    largest = takes_largest(params, tree)
    if not largest and params.subsample >= 1:
        return train, counts_for
    seed, rows, mask = (
        [params.seed, tree // params.round],
        int(train.sum()),
        np.zeros(len(train), np.bool_),
    )
    if not largest:
        mask[train] = draw_places(seed, rows, max(1, round(params.subsample * rows)))
        return mask, counts_for
    top = max(1, round(params.goss_top * rows))
    others = rows - top
    count = min(others, max(1, round(params.goss_other * rows)))
    drawn, taken, alone = draw_places(seed, others, count), np.zeros(rows, np.bool_), np.ones(rows)
    keys, start = size()[train], 0
    np.negative(keys, out=keys)
    for places in in_order(keys):
        split = min(max(0, top - start), len(places))
        taken[places[:split]] = True
        rest = places[split:]
        chosen = rest[drawn[start + split - top :][: len(rest)]]
        taken[chosen] = True
        alone[chosen] = others / max(1, count)
        start += len(places)
    counts_for = np.ones(len(train))
    mask[train], counts_for[train] = taken, alone
    return mask, counts_for


def sizes_of(gradient: Floats, hessian: Floats) -> Floats:
    """|gradient hessian| of each row; of those of several classes, shape (classes, rows), the sum."""
    with np.errstate(over="ignore"):
        sizes = np.abs(gradient * hessian)
        return sizes if sizes.ndim == 1 else np.asarray(sizes.sum(axis=0))


def drawn_pairs(g: Rows, h: Rows, active: Mask, count: int) -> Iterator[tuple[Integers, Integers]]:
    """Gradients and hessians of the drawn rows, `count` at a time."""
    left = np.empty((2, 0), np.int64)
    for first in range(0, len(active), BLOCK):
        last = min(first + BLOCK, len(active))
        both = np.stack([ENGINE.gather(of, first, last) for of in (g, h)]).astype(np.int64, copy=False)
        left = np.concatenate([left, both[:, active[first:last]]], axis=1)
        whole = left.shape[1] if last == len(active) else left.shape[1] // count * count
        for start in range(0, whole, count):
            part = left[:, start : min(start + count, whole)]
            yield part[0], part[1]
        left = left[:, whole:]


def draw_columns(binned: Binned, name: str, params: BoostParams, tree: int) -> Binned:
    """The columns of a party drawn for a tree: each party draws a share of its own, at least one."""
    drawn = drawn_columns(len(binned.columns), name, params, tree)
    if drawn is None:
        return binned
    return Binned(tuple(binned.columns[i] for i in drawn), binned.codes[drawn])


def drawn_columns(total: int, name: str, params: BoostParams, tree: int) -> Integers | None:
    """The places of the columns that `draw_columns` draws; None: of all."""
    if params.colsample == 1 or not total:
        return None
    size = max(1, round(params.colsample * total))
    generator = np.random.default_rng([params.seed, tree, zlib.crc32(name.encode())])
    return np.sort(generator.choice(total, size, replace=False))


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
