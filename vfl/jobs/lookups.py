"""A host's side of lookups: what a guest may look up, counted by the day and by the minute."""

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, date, datetime
from weakref import WeakKeyDictionary

from vfl.crypto.randomness import Randomness
from vfl.errors import ModelError, Refused, VflError
from vfl.jobs.admission import check_request
from vfl.jobs.agreement import accept_offer
from vfl.jobs.approval import approve, subject_of
from vfl.jobs.approval_view import Brought
from vfl.jobs.audits import check_audited
from vfl.jobs.connect import Site
from vfl.jobs.group_kernels import group_ready, prepare_group
from vfl.jobs.lookup_limits import ROWS_AHEAD, ApprovedLookups, day_of, rates_of
from vfl.jobs.memory import keep_for_good
from vfl.jobs.offer import Offer
from vfl.jobs.publishing import (
    check_not_withdrawn,
    is_over,
    publish,
    say_published,
    valid_directory,
)
from vfl.jobs.show import Show
from vfl.models.halves import AnyHostHalf, HostHalf
from vfl.models.kinds import load_half
from vfl.net.peer import Peer
from vfl.party.approval_uses import ApprovalOver
from vfl.party.directories import Directory, OwnDirectory
from vfl.party.fetched import Fetched
from vfl.party.kinds import DocumentKind
from vfl.party.policy import Usage, check_columns, check_lookup, today
from vfl.protocols.lookup.directory import Catalogue
from vfl.protocols.lookup.lookup import host_lookups
from vfl.text import counted

_BYTES_AHEAD = 16 << 20  # and bytes of a directory that is fetched
_DOCUMENTS: tuple[DocumentKind, ...] = ("directory", "model")
_AGAIN = 600.0  # seconds for which a directory that could not be made is not tried again


async def serve_lookup(site: Site, peer: Peer, offer: Offer, show: Show) -> str:
    """A host's part; what it came to, in words.

    It counts as no job: what a guest looks up is counted by itself, and a session that broke is opened
    anew.
    """
    policy = site.party.policy
    check_request(site, peer, offer, show, f"look rows up for {offer.model}")
    check_lookup(policy, peer.name, today())
    half = _half_of(site, offer.model or "")
    if not site.same_party(peer.name, half.guest):
        raise Refused(f"model {half.name} was not trained with this {peer.name}")
    check_columns(policy, half.name, half.columns)
    await asyncio.to_thread(check_audited, site, half.name, show)
    approved = await approve(site, peer, offer, show, Brought(half.columns))
    approval = None
    if approved is not None:
        approval = ApprovedLookups(site, subject_of(site, peer, offer), approved)
    randomness = site.randomness_of(offer.run)
    source = _Source(site, half, peer.name, show, randomness, approval)
    await source.open()
    await group_ready()
    try:
        await accept_offer(site, peer, offer, approved=approved)
        done = await host_lookups(peer, source, randomness.at("proofs"))
    except ApprovalOver as over:
        raise over.refusal from None
    finally:
        await source.close()
    return f"answered {counted(done, 'lookup')} of {peer.name}"


async def ready_for_lookups(site: Site) -> None:
    """Have loaded what lookups take, where there is a directory: the first of them are not to wait."""
    if site.party.policy.directories and site.store.names("directory"):
        await group_ready()
        keep_for_good()


def _half_of(site: Site, model: str) -> AnyHostHalf:
    try:
        return load_half(site.store, model, HostHalf)
    except ModelError as error:
        text = f"{site.party.name} has no model {model}, or has withdrawn it"
        raise ModelError(str(error), for_peer=text) from None


_Mark = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class _Served:
    """A directory as guests get it."""

    directory: Directory

    @property
    def signed(self) -> bytes:
        return self.directory.signed

    @property
    def signature(self) -> bytes:
        return self.directory.signature

    @property
    def version(self) -> str:
        return self.directory.header.version

    @property
    def catalogue(self) -> Catalogue:
        return self.directory.catalogue

    @property
    def width(self) -> int:
        return self.directory.header.width

    def read(self, part: int) -> bytes:
        return self.directory.read(part)


class _Source:
    """What a session's lookups are answered from."""

    def __init__(
        self,
        site: Site,
        half: AnyHostHalf,
        guest: str,
        show: Show,
        randomness: Randomness,
        approval: ApprovedLookups | None = None,
    ) -> None:
        """approval: that of a person, where the policy asks for one."""
        self._site, self._half, self._guest, self._show = site, half, guest, show
        self._randomness, self._approval = randomness, approval
        self._policy, self._rates = site.party.policy, rates_of(site)
        self._usage, self._fetched = Usage(site.store), Fetched(site.store)
        self._documents = [site.store.path(kind, half.name) for kind in _DOCUMENTS]
        self._own: OwnDirectory | None = None
        self._mark: _Mark | None = None  # of the documents that were read last
        self._reading: asyncio.Task[None] | None = None
        self._read_mark: _Mark | None = None  # of those that are being read, or were tried last

    @property
    def most_a_minute(self) -> int:
        most = self._policy.max_lookups_a_minute
        return 0 if isinstance(most, str) else most

    @property
    def version(self) -> str:
        return self._current.directory.header.version

    async def open(self) -> None:
        """Have a directory, made now if there is none that is of use. Raises what forbids it."""
        path = str(self._site.store.path("directory", self._half.name))
        making = _making.setdefault(asyncio.get_running_loop(), {})
        async with making.setdefault(path, asyncio.Lock()):  # of several sessions one makes it
            if await asyncio.to_thread(self._read) is None:
                await self._make()
        await self._read_newest()
        self._rows = day_of(self._site, "rows", self._guest, ROWS_AHEAD)
        self._bytes = day_of(self._site, "bytes", self._half.name, _BYTES_AHEAD)
        for counting in (self._rows, self._bytes, self._approval):
            if counting is not None:
                counting.begin()

    async def _make(self) -> None:
        """Make the directory, but not again soon after it failed: guests may ask often."""
        name = self._half.name
        since, why = _failed.get(key := (str(self._site.store.root), name), (-_AGAIN, ""))
        if time.monotonic() < since + _AGAIN:
            raise Refused(
                f"no directory of {name}: it could not be made, which is tried again after "
                f"{_AGAIN / 60:.0f} minutes, or now by `vfl publish PARTY.toml --model {name}`",
                for_peer=why,
            )
        self._show.say(f"there is no directory of {name} yet: it is made now")
        try:
            # In a thread: the guest would hold a host for dead that says nothing while it reads.
            drawn = self._randomness.part("directory")
            done = await asyncio.to_thread(publish, self._site, name, self._show, randomness=drawn)
        except VflError as error:
            _failed[key] = time.monotonic(), error.for_peer
            raise
        say_published(self._show, done)

    async def newest(self) -> _Served:
        await self._read_newest()
        return _Served(self._current.directory)

    async def admit(self, points: int) -> None:
        prepare_group(points)
        check_lookup(self._policy, self._guest, today())
        self._look()
        taken = self._rates.take(self._policy, self._guest, points)
        try:
            await self._rows.take(self._count_rows, points)
            if self._approval is not None:
                await self._take_of_approval(self._approval, points)
        except BaseException:
            taken.many -= points
            raise

    async def _take_of_approval(self, approval: ApprovedLookups, points: int) -> None:
        try:
            await approval.take(points)
        except BaseException:
            await self._rows.give_back(points)
            raise

    async def admit_fetch(self, size: int) -> None:
        check_lookup(self._policy, self._guest, today())
        self._look()
        await self._bytes.take(self._count_bytes, size)

    def secret_of(self, public: bytes) -> bytes | None:
        now = datetime.now(UTC)
        for key in self._current.keys:
            if key.public == public.hex() and not is_over(self._policy, key.last, now):
                return bytes.fromhex(key.secret)
        return None

    async def close(self) -> None:
        """Give back what was counted ahead."""
        await self._rows.end(self._count_rows)
        await self._bytes.end(self._count_bytes)
        if self._approval is not None:
            await self._approval.end()
        if self._reading is not None:
            await asyncio.wait([self._reading])

    def _count_rows(self, many: int, on: date) -> None:
        self._usage.count(self._policy, self._guest, "scored_rows", many, on)

    def _count_bytes(self, many: int, on: date) -> None:
        whole = self._current.directory.header.size
        self._fetched.count(self._policy, self._half.name, many, whole, on)

    @property
    def _current(self) -> OwnDirectory:
        if self._own is None:
            raise self._none()
        return self._own

    def _none(self) -> Refused:
        return Refused(
            f"{self._site.party.name} has no directory of {self._half.name} that is of use: it has to "
            "run `vfl publish`"
        )

    def _look(self) -> None:
        """See whether the directory is the same still. Raises Refused where it was withdrawn, or is of
        no use any more, ModelError where the model is gone, ApprovalOver where a person has to be asked
        again.

        Another one is read beside all else, which takes a while: until then this one is of use.
        """
        if self._approval is not None:
            self._approval.check()
        if (mark := self._marked()) != self._mark and (reading := self._begin(mark)).done():
            reading.result()  # it cannot be read
        policy, half = self._policy, self._half
        if is_over(policy, self._current.directory.header.made, datetime.now(UTC)):
            raise Refused(
                f"the directory of {half.name} at {self._site.party.name} is older than rule "
                f"directory_days = {policy.directory_days} of [policy] allows: it has to run "
                "`vfl publish` again"
            )

    async def _read_newest(self) -> None:
        """Have the directory that there is now. Raises as `_look`."""
        while (mark := self._marked()) != self._mark or self._own is None:
            await asyncio.shield(self._begin(mark))
        self._look()

    def _begin(self, mark: _Mark) -> "asyncio.Task[None]":
        """Have what is there now read, if it is not; once, also where it cannot be."""
        if self._reading is None or (self._reading.done() and self._read_mark != mark):
            check_not_withdrawn(self._site, self._half.name)
            self._reading, self._read_mark = asyncio.create_task(self._take_in(mark)), mark
            self._reading.add_done_callback(_note_fault)
        return self._reading

    async def _take_in(self, mark: _Mark) -> None:
        own = await asyncio.to_thread(self._read)
        if own is None:
            raise self._none()
        self._own, self._mark = own, mark

    def _read(self) -> OwnDirectory | None:
        _half_of(self._site, self._half.name)
        return valid_directory(self._site, self._half.name, datetime.now(UTC))

    def _marked(self) -> _Mark:
        """What tells whether model and directory are the ones that were read. Raises what there is to
        say where one of them is gone."""
        try:
            found = [path.stat() for path in self._documents]
        except FileNotFoundError:
            _half_of(self._site, self._half.name)
            raise self._none() from None
        return tuple((one.st_mtime_ns, one.st_ino) for one in found)


def _note_fault(reading: "asyncio.Task[None]") -> None:
    """It is raised where it is asked for; nobody may ask any more."""
    if not reading.cancelled():
        reading.exception()


_failed: dict[tuple[str, str], tuple[float, str]] = {}
"""By store and model when its directory could not be made, and what guests hear of it."""
_making: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, asyncio.Lock]] = WeakKeyDictionary()
