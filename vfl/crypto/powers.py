"""Powers of one base, and random products of many, from tables."""

from collections.abc import Callable, Sequence
from typing import cast

import gmpy2
import numpy as np
from gmpy2 import mpz

from vfl.crypto.montgomery import Digits, Montgomery, Table

RandomBits = Callable[[int], int]

_TABLE_BYTES = 40_000_000  # wider windows save products and cost memory and a longer start
_NEAR_BYTES = 10000000  # of a table that is read as fast as eight products are made
_NARROWEST = 5  # bits of a window at first


class FixedBase:
    """Powers of one base, from a table of base^(digit * 2^(window i)).

    Brickell, Gordon, McCurley, Wilson, EUROCRYPT 1992: one product a digit, no squarings. The table is
    made for few powers at first; after some, one with wider windows takes its place. So a few powers do
    not pay for a table that only many are worth.
    """

    def __init__(
        self, base: mpz, modulus: mpz, exponent_bits: int, lanes: Montgomery | None = None
    ) -> None:
        """`lanes`: arithmetic by which eight powers are made at a time."""
        entry, most = modulus.bit_length() // 8, _TABLE_BYTES if lanes is None else _NEAR_BYTES
        widest = max(w for w in range(1, 13) if (exponent_bits // w << w) * entry <= most)
        self._base, self._modulus, self._bits, self._lanes = base, modulus, exponent_bits, lanes
        self._windows = (*range(_NARROWEST, widest, 2), widest)
        # In one piece, as another thread may widen it.
        self._made = self._windows[0], self._table(self._windows[0])
        self._used = 0

    def _table(self, window: int) -> list[list[mpz]] | Table:
        """The powers of each window of so many bits."""
        modulus, base = self._modulus, self._base
        count = -(-self._bits // window)
        if self._lanes is not None:
            return self._lanes.tables(self._lanes.windows(base, count, window), window)
        table: list[list[mpz]] = []
        for _ in range(count):
            powers = [mpz(1)]
            for _ in range((1 << window) - 1):
                powers.append(powers[-1] * base % modulus)
            table.append(powers)
            base = powers[-1] * base % modulus
        return table

    def power(self, exponent: int) -> mpz:
        """base ** exponent, for exponents of at most the bits promised."""
        return self.powers([exponent])[0]

    def powers(self, exponents: Sequence[int]) -> list[mpz]:
        """base ** each of these."""
        window, table = self._made
        if window < self._windows[-1]:
            self._used += len(exponents)
            # Two bits more cost 2^(w + 2) / (w + 2) products for each bit of an exponent and save
            # 2 / w (w + 2) a power: as much after 2 w 2^w. Who has made half as many mostly makes more.
            if self._used > window << window:
                self._used = 0  # others go on with the table that there is
                window = next(wider for wider in self._windows if wider > window)
                self._made = window, table = window, self._table(window)
        if isinstance(table, Table):
            lanes = cast(Montgomery, self._lanes)
            return lanes.numbers(lanes.chosen(table, _digits(exponents, window, self._bits)))
        return [self._power(table, window, exponent) for exponent in exponents]

    def _power(self, table: list[list[mpz]], window: int, exponent: int) -> mpz:
        modulus, mask = self._modulus, (1 << window) - 1
        result = mpz(1)
        for powers in table:
            result = result * powers[exponent & mask] % modulus
            exponent >>= window
        return result


def _digits(exponents: Sequence[int], window: int, bits: int) -> Digits:
    """Digits of `window` bits, the lowest first: shape (exponents, windows)."""
    windows = -(-bits // window)
    size = -(-windows * window // 8)
    data = b"".join([int(exponent).to_bytes(size, "little") for exponent in exponents])
    drawn = np.frombuffer(data, np.uint8).reshape(len(exponents), size)
    each = np.unpackbits(drawn, axis=1, count=windows * window, bitorder="little")
    shaped = each.reshape(len(exponents), windows, window)
    return np.asarray(shaped @ (1 << np.arange(window)), np.int64)


class RandomProducts:
    """Random products of elements that were drawn uniformly from a finite abelian group G.

    A product is that of g^e over all elements g, with a fresh exponent e, uniform below 2^6, for each.
    Products are uniform in G, and independent of each other and of the elements, but for a statistical
    distance of 2^-128 each, whatever G is: with fewer elements than `elements_needed` says, G could be
    made such that the elements do not generate it.

    The leftover hash lemma (Impagliazzo, Levin, Luby, STOC 1989; Stinson, "Universal hash families and
    the leftover hash lemma", 2002): elements and product together are within sqrt(|G| P - 1) / 2 of
    uniform, where P is the probability that products with two independent draws of exponents agree.
    The quotient of the two is distributed as u^c with u uniform in G, where c is the greatest common
    divisor of the differences of exponents: it is 1 with probability |{x: x^c = 1}| / |G| <= c^k / |G|
    where G is a product of k cyclic groups. Of t elements c divides all differences with probability
    c^-t (1 + s (c - s) / 4^6)^t, s = 2^6 mod c. So
        |G| P - 1 <= |G| 2^-6t + the sum over c = 2, ..., 63 of c^(k-t) (1 + s (c - s) / 4^6)^t,
    and t >= k + 257 with 2^6t >= |G| 2^256 make this less than 2^-255.
    """

    DIGIT = 6  # bits of an exponent; tables of longer ones cost memory and save few products

    def __init__(self, elements: Sequence[mpz], modulus: mpz, lanes: Montgomery | None = None) -> None:
        """`lanes`: arithmetic by which eight products are made at a time."""
        self._modulus, self._lanes, self._bits = modulus, lanes, self.DIGIT * len(elements)
        self._table: list[list[mpz]] | Table = []
        if lanes is not None:
            self._table = lanes.tables(lanes.rows(elements), self.DIGIT)
            return
        for element in elements:
            powers = [mpz(1)]
            for _ in range((1 << self.DIGIT) - 1):
                powers.append(powers[-1] * element % modulus)
            self._table.append(powers)

    def draw(self, random_bits: RandomBits) -> mpz:
        """A product with fresh exponents."""
        return self.drawn([random_bits])[0]

    def drawn(self, sources: Sequence[RandomBits]) -> list[mpz]:
        """A product with fresh exponents from each of these."""
        exponents = [random_bits(self._bits) for random_bits in sources]
        if isinstance(self._table, Table):
            lanes = cast(Montgomery, self._lanes)
            return lanes.numbers(lanes.chosen(self._table, _digits(exponents, self.DIGIT, self._bits)))
        return [self._product(self._table, each) for each in exponents]

    def _product(self, table: list[list[mpz]], drawn: int) -> mpz:
        exponents = gmpy2.unpack(mpz(drawn), self.DIGIT)
        result = mpz(1)
        for powers, exponent in zip(table, exponents, strict=False):  # the last ones may be 0
            result = result * powers[exponent] % self._modulus
        return result


def elements_needed(order_bits: int, cyclic: int) -> int:
    """How many elements `RandomProducts` needs for any group of an order below 2^order_bits that is a
    product of so many cyclic groups."""
    return max(cyclic + 257, -(-(order_bits + 256) // RandomProducts.DIGIT))
