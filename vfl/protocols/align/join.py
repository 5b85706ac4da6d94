"""From ids that are matched to rows that are joined: several keys, many rows to one, left joins.

One guest and k >= 1 hosts, each with one or more keys of its rows, the same number in the same order.

  1. For key 1, 2, ... in order, private set intersection (`psi.py`) over the ids of rows that no earlier
     key has matched. What it finds are the matched ids of all parties, numbered in the order in which
     they are found; a party's row is matched once. An id of a further key that several of a party's
     remaining rows have names none of them and is left out, unless the guest joins many rows to one.
  2. Inner join (with all hosts at once): the matched ids in their order are the rows. Where the guest
     joins many to one it says how many rows it has of each (RowCounts), and each host repeats its row.
  3. Left join (with each host apart, so that each has matched ids of its own): the guest puts all its
     rows in a random order and tells each host which matched id each has, or that it has none of that
     host's (JoinRows, RowPlaces).

An alignment that is extended begins with what it has: each host says which of its matched rows it no
longer has (VanishedRows), the guest which are dropped (DroppedRows: those that vanished at any party of
an inner join), and 1. runs over what is not matched then. A host of one key that keeps its ids as
evaluated (`kept.py`) runs 1. with all that it keeps: the guest asks about its own open ids alone, and no
matched id of the host's can be among them.

What each side learns. As in psi.py for each key, so also by which key a row is matched and how many ids
of each key are still open. Of an inner join of many to one each host learns how often each matched id
occurs at the guest. Of a left join each host learns how many rows the guest has, and which places of an
order that says nothing it knows no row for; hosts that put this together learn which of their matched
rows are the same one's, as they can from the ids. The guest learns its intersection with each host.

Against whom. As in psi.py. A guest can say counts and places that are not those of its table: it then
trains on rows of its own making, and learns of hosts' columns what it would by such a table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Integers, Mask
from vfl.blocks.scratch import Scratch, in_pieces, release_pages
from vfl.blocks.texts import Packed
from vfl.crypto.randomness import Entropy
from vfl.net.peer import Peer, together
from vfl.net.wire import KIB, MIB, Message
from vfl.protocols.align.answered import NOTHING_KEPT
from vfl.protocols.align.oprf import parts
from vfl.protocols.align.psi import Intersection, PsiSettings, guest_align, host_align
from vfl.protocols.common.bits import pack_bits, unpack_bits
from vfl.protocols.common.participant import Participant

MAX_ROWS = 100_000_000
CHUNK = 65_536  # rows a message
_NONE = 2**32 - 1  # in RowPlaces: a row that the host does not know


class RowCounts(Message, frozen=True):
    """guest -> host, four bytes a matched id, in their order. Reveals: how many rows the guest joins to
    each row of the host's that is matched."""

    limit: ClassVar[int] = 4 * CHUNK + KIB
    counts: bytes
    per_row = ("counts", 32)


class JoinRows(Message, frozen=True):
    """guest -> host. Reveals: how many rows the guest has, of a left join."""

    rows: int
    per_row = ("rows", 1)


class RowPlaces(Message, frozen=True):
    """guest -> host, four bytes a row of a left join, in a random order. Reveals: which of the host's
    matched rows is joined to each row, and which rows the host does not know."""

    limit: ClassVar[int] = 4 * CHUNK + KIB
    places: bytes
    per_row = ("places", 32)


class VanishedRows(Message, frozen=True):
    """host -> guest, a bit an id of the alignment that is extended. Reveals: which ids of
    the alignment are no longer in the host's table."""

    limit: ClassVar[int] = 16 * MIB
    vanished: bytes
    per_row = ("vanished", 1)


class DroppedRows(Message, frozen=True):
    """guest -> host, a bit an id of the alignment that is extended. Reveals: which ids of
    the alignment are dropped: the guest or a host no longer has them (of a left join: the guest or this
    host)."""

    limit: ClassVar[int] = 16 * MIB
    dropped: bytes
    per_row = ("dropped", 1)


@dataclass(frozen=True)
class KeyIds:
    """One key of a table: distinct ids, and of each row the place of its id among them, -1 for none."""

    ids: Packed
    of_row: NDArray[np.integer]


@dataclass(frozen=True)
class Matched:
    """Which rows of a table are matched to which ids.

    of_row, key_of_row: int32 and int8 (rows,), the number of the matched id of each row and the number
    of the key it was matched by, -1 for none. by_key: how many ids each key has matched in this run.
    ambiguous: by key, rows left out since others have the same id. earlier: ids matched before, the
    first numbers. asked, asked_of: by key of this run, how many ids this party and, by name, each peer
    asked about.
    """

    of_row: NDArray[np.int32]
    key_of_row: NDArray[np.int8]
    earlier: int = 0
    by_key: tuple[int, ...] = ()
    ambiguous: tuple[int, ...] = ()
    asked: tuple[int, ...] = ()
    asked_of: tuple[Mapping[str, int], ...] = ()

    @classmethod
    def none(cls, rows: int) -> "Matched":
        """A table of so many rows, none of which is matched yet."""
        return cls(np.full(rows, -1, np.int32), np.full(rows, -1, np.int8))

    @property
    def ids(self) -> int:
        """How many ids are matched."""
        return self.earlier + sum(self.by_key)

    @property
    def rows(self) -> Integers:
        """The matched rows by their ids, those of one id in the table's order: int64."""
        return self.rows_in(Scratch())

    def rows_in(self, scratch: Scratch) -> Integers:
        """The same, with room of `scratch`. Raises DataError where the disk has none."""
        what = "matched rows"
        pieces = in_pieces(len(self.of_row), self.of_row)
        most = max((int(self.of_row[some].max()) for some in pieces), default=-1)
        next_of = scratch.of_rows(most + 2, np.int64, what)  # where the next row of each id goes
        next_of[:] = 0
        for some in in_pieces(len(self.of_row), self.of_row, next_of):
            own = self.of_row[some]
            np.add.at(next_of, own[own >= 0] + 1, 1)
        known = 0
        for some in in_pieces(len(next_of), next_of):
            np.cumsum(next_of[some], out=next_of[some])
            next_of[some] += known
            known = int(next_of[some][-1])
        rows = scratch.of_rows(known, np.int64, what)
        for some in in_pieces(len(self.of_row), self.of_row, next_of, rows):
            here = np.flatnonzero(self.of_row[some] >= 0)
            here = here[np.argsort(self.of_row[some][here], kind="stable")]
            ids, first, counts = np.unique(
                self.of_row[some][here], return_index=True, return_counts=True
            )
            within = np.arange(len(here)) - np.repeat(first, counts)
            rows[np.repeat(next_of[ids], counts) + within] = some.start + here
            next_of[ids] += counts
        return rows


def _of_key(context: bytes, number: int) -> bytes:
    """The context of a key's intersection."""
    return context + bytes([number])


def _of_key_alone(settings: PsiSettings, number: int) -> PsiSettings:
    """With random numbers of a key's own."""
    return replace(settings, randomness=settings.randomness.part("ids of a key", number))


async def guest_match(
    hosts: Sequence[Peer],
    keys: Sequence[KeyIds],
    *,
    context: bytes,
    settings: PsiSettings = PsiSettings(),
    start: Matched | None = None,
    many: bool = False,
) -> Matched:
    """The guest's part of step 1: match its rows to ids that all `hosts` have.

    context: as in `guest_align`. start: what is matched already (None: nothing). many: whether several
    rows may have the same id. Raises what `guest_align` raises but for an empty intersection, which is
    none here.
    """
    matched = start or Matched.none(len(keys[0].of_row))
    for number, key in enumerate(keys):
        if many:
            matched = _attach_rows(matched, key, number)
        asked, ambiguous = _open_ids(matched, key, many)
        remembers = not number and (start is None or len(keys) == 1)
        answers = replace(settings.answers, table=key.ids) if remembers else NOTHING_KEPT
        common = await guest_align(
            hosts,
            _ids_at(key, asked, settings),
            context=_of_key(context, number),
            allow_empty=True,
            settings=replace(_of_key_alone(settings, number), answers=answers),
        )
        if common.kept and matched.earlier:
            common = _without_earlier(hosts[0], common, matched.earlier)
        matched = _add_matched(matched, key, number, asked[common.rows], ambiguous)
        matched = _add_counts(matched, common)
    return matched


async def host_match(
    guest: Peer,
    keys: Sequence[KeyIds],
    participant: Participant,
    *,
    settings: PsiSettings = PsiSettings(),
    start: Matched | None = None,
) -> Matched:
    """A host's part of step 1: match its rows to ids that all parties have; each id has one row.

    Raises what `host_align` raises.
    """
    matched = start or Matched.none(len(keys[0].of_row))
    for number, key in enumerate(keys):
        asked, ambiguous = _open_ids(matched, key, many=False)
        keeps = settings.host_keeps if not number and settings.engine == "ecdh" else None
        matched_ids = np.empty(0, np.int64)
        if keeps is not None and len(asked) < len(key.ids):
            if len(keys) == 1 and _one_row_each(key):
                every = np.arange(len(key.ids))  # are kept; the guest asks about open ones
                matched_ids, asked = np.setdiff1d(every, asked), every
            else:
                keeps = None  # those that are open are others every time
        common = await host_align(
            guest,
            _ids_at(key, asked, settings),
            replace(participant, context=_of_key(participant.context, number)),
            allow_empty=True,
            settings=replace(_of_key_alone(settings, number), host_keeps=keeps),
        )
        if np.isin(asked[common.rows], matched_ids).any():
            raise guest.breach("CommonTags of a row that is matched already")
        matched = _add_matched(matched, key, number, asked[common.rows], ambiguous)
        matched = _add_counts(matched, common)
    return matched


async def guest_inner(hosts: Sequence[Peer], matched: Matched, *, many: bool) -> Integers:
    """The guest's part of step 2: its rows in the common order, int64."""
    rows = matched.rows
    if many:
        counts = np.bincount(matched.of_row[rows], minlength=matched.ids)
        await together([_send(host, RowCounts, counts) for host in hosts])
    return rows


async def host_inner(guest: Peer, matched: Matched, *, many: bool) -> Integers:
    """A host's part of step 2: its rows in the common order, int64, each as often as the guest has
    it."""
    rows = matched.rows
    if not many:
        return rows
    counts = np.empty(len(rows), np.int64)
    total = 0
    for first, stop in parts(len(rows), CHUNK):
        part = _numbers(guest, "RowCounts", (await guest.recv(RowCounts)).counts, stop - first)
        total += int(part.sum())
        if not part.all() or total > MAX_ROWS:
            raise guest.breach(f"RowCounts of no row or of more than {MAX_ROWS:,}")
        counts[first:stop] = part
    return np.repeat(rows, counts)


async def guest_left(
    hosts: Sequence[Peer], matched: Sequence[Matched], rows: Integers, entropy: Entropy
) -> Integers:
    """The guest's part of step 3: its `rows` in a random order, int64; `matched` with each host
    apart."""
    # Of two equal numbers the first stays first: once in 2^64 / n^2 runs, and it tells nobody much.
    draw = np.frombuffer(entropy(8 * len(rows)), np.uint64)
    rows = rows[np.argsort(draw, kind="stable")]

    async def tell(host: Peer, own: Matched) -> None:
        await host.send(JoinRows(len(rows)))
        places = own.of_row[rows].astype(np.int64)
        await _send(host, RowPlaces, np.where(places < 0, _NONE, places))

    await together([tell(host, own) for host, own in zip(hosts, matched, strict=True)])
    return rows


async def host_left(guest: Peer, matched: Matched, *, many: bool) -> Integers:
    """A host's part of step 3: its own row for each row of the join, -1 where it has none; int64."""
    total, ids = (await guest.recv(JoinRows)).rows, matched.ids
    if not ids <= total <= MAX_ROWS:
        raise guest.breach(f"JoinRows of fewer rows than are matched or of more than {MAX_ROWS:,}")
    joined = np.empty(total, np.int64)
    times = np.zeros(ids, np.int64)
    row_of_id = np.append(matched.rows, -1)  # the last one is for rows that are not known
    for first, stop in parts(total, CHUNK):
        places = _numbers(guest, "RowPlaces", (await guest.recv(RowPlaces)).places, stop - first)
        known = places != _NONE
        if known.any() and int(places[known].max()) >= ids:
            raise guest.breach("RowPlaces with an id that is not matched")
        times += np.bincount(places[known], minlength=ids)
        joined[first:stop] = row_of_id[np.where(known, places, ids)]
    if not times.all() or (not many and times.max(initial=1) > 1):
        raise guest.breach("RowPlaces that leave out a matched id or repeat one")
    return joined


async def guest_drop(hosts: Sequence[Peer], matched: Matched) -> Matched:
    """The guest's part where an alignment is extended: what is left of the earlier one with `hosts`.

    matched: its ids, and which rows of the table as it is now have them; ids without a row are gone.
    """
    gone = _without_row(matched)

    async def receive(host: Peer) -> Mask:
        return _bits(host, "VanishedRows", (await host.recv(VanishedRows)).vanished, len(gone))

    for vanished in await together([receive(host) for host in hosts]):
        gone = gone | vanished
    await together([host.send(DroppedRows(pack_bits(gone))) for host in hosts])
    return _drop_ids(matched, gone)


async def host_drop(guest: Peer, matched: Matched) -> Matched:
    """A host's part where an alignment is extended; see `guest_drop`."""
    gone = _without_row(matched)
    await guest.send(VanishedRows(pack_bits(gone)))
    dropped = _bits(guest, "DroppedRows", (await guest.recv(DroppedRows)).dropped, len(gone))
    if (gone & ~dropped).any():
        raise guest.breach("DroppedRows that keep a row which this party no longer has")
    return _drop_ids(matched, dropped)


def number_values(
    values: NDArray[np.integer], scratch: Scratch = Scratch()
) -> tuple[Integers, Integers]:
    """Number values, which are places of a table, by their first occurrence: the number of each entry
    (-1 for negative ones), and where each number comes first.

    Two parties whose entries are equal at the same places number them alike. scratch: where both lie, of
    many entries. Raises DataError where the disk has no room.
    """
    rows, what = len(values), "numbers of rows"
    most = max((int(values[some].max()) for some in in_pieces(rows, values)), default=-1)
    number_of = scratch.of_rows(most + 1, np.int64, what)
    for some in [*in_pieces(rows)][::-1]:  # of several entries the first one stays
        own = values[some]
        known = np.flatnonzero(own >= 0)[::-1]
        number_of[own[known]] = some.start + known
        release_pages(number_of)
    numbers, first = scratch.of_rows(rows, np.int64, what), scratch.of_rows(rows, np.int64, what)
    count = 0
    for some in in_pieces(rows, values, number_of, numbers, first):
        own = values[some]
        known = np.flatnonzero(own >= 0)
        new = known[number_of[own[known]] == some.start + known]
        first[count : count + len(new)] = some.start + new
        # No entry behind has a place as small as its number.
        number_of[own[new]] = count + np.arange(len(new))
        count += len(new)
        numbers[some] = -1
        numbers[some][known] = number_of[own[known]]
    return numbers, first[:count]


# The steps that both sides take alike.


def _open_ids(matched: Matched, key: KeyIds, many: bool) -> tuple[Integers, int]:
    """The places of a key's ids that are still to be matched, and how many rows are left out since
    others have the same id."""
    open_ = key.of_row[(matched.of_row < 0) & (key.of_row >= 0)]
    times = np.bincount(open_, minlength=len(key.ids))
    if many:
        return np.flatnonzero(times), 0
    return np.flatnonzero(times == 1), int(times[times > 1].sum())


def _one_row_each(key: KeyIds) -> bool:
    """Whether no two rows have the same id."""
    return bool(np.bincount(key.of_row[key.of_row >= 0]).max(initial=0) <= 1)


def _without_earlier(host: Peer, common: Intersection, earlier: int) -> Intersection:
    """What a host that keeps its ids says of how many there are, without those matched before."""
    ids = common.ids_of[host.name]
    if ids < earlier:
        raise host.breach("AlignKey with fewer ids than are matched")
    return replace(common, ids_of={host.name: ids - earlier})


def _ids_at(key: KeyIds, places: Integers, settings: PsiSettings) -> Packed:
    if len(places) == len(key.ids):
        return key.ids
    return key.ids.take(places, Scratch(settings.scratch))


def _add_matched(
    matched: Matched, key: KeyIds, number: int, places: Integers, ambiguous: int
) -> Matched:
    """Add the ids that a key has matched, at these places, in their order."""
    id_at = np.full(len(key.ids) + 1, -1, np.int32)  # the last one is for rows without an id
    id_at[places] = matched.ids + np.arange(len(places))
    return replace(
        _with_ids(matched, id_at, key, number),
        by_key=(*matched.by_key, len(places)),
        ambiguous=(*matched.ambiguous, ambiguous),
    )


def _with_ids(matched: Matched, id_at: NDArray[np.int32], key: KeyIds, number: int) -> Matched:
    """Match rows that are not matched yet by the number of each of a key's ids, -1 for none."""
    new = np.where(matched.of_row < 0, id_at[key.of_row], np.int32(-1))
    return replace(
        matched,
        of_row=np.where(new >= 0, new, matched.of_row),
        key_of_row=np.where(new >= 0, np.int8(number), matched.key_of_row),
    )


def _add_counts(matched: Matched, common: Intersection) -> Matched:
    """Add how many ids each party asked about."""
    return replace(
        matched, asked=(*matched.asked, common.ids), asked_of=(*matched.asked_of, common.ids_of)
    )


def _attach_rows(matched: Matched, key: KeyIds, number: int) -> Matched:
    """Match further rows that have an id which this key matched before: nobody need be asked."""
    known = (matched.key_of_row == number) & (key.of_row >= 0)
    if not known.any():
        return matched
    id_at = np.full(len(key.ids) + 1, -1, np.int32)
    id_at[key.of_row[known]] = matched.of_row[known]
    return _with_ids(matched, id_at, key, number)


def _without_row(matched: Matched) -> Mask:
    """Which of the earlier ids have no row any more."""
    there = matched.of_row[matched.of_row >= 0]
    gone: Mask = np.bincount(there, minlength=matched.earlier) == 0
    return gone


def _drop_ids(matched: Matched, dropped: Mask) -> Matched:
    """Drop these ids; the others keep their order."""
    number = np.append(np.where(dropped, -1, np.cumsum(~dropped) - 1), -1).astype(np.int32)
    of_row = number[matched.of_row]
    return replace(
        matched,
        of_row=of_row,
        key_of_row=np.where(of_row < 0, np.int8(-1), matched.key_of_row),
        earlier=int((~dropped).sum()),
    )


# On the wire.


async def _send(host: Peer, kind: type[RowCounts] | type[RowPlaces], values: Integers) -> None:
    for first, stop in parts(len(values), CHUNK):
        await host.send(kind(values[first:stop].astype("<u4").tobytes()))


def _numbers(guest: Peer, what: str, data: bytes, count: int) -> Integers:
    if len(data) != 4 * count:
        raise guest.breach(f"{what} of another number of rows than due")
    return np.frombuffer(data, "<u4").astype(np.int64)


def _bits(peer: Peer, what: str, data: bytes, count: int) -> Mask:
    try:
        return unpack_bits(data, count)
    except ValueError:
        raise peer.breach(f"{what} of another number of ids than the alignment has") from None
