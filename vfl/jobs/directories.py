"""A guest's side of sealed directories: fetched, kept, read, and looked up in over a session."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import numpy as np

from vfl.arrays import Bytes, Mask
from vfl.blocks.disk import NO_ROOM, no_room, take_room
from vfl.errors import ConfigError, DataError, DayIsFull, ModelError, Refused
from vfl.jobs.connect import Site
from vfl.jobs.show import Once, Show
from vfl.models.halves import AnyGuestHalf
from vfl.party.directories import (
    Directory,
    OwnDirectory,
    entries_path,
    keep_directory,
    load_directory,
    name_of,
)
from vfl.party.files import reason
from vfl.party.ids import disagreement
from vfl.party.sections import DataSection
from vfl.protocols.lookup import directory as sealed
from vfl.protocols.lookup.directory import (
    CLOCKS_APART,
    Header,
    decode_header,
    digest_of_part,
    statement,
)
from vfl.protocols.lookup.layout import PartLayout
from vfl.protocols.lookup.lookup import LookupSession
from vfl.protocols.lookup.messages import ASKED, PARTS, POINTS, SealedDirectory
from vfl.text import counted

_LOOK = 0.2  # seconds between two looks whether another process has fetched a directory
_AGAIN = 3  # versions that may take each other's place while one is fetched


@dataclass(frozen=True)
class DirectoryReader:
    """A host's directory, mapped into memory, as the guest reads it."""

    directory: Directory
    most_a_minute: int = 0  # lookups that the host allows; 0: any number
    newest: str = ""
    """The version that the host has instead, where it sends no more of that today."""

    @property
    def most_at_once(self) -> int:
        """Lookups of a message at most."""
        return min(POINTS, self.most_a_minute or POINTS)

    @property
    def header(self) -> Header:
        return self.directory.header

    @cached_property
    def layout(self) -> PartLayout:
        """How its parts are packed."""
        return self.header.layout

    @cached_property
    def _entries(self) -> Bytes:
        return self.directory.mapped()

    def hold(self) -> "DirectoryReader":
        """Itself, to be read also when another version takes its place. Raises ModelError."""
        _ = self._entries
        return self

    @cached_property
    def _context(self) -> bytes:
        return self.header.context

    def open(self, outputs: Bytes) -> list[bytes | None]:
        """The parts of ids by F of them, shape (n, 64); None where the directory has no such id, or
        several rows have it."""
        handle = self.header.handle
        return [None if text is None else text[handle:] for text in self.texts(outputs)]

    def texts(self, outputs: Bytes, which: bytes = b"") -> list[bytes | None]:
        """What is sealed of them: a row's handle, if there are several keys, and its part. Raises
        ModelError where the file is damaged."""
        header, catalogue = self.header, self.directory.catalogue
        tags, seeds = sealed.tags_and_seeds(self._context, outputs, which)
        numbers = sealed.numbers_of_parts(tags, header.bits)
        for number in np.unique(numbers).tolist():
            self._check_part(number)
        places = sealed.find_entries(self._entries, catalogue.starts, tags, numbers)
        known = places >= 0
        salts, size = catalogue.salts[numbers[known]], header.width - sealed.TAG
        found = self._entries[places[known], sealed.TAG :] ^ sealed.pads(seeds[known], salts, size)
        opened: Iterator[bytes] = (text.tobytes() for text in found)
        return [next(opened) if is_known else None for is_known in known.tolist()]

    def _check_part(self, number: int) -> None:
        """Raises ModelError where the entries of a part are not what was fetched."""
        if number in self._whole:
            return
        starts = self.directory.catalogue.starts
        part = self._entries[starts[number] : starts[number + 1]]
        if digest_of_part(part.tobytes()) != self.directory.catalogue.digests[number].tobytes():
            raise ModelError(f"{self.directory.path} is damaged: remove it, and it is fetched anew")
        self._whole.add(number)

    @cached_property
    def _whole(self) -> set[int]:
        """The parts that were seen to be what was fetched."""
        return set()

    def hints(self, output: Bytes) -> list[bytes]:
        """The hints of an id that several rows have, by F of it, shape (1, 64); none of any other."""
        found: list[bytes] = []
        for number in range(sealed.MOST_ALIKE):  # a host could have more, to see who reads them
            (text,) = self.texts(output, sealed.hint(number))
            if text is None:
                break
            found.append(text[: sealed.HANDLE])
        return found


def check_rules(header: Header, half: AnyGuestHalf, data: DataSection, host: str) -> None:
    """Raises ConfigError unless ids of the directory are made by the rules of the model's ids."""
    own = [list(half.normalise), *(list(rule) for rule in half.fallback)]
    why = disagreement(host, header.rules, own, (header.columns, [len(key.id) for key in data.keys]))
    if why is not None:
        raise ConfigError(why)


def kept_reader(site: Site, half: AnyGuestHalf, host: str) -> DirectoryReader | None:
    """The directory of a host that was fetched last, if there is one that is whole."""
    with contextlib.suppress(ModelError):
        kept = _load(site, half, host)
        if kept is not None:
            check_rules(kept.header, half, site.party.data, host)
            return DirectoryReader(kept).hold() if kept.is_whole else None
    return None


def _load(site: Site, half: AnyGuestHalf, host: str) -> Directory | None:
    """What is kept of a host's directory. Raises ModelError where it is damaged, or another one's."""
    name = name_of(half.trained_name, host)
    found = load_directory(site.store, name)
    if not isinstance(found, OwnDirectory):
        return None
    if _whose(found.directory.header) != (half.trained_name, host, site.party.name):
        raise ModelError(f"directory {name} is damaged: it is of another model, or not of {host}")
    return found.directory


def _whose(header: Header) -> tuple[str, str, str]:
    """Which model a directory is for, and whose."""
    return header.model, header.host, header.guest


async def fetch_directory(
    site: Site, half: AnyGuestHalf, session: LookupSession, show: Show
) -> DirectoryReader:
    """The newest directory of a host for a model: what is kept of it, and what of it has changed.

    Parts that have arrived are kept, also where the session ends before all have. Raises PeerError for
    what is not as the host has signed it, ConfigError for other rules of ids, DataError for a file that
    cannot be written, and what the session raises. Where the host sends no more today, what is kept is
    of use as it is.
    """
    for _ in range(_AGAIN):
        fetching = _Fetching(site, half, session, show)
        if (found := await fetching.fetch()) is not None:
            return found
    raise ModelError(f"{session.host.name} makes directories faster than they can be fetched: try later")


class _Fetching:
    def __init__(self, site: Site, half: AnyGuestHalf, session: LookupSession, show: Show) -> None:
        self._site, self._half, self._session, self._show = site, half, session, show
        self._host = session.host
        self._name = name_of(half.trained_name, self._host.name)

    async def fetch(self) -> DirectoryReader | None:
        """The directory; None where another one has taken its place meanwhile."""
        async with self._turn():  # another process may be fetching it, too
            answer = await self._session.newest()
            kept = await asyncio.to_thread(self._kept)
            header = self._checked(answer, kept)
            check_rules(header, self._half, self._site.party.data, self._host.name)
            if kept is not None and kept.signed == answer.header:
                if await asyncio.to_thread(lambda: kept.is_whole):
                    return DirectoryReader(kept, answer.most_a_minute).hold()
                self._show.say(f"note: {kept.path} is damaged: what it lacks is fetched again")
            try:
                return await self._fetch(header, answer, kept)
            except DayIsFull as full:
                if kept is None or not await asyncio.to_thread(lambda: kept.is_whole):
                    raise
                check_rules(kept.header, self._half, self._site.party.data, self._host.name)
                self._show.say(
                    f"note: {full}: going on with the directory of {kept.header.made:%Y-%m-%d %H:%M} UTC"
                )
                return DirectoryReader(kept, answer.most_a_minute, header.version).hold()

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """The block, while no other process writes these files."""
        what, once = f"the directory of {self._host.name}", Once(self._show.say)
        with contextlib.ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(self._site.store.locked("directory", self._name, what))
                    break
                except Refused:
                    once(f"{what} is being fetched by another run of vfl: waiting")
                    await asyncio.sleep(_LOOK)
            yield

    async def _fetch(
        self, header: Header, answer: SealedDirectory, kept: Directory | None
    ) -> DirectoryReader | None:
        catalogue = await self._session.catalogue(header.version, header.parts)
        if catalogue is None:
            return None
        if (why := await asyncio.to_thread(catalogue.fault, header)) is not None:
            raise self._host.breach(f"CatalogueRows {why}")
        path = entries_path(self._site.store, self._name, header.version)
        directory = Directory(header, answer.header, answer.signature, catalogue, path)
        if not await self._fill(directory, kept):
            return None
        await asyncio.to_thread(keep_directory, self._site.store, self._name, directory, self._host.name)
        return DirectoryReader(directory, answer.most_a_minute).hold()

    def _kept(self) -> Directory | None:
        """What there is already; none where it is damaged."""
        try:
            return _load(self._site, self._half, self._host.name)
        except ModelError as error:
            self._show.say(f"note: {error}: it is fetched anew")
            return None

    def _checked(self, answer: SealedDirectory, kept: Directory | None) -> Header:
        host, site = self._host, self._site
        try:
            header = decode_header(answer.header)
        except ValueError as error:
            raise host.breach(f"SealedDirectory with {error}") from None
        if not site.pinned[host.name].verify(answer.signature, statement(answer.header)):
            raise host.breach("SealedDirectory with a signature that does not hold")
        if _whose(header) != (self._half.trained_name, host.name, site.party.name):
            raise host.breach("SealedDirectory of another model or for another guest")
        latest = datetime.now(UTC) + CLOCKS_APART
        if header.made > latest:
            text = (
                f"the directory of {host.name} is of {header.made:%Y-%m-%d %H:%M} UTC, which is yet to "
                f"come: the clock of {host.name} is ahead, or that of {site.party.name} behind"
            )
            raise ConfigError(text, for_peer=text)
        # One from a time to come was kept when a clock was wrong.
        before = None if kept is None or kept.header.made > latest else kept
        if before is not None and header.made <= before.header.made and answer.header != before.signed:
            raise host.breach(
                f"SealedDirectory of {header.made:%Y-%m-%d %H:%M:%S}, older than the one of "
                f"{before.header.made:%Y-%m-%d %H:%M:%S} that it sent before"
            )
        return header

    async def _fill(self, directory: Directory, kept: Directory | None) -> bool:
        """Write the entries, part by part; whether all of this version came."""
        unfinished = directory.path.with_suffix(".entries.part")
        has = await asyncio.to_thread(self._begin, unfinished, directory, kept)
        missing = np.flatnonzero(~has).tolist()
        header, starts = directory.header, directory.catalogue.starts
        done = int(has.sum())
        for numbers in _groups(missing, directory):
            sizes = [int(starts[n + 1] - starts[n]) * header.width for n in numbers]
            content = await self._session.parts(header.version, numbers, sum(sizes))
            if content is None:
                return False
            # In a thread: who answers requests meanwhile is not to wait for digests and the disk.
            if not await asyncio.to_thread(_put_parts, unfinished, directory, numbers, content):
                raise self._host.breach("SealedParts that are not those of the catalogue")
            done += len(numbers)
            self._show.progress(f"fetching {self._host.name}'s directory", done, header.parts)
        await asyncio.to_thread(_finish, unfinished, directory.path)
        if missing:
            fetched = sum(int(starts[n + 1] - starts[n]) for n in missing) * header.width
            self._show.say(
                f"directory {header.version} of {self._host.name}: {counted(len(missing), 'part')} of "
                f"{header.parts:,} fetched, {fetched / 1e6:,.1f} MB"
            )
        return True

    def _begin(self, unfinished: Path, directory: Directory, kept: Directory | None) -> Mask:
        """Put in place what is there of it already; which parts these are."""
        catalogue, header = directory.catalogue, directory.header
        has = np.zeros(header.parts, np.bool_)
        self._site.store.make("directory")
        for old in unfinished.parent.glob(f"{self._name}.*.entries.part"):
            if old != unfinished:
                old.unlink(missing_ok=True)
        try:
            unfinished.touch(mode=0o600)
            with unfinished.open("r+b") as file:
                if header.size:
                    take_room(file.fileno(), header.size)
                for number, start in enumerate(catalogue.starts[:-1].tolist()):
                    size = int(catalogue.counts[number]) * header.width
                    file.seek(start * header.width)
                    digest = catalogue.digests[number].tobytes()
                    if digest_of_part(file.read(size)) == digest:
                        has[number] = True
                    elif kept is not None and _same_part(kept, directory, number):
                        with contextlib.suppress(
                            ModelError, FileNotFoundError
                        ):  # damaged: fetched again
                            content = kept.read(number)
                            file.seek(start * header.width)
                            file.write(content)
                            has[number] = True
        except OSError as error:
            what = f"the directory of {self._host.name}"
            folder = unfinished.parent
            raise DataError(no_room(folder, header.size, what, error), for_peer=NO_ROOM) from None
        return has


def _same_part(kept: Directory, directory: Directory, number: int) -> bool:
    same = kept.header.parts == directory.header.parts and kept.header.width == directory.header.width
    old, new = kept.catalogue.digests, directory.catalogue.digests
    return same and old[number].tobytes() == new[number].tobytes()


def _groups(missing: Sequence[int], directory: Directory) -> Iterator[list[int]]:
    """Parts that go into one message each time."""
    group: list[int] = []
    size = 0
    for number in missing:
        more = int(directory.catalogue.counts[number]) * directory.header.width
        if group and (size + more > PARTS or len(group) == ASKED):
            yield group
            group, size = [], 0
        group.append(number)
        size += more
    if group:
        yield group


def _put_parts(path: Path, directory: Directory, numbers: Sequence[int], content: bytes) -> bool:
    """Write parts to their places, until one is not as the catalogue says; whether all are."""
    starts, width = directory.catalogue.starts, directory.header.width
    at = 0
    try:
        with path.open("r+b") as file:
            for number in numbers:
                first, stop = int(starts[number]) * width, int(starts[number + 1]) * width
                part = content[at : at + stop - first]
                if digest_of_part(part) != directory.catalogue.digests[number].tobytes():
                    return False
                file.seek(first)
                file.write(part)
                at += stop - first
    except OSError as error:
        raise DataError(f"{path} cannot be written: {reason(error)}") from None
    return True


def _finish(unfinished: Path, path: Path) -> None:
    try:
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {reason(error)}") from None
