"""Scores from packed parts of hosts: those of a batch, bit for bit, whatever rows are beside a row."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory import over_memory
from test_glm_scoring import FEATURES as LINEAR_COLUMNS
from test_glm_scoring import MISSING, OWN, PARTS, THEIRS
from test_glm_scoring import MODEL as LINEAR
from test_glm_scoring import score as score_linear
from test_scoring import ALL, HALVES, MODEL, columns

from vfl.errors import DataError, ModelError, PeerError
from vfl.models.kind import OwnScores
from vfl.models.kinds import kind_of_model, score_from_parts
from vfl.models.linear import Linear
from vfl.models.parts import OwnColumns
from vfl.models.trees import Trees
from vfl.protocols.linear.scoring import HostGlm
from vfl.protocols.lookup.layout import PartLayout
from vfl.protocols.trees.model import HostModel
from vfl.protocols.trees.scoring import guest_score, host_score

NONE = OwnScores(np.empty(0))
PACKERS = {
    name: Trees.packer(half, columns(party), NONE, False)
    for party, (name, half) in enumerate(zip(MODEL.parties[1:], HALVES, strict=True), start=1)
}


def parts_of(packer, places):
    """The parts of rows by their places in a host's table, packed piece by piece."""
    rows = max(places.max(initial=0) + 1, 1)
    cuts = [0, rows // 3, rows]
    whole = np.concatenate([packer.pack(slice(a, b)) for a, b in pairwise(cuts)])
    return packer.layout, [None if at < 0 else whole[at].tobytes() for at in places.tolist()]


def batch(places, explain):
    """What a batch makes of rows at these places of each host's table."""

    async def guest(peers):
        own = {name: values[: len(places[0])] for name, values in columns(0).items()}
        found = guest_score(peers, MODEL, own, places, len(places[0]), explain=explain)
        return [part async for part in found]

    def host(name, peer):
        party = MODEL.parties.index(name)
        return host_score(peer, HALVES[party - 1], columns(party), len(ALL))

    parts, *_ = over_memory(MODEL.parties[1:], guest, host, guest="party0")
    return parts


@pytest.mark.parametrize("rows", [1, 7, 150])
@pytest.mark.parametrize("explain", [False, True])
def test_trees_score_rows_as_a_batch_does(rows, explain):
    rng = np.random.default_rng(rows)
    places = [np.where(rng.random(rows) < 0.3, -1, rng.integers(0, len(ALL), rows)) for _ in range(2)]
    (whole,) = batch(places, explain)
    by_host = {
        name: parts_of(packer, at) for (name, packer), at in zip(PACKERS.items(), places, strict=True)
    }
    own = OwnColumns("quotes", {n: v[:rows] for n, v in columns(0).items()}, rows)
    scored = score_from_parts(MODEL, own, by_host, explain=explain)
    assert scored.scores.tobytes() == whole.scores.tobytes()
    assert (scored.contributions is None) == (not explain)
    if explain:
        assert {n: v.tobytes() for n, v in scored.contributions.items()} == {
            n: v.tobytes() for n, v in whole.contributions.items()
        }
        assert scored.base == whole.base
    # The same row by row, by a scorer that is made once.
    scorer = Trees.scorer(MODEL, {name: layout for name, (layout, _) in by_host.items()}, explain)
    for row in range(min(rows, 10)):
        one = OwnColumns("quotes", {n: v[row : row + 1] for n, v in own.features.items()}, 1)
        alone = scorer.score(one, {name: [parts[row]] for name, (_, parts) in by_host.items()})
        assert alone.scores.tobytes() == whole.scores[row : row + 1].tobytes()


def linear_packers(shown):
    """Packers of the linear hosts' parts; of those that show their columns with a number for each."""
    packers = {}
    for k, name in enumerate(LINEAR.parties[1:]):
        own = OwnScores(THEIRS[k], MISSING[k])
        half = HostGlm(PARTS[k + 1], True)
        packers[name] = Linear.packer(half, LINEAR_COLUMNS[k + 1], own, shown[k])
    return packers


@pytest.mark.parametrize("explain", [False, True])
@pytest.mark.parametrize("shown", [(False, False), (True, False)])
def test_linear_models_score_rows_as_a_batch_does(explain, shown):
    rows = len(OWN)
    rng = np.random.default_rng(4)
    places = [np.where(rng.random(rows) < 0.2, -1, rng.integers(0, len(t), rows)) for t in THEIRS]
    (whole,), _, _ = score_linear(rows, places, explain, shown)
    by_host = {
        name: parts_of(packer, at)
        for (name, packer), at in zip(linear_packers(shown).items(), places, strict=True)
    }
    own = OwnColumns("quotes", LINEAR_COLUMNS[0], rows)
    scored = score_from_parts(LINEAR, own, by_host, explain=explain)
    assert scored.scores.tobytes() == whole.scores.tobytes()
    if explain:
        assert {n: v.tobytes() for n, v in scored.contributions.items()} == {
            n: v.tobytes() for n, v in whole.contributions.items()
        }
    assert scored.base == whole.base


@given(st.integers(0, 2**32), st.integers(1, 20))
@settings(max_examples=20)
def test_parts_of_equal_splits_are_told_once(seed, count):
    rng = np.random.default_rng(seed)
    splits = tuple(HALVES[0].splits[i] for i in rng.integers(0, len(HALVES[0].splits), count))
    packer = Trees.packer(HostModel(splits), columns(1), NONE, False)
    bits = len(set(splits))
    assert packer.layout.size == -(-bits // 8)
    found = np.unpackbits(packer.pack(slice(3, 40)), axis=1)
    for split, bit in zip(splits, packer.layout.same, strict=True):
        assert np.array_equal(found[:, bit] == 1, split.goes_left(columns(1))[3:40])


def test_parts_that_are_none_are_refused_by_the_hosts_name():
    own = OwnColumns("quotes", {n: v[:2] for n, v in columns(0).items()}, 2)
    good = {name: parts_of(packer, ALL[:2]) for name, packer in PACKERS.items()}
    layout, parts = good["party1"]
    cut = dataclasses.replace(layout, same=layout.same[:-1])
    gap = dataclasses.replace(layout, same=tuple(bit + 1 for bit in layout.same))
    for lie in ((layout, [parts[0], parts[1][:-1]]), (cut, parts), (gap, parts)):
        with pytest.raises(PeerError, match=r"^party1 broke the protocol: its directory holds parts"):
            score_from_parts(MODEL, own, good | {"party1": lie})
    own = OwnColumns("quotes", {n: v[:2] for n, v in LINEAR_COLUMNS[0].items()}, 2)
    linear = {name: parts_of(p, ALL[:2]) for name, p in linear_packers((True, False)).items()}
    layout, parts = linear["host0"]
    no_number = np.array([np.nan, 0, 0, 0], "<f8").tobytes()
    no_sum = np.array([9.0, 0, 0, 0], "<f8").tobytes()
    for lie in ((layout, [parts[0], no_number]), (layout, [no_sum, None]), (PartLayout(b"1234567"), [])):
        with pytest.raises(PeerError, match=r"^host0 broke the protocol: its directory holds parts"):
            score_from_parts(LINEAR, own, linear | {"host0": lie})


def test_own_columns_that_changed_and_models_without_covers_are_refused():
    good = {name: parts_of(packer, ALL[:1]) for name, packer in PACKERS.items()}
    changed = {n: np.array(["a"], object) for n in columns(0)}
    with pytest.raises(DataError, match="is categorical and was numeric"):
        score_from_parts(MODEL, OwnColumns("quotes", changed, 1), good)
    bare = dataclasses.replace(
        MODEL, trees=tuple(dataclasses.replace(tree, covers={}) for tree in MODEL.trees)
    )
    layouts = {name: layout for name, (layout, _) in good.items()}
    with pytest.raises(ModelError, match="train it again"):
        kind_of_model(bare).scorer(bare, layouts, True)
