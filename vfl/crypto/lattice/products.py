"""Products of an encrypted hint with the secrets of many vectors, point by point of their transforms.

At a point x a secret's piece d is s_d(x), the sum of its `width` coefficients times powers of x, and
what is wanted is the sum over d of s_d(x) times the hint's numbers at this point. Sixteen vectors lie
side by side: their pieces are evaluated, a few at a time, and multiplied while they are in the first
cache, and the sums of all limbs stay in registers. A hint is read once for all vectors.

As in lanes.py instructions for vectors are written here.
"""

# mypy: disallow-untyped-calls=False

import math
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from llvmlite.ir import Value
from numba.core import cgutils
from numpy.typing import NDArray

from vfl.arrays import Floats
from vfl.crypto.instructions import instruction
from vfl.crypto.lattice.lanes import aligned
from vfl.kernels import kernel

SIDE = 16
"""Vectors side by side."""
LIMBS = 6
"""Of a and b, complex numbers at each point: real parts of all, then imaginary ones."""
TOGETHER = 4
"""Pieces that are evaluated together."""
_CHUNK = 16  # pieces that are evaluated before they are multiplied
_LANES = 8
_I64 = ir.IntType(64)
_ROW = ir.VectorType(ir.DoubleType(), _LANES)
_HALVES = SIDE // _LANES


def _at(builder: ir.IRBuilder, base: Value, offset: Value | int) -> Value:
    return builder.gep(base, [ir.Constant(_I64, offset) if isinstance(offset, int) else offset])


def _row(builder: ir.IRBuilder, base: Value, offset: Value | int) -> Value:
    return builder.bitcast(_at(builder, base, offset), _ROW.as_pointer())


def _spread(builder: ir.IRBuilder, base: Value, offset: Value | int) -> Value:
    """A number in all lanes."""
    index, nothing = ir.IntType(32), ir.Constant(_ROW, ir.Undefined)
    number = builder.load(_at(builder, base, offset), align=8)
    one = builder.insert_element(nothing, number, ir.Constant(index, 0))
    zeros = ir.Constant(ir.VectorType(index, _LANES), [0] * _LANES)
    return builder.shuffle_vector(one, nothing, zeros)


def _plus(builder: ir.IRBuilder, x: Value, y: Value, into: Value) -> None:
    """Add x y, rounded once where the processor can."""
    kind = ir.FunctionType(_ROW, [_ROW] * 3)
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{_LANES}f64")
    builder.store(builder.call(function, [x, y, builder.load(into)]), into)


def _zeros(builder: ir.IRBuilder, count: int) -> "list[Value]":
    """Rows of zeros, which LLVM keeps in registers."""
    rows = [cgutils.alloca_once(builder, _ROW) for _ in range(count)]
    for row in rows:
        builder.store(ir.Constant(_ROW, [0.0] * _LANES), row)
    return rows


@instruction
def _evaluate(
    b: ir.IRBuilder,
    small: Value,
    at: Value,
    width: Value,
    powers: Value,
    first: Value,
    out: Value,
    to: Value,
) -> None:
    size = TOGETHER * _HALVES
    sums = _zeros(b, 2 * size)
    with cgutils.for_range(b, width) as loop:
        row = _at(b, small, b.add(at, b.mul(loop.index, ir.Constant(_I64, TOGETHER * SIDE))))
        power = _at(b, powers, b.add(first, b.shl(loop.index, ir.Constant(_I64, 1))))
        x, y = _spread(b, power, 0), _spread(b, power, 1)
        for k in range(size):
            coefficient = b.load(_row(b, row, _LANES * k), align=8)
            _plus(b, coefficient, x, sums[k])
            _plus(b, coefficient, y, sums[size + k])
    target = _at(b, out, to)
    for piece in range(TOGETHER):
        for part in range(2):
            for half in range(_HALVES):
                value = b.load(sums[part * size + piece * _HALVES + half])
                place = (piece * 2 + part) * SIDE + half * _LANES
                b.store(value, _row(b, target, place), align=8)


@instruction
def _add(
    b: ir.IRBuilder,
    values: Value,
    count: Value,
    reals: Value,
    at: Value,
    step: Value,
    out: Value,
    to: Value,
) -> None:
    sums = _zeros(b, 2 * LIMBS * _HALVES)
    with cgutils.for_range(b, count) as loop:
        value = _at(b, values, b.mul(loop.index, ir.Constant(_I64, 2 * SIDE)))
        hint = _at(b, reals, b.add(at, b.mul(loop.index, step)))
        x = [b.load(_row(b, value, _LANES * k), align=8) for k in range(_HALVES)]
        y = [b.load(_row(b, value, SIDE + _LANES * k), align=8) for k in range(_HALVES)]
        for limb in range(LIMBS):
            c, d = _spread(b, hint, limb), _spread(b, hint, LIMBS + limb)
            for k in range(_HALVES):
                real, imaginary = (sums[(2 * limb + part) * _HALVES + k] for part in (0, 1))
                _plus(b, x[k], c, real)
                _plus(b, b.fneg(y[k]), d, real)
                _plus(b, x[k], d, imaginary)
                _plus(b, y[k], c, imaginary)
    target = _at(b, out, to)
    for k, row in enumerate(sums):
        place = _row(b, target, _LANES * k)
        b.store(b.fadd(b.load(place, align=8), b.load(row)), place, align=8)


def side_by_side(secrets: NDArray[np.signedinteger], width: int, depth: int) -> Floats:
    """Secrets (count, DEGREE) as `multiply` takes them: (sixteens, fours of pieces, width, 4, 16)."""
    count, degree = secrets.shape
    sides, fours = -(-count // SIDE), -(-depth // TOGETHER)
    every = np.zeros((sides * SIDE, fours * TOGETHER * width), np.float64)
    every[:count, :degree] = secrets
    shape = sides, SIDE, fours, TOGETHER, width
    out = aligned(every.size).reshape(sides, fours, width, TOGETHER, SIDE)
    out[:] = every.reshape(shape).transpose(0, 2, 4, 3, 1)
    return out


def zeros(points: int, sides: int, groups: int) -> Floats:
    """What `multiply` adds to."""
    shape = points, sides, groups, LIMBS, 2, SIDE
    return aligned(math.prod(shape)).reshape(shape)


class _Shape(NamedTuple):
    """Of what is multiplied."""

    points: int
    sides: int  # sixteens of vectors
    fours: int  # of pieces
    groups: int
    width: int  # coefficients of a piece
    depth: int  # pieces


def multiply(small: Floats, powers: Floats, reals: Floats, first: int, out: Floats) -> None:
    """Sums over pieces at some points, from number `first` on, added to `out`.

    small: of `side_by_side`; powers: complex, (points, width, 2); reals: (all points, pieces,
    groups * 2 * LIMBS); out: of `zeros`, (points, sixteens, groups, LIMBS, 2, SIDE).
    """
    (sides, fours, width), depth = small.shape[:3], reals.shape[1]
    shape = _Shape(len(out), sides, fours, out.shape[2], width, depth)
    values = aligned(_CHUNK * 2 * SIDE)
    hint = reals.reshape(-1)
    hint.flags.writeable = False  # as of a file: one kernel serves both
    _multiply(shape, first, values, small.reshape(-1), powers.reshape(-1), hint, out.reshape(-1))


@kernel
def _multiply(
    shape: _Shape,
    first: int,
    values: Floats,
    secrets: Floats,
    roots: Floats,
    hint: Floats,
    to: Floats,
) -> None:
    points, sides, fours, groups, width, depth = shape
    step, four, size = 2 * groups * LIMBS, width * TOGETHER * SIDE, 2 * LIMBS * SIDE
    for piece in range(0, depth, _CHUNK):
        count = _CHUNK if depth - piece > _CHUNK else depth - piece
        for j in range(points):
            for side in range(sides):
                for d in range(0, count, TOGETHER):
                    at = (side * fours + (piece + d) // TOGETHER) * four
                    _evaluate(secrets, at, width, roots, j * width * 2, values, d * 2 * SIDE)
                for group in range(groups):
                    at = ((first + j) * depth + piece) * step + group * 2 * LIMBS
                    _add(values, count, hint, at, step, to, ((j * sides + side) * groups + group) * size)
