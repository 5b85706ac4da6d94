"""Columns of all parties screened, on tables in one place."""

import math
from collections.abc import Sequence

import pandas as pd

from vfl.errors import ConfigError
from vfl.frames.features import FrameTable, RowIndices
from vfl.simulate import SimulatedTask
from vfl.simulate_screening import CorrelatedColumns, ScreenedBy, screen_each

HEADS = (
    "party",
    "column",
    "levels",
    "information_value",
    "deviance_explained",
    "vif",
    "advice",
)
EVIDENCE = ("party", "column", "level", "rows", "exposure", "actual", "woe")


class ColumnScreen:
    """Screens in place of a fit, and makes the table of it."""

    def __init__(self, by: ScreenedBy) -> None:
        self._by = by
        self.table = pd.DataFrame(columns=[*HEADS])

    def train(
        self, guest: FrameTable, hosts: Sequence[FrameTable], task: SimulatedTask, rows: RowIndices
    ) -> None:
        if not hosts:
            raise ConfigError("screen is about columns of several parties: give hosts={name: table}")
        found = screen_each(guest, hosts, task, self._by)
        lines, levels = [], []
        for name, party in found.parties.items():
            for one in party.tables:
                strength = one.strength
                vif = party.inflation.get(one.name)
                lines.append(
                    (
                        name,
                        one.name,
                        one.cells,
                        strength.information,
                        strength.share,
                        math.nan if vif is None else vif,
                        party.advice.get(one.name),
                    )
                )
                evidence: Sequence[float | None] = strength.evidence or [None] * one.cells
                of_levels = zip(one.levels or (), one.rows or (), one.bins or (), strict=True)
                levels += [
                    (name, one.name, level, count, sums.exposure, sums.actual, woe)
                    for (level, count, sums), woe in zip(of_levels, evidence, strict=True)
                ]
        self.table = pd.DataFrame(lines, columns=[*HEADS])
        self.table.attrs = {
            "aligned": found.aligned,
            "rows": found.rows,
            "correlations": pd.DataFrame(found.correlations, columns=[*CorrelatedColumns._fields]),
            "woe": pd.DataFrame(levels, columns=[*EVIDENCE]),
        }
