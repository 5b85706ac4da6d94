"""The guest's vectors of whole numbers added up by a host's cells, under either encryption.

Of a table by factors (tables.py) and of many columns at once (screening.py). What the guest reads are
sums, or `hidden` sums with masks on them that the host knows. Masks are drawn by the first of the
vectors that lie side by side under them: none serves for two sums.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Integers, Mask, Words
from vfl.crypto.lattice.matrix import CellMatrix, CodedColumn, Outputs
from vfl.crypto.paillier import Ciphertexts
from vfl.crypto.randomness import Stream
from vfl.crypto.reserve import OwnReserve, Reserve
from vfl.crypto.sums import decrypt, encrypt, pack_and_mask
from vfl.crypto.workers import Workers
from vfl.errors import ConfigError
from vfl.learn.cells import Factor
from vfl.learn.fixed_point import BITS, FixedPoint, joined
from vfl.net.peer import Peer
from vfl.protocols.common import lattice_sums
from vfl.protocols.common.bits import unpack_bits
from vfl.protocols.common.histograms import CHUNK, JointSums
from vfl.protocols.common.key import generate_key, receive_key, send_key
from vfl.protocols.common.lattice_hints import HostHint, guest_meet, host_meet
from vfl.protocols.common.lattice_sums import Entries, Query, Shape
from vfl.protocols.common.participant import Resources
from vfl.protocols.oneway.host_cells import CodedCells
from vfl.protocols.oneway.messages import (
    MOST_VECTORS,
    TableEncryption,
    TableRows,
    TableSums,
    TableValues,
    TableVectors,
)
from vfl.text import counted

_HIDING_BITS = 64  # of a mask above all sums


# --------------------------------------------------------------------------------------- guest


@dataclass(frozen=True)
class AskedVectors:
    """The vectors of a table at the guest: digits of measures, by level of its own factor."""

    rows: int
    digits: list[Integers]
    value_bits: int
    codes: Integers | None
    groups: int
    hidden: bool

    @property
    def vectors(self) -> int:
        return vectors_of(len(self.digits), self.groups)

    @property
    def filled(self) -> list[int]:
        """Of each digit in how many rows it is not zero, roughly."""
        return [_roughly(int(np.count_nonzero(digit))) for digit in self.digits]

    @property
    def entries(self) -> Callable[..., Integers]:
        """A kernel that makes some vectors of blocks of rows."""
        return partial(_vectors, len(self.digits), self.groups)


def ask_for(
    measures: Sequence[FixedPoint],
    cells: int,
    terms: "HostTerms",
    own: Factor | None = None,
    hidden: bool = False,
) -> tuple[AskedVectors, list[list[int]]]:
    """The vectors of some measures for so many cells, and where among them the digits of each measure
    are; with a factor of the guest's sums are `hidden` in any case. Raises ConfigError."""
    rows, groups = len(measures[0].numbers), 0 if own is None else len(own.levels)
    bits = min(BITS, 61 - rows.bit_length())
    if terms.encryption == "lattice":
        # As many vectors at most as digits of a bit would be; few more bits would do with fewer.
        most = vectors_of(MOST_VECTORS, groups)
        bits = min(BITS, Shape(rows, 1, most, lifetime=1).widest(cells, 64) - 1)
        if bits < 1:
            raise ConfigError(
                f'encryption = "lattice" is not for tables of {counted(rows, "row")}: ask with '
                "--encryption paillier"
            )
    digits: list[Integers] = []
    places = []
    for measure in measures:
        own_digits = measure.digits(bits)
        places.append(list(range(len(digits), len(digits) + len(own_digits))))
        digits += own_digits
    if len(digits) > MOST_VECTORS:
        raise ConfigError(
            f"{counted(rows, 'row')} are too many for a table of so many sums: leave some out"
        )
    codes = None if own is None else own.codes
    return AskedVectors(rows, digits, bits + 1, codes, groups, hidden or groups > 0), places


def joined_digits(digits: NDArray[np.object_], bits: int) -> int | None:
    """A sum by those of its digits; None where one of these is."""
    known = [int(one) for one in digits if one is not None]
    return joined(known, bits) if len(known) == len(digits) else None


def _roughly(count: int) -> int:
    """The number in three binary digits, rounded down; 1 at least."""
    left = max(0, count.bit_length() - 3)
    return max(1, count >> left << left)


def vectors_of(digits: int, groups: int) -> int:
    """How many vectors a table has, with those that count rows."""
    return digits * groups + groups if groups else digits


def in_turn(count: int, most: int) -> list[range]:
    """The places of so many vectors, `most` at a time."""
    return [range(start, min(start + most, count)) for start in range(0, count, most)]


def _vectors(
    digits: int, groups: int, places: Sequence[int], values: Integers, codes: Integers
) -> Integers:
    """The vectors at some places, shape (places, rows)."""
    made = np.zeros((len(places), values.shape[1]), np.int64)
    for vector, place in zip(made, places, strict=True):
        if not groups:
            vector[:] = values[place]
            continue
        group, digit = (
            divmod(place, digits) if place < groups * digits else (place - groups * digits, -1)
        )
        at = codes == group
        vector[at] = 1 if digit < 0 else values[digit, at]
    return made


@dataclass(frozen=True)
class ReadSums:
    """Sums as the guest reads them, shape (vectors, cells); modulo 2^(64 - scale) under masks."""

    masked: Integers
    scale: int = 0

    def astype(self, kind: type[object]) -> NDArray[np.generic]:
        return self.masked.astype(kind)

    def uncovered(self, sums: Integers, masks: Words) -> Integers:
        """Without these masks."""
        return uncover(sums, masks, self.scale)


def uncover(sums: Integers, masks: Words, scale: int) -> Integers:
    """Masked sums, modulo 2^(64 - scale), without their masks."""
    left = (np.ascontiguousarray(sums).view(np.uint64) - masks) << np.uint64(scale)
    return np.asarray(left.view(np.int64) >> np.int64(scale))


async def read_sums(
    host: Peer,
    asked: AskedVectors,
    cells: int,
    terms: "HostTerms",
    resources: Resources,
) -> "ReadSums":
    """The guest's side: the sums of its vectors in so many cells. resources: with random numbers for
    these sums alone.

    Raises PeerError when the host breaks the protocol, ConfigError for sums that are too long.
    """
    kind = _LatticeGuest if terms.encryption == "lattice" else _PaillierGuest
    return await kind(host, asked, cells, terms.key_bits, resources).read()


@dataclass
class _LatticeGuest:
    """The guest over the lattice engine."""

    host: Peer
    asked: AskedVectors
    cells: int
    key_bits: int
    resources: Resources

    async def read(self) -> ReadSums:
        asked = self.asked
        shape = Shape(asked.rows, asked.value_bits, asked.vectors, lifetime=1)

        def accept(host: Peer, outputs: int) -> None:
            if outputs != self.cells:
                raise host.breach("HintSums of another number than there are cells")

        kind = np.int32 if asked.value_bits <= 32 else np.int64
        values = np.array(asked.digits, kind)
        codes = np.zeros(asked.rows, np.int8) if asked.codes is None else asked.codes.astype(np.int8)
        products, _ = await guest_meet([self.host], shape, resources=self.resources, accept=accept)
        found, scale = [], products.scale_bits
        try:
            for places in in_turn(asked.vectors, lattice_sums.BATCH):
                entries = Entries(len(places), partial(asked.entries, places), (values, codes))
                found += await products.query(entries, hidden=asked.hidden)
        finally:
            products.end()
        return ReadSums(np.concatenate(found), scale if asked.hidden else 0)


@dataclass
class _PaillierGuest:
    """The guest under a key of its own."""

    host: Peer
    asked: AskedVectors
    cells: int
    key_bits: int
    resources: Resources

    async def read(self) -> ReadSums:
        asked = self.asked
        slots = Slots.of(asked.rows, asked.value_bits, self.key_bits, asked.hidden)
        key = await asyncio.to_thread(
            generate_key, KeyParams(self.key_bits), self.resources.randomness.at("Paillier key")
        )
        values = np.array(asked.digits)
        codes = np.zeros(asked.rows, np.int8) if asked.codes is None else asked.codes
        found = []
        async with Workers(key, self.resources.machine, self.resources.operations, here=True) as pool:
            await send_key([self.host], key)
            reserve = OwnReserve(pool, 0, self.resources.randomness.key_at("obfuscators"))
            for places in in_turn(asked.vectors, slots.count):

                def chunks(places: range = places) -> Iterator[tuple[Integers, ...]]:
                    for start in range(0, asked.rows, CHUNK):
                        part = slice(start, start + CHUNK)
                        yield tuple(asked.entries(places, values[:, part], codes[part]))

                async for some in encrypt(pool, partial(side_by_side, slots.bits), chunks(), reserve):
                    await self.host.send(TableValues(some.tobytes()))
                width = pool.key.public.width
                data = (await self.host.recv(TableSums)).ciphertexts
                if len(data) != self.cells * width:
                    raise self.host.breach("TableSums of another number of cells")
                ciphertexts = np.frombuffer(data, np.uint8).reshape(self.cells, width)
                try:
                    pool.key.public.check(ciphertexts)
                    plaintexts = await decrypt(pool, ciphertexts)
                    n = int(pool.key.public.n)
                    found.append(slots.unpack([one % n for one in plaintexts], len(places)))
                except ValueError as error:
                    raise self.host.breach(f"TableSums with {error}") from None
        read = ReadSums(np.concatenate(found))
        if asked.hidden:
            return read
        sums = read.uncovered(read.masked, np.full(read.masked.shape, slots.bias, np.uint64))
        if np.abs(sums).max(initial=0) > asked.rows << asked.value_bits - 1:
            raise self.host.breach("TableSums beyond what rows can add up to")
        return ReadSums(sums)


def side_by_side(bits: int, *columns: Integers) -> list[int]:
    """One plaintext a row, of its numbers in slots of so many bits."""
    plaintexts = [0] * len(columns[0])
    for place, column in enumerate(columns):
        plaintexts = [
            whole + (one << bits * place) for whole, one in zip(plaintexts, column.tolist(), strict=True)
        ]
    return plaintexts


@dataclass(frozen=True)
class KeyParams:
    """What a table says of its key."""

    key_bits: int
    obfuscators: Literal["short", "full"] = "short"


@dataclass(frozen=True)
class Slots:
    """How the numbers of a row lie side by side in a plaintext: a sum, `bias` so that it is not
    negative, and a mask if there is one."""

    count: int
    bits: int
    bias: int
    mask_bits: int

    @classmethod
    def of(cls, rows: int, value_bits: int, key_bits: int, masked: bool) -> "Slots":
        """For sums over so many rows of numbers below 2^(value_bits - 1), whatever their sign."""
        sum_bits = value_bits - 1 + rows.bit_length()
        if sum_bits > 62:
            raise ConfigError(f"a table of {counted(rows, 'row')} has sums of more than 62 bits")
        mask_bits = sum_bits + _HIDING_BITS if masked else 0
        bits = max(sum_bits, mask_bits) + 2
        return cls((key_bits - 2) // bits, bits, 1 << sum_bits, mask_bits)

    def masks(self, count: int, stream: Stream) -> list[int]:
        """Masks for so many sums."""
        return [stream.bits(self.mask_bits) if self.mask_bits else 0 for _ in range(count)]

    def above(self, count: int, n: int, stream: Stream) -> int:
        """A mask of all that a plaintext has room for above so many sums, where a guest that made up
        longer numbers would read them: they would count as nothing."""
        return stream.below(n >> self.bits * count) << self.bits * count

    def unpack(self, plaintexts: Sequence[int], count: int) -> Integers:
        """Masked and biased sums modulo 2^64, shape (count, plaintexts); what is above them is for
        nobody."""
        found = np.empty((count, len(plaintexts)), np.uint64)
        for j, plaintext in enumerate(plaintexts):
            for i in range(count):
                found[i, j] = (plaintext >> (self.bits * i)) & ((1 << min(64, self.bits)) - 1)
        return found.view(np.int64)


# ---------------------------------------------------------------------------------------- host


@dataclass(frozen=True)
class HostTerms:
    """How a host adds up."""

    encryption: TableEncryption
    key_bits: Literal[2048, 3072, 4096]


@dataclass(frozen=True)
class HostVectors:
    """The vectors of a table as a host knows them."""

    rows: int
    value_bits: int
    digits: int
    groups: int
    hidden: bool

    @property
    def count(self) -> int:
        return vectors_of(self.digits, self.groups)


Count = Callable[[float], None]
"""Counts so many sums about each row of the table, before they are told; raises Refused."""


async def receive_rows(guest: Peer, rows: int) -> Mask:
    """Which of so many aligned rows a table is of. Raises PeerError."""
    asked = await guest.recv(TableRows)
    try:
        return unpack_bits(asked.rows, rows) if asked.rows else np.ones(rows, np.bool_)
    except ValueError as error:
        raise guest.breach(f"TableRows with {error}") from None


def sums_a_row(guest: Peer, vectors: TableVectors, rows: int) -> float:
    """How many sums about each of so many rows the vectors ask for, of each column: as trees count them,
    whose sums are those of all columns, too. Raises PeerError."""
    if max(vectors.filled) > rows:
        raise guest.breach("TableVectors that are not zero in more rows than there are")
    each = sum(1 / one for one in vectors.filled) * max(1, vectors.groups)
    return each + vectors.groups / rows


async def serve_sums(
    guest: Peer,
    told: HostVectors,
    cells: CodedCells,
    terms: HostTerms,
    resources: Resources,
    progress: Callable[[int, int], None],
) -> tuple[Words, int]:
    """The host's side: the masks of the sums, shape (vectors, cells), and the scale of `uncover`.
    resources: as of `read_sums`.

    Raises PeerError when the guest breaks the protocol.
    """
    if terms.encryption == "lattice":
        return await _serve_lattice(guest, told, cells, resources, progress)
    return await _serve_paillier(guest, told, cells, terms.key_bits, resources)


class _FreshHints:
    """Every table has a hint of its own."""

    def known(self) -> HostHint | None:
        return None

    def keep(self, hint: HostHint) -> None:
        return

    def promise(self, name: bytes, vectors: int, life: int) -> bool:
        return False


async def _serve_lattice(
    guest: Peer,
    told: HostVectors,
    cells: CodedCells,
    resources: Resources,
    progress: Callable[[int, int], None],
) -> tuple[Words, int]:
    """As `serve_sums`."""
    shape = Shape(told.rows, told.value_bits, told.count, lifetime=1)
    matrix = _matrix(cells)
    products = await host_meet(
        guest,
        lambda secret: matrix,
        cells.count,
        shape,
        resources=resources,
        hints=_FreshHints(),
        progress=progress,
    )
    masks: list[Words] = []
    try:
        while (left := told.count - sum(map(len, masks))) > 0:
            query = await guest.recv(Query)
            if query.vectors > left:
                raise guest.breach("a Query of more vectors than the table has")
            masks.append(await products.serve(query, hidden=told.hidden))
    finally:
        products.end()
    return np.concatenate(masks), products.scale_bits


def _matrix(cells: CodedCells) -> CellMatrix:
    """The rows of each cell as a matrix."""
    columns = []
    for codes, size in cells.columns:
        kind = np.uint8 if size < 1 << 8 else np.uint16
        columns.append(CodedColumn(np.where(codes < 0, size, codes).astype(kind), size + 1))
    at, count = cells.told, cells.count
    return CellMatrix(columns, Outputs(np.arange(count + 1), at, np.ones(count, np.int64)))


async def _serve_paillier(
    guest: Peer,
    told: HostVectors,
    cells: CodedCells,
    key_bits: int,
    resources: Resources,
) -> tuple[Words, int]:
    """As `_serve_lattice`."""
    key = await receive_key(guest, KeyParams(key_bits), resources.randomness.at("base"))
    slots = Slots.of(told.rows, told.value_bits, key_bits, told.hidden)
    codes = np.array([np.where(own < 0, size, own) for own, size in cells.columns], np.uint16)
    sizes = [size + 1 for _, size in cells.columns]
    made: list[Words] = []
    async with Workers(key, resources.machine, resources.operations, here=True) as pool:
        reserve = Reserve(pool, cells.count, resources.randomness.key_at("obfuscators"))
        store = pool.rows(told.rows, key.width)
        try:
            for places in in_turn(told.count, slots.count):
                joint = JointSums(pool, store, sizes, 1)
                await asyncio.to_thread(joint.group, codes, np.zeros(told.rows, np.int64))
                await joint.receive(guest, TableValues, lambda m: m.ciphertexts, told.rows)
                (sums,) = await joint.histograms()
                stream = resources.randomness.at("masks", places.start)
                sealed, masks = await masked(reserve, sums[cells.told], slots, len(places), stream)
                await guest.send(TableSums(sealed.tobytes()))
                made.append(masks)
        finally:
            store.close()
    return np.concatenate(made), 0


async def masked(
    reserve: Reserve, sums: Ciphertexts, slots: Slots, count: int, stream: Stream
) -> tuple[Ciphertexts, Words]:
    """Sums of so many numbers side by side, of each cell, under masks; and these, modulo 2^64, shape
    (count, cells)."""
    masks = [slots.masks(count, stream) for _ in range(len(sums))]
    added = [[one + slots.bias for one in of_cell] for of_cell in masks]
    above = partial(slots.above, count, int(reserve.workers.key.n), stream)
    side = [above() + sum(one << slots.bits * i for i, one in enumerate(each)) for each in added]
    sealed = await pack_and_mask(reserve, sums, slots.bits, 1, side)
    low = [[one & ((1 << 64) - 1) for one in of_cell] for of_cell in added]
    return sealed, np.array(low, np.uint64).T
