"""A numeric column as a smooth curve: a natural cubic spline, or a polynomial.

The terms of a curve span, with the constant, all natural cubic splines with these knots (as patsy's `cr`
does), or all polynomials of this degree. The first is the column itself, standardised; over the rows of
training all have mean 0 and variance 1 and none is correlated with another, so that the fit is as well
conditioned as with levels. A spline goes on as a straight line beyond its outer knots, the least and the
greatest value of training; a polynomial, which would soon run away there, stays what it is at them.

Source: Wood, Generalized Additive Models, 2017, section 5.3.1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vfl.arrays import Floats, Integers
from vfl.learn.matrix import SCALE

MOST_KNOTS = 20  # inner ones
MOST_DEGREE = 5
_AT_ONCE = 1 << 14  # values looked at together, so that what is made of them stays in the cache
_FLAT = 1e-10  # least part of a term's variance that no earlier term explains
_POINTS = 20  # about so many values of a curve are shown

Shape = Literal["spline", "polynomial"]
Rough = Callable[[Floats], list[Floats]]
"""Functions of u whose values have no order of magnitude, and are correlated."""


@dataclass(frozen=True)
class Curve:
    """A numeric column x by its terms, functions of u = (x - least) / (greatest - least)."""

    name: str
    shape: Shape
    knots: tuple[float, ...]
    """Of a spline all, the outer ones included; of a polynomial the least and the greatest value."""
    values: tuple[tuple[float, ...], ...]
    """By term: of a spline at each knot; the coefficients of a polynomial in 2 u - 1, constant first."""
    bends: tuple[tuple[float, ...], ...]  # by term of a spline, its second derivative at each knot
    fill: float  # stands for a missing x
    indicator: bool  # whether missing is a level with a coefficient of its own
    base: float  # where relativities are 1
    rows: int  # with a value, at fit
    missing: int  # rows without one

    @property
    def terms(self) -> list[str]:
        """What its columns of the design matrix are called."""
        return [f"term {number}" for number in range(1, len(self.values) + 1)]

    def numbers(self, values: Floats) -> Floats:
        """Each term at these values, multiples of 2^-FRACTION_BITS, shape (terms, rows).

        The same for a value whatever others are beside it. Raises ValueError for infinite ones.
        """
        made = np.empty((len(self.values), len(values)))
        for first in range(0, len(values), _AT_ONCE):
            part = slice(first, first + _AT_ONCE)
            made[:, part] = self._numbers(values[part])
        return made

    def _numbers(self, values: Floats) -> Floats:
        x = np.where(np.isnan(values), self.fill, values)
        if not np.isfinite(x).all():
            raise ValueError(f"column '{self.name}' holds a number too large to be used")
        low, high = self.knots[0], self.knots[-1]
        u = (x - low) / (high - low)
        if self.shape == "polynomial":
            w = 2.0 * np.clip(u, 0.0, 1.0) - 1.0
            found = [_horner(coefficients, w) for coefficients in self.values]
        else:
            knots = _scaled(self.knots)
            pieces = _pieces(knots, u)
            made = zip(self.values, self.bends, strict=True)
            found = [_spline(knots, at_knots, bends, pieces) for at_knots, bends in made]
        return np.rint(np.array(found).reshape(len(self.values), len(x)) * SCALE) / SCALE

    def effects(self, coefficients: Floats) -> list[tuple[float, float]]:
        """Values of the column in order, and what each adds to the score against the base."""
        points = np.array(sorted({*shown_points(self.knots[0], self.knots[-1]), self.base}))
        numbers = self.numbers(np.append(points, self.base))
        added = np.zeros(len(points) + 1)
        for coefficient, own in zip(coefficients, numbers, strict=True):
            added += coefficient * own
        return list(zip(points.tolist(), (added[:-1] - added[-1]).tolist(), strict=True))


def fit_curve(
    name: str,
    present: Floats,
    shape: Shape,
    size: int | Sequence[float],
    marks: tuple[float, bool, int],
    base: float | None = None,
) -> Curve:
    """The curve of a column of these known values.

    `size` is how many inner knots it has, at quantiles, or where they are, or its degree; `marks` are
    what stands for a missing number, whether missing is a level, and of how many rows. Raises ValueError
    naming the column.
    """
    fill, indicator, missing = marks
    low, high = float(present.min()), float(present.max())
    distinct, counts = np.unique(present, return_counts=True)
    with np.errstate(over="ignore"):
        if not np.isfinite(high - low):
            raise ValueError(f"column '{name}' spreads over too much: give it in another unit")
    if shape == "polynomial":
        degree = int(size) if isinstance(size, int) else len(size)
        knots: tuple[float, ...] = (low, high)
        rough = _powers(degree)
        most, what = degree, f"a polynomial of degree {degree}"
    else:
        inner = _quantiles(present, size) if isinstance(size, int) else [*map(float, size)]
        if not all(low < knot < high for knot in inner):
            raise ValueError(
                f"column '{name}' has a knot that is not between its least and its greatest value in "
                "training: move it"
            )
        knots = (low, *inner, high)
        rough = _rough_spline(knots)
        most, what = len(knots) - 1, f"a spline with {len(inner)} inner knots"
    if len(distinct) <= most:
        raise ValueError(f"column '{name}' has too few different values for {what}: take less")
    means, root = _moments((distinct - low) / (high - low), counts, rough)
    if root is None:
        raise ValueError(f"column '{name}' has too few values between some of its knots: take less")
    values, bends = _terms(shape, knots, means, np.asarray(np.linalg.inv(root), np.float64))
    if base is None:
        centre = float(present.mean())
        base = min(shown_points(low, high), key=lambda point: abs(point - centre))
    return Curve(name, shape, knots, values, bends, fill, indicator, base, len(present), missing)


def shown_points(low: float, high: float) -> list[float]:
    """Round values from the least to the greatest, and these two."""
    rough = (high - low) / _POINTS
    power = 10.0 ** np.floor(np.log10(rough))
    step = float(power * next(size for size in (1, 2, 5, 10) if size * power >= rough * (1 - 1e-9)))
    first, last = int(np.ceil(low / step)), int(np.floor(high / step))
    digits = max(0, -int(np.floor(np.log10(step))))
    between = [round(place * step, digits) for place in range(first, last + 1)]
    return sorted({low, *(point for point in between if low < point < high), high})


def _quantiles(present: Floats, count: int) -> list[float]:
    """So many knots at most that part the rows evenly, each once, none at an end."""
    found = np.unique(np.quantile(present, np.arange(1, count + 1) / (count + 1)))
    inner = found[(found > present.min()) & (found < present.max())]
    return [float(knot) for knot in inner]


def _scaled(knots: Sequence[float]) -> Floats:
    return (np.array(knots) - knots[0]) / (knots[-1] - knots[0])


def _second_derivatives(knots: Floats) -> Floats:
    """F: a natural spline with values v at the knots has second derivatives F v there."""
    count, widths = len(knots), np.diff(knots)
    band, change = np.eye(count), np.zeros((count, count))
    for k in range(1, count - 1):
        before, after = widths[k - 1], widths[k]
        band[k, k - 1 : k + 2] = before / 6, (before + after) / 3, after / 6
        change[k, k - 1 : k + 2] = 1 / before, -1 / before - 1 / after, 1 / after
    return np.asarray(np.linalg.solve(band, change), np.float64)


@dataclass(frozen=True)
class _Pieces:
    """Where values lie among the knots."""

    place: Integers  # of the knot below
    left: Floats  # to the knot above
    right: Floats  # from the knot below
    width: Floats  # between the two
    beyond: Floats  # outside of the outer knots, else 0


def _pieces(knots: Floats, u: Floats) -> _Pieces:
    inside = np.clip(u, 0.0, 1.0)
    place = np.clip(np.searchsorted(knots, inside, "right") - 1, 0, len(knots) - 2)
    low, high = knots[place], knots[place + 1]
    return _Pieces(place, high - inside, inside - low, high - low, u - inside)


def _spline(knots: Floats, values: Sequence[float], bends: Sequence[float], at: _Pieces) -> Floats:
    """A natural cubic spline, by its values and second derivatives at the knots."""
    v, g, k, h = np.array(values), np.array(bends), at.place, at.width
    straight = (at.left * v[k] + at.right * v[k + 1]) / h
    low = (at.left * at.left * at.left / h - h * at.left) * g[k]
    high = (at.right * at.right * at.right / h - h * at.right) * g[k + 1]
    first, last = knots[1] - knots[0], knots[-1] - knots[-2]
    start = (v[1] - v[0]) / first - first * g[1] / 6.0
    end = (v[-1] - v[-2]) / last + last * g[-2] / 6.0
    return np.asarray(straight + (low + high) / 6.0 + at.beyond * np.where(at.beyond < 0, start, end))


def _horner(coefficients: Sequence[float], w: Floats) -> Floats:
    total = np.full(len(w), coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * w + coefficient
    return total


def _powers(degree: int) -> Rough:
    return lambda u: [np.asarray((2.0 * u - 1.0) ** power) for power in range(1, degree + 1)]


def _rough_spline(knots: Sequence[float]) -> Rough:
    """Functions of u that span, with the constant, the natural splines: u, and for each inner knot the
    spline that is 1 there and 0 at all others."""
    scaled = _scaled(knots)
    ones, bends = np.eye(len(scaled)).tolist(), _second_derivatives(scaled).T.tolist()

    def rough(u: Floats) -> list[Floats]:
        at = _pieces(scaled, u)
        inner = range(1, len(scaled) - 1)
        return [u, *(_spline(scaled, ones[place], bends[place], at) for place in inner)]

    return rough


def _moments(u: Floats, counts: Integers, rough: Rough) -> tuple[Floats, Floats | None]:
    """Means of functions over the rows, and the Cholesky root of their covariance; None where one is
    about a combination of others. `counts`: rows of each value."""
    rows, many = int(counts.sum()), len(rough(u[:1]))
    means = np.zeros(many)
    for _ in range(2):  # the means, then the products about them
        sums, products = np.zeros(many), np.zeros((many, many))
        for first in range(0, len(u), _AT_ONCE):
            part, weight = u[first : first + _AT_ONCE], counts[first : first + _AT_ONCE]
            about = [own - mean for own, mean in zip(rough(part), means, strict=True)]
            for i, own in enumerate(about):
                weighted = own * weight
                sums[i] += float(weighted.sum())
                for j in range(i + 1):
                    products[i, j] += float((weighted * about[j]).sum())
        means = means + sums / rows
    covariance = (products + np.tril(products, -1).T) / rows
    root = np.zeros_like(covariance)
    for k in range(many):
        rest = covariance[k:, k] - root[k:, :k] @ root[k, :k]
        if not rest[0] > _FLAT * covariance[k, k]:
            return means, None
        root[k:, k] = rest / np.sqrt(rest[0])
    return means, root


def _terms(
    shape: Shape, knots: Sequence[float], means: Floats, to_terms: Floats
) -> tuple[tuple[tuple[float, ...], ...], tuple[tuple[float, ...], ...]]:
    """Values (or coefficients) and second derivatives of the terms: `to_terms` times the rough functions
    less their means."""

    def rows_of(table: Floats) -> tuple[tuple[float, ...], ...]:
        return tuple(tuple(row) for row in table.tolist())

    many = len(means)
    if shape == "polynomial":
        return rows_of(np.column_stack([-to_terms @ means, to_terms])), ()
    scaled = _scaled(knots)
    rough = np.vstack([scaled, np.eye(many + 1)[1:-1]])
    bends = rough @ _second_derivatives(scaled).T
    return rows_of(to_terms @ (rough - means[:, np.newaxis])), rows_of(to_terms @ bends)
