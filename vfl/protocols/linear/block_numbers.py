"""What is told of a block of columns: of its gradient and its direction, in fixed point and back."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vfl.arrays import Floats
from vfl.learn.glm import BlockReport, Move
from vfl.protocols.linear.masked_numbers import in_fixed_point


@dataclass(frozen=True)
class Unit:
    """What gradients and scores are measured in."""

    gradient: float
    score: float


def report_in_fixed_point(report: BlockReport, curvature: float, deviance: float) -> list[int]:
    """What a host tells of its gradient: all are about as large as the deviance, in any unit of the
    label. Raises ConfigError for what is beyond all bounds."""
    upper = report.products[np.triu_indices(len(report.products))]
    return in_fixed_point([*upper.tolist(), report.square / curvature], deviance, "gradients")


def report_of(numbers: Floats, vectors: int, curvature: float) -> BlockReport:
    """The report that was told in such numbers."""
    products = np.zeros((vectors, vectors))
    products[np.triu_indices(vectors)] = numbers[:-1]
    return BlockReport(_symmetric(products), float(numbers[-1]) * curvature)


def _symmetric(upper: Floats) -> Floats:
    return np.asarray(upper + np.triu(upper, 1).T)


def told_numbers(vectors: int) -> int:
    """How many numbers are told of a gradient."""
    return vectors * (vectors + 1) // 2 + 1


def penalty_in_fixed_point(move: Move, curvature: float, deviance: float) -> list[int]:
    """What a host tells of its direction. Raises ConfigError for what is beyond all bounds."""
    products = [move.linear * curvature, move.square * curvature]
    return in_fixed_point(products, deviance, "directions")


def power_of_two(number: float) -> float:
    """The one that is next to a number; 1 for 0 and what is infinite."""
    return 2.0 ** round(math.log2(number)) if 0 < number < math.inf else 1.0


def total_move(moves: Sequence[Move], rows: int) -> Move:
    """How the scores of so many rows change by all of these, if there are any."""
    scores = np.zeros(rows)
    for move in moves:
        scores += move.scores
    return Move(
        scores,
        sum(move.linear for move in moves),
        sum(move.square for move in moves),
    )
