"""What a party's people are told of a screening: figures by column, and lines for its own party file.

Nobody's party file is changed: its owner takes the lines over, or does not.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vfl.jobs.connect import Site
from vfl.learn.advice import Reason, Thresholds, advise
from vfl.learn.association import HUNDREDTHS
from vfl.learn.inference import Inference
from vfl.learn.inflation import Inflation, InflationDesign
from vfl.learn.screening import Strength
from vfl.party.sections import DataSection
from vfl.party.spreadsheet import write_rows
from vfl.protocols.linear.correlations import Told
from vfl.protocols.oneway.screening import Screened

HEADS = (
    "column",
    "information_value",
    "deviance_explained",
    "vif",
    "vif_least",
    "vif_most",
    "advice",
)
EVIDENCE = ("column", "level", "rows", "exposure", "actual", "woe")
CORRELATED = ("party", "column", "other_party", "other_column", "correlation", "within")
"""Columns of the files that are written."""


@dataclass(frozen=True)
class ColumnOutcome:
    """What is known of a column of one's own; None where it is not."""

    name: str
    strength: Strength
    inflation: Inflation | None
    advice: Reason | None
    note: str = ""  # why there is no inflation, or what it comes from

    @property
    def row(self) -> tuple[str | float | None, ...]:
        """In a file of HEADS."""
        strength = self.strength
        return self.name, strength.information, strength.share, *self.vif, self.advice

    @property
    def vif(self) -> tuple[float | None, float | None, float | None]:
        """The VIF, and within which it is 95 times in a hundred as far as noise goes."""
        one = self.inflation
        return (None, None, None) if one is None else (one.value, one.least, one.most)


@dataclass(frozen=True)
class Outcome:
    """What is known of a party's own columns."""

    columns: list[ColumnOutcome]
    reasons: Mapping[str, Reason] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        thresholds: Thresholds,
        strengths: Mapping[str, Strength],
        design: InflationDesign | None,
        found: Inference | None,
        joint: bool = True,
        gives_way: bool = False,
    ) -> "Outcome":
        """joint: whether columns are advised to be left out for what other parties have of them, too;
        else for the party's own alone. gives_way: whether those go that others' make up."""
        reasons = advise(strengths, thresholds, design, found if joint else None, gives_way)
        names = [*strengths]
        inflation: Mapping[str, Inflation] = {}
        if design is not None:
            names += [name for name in (*design.places, *design.made_up) if name not in strengths]
            if found is not None:
                inflation = design.judged(found, names)
        columns = [
            ColumnOutcome(
                name,
                strengths.get(name, Strength(None, None, None)),
                inflation.get(name),
                reasons.get(name),
                "" if design is None else design.left_out.get(name, ""),
            )
            for name in names
        ]
        return cls(columns, reasons)


def file_lines(data: DataSection, reasons: Mapping[str, Reason]) -> list[str]:
    """The line of [data] with which a party leaves the columns out; none where there are none."""
    if not reasons:
        return []
    if data.columns is not None:
        return [f"columns = {_listed([name for name in data.columns if name not in reasons])}"]
    before = [*(data.ignore or ())]
    return [f"ignore = {_listed([*before, *(name for name in reasons if name not in before)])}"]


def _listed(names: Sequence[str]) -> str:
    """An array of TOML."""
    return f"[{', '.join(json.dumps(name, ensure_ascii=False) for name in names)}]".replace(
        "\x7f", "\\u007f"
    )


def keep_outcome(
    site: Site, name: str, title: str, outcome: Outcome, tables: Sequence[Screened]
) -> Path:
    """Write the figures of a host's columns, and the lines for its party file, into its store; where
    the lines are. tables: of weights of evidence, where the guest told them; by the names of `outcome`.
    """
    store = site.store
    store.write_beside("screen", name, "csv", written([HEADS, *(one.row for one in outcome.columns)]))
    if tables:
        store.write_beside("screen", f"{name}-woe", "csv", written(evidence_rows(tables)))
    lines = file_lines(site.party.data, outcome.reasons)
    said = lines or ["# (no column is advised to be left out)"]
    text = f"# Of {title}, for [data] of this party's file, which was not changed:\n"
    return store.write_beside("screen", name, "toml", (text + "\n".join(said) + "\n").encode())


def evidence_rows(tables: Sequence[Screened]) -> list[tuple[str | float | None, ...]]:
    """A row a level of each column, the heads first."""
    found: list[tuple[str | float | None, ...]] = [EVIDENCE]
    for table in tables:
        evidence: Sequence[float | None] = table.strength.evidence or [None] * table.cells
        for level, rows, sums, woe in zip(
            table.levels or (), table.rows or (), table.bins or (), evidence, strict=False
        ):
            found.append((table.name, level, rows, sums.exposure, sums.actual, woe))
    return found


def correlation_rows(tables: Sequence[Told]) -> list[tuple[str | float | None, ...]]:
    """A row each two columns: how strongly they go together, and within how much of that noise lies 95
    times in a hundred."""
    return [
        (one.of, row, one.other, column, figure / HUNDREDTHS, error / HUNDREDTHS)
        for one in tables
        for row, figures, errors in zip(one.rows, one.figures, one.errors, strict=True)
        for column, figure, error in zip(one.columns, figures, errors, strict=True)
    ]


def written(rows: Sequence[Sequence[object]]) -> bytes:
    """Rows as CSV."""
    file = io.BytesIO()
    write_rows(file, rows)
    return file.getvalue()
