"""Paillier encryption of vectors: arrays of ciphertexts in, arrays of ciphertexts out.

Paillier, EUROCRYPT 1999, with generator 1 + n: a ciphertext of m is (1 + m n) r modulo n^2, where the
obfuscator r is an n-th residue (a square one: crypto/ciphertexts.py says how it is drawn and why it
hides; `PublicKey._obfuscator` for those who lack the key). Keys and ciphertexts are interchangeable with
`phe`.
"""

import hashlib
import secrets
from collections.abc import Iterator, Sequence
from typing import Self

import gmpy2
from gmpy2 import mpz

from vfl.crypto import ciphertexts
from vfl.crypto.ciphertexts import (
    Ciphertexts,
    InvalidCiphertext,
    RandomBits,
    SquareHalf,
    fit_together,
    random_prime,
)

__all__ = ["Ciphertexts", "InvalidCiphertext", "PrivateKey", "PublicKey"]

_ROOTS = 8  # of a proof: a wrong modulus passes with 2^-16 each, as it has no factor below 2^16


class PublicKey(ciphertexts.PublicKey):
    """What the hosts hold: adds, packs and re-randomises, cannot decrypt. n = p q."""

    PRIMES = "two large primes"
    POWER = 2

    _mixed: mpz | None = None  # an n-th power that is a square modulo one prime alone

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

    def _obfuscator(self) -> mpz:
        """An n-th power, one time in four a square.

        A square would show the key's owner whether what it is multiplied with is one, modulo each prime:
        a mark that a guest could put on ciphertexts and find on their sums. -1 is an n-th power and no
        square modulo either prime (both are 3 modulo 4); one with Jacobi symbol -1 is no square modulo
        one of them.
        """
        square, signs = super()._obfuscator(), self._random_bits(2)
        if self._mixed is None:
            while gmpy2.jacobi(root := mpz(self._random_bits(self.bits + 128)) % self.n, self.n) != -1:
                pass
            self._mixed = gmpy2.powmod(root, self.n, self.modulus)
        if signs & 1:
            square = self.modulus - square
        return square * self._mixed % self.modulus if signs & 2 else square

    def check_proof(self, proof: bytes) -> None:
        """See `ciphertexts.PublicKey.check_proof`.

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
        halves = self._at_p, self._at_q
        super().__init__(public, public.n, public.n, halves, random_bits, full_exponents)
        self._p_inverse = gmpy2.invert(self._p, self._q)

    @classmethod
    def _of_bits(cls, bits: int, random_bits: RandomBits, full_exponents: bool) -> Self:
        p = random_prime(bits // 2, random_bits)
        while not fit_together(p, q := random_prime(bits // 2, random_bits)):
            pass
        return cls(int(p), int(q), random_bits, full_exponents)

    def _plaintext(self, c: mpz) -> mpz:
        m_p, m_q = self._at_p.decrypt(c), self._at_q.decrypt(c)
        return m_p + self._p * ((m_q - m_p) * self._p_inverse % self._q)

    def proof(self) -> bytes:
        """The n-th roots of the challenges: `PublicKey.check_proof`."""
        n, units = self.public.n, (self._p - 1) * (self._q - 1)
        exponent, width = gmpy2.invert(n, units), self.public.bits // 8
        roots = [gmpy2.powmod(challenge, exponent, n) for challenge in self.public.challenges()]
        return b"".join(int(root).to_bytes(width, "big") for root in roots)

    def parts(self) -> tuple[int, ...]:
        """What `from_parts` makes the same key of in a worker process: secret."""
        return int(self._p), int(self._q), int(self._full_exponents)

    @classmethod
    def from_parts(cls, *parts: int) -> Self:
        """The key with these parts."""
        p, q, full_exponents = parts
        return cls(p, q, full_exponents=bool(full_exponents))
