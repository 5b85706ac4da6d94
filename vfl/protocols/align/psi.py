"""Alignment: which rows have an id that all parties know, in one order common to all.

One guest and k >= 1 hosts, each host connected to the guest only. What a host gives of an id is an
oblivious pseudorandom function of it; three engines compute it, by exponents (`dh_oprf.py`), by
oblivious transfers (`ot_oprf.py`) or by vector OLE (`vole_oprf.py`), with any number of hosts. With
the last steps 2 to 7 are done by buckets of ids (`buckets.py`).

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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, Protocol

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from vfl.arrays import Integers
from vfl.crypto.randomness import OF_SYSTEM, Randomness
from vfl.errors import DataError, Refused
from vfl.net.peer import Peer, together
from vfl.net.wire import KIB, MIB, Message
from vfl.protocols.align import buckets, dh_oprf, ot_oprf
from vfl.protocols.align.answered import NOTHING_KEPT, KeptAnswers
from vfl.protocols.align.buckets import GuestBuckets, HostBuckets
from vfl.protocols.align.kept import CONTEXT, Asked, GuestKeeps, HostKeeps, KeptStores, prepare
from vfl.protocols.align.oprf import GuestOutputs, HostOutputs, OprfProgress, OprfRun
from vfl.protocols.align.star import GuestOfKept, GuestStar, HostOfKept, HostStar
from vfl.protocols.common.fellows import secrets_with_fellows, signature
from vfl.protocols.common.participant import Participant
from vfl.text import counted

MAX_IDS = 20_000_000
MAX_HOSTS = 64

OprfEngine = Literal["ecdh", "ot", "vole"]
_GUEST: dict[OprfEngine, GuestOutputs] = {"ecdh": dh_oprf.guest_outputs, "ot": ot_oprf.guest_outputs}
_HOST: dict[OprfEngine, HostOutputs] = {"ecdh": dh_oprf.host_outputs, "ot": ot_oprf.host_outputs}


class AlignStart(Message, frozen=True, omit_defaults=True):
    """guest -> host. Reveals: how many ids the guest has, and who the hosts are.

    To a host that keeps its key, where the guest keeps its answers: under which context, and how many
    ids it asks about anew; so how many of its ids are new, to within a factor of two, from 1,024 on.
    """

    hosts: list[str]
    ids: int
    kept_context: bytes = b""
    new_ids: int = 0
    per_row = ("ids", 1)


class AlignKey(Message, frozen=True, omit_defaults=True):
    """host -> guest. Reveals: how many ids the host has. The key is fresh and its signature public.

    The signature is empty when the host was given nothing to sign with. Of a host that keeps evaluated
    ids: under which context, the digests of its stores, and how many ids came to each; so when ids came
    to its table, and how many, since the key was drawn.
    """

    limit: ClassVar[int] = 64 * KIB
    ids: int
    public_key: bytes
    signature: bytes
    kept_context: bytes = b""
    kept_stores: list[bytes] = msgspec.field(default_factory=list)
    kept_sizes: list[int] = msgspec.field(default_factory=list)
    per_row = ("ids", 1)


class AlignKeys(Message, frozen=True, omit_defaults=True):
    """guest -> host, the keys of all hosts in the order of AlignStart. Reveals: nothing of any id.

    Each key is fresh, each signature public. Of kept stores, the digests of those that the guest has.
    """

    limit: ClassVar[int] = MIB
    public_keys: list[bytes]
    signatures: list[bytes]
    kept_stores: list[bytes] = msgspec.field(default_factory=list)


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
    max_ids: int | None = None
    """How many ids a party may have; without it as many as the engine takes."""
    randomness: Randomness = OF_SYSTEM
    """Where all random numbers of this intersection alone come from."""
    admit: Admit = _let_in
    host_keeps: HostKeeps | None = None
    """Where this host keeps its ids as evaluated for the guest, if it does: by `ecdh`, it alone."""
    guest_keeps: GuestKeeps | None = None
    """Where the guest keeps stores of such a host."""
    answers: KeptAnswers = NOTHING_KEPT
    """Where the guest keeps such a host's answers, if it does."""

    @property
    def limit(self) -> int:
        """How many ids a party may have."""
        if self.max_ids is not None:
            return self.max_ids
        return buckets.MAX_IDS if self.engine == "vole" else MAX_IDS


@dataclass(frozen=True)
class Intersection:
    """What a run came to at one party."""

    rows: Integers
    """The numbers of its rows whose id all parties have, in the common order: int64 (common,)."""
    ids: int
    """How many ids it announced."""
    ids_of: dict[str, int]
    """How many ids its peers announced, by name."""
    kept: bool = False
    """Whether they are those that the one host keeps."""


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
    await asyncio.to_thread(_check_own, ids, settings)
    if not 1 <= len(hosts) <= MAX_HOSTS or len({host.name for host in hosts}) < len(hosts):
        raise ValueError(f"1 to {MAX_HOSTS} hosts of different names are due")
    n = len(ids)

    # 1. Sizes, and the hosts' keys for each other.
    names = [host.name for host in hosts]
    before = None
    if settings.engine == "ecdh" and len(hosts) == 1:
        before = await asyncio.to_thread(settings.answers.before, ids)
    anew = () if before is None else (before.answers.context, before.number)
    await together([host.send(AlignStart(names, n, *anew)) for host in hosts])
    keys = await together([_receive_key(host, settings, len(hosts)) for host in hosts])
    kept = await _kept_stores(keys[0], settings)
    relayed = AlignKeys(
        [key.public_key for key in keys],
        [key.signature for key in keys],
        [] if kept is None else list(kept.known),
    )
    await together([host.send(relayed) for host in hosts])

    # 2. to 6. Which ids all hosts have.
    run, sizes = (
        OprfRun(context, settings.randomness, settings.progress, settings.scratch),
        [key.ids for key in keys],
    )
    matching: _GuestMatching
    if settings.engine == "vole":
        matching = GuestBuckets(hosts, sizes, run)
    elif kept is not None:
        matching = GuestOfKept(hosts[0], kept, run, before, settings.answers)
    else:
        matching = GuestStar(hosts, sizes, run, _GUEST[settings.engine])
    common = await matching.find(ids)
    if not len(common) and not allow_empty:
        raise DataError(
            "no id is common to all parties: check that [data] normalise fits how each party writes its "
            "ids (case, spaces, leading zeros, dates), and that they are the same ids",
            for_peer="no id is common to all parties",
        )
    if len(common):
        _check_minimum(len(common), minimum)

    # 7. One order for all.
    await matching.tell()
    ids_of = {host.name: key.ids for host, key in zip(hosts, keys, strict=True)}
    return Intersection(common, n, ids_of, kept is not None)


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
    await asyncio.to_thread(_check_own, ids, settings)
    n, randomness = len(ids), settings.randomness
    name, context = participant.name, participant.context

    # 1. Sizes, and a key with every other host.
    start = await guest.recv(AlignStart)
    settings.admit(guest, start.ids)
    _check_start(guest, start, participant, settings)
    asked = Asked(start.ids, start.kept_context, start.new_ids)
    own_place = replace(participant, hosts=start.hosts)
    private = X25519PrivateKey.from_private_bytes(randomness.at("key for other hosts")(32))
    public = private.public_key().public_bytes_raw()
    run = OprfRun(context, randomness, settings.progress, settings.scratch)
    prepared, keeps = None, settings.host_keeps
    if keeps is not None and settings.engine == "ecdh" and len(start.hosts) == 1:
        prepared = await asyncio.to_thread(prepare, keeps, ids, asked, run)
    signed = signature(own_place, public)
    if prepared is None:
        await guest.send(AlignKey(n, public, signed))
    else:
        kept = prepared.kept
        await guest.send(AlignKey(n, public, signed, kept.context, kept.digests, list(kept.sizes)))
    keys = await guest.recv(AlignKeys)
    try:
        pairwise = secrets_with_fellows(private, keys.public_keys, keys.signatures, own_place)
    except ValueError as error:
        raise guest.breach(f"AlignKeys with {error}") from None

    # 2. to 7. What it has of the guest's ids, and its rows in the common order.
    matching: _HostMatching
    if settings.engine == "vole":
        matching = HostBuckets(guest, name, list(pairwise.values()), run)
    elif prepared is not None:
        matching = HostOfKept(guest, prepared, keys.kept_stores, asked, run)
    else:
        matching = HostStar(guest, name, list(pairwise.values()), run, _HOST[settings.engine])
    common = await matching.serve(ids, start.ids)
    if common or not allow_empty:
        _check_minimum(common, participant.minimum)
    return Intersection(await matching.rows(), n, {guest.name: start.ids})


# Steps 2 to 7 of the engines that take all ids at once; those by buckets are in buckets.py.


class _GuestMatching(Protocol):
    """The guest's steps 2 to 7, with whatever engine."""

    async def find(self, ids: Sequence[bytes]) -> Integers:
        """2. to 6. The rows whose id all parties have, in the common order: int64 (common,)."""
        ...

    async def tell(self) -> None:
        """7. Tell each host which of its rows these are."""
        ...


class _HostMatching(Protocol):
    """A host's steps 2 to 7, with whatever engine."""

    async def serve(self, ids: Sequence[bytes], theirs: int) -> int:
        """2. to 7. How many of its ids all have, as the guest says, which has `theirs`."""
        ...

    async def rows(self) -> Integers:
        """7. The rows of these, in the common order: int64 (common,)."""
        ...


# Checks of what the other side says.


async def _receive_key(host: Peer, settings: PsiSettings, hosts: int) -> AlignKey:
    key = await host.recv(AlignKey)
    settings.admit(host, key.ids)
    if not 0 <= key.ids <= settings.limit:
        raise host.breach(f"AlignKey with a number of ids that is not 0 to {settings.limit:,}")
    if len(key.public_key) != 32 or len(key.signature) > 8 * KIB:
        raise host.breach("AlignKey with a key or signature of the wrong size")
    if key.kept_context or key.kept_stores or key.kept_sizes:
        if settings.engine != "ecdh" or hosts != 1:
            raise host.breach("AlignKey with kept stores, which only one host alone has, by ecdh")
        KeptStores(key.kept_context, key.kept_stores, key.kept_sizes).check(host, key.ids)
    return key


async def _kept_stores(key: AlignKey, settings: PsiSettings) -> KeptStores | None:
    """Those of a host that keeps some, with what the guest has of them."""
    if not key.kept_context:
        return None
    stores = KeptStores(key.kept_context, key.kept_stores, key.kept_sizes, settings.guest_keeps)
    return await stores.with_known()


def _check_start(guest: Peer, start: AlignStart, own: Participant, settings: PsiSettings) -> None:
    if not 0 <= start.ids <= settings.limit:
        raise guest.breach(f"AlignStart with a number of ids that is not 0 to {settings.limit:,}")
    if len(set(start.hosts)) < len(start.hosts) or len(start.hosts) > MAX_HOSTS:
        raise guest.breach(f"AlignStart with a host twice or more than {MAX_HOSTS} hosts")
    if own.name not in start.hosts or (own.hosts and set(own.hosts) != set(start.hosts)):
        raise guest.breach("AlignStart with other hosts than this job has")
    if start.kept_context or start.new_ids:
        if settings.engine != "ecdh" or len(start.hosts) != 1:
            raise guest.breach("AlignStart with kept answers, which one host alone gives, by ecdh")
        if len(start.kept_context) != CONTEXT or not 0 <= start.new_ids <= start.ids:
            raise guest.breach("AlignStart with kept answers that do not fit its ids")


def _check_own(ids: Sequence[bytes], settings: PsiSettings) -> None:
    if len(ids) > settings.limit:
        instead = (
            f': take engine = "vole" in [align], which takes {buckets.MAX_IDS:,} and which every host '
            "names under engines in its [policy]"
        )
        raise DataError(
            f"{len(ids):,} ids, more than the {settings.limit:,} that the engine {settings.engine} "
            f"takes{'' if settings.engine == 'vole' else instead}"
        )
    if settings.engine != "vole" and not _distinct(ids):  # by buckets it is seen there
        raise ValueError("ids must be distinct: normalise them first")


def _check_minimum(rows: int, minimum: int) -> None:
    if rows < minimum:
        raise Refused(
            f"the intersection has {counted(rows, 'row')}, fewer than this party's minimum of "
            f"{minimum:,}"
        )


def _distinct(ids: Sequence[bytes]) -> bool:
    """Whether no id comes twice: by Python's hashes, which ids keep once they were computed."""
    hashes = np.fromiter(map(hash, ids), np.int64, len(ids))
    ordered = np.sort(hashes)
    suspect = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(suspect):
        return True
    some = [ids[int(row)] for row in np.flatnonzero(np.isin(hashes, suspect))]
    return len(set(some)) == len(some)
