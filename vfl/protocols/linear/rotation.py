"""Matrices under Paillier's encryption, and changes of basis that only who makes them knows."""

import secrets
from collections.abc import Sequence

import gmpy2
import numpy as np
from gmpy2 import mpz

from vfl.crypto.paillier import PublicKey
from vfl.crypto.workers import Workers
from vfl.protocols.linear.shared_products import Table

_ENTRY_BITS = 32  # of an entry of a basis, before its row is stretched
_STRETCH_BITS = 12  # of what a row is stretched by, at most
BASIS_BITS = _ENTRY_BITS + _STRETCH_BITS
"""Of an entry of a basis, its sign not counted."""
_WINDOW = 4


def secret_basis(size: int) -> Table:
    """A random basis of whole numbers, (size, size): its rows of lengths that differ by up to 2^12."""

    def row() -> list[int]:
        bits = secrets.randbelow(_STRETCH_BITS) + 1
        stretch = (1 << (bits - 1)) + secrets.randbelow(1 << (bits - 1))
        signed = [secrets.randbelow((1 << (_ENTRY_BITS + 1)) - 1) for _ in range(size)]
        return [stretch * (entry - (1 << _ENTRY_BITS) + 1) for entry in signed]

    basis = np.empty((size, size), object)
    for i in range(size):
        basis[i] = row()
    return basis


async def times(workers: Workers[PublicKey], encrypted: Table, matrix: Table) -> Table:
    """The encrypted product of an encrypted matrix and one of whole numbers."""
    columns = [[int(entry) for entry in column] for column in matrix.T]
    rows = [([*row], columns) for row in encrypted]
    found = np.empty((len(encrypted), len(columns)), object)
    for place, row in enumerate(await workers.map(_row_times, rows)):
        found[place] = row
    return found


async def congruent(workers: Workers[PublicKey], encrypted: Table, basis: Table) -> Table:
    """Basis' E basis, encrypted, of a symmetric encrypted E."""
    half = await times(workers, encrypted, basis)
    return await times(workers, half.T, basis)


def _row_times(key: PublicKey, row: Sequence[mpz], columns: Sequence[Sequence[int]]) -> list[mpz]:
    """A row's products with all columns: powers by windows, whose squarings are shared."""
    square = key.n_squared
    tables = []
    for c in row:
        powers = [mpz(1)]
        for _ in range((1 << _WINDOW) - 1):
            powers.append(powers[-1] * c % square)
        tables.append(powers)
    inverses = [gmpy2.invert(c, square) for c in row]
    negative = []
    for c in inverses:
        powers = [mpz(1)]
        for _ in range((1 << _WINDOW) - 1):
            powers.append(powers[-1] * c % square)
        negative.append(powers)
    found = []
    for column in columns:
        most = max((abs(entry).bit_length() for entry in column), default=0)
        total = mpz(1)
        for window in reversed(range(-(-most // _WINDOW))):
            for _ in range(_WINDOW):
                total = total * total % square
            for place, entry in enumerate(column):
                digit = abs(entry) >> (window * _WINDOW) & ((1 << _WINDOW) - 1)
                if digit:
                    powers = tables[place] if entry > 0 else negative[place]
                    total = total * powers[digit] % square
        found.append(total)
    return found


def upper(table: Table) -> list[mpz]:
    """The upper triangle of a symmetric table, row by row."""
    return [*table[np.triu_indices(len(table))]]


def symmetric(entries: Sequence[object], size: int) -> Table:
    """The symmetric table with this upper triangle."""
    found = np.empty((size, size), object)
    rows, columns = np.triu_indices(size)
    for i, j, entry in zip(rows.tolist(), columns.tolist(), entries, strict=True):
        found[i, j] = found[j, i] = entry
    return found


def inverse(matrix: Table, bits: int) -> Table:
    """The inverse of a matrix of whole numbers, as numbers of so many bits, by elimination."""
    size = len(matrix)
    with gmpy2.context(gmpy2.get_context(), precision=bits):
        left = np.empty((size, 2 * size), object)
        for i in range(size):
            left[i] = [gmpy2.mpfr(int(entry)) for entry in matrix[i]] + [
                gmpy2.mpfr(int(i == j)) for j in range(size)
            ]
        for k in range(size):
            pivot = k + max(range(size - k), key=lambda i: abs(left[k + i, k]))
            if left[pivot, k] == 0:
                raise ValueError("a matrix without an inverse")
            left[[k, pivot]] = left[[pivot, k]]
            left[k] = left[k] / left[k, k]
            for i in range(size):
                if i != k:
                    left[i] = left[i] - left[i, k] * left[k]
        return np.asarray(left[:, size:])
