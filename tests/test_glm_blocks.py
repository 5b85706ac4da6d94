"""Linear models are the same, bit for bit, wherever rows lie, and however they are cut."""

import math

import numpy as np
import pytest
from apart import Apart
from hypothesis import given, settings
from hypothesis import strategies as st
from test_glm_plain import federated, job

from vfl.blocks.engine import ENGINE, Embedded, Engine
from vfl.learn import exact
from vfl.learn.exact import Fixed, sums_by_code, sums_of_products
from vfl.learn.matrix import Matrix

pytestmark = pytest.mark.usefixtures("quick_key", "small_batches")


def random_matrix(rng: np.random.Generator, rows: int) -> Matrix:
    levels = (3, 1, 7)
    codes = np.stack([rng.integers(0, size + 1, rows) for size in levels]).astype(np.uint16)
    numbers = np.rint(rng.standard_t(3, (4, rows)) * 2**24) / 2**24
    return Matrix(codes, levels, numbers)


@pytest.mark.parametrize(
    ("family", "hosts", "params"),
    [
        ("poisson", 2, {"max_iterations": 2}),
        ("logistic", 1, {"encryption": "lattice", "alpha": 0.01, "max_iterations": 3}),
    ],
)
def test_fits(family: str, hosts: int, params: dict) -> None:
    fit, theirs = federated(job(family, hosts, **params))
    for engine in (Embedded(53), Apart(117)):
        with ENGINE.instead(engine):
            again, other = federated(job(family, hosts, **params))
        assert again.intercept == fit.intercept
        for found, expected in [(again.coefficients, fit.coefficients), (other, theirs)]:
            assert found.keys() == expected.keys()
            assert all(np.array_equal(found[name], expected[name]) for name in found)
        assert np.array_equal(again.score, fit.score)


def sums(matrix: Matrix, r: np.ndarray, weight: np.ndarray) -> list[np.ndarray]:
    beta = np.linspace(-1, 1, matrix.columns)
    own = matrix.held()
    return [
        own.times(beta),
        own.transposed_times(r),
        own.gram(),
        own.gram(weight),
        own.squares,
        np.array(own.bits),
    ]


@pytest.mark.parametrize("engine", [Embedded(7), Apart(7), Apart(100)])
def test_sums_over_rows(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    matrix = random_matrix(rng, 200)
    whole = Matrix(matrix.codes, matrix.levels, np.rint(matrix.numbers * 2**24).astype(np.int32))
    r, weight = rng.normal(size=200) * 1e-3, rng.uniform(0, 2, 200)
    expected = sums(matrix, r, weight)
    dense = matrix.dense()
    np.testing.assert_allclose(expected[1], dense.T @ r, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(expected[2], dense.T @ dense, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(expected[3], dense.T @ (dense * weight[:, None]), rtol=1e-12, atol=1e-12)
    for most in (0, 1 << 20):  # compiled or not
        monkeypatch.setattr(exact, "_UNCOMPILED", most)
        with ENGINE.instead(engine):
            for own in (matrix, whole):
                for found, known in zip(sums(own, r, weight), expected, strict=True):
                    assert np.array_equal(found, known)
    turned = rng.permutation(200)
    other = Matrix(matrix.codes[:, turned], matrix.levels, matrix.numbers[:, turned])
    for found, known in zip(sums(other, r[turned], weight[turned])[1:], expected[1:], strict=True):
        assert np.array_equal(found, known)


@settings(max_examples=40)
@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30),
    st.integers(-300, 300),
    st.integers(1, 1 << 25),
)
def test_sums_are_exact(values: list[float], exponent: int, rows: int) -> None:
    numbers = np.array(values) * 2.0**exponent
    bound = float(np.abs(numbers).max())
    fixed = Fixed.of(bound, max(rows, len(values)))
    high, low = sums_of_products(numbers[np.newaxis], 1.0, np.ones(len(numbers)), [fixed])[:, 0].tolist()
    by_code = sums_by_code(np.zeros(len(numbers), np.uint16), numbers, fixed, 1)[:, 0].tolist()
    assert [high, low] == by_code
    unit = bound * 2.0 ** -(2 * (62 - max(rows, len(values)).bit_length()) - 1) + 2.0**-1020
    assert (
        abs(fixed.value(high, low) - math.fsum(numbers))
        <= len(numbers) * unit + abs(math.fsum(numbers)) * 2.0**-52
    )


def test_numbers_that_are_none() -> None:
    matrix = random_matrix(np.random.default_rng(0), 30)
    for bad in (np.inf, np.nan):
        r = np.ones(30)
        r[3] = bad
        assert np.isnan(matrix.transposed_times(r)).all() and np.isnan(matrix.gram(r)).all()
