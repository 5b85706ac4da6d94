import asyncio
from typing import ClassVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfl.errors import DataError, PeerError, PeerLost, PeerStopped
from vfl.net import wire
from vfl.net.peer import HEADER, MemoryPeer, Stop, stop_all, together
from vfl.net.wire import Message, WireError


class Number(Message, frozen=True):
    value: int


class Word(Message, frozen=True):
    text: str


class Words(Message, frozen=True):
    text: list[str]


class Small(Message, frozen=True):
    limit: ClassVar[int] = 16
    data: bytes


class Pipe:
    """Both ends of a memory pair, and what the hostile end may do to the frames."""

    def __init__(self) -> None:
        self.here, self.there = MemoryPeer.pair("insurer", "registry")

    async def frame(self, message: Message) -> bytes:
        """The frame that the registry sends for a message, taken off the wire."""
        await self.there.send(message)
        frame = self.here._inbox.get_nowait()
        assert frame is not None
        return frame

    async def inject(self, *frames: bytes) -> None:
        for frame in frames:
            await self.there._put(frame)


def refused(match: str, session) -> None:
    with pytest.raises(PeerError, match=match) as caught:
        asyncio.run(session())
    assert str(caught.value).startswith("registry broke the protocol")
    assert "registry" not in caught.value.for_peer
    assert "secret" not in str(caught.value) + caught.value.for_peer


def test_messages_arrive_in_order_typed_and_counted() -> None:
    async def session() -> None:
        pipe = Pipe()
        seen = []
        pipe.here.observers.append(lambda *what: seen.append(what[:2]))
        await pipe.there.send(Number(1))
        await pipe.there.send(Word("two"))
        assert await pipe.here.recv(Number) == Number(1)
        assert await pipe.here.recv(Number, Word) == Word("two")
        assert seen == [("received", "Number"), ("received", "Word")]
        assert pipe.here.traffic.bytes_received == pipe.there.traffic.bytes_sent > 0
        assert pipe.here.traffic.received_messages == {"Number": 1, "Word": 1}
        assert pipe.there.traffic.sent_messages == {"Number": 1, "Word": 1}
        assert not pipe.here.traffic.sent_messages

    asyncio.run(session())


def test_a_wrong_type_is_refused() -> None:
    async def session() -> None:
        pipe = Pipe()
        await pipe.there.send(Word("secret"))
        await pipe.here.recv(Number)

    refused("sent Word where Number or Stop was due", session)


def test_a_frame_cut_short_is_refused_wherever_it_is_cut() -> None:
    async def frame_of() -> bytes:
        return await Pipe().frame(Word("secret"))

    whole = asyncio.run(frame_of())
    for length in range(len(whole)):

        async def session(length: int = length) -> None:
            pipe = Pipe()
            await pipe.inject(whole[:length])
            await pipe.here.recv(Word)

        refused("sent", session)


def test_a_replayed_frame_is_refused() -> None:
    async def session() -> None:
        pipe = Pipe()
        frame = await pipe.frame(Number(1))
        await pipe.inject(frame, frame)
        assert await pipe.here.recv(Number) == Number(1)
        await pipe.here.recv(Number)

    refused("out of order", session)


def test_reordered_frames_are_refused() -> None:
    async def session() -> None:
        pipe = Pipe()
        first, second = await pipe.frame(Number(1)), await pipe.frame(Number(2))
        await pipe.inject(second, first)
        await pipe.here.recv(Number)

    refused("out of order", session)


def test_a_frame_of_another_session_is_refused() -> None:
    async def session() -> None:
        pipe = Pipe()
        pipe.here.bind(b"job one")
        pipe.there.bind(b"job two")
        await pipe.there.send(Number(1))
        await pipe.here.recv(Number)

    refused("another session", session)


def test_binding_tells_contexts_apart_wherever_they_are_split() -> None:
    async def tags() -> tuple[bytes, bytes, bytes]:
        pipe = Pipe()
        pipe.here.bind(b"ab", b"c")
        pipe.there.bind(b"a", b"bc")
        again, _ = MemoryPeer.pair("x", "y")
        again.bind(b"ab", b"c")
        return pipe.here._session, pipe.there._session, again._session

    first, second, again = asyncio.run(tags())
    assert first != second
    assert first == again


def test_an_oversized_message_is_refused_by_both_ends() -> None:
    class Large(Message, frozen=True):
        data: bytes

    Large.__name__ = "Small"

    async def session() -> None:
        pipe = Pipe()
        await pipe.there.send(Large(bytes(17)))
        await pipe.here.recv(Small)

    refused("over 16", session)
    with pytest.raises(ValueError, match="over its 16"):
        wire.encode(Small(bytes(17)))


def test_an_unknown_field_or_a_wrong_one_is_refused_without_its_value() -> None:
    for body in ({"value": 1, "more": "secret"}, {"value": "secret"}, {}, ["secret"], None):

        async def session(body: object = body) -> None:
            pipe = Pipe()
            head = await pipe.frame(Number(0))
            await pipe.inject(head[:HEADER] + msgspec.msgpack.encode(["Number", body]))
            await pipe.here.recv(Number)

        refused("a malformed Number", session)


@given(st.binary(max_size=200))
def test_garbage_is_a_wire_error_and_nothing_else(data: bytes) -> None:
    with pytest.raises(WireError):
        wire.decode(data, (Small,))


@given(st.binary(max_size=200))
def test_garbage_behind_a_valid_header_is_a_breach(data: bytes) -> None:
    async def session() -> None:
        pipe = Pipe()
        await pipe.inject(bytes(HEADER) + data)
        await pipe.here.recv(Small)

    refused("sent", session)


@pytest.mark.parametrize(
    "data",
    [
        b"\x92\xa3\x00\x00\x80\xc0",  # a type's name that is not UTF-8
        b"\x92\xa4Word" + b"\x81\xa4text\xa1\xff",  # a field's value
        b"\x92\xa4Word" + b"\x81\xa1\xff\xa1x",  # a field's name
        b"\x92\xa4Word" + b"\x91" * 60_000,  # nested deeply
        b"\x92\xa4Word" + b"\xdd\xff\xff\xff\xff",  # an array of 2^32 - 1, which is not there
        b"\x92\xa5Words" + b"\x81\xa4text\xdd\xff\xff\xff\xff" + b"\xa1x" * 9,
        b"\xdd\xff\xff\xff\xff",
    ],
)
def test_hostile_bytes_are_a_wire_error(data: bytes) -> None:
    with pytest.raises(WireError) as caught:
        wire.decode(data, (Word, Words))
    assert "\xff" not in str(caught.value) and "0x" not in str(caught.value)


def test_a_hostile_name_of_a_type_does_not_reach_the_terminal() -> None:
    for name in ("\x1b[2J", "x" * 1000, ""):
        with pytest.raises(WireError, match=r"^garbage where Small was due$"):
            wire.decode(msgspec.msgpack.encode([name, {}]), (Small,))


def test_stop_ends_any_wait_and_is_printable() -> None:
    async def session() -> None:
        pipe = Pipe()
        await pipe.there.send(Stop("its table is empty\x1b[2J\n" + "x" * 1000))
        await pipe.here.recv(Number)

    with pytest.raises(PeerStopped) as caught:
        asyncio.run(session())
    assert str(caught.value).startswith("registry stopped the job: its table is empty [2J x")
    assert len(str(caught.value)) < 600


def test_a_stop_that_is_due_is_a_message() -> None:
    async def session() -> Message:
        pipe = Pipe()
        await pipe.there.send(Stop("done"))
        return await pipe.here.recv(Stop)

    assert asyncio.run(session()) == Stop("done")


def test_a_closed_peer_is_lost_after_what_it_sent() -> None:
    async def session() -> None:
        pipe = Pipe()
        await pipe.there.send(Number(1))
        await pipe.there.close()
        assert await pipe.here.recv(Number) == Number(1)
        for _ in range(2):
            with pytest.raises(PeerLost, match="registry"):
                await pipe.here.recv(Number)

    asyncio.run(session())


def test_together_gives_all_results_in_order() -> None:
    async def after(seconds: float, value: int) -> int:
        await asyncio.sleep(seconds)
        return value

    async def both() -> list[int]:
        return await together([after(0.01, 1), after(0, 2)])

    assert asyncio.run(both()) == [1, 2]


def test_together_raises_the_first_failure_as_it_is_and_cancels_the_rest() -> None:
    cancelled = []

    async def waits() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def fails() -> None:
        await asyncio.sleep(0)
        raise DataError("no rows")

    async def both() -> None:
        await together([waits(), fails()])

    with pytest.raises(DataError, match="no rows"):
        asyncio.run(both())
    assert cancelled == [True]


def test_stop_all_tells_each_peer_and_lets_go_of_those_it_cannot_tell() -> None:
    class Gone(MemoryPeer):
        async def _put(self, frame: bytes) -> None:
            raise PeerLost("gone")

    class Breached(MemoryPeer):
        async def _put(self, frame: bytes) -> None:
            raise self.breach("a frame larger than any message")

    class Stuck(MemoryPeer):
        async def _put(self, frame: bytes) -> None:
            await asyncio.sleep(60)

    async def session() -> None:
        pipe = Pipe()
        peers = [Gone("a", asyncio.Queue()), Stuck("b", asyncio.Queue()), pipe.there]
        peers.insert(0, Breached("c", asyncio.Queue()))
        await stop_all(peers, DataError("row 7 of secret.csv"), seconds=0.05)
        with pytest.raises(PeerStopped, match="a problem in its own table") as caught:
            await pipe.here.recv(Number)
        assert "secret" not in str(caught.value)
        with pytest.raises(PeerLost):
            await pipe.here.recv(Number)

    asyncio.run(session())
