"""Levels that count as one: by the groups of their owner, and where they have too few rows.

A level with too few rows joins the others of its kind in one level, OTHER, or the group of all levels
that its owner does not name. If these have less than half of what a level must have, the smallest
other level joins them, and the name says so. None joins the base level, whose relativity of 1 would
then be said of rows of which nobody knows anything. Missing values are no such level: too few of them
are at the base level, as is a row that a party does not know, and are said to be there. Bands have an
order: one with too few rows joins its smaller neighbour.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from vfl.learn.levels import Levels

MISSING = "(missing)"
"""The level of missing values. A category of this very text means the same."""
OTHER = "(any other)"
"""The level of categories with too few rows; where several parties have agreed on a column's levels, of
all other categories."""
EVERY_OTHER = "*"
"""In a group: all levels that no group names."""

_FEW = 5  # rows, of which what is left of a column has no fewer, where a level must have as many


@dataclass(frozen=True)
class Size:
    """How many rows a level has, and their exposure: their weights' sum, or the rows again."""

    rows: int
    exposure: float

    def __add__(self, other: "Size") -> "Size":
        return Size(self.rows + other.rows, self.exposure + other.exposure)


@dataclass(frozen=True)
class Least:
    """What a level must have to have a coefficient of its own."""

    rows: int
    exposure: float = 0.0

    def holds(self, size: Size) -> bool:
        return size.rows >= self.rows and size.exposure >= self.exposure

    def holds_rest(self, size: Size) -> bool:
        """Whether it is enough for what is left of a column: half as much, so that few rows are rather
        seen as they are than hidden among those of another level."""
        rows = min(self.rows, max(self.rows / 2, _FEW))
        return size.rows >= rows and 2 * size.exposure >= self.exposure


@dataclass(frozen=True)
class Joined:
    """The levels that are left, in order, and where the others went."""

    sizes: dict[str, Size]
    grouped: dict[str, str] = field(default_factory=dict)
    """By level of the column, the level that it counts as, where that is another."""
    rest: str | None = None
    """The level that those count as which no row had; None: OTHER if there is one, else the base."""


def join_groups(name: str, sizes: Mapping[str, Size], group: Mapping[str, Sequence[str]]) -> Joined:
    """The levels with the owner's groups in place of their members, which are known again as those of a
    later table would be. Raises ValueError naming the column for groups that cannot be."""
    spelled = Levels(tuple(sizes), 0, 0)
    grouped: dict[str, str] = {}
    rest = None
    for label, members in group.items():
        named = [member for member in members if member != EVERY_OTHER]
        if len(named) < len(members):
            rest = label
        found = spelled.match(np.array(named, dtype=object))[0].tolist() if named else []
        for member, level in zip(named, found, strict=True):
            level = level or member
            if grouped.setdefault(level, label) != label:
                raise ValueError(f"column '{name}' has level '{level}' in two groups: leave it in one")
    if rest is not None:
        grouped = dict.fromkeys(sizes.keys() - {MISSING, *grouped}, rest) | grouped
    for label in group:
        if label in sizes and grouped.get(label) != label:
            raise ValueError(
                f"column '{name}' has a level '{label}' that is not in the group of this name: add it "
                "to the group, or call the group something else"
            )
    joined: dict[str, Size] = {}
    for level, size in sizes.items():
        to = grouped.get(level, level)
        joined[to] = joined[to] + size if to in joined else size
    order = {level: grouped[level] for level in sorted(grouped) if grouped[level] != level}
    return Joined(joined, order, rest)


def join_small(joined: Joined, base: str, least: Least) -> Joined:
    """The levels with those of too few rows in one; the base level stays as it is, unless it is that of
    all others. Raises ValueError where there is no other level that they could join."""
    sizes, rest = joined.sizes, joined.rest or OTHER
    small = [
        level for level, size in sizes.items() if level not in (base, MISSING) and not least.holds(size)
    ]
    if not small:
        return joined
    if rest == base:
        return _join(joined, [*small, base], base)
    if rest in sizes and rest not in small:
        small.append(rest)
    label = rest
    if not least.holds_rest(_total([sizes[level] for level in small])):
        others = [level for level in sizes if level not in (*small, base, MISSING)]
        if not others:
            raise ValueError("no level besides the base")
        smallest = min(others, key=lambda level: sizes[level].rows)
        label = f"{smallest}, {label}"
        small.append(smallest)
    return replace(_join(joined, small, label), rest=label)


def _join(joined: Joined, levels: Sequence[str], label: str) -> Joined:
    """The same with these levels as one, in the place of the first of them."""
    total = _total([joined.sizes[level] for level in levels])
    names = dict.fromkeys(label if level in levels else level for level in joined.sizes)
    sizes = {level: total if level == label else joined.sizes[level] for level in names}
    grouped = {level: label if to in levels else to for level, to in joined.grouped.items()}
    grouped |= {level: label for level in levels if level != label}
    return Joined(sizes, grouped, joined.rest)


def join_bands(sizes: Sequence[Size], least: Least) -> list[int]:
    """Ends (exclusive) of the bands that are left when each with too few rows has joined the smaller of
    its neighbours, the smallest first."""
    bands = [(size, end) for end, size in enumerate(sizes, start=1)]
    while len(bands) > 1:
        small = [place for place, (size, _) in enumerate(bands) if not least.holds(size)]
        if not small:
            break
        at = min(small, key=lambda place: bands[place][0].rows)
        beside = [place for place in (at - 1, at + 1) if 0 <= place < len(bands)]
        other = min(beside, key=lambda place: bands[place][0].rows)
        low, high = sorted((at, other))
        bands[low : high + 1] = [(bands[low][0] + bands[high][0], bands[high][1])]
    return [end for _, end in bands]


def band_names(edges: Sequence[float], whole: bool) -> list[str]:
    """Names of bands, each with its lower edge and without its upper one; of `whole` numbers with the
    last one that is in it."""
    numbers = [repr(edge).removesuffix(".0") for edge in edges]
    names = [f"< {numbers[0]}"]
    for low, high, shown, upper in zip(edges, edges[1:], numbers, numbers[1:], strict=False):
        if not whole:
            names.append(f"{shown} to < {upper}")
        elif high - low == 1:
            names.append(shown)
        else:
            last = repr(high - 1).removesuffix(".0")
            names.append(f"{shown}-{last}" if low >= 0 else f"{shown} to {last}")
    return [*names, f"{numbers[-1]}+" if whole else f">= {numbers[-1]}"]


def _total(sizes: Sequence[Size]) -> Size:
    total = Size(0, 0.0)
    for size in sizes:
        total += size
    return total
