"""Evaluated ids that a host keeps from one alignment to the next: cost by the guest's side alone.

By the engine `ecdh`, with one host alone, and where this host's owner allows it. The host has one scalar
b and one context for many runs with a guest, and F(y) of its own ids is computed once:

  1. The host says in AlignKey under which context it answers, and the digests of its stores: one of the
     ids that it had at first, and one for each time that ids came to be in its table. The guest says in
     AlignKeys which of them it has already, and in AlignStart which answers (`answered.py`).
  2. to 4. As in `dh_oprf.py`, under that context: the guest draws its scalar anew each time.
  5. The host sends the stores that the guest lacks, tag(y) -> mask(y); there are no shares of zero with
     one host. The guest keeps them: without F at an id they look random.
  6. and 7. As in `psi.py`; an id is common if some store has it.

A replay of a run needs what was kept before it: context, scalar and stores, which were drawn in the run
that began the key and those after it, with their random numbers. From these and the ids of the table
follows the rest (`KeyAlone`). What the run itself adds comes from its own.

An id that is gone from the table ends the key, for the guest's stores would still have it. So do its age
and the number of ids that were asked about under it (whoever keeps it says when).

What a guest learns more than by a key a run: it has F of all ids that it asked about since the key was
drawn. So it also learns of these, without asking again, when they come to be in the host's table; and
that a store is the same as before says that nothing was added. The limit on ids asked about under a key
bounds the first. A key that answers q questions is by a factor of the root of q at most easier to find
than one that answers few (Cheon, EUROCRYPT 2006, who needs more of an oracle than there is here): with
2^30 questions 113 bits are left of 128.
"""

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import numpy as np

from vfl.arrays import Bytes, Integers, Mask
from vfl.blocks.cores import Begun
from vfl.blocks.engine import ENGINE
from vfl.blocks.texts import Packed, join, text_sizes
from vfl.crypto import group, okvs
from vfl.crypto.digests import digests
from vfl.crypto.randomness import Entropy
from vfl.net.peer import Peer
from vfl.protocols.align.answered import places_in
from vfl.protocols.align.dh_oprf import evaluate_ids
from vfl.protocols.align.oprf import OprfRun, parts
from vfl.protocols.common.fellows import keyed_hash

CONTEXT = 32  # bytes
DIGEST = 32
MOST = 64  # stores of a key
_HALF = 16
_AT_ONCE = 65536  # ids that are hashed at a time


@dataclass(frozen=True)
class KeptIds:
    """A key, and what the host's ids are under it: `hashes` (n, 16) by which they are found again, and
    `tags` (n, 16), in the order of the table; the stores of them in the order in which they came, and
    how many ids each has. table: a digest of all ids in their order, by which a table that is as it was
    is known at once."""

    context: bytes
    scalar: bytes
    hashes: Bytes
    tags: Bytes
    stores: tuple[Bytes, ...] = ()
    sizes: tuple[int, ...] = ()
    table: bytes = b""

    @classmethod
    def new(cls, entropy: Entropy) -> "KeptIds":
        """A new key, and nothing under it."""
        none = np.empty((0, _HALF), np.uint8)
        return cls(entropy(CONTEXT), group.random_scalar(entropy), none, none)

    @cached_property
    def digests(self) -> list[bytes]:
        """Of the stores."""
        return [digest_of(store) for store in self.stores]


def digest_of(store: Bytes) -> bytes:
    """By which the guest knows a store that it has."""
    return hashlib.sha256(np.ascontiguousarray(store).data).digest()


@dataclass(frozen=True)
class Asked:
    """What a guest asks about in a run: so many ids, or only `new` of them under the context under which
    it has answers to the others."""

    ids: int
    context: bytes = b""
    new: int = 0

    def under(self, context: bytes) -> int:
        """How many ids are evaluated under a context."""
        return self.new if self.context and context == self.context else self.ids


@dataclass(frozen=True)
class KeyAlone:
    """What of `KeptIds` says all of it, with the ids of the host's table: for a replay."""

    context: bytes
    scalar: bytes
    stores: tuple[Bytes, ...]
    sizes: tuple[int, ...]


class HostKeeps(Protocol):
    """Where a host keeps what it has for a guest."""

    def load(self, asked: Asked) -> KeptIds | KeyAlone | None:
        """What it has, None where there is nothing, or where its key is too old or with these ids more
        would have been asked too often."""

    def save(self, kept: KeptIds, asked: Asked) -> bool:
        """Keep it, before these ids are answered; False, and nothing is kept, where since it was
        loaded another job has a new key, or has asked for what was left of this one."""


class GuestKeeps(Protocol):
    """Where a guest keeps stores of a host."""

    def known(self, stores: Sequence[bytes]) -> list[bytes]:
        """Those of these digests that it has; others of the host are forgotten."""

    def load(self, store: bytes) -> Bytes | None:
        """The store of a digest, None where it cannot be read any more."""

    def save(self, store: bytes, slots: Bytes) -> None: ...


@dataclass(frozen=True)
class Prepared:
    """A host's ids under a kept key: the tag of each row's."""

    kept: KeptIds

    @property
    def tags(self) -> Bytes:
        """Of each row, (n, 16)."""
        return self.kept.tags


def prepare(keeps: HostKeeps, ids: Sequence[bytes], asked: Asked, run: OprfRun) -> Prepared:
    """What is kept, brought to the ids of the table as it is now: new ones are evaluated, and all of
    them under a new key where some are gone."""
    kept = keeps.load(asked)
    if isinstance(kept, KeyAlone):
        kept = _found_again(kept, ids, run)
    if kept is None or kept.table != _digest_of_table(ids, kept.scalar):
        kept = _brought_up(kept, ids, run)
    if not keeps.save(kept, asked):
        return prepare(keeps, ids, asked, run)
    return Prepared(kept)


def _found_again(key: KeyAlone, ids: Sequence[bytes], run: OprfRun) -> KeptIds:
    """What was kept, by the ids of the table as it is now: those that its stores have. Where some are
    gone, as many hashes of nothing stand for them."""
    outputs = _evaluated(len(ids), lambda some: ids[some], key.context, key.scalar, run)
    had = np.zeros(len(ids), np.bool_)
    for store, size in zip(key.stores, key.sizes, strict=True):
        had |= common_in(store, size, outputs, key.context)
    gone = max(0, sum(key.sizes) - int(np.count_nonzero(had)))
    none = np.zeros((gone, _HALF), np.uint8)
    return KeptIds(
        key.context,
        key.scalar,
        np.concatenate([_hashes(ids, key.scalar)[had], none]),
        np.concatenate([outputs[had, :_HALF], none]),
        key.stores,
        key.sizes,
    )


def _brought_up(kept: KeptIds | None, ids: Sequence[bytes], run: OprfRun) -> KeptIds:
    """What is kept, of these ids in their order."""
    if kept is not None:
        hashes = _hashes(ids, kept.scalar)
        places = places_in(kept.hashes, hashes)
        if np.count_nonzero(places >= 0) < len(kept.hashes) or len(kept.stores) >= MOST:
            kept = None
    if kept is None:
        kept = KeptIds.new(run.randomness.at("key of kept ids"))
        hashes, places = _hashes(ids, kept.scalar), np.full(len(ids), -1, np.int64)
    new = np.flatnonzero(places < 0)
    if len(new):
        places[new] = len(kept.tags) + np.arange(len(new))
        kept = _extended(kept, ids, new, hashes[new], run)
    table = _digest_of_table(ids, kept.scalar)
    return replace(kept, hashes=hashes, tags=kept.tags[places], table=table)


def _extended(
    kept: KeptIds, ids: Sequence[bytes], new: Integers, hashes: Bytes, run: OprfRun
) -> KeptIds:
    """With a store of the ids at these places."""

    def at(some: slice) -> list[bytes]:
        return [ids[place] for place in new[some].tolist()]

    outputs = _evaluated(len(new), at, kept.context, kept.scalar, run)
    tags, masks = outputs[:, :_HALF].copy(), outputs[:, _HALF:]
    drawn = run.randomness.at("store of kept ids", kept.context, len(kept.stores))
    store = okvs.encode(tags, masks, store_seed(kept.context), drawn)
    return replace(
        kept,
        hashes=np.concatenate([kept.hashes, hashes]),
        tags=np.concatenate([kept.tags, tags]),
        stores=(*kept.stores, store),
        sizes=(*kept.sizes, len(new)),
    )


def _evaluated(
    count: int, ids: Callable[[slice], Sequence[bytes]], context: bytes, scalar: bytes, run: OprfRun
) -> Bytes:
    """F of so many ids, (n, 32)."""
    outputs = np.empty((count, 2 * _HALF), np.uint8)
    under_way = deque[tuple[slice, Begun[Bytes]]]()

    def take() -> None:
        part, begun = under_way.popleft()
        outputs[part] = begun.result()
        run.report("evaluating own ids", part.stop, count)

    for start, stop in parts(count, _AT_ONCE):
        some = Packed.of([ids(slice(start, stop))])
        under_way.append((slice(start, stop), ENGINE.do(evaluate_ids, some, scalar, context)))
        if len(under_way) >= ENGINE.width:
            take()
    while under_way:
        take()
    return outputs


def store_seed(context: bytes) -> bytes:
    """The seed of the stores under a context."""
    return keyed_hash(b"vfl kept store", context).digest()


def _digest_of_table(ids: Sequence[bytes], scalar: bytes) -> bytes:
    """A digest of ids in their order."""
    key = keyed_hash(b"vfl kept table", scalar).digest()
    digest = hashlib.blake2b(key=key, digest_size=DIGEST)
    for start, stop in parts(len(ids), _AT_ONCE):
        piece = ids[start:stop]
        digest.update(text_sizes(piece).astype("<u8").tobytes())
        digest.update(join(piece))
    return digest.digest()


def _hashes(ids: Sequence[bytes], scalar: bytes) -> Bytes:
    key, hashes = keyed_hash(b"vfl kept hashes", scalar).digest(), np.empty((len(ids), _HALF), np.uint8)
    for start, stop in parts(len(ids), _AT_ONCE):
        hashes[start:stop] = digests(ids[start:stop], domain=b"vfl kept id", key=key, size=_HALF)
    return hashes


@dataclass(frozen=True)
class KeptStores:
    """What a host says to the guest of its stores, and what the guest has of them."""

    context: bytes
    digests: Sequence[bytes]
    sizes: Sequence[int]
    keeps: GuestKeeps | None = None
    known: Mapping[bytes, Bytes] = field(default_factory=dict)

    def check(self, host: Peer, ids: int) -> None:
        """Raises PeerError for stores that a host of so many ids cannot have."""
        if (
            len(self.context) != CONTEXT
            or len(self.digests) != len(self.sizes)
            or len(self.digests) > MOST
            or any(len(digest) != DIGEST for digest in self.digests)
            or len({*self.digests}) < len(self.digests)
            or any(size < 1 for size in self.sizes)
            or sum(self.sizes) != ids
        ):
            raise host.breach("AlignKey with kept stores that do not fit its ids")

    async def with_known(self) -> "KeptStores":
        """With those that the guest has and can read."""
        if self.keeps is None:
            return self
        known = await asyncio.to_thread(self.keeps.known, self.digests)
        found = {digest: await asyncio.to_thread(self.keeps.load, digest) for digest in known}
        return replace(self, known={d: store for d, store in found.items() if store is not None})


def common_in(store: Bytes, size: int, outputs: Bytes, context: bytes) -> Mask:
    """Which of a guest's ids, by what F gives there (n, 32), a store of so many ids has."""
    values = okvs.decode(store, outputs[:, :_HALF], size, store_seed(context))
    left = (values ^ outputs[:, _HALF:]).view(np.uint64)
    found: Mask = (left[:, 0] | left[:, 1]) == 0
    return found
