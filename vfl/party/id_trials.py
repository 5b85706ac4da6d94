"""Ways to write ids that are tried when few match, and what the rates say is to be done.

The ways follow from the job's rule and the number of id columns alone, so that all parties try the same:
the rule as it is, then other rules in its place, from those that change little to those that leave much
out. Of an id of several columns one column at a time is cleaned in another way, the others by the job's
rule, and what helps in each is put together and tried once more (`combine`).

All trials are of whole ids. A column alone (a number plate without the date of birth) can be guessed
where the id can not, and a peer that cheats finds out which of its guesses are known. So no trial leaves
a column out, nor all but few values of it (of a class of vehicle its digits): a party gives such a trial
no ids.

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
LOW = 0.5  # a rate that is lower does not fit
APART = 0.5  # of a column's distinct values, that another way has to keep apart at each party
DAYS_APART = 0.1  # the same where dates are read: one day may be written in several formats
_LOOKED_AT = 20_000  # rows, at most, that tell how many it keeps
_CHUNK = 65_536  # rows cleaned at a time
_HELD = 2_000_000  # rows, at most, whose cells by the present rule are held for all trials

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
    """What a trial compares: whole ids, each column cleaned in its way.

    column: the one whose way is not the job's, of an id of several columns; None if there is no such
    one, or if there may be several.
    """

    column: int | None
    ways: tuple[CleaningWay, ...]
    present: bool = False  # the job's rule

    @property
    def what(self) -> str:
        """Which columns are cleaned so, with a colon after them; nothing for an id of one column."""
        if self.column is not None:
            return f"column {self.column + 1}: "
        return "all columns: " if len(self.ways) > 1 else ""

    @property
    def rule(self) -> str:
        """How they are cleaned."""
        changed = self.ways if self.column is None else [self.ways[self.column]]
        ways = [str(way) for way in changed]
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
    present = _present(rule, columns)
    found = [Attempt(None, present, True)]
    for column, way in enumerate(present):
        others = [
            *(CleaningWay(steps, steps) for steps in _TEXT),
            *(CleaningWay(steps, steps, True) for steps in _DATES),
            *(CleaningWay(guest, host, True) for guest, host in _CROSSED),
        ]
        found += [
            Attempt(column if columns > 1 else None, (*present[:column], other, *present[column + 1 :]))
            for other in others
            if other != way
        ]
    return found


def _present(rule: Sequence[str], columns: int) -> tuple[CleaningWay, ...]:
    rules = [tuple(steps) for steps in by_column(rule, columns)]
    return tuple(CleaningWay(steps, steps, _reads_dates(steps)) for steps in rules)


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
    held: _Held = {}
    return [_trial(key, attempt, role, held) for attempt in tried]


def name_alike(alike: Sequence[Attempt]) -> str:
    """Attempts on the same columns that came to the same, as one."""
    return alike[0].what + "; ".join(attempt.rule for attempt in alike)


def combine(tried: Sequence[Attempt], rates: Sequence[MatchRate]) -> Attempt | None:
    """The best way of each column together; None where that has been tried."""
    present = tried[0].ways
    if len(present) == 1:
        return None
    ways = tuple(_best_of_column(tried, rates, column).ways[column] for column in range(len(present)))
    return None if any(ways == attempt.ways for attempt in tried) else Attempt(None, ways)


def advise(
    tried: Sequence[Attempt], rates: Sequence[MatchRate], names: Sequence[str], peer: str
) -> Advice:
    """What the rates say, for the owner of columns of these names who compared ids with `peer`.

    tried, rates: of `attempts` and, if there was one, of `combine`.
    """
    pairs = list(zip(tried, rates, strict=True))
    whole, now = pairs[0]
    if all(rate.common is None for rate in rates):
        return Advice(
            f"no way to write the ids could be compared with {peer}: there are too few ids for a "
            "sample, or one table is far larger than the other"
        )
    better = [(attempt, rate) for attempt, rate in pairs[1:] if _helps(rate, now)]
    if better:
        best, rate = _gentlest(better)
        return _use(whole, best, _outcome(rate, now, best, peer), names)
    if now.share is not None and now.share >= LOW:
        return Advice(
            f"the present rule fits: {_points(now)} of the smaller sample's ids match those of {peer}, "
            "and no other rule matches more"
        )
    which = (
        " (of several columns one at a time is cleaned in another way: two that are written differently "
        "in the same rows do not show)"
        if len(names) > 1
        else ""
    )
    return Advice(
        f"no rule helps with {peer}: these may be different ids, or different rows{which}; compare by "
        "phone what the id columns mean and how they are written"
    )


_Held = dict[tuple[int, int], list[bytes]]  # by column and first row: encoded cells


def _trial(key: OwnKey, attempt: Attempt, role: Literal["guest", "host"], held: _Held) -> Trial:
    chosen, present = key.columns, _present(key.rule, len(key.columns))
    rules = [list(way.guest if role == "guest" else way.host) for way in attempt.ways]

    def cleaned(place: int, cells: IdCells, steps: Sequence[str]) -> list[str]:
        return clean(cells, steps, key.reading.decimal, place in key.reading.as_text)

    def part(place: int, start: int) -> list[bytes]:
        if (place, start) in held and attempt.ways[place] == present[place]:
            return held[place, start]
        cells = cleaned(place, chosen[place][start : start + _CHUNK], rules[place])
        encoded = [_with_length(cell) if cell else b"" for cell in cells]
        if attempt.ways[place] == present[place] and start < _HELD:
            held[place, start] = encoded
        return encoded

    def keeps_apart(place: int) -> bool:
        cells = chosen[place][:: -(-len(chosen[place]) // _LOOKED_AT) or 1]
        old_ones = cleaned(place, cells, present[place].guest)
        pairs = zip(old_ones, cleaned(place, cells, rules[place]), strict=True)
        left = [(old, new) for old, new in pairs if old and new]
        least = DAYS_APART if attempt.ways[place].dates else APART
        return len({new for _, new in left}) >= least * len({old for old, _ in left})

    def values() -> Iterator[bytes]:
        if len(chosen) > 1:
            others = [i for i, way in enumerate(attempt.ways) if way != present[i]]
            if not all(keeps_apart(place) for place in others):
                return
        for start in range(0, len(chosen[0]), _CHUNK):
            if len(chosen) == 1:
                yield from map(_encoded, cleaned(0, chosen[0][start : start + _CHUNK], rules[0]))
                continue
            for cells in zip(*(part(place, start) for place in range(len(chosen))), strict=True):
                yield b"".join(cells) if all(cells) else b""

    return Trial(attempt.name, values)


def _encoded(cell: str) -> bytes:
    # surrogatepass: text that is broken in the file is compared as it is.
    return cell.encode("utf-8", "surrogatepass")


def _with_length(cell: str) -> bytes:
    encoded = _encoded(cell)
    return len(encoded).to_bytes(4, "big") + encoded


def _reads_dates(steps: RuleSteps) -> bool:
    return any(step.startswith("date") for step in steps)


def _helps(rate: MatchRate, now: MatchRate) -> bool:
    """Whether more match than under the present rule, beyond chance, and ids are kept apart."""
    if not rate.common or (now.common is not None and rate.interval[0] <= now.interval[1]):
        return False
    if any(new < KEEPS * old for new, old in zip(rate.filled, now.filled, strict=True)):
        return False
    loss = max([0.0, *(1 - new / old for new, old in zip(rate.ids, now.ids, strict=True) if old)])
    # n ids that fall at random on D values lose n / (2 D) of themselves, and match another table of as
    # many at a rate of n / D.
    return loss <= 1 - KEEPS and rate.interval[0] > BY_CHANCE * 2 * loss


def _best_of_column(tried: Sequence[Attempt], rates: Sequence[MatchRate], column: int) -> Attempt:
    own = [pair for pair in zip(tried, rates, strict=True) if pair[0].column == column]
    better = [(attempt, rate) for attempt, rate in own if _helps(rate, rates[0])]
    return _gentlest(better)[0] if better else tried[0]


def _gentlest(better: Sequence[tuple[Attempt, MatchRate]]) -> tuple[Attempt, MatchRate]:
    """The first whose rate is near the best one."""
    best = max(rate.share or 0.0 for _, rate in better)
    return next(pair for pair in better if (pair[1].share or 0.0) >= best - NEAR)


def _outcome(rate: MatchRate, now: MatchRate, best: Attempt, peer: str) -> str:
    return (
        f"{_points(rate)} of the smaller sample's ids match those of {peer} by {best.name}, "
        f"{_points(now)} by the present rule"
    )


def _use(present: Attempt, best: Attempt, found: str, names: Sequence[str]) -> Advice:
    crossed = [name for name, way in zip(names, best.ways, strict=True) if way.crossed]
    if crossed:
        return Advice(
            f"{found}: one party writes the day first, the other the month first. Write the dates as "
            f"2024-12-31 in one of the two files (here column {crossed[0]!r}); no rule reads both"
        )
    if len(names) > 1:
        places = zip(names, best.ways, present.ways, strict=True)
        at_fault = [repr(name) for name, way, old in places if way != old]
        which = "column " if len(at_fault) == 1 else "columns "
        found += f"; at fault: {which}{' and '.join(at_fault)}"
    steps = tuple(way.guest for way in best.ways)
    return Advice(
        f"{found}: set {_toml(names, steps)} in [data] of all party files (each with its own columns' "
        "names) and align again",
        tuple(tuple(map(without_version, rule)) for rule in steps),
    )


def _toml(names: Sequence[str], rules: Sequence[RuleSteps]) -> str:
    lists = ["[" + ", ".join(f'"{without_version(step)}"' for step in steps) + "]" for steps in rules]
    if len(set(lists)) == 1:
        return f"normalise = {lists[0]}"
    by_name = ", ".join(f'"{name}" = {steps}' for name, steps in zip(names, lists, strict=True))
    return f"normalise = {{ {by_name} }}"


def _points(rate: MatchRate) -> str:
    return "an unknown share" if rate.share is None else f"{100 * rate.share:.0f} %"
