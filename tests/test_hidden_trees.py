"""Trees whose sums a coordinator opens: the oracle's, bit for bit, and what each party sees."""

import asyncio
import tracemalloc
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import pytest
from pydantic import ValidationError
from test_boost import KEY, Job, make_job, resolved
from traced import traced

from vfl.arrays import Words
from vfl.crypto.lattice.parameters import Parameters
from vfl.crypto.randomness import Entropy
from vfl.errors import Refused, VflError
from vfl.learn.params import BoostParams
from vfl.learn.quantiser import Scales
from vfl.learn.tree import Sums
from vfl.net.peer import MemoryPeer, stop_all, together
from vfl.net.wire import MIB
from vfl.protocols.common import lattice_sums
from vfl.protocols.common.mask_streams import MaskStream
from vfl.protocols.common.participant import Participant
from vfl.protocols.trees import candidate_sums, hidden, hidden_coordinator
from vfl.protocols.trees.hidden import OpenNode, SumsLevel, TreeCandidates
from vfl.protocols.trees.hidden_coordinator import coordinate_trees
from vfl.protocols.trees.quantisation import lattice_shape
from vfl.protocols.trees.training import guest_train, host_train

pytestmark = pytest.mark.usefixtures("quick_key", "small_batches")


def settings_of(encryption: str, **others: Any) -> BoostParams:
    given = {"trees": 3, "depth": 3, "max_bins": 8, "min_child_rows": 5, "encryption": encryption}
    return BoostParams(**{**given, "sums": "hidden", "coordinator": "notary", **others})


@dataclass
class Seen:
    """The messages that each party received, by their kind."""

    by: dict[str, list[tuple[str, bytes]]] = field(default_factory=dict)

    def watch(self, name: str, peer: MemoryPeer) -> None:
        received = self.by.setdefault(name, [])

        def note(direction: str, kind: str, payload: bytes) -> None:
            if direction == "received":
                received.append((kind, payload))

        peer.observers.append(note)

    def kinds(self, name: str) -> set[str]:
        return {kind for kind, _ in self.by[name]}

    def fields(self, name: str, wanted: str) -> list[dict[str, Any]]:
        return [msgspec.msgpack.decode(payload)[1] for kind, payload in self.by[name] if kind == wanted]


def federated(job: Job, seen: Seen | None = None, cheat: Any = None):
    """(guest's half, scores, hosts' halves, trees that the coordinator counts) over memory."""
    name, *names = job.blocks
    key = KEY if job.params.encryption == "paillier" else None

    async def run():
        to_hosts = [MemoryPeer.pair(name, host) for host in names]
        to_coordinator = {party: MemoryPeer.pair(party, "notary") for party in job.blocks}
        every = [end for pair in (*to_hosts, *to_coordinator.values()) for end in pair]
        if seen is not None:
            for (own, theirs), host in zip(to_hosts, names, strict=True):
                seen.watch(name, own)
                seen.watch(host, theirs)
            for party, (own, theirs) in to_coordinator.items():
                seen.watch(party, own)
                seen.watch("notary", theirs)
        if cheat is not None:
            cheat(dict(zip(names, to_hosts, strict=True)), to_coordinator)

        async def guest():
            own = {name: job.blocks[name]}
            peers = [pair[0] for pair in to_hosts]
            coordinator = to_coordinator[name][0]
            return await guest_train(peers, own, job.rows, job.params, key=key, coordinator=coordinator)

        async def host(host, peer):
            coordinator = to_coordinator[host][0]
            return await host_train(
                peer, job.blocks[host], job.params, Participant(host), shown=str, coordinator=coordinator
            )

        async def coordinator():
            parties = [to_coordinator[party][1] for party in job.blocks]
            return await coordinate_trees(parties, job.params, lambda tree, of: None)

        async def ending(role):
            try:
                return await role
            except VflError as error:
                await stop_all(every, error)
                raise

        hosts = [host(name, pair[1]) for name, pair in zip(names, to_hosts, strict=True)]
        return await together([ending(role) for role in (guest(), coordinator(), *hosts)])

    (model, scores), trees, *halves = asyncio.run(run())
    return model, scores, halves, trees


def assert_same_model(job: Job) -> None:
    expected, expected_scores = job.oracle()
    model, scores, halves, trees = federated(job)
    assert resolved(model, halves) == resolved(expected, [])
    assert np.array_equal(scores, expected_scores)
    assert trees == len(expected.trees) and model.start == expected.start


ENGINES = pytest.mark.parametrize("encryption", ["paillier", "lattice"])


@ENGINES
@pytest.mark.parametrize("hosts", [1, 2, 3])
def test_hidden_equals_pooled_bit_for_bit(encryption: str, hosts: int) -> None:
    assert_same_model(make_job(150, hosts, seed=hosts, params=settings_of(encryption)))


@ENGINES
def test_hidden_equals_pooled_where_sums_come_in_many_pieces(
    encryption: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (candidate_sums, hidden, hidden_coordinator):
        monkeypatch.setattr(module, "PIECE", 700)
    assert_same_model(make_job(150, 2, 7, settings_of(encryption, trees=1)))


@pytest.mark.parametrize(
    ("module", "bound", "most", "said"),
    [
        (
            hidden_coordinator,
            "MOST_SUMS",
            100,
            "split candidates of all hosts in up to 4 nodes of a level",
        ),
        (hidden, "MOST_CANDIDATES", 5, "split candidates are more than 5, which sums = "),
    ],
)
@ENGINES
def test_more_candidates_than_can_be_opened_are_refused(
    encryption: str, monkeypatch: pytest.MonkeyPatch, module: Any, bound: str, most: int, said: str
) -> None:
    monkeypatch.setattr(module, bound, most)
    job = make_job(150, 2, 7, settings_of(encryption, trees=1, depth=3))
    with pytest.raises(Refused, match=f"{said}.*lower max_bins"):
        federated(job)


def test_the_coordinator_keeps_some_sixty_bytes_for_a_sum() -> None:
    """Of a candidate in a node; beside that what one part of a level takes."""
    count, nodes, params = 10_000, 16, settings_of("lattice", trees=1, depth=6)
    masks = bytes(32)
    opener = hidden_coordinator._LatticeOpener(1000, params, MaskStream(masks))
    host = hidden_coordinator._HostCandidates(
        MemoryPeer.pair("registry", "notary")[0], TreeCandidates(count, b""), opener
    )
    stream = MaskStream(masks)
    words = np.concatenate([stream.words((2, count)) for _ in range(nodes // 2)])
    sums = np.random.default_rng(1).integers(0, 1000, words.shape).astype(np.uint64)
    words = words + (sums << np.uint64(lattice_shape(1000, params).parameters(count).scale_bits))
    host.parents = {node: Sums(*np.full((2, count), 2000)) for node in range(7, 15)}
    pairs = [[2 * node + 1, 2 * node + 2] for node in range(7, 15)]
    told = [OpenNode(node, 4000, 4000, None, None, None, True) for pair in pairs for node in pair]
    level = SumsLevel(told, pairs)
    totals = {node.node: Sums(np.asarray(4000), np.asarray(4000)) for node in told}
    tree = hidden_coordinator._Tree(host.host, [host], params, Scales(1.0, 1.0))
    masked = [bytearray(words.astype("<u8").tobytes())]
    with traced():
        ranked = tree._ranked(level, totals, masked)
        kept, peak = tracemalloc.get_traced_memory()
    assert len(ranked) == nodes and all(len(ranks[1]) > 500 for ranks in ranked.values())
    assert kept < 40 * count * nodes and peak - kept < 24 * MIB


@ENGINES
@pytest.mark.parametrize("objective", ["poisson", "gamma", "tweedie", "squared", "quantile"])
def test_hidden_equals_pooled_for_every_objective(encryption: str, objective: str) -> None:
    params = settings_of(encryption, trees=2)
    assert_same_model(make_job(150, 2, 7, params, objective=objective, with_offset=True))


@ENGINES
@pytest.mark.parametrize(
    "others",
    [
        {"subsample": 0.7, "colsample": 0.6},
        {"goss_top": 0.3, "goss_other": 0.2, "learning_rate": 0.9},
        {"validation_share": 0.3, "early_stopping_rounds": 1, "trees": 6, "learning_rate": 1.0},
        {"guest_trees": 2},
        {"depth": 5, "min_child_rows": 2, "trees": 2},
        {"gamma": 1e9},  # no tree has a split
        {"min_child_weight": 3.0, "reg_lambda": 0.0},
    ],
    ids=["drawn", "goss", "stopped", "guest first", "deep", "no split", "weights"],
)
def test_hidden_equals_pooled_under_all_settings(encryption: str, others: dict[str, Any]) -> None:
    assert_same_model(make_job(160, 2, 3, settings_of(encryption, **others)))


@ENGINES
def test_hidden_equals_pooled_under_constraints(encryption: str) -> None:
    job = make_job(200, 2, 5, settings_of(encryption, depth=4, min_child_rows=3))
    for party in range(3):
        job.monotone |= {f"number{party}": "increasing", f"rounded{party}": "decreasing"}
    assert_same_model(job)


@ENGINES
def test_ties_go_to_the_guest_then_the_lowest_host_then_the_first_candidate(encryption: str) -> None:
    rng = np.random.default_rng(2)
    job = make_job(120, 2, 4, settings_of(encryption, trees=2, min_child_rows=2))
    shared = rng.integers(0, 4, 120).astype(float)
    for party, columns in job.features.items():
        columns.clear()
        columns |= {f"{party}-a": shared, f"{party}-b": shared.copy(), f"{party}-c": -shared}
    assert_same_model(job)
    del job.features["party0"]["party0-a"], job.features["party0"]["party0-b"]
    job.features["party0"]["party0-c"] = rng.normal(size=120)
    assert_same_model(job)


@ENGINES
def test_a_host_without_any_candidate(encryption: str) -> None:
    job = make_job(120, 2, 6, settings_of(encryption, trees=2))
    job.features["party1"] = {"constant": np.ones(120)}
    assert_same_model(job)


# --- What each party sees. -----------------------------------------------------------------------------


@ENGINES
def test_the_guest_sees_no_sum_and_no_host_a_gradient(
    encryption: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By kind of message: open sums, which of a host's candidates are whose, and rows to the coordinator
    are in none. Over lattices it is passed no word as the guest reads it."""
    seen, blurred, passed = Seen(), lattice_sums.blurred, list[bytes]()

    def noted(parameters: Parameters, words: Words, entropy: Entropy) -> Words:
        passed.append(blurred(parameters, words, entropy).tobytes())
        return np.frombuffer(passed[-1], np.uint64).reshape(words.shape)

    monkeypatch.setattr(lattice_sums, "blurred", noted)
    federated(make_job(150, 2, 1, settings_of(encryption)), seen)
    guest = seen.kinds("party0") - {"FellowKey"}
    shared = {"TreeKept", "Finished", "SplitRows", "Ask", "NodesWon"}
    of_engine = {
        "paillier": {"MaskedCandidates"},
        "lattice": {"HintSums", "HintOffered", "HintHeader", "HintPart", "VectorSums", "TooFew"}
        | {"ZerosPassed"},
    }
    assert guest <= shared | of_engine[encryption]
    coordinator = {"SumsBegin", "MaskSeed", "SumsTree", "TreeCandidates", "SumsLevel", "MaskedSums"}
    coordinator |= {"EnoughRows", "TookCandidates", "SumsTreeEnd", "SumsEnd", "MaskedZeros"}
    assert seen.kinds("notary") <= coordinator
    if encryption == "lattice":
        masked = [decoded["data"] for decoded in seen.fields("notary", "MaskedSums")]
        assert sorted(b"".join(masked)) == sorted(b"".join(passed)) != []


@ENGINES
def test_what_the_guest_decrypts_is_uniform(encryption: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same job twice: what it reads has nothing in common, and its bytes are as random ones."""
    read: list[bytes] = []
    job = make_job(150, 1, 1, settings_of(encryption, trees=6))
    for _ in range(2):
        seen = Seen()
        federated(job, seen)
        read.append(b"".join(fields["data"] for fields in seen.fields("notary", "MaskedSums")))
    first, second = (np.frombuffer(data, np.uint8) for data in read)
    assert len(first) == len(second) > 2000
    same = float((first == second).mean())
    if encryption == "paillier":
        counts = np.bincount(first, minlength=256)
        expected = len(first) / 256
        chi = float(((counts - expected) ** 2 / expected).sum())
        assert chi < 255 + 5 * np.sqrt(2 * 255)
        assert same < 0.05
    else:  # sums of few bits: the upper bytes of a number repeat its sign
        low = first.reshape(-1, 8)[:, 0]
        counts = np.bincount(low, minlength=256)
        expected = len(low) / 256
        chi = float(((counts - expected) ** 2 / expected).sum())
        assert chi < 255 + 5 * np.sqrt(2 * 255)
        assert float((low == second.reshape(-1, 8)[:, 0]).mean()) < 0.05


def test_masks_are_the_same_at_both_ends_and_other_ones_each_time() -> None:
    one, other = MaskStream(b"s" * 32), MaskStream(b"s" * 32)
    bound = 10**40
    first = one.below(bound, 50)
    assert first == other.below(bound, 50) and max(first) < bound and len(set(first)) == 50
    assert one.below(bound, 50) != first
    other.below(bound, 50)
    assert np.array_equal(one.words((3, 4)), other.words((3, 4)))
    assert MaskStream(b"t" * 32).below(bound, 50) != first


# --- Settings. -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sums": "hidden"}, "go together"),
        ({"coordinator": "notary"}, "go together"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        BoostParams.model_validate(settings)
