"""docs/lattice.md in Python integers: slow, without transforms, limbs, blocks of vectors or threads.

Polynomials are lists of 4096 integers. What is random is drawn from streams by the labels that are
written there. `p` stands for parameters: of the package, or of `Parameters` below.
"""

import hashlib
import struct
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import floor

import gmpy2

from .data import data, sha256
from .polynomials import (
    DEGREE,
    Q64,
    Q96,
    derive,
    errors,
    folded,
    gaussian,
    halves,
    packed,
    packed96,
    product,
    public_row,
    ternary,
    uniform96,
    words,
)

# --- parameters -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parameters:
    """What `choose` of the package makes of a job, from docs/lattice.md."""

    rows: int
    value_bits: int
    outputs: int
    word_bits: int
    scale_bits: int
    flood: float
    drop_bits: int

    @cached_property
    def groups(self) -> int:
        """The split of outputs into groups that costs least; of equal ones that with fewer groups."""
        fewest = -(-self.outputs // DEGREE)

        def cost(groups: int) -> int:
            width = min(32, DEGREE // -(-self.outputs // groups))
            return groups * (-(-DEGREE // width) + 128)

        return min(range(fewest, fewest + 8), key=cost)

    @cached_property
    def group(self) -> int:
        return -(-self.outputs // self.groups)

    @cached_property
    def width(self) -> int:
        return min(32, DEGREE // self.group)

    @cached_property
    def depth(self) -> int:
        return -(-DEGREE // self.width)


def choose(rows: int, value_bits: int, outputs: int, queries: int, weight: int) -> Parameters:
    """The shortest words under which the flooding hides noise and key."""
    bound = rows * 2 ** (value_bits - 1) * weight
    scale_bits = 63 - bound.bit_length()
    with gmpy2.context(precision=200):
        for word_bits in (48, 56, 64):
            dropped = 64 - word_bits
            rounding = gmpy2.mpfr(4**dropped + 2) / 12 if dropped else gmpy2.mpfr(0)
            noise = rows * weight**2 * (gmpy2.mpfr("10.5") + rounding)
            room = (gmpy2.mpfr(2) ** (scale_bits - 2) / 10) ** 2 - noise
            if room <= 0:
                continue
            flood = min(gmpy2.sqrt(room), gmpy2.mpfr(2**44))
            drop_bits = max(0, floor(float(gmpy2.log2(max(flood, 1)) - 6) / 8) * 8)
            flood *= 1 - gmpy2.mpfr(2) ** -10
            shift = 3 * DEGREE * gmpy2.mpfr(2) / 3 * (gmpy2.mpfr("10.5") + 4**16 / gmpy2.mpfr(12))
            leak = queries * outputs * shift / 4**32 / flood**2
            if gmpy2.log2(flood / gmpy2.sqrt(noise)) >= 12 and leak <= gmpy2.mpfr(2) ** -40:
                return Parameters(
                    rows, value_bits, outputs, word_bits, scale_bits, float(flood), drop_bits
                )
    raise ValueError("no words are long enough")


# --- vectors, hint, sums ------------------------------------------------------------------------------


def encrypt(
    seed: bytes, secret: list[int], noise: list[int], values: list[int], scale: int
) -> list[int]:
    """c = a s + e + 2^scale v over all rows; `noise` has an entry a coefficient of each block."""
    out = []
    for block in range(-(-len(values) // DEGREE)):
        masked = product(public_row(seed, block), secret, Q64)
        for i, v in enumerate(values[block * DEGREE : (block + 1) * DEGREE]):
            out.append((masked[i] + noise[block * DEGREE + i] + (v << scale)) % Q64)
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
    """The top `kept` bits of a word of `bits`, rounded, halves up."""
    dropped = bits - kept
    return ((word + (1 << (dropped - 1) if dropped else 0)) % (1 << bits)) >> dropped


def rounded_to_even(word: int, kept: int) -> int:
    """The top `kept` bits of a word of 64 bits, rounded, halves to even."""
    return round(Fraction(word, 1 << 64 - kept)) % (1 << kept)


def planes(words: list[int], bits: int) -> bytes:
    """Words of so many bits: the upper 32 of all, little-endian, then the 16 below them, the 8 below."""
    out, left = b"", bits
    for width in {48: (32, 16), 56: (32, 16, 8), 64: (64,), 80: (64, 16)}[bits]:
        left -= width
        mask, kind = (1 << width) - 1, {64: "Q", 32: "I", 16: "H", 8: "B"}[width]
        out += struct.pack(f"<{len(words)}{kind}", *[word >> left & mask for word in words])
    return out


def integers80(data: bytes, count: int) -> list[int]:
    """`count` words of 80 bits from their planes."""
    whole = [int.from_bytes(data[8 * i : 8 * i + 8], "little") for i in range(count)]
    below = data[8 * count :]
    return [(w << 16) + int.from_bytes(below[2 * i : 2 * i + 2], "little") for i, w in enumerate(whole)]


class Key:
    """The host's key of a hint."""

    def __init__(self, p: Parameters, seed: bytes, secret: bytes, context: bytes) -> None:
        shape = b"".join(n.to_bytes(8, "big") for n in (p.outputs, p.groups, p.group, p.width, p.depth))
        self.p, self.seed = p, seed
        self.key = hashlib.sha256(b"vfl lattice hint" + shape + secret + seed + context).digest()
        self.public = derive(self.key, "public")
        self.z = ternary(self.key, "key", DEGREE)
        self._packed_z = packed(self.z)

    def errors(self, label: str, number: int) -> list[int]:
        return errors(derive(self.key, f"{label} {number}"), "errors", DEGREE)

    def public_key(self) -> list[int]:
        """b0, rounded to 80 bits."""
        b = folded(packed96(self.seed, "public key", 0) * self._packed_z, DEGREE, Q96)
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
        b = folded(packed96(self.public, "hint", number) * self._packed_z, DEGREE, Q96)
        return [
            rounded((x + e + m) % Q96, 96, 80)
            for x, e, m in zip(b, self.errors("errors", number), message, strict=True)
        ]

    def open(self, a: list[int], b: list[int]) -> list[int]:
        """Masked products modulo 2^96 of one vector: a' of all groups and b', of 80 bits."""
        p, inner = self.p, []
        for group in range(p.groups):
            az = product([x << 16 for x in a[group * DEGREE :][:DEGREE]], self.z, Q96)
            inner += az[p.width - 1 :: p.width][: p.group]
        return [((y << 16) - x) % Q96 for x, y in zip(inner, b, strict=False)]


def multiply(
    p: Parameters,
    key: Key,
    parts: list[list[int]],
    secret: list[int],
    entropy: bytes,
    v: int,
    count: int,
) -> tuple[list[int], list[int], list[int]]:
    """a' of all groups and b' (of 80 bits), and the masks (of 96), of vector v of `count`."""
    masks = words(entropy, "masks", count * p.outputs)[v * p.outputs :][: p.outputs]
    below = halves(words(entropy, "fractions", -(-count * p.outputs // 2)))[v * p.outputs :]
    whole = [(m << 32) + f for m, f in zip(masks, below, strict=False)]
    again = ternary(entropy, "again", count * p.groups * DEGREE)
    noise = errors(entropy, "noise", count * p.groups * DEGREE)
    public_key = packed([x << 16 for x in key.public_key()])
    pieces = []
    for d in range(p.depth):
        piece = [0] * p.width
        for k, s in enumerate(secret[d * p.width : (d + 1) * p.width]):
            piece[p.width - 1 - k] = s
        pieces.append(packed(piece))
    a_sent, b_sent = [], []
    for group in range(p.groups):
        at = (v * p.groups + group) * DEGREE  # vector by vector, group by group
        small = packed(again[at : at + DEGREE])
        a, b = packed96(key.seed, "public key", 0) * small, public_key * small
        for d, piece in enumerate(pieces):
            number = group * p.depth + d
            a += packed96(key.public, "hint", number) * piece
            b += packed([x << 16 for x in parts[number]]) * piece
        a_sent += [
            rounded((x + e) % Q96, 96, 80)
            for x, e in zip(folded(a, DEGREE, Q96), noise[at : at + DEGREE], strict=True)
        ]
        products = folded(b, DEGREE, Q96)[p.width - 1 :: p.width]
        for x, u in zip(products, whole[group * p.group :][: p.group], strict=False):
            b_sent.append(rounded((x + u) % Q96, 96, 80))
    return a_sent, b_sent, whole


def seal(p: Parameters, sums: list[int], opened: list[int], key: bytes) -> list[int]:
    """The words of an answer: sums less opened products (of 96 bits, rounded at random), flooded."""
    flood = gaussian(key, "flood", len(sums), p.flood)
    dither = words(key, "dither", len(sums))
    answer = []
    for total, product_, f, random in zip(sums, opened, flood, dither, strict=True):
        up = (product_ & 0xFFFFFFFF) > random >> 32
        answer.append(rounded((total - (product_ >> 32) - up + f) % Q64, 64, 64 - p.drop_bits))
    return answer


def unseal(p: Parameters, answer: list[int], masks: list[int]) -> list[int]:
    """The sums: words plus masks to the nearest multiple of 2^scale_bits, signed."""
    sums = []
    for word, mask in zip(answer, masks, strict=True):
        scaled = ((word << p.drop_bits) + mask + (1 << p.scale_bits - 1)) % Q64
        sums.append((scaled - Q64 if scaled >> 63 else scaled) >> p.scale_bits)
    return sums


# --- known answers ------------------------------------------------------------------------------------


def rule(given: list[int], count: int) -> list[int]:
    """Numbers by a rule: (multiply i + add) modulo m, less a last number."""
    multiply_by, add, modulo, less = given
    return [(multiply_by * i + add) % modulo - less for i in range(count)]


def entries(given: dict) -> list[list[int]]:
    """The host's matrix, by outputs."""
    cells = []
    for column in given["columns"]:
        codes = rule(column["rule"], given["rows"])
        if not column["bins"]:
            cells.append(codes)
        for cell in range(column["bins"]):  # with running sums: of all codes up to the cell's
            cells.append([int(code <= cell if given["running"] else code == cell) for code in codes])
    return [
        [sum(weight * cells[cell][i] for cell, weight in output) for i in range(given["rows"])]
        for output in given["outputs"]
    ]


def _streams(given: dict) -> dict:
    key, label, count = data(given["key"]), given["label"], given["count"]
    return {
        "derived": derive(key, label).hex(),
        "words": [f"{word:016x}" for word in words(key, label, count, given["start"])],
        "ternary": ternary(key, label, count),
        "errors": errors(key, label, count),
        "gaussian": gaussian(key, label, count, given["deviation"]),
    }


def _uniform(given: dict) -> dict:
    drawn = uniform96(data(given["key"]), given["label"], given["number"])
    return {"first": [f"{word:024x}" for word in drawn[:3]], "last": f"{drawn[-1]:024x}"}


def _parameters(given: dict) -> dict:
    p = choose(*(given[name] for name in ("rows", "value_bits", "outputs", "queries", "weight")))
    return {
        "word_bits": p.word_bits,
        "scale_bits": p.scale_bits,
        "flood": f"{p.flood:.9e}",
        "drop_bits": p.drop_bits,
        "groups": p.groups,
        "group": p.group,
        "width": p.width,
        "depth": p.depth,
        "bytes": {
            "vectors": given["rows"] * p.word_bits // 8,
            "header": 32 + DEGREE * 10,
            "parts": -(-p.groups * p.depth // 32),
            "last part": ((p.groups * p.depth - 1) % 32 + 1) * DEGREE * 10,
            "products": (p.groups * DEGREE + p.outputs) * 10,
            "answer": p.outputs * (64 - p.drop_bits) // 8,
        },
    }


@dataclass(frozen=True)
class Grouped(Parameters):
    """With outputs in so many groups, of which `choose` makes more than one for thousands of outputs."""

    forced: int = 1

    @cached_property
    def groups(self) -> int:
        return self.forced


def _groups(given: dict) -> dict:
    """The encrypted hint and its products with one secret, for outputs in several groups."""
    outputs, seed = given["outputs"], data(given["seed"])
    p = Grouped(1, 1, outputs, 64, 1, 0.0, 0, given["groups"])
    drawn = words(data(given["hint"]), "hint", outputs * DEGREE)
    hints = [drawn[i * DEGREE : (i + 1) * DEGREE] for i in range(outputs)]
    key = Key(p, seed, data(given["secret"]), data(given["context"]))
    polynomials = [key.polynomial(hints, number) for number in range(p.groups * p.depth)]
    secret = ternary(data(given["secrets"]), "secrets", DEGREE)
    a, b, masks = multiply(p, key, polynomials, secret, data(given["products"]), 0, 1)
    sent = planes(a, 80) + planes(b, 80)
    parts = [planes(joined(polynomials[i : i + 32]), 80) for i in range(0, p.groups * p.depth, 32)]
    return {
        "group": p.group,
        "width": p.width,
        "depth": p.depth,
        "parts": [sha256(part) for part in parts],
        "HintProducts": {"last": sent[-10 * outputs :].hex(), "sha256": sha256(sent)},
        "masks": [f"{u >> 32:016x}" for u in masks],
        "opened": [f"{one:024x}" for one in key.open(a, b)],
    }


def _scheme(given: dict) -> dict:
    """All steps: hint, its encryption, products; by length of words vectors, sums and answers."""
    seed, rows, count = data(given["seed"]), given["rows"], len(given["vectors"])
    matrix = entries(given)
    # Only the lengths of words, which the hint does not depend on, are different.
    sets = [
        choose(rows, bits, len(matrix), given["queries"], given["weight"])
        for bits in given["value_bits"]
    ]
    p = sets[0]
    hints = [hint(seed, one) for one in matrix]
    key = Key(p, seed, data(given["secret"]), data(given["context"]))
    polynomials = [key.polynomial(hints, number) for number in range(p.depth)]
    # Polynomials travel 32 in a part, the planes of all their words together.
    parts = [planes(joined(polynomials[i : i + 32]), 80) for i in range(0, p.depth, 32)]
    secrets = ternary(data(given["secrets"]), "secrets", count * DEGREE)
    secrets = [secrets[v * DEGREE : (v + 1) * DEGREE] for v in range(count)]
    products = [
        multiply(p, key, polynomials, secret, data(given["products"]), v, count)
        for v, secret in enumerate(secrets)
    ]
    opened = [key.open(a, b) for a, b, _ in products]
    sent = planes([x for a, _, _ in products for x in a], 80)
    sent += planes([x for _, b, _ in products for x in b], 80)
    return {
        "hint": {"first": [f"{one[0]:016x}" for one in hints], "sha256": sha256(words64(hints))},
        "header": {
            "seed of the hint": key.public.hex(),
            "sha256": sha256(key.public + planes(key.public_key(), 80)),
        },
        "parts": [sha256(part) for part in parts],
        "HintProducts": {"first": sent[:16].hex(), "last": sent[-16:].hex(), "sha256": sha256(sent)},
        "masks": [[f"{u >> 32:016x}" for u in masks] for _, _, masks in products],
        "opened": [[f"{one:024x}" for one in each] for each in opened],
        "by length of words": [_answered(given, one, matrix, secrets, products, opened) for one in sets],
    }


def _answered(
    given: dict,
    p: Parameters,
    matrix: list[list[int]],
    secrets: list[list[int]],
    products: list[tuple[list[int], list[int], list[int]]],
    opened: list[list[int]],
) -> dict:
    rows, count = given["rows"], len(secrets)
    blocks = -(-rows // DEGREE)
    drawn = errors(data(given["errors"]), "errors", blocks * count * DEGREE)
    most = 2 ** (p.value_bits - 1) - 1
    vectors, exact = [], []
    for v, secret in enumerate(secrets):
        noise = [
            e for b in range(blocks) for e in drawn[(b * count + v) * DEGREE :][:DEGREE]
        ]  # of each block those of all vectors, one vector after the other
        values = [max(-most, min(most, x)) for x in rule(given["vectors"][v], rows)]
        sent = encrypt(data(given["seed"]), secret, noise, values, p.scale_bits)
        vectors.append([rounded_to_even(x, p.word_bits) for x in sent])
        exact.append([sum(m * x for m, x in zip(row, values, strict=True)) for row in matrix])
    # Of each block of rows the planes of its words, row by row.
    wire = b"".join(
        planes(
            [vectors[v][i] for i in range(b, min(b + DEGREE, rows)) for v in range(count)], p.word_bits
        )
        for b in range(0, rows, DEGREE)
    )
    sums = [
        [
            sum(m * x for m, x in zip(row, one, strict=True)) * 2 ** (64 - p.word_bits) % Q64
            for row in matrix
        ]
        for one in vectors
    ]
    # One key for all answers: vector by vector, output by output.
    flat = seal(p, joined(sums), joined(opened), data(given["answers"]))
    masks = [u >> 32 for _, _, whole in products for u in whole]
    assert unseal(p, flat, masks) == joined(exact)
    size = (64 - p.drop_bits) // 8
    return {
        "word_bits": p.word_bits,
        "scale_bits": p.scale_bits,
        "drop_bits": p.drop_bits,
        "Vectors": {"first": wire[:16].hex(), "last": wire[-16:].hex(), "sha256": sha256(wire)},
        "sums": [[f"{word:016x}" for word in one] for one in sums],
        "VectorSums": b"".join(word.to_bytes(size, "little") for word in flat).hex(),
        "exact sums": exact,
    }


def _seed(given: dict) -> dict:
    """Of the guest's share and those of the hosts, in the order of HintAgreed."""
    joined_shares = b"".join(data(share) for share in given["shares"])
    return {"seed": hashlib.sha256(b"vfl lattice seed\0" + joined_shares).hexdigest()}


def _zeros(given: dict) -> dict:
    """A digest of the host's masks modulo 2^(64 - scale_bits), and a commitment to it."""
    top = 1 << 64 - given["scale_bits"]
    read = b"".join((int(mask, 16) % top).to_bytes(8, "little") for mask in given["masks"])
    digest = hashlib.sha256(read).digest()
    commitment = hashlib.sha256(b"vfl lattice zeros\0" + data(given["nonce"]) + digest).hexdigest()
    return {"digest": digest.hex(), "commitment": commitment}


def joined(lists: list[list[int]]) -> list[int]:
    return [one for each in lists for one in each]


def words64(rows: list[list[int]]) -> bytes:
    return b"".join(word.to_bytes(8, "little") for row in rows for word in row)


CASES = [
    (
        "streams",
        {"key": "shake256 32 a key", "label": "a label", "count": 9, "start": 4, "deviation": 2.0**24},
    ),
    ("uniform words of 96 bits", {"key": "shake256 32 a key", "label": "hint", "number": 2}),
    *(
        (
            "parameters",
            dict(zip(("rows", "value_bits", "outputs", "queries", "weight"), one, strict=True)),
        )
        for one in (
            (4099, 5, 3, 1000, 21),
            (10_000, 20, 620, 3200, 1),
            (100_000, 13, 620, 3200, 1),
            (1_000_000, 13, 5000, 3200, 1),
            (5_000_000, 10, 620, 3200, 1),
        )
    ),
    ("joint seed", {"shares": ["shake256 32 share of the guest", "shake256 32 share of a host"]}),
    (
        "trial of zeros",
        {
            "scale_bits": 42,
            "masks": ["0000000000200001", "00000000003fffff", "ffffffffffffffff", "0000000000000000"],
            "nonce": "shake256 32 a nonce",
        },
    ),
    (
        "several groups",
        {
            "outputs": 5,
            "groups": 2,
            "hint": "shake256 32 a hint",
            "seed": "shake256 32 the joint seed",
            "secret": "shake256 32 secret of a hint",
            "context": "shake256 32 what the hint is of",
            "secrets": "shake256 32 entropy of secrets",
            "products": "shake256 32 entropy of products",
        },
    ),
    (
        "scheme",
        {
            "rows": 4099,
            "columns": [
                {"bins": 3, "rule": [7, 1, 3, 0]},
                {"bins": 2, "rule": [5, 3, 2, 0]},
                {"bins": 0, "rule": [3, 2, 21, 10]},
            ],
            "running": True,
            "outputs": [[[0, 1]], [[1, 1], [0, -1]], [[3, 1], [5, -2]]],
            "weight": 21,
            "queries": 1000,
            "value_bits": [5, 10, 16],
            "vectors": [[1, 0, 31, 15], [11, 5, 1_000_003, 500_001]],
            "seed": "shake256 32 the joint seed",
            "secret": "shake256 32 secret of a hint",
            "context": "shake256 32 what the hint is of",
            "secrets": "shake256 32 entropy of secrets",
            "errors": "shake256 32 entropy of errors",
            "products": "shake256 32 entropy of products",
            "answers": "shake256 32 entropy of answers",
        },
    ),
]
ANSWERS = {
    "joint seed": _seed,
    "trial of zeros": _zeros,
    "streams": _streams,
    "uniform words of 96 bits": _uniform,
    "parameters": _parameters,
    "several groups": _groups,
    "scheme": _scheme,
}
