"""Streams of random words, and products of polynomials modulo X^4096 + 1, in Python integers."""

import hashlib
import struct
from functools import cache

import gmpy2
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

DEGREE = 4096
Q64, Q96 = 1 << 64, 1 << 96
_FIELD = 16  # bytes between coefficients: room for sums of 4096 products of 96 and 17 bits
_HALF = 1 << 8 * _FIELD - 1


# --- streams ----------------------------------------------------------------------------------------


def derive(key: bytes, label: str) -> bytes:
    return hashlib.sha256(b"vfl lattice " + key + label.encode()).digest()


def words(key: bytes, label: str, count: int, start: int = 0) -> list[int]:
    """Words of 64 bits from number `start` (even) on: AES-256 in counter mode, little-endian."""
    counter = modes.CTR((start // 2).to_bytes(16, "big"))
    stream = Cipher(algorithms.AES256(derive(key, label)), counter).encryptor().update(bytes(8 * count))
    return list(struct.unpack(f"<{count}Q", stream))


def ternary(key: bytes, label: str, count: int) -> list[int]:
    """-1, 0 or 1 of each word: the high word of three times it, less one."""
    return [(3 * word >> 64) - 1 for word in words(key, label, count)]


def errors(key: bytes, label: str, count: int) -> list[int]:
    """The number of ones in the lowest 21 bits of a word less that in the next 21."""
    low = (1 << 21) - 1
    return [
        (word & low).bit_count() - (word >> 21 & low).bit_count() for word in words(key, label, count)
    ]


def gaussian(key: bytes, label: str, count: int, deviation: float) -> list[int]:
    """Box-Muller on the upper 53 bits of two words, rounded; in arithmetic of 200 bits."""
    drawn, found = words(key, label, count + count % 2), []
    with gmpy2.context(precision=200):
        for first, second in zip(drawn[::2], drawn[1::2], strict=True):
            uniform = gmpy2.mpfr((first >> 11) + 1) / 2**53
            radius = gmpy2.mpfr(deviation) * gmpy2.sqrt(-2 * gmpy2.log(uniform))
            angle = 2 * gmpy2.const_pi() * (second >> 11) / 2**53
            found += [
                int(gmpy2.rint(radius * gmpy2.cos(angle))),
                int(gmpy2.rint(radius * gmpy2.sin(angle))),
            ]
    return found[:count]


def public_row(seed: bytes, block: int) -> list[int]:
    return words(seed, "rows", DEGREE, block * DEGREE)


def uniform96(key: bytes, label: str, number: int) -> list[int]:
    """Words of 96 bits: 64 of one stream above 32 of another, of which each word gives two, the lower
    half first."""
    whole = words(key, label, DEGREE, number * DEGREE)
    below = halves(words(key, f"{label} fractions", DEGREE // 2, number * DEGREE // 2))
    return [(w << 32) + f for w, f in zip(whole, below, strict=True)]


@cache
def packed96(key: bytes, label: str, number: int) -> gmpy2.mpz:
    """Such a polynomial at 2^128, which several products need."""
    return packed(uniform96(key, label, number))


def halves(drawn: list[int]) -> list[int]:
    return [part for pair in drawn for part in (pair & 0xFFFFFFFF, pair >> 32)]


# --- products in Z[X] / (X^4096 + 1) ------------------------------------------------------------------


def schoolbook(a: list[int], b: list[int], modulus: int) -> list[int]:
    """a b mod (X^len + 1, modulus), coefficient by coefficient."""
    n = len(a)
    out = [0] * n
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            if i + j < n:
                out[i + j] += x * y
            else:
                out[i + j - n] -= x * y
    return [c % modulus for c in out]


def product(a: list[int], b: list[int], modulus: int) -> list[int]:
    """The same by a product of huge integers (Kronecker): a in [0, 2^96), |b| below 2^17."""
    return folded(packed(a) * packed(b), len(a), modulus)


def packed(coefficients: list[int]) -> gmpy2.mpz:
    """A polynomial at 2^128."""
    # All plus 2^127, which is then taken off.
    up = b"".join([(c + _HALF).to_bytes(_FIELD, "little") for c in coefficients])
    return gmpy2.mpz(int.from_bytes(up, "little") - _halves_of(len(coefficients)))


def _halves_of(count: int) -> int:
    return int.from_bytes(_HALF.to_bytes(_FIELD, "little") * count, "little")


def folded(number: gmpy2.mpz, n: int, modulus: int) -> list[int]:
    """The coefficients of a polynomial of degree below 2 n at 2^128, modulo X^n + 1."""
    raw = int(number + _halves_of(2 * n)).to_bytes(2 * n * _FIELD + 1, "little")
    lanes = struct.unpack(f"<{4 * n}Q", raw[: 2 * n * _FIELD])
    full = [low + (high << 64) - _HALF for low, high in zip(lanes[::2], lanes[1::2], strict=True)]
    return [(full[i] - full[i + n]) % modulus for i in range(n)]
