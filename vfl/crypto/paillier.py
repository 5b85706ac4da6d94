"""Paillier encryption of vectors: arrays of ciphertexts in, arrays of ciphertexts out.

Paillier, EUROCRYPT 1999, with generator 1 + n: a ciphertext of m is (1 + m n) r modulo n^2, where the
obfuscator r is an n-th residue (a square one: crypto/ciphertexts.py says how it is drawn and why it
hides). Keys and ciphertexts are interchangeable with `phe`.
"""

import secrets
from collections.abc import Sequence
from typing import Self

import gmpy2
from gmpy2 import mpz

from vfl.crypto import ciphertexts
from vfl.crypto.ciphertexts import (
    KEY_BITS,
    Ciphertexts,
    InvalidCiphertext,
    RandomBits,
    SquareHalf,
    fit_together,
    random_prime,
)

__all__ = ["Ciphertexts", "InvalidCiphertext", "PrivateKey", "PublicKey"]


class PublicKey(ciphertexts.PublicKey):
    """What the hosts hold: adds, packs and re-randomises, cannot decrypt. n = p q."""

    PRIMES = "two large primes"
    POWER = 2

    @classmethod
    def plaintext_bits(cls, key_bits: int) -> int:
        """Plaintexts are integers modulo n."""
        return key_bits

    @property
    def n_squared(self) -> mpz:
        """What ciphertexts are taken modulo."""
        return self.modulus

    def unsafe_encrypt(self, plaintexts: Sequence[int]) -> Ciphertexts:
        """Ciphertexts WITHOUT obfuscators, which hide nothing."""
        return self.array([(1 + m % self.n * self.n) % self.modulus for m in plaintexts])


class PrivateKey(ciphertexts.PrivateKey):
    """The guest's key: encrypts fast and decrypts, both by the Chinese remainder theorem."""

    public: PublicKey

    def __init__(
        self,
        p: int,
        q: int,
        random_bits: RandomBits = secrets.randbits,
        full_exponents: bool = False,
    ) -> None:
        self._p, self._q = mpz(p), mpz(q)
        public = PublicKey(int(self._p * self._q), random_bits)
        root = random_bits(public.bits + 128)
        # 1 + n is 1 + q p modulo p^2 and 1 + p q modulo q^2 (Paillier 1999, section 7).
        self._at_p = SquareHalf(self._p, self._q, public.n, root)
        self._at_q = SquareHalf(self._q, self._p, public.n, root)
        super().__init__(public, public.n, (self._at_p, self._at_q), random_bits, full_exponents)
        self._p_inverse = gmpy2.invert(self._p, self._q)

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

    def decrypt(self, ciphertexts: Ciphertexts) -> list[int]:
        """The plaintexts, each in (-n/2, n/2)."""
        n, half = self.public.n, self.public.n // 2
        plaintexts = []
        for c in self.public.integers(ciphertexts):
            m_p, m_q = self._at_p.decrypt(c), self._at_q.decrypt(c)
            m = m_p + self._p * ((m_q - m_p) * self._p_inverse % self._q)
            plaintexts.append(int(m if m <= half else m - n))
        return plaintexts

    def parts(self) -> tuple[int, ...]:
        """What `from_parts` makes the same key of in a worker process: secret."""
        return int(self._p), int(self._q), int(self._full_exponents)

    @classmethod
    def from_parts(cls, *parts: int) -> Self:
        """The key with these parts."""
        p, q, full_exponents = parts
        return cls(p, q, full_exponents=bool(full_exponents))
