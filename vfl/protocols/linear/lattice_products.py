"""A host's X^T r for the guest's residuals r, which only the host may know; over the lattice engine.

The same steps as in products.py, with the sums of common/lattice_sums.py. X and r are integers, as
there, and cut into digits, so that sums fit beside noise and flooding:

 - the guest rounds r (rounding.py) and cuts it into as few digits as it needs, each as long as the rows
   allow, and each a vector;
 - a host's matrix has a row of 0/1 for each level, and one for each bit of a number in two's
   complement, which it adds up by cells of four bits.

 a. The guest encrypts four times the digits, once for all hosts, and sends them.
 b. A host adds up, adds masks uniform among all words, so that whatever the guest has encrypted it reads
    nothing, and sends the sums.
 c. The guest decrypts, and sends back of each word the bits above the noise that such a sum can have.
    The host takes the masks off, rounds to multiples of four and puts the digits together: X^T r,
    exactly.

What goes back tells the host nothing of the noise, which would say something about the secret of the
vectors: before the guest cuts the noise off it adds a number that is uniform among all that are cut off.
So a cut word differs from the one without noise in its last bit, by chance, and the noise changes that
chance by some 2^-17 (it is 2^-12 of the flooding, which is 2^-5 of what is cut off). The two bits below
the sums' unit are for that bit. What is added has a place for each query and host: a host that had two
words with one number added would have the difference of their noise.

The guest cannot see into what it decrypts for a host, as under Paillier's encryption: one that does not
follow the protocol can have another matrix, and learns of residuals as much as its sums have bits. These
sums are more here, some 30 for each number. A hint that is of no matrix would tell it
the secrets of vectors, some thirty bits by each sum, and so the residuals of all rows from a few hundred
sums on: the trial on zeros finds such a hint (common/lattice_hints.py).
"""

import asyncio
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats, Integers, Words
from vfl.blocks.engine import ENGINE
from vfl.crypto.lattice.matrix import CellMatrix, CodedColumn, Outputs
from vfl.crypto.lattice.parameters import MODULUS_BITS
from vfl.crypto.randomness import Entropy, Stream
from vfl.errors import ConfigError, DataError
from vfl.learn.matrix import FRACTION_BITS, Matrix
from vfl.learn.params import GlmParams
from vfl.net.peer import Peer, together
from vfl.net.wire import MIB, Message
from vfl.protocols.common import lattice_sums
from vfl.protocols.common.clock import Clock
from vfl.protocols.common.lattice_hints import (
    HintProgress,
    HostHints,
    KeptHints,
    guest_meet,
    host_meet,
)
from vfl.protocols.common.lattice_host import HostProducts
from vfl.protocols.common.lattice_sums import (
    MOST_OUTPUTS,
    Entries,
    GuestProducts,
    Query,
    Shape,
)
from vfl.protocols.common.mask_streams import SEED, MaskStream
from vfl.protocols.common.participant import Resources
from vfl.protocols.linear.encrypted_product import check_products
from vfl.protocols.linear.products import (
    Gradient,
    GuestGradients,
    LevelSums,
    check_lengths,
)
from vfl.protocols.linear.rounding import Rounded, bits_of_sums, largest_size, most_bits, number_bits

ROW_BITS = 40
"""Bits of a row's rounded residual at most, sign not counted: as precise as scores are."""

_ROUNDED_BITS = 2  # of a sum below its unit: what cutting a word can change
_UNDER_BITS = _ROUNDED_BITS + 1  # by which digits are shorter than vectors' entries: a spare bit of sums

_AT_ONCE = 1 << 20  # rows that are cut at a time
_CODE = (0, 16)
"""Of a factor's code, all bits."""
_CELL_BITS = 4
"""Of a number, added up by cells: with fewer bits sums take longer, with more the hint."""


class OpenedSums(Message, frozen=True):
    """guest -> host. Reveals: with the masks that only this host knows, its own gradient: the product of
    its columns with the residuals, which depend on the labels. No more bits than such sums have."""

    sums: bytes  # uint64 little-endian, (vectors, outputs), the lowest bits of each
    scale: float  # of the residuals
    bits: int = 0  # of each sum
    limit: ClassVar[int] = 16 * MIB


class OpenedCellSums(Message, frozen=True):
    """guest -> host. Reveals: with the masks that only this host knows, for cells that it has chosen,
    the sums of the residuals of the rows that have a level of the guest's and one of the host's; before
    the first iteration, for all levels of a pair, how many rows these are."""

    sums: bytes  # uint64 little-endian, level by level (vectors, cells), the lowest bits of each
    scale: float  # of the residuals
    bits: int  # of each sum
    limit: ClassVar[int] = 16 * MIB


@dataclass(frozen=True)
class Digits:
    """How residuals are cut: digits to an odd base, of at most (base - 1) / 2 whatever their sign."""

    count: int
    value_bits: int  # of a digit, its sign counted

    @classmethod
    def of(cls, rows: int) -> "Digits":
        """The fewest that sums over so many rows allow, and of these the shortest.

        Raises ConfigError for too many rows.
        """
        try:
            most = Shape.most_bits(rows, 1) - _UNDER_BITS
            if most < 2:
                raise ValueError(f"sums over {rows:,} rows leave no bit beside the sign")
        except ValueError as error:
            raise ConfigError(
                f'encryption = "lattice" of [glm] is not for so many rows: {error}',
                for_peer="its job has too many rows for its encryption",
            ) from None
        count = next(count for count in range(1, 2 * ROW_BITS) if cls(count, most).bits >= ROW_BITS)
        shortest = next(bits for bits in range(2, most + 1) if cls(count, bits).bits >= ROW_BITS)
        return cls(count, shortest)

    @property
    def base(self) -> int:
        return (1 << self.value_bits) - 1

    @property
    def bits(self) -> int:
        """Bits that an integer may have, its sign not counted, without needing more digits."""
        return int((self.base**self.count - 1) // 2).bit_length() - 1

    def of_size(self, greatest: int) -> "Digits":
        """As many of these as integers up to `greatest` need."""
        counts = range(1, self.count + 1)
        return next(
            digits
            for digits in (Digits(count, self.value_bits) for count in counts)
            if 2 * greatest < self.base**digits.count or digits.count == self.count
        )

    def cut(self, integers: Integers) -> NDArray[np.signedinteger]:
        """The digits, the lowest first: (count, rows) of (rows,)."""
        half = self.base // 2
        digits = np.empty((self.count, len(integers)), np.int32 if self.value_bits <= 32 else np.int64)
        for first in range(0, len(integers), _AT_ONCE):
            some = integers[first : first + _AT_ONCE]
            for part in digits[:, first : first + _AT_ONCE]:
                digit = (some + half) % self.base - half
                part[:] = digit
                some = (some - digit) // self.base
        return digits

    def join(self, sums: Integers) -> list[int]:
        """The sums of whole numbers, from the sums (count, outputs) of their digits."""
        return [
            sum(value * self.base**place for place, value in enumerate(column))
            for column in sums.T.tolist()
        ]


@dataclass(frozen=True)
class CutResiduals:
    """Residuals in as many digits as they need."""

    rounded: Rounded
    digits: NDArray[np.signedinteger]  # shape (digits, rows)
    bits: int  # of a digit's sums

    @classmethod
    def of(cls, rounded: Rounded, most: Digits) -> "CutResiduals":
        greatest = int(largest_size(rounded.integers))
        digits = most.of_size(greatest).cut(rounded.integers)
        return cls(rounded, digits, bits_of_sums(digits))

    def labels(self, outputs: int) -> int:
        """How many labels a host of so many sums could read at most: the bits of all of them."""
        return outputs * len(self.digits) * (self.bits + _ROUNDED_BITS)


def labels_of(matrix: Matrix, residuals: Rounded, cells: int = 0) -> int:
    """How many labels a host with this matrix, and so many cells across parties, could read at most."""
    outputs = sum(matrix.levels) + sum(bits + 1 for bits in matrix.bits) + cells
    return CutResiduals.of(residuals, Digits.of(matrix.rows)).labels(outputs)


def most_labels(columns: int, rows: int) -> int:
    """How many labels a host could read at most in an iteration, if all its columns are numbers."""
    digits = Digits.of(rows)
    bits = most_bits(rows, digits.value_bits - 1) + _ROUNDED_BITS
    return columns * _most_bits(rows) * digits.count * bits


def fit_shape(rows: int, params: GlmParams, levels: Sequence[int] = ()) -> tuple[Digits, Shape]:
    """How residuals are cut, and the vectors of a fit in which sums are by so many levels of columns of
    the guest's, too. Raises ConfigError for too many rows."""
    digits = Digits.of(rows)
    vectors = digits.count * params.gradients * (1 + sum(levels)) + sum(levels)
    return digits, Shape(rows, digits.value_bits + _UNDER_BITS, vectors)


# --------------------------------------------------------------------------------------- guest


@asynccontextmanager
async def lattice_guest(
    hosts: Sequence[Peer],
    rows: int,
    params: GlmParams,
    resources: Resources,
    clock: Clock,
    hints: KeptHints,
    hint_progress: HintProgress,
    levels: Sequence[int] = (),
) -> AsyncIterator[GuestGradients]:
    """The guest's side for so many rows that train; `levels` as of `fit_shape`. Raises ConfigError for
    too many rows."""
    shape = fit_shape(rows, params, levels)
    gradients = _LatticeGuest(hosts, rows, shape, resources, clock)
    gradients.hints, gradients.hint_progress = hints, hint_progress
    try:
        yield gradients
    finally:
        gradients.end()


class _LatticeGuest(GuestGradients):
    hints: KeptHints
    hint_progress: HintProgress

    def __init__(
        self,
        hosts: Sequence[Peer],
        rows: int,
        shape: tuple[Digits, Shape],
        resources: Resources,
        clock: Clock,
    ) -> None:
        self._hosts, self._rows, self._clock = hosts, rows, clock
        self._digits, self._shape = shape
        self._resources, self._opened = resources, 0  # queries
        self._scale_bits = self._shape.parameters(1).scale_bits
        self._products: GuestProducts | None = None
        self._outputs: dict[str, int] = {}  # sums of each host
        self._cut: CutResiduals | None = None

    async def greet(self) -> None:
        return

    async def meet(self, columns: Mapping[str, int]) -> None:
        def accept(host: Peer, count: int) -> None:
            # More would be opened for another purpose than its columns.
            if not columns[host.name] <= count <= columns[host.name] * _most_bits(self._rows):
                raise host.breach("a HintOffered of other sums than its columns have")
            self._outputs[host.name] = count

        self._products, _ = await guest_meet(
            self._hosts,
            self._shape,
            resources=self._resources,
            shelf=self.hints,
            timed=self._clock.timed,
            progress=self.hint_progress,
            accept=accept,
        )

    def labels(self, residuals: Rounded) -> Mapping[str, int]:
        self._cut = CutResiduals.of(residuals, self._digits)
        return {name: self._cut.labels(outputs) for name, outputs in self._outputs.items()}

    async def open(self, residuals: Rounded) -> None:
        if (products := self._products) is None:
            raise ValueError("no hints: hosts were not met")
        cut, self._cut = self._cut, None  # rows are many
        if cut is None or cut.rounded is not residuals:
            cut = CutResiduals.of(residuals, self._digits)
        digits, bits = cut.digits, cut.bits
        # a. Encrypted digits.
        held = await asyncio.to_thread(ENGINE.hold, digits)
        words = await products.query_words(Entries(len(digits), _shifted, (held,)))
        for host in products.hosts:
            self._clock.seconds[host.name] += products.seconds.pop(host.name, 0.0)
        # c. Decrypted for their host.
        opened, drowning = [], self._drowning()
        for host, own in zip(products.hosts, words, strict=True):
            told = cut_words(own, self._scale_bits, bits, drowning[host.name])
            data = told.astype("<u8").tobytes()
            opened.append(host.send(OpenedSums(data, residuals.scale, bits)))
        await together(opened)

    async def open_levels(self, asked: LevelSums) -> None:
        if (products := self._products) is None:
            raise ValueError("no hints: hosts were not met")
        cut = CutResiduals.of(asked.numbers, self._digits)
        digits, count = cut.digits, len(cut.digits)
        held = await asyncio.to_thread(ENGINE.hold, digits)
        codes = await asyncio.to_thread(ENGINE.hold, asked.codes[np.newaxis])
        for some in _queries(max(map(len, asked.wanted.values()), default=0), count):
            kernel = partial(_of_levels, some)
            words = await products.query_words(Entries(count * len(some), kernel, (held, codes)))
            for host in products.hosts:
                self._clock.seconds[host.name] += products.seconds.pop(host.name, 0.0)
            opened, drowning = [], self._drowning()
            for host, own in zip(products.hosts, words, strict=True):
                wanted = asked.wanted.get(host.name, ())[some.start : some.stop]
                if any(wanted):
                    words_of = _cells_of(own, wanted, count)
                    told = cut_words(words_of, self._scale_bits, cut.bits, drowning[host.name])
                    data = told.astype("<u8").tobytes()
                    opened.append(host.send(OpenedCellSums(data, asked.numbers.scale, cut.bits)))
            await together(opened)

    def _drowning(self) -> dict[str, Stream]:
        """What noise is drowned in of the words that the next query has opened, by host."""
        self._opened += 1
        names, randomness = (host.name for host in self._hosts), self._resources.randomness
        return {name: randomness.at("drowned noise", name, self._opened) for name in names}

    def cell_labels(self, cells: int, residuals: Rounded) -> int:
        if self._cut is None or self._cut.rounded is not residuals:
            self._cut = CutResiduals.of(residuals, self._digits)
        return self._cut.labels(cells)

    def end(self) -> None:
        if self._products is not None:
            self._products.end()


def _queries(levels: int, digits: int) -> list[range]:
    """The levels, by their places, whose vectors of so many digits go into one query each."""
    most = max(1, lattice_sums.BATCH // digits)
    return [range(first, min(first + most, levels)) for first in range(0, levels, most)]


def _of_levels(places: range, digits: NDArray[np.signedinteger], codes: NDArray[np.uint16]) -> Integers:
    """The digits of the rows that have each of some levels, zero elsewhere, level by level."""
    shifted = _shifted(digits)
    return np.concatenate([np.where(codes == place + 1, shifted, 0) for place in places])


def _cells_of(words: Words, wanted: Sequence[Sequence[int]], digits: int) -> Words:
    """Of words (levels times digits, outputs) those of the cells that are wanted, level by level."""
    by_level = words.reshape(-1, digits, words.shape[1])
    parts = [own[:, list(columns)].ravel() for own, columns in zip(by_level, wanted, strict=True)]
    return np.concatenate([np.empty(0, np.uint64), *parts])


def _shifted(digits: NDArray[np.signedinteger]) -> Integers:
    return digits.astype(np.int64) << _ROUNDED_BITS


# ---------------------------------------------------------------------------------------- host


@asynccontextmanager
async def lattice_host(
    guest: Peer,
    matrix: Matrix,
    params: GlmParams,
    resources: Resources,
    hints: HostHints,
    hint_progress: HintProgress,
    levels: Sequence[int] = (),
) -> AsyncIterator[Gradient]:
    """The host's side, for the matrix of the rows that train; `levels` as of `fit_shape`.

    Raises DataError for a matrix that is too large, ConfigError for too many rows.
    """
    digits, shape = fit_shape(matrix.rows, params, levels)
    try:
        bits_of = await asyncio.to_thread(BitMatrix.of, matrix)
        check_lengths(matrix)
    except ValueError as error:
        raise DataError(f'columns cannot be used under encryption = "lattice": {error}') from None
    products = await host_meet(
        guest,
        lambda secret: bits_of.matrix,
        len(bits_of.matrix.outputs),
        shape,
        resources=resources,
        hints=hints,
        progress=hint_progress,
    )

    try:
        stream = MaskStream(resources.randomness.at("seed of masks")(SEED))
        yield _LatticeGradient(guest, products, bits_of, digits, shape, stream)
    finally:
        products.end()


class _LatticeGradient(Gradient):
    def __init__(
        self,
        guest: Peer,
        products: HostProducts,
        bits_of: "BitMatrix",
        digits: Digits,
        shape: Shape,
        stream: MaskStream,
    ) -> None:
        self._guest, self._products, self._matrix, self._digits = guest, products, bits_of, digits
        self._scale_bits = shape.parameters(1).scale_bits
        self._stream = stream
        self._cut = 1  # digits of numbers that follow by level: those of the last residuals

    async def __call__(self, bits: int) -> Floats:
        # b. Sums under masks; opened by the guest; unmasked.
        guest, digits = self._guest, self._digits
        query = await guest.recv(Query)
        if query.vectors > digits.count:
            raise guest.breach("a Query of more vectors than residuals have digits")
        self._cut = query.vectors
        masks = await self._products.serve(query, stream=self._stream)
        opened = await guest.recv(OpenedSums)
        sums = self._uncovered(opened, opened.sums, masks)
        try:
            return self._matrix.product(digits.join(sums), opened.scale, bits)
        except ValueError as error:
            raise guest.breach(f"OpenedSums with {error}") from None

    async def of_levels(self, wanted: Sequence[Sequence[int]], bits: int) -> list[Floats]:
        guest, count, found = self._guest, self._cut, list[Floats]()
        for some in _queries(len(wanted), count):
            query = await guest.recv(Query)
            if query.vectors != count * len(some):
                raise guest.breach("a Query of another number of vectors than levels have digits")
            masks = await self._products.serve(query, stream=self._stream)
            columns = wanted[some.start : some.stop]
            if not any(columns):
                found += [np.empty(0)] * len(some)
                continue
            opened = await guest.recv(OpenedCellSums)
            sums = self._uncovered(opened, opened.sums, _cells_of(masks, columns, count))
            first = 0
            for own in columns:
                part = sums[first : first + count * len(own)].reshape(count, len(own))
                first += part.size
                values = self._digits.join(part)
                try:
                    check_products(values, bits)
                except ValueError as error:
                    raise guest.breach(f"OpenedCellSums with {error}") from None
                found.append(np.array([float(value) for value in values]) / opened.scale)
        return found

    def _uncovered(self, opened: OpenedSums | OpenedCellSums, data: bytes, masks: Words) -> Integers:
        """The sums under these masks that the guest has opened."""
        guest, kind = self._guest, type(opened).__name__
        if len(data) != masks.nbytes or not (math.isfinite(opened.scale) and opened.scale > 0):
            raise guest.breach(f"{kind} of another number than asked for")
        if not 2 <= opened.bits <= MODULUS_BITS - self._scale_bits - _ROUNDED_BITS:
            raise guest.breach(f"{kind} of other bits than sums can have")
        words = np.frombuffer(data, "<u8").astype(np.uint64).reshape(masks.shape)
        try:
            return uncovered(words, masks, self._scale_bits, opened.bits)
        except ValueError as error:
            raise guest.breach(f"{kind} with {error}") from None


def cut_words(words: Words, scale_bits: int, bits: int, entropy: Entropy) -> Words:
    """What goes back to a host of the words that the guest has read: of each the bits of a sum, `bits`
    and the rounded ones, above a noise that is drowned.

    Words are four times a sum times 2^scale_bits, plus noise, plus what the host has added. `entropy`
    drowns the noise.
    """
    drown = np.frombuffer(entropy(words.nbytes), "<u8").astype(np.uint64).reshape(words.shape)
    drowned = words + (drown >> np.uint64(MODULUS_BITS - scale_bits))
    kept = np.uint64((1 << (bits + _ROUNDED_BITS)) - 1)
    return np.asarray((drowned >> np.uint64(scale_bits)) & kept)


def uncovered(cut: Words, masks: Words, scale_bits: int, bits: int) -> Integers:
    """The sums in words that the guest has cut, under these masks.

    The word was 2^t 4 s + e + m, with the noise e below 2^t / 4 whatever its sign, and a number d below
    2^t was added before it was cut. So a cut word is beyond 4 s and the mask's own part by -1 to 2.
    Raises ValueError for what cannot be sums of so many bits.
    """
    kept = bits + _ROUNDED_BITS
    modulus = np.uint64((1 << kept) - 1)
    if (cut > modulus).any():
        raise ValueError("more bits than were asked for")
    beyond = (cut - (masks >> np.uint64(scale_bits)) + np.uint64(1)) & modulus
    # Signed, of `kept` bits.
    up = np.uint64(MODULUS_BITS - kept)
    sums = (beyond << up).view(np.int64) >> np.int64(MODULUS_BITS - bits)
    if (np.abs(sums) >> np.int64(bits - 2)).any():
        raise ValueError("numbers that are no masked sums")
    return np.asarray(sums)


@dataclass(frozen=True)
class BitMatrix:
    """A design matrix by bits: the matrix of what is summed, and how its sums make a product."""

    matrix: CellMatrix
    levels: int
    bits: tuple[int, ...]  # of each number, its sign counted

    @classmethod
    def of(cls, own: Matrix) -> "BitMatrix":
        """Cut a design matrix. Raises ValueError, with the numbers, for more sums than there may be."""
        most = _most_bits(own.rows)
        if max(own.bits, default=0) >= most:
            raise ValueError(f"a number of {max(own.bits)} bits, where {most - 1} are the most")
        bits = tuple(magnitude + 1 for magnitude in own.bits)
        count = sum(own.levels) + sum(bits)
        if count > MOST_OUTPUTS:
            raise ValueError(
                f"{count:,} sums, one a level and some 30 a number, are more than {MOST_OUTPUTS:,}"
            )
        columns: list[CodedColumn] = []
        cells: list[list[int]] = []  # that each sum adds up
        first = 0
        for row, levels in enumerate(own.levels):
            columns.append(CodedColumn(own.codes, levels + 1, row, (0, levels), _CODE))
            cells += [[first + level] for level in range(1, levels + 1)]
            first += levels + 1
        integers = own.integers
        for row, width in enumerate(bits):
            for low in range(0, width, _CELL_BITS):
                digit = min(_CELL_BITS, width - low)
                columns.append(CodedColumn(integers, 1 << digit, row, digit=(low, digit)))
                bins = range(1 << digit)
                cells += [[first + cell for cell in bins if cell >> bit & 1] for bit in range(digit)]
                first += 1 << digit
        starts = np.cumsum([0, *map(len, cells)])
        at = np.array([cell for one in cells for cell in one], np.int64)
        return cls(CellMatrix(columns, Outputs(starts, at, np.ones_like(at))), sum(own.levels), bits)

    @property
    def places(self) -> list[tuple[int, int, int]]:
        """Of each sum the column that it is of, and by which power of two it counts, with its sign."""
        return places_of(self.levels, self.bits)

    def product(self, sums: Sequence[int], scale: float, bits: int) -> Floats:
        """X^T r, shape (columns,), of all sums of r, which was multiplied by `scale`.

        Raises ValueError for products of more than so many bits, a number's of a number's bits.
        """
        check_products(sums[: self.levels], bits)
        values = [float(value) / scale for value in sums[: self.levels]]
        first = self.levels
        for width in self.bits:
            own = sums[first : first + width]
            first += width
            # Two's complement: the highest bit counts negative.
            whole = sum(value << bit for bit, value in enumerate(own[:-1])) - (own[-1] << (width - 1))
            check_products([whole], number_bits(bits))
            values.append(float(whole) / (scale * 2.0**FRACTION_BITS))
        return np.array(values)


def places_of(levels: int, bits: Sequence[int]) -> list[tuple[int, int, int]]:
    """`BitMatrix.places` of so many levels, and numbers of so many bits."""
    found = [(level, 0, 1) for level in range(levels)]
    for column, width in enumerate(bits, start=levels):
        found += [(column, bit, 1) for bit in range(width - 1)] + [(column, width - 1, -1)]
    return found


def _most_bits(rows: int) -> int:
    """The most bits that a number has, with its sign: among so many rows none is further from their mean
    than the root of their number times the deviation."""
    return FRACTION_BITS + math.isqrt(rows).bit_length() + 2
