"""The mark by which a listener knows before any handshake that a pinned peer may be calling.

TLS 1.3 shows a client's certificate only at the end of a handshake, and anybody can begin one. So that
strangers who begin thousands cannot keep a peer out, a peer says in its first message who it is, in
words that only the two understand:

    1. Both know a key: the SHA-256 of both certificates' fingerprints, of who dials first.
    2. Who dials puts a mark into its ClientHello, as the name of an ALPN protocol that nobody selects:
       16 random bytes, and the first 16 of their HMAC-SHA-256 under the key.
    3. Who listens tries the keys of all its peers, and serves a mark once.

A mark is no proof: fingerprints are no secrets, though a stranger does not know that of a peer. It
decides who is served first, as `mac1` does in WireGuard (Donenfeld, NDSS 2017, section 5.3); who is
trusted is decided by TLS, for all callers alike. Without the key it looks random.

Over a relay a *seal* takes its place. Whoever begins a handshake is shown the listener's certificate,
which a relay has no business with. So there the HMAC-SHA-256 of the ClientHello stands before it, under
a key that nobody but the two can compute (rendezvous.py), and nothing is answered without.
"""

import hashlib
import hmac
import os
from collections.abc import Callable

NONCE = 16
LENGTH = 2 * (NONCE + 16)  # of a mark, in hex

SEAL = 32

MOST = 4096  # bytes of a first message; our own has some 350

_OF_BALANCERS = (b"PROXY ", b"\r\n\r\n\0\r\nQUIT\n")  # the PROXY protocol, version 1 and 2

_HANDSHAKE, _CLIENT_HELLO, _ALPN = 22, 1, 16  # RFC 8446, sections 5.1, 4 and 4.2


class NoHello(ValueError):
    """Bytes that do not begin a handshake of TLS."""


def key_of(dials: str, listens: str) -> bytes:
    """What both ends know, of their fingerprints in hex."""
    return hashlib.sha256(b"vfl mark\0" + bytes.fromhex(dials) + bytes.fromhex(listens)).digest()


def new_mark(key: bytes, entropy: Callable[[int], bytes] = os.urandom) -> str:
    """A fresh mark, in hex."""
    nonce = entropy(NONCE)
    return (nonce + _tag(key, nonce)).hex()


def is_made_with(mark: bytes, key: bytes) -> bool:
    """Whether a mark (as bytes) was made with the key."""
    return hmac.compare_digest(mark[NONCE:], _tag(key, mark[:NONCE]))


def _tag(key: bytes, nonce: bytes) -> bytes:
    return hmac.digest(key, nonce, "sha256")[:16]


def seal_of(key: bytes, hello: bytes) -> bytes:
    """The seal of a first message under the key of two parties that meet at a relay."""
    return hmac.digest(key, hello, "sha256")


def read_sealed(data: bytes, key: bytes) -> bytes | None:
    """The seal that `data` begins with, of the ClientHello behind it.

    None when more has to come. Raises NoHello when it is none, or not under this key.
    """
    seal, hello = data[:SEAL], data[SEAL:]
    if read_hello(hello) is None:
        return None
    if not hmac.compare_digest(seal, seal_of(key, hello)):
        raise NoHello("it is not the peer that this party meets there: the relay joined it with another")
    return seal


def read_hello(data: bytes) -> bytes | None:
    """The mark in the ClientHello that `data` begins with, empty when it has none.

    None when more of it has to come. Raises NoHello when it is none, or a longer one than parties
    send.
    """
    if data.startswith(_OF_BALANCERS):
        raise NoHello("it begins with the PROXY protocol: switch that off at the load balancer")
    header = bytes([_HANDSHAKE, 3])
    if not header.startswith(data[:2]) or data[5:6] not in (b"", bytes([_CLIENT_HELLO])):
        raise NoHello("it does not speak TLS 1.3")
    if len(data) < 9:
        return None
    record, message = int.from_bytes(data[3:5], "big"), int.from_bytes(data[6:9], "big")
    if record > MOST - 5 or message > record - 4:
        raise NoHello("its first message is longer than that of any party")
    return _mark_in(data[9 : 5 + record]) if len(data) >= 5 + record else None


def _mark_in(hello: bytes) -> bytes:
    """The mark among a ClientHello's extensions (RFC 8446, section 4.1.2; RFC 7301)."""
    at = 34
    for width in (1, 2, 1):  # session, cipher suites, compression
        at += width + _number(hello, at, width)
    end = at + 2 + _number(hello, at, 2)
    at += 2
    while at + 4 <= min(end, len(hello)):
        kind, size = _number(hello, at, 2), _number(hello, at + 2, 2)
        if kind == _ALPN:
            return _only_name(hello[at + 4 : at + 4 + size])
        at += 4 + size
    return b""


def _only_name(alpn: bytes) -> bytes:
    """The one protocol of a list of them, if it can be a mark."""
    if len(alpn) != LENGTH + 3 or _number(alpn, 0, 2) != LENGTH + 1 or alpn[2] != LENGTH:
        return b""
    try:
        mark = bytes.fromhex(alpn[3:].decode("ascii"))
    except ValueError:
        return b""
    return mark if len(mark) == LENGTH // 2 else b""  # there may have been spaces


def _number(data: bytes, at: int, width: int) -> int:
    return int.from_bytes(data[at : at + width], "big")
