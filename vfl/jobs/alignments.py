"""Alignments that this party keeps: found again, with their rows in the table as it is now."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, date, datetime

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Integers, Mask
from vfl.blocks.scratch import Scratch, in_pieces, marked
from vfl.crypto.randomness import Randomness
from vfl.errors import ModelError, Refused
from vfl.jobs.connect import Site
from vfl.jobs.digests import add_array
from vfl.jobs.names import resolve_model
from vfl.jobs.offer import Offer
from vfl.net.peer import Peer
from vfl.party.config_values import Engine, JoinKind
from vfl.party.documents import convert_document
from vfl.party.keys import TableIds, find_rows
from vfl.party.policy import (
    check_age,
    check_join,
    check_repeats,
    last_day,
    today,
)
from vfl.party.policy_section import PolicySection
from vfl.party.sections import DataSection
from vfl.party.store import Store
from vfl.protocols.align.join import (
    number_values,
)


@dataclass(frozen=True)
class Alignment:
    """Which rows of the party's table are joined to those of the others, in the common order.

    `rows` are -1 where a host has none (left join). So that rows are found again in a table that has
    changed, `digests` has 16 bytes of each row, or at a host of each of its rows in the order in which
    they come first: a hash of their ids under `key`, which is random and stays here. A guest keeps for
    each channel (one with all hosts, or of a left join one with each host, by name) and row the number
    of the matched id and of the key that matched it, -1 for none; a host the keys of its rows.
    Alignments of earlier versions have none of these.
    """

    name: str
    guest: str  # fingerprint
    parties: dict[str, str]  # names, and fingerprints as far as this party knows them
    normalise: tuple[str, ...]
    ids: str  # digest of the normalised ids of the table that was aligned
    rows: NDArray[np.int64]
    made: str = ""  # ISO 8601, UTC
    join: JoinKind = "inner"
    engine: Engine = "ecdh"
    fallback: tuple[tuple[str, ...], ...] = ()  # the rules of further keys
    many: bool = False  # whether the guest joins several rows to one of a host's
    extends: str | None = None
    days: int | None = None  # for which it is of use, by the policies of all hosts that set a limit
    by_key: dict[str, tuple[int, ...]] = field(default_factory=dict)  # ids that each key matched
    key: str = ""  # of the digests, in hex
    digests: NDArray[np.uint8] | None = None  # shape (rows or ids, 16)
    matched: NDArray[np.int32] | None = None  # shape (channels, rows)
    keys: NDArray[np.int8] | None = None  # shape (channels, rows)
    origin: str | None = None  # at a host, the first of those that it extends, one after the other
    counted_as: NDArray[np.uint64] | None = None  # at a host, its own rows in party/row_sums.py

    def __repr__(self) -> str:
        return f"Alignment({self.name!r}, {len(self.rows):,} rows)"

    @property
    def digest_of_ids(self) -> str:
        """In hex, of what the ids of its rows are found again by: of random numbers, without the key."""
        digest = hashlib.sha256(f"{self.ids} {self.key}".encode() if self.digests is None else b"")
        if self.digests is not None:
            digest.update(self.key.encode())
            add_array(digest, "ids", self.digests)
        return digest.hexdigest()

    @property
    def digest(self) -> bytes:
        """Of its rows, in their order, and of what finds them again."""
        digest = hashlib.sha256(bytes.fromhex(self.digest_of_ids))
        add_array(digest, "rows", self.rows)
        return digest.digest()

    @property
    def without_ids(self) -> "Alignment":
        """All of it but what finds rows again in a table that has changed."""
        return replace(self, digests=None, matched=None, keys=None)

    def stored(self, scratch: Scratch) -> "Alignment":
        """`without_ids`, its rows in a file of the job where they are many."""
        return replace(self.without_ids, rows=scratch.stored(self.rows, "rows of the alignment"))

    @property
    def rules(self) -> list[tuple[str, ...]]:
        """The rules of all keys."""
        return [self.normalise, *self.fallback]


def key_of_identities(randomness: Randomness) -> bytes:
    """`key` of a new alignment, which is of the run that makes it: who replays a run that extends it, or
    works on it, takes the key from the alignment."""
    return randomness.at("key of identities")(32)


_ARRAYS = ("rows", "digests", "matched", "keys", "counted_as")


def save_alignment(store: Store, alignment: Alignment) -> None:
    """Keep an alignment. Raises DataError when the store cannot be written."""
    name = alignment.name
    body = {
        field.name: value
        for field in fields(alignment)
        if (value := getattr(alignment, field.name)) is not None and field.name not in _ARRAYS
    }
    for array in _ARRAYS:
        if (values := getattr(alignment, array)) is not None:
            body[array] = dict(store.write_array("alignment", name, values))
    store.write("alignment", name, body)


def load_alignment(store: Store, name: str) -> Alignment:
    """The alignment of that name. Raises ModelError when it is missing or damaged."""
    body = store.read("alignment", name)
    refs = {array: body.pop(array) for array in _ARRAYS if array in body}
    body |= {array: store.read_array("alignment", ref) for array, ref in refs.items()}
    return convert_document(body, Alignment, f"alignment {name}")


def origins(store: Store, alignment: Alignment | str, but: str = "") -> list[str]:
    """The names of an alignment and of those that it extends, one after the other, as far as they are
    known: the last is that of the first one. `but`: as if this one were no longer kept.

    Raises ModelError for a damaged one.
    """
    if isinstance(alignment, str):
        line, extended = [alignment], _extended(store, alignment)
    else:
        line, extended = [alignment.name], (alignment.extends, alignment.origin)
    begun = None
    while extended is not None:
        extends, origin = extended
        begun = begun or origin
        if extends is None or extends in line:
            break
        line.append(extends)
        extended = None if extends == but else _extended(store, extends)
    return line if begun is None else [*(name for name in line if name != begun), begun]


def origin_of(store: Store, alignment: Alignment | str) -> str:
    """The name of the first of the alignments that it extends, one after the other; its own, if none."""
    return origins(store, alignment)[-1]


def _extended(store: Store, name: str) -> tuple[str | None, str | None] | None:
    """What an alignment extends, and its origin; None if it is no longer kept."""
    if name not in store.names("alignment"):
        return None
    body = store.read("alignment", name)
    extends, origin = body.get("extends"), body.get("origin")
    return extends if isinstance(extends, str) else None, origin if isinstance(origin, str) else None


def ids_digest(ids: Sequence[bytes]) -> str:
    """SHA-256 of a table's normalised ids in their order: tells a changed table from the same one."""
    digest = hashlib.sha256()
    for one in ids:
        digest.update(len(one).to_bytes(4, "big") + one)
    return digest.hexdigest()


def guest_alignment(site: Site, store: Store, name: str | None) -> Alignment:
    """An alignment to train on, None for the latest.

    Raises ModelError when there is none, or it does not fit the table's keys or the parties any more.
    """
    alignment = find_alignment(store, name)
    check_keys(alignment, site.party.data)
    check_parties(site, alignment)
    return alignment


def host_alignment(site: Site, store: Store, peer: Peer, offer: Offer, ids: TableIds) -> Alignment:
    """The alignment that the offer names, if it is with this guest, these hosts and this table's rows,
    with its rows in the table as it is now. Raises ModelError and Refused."""
    if offer.alignment is None:
        raise peer.breach("an Offer to train without an alignment")
    alignment = load_shared(site, store, peer, offer, offer.alignment)
    check_age(site.party.policy, alignment.name, made_on(store, alignment), today())
    check_join(site.party.policy, alignment.join)
    check_repeats(site.party.policy, most_joined(alignment.rows))
    try:
        return refresh(alignment, ids, site.party.data.named.name)
    except ModelError as error:
        raise ModelError(
            str(error),
            for_peer=f"its table changed since alignment {alignment.name}: run `vfl align --extend`"
            if alignment.key
            else f"its table changed since alignment {alignment.name}: run `vfl align` again",
        ) from None


def refresh(alignment: Alignment, ids: TableIds, file: str) -> Alignment:
    """An alignment with its rows in the table as it is now.

    Raises ModelError when rows of it are gone, or one of them has become several.
    """
    if is_of(alignment, ids):
        return alignment
    if not alignment.key or alignment.digests is None:
        raise ModelError(
            f"{file} has other ids (or another order) than when alignment {alignment.name} was made: "
            "run `vfl align` again"
        )
    rows = find_rows(ids, bytes.fromhex(alignment.key), alignment.digests).rows
    if gone := int((rows < 0).sum()):
        raise ModelError(
            f"{file} has {gone:,} of the rows of alignment {alignment.name} no more, or in another "
            f"number: run `vfl align --extend {alignment.name}`, which leaves them out"
        )
    if alignment.matched is None:  # a host's: an identity for each of its rows
        rows = np.append(rows, -1)[number_values(alignment.rows)[0]]
    return replace(alignment, rows=rows)


def is_of(alignment: Alignment, ids: TableIds) -> bool:
    """Whether the table has the same ids in the same rows as when it was aligned."""
    if alignment.key:
        return alignment.ids == ids.digest
    return not alignment.fallback and alignment.ids == ids_digest(ids.keys[0].ids)


def made_on(store: Store, alignment: Alignment) -> date:
    """The day (UTC) on which an alignment was made or extended."""
    if alignment.made:
        return datetime.fromisoformat(alignment.made).date()
    return datetime.fromtimestamp(store.path("alignment", alignment.name).stat().st_mtime, UTC).date()


def list_alignments(store: Store, policy: PolicySection) -> list[dict[str, object]]:
    """All alignments of a party that can be read, the oldest first, for `vfl alignments`."""
    rows: list[dict[str, object]] = []
    for name in store.names("alignment"):
        try:
            alignment = load_alignment(store, name)
        except ModelError as error:
            rows.append({"name": name, "made": "", "error": str(error)})
            continue
        days = [d for d in (alignment.days, policy.days_of_use) if d is not None]
        last = last_day(made_on(store, alignment), min(days, default=None))
        rows.append(
            {
                "name": name,
                "made": alignment.made or made_on(store, alignment).isoformat(),
                "rows": len(alignment.rows),
                "known": int((alignment.rows >= 0).sum()),
                "parties": list(alignment.parties),
                "join": alignment.join,
                "engine": alignment.engine,
                "keys": [list(rule) for rule in alignment.rules],
                "many": alignment.many,
                "by_key": {who: list(counts) for who, counts in alignment.by_key.items()},
                "extends": alignment.extends,
                "expires": None if last is None else last.isoformat(),
                "expired": last is not None and last < today(),
            }
        )
    return sorted(rows, key=lambda row: (row["made"], row["name"]))


def find_alignment(store: Store, name: str | None) -> Alignment:
    """The alignment that a person names, None for the latest. Raises ModelError when there is none."""
    if name is None:
        if not store.names("alignment"):
            raise ModelError("there is no alignment yet: run `vfl align` first")
        name = store.latest("alignment")
    return load_alignment(store, resolve_model(store, name, "alignment"))


def check_parties(site: Site, alignment: Alignment) -> None:
    """Raises ModelError for an alignment with a party that has another certificate now."""
    changed = [n for n, print_ in alignment.parties.items() if not site.same_party(n, print_)]
    if changed:
        raise ModelError(
            f"alignment {alignment.name} was made with another certificate of {' and '.join(changed)}: "
            "align again or, if nobody changed it on purpose, put back the file of [peers]"
        )


def check_keys(alignment: Alignment, data: DataSection) -> None:
    """Raises ModelError for an alignment by other keys or rules than the party file has."""
    if alignment.rules != [key.normalise for key in data.keys]:
        raise ModelError(
            f"alignment {alignment.name} was made by other keys, or other rules for ids, than [data] "
            "has: align again"
        )


def load_shared(site: Site, store: Store, peer: Peer, offer: Offer, name: str) -> Alignment:
    """The host's alignment of that name, if it is with this guest and these hosts.

    Raises ModelError when there is none, Refused for one with others, or one that cannot be extended so.
    """
    if name not in store.names("alignment"):
        raise ModelError(
            f"there is no alignment {name} here",
            for_peer=f"it has no alignment {name}: run `vfl align` again",
        )
    alignment = load_alignment(store, name)
    named, parties = {peer.name, *offer.hosts}, set(alignment.parties)
    # A table is by the factors of some of the parties.
    among = named <= parties if offer.task == "oneway" else named == parties
    if not site.same_party(peer.name, alignment.guest) or not among:
        raise Refused(f"alignment {alignment.name} was made with other parties")
    rules = [tuple(offer.normalise), *map(tuple, offer.matching.fallback)]
    if offer.task == "align" and (
        (alignment.join, alignment.many) != (offer.matching.join, offer.matching.many)
        or alignment.rules != rules
        or not alignment.key
    ):
        raise Refused(f"alignment {alignment.name} joins rows in another way: align anew")
    return alignment


def count_known_rows(rows: Integers, chosen: Mask | None = None) -> int:
    """How many different rows of a host's table an alignment, or the part of it that is chosen, has."""
    known = np.zeros(_most(rows) + 1, np.bool_)
    for some in in_pieces(len(rows), rows):
        own = rows[some] if chosen is None else rows[some][chosen[some]]
        known[own[own >= 0]] = True
    return int(np.count_nonzero(known))


def most_joined(rows: Integers) -> int:
    """The most rows of an alignment that are joined to one of a host's table."""
    joined = np.zeros(_most(rows) + 1, np.int32)
    for some in in_pieces(len(rows), rows):
        own = rows[some]
        np.add.at(joined, own[own >= 0], 1)
    return int(joined.max(initial=1))


def joined_rows(alignment: Alignment) -> tuple[Integers, ...]:
    """By whom the rows are joined with, at a host by itself, the same number for those that are joined
    to one row; nothing where none is joined to several."""
    if not alignment.many:
        return ()
    found = []
    for numbers in (alignment.rows,) if alignment.matched is None else alignment.matched:
        alone = numbers < 0
        apart = np.arange(int(np.count_nonzero(alone)), dtype=np.int64)
        found.append(numbers.astype(np.int64))
        found[-1][alone] = apart + int(numbers.max(initial=-1)) + 1
    return tuple(found)


def known_rows(rows: Integers, scratch: Scratch) -> Integers:
    """Those of an alignment that a host has, in their order."""
    known = marked(lambda own: own >= 0, rows)
    if known.all():
        return rows
    return scratch.chosen(rows, known, "rows of the alignment")


def _most(rows: Integers) -> int:
    """The greatest of them, -1 for none."""
    return max((int(rows[some].max()) for some in in_pieces(len(rows), rows)), default=-1)
