"""A host's encrypted histograms: ciphertexts summed by (node, column, bin).

Rows are summed by joint cells of groups of columns (learn/grouping.py), one product a row and group. The
histograms of the columns are marginals of these, halved again and again: a group's cells are summed into
those of its first and of its second half of columns, these into their halves, down to single columns.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Integers
from vfl.crypto.paillier import Ciphertexts, InvalidCiphertext, PublicKey
from vfl.crypto.sums import add_all, check_rows, sum_by_cell, sum_rows
from vfl.crypto.workers import SharedRows, Workers
from vfl.learn.grouping import Group, group_columns
from vfl.net.peer import Peer
from vfl.net.wire import Message

CHUNK = 2048  # rows whose ciphertexts travel in one message


M = TypeVar("M", bound=Message)


class JointSums:
    """Encrypted histograms of some nodes."""

    def __init__(
        self, workers: Workers[PublicKey], store: SharedRows, sizes: list[int], nodes: int
    ) -> None:
        """`sizes`: how many codes each column has."""
        self._workers, self._store, self._sizes, self._nodes = workers, store, sizes, nodes
        self._groups: list[Group] = []
        self._first = np.zeros(1, np.int64)  # the first cell of each group, and the end of the last
        self._parts: list[Ciphertexts] = []  # sums by cell of rows added so far

    def group(self, codes: NDArray[np.unsignedinteger], slot: Integers) -> None:
        """Choose groups for rows with these codes, each in the node numbered `slot`."""
        self._groups = group_columns(codes, self._sizes, slot, self._nodes)
        self._first = np.cumsum([0, *(group.cells for group in self._groups)])

    @property
    def cells(self) -> int:
        """Cells of all groups."""
        return int(self._first[-1])

    @property
    def batch(self) -> int:
        """Rows to add at once at least, so that adding up the batches costs little."""
        return max(CHUNK, 8 * self.cells // max(1, len(self._groups)))

    async def add(self, start: int, stop: int, places: Integers | None = None) -> None:
        """Add the grouped rows start to stop; `places` says where they are in the store.

        Rows just received are checked. Raises InvalidCiphertext.
        """
        rows = np.arange(start, stop) if places is None else places
        if places is None:
            tasks = [(self._store.handle, i, min(i + CHUNK, stop)) for i in range(start, stop, CHUNK)]
            await self._workers.map(check_rows, tasks)
        cells = np.array(
            [
                group.cell_of_row[start:stop] + first
                for group, first in zip(self._groups, self._first, strict=False)
            ]
        )
        self._parts.append(await sum_rows(self._workers, self._store, rows, cells, self.cells))

    async def receive(
        self, owner: Peer, kind: type[M], content: Callable[[M], bytes], rows: int
    ) -> None:
        """Receive the ciphertexts of the grouped rows into the store and add them as they come in.

        Raises PeerError for what is not `rows` ciphertexts under the key.
        """
        received = summed = 0
        under_way: deque[asyncio.Task[None]] = deque()
        try:
            while received < rows:
                message = await owner.recv(kind)
                data = np.frombuffer(content(message), np.uint8)
                count, rest = divmod(len(data), self._workers.key.width)
                if rest or count != min(CHUNK, rows - received):
                    raise owner.breach(f"{kind.__name__} of another number of rows than announced")
                self._store.array[received : received + count] = data.reshape(count, -1)
                received += count
                if received == rows or received - summed >= self.batch:
                    under_way.append(asyncio.create_task(self.add(summed, received)))
                    summed = received
                if len(under_way) > 2:
                    await under_way.popleft()
            for task in under_way:
                await task
        except InvalidCiphertext as error:
            raise owner.breach(f"{kind.__name__} with {error}") from None
        finally:
            for task in under_way:
                task.cancel()

    async def histograms(self) -> list[Ciphertexts]:
        """The histograms of the rows added, each of shape (sum of sizes, width).

        The groups stay, for the same rows with other ciphertexts.
        """
        offsets = np.cumsum([0, *self._sizes])
        sums, groups = await add_all(self._workers, self._parts), self._groups
        self._parts = []
        total = np.zeros((self._nodes, offsets[-1], sums.shape[1]), np.uint8)
        total[:, :, 0] = 1  # the trivial encryption of zero
        while groups:
            rows, cells, halves = [], [], []
            first = count = 0
            for group in groups:
                own = np.arange(first, first + group.cells)
                first += group.cells
                if len(group.columns) == 1:
                    total[group.slot, offsets[group.columns[0]] + group.codes[0]] = sums[own]
                    continue
                for half in group.halves():
                    rows.append(own)
                    cells.append(count + half.cell_of_row)
                    halves.append(half)
                    count += half.cells
            if halves:
                at, to = np.concatenate(rows), np.concatenate(cells)
                sums = await sum_by_cell(self._workers, sums, at, to, count)
            groups = halves
        return list(total)
