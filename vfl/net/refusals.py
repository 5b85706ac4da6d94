"""The lines about refused connections: at once while they are few, one a period when they are many.

Some never end: a load balancer looks every few seconds whether the port is open. So a period that
follows one with few refusals is twice as long, up to LONGEST, and what both have is said in the first
alone. A flood is summed up once a first period, also where it begins in a longer one. Those of peers, by
what they showed, have lines of their own in each: somebody waits for them.
"""

import asyncio
import contextlib
import math
from collections import Counter
from collections.abc import Callable

from vfl.text import counted

AT_ONCE = 5  # different lines in a period, and as many about peers
LONGEST = 60  # times the first period
FEW = 60  # refusals in a first period; a flood has more
_NAMED = 5  # addresses of a summary
_KNOWN = 1000  # addresses, and reasons, that are counted apart


class Refusals:
    """Tells why connections were refused; `seconds` is the first period, without one each has a line."""

    def __init__(self, say: Callable[[str], None], seconds: float = 0.0) -> None:
        self._say, self._seconds = say, seconds
        self._period = seconds  # the present one, or the last
        self._ended = -math.inf  # when the last one did
        self._said: dict[tuple[str, str], bool] = {}  # in this period; whether about a peer
        self._before: set[tuple[str, str]] = set()  # of the one before
        self._again: set[tuple[str, str]] = set()  # of these, in this one too
        self._addresses: Counter[str] = Counter()  # of those without a line
        self._reasons: Counter[str] = Counter()
        self._others = 0
        self._due: asyncio.TimerHandle | None = None
        self._began = 0.0
        self._window, self._lately = -math.inf, 0  # refusals in a first period, since when
        self._flooded = False  # in this period, or the last

    def add(self, address: str, why: str, of_peer: bool = False) -> None:
        """A connection was refused, which may have been a peer's."""
        line = (address, why)
        if not self._seconds:
            self._tell(f"refused a connection from {address}: {why}")
            return
        if self._due is None:
            self._begin()
        told = sum(peer == of_peer for peer in self._said.values())
        if line in self._before and not of_peer:
            self._again.add(line)
        elif line not in self._said and told < AT_ONCE:
            self._said[line] = of_peer
            self._tell(f"refused a connection from {address}: {why}")
            return
        for counts, key in ((self._addresses, address), (self._reasons, why)):
            if key in counts or len(counts) < _KNOWN:
                counts[key] += 1
        self._others += 1
        self._look_for_flood()

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() - self._ended <= self._period:
            longer = min(2 * self._period, LONGEST * self._seconds)
            self._period = self._seconds if self._flooded else longer
        else:
            self._period = self._seconds
            self._before.clear()
        self._began, self._flooded = loop.time(), False
        self._due = loop.call_later(self._period, self._summarise)

    def _look_for_flood(self) -> None:
        """End a long period soon when a flood begins in it."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if now - self._window > self._seconds:
            self._window, self._lately = now, 0
        self._lately += 1
        if self._lately <= FEW or self._flooded:
            return
        self._flooded = True
        if self._due is not None and self._began + self._period > now + self._seconds:
            self._due.cancel()
            self._period = now + self._seconds - self._began
            self._due = loop.call_later(self._seconds, self._summarise)

    def close(self) -> None:
        """Tell what has not been told."""
        if self._due is not None:
            self._due.cancel()
            self._summarise()

    def _summarise(self) -> None:
        self._due, self._ended = None, asyncio.get_running_loop().time()
        count, addresses, reasons = self._others, self._addresses, self._reasons
        self._others, self._addresses, self._reasons = 0, Counter(), Counter()
        self._before = {*self._said, *self._again}
        self._said.clear()
        self._again.clear()
        if not count:
            return
        named = addresses.most_common(_NAMED)
        places = [f"{many:,} from {address}" for address, many in named]
        if rest := count - sum(many for _, many in named):
            places.append(f"{rest:,} from other addresses")
        whys = "; ".join(f"{why}: {many:,}" for why, many in reasons.most_common(3))
        what = counted(count, "more connection")
        self._tell(f"refused {what} within {self._period:.0f} s: {', '.join(places)} ({whys})")

    def _tell(self, line: str) -> None:
        # A terminal or log that is gone must not stop the service.
        with contextlib.suppress(OSError, ValueError):
            self._say(line)
