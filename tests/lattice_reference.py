"""docs/lattice.md in Python integers: slow, without transforms, limbs, blocks of vectors or threads.

Polynomials are lists of 4096 integers. What is random is drawn from the same streams as in the product,
by the labels that are written there; everything else is done over.
"""

import hashlib

import gmpy2
import numpy as np

from vfl.crypto.lattice import randomness
from vfl.crypto.lattice.parameters import DEGREE, Parameters

Q64, Q96 = 1 << 64, 1 << 96
_FIELD = 16  # bytes between coefficients: room for sums of 4096 products of 96 and 17 bits


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
    """The same by two products of huge integers (Kronecker): a in [0, 2^96), |b| below 2^17."""
    n = len(a)
    large = _packed(a)
    up = large * _packed([max(c, 0) for c in b])
    down = large * _packed([max(-c, 0) for c in b])
    first, second = _unpacked(up, 2 * n), _unpacked(down, 2 * n)
    full = [x - y for x, y in zip(first, second, strict=True)]
    return [(full[i] - full[i + n]) % modulus for i in range(n)]


def _packed(coefficients: list[int]) -> gmpy2.mpz:
    return gmpy2.mpz(
        int.from_bytes(b"".join(int(c).to_bytes(_FIELD, "little") for c in coefficients), "little")
    )


def _unpacked(number: gmpy2.mpz, count: int) -> list[int]:
    data = int(number).to_bytes(count * _FIELD, "little")
    return [int.from_bytes(data[i * _FIELD : (i + 1) * _FIELD], "little") for i in range(count)]


def public_row(seed: bytes, block: int) -> list[int]:
    return randomness.words(seed, "rows", DEGREE, block * DEGREE).tolist()


def uniform96(key: bytes, label: str, number: int) -> list[int]:
    whole = randomness.words(key, label, DEGREE, number * DEGREE).tolist()
    pairs = randomness.words(key, f"{label} fractions", DEGREE // 2, number * DEGREE // 2).tolist()
    fraction = [part for pair in pairs for part in (pair & 0xFFFFFFFF, pair >> 32)]
    return [(w << 32) + f for w, f in zip(whole, fraction, strict=True)]


def encrypt(
    seed: bytes, secret: list[int], errors: list[int], values: list[int], scale: int
) -> list[int]:
    """c = a s + e + 2^scale v over all rows; `errors` has an entry a coefficient of each block."""
    out = []
    for block in range(-(-len(values) // DEGREE)):
        masked = product(public_row(seed, block), secret, Q64)
        for i, v in enumerate(values[block * DEGREE : (block + 1) * DEGREE]):
            out.append((masked[i] + errors[block * DEGREE + i] + (v << scale)) % Q64)
    return out


def hint(seed: bytes, entries: list[int]) -> list[int]:
    """The hint of one row of the matrix: entry m is the sum over rows i of entries[i] times coefficient
    i of a X^m. It is read off a(X) times the entries' polynomial in 1/X."""
    total = [0] * DEGREE
    for block in range(-(-len(entries) // DEGREE)):
        part = entries[block * DEGREE : (block + 1) * DEGREE]
        inverse = [0] * DEGREE
        for i, entry in enumerate(part):
            if i:
                inverse[DEGREE - i] = -entry  # X^-i = -X^(4096 - i)
            else:
                inverse[0] = entry
        found = product(public_row(seed, block), inverse, Q64)
        for m in range(DEGREE):
            total[m] += found[0] if m == 0 else -found[DEGREE - m]
    return [c % Q64 for c in total]


def rounded(word: int, bits: int, kept: int) -> int:
    """The top `kept` bits of a word of `bits`, rounded."""
    dropped = bits - kept
    return ((word + (1 << (dropped - 1) if dropped else 0)) % (1 << bits)) >> dropped


class Key:
    """The host's key of a hint."""

    def __init__(self, p: Parameters, seed: bytes, secret: bytes, context: bytes) -> None:
        shape = b"".join(n.to_bytes(8, "big") for n in (p.outputs, p.groups, p.group, p.width, p.depth))
        self.p, self.seed = p, seed
        self.key = hashlib.sha256(b"vfl lattice hint" + shape + secret + seed + context).digest()
        self.public = randomness.derive(self.key, "public")
        self.z = randomness.ternary(self.key, "key", DEGREE).tolist()

    def errors(self, label: str, number: int) -> list[int]:
        return randomness.errors(
            randomness.derive(self.key, f"{label} {number}"), "errors", DEGREE
        ).tolist()

    def public_key(self) -> list[int]:
        """b0, rounded to 80 bits."""
        b = product(uniform96(self.seed, "public key", 0), self.z, Q96)
        return [
            rounded((x + e) % Q96, 96, 80)
            for x, e in zip(b, self.errors("public key errors", 0), strict=True)
        ]

    def polynomial(self, hints: list[list[int]], number: int) -> list[int]:
        """b of polynomial `number` of the encrypted hint, rounded to 80 bits."""
        p = self.p
        group, d = divmod(number, p.depth)
        message = [0] * DEGREE
        for row, values in enumerate(hints[group * p.group : (group + 1) * p.group]):
            for k, value in enumerate(values[d * p.width : (d + 1) * p.width]):
                message[row * p.width + k] = value << 32
        b = product(uniform96(self.public, "hint", number), self.z, Q96)
        return [
            rounded((x + e + m) % Q96, 96, 80)
            for x, e, m in zip(b, self.errors("errors", number), message, strict=True)
        ]

    def open(self, a: list[int], b: list[int]) -> list[int]:
        """Masked products modulo 2^96 of one vector and group: a and b' of 80 bits."""
        p = self.p
        az = product([x << 16 for x in a], self.z, Q96)
        return [((y << 16) - az[i * p.width + p.width - 1]) % Q96 for i, y in enumerate(b)]


def multiply(
    p: Parameters,
    key: Key,
    parts: list[list[int]],
    secret: list[int],
    entropy: bytes,
    v: int,
    count: int,
) -> tuple[list[int], list[int], list[int]]:
    """a' and b' (of 80 bits) and the masks (of 96) of vector v of `count`, for a hint of one group."""
    again = randomness.ternary(entropy, "again", count * DEGREE)[v * DEGREE :][:DEGREE].tolist()
    noise = randomness.errors(entropy, "noise", count * DEGREE)[v * DEGREE :][:DEGREE].tolist()
    masks = randomness.words(entropy, "masks", count * p.outputs)[v * p.outputs :][: p.outputs].tolist()
    drawn = randomness.words(entropy, "fractions", -(-count * p.outputs // 2)).tolist()
    below = [part for pair in drawn for part in (pair & 0xFFFFFFFF, pair >> 32)][v * p.outputs :]
    a = product(uniform96(key.seed, "public key", 0), again, Q96)
    b = product([x << 16 for x in key.public_key()], again, Q96)
    for d in range(p.depth):
        piece = secret[d * p.width : (d + 1) * p.width]
        small = [0] * DEGREE
        for k, s in enumerate(piece):
            small[p.width - 1 - k] = s
        for total, factor in (
            (a, uniform96(key.public, "hint", d)),
            (b, [x << 16 for x in parts[d]]),
        ):
            for i, x in enumerate(product(factor, small, Q96)):
                total[i] += x
    whole = [(m << 32) + f for m, f in zip(masks, below, strict=False)]
    return (
        [rounded((x + e) % Q96, 96, 80) for x, e in zip(a, noise, strict=True)],
        [rounded((b[i * p.width + p.width - 1] + u) % Q96, 96, 80) for i, u in enumerate(whole)],
        whole,
    )


def integers80(data: bytes, count: int) -> list[int]:
    """`count` words of pack80."""
    whole = np.frombuffer(data, "<u8", count).tolist()
    below = np.frombuffer(data, "<u2", count, 8 * count).tolist()
    return [(w << 16) + f for w, f in zip(whole, below, strict=True)]
