"""How good predictions are, on rows that trained nothing.

Metrics, curves and tables are of totals: `actual` is what happened to a row in all (0 or 1, a count, an
amount), `expected` what was predicted for it in all (a probability, a rate times the exposure), and
`exposure`, above 0, is the row's weight. A rate is a total by its exposure. A row of weight 2 counts as
two rows, so its weight is a factor of all three: see `totals`.

Arrays have shape (rows,). Rows of equal predictions are never told apart, so that no result depends on
the order of rows. Rates count as equal when they differ by rounding only.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats, Integers
from vfl.blocks.means import stretches
from vfl.learn.factors import named_levels, short_edge
from vfl.learn.glm import Move, Scores
from vfl.learn.losses import LogisticLoss, Loss
from vfl.learn.small_levels import MISSING

MODERATE_PSI, LARGE_PSI = 0.1, 0.25
"""Population stability index: above the first a shift to look into, above the second a large one.

Siddiqi, Credit Risk Scorecards, 2006, on scorecard stability reports.
"""

OTHER = "(other)"
"""The level of categories too many to be told apart."""

_EMPTY = 1e-4  # share of an empty group in the PSI
_LEVELS = 20  # categories told apart by `actual_against_expected`
_POINTS = 500  # of a curve, to be drawn

# Rates that differ by less, relatively, are equal: they are quotients of products, and rounding parts
# those of equal predictions by some 1e-15.
NEAR = 1e-12
# A spread of log predictions below this, relatively, is rounding, and has no slope.
_FLAT = 1e-9


class Totals(NamedTuple):
    """Rows as the curves and tables below take them."""

    actual: Floats
    expected: Floats
    exposure: Floats


def totals(label: Floats, prediction: Floats, weight: Floats, exposure: Floats | None = None) -> Totals:
    """Totals of rows with a label, a prediction of it, a weight and, for counts, an exposure."""
    return Totals(
        weight * label, weight * prediction, weight.copy() if exposure is None else weight * exposure
    )


def binary_metrics(label: Floats, probability: Floats, weight: Floats | None = None) -> dict[str, float]:
    """Metrics of probabilities of a 0/1 label, weighted.

    - auc: area under the ROC curve; gini: 2 AUC - 1;
    - log_loss: mean, of probabilities kept 2^-52 away from 0 and 1, as scikit-learn's;
    - ks: Kolmogorov and Smirnov's greatest distance between the distributions of both classes;
    - brier: mean squared error;
    - calibration_slope: of the label's log-odds on the predicted ones; below 1 where predictions are too
      extreme; calibration_intercept: what to add to the predicted log-odds for the right total
      (Cox, Biometrika 45, 1958; "calibration in the large").

    NaN: all but log_loss and brier when only one class is present; the slope when all predictions are
    equal or tell the classes apart without error.
    """
    weight = np.ones(len(label)) if weight is None else weight
    fpr, tpr = _roc(label, probability, weight)
    auc = area(fpr, tpr)
    tiny = float(np.finfo(np.float64).eps)
    inner = np.clip(probability, tiny, 1 - tiny)
    loss, score = LogisticLoss(), np.log(inner) - np.log1p(-inner)
    both = bool((label == 0).any() and (label == 1).any())
    return {
        "auc": auc,
        "log_loss": -float(np.average(np.log(np.where(label == 1, inner, 1 - inner)), weights=weight)),
        "ks": float(np.abs(tpr - fpr).max()),
        "brier": float(np.average((probability - label) ** 2, weights=weight)),
        "gini": 2 * auc - 1,
        "calibration_slope": _slope(loss, label, weight, score, np.zeros(len(label))),
        "calibration_intercept": loss.start(label, weight, score) if both else math.nan,
    }


OF_TOTALS = ("actual_expected", "calibration_intercept")
"""Metrics that only say whether the total is right."""


def regression_metrics(
    loss: Loss,
    label: Floats,
    score: Floats,
    weight: Floats,
    offset: Floats | None = None,
    exposure: Floats | None = None,
) -> dict[str, float]:
    """Metrics of predictions of counts or amounts, weighted.

    - deviance: mean unit deviance; d2: the share of it explained, 1 - deviance / deviance of the best
      constant added to the offset (scikit-learn's d2_tweedie_score where there is none); mae: mean
      absolute error;
    - gini: see `gini`, by rates; actual_expected: actual total by expected total;
    - calibration_slope: of the label's mean on the prediction (on its logarithm, of rates, under a log
      link), by the loss's own quasi-likelihood; calibration_intercept: the constant to be added to the
      score (as in `binary_metrics`).

    `score` includes `offset` (None is zero), which includes the logarithm of `exposure` (None is one).
    NaN: d2, gini and slope where nothing varies, what has no claim at all to go by, and ratios to zero.
    """
    offset = np.zeros(len(label)) if offset is None else offset
    prediction = loss.predict(score)
    rows = totals(label, prediction, weight, exposure)
    log = loss.link == "log"
    some = not log or bool(label.any())
    deviance = loss.deviance(score, label, weight)
    constant = loss.deviance(loss.start(label, weight, offset) + offset, label, weight) if some else 0.0
    unit = np.log(exposure) if log and exposure is not None else np.zeros(len(label))
    return {
        "deviance": deviance,
        "d2": 1 - deviance / constant if constant > 0 else math.nan,
        "mae": float(np.average(np.abs(label - prediction), weights=weight)),
        "gini": gini(*rows),
        "actual_expected": quotient(float(rows.actual.sum()), float(rows.expected.sum())),
        "calibration_slope": _slope(loss, label, weight, score - unit, unit),
        "calibration_intercept": loss.start(label, weight, score) if some else math.nan,
    }


def quantile_metrics(
    loss: Loss, label: Floats, score: Floats, weight: Floats, offset: Floats | None = None
) -> dict[str, float]:
    """Metrics of predictions of a quantile, weighted.

    - pinball_loss: mean; d2: the share of it that the model saves, against the best constant added to
      the offset (scikit-learn's d2_pinball_score where there is none);
    - coverage: the share of labels that are not above the prediction, which is to be the quantile;
    - gini: of the order of the predictions, see `gini`.
    """
    offset = np.zeros(len(label)) if offset is None else offset
    prediction = loss.predict(score)
    pinball = loss.mean(score, label, weight)
    constant = loss.mean(loss.start(label, weight, offset) + offset, label, weight)
    return {
        "pinball_loss": pinball,
        "d2": 1 - pinball / constant if constant > 0 else math.nan,
        "coverage": float(np.average(label <= prediction, weights=weight)),
        "gini": gini(*totals(label, prediction, weight)),
    }


def _slope(loss: Loss, label: Floats, weight: Floats, score: Floats, offset: Floats) -> float:
    """The slope b of the best g(mean of label) = offset + a + b score; NaN where there is none.

    There is none where b can grow for ever: where scores are all equal, or one score parts the labels
    above 0 from the others (Albert and Anderson, Biometrika 71, 1984; a count has no upper end, so
    labels above 0 at two scores hold b).
    """
    near = _FLAT * max(1.0, float(np.abs(score).max()))
    some, none = score[label > 0], score[label == 0]
    if loss.link != "identity":
        if not len(some) or (loss.link == "logit" and not len(none)):
            return math.nan
        if loss.link == "logit":
            held = some.min() < none.max() - near and none.min() < some.max() - near
        else:
            between = len(none) > 0 and none.min() < some.min() - near and some.max() < none.max() - near
            held = between or np.ptp(some) > near
        if not held:
            return math.nan
    elif np.ptp(score) <= near:
        return math.nan
    mean = float(np.average(score, weights=weight))
    spread = math.sqrt(float(np.average((score - mean) ** 2, weights=weight)))
    # The search of the linear models, from the best constant along the standardised score.
    scores = Scores.start(loss, label, weight, offset, fit_intercept=True)
    return scores.go(Move((score - mean) / spread, 0.0, 0.0), 0.0, fit_intercept=True) / spread


def roc(label: Floats, probability: Floats, weight: Floats | None = None) -> tuple[Floats, Floats]:
    """The ROC curve: false and true positive rates, from (0, 0) to (1, 1), at most 500 points.

    A rate is NaN when its class has no row.
    """
    return _thin(*_roc(label, probability, np.ones(len(label)) if weight is None else weight))


def _roc(label: Floats, probability: Floats, weight: Floats) -> tuple[Floats, Floats]:
    order, ends = runs_of_equals(-probability)
    weights = weight[order]
    hits = weights * label[order]
    return _cumulated(weights - hits, ends), _cumulated(hits, ends)


def lorenz(actual: Floats, expected: Floats, exposure: Floats | None = None) -> tuple[Floats, Floats]:
    """The ordered Lorenz curve: shares of exposure and of what happened, at most 500 points.

    Rows are ordered by expected rate, lowest first; those of one rate are one step of the curve. It
    goes from (0, 0) to (1, 1). The second is NaN when nothing happened.
    (Frees, Meyers, Cummings, JASA 106, 2011; Denuit, Sznajder, Trufin, Insurance: Mathematics and
    Economics 89, 2019.)
    """
    exposure = np.ones(len(actual)) if exposure is None else exposure
    return _thin(*_lorenz(actual, expected / exposure, exposure))


def gini(actual: Floats, expected: Floats, exposure: Floats | None = None) -> float:
    """How well predictions order the rows: 1 as well as can be, 0 as by chance.

    Twice the area between diagonal and ordered Lorenz curve, by that of the order by actual rates. For
    a 0/1 label this is 2 AUC - 1. NaN when actual rates do not vary, or the total is not above 0.
    """
    exposure = np.ones(len(actual)) if exposure is None else exposure
    if not float(actual.sum()) > 0:
        return math.nan
    ours, perfect = (
        1 - 2 * area(*_lorenz(actual, rate, exposure))
        for rate in (expected / exposure, actual / exposure)
    )
    return ours / perfect if perfect > NEAR else math.nan


def _lorenz(actual: Floats, rate: Floats, exposure: Floats) -> tuple[Floats, Floats]:
    order, ends = runs_of_equals(rate, NEAR)
    return _cumulated(exposure[order], ends), _cumulated(actual[order], ends)


@dataclass(frozen=True)
class Lift:
    """A group of rows of neighbouring predictions."""

    rows: int
    exposure: float
    actual: float  # rate
    expected: float  # rate
    lift: float  # the group's actual rate by that of all rows


def lift_table(
    actual: Floats, expected: Floats, exposure: Floats | None = None, bins: int = 10
) -> list[Lift]:
    """Groups of about equal exposure by expected rate, lowest first: for lift, and for calibration.

    Rows of one expected rate stay together: they fall where the middle of their exposure does. So
    there are fewer than `bins` groups when few rates differ. lift is NaN when nothing happened.
    """
    exposure = np.ones(len(actual)) if exposure is None else exposure
    sums = _sums(quantile_groups(expected / exposure, exposure, bins), exposure, actual, expected)
    overall = float(actual.sum() / exposure.sum())
    return [
        Lift(rows, size, a / size, e / size, quotient(a / size, overall)) for rows, (size, a, e) in sums
    ]


@dataclass(frozen=True)
class DoubleLift:
    """A group of rows of which two predictions disagree alike."""

    rows: int
    exposure: float
    actual: float  # rate
    ours: float  # rate
    theirs: float  # rate


def double_lift(
    actual: Floats, ours: Floats, theirs: Floats, exposure: Floats | None = None, bins: int = 10
) -> list[DoubleLift]:
    """Groups of about equal exposure by the ratio of two predictions, ours / theirs, lowest first.

    Whose rates are nearer to the actual ones at both ends is the better one (Goldburd, Khare, Tevet,
    Guideler, Generalized Linear Models for Insurance Rating, 2nd ed., 2020, 7.2.2). Predictions are not
    below 0; the ratio of two zeros is 1. Ties as in `lift_table`.
    """
    exposure = np.ones(len(actual)) if exposure is None else exposure
    ratio = np.where(ours > 0, np.inf, 1.0)
    np.divide(ours, theirs, out=ratio, where=theirs > 0)
    sums = _sums(quantile_groups(ratio, exposure, bins), exposure, actual, ours, theirs)
    return [DoubleLift(rows, size, a / size, o / size, t / size) for rows, (size, a, o, t) in sums]


@dataclass(frozen=True)
class Level:
    """What happened and what was expected where a factor has one level."""

    label: str
    rows: int
    exposure: float
    actual: float  # rate
    expected: float  # rate
    ratio: float  # of both; NaN when nothing was expected


def actual_against_expected(
    values: NDArray[np.generic],
    actual: Floats,
    expected: Floats,
    exposure: Floats | None = None,
    bins: int = 10,
) -> list[Level]:
    """Actual and expected rates by level of one factor, a column of `binning.Features`.

    Numbers, lowest first: each its own level if at most `bins` differ, else groups of about equal
    exposure, named as the bins of a linear model. Categories: the 20 of most exposure, largest first,
    then the others together. Missing values come last. `bins` is at most 254.
    """
    exposure = np.ones(len(actual)) if exposure is None else exposure
    places, labels = places_of_levels(values, exposure, bins)
    sums = _sums(places, exposure, actual, expected)
    shown = [labels[place] for place in np.unique(places).tolist()]
    return [
        Level(label, rows, size, a / size, e / size, quotient(a, e))
        for label, (rows, (size, a, e)) in zip(shown, sums, strict=True)
    ]


def places_of_levels(
    values: NDArray[np.generic], exposure: Floats, bins: int = 10
) -> tuple[Integers, list[str]]:
    """The place of each row's level, and the levels' labels, as `actual_against_expected` has them; not
    every level has a row."""
    if values.dtype == object:
        return _largest_levels(values, exposure)
    return _numeric_levels(values.astype(np.float64), exposure, bins)


def _largest_levels(values: NDArray[np.generic], exposure: Floats) -> tuple[Integers, list[str]]:
    """The place of each value's level, and the levels' labels."""
    places, names = named_levels("", values, None)
    sizes = np.bincount(places, exposure, minlength=len(names)).tolist()
    known = sorted(
        (place for place, name in enumerate(names) if name != MISSING),
        key=lambda place: (-sizes[place], names[place]),
    )[:_LEVELS]
    labels = [*(names[place] for place in known), OTHER, MISSING]
    place_of = np.full(len(names), len(known))
    place_of[known] = np.arange(len(known))
    place_of[[name == MISSING for name in names]] = len(known) + 1
    return place_of[places], labels


def _numeric_levels(values: Floats, exposure: Floats, bins: int) -> tuple[Integers, list[str]]:
    """The place of each number's level, and the levels' labels."""
    known = ~np.isnan(values)
    numbers = values[known]
    distinct, inverse = np.unique(numbers, return_inverse=True)
    if len(distinct) <= bins:
        places = np.full(len(values), len(distinct))
        places[known] = inverse
        return places, [*(repr(x).removesuffix(".0") for x in distinct.tolist()), MISSING]
    group = quantile_groups(numbers, exposure[known], bins)
    lowest, highest = np.full(group.max() + 1, np.inf), np.full(group.max() + 1, -np.inf)
    np.minimum.at(lowest, group, numbers)
    np.maximum.at(highest, group, numbers)
    gaps = zip(highest.tolist(), lowest[1:].tolist(), strict=False)
    edges = tuple(short_edge(low, low + (high - low) / 2, high) for low, high in gaps)
    return named_levels("", values, edges)


def psi(expected: Floats, actual: Floats) -> float:
    """Population stability index of shares by group, then and now: sum of (a - e) log(a / e).

    0 where nothing has changed; see MODERATE_PSI and LARGE_PSI. Shares below 0.0001, empty groups'
    above all, count as 0.0001, the customary floor.
    """
    e, a = np.maximum(expected, _EMPTY), np.maximum(actual, _EMPTY)
    return float(((a - e) * np.log(a / e)).sum())


def runs_of_equals(values: Floats, near: float = 0.0) -> tuple[Integers, Integers]:
    """Rows by value, lowest first, and the ends (exclusive) of runs of equal values.

    Neighbours are equal when they differ by `near` at most, relatively.
    """
    order = np.argsort(values)
    ordered, ends = values[order], list[Integers]()
    for some in stretches(len(values) - 1):  # there are many of them
        low, high = ordered[:-1][some], ordered[1:][some]
        with np.errstate(invalid="ignore"):  # infinite ones equal each other
            apart = high - low > near * np.minimum(np.abs(high), np.abs(low))
        ends.append(some.start + 1 + np.flatnonzero(apart))
    return order, np.concatenate([*ends, [len(values)]])


def _cumulated(parts: Floats, ends: Integers) -> Floats:
    """Shares of the total up to each end, from 0 to 1; NaN when the total is 0."""
    sums = np.concatenate([[0.0], np.cumsum(parts)[ends - 1]])
    return sums / sums[-1] if sums[-1] != 0 else np.full(len(sums), np.nan)


def area(x: Floats, y: Floats) -> float:
    """The area under a curve, by trapezoids."""
    return float((np.diff(x) * (y[1:] + y[:-1])).sum() / 2)


def _thin(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """At most _POINTS points of a curve, evenly along its way, the first and the last among them."""
    if len(x) <= _POINTS:
        return x, y
    steps = np.nan_to_num(np.abs(np.diff(x))) + np.nan_to_num(np.abs(np.diff(y)))
    way = np.concatenate([[0.0], np.cumsum(steps)])
    kept = np.searchsorted(way, np.linspace(0, way[-1], _POINTS))
    kept[-1] = len(x) - 1
    kept = np.unique(kept)
    return x[kept], y[kept]


def quantile_groups(values: Floats, exposure: Floats, groups: int) -> Integers:
    """The group of each row, 0, 1, ..., of about equal exposure, by value.

    Rows of equal values fall into the group in which the middle of their exposure lies.
    """
    order, ends = runs_of_equals(values, NEAR)
    upper = np.cumsum(exposure[order])[ends - 1]
    middle = (upper + np.concatenate([[0.0], upper[:-1]])) / 2
    # A middle on the edge of two groups belongs to the upper one, whichever way its sum was rounded.
    number = np.minimum(middle / upper[-1] * groups + 1e-9, groups - 1).astype(np.int64)
    _, number = np.unique(number, return_inverse=True)
    group = np.empty(len(values), np.int64)
    group[order] = np.repeat(number, np.diff(ends, prepend=0))
    return group


def _sums(group: Integers, *columns: Floats) -> list[tuple[int, list[float]]]:
    """Rows of each group that has any, and the groups' sums of columns."""
    rows = np.bincount(group)
    held = rows > 0
    sums = np.array([np.bincount(group, column)[held] for column in columns])
    return list(zip(rows[held].tolist(), sums.T.tolist(), strict=True))


def quotient(a: float, b: float) -> float:
    """a / b, NaN for a b of 0."""
    return a / b if b != 0 else math.nan
