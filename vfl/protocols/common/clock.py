"""How long a role takes, by phase."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


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
