"""Totals over clients by a server that reads nothing, and real numbers in them."""

import math
from fractions import Fraction

from .data import Stream, data, keyed_hash
from .masks import chacha20, pairs


def _poly1305(key: bytes, message: bytes) -> bytes:
    """RFC 8439, section 2.5."""
    r = int.from_bytes(key[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    total = 0
    for first in range(0, len(message), 16):
        block = message[first : first + 16]
        total = (total + int.from_bytes(block + b"\1", "little")) * r % (2**130 - 5)
    return ((total + int.from_bytes(key[16:], "little")) % 2**128).to_bytes(16, "little")


def _sealed(key: bytes, text: bytes, besides: bytes) -> bytes:
    """RFC 8439, section 2.8, under a nonce of zeros."""
    stream = chacha20(key, 64 + len(text))
    cipher = bytes(a ^ b for a, b in zip(text, stream[64:], strict=True))
    padded = b"".join(part + bytes(-len(part) % 16) for part in (besides, cipher))
    lengths = len(besides).to_bytes(8, "little") + len(cipher).to_bytes(8, "little")
    return cipher + _poly1305(stream[:32], padded + lengths)


def _words(key: bytes, count: int) -> list[int]:
    stream = chacha20(key, 8 * count)
    return [int.from_bytes(stream[i : i + 8], "little") for i in range(0, 8 * count, 8)]


def _steps(given: dict) -> dict:
    """What the first client seals, and of each step what each client sends and what the server adds."""
    clients, heard = list(given["keys"]), bytes(32)
    secret = data(given["group"])
    numbers = (given["attempt"].to_bytes(8, "big"), bytes(8))
    context = keyed_hash(b"vfl adding", data(given["context"]), *numbers, heard)
    found = pairs({"context": context.hex(), "keys": given["keys"]})["secrets"]
    shared = {frozenset(pair.split(" and ")): bytes.fromhex(one) for pair, one in found.items()}
    first, *others = clients
    sealed = {
        name: _sealed(keyed_hash(b"vfl group seal", shared[frozenset((first, name))]), secret, context)
        for name in others
    }
    steps = []
    for number, step in enumerate(given["steps"]):
        count = len(step["values"][first])
        described = f"{number} [{count}] {step['what']}".encode()
        about = keyed_hash(b"vfl added total", secret, described, heard)
        drawn = (keyed_hash(b"vfl sum masks", about, n.to_bytes(16, "big")) for n in range(2))
        key, pad = (_words(one, count + 64 * n) for n, one in enumerate(drawn))
        alike = keyed_hash(b"vfl heard alike", about)
        parts = {}
        for name in clients:
            own = [value % 2**64 for value in step["values"][name]]
            own += [sum(w for w, k in zip(own, key, strict=True) if k >> j & 1) for j in range(64)]
            for fellow in clients:
                if fellow != name:
                    pair = shared[frozenset((name, fellow))]
                    masks = _words(keyed_hash(b"vfl adding masks", pair, bytes(16), alike), count + 64)
                    sign = 1 if name < fellow else -1
                    own = [word + sign * mask for word, mask in zip(own, masks, strict=True)]
            if name == first:
                own = [word + one for word, one in zip(own, pad, strict=True)]
            parts[name] = [word % 2**64 for word in own]
        sums = [sum(column) % 2**64 for column in zip(*parts.values(), strict=True)]
        total = [(word - one) % 2**64 for word, one in zip(sums[:count], pad, strict=False)]
        told = b"".join(word.to_bytes(8, "little") for word in total)
        heard = keyed_hash(b"vfl totals heard", heard, described, told)
        steps.append(
            {
                "about": about[:16].hex(),
                "parts": {name: [f"{word:016x}" for word in own] for name, own in parts.items()},
                "sum": [f"{word:016x}" for word in sums],
                "total": [word - (word >> 63 << 64) for word in total],
            }
        )
    return {"sealed": {name: one.hex() for name, one in sealed.items()}, "steps": steps}


def _real_numbers(given: dict) -> dict:
    """In multiples of 2^lowest, in digits of 36 bits of which 20 of what is carried are blurred."""
    lowest, digits, entropy = given["lowest"], given["digits"], Stream(given["entropy"])
    numbers = [float(number) for number in given["numbers"]]
    blurs = entropy(8 * (digits - 1) * len(numbers))
    further = entropy(8 * len(numbers))
    words = []
    for row, number in enumerate(numbers):
        most = Fraction(2) ** (lowest + 36 * digits - 8)
        beyond = not math.isfinite(number) or abs(Fraction(number)) >= most
        whole = 0 if beyond else round(Fraction(number) / Fraction(2) ** lowest)
        own = [whole % 2 ** (36 * digits) >> 36 * k & 2**36 - 1 for k in range(digits)]
        for k in range(digits - 1):
            at = 8 * (row * (digits - 1) + k)
            blur = int.from_bytes(blurs[at : at + 8], "little") % 2**20
            own[k] += blur << 36
            own[k + 1] -= blur
        random = int.from_bytes(further[8 * row : 8 * row + 8], "little", signed=True)
        words.append([*own, random if beyond else 0])
    return {"words": words}


_CLIENTS = ("cleo", "ada", "bea")
_LARGEST = 2**63 - 1
CASES = [
    (
        "steps of clients",
        {
            "context": "shake256 32 a job",
            "attempt": 0,
            "keys": {name: f"shake256 32 key of {name}" for name in _CLIENTS},
            "group": "shake256 32 secret of a group",
            "steps": [
                {
                    "what": "counts",
                    "values": {"cleo": [1, -2, 0], "ada": [5, 2, _LARGEST], "bea": [0, 7, 1]},
                },
                {"what": "end", "values": {name: [] for name in _CLIENTS}},
                {"what": "counts", "values": {name: [3, 3, 3] for name in _CLIENTS}},
            ],
        },
    ),
    (
        "real numbers",
        {
            "lowest": -84,
            "digits": 4,
            "entropy": "blurs",
            "numbers": [
                *("0", "1", "-1", "0.1", "-1e-26", "3.5e-26", "1e15", "-2.2e15"),
                *("2251799813685248", "4503599627370496", "inf", "nan"),
            ],
        },
    ),
    (
        "real numbers",
        {
            "lowest": -1104,
            "digits": 62,
            "entropy": "others",
            "numbers": ["1e300", "-1e-300", "1.7976931348623157e308"],
        },
    ),
]
ANSWERS = {"steps of clients": _steps, "real numbers": _real_numbers}
