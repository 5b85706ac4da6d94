"""Directories that are fetched: gone on with, checked part by part, by several processes at once."""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from silent import Silent
from test_directory import KEY, PART, PARTS, PLAIN, ROWS, Sealed, header_of, sealed_table

from vfl.crypto import voprf
from vfl.errors import ConfigError, DataError, DayIsFull, PeerError, PeerLost
from vfl.jobs import directories
from vfl.jobs.directories import DirectoryReader, fetch_directory
from vfl.net.peer import MemoryPeer
from vfl.party.identity import Identity, create
from vfl.party.store import Store
from vfl.protocols.lookup import directory as sealed
from vfl.protocols.lookup import lookup, messages
from vfl.protocols.lookup.directory import Catalogue, encode_header, statement
from vfl.protocols.lookup.lookup import LookupSession, host_lookups

BITS = 4
WIDTH = sealed.TAG + PART


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return create(tmp_path_factory.mktemp("owner") / "registry", "registry")


class Host:
    """A host that notes which parts it is asked for, and ends a session after some of them."""

    def __init__(
        self, owner: Identity, parts: list[bytes], before: Catalogue | None = None, age: int = 0
    ) -> None:
        table, made, entries = sealed_table(PLAIN, parts, before, BITS, seed=f"{age}")
        header = header_of(table, made, BITS)
        made_at = datetime(2020, 11, 29, 12, tzinfo=UTC) + timedelta(seconds=age)
        header = msgspec.structs.replace(
            header, made=made_at, version=f"20261129-12000{abs(age)}-aaaaaa"
        )
        self.made: Sealed = made
        self.signed = encode_header(header)
        self.signature = owner.sign(statement(self.signed))
        self.catalogue, self.version, self.most_a_minute = made.catalogue, header.version, 0
        self.entries = entries
        self.width, self.admitted, self.most = WIDTH, 0, 1 << 30
        self.asked: list[int] = []
        self.after: Callable[[int], None] = lambda count: None

    def read(self, part: int) -> bytes:
        self.asked.append(part)
        self.after(len(self.asked))
        first, stop = self.catalogue.starts[part], self.catalogue.starts[part + 1]
        return self.entries[first * WIDTH : stop * WIDTH]

    async def newest(self) -> "Host":
        return self

    async def admit(self, points: int) -> None: ...

    async def admit_fetch(self, size: int) -> None:
        self.admitted += size
        if self.admitted > self.most:
            raise DayIsFull("its rule")

    def secret_of(self, public: bytes) -> bytes | None:
        return KEY


def fetch(owner: Identity, folder: Path, *hosts: Any) -> list[DirectoryReader]:
    """What comes of fetching from these hosts at the same time, into one store."""
    half = SimpleNamespace(name="m", trained_name="m", normalise=("trim",), fallback=())
    data = SimpleNamespace(keys=[SimpleNamespace(id=("id",))])
    party = SimpleNamespace(name="insurer", data=data)

    async def one(host: Any) -> DirectoryReader:
        pinned = {"registry": owner.certificate}
        site: Any = SimpleNamespace(store=Store(folder), party=party, pinned=pinned)
        to_host, to_guest = MemoryPeer.pair("insurer", "registry")
        serving = asyncio.create_task(host_lookups(to_guest, host, secrets.token_bytes))
        serving.add_done_callback(lambda done: asyncio.ensure_future(to_guest.close()))
        try:
            async with LookupSession(to_host, secrets.token_bytes).open() as session:
                return await fetch_directory(site, half, session, Silent())  # type: ignore[arg-type]
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)

    async def every() -> list[DirectoryReader]:
        return list(await asyncio.gather(*map(one, hosts)))

    return asyncio.run(every())


def opens(reader: DirectoryReader, parts: list[bytes]) -> None:
    ids = [b"id%d" % row for row in range(ROWS)]
    assert reader.open(voprf.outputs(KEY, sealed.inputs_of(0, ids))) == parts


def test_a_fetch_that_was_cut_short_goes_on(
    tmp_path: Path, owner: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directories, "PARTS", 1)  # a part a message
    host = Host(owner, PARTS)

    def breaks(count: int) -> None:
        if count == 6:
            raise PeerLost("a test")

    host.after = breaks
    with pytest.raises(PeerLost):
        fetch(owner, tmp_path, host)
    (unfinished,) = (tmp_path / "directories").glob("*.entries.part")
    assert unfinished.stat().st_size == len(host.entries)
    host.asked, host.after = [], lambda count: None
    (reader,) = fetch(owner, tmp_path, host)
    assert host.asked == list(range(5, 1 << BITS))
    opens(reader, PARTS)
    host.asked = []
    opens(fetch(owner, tmp_path, host)[0], PARTS)
    assert host.asked == []
    assert [path.suffix for path in (tmp_path / "directories").glob("*.entries*")] == [".entries"]


def test_of_the_next_one_the_changed_parts_alone_are_fetched(tmp_path: Path, owner: Identity) -> None:
    first = Host(owner, PARTS)
    fetch(owner, tmp_path, first)
    changed = [b"other" if row in (3, 77) else part for row, part in enumerate(PARTS)]
    second = Host(owner, changed, first.catalogue, age=1)
    (reader,) = fetch(owner, tmp_path, second)
    assert 1 <= len(second.asked) <= 2 and second.made.written == len(second.asked)
    opens(reader, changed)
    (path,) = (tmp_path / "directories").glob("*.entries")
    assert path.read_bytes() == second.entries


def test_two_processes_fetch_one_after_the_other(
    tmp_path: Path, owner: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directories, "_LOOK", 0.0)
    host = Host(owner, PARTS)
    readers = fetch(owner, tmp_path, host, host, host)
    assert host.asked == list(range(1 << BITS))
    for reader in readers:
        opens(reader, PARTS)


def spoilt(host: Host, how: str) -> Host:
    real = host.read

    def read(part: int) -> bytes:
        content = real(part)
        if part != 7:
            return content
        rows = np.frombuffer(content, np.uint8).reshape(-1, WIDTH)
        lies = {
            "truncated": content[:-1],
            "a row less": content[:-WIDTH],
            "a row twice": content + content[:WIDTH],
            "reordered": rows[::-1].tobytes(),
            "another part": real(8),
            "a bit flipped": bytes([content[0] ^ 1]) + content[1:],
        }
        return lies[how]

    host.read = read  # type: ignore[method-assign]
    return host


@pytest.mark.parametrize(
    "how", ["truncated", "a row less", "a row twice", "reordered", "another part", "a bit flipped"]
)
def test_parts_that_are_not_the_catalogues_are_refused_and_kept_ones_stay(
    tmp_path: Path, owner: Identity, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(directories, "PARTS", 1)
    with pytest.raises(PeerError, match=r"^registry broke the protocol: it sent SealedParts") as raised:
        fetch(owner, tmp_path, spoilt(Host(owner, PARTS), how))
    assert "\n" not in str(raised.value)
    (reader,) = fetch(owner, tmp_path, Host(owner, PARTS))
    opens(reader, PARTS)


def test_a_catalogue_of_another_version_and_more_than_the_disk_holds_are_refused(
    tmp_path: Path, owner: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(owner, PARTS)
    host.catalogue = replace(host.catalogue, digests=host.catalogue.digests[::-1].copy())
    with pytest.raises(PeerError, match="CatalogueRows of another digest"):
        fetch(owner, tmp_path, host)

    def full(file: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(directories, "take_room", full)
    with pytest.raises(DataError, match="has no room for 0 MB of the directory of registry"):
        fetch(owner, tmp_path, Host(owner, PARTS))


def test_a_host_whose_directory_changes_all_the_time_ends_the_fetch(
    tmp_path: Path, owner: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(owner, PARTS)
    gone = messages.SealedParts(b"", gone=True)

    async def parts(*arguments: object) -> messages.SealedParts:
        return gone

    monkeypatch.setattr(lookup, "_parts", parts)
    with pytest.raises(Exception, match="registry makes directories faster than they can be fetched"):
        fetch(owner, tmp_path, host)


def test_who_gets_no_more_today_goes_on_with_what_is_kept(tmp_path: Path, owner: Identity) -> None:
    first = Host(owner, PARTS)
    first.most = len(first.entries) + 44 * 2**BITS  # all of it once
    fetch(owner, tmp_path, first)
    assert first.admitted == first.most  # parts and catalogue, and nothing else, are counted
    other = [b"other"] * len(PARTS)
    second = Host(owner, other, age=1)
    for allowed in (0, 44 * 2**BITS):  # not even the catalogue; no part
        second.most, second.admitted, second.asked = allowed, 0, []
        (reader,) = fetch(owner, tmp_path, second)
        assert (reader.header.version, reader.newest) == (first.version, second.version)
        assert second.asked == []
        opens(reader, PARTS)
    second.most = 1 << 30
    (reader,) = fetch(owner, tmp_path, second)
    assert (reader.header.version, reader.newest) == (second.version, "")
    opens(reader, other)
    second.most = second.admitted = 0
    with pytest.raises(DayIsFull, match=r"^registry sends nothing of its directory: its rule"):
        fetch(owner, tmp_path / "nothing kept", second)


def test_a_directory_of_a_time_to_come_is_refused_and_blocks_no_later_one(
    tmp_path: Path, owner: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a one would never be too old, whatever `max_age` says."""
    host = Host(owner, PARTS)
    made = datetime(2020, 11, 29, 12, tzinfo=UTC)

    def at(moment: datetime) -> None:
        monkeypatch.setattr(directories, "datetime", SimpleNamespace(now=lambda tz: moment))

    at(made - timedelta(minutes=61))
    with pytest.raises(ConfigError, match="of 2020-11-29 12:00 UTC, which is yet to come: the clock of"):
        fetch(owner, tmp_path, host)
    at(made - timedelta(minutes=59))
    fetch(owner, tmp_path, host)
    at(made - timedelta(days=3))  # the clock was wrong when that one was kept
    earlier = Host(owner, [b"other"] * len(PARTS), age=-1)
    header = msgspec.structs.replace(sealed.decode_header(earlier.signed), made=made - timedelta(days=4))
    earlier.signed = encode_header(header)
    earlier.signature = owner.sign(statement(earlier.signed))
    opens(fetch(owner, tmp_path, earlier)[0], [b"other"] * len(PARTS))
