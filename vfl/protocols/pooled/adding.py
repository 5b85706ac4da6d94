"""Totals over all clients, added up by a server that reads neither parts nor totals.

Clients are parties with data, the server has none. Bonawitz et al., CCS 2017, section 4, where every
client stays to the end of a step, with a pad over the total:

 1. The server begins: which clients take part. Each client sends a fresh X25519 key, signed by its
    identity; the server passes all of them on. So each pair of clients shares a secret.
 2. The first client draws a secret for the group and seals it to each other one.
For each step, to which every client comes with an array of the same shape:
 3. Each client appends tags to its numbers, adds masks that cancel in the sum over all clients, the
    first one a pad too, and sends it.
 4. The server adds modulo 2^64 and sends the sum to all.
 5. The clients take the pad off. The tags that come with the total have to be its own.
At the end they add nothing once more, which shows that all have heard the same, and say that they end.

A tag is the sum of the numbers at places drawn from the group's secret, each place with probability a
half. They are linear as the sum is, and there are 64 of them: whoever changes a total without the secret
has all of them right once in 2^64 times. Where masks do not cancel, the tags are wrong as well.

What is drawn from secrets is bound to the step, to what kind of total it is, to its shape and to all
totals before. The server sees clients out of step by a digest, and if it does not look, nothing but
noise comes of their sum.

A client that is gone ends it for all, or, where all clients and the server were set so (Absences), the
others go on without it: the server begins again with those that are left, with fresh keys and secrets. A
step is done again only if its total was given to nobody; one whose total was being sent is done, and who
did not get it is gone. Keys and secrets are drawn by the number of the beginning: two sums under the
same masks would show how a client's numbers differ.

Learned by the server: how many totals there are, how many numbers each has, who is gone and when.
Learned by a client: the totals. Of two clients each can take its own part off and has the other's; of n
clients, n - 1 that tell each other their parts have the last one's.

No client ever gives masks of another away, so that a part which comes late, or of a step that was
broken off, tells the server nothing: there is no need of a second mask of each client (Bonawitz et al.,
section 4.2). But where the others go on, two totals that lie close to each other differ by one client:
those that go on learn about what it added, and a server that works with one of them exactly that, by
calling a client gone whose part it has. docs/protocols.md says how near; policies have to allow it.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Protocol, TypeVar

import msgspec
import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from vfl.arrays import Integers, Words
from vfl.crypto.randomness import Entropy
from vfl.errors import ModelError, PeerError
from vfl.net.peer import Peer
from vfl.net.wire import KIB, MIB, Message
from vfl.protocols.common.fellows import Masks, keyed_hash, secret_with, signature
from vfl.protocols.common.mask_streams import MaskStream
from vfl.protocols.common.participant import Participant
from vfl.protocols.common.transcript import Transcript

WORDS = 1 << 18
"""Of a message; a larger array goes in several."""
MOST_WORDS = 1 << 25
"""Of an array, with its tags: a quarter of a gigabyte."""
TAGS = 64
MOST_CLIENTS = 64

_SECRET, _SEAL, _ABOUT = 32, 16, 16  # bytes
_BITS = (np.arange(256, dtype=np.uint64)[:, None] >> np.arange(8, dtype=np.uint64)) & np.uint64(1)
"""Of each octet, lowest first."""

Attempt = Annotated[int, msgspec.Meta(ge=0, le=MOST_CLIENTS)]
Step = Annotated[int, msgspec.Meta(ge=0, lt=2**40)]


class Adder(Protocol):
    """A client's way to the totals over all clients; the server sees neither parts nor totals."""

    @property
    def name(self) -> str:
        """This client's."""

    @property
    def entropy(self) -> Entropy:
        """What hides what this client adds, where that takes more than the server's masks; drawn from
        in the order in which totals are added."""

    @property
    def clients(self) -> Sequence[str]:
        """All that take part still, in the job's order. A total is over those that stand here after
        it."""

    async def total(self, values: Integers, what: str) -> Integers:
        """The sum of all clients' arrays of this shape, exact modulo 2^64.

        `what`: what kind of total it is, the same at all clients ("counts of bins", "level 2 of
        tree 7"). Raises PeerError where a total is not the sum, what the server's session raises.
        """


@dataclass(frozen=True)
class Absences:
    """What becomes of the adding when a client is gone; the same at all clients and the server."""

    without: bool = False
    """Whether the others go on; else it ends for all."""
    least: int = 2
    """Clients that have to be left."""


# --------------------------------------------------------------------------------------- messages


class AddingBegin(Message, frozen=True):
    """server -> client. Reveals: which clients take part, and so which are gone since the last time."""

    attempt: Attempt
    clients: list[str]


class ClientKey(Message, frozen=True):
    """client -> server. Reveals: nothing; the key is fresh and its signature public."""

    attempt: Attempt
    public_key: bytes
    signature: bytes  # empty when the client was given nothing to sign with


class ClientKeys(Message, frozen=True):
    """server -> client, the keys of all. Reveals: nothing; each is fresh, each signature public."""

    public_keys: list[bytes]
    signatures: list[bytes]
    limit: ClassVar[int] = MIB


class GroupSecret(Message, frozen=True):
    """client -> server, from the first client. Reveals: nothing to who lacks the secrets of pairs."""

    sealed: list[bytes]  # one for each other client


class SealedSecret(Message, frozen=True):
    """server -> client, to all but the first. Reveals: nothing but a secret of the clients, which is
    random."""

    sealed: bytes


class MaskedPart(Message, frozen=True):
    """client -> server, in pieces. Reveals: how many numbers the client adds, and whether it is to the
    same total as others; the numbers lie under masks that are uniform modulo 2^64."""

    step: Step
    about: bytes  # a digest under the group's secret of what total it is
    of: int  # numbers of all pieces
    words: bytes  # uint64 little-endian
    limit: ClassVar[int] = 8 * WORDS + KIB


class MaskedTotal(Message, frozen=True):
    """server -> client, in pieces. Reveals: with the pad that only clients know, the total over all
    clients."""

    step: Step
    words: bytes  # uint64 little-endian
    limit: ClassVar[int] = 8 * WORDS + KIB


class AddingEnd(Message, frozen=True):
    """client -> server. Reveals: that the client needs no further total."""


# ----------------------------------------------------------------------------------------- client

M = TypeVar("M", bound=Message)


class _Anew(Exception):
    """The server begins again."""

    def __init__(self, begin: AddingBegin) -> None:
        super().__init__()
        self.begin = begin


@dataclass(frozen=True)
class _Group:
    """What the clients of an attempt share."""

    secret: bytes
    with_fellows: dict[str, bytes]


class MaskingAdder:
    """A client of a server that reads nothing; see Adder."""

    def __init__(
        self,
        server: Peer,
        own: Participant,
        absences: Absences = Absences(),
        left: Callable[[Sequence[str]], None] = lambda _: None,
    ) -> None:
        """`own.hosts` are all clients in the job's order, two at least. `left` is told of clients that
        are gone, before the others go on."""
        if own.name not in own.hosts or len(own.hosts) < max(2, absences.least):
            raise ValueError("the names of two clients at least are needed, this one's among them")
        self.name, self.clients = own.name, tuple(own.hosts)
        self._server, self._own, self._absences = server, own, absences
        self._left, self._randomness = left, own.resources.randomness.part("adding")
        self.entropy: Entropy = self._randomness.at("parts of totals")
        self._group: _Group | None = None
        self._attempt = -1
        self._step = 0
        self._heard = bytes(_SECRET)  # digest of all totals so far

    async def total(self, values: Integers, what: str) -> Integers:
        """See Adder."""
        if values.dtype != np.int64:
            raise ValueError("numbers to be added are int64")
        if values.size + TAGS > MOST_WORDS:
            raise ValueError(f"{values.size:,} numbers are too many to be added at once")
        words = values.reshape(-1).view(np.uint64) if values.size else np.zeros(0, np.uint64)
        described = f"{self._step} {list(values.shape)} {what}".encode()
        begin: AddingBegin | None = None
        while True:
            try:
                if begin or self._group is None:
                    self._group = await self._meet(begin or await self._server.recv(AddingBegin))
                total = await self._added(words, described, self._group)
                break
            except _Anew as anew:
                begin = anew.begin
        self._heard = keyed_hash(b"vfl totals heard", self._heard, described, total.tobytes()).digest()
        self._step += 1
        return total.view(np.int64).reshape(values.shape)

    async def end(self) -> None:
        """Make sure that all clients have heard the same totals, and tell the server to end."""
        await self.total(np.zeros(0, np.int64), "end")
        await self._server.send(AddingEnd())

    async def _recv(self, kind: type[M]) -> M:
        message = await self._server.recv(kind, AddingBegin)
        if isinstance(message, AddingBegin):
            raise _Anew(message)
        return message

    async def _meet(self, begin: AddingBegin) -> _Group:
        """1. and 2. The secrets of an attempt."""
        self._check(begin)
        clients, self._attempt = tuple(begin.clients), begin.attempt
        gone = [client for client in self.clients if client not in clients]
        self.clients = clients
        if gone:
            self._left(gone)
        numbers = (begin.attempt.to_bytes(8, "big"), self._step.to_bytes(8, "big"))
        context = keyed_hash(b"vfl adding", self._own.context, *numbers, self._heard).digest()
        own = replace(self._own, hosts=clients, context=context)
        private = X25519PrivateKey.from_private_bytes(self._randomness.at("key", begin.attempt)(32))
        public = private.public_key().public_bytes_raw()
        await self._server.send(ClientKey(begin.attempt, public, signature(own, public)))
        keys = await self._recv(ClientKeys)
        with_fellows = self._secrets(private, keys, own)
        first, seal = clients[0], {name: _sealing(secret) for name, secret in with_fellows.items()}
        if self.name == first:
            secret = self._randomness.at("secret of the group", begin.attempt)(_SECRET)
            sealed = [seal[name].encrypt(bytes(12), secret, context) for name in clients[1:]]
            await self._server.send(GroupSecret(sealed))
            return _Group(secret, with_fellows)
        received = await self._recv(SealedSecret)
        try:
            secret = seal[first].decrypt(bytes(12), received.sealed, context)
        except InvalidTag:
            raise self._server.breach(f"a SealedSecret that {first} has not sealed") from None
        if len(secret) != _SECRET:
            raise self._server.breach("a SealedSecret of the wrong size")
        return _Group(secret, with_fellows)

    def _check(self, begin: AddingBegin) -> None:
        """Raises PeerError for a beginning that cannot be here."""
        clients = begin.clients
        left = [client for client in self.clients if client in clients]
        if begin.attempt <= self._attempt or clients != left or self.name not in clients:
            raise self._server.breach("an AddingBegin with other clients than there are")
        fewer = len(clients) < len(self.clients)
        if fewer and not (self._absences.without and len(clients) >= max(2, self._absences.least)):
            raise self._server.breach("an AddingBegin without a client that the job needs")

    def _secrets(
        self, private: X25519PrivateKey, keys: ClientKeys, own: Participant
    ) -> dict[str, bytes]:
        """A secret with each other client."""
        count = len(own.hosts)
        if not count == len(keys.public_keys) == len(keys.signatures):
            raise self._server.breach("ClientKeys of another number of clients")
        shared = {}
        for name, theirs, signed in zip(own.hosts, keys.public_keys, keys.signatures, strict=True):
            if name == own.name:
                if theirs != private.public_key().public_bytes_raw():
                    raise self._server.breach("ClientKeys with another key than this client's own")
                continue
            try:
                shared[name] = secret_with(private, name, theirs, signed, own)
            except ValueError as error:
                raise self._server.breach(f"ClientKeys with {error} of {name}") from None
        return shared

    async def _added(self, words: Words, described: bytes, group: _Group) -> Words:
        """3. to 5. One step."""
        about = keyed_hash(b"vfl added total", group.secret, described, self._heard).digest()
        part = await asyncio.to_thread(self._masked, words, about, group)
        for first in range(0, len(part), WORDS):
            piece = part[first : first + WORDS].astype("<u8").tobytes()
            await self._server.send(MaskedPart(self._step, about[:_ABOUT], len(part), piece))
        total = np.empty(len(part), np.uint64)
        for first in range(0, len(part), WORDS):
            message, room = await self._recv(MaskedTotal), total[first : first + WORDS]
            if message.step != self._step or len(message.words) != 8 * len(room):
                raise self._server.breach("a MaskedTotal of another step or size")
            room[:] = np.frombuffer(message.words, "<u8")
        if await asyncio.to_thread(_unpad, total, about):
            return total[:-TAGS]
        raise PeerError(
            f"{self._server.name} or another client broke the protocol: a total is not the sum of "
            "what the clients added",
            for_peer="a total was not the sum of what the clients added",
        )

    def _masked(self, words: Words, about: bytes, group: _Group) -> Words:
        """The words with their tags, as this client sends them."""
        key, pad = _drawn(about, len(words))
        heard = Transcript()
        heard.add(about)
        masks = Masks(self.name, group.with_fellows, heard, b"vfl adding masks")
        part = np.concatenate([words, tags(words, key)]) + masks.draw(len(pad))
        # The first client alone adds the pad: twice a pad is even, and would show each total's last bit.
        return part + pad if self.name == self.clients[0] else part


def _drawn(about: bytes, count: int) -> tuple[Words, Words]:
    """The tags' key and the pad of a total of so many words, which all clients draw alike."""
    drawn = MaskStream(about)
    return drawn.words((count,)), drawn.words((count + TAGS,))


def _unpad(total: Words, about: bytes) -> bool:
    """Take the pad off, in place. Whether the tags are the total's own."""
    key, pad = _drawn(about, len(total) - TAGS)
    total -= pad
    return np.array_equal(tags(total[:-TAGS], key), total[-TAGS:])


def tags(words: Words, key: Words) -> Words:
    """Sums modulo 2^64 of the words at whose places the key has bit 0, 1, ...; shape (TAGS,)."""
    sums = np.zeros(TAGS, np.uint64)
    for first in range(0, len(words), WORDS):
        part = slice(first, first + WORDS)
        octets = key[part].astype("<u8").view(np.uint8).reshape(-1, 8)
        halves = words[part].astype("<u8").view("<u4").reshape(-1, 2).astype(np.float64)
        for k in range(8):
            for j in range(2):
                # Sums by octet are exact: of 2^18 numbers below 2^32.
                by_octet = np.bincount(octets[:, k], halves[:, j], 256).astype(np.uint64)
                sums[8 * k : 8 * k + 8] += (by_octet @ _BITS) << np.uint64(32 * j)
    return sums


def _sealing(secret: bytes) -> ChaCha20Poly1305:
    """What the first client seals the group's secret with to one other client: once."""
    return ChaCha20Poly1305(keyed_hash(b"vfl group seal", secret).digest())


async def common_step(adder: Adder, newest: int) -> int:
    """The last step that all clients have done, of each of which the newest is given.

    A client keeps its state of a step before it adds to the next total, so that no client is more than
    one step ahead. Raises ModelError where one is, and where the total says so of this client: a server
    that adds what it likes could have it do its steps again from the first.
    """
    own = np.array([newest, newest * newest], np.int64)
    total, squares = map(int, await adder.total(own, "steps done"))
    clients = len(adder.clients)
    least, ahead = divmod(total, clients)
    apart = squares != (clients - ahead) * least**2 + ahead * (least + 1) ** 2
    if apart or not newest - 1 <= least <= newest:
        raise ModelError(
            "the clients' checkpoints are of different steps: start the job anew",
            for_peer="the clients' checkpoints are of different steps",
        )
    return least
