"""Paillier encryption of vectors: arrays of ciphertexts in, arrays of ciphertexts out.

Paillier, EUROCRYPT 1999, with generator 1 + n: a ciphertext of m is (1 + m n) r modulo n^2, where the
obfuscator r is an n-th residue. A vector of ciphertexts is a uint8 array of shape (count, width), each
row one ciphertext as a little-endian integer of fixed width, ready for the wire. Keys and ciphertexts
are interchangeable with `phe`.

Obfuscators are squares of n-th residues. An encryption of m with a uniform one is the square of an
ordinary encryption of m / 2 (n is odd), so that nothing is lost against the textbook scheme.
- The owner of the key computes h^alpha modulo p^2 and q^2 from tables and joins the two by the Chinese
  remainder theorem. h is a random square n-th residue and alpha is short: 448 bits at 2048, as in Ma,
  Han, Lei, ACSAC 2021. That h^alpha then looks uniform in the group of h to those who cannot factor n is
  an assumption (Damgard, Jurik, Nielsen 2010 prove it from factoring for exponents half as long as n,
  by Goldreich and Rosen, J. Cryptology 2003); the best attack known, Pollard's kangaroo, takes the root
  of the number of exponents, 2^224. `full_exponents` does without it: exponents uniform below p - 1 and
  q - 1, twice the work.
- Without the key, the exponent is 128 bits longer than n, so that r is uniform up to 2^-128 in the
  group that the base generates. Shorter ones would do against those who cannot factor n; but who
  re-randomises a sum hides it from the key's owner.
"""

import secrets
from collections.abc import Callable, Sequence
from itertools import islice

import gmpy2
import numpy as np
from gmpy2 import mpz
from numpy.typing import NDArray

KEY_BITS = (2048, 3072, 4096)
# Four times the security level in bits, which NIST SP 800-57 puts at 112 and 128 for the first two.
SHORT_EXPONENT = {2048: 448, 3072: 512, 4096: 640}
Ciphertexts = NDArray[np.uint8]  # shape (count, width)
RandomBits = Callable[[int], int]

_SMALL_PRIMES = gmpy2.primorial(1 << 16)
_TABLE_BYTES = 40_000_000  # wider windows save products and cost memory and a longer start


class FixedBase:
    """Powers of one base, from a table of base^(digit * 2^(window i)).

    Brickell, Gordon, McCurley, Wilson, EUROCRYPT 1992: one product a digit, no squarings.
    """

    def __init__(self, base: mpz, modulus: mpz, exponent_bits: int) -> None:
        entry = modulus.bit_length() // 8
        window = max(w for w in range(1, 11) if (exponent_bits // w << w) * entry <= _TABLE_BYTES)
        self._modulus = modulus
        self._window = window
        self._table: list[list[mpz]] = []
        for _ in range(-(-exponent_bits // window)):
            powers = [mpz(1)]
            for _ in range((1 << window) - 1):
                powers.append(powers[-1] * base % modulus)
            self._table.append(powers)
            base = powers[-1] * base % modulus

    def power(self, exponent: int) -> mpz:
        """base ** exponent, for exponents of at most the bits promised."""
        modulus, window, mask = self._modulus, self._window, (1 << self._window) - 1
        result = mpz(1)
        for powers in self._table:
            result = result * powers[exponent & mask] % modulus
            exponent >>= window
        return result


class InvalidCiphertext(ValueError):
    """A number that is no ciphertext under the key."""


class PublicKey:
    """What the hosts hold: adds, packs and re-randomises, cannot decrypt."""

    def __init__(self, n: int, random_bits: RandomBits = secrets.randbits) -> None:
        """Raises ValueError when n is no plausible Paillier modulus of an allowed size."""
        self.n = mpz(n)
        self.bits = self.n.bit_length()
        if self.bits not in KEY_BITS:
            raise ValueError(f"a modulus of {self.bits} bits; allowed are {KEY_BITS}")
        coprime = self.n > 0 and gmpy2.gcd(self.n, _SMALL_PRIMES) == 1
        if not coprime or gmpy2.is_power(self.n) or self.n.is_prime():
            raise ValueError("a modulus that is no product of two large primes")
        self.n_squared = self.n * self.n
        self.width = self.bits // 4
        self._random_bits = random_bits
        self._base: FixedBase | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublicKey) and self.n == other.n

    def __hash__(self) -> int:
        return hash(self.n)

    def integers(self, ciphertexts: Ciphertexts) -> list[mpz]:
        """The ciphertexts as integers."""
        data, width = np.ascontiguousarray(ciphertexts).tobytes(), self.width
        read = mpz.from_bytes
        return [read(data[i : i + width], "little") for i in range(0, len(data), width)]

    def array(self, integers: Sequence[mpz]) -> Ciphertexts:
        """The ciphertexts of these integers."""
        data = b"".join([x.to_bytes(self.width, "little") for x in integers])
        return np.frombuffer(data, np.uint8).reshape(len(integers), self.width)

    def parse(self, data: bytes) -> Ciphertexts:
        """Ciphertexts that a peer sent. Raises InvalidCiphertext unless all are units modulo n^2."""
        if len(data) % self.width:
            raise InvalidCiphertext("ciphertexts cut short")
        ciphertexts = np.frombuffer(data, np.uint8).reshape(-1, self.width)
        self.check(ciphertexts)
        return ciphertexts

    def check(self, ciphertexts: Ciphertexts) -> None:
        """Raises InvalidCiphertext unless all are units modulo n^2."""
        product = mpz(1)
        for c in self.integers(ciphertexts):
            if not 0 < c < self.n_squared:
                raise InvalidCiphertext("a ciphertext out of range")
            product = product * c % self.n
        if gmpy2.gcd(product, self.n) != 1:
            raise InvalidCiphertext("a ciphertext that is not invertible")

    def sum_runs(self, ciphertexts: Ciphertexts, ends: NDArray[np.int64]) -> Ciphertexts:
        """Sums of neighbouring rows: run i ends (exclusive) at ends[i], where the next one starts."""
        n_squared, rows = self.n_squared, iter(self.integers(ciphertexts))
        sums = []
        for length in np.diff(ends, prepend=0).tolist():
            total = next(rows)
            for x in islice(rows, length - 1):
                total = total * x % n_squared
            sums.append(total)
        return self.array(sums)

    def sum_cells(
        self, ciphertexts: Ciphertexts, cells: Sequence[NDArray[np.integer]], count: int
    ) -> Ciphertexts:
        """Sums by cell, shape (count, width): row i is added to cells[j][i] for every j.

        A negative cell leaves the row out. An empty cell is 1, the trivial encryption of zero:
        re-randomise before it leaves this party.
        """
        n_squared = self.n_squared
        rows = self.integers(ciphertexts)
        sums = [mpz(1)] * count
        for column in cells:
            for x, cell in zip(rows, column.tolist(), strict=True):
                if cell >= 0:
                    sums[cell] = sums[cell] * x % n_squared
        return self.array(sums)

    def add(self, a: Ciphertexts, b: Ciphertexts) -> Ciphertexts:
        """Element-wise sums."""
        pairs = zip(self.integers(a), self.integers(b), strict=True)
        return self.array([x * y % self.n_squared for x, y in pairs])

    def running(self, ciphertexts: Ciphertexts) -> Ciphertexts:
        """Cumulative sums along the vector."""
        total, sums = mpz(1), []
        for x in self.integers(ciphertexts):
            total = total * x % self.n_squared
            sums.append(total)
        return self.array(sums)

    def pack(self, ciphertexts: Ciphertexts, slot_bits: int, slots: int) -> Ciphertexts:
        """Several plaintexts in one: sum of m_i 2^(slot_bits i) over groups of `slots`, by Horner.

        The caller sees to it that slots * slot_bits stays below the modulus (crypto/packing.py).
        """
        shift = mpz(1) << slot_bits
        values = self.integers(ciphertexts)
        packed = []
        for start in range(0, len(values), slots):
            group = values[start : start + slots]
            total = group[-1]
            for x in reversed(group[:-1]):
                total = gmpy2.powmod(total, shift, self.n_squared) * x % self.n_squared
            packed.append(total)
        return self.array(packed)

    def rerandomise(self, ciphertexts: Ciphertexts) -> Ciphertexts:
        """The same plaintexts under fresh obfuscators: even the key's owner cannot tell the origin."""
        return self.array([x * self._obfuscator() % self.n_squared for x in self.integers(ciphertexts)])

    def encrypt(self, plaintexts: Sequence[int]) -> Ciphertexts:
        """Encryptions of integers (negative ones modulo n)."""
        return self.rerandomise(self.unsafe_encrypt(plaintexts))

    def unsafe_encrypt(self, plaintexts: Sequence[int]) -> Ciphertexts:
        """Ciphertexts WITHOUT obfuscators, which hide nothing."""
        return self.array([(1 + m % self.n * self.n) % self.n_squared for m in plaintexts])

    def parts(self) -> tuple[int, ...]:
        """What makes the same key in a worker process."""
        return (int(self.n),)

    def warm(self) -> None:
        """Make the table of the fixed base now rather than at first use."""
        self._obfuscator()

    def _obfuscator(self) -> mpz:
        bits = self.bits + 128
        if self._base is None:
            base = gmpy2.powmod(self._random_bits(bits), 2 * self.n, self.n_squared)
            self._base = FixedBase(base, self.n_squared, bits)
        return self._base.power(self._random_bits(bits))


class PrivateKey:
    """The guest's key: encrypts fast and decrypts, both by the Chinese remainder theorem."""

    def __init__(
        self,
        p: int,
        q: int,
        random_bits: RandomBits = secrets.randbits,
        full_exponents: bool = False,
    ) -> None:
        self._p, self._q = mpz(p), mpz(q)
        self.public = PublicKey(int(self._p * self._q), random_bits)
        self._random_bits = random_bits
        self._full_exponents = full_exponents
        root = random_bits(self.public.bits + 128)
        self._halves = [_Half(prime, self.public.n, root) for prime in (self._p, self._q)]
        self._p_inverse = gmpy2.invert(self._p, self._q)
        self._p_squared_inverse = gmpy2.invert(self._p**2, self._q**2)

    def __repr__(self) -> str:
        return f"PrivateKey({self.public.bits} bits)"

    @classmethod
    def generate(
        cls,
        bits: int,
        random_bits: RandomBits = secrets.randbits,
        full_exponents: bool = False,
    ) -> "PrivateKey":
        """A key with a modulus of exactly `bits` bits."""
        if bits not in KEY_BITS:
            raise ValueError(f"a modulus of {bits} bits; allowed are {KEY_BITS}")
        p = _prime(bits // 2, random_bits)
        while True:
            q = _prime(bits // 2, random_bits)
            # The bound on |p - q| is FIPS 186-5's, A.1.3.
            if abs(p - q) > mpz(1) << (bits // 2 - 100) and gmpy2.gcd(p * q, (p - 1) * (q - 1)) == 1:
                return cls(int(p), int(q), random_bits, full_exponents)

    def encrypt(self, plaintexts: Sequence[int]) -> Ciphertexts:
        """Encryptions of integers (negative ones modulo n)."""
        n, n_squared = self.public.n, self.public.n_squared
        return self.public.array([(1 + m % n * n) * self._obfuscator() % n_squared for m in plaintexts])

    def decrypt(self, ciphertexts: Ciphertexts) -> list[int]:
        """The plaintexts, each in (-n/2, n/2)."""
        n, half = self.public.n, self.public.n // 2
        at_p, at_q = self._halves
        plaintexts = []
        for c in self.public.integers(ciphertexts):
            m_p, m_q = at_p.decrypt(c), at_q.decrypt(c)
            m = m_p + self._p * ((m_q - m_p) * self._p_inverse % self._q)
            plaintexts.append(int(m if m <= half else m - n))
        return plaintexts

    def parts(self) -> tuple[int, ...]:
        """What makes the same key in a worker process: secret."""
        return int(self._p), int(self._q), int(self._full_exponents)

    def warm(self) -> None:
        """Make the tables of the fixed bases now rather than at first use."""
        self._obfuscator()

    def _obfuscator(self) -> mpz:
        at_p, at_q = self._halves
        if self._full_exponents:
            r_p, r_q = (
                at_p.power_below_order(self._random_bits),
                at_q.power_below_order(self._random_bits),
            )
        else:
            bits = SHORT_EXPONENT[self.public.bits]
            exponent = self._random_bits(bits)
            r_p, r_q = at_p.power(exponent, bits), at_q.power(exponent, bits)
        return r_p + at_p.square * ((r_q - r_p) * self._p_squared_inverse % at_q.square)


class _Half:
    """What the owner computes modulo the square of one prime (Paillier 1999, section 7)."""

    def __init__(self, prime: mpz, n: mpz, root: int) -> None:
        self.prime, self.square = prime, prime * prime
        self._root, self._n = root, n
        # L((1 + n)^(p-1) mod p^2) = (p - 1) n / p = -n / p modulo p
        self._scale = gmpy2.invert(-(n // prime), prime)
        self._base: FixedBase | None = None

    def decrypt(self, c: mpz) -> mpz:
        u = gmpy2.powmod(c, self.prime - 1, self.square)
        return (u - 1) // self.prime * self._scale % self.prime

    def power(self, exponent: int, bits: int) -> mpz:
        """h ** exponent modulo the square, for exponents of `bits` bits, always the same number."""
        if self._base is None:
            h = gmpy2.powmod(self._root, 2 * self._n, self.square)
            self._base = FixedBase(h, self.square, bits)
        return self._base.power(exponent)

    def power_below_order(self, random_bits: RandomBits) -> mpz:
        """A power with an exponent uniform below the order of the group of n-th residues."""
        bits = self.prime.bit_length()
        while (exponent := random_bits(bits)) >= self.prime - 1:
            pass
        return self.power(exponent, bits)


def _prime(bits: int, random_bits: RandomBits) -> mpz:
    """A prime p with its top two bits set, p = 3 mod 4, and (p - 1) / 2 free of factors below 2^16.

    So a random square generates the squares modulo p except with probability below 2^-9, and even
    then a subgroup whose index is a large unknown prime.
    """
    top = mpz(3) << (bits - 2)
    while True:
        p = top | random_bits(bits - 2) | 3
        if gmpy2.gcd(p * (p >> 1), _SMALL_PRIMES) == 1 and p.is_prime(40):
            return p
