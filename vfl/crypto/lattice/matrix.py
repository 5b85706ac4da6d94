"""The host's matrix: its hint, once, and its sums of encrypted vectors.

A matrix is columns of cells (a bin of a column is a 0/1 row of the matrix; a column of values is one
row of integers) and an exact linear map from cells to outputs. Both the hint and the sums are made by
cell, and then mapped modulo 2^64: the hint of an output is the same combination of the hints of cells.
"""

import hashlib
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Integers, Words
from vfl.crypto.cores import each
from vfl.crypto.lattice import ring, words
from vfl.crypto.lattice.parameters import DEGREE, Parameters
from vfl.crypto.lattice.vectors import PublicRows
from vfl.kernels import kernel

_SLICE = 16  # bins of which transforms are summed at a time: what a core's cache holds
_FLUSH = 256  # blocks after which sums of transforms of 0/1 rows are rounded ...
_FLUSH_VALUES = 16  # ... and of rows of 8-bit values
_CODES = (np.uint8, np.uint16)
_VALUES = (np.uint8, np.uint16, np.int8, np.int16)


@dataclass(frozen=True)
class CodedColumn:
    """A column of the host: each of its `bins` is a cell, or (bins = 0) the sum of its values is one.

    codes: (rows,), uint8 or uint16 and below `bins`; values may be int8 or int16 too.
    """

    codes: NDArray[np.integer] = field(repr=False)
    bins: int

    def __post_init__(self) -> None:
        allowed = _CODES if self.bins else _VALUES
        if self.codes.ndim != 1 or self.codes.dtype not in allowed or not len(self.codes):
            kinds = ", ".join(np.dtype(kind).name for kind in allowed)
            raise ValueError(f"a column's codes are one-dimensional, not empty and one of {kinds}")
        if self.bins and int(self.codes.max()) >= self.bins:
            raise ValueError(f"a code is not below the {self.bins} bins of its column")

    @property
    def cells(self) -> int:
        """Cells of the column."""
        return self.bins or 1

    @property
    def size(self) -> int:
        """No entry of a cell's row is larger."""
        return 1 if self.bins else max(abs(int(self.codes.max())), abs(int(self.codes.min())))


@dataclass(frozen=True)
class Outputs:
    """The linear map from cells, columns one after another, to outputs: compressed sparse rows.

    Output o is the sum of weights[j] * cell[at[j]] for j from starts[o] to starts[o + 1] - 1. With
    `running`, a cell stands for its column's running sum up to it: a left sum is then one entry.
    """

    starts: Integers
    at: Integers
    weights: Integers
    running: bool = False

    def __len__(self) -> int:
        return len(self.starts) - 1


@dataclass(frozen=True)
class CellMatrix:
    """The host's fixed integer matrix, (outputs, rows)."""

    columns: Sequence[CodedColumn]
    outputs: Outputs

    def __post_init__(self) -> None:
        o = self.outputs
        if len({len(column.codes) for column in self.columns}) != 1:
            raise ValueError("a matrix has columns, all of the same number of rows")
        if (
            len(o) < 1
            or o.starts[0] != 0
            or (np.diff(o.starts) < 0).any()
            or not len(o.at) == len(o.weights) == o.starts[-1]
            or (len(o.at) and not 0 <= int(o.at.min()) <= int(o.at.max()) < self.cells)
        ):
            raise ValueError("the map from cells to outputs names cells that are not there")

    @property
    def rows(self) -> int:
        """Rows of the table: the length of a vector."""
        return len(self.columns[0].codes)

    @property
    def offsets(self) -> Integers:
        """The first cell of each column, and the number of all."""
        return np.concatenate([[0], np.cumsum([column.cells for column in self.columns])]).astype(
            np.int64
        )

    @property
    def cells(self) -> int:
        """Cells of all columns."""
        return sum(column.cells for column in self.columns)

    @property
    def weight(self) -> int:
        """No entry of the matrix is larger: the most that columns add up to in an output."""
        offsets = self.offsets
        column_of = np.searchsorted(offsets, self.outputs.at, side="right") - 1
        most = 1
        for start, stop in pairwise(self.outputs.starts.tolist()):
            entries: dict[int, dict[int, int]] = {}
            for j in range(start, stop):
                f = int(column_of[j])
                weights = entries.setdefault(f, {})
                cell = int(self.outputs.at[j] - offsets[f])
                weights[cell] = weights.get(cell, 0) + int(self.outputs.weights[j])
            most = max(most, sum(self._largest(f, weights) for f, weights in entries.items()))
        return most

    def _largest(self, column: int, weights: dict[int, int]) -> int:
        """The largest |entry| that weights by cell of one column give a row."""
        total, largest = 0, 0
        for cell in sorted(weights, reverse=True):
            # A running sum gives its weight to every bin up to it.
            total = total + weights[cell] if self.outputs.running else weights[cell]
            largest = max(largest, abs(total))
        return largest * self.columns[column].size

    def digest(self) -> bytes:
        """SHA-256 over all entries, for the host's own book-keeping: never to be shown to a peer."""
        o = self.outputs
        state = hashlib.sha256(f"{self.rows} {len(o)} {int(o.running)} {len(self.columns)}".encode())
        for column in self.columns:
            state.update(f" {column.bins} {column.codes.dtype.str}".encode())
            state.update(np.ascontiguousarray(column.codes).data)
        for part in (o.starts, o.at, o.weights):
            state.update(np.ascontiguousarray(part, "<i8").data)
        return state.digest()

    def map(self, cells: Words) -> Words:
        """Outputs (outputs, ...) of cells (cells, ...), modulo 2^64; `cells` may be overwritten."""
        flat = cells.reshape(self.cells, -1)
        if self.outputs.running:
            for first, last in pairwise(self.offsets.tolist()):
                np.cumsum(flat[first:last], axis=0, out=flat[first:last])
        out = np.zeros((len(self.outputs), flat.shape[1]), np.uint64)
        _combine(flat, self.outputs.starts, self.outputs.at, self.outputs.weights, out)
        return out.reshape(-1, *cells.shape[1:])


def make_hint(
    matrix: CellMatrix, public: PublicRows, progress: Callable[[int, int], None] | None = None
) -> Words:
    """The hint, (outputs, DEGREE): the matrix times the public one, modulo 2^64. All cores.

    Row by row of the matrix, the sum over blocks of its entries times the block's negacyclic matrix:
    products of transforms, summed before they are rounded. `progress(done, of)` is called from time to
    time. Memory: 32 KB a cell and 32 KB an output.
    """
    if public.rows != matrix.rows:
        raise ValueError(f"public polynomials for {public.rows:,} rows, a matrix of {matrix.rows:,}")
    cells = np.zeros((matrix.cells, DEGREE), np.uint64)
    pieces = [
        (column, first, cells[offset + first : offset + min(first + _SLICE, column.cells)])
        for column, offset in zip(matrix.columns, matrix.offsets.tolist(), strict=False)
        for first in range(0, column.cells, _SLICE)
    ]

    def hint_of(piece: tuple[CodedColumn, int, Words]) -> None:
        column, first, out = piece
        if column.bins:
            _hint_of_bins(column.codes, first, public, out)
            return
        # Digits of 8 bits: longer ones would leave the products too little precision.
        high = column.codes.astype(np.int32) >> 8
        _hint_of_values(column.codes.astype(np.int32) - (high << 8), public, out[0])
        if high.any():
            top = np.zeros(DEGREE, np.uint64)
            _hint_of_values(high, public, top)
            out[0] += top << np.uint64(8)

    for done, _ in enumerate(each(hint_of, pieces), 1):
        if progress is not None:
            progress(done, len(pieces))
    return matrix.map(cells)


class Accumulator:
    """The host's sums of `count` encrypted vectors, from pieces of rows in any order. All cores.

    Keeps 8 bytes a cell and vector for each core, whatever the number of rows.
    """

    def __init__(self, parameters: Parameters, matrix: CellMatrix, count: int) -> None:
        self._parameters = parameters
        self._matrix = matrix
        self._count = count
        self._blocks = -(-matrix.rows // DEGREE)
        self._done = np.zeros(self._blocks, np.bool_)
        self._lock = threading.Lock()
        self._spare: queue.SimpleQueue[Words] = queue.SimpleQueue()
        self._made: list[Words] = []

    def add(self, start: int, data: bytes | memoryview) -> None:
        """Add the rows from `start` on (VectorEncryption.rows' bytes; start is a multiple of DEGREE).

        Raises ValueError when data is no whole number of blocks or rows, or rows came before.
        """
        row = self._parameters.rows_bytes(1, self._count)
        length, rest = divmod(len(data), row)
        stop = start + length
        if rest or not length or start % DEGREE or not 0 <= start < stop <= self._matrix.rows:
            raise ValueError(f"{len(data):,} bytes from row {start:,} are no piece of the vectors")
        if stop % DEGREE and stop != self._matrix.rows:
            raise ValueError(f"a piece ends at row {stop:,}, inside a block of {DEGREE}")
        blocks = range(start // DEGREE, -(-stop // DEGREE))
        with self._lock:
            if self._done[blocks.start : blocks.stop].any():
                raise ValueError(f"rows from {start:,} on came twice")
            self._done[blocks.start : blocks.stop] = True
        view = memoryview(data)

        def add_block(block: int) -> None:
            first = block * DEGREE
            last = min(first + DEGREE, self._matrix.rows)
            part = view[(first - start) * row : (last - start) * row]
            tile = words.unpack(part, self._parameters.word_bits, (last - first, self._count))
            sums = self._take()
            for column, offset in zip(self._matrix.columns, self._matrix.offsets.tolist(), strict=False):
                codes, out = column.codes[first:last], sums[offset : offset + column.cells]
                (_add_bins if column.bins else _add_values)(codes, tile, out)
            self._spare.put(sums)

        for _ in each(add_block, blocks):
            pass

    def result(self) -> Words:
        """The sums, (count, outputs), modulo 2^64. Raises ValueError unless every row was added."""
        if not self._done.all():
            raise ValueError(f"{int(self._done.sum())} of {self._blocks} blocks of rows came")
        total = np.zeros((self._matrix.cells, self._count), np.uint64)
        for sums in self._made:
            total += sums
        return np.ascontiguousarray(self._matrix.map(total).T)

    def _take(self) -> Words:
        try:
            return self._spare.get_nowait()
        except queue.Empty:
            made = np.zeros((self._matrix.cells, self._count), np.uint64)
            with self._lock:
                self._made.append(made)
            return made


def _hint_of_bins(codes: NDArray[np.integer], first: int, public: PublicRows, out: Words) -> None:
    """Add to out (bins from `first` on, DEGREE) the hints of 0/1 rows."""
    sums = np.zeros((len(out), 2, ring.HALF), np.complex128)
    for block in range(public.blocks):
        rows = np.zeros((len(out), ring.HALF), np.complex128)
        _place_bins(codes[block * DEGREE :][:DEGREE], first, ring.TWIST, rows)
        _gather(public.transforms[block], ring.forward(rows), sums)
        if (block + 1) % _FLUSH == 0 or block + 1 == public.blocks:
            out += ring.settle64(sums)
            sums = np.zeros_like(sums)


def _hint_of_values(values: NDArray[np.int32], public: PublicRows, out: Words) -> None:
    """Add to out (DEGREE,) the hint of one row of integers below 2^8 in size."""
    sums = np.zeros((1, 2, ring.HALF), np.complex128)
    for block in range(public.blocks):
        row = np.zeros(DEGREE, np.int32)
        part = values[block * DEGREE :][:DEGREE]
        row[: len(part)] = part
        _gather(public.transforms[block], ring.small(row[np.newaxis]), sums)
        if (block + 1) % _FLUSH_VALUES == 0 or block + 1 == public.blocks:
            out += ring.settle64(sums)[0]
            sums = np.zeros_like(sums)


@kernel
def _place_bins(
    codes: NDArray[np.integer], first: int, twist: ring.Complexes, out: ring.Complexes
) -> None:
    """The twisted 0/1 rows (bins, HALF) of a block's codes, for bins from `first` on."""
    bins = len(out)
    for i in range(min(len(codes), ring.HALF)):
        b = np.int64(codes[i]) - first
        if 0 <= b < bins:
            out[b, i] += twist[i]
    for i in range(len(codes) - ring.HALF):
        b = np.int64(codes[i + ring.HALF]) - first
        if 0 <= b < bins:
            out[b, i] += 1j * twist[i]


@kernel
def _gather(public: ring.Complexes, rows: ring.Complexes, sums: ring.Complexes) -> None:
    # Conjugates: the transform of a(1/X), so that a coefficient pairs row i with row i of a X^m.
    for b in range(len(rows)):
        for limb in range(2):
            for i in range(ring.HALF):
                sums[b, limb, i] += np.conj(public[limb, i]) * rows[b, i]


@kernel
def _add_bins(codes: NDArray[np.integer], tile: Words, out: Words) -> None:
    for i in range(len(codes)):
        code = codes[i]
        for v in range(tile.shape[1]):
            out[code, v] += tile[i, v]


@kernel
def _add_values(codes: NDArray[np.integer], tile: Words, out: Words) -> None:
    for i in range(len(codes)):
        value = np.uint64(np.int64(codes[i]))
        for v in range(tile.shape[1]):
            out[0, v] += value * tile[i, v]


@kernel
def _combine(cells: Words, starts: Integers, at: Integers, weights: Integers, out: Words) -> None:
    for o in range(len(out)):
        for j in range(starts[o], starts[o + 1]):
            weight = np.uint64(weights[j])
            for i in range(out.shape[1]):
                out[o, i] += weight * cells[at[j], i]
