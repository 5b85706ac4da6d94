"""The guest works out a host's binned table from sums of gradients that it is shown.

Every sum is an equation about a candidate's sides with coefficients that the guest knows. Steps:

1. Candidates are followed from tree to tree (linking.py), and where each node has an order of its own
   first from node to node: the sums of siblings add up to their parent's.
2. Splits won tell sides outright.
3. Least squares; from these and the sums, which candidates are nested (chains.py).
4. Sides between 0 and 1, ordered along chains, that satisfy all equations (polytope.py).
5. Integers: a node's sum says exactly by which few rows a rounded solution is off (subsets.py). Rows
   found are certain and leave the equations; 4 and 5 are done again while they find more.

Sources: the differences of Denning, Denning, Schwartz, "The tracker", 1979; Dinur, Nissim, "Revealing
information while preserving privacy", PODS 2003 (linear programmes decode sums); for trees of federated
learning Luo et al., arXiv 2010.10152, and Weng et al., arXiv 2009.08795, which take fewer steps.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from vfl.arrays import Floats, Integers
from vfl.leakage.chains import Chain, nested, single
from vfl.leakage.linking import Links, gather, link
from vfl.leakage.polytope import solve_all
from vfl.leakage.shown import Mask, Shown, ShownNode, ShownTree, Truth
from vfl.leakage.subsets import MOST_HALVED, Keys, any_of, bits_of, few, keys_of
from vfl.leakage.success import Success

_SPARE_BITS = 10  # that a sum must have beyond what names the rows
_MOST_FLIPS = 4
_MOST_ROWS = 260  # of a node in which so many flips are tried
_MOST_OPEN = 1000  # of a node's rows are not certain yet
_ROUNDS = 4


@dataclass(frozen=True)
class Effort:
    """What the attacker does."""

    chains: bool = True  # makes use of nested candidates
    integers: bool = True  # looks for few rows by exact sums
    rounds: int = 120  # of the convex problem; 0: least squares alone


ALL = Effort()


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """Estimated sides, shape (candidates, rows); which of them the guest takes for certain.

    Candidates are numbered as the places shown in the first node."""

    sides: Floats
    certain: Mask
    chains: tuple[tuple[int, ...], ...]


def reconstruct(shown: Shown, effort: Effort = ALL) -> Reconstruction:
    """The sides of all candidates.

    On one core: the many small products are no faster on more, and slower by far where cores are busy.
    """
    with threadpool_limits(1, "blas"):
        return _reconstruct(shown, effort)


def _reconstruct(shown: Shown, effort: Effort) -> Reconstruction:
    links = link(shown)
    equations = gather(shown, links)
    chains = single(links.candidates, shown.rows)
    if effort.chains and links.candidates:
        plain = solve_all(chains, equations, links.share, 0)
        chains = nested(shown, links, equations, plain)
    place = {member: (chain, k) for chain in chains for k, member in enumerate(chain.members)}
    take_splits(shown, links, place)
    sides = solve_all(chains, equations, links.share, 0)
    failed: set[int] = set()
    if effort.integers:
        for chain in chains:
            _exact(chain, sides[chain.members], shown, links, failed)
    for _ in range(_ROUNDS):
        before = sum(int(chain.open.sum()) for chain in chains)
        sides = solve_all(chains, equations, links.share, effort.rounds)
        if not effort.integers:
            break
        for chain in chains:
            _exact(chain, sides[chain.members], shown, links, failed)
        after = sum(int(chain.open.sum()) for chain in chains)
        if after == 0 or after > 0.98 * before:
            break
    certain = np.zeros(sides.shape, np.bool_)
    for chain in chains:
        sure, may = chain.bounds
        certain[chain.members] = sure | ~may
        known = sides[chain.members]
        known[sure], known[~may] = 1.0, 0.0
        sides[chain.members] = known
    return Reconstruction(sides, certain, tuple(tuple(chain.members) for chain in chains))


def take_splits(shown: Shown, links: Links, place: dict[int, tuple[Chain, int]]) -> None:
    """The sides that won splits tell."""
    for number, tree in enumerate(shown.trees):
        for split in tree.splits:
            if (number, split.node) not in links.place:
                continue
            who = np.flatnonzero(links.place[number, split.node] == split.place)
            if len(who):
                chain, k = place[int(who[0])]
                rows = np.flatnonzero(split.rows)
                chain.restrict(rows, slice(0, k + 1), split.left[rows])


@dataclass(frozen=True, eq=False)
class _Unit:
    """Places of a chain whose rows have a known sum in a node."""

    places: slice
    gradient: int
    hessian: int
    expected: Floats  # how likely each row of the node is at these places


def _units(
    chain: Chain, at: Integers, node: ShownNode, total: tuple[int, int], sides: Floats
) -> Iterator[_Unit]:
    """What a node tells of a chain: sums of candidates, and of what lies between them."""
    known = [k for k, place in enumerate(at) if place >= 0 and node.known[place]]
    last, sums, below = -1, (0, 0), np.zeros(sides.shape[1])
    for k in known:
        here = int(node.gradient[at[k]]), int(node.hessian[at[k]])
        yield _Unit(slice(last + 1, k + 1), here[0] - sums[0], here[1] - sums[1], sides[k] - below)
        if last >= 0:
            yield _Unit(slice(0, k + 1), *here, sides[k])
        last, sums, below = k, here, sides[k]
    if known:
        rest = total[0] - sums[0], total[1] - sums[1]
        yield _Unit(slice(last + 1, len(at) + 1), *rest, 1 - below)


def _exact(chain: Chain, sides: Floats, shown: Shown, links: Links, failed: set[int]) -> None:
    """Fix rows by nodes whose sums are explained by few changes of the estimate, or by one subset.

    `failed`: what was tried in vain and is not tried again.
    """
    for number, tree in enumerate(shown.trees):
        keys = keys_of(tree.g, tree.h)
        for node in sorted(tree.nodes, key=lambda node: int(node.rows.sum())):
            rows = np.flatnonzero(node.rows)
            if not 0 < int((chain.possible[:, rows].sum(axis=0) > 1).sum()) <= _MOST_OPEN:
                continue
            at = links.place[number, node.number][chain.members]
            total = int(tree.g[rows].sum()), int(tree.h[rows].sum())
            for unit in _units(chain, at, node, total, sides[:, rows]):
                what = (chain.members[0], number, node.number, unit.places.start, unit.places.stop)
                _explain(chain, unit, rows, tree, keys[rows], what, failed)


def _explain(
    chain: Chain,
    unit: _Unit,
    rows: Integers,
    tree: ShownTree,
    keys: Keys,
    what: tuple[int, ...],
    failed: set[int],
) -> None:
    """Fix the rows of a node by one of its sums, if only one set of them can have it."""
    possible = chain.possible[:, rows]
    inside = np.logical_or.reduce(possible[unit.places])
    outside = np.logical_or.reduce(np.delete(possible, unit.places, axis=0))
    free = np.flatnonzero(inside & outside)
    if not len(free):
        return
    wrong = np.minimum(unit.expected[free], 1 - unit.expected[free]).clip(0, 0.5).sum()
    if len(free) > MOST_HALVED and wrong > _MOST_FLIPS + 1:
        return
    guess = unit.expected[free] > 0.5
    attempt = hash((*what, free.tobytes(), guess.tobytes()))
    if attempt in failed:
        return
    with np.errstate(over="ignore"):
        total = keys_of(np.array(unit.gradient), np.array(unit.hessian))
        total = total - keys[inside & ~outside].sum(dtype=np.uint64)
        bits = bits_of(tree.g[rows[free]], tree.h[rows[free]])
        found = _search(keys[free], total, guess, bits)
    if found is None:
        failed.add(attempt)
        return
    sides = np.asarray(inside & ~outside)
    sides[free] = found
    chain.restrict(rows, unit.places, sides)


def _search(keys: Keys, total: np.uint64, guess: Mask, bits: float) -> Mask | None:
    """Which of the keys add up to the total: all subsets of few keys, few changes of a guess of many."""
    count = len(keys)
    if bits < _SPARE_BITS:
        return None
    if count <= MOST_HALVED and count + _SPARE_BITS / 2 <= bits:
        chosen = any_of(keys, total)
        if chosen is None:
            return None
        sides = np.zeros(count, np.bool_)
        sides[chosen] = True
        return sides
    signed = np.where(guess, np.uint64(0) - keys, keys)
    most = _MOST_FLIPS if count <= _MOST_ROWS else 2
    chosen = few(signed, total - keys[guess].sum(dtype=np.uint64), most)
    if chosen is None or len(chosen) * np.log2(count) + _SPARE_BITS > bits:
        return None
    sides = guess.copy()
    sides[chosen] ^= True
    return sides


def compared(shown: Shown, truth: Truth) -> Integers:
    """Which candidates of the truth a reconstruction's are, in its order; all if no sums were shown."""
    for number, tree in enumerate(shown.trees):
        if tree.nodes:
            root = tree.nodes[0]
            return truth.order[number, root.number][np.flatnonzero(root.known)]
    return np.arange(len(truth.sides))


def success(
    found: Reconstruction,
    shown: Shown,
    truth: Truth,
    columns: Sequence[int] | None = None,
    about: str = "host",
) -> Success:
    """How many (candidate, row) sides are right, of these columns (all).

    Who guesses knows each candidate's larger side. A guest that was shown no sums knows no more here;
    what splits alone tell it is measured in model_alone.py.
    """
    true = compared(shown, truth)
    of = np.ones(len(true), np.bool_) if columns is None else np.isin(truth.column[true], columns)
    guessing = float(truth.majority[true[of]].mean()) if of.any() else 1.0
    unit = "sides of (candidate, row) known"
    if not len(found.sides) or not of.any():
        return Success("reconstruction", "guest", about, guessing, guessing, unit)
    right = float(((found.sides[of] > 0.5) == truth.sides[true[of]]).mean())
    return Success("reconstruction", "guest", about, right, guessing, unit)
