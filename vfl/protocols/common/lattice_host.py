"""A host's side of lattice_sums.py: it adds up vectors of which it knows nothing but how many there are.

Its steps are 3 to 6 there; `host_meet` of lattice_hints.py makes it.
"""

import asyncio
from collections import Counter, deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Integers, Words
from vfl.crypto.lattice.answers import masked, seal
from vfl.crypto.lattice.hint import HintKey, Opened
from vfl.crypto.lattice.matrix import Accumulator, CellMatrix
from vfl.crypto.lattice.parameters import MODULUS_BITS, Parameters
from vfl.net.peer import Peer
from vfl.net.wire import Octets
from vfl.protocols.common.clock import ToldTime
from vfl.protocols.common.lattice_sums import (
    LEFT_OUT_SUMS,
    HintProducts,
    Query,
    Shape,
    Vectors,
    VectorSums,
    piece_sizes,
    pieces_of,
)
from vfl.protocols.common.mask_streams import MaskStream
from vfl.protocols.common.participant import Resources


@dataclass
class _Opened:
    """A batch of products, the first of which are used up; opened in a thread."""

    opening: asyncio.Task[Opened]
    size: int
    used: int = 0

    @property
    def left(self) -> int:
        return self.size - self.used


class HostProducts:
    """A host's side; `host_meet` of lattice_hints.py makes one."""

    def __init__(
        self,
        guest: Peer,
        shape: Shape,
        parameters: Parameters,
        resources: Resources,
    ) -> None:
        self._guest, self._shape, self._parameters = guest, shape, parameters
        self._randomness = resources.randomness
        self.scale_bits = parameters.scale_bits
        """Of words, below sums: those under masks are known modulo 2^64 less these."""
        self._operations = Counter() if resources.operations is None else resources.operations
        self._hint: tuple[CellMatrix, HintKey] | None = None
        self.secret = b""
        """The secret of the hint that is used."""
        self._products: deque[_Opened] = deque()
        self._served = self._received = 0  # vectors, and those that products were received for
        self._time = ToldTime(guest.name, resources.say)

    @property
    def joint(self) -> bool:
        """Whether vectors are of pairs of numbers."""
        return self._shape.joint

    def use(self, matrix: CellMatrix, key: HintKey, secret: bytes) -> None:
        """Serve sums by this matrix; without, no query is served."""
        self._hint, self.secret = (matrix, key), secret

    async def serve(
        self,
        query: Query,
        hidden: bool = False,
        stream: MaskStream | None = None,
        *,
        looked_at: bool = True,
    ) -> NDArray[np.uint64]:
        """Answer a query. Raises PeerError when the guest breaks the protocol.

        `hidden`: under masks, uniform among all values of a sum as the guest can read it; these are
        returned, shape (vectors, outputs), else zeros. With a `stream` masks come from it, those of each
        two vectors by themselves, and are uniform words: they hide all that is in an answer, whatever
        the guest's vectors and products were. `looked_at`: in a replay whether the vectors were kept.
        """
        guest, parameters, count = self._guest, self._parameters, query.vectors
        first = self._served
        self._served += count
        if self._hint is None or self._served > self._shape.served:
            raise guest.breach("a Query of more vectors than its job has")
        matrix, key = self._hint
        if not looked_at:
            await self._pass_over(count, key)
            return await self._leave_out(count, len(matrix.outputs), stream)
        total, opened = await self._summed(count, matrix, key)
        with self._time.timed():
            masks = np.zeros(total.shape[:2], np.uint64)
            if stream is not None:
                masks = _masks(stream, count, total.shape[1])
                total += masks
            elif hidden:
                masks = self._randomness.at("masks of sums", first).words(masks.shape)
                masks = masks >> np.uint64(MODULUS_BITS - parameters.read_bits)
                total = masked(parameters, total, masks)
            flooding = self._randomness.at("flooding", first)
            data = await asyncio.to_thread(seal, parameters, total, opened, flooding)
        self._operations["sum vector"] += count
        await guest.send(VectorSums(data, self._time.tell()))
        return masks

    async def _summed(self, count: int, matrix: CellMatrix, key: HintKey) -> tuple[Words, Opened]:
        """The sums of encrypted vectors, (count, outputs), and the products that `seal` takes off."""
        guest, parameters = self._guest, self._parameters
        await self._receive_all_products(count, key)
        sums = Accumulator(parameters, matrix, count)

        def add(start: int, data: Octets) -> None:
            with self._time.timed():
                sums.add(start, data)

        adding: asyncio.Task[None] | None = None
        try:
            for start, _ in pieces_of(parameters, count):
                message = await guest.recv(Vectors)
                if adding is not None:
                    await adding
                adding = asyncio.create_task(asyncio.to_thread(add, start, message.data))
            if adding is not None:
                await adding
        except ValueError as error:
            raise guest.breach(f"Vectors with {error}") from None
        finally:
            if adding is not None:
                adding.cancel()
        with self._time.timed():
            opened = await self._take(count)
            return await asyncio.to_thread(sums.result), opened

    async def _pass_over(self, count: int, key: HintKey) -> None:
        """In a replay without the vectors: pass them and their products over."""
        await self._receive_all_products(count, key)
        for _ in pieces_of(self._parameters, count):
            await self._guest.recv(Vectors)
        await self._take(count)

    async def _leave_out(self, count: int, outputs: int, stream: MaskStream | None) -> Words:
        """In a replay without the vectors: their masks are passed over."""
        self._time.tell()
        await self._guest.send(LEFT_OUT_SUMS)
        if stream is None:
            return np.zeros((count, outputs), np.uint64)
        return _masks(stream, count, outputs)

    def uncover(self, opened: Integers, masks: NDArray[np.uint64]) -> Integers:
        """The sums that the guest read under these masks. Raises ValueError for what cannot be sums."""
        scale = np.uint64(self._parameters.scale_bits)
        sums = ((opened.view(np.uint64) - masks) << scale).view(np.int64) >> scale.astype(np.int64)
        if (np.abs(sums) > self._parameters.bound).any():
            raise ValueError("numbers that are no masked sums")
        return np.asarray(sums)

    async def _receive_all_products(self, count: int, key: HintKey) -> None:
        while sum(batch.left for batch in self._products) < count:
            await self._receive_products(key)

    async def _receive_products(self, key: HintKey) -> None:
        count = self._shape.batch(self._received)
        self._received += count
        size, parts = self._parameters.product_bytes(count), []
        for due in piece_sizes(size):
            message = await self._guest.recv(HintProducts)
            if len(message.data) != due:
                raise self._guest.breach("HintProducts of another size than a batch has")
            parts.append(message.data)
        self._operations["open products"] += count
        opening = asyncio.create_task(asyncio.to_thread(key.open, b"".join(parts), count))
        self._products.append(_Opened(opening, count))

    async def _take(self, count: int) -> Opened:
        """The next opened products."""
        parts: list[Opened] = []
        while count:
            batch = self._products[0]
            try:
                opened = await batch.opening
            except ValueError as error:
                raise self._guest.breach(f"HintProducts with {error}") from None
            stop = batch.used + min(count, batch.left)
            parts.append(Opened(opened.whole[batch.used : stop], opened.fraction[batch.used : stop]))
            count, batch.used = count - (stop - batch.used), stop
            if not batch.left:
                self._products.popleft()
        return Opened(
            np.concatenate([part.whole for part in parts]),
            np.concatenate([part.fraction for part in parts]),
        )

    def end(self) -> None:
        """End: there are no more queries."""
        for batch in self._products:
            batch.opening.cancel()


def _masks(stream: MaskStream, count: int, outputs: int) -> Words:
    """Those of so many vectors' sums."""
    pairs = [min(2, count - place) for place in range(0, count, 2)]
    return np.concatenate([stream.words((pair, outputs)) for pair in pairs])
