"""A pinned peer that opens sessions without end, and the others that are pinned beside it."""

import asyncio
from dataclasses import replace

import pytest
from ends import Ends, Number, call, exchange, made_in, registry, until

from vfl.errors import PeerUnreachable
from vfl.net import open_sessions, websocket
from vfl.net.pace import Pace
from vfl.net.websocket import Listener, WebSocketPeer, dial
from vfl.net.window import Opening
from vfl.net.wire import KIB

SMALL = Opening(frame=64 * KIB, window=128 * KIB)


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Ends:
    """The stranger is pinned, too: it is the other peer."""
    made = made_in(tmp_path_factory.mktemp("keys"))
    pins = {**made.registry.pins, "stranger": made.stranger.certificate.der}
    return replace(made, registry=replace(made.registry, pins=pins))


async def call_as_other(ends: Ends, listener: Listener) -> WebSocketPeer:
    other, address = ends.stranger, f"127.0.0.1:{listener.port}"
    own = replace(ends.insurer, name="stranger", certificate=other.certificate_path, key=other.key_path)
    return await dial(own, "registry", address, "guest", 20)


async def deaf(ends: Ends, listener: Listener) -> WebSocketPeer:
    """A session of the insurer's that takes nothing and answers nothing."""
    peer = await call(ends, listener)
    assert peer._link is not None
    peer._link.connection.transport.pause_reading()
    peer._link.connection.transport.write = lambda data: None
    return peer


@pytest.mark.parametrize("accepted", [True, False])
def test_sessions_that_will_not_be_closed_are_bounded(
    ends: Ends, monkeypatch: pytest.MonkeyPatch, accepted: bool
) -> None:
    """The other peer has its session all the same, whether the former are accepted or wait."""
    monkeypatch.setattr(open_sessions, "A_PEER", 2)
    monkeypatch.setattr(open_sessions, "MOST", 5)

    async def run() -> None:
        async with registry(ends, opening=SMALL) as listener:
            opened = []
            for _ in range(12):
                opened.append(await deaf(ends, listener))
                if accepted:
                    await listener.accept()
                assert len(listener._sessions) <= 4
            assert len(listener._sessions.waiting) <= (0 if accepted else 4)
            other = await call_as_other(ends, listener)
            there = await listener.accept()
            while there.name != "stranger":
                there = await listener.accept()
            await exchange(other, there, 1)
            for peer in (other, *opened):
                peer.drop()

    asyncio.run(run())


def test_a_session_that_goes_on_while_it_is_closed_gives_way(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who dials again whenever its session is about to end keeps no more than its share."""
    monkeypatch.setattr(open_sessions, "A_PEER", 1)

    async def run() -> None:
        async with registry(ends, patience=60, opening=SMALL) as listener:
            first = await call(ends, listener, patience=60)
            leaving = await listener.accept()
            assert first._link is not None
            first._link.connection.transport.abort()
            await leaving.send(Number(1))
            await until(lambda: not leaving.away and not first.away)
            for _ in range(2):
                await call(ends, listener)
                await listener.accept()
            await until(lambda: leaving.lost)
            assert leaving not in list(listener._sessions)
            assert len(listener._sessions) <= 2
            first.drop()

    asyncio.run(run())


def test_the_peer_with_most_sessions_gives_way(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when all places are taken; sessions with a job stay."""
    monkeypatch.setattr(open_sessions, "MOST", 3)
    lines: list[str] = []

    async def run() -> None:
        async with registry(ends, lines, opening=SMALL) as listener:
            mine = [await call(ends, listener) for _ in range(3)]
            there = [await listener.accept() for _ in mine]
            mine[0].bind(b"job")
            there[0].bind(b"job")
            other = await call_as_other(ends, listener)
            await exchange(other, await listener.accept(), 1)
            assert [peer.lost for peer in there] == [False, True, False]
            await exchange(mine[0], there[0], 2)
            for peer in (*mine, other):
                peer.drop()

    asyncio.run(run())
    assert lines == []


def test_who_connects_too_often_is_told_so_before_any_greeting(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is written into a ledger for it; others are not held up."""
    monkeypatch.setattr(open_sessions, "AT_ONCE", 3)
    monkeypatch.setattr(open_sessions, "A_SECOND", 0.0)
    lines: list[str] = []
    watched: list[str] = []
    credentials = replace(ends.registry, watch=lambda peer: watched.append(peer.name))

    async def run() -> None:
        async with registry(replace(ends, registry=credentials), lines) as listener:
            for _ in range(3):
                (await call(ends, listener)).drop()
            with pytest.raises(PeerUnreachable, match="connected to too often in a short time"):
                await call(ends, listener, wait=0)
            await until(lambda: lines)
            (await call_as_other(ends, listener)).drop()

    asyncio.run(run())
    assert lines == ["refused a connection from 127.0.0.1: insurer connects too often"]
    assert watched == ["insurer"] * 3 + ["stranger"]


def test_resumptions_count_as_well(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_sessions, "AT_ONCE", 2)
    monkeypatch.setattr(open_sessions, "A_SECOND", 0.0)
    said: list[str] = []

    async def run() -> None:
        async with registry(ends, said, patience=60) as listener:
            peer = await call(ends, listener, patience=60)
            there = await listener.accept()
            for _ in range(2):
                assert peer._link is not None
                peer._link.connection.transport.abort()
                await until(lambda: peer.away or said)
                await until(lambda: not peer.away or said)
            await until(lambda: said)
            assert there.away
            peer.drop()

    asyncio.run(run())
    assert said[0] == "refused a connection from 127.0.0.1: insurer connects too often"


def test_a_pace_comes_back_with_time() -> None:
    pace = Pace(2, 0.5, 100.0)
    assert [pace.take(100.0) for _ in range(3)] == [True, True, False]
    assert [pace.take(101.0), pace.take(102.0), pace.take(102.0)] == [False, True, False]
    assert [pace.take(1e6) for _ in range(3)] == [True, True, False]


def test_leaving_the_block_does_not_wait_for_deaf_sessions(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "LEAVING", 0.1)

    async def run() -> None:
        async with asyncio.timeout(20), registry(ends, opening=SMALL) as listener:
            opened = [await deaf(ends, listener) for _ in range(4)]
        for peer in opened:
            peer.drop()

    asyncio.run(run())
