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
from functools import partial
from typing import Annotated, ClassVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats, Integers, Mask
from vfl.blocks.engine import ENGINE, Rows
from vfl.blocks.scratch import in_pieces
from vfl.learn.best_first import BestFirst, Head, level_of
from vfl.learn.binning import Binned
from vfl.learn.params import BoostParams
from vfl.learn.splits import Candidates, Cells, Split, block_histograms
from vfl.learn.told_sums import most_splits
from vfl.learn.tree import Choice, Frontier, Nodes, slots_of
from vfl.net.peer import Peer, together
from vfl.net.wire import KIB, MAX_MESSAGE, Message
from vfl.protocols.common.bits import BitPacker, bits_between, check_bits
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
        host, taken = party.host, {}
        with self._clock.timed("transfer"):
            await host.send(question)
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
            taken[node] = party.check_direction(growth, choice, node, answer, self._minimum)
        return taken

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
        host, taken = party.host, {}
        rows = await asyncio.to_thread(self._rows_of, growth.frontier, party.party, nodes)
        await host.send(AskedRows(*rows, [*nodes]))
        for node in nodes:
            with self._clock.timed(f"{host.name} and transfer"):
                answer = await host.recv(SplitRows, TooFew)
            if isinstance(answer, SplitRows):
                taken[node] = party.check_rows(growth, node, answer, self._minimum, gain_of, coordinator)
            elif answer.node != node:
                raise host.breach("a TooFew that was not asked for")
        return taken


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
        rows = binned.rows
        # Of each row the deepest node that it is known to be in, -1 for none, and if it is in one
        # whether it is drawn. Nodes above follow from it.
        self._kind = np.min_scalar_type(-(2 << params.depth))
        self._node: Nodes = np.full(rows, -1, self._kind)
        self._drawn = np.zeros(rows, np.bool_)
        numbers = np.arange((4 << params.depth) + 1)  # of nodes, from -1 on
        self._level_of = np.array([max(number.bit_length(), 1) - 1 for number in numbers.tolist()])
        self._level = 0  # of the last question
        # By node asked about: which candidates have enough rows, and which were asked about.
        self._valid: dict[int, Mask] = {}
        self._tried: dict[int, Mask] = {}
        self._taken: set[int] = set()

    async def answer(self, message: Asked) -> None:
        """Answer a question."""
        await asyncio.to_thread(self._learn, message)
        for node, groups in message.groups.items():
            answer = await asyncio.to_thread(self._take, node, groups)
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
        took: dict[int, int | None] = {}
        for node in message.about:
            if (why := self._wrong(node, best[node])) is not None:
                raise hidden.breach(f"BestCandidates {why}")
            choice = await asyncio.to_thread(self._choose, node, best[node])
            took[node] = None if choice is None else choice[0]
            if choice is None:
                await self._guest.send(TooFew(node))
                continue
            number, split, left = choice
            ordered = bool(self._candidates.ordered[self._order[number]])
            await self._guest.send(self._records.add_hidden(node, split, left, ordered))
        await hidden.took(took)

    def _learn(self, message: Asked | AskedRows) -> None:
        """Learn the rows of the nodes asked about for the first time, and which candidates have
        enough."""
        what, nodes = type(message).__name__, np.array(message.nodes, np.int64)
        if not len(nodes):
            if message.rows or message.drawn:
                raise self._guest.breach(f"{what} with rows of no node")
            return
        levels = sorted({level_of(node) for node in message.nodes})
        if not self._in_turn(message.nodes, levels):
            raise self._guest.breach(f"{what} about nodes out of turn")
        try:
            inside = self._check_places(message)
            check_bits(message.drawn, inside)
        except ValueError as error:
            raise self._guest.breach(f"{what} with {error}") from None
        if levels[0] == 0 and inside < len(self._node):
            raise self._guest.breach(f"{what} with other rows of a node than it has")

        table = np.full(4 << self._params.depth, -1)  # by node its place; the last is that of -1
        table[nodes] = np.arange(len(nodes))
        counted, known = np.zeros(len(nodes), np.int64), 0
        for some in in_pieces(len(self._node)):
            place = self._places_of(message, some)
            drawn = bits_between(message.drawn, known, known + int(np.count_nonzero(place)))
            counted += self._learn_rows(what, (nodes, table), some, place, drawn)
            known += len(drawn)
        if counted.min() < 2 * self._params.min_child_rows:
            raise self._guest.breach(f"{what} about a node of too few rows")

        self._level = levels[-1]
        own = self._candidates
        kernel = partial(_counts, own.flat, table, len(nodes), self._binned.codes.size)
        counts = ENGINE.total(kernel, self._codes, self._node, self._drawn)
        valid = own.valid(counts, self._params.min_child_rows)[:, self._order] & self._in_tree
        self._valid.update(zip(message.nodes, valid, strict=True))
        self._tried.update(
            (node, np.zeros_like(of)) for node, of in zip(message.nodes, valid, strict=True)
        )

    def _check_places(self, message: Asked | AskedRows) -> int:
        """How many rows are in the nodes asked about. Raises ValueError, saying what it has, where they
        are in no node."""
        size, planes = -(-len(self._node) // 8), len(message.nodes).bit_length()
        if len(message.rows) < planes * size:
            raise ValueError("a wrong number of bits")
        inside = 0
        for some in in_pieces(len(self._node)):
            place = self._places_of(message, some)
            if len(message.rows) > planes * size or place.max() > len(message.nodes):
                raise ValueError("rows of no node")
            inside += int(np.count_nonzero(place))
        return inside

    def _places_of(self, message: Asked | AskedRows, some: slice) -> Nodes:
        """Of some rows the place of their node among those asked about, from 1; 0 in none."""
        place = np.zeros(some.stop - some.start, self._kind)
        first, size = some.start, -(-len(self._node) // 8)
        for bit in range(len(message.nodes).bit_length()):
            plane = bits_between(message.rows, 8 * size * bit + first, 8 * size * bit + some.stop)
            place |= plane.astype(self._kind) << bit
        return place

    def _learn_rows(
        self,
        what: str,
        asked: tuple[Integers, Integers],
        some: slice,
        place: Nodes,
        drawn: Mask,
    ) -> Integers:
        """Learn of some rows in which of the nodes asked about they are (these, and by node its
        place), and of those inside whether they are drawn. How many of these are in each node."""
        nodes, table = asked
        inside = np.flatnonzero(place)
        node = nodes.astype(self._kind)[place[inside] - 1]
        before = self._node[some]
        # It must be a tree: rows stay below the nodes where they were known to be, drawn or not.
        known = before[inside]
        above = np.maximum(self._level_of[nodes + 1][place[inside] - 1] - self._level_of[known + 1], 0)
        if ((known >= 0) & (known + 1 != (node.astype(np.int64) + 1) >> above)).any():
            raise self._guest.breach(f"{what} with rows that are in another node")
        left_out = (table[before] >= 0) & (place == 0)
        if left_out.any() or (drawn != self._drawn[some][inside])[known >= 0].any():
            raise self._guest.breach(f"{what} with other rows of a node than it has")
        before[inside] = node
        self._drawn[some][inside] = drawn
        return np.bincount(place[inside][drawn] - 1, minlength=len(nodes))

    @property
    def _all_taken(self) -> bool:
        """Whether this host has taken all splits of a tree of the job."""
        return len(self._taken) >= most_splits(self._params)

    def _in_turn(self, nodes: Sequence[int], levels: Sequence[int]) -> bool:
        """Whether nodes, of these levels, may be asked about for the first time now."""
        new, asked = {*nodes}, self._valid.keys()
        if levels[-1] >= self._params.depth or len(new) < len(nodes) or new & asked:
            return False
        if self._params.max_leaves is None:
            return len(levels) == 1 and self._level <= levels[0]
        # Best-first in any order but that of a parent after what is below it.
        above = {(node + 1 >> up) - 1 for node in new | asked for up in range(1, level_of(node) + 1)}
        return not new & above

    def _take(self, node: int, groups: list[list[int]]) -> Direction | TooFew:
        """The answer about a node."""
        if node not in self._tried or node in self._taken or self._all_taken or not all(groups):
            raise self._guest.breach("Asked about candidates of no open node")
        if (why := self._wrong(node, groups)) is not None:
            raise self._guest.breach(f"Asked {why}")
        choice = self._choose(node, groups)
        return TooFew(node) if choice is None else self._records.add(node, *choice)

    def _wrong(self, node: int, groups: list[list[int]]) -> str | None:
        """What is wrong with candidates that are named in an open node."""
        asked = np.array([number for group in groups for number in group], np.int64)
        tried = self._tried[node]
        if not ((asked >= 0) & (asked < len(tried))).all():
            return "about a candidate that was not offered"
        if tried[asked].any() or len(np.unique(asked)) < len(asked):
            return "about a candidate again"
        return None

    def _choose(self, node: int, groups: list[list[int]]) -> tuple[int, Split, Mask] | None:
        """Take, of the first group with any that has enough rows, the first in canonical order: its
        number, its split, and which rows of the node go left."""
        self._tried[node][[number for group in groups for number in group]] = True
        for group in groups:
            fit = [number for number in group if self._valid[node][number]]
            if fit:
                break
        else:
            return None
        number = min(fit, key=lambda i: int(self._order[i]))
        split, left = self._split(int(self._order[number]), node)
        self._taken.add(node)
        known = 0
        for some in in_pieces(len(self._node)):
            own = self._node[some]
            inside = np.flatnonzero(own == node)
            goes_left = left[known : known + len(inside)]
            own[inside] = 2 * node + 2 - goes_left
            known += len(inside)
        return number, split, left

    def _split(self, candidate: int, node: int) -> tuple[Split, Mask]:
        """A candidate's split of a node that no row is known to be below, and which of its rows go
        left."""
        own = self._candidates
        place = int(own.column[candidate])
        found, counts = list[NDArray[np.uint8]](), np.zeros(own.columns[place].bins + 1, np.int64)
        codes_of = ENGINE.results(partial(_codes_of, place, node), self._codes, self._node)
        for some, codes in zip(ENGINE.cuts(len(self._node)), codes_of, strict=True):
            drawn = self._drawn[some][self._node[some] == node]
            counts += np.bincount(codes[drawn], minlength=len(counts))
            found.append(codes)
        missing_left = own.sends_missing_left(candidate, counts)
        left = np.concatenate([own.goes_left(candidate, codes, missing_left) for codes in found])
        return own.split(candidate, missing_left), left


def _counts(
    flat: Cells,
    table: Integers,
    nodes: int,
    work: int,
    codes: NDArray[np.uint8],
    node: Nodes,
    drawn: Mask,
) -> Integers:
    """How many drawn rows each node has in each cell."""
    return block_histograms(codes, flat, slots_of(table, node, drawn), nodes, None, work)


def _codes_of(column: int, split: int, codes: NDArray[np.uint8], node: Nodes) -> NDArray[np.uint8]:
    return np.asarray(codes[column][node == split])
