"""The section of the guest's page that says how good the model is, on rows that trained nothing."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats
from vfl.learn.benchmark import Tariffs, orders
from vfl.learn.bootstrap import (
    LEAST,
    Estimate,
    Summed,
    estimate,
    estimates,
    one_group,
    quotients,
)
from vfl.learn.intervals import GRID, Drawn, Predicted, draw_measures, enough
from vfl.learn.losses import LogisticLoss
from vfl.learn.metrics import (
    DoubleLift,
    Lift,
    double_lift,
    gini,
    lift_table,
    lorenz,
    quantile_groups,
    roc,
)
from vfl.learn.residuals import quantile_residuals
from vfl.report import figures, words
from vfl.report.blocks import DataTable, FigureBlock, Gallery, PageSection, TableCell, Tile
from vfl.report.held_quality import HeldOutQuality
from vfl.report.sections import Page, SheetRow, figure_of
from vfl.report.words import fixed, share
from vfl.text import counted

_CALIBRATION = 5  # groups
_PLACES = 199  # of the distribution of residuals
_TENTHS = 10


class Quality(HeldOutQuality):
    """How good the model is, and that of the guest alone; `names` are both, in this order."""

    def __init__(self, page: Page, rate: words.RateWords, names: tuple[str, str]) -> None:
        super().__init__(page, names)
        self.rate = rate

    @cached_property
    def drawn(self) -> dict[str, Drawn]:
        """Draws of each model's measures and curves."""
        held, one = self.held, self.evidence
        if not enough(held.label, one.loss, self.resamples):
            return {name: Drawn() for name in self.names}
        return {
            name: draw_measures(
                one.loss,
                Predicted(held.label, held.predictions[name], held.weight, held.years),
                self.metrics[name],
                self.resamples,
            )
            for name in self.names
        }

    @cached_property
    def lifts(self) -> dict[str, list[Lift]]:
        return {name: lift_table(*self.held.totals(name)) for name in self.names}

    @cached_property
    def lift_estimates(self) -> dict[str, list[Estimate]]:
        """The lift of each model's groups, with intervals."""
        found = {}
        for name in self.names:
            actual, size = self._group_sums(name, _TENTHS)
            rate = quotients(actual.draws, size.draws)
            overall = quotients(
                actual.draws.sum(axis=1, keepdims=True), size.draws.sum(axis=1, keepdims=True)
            )
            values = np.array([group.lift for group in self.lifts[name]])
            found[name] = estimates(values, quotients(rate, overall), actual.known)
        return found

    def _group_sums(self, name: str, groups: int) -> tuple["_GroupSums", "_GroupSums"]:
        """What happened, and exposure, in groups by a model's predictions."""
        rows = self.held.totals(name)
        group = quantile_groups(rows.expected / rows.exposure, rows.exposure, groups)
        count = int(group.max()) + 1
        known = self.resamples.counts(group, count, rows.actual != 0) >= LEAST
        sides = (rows.actual, rows.exposure)
        drawn = self.resamples.sums([Summed(group, count, one) for one in sides])
        actual, size = (_GroupSums(draws, known) for draws in drawn)
        return actual, size

    @cached_property
    def double(self) -> list[DoubleLift]:
        held = self.held
        if any((held.predictions[name] < 0).any() for name in self.names):
            return []  # a ratio of predictions of either sign says nothing
        ours, theirs = (held.totals(name) for name in self.names)
        return double_lift(ours.actual, ours.expected, theirs.expected, ours.exposure)

    @cached_property
    def metrics(self) -> dict[str, dict[str, float]]:
        """As recorded, in the order of METRICS; the Gini of runs before it was recorded."""
        one, found = self.evidence, {}
        for name in self.names:
            recorded = one.metrics.get(name, {})
            order = [key for key in words.METRICS if key in recorded]
            found[name] = {key: recorded[key] for key in dict.fromkeys([*order, *recorded])}
        for name, values in found.items():
            values.setdefault("gini", gini(*self.held.totals(name)))
        return found

    def measure(self, name: str, key: str) -> Estimate:
        """A measure of a model with its interval."""
        return self.drawn[name].of(key, self.metrics[name].get(key, math.nan))

    def difference(self, key: str) -> Estimate:
        """The measure of the common model less that of the guest's own."""
        ours, theirs = (self.metrics[name].get(key, math.nan) for name in self.names)
        return self.drawn[self.names[0]].less(self.drawn[self.names[1]], key, ours - theirs)

    def tiles(self) -> list[Tile]:
        """What a manager reads first."""
        alone, found = self.evidence.alone, []
        first = "auc" if "auc" in self.evidence.metrics.get(self.names[0], {}) else "d2"
        for key in (first, "gini"):
            a, b = (self.measure(name, key) for name in self.names)
            shown = share if key == "d2" else fixed
            beside = f"95 %: {words.interval(a, shown)}; " if a.known else ""
            found.append(
                Tile(words.METRICS[key][0], shown(a.value), f"{beside}{alone}: {shown(b.value)}")
            )
        ours, theirs = (self.lift_estimates[name][-1] for name in self.names)
        beside = f"95 %: {words.interval(ours, _one)}; " if ours.known else ""
        high, low = (f"{fixed(one.value, 1)}\u00a0×" for one in (ours, theirs))
        top = _top(self.lifts[self.names[0]])
        found.append(Tile(f"Lift of the top {top}", high, f"{beside}{alone}: {low}"))
        if self.loss_ratio is not None:
            ratio = self.loss_ratio
            beside = f"95 %: {words.interval(ratio, share)}; " if ratio.known else ""
            found.append(
                Tile("Loss ratio", share(ratio.value), f"{beside}what happened by the premiums")
            )
        return found

    @cached_property
    def loss_ratio(self) -> Estimate | None:
        """Of a tariff of premiums: what happened by these; None of a model of what happens."""
        rows = self.held.charged
        if rows is None or not rows.expected.any():
            return None
        sums = self.resamples.sums([one_group(one) for one in (rows.actual, rows.expected)])
        value = float(rows.actual.sum() / rows.expected.sum())
        (some,) = self.resamples.counts(np.zeros(len(rows.actual), np.int64), 1, rows.actual != 0)
        draws = quotients(sums[0], sums[1])[:, 0]
        return estimate(value, draws) if some >= LEAST else Estimate(value)

    def premium_words(self) -> list[str]:
        """What is compared of a tariff of premiums, in sentences; none of other models."""
        if (ratio := self.loss_ratio) is None:
            return []
        return [
            "This is a tariff of premiums: its base rate was brought to another total than that of what "
            f"happened. The loss ratio is {words.estimated(ratio, share)}. What is expected of a row is "
            "its premium, all brought to the total of what happened: actual by expected is the loss "
            "ratio there by that of all rows."
        ]

    def lift_words(self) -> str:
        alone = "rows" if self.evidence.over_rows else "columns"
        ours, theirs = (self.lifts[name] for name in self.names)
        sure = [self.lift_estimates[name][-1] for name in self.names]
        a, b = (f" ({words.interval(one, _one)})" if one.known else "" for one in sure)
        return (
            f"The {_top(ours)} of {self.rate.size} that the federation's model rates highest had "
            f"{words.times(ours[-1].lift)} the average {self.rate.name}{a}; by the {alone} of "
            f"{self.evidence.party} alone, the top {_top(theirs)} had {words.times(theirs[-1].lift)}{b}."
        )

    def section(self) -> PageSection:
        one = self.evidence
        if one.held_out is None:
            text = "No rows were held out (holdout is 0 in the job file): the quality is not known."
            return PageSection("quality", "Quality", [text], [])
        held = one.held_out
        whose, what = (
            ("that all parties know", "columns")
            if not one.over_rows
            else ("that this party held out", "rows")
        )
        lead = [
            f"All figures are of {counted(len(held.label), 'row')} {whose} and that trained nothing. "
            f"“{one.alone}” is the same method on the {what} of {one.party}"
            f"{'' if one.over_rows else ' and the same rows'}. "
            f"{words.how_sure(self.resamples, one.beside.policy is not None)}"
        ]
        lead += words.how_held_out(one)
        lead += self.premium_words()
        if (quantile := one.loss.quantile) is not None:
            lead.append(_of_a_quantile(quantile))
            ordered = Gallery([self._lorenz(), self._lift()])
            tables = self._metrics_table(), self._coverage()
            return PageSection("quality", "Quality", lead, [*tables, ordered])
        drawn = [*self._roc(), self._lorenz(), self._lift()]
        drawn += [self._double_lift(), self._calibration()] if self.double else [self._calibration()]
        drawn += self._residuals()
        return PageSection("quality", "Quality", lead, [self._metrics_table(), Gallery(drawn)])

    def _metrics_table(self) -> DataTable:
        ours, theirs = (self.metrics[name] for name in self.names)
        found = [
            (
                key,
                self.measure(self.names[0], key),
                self.measure(self.names[1], key),
                self.difference(key),
            )
            for key in ours
        ]
        ends = ("low", "high")
        sheet = self.page.sheet(
            "metrics",
            (
                "measure",
                *self.names,
                *(f"{name} {end}" for name in self.names for end in ends),
                *("difference", "difference low", "difference high"),
            ),
            [
                (key, a.value, theirs.get(key, math.nan), a.low, a.high, b.low, b.high, *difference)
                for key, a, b, difference in found
            ],
        )
        rows: list[list[TableCell]] = [
            [
                words.METRICS.get(key, (key, "")),
                *(words.with_interval(one, _four) for one in (a, b)),
                words.with_interval(difference, lambda value: words.signed(value, 4)),
            ]
            for key, a, b, difference in found
        ]
        head = ["measure", self.names[0], self.evidence.alone, "difference"]
        return DataTable("Measures on held-out rows", head, rows, sheet=sheet)

    def _coverage(self) -> DataTable:
        """Which share of labels is not above the prediction of a quantile, by prediction."""
        held, rows, sheet_rows = self.held, list[list[TableCell]](), list[SheetRow]()
        for name in self.names:
            prediction = held.predictions[name]
            group = quantile_groups(prediction, held.weight, _CALIBRATION)
            count = int(group.max()) + 1
            below = held.weight * (held.label <= prediction)
            sums = [Summed(group, count, one) for one in (below, held.weight)]
            point = [np.bincount(group, one.values, count).astype(np.float64) for one in sums]
            found = estimates(quotients(*point), quotients(*self.resamples.sums(sums)))
            many = np.bincount(group, minlength=count).tolist()
            for place, (number, one) in enumerate(zip(many, found, strict=True), start=1):
                sheet_rows.append((name, place, number, *one))
                rows.append([name, f"{place}", f"{number:,}", words.with_interval(one, _four)])
        head = ("model", "group", "rows", "coverage", "coverage_low", "coverage_high")
        sheet = self.page.sheet("coverage", head, sheet_rows)
        title = "Coverage by prediction, lowest first"
        return DataTable(title, ["model", "group", "rows", "coverage"], rows, sheet=sheet)

    def _roc(self) -> list[FigureBlock]:
        held = self.held
        if not isinstance(self.evidence.loss, LogisticLoss) or len(np.unique(held.label)) < 2:
            return []
        curves = {name: roc(held.label, held.predictions[name], held.weight) for name in self.names}
        head = ("model", "false_positive_rate", "true_positive_rate")
        sheet = self.page.sheet("roc", head, _points(curves))
        a, b = (self.metrics[name].get("auc", math.nan) for name in self.names)
        message = words.rises("AUC", a, b, self.evidence.alone, self.difference("auc"))
        bands = {name: _band(self.drawn[name].roc) for name in self.names}
        return [figure_of("ROC curve", message, figures.roc(curves, bands, message), sheet)]

    def _lorenz(self) -> FigureBlock:
        curves = {name: lorenz(*self.held.totals(name)) for name in self.names}
        head = ("model", "share_of_exposure", "share_of_actual")
        sheet = self.page.sheet("lorenz", head, _points(curves))
        a, b = (self.metrics[name]["gini"] for name in self.names)
        message = words.rises("Gini", a, b, self.evidence.alone, self.difference("gini"))
        bands = {name: _band(self.drawn[name].lorenz) for name in self.names}
        svg = figures.lorenz(curves, bands, self.rate.size, self.rate.total, message)
        return figure_of("Lorenz curve", message, svg, sheet)

    def _lift(self) -> FigureBlock:
        rows = [
            (name, place, g.rows, g.exposure, g.actual, g.expected, *sure)
            for name, groups in self.lifts.items()
            for place, (g, sure) in enumerate(
                zip(groups, self.lift_estimates[name], strict=True), start=1
            )
        ]
        head = ("model", "group", "rows", "exposure", "actual", "expected", "lift")
        sheet = self.page.sheet("lift", (*head, "lift_low", "lift_high"), rows)
        ours, theirs = ((_shares(self.lifts[name]), self.lift_estimates[name]) for name in self.names)
        message = self.lift_words()
        svg = figures.lift(ours, theirs, self.rate.size, self.names, message)
        return figure_of("Lift", message, svg, sheet)

    def _double_lift(self) -> FigureBlock:
        groups = self.double
        ours, theirs = (self.held.totals(name) for name in self.names)
        ratio = np.where(ours.expected > 0, np.inf, 1.0)
        np.divide(ours.expected, theirs.expected, out=ratio, where=theirs.expected > 0)
        group = quantile_groups(ratio, ours.exposure, _TENTHS)
        count = int(group.max()) + 1
        sums = [Summed(group, count, one) for one in (ours.actual, ours.exposure)]
        known = self.resamples.counts(group, count, ours.actual != 0) >= LEAST
        draws = quotients(*self.resamples.sums(sums))
        actual = estimates(np.array([g.actual for g in groups]), draws, known)
        rows = [
            (place, g.rows, g.exposure, g.actual, g.ours, g.theirs, *sure[1:])
            for place, (g, sure) in enumerate(zip(groups, actual, strict=True), start=1)
        ]
        head = ("group", "rows", "exposure", "actual", *self.names, "actual_low", "actual_high")
        sheet = self.page.sheet("double_lift", head, rows)
        both = Tariffs(ours.actual, ours.expected, theirs.expected, ours.exposure)
        message = (
            "Rows are in the order of how far the two models disagree; upright lines are intervals of "
            f"what happened. {self._nearer(both)}"
        )
        svg = figures.double_lift(
            shares=_shares(groups),
            actual=actual,
            ours=[g.ours for g in groups],
            theirs=[g.theirs for g in groups],
            names=self.names,
            rate=self.rate,
            message=message,
        )
        return figure_of("Double lift", message, svg, sheet)

    def _nearer(self, both: Tariffs) -> str:
        """What can be said of whom what happened follows where the models disagree."""
        alone = self.evidence.alone
        found = orders(both, self.resamples)[0] if both.actual.any() else Estimate(math.nan)
        if not found.known:
            return "Too little happened to tell which of them it follows."
        said = (
            f"The Gini index of what happened, in the order of the federation over {alone}, is "
            f"{words.estimated(found, fixed)}"
        )
        if found.low > 0:
            return f"{said}: the federation tells apart what {alone} does not."
        if found.high < 0:
            return f"{said}: what happened goes against the federation's order."
        return f"{said}: 0 is in the interval, so that these rows do not tell which of them it follows."

    def _calibration(self) -> FigureBlock:
        ours = self.lifts[self.names[0]]
        actual, expected = (
            sum(getattr(g, what) * g.exposure for g in ours) for what in ("actual", "expected")
        )
        ratio = self._ratio(actual, expected)
        verdict = ""
        if ratio.known:
            verdict = " (1 is in the interval)" if ratio.has(1) else " (1 is not in the interval)"
        message = (
            f"In all, {words.estimated(ratio, _two)} times as much happened as the federation "
            f"expected{verdict}. On the dotted line, expected and actual are equal; upright lines are "
            "intervals."
        )
        models, rows = {}, []
        for name in self.names:
            totals = self.held.totals(name)
            groups = lift_table(*totals, bins=_CALIBRATION)
            happened, size = self._group_sums(name, _CALIBRATION)
            values = np.array([g.actual for g in groups])
            sure = estimates(values, quotients(happened.draws, size.draws), happened.known)
            models[name] = ([g.expected for g in groups], sure)
            rows += [
                (name, place, g.rows, g.exposure, g.expected, *one)
                for place, (g, one) in enumerate(zip(groups, sure, strict=True), start=1)
            ]
        head = ("model", "group", "rows", "exposure", "expected", "actual", "actual_low", "actual_high")
        sheet = self.page.sheet("calibration", head, rows)
        svg = figures.calibration(models, self.rate.name, self.rate.percent, message)
        return figure_of("Calibration", message, svg, sheet)

    def _ratio(self, actual: float, expected: float) -> Estimate:
        """Actual by expected, in all."""
        totals = self.held.totals(self.names[0])
        every = np.zeros(len(totals.actual), np.int64)
        known = self.resamples.counts(every, 1, totals.actual != 0) >= LEAST
        drawn = self.resamples.sums([Summed(every, 1, one) for one in totals[:2]])
        value = np.array([actual / expected if expected else math.nan])
        return estimates(value, quotients(*drawn), known)[0]

    def _residuals(self) -> list[FigureBlock]:
        """Randomised quantile residuals of the common model: their distribution, and by prediction."""
        held, loss = self.held, self.evidence.loss
        prediction = held.predictions[self.names[0]]
        if loss.link == "log" and not (prediction > 0).all():
            return []
        found = quantile_residuals(loss, held.label, prediction, held.weight)
        places = (np.arange(_PLACES) + 0.5) / _PLACES
        order = np.argsort(found)
        actual = _quantiles(found[order], np.ones(len(found)), places)
        draws = self.resamples.each(lambda times: _quantiles(found[order], times[order], places))
        low, high = np.nanquantile(draws, [0.025, 0.975], axis=0)
        normal = words.normal_quantiles(places)
        outside = float(((normal < low) | (normal > high)).mean())
        message = (
            f"{share(outside, 0)} of the places of a normal distribution are outside the band, which "
            "is of 95 % at each place: the more, the less the residuals are as "
            f"{self.evidence.objective} has them."
        )
        sheet = self.page.sheet(
            "residuals",
            ("place", "normal", "residual", "low", "high"),
            np.stack([places, normal, actual, low, high], axis=1).tolist(),
        )
        svg = figures.residuals(normal, actual, (low, high), message)
        return [figure_of("Residuals", message, svg, sheet), self._by_prediction(found)]

    def _by_prediction(self, found: Floats) -> FigureBlock:
        """Means of residuals by prediction."""
        totals = self.held.totals(self.names[0])
        group = quantile_groups(totals.expected / totals.exposure, totals.exposure, _TENTHS)
        count = int(group.max()) + 1
        sums = [Summed(group, count, one) for one in (found, np.ones(len(found)))]
        point = [np.bincount(group, one.values, count).astype(np.float64) for one in sums]
        means = estimates(quotients(*point), quotients(*self.resamples.sums(sums)))
        apart = sum(not one.has(0) for one in means)
        message = (
            f"Of {counted(len(means), 'group')} by prediction, {apart} have a mean residual whose "
            f"interval is without 0; about {fixed(0.05 * len(means), 1)} would by chance."
        )
        sheet = self.page.sheet(
            "residuals_by_prediction",
            ("group", "rows", "mean", "low", "high"),
            [
                (place, int(rows), *one)
                for place, (rows, one) in enumerate(zip(point[1].tolist(), means, strict=True), start=1)
            ],
        )
        shares = [group.exposure for group in self.lifts[self.names[0]]]
        svg = figures.mean_residuals(_stretched(shares), means, self.rate.size, message)
        return figure_of("Residuals by prediction", message, svg, sheet)


def _of_a_quantile(quantile: float) -> str:
    """What the figures of such a model are, in words."""
    return (
        f"The model predicts below which number {share(quantile, 1)} of labels lie, not their mean: "
        "coverage is the share that does, which is to be as much. D² is the share of the pinball loss "
        "that it saves against the same number for all. Lift and Gini are of the order of its "
        "predictions. No total is compared with a sum of predictions, which is none of anything."
    )


@dataclass(frozen=True)
class _GroupSums:
    """Sums of groups in each draw, (draws, groups), and in which groups enough happened."""

    draws: NDArray[np.float64]
    known: NDArray[np.bool_]


def _quantiles(ordered: Floats, times: Floats, places: Floats) -> Floats:
    """Quantiles of values in order, of which each comes so many times."""
    up = np.cumsum(times)
    at = np.searchsorted(up, places * up[-1])
    return np.asarray(ordered[np.minimum(at, len(ordered) - 1)])


def _band(draws: Floats | None) -> tuple[Floats, Floats, Floats] | None:
    """Where a curve's intervals are, and their ends."""
    if draws is None or not np.isfinite(draws).any():
        return None
    low, high = np.nanquantile(draws, [0.025, 0.975], axis=0)
    return GRID, low, high


def _points(curves: Mapping[str, tuple[Floats, Floats]]) -> list[SheetRow]:
    """The points of curves by model, for a table."""
    return [
        (name, *point)
        for name, curve in curves.items()
        for point in zip(*(side.tolist() for side in curve), strict=True)
    ]


def _top(groups: list[Lift]) -> str:
    """How much of all the highest group holds, in words."""
    return words.tenth(groups[-1].exposure / sum(group.exposure for group in groups))


def _shares(groups: Sequence[Lift] | Sequence[DoubleLift]) -> list[float]:
    return _stretched([group.exposure for group in groups])


def _stretched(sizes: Sequence[float]) -> list[float]:
    total = sum(sizes)
    return [size / total for size in sizes]


def _one(value: float) -> str:
    return fixed(value, 1)


def _two(value: float) -> str:
    return fixed(value, 2)


def _four(value: float) -> str:
    return fixed(value, 4)
