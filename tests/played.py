"""A protocol of a guest and its hosts, played live from secrets, and each role once more alone."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from drawn import seeded
from replays import Tape, replay

from vfl.crypto.randomness import Randomness
from vfl.net.peer import MemoryPeer, Peer, together

GUEST = "insurer"
GuestRole = Callable[[Sequence[Peer], Randomness], Awaitable[Any]]
HostRole = Callable[[str, Peer, Randomness], Awaitable[Any]]


class Played:
    """A run: its tapes, what each party came to, and what it sent, by kind."""

    def __init__(
        self, hosts: Sequence[str], guest_role: GuestRole, host_role: HostRole, first_seed: int = 1
    ) -> None:
        self._guest_role, self._host_role = guest_role, host_role
        self._secrets = {name: first_seed + k for k, name in enumerate((GUEST, *hosts))}
        self.tapes: dict[str, list[Tape]] = {GUEST: [], **{host: [] for host in hosts}}
        self.sent: dict[tuple[str, str], list[bytes]] = {}
        self.found: Mapping[str, Any] = asyncio.run(self._play(hosts))

    async def _play(self, hosts: Sequence[str]) -> dict[str, Any]:
        to_hosts, roles = [], []
        for host in hosts:
            to_host, to_guest = MemoryPeer.pair(GUEST, host)
            self._watch(GUEST, to_host)
            self._watch(host, to_guest)
            to_hosts.append(to_host)
            roles.append(self._host_role(host, to_guest, self._randomness(host)))
        found = await together([self._guest_role(to_hosts, self._randomness(GUEST)), *roles])
        return dict(zip((GUEST, *hosts), found, strict=True))

    def _watch(self, name: str, peer: MemoryPeer) -> None:
        self.tapes[name].append(Tape(peer))

        def note(direction: str, kind: str, payload: bytes) -> None:
            if direction == "sent":
                self.sent.setdefault((name, kind), []).append(bytes(payload))

        peer.observers.append(note)

    def _randomness(self, name: str) -> Randomness:
        return seeded(self._secrets[name])

    def again(self, name: str) -> Any:
        """What a role comes to that is played from the tapes. Raises MessageDiffers unless it sends what
        it sent."""
        randomness = self._randomness(name)

        def role(peers: Sequence[Peer]) -> Awaitable[Any]:
            if name == GUEST:
                return self._guest_role(peers, randomness)
            return self._host_role(name, peers[0], randomness)

        return asyncio.run(replay(self.tapes[name], role))

    def same_as(self, other: "Played") -> set[str]:
        """The kinds of messages of which another run has one to the last byte."""
        return {
            kind
            for (name, kind), payloads in self.sent.items()
            if set(payloads) & set(other.sent.get((name, kind), []))
        }
