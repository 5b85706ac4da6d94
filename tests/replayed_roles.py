"""A scenario of roles.py, its parties' random numbers from secrets of theirs: all parties over memory,
then each by itself against what its peers sent."""

import asyncio
import contextlib
import hashlib
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from dealt_transfers import dealt_transfers
from hostile import Peers, Scenario
from lattice_batches import small_batches
from paillier_key import one_key
from replays import Tape
from roles import Lent

from vfl.crypto.randomness import Randomness
from vfl.crypto.workers import ONE_PROCESS, Machine
from vfl.errors import VflError
from vfl.net.peer import Peer, together
from vfl.net.replay import BrokenOff, ReplayedPeer
from vfl.net.wire import Message
from vfl.protocols.common.clock import Say, SecondsNoted, SecondsSaid
from vfl.protocols.common.participant import Resources

Make = Callable[[Lent], Scenario]
"""The scenario, of what each party lends."""

_LEAST = 48  # bytes of a message that may hold random numbers


@dataclass(frozen=True)
class Run:
    """A run that is over."""

    make: Make
    seed: int
    tapes: Mapping[str, Mapping[str, Tape]]  # by party and its peer
    said: Mapping[str, SecondsNoted]

    @property
    def sent(self) -> Mapping[str, set[bytes]]:
        """The digests of all messages, by kind, but for those of a few bytes."""
        found: dict[str, set[bytes]] = defaultdict(set)
        for peers in self.tapes.values():
            for tape in peers.values():
                for message in tape.sent:
                    if message.size >= _LEAST:
                        found[message.kind].add(message.digest)
        return found


@contextmanager
def quick() -> Iterator[None]:
    """What takes long takes less, and still draws all that it draws but for the primes of keys."""
    with one_key(), small_batches(2), dealt_transfers():
        yield


@dataclass
class Lie:
    """What a party sends otherwise: messages of a kind, or the first of it alone."""

    who: str
    kind: str
    change: Callable[[Any], Any]
    once: bool = False
    told: list[tuple[str, int]] = field(default_factory=list)  # to whom, as which message, from 1

    def listen(self, peers: Mapping[str, Peer]) -> None:
        for peer in peers.values():
            self._change(peer)

    def _change(self, peer: Peer) -> None:
        send, place = peer.send, 0

        async def otherwise(message: Message) -> None:
            nonlocal place
            place += 1
            if type(message).__name__ == self.kind and not (self.once and self.told):
                changed = self.change(message)
                if changed != message:
                    self.told.append((peer.name, place))
                message = changed
            await send(message)

        peer.send = otherwise  # type: ignore[method-assign]


def _lends(seed: int, machine: Machine, said: Mapping[str, Say]) -> Lent:
    """The same secret of a party for the same `seed`."""

    def of(party: str) -> Resources:
        secret = hashlib.sha256(f"{seed} {party}".encode()).digest()
        return Resources(machine, None, Randomness(secret), said[party])

    return of


def live(make: Make, seed: int = 1, machine: Machine = ONE_PROCESS, lie: "Lie | None" = None) -> Run:
    """All parties, one of which may tell a lie: then however it ends."""
    said: Mapping[str, SecondsNoted] = defaultdict(SecondsNoted)
    scenario = make(_lends(seed, machine, said))

    async def run() -> Run:
        ends = scenario.open()
        tapes = {
            party: {name: Tape(peer) for name, peer in peers.items()} for party, peers in ends.items()
        }
        with contextlib.suppress(*([] if lie is None else [VflError])):
            if lie is not None:
                lie.listen(ends[lie.who])
            await together([*scenario.roles(ends).values()])
        return Run(make, seed, tapes, said)

    return asyncio.run(run())


def again(run: Run, party: str, machine: Machine = ONE_PROCESS) -> int:
    """Play a party once more; how many messages it sent, all of them those of the run. Raises
    MessageDiffers."""

    async def play() -> int:
        played, role = _alone(run, party, machine)
        await role
        for peer in played.values():
            peer.check_end()
        return sum(peer.compared for peer in played.values())

    return asyncio.run(play())


def as_far_as_it_went(run: Run, party: str) -> dict[str, int]:
    """Play a party of a run once more that may have been broken off; how many messages to each peer are
    those of the run. Raises MessageDiffers."""

    async def play() -> dict[str, int]:
        played, role = _alone(run, party, ONE_PROCESS, cut=True)
        with contextlib.suppress(VflError):  # as the run was, or its tape is
            await role
        for peer in played.values():
            if peer.differs is not None:
                raise peer.differs
        return {name: peer.compared for name, peer in played.items()}

    return asyncio.run(play())


def _alone(
    run: Run, party: str, machine: Machine, *, cut: bool = False
) -> tuple[dict[str, ReplayedPeer], Awaitable[Any]]:
    """A party's role, and its peers of the run."""
    said: dict[str, Say] = {name: SecondsSaid(run.said[name].said) for name in run.tapes}
    scenario = run.make(_lends(run.seed, machine, said))
    tapes = run.tapes[party].items()
    off = BrokenOff() if cut else None
    played = {name: ReplayedPeer(name, tape.received, tape.sent, cut=off) for name, tape in tapes}
    roles = scenario.roles({**scenario.open(), party: cast(Peers, played)})
    for name, role in roles.items():
        if name != party:
            cast(Coroutine[Any, Any, Any], role).close()
    return played, roles[party]


def check_replays(make: Make, random: set[str]) -> None:
    """Each party sends again what it sent, and under another secret no such message of these kinds."""
    run, other = live(make), live(make, seed=2)
    for party, tapes in run.tapes.items():
        assert again(run, party) == sum(len(tape.sent) for tape in tapes.values())
    once, twice = run.sent, other.sent
    assert once.keys() == twice.keys() and {*once} >= random
    for kind in random:
        assert not once[kind] & twice[kind], kind
