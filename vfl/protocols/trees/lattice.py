"""SecureBoost over the lattice engine: hosts see no gradients, and nodes only where they may win.

Same trees as paillier.py, bit for bit those of the plaintext oracle. The sums are those of
common/lattice_sums.py, for the price of plain ones (docs/lattice.md).

 1. Guest and hosts make or reuse the hints of the hosts' matrices (common/lattice_hints.py). A host's
    matrix gives the left sums of its split candidates, those with `min_child_rows` rows at least on both
    sides among all aligned rows, in a random order of the hint. It says which of them split monotone
    columns.
For each tree:
 2. The guest draws rows, computes their gradients and hessians and quantises them to integers.
For each level:
 3. For the smaller child of each pair it makes two vectors, gradients and hessians, zero outside the
    node, or one of both where words of 80 bits hold their sums and are shorter than two. Hosts add up
    encrypted vectors without knowing of which node.
 4. The guest has the left sums of all candidates, gets the sibling's by subtraction, and ranks the
    gains of all parties. Which of a host's candidates leave `min_child_rows` rows on both sides of a
    node it does not know: it asks.
 5. It asks a host about a node if the best gain left is that host's (questions.py): the host learns the
    rows of the node and the ranking of its candidates that beat every other party's. It takes the best
    that has enough rows, keeps the split in its half, and says which rows go left; or that none has.
    Then the guest goes on with the next best, of whichever party.
 6. Leaf weights stay with the guest. Every host keeps its splits so far and says so.

Ties as in paillier.py: the guest's own first, then the lowest host's, then the first in canonical order.

A host learns the rows of nodes that it is asked about, in paillier.py those of all nodes; and its
candidates' ranking there. The guest learns the sums of all candidates that have enough rows in all, in
paillier.py those that have enough in the node; can follow a candidate, not its column, from tree to
tree, as the order is the hint's; and learns of each it asks about whether it has enough rows. A guest
that does not follow the protocol can ask for sums of any rows, single ones too, which no host can see
or count: docs/protocols.md says what this means. A host answers so many vectors as trees of the job
need, by depth and rows, and what it is asked about must be a tree (questions.py).

Who goes on after a kill begins with 1, as a rule with the hint that is kept, and goes on after the
last tree that all have kept (protocols/common/checkpoints.py).
"""

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats, Integers, Mask, Words
from vfl.blocks.engine import ENGINE, Rows
from vfl.crypto.lattice.matrix import CellMatrix, CodedColumn, Outputs
from vfl.crypto.lattice.vectors import Values
from vfl.errors import ConfigError, Refused
from vfl.learn.binning import Binned
from vfl.learn.params import BoostParams
from vfl.learn.splits import Candidates, Cells, block_histograms
from vfl.learn.told_sums import equations_a_tree
from vfl.learn.tree import Frontier, Nodes, Sums, slots_of
from vfl.net.peer import Peer, together
from vfl.net.wire import KIB, Message
from vfl.protocols.common.bits import pack_bits, unpack_bits
from vfl.protocols.common.course import GuestCourse, HostCourse
from vfl.protocols.common.lattice_hints import guest_meet, host_meet
from vfl.protocols.common.lattice_sums import (
    BATCH,
    MOST_OUTPUTS,
    Encrypted,
    Entries,
    GuestProducts,
    Query,
)
from vfl.protocols.common.participant import Participant, Resources
from vfl.protocols.common.rows import Training
from vfl.protocols.trees.columns import Growth, HostColumns, OwnColumns, Taken
from vfl.protocols.trees.draws import draw_columns
from vfl.protocols.trees.grower import (
    Finish,
    Grower,
    GuestTrees,
    HostTrees,
    TreeDone,
    TreeEnd,
)
from vfl.protocols.trees.hidden import HiddenHost, HiddenSums, gain_within
from vfl.protocols.trees.model import GuestModel, HostModel
from vfl.protocols.trees.node_rows import pairs_of
from vfl.protocols.trees.quantisation import lattice_shape, quantisation_of
from vfl.protocols.trees.questions import Answers, Asked, AskedRows, Questions, Ranking
from vfl.protocols.trees.records import Records


class Offering(Message, frozen=True):
    """host -> guest. Reveals: which of the host's candidates split the known values of monotone columns,
    not which columns these are nor whether they increase or decrease."""

    ordered: bytes  # a bit a candidate; empty if none is
    limit: ClassVar[int] = 16 * KIB


class NextTree(Message, frozen=True):
    """guest -> host. Reveals: that a tree begins; of a job of several classes which class it is of, by
    its number, not its name."""

    tree: int


# --------------------------------------------------------------------------------------- guest


async def lattice_guest_train(
    hosts: Sequence[Peer],
    blocks: Mapping[str, Binned],
    rows: Training,
    params: BoostParams,
    resources: Resources,
    course: GuestCourse[TreeDone, GuestTrees],
    coordinator: Peer | None,
) -> tuple[GuestModel, Floats]:
    """Play the guest, as `guest_train` of training.py says. Raises ConfigError for more rows than the
    sums can have."""
    hidden = None if coordinator is None else HiddenSums(coordinator, params, len(hosts))
    guest = _LatticeGrower(list(hosts), blocks, rows, params, resources, course, hidden)
    try:
        return await guest.train(course.progress, course.checkpoints)
    finally:
        guest.end()


class _LatticeGrower(Grower):
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
        hidden: HiddenSums | None,
    ) -> None:
        try:
            quantisation = quantisation_of(len(rows.label), params)
        except ValueError as error:
            text = f'encryption = "lattice" of [secureboost] is not for so many rows: {error}'
            raise ConfigError(text, for_peer="its job has too many rows for its encryption") from None
        super().__init__(hosts, blocks, rows, params, quantisation)
        self._resources, self._course, self._hidden = resources, course, hidden
        self._to_coordinate = False  # whether hosts grow the tree
        self._ordered: list[Mask] = []  # by host
        self._questions = Questions(params.min_child_rows, self.clock)  # of the tree that grows

    async def meet(self) -> None:
        # 1. The hints, once.
        shape = lattice_shape(len(self.rows.label), self.params)
        if self._hidden is not None:
            await self._hidden.begin(len(self.rows.label))
        self.products, outputs = await guest_meet(
            self.hosts,
            shape,
            resources=self._resources.part("trees"),
            shelf=self._course.hints,
            timed=self.clock.timed,
            progress=self._course.hint_progress,
            judge=None if self._hidden is None else self._judge_zeros,
        )
        if self._hidden is not None:
            self._ordered = [np.zeros(count, np.bool_) for count in outputs]
            return
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

    async def _judge_zeros(self, host: Peer, words: Words) -> None:
        assert self._hidden is not None  # noqa: S101 - for the type checker
        await self._hidden.judge_zeros(self.hosts.index(host), words.astype("<u8").tobytes())

    def end(self) -> None:
        """End the training, whatever it came to."""
        if self.products is not None:
            self.products.end()

    async def begin(
        self, hosts: list[Peer], number: int, growth: Growth, first: int
    ) -> "list[_LatticeHostColumns]":
        await together([host.send(NextTree(number)) for host in hosts])
        self._to_coordinate = self._hidden is not None and bool(hosts)
        if self._hidden is not None and hosts:
            await self._hidden.begin_tree(number, self.scales)
        self._questions = Questions(self.params.min_child_rows, self.clock)
        return [
            _LatticeHostColumns(i, host, ordered)
            for i, (host, ordered) in enumerate(zip(hosts, self._ordered, strict=False), first)
        ]

    async def sums(self, parties: Sequence[OwnColumns | HostColumns], growth: Growth) -> None:
        theirs = {party.host.name: party for party in parties if isinstance(party, _LatticeHostColumns)}
        own = [party for party in parties if isinstance(party, OwnColumns)]
        if self._hidden is not None and self._to_coordinate:
            told = asyncio.create_task(self._hidden.own_sums(growth, own, self.best))
            await together([told, self._sums(theirs, growth, told)])
        else:
            await self._sums_beside(own, theirs, growth)

    async def _sums_beside(
        self, own: Sequence[OwnColumns], theirs: "Mapping[str, _LatticeHostColumns]", growth: Growth
    ) -> None:
        """Sum own columns once all is encrypted, while hosts add up: before, they would wait longer."""
        encrypted = asyncio.Event()

        async def sum_own() -> None:
            await encrypted.wait()
            await together([party.sums(growth.frontier) for party in own])

        await together([sum_own(), self._sums(theirs, growth, encrypted=encrypted.set)])

    async def _sums(
        self,
        parties: "Mapping[str, _LatticeHostColumns]",
        growth: Growth,
        told: asyncio.Task[None] | None = None,
        encrypted: Encrypted = lambda: None,
    ) -> None:
        """`told`: where sums are hidden, what tells the coordinator of the level. `encrypted`: as of
        GuestProducts.query, of all queries of the level."""
        # 3. Two vectors for each summed node, or one of pairs.
        for party in parties.values():
            party.advance(growth.frontier)
        if self.products is None or not parties or not growth.frontier.pairs:
            encrypted()
            return
        pairs, frontier = growth.frontier.pairs, growth.frontier
        for first in range(0, len(pairs), BATCH // 2):
            part = pairs[first : first + BATCH // 2]
            table = frontier.slot_of_node([summed for summed, _ in part])
            base, count = self.products.base, len(part)
            rows = growth.g, growth.h, frontier.node_of_row, frontier.active
            if base is None:
                entries = Entries(2 * count, partial(_node_vectors, table, 2 * count), rows)
            else:
                entries = Entries(count, partial(_node_pairs, table, count, base), rows)
            if self._hidden is not None and told is not None:
                words = await self.products.query_words(entries, passed_on=True)
                await told
                for host, read in zip(self.products.hosts, words, strict=True):
                    await self._hidden.pass_on(self.hosts.index(host), read.astype("<u8").tobytes())
            else:
                # 4. The sibling's by subtraction.
                is_last = first + len(part) == len(pairs)
                answers = await self.products.query(
                    entries, encrypted=encrypted if is_last else lambda: None
                )
                for host, sums in zip(self.products.hosts, answers, strict=True):
                    parties[host.name].learn(part, sums, growth.rows << self.quantisation.bits)
            for host in self.products.hosts:
                self.clock.seconds[host.name] += self.products.seconds.pop(host.name, 0.0)

    async def split(
        self, growth: Growth, parties: Sequence[OwnColumns | HostColumns]
    ) -> dict[int, Taken]:
        # 5. The best split of each node: of theirs hosts say which have enough rows.
        if self._hidden is not None and self._to_coordinate:
            return await self._split_hidden(self._hidden, growth, parties)
        covers = growth.frontier.covers()
        new = growth.frontier.nodes
        wide = [node for node in new if covers[node] >= 2 * self.params.min_child_rows]
        found = [(party, self.gains(growth, party, wide)) for party in parties]
        rankings = {node: [Ranking(party, gains[node]) for party, gains in found] for node in wide}
        if growth.order is not None:
            return await self._questions.split_next(growth, growth.order, rankings)
        return await self._questions.split(growth, rankings)

    async def _split_hidden(
        self, hidden: HiddenSums, growth: Growth, parties: Sequence[OwnColumns | HostColumns]
    ) -> dict[int, Taken]:
        """The same, where a coordinator opens the sums (hidden.py)."""
        own = [party for party in parties if isinstance(party, OwnColumns)]
        hosts = [party for party in parties if isinstance(party, _LatticeHostColumns)]
        gain_of = gain_within(growth, hidden.chosen, self.scales, self.params)

        async def ask(place: int, nodes: Sequence[int]) -> dict[int, Taken]:
            return await self._questions.ask_rows(
                growth, hosts[place], nodes, gain_of, hidden.coordinator
            )

        taken = await hidden.split(growth, own, ask)
        self.told_obstacle = hidden.obstacle
        return taken

    async def end_tree(self, growth: Growth) -> None:
        if self._hidden is not None and self._to_coordinate:
            await self._hidden.end_tree(growth)

    async def finish(self, trees: int) -> None:
        if self._hidden is not None:
            await self._hidden.end(trees)

    async def advance(self, hosts: list[Peer], split: list[int], left: Rows) -> None:
        return  # hosts are told of no nodes


def _node_vectors(
    slot_of_node: Integers, count: int, g: Integers, h: Integers, node: Nodes, active: Mask
) -> Values:
    """A block of the `count` vectors of some nodes: the gradients of each, then the hessians."""
    values = np.zeros((count, len(g)), np.int16)  # of `quantisation_of`: 12 bits and a sign at most
    at = np.flatnonzero((slot := slots_of(slot_of_node, node, active)) >= 0)
    first = 2 * slot[at]
    values[first, at], values[first + 1, at] = g[at], h[at]
    return values


def _node_pairs(
    slot_of_node: Integers, count: int, base: int, g: Integers, h: Integers, node: Nodes, active: Mask
) -> Values:
    """A block of the `count` vectors of some nodes: gradients times `base`, plus hessians."""
    return pairs_of(slot_of_node, count, base, node, active, g, h)


class _LatticeHostColumns(HostColumns):
    def __init__(self, party: int, host: Peer, ordered: Mask) -> None:
        super().__init__(party, host)
        self.ordered = ordered
        self._parents: dict[int, tuple[Sums, Mask]] = {}

    def advance(self, frontier: Frontier) -> None:
        """Be told of the nodes that are summed next."""
        self._parents = self.candidates
        self.candidates = {n: self._parents[n] for n in frontier.waiting if n in self._parents}
        if not len(self.ordered):  # a host without candidates is asked for no sums
            nothing = np.zeros(0, np.int64)
            self.candidates = dict.fromkeys(frontier.nodes, (Sums(nothing, nothing), self.ordered))

    def learn(self, pairs: Sequence[tuple[int, int | None]], sums: Integers, bound: int) -> None:
        """Take the sums of these pairs' first nodes, shape (2 pairs, candidates), and by them the
        second's."""
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
    coordinator: Peer | None = None,
) -> HostModel:
    """Play a host, as `host_train` of training.py says. Raises Refused for a table that is too large."""
    resources = participant.resources.part("trees")
    records = Records(guest, params, shown, course, resources.say)

    # 1. The hint.
    codes = await asyncio.to_thread(ENGINE.hold, binned.codes.reshape(-1, binned.rows))
    offered = await asyncio.to_thread(_Offered.of, binned, params, codes)
    if len(offered.candidates) > MOST_OUTPUTS:
        raise Refused(
            f"{len(offered.candidates):,} split candidates are more than {MOST_OUTPUTS:,}, which "
            'encryption = "lattice" allows: lower max_bins'
        )
    hidden = None if coordinator is None else HiddenHost(coordinator, resources.randomness)
    if hidden is not None:
        await hidden.begin()
    products = await host_meet(
        guest,
        lambda secret: offered.matrix(secret, codes),
        len(offered.candidates),
        lattice_shape(binned.rows, params),
        resources=resources,
        hints=course.hints,
        progress=course.hint_progress,
        masks=None if hidden is None else hidden.masks,
    )
    order = offered.order(products.secret)
    ordered = offered.all.ordered[order]
    most = equations_a_tree(binned.rows, params)  # vectors of a tree: as many as are counted
    if hidden is None:
        await guest.send(Offering(pack_bits(ordered) if ordered.any() else b""))
    trees = 0  # so far
    try:
        while isinstance(start := await guest.recv(NextTree, Finish), NextTree):
            looked_at, trees = resources.looks_at(trees), trees + 1
            records.begin(start.tree, NextTree)
            await records.count()
            if hidden is not None:
                await hidden.begin_tree(ordered)
            drawn = draw_columns(binned, participant.name, params, start.tree)
            names = {column.name for column in drawn.columns}
            answers = Answers(guest, binned, codes, params, offered.all, order, names, records)
            vectors = 0
            questions: type[Asked] | type[AskedRows] = Asked if hidden is None else AskedRows
            while not isinstance(message := await guest.recv(Query, questions, TreeEnd), TreeEnd):
                if isinstance(message, Query):
                    # 3. Sums of vectors.
                    vectors += message.vectors * (2 if products.joint else 1)
                    if vectors > most:
                        raise guest.breach("a Query of more vectors than a tree needs")
                    if hidden is not None and message.vectors % 2:
                        raise guest.breach("a Query of half a node")
                    stream = None if hidden is None else hidden.masks
                    await products.serve(message, stream=stream, looked_at=looked_at)
                # 5. The best candidates with enough rows.
                elif isinstance(message, Asked):
                    await answers.answer(message)
                elif hidden is not None:
                    await answers.answer_hidden(message, hidden)
            # 6. What goes on is safe.
            await records.keep()
    finally:
        products.end()

    return await records.end(start.trees)


def _counts(flat: Cells, work: int, codes: NDArray[np.uint8]) -> Integers:
    """How many rows are in each cell, shape (1, cells)."""
    return block_histograms(codes, flat, np.zeros(codes.shape[1], np.int64), 1, None, work)


@dataclass(frozen=True)
class _Offered:
    """The candidates that a host offers in a job."""

    binned: Binned
    all: Candidates
    candidates: Integers  # of all, in canonical order

    @classmethod
    def of(cls, binned: Binned, params: BoostParams, codes: Rows) -> "_Offered":
        """The candidates that may have enough rows in a node; `codes` are those of `binned`, held."""
        every = Candidates.of(binned.columns)
        counts = ENGINE.total(partial(_counts, every.flat, binned.codes.size), codes)
        return cls(binned, every, np.flatnonzero(every.valid(counts, params.min_child_rows)[0]))

    def order(self, secret: bytes) -> Integers:
        """The canonical candidate at each place on the wire."""
        count = len(self.candidates)
        stream = hashlib.shake_256(b"vfl candidate order\0" + secret).digest(8 * count)
        return self.candidates[np.argsort(np.frombuffer(stream, "<u8"), kind="stable")]

    def matrix(self, secret: bytes, held: Rows | None = None) -> CellMatrix:
        """The matrix that gives the left sums of the candidates, in the order that the secret makes.
        `held` are the codes where the engine has them."""
        codes = self.binned.codes if held is None else held
        columns = CodedColumn.all_of(codes, [column.bins + 1 for column in self.all.columns])
        at: list[int] = []
        weights: list[int] = []
        starts = [0]
        order = self.order(secret)
        of_category = np.array([column.edges is None for column in self.all.columns], np.bool_)
        each = zip(
            self.all.cell[order].tolist(),
            self.all.missing_cell[order].tolist(),
            (of_category[self.all.column[order]] & (self.all.bin[order] > 0)).tolist(),
            self.all.missing_left[order].tolist(),
            strict=True,
        )
        for cell, missing, alone, with_missing in each:
            # Of running sums: the one up to a bin; what a bin adds to that before it.
            at.append(cell)
            weights.append(1)
            if alone:
                at.append(cell - 1)
                weights.append(-1)
            if with_missing:
                at += [missing, missing - 1]
                weights += [1, -1]
            starts.append(len(at))
        first, cells, by = (np.array(values, np.int64) for values in (starts, at, weights))
        return CellMatrix(columns, Outputs(first, cells, by, running=True))
