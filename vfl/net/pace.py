"""How often a peer may do something: a number of times at once, then so many a second."""


class Pace:
    """Counts down what is left; it comes back with time."""

    def __init__(self, at_once: int, a_second: float, now: float) -> None:
        self._most, self._a_second = at_once, a_second
        self._left, self._since = float(at_once), now

    def take(self, now: float) -> bool:
        """Take one of those left; False when there is none."""
        self._left = min(self._most, self._left + self._a_second * (now - self._since))
        self._since = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
