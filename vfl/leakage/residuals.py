"""A host works labels out of a linear model's residuals.

At the start every row of a 0/1 label has one of two residuals: who learns a residual learns the label.

- A host that follows the protocol is told X'r, as many equations about r as it has columns (Tan et al.,
  "Residue-based label protection mechanisms", 2022). `from_gradient` solves the first for labels.
- One that has numbers of its choice opened under a key gets the residuals of many rows in each,
  spaced so widely that the first tell both values apart, then a bit a row. `labels_an_opening` says
  how many of a whole plaintext, which a coordinator opens, and `read` reads them. A guest gives back
  no more bits than products have. readable_labels.py says how many labels that is in a fit.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vfl.arrays import Floats
from vfl.leakage.chains import Chain
from vfl.leakage.linking import Equations
from vfl.leakage.polytope import solve
from vfl.leakage.shown import Mask
from vfl.leakage.success import Success

_ROUNDS = 400


def from_gradient(columns: Floats, gradient: Floats, rate: float) -> Floats:
    """The estimated chance that each row's label is 1, from X'(rate - label).

    `columns`: shape (columns, rows), as the host sums them; `gradient` has a number for each of them.
    `rate` is the share of ones, which the host is taken to know.
    """
    rows = columns.shape[1]
    scale = np.maximum(np.linalg.norm(columns, axis=1), 1e-300)
    sums = rate * columns.sum(axis=1) - gradient
    chain = Chain([0])
    chain.reset(rows)
    known = np.ones((1, len(columns)), np.bool_)
    equations = Equations(columns / scale[:, None], (sums / scale)[None, :], known)
    return np.asarray(solve(chain, equations, np.array([rate]), _ROUNDS)[0])


def success(columns: Floats, label: Mask, who: str = "host", about: str = "guest") -> Success:
    """Labels right, from the first gradient of a logistic model without offset."""
    rate = float(label.mean())
    found = from_gradient(columns, columns @ (rate - label), rate) > 0.5
    right, guessing = float((found == label).mean()), max(rate, 1 - rate)
    return Success("residues of a gradient", who, about, right, guessing, "labels")


@dataclass(frozen=True)
class Spacing:
    """The power of two that each row's residual is multiplied by."""

    wide: tuple[int, ...]  # far enough apart to be read whole
    tight: tuple[int, ...]  # a bit a row

    @classmethod
    def of(cls, plaintext_bits: int, value_bits: int, wide: int = 8) -> "Spacing":
        """As many rows as a plaintext holds, of residuals of so many bits, sign included."""
        step = value_bits + 2
        first = step * wide + value_bits
        room = max(0, plaintext_bits - 2 - first - value_bits)
        return cls(tuple(step * i for i in range(wide)), tuple(first + i for i in range(room)))

    @property
    def rows(self) -> int:
        return len(self.wide) + len(self.tight)


def labels_an_opening(plaintext_bits: int, value_bits: int) -> int:
    """How many labels one opened number tells a host that cheats."""
    return Spacing.of(plaintext_bits, value_bits).rows


def read(opened: int, spacing: Spacing) -> list[bool] | None:
    """Which of the rows have the lower of the two residuals, by the sum of residuals so spaced.

    None where the first rows all have the same.
    """
    values: list[int] = []
    rest = opened
    edges = [*spacing.wide, *spacing.tight[:1]] or [0]
    for start, stop in itertools.pairwise(edges):
        width = stop - start
        value = rest & ((1 << width) - 1)
        value -= (value >> (width - 1)) << width
        values.append(value)
        rest = (rest - value) >> width
    distinct = sorted(set(values))
    if len(distinct) != 2:
        return None
    low, high = distinct
    count = len(spacing.tight)
    bits, odd = divmod(rest - high * ((1 << count) - 1), low - high)
    if odd:
        return None
    return [value == low for value in values] + [bool(bits >> i & 1) for i in range(count)]


def opened(residuals: Sequence[int], spacing: Spacing) -> int:
    """The number that a cheating host has opened: what `read` reads."""
    places = [*spacing.wide, *spacing.tight]
    return sum(int(r) << place for r, place in zip(residuals, places, strict=True))
