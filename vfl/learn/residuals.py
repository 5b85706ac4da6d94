"""Randomised quantile residuals: standard normal where a model's distribution is right, whatever the
family (Dunn and Smyth, Journal of Computational and Graphical Statistics 5, 1996).

A label has a place in the distribution that the model gives it; where the distribution jumps, the place
is drawn within the jump, by a fixed seed. Of gamma, tweedie and squared errors the dispersion is
Pearson's, on the same rows; a weight divides it. Of counts and 0/1 labels it is one, and a weight does
not matter.
"""

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats
from vfl.learn.losses import (
    GammaLoss,
    LogisticLoss,
    Loss,
    NegativeBinomialLoss,
    PoissonLoss,
    SquaredLoss,
    TweedieLoss,
)

SEED = 2
_MOST = 38.0  # no residual is further from 0: of such a place a float knows no more
_MOST_CLAIMS = 400  # of a row under tweedie; beyond, it is normal
_PIECE = 50_000


def dispersion(loss: Loss, label: Floats, prediction: Floats, weight: Floats) -> float:
    """Pearson's: the mean of squared errors by the variance that the family gives them."""
    if isinstance(loss, LogisticLoss):
        variance = prediction * (1 - prediction)
    else:
        variance = loss.variance(prediction)
    there = variance > 0
    squares = weight[there] * (label[there] - prediction[there]) ** 2 / variance[there]
    return float(squares.mean()) if there.any() else float("nan")


def quantile_residuals(loss: Loss, label: Floats, prediction: Floats, weight: Floats) -> Floats:
    """The residual of each row."""
    from scipy import special

    rng = np.random.default_rng(SEED)
    draw = rng.random(len(label))
    if isinstance(loss, LogisticLoss):
        low = np.where(label > 0, 1 - prediction, 0.0)
        high = np.where(label > 0, 1.0, 1 - prediction)
    elif isinstance(loss, PoissonLoss):
        whole = np.floor(label)
        high = special.pdtr(whole, prediction)
        low = np.where(whole > 0, special.pdtr(np.maximum(whole - 1, 0), prediction), 0.0)
    elif isinstance(loss, NegativeBinomialLoss):
        whole, size = np.floor(label), 1 / loss.theta
        share = 1 / (1 + loss.theta * prediction)
        high = special.betainc(size, whole + 1, share)
        low = np.where(whole > 0, special.betainc(size, np.maximum(whole, 1), share), 0.0)
    else:
        scale = dispersion(loss, label, prediction, weight) / weight
        if isinstance(loss, SquaredLoss):
            return _within((label - prediction) / np.sqrt(scale))
        if isinstance(loss, GammaLoss):
            return _within(_normal_of_gamma(label / prediction / scale, 1 / scale))
        if not isinstance(loss, TweedieLoss):
            raise TypeError("a loss without a distribution")
        low, high = _tweedie(label, prediction, scale, loss.power)
    return _within(special.ndtri(low + draw * (high - low)))


def _within(residual: NDArray[np.float64]) -> Floats:
    return np.clip(np.nan_to_num(residual, nan=0.0, posinf=_MOST, neginf=-_MOST), -_MOST, _MOST)


def _normal_of_gamma(value: Floats, shape: Floats) -> Floats:
    """The normal quantile of a gamma variable's place, by the nearer end."""
    from scipy import special

    below, above = special.gammainc(shape, value), special.gammaincc(shape, value)
    return np.asarray(np.where(below < 0.5, special.ndtri(below), -special.ndtri(above)))


def _tweedie(label: Floats, mean: Floats, scale: Floats, power: float) -> tuple[Floats, Floats]:
    """The ends of each label's place in a sum of a Poisson number of gamma variables."""
    from scipy import special

    claims = mean ** (2 - power) / (scale * (2 - power))
    shape = (2 - power) / (power - 1)
    size = scale * (power - 1) * mean ** (power - 1)
    none = np.exp(-claims)
    low, high = np.zeros(len(label)), none.copy()
    some = np.flatnonzero(label > 0)
    for start in range(0, len(some), _PIECE):
        at = some[start : start + _PIECE]
        most = float(claims[at].max())
        place = none[at].copy()
        last = min(_MOST_CLAIMS, int(most + 12 * np.sqrt(most) + 12))
        for number in range(1, last + 1):
            chance = np.exp(number * np.log(claims[at]) - claims[at] - special.gammaln(number + 1))
            place += chance * special.gammainc(number * shape, label[at] / size[at])
        far = claims[at] > _MOST_CLAIMS / 2
        spread = np.sqrt(scale[at] * mean[at] ** power)
        place = np.where(far, special.ndtr((label[at] - mean[at]) / spread), place)
        low[at] = high[at] = np.minimum(place, 1.0)
    return low, high
