"""Sessions with peers as the party file says: dial those with an address, listen for the others."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from vfl.errors import ConfigError, IdentityError, PeerUnreachable, Refused, VflError
from vfl.jobs.show import Once, Show
from vfl.net.peer import Peer, stop_all, together
from vfl.net.websocket import Credentials, Listener, Patience, WebSocketPeer, dial, listen
from vfl.party.config import Party
from vfl.party.identity import Certificate, Identity, load, load_certificate
from vfl.party.ledger import FOLDER, Ledger
from vfl.party.revocation import refuse_revoked, revoked_by
from vfl.party.rotation import formerly
from vfl.party.store import Store

if TYPE_CHECKING:
    from vfl.jobs.journal import Journal


@dataclass(frozen=True)
class Office:
    """A party with its identity and the certificates it pins."""

    party: Party
    identity: Identity
    pinned: dict[str, Certificate]
    formerly: dict[str, frozenset[str]] = field(default_factory=dict)
    """Fingerprints that a party had before its key was rotated, by name."""

    @classmethod
    def open(cls, party: Party) -> "Office":
        """Load keys and certificates. Raises IdentityError or ConfigError."""
        identity = load(party.party.identity)
        if identity.name != party.name:
            raise IdentityError(
                f"{party.party.identity}.pem is the certificate of {identity.name}, "
                f"but the party file is {party.name}'s: check identity in [party]"
            )
        pinned, revoked = {}, revoked_by(party.party.identity)
        before = {party.name: formerly(identity.certificate, identity.certificate_path)}
        for name, peer in party.peers.items():
            certificate = load_certificate(peer.certificate)
            refuse_revoked(revoked, [certificate], peer.certificate)
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
            before[name] = formerly(certificate, peer.certificate)
        return cls(party, identity, pinned, before)

    @cached_property
    def journal(self) -> "Journal":
        """What writes this party's ledger."""
        from vfl.jobs.journal import Journal  # which knows messages of jobs, and they an office

        store = self.party.party.store
        return Journal(Ledger(store / FOLDER, self.identity, self.party.role), Store(store))

    @property
    def credentials(self) -> Credentials:
        return Credentials(
            self.party.name,
            self.identity.certificate_path,
            self.identity.tls_key.path,
            {name: certificate.der for name, certificate in self.pinned.items()},
            self.identity.tls_key.password,
            watch=self.journal.watch,
        )

    async def dial(
        self,
        name: str,
        address: str,
        wait: float,
        show: Show,
        on_wait: Callable[[str], None] | None = None,
    ) -> WebSocketPeer:
        """A session with a peer that listens; outlives broken connections as [party] says."""
        patience = Patience(self.party.party.reconnect, show.say)
        return await dial(
            self.credentials, name, address, self.party.role, wait, on_wait, patience=patience
        )

    def listen(self, address: str, show: Show) -> contextlib.AbstractAsyncContextManager[Listener]:
        """Sessions with peers that dial; they outlive broken connections as [party] says."""
        patience = Patience(self.party.party.reconnect, show.say)
        return listen(self.credentials, address, self.party.role, Once(show.say), patience)

    @property
    def fingerprints(self) -> dict[str, str]:
        """Of this party and its peers, by name."""
        peers = {name: certificate.fingerprint for name, certificate in self.pinned.items()}
        return {self.party.name: self.identity.certificate.fingerprint, **peers}

    def same_party(self, name: str, fingerprint: str | None) -> bool:
        """Whether a fingerprint in a stored document is that of the party of this name, now or before
        its key was rotated."""
        known = self.fingerprints.get(name)
        return known is not None and (fingerprint == known or fingerprint in self.formerly.get(name, ()))

    def verify(self, name: str, signature: bytes, data: bytes) -> None:
        """Check another host's signature where its certificate is pinned here; else trust the guest."""
        if name in self.pinned and not self.pinned[name].verify(signature, data):
            raise ValueError("a signature that is not of the pinned certificate")


def check_role(peer: WebSocketPeer, role: str) -> None:
    """Raises Refused when the peer is not what this party expects."""
    if peer.hello.role != role:
        raise Refused(f"{peer.name} is a {peer.hello.role}, where a {role} is expected")


async def connect_hosts(
    office: Office, names: list[str], wait: float, show: Show, listener: Listener | None
) -> list[Peer]:
    """A session with each host, in the order of `names`; those without an address dial `listener`.

    Raises PeerUnreachable naming those who did not come within `wait` seconds, IdentityError for a
    certificate that is not the pinned one.
    """
    party = office.party
    found: dict[str, WebSocketPeer] = {}
    awaited = _awaited(office, names)

    async def call(name: str) -> None:
        found[name] = await office.dial(name, party.peers[name].address or "", wait, show)

    async def receive(listener: Listener) -> None:
        show.say(f"waiting for {' and '.join(awaited)} on {party.party.listen}")
        try:
            async with asyncio.timeout(wait):
                while not all(name in found and not found[name].away for name in awaited):
                    peer = await listener.accept()
                    before = found.get(peer.name)
                    if peer.name not in awaited or not (before is None or before.away or before.lost):
                        await peer.close()
                        continue
                    if before is not None:
                        before.drop()
                    found[peer.name] = peer
        except TimeoutError:
            missing = " and ".join(n for n in awaited if n not in found or found[n].away)
            raise PeerUnreachable(
                f"no connection from {missing} within {wait:.0f} s: is `vfl serve` running there, "
                f"and does it dial port {listener.port} of this machine?",
                for_peer=f"{missing} cannot be reached",
            ) from None

    try:
        calls = [call(name) for name in names if name not in awaited]
        await together([*calls, *([receive(listener)] if listener is not None else [])])
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


def _awaited(office: Office, names: list[str]) -> list[str]:
    return [name for name in names if office.party.peers[name].address is None]


async def _turn_away(listener: Listener, hosts: list[Peer]) -> None:
    """While a job runs nobody else is let in; a host that begins anew does not know the job any more."""
    while True:
        peer = await listener.accept()
        for host in hosts:
            if isinstance(host, WebSocketPeer) and host.name == peer.name:
                host.give_up_if_away(f"{host.name} was restarted")
        await peer.close()


@contextlib.asynccontextmanager
async def hosts_of(
    office: Office, wait: float, show: Show, names: list[str] | None = None
) -> AsyncIterator[list[Peer]]:
    """Sessions with hosts for one job; whatever ends the job, every host is told why."""
    names = names or office.party.partners
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(office.journal.seal, show.say)
        listener = None
        if _awaited(office, names):
            if office.party.party.listen is None:
                raise ConfigError("[party] listen is missing: some peers have no address to dial")
            listener = await stack.enter_async_context(office.listen(office.party.party.listen, show))
        hosts = await connect_hosts(office, names, wait, show, listener)
        if listener is not None:
            turning_away = asyncio.create_task(_turn_away(listener, hosts))
            stack.callback(turning_away.cancel)
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
