"""Secrets that each pair of hosts shares, although hosts speak to the guest only.

Each host gives a fresh X25519 public key, signed by its identity if the caller can sign; the guest
relays the keys. Without signatures a guest that does not follow the protocol can sit in between. The
signature covers the run's context, the names of all hosts and of the signer.

With such secrets hosts hide what they send behind masks that cancel in the sum of all: the guest learns
the sum and nothing else (Bonawitz et al., CCS 2017, section 4, without drop-outs). They are drawn from
what all have heard so far, too (transcript.py): a guest that asks some hosts for something else than
others, so that one host's part is all that is left of the sum, gets numbers that are uniform.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from numpy.typing import NDArray

from vfl.net.peer import Peer, together
from vfl.net.wire import KIB, MIB, Message
from vfl.protocols.common.participant import Participant
from vfl.protocols.common.transcript import Transcript


class FellowKey(Message, frozen=True):
    """host -> guest. Reveals: nothing; the key is fresh and its signature public."""

    public_key: bytes
    signature: bytes  # empty when the host was given nothing to sign with


class FellowKeys(Message, frozen=True):
    """guest -> host, the keys of all hosts. Reveals: nothing; each is fresh, each signature public."""

    public_keys: list[bytes]
    signatures: list[bytes]
    limit: ClassVar[int] = MIB


async def relay_keys(hosts: Sequence[Peer]) -> None:
    """The guest's part: pass the hosts' keys on. With one host there is nothing to do."""
    if len(hosts) < 2:
        return
    keys = await together([host.recv(FellowKey) for host in hosts])
    for host, key in zip(hosts, keys, strict=True):
        if len(key.public_key) != 32 or len(key.signature) > 8 * KIB:
            raise host.breach("FellowKey with a key or signature of the wrong size")
    message = FellowKeys([key.public_key for key in keys], [key.signature for key in keys])
    await together([host.send(message) for host in hosts])


async def exchange_keys(guest: Peer, own: Participant) -> dict[str, bytes]:
    """A host's part: a secret of 32 bytes with each other host, by name."""
    if own.name not in own.hosts:
        raise ValueError("the names of all hosts are needed")
    if len(own.hosts) < 2:
        return {}
    drawn = own.resources.randomness.at("key for the other hosts", guest.name)
    private = X25519PrivateKey.from_private_bytes(drawn(32))
    public = private.public_key().public_bytes_raw()
    await guest.send(FellowKey(public, signature(own, public)))
    keys = await guest.recv(FellowKeys)
    try:
        return secrets_with_fellows(private, keys.public_keys, keys.signatures, own)
    except ValueError as error:
        raise guest.breach(f"FellowKeys with {error}") from None


class Masks:
    """Masks that cancel in the sum over all who share secrets and have heard the same; each call gives
    fresh ones."""

    def __init__(
        self,
        name: str,
        secrets_with: Mapping[str, bytes],
        heard: Transcript,
        domain: bytes = b"vfl masks",
    ) -> None:
        """`secrets_with`: this party's secret with each other one. `heard`: what all of them hear alike.
        `domain`: what the masks are for, of 16 bytes at most, where the same secrets serve for several
        things."""
        self._name, self._secrets, self._domain = name, dict(secrets_with), domain
        self._heard = heard
        self._drawn = 0

    def draw(self, count: int) -> NDArray[np.uint64]:
        """Masks modulo 2^64, shape (count,); all parties draw the same in the same order."""
        total = np.zeros(count, np.uint64)
        for adds, stream in self._streams(8 * count):
            mask = np.frombuffer(stream, "<u8")
            total = total + mask if adds else total - mask
        return total

    def integers(self, count: int, width: int) -> list[int]:
        """`count` masks modulo 2^(8 width)."""
        totals, modulus = [0] * count, 1 << 8 * width
        for adds, stream in self._streams(width * count):
            for k in range(count):
                mask = int.from_bytes(stream[k * width : (k + 1) * width], "little")
                totals[k] = (totals[k] + mask if adds else totals[k] - mask) % modulus
        return totals

    def _streams(self, size: int) -> Iterator[tuple[bool, bytes]]:
        """With each other party: whether this one adds, and what."""
        nonce, heard = self._drawn.to_bytes(16, "big"), self._heard.digest
        self._drawn += 1
        for fellow, secret in self._secrets.items():
            # A key of its own for every draw: no keystream is ever used twice.
            key = keyed_hash(self._domain, secret, nonce, heard).digest()
            stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()
            yield self._name < fellow, stream.update(bytes(size))


def secrets_with_fellows(
    private: X25519PrivateKey,
    public_keys: Sequence[bytes],
    signatures: Sequence[bytes],
    own: Participant,
) -> dict[str, bytes]:
    """A secret with each other host, 32 bytes, the same at both ends.

    Raises ValueError, in words fit for an error about the message, for keys that cannot be.
    """
    hosts, name = own.hosts, own.name
    if not len(public_keys) == len(signatures) == len(hosts):
        raise ValueError("another number of keys than hosts")
    public = private.public_key().public_bytes_raw()
    if public_keys[hosts.index(name)] != public:
        raise ValueError("another key than this host's own")
    shared_with = {}
    for host, theirs, theirs_signed in zip(hosts, public_keys, signatures, strict=True):
        if host == name:
            continue
        try:
            shared_with[host] = secret_with(private, host, theirs, theirs_signed, own)
        except ValueError:
            raise ValueError("an invalid key or signature of a host") from None
    return shared_with


def secret_with(
    private: X25519PrivateKey, fellow: str, theirs: bytes, signed: bytes, own: Participant
) -> bytes:
    """The secret with one other party of `own.hosts`, 32 bytes, the same at both ends.

    Raises ValueError for a key or signature that cannot be, what `own.verify` raises of errors.
    """
    try:
        if own.verify:
            own.verify(fellow, signed, key_statement(own.context, own.hosts, fellow, theirs))
        shared = private.exchange(X25519PublicKey.from_public_bytes(theirs))
    except (ValueError, InvalidSignature):
        raise ValueError("an invalid key or signature") from None
    public = private.public_key().public_bytes_raw()
    ends = sorted([(own.name.encode(), public), (fellow.encode(), theirs)])
    parts = [part for end in ends for part in end]
    return keyed_hash(b"vfl host pair", own.context, shared, *parts).digest()


def signature(own: Participant, public: bytes) -> bytes:
    """A host's signature of its fresh key; empty where it was given nothing to sign with."""
    if own.sign is None:
        return b""
    return own.sign(key_statement(own.context, own.hosts, own.name, public))


def key_statement(context: bytes, hosts: Sequence[str], name: str, public: bytes) -> bytes:
    """What a host signs: its fresh key, in this run, with these hosts."""
    parts = (context, name.encode(), public, *(host.encode() for host in hosts))
    return b"vfl host key\0" + keyed_hash(b"vfl host key", *parts).digest()


def keyed_hash(domain: bytes, *parts: bytes) -> "hashlib.blake2b":
    """blake2b of 32 bytes in a domain, after `parts` with their lengths."""
    digest = hashlib.blake2b(digest_size=32, person=domain)
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest
