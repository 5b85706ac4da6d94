"""SecureBoost over the lattice engine: hosts see no gradients, and nodes only where they may win.

Same trees as paillier.py, bit for bit those of the plaintext oracle. The sums are those of
common/lattice_sums.py, for the price of plain ones (docs/lattice.md).

 1. Guest and hosts make or reuse the hints of the hosts' matrices (common/lattice_sums.py). A host's
    matrix gives the left sums of its split candidates, those with `min_child_rows` rows at least on both
    sides among all aligned rows, in a random order of the hint. It says which of them split monotone
    columns.
For each tree:
 2. The guest draws rows, computes their gradients and hessians and quantises them to integers.
For each level:
 3. For the smaller child of each pair it makes two vectors, gradients and hessians, zero outside the
    node. Hosts add up encrypted vectors without knowing of which node.
 4. The guest has the left sums of all candidates, gets the sibling's by subtraction, and ranks the
    gains of all parties. Which of a host's candidates leave `min_child_rows` rows on both sides of a
    node it does not know: it asks.
 5. It asks a host about a node if the best gain left is that host's: in groups of equal gain, best
    first, all its candidates that beat every other party's, _GROUPS at most. With the question the
    host learns the rows of the node, which of them are drawn, and this ranking. It takes the first of
    its own order in the first group that has one with enough rows, keeps the split in its half, and
    says which rows go left; or that none has. Then the guest goes on with the next best, of whichever
    party. A candidate of a column that is not drawn for the tree counts as one with too few rows: so
    the guest does not learn which candidates share a column.
 6. Leaf weights stay with the guest. Every host keeps its splits so far and says so.

Ties as in paillier.py: the guest's own first, then the lowest host's, then the first in canonical order.

A host learns the rows of nodes that it is asked about, in paillier.py those of all nodes; and its
candidates' ranking there. The guest learns the sums of all candidates that have enough rows in all, in
paillier.py those that have enough in the node; can follow a candidate, not its column, from tree to
tree, as the order is the hint's; and learns of each it asks about whether it has enough rows. A guest
that does not follow the protocol can ask for sums of any rows, single ones too, which no host can see
or count: docs/protocols.md says what this means. A host answers so many vectors as trees of the job's
depth need, and what it is asked about must be a tree: rows of a node lie within those of its parent, a
child has the rows that its split sent there, which rows are drawn does not change.

Who goes on after a kill begins with 1, as a rule with the hint that is kept, and goes on after the
last tree that all have kept (protocols/common/checkpoints.py).
"""

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import msgspec
import numpy as np

from vfl.crypto.lattice.matrix import Column, Matrix, Outputs
from vfl.errors import ConfigError, Refused
from vfl.learn.binning import Binned
from vfl.learn.losses import Floats, Integers
from vfl.learn.params import BoostParams
from vfl.learn.splits import Candidates, Split, histograms
from vfl.learn.tree import Choice, Sums
from vfl.net.peer import Peer, together
from vfl.net.wire import KIB, MAX_MESSAGE, Message
from vfl.protocols.common.bits import Mask, pack_bits, unpack_bits
from vfl.protocols.common.course import GuestCourse, HostCourse
from vfl.protocols.common.lattice_sums import (
    BATCH,
    MOST_OUTPUTS,
    GuestProducts,
    Query,
    guest_meet,
    host_meet,
)
from vfl.protocols.common.participant import Participant, Resources
from vfl.protocols.common.rows import Training
from vfl.protocols.trees.grower import (
    Direction,
    Finish,
    Finished,
    Grower,
    Growth,
    GuestModel,
    GuestTrees,
    HostColumns,
    HostModel,
    HostTrees,
    OwnColumns,
    Taken,
    TreeDone,
    TreeEnd,
    TreeKept,
    draw_columns,
)
from vfl.protocols.trees.quantisation import lattice_shape, quantisation_of

_GROUPS = 64  # that a question about a node has at most
_MOST_NODES = 1 << 10  # of a tree
_MOST_ASKED = 1 << 20  # candidates in a question


class Offering(Message, frozen=True):
    """host -> guest. Reveals: which of the host's candidates split the known values of monotone columns,
    not which columns these are nor whether they increase or decrease."""

    ordered: bytes  # a bit a candidate; empty if none is
    limit: ClassVar[int] = 16 * KIB


class NextTree(Message, frozen=True):
    """guest -> host. Reveals: that a tree begins."""

    tree: int


Node = Annotated[int, msgspec.Meta(ge=0, lt=_MOST_NODES)]
Candidate = Annotated[int, msgspec.Meta(ge=0, lt=MOST_OUTPUTS)]
Groups = Annotated[list[list[Candidate]], msgspec.Meta(min_length=1, max_length=_GROUPS)]


class Asked(Message, frozen=True):
    """guest -> host. Reveals: which rows are in the nodes asked about, and which of these are drawn for
    the tree; which of the host's candidates gain more there than any other party's, in groups of equal
    gain, the best first."""

    nodes: Annotated[list[Node], msgspec.Meta(max_length=_MOST_NODES)]  # not asked about before
    rows: bytes  # planes of a bit an aligned row: the node's place in the list, from 1; 0 in no node
    drawn: bytes  # a bit a row of these nodes
    groups: Annotated[dict[Node, Groups], msgspec.Meta(min_length=1, max_length=_MOST_NODES)]
    limit: ClassVar[int] = MAX_MESSAGE - KIB
    per_row = ("drawn", 1)


class TooFew(Message, frozen=True):
    """host -> guest. Reveals: that none of the candidates asked about leaves enough rows on both sides
    of the node, or is of a column drawn for the tree."""

    node: int


# --------------------------------------------------------------------------------------- guest


async def lattice_guest_train(
    hosts: Sequence[Peer],
    blocks: Mapping[str, Binned],
    rows: Training,
    params: BoostParams,
    resources: Resources,
    course: GuestCourse[TreeDone, GuestTrees],
) -> tuple[GuestModel, Floats]:
    """As `guest_train` of training.py. Raises ConfigError for more rows than the sums can have."""
    guest = _Guest(list(hosts), blocks, rows, params, resources, course)
    try:
        return await guest.train(course.progress, course.checkpoints)
    finally:
        guest.end()


class _Guest(Grower):
    """The guest over the lattice engine."""

    products: GuestProducts | None = None

    def __init__(
        self,
        hosts: list[Peer],
        blocks: Mapping[str, Binned],
        rows: Training,
        params: BoostParams,
        resources: Resources,
        course: GuestCourse[TreeDone, GuestTrees],
    ) -> None:
        try:
            quantisation = quantisation_of(len(rows.label), params)
        except ValueError as error:
            text = f'encryption = "lattice" of [secureboost] is not for so many rows: {error}'
            raise ConfigError(text, for_peer="its job has too many rows for its encryption") from None
        super().__init__(hosts, blocks, rows, params, quantisation)
        self._resources, self._course = resources, course
        self._ordered: list[Mask] = []  # by host

    async def meet(self) -> None:
        # 1. The hints, once.
        shape = lattice_shape(len(self.rows.label), self.params)
        self.products, outputs = await guest_meet(
            self.hosts,
            shape,
            shelf=self._course.hints,
            operations=self._resources.operations,
            timed=self.timed,
            progress=self._course.hint_progress,
        )
        for host, count, said in zip(
            self.hosts,
            outputs,
            await together([host.recv(Offering) for host in self.hosts]),
            strict=True,
        ):
            try:
                ordered = unpack_bits(said.ordered or bytes(-(-count // 8)), count)
            except ValueError as error:
                raise host.breach(f"an Offering with {error}") from None
            self._ordered.append(ordered)

    def end(self) -> None:
        """Training is over, whatever it came to."""
        if self.products is not None:
            self.products.end()

    async def begin(
        self, hosts: list[Peer], number: int, g: Integers, h: Integers, active: Mask, first: int
    ) -> "list[_HostColumns]":
        await together([host.send(NextTree(number)) for host in hosts])
        return [
            _HostColumns(i, host, ordered)
            for i, (host, ordered) in enumerate(zip(hosts, self._ordered, strict=False), first)
        ]

    async def sums(self, parties: Sequence[OwnColumns | HostColumns], growth: Growth) -> None:
        own = [party.sums(growth.frontier) for party in parties if isinstance(party, OwnColumns)]
        theirs = {party.host.name: party for party in parties if isinstance(party, _HostColumns)}
        await together([*own, self._sums(theirs, growth)])

    async def _sums(self, parties: "Mapping[str, _HostColumns]", growth: Growth) -> None:
        # 3. Two vectors for each summed node.
        for party in parties.values():
            party.advance(growth.frontier.nodes)
        if self.products is None or not parties:
            return
        pairs, frontier = growth.frontier.pairs, growth.frontier
        for first in range(0, len(pairs), BATCH // 2):
            part = pairs[first : first + BATCH // 2]
            slot = frontier.slots([summed for summed, _ in part])

            def piece(
                start: int, stop: int, slot: Integers = slot, count: int = 2 * len(part)
            ) -> Integers:
                values = np.zeros((count, stop - start), np.int64)
                at = np.flatnonzero(slot[start:stop] >= 0)
                node = 2 * slot[start:stop][at]
                values[node, at], values[node + 1, at] = (
                    growth.g[start:stop][at],
                    growth.h[start:stop][at],
                )
                return values

            answers = await self.products.query(2 * len(part), piece)
            for host, sums in zip(self.products.hosts, answers, strict=True):
                self.seconds[host.name] += self.products.seconds.pop(host.name, 0.0)
                # 4. The sibling's by subtraction.
                parties[host.name].learn(part, sums, len(slot) << self.quantisation.bits)

    async def split(
        self, growth: Growth, parties: Sequence[OwnColumns | HostColumns]
    ) -> dict[int, Taken]:
        # 5. The best split of each node: of theirs hosts say which have enough rows.
        covers = growth.frontier.covers()
        open_: dict[int, list[_Ranking]] = {}
        for node, total in growth.totals.items():
            if covers[node] >= 2 * self.params.min_child_rows:
                bounds = growth.bounds[node]
                ranks = [_Ranking(p, self.gains(p, node, total, bounds)) for p in parties]
                open_[node] = [rank for rank in ranks if rank.left]
        taken: dict[int, Taken] = {}
        while open_:
            questions: dict[int, dict[int, list[_Ranking]]] = {}  # by party and node
            for node, ranks in list(open_.items()):
                ranks = open_[node] = [rank for rank in ranks if rank.left]
                if not ranks:
                    del open_[node]
                    continue
                # The first of equal ones, which is the lowest party's.
                best = max(ranks, key=lambda rank: rank.top)
                if isinstance(best.party, OwnColumns):
                    taken[node] = best.party.take(growth.frontier, node, best.choice(0))
                    del open_[node]
                else:
                    others = [rank for rank in ranks if rank is not best]
                    questions.setdefault(best.party.party, {})[node] = [best, *others]
            answers = await together([self._ask(growth, about) for about in questions.values()])
            for answer in answers:
                taken.update(answer)
                for node in answer:
                    del open_[node]
        return taken

    async def _ask(self, growth: Growth, about: "Mapping[int, list[_Ranking]]") -> dict[int, Taken]:
        """The splits that a host takes of nodes it is asked about; their first ranking is its own."""
        frontier = growth.frontier
        groups: dict[int, int] = {}  # how many, by node
        count = 0
        for node, (own, *others) in about.items():
            if count < _MOST_ASKED:
                groups[node] = own.ahead_of(others)
                count += sum(map(len, own.left[: groups[node]]))
        party = next(iter(about.values()))[0].party
        assert isinstance(party, _HostColumns)  # noqa: S101 - for the type checker
        new = [node for node in groups if node not in party.told]
        party.told.update(new)
        place = np.zeros(max(frontier.nodes) + 1, np.int64)
        place[new] = np.arange(1, len(new) + 1)
        rows = place[frontier.node_of_row]
        question = Asked(
            new,
            b"".join(pack_bits(rows >> bit & 1 > 0) for bit in range(len(new).bit_length())),
            pack_bits(frontier.active[rows > 0]),
            {
                node: [group.tolist() for group in about[node][0].left[:many]]
                for node, many in groups.items()
            },
        )
        host, taken = party.host, {}
        with self.timed("transfer"):
            await host.send(question)
        for node, many in groups.items():
            with self.timed(f"{host.name} and transfer"):
                answer = await host.recv(Direction, TooFew)
            own = about[node][0]
            if isinstance(answer, TooFew):
                if answer.node != node:
                    raise host.breach("a TooFew that was not asked for")
                del own.left[:many]
                continue
            choices = [own.choice(i) for i in range(many)]
            choice = next((c for c in choices if answer.candidate in c.candidates), choices[0])
            taken[node] = party.taken(growth, choice, node, answer, self.params.min_child_rows)
        return taken

    async def advance(self, hosts: list[Peer], split: list[int], left: Mask) -> None:
        return  # hosts are told of no nodes


class _Ranking:
    """A party's candidates in a node that are left, in groups of equal gain, the best first."""

    def __init__(self, party: OwnColumns | HostColumns, gains: Floats) -> None:
        self.party = party
        order = np.argsort(-gains, kind="stable")[: int((gains > -np.inf).sum())]
        ends = np.flatnonzero(np.diff(gains[order])) + 1
        self.left: list[Integers] = np.split(order, ends) if len(order) else []
        self._gains = gains

    @property
    def top(self) -> float:
        """The best gain."""
        return self._gain(0)

    def _gain(self, group: int) -> float:
        return float(self._gains[self.left[group][0]])

    def choice(self, group: int) -> Choice:
        """A group as the one to take from."""
        return Choice(self.party.party, tuple(self.left[group].tolist()), self._gain(group))

    def ahead_of(self, others: "Sequence[_Ranking]") -> int:
        """How many groups come before the best of all others, _GROUPS at most."""
        for group in range(min(len(self.left), _GROUPS)):
            own = self._gain(group), -self.party.party
            if any((other.top, -other.party.party) > own for other in others):
                return group
        return min(len(self.left), _GROUPS)


class _HostColumns(HostColumns):
    def __init__(self, party: int, host: Peer, ordered: Mask) -> None:
        super().__init__(party, host)
        self.ordered = ordered
        self.told: set[int] = set()
        """Nodes whose rows the host knows."""
        self._parents: dict[int, tuple[Sums, Mask]] = {}

    def advance(self, nodes: list[int]) -> None:
        """These are the open nodes of the next level."""
        self._parents, self.candidates = self.candidates, {}
        if not len(self.ordered):  # a host without candidates is asked for no sums
            nothing = np.zeros(0, np.int64)
            self.candidates = dict.fromkeys(nodes, (Sums(nothing, nothing), self.ordered))

    def learn(self, pairs: Sequence[tuple[int, int | None]], sums: Integers, bound: int) -> None:
        """The sums of these pairs' first nodes, shape (2 pairs, candidates); by them, of the second."""
        if len(sums) and (np.abs(sums).max(initial=0) > bound or sums[1::2].min(initial=0) < 0):
            raise self.host.breach("VectorSums beyond what rows can add up to")
        known = np.ones(sums.shape[1], np.bool_)
        for i, (summed, sibling) in enumerate(pairs):
            left = Sums(sums[2 * i], sums[2 * i + 1])
            self.candidates[summed] = left, known
            if sibling is not None:
                whole, _ = self._parents[(summed - 1) // 2]
                self.candidates[sibling] = whole - left, known


# ---------------------------------------------------------------------------------------- host


async def lattice_host_train(
    guest: Peer,
    binned: Binned,
    params: BoostParams,
    participant: Participant,
    shown: Callable[[str], str],
    course: HostCourse[HostModel, HostTrees],
) -> HostModel:
    """As `host_train` of training.py. Raises Refused for a table that is too large."""
    splits: list[Split] = []
    first_record: dict[int, int] = {}  # of each tree
    if (last := course.checkpoints.last) is not None:
        splits, first_record = [*last.splits], {**last.first_record}

    # 1. The hint.
    offered = await asyncio.to_thread(_Offered.of, binned, params)
    if len(offered.candidates) > MOST_OUTPUTS:
        raise Refused(
            f"{len(offered.candidates):,} split candidates are more than {MOST_OUTPUTS:,}, which "
            'encryption = "lattice" allows: lower max_bins'
        )
    products = await host_meet(
        guest,
        offered.matrix,
        len(offered.candidates),
        lattice_shape(binned.rows, params),
        kept=course.hints.known(),
        keep=course.hints.keep,
        operations=participant.resources.operations,
        progress=course.hint_progress,
    )
    order = offered.order(products.secret)
    ordered = offered.all.ordered[order]
    await guest.send(Offering(pack_bits(ordered) if ordered.any() else b""))
    try:
        while isinstance(start := await guest.recv(NextTree, Finish), NextTree):
            if not max(first_record, default=-1) < start.tree < params.trees:
                raise guest.breach("a NextTree out of turn")
            first_record[start.tree] = len(splits)
            course.progress(start.tree + 1, params.trees)
            drawn = draw_columns(binned, participant.name, params, start.tree)
            names = {column.name for column in drawn.columns}
            tree = _HostTree(guest, params, offered, order, names)
            while not isinstance(message := await guest.recv(Query, Asked, TreeEnd), TreeEnd):
                if isinstance(message, Query):
                    # 3. Sums of vectors.
                    tree.count(message.vectors)
                    await products.serve(message)
                else:
                    # 5. The best candidates with enough rows.
                    await tree.answer(message, splits, shown)
            # 6. What goes on is safe.
            kept = HostTrees(start.tree + 1, [*splits], {**first_record}, [])
            await course.checkpoints.keep(kept)
            await guest.send(TreeKept())
    finally:
        products.end()

    model = HostModel.of(splits, first_record, start.trees)
    course.keep(model)
    await guest.send(Finished())
    return model


@dataclass(frozen=True)
class _Offered:
    """The candidates that a host offers in a job."""

    binned: Binned
    all: Candidates
    candidates: Integers  # of all, in canonical order

    @classmethod
    def of(cls, binned: Binned, params: BoostParams) -> "_Offered":
        """Those that may have enough rows in a node."""
        every = Candidates.of(binned.columns)
        counts = histograms(binned, every, np.zeros(binned.rows, np.int64), 1)
        return cls(binned, every, np.flatnonzero(every.valid(counts, params.min_child_rows)[0]))

    def order(self, secret: bytes) -> Integers:
        """The canonical candidate at each place on the wire."""
        count = len(self.candidates)
        stream = hashlib.shake_256(b"vfl candidate order\0" + secret).digest(8 * count)
        return self.candidates[np.argsort(np.frombuffer(stream, "<u8"), kind="stable")]

    def matrix(self, secret: bytes) -> Matrix:
        """What gives the left sums of the candidates, in this order."""
        columns = [
            Column(codes, column.bins + 1)
            for codes, column in zip(self.binned.codes, self.all.columns, strict=True)
        ]
        at: list[int] = []
        weights: list[int] = []
        starts = [0]
        for candidate in self.order(secret).tolist():
            column = self.all.columns[int(self.all.column[candidate])]
            cell, missing = int(self.all.cell[candidate]), int(self.all.missing_cell[candidate])
            # Of running sums: the one up to a bin; what a bin adds to that before it.
            at.append(cell)
            weights.append(1)
            if column.edges is None and self.all.bin[candidate] > 0:
                at.append(cell - 1)
                weights.append(-1)
            if self.all.missing_left[candidate]:
                at += [missing, missing - 1]
                weights += [1, -1]
            starts.append(len(at))
        first, cells, by = (np.array(values, np.int64) for values in (starts, at, weights))
        return Matrix(columns, Outputs(first, cells, by, running=True))


class _HostTree:
    """What a host knows of a tree under growth."""

    def __init__(
        self, guest: Peer, params: BoostParams, offered: _Offered, order: Integers, columns: set[str]
    ) -> None:
        """`columns`: those drawn for the tree."""
        self._guest, self._params, self._offered, self._order = guest, params, offered, order
        drawn = np.array([column.name in columns for column in offered.all.columns], np.bool_)
        self._in_tree = drawn[offered.all.column[order]]
        rows = offered.binned.rows
        # By level: the node of each row, where it is known, else -1.
        self._nodes = np.full((params.depth + 1, rows), -1, np.int32)
        self._known = np.zeros(rows, np.bool_)  # rows of which it is known whether they are drawn
        self._drawn = np.zeros(rows, np.bool_)
        self._level = 0  # of the last question
        # By node asked about: which candidates have enough rows, and which were asked about.
        self._valid: dict[int, Mask] = {}
        self._tried: dict[int, Mask] = {}
        self._taken: set[int] = set()
        self._vectors = 0

    def count(self, vectors: int) -> None:
        """Raises PeerError for more vectors than a tree needs."""
        self._vectors += vectors
        if self._vectors > 1 << self._params.depth:
            raise self._guest.breach("a Query of more vectors than a tree needs")

    async def answer(self, message: Asked, splits: list[Split], shown: Callable[[str], str]) -> None:
        """Answer a question."""
        await asyncio.to_thread(self._learn, message)
        for node, groups in message.groups.items():
            answer = await asyncio.to_thread(self._take, node, groups, splits, shown)
            await self._guest.send(answer)

    def _learn(self, message: Asked) -> None:
        """The rows of the nodes asked about for the first time, and which candidates are for them."""
        nodes, drawn = np.array(message.nodes, np.int64), self._drawn
        if not len(nodes):
            if message.rows or message.drawn:
                raise self._guest.breach("Asked with rows of no node")
            return
        rows, planes = len(drawn), len(nodes).bit_length()
        level = (int(nodes.max()) + 1).bit_length() - 1
        if (
            not self._level <= level < self._params.depth
            or nodes.min() < (1 << level) - 1
            or len(np.unique(nodes)) < len(nodes)
            or set(message.nodes) & set(self._valid)
        ):
            raise self._guest.breach("Asked about nodes out of turn")
        size = -(-rows // 8)
        try:
            place = np.zeros(rows, np.int64)
            for bit in range(planes):
                part = message.rows[bit * size : (bit + 1) * size]
                place |= unpack_bits(part, rows).astype(np.int64) << bit
            inside = place > 0
            given = unpack_bits(message.drawn, int(inside.sum()))
        except ValueError as error:
            raise self._guest.breach(f"Asked with {error}") from None
        if len(message.rows) != planes * size or place.max() > len(nodes):
            raise self._guest.breach("Asked with rows of no node")

        # It must be a tree: rows stay below the nodes where they were known to be, drawn or not.
        node = nodes[place[inside] - 1]
        for above in range(level + 1):
            known = self._nodes[above][inside]
            expected = ((node + 1) >> (level - above)) - 1
            if ((known >= 0) & (known != expected)).any():
                raise self._guest.breach("Asked with rows that are in another node")
        left_out = np.isin(self._nodes[level][~inside], nodes).any() or (level == 0 and not inside.all())
        if left_out or (given != drawn[inside])[self._known[inside]].any():
            raise self._guest.breach("Asked with other rows of a node than it has")
        counted = np.bincount(place[inside][given], minlength=len(nodes) + 1)[1:]
        if counted.min() < 2 * self._params.min_child_rows:
            raise self._guest.breach("Asked about a node of too few rows")

        self._level = level
        self._nodes[level][inside] = node
        self._known |= inside
        drawn[inside] = given
        own, binned = self._offered.all, self._offered.binned
        counts = histograms(binned, own, np.where(drawn & inside, place - 1, -1), len(nodes))
        valid = own.valid(counts, self._params.min_child_rows)[:, self._order] & self._in_tree
        self._valid.update(zip(message.nodes, valid, strict=True))
        self._tried.update(
            (node, np.zeros_like(of)) for node, of in zip(message.nodes, valid, strict=True)
        )

    def _take(
        self, node: int, groups: list[list[int]], splits: list[Split], shown: Callable[[str], str]
    ) -> Direction | TooFew:
        """Take, of the first group with any that has enough rows, the first in canonical order."""
        asked = np.array([number for group in groups for number in group], np.int64)
        tried = self._tried.get(node)
        if tried is None or node in self._taken or not all(groups):
            raise self._guest.breach("Asked about candidates of no open node")
        if not ((asked >= 0) & (asked < len(tried))).all():
            raise self._guest.breach("Asked about a candidate that was not offered")
        if tried[asked].any() or len(np.unique(asked)) < len(asked):
            raise self._guest.breach("Asked about a candidate again")
        tried[asked] = True
        for group in groups:
            fit = [number for number in group if self._valid[node][number]]
            if fit:
                break
        else:
            return TooFew(node)
        number = min(fit, key=lambda i: int(self._order[i]))
        level = (node + 1).bit_length() - 1
        inside = self._nodes[level] == node
        split, left = self._offered.all.take(
            int(self._order[number]), self._offered.binned.codes, inside, self._drawn
        )
        self._taken.add(node)
        self._nodes[level + 1][inside] = np.where(left, 2 * node + 1, 2 * node + 2)
        splits.append(split)
        return Direction(node, number, len(splits) - 1, shown(split.column), pack_bits(left))
