"""All keys of a table: which rows go by which id, and which row stands for several."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from vfl.errors import DataError
from vfl.party.id_cells import IdReading
from vfl.party.ids import normalise
from vfl.party.rows import RowNumbers, below_header, rows_in_words
from vfl.protocols.align.join import KeyIds
from vfl.text import counted

if TYPE_CHECKING:
    import pyarrow as pa

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
    each; no id is in them. merged: rows whose id some rule makes equal to a different one.
    """

    keys: tuple[KeyIds, ...]
    rows: NDArray[np.int64]
    without_id: NDArray[np.int64]
    group: NDArray[np.int64]
    notes: tuple[str, ...] = ()
    merged: int = 0

    @property
    def entities(self) -> NDArray[np.int64]:
        """Of each row the first one that is about the same thing, int64 (rows of the table,): the two
        have an id of some key in common, or each has one in common with a third."""
        found = np.arange(len(self.group))
        while True:
            before = found
            for key in self.keys:
                has = key.of_row >= 0
                least = np.full(len(key.ids), len(found))
                np.minimum.at(least, key.of_row[has], found[has])
                found = found.copy()
                found[has] = least[key.of_row[has]]
            if len(self.keys) == 1 or (found == before).all():
                return found

    @property
    def digest(self) -> str:
        """SHA-256 in hex of all ids and of which rows have them: tells a changed table from the same."""
        digest = hashlib.sha256()
        for key in self.keys:
            digest.update(len(key.ids).to_bytes(8, "big") + key.of_row.astype("<i8").tobytes())
            for one in key.ids:
                digest.update(one)  # begins with its length
        return digest.hexdigest()


def all_keys(
    columns: Sequence[Sequence[Sequence[str | None]]],
    rules: Sequence[Sequence[str]],
    duplicates: Stands = "refuse",
    empty: Literal["refuse", "drop"] = "refuse",
    where: str = "the table",
    readings: Sequence[IdReading] = (),
    row_numbers: RowNumbers = below_header,
) -> TableIds:
    """What all keys say of the rows of a table.

    columns, rules: by key, as `normalise` takes them. duplicates: "refuse" is about the first key
    alone; of "first" and "last", one row stands for all with the same id, by the first key that each
    has. empty: what to do with rows that have no id by any key. readings: by key, what the party's
    file says of cells. row_numbers: by which a person finds the rows in the file. Raises as `normalise`.
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
            )
        )
    rows = len(found[0].id_of_row)
    # A row goes by the first key that it has.
    group, offset = np.full(rows, -1, np.int64), 0
    for key in found:
        group = np.where((group < 0) & (key.id_of_row >= 0), key.id_of_row + offset, group)
        offset += len(key.ids)
    without = np.flatnonzero(group < 0)
    if len(without) and empty == "refuse":
        raise DataError(
            f"{where}: {counted(len(without), 'row has', 'rows have')} no id by any key once normalised "
            f"({rows_in_words(without.tolist(), row_numbers)}); fill in an id, or say "
            'empty = "drop" in [data]'
        )
    stands = np.arange(rows)
    if duplicates in ("first", "last"):
        in_order = np.arange(rows) if duplicates == "last" else np.arange(rows)[::-1]
        chosen = np.zeros(offset + 1, np.int64)
        chosen[group[in_order]] = in_order  # of several rows the one written last stays
        stands = chosen[group]
    stands = np.where(group < 0, -1, stands)
    taking = stands == np.arange(rows)
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
    if repeated := rows - len(without) - int(taking.sum()):
        notes.append(
            f"{counted(repeated, 'row')} with the id of another row, which stands for "
            f"{'it' if repeated == 1 else 'them'}"
        )
    keys = tuple(KeyIds(key.ids, np.where(taking, key.id_of_row, -1)) for key in found)
    return TableIds(keys, np.flatnonzero(taking), without, stands, tuple(notes), merged)


def identities(
    ids: TableIds, secret: bytes, rows: NDArray[np.int64], last_key: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """A keyed hash of the ids of each of `rows` by all keys up to `last_key` of it, shape (rows, 16).

    Of rows with the same hash the matching by these keys comes to the same.
    """
    made = bytearray()
    for row, last in zip(rows.tolist(), last_key.tolist(), strict=True):
        made += _identity(ids.keys[: last + 1], secret, row)
    return np.frombuffer(made, np.uint8).reshape(-1, WIDTH)


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
    import pyarrow.compute as pc  # which commands that read no table do without

    rows = np.concatenate([ids.rows, ids.without_id])
    levels = [np.full(len(rows), last) for last in range(len(ids.keys))]
    now = _binary(np.concatenate([identities(ids, secret, rows, last) for last in levels]))
    coded = _binary(kept).dictionary_encode()
    code = coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    there = pc.index_in(now, value_set=coded.dictionary).fill_null(-1)
    # A row is known by one key at most: matching by an earlier one ends it.
    code_of_row = np.full(len(ids.group), -1, np.int64)
    for part in reversed(np.split(there.to_numpy(zero_copy_only=False).astype(np.int64), len(levels))):
        code_of_row[rows[part >= 0]] = part[part >= 0]
    alike = len(coded.dictionary)
    known = np.flatnonzero(code_of_row >= 0)
    same = np.bincount(code, minlength=alike) == np.bincount(code_of_row[known], minlength=alike)
    known = known[same[code_of_row[known]]]
    places = np.flatnonzero(same[code])
    row_of = np.full(len(kept), -1, np.int64)
    by_code = places[np.argsort(code[places], kind="stable")]
    row_of[by_code] = known[np.argsort(code_of_row[known], kind="stable")]
    first = np.full(alike + 1, -1, np.int64)
    first[code[::-1]] = np.arange(len(kept))[::-1]
    first[alike] = -1
    return FoundRows(row_of, first[code_of_row])


def _identity(keys: Sequence[KeyIds], secret: bytes, row: int) -> bytes:
    digest = hashlib.blake2b(key=secret, digest_size=WIDTH, person=b"vfl row", salt=bytes([len(keys)]))
    for key in keys:
        place = key.of_row[row]
        one = key.ids[place] if place >= 0 else b""
        digest.update(len(one).to_bytes(4, "big") + one)
    return digest.digest()


def _binary(rows: NDArray[np.uint8]) -> "pa.Array":
    import pyarrow as pa

    data = np.ascontiguousarray(rows)
    return pa.Array.from_buffers(pa.binary(WIDTH), len(data), [None, pa.py_buffer(data.tobytes())])
