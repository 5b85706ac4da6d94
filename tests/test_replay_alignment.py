"""Alignments played once more from their secrets, on a machine of other size: to the last byte."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from played import GUEST, GuestRole, HostRole, Played
from test_join import table
from test_kept_extensions import InMemory

from vfl.blocks import cores
from vfl.blocks.engine import ENGINE, Embedded
from vfl.crypto.randomness import Randomness
from vfl.net.peer import Peer, together
from vfl.protocols.align import answered, buckets, dh_oprf, ot_oprf, vole_oprf
from vfl.protocols.align import kept as kept_ids
from vfl.protocols.align.join import (
    KeyIds,
    Matched,
    guest_inner,
    guest_left,
    guest_match,
    host_inner,
    host_left,
    host_match,
)
from vfl.protocols.align.match_rates import Trial, guest_match_rates, host_match_rates
from vfl.protocols.align.psi import OprfEngine, PsiSettings
from vfl.protocols.common import transfers
from vfl.protocols.common.participant import Participant

HOSTS = "registry", "bureau"
KEYS = {
    GUEST: table([str(n) for n in range(60)], ["x", "y", "", *(str(n % 50) for n in range(57))]),
    "registry": table([str(n) for n in range(20, 90)], [*(str(n) for n in range(69)), "y"]),
    "bureau": table([str(n) for n in range(10, 50)], ["y", *(str(n) for n in range(100, 139))]),
}
TO_ALL = {"AlignKeys", "BlindedIds", "VoleChallenge", "VoleSlots"}  # the same to each host
SAID = {"AlignStart", "CommonRows", "BucketCounts", "JoinRows"}  # what follows from tables alone


class _Narrow(Embedded):
    """An engine that begins one piece of work at a time."""

    width = 1


@contextmanager
def another_machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Other cores, other pieces that are worked on at a time."""
    with monkeypatch.context() as patch, ENGINE.instead(_Narrow(block=7)):
        patch.setattr(cores, "_cores", lambda: 5)
        for module in (answered, kept_ids):
            patch.setattr(module, "_AT_ONCE", 9)
        patch.setattr(ot_oprf, "SLICE", 11)
        patch.setattr(buckets, "SLICE", 13)
        patch.setattr(buckets, "AT_ONCE", 26)
        patch.setattr(buckets, "PER_BUCKET", 1)
        yield


@pytest.fixture(autouse=True)
def small_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several messages of each kind: their sizes are the protocol's, on any machine."""
    monkeypatch.setattr(dh_oprf, "CHUNK", 16)
    monkeypatch.setattr(ot_oprf, "BLOCK", 32)
    monkeypatch.setattr(transfers, "BLOCK", 32)
    for name, value in {"BUCKET": 24, "STORE": 40, "CHUNK": 300, "SLOTS": 64}.items():
        monkeypatch.setattr(buckets, name, value)
    monkeypatch.setattr(vole_oprf, "SLOTS", 64)


def inner(engine: OprfEngine, scratch: list[Path]) -> tuple[GuestRole, HostRole]:
    """An inner join by two keys with all hosts; files lie in the last of `scratch`, if any."""

    def settings(randomness: Randomness) -> PsiSettings:
        return PsiSettings(engine, scratch[-1] if scratch else None, randomness=randomness)

    async def guest(peers: Sequence[Peer], randomness: Randomness) -> Any:
        matched = await guest_match(peers, KEYS[GUEST], context=b"run", settings=settings(randomness))
        return (await guest_inner(peers, matched, many=False)).tolist()

    async def host(name: str, peer: Peer, randomness: Randomness) -> Any:
        own = Participant(name, HOSTS, b"run")
        matched = await host_match(peer, KEYS[name], own, settings=settings(randomness))
        return (await host_inner(peer, matched, many=False)).tolist()

    return guest, host


def left(engine: OprfEngine) -> tuple[GuestRole, HostRole]:
    """A left join by two keys with each host apart."""

    async def guest(peers: Sequence[Peer], randomness: Randomness) -> Any:
        async def one(peer: Peer) -> Matched:
            settings = PsiSettings(engine, randomness=randomness.part("matched ids", peer.name))
            context = b"run" + peer.name.encode()
            return await guest_match([peer], KEYS[GUEST], context=context, settings=settings)

        apart, every = await together([one(peer) for peer in peers]), np.arange(60)
        return (await guest_left(peers, apart, every, randomness.at("order of joined rows"))).tolist()

    async def host(name: str, peer: Peer, randomness: Randomness) -> Any:
        own = Participant(name, [name], b"run" + name.encode())
        settings = PsiSettings(engine, randomness=randomness)
        matched = await host_match(peer, KEYS[name], own, settings=settings)
        return (await host_left(peer, matched, many=False)).tolist()

    return guest, host


def rates() -> tuple[GuestRole, HostRole]:
    """Samples compared with each host by two rules."""

    def trials(first: int) -> list[Trial]:
        numbers = [[b"%d" % (step * i) for i in range(first, first + 130)] for step in (1, 7)]
        return [Trial(f"times {k}", partial(iter, own)) for k, own in enumerate(numbers)]

    async def guest(peers: Sequence[Peer], randomness: Randomness) -> Any:
        return await guest_match_rates(peers, trials(0), context=b"run", randomness=randomness)

    async def host(name: str, peer: Peer, randomness: Randomness) -> Any:
        own = trials(20 + len(name))
        return await host_match_rates(peer, own, name=name, context=b"run", randomness=randomness)

    return guest, host


@pytest.mark.parametrize("engine", ["ecdh", "ot", "vole"])
def test_each_role_sends_again_what_it_sent(
    engine: OprfEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scratch: list[Path] = []
    run = Played(HOSTS, *inner(engine, scratch))
    assert len(run.found[GUEST]) == len(run.found["bureau"]) == 31
    scratch.append(tmp_path)
    with another_machine(monkeypatch):
        for name in (GUEST, *HOSTS):
            assert run.again(name) == run.found[name]


@pytest.mark.parametrize("engine", ["ecdh", "ot", "vole"])
def test_runs_of_other_secrets_share_nothing_that_is_random(engine: OprfEngine) -> None:
    """Context and ids are the same."""
    runs = [Played(HOSTS, *inner(engine, []), first_seed=seed) for seed in (1, 11)]
    assert runs[0].same_as(runs[1]) <= SAID
    # Nor does a message of a run come twice, to another peer or under another key of the table.
    for run in runs:
        once = [one for (_, kind), some in run.sent.items() if kind not in SAID | TO_ALL for one in some]
        assert len(set(once)) == len(once)
        for (_, kind), some in run.sent.items():
            if kind in TO_ALL:
                assert sorted(some) == sorted(2 * [*set(some)])


def test_left_joins_with_several_hosts_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    run, other = (Played(HOSTS, *left("ecdh"), first_seed=seed) for seed in (1, 11))
    with another_machine(monkeypatch):
        for name in (GUEST, *HOSTS):
            assert run.again(name) == run.found[name]
    assert run.same_as(other) <= SAID
    assert run.found[GUEST] != other.found[GUEST] and sorted(run.found[GUEST]) == [*range(60)]


def test_samples_are_compared_again(monkeypatch: pytest.MonkeyPatch) -> None:
    run, other = (Played(HOSTS, *rates(), first_seed=seed) for seed in (1, 11))
    with another_machine(monkeypatch):
        for name in (GUEST, *HOSTS):
            assert run.again(name) == run.found[name]
    assert run.same_as(other) <= {"MatchSizes", "MatchCounts"}


def kept(state: list[InMemory], own: list[KeyIds], theirs: list[KeyIds]) -> tuple[GuestRole, HostRole]:
    """A guest and a host that keep what they can, where the last of `state` says."""

    async def guest(peers: Sequence[Peer], randomness: Randomness) -> Any:
        how = replace(state[-1].guest_settings(), randomness=randomness)
        return (await guest_match(peers, own, context=b"run", settings=how)).of_row.tolist()

    async def host(name: str, peer: Peer, randomness: Randomness) -> Any:
        how = replace(state[-1].host_settings(), randomness=randomness)
        place = Participant(name, [name], b"run")
        return (await host_match(peer, theirs, place, settings=how)).of_row.tolist()

    return guest, host


def test_with_kept_ids_a_replay_needs_what_was_kept_before_and_keeps_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(answered, "LEAST", 30)  # ids that are asked about beside new ones
    numbers = [(range(60), range(20, 90)), (range(5, 70), range(20, 99))]
    live = InMemory()
    for number, ids in enumerate(numbers):
        own, theirs = (table([str(n) for n in some]) for some in ids)
        state = [live]
        at_replays = InMemory(live.kept, dict(live.stores), live.answers)
        run = Played(["registry"], *kept(state, own, theirs), first_seed=1 + 10 * number)
        state.append(at_replays)
        with another_machine(monkeypatch):
            for name in (GUEST, "registry"):
                assert run.again(name) == run.found[name]
        for one, other in ((live, at_replays), (at_replays, live)):
            assert one.kept is not None and len(one.kept.stores) == number + 1
            assert other.kept is not None and other.kept.digests == one.kept.digests
            assert one.answers is not None and other.answers is not None
            assert other.answers.key == one.answers.key
