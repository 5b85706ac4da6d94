"""VOPRF(ristretto255, SHA-512) as RFC 9497 writes it, on one element at a time."""

import hashlib

from . import ristretto as group
from .data import data

ORDER, SIZE = group.ORDER, 32
CONTEXT = b"OPRFV1-" + bytes([1]) + b"-ristretto255-SHA512"  # section 3.1; 1 is the mode VOPRF


def sha512(value: bytes) -> bytes:
    return hashlib.sha512(value).digest()


def i2osp(number: int, size: int) -> bytes:
    return number.to_bytes(size, "big")


def sized(part: bytes) -> bytes:
    return i2osp(len(part), 2) + part


def expand_message_xmd(message: bytes, domain: bytes, size: int) -> bytes:
    """RFC 9380, section 5.3.1, with SHA-512."""
    blocks = -(-size // 64)
    tail = domain + i2osp(len(domain), 1)
    zeroth = sha512(bytes(128) + message + i2osp(size, 2) + i2osp(0, 1) + tail)
    made = [sha512(zeroth + i2osp(1, 1) + tail)]
    for number in range(2, blocks + 1):
        mixed = bytes(a ^ b for a, b in zip(zeroth, made[-1], strict=True))
        made.append(sha512(mixed + i2osp(number, 1) + tail))
    return b"".join(made)[:size]


def hash_to_group(value: bytes) -> group.Point:
    """Section 4.1; RFC 9380, appendix B."""
    return group.from_uniform(expand_message_xmd(value, b"HashToGroup-" + CONTEXT, 64))


def hash_to_scalar(value: bytes, domain: bytes = b"HashToScalar-" + CONTEXT) -> int:
    return int.from_bytes(expand_message_xmd(value, domain, 64), "little") % ORDER


def scalar_bytes(number: int) -> bytes:
    return (number % ORDER).to_bytes(SIZE, "little")


def derive_key(seed: bytes, info: bytes) -> int:
    """Section 3.2.1."""
    counter = 0
    while True:
        key = hash_to_scalar(seed + sized(info) + i2osp(counter, 1), b"DeriveKeyPair" + CONTEXT)
        if key:
            return key
        counter += 1


def composites(
    public: bytes, sources: list[bytes], results: list[bytes]
) -> tuple[group.Point, group.Point]:
    """Section 2.2.1, ComputeComposites."""
    seed = sha512(sized(public) + sized(b"Seed-" + CONTEXT))
    m = z = group.IDENTITY
    for number, (source, result) in enumerate(zip(sources, results, strict=True)):
        transcript = sized(seed) + i2osp(number, 2) + sized(source) + sized(result) + b"Composite"
        weight = hash_to_scalar(transcript)
        m = group.add(group.times(group.decode(source), weight), m)
        z = group.add(group.times(group.decode(result), weight), z)
    return m, z


def prove(key: int, public: bytes, sources: list[bytes], results: list[bytes], draw: int) -> bytes:
    """Section 2.2.1, GenerateProof."""
    m, z = composites(public, sources, results)
    elements = [m, z, group.times(group.base(), draw), group.times(m, draw)]
    transcript = sized(public) + b"".join(sized(group.encode(one)) for one in elements)
    challenge = hash_to_scalar(transcript + b"Challenge")
    return scalar_bytes(challenge) + scalar_bytes(draw - challenge * key)


def finalize(value: bytes, element: group.Point) -> bytes:
    """Section 3.3.1."""
    return sha512(sized(value) + sized(group.encode(element)) + b"Finalize")


def _protocol(given: dict) -> dict:
    key = derive_key(data(given["seed"]), data(given["info"]))
    public = group.encode(group.times(group.base(), key))
    inputs = [data(text) for text in given["inputs"]]
    blinds = [int.from_bytes(data(text), "little") for text in given["blinds"]]
    hashed = [hash_to_group(value) for value in inputs]
    blinded = [group.encode(group.times(one, blind)) for one, blind in zip(hashed, blinds, strict=True)]
    evaluated = [group.encode(group.times(group.decode(one), key)) for one in blinded]
    draw = int.from_bytes(data(given["draw"]), "little")
    outputs = [finalize(value, group.times(one, key)) for value, one in zip(inputs, hashed, strict=True)]
    return {
        "secret": scalar_bytes(key).hex(),
        "public": public.hex(),
        "blinded": [one.hex() for one in blinded],
        "evaluated": [one.hex() for one in evaluated],
        "proof": prove(key, public, blinded, evaluated, draw).hex(),
        "outputs": [one.hex() for one in outputs],
    }


def blake2b(person: bytes, content: bytes, size: int, key: bytes = b"") -> bytes:
    return hashlib.blake2b(content, digest_size=size, person=person, key=key).digest()


def _entry(given: dict) -> dict:
    """A directory's entry of an output."""
    names = [given[name].encode() for name in ("model", "host", "guest")]
    context = blake2b(b"vfl directory", b"".join(map(sized, (*names, data(given["public"])))), 16)
    salt, text, handles = (
        data(given["salt"]),
        data(given["text"]),
        [data(one) for one in given["handles"]],
    )
    joined = b"".join(sorted(handles))
    which = {
        "alone": b"",
        "hint 3": b"h" + i2osp(3, 2),
        "locked": b"l" + blake2b(b"vfl dir lock", joined, 16),
    }
    found = {}
    for name, mark in which.items():
        both = blake2b(b"vfl lookup", context + mark + data(given["output"]), 64)
        tag, seed = both[:12], both[32:]
        pad = b"".join(
            blake2b(b"vfl lookup pad", i2osp(number, 1) + salt + seed, 64)
            for number in range(-(-len(text) // 64))
        )
        found[name] = (tag + bytes(x ^ y for x, y in zip(text, pad, strict=False))).hex()
    part = "".join(found.values())
    return {
        "context": context.hex(),
        "entries": found,
        "hints": [blake2b(b"vfl dir hint", handle, 12).hex() for handle in handles],
        "digest": blake2b(b"vfl dir part", data(part), 32).hex(),
    }


def _input(given: dict) -> dict:
    """What the function is asked for of an id by the key of a number."""
    found = []
    for text in given["ids"]:
        value = data(text)
        long = len(value) > 1024
        found.append(
            (i2osp(given["key"] | 128, 1) + sha512(value)) if long else i2osp(given["key"], 1) + value
        )
    return {"inputs": [one.hex() for one in found]}


_BLINDS = [
    "64d37aed22a27f5191de1c1d69fadb899d8862b58eb4220029e036ec4c1f6706",
    "222a5e897cf59db8145db8d16e597e8facb80ae7d4e26d9881aa6f61d645fc0e",
]
_KEY = {"seed": "a3" * 32, "info": b"test key".hex()}
_DRAW = "419c4f4f5052c53c45f3da494d2b67b220d02118e0857cdbcf037f9ea84bbe0c"

CASES = [
    # RFC 9497, A.1.2.1 to A.1.2.3.
    ("voprf", {**_KEY, "inputs": ["00"], "blinds": _BLINDS[:1], "draw": _BLINDS[1]}),
    ("voprf", {**_KEY, "inputs": ["5a" * 17], "blinds": _BLINDS[:1], "draw": _BLINDS[1]}),
    ("voprf", {**_KEY, "inputs": ["00", "5a" * 17], "blinds": _BLINDS, "draw": _DRAW}),
    (
        "voprf",
        {
            "seed": "shake256 32 a directory",
            "info": "",
            "inputs": ["", "shake256 300 a long id", b"AB-123".hex(), b"AB-123".hex()],
            "blinds": [*_BLINDS, _DRAW, "01" + "00" * 31],
            "draw": "02" + "00" * 31,
        },
    ),
]
CASES += [
    (
        "entry",
        {
            "model": "claims-20261129-120000-abcdef",
            "host": "registry",
            "guest": "insurer",
            "public": "c803e2cc6b05fc15064549b5920659ca4a77b2cca6f04f6b357009335476ad4e",
            "output": "shake256 64 an output",
            "salt": "shake256 8 a salt",
            "text": "shake256 70 a part",
            "handles": ["shake256 12 a row", "shake256 12 another row"],
        },
    ),
    ("input", {"key": 1, "ids": ["", b"AB-123".hex(), "shake256 1024 an id", "shake256 1025 an id"]}),
]
ANSWERS = {"voprf": _protocol, "entry": _entry, "input": _input}
