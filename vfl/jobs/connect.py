"""Sessions with peers as the party file says: dial those with an address, listen for the others."""

import asyncio
import contextlib
import datetime
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

from vfl.crypto.randomness import OF_SYSTEM, Randomness
from vfl.crypto.workers import Operations
from vfl.errors import ConfigError, IdentityError, PeerLost, PeerUnreachable, Refused, VflError
from vfl.jobs.activity import Activity
from vfl.jobs.columns_given import ColumnsGiven
from vfl.jobs.journal import Journal
from vfl.jobs.show import Show
from vfl.jobs.telling import telling
from vfl.net.certificates import fingerprint, in_words
from vfl.net.peer import Peer, stop_all, together
from vfl.net.websocket import (
    Credentials,
    Listener,
    Opening,
    Patience,
    WebSocketPeer,
    dial,
    listen,
)
from vfl.net.wire import KIB, Octets
from vfl.party.at_rest import StoreKey
from vfl.party.authority import Authority, misuse
from vfl.party.config import Party
from vfl.party.config_values import Role
from vfl.party.identity import Certificate, Identity, load, load_certificate
from vfl.party.ledger import FOLDER, Ledger
from vfl.party.revocation import RevocationList, Revoked, refuse_revoked
from vfl.party.rotation import formerly
from vfl.party.store import Store
from vfl.protocols.common.participant import Participant, Resources

OPENING = Opening(frame=132 * KIB, window=264 * KIB)  # a Join is the largest first message
PERIOD = 60.0  # seconds between two lines about many refused connections
_SOON = datetime.timedelta(days=30)
_DAY = 86_400.0
_LOOK = 1.0  # seconds between two looks at the list of revoked certificates
_AGAIN = 1.0  # seconds before a host is dialled again whose session ended while others were awaited


@dataclass(frozen=True)
class Site:
    """A party with its identity and the certificates it pins."""

    party: Party
    identity: Identity
    pinned: dict[str, Certificate]
    formerly: dict[str, frozenset[str]] = field(default_factory=dict)
    """Fingerprints that a party had before its key was rotated, by name."""
    authorities: dict[str, Authority] = field(default_factory=dict)
    """What must have issued a peer's certificate, where the party file names it."""

    @cached_property
    def revocations(self) -> RevocationList:
        """The certificates that are not accepted any more."""
        return RevocationList(self.party.party.identity)

    @classmethod
    def open(cls, party: Party) -> "Site":
        """Load keys and certificates. Raises IdentityError or ConfigError."""
        identity = load_own(party)
        revoked = RevocationList(party.party.identity).now()
        pinned = {name: _load_pinned(party, name, identity, revoked) for name in party.peers}
        before = {party.name: formerly(identity.certificate, identity.certificate_path)}
        for name, certificate in pinned.items():
            before[name] = formerly(certificate, party.peers[name].certificate)
        authorities = {
            name: authority
            for name in party.peers
            if (authority := authority_of(party, name)) is not None
        }
        return cls(party, identity, pinned, before, authorities)

    @cached_property
    def store(self) -> Store:
        """What this party keeps, opened by its identity."""
        root = self.party.party.store
        return Store(root, StoreKey(root, lambda: self.identity))

    @cached_property
    def activity(self) -> Activity:
        """What this process tells others of its jobs here."""
        return Activity(self.store)

    @cached_property
    def journal(self) -> Journal:
        """What writes this party's ledger."""
        ledger = Ledger(self.store.root / FOLDER, self.identity, self.party.role)
        return Journal(ledger, self.store)

    def randomness_of(self, run: bytes) -> Randomness:
        """Where all that is random in this party's part of a run comes from. To be asked for once a run,
        whose parts are handed on: places are told apart within one."""
        return OF_SYSTEM

    def participant(
        self,
        hosts: Sequence[str],
        context: bytes,
        minimum: int = 1,
        operations: Operations | None = None,
        randomness: Randomness = OF_SYSTEM,
    ) -> Participant:
        """This party as a host of a run with these hosts; it signs as the party of its certificate."""
        party, own = self.party, self.identity
        resources = Resources(party.party.machine, operations, randomness)
        count = partial(ColumnsGiven(self.store).count, party.policy)
        return Participant(party.name, hosts, context, own.sign, self.verify, minimum, resources, count)

    @property
    def credentials(self) -> Credentials:
        return Credentials(
            self.party.name,
            self.identity.certificate_path,
            self.identity.tls_key.path,
            {name: certificate.der for name, certificate in self.pinned.items()},
            self.identity.tls_key.password,
            watch=self._watch,
            formerly=self.formerly,
            why_refused=self.why_refused,
        )

    def _watch(self, peer: Peer) -> None:
        """Have the ledger, and who watches this process, hear of all messages of a session."""
        self.journal.watch(peer)
        if self.activity.watchers:

            def passed(direction: str, kind: str, payload: Octets) -> None:
                self.activity.passed(peer.name, direction, kind, len(payload))

            peer.observers.append(passed)

    def why_refused(self, der: bytes) -> str | None:
        """Why a pinned certificate (DER) is not accepted any more. Raises IdentityError."""
        revoked = self.revocations.now().get(fingerprint(der))
        if revoked is not None:
            return f"the certificate of {revoked.name} was revoked on {revoked.on} ({revoked.reason})"
        for name, authority in self.authorities.items():
            if self.pinned[name].der == der:
                return authority.why_refused(der)
        return None

    def check_not_revoked(self, names: Iterable[str]) -> None:
        """Raises IdentityError when the certificate of one of these peers was revoked."""
        for name in names:
            if name in self.pinned and (why := self.why_refused(self.pinned[name].der)) is not None:
                listed = self.pinned[name].fingerprint in self.revocations.now()
                how = "is revoked" if listed else "is not accepted any more"
                raise IdentityError(why, for_peer=f"the certificate of {name} {how}")

    @contextlib.asynccontextmanager
    async def while_not_revoked(self, names: Collection[str]) -> AsyncIterator[None]:
        """The block, which ends once the certificate of one of these peers is revoked.

        Raises IdentityError then.
        """
        revoked: list[IdentityError] = []
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - for the type checker
        others = task.cancelling()

        async def watch() -> None:
            while not revoked:
                await asyncio.sleep(_LOOK)
                try:
                    self.check_not_revoked(names)
                except IdentityError as error:
                    revoked.append(error)
                    task.cancel()

        watching = asyncio.create_task(watch())
        try:
            yield
        except asyncio.CancelledError:
            if revoked and task.uncancel() <= others:
                raise revoked[0] from None
            raise
        finally:
            watching.cancel()

    def invalid_certificates(self, but: Collection[str] = ()) -> list[str]:
        """What there is to say of certificates, one's own and those pinned, that are not valid now; but
        of those of some peers."""
        found = [
            f"{what} {why}: {remedy}"
            for what, one, remedy in self._certificates()
            if one.name not in but and (why := one.invalidity()) is not None
        ]
        return found + [
            why
            for name, authority in self.authorities.items()
            if name not in but
            and self.pinned[name].invalidity() is None
            and (why := authority.why_refused(self.pinned[name].der)) is not None
        ]

    def ending_certificates(self) -> list[str]:
        """The same of those that end within 30 days."""
        now = datetime.datetime.now(datetime.UTC)
        ends = [
            (what, one.expires, remedy)
            for what, one, remedy in self._certificates()
            if one.invalidity() is None
        ]
        ends += [end for authority in self.authorities.values() for end in authority.ends()]
        return [
            f"{what} ends on {in_words(end)}, {_days(end - now)} from now: {remedy}"
            for what, end, remedy in dict.fromkeys(ends)
            if end > now and end - now <= _SOON
        ]

    def _certificates(self) -> list[tuple[str, Certificate, str]]:
        """Own and pinned ones: what they are called, and what is to be done about one that ends."""
        own = self.identity.certificate
        certificates = [(f"this party's certificate {self.identity.certificate_path}", own, own.remedy)]
        for name, one in self.pinned.items():
            certificates.append((f"the certificate of {name}", one, _remedy(name, one)))
        return certificates

    def check_valid(self, names: Iterable[str]) -> None:
        """Raises IdentityError when the certificate pinned for one of these peers is not valid now."""
        for name in names:
            if (why := self.pinned[name].invalidity()) is not None:
                remedy = _remedy(name, self.pinned[name])
                raise IdentityError(f"the certificate of {name} {why}: {remedy}")

    def warn(self, show: Show) -> None:
        """Say which certificates are not valid now, or will not be in 30 days."""
        for line in self.invalid_certificates():
            show.say(f"note: {line}")
        self.warn_of_ending(show)

    def warn_of_ending(self, show: Show) -> None:
        """Say which certificates will not be valid in 30 days. A guest's job says of those that are not
        valid now when it connects, where one that it needs is an error."""
        for line in self.ending_certificates():
            show.say(f"note: {line}")

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
            self.credentials,
            name,
            address,
            self.party.role,
            wait,
            on_wait,
            patience=patience,
            opening=OPENING,
        )

    def listen(self, address: str, show: Show) -> contextlib.AbstractAsyncContextManager[Listener]:
        """Sessions with peers that dial; they outlive broken connections as [party] says."""
        patience = Patience(self.party.party.reconnect, show.say)
        return listen(
            self.credentials,
            address,
            self.party.role,
            show.say,
            patience,
            opening=OPENING,
            period=PERIOD,
            waits_for=self.awaited,
        )

    @property
    def awaited(self) -> list[str]:
        """The peers that dial this party, if any do: they have no address. A host that names its guests
        awaits no other host."""
        guests = self.party.policy.guests if self.party.role == "host" else None
        return [
            name
            for name, peer in self.party.peers.items()
            if peer.address is None and (guests is None or name in guests)
        ]

    def where(self, listener: Listener) -> str:
        """Where this party can be reached, in words."""
        address = self.party.party.listen or ""
        if listener.relay is None:
            return f"listening on {address.rpartition(':')[0]}:{listener.port}"
        there = [name for name in self.awaited if name not in listener.troubles]
        if self.awaited and not there:
            return f"not yet waiting at {address} for {' and '.join(self.awaited)}"
        return f"waiting at {address} for {' and '.join(there) or 'nobody'}"

    @property
    def fingerprints(self) -> dict[str, str]:
        """The fingerprints of this party and its peers, by name."""
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


def store_of(party: Party) -> Store:
    """What a party keeps. Its identity, and so its passphrase, is asked for once it is needed."""
    root = party.party.store
    return Store(root, StoreKey(root, lambda: load(party.party.identity, expired=True)))


def load_own(party: Party) -> Identity:
    identity = load(party.party.identity)
    if identity.name != party.name:
        raise IdentityError(
            f"{party.party.identity}.pem is the certificate of {identity.name}, "
            f"but the party file is {party.name}'s: check identity in [party]"
        )
    if (why := misuse(identity.certificate.der)) is not None:
        raise IdentityError(f"{identity.certificate_path} {why}: {identity.certificate.remedy}")
    return identity


def _load_pinned(
    party: Party, name: str, identity: Identity | None, revoked: dict[str, Revoked]
) -> Certificate:
    """The certificate that is pinned for a peer. Raises IdentityError."""
    path = party.peers[name].certificate
    certificate = load_certificate(path)
    refuse_revoked(revoked, [certificate], path)
    if identity is not None and certificate.der == identity.certificate.der:
        raise IdentityError(f"{path} is this party's own certificate: put {name}'s there")
    if certificate.name != name:
        raise IdentityError(
            f"{path} is the certificate of {certificate.name}: pin {name}'s under [peers.{name}]"
        )
    return certificate


def authority_of(party: Party, name: str) -> Authority | None:
    """What must have issued a peer's certificate, if the party file says that. Raises IdentityError."""
    peer = party.peers[name]
    return None if peer.ca is None else Authority.load(peer.ca, peer.crl, peer.ca_name or name)


def faults_of_keys(party: Party) -> list[VflError]:
    """All that keeps a party's site from opening, where `Site.open` raises the first."""
    faults: list[VflError] = []
    identity: Identity | None = None
    revoked: dict[str, Revoked] = {}
    try:
        identity = load_own(party)
    except VflError as error:
        faults.append(error)
    try:
        revoked = RevocationList(party.party.identity).now()
    except VflError as error:
        faults.append(error)
    for name in party.peers:
        try:
            _load_pinned(party, name, identity, revoked)
        except VflError as error:
            faults.append(error)
    return faults


def _remedy(name: str, certificate: Certificate) -> str:
    """What is to be done about a peer's certificate that is not valid, or soon will not be."""
    if datetime.datetime.now(datetime.UTC) < certificate.starts:
        return "check the clocks of both machines"
    return f"{name} has to {certificate.remedy}"


def check_role(peer: WebSocketPeer, role: str) -> None:
    """Raises Refused when the peer is not what this party expects."""
    if peer.hello.role != role:
        raise Refused(f"{peer.name} is a {peer.hello.role}, where a {role} is expected")


def _days(left: datetime.timedelta) -> str:
    return "a day" if left.days == 1 else f"{left.days} days" if left.days else "less than a day"


async def warn_daily(site: Site, show: Show) -> None:
    """Say which certificates are about to end, now and once a day."""
    while True:
        site.warn(show)
        await asyncio.sleep(_DAY)


_INTERRUPTED = VflError("", for_peer="it was interrupted by its operator")


async def connect_hosts(
    site: Site,
    names: list[str],
    wait: float,
    show: Show,
    listener: Listener | None,
    role: Role = "host",
) -> list[Peer]:
    """A session with each host, in the order of `names`; those without an address dial `listener`.

    `role`: what they have to be.

    Raises PeerUnreachable naming those who did not come within `wait` seconds, IdentityError for a
    certificate that is not the pinned one, not valid now, or revoked meanwhile.
    """
    site.check_valid(names)
    for line in site.invalid_certificates(but=names):
        show.say(f"note: {line}")
    sessions: dict[str, WebSocketPeer] = {}
    awaited = _awaited(site, names)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait
    left = wait

    async def call(name: str) -> None:
        address = site.party.peers[name].address or ""
        sessions[name] = await site.dial(name, address, left, show)

    def is_here(name: str) -> bool:
        return name in sessions and not (sessions[name].away or sessions[name].lost)

    async def receive(listener: Listener) -> None:
        show.say(f"waiting for {' and '.join(awaited)} on {site.party.party.listen}")
        try:
            async with asyncio.timeout_at(deadline):
                while not all(is_here(name) for name in awaited):
                    peer = await listener.accept()
                    if peer.name not in awaited or is_here(peer.name):
                        listener.dismiss(peer)
                        continue
                    if peer.name in sessions:
                        sessions[peer.name].drop()
                    sessions[peer.name] = peer
        except TimeoutError:
            missing = [name for name in awaited if name not in sessions or sessions[name].away]
            if missing:
                raise _not_there(missing, listener, wait) from None

    async def meet() -> None:
        nonlocal left
        while True:
            works = [call(name) for name in names if name not in awaited and name not in sessions]
            if listener is not None and not all(is_here(name) for name in awaited):
                works.append(receive(listener))
            await together(works)
            # A host does not hold a session for ever while others are awaited.
            gone = [name for name, peer in sessions.items() if name not in awaited and _has_let_go(peer)]
            if not gone or loop.time() + _AGAIN > deadline:
                return
            for name in gone:
                sessions.pop(name).drop()
            await asyncio.sleep(_AGAIN)
            left = max(0.0, deadline - loop.time())

    try:
        async with site.while_not_revoked(names):
            await meet()
        for peer in sessions.values():
            check_role(peer, role)
    except VflError as error:
        await stop_all(sessions.values(), error)
        raise
    except asyncio.CancelledError:  # those who are there already would dial again for nothing
        await stop_all(sessions.values(), _INTERRUPTED)
        raise
    except BaseException:
        for peer in sessions.values():
            peer.drop()
        raise
    return [sessions[name] for name in names]


def _has_let_go(peer: WebSocketPeer) -> bool:
    """Whether the session has ended for a reason that may have passed."""
    return peer.lost and peer.last_words(PeerLost("")).passing


def _not_there(missing: list[str], listener: Listener, wait: float) -> PeerUnreachable:
    names = " and ".join(missing)
    known = [listener.refused[name] for name in missing if name in listener.refused]
    if known:
        text = f"no connection from {names} within {wait:.0f} s: {'; '.join(known)}"
    else:
        text = f"no connection from {names} within {wait:.0f} s: {_why_silent(missing, listener)}"
        text += of_unnamed(listener, names)
    return PeerUnreachable(text, for_peer=f"{names} cannot be reached")


def of_unnamed(listener: Listener, names: str) -> str:
    """What is said beside peers that did not come of a party that was refused and may be one of them;
    empty where there was none."""
    if listener.unnamed is None:
        return ""
    address, why = listener.unnamed
    return (
        f" A connection from {address} was refused meanwhile: {why}; if it was {names}, this party's "
        "certificate has to be put into its peers, or given to `vfl keys accept` after a rotation, and "
        "`vfl serve` started anew there"
    )


def _why_silent(missing: list[str], listener: Listener) -> str:
    """Why peers of whom nothing was heard may not have come."""
    if listener.relay is None:
        return f"is `vfl serve` running there, and does it dial port {listener.port} of this machine?"
    if why := listener.troubles.get(missing[0]):
        return f"{listener.relay}: {why}"
    return (
        f"is `vfl serve` running there, does it dial {listener.relay}, and does each side pin the "
        "certificate that the other uses?"
    )


def _awaited(site: Site, names: list[str]) -> list[str]:
    return [name for name in names if site.party.peers[name].address is None]


async def _turn_away(listener: Listener, hosts: list[Peer]) -> None:
    """While a job runs nobody else is let in; a host that begins anew does not know the job any more."""
    while True:
        peer = await listener.accept()
        for host in hosts:
            if isinstance(host, WebSocketPeer) and host.name == peer.name:
                host.give_up_if_away(f"{host.name} was restarted")
        listener.dismiss(peer)


@contextlib.asynccontextmanager
async def hosts_of(
    site: Site, wait: float, show: Show, names: list[str] | None = None, role: Role = "host"
) -> AsyncIterator[list[Peer]]:
    """Sessions with hosts for one job; whatever ends the job, every host is told why. `role`: what
    they have to be, if not hosts."""
    names = names or site.party.partners
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(site.journal.seal, show.say)
        listener = None
        if _awaited(site, names):
            if site.party.party.listen is None:
                raise ConfigError("[party] listen is missing: some peers have no address to dial")
            listener = await stack.enter_async_context(site.listen(site.party.party.listen, show))
        hosts = await connect_hosts(site, names, wait, show, listener, role)
        if listener is not None:
            turning_away = asyncio.create_task(_turn_away(listener, hosts))
            stack.callback(turning_away.cancel)
        site.activity.tell(sessions=hosts)
        async with (
            telling(hosts, _INTERRUPTED),
            site.while_not_revoked(names),
            site.activity.until_cancelled(),
        ):
            yield hosts
        await together([host.close() for host in hosts])
