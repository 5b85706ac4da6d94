"""Under Paillier: a host's categorical columns that are split by sets of their categories.

With `ordered_categories = "all"`, beside the steps of paillier.py:

 a. At the root of each tree a host tells which of its candidates, in the tree's shuffled order, part the
    categories of one column: not which column, nor which category.
 b. The guest has the sum of each category anyhow. It sorts those of a column and adds them up
    (learn/ordered_categories.py): no further sum is sent.
 c. A winner is named a set by its candidates. It takes the first of those that tie in its own order:
    single candidates, then sets by their members. Rows left must add up to the sums of the set.

A set has at most half of the categories that have `min_child_rows` rows in the node, so that both sides
have as many. The host counts all the same.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

import msgspec
import numpy as np

from vfl.arrays import Integers, Mask
from vfl.learn.binning import Binned
from vfl.learn.ordered_categories import MOST_SINGLE, CategoryOrder
from vfl.learn.params import BoostParams
from vfl.learn.splits import Candidates, Split
from vfl.learn.tree import Choice, Frontier
from vfl.net.peer import Peer
from vfl.net.wire import MIB, Message
from vfl.protocols.trees.columns import HostColumns
from vfl.protocols.trees.paillier_messages import Winners

_MOST_COLUMNS = 1 << 16
_MOST_NODES = 1 << 10
Members = Annotated[list[int], msgspec.Meta(min_length=1, max_length=256)]


class ColumnGroups(Message, frozen=True):
    """host -> guest, where categories are ordered. Reveals: which of the shuffled, unlabelled candidates
    part the categories of one column, of columns with more than four: so how many such columns there
    are, and of each how many categories and all their sums together."""

    groups: Annotated[list[Members], msgspec.Meta(max_length=_MOST_COLUMNS)]
    limit: ClassVar[int] = 4 * MIB


class SetWinners(Message, frozen=True):
    """guest -> host, where categories are ordered. Reveals: in which nodes this host's candidates won,
    alone or as sets of categories, and which of these tie."""

    candidates: Annotated[dict[int, list[int]], msgspec.Meta(max_length=_MOST_NODES)]
    sets: Annotated[dict[int, dict[int, Members]], msgspec.Meta(max_length=_MOST_NODES)]  # by number
    limit: ClassVar[int] = 4 * MIB


def by_sets(params: BoostParams) -> bool:
    """Whether a job splits hosts' columns by sets of categories."""
    return params.ordered_categories == "all"


# --------------------------------------------------------------------------------------- guest


async def hear_groups(party: HostColumns, params: BoostParams) -> None:
    """a. Which candidates belong together, in a job that has it."""
    if by_sets(params):
        told = await party.host.recv(ColumnGroups)
        party.categories = CategoryOrder([np.array(group, np.int64) for group in told.groups], params)
        every = [member for group in told.groups for member in group]
        if len(set(every)) < len(every) or min(every, default=0) < 0:
            raise party.host.breach("ColumnGroups that name a candidate twice")


def check_groups(party: HostColumns, candidates: int) -> None:
    """Raises PeerError for groups of other candidates than there are."""
    if party.categories is None:
        return
    most = max((int(group.max()) for group in party.categories.groups), default=-1)
    if most >= candidates or party.ordered[party.categories.single(candidates)].any():
        raise party.host.breach("ColumnGroups of candidates that are none of a category")


def winners_of(
    party: HostColumns, nodes: Mapping[int, Choice], params: BoostParams
) -> Winners | SetWinners:
    """c. What a host hears of the nodes that it won."""
    if not by_sets(params):
        return Winners({node: [*choice.candidates] for node, choice in nodes.items()})
    candidates: dict[int, list[int]] = {}
    sets: dict[int, dict[int, list[int]]] = {}
    for node, choice in nodes.items():
        count = len(party.candidates[node][1])
        candidates[node] = [number for number in choice.candidates if number < count]
        tied = [number for number in choice.candidates if number >= count]
        sets[node] = {number: [*party.sets[node][number - count]] for number in tied}
    return SetWinners(candidates, sets)


# ---------------------------------------------------------------------------------------- host


class HostWins:
    """What a host takes of the nodes that it wins in one tree."""

    def __init__(
        self, guest: Peer, params: BoostParams, binned: Binned, order: Integers, frontier: Frontier
    ) -> None:
        """`order`: of the canonical candidates, that at each place on the wire."""
        self._guest, self._params, self._binned = guest, params, binned
        self._own, self._order, self._frontier = Candidates.of(binned.columns), order, frontier

    async def tell_groups(self) -> None:
        """a. Which candidates belong together, in a job that has it."""
        if not by_sets(self._params):
            return
        place = np.empty(len(self._order), np.int64)
        place[self._order] = np.arange(len(self._order))
        groups = [np.sort(place[of_one]).tolist() for of_one in self._own.categories()]
        # In the order of the wire, which is random.
        await self._guest.send(ColumnGroups(sorted(g for g in groups if len(g) > MOST_SINGLE)))

    def take(self, message: Winners | SetWinners, node: int, valid: Mask) -> tuple[int, Split, Mask]:
        """The first of what ties in a node, in canonical order: its number, the split, and which rows of
        the node go left. `valid`: the candidates with enough rows. Raises PeerError for what cannot
        be."""
        numbers, own, frontier = message.candidates[node], self._own, self._frontier
        sets = message.sets.get(node) if isinstance(message, SetWinners) else None
        if sets and not numbers:
            return self._take_set(sets, node, valid)
        if not numbers or not set(numbers) <= set(range(len(self._order))):
            raise self._guest.breach("Winners of a node or candidate that was not offered")
        number = min(numbers, key=lambda i: int(self._order[i]))
        candidate = int(self._order[number])
        if not valid[candidate]:
            raise self._guest.breach("Winners of a candidate with too few rows")
        codes = self._binned.codes
        return number, *own.take(candidate, codes, frontier.inside(node), frontier.drawn)

    def _take_set(
        self, sets: Mapping[int, Sequence[int]], node: int, valid: Mask
    ) -> tuple[int, Split, Mask]:
        """c. The same of sets."""
        found: dict[tuple[int, ...], int] = {}
        for number, places in sets.items():
            if not all(0 <= place < len(self._order) for place in places):
                raise self._guest.breach("SetWinners of a candidate that was not offered")
            members = tuple(sorted(self._order[[*places]].tolist()))
            columns = {int(self._own.column[member]) for member in members}
            if (
                len(set(members)) < len(members)
                or len(columns) > 1
                or self._own.columns[min(columns)].edges is not None
                or len(members) > self._params.max_cat_threshold
                or not valid[[*members]].all()
            ):
                raise self._guest.breach("SetWinners of candidates that are no set of one column")
            found[members] = number
        members = min(found)
        split, side = self._own.take_set(members)
        inside, drawn = self._frontier.inside(node), self._frontier.drawn
        left = side.goes_left(self._binned.codes[side.column][inside])
        counted = left[drawn[inside]]
        if min(int(counted.sum()), int((~counted).sum())) < self._params.min_child_rows:
            raise self._guest.breach("SetWinners of a set with too few rows")
        return found[members], split, left
