"""Invitations under attack: wrong codes, who is between the two, and what strangers send."""

import asyncio
import contextlib
import shutil
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from companies import (
    Company,
    Make,
    between,
    both_refused,
    ended,
    free_port,
    insurer,
    keys,
    make,
    meet,
    registry,
)
from ends import until
from meetings import at as relay_address
from meetings import relaying
from spake2 import SPAKE2_A

from vfl.errors import (
    IdentityError,
    PeerError,
    PeerLost,
    PeerStopped,
    PeerUnreachable,
    Refused,
    VflError,
)
from vfl.jobs.introducing import Met, invite, join
from vfl.net import inviting
from vfl.net.invitation import (
    MOST_SEALED,
    Channel,
    Code,
    Consent,
    Introduction,
    NoInvitation,
    WrongCode,
    answer,
    ask,
)

__all__ = ["insurer", "keys", "make", "registry"]  # fixtures


# --- Wrong codes, and who is between the two ---


def test_a_wrong_code_ends_the_invitation_at_both_ends(insurer: Company, registry: Company) -> None:
    def other(code: Code) -> Code:
        while (wrong := Code.new()).digits[:3] == code.digits[:3]:
            pass
        return wrong

    texts = both_refused(insurer, registry, (WrongCode, WrongCode), "make a new one", code=other)
    assert "this invitation is over" in texts[0] and "is over now" in texts[1]
    at = insurer.settings["party"]["listen"]
    assert_over(registry, at, f"nobody waits with this invitation at {at}")


def assert_over(company: Company, at: str, *said: str) -> None:
    """Who joins there hears that there is no invitation any more, and what to do."""
    with pytest.raises(PeerUnreachable) as raised:
        asyncio.run(join(company.path, Code.new(), company.wishes(at=at), 0))
    for text in (*said, "it was used, ended or ran out", "; ask for a new one"):
        assert text in str(raised.value), raised.value


def test_a_code_that_was_used_or_ran_out_finds_nobody(insurer: Company, make: Make) -> None:
    at = insurer.settings["party"]["listen"]
    assert all(isinstance(end, Met) for end in asyncio.run(meet(insurer, make("registry", "host"))))
    bureau = make("bureau", "host")
    assert_over(bureau, at, f"nobody waits with this invitation at {at}")
    with pytest.raises(PeerUnreachable, match="nobody joined within 1 minute"):
        asyncio.run(invite(insurer.path, insurer.wishes(), 0.1, lambda *_: None))
    assert_over(bureau, at, f"nobody waits with this invitation at {at}")


def test_at_a_relay_a_used_code_finds_nobody_either(registry: Company) -> None:
    async def run() -> None:
        async with relaying() as running:
            at = relay_address(running)
            with pytest.raises(
                PeerUnreachable, match="used, ended or ran out, or the first three digits"
            ):
                await join(registry.path, Code.new(), registry.wishes(at=at), 0)

    asyncio.run(run())


def test_what_a_party_serves_at_that_port_later_is_no_invitation(registry: Company) -> None:
    async def run(*greeting: bytes) -> str:
        async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(10)  # no TLS
            writer.writelines(greeting)
            writer.close()

        server = await asyncio.start_server(answers, "127.0.0.1", 0)
        async with server:
            at = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            with pytest.raises(PeerUnreachable) as raised:
                await join(registry.path, Code.new(), registry.wishes(at=at), 0)
            return str(raised.value)

    for greeting in (
        (),
        (b"\x15\x03\x01\x00\x02\x02\x46",),
        (b"HTTP/1.1 400 Bad Request\r\n" + bytes(80),),
    ):
        said = asyncio.run(run(*greeting))
        assert "it was used, ended or ran out" in said and said.endswith("ask for a new one"), said


def meddling(change: Callable[[int, bytes], bytes]):
    return lambda where: between(where, [], change)


@dataclass
class Frames:
    """Changes the n-th piece on one way, each being a whole message where both wait for one another."""

    way: int
    number: int
    how: Callable[[bytes], bytes]
    seen: int = 0

    def __call__(self, way: int, data: bytes) -> bytes:
        if way != self.way:
            return data
        self.seen += 1
        return self.how(data) if self.seen == self.number else data


def flipped(data: bytes) -> bytes:
    return data[:20] + bytes([data[20] ^ 1]) + data[21:]


def last_flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def first_twice(data: bytes) -> bytes:
    """The first sealed message of a piece, and again."""
    end = 4 + int.from_bytes(data[:4], "big")
    return data[:end] + data


def huge(data: bytes) -> bytes:
    return (MOST_SEALED + 1).to_bytes(4, "big") + data


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        (Frames(0, 1, last_flipped), (WrongCode, WrongCode)),  # the joiner's digest of its nonce
        (Frames(1, 1, last_flipped), (WrongCode, WrongCode)),  # the inviter's nonce
        (Frames(0, 2, last_flipped), (WrongCode, WrongCode)),  # the joiner's nonce
        (Frames(0, 3, flipped), (PeerError, PeerStopped)),  # its introduction
        (Frames(0, 3, first_twice), (PeerError, PeerStopped)),
        (Frames(0, 3, lambda data: data[:100]), (PeerLost, PeerLost)),
        (Frames(0, 3, lambda data: b""), (PeerLost, PeerLost)),
        (Frames(0, 3, huge), (PeerError, PeerStopped)),
    ],
    ids=["digest", "nonce", "opened", "changed", "twice", "cut", "ended", "huge"],
)
def test_who_meddles_is_seen_and_nothing_is_written(
    insurer: Company, registry: Company, change: Frames, kinds: tuple[type, type]
) -> None:
    both_refused(insurer, registry, kinds, way=meddling(change))


@contextlib.asynccontextmanager
async def impostor(where: str, guess: Callable[[], Code], ends: list[object]) -> AsyncIterator[str]:
    """Somebody between an inviter at `where` and a joiner, who plays each one's part towards the other
    by a code of his own; `ends` gets what both lines come to."""
    tasks: set[asyncio.Task[None]] = set()

    async def play(part: Callable, connected: socket.socket) -> None:
        try:
            ends.append(await part(connected, guess()))
        except (WrongCode, NoInvitation, OSError, EOFError) as error:
            connected.close()
            ends.append(error)

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        accepted, _ = await loop.sock_accept(listening)
        there = socket.socket()
        there.setblocking(False)
        await loop.sock_connect(there, (where.split(":")[0], int(where.split(":")[1])))
        await asyncio.gather(play(answer, accepted), play(ask, there))
        one, two = ends
        if isinstance(one, Channel) and isinstance(two, Channel):
            await pass_on(one, two)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        tasks.add(asyncio.create_task(serve()))
        try:
            yield f"127.0.0.1:{listening.getsockname()[1]}"
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for end in ends:
                if isinstance(end, Channel):
                    end.close()


async def pass_on(joiner: Channel, inviter: Channel) -> None:
    """Hand each one's introduction on to the other as it is, and what comes after it."""

    async def copy(source: Channel, to: Channel) -> None:
        await to.send(await source.receive(Introduction))
        while True:
            await to.send(await source.receive(Consent))

    await asyncio.gather(copy(joiner, inviter), copy(inviter, joiner))


def test_who_is_between_the_two_without_the_code_ends_the_invitation(
    insurer: Company, registry: Company
) -> None:
    ends: list[object] = []
    kinds = (WrongCode, WrongCode)
    both_refused(insurer, registry, kinds, way=lambda where: impostor(where, Code.new, ends))
    assert all(isinstance(end, WrongCode) for end in ends), ends


def test_who_has_guessed_the_code_cannot_pass_on_what_others_signed(
    insurer: Company, registry: Company
) -> None:
    codes: list[Code] = []

    def heard(code: Code) -> Code:
        codes.append(code)
        return code

    def way(where: str):
        return impostor(where, lambda: codes[0], [])

    async def run() -> tuple[Met | VflError, Met | VflError]:
        # The code is known to him before the joiner has come.
        return await meet(insurer, registry, code=heard, way=way)

    before = insurer.state(), registry.state()
    found = asyncio.run(run())
    assert all(isinstance(one, PeerError | PeerStopped | PeerLost) for one in found), found
    assert any("whose key it has not" in str(one) for one in found), found
    assert (insurer.state(), registry.state()) == before


def test_numbers_to_compare_differ_where_somebody_is_between_the_two() -> None:
    async def run() -> list[str]:
        code = Code.new()
        numbers = []
        for _ in range(2):
            one, two = socket.socketpair()
            for end in (one, two):
                end.setblocking(False)
            channels = await asyncio.gather(answer(one, code), ask(two, code))
            assert channels[0].number == channels[1].number
            numbers.append(channels[0].number)
            for channel in channels:
                channel.close()
        return numbers

    one, two = asyncio.run(run())
    assert one != two


@pytest.mark.parametrize("asked", ["of_one", "of_two"])
def test_numbers_that_differ_keep_both_from_writing(
    insurer: Company, registry: Company, asked: str
) -> None:
    kinds = (Refused, PeerStopped) if asked == "of_one" else (PeerStopped, Refused)
    wish = {asked: {"confirm": lambda number: False}}
    if asked == "of_two":
        wish[asked]["at"] = insurer.settings["party"]["listen"]
    both_refused(insurer, registry, kinds, "the numbers differ", "not the same there", **wish)


def test_strangers_that_show_no_key_do_not_end_an_invitation(
    insurer: Company, registry: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inviting, "AT_ONCE", 100)

    @contextlib.asynccontextmanager
    async def crowd(where: str) -> AsyncIterator[str]:
        host, port = where.split(":")
        said = [b"", b"GET / HTTP/1.1\r\n\r\n", b"vfl join  1\n", b"\x16\x03\x01" + bytes(500)]
        said += [b"vfl join  1\nB" + bytes([2]) * 64, b"vfl join  1\nA" + bytes(64), b"x" * 100_000]
        writers = []
        for data in said * 3:
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(data)
            writers.append(writer)
        yield where
        for writer in writers:
            writer.close()

    met = asyncio.run(meet(insurer, registry, way=crowd))
    assert all(isinstance(one, Met) for one in met), met


def test_who_connects_without_end_is_let_go(insurer: Company) -> None:
    async def run() -> int:
        shown: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        invites = asyncio.create_task(
            invite(insurer.path, insurer.wishes(), 60, lambda _, where: shown.set_result(where))
        )
        host, port = (await shown).split(":")
        many = inviting.AT_ONCE + 20
        ends = [await asyncio.open_connection(host, int(port)) for _ in range(many)]

        async def closed(reader: asyncio.StreamReader) -> int:
            with contextlib.suppress(OSError):
                await reader.read()
            return 1

        ended = [asyncio.create_task(closed(reader)) for reader, _ in ends]
        await until(lambda: sum(one.done() for one in ended) >= many - inviting.ATTENDED)
        open_still = sum(not one.done() for one in ended)
        for task in (invites, *ended):
            task.cancel()
        await asyncio.gather(invites, *ended, return_exceptions=True)
        for _, writer in ends:
            writer.close()
        return open_still

    assert asyncio.run(run()) <= inviting.ATTENDED


def test_what_an_earlier_joiner_said_is_a_wrong_code(insurer: Company, registry: Company) -> None:
    said: list[bytes] = []

    def record(way: int, data: bytes) -> bytes:
        if way == 0:
            said.append(data)
        return data

    assert isinstance(asyncio.run(meet(insurer, registry, way=meddling(record)))[0], Met)
    before = insurer.state()

    async def replay() -> VflError | Met:
        shown: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        invites = asyncio.create_task(
            invite(insurer.path, insurer.wishes(), 60, lambda _, where: shown.set_result(where))
        )
        reader, writer = await asyncio.open_connection(*(await shown).split(":"))
        writer.write(said[0])
        await reader.read(77)
        writer.write(said[1])
        assert await reader.read(1) == b"n"
        writer.close()
        return await ended(invites)

    assert isinstance(asyncio.run(replay()), WrongCode)
    assert insurer.state() == before


def test_an_invitation_ends_by_itself(insurer: Company) -> None:
    with pytest.raises(PeerUnreachable, match="nobody joined within 1 minute: this invitation is over"):
        asyncio.run(invite(insurer.path, insurer.wishes(), 0.1, lambda *_: None))


def test_nobody_invites(registry: Company) -> None:
    wishes = registry.wishes(at=f"127.0.0.1:{free_port()}")
    with pytest.raises(PeerUnreachable, match=r"nobody waits with this invitation at 127\.0\.0\.1:"):
        asyncio.run(join(registry.path, Code.new(), wishes, 0))
    assert registry.said == []


def test_what_listens_is_no_invitation(registry: Company) -> None:
    async def run() -> None:
        async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"SSH-2.0-OpenSSH_9.9\r\n" + bytes(100))
            await reader.read(1000)
            writer.close()

        server = await asyncio.start_server(answers, "127.0.0.1", 0)
        async with server:
            at = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            await join(registry.path, Code.new(), registry.wishes(at=at), 0)

    with pytest.raises(PeerUnreachable, match="no invitation of this version of vfl"):
        asyncio.run(run())


def test_who_hangs_up_on_a_shown_code_may_have_guessed_at_it(registry: Company) -> None:
    tries: list[bytes] = []

    async def run() -> None:
        code = Code.new()

        async def guesses(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            pake = SPAKE2_A(b"000000000", b"vfl inviter", b"vfl joiner")
            await reader.readexactly(12 + 33 + 32)  # what the joiner begins with
            writer.write(b"vfl invite1\n" + pake.start() + bytes(32))
            tries.append(await reader.readexactly(64))  # its tag, by which a guess can be tried
            writer.close()

        server = await asyncio.start_server(guesses, "127.0.0.1", 0)
        async with server:
            at = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            await join(registry.path, code, registry.wishes(at=at), 60)

    before = registry.state()
    with pytest.raises(WrongCode, match="may have guessed at it, so this invitation is over"):
        asyncio.run(run())
    assert len(tries) == 1 and registry.state() == before  # once, with no silent try after it


def test_a_certificate_without_its_key_is_not_shown(registry: Company, keys: Path) -> None:
    shutil.copy(keys / "bureau.pem", registry.path.parent / "keys" / "registry.pem")
    wishes = registry.wishes(at="127.0.0.1:1")
    with pytest.raises(IdentityError, match="do not belong together"):
        asyncio.run(join(registry.path, Code.new(), wishes, 0))


def test_garbage_under_the_right_key_names_no_content(insurer: Company) -> None:
    async def run() -> VflError | Met:
        shown: asyncio.Future[tuple[Code, str]] = asyncio.get_running_loop().create_future()
        invites = asyncio.create_task(
            invite(insurer.path, insurer.wishes(), 60, lambda *found: shown.set_result(found))
        )
        code, where = await shown
        there = socket.socket()
        there.setblocking(False)
        host, port = where.split(":")
        await asyncio.get_running_loop().sock_connect(there, (host, int(port)))
        channel = await ask(there, code)
        await channel.receive(Introduction)
        await channel.send(Consent(True, "secret words"))
        error = await ended(invites)
        channel.close()
        return error

    error = asyncio.run(run())
    assert isinstance(error, PeerError) and "Consent where Introduction was due" in str(error)
    assert "secret" not in str(error)
