"""What the parties of a job could learn about each other, in figures and words: before it, or after.

Figures of attacks are read off the curves of estimate.py, which were measured on other tables;
measuring.py measures on one's own. None is a proof: a better attack may be found.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from vfl.text import counted, in_words

Kind = Literal["told", "worked_out", "cheating"]
"""What the protocol tells outright; what who follows it can work out; what takes one that cheats."""

Basis = Literal["told", "bound", "curve", "measured", "unknown"]
"""Where a figure is from: the protocol itself, the most that it allows, a curve of what attacks got on
other tables, attacks on these; or there is none."""

COLUMNS = 5
"""Columns of a host, where their number is not known: so many those had that the curves are of."""

MISSED = "of what guessing misses"
AUC = "AUC"


TERMS: Mapping[str, str] = {
    MISSED: "the part of the answers that who guesses gets wrong and this party gets right: 0 % is no "
    "better than guessing, 100 % is everything",
    AUC: "how often, of a row with a claim and one without, it is told which is which: 0.5 is guessing, "
    "1 is everything",
    "bin": "a range of a column's values between two neighbouring thresholds, or a level",
    "candidate": "a split that a column of a host could make: one at each threshold between its bins",
    "joint tree": "a tree of the columns of all parties; others are of the guest's alone",
    "equation": "a sum that the guest is shown, of one number of each of some rows. Equations a row are "
    "their number divided by that of all rows: from 0.5 on a host's table is open",
    "direction": "on which side of a split a row goes: one for each split of a host that it meets",
}
"""What the words of disclosures mean."""


@dataclass(frozen=True)
class Disclosure:
    """What one party could learn about another in one way.

    success: the part of it that who learns gets right, guessing: the part that somebody does who was
    shown nothing, both of what `measure` says; None where there is no figure.
    """

    name: str
    kind: Kind
    who: str  # learns
    about: str  # the party whose values they are
    what: str
    how: str  # from what, and from how much of it
    basis: Basis
    amount: float | None = None
    unit: str = ""  # of the amount
    success: float | None = None
    guessing: float | None = None
    measure: str = ""
    lower: tuple[str, ...] = ()  # what makes it less: first a line of a file

    @property
    def advantage(self) -> float | None:
        """The part of what guessing misses: 0 is no better, 1 is all; None where there is no figure."""
        if self.success is None or self.guessing is None:
            return None
        return 0.0 if self.guessing >= 1 else (self.success - self.guessing) / (1 - self.guessing)

    @property
    def number(self) -> str:
        """How much of it, in words."""
        if self.success is None:
            return "told" if self.kind == "told" else "no figure"
        if self.measure.startswith(AUC):
            return f"{self.measure} {self.success:.2f}"
        return f"{percent(self.success)} {self.measure}".rstrip()

    @property
    def chance(self) -> str:
        """What guessing gets of it, in words."""
        if self.guessing is None:
            return ""
        return f"{self.guessing:.2f}" if self.measure.startswith(AUC) else percent(self.guessing)


def percent(share: float) -> str:
    """A share in words: '76 %'."""
    return f"{100 * share:.0f} %"


@dataclass(frozen=True)
class Ran:
    """What a run came to, as far as a party knows."""

    joint: int = 0  # trees of all parties' columns
    directions: Mapping[str, float] = field(default_factory=dict)  # told about a row, by host
    splits: Mapping[str, int] = field(default_factory=dict)  # by host
    iterations: int | None = None


@dataclass(frozen=True)
class Circumstances:
    """Who takes part in a job, over how many rows.

    `candidates`: split candidates of hosts, where they are known; `columns`: columns of the design of a
    linear model. `given`: sums a row that jobs on the alignment gave before, `counts`: whether they are
    known here; `allowed`: the limit, at the host that looks, infinity for none. `known`: how many
    different rows of that host's table the aligned ones are, 0 for as many; `training`: the share of
    rows that train. `ran`: None before a job.
    """

    guest: str
    hosts: Sequence[str]
    rows: int
    candidates: Mapping[str, int] = field(default_factory=dict)
    columns: Mapping[str, int] = field(default_factory=dict)
    given: float = 0.0
    allowed: float | None = None
    known: int = 0
    training: float = 1.0
    ran: Ran | None = None
    counts: bool = True

    @property
    def training_rows(self) -> int:
        """Different rows of a host that train."""
        return max(1, round(self.training * (self.known or self.rows)))

    @property
    def all_hosts(self) -> str:
        """Their names."""
        return in_words(self.hosts)


def common_rows(of: Circumstances) -> Disclosure:
    """What all parties learn before any training."""
    return Disclosure(
        "common_rows",
        "told",
        "every party with a table",
        "all others",
        f"which of its own rows all others know as well: {counted(of.rows, 'row')}",
        "the alignment, before any training",
        "told",
        of.rows,
        "rows",
        lower=("[policy] max_ids_a_day, max_alignments_a_day: fewer ids can be asked about",),
    )


def terms_of(found: Sequence[Disclosure]) -> dict[str, str]:
    """The words that need a meaning among what disclosures say, with it."""
    said = " ".join(f"{one.what} {one.how} {one.number} {one.measure}" for one in found)
    return {term: means for term, means in TERMS.items() if re.search(rf"\b{term}", said)}


def merged(found: Sequence[Disclosure]) -> list[Disclosure]:
    """The same for all hosts in one line, where they differ by the host's name alone."""
    lines: dict[Disclosure, list[tuple[str, str]]] = {}
    for one in found:
        lines.setdefault(replace(one, who="", about=""), []).append((one.who, one.about))
    return [
        replace(
            line,
            who=", ".join(dict.fromkeys(who for who, _ in names)),
            about=", ".join(dict.fromkeys(about for _, about in names)),
        )
        for line, names in lines.items()
    ]
