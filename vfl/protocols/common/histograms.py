"""A host's encrypted histograms: ciphertexts summed by (node, column, bin).

Rows are summed by joint cells of groups of columns (learn/grouping.py), one product a row and group. The
histograms of the columns are marginals of these, halved again and again: a group's cells are summed into
those of its first and of its second half of columns, these into their halves, down to single columns.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Integers, Mask
from vfl.blocks.engine import ENGINE, Array, Rows
from vfl.crypto.paillier import Ciphertexts, InvalidCiphertext, PublicKey
from vfl.crypto.sums import add_all, check_rows, sum_by_cell, sum_rows
from vfl.crypto.workers import Parts, SharedRows, Workers, key_of
from vfl.learn.grouping import Group, group_columns
from vfl.net.peer import Peer
from vfl.net.wire import Message

CHUNK = 2048  # rows whose ciphertexts travel in one message
_ADDED = 8  # histograms of blocks that are added up at a time


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
        sums, halves = await add_all(self._workers, self._parts), _Halves(self._groups)
        self._parts = []
        total = _nothing(self._nodes, self._sizes, sums.shape[1])
        while halves.take(sums, total, self._sizes):
            sums = await sum_by_cell(self._workers, sums, halves.at, halves.to, halves.count)
        return list(total)


class _Halves:
    """Groups on the way to single columns: their cells are summed into those of their halves."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self._groups: Sequence[Group] = groups

    def take(self, sums: Ciphertexts, total: Ciphertexts, sizes: Sequence[int]) -> bool:
        """Put the `sums` by cell of single columns into the histograms `total`, (nodes, cells, width);
        whether there are halves, of which cell `at[i]` adds to cell `to[i]` of `count`."""
        offsets = np.cumsum([0, *sizes])
        rows, cells, halves = [], [], []
        first = self.count = 0
        for group in self._groups:
            own = np.arange(first, first + group.cells)
            first += group.cells
            if len(group.columns) == 1:
                total[group.slot, offsets[group.columns[0]] + group.codes[0]] = sums[own]
                continue
            for half in group.halves():
                rows.append(own)
                cells.append(self.count + half.cell_of_row)
                halves.append(half)
                self.count += half.cells
        self._groups = halves
        if halves:
            self.at, self.to = np.concatenate(rows), np.concatenate(cells)
        return bool(halves)


def _nothing(nodes: int, sizes: Sequence[int], width: int) -> Ciphertexts:
    """Histograms of no rows: the trivial encryption of zero in each cell."""
    total = np.zeros((nodes, sum(sizes), width), np.uint8)
    total[:, :, 0] = 1
    return total


class HeldSums:
    """The same of rows that lie with the engine of blocks, where it adds them up block by block.

    Groups are those of a block's rows. A ciphertext lies with the codes of its row. The party keeps them
    as well, in memory or in a file, as workers may be lost.
    """

    def __init__(
        self,
        workers: Workers[PublicKey],
        store: SharedRows,
        codes: Rows,
        sizes: list[int],
        columns: Integers | None = None,
    ) -> None:
        """`store`: with room for a ciphertext of every row of `codes`. `columns`: the places among those
        of `codes` of the ones that are summed, None: of all. `sizes`: how many codes each has."""
        self._workers, self._store, self._sizes = workers, store, sizes
        self.codes = codes if columns is None else ENGINE.make(partial(_columns, columns), codes)
        """Of the columns that are summed."""
        self._drawn = np.ones(codes.shape[-1], np.bool_)
        self._ciphertexts: Rows | None = None
        self._root: list[Ciphertexts] = []

    def draw(self, drawn: Mask) -> None:
        """The rows of which ciphertexts are received; without, all."""
        self._drawn = drawn

    async def receive(
        self, owner: Peer, kind: type[M], content: Callable[[M], bytes], rows: int
    ) -> None:
        """Receive the ciphertexts of the drawn rows, and add all of them up.

        Raises PeerError for what is not `rows` ciphertexts under the key.
        """
        self._ciphertexts = None  # those before, in place of which these come
        places, width = np.flatnonzero(self._drawn), self._workers.key.width
        for start in range(0, rows, CHUNK):
            some = places[start : start + CHUNK]
            data = content(await owner.recv(kind))
            if len(data) != len(some) * width:
                raise owner.breach(f"{kind.__name__} of another number of rows than announced")
            self._store.array[some] = np.frombuffer(data, np.uint8).reshape(-1, width)
        self._ciphertexts = await asyncio.to_thread(ENGINE.hold, self._store.array.T)
        try:
            slot = np.where(self._drawn, np.int8(0), np.int8(-1))
            self._root = await self._histograms(slot, 1, check=True)
        except InvalidCiphertext as error:
            raise owner.breach(f"{kind.__name__} with {error}") from None

    async def histograms(self) -> list[Ciphertexts]:
        """The histogram of all drawn rows, shape (sum of sizes, width), alone in a list."""
        return self._root

    async def of_nodes(self, slot: Integers, nodes: int) -> list[Ciphertexts]:
        """Histograms of the rows of each node; `slot` has the number of every aligned row's, or -1."""
        kind = np.int8 if nodes <= 1 << 7 else np.int64
        return await self._histograms(slot.astype(kind), nodes, check=False)

    async def _histograms(self, slot: NDArray[np.integer], nodes: int, check: bool) -> list[Ciphertexts]:
        key = self._workers.elsewhere
        if key is None or self._ciphertexts is None:
            raise ValueError("no rows that lie with another engine")
        asked = _Asked(self._sizes, nodes, check)
        kernel = partial(_block_histograms, key.argument, asked)
        given = self.codes, self._ciphertexts, slot
        parts, results = list[Ciphertexts](), ENGINE.results(kernel, *given)
        while (found := await asyncio.to_thread(next, results, None)) is not None:
            part, products = found
            self._workers.operations["add"] += products
            parts.append(part.reshape(-1, part.shape[-1]))
            if len(parts) == _ADDED:
                parts = [await add_all(self._workers, parts)]
        total = await add_all(self._workers, parts)
        return list(total.reshape(nodes, -1, total.shape[1]))


def store_for(
    workers: Workers[PublicKey],
    store: SharedRows,
    codes: Rows,
    sizes: list[int],
    columns: Integers | None,
) -> "SharedRows | HeldSums":
    """Where ciphertexts go of rows with these codes: `HeldSums` with an engine elsewhere, else here."""
    return store if workers.elsewhere is None else HeldSums(workers, store, codes, sizes, columns)


async def sums_of_drawn(
    workers: Workers[PublicKey],
    store: "SharedRows | HeldSums",
    codes: NDArray[np.unsignedinteger],
    drawn: Mask,
    sizes: list[int],
) -> "JointSums | HeldSums":
    """What receives the ciphertexts of the drawn rows into the store, and adds them up."""
    if isinstance(store, HeldSums):
        store.draw(drawn)
        return store
    joint = JointSums(workers, store, sizes, 1)
    await asyncio.to_thread(joint.group, codes[:, drawn], np.zeros(int(drawn.sum()), np.int64))
    return joint


async def sums_of_nodes(
    workers: Workers[PublicKey],
    store: "SharedRows | HeldSums",
    codes: NDArray[np.unsignedinteger],
    nodes: tuple[Integers, Mask, int],
    sizes: list[int],
) -> list[Ciphertexts]:
    """The histograms of nodes, whose ciphertexts are in the store. nodes: the number of each aligned
    row's or -1, which rows are drawn, how many nodes."""
    slot, drawn, count = nodes
    if isinstance(store, HeldSums):
        return await store.of_nodes(slot, count)
    slot = slot[drawn]
    rows = np.flatnonzero(slot >= 0)
    joint = JointSums(workers, store, sizes, count)
    await asyncio.to_thread(joint.group, codes[:, drawn][:, rows], slot[rows])
    await joint.add(0, len(rows), rows)
    return await joint.histograms()


def _columns(columns: Integers, codes: Array) -> Array:
    return codes[columns]


@dataclass(frozen=True)
class _Asked:
    """What histograms are wanted of blocks."""

    sizes: list[int]
    nodes: int
    check: bool  # whether the ciphertexts have just come


def _block_histograms(
    parts: Parts[PublicKey],
    asked: _Asked,
    codes: NDArray[np.unsignedinteger],
    ciphertexts: Ciphertexts,
    slot: NDArray[np.integer],
) -> tuple[Ciphertexts, int]:
    """The histograms of a block's rows, (nodes, cells, width), and how many products they took."""
    key, rows = key_of(parts), np.flatnonzero(slot >= 0)
    total = _nothing(asked.nodes, asked.sizes, key.width)
    if not len(rows):
        return total, 0
    own = np.ascontiguousarray(ciphertexts.T[rows])
    if asked.check:
        key.check(own)
    slots = slot[rows].astype(np.int64)
    groups = group_columns(codes[:, rows], asked.sizes, slots, asked.nodes)
    firsts = np.cumsum([0, *(group.cells for group in groups)]).tolist()
    cells = [group.cell_of_row + first for group, first in zip(groups, firsts, strict=False)]
    sums, products = key.sum_cells(own, np.arange(len(rows)), cells, firsts[-1]), len(rows) * len(groups)
    halves = _Halves(groups)
    while halves.take(sums, total, asked.sizes):
        sums = key.sum_cells(sums, halves.at, [halves.to], halves.count)
        products += len(halves.at)
    return total, products
