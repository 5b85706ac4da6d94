"""Lookups: the guest finds its rows in a host's sealed directory, and the host does not learn which.

Over a session that stays open the guest asks, the host answers each request in its turn:
 1. The guest asks for the newest directory and gets its header, which the host has signed.
 2. Of the catalogue, and then of the parts, it fetches what it lacks; each part is checked by its
 digest.
 3. To look rows up, the guest sends H(y) times a fresh scalar for each id y, many in a message. The host
    counts them and returns them times its key, with one proof for all that it is the header's.
 4. The guest takes its scalars off and has F(y), which names the entry of y and opens it.

The host learns how many ids are looked up, and when. The blinded points are uniform, whatever the ids
are: of two batches of the same size it cannot know which was asked about. A host that answers under
different keys, to tell guests or ids apart by who still finds anything, is found by the proof. Nor does
it learn what was found: a batch whose parts are none is looked up to its end, and fails then.
The guest learns of each id that it looks up whether the host has it and, if so, its row's part.
"""

import asyncio
import contextlib
import hashlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from vfl.arrays import Bytes
from vfl.crypto import group, voprf
from vfl.crypto.randomness import SECRET, Entropy, Stream
from vfl.errors import DayIsFull, PeerLost, RateIsFull, Refused, VflError, fault
from vfl.net.peer import Peer
from vfl.net.wire import Message
from vfl.protocols.lookup.directory import Catalogue
from vfl.protocols.lookup.messages import (
    CATALOGUE,
    PARTS,
    POINTS,
    AskCatalogue,
    AskDirectory,
    AskParts,
    CatalogueRows,
    LookedUp,
    LookUp,
    LookupEnd,
    NotLookedUp,
    SealedDirectory,
    SealedParts,
)

M = TypeVar("M", bound=Message)
_INLINE = 4  # points that are not worth a thread
_MINUTE = 60.0  # seconds


class Renewed(Refused):
    """The host's directory has another key by now: it has to be fetched before anything is found."""


# --- A host.


class ServedDirectory(Protocol):
    """A directory as a host serves it."""

    @property
    def signed(self) -> bytes:
        """The header."""

    @property
    def signature(self) -> bytes: ...

    @property
    def version(self) -> str: ...

    @property
    def catalogue(self) -> Catalogue: ...

    @property
    def width(self) -> int:
        """Bytes of an entry."""

    def read(self, part: int) -> bytes:
        """The entries of a part. Raises FileNotFoundError where another version has taken its place."""


class LookupSource(Protocol):
    """What a host answers lookups from, and the rules that it goes by."""

    async def newest(self) -> ServedDirectory:
        """The directory as it is now. Raises what forbids it."""

    async def admit(self, points: int) -> None:
        """Told how many ids are looked up, before any is answered. Raises Refused."""

    async def admit_fetch(self, size: int) -> None:
        """Told how many bytes of the directory are asked for, before any is sent. Raises Refused."""

    def secret_of(self, public: bytes) -> bytes | None:
        """The secret key of a public one under which lookups are answered; None if there is none."""

    @property
    def version(self) -> str:
        """The newest version."""

    @property
    def most_a_minute(self) -> int:
        """The most ids that may be looked up in a minute; 0: any number."""


async def host_lookups(guest: Peer, source: LookupSource, entropy: Entropy) -> int:
    """Answer a guest until it ends; how many ids were looked up.

    entropy: of this session alone.
    Raises PeerError when the guest breaks the protocol, and what `source` raises but Refused for a
    lookup, which the guest is told.
    """
    done = 0
    served = await source.newest()
    while True:
        message = await guest.recv(LookUp, AskDirectory, AskCatalogue, AskParts, LookupEnd)
        if isinstance(message, LookUp):
            answer = await _look_up(guest, source, message, entropy)
            done += len(message.points) // group.POINT if isinstance(answer, LookedUp) else 0
            await guest.send(answer)
        elif isinstance(message, AskDirectory):
            served = await source.newest()
            await guest.send(SealedDirectory(served.signed, served.signature, source.most_a_minute))
        elif isinstance(message, AskCatalogue):
            await guest.send(await _catalogue(guest, served, source, message))
        elif isinstance(message, AskParts):
            await guest.send(await _parts(guest, served, source, message))
        else:
            return done


async def _look_up(
    guest: Peer, source: LookupSource, message: LookUp, entropy: Entropy
) -> LookedUp | NotLookedUp:
    count = len(message.points) // group.POINT
    if len(message.points) != group.POINT * count or not 0 < count <= POINTS:
        raise guest.breach("LookUp of no ids, of too many, or cut short")
    try:
        await source.admit(count)
    except Refused as refused:
        return _refusal(refused)
    secret = source.secret_of(message.key)
    if secret is None:
        return NotLookedUp("the directory has another key by now: fetch it anew", renewed=True)
    points = np.frombuffer(message.points, np.uint8).reshape(-1, group.POINT)

    def evaluate() -> tuple[Bytes, bytes]:
        return voprf.evaluate(secret, message.key, points, _for_proof(entropy, message))

    try:
        evaluated, proof = evaluate() if count <= _INLINE else await asyncio.to_thread(evaluate)
    except group.InvalidPoint:
        raise guest.breach("LookUp with an invalid element") from None
    return LookedUp(evaluated.tobytes(), proof, source.version)


def _for_proof(entropy: Entropy, message: LookUp) -> Entropy:
    """Random numbers for the proof of an answer. Two proofs with one scalar would give the directory's
    key away, which outlives the run: so what is drawn is hashed with what the proof is about."""
    about = message.key + message.points
    return lambda count: hashlib.shake_256(entropy(count) + about).digest(count)


def _refusal(refused: Refused) -> NotLookedUp:
    if isinstance(refused, RateIsFull):
        return NotLookedUp(refused.for_peer, refused.seconds)
    return NotLookedUp(refused.for_peer, until_tomorrow=refused.until_tomorrow)


async def _catalogue(
    guest: Peer, served: ServedDirectory, source: LookupSource, message: AskCatalogue
) -> CatalogueRows | NotLookedUp:
    if message.version != served.version:
        return CatalogueRows(b"", b"", b"", gone=True)
    catalogue = served.catalogue
    if message.first >= len(catalogue.counts):
        raise guest.breach("AskCatalogue beyond its end")
    part = slice(message.first, message.first + CATALOGUE)
    counts, salts, digests = (
        catalogue.counts[part].astype("<u4").tobytes(),
        catalogue.salts[part].tobytes(),
        catalogue.digests[part].tobytes(),
    )
    try:
        await source.admit_fetch(len(counts) + len(salts) + len(digests))
    except Refused as refused:
        return _refusal(refused)
    return CatalogueRows(counts, salts, digests)


async def _parts(
    guest: Peer, served: ServedDirectory, source: LookupSource, message: AskParts
) -> SealedParts | NotLookedUp:
    if len(message.parts) % 4 or not message.parts:
        raise guest.breach("AskParts cut short")
    numbers = np.frombuffer(message.parts, "<u4").astype(np.int64)
    if message.version != served.version:
        return SealedParts(b"", gone=True)
    counts = served.catalogue.counts
    if (np.diff(numbers) <= 0).any() or numbers[-1] >= len(counts):
        raise guest.breach("AskParts of parts that there are not")
    size = int(counts[numbers].sum(dtype=np.int64)) * served.width
    if size > PARTS and len(numbers) > 1:
        raise guest.breach("AskParts of too many parts at once")
    try:
        await source.admit_fetch(size)
    except Refused as refused:
        return _refusal(refused)

    def read() -> SealedParts:
        try:
            return SealedParts(b"".join(served.read(n) for n in numbers[counts[numbers] > 0].tolist()))
        except FileNotFoundError:
            return SealedParts(b"", gone=True)

    return await asyncio.to_thread(read)


# --- A guest.


@dataclass(frozen=True)
class Asked:
    """A request that has left: what is to be made of its answer."""

    inputs: Sequence[bytes]
    key: bytes
    blinded: voprf.Blinded
    answer: asyncio.Future[Message]


class LookupSession:
    """A guest's end of a session: requests in any number, answered in their order."""

    def __init__(self, host: Peer, entropy: Entropy) -> None:
        """entropy: of this session alone, in which a scalar serves once: ids are drawn for in the order
        in which they are asked about."""
        self.host, self.entropy = host, entropy
        self._due: deque[tuple[tuple[type[Message], ...], asyncio.Future[Message]]] = deque()
        self._asked, self._turn = asyncio.Event(), asyncio.Lock()
        self._over = asyncio.Event()
        self._sending: set[asyncio.Task[None]] = set()
        self.ended: VflError | None = None

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator["LookupSession"]:
        """Hear the answers while the block runs; then say that nothing more is looked up."""
        hearing = asyncio.create_task(self._hear())
        try:
            yield self
            if self.ended is None:
                with contextlib.suppress(PeerLost):  # nothing is due from it any more
                    await self.host.send(LookupEnd())
        finally:
            hearing.cancel()
            self._end(PeerLost(f"the session with {self.host.name} has ended"))

    async def ask(self, request: Message, *kinds: type[Message]) -> Message:
        """The answer to a request, one of `kinds`. Raises what the session raises."""
        return await self._begin(request, *kinds)

    def _begin(self, request: Message, *kinds: type[Message]) -> asyncio.Future[Message]:
        """The answer to come to a request, which leaves after those before it."""
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        # Who waits may give up, but a message is sent whole or not at all.
        sending = asyncio.create_task(self._send(request, kinds, answer))
        self._sending.add(sending)
        sending.add_done_callback(self._sending.discard)
        return answer

    async def _send(
        self, request: Message, kinds: tuple[type[Message], ...], answer: asyncio.Future[Message]
    ) -> None:
        async with self._turn:  # so that requests leave in the order in which answers are due
            if answer.done():  # nobody waits any more
                return
            self._due.append((kinds, answer))
            if self.ended is not None:
                self._end(self.ended)
                return
            self._asked.set()
            try:
                await self.host.send(request)
            except VflError as error:
                self._end(error)
            except Exception as error:  # who waits must not wait for ever
                self._end(VflError(fault(error)))
                raise

    async def _hear(self) -> None:
        try:
            while True:
                while not self._due:
                    self._asked.clear()
                    await self._asked.wait()
                kinds, answer = self._due[0]
                message = await self.host.recv(*kinds)
                self._due.popleft()
                if not answer.done():  # who asked may not wait any more
                    answer.set_result(message)
        except VflError as error:
            self._end(error)
        except Exception as error:  # who waits must not wait for ever
            self._end(VflError(fault(error)))
            raise

    def _end(self, error: VflError) -> None:
        if self.ended is None:
            self.ended = error
        self._over.set()
        while self._due:
            _, answer = self._due.popleft()
            if not answer.done():
                answer.set_exception(_again(self.ended))
                answer.exception()  # heard, also where nobody waits any more

    async def wait(self, wanted: asyncio.Event) -> None:
        """Wait until something is `wanted`. Raises what the session ends with before."""
        waiting = [asyncio.create_task(event.wait()) for event in (wanted, self._over)]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
        if self.ended is not None:
            raise _again(self.ended)

    # What it asks for.

    async def newest(self) -> SealedDirectory:
        """The header of the newest directory."""
        answer = await self.ask(AskDirectory(), SealedDirectory)
        assert isinstance(answer, SealedDirectory)  # noqa: S101 - for the type checker
        return answer

    async def catalogue(self, version: str, parts: int) -> Catalogue | None:
        """The catalogue of a version of so many parts; None where another has taken its place. Raises
        Refused with the host's reason."""
        rows: list[CatalogueRows] = []
        for first in range(0, parts, CATALOGUE):
            answer = await self.ask(AskCatalogue(version, first), CatalogueRows, NotLookedUp)
            if isinstance(answer, NotLookedUp):
                raise self._refused(answer, "sends nothing of its directory")
            assert isinstance(answer, CatalogueRows)  # noqa: S101 - for the type checker
            if answer.gone:
                return None
            count = min(CATALOGUE, parts - first)
            sizes = (len(answer.counts), len(answer.salts), len(answer.digests))
            if sizes != (4 * count, 8 * count, 32 * count):
                raise self._broken("CatalogueRows of another number of parts")
            rows.append(answer)
        return Catalogue(
            np.frombuffer(b"".join(row.counts for row in rows), "<u4").astype(np.uint32),
            np.frombuffer(b"".join(row.salts for row in rows), np.uint8).reshape(-1, 8),
            np.frombuffer(b"".join(row.digests for row in rows), np.uint8).reshape(-1, 32),
        )

    async def parts(self, version: str, numbers: Sequence[int], size: int) -> bytes | None:
        """The entries of parts, `size` bytes in all; None where another version has taken their place.
        Raises Refused with the host's reason."""
        request = AskParts(version, np.array(numbers, "<u4").tobytes())
        answer = await self.ask(request, SealedParts, NotLookedUp)
        if isinstance(answer, NotLookedUp):
            raise self._refused(answer, "sends no more of its directory")
        assert isinstance(answer, SealedParts)  # noqa: S101 - for the type checker
        if answer.gone:
            return None
        if len(answer.entries) != size:
            raise self._broken("SealedParts of another size than the catalogue says")
        return answer.entries

    async def outputs(self, inputs: Sequence[bytes], key: bytes, newest: Callable[[str], None]) -> Bytes:
        """F of at most POINTS inputs, shape (n, 64), under a directory's public key; `newest` is told
        the host's newest version. Raises Refused with the host's reason, Renewed where the key is
        another by now, PeerError for a proof that does not hold."""
        return await self.finish(await self.begin(inputs, key), newest)

    async def begin(self, inputs: Sequence[bytes], key: bytes) -> Asked:
        """Ask for F of at most POINTS inputs, to be had from `finish`. Who begins one after the other
        has them sent in this order, with the random numbers of this order."""
        if len(inputs) <= _INLINE:
            blinded = voprf.blind(inputs, self.entropy)
        else:
            # A stream of its own for a thread, beside which others may begin.
            stream = Stream(self.entropy(SECRET))
            blinded = await asyncio.to_thread(voprf.blind, inputs, stream)
        request = LookUp(key, blinded.points.tobytes())
        return Asked(inputs, key, blinded, self._begin(request, LookedUp, NotLookedUp))

    async def finish(self, asked: Asked, newest: Callable[[str], None]) -> Bytes:
        """As `outputs`, of what was begun."""
        inputs, blinded, answer = asked.inputs, asked.blinded, await asked.answer
        if isinstance(answer, NotLookedUp):
            raise self._refused(answer)
        assert isinstance(answer, LookedUp)  # noqa: S101 - for the type checker
        if len(answer.points) != group.POINT * len(inputs):
            raise self._broken("LookedUp of another number of ids than asked for")
        points = np.frombuffer(answer.points, np.uint8).reshape(-1, group.POINT)

        def finalize() -> Bytes:
            return voprf.finalize(inputs, blinded, points, asked.key, answer.proof)

        try:
            few = len(inputs) <= _INLINE
            found = finalize() if few else await asyncio.to_thread(finalize)
        except group.InvalidPoint:
            raise self._broken("LookedUp with an invalid element") from None
        except voprf.InvalidProof:
            raise self._broken("LookedUp with a proof that does not hold") from None
        newest(answer.version)
        return found

    def _refused(self, answer: NotLookedUp, how: str = "answers no lookup") -> Refused:
        text = f"{self.host.name} {how}: {answer.reason}"
        if answer.renewed:
            return Renewed(text)
        if answer.until_tomorrow:
            return DayIsFull(text)
        # Whatever a host says, a rule about a minute is over after one.
        return RateIsFull(text, min(answer.seconds, _MINUTE)) if answer.seconds else Refused(text)

    def _broken(self, what: str) -> VflError:
        """The error for a host that broke the protocol, with which the session ends."""
        error = self.host.breach(what)
        self._end(error)
        return error


def _again(error: VflError) -> VflError:
    """An error as an exception of its own for each who waits."""
    made = type(error).__new__(type(error))
    made.__dict__.update(error.__dict__)
    made.args = error.args
    return made
