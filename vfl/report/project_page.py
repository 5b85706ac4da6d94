"""The page of a project: frequency, severity, and what they come to together, on the rows held out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vfl.learn.bootstrap import LEAST, Estimate, estimate, one_group, quotients
from vfl.learn.claims import Part
from vfl.report import words
from vfl.report.benchmark import BenchmarkSection
from vfl.report.blocks import DataTable, Facts, Note, PageBlock, PageSection, TableCell, Tile, Tiles
from vfl.report.evidence import TOGETHER, Evidence
from vfl.report.factors import factor_section, stability_sections
from vfl.report.fairness import fairness_sections
from vfl.report.page import PAGE, SHEETS, PageHead, Told, csv_of, write_page
from vfl.report.quality import Quality
from vfl.report.sections import Page, SheetRow
from vfl.report.words import fixed, listed, share
from vfl.text import counted

PREMIUM = "pure_premium"
"""What the models come to together, among the parts."""

_WORDS: Mapping[str, words.RateWords] = {
    "frequency": words.RateWords("The frequency", "claim frequency", False, "claims", "exposure"),
    "severity": words.RateWords("The severity", "mean capped claim", False, "capped losses", "claims"),
    "tweedie": words.RateWords("The losses", "mean capped losses", False, "capped losses", "exposure"),
    PREMIUM: words.RateWords("The pure premium", "pure premium", False, "losses", "exposure"),
}
_TITLES = {
    "frequency": "Frequency",
    "severity": "Severity",
    "tweedie": "Losses by themselves (Tweedie)",
    PREMIUM: "Pure premium: frequency x severity x load",
}
PROJECT_FILES = frozenset(
    {PAGE, "summary.csv", "load.csv"}
    | {f"{sheet}.csv" for sheet in SHEETS}
    | {f"{part}-{sheet}.csv" for part in ("frequency", "severity", "tweedie") for sheet in SHEETS}
)
"""All files that such a page may come with."""


@dataclass(frozen=True)
class ProjectEvidence:
    """A project as its guest saw it.

    parts: each model's run. combined: what they come to, as a run of losses; None where no row was held
    out. loads: rows that have a load of their own by segment, and the load; the first is that of all.
    """

    project: str  # full name
    name: str
    purpose: str
    models: Mapping[Part, str]
    parts: Mapping[Part, Evidence]
    combined: Evidence | None
    cap: float | None
    loads: Sequence[tuple[str, float]]


def render_project(one: ProjectEvidence, told: Told | None = None) -> dict[str, bytes]:
    """The files of a project's report by name; the summary goes into `told` as well."""
    first = one.parts["frequency"]
    page = _Sheets(first, {}, "")
    sections = _sections(one, page)
    head = PageHead(
        title=one.name,
        over=f"Report of {first.party}, guest",
        purpose=one.purpose,
        ended=max(part.ended for part in one.parts.values()),
        party=first.party,
        version=first.version,
        about=f"project {one.project}",
    )
    if told is not None and "summary" in page.sheets:
        names, *rows = page.sheets["summary"]
        told["summary"] = [dict(zip(map(str, names), row, strict=True)) for row in rows]
    files = {PAGE: write_page(head, sections).encode()}
    return files | {f"{name}.csv": csv_of(rows) for name, rows in page.sheets.items()}


class _Sheets(Page):
    """The page of one model, whose tables lie beside those of the others under its name."""

    def __init__(self, evidence: Evidence, sheets: dict[str, list[SheetRow]], prefix: str) -> None:
        super().__init__(evidence)
        self.sheets, self._prefix = sheets, prefix

    def sheet(self, name: str, head: SheetRow, rows: Iterable[SheetRow]) -> str:
        return super().sheet(f"{self._prefix}{name}", head, rows)


def _sections(one: ProjectEvidence, page: _Sheets) -> list[PageSection]:
    qualities: dict[str, Quality] = {}
    if one.combined is not None:
        qualities[PREMIUM] = _quality(PREMIUM, one.combined, page.sheets, "")
    for part, evidence in one.parts.items():
        qualities[part] = _quality(part, evidence, page.sheets, f"{part}-")
    sections = [_summary(one, qualities, page)]
    if one.combined is not None:
        sections += _premium(qualities[PREMIUM])
    for part in one.parts:
        section = replace(qualities[part].section(), anchor=part, title=_TITLES[part])
        sections.append(section)
    return [*sections, _models(one)]


def _quality(part: str, evidence: Evidence, sheets: dict[str, list[SheetRow]], prefix: str) -> Quality:
    names = (TOGETHER, evidence.alone)
    return Quality(_Sheets(evidence, sheets, prefix), _WORDS[part], names)


def _summary(one: ProjectEvidence, qualities: Mapping[str, Quality], page: _Sheets) -> PageSection:
    first = one.parts["frequency"]
    cap = "" if one.cap is None else f" Claims count up to {one.cap:,.0f} in severity."
    lead = [
        f"Claims of {first.party}'s policies, modelled together with {listed(first.parties[1:])} for "
        f"{one.purpose}: how many claims there are, what a claim costs, and the product of both and of "
        f"the large-loss load.{cap}"
    ]
    if one.combined is None:
        lead.append("No rows were held out (holdout is 0): the quality is not known.")
        return PageSection("summary", "Summary", lead, [_loads(one, page)])
    premium = qualities[PREMIUM]
    lead.append(premium.lift_words())
    tiles = [
        Tile("Actual by expected", *_tile(_actual_expected(premium, premium.names[0]))),
        *premium.tiles(),
    ]
    return PageSection(
        "summary", "Summary", lead, [Tiles(tiles), _measures(qualities, page), _loads(one, page)]
    )


def _tile(one: Estimate) -> tuple[str, str]:
    beside = f"95 %: {words.interval(one, fixed)}" if one.known else "too few claims to tell how sure"
    return fixed(one.value), beside


def _actual_expected(quality: Quality, name: str) -> Estimate:
    """What happened by what was expected, on all rows held out."""
    rows = quality.held.totals(name)
    expected = float(rows.expected.sum())
    if not expected > 0:
        return Estimate(float("nan"))
    value = float(rows.actual.sum()) / expected
    sums = quality.resamples.sums([one_group(rows.actual), one_group(rows.expected)])
    (some,) = quality.resamples.counts(np.zeros(len(rows.actual), np.int64), 1, rows.actual != 0)
    return estimate(value, quotients(sums[0], sums[1])[:, 0]) if some >= LEAST else Estimate(value)


def _measures(qualities: Mapping[str, Quality], page: _Sheets) -> DataTable:
    """Actual by expected, Gini and the lift of the highest tenth of each part and model."""
    rows: list[list[TableCell]] = []
    sheet: list[SheetRow] = []
    for part, quality in qualities.items():
        for name in quality.names:
            found = {
                "actual_by_expected": _actual_expected(quality, name),
                "gini": quality.measure(name, "gini"),
                "d2": quality.measure(name, "d2"),
                "lift": quality.lift_estimates[name][-1],
            }
            sheet += [(part, name, measure, *one) for measure, one in found.items()]
            said = {"d2": share}
            cells = [words.with_interval(e, said.get(m, fixed)) for m, e in found.items()]
            rows.append([_TITLES[part], name, *cells])
    at = page.sheet("summary", ("part", "model", "measure", "value", "low", "high"), sheet)
    head = ["", "model", "actual by expected", "Gini", "D²", "lift of the top tenth"]
    return DataTable("On the rows held out, with intervals of 95 %", head, rows, text=2, sheet=at)


def _loads(one: ProjectEvidence, page: _Sheets) -> PageBlock:
    if one.cap is None:
        return Note("No claim is capped (cap in [project]): the load is 1.")
    sheet = page.sheet("load", ("segment", "load"), one.loads)
    rows: list[list[TableCell]] = [[name, fixed(load, 4)] for name, load in one.loads]
    caption = "Large-loss load: losses by capped losses, on rows that are not held out"
    return DataTable(caption, ["segment", "load"], rows, sheet=sheet)


def _premium(quality: Quality) -> list[PageSection]:
    """What the models come to: quality, the present tariff, factors, protected classes."""
    page, evidence = quality.page, quality.evidence
    sections = [replace(quality.section(), title=_TITLES[PREMIUM])]
    if evidence.beside.premium is not None or evidence.beside.no_premium:
        benchmark = BenchmarkSection(page, quality.rate, quality.names)
        sections.append(benchmark.section(evidence.held_out))
    sections.append(factor_section(page, quality))
    sections += stability_sections(page, quality)
    sections += fairness_sections(page, quality)
    return sections


def _models(one: ProjectEvidence) -> PageSection:
    lead = (
        "Each model has a run, an agreement and a report of its own (vfl report); hosts were asked for "
        "each, and counted each. The rows of severity are those of frequency, so that no host knows "
        "which have claims."
    )
    facts: list[tuple[str, str]] = [(part, name) for part, name in one.models.items()]
    trained = one.parts["frequency"].rows.get("train", 0)
    facts.append(("trained on", counted(trained, "row")))
    return PageSection("models", "The models", [lead], [Facts(facts)])
