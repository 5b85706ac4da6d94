"""A guest that cheats when ids are compared by other rules: what it learns, held against guessing."""

import asyncio
import random
import secrets
from collections.abc import Sequence

import numpy as np
import pytest

from vfl.crypto import group
from vfl.crypto.randomness import OF_SYSTEM
from vfl.net.peer import MemoryPeer, together
from vfl.party.id_trials import OwnKey, attempts, trials
from vfl.protocols.align import match_rates
from vfl.protocols.align.match_rates import (
    MatchAnswer,
    MatchCounts,
    MatchIds,
    MatchSample,
    MatchShare,
    MatchSizes,
    MatchStart,
    host_match_rates,
)

RNG = random.Random(8)
LETTERS = "ABCDEFGHJKLMNPRSTUVWXYZ"
ROWS = 150
HALF = 8  # of the guesses
PLATES, OTHERS = (
    [f"{RNG.choice(LETTERS)}{RNG.choice(LETTERS)}{k:05}" for k in RNG.sample(range(10**5), ROWS)]
    for _ in range(2)
)
BORN = [
    f"{RNG.randrange(1950, 2005)}-{RNG.randrange(1, 13):02}-{RNG.randrange(1, 29):02}" for _ in PLATES
]
GUESSES = [*PLATES[:HALF], *OTHERS[:HALF]]


@pytest.fixture(autouse=True)
def any_sample(monkeypatch):
    """So few ids may be asked about that a test is quick."""
    monkeypatch.setattr(match_rates, "MIN_SAMPLE", 10)


async def cheating_guest(
    host: MemoryPeer, names: Sequence[str], asked: Sequence[bytes]
) -> list[set[int]]:
    """Blinds each guess with a scalar of its own, in every trial, and so learns which guesses are known;
    it claims to have found nothing. By trial: the places of those that are."""
    context, trials_of = b"run", [match_rates.Trial(name, lambda: iter(())) for name in names]
    many, every = len(asked), list(range(len(names)))
    share = secrets.token_bytes(32)
    commitment = match_rates._commitment(context, host.name, share)
    await host.send(MatchStart(match_rates._digest(trials_of), commitment))
    await host.recv(MatchShare)
    said = MatchIds(share, [many] * len(names), [100] * len(names), every)
    await host.send(said)
    theirs = await host.recv(MatchSizes)
    plan = match_rates._plan(trials_of, said, theirs)
    found: list[set[int]] = [set() for _ in names]
    for number in plan.run:
        prefix = match_rates._prefix(context, host.name, names[number])
        elements = group.hash_to_group(asked, prefix)
        scalars = [group.random_scalar(secrets.token_bytes) for _ in asked]
        blinded = [group.multiply(elements[i : i + 1], one) for i, one in enumerate(scalars)]
        await host.send(MatchSample(np.concatenate(blinded).tobytes()))
        answer = await host.recv(MatchAnswer)
        back = np.frombuffer(answer.points, np.uint8).reshape(-1, group.POINT)
        tags = match_rates._distinct(np.frombuffer(answer.tags, np.uint8).reshape(-1, match_rates.TAG))
        for i, scalar in enumerate(scalars):
            own = match_rates._tags(group.multiply(back, group.invert(scalar)))
            if match_rates._distinct(own) & tags:
                found[number].add(i)
    await host.send(MatchCounts([0] * len(plan.run)))
    return found


def success(columns, rule, asked):
    """Which of these guesses a cheating guest finds out, in any trial that the host takes part in."""
    tried = attempts(rule, len(columns))
    own = trials(OwnKey(columns, [], rule), tried, "host")

    async def run():
        to_host, to_guest = MemoryPeer.pair("insurer", "registry")
        return await together(
            [
                cheating_guest(to_host, [trial.name for trial in own], asked),
                host_match_rates(to_guest, own, name="registry", context=b"run", randomness=OF_SYSTEM),
            ]
        )

    by_trial, compared = asyncio.run(run())
    assert not any(rate.common for rate in compared.rates)  # what the host is told
    return by_trial, [rate.common is not None for rate in compared.rates]


def whole(*cells):
    return b"".join(len(cell.encode()).to_bytes(4, "big") + cell.encode() for cell in cells)


def test_a_cheating_guest_learns_no_single_column():
    """Half of its plates are known to the host, each with a day of birth that the guest does not know.
    To call all of them known, or none, is right for half of them: it can do no better."""
    truth = set(range(HALF))
    days = [*BORN[:HALF], *BORN[-HALF:]]
    asked = [whole(plate, day) for plate, day in zip(GUESSES, days, strict=True)]
    found, run = success([PLATES, BORN], ("trim",), asked)
    assert found[0] == truth and run[0]  # the cheat works: with whole ids it does, as in any alignment
    for write in (
        lambda k, plate: plate.encode(),
        lambda k, plate: whole(plate),
        lambda k, plate: whole(plate, ""),
        lambda k, plate: whole(plate, f"2010-01-{1 + k:02}"),
        lambda k, plate: whole("", plate),
    ):
        found, _ = success([PLATES, BORN], ("trim",), [write(k, p) for k, p in enumerate(GUESSES)])
        called_known = set().union(*found)
        right = sum((k in called_known) == (k in truth) for k in range(len(GUESSES)))
        assert right == len(GUESSES) / 2


@pytest.mark.parametrize("narrow", ["A7", "Class 7", "7-b"])
def test_no_way_leaves_few_values_of_a_column(narrow):
    """The digits of a class are one of ten: with a plate they would be the plate alone."""
    kinds = [f"{RNG.choice(LETTERS)}{RNG.choice(LETTERS)}{narrow}" for _ in PLATES]
    asked = [whole(plate, "7") for plate in GUESSES]
    found, run = success([PLATES, kinds], ("trim", "upper"), asked)
    assert not any(found)
    tried = attempts(("trim", "upper"), 2)
    left_out = {attempt.name for attempt, was in zip(tried, run, strict=True) if not was}
    assert {"column 2: digits", "column 2: digits, nozeros"} <= left_out
    assert "column 2: plate" not in left_out and "column 1: digits" not in left_out


def test_no_way_leaves_few_days_of_a_column():
    """Times of one day are one date; days in two formats are half as many, and are read."""
    times = [f"2026-11-23 {k // 60:02}:{k % 60:02}" for k in range(len(PLATES))]
    asked = [whole(plate, "2026-11-23") for plate in GUESSES]
    found, run = success([PLATES, times], ("trim",), asked)
    assert not any(found)
    names = [attempt.name for attempt in attempts(("trim",), 2)]
    assert not run[names.index("column 2: date")]
    mixed = [d if k % 2 else ".".join(d.split("-")[::-1]) for k, d in enumerate(BORN)]
    _, run = success([PLATES, mixed], ("trim",), asked)
    assert run[names.index("column 2: date")]


def test_a_guest_does_not_choose_the_sample(monkeypatch):
    """The key is made of a share of the host's, that the guest does not know when it is bound to its
    own: of ids that it would like to be drawn no more are than of any others."""
    monkeypatch.setattr(match_rates, "MOST", 300)
    wanted = [f"id {k}".encode() for k in range(20)]
    shares = [bytes([k]) * 32 for k in range(200)]
    threshold = match_rates._threshold(2_000, 2_000)

    def drawn(share, hosts):
        key = match_rates._sampling_key(b"run", "registry", share, hosts)
        one = match_rates.Trial("", lambda: iter(wanted))
        return len(match_rates._draw(one, [key])[0].below(threshold))

    best = max(shares, key=lambda share: drawn(share, bytes(32)))
    alone = drawn(best, bytes(32))
    after = [drawn(best, secrets.token_bytes(32)) for _ in range(200)]
    mean = len(wanted) * threshold / 2**64
    assert alone > 2 * mean  # if it knew the other share
    assert sum(after) / len(after) == pytest.approx(mean, abs=6 * (mean / len(after)) ** 0.5)
