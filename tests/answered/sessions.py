"""What the package answers about messages and frames."""

import asyncio
import importlib
import pkgutil
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from reference.data import data

import vfl.protocols
from answered.given import Answers, Given, fixed
from vfl.net import hello, mark, rendezvous, wire
from vfl.net.peer import MemoryPeer, Peer, together

ANSWERS = Answers()


def kinds() -> dict[str, type[wire.Message]]:
    """All messages of protocols, by name."""
    for module in pkgutil.walk_packages(vfl.protocols.__path__, "vfl.protocols."):
        importlib.import_module(module.name)
    found: dict[str, type[wire.Message]] = {}
    left = wire.Message.__subclasses__()
    while left:
        kind = left.pop()
        found[kind.__name__] = kind
        left += kind.__subclasses__()
    return found


def message_of(given: Given) -> wire.Message:
    def value(field: Any) -> Any:
        if isinstance(field, dict):
            return data(field["bytes"])
        return [value(one) for one in field] if isinstance(field, list) else field

    return kinds()[given["kind"]](**{name: value(field) for name, field in given["fields"].items()})


class Kept(Peer):
    """Keeps what is sent."""

    def __init__(self) -> None:
        super().__init__("peer")
        self.frames: list[bytes] = []

    async def _put(self, frame: bytes) -> None:
        self.frames.append(frame)

    async def _get(self) -> bytes:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError


@ANSWERS.of("message")
def _(given: Given) -> object:
    message = message_of(given)
    payload = wire.encode(message)
    assert wire.decode(payload, [type(message)]) == message
    return {"payload": payload.hex()}


@ANSWERS.of("frames")
def _(given: Given) -> object:
    peer, message = Kept(), message_of(given)

    async def run() -> None:
        await peer.send(message)
        for parts in given["bindings"]:
            peer.bind(*map(data, parts))
            await peer.send(message)

    asyncio.run(run())
    return {"frames": [frame.hex() for frame in peer.frames]}


@ANSWERS.of("greeting")
def _(given: Given) -> object:
    ends = [(data(end["certificate"]), data(end["nonce"])) for end in given["ends"]]

    async def run() -> list[bytes]:
        pair = MemoryPeer.pair("one", "other")
        await together(
            [
                hello.greet(
                    peer, own=own, other=other, role="host", answers=answers_, entropy=fixed(nonce)
                )
                for peer, (own, nonce), (other, _), answers_ in zip(
                    pair, ends, ends[::-1], (False, True), strict=True
                )
            ]
        )
        return [peer._session for peer in pair]

    first, second = asyncio.run(run())
    assert first == second
    return {"session": first.hex(), "resume key": hello.resume_key(first).hex()}


@ANSWERS.of("mark")
def _(given: Given) -> object:
    dials, listens, nonce = (data(given[name]) for name in ("dials", "listens", "nonce"))
    key = mark.key_of(dials.hex(), listens.hex())
    made = mark.new_mark(key, fixed(nonce))
    assert mark.is_made_with(bytes.fromhex(made), key)
    return {"mark": made}


@ANSWERS.of("place")
def _(given: Given) -> object:
    one, other = (
        ec.derive_private_key(int.from_bytes(data(private), "big"), ec.SECP256R1())
        for private in given["private"]
    )
    dials, listens = data(given["dials"]), data(given["listens"])
    shared = one.exchange(ec.ECDH(), other.public_key())
    key = rendezvous.key_of_secret(shared, dials, listens)
    challenge, process = data(given["challenge"]), data(given["process"])
    requests = {
        "dials": key.request(challenge, rendezvous.DIALS, process),
        "waits": key.request(challenge, rendezvous.WAITS, process),
    }
    for request in requests.values():
        assert rendezvous.Request.made_of(request).is_proven(challenge)
    return {
        "secret": shared.hex(),
        "place": key.place.hex(),
        **{seat: request.hex() for seat, request in requests.items()},
        "seal": mark.seal_of(key.seal, data(given["hello"])).hex(),
    }
