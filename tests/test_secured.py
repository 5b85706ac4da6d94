"""TLS by a transport of our own, over real sockets: against itself and against asyncio's."""

import asyncio
import contextlib
import random
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from typing import cast

import pytest
from ends import Ends, made_in, until

from vfl.net import secured
from vfl.net.secured import TlsTransport
from vfl.net.tls import HOST, Credentials, context_of
from vfl.net.wire import KIB, MIB


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Ends:
    return made_in(tmp_path_factory.mktemp("ends"))


class End(asyncio.BufferedProtocol):
    """A connection that keeps what arrives."""

    def __init__(self, context: ssl.SSLContext, hostname: str | None, room: int = 64 * KIB) -> None:
        self.context, self.hostname = context, hostname
        self.room = bytearray(room)
        self.got = bytearray()
        self.told: list[str] = []
        self.error: Exception | None = None
        self.tls: TlsTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, TlsTransport):
            self.told.append("made")
        else:
            self.tls = TlsTransport(
                cast(asyncio.Transport, transport), self.context, self, self.hostname
            )

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self.room)

    def buffer_updated(self, nbytes: int) -> None:
        self.got += self.room[:nbytes]

    def eof_received(self) -> None:
        self.told.append("end")

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.told.append("lost")
        self.error = exc


def context(own: Credentials, *, listens: bool = False) -> ssl.SSLContext:
    protocol = ssl.PROTOCOL_TLS_SERVER if listens else ssl.PROTOCOL_TLS_CLIENT
    return context_of(own, protocol, list(own.pins.values()))


async def end_on(used: socket.socket, own: Credentials, *, listens: bool, room: int = 64 * KIB) -> End:
    """An end whose handshake has begun."""
    used.setblocking(False)
    tls = context(own, listens=listens)
    make = lambda: End(tls, None if listens else HOST, room)  # noqa: E731
    _, end = await asyncio.get_running_loop().connect_accepted_socket(make, used)
    return end


@contextlib.asynccontextmanager
async def pair(ends: Ends, room: int = 64 * KIB) -> AsyncIterator[tuple[End, End]]:
    """Both ends of a connection, who dialled first."""
    here, there = socket.socketpair()
    dialled = await end_on(here, ends.insurer, listens=False, room=room)
    listens = await end_on(there, ends.registry, listens=True, room=room)
    await asyncio.gather(dialled.tls.secured, listens.tls.secured)
    yield dialled, listens
    for end in (dialled, listens):
        end.tls.abort()
    await until(lambda: "lost" in dialled.told and "lost" in listens.told)


def parts_of(rng: random.Random, total: int) -> list[bytes]:
    sizes = [0, 1, 2, 13, 16 * KIB - 1, 16 * KIB, 16 * KIB + 1, 300 * KIB]
    parts: list[bytes] = []
    while total > 0:
        parts.append(rng.randbytes(rng.choice(sizes)))
        total -= len(parts[-1])
    return parts


@pytest.mark.parametrize("room", [1, 1000, 16 * KIB, MIB])
def test_what_is_written_arrives_both_ways_whatever_the_room(ends: Ends, room: int) -> None:
    rng = random.Random(room)
    size = 100 * KIB if room < KIB else 3 * MIB
    said = [parts_of(rng, size) for _ in range(2)]

    async def run() -> None:
        async with pair(ends, room) as both:
            assert [end.told for end in both] == [["made"]] * 2
            for end, parts in zip(both, said, strict=True):
                for start in range(0, len(parts), 3):
                    end.tls.writelines(parts[start : start + 3])
            wanted = [b"".join(parts) for parts in reversed(said)]
            await until(lambda: all(len(e.got) >= len(w) for e, w in zip(both, wanted, strict=True)))
            assert [bytes(end.got) for end in both] == wanted

    asyncio.run(run())


@pytest.mark.parametrize("listens", [False, True], ids=["dialled", "listens"])
def test_an_older_party_whose_tls_is_asyncios_is_understood(ends: Ends, listens: bool) -> None:
    data = random.Random(1).randbytes(2 * MIB)

    async def run() -> None:
        here, there = socket.socketpair()
        other = context(ends.insurer if listens else ends.registry, listens=not listens)
        opening = asyncio.create_task(
            asyncio.open_connection(sock=there, ssl=other, server_hostname=HOST)
            if listens
            else serve_by_asyncio(there, other)
        )
        end = await end_on(here, ends.registry if listens else ends.insurer, listens=listens)
        await end.tls.secured
        reader, writer = await opening
        end.tls.write(data)
        assert await reader.readexactly(len(data)) == data
        writer.write(data)
        await until(lambda: len(end.got) == len(data))
        assert end.got == data
        # And each hears the other's close_notify.
        end.tls.close()
        assert await reader.read() == b""
        await until(lambda: end.told[-1] == "lost")
        assert end.error is None
        writer.close()

    asyncio.run(run())


async def serve_by_asyncio(
    accepted: socket.socket, tls: ssl.SSLContext
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    make = lambda: asyncio.StreamReaderProtocol(reader)  # noqa: E731
    transport, protocol = await loop.connect_accepted_socket(make, accepted, ssl=tls)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


def test_a_close_comes_after_all_that_was_written(ends: Ends) -> None:
    data = bytes(5 * MIB)

    async def run() -> None:
        async with pair(ends) as (here, there):
            here.tls.write(data)
            here.tls.close()
            assert here.tls.is_closing()
            here.tls.write(b"too late")
            await until(lambda: "lost" in here.told and "lost" in there.told)
            assert len(there.got) == len(data)
            assert there.told == ["made", "end", "lost"]
            assert here.told[0] == "made" and here.told[-1] == "lost" and "end" not in here.told
            assert here.error is there.error is None

    asyncio.run(run())


@pytest.mark.parametrize("size", [1500, 100 * KIB, 3 * MIB])
@pytest.mark.parametrize("pauses", [False, True], ids=["at once", "paused"])
def test_a_close_before_all_is_read_costs_nothing_of_what_was_written(
    ends: Ends, size: int, pauses: bool
) -> None:
    last = random.Random(size).randbytes(MIB)

    class Closing(End):
        def buffer_updated(self, nbytes: int) -> None:
            super().buffer_updated(nbytes)
            if pauses:
                self.tls.pause_reading()
            self.tls.write(last)
            self.tls.close()

    async def run() -> None:
        async with pair(ends, room=1000) as (here, there):
            there.__class__ = Closing
            here.tls.write(bytes(size))  # more than is read
            await until(lambda: "lost" in here.told and "lost" in there.told)
            assert here.got == last
            assert len(there.got) == 1000
            assert here.error is there.error is None
            assert "end" in here.told and "end" not in there.told

    asyncio.run(run())


def test_a_connection_that_is_lost_can_be_ended_in_any_way_once_more(ends: Ends) -> None:
    async def run() -> None:
        async with pair(ends) as (here, there):
            there.tls.write(bytes(3 * MIB))  # so that its line is full, and closes once it is not
            here.tls.close()
            await until(lambda: "lost" in here.told and "lost" in there.told)
            for end in (here, there):
                end.tls.pause_reading()
                end.tls.write(b"more")
                end.tls.close()
                end.tls.resume_reading()
                end.tls.abort()
            await asyncio.sleep(0)
            assert [end.told.count("lost") for end in (here, there)] == [1, 1]

    asyncio.run(run())


def test_a_line_that_is_ended_as_it_takes_more_is_lost_once(ends: Ends) -> None:
    class Ending(End):
        def resume_writing(self) -> None:
            super().resume_writing()
            self.tls.abort()

    async def run() -> None:
        said: list[dict[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, one: said.append(one))
        async with pair(ends) as (here, there):
            here.__class__ = Ending
            here.tls.write(bytes(3 * MIB))
            await until(lambda: "lost" in here.told and "lost" in there.told)
            await asyncio.sleep(0)
            assert here.told == ["made", "pause", "resume", "lost"]
        assert not said

    asyncio.run(run())


def test_a_line_that_breaks_gets_no_more(ends: Ends, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        async with pair(ends) as (here, there):
            here.tls._line.pause_reading()  # so that it hears by writing
            there.tls.abort()
            await until(lambda: "lost" in there.told)
            here.tls.writelines([bytes(256 * KIB)] * 64)
            await until(lambda: "lost" in here.told)
            assert isinstance(here.error, OSError)

    asyncio.run(run())
    assert not caplog.records


@pytest.mark.parametrize("paused", [False, True], ids=["as it comes", "paused"])
def test_an_error_of_the_connection_ends_it(ends: Ends, paused: bool) -> None:
    class Failing(End):
        def buffer_updated(self, nbytes: int) -> None:
            super().buffer_updated(nbytes)
            if paused and len(self.got) == 1000:
                self.tls.pause_reading()
            else:
                raise KeyError("no room")

    async def run() -> None:
        said: list[dict[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, one: said.append(one))
        async with pair(ends, room=1000) as (here, there):
            there.__class__ = Failing
            here.tls.write(bytes(5000))
            if paused:
                await until(lambda: len(there.got) == 1000)
                there.tls.resume_reading()
            await until(lambda: "lost" in here.told and "lost" in there.told)
            assert isinstance(there.error, KeyError)
            assert len(there.got) == (2000 if paused else 1000)
            assert [one["exception"] for one in said] == [there.error]

    asyncio.run(run())


def test_who_closes_passes_over_what_still_comes_and_waits_no_longer_than_it_says(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secured, "_CLOSING", 0.2)

    async def run() -> None:
        async with pair(ends) as (here, there):
            there.tls.pause_reading()  # so that it does not hear of the close
            here.tls.pause_reading()
            here.tls.close()
            there.tls.write(bytes(MIB))
            await until(lambda: "lost" in here.told)
            assert isinstance(here.error, TimeoutError)
            assert not here.got

    asyncio.run(run())


def test_a_line_that_is_cut_ends_both_without_an_error_that_is_none(ends: Ends) -> None:
    async def run() -> None:
        async with pair(ends) as (here, there):
            here.tls.write(b"said before")
            here.tls.abort()
            await until(lambda: "lost" in there.told)
            assert bytes(there.got) == b"said before"
            assert there.told == ["made", "end", "lost"]
            assert there.error is None

    asyncio.run(run())


def test_what_came_before_the_end_is_read_by_who_paused(ends: Ends) -> None:
    async def run() -> None:
        async with pair(ends, room=1000) as (here, there):
            there.tls.pause_reading()
            here.tls.write(bytes(50 * KIB))
            await asyncio.sleep(0.05)
            assert not there.got
            here.tls.close()
            await asyncio.sleep(0.05)
            there.tls.resume_reading()
            await until(lambda: "lost" in there.told and "lost" in here.told)
            assert len(there.got) == 50 * KIB
            assert there.told == ["made", "end", "lost"]

    asyncio.run(run())


def test_who_writes_is_told_to_pause_and_no_more_is_encrypted_than_the_line_takes(ends: Ends) -> None:
    piece = 256 * KIB

    async def run() -> None:
        async with pair(ends) as (here, there):
            there.tls.pause_reading()
            here.tls.set_write_buffer_limits(MIB)
            data = bytes(piece)
            while "pause" not in here.told:
                here.tls.write(data)
                await asyncio.sleep(0)
            assert MIB < here.tls.get_write_buffer_size() <= MIB + 2 * piece
            # All but a piece lies as it was written: it is no copy.
            assert here.tls._line.get_write_buffer_size() <= 2 * piece
            assert all(part.obj is data for part in here.tls._written)
            here.told.clear()
            there.tls.resume_reading()
            await until(lambda: "resume" in here.told)
            await until(lambda: here.tls.get_write_buffer_size() == 0)

    asyncio.run(run())


def test_a_long_write_is_encrypted_no_further_ahead_than_many_short_ones(ends: Ends) -> None:
    async def run() -> None:
        async with pair(ends) as (here, there):
            there.tls.pause_reading()
            here.tls.write(bytes(8 * MIB))
            assert here.tls._line.get_write_buffer_size() + here.tls._leaving.pending < MIB
            there.tls.resume_reading()
            await until(lambda: len(there.got) == 8 * MIB)

    asyncio.run(run())


def raw_end(ends: Ends, attack: Callable[[socket.socket], None]) -> End:
    """An end whose line gets something else than the other end's TLS."""

    async def run() -> End:
        here, there = socket.socketpair()
        end = await end_on(here, ends.registry, listens=True)
        there.setblocking(False)
        attack(there)
        with pytest.raises(OSError):
            await end.tls.secured
        there.close()
        return end

    return asyncio.run(run())


def test_what_is_no_tls_makes_no_connection(ends: Ends) -> None:
    for said in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + bytes(100), bytes(1000)):
        end = raw_end(ends, lambda line, data=said: (line.send(data), line.shutdown(socket.SHUT_WR)))
        assert end.told == []


def test_half_a_handshake_makes_no_connection(ends: Ends) -> None:
    assert raw_end(ends, lambda line: line.shutdown(socket.SHUT_WR)).told == []


def test_a_changed_record_ends_the_connection_and_is_not_delivered(ends: Ends) -> None:
    async def run() -> None:
        async with pair(ends) as (here, there):
            forged = bytes([23, 3, 3, 0, 40]) + bytes(40)
            here.tls._line.write(forged)
            await until(lambda: "lost" in there.told)
            assert isinstance(there.error, ssl.SSLError)
            assert not there.got
            # Of which TLS tells the other end.
            await until(lambda: "lost" in here.told)
            assert isinstance(here.error, ssl.SSLError) and "BAD_RECORD_MAC" in str(here.error)

    asyncio.run(run())


def test_a_certificate_that_is_not_pinned_is_refused_at_both_ends(ends: Ends) -> None:
    other = ends.stranger
    files = other.certificate_path, other.key_path
    stranger = Credentials("stranger", *files, dict(ends.insurer.pins))

    async def run() -> None:
        here, there = socket.socketpair()
        dialled = await end_on(here, stranger, listens=False)
        listens = await end_on(there, ends.registry, listens=True)
        await dialled.tls.secured  # a client of TLS 1.3 hears of it afterwards
        await until(lambda: "lost" in dialled.told)
        assert isinstance(dialled.error, ssl.SSLError) and "ALERT" in str(dialled.error)
        with pytest.raises(OSError):
            await listens.tls.secured
        assert listens.told == []

    asyncio.run(run())


def test_who_waits_no_longer_for_a_handshake_leaves_no_line(ends: Ends) -> None:
    async def run() -> None:
        here, there = socket.socketpair()
        end = await end_on(here, ends.registry, listens=True)
        end.tls.secured.cancel()
        end.tls.abort()
        there.setblocking(False)
        assert await asyncio.get_running_loop().sock_recv(there, 1) == b""
        there.close()
        assert end.told == []

    asyncio.run(run())


def test_records_of_a_byte_are_read_as_any_others(ends: Ends) -> None:
    data = random.Random(3).randbytes(3000)

    async def run() -> None:
        async with pair(ends) as (here, there):
            for k in range(len(data)):
                here.tls.write(data[k : k + 1])
            await until(lambda: len(there.got) == len(data))
            assert there.got == data

    asyncio.run(run())


class Wild(End):
    """An end that writes, pauses and at last closes from within whatever it is told."""

    rng: random.Random
    said: bytearray
    odds = 0.0

    def act(self, what: str) -> None:
        if what == "write":
            sizes = 0, 1, 100, 16 * KIB + 1, 300 * KIB
            parts = [self.rng.randbytes(self.rng.choice(sizes)) for _ in range(2)]
            if not self.tls.is_closing():
                self.said += b"".join(parts)
            self.tls.writelines(parts)
        elif what == "pause":
            self.tls.pause_reading()
            asyncio.get_running_loop().call_later(0.005, self.tls.resume_reading)
        elif what == "resume":
            self.tls.resume_reading()
        else:
            self.tls.close()

    def maybe_act(self) -> None:
        if self.rng.random() < self.odds:
            self.act(self.rng.choice(["write"] * 8 + ["pause", "resume"] * 4 + ["close"]))

    def get_buffer(self, sizehint: int) -> memoryview:
        self.maybe_act()
        return super().get_buffer(sizehint)

    def buffer_updated(self, nbytes: int) -> None:
        super().buffer_updated(nbytes)
        self.maybe_act()

    def eof_received(self) -> None:
        super().eof_received()
        self.maybe_act()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.maybe_act()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.maybe_act()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.maybe_act()


def test_whatever_an_end_does_where_it_is_told_something_is_in_order(ends: Ends) -> None:
    async def run(seed: int) -> None:
        rng = random.Random(seed)
        told: list[dict[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, one: told.append(one))
        async with pair(ends, room=rng.choice([1000, 16 * KIB, 100 * KIB])) as both:
            here, there = cast(tuple[Wild, Wild], both)
            for end in (here, there):
                end.__class__ = Wild
                end.rng, end.said = random.Random(rng.random()), bytearray()
                end.odds = rng.choice([0.01, 0.1, 0.5])
            for _ in range(10):
                rng.choice([here, there]).act(rng.choice(["write", "write", "pause", "resume"]))
                await asyncio.sleep(0)
            here.act("close")
            await until(lambda: "lost" in here.told and "lost" in there.told)
            for one, two in ((here, there), (there, here)):
                assert one.told[-1] == "lost" and one.told.count("lost") == 1
                assert one.error is None
                assert one.said.startswith(two.got)
                # Who was first to close hears no more; the other end has heard all.
                assert "end" not in two.told or len(one.said) == len(two.got)
        assert not told

    for seed in range(40):
        asyncio.run(run(seed))
