"""Encrypted matrices against Python integers, at their bounds, and in distribution."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from reference.polynomials import Q96, product
from test_lattice import EDGES, SECRET, SEED, bins_matrix, dense, entropy, mixed_matrix, primal_cost

from vfl.crypto.lattice import answers, direct, parameters, ring, wide, words
from vfl.crypto.lattice.direct import (
    NO_WORDS,
    DirectParameters,
    EncryptedMatrix,
    MatrixKey,
    choose_direct,
    entries_of,
    is_cheaper,
)
from vfl.crypto.lattice.matrix import CellMatrix
from vfl.crypto.lattice.parameters import DEGREE, SINGLE, choose, security_bits
from vfl.crypto.randomness import Stream


def encrypted(
    p: DirectParameters, entries: NDArray[np.int64], key: type[MatrixKey] = MatrixKey
) -> tuple[MatrixKey, EncryptedMatrix]:
    """A host's key, and what the guest has of its matrix."""
    own = key(p, SEED, SECRET, b"a matrix")
    made = EncryptedMatrix(p, SEED, own.header())
    for number, part in enumerate(own.encrypt(entries)):
        assert len(part) == p.hint_part_bytes(number)
        made.load(number, part)
    return own, made


def answered(
    p: DirectParameters, key: MatrixKey, matrix: EncryptedMatrix, values: NDArray[np.int64], seed: int
) -> NDArray[np.int64]:
    """What the guest reads."""
    draw, count = entropy(seed), len(values)
    products, masks = matrix.multiply_vectors(values, draw)
    assert len(products) == p.product_bytes(count)
    opened = key.open(products, count)
    sealed = answers.seal(p, np.zeros(opened.whole.shape, np.uint64), opened, draw)
    assert len(sealed) == p.answer_bytes(count)
    return answers.unseal(p, sealed, masks)


def of(matrix: CellMatrix, value_bits: int, queries: int = 100) -> DirectParameters:
    return choose_direct(matrix.rows, value_bits, len(matrix.outputs), queries, matrix.weight)


@settings(max_examples=12)
@given(
    rows=st.integers(1, 300) | st.sampled_from([31, 33, DEGREE - 1]),
    bins=st.lists(st.integers(2, 40), min_size=1, max_size=4),
    value_bits=st.integers(1, 17),
    count=st.integers(1, 5),
    seed=st.integers(0, 999),
    edges=st.booleans(),
)
def test_sums_are_exact(
    rows: int, bins: list[int], value_bits: int, count: int, seed: int, edges: bool
) -> None:
    matrix = bins_matrix(rows, bins, seed)
    entries = entries_of(matrix)
    assert np.array_equal(entries, dense(matrix)) and entries.dtype == np.int8
    p, most = of(matrix, value_bits), (1 << value_bits - 1) - 1
    draw = np.random.default_rng(seed)
    values = draw.integers(-most, most + 1, (count, rows))
    if edges:
        values = draw.choice([-most, most, -65, -64, -63, 63, 64, 0], (count, rows)).clip(-most, most)
    key, made = encrypted(p, entries)
    assert np.array_equal(answered(p, key, made, values, seed), values @ dense(matrix).T)


def test_sums_of_values_and_weights_are_exact() -> None:
    matrix = mixed_matrix(500)
    assert np.array_equal(entries_of(matrix), dense(matrix))
    p = of(matrix, 8, 10)
    values = np.random.default_rng(1).integers(-127, 128, (3, 500))
    assert np.array_equal(
        answered(p, *encrypted(p, entries_of(matrix)), values, 1), values @ dense(matrix).T
    )


@pytest.mark.parametrize("outputs", [1, 129, 2100, 4097, 9000])
def test_every_shape(outputs: int) -> None:
    rows = 70
    p = choose_direct(rows, 13, outputs, 100)
    assert p.width * p.group <= DEGREE and rows <= p.width * p.depth
    assert (p.groups - 1) * p.group < outputs <= p.groups * p.group
    entries = np.random.default_rng(outputs).integers(-1, 2, (outputs, rows))
    values = np.random.default_rng(rows).integers(-4095, 4096, (17, rows))
    assert np.array_equal(answered(p, *encrypted(p, entries), values, 2), values @ entries.T)


@given(st.lists(st.integers(-4095, 4095), min_size=1, max_size=20), st.integers(1, 3))
def test_digits_are_balanced(values: list[int], digits: int) -> None:
    bits = 7 * digits + 1
    given_values = np.array([values]) % (1 << bits - 1) * np.sign(values)
    cut = direct._cut(given_values, digits)
    assert np.array_equal(sum(part.astype(int) << 7 * i for i, part in enumerate(cut)), given_values)
    assert np.abs(cut[:-1]).max(initial=0) <= 64 and np.abs(cut[-1]).max() <= 128


@pytest.mark.parametrize("edges", [False, True])
def test_digits_are_put_together_modulo_the_ring(edges: bool) -> None:
    draw = np.random.default_rng(4)
    whole = draw.integers(0, 2**64, DEGREE, dtype=np.uint64)
    if edges:
        whole = np.array(EDGES, np.uint64)[draw.integers(0, len(EDGES), DEGREE)]
    fraction = draw.integers(0, 2**32, DEGREE, dtype=np.uint32)
    v = np.full(DEGREE, -4095) if edges else draw.integers(-4095, 4096, DEGREE)
    low, high = direct._cut(v[np.newaxis], 2)[:, 0].astype(np.int32)
    numbers = wide.plus(wide.left(wide.of(whole), 32), wide.of(fraction.astype(np.uint64)))
    a = ring.wide_words(numbers, SINGLE.hints)
    made = direct._put_together(np.stack([a * ring.small(low), a * ring.small(high)]))
    exact = product(
        [(w << 32) + f for w, f in zip(whole.tolist(), fraction.tolist(), strict=True)], v.tolist(), Q96
    )
    assert [(y << 64) + x for x, y in wide.reduced(made, 96).tolist()] == exact


@pytest.mark.parametrize("value", [4095, -64, 63])
def test_products_are_far_from_a_half(value: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With as many rows as there may be, all values at a digit's bound, and words as they come."""
    seen: list[float] = []
    monkeypatch.setattr(ring, "check", seen.append)
    rows = DEGREE - 1
    p = choose_direct(rows, 13, 130, 10)
    _, made = encrypted(p, np.ones((130, rows), np.int64))
    made.multiply_vectors(np.full((2, rows), value), Stream())
    assert max(seen) < 2**-5  # 1/4 is what raises


# --- parameters -------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    rows=st.integers(1, DEGREE - 1),
    value_bits=st.integers(1, 20),
    outputs=st.integers(1, 1 << 16),
    queries=st.integers(1, 1 << 16),
    weight=st.sampled_from([1, 3, 1000]),
)
def test_chosen_parameters_keep_their_promises(
    rows: int, value_bits: int, outputs: int, queries: int, weight: int
) -> None:
    try:
        p = choose_direct(rows, value_bits, outputs, queries, weight, least=1)
    except ValueError as error:
        assert "too few for a flooding" in str(error)
        return
    assert 1 <= p.queries <= queries and p.word_bits == NO_WORDS
    assert p.sum_leak == 0 and p.key_leak <= parameters.KEY_LEAK
    assert p.bound < 1 << 63 - p.scale_bits
    assert parameters.DEVIATIONS * p.flood < p.reach
    # What is rounded on the way is far below the flooding.
    assert 2.0 ** max(p.drop_bits, 16) < p.flood / 16
    longer = p.serving(outputs, 1 << 90)
    assert longer.key_leak <= 1.0001 * parameters.KEY_LEAK
    assert 1.0001 * (longer.queries + 1) * p.key_leak / p.queries > parameters.KEY_LEAK


def test_impossible_parameters_are_refused_with_the_numbers() -> None:
    with pytest.raises(ValueError, match="4,096 rows are not fewer"):
        choose_direct(DEGREE, 13, 100, 10)
    with pytest.raises(ValueError, match=r"2,000 rows of 13-bit .* 65,536 queries of 62,000 sums"):
        choose_direct(2000, 13, 62_000, 1 << 16)
    assert choose_direct(2000, 13, 62_000, 1 << 16, least=66).queries == 1061


def test_security_levels() -> None:
    """Vectors are hidden modulo 2^96 alone, as hints are; and so with some coefficients of r known."""
    assert security_bits(DEGREE, parameters.HINT_BITS) == 128
    assert primal_cost(DEGREE, parameters.HINT_BITS) > 140
    assert primal_cost(DEGREE - 480, parameters.HINT_BITS) > 127.5


def test_a_matrix_is_encrypted_where_that_is_cheaper() -> None:
    def cheaper(rows: int, outputs: int) -> bool:
        matrix = choose_direct(rows, 13, outputs, 1 << 16, least=66)
        return is_cheaper([matrix], [choose(rows, 13, outputs, 1 << 16, least=66)])

    assert cheaper(600, 62_000) and cheaper(1000, 2000) and cheaper(100, 1200)
    assert not cheaper(1100, 62_000) and not cheaper(DEGREE - 1, 4000)  # products take longer
    assert not cheaper(600, 620)  # little to spare


def test_noise_is_what_parameters_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """The part that depends on the host's key and errors, which flooding has to hide."""
    monkeypatch.setattr(direct, "_PRODUCT_BITS", 64)  # so that nothing of b' is cut off
    rows, outputs = 2000, 100
    p = choose_direct(rows, 16, outputs, 10)
    entries = np.random.default_rng(1).integers(0, 2, (outputs, rows))
    key, made = encrypted(p, entries)
    most = (1 << 15) - 1
    values = np.random.default_rng(2).choice([-most, most], (8, rows))
    products, masks = made.multiply_vectors(values, entropy(3))
    opened = key.open(products, 8)
    exact = (values @ entries.T).view(np.uint64) << np.uint64(p.scale_bits)
    shift = (opened.whole - masks + exact).view(np.int64) + opened.fraction / 2.0**32
    # 800 draws: a deviation is known to within a twentieth; b' loses its fraction, half a bit.
    assert abs(shift.mean()) < 5 * p.noise / math.sqrt(shift.size) + 1
    assert 0.85 * p.noise < shift.std() < 1.15 * p.noise and p.noise > 4


# --- what each side learns --------------------------------------------------------------------------


def test_products_look_alike_whatever_the_vector() -> None:
    """Each bit that the host receives is as often set as not, and nothing comes twice."""
    p = choose_direct(200, 13, 60, 1000)
    _, made = encrypted(p, np.random.default_rng(1).integers(0, 2, (60, 200)))
    for values in (np.zeros((16, 200), np.int64), np.full((16, 200), 4095)):
        products, _ = made.multiply_vectors(values, entropy(7))
        cut = 16 * p.groups * DEGREE * 10
        a = words.unpack_hint(memoryview(products)[:cut], SINGLE, (16, DEGREE))
        whole = wide.right(a, SINGLE.fraction_bits)[..., 0]
        halves = words.unpack(memoryview(products)[cut:], 48, (16, 60))
        for found in (whole, halves):
            bits = np.unpackbits(np.ascontiguousarray(found).view(np.uint8).reshape(-1, 8)[:, 2:])
            assert abs(bits.mean() - 0.5) < 5 / (2 * math.sqrt(len(bits)))
            assert len(np.unique(found)) == found.size
        # Differences of what hides alike vectors are of no small numbers either.
        apart = np.diff(whole.astype(np.int64), axis=0)
        assert np.abs(apart / 2.0**62).std() > 0.5


def test_a_vectors_masks_are_its_own() -> None:
    p = choose_direct(50, 13, 20, 1000)
    _, made = encrypted(p, np.ones((20, 50), np.int64))
    values = np.full((2, 50), 7)
    first, second = (made.multiply_vectors(values, entropy(seed)) for seed in (1, 2))
    assert first[0] != second[0]
    assert len({*first[1].reshape(-1).tolist(), *second[1].reshape(-1).tolist()}) == 80


class FalseKey(MatrixKey):
    """Its public key is off by twice the reach of a word in one coefficient: sums depend on r."""

    def header(self) -> bytes:
        made = super().header()
        key = words.unpack_hint(memoryview(made)[32:], SINGLE, (DEGREE,))
        off = wide.of(np.full(1, 2 * self._parameters.reach, np.uint64))
        key[:1] = wide.plus(key[:1], wide.left(off, SINGLE.fraction_bits))
        return made[:32] + words.pack_hint(key, SINGLE)


class Fractions(MatrixKey):
    """Its entries are halves."""

    def _message(self, block: NDArray[np.int64]) -> NDArray[np.uint64]:
        return super()._message(block) >> np.uint64(1)


def test_sums_of_a_false_public_key_are_refused_or_depend_on_fresh_numbers() -> None:
    """So that it fails the trial: words of zeros are read as something else, or as nothing."""
    p = choose_direct(50, 13, 20, 1000)
    key, made = encrypted(p, np.ones((20, 50), np.int64), FalseKey)
    refused = 0
    for seed in range(20):
        try:
            assert (answered(p, key, made, np.zeros((1, 50), np.int64), seed) == 0).all()
        except (AssertionError, ValueError):
            refused += 1
    assert refused == 20  # of twenty outputs each, one coefficient of three is zero


def test_entries_that_are_no_whole_numbers_end_the_job() -> None:
    p = choose_direct(50, 13, 20, 1000)
    key, made = encrypted(p, np.ones((20, 50), np.int64), Fractions)
    odd = np.eye(1, 50, dtype=np.int64)
    assert (answered(p, key, made, 2 * odd, 1) == [1] * 20).all()
    with pytest.raises(ValueError, match="not what sums"):
        answered(p, key, made, odd, 1)


def test_hostile_sizes() -> None:
    p = choose_direct(50, 13, 3, 10)
    key = MatrixKey(p, SEED, SECRET, b"")
    parts = list(key.encrypt(np.ones((3, 50), np.int64)))
    made = EncryptedMatrix(p, SEED, key.header())
    with pytest.raises(ValueError, match="parts of the hint came"):
        made.multiply_vectors(np.zeros((1, 50), np.int64), Stream())
    # Any bytes are a matrix of something: products stay exact.
    for number in range(len(parts)):
        made.load(number, b"\xff" * p.hint_part_bytes(number))
    products, _ = made.multiply_vectors(np.ones((2, 50), np.int64), Stream())
    for data in (products[1:], products + b"x", b""):
        with pytest.raises(ValueError, match="products"):
            key.open(data, 2)
    for values in (np.full((1, 50), 4096), np.zeros((1, 51), np.int64)):
        with pytest.raises(ValueError, match=r"not of 50 values of 13 bits"):
            made.multiply_vectors(values, Stream())
    with pytest.raises(ValueError, match="shape"):
        next(key.encrypt(np.ones((3, 51), np.int64)))


def test_a_matrix_in_a_file_is_found_again(tmp_path: Path) -> None:
    p = choose_direct(50, 13, 3, 10)
    key, entries = MatrixKey(p, SEED, SECRET, b""), np.ones((3, 50), np.int64)
    made = EncryptedMatrix(p, SEED, key.header(), tmp_path / "matrix")
    for number, part in enumerate(key.encrypt(entries)):
        made.load(number, part)
    fixed: Callable[[int], bytes] = bytes
    values = np.arange(50)[np.newaxis]
    expected = made.multiply_vectors(values, fixed)[0]
    again = EncryptedMatrix(p, SEED, key.header(), tmp_path / "matrix")
    assert again.complete and again.multiply_vectors(values, fixed)[0] == expected
    # A hint of as many rows as a matrix has outputs is another one.
    assert not EncryptedMatrix(replace(p, rows=90), SEED, key.header(), tmp_path / "matrix").complete
