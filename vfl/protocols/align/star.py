"""Steps 2 to 7 of an alignment (psi.py) by engines that take all ids at once, and with kept ones."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np

from vfl.arrays import Bytes, Integers
from vfl.crypto import okvs
from vfl.crypto.digests import digests
from vfl.net.peer import Peer, together
from vfl.net.wire import KIB, Message
from vfl.protocols.align import dh_oprf
from vfl.protocols.align.answered import Answers, AskedBefore, KeptAnswers
from vfl.protocols.align.kept import Asked, KeptStores, Prepared, common_in, digest_of
from vfl.protocols.align.oprf import (
    GuestOutputs,
    HostOutputs,
    OprfRun,
    empty,
    parts,
    receive_rows,
)
from vfl.protocols.align.tags import TagRows
from vfl.protocols.common.fellows import keyed_hash

SLOTS = 32768  # slots of a store, or tags, a message
HALF = 16  # bytes of a tag, a mask, a share of zero


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


class GuestStar:
    def __init__(
        self, hosts: Sequence[Peer], sizes: Sequence[int], run: OprfRun, function: GuestOutputs
    ) -> None:
        self._hosts, self._sizes, self._run, self._function = hosts, sizes, run, function

    async def find(self, ids: Sequence[bytes]) -> Integers:
        # 2. to 4. The hosts' functions at the guest's ids.
        outputs = await self._function(self._hosts, ids, self._run)

        # 5. and 6. Look all ids up in all stores.
        each = zip(self._hosts, self._sizes, outputs, strict=True)
        shares = await together([self._look_up(*one) for one in each])
        common = await asyncio.to_thread(_common, shares)

        # 7. One order for all.
        common = await asyncio.to_thread(_in_common_order, common, outputs)
        self._common, self._outputs = common, outputs
        return common

    async def _look_up(self, host: Peer, size: int, own: Bytes) -> Bytes:
        run = self._run
        store = await _receive_store(host, size, run)
        return await asyncio.to_thread(_shares_in, store, size, own, host.name, run.context)

    async def tell(self) -> None:
        common = self._common

        async def tell(host: Peer, own: Bytes) -> None:
            await host.send(CommonRows(len(common)))
            for start, stop in parts(len(common), SLOTS):
                await host.send(CommonTags(_tags(own[common[start:stop]]).tobytes()))

        await together([tell(*each) for each in zip(self._hosts, self._outputs, strict=True)])


class GuestOfKept(GuestStar):
    """With a host that keeps its evaluated ids (`kept.py`), of whose answers this guest may keep some
    (`answered.py`)."""

    def __init__(
        self, host: Peer, stores: KeptStores, run: OprfRun, before: AskedBefore | None, kept: KeptAnswers
    ) -> None:
        """before: what is kept of answers to the run's ids, if any. kept: where, if anywhere."""
        run = replace(run, context=stores.context)
        super().__init__([host], [sum(stores.sizes)], run, dh_oprf.guest_outputs)
        self._stores, self._before, self._kept = stores, before, kept

    async def find(self, ids: Sequence[bytes]) -> Integers:
        run, (host,) = self._run, self._hosts
        outputs = [await self._answers(host, ids)]
        found = np.zeros(len(ids), np.bool_)
        for digest, size in zip(self._stores.digests, self._stores.sizes, strict=True):
            store = self._stores.known.get(digest)
            if store is None:
                store = await self._receive(host, digest, size)
            found |= await asyncio.to_thread(common_in, store, size, outputs[0], run.context)
        common = await asyncio.to_thread(_in_common_order, np.flatnonzero(found), outputs)
        self._common, self._outputs = common, outputs
        return common

    async def _answers(self, host: Peer, ids: Sequence[bytes]) -> Bytes:
        """2. to 4. F of all ids (n, 32): by what is kept, and what the host gives of the others."""
        run, before = self._run, self._before
        if before is None or before.answers.context != run.context:
            (outputs,) = await self._function([host], ids, run)
            answers = Answers.none(run.context, run.randomness.at("key of kept answers"))
        else:
            asked = before.asked(ids, run.randomness.at("ids beside new ones"))
            (given,) = await self._function([host], asked, run)
            outputs, answers = before.outputs(given), before.answers
        await asyncio.to_thread(self._kept.save, answers, ids, outputs)
        return outputs

    async def _receive(self, host: Peer, digest: bytes, size: int) -> Bytes:
        store = await _receive_store(host, size, self._run)
        if await asyncio.to_thread(digest_of, store) != digest:
            raise host.breach("AlignStore of another digest than announced")
        if self._stores.keeps is not None:
            await asyncio.to_thread(self._stores.keeps.save, digest, store)
        return store


class HostStar:
    def __init__(
        self,
        guest: Peer,
        name: str,
        pairwise: Sequence[bytes],
        run: OprfRun,
        function: HostOutputs,
    ) -> None:
        self._guest, self._name, self._pairwise = guest, name, pairwise
        self._run, self._function = run, function

    async def serve(self, ids: Sequence[bytes], theirs: int) -> int:
        guest, run, n = self._guest, self._run, len(ids)
        # 2. to 4. This host's function at the guest's ids and its own.
        own = self._own = await self._function(guest, ids, theirs, self._name, run)

        # 5. The store of masks and shares of zero.
        shares = np.zeros((n, HALF), np.uint8)
        for key in self._pairwise:
            for first, stop in parts(n, SLOTS):
                shares[first:stop] ^= await asyncio.to_thread(_share, key, ids[first:stop])
        seed = _store_seed(self._name, run.context)
        drawn = run.randomness.at("store of own ids")
        store = await asyncio.to_thread(okvs.encode, _tags(own), _masks(own) ^ shares, seed, drawn)
        await _send_store(guest, store)
        return await self._receive_count(n, theirs)

    async def _receive_count(self, own: int, theirs: int) -> int:
        """7. How many are common, of so many ids on either side."""
        guest = self._guest
        self._common = (await guest.recv(CommonRows)).rows
        if not 0 <= self._common <= min(own, theirs):
            raise guest.breach("CommonRows with more rows than there are")
        return self._common

    async def rows(self) -> Integers:
        guest, common = self._guest, self._common
        row_of_tag = await asyncio.to_thread(TagRows, _tags(self._own))
        rows, taken = np.empty(common, np.int64), np.zeros(len(self._own), np.bool_)
        async for first, stop, tags in receive_rows(
            guest, CommonTags, lambda m: m.tags, common, SLOTS, HALF
        ):
            some = row_of_tag.rows(tags)
            known = some[some >= 0]
            if len(known) < len(some) or taken[known].any() or len(np.unique(known)) < len(known):
                raise guest.breach("CommonTags with a tag that is unknown or repeated")
            taken[known] = True
            rows[first:stop] = some
            self._run.report("receiving the common rows", stop, common)
        return rows


class HostOfKept(HostStar):
    """A host that keeps its evaluated ids; `known`: the stores that the guest says it has."""

    def __init__(
        self, guest: Peer, prepared: Prepared, known: Sequence[bytes], asked: Asked, run: OprfRun
    ) -> None:
        super().__init__(guest, "", (), run, dh_oprf.host_outputs)
        self._prepared, self._known, self._own = prepared, known, prepared.tags
        self._asked = asked

    async def serve(self, ids: Sequence[bytes], theirs: int) -> int:
        guest, kept = self._guest, self._prepared.kept
        if not {*self._known} <= {*kept.digests} or len(self._known) > len(kept.stores):
            raise guest.breach("AlignKeys with stores that this party does not have")
        new = self._asked.under(kept.context)
        await dh_oprf.answer_ids(guest, new, kept.scalar, replace(self._run, context=kept.context))
        for digest, store in zip(kept.digests, kept.stores, strict=True):
            if digest not in self._known:
                await _send_store(guest, store)
        return await self._receive_count(len(ids), theirs)


async def _send_store(guest: Peer, store: Bytes) -> None:
    for first, stop in parts(len(store), SLOTS):
        await guest.send(AlignStore(store[first:stop].tobytes()))


async def _receive_store(host: Peer, size: int, run: OprfRun) -> Bytes:
    """A host's store of so many ids. Raises PeerError for one of another size."""
    store = empty(okvs.slots(size), okvs.VALUE, run.scratch)
    async for start, stop, part in receive_rows(
        host, AlignStore, lambda m: m.slots, len(store), SLOTS, okvs.VALUE
    ):
        store[start:stop] = part
        run.report(f"receiving the store of {host.name}", stop, len(store))
    return store


# The functions that the parties share.


def _tags(outputs: Bytes) -> Bytes:
    return outputs[:, :HALF]


def _masks(outputs: Bytes) -> Bytes:
    return outputs[:, HALF:]


def _share(key: bytes, ids: Sequence[bytes]) -> Bytes:
    """PRF(k_jl, y), (n, 16). The key is of this context and this pair already."""
    return digests(ids, domain=b"vfl psi share", key=key, size=HALF)


def _shares_in(store: Bytes, size: int, own: Bytes, host: str, context: bytes) -> Bytes:
    """What is left of a host's store at the guest's ids, (n, 16): shares of zero, or random."""
    values = okvs.decode(store, _tags(own), size, _store_seed(host, context))
    return values ^ _masks(own)


def _store_seed(host: str, context: bytes) -> bytes:
    # The store's keys are outputs of F, random to everybody beforehand: a public seed will do.
    return keyed_hash(b"vfl psi store", context, host.encode()).digest()


def _common(shares: Sequence[Bytes]) -> Integers:
    """The rows where the shares of all hosts cancel."""
    left = np.bitwise_xor.reduce(shares).view(np.uint64)
    return np.flatnonzero((left[:, 0] | left[:, 1]) == 0)


def _in_common_order(common: Integers, outputs: Sequence[Bytes]) -> Integers:
    """The common rows sorted by a hash of all that the hosts' functions give there."""
    joined = np.concatenate([own[common] for own in outputs], axis=1)
    ranks = digests(rows=joined, domain=b"vfl psi order", size=8)
    ordered: Integers = common[np.argsort(ranks.view(np.uint64)[:, 0])]
    return ordered
