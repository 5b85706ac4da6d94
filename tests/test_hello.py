import asyncio
from pathlib import Path
from typing import ClassVar

import msgspec
import pytest

import vfl
from vfl.errors import PeerError, PeerLost
from vfl.net import hello, wire
from vfl.net.hello import Hello, OtherProtocol, greet
from vfl.net.peer import HEADER, MemoryPeer, Peer
from vfl.net.wire import Message

INSURER, REGISTRY = b"i" * 32, b"r" * 32


class Number(Message, frozen=True):
    value: int


def pair() -> tuple[MemoryPeer, MemoryPeer]:
    """(the insurer's peer, the registry's peer)."""
    return MemoryPeer.pair("insurer", "registry")


def insurer_greets(peer: Peer, **more):
    return greet(peer, own=INSURER, other=REGISTRY, role="guest", **more)


def registry_greets(peer: Peer, **more):
    return greet(peer, own=REGISTRY, other=INSURER, role="host", **more)


def a_hello(**fields) -> Hello:
    known = {
        "protocol": hello.PROTOCOL,
        "version": "0.1.0",
        "role": "host",
        "nonce": bytes(32),
        "fingerprint": REGISTRY,
        "seen": INSURER,
    }
    return Hello(**(known | fields))


async def answer(left: MemoryPeer, right: MemoryPeer, said: Message) -> None:
    """The insurer greets while the registry says something of its own."""
    await right.send(said)
    await insurer_greets(left)


def test_both_learn_who_speaks_and_later_frames_are_bound_to_the_session() -> None:
    async def session() -> tuple[Hello, Hello, bytes]:
        left, right = pair()
        seen = await asyncio.gather(insurer_greets(left), registry_greets(right))
        await left.send(Number(7))
        assert await right.recv(Number) == Number(7)
        await right.send(Number(8))
        assert await left.recv(Number) == Number(8)
        assert left._session == right._session != bytes(16)
        return *seen, left._session

    registry, insurer, first = asyncio.run(session())
    assert (registry.role, insurer.role) == ("host", "guest")
    assert registry.version == vfl.__version__
    *_, second = asyncio.run(session())
    assert first != second


def test_the_nonces_come_from_the_entropy_given() -> None:
    async def session() -> bytes:
        left, right = pair()
        fixed = {"entropy": lambda size: b"n" * size}
        await asyncio.gather(insurer_greets(left, **fixed), registry_greets(right, **fixed))
        return left._session

    assert asyncio.run(session()) == asyncio.run(session())


def test_another_protocol_is_named_at_both_ends(monkeypatch) -> None:
    mine = hello.PROTOCOL

    class Later(Message, frozen=True):
        """Hello as a later version may have it: a field more."""

        limit: ClassVar[int] = wire.KIB
        protocol: int
        version: str
        role: str
        nonce: bytes
        fingerprint: bytes
        seen: bytes
        features: list[str]

    later = Later(hello.PROTOCOL + 1, "0.3.0", "host", bytes(32), REGISTRY, INSURER, ["x"])
    Later.__name__ = "Hello"

    async def here() -> None:
        left, right = pair()
        await answer(left, right, later)

    with pytest.raises(OtherProtocol) as caught:
        asyncio.run(here())
    assert str(caught.value) == (
        f"registry runs protocol {mine + 1} (vfl 0.3.0), this party protocol {mine} "
        f"(vfl {vfl.__version__}):"
        " update the older one"
    )
    assert isinstance(caught.value, PeerError)

    async def there() -> None:
        left, right = pair()
        await right.send(a_hello())
        monkeypatch.setattr(hello, "PROTOCOL", mine + 1)
        await insurer_greets(left)

    with pytest.raises(
        OtherProtocol, match=rf"registry runs protocol {mine} .*, this party protocol {mine + 1}"
    ):
        asyncio.run(there())


def test_operations_names_the_protocol_number() -> None:
    text = (Path(__file__).parents[1] / "docs" / "operations.md").read_text()
    assert f"speak the same protocol number work together; now it is {hello.PROTOCOL}." in text


@pytest.mark.parametrize(
    "said",
    [
        a_hello(fingerprint=b"x" * 32),
        a_hello(seen=b"x" * 32),
        a_hello(fingerprint=INSURER, seen=REGISTRY),  # our own, sent back
        a_hello(nonce=b"short"),
        a_hello(version="\x1b[2J"),
        a_hello(version=""),
        a_hello(role="r" * 33),
        Number(1),
    ],
    ids=lambda said: type(said).__name__,
)
def test_a_greeting_that_is_wrong_is_refused(said: Message) -> None:
    async def session() -> None:
        await answer(*pair(), said)

    with pytest.raises(PeerError, match="registry broke the protocol") as caught:
        asyncio.run(session())
    assert "\x1b" not in str(caught.value)


def test_a_large_greeting_is_refused_unread() -> None:
    async def session() -> None:
        left, right = pair()
        body = msgspec.to_builtins(a_hello(), builtin_types=(bytes,)) | {"more": "x" * wire.KIB}
        frame = bytes(HEADER) + msgspec.msgpack.encode(["Hello", body])
        await right._put(frame)
        await insurer_greets(left)

    with pytest.raises(PeerError, match="over 1,024"):
        asyncio.run(session())


def test_a_silent_peer_is_given_up(monkeypatch) -> None:
    monkeypatch.setattr(hello, "SECONDS", 0.05)

    async def session() -> None:
        left, _ = pair()
        await insurer_greets(left)

    with pytest.raises(PeerLost, match="registry sent no greeting"):
        asyncio.run(session())


def test_an_unbound_frame_after_the_greeting_is_refused() -> None:
    async def session() -> None:
        left, right = pair()
        await asyncio.gather(insurer_greets(left), registry_greets(right))
        right._session = bytes(16)
        await right.send(Number(1))
        await left.recv(Number)

    with pytest.raises(PeerError, match="another session"):
        asyncio.run(session())
