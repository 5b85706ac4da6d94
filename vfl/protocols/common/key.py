"""The key of a job: made and held by one party, its public half sent to those who compute under it.

They hide what they computed from the key's owner by multiplying with n-th powers. An owner could make a
modulus under which these hide little or nothing, and read from a sum which ciphertexts went into it. So
with the key goes a proof that n shares no factor with the number of its units. It does not prove
that n has two prime factors of the right form: docs/security.md says what that leaves.
"""

import asyncio
from collections.abc import Sequence
from typing import ClassVar, Literal, Protocol

from vfl.crypto.paillier import PrivateKey, PublicKey
from vfl.crypto.randomness import Stream
from vfl.net.peer import Peer, together
from vfl.net.wire import KIB, Message

_SCHEME = "paillier"


class Key(Message, frozen=True):
    """owner -> others. Reveals: nothing but a public key made for this job, and a proof about its
    modulus."""

    encryption: str  # "paillier"
    modulus: bytes
    proof: bytes = b""  # n-th roots, each as wide as the modulus
    limit: ClassVar[int] = 8 * KIB


class KeyParams(Protocol):
    """What the settings of every model say about its key."""

    @property
    def key_bits(self) -> int: ...
    @property
    def obfuscators(self) -> Literal["short", "full"]: ...


def generate_key(params: KeyParams, drawn: Stream) -> PrivateKey:
    """A key for one job, of these random numbers alone. Takes a second or more."""
    return PrivateKey.generate(params.key_bits, drawn.bits, params.obfuscators == "full")


async def send_key(peers: Sequence[Peer], key: PrivateKey) -> None:
    """Send the public key to all."""
    public = key.public
    proof = await asyncio.to_thread(key.proof)
    message = Key(_SCHEME, int(public.n).to_bytes(public.bits // 8, "big"), proof)
    await together([peer.send(message) for peer in peers])


async def receive_key(owner: Peer, params: KeyParams, drawn: Stream) -> PublicKey:
    """The owner's public key; `drawn`: for the base of `PublicKey.conceal`. Raises PeerError when it is
    not what the job says."""
    message = await owner.recv(Key)
    if message.encryption != _SCHEME:
        raise owner.breach(f"a Key of another scheme than {_SCHEME}")
    try:
        key = PublicKey(int.from_bytes(message.modulus, "big"), drawn.bits)
    except ValueError as error:
        raise owner.breach(f"a Key with {error}") from None
    if key.bits != params.key_bits:
        raise owner.breach(f"a Key of {key.bits} bits where the job says {params.key_bits}")
    try:
        await asyncio.to_thread(key.check_proof, message.proof)
    except ValueError as error:
        raise owner.breach(f"a Key with {error}") from None
    return key
