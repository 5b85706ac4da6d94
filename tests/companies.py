"""Two companies in folders of their own that are introduced to each other by a code, in one process."""

import asyncio
import contextlib
import shutil
import socket
import tomllib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from vfl.errors import PeerUnreachable, VflError
from vfl.jobs.introducing import Met, Wishes, invite, join
from vfl.net.invitation import Code
from vfl.party import identity

HEAD = (
    '# of our own: "keep"\n[party]\nname = "{name}"\nrole = "{role}"\nidentity = "keys/{name}"\n{more}\n'
)
DATA = '[data]   # as exported\npath = "t.csv"\nid = "id"\n'


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


def make_keys(folder: Path) -> Path:
    """Keys of several companies, and second ones of the registry."""
    for name in ("insurer", "registry", "bureau", "bank", "trustee"):
        identity.create(folder / name, name)
    identity.create(folder / "second", "registry")
    return folder


Make = Callable[..., Company]


def maker(root: Path, keys: Path) -> Make:
    """Makes companies below a folder: a party file and its keys, of `key` where these are others."""

    def made(name: str, role: str, more: str = "", rest: str = "", key: str = "") -> Company:
        folder = root / f"{name}{key}{len(list(root.iterdir()))}"
        (folder / "keys").mkdir(parents=True, mode=0o700)
        for kind in ("key", "pem"):
            shutil.copy(keys / f"{key or name}.{kind}", folder / "keys" / f"{name}.{kind}")
        label = 'label = "claim"\n' if role == "guest" else ""
        data = "" if role == "coordinator" else DATA + label
        path = folder / f"{name}.toml"
        path.write_text(HEAD.format(name=name, role=role, more=more) + data + rest)
        return Company(path)

    return made


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def make(tmp_path: Path, keys: Path) -> Make:
    return maker(tmp_path, keys)


@pytest.fixture
def insurer(make: Make) -> Company:
    return make("insurer", "guest", f'listen = "127.0.0.1:{free_port()}"')


@pytest.fixture
def registry(make: Make) -> Company:
    return make("registry", "host")


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
