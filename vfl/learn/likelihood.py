"""The likelihood of families whose variance has a parameter beside the mean, and the parameter of the
greatest one.

Tweedie's density, 1 < p < 2, with variance phi mean^p of a row of weight 1 (Dunn and Smyth, Statistics
and Computing 15, 2005): a label of 0 has the probability exp(-mean^(2-p) / (phi (2-p))), another the
density

    exp((y mean^(1-p) / (1-p) - mean^(2-p) / (2-p)) / phi) / y * sum over j >= 1 of W_j,
    W_j = z^j / (j! Gamma(-a j)),  a = (2-p) / (1-p),  z = y^-a (p-1)^a / (phi^(1-a) (2-p)),

whose terms are summed about the largest, j = y^(2-p) / (phi (2-p)), until they are below 2^-53 of it.
A weight divides phi. The negative binomial's variance is mean + theta mean^2; a weight is a number of
rows.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from vfl.arrays import Floats
from vfl.learn.losses import Loss, NegativeBinomialLoss, TweedieLoss

_DROP = 40.0  # logarithm of what a term may be below the largest
_ALSO = 20  # terms on either side beyond those that a normal curve has
_AT_ONCE = 1 << 21  # terms
_LEAST_THETA, _MOST_THETA = 1e-6, 1e4
_LEAST_POWER, _MOST_POWER = 1.001, 1.999  # as GlmParams has them


@dataclass(frozen=True)
class Likeliest:
    """The parameter of the variance under which labels are likeliest, given their means."""

    loss: Loss
    dispersion: float  # phi of Tweedie, 1 of the negative binomial
    log_likelihood: float


def has_parameter(loss: Loss) -> bool:
    """Whether the family's variance has one."""
    return isinstance(loss, TweedieLoss | NegativeBinomialLoss)


def parameter_of(loss: Loss) -> float:
    """The power of Tweedie's variance, or theta of the negative binomial's. Raises TypeError for a loss
    without one."""
    if isinstance(loss, TweedieLoss):
        return loss.power
    if isinstance(loss, NegativeBinomialLoss):
        return loss.theta
    raise TypeError("a loss whose variance has no parameter")


def with_parameter(loss: Loss, value: float) -> Loss:
    """The same family with another parameter. Raises TypeError for a loss without one."""
    if isinstance(loss, TweedieLoss):
        return TweedieLoss(value)
    if isinstance(loss, NegativeBinomialLoss):
        return NegativeBinomialLoss(value)
    raise TypeError("a loss whose variance has no parameter")


def likeliest(loss: Loss, label: Floats, weight: Floats, score: Floats) -> Likeliest:
    """Of a Tweedie or negative binomial loss the parameter of the greatest likelihood at these scores;
    that of `loss` is where the search begins. Raises TypeError for another loss."""
    from scipy.optimize import minimize, minimize_scalar

    some = weight > 0
    label, weight, mean = label[some], weight[some], loss.predict(score[some])
    if isinstance(loss, NegativeBinomialLoss):
        found = minimize_scalar(
            lambda log: -negative_binomial_likelihood(label, mean, weight, math.exp(log)),
            bounds=(math.log(_LEAST_THETA), math.log(_MOST_THETA)),
            method="bounded",
            options={"xatol": 1e-9, "maxiter": 200},
        )
        return Likeliest(replace(loss, theta=math.exp(float(found.x))), 1.0, -float(found.fun))
    if not isinstance(loss, TweedieLoss):
        raise TypeError("a loss whose variance has no parameter")
    pearson = float((weight * (label - mean) ** 2 / mean**loss.power).sum() / len(label))

    def minus(at: Floats) -> float:
        power, dispersion = _power_at(float(at[0])), math.exp(float(at[1]))
        return -tweedie_likelihood(label, mean, dispersion / weight, power)

    start = np.array([_at_power(loss.power), math.log(pearson or 1.0)])
    best = minimize(
        minus,
        start,
        method="Nelder-Mead",
        options={
            "xatol": 1e-8,
            "fatol": 1e-9 + 1e-13 * abs(minus(start)),
            "maxiter": 500,
            "initial_simplex": start + np.array([[0.0, 0.0], [0.2, 0.0], [0.0, 0.2]]),
        },
    )
    power, dispersion = _power_at(float(best.x[0])), math.exp(float(best.x[1]))
    return Likeliest(TweedieLoss(power), dispersion, -float(best.fun))


def _power_at(place: float) -> float:
    """The power at a place of a line without ends."""
    share = 1 / (1 + math.exp(-max(min(place, 40.0), -40.0)))
    return _LEAST_POWER + (_MOST_POWER - _LEAST_POWER) * share


def _at_power(power: float) -> float:
    """The place of a power; those at the ends of what there may be lie just within."""
    share = (power - _LEAST_POWER) / (_MOST_POWER - _LEAST_POWER)
    share = min(max(share, 1e-3), 1 - 1e-3)
    return math.log(share / (1 - share))


def negative_binomial_likelihood(label: Floats, mean: Floats, weight: Floats, theta: float) -> float:
    """The logarithm of the likelihood, of rows that count `weight` times."""
    from scipy.special import gammaln

    size = 1 / theta
    each = gammaln(label + size) - gammaln(size) - gammaln(label + 1)
    each += label * np.log(theta * mean) - (label + size) * np.log1p(theta * mean)
    return float((weight * each).sum())


def tweedie_likelihood(label: Floats, mean: Floats, dispersion: Floats, power: float) -> float:
    """The logarithm of the likelihood, of a dispersion a row."""
    each = -(mean ** (2 - power)) / (dispersion * (2 - power))
    some = label > 0
    y, phi = label[some], dispersion[some]
    each[some] += y * mean[some] ** (1 - power) / ((1 - power) * phi) - np.log(y)
    return float(each.sum() + _series(y, phi, power).sum())


def _series(label: Floats, dispersion: Floats, power: float) -> Floats:
    """log of the sum of W_j, of labels above 0; shape (rows,)."""
    from scipy.special import gammaln

    a = (2 - power) / (1 - power)
    log_z = -a * np.log(label) + a * math.log(power - 1)
    log_z -= (1 - a) * np.log(dispersion) + math.log(2 - power)
    largest = np.maximum(label ** (2 - power) / (dispersion * (2 - power)), 1.0)
    found = np.empty(len(label))
    order, done = np.argsort(largest), 0
    while done < len(order):  # rows of about as many terms together
        reach = _reach(float(largest[order[done]]), a)
        at = order[done : done + max(1, _AT_ONCE // (4 * reach))]
        while len(at) > 1 and len(at) * _reach(float(largest[at[-1]]), a) > _AT_ONCE // 2:
            at = at[: len(at) // 2]
        reach = _reach(float(largest[at[-1]]), a)
        first = np.maximum(np.floor(largest[at]) - reach, 1.0)
        j = first[:, np.newaxis] + np.arange(2 * reach + 1)
        terms = j * log_z[at, np.newaxis] - gammaln(j + 1) - gammaln(-a * j)
        top = terms.max(axis=1)
        found[at] = top + np.log(np.exp(terms - top[:, np.newaxis]).sum(axis=1))
        done += len(at)
    return found


def _reach(largest: float, a: float) -> int:
    """On how many terms on either side of the largest the others have become small."""
    return math.ceil(math.sqrt(2 * _DROP * largest / (1 - a))) + _ALSO
