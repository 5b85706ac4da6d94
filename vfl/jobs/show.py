"""What a job tells the person who started it."""

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
