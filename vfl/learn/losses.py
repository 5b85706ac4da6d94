"""Losses: gradients, hessians, the score to start from, the prediction of a score.

Gradients are quantised to integers before anything is summed, so that sums are exact and federated
training equals pooled training bit for bit.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class LogisticLoss:
    """Log loss of a 0/1 label; scores are log-odds."""

    # |gradient| and hessian of a row of weight 1 at most
    bound = 1.0

    @staticmethod
    def start(label: Floats, weight: Floats) -> float:
        """The constant score of least loss: the log-odds of the weighted mean."""
        mean = float(np.average(label, weights=weight))
        return math.log(mean / (1 - mean))

    @staticmethod
    def predict(score: Floats) -> Floats:
        """Probabilities, without overflow for any score."""
        e = np.exp(-np.abs(score))
        return np.where(score >= 0, 1 / (1 + e), e / (1 + e))

    @classmethod
    def gradients(cls, score: Floats, label: Floats, weight: Floats) -> tuple[Floats, Floats]:
        """First and second derivative of each row's weighted loss by its score."""
        p = cls.predict(score)
        return (p - label) * weight, p * (1 - p) * weight

    @staticmethod
    def mean(score: Floats, label: Floats, weight: Floats) -> float:
        """Weighted mean loss."""
        loss = np.logaddexp(0.0, score) - label * score
        return float(np.average(loss, weights=weight))


@dataclass(frozen=True)
class Quantiser:
    """Real gradients to integers of at most `bits` bits, by a power of two (exact to undo)."""

    bits: int
    scale: float

    @classmethod
    def for_bound(cls, bound: float, bits: int) -> "Quantiser":
        """For values of magnitude at most `bound`."""
        return cls(bits, 2.0 ** (bits - math.ceil(math.log2(bound))))

    def integers(self, values: Floats) -> Integers:
        """Nearest integers of values * scale."""
        return np.rint(values * self.scale).astype(np.int64)
