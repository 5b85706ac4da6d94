"""Alignment: the function by exponents, shares of zero, the common order, tags of match rates."""

import hashlib

from . import ristretto
from .data import Stream, data, keyed_hash, xor


def output(context: bytes, element: bytes, value: bytes) -> bytes:
    """F: of H(x)^b and x."""
    digest = hashlib.blake2b(digest_size=32, person=b"vfl psi output")
    digest.update(len(context).to_bytes(8, "big") + context + element + value)
    return digest.digest()


def order(drawn: bytes) -> list[int]:
    """Rows sorted by eight random bytes each, little-endian; of equal ones the first first."""
    numbers = [int.from_bytes(drawn[i : i + 8], "little") for i in range(0, len(drawn), 8)]
    return sorted(range(len(numbers)), key=numbers.__getitem__)


def _by_exponents(given: dict) -> dict:
    context = data(given["context"])
    guest, host = Stream(given["guest entropy"]), Stream(given["host entropy"])
    asked, own = ([value.encode() for value in given[side]] for side in ("asked", "own"))
    a = ristretto.scalar_of(guest(64))
    shuffled = order(guest(8 * len(asked)))
    b = ristretto.scalar_of(host(64))
    blinded = [ristretto.times(ristretto.hashed(context, asked[row]), a) for row in shuffled]
    evaluated = [ristretto.times(point, b) for point in blinded]

    def function(value: bytes) -> bytes:
        element = ristretto.encode(ristretto.times(ristretto.hashed(context, value), b))
        return output(context, element, value)

    return {
        "BlindedIds": b"".join(map(ristretto.encode, blinded)).hex(),
        "EvaluatedIds": b"".join(map(ristretto.encode, evaluated)).hex(),
        "asked": [function(value).hex() for value in asked],
        "own": [function(value).hex() for value in own],
    }


def _shares(given: dict) -> dict:
    shares = []
    for value in given["ids"]:
        share = bytes(16)
        for key in given["keys"]:
            digest = hashlib.blake2b(
                value.encode(), digest_size=16, key=data(key), person=b"vfl psi share"
            )
            share = xor(share, digest.digest())
        shares.append(share.hex())
    return {"shares": shares}


def _store_seed(given: dict) -> dict:
    return {"seed": keyed_hash(b"vfl psi store", data(given["context"]), given["host"].encode()).hex()}


def _order(given: dict) -> dict:
    """Rows by a hash, eight bytes little-endian, of the outputs of all hosts."""
    ranks = []
    for row in range(given["rows"]):
        joined = b"".join(data(f"shake256 32 {host} {row}") for host in given["hosts"])
        digest = hashlib.blake2b(joined, digest_size=8, person=b"vfl psi order").digest()
        ranks.append(int.from_bytes(digest, "little"))
    return {"rows": sorted(range(given["rows"]), key=ranks.__getitem__)}


def _bits(given: dict) -> dict:
    """The first row is the highest bit of the first byte."""
    filled = given["mask"] + [0] * (-len(given["mask"]) % 8)
    groups = [filled[i : i + 8] for i in range(0, len(filled), 8)]
    return {"bytes": bytes(int("".join(map(str, group)), 2) for group in groups).hex()}


CASES = [
    (
        "by exponents",
        {
            "context": "shake256 32 an alignment",
            "asked": ["AB-123", "CD-456", "EF-789", ""],
            "own": ["CD-456", "XY-000"],
            "guest entropy": "entropy of the guest",
            "host entropy": "entropy of the host",
        },
    ),
    (
        "shares of zero",
        {"keys": ["shake256 32 with bureau", "shake256 32 with club"], "ids": ["AB-123", "", "CD-456"]},
    ),
    ("seed of a store", {"context": "shake256 32 an alignment", "host": "registry"}),
    ("bits of rows", {"mask": [1, 0, 1, 1, 0, 0, 0, 0, 0, 1, 1]}),
    ("common order", {"rows": 7, "hosts": ["registry", "bureau"]}),
]
ANSWERS = {
    "by exponents": _by_exponents,
    "shares of zero": _shares,
    "seed of a store": _store_seed,
    "common order": _order,
    "bits of rows": _bits,
}
