"""The section of the guest's page on protected classes."""

from dataclasses import replace

import numpy as np

from vfl.learn.fairness import (
    FOLDS,
    ClassFigures,
    ClassRows,
    Fairness,
    Proxy,
    by_class,
    classes_of,
    proxies,
)
from vfl.learn.losses import LogisticLoss
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
from vfl.report.sections import Page, cells, figure_of
from vfl.report.words import fixed
from vfl.text import counted

_TITLE = "By protected class"
_MEASURES = {
    "mean_prediction_difference": ("mean prediction, difference", "greatest less least; 0: parity"),
    "mean_prediction_ratio": ("mean prediction, ratio", "least by greatest; 1: parity"),
    "actual_expected_difference": ("actual / expected, difference", "0: as well calibrated for all"),
    "actual_expected_ratio": ("actual / expected, ratio", "1: as well calibrated for all"),
    "present_premium_ratio": ("present premium, ratio", "least by greatest, by exposure"),
    "demographic_parity_difference": ("demographic parity, difference", "of shares above the mean"),
    "demographic_parity_ratio": ("demographic parity, ratio", "of shares above the mean"),
    "equal_opportunity_difference": ("equal opportunity, difference", "of true positive rates"),
    "equalized_odds_difference": ("equalized odds, difference", "of true or false positive rates"),
    "equalized_odds_ratio": ("equalized odds, ratio", "of true or false positive rates"),
}


def fairness_sections(page: Page, quality: Quality) -> list[PageSection]:
    """By class of the columns under protected in [data]; none where there is none."""
    one = page.evidence
    notes = [text for text in one.beside.notes if "protected" in text]
    if one.held_out is None or not (one.beside.protected or notes):
        return []
    blocks: list[PageBlock] = [Note(text) for text in notes]
    found: dict[str, Fairness] = {}
    rows = _rows(quality)
    binary = isinstance(one.loss, LogisticLoss)
    for name, values in one.beside.protected.items():
        classes = classes_of(values, one.beside.least)
        if classes is None:
            blocks.append(
                Note(
                    f"{name} has no two classes of {counted(one.beside.least, 'row')} or more "
                    "(min_child_rows in [policy]): nothing is told of it."
                )
            )
            continue
        rate = rows.ours / rows.exposure
        told = proxies(classes, one.factors, rate, one.beside.policy)
        found[name] = replace(by_class(classes, rows, binary, quality.resamples), proxies=told)
    if found:
        sheets = _sheets(page, found)
        items = [(name, _column(page, quality, name, one, sheets)) for name, one in found.items()]
        blocks.append(Picker("Column", items))
    lead = (
        "Predictions by classes that are no feature of the model, on the rows held out. Classes of "
        f"fewer than {counted(one.beside.least, 'row')} are told as one with others. Measures are "
        "as in fairlearn; the difference of the greatest and the least is above 0 by chance alone, too. "
        f"The proxy test is of the columns of {one.party} alone, by trees that are tried on other "
        f"policies than they were trained on ({FOLDS} folds). Intervals are as in Quality."
    )
    return [PageSection("fairness", _TITLE, [lead], blocks)]


def _rows(quality: Quality) -> ClassRows:
    held, beside = quality.held, quality.evidence.beside
    totals = held.totals(quality.names[0])
    if beside.premium is None or (totals.expected < 0).any():
        return ClassRows(totals.actual, totals.expected, totals.exposure)
    there = beside.premium > 0
    present = np.where(there, beside.premium, 0.0)
    return ClassRows(
        totals.actual, totals.expected, totals.exposure, present, np.where(there, totals.expected, 0.0)
    )


_OF_CLASS = ("actual", "expected", "ratio", "against_rest", "change", "present")


def _sheets(page: Page, found: dict[str, Fairness]) -> tuple[str, str, str]:
    ends = ("", "_low", "_high")
    none = (None, None, None)
    by_classes = page.sheet(
        "fairness",
        (
            *("column", "class", "rows", "exposure"),
            *(f"{name}{end}" for name in _OF_CLASS for end in ends),
        ),
        [
            (column, c.name, c.rows, c.exposure, *(v for n in _OF_CLASS for v in getattr(c, n) or none))
            for column, one in found.items()
            for c in one.classes
        ],
    )
    parity = page.sheet(
        "fairness_parity",
        ("column", "measure", "value", "low", "high"),
        [(column, name, *value) for column, one in found.items() for name, value in one.parity.items()],
    )
    proxy = page.sheet(
        "fairness_proxy",
        ("column", "class", "by", "auc", "low", "high"),
        [(column, p.name, p.by, *p.auc) for column, one in found.items() for p in one.proxies],
    )
    return by_classes, parity, proxy


def _column(
    page: Page, quality: Quality, name: str, found: Fairness, sheets: tuple[str, str, str]
) -> PageBlock:
    rate = quality.rate
    message = _said(found.classes)
    svg = figures.by_level(
        [one.name for one in found.classes],
        [one.ratio for one in found.classes],
        [one.exposure for one in found.classes],
        rate.size,
        "actual / expected",
        message,
    )
    premium = found.classes[0].change is not None
    rows: list[list[TableCell]] = [
        [
            (c.name, counted(c.rows, "row")),
            words.with_interval(c.expected, lambda value: words.rates([value], rate.percent)[0]),
            words.with_interval(c.against_rest, _two),
            words.with_interval(c.ratio, _two),
            *([words.with_interval(c.change, _two)] if c.change is not None else []),
        ]
        for c in found.classes
    ]
    head = ["class", "expected", "by the rest", "actual / expected"]
    head += ["new / present"] if premium else []
    table = DataTable(f"{name}: {rate.name}", head, rows, sheet=sheets[0])
    measures: list[list[TableCell]] = [
        [_MEASURES[key], words.with_interval(value, fixed)] for key, value in found.parity.items()
    ]
    parity = cells("Parity", ["measure", "value, 95 %"], measures, sheet=sheets[1])
    blocks: list[PageBlock] = [Gallery([figure_of(name, message, svg, sheets[0])]), table, parity]
    if found.proxies:
        told: list[list[TableCell]] = [
            [(p.name, _proxy(p, page.evidence.party)), words.with_interval(p.auc, fixed)]
            for p in found.proxies
        ]
        head = ["class against the rest", "AUC, 95 %"]
        blocks.append(DataTable("Proxy test", head, told, sheet=sheets[2]))
    return Pair(blocks)


def _said(classes: list[ClassFigures]) -> str:
    """What the intervals let one say of calibration."""
    known = [one for one in classes if one.ratio.known]
    apart = [one for one in known if not one.ratio.has(1)]
    if not known:
        return "Too little happened to tell whether the model is right for each class."
    said = (
        f"Of {counted(len(known), 'class', 'classes')} with an interval of actual / expected, "
        f"{len(apart)} have one without 1; about {fixed(0.05 * len(known), 1)} would by chance."
    )
    for one in apart[:3]:
        said += f" {one.name}: {words.estimated(one.ratio, _two)}."
    return said


def _proxy(one: Proxy, party: str) -> str:
    by = f"the columns of {party} together" if one.by == "factors" else "the prediction alone"
    if not one.auc.known or one.auc.has(0.5):
        return f"by {by}: chance alone would do, as far as these rows tell"
    return f"by {by}: it is told from the rest better than by chance"


def _two(value: float) -> str:
    return fixed(value, 2)
