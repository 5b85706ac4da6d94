"""How long a role takes, by phase."""

import time
from collections import defaultdict
from collections.abc import Iterator
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


class ToldTime:
    """The time that a host takes, as its guest is told of it: in whole steps.

    Finer times would tell how many columns and bins it sums, and over how many rows. What is left of a
    step is told with a later message, so that the sum is right but for one.
    """

    def __init__(self) -> None:
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
        return whole
