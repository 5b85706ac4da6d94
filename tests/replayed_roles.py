"""A scenario of roles.py, its parties' random numbers from secrets of theirs: all parties over memory,
then each by itself against what its peers sent."""

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, cast

from hostile import Peers, Scenario
from replays import Tape
from roles import Lent

from vfl.crypto.randomness import Randomness
from vfl.crypto.workers import ONE_PROCESS, Machine
from vfl.net.peer import together
from vfl.net.replay import ReplayedPeer
from vfl.protocols.common.participant import Resources

Make = Callable[[Lent], Scenario]
"""The scenario, of what each party lends."""
Tapes = Mapping[str, Mapping[str, Tape]]  # by party and its peer


def lends(seed: int, machine: Machine) -> Lent:
    """The same secret of a party for the same `seed`."""

    def of(party: str) -> Resources:
        secret = hashlib.sha256(f"{seed} {party}".encode()).digest()
        return Resources(machine, randomness=Randomness(secret))

    return of


def live(make: Make, seed: int = 1, machine: Machine = ONE_PROCESS) -> Tapes:
    """What passed in a run."""
    scenario = make(lends(seed, machine))

    async def run() -> Tapes:
        ends = scenario.open()
        tapes = {
            party: {name: Tape(peer) for name, peer in peers.items()} for party, peers in ends.items()
        }
        roles = scenario.roles(ends)
        await together([*roles.values()])
        return tapes

    return asyncio.run(run())


def again(make: Make, tapes: Tapes, party: str, seed: int = 1, machine: Machine = ONE_PROCESS) -> int:
    """Play a party once more; how many messages it sent, all of them those of the run. Raises
    MessageDiffers."""
    scenario = make(lends(seed, machine))

    async def run() -> int:
        played = {
            name: ReplayedPeer(name, tape.received, tape.sent) for name, tape in tapes[party].items()
        }
        roles = scenario.roles({**scenario.open(), party: cast(Peers, played)})
        for name, role in roles.items():
            if name != party:
                cast(Coroutine[Any, Any, Any], role).close()
        await roles[party]
        for peer in played.values():
            peer.check_end()
        return sum(peer.compared for peer in played.values())

    return asyncio.run(run())


def check_replays(make: Make, machine: Machine = ONE_PROCESS) -> Tapes:
    """Play a run, and each of its parties once more on this machine; what passed in the run."""
    tapes = live(make)
    for party, of in tapes.items():
        assert again(make, tapes, party, machine=machine) == sum(len(tape.sent) for tape in of.values())
    return tapes


def sent(tapes: Tapes) -> Mapping[str, set[bytes]]:
    """The digests of all that was sent, by kind."""
    found: dict[str, set[bytes]] = defaultdict(set)
    for peers in tapes.values():
        for tape in peers.values():
            for message in tape.sent:
                found[message.kind].add(message.digest)
    return found
