"""Which candidates are nested, and where on its chain each row may be.

Thresholds of one column send ever more rows left. Sums show it: hessians are above 0, so that a
candidate within another has the smaller sum in every node; and the two go together as only nested
sets do.
"""

from dataclasses import dataclass, field

import numpy as np

from vfl.arrays import Floats, Integers
from vfl.leakage.linking import Equations, Links
from vfl.leakage.shown import Mask, Shown

_SLACK = 3.0  # deviations of an estimated correlation


@dataclass(eq=False)
class Chain:
    """Candidates each within the next, and where rows may be.

    A row's place p is how many of the chain's candidates do not send it left, so that candidate k
    sends it left where p <= k. `possible`: shape (candidates + 1, rows).
    """

    members: list[int]
    possible: Mask = field(default_factory=lambda: np.zeros((0, 0), np.bool_))

    def reset(self, rows: int) -> None:
        """Every row may be anywhere."""
        self.possible = np.ones((len(self.members) + 1, rows), np.bool_)

    @property
    def open(self) -> Mask:
        """Rows whose place is not certain."""
        return np.asarray(self.possible.sum(axis=0) > 1)

    @property
    def bounds(self) -> tuple[Mask, Mask]:
        """For each candidate and row: is it certain that it goes left, is it possible."""
        up = np.logical_or.accumulate(self.possible, axis=0)[:-1]
        beyond = np.logical_or.accumulate(self.possible[::-1], axis=0)[::-1][1:]
        return ~beyond, up

    def restrict(self, rows: Integers, places: slice, inside: Mask) -> bool:
        """These rows are at one of the places, or not. False, and nothing done, where that cannot be."""
        among = np.zeros(len(self.possible), np.bool_)
        among[places] = True
        allowed = np.where(inside[None, :], among[:, None], ~among[:, None])
        new = self.possible[:, rows] & allowed
        if not new.any(axis=0).all():
            return False
        self.possible[:, rows] = new
        return True


def single(candidates: int, rows: int) -> list[Chain]:
    """Each candidate by itself: nothing is known of nesting."""
    chains = [Chain([c]) for c in range(candidates)]
    for chain in chains:
        chain.reset(rows)
    return chains


def nested(shown: Shown, links: Links, equations: Equations, sides: Floats) -> list[Chain]:
    """The chains that sums and estimated sides speak for."""
    share = links.share
    apart = sides - share[:, None]
    norm = np.maximum(np.linalg.norm(apart, axis=1), 1e-9)
    correlation = (apart @ apart.T) / np.outer(norm, norm)
    least = equations.known.sum(axis=1)
    below = never_above(shown, links)
    order = np.argsort(share, kind="stable")
    chains: list[Chain] = []
    for c in order.tolist():
        best, found = -np.inf, None
        for chain in chains:
            last = chain.members[-1]
            odds = share[last] * (1 - share[c]) / (share[c] * (1 - share[last]))
            expected = np.sqrt(min(odds, 1.0))
            slack = _SLACK / np.sqrt(max(1, min(least[c], least[last])))
            fits = below[last, c] and correlation[last, c] >= expected - max(slack, 0.05)
            if fits and correlation[last, c] > max(best, 2.5 * slack / _SLACK):
                best, found = correlation[last, c], chain
        if found is None:
            chains.append(Chain([c]))
        else:
            found.members.append(c)
    for chain in chains:
        chain.reset(shown.rows)
    return chains


def never_above(shown: Shown, links: Links) -> Mask:
    """[a, b]: whether a's hessian sum is at most b's in every node that shows both."""
    fits = np.ones((links.candidates,) * 2, np.bool_)
    for number, tree in enumerate(shown.trees):
        for node in tree.nodes:
            place = links.place[number, node.number]
            here = np.flatnonzero((place >= 0) & node.known[place])
            sums = node.hessian[place[here]]
            fits[np.ix_(here, here)] &= sums[:, None] <= sums[None, :]
    return fits
