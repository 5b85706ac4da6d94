"""How sure the measures and curves of held-out rows are, by draws of policies.

Sums of rows are drawn as they are. D² is 1 less a quotient of deviances, of which that of the best
constant is at the constant of all rows: what a draw's own constant would change is of second order, as
with slope and intercept, which take one step of Newton's from those of all rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats, Integers
from vfl.learn.bootstrap import LEAST, Estimate, Resamples, estimate, one_group, quotients
from vfl.learn.losses import LogisticLoss, Loss
from vfl.learn.metrics import NEAR, Totals, area, runs_of_equals, totals

GRID = np.linspace(0, 1, 51)
"""Where curves have their intervals, across."""

_ALIKE = 1e-6  # how near a measure has to be to the one that training noted, relatively


@dataclass(frozen=True)
class Predicted:
    """The rows held out and what one model predicts of them; arrays of shape (rows,)."""

    label: Floats
    prediction: Floats
    weight: Floats
    exposure: Floats | None

    @property
    def totals(self) -> Totals:
        return totals(self.label, self.prediction, self.weight, self.exposure)


@dataclass
class Drawn:
    """Draws of one model's measures by name, and of its curves, shape (draws, len(GRID))."""

    measures: dict[str, Floats] = field(default_factory=dict)
    roc: NDArray[np.float64] | None = None
    lorenz: NDArray[np.float64] | None = None

    def of(self, name: str, value: float) -> Estimate:
        """A measure with its interval."""
        draws = self.measures.get(name)
        return Estimate(value) if draws is None else estimate(value, draws)

    def less(self, other: "Drawn", name: str, value: float) -> Estimate:
        """The difference of two models in a measure, on the same draws."""
        ours, theirs = self.measures.get(name), other.measures.get(name)
        if ours is None or theirs is None:
            return Estimate(value)
        return estimate(value, ours - theirs)


def enough(label: Floats, loss: Loss, resamples: Resamples) -> bool:
    """Whether enough happened, and of a 0/1 label enough did not, for any interval."""
    every = np.zeros(len(label), np.int64)
    sides = [label != 0, label == 0] if isinstance(loss, LogisticLoss) else [label != 0]
    return all(int(resamples.counts(every, 1, side)[0]) >= LEAST for side in sides)


def draw_measures(
    loss: Loss, rows: Predicted, noted: Mapping[str, float], resamples: Resamples
) -> Drawn:
    """Draws of the measures that training noted of a model, and of its curves.

    A measure that these rows do not come to (for want of an offset that is not kept) has none.
    """
    drawn = Drawn()
    sums = _Sums(loss, rows, noted)
    made = [one[:, 0] for one in resamples.sums([one_group(values) for values in sums.columns.values()])]
    found = sums.measures(dict(zip(sums.columns, made, strict=True)))
    point = {name: np.array([values.sum()]) for name, values in sums.columns.items()}
    here = {name: float(value[0]) for name, value in sums.measures(point).items()}
    ranked = Ranked(rows, isinstance(loss, LogisticLoss))
    values = resamples.each(ranked.measure)
    here |= dict(zip(ranked.names, ranked.measure(np.ones(len(rows.label))).tolist(), strict=False))
    found |= {name: values[:, place] for place, name in enumerate(ranked.names)}
    for name, draws in found.items():
        if name in noted and abs(here[name] - noted[name]) <= _ALIKE * max(1.0, abs(noted[name])):
            drawn.measures[name] = draws
    start = len(ranked.names)
    drawn.lorenz = values[:, start : start + len(GRID)]
    if ranked.binary:
        drawn.roc = values[:, start + len(GRID) :]
    return drawn


class _Sums:
    """Measures that are made of sums over rows, by name."""

    def __init__(self, loss: Loss, rows: Predicted, noted: Mapping[str, float]) -> None:
        self._binary, self._quantile = isinstance(loss, LogisticLoss), loss.quantile is not None
        self._noted = noted
        label, weight = rows.label, rows.weight
        score = _score(loss, rows.prediction)
        self.columns: dict[str, Floats] = {"weight": weight}
        if self._binary:
            self.columns["log_loss"] = weight * loss.half_deviance(score, label)
            self.columns["brier"] = weight * (rows.prediction - label) ** 2
        elif self._quantile:
            constant = loss.start(label, weight, np.zeros(len(label)))
            self.columns["pinball_loss"] = weight * loss.half_deviance(score, label)
            self.columns["constant"] = weight * loss.half_deviance(np.full(len(label), constant), label)
            self.columns["coverage"] = weight * (label <= rows.prediction)
            return
        else:
            offset = np.zeros(len(label)) if rows.exposure is None else np.log(rows.exposure)
            constant = loss.start(label, weight, offset) if label.any() else 0.0
            self.columns["deviance"] = weight * 2 * loss.half_deviance(score, label)
            self.columns["constant"] = weight * 2 * loss.half_deviance(constant + offset, label)
            self.columns["mae"] = weight * np.abs(label - rows.prediction)
            self.columns["actual"] = weight * label
            self.columns["expected"] = weight * rows.prediction
        unit = np.zeros(len(label))
        if loss.link == "log" and rows.exposure is not None:
            unit = np.log(rows.exposure)
        self._add_calibration(loss, label, weight, score, unit)

    def _add_calibration(
        self, loss: Loss, label: Floats, weight: Floats, score: Floats, unit: Floats
    ) -> None:
        """Derivatives at the slope and the intercept of all rows."""
        if "calibration_intercept" in self._noted:
            at = score + self._noted["calibration_intercept"]
            self.columns["slant"], self.columns["bend"] = loss.gradients(at, label, weight)
        if (slope := self._noted.get("calibration_slope")) is not None:
            own = score - unit
            base = unit + slope * own
            slant, bend = loss.gradients(base + loss.start(label, weight, base), label, weight)
            self.columns |= {"g0": slant, "g1": slant * own}
            self.columns |= {"h0": bend, "h1": bend * own, "h2": bend * own**2}

    def measures(self, sums: Mapping[str, Floats]) -> dict[str, Floats]:
        """The measures of each draw, of its sums."""
        names = ("log_loss", "brier") if self._binary else ("deviance", "mae")
        if self._quantile:
            names = "pinball_loss", "coverage"
        found = {name: quotients(sums[name], sums["weight"]) for name in names}
        if self._quantile:
            found["d2"] = 1 - quotients(sums["pinball_loss"], sums["constant"])
        elif not self._binary:
            found["d2"] = 1 - quotients(sums["deviance"], sums["constant"])
            found["actual_expected"] = quotients(sums["actual"], sums["expected"])
        if "slant" in sums:
            step = quotients(sums["slant"], sums["bend"])
            found["calibration_intercept"] = self._noted["calibration_intercept"] - step
        if "g0" in sums:
            above = sums["h0"] * sums["g1"] - sums["h1"] * sums["g0"]
            step = quotients(above, sums["h0"] * sums["h2"] - sums["h1"] ** 2)
            found["calibration_slope"] = self._noted["calibration_slope"] - step
        return found


def _score(loss: Loss, prediction: Floats) -> Floats:
    """The score of a prediction."""
    tiny = float(np.finfo(np.float64).eps)
    if loss.link == "logit":
        inner = np.clip(prediction, tiny, 1 - tiny)
        return np.asarray(np.log(inner) - np.log1p(-inner))
    if loss.link == "log":
        return np.asarray(np.log(np.maximum(prediction, np.finfo(np.float64).tiny)))
    return prediction


class Ranked:
    """Measures and curves of the order that a model gives rows, of any draw of them."""

    def __init__(self, rows: Predicted, binary: bool) -> None:
        self.binary = binary
        self.names = ["auc", "ks", "gini"] if binary else ["gini"]
        self._rows = rows.totals
        self._ours = _runs(self._rows.expected / self._rows.exposure)
        self._best = None if binary else _runs(self._rows.actual / self._rows.exposure)

    def measure(self, times: Floats) -> Floats:
        """The measures, then the curves at GRID."""
        x, y = self._curve(self._ours, times)
        lorenz = np.interp(GRID, x, y)
        if not self.binary:
            best = 1 - 2 * area(*self._curve(self._best or self._ours, times))
            gini = (1 - 2 * area(x, y)) / best if best > NEAR else np.nan
            return np.concatenate([[gini], lorenz])
        size, hits = (float(one @ times) for one in (self._rows.exposure, self._rows.actual))
        misses = size - hits
        fpr = (1 - (x * size - y * hits) / misses) if misses > 0 else np.full(len(x), np.nan)
        tpr = 1 - y
        auc = area(fpr[::-1], tpr[::-1])
        ks = float(np.abs(tpr - fpr).max())
        roc = np.interp(GRID, fpr[::-1], tpr[::-1])
        return np.concatenate([[auc, ks, 2 * auc - 1], lorenz, roc])

    def _curve(self, runs: tuple[Integers, Integers], times: Floats) -> tuple[Floats, Floats]:
        """Shares of exposure and of what happened up to each run of equal rates."""
        order, ends = runs
        drawn = times[order]
        sides = []
        for one in (self._rows.exposure, self._rows.actual):
            up = np.append(0.0, np.cumsum(one[order] * drawn)[ends - 1])
            sides.append(up / up[-1] if up[-1] else np.full(len(up), np.nan))
        return sides[0], sides[1]


def _runs(rate: Floats) -> tuple[Integers, Integers]:
    return runs_of_equals(rate, NEAR)
