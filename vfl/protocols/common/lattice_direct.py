"""Sums over few rows: steps 3 to 6 of lattice_sums.py where hosts have encrypted their matrices.

With fewer rows than a hint has columns a host encrypts its matrix itself (crypto/lattice/direct.py), if
both find that this is cheaper (Shape.word_bits). Then, for up to BATCH vectors:

 3. The guest says how many follow.
 4. It multiplies each host's encrypted matrix with them, masked and re-randomised, and sends that.
 5. A host opens it to the masked sums, and sends these, flooded and cut short.
 6. The guest takes its masks off and rounds: the sums, exactly.

Vectors are not encrypted by themselves: they have no secrets, sums no errors of theirs, and products
cannot be made ahead. What a new hint has to pass, a new matrix has to (lattice_hints.py): the
secrets that re-randomise products are for it what secrets of vectors are for a hint.
"""

import asyncio
from collections.abc import Sequence
from typing import cast

import numpy as np

from vfl.arrays import Integers, Words
from vfl.blocks.engine import ENGINE
from vfl.crypto.lattice.direct import EncryptedMatrix
from vfl.crypto.lattice.hint import HintKey, Opened
from vfl.crypto.lattice.matrix import CellMatrix
from vfl.net.peer import Peer, together
from vfl.net.wire import MIB, Octets
from vfl.protocols.common.lattice_host import HostProducts
from vfl.protocols.common.lattice_sums import (
    Encrypted,
    Entries,
    GuestProducts,
    Query,
    Read,
    T,
    Vectors,
)

_PIECE = 4 * MIB  # of products in a message


class DirectGuest(GuestProducts):
    """The guest's side, of hosts that have encrypted their matrices."""

    def begin(self) -> None:
        """Nothing can be made ahead."""

    async def _query(
        self, entries: Entries, read: "Read[T]", encrypted: Encrypted = lambda: None
    ) -> list[T]:
        first, self._asked = self._asked, self._asked + entries.count
        await together([host.send(Query(entries.count)) for host in self.hosts])
        values = await asyncio.to_thread(vectors_of, entries)
        masks: list[Words] = []
        sending: asyncio.Task[None] | None = None
        try:
            for host, matrix in zip(self.hosts, self._hints, strict=True):
                entropy = self._randomness.at("products of a matrix", host.name, first)
                with self._timed("encrypt"):
                    multiply = cast(EncryptedMatrix, matrix).multiply_vectors
                    try:
                        data, own = await asyncio.to_thread(multiply, values, entropy)
                    except ArithmeticError as error:
                        # Those of numbers that look random are far from that, whatever the vectors.
                        raise host.breach(f"HintParts that are no encryption: {error}") from None
                masks.append(own)
                if sending is not None:
                    with self._timed("transfer"):
                        await sending
                sending = asyncio.create_task(_send(host, data))
            self._operations["multiply matrix"] += entries.count * len(self.hosts)
            encrypted()
            if sending is not None:
                with self._timed("transfer"):
                    await sending
        finally:
            if sending is not None:
                sending.cancel()
        each = zip(self.hosts, self._parameters, masks, strict=True)
        return await together([self._sums(host, own, mask, read) for host, own, mask in each])


def vectors_of(entries: Entries) -> Integers:
    """The vectors, (count, rows), here."""
    blocks = [*ENGINE.results(entries.kernel, *entries.arrays)]
    return np.concatenate(blocks, axis=1).astype(np.int64)


async def _send(host: Peer, data: bytes) -> None:
    for start in range(0, len(data), _PIECE):
        await host.send(Vectors(data[start : start + _PIECE]))


class DirectHost(HostProducts):
    """A host's side, whose matrix is encrypted."""

    async def _summed(self, count: int, matrix: CellMatrix, key: HintKey) -> tuple[Words, Opened]:
        parts: list[Octets] = []
        for size in self._sizes(count):
            parts.append((await self._guest.recv(Vectors)).data)
            if len(parts[-1]) != size:
                raise self._guest.breach("Vectors of another size than a query has")
        with self._time.timed():
            opened = await asyncio.to_thread(key.open, b"".join(parts), count)
        return np.zeros(opened.whole.shape, np.uint64), opened

    async def _pass_over(self, count: int, key: HintKey) -> None:
        for _ in self._sizes(count):
            await self._guest.recv(Vectors)

    def _sizes(self, count: int) -> Sequence[int]:
        """Of the messages that products with so many vectors are cut into."""
        size = self._parameters.product_bytes(count)
        return [min(_PIECE, size - start) for start in range(0, size, _PIECE)]
