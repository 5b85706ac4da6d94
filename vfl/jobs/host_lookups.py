"""Lookups at a host for as long as a guest needs them: one session, opened again whenever it ends."""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from vfl.errors import PeerLost, PeerStopped, PeerUnreachable, VflError
from vfl.jobs.agreement import offer_to
from vfl.jobs.audits import to_present
from vfl.jobs.connect import Site, check_role
from vfl.jobs.directories import DirectoryReader, fetch_directory, kept_reader
from vfl.jobs.group_kernels import prepare_group
from vfl.jobs.offer import Offer, new_run
from vfl.jobs.presenting import present_to
from vfl.jobs.show import Once, Show
from vfl.models.halves import AnyGuestHalf
from vfl.net.peer import Peer, stop_all
from vfl.net.websocket import Listener, WebSocketPeer
from vfl.protocols.lookup.directory import inputs_of
from vfl.protocols.lookup.layout import PartLayout
from vfl.protocols.lookup.lookup import LookupSession, Renewed

_PAUSES = (0.1, 10.0)  # seconds before a session is opened again: at first, at most
_REFUSED = 60.0  # and where the host said no, or broke the protocol: somebody has to mend that
_STUCK = 3  # lookups in a row that nobody answered, after which the session is given up
_LOOK = 0.5  # seconds between two looks whether an idle session's other end is there
_INLINE = 64  # entries that are not worth a thread
_DUMMY = 16  # bytes of what stands for a key that a row lacks
LOST = "its session was lost and is being taken up again"
_INTERRUPTED = VflError("", for_peer="it was interrupted by its operator")


@dataclass(frozen=True)
class Patience:
    """Seconds: for which a lookup is waited for, and an attempt to open a session; after which a session
    in which nothing is looked up asks for the newest directory, if it is to."""

    lookup: float = 2.0
    session: float = 10.0
    idle: float | None = None


@dataclass(frozen=True)
class Looked:
    """What a directory says of rows: of each the host's part, None where it does not know the row."""

    version: str
    made: datetime
    layout: PartLayout
    parts: list[bytes | None]


class Meeting:
    """Where a guest meets hosts, each by itself and again and again: those with an address are dialled,
    the others are awaited at one listener."""

    def __init__(self, site: Site, show: Show, ended: VflError = _INTERRUPTED) -> None:
        """ended: what hosts hear where a session is cancelled."""
        self.site, self._show, self._ended = site, show, ended
        self._listener: Listener | None = None
        self._came: dict[str, WebSocketPeer] = {}
        self._used: Counter[str] = Counter()  # sessions with hosts that dial
        self._news = asyncio.Condition()

    @property
    def _address(self) -> str | None:
        """Where hosts are awaited, so that other commands can await them elsewhere."""
        party = self.site.party
        return (party.online and party.online.listen_for_hosts) or party.party.listen

    @contextlib.asynccontextmanager
    async def open(self, names: Sequence[str]) -> AsyncIterator["Meeting"]:
        """Listen for those of the hosts that dial this party, while the block runs. Raises ConfigError
        and DataError for an address that cannot be listened on."""
        peers, at = self.site.party.peers, self._address
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self.site.journal.seal, self._show.say)
            if at is not None and any(peers[name].address is None for name in names):
                self._listener = await stack.enter_async_context(self.site.listen(at, self._show))
                receiving = asyncio.create_task(self._receive(self._listener, frozenset(names)))
                stack.callback(receiving.cancel)
            yield self

    async def _receive(self, listener: Listener, names: frozenset[str]) -> None:
        while True:
            peer = await listener.accept()
            if peer.name not in names:
                listener.dismiss(peer)
                continue
            if (before := self._came.pop(peer.name, None)) is not None:
                before.drop()
            async with self._news:
                self._came[peer.name] = peer
                self._news.notify_all()

    @contextlib.asynccontextmanager
    async def session(self, name: str, wait: float) -> AsyncIterator[Peer]:
        """A session with a host; whatever ends the block, the host hears why. Raises PeerUnreachable
        where it does not come within `wait` seconds."""
        self.site.check_not_revoked([name])
        address = self.site.party.peers[name].address
        if address is None:
            peer = await self._await(name, wait)
        else:
            peer = await self.site.dial(name, address, wait, self._show)
        self._used[name] += address is None
        try:
            check_role(peer, "host")
            async with self.site.while_not_revoked([name]):
                yield peer
        except VflError as error:
            await stop_all([peer], error)
            raise
        except asyncio.CancelledError:
            await stop_all([peer], self._ended)
            raise
        except Exception:
            await stop_all([peer], VflError("", for_peer="it failed with an error of its own"))
            raise
        finally:
            self._used[name] -= address is None
            self.site.journal.seal(self._show.say)
        with contextlib.suppress(PeerLost):
            await peer.close()

    def has_come(self, name: str) -> bool:
        """Whether a session that a host has dialled waits here."""
        return name in self._came

    async def _await(self, name: str, wait: float) -> WebSocketPeer:
        try:
            async with asyncio.timeout(wait), self._news:
                await self._news.wait_for(lambda: name in self._came)
                return self._came.pop(name)
        except TimeoutError:
            why = f"no connection from {name} at {self._address} within {wait:.0f} s"
            party = self.site.party
            if self._used[name] and party.online is not None and party.online.listen_for_hosts is None:
                why += (
                    ", where it opens one session, for one model, which another model has: set "
                    f"listen_for_hosts in [online] here, and online in its [peers.{party.name}]"
                )
            raise PeerUnreachable(why) from None


class HostLookups:
    """Lookups at one host for one model: the guest's side, to be used within `open`."""

    def __init__(
        self,
        meeting: Meeting,
        half: AnyGuestHalf,
        host: str,
        show: Show,
        patience: Patience = Patience(),
    ) -> None:
        self.host, self._meeting, self._half, self._show = host, meeting, half, show
        self._patience, self._site = patience, meeting.site
        self._reader: DirectoryReader | None = None
        self._session: LookupSession | None = None
        self._peer: Peer | None = None
        self._changed = asyncio.Condition()
        self._wanted, self._unanswered = asyncio.Event(), 0
        self._heard = 0.0  # when the host said which directory is its newest
        self._why = f"no session with {host} yet"
        self._refused: dict[str, str] = {}  # certificates that the host did not take, by run

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator["HostLookups"]:
        """Keep a session with the host while the block runs; what is kept of its directory is known at
        once."""
        self._reader = await asyncio.to_thread(kept_reader, self._site, self._half, self.host)
        keeping = asyncio.create_task(self._keep())
        try:
            yield self
        finally:
            keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeping

    async def wait(self, seconds: float) -> None:
        """Wait until rows can be looked up. Raises PeerUnreachable, saying why they cannot."""
        try:
            async with asyncio.timeout(seconds), self._changed:
                await self._changed.wait_for(lambda: self.is_here)
        except TimeoutError:
            raise self._away() from None

    @property
    def is_here(self) -> bool:
        """Whether the host can be asked now."""
        away = isinstance(self._peer, WebSocketPeer) and (self._peer.away or self._peer.lost)
        return self._session is not None and self._session.ended is None and not away

    @property
    def known(self) -> bool:
        """Whether there is a directory, be it of an earlier day."""
        return self._reader is not None

    @property
    def version(self) -> str:
        return self._directory.header.version

    @property
    def made(self) -> datetime:
        return self._directory.header.made

    @property
    def layout(self) -> PartLayout:
        return self._directory.layout

    async def look_up(self, ids: Sequence[Sequence[bytes]]) -> Looked:
        """The parts of rows, with the directory that they are of.

        ids: by row its normalised ids, one for each key in their order, empty where it has none by a
        key. Each row is looked up by itself, as a batch of this row alone would be.

        Raises PeerUnreachable at once where the host is away, PeerLost where it does not answer in time,
        Refused with its reason, PeerError where it breaks the protocol.
        """
        try:
            async with asyncio.timeout(self._patience.lookup):
                try:
                    found = await self._look_up(ids)
                except Renewed:  # its key is another by now
                    await self._renew()
                    found = await self._look_up(ids)
        except TimeoutError:
            self._unanswered += 1
            if self._unanswered >= _STUCK and isinstance(self._peer, WebSocketPeer):
                self._peer.drop()
            text = f"{self.host} did not answer within {self._patience.lookup:g} s"
            raise PeerLost(text) from None
        self._unanswered = 0
        return found

    async def _look_up(self, ids: Sequence[Sequence[bytes]]) -> Looked:
        session, reader = self._session, self._reader
        if session is None or reader is None or not self.is_here:
            raise self._away()
        header, keys = reader.header, len(reader.header.rules)
        # A key that a row lacks is asked for, too: the host is not to see which rows have it.
        by_key = [
            inputs_of(number, [row[number] or session.entropy(_DUMMY) for row in ids])
            for number in range(keys)
        ]
        inputs = by_key[0] if keys == 1 else [one for row in zip(*by_key, strict=True) for one in row]
        prepare_group(len(inputs))
        most = reader.most_at_once
        opened: list[bytes | None] = []
        for at in range(0, len(inputs), most):
            some = inputs[at : at + most]
            outputs = await session.outputs(some, header.key, self._hear)
            opened += (
                reader.open(outputs)
                if len(some) <= _INLINE
                else await asyncio.to_thread(reader.open, outputs)
            )
        if keys > 1:
            opened = [
                next((one for one in opened[at : at + keys] if one is not None), None)
                for at in range(0, len(opened), keys)
            ]
        return Looked(header.version, header.made, reader.layout, opened)

    @property
    def _directory(self) -> DirectoryReader:
        if self._reader is None:
            raise self._away()
        return self._reader

    def _away(self) -> PeerUnreachable:
        return PeerUnreachable(f"{self.host} is away: {self._why}")

    def _hear(self, version: str) -> None:
        """The host says which version is its newest."""
        self._heard = time.monotonic()
        reader = self._reader
        if reader is not None and version not in (reader.header.version, reader.newest):
            self._wanted.set()

    async def _renew(self) -> None:
        """Have the newest directory fetched, and wait for it."""
        before = self._reader
        self._wanted.set()
        async with self._changed:
            await self._changed.wait_for(lambda: self._reader is not before)

    async def _keep(self) -> None:
        """Open a session, again and again."""
        first, longest = _PAUSES
        pause, once = first, Once(self._show.say)
        while True:
            refused = False
            try:
                await self._present()
                await self._serve()
            except VflError as error:
                self._why = str(error)
                refused = not (error.passing or isinstance(error, PeerUnreachable))
                once(f"note: {error}: trying again")
            finally:
                was_here, self._session, self._peer = self._session is not None, None, None
            pause = _REFUSED if refused else first if was_here else min(2 * pause, longest)
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - so that not all come at once

    async def _present(self) -> None:
        """Hand the host the certificates of the model that it waits for, as `vfl score` does; each once:
        where it does not take one, its lookups say what it thinks of that."""
        model = self._half.trained_name
        found = to_present(self._site.store, model).get(self.host, {})
        if not found or found == self._refused:
            return
        async with self._meeting.session(self.host, self._patience.session) as peer:
            try:
                await present_to(self._site, peer, model, found, self._show)
            except PeerStopped as error:
                self._refused = found
                self._show.say(f"note: {error}")

    async def _serve(self) -> None:
        """One session, from its beginning to its end."""
        half, wait = self._half, self._patience.session
        async with self._meeting.session(self.host, wait) as peer:
            name, rule = half.trained_name, list(half.normalise)
            offer = Offer("lookup", new_run(), [self.host], rule, model=name)
            await offer_to(self._site, [peer], offer, self._show)
            entropy = self._site.randomness_of(offer.run).at("blinds", self.host)
            async with LookupSession(peer, entropy).open() as session:
                self._peer = peer
                while True:
                    reader = await fetch_directory(self._site, half, session, self._show)
                    self._wanted.clear()
                    self._heard = time.monotonic()
                    self._why = LOST  # from here on that is why it cannot be asked
                    async with self._changed:
                        self._session, self._reader = session, reader
                        self._changed.notify_all()
                    await self._idle(session, peer)

    async def _idle(self, session: LookupSession, peer: Peer) -> None:
        """Wait until there is something to do. Raises what the session has ended with, which who asks
        for nothing does not hear."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK):
                    await session.wait(self._wanted)
                return
            await self._look_for_news(session)
            if not isinstance(peer, WebSocketPeer):
                continue
            if peer.lost:
                raise peer.last_words(PeerLost(f"{self.host} has ended the session"))
            if peer.away and self._meeting.has_come(self.host):  # as after a restart
                peer.drop()
                raise PeerLost(f"{self.host} has dialled anew")

    async def _look_for_news(self, session: LookupSession) -> None:
        """Ask for the newest directory where nothing has been looked up for long, which would tell."""
        idle, reader = self._patience.idle, self._reader
        if idle is None or reader is None or time.monotonic() < self._heard + idle:
            return
        self._heard = time.monotonic()
        with contextlib.suppress(TimeoutError):  # whether it is there at all others find out
            async with asyncio.timeout(self._patience.lookup):
                if (await session.newest()).header != reader.directory.signed:
                    self._wanted.set()
