"""A host's sums of its candidates in one tree on their way to the guest (step 4 of paillier.py)."""

import asyncio
from collections.abc import Sequence

import numpy as np

from vfl.arrays import Integers, Mask
from vfl.crypto.packing import SumPacking
from vfl.crypto.paillier import Ciphertexts
from vfl.crypto.reserve import Reserve
from vfl.crypto.sums import pack_and_mask, pack_and_rerandomise
from vfl.learn.splits import Candidates
from vfl.net.peer import Peer
from vfl.protocols.common.bits import pack_bits
from vfl.protocols.common.clock import ToldTime
from vfl.protocols.trees.hidden import PIECE, HiddenHost
from vfl.protocols.trees.paillier_messages import (
    LEFT_OUT_MASKED,
    LEFT_OUT_SUMS,
    CandidateSums,
    MaskedCandidates,
)

Histogram = Ciphertexts | None
"""Of a node, shape (cells, width); None in a replay that does not look at the tree: its random numbers
are passed over, and an empty message stands for each that the run has sent."""


class HostSums:
    """Shuffled, packed, re-randomised or masked."""

    def __init__(
        self,
        guest: Peer,
        reserve: Reserve,
        packing: SumPacking,
        candidates: Candidates,
        order: Integers,
        time: ToldTime,
    ) -> None:
        """`order`: the canonical candidate at each place on the wire."""
        self._guest, self._reserve, self._key = guest, reserve, reserve.workers.key
        self._packing, self._candidates, self._order = packing, candidates, order
        self._time = time

    async def send(
        self, node: int, histogram: Histogram, valid: Sequence[Mask], *, withheld: bool
    ) -> None:
        """Send a node's sums. `valid`: the candidates, at their places, that may be taken in it, and in
        its sibling."""
        own, (here, there) = self._candidates, valid
        sent = self._order[here | there]
        if histogram is None:
            await self._reserve.pass_over(-(-len(sent) // self._packing.slots))
            self._time.tell()
            await self._guest.send(LEFT_OUT_SUMS)
            return
        ordered = own.ordered[sent] & (node == 0)
        with self._time.timed():
            left = await asyncio.to_thread(self._left_sums, histogram, sent)
            ciphertexts = await pack_and_rerandomise(self._reserve, left, self._packing)
        told = CandidateSums(
            node=node,
            candidates=len(own),
            valid=pack_bits(here),
            sibling_valid=pack_bits(there),
            ciphertexts=ciphertexts.tobytes(),
            seconds=self._time.tell(),
            ordered=pack_bits(ordered) if ordered.any() else b"",
            withheld=withheld,
        )
        await self._guest.send(told)

    async def send_masked(
        self, hidden: HiddenHost, node: int, histogram: Histogram, sent: Integers
    ) -> None:
        """Where sums are hidden: those of the candidates `sent`, each plaintext plus a mask; and masks
        alone, as if it were all candidates."""
        packing, width = self._packing, self._key.width
        with self._time.timed():
            masks = hidden.masks.below(int(self._key.n), packing.ciphertexts(len(self._order)))
            ciphertexts = np.empty((0, width), np.uint8)
            if histogram is None:
                await self._reserve.pass_over(len(masks))
            else:
                sums = await asyncio.to_thread(self._left_sums, histogram, sent)
                ciphertexts = await pack_and_mask(
                    self._reserve, sums, packing.slot_bits, packing.slots, masks
                )
        seconds, step = self._time.tell(), PIECE // width
        for first in range(0, max(1, len(masks)), step):
            part, more = ciphertexts[first : first + step].tobytes(), first + step < len(masks)
            message = MaskedCandidates(node, part, 0.0 if more else seconds, more)
            await self._guest.send(LEFT_OUT_MASKED if histogram is None else message)

    def _left_sums(self, histogram: Ciphertexts, sent: Integers) -> Ciphertexts:
        """Left sums of the candidates `sent`."""
        own, key = self._candidates, self._key
        running = histogram.copy()
        for column, start in zip(own.columns, own.offsets.tolist(), strict=True):
            if column.edges is not None:
                part = slice(start, start + column.bins)
                running[part] = key.running(histogram[part])
        left = running[own.cell[sent]]
        with_missing = own.missing_left[sent]
        missing = histogram[own.missing_cell[sent[with_missing]]]
        left[with_missing] = key.add(left[with_missing], missing)
        numeric = sum(column.bins for column in own.columns if column.edges is not None)
        self._reserve.workers.operations["add"] += numeric + len(missing)
        return left
