"""Formulas that write code: what is written where. What the code computes, test_ristretto tells."""

import pytest
from llvmlite import ir

from vfl.crypto.field25519 import IFMA, WIDE, Field, element
from vfl.crypto.vector_code import Lanes, Writer, once


@once(Lanes, Field, is_hot=True)
def _both(w: Writer, a: Lanes, b: Field) -> tuple[Lanes, Field]:
    _written.append((w.layout, w.is_hot))
    return a + 1, b + 2


_written: list[object] = []


def writer(layout=WIDE, is_hot=False):
    module = ir.Module("tests")
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), []), "kernel")
    return Writer(ir.IRBuilder(function.append_basic_block()), layout, is_hot)


def test_a_formula_is_one_function_however_often_it_is_called():
    _written.clear()
    w = writer()
    a, b = w.lanes(3), element(w, 4)
    for _ in range(3):
        a, b = _both(w, a, b)
    assert isinstance(a, Lanes) and isinstance(b, Field)
    assert len(b.values) == len(WIDE.bits)
    assert str(w.ir.module).count("define") == 2  # the kernel, and the formula
    assert str(w.ir.function).count("call fastcc") == 3
    # Of another layout it is another one.
    twice = [part.beside(part) for part in (a, b)]
    _, wide = _both(twice[0].writer, *twice)
    assert wide.values[0].type.count == 2 * WIDE.lanes
    assert [half.values[0].type.count for half in wide.halves()] == [WIDE.lanes] * 2
    assert _written == [(WIDE, True), (WIDE.twice, True)]
    assert WIDE.twice.half == WIDE


@pytest.mark.parametrize(
    ("layout", "is_hot", "called"),
    [(IFMA, False, 2), (IFMA, True, 0), (WIDE, False, 2), (WIDE, True, 2)],
)
def test_products_are_written_out_in_hot_code_that_has_the_registers(layout, is_hot, called):
    w = writer(layout, is_hot)
    a = element(w, 5) * 7
    a.square()
    assert str(w.ir.function).count("call fastcc") == called
