"""A table of the guest's sums by the levels of a host's factor, and of a factor of its own.

The sums of whole numbers that the guest has of each row (claims, exposure, what a model expects; in
fixed point, cut into digits), by cells that a host has: the encrypted sums of trees, of a few vectors.

 1. The guest says of which aligned rows the table is. The host cuts its factor into levels of enough
    rows, and says what they are called (as its policy allows), how many rows each has, how many rows a
    cell must have, and under which encryption it adds up. Of two factors of its own it knows all cells,
    and withholds those of too few rows with what they would follow from (learn/cells.py).
 2. The guest groups the levels of its own factor, if there is one, such that each has enough rows, and
    says how many vectors it has. The host counts what it is about to tell.
 3. The guest sends its vectors encrypted: those of common/lattice_sums.py, or rows under its own key
    with many numbers side by side in a ciphertext. With a factor of its own each vector comes once for
    each of its levels, zero in other rows, and then a 0/1 vector for each level. The host adds up by
    cell.
 4. Without a factor of the guest's the guest reads the sums. With one the host has hidden them all under
    masks of its own: of the last vectors the guest gives what it reads back, and the host so learns how
    many rows each cell has. It withholds cells as in 1, and tells the masks of all others.

What the guest adds up the host does not see, and not which of its levels is which. A guest that does not
follow the protocol can ask for sums of rows of its choice, as in trees: docs/leakage.md.
"""

import asyncio
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Integers, Mask, Words
from vfl.crypto.lattice.matrix import CellMatrix, CodedColumn, Outputs
from vfl.crypto.reserve import OwnReserve, Reserve
from vfl.crypto.sums import decrypt, encrypt, pack_and_mask
from vfl.crypto.workers import Workers
from vfl.errors import ConfigError
from vfl.learn.cells import Factor, withhold
from vfl.learn.factor_tables import CellSums
from vfl.learn.fixed_point import BITS, FixedPoint, joined
from vfl.net.peer import Peer
from vfl.protocols.common import lattice_sums
from vfl.protocols.common.bits import pack_bits, unpack_bits
from vfl.protocols.common.histograms import CHUNK, JointSums
from vfl.protocols.common.key import generate_key, receive_key, send_key
from vfl.protocols.common.lattice_hints import HostHint, guest_meet, host_meet
from vfl.protocols.common.lattice_sums import Entries, Query, Shape
from vfl.protocols.common.participant import Resources
from vfl.protocols.oneway.host_cells import HostCells, too_few_rows
from vfl.protocols.oneway.messages import (
    MOST_VECTORS,
    FactorCells,
    MaskedRows,
    OpenedCells,
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
class ToldTable:
    """What the guest has: the levels of the host's factors and of its own, rows and sums by cell.

    rows has shape (cells, groups), -1 where a cell is withheld; sums, of each measure, the same shape.
    """

    levels: list[list[str]]
    own: tuple[str, ...]
    rows: Integers
    sums: list[list[list[int | None]]]
    least: int
    encryption: TableEncryption

    @property
    def cell_sums(self) -> CellSums:
        """All cells, the guest's own factor last."""
        levels = [tuple(levels) for levels in self.levels]
        rows = [None if one < 0 else one for one in self.rows.ravel().tolist()]
        sums = [[one for of_cell in of for one in of_cell] for of in self.sums]
        return CellSums((*levels, *([self.own] if self.own else [])), rows, sums)


@dataclass(frozen=True)
class _Asked:
    """The vectors of a table at the guest: digits of measures, by level of its own factor."""

    rows: int
    digits: list[Integers]
    value_bits: int
    codes: Integers | None
    groups: int

    @property
    def vectors(self) -> int:
        return vectors_of(len(self.digits), self.groups)

    @property
    def entries(self) -> Callable[..., Integers]:
        """A kernel that makes some vectors of blocks of rows."""
        return partial(_vectors, len(self.digits), self.groups)


def vectors_of(digits: int, groups: int) -> int:
    """How many vectors a table has, with those that count rows."""
    return digits * groups + groups if groups else digits


def _in_turn(count: int, most: int) -> list[range]:
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


async def guest_table(
    host: Peer,
    chosen: Mask | None,
    measures: Sequence[FixedPoint],
    group: Callable[[int], Factor] | None,
    resources: Resources,
) -> ToldTable:
    """Play the guest. chosen: the aligned rows that the table is of, None for all; `measures` are of
    these. group: the guest's own factor, with levels of so many rows at least; raises VflError.

    Raises PeerError when the host breaks the protocol, ConfigError for a table that cannot be.
    """
    # 1. The rows, and what the host has of them.
    await host.send(TableRows(b"" if chosen is None else pack_bits(chosen)))
    cells = await host.recv(FactorCells)
    sizes = [len(levels) for levels in cells.levels]
    if 0 in sizes or len(cells.rows) != int(np.prod(sizes)):
        raise host.breach("FactorCells of another number of cells than its levels have")
    rows = len(measures[0].numbers)
    shown = np.array(cells.rows, np.int64)
    if not (shown >= 0).any() or shown[shown >= 0].sum() > rows:
        raise host.breach("FactorCells of no cell, or of more rows than there are")
    # 2. The vectors.
    own = None if group is None else group(cells.least)
    asked, places = _ask(cells, rows, measures, own)
    filled = [_roughly(int(np.count_nonzero(digit))) for digit in asked.digits]
    await host.send(TableVectors(asked.groups, asked.value_bits, filled))
    # 3. The sums.
    count = int((shown >= 0).sum())
    sums = _LatticeGuest if cells.encryption == "lattice" else _PaillierGuest
    read = await sums(host, asked, count, cells.key_bits, resources).read()
    # 4. Those that are told.
    if own is None:
        table = np.full((1, len(asked.digits), len(shown)), None, object)
        table[0][:, shown >= 0] = read.astype(object)
        rows_of = shown[:, np.newaxis]
    else:
        table, rows_of = await _opened(host, asked, read, cells)
    bits = asked.value_bits - 1
    return ToldTable(
        cells.levels,
        () if own is None else own.levels,
        rows_of,
        [
            [
                [_joined(table[g, at, cell], bits) for g in range(len(table))]
                for cell in range(len(shown))
            ]
            for at in places
        ],
        cells.least,
        cells.encryption,
    )


def _roughly(count: int) -> int:
    """The number in three binary digits, rounded down; 1 at least."""
    left = max(0, count.bit_length() - 3)
    return max(1, count >> left << left)


def _joined(digits: NDArray[np.object_], bits: int) -> int | None:
    known = [int(one) for one in digits if one is not None]
    return joined(known, bits) if len(known) == len(digits) else None


def _ask(
    cells: FactorCells, rows: int, measures: Sequence[FixedPoint], own: Factor | None
) -> tuple[_Asked, list[list[int]]]:
    """The vectors, and where among them the digits of each measure are."""
    groups, count = 0 if own is None else len(own.levels), sum(one >= 0 for one in cells.rows)
    bits = min(BITS, 61 - rows.bit_length())
    if cells.encryption == "lattice":
        # As many vectors at most as digits of a bit would be; few more bits would do with fewer.
        most = vectors_of(MOST_VECTORS, groups)
        bits = min(BITS, Shape(rows, 1, most, lifetime=1).widest(count, 64) - 1)
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
    return _Asked(rows, digits, bits + 1, None if own is None else own.codes, groups), places


async def _opened(
    host: Peer, asked: _Asked, read: "_Read", cells: FactorCells
) -> tuple[NDArray[np.object_], Integers]:
    """Step 4 with a factor of the guest's: digits by group and cell, and rows by cell and group."""
    digits, groups, count = len(asked.digits), asked.groups, len(cells.rows)
    await host.send(MaskedRows(read.masked[digits * groups :].astype("<i8").tobytes()))
    opened = await host.recv(OpenedCells)
    try:
        shown = unpack_bits(opened.shown, count * groups).reshape(count, groups)
    except ValueError as error:
        raise host.breach(f"OpenedCells with {error}") from None
    if len(opened.masks) != int(shown.sum()) * (digits + 1) * 8:
        raise host.breach("OpenedCells of another number of masks than cells that are shown")
    masks = np.frombuffer(opened.masks, "<u8").reshape(-1, digits + 1)
    table = np.full((groups, digits, count), None, object)
    rows = np.full((count, groups), -1, np.int64)
    for mask, (cell, group) in zip(masks, np.argwhere(shown).tolist(), strict=True):
        at = [*range(group * digits, (group + 1) * digits), digits * groups + group]
        sums = read.uncovered(read.masked[at, cell], mask)
        bound = asked.rows << asked.value_bits - 1
        if np.abs(sums).max() > bound or not cells.least <= sums[-1] <= cells.rows[cell]:
            raise host.breach("OpenedCells of what is no sum of its rows")
        table[group, :, cell], rows[cell, group] = sums[:-1].tolist(), sums[-1]
    return table, rows


@dataclass(frozen=True)
class _Read:
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


@dataclass
class _LatticeGuest:
    """The guest over the lattice engine."""

    host: Peer
    asked: _Asked
    cells: int
    key_bits: int
    resources: Resources

    async def read(self) -> _Read:
        asked = self.asked
        shape = Shape(asked.rows, asked.value_bits, asked.vectors, lifetime=1)

        def accept(host: Peer, outputs: int) -> None:
            if outputs != self.cells:
                raise host.breach("HintSums of another number than there are cells")

        products, _ = await guest_meet(
            [self.host], shape, operations=self.resources.operations, accept=accept
        )
        kind = np.int32 if asked.value_bits <= 32 else np.int64
        values = np.array(asked.digits, kind)
        codes = np.zeros(asked.rows, np.int8) if asked.codes is None else asked.codes.astype(np.int8)
        found, scale = [], products.scale_bits
        try:
            for places in _in_turn(asked.vectors, lattice_sums.BATCH):
                entries = Entries(len(places), partial(asked.entries, places), (values, codes))
                found += await products.query(entries, hidden=bool(asked.groups))
        finally:
            products.end()
        return _Read(np.concatenate(found), scale if asked.groups else 0)


@dataclass
class _PaillierGuest:
    """The guest under a key of its own."""

    host: Peer
    asked: _Asked
    cells: int
    key_bits: int
    resources: Resources

    async def read(self) -> _Read:
        asked = self.asked
        slots = Slots.of(asked.rows, asked.value_bits, self.key_bits, bool(asked.groups))
        key = await asyncio.to_thread(generate_key, _KeyParams(self.key_bits))
        values = np.array(asked.digits)
        codes = np.zeros(asked.rows, np.int8) if asked.codes is None else asked.codes
        found = []
        async with Workers(key, self.resources.machine, self.resources.operations, here=True) as pool:
            await send_key([self.host], key)
            reserve = OwnReserve(pool, 0)
            for places in _in_turn(asked.vectors, slots.count):

                def chunks(places: range = places) -> Iterator[tuple[Integers, ...]]:
                    for start in range(0, asked.rows, CHUNK):
                        part = slice(start, start + CHUNK)
                        yield tuple(asked.entries(places, values[:, part], codes[part]))

                async for some in encrypt(pool, partial(_side_by_side, slots.bits), chunks(), reserve):
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
        read = _Read(np.concatenate(found))
        if asked.groups:
            return read
        sums = read.uncovered(read.masked, np.full(read.masked.shape, slots.bias, np.uint64))
        if np.abs(sums).max(initial=0) > asked.rows << asked.value_bits - 1:
            raise self.host.breach("TableSums beyond what rows can add up to")
        return _Read(sums)


def _side_by_side(bits: int, *columns: Integers) -> list[int]:
    """One plaintext a row, of its numbers in slots of so many bits."""
    plaintexts = [0] * len(columns[0])
    for place, column in enumerate(columns):
        plaintexts = [
            whole + (one << bits * place) for whole, one in zip(plaintexts, column.tolist(), strict=True)
        ]
    return plaintexts


@dataclass(frozen=True)
class _KeyParams:
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

    def masks(self, count: int) -> list[int]:
        """Masks for so many sums."""
        return [secrets.randbits(self.mask_bits) if self.mask_bits else 0 for _ in range(count)]

    def above(self, count: int, n: int) -> int:
        """A mask of all that a plaintext has room for above so many sums, where a guest that made up
        longer numbers would read them: they would count as nothing."""
        return secrets.randbelow(n >> self.bits * count) << self.bits * count

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


Count = Callable[[float], None]
"""Counts so many sums about each row of the table, before they are told; raises Refused."""


async def host_table(
    guest: Peer,
    rows: int,
    cells_of: Callable[[Mask], HostCells],
    terms: HostTerms,
    count: Count,
    resources: Resources,
    *,
    hint_progress: Callable[[int, int], None] = lambda done, of: None,
) -> None:
    """Play a host with so many aligned rows. cells_of: what it has of some of them, raises Refused.

    Raises PeerError when the guest breaks the protocol.
    """
    # 1. The rows, and what is told of them.
    asked = await guest.recv(TableRows)
    try:
        chosen = unpack_bits(asked.rows, rows) if asked.rows else np.ones(rows, np.bool_)
    except ValueError as error:
        raise guest.breach(f"TableRows with {error}") from None
    cells = await asyncio.to_thread(cells_of, chosen)
    of_cells = cells.rows.tolist()
    await guest.send(FactorCells(terms.encryption, terms.key_bits, cells.least, cells.levels, of_cells))
    # 2. The vectors.
    vectors = await guest.recv(TableVectors)
    number = len(cells.codes)
    if vectors.groups and len(cells.levels) > 1:
        raise guest.breach("TableVectors of a third factor")
    if max(vectors.filled) > number:
        raise guest.breach("TableVectors that are not zero in more rows than there are")
    each = sum(1 / one for one in vectors.filled) * max(1, vectors.groups)
    await asyncio.to_thread(count, each + vectors.groups / number)
    # 3. The sums.
    told = _Vectors(number, vectors.value_bits, len(vectors.filled), vectors.groups)
    if terms.encryption == "lattice":
        masks, scale = await _serve_lattice(guest, told, cells, resources, hint_progress)
    else:
        masks, scale = await _serve_paillier(guest, told, cells, terms.key_bits, resources)
    # 4. Those that may be told.
    if vectors.groups:
        await _open(guest, told, cells, masks, scale)


@dataclass(frozen=True)
class _Vectors:
    """The vectors of a table as a host knows them."""

    rows: int
    value_bits: int
    digits: int
    groups: int

    @property
    def count(self) -> int:
        return vectors_of(self.digits, self.groups)


async def _open(guest: Peer, told: _Vectors, cells: HostCells, masks: Words, scale: int) -> None:
    digits, groups = told.digits, told.groups
    data = (await guest.recv(MaskedRows)).sums
    if len(data) != groups * cells.count * 8:
        raise guest.breach("MaskedRows of another number of cells")
    read = np.frombuffer(data, "<i8").astype(np.int64).reshape(groups, cells.count)
    rows = uncover(read, masks[digits * groups :], scale).T
    if rows.min() < 0 or not np.array_equal(rows.sum(axis=1), cells.rows):
        raise guest.breach("MaskedRows that do not add up to the rows of the levels")
    withheld = await asyncio.to_thread(withhold, rows, cells.least)
    if withheld is None:
        raise too_few_rows(cells.least)
    chosen = [
        masks[[*range(group * digits, (group + 1) * digits), digits * groups + group], cell]
        for cell, group in np.argwhere(~withheld).tolist()
    ]
    await guest.send(OpenedCells(pack_bits(~withheld), np.array(chosen).astype("<u8").tobytes()))


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
    told: _Vectors,
    cells: HostCells,
    resources: Resources,
    progress: Callable[[int, int], None],
) -> tuple[Words, int]:
    """The masks of the sums, shape (vectors, cells), and the scale of `uncover`."""
    shape = Shape(told.rows, told.value_bits, told.count, lifetime=1)
    matrix = _matrix(cells)
    products = await host_meet(
        guest,
        lambda secret: matrix,
        cells.count,
        shape,
        hints=_FreshHints(),
        operations=resources.operations,
        progress=progress,
    )
    masks: list[Words] = []
    try:
        while (left := told.count - sum(map(len, masks))) > 0:
            query = await guest.recv(Query)
            if query.vectors > left:
                raise guest.breach("a Query of more vectors than the table has")
            masks.append(await products.serve(query, hidden=bool(told.groups)))
    finally:
        products.end()
    return np.concatenate(masks), products.scale_bits


def _matrix(cells: HostCells) -> CellMatrix:
    """The rows of each cell as a matrix."""
    count = cells.count
    kind = np.uint8 if count < 1 << 8 else np.uint16
    codes = np.where(cells.codes < 0, count, cells.codes).astype(kind)
    each = np.arange(count)
    return CellMatrix(
        [CodedColumn(codes, count + 1)], Outputs(np.arange(count + 1), each, np.ones(count, np.int64))
    )


async def _serve_paillier(
    guest: Peer,
    told: _Vectors,
    cells: HostCells,
    key_bits: int,
    resources: Resources,
) -> tuple[Words, int]:
    """As `_serve_lattice`."""
    key = await receive_key(guest, _KeyParams(key_bits))
    slots = Slots.of(told.rows, told.value_bits, key_bits, bool(told.groups))
    codes = np.where(cells.codes < 0, cells.count, cells.codes)[np.newaxis].astype(np.uint16)
    made: list[Words] = []
    async with Workers(key, resources.machine, resources.operations, here=True) as pool:
        reserve = Reserve(pool, cells.count)
        store = pool.rows(told.rows, key.width)
        try:
            for places in _in_turn(told.count, slots.count):
                joint = JointSums(pool, store, [cells.count + 1], 1)
                await asyncio.to_thread(joint.group, codes, np.zeros(told.rows, np.int64))
                await joint.receive(guest, TableValues, lambda m: m.ciphertexts, told.rows)
                (sums,) = await joint.histograms()
                masks = [slots.masks(len(places)) for _ in range(cells.count)]
                added = [[one + slots.bias for one in of_cell] for of_cell in masks]
                above = partial(slots.above, len(places), int(key.n))
                side = [
                    above() + sum(one << slots.bits * i for i, one in enumerate(each)) for each in added
                ]
                sealed = await pack_and_mask(reserve, sums[: cells.count], slots.bits, 1, side)
                await guest.send(TableSums(sealed.tobytes()))
                low = [[one & ((1 << 64) - 1) for one in of_cell] for of_cell in added]
                made.append(np.array(low, np.uint64).T)
        finally:
            store.close()
    return np.concatenate(made), 0
