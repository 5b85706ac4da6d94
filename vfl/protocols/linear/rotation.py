"""Matrices under Paillier's encryption, and changes of basis that only who makes them knows."""

import math
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
    return await _times(workers, encrypted, matrix, [0] * len(encrypted))


async def congruent(workers: Workers[PublicKey], encrypted: Table, basis: Table) -> Table:
    """Basis' E basis, encrypted, of a symmetric encrypted E."""
    half = await times(workers, encrypted, basis)
    size = basis.shape[1]
    whole = await _times(workers, half.T, basis, range(size))
    return symmetric(upper(whole), size)


async def _times(
    workers: Workers[PublicKey], encrypted: Table, matrix: Table, begin: Sequence[int]
) -> Table:
    """The product without what is before `begin` of each row, which is left empty."""
    # What all entries of a row or column of the matrix are multiples of is a power taken once.
    rows = [max(1, math.gcd(*map(int, row))) for row in matrix]
    reduced = matrix // np.array([*rows, None], object)[:-1, np.newaxis]
    columns = [max(1, math.gcd(*map(int, column))) for column in reduced.T]
    reduced //= np.array([*columns, None], object)[:-1]
    entries = [[int(entry) for entry in column] for column in reduced.T]
    tasks = [
        ([*row], rows, entries[first:], columns[first:])
        for row, first in zip(encrypted, begin, strict=True)
    ]
    found = np.empty((len(encrypted), len(entries)), object)
    for place, (row, first) in enumerate(zip(await workers.map(_row_times, tasks), begin, strict=True)):
        found[place, first:] = row
    return found


def _row_times(
    key: PublicKey,
    row: Sequence[mpz],
    before: Sequence[int],
    columns: Sequence[Sequence[int]],
    after: Sequence[int],
) -> list[mpz]:
    """A row's products with all columns, whose entries count `before` times by row and `after` times by
    column.

    Powers by windows, whose squarings are shared (Straus, American Mathematical Monthly 71, 1964).
    """
    square = key.n_squared
    lifted = [gmpy2.powmod(c, factor, square) for c, factor in zip(row, before, strict=True)]
    # All entries become positive by a number that is taken off again.
    bits = 1 + max((abs(entry).bit_length() for column in columns for entry in column), default=0)
    offset = 1 << (bits - 1)
    whole = mpz(1)
    for c in lifted:
        whole = whole * c % square
    less = gmpy2.powmod(whole, -offset, square)
    window = min(range(2, 9), key=lambda w: (1 << w) / max(1, len(columns)) + -(-bits // w))
    tables = []
    for c in lifted:
        powers = [mpz(1)]
        for _ in range((1 << window) - 1):
            powers.append(powers[-1] * c % square)
        tables.append(powers)
    mask, found = (1 << window) - 1, []
    for column, factor in zip(columns, after, strict=True):
        exponents = [entry + offset for entry in column]
        total = mpz(1)
        for shift in range((bits - 1) // window * window, -1, -window):
            total = gmpy2.powmod(total, 1 << window, square)
            for powers, exponent in zip(tables, exponents, strict=True):
                digit = exponent >> shift & mask
                if digit:
                    total = total * powers[digit] % square
        found.append(gmpy2.powmod(total * less % square, factor, square))
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
