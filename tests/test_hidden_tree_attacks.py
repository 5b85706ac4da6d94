"""Attacks on trees whose sums a coordinator opens: a guest that follows the protocol and one that does
not, masks, lies of each party, waiting in a circle."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
import roles
from hostile import play
from roles import GUEST, HOSTS, LEAD
from test_boost import KEY, Job, make_job, resolved
from test_hidden_trees import ENGINES, Seen, assert_same_model, federated, settings_of

from vfl.crypto.lattice.hint import HintKey
from vfl.crypto.packing import SumPacking
from vfl.crypto.sums import _pack_and_mask
from vfl.errors import PeerError
from vfl.learn.splits import Candidates
from vfl.net.peer import MemoryPeer, together
from vfl.net.wire import Message
from vfl.protocols.common.mask_streams import MaskStream
from vfl.protocols.common.participant import Participant
from vfl.protocols.trees import lattice, paillier
from vfl.protocols.trees.hidden import (
    Ask,
    BestCandidates,
    EnoughRows,
    HiddenSums,
    MaskedSums,
    MaskedZeros,
    MaskSeed,
    NodesWon,
    SumsBegin,
    SumsEnd,
    SumsLevel,
    SumsTree,
    SumsTreeEnd,
    TookCandidates,
    TreeCandidates,
    ZerosPassed,
)
from vfl.protocols.trees.quantisation import lattice_shape
from vfl.protocols.trees.questions import AskedRows
from vfl.protocols.trees.training import guest_train, host_train

pytestmark = pytest.mark.usefixtures("quick_key", "small_batches")

# --- A guest that follows the protocol and solves what it reads for the host's table. ------------------

ROWS = 48


def one_host(encryption: str, hidden: bool) -> Job:
    """A guest that knows little, a host whose columns tell the label."""
    others = {} if hidden else {"sums": "open", "coordinator": None}
    params = settings_of(encryption, trees=24, depth=2, min_bin_rows=2, min_child_rows=3, **others)
    job = make_job(ROWS, 1, 11, params, missing=0.0)
    everybody = np.ones(ROWS, np.bool_)
    return replace(job, rows=replace(job.rows, train=everybody, validation=~everybody))


class Solver:
    """Collects equations about the candidates of a host, each at its place, and solves them."""

    def __init__(self) -> None:
        self.weights: list[np.ndarray] = []  # of rows
        self.sums: list[np.ndarray] = []  # by candidate
        self.known: list[np.ndarray] = []  # whether it was sent

    def learn(
        self, growth: Any, node: int, gradient: np.ndarray, hessian: np.ndarray, known: np.ndarray
    ) -> None:
        inside = growth.frontier.inside(node)
        for values, sums in ((growth.g, gradient), (growth.h, hessian)):
            scale = max(1.0, float(np.abs(values).max()))
            self.weights.append(np.where(inside, values, 0) / scale)
            self.sums.append(sums / scale)
            self.known.append(known)

    def sides(self) -> np.ndarray:
        """Which rows are left of each candidate, as the equations have it."""
        weights, sums, known = np.array(self.weights), np.array(self.sums), np.array(self.known)
        return np.array(
            [
                np.linalg.lstsq(weights[sent], values[sent], rcond=1e-9)[0] > 0.5
                for values, sent in zip(sums.T, known.T, strict=True)
            ]
        )


def read_as_sums(growth: Any, solver: Solver, params: Any, masked: bytes) -> None:
    """What the guest has of a level of masked numbers, as equations as if there were no masks."""
    summed = [first for first, _ in growth.frontier.pairs]
    size = len(masked) // len(summed)
    for node, data in zip(
        summed, (masked[i : i + size] for i in range(0, len(masked), size)), strict=True
    ):
        if params.encryption == "lattice":
            shape = lattice_shape(ROWS, params)
            words = np.frombuffer(data, "<u8").reshape(2, -1)
            scale = shape.parameters(words.shape[1]).scale_bits
            numbers = words.view(np.int64) >> scale
            solver.learn(growth, node, *numbers, np.ones(numbers.shape[1], np.bool_))
        else:
            packing = SumPacking.for_rows(ROWS, 2048)
            plaintexts = [int.from_bytes(data[i : i + 256], "big") for i in range(0, len(data), 256)]
            slots = [
                (value >> packing.slot_bits * s) % (1 << packing.slot_bits)
                for value in plaintexts
                for s in range(packing.slots)
            ]
            half = 1 << packing.slot_bits - 1
            values = [slot - 2 * half if slot >= half else slot for slot in slots]
            gradient = np.array([value >> packing.sum_bits for value in values])
            hessian = np.array([value % (1 << packing.sum_bits) for value in values])
            solver.learn(growth, node, gradient, hessian, np.ones(len(values), np.bool_))


def opened(job: Job) -> None:
    """Train with open sums."""
    name, host = job.blocks
    key = KEY if job.params.encryption == "paillier" else None

    async def train() -> None:
        own, theirs = MemoryPeer.pair(name, host)
        guest = guest_train([own], {name: job.blocks[name]}, job.rows, job.params, key=key)
        other = host_train(theirs, job.blocks[host], job.params, Participant(host), shown=str)
        await together([guest, other])

    asyncio.run(train())


def attacked(job: Job, monkeypatch: pytest.MonkeyPatch) -> tuple[float, float]:
    """How many of the sides of all rows at all candidates the attack gets right, and how many who says
    for each candidate what is so of most rows."""
    solver = Solver()
    grower = lattice._LatticeGrower if job.params.encryption == "lattice" else paillier._PaillierGrower
    split, pass_on = grower.split, HiddenSums.pass_on
    masked: list[bytes] = []  # what the one host's sums look like to the guest

    async def passed(self: Any, place: int, data: bytes) -> None:
        masked.append(data)
        await pass_on(self, place, data)

    async def watched(self: Any, growth: Any, parties: Sequence[Any]) -> Any:
        if job.params.sums == "hidden":
            read_as_sums(growth, solver, job.params, b"".join(masked))
            masked.clear()
            return await split(self, growth, parties)
        for party in parties:
            if not hasattr(party, "take"):
                for node in growth.frontier.nodes:
                    left, valid = party.candidates[node]
                    known = valid | (job.params.encryption == "lattice")
                    solver.learn(growth, node, left.gradient, left.hessian, known)
        return await split(self, growth, parties)

    monkeypatch.setattr(grower, "split", watched)
    monkeypatch.setattr(HiddenSums, "pass_on", passed)
    (binned,) = list(job.blocks.values())[1:]
    every = Candidates.of(binned.columns)
    places = np.arange(len(every))
    if job.params.encryption == "paillier":  # the attacker is even told which candidate is where
        begin = paillier._HostTree.__init__

        def in_order(self: Any, *given: Any) -> None:
            begin(self, *given[:-2], sorted(given[-2]), given[-1])

        monkeypatch.setattr(paillier._HostTree, "__init__", in_order)
    else:
        monkeypatch.setattr(lattice._Offered, "order", lambda self, secret: self.candidates)
        places = lattice._Offered.of(binned, job.params, binned.codes).candidates
    if job.params.sums == "open":
        opened(job)
    else:
        federated(job)
    monkeypatch.undo()
    inside = np.ones(ROWS, np.bool_)
    true = np.array([every.take(int(c), binned.codes, inside, inside)[1] for c in places])
    sides = solver.sides()[: len(true)]
    if job.params.encryption == "paillier":  # sums are sent of those with enough rows
        fit = np.minimum(true.sum(1), (~true).sum(1)) >= job.params.min_child_rows
        sides, true = sides[fit], true[fit]
    share = true.mean(1)
    return float((sides == true).mean()), float(np.maximum(share, 1 - share).mean())


@ENGINES
def test_a_table_that_open_sums_give_away_is_safe_under_masks(
    encryption: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    got, guessed = attacked(one_host(encryption, hidden=False), monkeypatch)
    assert got > 0.95 > guessed  # so that the attack is one
    got, guessed = attacked(one_host(encryption, hidden=True), monkeypatch)
    assert got < guessed


def view(job: Job) -> tuple[list[Any], Any]:
    """All that the guest receives in a job, of ciphertexts and masked words the size; the model."""
    seen = Seen()
    model, _, halves, _ = federated(job, seen)
    received = []
    for kind, payload in seen.by["party0"]:
        fields = msgspec.msgpack.decode(payload, strict=False)[1]
        shown = {k: len(v) if k in ("ciphertexts", "data") else v for k, v in fields.items()}
        shown.pop("seconds", None)
        received.append((kind, shown))
    setting_up = {"HintSums", "HintHeader", "HintOffered", "HintPart", "ZerosCommitted", "ZerosOpened"}
    return [one for one in received if one[0] not in setting_up], resolved(model, halves)


@ENGINES
def test_the_guest_cannot_tell_two_tables_with_one_model_apart(encryption: str) -> None:
    """Of a column that wins nothing it sees nothing: field by field, size by size."""
    views = []
    for seed in (1, 2):
        job = make_job(150, 1, 3, settings_of(encryption, trees=1, depth=2, min_child_rows=25))
        own = job.features["party1"]
        own["noise"] = np.random.default_rng(seed).permutation(150) % 3 * 1.0
        views.append(view(job))
    (one, model), (other, same) = views
    assert model == same  # the noise wins nothing
    assert one == other and len(one) > 5


# --- Masks. --------------------------------------------------------------------------------------------


@ENGINES
def test_no_mask_is_drawn_twice_and_both_ends_stay_in_step(
    encryption: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over hosts, nodes, two jobs, levels of more pairs than the lattice engine sums at once."""
    drawn: dict[tuple[bytes, int], list[bytes]] = defaultdict(list)
    draw = MaskStream._bytes

    def watched(self: MaskStream, count: int) -> bytes:
        at = self._seed, self._drawn
        drawn[at].append(draw(self, count))
        return drawn[at][-1]

    monkeypatch.setattr(MaskStream, "_bytes", watched)
    settings = settings_of(
        encryption, trees=1, depth=7, min_child_rows=1, min_bin_rows=1, min_child_weight=0
    )
    job = make_job(260, 2, 5, settings, missing=0.0)
    job = replace(job, rows=replace(job.rows, label=np.random.default_rng(1).integers(0, 2, 260) * 1.0))
    assert_same_model(job)
    federated(job)
    assert len({seed for seed, _ in drawn}) == 4  # two hosts in two jobs
    per_seed = defaultdict(list)
    for (seed, number), streams in drawn.items():
        assert len(streams) == 2 and streams[0] == streams[1]  # the host's and the coordinator's
        per_seed[seed].append(number)
    for numbers in per_seed.values():
        assert sorted(numbers) == list(range(len(numbers))) and len(numbers) > 32
    blocks = [
        streams[0][i : i + 16] for streams in drawn.values() for i in range(0, len(streams[0]) - 15, 16)
    ]
    assert len(set(blocks)) == len(blocks)


def test_masked_ciphertexts_are_rerandomised() -> None:
    """The guest, which knows p and q, takes the n-th power of a ciphertext out: it would show which rows
    were added, whatever the mask is."""
    public = KEY.public
    n = int(public.n)
    sums = public.unsafe_encrypt([5, 6, 7])  # n-th power 1
    obfuscators = [public.obfuscators(1) for _ in range(3)]
    made = [
        _pack_and_mask(public, sums, 80, 3, mask, r)
        for mask, r in zip((1, 1, n - 1), obfuscators, strict=True)
    ]
    powers = {int(c) % n for one in made for c in public.integers(one)}
    assert len(powers) == 3 and 1 not in powers
    opened = [int(KEY.decrypt(one)[0]) % n for one in made]
    packed = 5 + (6 << 80) + (7 << 160)
    assert opened == [packed + 1, packed + 1, packed - 1]


def test_masks_cover_words_below_the_scale_of_sums() -> None:
    """There a guest that cheats could put numbers, and read what a host adds up of them."""
    params = settings_of("lattice", trees=1)
    job = make_job(150, 1, 1, params)
    scale = lattice_shape(150, params).parameters(100).scale_bits
    seen = Seen()
    federated(job, seen)
    for told in ("MaskedZeros", "MaskedSums"):
        words = np.concatenate(
            [
                np.frombuffer(msgspec.msgpack.decode(payload)[1]["data"], "<u8")
                for kind, payload in seen.by["notary"]
                if kind == told
            ]
        )
        low = words % np.uint64(1 << scale)
        counts = np.bincount((low >> np.uint64(scale - 2)).astype(np.int64), minlength=4)
        expected = len(low) / 4
        assert expected > 10 and ((counts - expected) ** 2 / expected).sum() < 3 + 5 * np.sqrt(6), told


def test_a_new_hint_of_no_matrix_is_found_by_the_coordinator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else is told of a trial: neither the host's masks nor a commitment to them."""
    seen, params = Seen(), settings_of("lattice", trees=1, depth=1)
    federated(make_job(150, 1, 1, params), seen)
    told = {kind for by in seen.by.values() for kind, _ in by}
    assert {"MaskedZeros", "ZerosPassed"} <= told
    assert not {"ZerosCommitted", "ZerosRead", "ZerosOpened"} & told
    with roles.in_memory():
        made = HintKey.encrypt

        def spoiled(key: HintKey, hint: Any) -> Any:
            return made(key, hint + (np.arange(hint.size, dtype=np.uint64).reshape(hint.shape) << 50))

        monkeypatch.setattr(HintKey, "encrypt", spoiled)
        ends = play(roles.hidden_boosting("lattice")).ends
    said = [str(end) for end in ends.values() if isinstance(end, PeerError)]
    assert any("a hint that is of no matrix" in text for text in said), ends
    named = said[0].partition(" broke the protocol: ")[0].split(" or ")
    assert all(GUEST in named and HOSTS[0] in named for text in said if "of no matrix" in text)


# --- Lies. ---------------------------------------------------------------------------------------------

Change = Callable[[Any], Any]


def lied(encryption: str, kind: type[Message], change: Change) -> dict[str, Any]:
    """What all parties end with when messages of a kind are sent otherwise."""
    scenario = roles.hidden_boosting(encryption)
    before = MemoryPeer.send

    async def send(peer: MemoryPeer, message: Message) -> None:
        await before(peer, change(message) if isinstance(message, kind) else message)

    with pytest.MonkeyPatch.context() as patch, roles.in_memory():
        patch.setattr(MemoryPeer, "send", send)
        return play(scenario).ends


def of(**fields: Any) -> Change:
    return lambda message: msgspec.structs.replace(message, **fields)


def node(**fields: Any) -> Change:
    """Another first node of a level."""
    return lambda m: msgspec.structs.replace(
        m, nodes=[msgspec.structs.replace(m.nodes[0], **fields), *m.nodes[1:]]
    )


def each(field: str, change: Change) -> Change:
    """Another value for each node."""
    return lambda m: msgspec.structs.replace(
        m, **{field: {k: change(v) for k, v in getattr(m, field).items()}}
    )


BOTH = ("paillier", "lattice")
LIES: dict[str, tuple[type[Message], Change, str, str, Sequence[str]]] = {
    # what: (message, change, who is blamed, what is said, engines)
    "no rows": (SumsBegin, of(rows=0), GUEST, "a SumsBegin with", BOTH),
    "rows without end": (SumsBegin, of(rows=2**40), GUEST, "SumsBegin", BOTH),
    "no modulus": (SumsBegin, of(modulus=b""), GUEST, "another modulus", BOTH[:1]),
    "a short seed": (MaskSeed, of(seed=b"s"), HOSTS[0], "a MaskSeed of another size", BOTH),
    "zeros of no host": (MaskedZeros, of(host=2), GUEST, "MaskedZeros out of turn", BOTH[1:]),
    "zeros of one host for all": (MaskedZeros, of(host=0), GUEST, "MaskedZeros", BOTH[1:]),
    "zeros of half a word": (
        MaskedZeros,
        lambda m: of(data=m.data[:-1])(m),
        GUEST,
        "MaskedZeros of another size",
        BOTH[1:],
    ),
    "no zeros": (MaskedZeros, of(data=b""), GUEST, "MaskedZeros of another size", BOTH[1:]),
    "zeros that are none": (
        MaskedZeros,
        lambda m: of(data=b"\x5a" * len(m.data))(m),
        GUEST,
        "a hint that is of no matrix",
        BOTH[1:],
    ),
    "another host passed": (ZerosPassed, of(host=1), LEAD, "a ZerosPassed of another host", BOTH[1:]),
    "a tree before the first": (SumsTree, of(tree=-1), GUEST, "a SumsTree out of turn", BOTH),
    "a scale of nothing": (SumsTree, of(hessian=0.0), GUEST, "with scales that are none", BOTH),
    "a scale that is no number": (SumsTree, of(gradient=np.nan), GUEST, "scales that are none", BOTH),
    "candidates without end": (
        TreeCandidates,
        of(count=1 << 20, ordered=b""),
        HOSTS[0],
        "of more than there may be",
        BOTH[1:],
    ),
    "bits of no candidate": (
        TreeCandidates,
        lambda m: of(ordered=bytes(m.count + 9))(m),
        HOSTS[0],
        "wrong number of bits",
        BOTH,
    ),
    "a sum beyond 64 bits": (SumsLevel, node(gradient=2**64 - 1), GUEST, "SumsLevel", BOTH),
    "a sum beyond all": (SumsLevel, node(hessian=2**63 - 1), GUEST, "SumsLevel", BOTH),
    "a bound that is no number": (SumsLevel, node(low=np.nan), GUEST, "bounds that are none", BOTH),
    "bounds the wrong way": (SumsLevel, node(low=1.0, high=-1.0), GUEST, "bounds that are none", BOTH),
    "a gain that is no number": (SumsLevel, node(gain=np.inf), GUEST, "gains that are none", BOTH),
    "a node twice": (
        SumsLevel,
        lambda m: of(nodes=[*m.nodes, m.nodes[0]])(m),
        GUEST,
        "that are not open",
        BOTH,
    ),
    "another node": (SumsLevel, node(node=1500), GUEST, "nodes that are not open", BOTH),
    "a pair of none": (SumsLevel, of(pairs=[[]]), GUEST, "SumsLevel", BOTH),
    "a pair of three": (SumsLevel, of(pairs=[[0, 1, 2]]), GUEST, "SumsLevel", BOTH),
    "a pair of strangers": (SumsLevel, of(pairs=[[0, 1]]), GUEST, "nodes that are not open", BOTH),
    "no node": (SumsLevel, of(nodes=[], pairs=[]), GUEST, "nodes that are not open", BOTH),
    "children of other sums": (
        SumsTreeEnd,
        each("nodes", lambda v: (v[0] + 1, v[1])),
        GUEST,
        "not those of the node above",
        BOTH,
    ),
    "an end without its nodes": (SumsTreeEnd, of(nodes={}), GUEST, "other nodes than the last", BOTH),
    "no host of that place": (MaskedSums, of(host=2), GUEST, "MaskedSums of no host", BOTH),
    "a host before the first": (MaskedSums, of(host=-1), GUEST, "MaskedSums of no host", BOTH),
    "sums of one host for all": (MaskedSums, of(host=0), GUEST, "MaskedSums of another number", BOTH),
    "masked sums cut short": (
        MaskedSums,
        lambda m: of(data=m.data[:-1])(m),
        GUEST,
        "number of sums than a host",
        BOTH,
    ),
    "more masked sums than there are": (
        MaskedSums,
        lambda m: of(data=m.data + m.data)(m),
        GUEST,
        "number of sums than a host",
        BOTH,
    ),
    "masked sums of no length": (MaskedSums, of(data=b""), GUEST, "number of sums than a host", BOTH),
    "masked sums that are none": (
        MaskedSums,
        lambda m: of(data=b"\x5a" * len(m.data))(m),
        GUEST,
        "no sums",
        BOTH,
    ),
    "rows of other nodes": (
        EnoughRows,
        lambda m: of(valid={k + 9: v for k, v in m.valid.items()})(m),
        HOSTS[0],
        "EnoughRows of other nodes",
        BOTH[:1],
    ),
    "rows of too few": (
        EnoughRows,
        each("valid", lambda v: v[:-1]),
        HOSTS[0],
        "wrong number of bits",
        BOTH[:1],
    ),
    "no candidates, and more": (
        paillier.MaskedCandidates,
        of(ciphertexts=b"", more=True),
        HOSTS[0],
        "MaskedCandidates with a wrong number of ciphertexts",
        BOTH[:1],
    ),
    "a question about nothing": (Ask, of(nodes={}), LEAD, "an Ask about nodes", BOTH),
    "a question about no node": (Ask, of(nodes={0: []}), LEAD, "an Ask about nodes", BOTH),
    "a question about another node": (Ask, of(nodes={0: [1023]}), LEAD, "an Ask about nodes", BOTH),
    "a question to nobody": (Ask, of(nodes={2: [0]}), LEAD, "an Ask about nodes", BOTH),
    "a question to one before": (Ask, of(nodes={-1: [0]}), LEAD, "an Ask about nodes", BOTH),
    "a question twice": (Ask, of(nodes={0: [0], 1: [0]}), LEAD, "an Ask about nodes", BOTH),
    "best of no group": (BestCandidates, each("groups", lambda v: []), LEAD, "BestCandidates", BOTH),
    "best of an empty group": (
        BestCandidates,
        each("groups", lambda v: [[]]),
        LEAD,
        "BestCandidates",
        BOTH,
    ),
    "best of none below": (
        BestCandidates,
        each("groups", lambda v: [[-1]]),
        LEAD,
        "BestCandidates",
        BOTH,
    ),
    "best beyond the last": (
        BestCandidates,
        each("groups", lambda v: [[9999]]),
        LEAD,
        "BestCandidates",
        BOTH,
    ),
    "best beyond 64 bits": (
        BestCandidates,
        each("groups", lambda v: [[2**64 - 1]]),
        LEAD,
        "BestCandidates",
        BOTH,
    ),
    "best twice": (
        BestCandidates,
        each("groups", lambda v: [*v, v[0]]),
        LEAD,
        "BestCandidates",
        BOTH,
    ),
    "best of another node": (
        BestCandidates,
        lambda m: of(groups={k + 9: v for k, v in m.groups.items()})(m),
        LEAD,
        "the nodes with BestCandidates are not",
        BOTH,
    ),
    "taken what was not named": (
        TookCandidates,
        each("candidates", lambda v: 9999),
        HOSTS[1],
        "not asked about",
        BOTH,
    ),
    "taken in another node": (
        TookCandidates,
        of(candidates={3: 0}),
        HOSTS[1],
        "other nodes than asked about",
        BOTH,
    ),
    "nothing taken": (
        TookCandidates,
        each("candidates", lambda v: None),
        HOSTS[1],
        "leave out a candidate",
        BOTH[:1],
    ),
    "won by nobody": (NodesWon, of(own=[77]), LEAD, "NodesWon of nodes", BOTH),
    "won by nobody, and asked": (Ask, of(own=[77], more=False), LEAD, "Ask of nodes", BOTH),
    "an obstacle that is none": (NodesWon, of(obstacle="moon"), LEAD, "an obstacle that is none", BOTH),
    "an obstacle where none was": (
        NodesWon,
        of(obstacle="label"),
        LEAD,
        "an obstacle that is none",
        BOTH,
    ),
    "rows asked about twice": (
        AskedRows,
        lambda m: of(about=[*m.about, m.about[0]])(m),
        GUEST,
        "about a node twice",
        BOTH[1:],
    ),
    "rows of a node that is not open": (AskedRows, of(about=[5]), GUEST, "about no open node", BOTH[1:]),
    "won twice": (
        paillier.WonNodes,
        lambda m: of(nodes=[*m.nodes, m.nodes[0]])(m),
        GUEST,
        "WonNodes",
        BOTH[:1],
    ),
    "won beyond the last node": (paillier.WonNodes, of(nodes=[2**40]), GUEST, "WonNodes", BOTH[:1]),
    "more trees than there are": (SumsEnd, of(trees=3), GUEST, "more trees than the job has", BOTH),
}


# What one piece of code reads under both engines is tried under the faster one.
ALIKE = (SumsTree, SumsLevel, SumsTreeEnd, Ask, NodesWon, SumsEnd, MaskSeed)


@pytest.mark.parametrize(
    ("what", "encryption"),
    [
        (what, engine)
        for what, (kind, *_, engines) in LIES.items()
        for engine in (engines[:1] if kind in ALIKE else engines)
    ],
)
def test_lies_are_refused_and_the_liar_is_named(what: str, encryption: str) -> None:
    kind, change, liar, said, _ = LIES[what]
    ends = lied(encryption, kind, change)
    blamed = [end for end in ends.values() if isinstance(end, PeerError)]
    assert any(said in str(end) for end in blamed), ends
    liars = {*HOSTS} if liar in HOSTS else {liar}  # hosts lie alike, the first that is heard is named
    for end in blamed:
        assert liars & {*str(end).partition(" broke the protocol: ")[0].split(" or ")}, ends


# --- Waiting in a circle. ------------------------------------------------------------------------------


@ENGINES
def test_parties_with_room_for_one_message_do_not_wait_in_a_circle(
    encryption: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def narrow(left: str, right: str) -> tuple[MemoryPeer, MemoryPeer]:
        a, b = MemoryPeer(right, asyncio.Queue(1)), MemoryPeer(left, asyncio.Queue(1))
        a._outbox, b._outbox = b._inbox, a._inbox
        return a, b

    monkeypatch.setattr(MemoryPeer, "pair", staticmethod(narrow))
    settings = settings_of(encryption, trees=2, depth=6, min_child_rows=2, colsample=0.7)
    assert_same_model(make_job(160, 3, 3, settings))
