"""Vectors of additively homomorphic ciphertexts: units modulo a power of n, whose product is a sum.

What Paillier (paillier.py) and Okamoto-Uchiyama (okamoto_uchiyama.py) have in common. A ciphertext of m
is g^m r, where g has a part of an order that makes out the plaintexts and r, the obfuscator, is an n-th
power, which carries no plaintext. A vector of ciphertexts is a uint8 array of shape (count, width), each
row one ciphertext as a little-endian integer of fixed width, ready for the wire.

Obfuscators are squares of n-th powers. An encryption of m with a uniform one is the square of an
ordinary encryption of m / 2 (the number of plaintexts is odd), so that nothing is lost against the
textbook schemes.
- The owner of the key computes h^alpha modulo two coprime factors of the modulus, from tables, and
  joins the two by the Chinese remainder theorem (Damgard, Jurik, Nielsen 2010). h is a random square
  n-th power that the owner keeps to itself, and alpha is short: 256 bits at 2048. That h^alpha then
  looks uniform in the group of h to those who cannot factor n is the assumption of Diffie-Hellman with
  short exponents: it follows from logarithms with short exponents being hard where the group's order is
  known (Gennaro, CRYPTO 2000; Koshiba, Kurosawa, PKC 2004), and the best attack on these, Pollard's
  kangaroo, takes the root of the number of exponents, here 2^128. Asked for are twice the security
  level, 224 at 2048 (NIST SP 800-56A rev. 3, 5.6.1.1.1; RFC 7919, appendix A: 225, 275 and 325). Ma,
  Han, Lei, ACSAC 2021, take 448. `full_exponents` needs no assumption: exponents uniform below p - 1
  and q - 1, more work.
- Without the key, the base is a random number of one's own to the power 2 n, and the exponent is 128
  bits longer than n, so that r is uniform up to 2^-128 in the group that the base generates, whatever n
  is: no base from the key's owner is trusted. Shorter ones would do against those who cannot factor n;
  but who re-randomises a sum hides it from the key's owner.
"""

import ctypes
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import islice
from typing import ClassVar, Self

import gmpy2
import numpy as np
from gmpy2 import mpz, xmpz
from numpy.typing import NDArray

KEY_BITS = (2048, 3072, 4096)
# Above twice the security level in bits, which NIST SP 800-57 puts at 112 and 128 for the first two.
SHORT_EXPONENT = {2048: 256, 3072: 320, 4096: 384}
Ciphertexts = NDArray[np.uint8]  # shape (count, width)
RandomBits = Callable[[int], int]

_SMALL_PRIMES = gmpy2.primorial(1 << 16)
_SMALLEST_PRIMES = gmpy2.primorial(1 << 8)
_TABLE_BYTES = 40_000_000  # wider windows save products and cost memory and a longer start
_NARROWEST = 5  # bits of a window at first


_BLOCK = 4096  # rows that are integers at one time


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


class InvalidCiphertext(ValueError):
    """A number that is no ciphertext under the key."""


class PublicKey(ABC):
    """What the hosts hold: adds, packs and re-randomises, cannot decrypt."""

    PRIMES: ClassVar[str]  # what a modulus is a product of
    POWER: ClassVar[int]  # ciphertexts are units modulo n to this power

    def __init__(self, n: int, random_bits: RandomBits = secrets.randbits) -> None:
        """Raises ValueError when n is no plausible modulus of an allowed size."""
        self.n = mpz(n)
        self.bits = self.n.bit_length()
        if self.bits not in KEY_BITS:
            raise ValueError(f"a modulus of {self.bits} bits; allowed are {KEY_BITS}")
        coprime = self.n > 0 and gmpy2.gcd(self.n, _SMALL_PRIMES) == 1
        if not coprime or gmpy2.is_power(self.n) or self.n.is_prime():
            raise ValueError(f"a modulus that is no product of {self.PRIMES}")
        self.modulus = self.n**self.POWER
        self.width = self.bits // 8 * self.POWER
        self._random_bits = random_bits
        self._base: FixedBase | None = None
        self._short: tuple[int, FixedBase] | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublicKey) and type(self) is type(other) and self.n == other.n

    def __hash__(self) -> int:
        return hash(self.n)

    @classmethod
    @abstractmethod
    def plaintext_bits(cls, key_bits: int) -> int:
        """Bits of the number of plaintexts under a key of `key_bits`: the centred ones, below half of
        it in size, hold every integer of two bits less and its sign."""

    @abstractmethod
    def unsafe_encrypt(self, plaintexts: Sequence[int]) -> Ciphertexts:
        """Ciphertexts WITHOUT obfuscators, which hide nothing."""

    def check_proof(self, proof: bytes) -> None:
        """Raises ValueError unless the key's owner has proved that n-th powers are all the obfuscators
        there are, so that `rerandomise` hides from the owner. A scheme without a proof has an empty one.
        """
        if proof:
            raise ValueError("a proof where there is none to give")

    def integers(self, ciphertexts: Ciphertexts) -> list[mpz]:
        """The ciphertexts as integers."""
        # All rows as one number, copied limb by limb, are cut up six times faster than each is read by
        # mpz.from_bytes, which goes byte by byte and would cost a quarter of a product.
        data, count = np.ascontiguousarray(ciphertexts), len(ciphertexts)
        limbs = data.nbytes * 8 // gmpy2.mp_limbsize()
        if not limbs:
            return []
        whole = xmpz()
        ctypes.memmove(whole.limbs_write(limbs), data.ctypes.data, data.nbytes)
        whole.limbs_finish(limbs)
        rows: list[mpz] = gmpy2.unpack(whole, 8 * self.width)
        return rows + [mpz(0)] * (count - len(rows))

    def array(self, integers: Sequence[mpz]) -> Ciphertexts:
        """The ciphertexts of these integers."""
        data = b"".join([x.to_bytes(self.width, "little") for x in integers])
        return np.frombuffer(data, np.uint8).reshape(len(integers), self.width)

    def parse(self, data: bytes) -> Ciphertexts:
        """Ciphertexts that a peer sent. Raises InvalidCiphertext unless all are units of the modulus."""
        if len(data) % self.width:
            raise InvalidCiphertext("ciphertexts cut short")
        ciphertexts = np.frombuffer(data, np.uint8).reshape(-1, self.width)
        self.check(ciphertexts)
        return ciphertexts

    def check(self, ciphertexts: Ciphertexts) -> None:
        """Raises InvalidCiphertext unless all are units of the modulus."""
        product = mpz(1)
        for c in self.integers(ciphertexts):
            if not 0 < c < self.modulus:
                raise InvalidCiphertext("a ciphertext out of range")
            product = product * c % self.n
        if gmpy2.gcd(product, self.n) != 1:
            raise InvalidCiphertext("a ciphertext that is not invertible")

    def sum_runs(self, ciphertexts: Ciphertexts, ends: NDArray[np.int64]) -> Ciphertexts:
        """Sums of neighbouring rows.

        Run i ends (exclusive) at ends[i], where the next one starts; none is empty.
        """
        modulus, rows = self.modulus, iter(self.integers(ciphertexts))
        sums = []
        for length in np.diff(ends, prepend=0).tolist():
            total = next(rows)
            for x in islice(rows, length - 1):
                total = total * x % modulus
            sums.append(total)
        return self.array(sums)

    def sum_cells(
        self,
        ciphertexts: Ciphertexts,
        rows: NDArray[np.int64],
        cells: Sequence[NDArray[np.integer]],
        count: int,
    ) -> Ciphertexts:
        """Sums by cell, shape (count, width): ciphertext rows[i] is added to cells[j][i] for every j.

        An empty cell is 1, the trivial encryption of zero: re-randomise before it leaves this party.
        """
        if any(len(column) != len(rows) for column in cells):
            raise ValueError("a cell for each row is needed")
        modulus = self.modulus
        sums = [mpz(1)] * count
        for start in range(0, len(rows), _BLOCK):
            block = slice(start, start + _BLOCK)
            at = rows[block]
            # Neighbouring rows, as a tree's root has them, need no copy.
            whole = at[-1] - at[0] + 1 == len(at) and bool((np.diff(at) == 1).all())
            integers = self.integers(ciphertexts[at[0] : at[-1] + 1] if whole else ciphertexts[at])
            for column in cells:
                for x, cell in zip(integers, column[block].tolist(), strict=True):
                    sums[cell] = sums[cell] * x % modulus
        return self.array(sums)

    def add(self, a: Ciphertexts, b: Ciphertexts) -> Ciphertexts:
        """Element-wise sums."""
        pairs = zip(self.integers(a), self.integers(b), strict=True)
        return self.array([x * y % self.modulus for x, y in pairs])

    def running(self, ciphertexts: Ciphertexts) -> Ciphertexts:
        """Cumulative sums along the vector."""
        total, sums = mpz(1), []
        for x in self.integers(ciphertexts):
            total = total * x % self.modulus
            sums.append(total)
        return self.array(sums)

    def positional_sum(self, histograms: Sequence[Ciphertexts], window: int, least: int) -> Ciphertexts:
        """One ciphertext: the sum over rows of an integer of the row times its plaintext.

        The integers less `least` (at most 0) are written in digits of `window` bits; histogram k has at
        cell d the sum of the plaintexts of the rows whose digit k is d. Sums of d times cell d by
        running sums, a product a cell instead of a power (Brickell et al., EUROCRYPT 1992; Pippenger).
        """
        modulus, result = self.modulus, mpz(1)
        for histogram in reversed(histograms):
            result = gmpy2.powmod(result, 1 << window, modulus)
            above, cell_above = mpz(1), 0  # the sum of all cells above, from the last that is not empty
            for cell, x in reversed(list(enumerate(self.integers(histogram)))):
                if x == 1 and cell:
                    continue
                if cell_above:
                    result = result * gmpy2.powmod(above, cell_above - cell, modulus) % modulus
                above, cell_above = above * x % modulus, cell
        # Every row is in one cell of each histogram: `above` is the sum of all.
        if least:
            result = result * gmpy2.powmod(above, least, modulus) % modulus
        return self.array([result])

    def pack(self, ciphertexts: Ciphertexts, slot_bits: int, slots: int) -> Ciphertexts:
        """Several plaintexts in one: sum of m_i 2^(slot_bits i) over groups of `slots`, by Horner.

        The caller sees to it that the plaintext holds slots * slot_bits bits (crypto/packing.py).
        """
        shift = mpz(1) << slot_bits
        values = self.integers(ciphertexts)
        packed = []
        for start in range(0, len(values), slots):
            group = values[start : start + slots]
            total = group[-1]
            for x in reversed(group[:-1]):
                total = gmpy2.powmod(total, shift, self.modulus) * x % self.modulus
            packed.append(total)
        return self.array(packed)

    def rerandomise(self, ciphertexts: Ciphertexts) -> Ciphertexts:
        """The same plaintexts under fresh obfuscators: even the key's owner cannot tell the origin."""
        return self.array([x * self._obfuscator() % self.modulus for x in self.integers(ciphertexts)])

    def encrypt(self, plaintexts: Sequence[int]) -> Ciphertexts:
        """Encryptions of integers (negative ones modulo the number of plaintexts)."""
        return self.rerandomise(self.unsafe_encrypt(plaintexts))

    def conceal(self, ciphertexts: Ciphertexts) -> Ciphertexts:
        """The same plaintexts under obfuscators that hide from everybody but the key's owner.

        Their exponents are short, by the assumption above: much less work than `rerandomise`.
        """
        if self._short is None:
            bits = SHORT_EXPONENT[self.bits]
            base = gmpy2.powmod(self._random_bits(self.bits + 128), 2 * self.n, self.modulus)
            self._short = bits, FixedBase(base, self.modulus, bits)
        bits, base = self._short
        return self.array(
            [x * base.power(self._random_bits(bits)) % self.modulus for x in self.integers(ciphertexts)]
        )

    def times(self, ciphertexts: Ciphertexts, factors: Sequence[int]) -> Ciphertexts:
        """Element-wise products of plaintexts with integers.

        Whoever knows the ciphertext that went in can find a small factor: conceal the outcome.
        """
        pairs = zip(self.integers(ciphertexts), factors, strict=True)
        return self.array([gmpy2.powmod(x, factor, self.modulus) for x, factor in pairs])

    def parts(self) -> tuple[int, ...]:
        """What `from_parts` makes the same key of in a worker process."""
        return (int(self.n),)

    @classmethod
    def from_parts(cls, *parts: int) -> Self:
        """The key with these parts."""
        (n,) = parts
        return cls(n)

    def warm(self) -> None:
        """Make the table of the fixed base now rather than at first use."""
        self._obfuscator()

    def _obfuscator(self) -> mpz:
        bits = self.bits + 128
        if self._base is None:
            base = gmpy2.powmod(self._random_bits(bits), 2 * self.n, self.modulus)
            self._base = FixedBase(base, self.modulus, bits)
        return self._base.power(self._random_bits(bits))


class PrivateKey(ABC):
    """The guest's key: encrypts fast and decrypts, both by the Chinese remainder theorem."""

    public: PublicKey

    def __init__(
        self,
        public: PublicKey,
        plaintexts: mpz,
        unit: mpz,
        halves: "tuple[Half, Half]",
        random_bits: RandomBits,
        full_exponents: bool,
    ) -> None:
        """`plaintexts`: how many there are. `unit`: 1 + m unit carries the plaintext m modulo the
        ciphertexts' modulus."""
        self.public = public
        self._plaintexts = plaintexts
        self._unit = unit
        self._halves = halves
        self._random_bits = random_bits
        self._full_exponents = full_exponents
        first, second = halves
        self._inverse = gmpy2.invert(first.modulus, second.modulus)

    def __repr__(self) -> str:
        return f"PrivateKey({self.public.bits} bits)"

    @classmethod
    def generate(
        cls,
        bits: int,
        random_bits: RandomBits = secrets.randbits,
        full_exponents: bool = False,
    ) -> Self:
        """A key with a modulus of exactly `bits` bits."""
        if bits not in KEY_BITS:
            raise ValueError(f"a modulus of {bits} bits; allowed are {KEY_BITS}")
        return cls._of_bits(bits, random_bits, full_exponents)

    @classmethod
    @abstractmethod
    def _of_bits(cls, bits: int, random_bits: RandomBits, full_exponents: bool) -> Self:
        """A key with a modulus of this many bits, which are allowed."""

    def encrypt(self, plaintexts: Sequence[int], obfuscators: Ciphertexts | None = None) -> Ciphertexts:
        """Encryptions of integers (negative ones modulo the number of plaintexts).

        `obfuscators` were made before, one for each plaintext, and are never to be used again.
        """
        unit, modulus = self._unit, self.public.modulus
        if obfuscators is None:
            return self.public.array([self._obfuscator() * (1 + m * unit) % modulus for m in plaintexts])
        ready = zip(self.public.integers(obfuscators), plaintexts, strict=True)
        return self.public.array([r * (1 + m * unit) % modulus for r, m in ready])

    def obfuscators(self, count: int) -> Ciphertexts:
        """Encryptions of zero, for `encrypt`: nearly all of its work, done ahead."""
        return self.public.array([self._obfuscator() for _ in range(count)])

    def proof(self) -> bytes:
        """What `PublicKey.check_proof` accepts."""
        return b""

    def decrypt(self, ciphertexts: Ciphertexts) -> list[int]:
        """The plaintexts, centred: below half their number in size."""
        number, half = self._plaintexts, self._plaintexts // 2
        plaintexts = map(self._plaintext, self.public.integers(ciphertexts))
        return [int(m if m <= half else m - number) for m in plaintexts]

    @abstractmethod
    def _plaintext(self, c: mpz) -> mpz:
        """The plaintext of a ciphertext, not below zero and below their number."""

    @abstractmethod
    def parts(self) -> tuple[int, ...]:
        """What `from_parts` makes the same key of in a worker process: secret."""

    @classmethod
    @abstractmethod
    def from_parts(cls, *parts: int) -> Self:
        """The key with these parts."""

    def warm(self) -> None:
        """Make the tables of the fixed bases now rather than at first use."""
        self._obfuscator()

    def _obfuscator(self) -> mpz:
        first, second = self._halves
        if self._full_exponents:
            return self._join(
                first.power_below_order(self._random_bits),
                second.power_below_order(self._random_bits),
            )
        bits = SHORT_EXPONENT[self.public.bits]
        exponent = self._random_bits(bits)
        return self._join(first.power(exponent, bits), second.power(exponent, bits))

    def _join(self, a: mpz, b: mpz) -> mpz:
        """The number that is a modulo the first factor and b modulo the second."""
        first, second = self._halves
        return a + first.modulus * ((b - a) * self._inverse % second.modulus)


class Half:
    """What the owner computes modulo one factor of the ciphertexts' modulus: powers of h.

    `root` to the power 2 n is h; the factor is the prime or its square.
    """

    def __init__(self, prime: mpz, modulus: mpz, n: mpz, root: int) -> None:
        self.prime, self.modulus = prime, modulus
        self._root, self._n = root, n
        self._base: FixedBase | None = None

    def power(self, exponent: int, bits: int) -> mpz:
        """h ** exponent modulo the factor, for exponents of `bits` bits, always the same number."""
        if self._base is None:
            h = gmpy2.powmod(self._root, 2 * self._n, self.modulus)
            self._base = FixedBase(h, self.modulus, bits)
        return self._base.power(exponent)

    def power_below_order(self, random_bits: RandomBits) -> mpz:
        """A power with an exponent uniform below the order of the group of n-th powers."""
        bits = self.prime.bit_length()
        while (exponent := random_bits(bits)) >= self.prime - 1:
            pass
        return self.power(exponent, bits)


class SquareHalf(Half):
    """Modulo the square of a prime p, where 1 + k p, the part of g of order p, carries the plaintext."""

    def __init__(self, prime: mpz, k: mpz, n: mpz, root: int) -> None:
        super().__init__(prime, prime * prime, n, root)
        # L((1 + k p)^(p-1) mod p^2) = (p - 1) k = -k modulo p
        self._scale = gmpy2.invert(-k, prime)

    def decrypt(self, c: mpz) -> mpz:
        """The plaintext modulo p, in [0, p)."""
        u = gmpy2.powmod(c, self.prime - 1, self.modulus)
        return (u - 1) // self.prime * self._scale % self.prime


def random_prime(bits: int, random_bits: RandomBits) -> mpz:
    """A prime p with its top two bits set, p = 3 mod 4, and (p - 1) / 2 free of factors below 2^16.

    So a random square generates the squares modulo p except with probability below 2^-9, and even
    then a subgroup whose index is a large unknown prime.
    """
    top = mpz(3) << (bits - 2)
    while True:
        p = top | random_bits(bits - 2) | 3
        if gmpy2.gcd(p * (p >> 1), _SMALLEST_PRIMES) > 1:  # nearly always, and found out much sooner
            continue
        if gmpy2.gcd(p * (p >> 1), _SMALL_PRIMES) == 1 and p.is_prime(40):
            return p


def fit_together(p: mpz, q: mpz) -> bool:
    """Whether two primes are far apart and n-th powers carry no plaintext."""
    # The bound on |p - q| is FIPS 186-5's, A.1.3.
    far = abs(p - q) > mpz(1) << (max(p, q).bit_length() - 100)
    return bool(far and gmpy2.gcd(p * q, (p - 1) * (q - 1)) == 1)
