"""All keys of a table: which rows go by which id, and which row stands for several."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vfl.blocks.scratch import Scratch, in_pieces, release_pages
from vfl.blocks.texts import PIECE, Packed, TextPlaces, beside, pack_rows, with_lengths
from vfl.crypto.digests import digests
from vfl.errors import DataError
from vfl.party.id_cells import IdReading
from vfl.party.ids import NormalisedIds, normalise
from vfl.party.rows import RowNumbers, below_header, rows_in_words
from vfl.protocols.align.join import KeyIds
from vfl.text import counted

WIDTH = 16  # bytes of an identity

Stands = Literal["refuse", "keep", "first", "last"]
"""Which of the rows with the same id stands for them; "keep": each for itself."""


@dataclass(frozen=True)
class TableIds:
    """What all keys of a table say of its rows.

    keys: by key, distinct ids and the place of each row's, -1 where the row has none, or where another
    row stands for it. rows: int64, the rows that take part, in their order. without_id: int64, rows
    without any id, which match nothing. group: int64 (rows of the table,), the row that stands for each
    row, itself where it takes part, -1 without any id. notes: what the owner should know, a sentence
    each; no id is in them. merged: rows whose id some rule makes equal to a different one. scratch:
    where lies what is many.
    """

    keys: tuple[KeyIds, ...]
    rows: NDArray[np.int64]
    without_id: NDArray[np.int64]
    group: NDArray[np.int64]
    notes: tuple[str, ...] = ()
    merged: int = 0
    scratch: Scratch = field(default=Scratch(), repr=False)

    @property
    def entities(self) -> NDArray[np.int64]:
        """Of each row the first one that is about the same thing, int64 (rows of the table,): the two
        have an id of some key in common, or each has one in common with a third."""
        rows = len(self.group)
        found = self.scratch.of_rows(rows, np.int64, "rows about one thing")
        for some in in_pieces(rows, found):
            found[some] = np.arange(some.start, some.stop)
        changed = True
        while changed:
            changed = False
            for key in self.keys:
                least = self.scratch.of_rows(len(key.ids), np.int64, "rows about one thing")
                for some in in_pieces(len(least), least):
                    least[some] = rows
                for some in in_pieces(rows, found, least, key.of_row):
                    of, own = key.of_row[some], found[some]
                    np.minimum.at(least, of[of >= 0], own[of >= 0])
                for some in in_pieces(rows, found, least, key.of_row):
                    of, own = key.of_row[some], found[some]
                    there = of >= 0
                    now = least[of[there]]
                    changed = changed or bool((now != own[there]).any())
                    own[there] = now
            changed = changed and len(self.keys) > 1
        return found

    @property
    def digest(self) -> str:
        """SHA-256 in hex of all ids and of which rows have them: tells a changed table from the same."""
        digest = hashlib.sha256()
        for key in self.keys:
            digest.update(len(key.ids).to_bytes(8, "big"))
            for start in range(0, len(key.of_row), PIECE):
                digest.update(np.ascontiguousarray(key.of_row[start : start + PIECE], "<i8").data)
            release_pages(key.of_row)
            for start in range(0, len(key.ids), PIECE):  # each begins with its length
                digest.update(key.ids[start : start + PIECE].whole)
        return digest.hexdigest()


def all_keys(
    columns: Sequence[Sequence[Sequence[str | None]]],
    rules: Sequence[Sequence[str]],
    duplicates: Stands = "refuse",
    empty: Literal["refuse", "drop"] = "refuse",
    where: str = "the table",
    readings: Sequence[IdReading] = (),
    row_numbers: RowNumbers = below_header,
    scratch: Scratch = Scratch(),
) -> TableIds:
    """What all keys say of the rows of a table.

    columns, rules: by key, as `normalise` takes them. duplicates: "refuse" is about the first key
    alone; of "first" and "last", one row stands for all with the same id, by the first key that each
    has. empty: what to do with rows that have no id by any key. readings: by key, what the party's
    file says of cells. row_numbers, scratch: as of `normalise`, which says what is raised.
    """
    several = len(columns) > 1
    found = []
    each = readings or [IdReading()] * len(columns)
    for number, (one, rule, reading) in enumerate(zip(columns, rules, each, strict=True)):
        found.append(
            normalise(
                one,
                rule,
                "refuse" if duplicates == "refuse" and not number else "first",
                where,
                empties="drop" if several else empty,
                reading=reading,
                row_numbers=row_numbers,
                scratch=scratch,
            )
        )
    rows = len(found[0].id_of_row)
    without = np.concatenate([np.flatnonzero(of < 0) + some.start for some, of in _ids_of_rows(found)])
    if len(without) and empty == "refuse":
        raise DataError(
            f"{where}: {counted(len(without), 'row has', 'rows have')} no id by any key once normalised "
            f"({rows_in_words(without.tolist(), row_numbers)}); fill in an id, or say "
            'empty = "drop" in [data]'
        )
    group = _stand_ins(found, duplicates, scratch)
    taken, keys = _that_stand(found, group, scratch)
    notes = []
    if len(without):
        notes.append(
            f"{counted(len(without), 'row')} without an id{' of any key' if several else ''}: no match"
        )
    if unread := max(key.unread for key in found):
        notes.append(
            f"{counted(unread, 'row')} with a number or a date that cannot be read as "
            f"{'an id' if unread == 1 else 'ids'}: as if empty"
        )
    merged = max(key.merged for key in found)
    if merged:
        notes.append(
            f"normalise makes different ids equal in {counted(merged, 'row')}: taken for spellings of "
            "one id (merging)"
        )
    if several and (short := int((found[0].id_of_row < 0).sum()) - len(without)):
        notes.append(f"{counted(short, 'row')} without the first key: matched by a further one")
    if repeated := rows - len(without) - len(taken):
        notes.append(
            f"{counted(repeated, 'row')} with the id of another row, which stands for "
            f"{'it' if repeated == 1 else 'them'}"
        )
    return TableIds(keys, taken, without, group, tuple(notes), merged, scratch)


def _ids_of_rows(
    keys: Sequence[NormalisedIds], *, back: bool = False
) -> Iterator[tuple[slice, NDArray[np.int64]]]:
    """Some rows at a time, `back` the last first, and a number of the id by which each goes, that of the
    first key that it has; -1 for none."""
    rows = len(keys[0].id_of_row)
    for some in [*in_pieces(rows)][:: -1 if back else 1]:
        ids, offset = np.full(some.stop - some.start, -1), 0
        for key in keys:
            of = key.id_of_row[some]
            ids = np.where((ids < 0) & (of >= 0), of + offset, ids)
            offset += len(key.ids)
            release_pages(key.id_of_row)
        yield some, ids


def _stand_ins(keys: Sequence[NormalisedIds], duplicates: Stands, scratch: Scratch) -> NDArray[np.int64]:
    """The row that stands for each row, -1 without any id."""
    rows = len(keys[0].id_of_row)
    group = scratch.of_rows(rows, np.int64, "ids of rows")
    chosen = None
    if duplicates in ("first", "last"):
        back = duplicates == "first"
        chosen = scratch.of_rows(sum(len(key.ids) for key in keys) + 1, np.int64, "ids of rows")
        for some, ids in _ids_of_rows(keys, back=back):
            order = np.arange(len(ids))[:: -1 if back else 1]
            chosen[ids[order]] = some.start + order  # of several rows the one written last stays
            release_pages(chosen)
    for some, ids in _ids_of_rows(keys):
        stands = np.arange(some.start, some.stop) if chosen is None else chosen[ids]
        group[some] = np.where(ids < 0, -1, stands)
        for array in (group, *([] if chosen is None else [chosen])):
            release_pages(array)
    return group


def _that_stand(
    keys: Sequence[NormalisedIds], group: NDArray[np.int64], scratch: Scratch
) -> tuple[NDArray[np.int64], tuple[KeyIds, ...]]:
    """The rows that stand for themselves, and all keys with the ids of these rows alone."""
    rows, of_rows = len(group), [scratch.of_rows(len(group), np.int32, "ids of rows") for _ in keys]
    taken, known = scratch.of_rows(rows, np.int64, "ids of rows"), 0
    for some in in_pieces(rows, group, taken, *of_rows):
        stands = group[some] == np.arange(some.start, some.stop)
        for key, of_row in zip(keys, of_rows, strict=True):
            of_row[some] = np.where(stands, key.id_of_row[some], -1)
            release_pages(key.id_of_row)
        own = some.start + np.flatnonzero(stands)
        taken[known : known + len(own)] = own
        known += len(own)
    made = zip(keys, of_rows, strict=True)
    return taken[:known], tuple(KeyIds(key.ids, of_row) for key, of_row in made)


def identities(
    ids: TableIds, secret: bytes, rows: NDArray[np.int64], last_key: NDArray[np.integer]
) -> NDArray[np.uint8]:
    """A keyed hash of the ids of each of `rows` by all keys up to `last_key` of it, shape (rows, 16).

    Of rows with the same hash the matching by these keys comes to the same.
    """
    made = np.empty((len(rows), WIDTH), np.uint8)
    for start in range(0, len(rows), PIECE):
        some, last = rows[start : start + PIECE], last_key[start : start + PIECE]
        for level in np.unique(last).tolist():
            at = np.flatnonzero(last == level)
            texts = beside([with_lengths(_ids_of(key, some[at])) for key in ids.keys[: level + 1]])
            salt = bytes([level + 1])
            made[start + at] = digests(texts, domain=b"vfl row", key=secret, salt=salt, size=WIDTH)
    return made


def _ids_of(key: KeyIds, rows: NDArray[np.int64]) -> Packed:
    """The id of each of a few rows, no bytes for none."""
    places = key.of_row[rows]
    there = places >= 0
    found = key.ids.at(places[there])
    sizes = np.zeros(len(rows), np.int64)
    sizes[there] = np.diff(found.ends)
    return Packed(found.data, np.append(0, np.cumsum(sizes)))


@dataclass(frozen=True)
class FoundRows:
    """Rows of a table as it is now, by identities that were kept of an earlier one.

    rows: int64 (identities,), the row of each; where several rows are alike, in their order; -1 where
    the table has more or fewer of them than there were. first: int64 (rows of the table,), the place of
    the first identity that is each row's, -1 for none.
    """

    rows: NDArray[np.int64]
    first: NDArray[np.int64]


def find_rows(ids: TableIds, secret: bytes, kept: NDArray[np.uint8]) -> FoundRows:
    """The rows that `identities` gave these hashes, in the table as it is now."""
    known = TextPlaces(pack_rows(kept), _hashes(kept))
    code = known.first  # those that are alike have one, the place of the first of them
    rows = np.concatenate([ids.rows, ids.without_id])
    code_of_row = np.full(len(ids.group), -1, np.int64)
    # A row is known by one key at most: matching by an earlier one ends it.
    for last in reversed(range(len(ids.keys))):
        for start in range(0, len(rows), PIECE):
            some = rows[start : start + PIECE]
            now = identities(ids, secret, some, np.full(len(some), last))
            part = known.find(pack_rows(now), _hashes(now))
            code_of_row[some[part >= 0]] = part[part >= 0]
    alike = len(kept)
    here = np.flatnonzero(code_of_row >= 0)
    same = np.bincount(code, minlength=alike) == np.bincount(code_of_row[here], minlength=alike)
    here = here[same[code_of_row[here]]]
    places = np.flatnonzero(same[code])
    row_of = np.full(len(kept), -1, np.int64)
    by_code = places[np.argsort(code[places], kind="stable")]
    row_of[by_code] = here[np.argsort(code_of_row[here], kind="stable")]
    return FoundRows(row_of, code_of_row)


def _hashes(rows: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Of identities, which are hashes, the first half."""
    return np.ascontiguousarray(np.ascontiguousarray(rows).view(np.int64)[:, 0])
