"""Encryption of pairs, two numbers in one word of 82 bits: lanes.py with a limb in a word of its own.

A word modulo 2^82 is lower + 2^41 upper, each with a sign and room above, as products and errors come.
Its top 80 bits, rounded with halves to even, are sent as two halves of 40, which a host adds up as if
they were words of two vectors: below 2^23 rows their sums stay below 2^63.
"""

# mypy: disallow-untyped-calls=False

from collections.abc import Sequence

import numpy as np
from llvmlite.ir import Value
from numpy.typing import NDArray

from vfl.arrays import Bytes, Floats, Words
from vfl.crypto.instructions import Written
from vfl.crypto.lattice.lanes import (
    BLOCK,
    LANES,
    WORDS,
    Form,
    Room,
    Writer,
    instruction,
    multiply,
    placed,
    settle,
)
from vfl.crypto.lattice.parameters import DEGREE, HALF_WORD, PAIR, PAIR_WORD
from vfl.crypto.lattice.ring import HALF
from vfl.kernels import kernel

_LIMB = PAIR.vectors.width
_CUT = PAIR.bits - PAIR_WORD
_KEPT = _LIMB - _CUT  # bits of the lower limb that are sent
_UPPER = DEGREE * LANES  # where words of the upper limb begin


@instruction
def _addends(
    w: Writer, drawn: Value, values: Value, places: Value, scale: Value, words: Value, seen: Value
) -> None:
    """Errors plus values times 2^scale, by limbs. `places`: where those of a lane begin."""
    b = w.ir
    by, down = w.spread_word(scale), w.spread_word(b.sub(w.whole(_LIMB), scale))

    def put(i: Value, errors: Sequence[Value], given: Sequence[Value]) -> None:
        low, high = [], []
        for error, value in zip(errors, given, strict=True):
            low.append(b.add(error, b.and_(b.shl(value, by), w.words((1 << _LIMB) - 1))))
            high.append(b.ashr(value, down))
        for limb, rows in enumerate((low, high)):
            for k, row in enumerate(w.turned_around(rows)):
                w.store(row, w.at(words, (i, LANES), k * LANES + limb * _UPPER))

    w.each_eight_rows(drawn, values, places, seen, put)


def _kept(w: Writer, pairs: Value, part: int) -> Value:
    """Of the halves of so many pairs, how many are in the first row of eight, or in the second."""
    b, all_of_them = w.ir, w.whole(LANES)
    halves = b.shl(pairs, w.whole(1))
    first = b.select(b.icmp_unsigned("<", halves, all_of_them), halves, all_of_them)
    return b.sub(halves, first) if part else first


def _planes(blocks: int) -> Written:
    """Of so many rows from n on, eight words of each of as many polynomials, as words.pack_halves, from
    pair number `at` of each plane on: of each row the first `kept`, if there is one polynomial."""

    @instruction
    def planes(
        w: Writer,
        words: Value,
        n: Value,
        bits: Value,
        kept: Value,
        out: Value,
        plane: Value,
        at: Value,
    ) -> None:
        b, up = w.ir, w.spread_word(w.ir.sub(w.whole(64), bits))
        halves: tuple[list[Value], list[Value]] = [], []
        for k in range(blocks):
            begins = k * LANES, k * LANES + _UPPER
            low, high = (w.load(w.at(words, (n, LANES), begin), WORDS) for begin in begins)
            # Halves to even: half less one, and one more where the last bit that stays is set.
            last = b.and_(b.lshr(low, w.words(_CUT)), w.words(1))
            moved = b.add(b.add(low, last), w.words((1 << (_CUT - 1)) - 1))
            sent = b.ashr(moved, w.words(_CUT))
            high = b.add(high, b.ashr(sent, w.words(_KEPT)))
            # The last bit of the upper limb is the first of the lower half.
            top = b.shl(b.and_(high, w.words(1)), w.words(_KEPT))
            halves[0].append(b.or_(b.and_(sent, w.words((1 << _KEPT) - 1)), top))
            halves[1].append(b.and_(b.lshr(high, w.words(1)), w.words((1 << HALF_WORD) - 1)))
        place = b.shl(at, w.whole(1))
        for block, pair in enumerate(zip(*(w.turned_around(rows) for rows in halves), strict=True)):
            begin = b.mul(b.lshr(b.mul(plane, bits), w.whole(3)), w.whole(block))
            for part in range(2):
                # A pair's halves side by side.
                lanes = [LANES // 2 * part + k // 2 + LANES * (k % 2) for k in range(LANES)]
                row = b.shl(b.shuffle_vector(*pair, placed(lanes)), up)
                some = _kept(w, kept, part) if blocks == 1 else None
                to = b.add(place, w.whole(part * LANES))
                w.put_planes(row, bits, some, w.at(out, begin), plane, to)

    return planes


_planes1, _planes2, _planes4, _planes8 = (_planes(blocks) for blocks in (1, 2, 4, 8))


@kernel
def _pack(words: Words, blocks: int, bits: int, count: int, first: int, out: Bytes) -> None:
    """The halves of pairs from number `first` on, in bytes (polynomials, of as words.pack_halves)."""
    plane = DEGREE * 2 * count
    kept = LANES if count - first > LANES else count - first
    for n in range(0, DEGREE, blocks):
        at = n * count + first
        if blocks == 1:
            _planes1(words, n, bits, kept, out, plane, at)
        elif blocks == 2:
            _planes2(words, n, bits, kept, out, plane, at)
        elif blocks == 4:
            _planes4(words, n, bits, kept, out, plane, at)
        else:
            _planes8(words, n, bits, kept, out, plane, at)


@kernel
def encrypt(
    public: Floats,
    keys: Floats,
    drawn: Words,
    values: NDArray[np.integer],
    start: int,
    form: Form,
    out: Bytes,
    room: Room,
) -> None:
    """Encrypt some rows.

    public: polynomials (number, 2, HALF), flat; keys: buffers of secrets, (groups, ROWS * ROW);
    drawn: (number, count, DEGREE), flat; values: (count, rows), flat, from row `start` on.
    """
    number, count, rows = public.shape[0] // BLOCK, form.vectors, form.rows
    blocks, places = form.blocks, room.places
    block = DEGREE * 2 * count * form.bits // 8
    for number_of in range(0, number, blocks):
        for group in range(keys.shape[0]):
            for lane in range(LANES):
                part, v = lane * blocks // LANES, group * LANES + lane % (LANES // blocks)
                if v >= count:
                    v = 0
                places[lane] = ((number_of + part) * count + v) * DEGREE
                places[LANES + lane] = v * rows + start + (number_of + part) * DEGREE
            _addends(drawn, values, places, form.scale_bits, room.words, room.seen)
            for limb in range(2):
                at = number_of * BLOCK + limb * 2 * HALF
                multiply(public, at, blocks, keys[group], room.buffer)
                settle(room.buffer, 0, room.words[limb * _UPPER :], room)
            _pack(room.words, blocks, form.bits, count, group * LANES, out[number_of * block :])
