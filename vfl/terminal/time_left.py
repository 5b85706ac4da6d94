"""How long a step will still take, told so that it neither jumps nor lags behind."""

import math

_STEADY = 5.0  # seconds over which what is told follows what is seen, at least
_SHARE = 0.2  # and of the time since the step began
_MOST = 2.0  # times what is seen, or below a half of it, nothing is told


class TimeLeft:
    """Of one step, from `now` (seconds, monotonic) and what was done of it by then.

    What is seen is the mean pace since the step began. The end that follows moves what was told by a
    part, the smaller the less time has passed, and by nearly all of it over a fifth of the step.
    """

    def __init__(self, now: float, done: int) -> None:
        self._started = self._told = now
        self._first = done
        self._end: float | None = None

    def seconds(self, now: float, done: int, of: int) -> float | None:
        """None where nothing has been seen yet."""
        if not self._first < done < of or now <= self._started:
            return None
        seen = (now - self._started) * (of - done) / (done - self._first)
        if self._end is None:
            self._end = now + seen
        pace = max(_STEADY, _SHARE * (now - self._started))
        self._end += (1 - math.exp((self._told - now) / pace)) * (now + seen - self._end)
        self._told = now
        left = min(max(self._end - now, seen / _MOST), _MOST * seen)
        self._end = now + left
        return left


def rounded(seconds: float) -> int:
    """As precise as an estimate is: of minutes no single second."""
    unit = next(unit for most, unit in ((20, 1), (120, 5), (600, 10), (math.inf, 60)) if seconds < most)
    return unit * round(seconds / unit)
