"""The oblivious pseudorandom function by exponents: 32 bytes an id of the guest each way.

Written with exponents, as the papers are; the group is ristretto255 and H a hash onto it that includes
the run's `context`. The steps are 2 to 4 of `vfl.protocols.align.psi`.

  2. The guest draws a scalar a and sends H(x)^a of its ids, shuffled, the same to every host.
  3. Host j draws a scalar b_j and returns each element to the power b_j, in the same order.
  4. The guest takes a off, and has F_j(x) = Hash(H(x)^b_j, x) of each of its ids. The host computes
     F_j(y) of its own.

To the host the elements are random: for each a there is one H(x)^a of a random element. To the guest
F_j is random wherever it has not asked, if Diffie-Hellman with one more element than were asked is hard
(one-more gap Diffie-Hellman; H and Hash are random functions). A guest that deviates can ask for
elements of any kind, and still has F_j at no more ids than it sent elements; a host can only answer
wrongly, which makes it lose ids. Every element must be a canonical encoding and not the identity, and
the guest's must be distinct: one that comes twice is an id that comes twice.

Sources: Meadows (S&P 1986) and Huberman, Franklin, Hogg (EC 1999); as an oblivious pseudorandom
function, Jarecki, Liu (SCN 2010).
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import ClassVar

import numpy as np

from vfl.arrays import Bytes, Integers
from vfl.blocks.texts import Packed
from vfl.crypto import group
from vfl.crypto.digests import digests
from vfl.crypto.randomness import Entropy
from vfl.net.peer import Peer, together
from vfl.net.wire import KIB, Message
from vfl.protocols.align.oprf import OUTPUT, OprfRun, each_chunk, empty, parts, receive_rows, repeats

CHUNK = 8192  # elements a message

_Part = tuple[int, int]  # the first row of a chunk, and the row after its last


class BlindedIds(Message, frozen=True):
    """guest -> host, H(x)^a, 32 bytes each. Reveals: nothing; to who lacks the guest's secret a they are
    random."""

    limit: ClassVar[int] = CHUNK * group.POINT + KIB
    points: bytes
    per_row = ("points", 8 * group.POINT)


class EvaluatedIds(Message, frozen=True):
    """host -> guest, H(x)^(a b), 32 bytes each, in the order received. Reveals: nothing yet.

    With them the guest can compute the host's secret function of the ids that it sent, and of no other.
    """

    limit: ClassVar[int] = CHUNK * group.POINT + KIB
    points: bytes
    per_row = ("points", 8 * group.POINT)


async def guest_outputs(
    hosts: Sequence[Peer],
    ids: Sequence[bytes],
    run: OprfRun,
) -> list[Bytes]:
    """The guest's role: `GuestOutputs` of oprf.py."""
    n = len(ids)
    # 2. Blind the ids in an order that is nobody's: a chunk goes out as soon as it is ready.
    scalar = group.random_scalar(run.randomness.at("scalar that blinds"))
    order = await asyncio.to_thread(_random_order, n, run.randomness.at("order of ids"))
    blinded = empty(n, group.POINT, run.scratch)
    ready: list[asyncio.Future[None]] = [
        asyncio.get_running_loop().create_future() for _ in parts(n, CHUNK)
    ]

    def named(start: int, stop: int) -> Packed:
        return Packed.of([[ids[row] for row in order[start:stop]]])

    async def in_order() -> AsyncIterator[tuple[_Part, tuple[Packed, bytes, bytes]]]:
        for start, stop in parts(n, CHUNK):
            yield (start, stop), (named(start, stop), run.context, scalar)

    async def ready_to_go(part: _Part, points: Bytes) -> None:
        start, stop = part
        blinded[start:stop] = points
        ready[start // CHUNK].set_result(None)
        run.report("blinding ids", stop, n)

    async def send(host: Peer) -> None:
        for done, (start, stop) in zip(ready, parts(n, CHUNK), strict=True):
            await done
            await host.send(BlindedIds(blinded[start:stop].tobytes()))

    # 4. Unblind what comes back (3 is the host's).
    inverse = group.invert(scalar)
    outputs = [empty(n, OUTPUT, run.scratch) for _ in hosts]

    async def receive(host: Peer, own: Bytes) -> None:
        async def answers() -> AsyncIterator[tuple[_Part, tuple[Bytes, bytes, Packed, bytes]]]:
            async for start, stop, points in receive_rows(
                host, EvaluatedIds, lambda m: m.points, n, CHUNK, group.POINT
            ):
                yield (start, stop), (points, inverse, named(start, stop), run.context)

        async def keep(part: _Part, values: Bytes) -> None:
            start, stop = part
            own[order[start:stop]] = values
            run.report(f"matching ids with {host.name}", stop, n)

        try:
            await each_chunk(_evaluate, answers(), keep)
        except group.InvalidPoint:
            raise host.breach("EvaluatedIds with an invalid element") from None

    await together(
        [
            each_chunk(_blind, in_order(), ready_to_go),
            *(send(host) for host in hosts),
            *(receive(host, own) for host, own in zip(hosts, outputs, strict=True)),
        ]
    )
    return outputs


async def host_outputs(
    guest: Peer,
    ids: Sequence[bytes],
    theirs: int,
    name: str,
    run: OprfRun,
) -> Bytes:
    """A host's role: `HostOutputs` of oprf.py."""
    scalar = group.random_scalar(run.randomness.at("scalar of the function"))
    own = empty(len(ids), OUTPUT, run.scratch)

    # 3. Evaluate the guest's ids, and 4. its own ones while waiting for them.
    async def in_order() -> AsyncIterator[tuple[_Part, tuple[Packed, bytes, bytes]]]:
        for start, stop in parts(len(ids), CHUNK):
            yield (start, stop), (Packed.of([ids[start:stop]]), scalar, run.context)

    async def keep(part: _Part, values: Bytes) -> None:
        start, stop = part
        own[start:stop] = values
        run.report("evaluating own ids", stop, len(ids))

    evaluated = each_chunk(evaluate_ids, in_order(), keep)
    await together([answer_ids(guest, theirs, scalar, run), evaluated])
    return own


async def answer_ids(guest: Peer, theirs: int, scalar: bytes, run: OprfRun) -> None:
    """3. Evaluate the guest's ids. Raises PeerError for a guest that breaks the protocol."""
    blinded = empty(theirs, group.POINT, run.scratch)

    async def asked() -> AsyncIterator[tuple[int, tuple[Bytes, bytes]]]:
        async for start, stop, points in receive_rows(
            guest, BlindedIds, lambda m: m.points, theirs, CHUNK, group.POINT
        ):
            blinded[start:stop] = points
            yield stop, (points, scalar)

    async def answer(stop: int, points: Bytes) -> None:
        await guest.send(EvaluatedIds(points.tobytes()))
        run.report(f"matching ids with {guest.name}", stop, theirs)

    try:
        await each_chunk(group.multiply, asked(), answer)
    except group.InvalidPoint:
        raise guest.breach("BlindedIds with an invalid element") from None
    # A repeated element is a repeated id, or a try to test what this host does with it.
    if await asyncio.to_thread(repeats, blinded):
        raise guest.breach("BlindedIds with an element twice")


def _random_order(n: int, entropy: Entropy) -> Integers:
    """A random order of n rows."""
    # Of two equal numbers (once in 2^64 / n^2 runs) the first stays first, which tells nobody much.
    numbers = np.frombuffer(entropy(8 * n), np.uint64)
    return np.argsort(numbers, kind="stable").astype(np.int64)


def _blind(ids: Sequence[bytes], context: bytes, scalar: bytes) -> Bytes:
    return group.multiply(group.hash_to_group(ids, context), scalar)


def _evaluate(points: Bytes, inverse: bytes, ids: Sequence[bytes], context: bytes) -> Bytes:
    """F(x), (n, 32), from the host's answers H(x)^(a b) and 1/a."""
    return _output(ids, group.multiply(points, inverse), context)


def evaluate_ids(ids: Sequence[bytes], scalar: bytes, context: bytes) -> Bytes:
    """4. F(y), (n, 32), by the host itself."""
    return _output(ids, group.multiply(group.hash_to_group(ids, context), scalar), context)


def _output(ids: Sequence[bytes], points: Bytes, context: bytes) -> Bytes:
    """F: Hash(context, H(x)^b, x). The element comes first, since its size is fixed."""
    prefix = len(context).to_bytes(8, "big") + context
    return digests(ids, points, domain=b"vfl psi output", prefix=prefix, size=OUTPUT)
