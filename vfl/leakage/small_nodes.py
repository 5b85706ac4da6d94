"""The guest finds a host's bins by the sums of small nodes: a single tree is enough.

Neighbouring thresholds of a column part few rows of a small node, and a sum of many bits names which.
Steps:

1. *Chains.* Two candidates whose sums, in some node, differ by those of few rows, or in a very small one
   by those of any, are of one column: otherwise one's rows are among the other's by chance alone. Nobody
   says which shuffled candidates belong together; chains are put together from such pairs.
2. *Rows.* Along a chain a node's rows fall into steps, each of which has a known sum. Where one set of
   few of the rows that may be in a step has it, or all but few have, these are certain; of few rows all
   subsets are tried. What is certain leaves the other steps with fewer rows, in this node and others.
3. Splits won tell sides outright. What is not certain is estimated by the equations (polytope.py).

Sources: Horowitz, Sahni, "Computing partitions with applications to the knapsack problem", Journal of
the ACM, 1974 (subset sums met in the middle); Dinur, Nissim, "Revealing information while preserving
privacy", PODS 2003 (sums over known sets of rows tell the rows).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln
from threadpoolctl import threadpool_limits

from vfl.arrays import Floats, Integers
from vfl.leakage.chains import Chain, never_above
from vfl.leakage.linking import Links, gather, link
from vfl.leakage.polytope import solve_all
from vfl.leakage.reconstruction import ALL, Reconstruction, take_splits
from vfl.leakage.shown import Mask, Shown
from vfl.leakage.subsets import MOST_HALVED, Every, Few, Keys, any_of, keys_of, spread_of

MOST_ROWS = 260
"""Of a node in which neighbours are looked for."""
_MOST_NODES = 60  # that are looked at, the smallest
_MOST_OF_EVERY = 30  # rows of a node in which they may differ by any, not by few alone
_MOST_FREE = 180  # rows of a node that may be in a step and need not
_FEW, _MORE = 4, 6  # rows that are looked for
_MOST_FOR_MORE = 100  # rows that more than a few are looked for among
_SPARE_BITS = 10  # that a sum must have beyond what names the rows
_BEYOND_CHANCE = 2.0  # nats, of one pair of all
_ROUNDS = 4


@dataclass(frozen=True, eq=False)
class _Node:
    """A summed node; by candidate what is known of its sums."""

    rows: Integers
    keys: Keys  # of the rows
    bits: float
    known: Mask
    sums: Keys
    share: Floats  # of the node's hessian


@dataclass(frozen=True, eq=False)
class _Step:
    """Places of a chain, and the sum of a node's rows that are there."""

    places: slice
    total: np.uint64


def small_nodes(shown: Shown) -> Reconstruction:
    """The sides of all candidates, numbered as those of `reconstruct`; on one core, as that."""
    with np.errstate(over="ignore"), threadpool_limits(1, "blas"):  # keys add up modulo 2^64
        return _small_nodes(shown)


def _small_nodes(shown: Shown) -> Reconstruction:
    links = link(shown)
    nodes = _summed(shown, links)
    chains = _chains(shown, links, nodes)
    place = {member: (chain, k) for chain in chains for k, member in enumerate(chain.members)}
    take_splits(shown, links, place)
    for chain in chains:
        if len(chain.members) > 1:
            _find_rows(chain, nodes)
    sides = solve_all(chains, gather(shown, links), links.share, ALL.rounds)
    certain = np.zeros(sides.shape, np.bool_)
    for chain in chains:
        sure, may = chain.bounds
        certain[chain.members] = sure | ~may
    return Reconstruction(sides, certain, tuple(tuple(chain.members) for chain in chains))


def _summed(shown: Shown, links: Links) -> list[_Node]:
    """The nodes with sums, the smallest first."""
    found = []
    for number, tree in enumerate(shown.trees):
        for node in tree.nodes:
            place, rows = links.place[number, node.number], np.flatnonzero(node.rows)
            known = (place >= 0) & node.known[place]
            if known.any():
                g, h = tree.g[rows], tree.h[rows]
                sums = keys_of(node.gradient[place], node.hessian[place])
                share = node.hessian[place] / max(float(h.sum()), 1.0)
                found.append(_Node(rows, keys_of(g, h), spread_of(g, h), known, sums, share))
    return sorted(found, key=lambda node: len(node.rows))[:_MOST_NODES]


# Chains.


def _chains(shown: Shown, links: Links, nodes: list[_Node]) -> list[Chain]:
    """Candidates that small nodes show to be neighbours, in order; each other one by itself."""
    if not links.candidates:
        return []
    below = never_above(shown, links)
    beyond = _beyond_chance(links, nodes, below)
    chains: list[Chain] = []
    for c in np.argsort(links.share, kind="stable").tolist():
        fits = [chain for chain in chains if below[chain.members, c].all()]
        told = [float(beyond[chain.members, c].max()) for chain in fits]
        if told and max(told) > 0:
            fits[int(np.argmax(told))].members.append(c)
        else:
            chains.append(Chain([c]))
    for chain in chains:
        chain.reset(shown.rows)
    return chains


def _beyond_chance(links: Links, nodes: list[_Node], below: Mask) -> Floats:
    """[a, b]: how much less likely it would be by chance that a's rows are among b's, as nodes show them
    to be, in nats; 0 where nothing does. Where a node shows that they are not, `below` is set to say so.
    """
    count = links.candidates
    found = np.zeros((count, count))
    for node in nodes:
        rows = len(node.rows)
        every = rows <= _MOST_OF_EVERY and rows + _SPARE_BITS / 2 <= node.bits
        few = rows <= MOST_ROWS and node.bits >= _FEW * np.log2(rows) + _SPARE_BITS
        if not every and not few:
            continue
        known = np.flatnonzero(node.known)
        sets = Every(node.keys) if every else Few(node.keys, _FEW)
        sizes = np.clip(np.round(node.share * rows), 1, rows - 1)
        for a in known.tolist():
            near = (
                below[a, known] & (known != a) & (every | (np.abs(sizes[known] - sizes[a]) <= 2 * _FEW))
            )
            for b in known[near].tolist():
                told = sets.find(node.sums[b] - node.sums[a])
                if isinstance(told, list):
                    below[a, b] &= bool(told)
                    told = told[0] if len(told) == 1 else None
                if told is not None and len(told):
                    inner = max(1.0, sizes[b] - len(told))
                    found[a, b] += _ways(rows, inner) - _ways(sizes[b], inner)
    return np.asarray(np.maximum(found - _BEYOND_CHANCE - 2 * np.log(count), 0.0))


def _ways(rows: float, chosen: float) -> float:
    """The logarithm of how many sets of so many of the rows there are."""
    return float(gammaln(rows + 1) - gammaln(chosen + 1) - gammaln(rows - chosen + 1))


# Rows.


def _find_rows(chain: Chain, nodes: list[_Node]) -> None:
    """Fix rows of a chain, as long as more follow."""
    tried: set[int] = set()
    for _ in range(_ROUNDS):
        before = int(chain.possible.sum())
        for number, node in enumerate(nodes):
            steps = list(_steps(chain, node))
            for most in (_FEW, _MORE):
                while sum(_fix(chain, node, step, most, tried, number) for step in steps):
                    pass
        if int(chain.possible.sum()) == before:
            return


def _steps(chain: Chain, node: _Node) -> Iterator[_Step]:
    """What lies between the candidates of which sums are known."""
    last, sums = -1, np.uint64(0)
    for k, member in enumerate(chain.members):
        if node.known[member]:
            yield _Step(slice(last + 1, k + 1), node.sums[member] - sums)
            last, sums = k, node.sums[member]
    if last >= 0:
        total = node.keys.sum(dtype=np.uint64) - sums
        yield _Step(slice(last + 1, len(chain.members) + 1), total)


def _fix(chain: Chain, node: _Node, step: _Step, most: int, tried: set[int], number: int) -> bool:
    """Fix the rows of a step, if only one set of few of those that may be there, or of all, fits."""
    possible = chain.possible[:, node.rows]
    inside = possible[step.places].any(axis=0)
    outside = np.delete(possible, step.places, axis=0).any(axis=0)
    free = np.flatnonzero(inside & outside)
    attempt = hash((number, most, step.places.start, free.tobytes()))
    if not 0 < len(free) <= _MOST_FREE or attempt in tried:
        return False
    tried.add(attempt)
    sides = np.asarray(inside & ~outside)
    total = step.total - node.keys[sides].sum(dtype=np.uint64)
    chosen = _search(node.keys[free], total, most, node.bits)
    if chosen is None:
        return False
    sides[free[chosen]] = True
    return chain.restrict(node.rows, step.places, sides)


def _search(keys: Keys, total: np.uint64, most: int, bits: float) -> Integers | None:
    """Which of the keys add up to the total: at most so many, or all but as many."""
    count = len(keys)
    if count <= MOST_HALVED and count + _SPARE_BITS / 2 <= bits:
        return any_of(keys, total)
    if most > _FEW and count > _MOST_FOR_MORE:
        return None
    sets, spare = Few(keys, most), bits - _SPARE_BITS
    chosen = sets.find(total)
    if chosen is not None:
        return chosen if len(chosen) * np.log2(count) <= spare else None
    others = sets.find(keys.sum(dtype=np.uint64) - total)
    if others is None or len(others) * np.log2(count) > spare:
        return None
    return np.setdiff1d(np.arange(count), others)
