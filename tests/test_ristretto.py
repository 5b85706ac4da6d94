"""The kernels of ristretto255: the field against Python's integers, the group against libsodium."""

import os
import re
import subprocess
import sys

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfl.crypto import group, ristretto
from vfl.crypto.ristretto import IFMA, WIDE, WIDE_512, Kernels, Layout, P

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

# What `field_blocks` computes, in its order.
FORMULAS = [
    lambda a, b: a + b,
    lambda a, b: a - b,
    lambda a, b: a * b,
    lambda a, b: a * a,
    lambda a, b: pow(a, 2**252 - 3, P),
    lambda a, b: (a + b) * (b - a),
    lambda a, b: (a - b) ** 2,
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
@given(
    pairs=st.lists(st.tuples(*[st.integers(0, 2**256 - 1) | st.sampled_from(EDGES)] * 2), max_size=17)
)
@settings(max_examples=40)
def test_field(layout, pairs):
    a, b = [a for a, _ in pairs], [b for _, b in pairs]
    check_field(layout, a, b, in_integers(a, b))


@pytest.fixture(scope="module")
def at_edges():
    """All pairs of edges, and what they give."""
    a, b = [a for a in EDGES for _ in EDGES], [b for _ in EDGES for b in EDGES]
    return a, b, in_integers(a, b)


@each_layout
def test_field_at_its_edges(layout, at_edges):
    check_field(layout, *at_edges)


@given(st.integers(1, group.ORDER - 1) | st.sampled_from([int(d * 63, 16) for d in "1789f"]))
def test_digits(number):
    number %= group.ORDER
    scalars = np.frombuffer(number.to_bytes(32, "little") * WIDE.lanes, np.uint8).reshape(-1, 32)
    ((sizes, negative),) = ristretto.digits(WIDE, scalars)
    assert sizes.min() >= 0 and sizes.max() <= 8 and set(np.unique(negative)) <= {0, -1}
    for lane in range(WIDE.lanes):
        digits = np.where(negative, -sizes, sizes)[:, lane].tolist()
        assert sum(digit * 16**i for i, digit in enumerate(digits)) == number


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


def test_no_secret_leaves_the_vectors():
    # Branches and addresses take scalars. Points, digits and table entries are loaded as vectors
    # only; so if no instruction makes a scalar of a vector, neither can depend on a secret.
    layout = (FASTEST or Kernels(WIDE)).layout
    words, flags = numba.int64[:, :, ::1], numba.int64[:, ::1]
    digits = numba.int64[:, :, :, ::1]
    kind = numba.typeof(layout)
    for kernel, arrays in [
        (ristretto.multiply_blocks, (words, digits, words, words, flags)),
        (ristretto.sum_blocks, (words, digits, digits, words, flags)),
        (ristretto.map_blocks, (words, words)),
    ]:
        fresh = numba.njit(nogil=True)(
            kernel.compiled().py_func
        )  # what comes from the cache shows no code
        fresh.compile((kind, *arrays))
        (code,) = fresh.inspect_llvm().values()
        assert f"<{layout.lanes} x i64>" in code
        assert not re.search(r"extractelement|vector\.reduce|ptrmask|@llvm\.masked", code)
        assert not re.search(r"bitcast <[^>]*> [^ ]* to (i\d+|double|float|ptr)\b", code)
        # A choice by comparison could become a masked load. What is left of comparisons makes the
        # mask of valid points, which is told to the caller anyway.
        for function in code.split("\ndefine ")[1:]:
            if "_decode" not in function.split("\n", 1)[0]:
                assert f"<{layout.lanes} x i1>" not in function


def test_no_branch_and_no_address_depends_on_a_digit():
    fresh = numba.njit(nogil=True)(ristretto._fill_digits.compiled().py_func)
    fresh.compile((numba.uint8[:, ::1], numba.int64[:, :, :, ::1]))
    (code,) = fresh.inspect_llvm().values()
    name = r'%(?:"[^"]+"|[\w.$-]+)'
    lines = [line.strip() for line in code.splitlines()]
    # Bytes of scalars are all that is loaded as one byte, alone or several at a time.
    secret = {
        found[1] for line in lines if (found := re.match(rf"({name}) = load (?:i8|<\d+ x i8>),", line))
    }
    assert secret
    while True:
        made = {
            found[1]
            for line in lines
            if (found := re.match(rf"({name}) = (.*)", line))
            and secret & set(re.findall(name, found[2]))
        }
        if made <= secret:
            break
        secret |= made
    for line in lines:
        used = secret & set(re.findall(name, line))
        if re.match(r"br i1|switch|indirectbr", line) or "getelementptr" in line:
            assert not used, line
        if stored := re.match(rf"store .*, ptr ({name})", line):
            assert stored[1] not in secret, line
