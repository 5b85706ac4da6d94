"""The kernels of ristretto255: the field against Python's integers, the group against libsodium."""

import os
import re
import subprocess
import sys

import numba
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vfl.crypto import group, ristretto
from vfl.crypto.field25519 import IFMA, WIDE, WIDE_512, P
from vfl.crypto.ristretto import Kernels
from vfl.crypto.vector_code import Layout

FASTEST = ristretto.fastest()
# Layouts, and of which processors: those whose fastest it is, and better ones.
NEEDS = {IFMA: [IFMA], WIDE_512: [IFMA, WIDE_512], WIDE: [IFMA, WIDE_512, WIDE, None]}
LAYOUTS = [
    pytest.param(
        layout,
        id=layout.name,
        marks=pytest.mark.skipif(
            (FASTEST and FASTEST.layout) not in fit, reason="the processor has no such vectors"
        ),
    )
    for layout, fit in NEEDS.items()
]
each_layout = pytest.mark.parametrize("layout", LAYOUTS)
alone_or_twice = pytest.mark.parametrize("twice", [False, True], ids=["alone", "twice"])

# What `field_blocks` computes, in its order.
FORMULAS = [
    lambda a, b: a + b,
    lambda a, b: a - b,
    lambda a, b: a * b,
    lambda a, b: a * a,
    lambda a, b: pow(a, 2**252 - 3, P),
    lambda a, b: (a + b) * (b - a),
    lambda a, b: (a - b) ** 2,
    lambda a, b: a * b,  # these written out, those above called
    lambda a, b: a * a,
]

# 0, p and 2^255 with their neighbours, and limbs of either layout full or empty.
EDGES = sorted(
    {n % 2**255 for at in (0, P, 2**255) for n in range(at - 20, at + 21)}
    | {2**bit + n for bit in [26, 51, 52, 77, 102, 128, 153, 179, 204, 230, 254] for n in (-1, 0, 1)}
    | {sum((2**51 - 1) << at for at in range(start, 255, 102)) for start in (0, 51)}
    | {
        sum((2**26 - 1) << at for at in range(0, 255, 51)),
        sum((2**25 - 1) << at for at in range(26, 255, 51)),
    }
)


def rows(numbers, width=32):
    joined = b"".join(n.to_bytes(width, "little") for n in numbers)
    return np.frombuffer(joined, np.uint8).reshape(len(numbers), width)


def integers(encoded):
    return [int.from_bytes(row.tobytes(), "little") for row in encoded]


def random_rows(n, width, seed):
    return np.random.default_rng(seed).integers(0, 256, (n, width), dtype=np.uint8)


def in_integers(a: list[int], b: list[int]) -> list[list[int]]:
    """What each formula gives."""
    low = 2**255 - 1  # the top bit is dropped
    pairs = [(x & low, y & low) for x, y in zip(a, b, strict=True)]
    return [[formula(x, y) % P for x, y in pairs] for formula in FORMULAS]


def check_field(layout: Layout, a: list[int], b: list[int], expected: list[list[int]]) -> None:
    one, other = (ristretto.to_blocks(layout, rows(x)) for x in (a, b))
    results = np.empty((len(one), len(FORMULAS), 4, layout.lanes), np.int64)
    ristretto.field_blocks(layout, one, other, results)
    for i, integer in enumerate(expected):
        got = integers(ristretto.to_rows(np.ascontiguousarray(results[:, i]), len(a)))
        assert got == integer, i


@each_layout
@alone_or_twice
@given(
    pairs=st.lists(st.tuples(*[st.integers(0, 2**256 - 1) | st.sampled_from(EDGES)] * 2), max_size=17)
)
@settings(max_examples=40)
def test_field(layout, twice, pairs):
    a, b = [a for a, _ in pairs], [b for _, b in pairs]
    check_field(layout.twice if twice else layout, a, b, in_integers(a, b))


@pytest.fixture(scope="module")
def at_edges():
    """All pairs of edges, and what they give."""
    a, b = [a for a in EDGES for _ in EDGES], [b for _ in EDGES for b in EDGES]
    return a, b, in_integers(a, b)


@each_layout
@alone_or_twice
def test_field_at_its_edges(layout, twice, at_edges):
    check_field(layout.twice if twice else layout, *at_edges)


# All digits the same, or the lowest one carrying through to the highest, from one of the four words on.
SCALARS = [int(d * 63, 16) % group.ORDER for d in "1789f"] + [
    *(int("7" * (62 - n) + "8" + "0" * n, 16) for n in (0, 15, 16, 31, 32, 47, 48)),
    *(1 << bit for bit in (0, 3, 4, 63, 64, 127, 128, 191, 192, 251, 252)),
    *((1 << bit) - 1 for bit in (3, 4, 64, 128, 192, 252)),
    group.ORDER - 1,
]


@each_layout
@given(numbers=st.lists(st.integers(1, group.ORDER - 1), max_size=17))
@example(numbers=SCALARS)
@settings(max_examples=20)
def test_any_scalar_is_taken_apart_into_its_digits(layout, numbers):
    numbers = [number % group.ORDER for number in numbers]
    scalars = rows(numbers)
    points = np.tile(np.frombuffer(group.GENERATOR, np.uint8), (len(numbers), 1))
    expected = [group.multiply_base(row.tobytes()) for row in scalars]
    products, valid = Kernels(layout).multiply_each(points, scalars)
    assert valid.all() and [row.tobytes() for row in products] == expected
    # As one of a sum, where digits of several scalars are taken at once.
    if numbers:
        total = group._weighted_sum(points, scalars, Kernels(layout))
        assert total == group._weighted_sum(points, scalars, None)


@each_layout
def test_one_way_map_is_libsodiums(layout):
    edges = rows([a + (b << 256) for a, b in zip(EDGES, EDGES[::-1], strict=True)], 64)
    uniform = np.vstack([random_rows(4000, 64, 1), edges, np.zeros((1, 64), np.uint8)])
    expected = group._from_uniform(uniform, None)
    assert np.array_equal(group._from_uniform(uniform, Kernels(layout)), expected)


@each_layout
def test_products_are_libsodiums(layout):
    points = group._from_uniform(random_rows(1500, 64, 2), None)
    scalars = [1, 2, 3, 7, 8, 9, 15, 16, 17, 128, 2**251, 2**252, 2**252 - 1]
    scalars += [group.ORDER - 1, group.ORDER - 2, group.ORDER // 2, *(int(d * 63, 16) for d in "1789f")]
    for number in scalars:
        by, few = (number % group.ORDER).to_bytes(32, "little"), points[:40]
        assert np.array_equal(group._multiply(few, by, Kernels(layout)), group._multiply(few, by, None))
    by = group.random_scalar()
    assert np.array_equal(
        group._multiply(points, by, Kernels(layout)), group._multiply(points, by, None)
    )


@each_layout
def test_products_and_sums_of_a_scalar_each_are_libsodiums(layout):
    points = group._from_uniform(random_rows(300, 64, 5), None)
    scalars = rows([int.from_bytes(group.random_scalar(), "little") for _ in points])
    fast = Kernels(layout)
    # Within a block, at its edge, and more than share their doublings.
    for n in (1, layout.lanes - 1, layout.lanes, layout.lanes + 1, 16 * layout.lanes, 300):
        products = group._multiply_each(points[:n], scalars[:n], None)
        assert np.array_equal(group._multiply_each(points[:n], scalars[:n], fast), products)
        total = group._weighted_sum(points[:n], scalars[:n], None)
        assert group._weighted_sum(points[:n], scalars[:n], fast) == total
    points = points.copy()
    points[17] = 0
    for kernels in (None, fast):
        for function in (group._multiply_each, group._weighted_sum):
            with pytest.raises(group.InvalidPoint) as refused:
                function(points, scalars, kernels)
            assert refused.value.index == 17


@each_layout
@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 127, 129, 1025])
def test_any_number_of_rows(layout, n):
    uniform, by = random_rows(n, 64, n), group.random_scalar()
    points = group._from_uniform(uniform, Kernels(layout))
    assert np.array_equal(points, group._from_uniform(uniform, None))
    assert np.array_equal(
        group._multiply(points, by, Kernels(layout)), group._multiply(points, by, None)
    )


@each_layout
def test_refuses_what_libsodium_refuses(layout):
    encodings = np.vstack(
        [random_rows(3000, 32, 3), rows(EDGES), group._from_uniform(random_rows(9, 64, 4), None)]
    )
    encodings[:3000, 31] &= 127
    encodings[:2500, 0] &= 254
    by = (5).to_bytes(32, "little")
    products, valid = Kernels(layout).multiply(encodings, by)
    assert 300 < valid.sum() < 2700  # of both kinds
    for encoding, product, fine in zip(encodings, products, valid, strict=True):
        try:
            expected = group._multiply(encoding[None], by, None)
        except group.InvalidPoint:
            assert not fine
        else:
            assert fine and np.array_equal(product, expected[0])


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ("+avx2", WIDE),
        ("+avx2,+avx512f", WIDE_512),
        ("+avx2,+avx512f,+avx512ifma", IFMA),
        ("-avx2,+sse2", None),
        ("", None),
    ],
)
def test_the_layout_is_for_what_the_compiler_may_use(features, expected):
    code = (
        "from vfl.crypto import ristretto;"
        "kernels = ristretto.fastest(); print(kernels and kernels.layout.name)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": features},
    )
    assert ran.stdout.strip() == str(expected and expected.name)


# Of machine code: what makes a scalar or flags of a vector or of a mask, takes addresses from a vector,
# or passes over what a mask leaves out; and divisions.
FROM_VECTORS = re.compile(
    r"^\s+(kmov|kortest|ktest|v?p?movmsk|v?p?test[bwdqp]*\s.*[xyz]mm|v?pextr"
    r"|v?mov[dq]\s+%[xyz]mm\d+, %[er]|v?u?comis|v?cvtt?s[sd]2|v?pcompress|v?pexpand|\w*gather|\w*scatter"
    r"|v?p?maskmov|.*\(.*\{%k|i?div[bwlq])",
    re.MULTILINE,
)


@each_layout
def test_no_secret_leaves_the_vectors(layout):
    # Branches and addresses take scalars. Points, scalars and table entries are loaded as vectors only;
    # so if no instruction makes a scalar of a vector, neither can depend on a secret.
    words, flags = numba.int64[:, :, ::1], numba.int64[:, ::1]
    kind = numba.typeof(layout)
    multiplied = {"decode", "fill", "entry", "multiples", "encode"}
    for kernel, arguments, formulas in [
        (ristretto.multiply_blocks, (*[words] * 4, flags, numba.int64), multiplied),
        (ristretto.sum_blocks, (*[words] * 4, flags), multiplied),
        (ristretto.map_blocks, (words, words), {"encode", "root_of_ratio"}),
    ]:
        fresh = numba.njit(nogil=True)(
            kernel.compiled().py_func
        )  # what comes from the cache shows no code
        fresh.compile((kind, *arguments))
        (code,), (machine,) = fresh.inspect_llvm().values(), fresh.inspect_asm().values()
        assert not FROM_VECTORS.search(machine)
        assert not re.search(r"extractelement|vector\.reduce|ptrmask|@llvm\.masked", code)
        assert not re.search(r"bitcast <[^>]*> [^ ]* to (i\d+|double|float|ptr)\b", code)
        functions = {
            re.search(r'@"?([^"(]+)"?\(', head)[1]: body
            for head, body in re.findall(r"\ndefine ([^\n]*)\n(.*?)\n}", code, re.DOTALL)
        }
        for formula in formulas:
            assert any(name.endswith(f"_{layout.name}_{formula}") for name in functions)
        for name, body in functions.items():
            if not re.search(r"<\d+ x i64>", body):
                continue  # numba's, between Python and the kernel
            assert not re.search(r"= load (?!<\d+ x i64>)|ptrtoint|inttoptr", body), name
            # A choice by comparison could become a masked load. What is left of comparisons makes the
            # mask of valid points, which is told to the caller anyway.
            assert name.endswith("_decode") or not re.search(r"<\d+ x i1>", body), name
