"""A column with levels: categories, or numbers cut into bins or bands, against a base level."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats, Integers
from vfl.learn.binning import Column, bin_columns
from vfl.learn.crossings import crossing_name
from vfl.learn.small_levels import (
    MISSING,
    OTHER,
    Joined,
    Least,
    Size,
    band_names,
    join_bands,
    join_groups,
    join_small,
)
from vfl.text import counted

_MOST_LEVELS = 65_535  # codes are uint16; more levels are those of an id

LARGEST = 1e100
"""Of a number: squares of such numbers, and of their inverses, can still be summed."""


@dataclass(frozen=True)
class Rules:
    """A party's own choice of how its columns are prepared. Raises ValueError for an impossible one."""

    binned: tuple[str, ...] = ()  # numeric columns cut at quantiles into levels
    bins: int = 10  # of a binned column at most, missing not counted; 2 to 255
    missing: Literal["mean", "median", "level"] = "mean"  # of numeric columns that are not binned
    base: Mapping[str, str] = field(default_factory=dict)  # level by column; else the most exposed
    min_level_rows: int = 20  # levels with fewer rows count as one
    min_level_exposure: float = 0.0  # or with less exposure
    bands: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """By numeric column, where its bands begin, in order."""
    group: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    """By categorical column and name of a group, its levels."""
    splines: Mapping[str, int | tuple[float, ...]] = field(default_factory=dict)
    """By numeric column, the number of inner knots, at quantiles, or where they are."""
    polynomials: Mapping[str, int] = field(default_factory=dict)  # degree by numeric column
    interactions: tuple[tuple[str, str], ...] = ()  # pairs of columns with levels
    fuse: tuple[str, ...] = ()  # columns of bins or bands that are fitted by their steps
    credible: Mapping[str, float] = field(default_factory=dict)
    """By column with levels, how much a level must tell for a credibility of one half."""

    @property
    def least(self) -> Least:
        """What a level must have."""
        return Least(self.min_level_rows, self.min_level_exposure)

    @property
    def of_numbers(self) -> dict[str, str]:
        """What becomes of the numeric columns that are more than a slope, in words."""
        return {
            **dict.fromkeys(self.binned, "cut into bins"),
            **dict.fromkeys(self.bands, "cut into bands"),
            **dict.fromkeys(self.splines, "made a spline"),
            **dict.fromkeys(self.polynomials, "made a polynomial"),
        }

    def check_columns(self, categorical: Mapping[str, bool]) -> None:
        """Raises ValueError, naming the column, for rules that do not fit these; whether each is of
        categories is said by name."""
        crossed = [name for pair in self.interactions for name in pair]
        for name in (*self.of_numbers, *self.base, *self.group, *crossed, *self.fuse, *self.credible):
            if name not in categorical:
                rule = "interactions has" if name in crossed else "binned or base has"
                rule = "group has" if name in self.group else rule
                how = self.of_numbers.get(name, "")
                rule = "bands has" if "bands" in how else rule
                rule = "splines or polynomials has" if "made" in how else rule
                rule = "credible has" if name in self.credible else rule
                raise ValueError(f"there is no column '{name}', for which {rule} a rule")
        for name, what in self.of_numbers.items():
            if categorical[name]:
                raise ValueError(f"column '{name}' is categorical: only numbers are {what}")
        for name in self.group:
            if not categorical[name]:
                raise ValueError(f"column '{name}' is numeric: names are grouped, cut it into bands")
        for name in crossed:
            if not (categorical[name] or name in self.binned or name in self.bands):
                raise ValueError(
                    f"column '{name}' is numeric and has no levels, which interactions are of: cut it "
                    "into bands"
                )
        for name in self.credible:
            if not (categorical[name] or name in self.binned or name in self.bands):
                raise ValueError(
                    f"column '{name}' is numeric and has no levels, which credible is of: cut it into "
                    "bands"
                )
        for pair in self.interactions:
            if (name := crossing_name(pair)) in categorical:
                raise ValueError(f"column '{name}' is called like the interaction of two others")

    def __post_init__(self) -> None:
        if not 2 <= self.bins <= 255:
            raise ValueError("bins is 2 to 255")
        if self.min_level_rows < 1:
            raise ValueError("min_level_rows is 1 at least")


@dataclass(frozen=True)
class Factor:
    """A categorical or binned column: its levels against a base level."""

    name: str
    base: str
    levels: tuple[str, ...]  # by name or by edge, missing last; the base level is one of them
    rows: tuple[int, ...]  # of each level at fit; in earlier versions the base level's hold those joined
    joined: tuple[str, ...]
    """Levels that count as the base level: too few missing values, in models of earlier versions all of
    few rows."""
    edges: tuple[float, ...] | None  # of bins, each with its upper edge; None for categories
    labels: tuple[str, ...] | None = None  # of bands, whose names do not follow from their edges
    grouped: tuple[tuple[str, str], ...] = ()  # what is seen, and the level that it counts as
    rest: str = OTHER  # the level of categories that no row had, if it is one; else they are at the base
    joined_rows: tuple[int, ...] = ()  # of `joined`; none in models of earlier versions
    absent: tuple[str, ...] = ()  # levels that no row had, and that are at the base whatever `rest` is
    fused: bool = False  # whether it is fitted by the steps between its bins or bands
    credible: float = 0.0  # how much a level must tell for a credibility of one half; 0: no such penalty

    @property
    def others(self) -> tuple[str, ...]:
        """The levels that have a coefficient."""
        return tuple(level for level in self.levels if level != self.base)

    @property
    def bands(self) -> tuple[str, ...]:
        """The levels that have an order, of bins or bands."""
        return tuple(level for level in self.levels if level != MISSING)

    @property
    def code_of(self) -> dict[str, int]:
        """The code of each level, and of what counts as one: k is the k-th of `others`, counted from 1,
        and 0 the base level."""
        code_of = dict.fromkeys((self.base, *self.joined, *self.absent), 0)
        code_of |= {level: k for k, level in enumerate(self.others, start=1)}
        return {level: code_of[to] for level, to in self.grouped} | code_of

    @property
    def names(self) -> list[str]:
        """What places among the edges are called, a missing value last."""
        return [*(self.labels or bin_names(self.edges or ())), MISSING]

    def codes(self, values: NDArray[np.generic]) -> NDArray[np.uint16]:
        """The code of each value, shape (rows,); of a level that was not seen at fit that of `rest`, or
        else of the base level."""
        code_of = self.code_of
        unseen = code_of.get(self.rest, 0)
        places, names = self._named(values)
        return np.array([code_of.get(name, unseen) for name in names], np.uint16)[places]

    def named(self, values: NDArray[np.generic]) -> NDArray[np.generic]:
        """The level of each value by its name, None where it is missing and of no group."""
        levels = dict(self.grouped)
        places, names = self._named(values)
        known: list[str | None] = [levels.get(name, name) for name in names]
        found = [None if name == MISSING else name for name in known]
        return np.array(found, dtype=object)[places]

    def unseen(self, values: NDArray[np.generic]) -> int:
        """How many values are of a level (missing is one) that no row had at fit."""
        seen = {*self.levels, *self.joined, *(level for level, _ in self.grouped)}
        places, names = self._named(values)
        return int(np.array([name not in seen for name in names], np.bool_)[places].sum())

    def _named(self, values: NDArray[np.generic]) -> tuple[Integers, list[str]]:
        places, names = named_levels(self.name, values, self.edges)
        return places, names if self.labels is None else self.names


def fit_factor(name: str, values: NDArray[np.generic], rules: Rules, exposure: Floats | None) -> Factor:
    edges, whole = None, False
    if name in rules.bands:
        numbers = values.astype(np.float64)
        edges = band_edges(rules.bands[name])
        if np.isinf(numbers).any():
            raise ValueError(f"column '{name}' holds an infinite number")
        present = numbers[~np.isnan(numbers)]
        whole = bool((present == np.floor(present)).all())
    elif values.dtype != object:
        edges = _edges(name, values.astype(np.float64), rules)
    places, names = named_levels(name, values, edges)
    counts = np.bincount(places, minlength=len(names))
    sizes = counts if exposure is None else np.bincount(places, exposure, minlength=len(names))
    levels = {
        level: Size(rows, size)
        for level, rows, size in zip(names, counts.tolist(), sizes.tolist(), strict=True)
    }
    return factor_of(name, levels, edges, rules, whole=whole)


def factor_of(
    name: str,
    sizes: Mapping[str, Size],
    edges: tuple[float, ...] | None,
    rules: Rules,
    *,
    whole: bool = False,
) -> Factor:
    """The factor of a column, given how many of the rows to train on are of each level, in the order in
    which ties for the base level are decided; of bands, whether all values are `whole` numbers. Raises
    ValueError as `Design.fit`."""
    labels: tuple[str, ...] | None = None
    if name in rules.bands:
        edges, labels, sizes = _bands(name, sizes, rules, whole)
    rows = {level: size for level, size in sizes.items() if size.rows}
    if MISSING in rows:
        rows[MISSING] = rows.pop(MISSING)  # the last to be shown
    if rows.keys() <= {MISSING}:
        raise no_value(name)
    if len(rows) == 1:
        raise one_value(name, 0)
    if len(rows) > _MOST_LEVELS:
        raise ValueError(
            f"column '{name}' has {len(rows):,} levels, more than {_MOST_LEVELS:,}: if it is an id, "
            "leave it out (ignore)"
        )
    joined = join_groups(name, rows, rules.group[name]) if name in rules.group else Joined(rows)
    base = _base(name, joined.sizes, rules)
    few = joined.sizes.get(MISSING)
    if few is not None and base != MISSING and not rules.least.holds(few):
        joined = replace(joined, sizes={k: v for k, v in joined.sizes.items() if k != MISSING})
    else:
        few = None
    try:
        joined = join_small(joined, base, rules.least)
    except ValueError:
        joined = Joined({base: joined.sizes[base]})
    if name in rules.fuse and joined.grouped:
        raise ValueError(
            f"column '{name}' has bins with too little exposure (min_level_exposure), which have no "
            "order once they count as one: take fewer bins, or cut it into bands"
        )
    if len(joined.sizes) == 1:
        enough = counted(rules.min_level_rows, "row")
        if rules.min_level_exposure:
            enough += f" and an exposure of {rules.min_level_exposure:g}"
        rule = "min_level_rows, min_level_exposure" if rules.min_level_exposure else "min_level_rows"
        raise ValueError(
            f"column '{name}' has no level besides the base '{base}' with {enough} ({rule}): leave it "
            "out (ignore)"
        )
    return Factor(
        name,
        base,
        tuple(joined.sizes),
        tuple(size.rows for size in joined.sizes.values()),
        () if few is None else (MISSING,),
        edges,
        labels,
        tuple(joined.grouped.items()),
        joined.rest or OTHER,
        () if few is None else (few.rows,),
        (MISSING,) if joined.rest in joined.sizes and MISSING not in rows else (),
        name in rules.fuse,
        rules.credible.get(name, 0.0),
    )


def _base(name: str, sizes: Mapping[str, Size], rules: Rules) -> str:
    """The owner's base level, or the one with the largest exposure."""
    base = rules.base.get(name)
    if name in rules.fuse:
        if base == MISSING:
            raise ValueError(
                f"column '{name}' has missing values as the base, which are no band's neighbour (fuse): "
                "name a band"
            )
        sizes = {level: size for level, size in sizes.items() if level != MISSING}
    if base is None:
        return max(sizes, key=lambda level: sizes[level].exposure)
    if base not in sizes:
        more = f" and {len(sizes) - 5:,} more" if len(sizes) > 5 else ""
        known = ", ".join(f"'{level}'" for level in list(sizes)[:5])
        raise ValueError(f"column '{name}' has no level '{base}' to be the base: it has {known}{more}")
    return base


def _bands(
    name: str, sizes: Mapping[str, Size], rules: Rules, whole: bool
) -> tuple[tuple[float, ...], tuple[str, ...], dict[str, Size]]:
    """The bands of a column that have enough rows, given those of all and of missing values: their upper
    edges, their names and their sizes."""
    starts = rules.bands[name]
    own = [size for level, size in sizes.items() if level != MISSING]
    ends = join_bands(own, rules.least)
    if len(ends) == 1:
        raise ValueError(
            f"column '{name}' has no two bands with {counted(rules.min_level_rows, 'row')} "
            "(min_level_rows): let bands begin elsewhere, or leave it out (ignore)"
        )
    kept = [float(starts[end - 1]) for end in ends[:-1]]
    labels = tuple(band_names(kept, whole and all(start.is_integer() for start in kept)))
    joined: dict[str, Size] = {}
    for label, first, end in zip(labels, [0, *ends], ends, strict=False):
        total = own[first]
        for size in own[first + 1 : end]:
            total += size
        joined[label] = total
    if MISSING in sizes:
        joined[MISSING] = sizes[MISSING]
    return band_edges(kept), labels, joined


def band_edges(starts: Sequence[float]) -> tuple[float, ...]:
    """Upper edges of bands of which each but the first holds the number that it begins with: the
    largest numbers below."""
    return tuple(np.nextafter(np.array(starts, np.float64), -np.inf).tolist())


def _edges(name: str, values: Floats, rules: Rules) -> tuple[float, ...]:
    """Upper edges of all bins but the last, each a short number between the values it parts."""
    if np.isinf(values).any():
        raise ValueError(f"column '{name}' holds an infinite number")
    binned = bin_columns({name: values}, rules.bins, rules.min_level_rows)
    column, codes = binned.columns[0], binned.codes[0]
    lowest, highest = np.full(column.bins + 1, np.inf), np.full(column.bins + 1, -np.inf)
    np.fmin.at(lowest, codes, values)
    np.fmax.at(highest, codes, values)
    if column.bins == 1 and lowest[0] < highest[0]:
        raise no_bins(name, rules)
    assert column.edges is not None  # noqa: S101 - numbers have edges
    gaps = zip(highest.tolist(), column.edges.tolist(), lowest[1:].tolist(), strict=False)
    return tuple(short_edge(low, middle, high) for low, middle, high in gaps)


def short_edge(low: float, middle: float, high: float) -> float:
    """A number of few digits, whole if possible, at least `low` and below `high`, as `middle` is."""
    tried = [float(f"{x:.{digits}e}") for digits in range(17) for x in (middle, low)]
    fitting = [x for x in tried if low <= x < high]
    return next((x for x in fitting if x.is_integer()), fitting[0]) + 0.0  # never -0.0


def named_levels(
    name: str, values: NDArray[np.generic], edges: tuple[float, ...] | None
) -> tuple[Integers, list[str]]:
    """Names of levels, and the place of each value's among them, shape (rows,)."""
    if edges is not None:
        numbers = check_kind(name, values, categorical=False)
        column = Column(name, np.array(edges, np.float64), (), has_missing=True)
        return column.codes(numbers).astype(np.int64), [*bin_names(edges), MISSING]
    objects = check_kind(name, values, categorical=True)
    missing = (objects == np.array(None)) | (objects != objects)  # None, or NaN
    texts: list[str] = np.where(missing, MISSING, objects).tolist()
    names = sorted(set(texts))
    place_of = {level: place for place, level in enumerate(names)}
    return np.fromiter(map(place_of.__getitem__, texts), np.int64, len(texts)), names


def bin_names(edges: tuple[float, ...]) -> list[str]:
    """A bin holds its upper edge and not its lower one; Python's repr tells any two edges apart."""
    if not edges:
        return ["(present)"]
    numbers = [repr(edge).removesuffix(".0") for edge in edges]
    between = [f"{low} to {high}" for low, high in pairwise(numbers)]
    return [f"<= {numbers[0]}", *between, f"> {numbers[-1]}"]


def check_kind(name: str, values: NDArray[np.generic], categorical: bool) -> NDArray[np.generic]:
    """The values, if they are of the kind that they were at fit."""
    if (values.dtype == object) != categorical:
        kinds = ("numeric", "categorical") if categorical else ("categorical", "numeric")
        raise ValueError(f"column '{name}' is {kinds[0]} here but was {kinds[1]} in training")
    return values


def check_size(name: str, present: Floats) -> None:
    """Raises ValueError for numbers that are too large to be used."""
    if not np.abs(present).max(initial=0.0) <= LARGEST:
        raise ValueError(f"column '{name}' holds numbers beyond {LARGEST:g}: give it in another unit")


def no_base(name: str) -> ValueError:
    return ValueError(f"column '{name}' is numeric and not binned: it has no base level")


def no_bins(name: str, rules: Rules) -> ValueError:
    return ValueError(
        f"column '{name}' cannot be cut into bins of {counted(rules.min_level_rows, 'row')} "
        "(min_level_rows): do not bin it, or leave it out (ignore)"
    )


def no_value(name: str) -> ValueError:
    return ValueError(f"column '{name}' holds no value: leave it out (ignore)")


def one_value(name: str, missing: int) -> ValueError:
    besides = " besides missing ones" if missing else ""
    return ValueError(f"column '{name}' holds one value only{besides}: leave it out (ignore)")
