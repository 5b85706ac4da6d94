"""Words of rows by level, of which the guest reads that of its own level: 1-of-n oblivious transfer.

The host has a word of each row and level, the guest knows each row's level; levels are 0 to n. By the
transfers of transfers.py either side has, of a row i and any number of times, pads: pad(i, a) is a hash
of the row's transfer for level a and of how many were drawn before, so that none serves twice. The host
knows all of them, the guest pad(i, a) of its own level a alone.

The host sends of each row a word w, which the guest is to read with that of its level, as w + pad(i, 0),
and of each level a above 0 the word v(i, a) as v(i, a) - pad(i, 0) + pad(i, a), all modulo 2^64. Of a
row at level a the guest adds both and takes pad(i, a) off, which leaves w + v(i, a), or w at level 0;
all else that it is sent is uniform to it. The host learns nothing: no choice travels but in the
transfers, behind columns that look random whatever the host does.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Bytes, Integers, Words
from vfl.crypto.digests import digests
from vfl.crypto.linear_code import MESSAGE
from vfl.crypto.linear_code import WORD as ROW
from vfl.crypto.randomness import Entropy
from vfl.net.peer import Peer
from vfl.net.wire import KIB, Message
from vfl.protocols.common.transfers import BLOCK, GuestTransfers, HostTransfers

MOST_LEVELS = 500
"""Beside level 0: words are sent of each."""

_AT_ONCE = 1 << 18  # rows whose pads are made at a time
_WORDS = 1 << 20  # of a message at most


class LevelWords(Message, frozen=True):
    """host -> guest, level by level. Reveals: by the guest's key of a row, how the row's own level adds
    to what the host has sent of the row; of other levels nothing, they look random."""

    words: bytes  # uint64 little-endian, one a row
    limit: ClassVar[int] = 8 * _WORDS + KIB


@dataclass(frozen=True)
class Chosen:
    """Rows of which the guest has chosen."""

    codes: NDArray[np.uint16]  # their levels
    rows: Bytes  # of transfers


class ChosenWords:
    """The guest's side, with one host."""

    def __init__(self, host: Peer, levels: int, bound: bytes, transfers: GuestTransfers) -> None:
        self._host, self._levels, self._key, self._transfers = host, levels, bound, transfers
        self._drawn = 0

    @classmethod
    async def meet(cls, host: Peer, levels: int, bound: bytes, entropy: Entropy) -> "ChosenWords":
        """Begin. bound: what the run is bound to, of 64 bytes at most. Raises PeerError."""
        return cls(host, levels, bound, await GuestTransfers.meet(host, bound, entropy))

    async def choose(self, codes: NDArray[np.uint16]) -> Chosen:
        """Choose for rows at these levels."""
        rows = np.empty((len(codes), ROW), np.uint8)
        for first in range(0, len(codes), BLOCK):
            some = slice(first, first + BLOCK)
            rows[some] = await self._transfers.extend(_messages(codes[some]))
        return Chosen(codes, rows)

    async def receive(self, chosen: Chosen, places: Integers) -> Words:
        """What is to be added to the words of some of these rows, by their places. Raises PeerError."""
        codes, added = chosen.codes[places], np.zeros(len(places), np.uint64)
        for level in range(1, self._levels + 1):
            for first in range(0, len(places), _WORDS):
                message = await self._host.recv(LevelWords)
                part, own = added[first : first + _WORDS], codes[first : first + _WORDS] == level
                if len(message.words) != 8 * len(part):
                    raise self._host.breach("LevelWords of another number of rows than there are")
                part[own] = np.frombuffer(message.words, "<u8")[own]
        pads = await asyncio.to_thread(_pads, chosen.rows, places, self._drawn, self._key)
        self._drawn += 1
        return added - pads


class OfferedWords:
    """A host's side."""

    def __init__(self, guest: Peer, levels: int, bound: bytes, transfers: HostTransfers) -> None:
        self._guest, self._levels, self._key, self._transfers = guest, levels, bound, transfers
        self._masks = transfers.keeper.mask(_messages(np.arange(levels + 1, dtype=np.uint16)))
        self._drawn = 0

    @classmethod
    async def meet(cls, guest: Peer, levels: int, bound: bytes, entropy: Entropy) -> "OfferedWords":
        """Begin, as of the guest. Raises PeerError."""
        return cls(guest, levels, bound, await HostTransfers.meet(guest, bound, entropy))

    async def await_choice(self, count: int) -> Bytes:
        """What it has of so many rows, once the guest has chosen. Raises PeerError."""
        rows = np.empty((count, ROW), np.uint8)
        for first in range(0, count, BLOCK):
            stop = min(first + BLOCK, count)
            rows[first:stop] = await self._transfers.extend(stop - first)
        return rows

    async def cover(self, rows: Bytes, places: Integers) -> Words:
        """What is to be added to the words of some of these rows, by their places, before they are
        sent."""
        return await asyncio.to_thread(self._pads, rows, places, 0)

    async def send(
        self, rows: Bytes, places: Integers, cover: Words, part: Callable[[int], Words]
    ) -> None:
        """The levels' words, after those of the rows were sent; part: those of a level."""

        def covered(level: int) -> Words:
            return part(level) - cover + self._pads(rows, places, level)

        for level in range(1, self._levels + 1):
            words = await asyncio.to_thread(covered, level)
            for first in range(0, len(words), _WORDS):
                data = words[first : first + _WORDS].astype("<u8").tobytes()
                await self._guest.send(LevelWords(data))
        self._drawn += 1

    def _pads(self, rows: Bytes, places: Integers, level: int) -> Words:
        return _pads(rows, places, self._drawn, self._key, self._masks[level])


def _messages(codes: NDArray[np.uint16]) -> Bytes:
    """The messages of transfers (n, 16): a row's level."""
    messages = np.zeros((len(codes), MESSAGE), np.uint8)
    messages[:, :2] = codes.astype("<u2").view(np.uint8).reshape(-1, 2)
    return messages


def _pads(rows: Bytes, places: Integers, drawn: int, key: bytes, mask: Bytes | None = None) -> Words:
    """The pads of some rows, shape (n,), of so many drawn before; mask: of a level, where it is not the
    guest's own."""
    pads = np.empty(len(places), np.uint64)
    for first in range(0, len(places), _AT_ONCE):
        some = places[first : first + _AT_ONCE]
        own = rows[some] if mask is None else rows[some] ^ mask
        numbers = some.astype("<u8").view(np.uint8).reshape(-1, 8)
        made = digests(
            rows=np.concatenate([numbers, own], axis=1),
            domain=b"vfl chosen word",
            key=key,
            prefix=drawn.to_bytes(8, "little"),
            size=8,
        )
        pads[first : first + len(some)] = made.view("<u8").ravel()
    return pads
