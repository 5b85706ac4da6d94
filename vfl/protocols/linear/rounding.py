"""How precise residuals are, iteration by iteration, and how much of the products with them goes back.

A host learns X^T r, and r depends on the labels. Whatever a host asks for in place of X^T r, by packing
residuals of many rows into one number or otherwise, it learns no more about the labels than there are
bits in what the guest gives back to it. So residuals are rounded as coarsely as the fit allows, and the
guest gives back of each product the bits that a product of such residuals can have, and no others:

 - Residuals are multiples of a step q. Rounded, each row is off by q / sqrt(12), a gradient of C
   columns of n rows by q sqrt(n C / 12). The step is such that this is 2^-20 of the last gradient, or of
   one that is at the tolerance where that is more; in the first iteration, of the gradient that columns
   without any effect have, which is the length of r.
 - A column of X is as long as sqrt(n) at most, in units of a standard deviation. So by Cauchy and
   Schwarz no product is beyond sqrt(n) times the length of the rounded residuals. A number's is a
   multiple of 2^-24 q.

Noise that the guest adds to residuals would not bound it as well. Where it is small enough for the fit,
it lies far below what tells a label apart, and a host that adds up rows at distances of one bit,
1 r_1 + 2 r_2 + 4 r_3 and so on, reads the labels of as many rows as there are bits between the two.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats, Integers
from vfl.blocks.engine import Rows
from vfl.blocks.means import ordered_sums, stretches
from vfl.learn.glm import BlockReport
from vfl.learn.matrix import FRACTION_BITS, Matrix
from vfl.learn.quantiser import Quantiser
from vfl.protocols.linear.masked_numbers import divergence

_PRECISION_BITS = 20
"""Of a gradient. By 12 bits well-behaved fits take as many iterations as by 40, but where a level has no
claim the search stands still before the level is seen to have no finite best."""

_SPARE_BITS = 2  # of a product: its sign, and one that shows numbers that are none
_SLACK = 1 + 1e-6  # numbers are rounded to 2^-24 of a standard deviation, and so are a little longer


@dataclass(frozen=True)
class Rounded:
    """Residuals as integers."""

    integers: Integers  # shape (rows,)
    scale: float  # a power of two: r times scale is near the integers

    @property
    def bits(self) -> int:
        """Bits of a product with a column of 0 and 1."""
        return bits_of_sums(self.integers)


def bits_of_sums(integers: NDArray[np.signedinteger]) -> int:
    """Bits of a sum of any of these integers, or of their product with a column in standard deviations:
    its sign and a spare bit counted. Shape (..., rows): the most of all."""
    lengths = [_length(own) for own in np.atleast_2d(integers)]
    most = max([0.0, *lengths]) * math.sqrt(integers.shape[-1])
    return math.ceil(most * _SLACK).bit_length() + _SPARE_BITS


def _length(integers: NDArray[np.signedinteger]) -> float:
    """The root of the sum of their squares, as NumPy has it."""
    reals = (integers[some].astype(np.float64) for some in stretches(len(integers)))
    return math.sqrt(ordered_sums(((part * part,) for part in reals), len(integers))[0])


def largest_size(values: Floats | Integers) -> float:
    """The largest magnitude among them; not a number if one is none."""
    return float(np.max([0.0, *(np.abs(values[some]).max() for some in stretches(len(values)))]))


def most_bits(rows: int, row_bits: int) -> int:
    """`bits_of_sums` of so many integers of so many bits, at most."""
    return math.ceil(rows * 2.0**row_bits * _SLACK).bit_length() + _SPARE_BITS


def number_bits(bits: int) -> int:
    """Bits of a number's product, where those of a column of 0 and 1 have so many."""
    return bits + FRACTION_BITS


@dataclass(frozen=True)
class Rounding:
    """What the steps of residuals depend on."""

    columns: int  # of all parties
    curvature: float
    least: float  # length of a gradient at the tolerance
    most_bits: int  # of an integer, its sign not counted

    def of(self, residuals: Floats, last: BlockReport | None) -> Rounded:
        """Round residuals; `last`: what all blocks told of the last gradient, None before the first.

        Raises ConfigError for infinite ones.
        """
        greatest = largest_size(residuals)
        if not math.isfinite(greatest):
            raise divergence("residuals")
        finest = Quantiser.for_bound(greatest, self.most_bits).scale
        step = self._step(residuals, last)
        scale = min(finest, 2.0 ** math.ceil(-math.log2(step))) if step > 2.0**-900 else finest
        integers = np.empty(len(residuals), np.int64)
        for some in stretches(len(residuals)):
            integers[some] = np.rint(residuals[some] * scale)
        return Rounded(integers, scale)

    def _step(self, residuals: Floats, last: BlockReport | None) -> float:
        rows = len(residuals)
        if last is None:
            length = float(np.linalg.norm(residuals)) * math.sqrt(self.columns)
        else:
            # In the blocks' coordinates, in which the loss curves as 1, and in the coefficients'.
            whitened = math.sqrt(self.curvature * max(last.products[-1, -1], 0.0))
            length = max(min(whitened, math.sqrt(max(last.square, 0.0))), self.least)
        return 2.0**-_PRECISION_BITS * length * math.sqrt(12 / (max(rows, 1) * max(self.columns, 1)))


def are_standardised(numbers: Rows) -> bool:
    """Whether no number of a matrix, shape (numbers, rows), is longer than the bits allow for."""
    rows = numbers.shape[1]
    own = Matrix(np.empty((0, rows), np.uint16), (), numbers)
    return bool((own.squares <= _SLACK * rows).all())
