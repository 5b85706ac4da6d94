"""The section of the guest's page on what happened and what was expected, by column."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vfl.learn.bootstrap import LEAST, Estimate, Resamples, Summed, estimates, quotients
from vfl.learn.metrics import Level, Totals, actual_against_expected, places_of_levels
from vfl.report import figures, words
from vfl.report.blocks import (
    DataTable,
    Gallery,
    Note,
    PageBlock,
    PageSection,
    Pair,
    Picker,
    TableCell,
)
from vfl.report.quality import Quality
from vfl.report.sections import MOST_FACTORS, Page, SheetRow, figure_of
from vfl.report.words import fixed
from vfl.text import counted

SureLevel = tuple[Level, Estimate, Estimate]
"""A level, its actual rate and its actual by expected, both with intervals."""

_TITLE = "By factor"


def factor_section(page: Page, quality: Quality) -> PageSection:
    """By level of the columns of the model, and of those that [data] names for reports."""
    one = page.evidence
    notes: list[PageBlock] = [Note(text) for text in one.beside.notes if "protected" not in text]
    columns = {**one.beside.by, **one.factors}
    if one.held_out is None or not columns:
        why = one.no_factors or f"{one.party} has no columns of its own in this model."
        return PageSection("factors", _TITLE, [why], notes)
    totals = one.held_out.totals(quality.names[0])
    gains = {column: gain for party, column, _, gain in one.importance if party == one.party}
    ordered = sorted(columns, key=lambda name: (name not in one.beside.by, -gains.get(name, 0.0)))
    levels = {name: _sure_levels(columns[name], totals, quality.resamples) for name in ordered}
    head = ("column", "level", "rows", "exposure", "actual", "expected", "ratio")
    sheet = page.sheet(
        "factors",
        (*head, "actual_low", "actual_high", "ratio_low", "ratio_high"),
        [
            (name, v.label, v.rows, v.exposure, v.actual, v.expected, v.ratio, *actual[1:], *ratio[1:])
            for name, found in levels.items()
            for v, actual, ratio in found
        ],
    )
    shown = list(levels.items())[:MOST_FACTORS]
    items = [(name, _factor(quality.rate, name, found, sheet)) for name, found in shown]
    lead = (
        "What happened and what the federation's model expected, by level of the columns of "
        f"{one.party}, on the rows held out. Numbers are in groups of about "
        f"{words.equal(quality.rate.size)}. Intervals are as in Quality."
    )
    if quality.loss_ratio is not None:
        lead += (
            " Of this tariff what is expected is the premium, brought to what happened in all (Quality)."
        )
    if len(levels) > len(items):
        lead += f" Here are {len(items)} of {len(levels):,} columns; {sheet} has all."
    return PageSection("factors", _TITLE, [lead], [*notes, Picker("Column", items)])


def _sure_levels(values: NDArray[np.generic], totals: Totals, resamples: Resamples) -> list[SureLevel]:
    """The levels of a column in their own order, with intervals."""
    levels = actual_against_expected(values, *totals)
    places, labels = places_of_levels(values, totals.exposure)
    count = len(labels)
    known = resamples.counts(places, count, totals.actual != 0) >= LEAST
    drawn = resamples.sums([Summed(places, count, one) for one in totals])
    there = np.unique(places)
    actual = estimates(
        np.array([v.actual for v in levels]), quotients(drawn[0], drawn[2])[:, there], known[there]
    )
    ratio = estimates(
        np.array([v.ratio for v in levels]), quotients(drawn[0], drawn[1])[:, there], known[there]
    )
    found = list(zip(levels, actual, ratio, strict=True))
    if values.dtype != object:
        return found
    return sorted(found, key=lambda one: words.level_key(one[0].label))


def _factor(rate: words.RateWords, name: str, found: list[SureLevel], sheet: str) -> PageBlock:
    levels = [level for level, *_ in found]
    one_each = rate.size in ("policies", "rows")  # no exposure and no weights
    known = [ratio for *_, ratio in found if ratio.known]
    apart = [(level, ratio) for level, _, ratio in found if not ratio.has(1)]
    message = f"Actual and expected {rate.name} by {name}: too little happened for any interval."
    if known:
        message = (
            f"By {name}, {len(apart)} of {counted(len(known), 'level')} with an interval of actual / "
            f"expected have one without 1; about {fixed(0.05 * len(known), 1)} would by chance."
        )
        if apart:
            level, ratio = max(apart, key=lambda one: abs(np.log(max(one[1].value, 1e-9))))
            message += f" The furthest is {level.label}: {words.estimated(ratio, _two)}."
    svg = figures.factor(
        levels=[v.label for v in levels],
        actual=[actual for _, actual, _ in found],
        expected=[v.expected for v in levels],
        sizes=[v.exposure for v in levels],
        size=rate.size,
        rate=rate.name,
        percent=rate.percent,
        message=message,
    )
    exposures: list[TableCell] = [*words.alike([v.exposure for v in levels])]
    columns: list[list[TableCell]] = [
        [v.label for v in levels],
        [f"{v.rows:,}" for v in levels],
        *([] if one_each else [exposures]),
        [*words.rates([v.actual for v in levels], rate.percent)],
        [*words.rates([v.expected for v in levels], rate.percent)],
        [words.with_interval(ratio, _two) for *_, ratio in found],
    ]
    rows = [list(row) for row in zip(*columns, strict=True)]
    sizes = [rate.size] if one_each else ["rows", rate.size]
    head = ["level", *sizes, "actual", "expected", "ratio"]
    table = DataTable(f"{name}: {rate.name}, actual and expected", head, rows)
    return Pair([Gallery([figure_of(name, message, svg, sheet)]), table])


def _two(value: float) -> str:
    return fixed(value, 2)


# --- Whether factors hold over time, or over whatever else. -------------------------------------------


def stability_sections(page: Page, quality: Quality) -> list[PageSection]:
    """Actual by expected of each factor's levels by the columns under report_by in [data]; none where
    there is none."""
    one = page.evidence
    if one.held_out is None or not one.beside.by or not one.factors:
        return []
    totals = one.held_out.totals(quality.names[0])
    tables: list[tuple[str, DataTable]] = []
    lines: list[SheetRow] = []
    for by, values in one.beside.by.items():
        for name, factor in one.factors.items():
            table, found = _crossed(name, factor, by, values, totals, quality.resamples)
            lines += found
            if table is not None and len(tables) < MOST_FACTORS:
                tables.append((f"{name} by {by}", table))
    if not tables:
        return []
    sheet = page.sheet(
        "factors_by",
        (
            *("column", "level", "by", "value", "rows", "exposure"),
            *("actual", "expected", "ratio", "ratio_low", "ratio_high"),
        ),
        lines,
    )
    lead = (
        "Actual by expected of each factor's levels, by the values of "
        f"{words.listed(list(one.beside.by))}: a level whose effect changes has another figure in each "
        f"column. Here are {_MOST_VALUES} values at most, the last; {sheet} has all. Intervals are as "
        "in Quality."
    )
    items: list[tuple[str, PageBlock]] = [(name, replace(table, sheet=sheet)) for name, table in tables]
    return [PageSection("stability", "Whether factors hold", [lead], [Picker("Factor", items)])]


_MOST_VALUES = 4


def _crossed(
    name: str,
    factor: NDArray[np.generic],
    by: str,
    values: NDArray[np.generic],
    totals: Totals,
    resamples: Resamples,
) -> tuple[DataTable | None, list[SheetRow]]:
    """A table of levels by values, and its cells as lines."""
    place, labels = places_of_levels(factor, totals.exposure)
    across, names = places_of_levels(values, totals.exposure)
    cell, count = place * len(names) + across, len(labels) * len(names)
    sums = [np.bincount(cell, one, count).astype(np.float64) for one in totals]
    rows = np.bincount(cell, minlength=count)
    known = resamples.counts(cell, count, totals.actual != 0) >= LEAST
    drawn = resamples.sums([Summed(cell, count, one) for one in totals[:2]])
    found = estimates(quotients(sums[0], sums[1]), quotients(drawn[0], drawn[1]), known)
    levels = [i for i in range(len(labels)) if rows.reshape(len(labels), -1)[i].any()]
    columns = [j for j in range(len(names)) if rows.reshape(len(labels), -1)[:, j].any()]
    columns.sort(key=lambda j: words.level_key(names[j]))
    if factor.dtype == object:
        levels.sort(key=lambda i: words.level_key(labels[i]))
    lines: list[SheetRow] = []
    for i in levels:
        for j in columns:
            at = i * len(names) + j
            if rows[at]:
                size, actual, expected = sums[2][at], sums[0][at], sums[1][at]
                rates = (float(actual / size), float(expected / size))
                lines.append(
                    (name, labels[i], by, names[j], int(rows[at]), float(size), *rates, *found[at])
                )
    sure = [one for one in found if one.known]
    if len(columns) < 2 or not sure:
        return None, lines
    apart = sum(not one.has(1) for one in sure)
    shown = columns[-_MOST_VALUES:]
    cells: list[list[TableCell]] = [
        [labels[i], *(words.with_interval(found[i * len(names) + j], _two) for j in shown)]
        for i in levels
    ]
    caption = (
        f"{name} by {by}: actual / expected. Of {counted(len(sure), 'cell')} with an interval {apart} "
        f"have one without 1; about {fixed(0.05 * len(sure), 1)} would by chance."
    )
    return DataTable(caption, ["level", *(names[j] for j in shown)], cells), lines
