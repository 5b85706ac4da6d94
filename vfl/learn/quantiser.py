"""Gradients as integers: scaled by a power of two, or to fill a number of bits, and rounded."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vfl.arrays import Floats, Integers

LEAST_EXPONENT = -900
"""Of the largest gradient: smaller ones are zero."""


class Scales(NamedTuple):
    """What gradients and hessians are multiplied by before they are rounded."""

    gradient: float
    hessian: float


def exponent_of(bound: float) -> int:
    """The least power of two, by its exponent, that is no less than `bound`; LEAST_EXPONENT at the
    least."""
    return math.ceil(math.log2(max(bound, 2.0**LEAST_EXPONENT)))


@dataclass(frozen=True)
class Quantiser:
    """Rounds real numbers to integers of at most `bits` bits."""

    bits: int
    scale: float

    @classmethod
    def for_bound(cls, bound: float, bits: int) -> "Quantiser":
        """A quantiser for values of magnitude at most `bound`, by a power of two (exact to undo); below
        2^-900 all become zero."""
        return cls.for_exponent(exponent_of(bound), bits)

    @classmethod
    def for_exponent(cls, exponent: int, bits: int) -> "Quantiser":
        """A quantiser for values of magnitude at most 2^exponent."""
        return cls(bits, 2.0 ** (bits - exponent))

    @classmethod
    def filling(cls, bound: float, bits: int) -> "Quantiser":
        """A quantiser for values of magnitude at most `bound`, which becomes 2^bits - 1: for few
        bits."""
        return cls(bits, (2.0**bits - 1) / max(bound, 2.0**-900))

    def integers(self, values: Floats) -> Integers:
        """Nearest integers of values * scale."""
        return np.rint(values * self.scale).astype(np.int64)

    def dithered(self, values: Floats, draw: Floats) -> Integers:
        """One of the two integers next to values * scale, the nearer one more likely, so that sums are
        right on average (Shi et al., NeurIPS 2022, section 4.1). `draw`: uniform in [0, 1)."""
        most = 2.0**self.bits - 1
        return np.clip(np.floor(values * self.scale + draw), -most, most).astype(np.int64)
