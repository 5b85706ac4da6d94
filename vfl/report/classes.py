"""The section of the guest's page that says how good a model of several classes is."""

import math
from collections.abc import Sequence

import numpy as np

from vfl.arrays import Floats
from vfl.learn.bootstrap import (
    LEAST,
    Estimate,
    Summed,
    estimate,
    estimates,
    one_group,
    quotients,
)
from vfl.learn.class_metrics import by_class, confusion
from vfl.learn.metrics import quantile_groups
from vfl.report import figures, words
from vfl.report.blocks import DataTable, FigureBlock, Gallery, PageSection, TableCell, Tile
from vfl.report.held_quality import HeldOutQuality
from vfl.report.sections import Page, SheetRow, cells, figure_of
from vfl.report.words import fixed, share
from vfl.text import counted

_CALIBRATION = 5  # groups
_MEASURES = ("log_loss", "accuracy", "auc_ovr")


class ClassQuality(HeldOutQuality):
    """How good the model is, and that of the guest alone; `names` are both, in this order."""

    def __init__(self, page: Page, names: tuple[str, str]) -> None:
        super().__init__(page, names)
        self.classes = page.evidence.classes

    def section(self) -> PageSection:
        """All of it."""
        if self.evidence.held_out is None:
            text = "No rows were held out (holdout is 0 in the job file): the quality is not known."
            return PageSection("quality", "Quality", [text], [])
        one, held = self.evidence, self.held
        lead = [
            f"All figures are of {counted(len(held.label), 'row')} that all parties know and that "
            f"trained nothing. “{one.alone}” is the same method on the columns of {one.party} and the "
            f"same rows. {words.how_sure(self.resamples, one.beside.policy is not None)}",
            "A row is predicted to be of its likeliest class. Counts are of the label of this party "
            "alone: no other party has them.",
            *words.how_held_out(one),
        ]
        tables = [self._measures(), self._by_class(), self._confusion()]
        drawn = Gallery([self._calibration(number) for number in range(len(self.classes))])
        return PageSection("quality", "Quality", lead, [*tables, drawn])

    def tiles(self) -> list[Tile]:
        """What a manager reads first."""
        found = []
        for key, shown in (("accuracy", share), ("log_loss", fixed), ("auc_ovr", fixed)):
            ours, theirs = (self._measure(name, key) for name in self.names)
            beside = f"95 %: {words.interval(ours, shown)}; " if ours.known else ""
            beside += f"{self.evidence.alone}: {shown(theirs.value)}"
            found.append(Tile(words.METRICS[key][0], shown(ours.value), beside))
        return found

    def _measure(self, name: str, key: str) -> Estimate:
        value = self.evidence.metrics.get(name, {}).get(key, math.nan)
        draws = self._draws(name, key)
        return Estimate(value) if draws is None else estimate(value, draws)

    def _draws(self, name: str, key: str) -> Floats | None:
        """A measure in each draw of the rows, of those that are means."""
        held = self.held
        label, probability = held.label.astype(np.int64), held.predictions[name]
        if key == "log_loss":
            own = np.take_along_axis(probability, label[:, np.newaxis], axis=1)[:, 0]
            values = -np.log(np.maximum(own, np.finfo(np.float64).eps))
        elif key == "accuracy":
            values = (probability.argmax(axis=1) == label).astype(np.float64)
        else:
            return None
        sums = self.resamples.sums([one_group(held.weight * values), one_group(held.weight)])
        return np.asarray(quotients(*sums)[:, 0])

    def _measures(self) -> DataTable:
        rows, sheet_rows = list[list[TableCell]](), list[SheetRow]()
        for key in _MEASURES:
            a, b = (self._measure(name, key) for name in self.names)
            draws = [self._draws(name, key) for name in self.names]
            less = Estimate(a.value - b.value)
            if draws[0] is not None and draws[1] is not None:
                less = estimate(less.value, draws[0] - draws[1])
            shown = [words.with_interval(one, _four) for one in (a, b)]
            signed = words.with_interval(less, lambda value: words.signed(value, 4))
            rows.append([words.METRICS[key], *shown, signed])
            sheet_rows.append((key, a.value, b.value, a.low, a.high, b.low, b.high, *less))
        ends = [f"{name} {end}" for name in self.names for end in ("low", "high")]
        head = ("measure", *self.names, *ends, "difference", "difference low", "difference high")
        sheet = self.page.sheet("metrics", head, sheet_rows)
        shown_head = ["measure", self.names[0], self.evidence.alone, "difference"]
        return DataTable("Measures on held-out rows", shown_head, rows, sheet=sheet)

    def _by_class(self) -> DataTable:
        """Each class against the rest."""
        held, rows, sheet_rows = self.held, list[list[TableCell]](), list[SheetRow]()
        for name in self.names:
            found = by_class(held.label, held.predictions[name], held.weight)
            for of, one in zip(self.classes, found, strict=True):
                figures_of = (one.share, one.expected, one.auc, one.recall, one.precision)
                sheet_rows.append((name, of, one.rows, *figures_of))
                shares = [share(value) for value in (one.share, one.expected)]
                told = [share(value) for value in (one.recall, one.precision)]
                rows.append([of, name, f"{one.rows:,}", *shares, fixed(one.auc), *told])
        head = ["rows", "share", "expected", "AUC", "recall", "precision"]
        sheet = self.page.sheet("classes", ("model", "class", *map(str.lower, head)), sheet_rows)
        title = "Each class against the rest"
        return cells(title, ["class", "model", *head], rows, text=2, sheet=sheet)

    def _confusion(self) -> DataTable:
        """How many rows of each class the common model says are of each."""
        counts = confusion(self.held.label, self.held.predictions[self.names[0]])
        told = [(of, *own) for of, own in zip(self.classes, counts.tolist(), strict=True)]
        sheet = self.page.sheet("confusion", ("class", *self.classes), told)
        rows: list[list[TableCell]] = [[of, *(f"{own:,}" for own in many)] for of, *many in told]
        title = "Confusion matrix of the federation: rows by class, across by what is predicted"
        return DataTable(title, ["class", *self.classes], rows, sheet=sheet)

    def _calibration(self, number: int) -> FigureBlock:
        """What was expected of a class, and what came, by its probability."""
        held, of = self.held, self.classes[number]
        is_it = held.weight * (held.label == number)
        models, rows = {}, list[SheetRow]()
        for name in self.names:
            own = held.predictions[name][:, number]
            group = quantile_groups(own, held.weight, _CALIBRATION)
            count = int(group.max()) + 1
            known = self.resamples.counts(group, count, is_it != 0) >= LEAST
            sides = [is_it, held.weight]
            point = [np.bincount(group, side, count).astype(np.float64) for side in sides]
            draws = quotients(*self.resamples.sums([Summed(group, count, side) for side in sides]))
            sure = estimates(quotients(*point), draws, known)
            total = np.bincount(group, held.weight * own, count).astype(np.float64)
            expected = quotients(total, point[1]).tolist()
            models[name] = (expected, sure)
            many = np.bincount(group, minlength=count).tolist()
            rows += [
                (of, name, place, *each[:2], *each[2])
                for place, each in enumerate(zip(many, expected, sure, strict=True), start=1)
            ]
        head = ("class", "model", "group", "rows", "expected", "actual", "actual_low", "actual_high")
        sheet = self._add_to("class_calibration", head, rows)
        ours = by_class(held.label, held.predictions[self.names[0]], held.weight)[number]
        message = (
            f"The federation expects {share(ours.expected)} of rows to be {of}, {share(ours.share)} "
            "are. On the dotted line, expected and actual are equal; upright lines are intervals."
        )
        svg = figures.calibration(models, f"share of {of}", True, message)
        return figure_of(f"Calibration of {of}", message, svg, sheet)

    def _add_to(self, name: str, head: SheetRow, rows: Sequence[SheetRow]) -> str:
        """Add rows to a table beside the page."""
        _, *before = self.page.sheets.get(name, [head])
        return self.page.sheet(name, head, [*before, *rows])


def _four(value: float) -> str:
    return fixed(value, 4)
