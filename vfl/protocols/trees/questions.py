"""The best candidates of hosts that see no sums: the guest asks which leave enough rows on both sides.

Step 5 of lattice.py. The guest has ranked the gains of all parties' candidates in each open node; which
of a host's leave `min_child_rows` rows on both sides of a node it does not know.

 a. It asks a host about a node if the best gain left is that host's: in groups of equal gain, best
    first, all its candidates that beat every other party's, _GROUPS at most. With the first question
    about a node the host learns its rows and which of them are drawn; with each, this ranking.
 b. The host takes the first of its own order in the first group that has one with enough rows, keeps the
    split in its half, and says which rows go left; or that none has. A candidate of a column that is not
    drawn for the tree counts as one with too few rows: so the guest does not learn which candidates
    share a column.
 c. The guest goes on with the next best, of whichever party, until each open node is split or a leaf.

What a host is asked about must be a tree: rows of a node lie within those of its parent, a child has the
rows that its split sent there, which rows are drawn does not change. No candidate is asked about twice.
"""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats, Integers, Mask
from vfl.blocks.engine import ENGINE, Rows
from vfl.learn.best_first import BestFirst, Head, level_of
from vfl.learn.binning import Binned
from vfl.learn.params import BoostParams
from vfl.learn.splits import Candidates, Side, Split
from vfl.learn.told_sums import most_splits
from vfl.learn.tree import Choice, Frontier, Nodes
from vfl.net.peer import Peer, together
from vfl.net.wire import KIB, MAX_MESSAGE, Message
from vfl.protocols.common.bits import BitPacker
from vfl.protocols.common.clock import Clock
from vfl.protocols.common.lattice_sums import MOST_OUTPUTS
from vfl.protocols.trees.columns import (
    Direction,
    GainOf,
    Growth,
    HostColumns,
    OwnColumns,
    SplitRows,
    Taken,
)
from vfl.protocols.trees.hidden import HiddenHost
from vfl.protocols.trees.known_rows import KnownRows
from vfl.protocols.trees.ranking import Ranks
from vfl.protocols.trees.records import Records

_GROUPS = 64  # that a question about a node has at most
_MOST_NODES = 1 << 10  # of a tree
_MOST_ASKED = 1 << 20  # candidates in a question


Places = NDArray[np.unsignedinteger]
Node = Annotated[int, msgspec.Meta(ge=0, lt=_MOST_NODES)]
Candidate = Annotated[int, msgspec.Meta(ge=0, lt=MOST_OUTPUTS)]
RankedGroups = Annotated[list[list[Candidate]], msgspec.Meta(min_length=1, max_length=_GROUPS)]


class Asked(Message, frozen=True):
    """guest -> host. Reveals: which rows are in the nodes asked about, and which of these are drawn for
    the tree; which of the host's candidates gain more there than any other party's, in groups of equal
    gain, the best first; best-first, that these nodes gain most."""

    nodes: Annotated[list[Node], msgspec.Meta(max_length=_MOST_NODES)]  # not asked about before
    rows: bytes  # planes of a bit an aligned row: the node's place in the list, from 1; 0 in no node
    drawn: bytes  # a bit a row of these nodes
    groups: Annotated[dict[Node, RankedGroups], msgspec.Meta(min_length=1, max_length=_MOST_NODES)]
    limit: ClassVar[int] = MAX_MESSAGE - KIB
    per_row = ("drawn", 1)


class AskedRows(Message, frozen=True):
    """guest -> host, where sums are hidden. Reveals: in which nodes this host's candidates are the best
    that are left, which rows are in them, and which of these are drawn for the tree; best-first, that
    these nodes gain most."""

    nodes: Annotated[list[Node], msgspec.Meta(max_length=_MOST_NODES)]  # not asked about before
    rows: bytes  # as of Asked
    drawn: bytes
    about: Annotated[list[Node], msgspec.Meta(min_length=1, max_length=_MOST_NODES)]
    limit: ClassVar[int] = MAX_MESSAGE - KIB
    per_row = ("drawn", 1)


class TooFew(Message, frozen=True):
    """host -> guest. Reveals: that none of the candidates asked about leaves enough rows on both sides
    of the node, or is of a column drawn for the tree."""

    node: int


# --------------------------------------------------------------------------------------- guest


class Ranking(Ranks):
    """The ranks of a party of which the guest knows the columns."""

    def __init__(self, columns: OwnColumns | HostColumns, gains: Floats) -> None:
        super().__init__(columns.party, gains)
        self.columns = columns

    def choices(self, count: int) -> list[Choice]:
        """The candidates of each of the best groups, as what to take from."""
        groups = self.groups(count)
        return [Choice(self.party, tuple(group), self.gain(i)) for i, group in enumerate(groups)]


class Questions:
    """The guest's questions about the nodes of one tree."""

    def __init__(self, minimum: int, clock: Clock) -> None:
        """`minimum`: rows on each side of a split."""
        self._minimum, self._clock = minimum, clock
        self._told: dict[int, set[int]] = defaultdict(set)  # by party, nodes whose rows the host knows
        self._open: dict[int, list[Ranking]] = {}  # best-first, of nodes that are not split

    async def split(self, growth: Growth, rankings: Mapping[int, list[Ranking]]) -> dict[int, Taken]:
        """The best splits of the nodes that have any, given each party's candidates there."""
        open_ = dict(rankings)
        taken: dict[int, Taken] = {}
        while open_:
            questions: dict[int, dict[int, list[Ranking]]] = {}  # by party and node
            for node, ranks in list(open_.items()):
                ranks = open_[node] = [rank for rank in ranks if rank]
                if not ranks:
                    del open_[node]
                    continue
                # The first of equal ones, which is the lowest party's.
                best = max(ranks, key=Ranks.gain)
                if isinstance(best.columns, OwnColumns):
                    taken[node] = best.columns.take(node, best.choices(1)[0])
                    del open_[node]
                else:
                    others = [rank for rank in ranks if rank is not best]
                    questions.setdefault(best.party, {})[node] = [best, *others]
            answers = await together([self._ask(growth, about) for about in questions.values()])
            for answer in answers:
                taken.update(answer)
                for node in answer:
                    del open_[node]
        return taken

    async def split_next(
        self, growth: Growth, order: BestFirst, rankings: Mapping[int, list[Ranking]]
    ) -> dict[int, Taken]:
        """Where a tree grows best-first: the splits of the nodes that come next, given each party's
        candidates in those that are new.

        What a node gains is known once its owner has said which candidate has enough rows. So it is
        asked about those alone that gain more than any of the node that comes after.
        """
        self._open.update(rankings)
        taken: dict[int, Taken] = {}
        while not taken:
            heads: dict[int, Head] = {}
            for node, ranks in list(self._open.items()):
                ranks = self._open[node] = [rank for rank in ranks if rank]
                if ranks:
                    best = max(ranks, key=Ranks.gain)
                    heads[node] = Head(best.gain(), best.party)
                else:
                    del self._open[node]
            batch, after = order.next(heads, exact=False)
            if not batch:
                break
            questions: dict[int, dict[int, list[Ranking]]] = {}  # by party and node
            for node in batch:
                best, *others = sorted(self._open[node], key=Ranks.gain, reverse=True)
                if isinstance(best.columns, OwnColumns):
                    taken[node] = best.columns.take(node, best.choices(1)[0])
                else:
                    questions.setdefault(best.party, {})[node] = [best, *others]
            asked = [self._ask(growth, about, after) for about in questions.values()]
            for answer in await together(asked):
                taken.update(answer)
        for node in taken:
            del self._open[node]
        return taken

    async def _ask(
        self, growth: Growth, about: Mapping[int, list[Ranking]], after: Head | None = None
    ) -> dict[int, Taken]:
        """Ask a host about nodes; returns the splits that it takes. The first ranking of each is its
        own. `after`: best-first, of the node that comes after these."""
        frontier = growth.frontier
        groups: dict[int, list[list[int]]] = {}  # by node
        count = 0
        for node, (own, *others) in about.items():
            if count < _MOST_ASKED:
                groups[node] = own.groups(own.ahead_of(others, _GROUPS, after))
                count += sum(map(len, groups[node]))
        party = next(iter(about.values()))[0].columns
        assert isinstance(party, HostColumns)  # noqa: S101 - for the type checker
        rows = await asyncio.to_thread(self._rows_of, frontier, party.party, list(groups))
        question = Asked(*rows, groups)
        host = party.host
        with self._clock.timed("transfer"):
            await host.send(question)
        told: list[tuple[Choice, Direction]] = []
        for node, asked in groups.items():
            with self._clock.timed(f"{host.name} and transfer"):
                answer = await host.recv(Direction, TooFew)
            own = about[node][0]
            if isinstance(answer, TooFew):
                if answer.node != node:
                    raise host.breach("a TooFew that was not asked for")
                own.drop(len(asked))
                continue
            choices = own.choices(len(asked))
            choice = next((c for c in choices if answer.candidate in c.candidates), choices[0])
            party.check_asked(choice, node, answer)
            told.append((choice, answer))
        return await asyncio.to_thread(party.check_directions, growth, told, self._minimum)

    def _rows_of(
        self, frontier: Frontier, party: int, nodes: Sequence[int]
    ) -> tuple[list[int], bytes, bytes]:
        """Those of the nodes whose rows a host does not know, these rows, and which are drawn."""
        new = [node for node in nodes if node not in self._told[party]]
        self._told[party].update(new)
        place = frontier.slot_of_node(new) + 1
        kernel = partial(_places, place.astype(np.min_scalar_type(len(new))))
        planes, inside = [BitPacker() for _ in range(len(new).bit_length())], BitPacker()
        for rows, drawn in ENGINE.results(kernel, frontier.node_of_row, frontier.active):
            for bit, plane in enumerate(planes):
                plane.add((rows >> bit & 1).astype(np.bool_))
            inside.add(drawn)
        return new, b"".join(plane.packed() for plane in planes), inside.packed()

    async def ask_rows(
        self,
        growth: Growth,
        party: HostColumns,
        nodes: Sequence[int],
        gain_of: GainOf,
        coordinator: Peer,
    ) -> dict[int, Taken]:
        """Where sums are hidden: the splits that a host takes of these nodes, whose candidates it hears
        from the coordinator."""
        host, told = party.host, list[SplitRows]()
        rows = await asyncio.to_thread(self._rows_of, growth.frontier, party.party, nodes)
        await host.send(AskedRows(*rows, [*nodes]))
        for node in nodes:
            with self._clock.timed(f"{host.name} and transfer"):
                answer = await host.recv(SplitRows, TooFew)
            if answer.node != node:
                what = "SplitRows that were" if isinstance(answer, SplitRows) else "a TooFew that was"
                raise host.breach(f"{what} not asked for")
            if isinstance(answer, SplitRows):
                told.append(answer)
        given = growth, told, self._minimum, gain_of, coordinator
        return await asyncio.to_thread(party.check_rows, *given)


def _places(place: Places, node: Nodes, active: Mask) -> tuple[Places, Mask]:
    """By row the place of its node among those asked about, 0 outside; and which of them are drawn."""
    rows = place[node]
    return rows, active[rows > 0]


# ---------------------------------------------------------------------------------------- host


class Answers:
    """A host's answers about the nodes of one tree, and what it has learnt of them."""

    def __init__(
        self,
        guest: Peer,
        binned: Binned,
        codes: Rows,
        params: BoostParams,
        candidates: Candidates,
        order: Integers,
        columns: set[str],
        records: Records,
    ) -> None:
        """`codes`: those of `binned`, held. `order`: of `candidates`, those at each place on the wire.
        `columns`: drawn for the tree."""
        self._guest, self._binned, self._params = guest, binned, params
        self._candidates, self._order, self._records = candidates, order, records
        self._codes = codes
        drawn = np.array([column.name in columns for column in candidates.columns], np.bool_)
        self._in_tree = drawn[candidates.column[order]]
        self._known = KnownRows(binned.rows, params.depth)
        self._level = 0  # of the last question
        # By node asked about, which candidates were.
        self._tried: dict[int, Mask] = {}
        self._taken: set[int] = set()

    async def answer(self, message: Asked) -> None:
        """Answer a question."""
        await asyncio.to_thread(self._learn, message)
        for answer in await asyncio.to_thread(self._take, message.groups):
            await self._guest.send(answer)

    async def answer_hidden(self, message: AskedRows, hidden: HiddenHost) -> None:
        """Answer a question about candidates that the coordinator names."""
        await asyncio.to_thread(self._learn, message)
        if len(set(message.about)) < len(message.about):
            raise self._guest.breach("AskedRows about a node twice")
        if any(node not in self._tried or node in self._taken for node in message.about):
            raise self._guest.breach("AskedRows about no open node")
        if len(self._taken) + len(message.about) > most_splits(self._params):
            raise self._guest.breach("AskedRows about more nodes than a tree of the job has splits")
        best = await hidden.best(self._guest, message.about)
        for node in message.about:
            if (why := self._wrong(node, best[node])) is not None:
                raise hidden.breach(f"BestCandidates {why}")
        chosen = await asyncio.to_thread(self._choose, {node: best[node] for node in message.about})
        left = await asyncio.to_thread(self._split, chosen)
        took: dict[int, int | None] = {}
        for node, choice in chosen.items():
            took[node] = None if choice is None else choice.number
            if choice is None:
                await self._guest.send(TooFew(node))
                continue
            ordered = bool(self._candidates.ordered[self._order[choice.number]])
            await self._guest.send(self._records.add_hidden(node, choice.split, left[node], ordered))
        await hidden.took(took)

    def _learn(self, message: Asked | AskedRows) -> None:
        """Learn the rows of the nodes asked about for the first time."""
        what = type(message).__name__
        if not message.nodes:
            if message.rows or message.drawn:
                raise self._guest.breach(f"{what} with rows of no node")
            return
        levels = sorted({level_of(node) for node in message.nodes})
        if not self._in_turn(message.nodes, levels):
            raise self._guest.breach(f"{what} about nodes out of turn")
        try:
            counted = self._known.learn(message.nodes, message.rows, message.drawn)
        except ValueError as error:
            raise self._guest.breach(f"{what} with {error}") from None
        if counted.min() < 2 * self._params.min_child_rows:
            raise self._guest.breach(f"{what} about a node of too few rows")
        self._level = levels[-1]
        self._tried.update((node, np.zeros(len(self._order), np.bool_)) for node in message.nodes)

    @property
    def _all_taken(self) -> bool:
        """Whether this host has taken all splits of a tree of the job."""
        return len(self._taken) >= most_splits(self._params)

    def _in_turn(self, nodes: Sequence[int], levels: Sequence[int]) -> bool:
        """Whether nodes, of these levels, may be asked about for the first time now."""
        new, asked = {*nodes}, self._tried.keys()
        if levels[-1] >= self._params.depth or len(new) < len(nodes) or new & asked:
            return False
        if self._params.max_leaves is None:
            return len(levels) == 1 and self._level <= levels[0]
        # Best-first in any order but that of a parent after what is below it.
        above = {(node + 1 >> up) - 1 for node in new | asked for up in range(1, level_of(node) + 1)}
        return not new & above

    def _take(self, groups: Mapping[int, list[list[int]]]) -> list[Direction | TooFew]:
        """The answers about these nodes."""
        for node, of_node in groups.items():
            if node not in self._tried or node in self._taken or not all(of_node):
                raise self._guest.breach("Asked about candidates of no open node")
            if (why := self._wrong(node, of_node)) is not None:
                raise self._guest.breach(f"Asked {why}")
        if self._all_taken:
            raise self._guest.breach("Asked about candidates of no open node")
        chosen = self._choose(groups)
        if len(self._taken) > most_splits(self._params):
            raise self._guest.breach("Asked about candidates of no open node")
        left = self._split(chosen)
        return [
            TooFew(node)
            if choice is None
            else self._records.add(node, choice.number, choice.split, left[node])
            for node, choice in chosen.items()
        ]

    def _wrong(self, node: int, groups: list[list[int]]) -> str | None:
        """What is wrong with candidates that are named in an open node."""
        asked = np.array([number for group in groups for number in group], np.int64)
        tried = self._tried[node]
        if not ((asked >= 0) & (asked < len(tried))).all():
            return "about a candidate that was not offered"
        if tried[asked].any() or len(np.unique(asked)) < len(asked):
            return "about a candidate again"
        return None

    def _choose(self, asked: Mapping[int, list[list[int]]]) -> "dict[int, _Chosen | None]":
        """Take in each node, of the first group with any that has enough rows, the first in canonical
        order. Rows are counted in the columns alone that are asked about."""
        own, minimum = self._candidates, self._params.min_child_rows
        numbers = {node: np.concatenate(groups).astype(np.int64) for node, groups in asked.items()}
        columns = {n: np.unique(own.column[self._order[of_node]]) for n, of_node in numbers.items()}
        cells = self._known.histograms(own, self._codes, columns)
        valid = own.valid(cells, minimum)[:, self._order] & self._in_tree
        chosen: dict[int, _Chosen | None] = {}
        for (node, groups), fits, counts in zip(asked.items(), valid, cells, strict=True):
            self._tried[node][numbers[node]] = True
            fit = next(filter(None, ([i for i in group if fits[i]] for group in groups)), None)
            if fit is None:
                chosen[node] = None
                continue
            number = min(fit, key=lambda i: int(self._order[i]))
            candidate = int(self._order[number])
            place = int(own.column[candidate])
            first = int(own.offsets[place])
            missing_left = own.sends_missing_left(
                candidate, counts[first : first + own.columns[place].bins + 1]
            )
            side = own.side(candidate, missing_left)
            chosen[node] = _Chosen(number, own.split(candidate, missing_left), side)
            self._taken.add(node)
        return chosen

    def _split(self, chosen: "Mapping[int, _Chosen | None]") -> dict[int, Mask]:
        """Split the nodes of which a candidate was taken; which of its rows go left, by node."""
        sides = {node: choice.side for node, choice in chosen.items() if choice is not None}
        return self._known.split(self._codes, sides)


@dataclass(frozen=True)
class _Chosen:
    """A candidate that is taken in a node."""

    number: int  # on the wire
    split: Split
    side: Side
