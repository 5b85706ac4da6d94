"""Parties in one process that keep tapes and ledgers, and replay what they did."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from federation import JOB, Federation
from paillier_key import one_key
from room import HOSTS, Room, Said

from vfl.errors import PeerLost, VflError
from vfl.jobs import resume
from vfl.jobs.certificate import Checked, check_certificate, make_certificate
from vfl.jobs.connect import Site
from vfl.jobs.evidence import Evidence
from vfl.jobs.host import _TASKS
from vfl.jobs.offer import Offer
from vfl.jobs.replaying import Replay, replay, runs_named
from vfl.net.peer import Peer, stop_all
from vfl.party.config import load_party

LATTICE = {
    **JOB,
    "job": {**JOB["job"], "name": "lattice"},
    "secureboost": {**JOB["secureboost"], "encryption": "lattice"},
}


class AuditedRoom(Room):
    """As `Room`, with a ledger at each party; all keep tapes."""

    def __init__(self, federation: Federation) -> None:
        super().__init__(federation)
        for party in federation.parties.values():
            party.settings["party"]["tape"] = "all"
        self.on_message: Callable[[str], None] | None = None
        """Told of the types of messages that arrive at the guest from the registry."""

    @contextlib.asynccontextmanager
    async def hosts_of(
        self, site: Site, wait: float, show: Said, names: Sequence[str] | None = None
    ) -> AsyncIterator[list[Peer]]:
        async with super().hosts_of(site, wait, show, names) as peers:
            for peer in peers:
                site.journal.watch(peer)
                if peer.name == "registry" and self.on_message is not None:
                    peer.observers.append(self._pass_on)
            try:
                yield peers
            finally:
                site.journal.seal(show.say)

    async def _serve(self, name: str, peer: Peer) -> None:
        site = self.site(name)
        site.journal.watch(peer)
        try:
            offer = await peer.recv(Offer)
            await _TASKS[offer.task](site, peer, offer, self.said[name])
        except VflError as error:
            self.heard[name].append(str(error))
            await stop_all([peer], error)
        except Exception:
            await stop_all([peer], VflError("", for_peer="it failed with an error of its own"))
            raise
        finally:
            site.journal.seal(self.said[name].say)

    def _pass_on(self, direction: str, kind: str, payload: bytes) -> None:
        if direction == "received" and self.on_message is not None:
            self.on_message(kind)

    @contextlib.contextmanager
    def losing_a_connection(self, trees: int) -> Iterator[None]:
        """Once so many trees are kept the guest loses a connection, and goes on a moment later."""
        left = trees

        def lose(kind: str) -> None:
            nonlocal left
            left -= kind == "TreeKept"
            if left == 0:
                left = -1
                raise PeerLost("the connection to registry broke")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(resume, "_PAUSE", 0.0)
            patch.setitem(self.federation.guest.settings["party"], "reconnect", 60)
            patch.setattr(self, "on_message", lose)
            yield

    def there(self, name: str, **settings: Any) -> Site:
        """A party as its auditor finds it: with other workers, for one."""
        party = self.federation.parties[name]
        party.write()
        loaded = load_party(party.file)
        changed = loaded.party.model_copy(update=settings)
        return Site.open(loaded.model_copy(update={"party": changed}))

    def runs(self, name: str, subject: str) -> list[Evidence]:
        return runs_named(self.there(name).store, subject)

    def replay(self, name: str, subject: str, *, attempt: int = -1, **settings: Any) -> Replay:
        site = self.there(name, **settings)
        with one_key():
            return asyncio.run(replay(site, runs_named(site.store, subject)[attempt], Said()))

    def certify(self, name: str, done: Replay, peer: str) -> Path:
        """A certificate that the party has signed itself."""
        site = self.there(name)
        path = self.federation.folder / f"{name}-{peer}.json"
        path.write_bytes(make_certificate(done.evidence, done.shown[peer], site.identity))
        return path

    def check(self, name: str, path: Path) -> Checked:
        return check_certificate(self.there(name), path)


@contextlib.contextmanager
def aligned_room(folder: Path, keys: Path) -> Iterator[AuditedRoom]:
    """Parties that have aligned, in which tests train."""
    with pytest.MonkeyPatch.context() as patch:
        room = make_room(folder, keys)
        room.patch(patch)
        room.align(name="first")
        yield room


@contextlib.contextmanager
def put_back(room: AuditedRoom, folder: Path) -> Iterator[None]:
    """Whatever the block spoils of what parties keep is as before behind it."""
    kept = room.federation.folder
    shutil.copytree(kept, folder)
    yield
    for party in room.federation.parties.values():
        shutil.rmtree(party.folder)
        shutil.copytree(folder / party.folder.relative_to(kept), party.folder)


def make_room(folder: Path, keys: Path) -> AuditedRoom:
    folder.mkdir(exist_ok=True)
    room = AuditedRoom(Federation(folder, keys, guest_listens=True))
    for name in HOSTS:
        more = {"encryptions": ["paillier", "lattice"], "engines": ["ecdh", "ot", "vole"]}
        room.federation.parties[name].settings["policy"] |= more
    return room
