"""The rows of a search: which train, which judge a training, and what it is worth on these."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from vfl.arrays import Floats
from vfl.errors import ConfigError, DataError
from vfl.jobs.aligned_rows import GuestRows
from vfl.learn.losses import BadLabel
from vfl.models.held_out import held_out_metrics
from vfl.party.search import Search
from vfl.protocols.common.rows import Training
from vfl.protocols.linear.penalty_path import folds_of
from vfl.text import counted

Metric = Literal["loss", "gini"]


class Judgement(NamedTuple):
    """What trainings of a trial come to on the rows that judge them, None where that is no number."""

    loss: float | None
    value: float | None  # of the metric


@dataclass(frozen=True)
class Judged:
    """The rows of each training of a trial.

    Those that are held out by the job are in none: they are for the model that is trained at the end.
    """

    rows: Sequence[Training]
    metric: Metric

    @property
    def train(self) -> int:
        """The least number of rows that a training has."""
        return min(int(one.train.sum()) for one in self.rows)

    @property
    def judge(self) -> int:
        """How many rows judge, over all trainings of a trial."""
        return sum(int(one.validation.sum()) for one in self.rows)

    def judge_of(self, training: int, score: Floats) -> Judgement:
        """What a training is worth by the score of every aligned row."""
        rows = self.rows[training]
        loss = _number(rows.mean_loss(score, rows.validation))
        if self.metric == "loss":
            return Judgement(loss, loss)
        measures = held_out_metrics(rows, rows.validation, score, rows.exposure)
        return Judgement(loss, _number(measures.get("gini")))

    def together(self, each: Sequence[Judgement]) -> Judgement:
        """The mean of trainings by the weight of the rows that judged them."""
        sizes = [float(one.weight[one.validation].sum()) for one in self.rows[: len(each)]]
        return Judgement(
            _mean([one.loss for one in each], sizes), _mean([one.value for one in each], sizes)
        )


def judged_parts(own: GuestRows, search: Search, draw: int) -> Judged:
    """The rows of a search. Raises ConfigError and DataError for what cannot be judged.

    draw: random bits of the guest's, by which rows are dealt into folds, those with a label above 0
    evenly. Hosts see which rows train, and so the folds: who could draw as well, as by a seed of the
    job, would tell the labels by them.
    """
    tune, rows = search.tune, own.rows
    if tune.metric == "gini" and rows.loss.quantile is not None:
        raise ConfigError('metric = "gini" of [tune] is not for the objective quantile: use "loss"')
    if tune.folds is None and rows.validation.any():
        return Judged([rows], tune.metric)
    count = tune.folds or max(2, round(1 / tune.validation_share))
    own_rows = np.flatnonzero(rows.train)
    together = None if rows.together is None else rows.together[own_rows]
    fold = np.full(len(rows.label), -1, np.int64)
    fold[own_rows] = folds_of(
        rows.label[own_rows], np.asarray(rows.weight[own_rows]), count, draw, together
    )
    parts = [
        replace(rows, train=(fold >= 0) & (fold != one), validation=fold == one)
        for one in range(tune.folds or 1)
    ]
    # Of a fold hosts know what trainings with it and without it tell them.
    apart = min(int(np.count_nonzero(rows.weight[fold == one] > 0)) for one in range(count))
    parts = [replace(one, apart=apart) for one in parts]
    for one in parts:
        for mask, what in ((one.train, "train on"), (one.validation, "judge by")):
            _check(own, one, int(mask.sum()), rows.label[mask], what)
    return Judged(parts, tune.metric)


def _check(own: GuestRows, rows: Training, count: int, label: Floats, what: str) -> None:
    why = "there is none" if not count else ""
    try:
        if count:
            rows.loss.check(label)
    except BadLabel as error:
        why = f"the label {error}"
    if why:
        raise DataError(
            f"{own.table.path.name}: of the {counted(count, 'row')} to {what}, {why}: "
            "lower folds in [tune]",
            for_peer="too few aligned rows, or all with the same label",
        )


def _number(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None


def _mean(values: Sequence[float | None], sizes: Sequence[float]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.average(known, weights=sizes)) if len(known) == len(values) else None
