"""How good probabilities of several classes are, on rows that trained nothing.

`label` holds the number of each row's class, shape (rows,), `probability` has shape (rows, classes); all
figures are weighted. A class is told from the others by its probability ("one against the rest").
"""

import math
from dataclasses import dataclass

import numpy as np

from vfl.arrays import Floats, Integers
from vfl.learn.metrics import area, roc


def class_metrics(label: Floats, probability: Floats, weight: Floats) -> dict[str, float]:
    """Metrics of a model of several classes.

    - log_loss: mean, of probabilities kept 2^-52 away from 0, as scikit-learn's;
    - accuracy: the share of rows whose class is the likeliest;
    - auc_ovr: the mean of the classes' areas under the ROC curve, each against the rest (scikit-learn's
      roc_auc_score with multi_class="ovr"); NaN where a class has no row, or all.
    """
    own = np.take_along_axis(probability, label.astype(np.int64)[:, np.newaxis], axis=1)[:, 0]
    losses = -np.log(np.maximum(own, np.finfo(np.float64).eps))
    right = probability.argmax(axis=1) == label
    aucs = [one.auc for one in by_class(label, probability, weight)]
    return {
        "log_loss": float(np.average(losses, weights=weight)),
        "accuracy": float(np.average(right, weights=weight)),
        "auc_ovr": math.fsum(aucs) / len(aucs),
    }


def share_loss(label: Floats, weight: Floats, classes: int) -> float:
    """The log loss of the classes' own shares for all rows."""
    sums = np.bincount(label.astype(np.int64), weight, classes)
    shares = sums[sums > 0] / sums.sum()
    return float(-(shares * np.log(shares)).sum())


@dataclass(frozen=True)
class OfClass:
    """A class among rows: how many are of it, the shares that are and were expected to be, the area
    under its ROC curve (NaN where it has no row, or all), the shares of its rows that are predicted so,
    and of rows predicted so that are of it (NaN where there are none)."""

    rows: int
    share: float
    expected: float
    auc: float
    recall: float
    precision: float


def by_class(label: Floats, probability: Floats, weight: Floats) -> list[OfClass]:
    """Each class."""
    likeliest, found = probability.argmax(axis=1), []
    for number in range(probability.shape[1]):
        is_it, said = label == number, likeliest == number
        both = float(weight[is_it & said].sum())
        found.append(
            OfClass(
                int(is_it.sum()),
                float(np.average(is_it, weights=weight)),
                float(np.average(probability[:, number], weights=weight)),
                area(*roc(is_it.astype(np.float64), probability[:, number], weight)),
                _quotient(both, float(weight[is_it].sum())),
                _quotient(both, float(weight[said].sum())),
            )
        )
    return found


def confusion(label: Floats, probability: Floats) -> Integers:
    """How many rows of each class are predicted as each, int64, shape (classes, classes): what is, by
    what is said."""
    classes = probability.shape[1]
    cell = label.astype(np.int64) * classes + probability.argmax(axis=1)
    return np.bincount(cell, minlength=classes**2).reshape(classes, classes)


def _quotient(a: float, b: float) -> float:
    return a / b if b else math.nan
