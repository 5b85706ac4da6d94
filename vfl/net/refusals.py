"""The lines about refused connections: at once while they are few, one a period when they are many."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable

from vfl.text import counted

AT_ONCE = 5  # different lines in a period
_NAMED = 5  # addresses of a summary
_KNOWN = 1000  # addresses, and reasons, that are counted apart


class Refusals:
    """Tells why connections were refused; `seconds` is the period, without one each has a line."""

    def __init__(self, say: Callable[[str], None], seconds: float = 0.0) -> None:
        self._say, self._seconds = say, seconds
        self._said: set[tuple[str, str]] = set()  # in this period
        self._addresses: Counter[str] = Counter()  # of those without a line
        self._reasons: Counter[str] = Counter()
        self._others = 0
        self._due: asyncio.TimerHandle | None = None

    def add(self, address: str, why: str) -> None:
        """A connection was refused."""
        if not self._seconds:
            self._tell(f"refused a connection from {address}: {why}")
            return
        if self._due is None:
            self._due = asyncio.get_running_loop().call_later(self._seconds, self._summarise)
        if (address, why) not in self._said and len(self._said) < AT_ONCE:
            self._said.add((address, why))
            self._tell(f"refused a connection from {address}: {why}")
            return
        for counts, key in ((self._addresses, address), (self._reasons, why)):
            if key in counts or len(counts) < _KNOWN:
                counts[key] += 1
        self._others += 1

    def close(self) -> None:
        """Tell what has not been told."""
        if self._due is not None:
            self._due.cancel()
            self._summarise()

    def _summarise(self) -> None:
        self._due = None
        count, addresses, reasons = self._others, self._addresses, self._reasons
        self._others, self._addresses, self._reasons = 0, Counter(), Counter()
        self._said.clear()
        if not count:
            return
        named = addresses.most_common(_NAMED)
        places = [f"{many:,} from {address}" for address, many in named]
        if rest := count - sum(many for _, many in named):
            places.append(f"{rest:,} from other addresses")
        whys = "; ".join(f"{why}: {many:,}" for why, many in reasons.most_common(3))
        what = counted(count, "more connection")
        self._tell(f"refused {what} within {self._seconds:.0f} s: {', '.join(places)} ({whys})")

    def _tell(self, line: str) -> None:
        # A terminal or log that is gone must not stop the service.
        with contextlib.suppress(OSError, ValueError):
            self._say(line)
