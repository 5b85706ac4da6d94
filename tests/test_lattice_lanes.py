"""Kernels of the lattice engine that do several things side by side, against the same one by one."""

import math

import numpy as np
import pytest

from vfl.crypto.lattice import lanes, randomness, ring, tiles, words
from vfl.crypto.lattice.matrix import Accumulator, CellMatrix, CodedColumn, Outputs
from vfl.crypto.lattice.parameters import DEGREE, choose
from vfl.crypto.lattice.vectors import PublicRows, Secrets, VectorEncryption
from vfl.crypto.randomness import Stream

SEED = bytes(range(32))


def seeded(seed: int) -> "np.random.Generator":
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    ("count", "word_bits", "value_bits"),
    [(1, 56, 7), (2, 48, 7), (2, 64, 20), (3, 56, 7), (4, 56, 7), (8, 48, 7), (9, 56, 17), (10, 64, 7)],
)
def test_vectors_side_by_side(count: int, word_bits: int, value_bits: int) -> None:
    # More polynomials than are encrypted together, and a last one that is cut.
    rows = 5 * DEGREE + 7
    p = choose(rows, value_bits, 4, 100, words=(word_bits,))
    most = 2 ** (value_bits - 1)
    values = seeded(1).integers(1 - most, most, (count, rows))
    draw, again = seeded(2).bytes, seeded(2).bytes
    encryption = VectorEncryption(p, PublicRows(SEED, rows), Secrets.draw(count, draw), draw)
    kind = np.int16 if value_bits <= 16 else np.int32
    found = encryption.rows(0, values.astype(kind))

    secrets = ring.small(randomness.ternary(again(32), "secrets", count * DEGREE).reshape(count, DEGREE))
    key, public = again(32), PublicRows(SEED, rows)
    expected = []
    for number in range(6):
        own = values[:, number * DEGREE :][:, :DEGREE]
        drawn = randomness.errors(key, "errors", 6 * count * DEGREE)
        added = drawn.reshape(6, count, DEGREE)[number, :, : own.shape[1]] + (own << p.scale_bits)
        products = ring.settle64(public.of(range(number, number + 1)) * secrets[:, np.newaxis])
        plain = products[:, : own.shape[1]] + added.view(np.uint64)
        expected.append(words.pack(np.ascontiguousarray(plain.T), word_bits))
    assert found == b"".join(expected)


@pytest.mark.parametrize("distance", [0.26, math.inf, math.nan])
def test_an_imprecise_product_side_by_side_is_refused(distance: float) -> None:
    rows = 2 * DEGREE
    p, public = choose(rows, 7, 4, 100), PublicRows(SEED, rows)
    public.flat(range(2))[5] += distance * DEGREE * DEGREE  # a real part, which is kept
    encryption = VectorEncryption(p, public, Secrets.draw(3, Stream()), Stream())
    with pytest.raises(ArithmeticError, match="nearest integer"):
        encryption.rows(0, np.zeros((3, rows), np.int16))


def test_values_of_other_types_that_do_not_fit_are_refused() -> None:
    rows = DEGREE
    p = choose(rows, 7, 4, 100)
    encryption = VectorEncryption(p, PublicRows(SEED, rows), Secrets.draw(1, Stream()), Stream())
    for value in (64, -64, 1 << 16, -(1 << 20)):  # the last two are zero in 16 bits
        for kind in (np.int16, np.int64):
            if abs(value) < 1 << 15 or kind is np.int64:
                values = np.zeros((1, rows), kind)
                values[0, 17] = value
                with pytest.raises(ValueError, match="7 bits"):
                    encryption.rows(0, values)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("count", [1, 2, 3, 8, 12, 32, 33])
def test_sums_by_joint_cells(count: int, kind: type) -> None:
    bins = [5, 7, 4, 300 if kind is np.uint16 else 6, 3]
    rows = DEGREE + 1000
    generator = seeded(count)
    codes = np.stack([generator.integers(0, b, rows) for b in bins]).astype(kind)
    cells = sum(bins)
    ones = np.ones(cells, np.int64)
    matrix = CellMatrix(
        CodedColumn.all_of(codes, bins), Outputs(np.arange(cells + 1), np.arange(cells), ones)
    )
    p = choose(rows, 7, cells, 100)
    drawn = generator.integers(0, 1 << 63, (rows, count)).astype(np.uint64) << np.uint64(
        64 - p.word_bits
    )
    sums = Accumulator(p, matrix, count)
    sums.add(0, words.pack(drawn[:DEGREE], p.word_bits))
    sums.add(DEGREE, words.pack(drawn[DEGREE:], p.word_bits))
    expected = np.zeros((cells, count), np.uint64)
    for first, column in zip(matrix.offsets.tolist(), codes, strict=False):
        np.add.at(expected, first + column.astype(np.int64), drawn)
    assert np.array_equal(sums.result(), expected.T)


def test_pairs_of_columns_are_those_of_few_joint_cells() -> None:
    columns = [(0, 5, 0), (1, 7, 5), (2, 4, 12), (3, 300, 16), (4, 3, 316)]
    pairs = tiles.pairs_of(columns, 8, 1000)
    assert pairs.bins.tolist() == [[5, 7], [4, 0], [300, 0], [3, 0]]
    assert pairs.begin.tolist() == [0, 35, 39, 339]
    assert pairs.joint == 342
    # Where there are few rows, telling joint cells apart would cost more than they save.
    assert tiles.pairs_of(columns, 8, 10).bins[:, 1].tolist() == [0] * 5


def test_buffers_begin_with_lines_of_the_cache() -> None:
    for size in (1, 8, 1001):
        assert lanes.aligned(size).ctypes.data % 64 == 0 and len(lanes.aligned(size)) == size
