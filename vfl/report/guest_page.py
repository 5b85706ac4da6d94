"""The sections of the guest's page: how good the model is, what its columns do, how it was trained."""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats
from vfl.learn.design import MISSING
from vfl.learn.losses import LogisticLoss
from vfl.learn.metrics import (
    OTHER,
    DoubleLift,
    Level,
    Lift,
    actual_against_expected,
    double_lift,
    gini,
    lift_table,
    lorenz,
    roc,
)
from vfl.models.dependence import Dependence
from vfl.report import figures, words
from vfl.report.blocks import (
    DataTable,
    FigureBlock,
    Gallery,
    Note,
    PageBlock,
    PageSection,
    Pair,
    Picker,
    TableCell,
    Tile,
    Tiles,
)
from vfl.report.evidence import TOGETHER, Evidence, HeldOut
from vfl.report.sections import MOST_BARS, MOST_FACTORS, Page, SheetRow, cells, figure_of
from vfl.report.words import fixed, listed, number, share
from vfl.text import OrderKey, counted, level_order

_MOST_TILES = 8  # of a row of parties
_COUNTED = 0.02  # share of exposure from which on a level is worth a sentence


def _level_key(level: str) -> tuple[int, OrderKey]:
    """Levels in their own order, those of many names and missing ones last."""
    return (1, ()) if level == OTHER else (2, ()) if level == MISSING else (0, level_order(level))


class GuestPage(Page):
    def __init__(self, evidence: Evidence) -> None:
        super().__init__(evidence)
        self.rate = words.RateWords.of(evidence)
        self.names = (TOGETHER, evidence.alone)

    def sections(self) -> list[PageSection]:
        return [
            self._summary(),
            self._quality(),
            self._factors(),
            self._drivers(),
            self._training(),
            self.gave_away(),
            self.exchange(),
        ]

    @cached_property
    def _lifts(self) -> dict[str, list[Lift]]:
        held = self.evidence.held_out
        return {} if held is None else {name: lift_table(*held.totals(name)) for name in self.names}

    @cached_property
    def _double(self) -> list[DoubleLift]:
        held = self.evidence.held_out
        if held is None or any((held.predictions[name] < 0).any() for name in self.names):
            return []  # a ratio of predictions of either sign says nothing
        ours, theirs = (held.totals(name) for name in self.names)
        return double_lift(ours.actual, ours.expected, theirs.expected, ours.exposure)

    @cached_property
    def _metrics(self) -> dict[str, dict[str, float]]:
        """As recorded, in the order of METRICS; the Gini of runs before it was recorded."""
        one, found = self.evidence, {}
        for name in self.names:
            recorded = one.metrics.get(name, {})
            order = [key for key in words.METRICS if key in recorded]
            found[name] = {key: recorded[key] for key in dict.fromkeys([*order, *recorded])}
        if one.held_out is not None:
            for name, values in found.items():
                values.setdefault("gini", gini(*one.held_out.totals(name)))
        return found

    # 1. What a manager reads.

    def _summary(self) -> PageSection:
        one = self.evidence
        hosts = one.parties[1:]
        trained = one.rows.get("train", 0)
        whose = (
            f"{counted(one.aligned_rows, 'row')} of this party, and on rows of the others"
            if one.over_rows
            else f"{counted(one.aligned_rows, 'row')} that all parties know"
        )
        lead = [
            f"{self.rate.modelled}, modelled by {one.party} together with {listed(hosts)}, for "
            f"{one.job['job']['purpose']}: trained on {trained:,} of the {whose}."
        ]
        tiles = []
        if one.held_out is not None:
            ours, theirs = self._lifts[TOGETHER], self._lifts[one.alone]
            lead.append(self._lift_words(ours, theirs))
            first = "auc" if "auc" in one.metrics.get(TOGETHER, {}) else "d2"
            for key in (first, "gini"):
                a, b = (self._metrics[name].get(key, math.nan) for name in self.names)
                shown = share if key == "d2" else fixed
                tiles.append(Tile(words.METRICS[key][0], shown(a), f"{one.alone}: {shown(b)}"))
            high, low = (f"{fixed(groups[-1].lift, 1)}\u00a0×" for groups in (ours, theirs))
            tiles.append(Tile(f"Lift of the top {_top(ours)}", high, f"{one.alone}: {low}"))
        sent, received = sum(one.sent.values()), sum(one.received.values())
        tiles.append(
            Tile(
                "Cost",
                words.duration(one.seconds),
                f"{words.volume(sent)} out, {words.volume(received)} in",
            )
        )
        return PageSection("summary", "Summary", lead, [*self.warnings(), Tiles(tiles), self.request()])

    def _lift_words(self, ours: list[Lift], theirs: list[Lift]) -> str:
        return (
            f"The {_top(ours)} of {self.rate.size} that the federation's model rates highest had "
            f"{words.times(ours[-1].lift)} the average {self.rate.name}; by the columns of "
            f"{self.evidence.party} alone, the top {_top(theirs)} had {words.times(theirs[-1].lift)}."
        )

    # 2. On rows that trained nothing.

    def _quality(self) -> PageSection:
        one, held = self.evidence, self.evidence.held_out
        if held is None:
            text = "No rows were held out (holdout is 0 in the job file): the quality is not known."
            return PageSection("quality", "Quality", [text], [])
        whose, what = (
            ("that all parties know", "columns")
            if not one.over_rows
            else ("that this party held out", "rows")
        )
        lead = [
            f"All figures are of {counted(len(held.label), 'row')} {whose} and that trained nothing. "
            f"“{one.alone}” is the same method on the {what} of {one.party}"
            f"{'' if one.over_rows else ' and the same rows'}."
        ]
        lead += words.how_held_out(one)
        drawn = [*self._roc(held), self._lorenz(held), self._lift()]
        drawn += [self._double_lift(), self._calibration()] if self._double else [self._calibration()]
        return PageSection("quality", "Quality", lead, [self._metrics_table(), Gallery(drawn)])

    def _metrics_table(self) -> DataTable:
        ours, theirs = (self._metrics[name] for name in self.names)
        sheet = self.sheet(
            "metrics",
            ("measure", *self.names),
            [(key, value, theirs.get(key, math.nan)) for key, value in ours.items()],
        )
        rows: list[list[TableCell]] = []
        for key, value in ours.items():
            other = theirs.get(key, math.nan)
            difference = words.signed(value - other, 4)
            rows.append(
                [words.METRICS.get(key, (key, "")), fixed(value, 4), fixed(other, 4), difference]
            )
        head = ["measure", TOGETHER, self.evidence.alone, "difference"]
        return DataTable("Measures on held-out rows", head, rows, sheet=sheet)

    def _roc(self, held: HeldOut) -> list[FigureBlock]:
        if not isinstance(self.evidence.loss, LogisticLoss) or len(np.unique(held.label)) < 2:
            return []
        curves = {name: roc(held.label, held.predictions[name], held.weight) for name in self.names}
        head = ("model", "false_positive_rate", "true_positive_rate")
        sheet = self.sheet("roc", head, _points(curves))
        a, b = (self._metrics[name].get("auc", math.nan) for name in self.names)
        message = words.rises("AUC", a, b, self.evidence.alone)
        return [figure_of("ROC curve", message, figures.roc(curves, message), sheet)]

    def _lorenz(self, held: HeldOut) -> FigureBlock:
        curves = {name: lorenz(*held.totals(name)) for name in self.names}
        head = ("model", "share_of_exposure", "share_of_actual")
        sheet = self.sheet("lorenz", head, _points(curves))
        a, b = (self._metrics[name]["gini"] for name in self.names)
        message = words.rises("Gini", a, b, self.evidence.alone)
        svg = figures.lorenz(curves, self.rate.size, self.rate.total, message)
        return figure_of("Lorenz curve", message, svg, sheet)

    def _lift(self) -> FigureBlock:
        rows = [
            (name, place, g.rows, g.exposure, g.actual, g.expected, g.lift)
            for name, groups in self._lifts.items()
            for place, g in enumerate(groups, start=1)
        ]
        head = ("model", "group", "rows", "exposure", "actual", "expected", "lift")
        sheet = self.sheet("lift", head, rows)
        ours, theirs = (self._lifts[name] for name in self.names)
        message = self._lift_words(ours, theirs)
        svg = figures.lift(
            (_shares(ours), [g.lift for g in ours]),
            (_shares(theirs), [g.lift for g in theirs]),
            self.rate.size,
            self.names,
            message,
        )
        return figure_of("Lift", message, svg, sheet)

    def _double_lift(self) -> FigureBlock:
        groups = self._double
        rows = [
            (place, g.rows, g.exposure, g.actual, g.ours, g.theirs)
            for place, g in enumerate(groups, start=1)
        ]
        head = ("group", "rows", "exposure", "actual", *self.names)
        sheet = self.sheet("double_lift", head, rows)
        nearer = sum(abs(g.actual - g.ours) < abs(g.actual - g.theirs) for g in groups)
        message = (
            f"Rows are in the order of how far the two models disagree. In {nearer} of "
            f"{counted(len(groups), 'group')} what happened is nearer to the federation's prediction "
            f"than to that of {self.evidence.alone}."
        )
        svg = figures.double_lift(
            shares=_shares(groups),
            actual=[g.actual for g in groups],
            ours=[g.ours for g in groups],
            theirs=[g.theirs for g in groups],
            names=self.names,
            rate=self.rate,
            message=message,
        )
        return figure_of("Double lift", message, svg, sheet)

    def _calibration(self) -> FigureBlock:
        ours = self._lifts[TOGETHER]
        actual, expected = (
            sum(getattr(g, what) * g.exposure for g in ours) for what in ("actual", "expected")
        )
        ratio = fixed(actual / expected if expected else None, 2)
        message = (
            f"In all, {ratio} times as much happened as the federation expected. On the dotted line, "
            "expected and actual are equal."
        )
        models = {
            name: ([g.expected for g in groups], [g.actual for g in groups])
            for name, groups in self._lifts.items()
        }
        svg = figures.calibration(models, self.rate.name, self.rate.percent, message)
        return figure_of("Calibration", message, svg, "lift.csv")

    # 3. By the guest's own columns.

    def _factors(self) -> PageSection:
        one, held = self.evidence, self.evidence.held_out
        title = "By factor"
        if held is None or not one.factors:
            why = one.no_factors or f"{one.party} has no columns of its own in this model."
            return PageSection("factors", title, [why], [])
        totals = held.totals(TOGETHER)
        gains = {column: gain for party, column, _, gain in one.importance if party == one.party}
        ordered = sorted(one.factors.items(), key=lambda item: -gains.get(item[0], 0.0))
        levels = {
            name: _ordered(values, actual_against_expected(values, *totals)) for name, values in ordered
        }
        sheet = self.sheet(
            "factors",
            ("column", "level", "rows", "exposure", "actual", "expected", "ratio"),
            [
                (name, v.label, v.rows, v.exposure, v.actual, v.expected, v.ratio)
                for name, found in levels.items()
                for v in found
            ],
        )
        items = [
            (name, self._factor(name, found, sheet))
            for name, found in list(levels.items())[:MOST_FACTORS]
        ]
        lead = (
            "What happened and what the federation's model expected, by level of the columns of "
            f"{one.party}, on the rows held out. Numbers are in groups of about "
            f"{words.equal(self.rate.size)}."
        )
        if len(levels) > len(items):
            lead += f" Here are {len(items)} of {len(levels):,} columns; {sheet} has all."
        return PageSection("factors", title, [lead], [Picker("Column", items)])

    def _factor(self, name: str, levels: list[Level], sheet: str) -> PageBlock:
        total = sum(level.exposure for level in levels)
        one_each = self.rate.size in ("policies", "rows")  # no exposure and no weights
        common = [v for v in levels if v.exposure >= _COUNTED * total and math.isfinite(v.ratio)]
        message = f"Actual and expected {self.rate.name} by {name}."
        if len(common) > 1:
            low, high = (of(common, key=lambda v: v.ratio) for of in (min, max))
            few = f", of levels with 2 % of the {self.rate.size} or more"
            small = "" if len(common) == len(levels) else few
            message = (
                f"By {name}, actual / expected goes from {fixed(low.ratio, 2)} at {low.label} to "
                f"{fixed(high.ratio, 2)} at {high.label}{small}."
            )
        svg = figures.factor(
            levels=[v.label for v in levels],
            actual=[v.actual for v in levels],
            expected=[v.expected for v in levels],
            sizes=[v.exposure for v in levels],
            size=self.rate.size,
            rate=self.rate.name,
            percent=self.rate.percent,
            message=message,
        )
        columns = [
            [v.label for v in levels],
            [f"{v.rows:,}" for v in levels],
            *([] if one_each else [words.alike([v.exposure for v in levels])]),
            words.rates([v.actual for v in levels], self.rate.percent),
            words.rates([v.expected for v in levels], self.rate.percent),
            [fixed(v.ratio, 2) for v in levels],
        ]
        rows: list[list[TableCell]] = [list(row) for row in zip(*columns, strict=True)]
        sizes = [self.rate.size] if one_each else ["rows", self.rate.size]
        head = ["level", *sizes, "actual", "expected", "ratio"]
        table = DataTable(f"{name}: {self.rate.name}, actual and expected", head, rows)
        return Pair([Gallery([figure_of(name, message, svg, sheet)]), table])

    # 4. Of all columns, and of the guest's own.

    def _drivers(self) -> PageSection:
        one, title = self.evidence, "What drives it"
        if one.kind.has_relativities:
            lead = (
                f"Relativities of the columns of {one.party}. Those of the other parties' columns stay "
                "with their owners, whose own reports show them."
            )
            return PageSection("drivers", title, [lead], self.relativity_blocks())
        if not one.importance:
            return PageSection("drivers", title, ["The trees have no split."], [])
        sheet = self.sheet("importance", ("party", "column", "splits", "gain"), one.importance)
        total = sum(gain for *_, gain in one.importance)
        party, column, _, gain = one.importance[0]
        message = f"{column} ({party}) makes {share(gain / total, 0)} of the gain, the most of all."
        top = [(p, c, g / total * 100) for p, c, _, g in one.importance[:MOST_BARS]]
        svg = figures.importance(top, one.parties, "% of the gain", message)
        parts = words.shares([g for *_, g in one.importance], 1)
        rows: list[list[TableCell]] = [
            [c, p, f"{splits:,}", number(g, 4), part]
            for (p, c, splits, g), part in zip(one.importance, parts, strict=True)
        ]
        head = ["column", "party", "splits", "gain", "of all"]
        table = cells("Importance of all columns", head, rows, text=2)
        gains = {name: [g for owner, *_, g in one.importance if owner == name] for name in one.parties}
        sums = [sum(of) for of in gains.values()]
        tiles = [
            (gain, Tile(name, part, f"of the gain, by {counted(len(of), 'column')}"))
            for (name, of), gain, part in zip(gains.items(), sums, words.shares(sums), strict=True)
        ]
        if len(tiles) > _MOST_TILES:
            tiles = sorted(tiles, key=lambda pair: -pair[0])[:_MOST_TILES]
        lead = (
            "Gain is by how much the splits on a column lower the training loss. The other parties' "
            "columns have the names under which their owners show them."
        )
        pair = Pair([Gallery([figure_of("Importance by column", message, svg, sheet)]), table])
        return PageSection(
            "drivers", title, [lead], [Tiles([tile for _, tile in tiles]), pair, *self._dependence()]
        )

    def _dependence(self) -> list[PageBlock]:
        one = self.evidence
        if not one.dependence:
            why = one.no_dependence or f"No tree splits on a column of {one.party}."
            return [Note(why)]
        loss = one.loss
        sheet = self.sheet(
            "partial_dependence",
            ("column", "value", "score", "prediction"),
            [
                (name, value, score, prediction)
                for name, found in one.dependence.items()
                for value, score, prediction in zip(
                    found.grid.tolist(),
                    found.scores.tolist(),
                    loss.predict(found.scores).tolist(),
                    strict=True,
                )
            ],
        )
        everywhere = loss.predict(np.concatenate([found.scores for found in one.dependence.values()]))
        limits = (float(everywhere.min()), float(everywhere.max()))
        shown = list(one.dependence.items())[:MOST_FACTORS]
        drawn = [self._of_column(name, found, limits, sheet) for name, found in shown]
        return [
            Note(
                "Partial dependence: the prediction at the mean score, by the value of each column of "
                f"{one.party} that the trees use, all other columns being as they were in training (at "
                "an exposure of one and without other offsets)."
            ),
            Gallery(drawn),
        ]

    def _of_column(
        self, name: str, found: Dependence, limits: tuple[float, float], sheet: str
    ) -> FigureBlock:
        values = self.evidence.loss.predict(found.scores)
        known = np.array([v is not None and v == v for v in found.grid.tolist()])
        missing = float(values[~known][0]) if (~known).any() else None
        grid: list[str] | list[float]
        if found.grid.dtype == object:
            grid = ["(missing)" if v is None else str(v) for v in found.grid]
            shown = values
        else:
            grid, shown = found.grid[known].astype(float).tolist(), values[known]
        low, high = words.rates([float(shown.min()), float(shown.max())], self.rate.percent)
        message = f"By {name}, the prediction at the mean score goes from {low} to {high}."
        svg = figures.dependence(
            grid=grid,
            values=shown.tolist(),
            missing=missing,
            limits=limits,
            rate=self.rate.name,
            percent=self.rate.percent,
            message=message,
        )
        return figure_of(name, message, svg, sheet)

    # 5. How it was made.

    def _training(self) -> PageSection:
        one = self.evidence
        drawn = [*self._curve(), *self._phases()]
        lead = [self.cost]
        if one.ending:
            many = one.ending.get("iterations", 0)
            lead.append(
                f"The fit {'converged' if one.ending.get('converged') else 'had NOT converged'} after "
                f"{counted(many, 'iteration')}."
            )
        blocks: list[PageBlock] = [Gallery(drawn)] if drawn else []
        return PageSection("training", "Training", lead, [*blocks, *self.cost_blocks()])

    def _curve(self) -> list[FigureBlock]:
        one = self.evidence
        if not one.curve:
            return []
        unit = one.kind.step
        keys = list(dict.fromkeys(key for point in one.curve for key in point))
        sheet = self.sheet(
            "training",
            (unit, *keys),
            [
                (place, *(point.get(key) for key in keys))
                for place, point in enumerate(one.curve, start=1)
            ],
        )
        lines: dict[str, list[float]] = {}
        for key in keys:
            values = [v for point in one.curve if (v := point.get(key)) is not None]
            if len(values) == len(one.curve):
                lines[key] = values
        drawn = []
        losses = {key: values for key, values in lines.items() if key != "gradient"}
        if losses:
            measure = one.kind.curve_measure or one.measure
            first, last = losses["train"][0], losses["train"][-1]
            message = (
                f"The {measure} of the rows that train goes from {number(first, 4)} to "
                f"{number(last, 4)}."
            )
            svg = figures.curve(losses, unit, measure, message)
            drawn.append(figure_of("Loss", message, svg, sheet))
        if "gradient" in lines:
            message = f"The gradient's length ends at {lines['gradient'][-1]:.1e}."
            svg = figures.curve({"gradient": lines["gradient"]}, unit, "length", message)
            drawn.append(figure_of("Gradient", message, svg, sheet))
        return drawn

    def _phases(self) -> list[FigureBlock]:
        one = self.evidence
        totals: dict[str, float] = {}
        for seconds in one.phases:
            for name, took in seconds.items():
                totals[name] = totals.get(name, 0.0) + took
        if len(totals) < 2:
            return []
        sheet = self.sheet("phases", ("phase", "seconds"), list(totals.items()))
        whole = max(totals.values())  # the phase that holds all others
        ordered = sorted(totals.items(), key=lambda item: -item[1])[1:]
        rows = [(words.phase(name, one.parties[1:]), took) for name, took in ordered]
        message = (
            f"Of {words.duration(whole)}, most is {rows[0][0]}. Waiting for a party includes what it "
            "computes; parties work at the same time."
        )
        return [figure_of("Time by phase", message, figures.bars(rows, "seconds", message), sheet)]


def _points(curves: Mapping[str, tuple[Floats, Floats]]) -> list[SheetRow]:
    """The points of curves by model, for a table."""
    return [
        (name, *point)
        for name, curve in curves.items()
        for point in zip(*(side.tolist() for side in curve), strict=True)
    ]


def _ordered(values: NDArray[np.generic], levels: list[Level]) -> list[Level]:
    """The levels of a factor in their own order: categories come by size."""
    if values.dtype != object:
        return levels
    return sorted(levels, key=lambda level: _level_key(level.label))


def _top(groups: list[Lift]) -> str:
    """How much of all the highest group holds, in words."""
    return words.tenth(groups[-1].exposure / sum(group.exposure for group in groups))


def _shares(groups: Sequence[Lift] | Sequence[DoubleLift]) -> list[float]:
    total = sum(group.exposure for group in groups)
    return [group.exposure / total for group in groups]
