"""Scoring with a linear model over memory: parts, missing rows, chunks, hostile peers."""

import asyncio

import numpy as np
import pytest

from vfl.errors import PeerError
from vfl.net.peer import MemoryPeer, together
from vfl.protocols import glm_scoring
from vfl.protocols.glm_scoring import (
    MissingScore,
    PartialScores,
    guest_glm_score,
    host_glm_score,
)
from vfl.protocols.scoring import ScoreEnd, ScoreRows, ScoreStart

ROWS = 50
RNG = np.random.default_rng(1)
OWN = RNG.normal(size=ROWS)
THEIRS = [RNG.normal(size=30), RNG.normal(size=40)]
MISSING = [0.25, -0.5]
PLACES = [np.where(RNG.random(ROWS) < 0.2, -1, RNG.integers(0, len(t), ROWS)) for t in THEIRS]


def score(own=OWN, places=PLACES):
    """(scores, rows that each host served)."""

    async def run():
        pairs = [MemoryPeer.pair("guest", f"host{k}") for k in range(2)]
        guest = guest_glm_score([ours for ours, _ in pairs], own, places)
        hosts = [
            host_glm_score(theirs, missing, scores)
            for (_, theirs), missing, scores in zip(pairs, MISSING, THEIRS, strict=True)
        ]
        return await together([guest, *hosts])

    scores, *served = asyncio.run(run())
    return scores, served


def expected(own=OWN, places=PLACES):
    total = own.copy()
    for place, theirs, missing in zip(places, THEIRS, MISSING, strict=True):
        total += np.where(place < 0, missing, theirs[place])
    return total


def test_scores_are_sums_of_parts() -> None:
    scores, served = score()
    assert np.array_equal(scores, expected())
    assert served == [int((place >= 0).sum()) for place in PLACES]


@pytest.mark.parametrize("size", [1, 7, 49, 50])
def test_chunks_of_any_size_change_nothing(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(glm_scoring, "ROWS", size)
    assert np.array_equal(score()[0], expected())


def test_hosts_that_know_no_row_and_no_rows_at_all() -> None:
    nobody = [np.full(ROWS, -1)] * 2
    scores, served = score(places=nobody)
    assert np.array_equal(scores, expected(places=nobody)) and served == [0, 0]
    scores, served = score(OWN[:0], [place[:0] for place in PLACES])
    assert len(scores) == 0 and served == [0, 0]
    assert np.array_equal(asyncio.run(guest_glm_score([], OWN, [])), OWN)


def numbers(count: int, value: float = 1.0) -> bytes:
    return np.full(count, value).astype("<f8").tobytes()


@pytest.mark.parametrize(
    ("answers", "named"),
    [
        ([MissingScore(float("nan"))], "MissingScore that is no number"),
        ([MissingScore(float("inf"))], "MissingScore that is no number"),
        ([PartialScores(b"")], "PartialScores where MissingScore or Stop was due"),
        ([MissingScore(0.0), PartialScores(numbers(2))], "of another number of rows than asked for"),
        ([MissingScore(0.0), PartialScores(numbers(3)[:-1])], "of another number of rows"),
        ([MissingScore(0.0), PartialScores(numbers(3, np.nan))], "PartialScores that are no numbers"),
        ([MissingScore(0.0), PartialScores(numbers(3, -np.inf))], "PartialScores that are no numbers"),
        ([MissingScore(0.0), MissingScore(0.0)], "MissingScore where PartialScores"),
    ],
)
def test_a_hostile_host_is_named(answers, named: str) -> None:
    async def run() -> None:
        ours, theirs = MemoryPeer.pair("guest", "registry")
        for answer in answers:
            await theirs.send(answer)
        with pytest.raises(PeerError, match=f"registry broke the protocol.*{named}"):
            await guest_glm_score([ours], np.zeros(4), [np.array([0, -1, 2, 1])])

    asyncio.run(run())


def places(*of: int) -> ScoreRows:
    return ScoreRows(np.array(of).astype("<u4").tobytes())


@pytest.mark.parametrize(
    ("requests", "named"),
    [
        ([ScoreEnd()], "ScoreEnd where ScoreStart"),
        ([ScoreStart(), ScoreStart()], "ScoreStart where ScoreRows or ScoreEnd"),
        ([ScoreStart(), places(0, 30)], "rows that are not in the alignment"),
        ([ScoreStart(), ScoreRows(b"abc")], "ScoreRows cut short"),
    ],
)
def test_a_hostile_guest_is_named(requests, named: str) -> None:
    async def run() -> None:
        ours, theirs = MemoryPeer.pair("guest", "registry")
        for request in requests:
            await ours.send(request)
        with pytest.raises(PeerError, match=f"guest broke the protocol.*{named}"):
            await host_glm_score(theirs, 0.0, THEIRS[0])

    asyncio.run(run())
