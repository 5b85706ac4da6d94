"""Sums of ciphertexts by cell on all cores, and what is made of them before they leave the host."""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from functools import reduce
from itertools import pairwise

import numpy as np

from vfl.arrays import Integers
from vfl.crypto.montgomery import LANES
from vfl.crypto.packing import SumPacking
from vfl.crypto.paillier import Ciphertexts, PrivateKey, PublicKey
from vfl.crypto.randomness import Randomness, Stream
from vfl.crypto.reserve import OwnObfuscators, OwnReserve, Reserve
from vfl.crypto.workers import Handle, SharedRows, Workers, rows_of

_TASK = 512  # products of a task at least
_FEW = 128  # powers of a task


async def sum_rows(
    workers: Workers[PublicKey], store: SharedRows, rows: Integers, cells: Integers, count: int
) -> Ciphertexts:
    """Sums by cell, shape (count, width): row rows[i] of the store is added to cells[j, i] for every j.

    A cell without rows is 1, the trivial encryption of zero: re-randomise before it leaves this party.
    Each worker sums a part of the rows, which it reads once for all j; the parts are added up.
    """
    parts = max(1, min(workers.width, cells.size // (4 * count))) if count else 1
    bounds = np.linspace(0, len(rows), parts + 1).astype(np.int64).tolist()
    tasks = [(store.handle, rows[a:b], cells[:, a:b], count) for a, b in pairwise(bounds)]
    workers.operations["add"] += cells.size
    return await add_all(workers, await workers.map(_sum_part, tasks))


def _sum_part(
    key: PublicKey, handle: Handle, rows: Integers, cells: Integers, count: int
) -> Ciphertexts:
    return key.sum_cells(rows_of(handle), rows, list(cells), count)


async def add_all(workers: Workers[PublicKey], parts: list[Ciphertexts]) -> Ciphertexts:
    """Element-wise sum of vectors of ciphertexts of one length."""
    if len(parts) == 1:
        return parts[0]
    size = max(_TASK, -(-len(parts[0]) // workers.width))
    tasks = [([part[i : i + size] for part in parts],) for i in range(0, len(parts[0]), size)]
    workers.operations["add"] += (len(parts) - 1) * len(parts[0])
    return np.concatenate([parts[0][:0], *await workers.map(_add_all, tasks)])


def _add_all(key: PublicKey, parts: list[Ciphertexts]) -> Ciphertexts:
    return reduce(key.add, parts)


async def sum_by_cell(
    workers: Workers[PublicKey], ciphertexts: Ciphertexts, rows: Integers, cells: Integers, count: int
) -> Ciphertexts:
    """Sums by cell, shape (count, width): row rows[i] of the ciphertexts is added to cells[i].

    A cell without rows is 1, as in `sum_rows`. Every worker gets whole cells, so that nothing is left
    to add up: for sums of few rows into few cells.
    """
    sums = np.zeros((count, ciphertexts.shape[1]), np.uint8)
    sums[:, 0] = 1
    order = np.argsort(cells, kind="stable")
    rows, cells = rows[order], cells[order]
    ends = np.append(np.flatnonzero(np.diff(cells)) + 1, len(cells)) if len(cells) else cells
    filled = cells[ends - 1]
    workers.operations["add"] += len(rows) - len(filled)

    def tasks() -> Iterator[tuple[Ciphertexts, Integers]]:
        size = max(_TASK, len(rows) // (4 * workers.width))
        first = 0
        while first < len(ends):
            start = ends[first - 1] if first else 0
            last = max(first + 1, int(np.searchsorted(ends, start + size, side="right")))
            yield ciphertexts[rows[start : ends[last - 1]]], ends[first:last] - start
            first = last

    done = 0
    async for part in workers.stream(_sum_runs, tasks()):
        sums[filled[done : done + len(part)]] = part
        done += len(part)
    return sums


def _sum_runs(key: PublicKey, ciphertexts: Ciphertexts, ends: Integers) -> Ciphertexts:
    return key.sum_runs(ciphertexts, ends)


def check_rows(key: PublicKey, handle: Handle, start: int, stop: int) -> None:
    """Raises ValueError unless the rows are units of the modulus."""
    key.check(rows_of(handle)[start:stop])


async def pack_and_rerandomise(
    reserve: Reserve, ciphertexts: Ciphertexts, packing: SumPacking
) -> Ciphertexts:
    """Many sums in each ciphertext, under fresh obfuscators: fit to leave the host."""
    workers = reserve.workers
    slots, count = packing.slots, packing.ciphertexts(len(ciphertexts))
    obfuscators = await reserve.draw(count)
    size = max(1, min(LANES, -(-count // workers.width)))
    tasks = [
        (
            ciphertexts[i * slots : (i + size) * slots],
            packing.slot_bits,
            slots,
            obfuscators[i : i + size],
        )
        for i in range(0, count, size)
    ]
    workers.operations["pack"] += len(ciphertexts) - count
    workers.operations["rerandomise"] += count
    packed = await workers.map(_pack, tasks)
    return np.concatenate([ciphertexts[:0], *packed])


async def positional_sums(
    workers: Workers[PublicKey], tasks: Sequence[tuple[list[Ciphertexts], int, int]]
) -> Ciphertexts:
    """A ciphertext a task: (histograms of the digits, bits of a digit, least integer)."""
    # A product for the running sum of each cell and one for their sum.
    workers.operations["add"] += sum(2 * len(h) for histograms, _, _ in tasks for h in histograms)
    return np.concatenate([_none(workers), *await workers.map(_positional_sum, tasks)])


def _positional_sum(
    key: PublicKey, histograms: list[Ciphertexts], window: int, least: int
) -> Ciphertexts:
    return key.positional_sum(histograms, window, least)


async def conceal(
    workers: Workers[PublicKey], plaintexts: Sequence[int], secret: bytes | None
) -> Ciphertexts:
    """Encryptions, without the private key, that hide from all but its owner. `secret`: what the
    obfuscators are drawn from, for these plaintexts alone (`Randomness.key_at`)."""
    drawn = Randomness(secret)
    tasks = [
        (plaintexts[i : i + _FEW], drawn.key_at("obfuscators from", i))
        for i in range(0, len(plaintexts), _FEW)
    ]
    workers.operations["encrypt"] += len(plaintexts)
    return np.concatenate([_none(workers), *await workers.map(_conceal, tasks)])


def _conceal(key: PublicKey, plaintexts: Sequence[int], secret: bytes | None) -> Ciphertexts:
    return key.conceal(key.unsafe_encrypt(plaintexts), Stream(secret).bits)


async def times_and_conceal(
    workers: Workers[PublicKey],
    ciphertexts: Ciphertexts,
    factors: Sequence[int] | None,
    summands: Sequence[int],
    secret: bytes | None,
) -> Ciphertexts:
    """Each plaintext times a factor (1 without) plus a summand, hidden from all but the key's owner.
    `secret`: as of `conceal`."""
    drawn = Randomness(secret)
    tasks = [
        (
            ciphertexts[i : i + _FEW],
            None if factors is None else factors[i : i + _FEW],
            summands[i : i + _FEW],
            drawn.key_at("obfuscators from", i),
        )
        for i in range(0, len(ciphertexts), _FEW)
    ]
    workers.operations["multiply"] += len(factors or ())
    workers.operations["conceal"] += len(ciphertexts)
    return np.concatenate([_none(workers), *await workers.map(_times_and_conceal, tasks)])


def _times_and_conceal(
    key: PublicKey,
    ciphertexts: Ciphertexts,
    factors: Sequence[int] | None,
    summands: Sequence[int],
    secret: bytes | None,
) -> Ciphertexts:
    products = ciphertexts if factors is None else key.times(ciphertexts, factors)
    return key.conceal(key.add(products, key.unsafe_encrypt(summands)), Stream(secret).bits)


def _none(workers: Workers[PublicKey]) -> Ciphertexts:
    return np.empty((0, workers.key.width), np.uint8)


async def pack_and_mask(
    reserve: Reserve, ciphertexts: Ciphertexts, slot_bits: int, slots: int, masks: list[int]
) -> Ciphertexts:
    """Many sums in each ciphertext, each ciphertext plus a mask, under fresh obfuscators. If there are
    more masks than these need, the others are alone.

    With masks uniform among the plaintexts, whoever decrypts learns nothing.
    """
    workers = reserve.workers
    workers.operations["pack"] += len(ciphertexts) - -(-len(ciphertexts) // slots)
    workers.operations["rerandomise"] += len(masks)
    obfuscators = await reserve.draw(len(masks))
    tasks = [
        (ciphertexts[i * slots : (i + 1) * slots], slot_bits, slots, mask, obfuscators[i : i + 1])
        for i, mask in enumerate(masks)
    ]
    return np.concatenate([ciphertexts[:0], *await workers.map(_pack_and_mask, tasks)])


def _pack_and_mask(
    key: PublicKey,
    ciphertexts: Ciphertexts,
    slot_bits: int,
    slots: int,
    mask: int,
    obfuscators: Ciphertexts,
) -> Ciphertexts:
    masked = key.unsafe_encrypt([mask])
    if len(ciphertexts):
        masked = key.add(key.pack(ciphertexts, slot_bits, slots), masked)
    return key.rerandomise(masked, obfuscators)


def _pack(
    key: PublicKey, ciphertexts: Ciphertexts, slot_bits: int, slots: int, obfuscators: Ciphertexts
) -> Ciphertexts:
    return key.rerandomise(key.pack(ciphertexts, slot_bits, slots), obfuscators)


async def encrypt(
    workers: Workers[PrivateKey],
    plaintexts: Callable[..., Sequence[int]],
    chunks: Iterable[tuple[Integers, ...]],
    reserve: OwnReserve,
) -> AsyncIterator[Ciphertexts]:
    """Encrypted rows, chunk by chunk: of `plaintexts(*chunk)`, an integer a row."""

    def tasks() -> Iterator[tuple[object, ...]]:
        for chunk in chunks:
            obfuscators = reserve.take(len(chunk[0]))
            if len(obfuscators.ready):
                workers.operations["encrypt, obfuscator ready"] += len(obfuscators.ready)
            if obfuscators.missing:
                workers.operations["encrypt"] += obfuscators.missing
            yield plaintexts, chunk, obfuscators

    async for ciphertexts in workers.stream(_encrypt, tasks()):
        yield ciphertexts


def _encrypt(
    key: PrivateKey,
    plaintexts: Callable[..., Sequence[int]],
    chunk: tuple[Integers, ...],
    obfuscators: OwnObfuscators,
) -> Ciphertexts:
    return key.encrypt(plaintexts(*chunk), obfuscators.all(key))


async def decrypt_sums(
    workers: Workers[PrivateKey], packing: SumPacking, ciphertexts: Ciphertexts, count: int
) -> tuple[Integers, Integers]:
    """The gradient and hessian sums in packed ciphertexts. Raises ValueError out of bounds."""
    return packing.unpack(await decrypt(workers, ciphertexts), count)


async def decrypt(workers: Workers[PrivateKey], ciphertexts: Ciphertexts) -> list[int]:
    """The plaintexts, centred."""
    size = max(1, -(-len(ciphertexts) // (2 * workers.width)))
    workers.operations["decrypt"] += len(ciphertexts)
    tasks = [(ciphertexts[i : i + size],) for i in range(0, len(ciphertexts), size)]
    return [value for part in await workers.map(_decrypt, tasks) for value in part]


def _decrypt(key: PrivateKey, ciphertexts: Ciphertexts) -> list[int]:
    return key.decrypt(ciphertexts)
