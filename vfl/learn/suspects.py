"""Columns that nobody meant as features: numbers of rows, ids, and what is known with the label alone.

A column that numbers the rows knows the order of the file. Where that has to do with the label (rows
ordered by it, or by the day on which something happened) a model learns the order, looks excellent and
is worth nothing. All checks are of one column at a time and cost a few sorts of at most SAMPLE rows.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats
from vfl.blocks.scratch import in_pieces
from vfl.learn.levels import count_respellings
from vfl.text import counted

SAMPLE = 100_000  # rows that a check looks at
TOLD = 0.96  # an area under the ROC curve of 0.98
"""Of the best order of the labels, from which on a column tells them almost alone.

Single rating factors reach 0.1 to 0.4 (an area of 0.55 to 0.7), the best single measurements of medical
data sets 0.95. What was written down after the event is at 0.98 and above."""

NEARLY = 0.8
"""Of Cohen's kappa, from which on a column of text nearly is the label: one that was copied from it and
in a few rows corrected on one side alone. Rating factors reach 0.3."""
MOST_NAMED = 20  # values of a label that a column of text can name

_FEW_LEVELS = 6  # of a column that names the label of few rows
_CHANCE = 10**6
"""One in how many such columns may name the label of few rows by chance."""
_LEAST_ROWS = 50  # of a column with so few values nothing can be told
_LEAST_EVENTS = 20  # rows with a label above the least one
_BINS = 64
_FEW = 0.1  # of the ties that chance makes at least
_TIES = 10  # that chance makes at least, for their absence to say anything
_GLANCE = 1_000  # rows
_DIGITS = 7  # of a number that names something


def suspicions(
    values: NDArray[np.generic], label: "LabelOrder | None", *, agreed: bool = False
) -> list[str]:
    """What speaks against a column as a feature, after its name; `label` None is one that nobody has.

    agreed: whether it is agreed which levels it has, so that spellings of these are known.
    """
    if len(values) and _is_constant(values):
        return ["has the same value in every row"]
    suspected = []
    if values.dtype == object:
        if levels := levels_of_rows(values):
            suspected.append(
                f"has {counted(levels[0], 'level')} in {counted(levels[1], 'row')}, from which little "
                "can be learned: if it is an id, ignore it in [data]"
            )
        if not agreed and (alike := count_respellings(values)):
            suspected.append(
                f"has {counted(alike, 'level')} different from others only in how they are written, as "
                "1 and 1.0 or a and A are: each counts as a level of its own; write them alike if they "
                "are one"
            )
    elif why := numbers_rows(np.asarray(values, np.float64)):
        suspected.append(
            f"{why}: it knows the order of the rows; ignore it in [data] unless it is meant"
        )
    return suspected if label is None else [*suspected, *tells_label(values, label)]


def _is_constant(values: NDArray[np.generic]) -> bool:
    """Whether a column has one value, which is not missing, in every row."""
    if (values[:_GLANCE] != values[0]).any():  # mostly the first rows tell
        return False
    missing = values == np.array(None) if values.dtype == object else np.isnan(values.astype(np.float64))
    return bool(not missing.any() and (values == values[0]).all())


def tells_label(values: NDArray[np.generic], label: "LabelOrder") -> list[str]:
    """That a column tells the label almost alone, after its name, if it does."""
    if label.best <= 0:
        return _names_few(values, label)
    share = share_of_order(values, label)
    if share < TOLD:
        agreed, kappa = agreement(values, label)
        if kappa < NEARLY:
            return []
        return [
            f"nearly is the label (its levels name it in {agreed:.1%} of the rows): unless it is known "
            "before the label is, ignore it in [data]"
        ]
    how = f"AUC {(1 + share) / 2:.3f}" if label.two else f"{share:.0%} of the best order"
    return [
        f"tells the label almost alone ({how}): unless it is known before the label is, ignore it in "
        "[data]"
    ]


def _names_few(values: NDArray[np.generic], label: "LabelOrder") -> list[str]:
    """The same where there are too few rows, or too few with a label above the least, to hold one half
    against the other: of a column of few levels that names the label in more rows than chance makes.

    Text may be wrong in some rows, numbers in none. Chance: labels in any order (hypergeometric), for
    every way to name the levels by them.
    """
    labels = np.empty(len(label.first) + len(label.held))
    labels[label.first], labels[label.held] = label.first_label, label.held_label
    own = values if label.rows is None else values[label.rows]
    kinds, label_of = np.unique(labels, return_inverse=True)
    cells = [None if cell != cell else cell for cell in own.tolist()]  # NaN is unlike itself
    if len({*cells}) > _FEW_LEVELS:  # then whether there is any value may still tell
        cells = [cell is None for cell in cells]
    levels = {cell: place for place, cell in enumerate(dict.fromkeys(cells))}
    if not 2 <= len(kinds) <= MOST_NAMED:
        return []
    level = np.array([levels[cell] for cell in cells])
    table = np.zeros((len(levels), len(kinds)), np.int64)
    np.add.at(table, (level, label_of), 1)
    named, usual = table.argmax(axis=1), int(table.sum(axis=0).argmax())
    rows, right = len(labels), int(table.max(axis=1).sum())
    seldom = rows - int(table[:, usual].sum())  # rows with any other label
    taken = int(table[named != usual].sum())
    found = taken - int(table[named != usual, usual].sum())
    by_chance = sum(
        math.comb(taken, hits) * math.comb(rows - taken, seldom - hits)
        for hits in range(found, min(taken, seldom) + 1)
    )
    if by_chance * len(kinds) ** len(levels) * _CHANCE > math.comb(rows, seldom):
        return []
    shares = np.bincount(named, table.sum(axis=1), len(kinds)) / rows, table.sum(axis=0) / rows
    chance = float(shares[0] @ shares[1])
    kappa = (right / rows - chance) / (1 - chance)
    if kappa < (NEARLY if own.dtype == object else 1):
        return []
    which = "all" if right == rows else f"{right / rows:.1%}"
    return [
        f"nearly is the label (its levels name it in {which} of the {counted(rows, 'row')}): unless it "
        "is known before the label is, ignore it in [data]"
    ]


def numbers_rows(values: Floats) -> str | None:
    """Why a column of numbers looks like one that numbers or names rows, after its name; else None.

    - From row to row it changes by one and the same number: in 9 of 10 rows, and not in circles
      (months).
    - Whole numbers that rise, or fall, from row to row.
    - Whole numbers that are hardly ever the same in two rows, although there are so few in their range
      that they would have to be: a permutation of row numbers, or what is left of one. Values drawn from
      n numbers are least often the same if all are equally likely, so no other column of measurements
      has fewer.
    - Whole numbers of one length, of 7 digits or more, that are never the same in two rows.
    """
    count = 0
    for known in _known(values):
        if (known != np.rint(known)).any():
            return None
        count += len(known)
    if count < _LEAST_ROWS:
        return None
    part = _sample_known(values, count)
    distinct = len(np.unique(part))
    if distinct >= len(part) / 4 and _counts(values, count):
        return "counts the rows"
    if _rises(values, count, 1) or _rises(values, count, -1):
        return "rises or falls from row to row, as a number of the row would"
    span = float(part.max() - part.min()) + 1
    # Expected of as many draws from the whole numbers in this range, all equally likely.
    ties = len(part) - span * -np.expm1(len(part) * np.log1p(-1 / span)) if span > 1 else len(part) - 1.0
    if ties >= _TIES and len(part) - distinct <= _FEW * ties:
        return "has another value in almost every row, as a number of the row or an id would"
    low, high = float(np.abs(part).min()), float(np.abs(part).max())
    if (
        distinct == len(part)
        and low >= 10 ** (_DIGITS - 1)
        and len(str(int(low))) == len(str(int(high)))
    ):
        return "has another value in every row, all of as many digits, as an id would"
    return None


def _known(values: Floats) -> Iterator[Floats]:
    """The numbers that are not missing, some at a time."""
    for some in in_pieces(len(values), values):
        own = values[some]
        yield own[~np.isnan(own)]


def _steps(values: Floats) -> Iterator[tuple[Floats, Floats]]:
    """The numbers that are not missing, two or more at a time, the first of which is the last before,
    and the step from each to the next."""
    last = np.empty(0)
    for known in _known(values):
        joined = np.concatenate([last, known])
        if len(joined) > 1:
            yield joined, np.diff(joined)
        last = joined[-1:]


def _counts(values: Floats, count: int) -> bool:
    """Whether 9 of 10 steps between so many numbers are one and the same, and not 0."""
    # A step that is so frequent is the median of stretches that have most of all steps.
    medians, weights = zip(*((np.median(own), len(own)) for _, own in _steps(values)), strict=True)
    found, of = np.unique(medians, return_inverse=True)
    usual = float(found[np.argmax(np.bincount(of, weights=weights))])
    alike = sum(int(np.count_nonzero(steps == usual)) for _, steps in _steps(values))
    return bool(usual) and alike / (count - 1) >= 0.9


def _rises(values: Floats, count: int, sign: int) -> bool:
    """Whether nearly all of so many numbers, or their opposites, are above the one before and above all
    before."""
    above, greatest, most = 0, 1, -np.inf
    for joined, steps in _steps(values):
        numbers = sign * joined
        above += int(np.count_nonzero(sign * steps > 0))
        most_so_far = np.maximum.accumulate(np.append(most, numbers))
        greatest += int(np.count_nonzero(numbers[1:] == most_so_far[2:]))
        most = float(most_so_far[-1])
    return above / (count - 1) >= 0.99 and greatest / count >= 0.99


def _sample_known(values: Floats, count: int) -> Floats:
    """`sample` of the so many numbers that are not missing."""
    if count <= SAMPLE:
        return np.concatenate([*_known(values)])
    places, found, first = sampled_places(count), [], 0
    for known in _known(values):
        low, high = np.searchsorted(places, [first, first + len(known)])
        found.append(known[places[low:high] - first])
        first += len(known)
    return np.concatenate(found)


def levels_of_rows(values: NDArray[np.generic]) -> tuple[int, int] | None:
    """How many levels a column of categories has in how many rows, if that is more than one in two."""
    known = int(np.count_nonzero(values != np.array(None)))
    if known < _LEAST_ROWS:
        return None
    levels = len(set(values.tolist()) - {None})
    return (levels, known) if 2 * levels > known else None


@dataclass(frozen=True)
class LabelOrder:
    """What is told of a label before any column is held against it.

    rows: those that are looked at, None if all are. first, held: one half of them, and the other, as
    places among them. usual: the mean label of the first half. held_label: the labels of the other.
    best: the covariance of these with their own ranks; 0 where there are too few rows.
    """

    rows: NDArray[np.int64] | None
    two: bool  # whether there are two values
    first: NDArray[np.int64]
    held: NDArray[np.int64]
    first_label: Floats
    held_label: Floats
    best: float

    @classmethod
    def of(cls, label: Floats) -> "LabelOrder":
        """Of the labels of all rows."""
        two = _are_two(label)
        rows = sampled_places(len(label)) if len(label) > SAMPLE else None
        label = label if rows is None else label[rows]
        half = np.random.default_rng(1).random(len(label)) < 0.5
        first, held = np.flatnonzero(half), np.flatnonzero(~half)
        parts = label[first], label[held]
        few = any(
            len(part) < _LEAST_ROWS or np.count_nonzero(part > part.min()) < _LEAST_EVENTS
            for part in parts
        )
        best = 0.0 if few else float(np.cov(parts[1], _ranks(parts[1]))[0, 1])
        return cls(
            rows=rows,
            two=two,
            first=first,
            held=held,
            first_label=parts[0],
            held_label=parts[1],
            best=best,
        )


def share_of_order(values: NDArray[np.generic], label: LabelOrder) -> float:
    """How well one column alone puts rows in the order of their labels: 1 as well as the labels do.

    It is the ratio of two covariances, of the labels with the ranks by the column and with their own
    ranks; of a 0/1 label 2 AUC - 1 (Somers' D), of amounts the ratio of two Gini indices. The column's
    order is that of the mean label of its bins or levels, found on one half of the rows and held against
    the other, so that no level of few rows seems to tell anything. 0 where there are too few rows.
    """
    if label.best <= 0:
        return 0.0
    group = _groups(values if label.rows is None else values[label.rows])
    first = group[label.first]
    groups = int(group.max()) + 1
    rows = np.bincount(first, minlength=groups)
    sums = np.bincount(first, weights=label.first_label, minlength=groups)
    mean = np.where(rows > 0, sums / np.maximum(rows, 1), label.first_label.mean())
    _, place = np.unique(mean, return_inverse=True)  # of groups, which are few
    return float(np.cov(label.held_label, _mean_ranks(place[group[label.held]]))[0, 1] / label.best)


def agreement(values: NDArray[np.generic], label: LabelOrder) -> tuple[float, float]:
    """In which share of the rows a column's levels name the label, and Cohen's kappa of that: 0 where
    chance alone would name as many, 1 where all are named. A level names the label that most of its rows
    have on one half, and is held against the other. Zeros for numbers, for labels of more than
    MOST_NAMED values and where there are too few rows."""
    known = np.unique(np.concatenate([label.first_label, label.held_label]))
    if values.dtype != object or label.best <= 0 or len(known) > MOST_NAMED:
        return 0.0, 0.0
    group = _groups(values if label.rows is None else values[label.rows])
    first, held = (np.searchsorted(known, own) for own in (label.first_label, label.held_label))
    count = len(known)
    table = np.bincount(group[label.first] * count + first, minlength=(int(group.max()) + 1) * count)
    table = table.reshape(-1, count)
    usual = int(np.bincount(first).argmax())
    named = np.where(table.any(axis=1), table.argmax(axis=1), usual)[group[label.held]]
    agreed = float((named == held).mean())
    shares = [np.bincount(own, minlength=count) / len(held) for own in (named, held)]
    chance = float(shares[0] @ shares[1])
    return agreed, (agreed - chance) / (1 - chance) if chance < 1 else 0.0


def sampled_places(count: int) -> NDArray[np.int64]:
    """SAMPLE of so many places, in their order, the same whenever it is asked."""
    return np.sort(np.random.default_rng(0).choice(count, SAMPLE, replace=False))


def _are_two(values: Floats) -> bool:
    """Whether there are two different values."""
    found = set[float]()
    for some in in_pieces(len(values), values):
        found |= {*np.unique(values[some]).tolist()}
        if len(found) > 2:
            return False
    return len(found) == 2


def _groups(values: NDArray[np.generic]) -> NDArray[np.int64]:
    """The bin or level of each value, missing values in one of their own."""
    if values.dtype == object:
        cells = values.tolist()
        places = {value: place for place, value in enumerate(dict.fromkeys(cells))}
        return np.fromiter(map(places.__getitem__, cells), np.int64, len(cells))
    numbers = values.astype(np.float64)
    known = np.sort(numbers[~np.isnan(numbers)])  # of which quantiles are found sooner
    edges = (
        np.unique(np.quantile(known, np.linspace(0, 1, _BINS + 1)[1:])) if len(known) else np.empty(0)
    )
    return np.where(np.isnan(numbers), len(edges) + 1, np.searchsorted(edges, numbers)).astype(np.int64)


def _ranks(values: Floats) -> Floats:
    """Ranks from 0, of equal values their mean."""
    return _mean_ranks(np.unique(values, return_inverse=True)[1])


def _mean_ranks(place: NDArray[np.int64]) -> Floats:
    """The mean rank of each row among all, by its place in their order, which others may share."""
    count = np.bincount(place)
    ends = np.cumsum(count)
    return ((ends - count + ends - 1) / 2)[place]
