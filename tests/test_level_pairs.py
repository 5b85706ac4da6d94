"""Pairs of levels as matrices, and changes of an encrypted matrix's basis, beside plain arithmetic."""

import asyncio

import numpy as np
import pytest
from gmpy2 import mpz
from test_glm import KEY

from vfl.crypto.randomness import Stream
from vfl.crypto.workers import ONE_PROCESS, Workers
from vfl.learn.matrix import Matrix
from vfl.protocols.linear import level_pairs, rotation
from vfl.protocols.linear.shared_products import columns_of


@pytest.mark.parametrize("most", [1 << 10, 7, 1])
def test_the_weights_by_pairs_of_levels_and_with_numbers_are_the_whole_gram_matrix(monkeypatch, most):
    monkeypatch.setattr(level_pairs, "MOST_CELLS", most)
    rng = np.random.default_rng(most)
    levels = (3, 1, 4)
    codes = np.array([rng.integers(0, size + 1, 200) for size in levels], np.uint16)
    matrix = Matrix(codes, levels, rng.integers(-50, 50, (2, 200)).astype(np.int32))
    weights = rng.integers(0, 1 << 28, 200)
    columns = np.array([make() for _, make in columns_of(matrix)])
    expected = (columns * weights) @ columns.T
    found, known = np.zeros_like(expected), np.zeros(expected.shape, bool)

    def put(pairs, values):
        for (i, j), value in zip(pairs, values, strict=True):
            assert not known[i, j]  # each pair once
            found[i, j] = found[j, i] = value
            known[i, j] = known[j, i] = True

    for pairs in level_pairs.level_pairs(matrix):
        cells = pairs.matrix(matrix)
        assert cells.columns == len(pairs.columns) <= most
        put(pairs.columns, [int(make() @ weights) for _, make in columns_of(cells)])
    numbers = level_pairs.number_pairs(matrix)
    put(numbers, [int((columns[i] * columns[j]) @ weights) for i, j in numbers])
    np.testing.assert_array_equal(found, expected)
    # What is in no pair are two levels of one factor, of which no row has both.
    owner = np.repeat(np.arange(len(levels)), levels)
    same = np.equal.outer(owner, owner) & ~np.eye(len(owner), dtype=bool)
    assert (~known[: len(owner), : len(owner)] == same).all() and known[:, len(owner) :].all()


def encrypted(numbers: np.ndarray) -> np.ndarray:
    ciphertexts = KEY.public.integers(KEY.public.unsafe_encrypt([int(x) for x in numbers.ravel()]))
    return np.array([*ciphertexts, None], object)[:-1].reshape(numbers.shape)


def decrypted(table: np.ndarray) -> list[int]:
    n = int(KEY.public.n)
    found = KEY.decrypt(KEY.public.array([mpz(entry) for entry in table.ravel()]))
    return [value - n if value > n // 2 else value for value in found]


@pytest.mark.parametrize("turned", [False, True])
def test_an_encrypted_matrix_changes_its_basis_as_one_in_the_clear(turned):
    rng = np.random.default_rng(4)
    numbers = rng.integers(-1000, 1000, (6, 6)).astype(object)
    numbers = numbers + numbers.T
    basis = rotation.secret_basis(6, Stream())
    basis[2] = 0  # nothing but zeros in a row or column
    basis[:, 4] = 0
    basis[0, 0] = (1 << rotation.BASIS_BITS) - 1  # of no common factor, as long as there is any
    basis = basis.T if turned else basis

    async def run():
        async with Workers(KEY.public, ONE_PROCESS) as workers:
            across = await rotation.times(workers, encrypted(numbers[:2]), basis)
            whole = await rotation.congruent(workers, encrypted(numbers), basis)
            return across, whole, await rotation.congruent(workers, encrypted(numbers), basis, [2, 4])

    across, whole, blocks = asyncio.run(run())
    assert decrypted(across) == (numbers[:2] @ basis).ravel().tolist()
    assert decrypted(whole) == (basis.T @ numbers @ basis).ravel().tolist()
    for part in (slice(2), slice(2, 6)):
        assert decrypted(blocks[part, part]) == (basis.T @ numbers @ basis)[part, part].ravel().tolist()
