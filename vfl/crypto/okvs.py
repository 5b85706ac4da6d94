"""An oblivious key-value store: a table that maps n keys to chosen 16-byte values.

Decoding any other key gives a value too, and if the values are random, nothing in the table tells
which keys it was made for. Garimella, Pinkas, Rosulek, Trieu, Yanai, "Oblivious Key-Value Stores
and Amplification for Private Set Intersection", CRYPTO 2021: the 3-hash garbled cuckoo table.

A key picks one slot in each of three blocks and a set of the 64 dense slots; its value is the XOR
of all of these. So the table solves n linear equations over GF(2):

    1. Peel: a slot that only one remaining key uses can be set last, for that key alone. Take the
       key away, and go on.
    2. The keys that are left (the 2-core; mostly none at 1.3 slots a key) are solved by Gaussian
       elimination over their slots and the dense ones.
    3. Slots that stay free are random. Go back through the peeled keys, last first, and set for
       each the slot that it was peeled at.

Decoding is linear: it is the XOR of the same slots whatever a slot holds. So `decode` also takes tables
of wider slots than `encode` makes, such as a linear image of one (`vfl.protocols.align.ot_oprf`).

Given random values the table is uniform whatever the keys are: the equations are independent, each
solution is as likely as any other. The table's size depends on n alone.

How it can fail: only if the slots of some set of keys cancel, dense ones included. The expected number
of sets whose sparse slots cancel is below 0.03 for every n (sum over s of C(n, s) times the cube of
the probability that s balls leave an even number in every bin of a block; 16 spare slots a block keep
it so for small n, at 1.25 slots a key as well as at 1.3), and 64 dense slots then cancel with 2^-64.
No second seed is therefore ever tried: a retry would tell that the first one failed for these keys.

A million keys take about 0.4 s of a core to encode and 0.15 s to decode.
"""

import hashlib
import secrets
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Bytes, Words
from vfl.blocks.cores import spread
from vfl.kernels import inlined, kernel

VALUE = 16  # bytes of a value, and of a slot
DENSE = 64
BLOCKS = 3
SPARE = 16  # slots a block beyond its share
_AT_ONCE = 4096  # keys whose places are found, and looked up in several tables: they stay in a cache
SHARE = 1300  # sparse slots for a thousand keys; from 1,250 on, what is said above holds

Slots = NDArray[np.uint32]


class Unsolvable(ValueError):
    """Keys that no table can hold: a key given twice (or bad luck of less than 2^-64)."""


def slots(n: int, share: int = SHARE) -> int:
    """The number of 16-byte slots of a table for n keys, `share` sparse ones for a thousand of them."""
    return BLOCKS * _block(n, share) + DENSE


def encode(
    keys: Bytes,
    values: Bytes,
    seed: bytes,
    entropy: Callable[[int], bytes] = secrets.token_bytes,
    room: int | None = None,
    share: int = SHARE,
) -> Bytes:
    """A table (slots(room, share), 16) from which `decode` at `keys` gives `values`.

    keys: uint8 (n, 16) or (n, 32), distinct, and random or hashes already, for they are mixed but
    not hashed again. values: uint8 (n, 16). seed: any bytes, known to whoever decodes.
    `entropy(m)` returns m random bytes. room: for how many keys the table is, if for more than are
    given; its size says that alone. Raises Unsolvable for keys that are not distinct.
    """
    n = len(keys)
    if values.shape != (n, VALUE) or values.dtype != np.uint8:
        raise ValueError("values must be a uint8 array of shape (n, 16)")
    size = n if room is None else room
    if n > size:
        raise ValueError("more keys than there is room for")
    slot, chosen = np.empty((n, BLOCKS), np.uint32), np.empty(n, np.uint64)
    _places(_lanes(keys), _salts(seed), _block(size, share), slot, chosen)
    target = np.array(values).view(np.uint64)
    table = np.frombuffer(bytearray(entropy(slots(size, share) * VALUE)), np.uint64).reshape(-1, 2)
    sparse, dense = table[:-DENSE], table[-DENSE:]

    rows, pivots, core = _peeled(slot, len(sparse))
    if len(core):
        _solve(core, slot, chosen, target, sparse, dense)
    _fill(rows, pivots, slot, chosen, target, sparse, _dense_sums(dense))
    return table.view(np.uint8)


def decode(table: Bytes, keys: Bytes, n: int, seed: bytes, share: int = SHARE) -> Bytes:
    """The values (m, w) of `keys` (m, 16 or 32) in a table (slots(n, share), w) made for n keys with
    `seed`.

    w is a multiple of 8: 16 for what `encode` made.
    """
    words = _words(table, n, share)
    lanes, salts, block = _lanes(keys), _salts(seed), _block(n, share)
    sums = _dense_sums(words[-DENSE:])
    values = np.empty((len(keys), words.shape[1]), np.uint64)

    look_up = _look_up_pairs if table.shape[1] == VALUE else _look_up

    def part(start: int, stop: int) -> None:
        look_up(words, sums, lanes[start:stop], salts, block, values[start:stop])

    spread(part, len(keys))
    return values.view(np.uint8)


def decode_all(
    tables: Sequence[Bytes], keys: Bytes, n: int, seed: bytes, share: int = SHARE
) -> list[Bytes]:
    """What `decode` gives of each of several tables (slots(n, share), 16), of the same n and seed: where
    a key looks is found once."""
    if len(tables) == 1:
        return [decode(tables[0], keys, n, seed, share)]
    each = [_words(table, n, share) for table in tables]
    lanes, salts, block = _lanes(keys), _salts(seed), _block(n, share)
    dense = [_dense_sums(words[-DENSE:]) for words in each]
    values = [np.empty((len(keys), VALUE // 8), np.uint64) for _ in each]

    def part(start: int, stop: int) -> None:
        for first in range(start, stop, _AT_ONCE):
            some = slice(first, min(first + _AT_ONCE, stop))
            count = some.stop - first
            slot, chosen = np.empty((count, BLOCKS), np.uint32), np.empty(count, np.uint64)
            _places(lanes[some], salts, block, slot, chosen)
            for words, sums, own in zip(each, dense, values, strict=True):
                _sum_pairs(words, sums, slot, chosen, own[some])

    spread(part, len(keys))
    return [own.view(np.uint8) for own in values]


def _words(table: Bytes, n: int, share: int) -> Words:
    width = table.shape[1] if table.ndim == 2 else 0
    if table.shape != (slots(n, share), width) or width % 8 or not width or table.dtype != np.uint8:
        raise ValueError(f"a table for {n} keys is a uint8 array ({slots(n, share)}, a multiple of 8)")
    return table.view(np.uint64)


def _block(n: int, share: int) -> int:
    return -(-share * n // (1000 * BLOCKS)) + SPARE


def _lanes(keys: Bytes) -> Words:
    if keys.dtype != np.uint8 or keys.ndim != 2 or keys.shape[1] not in (16, 32):
        raise ValueError("keys must be a uint8 array of shape (n, 16) or (n, 32)")
    # A copy of what cannot be written to or lies apart, so that a kernel is compiled for one kind.
    return np.require(keys, requirements=["C", "W"]).view("<u8")


def _salts(seed: bytes) -> Words:
    digest = hashlib.blake2b(seed, digest_size=32, person=b"vfl okvs").digest()
    return np.frombuffer(bytearray(digest), np.uint64)


def _dense_sums(dense: Words) -> Words:
    """For each byte of a key's word and each value of it, the XOR of the dense slots it chooses."""
    sums = np.zeros((DENSE // 8, 256, dense.shape[1]), np.uint64)
    for byte in range(DENSE // 8):
        for bit in range(8):
            half = 1 << bit
            sums[byte, half : 2 * half] = sums[byte, :half] ^ dense[8 * byte + bit]
    return sums


@inlined
def _mixed(lanes: Words, row: int, salt: np.uint64) -> np.uint64:
    """The finaliser of splitmix64 (Steele, Lea, Flood, OOPSLA 2014) over the key's words."""
    word = salt
    for lane in range(lanes.shape[1]):
        word ^= lanes[row, lane]
        word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        word ^= word >> np.uint64(31)
    return word


@inlined
def _place(lanes: Words, row: int, salts: Words, b: int, block: int) -> np.int64:
    """The key's slot in block `b`: the upper 32 bits of a word, scaled to the block's size."""
    high = _mixed(lanes, row, salts[b]) >> np.uint64(32)
    return np.int64((high * np.uint64(block)) >> np.uint64(32)) + np.int64(b * block)


@kernel
def _places(lanes: Words, salts: Words, block: int, slot: Slots, chosen: Words) -> None:
    """Where each key looks: a slot in each block (n, 3), and dense slots as bits of a word (n)."""
    for row in range(lanes.shape[0]):
        for b in range(BLOCKS):
            slot[row, b] = _place(lanes, row, salts, b, block)
        chosen[row] = _mixed(lanes, row, salts[BLOCKS])


class _Peeling(NamedTuple):
    """What `_peel` works in: an array that a kernel makes itself takes long to compile."""

    users: Slots  # of each slot, how many rows use it; zeros
    names: Slots  # the XOR of their numbers: of one row that is the row; zeros
    single: Slots  # slots that were seen with one row
    gone: Slots  # of each row; zeros

    @classmethod
    def of(cls, rows: int, size: int) -> "_Peeling":
        users, names, single = np.zeros((3, size), np.uint32)
        return cls(users, names, single, np.zeros(rows, np.uint32))


def _peeled(slot: Slots, size: int) -> tuple[Slots, Slots, Slots]:
    """The rows in the order peeled, the slot of each, and the rows that cannot be peeled."""
    room, (rows, pivots) = _Peeling.of(len(slot), size), np.empty((2, len(slot)), np.uint32)
    peeled = _peel(slot, room, rows, pivots)
    return rows[:peeled], pivots[:peeled], np.flatnonzero(room.gone == 0).astype(np.uint32)


@kernel
def _peel(slot: Slots, room: _Peeling, rows: Slots, pivots: Slots) -> int:
    """Peel rows as far as it goes: how many."""
    users, names, single, gone = room
    for row in range(slot.shape[0]):
        for b in range(BLOCKS):
            users[slot[row, b]] += np.uint32(1)
            names[slot[row, b]] ^= np.uint32(row)
    waiting = 0
    for at in range(users.shape[0]):
        if users[at] == 1:
            single[waiting] = at
            waiting += 1
    peeled = 0
    while waiting:
        waiting -= 1
        pivot = single[waiting]
        if users[pivot] != 1:
            continue  # its row has gone at another slot
        row = names[pivot]
        rows[peeled], pivots[peeled] = row, pivot
        peeled += 1
        gone[row] = 1
        for b in range(BLOCKS):
            at = slot[row, b]
            users[at] -= np.uint32(1)
            names[at] ^= row
            if users[at] == 1:
                single[waiting] = at
                waiting += 1
    return peeled


def _solve(core: Slots, slot: Slots, chosen: Words, target: Words, sparse: Words, dense: Words) -> None:
    """Set the slots that the rows of `core` use so that each gets its value.

    Starts from the random slots and changes only pivots: every solution is equally likely.
    """
    used, column = np.unique(slot[core], return_inverse=True)
    column = column.reshape(len(core), BLOCKS)
    gap = target[core] ^ np.bitwise_xor.reduce(sparse[slot[core]], axis=1)
    for byte, sums in enumerate(_dense_sums(dense)):
        gap ^= sums[(chosen[core] >> np.uint64(8 * byte)) & np.uint64(255)]
    # An equation is one integer: coefficients above, the 128 bits of its right side below.
    low = VALUE * 8
    equations: dict[int, int] = {}  # by pivot: its highest bit
    for i, row in enumerate(core):
        equation = int(chosen[row]) << low
        for c in column[i]:
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


@kernel
def _fill(
    rows: Slots, pivots: Slots, slot: Slots, chosen: Words, target: Words, sparse: Words, sums: Words
) -> None:
    """Set the slots that rows were peeled at, the last one first."""
    for i in range(rows.shape[0] - 1, -1, -1):
        row, pivot = rows[i], pivots[i]
        sparse[pivot, 0] = 0  # so that the XOR of all three is that of the other two
        sparse[pivot, 1] = 0
        low, high, picked = target[row, 0], target[row, 1], chosen[row]
        for b in range(BLOCKS):
            low ^= sparse[slot[row, b], 0]
            high ^= sparse[slot[row, b], 1]
        for byte in range(DENSE // 8):
            of = (picked >> np.uint64(8 * byte)) & np.uint64(255)
            low ^= sums[byte, of, 0]
            high ^= sums[byte, of, 1]
        sparse[pivot, 0], sparse[pivot, 1] = low, high


@kernel
def _look_up(words: Words, sums: Words, lanes: Words, salts: Words, block: int, values: Words) -> None:
    """The XOR of each key's slots, sparse and dense."""
    for row in range(lanes.shape[0]):
        for w in range(values.shape[1]):
            values[row, w] = 0
        for b in range(BLOCKS):
            at = _place(lanes, row, salts, b, block)
            for w in range(values.shape[1]):
                values[row, w] ^= words[at, w]
        chosen = _mixed(lanes, row, salts[BLOCKS])
        for byte in range(DENSE // 8):
            of = (chosen >> np.uint64(8 * byte)) & np.uint64(255)
            for w in range(values.shape[1]):
                values[row, w] ^= sums[byte, of, w]


@kernel
def _look_up_pairs(
    words: Words, sums: Words, lanes: Words, salts: Words, block: int, values: Words
) -> None:
    """The same where a slot is two words."""
    for row in range(lanes.shape[0]):
        low, high = np.uint64(0), np.uint64(0)
        for b in range(BLOCKS):
            at = _place(lanes, row, salts, b, block)
            low ^= words[at, 0]
            high ^= words[at, 1]
        chosen = _mixed(lanes, row, salts[BLOCKS])
        for byte in range(DENSE // 8):
            of = (chosen >> np.uint64(8 * byte)) & np.uint64(255)
            low ^= sums[byte, of, 0]
            high ^= sums[byte, of, 1]
        values[row, 0], values[row, 1] = low, high


@kernel
def _sum_pairs(words: Words, sums: Words, slot: Slots, chosen: Words, values: Words) -> None:
    """The same where it is known where each key looks."""
    for row in range(len(slot)):
        first, second, third = slot[row, 0], slot[row, 1], slot[row, 2]
        low = words[first, 0] ^ words[second, 0] ^ words[third, 0]
        high = words[first, 1] ^ words[second, 1] ^ words[third, 1]
        picked = chosen[row]
        for byte in range(DENSE // 8):
            of = (picked >> np.uint64(8 * byte)) & np.uint64(255)
            low ^= sums[byte, of, 0]
            high ^= sums[byte, of, 1]
        values[row, 0], values[row, 1] = low, high
