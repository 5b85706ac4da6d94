"""What a model tells the guest of a host's columns without any sums: who goes left at splits won.

The measure that hidden sums are held to. It is from above: the guest is given which column and threshold
each split is, as names shown and rows shared let it work out in large part.
"""

from collections.abc import Sequence

import numpy as np

from vfl.arrays import Integers
from vfl.leakage.shown import Mask, Shown, Truth
from vfl.leakage.success import Success


def sides_from_splits(shown: Shown, truth: Truth, scored: bool = False) -> Mask:
    """The likeliest side of each (candidate, row), given the splits and how frequent values are.

    `scored`: the guest has had these rows scored, and so knows all rows' sides at each split of the
    model.
    """
    count, rows = truth.sides.shape
    guessed = np.zeros((count, rows), np.bool_)
    facts: list[tuple[int, Mask]] = []
    for number, tree in enumerate(shown.trees):
        for split in tree.splits:
            candidate = int(truth.order[number, split.node][split.place])
            facts.append((candidate, np.ones(rows, np.bool_) if scored else split.rows))
    for column in np.unique(truth.column):
        members = np.flatnonzero(truth.column == column)
        # The values that can be told apart, each a pattern of sides.
        cells, often = np.unique(truth.sides[members], axis=1, return_counts=True)
        possible = np.ones((cells.shape[1], rows), np.bool_)
        for candidate, known in facts:
            if truth.column[candidate] == column:
                pattern = cells[int(np.flatnonzero(members == candidate)[0])]
                same = pattern[:, None] == truth.sides[candidate][None, :]
                possible &= same | ~known[None, :]
        weight = possible * often[:, None]
        left = cells.astype(np.float64) @ weight
        guessed[members] = left > weight.sum(axis=0) / 2
    return guessed


def model_alone(
    shown: Shown,
    truth: Truth,
    candidates: Sequence[int] | Integers | None = None,
    scored: bool = False,
    about: str = "host",
) -> Success:
    """As `success` of reconstruction.py, of these candidates (all), from the splits alone."""
    at = np.arange(len(truth.sides)) if candidates is None else np.asarray(candidates)
    right = (sides_from_splits(shown, truth, scored) == truth.sides)[at]
    attack = "model alone, rows scored" if scored else "model alone"
    guessing = float(truth.majority[at].mean())
    return Success(
        attack, "guest", about, float(right.mean()), guessing, "sides of (candidate, row) known"
    )
