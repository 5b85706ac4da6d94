"""What a relay passes on, whom it refuses and what it lets strangers have; its file and its counts."""

import asyncio
import contextlib
import datetime
import os
import random
import socket
from pathlib import Path

import pytest
from commands import command
from ends import Ends, exchange, made_in, until
from meetings import (
    LOCAL,
    ONE,
    TWO,
    ask,
    at,
    call,
    client,
    ended,
    fresh_key,
    joined,
    relaying,
    say,
    waiting,
)

from vfl.errors import ConfigError
from vfl.jobs.relaying import limits_of, relay
from vfl.net import relay as relays
from vfl.net import rendezvous
from vfl.net.listening import bind
from vfl.net.relay import Limits, Relay
from vfl.net.rendezvous import (
    ASK,
    CHALLENGE,
    DIALS,
    FALSE,
    FULL,
    GREETING,
    HERE,
    JOIN,
    NOBODY,
    OFTEN,
    READY,
    REQUEST,
    SPENT,
    TAKEN,
    UNKNOWN,
    WAITING,
    WAITS,
    Request,
    keys_of,
    receive,
)
from vfl.net.session import NotYet
from vfl.party.config import load_relay
from vfl.party.relay_file import RelaySection


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Ends:
    return made_in(tmp_path_factory.mktemp("keys"))


# --- Who may take which place ---


def test_who_cannot_sign_for_a_place_does_not_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relays, "HOLD", 0.01)

    async def run() -> None:
        async with relaying() as running:
            key, stranger = fresh_key(), fresh_key()
            other, greeting = await say(running.port, at_least=len(GREETING) + CHALLENGE)
            challenge = greeting[len(GREETING) :]
            right = Request.made_of(key.request(challenge, WAITS, ONE))
            theirs = Request.made_of(stranger.request(challenge, WAITS, ONE))
            forged = [
                right.encoded,  # of another challenge, replayed
                Request(WAITS, key.place, ONE, theirs.signature).encoded,
                Request(DIALS, key.place, ONE, right.signature).encoded,
                Request(WAITS, key.place, TWO, right.signature).encoded,
                Request(b"?", key.place, ONE, right.signature).encoded,
                os.urandom(REQUEST),
            ]
            for request in forged:
                caller, _ = await say(running.port, request, len(GREETING) + CHALLENGE)
                assert await ended(caller) == FALSE
            other.close()
            assert running._places == {}
            assert running.counts.refused == {"no proof": len(forged)}
            # What is signed for one seat, process and challenge serves there.
            caller, answer = await ask(running, key, WAITS)
            assert answer == WAITING
            caller.close()

    asyncio.run(run())


def test_there_is_no_place_for_which_anybody_can_sign() -> None:
    """A key of small order, for which a signature may hold that needs no private key."""
    p = 2**255 - 19
    d = -121665 * pow(121666, -1, p) % p

    def double(x: int, y: int) -> tuple[int, int]:
        product = d * x * x * y * y % p
        return (
            2 * x * y * pow(1 + product, -1, p) % p,
            (y * y + x * x) * pow(1 - product, -1, p) % p,
        )

    def root(square: int) -> int:
        found = pow(square, (p + 3) // 8, p)
        return found if found * found % p == square else found * pow(2, (p - 1) // 4, p) % p

    for weak in rendezvous._WEAK:
        y = int.from_bytes(weak, "little") % p
        x = root((y * y - 1) * pow(d * y * y + 1, -1, p) % p)
        point = (x, y)
        for _ in range(3):
            point = double(*point)
        assert point == (0, 1), weak.hex()
        for sign in (0, 0x80):
            place = weak[:-1] + bytes([weak[-1] | sign])
            for challenge in range(64):
                for first in (place, *rendezvous._WEAK):
                    request = Request(WAITS, place, ONE, first + bytes(32))
                    assert not request.is_proven(challenge.to_bytes(CHALLENGE, "big"))


def test_one_process_waits_at_a_place_until_it_is_gone(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relays, "ANSWER", 0.1)

    async def run() -> None:
        async with relaying() as running:
            async with waiting(ends, at(running)):
                with pytest.raises(ConfigError, match="another program of this party waits there alr"):
                    async with waiting(ends, at(running)):
                        pass
            key = fresh_key()
            dead, answer = await ask(running, key, WAITS, ONE)  # never answers
            assert answer == WAITING
            alive, answer = await ask(running, key, WAITS, TWO)
            assert answer == WAITING
            assert await ended(dead) == b"?"
            later, answer = await ask(running, key, WAITS, TWO)
            assert answer == WAITING
            # Of two connections one may be dead, and the one that answers may be the newer.
            taken = asyncio.create_task(ask(running, key, WAITS, ONE))
            assert await receive(later, 1) == b"?"
            later.send(HERE)
            caller, answer = await taken
            assert answer == TAKEN
            assert await ended(caller) == b""
            later.close()
            alive.close()

    asyncio.run(run())


def test_of_two_processes_that_come_at_once_one_gets_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relays, "ANSWER", 0.1)

    async def run() -> None:
        async with relaying() as running:
            key = fresh_key()
            dead, answer = await ask(running, key, WAITS, b"0" * 16)
            assert answer == WAITING
            came = await asyncio.gather(*(ask(running, key, WAITS, process) for process in (ONE, TWO)))
            assert sorted(answer for _, answer in came) == [WAITING, TAKEN]
            for caller in (dead, *(caller for caller, _ in came)):
                caller.close()

    asyncio.run(run())


def test_who_dials_hears_that_nobody_waits_where_those_who_do_are_dead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(relays, "ANSWER", 0.05)

    async def run() -> None:
        async with relaying() as running:
            key = fresh_key()
            dead = [(await ask(running, key, WAITS))[0] for _ in range(2)]
            monkeypatch.setattr(relays, "HOLD", 0.05)
            with pytest.raises(NotYet, match="nobody waits for this party at the relay"):
                await client(running).dial(key, 10)
            assert [await ended(caller) for caller in dead] == [JOIN, JOIN]

    asyncio.run(run())


def test_nothing_is_asked_between_a_call_and_its_answer() -> None:
    """What is said then would be the first byte of the other party."""

    async def run() -> None:
        async with relaying() as running:
            key = fresh_key()
            waits, answer = await ask(running, key, WAITS)
            assert answer == WAITING
            (place,) = running._places.values()
            (waiter,) = place.waiters
            waiter.ask()
            dials = asyncio.create_task(client(running).dial(key, 10))
            while await receive(waits, 1) != JOIN:
                waits.send(HERE)
            waiter.ask()
            waits.send(READY)
            caller = await dials
            caller.send(b"raw")
            assert await receive(waits, 3) == b"raw"
            for end in (waits, caller):
                end.close()

    asyncio.run(run())


def test_the_newest_connection_of_those_that_wait_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relays, "ANSWER", 0.1)

    async def run() -> None:
        async with relaying() as running:
            key = fresh_key()
            first, second, third = [(await ask(running, key, WAITS))[0] for _ in range(3)]
            assert await ended(first) == b""  # two may wait
            dials = asyncio.create_task(client(running).dial(key, 10))
            assert await ended(third) == JOIN  # which has not said that it is ready
            assert await receive(second, 1) == JOIN
            second.send(READY + b"raw")
            caller = await dials
            assert await receive(caller, 3) == b"raw"
            caller.close()
            assert await ended(second) == b""

    asyncio.run(run())


@pytest.mark.parametrize("said", [READY, HERE, JOIN, b"\x16", b""])
def test_who_waits_says_nothing_that_was_not_asked(said: bytes) -> None:
    async def run() -> None:
        async with relaying() as running:
            caller, answer = await ask(running, fresh_key(), WAITS)
            assert answer == WAITING
            if said:
                caller.send(said)
            else:
                caller.shutdown(socket.SHUT_WR)
            assert await ended(caller) == b""
            await until(lambda: not (running._places or running._tasks))

    asyncio.run(run())


def test_a_third_one_waits_for_a_turn_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relays, "DIALLERS", 1)

    async def run() -> None:
        async with relaying() as running:
            key = fresh_key()
            pair = await joined(running, key)
            third = asyncio.create_task(client(running).dial(key, 10))
            (place,) = running._places.values()
            await until(lambda: place.diallers)
            fourth, answer = await ask(running, key, DIALS)
            assert answer == FULL
            waits = asyncio.create_task(client(running).wait(key, ONE, lambda: None, 10))
            other = (await third, await waits)
            for one, two in (pair, other):  # neither hears the other pair
                word = os.urandom(8)
                one.send(word)
                assert await receive(two, 8) == word
            for end in (*pair, *other, fourth):
                end.close()

    asyncio.run(run())


def test_an_operator_may_list_places(ends: Ends) -> None:
    (key,) = keys_of(ends.registry, WAITS, ["insurer"]).values()

    async def run() -> None:
        async with relaying(places=frozenset([key.place])) as running:
            async with waiting(ends, at(running)) as listener:
                assert listener.troubles == {}
            caller, answer = await ask(running, fresh_key(), DIALS)
            assert answer == UNKNOWN
            caller.close()
        async with (
            relaying(places=frozenset([bytes(32)])) as running,
            waiting(ends, at(running)) as listener,
        ):
            assert "its operator has to add the place" in listener.troubles["insurer"]

    asyncio.run(run())


# --- Bounds ---


def test_connections_that_prove_nothing_end_soon_and_give_way_before(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relays, "AN_ADDRESS", 6)

    async def run() -> None:
        async with (
            relaying(an_address=4, handshake=0.3) as running,
            waiting(ends, at(running)) as listener,
        ):
            silent = [await say(running.port) for _ in range(20)]
            slow = [await say(running.port, bytes(REQUEST - 1)) for _ in range(20)]
            gone = [await say(running.port, b"?") for _ in range(4)]
            for caller, _ in gone:
                caller.shutdown(socket.SHUT_WR)
            here = await call(ends, at(running))  # they gave way to the peer
            there = await listener.accept()
            await exchange(here, there, 1)
            refused = running.counts.refused
            assert refused["gave way to newer ones"] >= 36
            for caller, _ in (*silent, *slow, *gone):
                await ended(caller)
            await until(lambda: not running._strangers)
            assert set(refused) <= {
                "gave way to newer ones",
                "gone before the request",
                "no request in time",
            }
            assert refused.total() == 44
            assert running.counts.open == 3  # the pair, and who waits for the next
            await exchange(here, there, 2)
            await asyncio.gather(here.close(), there.close())

    asyncio.run(run())


def test_strangers_of_many_addresses_give_way_where_most_are() -> None:
    async def run() -> None:
        async with relaying() as running:
            running.strangers = 6
            pairs = []
            for network in ("a", "b", "b", "b", "c", "a", "d"):
                one, other = socket.socketpair()
                one.setblocking(False)
                running._take(one, network)
                pairs.append(other)
            assert running._crowd == {"a": 2, "b": 2, "c": 1, "d": 1}
            await until(lambda: len(running._tasks) == 6)
            assert [pair.recv(1) for pair in pairs] == [b"v", b"", *[b"v"] * 5]
            for pair in pairs:
                pair.close()

    asyncio.run(run())


def test_those_who_have_proven_their_place_stay_and_are_bounded() -> None:
    async def run() -> None:
        async with relaying(connections=6, an_address=6, a_place=3) as running:
            key = fresh_key()
            kept = [await joined(running, key)]
            waiter, answer = await ask(running, key, WAITS)
            assert answer == WAITING
            caller, answer = await ask(running, key, DIALS)
            assert answer == FULL  # the place
            assert await ended(caller) == b""
            kept.append(await joined(running))
            kept.append((waiter, (await ask(running, fresh_key(), WAITS))[0]))
            caller, answer = await ask(running, fresh_key(), WAITS)
            assert answer == FULL
            assert await ended(caller) == b""
            assert running.counts.refused == {"no place left": 2}
            assert running.counts.open == 6
            for pair in kept:
                for end in pair:
                    end.close()
            await until(lambda: not (running._places or running._admitted or running.counts.open))
        async with relaying(an_address=1) as running:
            (await ask(running, fresh_key(), WAITS))[0].close()
            await until(lambda: not running._admitted)
            waiter, answer = await ask(running, fresh_key(), WAITS)
            assert answer == WAITING
            caller, answer = await ask(running, fresh_key(), WAITS)
            assert answer == FULL
            caller.close()
            waiter.close()

    asyncio.run(run())


def test_an_address_asks_so_often_alone_where_places_are_not_listed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(relays, "AT_ONCE", 3)
    monkeypatch.setattr(relays, "A_SECOND", 0.001)
    monkeypatch.setattr(relays, "_PACES", 2)
    monkeypatch.setattr(relays, "HOLD", 0.0)
    key = fresh_key()

    async def run() -> None:
        for places, last in ((None, OFTEN), (frozenset([key.place]), NOBODY)):
            async with relaying(places=places) as running:
                for _ in range(5):  # what anybody can say for others of that address
                    false = Request(DIALS, key.place, ONE, bytes(64)).encoded
                    caller, _ = await say(running.port, false, len(GREETING) + CHALLENGE)
                    assert await ended(caller) == FALSE
                answers = []
                for _ in range(5):
                    caller, answer = await ask(running, key, DIALS)
                    answers.append(answer)
                    caller.close()
                assert answers == [NOBODY] * 3 + [last] * 2
        # What is remembered of addresses is bounded.
        for i in range(10):
            assert running._is_paced(f"192.0.2.{i}")
        assert len(running._paces) == 2

    asyncio.run(run())


def test_bytes_pass_unchanged_and_no_more_than_a_buffer_waits() -> None:
    data = os.urandom(3_000_000)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        async with relaying() as running:
            one, other = await joined(running)
            other.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            sending = asyncio.create_task(loop.sock_sendall(one, data * 8))
            before = -1
            while before != running.counts.bytes:  # nobody reads: it comes to a halt
                before = running.counts.bytes
                await asyncio.sleep(0.05)
            assert not sending.done()
            # The other direction passes meanwhile.
            await loop.sock_sendall(other, b"back")
            assert await receive(one, 4) == b"back"
            got = bytearray()
            while len(got) < 8 * len(data):
                got += await loop.sock_recv(other, 1 << 18)
            assert got == data * 8
            await sending
            for end in (one, other):
                end.close()
        assert running.counts.bytes == 8 * len(data) + 4

    asyncio.run(run())


def test_an_end_that_closes_is_followed_by_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relays, "LINGER", 0.1)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        async with relaying() as running:
            one, other = await joined(running)
            await loop.sock_sendall(one, b"last")
            one.shutdown(socket.SHUT_WR)
            assert await receive(other, 4) == b"last"
            assert await loop.sock_recv(other, 1) == b""
            await loop.sock_sendall(other, b"answer")
            assert await receive(one, 6) == b"answer"
            assert await loop.sock_recv(one, 1) == b""  # it does not hold its half open for ever
            await until(lambda: not running._tasks)
            one.close()
            other.close()
            # A reset is passed on as an end, at once.
            monkeypatch.setattr(relays, "LINGER", 60.0)
            one, other = await joined(running)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            one.close()
            assert await ended(other) == b""
            await until(lambda: not running._tasks)

    asyncio.run(run())


def test_two_between_whom_nothing_moves_are_parted() -> None:
    async def run() -> None:
        async with relaying(idle=0.1) as running:
            one, other = await joined(running)
            assert await ended(one) == await ended(other) == b""
            await until(lambda: not running._tasks)

    asyncio.run(run())


def test_bytes_are_bounded_by_the_day_and_by_the_second() -> None:
    today = datetime.date(2027, 1, 1)

    async def run() -> None:
        nonlocal today
        loop = asyncio.get_running_loop()
        running = Relay(await bind(LOCAL), Limits(bytes_a_day=10), lambda: today)
        one, other = await joined(running)
        await loop.sock_sendall(one, bytes(10))
        assert await receive(other, 10) == bytes(10)
        await loop.sock_sendall(one, b"x")
        assert await ended(other) == await ended(one) == b""
        caller, answer = await ask(running, fresh_key(), DIALS)
        assert answer == SPENT
        caller.close()
        today += datetime.timedelta(days=1)
        for end in await joined(running):
            end.close()
        await running.close()

    asyncio.run(run())
    moved = relays._Moved(5.0, 100)
    assert moved.note(50, 10.0) == 0.5
    assert moved.note(50, 10.25) == 0.75  # what the other direction has used counts
    assert moved.note(100, 20.0) == 1.0
    assert relays._Moved(5.0).note(10**9, 10.0) == 0.0


def test_a_relay_has_as_many_connections_as_the_system_allows_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted: list[int] = []
    lines: list[str] = []

    def allow(files: int) -> int:
        wanted.append(files)
        return min(files, 64)

    monkeypatch.setattr(relays, "raise_file_limit", allow)

    async def run() -> None:
        async with relaying(connections=10_000) as running:
            assert (running.most, running.strangers) == (36, 12)
        async with asyncio.timeout(5):
            serving = asyncio.create_task(relay(RelaySection(listen=LOCAL), lines.append))
            await until(lambda: lines)
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)

    asyncio.run(run())
    assert wanted[0] >= 10_500
    assert "at most 36 connections (not 1,024: the system allows no more open files), " in lines[0]


def test_who_waits_hears_that_the_day_s_bytes_are_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relays, "ASKS", 0.02)

    async def run() -> None:
        async with relaying(bytes_a_day=1) as running:
            heard = asyncio.Event()
            waits = asyncio.create_task(client(running).wait(fresh_key(), ONE, heard.set, 10))
            await heard.wait()
            running._spent = 1
            with pytest.raises(NotYet, match="the relay has carried today"):
                await waits

    asyncio.run(run())


def test_the_line_of_counts_has_numbers_alone() -> None:
    counts = relays.Counts(3, 1, 1200, 40, 5_000_000)
    assert counts.line == (
        "open: 3 connections, 1 pair; since the start: 1,200 connections, 40 pairs, 5,000,000 bytes; "
        "refused: 0"
    )
    counts.refused.update({"no proof": 2, "nobody waited": 5})
    assert counts.line.endswith("; refused: 7 (nobody waited: 5, no proof: 2)")


@pytest.mark.parametrize("seed", range(2))
def test_whatever_callers_do_nothing_of_them_stays(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    for name in ("ANSWER", "HOLD", "ASKS", "LINGER"):
        monkeypatch.setattr(relays, name, 0.02)
    rng = random.Random(seed)
    keys = [fresh_key(), fresh_key()]

    async def call(running: Relay) -> None:
        caller, got = await say(running.port, at_least=len(GREETING) + CHALLENGE)
        seat, process = rng.choice((DIALS, WAITS)), rng.choice((ONE, TWO))
        request = rng.choice(keys).request(got[len(GREETING) :], seat, process)
        with contextlib.suppress(OSError):
            caller.send(request if rng.random() < 0.9 else request[: rng.randrange(REQUEST)])
            async with asyncio.timeout(rng.uniform(0, 0.2)):
                while word := await asyncio.get_running_loop().sock_recv(caller, 1):
                    if word in (ASK, JOIN) and rng.random() < 0.9:
                        caller.send(HERE if word == ASK else READY)
                    if rng.random() < 0.1:
                        caller.send(rng.randbytes(5000))
                    if rng.random() < 0.05:
                        caller.shutdown(socket.SHUT_WR)
        if rng.random() < 0.2:
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        caller.close()

    async def run() -> None:
        async with relaying(
            connections=20, an_address=20, a_place=8, handshake=0.1, idle=0.1, bytes_a_day=60_000
        ) as running:
            await asyncio.gather(*(call(running) for _ in range(60)))
            await until(lambda: not running._tasks)
            assert (running.counts.open, running.counts.pairs) == (0, 0)
            left = (running._places, running._admitted, running._strangers, running._crowd)
            assert not any(left), left
            assert not [why for why in running.counts.refused if "fault" in why]

    asyncio.run(run())


# --- The file and the command ---


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "section [relay] is missing"),
        ('[party]\nname = "x"', "is a party file, where a relay file is due"),
        ('[relay]\nlisten = "x"', "[relay] listen must be host:port with a port from 0"),
        ('[relay]\nlisten = "relay://x:1"', "[relay] listen must be host:port with a port from 0"),
        ('[relay]\nlisten = "x:1"\nport = 1', "unknown key 'port' in [relay]"),
        ('[relay]\nlisten = "x:1"\nplaces = ["ab"]', "[relay] places must be a list of 64 hexadecimal"),
        ('[relay]\nlisten = "x:1"\nplaces = []', "[relay] places must be a list of 64 hexadecimal"),
        ('[relay]\nlisten = "x:1"\nidle = 1', "[relay] idle must be a number from 10 to 86,400"),
        ('[relay]\nlisten = "x:1"\nbytes_a_day = 0', "bytes_a_day must be a whole number of at least 1"),
        ('[relay]\nlisten = "192.0.2.1:1"', "cannot listen on 192.0.2.1:1: cannot assign"),
    ],
)
def test_a_relay_s_file_is_checked(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "relay.toml"
    file.write_text(text)
    command("relay", str(file)).failed(2, said)


def test_a_relay_s_file_says_what_strangers_may_have(tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    file.write_text('[relay]\nlisten = "0.0.0.0:7443"')
    settings = load_relay(file).relay
    assert limits_of(settings) == Limits()
    file.write_text(
        f'[relay]\nlisten = "[::]:7443"\nplaces = ["{"ab" * 32}"]\nconnections = 10\nidle = 60\n'
        "connections_an_address = 4\nconnections_a_place = 6\nhandshake = 2\n"
        "bytes_a_second = 1000\nbytes_a_day = 5000\nreport = 0\n"
    )
    changed = limits_of(load_relay(file).relay)
    assert changed == Limits(10, 4, 6, 2.0, 60.0, 1000, 5000, frozenset([b"\xab" * 32]))


def test_the_service_says_its_counts_now_and_then_and_at_its_end() -> None:
    lines: list[str] = []

    async def run() -> None:
        settings = RelaySection(listen=LOCAL, report=0.02)
        serving = asyncio.create_task(relay(settings, lines.append))
        await until(lambda: len(lines) > 2)
        port = int(lines[0].partition("127.0.0.1:")[2].partition(":")[0])
        caller, _ = await say(port, at_least=len(GREETING))  # it serves on
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving
        caller.close()

    asyncio.run(run())
    assert lines[1] == relays.Counts().line
    assert lines[-1].startswith("open: 0 connections, 0 pairs; since the start: 1 connection, 0 pairs")
