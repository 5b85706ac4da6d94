"""Alignment: which rows have an id that all parties know, in one order common to all.

One guest and k >= 1 hosts, each host connected to the guest only. What a host gives of an id is an
oblivious pseudorandom function of it; two engines compute it, by exponents (`dh_oprf.py`) or by
oblivious transfers (`ot_oprf.py`), with any number of hosts.

  1. The guest names the hosts and says how many ids it has. Each host says how many it has and
     gives a fresh X25519 public key, signed if the caller can sign; the guest relays the keys. Each
     pair of hosts (j, l) so gets a key k_jl, and each host shares of zero,
     s_j(y) = XOR over l of PRF(k_jl, y): over all hosts they cancel for the same y, and any fewer
     of them look random. (With one host the share is zero.)
  2. to 4. The engine: the guest gets F_j(x) of each of its ids, host j F_j(y) of its own. To the
     guest F_j is random at any other id; the host learns nothing. Half of F_j is the member tag,
     which only this host and whoever has evaluated the id with it can know, half is the mask.
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
- Ids can be guessed: the guest can try one id of its choice for each it announces (1.3 by oblivious
  transfers if it deviates). The hosts' limit on their number is what bounds this.
- A host's `minimum` stops the run before the host uses the intersection, but the guest has
  computed it by then.

Sources: Kolesnikov, Matania, Pinkas, Rosulek, Trieu, "Practical Multi-party Private Set Intersection
from Symmetric-Key Techniques" (CCS 2017), the star with zero-sharing and programmable functions, the
variant for augmented semi-honest parties. The store: `vfl.crypto.okvs`. Of each engine: in its module.
"""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from vfl.arrays import Bytes, Integers
from vfl.crypto import okvs
from vfl.crypto.digests import digests
from vfl.crypto.entropy import Entropy
from vfl.errors import DataError, Refused
from vfl.net.peer import Peer, together
from vfl.net.wire import KIB, MIB, Message
from vfl.protocols.align import dh_oprf, ot_oprf
from vfl.protocols.align.oprf import (
    GuestOutputs,
    HostOutputs,
    OprfProgress,
    OprfRun,
    empty,
    parts,
    receive_rows,
)
from vfl.protocols.common.fellows import keyed_hash, secrets_with_fellows, signature
from vfl.protocols.common.participant import Participant
from vfl.text import counted

SLOTS = 32768  # slots of a store, or tags, a message
MAX_IDS = 20_000_000
MAX_HOSTS = 64

HALF = 16  # bytes of a tag, a mask, a share of zero

OprfEngine = Literal["ecdh", "ot"]
_GUEST: dict[OprfEngine, GuestOutputs] = {"ecdh": dh_oprf.guest_outputs, "ot": ot_oprf.guest_outputs}
_HOST: dict[OprfEngine, HostOutputs] = {"ecdh": dh_oprf.host_outputs, "ot": ot_oprf.host_outputs}


class AlignStart(Message, frozen=True):
    """guest -> host. Reveals: how many ids the guest has, and who the hosts are."""

    hosts: list[str]
    ids: int
    per_row = ("ids", 1)


class AlignKey(Message, frozen=True):
    """host -> guest. Reveals: how many ids the host has. The key is fresh and its signature public.

    The signature is empty when the host was given nothing to sign with.
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


Admit = Callable[[Peer, int], None]
"""Told how many ids a peer announces, as it says, before it gets any answer; may end the run."""


def _quiet(what: str, done: int, total: int) -> None:
    pass


def _let_in(peer: Peer, ids: int) -> None:
    pass


@dataclass(frozen=True)
class PsiSettings:
    """How ids are matched, whoever does it."""

    engine: OprfEngine = "ecdh"
    """As all parties have agreed; who was told another one breaks the protocol."""
    scratch: Path | None = None
    """A folder in whose files large arrays of the run may lie, instead of in memory."""
    progress: OprfProgress = _quiet
    max_ids: int = MAX_IDS
    entropy: Entropy = secrets.token_bytes
    admit: Admit = _let_in


@dataclass(frozen=True)
class Intersection:
    """What a run came to at one party."""

    rows: Integers
    """The numbers of its rows whose id all parties have, in the common order: int64 (common,)."""
    ids: int
    """How many ids it announced."""
    ids_of: dict[str, int]
    """How many ids its peers announced, by name."""


async def guest_align(
    hosts: Sequence[Peer],
    ids: Sequence[bytes],
    *,
    context: bytes,
    minimum: int = 1,
    allow_empty: bool = False,
    settings: PsiSettings = PsiSettings(),
) -> Intersection:
    """The guest's role: which of its rows have an id that all parties have.

    ids: one a row, distinct, normalised as the job says. context: names the run, the same at all
    parties; runs of different contexts cannot be joined. minimum: fewer common rows are Refused.
    allow_empty: no common id at all is then not an error (for scoring).

    Raises PeerError for a host that breaks the protocol, DataError when no id is common, Refused,
    PeerStopped, PeerLost, what `settings.admit` raises; ValueError for ids that are not distinct.
    """
    report, scratch = settings.progress, settings.scratch
    await asyncio.to_thread(_check_own, ids, settings.max_ids)
    if not 1 <= len(hosts) <= MAX_HOSTS or len({host.name for host in hosts}) < len(hosts):
        raise ValueError(f"1 to {MAX_HOSTS} hosts of different names are due")
    n = len(ids)

    # 1. Sizes, and the hosts' keys for each other.
    names = [host.name for host in hosts]
    await together([host.send(AlignStart(names, n)) for host in hosts])
    keys = await together([_receive_key(host, settings) for host in hosts])
    relayed = AlignKeys([key.public_key for key in keys], [key.signature for key in keys])
    await together([host.send(relayed) for host in hosts])

    # 2. to 4. The hosts' functions at the guest's ids.
    run = OprfRun(context, settings.entropy, report, scratch)
    outputs = await _GUEST[settings.engine](hosts, ids, run)

    # 5. and 6. Look all ids up in all stores.
    async def look_up(host: Peer, size: int, own: Bytes) -> Bytes:
        store = empty(okvs.slots(size), okvs.VALUE, scratch)
        async for start, stop, part in receive_rows(
            host, AlignStore, lambda m: m.slots, len(store), SLOTS, okvs.VALUE
        ):
            store[start:stop] = part
            report(f"receiving the store of {host.name}", stop, len(store))
        return await asyncio.to_thread(_shares_in, store, size, own, host.name, context)

    shares = await together(
        [look_up(host, key.ids, own) for host, key, own in zip(hosts, keys, outputs, strict=True)]
    )
    common = await asyncio.to_thread(_common, shares)
    if not len(common) and not allow_empty:
        raise DataError(
            "no id is common to all parties: check that [data] normalise fits how each party writes its "
            "ids (case, spaces, leading zeros, dates), and that they are the same ids",
            for_peer="no id is common to all parties",
        )
    if len(common):
        _check_minimum(len(common), minimum)

    # 7. One order for all.
    common = await asyncio.to_thread(_in_common_order, common, outputs)

    async def tell(host: Peer, own: Bytes) -> None:
        await host.send(CommonRows(len(common)))
        for start, stop in parts(len(common), SLOTS):
            await host.send(CommonTags(_tags(own[common[start:stop]]).tobytes()))

    await together([tell(host, own) for host, own in zip(hosts, outputs, strict=True)])
    return Intersection(common, n, {host.name: key.ids for host, key in zip(hosts, keys, strict=True)})


async def host_align(
    guest: Peer,
    ids: Sequence[bytes],
    participant: Participant,
    *,
    allow_empty: bool = False,
    settings: PsiSettings = PsiSettings(),
) -> Intersection:
    """A host's role: which of its rows have an id that all parties have.

    participant: without names of hosts the guest's word is taken, otherwise a guest that says others
    breaks the protocol; without signatures a guest that does not follow the protocol can learn pairwise
    intersections. The others as in `guest_align`.

    Raises PeerError for a guest that breaks the protocol, Refused for fewer common rows than the
    participant's `minimum`, PeerStopped, PeerLost, what `settings.admit` raises; ValueError for ids that
    are not distinct.
    """
    await asyncio.to_thread(_check_own, ids, settings.max_ids)
    n, report, entropy = len(ids), settings.progress, settings.entropy
    name, context = participant.name, participant.context

    # 1. Sizes, and a key with every other host.
    start = await guest.recv(AlignStart)
    settings.admit(guest, start.ids)
    _check_start(guest, start, participant, settings.max_ids)
    own_place = replace(participant, hosts=start.hosts)
    private = X25519PrivateKey.from_private_bytes(entropy(32))
    public = private.public_key().public_bytes_raw()
    await guest.send(AlignKey(n, public, signature(own_place, public)))
    keys = await guest.recv(AlignKeys)
    try:
        pairwise = secrets_with_fellows(private, keys.public_keys, keys.signatures, own_place)
    except ValueError as error:
        raise guest.breach(f"AlignKeys with {error}") from None

    # 2. to 4. This host's function at the guest's ids and its own.
    run = OprfRun(context, entropy, report, settings.scratch)
    own = await _HOST[settings.engine](guest, ids, start.ids, name, run)

    # 5. The store of masks and shares of zero.
    shares = np.zeros((n, HALF), np.uint8)
    for key in pairwise.values():
        for first, stop in parts(n, SLOTS):
            shares[first:stop] ^= await asyncio.to_thread(_share, key, ids[first:stop])
    store = await asyncio.to_thread(
        okvs.encode, _tags(own), _masks(own) ^ shares, _store_seed(name, context), entropy
    )
    for first, stop in parts(len(store), SLOTS):
        await guest.send(AlignStore(store[first:stop].tobytes()))

    # 7. The rows, in the common order.
    common = (await guest.recv(CommonRows)).rows
    if not 0 <= common <= min(n, start.ids):
        raise guest.breach("CommonRows with more rows than there are")
    if common or not allow_empty:
        _check_minimum(common, participant.minimum)
    row_of_tag = await asyncio.to_thread(_Tags, _tags(own))
    rows, taken = np.empty(common, np.int64), np.zeros(n, np.bool_)
    async for first, stop, tags in receive_rows(
        guest, CommonTags, lambda m: m.tags, common, SLOTS, HALF
    ):
        some = row_of_tag.rows(tags)
        known = some[some >= 0]
        if len(known) < len(some) or taken[known].any() or len(np.unique(known)) < len(known):
            raise guest.breach("CommonTags with a tag that is unknown or repeated")
        taken[known] = True
        rows[first:stop] = some
        report("receiving the common rows", stop, common)
    return Intersection(rows, n, {guest.name: start.ids})


# Checks of what the other side says.


async def _receive_key(host: Peer, settings: PsiSettings) -> AlignKey:
    key = await host.recv(AlignKey)
    settings.admit(host, key.ids)
    if not 0 <= key.ids <= settings.max_ids:
        raise host.breach(f"AlignKey with a number of ids that is not 0 to {settings.max_ids:,}")
    if len(key.public_key) != 32 or len(key.signature) > 8 * KIB:
        raise host.breach("AlignKey with a key or signature of the wrong size")
    return key


def _check_start(guest: Peer, start: AlignStart, own: Participant, max_ids: int) -> None:
    if not 0 <= start.ids <= max_ids:
        raise guest.breach(f"AlignStart with a number of ids that is not 0 to {max_ids:,}")
    if len(set(start.hosts)) < len(start.hosts) or len(start.hosts) > MAX_HOSTS:
        raise guest.breach(f"AlignStart with a host twice or more than {MAX_HOSTS} hosts")
    if own.name not in start.hosts or (own.hosts and set(own.hosts) != set(start.hosts)):
        raise guest.breach("AlignStart with other hosts than this job has")


def _check_own(ids: Sequence[bytes], max_ids: int) -> None:
    if len(ids) > max_ids:
        raise DataError(f"{len(ids):,} ids, more than the {max_ids:,} that an alignment takes")
    if not _distinct(ids):
        raise ValueError("ids must be distinct: normalise them first")


def _check_minimum(rows: int, minimum: int) -> None:
    if rows < minimum:
        raise Refused(
            f"the intersection has {counted(rows, 'row')}, fewer than this party's minimum of "
            f"{minimum:,}"
        )


# The functions that the parties share.


def _tags(outputs: Bytes) -> Bytes:
    return outputs[:, :HALF]


def _masks(outputs: Bytes) -> Bytes:
    return outputs[:, HALF:]


def _distinct(ids: Sequence[bytes]) -> bool:
    """Whether no id comes twice: by Python's hashes, which ids keep once they were computed."""
    hashes = np.fromiter(map(hash, ids), np.int64, len(ids))
    ordered = np.sort(hashes)
    suspect = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(suspect):
        return True
    some = [ids[int(row)] for row in np.flatnonzero(np.isin(hashes, suspect))]
    return len(set(some)) == len(some)


class _Tags:
    """The rows of tags, found by sorting: some bytes a tag where a dict would take 150."""

    def __init__(self, tags: Bytes) -> None:
        self._tags = np.ascontiguousarray(tags).view(np.uint64)
        self._order = np.argsort(self._tags[:, 0])
        self._first = self._tags[self._order, 0]

    def rows(self, wanted: Bytes) -> Integers:
        """The row of each tag, -1 for a tag that is none: int64 (m,)."""
        words = np.ascontiguousarray(wanted).view(np.uint64)
        rows = np.full(len(words), -1, np.int64)
        place = np.searchsorted(self._first, words[:, 0])
        open_ = np.arange(len(words))  # not found so far: tags may be equal in their first half
        while len(open_):
            at = place[open_]
            open_ = open_[at < len(self._first)]
            open_ = open_[self._first[place[open_]] == words[open_, 0]]
            row = self._order[place[open_]]
            equal = self._tags[row, 1] == words[open_, 1]
            rows[open_[equal]] = row[equal]
            open_ = open_[~equal]
            place[open_] += 1
        return rows


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
