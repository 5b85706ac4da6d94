"""Hidden sums: a coordinator without data opens the sums of candidates, and the guest learns winners.

Sums over a few hundred rows in many trees are equations that give a host's table away.
So nobody who knows rows may see them. The trees are those of paillier.py and lattice.py, bit for bit.

 1. Each host gives the coordinator the seed of its masks, over a session of their own; the guest tells
    it how many rows there are, and under Paillier the modulus. Over the lattice engine it passes on, of
    each new hint, the masked sums of zeros (common/lattice_hints.py): the coordinator says that they
    pass, or ends the job.
For each tree:
 2. The guest tells the coordinator the scales of its integers, each host which of its candidates are of
    monotone columns.
For each level:
 3. Hosts answer as in paillier.py and lattice.py, each plaintext plus a mask that is uniform among all
    plaintexts; under Paillier with as many as all their candidates need, some of masks alone. Meanwhile
    the guest tells the coordinator the sums of each node, the bounds of its weights and the best gain of
    its own columns there. It decrypts what hosts answer, which gives uniform numbers, and passes them
    on; over the lattice engine each plus a number below the rounding, without which a host and the
    coordinator together would know more than sums (docs/lattice.md).
 4. Under Paillier, where hosts know the nodes, each tells the coordinator which candidates leave
    `min_child_rows` rows on both sides.
 5. The coordinator takes the masks off, gets siblings by subtraction and computes gains by
    learn/tree.py. Where a host's candidate is best it tells the guest whom to ask, and that host which
    candidates are best: in groups of equal gain as in questions.py, under Paillier the first alone. The
    guest gives the host the rows of nodes that it does not know. The host takes the first of its own
    order that leaves enough rows; it tells the coordinator which, the guest which rows go left.
 6. The coordinator checks that the children's sums are those of what was taken.

The guest learns which party wins each node, and of a host's split the rows, the column's name as its
owner shows it, and whether the column is monotone: what the model itself says. Over the lattice engine
it learns besides in which nodes a host's best candidates leave too few rows. The coordinator learns
sums of gradients left of shuffled, unnamed candidates, of nodes, and the guest's best gain there; no
row, no id, no name, no ciphertext that it could open. Together with the guest it knows what open sums
show the guest; together with a host, label sums by that host's bins.

Masks hide sums; they do not bind who passes them on. A guest that adds numbers of its own to them, to
each candidate's another one, or tells made-up totals and gains, can have a candidate of its choice win,
and see the split. Which of all candidates wins, each moved by numbers of its choice, is up to log2 of
their number in bits a node, beside the rows; and a sum that is moved too far ends the job, which tells
whether that candidate's is beyond a bound of its choice.

Where sums and what is told of them do not agree, guest and host are named, since who holds no key cannot
know which of them lied.

Who opens the sums is decided here alone: an argmax of the guest's and the host's shares (a masked sum is
one) by two-party computation would take the coordinator's place.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, ClassVar, cast, get_args

import msgspec
import numpy as np

from vfl.arrays import Mask
from vfl.crypto.randomness import Randomness
from vfl.errors import PeerError, Refused
from vfl.learn.params import BoostParams
from vfl.learn.quantiser import Scales
from vfl.learn.tree import Choice, Obstacle, Sums, gains
from vfl.net.peer import Peer, either, together
from vfl.net.wire import KIB, MAX_MESSAGE, MIB, Message, Rows
from vfl.protocols.common.bits import pack_bits
from vfl.protocols.common.mask_streams import SEED, MaskStream
from vfl.protocols.trees.columns import Growth, OwnColumns, Taken

MOST_CANDIDATES = 1 << 20  # of a host in a tree
_MOST_NODES = 1 << 10  # of a level
MOST_GROUPS = 64  # of equal gain, that a host is told at most
MOST_NAMED = 1 << 20  # candidates after which no further node is asked about at once
MOST_SUMS = 1 << 25  # of gradients, of all hosts in a level: some 2 GB at the coordinator
PIECE = 4 * MIB  # of masked sums in a message

Node = Annotated[int, msgspec.Meta(ge=0, lt=2 * _MOST_NODES)]
Pair = Annotated[list[Node], msgspec.Meta(min_length=1, max_length=2)]
Nodes = Annotated[list[Node], msgspec.Meta(max_length=_MOST_NODES)]
Total = Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)]  # a sum of integers over rows
Candidate = Annotated[int, msgspec.Meta(ge=0, lt=MOST_CANDIDATES)]
Group = Annotated[list[Candidate], msgspec.Meta(min_length=1)]
Candidates = Annotated[list[Group], msgspec.Meta(min_length=1, max_length=MOST_GROUPS)]


class SumsBegin(Message, frozen=True):
    """guest -> coordinator. Reveals: how many aligned rows there are; under Paillier the public key."""

    rows: Rows
    modulus: bytes = b""
    limit: ClassVar[int] = 4 * KIB


class MaskSeed(Message, frozen=True):
    """host -> coordinator. Reveals: the masks of this host's sums, which the guest alone can read."""

    seed: bytes


class MaskedZeros(Message, frozen=True):
    """guest -> coordinator. Reveals: with the masks, the noise of sums of zeros; without them
    nothing."""

    host: int
    data: bytes
    limit: ClassVar[int] = 2 * MIB


class ZerosPassed(Message, frozen=True):
    """coordinator -> guest. Reveals: nothing but that the host's new hint is of a matrix."""

    host: int


class SumsTree(Message, frozen=True):
    """guest -> coordinator. Reveals: that a tree begins; by what its gradients and hessians were
    multiplied before they were rounded, and so the largest of them."""

    tree: int
    gradient: float
    hessian: float


class TreeCandidates(Message, frozen=True):
    """host -> coordinator. Reveals: how many split candidates the host has; which of them split the
    known values of monotone columns, in the order of the wire."""

    count: Annotated[int, msgspec.Meta(ge=0, le=MOST_CANDIDATES)]
    ordered: bytes  # a bit a candidate; empty if none is
    limit: ClassVar[int] = MIB


class OpenNode(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the guest tells of a node."""

    node: Node
    gradient: Total
    hessian: Total
    low: float | None  # None: no bound
    high: float | None
    gain: float | None  # the best of the guest's own columns; None without any
    splits: bool  # whether it has rows enough for two children


class SumsLevel(Message, frozen=True):
    """guest -> coordinator. Reveals: the nodes of a level, best-first those that the last splits made;
    which of each pair has fewer drawn rows; of each the sums of gradients and hessians, where its weight
    must lie, the best gain of the guest's columns, and whether it has rows enough for a split."""

    nodes: Annotated[list[OpenNode], msgspec.Meta(max_length=2 * _MOST_NODES)]
    pairs: Annotated[list[Pair], msgspec.Meta(max_length=_MOST_NODES)]
    limit: ClassVar[int] = MIB


class MaskedSums(Message, frozen=True):
    """guest -> coordinator. Reveals: with the masks, the sums of gradients and hessians left of a host's
    candidates in the first nodes of a level's pairs; without them nothing."""

    host: int
    data: bytes  # of one node after the other, in pieces of PIECE
    limit: ClassVar[int] = PIECE + KIB


class EnoughRows(Message, frozen=True):
    """host -> coordinator. Reveals: which of the host's candidates leave enough rows on both sides of
    each node of a level."""

    valid: Annotated[dict[Node, bytes], msgspec.Meta(max_length=2 * _MOST_NODES)]  # a bit a candidate
    limit: ClassVar[int] = MAX_MESSAGE - KIB


class Ask(Message, frozen=True):
    """coordinator -> guest. Reveals: in which nodes the best candidate that is left is a host's, and
    whose; in which the guest's own best split wins; best-first, of the nodes that gain most."""

    nodes: dict[int, Nodes]  # by host
    own: Nodes
    more: bool  # whether another message follows even if the hosts take all these nodes
    limit: ClassVar[int] = MIB


class BestCandidates(Message, frozen=True):
    """coordinator -> host. Reveals: which of the host's candidates gain more in a node than any other
    party's, in groups of equal gain, the best first; under Paillier the first group alone."""

    groups: dict[Node, Candidates]
    limit: ClassVar[int] = 16 * MIB


class TookCandidates(Message, frozen=True):
    """host -> coordinator. Reveals: which candidate the host took in each node, or that none of those
    named leaves enough rows."""

    candidates: dict[Node, Candidate | None]
    limit: ClassVar[int] = MIB


class NodesWon(Message, frozen=True):
    """coordinator -> guest, where no host is asked, or one leaves out a node. Reveals: in which nodes
    the guest's own best split wins; at the root, if there is no split at all, what stood in the way of
    the hosts' candidates."""

    own: Nodes
    obstacle: str = ""
    limit: ClassVar[int] = MIB


class SumsTreeEnd(Message, frozen=True):
    """guest -> coordinator. Reveals: the sums of the nodes that the last splits made."""

    nodes: dict[Node, tuple[Total, Total]]
    limit: ClassVar[int] = MIB


class SumsEnd(Message, frozen=True):
    """guest -> coordinator. Reveals: that training is over, and how many trees the model keeps."""

    trees: int


# -------------------------------------------------------------------------------------------- guest


class HiddenSums:
    """The guest's part with the coordinator, under either engine."""

    def __init__(self, coordinator: Peer, params: BoostParams, hosts: int) -> None:
        self.coordinator, self._params, self._hosts = coordinator, params, hosts
        self.chosen: dict[int, Choice] = {}
        """The best of the guest's own columns in each node of the level."""
        # Of the sums of a level:
        self._kept = [bytearray() for _ in range(hosts)]  # what is to be sent
        self._ended = set[int]()  # of which hosts nothing follows
        self._turn = 0  # whose piece is next
        self._sending = asyncio.Lock()
        self._wide: set[int] = set()  # nodes of the level with rows enough for two children
        self.obstacle: Obstacle | None = None
        """Of the hosts' candidates at the root, where nothing was split."""

    async def begin(self, rows: int, modulus: bytes = b"") -> None:
        """1. What sums are."""
        await self.coordinator.send(SumsBegin(rows, modulus))

    async def judge_zeros(self, place: int, data: bytes) -> None:
        """1. Over the lattice engine: the words that were read of a host's sums of zeros, the trial of
        its new hint. Returns once they have passed."""
        await self.coordinator.send(MaskedZeros(place, data))
        if (await self.coordinator.recv(ZerosPassed)).host != place:
            raise self.coordinator.breach("a ZerosPassed of another host")

    async def begin_tree(self, number: int, scales: Scales) -> None:
        """2. A tree."""
        await self.coordinator.send(SumsTree(number, scales.gradient, scales.hessian))

    async def own_sums(self, growth: Growth, own: Sequence[OwnColumns], best: "Best") -> None:
        """3. The sums of the guest's own columns; the coordinator hears of the level, best-first of what
        the last splits made, while hosts add up."""
        await together([party.sums(growth.frontier) for party in own])
        frontier, covers = growth.frontier, growth.frontier.covers()
        waiting = {node: choice for node, choice in self.chosen.items() if node in frontier.waiting}
        self.chosen = waiting | best(growth, own)
        nodes = [
            OpenNode(
                node,
                int(total.gradient),
                int(total.hessian),
                _finite(growth.bounds[node].low),
                _finite(growth.bounds[node].high),
                self.chosen[node].gain if node in self.chosen else None,
                node not in frontier.leaves and covers[node] >= 2 * self._params.min_child_rows,
            )
            for node, total in growth.totals.items()
            if node in covers
        ]
        self._wide = (self._wide & frontier.waiting) | {told.node for told in nodes if told.splits}
        pairs = [[node for node in pair if node is not None] for pair in frontier.pairs]
        await self.coordinator.send(SumsLevel(nodes, pairs))

    async def pass_on(self, place: int, data: bytes) -> None:
        """3. The plaintexts of a host's sums, those of the first node of each pair in turn, once the
        level is told."""
        self._kept[place] += data
        await self._send_in_turn()

    async def end_sums(self, place: int) -> None:
        """3. All sums of a host in the level were passed on."""
        self._ended.add(place)
        await self._send_in_turn()

    async def _send_in_turn(self) -> None:
        """Send the pieces that are due: the first one of each host in turn, then the second ones, and so
        on. The order does not depend on who answers first, so that it is the same in a replay."""
        async with self._sending:
            while any(self._kept) or len(self._ended) < self._hosts:
                place = self._turn % self._hosts
                piece = bytes(self._kept[place][:PIECE])
                if len(piece) < PIECE and place not in self._ended:
                    return
                del self._kept[place][:PIECE]
                self._turn += 1
                if piece:
                    await self.coordinator.send(MaskedSums(place, piece))

    async def split(self, growth: Growth, own: Sequence[OwnColumns], ask: "AskHost") -> dict[int, Taken]:
        """5. The best splits of a level whose sums were passed on; `ask` asks a host about nodes."""
        chosen = self.chosen
        self._ended |= {*range(self._hosts)}
        await self._send_in_turn()
        self._ended, self._turn = set(), 0
        taken: dict[int, Taken] = {}
        due = True  # another message
        while due:
            message = await self.coordinator.recv(Ask, NodesWon)
            if isinstance(message, NodesWon):
                break
            asked = [node for about in message.nodes.values() for node in about]
            places = all(
                0 <= place < self._hosts and growth.paths.may_split(node, len(own) + place)
                for place, nodes in message.nodes.items()
                for node in nodes
                if node in self._wide
            )
            if (
                not places
                or not asked
                or not set(asked) <= self._wide - set(taken)
                or len(set(asked)) < len(asked)
                or not all(message.nodes.values())
            ):
                raise self.coordinator.breach("an Ask about nodes that are not open")
            for answer in await together([ask(*about) for about in message.nodes.items()]):
                taken.update(answer)
            due = message.more or not set(asked) <= set(taken)
        what = type(message).__name__
        for node in message.own:
            if node not in chosen or node in taken:
                raise self.coordinator.breach(f"{what} of nodes that are not the guest's")
            party = own[chosen[node].party]
            taken[node] = party.take(node, chosen[node])
        if isinstance(message, NodesWon) and message.obstacle:
            if message.obstacle not in get_args(Obstacle) or taken or 0 not in growth.totals:
                raise self.coordinator.breach("NodesWon with an obstacle that is none")
            self.obstacle = cast(Obstacle, message.obstacle)
        if growth.order is None and not set(chosen) <= set(taken):
            raise self.coordinator.breach(f"{what} that leave out a node with a split")
        if growth.order is not None and not bool(chosen) <= len(taken) <= growth.order.left:
            raise self.coordinator.breach(f"{what} with another number of splits than are left")
        return taken

    async def end_tree(self, growth: Growth) -> None:
        """The sums of the nodes that the last splits made."""
        await asyncio.to_thread(growth.find_totals)
        new = {node: growth.totals[node] for node in growth.frontier.covers()}
        told = {node: (int(total.gradient), int(total.hessian)) for node, total in new.items()}
        await self.coordinator.send(SumsTreeEnd(told))

    async def end(self, trees: int) -> None:
        """Training is over."""
        await self.coordinator.send(SumsEnd(trees))


Best = Callable[[Growth, Sequence[OwnColumns]], dict[int, Choice]]
AskHost = Callable[[int, Sequence[int]], Awaitable[dict[int, Taken]]]


def gain_within(
    growth: Growth, chosen: Mapping[int, Choice], scales: Scales, params: BoostParams
) -> Callable[[int, Sums, bool], float | None]:
    """What gives the gain of a host's split by its left sums, and None for one that may not be taken, or
    that the guest's own beats."""

    def gain_of(node: int, left: Sums, ordered: bool) -> float | None:
        one = Sums(left.gradient.reshape(1), left.hessian.reshape(1))
        valid, flags = np.ones(1, np.bool_), np.array([ordered])
        total, bounds = growth.totals[node], growth.bounds[node]
        gain = float(gains(one, total, valid, scales, params, bounds, flags)[0])
        beaten = node in chosen and chosen[node].gain >= gain
        return None if beaten or not np.isfinite(gain) else gain

    return gain_of


def _finite(bound: float) -> float | None:
    return bound if np.isfinite(bound) else None


# -------------------------------------------------------------------------------------------- hosts


class HiddenHost:
    """A host's part with the coordinator, under either engine."""

    def __init__(self, coordinator: Peer, randomness: Randomness) -> None:
        self._coordinator = coordinator
        self._seed = randomness.at("seed of masks")(SEED)
        self.masks = MaskStream(self._seed)

    async def begin(self) -> None:
        """1. The seed of the masks."""
        await self._coordinator.send(MaskSeed(self._seed))

    async def begin_tree(self, ordered: Mask) -> None:
        """2. The candidates of a tree, in the order of the wire. Raises Refused for too many."""
        if len(ordered) > MOST_CANDIDATES:
            raise Refused(
                f"{len(ordered):,} split candidates are more than {MOST_CANDIDATES:,}, which "
                'sums = "hidden" allows: lower max_bins'
            )
        bits = pack_bits(ordered) if ordered.any() else b""
        await self._coordinator.send(TreeCandidates(len(ordered), bits))

    async def tell_rows(self, valid: Mapping[int, Mask]) -> None:
        """4. Which candidates leave enough rows in each node."""
        bits = {node: pack_bits(enough) for node, enough in valid.items()}
        await self._coordinator.send(EnoughRows(bits))

    async def best(self, guest: Peer, nodes: Sequence[int]) -> dict[int, list[list[int]]]:
        """5. The best candidates in the nodes that the guest asks about."""
        message = await self._coordinator.recv(BestCandidates)
        if set(message.groups) != set(nodes):
            what = "the nodes with BestCandidates are not those that the guest asks about"
            raise either(guest, self._coordinator, what)
        return message.groups

    async def took(self, candidates: dict[int, int | None]) -> None:
        """5. What was taken of them."""
        await self._coordinator.send(TookCandidates(candidates))

    def breach(self, what: str) -> PeerError:
        """The error for a coordinator that broke the protocol."""
        return self._coordinator.breach(what)
