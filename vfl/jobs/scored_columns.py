"""What scoring a batch writes: ids, predictions, who knows no such row, and what adds up to a score."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vfl.arrays import Floats, Mask
from vfl.blocks.scratch import release_pages
from vfl.blocks.texts import Cells
from vfl.errors import ConfigError
from vfl.jobs.batch import KeptPart
from vfl.jobs.show import Show, say_drift
from vfl.learn.explain import reasons
from vfl.learn.losses import LogisticLoss
from vfl.models.halves import AnyGuestHalf
from vfl.party.keys import TableIds
from vfl.party.output import ScoreCells
from vfl.party.table import Table
from vfl.protocols.common.batches import ScoredPart

_PREDICTIONS = ("probability", "prediction", "expected")
LIKELIEST = "prediction"
"""Of several classes, the name of the one that is likeliest."""
_OF_CLASS = "probability_"
_EXPLAINED = ("score", "base", "reasons")
_CONTRIBUTION = "contribution:"


@dataclass(frozen=True)
class BatchRows:
    """The rows of a batch. Arrow holds the ids as text: Python's would take most of the memory."""

    table: Table  # without ids
    named: dict[str, Cells]  # ids as they are written, by column
    ids: TableIds
    unknown: dict[str, Mask]  # by column, which rows have a level that was not in training


class ScoredColumns:
    """The columns of the output, part by part, and what there is to say about all of them."""

    def __init__(self, half: AnyGuestHalf, rows: BatchRows, top: int) -> None:
        self._half, self._table, self._ids, self._top = half, rows.table, rows.named, top
        # Of several classes nothing is said of drift.
        count = rows.table.rows if half.score_profile is not None else 0
        self._scores = rows.ids.scratch.of_rows(count, np.float64, "scores")
        self.unknown = dict.fromkeys(half.model.parties[1:], 0)

    def columns(self, part: KeptPart) -> dict[str, ScoreCells]:
        """Those of a part's rows."""
        rows, scores = part.scored.rows, part.scored.scores
        if len(self._scores):
            self._scores[rows] = scores
            release_pages(self._scores)
        flags = [""] * len(scores)
        for host, unknown in zip(self.unknown, part.unknown, strict=True):
            self.unknown[host] += int(unknown.sum())
            for row in np.flatnonzero(unknown).tolist():
                flags[row] = f"{flags[row]} {host}".strip()
        columns = predictions(self._half, scores, self._table, rows) | {"unknown_to": flags}
        ids = {name: cells[rows] for name, cells in self._ids.items()}
        return ids | columns | self._explain(part.scored)

    def _explain(self, part: ScoredPart) -> dict[str, ScoreCells]:
        """The score of the prediction, what adds up to it, and reasons; none if that was not asked."""
        if part.contributions is None:
            return {}
        score, parts = part.scores, dict(part.contributions)
        if self._half.offset and self._table.offset is not None:
            exposure = self._table.exposure
            score, parts = with_offset(
                score,
                parts,
                self._table.offset[part.rows],
                None if exposure is None else exposure[part.rows],
            )
        return {
            "score": score,
            "base": np.full(len(score), part.base),
            **{_CONTRIBUTION + name: values for name, values in parts.items()},
            # Nothing adds to the scores of a model that learnt nothing, as earlier versions kept them.
            "reasons": reasons(part.contributions, self._half.loss.link, self._top)
            if part.contributions
            else [""] * len(score),
        }

    def say_drift(self, show: Show) -> float | None:
        """Say it if the scores have shifted since training; their index if it is known."""
        profile = self._half.score_profile
        if profile is None:
            return None
        return say_drift(show, "the scores have", profile, self._scores)


def predictions(
    half: AnyGuestHalf, scores: Floats, table: Table, rows: slice = slice(None)
) -> dict[str, ScoreCells]:
    """The predictions of some rows of a table, from their scores without offset."""
    if half.classes:
        found = half.loss.predict(scores)
        likeliest = [half.classes[number] for number in found.argmax(axis=1).tolist()]
        names = [f"{_OF_CLASS}{name}" for name in half.classes]
        return {LIKELIEST: likeliest, **dict(zip(names, found.T, strict=True))}
    offset, exposure = table.offset, table.exposure
    return {
        **predictions_of(
            half,
            scores,
            None if offset is None else offset[rows],
            None if exposure is None else exposure[rows],
        )
    }


def predictions_of(
    half: AnyGuestHalf, scores: Floats, offset: Floats | None, exposure: Floats | None
) -> dict[str, Floats]:
    """The same of rows with this offset, log(exposure) included, and exposure."""
    expected = half.loss.predict(scores if offset is None else scores + offset)
    if isinstance(half.loss, LogisticLoss):
        return {"probability": expected}
    if exposure is None:
        return {"prediction": expected}
    return {"prediction": expected / exposure, "expected": expected}


def names_of_scores(half: AnyGuestHalf) -> list[str]:
    """What the predictions of a model are called in an output."""
    if half.classes:
        return [LIKELIEST, *(f"{_OF_CLASS}{name}" for name in half.classes)]
    return [*predictions_of(half, np.zeros(0), None, np.ones(0) if half.exposure else None)]


def with_offset(
    score: Floats, parts: Mapping[str, Floats], offset: Floats, exposure: Floats | None
) -> tuple[Floats, dict[str, Floats]]:
    """Explained scores, and what adds up to them, with a column of offset: the exposure, which `offset`
    includes, is no part of a score."""
    own = offset if exposure is None else offset - np.log(exposure)
    return score + own, {**parts, "(offset)" if "offset" in parts else "offset": own}


def check_names(ids: Sequence[str], explain: bool, classes: Sequence[str] = ()) -> None:
    """Raises ConfigError for an id that is called as a column of the output."""
    names = {"unknown_to", *_PREDICTIONS, *(_EXPLAINED if explain else ())}
    names |= {f"{_OF_CLASS}{name}" for name in classes}
    for name in ids:
        if name in names or (explain and name.startswith(_CONTRIBUTION)):
            raise ConfigError(f"[data] id '{name}' is the name of a column of the output: rename it")
