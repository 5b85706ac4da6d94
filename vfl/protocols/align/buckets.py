"""Steps 2 to 7 of an alignment by buckets: for the engine `vole`, and any number of ids.

All parties hash each id to a bucket, and what psi.py says of all ids is done bucket by bucket, a chunk
of buckets at a time: only ids of the same bucket can be the same. So the stores of a bucket fit a
processor's cache, and nobody holds more in memory than its ids' digests (in files, if there is a
folder for them) and a chunk.

  1. There is one bucket for each 65,536 ids of the guest, begun or whole. A store of a bucket has room
     for so many ids that some bucket of a party has more with 2^-64 only; how many it has shows
     nowhere, since a store's size and looks are those of its room. A host with many more ids than the
     guest cuts each bucket into parts of its own, of 262,144 ids or fewer, by further bits of the hash.
  2. to 4. As in vole_oprf.py: the guest's stores of a chunk are its slots.
  5. Host j sends the stores of its ids of the chunk, one a part, tag_j(y) -> mask_j(y) + s_j(y), of 9
     bytes a slot: the XOR of what an id gives is zero by chance with 2^-72.
  6. As in psi.py, bucket by bucket.
  7. The common order is that of the buckets, and within each the one of psi.py. The guest says how many
     common ids each bucket has and sends their tags, 10 bytes each.

Ids are known by digests of 32 bytes under a key of the run, which all parties compute.
"""

import asyncio
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Bytes, Integers
from vfl.blocks.scratch import StoredRows
from vfl.crypto import okvs
from vfl.crypto.digests import digests
from vfl.crypto.randomness import SECRET, Entropy, Stream
from vfl.net.peer import Peer, together
from vfl.net.wire import KIB, MIB, Message
from vfl.protocols.align.oprf import OUTPUT, OprfRun, empty, parts, receive_rows, stored
from vfl.protocols.align.tags import TagRows
from vfl.protocols.align.vole_oprf import CHUNK, GuestVole, HostVole
from vfl.protocols.common.fellows import keyed_hash

MAX_IDS = 2_000_000_000
BUCKET = 65536  # ids of the guest, about
STORE = 1 << 18  # ids of a host that a store of its own is for, about: 30 MB while it is made
SLOTS = 32768  # slots of a store, or tags, a message
SLICE = 32768  # ids that are hashed at a time
AT_ONCE = 1 << 18  # ids that are put into buckets at a time, at least; they fit a processor's cache
MOST_AT_ONCE = 1 << 22
PER_BUCKET = 1024  # of them for each bucket, that it takes few writes
SHARE = 9  # bytes of a slot of a host's store
TAG = 10
PER_MILLE = 1270  # slots of a store for a thousand ids
_DIGEST = 32
_NUMBER = 4  # bytes of a row's number
_HALF = 16
_REPEATED = "ids must be distinct: normalise them first"


class BucketStores(Message, frozen=True):
    """host -> guest, slots of a store. Reveals: with those of all hosts, the intersection of all.

    Those of some hosts, or of one of several, look random to the guest.
    """

    limit: ClassVar[int] = SLOTS * SHARE + KIB
    slots: bytes


class BucketCounts(Message, frozen=True):
    """guest -> host. Reveals: how many ids of each bucket all parties have in common."""

    limit: ClassVar[int] = MIB
    counts: bytes


class BucketTags(Message, frozen=True):
    """guest -> host, member tags in the common order. Reveals: which of the host's rows are common.

    Tags of any other id would mean nothing to the host.
    """

    limit: ClassVar[int] = SLOTS * TAG + KIB
    tags: bytes
    per_row = ("tags", 8 * TAG)


@dataclass(frozen=True)
class Buckets:
    """How the ids of a run are cut."""

    count: int
    guest_room: int
    """Ids that a bucket of the guest has at most."""

    @staticmethod
    def of(guest_ids: int) -> "Buckets":
        """As all parties compute it from the guest's number of ids."""
        count = max(1, -(-guest_ids // BUCKET))
        return Buckets(count, room(guest_ids, count))

    def parts_of(self, host_ids: int) -> int:
        """Into how many parts a host of so many ids cuts a bucket: as it and the guest compute it."""
        return max(1, -(-host_ids // (self.count * STORE)))

    @property
    def slots(self) -> int:
        """Slots of a store of the guest."""
        return okvs.slots(self.guest_room, PER_MILLE)

    def chunks(self) -> Iterator[range]:
        """Buckets that are worked through together."""
        for start, stop in parts(self.count, max(1, CHUNK // self.slots)):
            yield range(start, stop)


def room(ids: int, buckets: int) -> int:
    """How many of so many ids fall into a bucket at most, but with 2^-64 over all buckets.

    Bernstein's bound for the number above the mean m: t with t^2 = 2 (m + t / 3) l, e^-l = 2^-64 /
    buckets. Whole numbers throughout, so that all parties come to the same.
    """
    if buckets == 1:
        return ids
    mean, log = -(-ids // buckets), (64 + buckets.bit_length()) * 7 // 10 + 1
    return min(ids, mean + log // 3 + 2 + math.isqrt(log * log // 9 + 2 * log * mean))


class _Sorted:
    """A party's ids as digests, bucket by bucket, each with room for as many as may fall there."""

    def __init__(self, ids: Sequence[bytes], buckets: int, run: OprfRun) -> None:
        """Raises ValueError for ids that are not distinct."""
        key = keyed_hash(b"vfl bucket run", run.context).digest()
        self.room = room(len(ids), buckets)
        self._digests = stored(buckets * self.room, _DIGEST, run.scratch)
        self._rows = stored(buckets * self.room, _NUMBER, run.scratch)
        self.counts = np.zeros(buckets, np.int64)
        at_once = min(max(AT_ONCE, PER_BUCKET * buckets), MOST_AT_ONCE)
        # Memory that is new costs as much as what is done.
        some, ordered = (np.empty((min(at_once, len(ids)), _DIGEST), np.uint8) for _ in range(2))
        for start, stop in parts(len(ids), at_once):
            for first, end in parts(stop - start, SLICE):
                piece = ids[start + first : start + end]
                some[first:end] = digests(piece, domain=b"vfl bucket id", key=key)
            self._put(some[: stop - start], ordered[: stop - start], start)
            run.report("sorting own ids", stop, len(ids))
        self.before: list[int] = [0, *np.cumsum(self.counts).tolist()]
        """The ids of all earlier buckets, by bucket; at the end all."""

    def _put(self, some: Bytes, ordered: Bytes, start: int) -> None:
        """Put digests, and their rows, behind those of their buckets; `ordered` is for as many."""
        buckets = len(self.counts)
        bucket = _bucket_of(some, buckets)
        order = np.argsort(bucket, kind="stable")
        np.take(some, order, axis=0, out=ordered, mode="clip")
        rows = (start + order).astype("<u4").view(np.uint8).reshape(-1, _NUMBER)
        new = np.bincount(bucket, minlength=buckets)
        if (self.counts + new).max() > self.room:
            raise ValueError(_REPEATED)  # or what happens with 2^-64
        ends = np.cumsum(new)
        for one in np.flatnonzero(new).tolist():
            end, count, at = int(ends[one]), int(new[one]), one * self.room + int(self.counts[one])
            self._digests.write(at, ordered[end - count : end])
            self._rows.write(at, rows[end - count : end])
        self.counts += new

    def of(self, bucket: int) -> Bytes:
        """The digests of a bucket."""
        return self._digests.read(*self._held(bucket))

    def rows(self, bucket: int) -> NDArray[np.uint32]:
        """The rows whose ids are in a bucket, in the order of `of`."""
        return self._rows.read(*self._held(bucket)).view("<u4")[:, 0]

    def _held(self, bucket: int) -> tuple[int, int]:
        first = bucket * self.room
        return first, first + int(self.counts[bucket])


def _bucket_of(ids: Bytes, buckets: int) -> NDArray[np.uint16]:
    """Which of so many buckets the first 32 bits of digests name; with k times as many, the k parts of a
    bucket are those from k times its number on."""
    first = ids.view(np.uint64)[:, 0] & np.uint64(0xFFFFFFFF)
    return (first * np.uint64(buckets) >> np.uint64(32)).astype(np.uint16)


class GuestBuckets:
    """The guest's steps 2 to 7."""

    def __init__(self, hosts: Sequence[Peer], sizes: Sequence[int], run: OprfRun) -> None:
        """sizes: each host's number of ids."""
        self._hosts, self._sizes, self._run = hosts, sizes, run

    async def find(self, ids: Sequence[bytes]) -> Integers:
        """2. to 6. The rows whose id all parties have, in the common order: int64 (common,).

        Raises PeerError for a host that breaks the protocol, ValueError for ids that are not distinct.
        """
        run, cut = self._run, Buckets.of(len(ids))
        own = await asyncio.to_thread(_Sorted, ids, cut.count, run)
        ends = [
            _GuestEnd(host, size, cut, run) for host, size in zip(self._hosts, self._sizes, strict=True)
        ]
        vole = GuestVole(self._hosts, run)
        await vole.begin()
        stores, drawn = _orderedfor_chunk(cut), _drawn_for_stores(run)
        found: list[NDArray[np.uint32]] = []
        self._tags = [stored(len(ids), TAG, run.scratch) for _ in ends]
        self._common = 0
        for chunk in cut.chunks():
            slots = stores[: cut.slots * len(chunk)]
            filled = asyncio.to_thread(_fill_stores, slots, own, chunk, cut, run.context, drawn)
            await together([filled, vole.prepare(len(slots))])
            tables, keys = zip(*await vole.evaluate(slots), strict=True)
            for number, bucket in enumerate(chunk):
                part = slice(number * cut.slots, (number + 1) * cut.slots)
                at, of_all = await asyncio.to_thread(own.of, bucket), [table[part] for table in tables]
                values = await asyncio.to_thread(_values, of_all, at, cut, run.context)
                each = zip(ends, values, keys, strict=True)
                given = await together([end.look_up(bucket, at, *one) for end, *one in each])
                found.append(await asyncio.to_thread(self._keep, own.rows(bucket), given))
            for host in self._hosts:
                run.report(f"matching ids with {host.name}", own.before[chunk.stop], len(ids))
        self._counts = np.array([len(rows) for rows in found], "<u4")
        common = np.empty(self._common, np.int64)
        return np.concatenate(found, out=common)

    def _keep(self, rows: NDArray[np.uint32], given: "Sequence[_Given]") -> NDArray[np.uint32]:
        """The common rows of a bucket; their tags are kept behind those of the buckets before."""
        one = _common(rows, given)
        for kept, tags in zip(self._tags, one.tags, strict=True):
            kept.write(self._common, tags)
        self._common += len(one.rows)
        return one.rows

    async def tell(self) -> None:
        """7. Tell each host which of its rows are common."""

        async def tell(host: Peer, tags: StoredRows) -> None:
            await host.send(BucketCounts(self._counts.tobytes()))
            for start, stop in parts(self._common, SLOTS):
                await host.send(BucketTags(tags.read(start, stop).tobytes()))

        await together([tell(*each) for each in zip(self._hosts, self._tags, strict=True)])


@dataclass(frozen=True)
class _Given:
    """What a host's store gave at the guest's ids of a bucket: shares (n, 16), of which the first 9
    bytes count, and F there (n, 32)."""

    shares: Bytes
    outputs: Bytes


class _GuestEnd:
    """The guest's steps with one host."""

    def __init__(self, host: Peer, size: int, cut: Buckets, run: OprfRun) -> None:
        """size: the host's number of ids."""
        self._host, self._cut = host, cut
        self._parts = cut.parts_of(size)
        self._room = room(size, cut.count * self._parts)
        self._of_host = _seed_of_host(run.context, host.name)
        # A store of the host's, which may have many more ids a bucket; of a slot only the first bytes
        # are ever filled, and count.
        self._held = empty(okvs.slots(self._room, PER_MILLE), okvs.VALUE, run.scratch)

    async def look_up(self, bucket: int, ids: Bytes, values: Bytes, key: bytes) -> _Given:
        """4. to 6. of a bucket and the guest's ids there, from c at each of them (n, 16) and the key of
        the hash."""
        outputs = await asyncio.to_thread(_function, ids, values, key)
        if self._parts == 1:
            await self._receive()
            return _Given(await asyncio.to_thread(self._shares, outputs), outputs)
        part_of = _bucket_of(ids, self._cut.count * self._parts)
        shares = np.empty((len(ids), okvs.VALUE), np.uint8)
        for part in range(bucket * self._parts, (bucket + 1) * self._parts):
            await self._receive()
            at = np.flatnonzero(part_of == part)
            shares[at] = await asyncio.to_thread(self._shares, outputs[at])
        return _Given(shares, outputs)

    async def _receive(self) -> None:
        """5. The next store of the host."""
        async for start, stop, part in receive_rows(
            self._host, BucketStores, lambda m: m.slots, len(self._held), SLOTS, SHARE
        ):
            self._held[start:stop, :SHARE] = part

    def _shares(self, outputs: Bytes) -> Bytes:
        keys = outputs[:, :_HALF]
        shares = okvs.decode(self._held, keys, self._room, self._of_host, PER_MILLE)
        shares ^= outputs[:, _HALF:]
        shares[:, SHARE:] = 0
        return shares


class HostBuckets:
    """A host's steps 2 to 7. `name`: its own; `pairwise`: its keys with the other hosts."""

    def __init__(self, guest: Peer, name: str, pairwise: Sequence[bytes], run: OprfRun) -> None:
        self._guest, self._name, self._pairwise, self._run = guest, name, pairwise, run

    async def serve(self, ids: Sequence[bytes], theirs: int) -> int:
        """2. to 7. How many of its ids all parties have, as the guest says, which has `theirs`.

        Raises PeerError for a guest that breaks the protocol, ValueError for ids that are not distinct.
        """
        guest, run, cut = self._guest, self._run, Buckets.of(theirs)
        self._parts = cut.parts_of(len(ids))
        own = self._own = await asyncio.to_thread(_Sorted, ids, cut.count * self._parts, run)
        self._tags = stored(len(own.counts) * own.room, TAG, run.scratch)
        vole = HostVole(guest, self._name, run)
        await vole.begin()
        self._drawn = _drawn_for_stores(run)
        for chunk in cut.chunks():
            values, key = await vole.serve(cut.slots * len(chunk))
            for number, bucket in enumerate(chunk):
                table = values[number * cut.slots : (number + 1) * cut.slots]
                for part in self._parts_of(bucket):
                    store = await asyncio.to_thread(self._store_of, part, vole, table, key, cut)
                    for start, stop in parts(len(store), SLOTS):
                        await guest.send(BucketStores(store[start:stop, :SHARE].tobytes()))
                    run.report(f"matching ids with {guest.name}", own.before[part + 1], len(ids))
        counts = (await guest.recv(BucketCounts)).counts
        if len(counts) != 4 * cut.count:
            raise guest.breach("BucketCounts with another number of buckets")
        self._counts = np.frombuffer(counts, "<u4").astype(np.int64)
        of_bucket = own.counts.reshape(cut.count, self._parts).sum(axis=1)
        if (self._counts > np.minimum(of_bucket, cut.guest_room)).any():
            raise guest.breach("BucketCounts with more rows than there are")
        total = int(self._counts.sum())
        if total > theirs:
            raise guest.breach("BucketCounts with more rows than there are")
        return total

    def _parts_of(self, bucket: int) -> range:
        return range(bucket * self._parts, (bucket + 1) * self._parts)

    def _store_of(self, part: int, vole: HostVole, table: Bytes, key: bytes, cut: Buckets) -> Bytes:
        """4. and 5. of a part of a bucket, from k of the guest's store of the bucket."""
        own, context, ids = self._own, self._run.context, self._own.of(part)
        (values,) = _values([table], ids, cut, context)
        vole.add_secret_times(ids[:, _HALF:], values)
        outputs = _function(ids, values, key)
        self._tags.write(part * own.room, outputs[:, :TAG])
        targets = outputs[:, _HALF:]
        for pair in self._pairwise:
            targets = targets ^ digests(rows=ids, domain=b"vfl psi share", key=pair, size=_HALF)
        seed = _seed_of_host(context, self._name)
        return _store(outputs, targets, seed, self._drawn, own.room)

    async def rows(self) -> Integers:
        """7. The rows that are common, in the common order. Raises PeerError for tags that are none."""
        guest, total = self._guest, int(self._counts.sum())
        tags = stored(total, TAG, self._run.scratch)
        async for start, stop, part in receive_rows(
            guest, BucketTags, lambda m: m.tags, total, SLOTS, TAG
        ):
            tags.write(start, part)
            self._run.report("receiving the common rows", stop, total)
        rows = await asyncio.to_thread(self._rows_of, tags)
        if rows is None:
            raise guest.breach("BucketTags with a tag that is unknown or repeated")
        return rows

    def _rows_of(self, tags: StoredRows) -> Integers | None:
        """The rows of tags; None where one is unknown, or comes twice."""
        own, rows, done = self._own, np.full(int(self._counts.sum()), -1, np.int64), 0
        for bucket, count in enumerate(self._counts.tolist()):
            if not count:
                continue
            # What the guest says of a bucket is in memory, a host's own ids part by part.
            place_of = TagRows(_widened(tags.read(done, done + count)))
            for part in self._parts_of(bucket):
                first = part * own.room
                held = self._tags.read(first, first + int(own.counts[part]))
                at = place_of.rows(_widened(held))
                here = at >= 0
                rows[done + at[here]] = own.rows(part)[here]
            done += count
        # A tag that comes twice is found at its first place alone.
        return None if (rows < 0).any() else rows


def _orderedfor_chunk(cut: Buckets) -> Bytes:
    """For the guest's stores of a chunk, one below the other."""
    return np.empty((cut.slots * max(map(len, cut.chunks())), okvs.VALUE), np.uint8)


def _fill_stores(
    stores: Bytes, own: _Sorted, chunk: range, cut: Buckets, context: bytes, entropy: Entropy
) -> None:
    seed = _seed_of_guest(context)
    for number, bucket in enumerate(chunk):
        ids = own.of(bucket)
        store = _store(ids, ids[:, _HALF:], seed, entropy, cut.guest_room)
        stores[number * cut.slots : (number + 1) * cut.slots] = store


def _store(rows: Bytes, values: Bytes, seed: bytes, entropy: Entropy, size: int) -> Bytes:
    """A store of the first halves of rows, which are made of ids that must be distinct."""
    try:
        return okvs.encode(rows[:, :_HALF], values, seed, entropy, size, PER_MILLE)
    except okvs.Unsolvable:
        raise ValueError(_REPEATED) from None


@dataclass(frozen=True)
class _Common:
    """A bucket's common ids in the common order: the rows, and each host's tags."""

    rows: NDArray[np.uint32]
    tags: list[Bytes]


def _common(rows: NDArray[np.uint32], given: Sequence[_Given]) -> _Common:
    """The rows of a bucket at which the shares of all hosts cancel."""
    left = given[0].shares.view(np.uint64)
    for one in given[1:]:
        left ^= one.shares.view(np.uint64)
    at = np.flatnonzero((left[:, 0] | left[:, 1]) == 0)
    outputs = [one.outputs[at] for one in given]
    ranks = digests(rows=np.concatenate(outputs, axis=1), domain=b"vfl psi order", size=8)
    order = np.argsort(ranks.view("<u8")[:, 0])
    return _Common(rows[at[order]], [some[order, :TAG] for some in outputs])


def _values(tables: Sequence[Bytes], ids: Bytes, cut: Buckets, context: bytes) -> list[Bytes]:
    """<v(x), each> (n, 16) of ids as digests, of tables like the guest's store of a bucket."""
    seed = _seed_of_guest(context)
    return okvs.decode_all(tables, ids[:, :_HALF], cut.guest_room, seed, PER_MILLE)


def _function(ids: Bytes, values: Bytes, key: bytes) -> Bytes:
    """F of ids as digests, from their values: (n, 32)."""
    rows = np.concatenate([ids, values], axis=1)
    return digests(rows=rows, domain=b"vfl vole output", key=key, size=OUTPUT)


def _widened(tags: Bytes) -> Bytes:
    wide = np.zeros((len(tags), _HALF), np.uint8)
    wide[:, :TAG] = tags
    return wide


def _seed_of_guest(context: bytes) -> bytes:
    return keyed_hash(b"vfl vole store", context).digest()


def _seed_of_host(context: bytes, host: str) -> bytes:
    # The store's keys are outputs of F, random to everybody beforehand: a public seed will do.
    return keyed_hash(b"vfl psi store", context, host.encode()).digest()


def _drawn_for_stores(run: OprfRun) -> Stream:
    """What stores are filled up with, bucket by bucket: much, which AES makes faster than the system."""
    return Stream(run.randomness.at("stores of buckets")(SECRET))
