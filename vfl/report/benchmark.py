"""The section of the guest's page that has the model beside the present tariff."""

import itertools

import numpy as np

from vfl.learn.benchmark import CHANGES, QUANTILES, Benchmark, Segment, Tariffs, compare
from vfl.learn.binning import Features
from vfl.learn.bootstrap import Resamples
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
from vfl.report.evidence import HeldOut
from vfl.report.sections import MOST_FACTORS, Page, figure_of
from vfl.report.words import fixed, number, share
from vfl.text import counted

PRESENT = "present tariff"
_TOO_FEW = "too little happened to tell"
_TITLE = "Against the present tariff"
_COUNTED = 0.02  # share of exposure from which on a level is worth a sentence


class BenchmarkSection:
    """What is said of the model and the present tariff, on the rows held out that have a premium."""

    def __init__(self, page: Page, rate: words.RateWords, names: tuple[str, str]) -> None:
        self.page, self.rate, self.names = page, rate, names

    def section(self, held: HeldOut | None) -> PageSection:
        """The section; where nothing can be compared it says why."""
        beside = self.page.evidence.beside
        if held is None or beside.premium is None:
            return PageSection("benchmark", _TITLE, [beside.no_premium], [])
        every = held.charged or held.totals(self.names[0])
        other = held.totals(self.names[1])
        if (every.expected < 0).any() or (every.actual < 0).any():
            text = "Labels or predictions are below 0 in some rows: no premium has their total."
            return PageSection("benchmark", _TITLE, [text], [])
        chosen = beside.premium > 0  # NaN where there is none
        left_out = int((~chosen).sum())
        there = (one[chosen].any() for one in (chosen, every.expected, every.actual))
        why = ("has a premium above 0", "is expected to have anything happen", "had anything happen")
        lacking = next((text for text, some in zip(why, there, strict=True) if not some), None)
        if lacking is not None:
            text = f"Of the {counted(len(chosen), 'row')} held out none {lacking}."
            return PageSection("benchmark", _TITLE, [text], [])
        present = np.where(chosen, beside.premium, 1.0)
        rows = Tariffs(every.actual, every.expected, present, every.exposure).take(chosen)
        others = {}
        if not (other.expected < 0).any() and other.expected[chosen].any():
            others[self.names[1]] = other.expected[chosen]
        columns = {**self.page.evidence.factors, **beside.by}
        columns = {name: values[chosen] for name, values in columns.items()}
        policy = None if beside.policy is None else beside.policy[chosen]
        resamples = Resamples(len(rows.actual), policy)
        found = compare(rows, others, columns, resamples, self.names[0])
        lead = [
            f"The model beside the premium that {counted(found.rows, 'row')} of those held out pay now"
            + (
                f"; {counted(left_out, 'row')} without one, or with 0, are left out. "
                if left_out
                else ". "
            )
            + "Both tariffs are brought to one total, so that their order alone is compared, and a loss "
            f"ratio is that of all times the figure. {words.how_sure(resamples, policy is not None)}",
            self._verdict(found),
        ]
        sheet = self._sheet(found)
        blocks: list[PageBlock] = [
            self._tiles(found),
            Gallery(
                [self._double_lift(found), self._ratios(found), self._kept(found), self._changes(found)]
            ),
            self._measures(found, sheet),
        ]
        if found.segments:
            blocks += self._segments(found.segments, columns)
        return PageSection("benchmark", _TITLE, lead, blocks)

    def _verdict(self, found: Benchmark) -> str:
        """What the intervals let one say."""
        ours, theirs = found.over_present, found.over_ours
        if not ours.known:
            return "Too little happened on these rows to tell which of the two orders policies better."
        said = (
            f"Where the two tariffs disagree, the Gini index of what happened is "
            f"{words.estimated(ours, fixed)} in the model's order over the present premium"
        )
        if ours.low > 0:
            verdict = "the present tariff charges alike what the model tells apart, and rightly so"
        elif ours.high < 0:
            verdict = "what happened goes against the model's order"
        else:
            verdict = "0 is in the interval, so that these rows do not show the model to be better"
        text = f"{said}: {verdict}."
        if theirs.low > 0:
            text += (
                f" The other way round it is {words.estimated(theirs, fixed)}: the present tariff tells "
                "apart what the model does not, too."
            )
        return text

    def _tiles(self, found: Benchmark) -> Tiles:
        change = found.dislocation
        beside = "95 %: {}".format
        return Tiles(
            [
                Tile(
                    "Loss ratio, highest by lowest tenth",
                    f"{_two(found.spread.value)}\u00a0×" if found.spread.known else words.DASH,
                    beside(words.interval(found.spread, _two)) if found.spread.known else _TOO_FEW,
                ),
                Tile(
                    "Would pay over 10 % more",
                    share(change.more.value),
                    beside(words.interval(change.more, share)),
                ),
                Tile(
                    "Would pay over 10 % less",
                    share(change.less.value),
                    beside(words.interval(change.less, share)),
                ),
                Tile(
                    "Off-balance",
                    _number(found.off_balance.value),
                    f"to the present total; {beside(words.interval(found.off_balance, _number))}",
                ),
            ]
        )

    def _sheet(self, found: Benchmark) -> str:
        """All single figures."""
        change = found.dislocation
        rows = {
            "off_balance": found.off_balance,
            "gini_over_present": found.over_present,
            "gini_of_present_over_model": found.over_ours,
            "loss_ratio_highest_by_lowest_tenth": found.spread,
            **{
                f"change_at_{part:g}": one for part, one in zip(QUANTILES, change.quantiles, strict=True)
            },
            "share_over_10_percent_more": change.more,
            "share_over_10_percent_less": change.less,
        }
        head = ("measure", "value", "low", "high")
        return self.page.sheet("benchmark", head, [(name, *one) for name, one in rows.items()])

    def _measures(self, found: Benchmark, sheet: str) -> DataTable:
        change = found.dislocation
        rows: list[list[TableCell]] = [
            [("Gini over the present premium", "0: the model's order tells nothing"),
             words.with_interval(found.over_present, fixed)],
            [("Gini of the present tariff over the model", "0: the model leaves nothing to it"),
             words.with_interval(found.over_ours, fixed)],
            [("off-balance", "factor to the present total"),
             words.with_interval(found.off_balance, _number)],
        ]  # fmt: skip
        rows += [
            [
                (f"change at {share(part, 0)}", "new / present premium, by exposure"),
                words.with_interval(one, fixed),
            ]
            for part, one in zip(QUANTILES, change.quantiles, strict=True)
        ]
        return DataTable("Both tariffs in figures", ["measure", "value, 95 %"], rows, sheet=sheet)

    def _double_lift(self, found: Benchmark) -> FigureBlock:
        head = ("group", "rows", "exposure")
        names = ("actual", "ours", "present", "loss_ratio")
        sheet = self.page.sheet(
            "benchmark_groups",
            (*head, *(f"{name}{end}" for name in names for end in _ENDS)),
            [
                (place, g.rows, g.exposure, *(v for name in names for v in getattr(g, name)))
                for place, g in enumerate(found.groups, start=1)
            ],
        )
        message = (
            "Tenths by the ratio of both tariffs, each brought to the total of what happened; upright "
            "lines are intervals of what happened."
        )
        svg = figures.double_lift(
            shares=_shares([g.exposure for g in found.groups]),
            actual=[g.actual for g in found.groups],
            ours=[g.ours.value for g in found.groups],
            theirs=[g.present.value for g in found.groups],
            names=(self.names[0], PRESENT),
            rate=self.rate,
            message=message,
        )
        return figure_of("Double lift", message, svg, sheet)

    def _ratios(self, found: Benchmark) -> FigureBlock:
        ratios = [g.loss_ratio for g in found.groups]
        first, last = ratios[0], ratios[-1]
        said = [
            f"where the model would {what} premiums most, it is {words.estimated(one, _two)}"
            for what, one in (("lower", first), ("raise", last))
            if one.known
        ]
        message = f"The loss ratio of the present tariff, by that of all: {'; '.join(said) or _TOO_FEW}."
        svg = figures.loss_ratios(
            _shares([g.exposure for g in found.groups]), ratios, self.rate.size, message
        )
        return figure_of("Present loss ratio", message, svg, "benchmark_groups.csv")

    def _kept(self, found: Benchmark) -> FigureBlock:
        sheet = self.page.sheet(
            "benchmark_kept",
            ("model", "share_of_premium", "loss_ratio", "low", "high"),
            [(model, k.share, *k.loss_ratio) for model, kept in found.kept.items() for k in kept],
        )
        said = []
        for model, kept in found.kept.items():
            half = min(kept, key=lambda k: abs(k.share - 0.5))
            said.append(
                f"the best {share(half.share, 0)} by {model} have "
                f"{words.estimated(half.loss_ratio, _two)} times the loss ratio of all"
            )
        message = f"Of the present premium, {'; '.join(said)}."
        lines = {
            model: ([k.share for k in kept], [k.loss_ratio for k in kept])
            for model, kept in found.kept.items()
        }
        return figure_of("What is best to keep", message, figures.kept(lines, message), sheet)

    def _changes(self, found: Benchmark) -> FigureBlock:
        change, edges = found.dislocation, (0.0, *CHANGES, float("inf"))
        sheet = self.page.sheet(
            "benchmark_changes",
            ("from", "to", "share_of_exposure", "low", "high"),
            [
                (low, high, *one)
                for low, high, one in zip(edges[:-1], edges[1:], change.shares, strict=True)
            ],
        )
        message = (
            f"New by present premium: {words.estimated(change.more, share)} of {self.rate.size} would "
            f"pay over 10 % more, {words.estimated(change.less, share)} over 10 % less."
        )
        svg = figures.changes(_stretches(), change.shares, self.rate.size, message)
        return figure_of("Dislocation", message, svg, sheet)

    def _segments(self, segments: list[Segment], columns: Features) -> list[PageBlock]:
        sheet = self.page.sheet(
            "benchmark_segments",
            (
                *("column", "level", "rows", "exposure"),
                *(f"{name}{end}" for name in _OF_SEGMENT for end in _ENDS),
            ),
            [
                (s.column, s.level, s.rows, s.exposure, *(v for n in _OF_SEGMENT for v in getattr(s, n)))
                for s in segments
            ],
        )
        by_column: dict[str, list[Segment]] = {}
        for one in segments:
            by_column.setdefault(one.column, []).append(one)
        for column, of in by_column.items():
            if columns[column].dtype == object:
                of.sort(key=lambda one: words.level_key(one.level))
        items = [
            (column, self._segment(column, found, sheet))
            for column, found in list(by_column.items())[:MOST_FACTORS]
        ]
        note = (
            "By level of the guest's columns: what a level would pay by what it pays (change), and what "
            "happened by what either tariff takes for it."
        )
        return [Note(note), Picker("Column", items)]

    def _segment(self, column: str, found: list[Segment], sheet: str) -> PageBlock:
        total = sum(s.exposure for s in found)
        common = [s for s in found if s.exposure >= _COUNTED * total]
        low, high = (of(common or found, key=lambda s: s.change.value) for of in (min, max))
        message = (
            f"By {column}, premiums would change by factors from "
            f"{words.estimated(low.change, fixed)} at {low.level} to "
            f"{words.estimated(high.change, fixed)} at {high.level}."
        )
        svg = figures.by_level(
            [s.level for s in found],
            [s.change for s in found],
            [s.exposure for s in found],
            self.rate.size,
            "new / present premium",
            message,
        )
        rows: list[list[TableCell]] = [
            [s.level, f"{s.rows:,}", *(words.with_interval(getattr(s, n), _two) for n in _OF_SEGMENT)]
            for s in found
        ]
        head = ["level", "rows", "change", "actual / present", "actual / model"]
        table = DataTable(f"{column}: change of premiums", head, rows)
        return Pair([Gallery([figure_of(column, message, svg, sheet)]), table])


_ENDS = ("", "_low", "_high")
_OF_SEGMENT = ("change", "actual_present", "actual_ours")


def _shares(sizes: list[float]) -> list[float]:
    total = sum(sizes)
    return [size / total for size in sizes]


def _two(value: float) -> str:
    return fixed(value, 2)


def _number(value: float) -> str:
    return number(value, 4)


def _stretches() -> list[str]:
    """The names of the histogram's bars, in per cent of change."""
    said = [f"{round(100 * (edge - 1)):+d}".replace("-", "−").replace("+0", "0") for edge in CHANGES]
    between = [f"{low} to {high}" for low, high in itertools.pairwise(said)]
    return [f"below {said[0]} %", *between, f"{said[-1]} % and over"]
