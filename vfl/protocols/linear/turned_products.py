"""Shares of the products of two parties' columns that owners have turned (vfl/learn/rotated.py).

One encrypts its columns over the lattice engine, the other adds them up under masks (shared_products).
What either has then is uniform; together they are the products, modulo 2^B.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats, Words
from vfl.learn.matrix import Matrix
from vfl.net.peer import Peer
from vfl.protocols.common.participant import Resources
from vfl.protocols.linear.row_products import Factor, RowProducts
from vfl.protocols.linear.shared_products import Cut, share_columns, share_vectors

_MOST_BITS = 20  # of a number below the point


class TurnedForm:
    """How long numbers are, by the rows and the columns of each party; and who encrypts."""

    def __init__(self, rows: int, sizes: Sequence[int]) -> None:
        self.rows, self.sizes = rows, sizes
        self._cut = Cut.between(rows, sum(sizes))
        # A sum of products of numbers of length 1 is at most `rows` times both units, one bit is spared
        # for what rounding adds, and one is its sign.
        self.bits = min(_MOST_BITS, (self._cut.modulus_bits - 2 - rows.bit_length()) // 2)

    @property
    def cut(self) -> Cut:
        return self._cut

    @property
    def error(self) -> float:
        """The standard deviation of an entry of Z'Z / rows: both sides' numbers are rounded."""
        return 2.0**-self.bits / math.sqrt(6 * self.rows)

    def encrypts(self, own: int, other: int) -> bool:
        """Whether `own` is the one of two parties that encrypts."""
        return (self.sizes[own], own) < (self.sizes[other], other)

    def shape(self, one: int, other: int) -> tuple[int, int]:
        """Of the shares of two parties: columns of who encrypts, and of the other."""
        if self.encrypts(one, other):
            return self.sizes[one], self.sizes[other]
        return self.sizes[other], self.sizes[one]

    def products(self, total: Words) -> Floats:
        """Both parties' shares together as products over the rows; rows are of who encrypts."""
        up = np.uint64(64 - self._cut.modulus_bits)
        sums = (total << up).view(np.int64) >> up.astype(np.int64)
        return sums.astype(np.float64) / (self.rows * 4.0**self.bits)

    def noisy(self, shares: Words, noise: Floats) -> Words:
        """Shares of products with noise on them, of as many standard units."""
        whole = np.rint(noise * (self.rows * 4.0**self.bits)).astype(np.int64)
        modulus = np.uint64((1 << self._cut.modulus_bits) - 1)
        return (shares + whole.view(np.uint64)) & modulus

    def put(self, gram: Floats, pair: tuple[int, int], total: Words) -> None:
        """Both parties' shares together into Z'Z / rows."""
        block = self.products(total)
        if not self.encrypts(*pair):
            block = block.T
        ends = np.cumsum([0, *self.sizes]).tolist()
        rows, columns = (slice(ends[at], ends[at + 1]) for at in pair)
        gram[rows, columns], gram[columns, rows] = block, block.T


async def share_products(
    other: Peer,
    numbers: NDArray[np.int32],
    pair: tuple[int, int],
    form: TurnedForm,
    resources: Resources,
) -> Words:
    """This party's shares of the products with the other's columns; pair: this party, the other.
    resources: with random numbers for this pair alone."""
    own, theirs = pair
    rows = numbers.shape[1]
    matrix = Matrix(np.zeros((0, rows), np.uint16), (), numbers)
    if not form.encrypts(own, theirs):
        return (await share_columns(other, matrix, resources, (form.sizes[theirs],), form.cut)).joined
    one = Factor.of(np.ones(rows, np.int64), 1)
    vectors = RowProducts(matrix, [one], [(column, 0) for column in range(len(numbers))])
    (sums,) = await share_vectors([other], vectors, resources, [(form.sizes[theirs],)], form.cut)
    return sums.joined
