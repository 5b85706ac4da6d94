"""How scores start and what they lose, over the rows of all clients: sums of real numbers.

 1. All add up weights, labels and offsets as the loss needs them: for squared errors that is all; for a
    0/1 label without offsets, too.
 2. Under a logarithm as link, the two sums whose ratio is the constant, with offsets less their mean.
    Under a logit with offsets, slope and curvature of the loss at a constant, again and again until
    there is no slope.

All sums are exact, so that the constant is the same however rows lie at clients; it is rounded to 2^-32,
so that it is the same on machines whose logarithms differ in their last digit.

Learned by all clients: these sums, how many rows train and how many decide when to stop, and, of a
logit, the power of two of the largest offset.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vfl.arrays import Floats, Integers
from vfl.errors import DataError
from vfl.learn.constant_search import ConstantSearch
from vfl.learn.losses import BadLabel, Loss
from vfl.learn.quantiser import LEAST_EXPONENT, exponent_of
from vfl.protocols.common.rows import Training
from vfl.protocols.pooled.real_totals import ExactSum, sum_of_words
from vfl.protocols.pooled.totals import Totals, unfit

_MOST_EXPONENT = 1024
_MOST_STEPS = 2200  # halving an interval of float64 ends before


def check_own_label(loss: Loss, label: Floats) -> None:
    """Raises BadLabel for rows of a client that are wrong; what is wrong with all rows together, as that
    there is one class alone, has to be so at all clients, which `common_start` finds out."""
    try:
        loss.check(label)
    except BadLabel as bad:
        if bad.rows is not None:
            raise


def largest_exponents(totals: Totals, bounds: Sequence[float], most: int) -> list[Integers]:
    """Parts from which all learn the exponents of the largest bounds that any client has."""
    exponents = np.arange(LEAST_EXPONENT, most + 1)
    finite = [bound if math.isfinite(bound) else sys.float_info.max for bound in bounds]
    return [totals.flags(exponents <= exponent_of(bound)) for bound in finite]


def exponent_in(total: Integers) -> int:
    """The exponent by a total of `largest_exponents`."""
    return LEAST_EXPONENT + int(np.flatnonzero(total)[-1]) if total.any() else LEAST_EXPONENT


@dataclass(frozen=True)
class CommonStart:
    """The constant with which all scores start, and whether any client has rows that decide when to
    stop."""

    constant: float
    watched: bool


async def numbers(totals: Totals, sums: Sequence[ExactSum], what: str) -> list[float]:
    """The sums over all clients."""
    told = await totals.of([totals.number(own) for own in sums], what)
    return [sum_of_words(total) for total in told]


async def common_start(totals: Totals, rows: Training) -> CommonStart:
    """The constant of least loss on the rows that train at all clients.

    Raises DataError where these can teach nothing, PeerError for totals that cannot be.
    """
    own = _Own.of(rows)
    counts = np.array([own.label.size, rows.validation.sum()], np.int64)
    sums = [ExactSum(values) for values in own.first_sums()]
    parts = [counts, *map(totals.number, sums)]
    parts += largest_exponents(totals, [own.largest_offset], _MOST_EXPONENT)
    of_rows, *of_sums, largest = await totals.of(parts, "rows that train")
    train, validation = of_rows.tolist()
    if train < 0 or validation < 0:
        raise unfit("rows that train", "it is no count")
    weight, offset, first, second = map(sum_of_words, of_sums)
    if not weight > 0:
        raise DataError("no client has a row that trains, or all of them weigh nothing: give it rows")
    if rows.loss.link == "identity":
        return CommonStart(_finite(first / weight), validation > 0)
    if rows.loss.link == "log":
        constant = await _log_constant(totals, own, offset / weight)
    else:
        exponent = exponent_in(largest)
        constant = await _logit_constant(totals, own, (first, second), offset / weight, exponent)
    return CommonStart(_rounded(constant), validation > 0)


@dataclass(frozen=True)
class _Own:
    """A client's rows that train."""

    loss: Loss
    label: Floats
    weight: Floats
    offset: Floats

    @classmethod
    def of(cls, rows: Training) -> "_Own":
        offset = np.zeros(len(rows.label)) if rows.offset is None else rows.offset
        return cls(rows.loss, rows.label[rows.train], rows.weight[rows.train], offset[rows.train])

    @property
    def largest_offset(self) -> float:
        """The largest magnitude; 0 where only the mean counts."""
        return float(np.abs(self.offset).max(initial=0.0)) if self.loss.link == "logit" else 0.0

    def first_sums(self) -> list[Floats]:
        """What is summed first: weights, offsets by weight, and two of the link."""
        with np.errstate(over="ignore", invalid="ignore"):
            known = [self.weight, self.weight * self.offset]
            if self.loss.link == "identity":
                return [*known, self.weight * (self.label - self.offset), np.empty(0)]
        if self.loss.link == "logit":
            return [*known, self.weight[self.label == 1], self.weight[self.label == 0]]
        return [*known, np.empty(0), np.empty(0)]


async def _log_constant(totals: Totals, own: _Own, mean: float) -> float:
    """log(sum of w y e^((1 - p) o)) - log(sum of w e^((2 - p) o)), with offsets o less their mean."""
    p = own.loss.power
    if p is None:
        raise AssertionError("a log link without a power")
    with np.errstate(over="ignore", invalid="ignore"):
        offset = own.offset - mean
        paid = own.weight * own.label * np.exp((1 - p) * offset)
        due = own.weight * np.exp((2 - p) * offset)
    first, second = await numbers(totals, [ExactSum(paid), ExactSum(due)], "sums of the start")
    if first == 0:
        raise DataError("the label is 0 in every row of all clients: a model needs rows above 0")
    if not first > 0 or not second > 0:
        raise _apart()
    return math.log(first) - math.log(second) - mean


async def _logit_constant(
    totals: Totals, own: _Own, classes: tuple[float, float], mean: float, exponent: int
) -> float:
    """As LogisticLoss.start finds it. `classes`: weights of ones and zeros. `exponent`: no offset is
    beyond this power of two."""
    ones, zeros = classes
    if not ones > 0 or not zeros > 0:
        raise DataError("the label of all clients has only one class: a model needs rows of both")
    odds = _rounded(math.log(ones) - math.log(zeros))
    if exponent == LEAST_EXPONENT:
        return odds
    reach = _finite(2.0**exponent if exponent < _MOST_EXPONENT else math.inf)
    search = ConstantSearch(odds - mean, odds - reach, odds + reach)
    for _ in range(_MOST_STEPS):
        if search.ended:
            return search.at
        slope_of, curvature_of = own.loss.gradients(own.offset + search.at, own.label, own.weight)
        sums = [ExactSum(slope_of), ExactSum(curvature_of)]
        slope, curvature = await numbers(totals, sums, "slope of the start")
        search.step(_finite(slope), _finite(curvature))
    raise _apart()


def mean_losses(rows: Training, score: Floats) -> list[ExactSum]:
    """A client's losses and weights: of the rows that train, then of those that decide when to stop."""
    sums = []
    for mask in (rows.train, rows.validation):
        label, weight = rows.label[mask], rows.weight[mask]
        sums += [ExactSum(rows.loss.losses(score[mask], label, weight)), ExactSum(weight)]
    return sums


def _finite(number: float) -> float:
    if not math.isfinite(number):
        raise _apart()
    return number


def _rounded(number: float) -> float:
    return round(_finite(number) * 2.0**32) / 2.0**32


def _apart() -> DataError:
    return DataError(
        "labels, weights or offsets of all clients are too far apart to be summed: give the exposure or "
        "the offset in another unit"
    )
