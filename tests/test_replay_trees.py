"""Training of trees, each role played once more from what came: with other workers, and other seconds.

What a role sends in the replay is what it sent, to the last byte; under another secret no message that
random numbers enter is the same.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from apart import Apart
from cryptography.hazmat.primitives.asymmetric import ec
from lattice_batches import small_batches
from paillier_key import one_key
from replays import Tape, replay
from test_boost import Job, make_job

from vfl.blocks.engine import ENGINE
from vfl.crypto.randomness import Randomness
from vfl.crypto.workers import Machine, Workers
from vfl.learn.params import BoostParams
from vfl.net.peer import MemoryPeer, Peer, together
from vfl.net.replay import MessageDiffers
from vfl.party import identity
from vfl.protocols.common import clock
from vfl.protocols.common.clock import SecondsNoted, SecondsSaid
from vfl.protocols.common.fellows import exchange_keys, relay_keys
from vfl.protocols.common.participant import Participant, Resources
from vfl.protocols.trees import candidate_sums, hidden, hidden_coordinator
from vfl.protocols.trees.hidden_coordinator import coordinate_trees
from vfl.protocols.trees.model import HostModel
from vfl.protocols.trees.scoring import guest_score, host_score
from vfl.protocols.trees.training import guest_train, host_train

NOTARY = "notary"
Role = Callable[[Sequence[Peer], Resources], Awaitable[object]]
"""A role, given its peers in the order in which it takes them, and what it works with."""


@dataclass(frozen=True)
class Run:
    """A run that is over."""

    roles: Mapping[str, Role]
    tapes: Mapping[str, list[Tape]]
    said: Mapping[str, SecondsNoted]
    secret: str

    def resources(self, name: str, workers: int) -> Resources:
        return Resources(Machine(workers), None, Randomness(secret_of(name, self.secret)))


def secret_of(name: str, of: str) -> bytes:
    return f"{of} {name}".encode().ljust(32)


def roles_of(job: Job, with_coordinator: bool) -> dict[str, Role]:
    name, *names = job.blocks

    async def guest(peers: Sequence[Peer], resources: Resources) -> object:
        hosts, coordinator = peers[: len(names)], peers[len(names) :]
        return await guest_train(
            hosts,
            {name: job.blocks[name]},
            job.rows,
            job.params,
            resources=resources,
            coordinator=coordinator[0] if coordinator else None,
        )

    def host(own: str) -> Role:
        async def play(peers: Sequence[Peer], resources: Resources) -> object:
            return await host_train(
                peers[0],
                job.blocks[own],
                job.params,
                Participant(own, resources=resources),
                shown=str,
                coordinator=peers[1] if with_coordinator else None,
            )

        return play

    async def coordinator(peers: Sequence[Peer], resources: Resources) -> object:
        return await coordinate_trees(peers, job.params, lambda tree, of: None)

    roles: dict[str, Role] = {name: guest, **{own: host(own) for own in names}}
    return {**roles, NOTARY: coordinator} if with_coordinator else roles


def run(roles: Mapping[str, Role], secret: str, workers: int = 2) -> Run:
    """All roles over memory, taped."""
    guest, *others = roles
    ends: dict[str, dict[str, Peer]] = {name: {} for name in roles}
    for one, other in [(guest, other) for other in others] + [
        (host, NOTARY) for host in others if NOTARY in roles and host != NOTARY
    ]:
        ends[one][other], ends[other][one] = MemoryPeer.pair(one, other)
    order = {name: [peer for peer in roles if peer in ends[name]] for name in roles}
    tapes = {name: [Tape(ends[name][peer]) for peer in order[name]] for name in roles}
    played = Run(roles, tapes, {name: SecondsNoted() for name in roles}, secret)

    async def play() -> None:
        await together(
            [
                role(
                    [ends[name][peer] for peer in order[name]],
                    replace(played.resources(name, workers), say=played.said[name]),
                )
                for name, role in roles.items()
            ]
        )

    asyncio.run(play())
    return played


def again(played: Run, name: str, workers: int = 1) -> None:
    """Play one role once more."""
    said = SecondsSaid(played.said[name].said)
    resources = replace(played.resources(name, workers), say=said)
    asyncio.run(replay(played.tapes[name], lambda peers: played.roles[name](peers, resources)))


def digests(played: Run) -> dict[str, set[bytes]]:
    """Of the messages that anybody sent, by type."""
    found = defaultdict[str, set[bytes]](set)
    for tapes in played.tapes.values():
        for sent in (sent for tape in tapes for sent in tape.sent):
            found[sent.kind].add(sent.digest)
    return found


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(Workers, "_start", lambda workers: None)  # threads in place of processes
    monkeypatch.setattr(clock, "STEP", 1e-4)  # seconds, so that some are told
    for module in (candidate_sums, hidden, hidden_coordinator):
        monkeypatch.setattr(module, "PIECE", 700)
    with small_batches(), one_key():
        yield


def job_of(encryption: str, with_coordinator: bool, objective: str = "binary", **others: Any) -> Job:
    sums = {"sums": "hidden", "coordinator": NOTARY} if with_coordinator else {}
    given = {"trees": 2, "depth": 3, "max_bins": 8, "min_child_rows": 5, "subsample": 0.8, **sums}
    params = BoostParams(encryption=encryption, **{**given, **others})
    return make_job(150, 2, 3, params, objective=objective)


EVERY = pytest.mark.parametrize(
    ("encryption", "with_coordinator"),
    [("paillier", False), ("paillier", True), ("lattice", False), ("lattice", True)],
)


@EVERY
def test_every_role_sends_the_same_once_more(encryption: str, with_coordinator: bool) -> None:
    """With one worker and no spare time, with five, and where other processes have the rows."""
    played = run(roles_of(job_of(encryption, with_coordinator), with_coordinator), "one")
    for name in played.roles:
        for workers in (1, 5):
            again(played, name, workers)
        with ENGINE.instead(Apart(67)):  # as on a cluster
            again(played, name)
    hosts = [name for name in played.roles if name in ("party1", "party2")]
    assert all(any(played.said[host].said["party0"]) for host in hosts)


@pytest.mark.parametrize("encryption", ["paillier", "lattice"])
@pytest.mark.parametrize(
    "settings",
    [
        {
            "objective": "multiclass",
            "max_leaves": 5,
            "subsample": 1.0,
            "goss_top": 0.3,
            "goss_other": 0.3,
        },
        {"objective": "poisson", "colsample": 0.5, "guest_trees": 1, "trees": 3},
    ],
)
def test_other_ways_to_grow_are_the_same_once_more(encryption: str, settings: dict[str, Any]) -> None:
    played = run(roles_of(job_of(encryption, False, **settings), False), "one")
    for name in played.roles:
        again(played, name)


RANDOM = {
    ("paillier", False): {"Gradients", "CandidateSums"},
    ("paillier", True): {"Gradients", "MaskSeed", "MaskedCandidates", "MaskedSums"},
    ("lattice", False): {"HintOffered", "HintAgreed", "HintHeader", "HintPart", "HintProducts"}
    | {"Vectors", "VectorSums", "ZerosCommitted", "ZerosRead", "ZerosOpened"},
    ("lattice", True): {"HintOffered", "HintAgreed", "HintHeader", "HintPart", "HintProducts"}
    | {"Vectors", "VectorSums", "MaskSeed", "MaskedZeros", "MaskedSums"},
}


@EVERY
def test_under_other_secrets_nothing_random_is_the_same(encryption: str, with_coordinator: bool) -> None:
    roles = roles_of(job_of(encryption, with_coordinator), with_coordinator)
    one, other = digests(run(roles, "one")), digests(run(roles, "other"))
    for kind in RANDOM[encryption, with_coordinator]:
        assert one[kind] and one[kind].isdisjoint(other[kind]), kind


def test_who_was_sent_something_else_is_found() -> None:
    """A host of one run against what came in another: its first message that differs."""
    roles = roles_of(job_of("paillier", False), False)
    one, other = run(roles, "one"), run(roles, "other")
    mixed = replace(one, tapes={"party1": other.tapes["party1"]})
    with pytest.raises(MessageDiffers, match=r"^message 1 to party0 differs: it was CandidateSums"):
        again(mixed, "party1")


def test_scoring_is_the_same_once_more() -> None:
    job = job_of("paillier", False)
    model, _, halves = job.federated()
    name, *names = job.blocks
    every = [np.arange(150)] * len(names)

    async def guest(peers: Sequence[Peer], resources: Resources) -> object:
        parts = guest_score(peers, model, job.features[name], every, 150)
        return [part.scores async for part in parts]

    def host(own: str, half: HostModel) -> Role:
        async def play(peers: Sequence[Peer], resources: Resources) -> object:
            return await host_score(peers[0], half, job.features[own], 150)

        return play

    roles = {name: guest} | {own: host(own, half) for own, half in zip(names, halves, strict=True)}
    played = run(roles, "one")
    for each in played.roles:
        again(played, each)


def test_hosts_give_the_same_keys_and_signatures_once_more() -> None:
    names = ["party1", "party2"]
    private = {name: ec.generate_private_key(ec.SECP256R1()) for name in names}

    async def guest(peers: Sequence[Peer], resources: Resources) -> object:
        return await relay_keys(peers)

    def host(own: str) -> Role:
        async def play(peers: Sequence[Peer], resources: Resources) -> object:
            sign = partial(identity.signed, private[own])
            return await exchange_keys(
                peers[0], Participant(own, names, b"run", sign, resources=resources)
            )

        return play

    roles: dict[str, Role] = {"party0": guest, **{own: host(own) for own in names}}
    one, other = run(roles, "one"), run(roles, "other")
    for each in one.roles:
        again(one, each)
    assert digests(one)["FellowKey"].isdisjoint(digests(other)["FellowKey"])
