"""Powers of one base from tables."""

from gmpy2 import mpz

_TABLE_BYTES = 40_000_000  # wider windows save products and cost memory and a longer start
_NARROWEST = 5  # bits of a window at first


class FixedBase:
    """Powers of one base, from a table of base^(digit * 2^(window i)).

    Brickell, Gordon, McCurley, Wilson, EUROCRYPT 1992: one product a digit, no squarings. The table is
    made for few powers at first; after some, one with wider windows takes its place. So a few powers do
    not pay for a table that only many are worth.
    """

    def __init__(self, base: mpz, modulus: mpz, exponent_bits: int) -> None:
        entry = modulus.bit_length() // 8
        widest = max(w for w in range(1, 13) if (exponent_bits // w << w) * entry <= _TABLE_BYTES)
        self._base, self._modulus, self._bits = base, modulus, exponent_bits
        self._windows = [*range(_NARROWEST, widest, 2), widest]
        self._widen()

    def _widen(self) -> None:
        """Make the table of the next wider windows."""
        modulus, base = self._modulus, self._base
        self._window, self._used = self._windows.pop(0), 0
        self._table: list[list[mpz]] = []
        for _ in range(-(-self._bits // self._window)):
            powers = [mpz(1)]
            for _ in range((1 << self._window) - 1):
                powers.append(powers[-1] * base % modulus)
            self._table.append(powers)
            base = powers[-1] * base % modulus

    def power(self, exponent: int) -> mpz:
        """base ** exponent, for exponents of at most the bits promised."""
        if self._windows:
            self._used += 1
            # Two bits more cost 2^(w + 2) / (w + 2) products for each bit of an exponent and save
            # 2 / w (w + 2) a power: as much after 2 w 2^w. Who has made half as many mostly makes more.
            if self._used > self._window << self._window:
                self._widen()
        modulus, window, mask = self._modulus, self._window, (1 << self._window) - 1
        result = mpz(1)
        for powers in self._table:
            result = result * powers[exponent & mask] % modulus
            exponent >>= window
        return result
