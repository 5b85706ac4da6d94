"""A directory is made: all rows of a table, sealed in bounded memory, and what did not change kept.

1. Piece by piece of the table, F of the ids, and the parts of the rows. What comes of them goes into
   files by the first bits of its tag (a radix partition), in the open: they have no name and are gone
   with the process.
2. File by file: sorted by tag, cut into parts. A part that the directory before has already stays as it
   is there; any other gets a new salt.
"""

import hashlib
import hmac
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from vfl.arrays import Bytes, Integers
from vfl.blocks.cores import each
from vfl.blocks.scratch import nameless
from vfl.blocks.texts import texts_at
from vfl.crypto import voprf
from vfl.crypto.randomness import Entropy
from vfl.protocols.align.join import KeyIds
from vfl.protocols.lookup import directory
from vfl.protocols.lookup.directory import DIGEST, SALT, SEED, TAG, Catalogue

PIECE = 16_384  # rows that are computed at a time
_IN_MEMORY = 32 << 20  # bytes of a file that is sorted


class Sink(Protocol):
    """Where the entries go."""

    def write(self, data: bytes, /) -> object: ...


class OpenTable:
    """What is sealed. keys: as for a match. pack: the parts of a slice of the table's `rows`, `size`
    bytes each, shape (rows, size)."""

    def __init__(
        self, keys: Sequence[KeyIds], rows: int, pack: Callable[[slice], Bytes], size: int
    ) -> None:
        self.keys, self.rows, self.pack = keys, rows, pack
        self.handle = directory.handle_size(len(keys))
        self.size = self.handle + size
        """Bytes of what is sealed of a row."""
        self.named = [_NamedRows.of(key, len(keys) > 1) for key in keys]

    @property
    def entries(self) -> int:
        """How many there will be."""
        found = 0
        for number, named in enumerate(self.named):
            found += int((named.alone >= 0).sum())
            for rows in named.alike.values():
                found += len(rows) + sum(self.is_lockable(number, rows, row) for row in rows)
        return found

    def is_lockable(self, number: int, rows: Sequence[int], row: int) -> bool:
        """Whether `row`, of those that have an id by the key of this number, can be the only one that is
        left: all others have an earlier key."""
        return all(
            other == row or any(key.of_row[other] >= 0 for key in self.keys[:number]) for other in rows
        )

    def handles(self, secret: bytes, rows: Sequence[int], number: int = 0) -> list[bytes]:
        """The handles of rows, as entries by the key of this number have them."""
        columns = [(key.ids, key.of_row) for key in self.keys]
        found = [
            directory.handle_of(
                secret, [ids[of_row[row]] if of_row[row] >= 0 else None for ids, of_row in columns]
            )
            for row in rows
        ]
        for _ in range(number):
            found = [*map(directory.next_handle, found)]
        return found


@dataclass(frozen=True)
class _NamedRows:
    """Which rows an id of a key names. alone: by row the place of its id, -1 where it has none or shares
    it. alike: by place of an id that several rows have, these."""

    alone: Integers
    alike: dict[int, list[int]]

    @classmethod
    def of(cls, key: KeyIds, several: bool) -> "_NamedRows":
        times = np.bincount(key.of_row[key.of_row >= 0], minlength=len(key.ids))
        single = np.append(times == 1, False)  # the last one is for rows without an id
        alike: dict[int, list[int]] = {}
        shared = np.append((times > 1) & (times <= directory.MOST_ALIKE), False)
        for row in np.flatnonzero(shared[key.of_row]).tolist() if several else ():
            alike.setdefault(int(key.of_row[row]), []).append(row)
        return cls(np.where(single[key.of_row], key.of_row, -1), alike)


@dataclass(frozen=True)
class Sealing:
    """What a table is sealed under: the key, what tags and pads are bound to, into how many parts (2 to
    the power of `bits`), and the catalogue before it under the same key, if there is one."""

    secret: bytes
    context: bytes
    bits: int
    before: Catalogue | None = None


@dataclass(frozen=True)
class Sealed:
    """What came of it. table: a digest of ids and parts under the key. written: parts written anew."""

    catalogue: Catalogue
    table: bytes
    written: int


def seal(
    table: OpenTable,
    sealing: Sealing,
    sink: Sink,
    scratch: Path | None,
    entropy: Entropy,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Sealed:
    """Write the entries of a table, in order. `scratch`: a folder for files while it runs; None: memory.

    Raises OSError where there is no room, and what `pack` raises.
    """
    width = TAG + SEED + table.size
    with ExitStack() as stack:
        cut = min(sealing.bits, max(0, (table.entries * width // _IN_MEMORY).bit_length()))
        files = [
            stack.enter_context(io.BytesIO() if scratch is None else nameless(scratch))
            for _ in range(1 << cut)
        ]
        # 1. All entries, in the open, by the first bits of their tags.
        for rows in _pieces(table, sealing, progress):
            places = directory.numbers_of_parts(rows[:, :TAG], cut)
            for place in np.unique(places).tolist():
                files[place].write(rows[places == place].tobytes())
        # 2. In their order, part by part.
        maker = _Maker(sealing, table.size, sink, entropy(SALT))
        for number, file in enumerate(files):
            maker.add(number << sealing.bits - cut, 1 << sealing.bits - cut, _read(file, width))
    return maker.sealed


def _read(file: BinaryIO, width: int) -> Bytes:
    file.seek(0)
    return np.frombuffer(file.read(), np.uint8).reshape(-1, width)


def _pieces(table: OpenTable, sealing: Sealing, progress: Callable[[int, int], None]) -> Iterator[Bytes]:
    """Tag, seed and what is sealed of each entry, shape (n, TAG + SEED + size)."""
    own, slices = _handle_key(sealing.secret), _slices(table.rows)

    def sealed(item: tuple[slice, Bytes]) -> list[Bytes]:
        return _piece(table, sealing, own, *item)

    # The first alone, for which kernels may have to be compiled. Then several at a time: hashes keep the
    # interpreter's lock, and what the group takes does not.
    packed = ((rows, table.pack(rows)) for rows in slices)
    made = chain(map(sealed, islice(packed, 1)), each(sealed, packed))
    for rows, entries in zip(slices, made, strict=True):
        yield from entries
        progress(rows.stop, table.rows)
    yield from _alike(table, sealing, own)


def _slices(rows: int) -> list[slice]:
    return [slice(first, min(first + PIECE, rows)) for first in range(0, rows, PIECE)]


def _piece(table: OpenTable, sealing: Sealing, own: bytes, rows: slice, parts: Bytes) -> list[Bytes]:
    """The same of a slice of rows and what is packed of them, by key, but of ids that several rows
    have."""
    found = []
    handles = table.handles(own, range(rows.start, rows.stop)) if table.handle else []
    for number, (key, named) in enumerate(zip(table.keys, table.named, strict=True)):
        if number:
            handles = [*map(directory.next_handle, handles)]
        has = np.flatnonzero(named.alone[rows] >= 0)
        if not len(has):
            continue
        ids = texts_at(key.ids, named.alone[rows][has])
        outputs = voprf.outputs(sealing.secret, directory.inputs_of(number, ids))
        tags, seeds = directory.tags_and_seeds(sealing.context, outputs)
        front = np.frombuffer(b"".join(handles), np.uint8).reshape(len(parts), table.handle)
        found.append(np.concatenate([tags, seeds, front[has], parts[has]], axis=1))
    return found


def _alike(table: OpenTable, sealing: Sealing, own: bytes) -> Iterator[Bytes]:
    """The same of ids that several rows have."""
    for number, (key, named) in enumerate(zip(table.keys, table.named, strict=True)):
        for place, rows in named.alike.items():
            inputs = directory.inputs_of(number, [key.ids[place]])
            output = voprf.outputs(sealing.secret, inputs)
            earlier = table.handles(own, rows, max(0, number - 1))  # as who found the row before has it
            for at, (row, handle) in enumerate(zip(rows, earlier, strict=True)):
                hint = directory.hint_of(handle).ljust(table.size, b"\0")
                yield _entry(sealing.context, output, directory.hint(at), hint)
                if table.is_lockable(number, rows, row):
                    others = directory.locked(earlier[:at] + earlier[at + 1 :])
                    (front,) = table.handles(own, [row], number)
                    part = table.pack(slice(row, row + 1)).tobytes()
                    yield _entry(sealing.context, output, others, front + part)


def _entry(context: bytes, output: Bytes, which: bytes, text: bytes) -> Bytes:
    tags, seeds = directory.tags_and_seeds(context, output, which)
    return np.concatenate([tags, seeds, np.frombuffer(text, np.uint8)[np.newaxis]], axis=1)


def _handle_key(secret: bytes) -> bytes:
    return hmac.digest(secret, b"vfl directory's handles", "sha256")


class _Maker:
    """Writes part after part."""

    def __init__(self, sealing: Sealing, size: int, sink: Sink, salt: bytes) -> None:
        self._sealing, self._size, self._sink = sealing, size, sink
        self._salt = np.frombuffer(salt, np.uint8)
        parts = 1 << sealing.bits
        self._counts = np.zeros(parts, np.uint32)
        self._salts = np.zeros((parts, SALT), np.uint8)
        self._digests = np.zeros((parts, DIGEST), np.uint8)
        own = hmac.digest(sealing.secret, b"vfl directory's table", "sha256")
        self._table, self._written = hashlib.blake2b(key=own, digest_size=DIGEST), 0

    def add(self, first: int, parts: int, rows: Bytes) -> None:
        """Write so many parts from the first on, of entries in any order."""
        rows = rows[directory.sorted_by_tag(rows[:, :TAG])]
        numbers = directory.numbers_of_parts(rows[:, :TAG], self._sealing.bits)
        counts = np.bincount(numbers - first, minlength=parts)
        self._counts[first : first + parts] = counts
        plain = np.concatenate([rows[:, :TAG], rows[:, TAG + SEED :]], axis=1)
        self._table.update(plain.tobytes())
        now = self._entries(rows, np.broadcast_to(self._salt, (len(rows), SALT)))
        before = self._sealing.before
        old = now if before is None else self._entries(rows, before.salts[numbers])
        stops = np.cumsum(counts).tolist()
        for number, start, stop in zip(range(first, first + parts), [0, *stops], stops, strict=False):
            content, salt = old[start:stop].tobytes(), self._salt
            digest = directory.digest_of_part(content)
            if before is not None and digest == before.digests[number].tobytes():
                salt = before.salts[number]
            else:
                content = now[start:stop].tobytes()
                digest = directory.digest_of_part(content)
                self._written += 1
            self._salts[number] = salt
            self._digests[number] = np.frombuffer(digest, np.uint8)
            self._sink.write(content)

    def _entries(self, rows: Bytes, salts: Bytes) -> Bytes:
        pads = directory.pads(rows[:, TAG : TAG + SEED], salts, self._size)
        return np.concatenate([rows[:, :TAG], rows[:, TAG + SEED :] ^ pads], axis=1)

    @property
    def sealed(self) -> Sealed:
        catalogue = Catalogue(self._counts, self._salts, self._digests)
        return Sealed(catalogue, self._table.digest(), self._written)
