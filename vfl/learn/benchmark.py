"""A model beside the present tariff: whose order of policies is the better one, and who would pay more.

Both are brought to one total, so that what is compared is the order alone: loss ratios are those at
equal volume, in units of that of all rows. The factor that does so for the model is its off-balance.
(Goldburd, Khare, Tevet, Guideler, Generalized Linear Models for Insurance Rating, 2nd ed., 2020, 7.2;
Meyers, Cummings, "Goodness of fit" vs. "goodness of lift", Actuarial Review 36, 2009.)
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats, Integers, Mask
from vfl.learn.bootstrap import (
    LEAST,
    Estimate,
    Resamples,
    Summed,
    estimate,
    estimates,
    one_group,
    quotients,
)
from vfl.learn.metrics import places_of_levels, quantile_groups

CHANGES = (0.5, 0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.3, 1.5, 2.0)
"""Edges of the histogram of new by old premiums."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_TENTHS = 10


@dataclass(frozen=True)
class Tariffs:
    """Rows with totals under two tariffs, float64 (rows,): `actual` is what happened, `ours` what the
    model expects, no less than 0, `present` the present premium, above 0."""

    actual: Floats
    ours: Floats
    present: Floats
    exposure: Floats

    @property
    def off_balance(self) -> float:
        """What brings the model to the present total."""
        return float(self.present.sum() / self.ours.sum())

    @property
    def changes(self) -> Floats:
        """New premiums by present ones."""
        return self.ours * self.off_balance / self.present

    def take(self, rows: Mask) -> "Tariffs":
        """Some of the rows."""
        return Tariffs(self.actual[rows], self.ours[rows], self.present[rows], self.exposure[rows])


@dataclass(frozen=True)
class TariffGroup:
    """Policies to which the model would do about the same; rates are by exposure, both tariffs brought
    to what happened in all. `loss_ratio` is that of the present tariff, by that of all rows."""

    rows: int
    exposure: float
    actual: Estimate
    ours: Estimate
    present: Estimate
    loss_ratio: Estimate


@dataclass(frozen=True)
class Kept:
    """The part of the present premium that is best by a model, and its loss ratio by that of all."""

    share: float
    loss_ratio: Estimate


@dataclass(frozen=True)
class Segment:
    """Policies of one level of a column: what they would pay by what they pay, and what happened by what
    either tariff takes for it, both brought to what happened in all."""

    column: str
    level: str
    rows: int
    exposure: float
    change: Estimate
    actual_present: Estimate
    actual_ours: Estimate


@dataclass(frozen=True)
class Dislocation:
    """How premiums would change: shares of exposure between CHANGES, quantiles of the change, and the
    shares that pay over a tenth more, or less."""

    shares: list[Estimate]
    quantiles: list[Estimate]
    more: Estimate
    less: Estimate


@dataclass(frozen=True)
class Benchmark:
    """All that is said of a model and the present tariff.

    off_balance: factor that brings the model's total to the present one. over_present: the Gini index of
    what happened against the present premium, in the order of the model by that premium; above 0 the
    model tells apart what the present tariff does not. over_ours: the same with the two tariffs in each
    other's place (Frees, Meyers, Cummings, Journal of Risk and Insurance 81, 2014). spread: the present
    tariff's loss ratio in the highest tenth of that order by that in the lowest.
    """

    rows: int
    off_balance: Estimate
    groups: list[TariffGroup]
    over_present: Estimate
    over_ours: Estimate
    spread: Estimate
    kept: dict[str, list[Kept]]
    dislocation: Dislocation
    segments: list[Segment]


def compare(
    rows: Tariffs,
    others: dict[str, Floats],
    columns: dict[str, NDArray[np.generic]],
    resamples: Resamples,
    name: str,
) -> Benchmark:
    """A model, called `name`, and the present tariff on these rows.

    others: what further models expect, by their name, which are compared in what they would keep alone.
    columns: of the rows, by name, for segments.
    """
    every = [one_group(values) for values in (rows.actual, rows.ours, rows.present)]
    sums = resamples.sums(every)
    totals = Draws(*(of[:, 0] for of in sums))
    groups, spread = _groups(rows, resamples)
    over_present, over_ours = orders(rows, resamples)
    kept = {
        model: _kept(replace(rows, ours=expected), resamples)
        for model, expected in {name: rows.ours, **others}.items()
    }
    return Benchmark(
        len(rows.actual),
        estimate(rows.off_balance, quotients(totals.present, totals.ours)),
        groups,
        over_present,
        over_ours,
        spread,
        kept,
        _dislocation(rows, resamples, totals),
        _segments(rows, columns, resamples, totals),
    )


@dataclass(frozen=True)
class Draws:
    """The totals of each draw."""

    actual: Floats
    ours: Floats
    present: Floats


def _groups(rows: Tariffs, resamples: Resamples) -> tuple[list[TariffGroup], Estimate]:
    """Tenths by the ratio of both tariffs."""
    group = quantile_groups(rows.ours / rows.present, rows.exposure, _TENTHS)
    count = int(group.max()) + 1
    columns = (rows.exposure, rows.actual, rows.ours, rows.present)
    point = [_sums(group, count, column) for column in columns]
    drawn = resamples.sums([Summed(group, count, column) for column in columns])
    enough = resamples.counts(group, count, rows.actual != 0) >= LEAST

    def made(
        size: NDArray[np.float64], happened: NDArray[np.float64], *paid: NDArray[np.float64]
    ) -> tuple[list[NDArray[np.float64]], NDArray[np.float64]]:
        """Rates and loss ratios; of the rows themselves, or of all draws at once."""
        total = happened.sum(axis=-1, keepdims=True)
        ours, present = (quotients(one, one.sum(axis=-1, keepdims=True)) * total for one in paid)
        rates = [quotients(one, size) for one in (happened, ours, present)]
        return rates, quotients(happened, present)

    (actual, ours, present), ratio = made(*(one[None] for one in point))
    of_draws, ratios = made(*drawn)
    found = [
        estimates(values[0], draws, known)
        for values, draws, known in (
            (actual, of_draws[0], enough),
            (ours, of_draws[1], None),
            (present, of_draws[2], None),
            (ratio, ratios, enough),
        )
    ]
    sizes = np.bincount(group, minlength=count).tolist()
    groups = [
        TariffGroup(size, exposure, *of)
        for size, exposure, *of in zip(sizes, point[0].tolist(), *found, strict=True)
    ]
    value = quotients(ratio[0, -1:], ratio[0, :1])
    spread = estimates(value, quotients(ratios[:, -1:], ratios[:, :1]), enough[[0]] & enough[[-1]])[0]
    return groups, spread


def orders(rows: Tariffs, resamples: Resamples) -> list[Estimate]:
    """The Gini indices of each tariff's order over the other's premium."""
    pairs = [(rows.ours, rows.present), (rows.present, rows.ours)]
    prepared = []
    for one, other in pairs:
        ratio = np.full(len(one), np.inf)
        np.divide(one, other, out=ratio, where=other > 0)
        order = np.argsort(ratio, kind="stable")
        ends = np.append(np.flatnonzero(np.diff(ratio[order]) > 0) + 1, len(order))
        prepared.append((order, ends, other[order], rows.actual[order]))

    def of(times: Floats) -> Floats:
        found = []
        for order, ends, paid, happened in prepared:
            drawn = times[order]
            x, y = (np.append(0.0, np.cumsum(one * drawn)[ends - 1]) for one in (paid, happened))
            area = float((np.diff(x) * (y[1:] + y[:-1])).sum()) / 2
            found.append(1 - 2 * area / (x[-1] * y[-1]) if x[-1] * y[-1] > 0 else np.nan)
        return np.array(found)

    values = of(np.ones(len(rows.actual)))
    (some,) = resamples.counts(np.zeros(len(rows.actual), np.int64), 1, rows.actual != 0)
    return estimates(values, resamples.each(of), np.full(len(pairs), some >= LEAST))


def _sums(group: Integers, groups: int, values: Floats) -> Floats:
    return np.bincount(group, values, groups).astype(np.float64)


def _kept(rows: Tariffs, resamples: Resamples) -> list[Kept]:
    """Nine tenths of the present premium that are the best by the model, eight, and so on.

    Which rows are in which tenth is decided once; rows of one ratio stay together."""
    group = quantile_groups(rows.ours / rows.present, rows.present, _TENTHS)
    count = int(group.max()) + 1
    sums = [Summed(group, count, column) for column in (rows.actual, rows.present)]
    happened, paid = (_sums(group, count, one.values) for one in sums)
    drawn = [np.cumsum(one, axis=1) for one in resamples.sums(sums)]
    up = [np.cumsum(one) for one in (happened, paid)]
    some = np.cumsum(resamples.counts(group, count, rows.actual != 0))
    ratio = quotients(up[0], up[1]) / (up[0][-1] / up[1][-1])
    ratios = quotients(quotients(*drawn), quotients(drawn[0][:, -1:], drawn[1][:, -1:]))
    shares = (up[1] / up[1][-1]).tolist()
    return [
        Kept(share, one)
        for share, one in zip(shares, estimates(ratio, ratios, some >= LEAST), strict=True)
    ]


def _dislocation(rows: Tariffs, resamples: Resamples, totals: Draws) -> Dislocation:
    changes, size = rows.changes, rows.exposure
    group = np.searchsorted(CHANGES, changes, side="right")
    count = len(CHANGES) + 1
    (drawn,) = resamples.sums([Summed(group, count, size)])
    shares = estimates(
        np.bincount(group, size, count) / size.sum(), drawn / drawn.sum(axis=1, keepdims=True)
    )
    order = np.argsort(changes, kind="stable")
    ordered, sizes = changes[order], size[order]
    both = rows.ours / rows.present

    def of(times: Floats) -> Floats:
        """Quantiles and both shares of a draw, whose totals are its own."""
        counted = sizes * times[order]
        up = np.cumsum(counted)
        factor = (rows.present @ times) / (rows.ours @ times) / rows.off_balance
        at = np.searchsorted(up, np.array(QUANTILES) * up[-1])
        drawn = times * size
        change = both * rows.off_balance * factor
        parts = [drawn[change > 1.1].sum(), drawn[change < 0.9].sum()]
        return np.concatenate([ordered[np.minimum(at, len(up) - 1)] * factor, np.array(parts) / up[-1]])

    found = estimates(of(np.ones(len(changes))), resamples.each(of))
    return Dislocation(shares, found[: len(QUANTILES)], found[-2], found[-1])


def _segments(
    rows: Tariffs, columns: dict[str, NDArray[np.generic]], resamples: Resamples, totals: Draws
) -> list[Segment]:
    placed = {name: places_of_levels(values, rows.exposure) for name, values in columns.items()}
    wanted = [
        Summed(place, len(labels), column)
        for place, labels in placed.values()
        for column in (rows.actual, rows.ours, rows.present)
    ]
    drawn = iter(resamples.sums(wanted))
    total = [float(one.sum()) for one in (rows.actual, rows.ours, rows.present)]
    found = []
    for name, (place, labels) in placed.items():
        actual, ours, present = (
            _sums(place, len(labels), one) for one in (rows.actual, rows.ours, rows.present)
        )
        draws = [next(drawn) for _ in range(3)]
        enough = resamples.counts(place, len(labels), rows.actual != 0) >= LEAST
        # A factor of each draw brings the totals together.
        to_present = quotients(totals.present, totals.ours)[:, None]
        by_ours = quotients(totals.ours, totals.actual)[:, None]
        by_present = quotients(totals.present, totals.actual)[:, None]
        parts = zip(
            estimates(
                quotients(ours, present) * total[2] / total[1],
                quotients(draws[1], draws[2]) * to_present,
            ),
            estimates(
                quotients(actual, present) * (total[2] / total[0] if total[0] else np.nan),
                quotients(draws[0], draws[2]) * by_present,
                enough,
            ),
            estimates(
                quotients(actual, ours) * (total[1] / total[0] if total[0] else np.nan),
                quotients(draws[0], draws[1]) * by_ours,
                enough,
            ),
            strict=True,
        )
        sizes = np.bincount(place, rows.exposure, len(labels)).tolist()
        counts = np.bincount(place, minlength=len(labels)).tolist()
        found += [
            Segment(name, label, count, size, *of)
            for label, count, size, of in zip(labels, counts, sizes, parts, strict=True)
            if count
        ]
    return found
