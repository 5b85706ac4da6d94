"""A session of two hosts through the guest, which passes on what it cannot read.

Hosts have no connection of their own. Frames are sealed (ChaCha20-Poly1305) under a key of the secret
that both share (common/fellows.py), one for each way and conversation, and numbered, so that the guest
can neither read nor change them, nor leave one out unnoticed.
"""

from typing import ClassVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from vfl.net.peer import Peer, together
from vfl.net.wire import MAX_MESSAGE, Message, Octets
from vfl.protocols.common.fellows import keyed_hash


class Relayed(Message, frozen=True):
    """Either -> either, of one host to another through the guest. Reveals: nothing to the guest; a
    message of this section, sealed for the other host."""

    data: bytes
    last: bool = False  # nothing more comes in this conversation
    limit: ClassVar[int] = MAX_MESSAGE


class RelayedPeer(Peer):
    """The other host."""

    def __init__(self, guest: Peer, own: str, name: str, secret: bytes, conversation: str) -> None:
        """`conversation`: what it is about, a name of its own for each with the same host."""
        super().__init__(name)
        self._guest = guest

        def key(sender: str) -> ChaCha20Poly1305:
            parts = secret, conversation.encode(), sender.encode()
            return ChaCha20Poly1305(keyed_hash(b"vfl relayed", *parts).digest())

        self._seal, self._open = key(own), key(name)
        self._put_count = self._got_count = 0

    async def _put(self, frame: Octets) -> None:
        nonce = self._put_count.to_bytes(12, "big")
        self._put_count += 1
        await self._guest.send(Relayed(self._seal.encrypt(nonce, frame, None)))

    async def _get(self) -> bytes:
        message = await self._guest.recv(Relayed)
        nonce = self._got_count.to_bytes(12, "big")
        self._got_count += 1
        try:
            return self._open.decrypt(nonce, message.data, None)
        except InvalidTag:
            raise self._guest.breach(f"Relayed that {self.name} did not seal") from None

    async def close(self) -> None:
        """Say that nothing more comes, and wait until the other host has said so."""
        await self._guest.send(Relayed(b"", last=True))
        if not (await self._guest.recv(Relayed)).last:
            raise self._guest.breach(f"Relayed of {self.name} beyond the end")


async def relay(one: Peer, other: Peer) -> None:
    """The guest's part: pass a conversation on, to its end."""

    async def pump(sender: Peer, receiver: Peer) -> None:
        while True:
            message = await sender.recv(Relayed)
            await receiver.send(message)
            if message.last:
                return

    await together([pump(one, other), pump(other, one)])
