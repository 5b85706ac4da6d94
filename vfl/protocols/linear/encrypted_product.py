"""X^T r under Paillier's encryption for a host's matrix X: sums, and how they lie in plaintexts.

The columns of X that are 0 or 1 for the levels of a factor need sums of r by level: a histogram, the
kernel of the trees. A numeric column's numbers are integers (multiples of 2^-FRACTION_BITS); written in
digits of w bits they are histograms as well, of 2^w cells, and the sum of d times cell d is a running
sum. So a number costs a product a row and digit, fewer where columns share joint cells
(learn/grouping.py), instead of a power a row.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats, Integers
from vfl.blocks.engine import ENGINE, Array
from vfl.crypto.paillier import Ciphertexts, PublicKey
from vfl.crypto.randomness import Randomness, Stream
from vfl.crypto.reserve import Reserve
from vfl.crypto.sums import pack_and_mask, positional_sums
from vfl.crypto.workers import SharedRows, Workers
from vfl.learn.matrix import FRACTION_BITS, Matrix
from vfl.protocols.common.histograms import HeldSums, JointSums

ROW_BITS = 50
"""Bits of a row's rounded residual at most, sign not counted."""

_HIDING_BITS = 64  # of a plaintext above all products, so that no mask is seen to wrap

_WINDOWS = range(4, 17)  # bits of a digit; codes are uint16
_MOST_BITS = 62  # of a number's magnitude, so that the least can be subtracted from the greatest


@dataclass(frozen=True)
class Layout:
    """How a host's products lie in plaintexts, each in as many bits, of which no others go back."""

    key_bits: int
    columns: int
    slot_bits: int

    @property
    def slots(self) -> int:
        """Products in a plaintext at most."""
        return (self.key_bits - 2 - _HIDING_BITS) // self.slot_bits

    @property
    def lengths(self) -> list[int]:
        """The bits of each plaintext that hold products."""
        counts = range(self.columns, 0, -self.slots)
        return [self.slot_bits * min(self.slots, left) for left in counts]

    @property
    def size(self) -> int:
        """Bytes of all that is given back."""
        return sum(-(-length // 8) for length in self.lengths)

    def cut(self, plaintexts: Sequence[int]) -> bytes:
        """What is given back of masked plaintexts, each from 0 to below n."""
        return b"".join(
            (plaintext & ((1 << length) - 1)).to_bytes(-(-length // 8), "big")
            for plaintext, length in zip(plaintexts, self.lengths, strict=True)
        )

    def masks(self, n: int, stream: Stream) -> list[int]:
        """A mask for each plaintext, with which no product wraps; all products then look positive."""
        return [self._positive(length) + stream.below(n - (1 << length)) for length in self.lengths]

    def whole(self, data: bytes, masks: Sequence[int]) -> list[int]:
        """The masked plaintexts, from what was given back and the masks of `masks`.

        Raises ValueError for more bits than were asked for.
        """
        plaintexts, first = [], 0
        for length, mask in zip(self.lengths, masks, strict=True):
            size = -(-length // 8)
            low, first = int.from_bytes(data[first : first + size], "big"), first + size
            if low >> length:
                raise ValueError("more bits than were asked for")
            random = mask - self._positive(length)
            plaintexts.append(random + (low - random) % (1 << length))
        return plaintexts

    def _positive(self, length: int) -> int:
        return sum(1 << (end - 1) for end in range(self.slot_bits, length + 1, self.slot_bits))


@dataclass(frozen=True)
class _NumericColumn:
    """A numeric column: where its digits' histograms lie, and its least integer."""

    digits: range  # of the columns that are summed
    window: int
    least: int


class EncryptedProduct:
    """X^T r under encryption, for one X and any number of r."""

    def __init__(
        self,
        workers: Workers[PublicKey],
        store: SharedRows,
        matrix: Matrix,
        randomness: Randomness,
        row_bits: int = ROW_BITS,
    ) -> None:
        """`matrix` has a column at least. `randomness`: of this X alone; a place in it is the number of
        an r, of which one comes after the other. `row_bits`: of a row's residual, sign not counted.

        Raises ValueError, with the numbers, when a product would not fit in a plaintext.
        """
        self._workers, self._matrix = workers, matrix
        self._randomness, self._masked = randomness, 0
        if max(matrix.bits, default=0) > _MOST_BITS:
            raise ValueError(f"a number of {max(matrix.bits)} bits, more than {_MOST_BITS}")
        self._numbers: list[_NumericColumn] = []
        sizes = [levels + 1 for levels in matrix.levels]
        integers = matrix.integers
        found = list(ENGINE.results(_bounds, integers))
        least = np.min([low for low, _ in found], axis=0, initial=0).tolist()
        most = np.max([high for _, high in found], axis=0, initial=0).tolist()
        for low, high in zip(least, most, strict=True):
            bits = max(1, (high - low).bit_length())
            window = _window(bits, matrix.rows)
            digits = -(-bits // window)
            self._numbers.append(_NumericColumn(range(len(sizes), len(sizes) + digits), window, low))
            sizes += [1 << min(window, bits - k * window) for k in range(digits)]
        self._offsets = np.cumsum([0, *sizes])
        self._codes = ENGINE.make(partial(_coded, self._numbers), matrix.codes, integers)
        self.sums: JointSums | HeldSums
        if workers.elsewhere is None:
            self.sums = JointSums(workers, store, sizes, 1)
        else:
            self.sums = HeldSums(workers, store, self._codes, sizes)
        self._slot_bits, self._slots = _slots(workers.key.bits, matrix, row_bits)
        secret = randomness.key_at("obfuscators")
        self._reserve = Reserve(workers, -(-matrix.columns // self._slots), secret)

    def group(self) -> None:
        """Find the joint cells: once, before the first rows are added to `sums`."""
        if isinstance(self.sums, JointSums):
            codes = np.asarray(ENGINE.gather(self._codes), np.uint16)
            self.sums.group(codes, np.zeros(self._matrix.rows, np.int64))

    async def add_all(self) -> None:
        """Add all rows of the store, which were checked."""
        if isinstance(self.sums, JointSums):
            await self.sums.add(0, self._matrix.rows)

    async def mask(
        self, layout: Layout | None = None, places: Sequence[int] | None = None
    ) -> tuple[Ciphertexts, list[int]]:
        """The product of the rows added to `sums`, packed and masked; and the masks. places: the columns
        that are wanted, if not all.

        Masks are uniform among all plaintexts, so that a decrypted ciphertext tells nothing; with a
        `layout`, by which whoever decrypts gives back a part, no sum wraps.
        """
        self._reserve.end()
        histogram = (await self.sums.histograms())[0]
        parts = [
            histogram[start + 1 : start + 1 + levels]
            for start, levels in zip(self._offsets.tolist(), self._matrix.levels, strict=False)
        ]
        tasks = [
            ([histogram[self._offsets[k] : self._offsets[k + 1]] for k in n.digits], n.window, n.least)
            for n in self._numbers
        ]
        products = np.concatenate([*parts, await positional_sums(self._workers, tasks)])
        if places is not None:
            products = products[list(places)]
        n, (slot_bits, slots) = int(self._workers.key.n), self._slots_of(layout)
        stream = self._randomness.at("masks", self._masked)
        self._masked += 1
        if layout is None:
            masks = [stream.below(n) for _ in range(-(-len(products) // slots))]
        else:
            masks = layout.masks(n, stream)
        masked = await pack_and_mask(self._reserve, products, slot_bits, slots, masks)
        self._reserve.begin()
        return masked, masks

    def _slots_of(self, layout: Layout | None) -> tuple[int, int]:
        if layout is None:
            return self._slot_bits, self._slots
        return layout.slot_bits, layout.slots

    def unmask(
        self,
        decrypted: Sequence[int],
        masks: Sequence[int],
        scale: float,
        layout: Layout | None = None,
    ) -> Floats:
        """X^T r, shape (columns,), from what the key's owner sent back; r was multiplied by `scale`.

        Raises ValueError for plaintexts that hold no such product.
        """
        n, (slot_bits, slots) = int(self._workers.key.n), self._slots_of(layout)
        if len(decrypted) != len(masks):
            raise ValueError("a wrong number of plaintexts")
        values: list[int] = []
        for plaintext, mask in zip(decrypted, masks, strict=True):
            count = min(slots, self._matrix.columns - len(values))
            values += unpacked((plaintext - mask) % n, n, slot_bits, count)
        levels = sum(self._matrix.levels)
        if layout is not None:
            check_products(values[:levels], slot_bits - FRACTION_BITS)
            check_products(values[levels:], slot_bits)
        unit = np.repeat([scale, scale * 2.0**FRACTION_BITS], [levels, len(self._numbers)])
        return np.asarray(np.array([float(value) for value in values]) / unit)


def _bounds(integers: Array) -> tuple[Integers, Integers]:
    """The least and the greatest of each covariate's integers."""
    return (
        integers.min(axis=1, initial=0).astype(np.int64),
        integers.max(axis=1, initial=0).astype(np.int64),
    )


def _coded(
    numbers: Sequence[_NumericColumn], codes: NDArray[np.uint16], integers: NDArray[np.integer]
) -> NDArray[np.uint16]:
    """A block's codes of factors, then the digits of numbers."""
    own = [codes]
    for column, values in zip(numbers, integers, strict=True):
        shifted, window = values.astype(np.int64) - column.least, column.window
        own += [
            (shifted >> (k * window) & ((1 << window) - 1)).astype(np.uint16)[np.newaxis]
            for k in range(len(column.digits))
        ]
    return np.concatenate(own)


def check_products(products: Sequence[int], bits: int) -> None:
    """Raises ValueError for products that take the spare of their bits."""
    if any(abs(product) >> (bits - 2) for product in products):
        raise ValueError("a plaintext that is no masked product")


def _window(bits: int, rows: int) -> int:
    """Bits of a digit that make the least products: one a row and digit, two a cell."""
    return min(_WINDOWS, key=lambda w: -(-bits // w) * (rows + (2 << w)))


def _slots(key_bits: int, matrix: Matrix, row_bits: int) -> tuple[int, int]:
    """Bits of a product and its sign, and how many lie side by side in a plaintext."""
    number_bits = max([1, *matrix.bits])
    slot_bits = _slot_bits(number_bits, matrix.rows, row_bits)
    slots = (key_bits - 2) // slot_bits
    if slots < 1:
        raise ValueError(
            f"products of {matrix.rows:,} rows and numbers of {number_bits} bits take {slot_bits} bits, "
            f"a plaintext has {key_bits - 2}"
        )
    return slot_bits, slots


def _slot_bits(number_bits: int, rows: int, row_bits: int) -> int:
    return row_bits + number_bits + rows.bit_length() + 2


def unpacked(plaintext: int, n: int, slot_bits: int, count: int) -> Iterator[int]:
    """The signed numbers that lie side by side in a plaintext modulo n."""
    half = 1 << (slot_bits - 1)
    biased = (plaintext if plaintext <= n // 2 else plaintext - n) + sum(
        half << (slot_bits * i) for i in range(count)
    )
    if biased < 0 or biased >> (slot_bits * count):
        raise ValueError("a plaintext that is no masked product")
    mask = (1 << slot_bits) - 1
    for i in range(count):
        yield (biased >> (slot_bits * i) & mask) - half
