"""Vector OLE: the field, correlated bits, trees of seeds, the code that compresses."""

import hashlib

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from .data import Stream, data, keyed_hash, sha256
from .transfers import Column, ghash, transposed

WEIGHT, REGULAR, STATE, MASKING, SECRET = 21, 4, 24, 256, 128


def aes(key: bytes, block: bytes) -> bytes:
    return Cipher(algorithms.AES128(key), modes.ECB()).encryptor().update(block)  # noqa: S305


def stream(key: bytes, number: int, size: int) -> bytes:
    """Counter mode from a block of which the first half is a number."""
    counter = number.to_bytes(8, "big") + bytes(8)
    return Cipher(algorithms.AES128(key), modes.CTR(counter)).encryptor().update(bytes(size))


# --- GF(2^128), written as in GCM: the first byte's highest bit is the coefficient of x^0 -------------


def polynomial_of(element: bytes) -> int:
    """A bit a coefficient, that of x^0 the lowest."""
    return int(f"{int.from_bytes(element, 'big'):0128b}"[::-1], 2)


def element_of(polynomial: int) -> bytes:
    return int(f"{polynomial:0128b}"[::-1], 2).to_bytes(16, "big")


def times(one: bytes, other: bytes) -> bytes:
    a, b, product = polynomial_of(one), polynomial_of(other), 0
    for k in range(128):
        if b >> k & 1:
            product ^= a << k
    for k in range(254, 127, -1):
        if product >> k & 1:
            product ^= (1 << 128 | 0b10000111) << k - 128
    return element_of(product)


def plus(*elements: bytes) -> bytes:
    total = 0
    for element in elements:
        total ^= int.from_bytes(element, "big")
    return total.to_bytes(16, "big")


def polynomial(coefficients: list[bytes], key: bytes) -> bytes:
    """The lowest power is the second, of the last coefficient."""
    h, total = aes(key, bytes(16)), bytes(16)
    for coefficient in coefficients:
        total = times(plus(total, coefficient), h)
    return times(total, h)


def _field(given: dict) -> dict:
    one, other = data(given["one"]), data(given["other"])
    coefficients = [data(text) for text in given["coefficients"]]
    return {
        "product": times(one, other).hex(),
        "polynomial": polynomial(coefficients, data(given["key"])).hex(),
    }


# --- correlated bits: Ishai, Kilian, Nissim, Petrank, CRYPTO 2003 -------------------------------------


def given_keys(text: str) -> list[tuple[bytes, bytes]]:
    """Both keys of each base transfer."""
    every = data(text)
    return [(every[i : i + 16], every[i + 16 : i + 32]) for i in range(0, 32 * SECRET, 32)]


def bits_of(value: bytes) -> list[int]:
    """The highest of each byte first."""
    return [byte >> 7 - k & 1 for byte in value for k in range(8)]


def column_hash(column: bytes, keys: tuple[bytes, bytes]) -> bytes:
    return ghash(keys[0], column) + ghash(keys[1], column)


def _bits(given: dict) -> dict:
    keys, secret = given_keys(given["keys"]), bits_of(data(given["secret"]))
    own, seen = bits_of(data(given["bits"])), data(given["transcript"])
    size = -(-(len(own) + MASKING) // 128) * 16
    masking = 8 * size - len(own)
    every = bits_of(Stream(given["entropy"])(masking // 8 + 1))[:masking] + own
    packed = sum(bit << i for i, bit in enumerate(every))
    first, second = ([Column(pair[j]).next(size) for pair in keys] for j in (0, 1))
    sent = [a ^ b ^ packed for a, b in zip(first, second, strict=True)]
    columns = [column.to_bytes(size, "little") for column in sent]
    seen = hashlib.sha256(seen + size.to_bytes(8, "big") + b"".join(columns)).digest()
    both = hashlib.sha256(b"vfl check of an extension" + seen).digest()
    hashed = [
        column_hash(column.to_bytes(size, "little"), (both[:16], both[16:]))
        for column in (*first, packed)
    ]
    held = [
        column ^ (other if chosen else 0)
        for column, other, chosen in zip(
            [Column(pair[chosen]).next(size) for pair, chosen in zip(keys, secret, strict=True)],
            sent,
            secret,
            strict=True,
        )
    ]
    rows = [transposed(some, 8 * size)[masking:] for some in (first, held)]
    return {
        "columns": sha256(b"".join(columns)),
        "sums": sha256(b"".join(hashed)),
        "transcript": seen.hex(),
        "receiver's rows": [row.to_bytes(16, "little").hex() for row in rows[0]],
        "sender's rows": [row.to_bytes(16, "little").hex() for row in rows[1]],
    }


# --- trees: Goldreich, Goldwasser, Micali -------------------------------------------------------------


def _trees(given: dict) -> dict:
    count, keys = given["leaves"], [[data(key) for key in pair] for pair in given["keys"]]
    leaves, sums = [], []
    for seed in map(data, given["seeds"]):
        nodes, of_tree = [seed], []
        for left, right in keys:
            children = [[plus(aes(key, node), node) for node in nodes] for key in (left, right)]
            children[1] = children[1][: count - len(nodes)]
            of_tree.append([plus(*side).hex() for side in children])
            nodes = children[0] + children[1]
        leaves.append([leaf.hex() for leaf in nodes])
        sums.append(of_tree)
    return {"leaves": leaves, "sums": sums}


# --- the code: Raghuraman, Rindal, Tanguy, CRYPTO 2023 ------------------------------------------------


def convolved(places: list[bytes], picked: list[int]) -> list[bytes]:
    """Each place is added to the next one, and to those of the 24 after it that its bits pick."""
    found = list(places)
    for i in range(len(found)):
        for k in range(STATE + 1):
            if i + k + 1 < len(found) and (k == 0 or picked[i] >> k - 1 & 1):
                found[i + k + 1] = plus(found[i + k + 1], found[i])
    return found


def numbers(some: bytes) -> list[int]:
    return [int.from_bytes(some[i : i + 4], "little") for i in range(0, len(some), 4)]


def compressed(vector: list[bytes], seed: bytes) -> list[bytes]:
    n = len(vector) // 2
    forwards, backwards = (numbers(stream(seed, turn, 4 * n)) for turn in (0, 1))
    state = convolved(vector[n:], forwards)
    state = convolved(state[::-1], backwards[::-1])[::-1]
    places = numbers(stream(seed, 2, 4 * WEIGHT * n))
    part, found = n // REGULAR, []
    for i in range(n):
        total = vector[i]
        for k, number in enumerate(places[WEIGHT * i : WEIGHT * (i + 1)]):
            at = number * part // 2**32 + k * part if k < REGULAR else number * n // 2**32
            total = plus(total, state[at])
        found.append(total)
    return found


def _code(given: dict) -> dict:
    vector = [data(f"shake256 16 {given['vector']} {i}") for i in range(2 * given["outputs"])]
    return {"compressed": [row.hex() for row in compressed(vector, data(given["seed"]))]}


# --- buckets of ids ------------------------------------------------------------------------------------


def room(ids: int, buckets: int) -> int:
    """By Bernstein's bound for what a bucket has beyond the mean, rounded up at each step."""
    if buckets == 1:
        return ids
    mean = (ids + buckets - 1) // buckets
    log = (64 + len(f"{buckets:b}")) * 7 // 10 + 1
    square, root = log * log // 9 + 2 * log * mean, 0
    for bit in range(40, -1, -1):
        if (root | 1 << bit) ** 2 <= square:
            root |= 1 << bit
    return min(ids, mean + log // 3 + 2 + root)


def _buckets(given: dict) -> dict:
    key = keyed_hash(b"vfl bucket run", data(given["context"]))
    count = -(-given["of guest"] // 65536)
    digests = [
        hashlib.blake2b(data(text), key=key, person=b"vfl bucket id", digest_size=32).digest()
        for text in given["ids"]
    ]
    return {
        "buckets": count,
        "rooms": [room(ids, count) for ids in (given["of guest"], given["of host"])],
        "slots": [
            3 * -(-1270 * room(ids, count) // 3000) + 112
            for ids in (given["of guest"], given["of host"])
        ],
        "ids": [
            {"digest": one.hex(), "bucket": int.from_bytes(one[:4], "little") * count >> 32}
            for one in digests
        ],
    }


CASES = [
    (
        "field",
        {
            "one": "shake256 16 one element",
            "other": "shake256 16 another element",
            "coefficients": [f"shake256 16 coefficient {i}" for i in range(3)],
            "key": "shake256 16 a key of the check",
        },
    ),
    (
        "field",
        {"one": "80" + "00" * 15, "other": "00" * 15 + "01", "coefficients": [], "key": "00" * 16},
    ),
    (
        "bits",
        {
            "keys": "shake256 4096 keys of base transfers",
            "secret": "shake256 16 a secret",
            "bits": "shake256 2 bits",
            "transcript": "shake256 32 a transcript",
            "entropy": "random bits",
        },
    ),
    (
        "trees",
        {
            "seeds": ["shake256 16 one seed", "shake256 16 another seed"],
            "leaves": 6,
            "keys": [[f"shake256 16 key {level} {side}" for side in "lr"] for level in range(3)],
        },
    ),
    ("code", {"outputs": 40, "vector": "a vector", "seed": "shake256 16 a code"}),
    (
        "buckets",
        {
            "context": b"a run".hex(),
            "of guest": 1_000_000,
            "of host": 70_000,
            "ids": [f"shake256 17 id {i}" for i in range(3)],
        },
    ),
]
ANSWERS = {"field": _field, "bits": _bits, "trees": _trees, "code": _code, "buckets": _buckets}
