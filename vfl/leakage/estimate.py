"""How many equations about a row a job gives away, and what comes of so many: known before it starts.

An equation is the sum of one number of each row (gradient or hessian) over the rows of a node that a
candidate sends left. A tree tells two about each candidate for its root and for one child of each split:
what it tells of the other child follows. Divided by the aligned rows and added up over trees and jobs,
that is what `max_sums_a_row` bounds.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vfl.learn.params import BoostParams

Sums = Literal["open", "hidden"]

_CURVE = (
    (0.0, 0.0),
    (0.01, 0.01),
    (0.02, 0.025),
    (0.03, 0.05),
    (0.04, 0.065),
    (0.05, 0.09),
    (0.065, 0.15),
    (0.08, 0.25),
    (0.1, 0.4),
    (0.16, 0.8),
    (0.3, 0.95),
    (0.5, 1.0),
)
"""Equations a row, and the part of what guessing misses that they give the guest beyond the model, of
the columns that the model says least of: the most that benchmarks/leakage.py found at any number of
rows, with one host or three (docs/leakage.md)."""

MAX_SUMS_A_ROW = 0.03
"""The default budget of an alignment: sums tell little beyond the model."""


@dataclass(frozen=True)
class Estimate:
    """What a job of trees comes to, for each host."""

    equations: int  # about each candidate, at most
    equations_a_row: float
    beyond: float  # part of what guessing misses that sums tell, beyond what the model does

    def trees_within(self, budget: float, trees: int) -> int:
        """How many trees of this kind a budget of equations a row has room for."""
        a_tree = self.equations_a_row / trees
        return int(budget / a_tree) if a_tree else trees


def equations_a_tree(rows: int, params: BoostParams) -> int:
    """The most that one tree gives away about a candidate.

    The root and a child of each split are summed. A node that is split has twice `min_child_rows` drawn
    rows, which bounds how many a level has.
    """
    # GOSS draws from all rows in the first trees.
    drawn = math.ceil(rows * params.subsample)
    split = drawn // (2 * params.min_child_rows)
    summed = 1 if split or params.encryption == "lattice" else 0
    for level in range(1, params.depth):
        summed += min(1 << level - 1, split)
    return 2 * summed


def estimate(rows: int, params: BoostParams, sums: Sums = "open", given: float = 0.0) -> Estimate:
    """What a job gives away of rows about which `given` equations a row were given before."""
    joint = params.trees - params.guest_trees
    equations = 0 if sums == "hidden" else joint * equations_a_tree(rows, params)
    a_row = equations / rows
    return Estimate(equations, a_row, expected(given + a_row))


def expected(equations_a_row: float) -> float:
    """The part of what guessing misses that so many equations a row tell, at most, beyond the model."""
    known, worth = np.array(_CURVE).T
    return float(np.interp(equations_a_row, known, worth))
