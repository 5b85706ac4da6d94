"""Connections are taken, no more of them at a time than there may be before TLS has greeted.

asyncio's own servers take any number, each with some 300 KB for a handshake that may never come.
"""

import asyncio
import contextlib
import errno
import socket
from collections.abc import Awaitable, Callable

_AT_A_TIME = 100  # connections that are taken before anything else is done
_FULL = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_PAUSE = 1.0  # seconds for which none are taken where the system has no room


class Acceptor:
    """Takes the connections of a socket that listens, from now on until it is closed."""

    def __init__(
        self,
        listening: socket.socket,
        greet: Callable[[socket.socket], Awaitable[object]],
        most: int,
        refused: Callable[[str], None],
    ) -> None:
        """greet: has TLS greet at a connection, which has another owner from then on. most: of those
        that have not been greeted yet; further ones are closed. `refused` hears why none are taken for
        a while."""
        self._listening, self._greet, self._most, self._refused = listening, greet, most, refused
        self._loop = asyncio.get_running_loop()
        self._greeting: set[asyncio.Task[None]] = set()
        self._again: asyncio.TimerHandle | None = None
        self._begin()

    def _begin(self) -> None:
        self._loop.add_reader(self._listening, self._accept)

    def _accept(self) -> None:
        for _ in range(_AT_A_TIME):
            try:
                one, _address = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                self._refused(f"no connection can be taken for now: {error.strerror}")
                self._loop.remove_reader(self._listening)
                self._again = self._loop.call_later(_PAUSE, self._begin)
                return
            if len(self._greeting) >= self._most:
                one.close()
                continue
            task = self._loop.create_task(self._take(one))
            self._greeting.add(task)
            task.add_done_callback(self._greeting.discard)

    async def _take(self, one: socket.socket) -> None:
        # Errors of TLS are such, too: a client without a handshake is no matter for the log.
        with contextlib.suppress(OSError):
            await self._greet(one)

    def close(self) -> None:
        """Take no more; those that are being greeted go on."""
        if self._listening.fileno() >= 0:
            self._loop.remove_reader(self._listening)
            self._listening.close()
        if self._again is not None:
            self._again.cancel()

    async def wait_closed(self) -> None:
        """Part from those that have not been greeted."""
        for task in self._greeting:
            task.cancel()
        await asyncio.gather(*self._greeting, return_exceptions=True)
