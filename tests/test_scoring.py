"""Scoring over memory against training, parts, missing directions, chunks, hostile peers."""

import asyncio
from contextlib import aclosing

import numpy as np
import pytest
import walk
from apart import Apart
from memory import over_memory

from vfl.blocks.engine import ENGINE, Embedded
from vfl.errors import DataError, ModelError, PeerError, PeerLost, Refused
from vfl.learn.binning import bin_columns
from vfl.learn.forest import Forest, Sides, missing_left
from vfl.learn.params import BoostParams
from vfl.learn.splits import Split
from vfl.learn.tree import Branch, Tree
from vfl.net.peer import MemoryPeer, together
from vfl.protocols.common.batches import (
    ScoreEnd,
    ScoreRows,
    ScoreStart,
    ScoringCourse,
    all_scores,
    missing_values,
)
from vfl.protocols.common.rows import Training
from vfl.protocols.trees import scoring
from vfl.protocols.trees.model import GuestModel, HostModel
from vfl.protocols.trees.scoring import Directions, MissingDirections, guest_score, host_score
from vfl.protocols.trees.training import guest_train

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
        trees.append(Tree(branches, tree.leaves, tree.covers))
    assert all(kept)
    model = GuestModel(whole.parties, whole.start, tuple(trees), tuple(kept[0]))
    return model, [HostModel(tuple(splits)) for splits in kept[1:]], scores


MODEL, HALVES, SCORES = trained()
ALL = np.arange(ROWS)
HOSTS = ("party1", "party2")


def score(places, known=None, rows: int = ROWS, progress=lambda done, of: None):
    """(scores, rows that each host served); `known` are the rows of each alignment, in its order."""
    known = known or [ALL, ALL]

    def host(name, peer):
        p = HOSTS.index(name) + 1
        features = {column: values[known[p - 1]] for column, values in columns(p).items()}
        return host_score(peer, HALVES[p - 1], features, len(known[p - 1]))

    scores, *served = over_memory(
        HOSTS,
        lambda peers: all_scores(guest_score(peers, MODEL, columns(0), places, rows, progress)),
        host,
        guest="party0",
    )
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


@pytest.mark.parametrize("engine", [Embedded(), Apart(5)])
@pytest.mark.parametrize("size", [1, 7, 149, 150, 151])
def test_chunks_of_any_size_change_nothing(monkeypatch, size, engine):
    """Also where trees are walked elsewhere, several chunks at a time."""
    monkeypatch.setattr(scoring, "ROWS", size)
    monkeypatch.setattr(ENGINE, "chosen", engine)
    seen = []
    scores, served = score([ALL, ALL], progress=lambda done, of: seen.append((done, of)))
    assert np.array_equal(scores, SCORES)
    assert served == [ROWS, ROWS]
    assert seen == [(min(i, ROWS), ROWS) for i in range(size, ROWS + size, size)]


@pytest.mark.parametrize("size", [1, 60])
def test_chunks_are_cut_for_hosts_with_many_splits(monkeypatch, size):
    monkeypatch.setattr(scoring, "_BYTES", size)
    seen = []
    scores, _ = score([ALL, ALL], progress=lambda done, of: seen.append(done))
    assert np.array_equal(scores, SCORES)
    assert seen[0] == 8 * max(1, size // max(len(set(half.splits)) for half in HALVES))


def test_trees_of_any_shape_are_walked_as_they_are():
    rng = np.random.default_rng(3)
    trees, splits = [], 0
    for _ in range(20):
        branches, leaves, nodes = {}, {}, [0]
        for node in nodes:
            if node < 1023 and (node == 0 or rng.random() < 0.75):
                branches[node] = Branch(0, splits, "x", 1.0)
                splits += 1
                nodes += [2 * node + 1, 2 * node + 2]
            else:
                leaves[node] = float(rng.normal())
        trees.append(Tree(branches, leaves))
    trees.append(Tree({}, {0: 0.3}))
    assert max(max(tree.branches, default=0) for tree in trees) > 300
    left = rng.random((splits, 77)) < 0.6
    expected = np.full(77, 0.1)
    for tree in trees:
        expected += walk.scores(tree, 77, lambda branch: left[branch.record])
    forest = Forest(trees, 0.1, lambda branch: branch.record)
    assert np.array_equal(forest.scores(np.packbits(left, axis=1), 77), expected)


def test_splits_send_rows_as_they_did_in_training():
    splits = [split for half in (MODEL, *HALVES) for split in half.splits]
    splits += [Split("number0", None, None, False, left) for left in (True, False)]
    splits += [Split("category0", None, name, True, False) for name in ("a", "none of these", None)]
    features = columns(0) | columns(1) | columns(2)
    planes = Sides(splits, features).left(slice(3, ROWS), ROWS - 3)
    part = {name: values[3:] for name, values in features.items()}
    said = np.unpackbits(planes, axis=1, count=ROWS - 3)
    assert np.array_equal(said, [split.goes_left(part) for split in splits])
    absent = missing_values(features)
    assert missing_left(splits).tolist() == [split.goes_left(absent)[0] for split in splits]


@pytest.mark.parametrize(
    ("column", "now", "then"),
    [("number0", "categorical", "numeric"), ("category0", "numeric", "categorical")],
)
def test_a_column_of_another_kind_than_in_training_is_an_error(column, now, then):
    splits = (Split("number0", 0.5, None, False, True), Split("category0", None, "a", True, False))
    tree = Tree({0: Branch(0, int(column == "category0"), column, 1.0)}, {1: 1.0, 2: 2.0})
    swapped = {"number0": columns(0)["category0"], "category0": columns(0)["number0"]}
    scores = guest_score([], GuestModel(("party0",), 0.0, (tree,), splits), swapped, [], ROWS)
    message = f"column '{column}' is {now} and was {then} in training: correct categorical in"
    with pytest.raises(DataError, match=message):
        asyncio.run(all_scores(scores))


def test_hosts_are_asked_about_used_splits_only_and_equal_ones_once():
    # The first host's splits twice each, and one that no tree uses in between.
    unused = Split("number1", 123.0, None, False, True)
    splits = [split for split in HALVES[0].splits for _ in range(2)]
    half = HostModel((unused, *splits))
    trees, turn = [], 0
    for tree in MODEL.trees:
        branches = dict(tree.branches)
        for node, branch in branches.items():
            if branch.party == 1:
                turn = 1 - turn
                branches[node] = Branch(1, 1 + 2 * branch.record + turn, branch.column, 1.0)
        trees.append(Tree(branches, tree.leaves))
    model = GuestModel(MODEL.parties, MODEL.start, tuple(trees), MODEL.splits)

    async def guest(peers):
        scores = await all_scores(guest_score(peers, model, columns(0), [ALL, ALL], ROWS))
        return scores, peers[0].traffic.received["Directions"]

    def host(name, peer):
        p = HOSTS.index(name)
        return host_score(peer, (half, HALVES[1])[p], columns(p + 1), ROWS)

    (scores, size), *_ = over_memory(HOSTS, guest, host, guest="party0")
    assert np.array_equal(scores, SCORES)
    bits = len(set(HALVES[0].splits)) * -(-ROWS // 8)
    assert bits <= size < bits + 64


def test_the_next_chunk_is_asked_for_before_a_part_is_handed_out(monkeypatch):
    monkeypatch.setattr(scoring, "ROWS", 64)

    async def run():
        pairs = [MemoryPeer.pair("party0", f"party{p}") for p in (1, 2)]
        hosts = [
            asyncio.create_task(host_score(theirs, half, columns(p), ROWS))
            for p, (_, theirs), half in zip((1, 2), pairs, HALVES, strict=True)
        ]
        peers = [ours for ours, _ in pairs]
        asked, parts = [], []
        async for part in guest_score(peers, MODEL, columns(0), [ALL, ALL], ROWS):
            asked.append(peers[0].traffic.sent_messages["ScoreRows"])
            parts.append(part)
        await asyncio.gather(*hosts)
        return asked, parts

    asked, parts = asyncio.run(run())
    assert asked == [2, 3, 3]
    assert [part.rows for part in parts] == [slice(0, 64), slice(64, 128), slice(128, 150)]
    assert all(np.array_equal(part.scores, SCORES[part.rows]) for part in parts)
    assert all((part.contributions, part.base) == (None, 0.0) for part in parts)


def test_a_batch_can_be_left_and_its_rest_scored_later(monkeypatch):
    monkeypatch.setattr(scoring, "ROWS", 64)

    async def scored(first: int, stop: int | None) -> list[np.ndarray]:
        """From a row on, until so many parts are there."""
        pairs = [MemoryPeer.pair("party0", f"party{p}") for p in (1, 2)]
        hosts = [
            asyncio.create_task(host_score(theirs, half, columns(p), ROWS))
            for p, (_, theirs), half in zip((1, 2), pairs, HALVES, strict=True)
        ]
        own = {name: values[first:] for name, values in columns(0).items()}
        rest = [ALL[first:]] * 2
        found = []
        batch = guest_score([ours for ours, _ in pairs], MODEL, own, rest, ROWS - first)
        async with aclosing(batch) as parts:
            async for part in parts:
                found.append(part.scores)
                if len(found) == stop:
                    break
        for host, (ours, _) in zip(hosts, pairs, strict=True):
            await ours.close()
            ended = await asyncio.gather(host, return_exceptions=True)
            assert isinstance(ended[0], int if stop is None else PeerLost)
        return found

    (first,), rest = asyncio.run(scored(0, 1)), asyncio.run(scored(64, None))
    assert np.array_equal(np.concatenate([first, *rest]), SCORES)


def test_rows_are_counted_before_any_is_answered():
    """As they are asked for, also those that are no rows; and a host may let in no more."""
    answered: list[tuple[int, int]] = []  # rows asked for, answers sent before
    done: list[int] = []

    async def run(most: int) -> None:
        ours, theirs = MemoryPeer.pair("party0", "party1")

        def admit(rows: int) -> None:
            answered.append((rows, theirs.traffic.sent_messages["Directions"]))
            if sum(count for count, _ in answered) > most:
                raise Refused("too many rows today")

        course = ScoringCourse(lambda rows, of: done.append(rows), admit)
        host = host_score(theirs, HALVES[0], columns(1), ROWS, course)
        await ours.send(ScoreStart(np.arange(len(HALVES[0].splits), dtype="<u4").tobytes()))
        for first in range(0, 96, 32):
            await ours.send(ScoreRows(np.arange(first, first + 32, dtype="<u4").tobytes()))
        await ours.send(ScoreRows(np.full(3, ROWS, "<u4").tobytes()))
        await host

    with pytest.raises(Refused, match="too many rows today"):
        asyncio.run(run(70))
    assert answered == [(32, 0), (32, 1), (32, 2)] and done == [32, 64]
    answered.clear()
    with pytest.raises(PeerError, match="not in the alignment"):
        asyncio.run(run(1000))
    assert answered[-1] == (3, 3)


def test_an_explanation_needs_a_model_with_covers():
    model = GuestModel(("party0",), 0.5, (Tree({}, {0: 1.0}),), ())
    with pytest.raises(ModelError, match="train it again"):
        asyncio.run(all_scores(guest_score([], model, columns(0), [], ROWS, explain=True)))


def test_no_rows_and_no_hosts():
    assert score([ALL[:0], ALL[:0]], rows=0)[0].shape == (0,)
    alone = GuestModel(("party0",), 0.5, (Tree({}, {0: 1.0}),), ())
    scores = asyncio.run(all_scores(guest_score([], alone, columns(0), [], ROWS)))
    assert scores.tolist() == [1.5] * ROWS


# Hostile hosts: what is sent instead of an honest answer, and the words of the error.

SPLITS = len(HALVES[0].splits)  # all of which the trees use
DISTINCT = len(set(HALVES[0].splits))
SAME = [k % DISTINCT for k in range(SPLITS)]


def missing(same=SAME, size: int | None = None) -> MissingDirections:
    bits = bytes(-(-DISTINCT // 8) if size is None else size)
    return MissingDirections(np.array(same, "<u4").tobytes(), bits)


def directions(size: int) -> Directions:
    return Directions(bytes(size))


@pytest.mark.parametrize(
    ("answers", "named"),
    [
        ([missing(SAME[:-1])], "MissingDirections about another number of splits"),
        ([missing([*SAME, 0])], "MissingDirections about another number of splits"),
        ([missing([k + 1 for k in SAME])], "MissingDirections about splits that were not asked for"),
        ([missing([2**32 - 1] * SPLITS)], "MissingDirections about splits that were not asked for"),
        ([missing(size=0)], "MissingDirections with a wrong number of bits"),
        ([missing(size=99)], "MissingDirections with a wrong number of bits"),
        ([missing(), directions(DISTINCT * 19 - 1)], "Directions with a wrong number of bits"),
        ([missing(), directions(DISTINCT * 19 + 1)], "Directions with a wrong number of bits"),
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
                all_scores(guest_score([ours, honest], MODEL, columns(0), [ALL, ALL], ROWS)),
                hostile(),
                host_score(other, HALVES[1], columns(2), ROWS),
            ]
        )

    with pytest.raises(PeerError, match=f"party1 broke the protocol: it sent .*{named}") as caught:
        asyncio.run(run())
    assert "party1" not in caught.value.for_peer


def start(*splits: int) -> ScoreStart:
    return ScoreStart(np.array(splits, "<u4").tobytes())


def places(*rows: int) -> ScoreRows:
    return ScoreRows(np.array(rows, "<u4").tobytes())


@pytest.mark.parametrize(
    ("requests", "named"),
    [
        ([ScoreEnd()], "ScoreEnd where ScoreStart"),
        ([ScoreStart(b"abc")], "ScoreStart cut short"),
        ([start(0, SPLITS)], "ScoreStart with splits that are not in the model"),
        ([start(1, 1)], "ScoreStart with splits that are not in the model"),
        ([start(1, 0)], "ScoreStart with splits that are not in the model"),
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
    monkeypatch.setattr(scoring, "_BYTES", 1)

    async def run():
        ours, theirs = MemoryPeer.pair("party0", "party1")
        await ours.send(start(*range(SPLITS)))
        await ours.send(places(*range(20)))
        await host_score(theirs, HALVES[0], columns(1), ROWS)

    with pytest.raises(PeerError, match=r"party0 .* sent ScoreRows of too many rows at once"):
        asyncio.run(run())


def test_a_host_serves_a_row_twice_and_an_empty_request():
    async def run():
        ours, theirs = MemoryPeer.pair("party0", "party1")

        async def guest():
            await ours.send(start(*range(SPLITS)))
            same = np.frombuffer((await ours.recv(MissingDirections)).same, "<u4")
            answers = []
            for request in (places(3, 3), places()):
                await ours.send(request)
                answers.append((await ours.recv(Directions)).left)
            await ours.send(ScoreEnd())
            return same, answers

        return await together([guest(), host_score(theirs, HALVES[0], columns(1), ROWS)])

    (same, (twice, empty)), served = asyncio.run(run())
    left = [split.goes_left(columns(1))[3] for split in HALVES[0].splits]
    assert np.array_equal(np.frombuffer(twice, np.uint8)[same], np.where(left, 0b11000000, 0))
    assert (empty, served) == (b"", 2)
