"""Eight transforms of 2048 points at once: one in each lane of vectors of eight doubles.

Point k of all eight is row k + k // 128 of a buffer, (ROWS, 2, 8): real parts, then imaginary ones.
Whole rows are added and multiplied: no lane needs another. A row is left free after each 128, as points
128 apart would else share a few lines of a core's first cache. The second holds a buffer of 264 KB.

A transform has three passes, of 16, 8 and 16 points: with k = 128 a + p, p = 16 b + r,
n = c + 16 d + 128 e and w(m) = exp(2 pi i / m),

    X[n] = sum_r w(16)^(e r) w(128)^(d r) sum_b w(8)^(d b) w(2048)^(c p) sum_a w(16)^(c a) x[k].

This is the inverse one; the other is the same with real and imaginary parts in each other's place.

numba has no vectors: their instructions are written here, and LLVM makes of them what the processor has.
"""

# mypy: disallow-untyped-calls=False

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias, cast

import numpy as np
from llvmlite import ir
from llvmlite.ir import Value
from numba.core import cgutils
from numpy.typing import NDArray

from vfl.arrays import Bytes, Floats, Integers, Words
from vfl.crypto import instructions
from vfl.crypto.instructions import Written
from vfl.crypto.lattice.parameters import DEGREE, ERROR_BITS
from vfl.crypto.lattice.ring import BACK, HALF, TWIST
from vfl.kernels import inlined, kernel

LANES = 8
RUN = 128  # points in rows one after another
ROWS = HALF + HALF // RUN
ROW = 2 * LANES  # doubles
_ENDS = HALF // RUN  # points of the first pass and of the last
_MIDDLE = RUN // _ENDS
BLOCK = 2 * 2 * HALF  # doubles of a public polynomial: two limbs, complex
ERRORS = (1 << ERROR_BITS) - 1
# Added to a number below 2^51 in size, it leaves the nearest integer in the low bits: rounding without
# instructions that not every processor has for vectors.
_MAGIC = 1.5 * 2.0**52
_MAGIC_BITS = int(np.float64(_MAGIC).view(np.int64))

# Of planes: bits, bytes of a word before them, and which words have them, from so many bits to so many.
_PLANES = ((64, 0, 64, 64), (32, 0, 40, 56), (16, 4, 48, 56), (8, 4, 40, 40), (8, 6, 56, 56))

_I64 = ir.IntType(64)
_DOUBLES = ir.VectorType(ir.DoubleType(), LANES)
WORDS = ir.VectorType(_I64, LANES)
_Complex: TypeAlias = tuple[Value, Value]
_Offset: TypeAlias = Value | int | tuple[Value, int]


def _twiddles(rows: int, points: int, of: int) -> Floats:
    """Powers of w(of), complex numbers (rows, points)."""
    powers = np.outer(np.arange(rows), np.arange(points))
    return np.ascontiguousarray(np.exp(2j * np.pi * powers / of)).view(np.float64).reshape(-1)


_FIRST: Floats = _twiddles(RUN, _ENDS, HALF)
_SECOND: Floats = _twiddles(_ENDS, _MIDDLE, RUN)
_TWIST: Floats = TWIST.view(np.float64)
_BACK: Floats = BACK.view(np.float64)


def aligned(doubles: int) -> Floats:
    """Zeros, which begin with a line of the cache."""
    room = np.zeros(doubles + LANES)
    first = -(room.ctypes.data // 8) % LANES
    return room[first : first + doubles]


class Room(NamedTuple):
    """What a thread works in, and what it has seen."""

    buffer: Floats  # rows of a transform
    tile: Floats  # RUN rows of it
    words: Words  # (2, DEGREE, LANES): products as words, and of pairs those of the upper limb
    seen: Integers  # by lane: the bits of the greatest distance; the greatest value; the least
    places: Integers  # by lane: where its errors begin, and its values
    tables: tuple[Floats, Floats, Floats, Floats]  # twiddles of both passes; ring.BACK; ring.TWIST

    @classmethod
    def new(cls) -> "Room":
        """A thread's own."""
        return cls(
            aligned(ROWS * ROW),
            aligned(RUN * ROW),
            aligned(2 * DEGREE * LANES).view(np.uint64),
            np.zeros(3 * LANES, np.int64),
            np.zeros(2 * LANES, np.int64),
            (_FIRST, _SECOND, _BACK, _TWIST),
        )

    @property
    def distance(self) -> float:
        """The greatest distance of a product from the whole number that it was rounded to."""
        return float(self.seen[:LANES].max().view(np.float64))

    @property
    def greatest(self) -> int:
        """The greatest value, whatever its sign."""
        return int(max(self.seen[LANES:].max(), -self.seen[LANES:].min()))


# ------------------------------------------------------------------------- instructions, written


class Writer:
    """Writes instructions for rows of eight."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self.ir = builder

    def whole(self, number: int) -> Value:
        return ir.Constant(_I64, number)

    def doubles(self, number: float) -> Value:
        return ir.Constant(_DOUBLES, [number] * LANES)

    def words(self, number: int) -> Value:
        return ir.Constant(WORDS, [number % 2**64] * LANES)

    def at(self, base: Value, *parts: _Offset) -> Value:
        """The address so many elements, the sum of the parts, after `base`; of a pair the product."""
        offset = self.whole(0)
        for part in parts:
            if isinstance(part, tuple):
                part = self.ir.mul(part[0], self.whole(part[1]))
            offset = self.ir.add(offset, self.whole(part) if isinstance(part, int) else part)
        return self.ir.gep(base, [offset])

    def load(self, address: Value, kind: ir.Type = _DOUBLES) -> Value:
        return self.ir.load(self.ir.bitcast(address, kind.as_pointer()), align=8)

    def load_words(self, address: Value) -> Value:
        """Eight integers, of 16 or of 64 bits, as words."""
        number = address.type.pointee
        kind = ir.VectorType(number, LANES)
        loaded = self.ir.load(self.ir.bitcast(address, kind.as_pointer()), align=number.width // 8)
        return loaded if number.width == _I64.width else self.ir.sext(loaded, WORDS)

    def store(self, value: Value, address: Value) -> None:
        align = min(8, cast(int, getattr(value.type.element, "width", 64)) // 8)
        self.ir.store(value, self.ir.bitcast(address, value.type.as_pointer()), align=align)

    def row(self, base: Value, number: Value) -> _Complex:
        """The complex numbers in a row of a buffer."""
        return self.load(self.at(base, (number, ROW))), self.load(self.at(base, (number, ROW), LANES))

    def put(self, row: _Complex, base: Value, number: Value) -> None:
        self.store(row[0], self.at(base, (number, ROW)))
        self.store(row[1], self.at(base, (number, ROW), LANES))

    def spread_word(self, number: Value) -> Value:
        """A number, of doubles or words, in all lanes."""
        nothing = ir.Constant(ir.VectorType(number.type, LANES), ir.Undefined)
        one = self.ir.insert_element(nothing, number, ir.Constant(ir.IntType(32), 0))
        return self.ir.shuffle_vector(one, nothing, placed([0] * LANES))

    def spread_complex(self, base: Value, *parts: _Offset) -> _Complex:
        """The complex number so many doubles after `base`, in all lanes."""
        real, imaginary = (self.ir.load(self.at(base, *parts, k), align=8) for k in (0, 1))
        return self.spread_word(real), self.spread_word(imaginary)

    def call(self, name: str, *values: Value) -> Value:
        """One of LLVM's own functions, for rows."""
        kind = values[0].type
        function = cgutils.get_or_insert_function(
            self.ir.module, ir.FunctionType(kind, [value.type for value in values]), f"llvm.{name}"
        )
        return self.ir.call(function, values)

    def plus(self, x: Value, y: Value, z: Value) -> Value:
        """x y + z, rounded once where the processor can."""
        return self.call("fmuladd.v8f64", x, y, z)

    def times(self, x: _Complex, y: _Complex) -> _Complex:
        (a, b), (c, d) = x, y
        real = self.plus(a, c, self.ir.fneg(self.ir.fmul(b, d)))
        return real, self.plus(a, d, self.ir.fmul(b, c))

    def put_turned(
        self, values: "list[_Complex]", buffer: Value, rows: "list[Value]", table: Value, number: Value
    ) -> None:
        """Put values, times a row of a table of as many roots each, into rows."""
        for k, (value, row) in enumerate(zip(values, rows, strict=True)):
            root = self.spread_complex(table, (number, 2 * len(rows)), 2 * k)
            self.put(self.times(value, root) if k else value, buffer, row)

    def turned_around(self, rows: "list[Value]") -> "list[Value]":
        """Of a power of two of rows as many pieces of lanes, rows and pieces in each other's place."""
        piece = half = LANES // len(rows)
        while half < LANES:
            low = [k - half + LANES if k & half else k for k in range(LANES)]
            high = [k + LANES if k & half else k + half for k in range(LANES)]
            apart, moved = half // piece, list(rows)
            for j in range(len(rows)):
                if not j & apart:
                    pair = rows[j], rows[j + apart]
                    moved[j] = self.ir.shuffle_vector(*pair, placed(low))
                    moved[j + apart] = self.ir.shuffle_vector(*pair, placed(high))
            rows, half = moved, 2 * half
        return rows

    def transform(self, x: "list[_Complex]") -> "list[_Complex]":
        """The unscaled inverse transform of a power of two of rows."""
        n = len(x)
        if n == 1:
            return x
        even, odd = self.transform(x[0::2]), self.transform(x[1::2])
        pairs = [self._turned(even[k], odd[k], k, n) for k in range(n // 2)]
        return [above for above, _ in pairs] + [below for _, below in pairs]

    def _turned(self, x: _Complex, y: _Complex, k: int, n: int) -> tuple[_Complex, _Complex]:
        """x + w y and x - w y, w = exp(2 pi i k / n).

        w is taken as its larger part times a number of which one part is 1 and the other at most 1 in
        size: six operations that round once (Linzer and Feig, IEEE Trans. Signal Processing, 1993).
        """
        b, (a, c), (p, q) = self.ir, x, y
        if k == 0:
            return (b.fadd(a, p), b.fadd(c, q)), (b.fsub(a, p), b.fsub(c, q))
        if 4 * k == n:  # w = i
            return (b.fsub(a, q), b.fadd(c, p)), (b.fadd(a, q), b.fsub(c, p))
        real, imaginary = math.cos(2 * math.pi * k / n), math.sin(2 * math.pi * k / n)
        if 8 * k in (n, 3 * n):
            scale = real
            u, v = (b.fsub(p, q), b.fadd(q, p)) if 8 * k == n else (b.fadd(p, q), b.fsub(q, p))
        elif abs(real) > imaginary:
            scale, ratio = real, self.doubles(imaginary / real)
            u, v = self.plus(b.fneg(q), ratio, p), self.plus(p, ratio, q)
        else:
            scale, ratio = imaginary, self.doubles(real / imaginary)
            u, v = self.plus(p, ratio, b.fneg(q)), self.plus(q, ratio, p)
        up, down = self.doubles(scale), self.doubles(-scale)
        return (
            (self.plus(u, up, a), self.plus(v, up, c)),
            (self.plus(u, down, a), self.plus(v, down, c)),
        )

    def each_eight_rows(
        self,
        drawn: Value,
        values: Value,
        places: Value,
        seen: Value,
        put: "Callable[[Value, list[Value], list[Value]], None]",
    ) -> None:
        """put(i, errors, values) of the rows i to i + 7 of a polynomial, by lane. `places`: where the
        words of a lane begin that errors are drawn from, and its values."""
        b = self.ir
        begins = [[b.load(self.at(places, lane + k * LANES)) for k in (0, 1)] for lane in range(LANES)]
        ends = [self.at(seen, k * LANES) for k in (1, 2)]
        rooms = [cgutils.alloca_once_value(b, self.load(end, WORDS)) for end in ends]
        with cgutils.for_range(b, self.whole(DEGREE // LANES)) as loop:
            i = b.mul(loop.index, self.whole(LANES))
            greatest, least = (b.load(room) for room in rooms)
            errors, given = [], []
            for of_drawn, of_values in begins:
                word = self.load(self.at(drawn, of_drawn, i), WORDS)
                value = self.load_words(self.at(values, of_values, i))
                greatest = self.call("smax.v8i64", greatest, value)
                least = self.call("smin.v8i64", least, value)
                plus = self.call("ctpop.v8i64", b.and_(word, self.words(ERRORS)))
                minus = self.call("ctpop.v8i64", b.and_(word, self.words(ERRORS << ERROR_BITS)))
                errors.append(b.sub(plus, minus))
                given.append(value)
            put(i, errors, given)
            for value, room in zip((greatest, least), rooms, strict=True):
                b.store(value, room)
        for room, end in zip(rooms, ends, strict=True):
            self.store(b.load(room), end)

    def put_planes(
        self, row: Value, bits: Value, kept: Value | None, out: Value, plane: Value, at: Value
    ) -> None:
        """Put words of so many bits at number `at` of each of their planes."""
        b = self.ir
        for width, begin, least, most in _PLANES:
            left = self.words(64 - width - 8 * begin)
            value = b.trunc(b.lshr(row, left), ir.VectorType(ir.IntType(width), LANES))
            due = b.and_(
                b.icmp_unsigned(">=", bits, self.whole(least)),
                b.icmp_unsigned("<=", bits, self.whole(most)),
            )
            address = self.at(out, (plane, begin), (at, width // 8))
            with b.if_then(due):
                if kept is None:
                    self.store(value, address)
                else:
                    self._put_first(value, kept, address)

    def _put_first(self, value: Value, kept: Value, address: Value) -> None:
        """Put so many lanes at an address."""
        b = self.ir
        room = cgutils.alloca_once(b, value.type)
        to = b.bitcast(address, value.type.element.as_pointer())
        with b.if_else(b.icmp_unsigned("==", kept, self.whole(LANES))) as (all_of_them, some):
            with all_of_them:
                self.store(value, address)
            with some:
                b.store(value, room)
                held = b.bitcast(room, value.type.element.as_pointer())
                with cgutils.for_range(b, kept) as loop:
                    one = b.load(b.gep(held, [loop.index]))
                    b.store(one, b.gep(to, [loop.index]), align=1)


def placed(numbers: Sequence[int]) -> Value:
    return ir.Constant(ir.VectorType(ir.IntType(32), len(numbers)), list(numbers))


def instruction(write: Callable[..., None]) -> Written:
    """An intrinsic for kernels: `write(writer, ...)` gets words, and addresses for arrays."""

    @functools.wraps(write)
    def written(builder: ir.IRBuilder, *values: Value) -> None:
        write(Writer(builder), *values)

    return instructions.instruction(written)


@instruction
def _first(w: Writer, buffer: Value, p: Value, table: Value) -> None:
    """The first pass of the points p + 128 a, in place."""
    rows = [w.ir.add(p, w.whole((RUN + 1) * a)) for a in range(_ENDS)]
    w.put_turned(w.transform([w.row(buffer, row) for row in rows]), buffer, rows, table, p)


@instruction
def _middle(w: Writer, buffer: Value, at: Value, table: Value, r: Value) -> None:
    """The second pass of the rows `at` + 16 b, in place."""
    rows = [w.ir.add(at, w.whole(_ENDS * b)) for b in range(_MIDDLE)]
    w.put_turned(w.transform([w.row(buffer, row) for row in rows]), buffer, rows, table, r)


@instruction
def _last(w: Writer, buffer: Value, at: Value, out: Value, to: Value, step: Value) -> None:
    """The third pass of the rows from `at` on, into the rows `to` + step e of another buffer."""
    made = w.transform([w.row(buffer, w.ir.add(at, w.whole(r))) for r in range(_ENDS)])
    for e, value in enumerate(made):
        w.put(value, out, w.ir.add(to, w.ir.mul(step, w.whole(e))))


def _product(blocks: int) -> Written:
    """Products of a row of keys with a point of so many polynomials: lanes of one are side by side."""

    @instruction
    def product(w: Writer, public: Value, at: Value, keys: Value, row: Value, out: Value) -> None:
        a, b = w.spread_complex(public, at)
        for block in range(1, blocks):
            of = [lane * blocks // LANES >= block for lane in range(LANES)]
            mask = ir.Constant(ir.VectorType(ir.IntType(1), LANES), of)
            c, d = w.spread_complex(public, at, block * BLOCK)
            a, b = w.ir.select(mask, c, a), w.ir.select(mask, d, b)
        w.put(w.times(w.row(keys, row), (a, b)), out, row)

    return product


@instruction
def _settle(
    w: Writer, tile: Value, q: Value, back: Value, n: Value, words: Value, shift: Value, seen: Value
) -> None:
    """Round row q of a tile, point n, and add it times 2^shift to the words of its two coefficients."""
    b = w.ir
    product = w.times(w.row(tile, q), w.spread_complex(back, (n, 2)))
    by = w.spread_word(shift)
    worst = w.load(w.at(seen), WORDS)
    for part, first in zip(product, (0, HALF), strict=True):
        moved = b.fadd(part, w.doubles(_MAGIC))
        distance = b.fsub(part, b.fsub(moved, w.doubles(_MAGIC)))
        # As whole numbers, bits of doubles without a sign are in order, and what is no number last.
        size = b.and_(b.bitcast(distance, WORDS), w.words((1 << 63) - 1))
        worst = w.call("smax.v8i64", worst, size)
        whole = b.sub(b.bitcast(moved, WORDS), w.words(_MAGIC_BITS))
        address = w.at(words, (n, LANES), first * LANES)
        w.store(b.add(w.load(address, WORDS), b.shl(whole, by)), address)
    w.store(worst, w.at(seen))


@instruction
def _addends(
    w: Writer, drawn: Value, values: Value, places: Value, scale: Value, words: Value, seen: Value
) -> None:
    """Errors plus values times 2^scale. `places`: where those of a lane begin."""
    by = w.spread_word(scale)

    def put(i: Value, errors: Sequence[Value], given: Sequence[Value]) -> None:
        rows = [w.ir.add(error, w.ir.shl(value, by)) for error, value in zip(errors, given, strict=True)]
        for k, row in enumerate(w.turned_around(rows)):
            w.store(row, w.at(words, (i, LANES), k * LANES))

    w.each_eight_rows(drawn, values, places, seen, put)


@instruction
def _place(
    w: Writer, codes: Value, at: Value, first: Value, twist: Value, k: Value, buffer: Value, row: Value
) -> None:
    """Point k of the 0/1 rows of eight bins from `first` on, twisted, its parts in each other's place:
    of codes that begin so far into others."""
    b = w.ir
    bins = ir.Constant(WORDS, list(range(LANES)))
    real, imaginary = w.spread_complex(twist, (k, 2))
    is_low, is_high = (
        b.icmp_signed("==", w.spread_word(b.sub(b.load(w.at(codes, at, k, more)), first)), bins)
        for more in (0, HALF)
    )
    zeros = w.doubles(0.0)
    low = b.select(is_low, real, zeros), b.select(is_low, imaginary, zeros)
    high = b.select(is_high, b.fneg(imaginary), zeros), b.select(is_high, real, zeros)
    w.put((b.fadd(low[1], high[1]), b.fadd(low[0], high[0])), buffer, row)


def _gathering(limbs: int) -> Written:
    """Add row q of a tile, parts in each other's place, times conjugates to a row of all limbs' sums.

    Conjugates: the transform of a(1/X), so that a coefficient pairs row i with row i of a X^m.
    """

    @instruction
    def gather(
        w: Writer, tile: Value, q: Value, public: Value, at: Value, sums: Value, row: Value
    ) -> None:
        imaginary, real = w.row(tile, q)
        for limb in range(limbs):
            c, d = w.spread_complex(public, at, limb * 2 * HALF)
            of = w.ir.add(row, w.whole(limb * ROWS))
            x, y = w.row(sums, of)
            x = w.plus(real, c, w.plus(imaginary, d, x))
            y = w.plus(imaginary, c, w.plus(w.ir.fneg(real), d, y))
            w.put((x, y), sums, of)

    return gather


def _planes(blocks: int) -> Written:
    """Of so many rows from n on, eight words of each of as many polynomials, as words.pack; of each row
    the first `kept`, if there is one polynomial."""

    @instruction
    def planes(
        w: Writer, words: Value, n: Value, bits: Value, kept: Value, out: Value, plane: Value, at: Value
    ) -> None:
        b, one = w.ir, w.whole(1)
        whole = b.icmp_unsigned("==", bits, w.whole(64))
        cut = b.sub(w.whole(64), bits)
        # Halves to even: half less one, and one more where the last bit that stays is set.
        half = b.select(whole, w.whole(0), b.sub(b.lshr(b.shl(one, cut), one), one))
        last = w.spread_word(b.select(whole, w.whole(0), one))
        rows = [w.load(w.at(words, (n, LANES), k * LANES), WORDS) for k in range(blocks)]
        for block, row in enumerate(w.turned_around(rows)):
            up = b.add(b.and_(b.lshr(row, w.spread_word(cut)), last), w.spread_word(half))
            begin = b.mul(b.lshr(b.mul(plane, bits), w.whole(3)), w.whole(block))
            some = kept if blocks == 1 else None
            w.put_planes(b.add(row, up), bits, some, w.at(out, begin), plane, at)

    return planes


_product1, _product2, _product4, _product8 = (_product(blocks) for blocks in (1, 2, 4, 8))
_gather2, _gather3 = _gathering(2), _gathering(3)
_planes1, _planes2, _planes4 = (_planes(blocks) for blocks in (1, 2, 4))

# ----------------------------------------------------------------------------------- the kernels


@inlined
def _second(buffer: Floats, c: int, table: Floats, tile: Floats) -> None:
    """What is left of a transform after its first pass, of the points c + 16 q as a tile's rows q."""
    at = c * (RUN + 1)
    for r in range(_ENDS):
        _middle(buffer, at + r, table, r)
    for d in range(_MIDDLE):
        _last(buffer, at + d * _ENDS, tile, d, _MIDDLE)


@kernel
def settle(buffer: Floats, shift: int, words: Words, room: Room) -> None:
    """Add a buffer of products, transformed back and rounded, to words, times 2^shift. The buffer is
    overwritten."""
    first, second, back = room.tables[:3]
    for p in range(RUN):
        _first(buffer, p, first)
    for c in range(_ENDS):
        _second(buffer, c, second, room.tile)
        for q in range(RUN):
            _settle(room.tile, q, back, c + _ENDS * q, words, shift, room.seen)


@kernel
def add_hints(codes: Integers, first: int, public: Floats, sums: Floats, room: Room) -> None:
    """Add the hints of eight bins from `first` on, not rounded, to their sums, (limbs, ROWS, 2, LANES)
    flat, of 2 or 3 limbs.

    codes: (polynomials, DEGREE), flat; below 0 where there is no row. public: as many polynomials, flat.
    """
    roots, table, _, twist = room.tables
    limbs = len(sums) // (ROWS * ROW)
    for number in range(len(codes) // DEGREE):
        for k in range(HALF):
            _place(codes, number * DEGREE, first, twist, k, room.buffer, k + k // RUN)
        for p in range(RUN):
            _first(room.buffer, p, roots)
        for c in range(_ENDS):
            _second(room.buffer, c, table, room.tile)
            for q in range(RUN):
                k = c + _ENDS * q
                at = 2 * (number * limbs * HALF + k)
                if limbs == 2:
                    _gather2(room.tile, q, public, at, sums, k + k // RUN)
                else:
                    _gather3(room.tile, q, public, at, sums, k + k // RUN)


@inlined
def multiply(public: Floats, at: int, blocks: int, keys: Floats, out: Floats) -> None:
    """Products of a limb of so many polynomials, of which the first begins there, with the keys."""
    for k in range(HALF):
        row, of = k + k // RUN, at + 2 * k
        if blocks == 1:
            _product1(public, of, keys, row, out)
        elif blocks == 2:
            _product2(public, of, keys, row, out)
        elif blocks == 4:
            _product4(public, of, keys, row, out)
        else:
            _product8(public, of, keys, row, out)


@inlined
def _pack(words: Words, blocks: int, bits: int, count: int, first: int, out: Bytes) -> None:
    """The words of vectors from number `first` on, in bytes (polynomials, of as words.pack)."""
    plane = DEGREE * count
    kept = LANES if count - first > LANES else count - first
    for n in range(0, DEGREE, blocks):
        at = n * count + first
        if blocks == 1:
            _planes1(words, n, bits, kept, out, plane, at)
        elif blocks == 2:
            _planes2(words, n, bits, kept, out, plane, at)
        else:
            _planes4(words, n, bits, kept, out, plane, at)


class Form(NamedTuple):
    """How words of vectors are made."""

    vectors: int
    rows: int
    scale_bits: int
    bits: int  # of a word in bytes, 48, 56 or 64; of half a pair's, 40 or 64
    blocks: int  # polynomials at once: one, or so many as fill the lanes with 1, 2 or 4 vectors


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
    drawn: (number, count, DEGREE), flat; values: (count, rows), flat, of 16 or 64 bits, from row `start`
    on.
    """
    number, count, rows = public.shape[0] // BLOCK, form.vectors, form.rows
    blocks, places = form.blocks, room.places
    block = DEGREE * count * form.bits // 8
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
                settle(room.buffer, 32 * limb, room.words, room)
            _pack(room.words, blocks, form.bits, count, group * LANES, out[number_of * block :])
