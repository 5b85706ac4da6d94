"""What a check found, for people and for programs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

CheckLevel = Literal["ok", "note", "FAIL"]


@dataclass(frozen=True)
class CheckResult:
    """One line of `vfl doctor`."""

    level: CheckLevel
    what: str
    """What was looked at: table, ids, [data], keys, listen, the party file, or a peer's name."""
    text: str
    """The whole sentence, with what to do."""
    advice: str = ""
    """Lines for [data] of the party file that would mend it, if there are any."""

    @property
    def line(self) -> str:
        """The finding for a terminal."""
        return f"{self.level:<4}  {self.text}"


Reporter = Callable[[CheckResult], None]
