"""All parties of a federation in one process, for the tests of jobs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from federation import Federation
from paillier_key import one_key

from vfl.errors import PeerLost, VflError
from vfl.jobs import alignment, scoring, training
from vfl.jobs.alignment import Aligned, Plan
from vfl.jobs.connect import Site
from vfl.jobs.host import _TASKS
from vfl.jobs.offer import Offer
from vfl.jobs.scoring import Scored, ScoreOptions, score
from vfl.net.peer import MemoryPeer, Peer, stop_all
from vfl.party.config import Job, load_party
from vfl.protocols.common.batches import ScoreRows

HOSTS = ("registry", "bureau")


class Said:
    """A show that remembers."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def progress(self, what: str, done: int, of: int | None) -> None: ...

    def has(self, text: str) -> bool:
        return any(text in line for line in self.lines)


class Room:
    """All parties of a federation in this process; what they say, which rows hosts were asked for."""

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self.said = {name: Said() for name in ("insurer", *HOSTS)}
        self.asked = dict.fromkeys(HOSTS, 0)
        self.heard: dict[str, list[str]] = {name: [] for name in HOSTS}  # how jobs ended for hosts
        self.cut_after: int | None = None  # requests, after which the registry is lost once

    def site(self, name: str) -> Site:
        party = self.federation.parties[name]
        party.write()
        return Site.open(load_party(party.file))

    @contextlib.asynccontextmanager
    async def hosts_of(
        self, site: Site, wait: float, show: Said, names: Sequence[str] | None = None
    ) -> AsyncIterator[list[Peer]]:
        """As `connect.hosts_of`, with hosts that work in this process."""
        peers: list[Peer] = []
        tasks = []
        for name in names or site.party.partners:
            to_host, to_guest = MemoryPeer.pair("insurer", name)
            to_host.observers.append(self._observer(name))
            tasks.append(asyncio.create_task(self._serve(name, to_guest)))
            peers.append(to_host)
        try:
            yield peers
            await asyncio.gather(*tasks)
        except VflError as error:
            await stop_all(peers, error)
            await asyncio.wait(tasks)
            for task in tasks:
                if task.done() and (fault := task.exception()) is not None:
                    raise fault from None
            raise
        finally:
            for task in tasks:
                task.cancel()

    def _observer(self, name: str) -> Callable[[str, str, bytes], None]:
        def observe(direction: str, kind: str, payload: bytes) -> None:
            if (direction, kind) != ("sent", ScoreRows.__name__):
                return
            self.asked[name] += _places(payload)
            if self.cut_after is not None and name == "registry":
                self.cut_after -= 1
                if self.cut_after < 0:
                    self.cut_after = None
                    raise PeerLost("the connection to registry broke")

        return observe

    async def _serve(self, name: str, peer: Peer) -> None:
        offer = await peer.recv(Offer)
        try:
            await _TASKS[offer.task](self.site(name), peer, offer, self.said[name])
        except VflError as error:
            self.heard[name].append(str(error))
            await stop_all([peer], error)
        except Exception:  # a fault: the test is not to wait for ever
            await stop_all([peer], VflError("", for_peer="it failed with an error of its own"))
            raise

    def patch(self, patch: pytest.MonkeyPatch) -> None:
        """Have all jobs of this process meet the hosts here."""
        for module in (alignment, training, scoring):
            patch.setattr(module, "hosts_of", self.hosts_of)

    def align(self, **plan: Any) -> Aligned:
        """As `vfl align`."""
        for name in self.said:
            self.said[name] = Said()
        work = alignment.align(self.site("insurer"), Plan(**plan), wait=1, show=self.said["insurer"])
        return asyncio.run(work)

    def train(self, job: dict[str, Any], **options: Any) -> str:
        """As `vfl train`; under Paillier, with a key that draws quickly."""
        with one_key():
            done = asyncio.run(
                training.train(
                    self.site("insurer"),
                    Job.model_validate(job),
                    wait=1,
                    show=self.said["insurer"],
                    **options,
                )
            )
        return done.half.name

    def score(
        self, model: str, out: str = "scores.csv", data: str = "new.csv", **options: Any
    ) -> Scored:
        for name in self.said:
            self.said[name] = Said()
        self.asked = dict.fromkeys(HOSTS, 0)
        folder = self.federation.guest.folder
        work = score(
            self.site("insurer"),
            model,
            folder / data,
            folder / out,
            ScoreOptions(**options),
            wait=1,
            show=self.said["insurer"],
        )
        return asyncio.run(work)

    @property
    def rows(self) -> int:
        """Of the batch."""
        return len(self.federation.tables["new"]["plate"])

    def reference(self, model: str, out: str, **options: Any) -> bytes:
        """The output of a run from beginning to end."""
        self.score(model, out, **options)
        return (self.folder / out).read_bytes()

    @property
    def folder(self) -> Path:
        return self.federation.guest.folder

    @property
    def kept(self) -> list[Path]:
        """What lies in the store of unfinished batches."""
        return sorted(path for path in (self.folder / "vfl-store" / "batches").iterdir())


def _places(payload: bytes) -> int:
    from vfl.net.wire import decode

    message = decode(payload, [ScoreRows])
    assert isinstance(message, ScoreRows)
    return len(message.places) // 4
