"""Linear models: residuals in digits, products side by side in a plaintext, scores in fixed point."""

from fractions import Fraction

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
    most = widest(given["rows"])
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


def _most(given: dict) -> dict:
    """Slots are of 50 bits of a residual, 62 of a number, those of the rows, and two more."""
    slot_bits = 50 + 62 + given["rows"].bit_length() + 2
    slots = (given["key_bits"] - 2) // slot_bits
    return {"ciphertexts": -(-given["columns"] // slots)}


def _scores(given: dict) -> dict:
    """The nearest multiples of 1 / precision, of two equally near the even one, modulo 2^64."""
    words = [round(Fraction(score) * Fraction(given["precision"])) % 2**64 for score in given["scores"]]
    return {"words": [f"{word:016x}" for word in words]}


CASES = [
    *(
        ("digits", {"rows": rows, "residuals": [0, 1, -1, 2**40, -(2**40), 123_456_789_012]})
        for rows in (1000, 1_000_000)
    ),
    ("most ciphertexts", {"key_bits": 2048, "columns": 100, "rows": 1_000_000}),
    ("scores", {"precision": 2.0**20, "scores": [0.0, 1.5, -1.5, 2.0**-21, 3 * 2.0**-21, -0.1]}),
]
ANSWERS = {"digits": _digits, "most ciphertexts": _most, "scores": _scores}
