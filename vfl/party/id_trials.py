"""Ways to write ids that are tried when few match, and what the rates say is to be done.

The ways follow from the job's rule and the number of id columns alone, so that all parties try the same.
For an id of one column: the rule as it is, then other rules in its place, from those that change little
to those that leave much out. For an id of several columns: the whole id under the job's rule, then each
column alone under its own rule and under the others. What helps in each column is put together and tried
once more on the whole id (`combined`), for single columns of few values match by chance.

A rule is advised only if it keeps apart what the present one keeps apart: digits alone make any two
tables of plates match.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from vfl.party.id_cells import IdReading
from vfl.party.ids import by_column, clean, in_words, without_version
from vfl.party.sections import DataSection
from vfl.protocols.align.match_rates import MatchRate, Trial

IdCells = Sequence[str | None]
RuleSteps = tuple[str, ...]

KEEPS = 0.9  # of its distinct ids, and of its rows, that a rule has to leave at each party
NEAR = 0.01  # of the best rate: then the rule that changes less is advised
BY_CHANCE = 3  # times the rate at which ids that a rule has joined would match by chance
LOW = 0.5  # a column whose rate is lower is at fault
_CHUNK = 65_536  # rows cleaned at a time

# Rules in place of the job's, from gentle to strong.
_TEXT: tuple[RuleSteps, ...] = (
    ("trim",),
    ("nfkc", "trim", "upper"),
    ("plate",),
    ("vin",),
    ("digits",),
    ("phone",),
    ("plate", "nozeros"),
    ("digits", "nozeros"),
)
_DATES: tuple[RuleSteps, ...] = (("date",), ("date:dmy",), ("date:mdy",))
# One party writes the day first, the other the month: no one rule reads both.
_CROSSED: tuple[tuple[RuleSteps, RuleSteps], ...] = (
    (("date:dmy",), ("date:mdy",)),
    (("date:mdy",), ("date:dmy",)),
)


@dataclass(frozen=True)
class CleaningWay:
    """How the cells of one column are cleaned: the steps at the guest and at the host, the same but for
    dates whose order differs."""

    guest: RuleSteps
    host: RuleSteps
    dates: bool = False

    @property
    def crossed(self) -> bool:
        return self.guest != self.host

    def __str__(self) -> str:
        if self.crossed:
            return f"{in_words(self.guest)} at the guest, {in_words(self.host)} at the host"
        return in_words(self.guest)


@dataclass(frozen=True)
class Attempt:
    """What a trial compares: a column of the id, the whole id if None; a way for each column in it."""

    column: int | None
    ways: tuple[CleaningWay, ...]
    present: bool = False  # the job's rule
    several: bool = False  # of an id of several columns

    @property
    def what(self) -> str:
        """Which columns, with a colon after them; nothing for an id of one column."""
        if self.column is not None:
            return f"column {self.column + 1}: "
        return "all columns: " if self.several else ""

    @property
    def rule(self) -> str:
        """How they are cleaned."""
        ways = [str(way) for way in self.ways]
        rule = ways[0] if len(set(ways)) == 1 else " | ".join(ways)
        return f"{rule} (the present rule)" if self.present else rule

    @property
    def name(self) -> str:
        """The same at all parties: columns by their number."""
        return self.what + self.rule


class Advice(msgspec.Struct, frozen=True):
    """What a person is told: a sentence, and the rule to set, by column, if one helps."""

    text: str
    normalise: tuple[RuleSteps, ...] | None = None


def attempts(rule: Sequence[str], columns: int) -> list[Attempt]:
    """All that is tried for an id of so many columns; the first is the job's rule on the whole id."""
    rules = [tuple(steps) for steps in by_column(rule, columns)]
    present = tuple(CleaningWay(steps, steps, _reads_dates(steps)) for steps in rules)
    found = [Attempt(None, present, True, columns > 1)]
    for column, way in enumerate(present):
        place = column if columns > 1 else None
        if columns > 1:
            found.append(Attempt(place, (way,), True, True))
        others = [
            *(CleaningWay(steps, steps) for steps in _TEXT),
            *(CleaningWay(steps, steps, True) for steps in _DATES),
            *(CleaningWay(guest, host, True) for guest, host in _CROSSED),
        ]
        found += [Attempt(place, (other,), False, columns > 1) for other in others if other != way]
    return found


@dataclass(frozen=True)
class OwnKey:
    """A key of a party's table: the cells of its columns, as many in each, their names, which are shown
    here alone, the rule that the parties have agreed on, and how cells are read."""

    columns: Sequence[IdCells]
    names: Sequence[str]
    rule: Sequence[str]
    reading: IdReading = field(default_factory=IdReading)

    @classmethod
    def all_of(cls, data: DataSection, by_key: Sequence[Sequence[IdCells]]) -> "list[OwnKey]":
        """The keys of a party file, of a table's columns by key."""
        return [
            cls(columns, key.id, key.normalise, reading)
            for key, columns, reading in zip(data.keys, by_key, data.id_readings, strict=True)
        ]


def trials(key: OwnKey, tried: Sequence[Attempt], role: Literal["guest", "host"]) -> list[Trial]:
    """The trials of these attempts on a party's key."""
    return [_trial(key, attempt, role) for attempt in tried]


def name_alike(alike: Sequence[Attempt]) -> str:
    """Attempts on the same columns that came to the same, as one."""
    return alike[0].what + "; ".join(attempt.rule for attempt in alike)


def combine(tried: Sequence[Attempt], rates: Sequence[MatchRate]) -> Attempt | None:
    """The best way of each column together, where that is not the present rule; None for one column."""
    whole = tried[0]
    if not whole.several:
        return None
    ways = tuple(_best_of_column(tried, rates, column).ways[0] for column in range(len(whole.ways)))
    return None if ways == whole.ways else Attempt(None, ways, False, True)


def advise(
    tried: Sequence[Attempt], rates: Sequence[MatchRate], names: Sequence[str], peer: str
) -> Advice:
    """What the rates say, for the owner of columns of these names who compared ids with `peer`.

    tried, rates: of `attempts` and, if there was one, of `combined`.
    """
    pairs = list(zip(tried, rates, strict=True))
    whole, now = pairs[0]
    if all(rate.common is None for rate in rates):
        return Advice(
            f"no way to write the ids could be compared with {peer}: there are too few ids for a "
            "sample, or one table is far larger than the other"
        )
    better = [
        (attempt, rate)
        for attempt, rate in pairs[1:]
        if attempt.column is None and _helps(attempt, rate, now)
    ]
    if better:
        best, rate = _gentlest(better)
        return _use(best, rate, now, names, peer)
    if now.share is not None and now.share >= LOW:
        return Advice(
            f"the present rule fits: {_points(now)} of the smaller sample's ids match those of {peer}, "
            "and no other rule matches more"
        )
    if whole.several and (text := _columns_at_fault(pairs, names, peer)):
        return Advice(text)
    return Advice(
        f"no rule helps with {peer}: these may be different ids, or different rows; compare by phone "
        "what the id columns mean"
    )


def _trial(key: OwnKey, attempt: Attempt, role: Literal["guest", "host"]) -> Trial:
    places = range(len(key.columns)) if attempt.column is None else [attempt.column]
    chosen = [key.columns[place] for place in places]
    as_text = [place in key.reading.as_text for place in places]
    rules = [list(way.guest if role == "guest" else way.host) for way in attempt.ways]

    def values() -> Iterator[bytes]:
        for start in range(0, len(chosen[0]), _CHUNK):
            parts = [
                clean(column[start : start + _CHUNK], steps, key.reading.decimal, text)
                for column, steps, text in zip(chosen, rules, as_text, strict=True)
            ]
            if len(parts) == 1:
                yield from map(_encoded, parts[0])
                continue
            for cells in zip(*parts, strict=True):
                yield b"".join(map(_with_length, cells)) if all(cells) else b""

    return Trial(attempt.name, values)


def _encoded(cell: str) -> bytes:
    # surrogatepass: text that is broken in the file is compared as it is.
    return cell.encode("utf-8", "surrogatepass")


def _with_length(cell: str) -> bytes:
    encoded = _encoded(cell)
    return len(encoded).to_bytes(4, "big") + encoded


def _reads_dates(steps: RuleSteps) -> bool:
    return any(step.startswith("date") for step in steps)


def _helps(attempt: Attempt, rate: MatchRate, now: MatchRate) -> bool:
    """Whether more match than under the present rule, beyond chance, and ids are kept apart."""
    if not rate.common or (now.common is not None and rate.interval[0] <= now.interval[1]):
        return False
    if any(new < KEEPS * old for new, old in zip(rate.filled, now.filled, strict=True)):
        return False
    if attempt.column is not None and any(way.dates for way in attempt.ways):
        return True  # dates in two formats are fewer once they are read; the whole id will tell
    loss = max([0.0, *(1 - new / old for new, old in zip(rate.ids, now.ids, strict=True) if old)])
    # n ids that fall at random on D values lose n / (2 D) of themselves, and match another table of as
    # many at a rate of n / D.
    return loss <= 1 - KEEPS and rate.interval[0] > BY_CHANCE * 2 * loss


def _best_of_column(tried: Sequence[Attempt], rates: Sequence[MatchRate], column: int) -> Attempt:
    own = [pair for pair in zip(tried, rates, strict=True) if pair[0].column == column]
    (present, now), *others = own
    better = [pair for pair in others if _helps(*pair, now)]
    return _gentlest(better)[0] if better else present


def _gentlest(better: Sequence[tuple[Attempt, MatchRate]]) -> tuple[Attempt, MatchRate]:
    """The first whose rate is near the best one."""
    best = max(rate.share or 0.0 for _, rate in better)
    return next(pair for pair in better if (pair[1].share or 0.0) >= best - NEAR)


def _use(best: Attempt, rate: MatchRate, now: MatchRate, names: Sequence[str], peer: str) -> Advice:
    found = (
        f"{_points(rate)} of the smaller sample's ids match those of {peer} by {best.name}, "
        f"{_points(now)} by the present rule"
    )
    crossed = [name for name, way in zip(names, best.ways, strict=True) if way.crossed]
    if crossed:
        return Advice(
            f"{found}: one party writes the day first, the other the month first. Write the dates as "
            f"2024-12-31 in one of the two files (here column {crossed[0]!r}); no rule reads both"
        )
    steps = tuple(way.guest for way in best.ways)
    return Advice(
        f"{found}: set {_toml(names, steps)} in [data] of all party files (each with its own columns' "
        "names) and align again",
        tuple(tuple(map(without_version, rule)) for rule in steps),
    )


def _columns_at_fault(
    pairs: Sequence[tuple[Attempt, MatchRate]], names: Sequence[str], peer: str
) -> str | None:
    """Which columns match by no rule while others do."""
    tried, rates = [list(of) for of in zip(*pairs, strict=True)]
    best = []
    for column in range(len(names)):
        chosen = _best_of_column(tried, rates, column)
        best.append(next(rate for attempt, rate in pairs if attempt == chosen))
    known = [(name, rate) for name, rate in zip(names, best, strict=True) if rate.share is not None]
    low = [(name, rate) for name, rate in known if rate.share is not None and rate.share < LOW]
    fine = [(name, rate) for name, rate in known if (name, rate) not in low]
    if not low or not fine:
        return None
    shown = ", ".join(f"column {name!r} matches at {_points(rate)}" for name, rate in low)
    others = ", ".join(f"{name!r} at {_points(rate)}" for name, rate in fine)
    return (
        f"{shown} with {peer} by every rule, {others}: compare by phone what that column holds and how "
        "it is written"
    )


def _toml(names: Sequence[str], rules: Sequence[RuleSteps]) -> str:
    lists = ["[" + ", ".join(f'"{without_version(step)}"' for step in steps) + "]" for steps in rules]
    if len(set(lists)) == 1:
        return f"normalise = {lists[0]}"
    by_name = ", ".join(f'"{name}" = {steps}' for name, steps in zip(names, lists, strict=True))
    return f"normalise = {{ {by_name} }}"


def _points(rate: MatchRate) -> str:
    return "an unknown share" if rate.share is None else f"{100 * rate.share:.0f} %"
