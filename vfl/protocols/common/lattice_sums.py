"""A host's fixed integer matrix times the guest's secret vectors, at the price of plain sums.

docs/lattice.md has the scheme, its bounds and what each side learns; vfl/crypto/lattice the arithmetic.
Once a job guest and hosts agree on a hint of each host's matrix (lattice_hints.py, steps 1 and 2). Then,
for up to BATCH vectors, the same for trees and linear models:

 3. The guest says how many follow. Of each it draws a secret, and sends every host the products of its
    encrypted hint with these, masked: a whole batch, when those sent before are used up. They depend on
    no data and are made in spare time.
 4. It encrypts the vectors under these secrets, once for all hosts, and sends them piece by piece.
 5. A host opens the products to masked ones, adds up the pieces as it would plain numbers, and sends the
    sums less the products, flooded and cut short.
 6. The guest takes its masks off and rounds: the sums, exactly.

One hint serves so many vectors as its parameters are for; a host counts them, over all jobs. With few
rows hosts encrypt their matrices in place of hints, and steps 3 to 6 are those of lattice_direct.py.

Random numbers have the place of the first of the vectors that they are for, among all that products are
made for, that were asked about or served, so that neither pieces, spare time nor blocks of rows change
one. A secret or an error that served two vectors would give away their difference.
"""

import asyncio
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, ClassVar, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Integers, Words
from vfl.blocks.cores import Begun, spare_time
from vfl.blocks.engine import ENGINE, Rows
from vfl.crypto.lattice.answers import blurred, unseal, unsealed_words
from vfl.crypto.lattice.direct import NO_WORDS, DirectParameters, choose_direct, is_cheaper
from vfl.crypto.lattice.hint import EncryptedHint
from vfl.crypto.lattice.parameters import (
    DEGREE,
    MODULUS_BITS,
    PAIR_WORD,
    WORDS,
    Parameters,
    choose,
    widest,
)
from vfl.crypto.lattice.vectors import Part, PublicRows, Secrets, Values, VectorEncryption, joined
from vfl.net.peer import Peer, together
from vfl.net.wire import KIB, MAX_MESSAGE, MIB, Bulk, Message, Octets, Seconds
from vfl.protocols.common.participant import Resources

BATCH = 32
"""Vectors whose products are made at once, and the most of a query."""
MOST_OUTPUTS = 1 << 16
"""Rows of a host's matrix: the guest keeps some 200 KB for each."""
LEAST_LIFE = 1 << 12
"""Vectors that a hint of 4096 outputs serves at least, whatever a job needs."""
ZEROS = 2
"""Vectors that a new hint must pass: a coefficient that its sums tell passes each with 2/3 at most."""

_PIECE = 4 * MIB  # of products or vectors in a message, or little more
_MOST_ROWS = 1 << 17  # of vectors in a message
_READY = 2  # batches of products made ahead at most
_QUERIES = 4  # as large as the largest so far, for which products are made ahead

T = TypeVar("T")
Timed = Callable[[str], AbstractContextManager[None]]


Read = Callable[[Peer, Parameters, Octets, Words], T]
"""What is read of a host's answer by its parameters and the guest's masks."""
Encrypted = Callable[[], None]
"""Hears that all vectors of a query are encrypted: from then on the guest waits."""


class Query(Message, frozen=True):
    """guest -> host. Reveals: how many encrypted vectors follow, of pairs how many of these."""

    vectors: Annotated[int, msgspec.Meta(ge=1, le=BATCH)]


class HintProducts(Message, frozen=True):
    """guest -> host. Reveals: nothing; products of the host's hint with secrets, under uniform masks,
    re-randomised and flooded."""

    data: Bulk
    limit: ClassVar[int] = 16 * MIB


class Vectors(Message, frozen=True):
    """guest -> host. Reveals: nothing to who lacks their secrets; encrypted vectors, an entry of each an
    aligned row, or masked and re-randomised products of the host's encrypted matrix with vectors."""

    data: Bulk
    limit: ClassVar[int] = 16 * MIB


class VectorSums(Message, frozen=True):
    """host -> guest. Reveals: the host's matrix times the vectors, flooded (of a linear model, and
    where sums are hidden, nothing, they lie under uniform masks); the time it took, in whole seconds."""

    data: Bulk
    seconds: Seconds
    limit: ClassVar[int] = MAX_MESSAGE - KIB


LEFT_OUT_VECTORS, LEFT_OUT_SUMS = Vectors(b""), VectorSums(b"", 0.0)
"""Stand in a replay for vectors that were not kept and their sums; no run sends them."""


@dataclass(frozen=True)
class Entries:
    """So many vectors, by what makes their entries: `kernel(*blocks)`, shape (count, rows), of blocks of
    the arrays' rows, where these lie."""

    count: int
    kernel: Callable[..., Values]
    arrays: tuple[Rows, ...]


@dataclass(frozen=True)
class Shape:
    """What both sides know of the vectors before they meet."""

    rows: int
    value_bits: int  # an entry is below 2^(value_bits - 1), whatever its sign
    vectors: int  # of the job at most, zeros left out
    weight: int = 1  # greatest entry of a host's matrix, whatever its sign
    lifetime: int = 1 << 16  # vectors of a hint over all jobs at most, if this one needs no more
    errors_known: bool = True  # whether who reads the sums has encrypted the vectors
    exact: bool = False  # whether so many vectors follow: then products are made for no more
    pairs: bool = False  # whether they come by two, the second none below 0: one word may hold both
    joint: bool = False  # whether one does: these are counted where vectors are
    direct: bool = False  # whether hosts encrypt their matrices themselves where that is cheaper

    @classmethod
    def most_bits(cls, rows: int, vectors: int) -> int:
        """The most bits of an entry that any host can serve, if that of fewest outputs can at all.
        Raises ValueError, with the numbers, when none are safe."""
        shape = cls(rows, 1, vectors)
        least = -(-shape._least(DEGREE) * DEGREE // MOST_OUTPUTS)
        return widest(rows, MOST_OUTPUTS, shape._most, least=least)

    def parameters(self, outputs: int, word_bits: int = MODULUS_BITS) -> Parameters:
        """Those of a host of so many `outputs`, and of vectors with words of so many bits; NO_WORDS: of
        a matrix that is encrypted itself.

        Raises ValueError, with the numbers, when no safe ones hold the sums of all vectors of the job.
        """
        own = self.of(word_bits)
        try:
            if word_bits == NO_WORDS:
                return self._direct(outputs)
            return choose(
                own.rows,
                own.value_bits,
                max(outputs, 1),
                own._most,
                own.weight,
                own._least(outputs),
                own.errors_known,
                (word_bits,),
            ).serving(outputs, own._most)
        except ValueError as error:
            raise ValueError(f"{outputs:,} sums of each of {own.served:,} vectors: {error}") from None

    def widest(self, outputs: int, word_bits: int) -> int:
        """The most bits of an entry that a host of so many `outputs` could serve with such words, 0 for
        none."""
        own = self.of(word_bits)
        most, least = own._most, own._least(outputs)
        try:
            return widest(own.rows, outputs, most, own.weight, least, own.errors_known, (word_bits,))
        except ValueError:
            return 0

    def word_bits(self, outputs: Sequence[int]) -> int:
        """Of the words with which every host is served, by their `outputs`, those that cost least: with
        shorter ones a hint may have to be made anew sooner. NO_WORDS: hosts encrypt their matrices.

        Raises ValueError, with the numbers, when no safe ones hold the sums of all vectors of the job.
        """
        if not any(outputs):
            return MODULUS_BITS
        if self.direct and self._is_direct_cheaper(outputs):
            return NO_WORDS
        refused: list[ValueError] = []
        costs: dict[int, float] = {}
        for word_bits in (PAIR_WORD, *WORDS) if self.pairs else WORDS:
            try:
                hosts = [self.parameters(count, word_bits) for count in outputs if count]
            except ValueError as error:
                refused.append(error)
                continue
            hints = sum(own.hint_bytes / own.queries for own in hosts)
            words = 2 if self.pairs and word_bits != PAIR_WORD else 1
            costs[word_bits] = words * (len(hosts) * self.rows * word_bits / 8 + hints)
        if not costs:
            raise refused[-1]
        return min(costs, key=lambda word_bits: (costs[word_bits], word_bits))

    def _direct(self, outputs: int) -> DirectParameters:
        """Parameters of a matrix that is encrypted itself."""
        if not self.direct:
            raise ValueError("sums of this job need a hint")
        made = choose_direct(
            self.rows, self.value_bits, max(outputs, 1), self._most, self.weight, self.served
        )
        return made.serving(outputs, self._most)

    def _is_direct_cheaper(self, outputs: Sequence[int]) -> bool:
        """Whether all hosts' matrices, encrypted themselves, cost less than hints and their vectors."""
        try:
            matrices = [self._direct(count) for count in outputs if count]
        except ValueError:
            return False
        return is_cheaper(matrices, [self.parameters(count) for count in outputs if count])

    def of(self, word_bits: int) -> "Shape":
        """Of what is sent in words of so many bits. Raises ValueError for pairs where none come."""
        if word_bits != PAIR_WORD or self.joint:
            return self
        if not self.pairs:
            raise ValueError("vectors of this job do not come in pairs")
        half = -(-self.vectors // 2), self.lifetime // 2
        return replace(self, vectors=half[0], lifetime=half[1], pairs=False, joint=True)

    @property
    def served(self) -> int:
        """Vectors of the job at most."""
        return self.vectors + ZEROS

    def batch(self, made: int) -> int:
        """For how many vectors products are made at once, after so many."""
        return min(BATCH, self.served - made) if self.exact else BATCH

    @property
    def _most(self) -> int:
        """Vectors that one hint is for, if its outputs are few enough."""
        return max(self.lifetime, self.served)

    def _least(self, outputs: int) -> int:
        """Vectors that a hint of so many outputs must serve."""
        life = LEAST_LIFE // 2 if self.joint else LEAST_LIFE
        return self.served if outputs > DEGREE else min(self._most, max(life, self.served))


# --------------------------------------------------------------------------------------- guest


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
    """The guest's side, for a job of `served` vectors; `guest_meet` of lattice_hints.py makes one."""

    def __init__(
        self,
        hosts: Sequence[Peer],
        hints: Sequence[EncryptedHint],
        parameters: Sequence[Parameters],
        seed: bytes,
        shape: Shape,
        resources: Resources,
        timed: Timed,
    ) -> None:
        self.hosts, self._hints, self._parameters = hosts, hints, parameters
        self._shape, self._randomness = shape, resources.randomness
        self._made = 0  # vectors that products are made for
        self._asked = 0  # vectors of all queries
        self._largest = 1  # vectors of a query so far
        limbs = parameters[0].modulus.vectors if parameters else None
        self._public = PublicRows(seed, parameters[0].rows, limbs) if limbs else None
        self.base = parameters[0].base if parameters and parameters[0].pairs else None
        """By what the first number of a pair is multiplied, where vectors are of pairs."""
        self._operations = Counter() if resources.operations is None else resources.operations
        self._timed = timed
        self._sent: deque[_Batch] = deque()  # hosts have their products
        self._ready: deque[_Batch] = deque()
        self._making: asyncio.Task[None] | None = None
        self._ended = threading.Event()
        self.seconds: dict[str, float] = defaultdict(float)  # that hosts say they took, by name
        self.scale_bits = parameters[0].scale_bits if parameters else 0
        """Of the first host's words, below its sums."""

    async def query(
        self, entries: Entries, hidden: bool = False, encrypted: Encrypted = lambda: None
    ) -> list[Integers]:
        """Every host's matrix times some vectors, BATCH at most: by host, shape (count, outputs); of
        pairs (2 count, outputs), each pair's two sums one after the other.

        `hidden`: under masks that only the host can take off (HostProducts.uncover).

        Whoever is to round words that a host has masked whole calls `query_words`. Raises PeerError for
        what cannot be such sums.
        """

        def read(host: Peer, parameters: Parameters, data: Octets, masks: Words) -> Integers:
            return unseal(parameters, data, masks, hidden)

        return await self._query(entries, read, encrypted)

    async def query_words(self, entries: Entries, passed_on: bool = False) -> list[Words]:
        """As `query`, where hosts mask whole words (HostProducts.serve with a stream): what is read is
        uniform. Whoever knows the masks takes them off, and rounds.

        `passed_on`: to another party than the host, which is to learn no more than the sums even
        together with it.
        """

        first = self._asked

        def read(host: Peer, parameters: Parameters, data: Octets, masks: Words) -> Words:
            words = unsealed_words(parameters, data, masks)
            if not passed_on:
                return words
            return blurred(parameters, words, self._randomness.at("blur", host.name, first))

        return await self._query(entries, read)

    async def _query(
        self, entries: Entries, read: "Read[T]", encrypted: Encrypted = lambda: None
    ) -> list[T]:
        if not self.hosts or self._public is None:
            encrypted()
            return []
        parameters, count = self._parameters[0], entries.count
        drawn, masks = await self._take(count)
        errors = self._randomness.at("errors of vectors", self._asked)
        encryption = VectorEncryption(parameters, self._public, drawn, errors)
        self._asked += count
        self._operations["encrypt vector"] += count

        def piece(begun: list[Begun[list[Part]]]) -> bytes:
            return joined(parameters, (part for one in begun for part in one.result()))

        sending: asyncio.Task[list[None]] | None = None

        async def sent() -> None:
            if sending is not None:
                with self._timed("transfer"):
                    await sending

        async def send(begun: list[Begun[list[Part]]]) -> None:
            """Send a piece, while the next one is put together."""
            nonlocal sending
            with self._timed("encrypt"):
                message = Vectors(await asyncio.to_thread(piece, begun))
            await sent()
            sending = asyncio.create_task(together([host.send(message) for host in self.hosts]))

        under_way: deque[list[Begun[list[Part]]]] = deque()
        try:
            for start, stop in pieces_of(parameters, count):
                begin = partial(encryption.begin, start, stop, entries.kernel, *entries.arrays)
                under_way.append(await asyncio.to_thread(begin))
                if len(under_way) > ENGINE.width:
                    await send(under_way.popleft())
            while under_way:
                await send(under_way.popleft())
            encrypted()
            self.begin()  # what is made in spare time, now that there is some
            await sent()
        finally:
            if sending is not None:
                sending.cancel()
            for part in (part for begun in under_way for part in begun):
                part.cancel()
        return await together(
            [
                self._sums(host, parameters, own, read)
                for host, parameters, own in zip(self.hosts, self._parameters, masks, strict=True)
            ]
        )

    async def _take(self, count: int) -> tuple[Secrets, list[NDArray[np.uint64]]]:
        """Secrets of which every host has the products, and their masks by host."""
        await together([host.send(Query(count)) for host in self.hosts])
        self._largest = max(self._largest, count)
        while sum(batch.left for batch in self._sent) < count:
            with self._timed("hint products"):
                while not self._ready:
                    self.begin()
                    if self._making is None or self._making.done():
                        raise ValueError("a query of more vectors than there were to be")
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
        read: "Read[T]",
    ) -> T:
        with self._timed(f"{host.name} and transfer"):
            answer = await host.recv(VectorSums)
        self.seconds[host.name] += answer.seconds
        with self._timed("decrypt"):
            try:
                return await asyncio.to_thread(read, host, parameters, answer.data, masks)
            except ValueError as error:
                raise host.breach(f"VectorSums with {error}") from None

    def begin(self) -> None:
        """Make products in spare time, beside whatever else is done, if there are few."""
        if self._making is not None:
            if not self._making.done():
                return
            self._making.result()
        if self.hosts and self._wanted:
            self._making = asyncio.create_task(self._make())

    @property
    def _wanted(self) -> bool:
        """Whether to make a further batch."""
        left = sum(batch.left for batch in (*self._sent, *self._ready))
        due = self._made < self._shape.served
        return due and len(self._ready) < _READY and left < _QUERIES * self._largest

    async def _make(self) -> None:
        while self._wanted:
            first, size = self._made, self._shape.batch(self._made)
            self._made += size
            drawn = Secrets.draw(size, self._randomness.at("secrets of vectors", first))
            made = []
            for host, hint in zip(self.hosts, self._hints, strict=True):
                masking = self._randomness.at("products of a hint", host.name, first)
                loop = asyncio.get_running_loop()
                made.append(
                    await loop.run_in_executor(spare_time(), hint.multiply, drawn, masking, self._ended)
                )
            self._operations["multiply hint"] += size * len(made)
            self._ready.append(_Batch(drawn, [data for data, _ in made], [masks for _, masks in made]))

    def end(self) -> None:
        """End: there are no more queries. What is made in spare time is no longer."""
        self._ended.set()
        if self._making is not None:
            self._making.cancel()


async def _send_products(host: Peer, data: bytes) -> None:
    for start in range(0, len(data), _PIECE):
        await host.send(HintProducts(data[start : start + _PIECE]))


# ------------------------------------------------------------------------------- what both share


def pieces_of(parameters: Parameters, count: int) -> Iterator[tuple[int, int]]:
    """The rows, from one to before another, whose entries of `count` vectors travel together."""
    block = parameters.rows_bytes(DEGREE, count)
    size = min(_MOST_ROWS, max(1, _PIECE // block) * DEGREE)
    for start in range(0, parameters.rows, size):
        yield start, min(start + size, parameters.rows)


def piece_sizes(size: int) -> Iterator[int]:
    """Bytes of the messages that so many bytes of products travel in."""
    return (min(_PIECE, size - start) for start in range(0, size, _PIECE))
