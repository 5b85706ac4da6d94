"""Sessions with peers as the party file says: dial those with an address, listen for the others."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from vfl.errors import ConfigError, IdentityError, PeerUnreachable, Refused, VflError
from vfl.jobs.show import Once, Show
from vfl.net.peer import Peer, stop_all, together
from vfl.net.websocket import Credentials, WebSocketPeer, dial, listen
from vfl.party.config import Party
from vfl.party.identity import Certificate, Identity, load, load_certificate


@dataclass(frozen=True)
class Office:
    """A party with its identity and the certificates it pins."""

    party: Party
    identity: Identity
    pinned: dict[str, Certificate]

    @classmethod
    def open(cls, party: Party) -> "Office":
        """Load keys and certificates. Raises IdentityError or ConfigError."""
        identity = load(party.party.identity)
        if identity.name != party.name:
            raise IdentityError(
                f"{party.party.identity}.pem is the certificate of {identity.name}, "
                f"but the party file is {party.name}'s: check identity in [party]"
            )
        pinned = {}
        for name, peer in party.peers.items():
            certificate = load_certificate(peer.certificate)
            if certificate.der == identity.certificate.der:
                raise IdentityError(
                    f"{peer.certificate} is this party's own certificate: put {name}'s there"
                )
            if certificate.name != name:
                raise IdentityError(
                    f"{peer.certificate} is the certificate of {certificate.name}: "
                    f"pin {name}'s under [peers.{name}]"
                )
            pinned[name] = certificate
        return cls(party, identity, pinned)

    @property
    def credentials(self) -> Credentials:
        prefix = self.party.party.identity
        return Credentials(
            self.party.name,
            prefix.with_name(prefix.name + ".pem"),
            prefix.with_name(prefix.name + ".key"),
            {name: certificate.der for name, certificate in self.pinned.items()},
        )

    @property
    def fingerprints(self) -> dict[str, str]:
        """Of this party and its peers, by name."""
        peers = {name: certificate.fingerprint for name, certificate in self.pinned.items()}
        return {self.party.name: self.identity.certificate.fingerprint, **peers}

    def verify(self, name: str, signature: bytes, data: bytes) -> None:
        """Check another host's signature where its certificate is pinned here; else trust the guest."""
        if name in self.pinned and not self.pinned[name].verify(signature, data):
            raise ValueError("a signature that is not of the pinned certificate")


def check_role(peer: WebSocketPeer, role: str) -> None:
    """Raises Refused when the peer is not what this party expects."""
    if peer.hello.role != role:
        raise Refused(f"{peer.name} is a {peer.hello.role}, where a {role} is expected")


async def connect_hosts(office: Office, names: list[str], wait: float, show: Show) -> list[Peer]:
    """A session with each host, in the order of `names`.

    Raises PeerUnreachable naming those who did not come within `wait` seconds, IdentityError for a
    certificate that is not the pinned one.
    """
    party = office.party
    found: dict[str, WebSocketPeer] = {}
    dialled = [n for n in names if party.peers[n].address is not None]
    awaited = [n for n in names if party.peers[n].address is None]

    async def call(name: str) -> None:
        address = party.peers[name].address or ""
        found[name] = await dial(office.credentials, name, address, party.role, wait)

    async def receive() -> None:
        if not awaited:
            return
        if party.party.listen is None:
            raise ConfigError("[party] listen is missing: some peers have no address to dial")
        refused = Once(show.say)
        async with listen(office.credentials, party.party.listen, party.role, refused) as listener:
            show.say(f"waiting for {' and '.join(awaited)} on {party.party.listen}")
            try:
                async with asyncio.timeout(wait):
                    while not all(name in found for name in awaited):
                        peer = await listener.accept()
                        if peer.name not in awaited or peer.name in found:
                            await peer.close()
                            continue
                        found[peer.name] = peer
            except TimeoutError:
                missing = " and ".join(n for n in awaited if n not in found)
                raise PeerUnreachable(
                    f"no connection from {missing} within {wait:.0f} s: is `vfl serve` running there, "
                    f"and does it dial port {listener.port} of this machine?",
                    for_peer=f"{missing} cannot be reached",
                ) from None

    try:
        await together([*(call(name) for name in dialled), receive()])
        for peer in found.values():
            check_role(peer, "host")
    except VflError as error:
        await stop_all(found.values(), error)
        raise
    except BaseException:
        for peer in found.values():
            peer.drop()
        raise
    return [found[name] for name in names]


@contextlib.asynccontextmanager
async def hosts_of(
    office: Office, wait: float, show: Show, names: list[str] | None = None
) -> AsyncIterator[list[Peer]]:
    """Sessions with hosts for one job; whatever ends the job, every host is told why."""
    hosts = await connect_hosts(office, names or office.party.partners, wait, show)
    try:
        yield hosts
    except VflError as error:
        await stop_all(hosts, error)
        raise
    except asyncio.CancelledError:
        await stop_all(hosts, VflError("", for_peer="it was interrupted by its operator"))
        raise
    except Exception:
        await stop_all(hosts, VflError("", for_peer="it failed with an error of its own"))
        raise
    else:
        await together([host.close() for host in hosts])
