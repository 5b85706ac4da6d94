"""Lookups at a host for as long as a guest needs them: found, renewed, refused, lost and found again."""

import asyncio
import contextlib
import gc
import json
import random
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from federation import JOB, Federation, write_table
from room import HOSTS, Room

from vfl.crypto import group, voprf
from vfl.crypto.randomness import OF_SYSTEM
from vfl.errors import (
    DataError,
    DayIsFull,
    ModelError,
    PeerLost,
    PeerStopped,
    PeerUnreachable,
    RateIsFull,
    Refused,
    VflError,
)
from vfl.jobs import approval, directories, directory_check, lookup_limits, lookups, publishing
from vfl.jobs import host_lookups as at_host
from vfl.jobs.check_result import CheckResult
from vfl.jobs.directories import kept_reader
from vfl.jobs.host_lookups import HostLookups, Meeting, Patience
from vfl.jobs.publishing import publish, withdraw
from vfl.models.halves import GuestHalf, HostHalf
from vfl.models.kinds import load_half
from vfl.net.peer import MemoryPeer, Peer, stop_all
from vfl.party import approvals, fetched
from vfl.party.approval_uses import ApprovalUses
from vfl.party.approvals import Approvals
from vfl.party.directories import KeptKey, OwnDirectory, name_of
from vfl.party.fetched import Fetched
from vfl.party.keys import all_keys
from vfl.party.policy import Usage
from vfl.party.policy_section import PolicySection
from vfl.party.store import Store
from vfl.party.table import read_table
from vfl.protocols.lookup.directory import decode_header
from vfl.protocols.lookup.lookup import LookupSession, host_lookups
from vfl.protocols.lookup.messages import NotLookedUp

LONG = 60  # seconds: kernels may have to be compiled first
PATIENT = Patience(20, 5)

Trained = tuple[Room, str]


class InRoom:
    """As `Meeting`, with hosts that work in this process; `away` are those that do not answer."""

    def __init__(self, room: Room) -> None:
        self.room, self.site = room, room.site("insurer")
        self.away: set[str] = set()
        self.peers: dict[str, MemoryPeer] = {}

    @contextlib.asynccontextmanager
    async def session(self, name: str, wait: float) -> AsyncIterator[Peer]:
        if name in self.away:
            raise PeerUnreachable(f"{name} cannot be reached")
        to_host, to_guest = MemoryPeer.pair("insurer", name)
        self.peers[name] = to_guest
        task = asyncio.create_task(self.room._serve(name, to_guest))
        try:
            yield to_host
        except VflError as error:
            await stop_all([to_host], error)
            raise
        finally:
            await to_host.close()
            task.cancel()
            await asyncio.wait([task])  # which gives back what it has counted ahead


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[tuple[Room, str]]:
    with pytest.MonkeyPatch.context() as patch:
        room = Room(Federation(tmp_path_factory.mktemp("lookups"), keys, guest_listens=True))
        room.patch(patch)
        patch.setattr(at_host, "_PAUSES", (0.01, 0.02))
        patch.setattr(at_host, "_REFUSED", 0.02)
        for name in HOSTS:
            room.federation.parties[name].settings["policy"]["directories"] = True
        room.align()
        yield room, room.train(JOB)


def ids_of(room: Room) -> list[list[bytes]]:
    """The normalised ids of the batch's rows."""
    site = room.site("insurer")
    data = site.party.data
    table = read_table(data, role="guest", need_label=False, path=room.folder / "new.csv", expect=())
    rules = [key.normalise for key in data.keys]
    keys = all_keys(table.by_key(data), rules, "keep", data.empty).keys
    return [[key.ids[place]] for key in keys for place in key.of_row.tolist()]


@contextlib.asynccontextmanager
async def looking(
    room: Room, model: str, host: str = "registry", patience: Patience = PATIENT
) -> AsyncIterator[tuple[InRoom, HostLookups]]:
    meeting = InRoom(room)
    half = load_half(meeting.site.store, model, GuestHalf)
    found = HostLookups(meeting, half, host, room.said["insurer"], patience)
    async with found.open():
        yield meeting, found


async def find(lookups: HostLookups, ids: Sequence[Sequence[bytes]]) -> list[bytes | None]:
    """The parts of rows."""
    return (await lookups.look_up(ids)).parts


def test_rows_are_found_one_by_one_and_many_at_once(room: Trained) -> None:
    there, model = room
    ids = ids_of(there)

    async def run() -> tuple[list[bytes | None], list[bytes | None]]:
        async with looking(there, model) as (_, found):
            await found.wait(LONG)
            whole = await find(found, ids)
            alone = await asyncio.gather(*(find(found, [one]) for one in ids[:40]))
            assert {len(part) for part in whole if part is not None} == {found.layout.size}
            assert await find(found, [[b"no such id"], [b""]]) == [None, None]
            assert await find(found, []) == []
            assert (datetime.now(UTC) - found.made) < timedelta(minutes=5)
            return whole, [part for (part,) in alone]

    whole, alone = asyncio.run(run())
    assert whole[:40] == alone
    assert None in whole and len(set(whole)) > 3


def test_what_lookups_take_is_loaded_before_any_is_answered(
    room: Trained, policy: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    there, model = room
    loaded: list[str] = []
    monkeypatch.setattr(group, "prepare", lambda: loaded.append("kernels"))
    evaluate = voprf.evaluate

    def noted(*of: Any) -> Any:
        loaded.append("answer")
        return evaluate(*of)

    monkeypatch.setattr(voprf, "evaluate", noted)

    async def run() -> None:
        async with looking(there, model) as (_, found):
            await found.wait(LONG)
            await find(found, [[b"no such id"]])

    asyncio.run(run())
    assert loaded == ["kernels", "answer"]
    loaded.clear()
    site = there.site("registry")
    try:
        asyncio.run(lookups.ready_for_lookups(site))  # before it listens: it has a directory
        assert gc.get_freeze_count()  # and no lookup waits for the collector to look through all of it
    finally:
        gc.unfreeze()
    assert loaded == ["kernels"]
    asyncio.run(lookups.ready_for_lookups(there.site("insurer")))
    policy["directories"] = False
    asyncio.run(lookups.ready_for_lookups(there.site("registry")))
    assert loaded == ["kernels"]


def test_a_host_that_is_away_is_said_to_be_and_met_again(room: Trained) -> None:
    there, model = room
    (one,) = ids_of(there)[:1]

    async def run() -> None:
        async with looking(there, model) as (meeting, found):
            await found.wait(LONG)
            assert found.known
            before = await find(found, [one])
            version = found.version
            meeting.away.add("registry")
            await meeting.peers["registry"].close()  # as a host that is killed
            with pytest.raises(PeerLost):
                await find(found, [one])
            await told(lambda: not found.is_here)
            with pytest.raises(PeerUnreachable, match=r"^registry is away: "):
                await find(found, [one])
            assert found.version == version  # what is known of its directory stays known
            with pytest.raises(PeerUnreachable, match="cannot be reached"):
                await told(lambda: "cannot be reached" in found._why)
                await found.wait(0)
            meeting.away.clear()
            await found.wait(LONG)
            assert await find(found, [one]) == before

    asyncio.run(run())
    # Another process knows the directory before it has met anybody.
    half = load_half(there.site("insurer").store, model, GuestHalf)
    assert kept_reader(there.site("insurer"), half, "registry") is not None


def test_a_session_that_broke_is_said_to_be_taken_up_again(
    room: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not that there was none yet: the host was killed, and nobody knows it for lost yet."""
    there, model = room

    async def run() -> None:
        meeting = InRoom(there)
        meeting.away.add("registry")
        half = load_half(meeting.site.store, model, GuestHalf)
        async with HostLookups(meeting, half, "registry", there.said["insurer"]).open() as found:
            with pytest.raises(PeerUnreachable, match="no session with registry yet"):
                await find(found, [[b"one"]])
            meeting.away.clear()
            await found.wait(LONG)
            with monkeypatch.context() as patch:
                patch.setattr(HostLookups, "is_here", False)  # as while its connection is looked for
                with pytest.raises(PeerUnreachable, match=f"registry is away: {at_host.LOST}"):
                    await find(found, [[b"one"]])
            assert await find(found, [[b"no such id"]]) == [None]

    asyncio.run(run())


def test_a_host_that_does_not_answer_is_not_waited_for(
    room: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, model = room
    (one,) = ids_of(there)[:1]
    silent = asyncio.Event()

    async def admit(self: object, points: int) -> None:
        await silent.wait()

    async def run() -> None:
        async with looking(there, model, patience=Patience(0.2, 5)) as (_, found):
            await found.wait(LONG)
            monkeypatch.setattr(lookups._Source, "admit", admit)
            with pytest.raises(PeerLost, match=r"^registry did not answer within 0.2 s$"):
                await find(found, [one])
            silent.set()
            monkeypatch.undo()
            await told(lambda: found.is_here)
            assert await find(found, [one]) is not None

    asyncio.run(run())


def test_a_session_that_is_idle_hears_of_a_newer_directory(
    room: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, model = room
    monkeypatch.setattr(at_host, "_LOOK", 0.01)

    async def run() -> None:
        async with looking(there, model, patience=Patience(20, 5, 0.01)) as (_, found):
            await found.wait(LONG)
            first = found.version
            done = await asyncio.to_thread(
                publish, there.site("registry"), model, there.said["registry"], renew=True
            )
            await changed(found, first)  # though nobody looks anything up
            assert found.version == done.own.directory.header.version

    asyncio.run(run())


@pytest.mark.parametrize("ended", [None, "the service was stopped"])
def test_a_host_hears_what_has_ended_a_session(
    room: Trained, ended: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, _ = room
    site = there.site("insurer")
    to_host, to_guest = MemoryPeer.pair("insurer", "registry")

    async def come(*of: object) -> MemoryPeer:
        return to_host

    monkeypatch.setattr(Meeting, "_await", come)
    monkeypatch.setattr(at_host, "check_role", lambda peer, role: None)
    said = [] if ended is None else [VflError("", for_peer=ended)]
    meeting = Meeting(site, there.said["insurer"], *said)

    async def run() -> None:
        async def idle() -> None:
            async with meeting.session("registry", 1):
                begun.set()
                await asyncio.Event().wait()

        begun = asyncio.Event()
        task = asyncio.create_task(idle())
        await told(lambda: begun.is_set() or task.done())
        task.cancel()
        with pytest.raises(PeerStopped, match=ended or "interrupted by its operator"):
            await to_guest.recv(NotLookedUp)
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(run())


@pytest.mark.parametrize(("own", "said"), [(None, "set listen_for_hosts in "), ("127.0.0.1:0", "")])
def test_a_host_whose_one_session_another_model_has(
    room: Trained, own: str | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, _ = room
    site = there.site("insurer")
    online = SimpleNamespace(listen_for_hosts=own)
    site = replace(site, party=site.party.model_copy(update={"online": online}))
    monkeypatch.setattr(at_host, "check_role", lambda peer, role: None)
    meeting = Meeting(site, there.said["insurer"])

    async def no_connection() -> str:
        with pytest.raises(PeerUnreachable, match="no connection from registry at ") as away:
            async with meeting.session("registry", 0):
                raise AssertionError
        return str(away.value)

    async def run() -> None:
        assert "listen_for_hosts" not in await no_connection()
        meeting._came["registry"] = MemoryPeer.pair("insurer", "registry")[0]  # type: ignore[assignment]
        async with meeting.session("registry", 1):
            assert said in (found := await no_connection()) and ("[online]" in found) == bool(said)
        assert "listen_for_hosts" not in await no_connection()

    asyncio.run(run())


async def changed(found: HostLookups, version: str) -> None:
    """Wait for another version of the directory."""
    async with found._changed:
        await found._changed.wait_for(lambda: found.version != version)


async def newer(found: HostLookups, version: str, ids: list[list[bytes]]) -> None:
    """Look rows up until there is another version of the directory: of which an answer tells, once the
    host has read it."""
    while found.version == version:
        assert len(await find(found, ids)) == len(ids)
        await asyncio.sleep(0.01)


async def told(is_so: Callable[[], object]) -> None:
    """Wait for something, without keeping others from their work."""
    while not is_so():
        await asyncio.sleep(0.01)


def test_a_directory_that_is_made_anew_is_fetched_as_far_as_it_changed(
    room: Trained, policy: dict[str, Any]
) -> None:
    there, model = room
    registry = there.federation.parties["registry"]
    table, known = registry.table.read_bytes(), there.federation.tables["registry"]
    ids = ids_of(there)

    async def run() -> None:
        async with looking(there, model) as (_, found):
            await found.wait(LONG)
            first, parts = found.version, await find(found, ids)
            power = [repr(999.0) if cell else cell for cell in known["power"]]
            write_table(registry.table, {**known, "power": power})
            done = await asyncio.to_thread(
                publish, there.site("registry"), model, there.said["registry"]
            )
            assert (done.renewed, done.unchanged) == (False, False)
            await newer(found, first, ids[:1])
            assert found.version == done.own.directory.header.version
            assert await find(found, ids) != parts
            write_table(registry.table, known)
            back = await asyncio.to_thread(
                publish, there.site("registry"), model, there.said["registry"], renew=True
            )
            assert back.renewed and len(back.own.keys) == 2
            # Lookups under the key before are answered until the new directory is there.
            await newer(found, done.own.directory.header.version, ids)
            assert found.version == back.own.directory.header.version
            assert await find(found, ids) == parts
            again = await asyncio.to_thread(
                publish, there.site("registry"), model, there.said["registry"]
            )
            assert (again.renewed, again.unchanged, again.written) == (False, True, 0)

    try:
        asyncio.run(run())
    finally:
        registry.table.write_bytes(table)
    # A key that is gone at once is noticed, and what it opens fetched, within the lookup.
    asyncio.run(key_that_is_gone(there, model, ids))
    (_,) = (there.folder / "vfl-store" / "directories").glob("registry-*.entries")


async def key_that_is_gone(there: Room, model: str, ids: list[list[bytes]]) -> None:
    async with looking(there, model) as (_, found):
        await found.wait(LONG)
        parts, before = await find(found, ids), found.version
        for _ in range(2):
            await asyncio.to_thread(
                publish, there.site("registry"), model, there.said["registry"], renew=True
            )
        while found.version == before:
            assert await find(found, ids) == parts
            await asyncio.sleep(0.01)
        assert await find(found, ids) == parts


def refused_by(there: Room, model: str, change: Callable[[], object]) -> tuple[VflError, str]:
    """What a lookup ends with once a session is open and something has changed, and what is said where a
    session is opened then."""

    async def run() -> tuple[VflError, str]:
        async with looking(there, model) as (_, found):
            await found.wait(LONG)
            (one,) = ids_of(there)[:1]
            await find(found, [one])
            change()
            with pytest.raises(VflError) as raised:
                await find(found, [one])
        async with looking(there, model) as (_, found):
            with pytest.raises(PeerUnreachable) as away:
                await told(lambda: "stopped the job" in found._why)
                await found.wait(0)
        return raised.value, str(away.value)

    there.heard["registry"].clear()
    return asyncio.run(run())


@pytest.fixture
def policy(room: Trained) -> Iterator[dict[str, Any]]:
    """The registry's policy, as it is again afterwards."""
    rules = room[0].federation.parties["registry"].settings["policy"]
    before = dict(rules)
    yield rules
    rules.clear()
    rules.update(before)


def test_lookups_end_on_the_last_day(
    room: Trained, policy: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    there, model = room
    policy["expires"] = date(2099, 12, 31)
    error, away = refused_by(
        there, model, lambda: monkeypatch.setattr(lookups, "today", lambda: date(2100, 1, 1))
    )
    assert isinstance(error, Refused) and "rule expires = " in str(error)
    assert "registry stopped the job: the day 2100-01-01 breaks rule expires" in away


def test_an_approval_of_lookups_is_used_up_and_asked_for_again(
    room: Trained, policy: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    there, model = room
    monkeypatch.setattr(approval, "_LOOK", 0.01)
    policy |= {"approve": "person", "max_approved_lookups": 10}
    known = Approvals(there.site("registry").store)
    ids, decided = ids_of(there), iter(("2026-11-30T08:00:00+00:00", "2026-11-30T09:00:00+00:00"))
    monkeypatch.setattr(approvals, "now", lambda: next(decided))
    monkeypatch.setattr(lookup_limits, "is_old", lambda *of: False)
    monkeypatch.setattr(approval, "is_old", lambda *of: False)

    async def approve(found: HostLookups) -> None:
        await told(known.waiting)
        known.decide(known.waiting()[0].request.id, "approved", "ada")
        await found.wait(LONG)

    async def run() -> None:
        async with looking(there, model) as (_, found):
            await approve(found)
            await find(found, ids[:7])
            # No room for four: the session ends, and what is left is of no use to smaller questions.
            with pytest.raises(VflError, match="breaks rule max_approved_lookups = 10 of"):
                await find(found, ids[:4])
            await told(lambda: not found.is_here)
            await approve(found)
            assert len(await find(found, ids[:10])) == 10
            with pytest.raises(VflError, match="breaks rule max_approved_lookups = 10 of"):
                await find(found, ids[:1])

    there.heard["registry"].clear()
    asyncio.run(run())
    assert [one.state for one in known.every() if one.decision is not None] == ["approved"] * 2
    (said, *_) = there.heard["registry"]
    assert said.startswith("4 more lookups under the approval of 2026-11-30T08:00:00+00:00 breaks rule")


def test_lookups_that_are_not_done_are_given_back_to_their_approval(room: Trained) -> None:
    store = room[0].site("registry").store
    uses, given = ApprovalUses(store), ("a" * 64, "2026-11-30T08:00:00+00:00")
    uses.count(*given, 600, 700)
    with pytest.raises(DayIsFull):
        uses.count(*given, 101, 700)
    uses.count(*given, -100, 700)
    uses.count(*given, 200, 700)
    assert uses.holds(*given)
    uses.end(*given)
    assert not uses.holds(*given)
    with pytest.raises(DayIsFull):
        uses.count(*given, 1, "unlimited")
    later = given[0], "2026-11-30T09:00:00+00:00"
    assert uses.holds(*later)
    uses.count(*later, 700, 700)


def test_a_policy_without_scoring_or_directories_refuses_by_its_name(
    room: Trained, policy: dict[str, Any]
) -> None:
    there, model = room
    for rule in ("scoring", "directories"):
        policy[rule] = False

        async def run() -> str:
            async with looking(there, model) as (_, found):
                await told(lambda: "stopped the job" in found._why)
                return found._why

        assert f"breaks rule {rule} = false of [policy]" in asyncio.run(run())
        policy[rule] = True


def test_a_directory_that_was_withdrawn_and_a_model_that_is_gone(
    room: Trained, policy: dict[str, Any]
) -> None:
    there, model = room
    store = there.site("registry").store
    error, away = refused_by(there, model, lambda: withdraw(there.site("registry"), model))
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    said = f"the directory of model {model} was withdrawn by registry on {today}"
    assert isinstance(error, Refused) and said in str(error) and said in away
    kept = store.read("model", model)
    publish(there.site("registry"), model, there.said["registry"])
    try:
        error, away = refused_by(there, model, lambda: store.remove("model", model))
    finally:
        store.write("model", model, kept)
    said = f"registry has no model {model}, or has withdrawn it"
    assert said in str(error) and said in away


def test_a_directory_is_of_use_for_some_days_and_its_key_no_longer(
    room: Trained, policy: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    there, model = room
    policy["directory_days"] = 3

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) + timedelta(days=4)

    before = publish(there.site("registry"), model, there.said["registry"], renew=True)
    error, _ = refused_by(there, model, lambda: monkeypatch.setattr(lookups, "datetime", Later))
    assert "older than rule directory_days = 3 of [policy] allows" in str(error)
    monkeypatch.setattr(publishing, "datetime", Later)
    again = publish(there.site("registry"), model, there.said["registry"])
    assert again.renewed and len(again.own.keys) == 1
    assert again.own.keys[0].public != before.own.keys[-1].public
    monkeypatch.undo()
    withdraw(there.site("registry"), model)
    publish(there.site("registry"), model, there.said["registry"])
    own = there.site("insurer").store
    for path in own.folder("directory").iterdir():  # of a day to come: the clock was wrong
        path.unlink()


def source_of(there: Room, model: str) -> Any:
    site = there.site("registry")
    half = load_half(site.store, model, HostHalf)
    return lookups._Source(site, half, "insurer", there.said["registry"], OF_SYSTEM)


def test_a_key_before_the_last_opens_no_directory_that_is_too_old(
    room: Trained, policy: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    there, model = room
    policy["directory_days"] = 3
    first = publish(there.site("registry"), model, there.said["registry"], renew=True)
    second = publish(there.site("registry"), model, there.said["registry"], renew=True)
    before, last = (one.own.keys[-1] for one in (first, second))
    later = last.last + timedelta(days=2)  # as if the second had been made then
    keys = (before, KeptKey(last.secret, last.public, later, later))
    source = source_of(there, model)
    source._own = OwnDirectory(second.own.directory, keys)
    for days, answered in ((3, True), (4, False)):
        moment = before.last + timedelta(days=days)
        clock = SimpleNamespace(now=lambda tz, moment=moment: moment)
        monkeypatch.setattr(lookups, "datetime", clock)
        assert (source.secret_of(bytes.fromhex(before.public)) is not None) == answered
        assert source.secret_of(bytes.fromhex(last.public)) == bytes.fromhex(last.secret)


def test_a_directory_is_read_once_however_often_it_is_asked_for(
    room: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, model = room
    source, read = source_of(there, model), list[str]()
    monkeypatch.setattr(
        lookups, "valid_directory", lambda site, name, now: read.append(name) or found(site, name, now)
    )

    async def run() -> None:
        await source.open()
        read.clear()
        for _ in range(20):
            await source.newest()
            await source.admit(1)
        assert len(read) == 0
        publish(there.site("registry"), model, there.said["registry"])
        version = (await source.newest()).version
        assert len(read) == 1 and version == source.version
        await source.close()

    found = publishing.valid_directory
    asyncio.run(run())


def test_lookups_go_on_by_the_old_directory_while_a_new_one_is_read(
    room: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, model = room
    source, reading, read = source_of(there, model), threading.Event(), threading.Event()
    real = lookups.valid_directory

    def slowly(*arguments: Any) -> Any:
        reading.set()
        read.wait(30)
        return real(*arguments)

    async def run() -> None:
        await source.open()
        before = source.version
        monkeypatch.setattr(lookups, "valid_directory", slowly)
        done = publish(there.site("registry"), model, there.said["registry"])
        for _ in range(5):  # nobody waits, and it is read once
            await source.admit(3)
            assert source.version == before
        await asyncio.to_thread(reading.wait, 30)
        newest = asyncio.create_task(source.newest())  # who fetches gets the new one
        await source.admit(3)
        read.set()
        assert (await newest).version == source.version == done.own.directory.header.version
        # One that is withdrawn is not looked up in any more, not even once.
        withdraw(there.site("registry"), model)
        with pytest.raises(Refused, match="was withdrawn by registry"):
            await source.admit(1)
        await source.close()

    try:
        asyncio.run(run())
    finally:
        read.set()
        publish(there.site("registry"), model, there.said["registry"])


def test_a_new_directory_that_is_damaged_ends_lookups_and_is_read_once(
    room: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, model = room
    source, tried = source_of(there, model), list[object]()

    def damaged(*arguments: object) -> None:
        tried.append(arguments)
        raise ModelError("it is damaged")

    async def run() -> None:
        await source.open()
        publish(there.site("registry"), model, there.said["registry"])
        monkeypatch.setattr(lookups, "valid_directory", damaged)
        for _ in range(2):
            with pytest.raises(ModelError, match="it is damaged"):
                while True:
                    await source.admit(1)
                    await asyncio.sleep(0.001)
        assert len(tried) == 1
        await source.close()

    asyncio.run(run())


def test_a_guest_that_fetches_again_and_again_gets_what_a_day_takes(
    room: Trained, policy: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over one session or many: the count is the store's."""
    there, model = room
    policy["max_fetches_a_day"] = 3
    size = publish(there.site("registry"), model, there.said["registry"]).own.directory.header.size
    (there.federation.parties["registry"].store / "fetched.json").unlink(missing_ok=True)
    monkeypatch.setattr(fetched, "ALWAYS", 0)
    monkeypatch.setattr(lookups, "_BYTES_AHEAD", size // 2)
    got = 0

    async def greedy() -> str:
        nonlocal got
        to_host, to_guest = MemoryPeer.pair("insurer", "registry")
        source, said = source_of(there, model), ""
        await source.open()
        serving = asyncio.create_task(host_lookups(to_guest, source, secrets.token_bytes))
        async with LookupSession(to_host, secrets.token_bytes).open() as session:
            header = decode_header((await session.newest()).header)
            try:
                for _ in range(2):
                    got += len(await session.parts(header.version, [0], size) or b"")
            except DayIsFull as full:
                said = str(full)
            # Lookups are counted by themselves.
            await session.outputs([b"any"], header.key, lambda version: None)
        await serving
        await source.close()
        return said

    said = [asyncio.run(greedy()) for _ in range(5)]
    assert said[0] == "" and "breaks rule max_fetches_a_day = 3 of [policy]" in said[-1]
    assert got == 3 * size
    # The next day begins anew.
    assert Fetched(there.site("registry").store).of(model, lookups.today() + timedelta(1)) == 0


def test_a_directory_that_cannot_be_made_is_not_tried_at_every_call(
    room: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, model = room
    registry, known = there.federation.parties["registry"], there.federation.tables["registry"]
    table, store = registry.table.read_bytes(), there.site("registry").store
    write_table(registry.table, {name: cells for name, cells in known.items() if name != "power"})
    store.remove("directory", model)
    read, real = list[object](), publishing.read_host
    monkeypatch.setattr(publishing, "read_host", lambda *asked: read.append(asked) or real(*asked))

    async def asked() -> VflError:
        with pytest.raises(VflError) as raised:
            await source_of(there, model).open()
        return raised.value

    try:
        first, second = asyncio.run(asked()), asyncio.run(asked())
        assert first.for_peer == second.for_peer == publishing.NOT_AS_IN_TRAINING
        assert isinstance(second, Refused) and f"--model {model}" in str(second)
        assert len(read) == 1
        registry.table.write_bytes(table)
        monkeypatch.setattr(lookups, "_AGAIN", 0.0)
        asyncio.run(source_of(there, model).open())
        assert len(read) == 2
    finally:
        registry.table.write_bytes(table)
        lookups._failed.clear()


def test_of_two_commands_of_a_guest_one_fetches_and_both_read(
    room: Trained, policy: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    there, model = room
    ids, kept = ids_of(there), there.site("insurer").store.folder("directory")
    for path in kept.glob("*"):
        path.unlink()
    publish(there.site("registry"), model, there.said["registry"])
    there.said["insurer"].lines.clear()
    fetch = directories._Fetching._fetch

    async def fetch_while_another_waits(*given: Any) -> Any:
        await told(lambda: there.said["insurer"].has("is being fetched by"))
        return await fetch(*given)

    monkeypatch.setattr(directories._Fetching, "_fetch", fetch_while_another_waits)

    async def run() -> None:
        async with looking(there, model) as (_, one), looking(there, model) as (_, other):
            await asyncio.gather(one.wait(LONG), other.wait(LONG))
            assert one.version == other.version
            publish(there.site("registry"), model, there.said["registry"], renew=True)
            before = one.version
            await newer(one, before, ids[:1])
            # What is not there any more was read by the other before, and is still.
            assert other.version == before and not (kept / other._directory.directory.path).exists()
            assert await find(other, ids) == await find(one, ids)

    asyncio.run(run())
    assert there.said["insurer"].has("is being fetched by")
    assert not there.said["insurer"].has("trying again")
    assert not [*kept.glob("*.lock")] and len([*kept.glob("*.entries*")]) == 1


def test_a_file_of_entries_that_is_gone_is_fetched_again(room: Trained) -> None:
    there, model = room
    (one,) = ids_of(there)[:1]

    async def found() -> list[bytes | None]:
        async with looking(there, model) as (_, lookups):
            await lookups.wait(LONG)
            return await find(lookups, [one])

    before = asyncio.run(found())
    for path in there.site("insurer").store.folder("directory").glob("*.entries"):
        path.unlink()
    assert asyncio.run(found()) == before
    assert there.said["insurer"].has("is damaged: what it lacks is fetched again")


def test_a_file_of_another_host_is_no_directory_of_this_one(room: Trained) -> None:
    """As where a store was copied by hand: the host is not blamed for it."""
    there, model = room
    site, said = there.site("insurer"), there.said["insurer"]
    (one,) = ids_of(there)[:1]

    async def found(host: str) -> list[bytes | None]:
        async with looking(there, model, host) as (_, lookups):
            await lookups.wait(LONG)
            return await find(lookups, [one])

    asyncio.run(found("bureau"))
    before = asyncio.run(found("registry"))
    half = load_half(site.store, model, GuestHalf)
    names = [name_of(half.trained_name, host) for host in ("bureau", "registry")]
    bureaus, registrys = (site.store.folder("directory") / f"{name}.json" for name in names)
    registrys.write_bytes(bureaus.read_bytes())
    assert kept_reader(site, half, "registry") is None
    assert asyncio.run(found("registry")) == before
    assert said.has("is of another model, or not of registry: it is fetched anew")
    assert kept_reader(site, half, "registry") is not None


@pytest.mark.parametrize("said", [0.5, 60.0, 61.0, 1e9])
def test_no_host_has_a_guest_wait_for_more_than_a_minute(said: float) -> None:
    session = LookupSession(MemoryPeer.pair("insurer", "registry")[0], secrets.token_bytes)
    full = session._refused(NotLookedUp("its rule", said))
    assert isinstance(full, RateIsFull) and full.seconds == min(said, 60)


def test_what_was_counted_ahead_is_given_back_and_yesterdays_is_none_of_today(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage, rules = Usage(Store(tmp_path)), PolicySection(max_scored_rows_a_day=2000)
    day = date(2026, 11, 29)
    monkeypatch.setattr(lookup_limits, "today", lambda: day)
    asked = [lookup_limits.Day(lookup_limits.ROWS_AHEAD) for _ in range(3)]  # of three processes

    def count(many: int, on: date) -> None:
        usage.count(rules, "insurer", "scored_rows", many, on)

    async def run() -> None:
        nonlocal day
        for one in asked:
            one.begin()
            await one.take(count, 1)
        day += timedelta(days=1)
        await asked[0].take(count, 1)
        assert usage.of("insurer", day)["scored_rows"] == 1 + lookup_limits.ROWS_AHEAD
        for one in asked:
            await one.end(count)
        assert usage.of("insurer", day)["scored_rows"] == 1
        # What is counted is, also where the session is over meanwhile.
        asked[1].begin()
        await asked[1].take(count, 1)
        closing = asyncio.create_task(asked[1].end(count))
        await asyncio.sleep(0)
        closing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await closing
        assert usage.of("insurer", day)["scored_rows"] == 2
        await asked[1].take(count, 1998)
        with pytest.raises(DayIsFull):
            await asked[2].take(count, 1)

    asyncio.run(run())


@pytest.mark.parametrize("processes", [1, 2])
def test_sessions_that_look_up_at_once_get_the_days_lookups_and_no_more(
    tmp_path: Path, processes: int
) -> None:
    """A guest that opens session after session: of one process they share all; of two at most what one
    has counted ahead is left, and never is there more."""
    usage, rules = Usage(Store(tmp_path)), PolicySection(max_scored_rows_a_day=3000)
    days = [lookup_limits.Day(lookup_limits.ROWS_AHEAD) for _ in range(processes)]
    granted = 0

    def count(many: int, on: date) -> None:
        usage.count(rules, "insurer", "scored_rows", many, on)

    async def session(number: int) -> None:
        nonlocal granted
        day = days[number % processes]
        day.begin()
        with contextlib.suppress(DayIsFull):
            while True:
                await day.take(count, 17)
                granted += 17
        await day.end(count)

    async def run() -> None:
        await asyncio.gather(*(session(number) for number in range(6)))

    asyncio.run(run())
    left = 17 if processes == 1 else lookup_limits.ROWS_AHEAD
    assert 3000 - left < granted <= 3000
    assert sum(usage.of("insurer", lookup_limits.today()).values()) == granted


def test_no_minute_has_more_lookups_than_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the moments at which a guest asks, and some of it given back."""
    rng, now, rules = random.Random(3), 0.0, PolicySection(max_lookups_a_minute=100)
    monkeypatch.setattr(lookup_limits.time, "monotonic", lambda: now)
    rates, granted = lookup_limits.Rates(), list[tuple[float, int]]()
    for _ in range(4000):
        now += rng.choice([0.0, 0.01, 0.4, 0.99, 1.0, 3.0, 59.0])
        many = rng.choice([1, 7, 40, 100])
        try:
            taken = rates.take(rules, "insurer", many)
        except RateIsFull as full:
            assert 0 < full.seconds <= 60
            continue
        if rng.random() < 0.2:
            taken.many -= many
        else:
            granted.append((now, many))
            assert sum(one for at, one in granted if at > now - 60) <= 100
    assert len(granted) > 100


def test_lookups_are_counted_by_the_minute_and_by_the_day(room: Trained, policy: dict[str, Any]) -> None:
    there, model = room
    ids = ids_of(there)
    usage = there.federation.parties["registry"].store / "usage.json"

    def used() -> int:
        counts: dict[str, int] = json.loads(usage.read_text())["guests"]["insurer"]
        return counts.get("scored_rows", 0)

    async def run() -> None:
        async with looking(there, model) as (_, found):
            await found.wait(LONG)
            await find(found, ids[:7])
            with pytest.raises(RateIsFull, match="max_lookups_a_minute = 10") as full:
                await find(found, ids[:4])
            assert 0 < full.value.seconds <= 60
            assert len(await find(found, ids[:3])) == 3
            with pytest.raises(RateIsFull):
                await find(found, ids[:1])

    lookup_limits._rates.clear()
    before, policy["max_lookups_a_minute"] = used(), 10
    asyncio.run(run())
    lookup_limits._rates.clear()
    assert used() == before + 10  # what was counted ahead is given back
    policy["max_lookups_a_minute"] = "unlimited"
    policy["max_scored_rows_a_day"] = before + 10 + 25

    async def day() -> None:
        async with looking(there, model) as (_, found):
            await found.wait(LONG)
            await find(found, ids[:20])
            with pytest.raises(DayIsFull, match="11 more rows to score"):
                await find(found, ids[:11])
            assert len(await find(found, ids[:5])) == 5
            with pytest.raises(DayIsFull):
                await find(found, ids[:1])

    asyncio.run(day())
    assert used() == before + 35


def test_an_older_directory_or_a_forged_one_is_refused(
    room: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, model = room
    site = there.site("registry")
    store, said = site.store, there.said["registry"]
    old = publish(site, model, said).own.directory

    async def fetch(served: Any, text: str) -> None:
        async with looking(there, model) as (_, found):
            monkeypatch.setattr(lookups, "_Served", served)
            await told(lambda: text in found._why)
        monkeypatch.undo()

    async def newest() -> None:
        async with looking(there, model) as (_, found):
            await found.wait(LONG)

    publish(site, model, said)
    asyncio.run(newest())
    real = lookups._Served
    cases = {
        "older than the one of": lambda directory: real(old),
        "a signature that does not hold": lambda directory: real(replace(directory, signature=b"no")),
        "a header that is none": lambda directory: real(replace(directory, signed=b"no")),
    }
    for text, lie in cases.items():
        asyncio.run(fetch(lie, text))
    assert store.names("directory") == [model]


def test_the_size_of_a_directory_is_said_before_it_is_made(
    room: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, model = room
    site, said = there.site("registry"), there.said["registry"]
    header = publish(site, model, said).own.directory.header
    assert said.lines[-1] == f"sealing {header.entries} entries of {header.width} bytes"
    monkeypatch.setattr(publishing, "_SMALL", 0)
    publish(site, model, said)
    assert said.has(f" of {header.width} bytes: 0.0 MB, and 0.0 MB more of the disk meanwhile")
    assert not said.has("distinct splits of this party's columns")
    monkeypatch.setattr(publishing, "_WIDE", header.width - 1)
    publish(site, model, said)
    splits = len(set(header.same))
    assert said.has(f"{model} has {splits} distinct splits of this party's columns, a bit of each row")
    room_left = SimpleNamespace(free=2 * header.size)
    monkeypatch.setattr(publishing.shutil, "disk_usage", lambda folder: room_left)
    with pytest.raises(DataError, match=r"has room for 0 MB, and the directory takes 0 MB while it is"):
        publish(site, model, said)


def test_doctor_says_which_directories_are_of_use(room: Trained, policy: dict[str, Any]) -> None:
    there, model = room
    made = publish(there.site("registry"), model, there.said["registry"]).own.directory

    def found(party: str, days: float = 0) -> tuple[bool, str, str]:
        """Whether it is well, and the line about this model's directory of the registry."""
        results: list[CheckResult] = []
        now = datetime.now(UTC) + timedelta(days=days)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(directory_check, "datetime", SimpleNamespace(now=lambda tz: now))
            healthy = directory_check.check_directories(there.site(party), results.append)
        lines = [(one.level, one.text) for one in results if "bureau" not in one.text]
        (line,) = lines
        return (healthy, *line)

    rows = f"with {made.header.rows} rows"
    last = made.header.made.date() + timedelta(days=30)
    healthy, level, text = found("registry")
    assert (healthy, level) == (True, "ok") and text.endswith(f"{rows}, of use until {last}")
    healthy, level, text = found("registry", 28)
    assert (healthy, level) == (True, "note") and text.endswith(
        f"run `vfl publish PARTY.toml --model {model}`"
    )
    healthy, level, text = found("registry", 31)
    assert (healthy, level) == (False, "FAIL") and "rule directory_days = 30 of [policy]" in text
    healthy, level, text = found("registry", -1)
    assert (healthy, level) == (False, "FAIL") and "which is yet to come" in text
    policy["directories"] = False
    healthy, level, text = found("registry")
    assert (healthy, level) == (True, "note") and "no guest gets it: rule directories = false" in text
    policy["directories"] = True

    async def fetched() -> None:
        async with looking(there, model) as (_, lookups):
            await lookups.wait(LONG)

    asyncio.run(fetched())
    healthy, level, text = found("insurer")
    assert (healthy, level) == (True, "ok") and "of registry is of " in text and text.endswith(rows)
    content = made.path.read_bytes()
    made.path.write_bytes(content[:-1])
    healthy, level, text = found("registry")
    assert (healthy, level) == (False, "FAIL") and "is damaged: it is not as long as it was" in text
    withdraw(there.site("registry"), model)
    healthy, level, text = found("registry")
    assert (healthy, level) == (True, "note") and "was withdrawn on" in text
    publish(there.site("registry"), model, there.said["registry"])
