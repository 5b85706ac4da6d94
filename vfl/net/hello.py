"""The greeting: what both ends say first, before any job.

TLS has authenticated both ends by then. The greeting makes sure that they speak the same protocol
and that each sees the certificate the other holds, and binds all later frames to this session:

    1. Each sends a Hello with a fresh nonce.
    2. Each checks the other's protocol number and both fingerprints.
    3. Both bind their frames to both fingerprints and both nonces, in the same order.

When the connection breaks later, the end that dialled dials again and Resume takes the place of the
greeting (session.py).

Hello is the one message that parties of different versions exchange. Its fields never change their
meaning or type; later versions may only add some, which older ones pass over.
"""

import asyncio
import hashlib
import os
from collections.abc import Callable
from typing import Annotated, ClassVar

import msgspec

from vfl.errors import PeerError, PeerLost
from vfl.net.peer import Peer
from vfl.net.wire import KIB, Message
from vfl.version import __version__

PROTOCOL = 5
SECONDS = 10.0  # for the whole greeting

Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Count = Annotated[int, msgspec.Meta(ge=0, lt=2**62)]
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


class Resume(Message, frozen=True):
    """Either -> either: go on with an open session over this connection.

    Reveals: which session it is, how often this end has tried, and how many frames have arrived.
    """

    limit: ClassVar[int] = KIB

    key: Digest  # of the session: known to its two ends
    attempt: Count  # higher each time
    received: Count


class Resumed(Message, frozen=True):
    """Either -> either: the answer to Resume.

    Reveals: how many frames have arrived, or that there is no such session any more.
    """

    limit: ClassVar[int] = KIB

    received: Count | None  # None: no such session


def resume_key(session: bytes) -> bytes:
    """The key by which a session is resumed, 32 bytes, of the tag that both nonces went into."""
    return hashlib.sha256(b"vfl resume" + session).digest()


class OtherProtocol(PeerError):
    """The peer runs a version of vfl that speaks another protocol."""


async def greet(
    peer: Peer,
    *,
    own: bytes,
    other: bytes,
    role: str,
    answers: bool = False,
    entropy: Callable[[int], bytes] = os.urandom,
) -> Hello:
    """Exchange greetings; `own` and `other` are the SHA-256 of both certificates' DER.

    An end that `answers` greets second: when the other has its greeting, this one has both.

    Returns the peer's Hello. Raises OtherProtocol when it speaks another protocol (at both ends),
    PeerError when its greeting is none or is for another session, PeerLost when it is gone or
    silent for 10 s.
    """
    mine = Hello(PROTOCOL, __version__, role, entropy(32), own, other)
    try:
        async with asyncio.timeout(SECONDS):
            if not answers:
                await peer.send(mine)
            theirs = await peer.recv(Hello)
            if answers:
                await peer.send(mine)
    except TimeoutError:
        raise PeerLost(f"{peer.name} sent no greeting within {SECONDS:.0f} s") from None
    if theirs.protocol != PROTOCOL:
        here = f"protocol {PROTOCOL} (vfl {__version__})"
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
