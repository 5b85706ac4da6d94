"""Scoring and lookups played once more from their secrets, however fast anybody is: to the last byte."""

import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from played import GUEST, GuestRole, HostRole, Played
from test_directory import KEY
from test_glm_scoring import FEATURES, MISSING, PARTS, SIZES, THEIRS
from test_lookup_attacks import PUBLIC, Served

from vfl.crypto import voprf
from vfl.crypto.randomness import Randomness
from vfl.errors import RateIsFull
from vfl.jobs import sealed_scores
from vfl.jobs.sealed_scores import SealedBatch
from vfl.learn.across import CrossedLevels
from vfl.learn.design import Design, Rules
from vfl.net.peer import Peer, together
from vfl.protocols.common import chosen_words, transfers
from vfl.protocols.common.batches import AskingCourse, ScoringCourse, all_scores
from vfl.protocols.linear import scoring
from vfl.protocols.linear.scoring import (
    GuestGlm,
    HostGlm,
    LinearPart,
    guest_glm_score,
    host_glm_score,
)
from vfl.protocols.lookup.directory import inputs_of
from vfl.protocols.lookup.lookup import LookupSession, host_lookups

IDS = [b"id%d" % number for number in range(40)]


def crossed() -> tuple[GuestRole, HostRole]:
    """A batch of a column, `zone`, of which the host's `brand` has cells."""
    levels = np.array(["p", "q", "r"], object)
    zones = levels[np.arange(SIZES[1]) % 3]
    zone = Design.fit({"zone": levels}, Rules(min_level_rows=1))
    (factor,) = zone.factors
    brand = next(one for one in PARTS[1].design.factors if one.name == "brand")
    told = tuple((a, b) for a in (1, 2) for b in brand.others[:2])
    named = (factor.base, *factor.others)
    cells = CrossedLevels(0, "guest:zone", "brand", named, told, (9,) * 4, (0.3, -0.5, 0.9, 0.1))
    part = LinearPart(zone, (0.0,) * len(zone.coefficients))
    pairs = (("zone", "host0:brand"),)
    model = GuestGlm((GUEST, "host0"), 0.0, part, 3, True, 0.1, 0.2, 1e-9, across=pairs)

    async def guest(peers: Sequence[Peer], randomness: Randomness) -> Any:
        own, rows = np.zeros(len(zones)), [np.arange(len(zones))]
        course = AskingCourse(randomness=randomness)
        found = await all_scores(guest_glm_score(peers, model, {"zone": zones}, own, rows, course))
        return found.tolist()

    async def host(_: str, peer: Peer, randomness: Randomness) -> Any:
        half, course = HostGlm(PARTS[1], True, across=(cells,)), ScoringCourse(randomness=randomness)
        return await host_glm_score(peer, half, FEATURES[1], THEIRS[0], MISSING[0], course)

    return guest, host


def test_pairs_of_levels_of_two_parties(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "ROWS", 12)
    for module in (chosen_words, transfers):
        monkeypatch.setattr(module, "BLOCK", 8)
    run, other = (Played(["host0"], *crossed(), first_seed=seed) for seed in (1, 11))
    assert len(run.sent["host0", "CoveredScores"]) > 1
    assert run.found[GUEST] == other.found[GUEST]
    assert run.same_as(other) == {"ScoreStart", "MissingScore", "AcrossScoring", "ScoreRows", "ScoreEnd"}
    monkeypatch.setattr(chosen_words, "_AT_ONCE", 7)
    for name in (GUEST, "host0"):
        assert run.again(name) == run.found[name]


class _Limited(Served):
    """A host that every now and then allows no more in this minute."""

    def __init__(self) -> None:
        super().__init__()
        self._asked = 0

    async def admit(self, points: int) -> None:
        self._asked += 1
        if self._asked in (2, 3, 7):
            raise RateIsFull("its rule", 1.0)


def looked_up() -> tuple[GuestRole, HostRole]:
    """A batch of ids that is looked up at each host, a few messages at a time."""
    reader: Any = SimpleNamespace(most_at_once=6, header=SimpleNamespace(key=PUBLIC))
    show: Any = SimpleNamespace(say=lambda text: None)
    nothing: Any = None

    async def guest(peers: Sequence[Peer], randomness: Randomness) -> Any:
        rest = (nothing, nothing, nothing, False, show, lambda host, rows, of: None)
        batch = SealedBatch(nothing, *rest, randomness)

        async def one(host: Peer) -> Any:
            async with LookupSession(host, randomness.at("blinds", host.name)).open() as session:
                return (await batch._look_up(session, reader, inputs_of(0, IDS))).tolist()

        return await together([one(host) for host in peers])

    async def host(_: str, peer: Peer, randomness: Randomness) -> Any:
        return await host_lookups(peer, _Limited(), randomness.at("proofs"))  # type: ignore[arg-type]

    return guest, host


def test_lookups_whose_order_is_not_that_of_who_is_done_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """With answers of which some are to wait for the next minute."""
    finalize, slow = voprf.finalize, [0.03, 0.0, 0.02]

    def at_its_pace(*given: Any) -> Any:
        time.sleep(slow[0])
        slow.append(slow.pop(0))
        return finalize(*given)

    async def at_once(seconds: float) -> None:
        return

    monkeypatch.setattr(sealed_scores, "_wait_out", at_once)
    monkeypatch.setattr(voprf, "finalize", at_its_pace)
    hosts = ["registry", "bureau"]
    run, other = (Played(hosts, *looked_up(), first_seed=seed) for seed in (1, 11))
    assert run.found[GUEST] == 2 * [voprf.outputs(KEY, inputs_of(0, IDS)).tolist()]
    assert len(run.sent[GUEST, "LookUp"]) == 2 * (7 + 3)
    assert run.same_as(other) == {"NotLookedUp", "LookupEnd"}
    points = {sent for (_, kind), some in run.sent.items() for sent in some if kind == "LookUp"}
    assert len(points) == 2 * (7 + 3)  # nothing is blinded alike, what is asked for again neither
    slow[:] = [0.0, 0.02]
    for name in (GUEST, *hosts):
        assert run.again(name) == run.found[name]
