"""The candidates of a party in a node, ranked by gain."""

from collections.abc import Iterable
from itertools import pairwise

import numpy as np

from vfl.arrays import Floats
from vfl.learn.best_first import Head


class Ranks:
    """A party's candidates in a node that are left, in groups of equal gain, the best first."""

    def __init__(self, party: int, gains: Floats) -> None:
        """`gains`: of each candidate, -inf of those that may not be taken."""
        self.party = party
        allowed = np.flatnonzero(gains > -np.inf)
        self._order = allowed[np.argsort(-gains[allowed], kind="stable")].astype(np.int32)
        ranked = gains[self._order]
        first = np.ones(len(ranked), np.bool_)
        first[1:] = ranked[1:] != ranked[:-1]
        starts = np.append(np.flatnonzero(first), len(ranked))  # of groups, and the end of all
        self._starts = starts.astype(np.int32)
        self._gains = ranked[first]  # of groups
        self._gone = 0

    def __len__(self) -> int:
        """How many groups are left."""
        return len(self._gains) - self._gone

    def gain(self, group: int = 0) -> float:
        """The gain of a group; of the best if it is not said which."""
        return float(self._gains[self._gone + group])

    def groups(self, count: int) -> list[list[int]]:
        """The candidates of the best groups, so many."""
        edges = self._starts[self._gone : self._gone + count + 1].tolist()
        candidates = self._order[edges[0] : edges[-1]].tolist()
        return [candidates[start - edges[0] : stop - edges[0]] for start, stop in pairwise(edges)]

    def drop(self, count: int) -> None:
        """Drop the best groups, so many."""
        self._gone += count

    def ahead_of(self, others: "Iterable[Ranks]", most: int, after: Head | None = None) -> int:
        """How many groups come before the best of all others, `most` at most. Of equal gains the lower
        party's comes first. `after`: best-first, of the node that comes after this one."""
        head = self._gains[self._gone : self._gone + most]
        rivals = [(other.gain(), -other.party) for other in others]
        if after is not None:
            rivals.append((after.gain, -after.party))
        if not rivals:
            return len(head)
        gain, party = max(rivals)
        ahead = int((head >= gain).sum() if -self.party > party else (head > gain).sum())
        # Where the node after has an equal one, this one comes first all the same.
        return max(ahead, int(after is not None))
