"""The levels of factors and the cells of tables by them: which are told, and which are withheld.

Levels of few rows are put together. Of a table of two factors cells of few rows are withheld, and others
with them, so that they do not follow from the sums of rows and columns. Withheld cells are the edges of
a graph whose nodes are the table's rows and columns. What follows from margins and from cells that are
told are sums along its cuts (Gusfield, SIAM J. Computing 17, 1988), with different signs for edges that
cross one way and the other. So no cut may have fewer rows than a cell must have, all its edges together.
First each small cell gets a rectangle of three others of enough rows (the hypercube method: Repsilber,
Statistical Journal of the UN ECE, 1994), by which most cuts are heavy enough; then, as long as one is
not, the smallest cell that crosses it is withheld as well.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats, Integers, Mask
from vfl.learn.binning import Column, bin_columns
from vfl.learn.factors import band_edges, bin_names, short_edge
from vfl.learn.small_levels import MISSING, band_names

MOST_LEVELS = 50
MOST_APART = 400
"""Nodes of a graph whose least cut is looked for, a second's work."""
OTHER = "(other)"


@dataclass(frozen=True)
class Factor:
    """A column as levels: of each row the place of its level among the names, -1 for none."""

    levels: tuple[str, ...]
    codes: Integers

    def grouped(self, counts: Integers, minimum: int) -> "Factor":
        """With levels of fewer rows than `minimum` together as one, where need be with the smallest of
        the others. counts: rows of each level, by which it is decided; a level without any is left out.

        Raises ValueError where all rows together are too few.
        """
        small = (counts < minimum) & (counts > 0)
        if small.any() and counts[small].sum() < minimum:
            order = np.flatnonzero(counts >= minimum)
            order = order[np.argsort(counts[order], kind="stable")]
            if not len(order):
                raise ValueError(f"there are fewer than {minimum:,} in all")
            small[order[0]] = True
        kept = np.flatnonzero((counts > 0) & ~small)
        place = np.full(len(counts) + 1, -1)
        place[kept] = np.arange(len(kept))
        names = [self.levels[i] for i in kept.tolist()]
        if small.any():
            place[np.flatnonzero(small)] = len(kept)
            members = [self.levels[i] for i in np.flatnonzero(small).tolist()]
            names.append(members[0] if len(members) == 1 else _joined(members))
        if not names:
            raise ValueError("no row has a level")
        return Factor(tuple(names), place[self.codes])


def _joined(levels: Sequence[str]) -> str:
    """What several levels together are called."""
    plain = [level for level in levels if level not in (OTHER, MISSING)]
    if len(levels) == 2 and len(plain) == 2:
        return " or ".join(levels)
    if MISSING in levels and len(plain) == len(levels) - 1 == 1:
        return f"{plain[0]} or {MISSING}"
    return OTHER


def column_of(
    name: str, values: NDArray[np.generic], bins: int, least: int, bands: Sequence[float] = ()
) -> Column:
    """How a column becomes levels: numbers by bands that begin with `bands`, or by quantiles, `bins` at
    most of `least` rows at least; categories by themselves, the rarest of more than MOST_LEVELS
    together."""
    if values.dtype == object:
        return bin_columns({name: values}, MOST_LEVELS, 1).columns[0]
    if bands:
        return Column(name, np.array(band_edges(bands)), (), has_missing=True)
    numbers = values.astype(np.float64)
    column = bin_columns({name: numbers}, bins, least).columns[0]
    return replace(column, edges=_short_edges(column, numbers[~np.isnan(numbers)]))


def grouped_values(
    values: NDArray[np.generic], group: Mapping[str, Sequence[str]]
) -> NDArray[np.generic]:
    """Categories with the names of their owner's groups; "*" in one is for all that none names."""
    if values.dtype != object or not group:
        return values
    name_of = {level: name for name, levels in group.items() for level in levels}
    rest = next((name for name, levels in group.items() if "*" in levels), None)
    found, places = np.unique([MISSING if one is None else one for one in values], return_inverse=True)
    named = [
        name_of.get(level, None if level == MISSING else rest if rest is not None else level)
        for level in found.tolist()
    ]
    return np.array(named, object)[places]


def _short_edges(column: Column, present: Floats) -> Floats:
    """Edges of few digits, a two-hundredth of the range away from where they were at most: people read
    them, and they are no row's value but by chance."""
    edges = np.zeros(0) if column.edges is None else column.edges
    if not len(edges):
        return edges
    present = np.sort(present)
    step = 10.0 ** (math.floor(math.log10(present[-1] - present[0])) - 2) / 2
    at = np.searchsorted(present, edges, side="right")
    low, high = np.minimum(present[at - 1], edges - step), np.maximum(present[at], edges + step)
    found = [short_edge(*each) for each in zip(low.tolist(), edges.tolist(), high.tolist(), strict=True)]
    return np.unique(found)


def factor_of(column: Column, values: NDArray[np.generic]) -> Factor:
    """The levels of a column's values."""
    codes = column.codes(values).astype(np.int64)
    if column.edges is None:
        names = [*column.categories, OTHER]
    else:
        names = _number_names(column, values.astype(np.float64), codes)
    return Factor((*names, MISSING), codes)


def _number_names(column: Column, numbers: Floats, codes: Integers) -> list[str]:
    """A bin of one value is called by it; bands are called as in linear models."""
    edges = np.zeros(0) if column.edges is None else column.edges
    starts = np.nextafter(edges, np.inf)
    # The largest number below one of few digits has many: such edges are those of bands.
    if len(edges) and all(len(repr(a)) + 6 < len(repr(b)) for a, b in zip(starts, edges, strict=True)):
        present = numbers[~np.isnan(numbers)]
        whole = bool((present == np.floor(present)).all() and (starts == np.floor(starts)).all())
        return band_names(starts.tolist(), whole)
    names = bin_names(tuple(edges.tolist()))
    for place in range(len(names)):
        own = numbers[codes == place]
        if len(own) and own.min() == own.max():
            names[place] = repr(float(own[0])).removesuffix(".0")
    return names


def counts_of(codes: Integers, levels: int, own: Integers | None = None) -> Integers:
    """Rows of each level. own: of each row which of its owner's it is, -1 for none, of which each counts
    once."""
    known = codes >= 0
    if own is not None:
        known &= own >= 0
        own = own[known]
        if len(own) and len(own) > int(np.count_nonzero(np.bincount(own))):
            _, first = np.unique(own, return_index=True)
            return np.bincount(codes[known][first], minlength=levels)
    return np.bincount(codes[known], minlength=levels)


def withhold(counts: Integers, minimum: int) -> Mask | None:
    """Which cells of a table by two factors are not told, shape (first, second): those of fewer rows
    than `minimum`, and what they would follow from; None where nothing could be told."""
    withheld = counts < minimum
    small = np.argwhere(withheld)
    fit = ~withheld
    for i, j in small[np.argsort(counts[withheld], kind="stable")].tolist():
        fresh = np.where(withheld, 0, counts)
        cost = fresh[:, [j]] + fresh[[i], :] + fresh
        possible = fit[:, [j]] & fit[[i], :] & fit
        if possible.any():
            at = int(np.where(possible, cost, np.iinfo(np.int64).max).argmin())
            a, b = divmod(at, counts.shape[1])
            withheld[[a, i, a], [j, b, b]] = True
    while (side := _weak_side(counts, withheld, minimum)) is not None:
        rows, columns = side[: len(counts)], side[len(counts) :]
        across = (rows[:, np.newaxis] != columns) & ~withheld
        if not across.any():
            return None
        at = int(np.where(across, counts, np.iinfo(np.int64).max).argmin())
        withheld[divmod(at, counts.shape[1])] = True
    return None if withheld.all() else withheld


def _weak_side(counts: Integers, withheld: Mask, minimum: int) -> Mask | None:
    """Rows and columns on one side of a cut of withheld cells with too few rows, if there is one."""
    rows, columns = counts.shape
    linked = np.zeros((rows + columns,) * 2, np.bool_)
    linked[:rows, rows:] = withheld
    weight = np.zeros(linked.shape, np.int64)
    weight[:rows, rows:] = np.where(withheld, counts, 0)
    weight += weight.T
    from scipy.sparse.csgraph import connected_components

    parts, part_of = connected_components(linked, directed=False)
    for nodes in (np.flatnonzero(part_of == part) for part in range(parts)):
        least, inside = _least_cut(weight[np.ix_(nodes, nodes)])
        if len(nodes) > 1 and least < minimum:
            side = np.zeros(rows + columns, np.bool_)
            side[nodes[inside]] = True
            return side
    return None


def tells_of_fewer(first: Integers, second: Integers, minimum: int) -> bool:
    """Whether any sum about fewer rows than `minimum` follows from two tables about the same owner's
    rows.

    first, second: of each row its cell, -1 where it is in none. What follows adds up a number for the
    cell of each table that a row is in: a row drops out where they cancel. So cells are nodes, rows are
    edges between both of theirs (one that is in no cell of a table is tied to the ground), and what is
    left is a cut: of cells that hang together, since among others nothing is left. The least is found as
    Stoer and Wagner do (Journal of the ACM 44, 1997), once nodes with `minimum` rows or more in common
    are one, as no cut of fewer parts these (Padberg, Rinaldi, Mathematical Programming 47, 1990). Of
    more nodes than MOST_APART after that it is taken to be too light: nobody waits for the answer.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    one = int(first.max(initial=-1)) + 1
    ground = one + int(second.max(initial=-1)) + 1
    ends, count = (np.where(first < 0, ground, first), np.where(second < 0, ground, second + one)), None
    while True:
        low, high, count = _edges(*ends, ground + 1, count)
        degree = np.bincount(low, count, ground + 1) + np.bincount(high, count, ground + 1)
        if ((degree > 0) & (degree < minimum)).any():
            return True
        strong = count >= minimum
        if not strong.any():
            break
        edges = np.ones(int(strong.sum())), (low[strong], high[strong])
        _, label = connected_components(coo_array(edges, shape=(ground + 1,) * 2), directed=False)
        ends = label[low], label[high]
    left, place = np.unique([low, high], return_inverse=True)
    if len(left) > MOST_APART:
        return True
    weight = np.zeros((len(left),) * 2, np.int64)
    weight[place.reshape(2, -1)[0], place.reshape(2, -1)[1]] = count
    weight += weight.T
    parts, part_of = connected_components(weight, directed=False)
    members = [np.flatnonzero(part_of == part) for part in range(parts)]
    return any(_least_cut(weight[np.ix_(nodes, nodes)])[0] < minimum for nodes in members)


def _edges(
    low: Integers, high: Integers, nodes: int, count: Integers | None
) -> tuple[Integers, Integers, Integers]:
    """Each pair of different nodes once, the lower first, with how many rows tie them. `count`: of each
    pair that is given, 1 if absent."""
    apart = low != high
    low, high = np.minimum(low, high)[apart], np.maximum(low, high)[apart]
    pairs, place = np.unique(low.astype(np.int64) * nodes + high, return_inverse=True)
    rows = np.bincount(place, None if count is None else count[apart], len(pairs))
    low, high = np.divmod(pairs, nodes)
    return low, high, rows.astype(np.int64)


def _least_cut(weight: Integers) -> tuple[int, list[int]]:
    """The least that any cut of a graph weighs, and the nodes on one of its sides; of a graph of one
    node the most there is."""
    weight, least = weight.copy(), int(np.iinfo(np.int64).max)
    side: list[int] = []
    members = [[node] for node in range(len(weight))]
    alive = np.ones(len(weight), np.bool_)
    while alive.sum() > 1:
        joined, left = np.zeros(len(weight), np.int64), alive.copy()
        before = last = -1
        while left.any():
            before, last = last, int(np.where(left, joined, -1).argmax())
            left[last] = False
            joined += weight[last]
        cut = int(weight[last, alive].sum())
        if cut < least:
            least, side = cut, members[last]
        weight[before] += weight[last]
        weight[:, before] += weight[:, last]
        weight[before, before] = 0
        weight[last] = weight[:, last] = 0
        members[before] = members[before] + members[last]
        alive[last] = False
    return least, side
