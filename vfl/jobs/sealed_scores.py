"""A batch scored by lookups: hosts learn how many ids it has, and not which."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vfl.arrays import Bytes, Mask
from vfl.crypto import voprf
from vfl.crypto.randomness import Randomness
from vfl.errors import PeerError, PeerStopped, RateIsFull, Refused
from vfl.jobs.connect import Site
from vfl.jobs.directories import DirectoryReader, fetch_directory
from vfl.jobs.matching_rows import RowMatcher
from vfl.jobs.sealed_host import SealedHost
from vfl.jobs.show import Show
from vfl.models.halves import AnyGuestHalf
from vfl.models.kinds import kind_of_model
from vfl.models.parts import OwnColumns
from vfl.net.peer import Peer, together
from vfl.party.keys import TableIds
from vfl.party.table import Table
from vfl.protocols.align.join import KeyIds
from vfl.protocols.common.batches import ROWS, ScoredPart
from vfl.protocols.lookup.directory import inputs_of
from vfl.protocols.lookup.lookup import LookupSession
from vfl.text import counted

_AT_ONCE = 3  # messages of a host that are under way: it computes while the guest does


@dataclass
class SealedBatch:
    """The rows of a batch, and whose model they are scored with."""

    site: Site
    half: AnyGuestHalf
    table: Table
    ids: TableIds
    explain: bool
    show: Show
    levels: Callable[[Peer, int, int], None]
    """Told of each host how many rows of its table have a level that was not in training, of how
    many."""
    randomness: Randomness
    fault: PeerError | None = None
    """What is wrong with parts that were found: to be raised when the sessions have ended as ever, or a
    host would learn from it which ids were looked up."""

    async def parts(
        self, hosts: Sequence[Peer], first: int
    ) -> AsyncGenerator[tuple[ScoredPart, Mask], None]:
        """The scores from row `first` on, part by part, with which rows each host does not know, shape
        (hosts, rows). From a `fault` on there are none, and all rows are looked up nevertheless. Raises
        as `fetch_directory`, Refused with a host's reason, and what `levels` does.
        """
        half, kind = self.half, kind_of_model(self.half.model)
        async with self._open(hosts) as (sessions, readers):
            layouts = {h.name: reader.layout for h, reader in zip(hosts, readers, strict=True)}
            scorer = kind.scorer(half.model, layouts, self.explain)
            several = len(self.ids.keys) > 1
            whole = slice(first, self.table.rows)
            found = await self._find_all(sessions, readers, whole) if several else []
            for start in range(first, self.table.rows, ROWS):
                rows = slice(start, min(start + ROWS, self.table.rows))
                if several:
                    theirs = [parts[rows.start - first : rows.stop - first] for parts in found]
                else:
                    theirs = await self._find_all(sessions, readers, rows)
                own = OwnColumns(self.table.path.name, self.table.take(rows), rows.stop - rows.start)
                by_host = {host.name: parts for host, parts in zip(hosts, theirs, strict=True)}
                try:
                    part = await asyncio.to_thread(scorer.score, own, by_host)
                except PeerError as error:
                    self.fault = self.fault or error
                if self.fault is None:
                    unknown = [[one is None for one in parts] for parts in theirs]
                    yield part, np.array(unknown, np.bool_).reshape(len(hosts), len(part.scores))
                self.show.progress("scoring", rows.stop, self.table.rows)

    @contextlib.asynccontextmanager
    async def stand_ins(self, hosts: Sequence[Peer], first: int) -> AsyncIterator[list[SealedHost]]:
        """What takes the places of hosts in scoring the rows from `first` on, while the block runs."""
        kind, several = kind_of_model(self.half.model), len(self.ids.keys) > 1
        whole = slice(first, self.table.rows)

        async with self._open(hosts) as (sessions, readers):

            def stand_in(session: LookupSession, reader: DirectoryReader) -> SealedHost:
                found: list[list[bytes | None]] = []  # of all rows, where there are several keys

                async def find(rows: slice) -> list[bytes | None]:
                    if not several:
                        these = slice(first + rows.start, first + rows.stop)
                        return await self._find(session, reader, these)
                    if not found:
                        found.append(await self._find(session, reader, whole))
                    return found[0][rows]

                name = session.host.name
                answers = kind.answers(name, reader.layout)
                return SealedHost(name, answers, find, whole.stop - first)

            yield [stand_in(session, one) for session, one in zip(sessions, readers, strict=True)]

    @contextlib.asynccontextmanager
    async def _open(
        self, hosts: Sequence[Peer]
    ) -> AsyncIterator[tuple[list[LookupSession], list[DirectoryReader]]]:
        """A session with each host, and its directory. Raises as `fetch_directory`, and what `levels`
        does."""
        async with contextlib.AsyncExitStack() as stack:
            opened = [LookupSession(host, self.randomness.at("blinds", host.name)) for host in hosts]
            sessions = [await stack.enter_async_context(one.open()) for one in opened]
            readers = await together(
                [fetch_directory(self.site, self.half, session, self.show) for session in sessions]
            )
            for host, reader in zip(hosts, readers, strict=True):
                self._say(host, reader)
            yield sessions, readers

    def _say(self, host: Peer, reader: DirectoryReader) -> None:
        header = reader.header
        self.show.say(
            f"{host.name}'s directory is of {header.made:%Y-%m-%d %H:%M} UTC, with "
            f"{counted(header.rows, 'row')}"
        )
        if header.unknown_levels:
            self.levels(host, header.unknown_levels, header.rows)

    async def _find_all(
        self, sessions: Sequence[LookupSession], readers: Sequence[DirectoryReader], rows: slice
    ) -> list[list[bytes | None]]:
        return await together(
            [
                self._find(session, reader, rows)
                for session, reader in zip(sessions, readers, strict=True)
            ]
        )

    async def _find(
        self, session: LookupSession, reader: DirectoryReader, rows: slice
    ) -> list[bytes | None]:
        """A host's part of each of these rows.

        Each id is looked up once, by all keys at the same time, so that the host does not learn how many
        rows it knows.
        """
        keys = [KeyIds(key.ids, key.of_row[rows]) for key in self.ids.keys]
        places = [np.unique(key.of_row[key.of_row >= 0]).tolist() for key in keys]
        inputs = [
            one
            for number, (key, own) in enumerate(zip(keys, places, strict=True))
            for one in inputs_of(number, [key.ids[place] for place in own])
        ]
        outputs = await self._look_up(session, reader, inputs)
        return await asyncio.to_thread(_matched, reader, keys, places, outputs)

    async def _look_up(
        self, session: LookupSession, reader: DirectoryReader, inputs: Sequence[bytes]
    ) -> Bytes:
        """F of any number of inputs, shape (n, 64). What is asked for next follows from the answers, not
        from how fast anybody is."""
        size, key = reader.most_at_once, reader.header.key
        left = deque(range(0, len(inputs), size))
        found = np.empty((len(inputs), voprf.OUTPUT), np.uint8)
        under_way = deque[tuple[int, asyncio.Task[Bytes]]]()

        async def take(first: int, answered: asyncio.Task[Bytes]) -> RateIsFull | None:
            """Keep what was asked for; None, or why it has to be asked for again."""
            try:
                found[first : first + size] = await answered
            except RateIsFull as full:
                left.append(first)
                return full
            except Refused as refused:  # which ends the job, as where a host says no to an alignment
                stopped = PeerStopped(str(refused), for_peer=refused.for_peer)
                stopped.until_tomorrow = refused.until_tomorrow
                raise stopped from None
            return None

        try:
            while left or under_way:
                while left and len(under_way) < _AT_ONCE:
                    first = left.popleft()
                    asked = await session.begin(inputs[first : first + size], key)
                    finishing = session.finish(asked, lambda version: None)
                    under_way.append((first, asyncio.create_task(finishing)))
                full = await take(*under_way.popleft())
                if full is not None:  # what the host allows no more of in this minute waits for the next
                    while under_way:
                        await take(*under_way.popleft())
                    left = deque(sorted(left))
                    self.show.say(f"{full}: going on in {full.seconds:.0f} s")
                    await _wait_out(full.seconds)
        finally:
            for _, answered in under_way:
                answered.cancel()
        return found


async def _wait_out(seconds: float) -> None:
    """Wait until a host allows more."""
    await asyncio.sleep(seconds)


def _matched(
    reader: DirectoryReader, keys: Sequence[KeyIds], places: Sequence[list[int]], outputs: Bytes
) -> list[bytes | None]:
    """The parts of rows, by F of the ids at these places of each key."""
    matcher, at = RowMatcher(reader, len(keys[0].of_row)), 0
    for key, own in zip(keys, places, strict=True):
        matcher.add(key, own, outputs[at : at + len(own)])
        at += len(own)
    return matcher.found
