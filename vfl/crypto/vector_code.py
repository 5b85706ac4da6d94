"""Code of LLVM for vectors, left behind by formulas in Python that are run once.

`Lanes` is a vector, `Rows` an address of vectors, other `Part`s are made of several vectors. They are no
numbers: they hold where LLVM finds them, and their operators write what is to be done with them into the
function at hand. What Python does by itself, as its loops and calls, is done while the code is written;
`Writer.repeat` writes a loop. A formula marked `once` becomes a function of its own, compiled once
however often it is called; others are written out wherever they stand. `instruction` makes of a formula
what a kernel can call. So numba has a function of one line to type and to lower, and LLVM no formula
twice: were each a function of numba's, most of them would be compiled again in whatever calls them.

No vector becomes a scalar anywhere here: nothing can branch on one, or use it as an address.
"""

# mypy: disallow-untyped-calls=False

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol, TypeVar, cast

from llvmlite import ir
from llvmlite.ir import Value
from numba import types
from numba.core import cgutils
from numba.core.base import BaseContext
from numba.core.typing.templates import Signature
from numba.extending import (
    NativeValue,
    intrinsic,
    models,
    register_model,
    typeof_impl,
    unbox,
)

_I64 = ir.IntType(64)
_I32 = ir.IntType(32)
_Function = TypeVar("_Function", bound=Callable[..., object])
_Part = TypeVar("_Part", bound="Part")
_Formula = Callable[..., "Part | Sequence[Part] | None"]


@dataclass(frozen=True)
class Layout:
    """How large numbers lie in vectors: `lanes` of them side by side, limbs of `bits` each."""

    name: str
    lanes: int
    bits: tuple[int, ...]

    @property
    def vector(self) -> ir.Type:
        """LLVM's type of a word of 64 bits in each lane."""
        return ir.VectorType(_I64, self.lanes)

    @property
    def offsets(self) -> list[int]:
        """The bit at which each limb starts."""
        return [sum(self.bits[:i]) for i in range(len(self.bits))]

    @property
    def twice(self) -> "Layout":
        """The same in vectors twice as long."""
        return replace(self, name=f"{self.name}_twice", lanes=2 * self.lanes)

    @property
    def half(self) -> "Layout":
        """What this is twice."""
        return replace(self, name=self.name.removesuffix("_twice"), lanes=self.lanes // 2)

    def limbs(self, number: int) -> list[int]:
        """The limbs of an integer; the last one takes what is left."""
        parts = [
            (number >> at) & ((1 << bits) - 1) for at, bits in zip(self.offsets, self.bits, strict=True)
        ]
        parts[-1] = number >> self.offsets[-1]
        return parts


class _LayoutType(types.Type):
    """A layout as an argument of kernels: all that it says is known when they are compiled."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        super().__init__(name=f"{type(self).__name__}({layout.name})")


register_model(_LayoutType)(models.OpaqueModel)


@typeof_impl.register(Layout)
def _type_of_layout(layout: Layout, context: object) -> _LayoutType:
    return _LayoutType(layout)


class _Unboxing(Protocol):
    """What numba gives to who takes a Python object apart."""

    context: BaseContext


@unbox(_LayoutType)
def _unbox_layout(kind: _LayoutType, value: object, context: _Unboxing) -> NativeValue:
    return NativeValue(context.context.get_dummy_value())


# -------------------------------------------------------- what formulas take and give


class Part:
    """Some vectors, and the function that they are in."""

    def __init__(self, writer: "Writer", values: Sequence[Value]) -> None:
        self.writer, self.values = writer, list(values)

    @classmethod
    def of(cls: type[_Part], writer: "Writer", values: Sequence[Value]) -> _Part:
        """One of this kind for the writer's layout."""
        return cls(writer, values)

    @classmethod
    def size(cls, layout: Layout) -> int:
        """How many vectors it is."""
        return 1

    def beside(self: _Part, other: _Part) -> _Part:
        """This and another one in vectors twice as long."""
        both = zip(self.values, other.values, strict=True)
        joined = [_joined(self.writer.ir, x, y) for x, y in both]
        return type(self)(self.writer.of(self.writer.layout.twice), joined)

    def halves(self: _Part) -> tuple[_Part, _Part]:
        """The two that are in these vectors."""
        half = self.writer.of(self.writer.layout.half)
        cut = [_cut(self.writer.ir, value, half.layout.lanes) for value in self.values]
        first, second = zip(*cut, strict=True)
        return type(self)(half, first), type(self)(half, second)


class Lanes(Part):
    """A word of 64 bits in each lane, or a mask: all ones or all zeros in each. Numbers are taken as
    the same in every lane, shifts move zeros in."""

    @property
    def value(self) -> Value:
        return self.values[0]

    def _made(self, how: str, other: "Lanes | int") -> "Lanes":
        right = other if isinstance(other, Lanes) else self.writer.lanes(other)
        return Lanes(self.writer, [getattr(self.writer.ir, how)(self.value, right.value)])

    def __add__(self, other: "Lanes | int") -> "Lanes":
        return self._made("add", other)

    def __sub__(self, other: "Lanes | int") -> "Lanes":
        return self._made("sub", other)

    def __mul__(self, other: "Lanes | int") -> "Lanes":
        return self._made("mul", other)

    def __and__(self, other: "Lanes | int") -> "Lanes":
        return self._made("and_", other)

    def __or__(self, other: "Lanes | int") -> "Lanes":
        return self._made("or_", other)

    def __xor__(self, other: "Lanes | int") -> "Lanes":
        return self._made("xor", other)

    def __lshift__(self, bits: "Lanes | int") -> "Lanes":
        return self._made("shl", bits) if bits else self

    def __rshift__(self, bits: "Lanes | int") -> "Lanes":
        return self._made("lshr", bits) if bits else self

    def __invert__(self) -> "Lanes":
        return self ^ -1

    def low(self, bits: int) -> "Lanes":
        """The lowest bits."""
        return self & ((1 << bits) - 1)

    # Masks come from arithmetic: of comparisons the compiler would make masked loads.

    def mask(self) -> "Lanes":
        """Where the highest bit is set."""
        return self._made("ashr", 63)

    def is_not_zero(self) -> "Lanes":
        """A mask."""
        return (self | (self.writer.lanes(0) - self)).mask()

    def equal(self, number: "Lanes | int") -> "Lanes":
        """A mask of where words below 2^63 equal a number below 2^63."""
        return ((self ^ number) - 1).mask()

    def choose(self, a: _Part, b: _Part) -> _Part:
        """Where this mask is set a, elsewhere b."""
        both = zip(_lanes_of(a), _lanes_of(b), strict=True)
        return type(a)(self.writer, [(y ^ ((x ^ y) & self)).value for x, y in both])

    def call(self, name: str, lanes: int, *others: "Lanes") -> "Lanes":
        """What LLVM's own function of so many lanes makes of this one and others."""
        builder, vector = self.writer.ir, ir.VectorType(_I64, lanes)
        kind = ir.FunctionType(vector, [vector] * (1 + len(others)))
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        pieces = zip(*(_cut(builder, one.value, lanes) for one in (self, *others)), strict=True)
        made = [builder.call(function, piece) for piece in pieces]
        return Lanes(self.writer, [functools.reduce(functools.partial(_joined, builder), made)])


def _lanes_of(part: Part) -> list[Lanes]:
    return [Lanes(part.writer, [value]) for value in part.values]


@functools.cache
def _constant(number: int, lanes: int) -> Value:
    return ir.Constant(ir.VectorType(_I64, lanes), [number] * lanes)


def _joined(builder: ir.IRBuilder, first: Value, second: Value) -> Value:
    """Two vectors as one."""
    return builder.shuffle_vector(first, second, _places(0, 2 * first.type.count))


def _cut(builder: ir.IRBuilder, vector: Value, lanes: int) -> list[Value]:
    """A vector in one or two pieces of so many lanes."""
    count = vector.type.count
    if count == lanes:
        return [vector]
    return [builder.shuffle_vector(vector, vector, _places(at, at + lanes)) for at in (0, lanes)]


def _places(first: int, end: int) -> Value:
    return ir.Constant(ir.VectorType(_I32, end - first), list(range(first, end)))


class Rows(Part):
    """An address of vectors, one after another."""

    def after(self, number: Value | int, vectors: int = 1) -> "Rows":
        """The address so many times so many vectors further."""
        w = self.writer
        count = w.number(number * vectors) if isinstance(number, int) else w.times(number, vectors)
        return Rows(w, [w.ir.gep(self.values[0], [count])])

    def take(self, kind: type[_Part]) -> _Part:
        """A part from here on."""
        w = self.writer
        addresses = (self.after(i).values[0] for i in range(kind.size(w.layout)))
        return kind.of(w, [w.ir.load(address, align=8) for address in addresses])

    def vectors(self, count: int) -> list[Lanes]:
        """So many vectors from here on."""
        return [self.after(i).take(Lanes) for i in range(count)]

    def put(self, *parts: Part) -> None:
        """Write parts, one after another."""
        for i, value in enumerate(value for part in parts for value in part.values):
            self.writer.ir.store(value, self.after(i).values[0], align=8)


# ------------------------------------------------------------------ functions and loops


class Writer:
    """Writes formulas into a function that is being compiled.

    is_hot: whether what runs most of the time may be written out instead of called.
    """

    def __init__(self, builder: ir.IRBuilder, layout: Layout, is_hot: bool) -> None:
        self.ir, self.layout, self.is_hot = builder, layout, is_hot

    def of(self, layout: Layout) -> "Writer":
        """To write for another layout into the same function."""
        return Writer(self.ir, layout, self.is_hot)

    def lanes(self, number: Value | int) -> Lanes:
        """A number in every lane."""
        if isinstance(number, int):
            return Lanes(self, [_constant(number, self.layout.lanes)])
        undefined = ir.Constant(self.layout.vector, ir.Undefined)
        one = self.ir.insert_element(undefined, number, ir.Constant(_I32, 0))
        first = ir.Constant(ir.VectorType(_I32, self.layout.lanes), [0] * self.layout.lanes)
        return Lanes(self, [self.ir.shuffle_vector(one, undefined, first)])

    def number(self, number: int) -> Value:
        """A number that the function counts with."""
        return ir.Constant(_I64, number)

    def times(self, number: Value, by: int) -> Value:
        """A number times one that is known."""
        return self.ir.mul(number, self.number(by))

    def repeat(
        self, count: Value | int, body: Callable[..., Sequence[_Part] | None], *state: _Part
    ) -> tuple[_Part, ...]:
        """A loop: body(i, *state) for i from 0 to below `count`, each on what the one before gave."""
        rooms = [[cgutils.alloca_once_value(self.ir, value) for value in part.values] for part in state]

        def kept() -> tuple[_Part, ...]:
            loaded = ([self.ir.load(place) for place in room] for room in rooms)
            return tuple(type(part)(self, values) for part, values in zip(state, loaded, strict=True))

        with cgutils.for_range(self.ir, self.number(count) if isinstance(count, int) else count) as loop:
            for room, part in zip(rooms, body(loop.index, *kept()) or (), strict=True):
                for place, value in zip(room, part.values, strict=True):
                    self.ir.store(value, place)
        return kept()

    def call(
        self,
        formula: _Formula,
        kinds: Sequence[type[Part]],
        is_hot: bool,
        given: Sequence[Part | Value],
    ) -> list[Part]:
        """What a formula makes, parts of these kinds, in a function of its own."""
        values = [value for one in given for value in (one.values if isinstance(one, Part) else [one])]
        sizes = [kind.size(self.layout) for kind in kinds]
        made = ir.LiteralStructType([self.layout.vector] * sum(sizes)) if kinds else ir.VoidType()
        function = cgutils.get_or_insert_function(
            self.ir.module,
            ir.FunctionType(made, [value.type for value in values]),
            f"vfl_{self.ir.module.name}_{self.layout.name}_{formula.__name__.lstrip('_')}",
        )
        if function.is_declaration:
            # Were it internal, LLVM would drop masks that change nothing here, and then no longer see
            # that a product takes 32 bits: on AVX2 half as long again.
            function.linkage, function.calling_convention = "linkonce_odr", "fastcc"
            function.attributes.add("noinline")
            function.attributes.add("nounwind")
            inside = Writer(ir.IRBuilder(function.append_basic_block()), self.layout, is_hot)
            inside._write(formula, given, function.args)
        called = self.ir.call(function, values)
        results = (self.ir.extract_value(called, i) for i in range(sum(sizes)))
        return [
            kind.of(self, list(islice(results, size))) for kind, size in zip(kinds, sizes, strict=True)
        ]

    def _write(
        self, formula: _Formula, given: Sequence[Part | Value], arguments: Sequence[Value]
    ) -> None:
        """The body of a function whose arguments stand for what is given."""
        rest = iter(arguments)
        made = formula(
            self,
            *(
                type(one)(self, list(islice(rest, len(one.values))))
                if isinstance(one, Part)
                else next(rest)
                for one in given
            ),
        )
        parts = [made] if isinstance(made, Part) else made or []
        values = [value for part in parts for value in part.values]
        if values:
            self.ir.ret(cgutils.pack_struct(self.ir, values))
        else:
            self.ir.ret_void()


def once(*kinds: type[Part], is_hot: bool = False) -> Callable[[_Function], _Function]:
    """Have a formula's code in a function of its own. `kinds` is what it gives, all of it in vectors; it
    takes parts and numbers by their place. In a kernel no other one has its name."""

    def decorate(formula: _Function) -> _Function:
        @functools.wraps(formula)
        def call(w: Writer, *given: Part | Value) -> Part | tuple[Part, ...]:
            made = w.call(cast(_Formula, formula), kinds, is_hot, given)
            return made[0] if len(kinds) == 1 else tuple(made)

        return cast(_Function, call)

    return decorate


def instruction(write: Callable[..., None]) -> Callable[..., None]:
    """What `write(writer, ...)` writes, for kernels: there its arguments are a layout, contiguous arrays
    of vectors (here `Rows`) and integers."""

    def typed(
        typing: object, kind: _LayoutType, *others: types.Type
    ) -> tuple[Signature, Callable[..., Value]]:
        layout, kinds = kind.layout, (kind, *others)
        due = tuple(types.int64 if isinstance(kind, types.Integer) else kind for kind in kinds)

        def generate(
            context: BaseContext, builder: ir.IRBuilder, signature: object, values: Sequence[Value]
        ) -> Value:
            writer = Writer(builder, layout, is_hot=False)

            def given(kind: types.Type, value: Value) -> Rows | Value:
                if not isinstance(kind, types.Array):
                    return value
                data = context.make_array(kind)(context, builder, value).data
                return Rows(writer, [builder.bitcast(data, layout.vector.as_pointer())])

            write(writer, *map(given, due[1:], values[1:]))
            return context.get_dummy_value()

        return types.void(*due), generate

    # numba asks it how many arguments there are: `typing`, a layout in the writer's place, the others.
    first = inspect.Parameter("typing", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    due = inspect.signature(write)
    typed.__signature__ = due.replace(  # type: ignore[attr-defined]
        parameters=[first, *due.parameters.values()]
    )
    return cast(Callable[..., None], intrinsic(typed))
