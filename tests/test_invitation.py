"""Invitations: two parties pin each other by a code; wrong codes, meddlers, and files that do not "
"fit."""

import asyncio
import contextlib
import shutil
import socket
import tomllib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from commands import command
from ends import until
from meetings import at as relay_address
from meetings import relaying

from vfl.errors import (
    ConfigError,
    DataError,
    IdentityError,
    PeerError,
    PeerLost,
    PeerStopped,
    PeerUnreachable,
    Refused,
    VflError,
)
from vfl.jobs.introducing import Met, Wishes, check_joining, invite, join
from vfl.net import inviting
from vfl.net.invitation import (
    DIGITS,
    MOST_SEALED,
    Channel,
    Code,
    Consent,
    Introduction,
    NoInvitation,
    WrongCode,
    answer,
    ask,
    key_of_place,
)
from vfl.party import identity
from vfl.party.config import load_party
from vfl.party.introduced import Pair, reachable, with_peer
from vfl.party.revocation import revoke

HEAD = (
    '# of our own: "keep"\n[party]\nname = "{name}"\nrole = "{role}"\nidentity = "keys/{name}"\n{more}\n'
)
DATA = '[data]   # as exported\npath = "t.csv"\nid = "id"\n'


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    for name in ("insurer", "registry", "bureau", "bank", "trustee"):
        identity.create(folder / name, name)
    identity.create(folder / "second", "registry")
    return folder


@dataclass
class Company:
    """A party's folder, and what its person saw."""

    path: Path
    seen: list[Met] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def wishes(self, **more: object) -> Wishes:
        return Wishes(self.seen.append, self.said.append, **more)

    @property
    def settings(self) -> dict:
        return tomllib.loads(self.path.read_text())

    def state(self) -> dict[str, bytes]:
        """Every file's content."""
        folder = self.path.parent
        return {
            str(one.relative_to(folder)): one.read_bytes() for one in folder.rglob("*") if one.is_file()
        }


Make = Callable[..., Company]


@pytest.fixture
def make(tmp_path: Path, keys: Path) -> Make:
    def made(name: str, role: str, more: str = "", rest: str = "", key: str = "") -> Company:
        folder = tmp_path / f"{name}{key}{len(list(tmp_path.iterdir()))}"
        (folder / "keys").mkdir(parents=True, mode=0o700)
        for kind in ("key", "pem"):
            shutil.copy(keys / f"{key or name}.{kind}", folder / "keys" / f"{name}.{kind}")
        label = 'label = "claim"\n' if role == "guest" else ""
        data = "" if role == "coordinator" else DATA + label
        path = folder / f"{name}.toml"
        path.write_text(HEAD.format(name=name, role=role, more=more) + data + rest)
        return Company(path)

    return made


@pytest.fixture
def insurer(make: Make) -> Company:
    return make("insurer", "guest", f'listen = "127.0.0.1:{free_port()}"')


@pytest.fixture
def registry(make: Make) -> Company:
    return make("registry", "host")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def meet(
    one: Company,
    two: Company,
    code: Callable[[Code], Code] = lambda code: code,
    way: Callable[[str], contextlib.AbstractAsyncContextManager[str]] | None = None,
    of_one: dict[str, object] | None = None,
    of_two: dict[str, object] | None = None,
) -> tuple[Met | VflError, Met | VflError]:
    """What comes of an invitation at both ends. `way`: what is between the two."""
    shown: asyncio.Future[tuple[Code, str]] = asyncio.get_running_loop().create_future()
    invites = asyncio.create_task(
        invite(one.path, one.wishes(**of_one or {}), 60, lambda *found: shown.set_result(found))
    )
    await asyncio.wait([invites, shown], return_when=asyncio.FIRST_COMPLETED)
    if invites.done():
        return await ended(invites), PeerUnreachable("no invitation")
    right, where = await shown
    async with (way or contextlib.nullcontext)(where) as seen_at:
        wishes = two.wishes(**{"at": seen_at, **(of_two or {})})
        joins = asyncio.create_task(join(two.path, code(right), wishes, 10))
        return await ended(invites), await ended(joins)


async def ended(task: "asyncio.Task[Met]") -> Met | VflError:
    try:
        return await task
    except VflError as error:
        return error


def both_refused(
    one: Company, two: Company, kinds: tuple[type, type], *said: str, **more: object
) -> tuple[str, str]:
    """An invitation that comes to nothing: nothing is written, and what both are told."""
    before = one.state(), two.state()
    found = asyncio.run(meet(one, two, **more))
    assert tuple(map(type, found)) == kinds, found
    assert (one.state(), two.state()) == before
    texts = str(found[0]), str(found[1])
    for words in said:
        assert any(words in text for text in texts), texts
    assert all("\n" not in text for text in texts)
    return texts


# --- The code ---


def test_a_slip_of_the_tongue_is_seen_before_anything_is_sent() -> None:
    for _ in range(20):
        code = Code.new()
        assert len(code.digits) == DIGITS and Code.typed(code.spoken) == code
        assert Code.typed(f" {code.digits[:6]} {code.digits[6:]}\n") == code
        for at, digit in enumerate(code.digits):
            for other in set("0123456789") - {digit}:
                with pytest.raises(ConfigError, match="slip"):
                    Code.typed(code.digits[:at] + other + code.digits[at + 1 :])
            swapped = code.digits[:at] + code.digits[at : at + 2][::-1] + code.digits[at + 2 :]
            if swapped != code.digits:
                with pytest.raises(ConfigError, match="slip"):
                    Code.typed(swapped)


@pytest.mark.parametrize("text", ["", "517-930-264-18", "517-930-264-1855", "٤17930264185", 12 * "a"])
def test_what_is_no_code_is_not_echoed(text: str) -> None:
    with pytest.raises(ConfigError, match="12 digits") as raised:
        Code.typed(text)
    assert not text or text not in str(raised.value)


def test_a_code_is_not_in_the_words_of_its_object() -> None:
    code = Code.new()
    assert code.digits not in repr(code) and code.spoken not in repr(code)


def test_places_are_of_the_first_three_digits() -> None:
    code = Code.new()
    assert code.place.place == key_of_place(int(code.digits[:3])).place
    assert len({key_of_place(number).place for number in range(50)}) == 50


# --- Two that meet ---


def test_two_parties_pin_each_other_and_keep_their_files_as_they_were(
    insurer: Company, registry: Company
) -> None:
    texts = insurer.path.read_text(), registry.path.read_text()
    met = asyncio.run(meet(insurer, registry))
    assert all(isinstance(one, Met) for one in met), met
    listen = insurer.settings["party"]["listen"]
    assert insurer.settings["peers"] == {"registry": {"certificate": "peers/registry.pem"}}
    assert registry.settings["peers"] == {
        "insurer": {"address": listen, "certificate": "peers/insurer.pem"}
    }
    for company, text, peer in ((insurer, texts[0], registry), (registry, texts[1], insurer)):
        assert company.path.read_text().startswith(text)
        (theirs,) = (peer.path.parent / "keys").glob("*.pem")
        pin = company.path.parent / "peers" / theirs.name
        assert identity.load_certificate(pin).der == identity.load_certificate(theirs).der
        load_party(company.path)
    (one,), (two,) = insurer.seen, registry.seen
    assert one.number == two.number and len(one.number) == 6
    assert one.dialled == two.dialled == ("insurer", listen)
    assert (one.change.role, two.change.role) == ("host", "guest")
    # Once more: what is there stays as it is.
    before = insurer.state(), registry.state()
    assert all(isinstance(one, Met) for one in asyncio.run(meet(insurer, registry)))
    assert (insurer.state(), registry.state()) == before


def test_a_section_that_was_drafted_is_filled_in(make: Make, insurer: Company) -> None:
    listen = insurer.settings["party"]["listen"]
    drafted = f'[peers.insurer]  # us\naddress = "{listen}"\ncertificate = "pins/them.pem"  # pin\n'
    registry = make("registry", "host", rest=f'\n[policy]\nguests = ["insurer"]\n\n{drafted}')
    text = registry.path.read_text()
    assert check_joining(registry.path, None) == listen
    assert all(isinstance(one, Met) for one in asyncio.run(meet(insurer, registry)))
    assert registry.path.read_text() == text
    assert (registry.path.parent / "pins" / "them.pem").exists()


def test_a_host_that_listens_is_dialled_by_the_guest_that_joins(make: Make) -> None:
    bank = make("bank", "host", f'listen = "0.0.0.0:{(port := free_port())}"')
    guest = make("insurer", "guest")
    met = asyncio.run(meet(bank, guest, of_two={"at": f"localhost:{port}"}))
    assert all(isinstance(one, Met) for one in met), met
    assert guest.settings["peers"]["bank"]["address"] == f"localhost:{port}"
    assert "address" not in bank.settings["peers"]["insurer"]


def test_two_hosts_pin_each_other_and_neither_is_dialled(make: Make) -> None:
    guest = '\n[peers.insurer]\naddress = "i.example:1"\ncertificate = "peers/i.pem"\n'
    pair = [make(name, "host", rest=guest) for name in ("registry", "bureau")]
    met = asyncio.run(meet(*pair, of_one={"at": "127.0.0.1:0"}))
    assert all(isinstance(one, Met) and one.dialled is None for one in met), met
    assert pair[0].settings["peers"]["bureau"] == {"certificate": "peers/bureau.pem"}
    assert pair[1].settings["peers"]["registry"] == {"certificate": "peers/registry.pem"}


@pytest.mark.parametrize("invites", [True, False])
def test_a_coordinator_is_always_dialled(make: Make, insurer: Company, invites: bool) -> None:
    trustee = make("trustee", "coordinator", f'listen = "127.0.0.1:{free_port()}"')
    pair = (trustee, insurer) if invites else (insurer, trustee)
    met = asyncio.run(meet(*pair))
    assert all(isinstance(one, Met) for one in met), met
    listen = trustee.settings["party"]["listen"]
    assert insurer.settings["peers"]["trustee"] == {
        "address": listen,
        "certificate": "peers/trustee.pem",
        "role": "coordinator",
    }
    assert trustee.settings["peers"]["insurer"] == {"certificate": "peers/insurer.pem"}


def test_two_that_open_no_port_meet_at_a_relay_that_reads_nothing(make: Make, registry: Company) -> None:
    passed: list[bytes] = []

    async def run() -> tuple[Met | VflError, Met | VflError]:
        async with relaying() as running, between(f"127.0.0.1:{running.port}", passed) as wire:
            at = f"relay://{wire}"
            guest = make("insurer", "guest", f'listen = "{at}"')
            met = await meet(guest, registry)
            assert registry.settings["peers"]["insurer"]["address"] == at
            return met

    met = asyncio.run(run())
    assert all(isinstance(one, Met) for one in met), met
    said = b"".join(passed)
    assert len(said) > 2000
    for secret in (b"insurer", b"registry", b"guest", b"relay://", met[0].change.certificate.der[40:80]):
        assert secret not in said


def test_a_relay_that_lists_places_serves_invitations_where_its_operator_says_so(
    make: Make, registry: Company
) -> None:
    from vfl.jobs.relaying import limits_of
    from vfl.party.relay_file import RelaySection

    async def run(**more: object) -> tuple[Met | VflError, Met | VflError]:
        section = {"listen": "127.0.0.1:0", "places": ["ab" * 32], **more}
        limits = limits_of(RelaySection.model_validate(section))
        async with relaying(places=limits.places) as running:
            guest = make("insurer", "guest", f'listen = "{relay_address(running)}"')
            return await meet(guest, registry)

    refused, _ = asyncio.run(run())
    assert isinstance(refused, PeerUnreachable) and "invitations = true" in str(refused)
    assert all(isinstance(one, Met) for one in asyncio.run(run(invitations=True)))


# --- Wrong codes, and who is between the two ---


def test_a_wrong_code_ends_the_invitation_at_both_ends(insurer: Company, registry: Company) -> None:
    def other(code: Code) -> Code:
        while (wrong := Code.new()).digits[:3] == code.digits[:3]:
            pass
        return wrong

    texts = both_refused(insurer, registry, (WrongCode, WrongCode), "make a new one", code=other)
    assert "this invitation is over" in texts[0] and "is over now" in texts[1]
    with socket.socket() as later:  # nobody listens any more
        host, port = insurer.settings["party"]["listen"].split(":")
        assert later.connect_ex((host, int(port))) != 0


@contextlib.asynccontextmanager
async def between(
    target: str,
    passed: list[bytes],
    change: Callable[[int, bytes], bytes] = lambda way, data: data,
) -> AsyncIterator[str]:
    """An address that passes connections on to another; `change(way, data)` sees each piece, 0 to the
    target and 1 back, and ends the connection where it shortens one."""
    tasks: set[asyncio.Task[None]] = set()

    async def copy(way: int, source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                passed.append(data)
                to.write(sent := change(way, data))
                if len(sent) < len(data):
                    break  # what is cut is all
        to.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(*target.rsplit(":", 1))
        for task in (copy(0, reader, there[1]), copy(1, there[0], writer)):
            tasks.add(asyncio.create_task(task))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


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
    with pytest.raises(PeerUnreachable, match=r"cannot join at .* refused"):
        asyncio.run(join(registry.path, Code.new(), wishes, 0))


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


# --- Parties that do not fit ---


def test_two_guests(insurer: Company, make: Make) -> None:
    both_refused(insurer, make("bank", "guest"), (Refused, Refused), "both are a guest")


def test_one_name_for_two(make: Make) -> None:
    one = make("registry", "host", f'listen = "127.0.0.1:{free_port()}"')
    two = make("registry", "guest", key="second")
    both_refused(one, two, (Refused, Refused), "both parties are called registry")


def test_a_party_and_its_own_copy(make: Make) -> None:
    one = make("bank", "guest", f'listen = "127.0.0.1:{free_port()}"')
    both_refused(one, make("bank", "host"), (Refused, Refused), "both parties are called bank")


def test_neither_can_be_dialled(make: Make, registry: Company) -> None:
    guest = make("insurer", "guest")
    wish = {"of_one": {"at": "127.0.0.1:0"}}
    both_refused(guest, registry, (Refused, Refused), "says where the other can dial it", **wish)
    wish["of_one"]["address"] = "insurer.example:7443"
    assert all(isinstance(one, Met) for one in asyncio.run(meet(guest, registry, **wish)))
    assert registry.settings["peers"]["insurer"]["address"] == "insurer.example:7443"


def test_another_party_than_was_expected(insurer: Company, registry: Company) -> None:
    wish = {"of_one": {"expected": "bureau"}}
    both_refused(insurer, registry, (Refused, PeerStopped), "where bureau was expected", **wish)


def test_a_guest_that_the_policy_does_not_name(insurer: Company, make: Make) -> None:
    host = make("registry", "host", rest='\n[policy]\nguests = ["bank"]\n')
    both_refused(insurer, host, (PeerStopped, Refused), "[policy] guests does not name insurer")


def test_a_peer_that_is_pinned_with_another_certificate(
    insurer: Company, registry: Company, make: Make
) -> None:
    assert isinstance(asyncio.run(meet(insurer, registry))[0], Met)
    other = make("registry", "host", key="second")
    said = ("vfl keys accept", "another certificate is pinned for that name")
    both_refused(insurer, other, (IdentityError, PeerStopped), *said)


def test_a_certificate_that_is_pinned_under_another_name_or_revoked(
    insurer: Company, registry: Company, keys: Path
) -> None:
    pins = insurer.path.parent / "peers"
    pins.mkdir(mode=0o700)
    shutil.copy(keys / "registry.pem", pins / "bureau.pem")
    text = insurer.path.read_text()
    insurer.path.write_text(f'{text}\n[peers.bureau]\ncertificate = "peers/bureau.pem"\n')
    both_refused(insurer, registry, (IdentityError, PeerStopped), "pinned for bureau already")
    insurer.path.write_text(text)
    certificate = identity.load_certificate(pins / "bureau.pem")
    own = load_party(insurer.path, peers_to_come=True).party.identity
    revoke(own, pins / "bureau.pem", certificate, "lost", "2026-11-30")
    both_refused(insurer, registry, (IdentityError, PeerStopped), "was revoked on 2026-11-30")


def test_files_that_cannot_be_written_are_seen_before_the_other_end_writes(
    insurer: Company, registry: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vfl.party import introduced

    folder = registry.path.parent
    allowed = introduced.os.access
    monkeypatch.setattr(
        introduced.os, "access", lambda path, mode: Path(path) != folder and allowed(path, mode)
    )
    both_refused(insurer, registry, (PeerStopped, DataError), "cannot be written by this account")


def test_a_party_file_that_cannot_be_added_to(insurer: Company, make: Make) -> None:
    inline = 'peers = {trustee = {address = "t.example:1", certificate = "t.pem"}}\n'
    host = make("registry", "host")
    host.path.write_text(inline + host.path.read_text())
    both_refused(insurer, host, (PeerStopped, ConfigError), "cannot be added to")


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbf[party]\r\nname = 'a'\r\n[peers.'b'] # w\r\nonline = 'c:1'\r\n[data]\r\nx = 1\r\n",
        b"[party]\nname = 'a'",
        b"[party]\nname = 'a'\n\n",
        b"[ peers . b ]",
    ],
    ids=["windows", "no end", "a gap", "a header alone"],
)
def test_layouts_of_party_files(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "p.toml"
    values = {"address": "a.example:1", "certificate": "peers/b.pem"}

    def read(text: bytes) -> dict:
        return tomllib.loads(text.decode("utf-8-sig").replace("\r\n", "\n"))

    path.write_bytes(data)
    before, changed = read(data), with_peer(path, "b", values)
    there = before.get("peers", {}).get("b", {})
    assert read(changed) == {**before, "peers": {"b": {**values, **there}}}
    lone = changed.count(b"\n") - changed.count(b"\r\n")
    assert lone == 0 if b"\r\n" in data else changed.count(b"\r") == 0
    kept = [line for line in data.splitlines() if line]
    assert [line for line in changed.splitlines() if line in kept] == kept
    path.write_bytes(changed)
    assert with_peer(path, "b", values) == changed


def test_a_header_that_is_text_is_none(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_bytes(b'[party]\nname = """\n[peers.b]\n"""\n')
    with pytest.raises(ConfigError, match="cannot be added to"):
        with_peer(path, "b", {"certificate": "peers/b.pem"})


@pytest.mark.parametrize(
    ("listen", "found"),
    [
        (None, None),
        ("0.0.0.0:7443", None),
        ("[::]:7443", None),
        ("insurer.example:0", None),
        ("insurer.example:7443", "insurer.example:7443"),
        ("relay://r.example:1", "relay://r.example:1"),
    ],
)
def test_where_others_reach_a_party(listen: str | None, found: str | None) -> None:
    assert reachable(listen) == found


def test_versions_that_do_not_fit_are_said_at_both_ends() -> None:
    one = Introduction(3, "0.1.0", "insurer", "guest", b"1", b"", "a.example:1")
    two = Introduction(4, "0.2.0", "registry", "host", b"2", b"")
    assert "insurer runs vfl 0.1.0, protocol 3, and registry vfl 0.2.0" in (
        Pair(one, two).misfit() or ""
    )


def test_an_introduction_in_another_ones_name_is_refused(
    insurer: Company, registry: Company, keys: Path
) -> None:
    """A party that shows the certificate of the bureau without having its key."""
    for kind in ("pem",):
        shutil.copy(keys / f"bureau.{kind}", registry.path.parent / "keys" / f"registry.{kind}")
    before = insurer.state()
    found = asyncio.run(meet(insurer, registry))
    assert isinstance(found[1], IdentityError) and "do not belong together" in str(found[1])
    assert insurer.state() == before


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


# --- The commands ---


def test_what_the_commands_refuse_before_anything_is_sent(insurer: Company, registry: Company) -> None:
    before = insurer.state(), registry.state()
    for arguments, code, said in (
        (("join", registry.path, "417", "--at", "127.0.0.1:1"), 2, "the code has 12 digits"),
        (("join", registry.path, "417-930-264-186", "--at", "127.0.0.1:1"), 2, "has a slip in it"),
        (("join", registry.path, "--at", "nowhere"), 2, "is no address"),
        (("join", registry.path), 2, "does not say where the other party waits"),
        (("join", registry.path, Code.new().spoken, "--at", "0.0.0.0:7443"), 7, "no address to dial"),
        (("invite", registry.path), 2, "[party] has no listen"),
        (("invite", insurer.path, "--compare"), 2, "asks at a terminal, and there is none"),
        (("invite", insurer.path, "--address", "insurer.example"), 2, "is no address"),
    ):
        command(*map(str, arguments)).failed(code, said)
    assert (insurer.state(), registry.state()) == before


def test_no_key_yet(insurer: Company) -> None:
    for file in (insurer.path.parent / "keys").iterdir():
        file.unlink()
    command("invite", str(insurer.path)).failed(4, "`vfl keys new` makes an identity")
