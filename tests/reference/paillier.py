"""Paillier (EUROCRYPT 1999) without tables."""

import hashlib
from math import lcm

import gmpy2

from .data import data, sha256

# A prime is the number that SHAKE-256 gives for its name, with its two highest and two lowest bits set,
# plus four times an offset: the next prime p for which (p - 1) / 2 has no factor below 2^16.
OFFSETS = {
    "p of 2048 bits": (1024, 3655),
    "q of 2048 bits": (1024, 8708),
    "p of 3072 bits": (1536, 38383),
    "q of 3072 bits": (1536, 9220),
    "p of 4096 bits": (2048, 6935),
    "q of 4096 bits": (2048, 4131),
}


def prime(name: str) -> int:
    bits, offset = OFFSETS[name]
    drawn = int.from_bytes(hashlib.shake_256(name.encode()).digest(bits // 8 + 1), "big")
    return (drawn % 2 ** (bits - 2) | 3 << bits - 2 | 3) + 4 * offset


def power(base: int, exponent: int, modulus: int) -> int:
    """Python's pow, which takes ten times as long for numbers of this size."""
    return int(gmpy2.powmod(base, exponent, modulus))


def signed(number: int) -> str:
    return f"{number:x}"


class Key:
    """n = p q, g = 1 + n."""

    def __init__(self, given: dict) -> None:
        self.p, self.q = int(given["p"], 16), int(given["q"], 16)
        self.n = self.p * self.q
        self.square = self.n**2
        self.order = lcm(self.p - 1, self.q - 1)

    def encrypt(self, plaintext: int, obfuscator: int) -> int:
        return (1 + plaintext * self.n) * obfuscator % self.square

    def decrypt(self, ciphertext: int) -> int:
        """L(c^lambda) / L(g^lambda) with L(u) = (u - 1) / n, centred."""

        def quotient(u: int) -> int:
            return (power(u, self.order, self.square) - 1) // self.n

        m = quotient(ciphertext) * power(quotient(1 + self.n), -1, self.n) % self.n
        return m if m <= self.n // 2 else m - self.n

    def bytes(self, ciphertext: int) -> str:
        return ciphertext.to_bytes(self.square.bit_length() // 16 * 2, "little").hex()


def number(text: str) -> int:
    """The big-endian number of bytes."""
    return int.from_bytes(data(text), "big")


def _key(given: dict) -> dict:
    """The modulus and the proof that n has no factor in common with the number of its units."""
    key = Key(given)
    width = key.n.bit_length() // 8
    modulus = key.n.to_bytes(width, "big")
    roots = []
    for i in range(8):
        digest = hashlib.shake_256(b"vfl key proof\0" + bytes([i]) + modulus).digest(width + 16)
        challenge = int.from_bytes(digest, "big") % key.n
        roots.append(power(challenge, power(key.n, -1, key.order), key.n))
    proof = b"".join(root.to_bytes(width, "big") for root in roots)
    return {"modulus": modulus.hex(), "first root": proof[:width].hex(), "proof": sha256(proof)}


def _textbook(given: dict) -> dict:
    """c = (1 + m n) y^n."""
    key = Key(given)
    ciphertexts = [
        key.encrypt(m, power(number(y), key.n, key.square))
        for m, y in zip(given["plaintexts"], given["randomness"], strict=True)
    ]
    assert [key.decrypt(c) for c in ciphertexts] == given["plaintexts"]
    return {"ciphertexts": [key.bytes(c) for c in ciphertexts]}


def _by_owner(given: dict) -> dict:
    """c = (1 + m n) h^alpha with h = root^(2 n)."""
    key = Key(given)
    h = power(number(given["root"]), 2 * key.n, key.square)
    return {
        "ciphertexts": [
            key.bytes(key.encrypt(m, power(h, number(alpha), key.square)))
            for m, alpha in zip(given["plaintexts"], given["exponents"], strict=True)
        ]
    }


def _full_exponents(given: dict) -> dict:
    """c = (1 + m n) r, where r is h^alpha modulo p^2 and h^beta modulo q^2."""
    key = Key(given)
    alpha, beta = number(given["alpha"]), number(given["beta"])
    assert alpha < key.p - 1 and beta < key.q - 1
    h = power(number(given["root"]), 2 * key.n, key.square)
    a, b, pp, qq = power(h, alpha, key.p**2), power(h, beta, key.q**2), key.p**2, key.q**2
    r = (a * qq * power(qq, -1, pp) + b * pp * power(pp, -1, qq)) % key.square
    return {"ciphertexts": [key.bytes(key.encrypt(given["plaintext"], r))]}


def _by_others(given: dict) -> dict:
    """c = (1 + m n) u^n."""
    key = Key(given)
    found = [
        key.encrypt(m, power(number(unit), key.n, key.square))
        for m, unit in zip(given["plaintexts"], given["units"], strict=True)
    ]
    assert [key.decrypt(c) for c in found] == given["plaintexts"]
    return {"ciphertexts": [key.bytes(c) for c in found]}


def _product(given: dict) -> dict:
    """The product of u_i^(n e_i), e_i being the bits 6 i to 6 i + 5 of a number."""
    key = Key(given)
    exponents, product = number(given["exponents"]), 1
    for i, unit in enumerate(given["units"]):
        exponent = exponents >> 6 * i & 63
        product = product * power(number(unit), key.n * exponent, key.square) % key.square
    assert key.decrypt(product) == 0
    return {"obfuscator": key.bytes(product)}


def _concealed(given: dict) -> dict:
    """c x^(2 n e) with e of so many bits as the owner's exponents have."""
    key = Key(given)
    base = power(number(given["base"]), 2 * key.n, key.square)
    c = (1 + given["plaintext"] * key.n) * power(base, number(given["exponent"]), key.square)
    return {"ciphertexts": [key.bytes(c % key.square)]}


def _arithmetic(given: dict) -> dict:
    """Products and powers of ciphertexts, and the plaintexts that they then have."""
    key = Key(given)
    plaintexts, modulus = given["plaintexts"], key.square
    c = [
        key.encrypt(m, power(number(y), key.n, modulus))
        for m, y in zip(plaintexts, given["randomness"], strict=True)
    ]

    def product(exponents: list[int]) -> int:
        total = 1
        for x, exponent in zip(c, exponents, strict=True):
            total = total * power(x, exponent, modulus) % modulus
        return total

    made = {
        "sum": product([1] * len(c)),
        "products": [power(x, f, modulus) for x, f in zip(c, given["factors"], strict=True)],
        "packed": product([1 << given["slot bits"] * i for i in range(len(c))]),
        "sum of integers times plaintexts": product(given["integers"]),
    }
    assert key.decrypt(made["sum"]) == sum(plaintexts)
    assert [key.decrypt(x) for x in made["products"]] == [
        m * f for m, f in zip(plaintexts, given["factors"], strict=True)
    ]
    return {
        name: [key.bytes(x) for x in value] if isinstance(value, list) else key.bytes(value)
        for name, value in made.items()
    } | {
        "plaintexts": {
            "sum": signed(key.decrypt(made["sum"])),
            "products": [signed(key.decrypt(x)) for x in made["products"]],
            "packed": signed(key.decrypt(made["packed"])),
            "sum of integers times plaintexts": signed(
                key.decrypt(made["sum of integers times plaintexts"])
            ),
        }
    }


def _layout(given: dict) -> dict:
    """Gradients and hessians in plaintexts: v = g 2^sum_bits + h, sums of v side by side in slots."""
    rows, bits = given["rows"], given["plaintext bits"]
    # A sum over all rows has to be exact as a float of 53 bits.
    row_bits = min(24, 52 - rows.bit_length())
    sum_bits = (rows * 2**row_bits).bit_length()
    slot_bits = 2 * sum_bits + 2
    slots = (bits - 2) // slot_bits
    plaintexts = [g * 2**sum_bits + h for g, h in given["sums"]]
    packed = [
        sum(v * 2 ** (slot_bits * i) for i, v in enumerate(plaintexts[at : at + slots]))
        for at in range(0, len(plaintexts), slots)
    ]
    return {
        "row_bits": row_bits,
        "sum_bits": sum_bits,
        "slot_bits": slot_bits,
        "slots": slots,
        "plaintexts": [signed(v) for v in plaintexts],
        "packed": [signed(v) for v in packed],
    }


def _primes(bits: int) -> dict:
    return {"p": f"{prime(f'p of {bits} bits'):x}", "q": f"{prime(f'q of {bits} bits'):x}"}


CASES = [
    ("key", _primes(2048)),
    *(
        (
            "textbook",
            {
                **_primes(bits),
                "plaintexts": plaintexts,
                "randomness": [f"shake256 {bits // 8 - 1} y {i}" for i in range(len(plaintexts))],
            },
        )
        for bits, plaintexts in ((2048, [0, 1, -1, 2**64 + 5]), (3072, [-12345]), (4096, [67890]))
    ),
    (
        "by the owner",
        {
            **_primes(2048),
            "root": "shake256 272 root",
            "plaintexts": [17, -17],
            "exponents": ["shake256 32 alpha 0", "shake256 32 alpha 1"],
        },
    ),
    (
        "by the owner, full exponents",
        {
            **_primes(2048),
            "root": "shake256 272 root",
            "plaintext": 5,
            "alpha": "shake256 127 alpha modulo p - 1",
            "beta": "shake256 127 alpha modulo q - 1",
        },
    ),
    (
        "by others",
        {
            **_primes(2048),
            "plaintexts": [3, -3],
            "units": ["shake256 255 unit 0", "shake256 255 unit 1"],
        },
    ),
    (
        "a product of n-th powers",
        {
            **_primes(2048),
            "units": [f"shake256 255 unit {i}" for i in range(4)],
            "exponents": "shake256 3 exponents",
        },
    ),
    (
        "concealed",
        {
            **_primes(2048),
            "base": "shake256 272 base",
            "plaintext": 9,
            "exponent": "shake256 32 a short exponent",
        },
    ),
    (
        "arithmetic",
        {
            **_primes(2048),
            "plaintexts": [7, -2, 0, 1000003],
            "randomness": [f"shake256 255 y {i}" for i in range(4)],
            "factors": [3, -5, 0, 2**62],
            "slot bits": 50,
            "integers": [-9, 300, 7, 0],
        },
    ),
    (
        "layout",
        {
            "rows": 1000,
            "plaintext bits": 2048,
            "sums": [
                [0, 0],
                [1000 << 24, 1000 << 24],
                [-(1000 << 24), 0],
                [-1, 1],
                *([i - 20, i] for i in range(30)),
            ],
        },
    ),
    ("layout", {"rows": 20_000_000, "plaintext bits": 3072, "sums": [[-3, 2], [5, 0]]}),
]
ANSWERS = {
    "key": _key,
    "textbook": _textbook,
    "by the owner": _by_owner,
    "by the owner, full exponents": _full_exponents,
    "by others": _by_others,
    "a product of n-th powers": _product,
    "concealed": _concealed,
    "arithmetic": _arithmetic,
    "layout": _layout,
}
