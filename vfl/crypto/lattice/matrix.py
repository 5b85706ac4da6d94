"""The host's matrix: its hint, once, and its sums of encrypted vectors.

A matrix is columns of cells (a bin of a column is a 0/1 row of the matrix; a column of values is one
row of integers) and an exact linear map from cells to outputs. Both the hint and the sums are made by
cell, and then mapped modulo 2^64: the hint of an output is the same combination of the hints of cells.

Both are sums over rows of whole numbers, which come to the same however rows are cut: so each worker of
the engine of blocks adds up those rows that it has. A polynomial that is cut between two blocks counts
in the one with the rows of the one, zeros elsewhere, and in the other with its own.
"""

import hashlib
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby, pairwise
from typing import cast

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Bytes, Integers, Words
from vfl.blocks.cores import Begun
from vfl.blocks.engine import ENGINE, Array, Rows, overlaps
from vfl.crypto.lattice import ring, words
from vfl.crypto.lattice.parameters import DEGREE, HALF_WORD, MODULUS_BITS, Parameters
from vfl.crypto.lattice.vectors import PublicRows
from vfl.kernels import kernel

_SLICE = 8  # bins whose transforms are made at once: lanes.LANES
_AT_ONCE = 256  # cells whose hints are made in a pass over the rows: 98 KB of each for every thread
_CHUNK = 32  # polynomials that are kept in transform domain for a slice after the other
_FLUSH = 256  # polynomials after which sums of transforms of 0/1 rows are rounded ...
_FLUSH_VALUES = 16  # ... and of rows of 8-bit values
_CODES = (np.uint8, np.uint16)
_VALUES = (np.uint8, np.uint16, np.int8, np.int16)


@dataclass(frozen=True)
class CodedColumn:
    """A column of the host: each of its `bins` is a cell, or (bins = 0) the sum of its values is one.

    array: its codes, (rows,), uint8 or uint16 and below `bins`; values may be int8 or int16 too. Or
    those of several columns, (columns, rows), of which this is number `row`.
    """

    array: Rows = field(repr=False)
    bins: int
    row: int = 0
    bounds: tuple[int, int] | None = None
    """The least and the greatest code, which are found where they are not given."""
    digit: tuple[int, int] | None = None
    """Where `array` has integers, in two's complement: of which bit on, and of how many, the code is."""

    def __post_init__(self) -> None:
        if self.digit is not None:
            if not self.bins or np.dtype(self.array.dtype).kind not in "iu" or not self.array.shape[-1]:
                raise ValueError("a column's digits are those of integers, not of none")
            if self.bounds is None:
                object.__setattr__(self, "bounds", (0, (1 << self.digit[1]) - 1))
            self._check_bins()
            return
        allowed = _CODES if self.bins else _VALUES
        if len(self.array.shape) > 2 or self.array.dtype not in allowed or not self.array.shape[-1]:
            kinds = ", ".join(np.dtype(kind).name for kind in allowed)
            raise ValueError(f"a column's codes are one-dimensional, not empty and one of {kinds}")
        if self.bounds is None:
            low, high = _bounds_of(self.array)
            object.__setattr__(self, "bounds", (int(low[self.row]), int(high[self.row])))
        self._check_bins()

    def _check_bins(self) -> None:
        if self.bins and self._bounds[1] >= self.bins:
            raise ValueError(f"a code is not below the {self.bins} bins of its column")

    @classmethod
    def all_of(cls, codes: Rows, bins: Sequence[int]) -> "list[CodedColumn]":
        """All columns of codes of shape (columns, rows)."""
        bounds = zip(*(each.tolist() for each in _bounds_of(codes)), strict=True) if bins else ()
        return [
            cls(codes, cells, row, of) for row, (cells, of) in enumerate(zip(bins, bounds, strict=True))
        ]

    def blocks(self) -> Iterator[NDArray[np.integer]]:
        """The codes, block by block."""
        return ENGINE.results(partial(_codes_of, self.row, self.digit, self.dtype.str), self.array)

    @property
    def codes(self) -> NDArray[np.integer]:
        """All codes, here."""
        return np.concatenate([*self.blocks()])

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Of the codes."""
        if self.digit is None:
            return np.dtype(self.array.dtype)
        return np.dtype(np.uint8 if self.bins <= 1 << 8 else np.uint16)

    @property
    def cells(self) -> int:
        """Cells of the column."""
        return self.bins or 1

    @property
    def size(self) -> int:
        """No entry of a cell's row is larger."""
        return 1 if self.bins else max(map(abs, self._bounds))

    @property
    def _bounds(self) -> tuple[int, int]:
        assert self.bounds is not None  # noqa: S101 - for the type checker
        return self.bounds


def _bounds_of(codes: Rows) -> tuple[Integers, Integers]:
    """The least and the greatest code of each column."""
    found = list(ENGINE.results(_block_bounds, codes))
    return np.min([low for low, _ in found], axis=0), np.max([high for _, high in found], axis=0)


def _block_bounds(codes: NDArray[np.integer]) -> tuple[Integers, Integers]:
    table = np.atleast_2d(codes)
    return table.min(axis=1).astype(np.int64), table.max(axis=1).astype(np.int64)


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
        if len({column.array.shape[-1] for column in self.columns}) != 1:
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
        return int(self.columns[0].array.shape[-1])

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
            state.update(f" {column.bins} {column.dtype.str}".encode())
            for block in column.blocks():
                state.update(block.data)
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
    """The hint, (outputs, DEGREE): the matrix times the public one, modulo 2^64; of pairs in wide words,
    (outputs, DEGREE, 2), modulo 2^82. All cores.

    Row by row of the matrix, the sum over polynomials of its entries times the polynomial's negacyclic
    matrix: products of transforms, summed before they are rounded. `progress(done, of)` is called from
    time to time. Memory: 32 KB a cell and 32 KB an output (of pairs 96 KB each), 32 MB a thread. Raises
    ValueError for pairs and a column of values.
    """
    if public.rows != matrix.rows:
        raise ValueError(f"public polynomials for {public.rows:,} rows, a matrix of {matrix.rows:,}")
    arrays, places = _placed(matrix)
    limbs = public.limbs
    is_wide = limbs.bits > MODULUS_BITS
    if is_wide and not all(place.bins for place in places):
        raise ValueError("pairs are for columns of bins, not of values")
    # Of pairs limb by limb: their sums are below 2^63, and are put together at the end.
    cells = np.zeros((matrix.cells, limbs.number if is_wide else 1, DEGREE), np.uint64)
    passes = list(_passes(places))
    for number, slices in enumerate(passes):
        adder = partial(_Hints, public, tuple(slices))
        first, last = slices[0].cell, slices[-1].cell + slices[-1].cells

        def follow(done: int, of: int, number: int = number) -> None:
            if progress is not None:
                progress(number * of + done, len(passes) * of)

        cells[first:last] = ENGINE.sum_by(adder, *arrays, follow=follow)
    made = matrix.map(cells)
    return ring.carried(made.view(np.int64), limbs) if is_wide else made[:, 0]


class Accumulator:
    """The host's sums of `count` encrypted vectors, from pieces of rows in any order. All cores.

    A pair's two halves are added up as words of two vectors, and put together at the end.

    A piece is added up where its rows lie. Keeps 8 bytes a cell and vector for each piece under way,
    whatever the number of rows.
    """

    def __init__(self, parameters: Parameters, matrix: CellMatrix, count: int) -> None:
        self._parameters = parameters
        self._matrix = matrix
        self._count = count
        self._blocks = -(-matrix.rows // DEGREE)
        self._done = np.zeros(self._blocks, np.bool_)
        self._lock = threading.Lock()
        self._arrays, places = _placed(matrix)
        self._cuts = ENGINE.cuts(matrix.rows)
        words_a_row = 2 * count if parameters.pairs else count
        bits = HALF_WORD if parameters.pairs else parameters.word_bits
        self._kernel = partial(_sums, bits, tuple(places), (matrix.cells, words_a_row))
        self._under_way: deque[Begun[Words]] = deque()
        self._total = np.zeros((matrix.cells, words_a_row), np.uint64)

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
        piece = np.frombuffer(data, np.uint8).reshape(-1, row)
        for place, low, high in overlaps(self._cuts, start, stop):
            # The polynomials that hold these rows.
            first, last = low // DEGREE * DEGREE, min(-(-high // DEGREE) * DEGREE, stop)
            kernel = partial(
                self._kernel, self._cuts[place].start, low, high, piece[first - start : last - start]
            )
            with self._lock:
                self._under_way.append(ENGINE.begin(kernel, place, *self._arrays))
        self._take(ENGINE.width)

    def result(self) -> Words:
        """The sums, (count, outputs), modulo 2^64; of pairs wide words, modulo 2^82. Raises ValueError
        unless every row was added."""
        if not self._done.all():
            raise ValueError(f"{int(self._done.sum())} of {self._blocks} blocks of rows came")
        self._take(0)
        sums = self._matrix.map(self._total)
        if self._parameters.pairs:
            return np.ascontiguousarray(words.joined_halves(sums.view(np.int64)).swapaxes(0, 1))
        return np.ascontiguousarray(sums.T)

    def _take(self, left: int) -> None:
        """Wait for the sums of pieces, but for so many that came last."""
        with self._lock:
            while len(self._under_way) > left:
                self._total += self._under_way.popleft().result()


@dataclass(frozen=True)
class _Place:
    """Where a column, or some of its bins, is among the arrays and the cells."""

    array: int
    row: int  # of the array
    bins: int  # of the whole column
    cell: int  # the first
    first: int = 0  # bin that this cell is of
    cells: int = 1
    digit: tuple[int, int] | None = None  # of the array's integers

    def codes(self, integers: NDArray[np.integer]) -> NDArray[np.integer]:
        """The codes in some rows of the array."""
        if self.digit is None:
            return integers
        low, bits = self.digit
        kind = np.uint8 if bits <= 8 else np.uint16
        return ((integers >> low) & ((1 << bits) - 1)).astype(kind)


def _placed(matrix: CellMatrix) -> tuple[list[Rows], list[_Place]]:
    """The arrays that hold a matrix's codes, each once, and where among them its columns are."""
    arrays: dict[int, Rows] = {}
    places = []
    for column, cell in zip(matrix.columns, matrix.offsets.tolist(), strict=False):
        arrays[id(column.array)] = column.array
        array = list(arrays).index(id(column.array))
        digit = column.digit
        places.append(_Place(array, column.row, column.bins, cell, 0, column.cells, digit))
    return list(arrays.values()), places


def _passes(places: Sequence[_Place]) -> Iterator[list[_Place]]:
    """Slices of columns, those together whose hints are made in one pass over the rows."""
    slices = (
        replace(place, cell=place.cell + first, first=first, cells=min(_SLICE, place.cells - first))
        for place in places
        for first in range(0, place.cells, _SLICE)
    )
    for _, together in groupby(slices, lambda place: place.cell // _AT_ONCE):
        yield list(together)


def _tables(codes: Sequence[Array]) -> list[NDArray[np.integer]]:
    """Each array as (columns, rows); `CodedColumn` has checked what they are of."""
    return [cast(NDArray[np.integer], np.atleast_2d(array)) for array in codes]


def _codes_of(
    row: int, digit: tuple[int, int] | None, kind: str, codes: NDArray[np.integer]
) -> NDArray[np.integer]:
    own = _Place(0, row, 0, 0, digit=digit).codes(np.atleast_2d(codes)[row])
    return np.ascontiguousarray(own, kind)


def _sums(
    bits: int,
    places: Sequence[_Place],
    shape: tuple[int, int],
    start: int,
    low: int,
    high: int,
    piece: Bytes,
    *codes: Array,
) -> Words:
    """Sums by cell of encrypted vectors, shape (cells, count), over the rows `low` to before `high` of a
    block that begins with row `start`. `piece` has the rows of the polynomials that hold them, in words
    of so many bits."""
    from vfl.crypto.lattice import tiles  # which imports numba

    count = shape[1]
    width, tables = tiles.width_of(count), _tables(codes)
    sums, tile = tiles.zeros(shape[0], width), tiles.zeros(tiles.rows_of(count), width)
    binned, others = _binned(places)
    pairs = {array: tiles.pairs_of(columns, width, high - low) for array, columns in binned.items()}
    joint = {array: tiles.zeros(own.joint, width) for array, own in pairs.items()}
    begin = low // DEGREE * DEGREE
    for first in range(begin, high, DEGREE):
        part = piece[first - begin :][:DEGREE].reshape(-1)
        stop = min(first + DEGREE, high)
        for row in range(max(first, low), stop, len(tile)):
            own = tile[: stop - row]
            tiles.unpack(part, bits, count, row - first, own)
            for array, cells in joint.items():
                tiles.add(tables[array], pairs[array], row - start, own, cells)
            for place in others:
                values = tables[place.array][place.row, row - start : row - start + len(own)]
                out = sums[place.cell : place.cell + place.cells]
                if place.digit is not None:
                    low_bit, digits = place.digit
                    _add_digits(values, low_bit, (1 << digits) - 1, own, out)
                else:
                    _add_values(values, own, out)
    for array, cells in joint.items():
        tiles.tell_apart(pairs[array], cells, sums)
    return sums[:, :count]


def _binned(places: Sequence[_Place]) -> tuple[dict[int, list[tuple[int, int, int]]], list[_Place]]:
    """Columns of codes by array, (row, bins, first cell) of each; and all others."""
    found: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    others = []
    for place in places:
        if place.bins and place.digit is None:
            found[place.array].append((place.row, place.bins, place.cell))
        else:
            others.append(place)
    return found, others


class _Hints:
    """Hints by cell, (cells, 1, DEGREE), of some slices of columns, over the rows that it was given; of
    pairs (cells, limbs, DEGREE), not carried."""

    def __init__(self, public: PublicRows, slices: Sequence[_Place]) -> None:
        from vfl.crypto.lattice import lanes  # which imports numba

        self._public, self._slices, self._first = public, slices, slices[0].cell
        cells = slices[-1].cell + slices[-1].cells - self._first
        size = public.limbs.number * lanes.ROWS * lanes.ROW
        parts = public.limbs.number if public.limbs.bits > MODULUS_BITS else 1
        self._sums = {place.cell: lanes.aligned(size) for place in slices if place.bins}  # not rounded
        self._room = lanes.Room.new()
        self._summed = 0  # polynomials
        self._hints = np.zeros((cells, parts, DEGREE), np.uint64)

    def add(self, start: int, *codes: Array) -> None:
        """Add the rows of a block, which begins with row `start`."""
        from vfl.crypto.lattice import lanes

        stop = start + codes[0].shape[-1]
        tables = _tables(codes)
        numbers = range(start // DEGREE, -(-stop // DEGREE))
        for chunk in (numbers[i : i + _CHUNK] for i in range(0, len(numbers), _CHUNK)):
            if self._summed + len(chunk) > _FLUSH:
                self._settle()
            self._summed += len(chunk)
            transforms = self._public.of(chunk)
            flat = transforms.view(np.float64).reshape(-1)
            low = max(start, chunk.start * DEGREE)
            high = min(stop, chunk.stop * DEGREE)
            rows, last = np.full(len(chunk) * DEGREE, -1), None
            for place in self._slices:
                own = tables[place.array][place.row, low - start : high - start]
                if not place.bins:
                    at = place.cell - self._first
                    made = _hint_of_values(place.codes(own), low % DEGREE, transforms)
                    self._hints[at] += made
                    continue
                if last != (column := replace(place, cell=0, first=0, cells=0)):
                    rows[low % DEGREE :][: high - low] = place.codes(own)
                    last = column
                lanes.add_hints(rows, place.first, flat, self._sums[place.cell], self._room)

    def total(self) -> Words:
        """The hints, modulo 2^64."""
        self._settle()
        return self._hints

    def _settle(self) -> None:
        from vfl.crypto.lattice import lanes

        room, parts = self._room, self._hints.shape[1]
        for place in self._slices if self._summed else ():
            if place.bins:
                own = self._hints[place.cell - self._first :][: place.cells]
                limbs = self._sums[place.cell].reshape(self._public.limbs.number, -1)
                # Of words of 64 bits all limbs are added up at once, of others one by one.
                for part, together in enumerate(np.split(limbs, parts)):
                    room.words[:] = 0
                    for limb, sums in enumerate(together):
                        lanes.settle(sums, 32 * limb, room.words, room)
                    own[:, part] += room.words.reshape(2, DEGREE, -1)[0].T[: place.cells]
                limbs[:] = 0
        ring.check(room.distance)
        self._summed = 0


def _cut(codes: NDArray[np.integer], offset: int) -> Iterator[tuple[int, NDArray[np.integer]]]:
    """The codes by polynomial, of which the first begins so far into its own: where each begins."""
    first = 0
    while first < len(codes):
        last = min(first + DEGREE - offset, len(codes))
        yield offset, codes[first:last]
        first, offset = last, 0


def _hint_of_values(codes: NDArray[np.integer], offset: int, public: ring.Complexes) -> Words:
    """The hint (1, DEGREE) of one row of integers."""
    # Digits of 8 bits: longer ones would leave the products too little precision.
    high = codes.astype(np.int32) >> 8
    out = _hint_of_digits(codes.astype(np.int32) - (high << 8), offset, public)
    if high.any():
        out += _hint_of_digits(high, offset, public) << np.uint64(8)
    return out


def _hint_of_digits(values: NDArray[np.int32], offset: int, public: ring.Complexes) -> Words:
    """The hint (1, DEGREE) of one row of integers below 2^8 in size."""
    out = np.zeros((1, DEGREE), np.uint64)
    sums = np.zeros((1, 2, ring.HALF), np.complex128)
    for done, (transform, (at, own)) in enumerate(zip(public, _cut(values, offset), strict=True), 1):
        row = np.zeros(DEGREE, np.int32)
        row[at : at + len(own)] = own
        _gather(transform, ring.small(row[np.newaxis]), sums)
        if done % _FLUSH_VALUES == 0 or done == len(public):
            out += ring.settle64(sums)
            sums = np.zeros_like(sums)
    return out


@kernel
def _gather(public: ring.Complexes, rows: ring.Complexes, sums: ring.Complexes) -> None:
    # Conjugates: the transform of a(1/X), so that a coefficient pairs row i with row i of a X^m.
    for b in range(len(rows)):
        for limb in range(2):
            for i in range(ring.HALF):
                sums[b, limb, i] += np.conj(public[limb, i]) * rows[b, i]


@kernel
def _add_digits(integers: NDArray[np.integer], low: int, mask: int, tile: Words, out: Words) -> None:
    for i in range(len(integers)):
        code = (np.int64(integers[i]) >> low) & mask
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
    for o in range(out.shape[0]):
        for j in range(starts[o], starts[o + 1]):
            weight = np.uint64(weights[j])
            for i in range(out.shape[1]):
                out[o, i] += weight * cells[at[j], i]
