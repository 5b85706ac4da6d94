"""Frames: messages as MessagePack, what binds a frame to its session, how a peer is known before."""

import hashlib
import hmac
import struct

from . import places
from .data import data


def packed(value: object) -> bytes:
    """MessagePack, each value in its shortest form; maps in the order of their fields."""
    if value is None or isinstance(value, bool):
        return {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[value]
    if isinstance(value, int):
        return _integer(value)
    if isinstance(value, float):
        return b"\xcb" + struct.pack(">d", value)
    if isinstance(value, str):
        return _sized(value.encode(), 0xA0, 31, 0xD9)
    if isinstance(value, bytes):
        return _sized(value, 0, -1, 0xC4)
    if isinstance(value, list):
        return _counted(len(value), 0x90, 0xDC) + b"".join(map(packed, value))
    assert isinstance(value, dict)
    pairs = b"".join(packed(key) + packed(one) for key, one in value.items())
    return _counted(len(value), 0x80, 0xDE) + pairs


def _integer(value: int) -> bytes:
    if -32 <= value < 128:
        return struct.pack("b" if value < 0 else "B", value)
    if value < 0:
        forms = ((0xD0, "b", 2**7), (0xD1, "h", 2**15), (0xD2, "i", 2**31), (0xD3, "q", 2**63))
        code, form, _ = next(one for one in forms if value >= -one[2])
    else:
        forms = ((0xCC, "B", 2**8), (0xCD, "H", 2**16), (0xCE, "I", 2**32), (0xCF, "Q", 2**64))
        code, form, _ = next(one for one in forms if value < one[2])
    return bytes([code]) + struct.pack(f">{form}", value)


def _sized(content: bytes, short: int, most: int, code: int) -> bytes:
    size = len(content)
    if size <= most:
        return bytes([short + size]) + content
    for i, form in enumerate("BHI"):
        if size < 2 ** (8 << i):
            return bytes([code + i]) + struct.pack(f">{form}", size) + content
    raise ValueError


def _counted(count: int, short: int, code: int) -> bytes:
    if count < 16:
        return bytes([short + count])
    return bytes([code]) + struct.pack(">H", count)


def value_of(given: object) -> object:
    """A field as it is; bytes are written as {"bytes": hex}."""
    if isinstance(given, dict) and list(given) == ["bytes"]:
        return data(given["bytes"])
    if isinstance(given, dict):
        return {key: value_of(one) for key, one in given.items()}
    return [value_of(one) for one in given] if isinstance(given, list) else given


def message(kind: str, fields: dict) -> bytes:
    return packed([kind, value_of(fields)])


def bound(session: bytes, parts: list[bytes]) -> bytes:
    """The tag of a session once it is bound to more."""
    digest = hashlib.sha256(b"vfl session" + session)
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()[:16]


def _message(given: dict) -> dict:
    return {"payload": message(given["kind"], given["fields"]).hex()}


def _frames(given: dict) -> dict:
    """A frame before and after each binding: the tag, the number in its direction, the message."""
    session, frames = bytes(16), []
    payload = message(given["kind"], given["fields"])
    for number in range(len(given["bindings"]) + 1):
        frames.append((session + number.to_bytes(8, "big") + payload).hex())
        if number < len(given["bindings"]):
            session = bound(session, [data(part) for part in given["bindings"][number]])
    return {"frames": frames}


def _greeting(given: dict) -> dict:
    """Both ends, certificate and nonce each, in the order of the certificates' hashes."""
    ends = sorted((data(end["certificate"]), data(end["nonce"])) for end in given["ends"])
    tag = bound(bytes(16), [b"vfl greeting", *ends[0], *ends[1]])
    return {"session": tag.hex(), "resume key": hashlib.sha256(b"vfl resume" + tag).hexdigest()}


def _mark(given: dict) -> dict:
    dials, listens, drawn = (data(given[name]) for name in ("dials", "listens", "nonce"))
    key = hashlib.sha256(b"vfl mark\0" + dials + listens).digest()
    return {"mark": (drawn + hmac.digest(key, drawn, "sha256")[:16]).hex()}


def _place(given: dict) -> dict:
    one, other = (int.from_bytes(data(private), "big") for private in given["private"])
    shared = places.secret(one, other)
    assert shared == places.secret(other, one)
    seed, seal = places.keys(shared, data(given["dials"]), data(given["listens"]))
    challenge, process = data(given["challenge"]), data(given["process"])
    return {
        "secret": shared.hex(),
        "place": places.public(seed).hex(),
        "dials": places.request(seed, challenge, b"d", process).hex(),
        "waits": places.request(seed, challenge, b"w", process).hex(),
        "seal": hmac.digest(seal, data(given["hello"]), "sha256").hex(),
    }


CASES = [
    ("message", {"kind": "BlindedIds", "fields": {"points": {"bytes": "shake256 64 two elements"}}}),
    ("message", {"kind": "AlignStart", "fields": {"hosts": ["registry", "bureau"], "ids": 20_000_000}}),
    (
        "message",
        {
            "kind": "AlignKeys",
            "fields": {
                "public_keys": [{"bytes": "shake256 32 a key"}, {"bytes": "shake256 32 another key"}],
                "signatures": [{"bytes": ""}, {"bytes": "shake256 70 a signature"}],
            },
        },
    ),
    (
        "message",
        {
            "kind": "Key",
            "fields": {
                "encryption": "paillier",
                "modulus": {"bytes": "shake256 256 a modulus"},
                "proof": {"bytes": ""},
            },
        },
    ),
    (
        "message",
        {"kind": "MaskedProducts", "fields": {"ciphertexts": {"bytes": "01"}, "seconds": 0.25}},
    ),
    (
        "message",
        {"kind": "HintOffered", "fields": {"known": True, "share": {"bytes": "02"}}},
    ),
    # Two kinds leave out a number that is 0, as parties wrote them before there was such a number.
    (
        "message",
        {
            "kind": "MissingDirections",
            "fields": {"same": {"bytes": "01000000"}, "left": {"bytes": "80"}},
        },
    ),
    (
        "frames",
        {
            "kind": "CommonRows",
            "fields": {"rows": 7},
            "bindings": [["shake256 32 a run"], ["", b"a job".hex()]],
        },
    ),
    (
        "greeting",
        {
            "ends": [
                {"certificate": "shake256 32 one certificate", "nonce": "shake256 32 one nonce"},
                {"certificate": "shake256 32 other certificate", "nonce": "shake256 32 other nonce"},
            ]
        },
    ),
    (
        "mark",
        {
            "dials": "shake256 32 one certificate",
            "listens": "shake256 32 other certificate",
            "nonce": "shake256 16 a nonce",
        },
    ),
    (
        "place",
        {
            "private": ["c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721", "05" * 32],
            "dials": "shake256 32 one certificate",
            "listens": "shake256 32 other certificate",
            "challenge": "shake256 32 a challenge",
            "process": "shake256 16 a process",
            "hello": "shake256 320 a first message",
        },
    ),
]
ANSWERS = {
    "message": _message,
    "frames": _frames,
    "greeting": _greeting,
    "mark": _mark,
    "place": _place,
}
