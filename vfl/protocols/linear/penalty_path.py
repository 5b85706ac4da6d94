"""Which penalty of several a model gets: the one that tells most of rows left out of fits.

The rows that train are dealt into folds, those with a label above 0 evenly, and rows of one group, or
about one thing, together. For each fold, and along the penalties from the greatest to the least, the
joint fit is made with the fold's rows at weight 0, which is as if they were not there: each from where
the one before ended. Their deviance says what the penalty is worth. The fit that is kept begins from
nothing, with all rows, under the penalty of the least mean deviance; or, by the rule of one standard
error, under the greatest whose mean is at most one standard error of the least away (Hastie, Tibshirani,
Friedman, The Elements of Statistical Learning, 2009, 7.10). So the model is, bit for bit, that of a job
which names this penalty.

Hosts hear that fits begin and with which penalty. Which rows are in a fold they cannot see: all rows
that train are in every residual and score that is sent, and the rows, the matrices and the hint are
those of one fit. Columns are prepared once, by all rows that train.
"""

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np

from vfl.arrays import Floats, Integers
from vfl.errors import ConfigError
from vfl.learn.glm import Scores
from vfl.learn.losses import BadLabel
from vfl.learn.params import GlmParams
from vfl.protocols.common.rows import Training
from vfl.protocols.linear.fit import PenaltyChoice
from vfl.protocols.linear.fitting_messages import NextPenalty

_DRAW = 3  # sets the draw of folds apart from others by the same seed


class Reached(Protocol):
    """Where a fit ended."""

    @property
    def converged(self) -> bool: ...


class Fits(Protocol):
    """What makes one fit after another (fitting.py)."""

    params: GlmParams
    rows: Training
    scores: Scores
    weight: Floats  # of all rows that train
    fit_progress: Callable[[int, int], None]

    async def begin(self, penalty: NextPenalty, weight: Floats) -> None: ...

    async def iterate(self) -> Reached: ...


async def choose_penalty(fits: Fits) -> PenaltyChoice:
    """Make the fits of all folds and penalties. Raises ConfigError where folds leave too few rows."""
    params, path, weight = fits.params, fits.params.path, fits.weight
    loss, label = fits.scores.loss, fits.scores.label
    together = fits.rows.together
    own = None if together is None else together[fits.rows.train]
    folds = folds_of(label, weight, params.folds, params.seed, own)
    for fold in range(params.folds):
        _check_fold(fits, folds, fold)
    deviances, unfinished, done = np.zeros((params.folds, len(path))), 0, 0
    for fold in range(params.folds):
        held = folds == fold
        for place, alpha in enumerate(path):
            penalty = NextPenalty(alpha, anew=place == 0, chosen=False)
            await fits.begin(penalty, np.where(held, 0.0, weight))
            reached = await fits.iterate()
            unfinished += not reached.converged
            found = loss.deviance(fits.scores.score[held], label[held], weight[held])
            deviances[fold, place] = found if math.isfinite(found) else math.inf
            done += 1
            fits.fit_progress(done, params.folds * len(path))
    sizes = np.array([weight[folds == fold].sum() for fold in range(params.folds)])
    return chosen(path, deviances, sizes, params.one_standard_error, unfinished)


def chosen(
    path: tuple[float, ...],
    deviances: Floats,
    sizes: Floats,
    one_standard_error: bool,
    unfinished: int = 0,
) -> PenaltyChoice:
    """The choice by the mean deviance of each fold under each penalty, the greatest first."""
    means = sizes @ deviances / sizes.sum()
    with np.errstate(invalid="ignore"):
        errors = np.nan_to_num(deviances.std(axis=0, ddof=1) / math.sqrt(len(sizes)), nan=math.inf)
    best = int(np.argmin(means))  # of equal ones the greatest penalty
    if one_standard_error:
        best = int(np.flatnonzero(means <= means[best] + errors[best])[0])
    tried = zip(path, means.tolist(), errors.tolist(), strict=True)
    return PenaltyChoice(path[best], tuple(tried), unfinished)


def folds_of(
    label: Floats, weight: Floats, count: int, seed: int, together: Integers | None = None
) -> Integers:
    """The fold of each row, shape (rows,), -1 of rows without a weight; that of rows of one number in
    `together` is the same."""
    generator, folds = np.random.default_rng([seed, _DRAW]), np.full(len(label), -1, np.int64)
    if together is None:
        order = np.lexsort((generator.random(len(label)), label > 0, weight > 0))
        order = order[weight[order] > 0]
        folds[order] = np.arange(len(order)) % count
        return folds
    some = weight > 0
    groups, place = np.unique(together[some], return_inverse=True)
    sizes, draw = np.bincount(place), generator.random(len(groups))
    claimed = np.bincount(place, label[some] > 0) > 0
    of_group = np.zeros(len(groups), np.int64)
    for chosen_groups in (np.flatnonzero(claimed), np.flatnonzero(~claimed)):
        order = chosen_groups[np.argsort(draw[chosen_groups])]
        middles = np.cumsum(sizes[order]) - sizes[order] / 2
        of_group[order] = np.floor(middles / max(sizes[order].sum(), 1) * count)
    folds[some] = of_group[place]
    return folds


def _check_fold(fits: Fits, folds: Integers, fold: int) -> None:
    params, label = fits.params, fits.scores.label
    what = "no row is in one of them" if not (folds == fold).any() else ""
    try:
        fits.scores.loss.check(label[(folds >= 0) & (folds != fold)])
    except BadLabel as bad:
        what = f"without one of them the label {bad.what}"
    if what:
        raise ConfigError(
            f"folds = {params.folds} of [glm] are too many for these rows, {what}: lower folds, or "
            "write alpha in place of alphas",
            for_peer="its job has more folds than its rows allow",
        )
