"""How long a role takes, by phase."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

STEP = 1.0  # seconds


@dataclass(frozen=True)
class Clock:
    """Seconds by phase; of what a host took itself, by its name."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the seconds spent inside to a phase."""
        started = time.perf_counter()
        yield
        self.seconds[phase] += time.perf_counter() - started


Say = Callable[[str, float], float]
"""The seconds that a party says to a peer, in a message, that it took, of those that it has measured."""


def as_measured(peer: str, seconds: float) -> float:
    """Say what was measured."""
    return seconds


class SecondsNoted:
    """Says what was measured, and notes it: it is the one thing in messages that neither what came nor
    random numbers decide, and a replay has to know it."""

    def __init__(self) -> None:
        self.said: dict[str, list[float]] = defaultdict(list)
        """By peer, in order."""

    def __call__(self, peer: str, seconds: float) -> float:
        self.said[peer].append(seconds)
        return seconds


class SecondsSaid:
    """Says in a replay what was said in the run, whatever is measured now."""

    def __init__(self, said: Mapping[str, Iterable[float]]) -> None:
        self._left = {peer: iter(seconds) for peer, seconds in said.items()}

    def __call__(self, peer: str, seconds: float) -> float:
        # Beyond the run's last message, whose replay is then found to send another one: no time.
        return next(self._left.get(peer, iter(())), 0.0)


class ToldTime:
    """The time that a host takes, as its guest is told of it: in whole steps.

    Finer times would tell how many columns and bins it sums, and over how many rows. What is left of a
    step is told with a later message, so that the sum is right but for one.
    """

    def __init__(self, peer: str, say: Say) -> None:
        """`peer`: who is told."""
        self._peer, self._say = peer, say
        self._untold = 0.0

    def spent(self, seconds: float) -> None:
        """Add to what is told later."""
        self._untold += seconds

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Add the seconds spent inside."""
        started = time.perf_counter()
        yield
        self.spent(time.perf_counter() - started)

    def tell(self) -> float:
        """The whole steps that were not told yet."""
        whole = self._untold // STEP * STEP
        self._untold -= whole
        return self._say(self._peer, whole)
