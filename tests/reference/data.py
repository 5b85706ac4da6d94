"""How the files write bytes: in hex, or as the output of SHAKE-256 on a text where any would do."""

import hashlib

VERSION = 1


def data(text: str) -> bytes:
    """The bytes of a value: hex, or `shake256 LENGTH TEXT`."""
    if text.startswith("shake256 "):
        _, length, label = text.split(" ", 2)
        return hashlib.shake_256(label.encode()).digest(int(length))
    return bytes.fromhex(text)


class Stream:
    """Random bytes, drawn one after the other from the output of SHAKE-256 on a text."""

    def __init__(self, label: str) -> None:
        self._label = label.encode()
        self._at = 0

    def __call__(self, count: int) -> bytes:
        self._at += count
        return hashlib.shake_256(self._label).digest(self._at)[self._at - count :]


def sha256(value: bytes) -> str:
    """What stands for long bytes."""
    return hashlib.sha256(value).hexdigest()


def keyed_hash(domain: bytes, *parts: bytes) -> bytes:
    """BLAKE2b of 32 bytes with `domain` as its personalisation, over parts with their lengths."""
    digest = hashlib.blake2b(digest_size=32, person=domain)
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()


def xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))
