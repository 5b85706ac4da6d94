"""Hosts that have kept a share of trees, played once more: all is compared but sums of the others."""

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from itertools import chain
from typing import Any, cast

import msgspec
import pytest
import test_replay_trees as trees
from apart import Apart
from replays import Tape

from vfl.blocks.engine import ENGINE
from vfl.jobs.tape_share import SENT, KeptSteps, StepsOnTape, Walk, places_left_out, stand_in
from vfl.net.replay import MessageDiffers, ReplayedPeer
from vfl.protocols.common.clock import SecondsSaid
from vfl.protocols.common.participant import LooksAt

quick = trees.quick  # a fixture

GOSS = {"subsample": 1.0, "goss_top": 0.3, "goss_other": 0.3}
SUMS = {"CandidateSums", "MaskedCandidates", "VectorSums"}


def peer_of(tape: Tape, kept: LooksAt) -> ReplayedPeer:
    """A guest of whose messages a host has kept these trees."""
    kinds = [str(msgspec.msgpack.decode(payload)[0]) for payload in tape.received]
    missing, _ = places_left_out(kept, kinds)
    received = [
        stand_in(kind) if place in missing else payload
        for place, (kind, payload) in enumerate(zip(kinds, tape.received, strict=True))
    ]
    return ReplayedPeer(tape.name, received, tape.sent, left_out=SENT)


def not_compared(tape: Tape, peer: ReplayedPeer) -> list[int]:
    """Of how many sums the host had sent by then each was that was not compared: their places among
    those."""
    peer.check_end()
    assert peer.compared == len(tape.sent) and peer.played == len(tape.received)
    sums = [place for place, one in enumerate(tape.sent) if one.kind in SUMS]
    assert peer.left_out <= set(sums)
    return [number for number, place in enumerate(sums) if place in peer.left_out]


def of_trees(played: trees.Run, name: str, kept: LooksAt, workers: int = 1) -> list[int]:
    """Play a host of trees once more."""
    guest, *others = played.tapes[name]
    said = SecondsSaid(played.said[name].said)
    resources = replace(played.resources(name, workers), say=said, looks_at=kept)
    peers = [peer_of(guest, kept), *(ReplayedPeer(one.name, one.received, one.sent) for one in others)]
    asyncio.run(cast(Coroutine[Any, Any, Any], played.roles[name](peers, resources)))
    for peer in peers[1:]:
        peer.check_end()
    return not_compared(guest, peers[0])


@trees.EVERY
def test_hosts_of_trees_play_on_after_trees_that_were_not_kept(
    encryption: str, with_coordinator: bool
) -> None:
    """Whichever trees were kept: all messages of those are compared, and short ones of the others."""
    job = trees.job_of(encryption, with_coordinator, trees=3, depth=2)
    played = trees.run(trees.roles_of(job, with_coordinator), "one")
    for name in ("party1", "party2"):
        every = of_trees(played, name, lambda tree: False)
        of_each = [
            of_trees(played, name, lambda tree, kept=kept: tree != kept, workers=1 + 2 * kept)
            for kept in range(3)
        ]
        assert all(of_each) and sorted(chain(*of_each)) == every == [*range(every[0], every[-1] + 1)]
        with ENGINE.instead(Apart(67)):  # as on a cluster
            assert of_trees(played, name, lambda tree: tree != 1) == of_each[1]
        assert of_trees(played, name, lambda tree: True) == []


@pytest.mark.parametrize("encryption", ["paillier", "lattice"])
def test_other_ways_to_grow(encryption: str) -> None:
    """Best-first, of several classes, by rows with large gradients; some trees of the guest alone."""
    for settings in (
        {
            "objective": "multiclass",
            "max_leaves": 4,
            "subsample": 1.0,
            "goss_top": 0.3,
            "goss_other": 0.3,
        },
        {"objective": "poisson", "colsample": 0.5, "guest_trees": 1, "trees": 3},
    ):
        played = trees.run(trees.roles_of(trees.job_of(encryption, False, **settings), False), "one")
        assert of_trees(played, "party1", lambda tree: tree == 1)


def test_sums_of_a_tree_that_was_kept_are_looked_at() -> None:
    played = trees.run(trees.roles_of(trees.job_of("paillier", False), False), "one")
    tape = played.tapes["party1"][0]
    places = [place for place, one in enumerate(tape.sent) if one.kind == "CandidateSums"]
    tape.sent[places[-1]] = replace(tape.sent[places[-1]], digest=bytes(32))
    assert of_trees(played, "party1", lambda tree: tree == 0)
    with pytest.raises(MessageDiffers, match="CandidateSums"):
        of_trees(played, "party1", lambda tree: tree == 1)


def test_a_secret_chooses_its_share() -> None:
    drawn = [StepsOnTape(bytes([k]) * 32, 0.1).of(100).kept for k in range(100)]
    assert 850 < sum(map(len, drawn)) < 1150  # 1,000 +- 30
    assert len({tuple(one) for one in drawn}) > 95
    again = StepsOnTape(b"\1" * 32, 0.1)
    assert [k for k in reversed(range(100)) if again.keeps(k)][::-1] == drawn[1]
    assert set(drawn[1]) <= set(StepsOnTape(b"\1" * 32, 0.2).of(100).kept)


def test_what_belongs_to_no_tree_is_kept() -> None:
    """Vectors before the first tree, and those of another kind of model."""
    walk = Walk(lambda tree: tree == 1)
    kinds = ["Vectors", "NextTree", "Vectors", "TreeEnd", "NextTree", "Vectors", "TreeEnd", "Vectors"]
    assert [walk.leaves_out(kind) for kind in kinds] == [place == 2 for place in range(8)]
    assert walk.steps == 2
    assert str(KeptSteps(0.1, 12, [3, 10])) == "2 of 12 trees (4, 11)"
