"""Lookups in a ledger: counts by the minute, sealed, on which two parties' ledgers agree."""

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from vfl.errors import DataError
from vfl.jobs import journal
from vfl.jobs.journal import Journal
from vfl.net.hello import PROTOCOL, Hello
from vfl.net.peer import MemoryPeer
from vfl.net.wire import Message
from vfl.party import ledger
from vfl.party.audit import compare, tables, verify
from vfl.party.identity import Identity, create
from vfl.party.ledger import Ledger, MessageEntry
from vfl.party.store import Store
from vfl.protocols.lookup.messages import LookedUp, LookUp, LookupEnd

NAMES = ("insurer", "registry")


@pytest.fixture(scope="module")
def owners(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Identity]:
    folder = tmp_path_factory.mktemp("owners")
    return {name: create(folder / name, name) for name in NAMES}


def talk(
    folder: Path,
    owners: dict[str, Identity],
    lookups: int,
    breaks: Callable[[int], bool] = lambda n: False,
    minute_over: Callable[[int], list[str]] = lambda n: [],
    killed: str | None = None,
) -> dict[str, Path]:
    """The ledgers of a session with so many lookups of three ids each; `breaks` says behind which one
    the answer is not received any more, `minute_over` for whom a minute ends behind each. Whose process
    is `killed` after the last one writes nothing more down."""
    journals = {}
    for name, role in zip(NAMES, ("guest", "host"), strict=True):
        own = Ledger(folder / name / "ledger", owners[name], role)
        journals[name] = Journal(own, Store(folder / name))

    async def run() -> None:
        to_host, to_guest = MemoryPeer.pair(*NAMES)
        journals["insurer"].watch(to_host)
        journals["registry"].watch(to_guest)

        async def pass_on(sender: MemoryPeer, receiver: MemoryPeer, message: Message) -> None:
            await sender.send(message)
            await receiver.recv(type(message))

        for one, other in ((to_host, to_guest), (to_guest, to_host)):
            await pass_on(
                one,
                other,
                Hello(PROTOCOL, "0", "guest", one.name.encode().ljust(32), bytes(32), bytes(32)),
            )
        for number in range(lookups):
            points = bytes([number]) * 96
            await pass_on(to_host, to_guest, LookUp(bytes(32), points))
            answer = LookedUp(points, b"", "1")
            if breaks(number):
                await to_guest.send(answer)
                return
            await pass_on(to_guest, to_host, answer)
            for name in minute_over(number):
                for session in [*journals[name].counting]:
                    session._minute_is_over()
        if killed is None:
            await pass_on(to_host, to_guest, LookupEnd())

    asyncio.run(run())
    for name, one in journals.items():
        if name == killed:
            continue
        one.seal(lambda text: pytest.fail(text))
    return {name: folder / name / "ledger" for name in NAMES}


def entries(path: Path) -> list[MessageEntry]:
    (file,) = ledger.months(path)
    found = [ledger.decode(line).entry for line in file.read_bytes().splitlines()]
    return [entry for entry in found if isinstance(entry, MessageEntry)]


def test_a_line_stands_for_all_lookups_and_both_ledgers_agree(
    tmp_path: Path, owners: dict[str, Identity]
) -> None:
    ledgers = talk(tmp_path, owners, 50)
    for name, path in ledgers.items():
        counts = [entry for entry in entries(path) if entry.type in ("LookUp", "LookedUp")]
        assert [(entry.count, entry.rows) for entry in counts] == [(50, 150)] * 2
        assert verify.verify(path, owners[name].certificate).damage == []
        totals = {one.type: (one.messages, one.rows) for one in tables.totals(tables.rows(path))}
        assert totals["LookUp"] == totals["LookedUp"] == (50, 150)
    found = compare.compare(*ledgers.values())
    assert (found.sessions, found.messages) == (1, 2 + 2 * 50 + 1)
    assert (found.differences, found.in_flight) == ([], [])
    again = compare.compare(*reversed(ledgers.values()))
    assert (again.messages, again.differences, again.in_flight) == (found.messages, [], [])


@pytest.mark.parametrize("killed", NAMES)
@pytest.mark.parametrize("minutes", [0, 1, 3])
def test_a_minute_that_a_killed_process_has_not_written_down_is_named(
    tmp_path: Path, owners: dict[str, Identity], killed: str, minutes: int
) -> None:
    """Whichever side it was, and whether anything had been written before."""

    def minute_over(number: int) -> list[str]:
        return list(NAMES) if number < 5 * minutes and number % 5 == 4 else []

    ledgers = talk(tmp_path, owners, 5 * minutes + 7, minute_over=minute_over, killed=killed)
    for pair in (ledgers.values(), reversed(ledgers.values())):
        found = compare.compare(*pair)
        assert (found.sessions, found.differences) == (1, [])
        assert found.messages == 2 + 2 * 5 * minutes
        (lost,), (under_way,) = found.lost, found.in_flight
        why = f"{killed}'s process ended before it had written its last minute down"
        assert lost.endswith(f"of which its ledger has {5 * minutes}: {why}")
        assert under_way.endswith(f"of which its ledger has {5 * minutes}, or {why}")
        kind = "LookUp" if killed == "insurer" else "LookedUp"
        assert f": {5 * minutes + 7} {kind} in the session" in lost


def test_more_than_a_minute_is_not_lost_by_a_kill(tmp_path: Path, owners: dict[str, Identity]) -> None:
    """A party whose ledger lacks several minutes has more to explain."""
    minutes = {4: ["registry"], 9: ["registry"], 14: ["registry"]}
    ledgers = talk(
        tmp_path, owners, 17, minute_over=lambda number: minutes.get(number, []), killed="insurer"
    )
    found = compare.compare(*ledgers.values())
    assert found.lost == found.in_flight == []
    assert len(found.differences) == 2
    assert all(text.endswith("of which its ledger has 0") for text in found.differences)


@pytest.mark.parametrize("seed", range(12))
def test_whenever_minutes_end_lines_add_up_and_ledgers_agree(
    tmp_path: Path, owners: dict[str, Identity], seed: int
) -> None:
    rng = random.Random(seed)
    lookups = rng.randrange(1, 40)
    killed = rng.choice([None, *NAMES])
    ends = {
        number: [
            name for name in NAMES if rng.random() < 0.15 and (name != killed or number < lookups - 9)
        ]
        for number in range(lookups)
    }
    if killed is not None:  # its last minute is not over, and that of the other is but once
        other = NAMES[1 - NAMES.index(killed)]
        last = max((number for number, names in ends.items() if killed in names), default=-1)
        after = [number for number in range(last + 1, lookups) if other in ends[number]]
        for number in after[1:]:
            ends[number].remove(other)
    ledgers = talk(tmp_path, owners, lookups, minute_over=lambda number: ends[number], killed=killed)
    for name, path in ledgers.items():
        lines = [entry for entry in entries(path) if entry.type == "LookUp"]
        written = [number for number in range(lookups) if name in ends[number]]
        total = lookups if name != killed else written[-1] + 1 if written else 0
        assert sum(entry.count for entry in lines) == total
        assert sum(entry.rows or 0 for entry in lines) == 3 * total
        assert len(lines) == len(written) + (name != killed and lookups - 1 not in written)
        assert verify.verify(path, owners[name].certificate).damage == []
    found = compare.compare(*ledgers.values())
    assert found.differences == []
    assert len(found.lost) == (killed is not None)


def test_lines_of_single_messages_are_as_they_were(tmp_path: Path, owners: dict[str, Identity]) -> None:
    ledgers = talk(tmp_path, owners, 1)
    (file,) = ledger.months(ledgers["insurer"])
    lines = [line for line in file.read_text().splitlines() if '"type":"Hello"' in line]
    assert lines and all('"messages"' not in line for line in lines)


def test_what_was_on_the_way_when_a_connection_broke_is_no_difference(
    tmp_path: Path, owners: dict[str, Identity]
) -> None:
    found = compare.compare(*talk(tmp_path, owners, 9, breaks=lambda n: n == 4).values())
    assert found.differences == []
    (text,) = found.in_flight
    assert "5 LookedUp in the session" in text and text.endswith("of which its ledger has 4")


@pytest.mark.parametrize("lie", ["fewer", "others"])
def test_other_counts_or_other_messages_are_a_difference(
    tmp_path: Path, owners: dict[str, Identity], lie: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledgers = talk(tmp_path, owners, 6)
    real = compare.entries_of

    def entries_of(path: Path):  # type: ignore[no-untyped-def]
        for line, parsed in real(path):
            entry = parsed.entry
            mine = path == ledgers["insurer"] and isinstance(entry, MessageEntry)
            if mine and entry.type == "LookUp":
                changed = {"messages": 5} if lie == "fewer" else {"blake3": "0" * 64}
                parsed = parsed._replace(entry=msgspec.structs.replace(entry, **changed))
            yield line, parsed

    monkeypatch.setattr(compare, "entries_of", entries_of)
    (text,) = compare.compare(*ledgers.values()).differences
    assert f"{5 if lie == 'fewer' else 6} LookUp in the session" in text


async def is_over(writing: Journal) -> None:
    """Wait for the end of the minute."""
    while writing.counting:
        await asyncio.sleep(0)


def test_counts_are_written_and_sealed_when_their_minute_is_over(
    tmp_path: Path, owners: dict[str, Identity], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "_MINUTE", 0.0)
    own = Ledger(tmp_path / "ledger", owners["insurer"], "guest")
    peer, _ = MemoryPeer.pair(*NAMES)
    writing = Journal(own, Store(tmp_path))
    writing.watch(peer)

    async def run() -> None:
        await peer.send(LookUp(bytes(32), bytes(32)))
        await peer.send(LookUp(bytes(32), bytes(64)))
        await is_over(writing)
        await peer.send(LookUp(bytes(32), bytes(32)))
        await is_over(writing)

    asyncio.run(run())
    assert [(entry.count, entry.rows) for entry in entries(own.folder)] == [(2, 3), (1, 1)]
    found = verify.verify(own.folder, owners["insurer"].certificate)
    assert (found.damage, found.seals, found.sealed) == ([], 2, found.lines)


def test_no_lookup_leaves_once_the_ledger_cannot_be_written(
    tmp_path: Path, owners: dict[str, Identity], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "_MINUTE", 0.0)
    own = Ledger(tmp_path / "ledger", owners["insurer"], "guest")
    peer, _ = MemoryPeer.pair(*NAMES)
    writing = Journal(own, Store(tmp_path))
    writing.watch(peer)

    def full(*arguments: object) -> int:
        raise DataError("the disk is full")

    monkeypatch.setattr(own, "append", full)

    async def run() -> None:
        await peer.send(LookUp(bytes(32), bytes(32)))
        await is_over(writing)
        with pytest.raises(DataError, match="the disk is full"):
            await peer.send(LookUp(bytes(32), bytes(32)))

    asyncio.run(run())
