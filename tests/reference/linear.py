"""Linear models: residuals in digits, what is given back of products side by side in a plaintext, and
scores and other numbers in fixed point."""

from fractions import Fraction

from .data import data
from .lattice import choose

ROW_BITS = 40  # of a residual under the lattice engine, sign not counted


def widest(rows: int) -> int:
    """The most bits of a vector's entries that words of 64 bits hold, for any host and any job."""
    bits = 1
    while True:
        try:
            choose(rows, bits + 1, 1 << 16, 1 << 20, 1)
        except ValueError:
            return bits
        bits += 1


def enough(count: int, bits: int) -> bool:
    """Whether so many digits to the base 2^bits - 1, negative ones too, hold every residual."""
    return ((2**bits - 1) ** count - 1) // 2 >= 2**ROW_BITS


def _digits(given: dict) -> dict:
    """The fewest digits, and of these the shortest, the lowest first; in size at most (base - 1) / 2."""
    most = widest(given["rows"]) - 3  # two below the unit of sums, and a spare one
    count = next(count for count in range(1, 80) if enough(count, most))
    bits = next(bits for bits in range(2, most + 1) if enough(count, bits))
    base, found = 2**bits - 1, []
    for residual in given["residuals"]:
        digits, left = [], residual
        for _ in range(count):
            digit = left % base
            digits.append(digit if digit <= base // 2 else digit - base)
            left = (left - digits[-1]) // base
        assert sum(digit * base**place for place, digit in enumerate(digits)) == residual
        found.append(digits)
    return {"count": count, "value_bits": bits, "digits": found}


def _opened(given: dict) -> dict:
    """Of each plaintext the lowest bits, as many as its products have, in whole bytes: a product's bits
    and 24 of a number. 66 of the key's bits are above them."""
    slot_bits, left, opened = given["bits"] + 24, given["columns"], b""
    for plaintext in given["plaintexts"]:
        count = min(left, (given["key_bits"] - 66) // slot_bits)
        left -= count
        low = int.from_bytes(data(plaintext), "big") % 2 ** (slot_bits * count)
        opened += low.to_bytes(-(-slot_bits * count // 8), "big")
    assert left == 0
    return {"bits": slot_bits * given["columns"], "opened": opened.hex()}


def _numbers(given: dict) -> dict:
    """The nearest multiples of 2^-160 units, of two equally near the even one, modulo 2^256."""
    unit = Fraction(given["unit"]) / 2**160
    words = [round(Fraction(number) / unit) % 2**256 for number in given["numbers"]]
    return {"bytes": b"".join(word.to_bytes(32, "little") for word in words).hex()}


def _scores(given: dict) -> dict:
    """The nearest multiples of 1 / precision, of two equally near the even one, modulo 2^64."""
    words = [round(Fraction(score) * Fraction(given["precision"])) % 2**64 for score in given["scores"]]
    return {"words": [f"{word:016x}" for word in words]}


CASES = [
    *(
        ("digits", {"rows": rows, "residuals": [0, 1, -1, 2**40, -(2**40), 123_456_789_012]})
        for rows in (1000, 1_000_000)
    ),
    (
        "opened products",
        {
            "key_bits": 2048,
            "columns": 50,
            "bits": 23,
            "plaintexts": ["shake256 255 plaintext 1", "shake256 255 plaintext 2"],
        },
    ),
    ("numbers", {"unit": 0.5, "numbers": [0.0, 1.5, -0.1, 2.0**80, 2.0**-162, 3 * 2.0**-162]}),
    ("scores", {"precision": 2.0**20, "scores": [0.0, 1.5, -1.5, 2.0**-21, 3 * 2.0**-21, -0.1]}),
]
ANSWERS = {"digits": _digits, "opened products": _opened, "numbers": _numbers, "scores": _scores}
