"""How many labels hosts could have read so far, whatever became of the attempts in which they could."""

from collections import Counter
from collections.abc import Mapping
from typing import Protocol


class LabelCount(Protocol):
    """Where a guest counts what it opens for hosts, by host: over all attempts at a job, as a host that
    breaks one off keeps what it has read and has something else opened in the next. Who plays a fit
    again needs what was counted before it: that decides which iteration is its last."""

    def so_far(self) -> Counter[str]:
        """What was counted."""

    def add(self, labels: Mapping[str, int], most: float) -> bool:
        """Count an opening before it is made, unless a host's count would be above `most`; whether it
        was counted."""


class OneAttempt:
    """Counts what is opened in this process: for who makes one attempt alone."""

    def __init__(self) -> None:
        self._counted: Counter[str] = Counter()

    def so_far(self) -> Counter[str]:
        return Counter(self._counted)

    def add(self, labels: Mapping[str, int], most: float) -> bool:
        total = self._counted + Counter(labels)
        if max(total.values(), default=0) > most:
            return False
        self._counted = total
        return True
