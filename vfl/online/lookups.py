"""Lookups of many requests at once: those of a moment share one message to a host, and none waits longer
than the host's deadline.

While a host is away nobody waits for it: requests go on at once with what [online.hosts.NAME] says.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from vfl.errors import (
    DayIsFull,
    PeerError,
    PeerLost,
    PeerStopped,
    PeerUnreachable,
    RateIsFull,
    Refused,
    VflError,
    fault,
)
from vfl.jobs.host_lookups import LOST, Looked
from vfl.protocols.lookup.layout import PartLayout

Ids = Sequence[bytes]

_MOST = 8192  # rows of a message; from some 4,000 on a row costs a tenth
_SHARED = 64  # rows of a request that share messages with other requests; more have their own
_AT_ONCE = 100  # rows for which the deadline is; it is as much longer as a request has more
_LOOK = 0.05  # seconds between two looks whether a host is there again
_REFUSED, _FULL = 5.0, 60.0  # seconds for which a host that refuses is not asked, for now or for today
_QUIET = 5.0  # seconds after which it is said again that a host is away
_TRIES = 3  # of a request whose rows were found in different directories


class HostDirectory(Protocol):
    """Lookups at one host for one model, over a session that is opened again whenever it ends."""

    host: str

    @property
    def is_here(self) -> bool:
        """Whether the host can be asked now."""

    @property
    def version(self) -> str:
        """The directory's version."""

    @property
    def made(self) -> datetime:
        """When the host made it."""

    @property
    def layout(self) -> PartLayout:
        """How its parts are packed."""

    async def look_up(self, ids: Sequence[Ids]) -> Looked:
        """The parts of rows, with the directory that they are of. Raises VflError."""


class HostAway(Exception):
    """A host did not answer in time; the text says why, in words that hold no value."""


@dataclass
class _Message:
    """Rows that are looked up together: each distinct one once."""

    places: dict[tuple[bytes, ...], int]
    found: "asyncio.Future[Looked]"


class SharedLookups:
    """Lookups at one host for one model, of any number of requests at a time."""

    def __init__(
        self, directory: HostDirectory, deadline: float, window: float, say: Callable[[str], None]
    ) -> None:
        """deadline, window: in seconds. `say` hears when the host goes away and comes back."""
        self.directory = directory
        self._deadline, self._window, self._say = deadline, window, say
        self._open: _Message | None = None
        self._overdue: set[int] = set()  # messages that somebody has given up
        self._tasks: set[asyncio.Task[None]] = set()
        self._why: str | None = None
        self._said: str | None = None  # why it is away, if that was said
        self._quiet_until = 0.0
        self._until = 0.0  # when a host that refuses is asked again
        self._waiting: asyncio.Task[None] | None = None

    @property
    def host(self) -> str:
        return self.directory.host

    @property
    def away(self) -> str | None:
        """Why the host does not answer now; None where it does, as far as is known."""
        if self._why is None and not self.directory.is_here:
            return "there is no session with it"
        return self._why

    async def find(self, ids: Sequence[Ids]) -> Looked:
        """The parts of rows, None of one that the host does not know, or that has no id.

        Raises HostAway unless the host answers in time.
        """
        asked = [row for row in map(tuple, ids) if any(row)]
        for _ in range(_TRIES):
            if self._why is not None and not (0 < self._until <= time.monotonic()):
                raise HostAway(self._why)
            messages = self._join(asked)
            await self._wait([message for message, _ in messages], len(asked))
            found = [message.found.result() for message, _ in messages]
            whole = found[-1] if found else self._directory_alone()
            if all(one.layout is whole.layout or one.layout == whole.layout for one in found):
                break
        else:
            raise HostAway("its directory changes too often")
        several = zip(found, messages, strict=True)
        parts = [one.parts[place] for one, (_, places) in several for place in places]
        if len(asked) < len(ids):
            of_asked = iter(parts)
            parts = [next(of_asked) if any(row) else None for row in ids]
        return Looked(whole.version, whole.made, whole.layout, parts)

    async def warm_up(self, keys: int) -> None:
        """Ask about a row that nobody has, so that whatever is compiled here and at the host is compiled
        before any request."""
        if self.directory.is_here:
            with contextlib.suppress(VflError):
                await self.directory.look_up([(secrets.token_bytes(16),) * keys])

    async def close(self) -> None:
        """End all lookups that nobody waits for."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _directory_alone(self) -> Looked:
        own = self.directory
        return Looked(own.version, own.made, own.layout, [])

    async def _wait(self, messages: Sequence[_Message], rows: int) -> None:
        several = {id(message): message.found for message in messages}
        waiting = set(several.values())
        deadline = self._deadline * max(1.0, rows / _AT_ONCE)
        loop = asyncio.get_running_loop()
        until, was_here = loop.time() + deadline, self.directory.is_here
        while waiting:
            left = until - loop.time()
            if left > 0 and (self.directory.is_here or not was_here):
                # Not cancelled: others wait for the same message.
                done, waiting = await asyncio.wait(
                    waiting, timeout=min(left, _LOOK), return_when=asyncio.FIRST_EXCEPTION
                )
                for found in done:
                    found.result()
                continue
            late = f"no answer within {deadline * 1000:.0f} ms"
            why = late if left <= 0 else LOST
            self._overdue |= {key for key, found in several.items() if not found.done()}
            self._note_away(why)
            raise HostAway(why)

    def _run(self, work: Coroutine[object, object, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _join(self, asked: Sequence[tuple[bytes, ...]]) -> list[tuple[_Message, list[int]]]:
        """Put rows into messages that have not left yet: these, in order, with the rows' places."""
        joined: list[tuple[_Message, list[int]]] = []
        shared = len(asked) <= _SHARED
        message = self._open if shared else None
        for row in asked:
            if message is None or (len(message.places) >= _MOST and row not in message.places):
                message = self._begin(shared=shared)
            if not joined or joined[-1][0] is not message:
                joined.append((message, []))
            joined[-1][1].append(message.places.setdefault(row, len(message.places)))
        return joined

    def _begin(self, *, shared: bool) -> _Message:
        message = _Message({}, asyncio.get_running_loop().create_future())
        if shared:
            self._open = message
        self._run(self._ask(message, self._window if shared else 0.0))
        return message

    async def _ask(self, message: _Message, window: float) -> None:
        if window:  # else all that joins until this begins is gathered
            await asyncio.sleep(window)
        if self._open is message:
            self._open = None
        try:
            found = await self.directory.look_up(list(message.places))
            if len(found.parts) != len(message.places):
                raise PeerError(f"{self.host} broke the protocol: another number of parts")
        except asyncio.CancelledError:
            message.found.cancel()
            raise
        except Exception as error:
            why = str(error) if isinstance(error, VflError) else fault(error)
            why = why.removeprefix(f"{self.host} is away: ")
            message.found.set_exception(HostAway(why))
            message.found.exception()  # seen, though nobody may be waiting any more
            self._overdue.discard(id(message))
            self._note_away(why, _seconds_of(error))
        else:
            message.found.set_result(found)
            self._overdue.discard(id(message))
            if not self._overdue:
                self._note_here()

    def _note_away(self, why: str, seconds: float = 0.0) -> None:
        """seconds: for which there is no use in asking again; 0: until it is known to be there."""
        if self._why is None and self._said is None and time.monotonic() >= self._quiet_until:
            self._say(f"{self.host} is away: {why}")
            self._said = why
        self._why, self._until = why, time.monotonic() + seconds if seconds else 0.0
        if not seconds and self._waiting is None:
            self._waiting = self._run(self._wait_for_host())

    def _note_here(self) -> None:
        if self._said is not None:
            self._say(f"{self.host} is back")
            self._said, self._quiet_until = None, time.monotonic() + _QUIET
        self._why, self._until = None, 0.0

    async def _wait_for_host(self) -> None:
        """Until there is a session again in which nothing is overdue."""
        try:
            await asyncio.sleep(_LOOK)
            while self._overdue or not self.directory.is_here:
                await asyncio.sleep(_LOOK)
            if not self._until:
                self._note_here()
        finally:
            self._waiting = None


def _seconds_of(error: Exception) -> float:
    """How long a host is not asked after an error: 0 for one of its session."""
    if isinstance(error, RateIsFull):
        return max(0.1, error.seconds)
    if isinstance(error, DayIsFull):
        return _FULL
    if isinstance(error, PeerUnreachable | PeerLost | PeerError | PeerStopped):
        return 0.0
    return _REFUSED if isinstance(error, Refused) else 0.0
