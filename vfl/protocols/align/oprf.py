"""An oblivious pseudorandom function (OPRF), as the alignment uses it: what its engines have in common.

A host has a function F that looks random to everybody else. The guest learns F at its ids and at no
other, the host learns nothing of them. Then the host computes F of its own ids by itself. An engine is
a module with both roles, `guest_outputs` and `host_outputs`, which are called when both sides know each
other's number of ids:

- `vfl.protocols.align.dh_oprf`, by exponents: few bytes, much computing;
- `vfl.protocols.align.ot_oprf`, by oblivious transfers: more bytes, little computing.

A third, `vfl.protocols.align.vole_oprf`, takes ids by buckets (`buckets.py`) instead of all at once.

The guest speaks first in all, and no message of one is a message of the other: a host that was told
of another engine refuses the first message.

A scalar, a coin, a base transfer or what fills a store serves for one evaluation: ids under the same
scalar twice could be linked, two stores behind one mask added up. So each has a place of its own in
`OprfRun.randomness`, by peer where peers get different ones, and each intersection of a run (`join.py`)
a part.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from vfl.arrays import Bytes
from vfl.blocks.cores import Begun
from vfl.blocks.engine import ENGINE
from vfl.blocks.scratch import StoredRows, empty_rows
from vfl.crypto.randomness import Randomness
from vfl.net.peer import Peer, together
from vfl.net.wire import Message
from vfl.protocols.common.transfers import elements_in as elements_in
from vfl.protocols.common.transfers import repeats as repeats

OUTPUT = 32  # bytes of F(x)
_WHAT = "an alignment"  # what files are of

OprfProgress = Callable[[str, int, int], None]
"""Told what is being done, how many are done, and of how many."""

M = TypeVar("M", bound=Message)
K = TypeVar("K")
R = TypeVar("R")


@dataclass(frozen=True)
class OprfRun:
    """What an evaluation of ids is bound to, and how it is done."""

    context: bytes
    """Names the run, the same at all parties."""
    randomness: Randomness
    """Of this evaluation alone."""
    report: OprfProgress
    scratch: Path | None = None
    """A folder for large arrays."""


class GuestOutputs(Protocol):
    """F_j(x) of all the guest's ids, uint8 (n, OUTPUT) for each host, in the order of `ids`.

    Raises PeerError for a host that breaks the protocol.
    """

    async def __call__(
        self, hosts: Sequence[Peer], ids: Sequence[bytes], run: OprfRun
    ) -> list[Bytes]: ...


class HostOutputs(Protocol):
    """F_j(y) of all the host's own ids, uint8 (n, OUTPUT), while it serves the guest's `theirs` ids.

    Raises PeerError for a guest that breaks the protocol. name: this host's own.
    """

    async def __call__(
        self,
        guest: Peer,
        ids: Sequence[bytes],
        theirs: int,
        name: str,
        run: OprfRun,
    ) -> Bytes: ...


async def each_chunk(
    work: Callable[..., R],
    given: AsyncIterator[tuple[K, tuple[object, ...]]],
    take: Callable[[K, R], Awaitable[None]],
) -> None:
    """Have `take(key, work(*arguments))` for each (key, arguments), in their order; `work` is done where
    the engine of blocks does it, of some chunks at a time. Raises what any of them raises.

    What is given goes to workers of a cluster, if there is one: ids packed by themselves.
    """
    under_way = asyncio.Queue[tuple[K, Begun[R]] | None](ENGINE.width)

    async def begin() -> None:
        async for key, arguments in given:
            await under_way.put((key, await asyncio.to_thread(ENGINE.do, work, *arguments)))
        await under_way.put(None)

    async def end() -> None:
        while (one := await under_way.get()) is not None:
            key, begun = one
            await take(key, await asyncio.to_thread(begun.result))

    try:
        await together([begin(), end()])
    finally:
        while not under_way.empty():
            if (one := under_way.get_nowait()) is not None:
                one[1].cancel()


async def receive_rows(
    peer: Peer, kind: type[M], content: Callable[[M], bytes], rows: int, chunk: int, width: int
) -> AsyncIterator[tuple[int, int, Bytes]]:
    """Each chunk as (first, end, rows as uint8 (m, width)). Raises PeerError for one of a wrong size."""
    for start, stop in parts(rows, chunk):
        data = content(await peer.recv(kind))
        if len(data) != (stop - start) * width:
            raise peer.breach(f"{kind.__name__} with another number of rows than announced")
        yield start, stop, np.frombuffer(data, np.uint8).reshape(-1, width)


def parts(rows: int, chunk: int) -> Iterator[tuple[int, int]]:
    """Each chunk of so many rows, as (first, end)."""
    for start in range(0, rows, chunk):
        yield start, min(start + chunk, rows)


def empty(rows: int, width: int, scratch: Path | None) -> Bytes:
    """As `empty_rows`, of an alignment."""
    return empty_rows(rows, width, scratch, _WHAT)


def stored(rows: int, width: int, scratch: Path | None) -> StoredRows:
    """As `StoredRows`, of an alignment."""
    return StoredRows(rows, width, scratch, _WHAT)
