"""Losses of trees and linear models: start, prediction, gradients, deviance, what a label must be.

A score is on the link scale and includes the row's offset. Gradients are quantised to integers before
anything is summed, so that sums are exact and federated training equals pooled training bit for bit.

Deviances: McCullagh and Nelder, Generalized Linear Models, 1989; Tweedie's as in scikit-learn.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats
from vfl.blocks.means import blocks_of, ordered_sums, weighted_mean
from vfl.learn.constant_search import ConstantSearch
from vfl.learn.quantiles import weighted_quantile

Link = Literal["logit", "log", "identity", "softmax"]
Objective = Literal["binary", "poisson", "gamma", "tweedie", "squared", "quantile", "multiclass"]
Family = Literal["logistic", "poisson", "negative_binomial", "gamma", "tweedie", "gaussian"]

# XGBoost's max_delta_step and LightGBM's poisson_max_delta_step for this objective.
_POISSON_DAMPING = math.exp(0.7)

LARGEST = 1e50
"""Of a label or weight: fourth powers of such numbers, and of their inverses, can still be summed."""


class BadLabel(ValueError):
    """A label that a loss cannot take, in words without a value.

    `rows` is a mask of the rows that are wrong, None when it is all of them together.
    """

    def __init__(self, what: str, advice: str, rows: NDArray[np.bool_] | None = None) -> None:
        self.what, self.advice, self.rows = what, advice, rows
        count = 0 if rows is None else int(rows.sum())
        where = f" in {count:,} row{'s' if count > 1 else ''}" if count else ""
        super().__init__(f"{what}{where}: {advice}")


def out_of_range(weight: Floats) -> NDArray[np.bool_]:
    """Which weights above 0 are too large or too small to be summed."""
    return (weight > LARGEST) | ((weight > 0) & (weight < 1 / LARGEST))


class Loss(ABC):
    """Half the unit deviance of a label, as a function of the score; vectorised over rows.

    No method warns or raises for large scores: what is beyond float64 becomes infinite.
    """

    link: ClassVar[Link]
    measure: ClassVar[str]
    """What `mean` is called."""
    no_exposure: ClassVar[str | None] = None
    """Why a column of exposure has no meaning under this loss; None where it has."""
    no_offset: ClassVar[str | None] = None
    """The same of an offset."""

    @property
    def power(self) -> float | None:
        """Variance is proportional to mean^power (Tweedie); None for a 0/1 label."""
        return None

    def variance(self, mean: Floats) -> Floats:
        """What the variance of a label is proportional to, of a family of powers."""
        return np.asarray(np.abs(mean) ** (self.power or 0.0))

    @property
    def quantile(self) -> float | None:
        """Which quantile of the label is predicted, where it is not the mean. Of trees the leaves are
        renewed to it (vfl/learn/quantiles.py)."""
        return None

    @property
    def classes(self) -> int:
        """How many scores a row has: one of each class, or 1 in all. Several have shape (rows, classes),
        and so have predictions, gradients and hessians."""
        return 1

    @abstractmethod
    def check(self, label: Floats) -> None:
        """Raises BadLabel in one line that says what is wrong with the label and what to do."""

    def check_held_out(self, label: Floats) -> None:
        """The same of rows that train nothing."""
        self.check(label)

    @abstractmethod
    def start(self, label: Floats, weight: Floats, offset: Floats) -> float:
        """The constant that, added to the offset, has the least loss. The label passes `check`."""

    def class_starts(self, label: Floats, weight: Floats) -> tuple[float, ...]:
        """What the score of each class starts with, where there are several, in place of `start`."""
        return ()

    @abstractmethod
    def predict(self, score: Floats) -> Floats:
        """The mean of the label at a score: the inverse of the link."""

    @abstractmethod
    def gradients(self, score: Floats, label: Floats, weight: Floats) -> tuple[Floats, Floats]:
        """First and second derivative of each row's weighted loss by its score."""

    @abstractmethod
    def information(self, score: Floats, weight: Floats) -> Floats:
        """The expected second derivative of each row's weighted loss by its score, over labels whose
        mean is the prediction."""

    def damped_gradients(self, score: Floats, label: Floats, weight: Floats) -> tuple[Floats, Floats]:
        """`gradients` as trees use them, which take steps far from where they were computed."""
        return self.gradients(score, label, weight)

    def mean(self, score: Floats, label: Floats, weight: Floats) -> float:
        """Weighted mean loss: half the mean unit deviance. For a 0/1 label this is the log loss."""
        return self.mean_of(blocks_of(score, label, weight), len(score))

    def mean_of(self, blocks: Iterable[tuple[Floats, ...]], count: int) -> float:
        """`mean` of so many rows, whose scores, labels and weights come piece by piece."""
        found = ((self.half_deviance(score, label), weight) for score, label, weight in blocks)
        return weighted_mean(found, count)

    def half_deviance(self, score: Floats, label: Floats) -> Floats:
        """Half the unit deviance of each row."""
        with np.errstate(over="ignore", invalid="ignore"):
            return self._half_deviance(score, label)

    def losses(self, score: Floats, label: Floats, weight: Floats) -> Floats:
        """Each row's weighted loss."""
        with np.errstate(over="ignore", invalid="ignore"):
            return self._half_deviance(score, label) * weight

    def deviance(self, score: Floats, label: Floats, weight: Floats) -> float:
        """Weighted mean unit deviance, as scikit-learn's mean_tweedie_deviance at `power`."""
        return 2 * self.mean(score, label, weight)

    @abstractmethod
    def _half_deviance(self, score: Floats, label: Floats) -> Floats:
        """The loss of each row, 0 where the prediction is the label."""


@dataclass(frozen=True)
class LogisticLoss(Loss):
    """Log loss of a 0/1 label; scores are log-odds."""

    link = "logit"
    measure = "log loss"
    no_exposure = "is for counts (poisson): a 0/1 label has no rate per unit of time; remove the line"

    def check(self, label: Floats) -> None:
        other = (label != 0) & (label != 1)
        _refuse(other, "must be 0 or 1 but is something else", "correct it or choose another loss")
        if not len(label) or label.min() == label.max():
            raise BadLabel("has only one class", "a model needs rows of both")

    def start(self, label: Floats, weight: Floats, offset: Floats) -> float:
        # Each class by its own sum: a share of the whole may round to 1.
        ones, zeros = (_sum_where(label, weight, value) for value in (1, 0))
        odds = math.log(ones) - math.log(zeros)
        # Between what would be right if all offsets were the greatest, and if the least.
        low, high = odds - float(offset.max()), odds - float(offset.min())
        mean = weighted_mean(_pairs(offset, weight), len(label))
        search = ConstantSearch(odds - mean, low, high)
        while not search.ended:
            at = search.at
            gradients = (
                self.gradients(base + at, known, of)
                for base, known, of in blocks_of(offset, label, weight)
            )
            search.step(*ordered_sums(gradients, len(label)))
        return search.at

    def predict(self, score: Floats) -> Floats:
        e = np.exp(-np.abs(score))
        return np.where(score >= 0, 1 / (1 + e), e / (1 + e))

    def gradients(self, score: Floats, label: Floats, weight: Floats) -> tuple[Floats, Floats]:
        p = self.predict(score)
        return (p - label) * weight, p * (1 - p) * weight

    def information(self, score: Floats, weight: Floats) -> Floats:
        return self.gradients(score, score, weight)[1]  # whatever the label

    def _half_deviance(self, score: Floats, label: Floats) -> Floats:
        return np.asarray(np.logaddexp(0.0, score) - label * score)


class _LogLinkLoss(Loss):
    """Half the Tweedie deviance of a power p from 1 to 2; scores are logarithms of the mean."""

    link = "log"
    measure = "half deviance"

    @property
    @abstractmethod
    def power(self) -> float: ...

    def start(self, label: Floats, weight: Floats, offset: Floats) -> float:
        p = self.power

        def paid() -> Iterator[tuple[Floats, Floats]]:
            return ((of * known, (1 - p) * base) for of, known, base in blocks_of(weight, label, offset))

        def due() -> Iterator[tuple[Floats, Floats]]:
            return ((of, (2 - p) * base) for of, base in blocks_of(weight, offset))

        return _log_sum(paid) - _log_sum(due)

    def predict(self, score: Floats) -> Floats:
        with np.errstate(over="ignore"):
            return np.asarray(np.exp(score))

    def gradients(self, score: Floats, label: Floats, weight: Floats) -> tuple[Floats, Floats]:
        p = self.power
        with np.errstate(over="ignore", invalid="ignore"):
            # Where the label is zero the term is, at whatever score.
            low = np.where(label > 0, weight * label * np.exp((1 - p) * score), 0.0)
            high = weight * np.exp((2 - p) * score)
            return high - low, (2 - p) * high - (1 - p) * low

    def information(self, score: Floats, weight: Floats) -> Floats:
        with np.errstate(over="ignore"):
            return np.asarray(weight * np.exp((2 - self.power) * score))


@dataclass(frozen=True)
class PoissonLoss(_LogLinkLoss):
    """Poisson deviance of counts: claim frequency. log(exposure) belongs to the offset."""

    no_exposure = None

    @property
    def power(self) -> float:
        return 1.0

    def check(self, label: Floats) -> None:
        _refuse_negative(label)

    def damped_gradients(self, score: Floats, label: Floats, weight: Floats) -> tuple[Floats, Floats]:
        """Gradients and hessians, these e^0.7 as large, as in LightGBM and XGBoost.

        A leaf's Newton step from a small mean overshoots, since the loss grows as an exponential.
        """
        gradient, hessian = self.gradients(score, label, weight)
        return gradient, hessian * _POISSON_DAMPING

    def _half_deviance(self, score: Floats, label: Floats) -> Floats:
        return np.asarray(label * (_log(label) - score) - label + np.exp(score))


@dataclass(frozen=True)
class NegativeBinomialLoss(_LogLinkLoss):
    """Negative binomial deviance of counts: claim frequency that varies more than Poisson's, with the
    variance mean + theta mean^2. log(exposure) belongs to the offset."""

    theta: float = 1.0
    no_exposure = None

    def __post_init__(self) -> None:
        """Raises ValueError for a theta of which there is no distribution."""
        if not 0 < self.theta < math.inf:
            raise ValueError("theta of the negative binomial loss must be above 0")

    @property
    def power(self) -> float:
        """Of small means, whose variance is Poisson's; the dispersion is 1 as well."""
        return 1.0

    def variance(self, mean: Floats) -> Floats:
        return mean + self.theta * mean**2

    def check(self, label: Floats) -> None:
        _refuse_negative(label)

    def start(self, label: Floats, weight: Floats, offset: Floats) -> float:
        def sums(at: float) -> tuple[float, float]:
            found = (
                self.gradients(base + at, known, of)
                for base, known, of in blocks_of(offset, label, weight)
            )
            slope, curvature = ordered_sums(found, len(label))
            return slope, curvature

        at = PoissonLoss().start(label, weight, offset)
        low = high = at
        step = 1.0
        while sums(low)[0] > 0:
            low, step = low - step, 2 * step
        step = 1.0
        while sums(high)[0] < 0:
            high, step = high + step, 2 * step
        search = ConstantSearch(at, low, high)
        while not search.ended:
            search.step(*sums(search.at))
        return search.at

    def gradients(self, score: Floats, label: Floats, weight: Floats) -> tuple[Floats, Floats]:
        share, rest = self._shares(score)
        first = share / self.theta - label * rest
        return first * weight, share * rest * (1 / self.theta + label) * weight

    def information(self, score: Floats, weight: Floats) -> Floats:
        return np.asarray(self._shares(score)[0] / self.theta * weight)

    def _shares(self, score: Floats) -> tuple[Floats, Floats]:
        """theta mean / (1 + theta mean), and what is left of 1."""
        at = score + math.log(self.theta)
        e = np.exp(-np.abs(at))
        more, less = 1 / (1 + e), e / (1 + e)
        return np.where(at >= 0, more, less), np.where(at >= 0, less, more)

    def _half_deviance(self, score: Floats, label: Floats) -> Floats:
        whole = np.log1p(self.theta * label) - np.logaddexp(0.0, score + math.log(self.theta))
        return np.asarray(label * (_log(label) - score) - (label + 1 / self.theta) * whole)


@dataclass(frozen=True)
class GammaLoss(_LogLinkLoss):
    """Gamma deviance of amounts above zero: claim severity."""

    no_exposure = "is for counts (poisson): an amount a claim does not grow with time; remove the line"

    @property
    def power(self) -> float:
        return 2.0

    def check(self, label: Floats) -> None:
        _refuse_infinite(label)
        _refuse(
            label <= 0,
            "must be above 0 but is not",
            "leave out the rows without an amount, or use tweedie",
        )

    def _half_deviance(self, score: Floats, label: Floats) -> Floats:
        return np.asarray(score - _log(label) + label * np.exp(-score) - 1)


@dataclass(frozen=True)
class TweedieLoss(_LogLinkLoss):
    """Tweedie deviance, 1 < power < 2, of amounts of which many are zero: pure premium."""

    power: float = 1.5
    no_exposure = (
        "is for counts (poisson): divide the amount by the exposure and name the exposure as "
        "weight, under which its variance is right"
    )

    def __post_init__(self) -> None:
        """Raises ValueError for another power, for which there are other losses."""
        if not 1 < self.power < 2:
            raise ValueError("the power of Tweedie's loss must be above 1 and below 2")

    def check(self, label: Floats) -> None:
        _refuse_negative(label)

    def _half_deviance(self, score: Floats, label: Floats) -> Floats:
        p = self.power
        least = label ** (2 - p) / ((1 - p) * (2 - p))
        paid = np.where(label > 0, label * np.exp((1 - p) * score), 0.0)
        return np.asarray(least - paid / (1 - p) + np.exp((2 - p) * score) / (2 - p))


@dataclass(frozen=True)
class SquaredLoss(Loss):
    """Half the squared error; scores are predictions."""

    link = "identity"
    measure = "half squared error"
    no_exposure = (
        "is for counts (poisson): with squared errors divide the label by the exposure and name the "
        "exposure as weight"
    )

    @property
    def power(self) -> float:
        return 0.0

    def check(self, label: Floats) -> None:
        _refuse_infinite(label)

    def start(self, label: Floats, weight: Floats, offset: Floats) -> float:
        residuals = ((known - base, of) for known, base, of in blocks_of(label, offset, weight))
        return weighted_mean(residuals, len(label))

    def predict(self, score: Floats) -> Floats:
        return score

    def gradients(self, score: Floats, label: Floats, weight: Floats) -> tuple[Floats, Floats]:
        with np.errstate(over="ignore"):
            return (score - label) * weight, weight.copy()

    def information(self, score: Floats, weight: Floats) -> Floats:
        return weight.copy()

    def _half_deviance(self, score: Floats, label: Floats) -> Floats:
        return np.asarray((score - label) ** 2 / 2)


@dataclass(frozen=True)
class QuantileLoss(Loss):
    """Pinball loss: a share `quantile` of labels is to lie below the prediction; scores are predictions.

    It has no second derivative: that of trees is 1, as in LightGBM.
    """

    quantile: float = 0.5
    link = "identity"
    measure = "pinball loss"
    no_exposure = (
        "is for counts (poisson): a quantile of an amount does not grow with time as a mean does; "
        "remove the line"
    )

    def __post_init__(self) -> None:
        """Raises ValueError for what is no share."""
        if not 0 < self.quantile < 1:
            raise ValueError("a quantile must be above 0 and below 1")

    @property
    def power(self) -> float:
        return 0.0

    def check(self, label: Floats) -> None:
        _refuse_infinite(label)

    def start(self, label: Floats, weight: Floats, offset: Floats) -> float:
        return weighted_quantile(label - offset, weight, self.quantile)

    def predict(self, score: Floats) -> Floats:
        return score

    def gradients(self, score: Floats, label: Floats, weight: Floats) -> tuple[Floats, Floats]:
        with np.errstate(over="ignore"):
            above = score - label >= 0
        return np.where(above, 1.0 - self.quantile, -self.quantile) * weight, weight.copy()

    def information(self, score: Floats, weight: Floats) -> Floats:
        return weight.copy()

    def _half_deviance(self, score: Floats, label: Floats) -> Floats:
        short = label - score
        return np.maximum(self.quantile * short, (self.quantile - 1.0) * short)


@dataclass(frozen=True)
class MulticlassLoss(Loss):
    """Log loss of a label of several classes, by number from 0; probabilities are a softmax of scores.

    As in LightGBM scores start as logarithms of the classes' shares, and trees take hessians
    K / (K - 1) times as large, of K classes (Friedman, Annals of Statistics 29, 2001, algorithm 6).
    """

    classes: int = 3
    link = "softmax"
    measure = "multiclass log loss"
    no_exposure = "is for counts (poisson): a class has no rate per unit of time; remove the line"
    no_offset = "is for one score a row: added to those of all classes it changes none; remove the line"

    def check(self, label: Floats) -> None:
        self.check_held_out(label)
        if missing := self.classes - len(np.unique(label)):
            lost = f"has no row of {missing} of its {self.classes} classes"
            raise BadLabel(
                lost, "a model needs rows of each: hold out fewer, or give small ones a common name"
            )

    def check_held_out(self, label: Floats) -> None:
        other = (label != np.rint(label)) | (label < 0) | (label >= self.classes)
        _refuse(other, f"must be one of {self.classes} classes but is not", "correct it")

    def start(self, label: Floats, weight: Floats, offset: Floats) -> float:
        return 0.0  # the same for all classes would change nothing

    def class_starts(self, label: Floats, weight: Floats) -> tuple[float, ...]:
        sums = [_sum_where(label, weight, float(number)) for number in range(self.classes)]
        return tuple(math.log(own) - math.log(math.fsum(sums)) for own in sums)

    def predict(self, score: Floats) -> Floats:
        e = np.exp(score - score.max(axis=1, keepdims=True))
        return np.asarray(e / e.sum(axis=1, keepdims=True))

    def gradients(self, score: Floats, label: Floats, weight: Floats) -> tuple[Floats, Floats]:
        p, of = self.predict(score), weight[:, np.newaxis]
        return (p - (label[:, np.newaxis] == np.arange(self.classes))) * of, p * (1 - p) * of

    def damped_gradients(self, score: Floats, label: Floats, weight: Floats) -> tuple[Floats, Floats]:
        gradient, hessian = self.gradients(score, label, weight)
        return gradient, hessian * (self.classes / (self.classes - 1))

    def information(self, score: Floats, weight: Floats) -> Floats:
        return self.gradients(score, np.zeros(len(score)), weight)[1]  # whatever the label

    def _half_deviance(self, score: Floats, label: Floats) -> Floats:
        most = score.max(axis=1)
        own = score[np.arange(len(score)), label.astype(np.int64)]
        return np.asarray(np.log(np.exp(score - most[:, np.newaxis]).sum(axis=1)) + most - own)


OBJECTIVES: dict[str, type[Loss]] = {
    "binary": LogisticLoss,
    "poisson": PoissonLoss,
    "gamma": GammaLoss,
    "tweedie": TweedieLoss,
    "squared": SquaredLoss,
    "quantile": QuantileLoss,
    "multiclass": MulticlassLoss,
}
FAMILIES: dict[str, type[Loss]] = {
    "logistic": LogisticLoss,
    "poisson": PoissonLoss,
    "negative_binomial": NegativeBinomialLoss,
    "gamma": GammaLoss,
    "tweedie": TweedieLoss,
    "gaussian": SquaredLoss,
}


def loss_of(
    name: Objective | Family,
    tweedie_power: float = 1.5,
    theta: float = 1.0,
    quantile: float | None = None,
    classes: int | None = None,
) -> Loss:
    """The loss of an objective of trees or a family of linear models. `theta`: of the negative binomial
    family; `quantile`: of the objective of that name, the median if it is not said; `classes`: of
    multiclass, how many."""
    kind = OBJECTIVES[name] if name in OBJECTIVES else FAMILIES[name]
    if kind is NegativeBinomialLoss:
        return NegativeBinomialLoss(theta)
    if kind is MulticlassLoss:
        return MulticlassLoss() if classes is None else MulticlassLoss(classes)
    if kind is QuantileLoss:
        return QuantileLoss() if quantile is None else QuantileLoss(quantile)
    return TweedieLoss(tweedie_power) if kind is TweedieLoss else kind()


def _log(label: Floats) -> Floats:
    """log(label), 0 where the label is 0 (where it is multiplied by it)."""
    return np.asarray(np.log(np.where(label > 0, label, 1.0)))


Blocks = Callable[[], Iterator[tuple[Floats, Floats]]]


def _log_sum(blocks: Blocks) -> float:
    """log of the sum of weight * exp(exponent), without overflow; some weight is above 0."""
    counted = [(int((of > 0).sum()), exponent[of > 0].max(initial=-np.inf)) for of, exponent in blocks()]
    top = float(max(largest for _, largest in counted))
    terms = ((of[of > 0] * np.exp(exponent[of > 0] - top),) for of, exponent in blocks())
    (total,) = ordered_sums(terms, sum(count for count, _ in counted))
    return math.log(total) + top


def _pairs(values: Floats, weight: Floats) -> Iterator[tuple[Floats, Floats]]:
    return ((part, of) for part, of in blocks_of(values, weight))


def _sum_where(label: Floats, weight: Floats, value: float) -> float:
    """The weight of the rows with this label."""
    chosen = ((of[known == value],) for known, of in blocks_of(label, weight))
    (total,) = ordered_sums(chosen, int((label == value).sum()))
    return total


def _refuse(bad: NDArray[np.bool_], what: str, advice: str) -> None:
    if bad.any():
        raise BadLabel(what, advice, bad)


def _refuse_infinite(label: Floats) -> None:
    _refuse(~np.isfinite(label), "must be a finite number but is not", "correct it")
    size = np.abs(label)
    unit = "give it in another unit"
    _refuse(size > LARGEST, f"must not be beyond {LARGEST:g} but is", unit)
    if 0 < size.max(initial=0.0) < 1 / LARGEST:
        raise BadLabel(f"is below {1 / LARGEST:g} in every row", unit)


def _refuse_negative(label: Floats) -> None:
    _refuse_infinite(label)
    _refuse(label < 0, "must not be negative but is", "correct it")
    if not label.any():
        raise BadLabel("is 0 in every row", "a model needs rows above 0")
