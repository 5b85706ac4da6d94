"""What a job tells the person who started it."""

import time
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Mask
from vfl.errors import DataError
from vfl.learn.binning import Features
from vfl.learn.drift import Profile, judge_drift
from vfl.learn.levels import Levels
from vfl.party.unknown_levels import beyond_chance, count_rows, describe_unknown


class Show(Protocol):
    """Where a job's news go: a terminal, a log, a test."""

    def say(self, line: str) -> None:
        """One line for the person at this party; never an id, key or value."""

    def progress(self, what: str, done: int, of: int | None) -> None:
        """How far a step is, None where nobody knows how much there is to do; called often."""


def say_unseen(show: Show, unseen: Mapping[str, int], levels: Mapping[str, Levels]) -> None:
    """Tell the owner of which columns a linear model met levels that no row had in training, those apart
    of which `say_unknown_levels` tells."""
    for column, rows in unseen.items():
        if column not in levels:
            show.say(
                f"note: column '{column}' has a level that was not in training in {rows:,} "
                f"row{'' if rows == 1 else 's'}: scored as the base level"
            )


def say_unknown_levels(show: Show, unknown: Mapping[str, Mask], levels: Mapping[str, Levels]) -> int:
    """Tell the owner of which columns a batch has levels that no row had in training.

    unknown: by column, which rows have one. Returns how many rows have one in a column in which they are
    more than chance makes.
    """
    for text in describe_unknown(unknown, levels).values():
        show.say(f"note: {text}")
    return count_rows(beyond_chance(unknown, levels))


def drift_of_columns(
    show: Show, profiles: Mapping[str, Profile], table: str, features: Features
) -> dict[str, float]:
    """The population stability index of the columns of a batch against the rows of training.

    Tells their owner of those that have shifted. Raises DataError for a column that was categorical and
    is numeric now, or the other way round.
    """
    try:
        return {
            name: say_drift(show, f"column '{name}' has", profile, features[name])
            for name, profile in profiles.items()
            if name in features
        }
    except ValueError as error:
        raise DataError(f"{table}: {error}: correct categorical in [data]") from None


def say_drift(show: Show, what: str, profile: Profile, values: NDArray[np.generic]) -> float:
    """The index of a batch's values against their profile; says it if they have shifted."""
    psi = profile.psi(values)
    verdict = judge_drift(psi, profile.groups, profile.rows, len(values))
    if verdict != "none":
        alike = len(values) > 1 and bool(np.all(values == values[0]))
        same = ": all rows have the same" if alike else ""
        show.say(f"note: {what} shifted since training (PSI {psi:.2f}, {verdict}){same}")
    return psi


class Once:
    """Says a line, and the same line again only after a while: a peer tries again every second."""

    def __init__(self, say: Callable[[str], None], seconds: float = 600.0) -> None:
        self._say, self._seconds = say, seconds
        self._said: dict[str, float] = {}  # when each line was said

    def __call__(self, line: str) -> None:
        now = time.monotonic()
        self._said = {text: at for text, at in self._said.items() if now - at < self._seconds}
        if self._said.setdefault(line, now) == now:
            self._say(line)
