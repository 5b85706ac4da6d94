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
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Integers, Mask, Words
from vfl.learn.cells import Factor, withhold
from vfl.learn.factor_tables import CellSums
from vfl.learn.fixed_point import FixedPoint
from vfl.net.peer import Peer
from vfl.protocols.common.bits import pack_bits, unpack_bits
from vfl.protocols.common.participant import Resources
from vfl.protocols.oneway.host_cells import HostCells, too_few_rows
from vfl.protocols.oneway.messages import (
    FactorCells,
    MaskedRows,
    OpenedCells,
    TableEncryption,
    TableRows,
    TableVectors,
)
from vfl.protocols.oneway.sums import (
    AskedVectors,
    Count,
    HostTerms,
    HostVectors,
    ReadSums,
    ask_for,
    joined_digits,
    read_sums,
    receive_rows,
    serve_sums,
    sums_a_row,
    uncover,
)

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
    count = int((shown >= 0).sum())
    terms = HostTerms(cells.encryption, cells.key_bits)
    asked, places = ask_for(measures, count, terms, own)
    await host.send(TableVectors(asked.groups, asked.value_bits, asked.filled))
    # 3. The sums.
    read = await read_sums(host, asked, count, terms, resources)
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
                [joined_digits(table[g, at, cell], bits) for g in range(len(table))]
                for cell in range(len(shown))
            ]
            for at in places
        ],
        cells.least,
        cells.encryption,
    )


async def _opened(
    host: Peer, asked: AskedVectors, read: ReadSums, cells: FactorCells
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


# ---------------------------------------------------------------------------------------- host


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
    chosen = await receive_rows(guest, rows)
    cells = await asyncio.to_thread(cells_of, chosen)
    of_cells = cells.rows.tolist()
    await guest.send(FactorCells(terms.encryption, terms.key_bits, cells.least, cells.levels, of_cells))
    # 2. The vectors.
    vectors = await guest.recv(TableVectors)
    number = len(cells.codes)
    if vectors.groups and len(cells.levels) > 1:
        raise guest.breach("TableVectors of a third factor")
    await asyncio.to_thread(count, sums_a_row(guest, vectors, number))
    # 3. The sums.
    hidden = vectors.groups > 0
    told = HostVectors(number, vectors.value_bits, len(vectors.filled), vectors.groups, hidden)
    masks, scale = await serve_sums(guest, told, cells.coded, terms, resources, hint_progress)
    # 4. Those that may be told.
    if vectors.groups:
        await _open(guest, told, cells, masks, scale)


async def _open(guest: Peer, told: HostVectors, cells: HostCells, masks: Words, scale: int) -> None:
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
