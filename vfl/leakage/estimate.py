"""How many equations about a row a job gives away, and what comes of so many: known before it starts;
and the other curves of docs/leakage.md, of what attacks got on tables where the truth is at hand.

An equation is the sum of one number of each row (gradient or hessian) over the rows of a node that a
candidate sends left. A tree tells two about each candidate for its root and for one child of each split:
what it tells of the other child follows. Divided by the aligned rows and added up over trees and jobs,
that is what `max_sums_a_row` bounds.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from vfl.learn.params import BoostParams
from vfl.learn.told_sums import equations_a_tree

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

_MODEL = (
    (0.0, 0.0),
    (0.035, 0.15),
    (0.07, 0.27),
    (0.12, 0.32),
    (0.17, 0.43),
    (0.25, 0.52),
    (0.34, 0.56),
    (0.52, 0.68),
    (0.66, 0.75),
    (0.95, 0.85),
    (1.5, 0.91),
    (3.0, 1.0),
)
"""Directions of a host's splits that the guest is told about a row, for each of the host's candidates,
and the part of what guessing misses that they tell of its table."""

_SCORED = (
    (0.0, 0.0),
    (0.07, 0.2),
    (0.25, 0.55),
    (0.3, 0.63),
    (0.6, 0.77),
    (1.1, 0.89),
    (1.8, 0.94),
    (2.5, 0.97),
    (5.0, 1.0),
)
"""Splits of a host, for each of its candidates, and the part that they tell of rows that were scored."""

_NODES = ((0.0, 0.5), (1.0, 0.84), (2.0, 0.85), (5.0, 0.87), (50.0, 0.88))
_NODES_SOME_KNOWN = ((0.0, 0.5), (1.0, 0.85), (2.0, 0.86), (5.0, 0.88), (50.0, 0.89))
"""Joint trees, and the AUC to which a host tells labels apart by the nodes that rows share, given which
way each of its own columns goes; and with the labels of a twentieth of the rows as well: the most that
benchmarks/leakage.py found in any draw of 1,000 rows or more."""

_GRADIENT = (
    (0.0, 0.0),
    (0.05, 0.0),
    (0.1, 0.03),
    (0.2, 0.15),
    (0.3, 0.33),
    (0.4, 0.55),
    (0.5, 0.84),
    (0.6, 1.0),
)
"""Columns a row of a host of a logistic model, and the part of the labels that guessing misses which its
first gradient tells."""

MAX_SUMS_A_ROW = 0.03
"""The default budget of an alignment: sums tell little beyond the model."""


@dataclass(frozen=True)
class Estimate:
    """What a job of trees comes to, for each host."""

    equations: int  # about each candidate, at most
    equations_a_row: float
    beyond: float  # part of what guessing misses that sums tell, beyond what the model does
    joint: int  # trees of all parties' columns

    def joint_within(self, budget: float) -> int:
        """How many joint trees of this kind a budget of equations a row has room for."""
        a_tree = self.equations_a_row / max(1, self.joint)
        return int(budget / a_tree) if a_tree else self.joint


def estimate(
    rows: int,
    params: BoostParams,
    sums: Sums = "open",
    given: float = 0.0,
    *,
    known: int = 0,
    done: int = 0,
) -> Estimate:
    """What a job gives away of rows about which `given` equations a row were given before.

    `known`: how many different rows of the host's table the aligned ones are, 0 for as many. `done`:
    trees that need not be grown again.
    """
    joint = max(0, params.most_trees - max(done, params.first_joint))
    equations = 0 if sums == "hidden" else joint * equations_a_tree(rows, params)
    a_row = equations / (known or rows)
    return Estimate(equations, a_row, expected(given + a_row), joint)


def expected(equations_a_row: float) -> float:
    """The part of what guessing misses that so many equations a row tell, at most, beyond the model."""
    return _read(_CURVE, equations_a_row)


def told_by_model(directions: float) -> float:
    """The part of what guessing misses of a host's table that the model tells of rows that trained.

    `directions`: how often the guest is told where a row goes at a split of the host, for each of the
    host's candidates.
    """
    return _read(_MODEL, directions)


def told_by_scoring(splits: float) -> float:
    """The same of rows that were scored, by the host's splits for each of its candidates."""
    return _read(_SCORED, splits)


def told_by_nodes(joint: int, some_known: bool = False) -> float:
    """The AUC to which a host tells labels apart by the nodes that rows share in so many trees, given
    which way each of its own columns goes.

    `some_known`: it has the labels of a twentieth of the rows from elsewhere.
    """
    return _read(_NODES_SOME_KNOWN if some_known else _NODES, joint)


def told_by_gradient(columns_a_row: float) -> float:
    """The part of the labels that guessing misses which a host's first gradient tells."""
    return _read(_GRADIENT, columns_a_row)


def _read(curve: tuple[tuple[float, float], ...], at: float) -> float:
    known, worth = np.array(curve).T
    return float(np.interp(at, known, worth))
