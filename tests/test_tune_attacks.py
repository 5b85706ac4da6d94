"""A host of a search: labels from which rows are in which fold, and from what folds differ by."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from vfl.arrays import Floats, Integers
from vfl.errors import DataError
from vfl.jobs.aligned_rows import GuestRows
from vfl.jobs.judging import Judged, judged_parts
from vfl.leakage.residuals import from_gradient, success
from vfl.learn.losses import loss_of
from vfl.party.config import Job
from vfl.party.search import Search
from vfl.protocols.common.rows import Training
from vfl.protocols.linear.start import check_columns

ROWS, FOLDS = 1000, 5


def judged(label: Floats, draw: int, folds: int = FOLDS) -> Judged:
    """The rows of a search by folds of a label, as the guest deals them."""
    job = Job.model_validate(
        {"job": {"name": "a", "purpose": "p", "model": "secureboost", "objective": "binary"}}
        | {"tune": {"folds": folds}}
    )
    every = np.ones(len(label), np.bool_)
    own = object.__new__(GuestRows)
    rows = Training(label, np.ones(len(label)), every, ~every, loss_of("binary"))
    object.__setattr__(own, "rows", rows)
    return judged_parts(own, Search.of(job), draw)


def folds_seen(parts: Judged) -> Integers:
    """Of each row the training that it is not drawn for: what a host sees of TreeStart and FitStart."""
    return np.argmin(np.array([one.train for one in parts.rows]), axis=0)


def claims_by_order(fold: Integers, key: Floats, rate: float) -> Floats:
    """How likely each row has a claim, where rows are dealt into folds one after the other in the order
    of keys, first all without a claim, then all with one: two rounds through the folds, mixed.

    The places in both rounds are the state of a hidden Markov model, of which a host sees each row's
    fold (forward and backward passes: Baum et al., 1970). `rate`: the share of claims, which it is taken
    to know.
    """
    order, places = np.argsort(key), np.arange(FOLDS)
    seen = [places == one for one in fold[order].tolist()]
    best, found = -np.inf, np.full(len(fold), rate)
    for begin in range(FOLDS):  # rows with a claim begin where those without have ended
        forward, state, evidence = [], np.zeros((FOLDS, FOLDS)), 0.0
        state[0, begin] = 1.0
        for one in seen:
            forward.append(state)
            none, some = (1 - rate) * state * one[:, np.newaxis], rate * state * one
            state = np.roll(none, 1, axis=0) + np.roll(some, 1, axis=1)
            evidence += np.log(state.sum() or 1e-300)
            state = state / (state.sum() or 1.0)
        evidence += np.log(state[begin].sum() or 1e-300)
        if evidence <= best:
            continue
        best, after = evidence, np.zeros((FOLDS, FOLDS))
        after[begin] = 1.0
        for at in range(len(seen) - 1, -1, -1):
            none = (1 - rate) * seen[at][:, np.newaxis] * np.roll(after, -1, axis=0)
            some = rate * seen[at] * np.roll(after, -1, axis=1)
            claim, every = (forward[at] * some).sum(), (forward[at] * (none + some)).sum()
            found[order[at]] = claim / every if every else rate
            after = none + some
            after = after / (after.sum() or 1.0)
    return found


def told(fold: Integers, key: Floats, label: Floats) -> float:
    """How well a host tells rows with a claim from others: an AUC, 0.5 of who guesses."""
    return float(roc_auc_score(label, claims_by_order(fold, key, float(label.mean()))))


def keys_of_seed(seed: int) -> Floats:
    """The order in which the rows are dealt by a seed of the job, which hosts can draw as well."""
    return np.random.default_rng([seed, 3]).random(ROWS)


@pytest.mark.parametrize(("rate", "unanswered"), [(0.05, 0.98), (0.3, 0.88)])
def test_folds_that_hosts_can_draw_as_well_tell_labels_and_those_of_a_search_do_not(
    rate: float, unanswered: float
) -> None:
    """By a draw that follows from the job a host tells nearly every row with a claim; by the guest's own
    it does no better than by guessing, whatever order it takes."""
    found, left = [], []
    for trial in range(2):
        rng = np.random.default_rng(trial)
        label = (rng.random(ROWS) < rate).astype(np.float64)
        by_seed = folds_seen(judged(label, draw=0))
        found.append(told(by_seed, keys_of_seed(0), label))
        own = folds_seen(judged(label, draw=int(rng.integers(1 << 62))))
        sizes = [np.bincount(own[label == one], minlength=FOLDS) for one in (0, 1)]
        assert all(np.ptp(size) <= 1 for size in sizes)  # dealt evenly, as before
        left += [told(own, keys, label) for keys in (keys_of_seed(0), rng.random(ROWS))]
    assert min(found) > unanswered
    assert abs(np.mean(left) - 0.5) < 0.06


def labels_by_folds(columns: Floats, label: Floats, fold: Integers, folds: int) -> float:
    """What a host that follows the protocol gets right of the labels that guessing misses: the first
    gradients of trainings without a fold each, less each other, are equations about the rows of one fold
    (vfl/leakage/residuals.py). It is taken to know the share of claims."""
    rates = [float(label[fold != one].mean()) for one in range(folds)]
    gradients = [columns[:, fold != one] @ (rates[one] - label[fold != one]) for one in range(folds)]
    # What the labels come to, by column, in all folds but one; all of them are counted by folds - 1.
    others = [
        rate * columns[:, fold != one].sum(axis=1) - gradient
        for one, (rate, gradient) in enumerate(zip(rates, gradients, strict=True))
    ]
    every = np.sum(others, axis=0) / (folds - 1)
    right = 0
    for one in range(folds):
        own, rate = columns[:, fold == one], float(label.mean())
        gradient = rate * own.sum(axis=1) - (every - others[one])
        right += int(((from_gradient(own, gradient, rate) > 0.5) == label[fold == one]).sum())
    guessing = max(float(label.mean()), 1 - float(label.mean()))
    return (right / len(label) - guessing) / (1 - guessing)


def test_what_folds_differ_by_tells_labels_and_the_guest_asks_for_more_rows_a_column() -> None:
    """A host with a column for 15 rows learns next to nothing by one training, and by ten folds all."""
    rng = np.random.default_rng(3)
    rows, folds = 300, 10
    label = (rng.random(rows) < 0.2).astype(np.float64)
    columns = rng.normal(size=(20, rows))
    fold = rng.permutation(np.arange(rows) % folds)
    assert labels_by_folds(columns, label, fold, folds) > 0.9
    assert success(columns, label > 0).advantage < 0.1
    parts = judged(label, 1, folds)
    assert {one.apart for one in parts.rows} == {rows // folds}
    with pytest.raises(DataError, match=r"20 columns for trainings that differ by 30 rows.*fewer folds"):
        check_columns("bureau", 20, parts.rows[0].weighing, parts.rows[0].apart)
    check_columns("bureau", 20, parts.rows[0].weighing)  # of one training there are enough
    # As many columns as are let through get no more of a fold than of any training.
    few = columns[: rows // folds // 5]
    check_columns("bureau", len(few), parts.rows[0].weighing, parts.rows[0].apart)
    assert labels_by_folds(few, label, fold, folds) < 0.25
