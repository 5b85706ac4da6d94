"""The coordinator of hidden sums: it opens them and names winners. The protocol is hidden.py's."""

import asyncio
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import ClassVar, TypeVar

import numpy as np

from vfl.arrays import Mask
from vfl.crypto.lattice.answers import rounded
from vfl.crypto.packing import SumPacking
from vfl.errors import Refused
from vfl.learn.best_first import BestFirst, Head, level_of
from vfl.learn.params import BoostParams
from vfl.learn.quantiser import Scales
from vfl.learn.tree import Bounds, Obstacle, Sums, furthest, level_gains, obstacle
from vfl.net.peer import Peer, either, together
from vfl.protocols.common.bits import unpack_bits
from vfl.protocols.common.lattice_sums import MOST_OUTPUTS, ZEROS
from vfl.protocols.common.mask_streams import SEED, MaskStream
from vfl.protocols.trees.hidden import (
    MOST_CANDIDATES,
    MOST_GROUPS,
    MOST_NAMED,
    MOST_SUMS,
    PIECE,
    Ask,
    BestCandidates,
    EnoughRows,
    MaskedSums,
    MaskedZeros,
    MaskSeed,
    NodesWon,
    OpenNode,
    SumsBegin,
    SumsEnd,
    SumsLevel,
    SumsTree,
    SumsTreeEnd,
    TookCandidates,
    TreeCandidates,
    ZerosPassed,
)
from vfl.protocols.trees.paths import Paths
from vfl.protocols.trees.quantisation import lattice_shape
from vfl.protocols.trees.ranking import Ranks
from vfl.text import counted


async def coordinate_trees(
    parties: Sequence[Peer], params: BoostParams, progress: Callable[[int, int], None]
) -> int:
    """Open the sums of a training; returns how many trees its model has.

    `parties`: the guest first. `progress` is told of each tree, and how many there are at most. Raises
    PeerError for a party that breaks the protocol, Refused for more sums than it would keep.
    """
    guest, *hosts = parties
    # 1. Seeds, and what sums are.
    begin = await guest.recv(SumsBegin)
    seeds = await together([host.recv(MaskSeed) for host in hosts])
    for host, seed in zip(hosts, seeds, strict=True):
        if len(seed.seed) != SEED:
            raise host.breach("a MaskSeed of another size")
    openers = [_opener(guest, begin, params, MaskStream(seed.seed)) for seed in seeds]
    tried: set[int] = set()
    number = first = params.first_joint - 1
    while not isinstance(tree := await guest.recv(MaskedZeros, SumsTree, SumsEnd), SumsEnd):
        if isinstance(tree, MaskedZeros):
            if number > first or tree.host in tried or not 0 <= tree.host < len(hosts):
                raise guest.breach("MaskedZeros out of turn")
            tried.add(tree.host)
            _check_zeros(guest, hosts[tree.host], openers[tree.host], tree.data)
            await guest.send(ZerosPassed(tree.host))
            continue
        if not number < tree.tree < params.most_trees:
            raise guest.breach("a SumsTree out of turn")
        number = tree.tree
        scales = Scales(tree.gradient, tree.hessian)
        if not all(np.isfinite(scale) and scale > 0 for scale in scales):
            raise guest.breach("a SumsTree with scales that are none")
        progress(number + 1, params.most_trees)
        # 2. The candidates.
        offers = await together([_receive(host, guest, TreeCandidates) for host in hosts])
        columns = [
            _HostCandidates(host, offer, opener)
            for host, offer, opener in zip(hosts, offers, openers, strict=True)
        ]
        _check_memory(sum(offer.count for offer in offers), begin.rows, params)
        await _Tree(guest, columns, params, scales).grow()
    if not 0 <= tree.trees <= params.most_trees:
        raise guest.breach("a SumsEnd with more trees than the job has")
    return tree.trees


def _check_memory(candidates: int, rows: int, params: BoostParams) -> None:
    """Raises Refused for more sums in a level than a coordinator keeps."""
    # Best-first all leaves may be open at once.
    leaves = params.max_leaves
    whole = 1 << params.depth - 1 if leaves is None else min(1 << params.depth, leaves)
    nodes = min(whole, max(1, rows // max(1, params.min_child_rows)))
    if candidates * nodes > MOST_SUMS:
        raise Refused(
            f"{counted(candidates, 'split candidate')} of all hosts in up to {counted(nodes, 'node')} "
            f"of a level are more than {MOST_SUMS:,} sums, which a coordinator keeps: lower max_bins or "
            "depth"
        )


def _check_zeros(guest: Peer, host: Peer, opener: "_Opener", data: bytes) -> None:
    """Raises PeerError unless these are sums of zeros under a host's masks: its hint is of a matrix."""
    if not isinstance(opener, _LatticeOpener) or not data or len(data) % (8 * ZEROS):
        raise guest.breach("MaskedZeros of another size than sums have")
    try:
        every = np.ones(len(data) // (8 * ZEROS), np.bool_)
        sums = opener.open(data, [every] * (ZEROS // 2))
    except ValueError:
        sums = []
    if not sums or any(one.gradient.any() or one.hessian.any() for one in sums):
        raise either(guest, host, "a hint that is of no matrix, by its MaskedZeros")


Told = TypeVar("Told", TreeCandidates, EnoughRows, TookCandidates)


async def _receive(host: Peer, guest: Peer, kind: type[Told]) -> Told:
    """A host's next message, which must be of this kind. A host follows the guest from level to level:
    another kind may be the guest's doing."""
    message = await host.recv(TreeCandidates, EnoughRows, TookCandidates)
    if not isinstance(message, kind):
        raise either(guest, host, f"{type(message).__name__} where {kind.__name__} is due")
    return message


class _Opener(ABC):
    """Takes a host's masks off."""

    knows_rows: ClassVar[bool]
    """Whether hosts know the nodes, and say which candidates have enough rows."""
    most: ClassVar[int]
    """Candidates of a host at most."""

    @abstractmethod
    def node_bytes(self, count: int) -> int:
        """Bytes of the masked sums of so many candidates in a node."""

    @abstractmethod
    def open(self, data: bytes | bytearray, sent: Sequence[Mask]) -> list[Sums]:
        """The left sums of candidates in several nodes, of as many bytes as they have: zero of those
        that are not `sent`. Raises ValueError for what cannot be masked sums."""


class _PaillierOpener(_Opener):
    knows_rows = True
    most = MOST_CANDIDATES

    def __init__(self, packing: SumPacking, modulus: int, bits: int, masks: MaskStream) -> None:
        self._packing, self._modulus, self._width, self._masks = packing, modulus, bits // 8, masks

    def node_bytes(self, count: int) -> int:
        return self._packing.ciphertexts(count) * self._width

    def open(self, data: bytes | bytearray, sent: Sequence[Mask]) -> list[Sums]:
        size = self.node_bytes(len(sent[0]))
        return [self._open(data[size * i : size * (i + 1)], own) for i, own in enumerate(sent)]

    def _open(self, data: bytes | bytearray, sent: Mask) -> Sums:
        masks = self._masks.below(self._modulus, self._packing.ciphertexts(len(sent)))
        values = []
        for place, mask in enumerate(masks):
            masked = int.from_bytes(data[place * self._width : (place + 1) * self._width], "big")
            if masked >= self._modulus:
                raise ValueError("a plaintext beyond the modulus")
            value = (masked - mask) % self._modulus
            values.append(value - self._modulus if 2 * value > self._modulus else value)
        count = int(sent.sum())
        used = self._packing.ciphertexts(count)
        if any(values[used:]):
            raise ValueError("a plaintext beyond those of all sums")
        sums = Sums(np.zeros(len(sent), np.int64), np.zeros(len(sent), np.int64))
        sums.gradient[sent], sums.hessian[sent] = self._packing.unpack(values[:used], count)
        return sums


class _LatticeOpener(_Opener):
    knows_rows = False
    most = MOST_OUTPUTS

    def __init__(self, rows: int, params: BoostParams, masks: MaskStream) -> None:
        self._shape, self._masks = lattice_shape(rows, params), masks
        self._bound = rows << (self._shape.value_bits - 1)
        self._parameters = cache(self._shape.parameters)

    def node_bytes(self, count: int) -> int:
        return 16 * count

    def open(self, data: bytes | bytearray, sent: Sequence[Mask]) -> list[Sums]:
        nodes, count = len(sent), len(sent[0])
        if not count:  # such a host is asked for no sums
            nothing = np.zeros(0, np.int64)
            return [Sums(nothing, nothing)] * nodes
        words = np.frombuffer(data, "<u8").astype(np.uint64).reshape(nodes, 2, count)
        for masked in words:
            masked -= self._masks.words((2, count))
        sums = rounded(self._parameters(count), words)
        if (np.abs(sums) > self._bound).any() or sums[:, 1].min() < 0:
            raise ValueError("sums beyond what rows can add up to")
        return [Sums(*node) for node in sums]


def _opener(guest: Peer, begin: SumsBegin, params: BoostParams, masks: MaskStream) -> _Opener:
    try:
        if params.encryption == "lattice":
            return _LatticeOpener(begin.rows, params, masks)
        modulus = int.from_bytes(begin.modulus, "big")
        if modulus.bit_length() != params.key_bits:
            raise ValueError("another modulus than the job says")
        packing = SumPacking.for_rows(begin.rows, params.key_bits)
        return _PaillierOpener(packing, modulus, params.key_bits, masks)
    except ValueError as error:
        raise guest.breach(f"a SumsBegin with {error}") from None


class _HostCandidates:
    """A host's candidates in one tree."""

    def __init__(self, host: Peer, offer: TreeCandidates, opener: _Opener) -> None:
        self.host, self.opener, self.count = host, opener, offer.count
        if offer.count > opener.most:
            raise host.breach("TreeCandidates of more than there may be")
        try:
            self.ordered = unpack_bits(offer.ordered or bytes(-(-offer.count // 8)), offer.count)
        except ValueError as error:
            raise host.breach(f"TreeCandidates with {error}") from None
        self.sums: dict[int, Sums] = {}  # left ones, of the nodes of a level
        self.parents: dict[int, Sums] = {}
        self.taken: dict[int, int] = {}  # by node of the level before
        self._enough: dict[int, bytes] = {}  # by node, a bit a candidate: may it be taken

    def learn_rows(self, guest: Peer, told: EnoughRows, nodes: Sequence[int]) -> None:
        """4. Learn which candidates have enough rows in the nodes of a level."""
        if set(told.valid) != set(nodes):
            raise either(guest, self.host, "EnoughRows of other nodes than are open")
        if any(len(bits) != -(-self.count // 8) for bits in told.valid.values()):
            raise self.host.breach("EnoughRows with a wrong number of bits")
        self._enough = dict(told.valid)

    def enough(self, node: int) -> Mask:
        """Which candidates have enough rows in a node; all, as far as it is known, where the host does
        not know the nodes."""
        if not self.opener.knows_rows:
            return np.ones(self.count, np.bool_)
        return unpack_bits(self._enough[node], self.count)

    def learn(self, guest: Peer, pairs: Sequence[Sequence[int]], data: bytes | bytearray) -> None:
        """Take the masked sums of the first node of each pair, and by them the other's."""
        try:
            sent = [np.logical_or.reduce([self.enough(node) for node in pair]) for pair in pairs]
            opened = self.opener.open(data, sent)
        except ValueError as error:
            what = f"under the masks of MaskedSums are no sums: {error}"
            raise either(guest, self.host, what) from None
        for (summed, *sibling), left in zip(pairs, opened, strict=True):
            self.sums[summed] = left
            for node in sibling:
                self.sums[node] = self.parents[(summed - 1) // 2] - left

    def check_children(self, guest: Peer, totals: Mapping[int, Sums]) -> None:
        """Raises PeerError where the children of a split have other sums than what was taken."""
        for node, candidate in self.taken.items():
            if not totals[2 * node + 1].equals(self.parents[node].at(candidate)):
                what = "the rows of a split do not add up to the sums of the candidate that was taken"
                raise either(guest, self.host, what)
        self.taken = {}


class _Tree:
    """One tree, as the coordinator sees it."""

    def __init__(
        self, guest: Peer, hosts: Sequence[_HostCandidates], params: BoostParams, scales: Scales
    ) -> None:
        self._guest, self._hosts, self._params, self._scales = guest, hosts, params, scales
        self._split: set[int] = set()  # nodes of the level before that were split
        self._totals: dict[int, Sums] = {}  # of the nodes of the level before
        self._level = 0
        names = [guest.name, *(host.host.name for host in hosts)]
        self._paths = Paths.of(params.interaction_constraints, names)
        # Best-first: every open node's candidates, in the order in which nodes are split.
        self._open: dict[int, list[Ranks]] = {}
        leaves = params.max_leaves
        self._order = None if leaves is None else BestFirst(leaves, params.depth)

    async def grow(self) -> None:
        """Level by level, or best-first, to the end."""
        while isinstance(message := await self._guest.recv(SumsLevel, SumsTreeEnd), SumsLevel):
            self._check_level(message)
            totals = {node.node: _sums(node.gradient, node.hessian) for node in message.nodes}
            self._check_children(totals)
            masked = await self._receive_sums(message)
            ranked = await asyncio.to_thread(self._ranked, message, totals, masked)
            waiting = {node: self._totals[node] for node in self._open}
            if self._order is None:
                await self._choose(ranked, totals)
            else:
                await self._choose_next(self._order, ranked, totals)
            self._totals = waiting | totals
            self._level += 1
        if not self._level or set(message.nodes) != self._children:
            raise self._guest.breach("a SumsTreeEnd with other nodes than the last splits made")
        self._check_children({node: _sums(*of) for node, of in message.nodes.items()})

    @property
    def _children(self) -> set[int]:
        """The nodes that the splits of the level before made."""
        return {2 * node + side for node in self._split for side in (1, 2)}

    def _check_level(self, message: SumsLevel) -> None:
        """Raises PeerError for nodes that are not the children of what was split, or that cannot be."""
        due = self._children if self._level else {0}
        summed = due
        if self._order is not None:
            summed = {node for node in due if level_of(node) < self._params.depth}
        paired = [node for pair in message.pairs for node in pair]
        told = [node.node for node in message.nodes]
        whole = all(
            len(pair) == (2 if self._level else 1) and (pair[0] - 1) // 2 == (pair[-1] - 1) // 2
            for pair in message.pairs
        )
        if not due or sorted(paired) != sorted(summed) or sorted(told) != sorted(due) or not whole:
            raise self._guest.breach("a SumsLevel of nodes that are not open")
        if self._order is None and self._level >= self._params.depth:
            raise self._guest.breach("a SumsLevel beyond the depth of the job")
        if self._order is not None and not self._order.left:
            raise self._guest.breach("a SumsLevel beyond the leaves of the job")
        for node in message.nodes:
            if node.gain is not None and not np.isfinite(node.gain):
                raise self._guest.breach("a SumsLevel with gains that are none")
            bounds = _bounds(node)
            if not bounds.low <= bounds.high:  # nor is NaN
                raise self._guest.breach("a SumsLevel with bounds that are none")

    def _check_children(self, totals: Mapping[int, Sums]) -> None:
        """6. Raises PeerError where the sums of nodes do not follow from those of the level before."""
        for node in self._split:
            left, right = totals[2 * node + 1], totals[2 * node + 2]
            if not (self._totals[node] - left).equals(right):
                raise self._guest.breach("sums of two nodes that are not those of the node above")
        for host in self._hosts:
            host.parents, host.sums = host.sums, {node: host.sums[node] for node in self._open}
            host.check_children(self._guest, totals)

    async def _receive_sums(self, message: SumsLevel) -> list[bytearray]:
        """3 and 4. Every host's masked sums of the first node of each pair."""
        nodes = [node for pair in message.pairs for node in pair]
        knowing = [host for host in self._hosts if host.opener.knows_rows and nodes]
        rows = await together([_receive(host.host, self._guest, EnoughRows) for host in knowing])
        for host, told in zip(knowing, rows, strict=True):
            host.learn_rows(self._guest, told, nodes)
        due = [len(message.pairs) * host.opener.node_bytes(host.count) for host in self._hosts]
        masked = [bytearray() for _ in self._hosts]
        while any(due):
            part = await self._guest.recv(MaskedSums)
            if not 0 <= part.host < len(due):
                raise self._guest.breach("MaskedSums of no host")
            if not 0 < len(part.data) == min(PIECE, due[part.host]):
                what = "MaskedSums of another number of sums than a host has candidates"
                raise either(self._guest, self._hosts[part.host].host, what)
            masked[part.host] += part.data
            due[part.host] -= len(part.data)
        return masked

    def _ranked(
        self, message: SumsLevel, totals: Mapping[int, Sums], masked: Sequence[bytearray]
    ) -> dict[int, list[Ranks]]:
        """Every party's candidates in each node, the guest's best alone."""
        ranked = {}
        summed = {node for pair in message.pairs for node in pair}
        for told in message.nodes:
            if told.node not in summed:
                continue
            own = np.array([] if told.gain is None else [told.gain], np.float64)
            ranked[told.node] = [Ranks(0, own)]
        wide = [told for told in message.nodes if told.splits and told.node in summed]
        for place, (host, data) in enumerate(zip(self._hosts, masked, strict=True), 1):
            if not summed:
                break
            host.learn(self._guest, message.pairs, data)
            data.clear()
            with np.errstate(all="ignore"):  # whatever the scales are
                found = level_gains(
                    [host.sums[told.node] for told in wide],
                    [totals[told.node] for told in wide],
                    [host.enough(told.node) for told in wide],
                    self._scales,
                    self._params,
                    [_bounds(told) for told in wide],
                    host.ordered,
                )
            for told, of_node in zip(wide, found, strict=True):
                if not self._paths.may_split(told.node, place):
                    of_node[:] = -np.inf
                ranked[told.node].append(Ranks(place, of_node))
        return ranked

    async def _choose(self, open_: dict[int, list[Ranks]], totals: Mapping[int, Sums]) -> None:
        """5. Who wins each node."""
        beaten = {rank.party for ranks in open_.values() for rank in ranks if rank.party and rank}
        own_nodes: list[int] = []
        taken: set[int] = set()
        due = True  # a last message: an Ask is, whose nodes are all taken
        while open_:
            asked: dict[int, dict[int, list[list[int]]]] = {}
            named = Counter[int]()  # candidates, by party
            for node, ranks in list(open_.items()):
                ranks = open_[node] = [rank for rank in ranks if rank]
                if not ranks:
                    del open_[node]
                    continue
                best = max(ranks, key=Ranks.gain)  # the first of equal ones
                if best.party == 0:
                    own_nodes.append(node)
                    self._paths.split(node, 0)
                    del open_[node]
                    continue
                if named[best.party] >= MOST_NAMED:
                    continue
                host = self._hosts[best.party - 1]
                others = [rank for rank in ranks if rank is not best]
                most = 1 if host.opener.knows_rows else MOST_GROUPS
                groups = best.groups(best.ahead_of(others, most))
                named[best.party] += sum(map(len, groups))
                asked.setdefault(best.party, {})[node] = groups
            if asked:
                count = sum(map(len, asked.values()))
                due = len(open_) > count
                await self._guest.send(
                    Ask({party - 1: [*nodes] for party, nodes in asked.items()}, sorted(own_nodes), due)
                )
                found = await self._ask(open_, asked)
                taken |= found
                due = due or len(found) < count
        self._split = {*own_nodes, *taken}
        if due:
            why = "" if self._level or self._split else self._obstacle(totals[0], beaten)
            await self._guest.send(NodesWon(sorted(own_nodes), why))

    async def _choose_next(
        self, order: BestFirst, ranked: Mapping[int, list[Ranks]], totals: Mapping[int, Sums]
    ) -> None:
        """5. Best-first: who wins the nodes that come next, be they new or of earlier splits."""
        beaten = {rank.party for ranks in ranked.values() for rank in ranks if rank.party and rank}
        self._open.update(ranked)
        for node in ranked:
            order.open(node)
        exact = all(host.opener.knows_rows for host in self._hosts)
        self._split = set()
        while True:
            for node, ranks in list(self._open.items()):
                self._open[node] = [rank for rank in ranks if rank]
                if not self._open[node]:
                    del self._open[node]
            best = {node: max(ranks, key=Ranks.gain) for node, ranks in self._open.items()}
            heads = {node: Head(rank.gain(), rank.party) for node, rank in best.items()}
            nodes, after = order.next(heads, exact)
            own = sorted(node for node in nodes if not best[node].party)
            asked = self._groups([(node, best[node]) for node in nodes if best[node].party], after)
            found, count = set[int](), sum(map(len, asked.values()))
            if asked:
                by_host = {party - 1: [*about] for party, about in asked.items()}
                await self._guest.send(Ask(by_host, own, more=False))
                found = await self._ask(self._open, asked)
            for node in found:
                rank, took = best[node], self._hosts[best[node].party - 1].taken[node]
                groups = asked[rank.party][node]
                group = next(i for i, candidates in enumerate(groups) if took in candidates)
                order.take(node, Head(rank.gain(group), rank.party))
            for node in own:
                order.take(node, heads[node])
                self._paths.split(node, 0)
                del self._open[node]
            self._split = {*own, *found}
            if asked and not self._split:
                continue  # none of those had enough rows
            if not asked or len(found) < count:
                why = "" if self._level or self._split else self._obstacle(totals[0], beaten)
                await self._guest.send(NodesWon(own, why))
            return

    def _groups(
        self, asked: Sequence[tuple[int, Ranks]], after: Head | None
    ) -> dict[int, dict[int, list[list[int]]]]:
        """By party and node, the candidates that come before those of all others there, and before the
        one of the node that comes after these."""
        found: dict[int, dict[int, list[list[int]]]] = {}
        for node, best in asked:
            others = [rank for rank in self._open[node] if rank is not best]
            most = 1 if self._hosts[best.party - 1].opener.knows_rows else MOST_GROUPS
            groups = best.groups(best.ahead_of(others, most, after))
            found.setdefault(best.party, {})[node] = groups
        return found

    async def _ask(
        self, open_: dict[int, list[Ranks]], asked: Mapping[int, Mapping[int, list[list[int]]]]
    ) -> set[int]:
        """Ask hosts about nodes in which they are best; returns those that they split."""
        hosts = {party: self._hosts[party - 1] for party in asked}
        await together(
            [hosts[party].host.send(BestCandidates({**nodes})) for party, nodes in asked.items()]
        )
        answers = await together(
            [_receive(hosts[party].host, self._guest, TookCandidates) for party in asked]
        )
        split: set[int] = set()
        for (party, nodes), answer in zip(asked.items(), answers, strict=True):
            host = hosts[party]
            if set(answer.candidates) != set(nodes):
                raise host.host.breach("TookCandidates of other nodes than asked about")
            for node, candidate in answer.candidates.items():
                groups = nodes[node]
                if candidate is None:
                    if host.opener.knows_rows:
                        raise host.host.breach("TookCandidates that leave out a candidate of its own")
                    (rank,) = (rank for rank in open_[node] if rank.party == party)
                    rank.drop(len(groups))
                    continue
                if not any(candidate in group for group in groups):
                    raise host.host.breach("TookCandidates that were not asked about")
                host.taken[node] = candidate
                self._paths.split(node, party)
                split.add(node)
                del open_[node]
        return split

    def _obstacle(self, total: Sums, beaten: set[int]) -> Obstacle:
        """Why no host's candidate splits the root."""
        found: list[Obstacle] = []
        for place, host in enumerate(self._hosts, 1):
            if place in beaten:
                found.append("min_child_rows")  # as the host has said
                continue
            left, valid = host.sums[0], host.enough(0)
            with np.errstate(all="ignore"):
                found.append(obstacle(left, total, valid, self._scales, self._params, host.ordered))
        return furthest(found)


def _sums(gradient: int, hessian: int) -> Sums:
    return Sums(np.asarray(gradient, np.int64), np.asarray(hessian, np.int64))


def _bounds(told: OpenNode) -> Bounds:
    return Bounds(-np.inf if told.low is None else told.low, np.inf if told.high is None else told.high)
