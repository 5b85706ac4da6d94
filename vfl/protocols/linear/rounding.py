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

from vfl.arrays import Floats, Integers
from vfl.learn.design import FRACTION_BITS
from vfl.learn.glm import BlockReport
from vfl.learn.losses import Quantiser
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


def bits_of_sums(integers: Integers) -> int:
    """Bits of a sum of any of these integers, or of their product with a column in standard deviations:
    its sign and a spare bit counted. Shape (..., rows): the most of all."""
    lengths = np.linalg.norm(integers.astype(np.float64), axis=-1)
    most = float(np.max(lengths, initial=0.0)) * math.sqrt(integers.shape[-1])
    return math.ceil(most * _SLACK).bit_length() + _SPARE_BITS


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
        greatest = float(np.abs(residuals).max(initial=0.0))
        if not math.isfinite(greatest):
            raise divergence("residuals")
        finest = Quantiser.for_bound(greatest, self.most_bits).scale
        step = self._step(residuals, last)
        scale = min(finest, 2.0 ** math.ceil(-math.log2(step))) if step > 2.0**-900 else finest
        return Rounded(np.rint(residuals * scale).astype(np.int64), scale)

    def _step(self, residuals: Floats, last: BlockReport | None) -> float:
        rows = len(residuals)
        if last is None:
            length = float(np.linalg.norm(residuals)) * math.sqrt(self.columns)
        else:
            # In the blocks' coordinates, in which the loss curves as 1, and in the coefficients'.
            whitened = math.sqrt(self.curvature * max(last.products[-1, -1], 0.0))
            length = max(min(whitened, math.sqrt(max(last.square, 0.0))), self.least)
        return 2.0**-_PRECISION_BITS * length * math.sqrt(12 / (max(rows, 1) * max(self.columns, 1)))


def are_standardised(numbers: Floats) -> bool:
    """Whether no number of a matrix, shape (numbers, rows), is longer than the bits allow for."""
    squares = np.einsum("ij,ij->i", numbers, numbers)
    return bool((squares <= _SLACK * numbers.shape[1]).all())
