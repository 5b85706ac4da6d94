"""Large frames, which do not go through the parser of `websockets`, and long messages of a peer."""

import asyncio
import contextlib
import random
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import ClassVar
from unittest import mock

import msgspec
import numpy as np
import pytest
from ends import call, made_in, registry
from traced import traced
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, Protocol, Side

from vfl.net import wire
from vfl.net.connection import ELSEWHERE, PIECES, BoundedConnection
from vfl.net.large import LARGE
from vfl.net.peer import Peer
from vfl.net.session import WebSocketPeer
from vfl.net.wire import KIB, LONG, MIB, Message
from vfl.protocols.common.lattice_sums import Query, Vectors, VectorSums

SIDES = pytest.mark.parametrize("side", [Side.CLIENT, Side.SERVER], ids=["dialled", "listens"])
LIMIT = MIB


def opened(side: Side, size: int = LIMIT) -> tuple[BoundedConnection, list[Frame]]:
    """An end without a socket that has heard one short message, and what it hears from then on."""
    made = BoundedConnection(Protocol(side, state=OPEN, max_size=size), ping_interval=None)
    made.connection_made(mock.Mock(spec=asyncio.Transport))
    heard: list[Frame] = []

    def hear(one: Frame) -> None:
        data = made._large.popleft() if one.data == ELSEWHERE else one.data
        heard.append(Frame(one.opcode, data, one.fin))

    made.recv_messages.put = hear
    made.allow(size)
    made.data_received(frame(side, b"first"))
    heard.clear()
    return made, heard


def frame(to: Side, data: bytes, opcode: Opcode = Opcode.BINARY, *, fin: bool = True) -> bytes:
    """A frame as `websockets` writes it to this side."""
    return Frame(opcode, data, fin).serialize(mask=to is Side.SERVER)


def message(to: Side, data: bytes, piece: int) -> bytes:
    """A binary message in pieces."""
    parts = [data[start : start + piece] for start in range(0, len(data), piece)]
    last = len(parts) - 1
    opcodes = [Opcode.BINARY] + [Opcode.CONT] * last
    return b"".join(
        frame(to, part, opcode, fin=number == last)
        for number, (part, opcode) in enumerate(zip(parts, opcodes, strict=True))
    )


def closed_with(made: BoundedConnection) -> int | None:
    sent = made.protocol.close_sent
    return None if sent is None else int(sent.code)


@SIDES
def test_messages_are_what_they_were_however_they_are_cut(side: Side) -> None:
    rng = random.Random(side.value)
    wanted: list[tuple[Opcode, bytes]] = []
    stream = b""
    for size in (1, LARGE - 1, LARGE, 3 * LARGE + 5, 200 * KIB, LIMIT):
        for piece in (LARGE + 3, 100 * KIB, LIMIT):
            data = rng.randbytes(size)
            stream += message(side, data, piece)
            stream += frame(side, b"12", Opcode.TEXT)
            wanted += [(Opcode.BINARY, data), (Opcode.TEXT, b"12")]

    async def run(most: int) -> None:
        made, heard = opened(side)
        at = 0
        while at < len(stream):
            size = rng.randint(1, most)
            view = made.get_buffer(-1)[:size]
            part = stream[at : at + len(view)]
            view[: len(part)] = part
            made.buffer_updated(len(part))
            at += len(part)
        got, parts = [], b""
        for one in heard:
            parts += one.data
            if one.fin:
                got.append(parts)
                parts = b""
        assert got == [data for _, data in wanted]
        assert closed_with(made) is None

    for most in (17 * KIB, 300 * KIB):
        asyncio.run(run(most))


@SIDES
def test_a_head_may_come_byte_by_byte(side: Side) -> None:
    async def run() -> None:
        made, heard = opened(side)
        data = random.Random(1).randbytes(LARGE)
        stream = message(side, data, LARGE) + message(side, b"short", LARGE)
        for byte in stream[:20]:
            made.data_received(bytes([byte]))
        made.data_received(stream[20:])
        assert [bytes(one.data) for one in heard] == [data, b"short"]

    asyncio.run(run())


@SIDES
def test_a_size_is_refused_as_soon_as_it_is_said(side: Side) -> None:
    async def run() -> None:
        made, heard = opened(side)
        made.data_received(frame(side, bytes(LIMIT + 1))[:10])
        assert closed_with(made) == 1009
        made, heard = opened(side)
        made.data_received(frame(side, bytes(LARGE), fin=False))
        made.data_received(frame(side, bytes(LIMIT - LARGE + 1), Opcode.CONT)[:10])
        assert closed_with(made) == 1009
        made.data_received(frame(side, bytes(LARGE)))
        assert heard == []

    asyncio.run(run())


@SIDES
def test_a_smaller_size_holds_from_the_next_frame_on(side: Side) -> None:
    async def run() -> None:
        made, heard = opened(side)
        made.data_received(frame(side, bytes(3 * LARGE))[:-1])
        made.allow(2 * LARGE)
        made.data_received(frame(side, bytes(3 * LARGE))[-1:])
        assert len(heard) == 1
        made.data_received(frame(side, bytes(3 * LARGE))[:10])
        assert closed_with(made) == 1009

    asyncio.run(run())


@SIDES
def test_a_message_within_a_message_is_a_breach(side: Side) -> None:
    async def run() -> None:
        for opcode in (Opcode.TEXT, Opcode.BINARY):
            made, heard = opened(side)
            made.data_received(frame(side, bytes(LARGE), fin=False) + frame(side, b"x", opcode))
            assert (closed_with(made), heard) == (1002, [])
        reserved = bytearray(frame(side, bytes(LARGE)))
        reserved[0] |= 0x40
        for stray in (frame(side, bytes(LARGE), Opcode.CONT), bytes(reserved)):
            made, heard = opened(side)
            made.data_received(stray)
            assert (closed_with(made), heard) == (1002, [])
        made, heard = opened(side)
        other = Side.CLIENT if side is Side.SERVER else Side.SERVER
        made.data_received(frame(other, bytes(LARGE)))  # masked where it must not be, or the reverse
        assert (closed_with(made), heard) == (1002, [])

    asyncio.run(run())


@SIDES
def test_pieces_are_counted_and_pings_refused_within_a_message(side: Side) -> None:
    async def run() -> None:
        made, heard = opened(side)
        made.data_received(frame(side, bytes(LARGE), fin=False))
        made.data_received(frame(side, b"", Opcode.CONT, fin=False) * PIECES)
        assert (closed_with(made), heard) == (1009, [])
        made.transport.abort.assert_called()
        made, heard = opened(side)
        made.data_received(frame(side, bytes(LARGE), fin=False) + frame(side, b"", Opcode.PING))
        assert (closed_with(made), heard) == (1002, [])
        made.transport.abort.assert_called()

    asyncio.run(run())


@SIDES
@pytest.mark.parametrize("size", [1, LARGE, 100 * KIB + 1, MIB])
def test_what_is_sent_is_what_websockets_reads(side: Side, size: int) -> None:
    """Another party may have an older version of this program."""
    data = random.Random(size).randbytes(size)
    taken: list[int] = []

    async def run() -> bytes:
        made, _ = opened(side)
        await made.send_long(data, 64 * KIB, lambda: taken.append(1))
        written = []
        for done in made.transport.mock_calls:
            if done[0] in ("write", "writelines"):
                written += done.args[0] if done[0] == "writelines" else [done.args[0]]
        return b"".join(written)

    other = Protocol(Side.CLIENT if side is Side.SERVER else Side.SERVER, state=OPEN, max_size=MIB)
    other.receive_data(asyncio.run(run()))
    events = other.events_received()
    assert b"".join(event.data for event in events) == data
    assert [event.fin for event in events] == [False] * (len(events) - 1) + [True]
    assert len(taken) == len(events) == -(-size // (64 * KIB))


# --- Between two parties -----------------------------------------------------------------------


def lines_of(peer: Peer) -> list[tuple[str, str]]:
    """What the peer's observers hear of."""
    heard: list[tuple[str, str]] = []
    peer.observers.append(lambda way, kind, payload: heard.append((way, kind)))
    return heard


@contextlib.asynccontextmanager
async def session_in(folder: Path) -> AsyncIterator[tuple[WebSocketPeer, WebSocketPeer]]:
    """The insurer, who dials, and the registry, as each holds the other."""
    ends = made_in(folder)
    async with registry(ends) as listener:
        here = await call(ends, listener)
        yield here, await listener.accept()
        here.drop()


def test_long_messages_arrive_whole_both_ways_and_are_written_down(tmp_path: Path) -> None:
    rng = random.Random(2)
    contents = [rng.randbytes(size) for size in (LARGE - 100, LARGE, 5 * MIB + 3, 48 * LARGE, MIB)]

    async def run() -> None:
        async with session_in(tmp_path) as (here, there):
            heard = [lines_of(one) for one in (here, there)]

            async def say(one: Peer) -> None:
                for data in contents:
                    await one.send(Vectors(data))
                    await one.send(Query(1))

            async def hear(one: Peer) -> None:
                for data in contents:
                    assert (await one.recv(Vectors)).data == data
                    assert (await one.recv(Query)).vectors == 1

            await asyncio.gather(say(here), say(there), hear(here), hear(there))
            for one in heard:
                for way in ("sent", "received"):
                    lines = [line for line in one if line[0] == way]
                    assert lines == [(way, kind) for _ in contents for kind in ("Vectors", "Query")]

    asyncio.run(run())


# --- Frames of a peer --------------------------------------------------------------------------


class Several(Message, frozen=True):
    """A message of several long parts, which are no single field."""

    parts: list[bytes]
    limit: ClassVar[int] = 4 * MIB


class SomeDefault(Message, frozen=True, omit_defaults=True):
    right: bytes = b""
    left: bytes = b""
    limit: ClassVar[int] = 4 * MIB


class SomeUnset(Message, frozen=True):
    """As an offer, whose job file may be long."""

    job: bytes
    query: bytes | msgspec.UnsetType = msgspec.UNSET
    limit: ClassVar[int] = 4 * MIB


class Wide(Message, frozen=True):
    """A message of more fields than have a mark of their own."""

    a: bytes
    b: bytes
    c: bytes
    d: bytes
    e: bytes
    f: bytes
    g: bytes
    h: bytes
    i: bytes
    j: bytes
    k: bytes
    m: bytes
    n: bytes
    o: bytes
    p: bytes
    q: bytes
    limit: ClassVar[int] = 4 * MIB


@pytest.mark.parametrize("size", [0, 100, LONG - 100, LONG, MIB])
def test_a_frame_is_its_head_and_what_msgspec_makes(size: int) -> None:
    data = random.Random(size).randbytes(size)
    words = memoryview(np.frombuffer(data[: size // 8 * 8], np.uint64))
    for sent in (
        Vectors(data),
        Vectors(words),
        VectorSums(memoryview(data), 1.5),
        Several([data, data, b"x"]),
        SomeDefault(left=data),
        SomeUnset(data),
        SomeUnset(data, b"query"),
        Wide(data, *[b""] * 15),
    ):
        alone = msgspec.msgpack.encode((type(sent).__name__, sent))
        assert wire.encode(sent) == alone
        found = wire.encode_behind(b"head", sent)
        assert found == b"head" + alone
        assert isinstance(found, bytes) or found.readonly
        assert wire.encode(wire.decode(found[4:], [type(sent)])) == alone
    with pytest.raises(ValueError, match=r"Vectors of 16,777,2.. bytes, over its 16,777,216"):
        wire.encode_behind(b"head", Vectors(bytes(16 * MIB)))
    with pytest.raises(ValueError, match=r"Several of .* over its"):
        wire.encode_behind(b"head", Several([bytes(2 * MIB)] * 2))


def test_a_long_message_takes_hardly_more_memory_than_the_frames_at_both_ends(tmp_path: Path) -> None:
    size = 6 * MIB

    async def run() -> None:
        async with session_in(tmp_path) as (here, there):
            for one, two in ((here, there), (there, here)):
                for _ in range(3):  # nobody knows of the first ones how long they will be
                    one_more = Vectors(bytes(size))
                    tracemalloc.reset_peak()
                    before = tracemalloc.get_traced_memory()[0]
                    sending = asyncio.create_task(one.send(one_more))
                    assert len((await two.recv(Vectors)).data) == size
                    await sending
                    peak = tracemalloc.get_traced_memory()[1] - before
                assert peak < 2.75 * size  # msgspec takes half as much again while it encodes
                await two.send(Query(1))
                await one.recv(Query)

    with traced():
        asyncio.run(run())
