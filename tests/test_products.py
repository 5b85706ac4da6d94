"""X^T r under encryption against Python's integers."""

import asyncio
from dataclasses import dataclass
from unittest import mock

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from paillier_key import KEY
from scipy.stats import kstest

from vfl.crypto.randomness import OF_SYSTEM
from vfl.crypto.sums import positional_sums
from vfl.crypto.workers import Machine, Workers
from vfl.learn.design import FRACTION_BITS, Matrix
from vfl.protocols.linear import encrypted_product
from vfl.protocols.linear.encrypted_product import ROW_BITS, EncryptedProduct

pytestmark = pytest.mark.usefixtures("quick_key")

N = int(KEY.public.n)
UNIT = 2.0**-FRACTION_BITS


def matrix_of(factors, numbers, rows):
    """A matrix of (levels, codes) and of columns of integers, in units of UNIT."""
    return Matrix(
        np.array([codes for _, codes in factors], np.uint16).reshape(len(factors), rows),
        tuple(levels for levels, _ in factors),
        np.array([[float(x) for x in own] for own in numbers]).reshape(len(numbers), rows) * UNIT,
    )


def expected(matrix, residuals):
    """X^T r in Python's integers, numbers as multiples of UNIT."""
    r = [int(x) for x in residuals]
    by_level = [
        sum(x for x, code in zip(r, codes.tolist(), strict=True) if code == level)
        for levels, codes in zip(matrix.levels, matrix.codes, strict=True)
        for level in range(1, levels + 1)
    ]
    numbers = [[int(x / UNIT) for x in own] for own in matrix.numbers.tolist()]
    return by_level + [sum(x * v for x, v in zip(r, own, strict=True)) for own in numbers]


@dataclass
class Opened:
    """What the host made, what the key's owner found in it, and what the host took the masks off to."""

    ciphertexts: np.ndarray
    masks: list[int]
    plaintexts: list[int]  # from 0 to n
    product: EncryptedProduct

    def unmask(self, scale=1.0):
        return self.product.unmask(self.plaintexts, self.masks, scale)

    def holds(self, values):
        """Whether these integers lie under the masks, side by side, bit for bit."""
        bits, slots = self.product._slot_bits, self.product._slots
        groups = [values[i : i + slots] for i in range(0, len(values), slots)]
        packed = [sum(v << (bits * i) for i, v in enumerate(group)) for group in groups]
        found = [(p - m) % N for p, m in zip(self.plaintexts, self.masks, strict=True)]
        return found == [p % N for p in packed]


def multiply(matrix, residuals, encrypt=KEY.encrypt, times=1):
    """The product, `times` over with the same ciphertexts of the rows."""

    async def run():
        async with Workers(KEY.public, Machine()) as workers:
            store = workers.rows(matrix.rows, KEY.public.width)
            store.array[:] = encrypt([int(x) for x in residuals])
            product = EncryptedProduct(workers, store, matrix, OF_SYSTEM)
            product.group()
            opened = []
            for _ in range(times):
                await product.sums.add(0, matrix.rows)
                ciphertexts, masks = await product.mask()
                plaintexts = [value % N for value in KEY.decrypt(ciphertexts)]
                opened.append(Opened(ciphertexts, masks, plaintexts, product))
            return opened

    return asyncio.run(run())


def check(matrix, residuals, **options):
    (opened,) = multiply(matrix, residuals, **options)
    values = expected(matrix, residuals)
    assert opened.holds(values)
    # What comes back are the nearest floats, in the units of X and r.
    units = [1.0] * sum(matrix.levels) + [UNIT] * len(matrix.numbers)
    found = opened.unmask(scale=2.0**30)
    assert found.tolist() == [float(v) * unit / 2.0**30 for v, unit in zip(values, units, strict=True)]


MOST = 2**ROW_BITS
RESIDUALS = st.sampled_from([0, 1, -1, MOST, -MOST]) | st.integers(-MOST, MOST)
# What float64 holds: few distinct integers, many, and of up to the most bits.
FEW = st.integers(-2, 2)
MANY = st.integers(-(2**27), 2**27)
LARGE = st.sampled_from([2**62 - 2**9, -(2**62 - 2**9), 2**61, -1, 0])
COLUMNS = [FEW, MANY, LARGE, st.just(0), st.integers(-9, -3), st.integers(1 << 40, 2 << 40)]


@st.composite
def cases(draw):
    rows = draw(st.integers(1, 12))

    def a_row_each(values):
        return st.lists(values, min_size=rows, max_size=rows)

    levels = draw(st.lists(st.integers(1, 5), max_size=3))
    factors = [(size, draw(a_row_each(st.integers(0, size)))) for size in levels]
    numbers = [draw(a_row_each(draw(st.sampled_from(COLUMNS)))) for _ in range(draw(st.integers(0, 4)))]
    if not factors and not numbers:
        numbers = [draw(a_row_each(FEW))]
    return matrix_of(factors, numbers, rows), draw(a_row_each(RESIDUALS))


@settings(max_examples=60)
@given(case=cases(), window=st.integers(4, 9))
@example(case=(matrix_of([], [[2**62 - 2**9] * 12], 12), [MOST] * 12), window=4)
@example(case=(matrix_of([], [[2**62 - 2**9] * 12], 12), [-MOST] * 12), window=4)
@example(case=(matrix_of([], [[-(2**62) + 2**9] * 12], 12), [MOST] * 12), window=5)
@example(case=(matrix_of([(1, [0])], [[0]], 1), [MOST]), window=4)
def test_is_the_product_of_integers(case, window):
    with mock.patch.object(encrypted_product, "_WINDOWS", range(window, window + 1)):
        check(*case)


@pytest.mark.parametrize("window", [4, 7, 13, 16])
def test_digits_of_any_width(window, monkeypatch):
    monkeypatch.setattr(encrypted_product, "_WINDOWS", range(window, window + 1))
    rng = np.random.default_rng(window)
    numbers = [rng.integers(-(2**17), 2**17, 30), rng.integers(0, 2, 30), -rng.integers(0, 2**30, 30)]
    check(matrix_of([(3, rng.integers(0, 4, 30))], numbers, 30), rng.integers(-MOST, MOST, 30))


@pytest.mark.parametrize("rows", [40, 400, 4000])
def test_with_the_width_of_digits_that_costs_least(rows):
    rng = np.random.default_rng(rows)
    standardised = np.rint(rng.normal(size=(2, rows)) * 2**FRACTION_BITS).astype(np.int64)
    counts = rng.integers(0, 9, rows) << 22
    factors = [(4, rng.integers(0, 5, rows)), (11, rng.integers(0, 12, rows))]
    # Sums do not depend on the obfuscators, which take most of the time.
    check(
        matrix_of(factors, [*standardised, counts], rows),
        rng.integers(-MOST, MOST, rows, endpoint=True),
        encrypt=KEY.public.unsafe_encrypt,
    )


def test_more_columns_than_a_plaintext_holds():
    rng = np.random.default_rng(0)
    matrix = matrix_of([(80, rng.integers(0, 81, 200))], [[-1, 1] * 100], 200)
    residuals = rng.integers(-MOST, MOST, 200, endpoint=True)
    (opened,) = multiply(matrix, residuals, encrypt=KEY.public.unsafe_encrypt)
    assert len(opened.masks) > 1
    assert opened.holds(expected(matrix, residuals))
    assert opened.unmask()[:80].tolist() == expected(matrix, residuals)[:80]


def test_what_leaves_the_host_is_fresh_and_uniform():
    """From one X and r: other masks, other ciphertexts, and plaintexts like draws among all."""
    residuals = [1, -1, 0]
    opened = multiply(matrix_of([(1, [0, 1, 1])], [[1, 2, 3]], 3), residuals, times=60)
    assert len({one.ciphertexts.tobytes() for one in opened}) == 60
    values = [one.plaintexts[0] for one in opened]
    assert len(set(values)) == 60
    assert kstest([value / N for value in values], "uniform").pvalue > 1e-9
    assert all(one.unmask().tolist() == [-1.0, -1 * UNIT] for one in opened)


def test_a_ciphertext_alone_does_not_tell_its_mask():
    """A ciphertext less its own mask and sums is an encryption of 0 under a fresh obfuscator."""
    a, b = multiply(matrix_of([(1, [0, 1])], [], 2), [5, 7], encrypt=KEY.public.unsafe_encrypt, times=2)
    modulus = KEY.public.n_squared
    rests = []
    for one in (a, b):
        (c,) = KEY.public.integers(one.ciphertexts)
        rests.append(int(c * (1 - (7 + one.masks[0]) * N) % modulus))
    assert 1 not in rests
    assert rests[0] != rests[1]


# What does not fit, and what is no product.


def test_products_that_do_not_fit_are_refused_with_the_numbers():
    matrix = matrix_of([(1, [0, 1, 1])], [[3 << 26, 0, -1]], 3)
    with pytest.raises(
        ValueError, match="products of 3 rows and numbers of 28 bits take 82 bits, a plaintext has 78"
    ):
        encrypted_product._slots(80, matrix, ROW_BITS)
    assert encrypted_product._slots(84, matrix, ROW_BITS) == (82, 1)
    assert encrypted_product._slots(2 * 82 + 2, matrix, ROW_BITS) == (82, 2)


def test_numbers_beyond_the_bounds_are_refused():
    for number, text in (
        (2**62, "a number of 63 bits, more than 62"),
        (-(2**70), "a number of 71 bits"),
    ):
        with pytest.raises(ValueError, match=text):
            multiply(matrix_of([], [[number, 0]], 2), [1, 1])


def test_unmask_refuses_what_holds_no_product():
    (one,) = multiply(matrix_of([(2, [0, 1])], [[1, -2]], 2), [5, 7], encrypt=KEY.public.unsafe_encrypt)
    (mask,), (plaintext,), product = one.masks, one.plaintexts, one.product
    assert product.unmask([plaintext], [mask], 1.0).tolist() == [7.0, 0.0, -9 * UNIT]
    for wrong in ([], [plaintext] * 2):
        with pytest.raises(ValueError, match="a wrong number of plaintexts"):
            product.unmask(wrong, [mask], 1.0)
    bits = 3 * product._slot_bits
    greatest = sum(((1 << (product._slot_bits - 1)) - 1) << (product._slot_bits * i) for i in range(3))
    least = greatest + 1 - (1 << bits)
    for fine in (greatest, least):
        product.unmask([(mask + fine) % N], [mask], 1.0)
    for wrong in (greatest + 1, least - 1, N // 2, -(N // 2)):
        with pytest.raises(ValueError, match="a plaintext that is no masked product"):
            product.unmask([(mask + wrong) % N], [mask], 1.0)
    # Of another iteration, whose mask is another: out of bounds but for a share of 2^-1790.
    with pytest.raises(ValueError, match="a plaintext that is no masked product"):
        product.unmask([plaintext], [(mask * 3 + 1) % N], 1.0)


# Sums of d times cell d.


def digits_of(values, plaintexts, window, least, digits):
    """Histograms as a host has them, an empty cell being 1."""
    cells = np.zeros((digits, 1 << window), object)
    filled = np.zeros((digits, 1 << window), bool)
    for value, plaintext in zip(values, plaintexts, strict=True):
        for k in range(digits):
            d = (value - least) >> (k * window) & ((1 << window) - 1)
            cells[k, d] += plaintext
            filled[k, d] = True
    histograms = []
    for own, full in zip(cells, filled, strict=True):
        histogram = KEY.encrypt(own.tolist()).copy()
        histogram[~full] = KEY.public.array([1])
        histograms.append(histogram)
    return histograms


@settings(max_examples=40)
@given(
    rows=st.lists(
        st.tuples(st.integers(-40, 200), st.integers(-(2**60), 2**60)), min_size=1, max_size=8
    ),
    window=st.integers(1, 4),
)
@example(rows=[(15, 3)], window=4)  # the top cell of one digit
@example(rows=[(0, 3)], window=4)  # the lowest, where nothing is added up
@example(rows=[(0, 3), (15, -3), (7, 1)], window=4)
@example(rows=[(-40, 3)], window=2)
@example(rows=[(240, 5), (15, 7)], window=4)  # a digit empty but for its top and lowest cell
def test_positional_sum_is_the_sum_of_products(rows, window):
    values, plaintexts = zip(*rows, strict=True)
    least = min(0, *values)
    digits = -(-max(1, (max(values) - least).bit_length()) // window)
    histograms = digits_of(values, plaintexts, window, least, digits)
    found = KEY.decrypt(KEY.public.positional_sum(histograms, window, least))
    assert found == [sum(value * plaintext for value, plaintext in rows)]


def test_positional_sum_of_cells_that_are_few_or_empty():
    def total(*cells, least=0):
        histogram = np.concatenate(
            [KEY.public.array([1]) if cell is None else KEY.encrypt([cell]) for cell in cells]
        )
        return KEY.decrypt(KEY.public.positional_sum([histogram], 4, least))[0]

    assert total(5) == 0
    assert total(5, least=-3) == -15
    assert total(None, 5) == 5
    assert total(*[None] * 15, 5) == 75
    assert total(*[None] * 15, 5, least=-15) == 0
    assert total(*[None] * 16) == 0
    assert total(*[None] * 16, least=-4) == 0
    assert total(2, None, 3, None, least=-1) == 1
    # A sum of residuals that is 0, in a cell that is not empty: with an obfuscator and without one.
    assert total(1, 0, 2) == 4


def test_positional_sums_of_no_column():
    async def run():
        async with Workers(KEY.public, Machine()) as workers:
            return await positional_sums(workers, [])

    assert asyncio.run(run()).shape == (0, KEY.public.width)
