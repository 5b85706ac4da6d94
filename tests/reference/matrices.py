"""Sums over few rows by encrypted matrices, docs/lattice.md in Python integers, as `lattice` hints."""

from dataclasses import dataclass
from functools import cached_property
from math import floor

import gmpy2

from .data import data, sha256
from .lattice import (
    Key,
    Parameters,
    entries,
    joined,
    planes,
    rounded,
    rounded_to_even,
    rule,
    seal,
    unseal,
)
from .polynomials import DEGREE, Q64, Q96, errors, folded, packed, packed96, ternary, words

_FLOOD = 2**44  # at most


@dataclass(frozen=True)
class Direct(Parameters):
    """Polynomials hold `width` rows in place of columns of a hint."""

    @cached_property
    def depth(self) -> int:
        return -(-self.rows // self.width)


def choose(rows: int, value_bits: int, outputs: int, queries: int, weight: int) -> tuple[Direct, int]:
    """Parameters, and for how many vectors, `queries` at most, the flooding hides what it has to."""
    bound = rows * 2 ** (value_bits - 1) * weight
    scale_bits = 63 - bound.bit_length()
    with gmpy2.context(precision=200):
        flood = min(gmpy2.mpfr(2) ** (scale_bits - 2) / 10, gmpy2.mpfr(_FLOOD))
        flood *= 1 - gmpy2.mpfr(2) ** -10
        error = gmpy2.mpfr("10.5") + gmpy2.mpfr(4**16) / 12
        shift = (rows * 4 ** (value_bits - 1) + 2 * DEGREE * gmpy2.mpfr(2) / 3) * error / 4**32
        served = min(queries, int(gmpy2.floor(gmpy2.mpfr(2) ** -44 * flood**2 / (outputs * shift))))
        drop_bits = max(0, floor(float(gmpy2.log2(max(flood, 1)) - 6) / 8) * 8)
        return Direct(rows, value_bits, outputs, 0, scale_bits, float(flood), drop_bits), served


def multiply(
    p: Direct, key: Key, parts: list[list[int]], values: list[int], entropy: bytes, v: int, count: int
) -> tuple[list[int], list[int], list[int]]:
    """a' of all groups (of 80 bits) and b' (of 48), and the masks (of 64), of vector v of `count`."""
    masks = words(entropy, "masks", count * p.outputs)[v * p.outputs :][: p.outputs]
    again = ternary(entropy, "again", count * p.groups * DEGREE)
    noise = errors(entropy, "noise", count * p.groups * DEGREE)
    public_key = packed([x << 16 for x in key.public_key()])
    a_sent, b_sent = [], []
    for group in range(p.groups):
        at = (v * p.groups + group) * DEGREE  # vector by vector, group by group
        small = packed(again[at : at + DEGREE])
        a, b = packed96(key.seed, "public key", 0) * small, public_key * small
        for d in range(p.depth):
            piece = [0] * p.width
            for k, value in enumerate(values[d * p.width : (d + 1) * p.width]):
                piece[p.width - 1 - k] = value
            number = group * p.depth + d
            a += packed96(key.public, "hint", number) * packed(piece)
            b += packed([x << 16 for x in parts[number]]) * packed(piece)
        a_sent += [
            rounded((x + e) % Q96, 96, 80)
            for x, e in zip(folded(a, DEGREE, Q96), noise[at : at + DEGREE], strict=True)
        ]
        products = folded(b, DEGREE, Q96)[p.width - 1 :: p.width]
        for x, u in zip(products, masks[group * p.group :][: p.group], strict=False):
            b_sent.append(rounded_to_even(((x >> 32) + u) % Q64, 48))
    return a_sent, b_sent, masks


def _parameters(given: dict) -> dict:
    p, served = choose(*(given[name] for name in ("rows", "value_bits", "outputs", "queries", "weight")))
    return {
        "scale_bits": p.scale_bits,
        "flood": f"{p.flood:.9e}",
        "drop_bits": p.drop_bits,
        "vectors": served,
        "groups": p.groups,
        "group": p.group,
        "width": p.width,
        "depth": p.depth,
        "bytes": {
            "parts": -(-p.groups * p.depth // 32),
            "last part": ((p.groups * p.depth - 1) % 32 + 1) * DEGREE * 10,
            "products": p.groups * DEGREE * 10 + p.outputs * 6,
            "answer": p.outputs * (64 - p.drop_bits) // 8,
        },
    }


def _scheme(given: dict) -> dict:
    """All steps: the encrypted matrix, its products with vectors, what a host opens and answers."""
    seed, rows, count = data(given["seed"]), given["rows"], len(given["vectors"])
    matrix = entries(given)
    p, _ = choose(rows, given["value_bits"], len(matrix), given["queries"], given["weight"])
    key = Key(p, seed, data(given["secret"]), data(given["context"]))
    messages = [[(-entry << p.scale_bits) % Q64 for entry in row] for row in matrix]
    polynomials = [key.polynomial(messages, number) for number in range(p.groups * p.depth)]
    vectors = [rule(one, rows) for one in given["vectors"]]
    products = [
        multiply(p, key, polynomials, one, data(given["products"]), v, count)
        for v, one in enumerate(vectors)
    ]
    opened = [key.open(a, [x << 32 for x in b]) for a, b, _ in products]
    sent = planes([x for a, _, _ in products for x in a], 80)
    sent += planes([x for _, b, _ in products for x in b], 48)
    flat = seal(p, [0] * count * len(matrix), joined(opened), data(given["answers"]))
    exact = [[sum(m * x for m, x in zip(row, one, strict=True)) for row in matrix] for one in vectors]
    assert unseal(p, flat, [u for _, _, masks in products for u in masks]) == joined(exact)
    size = (64 - p.drop_bits) // 8
    parts = [
        planes(joined(polynomials[i : i + 32]), 80) for i in range(0, len(polynomials), 32)
    ]  # the planes of all words of a part together
    return {
        "scale_bits": p.scale_bits,
        "drop_bits": p.drop_bits,
        "parts": [sha256(part) for part in parts],
        "Vectors": {"first": sent[:16].hex(), "last": sent[-16:].hex(), "sha256": sha256(sent)},
        "opened": [[f"{one:024x}" for one in each] for each in opened],
        "VectorSums": b"".join(word.to_bytes(size, "little") for word in flat).hex(),
        "exact sums": exact,
    }


CASES = [
    *(
        (
            "parameters",
            dict(zip(("rows", "value_bits", "outputs", "queries", "weight"), one, strict=True)),
        )
        for one in (
            (45, 13, 3, 1000, 21),
            (600, 13, 62_000, 65_536, 1),
            (2000, 13, 62_000, 65_536, 1),
            (4095, 9, 5000, 65_536, 1),
        )
    ),
    (
        "scheme",
        {
            "rows": 45,
            "columns": [
                {"bins": 3, "rule": [7, 1, 3, 0]},
                {"bins": 2, "rule": [5, 3, 2, 0]},
                {"bins": 0, "rule": [3, 2, 21, 10]},
            ],
            "running": True,
            "outputs": [[[0, 1]], [[1, 1], [0, -1]], [[3, 1], [5, -2]]],
            "weight": 21,
            "queries": 1000,
            "value_bits": 13,
            "vectors": [[1999, 0, 8191, 4095], [11, 5, 101, 50]],
            "seed": "shake256 32 the joint seed",
            "secret": "shake256 32 secret of a matrix",
            "context": "shake256 32 what the matrix is",
            "products": "shake256 32 entropy of products",
            "answers": "shake256 32 entropy of answers",
        },
    ),
]
ANSWERS = {"parameters": _parameters, "scheme": _scheme}
