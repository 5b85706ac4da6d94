"""Scoring over memory against training, missing directions, chunks, hostile peers."""

import asyncio

import numpy as np
import pytest

from vfl.errors import PeerError
from vfl.learn.binning import bin_columns
from vfl.learn.params import BoostParams
from vfl.learn.splits import Split
from vfl.learn.tree import Branch, Tree
from vfl.net.peer import MemoryPeer, together
from vfl.protocols import scoring
from vfl.protocols.bits import pack_bits
from vfl.protocols.boost import GuestModel, HostModel, Training, guest_train
from vfl.protocols.scoring import (
    Directions,
    MissingDirections,
    ScoreEnd,
    ScoreRows,
    ScoreStart,
    guest_score,
    host_score,
)

ROWS = 150


def columns(party: int, rows: int = ROWS) -> dict[str, np.ndarray]:
    """A number and a category, with missing values."""
    rng = np.random.default_rng(party)
    number = rng.normal(size=rows)
    number[rng.random(rows) < 0.1] = np.nan
    category = rng.choice(np.array(["a", "b", "c", None], object), rows)
    return {f"number{party}": number, f"category{party}": category}


def trained() -> tuple[GuestModel, list[HostModel], np.ndarray]:
    """The halves of a model of three parties and the training scores."""
    # The oracle trains the model; its splits are then dealt out to those who hold the columns.
    params = BoostParams(trees=4, depth=3, max_bins=8, min_child_rows=5, min_child_weight=0.0)
    blocks = {f"party{p}": bin_columns(columns(p), 8, 1) for p in range(3)}
    rng = np.random.default_rng(9)
    signal = sum(np.nan_to_num(columns(p)[f"number{p}"]) for p in range(3))
    label = (signal + rng.logistic(size=ROWS) > 0).astype(float)
    every = np.ones(ROWS, bool)
    rows = Training(label, np.ones(ROWS), every, ~every)
    whole, scores = asyncio.run(guest_train([], blocks, rows, params))
    kept: list[list[Split]] = [[], [], []]
    trees = []
    for tree in whole.trees:
        branches = {}
        for node, branch in tree.branches.items():
            own = kept[branch.party]
            branches[node] = Branch(branch.party, len(own), branch.column, branch.gain)
            own.append(whole.splits[branch.record])
        trees.append(Tree(branches, tree.leaves))
    assert all(kept)
    model = GuestModel(whole.parties, whole.start, tuple(trees), tuple(kept[0]))
    return model, [HostModel(tuple(splits)) for splits in kept[1:]], scores


MODEL, HALVES, SCORES = trained()
ALL = np.arange(ROWS)


def score(places, known=None, rows: int = ROWS, progress=lambda done, of: None):
    """(scores, rows that each host served); `known` are the rows of each alignment, in its order."""
    known = known or [ALL, ALL]

    async def run():
        pairs = [MemoryPeer.pair("party0", f"party{p}") for p in (1, 2)]
        guest = guest_score([ours for ours, _ in pairs], MODEL, columns(0), places, rows, progress)
        hosts = [
            host_score(
                theirs, half, {n: v[own] for n, v in columns(p).items()}, len(own), lambda done, of: None
            )
            for p, (_, theirs), half, own in zip((1, 2), pairs, HALVES, known, strict=True)
        ]
        return await together([guest, *hosts])

    scores, *served = asyncio.run(run())
    return scores, served


def with_missing(party: int, unknown: np.ndarray) -> dict[str, np.ndarray]:
    """A party's columns as if the values of some rows were missing."""
    found = {name: values.copy() for name, values in columns(party).items()}
    for values in found.values():
        values[unknown] = None if values.dtype == object else np.nan
    return found


def expected(unknown: list[np.ndarray]) -> np.ndarray:
    """Row by row, from the halves together; hosts' unknown rows as missing values."""
    features = [columns(0), with_missing(1, unknown[0]), with_missing(2, unknown[1])]
    splits = [MODEL.splits, *(half.splits for half in HALVES)]
    lefts = [[s.goes_left(f) for s in own] for own, f in zip(splits, features, strict=True)]
    scores = []
    for row in range(ROWS):
        total = MODEL.start
        for tree in MODEL.trees:
            node = 0
            while node in tree.branches:
                branch = tree.branches[node]
                node = 2 * node + (1 if lefts[branch.party][branch.record][row] else 2)
            total += tree.leaves[node]
        scores.append(total)
    return np.array(scores)


def test_scores_are_those_of_training_bit_for_bit():
    scores, served = score([ALL, ALL])
    assert np.array_equal(scores, SCORES)
    assert served == [ROWS, ROWS]


def test_each_alignment_has_its_own_order():
    orders = [np.random.default_rng(p).permutation(ROWS) for p in (1, 2)]
    scores, _ = score([np.argsort(order) for order in orders], orders)
    assert np.array_equal(scores, SCORES)


def test_rows_unknown_to_a_host_follow_its_missing_directions():
    rng = np.random.default_rng(4)
    unknown = [rng.random(ROWS) < 0.3, rng.random(ROWS) < 0.6]
    known = [np.flatnonzero(~mask) for mask in unknown]
    places = []
    for rows in known:
        place = np.full(ROWS, -1)
        place[rows] = np.arange(len(rows))
        places.append(place)
    scores, served = score(places, known)
    assert np.array_equal(scores, expected(unknown))
    assert not np.array_equal(scores, SCORES)
    assert served == [len(rows) for rows in known]


def test_a_host_that_knows_no_row_is_asked_for_none():
    none, nobody = np.full(ROWS, -1), ALL[:0]
    scores, served = score([none, ALL], [nobody, ALL])
    every = np.ones(ROWS, bool)
    assert np.array_equal(scores, expected([every, ~every]))
    assert served == [0, ROWS]


@pytest.mark.parametrize("size", [1, 7, 149, 150, 151])
def test_chunks_of_any_size_change_nothing(monkeypatch, size):
    monkeypatch.setattr(scoring, "ROWS", size)
    seen = []
    scores, served = score([ALL, ALL], progress=lambda done, of: seen.append((done, of)))
    assert np.array_equal(scores, SCORES)
    assert served == [ROWS, ROWS]
    assert seen == [(min(i, ROWS), ROWS) for i in range(size, ROWS + size, size)]


@pytest.mark.parametrize("bits", [1, 60])
def test_chunks_are_cut_for_hosts_with_many_splits(monkeypatch, bits):
    monkeypatch.setattr(scoring, "_BITS", bits)
    seen = []
    scores, _ = score([ALL, ALL], progress=lambda done, of: seen.append(done))
    assert np.array_equal(scores, SCORES)
    assert seen[0] == max(1, bits // max(len(half.splits) for half in HALVES))


def test_no_rows_and_no_hosts():
    assert score([ALL[:0], ALL[:0]], rows=0)[0].shape == (0,)
    alone = GuestModel(("party0",), 0.5, (Tree({}, {0: 1.0}),), ())
    assert asyncio.run(guest_score([], alone, columns(0), [], ROWS)).tolist() == [1.5] * ROWS


# Hostile hosts: what is sent instead of an honest answer, and the words of the error.

SPLITS = len(HALVES[0].splits)


def missing(splits: int = SPLITS, size: int | None = None) -> MissingDirections:
    return MissingDirections(splits, bytes(-(-splits // 8) if size is None else size))


def directions(bits: int) -> Directions:
    return Directions(pack_bits(np.zeros(bits, bool)))


@pytest.mark.parametrize(
    ("answers", "named"),
    [
        ([missing(SPLITS - 1)], "MissingDirections with fewer splits"),
        ([MissingDirections(-1, b"")], "MissingDirections with fewer splits"),
        ([MissingDirections(2**62, b"")], "MissingDirections with a wrong number of bits"),
        ([missing(size=0)], "MissingDirections with a wrong number of bits"),
        ([missing(size=99)], "MissingDirections with a wrong number of bits"),
        ([missing(), directions(SPLITS * ROWS - 8)], "Directions with a wrong number of bits"),
        ([missing(), directions(SPLITS * ROWS + 8)], "Directions with a wrong number of bits"),
        ([missing(), Directions(b"")], "Directions with a wrong number of bits"),
        ([missing(), missing()], "MissingDirections where Directions"),
        ([directions(8)], "Directions where MissingDirections"),
    ],
)
def test_a_hostile_host_is_named(answers, named):
    async def run():
        ours, theirs = MemoryPeer.pair("party0", "party1")
        honest, other = MemoryPeer.pair("party0", "party2")

        async def hostile():
            for answer in answers:
                await theirs.send(answer)

        await together(
            [
                guest_score([ours, honest], MODEL, columns(0), [ALL, ALL], ROWS),
                hostile(),
                host_score(other, HALVES[1], columns(2), ROWS),
            ]
        )

    with pytest.raises(PeerError, match=f"party1 broke the protocol: it sent .*{named}") as caught:
        asyncio.run(run())
    assert "party1" not in caught.value.for_peer


def places(*rows: int) -> ScoreRows:
    return ScoreRows(np.array(rows, "<u4").tobytes())


@pytest.mark.parametrize(
    ("requests", "named"),
    [
        ([ScoreEnd()], "ScoreEnd where ScoreStart"),
        ([ScoreStart(), ScoreStart()], "ScoreStart where ScoreRows or ScoreEnd"),
        ([ScoreStart(), places(0, ROWS)], "ScoreRows with rows that are not in the alignment"),
        ([ScoreStart(), places(2**32 - 1)], "ScoreRows with rows that are not in the alignment"),
        ([ScoreStart(), ScoreRows(b"\0\0\0")], "ScoreRows cut short"),
        ([ScoreStart(), ScoreRows(b"\0" * 5)], "ScoreRows cut short"),
        ([ScoreStart(), places(*[0] * 65_537)], "ScoreRows with rows that are not in the alignment"),
    ],
)
def test_a_hostile_guest_is_named(requests, named):
    async def run():
        ours, theirs = MemoryPeer.pair("party0", "party1")
        for request in requests:
            await ours.send(request)
        await host_score(theirs, HALVES[0], columns(1), ROWS)

    with pytest.raises(PeerError, match=f"party0 broke the protocol: it sent .*{named}"):
        asyncio.run(run())


def test_a_guest_that_asks_for_too_much_at_once_is_named(monkeypatch):
    monkeypatch.setattr(scoring, "_BITS", 10)

    async def run():
        ours, theirs = MemoryPeer.pair("party0", "party1")
        await ours.send(ScoreStart())
        await ours.send(places(*range(20)))
        await host_score(theirs, HALVES[0], columns(1), ROWS)

    with pytest.raises(PeerError, match=r"party0 .* sent ScoreRows of too many rows at once"):
        asyncio.run(run())


def test_a_host_serves_a_row_twice_and_an_empty_request():
    async def run():
        ours, theirs = MemoryPeer.pair("party0", "party1")

        async def guest():
            await ours.send(ScoreStart())
            await ours.recv(MissingDirections)
            answers = []
            for request in (places(3, 3), places()):
                await ours.send(request)
                answers.append((await ours.recv(Directions)).left)
            await ours.send(ScoreEnd())
            return answers

        return await together([guest(), host_score(theirs, HALVES[0], columns(1), ROWS)])

    (twice, empty), served = asyncio.run(run())
    left = [split.goes_left(columns(1))[3] for split in HALVES[0].splits]
    assert twice == pack_bits(np.repeat(left, 2))
    assert (empty, served) == (b"", 2)
