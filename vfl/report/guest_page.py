"""The sections of the guest's page: how good the model is, what its columns do, how it was trained."""

import numpy as np

from vfl.models.dependence import Dependence
from vfl.report import figures, words
from vfl.report.benchmark import BenchmarkSection
from vfl.report.blocks import (
    FigureBlock,
    Gallery,
    Note,
    PageBlock,
    PageSection,
    Pair,
    TableCell,
    Tile,
    Tiles,
)
from vfl.report.classes import ClassQuality
from vfl.report.evidence import TOGETHER, Evidence
from vfl.report.factor_tables import table_blocks
from vfl.report.factors import factor_section, stability_sections
from vfl.report.fairness import fairness_sections
from vfl.report.quality import Quality
from vfl.report.sections import MOST_BARS, MOST_FACTORS, Page, cells, figure_of
from vfl.report.words import listed, number, share
from vfl.text import counted

_SHARE_OF_GAIN = "% of the gain"
_MOST_TILES = 8  # of a row of parties


class GuestPage(Page):
    def __init__(self, evidence: Evidence) -> None:
        super().__init__(evidence)
        self.rate = words.RateWords.of(evidence)
        self.names = (TOGETHER, evidence.alone)
        self.quality = Quality(self, self.rate, self.names)
        self.of_classes = ClassQuality(self, self.names) if evidence.loss.classes > 1 else None

    def sections(self) -> list[PageSection]:
        of_means = self.evidence.loss.quantile is None and self.of_classes is None
        return [
            self._summary(),
            (self.of_classes or self.quality).section(),
            *(self._of_means() if of_means else []),
            self._drivers(),
            self._training(),
            self.gave_away(),
            self.exchange(),
        ]

    def _of_means(self) -> list[PageSection]:
        """What compares totals with the sums of predictions."""
        return [
            *self._benchmark(),
            factor_section(self, self.quality),
            *stability_sections(self, self.quality),
            *self._partners(),
            *fairness_sections(self, self.quality),
        ]

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
        if one.held_out is not None and self.of_classes is not None:
            tiles += self.of_classes.tiles()
        elif one.held_out is not None:
            lead.append(self.quality.lift_words())
            tiles += self.quality.tiles()
        sent, received = sum(one.sent.values()), sum(one.received.values())
        tiles.append(
            Tile(
                "Cost",
                words.duration(one.seconds),
                f"{words.volume(sent)} out, {words.volume(received)} in",
            )
        )
        return PageSection("summary", "Summary", lead, [*self.warnings(), Tiles(tiles), self.request()])

    # 2. Against the present tariff.

    def _benchmark(self) -> list[PageSection]:
        """None where no present premium is named."""
        held, beside = self.evidence.held_out, self.evidence.beside
        if beside.premium is None and not beside.no_premium:
            return []
        return [BenchmarkSection(self, self.rate, self.names).section(held)]

    # 3. By factors of the other companies.

    def _partners(self) -> list[PageSection]:
        tables = self.evidence.tables
        if not tables:
            return []
        lead = (
            "What happened and what the federation's model expected on the rows held out, by factors of "
            "the other companies, as vfl oneway was told. Levels of few rows are together, or withheld."
        )
        blocks = table_blocks(self, tables, self.rate)
        return [PageSection("partners", "By partners' factors", [lead], blocks)]

    # 4. Of all columns, and of the guest's own.

    def _drivers(self) -> PageSection:
        one, title = self.evidence, "What drives it"
        if one.kind.has_relativities:
            lead = (
                "Relativities of all columns, over the rows of all parties, each of which has them."
                if one.over_rows
                else f"Relativities of the columns of {one.party}. Those of the other parties' columns "
                "stay with their owners, whose own reports show them."
            )
            return PageSection("drivers", title, [lead], self.relativity_blocks())
        if not one.importance:
            return PageSection("drivers", title, ["The trees have no split."], [])
        if one.over_rows:
            lead = "Gain is by how much the splits on a column lower the training loss of all rows."
            return PageSection(
                "drivers", title, [lead], [self._shared_importance(), *self._dependence()]
            )
        sheet = self.sheet("importance", ("party", "column", "splits", "gain"), one.importance)
        total = sum(gain for *_, gain in one.importance)
        party, column, _, gain = one.importance[0]
        message = _most_gain(f"{column} ({party})", gain / total)
        top = [(p, c, g / total * 100) for p, c, _, g in one.importance[:MOST_BARS]]
        svg = figures.importance(top, one.parties, _SHARE_OF_GAIN, message)
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

    def _shared_importance(self) -> PageBlock:
        """The importance of columns that all parties have, which are nobody's own."""
        found = [(column, splits, gain) for _, column, splits, gain in self.evidence.importance]
        sheet = self.sheet("importance", ("column", "splits", "gain"), found)
        total = sum(gain for *_, gain in found)
        message = _most_gain(found[0][0], found[0][2] / total)
        top = [(column, gain / total * 100) for column, _, gain in found[:MOST_BARS]]
        svg = figures.bars(top, _SHARE_OF_GAIN, message)
        parts = words.shares([gain for *_, gain in found], 1)
        rows: list[list[TableCell]] = [
            [column, f"{splits:,}", number(gain, 4), part]
            for (column, splits, gain), part in zip(found, parts, strict=True)
        ]
        table = cells("Importance of all columns", ["column", "splits", "gain", "of all"], rows, text=1)
        return Pair([Gallery([figure_of("Importance by column", message, svg, sheet)]), table])

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
            rate=self.rate.predicted or self.rate.name,
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


def _most_gain(column: str, part: float) -> str:
    return f"{column} makes {share(part, 0)} of the gain, the most of all."
