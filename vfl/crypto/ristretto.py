"""Kernels of ristretto255 (RFC 9496) that work on several points at once, one in each vector lane.

`group` is the interface, `field25519` the arithmetic; here are the group's formulas and the kernels:
`multiply_blocks`, `sum_blocks`, `map_blocks`, and `field_blocks` for the tests of the arithmetic. The
formulas read as in the papers; run once, they write the kernels' code (`vector_code`).

    points          extended coordinates on the twisted Edwards curve -x^2 + y^2 = 1 + d x^2 y^2, with
                    x = X/Z, y = Y/Z, T = XY/Z: Hisil, Wong, Carter, Dawson, "Twisted Edwards curves
                    revisited", ASIACRYPT 2008, sections 3.1 (sum) and 3.3 (double)
    multiplication  signed windows of 4 bits: a table of P to 8P for each point, 64 additions and
                    256 doublings, the first four of the identity
    square roots    by the fixed chain of 2^252 - 3; decoding, encoding and the one-way map as in
                    RFC 9496, sections 4.2 and 4.3

Constant time: scalars and points are only ever in vectors, and no vector becomes a scalar before the
kernel's results are written; so no branch and no address can depend on them. A table entry is chosen
by reading all eight and keeping one by masks. Tests hold the compiled code to this. The instructions
used take the same time for all operands on the processors that have them. Nothing is claimed
about power, speculation, or what Python does with a scalar before it gets here; memory is not wiped.

The kernels are compiled at first use, for the processor at hand, and cached.
"""

import functools
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from llvmlite.ir import Value
from numpy.typing import NDArray

from vfl.arrays import Bytes
from vfl.crypto.field25519 import IFMA, WIDE, WIDE_512, Field, P, element, from_words
from vfl.crypto.vector_code import Lanes, Layout, Rows, Writer, instruction, once
from vfl.kernels import features, kernel

SignedWords = NDArray[np.int64]
Point: TypeAlias = tuple[Field, ...]
"""Four field elements: coordinates, the factors of them, or what a sum needs."""

_WINDOWS = 64  # of 4 bits in a scalar
_TABLE = 8  # entries: one to eight times a point
_SHARED = 16  # blocks that share their doublings; their tables fit into a cache

# RFC 9496, section 4.1.
_D = -121665 * pow(121666, -1, P)
_SQRT_M1 = 19681161376707505956807079304988542015446066515923890162744021073123829784752
_SQRT_AD_MINUS_ONE = 25063068953384623474111414158702152701244531502492656460079210482610430750235
_INVSQRT_A_MINUS_D = 54469307008909316920995813868745141605393597292927456921205312896311721017578
_ONE_MINUS_D_SQ = 1159843021668779879193775521855586647937357759715417654439879720876111806838
_D_MINUS_ONE_SQ = 40440834346308536858101042469323190826248399146238708352240133220865137265952

# --- Roots: RFC 9496, sections 3.1 and 4.2.


def _absolute(a: Field) -> Field:
    return a.is_odd().choose(-a, a)


@once(Field)
def _squares(w: Writer, a: Field, times: Value) -> Field:
    return w.repeat(times, lambda _, a: [a.squared()], a)[0]


@once(Field)
def _power(w: Writer, a: Field) -> Field:
    """a^((p - 5) / 8) = a^(2^252 - 3)."""

    def squares(a: Field, times: int) -> Field:
        return _squares(w, a, w.number(times))

    a2 = a.square()
    a9 = a * a2.square().square()
    a11 = a2 * a9
    e5 = a11.square() * a9  # a^(2^5 - 1), and so on
    e10 = squares(e5, 5) * e5
    e20 = squares(e10, 10) * e10
    e40 = squares(e20, 20) * e20
    e50 = squares(e40, 10) * e10
    e100 = squares(e50, 50) * e50
    e200 = squares(e100, 100) * e100
    e250 = squares(e200, 50) * e50
    return squares(e250, 2) * a


@once(Lanes, Field)
def _root_of_ratio(w: Writer, u: Field, v: Field) -> tuple[Lanes, Field]:
    """SQRT_RATIO_M1: whether u / v is a square, and the non-negative root of it or of i u / v."""
    v3 = v.square() * v
    root = u * v3 * _power(w, u * v3.square() * v)
    check = v * root.square()
    right = (check - u).is_zero()
    minus = (check + u).is_zero()
    minus_i = (check + u * _SQRT_M1).is_zero()
    root = (minus | minus_i).choose(root * _SQRT_M1, root)
    return right | minus, _absolute(root)


# --- Points.


def _extended(e: Field, f: Field, g: Field, h: Field) -> Point:
    """X, Y, Z, T of the four factors that a sum or a double leaves."""
    return e * f, g * h, f * g, e * h


def _double(x: Field, y: Field, z: Field) -> Point:
    a, b, c = x.square(), y.square(), z.square()
    g, h = a - b, a + b
    return h - (x + y).square(), g + (c + c), g, h


def _prepared(x: Field, y: Field, z: Field, t: Field) -> Point:
    """What a sum needs of its second point: Y - X, Y + X, 2 Z, 2 d T."""
    return y - x, y + x, z + z, t * (2 * _D)


def _sum(p: Point, q: Point) -> Point:
    """The factors of p plus a prepared q."""
    x, y, z, t = p
    less, more, z2, t2d = q
    a, b = (y - x) * less, (y + x) * more
    c, d = t * t2d, z * z2
    return b - a, d - c, d + c, b + a


def _identity(w: Writer) -> Point:
    """The factors of the identity."""
    return element(w, 0), element(w, 1), element(w, 1), element(w, 1)


@once(Lanes, Field, Field, Field, Field)
def _decode(w: Writer, *words: Lanes) -> tuple[Lanes, Field, Field, Field, Field]:
    """RFC 9496, section 4.3.1. Lanes that are no element, or the identity, are masked out."""
    s = from_words(w, words)
    different = [word ^ again for word, again in zip(words, s.words(), strict=True)]
    wrong = s.is_odd() | s.is_zero() | functools.reduce(operator.or_, different).is_not_zero()
    one, ss = element(w, 1), s.square()
    u1, u2 = 1 - ss, 1 + ss
    u2u2 = u2.square()
    v = -(_D * u1.square()) - u2u2
    was_square, root = _root_of_ratio(w, one, v * u2u2)
    den_x = root * u2
    x = _absolute((s + s) * den_x)
    y = u1 * (root * den_x * v)
    t = x * y
    return ~(wrong | ~was_square | t.is_odd() | y.is_zero()), x, y, one, t


@once(Lanes, Lanes, Lanes, Lanes)
def _encode(w: Writer, x: Field, y: Field, z: Field, t: Field) -> list[Lanes]:
    """RFC 9496, section 4.3.2."""
    u1, u2 = (z + y) * (z - y), x * y
    _, root = _root_of_ratio(w, element(w, 1), u1 * u2.square())
    den1, den2 = root * u1, root * u2
    z_inverse = den1 * den2 * t
    rotate = (t * z_inverse).is_odd()
    x, y, den = (
        rotate.choose(y * _SQRT_M1, x),
        rotate.choose(x * _SQRT_M1, y),
        rotate.choose(den1 * _INVSQRT_A_MINUS_D, den2),
    )
    y = (x * z_inverse).is_odd().choose(-y, y)
    return _absolute(den * (z - y)).words()


@once(Field, Field, Field, Field)
def _elligator(w: Writer, *words: Lanes) -> Point:
    """MAP(t) in RFC 9496, section 4.3.4."""
    t = from_words(w, words)
    r = _SQRT_M1 * t.square()
    u = (r + 1) * _ONE_MINUS_D_SQ
    v = -(1 + r * _D) * (r + _D)
    was_square, s = _root_of_ratio(w, u, v)
    s = was_square.choose(s, -_absolute(s * t))
    c = was_square.choose(element(w, -1), r)
    n = c * (r - 1) * _D_MINUS_ONE_SQ - v
    ss = s.square()
    # w0, w3, w1, w2 of the RFC in the places of e, f, g, h: (w0 w3, w2 w1, w1 w3, w0 w2).
    return _extended((s + s) * v, 1 + ss, n * _SQRT_AD_MINUS_ONE, 1 - ss)


# --- Loops over blocks, which are arrays (4 or 8, lanes) of 64-bit words. A table is 32 field elements,
# four to an entry, and the four words of its point's digits.


def _digits_at(layout: Layout) -> int:
    """Vectors of a table before its digits."""
    return 4 * _TABLE * len(layout.bits)


def _vectors(layout: Layout) -> int:
    """Vectors of a table."""
    return _digits_at(layout) + 4


@once()
def _fill(w: Writer, table: Rows, scalar: Rows, *p: Field) -> None:
    """One to eight times a point, as a sum needs them, and the digits of its scalar."""
    prepared, size = _prepared(*p), 4 * Field.size(w.layout)

    def entry(i: Value, *both: Field) -> Point:
        table.after(i, size).put(*both[4:])
        following = _extended(*_sum(both[:4], prepared))
        return *following, *_prepared(*following)

    w.repeat(_TABLE, entry, *p, *prepared)
    # Digits from -8 to 7, each plus 8 to have no sign: 888...8 in base 16 more than the scalar.
    eights, carry = w.lanes(0x8888888888888888), w.lanes(0)
    for i, word in enumerate(scalar.vectors(4)):
        raised = word + eights + carry
        carry = (word | ~raised) >> 63  # as the eights have their highest bit set
        table.after(_digits_at(w.layout) + i).put(raised)


@once(Field, Field, Field, Field)
def _entry(w: Writer, table: Rows, place: Value) -> Point:
    """The entry of a table for the digit at a place.

    All entries are read, and none of them depending on the digit.
    """
    word, within = w.ir.lshr(place, w.number(4)), w.ir.and_(place, w.number(15))
    digits = table.after(_digits_at(w.layout)).after(word).take(Lanes)
    digit = (digits >> w.lanes(w.times(within, 4))).low(4) - 8
    sign = digit.mask()
    size = (digit ^ sign) - sign

    def choose(i: Value, *chosen: Field) -> list[Field]:
        this, limbs = size.equal(w.lanes(w.ir.add(i, w.number(1)))), Field.size(w.layout)
        entry = table.after(i, 4 * limbs)
        return [this.choose(entry.after(k * limbs).take(Field), one) for k, one in enumerate(chosen)]

    of_zero = element(w, 1), element(w, 1), element(w, 2), element(w, 0)
    less, more, z2, t2d = w.repeat(_TABLE, choose, *of_zero)
    return sign.choose(more, less), sign.choose(less, more), z2, sign.choose(-t2d, t2d)


def _prepare(w: Writer, point: Rows, scalar: Rows, table: Rows, valid: Rows) -> None:
    """Decode, and fill a table."""
    good, *p = _decode(w, *point.vectors(4))
    valid.put(good)
    _fill(w, table, scalar, *p)


@once(Field, Field, Field, Field, is_hot=True)
def _multiples(w: Writer, tables: Rows, count: Value) -> Point:
    """The factors of the sum of so many tables' points, each times its scalar. They share their
    doublings (Straus, American Mathematical Monthly 71, 1964)."""

    def window(i: Value, *factors: Field) -> Point:
        place = w.ir.sub(w.number(_WINDOWS - 1), i)

        def add(j: Value, *factors: Field) -> Point:
            return _sum(_extended(*factors), _entry(w, tables.after(j, _vectors(w.layout)), place))

        doubled = w.repeat(4, lambda _, e, f, g, h: _double(e * f, g * h, f * g), *factors)
        return w.repeat(count, add, *doubled)

    return w.repeat(_WINDOWS, window, *_identity(w))


@instruction
def _multiply(
    w: Writer,
    points: Rows,
    scalars: Rows,
    table: Rows,
    products: Rows,
    valid: Rows,
    count: Value,
    step: Value,
) -> None:
    def each(block: Value) -> None:
        scalar = scalars.after(w.ir.mul(block, step), 4)
        _prepare(w, points.after(block, 4), scalar, table, valid.after(block))
        factors = _multiples(w, table, w.number(1))
        products.after(block, 4).put(*_encode(w, *_extended(*factors)))

    w.repeat(count, each)


@instruction
def _add_up(
    w: Writer, points: Rows, scalars: Rows, tables: Rows, sums: Rows, valid: Rows, count: Value
) -> None:
    room = w.number(_SHARED)

    def several(turn: Value, *total: Field) -> Point:
        first = w.ir.mul(turn, room)
        left = w.ir.sub(count, first)
        due = w.ir.select(w.ir.icmp_signed("<", left, room), left, room)

        def prepare(i: Value) -> None:
            block = w.ir.add(first, i)
            of_block = points.after(block, 4), scalars.after(block, 4)
            _prepare(w, *of_block, tables.after(i, _vectors(w.layout)), valid.after(block))

        w.repeat(due, prepare)
        return _extended(*_sum(total, _prepared(*_extended(*_multiples(w, tables, due)))))

    turns = w.ir.udiv(w.ir.add(count, w.number(_SHARED - 1)), room)
    total = w.repeat(turns, several, *_extended(*_identity(w)))
    sums.put(*_encode(w, *total))


def _elligators(w: Writer, first: Sequence[Lanes], second: Sequence[Lanes]) -> tuple[Point, Point]:
    if w.layout.lanes < 8:
        return _elligator(w, *first), _elligator(w, *second)
    # Side by side, as in a chain of squares each waits for the one before it. With AVX2 that gains
    # little, for as much code again.
    both = [a.beside(b) for a, b in zip(first, second, strict=True)]
    p, q = zip(*(part.halves() for part in _elligator(both[0].writer, *both)), strict=True)
    return p, q


@instruction
def _map(w: Writer, uniform: Rows, points: Rows, count: Value) -> None:
    def each(block: Value) -> None:
        words = uniform.after(block, 8).vectors(8)
        p, q = _elligators(w, words[:4], words[4:])
        points.after(block, 4).put(*_encode(w, *_extended(*_sum(p, _prepared(*q)))))

    w.repeat(count, each)


@instruction
def _compute(w: Writer, a: Rows, b: Rows, results: Rows, count: Value) -> None:
    def each(block: Value) -> None:
        x, y = (from_words(w, rows.after(block, 4).vectors(4)) for rows in (a, b))
        made = [x + y, x - y, x * y, x.square(), _power(w, x), (x + y) * (y - x), (x - y).square()]
        made += [x.times(y), x.squared()]  # written out, where those before are calls
        for i, one in enumerate(made):
            results.after(block, 4 * len(made)).after(4 * i).put(*one.words())

    w.repeat(count, each)


@kernel
def multiply_blocks(
    layout: Layout,
    points: SignedWords,
    scalars: SignedWords,
    table: SignedWords,
    products: SignedWords,
    valid: SignedWords,
    step: int,
) -> None:
    """Every point times its scalar; with a step of 0 instead of 1 times those of the first block.

    `table` is room for one, `valid` (blocks, lanes) takes a mask of the points that are elements other
    than the identity; the products of the others mean nothing.
    """
    _multiply(layout, points, scalars, table, products, valid, len(points), step)


@kernel
def sum_blocks(
    layout: Layout,
    points: SignedWords,
    scalars: SignedWords,
    tables: SignedWords,
    sums: SignedWords,
    valid: SignedWords,
) -> None:
    """In each lane the sum of its points, each times its own scalar: `sums` (1, 4, lanes).

    `tables` is room for _SHARED of them, as many as share their doublings; `valid` as in
    `multiply_blocks`.
    """
    _add_up(layout, points, scalars, tables, sums, valid, len(points))


@kernel
def map_blocks(layout: Layout, uniform: SignedWords, points: SignedWords) -> None:
    """The one-way map on eight words a lane: MAP(first half) + MAP(second half)."""
    _map(layout, uniform, points, len(uniform))


@kernel
def field_blocks(layout: Layout, a: SignedWords, b: SignedWords, results: SignedWords) -> None:
    """For tests: a + b, a - b, a b, a^2, a^(2^252 - 3), (a + b)(b - a), (a - b)^2, and once more a b and
    a^2, (blocks, 9, 4, lanes)."""
    _compute(layout, a, b, results, len(a))


# --- Rows of bytes to blocks and back.


@dataclass(frozen=True)
class Kernels:
    """The kernels in one layout, on rows of bytes."""

    layout: Layout

    def multiply(self, points: Bytes, scalar: bytes) -> tuple[Bytes, NDArray[np.bool_]]:
        """Elements (n, 32) times a scalar below the order; which rows are elements but the identity."""
        same = np.frombuffer(scalar, np.uint8).reshape(1, -1).repeat(self.layout.lanes, axis=0)
        return self._products(points, same, 0)

    def multiply_each(self, points: Bytes, scalars: Bytes) -> tuple[Bytes, NDArray[np.bool_]]:
        """As `multiply`, each element times a scalar of its own, (n, 32)."""
        return self._products(points, scalars, 1)

    def _products(self, points: Bytes, scalars: Bytes, step: int) -> tuple[Bytes, NDArray[np.bool_]]:
        blocks, factors = (to_blocks(self.layout, rows) for rows in (points, scalars))
        products, table = np.empty_like(blocks), self._room(1)
        valid = np.empty((len(blocks), self.layout.lanes), np.int64)
        multiply_blocks(self.layout, blocks, factors, table, products, valid, step)
        return to_rows(products, len(points)), valid.reshape(-1)[: len(points)] != 0

    def sums(self, points: Bytes, scalars: Bytes) -> tuple[Bytes, NDArray[np.bool_]]:
        """Elements whose sum is that of all `points`, each times its own scalar: (lanes, 32), among them
        the identity; and which rows are elements but the identity."""
        blocks, factors = (to_blocks(self.layout, rows) for rows in (points, scalars))
        sums = np.empty((1, 4, self.layout.lanes), np.int64)
        valid = np.empty((len(blocks), self.layout.lanes), np.int64)
        sum_blocks(self.layout, blocks, factors, self._room(_SHARED), sums, valid)
        return to_rows(sums, self.layout.lanes), valid.reshape(-1)[: len(points)] != 0

    def from_uniform(self, uniform: Bytes) -> Bytes:
        """The one-way map, (n, 64) to (n, 32)."""
        blocks = to_blocks(self.layout, uniform)
        points = np.empty((len(blocks), 4, self.layout.lanes), np.int64)
        map_blocks(self.layout, blocks, points)
        return to_rows(points, len(uniform))

    def _room(self, tables: int) -> SignedWords:
        """For tables, at the beginning of a cache line."""
        shape = tables, _vectors(self.layout), self.layout.lanes
        room = np.empty(math.prod(shape) + 8, np.int64)
        start = -room.ctypes.data % 64 // 8
        return room[start : start + math.prod(shape)].reshape(shape)


@functools.cache
def fastest() -> Kernels | None:
    """The kernels for this processor, or None where libsodium does as well."""
    has = features()
    if {"+avx512f", "+avx512ifma"} <= has:
        return Kernels(IFMA)
    if "+avx512f" in has:
        return Kernels(WIDE_512)
    return Kernels(WIDE) if "+avx2" in has else None


def to_blocks(layout: Layout, rows: Bytes) -> SignedWords:
    """Rows of bytes as words (blocks, words a row, lanes); the last block is filled up with zeros."""
    blocks = -(-len(rows) // layout.lanes)
    filled = np.zeros((blocks * layout.lanes, rows.shape[1]), np.uint8)
    filled[: len(rows)] = rows
    words = filled.view(np.int64).reshape(blocks, layout.lanes, rows.shape[1] // 8)
    return np.ascontiguousarray(words.transpose(0, 2, 1))


def to_rows(blocks: SignedWords, rows: int) -> Bytes:
    """The first `rows` rows of bytes of words (blocks, words a row, lanes)."""
    words = np.ascontiguousarray(blocks.transpose(0, 2, 1))
    return words.view(np.uint8).reshape(words.shape[0] * words.shape[1], words.shape[2] * 8)[:rows]
