"""What a job tells the person who started it."""

import time
from collections.abc import Callable
from typing import Protocol


class Show(Protocol):
    """Where a job's news go: a terminal, a log, a test."""

    def say(self, line: str) -> None:
        """One line for the person at this party; never an id, key or value."""

    def progress(self, what: str, done: int, of: int) -> None:
        """How far a step is; called often."""


class Silent:
    """Tells nobody."""

    def say(self, line: str) -> None:
        """Drop the line."""

    def progress(self, what: str, done: int, of: int) -> None:
        """Drop the news."""


class Once:
    """Says a line, and the same line again only after a while: a peer tries again every second."""

    def __init__(self, say: Callable[[str], None], seconds: float = 600.0) -> None:
        self._say, self._seconds = say, seconds
        self._said: dict[str, float] = {}  # when each line was said

    def __call__(self, line: str) -> None:
        now = time.monotonic()
        self._said = {text: at for text, at in self._said.items() if now - at < self._seconds}
        if self._said.setdefault(line, now) == now:
            self._say(line)
