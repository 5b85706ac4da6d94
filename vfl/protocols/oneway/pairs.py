"""A table of the guest's sums by the levels of two hosts' factors, under the guest's key.

The sum of a cell is that of the guest's number times whether a row has the one host's level and the
other's. Neither host may learn the other's levels, nor the guest either's. So encrypted numbers go from
hand to hand, and levels stay where they are:

 1. The guest says of which aligned rows (TableRows). Each host cuts its factor into levels of enough
    rows, and says what they are called and how many rows each has.
 2. The guest says how many vectors it has, and to each host how many levels the other has. Each counts
    what is about to be told.
 3. The guest sends the first host a ciphertext a row, under its own key: its numbers side by side, then
    a 1. The first host moves each row's numbers to where its level has its place in a plaintext, by a
    power of two; a row whose level is in none of the places of this pass becomes zero. All are
    re-randomised by n-th powers that are uniform, and go to the second host, sealed from the guest,
    through which they come (linear/relayed.py).
 4. The second host adds them up by its own levels, puts masks of its own on all sums, and sends these to
    the guest. The guest gives back what it reads of the counts, and the second host so learns how many
    rows each cell has. It withholds cells as tables.py does, by the greater of both hosts' least rows,
    and tells the masks of all others.

Learned by the second host: how many rows each of its levels has in common with each level of the first
host's, which are numbers without a name. By the first host: nothing of any row. By the guest: the cells
that are told. Without re-randomisation the second host would read levels from what squares leave behind
(Jacobi's symbol of an even power is 1). All follow the protocol, and nobody works with others: the
guest with the second host would read each row's level at the first.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import gmpy2
import numpy as np

from vfl.arrays import Integers, Mask, Words
from vfl.crypto.paillier import Ciphertexts, InvalidCiphertext, PublicKey
from vfl.crypto.randomness import Randomness
from vfl.crypto.reserve import OwnReserve, Reserve
from vfl.crypto.sums import decrypt, encrypt
from vfl.crypto.workers import Workers
from vfl.errors import ConfigError
from vfl.learn.cells import withhold
from vfl.learn.factor_tables import CellSums
from vfl.learn.fixed_point import FixedPoint, joined
from vfl.net.peer import Peer, together
from vfl.protocols.common.bits import pack_bits, unpack_bits
from vfl.protocols.common.fellows import exchange_keys, relay_keys
from vfl.protocols.common.histograms import CHUNK, JointSums
from vfl.protocols.common.key import generate_key, receive_key, send_key
from vfl.protocols.common.participant import Participant, Resources
from vfl.protocols.linear.relayed import RelayedPeer, relay
from vfl.protocols.oneway.host_cells import HostCells, too_few_rows
from vfl.protocols.oneway.messages import (
    MaskedRows,
    OpenedCells,
    PairCells,
    PairLevels,
    PairVectors,
    TableRows,
    TableSums,
    TableValues,
    TableVectors,
)
from vfl.protocols.oneway.sums import (
    Count,
    HostTerms,
    KeyParams,
    Slots,
    ask_for,
    masked,
    receive_rows,
    side_by_side,
    sums_a_row,
    uncover,
)
from vfl.text import counted


@dataclass(frozen=True)
class Layout:
    """Where the numbers of rows and levels lie: each level of the first host's has a stretch of slots,
    of digits and a 1, and a pass as many levels as a plaintext has room for."""

    slots: Slots
    digits: int
    levels: int

    @classmethod
    def of(cls, rows: int, value_bits: int, key_bits: int, digits: int, levels: int) -> "Layout":
        """Raises ConfigError where not even one level has room."""
        slots = Slots.of(rows, value_bits, key_bits, True)
        if digits + 1 > slots.count:
            raise ConfigError(
                f"a table of two hosts' factors has no room for {counted(digits, 'sum')} a cell: leave "
                "--model out, or ask for one factor"
            )
        return cls(slots, digits, levels)

    @property
    def stretch(self) -> int:
        """Slots of a level."""
        return self.digits + 1

    @property
    def passes(self) -> list[range]:
        """The levels of each."""
        most = self.slots.count // self.stretch
        return [range(first, min(first + most, self.levels)) for first in range(0, self.levels, most)]

    def shifts(self, codes: Integers, levels: range) -> list[int]:
        """By how many bits each row's numbers move; -1 for a row that is in no level of a pass."""
        inside = (codes >= levels.start) & (codes < levels.stop)
        bits = self.slots.bits * self.stretch
        shifts: list[int] = np.where(inside, (codes - levels.start) * bits, -1).tolist()
        return shifts


@dataclass(frozen=True)
class PairTable:
    """What the guest has: the levels of both hosts' factors, and their cells."""

    cells: CellSums
    least: int


# --------------------------------------------------------------------------------------- guest


async def guest_pair(
    hosts: tuple[Peer, Peer], chosen: Mask | None, measures: Sequence[FixedPoint], resources: Resources
) -> PairTable:
    """Play the guest; as `guest_table`, with the factors in the order of their hosts."""
    first, second = hosts
    rows = len(measures[0].numbers)
    # 1. The rows, and what the hosts have of them.
    await together(
        [host.send(TableRows(b"" if chosen is None else pack_bits(chosen))) for host in hosts]
    )
    told = await together([host.recv(PairCells) for host in hosts])
    for host, cells in zip(hosts, told, strict=True):
        if len(cells.rows) != len(cells.levels) or sum(cells.rows) != rows:
            raise host.breach("PairCells that are not all rows by levels")
    # 2. The vectors.
    one, two = told
    key_bits = max(one.key_bits, two.key_bits)
    count = len(one.levels) * len(two.levels)
    asked, places = ask_for(measures, count, HostTerms("paillier", key_bits))
    layout = Layout.of(rows, asked.value_bits, key_bits, len(asked.digits), len(one.levels))
    for host, other in ((first, two), (second, one)):
        await host.send(PairVectors(len(other.levels), key_bits, asked.value_bits, asked.filled))
    # 3. The numbers to the first host, from there to the second.
    await relay_keys(hosts)
    key = await asyncio.to_thread(
        generate_key, KeyParams(key_bits), resources.randomness.at("Paillier key")
    )
    values = np.array([*asked.digits, np.ones(rows, np.int64)])
    async with Workers(key, resources.machine, resources.operations, here=True) as pool:
        await send_key(hosts, key)

        def chunks() -> Iterator[tuple[Integers, ...]]:
            for start in range(0, rows, CHUNK):
                yield tuple(values[:, start : start + CHUNK])

        numbers = partial(side_by_side, layout.slots.bits)
        async for some in encrypt(
            pool, numbers, chunks(), OwnReserve(pool, 0, resources.randomness.key_at("obfuscators"))
        ):
            await first.send(TableValues(some.tobytes()))
        await relay(first, second)
        # 4. The sums.
        read = await _read(second, pool.key.public, layout, len(two.levels), partial(decrypt, pool))
    return await _opened(second, read, layout, (one, two), (places, asked.value_bits))


async def _read(
    host: Peer,
    key: PublicKey,
    layout: Layout,
    cells: int,
    decrypted: Callable[[Ciphertexts], Awaitable[list[int]]],
) -> Integers:
    """The masked sums, shape (levels of the first host's, digits and count, cells)."""
    found = []
    for levels in layout.passes:
        data = (await host.recv(TableSums)).ciphertexts
        if len(data) != cells * key.width:
            raise host.breach("TableSums of another number of cells")
        ciphertexts = np.frombuffer(data, np.uint8).reshape(cells, key.width)
        count = len(levels) * layout.stretch
        try:
            key.check(ciphertexts)
            plaintexts = [one % int(key.n) for one in await decrypted(ciphertexts)]
        except ValueError as error:
            raise host.breach(f"TableSums with {error}") from None
        unpacked = layout.slots.unpack(plaintexts, count)
        found.append(unpacked.reshape(len(levels), layout.stretch, cells))
    return np.concatenate(found)


async def _opened(
    host: Peer,
    read: Integers,
    layout: Layout,
    told: tuple[PairCells, PairCells],
    digits: tuple[list[list[int]], int],
) -> PairTable:
    """Step 4: the cells that the second host tells."""
    one, two = told
    places, value_bits = digits
    shape, least = (len(one.levels), len(two.levels)), max(one.least, two.least)
    await host.send(MaskedRows(np.ascontiguousarray(read[:, -1]).astype("<i8").tobytes()))
    opened = await host.recv(OpenedCells)
    try:
        shown = unpack_bits(opened.shown, shape[0] * shape[1]).reshape(shape)
    except ValueError as error:
        raise host.breach(f"OpenedCells with {error}") from None
    if len(opened.masks) != int(shown.sum()) * layout.stretch * 8:
        raise host.breach("OpenedCells of another number of masks than cells that are shown")
    masks = np.frombuffer(opened.masks, "<u8").reshape(-1, layout.stretch)
    rows: list[int | None] = [None] * shown.size
    sums: list[list[int | None]] = [[None] * shown.size for _ in places]
    bound = sum(one.rows) << value_bits - 1
    for mask, (level, cell) in zip(masks, np.argwhere(shown).tolist(), strict=True):
        own = uncover(read[level, :, cell], mask, 0)
        most = min(one.rows[level], two.rows[cell])
        if np.abs(own).max() > bound or not least <= own[-1] <= most:
            raise host.breach("OpenedCells of what is no sum of its rows")
        at = level * shape[1] + cell
        rows[at] = int(own[-1])
        for of_measure, where in zip(sums, places, strict=True):
            of_measure[at] = joined([int(own[place]) for place in where], value_bits - 1)
    return PairTable(CellSums((tuple(one.levels), tuple(two.levels)), rows, sums), least)


# ---------------------------------------------------------------------------------------- host


async def host_pair(
    guest: Peer,
    rows: int,
    cells_of: Callable[[Mask], HostCells],
    terms: HostTerms,
    count: Count,
    participant: Participant,
) -> None:
    """Play one of both hosts, with so many aligned rows; the first of the participant's hosts moves
    numbers, the second adds them up. cells_of: what it has of some rows by its factor, raises Refused.

    Raises PeerError when the guest or the other host breaks the protocol.
    """
    # 1. The rows, and what is told of them.
    chosen = await receive_rows(guest, rows)
    cells = await asyncio.to_thread(cells_of, chosen)
    await guest.send(PairCells(terms.key_bits, cells.least, cells.levels[0], cells.rows.tolist()))
    # 2. The vectors.
    asked, number = await guest.recv(PairVectors), len(cells.codes)
    if asked.key_bits < terms.key_bits:
        raise guest.breach("PairVectors of a shorter key than the policy has")
    vectors = TableVectors(asked.levels, asked.value_bits, asked.filled)
    await asyncio.to_thread(count, sums_a_row(guest, vectors, number))
    # 3. The other host, and the key.
    secrets_with = await exchange_keys(guest, participant)
    is_first = participant.hosts[0] == participant.name
    other = participant.hosts[is_first]
    peer = RelayedPeer(guest, participant.name, other, secrets_with[other], "table")
    key = await receive_key(
        guest, KeyParams(asked.key_bits), participant.resources.randomness.at("base")
    )
    levels = len(cells.levels[0]) if is_first else asked.levels
    layout = Layout.of(number, asked.value_bits, asked.key_bits, len(asked.filled), levels)
    resources = participant.resources
    async with Workers(key, resources.machine, resources.operations, here=True) as pool:
        if is_first:
            given = guest, peer, cells, layout, pool
            await _move_all(*given, asked.levels, resources.randomness)
        else:
            await _add_all(guest, peer, cells, layout, pool, resources.randomness)


async def _move_all(
    guest: Peer,
    other: RelayedPeer,
    cells: HostCells,
    layout: Layout,
    pool: Workers[PublicKey],
    theirs: int,
    randomness: Randomness,
) -> None:
    """The first host's part of steps 3 and 4: nothing of what it has leaves it in the clear."""
    rows, key = len(cells.codes), pool.key
    received: list[Ciphertexts] = []
    while sum(len(some) for some in received) < rows:
        message = await guest.recv(TableValues)
        try:
            some = key.parse(message.ciphertexts)
        except InvalidCiphertext as error:
            raise guest.breach(f"TableValues with {error}") from None
        received.append(some)
        if not len(some) or sum(len(one) for one in received) > rows:
            raise guest.breach("TableValues of another number of rows than announced")
    values = np.concatenate(received)
    await other.send(PairLevels(layout.levels, cells.least))
    if (await other.recv(PairLevels)).levels != theirs:
        raise guest.breach("PairVectors of other levels than the other host has")
    reserve = Reserve(pool, CHUNK, randomness.key_at("obfuscators of numbers"))
    for levels in layout.passes:
        shifts = layout.shifts(cells.codes, levels)
        for start in range(0, rows, CHUNK):
            some = values[start : start + CHUNK]
            obfuscators = await reserve.draw(len(some))
            each = max(1, -(-len(some) // pool.width))
            tasks = [
                (some[i : i + each], shifts[start + i : start + i + each], obfuscators[i : i + each])
                for i in range(0, len(some), each)
            ]
            pool.operations["rerandomise"] += len(some)
            moved = np.concatenate([*await pool.map(_moved, tasks)])
            await other.send(TableValues(moved.tobytes()))
    await other.close()


def _moved(
    key: PublicKey, ciphertexts: Ciphertexts, shifts: Sequence[int], obfuscators: Ciphertexts
) -> Ciphertexts:
    """Numbers times powers of two, or zero, under fresh obfuscators."""
    square, one = key.n_squared, gmpy2.mpz(1)
    numbers = [
        one if shift < 0 else gmpy2.powmod(c, one << shift, square)
        for c, shift in zip(key.integers(ciphertexts), shifts, strict=True)
    ]
    return key.rerandomise(key.array(numbers), obfuscators)


async def _add_all(
    guest: Peer,
    other: RelayedPeer,
    cells: HostCells,
    layout: Layout,
    pool: Workers[PublicKey],
    randomness: Randomness,
) -> None:
    """The second host's part of steps 3 and 4."""
    rows, size = len(cells.codes), cells.count
    said = await other.recv(PairLevels)
    if said.levels != layout.levels:
        raise guest.breach("PairVectors of other levels than the other host has")
    least = max(cells.least, said.least)
    await other.send(PairLevels(size, cells.least))
    codes = np.where(cells.codes < 0, size, cells.codes)[np.newaxis].astype(np.uint16)
    reserve, made = Reserve(pool, size, randomness.key_at("obfuscators of sums")), []
    sealed: list[Ciphertexts] = []
    store = pool.rows(rows, pool.key.width)
    try:
        for levels in layout.passes:
            joint = JointSums(pool, store, [size + 1], 1)
            await asyncio.to_thread(joint.group, codes, np.zeros(rows, np.int64))
            await joint.receive(other, TableValues, lambda m: m.ciphertexts, rows)
            (sums,) = await joint.histograms()
            count = len(levels) * layout.stretch
            stream = randomness.at("masks", levels.start)
            some, masks = await masked(reserve, sums[:size], layout.slots, count, stream)
            sealed.append(some)
            made.append(masks.reshape(len(levels), layout.stretch, size))
    finally:
        store.close()
    await other.close()
    for some in sealed:
        await guest.send(TableSums(some.tobytes()))
    await _open(guest, cells, np.concatenate(made), least)


async def _open(guest: Peer, cells: HostCells, masks: Words, least: int) -> None:
    """Say which cells have enough rows, and take the masks off these."""
    levels, stretch, size = masks.shape
    data = (await guest.recv(MaskedRows)).sums
    if len(data) != levels * size * 8:
        raise guest.breach("MaskedRows of another number of cells")
    read = np.frombuffer(data, "<i8").astype(np.int64).reshape(levels, size)
    rows = uncover(read, masks[:, -1], 0)
    if rows.min() < 0 or not np.array_equal(rows.sum(axis=0), cells.rows):
        raise guest.breach("MaskedRows that do not add up to the rows of the levels")
    withheld = await asyncio.to_thread(withhold, rows, least)
    if withheld is None:
        raise too_few_rows(least)
    opened = [masks[level, :, cell] for level, cell in np.argwhere(~withheld).tolist()]
    told = np.array(opened).reshape(-1, stretch).astype("<u8").tobytes()
    await guest.send(OpenedCells(pack_bits(~withheld), told))
