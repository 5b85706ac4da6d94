"""Paillier encryption of vectors: arrays of ciphertexts in, arrays of ciphertexts out.

Paillier, EUROCRYPT 1999, with generator 1 + n: a ciphertext of m is (1 + m n) r modulo n^2, where the
obfuscator r is an n-th power, which carries no plaintext. The product of two ciphertexts is one of the
sum. A vector of ciphertexts is a uint8 array of shape (count, width), each row one ciphertext as a
little-endian integer of fixed width, ready for the wire. Keys and ciphertexts are interchangeable with
`phe`.

Obfuscators:
- The owner of the key draws squares of n-th powers. An encryption of m with a uniform one is the square
  of an ordinary encryption of m / 2 (n is odd), so that nothing is lost against the textbook scheme. It
  computes h^alpha modulo the squares of both primes, from tables, and joins the two by the Chinese
  remainder theorem (Damgard, Jurik, Nielsen 2010). h is a random square n-th power that the owner keeps
  to itself, and alpha is short: 256 bits at 2048. That h^alpha then looks uniform in the group of h to
  those who cannot factor n is the assumption of Diffie-Hellman with short exponents: it follows from
  logarithms with short exponents being hard where the group's order is known (Gennaro, CRYPTO 2000;
  Koshiba, Kurosawa, PKC 2004), and the best attack on these, Pollard's kangaroo, takes the root of the
  number of exponents, here 2^128. Asked for are twice the security level, 224 at 2048 (NIST SP 800-56A
  rev. 3, 5.6.1.1.1; RFC 7919, appendix A: 225, 275 and 325). Ma, Han, Lei, ACSAC 2021, take 448.
  `full_exponents` needs no assumption: exponents uniform below p - 1 and q - 1 but for 2^-128, more
  work.
- Whoever lacks the key hides sums from its owner, who has chosen n and knows its factors. So it draws
  uniformly among all n-th powers, whatever n is (`PublicKey.obfuscators`). That these are all there is
  to hide behind is what the owner proves of n (`PublicKey.check_proof`).
Keys hold no source of random numbers: whoever asks for obfuscators says where they are drawn from.
"""

import hashlib
import secrets
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice
from typing import Self, cast

import gmpy2
import numpy as np
from gmpy2 import mpz
from numpy.typing import NDArray

from vfl.crypto.montgomery import Montgomery, montgomery, numbers_of, rows_of
from vfl.crypto.powers import FixedBase, RandomBits, RandomProducts, elements_needed
from vfl.crypto.randomness import Entropy

KEY_BITS = (2048, 3072, 4096)
# Above twice the security level in bits, which NIST SP 800-57 puts at 112 and 128 for the first two.
SHORT_EXPONENT = {2048: 256, 3072: 320, 4096: 384}
Ciphertexts = NDArray[np.uint8]  # shape (count, width)

_SMALL_PRIMES = gmpy2.primorial(1 << 16)
_SMALLEST_PRIMES = gmpy2.primorial(1 << 8)
_ROOTS = 8  # of a proof: a wrong modulus passes with 2^-16 each, as it has no factor below 2^16
_BLOCK = 4096  # rows that are integers at one time
_PAIRS = 1 << 18  # rows and columns that are in order of their cells at one time, at least


class InvalidCiphertext(ValueError):
    """A number that is no ciphertext under the key."""


class PublicKey:
    """What the hosts hold: adds, packs and re-randomises, cannot decrypt. n = p q."""

    def __init__(self, n: int, random_bits: RandomBits = secrets.randbits) -> None:
        """Raises ValueError when n is no plausible modulus of an allowed size."""
        self.n = mpz(n)
        self.bits = self.n.bit_length()
        if self.bits not in KEY_BITS:
            raise ValueError(f"a modulus of {self.bits} bits; allowed are {KEY_BITS}")
        coprime = self.n > 0 and gmpy2.gcd(self.n, _SMALL_PRIMES) == 1
        if not coprime or gmpy2.is_power(self.n) or self.n.is_prime():
            raise ValueError("a modulus that is no product of two large primes")
        self.n_squared = self.n**2
        self.width = self.bits // 4
        self._root = random_bits(self.bits + 128)  # of the base that `conceal` raises
        self._products: tuple[Ciphertexts, RandomProducts] | None = None  # a pool, and of what is in it
        self._short: tuple[int, FixedBase] | None = None

    @cached_property
    def _lanes(self) -> Montgomery | None:
        """Products modulo n^2 of eight at a time, where the processor has them."""
        return montgomery(self.n_squared, self.width)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublicKey) and self.n == other.n

    def __hash__(self) -> int:
        return hash(self.n)

    def unsafe_encrypt(self, plaintexts: Sequence[int]) -> Ciphertexts:
        """Ciphertexts WITHOUT obfuscators, which hide nothing."""
        return self.array([(1 + m % self.n * self.n) % self.n_squared for m in plaintexts])

    def integers(self, ciphertexts: Ciphertexts) -> list[mpz]:
        """The ciphertexts as integers."""
        return numbers_of(ciphertexts)

    def array(self, integers: Sequence[mpz]) -> Ciphertexts:
        """The ciphertexts of these integers."""
        return rows_of(integers, self.width)

    def parse(self, data: bytes) -> Ciphertexts:
        """Ciphertexts that a peer sent. Raises InvalidCiphertext unless all are units modulo n."""
        if len(data) % self.width:
            raise InvalidCiphertext("ciphertexts cut short")
        ciphertexts = np.frombuffer(data, np.uint8).reshape(-1, self.width)
        self.check(ciphertexts)
        return ciphertexts

    def check(self, ciphertexts: Ciphertexts) -> None:
        """Raises InvalidCiphertext unless all are units modulo n."""
        # Nearly all are in range by their highest word.
        words = np.ascontiguousarray(ciphertexts).view(np.uint64)[:, -1]
        doubtful = (words == 0) | (words >= int(self.n_squared >> (8 * self.width - 64)))
        if not all(0 < c < self.n_squared for c in self.integers(ciphertexts[doubtful])):
            raise InvalidCiphertext("a ciphertext out of range")
        whole = self.sum_runs(ciphertexts, np.array([len(ciphertexts)])[: len(ciphertexts)])
        product = mpz(1)
        for c in self.integers(whole):
            product = c % self.n
        if gmpy2.gcd(product, self.n) != 1:
            raise InvalidCiphertext("a ciphertext that is not invertible")

    def sum_runs(self, ciphertexts: Ciphertexts, ends: NDArray[np.int64]) -> Ciphertexts:
        """Sums of neighbouring rows.

        Run i ends (exclusive) at ends[i], where the next one starts; none is empty.
        """
        if self._lanes is not None:
            return self._lanes.products(ciphertexts, np.arange(len(ciphertexts)), ends)
        n_squared, rows = self.n_squared, iter(self.integers(ciphertexts))
        sums = []
        for length in np.diff(ends, prepend=0).tolist():
            total = next(rows)
            for x in islice(rows, length - 1):
                total = total * x % n_squared
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
        if self._lanes is not None:
            return self._sum_cells(self._lanes, ciphertexts, rows, cells, count)
        n_squared = self.n_squared
        sums = [mpz(1)] * count
        for start in range(0, len(rows), _BLOCK):
            block = slice(start, start + _BLOCK)
            at = rows[block]
            # Neighbouring rows, as a tree's root has them, need no copy.
            whole = at[-1] - at[0] + 1 == len(at) and bool((np.diff(at) == 1).all())
            integers = self.integers(ciphertexts[at[0] : at[-1] + 1] if whole else ciphertexts[at])
            for column in cells:
                for x, cell in zip(integers, column[block].tolist(), strict=True):
                    sums[cell] = sums[cell] * x % n_squared
        return self.array(sums)

    @staticmethod
    def _sum_cells(
        lanes: Montgomery,
        ciphertexts: Ciphertexts,
        rows: NDArray[np.int64],
        cells: Sequence[NDArray[np.integer]],
        count: int,
    ) -> Ciphertexts:
        """The same by runs of each cell's rows."""
        total: Ciphertexts | None = None
        size = max(_PAIRS, 16 * count) // max(1, len(cells))
        for start in range(0, max(1, len(rows)), max(1, size)):
            own = rows[start : start + size]
            to = np.concatenate([own[:0], *(column[start : start + size] for column in cells)])
            order = np.argsort(to, kind="stable")
            ends = np.cumsum(np.bincount(to, minlength=count))
            sums = lanes.products(ciphertexts, np.tile(own, len(cells))[order], ends)
            total = sums if total is None else lanes.times(total, sums)
        return cast(Ciphertexts, total)

    def add(self, a: Ciphertexts, b: Ciphertexts) -> Ciphertexts:
        """Element-wise sums."""
        if self._lanes is not None:
            return self._lanes.times(a, b)
        pairs = zip(self.integers(a), self.integers(b), strict=True)
        return self.array([x * y % self.n_squared for x, y in pairs])

    def running(self, ciphertexts: Ciphertexts) -> Ciphertexts:
        """Cumulative sums along the vector."""
        total, sums = mpz(1), []
        for x in self.integers(ciphertexts):
            total = total * x % self.n_squared
            sums.append(total)
        return self.array(sums)

    def positional_sum(self, histograms: Sequence[Ciphertexts], window: int, least: int) -> Ciphertexts:
        """One ciphertext: the sum over rows of an integer of the row times its plaintext.

        The integers less `least` (at most 0) are written in digits of `window` bits; histogram k has at
        cell d the sum of the plaintexts of the rows whose digit k is d. Sums of d times cell d by
        running sums, a product a cell instead of a power (Brickell et al., EUROCRYPT 1992; Pippenger).
        """
        n_squared, result = self.n_squared, mpz(1)
        for histogram in reversed(histograms):
            result = gmpy2.powmod(result, 1 << window, n_squared)
            above, cell_above = mpz(1), 0  # the sum of all cells above, from the last that is not empty
            for cell, x in reversed(list(enumerate(self.integers(histogram)))):
                if x == 1 and cell:
                    continue
                if cell_above:
                    result = result * gmpy2.powmod(above, cell_above - cell, n_squared) % n_squared
                above, cell_above = above * x % n_squared, cell
        # Every row is in one cell of each histogram: `above` is the sum of all.
        if least:
            result = result * gmpy2.powmod(above, least, n_squared) % n_squared
        return self.array([result])

    def pack(self, ciphertexts: Ciphertexts, slot_bits: int, slots: int) -> Ciphertexts:
        """Several plaintexts in one: sum of m_i 2^(slot_bits i) over groups of `slots`, by Horner.

        The caller sees to it that the plaintext holds slots * slot_bits bits (crypto/packing.py).
        """
        if self._lanes is not None:
            return self._lanes.horner(ciphertexts, slots, slot_bits)
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

    def rerandomise(
        self, ciphertexts: Ciphertexts, obfuscators: Ciphertexts | None = None
    ) -> Ciphertexts:
        """The same plaintexts under fresh obfuscators: even the key's owner cannot tell the origin.

        `obfuscators` were made before, one for each ciphertext, and are never to be used again.
        """
        if obfuscators is None:
            obfuscators = self.obfuscators(len(ciphertexts))
        return self.add(ciphertexts, obfuscators)

    def obfuscators(
        self,
        count: int,
        pool: Ciphertexts | None = None,
        random_bits: RandomBits = secrets.randbits,
    ) -> Ciphertexts:
        """n-th powers, each uniform among all of them, whatever n is: an owner who has made n for the
        purpose cannot tell what they are multiplied with.

        Without `pool` each is the n-th power of a uniform unit, which takes an exponent as long as n.
        `pool` has `pool_size` of those: then each is a random product of them, uniform but for 2^-128
        (powers.RandomProducts), which takes a fifth of the work. Those in the pool may have been used as
        obfuscators, each once: given all of them, the products are still uniform.
        """
        return self.obfuscators_from([random_bits] * count, pool)

    def obfuscators_from(
        self, sources: Sequence[RandomBits], pool: Ciphertexts | None = None
    ) -> Ciphertexts:
        """`obfuscators`, one from each of these sources of random bits."""
        if pool is None:
            return self.array(self._nth_powers(sources))
        if len(pool) != self.pool_size:
            raise ValueError(f"a pool of {len(pool)} n-th powers, {self.pool_size} are needed")
        known = self._products
        if known is None or (known[0] is not pool and not np.array_equal(known[0], pool)):
            made = RandomProducts(self.integers(pool), self.n_squared, self._lanes)
            known = self._products = pool, made
        _, products = known
        return self.array(products.drawn(sources))

    @property
    def pool_size(self) -> int:
        """How many n-th powers `obfuscators` makes products of.

        n has no prime factor below 2^16 (`__init__`), and its units are a product of one cyclic group a
        prime factor; n-th powers are their image.
        """
        return elements_needed(self.bits, (self.bits - 1) // 16)

    def encrypt(self, plaintexts: Sequence[int]) -> Ciphertexts:
        """Encryptions of integers (negative ones modulo n)."""
        return self.rerandomise(self.unsafe_encrypt(plaintexts))

    def conceal(
        self, ciphertexts: Ciphertexts, random_bits: RandomBits = secrets.randbits
    ) -> Ciphertexts:
        """The same plaintexts under obfuscators that hide from everybody but the key's owner.

        Their exponents are short, by the assumption above: much less work than `rerandomise`. Never for
        what goes to the owner, to whom the powers of one base are no secret.
        """
        if self._short is None:
            bits = SHORT_EXPONENT[self.bits]
            base = gmpy2.powmod(self._root, 2 * self.n, self.n_squared)
            self._short = bits, FixedBase(base, self.n_squared, bits, self._lanes)
        bits, base = self._short
        powers = base.powers([random_bits(bits) for _ in range(len(ciphertexts))])
        return self.add(ciphertexts, self.array(powers))

    def times(self, ciphertexts: Ciphertexts, factors: Sequence[int]) -> Ciphertexts:
        """Element-wise products of plaintexts with integers.

        Whoever knows the ciphertext that went in can find a small factor: conceal the outcome.
        """
        pairs = zip(self.integers(ciphertexts), factors, strict=True)
        return self.array([gmpy2.powmod(x, factor, self.n_squared) for x, factor in pairs])

    def parts(self) -> tuple[int, ...]:
        """What `from_parts` makes the same key of in a worker process: the last one is secret."""
        return int(self.n), self._root

    @classmethod
    def from_parts(cls, *parts: int) -> Self:
        """The key with these parts."""
        n, root = parts
        return cls(n, lambda bits: root)

    def check_proof(self, proof: bytes) -> None:
        """Raises ValueError unless the key's owner has proved that n-th powers are all the obfuscators
        there are, so that `rerandomise` hides from the owner.

        Goldberg, Reyzin, Sagga, Baldimtsi (ASIACRYPT 2019), section 3.2: n shares no factor with the
        number of its units if eight numbers that nobody has chosen have n-th roots modulo n. Otherwise
        there is a prime that divides both, and at most one number in so many has a root; all primes
        that divide n are above 2^16.
        """
        width = self.bits // 8
        if len(proof) != _ROOTS * width:
            raise ValueError("a proof of another length")
        for i, challenge in enumerate(self.challenges()):
            root = int.from_bytes(proof[i * width : (i + 1) * width], "big")
            if not 0 < root < self.n or gmpy2.powmod(root, self.n, self.n) != challenge:
                raise ValueError("a proof that does not hold")

    def challenges(self) -> Iterator[mpz]:
        """Numbers modulo n that n decides, as a random oracle would."""
        width = self.bits // 8
        modulus = int(self.n).to_bytes(width, "big")
        for i in range(_ROOTS):
            # 128 bits more than n has are uniform modulo n to within 2^-128.
            digest = hashlib.shake_256(b"vfl key proof\0" + bytes([i]) + modulus).digest(width + 16)
            yield mpz(int.from_bytes(digest, "big")) % self.n

    def _nth_powers(self, sources: Sequence[RandomBits]) -> list[mpz]:
        """The n-th power of a uniform unit modulo n from each source, which decides it modulo n^2."""
        units = [self._unit(random_bits) for random_bits in sources]
        if self._lanes is not None:
            return numbers_of(self._lanes.power(self.array(units), self.n))
        return [gmpy2.powmod(unit, self.n, self.n_squared) for unit in units]

    def _unit(self, random_bits: RandomBits) -> mpz:
        while not 0 < (unit := mpz(random_bits(self.bits))) < self.n or gmpy2.gcd(unit, self.n) > 1:
            pass
        return unit


class PrivateKey:
    """The guest's key: encrypts fast and decrypts, both by the Chinese remainder theorem.

    What is raised to a secret number on behalf of others, to decrypt or to prove, takes a time that does
    not depend on it (crypto/montgomery.py, or GMP's mpz_powm_sec). Making a key and encrypting from
    tables do not: docs/security.md, side channels.
    """

    def __init__(
        self,
        p: int,
        q: int,
        random_bits: RandomBits = secrets.randbits,
        full_exponents: bool = False,
    ) -> None:
        self._p, self._q = mpz(p), mpz(q)
        self._full_exponents = full_exponents
        n = self._p * self._q
        self._root = root = random_bits(n.bit_length() + 128)
        self.public = PublicKey(int(n), lambda bits: root)
        # 1 + n is 1 + q p modulo p^2 and 1 + p q modulo q^2 (Paillier 1999, section 7).
        self._at_p = _Half(self._p, self._q, root)
        self._at_q = _Half(self._q, self._p, root)
        self._p_inverse = gmpy2.invert(self._p, self._q)
        self._square_inverse = gmpy2.invert(self._at_p.square, self._at_q.square)

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
        p = random_prime(bits // 2, random_bits)
        while not fit_together(p, q := random_prime(bits // 2, random_bits)):
            pass
        return cls(int(p), int(q), random_bits, full_exponents)

    def encrypt(self, plaintexts: Sequence[int], obfuscators: Ciphertexts | None = None) -> Ciphertexts:
        """Encryptions of integers (negative ones modulo n).

        `obfuscators` were made before, one for each plaintext, and are never to be used again.
        """
        n, n_squared = self.public.n, self.public.n_squared
        if obfuscators is None:
            obfuscators = self.obfuscators(len(plaintexts))
        ready = zip(self.public.integers(obfuscators), plaintexts, strict=True)
        # r (1 + m n) is r + n (r m modulo n) modulo n^2: numbers half as long.
        return self.public.array([(r + n * (r % n * m % n)) % n_squared for r, m in ready])

    def obfuscators(self, count: int, entropy: Entropy = secrets.token_bytes) -> Ciphertexts:
        """Encryptions of zero, for `encrypt`: nearly all of its work, done ahead.

        Of the bytes of `entropy` each takes `drawn`, whatever their values.
        """
        size, data = self.drawn, entropy(self.drawn * count)
        return self.public.array(
            self._obfuscators([data[at : at + size] for at in range(0, len(data), size)])
        )

    @property
    def drawn(self) -> int:
        """Random bytes of an obfuscator, in whole blocks of AES, so that a stream can be read from any
        one on."""
        # Full exponents are reduced: 128 bits more than p has make them uniform but for 2^-128.
        bits = self.public.bits // 2 + 128 if self._full_exponents else SHORT_EXPONENT[self.public.bits]
        return -(-bits // 128) * 16 * (2 if self._full_exponents else 1)

    def decrypt(self, ciphertexts: Ciphertexts) -> list[int]:
        """The plaintexts, centred: below n / 2 in size."""
        n, half, integers = self.public.n, self.public.n // 2, self.public.integers(ciphertexts)
        halves = zip(self._at_p.decrypt(integers), self._at_q.decrypt(integers), strict=True)
        plaintexts = [a + self._p * ((b - a) * self._p_inverse % self._q) for a, b in halves]
        return [int(m if m <= half else m - n) for m in plaintexts]

    def proof(self) -> bytes:
        """The n-th roots of the challenges: `PublicKey.check_proof`."""
        n, units = self.public.n, (self._p - 1) * (self._q - 1)
        exponent, width = gmpy2.invert(n, units), self.public.bits // 8
        roots = [gmpy2.powmod_sec(challenge, exponent, n) for challenge in self.public.challenges()]
        return b"".join(int(root).to_bytes(width, "big") for root in roots)

    def parts(self) -> tuple[int, ...]:
        """What `from_parts` makes the same key of in a worker process: secret."""
        return int(self._p), int(self._q), int(self._full_exponents), self._root

    @classmethod
    def from_parts(cls, *parts: int) -> Self:
        """The key with these parts."""
        p, q, full_exponents, root = parts
        return cls(p, q, lambda bits: root, bool(full_exponents))

    def warm(self) -> None:
        """Make the tables of the fixed bases now rather than at first use."""
        self._obfuscators([bytes(self.drawn)])

    def _obfuscators(self, drawn: Sequence[bytes]) -> list[mpz]:
        """One from the bytes of each."""
        if self._full_exponents:
            half = self.drawn // 2
            at_p = self._at_p.powers_below_order([int.from_bytes(x[:half], "little") for x in drawn])
            at_q = self._at_q.powers_below_order([int.from_bytes(x[half:], "little") for x in drawn])
        else:
            bits = SHORT_EXPONENT[self.public.bits]
            exponents = [int.from_bytes(x[: bits // 8], "little") for x in drawn]
            at_p, at_q = self._at_p.powers(exponents, bits), self._at_q.powers(exponents, bits)
        return [self._join(a, b) for a, b in zip(at_p, at_q, strict=True)]

    def _join(self, a: mpz, b: mpz) -> mpz:
        """The number that is a modulo p^2 and b modulo q^2."""
        return a + self._at_p.square * ((b - a) * self._square_inverse % self._at_q.square)


class _Half:
    """What the owner computes modulo the square of one prime p: powers of h, and the plaintext.

    `root` to the power 2 n is h.
    """

    def __init__(self, prime: mpz, other: mpz, root: int) -> None:
        """`other` is the other prime of n."""
        self.prime, self.square = prime, prime * prime
        self._root, self._n = root, prime * other
        self._base: FixedBase | None = None
        # L((1 + n)^(p-1) mod p^2) = (p - 1) q = -q modulo p
        self._scale = gmpy2.invert(-other, prime)

    @cached_property
    def _lanes(self) -> Montgomery | None:
        """Products modulo p^2 of eight at a time, where the processor has them."""
        return montgomery(self.square, -(-self.square.bit_length() // 64) * 8)

    def powers(self, exponents: Sequence[int], bits: int) -> list[mpz]:
        """h ** each modulo p^2, for exponents of `bits` bits, always the same number."""
        if self._base is None:
            h = gmpy2.powmod(self._root, 2 * self._n, self.square)
            self._base = FixedBase(h, self.square, bits, self._lanes)
        return self._base.powers(exponents)

    def powers_below_order(self, numbers: Sequence[int]) -> list[mpz]:
        """Powers with these exponents modulo the order of the group of n-th powers."""
        exponents = [int(number % (self.prime - 1)) for number in numbers]
        return self.powers(exponents, self.prime.bit_length())

    def decrypt(self, ciphertexts: Sequence[mpz]) -> list[mpz]:
        """The plaintexts modulo p, in [0, p)."""
        order, square = self.prime - 1, self.square
        if self._lanes is not None:
            reduced = self._lanes.rows([c % square for c in ciphertexts])
            powers = numbers_of(self._lanes.power(reduced, order))
        else:
            powers = [gmpy2.powmod_sec(c, order, square) for c in ciphertexts]
        return [(u - 1) // self.prime * self._scale % self.prime for u in powers]


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
