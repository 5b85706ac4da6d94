"""Sums of ciphertexts by cell on all cores, and what is made of them before they leave the host."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.ciphertexts import Ciphertexts, PrivateKey, PublicKey
from vfl.crypto.packing import Layout
from vfl.crypto.workers import SharedRows, Workers, rows_of

Integers = NDArray[np.int64]

_TASK = 512  # products of a task at least


async def sum_by_cell(
    workers: Workers[PublicKey],
    source: SharedRows | Ciphertexts,
    rows: Integers,
    cells: Integers,
    count: int,
) -> Ciphertexts:
    """Sums by cell, shape (count, width): row rows[i] of the source is added to cells[i].

    A cell without rows is 1, the trivial encryption of zero: re-randomise before it leaves this party.
    Every worker gets whole cells, so that nothing is left to add up.
    """
    array = source.array if isinstance(source, SharedRows) else source
    sums = np.zeros((count, array.shape[1]), np.uint8)
    sums[:, 0] = 1
    order = np.argsort(cells, kind="stable")
    rows, cells = rows[order], cells[order]
    ends = np.append(np.flatnonzero(np.diff(cells)) + 1, len(cells)) if len(cells) else cells
    filled = cells[ends - 1]

    def tasks() -> Iterator[tuple[Any, Integers, Integers]]:
        size = max(_TASK, len(rows) // (4 * workers.count))
        first = 0
        while first < len(ends):
            start = ends[first - 1] if first else 0
            last = max(first + 1, int(np.searchsorted(ends, start + size, side="right")))
            own = rows[start : ends[last - 1]]
            if isinstance(source, SharedRows):
                yield source.handle, own, ends[first:last] - start
            else:
                yield source[own], np.arange(len(own)), ends[first:last] - start
            first = last

    done = 0
    async for part in workers.stream(_sum_runs, tasks()):
        sums[filled[done : done + len(part)]] = part
        done += len(part)
    return sums


def _sum_runs(key: PublicKey, handle: Any, rows: Integers, ends: Integers) -> Ciphertexts:
    return key.sum_runs(rows_of(handle), ends, rows)


def check_rows(key: PublicKey, handle: Any, start: int, stop: int) -> None:
    """Raises ValueError unless the rows are units of the modulus."""
    key.check(rows_of(handle)[start:stop])


async def pack_and_rerandomise(
    workers: Workers[PublicKey], ciphertexts: Ciphertexts, layout: Layout
) -> Ciphertexts:
    """Many sums in each ciphertext, under fresh obfuscators: fit to leave the host."""
    slots = layout.slots
    tasks = [
        (ciphertexts[start : start + slots], layout.slot_bits, slots)
        for start in range(0, len(ciphertexts), slots)
    ]
    packed = await workers.map(_pack, tasks)
    return np.concatenate([ciphertexts[:0], *packed])


def _pack(key: PublicKey, ciphertexts: Ciphertexts, slot_bits: int, slots: int) -> Ciphertexts:
    return key.rerandomise(key.pack(ciphertexts, slot_bits, slots))


def encrypt_pairs(key: PrivateKey, layout: Layout, g: Integers, h: Integers) -> Ciphertexts:
    """Encrypted gradients and hessians, a ciphertext a row."""
    return key.encrypt(layout.pair(g, h))


async def decrypt_sums(
    workers: Workers[PrivateKey], layout: Layout, ciphertexts: Ciphertexts, count: int
) -> tuple[Integers, Integers]:
    """The gradient and hessian sums in packed ciphertexts. Raises ValueError out of bounds."""
    size = max(1, -(-len(ciphertexts) // (2 * workers.count)))
    tasks = [(ciphertexts[i : i + size],) for i in range(0, len(ciphertexts), size)]
    parts = await workers.map(_decrypt, tasks)
    return layout.unpack([value for part in parts for value in part], count)


def _decrypt(key: PrivateKey, ciphertexts: Ciphertexts) -> list[int]:
    return key.decrypt(ciphertexts)
