"""A host's X^T r for the guest's residuals r, which only the host may know; over the lattice engine.

The same steps as in products.py, with the sums of common/lattice_sums.py. X and r are integers, as
there, and cut into digits, so that sums fit beside noise and flooding:

 - the guest rounds r to ROW_BITS and cuts it into a few digits, as long as the rows allow: each is a
   vector;
 - a host's matrix has a row of 0/1 for each level, and one for each bit of a number in two's
   complement, which it adds up by cells of four bits.

 a. The guest encrypts the digits, once for all hosts, and sends them.
 b. A host adds up, adds masks uniform among all values that the guest can read, and sends the sums,
    flooded.
 c. The guest decrypts and sends them back. The host takes the masks off and puts the digits together:
    X^T r, exactly.

The guest cannot see into what it decrypts for a host, as under Paillier's encryption: one that does not
follow the protocol can have a matrix of single rows and learn their residuals, of one or two for each of
its sums. These are more here, some 30 for each number. A hint that is of no matrix would tell it
the secrets of vectors, some thirty bits by each sum, and so the residuals of all rows from a few hundred
sums on: the trial on zeros finds such a hint (common/lattice_hints.py).
"""

import asyncio
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from vfl.arrays import Floats, Integers
from vfl.crypto.lattice.matrix import CellMatrix, CodedColumn, Outputs
from vfl.errors import ConfigError, DataError
from vfl.learn import design
from vfl.learn.design import FRACTION_BITS
from vfl.learn.params import GlmParams
from vfl.net.peer import Peer, together
from vfl.net.wire import MIB, Message
from vfl.protocols.common.clock import Clock
from vfl.protocols.common.lattice_hints import (
    HintProgress,
    HostHints,
    KeptHints,
    guest_meet,
    host_meet,
)
from vfl.protocols.common.lattice_sums import MOST_OUTPUTS, GuestProducts, Query, Shape
from vfl.protocols.common.participant import Resources
from vfl.protocols.linear.products import Gradient, GuestGradients, quantise

ROW_BITS = 40
"""Bits of a row's quantised residual, sign not counted: as precise as scores are."""

_CELL_BITS = 4
"""Of a number, added up by cells: with fewer bits sums take longer, with more the hint."""


class OpenedSums(Message, frozen=True):
    """guest -> host. Reveals: with the masks that only this host knows, its own gradient: the product of
    its columns with the residuals, which depend on the labels."""

    sums: bytes  # int64 little-endian, (vectors, outputs)
    scale: float  # of the residuals
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
            most = Shape.most_bits(rows, 1)
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

    def cut(self, integers: Integers) -> Integers:
        """The digits, the lowest first: (count, rows) of (rows,)."""
        half, digits = self.base // 2, []
        for _ in range(self.count):
            digit = (integers + half) % self.base - half
            digits.append(digit)
            integers = (integers - digit) // self.base
        return np.array(digits)

    def join(self, sums: Integers) -> list[int]:
        """The sums of whole numbers, from the sums (count, outputs) of their digits."""
        return [
            sum(value * self.base**place for place, value in enumerate(column))
            for column in sums.T.tolist()
        ]


def fit_shape(rows: int, params: GlmParams) -> tuple[Digits, Shape]:
    """How residuals are cut, and the vectors of a fit. Raises ConfigError for too many rows."""
    digits = Digits.of(rows)
    return digits, Shape(rows, digits.value_bits, digits.count * (params.max_iterations + 1))


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
) -> AsyncIterator[GuestGradients]:
    """The guest's side for so many rows that train. Raises ConfigError for too many of them."""
    gradients = _LatticeGuest(hosts, rows, params, resources, clock)
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
        params: GlmParams,
        resources: Resources,
        clock: Clock,
    ) -> None:
        self._hosts, self._rows, self._clock = hosts, rows, clock
        self._digits, self._shape = fit_shape(rows, params)
        self._operations = resources.operations
        self._products: GuestProducts | None = None

    async def greet(self) -> None:
        return

    async def meet(self, columns: Mapping[str, int]) -> None:
        def accept(host: Peer, count: int) -> None:
            # More would be opened for another purpose than its columns.
            if not columns[host.name] <= count <= columns[host.name] * _most_bits(self._rows):
                raise host.breach("a HintOffered of other sums than its columns have")

        self._products, _ = await guest_meet(
            self._hosts,
            self._shape,
            shelf=self.hints,
            operations=self._operations,
            timed=self._clock.timed,
            progress=self.hint_progress,
            accept=accept,
        )

    async def open(self, residuals: Floats) -> None:
        integers, scale = quantise(residuals, ROW_BITS)
        if (products := self._products) is None:
            raise ValueError("no hints: hosts were not met")
        # a. Encrypted digits.
        sums = await products.query(
            self._digits.count, lambda start, stop: self._digits.cut(integers[start:stop]), hidden=True
        )
        for host in products.hosts:
            self._clock.seconds[host.name] += products.seconds.pop(host.name, 0.0)
        # c. Decrypted for their host.
        await together(
            [
                host.send(OpenedSums(own.astype("<i8").tobytes(), scale))
                for host, own in zip(products.hosts, sums, strict=True)
            ]
        )

    def end(self) -> None:
        if self._products is not None:
            self._products.end()


# ---------------------------------------------------------------------------------------- host


@asynccontextmanager
async def lattice_host(
    guest: Peer,
    matrix: design.Matrix,
    params: GlmParams,
    resources: Resources,
    hints: HostHints,
    hint_progress: HintProgress,
) -> AsyncIterator[Gradient]:
    """The host's side, for the matrix of the rows that train.

    Raises DataError for a matrix that is too large, ConfigError for too many rows.
    """
    digits, shape = fit_shape(matrix.rows, params)
    try:
        bits = await asyncio.to_thread(_Bits.of, matrix)
    except ValueError as error:
        raise DataError(f'columns cannot be used under encryption = "lattice": {error}') from None
    products = await host_meet(
        guest,
        lambda secret: bits.matrix,
        len(bits.matrix.outputs),
        shape,
        hints=hints,
        operations=resources.operations,
        progress=hint_progress,
    )

    async def gradient() -> Floats:
        # b. Sums under masks; opened by the guest; unmasked.
        query = await guest.recv(Query)
        if query.vectors != digits.count:
            raise guest.breach("a Query of another number of vectors than residuals have digits")
        masks = await products.serve(query, hidden=True)
        opened = await guest.recv(OpenedSums)
        if len(opened.sums) != masks.nbytes or not (math.isfinite(opened.scale) and opened.scale > 0):
            raise guest.breach("OpenedSums of another number than asked for")
        try:
            sums = products.uncover(
                np.frombuffer(opened.sums, "<i8").astype(np.int64).reshape(masks.shape), masks
            )
        except ValueError as error:
            raise guest.breach(f"OpenedSums with {error}") from None
        return bits.product(digits.join(sums), opened.scale)

    try:
        yield gradient
    finally:
        products.end()


@dataclass(frozen=True)
class _Bits:
    """A design matrix by bits: the matrix of what is summed, and how its sums make a product."""

    matrix: CellMatrix
    levels: int
    bits: tuple[int, ...]  # of each number, its sign counted

    @classmethod
    def of(cls, own: design.Matrix) -> "_Bits":
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
        for codes, levels in zip(own.codes, own.levels, strict=True):
            columns.append(_column(codes, levels + 1))
            cells += [[first + level] for level in range(1, levels + 1)]
            first += levels + 1
        for integers, width in zip(own.integers, bits, strict=True):
            for low in range(0, width, _CELL_BITS):
                digit = min(_CELL_BITS, width - low)
                columns.append(_column(integers >> low & ((1 << digit) - 1), 1 << digit))
                bins = range(1 << digit)
                cells += [[first + cell for cell in bins if cell >> bit & 1] for bit in range(digit)]
                first += 1 << digit
        starts = np.cumsum([0, *map(len, cells)])
        at = np.array([cell for one in cells for cell in one], np.int64)
        return cls(CellMatrix(columns, Outputs(starts, at, np.ones_like(at))), sum(own.levels), bits)

    def product(self, sums: Sequence[int], scale: float) -> Floats:
        """X^T r, shape (columns,), of all sums of r, which was multiplied by `scale`."""
        values = [float(value) / scale for value in sums[: self.levels]]
        first = self.levels
        for width in self.bits:
            own = sums[first : first + width]
            first += width
            # Two's complement: the highest bit counts negative.
            whole = sum(value << bit for bit, value in enumerate(own[:-1])) - (own[-1] << (width - 1))
            values.append(float(whole) / (scale * 2.0**FRACTION_BITS))
        return np.array(values)


def _column(codes: Integers, bins: int) -> CodedColumn:
    return CodedColumn(codes.astype(np.uint8 if bins <= 1 << 8 else np.uint16), bins)


def _most_bits(rows: int) -> int:
    """The most bits that a number has, with its sign: among so many rows none is further from their mean
    than the root of their number times the deviation."""
    return FRACTION_BITS + math.isqrt(rows).bit_length() + 2
