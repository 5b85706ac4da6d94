"""Kernels of ristretto255 (RFC 9496) that work on several points at once, one in each vector lane.

`group` is the interface; here are the field, the group's formulas and four loops over blocks of points:
`multiply_blocks`, `sum_blocks`, `map_blocks`, and `field_blocks` for the tests of the arithmetic.

Field elements modulo p = 2^255 - 19 are `Field`s: vectors of limbs, with as many elements side by
side as a vector has lanes. There are three layouts:

    IFMA      8 lanes, 5 limbs of 51 bits. A product of limbs is two instructions that multiply 52
              bits by 52 and add the low or high half of the result (AVX-512 IFMA: vpmadd52luq,
              vpmadd52huq; as in Gueron and Krasnov, "Software implementation of modular
              exponentiation, using advanced vector instructions architectures", WAIFI 2012, and
              curve25519-dalek's backend of that name).
    WIDE      4 lanes, 10 limbs of 26 and 25 bits in turn, products of 32 bits by 32 (AVX2: vpmuludq;
              Bernstein and Schwabe, "NEON crypto", CHES 2012).
    WIDE_512  the same in 8 lanes (AVX-512 without IFMA).

The operations on fields are emitted as vector code of LLVM (intrinsics of numba), the formulas above
them are compiled by numba and read as in the papers:

    points          extended coordinates on the twisted Edwards curve -x^2 + y^2 = 1 + d x^2 y^2, with
                    x = X/Z, y = Y/Z, T = XY/Z: Hisil, Wong, Carter, Dawson, "Twisted Edwards curves
                    revisited", ASIACRYPT 2008, sections 3.1 (sum) and 3.3 (double)
    multiplication  signed windows of 4 bits: a table of P to 8P for each point, 64 additions and
                    252 doublings
    square roots    by the fixed chain of 2^252 - 3; decoding, encoding and the one-way map as in
                    RFC 9496, sections 4.2 and 4.3

Constant time: scalars and points are only ever in vectors, and no vector becomes a scalar before the
kernel's results are written; so no branch and no address can depend on them. A table entry is chosen
by reading all eight and keeping one by masks. Tests hold the compiled code to this. The instructions
used take the same time for all operands on the processors that have them. Nothing is claimed
about power, speculation, or what Python does with a scalar before it gets here; memory is not wiped.

The kernels are compiled at first use, for the processor at hand, and cached by numba, which looks only
at this file to see whether a cached kernel is still good. So all that makes a kernel is in this file.
"""

# mypy: disallow-untyped-calls=False

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, TypeAlias

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.base import BaseContext
from numba.core.typing.templates import Signature
from numba.extending import (
    NativeValue,
    intrinsic,
    models,
    overload,
    register_model,
    typeof_impl,
    unbox,
)
from numpy.typing import NDArray

from vfl.arrays import Bytes
from vfl.kernels import features, kernel

SignedWords = NDArray[np.int64]
Compiled = Callable[..., Any]
"""A function that compiled code can call, on values of the types below."""
Compiler = Callable[..., Callable[[Compiled], Compiled]]

P = 2**255 - 19
SCALAR = 32  # bytes
WINDOWS = 64  # of 4 bits in a scalar
_TABLE = 8  # entries: one to eight times a point
_SHARED = 16  # blocks that share their doublings; their tables fit into a cache

_I64 = ir.IntType(64)

njit: Compiler = numba.njit  # its stub lacks some options


@dataclass(frozen=True)
class Layout:
    """How field elements lie in vectors: `lanes` elements side by side, limbs of `bits` each."""

    name: str
    lanes: int
    bits: tuple[int, ...]

    @property
    def vector(self) -> ir.Type:
        """LLVM's type of one limb of all lanes."""
        return ir.VectorType(_I64, self.lanes)

    @property
    def offsets(self) -> list[int]:
        """The bit at which each limb starts."""
        return [sum(self.bits[:i]) for i in range(len(self.bits))]

    def limbs(self, number: int) -> list[int]:
        """The limbs of an integer; the last one takes what is left."""
        parts = [
            (number >> at) & ((1 << bits) - 1) for at, bits in zip(self.offsets, self.bits, strict=True)
        ]
        parts[-1] = number >> self.offsets[-1]
        return parts


IFMA = Layout("ifma", 8, (51,) * 5)
WIDE = Layout("wide", 4, (26, 25) * 5)
WIDE_512 = Layout("wide512", 8, (26, 25) * 5)


# --- Types that numba needs to know: a layout, lanes (also masks, all ones or all zeros), a field.


class _LayoutType(types.Type):
    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        super().__init__(name=f"{type(self).__name__}({layout.name})")


class _LanesType(_LayoutType):
    pass


class _FieldType(_LayoutType):
    pass


register_model(_LayoutType)(models.OpaqueModel)


@register_model(_LanesType)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: object, kind: _LanesType) -> None:
        super().__init__(manager, kind, kind.layout.vector)


@register_model(_FieldType)
class _FieldModel(models.PrimitiveModel):
    def __init__(self, manager: object, kind: _FieldType) -> None:
        layout = kind.layout
        super().__init__(manager, kind, ir.ArrayType(layout.vector, len(layout.bits)))


@typeof_impl.register(Layout)
def _type_of_layout(layout: Layout, context: object) -> _LayoutType:
    return _LayoutType(layout)


class _Unboxing(Protocol):
    """What numba gives to who takes a Python object apart."""

    context: BaseContext


@unbox(_LayoutType)
def _unbox_layout(kind: _LayoutType, value: object, context: _Unboxing) -> NativeValue:
    return NativeValue(context.context.get_dummy_value())


# --- Emission of vector code. `Vector` is one limb of all lanes, a `Field` a list of them.

Vector: TypeAlias = ir.Value
_Products = Iterable[tuple[int, int, Vector, Vector]]  # the limbs' numbers, and the limbs


class _Emitter:
    """Writes the operations on fields of one layout into a function that is being compiled.

    Between operations every limb is below 2^bits + 2^15, and not negative.
    """

    def __init__(self, builder: ir.IRBuilder, layout: Layout) -> None:
        self.ir = builder
        self.layout = layout
        self.size = len(layout.bits)

    def splat(self, number: int) -> Vector:
        return ir.Constant(self.layout.vector, [number] * self.layout.lanes)

    def shift(self, a: Vector, left: int) -> Vector:
        if left == 0:
            return a
        return self.ir.shl(a, self.splat(left)) if left > 0 else self.ir.lshr(a, self.splat(-left))

    def low(self, a: Vector, bits: int) -> Vector:
        return self.ir.and_(a, self.splat((1 << bits) - 1))

    def times19(self, a: Vector) -> Vector:
        return self.ir.mul(a, self.splat(19))

    def carry(self, a: list[Vector]) -> list[Vector]:
        """All carries at once; enough where none is over 2^10."""
        bits = self.layout.bits
        over = [self.shift(limb, -b) for limb, b in zip(a, bits, strict=True)]
        over = [self.times19(over[-1]), *over[:-1]]
        return [self.ir.add(self.low(limb, b), o) for limb, b, o in zip(a, bits, over, strict=True)]

    def add(self, a: list[Vector], b: list[Vector]) -> list[Vector]:
        return self.carry([self.ir.add(x, y) for x, y in zip(a, b, strict=True)])

    def sub(self, a: list[Vector], b: list[Vector]) -> list[Vector]:
        # Twice p, limb by limb more than b has.
        twice = [2 * limb for limb in self.layout.limbs(P)]
        return self.carry(
            [self.ir.sub(self.ir.add(x, self.splat(t)), y) for x, y, t in zip(a, b, twice, strict=True)]
        )

    def freeze(self, a: list[Vector]) -> list[Vector]:
        """The one representative below p, its limbs within their bits."""
        bits = self.layout.bits
        for _ in range(2):  # to exact limbs, and below 2^255 (then below 2 p)
            a = list(a)
            for k in range(self.size - 1):
                a[k + 1] = self.ir.add(a[k + 1], self.shift(a[k], -bits[k]))
                a[k] = self.low(a[k], bits[k])
            over = self.shift(a[-1], -bits[-1])
            a[-1] = self.low(a[-1], bits[-1])
            a[0] = self.ir.add(a[0], self.times19(over))
        # One more if a + 19 reaches 2^255: subtract p by adding 19 and dropping the bit on top.
        over = self.splat(19)
        for limb, b in zip(a, bits, strict=True):
            over = self.shift(self.ir.add(limb, over), -b)
        a[0] = self.ir.add(a[0], self.times19(over))
        for k in range(self.size - 1):
            a[k + 1] = self.ir.add(a[k + 1], self.shift(a[k], -bits[k]))
            a[k] = self.low(a[k], bits[k])
        a[-1] = self.low(a[-1], bits[-1])
        return a

    def unpack(self, words: Sequence[Vector]) -> list[Vector]:
        """From the four 64-bit words of a little-endian number; its top bit is dropped."""
        limbs = []
        for at, bits in zip(self.layout.offsets, self.layout.bits, strict=True):
            word, bit = divmod(at, 64)
            limb = self.shift(words[word], -bit)
            if bit + bits > 64:
                limb = self.ir.or_(limb, self.shift(words[word + 1], 64 - bit))
            limbs.append(self.low(limb, bits))
        return limbs

    def pack(self, a: list[Vector]) -> list[Vector]:
        """The words of the representative below p."""
        words = [self.splat(0)] * 4
        for limb, at, bits in zip(self.freeze(a), self.layout.offsets, self.layout.bits, strict=True):
            word, bit = divmod(at, 64)
            words[word] = self.ir.or_(words[word], self.shift(limb, bit))
            if bit + bits > 64:
                words[word + 1] = self.ir.or_(words[word + 1], self.shift(limb, bit - 64))
        return words

    # Masks come from arithmetic: of comparisons the compiler would make masked loads.

    def mask(self, sign: Vector) -> Vector:
        return self.ir.ashr(sign, self.splat(63))

    def is_zero(self, a: list[Vector]) -> Vector:
        limbs = self.freeze(a)
        every = limbs[0]
        for limb in limbs[1:]:
            every = self.ir.or_(every, limb)
        return self.mask(self.ir.sub(every, self.splat(1)))

    def is_odd(self, a: list[Vector]) -> Vector:
        return self.mask(self.shift(self.freeze(a)[0], 63))

    def equal(self, a: Vector, number: ir.Value) -> Vector:
        """A mask of where small non-negative lanes equal one number."""
        lane = self.ir.insert_element(self.splat(0), number, ir.Constant(ir.IntType(32), 0))
        first = ir.Constant(ir.VectorType(ir.IntType(32), self.layout.lanes), [0] * self.layout.lanes)
        other = self.ir.shuffle_vector(lane, lane, first)
        return self.mask(self.ir.sub(self.ir.xor(a, other), self.splat(1)))

    def differ(self, a: Vector, b: Vector) -> Vector:
        bits = self.ir.xor(a, b)
        return self.mask(self.ir.or_(bits, self.ir.neg(bits)))

    def select(self, mask: Vector, a: list[Vector], b: list[Vector]) -> list[Vector]:
        return [self.ir.xor(y, self.ir.and_(self.ir.xor(x, y), mask)) for x, y in zip(a, b, strict=True)]


class _Ifma(_Emitter):
    """Low halves of 52 bits go to the column of their product, high halves to the next one.

    High halves count twice, as the limbs have 51 bits.
    """

    def mul(self, a: list[Vector], b: list[Vector]) -> list[Vector]:
        low, high = self._columns((i, j, a[i], b[j]) for i in range(5) for j in range(5))
        return self._fold([self._column(x, y) for x, y in zip(low, high, strict=True)])

    def square(self, a: list[Vector]) -> list[Vector]:
        # Each product of two different limbs once, to be doubled.
        low, high = self._columns((i, j, a[i], a[j]) for i in range(5) for j in range(i))
        whole = []
        for k in range(10):
            i, odd = divmod(k, 2)
            # The high half of a limb's square counts twice too, its low half does not.
            lower = self._madd("h", a[i], a[i], low[k]) if odd else low[k]
            doubled = self.shift(self._column(lower, high[k]), 1)
            whole.append(doubled if odd else self._madd("l", a[i], a[i], doubled))
        return self._fold(whole)

    def _madd(self, half: str, a: Vector, b: Vector, to: Vector | None) -> Vector:
        v = self.layout.vector
        function = cgutils.get_or_insert_function(
            self.ir.module, ir.FunctionType(v, [v, v, v]), f"llvm.x86.avx512.vpmadd52{half}.uq.512"
        )
        return self.ir.call(function, [self.splat(0) if to is None else to, a, b])

    def _columns(self, products: _Products) -> tuple[list[Vector | None], list[Vector | None]]:
        low: list[Vector | None] = [None] * 10
        high: list[Vector | None] = [None] * 10
        for i, j, x, y in products:
            low[i + j] = self._madd("l", x, y, low[i + j])
            high[i + j + 1] = self._madd("h", x, y, high[i + j + 1])
        return low, high

    def _column(self, low: Vector | None, high: Vector | None) -> Vector:
        doubled = self.splat(0) if high is None else self.shift(high, 1)
        return doubled if low is None else self.ir.add(low, doubled)

    def _fold(self, whole: list[Vector]) -> list[Vector]:
        """Columns of 2^255 and more come back at the bottom, 19 times: below 2^60 each."""
        return self.carry(
            [self.ir.add(x, self.times19(y)) for x, y in zip(whole[:5], whole[5:], strict=True)]
        )


class _Wide(_Emitter):
    """Only the low 32 bits of a limb take part in a product, as in vpmuludq: the masks tell LLVM so.

    Products of fields are functions of their own, as 20 operands do not fit into registers anyway.
    """

    def mul(self, a: list[Vector], b: list[Vector]) -> list[Vector]:
        return self._call("product", _Wide._mul, a, b)

    def square(self, a: list[Vector]) -> list[Vector]:
        return self._call("square", _Wide._square, a)

    def _call(self, name: str, body: Callable[..., list[Vector]], *fields: list[Vector]) -> list[Vector]:
        field = ir.ArrayType(self.layout.vector, self.size)
        pointer = field.as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [pointer] * (1 + len(fields)))
        function = cgutils.get_or_insert_function(
            self.ir.module, kind, f"vfl_ristretto_{self.layout.name}_{name}"
        )
        if function.is_declaration:
            function.linkage = "linkonce_odr"
            function.attributes.add("noinline")
            function.attributes.add("nounwind")
            inside = _Wide(ir.IRBuilder(function.append_basic_block()), self.layout)
            made = body(
                inside, *(cgutils.unpack_tuple(inside.ir, inside.ir.load(p)) for p in function.args[1:])
            )
            inside.ir.store(cgutils.pack_array(inside.ir, made), function.args[0])
            inside.ir.ret_void()
        rooms = [cgutils.alloca_once(self.ir, field) for _ in range(1 + len(fields))]
        for room, limbs in zip(rooms[1:], fields, strict=True):
            self.ir.store(cgutils.pack_array(self.ir, limbs), room)
        self.ir.call(function, rooms)
        return list(cgutils.unpack_tuple(self.ir, self.ir.load(rooms[0])))

    def _mul(self, a: list[Vector], b: list[Vector]) -> list[Vector]:
        size = self.size
        # Where two limbs of 25 bits meet, their product is due one bit higher.
        twice = [self.low(self.shift(x, 1), 32) for x in a]
        a = [self.low(x, 32) for x in a]
        b19 = [self.ir.mul(self.low(x, 27), self.splat(19)) for x in b]
        b = [self.low(x, 32) for x in b]
        columns: list[Vector | None] = [None] * size
        for j in range(size):
            for i in range(size):
                x = twice[i] if i % 2 and j % 2 else a[i]
                y = b[j] if i + j < size else b19[j]
                self._into(columns, i + j, x, y)
        return self._chains(columns)

    def _square(self, a: list[Vector]) -> list[Vector]:
        size = self.size
        twice = [self.low(self.shift(x, 1), 32) for x in a]
        times4 = [self.low(self.shift(x, 2), 32) for x in a]
        a19 = [self.ir.mul(self.low(x, 27), self.splat(19)) for x in a]
        a = [self.low(x, 32) for x in a]
        columns: list[Vector | None] = [None] * size
        for j in range(size):
            for i in range(j + 1):
                x = (a, twice, times4)[(i < j) + (i % 2 and j % 2)][i]
                y = a[j] if i + j < size else a19[j]
                self._into(columns, i + j, x, y)
        return self._chains(columns)

    def _into(self, columns: list[Vector | None], k: int, x: Vector, y: Vector) -> None:
        product, k = self.ir.mul(x, y), k % len(columns)
        before = columns[k]
        columns[k] = product if before is None else self.ir.add(before, product)

    def _chains(self, r: list[Vector]) -> list[Vector]:
        # Two chains side by side; the second time round at 0 and 5 the carries are small.
        for k in (0, 5, 1, 6, 2, 7, 3, 8, 4, 9, 5, 0):
            bits = self.layout.bits[k]
            over = self.shift(r[k], -bits)
            r[k] = self.low(r[k], bits)
            to = (k + 1) % self.size
            r[to] = self.ir.add(r[to], self.times19(over) if k == 9 else over)
        return r


_EMITTERS: dict[str, type[_Emitter]] = {IFMA.name: _Ifma, WIDE.name: _Wide, WIDE_512.name: _Wide}

# --- The same as functions that compiled code can call.

# What numba asks of an intrinsic: its signature, and what writes its code.
_Typed = tuple[Signature, Callable[..., ir.Value]]


def _function(
    result: Callable[[Layout], types.Type],
    emit: Callable[..., Vector | list[Vector]],
    arguments: int,
) -> Compiled:
    """A function of fields and lanes, whose code `emit(emitter, ...)` writes."""

    def typed(*kinds: _LayoutType) -> _Typed:
        layout = (kinds[0].dtype if isinstance(kinds[0], types.UniTuple) else kinds[0]).layout

        def generate(
            context: BaseContext, builder: ir.IRBuilder, signature: object, values: Sequence[ir.Value]
        ) -> ir.Value:
            emitter = _EMITTERS[layout.name](builder, layout)
            unpacked = [
                cgutils.unpack_tuple(builder, v) if isinstance(k, _FieldType | types.BaseTuple) else v
                for k, v in zip(kinds, values, strict=True)
            ]
            made = emit(emitter, *unpacked)
            return cgutils.pack_array(builder, made) if isinstance(made, list) else made

        return result(layout)(*kinds), generate

    by_arguments: dict[int, Compiled] = {
        1: lambda context, a: typed(a),
        2: lambda context, a, b: typed(a, b),
        3: lambda context, a, b, c: typed(a, b, c),
    }
    function: Compiled = intrinsic(by_arguments[arguments])
    return function


def _four_lanes(layout: Layout) -> types.Type:
    return types.UniTuple(_LanesType(layout), 4)


_add = _function(_FieldType, lambda e, *of: e.add(*of), 2)
_sub = _function(_FieldType, lambda e, *of: e.sub(*of), 2)
_mul = _function(_FieldType, lambda e, *of: e.mul(*of), 2)
_negative = _function(_FieldType, lambda e, a: e.sub([e.splat(0)] * e.size, a), 1)
square = _function(_FieldType, lambda e, *of: e.square(*of), 1)
select = _function(_FieldType, lambda e, *of: e.select(*of), 3)
is_zero = _function(_LanesType, lambda e, *of: e.is_zero(*of), 1)
is_odd = _function(_LanesType, lambda e, *of: e.is_odd(*of), 1)
from_words = _function(_FieldType, lambda e, *of: e.unpack(*of), 1)
to_words = _function(_four_lanes, lambda e, *of: e.pack(*of), 1)
_and = _function(_LanesType, lambda e, a, b: e.ir.and_(a, b), 2)
_or = _function(_LanesType, lambda e, a, b: e.ir.or_(a, b), 2)
_xor = _function(_LanesType, lambda e, a, b: e.ir.xor(a, b), 2)
_invert = _function(_LanesType, lambda e, a: e.ir.not_(a), 1)
_equal = _function(_LanesType, lambda e, *of: e.equal(*of), 2)
_differ = _function(_LanesType, lambda e, *of: e.differ(*of), 2)


def _operator(which: Compiled, kind: type[_LayoutType], function: Compiled) -> None:
    if which is operator.invert:

        @overload(which, jit_options={"forceinline": True})
        def one(a):  # type: ignore[no-untyped-def]  # numba compares with the lambda's signature
            return (lambda a: function(a)) if type(a) is kind else None

        return

    @overload(which, jit_options={"forceinline": True})
    def two(a, b):  # type: ignore[no-untyped-def]
        return (lambda a, b: function(a, b)) if type(a) is kind and type(b) is kind else None


_OPERATORS: list[tuple[Compiled, type[_LayoutType], Compiled]] = [
    (operator.add, _FieldType, _add),
    (operator.sub, _FieldType, _sub),
    (operator.mul, _FieldType, _mul),
    (operator.and_, _LanesType, _and),
    (operator.or_, _LanesType, _or),
    (operator.xor, _LanesType, _xor),
    (operator.invert, _LanesType, _invert),
    (operator.ne, _LanesType, _differ),
]
for _which, _kind, _made in _OPERATORS:
    _operator(_which, _kind, _made)


def _constant(number: int) -> Compiled:
    """A function of a layout that gives `number` in every lane."""

    def emit(e: _Emitter, _: object) -> list[Vector]:
        return [e.splat(limb) for limb in e.layout.limbs(number % P)]

    return _function(_FieldType, emit, 1)


def _address(
    context: BaseContext,
    builder: ir.IRBuilder,
    kind: types.Array,
    array: ir.Value,
    index: ir.Value,
    layout: Layout,
    n: int,
) -> ir.Value:
    """The address of the index-th group of n vectors in a contiguous array of 64-bit integers."""
    data = context.make_array(kind)(context, builder, array).data
    start = builder.mul(index, ir.Constant(_I64, n * layout.lanes))
    return builder.bitcast(builder.gep(data, [start]), layout.vector.as_pointer())


def _loader(kind_of: type[_LayoutType], count: Callable[[Layout], int]) -> Compiled:
    @intrinsic
    def load(context: object, layout: _LayoutType, array: types.Array, index: types.Type) -> _Typed:
        n = count(layout.layout)

        def generate(
            context: BaseContext, builder: ir.IRBuilder, signature: object, values: Sequence[ir.Value]
        ) -> ir.Value:
            at = _address(context, builder, array, values[1], values[2], layout.layout, n)
            loaded = [builder.load(builder.gep(at, [ir.Constant(_I64, i)]), align=8) for i in range(n)]
            return loaded[0] if kind_of is _LanesType else cgutils.pack_array(builder, loaded)

        return kind_of(layout.layout)(layout, array, types.intp), generate

    return load


def _typed_store(context: object, array: types.Array, index: types.Type, value: _LayoutType) -> _Typed:
    layout = value.layout
    n = len(layout.bits) if isinstance(value, _FieldType) else 1

    def generate(
        context: BaseContext, builder: ir.IRBuilder, signature: object, values: Sequence[ir.Value]
    ) -> ir.Value:
        at = _address(context, builder, array, values[0], values[1], layout, n)
        limbs = (
            cgutils.unpack_tuple(builder, values[2]) if isinstance(value, _FieldType) else [values[2]]
        )
        for i, limb in enumerate(limbs):
            builder.store(limb, builder.gep(at, [ir.Constant(_I64, i)]), align=8)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), generate


_store: Compiled = intrinsic(_typed_store)
_load_lanes = _loader(_LanesType, lambda layout: 1)
_load_field = _loader(_FieldType, lambda layout: len(layout.bits))

_inline = njit(forceinline=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
_once = njit(no_cpython_wrapper=True, no_cfunc_wrapper=True)  # too long to be inlined


# Anything of the types above, inside compiled code.
Field = Any
Lanes = Any
Point = tuple[Field, Field, Field, Field]
FourLanes = tuple[Lanes, Lanes, Lanes, Lanes]

# --- Constants of RFC 9496, section 4.1.

_ZERO = _constant(0)
_ONE = _constant(1)
_TWO = _constant(2)
_D = _constant(-121665 * pow(121666, -1, P))
_2D = _constant(-2 * 121665 * pow(121666, -1, P))
_SQRT_M1 = _constant(19681161376707505956807079304988542015446066515923890162744021073123829784752)
_SQRT_AD_MINUS_ONE = _constant(
    25063068953384623474111414158702152701244531502492656460079210482610430750235
)
_INVSQRT_A_MINUS_D = _constant(
    54469307008909316920995813868745141605393597292927456921205312896311721017578
)
_ONE_MINUS_D_SQ = _constant(1159843021668779879193775521855586647937357759715417654439879720876111806838)
_D_MINUS_ONE_SQ = _constant(
    40440834346308536858101042469323190826248399146238708352240133220865137265952
)

# --- Roots: RFC 9496, sections 3.1 and 4.2.


@_inline
def _absolute(a: Field) -> Field:
    return select(is_odd(a), _negative(a), a)


@_once
def _squares(a: Field, times: int) -> Field:
    for _ in range(times):
        a = square(a)
    return a


@_once
def _power(a: Field) -> Field:
    """a^((p - 5) / 8) = a^(2^252 - 3)."""
    a2 = square(a)
    a9 = a * square(square(a2))
    a11 = a2 * a9
    e5 = square(a11) * a9  # a^(2^5 - 1), and so on
    e10 = _squares(e5, np.int64(5)) * e5
    e20 = _squares(e10, np.int64(10)) * e10
    e40 = _squares(e20, np.int64(20)) * e20
    e50 = _squares(e40, np.int64(10)) * e10
    e100 = _squares(e50, np.int64(50)) * e50
    e200 = _squares(e100, np.int64(100)) * e100
    e250 = _squares(e200, np.int64(50)) * e50
    return square(square(e250)) * a


@_once
def _root_of_ratio(layout: Layout, u: Field, v: Field) -> tuple[Lanes, Field]:
    """SQRT_RATIO_M1: whether u / v is a square, and the non-negative root of it or of i u / v."""
    v3 = square(v) * v
    root = u * v3 * _power(u * square(v3) * v)
    check = v * square(root)
    right = is_zero(check - u)
    minus = is_zero(check + u)
    minus_i = is_zero(check + u * _SQRT_M1(layout))
    root = select(minus | minus_i, root * _SQRT_M1(layout), root)
    return right | minus, _absolute(root)


# --- Points.


@_inline
def _extended(e: Field, f: Field, g: Field, h: Field) -> Point:
    """X, Y, Z, T of the four factors that a sum or a double leaves."""
    return e * f, g * h, f * g, e * h


@_inline
def _double(x: Field, y: Field, z: Field) -> Point:
    a, b, c = square(x), square(y), square(z)
    g, h = a - b, a + b
    return h - square(x + y), g + (c + c), g, h


@_inline
def _prepared(layout: Layout, p: Point) -> Point:
    """What a sum needs of its second point: Y - X, Y + X, 2 Z, 2 d T."""
    x, y, z, t = p
    return y - x, y + x, z + z, t * _2D(layout)


@_inline
def _sum(p: Point, q: Point) -> Point:
    """The factors of p plus a prepared q."""
    x, y, z, t = p
    less, more, z2, t2d = q
    a, b = (y - x) * less, (y + x) * more
    c, d = t * t2d, z * z2
    return b - a, d - c, d + c, b + a


@_once
def _decode(layout: Layout, words: FourLanes) -> tuple[Lanes, Point]:
    """RFC 9496, section 4.3.1. Lanes that are no element, or the identity, are masked out."""
    s = from_words(words)
    again = to_words(s)
    wrong = is_odd(s) | is_zero(s)
    for i in range(4):
        wrong = wrong | (words[i] != again[i])
    one = _ONE(layout)
    ss = square(s)
    u1, u2 = one - ss, one + ss
    u2u2 = square(u2)
    v = _negative(_D(layout) * square(u1)) - u2u2
    was_square, root = _root_of_ratio(layout, one, v * u2u2)
    den_x = root * u2
    x = _absolute((s + s) * den_x)
    y = u1 * (root * den_x * v)
    t = x * y
    return ~(wrong | ~was_square | is_odd(t) | is_zero(y)), (x, y, one, t)


@_once
def _encode(layout: Layout, p: Point) -> FourLanes:
    """RFC 9496, section 4.3.2."""
    x, y, z, t = p
    u1, u2 = (z + y) * (z - y), x * y
    _, root = _root_of_ratio(layout, _ONE(layout), u1 * square(u2))
    den1, den2 = root * u1, root * u2
    z_inverse = den1 * den2 * t
    rotate = is_odd(t * z_inverse)
    i = _SQRT_M1(layout)
    x, y, den = (
        select(rotate, y * i, x),
        select(rotate, x * i, y),
        select(rotate, den1 * _INVSQRT_A_MINUS_D(layout), den2),
    )
    y = select(is_odd(x * z_inverse), _negative(y), y)
    words: FourLanes = to_words(_absolute(den * (z - y)))
    return words


@_once
def _elligator(layout: Layout, words: FourLanes) -> Point:
    """The factors of MAP(t) in RFC 9496, section 4.3.4."""
    one, d, i = _ONE(layout), _D(layout), _SQRT_M1(layout)
    t = from_words(words)
    r = i * square(t)
    u = (r + one) * _ONE_MINUS_D_SQ(layout)
    v = _negative(one + r * d) * (r + d)
    was_square, s = _root_of_ratio(layout, u, v)
    s = select(was_square, s, _negative(_absolute(s * t)))
    c = select(was_square, _negative(one), r)
    n = c * (r - one) * _D_MINUS_ONE_SQ(layout) - v
    ss = square(s)
    # w0, w3, w1, w2 of the RFC in the places of e, f, g, h: (w0 w3, w2 w1, w1 w3, w0 w2).
    return (s + s) * v, one + ss, n * _SQRT_AD_MINUS_ONE(layout), one - ss


# --- The loops over blocks. Words are arrays (blocks, 4 or 8, lanes) of 64-bit integers.


@_inline
def _words(layout: Layout, words: SignedWords, at: int) -> FourLanes:
    return (
        _load_lanes(layout, words, at),
        _load_lanes(layout, words, at + 1),
        _load_lanes(layout, words, at + 2),
        _load_lanes(layout, words, at + 3),
    )


@_inline
def _store_words(words: SignedWords, at: int, made: FourLanes) -> None:
    for i in range(4):
        _store(words, at + i, made[i])


@_once
def _choose(layout: Layout, table: SignedWords, at: int, size: Lanes, sign: Lanes) -> Point:
    """The entry for a digit of the table from `at` on: |digit| in `size`, a mask of the negative ones in
    `sign`.

    All entries are read, and none of them depending on the digit.
    """
    one, zero = _ONE(layout), _ZERO(layout)
    less, more, z2, t2d = one, one, _TWO(layout), zero
    for i in range(_TABLE):
        this = _equal(size, i + 1)
        less = select(this, _load_field(layout, table, at + 4 * i), less)
        more = select(this, _load_field(layout, table, at + 4 * i + 1), more)
        z2 = select(this, _load_field(layout, table, at + 4 * i + 2), z2)
        t2d = select(this, _load_field(layout, table, at + 4 * i + 3), t2d)
    return select(sign, more, less), select(sign, less, more), z2, select(sign, _negative(t2d), t2d)


@_once
def _fill_table(layout: Layout, table: SignedWords, at: int, p: Point) -> None:
    """One to eight times a point, as a sum needs them."""
    prepared = _prepared(layout, p)
    q = prepared
    for i in range(_TABLE):
        for j in range(4):
            _store(table, at + 4 * i + j, q[j])
        e, f, g, h = _sum(p, prepared)
        p = _extended(e, f, g, h)
        q = _prepared(layout, p)


@kernel
def multiply_blocks(
    layout: Layout,
    points: SignedWords,
    digits: SignedWords,
    table: SignedWords,
    products: SignedWords,
    valid: SignedWords,
) -> None:
    """Every point times its scalar, of which `digits` (blocks, 2, 64, lanes) holds sizes and signs; of
    a single block of them, all points times the same ones.

    `table` is room for 32 field elements, `valid` (blocks, lanes) takes a mask of the points that
    are elements other than the identity; the products of the others mean nothing.
    """
    step = 2 * WINDOWS if digits.shape[0] > 1 else 0
    for block in range(points.shape[0]):
        good, p = _decode(layout, _words(layout, points, 4 * block))
        _store(valid, block, good)
        _fill_table(layout, table, 0, p)
        e, f, g, h = _ZERO(layout), _ONE(layout), _ONE(layout), _ONE(layout)
        for i in range(WINDOWS):
            for _ in range(4):
                e, f, g, h = _double(e * f, g * h, f * g)
            window = WINDOWS - 1 - i
            entry = _choose(
                layout,
                table,
                0,
                _load_lanes(layout, digits, step * block + window),
                _load_lanes(layout, digits, step * block + WINDOWS + window),
            )
            e, f, g, h = _sum(_extended(e, f, g, h), entry)
        _store_words(products, 4 * block, _encode(layout, _extended(e, f, g, h)))


@kernel
def sum_blocks(
    layout: Layout,
    points: SignedWords,
    digits: SignedWords,
    tables: SignedWords,
    sums: SignedWords,
    valid: SignedWords,
) -> None:
    """In each lane the sum of its points, each times its own scalar: `sums` (1, 4, lanes).

    Blocks share their doublings, as many as `tables` (blocks, 32, limbs, lanes) has room for (Straus,
    American Mathematical Monthly 71, 1964). `digits` and `valid` as in `multiply_blocks`.
    """
    room = tables.shape[0]
    e, f, g, h = _ZERO(layout), _ONE(layout), _ONE(layout), _ONE(layout)
    total = _extended(e, f, g, h)
    for first in range(0, points.shape[0], room):
        count = min(room, points.shape[0] - first)
        for i in range(count):
            good, p = _decode(layout, _words(layout, points, 4 * (first + i)))
            _store(valid, first + i, good)
            _fill_table(layout, tables, 4 * _TABLE * i, p)
        e, f, g, h = _ZERO(layout), _ONE(layout), _ONE(layout), _ONE(layout)
        for j in range(WINDOWS):
            for _ in range(4):
                e, f, g, h = _double(e * f, g * h, f * g)
            for i in range(count):
                window = 2 * WINDOWS * (first + i) + WINDOWS - 1 - j
                entry = _choose(
                    layout,
                    tables,
                    4 * _TABLE * i,
                    _load_lanes(layout, digits, window),
                    _load_lanes(layout, digits, WINDOWS + window),
                )
                e, f, g, h = _sum(_extended(e, f, g, h), entry)
        e, f, g, h = _sum(total, _prepared(layout, _extended(e, f, g, h)))
        total = _extended(e, f, g, h)
    _store_words(sums, 0, _encode(layout, total))


@kernel
def map_blocks(layout: Layout, uniform: SignedWords, points: SignedWords) -> None:
    """The one-way map on eight words a lane: MAP(first half) + MAP(second half)."""
    for block in range(uniform.shape[0]):
        e, f, g, h = _elligator(layout, _words(layout, uniform, 8 * block))
        p = _extended(e, f, g, h)
        e, f, g, h = _elligator(layout, _words(layout, uniform, 8 * block + 4))
        e, f, g, h = _sum(p, _prepared(layout, _extended(e, f, g, h)))
        _store_words(points, 4 * block, _encode(layout, _extended(e, f, g, h)))


@kernel
def field_blocks(layout: Layout, a: SignedWords, b: SignedWords, results: SignedWords) -> None:
    """a + b, a - b, a b, a^2, a^(2^252 - 3), (a + b)(b - a) and (a - b)^2, for tests."""
    for block in range(a.shape[0]):
        x, y = from_words(_words(layout, a, 4 * block)), from_words(_words(layout, b, 4 * block))
        made = (x + y, x - y, x * y, square(x), _power(x), (x + y) * (y - x), square(x - y))
        for i in range(7):
            _store_words(results, 4 * (7 * block + i), to_words(made[i]))


# --- Rows of bytes to blocks and back.


@dataclass(frozen=True)
class Kernels:
    """The kernels in one layout, on rows of bytes."""

    layout: Layout

    def multiply(self, points: Bytes, scalar: bytes) -> tuple[Bytes, NDArray[np.bool_]]:
        """Elements (n, 32) times a scalar below the order; which rows are elements but the identity."""
        layout, blocks = self.layout, to_blocks(self.layout, points)
        products = np.empty_like(blocks)
        valid = np.empty((len(blocks), layout.lanes), np.int64)
        table = np.empty((4 * _TABLE, len(layout.bits), layout.lanes), np.int64)
        same = np.frombuffer(scalar, np.uint8).reshape(1, -1)
        every = np.ascontiguousarray(np.repeat(digits(layout, same)[..., :1], layout.lanes, axis=-1))
        multiply_blocks(layout, blocks, every, table, products, valid)
        return to_rows(products, len(points)), valid.reshape(-1)[: len(points)] != 0

    def multiply_each(self, points: Bytes, scalars: Bytes) -> tuple[Bytes, NDArray[np.bool_]]:
        """As `multiply`, each element times a scalar of its own, (n, 32)."""
        layout, blocks = self.layout, to_blocks(self.layout, points)
        products = np.empty_like(blocks)
        valid = np.empty((len(blocks), layout.lanes), np.int64)
        table = np.empty((4 * _TABLE, len(layout.bits), layout.lanes), np.int64)
        multiply_blocks(layout, blocks, digits(layout, scalars), table, products, valid)
        return to_rows(products, len(points)), valid.reshape(-1)[: len(points)] != 0

    def sums(self, points: Bytes, scalars: Bytes) -> tuple[Bytes, NDArray[np.bool_]]:
        """Elements whose sum is that of all `points`, each times its own scalar: (lanes, 32), among them
        the identity; and which rows are elements but the identity."""
        layout, blocks = self.layout, to_blocks(self.layout, points)
        sums = np.empty((1, 4, layout.lanes), np.int64)
        valid = np.empty((len(blocks), layout.lanes), np.int64)
        tables = np.empty((_SHARED, 4 * _TABLE, len(layout.bits), layout.lanes), np.int64)
        sum_blocks(layout, blocks, digits(layout, scalars), tables, sums, valid)
        return to_rows(sums, layout.lanes), valid.reshape(-1)[: len(points)] != 0

    def from_uniform(self, uniform: Bytes) -> Bytes:
        """The one-way map, (n, 64) to (n, 32)."""
        blocks = to_blocks(self.layout, uniform)
        points = np.empty((len(blocks), 4, self.layout.lanes), np.int64)
        map_blocks(self.layout, blocks, points)
        return to_rows(points, len(uniform))


@cache
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


def digits(layout: Layout, scalars: Bytes) -> SignedWords:
    """Scalars (n, 32) in 64 digits from -8 to 7, lowest first: their sizes, and masks of the negative
    ones, shape (blocks, 2, 64, lanes), where the last block is filled up with zeros."""
    blocks = -(-len(scalars) // layout.lanes)
    made = np.zeros((blocks, 2, WINDOWS, layout.lanes), np.int64)
    _fill_digits(np.ascontiguousarray(scalars), made)
    return made


@kernel
def _fill_digits(scalars: Bytes, made: SignedWords) -> None:
    # By arithmetic alone: nothing branches on a digit, nor is looked up by one.
    lanes = made.shape[3]
    for row in range(scalars.shape[0]):
        block, lane = row // lanes, row % lanes
        carry = np.int64(0)
        for place in range(WINDOWS):
            nibble = np.int64(scalars[row, place >> 1]) >> (4 * (place & 1)) & 15
            raised = nibble + 8 + carry
            carry = raised >> 4
            digit = (raised & 15) - 8
            negative = digit >> 63
            made[block, 0, place, lane] = (digit ^ negative) - negative
            made[block, 1, place, lane] = negative
