"""Transfers by rows: of each row the guest knows what a host computes for one message alone, its own.

The base transfers of `vfl.crypto.base_ot`, which the host chooses by a secret s, and their extension
over the guest's messages with its check (`vfl.crypto.ot_extension`). Of row i with message d_i the guest
keeps r_i, and the host has q_i = r_i + s & C(d_i). So for whatever message m the host computes
q_i + s & C(m), which is r_i where m is d_i; where it is not, the guest lacks the bits of s where a word
of C is 1: 128 or more. Hashed, it is a key of (i, m), of which the guest has one a row, and the host
does not know which.

`entropy` is of one meeting alone: with the same secret s, or the same masking rows, one could be opened
by another.
"""

import asyncio
from hashlib import sha256
from typing import ClassVar

import numpy as np

from vfl.arrays import Bytes
from vfl.crypto import base_ot, group
from vfl.crypto.linear_code import LENGTH
from vfl.crypto.ot_extension import SUMS, Chooser, Inconsistent, Keeper, column_bytes
from vfl.crypto.randomness import Entropy
from vfl.net.peer import Peer
from vfl.net.wire import KIB, Message

BLOCK = 65536  # rows a message


class TransferKeys(Message, frozen=True):
    """guest -> host, an element for each base transfer. Reveals: nothing; they are random."""

    points: bytes


class TransferChoices(Message, frozen=True):
    """host -> guest, two elements for each base transfer. Reveals: nothing; they are random."""

    points: bytes


class ExtensionColumns(Message, frozen=True):
    """guest -> host, a bit of 468 for each row, by columns. Reveals: nothing; they look random.

    The sums beside them show that they are what they should be, and nothing else.
    """

    limit: ClassVar[int] = LENGTH * column_bytes(BLOCK) + SUMS + KIB
    columns: bytes
    sums: bytes


class GuestTransfers:
    """The guest's role, with one host."""

    def __init__(self, host: Peer, chooser: Chooser) -> None:
        self._host, self._chooser = host, chooser

    @classmethod
    async def meet(cls, host: Peer, bound: bytes, entropy: Entropy) -> "GuestTransfers":
        """The base transfers. bound: what the run is bound to. Raises PeerError."""
        sender = await asyncio.to_thread(base_ot.Sender, LENGTH, bound, entropy)
        await host.send(TransferKeys(sender.points.tobytes()))
        choices = (await host.recv(TransferChoices)).points
        elements = elements_in(host, TransferChoices, choices, 2 * LENGTH)
        try:
            keys = await asyncio.to_thread(sender.keys, elements.reshape(LENGTH, 2, group.POINT))
        except group.InvalidPoint:
            raise host.breach("TransferChoices with an invalid element") from None
        seen = transcript(bound, sender.points.tobytes(), choices)
        return cls(host, Chooser(keys, seen, entropy))

    async def extend(self, messages: Bytes) -> Bytes:
        """r_i (n, 64) of the next messages (n, 16), BLOCK at most, of which 76 bits count."""
        rows, columns, sums = await asyncio.to_thread(self._chooser.extend, messages)
        await self._host.send(ExtensionColumns(columns, sums))
        return rows


class HostTransfers:
    """A host's role."""

    def __init__(self, guest: Peer, keeper: Keeper) -> None:
        self._guest, self.keeper = guest, keeper

    @classmethod
    async def meet(cls, guest: Peer, bound: bytes, entropy: Entropy) -> "HostTransfers":
        """The base transfers, whose keys the host chooses by its secret. Raises PeerError."""
        chosen = np.unpackbits(np.frombuffer(entropy(-(-LENGTH // 8)), np.uint8))[:LENGTH]
        points = (await guest.recv(TransferKeys)).points
        elements = elements_in(guest, TransferKeys, points, LENGTH)
        receiver = await asyncio.to_thread(base_ot.Receiver, chosen.tolist(), bound, entropy)
        try:
            keys = await asyncio.to_thread(receiver.keys, elements)
        except group.InvalidPoint:
            raise guest.breach("TransferKeys with an invalid element") from None
        choices = receiver.points.tobytes()
        await guest.send(TransferChoices(choices))
        return cls(guest, Keeper(chosen, keys, transcript(bound, points, choices)))

    async def extend(self, rows: int) -> Bytes:
        """q_i (n, 64) of the next so many rows, BLOCK at most. Raises PeerError."""
        guest = self._guest
        message = await guest.recv(ExtensionColumns)
        if len(message.columns) != LENGTH * column_bytes(rows) or len(message.sums) != SUMS:
            raise guest.breach("ExtensionColumns with another number of rows than announced")
        try:
            return await asyncio.to_thread(self.keeper.extend, rows, message.columns, message.sums)
        except Inconsistent:
            raise guest.breach("ExtensionColumns that fail the check") from None


def transcript(bound: bytes, points: bytes, choices: bytes) -> bytes:
    """All that both sides have seen before the extension, hashed."""
    return sha256(bound + points + choices).digest()


def elements_in(peer: Peer, kind: type[Message], points: bytes, count: int) -> Bytes:
    """The elements of a message, a row each. Raises PeerError for another number of them or one that
    comes twice: all are made of fresh random numbers."""
    if len(points) != count * group.POINT:
        raise peer.breach(f"{kind.__name__} with another number of elements than due")
    elements = np.frombuffer(points, np.uint8).reshape(count, group.POINT)
    if repeats(elements):
        raise peer.breach(f"{kind.__name__} with an element twice")
    return elements


def repeats(rows: Bytes) -> bool:
    """Whether any two rows of 32 bytes are equal."""
    words = rows.view(np.uint64)
    first = np.sort(words[:, 0])
    suspect = np.unique(first[1:][first[1:] == first[:-1]])
    # Equal in their first eight bytes: as a rule none.
    some = words[np.isin(words[:, 0], suspect)]
    return len(np.unique(some, axis=0)) < len(some)
