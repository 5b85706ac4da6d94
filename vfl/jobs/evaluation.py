"""Which rows train and which are held out, and what a model is worth on these."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from vfl.blocks.scratch import Scratch, in_pieces
from vfl.errors import (
    DataError,
)
from vfl.jobs.record import Evaluation
from vfl.learn.drift import Profile, profile_of_scores
from vfl.learn.holdout import ColumnShare, OneValue, column_shares, split_by, split_by_draws
from vfl.learn.losses import BadLabel
from vfl.models.held_out import held_out_metrics
from vfl.models.kinds import kind_of_job
from vfl.party.config import Job
from vfl.party.table import Table
from vfl.protocols.common.rows import Training, chosen_rows
from vfl.text import counted

K = TypeVar("K", bound=np.generic)


def evaluate(
    rows: Training,
    held_out: NDArray[np.bool_],
    of_table: NDArray[np.int64],
    exposure: NDArray[np.float64] | None,
    scores: Mapping[str, NDArray[np.float64]],
) -> tuple[dict[str, dict[str, float]], Evaluation]:
    """Metrics by model on the rows held out, and what they were made of; arrays over all rows.

    of_table: which row of the party's table each is.
    """
    evaluation = held_out_rows(rows, held_out, of_table, exposure, scores)
    metrics = {
        what: held_out_metrics(rows, held_out, values, exposure) for what, values in scores.items()
    }
    return metrics, evaluation


def held_out_rows(
    rows: Training,
    held_out: NDArray[np.bool_],
    of_table: NDArray[np.int64],
    exposure: NDArray[np.float64] | None,
    scores: Mapping[str, NDArray[np.float64]],
) -> Evaluation:
    """What models say of the rows held out; arrays as in `evaluate`."""
    scratch, what = rows.scratch, "predictions"

    def predicted(score: NDArray[np.float64]) -> NDArray[np.float64]:
        own = chosen_rows(score, held_out, scratch)
        if own.ndim > 1:
            return rows.loss.predict(own)
        return scratch.each(rows.loss.predict, np.float64, what, own)

    return Evaluation(
        scratch.chosen(of_table, held_out, "rows held out"),
        chosen_rows(rows.label, held_out, scratch),
        chosen_rows(rows.weight, held_out, scratch),
        None if exposure is None else chosen_rows(exposure, held_out, scratch),
        {name: predicted(score) for name, score in scores.items()},
    )


def score_profile(
    score: NDArray[np.float64], rows: Training, held_out: NDArray[np.bool_]
) -> Profile | None:
    """The profile of scores without offset: those of rows held out, which are as those of other rows
    will be, or of all rows if none is held out. None if nobody knows them, or a row has several."""
    if score.ndim > 1:
        return None
    every, scratch = not held_out.any(), rows.scratch
    chosen = scratch.of_rows(len(score), np.bool_, "rows with a score")
    for some in in_pieces(len(score), score, chosen, held_out):
        chosen[some] = np.isfinite(score[some]) & (every | held_out[some])
    alone = score
    if rows.offset is not None:
        alone = scratch.each(np.subtract, np.float64, "scores", score, rows.offset)
    scores = scratch.chosen(alone, chosen, "scores")
    return profile_of_scores(scores, scratch) if len(scores) else None


def _or_validation(share: float, before: str) -> str:
    return f"{before}validation_share = {share:g} in [secureboost]" if share else ""


def split_rows(
    table: Table,
    aligned: NDArray[np.int64],
    job: Job,
    entities: NDArray[np.int64] | None = None,
    scratch: Scratch = Scratch(),
) -> tuple[Training, NDArray[np.bool_]]:
    """The rows that train, that decide when to stop and that are held out: drawn by the job's seed, or
    by the columns of the table that the job names (vfl/learn/holdout.py).

    entities: of each row of the table the first that is about the same thing, a vehicle or a person;
    all rows about one go the same way, but for a split by time alone. None: every row is about another.
    scratch: where lies what is many.
    """
    if table.label is None:
        raise ValueError("training needs a label")
    kind, loss = kind_of_job(job), job.loss
    holdout, share = job.job.holdout, kind.validation_share
    by, seed = table.split.take(aligned), [kind.seed, 1]
    try:
        if by.group is None and by.time is None:
            shares = (holdout, share)
            split = split_by_draws(seed, table.rows, aligned, entities, shares, scratch)
        else:
            draw = np.random.default_rng(seed).random(table.rows)
            entity = aligned if entities is None else entities[aligned]
            split = split_by(by, entity, draw, holdout, share)
    except OneValue as error:
        raise DataError(
            f"{table.path.name}: {error} in all aligned rows that could be kept back: take it out of "
            f"[job], or lower {'validation_share' if share else 'holdout'}",
            for_peer="the aligned rows cannot be held out as the guest's job file says",
        ) from None
    taken = partial(_taken, scratch, aligned)
    label = scratch.taken(table.label, aligned, "labels")
    said = f"holdout = {holdout:g}"
    if not split.train.any():
        raise DataError(
            f"{table.path.name}: no aligned row is left to train on: lower "
            f"{said} in [job]{_or_validation(share, ' or ')}",
            for_peer="no aligned row is left to train on (holdout, validation_share)",
        )
    parts = (
        (split.train, "train on", loss.check),
        (split.validation, "stop by", loss.check_held_out),
        (split.held_out, "evaluate on", loss.check_held_out),
    )
    for mask, what, check in parts:
        if not mask.any():
            continue
        try:
            check(scratch.chosen(label, mask, "labels"))
        except BadLabel as error:
            raise DataError(
                f"{table.path.name}: in the {counted(int(mask.sum()), 'aligned row')} to {what}, the "
                f"label {error} ({said}{_or_validation(share, ', ')})",
                for_peer="too few aligned rows, or all with the same label",
            ) from None
    weight = taken(table.weight)
    weight = np.broadcast_to(1.0, len(label)) if weight is None else weight
    offset, exposure, together = taken(table.offset), taken(table.exposure), taken(entities)
    together = together if by.group is None else by.group.place
    rows = Training(label, weight, split.train, split.validation, loss, offset, exposure, together)
    return rows, split.held_out


def _taken(scratch: Scratch, rows: NDArray[np.int64], values: NDArray[K] | None) -> NDArray[K] | None:
    return None if values is None else scratch.taken(values, rows, "numbers of rows")


@dataclass(frozen=True)
class RowParts:
    """What became of the aligned rows: how many are in each part, and what of the columns by which they
    were split, by use; of rows that were drawn nothing. `holdout`: the share that was to be held out."""

    holdout: float
    counts: dict[str, int]
    shares: dict[str, ColumnShare]

    @classmethod
    def of(
        cls,
        table: Table,
        aligned: NDArray[np.int64],
        rows: Training,
        held_out: NDArray[np.bool_],
        holdout: float,
    ) -> "RowParts":
        """From the masks of `split_rows`."""
        parts = {"train": rows.train, "validation": rows.validation, "held out": held_out}
        counts = {name: int(mask.sum()) for name, mask in parts.items()}
        if left_out := len(aligned) - sum(counts.values()):
            counts["left out"] = left_out
        there = {name: mask for name, mask in parts.items() if counts[name]}
        return cls(holdout, counts, column_shares(table.split.take(aligned), there))

    @property
    def sentences(self) -> list[str]:
        """How rows were split by columns, without any value of them, and whether that is the share that
        was wanted."""
        said = self.by_columns
        share = self.counts["held out"] / max(1, sum(self.counts.values()))
        if len(self.shares) == 1 and abs(share - self.holdout) > max(_APART, self.holdout / 2):
            said.append(
                f"note: {share:.0%} of the rows are held out, where holdout = {self.holdout:g}: no "
                "other number of whole values comes nearer"
            )
        return said

    @property
    def by_columns(self) -> list[str]:
        """How rows were split by columns."""
        said = []
        for use, one in self.shares.items():
            which = _IN_ORDER if use == "time" else {}
            parts = [
                f"{which.get(part, '')}{number:,} {_DO[part][number > 1]}"
                for part, number in one.values.items()
            ]
            said.append(f"by {use} '{one.column}': of its values {', '.join(parts)}")
        if left_out := self.counts.get("left out"):
            said.append(
                f"{counted(left_out, 'row')} left out: of groups that are held out at times that train, "
                "or the other way round"
            )
        return said


_APART = 0.05  # of the share of rows that is held out from that which was to be
_DO = {
    "train": ("trains", "train"),
    "validation": ("decides when to stop", "decide when to stop"),
    "held out": ("is held out", "are held out"),
}
_IN_ORDER = {"train": "the first ", "validation": "the next ", "held out": "the last "}
