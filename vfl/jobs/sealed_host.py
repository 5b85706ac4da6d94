"""A host that is looked up in, in a batch for which other hosts are asked row by row."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

import numpy as np

from vfl.arrays import Integers, Mask
from vfl.errors import PeerError
from vfl.models.parts import Parts, PartsAnswers
from vfl.net import wire
from vfl.net.peer import HEADER, Peer
from vfl.net.wire import Message, Octets
from vfl.protocols.common.batches import ScoreEnd, ScoreRows, ScoreStart


class SealedHost(Peer):
    """Takes a host's place in the guest's part of scoring and answers from its directory, so that the
    scores are those of the host's own answers.

    It is asked about every row by its place in the batch, and answers for one that the host does not
    know as for missing values. Nothing that is said to it leaves this process.
    """

    def __init__(
        self, host: str, answers: PartsAnswers, find: Callable[[slice], Awaitable[Parts]], rows: int
    ) -> None:
        """find: looks rows of the batch up, slice by slice in their order."""
        super().__init__(host)
        self._answers, self._find = answers, find
        self._due: deque[ScoreStart | slice] = deque()
        self._unknown: Mask = np.zeros(rows, np.bool_)
        self._done = 0  # rows that were looked up
        self.fault: PeerError | None = None
        """What is wrong with parts that were found, as SealedBatch has it."""

    async def unknown(self, rows: slice) -> Mask:
        """Which of these rows the host does not know. They are looked up if nobody asked about them, as
        where no tree uses the host's columns."""
        if rows.stop > self._done:
            await self._parts(slice(self._done, rows.stop))
        return self._unknown[rows]

    async def close(self) -> None:
        """There is nothing to be closed."""

    async def _put(self, frame: Octets) -> None:
        message = wire.decode(frame[HEADER:], (ScoreStart, ScoreRows, ScoreEnd))
        if isinstance(message, ScoreStart):
            self._due.append(message)
        elif isinstance(message, ScoreRows):
            places = np.frombuffer(message.places, "<u4")
            self._due.append(slice(int(places[0]), int(places[-1]) + 1))

    async def _get(self) -> bytes:
        due = self._due.popleft()
        if isinstance(due, ScoreStart):
            answer = self._answers.begin(due)
        else:
            answer = await asyncio.to_thread(self._answer, await self._parts(due))
        return self._session + self._received.to_bytes(8, "big") + wire.encode(answer)

    async def _parts(self, rows: slice) -> Parts:
        found = await self._find(rows)
        self._unknown[rows] = [part is None for part in found]
        self._done = rows.stop
        return found

    def _answer(self, parts: Parts) -> Message:
        try:
            return self._answers.answer(parts)
        except PeerError as error:
            self.fault = self.fault or error
            return self._answers.answer([None] * len(parts))


async def unknown_rows(host: Peer, places: Integers, rows: slice) -> Mask:
    """Which of these rows a host does not know, by their places in the alignment with it if there is
    one."""
    return await host.unknown(rows) if isinstance(host, SealedHost) else places[rows] < 0


def fault_of(host: Peer) -> PeerError | None:
    """What is wrong with what was looked up at a host, if it was."""
    return host.fault if isinstance(host, SealedHost) else None
