"""Gradient and hessian in one plaintext, many sums in one plaintext: bounds derived and checked.

A row's quantised gradient g, |g| <= 2^row_bits, and hessian h, 0 <= h <= 2^row_bits, travel as
v = g 2^sum_bits + h. A sum over n rows keeps |G| <= n 2^row_bits and 0 <= H <= n 2^row_bits, and
sum_bits is chosen so that H < 2^sum_bits: the two never touch. |V| < 2^(2 sum_bits + 1), so sums sit
side by side in signed slots of 2 sum_bits + 2 bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Sums must be exact in float64, where gains are computed.
_EXACT_BITS = 53
# What LightGBM keeps of a gradient (float32); each bit more makes all packed sums two bits longer.
ROW_BITS = 24


@dataclass(frozen=True)
class SumPacking:
    """How sums over at most `rows` rows are packed in one plaintext."""

    rows: int
    row_bits: int
    sum_bits: int
    slot_bits: int
    slots: int

    @classmethod
    def for_rows(cls, rows: int, plaintext_bits: int) -> "SumPacking":
        """The packing with the most precise rows (ROW_BITS at most) whose sums are exact.

        `plaintext_bits` are those of the number of plaintexts (of Paillier: those of n). Raises
        ValueError, with the numbers, when not one sum fits.
        """
        row_bits = min(ROW_BITS, _EXACT_BITS - 1 - rows.bit_length())
        if rows < 1:
            raise ValueError(f"{rows} rows have no sums")
        if row_bits < 8:
            raise ValueError(f"sums over {rows:,} rows leave {row_bits} bits a row, fewer than 8")
        sum_bits = (rows << row_bits).bit_length()
        slot_bits = 2 * sum_bits + 2
        # Half the number of plaintexts, above 2^(plaintext_bits - 2), holds all, sign included.
        slots = (plaintext_bits - 2) // slot_bits
        if slots < 1:
            raise ValueError(
                f"sums over {rows:,} rows take {slot_bits} bits, a plaintext has {plaintext_bits - 2}"
            )
        return cls(rows, row_bits, sum_bits, slot_bits, slots)

    def ciphertexts(self, count: int) -> int:
        """How many packed ciphertexts hold `count` sums."""
        return -(-count // self.slots)

    def pair(self, gradient: NDArray[np.int64], hessian: NDArray[np.int64]) -> list[int]:
        """One plaintext a row. Raises ValueError when a value is out of bounds."""
        bound = 1 << self.row_bits
        if len(gradient) and (
            gradient.max() > bound
            or gradient.min() < -bound
            or hessian.max() > bound
            or hessian.min() < 0
        ):
            raise ValueError(f"a gradient or hessian beyond 2^{self.row_bits}")
        shift = self.sum_bits
        return [(g << shift) + h for g, h in zip(gradient.tolist(), hessian.tolist(), strict=True)]

    def unpack(
        self, plaintexts: Sequence[int], count: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The gradient and hessian sums, each of shape (count,), of packed plaintexts.

        Raises ValueError when they are not `count` sums within the bounds.
        """
        if len(plaintexts) != self.ciphertexts(count):
            raise ValueError(f"{len(plaintexts)} packed plaintexts for {count} sums")
        half = 1 << (self.slot_bits - 1)
        mask = (1 << self.slot_bits) - 1
        low = (1 << self.sum_bits) - 1
        bound = self.rows << self.row_bits
        gradient, hessian = np.empty(count, np.int64), np.empty(count, np.int64)
        for i, plaintext in enumerate(plaintexts):
            group = min(self.slots, count - i * self.slots)
            # Adding half to every slot makes all of them non-negative.
            biased = plaintext + sum(half << (self.slot_bits * s) for s in range(group))
            if biased < 0 or biased >> (self.slot_bits * group):
                raise ValueError(f"a packed plaintext out of bounds: not {group} slots")
            for s in range(group):
                value = (biased >> (self.slot_bits * s) & mask) - half
                g, h = value >> self.sum_bits, value & low
                if abs(g) > bound or h > bound:
                    raise ValueError(
                        f"a sum out of bounds: over {self.rows:,} rows of 2^{self.row_bits}"
                    )
                gradient[i * self.slots + s], hessian[i * self.slots + s] = g, h
        return gradient, hessian
