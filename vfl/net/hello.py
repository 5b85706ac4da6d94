"""The greeting: what both ends say first, before any job.

TLS has authenticated both ends by then. The greeting makes sure that they speak the same protocol
and that each sees the certificate the other holds, and binds all later frames to this session:

    1. Each sends a Hello with a fresh nonce.
    2. Each checks the other's protocol number and both fingerprints.
    3. Both bind their frames to both fingerprints and both nonces, in the same order.

Hello is the one message that parties of different versions exchange. Its fields never change their
meaning or type; later versions may only add some, which older ones pass over.
"""

import asyncio
import os
from collections.abc import Callable
from typing import Annotated, ClassVar

import msgspec

import vfl
from vfl.errors import PeerError, PeerLost
from vfl.net.peer import Peer
from vfl.net.wire import KIB, Message

PROTOCOL = 1
SECONDS = 10.0  # for the whole greeting

Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Word = Annotated[str, msgspec.Meta(min_length=1, max_length=32, pattern=r"^[!-~]+\Z")]


class Hello(Message, frozen=True, forbid_unknown_fields=False):
    """Either -> either: who speaks, in which version.

    Reveals: the version of vfl, the party's role, the certificates that TLS has shown already.
    """

    limit: ClassVar[int] = KIB

    protocol: int
    version: Word
    role: Word
    nonce: Digest
    fingerprint: Digest  # SHA-256 of the sender's own certificate
    seen: Digest  # and of the one that TLS showed it for the receiver


class OtherProtocol(PeerError):
    """The peer runs a version of vfl that speaks another protocol."""


async def greet(
    peer: Peer,
    *,
    own: bytes,
    other: bytes,
    role: str,
    entropy: Callable[[int], bytes] = os.urandom,
) -> Hello:
    """Exchange greetings; `own` and `other` are the SHA-256 of both certificates' DER.

    Returns the peer's Hello. Raises OtherProtocol when it speaks another protocol (at both ends),
    PeerError when its greeting is none or is for another session, PeerLost when it is gone or
    silent for 10 s.
    """
    mine = Hello(PROTOCOL, vfl.__version__, role, entropy(32), own, other)
    try:
        async with asyncio.timeout(SECONDS):
            await peer.send(mine)
            theirs = await peer.recv(Hello)
    except TimeoutError:
        raise PeerLost(f"{peer.name} sent no greeting within {SECONDS:.0f} s") from None
    if theirs.protocol != PROTOCOL:
        here = f"protocol {PROTOCOL} (vfl {vfl.__version__})"
        there = f"protocol {theirs.protocol} (vfl {theirs.version})"
        raise OtherProtocol(
            f"{peer.name} runs {there}, this party {here}: update the older one",
            for_peer=f"two parties run different versions, {here} and {there}",
        )
    if theirs.fingerprint != other or theirs.seen != own:
        # A frame of another session, or one of our own sent back.
        raise peer.breach("a Hello for other certificates than this session's")
    first, second = sorted([(own, mine.nonce), (other, theirs.nonce)])
    peer.bind(b"vfl greeting", *first, *second)
    return theirs
