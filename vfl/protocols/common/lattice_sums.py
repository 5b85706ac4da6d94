"""A host's fixed integer matrix times the guest's secret vectors, at the price of plain sums.

docs/lattice.md has the scheme, its bounds and what each side learns; vfl/crypto/lattice the arithmetic.
Here is what is said, the same for trees and linear models:

Once a job
 1. The guest names the hint of each host that it keeps from earlier jobs. Each host says whether that is
    still the hint of its matrix, and gives a random share of a seed.
 2. If all still are, they are used again. If not the guest sends all shares, its own too: their hash is
    the seed of the public polynomials. Each host makes its hint of them and sends it, encrypted under a
    key of its own.
    Of a new hint the guest asks for sums of zeros, which the host masks (it cannot see that they are of
    zeros). The host commits to its masks, the guest says a digest of what it reads, the host opens the
    commitment if that is of its masks.
For up to BATCH vectors
 3. The guest says how many follow. Of each it draws a secret, and sends every host the products of its
    encrypted hint with these, masked: a whole batch, when those sent before are used up. They depend on
    no data and are made in spare time.
 4. It encrypts the vectors under these secrets, once for all hosts, and sends them piece by piece.
 5. A host opens the products to masked ones, adds up the pieces as it would plain numbers, and sends the
    sums less the products, flooded and cut short.
 6. The guest takes its masks off and rounds: the sums, exactly.

Every party has a share in the seed, and who gives the last one sees the others. It could try many, but
each gives polynomials as good as random, by an extendable-output function: to meet weak ones would take
as long as to break the encryption. The guest, which passes the shares on, gains nothing from weak ones:
it is its own vectors that they hide.

Sums by a hint that is of no matrix would depend on the secret of a vector: how the guest reacts to
enough of them tells the secret, and so the vector. The zeros find such a hint. A host does not know the
secret, and words that are read as different sums are farther apart than any two that are read as the
right one (Parameters.reach): of the three values of a coefficient that sums can tell, two at most pass a
vector of zeros, both vectors with 4/9. Fifty such coefficients pass with 2^-58, of more than 1,600 that
it takes. What passes for certain is a hint of a matrix, be it another than the host says, or one that no
reading depends on.

One hint serves so many vectors as its parameters are for; a host counts them, over all jobs.
"""

import asyncio
import hashlib
import secrets
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from vfl.crypto.lattice.answers import seal, unseal
from vfl.crypto.lattice.hint import EncryptedHint, HintKey, Opened
from vfl.crypto.lattice.matrix import Matrix, Sums, hint
from vfl.crypto.lattice.parameters import DEGREE, MODULUS_BITS, Parameters, choose
from vfl.crypto.lattice.vectors import Encryption, PublicRows, Secrets
from vfl.crypto.workers import Operations
from vfl.learn.losses import Integers
from vfl.net.peer import Peer, together
from vfl.net.wire import KIB, MAX_MESSAGE, MIB, Message, Seconds

BATCH = 32
"""Vectors whose products are made at once, and the most of a query."""
MOST_OUTPUTS = 1 << 16
"""Rows of a host's matrix: the guest keeps some 200 KB for each."""

_SEED = 32  # bytes of a share, of the seed, of a hint's name
_PIECE = 4 * MIB  # of products or vectors in a message, or little more
_MOST_ROWS = 1 << 17  # of vectors in a message
_ZEROS = 2  # that a new hint must pass: a coefficient that its sums tell passes each with 2/3 at most
_READY = 2  # batches of products made ahead
_AHEAD = 2  # pieces under way beside the one that is sent, or added up
_PARTIES = 256

Progress = Callable[[int, int], None]
Timed = Callable[[str], AbstractContextManager[None]]


class HintKnown(Message, frozen=True):
    """guest -> host. Reveals: which hint of this host the guest keeps from an earlier job, if any."""

    name: bytes  # empty when there is none


class HintOffered(Message, frozen=True):
    """host -> guest. Reveals: how many sums of a vector the host will give; whether its columns, their
    bins and the rows are those of the hint that the guest keeps. The share is random."""

    known: bool
    outputs: Annotated[int, msgspec.Meta(ge=0, le=MOST_OUTPUTS)]
    share: bytes


class HintAgreed(Message, frozen=True):
    """guest -> host. Reveals: whether all go on with the hints that the guest keeps. The shares are
    random."""

    shares: Annotated[list[bytes], msgspec.Meta(max_length=_PARTIES)]  # empty when all go on
    limit: ClassVar[int] = 64 * KIB


class HintHeader(Message, frozen=True):
    """host -> guest. Reveals: nothing but a public key made for this hint, and a random name for it."""

    name: bytes
    header: bytes
    limit: ClassVar[int] = MIB


class HintPart(Message, frozen=True):
    """host -> guest. Reveals: nothing to who lacks the host's key; its encrypted hint."""

    data: bytes
    limit: ClassVar[int] = 16 * MIB


class Query(Message, frozen=True):
    """guest -> host. Reveals: how many encrypted vectors follow."""

    vectors: Annotated[int, msgspec.Meta(ge=1, le=BATCH)]


class HintProducts(Message, frozen=True):
    """guest -> host. Reveals: nothing; products of the host's hint with secrets, under uniform masks,
    re-randomised and flooded."""

    data: bytes
    limit: ClassVar[int] = 16 * MIB


class Vectors(Message, frozen=True):
    """guest -> host. Reveals: nothing to who lacks their secrets; encrypted vectors, an entry of each an
    aligned row."""

    data: bytes
    limit: ClassVar[int] = 16 * MIB


class VectorSums(Message, frozen=True):
    """host -> guest. Reveals: the host's matrix times the vectors, flooded (of a linear model nothing,
    they lie under uniform masks); the time it took."""

    data: bytes
    seconds: Seconds
    limit: ClassVar[int] = MAX_MESSAGE - KIB


class ZerosCommitted(Message, frozen=True):
    """host -> guest. Reveals: nothing; a commitment to the masks of the sums of zeros."""

    commitment: bytes


class ZerosRead(Message, frozen=True):
    """guest -> host. Reveals: nothing but that the hint is of a matrix: a digest of the host's masks."""

    digest: bytes


class ZerosOpened(Message, frozen=True):
    """host -> guest. Reveals: nothing but that the host committed to these masks."""

    nonce: bytes  # empty if the digest is of other ones


@dataclass(frozen=True)
class Shape:
    """What both sides know of the vectors before they meet."""

    rows: int
    value_bits: int  # an entry is below 2^(value_bits - 1), whatever its sign
    vectors: int  # of the job at most, zeros left out
    weight: int = 1  # greatest entry of a host's matrix, whatever its sign
    lifetime: int = 1 << 20  # vectors of a hint over all jobs, of this one at least

    def parameters(self, outputs: int) -> Parameters:
        """The same for every host but for its `outputs`, so that one encryption serves all of them.

        Raises ValueError, with the numbers, when no safe ones hold the sums.
        """
        most = choose(self.rows, self.value_bits, MOST_OUTPUTS, self.queries, self.weight)
        return replace(most, outputs=outputs)

    @property
    def served(self) -> int:
        """Vectors of the job at most."""
        return self.vectors + _ZEROS

    @property
    def queries(self) -> int:
        """Vectors that one hint is for."""
        return max(self.lifetime, self.served)


# --------------------------------------------------------------------------------------- guest


@dataclass(frozen=True)
class KnownHint:
    """What the guest keeps of a host's hint, beside the file of its parts."""

    name: bytes
    seed: bytes
    header: bytes
    outputs: int


class Shelf(Protocol):
    """Where the guest keeps hints, by host."""

    def known(self, host: str) -> KnownHint | None:
        """The hint that was kept last."""

    def file(self, host: str) -> Path | None:
        """Where its parts lie; None for memory."""

    def keep(self, host: str, hint: KnownHint) -> None:
        """Keep a hint whose file is complete."""

    def clear(self, host: str, size: int) -> None:
        """Remove a hint and its file, for a new one whose file has so many bytes."""


class NoShelf:
    """Keeps nothing."""

    def known(self, host: str) -> KnownHint | None:
        return None

    def file(self, host: str) -> Path | None:
        return None

    def keep(self, host: str, hint: KnownHint) -> None:
        return

    def clear(self, host: str, size: int) -> None:
        return


@dataclass
class _Batch:
    """Secrets with their products, the first of which are used up."""

    drawn: Secrets
    products: list[bytes]  # by host
    masks: list[NDArray[np.uint64]]  # by host: (vectors, outputs)
    used: int = 0

    @property
    def left(self) -> int:
        return len(self.drawn) - self.used


class GuestProducts:
    """The guest's side; `guest_meet` makes one."""

    def __init__(
        self,
        hosts: Sequence[Peer],
        hints: Sequence[EncryptedHint],
        parameters: Sequence[Parameters],
        seed: bytes,
        operations: Operations,
        timed: Timed,
    ) -> None:
        self.hosts, self._hints, self._parameters = hosts, hints, parameters
        self._public = PublicRows(seed, parameters[0].rows) if parameters else None
        self._operations, self._timed = operations, timed
        self._sent: deque[_Batch] = deque()  # hosts have their products
        self._ready: deque[_Batch] = deque()
        self._making: asyncio.Task[None] | None = None
        self.seconds: dict[str, float] = defaultdict(float)  # that hosts say they took, by name

    async def query(
        self, count: int, piece: Callable[[int, int], Integers], hidden: bool = False
    ) -> list[Integers]:
        """Every host's matrix times `count` vectors, BATCH at most: by host, shape (count, outputs).

        `hidden`: under masks that only the host can take off (HostProducts.uncover).

        `piece(start, stop)` is these rows of the vectors, shape (count, stop - start); it is called in a
        thread. Raises PeerError for what cannot be such sums.
        """
        if not self.hosts or self._public is None:
            return []
        drawn, masks = await self._take(count)
        encryption = Encryption(self._parameters[0], self._public, drawn)
        self._operations["encrypt vector"] += count

        def encrypted(start: int, stop: int) -> bytes:
            return encryption.rows(start, piece(start, stop))

        async def send(task: asyncio.Task[bytes]) -> None:
            with self._timed("encrypt"):
                message = Vectors(await task)
            with self._timed("transfer"):
                await together([host.send(message) for host in self.hosts])

        under_way: deque[asyncio.Task[bytes]] = deque()
        try:
            for start, stop in _pieces(self._parameters[0], count):
                under_way.append(asyncio.create_task(asyncio.to_thread(encrypted, start, stop)))
                if len(under_way) > _AHEAD:
                    await send(under_way.popleft())
            while under_way:
                await send(under_way.popleft())
        finally:
            for task in under_way:
                task.cancel()
        return await together(
            [
                self._sums(host, parameters, own, hidden)
                for host, parameters, own in zip(self.hosts, self._parameters, masks, strict=True)
            ]
        )

    async def check(self) -> None:
        """Whether new hints are of matrices: sums of zeros are their masks. Raises PeerError if not."""

        def zeros(start: int, stop: int) -> Integers:
            return np.zeros((_ZEROS, stop - start), np.int64)

        read = await self.query(_ZEROS, zeros, hidden=True)
        for host, own, sums in zip(self.hosts, self._parameters, read, strict=True):
            commitment = (await host.recv(ZerosCommitted)).commitment
            digest = _digest(own, sums.view(np.uint64))
            await host.send(ZerosRead(digest))
            if _commitment((await host.recv(ZerosOpened)).nonce, digest) != commitment:
                raise host.breach("a hint that is of no matrix")

    async def _take(self, count: int) -> tuple[Secrets, list[NDArray[np.uint64]]]:
        """Secrets of which every host has the products, and their masks by host."""
        await together([host.send(Query(count)) for host in self.hosts])
        while sum(batch.left for batch in self._sent) < count:
            with self._timed("hint products"):
                while not self._ready:
                    self.begin()
                    assert self._making is not None  # noqa: S101 - for the type checker
                    await asyncio.shield(self._making)
            batch = self._ready.popleft()
            with self._timed("transfer"):
                await together(
                    [
                        _send_products(host, data)
                        for host, data in zip(self.hosts, batch.products, strict=True)
                    ]
                )
            batch.products = []
            self._sent.append(batch)
        self.begin()
        taken: list[tuple[_Batch, slice]] = []
        while count:
            batch = self._sent[0]
            part = slice(batch.used, batch.used + min(count, batch.left))
            taken.append((batch, part))
            batch.used, count = part.stop, count - (part.stop - part.start)
            if not batch.left:
                self._sent.popleft()
        masks = [
            np.concatenate([batch.masks[i][part] for batch, part in taken])
            for i in range(len(self.hosts))
        ]
        return Secrets(np.concatenate([batch.drawn.values[part] for batch, part in taken])), masks

    async def _sums(
        self,
        host: Peer,
        parameters: Parameters,
        masks: NDArray[np.uint64],
        hidden: bool,
    ) -> Integers:
        with self._timed(f"{host.name} and transfer"):
            answer = await host.recv(VectorSums)
        self.seconds[host.name] += answer.seconds
        with self._timed("decrypt"):
            try:
                return await asyncio.to_thread(unseal, parameters, answer.data, masks, hidden)
            except ValueError as error:
                raise host.breach(f"VectorSums with {error}") from None

    def begin(self) -> None:
        """Spare time: make products beside whatever else is done, if there are few."""
        if self.hosts and (self._making is None or self._making.done()):
            if self._making is not None:
                self._making.result()
            self._making = asyncio.create_task(self._make())

    async def _make(self) -> None:
        while len(self._ready) < _READY:
            drawn = Secrets.draw(BATCH)
            made = [await asyncio.to_thread(hint.multiply, drawn) for hint in self._hints]
            self._operations["multiply hint"] += BATCH * len(made)
            self._ready.append(_Batch(drawn, [data for data, _ in made], [masks for _, masks in made]))

    def end(self) -> None:
        """No more queries."""
        if self._making is not None:
            self._making.cancel()


async def guest_meet(
    hosts: Sequence[Peer],
    shape: Shape,
    *,
    shelf: Shelf | None = None,
    operations: Operations | None = None,
    timed: Timed = lambda phase: nullcontext(),
    progress: Progress = lambda done, of: None,
    accept: Callable[[Peer, int], None] = lambda host, outputs: None,
) -> tuple[GuestProducts, list[int]]:
    """Steps 1 and 2: what multiplies the hosts' matrices, and how many outputs each host has.

    `accept` raises for a host that says it has another number of outputs than it can have. Hosts without
    any are asked nothing. Raises PeerError when a host breaks the protocol.
    """
    shelf = shelf or NoShelf()
    found = [shelf.known(host.name) for host in hosts]
    known = [
        one if one and len({other.seed for other in found if other}) == 1 else None for one in found
    ]
    # 1. What is kept, and shares of a seed.
    await together(
        [host.send(HintKnown(one.name if one else b"")) for host, one in zip(hosts, known, strict=True)]
    )
    offers = await together([host.recv(HintOffered) for host in hosts])
    for host, one, offer in zip(hosts, known, offers, strict=True):
        if len(offer.share) != _SEED or (offer.known and (not one or one.outputs != offer.outputs)):
            raise host.breach("a HintOffered of another size, or of a hint that is not known")
        accept(host, offer.outputs)
    outputs = [offer.outputs for offer in offers]
    parameters = [shape.parameters(count) for count in outputs]
    # 2. The hints.
    opened = [_reopened(shelf, *one) for one in zip(hosts, known, offers, parameters, strict=True)]
    kept = all(hint is not None or not count for hint, count in zip(opened, outputs, strict=True))
    shares = [] if kept else [secrets.token_bytes(_SEED), *(offer.share for offer in offers)]
    await together([host.send(HintAgreed(shares)) for host in hosts])
    seed = next((one.seed for one in known if one), b"")
    received: list[tuple[EncryptedHint, KnownHint] | None] = []
    if not kept:
        seed = _seed(shares)
        total = sum(own.hint_parts for own in parameters if own.outputs)
        done = Counter[str]()

        def follow(host: str, parts: int) -> None:
            done[host] = parts
            progress(done.total(), total)

        received = await together(
            [
                _receive_hint(host, own, seed, shelf, follow)
                for host, own in zip(hosts, parameters, strict=True)
            ]
        )
        opened = [None if new is None else new[0] for new in received]
    asked = [
        (host, hint, own)
        for host, hint, own in zip(hosts, opened, parameters, strict=True)
        if hint is not None
    ]
    products = GuestProducts(
        [host for host, _, _ in asked],
        [hint for _, hint, _ in asked],
        [own for _, _, own in asked],
        seed,
        Counter() if operations is None else operations,
        timed,
    )
    products.begin()
    try:
        if received:
            await products.check()
        for host, new in zip(hosts, received, strict=False):
            if new is not None:
                await asyncio.to_thread(shelf.keep, host.name, new[1])
    except BaseException:
        products.end()
        raise
    return products, outputs


def _reopened(
    shelf: Shelf, host: Peer, known: KnownHint | None, offer: HintOffered, parameters: Parameters
) -> EncryptedHint | None:
    """A hint that the guest keeps and its host still holds for valid."""
    if known is None or not offer.known or (file := shelf.file(host.name)) is None or not file.exists():
        return None
    try:
        hint = EncryptedHint(parameters, known.seed, known.header, file)
    except ValueError:
        return None
    return hint if hint.complete else None


async def _receive_hint(
    host: Peer, parameters: Parameters, seed: bytes, shelf: Shelf, follow: Callable[[str, int], None]
) -> tuple[EncryptedHint, KnownHint] | None:
    if not parameters.outputs:
        return None
    head = await host.recv(HintHeader)
    if len(head.name) != _SEED:
        raise host.breach("a HintHeader with a name of another size")
    await asyncio.to_thread(shelf.clear, host.name, _transforms(parameters))
    try:
        hint = EncryptedHint(parameters, seed, head.header, shelf.file(host.name))
    except ValueError as error:
        raise host.breach(f"a HintHeader with {error}") from None
    loading: deque[asyncio.Task[None]] = deque()
    try:
        for part in range(parameters.hint_parts):
            message = await host.recv(HintPart)
            loading.append(asyncio.create_task(asyncio.to_thread(hint.load, part, message.data)))
            if len(loading) > 2:
                await loading.popleft()
            follow(host.name, part + 1)
        for task in loading:
            await task
    except ValueError as error:
        raise host.breach(f"a HintPart with {error}") from None
    finally:
        for task in loading:
            task.cancel()
    return hint, KnownHint(head.name, seed, head.header, parameters.outputs)


async def _send_products(host: Peer, data: bytes) -> None:
    for start in range(0, len(data), _PIECE):
        await host.send(HintProducts(data[start : start + _PIECE]))


# ---------------------------------------------------------------------------------------- host


@dataclass(frozen=True)
class HostHint:
    """What a host keeps of a hint: enough to make its key again. Secret."""

    name: bytes
    secret: bytes
    seed: bytes
    matter: bytes  # digest of the matrix and the parameters
    vectors: int  # that it was promised for so far


@dataclass
class _Opened:
    """A batch of products, the first of which are used up; opened in a thread."""

    opening: asyncio.Task[Opened]
    used: int = 0

    @property
    def left(self) -> int:
        return BATCH - self.used


class HostProducts:
    """A host's side; `host_meet` makes one."""

    def __init__(
        self,
        guest: Peer,
        shape: Shape,
        parameters: Parameters,
        operations: Operations,
    ) -> None:
        self._guest, self._shape, self._parameters = guest, shape, parameters
        self._operations = operations
        self._hint: tuple[Matrix, HintKey] | None = None
        self.secret = b""
        """The secret of the hint that is used."""
        self._products: deque[_Opened] = deque()
        self._served = 0

    def use(self, matrix: Matrix, key: HintKey, secret: bytes) -> None:
        """Serve sums by this matrix; without, no query is served."""
        self._hint, self.secret = (matrix, key), secret

    async def serve(self, query: Query, hidden: bool = False) -> NDArray[np.uint64]:
        """Answer a query. Raises PeerError when the guest breaks the protocol.

        `hidden`: under masks, uniform among all values of a sum as the guest can read it; these are
        returned, shape (vectors, outputs), else zeros.
        """
        guest, parameters, count = self._guest, self._parameters, query.vectors
        self._served += count
        if self._hint is None or self._served > self._shape.served:
            raise guest.breach("a Query of more vectors than its job has")
        matrix, key = self._hint
        while sum(batch.left for batch in self._products) < count:
            await self._receive_products(key)
        sums, seconds = Sums(parameters, matrix, count), 0.0

        def add(start: int, data: bytes) -> float:
            started = time.perf_counter()
            sums.add(start, data)
            return time.perf_counter() - started

        adding: asyncio.Task[float] | None = None
        try:
            for start, _ in _pieces(parameters, count):
                message = await guest.recv(Vectors)
                if adding is not None:
                    seconds += await adding
                adding = asyncio.create_task(asyncio.to_thread(add, start, message.data))
            if adding is not None:
                seconds += await adding
        except ValueError as error:
            raise guest.breach(f"Vectors with {error}") from None
        finally:
            if adding is not None:
                adding.cancel()
        started = time.perf_counter()
        opened = await self._take(count)
        total = await asyncio.to_thread(sums.result)
        masks = np.zeros_like(total)
        if hidden:
            masks = np.frombuffer(secrets.token_bytes(total.nbytes), np.uint64).reshape(total.shape)
            masks = masks >> np.uint64(parameters.scale_bits)
        total += masks << np.uint64(parameters.scale_bits)
        data = await asyncio.to_thread(seal, parameters, total, opened)
        self._operations["sum vector"] += count
        await guest.send(VectorSums(data, seconds + time.perf_counter() - started))
        return masks

    def uncover(self, opened: Integers, masks: NDArray[np.uint64]) -> Integers:
        """The sums that the guest read under these masks. Raises ValueError for what cannot be sums."""
        scale = np.uint64(self._parameters.scale_bits)
        sums = ((opened.view(np.uint64) - masks) << scale).view(np.int64) >> scale.astype(np.int64)
        if (np.abs(sums) > self._parameters.bound).any():
            raise ValueError("numbers that are no masked sums")
        return np.asarray(sums)

    async def _receive_products(self, key: HintKey) -> None:
        size, parts = self._parameters.product_bytes(BATCH), []
        for start in range(0, size, _PIECE):
            message = await self._guest.recv(HintProducts)
            if len(message.data) != min(_PIECE, size - start):
                raise self._guest.breach("HintProducts of another size than a batch has")
            parts.append(message.data)
        self._operations["open products"] += BATCH
        opening = asyncio.create_task(asyncio.to_thread(key.open, b"".join(parts), BATCH))
        self._products.append(_Opened(opening))

    async def _take(self, count: int) -> Opened:
        """The next opened products."""
        parts: list[Opened] = []
        while count:
            batch = self._products[0]
            try:
                opened = await batch.opening
            except ValueError as error:
                raise self._guest.breach(f"HintProducts with {error}") from None
            stop = batch.used + min(count, batch.left)
            parts.append(Opened(opened.whole[batch.used : stop], opened.fraction[batch.used : stop]))
            count, batch.used = count - (stop - batch.used), stop
            if not batch.left:
                self._products.popleft()
        return Opened(
            np.concatenate([part.whole for part in parts]),
            np.concatenate([part.fraction for part in parts]),
        )

    def end(self) -> None:
        """No more queries."""
        for batch in self._products:
            batch.opening.cancel()


async def host_meet(
    guest: Peer,
    matrix_of: Callable[[bytes], Matrix],
    outputs: int,
    shape: Shape,
    *,
    kept: HostHint | None = None,
    keep: Callable[[HostHint], None] = lambda hint: None,
    operations: Operations | None = None,
    progress: Progress = lambda done, of: None,
) -> HostProducts:
    """Steps 1 and 2. `matrix_of` gives the matrix of so many `outputs` from the secret of its hint,
    which may decide their order; `kept` is the hint that was kept last, `keep` keeps one.

    Raises PeerError when the guest breaks the protocol, ValueError when no safe parameters hold the
    sums.
    """
    parameters = shape.parameters(outputs)
    serving = HostProducts(guest, shape, parameters, Counter() if operations is None else operations)
    # 1. What is kept, and a share of the seed.
    wanted = await guest.recv(HintKnown)
    matrix: Matrix | None = None
    reusable = kept is not None and kept.name == wanted.name
    if outputs and kept is not None and reusable and kept.vectors + shape.served <= shape.queries:
        matrix = await asyncio.to_thread(matrix_of, kept.secret)
        if kept.matter != await asyncio.to_thread(_matter, matrix, parameters):
            matrix = None
    share = secrets.token_bytes(_SEED)
    await guest.send(HintOffered(matrix is not None, outputs, share))
    # 2. The hint.
    agreed = await guest.recv(HintAgreed)
    if not agreed.shares:
        if kept is not None and matrix is not None:
            await asyncio.to_thread(keep, replace(kept, vectors=kept.vectors + shape.served))
            serving.use(matrix, HintKey(parameters, kept.seed, kept.secret, kept.matter), kept.secret)
        elif outputs:
            raise guest.breach("HintAgreed to a hint that this host does not have")
        return serving
    if share not in agreed.shares or {len(one) for one in agreed.shares} != {_SEED}:
        raise guest.breach("HintAgreed without this host's share, or with one of another size")
    if not outputs:
        return serving
    secret, seed = secrets.token_bytes(_SEED), _seed(agreed.shares)
    matrix = await asyncio.to_thread(matrix_of, secret)
    matter = await asyncio.to_thread(_matter, matrix, parameters)
    key = HintKey(parameters, seed, secret, matter)
    made = await _hint(matrix, seed, progress)
    name = secrets.token_bytes(_SEED)
    await asyncio.to_thread(keep, HostHint(name, secret, seed, matter, shape.served))
    await guest.send(HintHeader(name, key.header()))
    parts = key.encrypt(made)
    while (data := await asyncio.to_thread(next, parts, None)) is not None:
        await guest.send(HintPart(data))
    serving.use(matrix, key, secret)
    zeros = await guest.recv(Query)
    if zeros.vectors != _ZEROS:
        raise guest.breach("a Query of another number of vectors than the zeros have")
    masks, nonce = (
        _digest(parameters, await serving.serve(zeros, hidden=True)),
        secrets.token_bytes(_SEED),
    )
    await guest.send(ZerosCommitted(_commitment(nonce, masks)))
    same = (await guest.recv(ZerosRead)).digest == masks
    await guest.send(ZerosOpened(nonce if same else b""))
    if not same:
        raise guest.breach("ZerosRead of other numbers than the masks of zeros")
    return serving


async def _hint(matrix: Matrix, seed: bytes, progress: Progress) -> NDArray[np.uint64]:
    """The hint of a matrix; `progress` is called in this thread."""
    loop = asyncio.get_running_loop()

    def follow(done: int, of: int) -> None:
        loop.call_soon_threadsafe(progress, done, of)

    return await asyncio.to_thread(lambda: hint(matrix, PublicRows(seed, matrix.rows), follow))


# ------------------------------------------------------------------------------- what both share


def _seed(shares: Sequence[bytes]) -> bytes:
    """The seed of the public polynomials, from the shares of all parties."""
    return hashlib.sha256(b"vfl lattice seed\0" + b"".join(shares)).digest()


def _transforms(parameters: Parameters) -> int:
    """Bytes of an encrypted hint as the guest keeps it: six numbers in float64 a word."""
    return 48 * parameters.groups * parameters.depth * DEGREE


def _matter(matrix: Matrix, parameters: Parameters) -> bytes:
    """What a hint is of."""
    return hashlib.sha256(matrix.digest() + repr(parameters).encode()).digest()


def _digest(parameters: Parameters, masks: NDArray[np.uint64]) -> bytes:
    """Of numbers that are known modulo what sums are."""
    kept = masks & np.uint64((1 << MODULUS_BITS - parameters.scale_bits) - 1)
    return hashlib.sha256(kept.astype("<u8").tobytes()).digest()


def _commitment(nonce: bytes, digest: bytes) -> bytes:
    return hashlib.sha256(b"vfl lattice zeros\0" + nonce + digest).digest()


def _pieces(parameters: Parameters, count: int) -> Iterator[tuple[int, int]]:
    """The rows, from one to before another, whose entries of `count` vectors travel together."""
    block = parameters.rows_bytes(DEGREE, count)
    size = min(_MOST_ROWS, max(1, _PIECE // block) * DEGREE)
    for start in range(0, parameters.rows, size):
        yield start, min(start + size, parameters.rows)
