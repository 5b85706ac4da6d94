"""Where two parties meet at a relay: ECDH on P-256 (SP 800-56A), HKDF (RFC 5869), Ed25519 (RFC 8032)."""

import hashlib
import hmac

from . import agreements, ristretto


def secret(private: int, other: int) -> bytes:
    """The x coordinate of one's private key times the other's public key, of its private key here."""
    point = agreements.times(agreements.times(agreements.G, other), private)
    assert point is not None
    return point[0].to_bytes(32, "big")


def keys(shared: bytes, dials: bytes, listens: bytes) -> tuple[bytes, bytes]:
    """HKDF-SHA-256 without a salt, 64 bytes: the seed of the place, the key of seals."""
    extracted = hmac.digest(bytes(32), shared, "sha256")
    info = b"vfl relay place" + dials + listens
    seed = hmac.digest(extracted, info + b"\1", "sha256")
    return seed, hmac.digest(extracted, seed + info + b"\2", "sha256")


def encode(point: ristretto.Point) -> bytes:
    """A point of edwards25519 (RFC 8032, section 5.1.2)."""
    x, y, z, _ = point
    inverse = pow(z, -1, ristretto.P)
    x, y = x * inverse % ristretto.P, y * inverse % ristretto.P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def expand(private: bytes) -> tuple[int, bytes]:
    """The scalar and the prefix (section 5.1.5)."""
    digest = hashlib.sha512(private).digest()
    scalar = int.from_bytes(digest[:32], "little") & (2**254 - 8) | 2**254
    return scalar, digest[32:]


def public(private: bytes) -> bytes:
    return encode(ristretto.base_times(expand(private)[0]))


def sign(private: bytes, message: bytes) -> bytes:
    """Section 5.1.6."""
    scalar, prefix = expand(private)
    drawn = int.from_bytes(hashlib.sha512(prefix + message).digest(), "little") % ristretto.ORDER
    first = encode(ristretto.base_times(drawn))
    hashed = hashlib.sha512(first + public(private) + message).digest()
    second = (drawn + int.from_bytes(hashed, "little") * scalar) % ristretto.ORDER
    return first + second.to_bytes(32, "little")


def request(private: bytes, challenge: bytes, seat: bytes, process: bytes) -> bytes:
    """What a party answers to a relay."""
    signed = b"vfl relay 1\n" + challenge + seat + public(private) + process
    return seat + public(private) + process + sign(private, signed)
