"""What a check found, for people and for programs."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "FAIL"]


@dataclass(frozen=True)
class Finding:
    """One line of `vfl doctor`."""

    level: Level
    what: str
    """What was looked at: table, ids, [data], keys, listen, or a peer's name."""
    text: str
    """The whole sentence, with what to do."""
    advice: str = ""
    """Lines for [data] of the party file that would mend it, if there are any."""

    @property
    def line(self) -> str:
        """The finding for a terminal."""
        return f"{self.level:<4}  {self.text}"
