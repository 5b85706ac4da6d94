"""Hints of the hosts' matrices, which the sums of lattice_sums.py need: agreed on once a job.

 1. Each host says how many sums of a vector it will give. By these the guest takes the length of words
    that costs least (Shape.word_bits), and names the hint of each host that it keeps from earlier jobs.
    Each host says whether that is still the hint of its matrix, and gives a random share of a seed.
 2. If all still are, they are used again. If not the guest sends all shares, its own too: their hash is
    the seed of the public polynomials. Each host makes its hint of them and sends it, encrypted under a
    key of its own.
    Of a new hint the guest asks for sums of zeros, which the host masks (it cannot see that they are of
    zeros). The host commits to its masks, the guest says a digest of what it reads, the host opens the
    commitment if that is of its masks. Where a coordinator knows the masks (trees/hidden.py) these are
    whole words, and it says in the host's place whether the sums under them are zero: what the guest
    reads is uniform, whatever its vectors and products were.

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

With few rows, in trees whose sums the guest sees, hosts encrypt their matrices in place of hints where
both find that to be cheaper (Shape.word_bits): whatever is said of hints here is true of these, and
lattice_direct.py has the rest.
"""

import asyncio
import hashlib
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Protocol, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Integers, Words
from vfl.blocks.engine import Array
from vfl.crypto.lattice.direct import DirectParameters, EncryptedMatrix, MatrixKey, entries_of
from vfl.crypto.lattice.hint import EncryptedHint, HintKey
from vfl.crypto.lattice.matrix import CellMatrix, make_hint
from vfl.crypto.lattice.parameters import DEGREE, Parameters
from vfl.crypto.lattice.vectors import PublicRows
from vfl.crypto.randomness import Randomness
from vfl.errors import Refused
from vfl.net.peer import Peer, together
from vfl.net.wire import KIB, MIB, Bulk, Message
from vfl.protocols.common.lattice_direct import DirectGuest, DirectHost
from vfl.protocols.common.lattice_host import HostProducts
from vfl.protocols.common.lattice_sums import (
    MOST_OUTPUTS,
    ZEROS,
    Entries,
    GuestProducts,
    Query,
    Shape,
    Timed,
)
from vfl.protocols.common.mask_streams import MaskStream
from vfl.protocols.common.participant import Resources

_SEED = 32  # bytes of a share, of the seed, of a hint's name
_PARTIES = 256

WordBits = Literal[0, 48, 56, 64, 80]
"""Of a vector's words, of pairs' where they are 80; NO_WORDS: matrices are encrypted themselves, and
multiplied with vectors."""
HintProgress = Callable[[int, int], None]
"""How many parts or columns of hints are done, of how many."""
JudgeZeros = Callable[[Peer, Words], Awaitable[None]]
"""Raises PeerError unless the words that were read of a host's sums of zeros, shape (ZEROS, outputs),
are its masks, which the judge knows."""


class HintSums(Message, frozen=True):
    """host -> guest. Reveals: how many sums of a vector the host will give."""

    outputs: Annotated[int, msgspec.Meta(ge=0, le=MOST_OUTPUTS)]


class HintKnown(Message, frozen=True):
    """guest -> host. Reveals: which hint of this host the guest keeps from an earlier job, if any; how
    short words may be for the host with the most sums, whether one holds two numbers, or that
    hosts are to encrypt their matrices."""

    name: bytes  # empty when there is none
    word_bits: WordBits


class HintOffered(Message, frozen=True):
    """host -> guest. Reveals: whether the host's columns, their bins and the rows are those of the hint
    that the guest keeps. The share is random."""

    known: bool
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
    """host -> guest. Reveals: nothing to who lacks the host's key; its encrypted hint, or matrix."""

    data: Bulk
    limit: ClassVar[int] = 16 * MIB


class ZerosCommitted(Message, frozen=True):
    """host -> guest. Reveals: nothing; a commitment to the masks of the sums of zeros."""

    commitment: bytes


class ZerosRead(Message, frozen=True):
    """guest -> host. Reveals: nothing but that the hint is of a matrix: a digest of the host's masks."""

    digest: bytes


class ZerosOpened(Message, frozen=True):
    """host -> guest. Reveals: nothing but that the host committed to these masks."""

    nonce: bytes  # empty if the digest is of other ones


# --------------------------------------------------------------------------------------- guest


@dataclass(frozen=True)
class KnownHint:
    """What the guest keeps of a host's hint, beside the file of its parts."""

    name: bytes
    seed: bytes
    header: bytes
    outputs: int


class KeptHints(Protocol):
    """Where the guest keeps hints, by host. Who plays a job again needs what it answered in that job,
    and the file of parts; these came in the job that made the hint."""

    def known(self, host: str) -> KnownHint | None:
        """The hint that was kept last."""

    def file(self, host: str) -> Path | None:
        """Where its parts lie; None for memory."""

    def keep(self, host: str, hint: KnownHint) -> None:
        """Keep a hint whose file is complete."""

    def clear(self, host: str, size: int) -> None:
        """Remove a hint and its file, for a new one whose file has so many bytes."""


class NoKeptHints:
    """Keeps nothing."""

    def known(self, host: str) -> KnownHint | None:
        return None

    def file(self, host: str) -> Path | None:
        return None

    def keep(self, host: str, hint: KnownHint) -> None:
        return

    def clear(self, host: str, size: int) -> None:
        return


async def guest_meet(
    hosts: Sequence[Peer],
    shape: Shape,
    *,
    resources: Resources,
    shelf: KeptHints | None = None,
    timed: Timed = lambda phase: nullcontext(),
    progress: HintProgress = lambda done, of: None,
    accept: Callable[[Peer, int], None] = lambda host, outputs: None,
    judge: JudgeZeros | None = None,
) -> tuple[GuestProducts, list[int]]:
    """Steps 1 and 2: what multiplies the hosts' matrices, and how many outputs each host has.

    `accept` raises for a host that says it has another number of outputs than it can have. Hosts without
    any are asked nothing. `judge`: where hosts mask whole words of the zeros' sums (`masks` of
    `host_meet`). Raises PeerError when a host breaks the protocol.
    """
    shelf = shelf or NoKeptHints()
    on_shelf = [shelf.known(host.name) for host in hosts]
    seeds = {hint.seed for hint in on_shelf if hint}
    known = [hint if len(seeds) == 1 else None for hint in on_shelf]
    # 1. How many sums, what is kept, and shares of a seed.
    outputs = [said.outputs for said in await together([host.recv(HintSums) for host in hosts])]
    for host, count in zip(hosts, outputs, strict=True):
        accept(host, count)
        _check_outputs(host, count, shape)
    word_bits = cast(WordBits, shape.word_bits(outputs))
    parameters = [shape.parameters(count, word_bits) for count in outputs]
    await together(
        [
            host.send(HintKnown(hint.name if hint else b"", word_bits))
            for host, hint in zip(hosts, known, strict=True)
        ]
    )
    offers = await together([host.recv(HintOffered) for host in hosts])
    for host, hint, offer, count in zip(hosts, known, offers, outputs, strict=True):
        if len(offer.share) != _SEED or (offer.known and (not hint or hint.outputs != count)):
            raise host.breach("a HintOffered of another size, or of a hint that is not known")
    # 2. The hints.
    opened = [_reopen(shelf, *each) for each in zip(hosts, known, offers, parameters, strict=True)]
    kept = all(hint is not None or not count for hint, count in zip(opened, outputs, strict=True))
    shares = [offer.share for offer in offers]
    shares = [] if kept else [_drawn(resources.randomness, "share of a seed"), *shares]
    await together([host.send(HintAgreed(shares)) for host in hosts])
    seed = next((hint.seed for hint in known if hint), b"")
    received: list[tuple[EncryptedHint, KnownHint] | None] = []
    if not kept:
        seed = _seed(shares)
        received = await _receive_hints(hosts, parameters, seed, shelf, progress)
        opened = [None if new is None else new[0] for new in received]
    asked = [
        (host, hint, own)
        for host, hint, own in zip(hosts, opened, parameters, strict=True)
        if hint is not None
    ]
    direct = any(isinstance(own, DirectParameters) for own in parameters)
    products = (DirectGuest if direct else GuestProducts)(
        [host for host, _, _ in asked],
        [hint for _, hint, _ in asked],
        [own for _, _, own in asked],
        seed,
        shape.of(word_bits),
        resources,
        timed,
    )
    products.begin()
    try:
        if received:
            await _check_zeros(products, [own for _, _, own in asked], judge)
        for host, new in zip(hosts, received, strict=False):
            if new is not None:
                await asyncio.to_thread(shelf.keep, host.name, new[1])
    except BaseException:
        products.end()
        raise
    return products, outputs


def _check_outputs(host: Peer, outputs: int, shape: Shape) -> None:
    try:
        shape.parameters(outputs)
    except ValueError as error:
        raise host.breach(f"HintSums of more than there may be: {error}") from None


def _reopen(
    shelf: KeptHints, host: Peer, known: KnownHint | None, offer: HintOffered, parameters: Parameters
) -> EncryptedHint | None:
    """The hint that the guest keeps, if its host still holds it for valid."""
    if known is None or not offer.known or (file := shelf.file(host.name)) is None or not file.exists():
        return None
    try:
        hint = _encrypted_hint(parameters, known.seed, known.header, file)
    except ValueError:
        return None
    return hint if hint.complete else None


async def _receive_hints(
    hosts: Sequence[Peer],
    parameters: Sequence[Parameters],
    seed: bytes,
    shelf: KeptHints,
    progress: HintProgress,
) -> list[tuple[EncryptedHint, KnownHint] | None]:
    total = sum(own.hint_parts for own in parameters if own.outputs)
    done = Counter[str]()

    def follow(host: str, parts: int) -> None:
        done[host] = parts
        progress(done.total(), total)

    return await together(
        [
            _receive_hint(host, own, seed, shelf, follow)
            for host, own in zip(hosts, parameters, strict=True)
        ]
    )


async def _receive_hint(
    host: Peer, parameters: Parameters, seed: bytes, shelf: KeptHints, follow: Callable[[str, int], None]
) -> tuple[EncryptedHint, KnownHint] | None:
    if not parameters.outputs:
        return None
    head = await host.recv(HintHeader)
    if len(head.name) != _SEED:
        raise host.breach("a HintHeader with a name of another size")
    await asyncio.to_thread(shelf.clear, host.name, _transforms(parameters))
    try:
        hint = _encrypted_hint(parameters, seed, head.header, shelf.file(host.name))
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


def _encrypted_hint(
    parameters: Parameters, seed: bytes, header: bytes, file: Path | None
) -> EncryptedHint:
    """A host's hint, or matrix. Raises ValueError for a header of another size."""
    if isinstance(parameters, DirectParameters):
        return EncryptedMatrix(parameters, seed, header, file)
    return EncryptedHint(parameters, seed, header, file)


def _zeros(rows: Array) -> Integers:
    return np.zeros((ZEROS, len(rows)), np.int64)


async def _check_zeros(
    products: GuestProducts, parameters: Sequence[Parameters], judge: JudgeZeros | None = None
) -> None:
    """Raises PeerError unless new hints are of matrices: their sums of zeros are the hosts' masks."""
    rows = parameters[0].rows if parameters else 0
    zeros = Entries(ZEROS, _zeros, (np.broadcast_to(np.int8(0), rows),))
    if judge is not None:
        words = await products.query_words(zeros)
        for host, masked in zip(products.hosts, words, strict=True):
            await judge(host, masked)
        return
    read = await products.query(zeros, hidden=True)
    for host, own, sums in zip(products.hosts, parameters, read, strict=True):
        commitment = (await host.recv(ZerosCommitted)).commitment
        digest = _digest(own, sums.view(np.uint64))
        await host.send(ZerosRead(digest))
        if _commitment((await host.recv(ZerosOpened)).nonce, digest) != commitment:
            raise host.breach("a hint that is of no matrix")


# ---------------------------------------------------------------------------------------- host


@dataclass(frozen=True)
class HostHint:
    """What a host keeps of a hint: enough to make its key again. Secret.

    Its secret and name are of the random numbers of the job that made it. Who plays a later job again
    needs what `HostHints` answered in it: not its own random numbers decide that.
    """

    name: bytes
    secret: bytes
    seed: bytes
    matter: bytes  # digest of the matrix and the parameters
    vectors: int  # that it was promised for so far


class HostHints(Protocol):
    """Where a host keeps its hint for later jobs on the same rows and bins."""

    def known(self) -> HostHint | None:
        """The hint that was kept last."""

    def keep(self, hint: HostHint) -> None:
        """Keep a hint in place of the last one."""

    def promise(self, name: bytes, vectors: int, life: int) -> bool:
        """Count so many vectors more of the hint of that name, if it is still the one that is kept and
        its life has room for them; whether it has. Nobody else counts meanwhile."""


async def host_meet(
    guest: Peer,
    matrix_of: Callable[[bytes], CellMatrix],
    outputs: int,
    shape: Shape,
    *,
    resources: Resources,
    hints: HostHints,
    progress: HintProgress = lambda done, of: None,
    masks: MaskStream | None = None,
) -> HostProducts:
    """Steps 1 and 2. `matrix_of` gives the matrix of so many `outputs` from the secret of its hint,
    which may decide their order; `masks` are those of the zeros where somebody else knows them, too, and
    judges.

    Raises PeerError when the guest breaks the protocol, Refused when no safe parameters hold the sums.
    """
    try:
        shape.parameters(outputs)
    except ValueError as error:
        raise Refused(
            f'encryption = "lattice" does not allow this job: {error}. A host has as many sums as its '
            "columns have bins and levels"
        ) from None
    # 1. How many sums, what is kept, and a share of the seed.
    await guest.send(HintSums(outputs))
    wanted = await guest.recv(HintKnown)
    try:
        shape = shape.of(wanted.word_bits)
        parameters = shape.parameters(outputs, wanted.word_bits)
    except ValueError:
        raise guest.breach("HintKnown of words that are not for this host's sums") from None
    direct = isinstance(parameters, DirectParameters)
    serving = (DirectHost if direct else HostProducts)(guest, shape, parameters, resources)
    matrix: CellMatrix | None = None
    kept = hints.known()
    reusable = kept is not None and kept.name == wanted.name
    if outputs and kept is not None and reusable and kept.vectors + shape.served <= parameters.queries:
        matrix = await asyncio.to_thread(matrix_of, kept.secret)
        same = kept.matter == await asyncio.to_thread(_matter, matrix, parameters)
        life = parameters.queries
        if not same or not await asyncio.to_thread(hints.promise, kept.name, shape.served, life):
            matrix = None
    randomness = resources.randomness
    share = _drawn(randomness, "share of a seed")
    await guest.send(HintOffered(matrix is not None, share))
    # 2. The hint.
    agreed = await guest.recv(HintAgreed)
    if not agreed.shares:
        if kept is not None and matrix is not None:
            serving.use(matrix, _key(parameters, kept.seed, kept.secret, kept.matter), kept.secret)
        elif outputs:
            raise guest.breach("HintAgreed to a hint that this host does not have")
        return serving
    if share not in agreed.shares or {len(given) for given in agreed.shares} != {_SEED}:
        raise guest.breach("HintAgreed without this host's share, or with one of another size")
    if not outputs:
        return serving
    secret, seed = _drawn(randomness, "secret of a hint"), _seed(agreed.shares)
    matrix = await asyncio.to_thread(matrix_of, secret)
    matter = await asyncio.to_thread(_matter, matrix, parameters)
    key = _key(parameters, seed, secret, matter)
    public = PublicRows(seed, matrix.rows, parameters.modulus.sums)
    made = await (asyncio.to_thread(entries_of, matrix) if direct else _hint(matrix, public, progress))
    name = _drawn(randomness, "name of a hint")
    await asyncio.to_thread(hints.keep, HostHint(name, secret, seed, matter, shape.served))
    await guest.send(HintHeader(name, key.header()))
    parts = key.encrypt(made)
    while (data := await asyncio.to_thread(next, parts, None)) is not None:
        await guest.send(HintPart(data))
    serving.use(matrix, key, secret)
    zeros = await guest.recv(Query)
    if zeros.vectors != ZEROS:
        raise guest.breach("a Query of another number of vectors than the zeros have")
    if masks is not None:
        await serving.serve(zeros, stream=masks)
        return serving
    digest = _digest(parameters, await serving.serve(zeros, hidden=True))
    await _show_zeros(guest, digest, _drawn(randomness, "nonce of the zeros"))
    return serving


async def _show_zeros(guest: Peer, digest: bytes, nonce: bytes) -> None:
    """Show masks of zeros' sums once the guest has shown that it read the same."""
    await guest.send(ZerosCommitted(_commitment(nonce, digest)))
    same = (await guest.recv(ZerosRead)).digest == digest
    await guest.send(ZerosOpened(nonce if same else b""))
    if not same:
        raise guest.breach("ZerosRead of other numbers than the masks of zeros")


def _key(parameters: Parameters, seed: bytes, secret: bytes, matter: bytes) -> HintKey:
    """The key of a hint, or of a matrix."""
    kind = MatrixKey if isinstance(parameters, DirectParameters) else HintKey
    return kind(parameters, seed, secret, matter)


async def _hint(matrix: CellMatrix, public: PublicRows, progress: HintProgress) -> NDArray[np.uint64]:
    """The hint of a matrix; `progress` is called in this thread."""
    loop = asyncio.get_running_loop()

    def follow(done: int, of: int) -> None:
        loop.call_soon_threadsafe(progress, done, of)

    return await asyncio.to_thread(lambda: make_hint(matrix, public, follow))


# ------------------------------------------------------------------------------- what both share


def _drawn(randomness: Randomness, what: str) -> bytes:
    """Random bytes, of which a job needs no more than these for one purpose."""
    return randomness.at(what)(_SEED)


def _seed(shares: Sequence[bytes]) -> bytes:
    """The seed of the public polynomials, from the shares of all parties."""
    return hashlib.sha256(b"vfl lattice seed\0" + b"".join(shares)).digest()


def _transforms(parameters: Parameters) -> int:
    """Bytes of an encrypted hint as the guest keeps it: six numbers in float64 a word."""
    return 48 * parameters.groups * parameters.depth * DEGREE


def _matter(matrix: CellMatrix, parameters: Parameters) -> bytes:
    """A digest of what a hint is made of."""
    return hashlib.sha256(matrix.digest() + repr(parameters).encode()).digest()


def _digest(parameters: Parameters, masks: NDArray[np.uint64]) -> bytes:
    """A digest of numbers, modulo what sums are known modulo."""
    kept = masks & np.uint64((1 << parameters.read_bits) - 1)
    return hashlib.sha256(kept.astype("<u8").tobytes()).digest()


def _commitment(nonce: bytes, digest: bytes) -> bytes:
    return hashlib.sha256(b"vfl lattice zeros\0" + nonce + digest).digest()
