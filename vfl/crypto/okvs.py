"""An oblivious key-value store: a table that maps n keys to chosen 16-byte values.

Decoding any other key gives a value too, and if the values are random, nothing in the table tells
which keys it was made for. Garimella, Pinkas, Rosulek, Trieu, Yanai, "Oblivious Key-Value Stores
and Amplification for Private Set Intersection", CRYPTO 2021: the 3-hash garbled cuckoo table.

A key picks one slot in each of three blocks and a set of the 64 dense slots; its value is the XOR
of all of these. So the table solves n linear equations over GF(2):

    1. Peel: a slot that only one remaining key uses can be set last, for that key alone. Take the
       key away, and go on, in rounds. All keys that go in one round are independent of each other.
    2. The keys that are left (the 2-core; mostly none at 1.3 slots a key) are solved by Gaussian
       elimination over their slots and the dense ones.
    3. Slots that stay free are random. Go back through the rounds, last first, and set for each
       key the slot that it was peeled at.

Given random values the table is uniform whatever the keys are: the equations are independent, each
solution is as likely as any other. The table's size depends on n alone.

How it can fail: only if the slots of some set of keys cancel, dense ones included. The expected
number of sets whose sparse slots cancel is below 0.03 for every n (sum over s of C(n, s) times the
cube of the probability that s balls leave an even number in every bin of a block; 16 spare slots a
block keep it so for small n), and 64 dense slots then cancel with 2^-64. No second seed is
therefore ever tried: a retry would tell that the first one failed for these keys.
"""

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

VALUE = 16  # bytes of a value, and of a slot
DENSE = 64
BLOCKS = 3
SPARE = 16  # slots a block beyond 1.3 n / 3

Bytes = NDArray[np.uint8]
Words = NDArray[np.uint64]


class Unsolvable(ValueError):
    """Keys that no table can hold: a key given twice (or bad luck of less than 2^-64)."""


def slots(n: int) -> int:
    """The number of 16-byte slots of a table for n keys."""
    return BLOCKS * _block(n) + DENSE


def encode(
    keys: Bytes,
    values: Bytes,
    seed: bytes,
    entropy: Callable[[int], bytes] = secrets.token_bytes,
) -> Bytes:
    """A table (slots(n), 16) from which `decode` at `keys` gives `values`.

    keys: uint8 (n, 16) or (n, 32), distinct, and random or hashes already, for they are mixed but
    not hashed again. values: uint8 (n, 16). seed: any bytes, known to whoever decodes.
    `entropy(m)` returns m random bytes. Raises Unsolvable for keys that are not distinct.
    """
    n = len(keys)
    if values.shape != (n, VALUE) or values.dtype != np.uint8:
        raise ValueError("values must be a uint8 array of shape (n, 16)")
    places = _places(keys, seed, _block(n))
    target = _as_words(values)
    table = np.frombuffer(bytearray(entropy(slots(n) * VALUE)), np.uint64).reshape(-1, 2)
    sparse, dense = table[:-DENSE], table[-DENSE:]

    rounds, core = _peel(places.slot, len(sparse))
    if len(core):
        _solve(core, places, target, sparse, dense)
    rest = target ^ _dense_part(places.chosen, dense)
    for rows, pivots in reversed(rounds):
        sparse[pivots] = 0  # so that the XOR of all three is that of the other two
        sparse[pivots] = rest[rows] ^ _sparse_part(places.slot[:, rows], sparse)
    return table.view(np.uint8)


def decode(table: Bytes, keys: Bytes, n: int, seed: bytes) -> Bytes:
    """The values (m, 16) of `keys` (m, 16 or 32) in a table made for n keys with `seed`."""
    if table.shape != (slots(n), VALUE) or table.dtype != np.uint8:
        raise ValueError(f"a table for {n} keys is a uint8 array of shape ({slots(n)}, {VALUE})")
    places = _places(keys, seed, _block(n))
    words = _as_words(table)
    values = _sparse_part(places.slot, words) ^ _dense_part(places.chosen, words[-DENSE:])
    return values.view(np.uint8)


@dataclass(frozen=True)
class _Places:
    """Where each key looks: a slot in each block (3, n), and dense slots as bits of a word (n)."""

    slot: NDArray[np.int64]
    chosen: Words


def _block(n: int) -> int:
    return -(-13 * n // (10 * BLOCKS)) + SPARE


def _places(keys: Bytes, seed: bytes, block: int) -> _Places:
    if keys.dtype != np.uint8 or keys.ndim != 2 or keys.shape[1] not in (16, 32):
        raise ValueError("keys must be a uint8 array of shape (n, 16) or (n, 32)")
    lanes = np.ascontiguousarray(keys).view("<u8").T
    salts = np.frombuffer(hashlib.blake2b(seed, person=b"vfl okvs").digest()[:32], "<u8")
    words = []
    for salt in salts:
        word = np.full(len(keys), salt, np.uint64)
        for lane in lanes:
            word = _mix(word ^ lane)
        words.append(word)
    # The upper 32 bits of a word, scaled to the block's size.
    size = np.uint64(block)
    slot = np.empty((BLOCKS, len(keys)), np.int64)
    for b in range(BLOCKS):
        slot[b] = ((words[b] >> np.uint64(32)) * size) >> np.uint64(32)
        slot[b] += b * block
    return _Places(slot, words[BLOCKS])


def _mix(word: Words) -> Words:
    """The finaliser of splitmix64 (Steele, Lea, Flood, OOPSLA 2014): a bijection of 64 bits."""
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


def _peel(
    slot: NDArray[np.int64], size: int
) -> tuple[list[tuple[NDArray[np.int64], NDArray[np.int64]]], NDArray[np.int64]]:
    """Rounds of (rows peeled, the slot of each), and the rows that cannot be peeled."""
    n = slot.shape[1]
    users = np.bincount(slot.ravel(), minlength=size)
    # The XOR of the numbers of all rows at a slot: where one row is left, that is the row.
    names = np.zeros(size, np.int64)
    for block in slot:
        np.bitwise_xor.at(names, block, np.arange(n))
    left = np.ones(n, np.bool_)
    rounds = []
    single = np.flatnonzero(users == 1)
    while len(single):
        rows, first = np.unique(names[single], return_index=True)
        rounds.append((rows, single[first]))
        left[rows] = False
        touched = slot[:, rows]
        np.subtract.at(users, touched.ravel(), 1)
        for block in touched:
            np.bitwise_xor.at(names, block, rows)
        touched = np.unique(touched)
        single = touched[users[touched] == 1]
    return rounds, np.flatnonzero(left)


def _solve(core: NDArray[np.int64], places: _Places, target: Words, sparse: Words, dense: Words) -> None:
    """Set the slots that the rows of `core` use so that each gets its value.

    Starts from the random slots and changes only pivots: every solution is equally likely.
    """
    used, column = np.unique(places.slot[:, core], return_inverse=True)
    column = column.reshape(BLOCKS, len(core))
    gap = (
        target[core]
        ^ _sparse_part(places.slot[:, core], sparse)
        ^ _dense_part(places.chosen[core], dense)
    )
    # An equation is one integer: coefficients above, the 128 bits of its right side below.
    low = VALUE * 8
    equations: dict[int, int] = {}  # by pivot: its highest bit
    for i, row in enumerate(core):
        equation = int(places.chosen[row]) << low
        for c in column[:, i]:
            equation ^= 1 << (low + DENSE + int(c))
        equation |= int.from_bytes(gap[i].tobytes(), "little")
        while (pivot := equation.bit_length() - 1) in equations:
            equation ^= equations[pivot]
        if pivot < low:
            raise Unsolvable("the keys are not distinct")
        equations[pivot] = equation
    # Lowest pivot first: below its pivot, an equation holds only free columns (left as they are,
    # a change of 0) and pivots whose change is known.
    change: dict[int, int] = {}
    for pivot in sorted(equations):
        equation = equations[pivot]
        value = equation & ((1 << low) - 1)
        for known, delta in change.items():
            if equation >> known & 1:
                value ^= delta
        change[pivot] = value
    for pivot, delta in change.items():
        words = np.frombuffer(delta.to_bytes(VALUE, "little"), np.uint64)
        if pivot < low + DENSE:
            dense[pivot - low] ^= words
        else:
            sparse[used[pivot - low - DENSE]] ^= words


def _sparse_part(slot: NDArray[np.int64], table: Words) -> Words:
    part: Words = table[slot[0]] ^ table[slot[1]] ^ table[slot[2]]
    return part


def _dense_part(chosen: Words, dense: Words) -> Words:
    """For each word, the XOR of the dense slots whose bits it has: (n, 2), eight bits a lookup."""
    part = np.zeros((len(chosen), 2), np.uint64)
    for byte in range(DENSE // 8):
        sums = np.zeros((256, 2), np.uint64)
        for bit in range(8):
            half = 1 << bit
            sums[half : 2 * half] = sums[:half] ^ dense[8 * byte + bit]
        part ^= sums[(chosen >> np.uint64(8 * byte)) & np.uint64(255)]
    return part


def _as_words(rows: Bytes) -> Words:
    return np.ascontiguousarray(rows).view(np.uint64)
