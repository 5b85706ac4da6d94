"""Okamoto-Uchiyama encryption of vectors: ciphertexts half as long as Paillier's, on one condition.

Okamoto, Uchiyama, EUROCRYPT 1998. n = p^2 q with primes of a third of its bits; g is a unit modulo n
whose power p - 1 has order p modulo p^2. A ciphertext of m is g^m r modulo n, where the obfuscator r
is an n-th power (a square one: crypto/ciphertexts.py says how it is drawn and why it hides). Plaintexts
are integers modulo p, which is secret: of 681 bits and a sign at 2048. To decrypt everything is as hard
as to factor n; that a ciphertext tells nothing at all is the p-subgroup assumption.

THE CONDITION: no decrypted value may ever reach who can choose a ciphertext. The decryption of g^M for
an M beyond p is M modulo p, and the difference is a multiple of p: one value gives the private key away.
So does less than a value. Whether a plaintext is within bounds, or larger than another, is a bit about
p for each ciphertext chosen, and lattices factor p^2 q once a third of p's bits are known (Boneh,
Durfee, Howgrave-Graham, CRYPTO 1999). Paillier's number of plaintexts is n, which everyone knows.

The owner encrypts without computing g^m. The units modulo p^2 are the product of a group of order p
and one that holds all n-th powers: g = (1 + k p) g', and g^m r = (1 + m k p) (g'^m r). As r is uniform
among the square n-th powers and g', for g is drawn as a square, is one of them, g'^m r is uniform there
too, and r may stand for it, modulo q as well: (1 + m u) r, where u is k p modulo p^2 and 0 modulo q, is
distributed as a ciphertext under g is. (Were g no square, Jacobi symbols would tell whether m is even.)

A host needs no g: to add and to pack takes n alone, and any number of its own choosing to the power 2 n
is an encryption of zero, so that it need not trust an h from the guest to re-randomise with.
"""

import secrets
from collections.abc import Sequence
from typing import Self

import gmpy2
from gmpy2 import mpz

from vfl.crypto import ciphertexts
from vfl.crypto.ciphertexts import (
    Ciphertexts,
    Half,
    RandomBits,
    SquareHalf,
    fit_together,
    random_prime,
)


class PublicKey(ciphertexts.PublicKey):
    """What the hosts hold: adds, packs and re-randomises, cannot decrypt; encrypts when given g."""

    PRIMES = "two large primes, one of them squared"
    POWER = 1

    def __init__(
        self, n: int, random_bits: RandomBits = secrets.randbits, generator: int | None = None
    ) -> None:
        """Raises ValueError when n is no plausible modulus of an allowed size."""
        super().__init__(n, random_bits)
        self.generator = None if generator is None else mpz(generator)

    @classmethod
    def plaintext_bits(cls, key_bits: int) -> int:
        """Plaintexts are integers modulo p."""
        return round(key_bits / 3)

    def unsafe_encrypt(self, plaintexts: Sequence[int]) -> Ciphertexts:
        """Ciphertexts WITHOUT obfuscators, which hide nothing. Raises ValueError without g."""
        if self.generator is None:
            raise ValueError("a public key without its generator cannot encrypt")
        return self.array([gmpy2.powmod(self.generator, m, self.n) for m in plaintexts])

    def parts(self) -> tuple[int, ...]:
        """What `from_parts` makes the same key of in a worker process."""
        return (int(self.n),) if self.generator is None else (int(self.n), int(self.generator))

    @classmethod
    def from_parts(cls, *parts: int) -> Self:
        """The key with these parts."""
        n, *generator = parts
        return cls(n, generator=generator[0] if generator else None)


class PrivateKey(ciphertexts.PrivateKey):
    """The guest's key: encrypts fast, by the Chinese remainder theorem, and decrypts modulo p^2."""

    public: PublicKey

    def __init__(
        self,
        p: int,
        q: int,
        generator: int,
        random_bits: RandomBits = secrets.randbits,
        full_exponents: bool = False,
    ) -> None:
        """Raises ValueError for a generator without a part of order p."""
        self._p, self._q, g = mpz(p), mpz(q), mpz(generator)
        public = PublicKey(int(self._p**2 * self._q), random_bits, generator)
        # g^(p-1) = (1 + k p)^(p-1) = 1 - k p modulo p^2
        k = -(gmpy2.powmod(g, self._p - 1, self._p**2) // self._p) % self._p
        if gmpy2.gcd(g, public.n) != 1 or k == 0:
            raise ValueError("a generator without a part of order p")
        root = random_bits(public.bits + 128)
        self._at_p = SquareHalf(self._p, k, public.n, root)
        halves = self._at_p, Half(self._q, self._q, public.n, root)
        # k p modulo p^2 and 0 modulo q
        square = self._p**2
        unit = self._q * (k * self._p * gmpy2.invert(self._q, square) % square)
        super().__init__(public, self._p, unit, halves, random_bits, full_exponents)

    @classmethod
    def _of_bits(cls, bits: int, random_bits: RandomBits, full_exponents: bool) -> Self:
        p_bits = PublicKey.plaintext_bits(bits)
        while True:
            p, q = random_prime(p_bits, random_bits), random_prime(bits - 2 * p_bits, random_bits)
            n = p * p * q
            if n.bit_length() == bits and fit_together(p, q):
                break
        while True:
            g = gmpy2.powmod(random_bits(bits + 128), 2, n)
            # Its part of order p is missing, or it is no unit, with a probability of about 2 / p.
            if gmpy2.gcd(g, n) == 1 and gmpy2.powmod(g, p - 1, p * p) != 1:
                return cls(int(p), int(q), int(g), random_bits, full_exponents)

    def _plaintext(self, c: mpz) -> mpz:
        return self._at_p.decrypt(c)

    def parts(self) -> tuple[int, ...]:
        """What `from_parts` makes the same key of in a worker process: secret."""
        generator = self.public.generator
        assert generator is not None  # noqa: S101 - given in the constructor
        return int(self._p), int(self._q), int(generator), int(self._full_exponents)

    @classmethod
    def from_parts(cls, *parts: int) -> Self:
        """The key with these parts."""
        p, q, generator, full_exponents = parts
        return cls(p, q, generator, full_exponents=bool(full_exponents))
