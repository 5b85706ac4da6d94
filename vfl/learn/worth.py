"""What each partner's data adds: measures of models over some of the parties, on the same rows held out.

A partner gains what a model with its columns has beyond one without: beside the guest alone, and beside
all the others. Both are differences on the same draws of policies, so that what the rows have in common
is not in their intervals.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats, Integers
from vfl.learn.bootstrap import Estimate, Resamples, Summed, estimate, one_group, quotients
from vfl.learn.intervals import Predicted, Ranked, enough
from vfl.learn.losses import LogisticLoss, Loss
from vfl.learn.metrics import quantile_groups
from vfl.text import in_words

Hosts = tuple[str, ...]
Measure = Literal["d2", "gini", "loss_ratio"]
MEASURES: tuple[Measure, ...] = ("d2", "gini", "loss_ratio")
"""Share of the deviance explained; the Gini index; of the half of the present premium that is the best
by the model, the loss ratio by that of all of it."""
WORTH_HEADS = ("figure", "of", "measure", "value", "low", "high")
"""Of a table of figures."""
Sense = Literal["model", "added", "left_out"]
"""A model's own figures; what its hosts add to the guest alone; what all lose without them."""

_HALVES = 2


@dataclass(frozen=True)
class JudgedRows:
    """The rows held out; arrays of shape (rows,).

    offset: added to all scores, of models and of the constant. premium: by the present tariff, of each
    row in all, NaN where it has none; None without a tariff. policy: as of Resamples.
    """

    label: Floats
    weight: Floats
    offset: Floats | None = None
    exposure: Floats | None = None
    premium: Floats | None = None
    policy: Integers | None = None


@dataclass(frozen=True)
class WorthLine:
    """Figures of one model or one difference, by measure, without those that are no number."""

    sense: Sense
    hosts: Hosts
    figures: dict[Measure, Estimate] = field(default_factory=dict)

    def name(self, guest: str) -> str:
        """Whose columns a model has, or what is added."""
        if self.sense != "model":
            return in_words(self.hosts)
        return " + ".join([guest, *self.hosts]) if self.hosts else f"{guest} alone"


def subsets(hosts: Sequence[str]) -> list[Hosts]:
    """The hosts of each training: all, all but each, and each alone; every set once, in this order.

    All come first: a hint that all hosts make together serves every smaller set of them.
    """
    every = tuple(hosts)
    but_one = [tuple(name for name in every if name != left) for left in every]
    found = [every, *(some for some in but_one if some), *((name,) for name in every)]
    return list(dict.fromkeys(found))


def worth_lines(
    loss: Loss, rows: JudgedRows, scores: Mapping[Hosts, Floats], hosts: Sequence[str]
) -> tuple[list[WorthLine], Resamples]:
    """The lines of all models, then what each host adds, then what is lost without each.

    scores: of the rows held out, by the hosts of the model; () is the guest alone.
    """
    resamples = Resamples(len(rows.label), rows.policy)
    known = enough(rows.label, loss, resamples)
    of = {some: _Drawn(loss, rows, score, resamples) for some, score in scores.items()}
    every, alone = tuple(hosts), ()
    models = [alone, *((name,) for name in every), *subsets(every)]
    lines = [WorthLine("model", some, of[some].figures(known)) for some in dict.fromkeys(models)]
    lines += [WorthLine("added", (name,), of[name,].less(of[alone], known)) for name in every]
    for name in every if len(every) > 1 else ():
        others = tuple(other for other in every if other != name)
        lines.append(WorthLine("left_out", (name,), of[every].less(of[others], known)))
    return lines, resamples


class _Drawn:
    """A model's measures, of the rows and of each draw."""

    def __init__(self, loss: Loss, rows: JudgedRows, score: Floats, resamples: Resamples) -> None:
        self.points: dict[Measure, float] = {}
        self.draws: dict[Measure, Floats] = {}
        self._add("d2", *_explained(loss, rows, score, resamples))
        prediction = loss.predict(score)
        ranked = Ranked(
            Predicted(rows.label, prediction, rows.weight, rows.exposure), isinstance(loss, LogisticLoss)
        )
        place = ranked.names.index("gini")
        point = ranked.measure(np.ones(len(score)))[place]
        self._add("gini", point, resamples.each(lambda times: ranked.measure(times)[[place]])[:, 0])
        if rows.premium is not None:
            self._add("loss_ratio", *_loss_ratio(rows, prediction, rows.premium, resamples))

    def _add(self, name: Measure, point: float, draws: Floats) -> None:
        self.points[name], self.draws[name] = float(point), draws

    def figures(self, known: bool) -> dict[Measure, Estimate]:
        """The model's own, with intervals if anything is `known` of them."""
        return _estimated(self.points, self.draws, known)

    def less(self, other: "_Drawn", known: bool) -> dict[Measure, Estimate]:
        """What it has beyond another one."""
        points = {name: value - other.points[name] for name, value in self.points.items()}
        draws = {name: values - other.draws[name] for name, values in self.draws.items()}
        return _estimated(points, draws, known)


def _estimated(
    points: Mapping[Measure, float], draws: Mapping[Measure, Floats], known: bool
) -> dict[Measure, Estimate]:
    return {
        name: estimate(value, draws[name]) if known else Estimate(value)
        for name, value in points.items()
        if np.isfinite(value)
    }


def _explained(
    loss: Loss, rows: JudgedRows, score: Floats, resamples: Resamples
) -> tuple[float, Floats]:
    """1 less the deviance by that of the best constant of all rows."""
    offset = np.zeros(len(score)) if rows.offset is None else rows.offset
    constant = loss.start(rows.label, rows.weight, offset) if rows.label.any() else 0.0
    sides = [rows.weight * loss.half_deviance(of, rows.label) for of in (score, constant + offset)]
    point = quotients(*(np.array([side.sum()]) for side in sides))
    drawn = [one[:, 0] for one in resamples.sums([one_group(side) for side in sides])]
    return 1 - float(point[0]), 1 - quotients(*drawn)


def _loss_ratio(
    rows: JudgedRows, prediction: Floats, premium: Floats, resamples: Resamples
) -> tuple[float, Floats]:
    """That of the better half of the premium by that of all; which rows are in it is decided once."""
    size = rows.weight if rows.exposure is None else rows.weight * rows.exposure
    paid = np.where(premium > 0, premium, 0.0)
    there = paid > 0
    happened = np.where(there, rows.weight * rows.label, 0.0)
    expected = rows.weight * prediction
    none = np.full(resamples.draws, np.nan)
    if not (there.any() and happened.any() and size.all()) or (expected < 0).any():
        return float("nan"), none
    group = np.ones(len(paid), np.int64)
    group[there] = quantile_groups(expected[there] / paid[there], paid[there], _HALVES)
    if group[there].max() == 0:  # of one order all are as good
        return float("nan"), none
    sums = [Summed(group, _HALVES, values) for values in (happened, paid)]
    point = _by_half(*(np.bincount(group, of, _HALVES)[None].astype(float) for of in (happened, paid)))
    return float(point[0]), _by_half(*resamples.sums(sums))


def _by_half(happened: NDArray[np.float64], paid: NDArray[np.float64]) -> Floats:
    best, every = (quotients(*(of(one) for one in (happened, paid))) for of in (_first, _total))
    return quotients(best, every)


def _first(of: NDArray[np.float64]) -> Floats:
    return of[:, 0]


def _total(of: NDArray[np.float64]) -> Floats:
    return np.asarray(of.sum(axis=1))
