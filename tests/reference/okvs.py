"""The oblivious key-value store, solved as the linear equations that it is."""

import hashlib

from .data import Stream, data

_MASK = 2**64 - 1
VALUE, DENSE, BLOCKS, SPARE = 16, 64, 3, 16


def block(n: int) -> int:
    """Slots of a block: 1.3 n / 3, rounded up, and 16."""
    return -(-13 * n // 30) + SPARE


def slots(n: int) -> int:
    return BLOCKS * block(n) + DENSE


def places(key: bytes, n: int, seed: bytes) -> tuple[list[int], int]:
    """The slot of each block, and the word whose bits choose dense slots."""
    digest = hashlib.blake2b(seed, digest_size=32, person=b"vfl okvs").digest()
    salts = [int.from_bytes(digest[i : i + 8], "little") for i in range(0, 32, 8)]
    words = [int.from_bytes(key[i : i + 8], "little") for i in range(0, len(key), 8)]
    mixed = []
    for word in salts:
        for lane in words:
            word ^= lane
            word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 & _MASK
            word = (word ^ word >> 27) * 0x94D049BB133111EB & _MASK
            word ^= word >> 31
        mixed.append(word)
    return [(mixed[b] >> 32) * block(n) // 2**32 + b * block(n) for b in range(BLOCKS)], mixed[BLOCKS]


def row(key: bytes, n: int, seed: bytes) -> int:
    """The equation of a key: a bit for each slot of the table, the dense ones last."""
    sparse, dense = places(key, n, seed)
    return sum(1 << place for place in sparse) | dense << BLOCKS * block(n)


def encode(keys: list[bytes], values: list[bytes], seed: bytes, drawn: bytes) -> list[bytes]:
    """A table: random slots, changed where the equations ask for it."""
    n = len(keys)
    table = [int.from_bytes(drawn[i : i + VALUE], "little") for i in range(0, slots(n) * VALUE, VALUE)]
    equations: list[tuple[int, int, int]] = []  # pivot, slots, value; each pivot in one equation alone
    for key, value in zip(keys, values, strict=True):
        left, right = row(key, n, seed), int.from_bytes(value, "little")
        for pivot, some, known in equations:
            if left >> pivot & 1:
                left, right = left ^ some, right ^ known
        pivot = left.bit_length() - 1  # 0 for keys that are not distinct: shifting fails
        equations = [
            (p, some ^ left, known ^ right) if some >> pivot & 1 else (p, some, known)
            for p, some, known in equations
        ]
        equations.append((pivot, left, right))
    for pivot, some, known in equations:
        for place in range(len(table)):
            if place != pivot and some >> place & 1:
                known ^= table[place]
        table[pivot] = known
    return [slot.to_bytes(VALUE, "little") for slot in table]


def decode(table: list[bytes], key: bytes, n: int, seed: bytes) -> bytes:
    """The XOR of the key's slots."""
    chosen, total = row(key, n, seed), 0
    for place, slot in enumerate(table):
        if chosen >> place & 1:
            total ^= int.from_bytes(slot, "little")
    return total.to_bytes(len(table[0]), "little")


def _store(given: dict) -> dict:
    seed, keys = data(given["seed"]), [data(key) for key in given["keys"]]
    values = [data(value) for value in given["values"]]
    table = encode(keys, values, seed, Stream(given["entropy"])(slots(len(keys)) * VALUE))
    return {
        "slots": slots(len(keys)),
        "places": [
            {"sparse": sparse, "dense": dense.to_bytes(8, "little").hex()}
            for sparse, dense in (places(key, len(keys), seed) for key in keys)
        ],
        "table": b"".join(table).hex(),
        "decoded": [decode(table, key, len(keys), seed).hex() for key in keys],
        "of another key": decode(table, data(given["another"]), len(keys), seed).hex(),
    }


def _wide(given: dict) -> dict:
    """Slots of 64 bytes, as the function by transfers has them."""
    seed, n, width = data(given["seed"]), given["keys"], given["width"]
    joined = data(f"shake256 {slots(n) * width} {given['table']}")
    table = [joined[i : i + width] for i in range(0, len(joined), width)]
    return {"decoded": [decode(table, data(key), n, seed).hex() for key in given["at"]]}


def _sizes(given: dict) -> dict:
    return {"slots": [slots(n) for n in given["keys"]]}


CASES = [
    (
        "store",
        {
            "seed": b"a seed".hex(),
            "keys": [f"shake256 16 key {i}" for i in range(5)],
            "values": [f"shake256 16 value {i}" for i in range(5)],
            "another": "shake256 16 another key",
            "entropy": "slots that stay free",
        },
    ),
    (
        "store",
        {
            "seed": "",
            "keys": ["00" * 32, "ff" * 32, "shake256 32 a wide key"],
            "values": ["ff" * 16, "00" * 16, "shake256 16 a value"],
            "another": "01" + "00" * 31,
            "entropy": "slots of wide keys",
        },
    ),
    (
        "wide slots",
        {
            "seed": b"a seed".hex(),
            "keys": 9,
            "width": 64,
            "table": "a table",
            "at": ["shake256 16 key 0", "shake256 16 key 1"],
        },
    ),
    ("sizes", {"keys": [0, 1, 2, 3, 30, 31, 1000, 20_000_000]}),
]
ANSWERS = {"store": _store, "wide slots": _wide, "sizes": _sizes}
