"""Which rows train and which are held out, and what a model is worth on these."""

import math

import numpy as np
from numpy.typing import NDArray

from vfl.errors import (
    DataError,
)
from vfl.learn.drift import Profile, profile_of_scores
from vfl.learn.losses import BadLabel, LogisticLoss
from vfl.learn.metrics import binary_metrics, regression_metrics
from vfl.models.kinds import kind_of_job
from vfl.party.config import Job
from vfl.party.table import Table
from vfl.protocols.common.rows import Training
from vfl.text import counted


def held_out_metrics(
    rows: Training,
    held_out: NDArray[np.bool_],
    score: NDArray[np.float64],
    exposure: NDArray[np.float64] | None,
) -> dict[str, float]:
    """Metrics of the rows held out, without those that are no number, which a document cannot hold."""
    label, weight, loss = rows.label[held_out], rows.weight[held_out], rows.loss
    if isinstance(loss, LogisticLoss):
        metrics = binary_metrics(label, loss.predict(score[held_out]), weight)
    else:
        offset = None if rows.offset is None else rows.offset[held_out]
        years = None if exposure is None else exposure[held_out]
        metrics = regression_metrics(loss, label, score[held_out], weight, offset, years)
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def score_profile(
    score: NDArray[np.float64], rows: Training, held_out: NDArray[np.bool_]
) -> Profile | None:
    """The profile of scores without offset: those of rows held out, which are as those of other rows
    will be, or of all rows if none is held out. None if nobody knows them."""
    chosen = np.isfinite(score) & (held_out if held_out.any() else True)
    alone = score if rows.offset is None else score - rows.offset
    return profile_of_scores(alone[chosen]) if chosen.any() else None


def _or_validation(share: float, before: str) -> str:
    return f"{before}validation_share = {share:g} in [secureboost]" if share else ""


def expected_share(job: Job) -> float:
    """The share of aligned rows that train, as far as the job file says."""
    return (1 - job.job.holdout) * (1 - kind_of_job(job).validation_share)


def split_rows(
    table: Table,
    aligned: NDArray[np.int64],
    job: Job,
    entities: NDArray[np.int64] | None = None,
) -> tuple[Training, NDArray[np.bool_]]:
    """The rows that train, that decide when to stop and that are held out, drawn by the job's seed.

    entities: of each row of the table the first that is about the same thing, a vehicle or a person;
    all rows about one go the same way. None: every row is about another.
    """
    if table.label is None:
        raise ValueError("training needs a label")
    kind, loss = kind_of_job(job), job.loss
    share = kind.validation_share
    draw = np.random.default_rng([kind.seed, 1]).random(table.rows)
    draw = draw[aligned if entities is None else entities[aligned]]
    held_out = draw < job.job.holdout
    validation = ~held_out & (draw < job.job.holdout + (1 - job.job.holdout) * share)
    label = table.label[aligned]
    train = ~held_out & ~validation
    if not train.any():
        raise DataError(
            f"{table.path.name}: no aligned row is left to train on: lower "
            f"holdout = {job.job.holdout:g} in [job]{_or_validation(share, ' or ')}",
            for_peer="no aligned row is left to train on (holdout, validation_share)",
        )
    for mask, what in ((train, "train on"), (validation, "stop by"), (held_out, "evaluate on")):
        if not mask.any():
            continue
        try:
            loss.check(label[mask])
        except BadLabel as error:
            raise DataError(
                f"{table.path.name}: in the {counted(int(mask.sum()), 'aligned row')} to {what}, the "
                f"label {error} (holdout = {job.job.holdout:g}{_or_validation(share, ', ')})",
                for_peer="too few aligned rows, or all with the same label",
            ) from None
    weight = np.ones(len(label)) if table.weight is None else table.weight[aligned]
    offset = None if table.offset is None else table.offset[aligned]
    return Training(label, weight, train, validation, loss, offset), held_out
