"""Newton's steps from sums over rows, the same bit for bit on every machine that has the sums.

Only sums, differences, products, quotients and square roots of single numbers are used, which IEEE 754
fixes to the last bit: what BLAS does with them depends on the processor. Vectors have shape (columns,),
matrices (columns, columns).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vfl.arrays import Floats, Mask

_FLAT = 2.0**-40  # least pivot, of a matrix scaled to a diagonal of ones

SIZES = (0.0, 0.125, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
"""Of a step, at which the loss is looked at in one go; the first is where the step begins."""

_SWEEPS, _CHANGES = 20, 10  # of coordinate descent; of active sets at most, a coordinate
_BEYOND = 1e-12  # of the gradient: by how much a slope is beyond a kink that tells of more than rounding

_HALVINGS = 60
_STEEP = 16.0  # by how much slopes at two sizes may differ
_MORE = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
_PARTS = (0.0, 0.0625, 0.25, 0.5, 0.75, 0.875, 1.0)
_SMALL_PARTS = (2.0**-6, 2.0**-4, 2.0**-3, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Curvature:
    """A symmetric matrix without negative eigenvalues, decomposed by Cholesky's method."""

    root: Floats  # lower triangle, of the matrix scaled to a diagonal of ones
    length: Floats  # by which rows and columns were divided

    @classmethod
    def of(cls, matrix: Floats) -> "Curvature":
        """Where rounding makes a pivot too small, it is as small as it can be."""
        length = np.sqrt(np.diag(matrix))
        length[length == 0] = 1.0  # a column of zeros keeps a small pivot
        rest = matrix / length / length[:, None]
        root = np.zeros_like(rest)
        for j in range(len(rest)):
            root[j:, j] = rest[j:, j] / math.sqrt(max(rest[j, j], _FLAT))
            root[j, j] = math.sqrt(max(rest[j, j], _FLAT))
            own = root[j + 1 :, j]
            rest[j + 1 :, j + 1 :] -= own[:, None] * own
        return cls(root, length)

    def solve(self, right: Floats) -> Floats:
        """The vector, or the columns of a matrix, whose product with the matrix is `right`."""
        x, root = (right.T / self.length).T.copy(), self.root
        for j in range(len(root)):
            x[j] /= root[j, j]
            x[j + 1 :] -= _outer(root[j + 1 :, j], x[j])
        for j in reversed(range(len(root))):
            x[j] /= root[j, j]
            x[:j] -= _outer(root[j, :j], x[j])
        return np.asarray((x.T / self.length).T)

    def inverse(self) -> Floats:
        return self.solve(np.eye(len(self.root)))


def _outer(column: Floats, row: Floats) -> Floats:
    """The product of a column with a number, or with each of a row's."""
    return np.multiply.outer(column, row)


def product(a: Floats, b: Floats) -> float:
    """The inner product, summed exactly and rounded once."""
    return math.fsum((a * b).tolist())


def times(matrix: Floats, other: Floats) -> Floats:
    """The product of two matrices, summed in order."""
    total = np.zeros((len(matrix), other.shape[1]))
    for k in range(len(other)):
        total += matrix[:, k, None] * other[k]
    return total


def lasso_direction(hessian: Floats, gradient: Floats, at: Floats, kinks: Floats) -> Floats:
    """Newton's direction z where the objective has kinks: the least of

        gradient' z + z' hessian z / 2 + sum of kinks |at + z|.

    By coordinate descent, and from there by active sets, as of Lawson and Hanson's (1974) least squares:
    towards the least for the present signs up to where a coordinate becomes zero, until none does; then
    the coordinate at zero whose slope is farthest beyond its kink gets a sign. `hessian` has no negative
    eigenvalue; `kinks` are at least 0.
    """
    way = _swept(hessian, gradient, at, kinks)
    small, settled = _BEYOND * float(np.abs(gradient).max(initial=0.0)), False
    for _ in range(_CHANGES * (1 + len(at))):
        zero = (kinks > 0) & (way == -at)
        signs = np.sign(at + way)
        if settled:
            slope = gradient + times(hessian, way[:, np.newaxis])[:, 0]
            beyond = np.where(zero, np.abs(slope) - kinks, 0.0)
            if not (beyond > small).any():
                break
            enters = int(np.argmax(beyond))
            zero[enters], signs[enters] = False, -np.sign(slope[enters])
        least = _least(hessian, gradient + kinks * signs, -at, zero)
        crossing = np.flatnonzero(~zero & (kinks > 0) & ((at + least) * signs < 0))
        settled = len(crossing) == 0
        if settled:
            way = least
            continue
        ratios = (at + way)[crossing] / (way - least)[crossing]
        first = crossing[int(np.argmin(ratios))]
        way = np.where(zero, -at, way + ratios.min() * (least - way))
        way[first] = -at[first]
    return way


def _least(hessian: Floats, gradient: Floats, fixed: Floats, some: Mask) -> Floats:
    """The least of gradient' z + z' hessian z / 2, where some of z are fixed."""
    way, free = fixed.copy(), np.flatnonzero(~some)
    pulled = times(hessian[np.ix_(free, np.flatnonzero(some))], fixed[some][:, np.newaxis])[:, 0]
    way[free] = Curvature.of(hessian[np.ix_(free, free)]).solve(-gradient[free] - pulled)
    return way


def _swept(hessian: Floats, gradient: Floats, at: Floats, kinks: Floats) -> Floats:
    """Near the direction of `lasso_direction`, one coordinate after another."""
    way, rest, curved = np.zeros(len(at)), -gradient, np.diag(hessian).tolist()
    for _ in range(_SWEEPS):
        for j in range(len(at)):
            if not curved[j] > 0:
                continue
            own, kink = float(at[j]), float(kinks[j])
            wish = float(rest[j]) + curved[j] * float(way[j])
            new, end = -own, wish + curved[j] * own
            if kink == 0 or abs(end) > kink:
                new = (wish - math.copysign(kink, end)) / curved[j]
            rest = rest - hessian[:, j] * (new - float(way[j]))
            way[j] = new
    return way


@dataclass(frozen=True)
class Along:
    """A convex function of a step's size: its slope and its second derivative at sizes that grow, the
    first of which is 0; infinite, or none, where a size is too far."""

    sizes: Sequence[float]
    slopes: Sequence[float]
    curvatures: Sequence[float]

    def best(self) -> float:
        """Where the slope is zero, between two sizes by Hermite's cubic through both; the greatest
        where it is negative at all. Never 0: a small step where none is right."""
        far = self._far
        if far == len(self.slopes):
            return self.sizes[-1]
        if far == 0:
            return self.sizes[1] / 64
        at, to = self.sizes[far - 1], self.sizes[far]
        if not (math.isfinite(self.slopes[far]) and math.isfinite(self.curvatures[far])):
            return at or to / 64
        low, high, width = 0.0, 1.0, to - at
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if self._slope(far, middle, width) < 0 else (low, middle)
        return at + width * high

    def further(self) -> list[float] | None:
        """Sizes to look at where the best is not among these, or is between two at which slopes differ
        too much for a cubic; as many as SIZES, the first 0."""
        far, slopes = self._far, self.slopes
        if far == 0:
            return None
        at = self.sizes[far - 1]
        if far == len(slopes):
            return [0.0, *(at * more for more in _MORE)] if slopes[-1] < slopes[0] / _STEEP else None
        if slopes[far] <= -_STEEP * slopes[far - 1] and math.isfinite(self.curvatures[far]):
            return None
        width = self.sizes[far] - at
        return [0.0, *(at + width * part for part in (_PARTS if at else _SMALL_PARTS))]

    @property
    def _far(self) -> int:
        """The place of the first size that is too far."""
        return next((k for k, slope in enumerate(self.slopes) if not slope < 0), len(self.slopes))

    def _slope(self, far: int, t: float, width: float) -> float:
        """Of the cubic, at the share t of the way from one size to the next."""
        f0, f1 = self.slopes[far - 1], self.slopes[far]
        d0, d1 = self.curvatures[far - 1] * width, self.curvatures[far] * width
        u = 1 - t
        return u * u * ((1 + 2 * t) * f0 + t * d0) + t * t * ((3 - 2 * t) * f1 - u * d1)
