"""Alignment: which rows have an id that all parties know, in one order common to all.

One guest and k >= 1 hosts, each host connected to the guest only. Written with exponents, as the
papers are; the group is ristretto255 and H a hash onto it that includes the run's `context`.

  1. The guest names the hosts and says how many ids it has. Each host says how many it has and
     gives a fresh X25519 public key, signed if the caller can sign; the guest relays the keys. Each
     pair of hosts (j, l) so gets a key k_jl, and each host shares of zero,
     s_j(y) = XOR over l of PRF(k_jl, y): over all hosts they cancel for the same y, and any fewer
     of them look random. (With one host the share is zero.)
  2. The guest draws a scalar a and sends H(x)^a of its ids, shuffled, the same to every host.
  3. Host j draws a scalar b_j and returns each element to the power b_j, in the same order.
  4. The guest takes a off, and has F_j(x) = Hash(H(x)^b_j, x) of each of its ids: an oblivious
     pseudorandom function. The host computes F_j(y) of its own. Half of F_j is the member tag, which
     only this host and whoever has evaluated the id with it can know, half is the mask.
  5. Host j sends an oblivious key-value store that maps tag_j(y) to mask_j(y) XOR s_j(y).
  6. The guest looks up its ids in all stores. XOR over j of (store_j(tag_j(x)) XOR mask_j(x)) is
     zero for an id that all hosts have. Otherwise at least one term is random: it is zero with
     2^-128.
  7. The guest sorts the common ids by a hash of all their F_j(x), an order that says nothing of
     any party's own, and sends each host the tags of its rows in that order.

What each side learns. Every party learns the intersection of all parties (as rows of its own) and
the guest's number of ids; the guest learns the hosts' numbers of ids. Nobody learns a pairwise
intersection with more than one host. Whoever calls this with one host gets the intersection with
that host.

Against whom. Augmented semi-honest parties: they follow the protocol, but may choose their ids.
- The guest with some hosts together learn what a guest would who runs with the other hosts only:
  they know their own shares of zero, so which of the guest's ids all *other* hosts have. With all
  hosts but one on its side the guest learns its intersection with that one.
- Hosts together without the guest learn the intersection and nothing more.
- The guest relays the hosts' public keys. Without `sign` and `verify` a guest that does not follow
  the protocol can sit in between and learn pairwise intersections; with them, and with `hosts`
  given, it can not. The signature covers the context, the names of all hosts and of the signer.
- Ids can be guessed: the guest can try one id of its choice for each it announces. The hosts'
  limit on their number is what bounds this.
- A host's `minimum` stops the run before the host uses the intersection, but the guest has
  computed it by then.

Sources: the function by exponents, Meadows (S&P 1986) and Huberman, Franklin, Hogg (EC 1999); as
an oblivious pseudorandom function, Jarecki, Liu (SCN 2010). The star with zero-sharing and
programmable functions: Kolesnikov, Matania, Pinkas, Rosulek, Trieu, "Practical Multi-party Private
Set Intersection from Symmetric-Key Techniques" (CCS 2017), the variant for augmented semi-honest
parties. The store: `vfl.crypto.okvs`.
"""

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import ClassVar, TypeVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray

from vfl.crypto import group, okvs
from vfl.errors import DataError, Refused
from vfl.net.peer import Peer, together
from vfl.net.wire import KIB, MIB, Message
from vfl.protocols.fellows import Sign, Verify, keyed_hash, secrets_with_fellows, signed

CHUNK = 8192  # elements a message
SLOTS = 32768  # slots of a store, or tags, a message
MAX_IDS = 20_000_000
MAX_HOSTS = 64

HALF = 16  # bytes of a tag, a mask, a share of zero

Rows = NDArray[np.int64]
Bytes = NDArray[np.uint8]
Entropy = Callable[[int], bytes]
# What is being done, how many are done, of how many.
Progress = Callable[[str, int, int], None]


class AlignStart(Message, frozen=True):
    """guest -> host. Reveals: how many ids the guest has, and who the hosts are."""

    hosts: list[str]
    ids: int
    per_row = ("ids", 1)


class AlignKey(Message, frozen=True):
    """host -> guest. Reveals: how many ids the host has. The key is fresh and its signature public.

    `signature` is empty when the host was given nothing to sign with.
    """

    ids: int
    public_key: bytes
    signature: bytes
    per_row = ("ids", 1)


class AlignKeys(Message, frozen=True):
    """guest -> host, the keys of all hosts in the order of AlignStart. Reveals: nothing of any id.

    Each key is fresh, each signature public.
    """

    limit: ClassVar[int] = MIB
    public_keys: list[bytes]
    signatures: list[bytes]


class BlindedIds(Message, frozen=True):
    """guest -> host, H(x)^a, 32 bytes each. Reveals: nothing; without `a` they are random."""

    limit: ClassVar[int] = CHUNK * group.POINT + KIB
    points: bytes
    per_row = ("points", 8 * group.POINT)


class EvaluatedIds(Message, frozen=True):
    """host -> guest, H(x)^(a b), 32 bytes each, in the order received. Reveals: nothing yet.

    With them the guest can evaluate the host's function F_j at the ids it sent, and at no other.
    """

    limit: ClassVar[int] = CHUNK * group.POINT + KIB
    points: bytes
    per_row = ("points", 8 * group.POINT)


class AlignStore(Message, frozen=True):
    """host -> guest, slots of the store. Reveals: with those of all hosts, the intersection of all.

    Those of some hosts, or of one of several, look random to the guest.
    """

    limit: ClassVar[int] = SLOTS * okvs.VALUE + KIB
    slots: bytes


class CommonRows(Message, frozen=True):
    """guest -> host. Reveals: how many ids all parties have in common."""

    rows: int
    per_row = ("rows", 1)


class CommonTags(Message, frozen=True):
    """guest -> host, member tags in the common order. Reveals: which of the host's rows are common.

    Tags of any other id would mean nothing to the host.
    """

    limit: ClassVar[int] = SLOTS * HALF + KIB
    tags: bytes
    per_row = ("tags", 8 * HALF)


M = TypeVar("M", bound=Message)


async def guest_align(
    hosts: Sequence[Peer],
    ids: Sequence[bytes],
    *,
    context: bytes,
    minimum: int = 1,
    allow_empty: bool = False,
    max_ids: int = MAX_IDS,
    entropy: Entropy = secrets.token_bytes,
    progress: Progress | None = None,
) -> Rows:
    """The guest's role: the numbers of the rows whose id all parties have, in the common order.

    ids: one a row, distinct, normalised as the job says. context: names the run, the same at all
    parties; runs of different contexts cannot be joined. minimum: fewer common rows are Refused.
    allow_empty: no common id at all is then not an error (for scoring).

    Returns int64 (common,). Raises PeerError for a host that breaks the protocol, DataError when no
    id is common, Refused, PeerStopped, PeerLost; ValueError for ids that are not distinct.
    """
    await asyncio.to_thread(_check_own, ids, max_ids)
    if not 1 <= len(hosts) <= MAX_HOSTS or len({host.name for host in hosts}) < len(hosts):
        raise ValueError(f"1 to {MAX_HOSTS} hosts of different names are due")
    n, report = len(ids), progress or _quiet

    # 1. Sizes, and the hosts' keys for each other.
    names = [host.name for host in hosts]
    await together([host.send(AlignStart(names, n)) for host in hosts])
    keys = await together([_receive_key(host, max_ids) for host in hosts])
    relayed = AlignKeys([key.public_key for key in keys], [key.signature for key in keys])
    await together([host.send(relayed) for host in hosts])

    # 2. Blind the ids in an order that is nobody's: a chunk goes out as soon as it is ready.
    scalar = group.random_scalar(entropy)
    order, shuffled = await asyncio.to_thread(_shuffle, ids, entropy)
    blinded: list[asyncio.Future[Bytes]] = [
        asyncio.get_running_loop().create_future() for _ in _parts(n, CHUNK)
    ]

    async def blind() -> None:
        for ready, (start, stop) in zip(blinded, _parts(n, CHUNK), strict=True):
            ready.set_result(await asyncio.to_thread(_blind, shuffled[start:stop], context, scalar))
            report("blinding ids", stop, n)

    async def send(host: Peer) -> None:
        for ready in blinded:
            await host.send(BlindedIds((await ready).tobytes()))

    # 4. Unblind what comes back (3 is the host's).
    inverse = group.invert(scalar)
    evaluated = [np.empty((n, 2 * HALF), np.uint8) for _ in hosts]

    async def receive(host: Peer, own: Bytes) -> None:
        async for start, stop, points in _receive_rows(
            host, EvaluatedIds, lambda m: m.points, n, CHUNK, group.POINT
        ):
            try:
                own[start:stop] = await asyncio.to_thread(
                    _evaluate, points, inverse, shuffled[start:stop], context
                )
            except group.InvalidPoint:
                raise host.breach("EvaluatedIds with an invalid element") from None
            report(f"matching ids with {host.name}", stop, n)

    await together(
        [
            blind(),
            *(send(host) for host in hosts),
            *(receive(host, own) for host, own in zip(hosts, evaluated, strict=True)),
        ]
    )

    # 5. and 6. Look all ids up in all stores.
    async def look_up(host: Peer, size: int, own: Bytes) -> Bytes:
        store = np.empty((okvs.slots(size), okvs.VALUE), np.uint8)
        async for start, stop, part in _receive_rows(
            host, AlignStore, lambda m: m.slots, len(store), SLOTS, okvs.VALUE
        ):
            store[start:stop] = part
            report(f"receiving the store of {host.name}", stop, len(store))
        return await asyncio.to_thread(_shares_in, store, size, own, host.name, context)

    shares = await together(
        [look_up(host, key.ids, own) for host, key, own in zip(hosts, keys, evaluated, strict=True)]
    )
    common = np.flatnonzero(~np.bitwise_xor.reduce(shares).any(axis=1))
    if not len(common) and not allow_empty:
        raise DataError(
            "no id is common to all parties: check that the rule in the job fits how each party "
            "writes its ids (case, spaces, leading zeros, dates), and that they are the same ids",
            for_peer="no id is common to all parties",
        )
    if len(common):
        _check_minimum(len(common), minimum)

    # 7. One order for all.
    common = common[await asyncio.to_thread(_common_order, [own[common] for own in evaluated])]

    async def tell(host: Peer, own: Bytes) -> None:
        await host.send(CommonRows(len(common)))
        for start, stop in _parts(len(common), SLOTS):
            await host.send(CommonTags(_tags(own[common[start:stop]]).tobytes()))

    await together([tell(host, own) for host, own in zip(hosts, evaluated, strict=True)])
    rows: Rows = order[common]
    return rows


async def host_align(
    guest: Peer,
    ids: Sequence[bytes],
    *,
    context: bytes,
    name: str,
    hosts: Sequence[str] | None = None,
    minimum: int = 1,
    allow_empty: bool = False,
    max_ids: int = MAX_IDS,
    sign: Sign | None = None,
    verify: Verify | None = None,
    entropy: Entropy = secrets.token_bytes,
    progress: Progress | None = None,
) -> Rows:
    """A host's role: the numbers of its rows whose id all parties have, in the common order.

    name: this host's name in the job. hosts: the names of all hosts as the job has them; a guest
    that says otherwise breaks the protocol (None: take the guest's word). sign(data) signs this
    host's fresh key, verify(name, signature, data) checks another host's and raises; without them
    a guest that does not follow the protocol can learn pairwise intersections. The others as in
    `guest_align`.

    Returns int64 (common,). Raises PeerError for a guest that breaks the protocol, Refused for
    fewer common rows than `minimum`, PeerStopped, PeerLost; ValueError for ids not distinct.
    """
    await asyncio.to_thread(_check_own, ids, max_ids)
    n, report = len(ids), progress or _quiet

    # 1. Sizes, and a key with every other host.
    start = await guest.recv(AlignStart)
    _check_start(guest, start, name, hosts, max_ids)
    private = X25519PrivateKey.from_private_bytes(entropy(32))
    public = private.public_key().public_bytes_raw()
    signature = sign(signed(context, start.hosts, name, public)) if sign else b""
    await guest.send(AlignKey(n, public, signature))
    keys = await guest.recv(AlignKeys)
    try:
        pairwise = secrets_with_fellows(
            private, keys.public_keys, keys.signatures, start.hosts, name, context, verify
        )
    except ValueError as error:
        raise guest.breach(f"AlignKeys with {error}") from None

    # 3. Evaluate the guest's ids, and 4. its own ones while waiting for them.
    scalar = group.random_scalar(entropy)
    blinded = np.empty((start.ids, group.POINT), np.uint8)
    own = np.empty((n, 2 * HALF), np.uint8)

    async def serve() -> None:
        async for first, stop, points in _receive_rows(
            guest, BlindedIds, lambda m: m.points, start.ids, CHUNK, group.POINT
        ):
            blinded[first:stop] = points
            try:
                answer = await asyncio.to_thread(group.multiply, points, scalar)
            except group.InvalidPoint:
                raise guest.breach("BlindedIds with an invalid element") from None
            await guest.send(EvaluatedIds(answer.tobytes()))
            report(f"matching ids with {guest.name}", stop, start.ids)
        # A repeated element is a repeated id, or a try to test what this host does with it.
        if await asyncio.to_thread(_repeats, blinded):
            raise guest.breach("BlindedIds with an element twice")

    async def evaluate() -> None:
        for first, stop in _parts(n, CHUNK):
            own[first:stop] = await asyncio.to_thread(_evaluate_own, ids[first:stop], scalar, context)
            report("evaluating own ids", stop, n)

    await together([serve(), evaluate()])

    # 5. The store of masks and shares of zero.
    shares = np.zeros((n, HALF), np.uint8)
    for key in pairwise.values():
        for first, stop in _parts(n, SLOTS):
            shares[first:stop] ^= await asyncio.to_thread(_share, key, ids[first:stop])
    store = await asyncio.to_thread(
        okvs.encode, _tags(own), _masks(own) ^ shares, _store_seed(name, context), entropy
    )
    for first, stop in _parts(len(store), SLOTS):
        await guest.send(AlignStore(store[first:stop].tobytes()))

    # 7. The rows, in the common order.
    common = (await guest.recv(CommonRows)).rows
    if not 0 <= common <= min(n, start.ids):
        raise guest.breach("CommonRows with more rows than there are")
    if common or not allow_empty:
        _check_minimum(common, minimum)
    row_of_tag = await asyncio.to_thread(_row_of_tag, own)
    rows = np.empty(common, np.int64)
    async for first, stop, tags in _receive_rows(
        guest, CommonTags, lambda m: m.tags, common, SLOTS, HALF
    ):
        for i, tag in enumerate(tags, first):
            # pop: a tag that comes twice is unknown the second time
            row = row_of_tag.pop(tag.tobytes(), None)
            if row is None:
                raise guest.breach("CommonTags with a tag that is unknown or repeated")
            rows[i] = row
        report("receiving the common rows", stop, common)
    return rows


# Checks of what the other side says.


async def _receive_key(host: Peer, max_ids: int) -> AlignKey:
    key = await host.recv(AlignKey)
    if not 0 <= key.ids <= max_ids:
        raise host.breach(f"AlignKey with a number of ids that is not 0 to {max_ids:,}")
    if len(key.public_key) != 32 or len(key.signature) > 8 * KIB:
        raise host.breach("AlignKey with a key or signature of the wrong size")
    return key


def _check_start(
    guest: Peer, start: AlignStart, name: str, hosts: Sequence[str] | None, max_ids: int
) -> None:
    if not 0 <= start.ids <= max_ids:
        raise guest.breach(f"AlignStart with a number of ids that is not 0 to {max_ids:,}")
    if len(set(start.hosts)) < len(start.hosts) or len(start.hosts) > MAX_HOSTS:
        raise guest.breach(f"AlignStart with a host twice or more than {MAX_HOSTS} hosts")
    if name not in start.hosts or (hosts is not None and set(hosts) != set(start.hosts)):
        raise guest.breach("AlignStart with other hosts than this job has")


async def _receive_rows(
    peer: Peer, kind: type[M], content: Callable[[M], bytes], rows: int, chunk: int, width: int
) -> AsyncIterator[tuple[int, int, Bytes]]:
    """(first, end, rows as uint8 (m, width)) of each chunk, whose size must be the one due."""
    for start, stop in _parts(rows, chunk):
        data = content(await peer.recv(kind))
        if len(data) != (stop - start) * width:
            raise peer.breach(f"{kind.__name__} with another number of rows than announced")
        yield start, stop, np.frombuffer(data, np.uint8).reshape(-1, width)


def _check_own(ids: Sequence[bytes], max_ids: int) -> None:
    if len(ids) > max_ids:
        raise DataError(f"{len(ids):,} ids, more than the {max_ids:,} that an alignment takes")
    if len(set(ids)) < len(ids):
        raise ValueError("ids must be distinct: normalise them first")


def _check_minimum(rows: int, minimum: int) -> None:
    if rows < minimum:
        raise Refused(
            f"the intersection has {rows:,} rows, fewer than this party's minimum of {minimum:,}"
        )


# The functions that the parties share.


def _shuffle(ids: Sequence[bytes], entropy: Entropy) -> tuple[Rows, list[bytes]]:
    """A random order of the rows, and the ids in it."""
    # Of two equal numbers (once in 2^64 / n^2 runs) the first stays first, which tells nobody much.
    numbers = np.frombuffer(entropy(8 * len(ids)), np.uint64)
    order = np.argsort(numbers, kind="stable").astype(np.int64)
    return order, [ids[row] for row in order]


def _blind(ids: Sequence[bytes], context: bytes, scalar: bytes) -> Bytes:
    return group.multiply(group.hash_to_group(ids, context), scalar)


def _evaluate(points: Bytes, inverse: bytes, ids: Sequence[bytes], context: bytes) -> Bytes:
    """F(x), (n, 32), from the host's answers H(x)^(a b) and 1/a."""
    return _output(ids, group.multiply(points, inverse), context)


def _evaluate_own(ids: Sequence[bytes], scalar: bytes, context: bytes) -> Bytes:
    """F(y), (n, 32), by the host itself."""
    return _output(ids, group.multiply(group.hash_to_group(ids, context), scalar), context)


def _output(ids: Sequence[bytes], points: Bytes, context: bytes) -> Bytes:
    """F: Hash(context, H(x)^b, x). The element comes first, since its size is fixed."""
    prefix = keyed_hash(b"vfl psi output", context)
    encoded, out = points.tobytes(), bytearray()
    for i, one in enumerate(ids):
        digest = prefix.copy()
        digest.update(encoded[group.POINT * i : group.POINT * (i + 1)] + one)
        out += digest.digest()
    return np.frombuffer(out, np.uint8).reshape(-1, 2 * HALF)


def _tags(outputs: Bytes) -> Bytes:
    return outputs[:, :HALF]


def _masks(outputs: Bytes) -> Bytes:
    return outputs[:, HALF:]


def _row_of_tag(outputs: Bytes) -> dict[bytes, int]:
    encoded = _tags(outputs).tobytes()
    return {encoded[HALF * row : HALF * (row + 1)]: row for row in range(len(outputs))}


def _share(key: bytes, ids: Sequence[bytes]) -> Bytes:
    """PRF(k_jl, y), (n, 16). The key is of this context and this pair already."""
    prefix = hashlib.blake2b(key=key, digest_size=HALF, person=b"vfl psi share")
    out = bytearray()
    for one in ids:
        digest = prefix.copy()
        digest.update(one)
        out += digest.digest()
    return np.frombuffer(out, np.uint8).reshape(-1, HALF)


def _shares_in(store: Bytes, size: int, own: Bytes, host: str, context: bytes) -> Bytes:
    """What is left of a host's store at the guest's ids, (n, 16): shares of zero, or random."""
    values = okvs.decode(store, _tags(own), size, _store_seed(host, context))
    return values ^ _masks(own)


def _store_seed(host: str, context: bytes) -> bytes:
    # The store's keys are outputs of F, random to everybody beforehand: a public seed will do.
    return keyed_hash(b"vfl psi store", context, host.encode()).digest()


def _common_order(outputs: Sequence[Bytes]) -> Rows:
    """The rows of `outputs` (one (m, 32) a host) sorted by a hash of all that is in each row."""
    joined = np.concatenate(outputs, axis=1).tobytes()
    width = 2 * HALF * len(outputs)
    prefix = keyed_hash(b"vfl psi order")
    ranks = []
    for start in range(0, len(joined), width):
        digest = prefix.copy()
        digest.update(joined[start : start + width])
        ranks.append(digest.digest())
    return np.array(sorted(range(len(ranks)), key=ranks.__getitem__), np.int64)


def _repeats(rows: Bytes) -> bool:
    """Whether any two rows of 32 bytes are equal."""
    words = rows.view(np.uint64)
    sorted_words = words[np.lexsort(words.T)]
    return bool((sorted_words[1:] == sorted_words[:-1]).all(axis=1).any())


def _parts(rows: int, chunk: int) -> Iterator[tuple[int, int]]:
    for start in range(0, rows, chunk):
        yield start, min(start + chunk, rows)


def _quiet(what: str, done: int, total: int) -> None:
    pass
