"""A party's columns without its mean, of unit length each and at right angles, in a secret basis.

With S = (X - m)'(X - m) of the rows of a matrix X of n rows and c columns, S = L L' (Cholesky), and Q
uniform among the orthogonal matrices (Haar measure; the QR of normal numbers, Mezzadri, Notices of the
AMS 54, 2007), the columns of Z = (X - m) A, A = sqrt(n) L'^-1 Q, have Z'Z = n I. What is known of Z up
to Q is known of the space that the columns span, and of no column.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats
from vfl.blocks.engine import ENGINE
from vfl.learn.matrix import Matrix

Entropy = Callable[[int], bytes]
"""So many random bytes."""

_BLOCK = 1 << 14  # rows at once


@dataclass(frozen=True)
class Rotated:
    """The columns Z of some rows. change: A, shape (columns, columns); mean: m, shape (columns,)."""

    matrix: Matrix
    change: Floats
    mean: Floats

    @classmethod
    def of(cls, matrix: Matrix, entropy: Entropy | None) -> "Rotated":
        """In a new basis; None: Q is the identity. Raises numpy.linalg.LinAlgError for columns that make
        each other up."""
        rows, columns = matrix.rows, matrix.columns
        total, gram = np.zeros(columns), np.zeros((columns, columns))
        for block in _blocks(matrix):
            total += block.sum(axis=1)
        mean = total / max(rows, 1)
        for block in _blocks(matrix):
            centred = block - mean[:, np.newaxis]
            gram += centred @ centred.T
        length = np.sqrt(np.diag(gram))
        root = np.linalg.cholesky(gram / np.outer(length, length))
        basis = np.eye(columns) if entropy is None else _orthogonal(columns, entropy)
        change = math.sqrt(rows) * np.linalg.solve(root.T, basis)
        return cls(matrix, change / length[:, np.newaxis], mean)

    def numbers(self, bits: int) -> NDArray[np.int32]:
        """Z', shape (columns, rows), in whole multiples of 2^-bits."""
        found = np.empty((self.matrix.columns, self.matrix.rows), np.int32)
        at = 0
        for block in _blocks(self.matrix):
            own = self.change.T @ (block - self.mean[:, np.newaxis])
            found[:, at : at + block.shape[1]] = np.rint(own * 2.0**bits)
            at += block.shape[1]
        return found

    def covariance(self, block: Floats) -> Floats:
        """A party's block of the inverse of all parties' (X - m)'(X - m), from that of Z'Z / n."""
        return np.asarray(self.change @ block @ self.change.T, np.float64) / self.matrix.rows


def normal(entropy: Entropy, *shape: int) -> Floats:
    """Normal numbers of random bytes (Box and Muller)."""
    words = np.frombuffer(entropy(16 * math.prod(shape)), "<u8").reshape(2, *shape)
    radius, angle = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return np.asarray(np.sqrt(-2 * np.log1p(-radius)) * np.cos(2 * np.pi * angle))


def _orthogonal(size: int, entropy: Entropy) -> Floats:
    """Uniform among orthogonal matrices."""
    basis, triangle = np.linalg.qr(normal(entropy, size, size))
    return np.asarray(basis * np.sign(np.diag(triangle)))


def _blocks(matrix: Matrix) -> Iterator[Floats]:
    """X', some rows at a time: shape (columns, rows of the block)."""
    codes = np.asarray(ENGINE.gather(matrix.codes))
    numbers = np.asarray(ENGINE.gather(matrix.numbers))
    for first in range(0, matrix.rows, _BLOCK):
        some = slice(first, first + _BLOCK)
        levels = [
            own[some] == np.arange(1, size + 1)[:, np.newaxis]
            for own, size in zip(codes, matrix.levels, strict=True)
        ]
        own = numbers[:, some].astype(np.float64) * matrix.unit
        yield np.concatenate([*levels, own]).astype(np.float64)
