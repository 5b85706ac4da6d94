"""Matrices under Paillier's encryption, and changes of basis that only who makes them knows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import gmpy2
import numpy as np
from gmpy2 import mpz
from numpy.typing import NDArray

from vfl.crypto.paillier import PublicKey
from vfl.crypto.randomness import Stream
from vfl.crypto.workers import Workers
from vfl.protocols.linear.shared_products import Table

_ENTRY_BITS = 32  # of an entry of a basis, before its row is stretched
_STRETCH_BITS = 12  # of what a row is stretched by, at most
BASIS_BITS = _ENTRY_BITS + _STRETCH_BITS
"""Of an entry of a basis, its sign not counted."""


def secret_basis(size: int, stream: Stream) -> Table:
    """A random basis of whole numbers, (size, size): its rows of lengths that differ by up to 2^12."""

    def row() -> list[int]:
        bits = stream.below(_STRETCH_BITS) + 1
        stretch = (1 << (bits - 1)) + stream.below(1 << (bits - 1))
        signed = [stream.below((1 << (_ENTRY_BITS + 1)) - 1) for _ in range(size)]
        return [stretch * (entry - (1 << _ENTRY_BITS) + 1) for entry in signed]

    basis = np.empty((size, size), object)
    for i in range(size):
        basis[i] = row()
    return basis


async def times(workers: Workers[PublicKey], encrypted: Table, matrix: Table) -> Table:
    """The encrypted product of an encrypted matrix and one of whole numbers."""
    return await _times(workers, encrypted, matrix, [(0, matrix.shape[1])] * len(encrypted))


async def congruent(
    workers: Workers[PublicKey], encrypted: Table, basis: Table, sizes: Sequence[int] | None = None
) -> Table:
    """Basis' E basis, encrypted, of a symmetric encrypted E; with `sizes` of diagonal blocks only these,
    the rest left empty."""
    half = await times(workers, encrypted, basis)
    size = basis.shape[1]
    ends = np.cumsum([size] if sizes is None else sizes).tolist()
    spans = [(i, next(end for end in ends if i < end)) for i in range(size)]
    whole = await _times(workers, half.T, basis, spans)
    for i, (_, end) in enumerate(spans):
        whole[i:end, i] = whole[i, i:end]
    return whole


async def _times(
    workers: Workers[PublicKey], encrypted: Table, matrix: Table, spans: Sequence[tuple[int, int]]
) -> Table:
    """The product, of each row from one column to before another; the rest is left empty."""
    # What all entries of a row or column of the matrix are multiples of is a power taken once.
    rows = [max(1, math.gcd(*map(int, row))) for row in matrix]
    reduced = matrix // np.array([*rows, None], object)[:-1, np.newaxis]
    columns = [max(1, math.gcd(*map(int, column))) for column in reduced.T]
    reduced //= np.array([*columns, None], object)[:-1]
    choices = _Choices.of(reduced, sum(end - first for first, end in spans) / max(1, len(spans)))
    tasks = [
        ([*row], rows, choices.some(first, end), columns[first:end])
        for row, (first, end) in zip(encrypted, spans, strict=True)
    ]
    found = np.empty((len(encrypted), len(columns)), object)
    for place, (row, (first, end)) in enumerate(
        zip(await workers.map(_row_times, tasks), spans, strict=True)
    ):
        found[place, first:end] = row
    return found


@dataclass(frozen=True)
class _Choices:
    """Which entries of a row count at each bit of the numbers of a matrix's columns.

    Entries go by groups, of which all products of some are made once for all columns and bits (the
    tables of Pippenger, SIAM Journal on Computing 9, 1980): chosen[column, bit, group] says of which.
    """

    chosen: NDArray[np.uint16]  # the highest bit first
    group: int  # entries of a group
    offset: int  # by which numbers are too large, so that none is negative

    @classmethod
    def of(cls, matrix: Table, used: float) -> "_Choices":
        """used: how many columns a row is multiplied with, on average."""
        rows, columns = matrix.shape
        bits = 1 + max((abs(int(entry)).bit_length() for entry in matrix.ravel()), default=0)
        offset = 1 << (bits - 1)
        group = min(range(1, 13), key=lambda g: -(-rows // g) * ((1 << g) + used * bits))
        chosen = np.zeros((columns, bits, -(-rows // group)), np.uint16)
        for i in range(rows):
            own = [int(entry) + offset for entry in matrix[i]]
            for bit in range(bits):
                set_ = np.array([number >> (bits - 1 - bit) & 1 for number in own], np.uint16)
                chosen[:, bit, i // group] |= set_ << np.uint16(i % group)
        return cls(chosen, group, offset)

    def some(self, first: int, end: int) -> "_Choices":
        """Those of some columns."""
        return replace(self, chosen=self.chosen[first:end])


def _row_times(
    key: PublicKey, row: Sequence[mpz], before: Sequence[int], choices: _Choices, after: Sequence[int]
) -> list[mpz]:
    """A row's products with all columns, whose entries count `before` times by row and `after` times by
    column.

    Powers bit by bit, whose squarings are shared (Straus, American Mathematical Monthly 71, 1964).
    """
    square = key.n_squared
    lifted = [gmpy2.powmod(c, factor, square) for c, factor in zip(row, before, strict=True)]
    whole = mpz(1)
    for c in lifted:
        whole = whole * c % square
    less = gmpy2.powmod(whole, -choices.offset, square)
    tables: list[list[mpz]] = []
    for first in range(0, len(lifted), choices.group):
        products = [mpz(1)]
        for c in lifted[first : first + choices.group]:
            products += [product * c % square for product in products]
        tables.append(products)
    found = []
    for column, factor in zip(choices.chosen.tolist(), after, strict=True):
        total = mpz(1)
        for chosen in column:
            total = total * total % square
            for products, which in zip(tables, chosen, strict=True):
                if which:
                    total = total * products[which] % square
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
