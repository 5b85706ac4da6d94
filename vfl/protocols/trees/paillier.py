"""SecureBoost: one guest with the labels, any number of hosts with columns.

Cheng et al., arXiv 1901.08755; packing and smaller-child-only as in SecureBoost+ (Chen et al., arXiv
2110.10927). All parties hold the same aligned rows in the same order and have binned their columns.

 1. The guest sends its public key once.
For each tree:
 2. The guest draws rows, computes their gradients and hessians, quantises them to integers, packs both
    in one plaintext, encrypts it and sends it to every host.
For each level:
 3. Each host sums ciphertexts by (node, column, bin), for the smaller child of each pair only, and
    turns bins into left sums of split candidates.
 4. It shuffles the candidates in an order fresh for the tree, packs many sums into one ciphertext,
    re-randomises and sends them. Never without re-randomising: the guest knows every ciphertext that
    went in and could test which rows were added.
 5. The guest decrypts, gets the sibling's sums by subtraction, and takes the best split of all
    parties: its own first among equal gains, then the lowest host's.
 6. It names the candidate (all that tie) to the winner, who takes the first in its own order, so that
    shuffling cannot change the model, keeps the split in its half, and says which rows go left.
 7. All hosts learn which rows go left.
 8. Leaf weights stay with the guest. Every host keeps its splits so far and says so.

Who goes on after a kill begins with 1, under a new key, and with the tree after the last one that all
have kept (common/checkpoints.py): a step of the checkpoints is a tree.

Monotone columns (LightGBM's basic method, learn/tree.py): at the root a host says which candidates split
the known values of one, with decreasing columns turned round: their left must not score higher.

A candidate is revealed where either child of the pair has at least `min_child_rows` rows on both sides
of it; none of nodes whose sums are more than the host gives about their rows, nor below them, and none
from which, with others of its column, sums about fewer rows would follow (few_rows.py). The guest
checks that the rows sent left add up to the sums that won.

Exact: the model equals, bit for bit, the one that the guest alone would train on all columns.
No decrypted value goes back to hosts, but how the guest reacts does: a host that sends made-up
ciphertexts sees in 5 whether they passed for sums within bounds and in 6 which of its candidates won,
single bits about the gradients that it made them of; no way is known to learn the key so. Made-up sums
that do not win go unnoticed; a check that fails ends the job, and its key is never used again.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from vfl.arrays import Floats, Mask
from vfl.blocks.engine import ENGINE, Rows
from vfl.crypto.paillier import PrivateKey
from vfl.crypto.reserve import OwnReserve, Reserve
from vfl.crypto.sums import decrypt, decrypt_sums
from vfl.crypto.workers import SharedRows, Workers
from vfl.errors import PeerError
from vfl.learn.binning import Binned
from vfl.learn.params import BoostParams
from vfl.learn.splits import Candidates, histograms
from vfl.learn.told_sums import most_drawn
from vfl.learn.tree import Choice, Frontier, Sums
from vfl.net.peer import Peer, together
from vfl.protocols.common.bits import pack_bits, unpack_bits
from vfl.protocols.common.course import GuestCourse, HostCourse
from vfl.protocols.common.draw_memory import NO_MEMORY
from vfl.protocols.common.histograms import CHUNK, HeldSums, store_for, sums_of_drawn, sums_of_nodes
from vfl.protocols.common.key import generate_key, receive_key, send_key
from vfl.protocols.common.participant import LooksAt, Participant, Resources
from vfl.protocols.common.rows import Training
from vfl.protocols.trees.candidate_sums import Histogram, HostSums
from vfl.protocols.trees.category_sets import HostWins, SetWinners, check_groups, hear_groups, winners_of
from vfl.protocols.trees.columns import Direction, Growth, HostColumns, OwnColumns, SplitRows, Taken
from vfl.protocols.trees.draws import Draws, draw_columns, drawn_columns, drawn_pairs
from vfl.protocols.trees.few_rows import FewRows
from vfl.protocols.trees.gradients import leave_out, pass_over, send_gradients
from vfl.protocols.trees.grower import Finish, Grower, GuestTrees, HostTrees, TreeDone, TreeEnd
from vfl.protocols.trees.hidden import MOST_CANDIDATES, HiddenHost, HiddenSums, gain_within
from vfl.protocols.trees.model import GuestModel, HostModel
from vfl.protocols.trees.open_nodes import OpenNodes
from vfl.protocols.trees.paillier_messages import (
    Advance,
    CandidateSums,
    Gradients,
    MaskedCandidates,
    TreeStart,
    Winners,
    WonNodes,
    check_candidates,
)
from vfl.protocols.trees.quantisation import most_packed_sums, packing_of, quantisation_of
from vfl.protocols.trees.records import Records
from vfl.protocols.trees.withheld import Withheld


# --------------------------------------------------------------------------------------- guest
async def paillier_guest_train(
    hosts: Sequence[Peer],
    blocks: Mapping[str, Binned],
    rows: Training,
    params: BoostParams,
    key: PrivateKey | None,
    resources: Resources,
    course: GuestCourse[TreeDone, GuestTrees],
    coordinator: Peer | None,
) -> tuple[GuestModel, Floats]:
    """Play the guest, as `guest_train` of training.py says. Without `key` one is made for the job."""
    drawn = resources.randomness.part("trees")
    if key is None:
        key = await asyncio.to_thread(generate_key, params, drawn.at("Paillier key"))
    async with Workers(key, resources.machine, resources.operations) as pool:
        hidden = None if coordinator is None else HiddenSums(coordinator, params, len(hosts))
        reserve = OwnReserve(pool, int(rows.train.sum()), drawn.key_at("obfuscators"))
        guest = _PaillierGrower(list(hosts), blocks, rows, params, reserve, hidden, resources.looks_at)
        try:
            return await guest.train(course.progress, course.checkpoints)
        finally:
            guest.reserve.end()


class _PaillierGrower(Grower):
    """The guest under Paillier's encryption."""

    def __init__(
        self,
        hosts: list[Peer],
        blocks: Mapping[str, Binned],
        rows: Training,
        params: BoostParams,
        reserve: OwnReserve,
        hidden: HiddenSums | None,
        looks_at: LooksAt,
    ) -> None:
        super().__init__(hosts, blocks, rows, params, quantisation_of(len(rows.label), params))
        self.workers, self.reserve, self._hidden = reserve.workers, reserve, hidden
        self._looks_at, self._sent = looks_at, 0  # trees of which hosts have got gradients
        self._to_coordinate = False  # whether hosts grow the tree
        self.packing = packing_of(len(rows.label), params)

    async def meet(self) -> None:
        # 1. The key, once.
        await send_key(self.hosts, self.workers.key)
        if self._hidden is not None:
            public = self.workers.key.public
            modulus = int(public.n).to_bytes(public.bits // 8, "big")
            await self._hidden.begin(len(self.rows.label), modulus)

    async def begin(
        self, hosts: list[Peer], number: int, growth: Growth, first: int
    ) -> "list[_PaillierHostColumns]":
        # 2. Encrypted gradients to every host; none grows a tree of the guest alone.
        self._to_coordinate = self._hidden is not None and bool(hosts)
        if self._hidden is not None and hosts:
            await self._hidden.begin_tree(number, self.scales)
        if hosts:
            await self._send_gradients(hosts, number, growth)
        return [_PaillierHostColumns(self, i, host) for i, host in enumerate(hosts, first)]

    async def _send_gradients(self, hosts: list[Peer], number: int, growth: Growth) -> None:
        self.reserve.end()
        active = np.asarray(ENGINE.gather(growth.frontier.active), np.bool_)
        await together([host.send(TreeStart(number, pack_bits(active))) for host in hosts])
        pairs = drawn_pairs(growth.g, growth.h, active, CHUNK)
        step, self._sent = self._sent, self._sent + 1
        if not self._looks_at(step):
            await leave_out(hosts, pairs, self.reserve)
            return
        await send_gradients(hosts, pairs, self.packing.pair, self.reserve, self.clock)
        if number + 1 < self.params.most_trees and self._looks_at(step + 1):
            self.reserve.begin()

    async def sums(self, parties: Sequence[OwnColumns | HostColumns], growth: Growth) -> None:
        # 3 and 4. Candidate sums of all parties.
        own = [party for party in parties if isinstance(party, OwnColumns)]
        hosts = [party for party in parties if isinstance(party, _PaillierHostColumns)]
        if self._hidden is None or not self._to_coordinate:
            every: list[OwnColumns | _PaillierHostColumns] = [*own, *hosts]
            await together([party.sums(growth.frontier) for party in every])
            return
        told = asyncio.create_task(self._hidden.own_sums(growth, own, self.best))
        await together(
            [told, *(self._pass_on(self._hidden, *each, growth, told) for each in enumerate(hosts))]
        )

    async def _pass_on(
        self,
        hidden: HiddenSums,
        place: int,
        host: "_PaillierHostColumns",
        growth: Growth,
        told: asyncio.Task[None],
    ) -> None:
        """Where sums are hidden: a host's, to the coordinator."""
        for summed, _ in growth.frontier.pairs:
            plaintexts = await host.masked_sums(summed)
            await told
            await hidden.pass_on(place, plaintexts)
        await told
        await hidden.end_sums(place)

    async def split(
        self, growth: Growth, parties: Sequence[OwnColumns | HostColumns]
    ) -> dict[int, Taken]:
        # 5. The best split of each node.
        if self._hidden is not None and self._to_coordinate:
            return await self._split_hidden(self._hidden, growth, parties)
        chosen = growth.next(self.best(growth, parties))

        # 6. The winners say which rows go left.
        won = [{n: c for n, c in chosen.items() if c.party == p} for p in range(len(parties))]
        taken = await together(
            [self._take(party, growth, nodes) for party, nodes in zip(parties, won, strict=True)]
        )
        return {node: split for nodes in taken for node, split in nodes.items()}

    async def _split_hidden(
        self,
        hidden: HiddenSums,
        growth: Growth,
        parties: Sequence[OwnColumns | HostColumns],
    ) -> dict[int, Taken]:
        """The same, where a coordinator opens the sums (hidden.py)."""
        own = [party for party in parties if isinstance(party, OwnColumns)]
        hosts = [party for party in parties if isinstance(party, _PaillierHostColumns)]
        gain_of = gain_within(growth, hidden.chosen, self.scales, self.params)

        async def ask(place: int, nodes: Sequence[int]) -> dict[int, Taken]:
            party, told = hosts[place], list[SplitRows]()
            await party.host.send(WonNodes([*nodes]))
            for node in nodes:
                told.append(await party.host.recv(SplitRows))
                if told[-1].node != node:
                    raise party.host.breach("SplitRows that were not asked for")
            minimum = self.params.min_child_rows
            return party.check_rows(growth, told, minimum, gain_of, hidden.coordinator)

        taken = await hidden.split(growth, own, ask)
        self.told_obstacle = hidden.obstacle
        return taken

    async def end_tree(self, growth: Growth) -> None:
        if self._hidden is not None and self._to_coordinate:
            await self._hidden.end_tree(growth)

    async def finish(self, trees: int) -> None:
        if self._hidden is not None:
            await self._hidden.end(trees)

    async def _take(
        self, party: OwnColumns | HostColumns, growth: Growth, nodes: dict[int, Choice]
    ) -> dict[int, Taken]:
        """How each node that a party won is split, as that party says."""
        if isinstance(party, OwnColumns):
            return {node: party.take(node, choice) for node, choice in nodes.items()}
        if not nodes:
            return {}
        await party.host.send(winners_of(party, nodes, self.params))
        taken = {}
        for node, choice in nodes.items():
            answer = await party.host.recv(Direction)
            taken[node] = party.check_direction(growth, choice, node, answer, self.params.min_child_rows)
        return taken

    async def advance(self, hosts: list[Peer], split: list[int], left: Rows) -> None:
        # 7. Everyone learns which rows share a node.
        message = Advance(split, pack_bits(np.asarray(ENGINE.gather(left), np.bool_)))
        await together([host.send(message) for host in hosts])


class _PaillierHostColumns(HostColumns):
    def __init__(self, guest: _PaillierGrower, party: int, host: Peer) -> None:
        super().__init__(party, host)
        self._guest = guest

    async def sums(self, frontier: Frontier) -> None:
        """Left sums of the candidates of every open node, and which may be taken.

        The host sends those of the summed child; the sibling's are the parent's less these.
        """
        parents = self.candidates
        self.candidates = {node: parents[node] for node in frontier.waiting}
        for summed, sibling in frontier.pairs:
            with self._guest.clock.timed(f"{self.host.name} and transfer"):
                if summed == 0:
                    await hear_groups(self, self._guest.params)
                message = await self.host.recv(CandidateSums)
            self._guest.clock.seconds[self.host.name] += message.seconds
            with self._guest.clock.timed("decrypt"):
                left, valid, sibling_valid = await self._open(message, summed)
            self.candidates[summed] = left, valid
            if sibling is None and sibling_valid.any():
                raise self._breach("with a sibling of the root")
            if sibling is None:
                check_groups(self, message.candidates)
                continue
            whole, known = parents[(summed - 1) // 2]
            if message.withheld:
                self._guest.withheld[self.host.name] += 2
            if len(known) != len(valid) or ((valid | sibling_valid) & ~known).any():
                raise self._breach("that its sums of the parent rule out")
            self.candidates[sibling] = whole - left, sibling_valid

    async def masked_sums(self, node: int) -> bytes:
        """Where sums are hidden: a node's plaintexts, each as wide as the modulus: uniform numbers."""
        workers, public = self._guest.workers, self._guest.workers.key.public
        left, opened, more = self._guest.packing.ciphertexts(MOST_CANDIDATES), list[int](), True
        while more:
            with self._guest.clock.timed(f"{self.host.name} and transfer"):
                message = await self.host.recv(MaskedCandidates)
            self._guest.clock.seconds[self.host.name] += message.seconds
            if message.node != node:
                raise self.host.breach("MaskedCandidates of another node")
            with self._guest.clock.timed("decrypt"):
                try:
                    ciphertexts = public.parse(message.ciphertexts)
                    more, left = message.more, left - len(ciphertexts)
                    if left < 0 or (more and not len(ciphertexts)):
                        raise ValueError("a wrong number of ciphertexts")
                    opened += await decrypt(workers, ciphertexts)
                except ValueError as error:
                    raise self.host.breach(f"MaskedCandidates with {error}") from None
        return b"".join((value % int(public.n)).to_bytes(public.bits // 8, "big") for value in opened)

    async def _open(self, message: CandidateSums, node: int) -> tuple[Sums, Mask, Mask]:
        """Decrypted left sums (zero where not sent) and the two validity masks, checked."""
        workers, packing = self._guest.workers, self._guest.packing
        if message.node != node:
            raise self._breach("of another node")
        try:
            valid = unpack_bits(message.valid, message.candidates)
            sibling_valid = unpack_bits(message.sibling_valid, message.candidates)
            sent = np.flatnonzero(valid | sibling_valid)
            ciphertexts = workers.key.public.parse(message.ciphertexts)
            if len(ciphertexts) != packing.ciphertexts(len(sent)):
                raise ValueError("a wrong number of ciphertexts")
            g, h = await decrypt_sums(workers, packing, ciphertexts, len(sent))
            if node == 0:
                self.ordered = np.zeros(message.candidates, np.bool_)
            if message.ordered:
                if node > 0:
                    raise ValueError("constraints below the root")
                self.ordered[sent] = unpack_bits(message.ordered, len(sent))
        except ValueError as error:
            raise self._breach(f"with {error}") from None
        left = Sums(np.zeros(message.candidates, np.int64), np.zeros(message.candidates, np.int64))
        left.gradient[sent], left.hessian[sent] = g, h
        return left, valid, sibling_valid

    def _breach(self, what: str) -> PeerError:
        return self.host.breach(f"CandidateSums {what}")


# ---------------------------------------------------------------------------------------- host


async def paillier_host_train(
    guest: Peer,
    binned: Binned,
    params: BoostParams,
    participant: Participant,
    shown: Callable[[str], str],
    course: HostCourse[HostModel, HostTrees],
    coordinator: Peer | None = None,
) -> HostModel:
    """Play a host, as `host_train` of training.py says.

    The rows drawn for two trees are the same or differ in the participant's `minimum` at least: raises
    Refused for trees of rows that differ in fewer. Where the guest sees sums, also of earlier jobs.
    """
    draws = Draws(participant.minimum, course.draws if coordinator is None else NO_MEMORY)
    resources = participant.resources
    records = Records(guest, params, shown, course, resources.say)
    if (last := course.checkpoints.last) is not None:
        draws.restore(last.drawn)

    # 1. The guest's key.
    randomness = resources.randomness.part("trees")
    key = await receive_key(guest, params, randomness.at("base"))
    hidden = None if coordinator is None else HiddenHost(coordinator, randomness)
    if hidden is not None:
        await hidden.begin()

    candidates = len(Candidates.of(binned.columns))
    if hidden is None:
        check_candidates(candidates, packing_of(binned.rows, params), key.width)
    async with Workers(key, resources.machine, resources.operations) as pool:
        store = pool.rows(binned.rows, key.width)
        codes = ENGINE.hold(binned.codes.reshape(-1, binned.rows))
        most = most_packed_sums(binned.rows, candidates, params)
        reserve, trees = Reserve(pool, most, randomness.key_at("obfuscators")), 0
        try:
            while True:
                reserve.begin()
                start = await guest.recv(TreeStart, Finish)
                if isinstance(start, Finish):
                    break
                records.begin(start.tree, TreeStart)
                drawn = draw_columns(binned, participant.name, params, start.tree)
                columns = drawn_columns(len(binned.columns), participant.name, params, start.tree)
                rows = store_for(pool, store, codes, drawn.sizes, columns)
                order = list(range(len(Candidates.of(drawn.columns))))
                randomness.at("order of candidates", start.tree).shuffle(order)
                tree = _HostTree(guest, reserve, rows, params, drawn, records, order, hidden)
                tree.looked_at, trees = resources.looks_at(trees), trees + 1
                # 2. Encrypted gradients.
                sums = await tree.receive_gradients(start, draws)
                # 3 to 7.
                while await tree.level(sums):
                    sums = await tree.sums()
                # 8. What goes on is safe.
                await records.keep(draws.seen)
        finally:
            store.close()

    return await records.end(start.trees)


class _HostTree:
    """A tree under growth, as a host sees it."""

    looked_at = True  # in a replay whether gradients are there, and sums are compared

    def __init__(
        self,
        guest: Peer,
        reserve: Reserve,
        store: SharedRows | HeldSums,
        params: BoostParams,
        binned: Binned,
        records: Records,
        order: Sequence[int],
        hidden: HiddenHost | None,
    ) -> None:
        """`order`: the canonical candidate at each place on the wire."""
        self._hidden = hidden
        self._reserve, self._workers = reserve, reserve.workers
        self._guest, self._params, self._binned = guest, params, binned
        self._records = records
        self._store = store  # the ciphertexts of the drawn rows, in their order
        self._candidates = Candidates.of(binned.columns)
        self._sizes = binned.sizes
        self._order = np.array(order, np.int64)
        self._frontier = Frontier(np.zeros(binned.rows, np.int64), np.zeros(binned.rows, np.bool_))
        self._open = OpenNodes(guest, params, self._frontier)
        self._wins = HostWins(guest, params, binned, self._order, self._frontier)
        self._time = records.time
        given = packing_of(binned.rows, params), self._candidates, self._order, records.time
        self._sums = HostSums(guest, reserve, *given)
        self._withheld = Withheld(records)
        self._few = FewRows(self._candidates, records.least)

    async def receive_gradients(self, start: TreeStart, draws: Draws) -> Sequence[Histogram]:
        """The ciphertexts of the drawn rows; their histogram at the root, summed as they come in."""
        active = self._bits(start.active, "a TreeStart")
        self._frontier.active = active
        expected = int(active.sum())
        if not expected:
            raise self._guest.breach("a TreeStart without rows")
        if expected > most_drawn(len(active), self._params, start.tree):
            raise self._guest.breach("a TreeStart of more rows than the job draws for the tree")
        await asyncio.to_thread(draws.check, pack_bits(active))
        await self._records.count(active)
        if self._hidden is not None:
            await self._hidden.begin_tree(self._candidates.ordered[self._order])
        if not self.looked_at:
            await pass_over(self._guest, expected)
            await self._wins.tell_groups()
            self._reserve.end()
            return [None]
        joint = await sums_of_drawn(self._workers, self._store, self._binned.codes, active, self._sizes)
        await joint.receive(self._guest, Gradients, lambda m: m.ciphertexts, expected)
        await self._wins.tell_groups()
        self._reserve.end()
        with self._time.timed():
            return await joint.histograms()

    def _bits(self, sent: bytes, message: str) -> Mask:
        """A bit a row. Raises PeerError, naming the message, for another number."""
        try:
            return unpack_bits(sent, self._binned.rows)
        except ValueError as error:
            raise self._guest.breach(f"{message} with {error}") from None

    async def sums(self) -> Sequence[Histogram]:
        """Encrypted histograms of the summed child of each pair."""
        self._reserve.end()
        frontier = self._frontier
        if not self.looked_at:
            return [None] * len(frontier.pairs)
        with self._time.timed():
            summed = [pair[0] for pair in frontier.pairs]
            slot = await asyncio.to_thread(frontier.slots, summed)
            nodes = slot, frontier.drawn, len(summed)
            return await sums_of_nodes(
                self._workers, self._store, self._binned.codes, nodes, self._sizes
            )

    async def level(self, sums: Sequence[Histogram]) -> bool:
        """Play a level, given the histograms of its summed nodes; False when the tree ends with it."""
        frontier, own = self._frontier, self._candidates
        nodes = frontier.nodes
        held = self._store.codes if isinstance(self._store, HeldSums) else None
        slots = await asyncio.to_thread(frontier.slots, nodes)
        counts = await asyncio.to_thread(histograms, self._binned, own, slots, len(nodes), None, held)
        valid = dict(zip(nodes, own.valid(counts, self._params.min_child_rows), strict=True))

        # 4. Shuffled, packed, re-randomised.
        if self._hidden is None:
            self._few.leave_out(frontier.pairs, dict(zip(nodes, counts, strict=True)), valid)
            await self._withheld.leave_out(frontier, valid)
        else:
            await self._hidden.tell_rows({node: enough[self._order] for node, enough in valid.items()})
        self._open.add(valid)
        for (summed, sibling), histogram in zip(frontier.pairs, sums, strict=True):
            here = valid[summed][self._order]
            there = np.zeros_like(here) if sibling is None else valid[sibling][self._order]
            if self._hidden is None:
                withheld = summed in self._withheld
                await self._sums.send(summed, histogram, (here, there), withheld=withheld)
            else:
                sent = self._order[here | there]
                await self._sums.send_masked(self._hidden, summed, histogram, sent)
        self._reserve.begin()

        # 6. The splits won.
        message: Winners | SetWinners | WonNodes | Advance | TreeEnd
        if self._hidden is not None:
            while isinstance(message := await self._guest.recv(WonNodes, Advance, TreeEnd), WonNodes):
                won = self._open.won(message.nodes, "WonNodes")
                await self._win_hidden(self._hidden, message.nodes, won)
        else:
            message = await self._guest.recv(self._open.winners, Advance, TreeEnd)
            while isinstance(message, Winners | SetWinners):
                won = self._open.won([*message.candidates], type(message).__name__)
                for node in won:
                    took = self._wins.take(message, node, won[node])
                    await self._guest.send(self._records.add(node, *took))
                message = await self._open.after_winners()
        if isinstance(message, TreeEnd):
            return False

        # 7. Which rows share a node.
        self._open.check_split(message.split)
        frontier.advance(sorted(set(message.split)), self._bits(message.left, "an Advance"))
        # Sums of nodes that differ by few rows would tell of these few by subtraction.
        if min(frontier.covers().values()) < self._params.min_child_rows:
            raise self._guest.breach("an Advance to a node of too few rows")
        return True

    async def _win_hidden(
        self, hidden: HiddenHost, nodes: Sequence[int], valid: Mapping[int, Mask]
    ) -> None:
        """Take the candidates that the coordinator names in the nodes that the guest does."""
        taken: dict[int, int | None] = {}
        best = await hidden.best(self._guest, nodes)
        for node in nodes:
            numbers, *others = best[node]
            if others or max(numbers) >= len(self._order):
                raise hidden.breach("BestCandidates that were not offered, or not the best alone")
            number = min(numbers, key=lambda i: int(self._order[i]))
            candidate = int(self._order[number])
            if not valid[node][candidate]:
                raise hidden.breach("BestCandidates with too few rows")
            inside, active = self._frontier.inside(node), self._frontier.drawn
            split, left = self._candidates.take(candidate, self._binned.codes, inside, active)
            ordered = bool(self._candidates.ordered[candidate])
            taken[node] = number
            await self._guest.send(self._records.add_hidden(node, split, left, ordered))
        await hidden.took(taken)
