"""Text that waits for its reader, so that nobody else has to.

A pipe that nobody reads is full after 64 KiB, a terminal is held by Ctrl-S: who writes then waits, and
with an event loop all its sessions do. So a thread of its own writes, and what waits for it is bounded:
beyond MOST bytes text is dropped, and a line in its place says how many lines that were.
"""

import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from vfl.text import counted

MOST = 1024 * 1024  # bytes that wait


@dataclass(frozen=True)
class _Text:
    data: bytes
    lines: int


class Backlog:
    """Writes to a descriptor in a thread; `on_gone` is called there once nobody reads it any more.

    `written`: how a line that is put in the place of others is written.
    """

    def __init__(
        self,
        descriptor: int,
        encoding: str,
        on_gone: Callable[[], object],
        written: Callable[[str], str] = str,
    ) -> None:
        # Its own: the caller's may be closed, and its number be another file's, while text waits.
        self._descriptor = os.dup(descriptor)
        self._encoding, self._on_gone, self._written = encoding, on_gone, written
        self._changed = threading.Condition()
        self._waiting: deque[_Text] = deque()
        self._size = 0  # bytes that wait, and those that are being written
        self._dropped = 0  # lines since the last one that waits
        self._closed = self._done = False
        threading.Thread(target=self._work, name="vfl-backlog", daemon=True).start()

    def put(self, text: str) -> None:
        """Have text written, or drop it where too much waits already."""
        given = _Text(text.encode(self._encoding, "backslashreplace"), text.count("\n"))
        with self._changed:
            if self._size + len(given.data) > MOST:
                self._dropped += given.lines
                return
            if self._dropped:
                self._add(self._note())
            self._add(given)
            self._changed.notify_all()

    def _add(self, text: _Text) -> None:
        self._waiting.append(text)
        self._size += len(text.data)

    def _note(self) -> _Text:
        """A line in the place of those that were dropped."""
        lines, self._dropped = counted(self._dropped, "line"), 0
        note = self._written(f"note: {lines} could not be written (nobody read them)")
        return _Text(f"{note}\n".encode("ascii"), 1)

    def close(self, seconds: float) -> bool:
        """Take no more, and wait so long for the reader; whether all there was has been written."""
        deadline = time.monotonic() + seconds
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            while not self._done:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(min(left, 1.0))
        return True

    def _work(self) -> None:
        try:
            while (text := self._next()) is not None:
                _write(self._descriptor, text.data)
                with self._changed:
                    self._size -= len(text.data)
        except OSError:
            self._on_gone()
        os.close(self._descriptor)
        with self._changed:
            self._done = True
            self._changed.notify_all()

    def _next(self) -> _Text | None:
        """What is to be written, as soon as there is something; None at the end."""
        with self._changed:
            while True:
                if not self._waiting and self._dropped:
                    self._add(self._note())
                if self._waiting:
                    return self._waiting.popleft()
                if self._closed:
                    return None
                self._changed.wait()


def _write(descriptor: int, data: bytes) -> None:
    """Write all, however long it takes. Raises OSError when nobody reads any more."""
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:  # somebody else who has it open may have set it so
            select.select([], [descriptor], [])
